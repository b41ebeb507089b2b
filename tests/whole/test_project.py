"""The project itself: what is published is what was run, and what is declared in two places agrees."""

import csv
import itertools
import json
import re
import tomllib

import pytest
import torch
import yaml

from hw2lib import ROOT, recipes
from hw2lib.cyclegan import CycleGAN
from hw2lib.data import unpaired
from hw2lib.data import pictures as data
from hw2lib.evaluation import codec as experiments
from hw2lib.evaluation import judge
from hw2lib.evaluation import likelihoods as prior
from hw2lib.evaluation import scorecards as verdicts
from hw2lib.evaluation import translations as translation
from hw2lib.pixelcnn import GatedPixelCNN
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


def test_rooms_import_as_planned():
    """Models, pictures' makers and figures know no other room; nothing imports the report."""
    for room in ("cyclegan", "vqvae", "pixelcnn", "toy", "figures"):
        source = (ROOT / "hw2lib" / f"{room}.py").read_text()
        imported = set(re.findall(r"^(?:from|import) (hw2lib\S*)(?: import weights)?", source, re.M))
        assert imported <= {
            "hw2lib",
            "hw2lib.data.animal",
            "hw2lib.quantizers",
            "hw2lib.networks",
            "hw2lib.optim",
        }, room
    for path in (ROOT / "hw2lib").rglob("*.py"):
        if path.stem not in ("report", "__main__"):
            assert not re.search(r"import .*\breport\b", path.read_text()), path.name


def published():
    return sorted((ROOT / "results").glob("*/metrics.json"))


@pytest.mark.parametrize("path", published(), ids=lambda path: path.parent.name)
def test_published_results_are_whole(path):
    """Published results come from a finished run of a known commit and agree with their own history, or have every case."""
    provenance = json.loads((path.parent / "provenance.json").read_text())
    assert re.fullmatch(r"[0-9a-f]{40}", provenance["commit"])
    assert provenance["ended"] > provenance["started"]
    config = json.loads((path.parent / "config.json").read_text())
    assert not provenance["dirty"]
    if "cases" in config:
        rows = json.loads(path.read_text())["rows"]
        assert [{name: row[name] for name in case} for row, case in zip(rows, config["cases"], strict=True)] == config[
            "cases"
        ]
        return
    steps = list(csv.DictReader((path.parent / "history.csv").open()))
    assert [int(float(row["step"])) for row in steps] == list(range(1, config["steps"] + 1))


def test_the_report_shows_the_published_numbers():
    """The NMSE, PSNR, perplexity and codes of the published run stand in report.md as results/ has them."""
    text = (ROOT / "report.md").read_text()
    scores = json.loads((ROOT / "results" / "vqvae" / "metrics.json").read_text())
    found = scores["reconstruction"]
    for number in (f"{found['test_nmse']:.4f}", f"{found['test_mse']:.5f}", f"{found['test_psnr']:.2f}"):
        assert number in text
    assert f"{scores['use']['codes_used']} of 512 codes occur" in text
    last = list(csv.DictReader((ROOT / "results" / "vqvae" / "epochs.csv").open()))[-1]
    assert float(last["test_nmse"]) == pytest.approx(found["test_nmse"], rel=1e-5)
    for name in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (ROOT / name).is_file()


def test_published_weights_load():
    """The published network is the homework's, at its sizes."""
    model = VQVAE.load(ROOT / "weights" / "vqvae.safetensors")
    assert (model.config.num_codes, model.config.code_dim, model.config.commitment) == (512, 64, 0.25)
    assert model.encode(torch.zeros(1, 3, 32, 32)).shape == (1, 8, 8)


def cards():
    return json.loads((ROOT / "results" / "cyclegan" / "metrics.json").read_text())["cards"]


def test_the_report_shows_the_published_translations():
    """Shares, distances and cycle errors of the published CycleGAN stand in report.md as results/ has them."""
    text = (ROOT / "report.md").read_text()
    for to in ("a", "b"):
        for row in cards()[to].values():
            assert f"| {row['zebra']:.1%} | {row['kd']:.3f} ± {row['kd_error']:.3f} |" in text
    errors = json.loads((ROOT / "results" / "cyclegan" / "metrics.json").read_text())["cycle_error"]
    assert f"{errors['average']['aba']:.3f}" in text
    last = list(csv.DictReader((ROOT / "results" / "cyclegan" / "epochs.csv").open()))[-1]
    # training precision against single, and published weights in half: a picture or two of 120 may differ
    assert float(last["average_zebra_ab"]) == pytest.approx(cards()["b"]["averaged"]["zebra"], abs=0.03)


def test_published_translators_load():
    """The published networks are the homework's: least squares, cycle loss times 10, identity loss off, 20 epochs."""
    model = CycleGAN.load(ROOT / "weights" / "cyclegan.safetensors")
    asked = model.config
    assert (asked.objective, asked.cycle_weight, asked.identity_weight) == ("least_squares", 10, 0)
    assert len(list(csv.DictReader((ROOT / "results" / "cyclegan" / "epochs.csv").open()))) == 20
    for averaged in (False, True):
        for generator in model.generators(averaged):
            assert generator(torch.zeros(1, 3, asked.size, asked.size)).shape == (
                1,
                3,
                asked.size,
                asked.size,
            )


@pytest.mark.real_data
def test_published_translators_give_the_published_numbers():
    """On the real test pictures the published generators score what results/ says (skipped where they are not)."""
    if not (data.root_folder() / "horse2zebra").is_dir():
        pytest.skip("no folder horse2zebra in the data root")
    model = CycleGAN.load(ROOT / "weights" / "cyclegan.safetensors")
    domains = unpaired.load("horse2zebra", model.config.size)
    fakes = {"averaged": translation.translate(model.generators(averaged=True)[0], domains.test_a)}
    found = verdicts.card(domains, judge.Judge(), "b", fakes)
    for name, row in found.items():
        assert row["zebra"] == pytest.approx(cards()["b"][name]["zebra"], abs=0.02), name
        assert row["kd"] == pytest.approx(cards()["b"][name]["kd"], abs=0.003), name


@pytest.fixture
def cifar10():
    """The real pictures; the test is skipped where they are not."""
    try:
        return data.cifar10(download=False)
    except data.DataError as reason:
        pytest.skip(str(reason))


@pytest.mark.real_data
def test_published_weights_give_the_published_numbers(cifar10):
    """On the real test pictures the published network scores what results/ says (skipped where they are not)."""
    found = experiments.evaluate_vqvae(VQVAE.load(ROOT / "weights" / "vqvae.safetensors"), cifar10.test)
    said = json.loads((ROOT / "results" / "vqvae" / "metrics.json").read_text())["reconstruction"]
    for name in found:
        assert found[name] == pytest.approx(said[name], rel=2e-3), name


def prior_scores():
    return json.loads((ROOT / "results" / "pixelcnn" / "metrics.json").read_text())


def test_the_report_shows_the_published_prior():
    """Likelihoods, distances of the new pictures and identities stand in report.md as results/ has them."""
    text, found = (ROOT / "report.md").read_text(), prior_scores()
    for name, row in found["likelihood"]["rows"].items():
        assert f"| {name} | {row['nats']:.3f}" in text, name
    for name, row in found["card"].items():
        assert f"| {name} | {row['kd']:.3f} ± {row['kd_error']:.3f} |" in text
    for left, right in found["identities"].values():
        assert f"| {left:.6f} | {right:.6f} |" in text
        assert left == pytest.approx(right, rel=1e-6)


def test_the_published_prior_is_far_better_than_frequencies():
    """On the test codes it needs at least a nat less than the frequencies of each place, and was not chosen by them."""
    rows = prior_scores()["likelihood"]["rows"]
    assert rows[prior.PLACE]["nats"] - rows[prior.SEEN]["nats"] > 1
    epochs = list(csv.DictReader((ROOT / "results" / "pixelcnn" / "epochs.csv").open()))
    best = min(epochs, key=lambda row: float(row["held_out_nll"]))
    assert float(best["test_nll"]) == pytest.approx(rows[prior.TOLD]["nats"], rel=1e-5)


def test_the_published_prior_fits_the_published_codebook():
    """Both weights files load and belong together; classes are CIFAR-10's."""
    model = VQVAE.load(ROOT / "weights" / "vqvae.safetensors")
    pixelcnn = GatedPixelCNN.load(ROOT / "weights" / "pixelcnn.safetensors")
    recipes.require_match(pixelcnn, model)
    assert pixelcnn.config.class_names == data.CIFAR10_CLASSES


def test_the_report_shows_the_run_with_the_identity_loss():
    """Its scores and those of the run without stand in report.md as results/ has them, at equal steps and rates."""
    text = (ROOT / "report.md").read_text()
    folder = ROOT / "results" / "cyclegan-identity"
    without, with_it = json.loads((folder / "metrics.json").read_text())["beside"].values()
    for score in without:
        assert f"| {score} | {without[score]:.3f} | {with_it[score]:.3f} |" in text
    config = json.loads((folder / "config.json").read_text())
    assert (config["model"]["identity_weight"], config["model"]["decay_share"]) == (0.5, 0.0)
    last = list(csv.DictReader((folder / "epochs.csv").open()))[-1]
    assert float(last["average_zebra_ab"]) == pytest.approx(with_it["called zebra, A to B"])


@pytest.mark.real_data
def test_the_published_prior_gives_the_published_numbers(cifar10):
    """On the codes of the real test pictures it costs what results/ says (skipped where they are not)."""
    model = VQVAE.load(ROOT / "weights" / "vqvae.safetensors")
    codes = experiments.encode_pictures(model, cifar10.test)
    costs = GatedPixelCNN.load(ROOT / "weights" / "pixelcnn.safetensors").nll(codes, cifar10.test_labels)
    said = prior_scores()["likelihood"]["rows"][prior.TOLD]["nats"]
    assert float(costs.double().mean()) == pytest.approx(said, abs=2e-3)
