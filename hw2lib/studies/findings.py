"""What the results say: the comparisons on which the written answers rest, of results alone.

cases     by_case of a study: score -> entry {"mean", "deviation", "min", "max", "count"} inside the case's values
measured  rows of a study
"""

import statistics
from collections.abc import Sequence

from hw2lib.studies.study import above, differ

Entry = dict[str, float]
Found = dict[str, Entry]


# ---- the parts of CycleGAN, cases of the ablations


def lead(found: dict, domain: str = "b") -> float:
    """How far a discriminator marks real pictures above translations, of entries or of plain numbers."""
    real, fake = (found[f"d_{domain}_{kind}"] for kind in ("real", "fake"))
    return real["mean"] - fake["mean"] if isinstance(real, dict) else real - fake


def effect(full: Found, other: Found, score: str) -> str:
    """Whether `other` lowers the score of `full`: "clear" for all seeds, "slight" in the mean, or "none"."""
    if above(full[score], other[score]):
        return "clear"
    return "slight" if other[score]["mean"] < full[score]["mean"] else "none"


def any_differs(full: Found, other: Found, scores: Sequence[str] = ("stripes_ab", "background_ab")) -> bool:
    """Whether all seeds agree on a difference in any of the scores."""
    return any(differ(full[score], other[score]) for score in scores)


def stronger_opponent(few: Found, many: Found) -> bool:
    """Whether with more updates of the discriminator its lead and the generator's loss are both larger."""
    return many["g_ab"]["mean"] > few["g_ab"]["mean"] and lead(many) > lead(few)


# Cases by the weight of the cycle loss.
WEIGHTS = {
    0.0: "no_cycle_loss",
    0.1: "cycle_weight_0_1",
    1.0: "cycle_weight_1",
    10.0: "full",
    100.0: "cycle_weight_100",
}


def by_weight(cases: dict[str, Found], score: str) -> dict[float, float]:
    """Weight of the cycle loss -> mean score."""
    return {weight: cases[name][score]["mean"] for weight, name in WEIGHTS.items()}


def best_between(cases: dict[str, Found]) -> bool:
    """Whether weight 10 is better than both ends: more weight mends the cycle error up to 10, and beyond it stripes fall."""
    stripes, cycle, loss = (by_weight(cases, score) for score in ("stripes_ab", "cycle_aba", "g_ab"))
    return (
        stripes[0.1] < stripes[10.0] > stripes[100.0]
        and cycle[0.1] > cycle[1.0] > cycle[10.0]
        and loss[100.0] > loss[10.0]
    )


def nearly_one_picture(likeness: dict[str, float]) -> bool:
    """Whether without the cycle loss translations are less than half as far apart as with it, and as true ones are."""
    return likeness["no_cycle_loss"] < min(likeness["full"], likeness["target"]) / 2


def mostly_damage(full: Found, nothing: dict[str, float]) -> bool:
    """Whether translations are farther from the truth than untouched pictures, in both directions."""
    return min(full["truth_ab"]["mean"], full["truth_ba"]["mean"]) > nothing["truth_ab"]


# ---- translations of photographs


def ahead(there: dict[str, float], back: dict[str, float]) -> dict[str, bool]:
    """By each distance, whether a row of the score card of b closes more of its gap than that of a."""
    return {distance: there[f"{distance}_closed"] > back[f"{distance}_closed"] for distance in ("kd", "fd")}


def most_harmful(hidden: dict[str, dict[str, float]]) -> str:
    """The disturbance of steganography.hidden_information after which least comes back."""
    return max((name for name in hidden if name != "nothing"), key=lambda name: hidden[name]["cycle"])


def rests_on_faint_pattern(hidden: dict[str, dict[str, float]]) -> bool:
    """Whether the worst disturbance costs the way back more than it changed the translation."""
    worst = hidden[most_harmful(hidden)]
    return worst["cycle"] - hidden["nothing"]["cycle"] > worst["difference"]


# ---- posterior collapse


def agreement(measured: list[dict]) -> dict:
    """Linear VAEs beside the formula: {"agree", "trainings", "farthest", "active": {sigma2: latents}}.

    "agree": trainings with as many active latents; "farthest": the largest difference of a latent's KL, in nats.
    """
    latents = [name for name in measured[0] if name.startswith("kl_")]
    return {
        "agree": sum(row["active"] == row["analytic_active"] for row in measured),
        "trainings": len(measured),
        "farthest": max(abs(row[name] - row[f"analytic_{name}"]) for row in measured for name in latents),
        "active": {row["sigma2"]: row["active"] for row in measured},
    }


def worth_of_z(found: Found) -> float:
    """Nats a picture that z is worth to a perfect decoder of this k; at most rounding below 0."""
    return max(0.0, found["true_nll_without_z"]["mean"] - found["true_nll"]["mean"])


# ---- mode collapse

# A generator with a larger share of its samples near a mode fits the data, whatever it leaves out.
SHARP = 0.5


def most_modes(measured: list[dict], ratio: float) -> int:
    """Modes that the best training covers, of those with this pace of the discriminator."""
    return max(row["modes"] for row in measured if row["ratio"] == ratio)


def sharp(measured: list[dict]) -> list[dict]:
    """Balances, of which every training has modes and one samples near them: {"width", "ratio", "trainings", "lost"}.

    "lost": the modes of each training that covers fewer than 8.
    """
    return [
        {
            "width": width,
            "ratio": ratio,
            "trainings": len(group),
            "lost": [row["modes"] for row in group if row["modes"] < 8],
        }
        for (width, ratio), group in _balances(measured).items()
        if max(row["near"] for row in group) > SHARP
    ]


def blurred(measured: list[dict]) -> list[dict]:
    """Balances of which every training has modes and none samples near them: {"width", "ratio", "near", "modes"}.

    "near" and "modes" have the numbers of each training.
    """
    return [
        {
            "width": width,
            "ratio": ratio,
            "near": [row["near"] for row in group],
            "modes": [row["modes"] for row in group],
        }
        for (width, ratio), group in _balances(measured).items()
        if max(row["near"] for row in group) <= SHARP
    ]


def _balances(measured: list[dict]) -> dict[tuple[int, float], list[dict]]:
    """Trainings by width and ratio, where all of a balance cover more than one mode."""
    groups: dict[tuple[int, float], list[dict]] = {}
    for row in sorted(measured, key=lambda row: (row["width"], row["ratio"])):
        groups.setdefault((row["width"], row["ratio"]), []).append(row)
    return {key: group for key, group in groups.items() if min(row["modes"] for row in group) > 1}


# ---- codebooks


def least(cases: dict[str, Found], score: str = "test_nmse") -> str:
    """The case with the least mean score."""
    return min(cases, key=lambda name: cases[name][score]["mean"])


def grows_without_commitment(cases: dict[str, dict[str, Found]]) -> dict[str, bool]:
    """Codebook -> whether without the commitment term the encoder's outputs are larger, for all seeds."""
    return {
        codebook: above(its["commitment"]["encoder_rms"], its["nothing"]["encoder_rms"])
        for codebook, its in cases.items()
    }


def worse_without_commitment(cases: dict[str, dict[str, Found]]) -> dict[str, bool]:
    """Codebook -> whether without the commitment term the mean error is larger."""
    return {
        codebook: its["commitment"]["test_nmse"]["mean"] > its["nothing"]["test_nmse"]["mean"]
        for codebook, its in cases.items()
    }


def cure(cases: dict[str, Found], num_codes: int) -> str:
    """What keeps the codebook in use: "restarts" alone, one that does "more_kmeans" or "more_restarts", or "neither"."""
    used = {start: found["test_codes_used"]["mean"] for start, found in cases.items()}
    if max(used["kmeans_start"], used["restarts"]) < 1.2 * used["neither"]:
        return "neither"
    if used["restarts"] > 0.9 * num_codes > 1.8 * used["kmeans_start"]:
        return "restarts"
    return "more_restarts" if used["restarts"] > used["kmeans_start"] else "more_kmeans"


def trend(values: Sequence[float]) -> dict[str, float]:
    """{"epochs", "slope"}: change an epoch, of a line through the last quarter of the values, two or more."""
    tail = list(values)[-max(2, len(values) // 4) :]
    return {"epochs": len(tail), "slope": statistics.linear_regression(range(len(tail)), tail).slope}


def course(values: Sequence[float]) -> dict:
    """{"first", "last", "top", "epoch" of the top, "least" after it, "rises"}; rises: "throughout", "to_a_peak" or "no".

    "no" where the last value is not above the first, "throughout" where it is the greatest.
    """
    values = [float(value) for value in values]
    at = max(range(len(values)), key=values.__getitem__)
    rises = "no" if values[-1] <= values[0] else "throughout" if at == len(values) - 1 else "to_a_peak"
    return {
        "first": values[0],
        "last": values[-1],
        "top": values[at],
        "epoch": at + 1,
        "least": min(values[at:]),
        "rises": rises,
    }


def noise_makes_islands(umap: dict[str, dict]) -> bool:
    """Whether with the fewest neighbours noise has as many islands on its map as the codebook, or more."""
    few = min(umap["noise"], key=int)
    return umap["noise"][few]["islands"] >= umap["codebook"][few]["islands"]
