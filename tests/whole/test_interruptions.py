"""SIGKILL or a full disk at any moment, then the same again: every file as if nothing had been, but for times.

A few kills here; `HW2_KILLS=20 pytest tests/whole/test_interruptions.py` has twenty, and does the same to a whole report.
"""

import errno
import itertools
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from hw2lib import ROOT, Problem, files, recipes, training
from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data import Pairs, Pictures, toy_domains
from hw2lib.evaluation.translations import Examiner
from hw2lib.parameters import VQVAEParameters
from hw2lib.pixelcnn import GatedPixelCNN, PixelCNNConfig
from hw2lib.vqvae import VQVAE, VQVAEConfig

KILLS = int(os.environ.get("HW2_KILLS", 0))
TIMES = ("started", "ended", "seconds", "resumed", "commit", "dirty")  # somebody may commit meanwhile


def train_all(runs, last=None, full=False):
    """The three models, with all that their trainings write; killed as it writes for the `last`-th time, or its disk is full.

    In a process of its own, which ends with 3 where one line is what the user sees.
    """
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    training.fit.__kwdefaults__["checkpoint_minutes"] = 0
    moments = itertools.count()

    def deadly(write):
        def at_last(*args):
            if next(moments) == last:
                if full:
                    raise OSError(errno.ENOSPC, "")
                os.kill(os.getpid(), signal.SIGKILL)
            return write(*args)

        return at_last

    # Files that are there but for their name, or just have it, and rows of tables.
    os.fsync, Path.replace = deadly(os.fsync), deadly(Path.replace)
    if not full:
        training.Table.append = deadly(training.Table.append)
    try:
        _train_all({"device": "cpu", "precision": "32", "runs": str(runs)})
    except Problem as problem:
        assert "(the disk is full): make room" in str(problem)
        sys.exit(3)


def _train_all(asked):
    domains = toy_domains(32, train=3, test=2)
    config = CycleGANConfig(size=32, base_channels=2, blocks=1, pool_size=3, ema_decay=0.9)
    model, pairs = CycleGAN(config), Pairs(domains.train_a, domains.train_b, 32, 0, 1)
    training.fit(model, pairs, name="cyclegan", epochs=2, evaluate=Examiner(model, domains, None), **asked)
    random = np.random.default_rng(0)
    noise = torch.from_numpy(random.integers(0, 256, (60, 3, 16, 16), dtype=np.uint8))
    pictures = Pictures("noise", noise[:48], noise[48:], "of its own")
    codec = VQVAE(VQVAEConfig(size=16, hidden_channels=8, residual_channels=4, num_codes=16, code_dim=4))
    asked = VQVAEParameters(**asked, experiments="run", epochs=2, batch_size=16, prior_epochs=3, prior_channels=4)
    run = recipes.train_vqvae(codec, pictures, asked)
    prior = recipes.prior(codec, pictures, run, asked)
    prior.run.measured("cost", lambda: {"test": float(prior.network.nll(prior.sets.test).double().mean())})


def plain(value):
    """Tensors and what holds them as something that == compares."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def contents(runs):
    """All files of all run folders, by their names, without times."""
    found = {}
    for path in filter(Path.is_file, runs.rglob("*")):
        content = path.read_bytes()
        if path.suffix == ".json":
            content = {key: value for key, value in json.loads(content).items() if key not in TIMES}
        elif path.suffix == ".pt":
            content = plain({key: value for key, value in torch.load(path).items() if key != "seconds"})
        found[str(path.relative_to(runs))] = content
    return found


def assert_equal(runs, whole):
    """Every file; what a failure says is their names."""
    ours, theirs = contents(runs), contents(whole)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


@pytest.mark.slow
def test_broken_off_at_any_moment_all_files_are_those_of_an_undisturbed_training(tmp_path):
    """By a clock, or as a file is written, or broken off by a full disk; a row is then half written in each table."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning_fabric", "hw2lib.recipes"])

    def begin(*args):
        process = context.Process(target=train_all, args=args)
        process.start()
        return process

    def end(*args):
        process = begin(*args)
        process.join()
        return process.exitcode

    assert end(tmp_path / "first", 0) == -signal.SIGKILL  # this one waits for the imports
    began = time.monotonic()
    assert end(tmp_path / "whole") == 0
    seconds, random, runs, broken = time.monotonic() - began, np.random.default_rng(), tmp_path / "broken", 0
    for how in itertools.islice(itertools.cycle(("writing", "clock", "full")), KILLS or 6):
        if how == "clock":
            process = begin(runs)
            process.join(random.uniform(0, seconds))
            process.kill()
            process.join()
            code = process.exitcode
        else:
            code = end(runs, int(random.integers(1, 60)), how == "full")
        if code == 0:  # nothing was left to be broken off
            assert_equal(runs, tmp_path / "whole")
            runs = tmp_path / f"after {broken}"
            continue
        assert code == (3 if how == "full" else -signal.SIGKILL)
        broken += 1
        for table in runs.glob("*/*.csv"):
            if not (table.parent / "SHA256SUMS").exists():
                with table.open("a") as file:
                    file.write("7,7,0.")
    assert broken and end(runs) == 0
    assert_equal(runs, tmp_path / "whole")


MODELS = {
    "cyclegan": (CycleGAN, CycleGANConfig(size=32, base_channels=16, blocks=1), lambda net, x: net.g_ab(x)),
    "vqvae": (VQVAE, VQVAEConfig(), lambda net, x: net.encoder(x)),
    "pixelcnn": (
        GatedPixelCNN,
        PixelCNNConfig(height=32, width=32, channels=16),
        lambda net, x: net((x[:, 0] * 512).int()),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_fit_returns_computes_as_what_is_loaded(name, tmp_path, monkeypatch):
    """To the bit: codes, and with them the prior and all numbers, must not depend on who trained the network and when."""
    kind, config, compute = MODELS[name]
    monkeypatch.setattr(kind, "step", lambda net, batch: {"loss": next(net.parameters()).sum().detach()})

    class Batches:
        description = {}  # noqa: RUF012 - never changed

        def __len__(self):
            return 1

        def __call__(self, *_):
            yield torch.zeros(1)

    model = kind(config)
    run = training.fit(model, Batches(), name=name, epochs=1, device="cpu", precision="32", runs=tmp_path)
    again = kind(config)
    training.fit(again, Batches(), name=name, epochs=1, device="cpu", precision="32", runs=tmp_path)
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = [compute(net, x) for net in (model, again, kind.load(run.weights))]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_what_a_kill_leaves_of_a_file_goes_with_the_next_start(tmp_path):
    """Parts of processes that are gone; those of a living one are being written, and no other file is touched."""
    with subprocess.Popen(["true"]) as gone:
        pass
    ours, theirs, living = (
        tmp_path / f".{name}.{files.OURS}.{process}.part"
        for name, process in (("a.pt", os.getpid()), ("b", gone.pid), ("c", os.getppid()))
    )
    others = [living, tmp_path / ".d.part", tmp_path / f"e.{gone.pid}.part", tmp_path / ".film.2019.part"]
    for path in (ours, theirs, *others):
        path.write_text("half")
    os.utime(ours, (0, 0))  # of an earlier process of our number, as containers have them
    files.write_whole(tmp_path / "f", b"whole")
    assert {*tmp_path.iterdir()} == {*others, tmp_path / "f"}


@pytest.mark.skipif(not KILLS, reason="takes minutes: set HW2_KILLS")
def test_a_killed_report_is_that_of_an_undisturbed_one(tmp_path):
    """Kernel, parent or both; then text, figures and all run folders are equal."""
    random = np.random.default_rng()

    def begin(name):
        return subprocess.Popen(
            [sys.executable, "-m", "hw2lib", "report", "--preset", "smoke", "--out", str(tmp_path / name / "build")],
            env=os.environ | {"HW2_RUNS": str(tmp_path / name / "runs"), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        )

    began = time.monotonic()
    assert begin("whole").wait() == 0
    seconds = time.monotonic() - began
    for _ in range(KILLS):
        report = begin("killed")
        try:
            report.wait(random.uniform(5, seconds / 2))
            break
        except subprocess.TimeoutExpired:
            kernels = psutil.Process(report.pid).children(recursive=True)
            for process in {0: kernels, 1: [report], 2: [report, *kernels]}[int(random.integers(3))]:
                process.kill()
            report.wait()
            psutil.wait_procs(kernels, timeout=30)  # a kernel ends when its parent has
    assert begin("killed").wait() == 0
    assert_equal(tmp_path / "killed" / "runs", tmp_path / "whole" / "runs")
    texts = [(tmp_path / name / "build" / "report.md").read_text() for name in ("killed", "whole")]
    assert len({re.sub(r"They took .+? on|\| [^|]*, until [^|]*UTC \|", "", text) for text in texts}) == 1
    figures = [sorted((tmp_path / name / "build" / "figures").iterdir()) for name in ("killed", "whole")]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(*figures, strict=True))
