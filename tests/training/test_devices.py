"""Device, precision and what they are called."""

import pytest
import torch

from hw2lib.training import TrainingError, devices


def test_machine_words_are_checked():
    """An unknown device or precision is refused with what would be right."""
    with pytest.raises(TrainingError, match='no device "gpu" here: say auto or one of cpu'):
        devices.machine("gpu")
    with pytest.raises(TrainingError, match='no precision "16": say auto, 32 or bf16'):
        devices.machine("cpu", "16")


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_the_precision_has_a_name(precision):
    """What was asked for is what the machine is said to compute in."""
    assert devices.precision_of(devices.machine("cpu", precision)) == precision


def test_a_gpu_is_called_by_its_name(monkeypatch):
    """The provenance of a run on a GPU names the card, and that of one on a CPU begins with cpu."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card of {device}")
    assert devices.device_name(torch.device("cuda", 0)) == "card of cuda:0"
    assert devices.device_name(torch.device("cpu")).startswith("cpu")
