"""Checked parameters in, a trained run out: what notebooks and the command line call."""

import io
import zipfile
from pathlib import Path

import numpy as np
import torch

from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data import unpaired
from hw2lib.data import pictures as data
from hw2lib.data.batches import Batches, CodeBatches, CodeSets, Pairs, random_stream
from hw2lib.data.unpaired import Domains
from hw2lib.data.pictures import Pictures, checksum
from hw2lib.evaluation.codec import encode_pictures, evaluate_vqvae
from hw2lib.evaluation.judge import Judge
from hw2lib.evaluation.likelihoods import CHOSEN, PriorExaminer
from hw2lib.evaluation.translations import Examiner
from hw2lib.parameters import CycleGANParameters, VQVAEParameters, make
from hw2lib.pixelcnn import CodesError, GatedPixelCNN, PixelCNNConfig
from hw2lib.training import loop as training
from hw2lib.training import weights
from hw2lib.training.runs import Run, write_whole
from hw2lib.vqvae import VQVAE, VQVAEConfig

# What is printed after each epoch, with the scores of the generators that are judged; all else is in the run's tables.
SHOWN = ("g_ab", "g_ba", "cycle_a", "cycle_b", "d_a", "d_b")


SHOWN_SCORES = ("zebra_ab", "kd_ab", "truth_ab")


def cyclegan_setup(asked: CycleGANParameters) -> tuple[CycleGANConfig, Domains]:
    """The config of the networks and the pictures. What is wrong with the config is said before they load."""
    config = make(CycleGANConfig, asked.model_dump(include=set(CycleGANConfig.model_fields)))
    return config, unpaired.load(asked.dataset, config.size, asked.data_root)


def judge_for(domains: Domains) -> Judge | None:
    """The judge of photographs; of drawn pictures the truth is known. Raises JudgeError if it is not installed."""
    return None if domains.aligned else Judge()


def train_cyclegan(model: CycleGAN, domains: Domains, judge: Judge | None, asked: CycleGANParameters) -> Run:
    """The run that the report is about."""
    return _fit_cyclegan(model, domains, judge, asked, "cyclegan", asked.epochs)


def train_with_identity(
    config: CycleGANConfig, domains: Domains, judge: Judge | None, asked: CycleGANParameters
) -> Run:
    """`asked.identity_epochs` epochs with the identity loss of the paper's section 5.2, at the same learning rates."""
    decay = config.decay_share if asked.identity_epochs == asked.epochs else 0.0
    model = CycleGAN(config.model_copy(update={"identity_weight": 0.5, "decay_share": decay}))
    return _fit_cyclegan(model, domains, judge, asked, "cyclegan-identity", asked.identity_epochs, numbers_only=True)


def _fit_cyclegan(
    model: CycleGAN,
    domains: Domains,
    judge: Judge | None,
    asked: CycleGANParameters,
    name: str,
    epochs: int,
    **more,
) -> Run:
    kind = "average" if model.config.ema_decay else "last"
    return training.fit(
        model,
        Pairs(domains.train_a, domains.train_b, domains.size, asked.seed, asked.batch_size),
        name=name,
        epochs=epochs,
        evaluate=Examiner(model, domains, judge),
        shown=(*SHOWN, *(f"{kind}_{score}" for score in SHOWN_SCORES)),
        data=domains.description,
        **asked.model_dump(include={"device", "precision", "runs"}),
        **more,
    )


def vqvae_setup(asked: VQVAEParameters) -> tuple[VQVAEConfig, data.Pictures]:
    """The pictures, and the config of a network for them. What is wrong with the config is said before they load."""
    fields = set(VQVAEConfig.model_fields) - {"data_variance"}
    config = make(VQVAEConfig, asked.model_dump(include=fields))
    pictures = data.load(asked.dataset, asked.size, asked.data_root)
    return make(VQVAEConfig, config.model_dump() | {"data_variance": pictures.variance}), pictures


def train_vqvae(model: VQVAE, pictures: data.Pictures, asked: VQVAEParameters) -> Run:
    """The run that the report is about."""
    batches = Batches(pictures.train, asked.batch_size, asked.seed)
    return _fit_vqvae(model, batches, pictures, asked, name="vqvae", epochs=asked.epochs)


def train_vqvae_as_others(pictures: data.Pictures, config: VQVAEConfig, asked: VQVAEParameters) -> Run:
    """`asked.comparison_updates` updates as other notebooks print them: batch 32, constant rate 3e-4."""
    model = VQVAE(config.model_copy(update={"learning_rate": 3e-4, "schedule": "constant"}))
    batches = Batches(pictures.train, 32, asked.seed)
    updates = asked.comparison_updates
    return _fit_vqvae(model, batches, pictures, asked, name="vqvae-short", updates=updates, numbers_only=True)


def _fit_vqvae(model: VQVAE, batches: Batches, pictures: data.Pictures, asked: VQVAEParameters, **more) -> Run:
    return training.fit(
        model,
        batches,
        evaluate=lambda folder, epoch: evaluate_vqvae(model, pictures.test),
        data=pictures.description,
        **more,
        **asked.model_dump(include={"device", "precision", "runs"}),
    )


PRIOR_BATCH_SIZE = (
    64  # with a rate of 6e-3 better, at equal work, than 128 with 4e-3 or 8e-3 (700 short updates, held-out maps)
)


def code_sets(model: VQVAE, pictures: Pictures, run: Run) -> CodeSets:
    """The codes of all pictures by the network of `run`; encoded once, and kept in its folder as uint16."""
    origin = {"pictures": pictures.checksum, "codebook": codebook_checksum(model)}
    path = run.folder / "codes.npz"
    kept = _read(path, origin)
    if kept is None:
        shown = {"train": pictures.train, "mirrored": pictures.train.flip(-1), "test": pictures.test}
        kept = {name: encode_pictures(model, part).numpy().astype(np.uint16) for name, part in shown.items()}
        content = io.BytesIO()
        np.savez(content, origin=list(origin.values()), **kept)
        write_whole(path, content.getvalue())
    train, mirrored, test = (torch.from_numpy(kept[name].astype(np.int32)) for name in ("train", "mirrored", "test"))
    order = torch.randperm(len(train), generator=random_stream(0))
    held, others = order[: max(1, len(order) // 10)], order[max(1, len(order) // 10) :]
    labels = pictures.train_labels
    return CodeSets(
        torch.cat([train[others], mirrored[others]]),
        train[held],
        test,
        train,
        None if labels is None else torch.cat([labels[others]] * 2),
        None if labels is None else labels[held],
        pictures.test_labels,
        origin,
    )


def _read(path: Path, origin: dict[str, str]) -> dict[str, np.ndarray] | None:
    """The kept codes, or None where there are none or they are of another network or other pictures."""
    if not path.exists():
        return None
    try:
        with np.load(path) as kept:
            return dict(kept) if list(kept["origin"]) == list(origin.values()) else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        print(f"{path} cannot be read: the pictures are encoded anew", flush=True)
        return None


def codebook_checksum(model: VQVAE) -> str:
    return checksum(model.quantizer.codebook.detach().cpu())


def prior_config(model: VQVAE, pictures: Pictures, asked: VQVAEParameters) -> PixelCNNConfig:
    """A prior for the maps of `model`, told the class of a picture if the pictures have classes.

    Maps of more than 11 x 11 codes get more layers than usual, so that each code can depend on all before it.
    """
    side = model.config.size // 4
    return PixelCNNConfig(
        num_codes=model.config.num_codes,
        height=side,
        width=side,
        classes=len(pictures.classes),
        class_names=pictures.classes,
        codebook=codebook_checksum(model),
        channels=asked.prior_channels,
        layers=max(10, side - 1),
        seed=asked.seed,
    )


def require_match(prior: GatedPixelCNN, model: VQVAE) -> None:
    """Raise CodesError unless `prior` was trained on codes of `model`."""
    ours, side = prior.config, model.config.size // 4
    if (ours.num_codes, ours.height, ours.width) != (model.config.num_codes, side, side):
        raise CodesError(
            f"this prior is for maps of {ours.height} x {ours.width} codes of {ours.num_codes}, the VQ-VAE has "
            f"{side} x {side} of {model.config.num_codes}: take a prior that was trained on its codes"
        )
    if ours.codebook and ours.codebook != codebook_checksum(model):
        raise CodesError(
            "this prior was trained on the codes of another VQ-VAE, to which they mean something else: take one that "
            "was trained on this one's"
        )


def train_prior(prior: GatedPixelCNN, sets: CodeSets, asked: VQVAEParameters) -> Run:
    """`asked.prior_epochs` epochs on the codes; `prior` then has the weights of the best of them by the held-out maps."""
    run = training.fit(
        prior,
        CodeBatches(sets.train, sets.train_labels, PRIOR_BATCH_SIZE, asked.seed, sets.origin),
        name="pixelcnn",
        epochs=asked.prior_epochs,
        evaluate=PriorExaminer(prior, sets),
        shown=("nll", "train_nll", "held_out_nll"),
        data={"name": "codes", "train": len(sets.train), "test": len(sets.test), **sets.origin},
        **asked.model_dump(include={"device", "precision", "runs"}),
    )
    if (run.folder / CHOSEN).exists():  # a restored run has only what was chosen
        weights.load_into(prior, run.folder / CHOSEN)
    return run
