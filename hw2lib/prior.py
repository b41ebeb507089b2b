"""A prior over the codes of a trained VQ-VAE: training it and measuring it. Here rooms are wired together.

Codes come from the encoder once and are kept beside its network. A tenth of the training pictures is held out: it
chooses the epoch whose weights are used. The test pictures choose nothing.
"""

import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from hw2lib import metrics, training, weights
from hw2lib.codes import CodeBatches
from hw2lib.data import Pictures, checksum, generator
from hw2lib.experiments import encode_pictures
from hw2lib.parameters import VQVAEParameters
from hw2lib.pixelcnn import CodesError, GatedPixelCNN, PixelCNNConfig
from hw2lib.progress import duration
from hw2lib.runs import Run, Table, write_whole
from hw2lib.vqvae import VQVAE

BATCH_SIZE = (
    64  # with a rate of 6e-3 better, at equal work, than 128 with 4e-3 or 8e-3 (700 short updates, held-out maps)
)
# What is known beforehand of a code, in the table of likelihoods.
UNIFORM, PLACE = "nothing (uniform)", "frequencies at each place"
SEEN, TOLD = "all codes before it", "all codes before it, and the class"
CHOSEN = "published.safetensors"  # in the run's folder: the weights of the epoch that the held-out maps chose


@dataclass(frozen=True, eq=False)
class CodeSets:
    """Code maps, int32 (N, h, w), of three sets of pictures, with labels, uint8 (N,), or None for each.

    train     nine tenths of the training pictures, and after them the same ones mirrored
    held_out  the other tenth, chosen at random; not mirrored
    test      the test pictures
    in_order  all training pictures, in the order of the pictures
    origin    checksums of the pictures and of the codebook. Not of the codes: another machine rounds otherwise, and
              of a million codes some are then others
    """

    train: Tensor
    held_out: Tensor
    test: Tensor
    in_order: Tensor
    train_labels: Tensor | None
    held_out_labels: Tensor | None
    test_labels: Tensor | None
    origin: dict[str, str]


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
    order = torch.randperm(len(train), generator=generator(0))
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


class PriorExaminer:
    """Nats per code after each epoch, without dropout: train_nll, held_out_nll and test_nll.

    Call it with the run's folder and the number of the epoch. The weights with the lowest held_out_nll so far are
    left there as published.safetensors. Of the training maps as many count as are held out.
    """

    def __init__(self, prior: GatedPixelCNN, sets: CodeSets):
        self.prior, self.sets = prior, sets

    def __call__(self, folder: Path, epoch: int) -> dict[str, float]:
        scores = {}
        for name in ("train", "held_out", "test"):
            codes, labels = getattr(self.sets, name), getattr(self.sets, f"{name}_labels")
            count = len(self.sets.held_out) if name == "train" else len(codes)
            costs = self.prior.nll(codes[:count], None if labels is None else labels[:count])
            scores[f"{name}_nll"] = float(costs.double().mean())
        before = Table(folder / "epochs.csv").read().get("held_out_nll", np.zeros(0))
        if self.prior.fabric.is_global_zero and scores["held_out_nll"] < min(before, default=math.inf):
            weights.save(self.prior, folder / CHOSEN)
        return scores


def train_prior(prior: GatedPixelCNN, sets: CodeSets, asked: VQVAEParameters) -> Run:
    """`asked.prior_epochs` epochs on the codes; `prior` then has the weights of the best of them by the held-out maps."""
    run = training.fit(
        prior,
        CodeBatches(sets.train, sets.train_labels, BATCH_SIZE, asked.seed, sets.origin),
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


# ---- likelihoods


class ByClass(NamedTuple):
    """What a conditional prior says of maps whose class it is not told."""

    nll: Tensor  # float64 (N,), nats per code: -log of the mean over the classes of p(map | class)
    named: Tensor  # int64 (N,): the class that makes the map likeliest


def without_class(prior: GatedPixelCNN, codes: Tensor) -> ByClass:
    """Every class is tried on each map (N, h, w); all count as equally likely beforehand, as in CIFAR-10 they are."""
    classes, places = prior.config.classes, codes[0].numel()
    costs = [prior.nll(codes, torch.full((len(codes),), label)) for label in range(classes)]
    costs = torch.stack(costs, 1).double()  # (N, classes)
    likely = torch.logsumexp(-places * costs, 1) - math.log(classes)
    return ByClass(-likely / places, costs.argmin(1))


def likelihoods(prior: GatedPixelCNN, sets: CodeSets) -> tuple[dict[str, dict[str, float]], float | None]:
    """Nats per test code ("nats") and standard error ("error") by what is known beforehand, and the share, if there are
    classes, of test pictures whose class the prior names right by Bayes' rule."""
    num_codes, known, right = prior.config.num_codes, torch.cat([sets.train, sets.held_out]), None
    found = {
        UNIFORM: torch.full((len(sets.test),), math.log(num_codes), dtype=torch.float64),
        "frequencies of the codes": metrics.unigram_nll(known, sets.test, num_codes, by_place=False),
        PLACE: metrics.unigram_nll(known, sets.test, num_codes, by_place=True),
    }
    if prior.config.classes:
        unlabelled = without_class(prior, sets.test)
        found[SEEN] = unlabelled.nll
        right = float((unlabelled.named == sets.test_labels).double().mean())
        found[TOLD] = prior.nll(sets.test, sets.test_labels)
    else:
        found[SEEN] = prior.nll(sets.test)
    rows = {}
    for name, costs in found.items():
        nats, error = metrics.mean_and_error(costs)
        rows[name] = {"nats": nats, "error": error if name != UNIFORM else 0.0}
    return rows, right


def levels(known: dict[str, dict[str, float]]) -> dict[str, float]:
    """The rows of `likelihoods` that look at no other code, for a figure."""
    return {name: row["nats"] for name, row in known.items() if not name.startswith(SEEN)}


def curves_in_words(prior: GatedPixelCNN, run: Run, sets: CodeSets) -> str:
    """What was trained, and how far its likelihoods of seen and unseen maps are apart."""
    epochs, made = run.epochs, run.provenance
    best, last = int(epochs["held_out_nll"].argmin()), len(epochs["epoch"]) - 1
    gap = epochs["held_out_nll"] - epochs["train_nll"]
    kept = "the last one chosen" if best == last else f"number {best + 1} chosen"
    return (
        f"The prior has {sum(weight.numel() for weight in prior.parameters()):,} weights. Epochs: {last + 1}, each on "
        f"{len(sets.train):,} maps, {kept} by the {len(sets.held_out):,} held-out maps; they took "
        f"{duration(made['seconds'])} on {made['device']} (threads: {made['threads']}, precision {made['precision']}). After the kept "
        f"epoch training maps cost {epochs['train_nll'][best]:.3f} nats a code and held-out ones "
        f"{epochs['held_out_nll'][best]:.3f}: a difference of {gap[best]:.3f}, after {gap[0]:.3f} at the end of the first "
        f"epoch. That is the overfitting, and held-out maps "
        + ("had not begun to cost more." if best == last else "cost more again from there on.")
    )


def likelihoods_in_words(known: dict[str, dict[str, float]], right: float | None, classes: int) -> str:
    """What the rows of `likelihoods` say."""
    place, seen = known[PLACE]["nats"], known[SEEN]["nats"]
    words = (
        f"Knowing the codes before it makes a code {place - seen:.3f} nats cheaper than the frequencies of its place do, and "
        f"{known[UNIFORM]['nats'] - seen:.3f} nats cheaper than a uniform guess. "
    )
    if right is not None:
        told = known[TOLD]["nats"]
        words += (
            f"The class is worth {seen - told:.4f} nats a code. Where it is not told, each of the {classes} is tried and the "
            f"likelihoods are averaged; the class that fits best is then the right one for {right:.1%} of the test pictures "
            f"({1 / classes:.0%} by chance), so the codes say what is in a picture, which the prior was never asked. "
        )
    return words + (
        "These are costs of the codes. They are no likelihood of the pixels: for that the decoder's error would "
        "have to be paid as well. Another codebook has other codes, so only priors over the same ones compare."
    )


def kl_identities(
    prior: GatedPixelCNN, codes: Tensor, label: Tensor | None, counts: np.ndarray
) -> list[tuple[str, float, float]]:
    """Three identities as (words, KL divergence by its definition in float64, the other side), in nats.

    codes: one map (h, w) and its label, (), or None; counts: uses of each code, (K,), on a whole set.
    """
    num_codes = prior.config.num_codes
    one_hot = Categorical(torch.eye(num_codes, dtype=torch.float64)[codes.flatten().long()])
    uniform = Categorical(torch.full((num_codes,), 1 / num_codes, dtype=torch.float64))
    labels, device = None if label is None else label[None], prior.place.device
    with torch.no_grad():
        logits = prior(codes[None].to(device), None if labels is None else labels.to(device))
    logits = logits[0].flatten(1).T.cpu().double()  # (h w, K)
    usage = Categorical(torch.from_numpy(counts / counts.sum()))
    places = codes.numel()
    return [
        (
            "posterior against the uniform prior, one code: log K",
            float(kl_divergence(one_hot, uniform)[0]),
            math.log(num_codes),
        ),
        (
            f"the same, a picture of {places} codes: {places} log K",
            float(kl_divergence(one_hot, uniform).sum()),
            places * math.log(num_codes),
        ),
        (
            "posterior against the learnt prior, a picture: its negative log-likelihood",
            float(kl_divergence(one_hot, Categorical(logits=logits)).sum()),
            places * float(prior.nll(codes[None], labels)[0]),
        ),
        (
            "use of the codes on the test set against the uniform prior: log K - log perplexity",
            float(kl_divergence(usage, uniform)),
            math.log(num_codes) - math.log(metrics.perplexity(torch.from_numpy(counts))),
        ),
    ]
