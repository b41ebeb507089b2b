"""The written answers of sections 2.2 and 2.3: tables and sentences made of what was measured, and of nothing else (see answers_ablations)."""

import statistics

from hw2lib.evaluation.likelihoods import SEEN, UNIFORM
from hw2lib.evaluation.new_pictures import DRAWN
from hw2lib.studies.study import by_case, by_value, spread
from hw2lib.training.runs import Run

CODEBOOKS = {"gradient": "learnt by its loss", "ema": "of moving averages"}


# ---- the terms of the loss


def gradient_rows(facts: dict[str, float]) -> list[dict[str, str]]:
    """codebooks.gradient_facts as a table: a term a row, a part of the network a column."""
    terms = ("reconstruction", "codebook", "commitment")
    return [
        {"gradient of the term": term}
        | {
            f"in the {part}": "0" if facts[f"{term}_{part}"] == 0 else f"{facts[f'{term}_{part}']:.3g}"
            for part in ("encoder", "codebook", "decoder")
        }
        for term in terms
    ]


def score_cells(found: dict[str, dict[str, float]]) -> dict[str, str]:
    """The columns that the tables of codebooks' studies share."""
    return {
        "NMSE": spread(found["test_nmse"], 3),
        "perplexity": spread(found["test_perplexity"], 0),
        "codes used": spread(found["test_codes_used"], 0),
    }


def terms_rows(run: Run) -> list[dict[str, str]]:
    """The study codebooks.terms as a table: a row for each codebook and removed term."""
    return [
        {"codebook": CODEBOOKS[codebook], "term removed": removed}
        | score_cells(found)
        | {"size of z_e": size_in_words(found["encoder_rms"])}
        for (codebook, removed), found in by_case(run).items()
    ]


def size_in_words(found: dict[str, float]) -> str:
    """A mean over many orders of magnitude: three digits, and the spread as least to greatest."""
    if found["count"] == 1 or found["max"] < 2 * found["min"]:
        return f"{found['mean']:.3g}"
    return f"{found['min']:.3g} to {found['max']:.3g}"


def terms_in_words(run: Run) -> str:
    """What each removed term does to the codec."""
    cases = by_case(run)
    nmse = {name: found["test_nmse"]["mean"] for name, found in cases.items()}
    size = {name: size_in_words(found["encoder_rms"]) for name, found in cases.items()}
    plain, stuck, none = (("gradient", removed) for removed in ("nothing", "codebook", "reconstruction"))
    averages, stopped, unbound = (("ema", removed) for removed in ("nothing", "codebook", "commitment"))
    words = (
        f"Without the reconstruction term the decoder stays as it was and the NMSE at {nmse[none]:.2f}; 1 is the mean picture. "
        f"Without the codebook term a learnt codebook stays where it began: the NMSE is {nmse[stuck]:.3f} instead of {nmse[plain]:.3f}, "
        f"and the outputs of the encoder have the size {size[stuck]} instead of {size[plain]}. With averages that term is absent by "
        f"design, at an NMSE of {nmse[averages]:.3f}; if the averages, which do its work, are stopped instead, it is "
        f"{nmse[stopped]:.3f}: the two cases are then the same training. "
    )
    worse = [
        (name, nmse[codebook, "commitment"], nmse[codebook, "nothing"])
        for codebook, name in CODEBOOKS.items()
        if nmse[codebook, "commitment"] > nmse[codebook, "nothing"]
    ]
    words += (
        f"Without the commitment term the outputs of the encoder grow, to a size of {size['gradient', 'commitment']} with the learnt "
        f"codebook and of {size[unbound]} with averages ({size[averages]} with it), and the codebooks follow badly. "
        if cases[unbound]["encoder_rms"]["min"] > cases[averages]["encoder_rms"]["max"]
        else "Without the commitment term the outputs of the encoder did not grow here. "
    )
    return words + (
        "The error is larger without it for "
        + " and for ".join(
            f"the codebook {name} ({without:.3f} against {with_it:.3f})" for name, without, with_it in worse
        )
        + "."
        if worse
        else "In so short a training the error is no larger without it."
    )


def commitment_verdict(run: Run) -> tuple[str, str]:
    """Verdict and reason on the claim that removing the commitment term harms the encoder."""
    cases = by_case(run)
    pairs = [(cases[codebook, "commitment"], cases[codebook, "nothing"]) for codebook in CODEBOOKS]
    grown = all(without["encoder_rms"]["mean"] > with_it["encoder_rms"]["mean"] for without, with_it in pairs)
    worse = [without["test_nmse"]["mean"] > with_it["test_nmse"]["mean"] for without, with_it in pairs]
    reason = "its outputs grow, and codes cannot follow" if grown else "here its outputs did not grow"
    if all(worse):
        return ("right" if grown else "half right"), reason + "."
    error = (
        "for one of the two codebooks the error is not larger"
        if any(worse)
        else "in a short training the error is no larger"
    )
    return "half right", f"{reason}; {error}."


# ---- the start of the codebook


def starts_rows(run: Run) -> list[dict[str, str]]:
    """The study codebooks.starts as a table, with the perplexity on the way."""
    return [
        {"start": start}
        | {
            f"perplexity at {at}": spread(found[f"perplexity_at_{at}"], 1)
            for at in (100, 500)
            if f"perplexity_at_{at}" in found
        }
        | score_cells(found)
        for start, found in by_value(run).items()
    ]


def starts_in_words(run: Run) -> str:
    """Which of the two remedies does what."""
    cases = by_value(run)
    used = {start: found["test_codes_used"]["mean"] for start, found in cases.items()}
    nmse = {start: found["test_nmse"]["mean"] for start, found in cases.items()}
    neither, start, restart, both, noise = cases
    codes = run.config["settings"]["config"]["num_codes"]
    words = (
        f"Codes in use after {run.config['settings']['updates']:,} updates: {used[neither]:.0f} of {codes} with neither remedy, "
        f"{used[start]:.0f} with the k-means start, {used[restart]:.0f} with restarts, {used[both]:.0f} with both. The averages that "
        f"begin as noise, as in the best-known notebook, end with {used[noise]:.0f} codes and an NMSE of {nmse[noise]:.3f}, against "
        f"{nmse[both]:.3f} with both remedies"
        + (
            ": more codes than correct averages alone, for their unused codes sink towards 0, where some are found again. "
            if used[noise] > used[neither]
            else ". "
        )
    )
    if max(used[start], used[restart]) < 1.2 * used[neither]:
        return words + "Here the remedies make less of a difference than is said."
    if used[restart] > 0.9 * codes > 1.8 * used[start]:
        return words + (
            "It is the restarts that cure the collapse; a start on the encoder's outputs alone softens it, and beside restarts it helps "
            "mainly in the first updates."
        )
    more, less = (restart, start) if used[restart] > used[start] else (start, restart)
    return words + f"Taken alone, {more} does more than {less}."


# ---- other quantizers


def quantizer_rows(run: Run) -> list[dict[str, str]]:
    """The study codebooks.other_quantizers as a table."""
    names = {"EMA": "ours, moving averages", "gradient": "ours, learnt by its loss"}
    return [
        {"quantiser": names.get(name, name)} | score_cells(found)
        for name, found in sorted(by_value(run).items(), key=lambda item: -item[1]["test_nmse"]["mean"])
    ]


def quantizers_in_words(run: Run) -> str:
    """How the newer quantizers compare."""
    cases = by_value(run)
    nmse = {name: found["test_nmse"]["mean"] for name, found in cases.items()}
    used = {name: found["test_codes_used"]["mean"] for name, found in cases.items()}
    best, codes = min(nmse, key=nmse.get), run.config["settings"]["config"]["num_codes"]
    words = (
        f"After {run.config['settings']['updates']:,} updates FSQ, which has no codebook to collapse, uses {used['FSQ']:.0f} of {codes} codes, "
        f"SimVQ {used['SimVQ']:.0f}, and ours with averages {used['EMA']:.0f}. "
    )
    return words + (
        f"Ours has the least error, {nmse['EMA']:.3f}. Published gains of the newer ones are for codebooks of thousands of codes; at this "
        "size a plain one with restarts is not beaten."
        if best == "EMA"
        else f"The least error, {nmse[best]:.3f}, has {best}; that of ours with averages is larger by {nmse['EMA'] / nmse[best] - 1:.0%}."
    )


# ---- the curves of the long run


def enough_in_words(epochs: list[dict[str, float]]) -> str:
    """Was the training long enough: the change of the test NMSE over the last epochs, an epoch a row."""
    tail = [row["test_nmse"] for row in epochs[-max(2, len(epochs) // 4) :]]
    vq = [row["test_vq"] for row in epochs]
    words = ""
    if len(tail) > 1:
        slope = statistics.linear_regression(range(len(tail)), tail).slope
        words = (
            f"Over the last {len(tail)} epochs the test NMSE moved by {slope:+.1e} an epoch (a line fitted through them)"
            + (", that is, not down any more. " if slope >= 0 else ", still a little down. ")
            + f"The VQ loss is {'rising' if vq[-1] > vq[0] else 'falling'}, from {vq[0]:.2g} after the first epoch to {vq[-1]:.2g}. "
        )
    return words + (
        "That is the end of the schedule and no convergence: the learning rate has run out at the last update, wherever that is "
        "put. Enough for this schedule it was; whether a longer one would do better, this run cannot say."
    )


def perplexity_verdict(by_epoch: list[float]) -> tuple[str, str]:
    """Verdict and reason on the claim that the perplexity of the test set increases, from its values after each epoch."""
    first, last = by_epoch[0], by_epoch[-1]
    top = max(range(len(by_epoch)), key=by_epoch.__getitem__)
    if last <= first:
        return "not here", f"it went from {first:.0f} after the first epoch to {last:.0f}."
    if top == len(by_epoch) - 1:
        return "right", f"from {first:.0f} after the first epoch to {last:.0f}."
    least = min(by_epoch[top:])
    return (
        "half right",
        f"from {first:.0f} it rose to {by_epoch[top]:.0f} (epoch {top + 1}), fell to {least:.0f}, and ended at {last:.0f}.",
    )


def uses_in_words(by_batch: dict[int, float], used: int, codes: int) -> str:
    """Perplexity as what it is, from one model's codes counted over sets of several sizes."""
    sizes = sorted(by_batch)
    counted = ", ".join(f"{by_batch[size]:.0f} in batches of {size:,}" for size in sizes[:-1])
    return (
        f"The same codes of the same model have a perplexity of {counted} pictures, and {by_batch[sizes[-1]]:.0f} over all "
        f"{sizes[-1]:,}; and {used} of {codes} codes occur. The share in use is thus {used / codes:.0%}, and the perplexity "
        f"{by_batch[sizes[-1]] / codes:.0%} of K: two numbers for two questions."
    )


def maps_in_words(found: dict[str, dict]) -> str:
    """What experiments.map_numbers says of islands and of trustworthiness."""
    few, many = min(found["noise"]), max(found["noise"])

    def all_of(score: str, digits: int, n: int) -> str:
        return ", ".join(f"{by_n[n][score]:.{digits}f} for the {name}" for name, by_n in words.items())

    words = {"codebook": found["codebook"], "shuffled numbers": found["shuffled"], "noise": found["noise"]}
    noisy = found["noise"][few]["islands"] >= found["codebook"][few]["islands"]
    first = (
        "With few neighbours noise falls into as many islands as the codebook, or more, so that islands prove nothing"
        if noisy
        else "Here the codebook has more islands than noise"
    )
    return (
        f"{first} ({{fig:vqvae-umap}}). Clusters of points (DBSCAN, within four times the median distance "
        f"of nearest neighbours) at n_neighbors {few}: {all_of('islands', 0, few)}; at {many}: {all_of('islands', 0, many)}. What "
        "tells a codebook from its controls is whether neighbours on the map are neighbours in the codebook, the trustworthiness: "
        f"{all_of('trustworthiness', 2, few)} at {few}, and {all_of('trustworthiness', 2, many)} at {many}."
    )


def in_short(
    last: dict[str, float],
    known: dict[str, dict],
    card: dict[str, dict],
    epochs: int,
    pictures: int,
    bits: float,
) -> str:
    """The codec and its prior in one sentence, for the report's summary."""
    uniform, seen = known[UNIFORM]["nats"], known[SEEN]["nats"]
    return (
        f"**VQ-VAE**, epochs: {epochs}. NMSE {last['test_nmse']:.4f} ({last['test_psnr']:.2f} dB) on {pictures:,} test pictures at "
        f"{bits:.0f} bits a picture, perplexity {last['test_perplexity']:.0f}. A prior over the codes makes a code {uniform - seen:.2f} nats "
        f"cheaper than a uniform guess, and its new pictures close {card[DRAWN]['kd_closed']:.0%} of the gap between codes "
        "without a prior and real pictures (kernel distance)."
    )
