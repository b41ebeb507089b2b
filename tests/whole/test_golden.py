"""The published runs are found again: from the presets and the code alone comes every published folder name."""

import json

import pytest
import torch

from hw2lib import ROOT, recipes
from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data import CIFAR10_CLASSES, CodeSets, Domains, Pictures
from hw2lib.parameters import CycleGANParameters, VQVAEParameters, given, preset
from hw2lib.pixelcnn import GatedPixelCNN
from hw2lib.report import publish
from hw2lib.studies import load_or_run, schedules
from hw2lib.training import Run
from hw2lib.vqvae import VQVAE, VQVAEConfig

# Trainings are hashed by all that they are made of; studies by their settings, so that more cases find the same folder.
PUBLISHED = {
    "cyclegan": "cyclegan-90fdb206",
    "cyclegan-again": "cyclegan-again-8be37811",
    "cyclegan-double": "cyclegan-double-d47e5dc9",
    "cyclegan-identity": "cyclegan-identity-1ae570e0",
    "vqvae": "vqvae-cfb0a446",
    "vqvae-short": "vqvae-short-4edf5966",
    "pixelcnn": "pixelcnn-dab8bf22",
    "ablations": "ablations-d12c7a1c",
    "codebook-quantizers": "codebook-quantizers-7dd80956",
    "codebook-starts": "codebook-starts-238098e3",
    "codebook-terms": "codebook-terms-87de1572",
    "decoder-power": "decoder-power-4c278ea8",
    "linear-vae": "linear-vae-7b0fef0d",
    "plane": "plane-8fac0a4e",
    "ring": "ring-7c939cbb",
    "vqvae-double": "vqvae-double-d705d25b",
    "vqvae-half": "vqvae-half-10b7483a",
    "vqvae-held-out": "vqvae-held-out-5e2fb033",
    "vqvae-usual": "vqvae-usual-38b68612",
}


def blank(*shape):
    """Black pictures of any number, in no memory."""
    return torch.zeros(1, dtype=torch.uint8).expand(shape)


@pytest.fixture
def restored(tmp_path, monkeypatch):
    """The published runs as `make restore` makes them; whatever would train, or measure a case anew, fails."""
    publish.restore(runs=tmp_path)
    monkeypatch.setattr(Run, "begin", lambda run: pytest.fail(f"{run.folder.name} would be trained"))
    return (f"runs={tmp_path}", "device=cpu", "n_jobs=1")


def assert_published(runs):
    assert {run.name: run.folder.name for run in runs} == {run.name: PUBLISHED[run.name] for run in runs}


def test_published_cyclegans_are_found(restored):
    """The runs of notebook 01 have the published names with the preset cpu, and are loaded, not trained."""
    asked = given(CycleGANParameters, preset("cpu", "01_cyclegan"), restored)
    config = CycleGANConfig(**asked.model_dump(include={*CycleGANConfig.model_fields}))
    sides = {"train_a": (1067, 143), "train_b": (1334, 143), "test_a": (120, 128), "test_b": (140, 128)}
    pictures = {split: blank(count, 3, side, side) for split, (count, side) in sides.items()}
    domains = Domains("horse2zebra", **pictures, size=128, checksum="496f57adf57d4710", zebras=True)
    assert_published(
        [
            recipes.train_cyclegan(CycleGAN(config), domains, None, asked),
            recipes.cyclegan_again(config, domains, None, asked),
            recipes.cyclegan_longer(config, domains, None, asked),
            recipes.cyclegan_with_identity(config, domains, None, asked),
            *(load_or_run(name, asked) for name in ("ablations", "plane")),
        ]
    )


def test_published_vqvaes_are_found(restored):
    """The runs of notebook 02 have the published names with the preset cpu, and are loaded, not trained."""
    asked = given(VQVAEParameters, preset("cpu", "02_vqvae"), restored)
    train, test = blank(50_000, 3, 32, 32), blank(10_000, 3, 32, 32)
    pictures = Pictures("cifar10", train, test, "850f1ede303e6b5b", CIFAR10_CLASSES)
    # The variance of CIFAR-10, which black pictures have not.
    pictures.__dict__["variance"] = 0.0632869
    fields = {*VQVAEConfig.model_fields} - {"data_variance"}
    config = VQVAEConfig(**asked.model_dump(include=fields), data_variance=pictures.variance)
    codec = VQVAE(config)
    run = recipes.train_vqvae(codec, pictures, asked)
    maps, labels = blank(90_000, 8, 8), blank(90_000)
    sets = CodeSets(
        train=maps, held_out=maps[:5000], test=maps[:10_000], in_order=maps,
        train_labels=labels, held_out_labels=labels[:5000], test_labels=labels[:10_000],
        origin={"pictures": pictures.checksum, "codebook": recipes.codebook_checksum(codec)},
    )  # fmt: skip
    studied = ("linear-vae", "decoder-power", "ring")
    short = ("codebook-terms", "codebook-starts", "codebook-quantizers")
    assert_published(
        [
            run,
            recipes.vqvae_as_others(config, pictures, asked),
            *(schedules.whole_training(name, config, pictures, asked) for name in schedules.EPOCHS),
            recipes.train_prior(GatedPixelCNN(recipes.prior_config(codec, pictures, asked)), sets, asked),
            *(load_or_run(name, asked) for name in studied),
            *(load_or_run(name, asked, pictures=pictures, config=config) for name in short),
        ]
    )


def test_the_report_names_the_published_runs():
    """report.md names each published run by its folder, and results/ holds exactly these."""
    text = (ROOT / "report.md").read_text()
    assert {path.parent.name for path in (ROOT / "results").glob("*/config.json")} == set(PUBLISHED)
    for name, folder in PUBLISHED.items():
        assert folder in text, folder
        config = json.loads((ROOT / "results" / name / "config.json").read_text())
        assert Run(name, config).folder.name == folder
