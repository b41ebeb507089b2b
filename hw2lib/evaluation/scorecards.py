"""Score cards: every score of a set of pictures stands between two ends, doing nothing and real pictures.

What is called `measure_...` is the call of a notebook: numbers into a run's metrics.json, once. Rows and scores are
identifiers; titles are the report's.
"""

from functools import cache

import numpy as np
from torch import Tensor

from hw2lib.cyclegan import CycleGAN
from hw2lib.data import Domains
from hw2lib.evaluation.judge import HOOFED, ZEBRA, Judge, Looks, distances, gaps_closed, kernel, share, standard_fid
from hw2lib.evaluation.second_judge import SecondJudge
from hw2lib.evaluation.translations import cycle_error, difference, kinds, some_scaled, translate
from hw2lib.training import Run

# Scores of the table that sets two runs side by side, where the runs have them.
COMPARED = ("zebra_ab", "kd_ab", "kd_ba", "truth_ab", "background_ab", "shift_ab", "shift_ba")
# Training pictures of each domain of which cards are made: all of horse2zebra.
MOST = 2000


def measure_translations(run: Run, model: CycleGAN, domains: Domains, judge: Judge | None) -> dict[str, dict]:
    """What the report says of all test pictures translated by `model`, which is `as_published(model, run)`.

    Kept in the run's metrics under the same names, and measured anew only for other weights:

    cards        {"b": card of the translations into B, "a": of those into A}, see `card`: a row for each of kinds(model)
    cycle_error  {kind: {"aba", "bab"}}, see translations.cycle_error
    merit        {"ab": [...], "ba": [...]}: positions of the test pictures of A (of B), the best translation first, by
                 the judged weights (kinds(model)[-1]); `merit_by` says by what
    """
    fakes = cache(lambda to: _translations(model, domains, to))

    def cycle_errors() -> dict[str, dict[str, float]]:
        a, b = fakes("a"), fakes("b")
        return {kind: cycle_error(model, domains, kind == "average", a[kind], b[kind]) for kind in kinds(model)}

    def merit() -> dict[str, list[int]]:
        judged = kinds(model)[-1]
        ways = {"ab": "b", "ba": "a"}
        return {way: by_merit(domains, judge, to, fakes(to)[judged]).tolist() for way, to in ways.items()}

    return {
        "cards": run.measured(
            "cards", lambda: {to: card(domains, judge, to, fakes(to)) for to in ("b", "a")}, version=3
        ),
        "cycle_error": run.measured("cycle_error", cycle_errors),
        "merit": run.measured("merit", merit, version=2),
    }


def measure_on_training(run: Run, model: CycleGAN, domains: Domains, judge: Judge) -> dict[str, dict]:
    """{"b", "a"}: as the cards of `measure_translations`, but of training pictures: seen ones, but many.

    Of photographs; all pictures of both domains, at most 2,000 of each, evenly spaced, by the judged weights alone. Test
    sets of a hundred are too few for FD. The row real_pictures compares two halves of the target's pictures, so that its
    FD is larger than between sets as large as those of the other rows; KD does not depend on that. Kept as
    metrics["cards_train"]; {} if a domain has fewer than 6 pictures.
    """

    def cards() -> dict[str, dict]:
        kind = kinds(model)[-1]
        generators = dict(zip("ba", model.generators(kind == "average"), strict=True))
        real = {
            domain: some_scaled(pictures, domains.size, MOST)
            for domain, pictures in (("a", domains.train_a), ("b", domains.train_b))
        }
        if min(map(len, real.values())) < 6:  # two halves of 3, as distances need
            return {}
        looks, found = {domain: judge.look(pictures) for domain, pictures in real.items()}, {}
        for to, source in (("b", "a"), ("a", "b")):
            called, wanted = _called(domains, to), looks[to].features
            fake = judge.look(translate(generators[to], real[source]))
            rows = {
                "doing_nothing": _scores(looks[source], wanted, called),
                kind: _scores(fake, wanted, called),
                "real_pictures": _scores(looks[to]._replace(features=wanted[::2]), wanted[1::2], called),
            }
            found[to] = _with_gaps(rows, "doing_nothing")
        return found

    return run.measured("cards_train", cards)


def measure_second_judge(run: Run, model: CycleGAN, domains: Domains) -> dict[str, dict]:
    """What a judge that has not seen the test pictures says of them and of their translations, see `SecondJudge`.

    accuracy  share of the real test pictures of both domains whose domain it knows, 0 to 1; half of them by chance
    b, a      translations into B and into A: the rows of the cards, with the score second_b, the share that it takes for
              pictures of B rather than A. real_pictures are the test pictures of the target, and not training pictures

    Kept as metrics["second_judge"]; training the judge takes a minute or two.
    """

    def shares() -> dict[str, dict]:
        second, found = SecondJudge(domains), {}
        for to in ("b", "a"):
            source, target = _way(domains, to)
            sets = {"doing_nothing": source, **_translations(model, domains, to), "real_pictures": target}
            found[to] = {name: {"second_b": second.share_of_b(pictures)} for name, pictures in sets.items()}
        right_a, right_b = 1 - found["b"]["doing_nothing"]["second_b"], found["a"]["doing_nothing"]["second_b"]
        count_a, count_b = len(domains.test_a), len(domains.test_b)
        return {"accuracy": (count_a * right_a + count_b * right_b) / (count_a + count_b)} | found

    return run.measured("second_judge", shares)


def measure_standard_fid(run: Run, model: CycleGAN, domains: Domains) -> dict[str, dict[str, float]]:
    """{"b", "a"}: the standard FID, in [0, inf), of each row of the cards; kept as the run's metrics["standard_fid"].

    Needs a network connection once. Raises JudgeError.
    """

    def fids(to: str) -> dict[str, float]:
        source, target = _way(domains, to)
        sets = {"doing_nothing": source, **_translations(model, domains, to), "real_pictures": real_sample(domains, to)}
        device = next(model.g_ab.parameters()).device
        return {name: standard_fid(target, pictures, device) for name, pictures in sets.items()}

    return run.measured("standard_fid", lambda: {to: fids(to) for to in ("b", "a")})


def measure_identity(second: Run, run: Run, epoch: int) -> dict[str, dict[str, float]]:
    """{"without", "with_identity"}: `run` and `second`, which has the identity loss, both after `epoch` epochs.

    See `compare`. Kept as metrics["beside"] of `second`; of a published run what is published.
    """
    return second.measured("beside", lambda: compare(run, second, epoch))


def _translations(model: CycleGAN, domains: Domains, to: str) -> dict[str, Tensor]:
    """All test pictures of the other domain translated into `to`, "a" or "b", by each kind of weights."""
    pairs = {kind: model.generators(kind == "average") for kind in kinds(model)}
    return {kind: translate(pair[to == "a"], _way(domains, to)[0]) for kind, pair in pairs.items()}


# ---- cards


def card(domains: Domains, judge: Judge | None, to: str, fakes: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """What the judge says of translations into domain `to`, "a" or "b", between doing nothing and real pictures.

    fakes: by name, all test pictures of the other domain translated, uint8 (N, 3, H, W). Added are "doing_nothing",
    those pictures as they are, and "real_pictures", N training pictures of the domain, evenly spaced. The rows are
    those of `distance_card`; where there are zebras also zebra, the share called so, and into horses hoofed, the share
    called another hoofed animal, 0 to 1 both. Without a judge, see `toy_card`.
    """
    if judge is None:
        return toy_card(domains, to, fakes)
    source, target = _way(domains, to)
    sets = {"doing_nothing": source, **fakes, "real_pictures": real_sample(domains, to)}
    return distance_card(judge, target, sets, worst="doing_nothing", called=_called(domains, to))


def _called(domains: Domains, to: str) -> dict[str, tuple[int, ...]]:
    """The scores of a card that are shares of pictures called one of some classes."""
    if not domains.zebras:
        return {}
    return {"zebra": (ZEBRA,)} | ({"hoofed": HOOFED} if to == "a" else {})


def distance_card(
    judge: Judge,
    wanted: Tensor,
    sets: dict[str, Tensor],
    worst: str,
    called: dict[str, tuple[int, ...]] | None = None,
) -> dict[str, dict[str, float]]:
    """Distances of sets of pictures to those that are wanted, in the judge's features; all uint8 (N, 3, H, W). The best
    set is "real_pictures".

    Each row has kd and kd_error (kernel distance and its standard error), fd (Fréchet distance) and fd_means (the part of
    fd that is of the means), and each score of `called`: the share, 0 to 1, whose likeliest class is one of these; rows
    other than the two ends also kd_closed, kd_closed_error, fd_closed and fd_means_closed, see judge.between. Raises
    ValueError for sets of fewer than 3 pictures.
    """
    features = judge.features(wanted)
    rows = {name: _scores(judge.look(pictures), features, called or {}) for name, pictures in sets.items()}
    return _with_gaps(rows, worst)


def _scores(looks: Looks, wanted: Tensor, called: dict[str, tuple[int, ...]]) -> dict[str, float]:
    shares = {name: share(looks.probabilities, *classes) for name, classes in called.items()}
    return distances(looks.features, wanted) | shares


def _with_gaps(rows: dict[str, dict[str, float]], worst: str) -> dict[str, dict[str, float]]:
    """Rows other than the two ends have also which share of the gap between these they close."""
    for name in rows.keys() - {worst, "real_pictures"}:
        rows[name] |= gaps_closed(rows[name], rows["real_pictures"], rows[worst])
    return rows


def toy_card(domains: Domains, to: str, fakes: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """As `card`, for toy pictures: truth, the difference to the true counterparts, and background, the change off the
    animal, 0 to 2 both. Doing nothing and the true counterparts are the two ends."""
    source, target = _way(domains, to)
    rows = {"doing_nothing": source, **fakes, "true_counterparts": target}
    return {
        name: {"truth": difference(pictures, target), "background": difference(pictures, source, ~domains.masks)}
        for name, pictures in rows.items()
    }


def real_sample(domains: Domains, to: str) -> Tensor:
    """As many training pictures of domain `to` as are translated into it, evenly spaced, scaled to the test size."""
    train = domains.train_b if to == "b" else domains.train_a
    return some_scaled(train, domains.size, len(_way(domains, to)[0]))


def _way(domains: Domains, to: str) -> tuple[Tensor, Tensor]:
    """Test pictures that are translated, and those of the domain `to`."""
    return (domains.test_a, domains.test_b) if to == "b" else (domains.test_b, domains.test_a)


# ---- the best and the worst


def merit_by(domains: Domains, to: str) -> str:
    """By what translations into domain `to`, "a" or "b", are ranked.

    truth         of drawn ones, nearness to the true counterpart
    zebra_gain    into zebras, by how much the judge's probability of a zebra has grown from the input to the translation
    hoofed_gain   out of them, the same of all hoofed animals but zebras. Not the loss of the zebra: whatever is none has it.
                  Inputs that were not called zebra come last, as nothing can be told from them
    features      of other photographs, nearness to real pictures of the target against those of the source, by the
                  kernel of the kernel distance
    """
    if domains.aligned:
        return "truth"
    if domains.zebras:
        return "zebra_gain" if to == "b" else "hoofed_gain"
    return "features"


def by_merit(domains: Domains, judge: Judge | None, to: str, fake: Tensor) -> Tensor:
    """Positions of translations into domain `to`, uint8 (N, 3, H, W), from the best to the worst, int64 (N,)."""
    source, target = _way(domains, to)
    kind = merit_by(domains, to)
    if kind == "truth":
        return (fake.int() - target.int()).abs().double().mean((1, 2, 3)).argsort()
    if kind == "features":
        features = judge.features(fake)
        near, far = (kernel(features, judge.features(real)).mean(1) for real in (target, source))
        return (near - far).argsort(descending=True)
    before, after = judge.look(source).probabilities, judge.look(fake).probabilities
    if kind == "zebra_gain":
        gain = (after - before)[:, ZEBRA]
    else:
        # From -1 to 1 where the input was called zebra, and below that where it was not.
        gain = (after - before)[:, HOOFED].sum(1) - 3.0 * (before.argmax(1) != ZEBRA)
    return gain.argsort(descending=True)


def best_typical_worst(order: list[int], each: int) -> dict[str, list[int]]:
    """The first `each` positions of an order of N, those around its middle, and the last; fewer where N < 3 each."""
    each = max(1, min(each, len(order) // 3))
    middle = (len(order) - each) // 2
    return {"best": order[:each], "typical": order[middle : middle + each], "worst": order[-each:]}


def ranked(model: CycleGAN, pictures: Tensor, way: str, order: list[int], each: int = 8) -> dict[str, Tensor]:
    """The best, some typical and the worst of uint8 pictures (N, 3, H, W), and what the judged weights make of them.

    order: positions, the best first, see `measure_translations`. {"best", "best_translated", "typical", ...}.
    """
    there = model.generators(kinds(model)[-1] == "average")[way == "ba"]
    rows = {}
    for part, places in best_typical_worst(order, each).items():
        rows |= {part: pictures[places], f"{part}_translated": translate(there, pictures[places])}
    return rows


# ---- reading a run


def first_and_last_tenth(history: dict[str, np.ndarray]) -> tuple[dict[str, float], dict[str, float]]:
    """The mean of each logged value over the first and over the last tenth of the steps."""
    tenth = max(1, len(history["step"]) // 10)
    ends = (slice(None, tenth), slice(-tenth, None))
    first, last = ({name: float(values[end].mean()) for name, values in history.items()} for end in ends)
    return first, last


def drawn_scores(epochs: dict[str, np.ndarray]) -> list[str]:
    """The scores to draw over the epochs, of those that the run has."""
    scores = ("zebra_ab", "kd_ab", "kd_ba", "truth_ab", "truth_ba", "background_ab")
    return [score for score in scores if f"last_{score}" in epochs]


def references(cards: dict[str, dict]) -> dict[str, dict[str, float]]:
    """The ends of each score, to draw across: {"kd_ab": {"doing_nothing": 0.2, "real_pictures": 0.001}, ...}."""
    ends = ("doing_nothing", "real_pictures")
    return {
        f"{score}_{way}": {end: cards[to][end][score] for end in ends if end in cards[to]}
        for way, to in (("ab", "b"), ("ba", "a"))
        for score in cards[to]["doing_nothing"]
    }


def compare(without: Run, with_identity: Run, epoch: int) -> dict[str, dict[str, float]]:
    """Scores of two runs after the same epoch, counted from 1, by the averaged generators if there are any.

    And "cycle", the mean of both cycle losses over the steps of that epoch.
    """
    found = {}
    for name, run in (("without", without), ("with_identity", with_identity)):
        epochs, history = run.epochs, run.history
        kind = "average" if "average_change_ab" in epochs else "last"
        found[name] = {
            score: float(epochs[f"{kind}_{score}"][epoch - 1]) for score in COMPARED if f"{kind}_{score}" in epochs
        }
        cycle = (history["cycle_a"] + history["cycle_b"]) / 2
        found[name]["cycle"] = float(cycle[history["epoch"] == epoch].mean())
    return found
