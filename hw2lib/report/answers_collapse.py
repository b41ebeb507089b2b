"""The written answers of section 2.1, on posterior and mode collapse, as hw2lib.report.answers_ablations: made of results alone."""

import math

from hw2lib.studies import posterior_collapse as collapse
from hw2lib.studies.study import by_value, rows, seeds_in_words, spread, values
from hw2lib.training.runs import Run

RATIOS = {0.2: "1 update of D in 5 steps", 1.0: "1 a step", 5.0: "5 a step"}


# ---- posterior collapse


def linear_kls(run: Run) -> tuple[dict[float, list[float]], dict[float, list[float]]]:
    """KL of each latent by noise variance: measured means, and the formula at many variances (charts.linear_collapse)."""
    latents = len(run.config["settings"]["eigenvalues"])
    measured = {
        sigma2: [found[f"kl_{place}"]["mean"] for place in range(1, latents + 1)]
        for sigma2, found in by_value(run).items()
    }
    least, most = math.log(min(measured)), math.log(max(measured))
    many = [math.exp(least + (most - least) * step / 200) for step in range(201)]
    return measured, {sigma2: collapse.analytic_kl(sigma2) for sigma2 in many}


def linear_in_words(run: Run) -> str:
    """How the linear VAE's active latents agree with the formula."""
    found = rows(run)
    eigenvalues = run.config["settings"]["eigenvalues"]
    agree = sum(row["active"] == row["analytic_active"] for row in found)
    off = max(abs(row[f"kl_{n}"] - row[f"analytic_kl_{n}"]) for row in found for n in range(1, len(eigenvalues) + 1))
    counts = {row["sigma2"]: row["active"] for row in found}
    return (
        f"The covariance of the data has the eigenvalues {', '.join(f'{value:g}' for value in eigenvalues)}. With noise "
        f"variances of {', '.join(f'{sigma2:g}' for sigma2 in counts)} the trained linear VAE keeps "
        f"{', '.join(str(count) for count in counts.values())} latents active: in {agree} of {len(found)} trainings "
        f"({seeds_in_words(run)}) as many as there are eigenvalues above the noise variance. No KL divergence is farther than "
        f"{off:.1g} nats from the formula. The decoder is a matrix of {len(eigenvalues) ** 2} numbers, and at the largest noise "
        f"variance it ignores {'every latent' if min(counts.values()) == 0 else 'most latents'}: no power is needed."
    )


def power_panels(run: Run) -> dict[str, dict[str, dict[float, list[float]]]]:
    """What a stronger decoder leaves to z, over k, for charts.by_level."""
    return {
        "KL, nats a picture": {"": values(run, "k", "kl")},
        "loss if z is another picture's": {"": values(run, "k", "shuffled")},
        "active latents": {"": values(run, "k", "active")},
    }


def power_in_words(run: Run) -> str:
    """What decoders that see more pixels leave to z, and what they can still draw."""
    cases = by_value(run)
    weak, strong = cases[min(cases)], cases[max(cases)]
    bound = {  # at most rounding below 0
        k: max(0.0, found["true_nll_without_z"]["mean"] - found["true_nll"]["mean"]) for k, found in cases.items()
    }
    name = "collapsed" if strong["active"]["max"] == 0 else "nearly collapsed"
    return (
        f"From a decoder that sees no other pixel to one that sees all before its own (k = {min(cases)} to {max(cases)}), the KL "
        f"divergence goes from {spread(weak['kl'], 2)} to {spread(strong['kl'], 2)} nats a picture ({seeds_in_words(run)}), and giving it "
        f"another picture's z costs {weak['shuffled']['mean']:.2f} and then {strong['shuffled']['mean']:.2f} nats. The decoders differ "
        f"little in size ({weak['decoder_parameters']['mean']:,.0f} and {strong['decoder_parameters']['mean']:,.0f} weights in "
        "use), so that the difference is due to what they see. To a perfect decoder z is worth "
        f"{bound[min(cases)]:.2f} nats at k = {min(cases)} and {bound[max(cases)]:.2f} at k = {max(cases)}. Nor is the {name} model, k = "
        f"{max(cases)}, a poor one: its bound on -log p(x) is {-strong['elbo']['mean']:.2f} nats a picture, that of k = {min(cases)} "
        f"{-weak['elbo']['mean']:.2f}, and the best possible {strong['true_nll']['mean']:.2f}."
    )


# ---- mode collapse


def ring_panels(run: Run) -> dict[str, dict[str, dict[float, list[float]]]]:
    """Modes, samples near a mode and the generator's loss over the discriminator's width, a line for each pace."""
    titles = {
        "modes covered, of 8": "modes",
        "samples near a mode": "near",
        "generator's loss": "g_loss",
    }
    paces = {case["ratio"]: RATIOS.get(case["ratio"], f"{case['ratio']:g} a step") for case in run.config["cases"]}
    return {
        title: {label: values(run, "width", score, ratio=ratio) for ratio, label in paces.items()}
        for title, score in titles.items()
    }


SHARP = 0.5  # a generator with a larger share of its samples near a mode fits the data, whatever it leaves out


def ring_in_words(run: Run) -> str:
    """Which discriminators lose modes."""
    found = rows(run)
    widths, ratios = (sorted({row[name] for row in found}) for name in ("width", "ratio"))
    groups = {(w, r): [row for row in found if (row["width"], row["ratio"]) == (w, r)] for w in widths for r in ratios}
    slow = max(row["modes"] for row in found if row["ratio"] == ratios[0])
    pace = RATIOS.get(ratios[0], f"{ratios[0]:g} updates a step")
    words = f"With {pace} no width covers {f'more than {slow} of the 8 modes' if slow else 'any mode'}: too slow teaches little. "
    some = {key: group for key, group in groups.items() if min(row["modes"] for row in group) > 1}
    blurred = {key: group for key, group in some.items() if max(row["near"] for row in group) <= SHARP}
    for (width, ratio), group in blurred.items():
        words += (
            f"Width {width} at {RATIOS.get(ratio, f'{ratio:g}')} gives blurred samples ({range_of(group, 'near', '.0%')} near a mode) of "
            f"{range_of(group, 'modes', 'd')} modes. "
        )
    lost = {
        key: [row for row in group if row["modes"] < 8]
        for key, group in some.items()
        if max(row["near"] for row in group) > SHARP
    }
    if not any(lost.values()):
        return words + "No training whose samples are sharp lost a mode."
    return words + (
        "Of those with sharp samples, modes are lost by "
        + ", ".join(
            f"{len(those)} of {len(groups[key])} at width {key[0]} and {RATIOS.get(key[1], f'{key[1]:g}')}"
            for key, those in lost.items()
        )
        + f" ({range_of([row for those in lost.values() for row in those], 'modes', 'd')} modes are left). So modes are lost on both sides of the "
        "balance; sharp samples with missing modes come from the strong one."
    )


def range_of(group: list[dict], name: str, form: str) -> str:
    """'16% to 37%', or one number where there is no range."""
    least, most = (f"{end(row[name] for row in group):{form}}" for end in (min, max))
    return least if least == most else f"{least} to {most}"
