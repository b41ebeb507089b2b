"""The loop and the run folder: resume to the same bits, stop cleanly, lose nothing."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hw2lib.data import batches
from hw2lib.evaluation import codec as experiments
from hw2lib.training import devices, progress, runs
from hw2lib.training import loop as training
from hw2lib.vqvae import VQVAE, VQVAEConfig

SMALL = {"hidden_channels": 8, "residual_channels": 4, "num_codes": 16, "code_dim": 4, "size": 16}


@pytest.fixture
def bytes_():
    return torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def fit(bytes_, folder, *, epochs=3, model=None, **options):
    model = model or VQVAE(VQVAEConfig(**SMALL))
    settings = {"precision": "32", "device": "cpu", "name": "small", "runs": folder} | options
    run = training.fit(
        model,
        batches.Batches(bytes_, 16, seed=0),
        evaluate=lambda folder, epoch: experiments.evaluate_vqvae(model, bytes_[:8]),
        epochs=None if "updates" in options else epochs,
        **settings,
    )
    return run, model


def write_script(folder, config, training_call):
    """A script that makes `pictures` and `model` and then makes the call, for tests that need processes of their own."""
    start = f"""
        import sys, torch
        torch.set_num_threads(1)
        from hw2lib.data import pictures as data
        from hw2lib.evaluation import codec as experiments
        from hw2lib.training import loop as training
        from hw2lib.vqvae import VQVAE, VQVAEConfig
        generator = torch.Generator().manual_seed(5)
        pictures = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=generator)
        model = VQVAE(VQVAEConfig(**{config!r}))
        """
    script = folder / "train.py"
    script.write_text(textwrap.dedent(start) + textwrap.dedent(training_call))
    return script


def contents(run):
    """What must be equal between an interrupted and an uninterrupted run."""
    return {name: (run.folder / name).read_bytes() for name in ("history.csv", "epochs.csv", "weights.safetensors")}


def test_a_run_leaves_what_it_promises(bytes_, tmp_path):
    """The folder holds config, a row a step, a row an epoch, weights and provenance; the last two checkpoints stay."""
    run, model = fit(bytes_, tmp_path)
    assert run.history["step"].tolist() == list(range(1, 10))
    assert run.history["epoch"].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert run.epochs["step"].tolist() == [3, 6, 9]
    assert {"reconstruction", "mse", "codebook", "commitment", "vq", "perplexity"} < set(run.history)
    assert {"test_nmse", "test_psnr", "test_perplexity", "test_codes_used"} < set(run.epochs)
    assert len(list((run.folder / "checkpoint").glob("*"))) == 2
    made = run.provenance
    assert {
        "commit",
        "dirty",
        "versions",
        "device",
        "threads",
        "precision",
        "seed",
        "data",
        "started",
        "ended",
    } <= set(made)
    assert made["seconds"] > 0
    assert json.loads((run.folder / "config.json").read_text())["model"]["num_codes"] == 16
    assert not model.training
    again = VQVAE.load(run.weights)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_finished_run_is_loaded(bytes_, tmp_path, capsys, monkeypatch):
    """Asking for a finished run again trains nothing and gives the same weights."""
    _, first = fit(bytes_, tmp_path)
    monkeypatch.setattr(VQVAE, "step", lambda *_: pytest.fail("trained again"))
    _, second = fit(bytes_, tmp_path)
    assert "loaded from" in capsys.readouterr().out
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_numbers_of_a_finished_run_need_no_network(bytes_, tmp_path, capsys):
    """A finished run whose network was not kept is loaded if only its numbers are wanted, else trained anew."""
    run, _ = fit(bytes_, tmp_path)
    run.weights.unlink()
    before = run.provenance
    again, _ = fit(bytes_, tmp_path, numbers_only=True)
    assert "finished on" in capsys.readouterr().out
    assert again.history["step"].tolist() == list(range(1, 10))
    assert not run.weights.exists()
    fit(bytes_, tmp_path)
    assert run.weights.exists()
    assert run.provenance["started"] >= before["started"]


def test_only_what_is_asked_for_is_printed(bytes_, tmp_path, capsys, monkeypatch):
    """`shown` names the values of the line after an epoch, in its order; the tables have all of them."""
    monkeypatch.setenv("HW2_PROGRESS", "lines")
    run, _ = fit(bytes_, tmp_path, epochs=1, shown=("test_psnr", "mse", "no such"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "epoch 1/1" in line]
    assert [word for word in line.split() if word.isidentifier()][1:3] == ["test_psnr", "mse"]
    assert "vq" not in line
    assert "vq" in run.history


def test_damaged_weights_of_a_finished_run_are_one_clear_line(bytes_, tmp_path):
    """A finished run whose weights file is torn is refused in one line that names the file."""
    run, _ = fit(bytes_, tmp_path)
    run.weights.write_bytes(run.weights.read_bytes()[:1000])
    with pytest.raises(training.weights.WeightsError, match="is no readable weights file of VQVAE") as caught:
        fit(bytes_, tmp_path)
    assert str(run.weights) in str(caught.value)


def test_another_config_is_another_folder(bytes_, tmp_path):
    """Model, batches, data and length change the folder; machine choices do not."""
    folders = {fit(bytes_, tmp_path, epochs=1)[0].folder}
    folders.add(fit(bytes_, tmp_path, epochs=2)[0].folder)
    folders.add(fit(bytes_, tmp_path, epochs=1, data={"checksum": "other"})[0].folder)
    folders.add(fit(bytes_, tmp_path, epochs=1, model=VQVAE(VQVAEConfig(**SMALL, seed=1)))[0].folder)
    assert len(folders) == 4
    assert fit(bytes_, tmp_path, epochs=1, precision="auto", checkpoint_minutes=0)[0].folder in folders


def test_updates_stop_within_an_epoch(bytes_, tmp_path):
    """A length in updates is kept to the step, across epochs."""
    run, _ = fit(bytes_, tmp_path, updates=5)
    assert run.history["step"].tolist() == [1, 2, 3, 4, 5]
    assert run.epochs["step"].tolist() == [3, 5]


def test_two_runs_are_equal(bytes_, tmp_path):
    """The same config gives the same bits, whatever the global random state was."""
    torch.manual_seed(1)
    one = contents(fit(bytes_, tmp_path / "a")[0])
    torch.manual_seed(2)
    assert contents(fit(bytes_, tmp_path / "b")[0]) == one


@pytest.mark.parametrize("stop_at", [1, 3, 4, 8])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_anywhere_it_resumes_to_the_same_bits(bytes_, tmp_path, monkeypatch, stop_at, number):
    """A signal after any step, then the same call: history, evaluations and weights equal those of an unbroken run."""
    handler = signal.getsignal(number)
    whole = contents(fit(bytes_, tmp_path / "whole")[0])
    step, taken = VQVAE.step, []

    def interrupted(self, batch):
        taken.append(1)
        if len(taken) == stop_at:
            os.kill(os.getpid(), number)
        return step(self, batch)

    monkeypatch.setattr(VQVAE, "step", interrupted)
    with pytest.raises(training.Stopped, match=f"after step {stop_at} of 9"):
        fit(bytes_, tmp_path / "broken")
    assert signal.getsignal(number) == handler
    run, _ = fit(bytes_, tmp_path / "broken")
    assert contents(run) == whole
    assert [found["step"] for found in run.provenance["resumed"]] == [stop_at]
    assert len(taken) == 9


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes_to_the_same_bits(tmp_path):
    """A training killed by SIGKILL again and again, at moments nobody chose, ends with the bits of an unbroken one."""
    script = write_script(
        tmp_path,
        SMALL,
        """
        training.fit(
            model, batches.Batches(pictures, 4, seed=0), epochs=12, name="small", runs=sys.argv[1], device="cpu",
            precision="32", checkpoint_minutes=0, evaluate=lambda folder, epoch: experiments.evaluate_vqvae(model, pictures[:8]),
        )
        """,
    )
    environment = os.environ | {"PYTHONPATH": str(Path(runs.__file__).parents[1])}
    command = [sys.executable, str(script)]
    subprocess.run([*command, str(tmp_path / "whole")], env=environment, check=True, stdout=subprocess.DEVNULL)
    kills, random = 0, np.random.default_rng()
    for _ in range(40):
        process = subprocess.Popen([*command, str(tmp_path / "broken")], env=environment, stdout=subprocess.PIPE)
        # It is alive once it has written a checkpoint of its own; then it dies within the next half second.
        before = set((tmp_path / "broken").glob("*/checkpoint/*"))
        while process.poll() is None and set((tmp_path / "broken").glob("*/checkpoint/*")) <= before:
            time.sleep(0.005)
        if kills < 4:
            time.sleep(random.uniform(0, 0.3))
            process.kill()
        process.wait()
        process.stdout.close()
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            break
    assert process.returncode == 0
    assert kills >= 2
    (whole,), (broken,) = (tmp_path / "whole").glob("small-*"), (tmp_path / "broken").glob("small-*")
    for name in ("history.csv", "epochs.csv", "weights.safetensors"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes(), name


def test_a_torn_checkpoint_is_passed_over_aloud(bytes_, tmp_path, monkeypatch, capsys):
    """If the newest checkpoint cannot be read the one before is used, with a line that says so, to the same bits."""
    whole = contents(fit(bytes_, tmp_path / "whole")[0])
    monkeypatch.setattr(training.weights, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fit(bytes_, tmp_path / "torn")
    monkeypatch.undo()
    newest = max((tmp_path / "torn").glob("*/checkpoint/*"))
    newest.write_bytes(newest.read_bytes()[:1000])
    run, _ = fit(bytes_, tmp_path / "torn")
    assert f"{newest.name} cannot be read" in capsys.readouterr().out
    assert contents(run) == whole


def test_no_readable_checkpoint_is_one_clear_line(bytes_, tmp_path, monkeypatch):
    """If no checkpoint can be read nothing is overwritten: one line says what to delete."""
    monkeypatch.setattr(training.weights, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fit(bytes_, tmp_path)
    for path in tmp_path.glob("*/checkpoint/*"):
        path.write_bytes(b"")
    with pytest.raises(runs.RunError, match=r"can be read: delete .* to train anew"):
        fit(bytes_, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(bytes_, tmp_path, monkeypatch):
    """The first NaN stops the training; the message names term, step and epoch, and the last good checkpoint stays."""
    step, taken = VQVAE.step, []

    def broken(self, batch):
        taken.append(1)
        return step(self, batch) | ({"vq": torch.tensor(float("nan"))} if len(taken) == 5 else {})

    monkeypatch.setattr(VQVAE, "step", broken)
    with pytest.raises(devices.TrainingError, match=r"vq is nan at step 5 \(epoch 2\)"):
        fit(bytes_, tmp_path)
    assert [path.name for path in tmp_path.glob("*/checkpoint/*")] == ["step-00000003.pt"]


def test_a_full_disk_keeps_the_last_checkpoint(bytes_, tmp_path, monkeypatch):
    """When a checkpoint cannot be written one line says so, no half file stays, and the run goes on later."""
    whole = contents(fit(bytes_, tmp_path / "whole")[0])
    written, fsync = [], os.fsync

    def full(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if name.endswith("step-00000006.pt.part"):
            written.append(name)
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(runs.RunError, match="No space left on device"):
        fit(bytes_, tmp_path / "full")
    assert written
    assert not list((tmp_path / "full").glob("**/*.part"))
    monkeypatch.undo()
    assert contents(fit(bytes_, tmp_path / "full")[0]) == whole


def test_precision_is_kept(bytes_, tmp_path, monkeypatch):
    """A run goes on in the precision it began with; asked for another, it says so; left open, it follows."""
    monkeypatch.setattr(training.weights, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fit(bytes_, tmp_path, precision="bf16")
    monkeypatch.undo()
    with pytest.raises(devices.TrainingError, match="was begun in precision bf16"):
        fit(bytes_, tmp_path, precision="32")
    run, _ = fit(bytes_, tmp_path, precision="auto")
    assert run.provenance["precision"] == "bf16"


def test_two_processes_do_not_train_one_run(bytes_, tmp_path):
    """While a run's folder is held, another training of it is refused in one line."""
    run = fit(bytes_, tmp_path)[0]
    run.weights.unlink()
    other = runs.Run("small", run.config, tmp_path)
    with run.begin(), pytest.raises(runs.RunError, match="by another process"), other.begin():
        pass


def test_a_folder_that_cannot_be_written_is_one_clear_line(bytes_, tmp_path):
    """A runs folder that is a file is refused before any work."""
    (tmp_path / "file").write_text("")
    with pytest.raises(runs.RunError, match="cannot write in"):
        fit(bytes_, tmp_path / "file")


@pytest.mark.parametrize("length", [{}, {"epochs": 1, "updates": 1}, {"epochs": 0}])
def test_a_length_is_needed_once(bytes_, tmp_path, length):
    """Neither, both or no epochs at all are refused."""
    with pytest.raises(devices.TrainingError, match="either epochs or updates"):
        training.fit(VQVAE(VQVAEConfig(**SMALL)), batches.Batches(bytes_, 16, 0), name="x", runs=tmp_path, **length)


@pytest.mark.slow
def test_several_processes_train_the_same_network(tmp_path):
    """Two processes that share each batch end, to rounding, with the codebook and weights of one."""
    script = write_script(
        tmp_path,
        SMALL | {"kmeans_init": False, "restart_dead": False},
        """
        training.fit(
            model, batches.Batches(pictures, 8, seed=0), epochs=2, name="small", runs=sys.argv[1], device="cpu",
            precision="32",
        )
        """,
    )
    environment = os.environ | {"PYTHONPATH": str(Path(runs.__file__).parents[1])}
    subprocess.run([sys.executable, script, tmp_path / "one"], env=environment, check=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*launch, script, tmp_path / "two"], env=environment, check=True)
    one, two = (VQVAE.load(next((tmp_path / name).glob("*/weights.safetensors"))) for name in ("one", "two"))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)
    histories = [runs.Table(next((tmp_path / name).glob("*/history.csv"))).read() for name in ("one", "two")]
    np.testing.assert_allclose(histories[1]["perplexity"], histories[0]["perplexity"], rtol=1e-4)
    np.testing.assert_allclose(histories[1]["reconstruction"], histories[0]["reconstruction"], rtol=1e-3)


# ---- progress and tables


def test_durations_read_well():
    """Seconds, minutes and hours each have their form."""
    assert [progress.duration(s) for s in (7.2, 130, 3700)] == ["7 s", "2 min 10 s", "1 h 01 min"]


def test_progress_says_how_long_and_one_line_an_epoch(capsys, monkeypatch):
    """In a log there is an estimate early on, then a line for each epoch with its numbers and the time left."""
    monkeypatch.setenv("HW2_PROGRESS", "lines")
    shown = progress.Progress("name", total=60)
    for _ in range(30):
        shown.step()
    shown.epoch(1, 2, {"loss": 0.25})
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("name: 40 steps to go, about ")
    assert second.startswith("name: epoch 1/2  loss 0.25")
    assert second.endswith("left)")


def test_a_table_is_cut_to_the_row(tmp_path):
    """A table cut back and grown again has the bytes of one that was never cut; lost rows are an error."""
    table = runs.Table(tmp_path / "t.csv")
    table.append([{"step": i, "loss": i / 7} for i in range(5)])
    whole = table.path.read_bytes()
    table.cut(3)
    assert table.read()["step"].tolist() == [0, 1, 2]
    table.append([{"step": i, "loss": i / 7} for i in range(3, 5)])
    assert table.path.read_bytes() == whole
    with pytest.raises(runs.RunError, match="has lost rows"):
        table.cut(6)


def test_a_gpu_is_called_by_its_name(monkeypatch):
    """The provenance of a run on a GPU names the card, and that of one on a CPU begins with cpu."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card of {device}")
    assert devices.device_name(torch.device("cuda", 0)) == "card of cuda:0"
    assert devices.device_name(torch.device("cpu")).startswith("cpu")
