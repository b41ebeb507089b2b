"""What all tests share: few threads, no outside settings, small pictures, and one whole report."""

from types import SimpleNamespace

import pytest

import hw2lib  # noqa: F401 - before torch, so that its threads do not spin

# isort: split
import torch

# The networks here are too small for more.
torch.set_num_threads(1)


def pytest_itemcollected(item):
    """Tests that share a report that takes long to build go to one process."""
    for name in ("smoke", "built"):
        if name in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group(name))


def pytest_collection_modifyitems(items):
    """Fast tests first: a mistake shows within the first minute."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture
def pictures():
    """48 random pictures, uint8 (48, 3, 32, 32)."""
    return torch.randint(0, 256, (48, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """The whole report, built once with the smoke preset: `build`, its documents, and `runs`, its run folders."""
    from hw2lib.report.build import build

    folder = tmp_path_factory.mktemp("smoke")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HW2_RUNS", str(folder / "runs"))
        build("smoke", out=folder / "build")
    return SimpleNamespace(build=folder / "build", runs=folder / "runs")
