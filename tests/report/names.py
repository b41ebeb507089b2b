"""The names that the answers of both notebooks use, as they are in the published run: from results/ alone."""

from types import SimpleNamespace

import torch

from hw2lib import parameters
from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.evaluation import codebook_maps, codec, scorecards
from hw2lib.networks import ResnetGenerator
from hw2lib.pixelcnn import GatedPixelCNN, PixelCNNConfig
from hw2lib.report import tables
from hw2lib.report.document import PUBLISHED
from hw2lib.studies import cyclegan_parts, findings, study
from hw2lib.training import Run
from hw2lib.vqvae import VQVAE, VQVAEConfig


def names_of(stem: str) -> dict:
    """The namespace in which the answers of notebooks/<stem>.ipynb are rendered."""
    return {"01_cyclegan": of_cyclegan, "02_vqvae": of_vqvae}[stem]()


def of_cyclegan() -> dict:
    run, second, small = map(Run.published, ("cyclegan", "cyclegan-identity", "ablations"))
    asked = parameters.given(parameters.CycleGANParameters, parameters.preset(PUBLISHED, "01_cyclegan"))
    config = CycleGANConfig(**run.config["model"])
    model = CycleGAN(config)
    early, late = scorecards.first_and_last_tenth(run.history)
    parts, ends = study.by_case(small), small.metrics["ends"]
    data = run.config["data"]
    sets = {name: range(data[name]) for name in ("train_a", "train_b", "test_a", "test_b")}
    outputs = torch.linspace(-4, 4, 161, dtype=torch.float64).numpy()
    return {
        **{"asked": asked, "config": config, "run": run, "second": second, "small": small, "findings": findings},
        "domains": SimpleNamespace(name=data["name"], a="horse", b="zebra", zebras=True, aligned=False, **sets),
        **{"a": "horse", "b": "zebra", "photographs": True, "studied": True, "beside_photographs": True},
        "generator_weights": tables.count_weights(model.g_ab),
        "discriminator_weights": tables.count_weights(model.d_b),
        **{"made": run.provenance, "history": run.history, "epochs": run.epochs, "early": early, "late": late},
        **{"kinds": ["last", "average"], "best": "average", "steps": small.config["settings"]["steps"]},
        **{"parts": parts, "ends": ends, "found": run.metrics, "cards": run.metrics["cards"]},
        **{"beside": second.metrics["beside"], "hidden": run.metrics["hidden"]},
        "gradients": cyclegan_parts.gradient_by_logit(outputs),
        "marks": cyclegan_parts.gradients_at_the_end(parts),
        "papers_weights": tables.count_weights(ResnetGenerator()),
        **{f"into_{domain}": findings.loss_and_lead(run.history, domain) for domain in "ab"},
    }


def of_vqvae() -> dict:
    run, short, prior_run = map(Run.published, ("vqvae", "vqvae-short", "pixelcnn"))
    linear, power, modes = map(Run.published, ("linear-vae", "decoder-power", "ring"))
    removed, started, quantizers = map(Run.published, ("codebook-terms", "codebook-starts", "codebook-quantizers"))
    asked = parameters.given(parameters.VQVAEParameters, parameters.preset(PUBLISHED, "02_vqvae"))
    config = VQVAEConfig(**run.config["model"])
    prior = GatedPixelCNN(PixelCNNConfig(**prior_run.config["model"]))
    early, late = scorecards.first_and_last_tenth(run.history)
    epochs, likelihood, decoders = run.epochs, prior_run.metrics["likelihood"], study.by_case(power)
    return {
        **{"asked": asked, "config": config, "run": run, "short": short, "prior_run": prior_run, "findings": findings},
        **{"removed": removed, "started": started, "quantizers": quantizers},
        **{
            "linear": linear,
            "power": power,
            "modes": modes,
            "cifar10": True,
            "studied": True,
            "prior_on_cifar10": True,
        },
        **{"made": run.provenance, "history": run.history, "epochs": epochs, "early": early, "late": late},
        "weights": tables.count_weights(VQVAE(config)),
        **{"found": run.metrics, "others": codec.comparison(short), "facts": run.metrics["gradient_facts"]},
        "wider": codebook_maps.islands(codebook_maps.load_maps(run), within=8),
        **{"tail": findings.trend(epochs["test_nmse"]), "rise": findings.course(epochs["test_perplexity"])},
        **{
            "by_quantizer": study.by_case(quantizers),
            "terms": study.by_case(removed),
            "starts": study.by_case(started),
        },
        **{"prior_made": prior_run.provenance, "prior_epochs": prior_run.epochs, "prior_found": prior_run.metrics},
        "prior_weights": tables.count_weights(prior),
        **{"fields": prior_run.metrics["fields"], "known": likelihood["rows"], "named": likelihood["class_named"]},
        **{"agreement": findings.agreement(study.rows(linear)), "decoders": decoders},
        "worth": {k: findings.worth_of_z(entries) for k, entries in decoders.items()},
        **{"blurred": findings.blurred(study.rows(modes)), "sharp": findings.sharp(study.rows(modes))},
        **{"card": prior_run.metrics["card"], "copies": prior_run.metrics["copies"]},
    }
