"""Device, precision and what they are called."""

import pytest
import torch
from pydantic import BaseModel
from torch import nn

from hw2lib.training import TrainingError, devices, fit


class Config(BaseModel):
    seed: int = 0


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


class Doubler(nn.Module):
    """y = w x; its step is that of gradient descent."""

    def __init__(self):
        super().__init__()
        self.config = Config()
        self.layer = nn.Linear(2, 1, bias=False)
        nn.init.ones_(self.layer.weight)
        self.networks = (self.layer,)

    def setup(self, fabric, total_steps):
        self.optimizers = {"layer": torch.optim.SGD(self.parameters(), lr=0.1)}
        self.schedules = {}

    def step(self, x):
        loss = self.layer(x).square().mean()
        self.optimizers["layer"].zero_grad()
        loss.backward()
        self.optimizers["layer"].step()
        return {"loss": loss.detach()}


class Ones:
    description = {"rows": 4}  # noqa: RUF012 - never changed

    def __len__(self):
        return 4

    def __call__(self, epoch, skip=0, *_):
        return iter(torch.ones(4, 3, 2)[skip:])


@pytest.mark.slow
def test_compiled_networks_compute_the_same(tmp_path):
    """With `compiled` the rows are those of the eager training to rounding; evaluation, and what comes after, is eager."""
    rows = {}
    for compiled in (False, True):
        model = Doubler()

        def evaluate(folder, epoch, model=model):
            return {"at_one": float(model.layer(torch.ones(1, 2)))}

        options = {"device": "cpu", "precision": "32", "runs": tmp_path / str(compiled)}
        run = fit(model, Ones(), name="small", epochs=2, evaluate=evaluate, compiled=compiled, **options)
        rows[compiled] = run.history["loss"].tolist() + run.epochs["at_one"].tolist()
        assert model.layer._compiled_call_impl is None
    assert rows[True] == pytest.approx(rows[False], rel=1e-6)


def test_what_cannot_be_compiled_is_one_line(monkeypatch):
    """A machine without a compiler is named, with what would be right."""

    def compile(function):
        raise RuntimeError("no compiler\nfound")

    monkeypatch.setattr(torch, "compile", compile)
    with pytest.raises(TrainingError, match=r"nothing can be compiled here \(no compiler found\): leave out compiled"):
        devices.compiled([nn.Linear(1, 1)]).__enter__()
