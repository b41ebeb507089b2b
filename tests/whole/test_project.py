"""The project itself: what is published is what was run, and what is declared in two places agrees."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib

import pytest
import torch
import yaml

from hw2lib import ROOT, recipes
from hw2lib.cyclegan import CycleGAN
from hw2lib.data import CIFAR10_CLASSES
from hw2lib.pixelcnn import GatedPixelCNN
from hw2lib.studies import study
from hw2lib.training import Run
from hw2lib.vqvae import VQVAE

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_environment_agrees_with_pyproject():
    """environment.yml holds Python, pip and the project with extras that exist, pinned by the same constraints."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["project"]["name"]
    python, pip, packages = environment["dependencies"]
    assert python.startswith("python=3.")
    assert python.split("=")[1] == PROJECT["project"]["requires-python"].removeprefix(">=")
    assert pip == "pip"
    constraints, project = packages["pip"]
    assert (ROOT / constraints.removeprefix("-c ")).is_file()
    extras = re.fullmatch(r"-e \.\[(.+)\]", project)[1].split(",")
    assert set(extras) <= set(PROJECT["project"]["optional-dependencies"])
    assert f".[{','.join(extras)}]" in (ROOT / "Makefile").read_text()


def test_constraints_pin_all_that_is_declared():
    """Every dependency has exactly one version in constraints.txt, which names no host and no path."""
    text = (ROOT / "constraints.txt").read_text()
    pins = dict(line.split(" ")[0].split("==") for line in text.splitlines() if "==" in line)
    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    for requirement in itertools.chain(*groups):
        name = re.match(r"[\w-]+", requirement)[0].lower().replace("_", "-")
        assert name in {pin.lower().replace("_", "-") for pin in pins}, requirement
    assert "://" not in text
    assert "/" not in text


# Who may import whom: each room, or wing, and what of the package it may know beside itself, hw2lib and hw2lib.files.
MODELS = {"cyclegan", "vqvae", "pixelcnn"}
BASE = {"networks", "quantizers", "optim", "processes"}
PLAN = {
    **{room: {"processes"} for room in BASE},
    **{room: BASE | {"training.weights"} for room in MODELS},
    "files": set(),
    "parameters": set(),
    "training": {"processes"},
    # A leaf: how a long job shows that it lives.
    "data": {"training.progress"},
    "evaluation": {*BASE, *MODELS, "data", "training"},
    "recipes": {*BASE, *MODELS, "parameters", "data", "training", "evaluation"},
    "studies": {*BASE, *MODELS, "parameters", "data", "training", "evaluation", "recipes"},
    "report": {*BASE, *MODELS, "parameters", "data", "training", "evaluation", "recipes", "studies"},
    "translate": {"cyclegan", "data", "training", "evaluation"},
    "__main__": {
        *BASE,
        *MODELS,
        "parameters",
        "data",
        "training",
        "evaluation",
        "recipes",
        "studies",
        "report",
        "translate",
    },
}


def imports(path):
    """The modules of hw2lib that a file imports, anywhere in it: "training.weights", "data", ..."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("hw2lib."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hw2lib":
            inside = node.module.partition(".")[2]
            for alias in node.names:
                whole = f"{inside}.{alias.name}".strip(".")
                there = ROOT / "hw2lib" / whole.replace(".", "/")
                yield whole if there.is_dir() or there.with_suffix(".py").is_file() else inside


def test_rooms_import_as_planned():
    """Models know no data, training no model, data neither; only the command line imports the report."""
    seen = set()
    for path in (ROOT / "hw2lib").rglob("*.py"):
        room = path.relative_to(ROOT / "hw2lib").with_suffix("").parts[0]
        if room == "__init__":
            continue
        seen.add(room)
        for name in filter(None, imports(path)):
            known = {name, name.split(".")[0]}
            assert known & (PLAN[room] | {room, "files"}), f"{path.name} of {room} imports {name}"
    assert seen == set(PLAN)


def test_importing_changes_nothing_outside():
    """All modules can be imported without a change of matplotlib's settings, torch's threads or the random state."""
    rooms = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "hw2lib").rglob("*.py")]
    names = [".".join(room.parts).removesuffix(".__init__") for room in rooms]
    source = f"""
import matplotlib, torch
before = dict(matplotlib.rcParams), torch.get_num_threads(), torch.random.get_rng_state().tolist()
import importlib
for name in {names}:
    importlib.import_module(name)
assert (dict(matplotlib.rcParams), torch.get_num_threads(), torch.random.get_rng_state().tolist()) == before
import sys
assert not set(sys.modules) & {{"lightning_fabric", "papermill", "umap"}}, "imported too early"
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-1000:]


# ---- what is published

RUNS = sorted(path.parent.name for path in (ROOT / "results").glob("*/config.json"))


@pytest.mark.parametrize("name", RUNS)
def test_published_results_are_whole(name):
    """They come from a finished run of a known commit and a clean tree, and have every step, or every case and seed."""
    run = Run.published(name)
    assert re.fullmatch(r"[0-9a-f]{40}", run.provenance["commit"])
    assert run.provenance["ended"] > run.provenance["started"]
    assert not run.provenance["dirty"]
    if "settings" in run.config:
        rows, names = study.rows(run), run.metrics["varied"]
        cases = [tuple(row[name] for name in names) for row in rows]
        seeds = {*range(10 if name == "plane" else 3)}
        assert len(cases) == len(set(cases)) == len(seeds) * len({case[:-1] for case in cases})
        assert {row["seed"] for row in rows} == seeds
    else:
        assert run.history["step"].tolist() == list(range(1, run.config["steps"] + 1))


def test_published_networks_are_the_homeworks():
    """Sizes, codes and losses of the published weights are those that the report speaks of."""
    codec = VQVAE.load(ROOT / "weights" / "vqvae.safetensors")
    assert (codec.config.num_codes, codec.config.code_dim, codec.config.commitment) == (512, 64, 0.25)
    assert codec.encode(torch.zeros(1, 3, 32, 32)).shape == (1, 8, 8)
    translators = CycleGAN.load(ROOT / "weights" / "cyclegan.safetensors")
    asked = translators.config
    assert (asked.objective, asked.cycle_weight, asked.identity_weight) == ("least_squares", 10, 0)
    x = torch.zeros(1, 3, asked.size, asked.size)
    for averaged in (False, True):
        assert all(generator(x).shape == x.shape for generator in translators.generators(averaged))
    assert len(Run.published("cyclegan").epochs["epoch"]) == 20
    second = Run.published("cyclegan-identity").config["model"]
    assert (second["identity_weight"], second["decay_share"]) == (0.5, 0.0)


def test_the_published_prior_belongs_to_the_published_codec():
    """It fits its codebook, knows CIFAR-10's classes, and was chosen by held-out maps, not by the test."""
    run = Run.published("pixelcnn")
    prior = GatedPixelCNN.load(run.kept_weights)
    recipes.require_match(prior, VQVAE.load(Run.published("vqvae").kept_weights))
    assert prior.config.class_names == CIFAR10_CLASSES
    rows, epochs = run.metrics["likelihood"]["rows"], run.epochs
    assert rows["place"]["nats"] - rows["seen"]["nats"] > 1
    assert epochs["test_nll"][epochs["held_out_nll"].argmin()] == pytest.approx(rows["told"]["nats"], rel=1e-5)


def test_metrics_agree_with_the_tables_of_the_run():
    """The last epoch's scores are those measured again on the published weights."""
    run = Run.published("vqvae")
    assert run.epochs["test_nmse"][-1] == pytest.approx(run.metrics["reconstruction"]["test_nmse"], rel=1e-5)
    run = Run.published("cyclegan")
    # Training precision against single, and published weights in half: a picture or two of 120 may differ.
    shares = run.epochs["average_zebra_ab"][-1], run.metrics["cards"]["b"]["average"]["zebra"]
    assert shares[0] == pytest.approx(shares[1], abs=0.03)


def test_the_report_shows_its_figures():
    """Every picture of report.md is in figures/, and nothing else is."""
    named = set(re.findall(r"\]\(figures/([^)]+)\)", (ROOT / "report.md").read_text()))
    assert named == {path.name for path in (ROOT / "figures").iterdir()}
