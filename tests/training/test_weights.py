"""Weights files: what is not ours, not finite or cannot be written ends in one line."""

import errno
import json
import os

import pytest
from pydantic import BaseModel
from safetensors.torch import save_file
from torch import nn

from hw2lib.training import WeightsError, weights


class Config(BaseModel):
    width: int = 4


class Line(nn.Module):
    def __init__(self, config=None):
        super().__init__()
        self.config = config or Config()
        self.layer = nn.Linear(self.config.width, 1)


@pytest.mark.parametrize("about", ["[1]", "null", '"Line"', "{", "[" * 100_000, '{"model": ["Line"]}', "{}", "7"])
def test_a_file_that_is_not_ours_is_one_clear_line(about, tmp_path):
    """Whatever the metadata is where ours would be."""
    save_file(Line().state_dict(), tmp_path / "w.safetensors", {weights.KEY: about})
    with pytest.raises(WeightsError, match=r"w.safetensors (is no readable weights file of|holds .*, not) Line"):
        weights.load(tmp_path / "w.safetensors", Line, Config)


@pytest.mark.parametrize("config", [None, [], 7, "width", {"width": "wide"}, {"width": 5}, {"width": -1}])
def test_a_config_that_is_none_is_one_clear_line(config, tmp_path):
    """Or one of a network that the tensors are not of."""
    about = json.dumps({"model": "Line", "config": config})
    save_file(Line().state_dict(), tmp_path / "w.safetensors", {weights.KEY: about})
    with pytest.raises(WeightsError, match=r"w\.safetensors is no readable weights file of Line"):
        weights.load(tmp_path / "w.safetensors", Line, Config)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    """The line names the tensor."""
    model = Line()
    model.layer.bias.data.fill_(value)
    weights.save(model, tmp_path / "w.safetensors")
    for load in (lambda path: weights.load(path, Line, Config), lambda path: weights.load_into(Line(), path)):
        with pytest.raises(WeightsError, match=r"no readable weights file of Line: layer.bias is not finite"):
            load(tmp_path / "w.safetensors")


def test_a_folder_is_no_weights_file(tmp_path):
    """As with any file that cannot be read."""
    with pytest.raises(WeightsError, match="is no readable weights file of Line"):
        weights.load(tmp_path, Line, Config)


def test_a_full_disk_leaves_the_weights_as_they_were(tmp_path, monkeypatch):
    """One line says so, nothing half-written stays, and neither does anything beside it."""
    weights.save(Line(), tmp_path / "w.safetensors")
    before = (tmp_path / "w.safetensors").read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightsError, match=r"cannot write .*w.safetensors \(the disk is full\): make room"):
        weights.save(Line(), tmp_path / "w.safetensors")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]
