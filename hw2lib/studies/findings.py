"""What the written answers say of results beyond the numbers themselves: from rows, entries and curves, nothing else.

found     entries of a case by score, as `study.by_case` has them, or plain numbers by name
measured  rows of a study
"""

from collections.abc import Sequence

import numpy as np


def lead(found: dict, domain: str = "b", translations: str = "fake") -> float:
    """How far the discriminator of a domain marks real pictures above translations, of entries or of plain numbers.

    translations: "fake", those that it learns from, out of the pool; or "fresh", the newest, which the generator's loss is of.
    """
    real, fake = (found[f"d_{domain}_{kind}"] for kind in ("real", translations))
    return real["mean"] - fake["mean"] if isinstance(real, dict) else real - fake


def loss_and_lead(history: dict[str, np.ndarray], domain: str, translations: str = "fake") -> dict:
    """How the loss of the generator into a domain goes with the lead of the discriminator of that domain.

    {"loss", "lead": means over each tenth of the steps, "correlation": Pearson's r over fiftieths}; of runs of fewer steps
    over each step.
    """
    series = {"loss": history["g_ab" if domain == "b" else "g_ba"], "lead": lead(history, domain, translations)}

    def means(parts: int) -> dict[str, list[float]]:
        parts = min(parts, len(history["step"]))
        return {name: [float(part.mean()) for part in np.array_split(its, parts)] for name, its in series.items()}

    loss, course = means(50).values()
    return means(10) | {"correlation": float(np.corrcoef(loss, course)[0, 1]) if len(loss) > 1 else 0.0}


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


def worth_of_z(found: dict[str, dict[str, float]]) -> float:
    """Nats a picture that z is worth to a perfect decoder of this k; at most rounding below 0."""
    return max(0.0, found["true_nll_without_z"]["mean"] - found["true_nll"]["mean"])


# A generator with a larger share of its samples near a mode fits the data, whatever it leaves out.
SHARP = 0.5


def balances(measured: list[dict], setup: str = "plain") -> list[dict]:
    """Trainings of the ring by balance: {"width", "ratio", "trainings", "missing", "sharp", "lost"}, of a setup.

    missing: how many cover fewer than 8 modes; sharp: how many have sharp samples; lost: the modes of each of these that
    covers fewer than 8.
    """
    groups: dict[tuple[int, float], list[dict]] = {}
    for row in sorted(measured, key=lambda row: (row["width"], row["ratio"])):
        if row["setup"] == setup:
            groups.setdefault((row["width"], row["ratio"]), []).append(row)
    found = []
    for (width, ratio), group in groups.items():
        sharp = [row for row in group if row["near"] > SHARP]
        lost = [row["modes"] for row in sharp if row["modes"] < 8]
        missing = sum(row["modes"] < 8 for row in group)
        counts = {"trainings": len(group), "missing": missing, "sharp": len(sharp)}
        found.append({"width": width, "ratio": ratio} | counts | {"lost": lost})
    return found


def course(values: Sequence[float]) -> dict[str, float]:
    """{"first", "last", "top", "epoch", "least"}: where values go, "epoch" of the top from 1, "least" from there on."""
    values = [float(value) for value in values]
    at = max(range(len(values)), key=values.__getitem__)
    return {
        "first": values[0],
        "last": values[-1],
        "top": values[at],
        "epoch": at + 1,
        "least": min(values[at:]),
    }
