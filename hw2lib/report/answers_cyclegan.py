"""The written answers of section 1.2, as hw2lib.report.answers_ablations: what the training on photographs says, and what it hides."""

from hw2lib.report.answers_ablations import lead, mean
from hw2lib.studies.study import by_value, differ, seeds_in_words, spread
from hw2lib.training.runs import Run

BALANCES = {"discriminator every 3rd step": 1 / 3, "full": 1.0, "3 discriminator steps": 3.0}
DISTANCES = {"KD": "kd_closed", "FD": "fd_closed"}


def balance_rows(run: Run) -> list[dict[str, str]]:
    """How the generator's loss follows the discriminator's updates."""
    cases = by_value(run)
    return [
        {
            "discriminator updates a step": "1/3" if updates < 1 else f"{updates:g}",
            "G's adversarial loss": spread(cases[name]["g_ab"], 2),
            "D's loss": spread(cases[name]["d_b"], 2),
            "D(real)": spread(cases[name]["d_b_real"], 2),
            "D(translated)": spread(cases[name]["d_b_fake"], 2),
        }
        for name, updates in BALANCES.items()
    ]


def balance_in_words(run: Run, early: dict[str, float], late: dict[str, float]) -> str:
    """Who is winning, by the small trainings and by the first and last tenth of the real one (verdicts)."""
    cases = by_value(run)
    few, many = cases["discriminator every 3rd step"], cases["3 discriminator steps"]
    words = (
        f"With more updates of the discriminator, from one in three steps to three a step, the generator's loss goes from "
        f"{mean(few, 'g_ab'):.2f} to {mean(many, 'g_ab'):.2f}, and the lead of real over translated pictures from "
        f"{lead(few):.2f} to {lead(many):.2f}"
        + (
            f": the loss rises because the opponent got stronger. The stripes go from {mean(few, 'stripes_ab'):.2f} to "
            f"{mean(many, 'stripes_ab'):.2f} meanwhile, so that a high loss need not mean a bad picture. "
            if mean(many, "g_ab") > mean(few, "g_ab") and lead(many) > lead(few)
            else ". "
        )
    )
    then, now = (end["d_b_real"] - end["d_b_fake"] for end in (early, late))
    if late["g_ab"] > early["g_ab"]:
        words += (
            f"In the run of this section the loss of the generator into B rose from {early['g_ab']:.2f} to {late['g_ab']:.2f} while "
            f"its discriminator's went from {early['d_b']:.2f} to {late['d_b']:.2f} and its lead from {then:.2f} to {now:.2f}. "
        )
    else:
        words += f"In the run of this section the loss of the generator into B did not rise ({early['g_ab']:.2f} to {late['g_ab']:.2f}). "
    back = [end["d_a_real"] - end["d_a_fake"] for end in (early, late)]
    return words + (
        f"For the generator into A it went from {early['g_ba']:.2f} to {late['g_ba']:.2f}, with a lead of {back[0]:.2f} and then "
        f"{back[1]:.2f}. A generator that is too strong would drive its own loss towards 0. The curves do not tell how good the pictures "
        "are: that takes the scores below."
    )


def leading(there: dict[str, float], back: dict[str, float]) -> dict[str, bool]:
    """By each distance, whether the rows `there` of a verdicts.card closes more of its gap than `back` of the other."""
    return {title: there[score] > back[score] for title, score in DISTANCES.items()}


def directions_in_words(run: Run, cards: dict[str, dict], name: str) -> str:
    """Which direction is easier: by the real run's distances, and by the drawn domains."""
    full, nothing = by_value(run)["full"], run.metrics["ends"]["doing nothing"]["truth_ab"]
    words, there, back = "", cards["b"][name], cards["a"][name]
    if "kd_closed" in there:
        ways = {title: "A to B" if leads else "B to A" for title, leads in leading(there, back).items()}
        ahead = " and ".join(f"{title} has {way} ahead" for title, way in ways.items())
        agreed = f"By both distances {ways['KD']}" if ways["KD"] == ways["FD"] else f"Neither: {ahead}"
        closed = " and ".join(
            f"{there[score]:.0%} is closed from A to B and {back[score]:.0%} from B to A by {title}"
            for title, score in DISTANCES.items()
        )
        words = f"**{agreed}.** Of the gap between doing nothing and real pictures, {closed}. "
    words += (
        f"On drawn pictures, where the truth is known, translations end {mean(full, 'truth_ab'):.2f} from it from horse to zebra and "
        f"{mean(full, 'truth_ba'):.2f} from zebra to horse, {seeds_in_words(run)}; untouched pictures are {nothing:.2f} away. "
    )
    if min(mean(full, "truth_ab"), mean(full, "truth_ba")) > nothing:
        return words + (
            "Most of that is damage to the background, so that these small trainings do not say which task is easier. What speaks for "
            "zebra to horse is that a coat without stripes is one smooth colour, while stripes have to be invented where the input has "
            "nothing."
        )
    easier = "horse to zebra" if mean(full, "truth_ab") < mean(full, "truth_ba") else "zebra to horse"
    clear = differ(full["truth_ab"], full["truth_ba"])
    return words + (f"There {easier} is the easier task." if clear else "Seeds do not tell the two apart.")


def further_verdict(epochs: dict) -> tuple[str, str]:
    """Verdict and reason on the claim that further training would mend the worse direction, by KD over the epochs (Run.epochs)."""
    kind = "average" if "average_kd_ab" in epochs else "last"
    if f"{kind}_kd_ab" not in epochs:
        return "not shown", "drawn pictures have no distances over the epochs here."
    half = len(epochs["epoch"]) // 2 - 1
    there, back = ((epochs[f"{kind}_kd_{name}"][half], epochs[f"{kind}_kd_{name}"][-1]) for name in ("ab", "ba"))
    return "not shown", (
        f"in the second half of the epochs KD went from {there[0]:.3f} to {there[1]:.3f} from A to B and from {back[0]:.3f} to "
        f"{back[1]:.3f} from B to A; then the learning rate had run out."
    )


def directions_verdict(cards: dict[str, dict], name: str) -> tuple[str, str]:
    """Verdict and reason on the claim that a to b is the better learnt direction."""
    there, back = cards["b"][name], cards["a"][name]
    if "kd_closed" not in there:
        better = there["truth"] < back["truth"]
        words = f"{there['truth']:.2f} from the truth there, {back['truth']:.2f} on the way back."
        return ("so here" if better else "not so here"), words
    leads = leading(there, back).values()
    words = f"{there['kd_closed']:.0%} of the gap closed against {back['kd_closed']:.0%} by KD, {there['fd_closed']:.0%} against "
    words += f"{back['fd_closed']:.0%} by FD."
    return ("so here" if all(leads) else "not so here" if not any(leads) else "depends on the measure"), words


def in_short(cards: dict[str, dict], name: str, epochs: int, a: str, b: str) -> str:
    """The run in one sentence, for the report's summary."""
    there, back = cards["b"][name], cards["a"][name]
    if "kd_closed" not in there:
        return (
            f"**CycleGAN**, epochs: {epochs}, on drawn pictures: translations differ from the true counterparts by {there['truth']:.3f} "
            f"({a} to {b}) and {back['truth']:.3f} (back), untouched inputs by {cards['b']['doing nothing']['truth']:.3f}."
        )
    words = f"**CycleGAN**, {epochs} epochs on photographs: of the gap between doing nothing and real pictures {there['kd_closed']:.0%} is closed "
    words += f"from {a} to {b} and {back['kd_closed']:.0%} back (kernel distance)"
    if "zebra" in there:
        words += (
            f"; an ImageNet classifier calls {there['zebra']:.1%} of the translated {a}s zebra, "
            f"{cards['b']['real pictures']['zebra']:.1%} of real {b}s and {cards['b']['doing nothing']['zebra']:.1%} of untouched {a}s"
        )
    return words + "."


def hidden_rows(found: dict[str, dict[str, float]]) -> list[dict[str, str]]:
    """ablations.hidden_information as the rows of a table."""
    still = found["nothing"]["cycle"]
    return [
        {
            "disturbance of the translation": name.replace("noise ", "noise, deviation in grey levels: ").replace(
                "JPEG ", "JPEG, quality: "
            ),
            "change of the translation": f"{row['difference']:.3f}",
            "error there and back": f"{row['cycle']:.3f}",
            "rise of the error": f"{round(row['cycle'] - still, 3) + 0:.3f}" if name != "nothing" else "",
        }
        for name, row in found.items()
    ]


def hidden_in_words(found: dict[str, dict[str, float]]) -> str:
    """What the rise of the cycle error says of what is hidden."""
    still = found["nothing"]["cycle"]
    worst = max((name for name in found if name != "nothing"), key=lambda name: found[name]["cycle"] - still)
    row = found[worst]
    rise = row["cycle"] - still
    return (
        f"The disturbance that hurts most ({worst}) changes the translation by {row['difference']:.3f} and raises the error of "
        f"what comes back by {rise:.3f}, from {still:.3f}. "
        + (
            "The way back loses more than the translation did, as it would if it rested on a pattern too faint to see (Chu et al.); a "
            "merely sensitive network would do the same. "
            if rise > row["difference"]
            else "The way back loses less than the translation did: this test shows no sign of the faint pattern that Chu et al. "
            "describe, at this size and length of training. "
        )
        + "A low cycle loss is no proof of a faithful translation either way."
    )
