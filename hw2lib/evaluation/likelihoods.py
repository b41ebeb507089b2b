"""A prior over the codes of a trained VQ-VAE: what codes cost under it, and what its KL divergences are.

`measure_prior` is the call of a notebook: numbers into the run's metrics.json, once. Costs are in nats per code.
"""

import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from hw2lib.data import CodeSets, Pictures
from hw2lib.evaluation import metrics
from hw2lib.evaluation.codec import code_counts, device_of
from hw2lib.evaluation.judge import Judge
from hw2lib.evaluation.new_pictures import card_sets, copy_distances, equal_sets, picture_card
from hw2lib.pixelcnn import GatedPixelCNN
from hw2lib.training import Run, Table, weights
from hw2lib.vqvae import VQVAE


def measure_prior(
    run: Run,
    prior: GatedPixelCNN,
    codec: VQVAE,
    sets: CodeSets | None,
    pictures: Pictures | None,
    judge: Judge | None,
    judged_pictures: int,
    seed: int,
) -> dict[str, dict]:
    """What the report says of `prior`, the network of `run`, and of the new pictures that it draws.

    Kept in the run's metrics under the same names; measured anew only for other weights, the last three also for another
    `judged_pictures` or `seed`. Of a published run nothing is measured, and `sets`, `pictures` and `judge` may be None.

    likelihood  {"rows", "class_named"}, see `likelihoods`
    identities  {identity: {"kl", "other_side"}}, see `identities`
    judged      {"pictures"}: how many are in each set of the card, at most `judged_pictures`
    card        see new_pictures.picture_card
    copies      see new_pictures.copy_distances
    """
    ask = cache(lambda: equal_sets(pictures, sets, judged_pictures, seed))
    drawn = cache(lambda: card_sets(codec, prior, sets, ask(), seed))
    version = [1, judged_pictures, seed]
    return {
        "likelihood": run.measured("likelihood", lambda: likelihoods(prior, sets)),
        "identities": run.measured("identities", lambda: identities(prior, sets)),
        "judged": run.measured("judged", lambda: {"pictures": len(ask().test)}, version),
        "card": run.measured("card", lambda: picture_card(judge, ask(), drawn()), version),
        "copies": run.measured(
            "copies", lambda: copy_distances(codec, sets, ask(), drawn()["new_pictures"], pictures.train), version
        ),
    }


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


def likelihoods(prior: GatedPixelCNN, sets: CodeSets) -> dict:
    """What a test code costs, by what is known beforehand: {"rows": {name: {"nats", "error"}}, "class_named"}.

    uniform    nothing: log K
    frequency  how frequent each code is in the training and held-out maps; place: how frequent it is at each place
    seen       all codes before it
    told       these and the class, if there are classes

    nats is the mean over the test maps, error its standard error. class_named is the share, 0 to 1, of test pictures
    whose class the prior names right by Bayes' rule, None without classes.
    """
    num_codes, known, named = prior.config.num_codes, torch.cat([sets.train, sets.held_out]), None
    costs = {
        "frequency": metrics.unigram_nll(known, sets.test, num_codes, by_place=False),
        "place": metrics.unigram_nll(known, sets.test, num_codes, by_place=True),
    }
    if prior.config.classes:
        unlabelled = without_class(prior, sets.test)
        named = float((unlabelled.named == sets.test_labels).double().mean())
        costs |= {"seen": unlabelled.nll, "told": prior.nll(sets.test, sets.test_labels)}
    else:
        costs["seen"] = prior.nll(sets.test)
    rows = {"uniform": {"nats": math.log(num_codes), "error": 0.0}}
    for name, values in costs.items():
        nats, error = metrics.mean_and_error(values)
        rows[name] = {"nats": nats, "error": error}
    return {"rows": rows, "class_named": named}


def levels(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """The nats of those rows of `likelihoods` that look at no other code, to draw across."""
    return {name: rows[name]["nats"] for name in ("uniform", "frequency", "place")}


def identities(prior: GatedPixelCNN, sets: CodeSets) -> dict[str, dict[str, float]]:
    """Four identities: "kl", the divergence by its definition in float64, and "other_side", computed apart; in nats.

    one_code      posterior of a code, which is one-hot, against the uniform prior: log K
    one_picture   the same of the first test picture with h w codes: h w log K
    learnt_prior  its posterior against the learnt prior: its negative log-likelihood
    usage         use of the codes on the test set against the uniform prior: log K - log perplexity
    """
    num_codes, codes, counts = prior.config.num_codes, sets.test[:1], code_counts(sets.test, prior.config.num_codes)
    label = None if sets.test_labels is None else sets.test_labels[:1]
    one_hot = Categorical(torch.eye(num_codes, dtype=torch.float64)[codes.flatten().long()])
    uniform = Categorical(torch.full((num_codes,), 1 / num_codes, dtype=torch.float64))
    usage = Categorical(torch.from_numpy(counts / counts.sum()))
    device, places = device_of(prior), codes.numel()
    with torch.no_grad():
        logits = prior(codes.to(device), None if label is None else label.to(device))
    learnt = Categorical(logits=logits[0].flatten(1).T.cpu().double())  # (h w, K)
    sides = {
        "one_code": (kl_divergence(one_hot, uniform)[0], math.log(num_codes)),
        "one_picture": (kl_divergence(one_hot, uniform).sum(), places * math.log(num_codes)),
        "learnt_prior": (kl_divergence(one_hot, learnt).sum(), places * float(prior.nll(codes, label)[0])),
        "usage": (
            kl_divergence(usage, uniform),
            math.log(num_codes) - math.log(metrics.perplexity(torch.from_numpy(counts))),
        ),
    }
    return {name: {"kl": float(kl), "other_side": other} for name, (kl, other) in sides.items()}


# ---- after each epoch


def examine(prior: GatedPixelCNN, sets: CodeSets, folder: Path, epoch: int) -> dict[str, float]:
    """Nats per code after an epoch, without dropout: train_nll, held_out_nll and test_nll.

    The weights with the lowest held_out_nll so far are left in the run's folder as published.safetensors. Of the training
    maps as many count as are held out.
    """
    scores = {}
    for name in ("train", "held_out", "test"):
        codes, labels = getattr(sets, name), getattr(sets, f"{name}_labels")
        count = len(sets.held_out) if name == "train" else len(codes)
        costs = prior.nll(codes[:count], None if labels is None else labels[:count])
        scores[f"{name}_nll"] = float(costs.double().mean())
    before = Table(folder / "epochs.csv").read().get("held_out_nll", np.zeros(0))
    if prior.fabric.is_global_zero and scores["held_out_nll"] < min(before, default=math.inf):
        weights.save(prior, folder / "published.safetensors")
    return scores
