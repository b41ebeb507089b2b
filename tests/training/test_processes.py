"""Several processes do what one does: the same numbers, a resume with any number of them, and refusals of one line."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hw2lib import ROOT, parameters, processes, recipes, training
from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data import Batches, CodeBatches, Pairs
from hw2lib.pixelcnn import GatedPixelCNN, PixelCNNConfig
from hw2lib.training import TrainingError
from hw2lib.vqvae import VQVAE, VQVAEConfig

STEPS = 4


def random(high, *shape, seed=7):
    return torch.randint(0, high, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# Shares of 3 and 2, then of 2 and 1; a pool that is soon full, k-means, restarts, dropout: all that is drawn by chance.
def cases():
    translator = CycleGANConfig(size=32, base_channels=2, blocks=1, pool_size=4, identity_weight=0.5)
    codec = VQVAEConfig(size=16, hidden_channels=8, residual_channels=4, num_codes=16, code_dim=4)
    prior = PixelCNNConfig(num_codes=11, height=4, width=5, embedding=6, channels=8, layers=2, classes=3)
    a, b = random(256, 8, 3, 36, 36), random(256, 6, 3, 36, 36, seed=8)
    yield CycleGAN(translator), Pairs(a, b, 32, 0, batch_size=5)
    yield VQVAE(codec), Batches(random(256, 8, 3, 16, 16), 5, 0)
    yield VQVAE(codec.model_copy(update={"codebook": "gradient"})), Batches(random(256, 8, 3, 16, 16), 5, 0)
    yield GatedPixelCNN(prior), CodeBatches(random(11, 8, 4, 5).int(), torch.arange(8) % 3, 5, 0)


def train(folder, stop_at=None):
    """All of them, in float32 on one thread; with `stop_at` each is broken off in the step after that one."""
    torch.set_num_threads(1)
    runs = []
    for number, (model, batches) in enumerate(cases()):
        step, taken = model.step, []

        def counted(batch, step=step, taken=taken):
            taken.append(1)
            if len(taken) == (stop_at or 0) + 1 and stop_at:
                raise KeyboardInterrupt
            return step(batch)

        model.step = counted
        settings = {"device": "cpu", "precision": "32", "updates": STEPS, "checkpoint_minutes": 0, "runs": folder}
        settings["evaluate"] = lambda folder, epoch, model=model: {"weight": float(next(model.parameters()).norm())}
        try:
            runs.append(training.fit(model, batches, name=f"case{number}", **settings))
        except KeyboardInterrupt:
            assert stop_at
    return runs


GROUP = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_processes
from hw2lib import processes
folder = Path(sys.argv[2])
test_processes.train(folder / "whole")
for stop_at, name in ((2, "broken"), (None, "broken"), (2, "left")):
    test_processes.train(folder / name, stop_at)
if processes.rank():
    os.kill(os.getpid(), signal.SIGKILL)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
try:
    processes.told()
except processes.GroupError as error:
    (folder / "gone").write_text(str(error))
"""


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """What two processes leave: trainings that were whole, broken off and gone on with, broken off, and a killed rank."""
    folder = tmp_path_factory.mktemp("group")
    (folder / "train.py").write_text(GROUP)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, str(folder / "train.py"), str(Path(__file__).parent), str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        subprocess.run(command, check=False)
    threads = torch.get_num_threads()
    folder.joinpath("one").mkdir()
    yield folder, train(folder / "one")
    torch.set_num_threads(threads)


def numbers(table):
    return {name: values for name, values in table.read().items() if len(values)}


def assert_close(ours, theirs, what):
    ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    assert np.abs(ours - theirs).max(initial=0) <= 1e-5 * max(0.01, np.abs(theirs).max(initial=0)), what


def state(folder):
    """Of the last checkpoint, by name: codebooks and pools, and for each optimiser its averages of all gradients.

    Not what Adam learns, a codebook perhaps: where a gradient is 0, as that of a bias before a norm, it makes whole steps of
    its rounding.
    """
    kept = torch.load(max((folder / "checkpoint").glob("*.pt")), weights_only=True)
    found = {name: value for name, value in kept["model"].items() if name.startswith(("quantizer.", "pool_"))}
    if "quantizer.sums" not in found:
        found.pop("quantizer.codebook", None)
    for name, optimizer in kept["optimizers"].items():
        found[name] = torch.cat([its["exp_avg"].flatten() for its in optimizer["state"].values()])
    return found


def assert_same_training(runs, folder):
    """Every logged number, and in the last checkpoint gradients, codebooks and pools, to 1e-5."""
    for run in runs:
        other = next(folder.glob(f"{run.name}-*"))
        for table in (run.steps, run.evaluations):
            theirs = numbers(training.Table(other / table.path.name))
            for name, values in numbers(table).items():
                assert_close(theirs[name], values, f"{run.name} {table.path.name} {name}")
        theirs = state(other)
        for name, value in state(run.folder).items():
            assert_close(theirs[name], value, f"{run.name} {name}")


@pytest.mark.slow
def test_two_processes_compute_what_one_does(group):
    """Rows, gradients, codebooks and pools are those of one process, to rounding."""
    folder, runs = group
    assert_same_training(runs, folder / "whole")
    assert {run.provenance["processes"] for run in runs} == {1}
    assert '"processes": 2' in next((folder / "whole").glob("case0-*/provenance.json")).read_text()


@pytest.mark.slow
def test_two_processes_resume_to_the_same_bits(group):
    """Broken off and started again they leave the tables and the weights of two that were not."""
    folder, _ = group
    kept = [path for name in ("*.csv", "*.safetensors") for path in (folder / "whole").glob(f"*/{name}")]
    assert len(kept) == 12
    for path in kept:
        assert path.read_bytes() == (folder / "broken" / path.relative_to(folder / "whole")).read_bytes(), path


@pytest.mark.slow
def test_another_number_of_processes_goes_on(group):
    """What two processes left half-done, one ends as if it had done all."""
    folder, runs = group
    again = train(folder / "left")
    assert all(run.provenance["resumed"][0]["step"] == 2 for run in again)
    assert_same_training(runs, folder / "left")


@pytest.mark.slow
def test_a_killed_process_is_one_line_of_the_others(group):
    """Not an address and an errno."""
    folder, _ = group
    assert (folder / "gone").read_text() == "another process of this training has ended: what it said stands above"


def small(**changes):
    values = parameters.preset("smoke", "02_vqvae") | {
        "epochs": 1,
        "batch_size": 64,
        "device": "cpu",
        "precision": "32",
    }
    return parameters.given(parameters.VQVAEParameters, values | changes)


@pytest.mark.slow
def test_the_notebook_starts_processes_and_loads_their_run(tmp_path, capfd):
    """While the folder is held there is one line and no training; then two processes train what is loaded here."""
    asked = small(devices=2, runs=str(tmp_path))
    config, pictures = recipes.vqvae_setup(asked)
    model = VQVAE(config)
    before = model.encoder[0].weight.clone()
    data = {"batches": Batches(pictures.train, 64, asked.seed).description, "data": pictures.description}
    steps = len(Batches(pictures.train, 64, asked.seed))
    run = training.Run("vqvae", {"model": config.model_dump(mode="json"), **data, "steps": steps}, tmp_path)
    with run.begin(), pytest.raises(TrainingError, match="is being trained by another process"):
        recipes.train_vqvae(model, pictures, asked)
    lines = capfd.readouterr().out.splitlines()
    assert [line for line in lines if line.strip()] == lines[-1:], lines
    assert re.fullmatch(r"RunError: .* is being trained by another process.*", lines[0])
    found = recipes.train_vqvae(model, pictures, asked)
    said = capfd.readouterr().out
    assert found.folder == run.folder and found.provenance["processes"] == 2
    assert len(found.history["step"]) == steps
    assert said.splitlines().count(str(run.folder)) == 1
    assert not torch.equal(model.encoder[0].weight, before) and not model.training


def test_processes_are_a_choice_of_the_machine():
    """More than a batch has pictures, or the machine has cores, is refused in one line before any work."""
    with pytest.raises(parameters.ParameterError, match="devices must be at most batch_size, 64"):
        small(devices=65)
    with pytest.raises(TrainingError, match=r"64 processes for \d+ of cpu here: say devices=\d+ or fewer"):
        recipes.vqvae_setup(small(devices=64))
    assert recipes._start("vqvae", small()) is None


def test_processes_that_see_other_folders_are_refused(tmp_path, monkeypatch):
    """On machines without a common disk some would begin and some go on."""
    monkeypatch.setattr(processes, "of_all", lambda step: [step, step + 3])
    with pytest.raises(TrainingError, match="choose a runs folder that all machines share"):
        train(tmp_path)


def test_one_process_is_its_own_group():
    """Nothing is waited for, copied or summed."""
    x = torch.arange(6.0).view(3, 2)
    assert processes.summed(x) is x and processes.whole_of(x) is x and processes.share_of(x) is x
    assert processes.of_all(3) == [3] and processes.told("word") == "word"
    assert (processes.rank(), processes.count()) == (0, 1)
    with processes.first_one_first():
        pass


def test_a_killed_process_is_named(monkeypatch):
    """The launcher says which of them a signal ended, and that the same command goes on; any other exit code it returns."""
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    def fails(code):
        failure = ProcessFailure(local_rank=1, pid=1, exitcode=code, error_file="<N/A>")
        return lambda *_: (_ for _ in ()).throw(ChildFailedError("train", {1: failure}))

    monkeypatch.setattr(torchrun, "run", fails(-signal.SIGKILL))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(TrainingError, match="process 1 of 2 was killed by signal 9: the same command goes on"):
        training.devices.in_processes(2, "cpu", [])
    monkeypatch.setattr(torchrun, "run", fails(143))
    assert training.devices.in_processes(2, "cpu", []) == 143
