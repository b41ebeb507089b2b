"""The published runs are found again: from the presets and the code alone comes every published folder name."""

import json

import pytest
import torch
import yaml

from hw2lib import ROOT, recipes
from hw2lib.cyclegan import CycleGAN
from hw2lib.data import batches
from hw2lib.data import unpaired
from hw2lib.data import pictures as data
from hw2lib.evaluation import codec as experiments
from hw2lib.evaluation import translations as translation
from hw2lib.parameters import CycleGANParameters, VQVAEParameters, given
from hw2lib.pixelcnn import GatedPixelCNN
from hw2lib.report import build as report
from hw2lib.studies import codebooks
from hw2lib.studies import cyclegan_parts as ablations
from hw2lib.studies import mode_collapse as ring
from hw2lib.studies import posterior_collapse as collapse
from hw2lib.training.runs import Run
from hw2lib.vqvae import VQVAE

PUBLISHED = {
    "cyclegan": "cyclegan-90fdb206",
    "cyclegan-identity": "cyclegan-identity-1ae570e0",
    "ablations": "ablations-df2e94c6",
    "vqvae": "vqvae-cfb0a446",
    "vqvae-short": "vqvae-short-4edf5966",
    "pixelcnn": "pixelcnn-dab8bf22",
    "linear-vae": "linear-vae-5dba90a6",
    "decoder-power": "decoder-power-16e34bee",
    "ring": "ring-55be8095",
    "codebook-terms": "codebook-terms-07a4c58e",
    "codebook-starts": "codebook-starts-f259ef02",
    "codebook-quantizers": "codebook-quantizers-67e93b16",
}


def blank(*shape):
    """Black pictures of any number, in no memory."""
    return torch.zeros(1, dtype=torch.uint8).expand(shape)


@pytest.fixture
def restored(tmp_path, monkeypatch):
    """The published runs as `make restore` makes them; whatever would train or measure a case anew fails."""
    report.restore(runs=tmp_path)
    monkeypatch.setattr(Run, "begin", lambda run: pytest.fail(f"{run.folder.name} would be trained"))
    return tmp_path


def preset(kind, notebook, folder):
    values = yaml.safe_load((ROOT / "notebooks" / "presets" / "cpu" / notebook).read_text())
    return given(kind, values | {"runs": str(folder), "device": "cpu"})


def test_published_cyclegans_are_found(restored):
    """The runs of notebook 01 have the published hashes with the preset cpu, and are loaded, not trained."""
    asked = preset(CycleGANParameters, "01_cyclegan.yaml", restored)
    config = translation.make(
        translation.CycleGANConfig, asked.model_dump(include={*translation.CycleGANConfig.model_fields})
    )
    a, b = blank(1067, 3, 143, 143), blank(1334, 3, 143, 143)
    domains = unpaired.Domains(
        "horse2zebra", a, b, blank(120, 3, 128, 128), blank(140, 3, 128, 128), 128, "496f57adf57d4710", zebras=True
    )
    runs = [
        recipes.train_cyclegan(CycleGAN(config), domains, None, asked),
        recipes.train_with_identity(config, domains, None, asked),
        ablations.ablate(asked.runs, asked.answer_steps, tuple(range(asked.answer_seeds))),
    ]
    assert {run.name: run.folder.name for run in runs} == {
        name: PUBLISHED[name] for name in ("cyclegan", "cyclegan-identity", "ablations")
    }


def test_published_vqvaes_are_found(restored):
    """The runs of notebook 02 have the published hashes with the preset cpu, and are loaded, not trained."""
    asked = preset(VQVAEParameters, "02_vqvae.yaml", restored)
    classes = data.CIFAR10_CLASSES
    pictures = data.Pictures("cifar10", blank(50_000, 3, 32, 32), blank(10_000, 3, 32, 32), "850f1ede303e6b5b", classes)
    pictures.__dict__["variance"] = 0.0632869  # of CIFAR-10
    fields = {*experiments.VQVAEConfig.model_fields} - {"data_variance"}
    config = experiments.VQVAEConfig(**asked.model_dump(include=fields), data_variance=pictures.variance)
    model, seeds = VQVAE(config), tuple(range(asked.answer_seeds))
    runs = [recipes.train_vqvae(model, pictures, asked), recipes.train_vqvae_as_others(pictures, config, asked)]
    origin = {"pictures": pictures.checksum, "codebook": recipes.codebook_checksum(model)}
    maps, labels = blank(90_000, 8, 8), blank(90_000)
    sets = batches.CodeSets(maps, maps[:5000], maps[:10_000], maps, labels, labels[:5000], labels[:10_000], origin)
    short = {"runs": asked.runs, "updates": asked.answer_updates, "seeds": seeds, "config": config}
    runs += [
        recipes.train_prior(GatedPixelCNN(recipes.prior_config(model, pictures, asked)), sets, asked),
        collapse.linear_vae(asked.runs, seeds=seeds),
        collapse.decoder_power(asked.runs, steps=asked.answer_steps, seeds=seeds),
        ring.ring(asked.runs, steps=asked.answer_steps, seeds=seeds),
        codebooks.terms(pictures, **short),
        codebooks.starts(pictures, **short),
        codebooks.other_quantizers(pictures, **short),
    ]
    found = {run.name: run.folder.name for run in runs}
    assert found == {name: PUBLISHED[name] for name in PUBLISHED if "cyclegan" not in name and name != "ablations"}


def test_the_report_names_the_published_runs():
    """report.md names each published run by its folder, and results/ holds exactly these."""
    text = (ROOT / "report.md").read_text()
    assert {path.parent.name for path in (ROOT / "results").glob("*/config.json")} == set(PUBLISHED)
    for name, folder in PUBLISHED.items():
        assert folder in text, folder
        config = json.loads((ROOT / "results" / name / "config.json").read_text())
        assert Run(name, config).folder.name == folder
