"""Findings: what answers say beyond the numbers is computed as it says, and the published numbers bear the sentences out."""

import itertools
import math

import numpy as np
import pytest

from hw2lib.evaluation import scorecards
from hw2lib.studies import cyclegan_parts, findings, study
from hw2lib.studies.mode_collapse import SETUPS
from hw2lib.training import Run


def entry(mean):
    return {"mean": mean}


def test_a_lead_is_real_above_translated():
    """Of entries and of plain numbers, for either discriminator."""
    plain = {"d_a_real": 0.5, "d_a_fake": 0.75, "d_b_real": 0.75, "d_b_fake": 0.25, "d_b_fresh": 0.5}
    assert findings.lead(plain) == 0.5
    assert findings.lead(plain, "a") == -0.25
    assert findings.lead(plain, "b", "fresh") == 0.25
    assert findings.lead({name: entry(value) for name, value in plain.items()}) == 0.5


def test_loss_and_lead_go_together_or_not():
    """Means over tenths, and the correlation over fiftieths: 1 where the loss follows the lead, -1 where it does the reverse."""
    ramp = np.linspace(0, 1, 200)
    history = {"step": np.arange(200), "g_ab": 2 * ramp, "g_ba": -ramp}
    history |= {
        f"d_{domain}_{kind}": ramp if kind == "real" else 0 * ramp for domain in "ab" for kind in ("real", "fake")
    }
    found = {domain: findings.loss_and_lead(history, domain) for domain in "ab"}
    assert (found["b"]["correlation"], found["a"]["correlation"]) == (pytest.approx(1), pytest.approx(-1))
    assert len(found["b"]["loss"]) == 10
    assert found["b"]["loss"][1] == pytest.approx(2 * ramp[20:40].mean())
    assert found["a"]["lead"][-1] == pytest.approx(ramp[180:].mean())


def test_agreement_counts_trainings_and_the_farthest_latent():
    """A training agrees if it has as many active latents as the formula; the largest error of any latent counts."""
    right = {"sigma2": 1.0, "active": 1, "analytic_active": 1, "kl_1": 2.0, "analytic_kl_1": 2.1}
    wrong = {"sigma2": 2.0, "active": 0, "analytic_active": 1, "kl_1": 1.3, "analytic_kl_1": 1.0}
    found = findings.agreement([right, wrong])
    assert (found["agree"], found["trainings"], found["active"]) == (1, 2, {1.0: 1, 2.0: 0})
    assert found["farthest"] == pytest.approx(0.3)


def test_z_is_worth_what_the_pixels_seen_do_not_tell():
    """The difference of the two best losses, and never less than 0."""
    assert findings.worth_of_z({"true_nll_without_z": entry(44.0), "true_nll": entry(22.5)}) == 21.5
    assert findings.worth_of_z({"true_nll_without_z": entry(22.49), "true_nll": entry(22.5)}) == 0


def test_modes_are_lost_by_trainings_that_have_sharp_samples():
    """Each training is sharp or not by its own share near a mode; only sharp ones lose modes; other setups do not count."""
    rows = [
        {"setup": "plain", "width": width, "ratio": 1.0, "seed": seed, "modes": modes, "near": near}
        for width, trainings in {512: [(8, 0.4), (6, 0.8), (8, 0.9)], 16: [(5, 0.2), (7, 0.5)]}.items()
        for seed, (modes, near) in enumerate(trainings)
    ]
    assert findings.balances([*rows, rows[0] | {"setup": "packed", "width": 4}]) == [
        {"width": 16, "ratio": 1.0, "trainings": 2, "missing": 2, "sharp": 0, "lost": []},
        {"width": 512, "ratio": 1.0, "trainings": 3, "missing": 1, "sharp": 2, "lost": [6]},
    ]


def test_a_course_has_a_top_and_what_follows():
    """From the first to the top, down to the least after it, and to the last."""
    assert findings.course([2, 1, 4, 2, 3]) == {"first": 2, "top": 4, "epoch": 3, "least": 2, "last": 3}
    assert findings.course([1, 2, 3])["epoch"] == 3


# ---- what the sentences of the report say, without a number, of the published results


def below(one, other, *scores):
    """Whether the means of one case are below those of another, in each of the scores."""
    return all(one[score]["mean"] < other[score]["mean"] for score in scores)


@pytest.fixture(scope="module")
def parts():
    return study.by_case(Run.published("ablations"))


@pytest.fixture(scope="module")
def flat():
    return study.by_case(Run.published("plane"))


def test_drawn_pictures_are_learnt(parts):
    """Every seed of the full objective is nearer to the truth than untouched pictures; animals of one colour are nearer than
    any training on the whole picture, but not on the animal."""
    full, (nothing, flat, _) = parts["full"], Run.published("ablations").metrics["ends"].values()
    for way in ("ab", "ba"):
        assert full[f"truth_{way}"]["max"] < nothing[f"truth_{way}"]
        assert full[f"animal_{way}"]["max"] < flat[f"animal_{way}"] < nothing[f"animal_{way}"]
        assert flat[f"truth_{way}"] < min(its[f"truth_{way}"]["min"] for its in parts.values() if f"truth_{way}" in its)


def test_losses_are_for_what_is_said(parts):
    """All seeds agree: no cycle loss loses the input and the background; the identity loss keeps the background."""
    full, without, identity = (parts[name] for name in ("full", "no_cycle_loss", "with_identity_loss"))
    assert all(study.above(without[score], full[score]) for score in ("cycle_aba", "background_ab"))
    assert all(study.above(full[score], identity[score]) for score in ("background_ab", "truth_ab"))


def test_least_squares_gives_better_drawn_pictures_and_no_better_points(parts, flat):
    """Truth and way back are better in every seed, stripes are not; in the plane no share of good samples differs."""
    full, other = parts["full"], parts["cross_entropy"]
    assert all(study.above(other[score], full[score]) for score in ("truth_ab", "truth_ba", "cycle_aba"))
    assert not study.differ(full["stripes_ab"], other["stripes_ab"])
    assert not study.differ(flat["full"]["near_ab"], flat["cross_entropy_0.001"]["near_ab"])


def test_a_cycle_weight_trades_the_way_back_for_the_other_domain(flat):
    """With each larger weight the cycle error and the share of samples near a mode fall, and the generator's loss rises."""
    weights = [flat[name] for name in ("cycle_weight_0.1", "cycle_weight_1", "full", "cycle_weight_100")]
    for lighter, heavier in itertools.pairwise(weights):
        assert below(heavier, lighter, "cycle_aba", "near_ab") and below(lighter, heavier, "g_ab")


def test_other_networks_do_what_is_said(parts):
    """Patches of 34 pixels, whole pictures, patches of 16, in every seed; the others' order on the animal and off it."""
    full = parts["full"]
    unet, contrastive, siamese = (
        parts[name] for name in ("unet_generator", "contrastive_discriminator", "siamese_for_cycle_loss")
    )
    rows = study.rows(Run.published("ablations"))
    truth = {(row["variant"], row["seed"]): row["truth_ab"] for row in rows}
    order = ("full", "whole_picture_discriminator", "small_patches")
    assert all(truth[a, seed] < truth[b, seed] for a, b in itertools.pairwise(order) for seed in range(3))
    assert not study.differ(unet["truth_ab"], full["truth_ab"]) and study.above(unet["cycle_aba"], full["cycle_aba"])
    nothing = Run.published("ablations").metrics["ends"]["doing_nothing"]["truth_ab"]
    assert contrastive["stripes_ab"]["min"] > 0.4 and contrastive["truth_ab"]["min"] > nothing
    patches, whole = (cyclegan_parts.model_of(name).d_b for name in ("full", "whole_picture_discriminator"))
    assert sum(p.numel() for p in patches.parameters()) == sum(p.numel() for p in whole.parameters())
    assert study.above(contrastive["background_ab"], full["background_ab"])
    assert below(parts["no_cycle_loss"], siamese, "truth_ab")


def test_more_updates_of_the_discriminator_help_and_lift_the_loss(flat):
    """Loss and lead are least where it rests, and the share of samples near a mode rises with each pace."""
    few, one, many = (flat[name] for name in ("resting_discriminators", "full", "three_discriminator_steps"))
    assert below(few, one, "g_ab", "near_ab") and below(one, many, "near_ab")
    assert findings.lead(few) < min(findings.lead(one), findings.lead(many)) and below(few, many, "g_ab")


def test_collapses_are_as_said():
    """Posterior: at the largest noise no latent is left. Mode: the slowest pace covers none, sharp ones lose some, but no packed ones."""
    linear = findings.agreement(study.rows(Run.published("linear-vae")))
    assert linear["agree"] == linear["trainings"] and linear["active"][5.0] == 0
    strong = study.by_case(Run.published("decoder-power"))[63]
    assert 0 < strong["active"]["max"] < 8
    rows = study.rows(Run.published("ring"))
    assert {row["modes"] for row in rows if row["ratio"] == 0.2} == {0}
    lost = {setup: [bool(its["lost"]) for its in findings.balances(rows, setup) if its["sharp"]] for setup in SETUPS}
    assert any(lost["plain"]) and any(lost["smaller_rate"]) and lost["packed"] and not any(lost["packed"])
    assert max(row["modes"] for row in rows if row["width"] == 4) <= 1


def test_codebooks_need_what_is_said():
    """Without the commitment term outputs grow and both codebooks are worse; restarts cure the collapse; ours is best."""
    for its in study.by_case(Run.published("codebook-terms")).values():
        assert study.above(its["commitment"]["encoder_rms"], its["nothing"]["encoder_rms"])
        assert below(its["nothing"], its["commitment"], "test_nmse")
    starts = study.by_case(Run.published("codebook-starts"))
    used = {name: found["test_codes_used"]["mean"] for name, found in starts.items()}
    assert used["restarts"] > 0.9 * 512 > 1.8 * used["kmeans_start"] and used["noise_averages"] > used["neither"]
    quantizers = study.by_case(Run.published("codebook-quantizers"))
    assert min(quantizers, key=lambda name: quantizers[name]["test_nmse"]["mean"]) == "ema"
    assert math.isclose(used["both"], 512, rel_tol=0.02)


def test_photographs_and_curves_are_as_said():
    """KD and the means of FD have B to A ahead; the way back rests on the finest colours; longer runs end lower, not steadily."""
    found = Run.published("cyclegan").metrics
    there, back = (found["cards"][domain]["average"] for domain in "ba")
    assert back["kd_closed"] - there["kd_closed"] > 1.9 * math.hypot(there["kd_closed_error"], back["kd_closed_error"])
    train = [found["cards_train"][domain]["average"] for domain in "ba"]
    assert train[1]["kd_closed"] - train[0]["kd_closed"] > 3 * math.hypot(*(row["kd_closed_error"] for row in train))
    assert there["fd_means_closed"] < back["fd_means_closed"] and there["fd_closed"] > back["fd_closed"]
    for hidden in found["hidden"].values():
        for name, times in (("chroma_2", 3), ("jpeg_95", 3), ("exchanged", 1.5)):
            assert hidden[name]["moved"] > times * hidden[name]["real_moved"], name
        assert hidden["luma_2"]["change"] > 2 * hidden["chroma_2"]["change"]
        assert hidden["luma_2"]["moved"] < hidden["luma_2"]["real_moved"]
        assert max(hidden[name]["moved"] for name in ("noise_10", "jpeg_95_444")) < hidden["chroma_2"]["moved"] / 2
        assert hidden["chroma_8"]["moved"] < 1.2 * hidden["chroma_2"]["moved"]
    first, again, longer = (Run.published(f"cyclegan{name}") for name in ("", "-again", "-double"))
    for way in ("ab", "ba"):
        ends = [run.epochs[f"average_kd_{way}"] for run in (first, again, longer)]
        assert ends[2][-1] < min(ends[0][-1], ends[1][-1])
        losses = [scorecards.first_and_last_tenth(run.history)[1][f"g_{way}"] for run in (first, again, longer)]
        assert losses[2] > 1.05 * max(losses[:2])
    first, again, longer = (run.epochs for run in (first, again, longer))
    assert longer["average_kd_ba"][-5:].max() < min(its["average_kd_ba"][-5:].min() for its in (first, again))
    assert longer["average_zebra_ba"][-1] >= max(its["average_zebra_ba"][-1] for its in (first, again))
    assert longer["average_kd_ab"].min() < 0.9 * longer["average_kd_ab"][-1]
    assert (longer["average_kd_ab"][:10] == first["average_kd_ab"][:10]).all()
    run = Run.published("vqvae")
    course = findings.course(run.epochs["test_perplexity"])
    assert run.epochs["test_vq"][-1] > run.epochs["test_vq"][0]
    usual, double, held_out = (Run.published(f"vqvae-{name}").epochs for name in ("usual", "double", "held-out"))
    assert double["test_nmse"][-1] < run.epochs["test_nmse"][-1] < usual["test_nmse"][-1]
    assert usual["test_perplexity"][-1] > 1.1 * usual["test_perplexity"][-6]
    assert usual["test_vq"].min() < usual["test_vq"][-1] < usual["test_vq"][0]
    assert abs(held_out["held_out_nmse"][-1] / held_out["test_nmse"][-1] - 1) < 0.02
    assert course["first"] < course["last"] < course["top"]
    umap = run.metrics["umap"]
    assert umap["noise"]["3"]["islands"] >= umap["codebook"]["3"]["islands"]
