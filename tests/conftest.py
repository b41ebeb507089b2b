"""What all tests share: few threads, no outside settings, small pictures."""

import os

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while others work cost minutes

import torch

torch.set_num_threads(1)  # the networks here are too small for more


def pytest_collection_modifyitems(items):
    """Fast tests first: a mistake shows within the first minute."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture
def pictures():
    """48 random pictures, uint8 (48, 3, 32, 32)."""
    return torch.randint(0, 256, (48, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
