"""Verdicts on translations: what the tables and sentences of the notebook are made of.

Every score stands between two ends: doing nothing, and real pictures (or, of drawn ones, the true counterparts).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hw2lib.judge import (
    ZEBRA,
    Judge,
    between,
    frechet_distance,
    kernel_distance,
    kernel_distance_error,
    share,
)
from hw2lib.runs import Run
from hw2lib.translation import STRIP, difference, load_strip, strip_path
from hw2lib.unpaired import Domains

COMPARED = {  # scores of the table that sets two runs side by side, and their titles
    "zebra_ab": "called zebra, A to B",
    "kd_ab": "KD, A to B",
    "kd_ba": "KD, B to A",
    "truth_ab": "difference to the truth, A to B",
    "background_ab": "change of the background, A to B",
    "shift_ab": "colour shift, A to B",
    "shift_ba": "colour shift, B to A",
}


def card(
    domains: Domains, judge: Judge | None, to: str, fakes: dict[str, Tensor]
) -> dict[str, dict[str, float]]:
    """What the judge says of translations into domain `to`, "a" or "b", between doing nothing and real pictures.

    Without a judge, what the true counterparts say, see `toy_card`.

    fakes: by name, all test pictures of the other domain translated, uint8 (N, 3, H, W). Added are "doing nothing",
    those pictures as they are, and "real pictures", N training pictures of the domain, evenly spaced. Each gets
    kd and kd_error (kernel distance to the test pictures of the domain, and its standard error), fd (Fréchet distance
    to the same), zebra (share called zebra) and kd_closed, fd_closed (see judge.between).
    """
    if judge is None:
        return toy_card(domains, to, fakes)
    source, target, train = (
        (domains.test_a, domains.test_b, domains.train_b)
        if to == "b"
        else (domains.test_b, domains.test_a, domains.train_a)
    )
    spread = torch.linspace(0, len(train) - 1, min(len(source), len(train))).long()
    size = (domains.size, domains.size)
    real = F.interpolate(train[spread].float(), size, mode="bicubic", antialias=True)
    real = real.round().clamp(0, 255).to(torch.uint8)
    wanted = judge.features(target)
    rows: dict[str, dict[str, float]] = {}
    for name, pictures in {"doing nothing": source, **fakes, "real pictures": real}.items():
        features, probabilities = judge.look(pictures)
        rows[name] = {
            "kd": kernel_distance(features, wanted),
            "kd_error": kernel_distance_error(features, wanted),
            "fd": frechet_distance(features, wanted),
            "zebra": share(probabilities, ZEBRA),
        }
    for row in rows.values():
        for score in ("kd", "fd"):
            ends = (rows[end][score] for end in ("real pictures", "doing nothing"))
            row[f"{score}_closed"] = between(row[score], *ends)
    return rows


def toy_card(domains: Domains, to: str, fakes: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """As `card`, for toy pictures: truth, the difference to the true counterparts, and background, the change off the
    animal. Doing nothing and the true counterparts are the two ends."""
    source, target = (domains.test_a, domains.test_b) if to == "b" else (domains.test_b, domains.test_a)
    rows = {"doing nothing": source, **fakes, "true counterparts": target}
    return {
        name: {
            "truth": difference(pictures, target),
            "background": difference(pictures, source, ~domains.masks),
        }
        for name, pictures in rows.items()
    }


def in_words(row: dict[str, float]) -> dict[str, str]:
    """A row of `card` or `toy_card` as the cells of a table."""
    if "truth" in row:
        return {
            "difference to the truth": f"{row['truth']:.3f}",
            "change of the background": f"{row['background']:.3f}",
        }
    return {
        "called zebra": f"{row['zebra']:.1%}",
        "KD": f"{row['kd']:.3f} ± {row['kd_error']:.3f}",
        "gap closed, KD": f"{row['kd_closed']:.0%}",
        "FD": f"{row['fd']:.1f}",
        "gap closed, FD": f"{row['fd_closed']:.0%}",
    }


def verdict(cards: dict[str, dict], name: str, a: str, b: str) -> str:
    """One paragraph on the row `name` of both cards, "b" for translations from a to b and "a" for the way back."""
    there, back = cards["b"][name], cards["a"][name]
    if "truth" in there:
        nothing = cards["b"]["doing nothing"]["truth"], cards["a"]["doing nothing"]["truth"]
        return (
            f"Of drawn pictures the truth is known. From {a} to {b} the translations by the {name} weights differ from the "
            f"true counterparts by {there['truth']:.3f}, where the untouched inputs differ by {nothing[0]:.3f}; from {b} to "
            f"{a} by {back['truth']:.3f}, where the inputs differ by {nothing[1]:.3f}. Where there is no animal nothing should "
            f"change; the background changed by {there['background']:.3f} and {back['background']:.3f}."
        )
    real, source = cards["b"]["real pictures"], cards["b"]["doing nothing"]
    gone = cards["a"]["doing nothing"]["zebra"]
    return (
        f"The judge calls {there['zebra']:.1%} of the {a}s that the {name} weights translated zebra, {source['zebra']:.1%} of "
        f"the {a}s as they are and {real['zebra']:.1%} of real ones. Of the {b}s, of which it knows {gone:.1%}, it still calls "
        f"{back['zebra']:.1%} zebra after their translation. By the kernel distance the translations from {a} to {b} close "
        f"{there['kd_closed']:.0%} of the gap between doing nothing and real pictures, those from {b} to {a} "
        f"{back['kd_closed']:.0%}."
    )


def by_merit(domains: Domains, judge: Judge | None, to: str, fake: Tensor) -> Tensor:
    """Positions of translations into domain `to`, uint8 (N, 3, H, W), from the best to the worst: int64 (N,).

    For the judge, into zebras the surest zebra is best, out of them the least; without one the nearest to the true
    counterpart.
    """
    if judge:
        zebra = judge.probabilities(fake)[:, ZEBRA]
        return zebra.argsort(descending=to == "b")
    truth = domains.test_b if to == "b" else domains.test_a
    return (fake.int() - truth.int()).abs().double().mean((1, 2, 3)).argsort()


def best_typical_worst(order: Tensor, each: int) -> dict[str, Tensor]:
    """The first `each` positions of an order (N,), those around its middle, and the last; fewer where N < 3 each."""
    each = max(1, min(each, len(order) // 3))
    middle = (len(order) - each) // 2
    return {"best": order[:each], "typical": order[middle : middle + each], "worst": order[-each:]}


# ---- reading a run


def means_of_epoch(history: dict[str, np.ndarray], epoch: int) -> dict[str, float]:
    """The mean of each logged value over the steps of an epoch, counted from 1."""
    here = history["epoch"] == epoch
    return {name: float(values[here].mean()) for name, values in history.items()}


def strip_inputs(domains: Domains) -> Tensor:
    """The test pictures whose translations are kept after each epoch, uint8 (2 STRIP, 3, H, W)."""
    return torch.cat([domains.test_a[:STRIP], domains.test_b[:STRIP]])


def strips(run: Run, size: int) -> list[Tensor]:
    """The kept translations of each epoch, uint8 (kinds, 2 STRIP, 3, size, size), the averaged generators' last."""
    epochs = range(1, len(run.epochs["epoch"]) + 1)
    return [load_strip(strip_path(run.folder, epoch), size) for epoch in epochs]


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the positions 0 to count - 1, first and last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})


def panels(epochs: dict[str, np.ndarray]) -> list[tuple[str, str]]:
    """The scores to draw over the epochs, with their titles: (score, title)."""
    titles = {
        "zebra_ab": "share called zebra, A to B",
        "kd_ab": "kernel distance, A to B",
        "kd_ba": "kernel distance, B to A",
        "truth_ab": "difference to the truth, A to B",
        "truth_ba": "difference to the truth, B to A",
        "background_ab": "change of the background, A to B",
    }
    return [(score, title) for score, title in titles.items() if f"last_{score}" in epochs]


def references(cards: dict[str, dict], scores: list[tuple[str, str]]) -> dict[str, dict[str, float]]:
    """The two ends of each score to draw, from both directions' cards."""
    ends = ("doing nothing", "real pictures")
    return {
        score: {end: row[kind] for end, row in cards[score[-1]].items() if end in ends and kind in row}
        for score, _ in scores
        for kind in [score.removesuffix("_ab").removesuffix("_ba")]
    }


def compare(without: Run, with_identity: Run, epoch: int) -> dict[str, dict[str, float]]:
    """Scores of the averaged generators of two runs after the same epoch, and its mean cycle loss."""
    found = {}
    for name, run in (("without identity loss", without), ("with identity loss", with_identity)):
        kind = "average_" if "average_change_ab" in run.epochs else "last_"
        here = run.history["epoch"] == epoch
        row = {
            title: float(run.epochs[kind + score][epoch - 1])
            for score, title in COMPARED.items()
            if kind + score in run.epochs
        }
        cycle = (run.history["cycle_a"] + run.history["cycle_b"])[here] / 2
        found[name] = row | {"cycle loss": float(cycle.mean())}
    return found


def side_by_side(compared: dict[str, dict[str, float]]) -> list[dict[str, str]]:
    """`compare` as the rows of a table: a score a row, a run a column."""
    scores = next(iter(compared.values()))
    return [
        {"score": score} | {run: f"{row[score]:.3f}" for run, row in compared.items()} for score in scores
    ]
