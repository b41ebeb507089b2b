"""The loop, on the smallest model that fits it: resume to the same bits, stop cleanly, lose nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import nn

from hw2lib import ROOT, training
from hw2lib.training import RunError, TrainingError, WeightsError

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


def test_only_what_is_asked_for_is_printed(tmp_path, capsys, monkeypatch):
    """`shown` names the values of the line after an epoch, in its order; the tables have all of them."""
    monkeypatch.setenv("HW2_PROGRESS", "lines")
    run, _ = fit(tmp_path, epochs=1, shown=("at_one", "loss", "no such"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "epoch 1/1" in line]
    assert [word for word in line.split() if word.isidentifier()][1:3] == ["at_one", "loss"]
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


# Forks 180 slow steps with a checkpoint after each, again and again until one ends by itself: torch is imported once.
SERVER = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import lightning_fabric, test_loop, torch
torch.set_num_threads(1)
step = test_loop.Line.step
test_loop.Line.step = lambda self, x: (time.sleep(0.01), step(self, x))[1]
killed = True
while killed:
    child = os.fork()
    if not child:
        sys.stdout = sys.stderr
        test_loop.fit(sys.argv[2], epochs=60, checkpoint_minutes=0)
        os._exit(0)
    print(child, flush=True)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes_to_the_same_bits(tmp_path):
    """A training killed by SIGKILL again and again, at moments nobody chose, ends with the bits of an unbroken one."""
    whole, _ = fit(tmp_path / "whole", epochs=60)
    command = [sys.executable, "-c", SERVER, str(Path(__file__).parent), str(tmp_path / "broken")]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    random = np.random.default_rng()
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, **streams) as server:
        for _ in range(4):
            before = set((tmp_path / "broken").glob("*/checkpoint/*.pt"))
            child = int(server.stdout.readline())
            # It is alive once it has written a checkpoint of its own; then it dies within the next fifth of a second.
            while server.poll() is None and set((tmp_path / "broken").glob("*/checkpoint/*.pt")) <= before:
                time.sleep(0.005)
            time.sleep(random.uniform(0, 0.2))
            os.kill(child, signal.SIGKILL)
        assert server.stdout.readline()
    (broken,) = (tmp_path / "broken").glob("small-*")
    for name in KEPT:
        assert (whole.folder / name).read_bytes() == (broken / name).read_bytes(), name


def test_a_torn_checkpoint_is_passed_over_aloud(tmp_path, unfinished, capsys):
    """If the newest checkpoint cannot be read the one before is used, with a line that says so, to the same bits."""
    whole = contents(fit(tmp_path / "whole")[0])
    newest = max(unfinished().glob("*/checkpoint/*"))
    newest.write_bytes(newest.read_bytes()[:1000])
    run, _ = fit(tmp_path / "broken")
    assert f"{newest.name} cannot be read" in capsys.readouterr().out
    assert contents(run) == whole


def test_no_readable_checkpoint_is_one_clear_line(unfinished):
    """If no checkpoint can be read nothing is overwritten: one line says what to delete."""
    folder = unfinished()
    for path in folder.glob("*/checkpoint/*"):
        path.write_bytes(b"")
    with pytest.raises(RunError, match=r"can be read: delete .* to train anew"):
        fit(folder)


def test_damaged_weights_of_a_finished_run_are_one_clear_line(tmp_path):
    """A finished run whose weights file is torn is refused in one line that names the file."""
    run, _ = fit(tmp_path)
    run.weights.write_bytes(run.weights.read_bytes()[:100])
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
