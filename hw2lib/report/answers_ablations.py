"""The written answers of section 1.1: tables and sentences made of what was measured, and of nothing else.

Every function takes runs or their numbers and returns text, so that the published results give the published report. A
sentence that depends on how a comparison came out is chosen by the numbers.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hw2lib.data.unpaired import Domains
from hw2lib.evaluation.translations import difference, load_strip
from hw2lib.studies.cyclegan_parts import kept_translations
from hw2lib.studies.study import by_value, differ, seeds_in_words, spread, values
from hw2lib.training.runs import Run

NOTHING, TRUE = "doing nothing", "true counterparts"
# Scores of the ablations in the order of the tables' columns, all from a to b: the one-sided objectives have no others.
COLUMNS = {
    "truth_ab": "to the truth",
    "background_ab": "background",
    "shift_ab": "colours",
    "stripes_ab": "stripes",
    "cycle_aba": "there and back",
}
WEIGHTS = {
    0.0: "no cycle loss",
    0.1: "cycle weight 0.1",
    1.0: "cycle weight 1",
    10.0: "full",
    100.0: "cycle weight 100",
}
Found = dict[str, dict[str, float]]  # score -> entry of study.by_case


def mean(found: Found, score: str) -> float:
    return found[score]["mean"]


# ---- the drawn domains


def setting(run: Run) -> str:
    """What all ablations share, in a paragraph."""
    asked = run.config["settings"]
    full = asked["variants"]["full"]
    pictures = asked["data"]
    words = (
        f"All cases share {pictures['train'] // 2} drawn pictures of each domain at {full['size']} x {full['size']} pixels, "
        f"networks of {full['base_channels']} channels and {full['blocks']} residual blocks, batches of "
        f"{asked['batch_size']}, {asked['steps']:,} steps and the learning rate {full['learning_rate']:g}; they differ in the "
        f"part that their name says, with {seeds_in_words(run)}. ± is one standard deviation over the seeds. Last weights, no "
        "averages. "
    )
    start, now = run.metrics["ends"][NOTHING]["truth_ab"], mean(by_value(run)["full"], "truth_ab")
    return words + (
        f"That is little training: the full objective's zebras differ from the true ones by {now:.2f}, and the untouched "
        f"horses by {start:.2f}. Cases are to be compared with each other, and no score here says what CycleGAN can do."
    )


def table(run: Run, variants: Sequence[str]) -> list[dict[str, str]]:
    """Rows of scores from a to b, between doing nothing and the true counterparts."""
    cases, ends = by_value(run), run.metrics["ends"]
    rows = []
    for name in (NOTHING, *variants, TRUE):
        if name in ends:
            cells = {
                title: f"{ends[name][score]:.2f}" if score in ends[name] else "" for score, title in COLUMNS.items()
            }
        else:
            cells = {
                title: spread(cases[name][score], 2) if score in cases[name] else "–"
                for score, title in COLUMNS.items()
            }
        rows.append({"case": name} | cells)
    return rows


def caption(run: Run, what: str) -> str:
    """Of a table of `table`: what its columns are."""
    return (
        f"{what}: drawn horses to zebras, {seeds_in_words(run)}. To the truth: mean difference to the true counterpart, 0 to 2. "
        "Background: change off the animal, where nothing has to change. Colours: shift of the mean colours. Stripes: how much more "
        "local contrast there is on the animal than off it, 0 as in the input, 1 as on the true zebras; stripes all over a picture "
        "count as none. There and back: cycle error."
    )


def picture_rows(run: Run, domains: Domains, variants: Sequence[str], way: str = "ab") -> list[tuple[str, Tensor]]:
    """Kept translations of the first test pictures below those pictures, and the true counterparts at the end."""
    size = domains.size
    kept = [load_strip(kept_translations(run.folder, name), size)[0 if way == "ab" else 1] for name in variants]
    source, target = (domains.test_a, domains.test_b) if way == "ab" else (domains.test_b, domains.test_a)
    count = len(kept[0])
    short = {"no adversarial loss": "no adversary", "siamese in place of the cycle loss": "siamese + D"}
    short |= {
        "siamese without discriminator": "siamese, no D",
        "whole-picture discriminator": "whole picture",
    }
    short |= {"with identity loss": "+ identity", "U-Net generator": "U-Net"}
    rows = [(short.get(name, name), pictures) for name, pictures in zip(variants, kept, strict=True)]
    return [("input", source[:count]), *rows, ("truth", target[:count])]


def apart(pictures: Tensor) -> float:
    """Mean absolute difference, 0 to 2, between pictures, uint8 (N, 3, H, W), over all pairs of two."""
    pairs = torch.combinations(torch.arange(len(pictures)))  # (pairs, 2)
    return difference(pictures[pairs[:, 0]], pictures[pairs[:, 1]])


def likeness_in_words(run: Run, domains: Domains) -> str:
    """How different the translations of different horses are, with the cycle loss and without it, and those of zebras."""
    variants = ("full", "no cycle loss")
    (_, source), (_, full), (_, no_cycle), (_, target) = picture_rows(run, domains, variants)
    found = [apart(pictures) for pictures in (full, no_cycle, source, target)]
    back = apart(picture_rows(run, domains, variants, "ba")[2][1])
    return (
        f"Of the {len(source)} horses shown two differ by {found[2]:.2f} on average and two of the true zebras by {found[3]:.2f}; two "
        f"translations by {found[0]:.2f} with the cycle loss and by {found[1]:.2f} without it (first seed; from zebra to horse without it: "
        f"{back:.2f}). "
        + (
            "Without it different horses become nearly one picture, which is mode collapse."
            if found[1] < min(found[0], found[3]) / 2
            else "Without it translations of different horses are more alike."
            if found[1] < found[0]
            else "So little training does not make them alike."
        )
    )


def losses_in_words(run: Run) -> str:
    """What each loss is for: the cases without one, and with the identity loss."""
    cases = by_value(run)
    full, no_cycle, no_gan, identity = (
        cases[name] for name in ("full", "no cycle loss", "no adversarial loss", "with identity loss")
    )
    words = (
        f"Without the adversarial loss the generators do train: the error there and back is {mean(no_gan, 'cycle_aba'):.2f} "
        f"({mean(full, 'cycle_aba'):.2f} with it). What they learn is near a blurred copy, with stripes of {mean(no_gan, 'stripes_ab'):.2f} "
        f"and a background that changes by {mean(no_gan, 'background_ab'):.2f} ({mean(full, 'background_ab'):.2f} in the full training): "
        "nothing asks for a zebra. Nor does the loss ask for a copy, since any map that can be undone would do as well. "
    )
    words += (
        f"Without the cycle loss the error there and back is {mean(no_cycle, 'cycle_aba'):.2f} instead of "
        f"{mean(full, 'cycle_aba'):.2f}, and the background changes by {mean(no_cycle, 'background_ab'):.2f} instead of "
        f"{mean(full, 'background_ab'):.2f}: "
        + (
            "what the pictures show is no longer tied to the input. "
            if differ(full["cycle_aba"], no_cycle["cycle_aba"])
            and mean(no_cycle, "cycle_aba") > mean(full, "cycle_aba")
            else "with this little training the seeds do not tell the two apart. "
        )
    )
    effect = mean(identity, "background_ab") < mean(full, "background_ab")
    return words + (
        f"With the identity loss the background changes by {mean(identity, 'background_ab'):.2f} and the mean colours by "
        f"{mean(identity, 'shift_ab'):.2f}, without it by {mean(full, 'background_ab'):.2f} and {mean(full, 'shift_ab'):.2f}; "
        f"stripes are {mean(identity, 'stripes_ab'):.2f} and {mean(full, 'stripes_ab'):.2f}. "
        + (
            "So it does have an effect, and a good one on all that should stay. "
            if effect and differ(full["background_ab"], identity["background_ab"])
            else "The effect is in the expected direction, but smaller than the differences between seeds. "
            if effect
            else "Here the expected effect did not show. "
        )
    )


def objectives_in_words(run: Run) -> str:
    """Least squares beside cross entropy, and with no pool."""
    cases = by_value(run)
    full, cross, no_pool = (cases[name] for name in ("full", "cross entropy", "no pool"))
    scores = ("stripes_ab", "background_ab")
    words = (
        f"In the small trainings least squares and cross entropy end with stripes of {mean(full, 'stripes_ab'):.2f} and "
        f"{mean(cross, 'stripes_ab'):.2f} and change the background by {mean(full, 'background_ab'):.2f} and "
        f"{mean(cross, 'background_ab'):.2f}; least squares without the pool have stripes of {mean(no_pool, 'stripes_ab'):.2f} and a "
        f"change of {mean(no_pool, 'background_ab'):.2f}. "
    )
    clear = [
        name
        for name, found in (
            ("the two objectives", cross),
            ("the trainings with the pool and without", no_pool),
        )
        if any(differ(full[score], found[score]) for score in scores)
    ]
    return words + (
        f"All seeds agree on a difference between {' and between '.join(clear)}."
        if clear
        else "None of these differences is larger than those between seeds: at this length neither choice is shown to be better, and "
        "the case for least squares rests on the gradients and on the authors' word."
    )


def lead(found: Found) -> float:
    """How far the discriminator of b marks real pictures above translations, at the end of the training."""
    return mean(found, "d_b_real") - mean(found, "d_b_fake")


def weight_panels(run: Run) -> dict[str, dict[str, dict[float, list[float]]]]:
    """Scores over the cycle weight for charts.by_level: panel -> "" -> weight -> a value for each seed."""
    titles = {"stripes": "stripes_ab", "cycle error": "cycle_aba", "generator's adversarial loss": "g_ab"}
    return {title: {"": by_weight(run, score)} for title, score in titles.items()}


def by_weight(run: Run, score: str) -> dict[float, list[float]]:
    """Weight of the cycle loss -> a value for each seed."""
    return {weight: values(run, "variant", score, variant=name)[name] for weight, name in WEIGHTS.items()}


def weights_in_words(run: Run) -> str:
    """What the cycle weight buys and costs."""
    cases = by_value(run)
    light, full, heavy = (cases[name] for name in ("cycle weight 0.1", "full", "cycle weight 100"))
    stripes = {weight: mean(cases[name], "stripes_ab") for weight, name in WEIGHTS.items()}
    best = max(stripes, key=stripes.get)
    words = (
        f"From weight 0.1 over 10 to 100 the cycle error goes from {mean(light, 'cycle_aba'):.2f} over {mean(full, 'cycle_aba'):.2f} "
        f"to {mean(heavy, 'cycle_aba'):.2f}, and the generator's adversarial loss from {mean(light, 'g_ab'):.2f} over "
        f"{mean(full, 'g_ab'):.2f} to {mean(heavy, 'g_ab'):.2f}, where 1 means that the discriminator rejects everything. The stripes "
        f"score is {stripes[0.1]:.2f}, {stripes[10.0]:.2f} and {stripes[100.0]:.2f}; it is highest at weight {best:g}. "
    )
    middle = mean(cases["cycle weight 1"], "cycle_aba")
    fails = mean(heavy, "g_ab") > mean(full, "g_ab") and stripes[10.0] > stripes[100.0]
    if fails and stripes[10.0] > stripes[0.1] and mean(light, "cycle_aba") > middle > mean(full, "cycle_aba"):
        return words + (
            "Both ends fail, each in its own way: up to weight 10 more weight improves cycle error and stripes alike, for too light a weight "
            "lets pictures lose their input; beyond it the stripes fall, for the discriminator is no longer listened to. In the losses it is "
            "a trade, in the pictures there is a best weight between."
        )
    return words + "Here the trade was not as clean as expected: read the three panels together."


def patches_verdict(run: Run) -> tuple[str, str]:
    """Verdict and reason on the claim that other discriminators may be worse than a PatchGAN."""
    full, picture = by_value(run)["full"], by_value(run)["whole-picture discriminator"]
    if differ(full["stripes_ab"], picture["stripes_ab"]) and mean(picture, "stripes_ab") < mean(full, "stripes_ab"):
        return "so here", "pix2pix found the same; at 32 pixels, though, a patch holds the whole picture."
    return "right, by others", "pix2pix found whole-picture ones worse; these small trainings do not show it."


def others_in_words(run: Run) -> str:
    """Other networks and objectives beside the homework's."""
    cases = by_value(run)
    full, unet, picture = (cases[name] for name in ("full", "U-Net generator", "whole-picture discriminator"))
    siamese, alone = (cases[name] for name in ("siamese in place of the cycle loss", "siamese without discriminator"))
    hinge = cases["hinge"]
    words = (
        f"The U-Net's error there and back is {mean(unet, 'cycle_aba'):.2f} against {mean(full, 'cycle_aba'):.2f} of the ResNet, "
        f"and it changes the background by {mean(unet, 'background_ab'):.2f} against {mean(full, 'background_ab'):.2f}"
        + (
            ": its skip connections carry the input's detail past the bottleneck. "
            if mean(unet, "background_ab") < mean(full, "background_ab")
            else ". "
        )
    )
    words += (
        f"With a whole-picture discriminator the stripes are {mean(picture, 'stripes_ab'):.2f}, with hinge "
        f"{mean(hinge, 'stripes_ab'):.2f}, with patches and least squares {mean(full, 'stripes_ab'):.2f}. At 32 pixels a "
        "patch of 70 sees the whole picture, so this compares two networks, and not local with global judgement. "
    )
    return (
        words + f"The siamese network with a discriminator, and no cycle loss and no way back, gives stripes of "
        f"{mean(siamese, 'stripes_ab'):.2f} and changes the background by {mean(siamese, 'background_ab'):.2f} (no cycle loss at "
        f"all: {mean(cases['no cycle loss'], 'background_ab'):.2f}). Without a discriminator the stripes are "
        f"{mean(alone, 'stripes_ab'):.2f}: "
        + (
            "nothing tells the translator what a zebra looks like. "
            if mean(alone, "stripes_ab") < mean(siamese, "stripes_ab")
            else "look at the pictures before the number, for nothing told the translator what a zebra looks like. "
        )
        + (
            "At this length the siamese network translates far worse than the cycle loss does: that it can take its place is its "
            "authors' finding and not ours."
            if mean(siamese, "stripes_ab") < mean(full, "stripes_ab") / 2
            else ""
        )
    ).strip()


def outputs(count: int = 161) -> np.ndarray:
    """Outputs of a discriminator at which objectives are compared, float64 (count,)."""
    return torch.linspace(-4, 4, count, dtype=torch.float64).numpy()


def gradients_in_words(gradients: dict[str, np.ndarray]) -> str:
    """How hard the objectives pull at both ends of ablations.gradient_by_logit, at outputs of -4 and 4."""
    saturating, least, cross, hinge = (
        np.abs(gradients[name]) for name in ("saturating", "least_squares", "cross_entropy", "hinge")
    )
    return (
        f"Where the discriminator rejects a translation with certainty (output -4), the cross entropy of the minimax game pulls "
        f"with {saturating[0]:.3f}, its non-saturating form with {cross[0]:.3f}, hinge with {hinge[0]:.0f} and least squares with "
        f"{least[0]:.0f}. Where it is wrongly convinced (output 4), the non-saturating form pulls with {cross[-1]:.3f} and least "
        f"squares with {least[-1]:.0f}, back towards the output that real pictures have."
    )
