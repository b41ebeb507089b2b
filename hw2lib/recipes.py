"""Checked parameters in, a trained run out: what notebooks and the command line call.

Here models, data, training and evaluation are joined. Where `asked.experiments` is "published", the runs behind the
written answers (the second CycleGAN, the short VQ-VAE, the prior) are loaded from results/ and weights/, not trained.
"""

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data import Batches, CodeBatches, CodeSets, Domains, Pairs, Pictures, domains, load, random_stream
from hw2lib.data.pictures import checksum
from hw2lib.evaluation.codec import encode_pictures, evaluate_vqvae
from hw2lib.evaluation.judge import Judge
from hw2lib.evaluation.likelihoods import PriorExaminer
from hw2lib.evaluation.translations import Examiner
from hw2lib.parameters import CycleGANParameters, Parameters, VQVAEParameters, make
from hw2lib.pixelcnn import CodesError, GatedPixelCNN, PixelCNNConfig
from hw2lib.training import Run, fit, machine, weights, write_whole
from hw2lib.vqvae import VQVAE, VQVAEConfig

# With a rate of 6e-3 better, at equal work, than 128 with 4e-3 or 8e-3 (700 short updates, held-out maps).
PRIOR_BATCH_SIZE = 64
# What is printed after each epoch, with the scores of the generators that are judged; all else is in the run's tables.
LOSSES_SHOWN = ("g_ab", "g_ba", "cycle_a", "cycle_b", "d_a", "d_b")
SCORES_SHOWN = ("zebra_ab", "kd_ab", "truth_ab")

# ---- CycleGAN


def cyclegan_setup(asked: CycleGANParameters) -> tuple[CycleGANConfig, Domains]:
    """The config of the networks and the pictures. What is wrong with the config is said before they load."""
    config = make(CycleGANConfig, asked.model_dump(include=set(CycleGANConfig.model_fields)))
    return config, domains(asked.dataset, config.size, asked.data_root)


def judge_for(pictures: Domains, asked: CycleGANParameters) -> Judge | None:
    """The judge of photographs; of drawn pictures the truth is known. Raises JudgeError if it is not installed."""
    return None if pictures.aligned else judge_on(asked)


def judge_on(asked: Parameters) -> Judge:
    """The judge, on the device of the training. Raises JudgeError if it is not installed."""
    return Judge(machine(asked.device, asked.precision).device)


def pairs(pictures: Domains, asked: CycleGANParameters) -> Pairs:
    """The batches of the training."""
    return Pairs(pictures.train_a, pictures.train_b, pictures.size, asked.seed, asked.batch_size)


def train_cyclegan(model: CycleGAN, pictures: Domains, judge: Judge | None, asked: CycleGANParameters) -> Run:
    """The run that the report is about; `model` is then trained."""
    return _fit_cyclegan(model, pictures, judge, asked, name="cyclegan", epochs=asked.epochs)


def cyclegan_with_identity(
    config: CycleGANConfig, pictures: Domains, judge: Judge | None, asked: CycleGANParameters
) -> Run | None:
    """`asked.identity_epochs` epochs with the identity loss of the paper's section 5.2, at the same learning rates."""
    if asked.experiments == "published":
        return Run.published("cyclegan-identity")
    if not asked.identity_epochs:
        return None
    decay = config.decay_share if asked.identity_epochs == asked.epochs else 0.0
    model = CycleGAN(config.model_copy(update={"identity_weight": 0.5, "decay_share": decay}))
    name, epochs = "cyclegan-identity", asked.identity_epochs
    return _fit_cyclegan(model, pictures, judge, asked, name=name, epochs=epochs, numbers_only=True)


def _fit_cyclegan(model: CycleGAN, pictures: Domains, judge: Judge | None, asked: CycleGANParameters, **more) -> Run:
    kind = "average" if model.config.ema_decay else "last"
    return fit(
        model,
        pairs(pictures, asked),
        evaluate=Examiner(model, pictures, judge),
        shown=(*LOSSES_SHOWN, *(f"{kind}_{score}" for score in SCORES_SHOWN)),
        data=pictures.description,
        **more,
        **asked.machine,
    )


# ---- VQ-VAE


def vqvae_setup(asked: VQVAEParameters) -> tuple[VQVAEConfig, Pictures]:
    """The config of a network for the pictures, and these. What is wrong with the config is said before they load."""
    fields = set(VQVAEConfig.model_fields) - {"data_variance"}
    config = make(VQVAEConfig, asked.model_dump(include=fields))
    pictures = load(asked.dataset, asked.size, asked.data_root)
    return make(VQVAEConfig, config.model_dump() | {"data_variance": pictures.variance}), pictures


def train_vqvae(model: VQVAE, pictures: Pictures, asked: VQVAEParameters) -> Run:
    """The run that the report is about; `model` is then trained."""
    return _fit_vqvae(model, pictures, asked, asked.batch_size, name="vqvae", epochs=asked.epochs)


def vqvae_as_others(config: VQVAEConfig, pictures: Pictures, asked: VQVAEParameters) -> Run | None:
    """`asked.comparison_updates` updates as other notebooks print them: batch 32, constant rate 3e-4."""
    if asked.experiments == "published":
        return Run.published("vqvae-short")
    if not asked.comparison_updates:
        return None
    model = VQVAE(config.model_copy(update={"learning_rate": 3e-4, "schedule": "constant"}))
    name, updates = "vqvae-short", asked.comparison_updates
    return _fit_vqvae(model, pictures, asked, 32, name=name, updates=updates, numbers_only=True)


def _fit_vqvae(model: VQVAE, pictures: Pictures, asked: VQVAEParameters, batch_size: int, **more) -> Run:
    return fit(
        model,
        Batches(pictures.train, batch_size, asked.seed),
        evaluate=lambda folder, epoch: evaluate_vqvae(model, pictures.test),
        data=pictures.description,
        **more,
        **asked.machine,
    )


# ---- the prior over the codes


class Prior(NamedTuple):
    """A trained prior, the VQ-VAE on whose codes it was trained, and its run.

    `sets` and `pictures` are what it was trained and measured on, None where it is the published one and they are not
    at hand.
    """

    network: GatedPixelCNN
    codec: VQVAE
    run: Run
    sets: CodeSets | None = None
    pictures: Pictures | None = None


def prior(codec: VQVAE, pictures: Pictures, run: Run, asked: VQVAEParameters) -> Prior:
    """A prior over the codes of `codec`, the network of `run`; or the published one, with the published codec."""
    if asked.experiments == "published":
        published = Run.published("pixelcnn")
        codec = VQVAE.load(Run.published("vqvae").kept_weights)
        return Prior(GatedPixelCNN.load(published.kept_weights), codec, published)
    sets = code_sets(codec, pictures, run)
    network = GatedPixelCNN(prior_config(codec, pictures, asked))
    return Prior(network, codec, train_prior(network, sets, asked), sets, pictures)


def train_prior(network: GatedPixelCNN, sets: CodeSets, asked: VQVAEParameters) -> Run:
    """`asked.prior_epochs` epochs; `network` then has the weights of the best of them by the held-out maps."""
    run = fit(
        network,
        CodeBatches(sets.train, sets.train_labels, PRIOR_BATCH_SIZE, asked.seed, sets.origin),
        name="pixelcnn",
        epochs=asked.prior_epochs,
        evaluate=PriorExaminer(network, sets),
        shown=("nll", "train_nll", "held_out_nll"),
        data={"name": "codes", "train": len(sets.train), "test": len(sets.test), **sets.origin},
        **asked.machine,
    )
    weights.load_into(network, run.kept_weights)
    return run


def prior_config(codec: VQVAE, pictures: Pictures, asked: VQVAEParameters) -> PixelCNNConfig:
    """A prior for the maps of `codec`, told the class of a picture if the pictures have classes.

    Maps of more than 11 x 11 codes get more layers than usual, so that each code can depend on all before it.
    """
    side = codec.config.size // 4
    return PixelCNNConfig(
        num_codes=codec.config.num_codes,
        height=side,
        width=side,
        classes=len(pictures.classes),
        class_names=pictures.classes,
        codebook=codebook_checksum(codec),
        channels=asked.prior_channels,
        layers=max(10, side - 1),
        seed=asked.seed,
    )


def code_sets(codec: VQVAE, pictures: Pictures, run: Run) -> CodeSets:
    """The codes of all pictures by the network of `run`; encoded once, and kept in its folder as uint16."""
    origin = {"pictures": pictures.checksum, "codebook": codebook_checksum(codec)}
    path = run.folder / "codes.npz"
    kept = _read(path, origin)
    if kept is None:
        shown = {"train": pictures.train, "mirrored": pictures.train.flip(-1), "test": pictures.test}
        kept = {name: encode_pictures(codec, part).numpy().astype(np.uint16) for name, part in shown.items()}
        content = io.BytesIO()
        np.savez(content, origin=list(origin.values()), **kept)
        write_whole(path, content.getvalue())
    train, mirrored, test = (torch.from_numpy(kept[name].astype(np.int32)) for name in ("train", "mirrored", "test"))
    order = torch.randperm(len(train), generator=random_stream(0))
    held, others = order[: max(1, len(order) // 10)], order[max(1, len(order) // 10) :]
    labels = pictures.train_labels
    return CodeSets(
        train=torch.cat([train[others], mirrored[others]]),
        held_out=train[held],
        test=test,
        in_order=train,
        train_labels=None if labels is None else torch.cat([labels[others]] * 2),
        held_out_labels=None if labels is None else labels[held],
        test_labels=pictures.test_labels,
        origin=origin,
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


def codebook_checksum(codec: VQVAE) -> str:
    """16 hex digits that tell one codebook from another."""
    return checksum(codec.quantizer.codebook.detach().cpu())


def require_match(network: GatedPixelCNN, codec: VQVAE) -> None:
    """Raise CodesError unless the prior was trained on codes of `codec`."""
    ours, side = network.config, codec.config.size // 4
    if (ours.num_codes, ours.height, ours.width) != (codec.config.num_codes, side, side):
        raise CodesError(
            f"this prior is for maps of {ours.height} x {ours.width} codes of {ours.num_codes}, the VQ-VAE has "
            f"{side} x {side} of {codec.config.num_codes}: take a prior that was trained on its codes"
        )
    if ours.codebook and ours.codebook != codebook_checksum(codec):
        raise CodesError(
            "this prior was trained on the codes of another VQ-VAE, to which they mean something else: take one that "
            "was trained on this one's"
        )
