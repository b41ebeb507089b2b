"""Verdicts on translations: what the tables and sentences of the notebook are made of.

Every score stands between two ends: doing nothing, and real pictures (or, of drawn ones, the true counterparts).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hw2lib.data.unpaired import Domains
from hw2lib.evaluation.judge import (
    ZEBRA,
    Judge,
    distances,
    gaps_closed,
    kernel,
    share,
    standard_fid,
)
from hw2lib.evaluation.translations import STRIP, difference, load_strip, strip_path
from hw2lib.training.runs import Run

COMPARED = {  # scores of the table that sets two runs side by side, and their titles
    "zebra_ab": "called zebra, A to B",
    "kd_ab": "KD, A to B",
    "kd_ba": "KD, B to A",
    "truth_ab": "difference to the truth, A to B",
    "background_ab": "change of the background, A to B",
    "shift_ab": "colour shift, A to B",
    "shift_ba": "colour shift, B to A",
}


def card(domains: Domains, judge: Judge | None, to: str, fakes: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """What the judge says of translations into domain `to`, "a" or "b", between doing nothing and real pictures.

    fakes: by name, all test pictures of the other domain translated, uint8 (N, 3, H, W). Added are "doing nothing",
    those pictures as they are, and "real pictures", N training pictures of the domain, evenly spaced. Each gets
    kd and kd_error (kernel distance to the test pictures of the domain, and its standard error), fd (Fréchet distance
    to the same) and, of zebras, zebra (share called so); translations also get kd_closed, kd_closed_error and fd_closed
    (see judge.between).
    Without a judge, see `toy_card`.
    """
    if judge is None:
        return toy_card(domains, to, fakes)
    source, target = _way(domains, to)
    wanted = judge.features(target)
    rows: dict[str, dict[str, float]] = {}
    for name, pictures in {
        "doing nothing": source,
        **fakes,
        "real pictures": real_sample(domains, to),
    }.items():
        features, probabilities = judge.look(pictures)
        rows[name] = distances(features, wanted)
        if domains.zebras:
            rows[name]["zebra"] = share(probabilities, ZEBRA)
    for name in fakes:
        rows[name] |= gaps_closed(rows[name], rows["real pictures"], rows["doing nothing"])
    return rows


def _way(domains: Domains, to: str) -> tuple[Tensor, Tensor]:
    """Test pictures that are translated, and those of the domain `to`."""
    return (domains.test_a, domains.test_b) if to == "b" else (domains.test_b, domains.test_a)


def real_sample(domains: Domains, to: str) -> Tensor:
    """As many training pictures of domain `to` as are translated into it, evenly spaced, scaled to the test size."""
    train = domains.train_b if to == "b" else domains.train_a
    count = min(len(_way(domains, to)[0]), len(train))
    spread = torch.linspace(0, len(train) - 1, count).long()
    size = (domains.size, domains.size)
    scaled = F.interpolate(train[spread].float(), size, mode="bicubic", antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8)


def fids(domains: Domains, to: str, fakes: dict[str, Tensor]) -> dict[str, float]:
    """The standard FID of the rows of `card`, which needs a network connection once. Raises JudgeError."""
    source, target = _way(domains, to)
    rows = {"doing nothing": source, **fakes, "real pictures": real_sample(domains, to)}
    return {name: standard_fid(target, pictures) for name, pictures in rows.items()}


def toy_card(domains: Domains, to: str, fakes: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """As `card`, for toy pictures: truth, the difference to the true counterparts, and background, the change off the
    animal. Doing nothing and the true counterparts are the two ends."""
    source, target = _way(domains, to)
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
    zebra = {"called zebra": f"{row['zebra']:.1%}"} if "zebra" in row else {}
    return zebra | {
        "KD": f"{row['kd']:.3f} ± {row['kd_error']:.3f}",
        "gap closed, KD": f"{row['kd_closed']:.0%} ± {row['kd_closed_error']:.0%}" if "kd_closed" in row else "",
        "FD": f"{row['fd']:.1f}",
        "gap closed, FD": f"{row['fd_closed']:.0%}" if "fd_closed" in row else "",
    }


def verdict(cards: dict[str, dict], name: str, a: str, b: str) -> str:
    """One paragraph on the row `name` of both cards, "b" for translations from a to b and "a" for the way back."""
    there, back = cards["b"][name], cards["a"][name]
    if "truth" in there:
        nothing = cards["b"]["doing nothing"]["truth"], cards["a"]["doing nothing"]["truth"]
        return (
            f"Of drawn pictures the truth is known. From {a} to {b} the translations by the {name} weights differ from the "
            f"true counterparts by {there['truth']:.3f}, where the untouched inputs differ by {nothing[0]:.3f}; from {b} to "
            f"{a} by {back['truth']:.3f}, where the inputs differ by {nothing[1]:.3f}. Off the animal nothing should change; "
            f"the background changed by {there['background']:.3f} and {back['background']:.3f}."
        )
    words = ""
    if "zebra" in there:
        real, source = cards["b"]["real pictures"], cards["b"]["doing nothing"]
        gone = cards["a"]["doing nothing"]["zebra"]
        words = (
            f"The judge calls {there['zebra']:.1%} of the {a}s that the {name} weights translated zebra, "
            f"{source['zebra']:.1%} of the {a}s as they are and {real['zebra']:.1%} of real {b}s. Of the {b}s, of which it "
            f"recognises {gone:.1%}, it still calls {back['zebra']:.1%} zebra after their translation. "
        )
    return words + (
        f"By the kernel distance, translations from {a} to {b} {_closing(there)}, and those from {b} to {a} {_closing(back)}."
    )


def _closing(row: dict[str, float]) -> str:
    if row["kd_closed"] <= 0:
        return "do not close the gap: they lie farther from real pictures than the inputs do"
    return f"close {row['kd_closed']:.0%} of the gap between doing nothing and real pictures"


def by_merit(domains: Domains, judge: Judge | None, to: str, fake: Tensor) -> tuple[Tensor, str]:
    """Positions of translations into domain `to`, uint8 (N, 3, H, W), from the best to the worst, int64 (N,), and by what.

    Of zebras, the surest zebra is the best one into them, the least sure the best one out of them. Of other photographs,
    the one that is nearest to real pictures of the target and farthest from those of the source, by the kernel of the
    kernel distance. Of drawn ones, the one nearest to its true counterpart.
    """
    source, target = _way(domains, to)
    if domains.aligned:
        return (fake.int() - target.int()).abs().double().mean((1, 2, 3)).argsort(), "nearness to the true counterpart"
    features, probabilities = judge.look(fake)
    if domains.zebras:
        towards = "the judge's probability of a zebra" + (", the lowest first" if to == "a" else "")
        return probabilities[:, ZEBRA].argsort(descending=to == "b"), towards
    near, far = (kernel(features, judge.features(real)).mean(1) for real in (target, source))
    return (near - far).argsort(descending=True), "nearness to the target domain in the judge's features"


def best_typical_worst(order: Tensor, each: int) -> dict[str, Tensor]:
    """The first `each` positions of an order (N,), those around its middle, and the last; fewer where N < 3 each."""
    each = max(1, min(each, len(order) // 3))
    middle = (len(order) - each) // 2
    return {"best": order[:each], "typical": order[middle : middle + each], "worst": order[-each:]}


# ---- reading a run


def first_and_last_tenth(history: dict[str, np.ndarray]) -> tuple[dict[str, float], dict[str, float]]:
    """The mean of each logged value over the first and over the last tenth of the steps."""
    tenth = max(1, len(history["step"]) // 10)
    ends = (slice(None, tenth), slice(-tenth, None))
    first, last = ({name: float(values[end].mean()) for name, values in history.items()} for end in ends)
    return first, last


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
    """Scores of two runs after the same epoch, by the averaged generators if there are any, and its mean cycle loss."""
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
        found[name] = row | {"cycle loss of that epoch's steps": float(cycle.mean())}
    return found


def side_by_side(compared: dict[str, dict[str, float]]) -> list[dict[str, str]]:
    """`compare` as the rows of a table: a score a row, a run a column."""
    scores = next(iter(compared.values()))
    return [{"score": score} | {run: f"{row[score]:.3f}" for run, row in compared.items()} for score in scores]


def identity_in_words(compared: dict[str, dict[str, float]]) -> str:
    """What `compare` says of the identity loss, in a paragraph."""
    without, with_it = compared.values()
    ab, ba = COMPARED["shift_ab"], COMPARED["shift_ba"]
    words = (
        f"With the identity loss the mean colours of a picture move by {with_it[ab]:.3f} instead of {without[ab]:.3f} from A to "
        f"B, and by {with_it[ba]:.3f} instead of {without[ba]:.3f} from B to A. "
    )
    zebra = COMPARED["zebra_ab"]
    if zebra in without:
        words += (
            f"Of the translated horses {with_it[zebra]:.0%} are called zebra with it and {without[zebra]:.0%} without, after "
            "as many steps. "
        )
    if COMPARED["kd_ab"] in without:
        kd = [[row[COMPARED[way]] for way in ("kd_ab", "kd_ba")] for row in (with_it, without)]
        farther = kd[0][0] > kd[1][0] and kd[0][1] > kd[1][1]
        words += (
            f"The kernel distances to real pictures, A to B and B to A, are {kd[0][0]:.3f} and {kd[0][1]:.3f} with it and {kd[1][0]:.3f} "
            f"and {kd[1][1]:.3f} without" + (": with it translations go less far. " if farther else ". ")
        )
    if with_it[ab] < without[ab] and with_it[ba] < without[ba]:
        words += (
            "So the loss has an effect on both: it ties generators to the colours that they find, as the paper says (section "
            "5.2), and so to the input. "
        )
    return words + (
        "With one run each, and scores that move from epoch to epoch ({fig:cyclegan-scores}), the "
        "direction is to be trusted more than the size."
    )
