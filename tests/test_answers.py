"""The written answers: what is said follows from the numbers, and from the published ones follows the published report."""

import json
import math
import re

import numpy as np
import pytest
import torch

from hw2lib import ROOT
from hw2lib.evaluation import codec as experiments
from hw2lib.evaluation import judge, metrics
from hw2lib.evaluation import likelihoods as prior
from hw2lib.evaluation import new_pictures as samples
from hw2lib.evaluation import scorecards as verdicts
from hw2lib.pixelcnn import GatedPixelCNN, PixelCNNConfig
from hw2lib.report import answers_ablations as losses
from hw2lib.report import answers_collapse, charts, show
from hw2lib.report import answers_cyclegan as photographs
from hw2lib.report import answers_vqvae as codes
from hw2lib.report import build as report
from hw2lib.studies import cyclegan_parts as ablations
from hw2lib.studies import posterior_collapse as collapse
from hw2lib.studies import receptive_fields as fields
from hw2lib.studies.study import study
from hw2lib.training.runs import Run


def a_study(folder, name, settings, rows):
    """A study of these rows: values that are strings, seeds and what `cases` says name the case."""
    named = ("variant", "seed", "codebook", "removed", "start", "quantizer", "width", "ratio", "k", "sigma2")
    cases = [{key: value for key, value in row.items() if key in named} for row in rows]
    numbers = iter(rows)
    return study(name, settings, cases, lambda case: {k: v for k, v in next(numbers).items() if k not in case}, folder)


SCORES = (
    "truth_ab",
    "background_ab",
    "shift_ab",
    "stripes_ab",
    "cycle_aba",
    "truth_ba",
    "g_ab",
    "d_b",
    "d_b_real",
    "d_b_fake",
)


def ablated(folder, **changes):
    """The ablations with 0.5 everywhere but for changes["variant.score"]: the value, or one for each of two seeds."""
    rows = []
    for seed in (0, 1):
        for variant in ablations.ABLATIONS:
            row = {"variant": variant, "seed": seed} | dict.fromkeys(SCORES, 0.5)
            for name, value in changes.items():
                case, score = name.split(".")
                if case == variant.replace(" ", "_"):
                    row[score] = value[seed] if isinstance(value, tuple) else value
            if "siamese" in variant:
                del row["cycle_aba"], row["truth_ba"]
            rows.append(row)
    run = a_study(folder, "ablations", {"steps": 10}, rows)
    run.add_metrics(
        "ends",
        {
            "doing nothing": dict.fromkeys(SCORES[:4], 0.0),
            "true counterparts": dict.fromkeys(SCORES[:4], 1.0),
        },
    )
    return run


# ---- sentences follow the numbers


def test_tables_have_the_ends_the_means_and_the_spread(tmp_path):
    """Rows go from doing nothing to the true counterparts; what a one-sided model does not have is a dash."""
    run = ablated(tmp_path, **{"full.truth_ab": (0.2, 0.4)})
    rows = losses.table(run, ("full", "siamese without discriminator"))
    assert [row["case"] for row in rows] == [
        "doing nothing", "full", "siamese without discriminator", "true counterparts",
    ]  # fmt: skip
    assert rows[0]["to the truth"] == "0.00"
    assert rows[1]["to the truth"] == "0.30 ± 0.14"
    assert rows[2]["there and back"] == "–"
    assert "2 seeds each" in losses.caption(run, "Some")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"with_identity_loss.background_ab": 0.1}, "So it does have an effect, and a good one"),
        ({"with_identity_loss.background_ab": (0.1, 0.7)}, "smaller than the differences between seeds"),
        ({"with_identity_loss.background_ab": 0.9}, "Here the expected effect did not show"),
        ({"no_cycle_loss.cycle_aba": 0.9}, "what the pictures show is no longer tied to the input"),
        ({"no_cycle_loss.cycle_aba": (0.9, 0.4)}, "the seeds do not tell the two apart"),
    ],
)
def test_what_losses_are_for_is_read_from_the_numbers(tmp_path, changes, words):
    """An effect is claimed where all seeds agree, and only then."""
    assert words in losses.losses_in_words(ablated(tmp_path, **changes))


def test_apart_is_the_mean_over_all_pairs():
    """Pictures of grey 0, 0 and 255 have pairs that differ by 0, 2 and 2."""
    greys = torch.tensor([0, 0, 255], dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    assert losses.apart(greys) == pytest.approx(4 / 3)


def test_objectives_differ_only_where_all_seeds_agree(tmp_path):
    """Cross entropy is told apart from least squares by seeds that do not overlap."""
    assert "neither choice is shown" in losses.objectives_in_words(ablated(tmp_path / "a"))
    assert "agree on a difference between the two objectives." in losses.objectives_in_words(
        ablated(tmp_path / "b", **{"cross_entropy.stripes_ab": 0.9})
    )


def test_weights_fail_at_both_ends_or_not(tmp_path):
    """The trade is claimed where cycle error falls and stripes rise up to weight 10, and stripes fall beyond it."""
    assert "Both ends fail" not in losses.weights_in_words(ablated(tmp_path / "a"))
    changes = {
        "cycle_weight_0.1.cycle_aba": 0.9, "cycle_weight_1.cycle_aba": 0.7, "cycle_weight_0.1.stripes_ab": 0.1,
        "cycle_weight_100.stripes_ab": 0.2, "cycle_weight_100.g_ab": 0.9,
    }  # fmt: skip
    rows = []
    for seed in (0, 1):
        for variant in ablations.ABLATIONS:
            mine = {
                name.rpartition(".")[2]: value
                for name, value in changes.items()
                if name.rpartition(".")[0] == variant.replace(" ", "_")
            }
            rows.append({"variant": variant, "seed": seed} | dict.fromkeys(SCORES, 0.5) | mine)
    run = a_study(tmp_path / "b", "ablations", {"steps": 10}, rows)
    assert "Both ends fail" in losses.weights_in_words(run)
    assert losses.by_weight(run, "g_ab")[100.0] == [0.9, 0.9]


def test_gradients_in_words_are_the_formulas():
    """At -4 and 4: sigma(-4) = 0.018, 1 - sigma(-4) = 0.982, 2 |D - 1| = 10 and 6."""
    said = losses.gradients_in_words(ablations.gradient_by_logit(losses.outputs()))
    assert re.findall(r"\d+(?:\.\d+)?", said) == ["4", "0.018", "0.982", "1", "10", "4", "0.018", "6"]


@pytest.mark.parametrize(
    ("kd", "fd", "verdict"),
    [
        ((0.5, 0.3), (0.4, 0.2), "so here"),
        ((0.3, 0.5), (0.2, 0.4), "not so here"),
        ((0.3, 0.5), (0.4, 0.2), "depends on the measure"),
    ],
)
def test_the_easier_direction_is_what_both_distances_say(kd, fd, verdict, tmp_path):
    """A direction is the better learnt one if both distances say so."""
    cards = {to: {"last": {"kd_closed": kd[i], "fd_closed": fd[i]}} for i, to in enumerate("ba")}
    assert photographs.directions_verdict(cards, "last")[0] == verdict
    said = photographs.directions_in_words(ablated(tmp_path), cards, "last")
    bold = {"so here": "**By both distances A to B.**", "not so here": "**By both distances B to A.**"}
    assert said.startswith(bold.get(verdict, "**Neither: KD has B to A ahead and FD has A to B ahead.**"))


@pytest.mark.parametrize(
    ("cycle", "words"),
    [(0.5, "if it rested on a pattern too faint"), (0.12, "loses less than the translation")],
)
def test_hidden_is_what_costs_more_than_it_changes(cycle, words):
    """Information is hidden where the error rises by more than the translation was changed."""
    found = {"nothing": {"difference": 0.0, "cycle": 0.1}, "noise 3": {"difference": 0.05, "cycle": cycle}}
    assert words in photographs.hidden_in_words(found)
    rows = photographs.hidden_rows(found)
    assert rows[1]["rise of the error"] == f"{cycle - 0.1:.3f}"


def test_a_rise_is_said_to_be_one_only_where_it_is(tmp_path):
    """The generator's loss rose with its discriminator's lead, or did not."""
    run = ablated(tmp_path, **{"3_discriminator_steps.g_ab": 0.9, "3_discriminator_steps.d_b_real": 0.9})
    names = ("g_ab", "g_ba", "d_b", "d_a_real", "d_a_fake", "d_b_real", "d_b_fake")
    early = dict(zip(names, (0.3, 0.3, 0.2, 0.6, 0.4, 0.6, 0.4), strict=True))
    late = dict(zip(names, (0.5, 0.4, 0.1, 0.7, 0.3, 0.8, 0.2), strict=True))
    assert "the loss rises because the opponent got stronger" in photographs.balance_in_words(run, early, late)
    assert "rose from 0.30 to 0.50" in photographs.balance_in_words(run, early, late)
    assert "did not rise (0.50 to 0.30)" in photographs.balance_in_words(run, late, early)


TERMS = ("test_nmse", "test_perplexity", "test_codes_used", "encoder_rms")


@pytest.mark.parametrize(
    ("worse", "grown", "verdict"),
    [
        ((1, 1), 9.0, "right"),
        ((1, 0), 9.0, "half right"),
        ((0, 0), 9.0, "half right"),
        ((1, 1), 0.1, "half right"),
    ],
)
def test_the_commitment_term_is_judged_by_error_and_growth(tmp_path, worse, grown, verdict):
    """Removing it harms where the encoder's outputs grow and the error of both codebooks is larger."""
    rows = []
    for codebook, bad in zip(("gradient", "ema"), worse, strict=True):
        for removed in ("nothing", "reconstruction", "codebook", "commitment"):
            row = {"codebook": codebook, "removed": removed, "seed": 0} | dict.fromkeys(TERMS, 0.5)
            if removed == "commitment":
                row |= {"encoder_rms": grown, "test_nmse": 0.9 if bad else 0.4}
            rows.append(row)
    run = a_study(tmp_path, "codebook-terms", {}, rows)
    assert codes.commitment_verdict(run)[0] == verdict
    assert ("outputs of the encoder grow" in codes.terms_in_words(run)) == (grown > 0.5)
    assert len(codes.terms_rows(run)) == 8


@pytest.mark.parametrize(
    ("nmse", "words"),
    [((0.3, 0.2, 0.1, 0.05), "still a little down"), ((0.1, 0.2, 0.3, 0.4), "not down any more")],
)
def test_the_end_of_the_curve_is_its_slope(nmse, words):
    """The last epochs fall or do not; one epoch alone has no slope."""
    rows = [{"test_nmse": value, "test_vq": index + 1.0} for index, value in enumerate(nmse)]
    said = codes.enough_in_words(rows)
    assert words in said
    assert "VQ loss is rising" in said
    assert "Over the last" not in codes.enough_in_words(rows[:1])


def test_uses_are_counts_and_shares():
    """Perplexities by batch, the number of codes in use, and both as shares of K."""
    said = codes.uses_in_words({8: 20.0, 32: 30.0, 1000: 40.0}, 60, 80)
    assert "20 in batches of 8, 30 in batches of 32 pictures, and 40 over all 1,000; and 60 of 80 codes occur" in said
    assert "share in use is thus 75%, and the perplexity 50% of K" in said


def test_the_linear_vae_is_compared_with_its_formula(tmp_path):
    """Measured divergences lie on the curve of the formula, and the sentence counts the trainings that agree."""
    run = collapse.linear_vae(tmp_path, sigma2s=(0.7, 5.0), seeds=(0,))
    measured, curve = answers_collapse.linear_kls(run)
    assert measured[0.7] == pytest.approx(collapse.analytic_kl(0.7), abs=1e-5)
    assert len(curve) == 201
    assert min(curve) == pytest.approx(0.7) and max(curve) == pytest.approx(5.0)
    said = answers_collapse.linear_in_words(run)
    assert "keeps 3, 0 latents active: in 2 of 2 trainings" in said
    assert "it ignores every latent" in said


@pytest.mark.parametrize(
    ("used", "words"),
    [
        ((8, 100, 510, 512, 70), "It is the restarts that cure the collapse"),
        ((8, 400, 300, 512, 70), "Taken alone, k-means start does more than restart of dead codes"),
        ((8, 9, 8, 9, 8), "less of a difference than is said"),
    ],
)
def test_remedies_are_ranked_by_the_codes_in_use(tmp_path, used, words):
    """Which remedy does more is said by the codes that each alone brings into use."""
    names = ("neither", "k-means start", "restart of dead codes", "both", "averages of noise")
    rows = [
        {"start": name, "seed": 0, "test_codes_used": count, "test_nmse": 0.1, "test_perplexity": count}
        for name, count in zip(names, used, strict=True)
    ]
    run = a_study(tmp_path, "codebook-starts", {"updates": 10, "config": {"num_codes": 512}}, rows)
    assert words in codes.starts_in_words(run)
    assert [row["codes used"] for row in codes.starts_rows(run)] == [str(count) for count in used]


@pytest.mark.parametrize(
    ("modes", "near", "words"),
    [
        ((0, 8), 0.8, "No training whose samples are sharp lost a mode"),
        ((0, 6), 0.8, "modes are lost by 1 of 1 at width 512 and 5 a step (6 modes are left)"),
        (
            (0, 6),
            0.3,
            "Width 512 at 5 a step gives blurred samples (30% near a mode) of 6 modes. No training",
        ),
    ],
)
def test_modes_are_lost_by_those_who_have_some(tmp_path, modes, near, words):
    """Modes are said to be lost by trainings whose samples are near modes; others are blurred, or have none."""
    rows = [
        {
            "width": width,
            "ratio": 5.0,
            "seed": 0,
            "modes": count,
            "near": share,
            "g_loss": 0.3,
            "parameters": width,
        }
        for width, count, share in zip((4, 512), modes, (0.01, near), strict=True)
    ]
    assert words in answers_collapse.ring_in_words(a_study(tmp_path, "ring", {}, rows))


@pytest.mark.parametrize(
    ("values", "verdict"), [((3, 2, 1), "not here"), ((1, 2, 3), "right"), ((1, 4, 2, 3), "half right")]
)
def test_perplexity_rises_all_along_or_not(values, verdict):
    """It increases if its last value is the greatest; a peak before makes that half right."""
    found, why = codes.perplexity_verdict(list(values))
    assert found == verdict
    assert verdict != "half right" or why == "from 1 it rose to 4 (epoch 2), fell to 2, and ended at 3."


@pytest.mark.parametrize(
    ("nmse", "words"),
    [
        ((0.1, 0.2), "Ours has the least error, 0.100"),
        ((0.2, 0.1), "that of ours with averages is larger by 100%"),
    ],
)
def test_quantisers_are_ranked(tmp_path, nmse, words):
    """The least error is named, and how far ours is behind it."""
    rows = [
        {"quantizer": name, "seed": 0, "test_nmse": value, "test_codes_used": 5, "test_perplexity": 4.0}
        for name, value in (("FSQ", nmse[1]), ("SimVQ", 0.3), ("EMA", nmse[0]), ("gradient", 0.3))
    ]
    run = a_study(tmp_path, "codebook-quantizers", {"updates": 10, "config": {"num_codes": 8}}, rows)
    assert words in codes.quantizers_in_words(run)
    assert [row["NMSE"] for row in codes.quantizer_rows(run)][-1] == "0.100"


# ---- figures


def test_every_chart_can_be_drawn():
    """Each chart has the panels it promises; the line through dots goes through their means."""
    outputs = losses.outputs(17)
    drawn = charts.by_level({"a": {"x": {1.0: [1.0, 3.0], 4.0: [5.0]}}, "b": {"x": {1.0: [0.0], 4.0: [1.0]}}}, "level")
    assert list(drawn.axes[0].lines[0].get_ydata()) == [2.0, 5.0]
    prior = GatedPixelCNN(PixelCNNConfig(num_codes=5, height=4, width=4, channels=4, embedding=4, layers=4))
    seen = {"gated": fields.gated(prior), "masked": fields.masked(4, 4, 4)}
    for figure, panels in (
        (drawn, 2),
        (charts.objective_gradients(outputs, ablations.gradient_by_logit(outputs)), 1),
        (charts.linear_collapse({0.5: [1.0, 0.0]}, {0.1: [2.0, 1.0], 1.0: [0.5, 0.0]}), 1),
        (charts.seen_places(seen, 9, 4, 4), 2),
    ):
        figure.canvas.draw()
        assert len(figure.axes) == panels
        charts.plt.close(figure)


def test_provenance_of_a_study_and_of_a_training(tmp_path):
    """A study says how many trainings and which seeds it has, and that it drew its own data."""
    run = collapse.linear_vae(tmp_path, sigma2s=(0.7,), seeds=(0, 3))
    facts = experiments.provenance(run)
    assert facts["seed"] == "0, 3"
    assert facts["computed"].startswith("2 trainings, cpu")
    assert facts["data"] == "drawn by the experiment"


# ---- the published report


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The published runs by name."""
    folder = tmp_path_factory.mktemp("published")
    report.restore(runs=folder)
    configs = sorted((ROOT / "results").glob("*/config.json"))
    return {path.parent.name: Run(path.parent.name, json.loads(path.read_text()), folder) for path in configs}


def said_of(runs):
    """Every table and paragraph of the written answers, from the published results alone."""
    small, real, vqvae, prior = (runs[name] for name in ("ablations", "cyclegan", "vqvae", "pixelcnn"))
    early, late = verdicts.first_and_last_tenth(real.history)
    cards, hidden = real.metrics["cards"], real.metrics["hidden"]
    gradients = ablations.gradient_by_logit(losses.outputs())
    epochs = experiments.rows(vqvae.epochs)
    use, found = vqvae.metrics["use"], vqvae.metrics["umap"]
    by_batch = {int(size): value for size, value in use["perplexity_by_batch"].items()}
    maps = {name: {int(n): row for n, row in by_n.items()} for name, by_n in found.items()}
    parts = ("full", "no adversarial loss", "no cycle loss", "with identity loss")
    nets = ("full", "U-Net generator", "whole-picture discriminator", "hinge", "cross entropy")
    siamese = ("siamese in place of the cycle loss", "siamese without discriminator")
    tables = [
        *(losses.table(small, rows) for rows in (parts, ("full", "cross entropy", "no pool"), (*nets, *siamese))),
        photographs.balance_rows(small),
        photographs.hidden_rows(hidden),
        codes.gradient_rows(vqvae.metrics["gradient_facts"]),
        codes.terms_rows(runs["codebook-terms"]),
        codes.starts_rows(runs["codebook-starts"]),
        codes.quantizer_rows(runs["codebook-quantizers"]),
    ]
    texts = [
        losses.setting(small),
        losses.losses_in_words(small),
        losses.likeness_in_words(small, ablations.drawn_domains()),
        losses.gradients_in_words(gradients),
        losses.objectives_in_words(small),
        losses.weights_in_words(small),
        losses.others_in_words(small),
        photographs.balance_in_words(small, early, late),
        photographs.directions_in_words(small, cards, "averaged"),
        photographs.hidden_in_words(hidden),
        photographs.in_short(cards, "averaged", len(real.epochs["epoch"]), "horse", "zebra"),
        answers_collapse.linear_in_words(runs["linear-vae"]),
        answers_collapse.power_in_words(runs["decoder-power"]),
        answers_collapse.ring_in_words(runs["ring"]),
        codes.terms_in_words(runs["codebook-terms"]),
        codes.starts_in_words(runs["codebook-starts"]),
        codes.quantizers_in_words(runs["codebook-quantizers"]),
        codes.enough_in_words(epochs),
        codes.uses_in_words(by_batch, use["codes_used"], vqvae.config["model"]["num_codes"]),
        codes.maps_in_words(maps),
        codes.in_short(
            epochs[-1], prior.metrics["likelihood"]["rows"], prior.metrics["card"], len(epochs), 10_000, 576
        ),
    ]
    return [show.pipe_table(rows) for rows in tables] + texts


def test_the_report_says_what_the_results_say(published):
    """Every table and paragraph of the written answers in report.md follows from results/, to the last digit."""
    text = (ROOT / "report.md").read_text()
    for part in said_of(published):
        assert re.search(pattern(part), text), part


NUMBER = re.compile(r"(?<![\w.])\d[\d,]*\.\d+%?")


def leaves(value):
    """All numbers in what JSON gives."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from leaves(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def known_numbers(runs):
    """What results/ holds but for single steps, and what follows from it in one step."""
    found = [leaves([run.config, run.metrics, run.provenance]) for run in runs.values()]
    found += [column for run in runs.values() for column in run.epochs.values()]
    numbers = {float(value) for part in found for value in part}
    for end in verdicts.first_and_last_tenth(runs["cyclegan"].history):
        numbers |= {*end.values(), *(end[f"d_{domain}_real"] - end[f"d_{domain}_fake"] for domain in "ab")}
    numbers.add(float(runs["vqvae"].history["perplexity"][-784:].mean()))
    codecs, variance = (
        runs["vqvae"].metrics["reconstruction"]["codecs"],
        runs["vqvae"].config["model"]["data_variance"],
    )
    numbers |= {value for mse in codecs.values() for value in (mse / variance, metrics.psnr(mse))}
    bits = [row["nats"] / math.log(2) for row in runs["pixelcnn"].metrics["likelihood"]["rows"].values()]
    numbers |= {value for code in bits for value in (code, 64 * code, 64 * code / 3072)}
    return numbers | {float(value) for pair in experiments.PRINTED_AT_1000.values() for value in pair}


def other_sentences(runs):
    """The sentences that are made of results by functions, beside the written answers."""
    found, prior_found = runs["cyclegan"].metrics, runs["pixelcnn"].metrics
    likelihood = prior_found["likelihood"]
    return [
        verdicts.verdict(found["cards"], "averaged", "horse", "zebra"),
        verdicts.identity_in_words(runs["cyclegan-identity"].metrics["beside"]),
        prior.likelihoods_in_words(likelihood["rows"], likelihood["class_named"], 10),
        samples.verdict(prior_found["card"], judge.Judge().name),
        samples.copies_in_words(prior_found["copies"]),
    ]


def pattern(part):
    """A regular expression for the text as the report has it, with figures numbered."""
    return re.sub(r"\\\{fig:[^}]*\\\}", r"Figure \\d+", re.escape(part.strip()))


def test_every_number_of_the_report_is_in_the_results(published):
    """What the report says elsewhere has no decimal number that is neither in results/ nor in the notebooks' text."""
    text = (ROOT / "report.md").read_text()
    for part in [*said_of(published), *other_sentences(published)]:
        text, count = re.subn(pattern(part), "", text)
        assert count, part
    text = re.sub(r"```.*?```|\$\$.*?\$\$", "", text, flags=re.DOTALL)  # formulas
    text = re.sub(
        r"\$`?[^$\n]+`?\$|`[^`\n]+`|\]\([^)]*\)|(arXiv:|Python |torch\w* |numpy |fabric |pytorch )[\d.]+",
        "",
        text,
    )
    notebooks = "".join(path.read_text() for path in (ROOT / "notebooks").glob("*.ipynb"))
    numbers, unknown = known_numbers(published), []
    for found in NUMBER.findall(text):
        digits, scale = found.rstrip("%").replace(",", ""), 100 if found.endswith("%") else 1
        places = len(digits.partition(".")[2])
        if found not in notebooks and not any(f"{abs(value) * scale:.{places}f}" == digits for value in numbers):
            unknown.append(found)
    assert not unknown
    assert not any(f"{abs(value):.4f}" == "0.7291" for value in numbers)  # a number that was made up is found


def test_the_gradients_of_the_terms_are_the_published_ones(published):
    """Which term teaches which part, computed again, is what the report shows."""
    from hw2lib.studies import codebooks

    facts = published["vqvae"].metrics["gradient_facts"]
    again = codebooks.gradient_facts(0)
    assert {name: value == 0 for name, value in again.items()} == {name: value == 0 for name, value in facts.items()}
    assert np.allclose([again[name] for name in facts], list(facts.values()), rtol=1e-6)


def test_what_the_published_prior_sees(published):
    """All pairs of places, by gradients of the published weights: no leak and no gap; masked kernels have 322 gaps."""
    said = published["pixelcnn"].metrics["fields"]
    prior = GatedPixelCNN.load(ROOT / "weights" / "pixelcnn.safetensors")
    assert list(fields.leaks_and_gaps(fields.gated(prior))) == said["gated, two stacks"] == [0, 0]
    assert said["masked kernels"] == [0, 322]
    assert torch.equal(fields.masked(12, 8, 8), fields.masked(12, 8, 8))
