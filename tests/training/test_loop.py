"""The loop, on the smallest model that fits it: resume to the same bits, stop cleanly, lose nothing."""

import contextlib
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import nn

from hw2lib import training
from hw2lib.training import Run, RunError, TrainingError, WeightsError

KEPT = ("history.csv", "epochs.csv", "weights.safetensors")


class Config(BaseModel):
    width: int = 4
    seed: int = 0


class Line(nn.Module):
    """A linear layer behind dropout, so that a step has chance."""

    def __init__(self, config=None):
        super().__init__()
        self.config = config or Config()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self.layer = nn.Linear(self.config.width, 1)

    def setup(self, fabric, total_steps):
        self.fabric = fabric
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        self.optimizers = {"line": optimizer}
        self.schedules = {"line": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total_steps)}

    def step(self, x):
        loss = (self.layer(F.dropout(x)) - x.sum(1, keepdim=True)).square().mean()
        self.optimizers["line"].zero_grad()
        loss.backward()
        self.optimizers["line"].step()
        self.schedules["line"].step()
        return {"loss": loss.detach(), "twice": 2 * loss.detach()}


class Rows:
    """Ten rows of numbers, four at a time: three steps an epoch, in an order of its own each."""

    description = {"rows": 10, "batch_size": 4}  # noqa: RUF012 - never changed

    def __len__(self):
        return 3

    def __call__(self, epoch, skip=0, device="cpu", rank=0, processes=1):
        random = torch.Generator().manual_seed(epoch)
        rows = torch.rand(10, 4, generator=random)
        yield from rows.split(4)[skip:]


def fit(folder, *, epochs=3, model=None, **options):
    model = model or Line()

    def evaluate(folder, epoch):
        assert not model.training and not torch.is_grad_enabled()
        return {"at_one": float(model.layer(torch.ones(1, 4)))}

    settings = {"precision": "32", "device": "cpu", "name": "small", "runs": folder, "evaluate": evaluate} | options
    return training.fit(model, Rows(), epochs=None if "updates" in options else epochs, **settings), model


def contents(run):
    """What must be equal between an interrupted and an uninterrupted run."""
    return {name: (run.folder / name).read_bytes() for name in KEPT}


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    """A run that broke off after its last checkpoint: before its weights were written."""

    def begin(**options):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(training.weights, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            fit(tmp_path / "broken", **options)
        return tmp_path / "broken"

    return begin


def test_a_run_leaves_what_it_promises(tmp_path):
    """The folder holds config, a row a step, a row an epoch, weights and provenance; the last two checkpoints stay."""
    run, model = fit(tmp_path)
    assert run.history["step"].tolist() == list(range(1, 10))
    assert run.history["epoch"].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert run.epochs["step"].tolist() == [3, 6, 9]
    assert set(run.history) == {"epoch", "step", "loss", "twice"}
    assert set(run.epochs) == {"epoch", "step", "at_one"}
    assert len(list((run.folder / "checkpoint").glob("*"))) == 2
    known = {"commit", "dirty", "versions", "device", "threads", "precision", "seed", "data", "started", "ended"}
    assert known <= set(run.provenance)
    assert run.provenance["seconds"] >= 0
    assert run._read("config.json") == run.config == {
        "model": {"width": 4, "seed": 0}, "batches": Rows.description, "data": {}, "steps": 9
    }  # fmt: skip
    assert not model.training
    again = training.weights.load(run.weights, Line, Config)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_finished_run_is_loaded(tmp_path, capsys, monkeypatch):
    """Asking for a finished run again trains nothing and gives the same weights."""
    _, first = fit(tmp_path)
    monkeypatch.setattr(Line, "step", lambda *_: pytest.fail("trained again"))
    _, second = fit(tmp_path)
    assert "loaded from" in capsys.readouterr().out
    assert torch.equal(first.layer.weight, second.layer.weight) and not second.training


def test_numbers_of_a_finished_run_need_no_network(tmp_path, capsys):
    """A finished run whose network was not kept is loaded if only its numbers are wanted, else trained anew."""
    run, _ = fit(tmp_path)
    run.weights.unlink()
    again, _ = fit(tmp_path, numbers_only=True)
    assert "finished on" in capsys.readouterr().out
    assert again.history["step"].tolist() == list(range(1, 10))
    assert not run.weights.exists()
    fit(tmp_path)
    assert run.weights.exists()


def test_a_finished_run_that_is_trained_anew_is_half_done(tmp_path, monkeypatch):
    """One that was restored without network and checkpoint, and then killed: its few rows are no finished run's."""
    run, _ = fit(tmp_path)
    for path in (run.weights, run.folder / "SHA256SUMS", *run.folder.glob("checkpoint/*")):
        path.unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.weights, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        fit(tmp_path)
    assert not run.finished
    run, _ = fit(tmp_path, numbers_only=True)
    assert run.finished and run.provenance["resumed"]


def test_only_what_is_asked_for_is_printed(tmp_path, capsys, monkeypatch):
    """`shown` names the values of the line after an epoch, in its order and words; the tables have all of them."""
    monkeypatch.setenv("HW2_PROGRESS", "lines")
    run, _ = fit(tmp_path, epochs=1, shown={"at_one": "where it is one", "loss": "error", "no such": "no"})
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "epoch 1 of 1" in line]
    assert re.search(r": where it is one [-\d.]+, error [-\d.e]+; .*, done$", line)
    assert "twice" not in line
    assert "twice" in run.history


def test_another_config_is_another_folder(tmp_path):
    """Model, data and length change the folder; machine choices do not."""
    folders = {fit(tmp_path, epochs=1)[0].folder}
    folders.add(fit(tmp_path, epochs=2)[0].folder)
    folders.add(fit(tmp_path, epochs=1, data={"checksum": "other"})[0].folder)
    folders.add(fit(tmp_path, epochs=1, model=Line(Config(seed=1)))[0].folder)
    assert len(folders) == 4
    assert fit(tmp_path, epochs=1, precision="auto", checkpoint_minutes=0)[0].folder in folders


def test_what_is_noted_is_in_the_provenance_alone(tmp_path):
    """What no number depends on, such as files that were passed over, is told of a run and makes no other of it."""
    noted = {"passed_over": {".txt": 2}}
    run, _ = fit(tmp_path, epochs=1, noted=noted)
    assert run.provenance["passed_over"] == {".txt": 2} and "data" in run.provenance
    assert fit(tmp_path, epochs=1)[0].folder == run.folder


def test_updates_stop_within_an_epoch(tmp_path):
    """A length in updates is kept to the step, across epochs."""
    run, _ = fit(tmp_path, updates=5)
    assert run.history["step"].tolist() == [1, 2, 3, 4, 5]
    assert run.epochs["step"].tolist() == [3, 5]


@pytest.mark.parametrize("length", [{}, {"epochs": 1, "updates": 1}, {"epochs": 0}])
def test_a_length_is_needed_once(tmp_path, length):
    """Neither, both or no epochs at all are refused."""
    with pytest.raises(TrainingError, match="either epochs or updates"):
        training.fit(Line(), Rows(), name="x", runs=tmp_path, **length)


def test_two_runs_are_equal(tmp_path):
    """The same config gives the same bits, whatever the global random state was."""
    torch.manual_seed(1)
    one = contents(fit(tmp_path / "a")[0])
    torch.manual_seed(2)
    assert contents(fit(tmp_path / "b")[0]) == one


@pytest.mark.parametrize("stop_at", [1, 3, 4, 8])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_anywhere_it_resumes_to_the_same_bits(tmp_path, monkeypatch, stop_at, number):
    """A signal after any step, then the same call: history, evaluations and weights equal those of an unbroken run."""
    handler = signal.getsignal(number)
    whole = contents(fit(tmp_path / "whole")[0])
    step, taken = Line.step, []

    def interrupted(self, batch):
        taken.append(1)
        if len(taken) == stop_at:
            os.kill(os.getpid(), number)
        return step(self, batch)

    monkeypatch.setattr(Line, "step", interrupted)
    with pytest.raises(training.Stopped, match=f"after step {stop_at} of 9"):
        fit(tmp_path / "broken")
    assert signal.getsignal(number) == handler
    run, _ = fit(tmp_path / "broken")
    assert contents(run) == whole
    assert [found["step"] for found in run.provenance["resumed"]] == [stop_at]
    assert len(taken) == 9


def flip(path):
    """One bit of the file is another, in its middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


def lose_a_key(path):
    state = torch.load(path)
    del state["optimizers"]["line"]
    torch.save(state, path)


def be_of_another(path):
    state = torch.load(path)
    torch.save(state | {"model": Line(Config(width=5)).state_dict()}, path)


# What can happen to the newest of two checkpoints, to a table within the rows that only the newest one knows.
DAMAGE = {
    "torn": ("checkpoint/step-00000009.pt", lambda path: cut(path, 1000)),
    "empty": ("checkpoint/step-00000009.pt", lambda path: cut(path, 0)),
    "a flipped bit": ("checkpoint/step-00000009.pt", flip),
    "a key is missing": ("checkpoint/step-00000009.pt", lose_a_key),
    "of another model": ("checkpoint/step-00000009.pt", be_of_another),
    "history cut within a row": ("history.csv", lambda path: cut(path, -3)),
    "epochs cut within a row": ("epochs.csv", lambda path: cut(path, -3)),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_aloud(what, tmp_path, unfinished, capsys):
    """If the newest checkpoint, or what it knows, is damaged the one before is used, with a line on it, to the same bits."""
    whole = contents(fit(tmp_path / "whole")[0])
    name, damage = DAMAGE[what]
    damage(next(unfinished().glob(f"*/{name}")))
    run, _ = fit(tmp_path / "broken")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "cannot be used" in line]
    assert "step-00000009.pt" in line and line.endswith("trying the one before")
    assert contents(run) == whole
    assert [found["step"] for found in run.provenance["resumed"]] == [6]


@pytest.mark.parametrize("name", ["checkpoint/*", "history.csv", "epochs.csv"])
@pytest.mark.parametrize("content", [None, b"", b"\x80\0\xff\n" * 99])
def test_what_no_checkpoint_fits_is_one_clear_line(name, content, unfinished):
    """If nothing can be gone on from nothing is overwritten: one line says what is wrong and what to delete."""
    folder = unfinished()
    for path in folder.glob(f"*/{name}"):
        path.unlink() if content is None else path.write_bytes(content)
    if name == "checkpoint/*" and content is None:
        return
    before = {path: path.read_bytes() for path in folder.glob("*/*.csv")}
    with pytest.raises(RunError, match=r"can be used \(.*\): delete .* to train anew") as caught:
        fit(folder)
    assert name == "checkpoint/*" or name in str(caught.value)
    assert {path: path.read_bytes() for path in folder.glob("*/*.csv")} == before


def test_any_flipped_bit_of_a_checkpoint_is_noticed_or_changes_nothing(unfinished):
    """Whatever bit it is: what is loaded is what was written, or nothing is."""
    (path,) = unfinished(epochs=1).glob("*/checkpoint/*.pt")
    run = Run("small", json.loads((path.parents[1] / "config.json").read_text()), path.parents[2])
    whole, weight = path.read_bytes(), torch.load(path)["model"]["layer.weight"]
    for place in np.random.default_rng(0).integers(len(whole) * 8, size=300).tolist():
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        with contextlib.suppress(RunError):
            assert torch.equal(run.load_checkpoint(lambda state: None)["model"]["layer.weight"], weight), place


@pytest.mark.parametrize("damage", [flip, lambda path: cut(path, 100)])
def test_damaged_weights_of_a_finished_run_are_made_again(damage, tmp_path, capsys):
    """From the last checkpoint, to the same bits and with a line on it; without one a line says what to delete."""
    run, model = fit(tmp_path)
    whole = contents(run)
    damage(run.weights)
    again, same = fit(tmp_path)
    assert "weights.safetensors has been changed: it is made again" in capsys.readouterr().out
    assert contents(again) == whole and torch.equal(same.layer.weight, model.layer.weight)
    damage(run.weights)
    for path in run.folder.glob("checkpoint/*"):
        path.unlink()
    with pytest.raises(
        RunError, match=r"weights.safetensors in .* was changed or lost after .*: put back .* or delete"
    ):
        fit(tmp_path)


@pytest.mark.parametrize(
    "name", ["history.csv", "epochs.csv", "config.json", "SHA256SUMS", "translations/epoch-001.webp"]
)
@pytest.mark.parametrize("damage", [flip, lambda path: cut(path, 0), Path.unlink])
@pytest.mark.parametrize("numbers_only", [False, True])
def test_a_finished_run_with_damaged_tables_is_not_loaded(name, damage, numbers_only, tmp_path):
    """Whatever of it has changed, one line names it. Sums that are gone say nothing, as in an older run."""

    def evaluate(folder, epoch):
        training.write_whole(folder / "translations" / f"epoch-{epoch:03}.webp", b"a picture")
        return {"score": 1.0}

    run, _ = fit(tmp_path, evaluate=evaluate)
    damage(run.folder / name)
    if name == "SHA256SUMS" and damage is Path.unlink:
        fit(tmp_path, numbers_only=numbers_only)
    else:
        with pytest.raises(
            RunError, match=rf"{'' if name == 'SHA256SUMS' else name} in {run.folder} was changed or lost"
        ):
            fit(tmp_path, numbers_only=numbers_only)


def test_sums_are_those_of_sha256sum(tmp_path):
    """Anybody can check a run without this module."""
    run, _ = fit(tmp_path)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=run.folder, check=True)
    (run.folder / "epochs.csv").write_text("")
    assert subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=run.folder, capture_output=True
    ).returncode


def test_damaged_weights_without_sums_are_one_clear_line(tmp_path):
    """An older run whose weights file is torn is refused in one line that names the file."""
    run, _ = fit(tmp_path)
    (run.folder / "SHA256SUMS").unlink()
    cut(run.weights, 100)
    with pytest.raises(WeightsError, match=f"{run.weights} is no readable weights file of Line"):
        fit(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    """The first NaN stops the training; the message names term, step and epoch, and the last good checkpoint stays."""
    step, taken = Line.step, []

    def broken(self, batch):
        taken.append(1)
        return step(self, batch) | ({"twice": torch.tensor(float("nan"))} if len(taken) == 5 else {})

    monkeypatch.setattr(Line, "step", broken)
    with pytest.raises(TrainingError, match=r"twice is nan at step 5 \(epoch 2\)"):
        fit(tmp_path)
    assert [path.name for path in tmp_path.glob("*/checkpoint/*")] == ["step-00000003.pt"]


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    """When a checkpoint cannot be written one line says so, no half file stays, and the run goes on later."""
    whole = contents(fit(tmp_path / "whole")[0])
    written, fsync = [], os.fsync

    def full(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if "step-00000006.pt" in name:
            written.append(name)
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="the disk is full"):
        fit(tmp_path / "full")
    assert written
    assert not list((tmp_path / "full").glob("**/*.part"))
    monkeypatch.undo()
    assert contents(fit(tmp_path / "full")[0]) == whole


def test_precision_is_kept(unfinished):
    """A run goes on in the precision it began with; asked for another, it says so; left open, it follows."""
    folder = unfinished(precision="bf16")
    with pytest.raises(TrainingError, match="was begun in precision bf16"):
        fit(folder, precision="32")
    run, _ = fit(folder, precision="auto")
    assert run.provenance["precision"] == "bf16"


def test_two_processes_do_not_train_one_run(tmp_path):
    """While a run's folder is held, another training of it is refused in one line."""
    run = fit(tmp_path)[0]
    other = training.Run("small", run.config, tmp_path)
    with run.begin(), pytest.raises(RunError, match="by another process"), other.begin():
        pass


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    """A runs folder that is a file is refused before any work."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write in"):
        fit(tmp_path / "file")
