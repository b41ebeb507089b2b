"""A prior over the codes of a trained VQ-VAE: training it and measuring it. Here rooms are wired together.

Codes come from the encoder once and are kept beside its network. A tenth of the training pictures is held out: it
chooses the epoch whose weights are used. The test pictures choose nothing.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from hw2lib.data.batches import CodeSets
from hw2lib.evaluation import metrics
from hw2lib.pixelcnn import GatedPixelCNN
from hw2lib.training import weights
from hw2lib.training.progress import duration
from hw2lib.training.runs import Run, Table

# What is known beforehand of a code, in the table of likelihoods.
UNIFORM, PLACE = "nothing (uniform)", "frequencies at each place"
SEEN, TOLD = "all codes before it", "all codes before it, and the class"


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


CHOSEN = "published.safetensors"  # in the run's folder: the weights of the epoch that the held-out maps chose


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
