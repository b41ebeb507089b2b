"""What all tests share: few threads, no outside settings, small pictures."""

import os
import shutil

import pytest

import hw2lib  # noqa: F401 - before torch, so that its threads do not spin

# isort: split
# The networks here are too small for more threads than one, in this process and in those that tests start: of two processes
# with two threads each on two cores, every step waits for threads that have no core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch


def pytest_collection_modifyitems(items):
    """Fast tests first: a mistake shows within the first minute. Of two processes one begins with the whole report."""
    beside = "PYTEST_XDIST_WORKER" in os.environ
    items.sort(key=lambda item: (beside and "smoke" not in item.fixturenames, bool(item.get_closest_marker("slow"))))


@pytest.fixture
def pictures():
    """48 random pictures, uint8 (48, 3, 32, 32)."""
    return torch.randint(0, 256, (48, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def browser():
    """A real browser, Chromium, driven by playwright."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("Chromium is not installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as play:
        yield play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
