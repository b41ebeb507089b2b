"""Parts of CycleGAN: each variant changes what its name says and nothing else; known pictures have known numbers."""

import copy

import numpy as np
import pytest
import torch

from hw2lib.cyclegan import CycleGAN
from hw2lib.data.unpaired import toy_domains
from hw2lib.evaluation.translations import difference, load_strip
from hw2lib.studies import cyclegan_parts, study
from hw2lib.studies.cyclegan_parts import (
    ABLATIONS,
    Sizes,
    config_of,
    ends,
    gradient_by_logit,
    gradients_at_the_end,
    local_contrast,
    measure,
    model_of,
    scores,
    stripes,
)
from hw2lib.training import Run, machine

TINY = Sizes(train=12, test=3, batch_size=2, base_channels=2, blocks=1)


@pytest.fixture(scope="module")
def toy():
    """Drawn domains with 12 training pictures each and 16 test pairs."""
    return toy_domains(32, train=12, test=16)


@pytest.fixture
def batch(pictures):
    """uint8 (real_a, real_b), (2, 3, 32, 32) each."""
    return pictures[:2], pictures[2:4]


def ready(kind=CycleGAN, variant="full", steps=20):
    """A tiny model, set up on the CPU."""
    model = kind(config_of(variant, 0, TINY))
    model.setup(machine("cpu", "32"), steps)
    return model


# ---- stripes and scores


def test_local_contrast_is_the_mean_step_on_the_mask():
    """NumPy finds the same in float64, pair by pair; one white line on black has the known contrast."""
    draws = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=draws)
    masks = torch.rand(3, 8, 8, generator=draws) < 0.7
    red, green, blue = pictures.numpy().astype(float).transpose(1, 0, 2, 3) / 127.5
    light, found = 0.299 * red + 0.587 * green + 0.114 * blue, []
    for n in range(3):
        for y in range(8):
            for x in range(8):
                for v, u in ((y, x + 1), (y + 1, x)):
                    if v < 8 and u < 8 and masks[n, y, x] and masks[n, v, u]:
                        found.append(abs(light[n, y, x] - light[n, v, u]))
    assert local_contrast(pictures, masks) == pytest.approx(np.mean(found), rel=1e-12)

    line = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    line[..., 3] = 255
    # 2 x 8 of the 56 + 56 pairs of neighbours differ, by 2
    assert local_contrast(line, torch.ones(1, 8, 8, dtype=torch.bool)) == pytest.approx(2 * 16 / 112)


def test_stripes_are_0_at_the_source_and_1_at_the_counterparts(toy):
    """Both ways the source has 0, the counterparts 1, and blends lie in between, in the right order."""
    a, b = toy.test_a, toy.test_b
    for source, target in ((a, b), (b, a)):
        assert stripes(source, source, target, toy.masks) == 0
        assert stripes(target, source, target, toy.masks) == 1
        blends = [
            stripes(torch.lerp(source.float(), target.float(), t).byte(), source, target, toy.masks)
            for t in (0.3, 0.6, 0.9)
        ]
        assert 0 < blends[0] < blends[1] < blends[2] < 1


def test_noise_and_checkerboards_are_no_stripes(toy, pictures):
    """What covers the whole picture makes no zebra, nor does grey, though noise has more local contrast."""
    noise = pictures[:16]
    checkerboard = ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 255).byte().expand(16, 3, 32, 32)
    grey = torch.full_like(noise, 128)
    assert local_contrast(noise, toy.masks) > local_contrast(toy.test_b, toy.masks)
    for other in (noise, checkerboard, grey):
        assert stripes(other, toy.test_a, toy.test_b, toy.masks) < 0


def test_ends_are_the_ends(toy):
    """Who does nothing differs from the truth and changes nothing; the counterparts the other way round;
    animals of one colour are nearer than untouched ones, and have no stripes."""
    found = ends(toy)
    nothing, flat, perfect = found.values()
    for way in ("ab", "ba"):
        assert nothing[f"truth_{way}"] == difference(toy.test_a, toy.test_b) > 0
        assert nothing[f"background_{way}"] == nothing[f"stripes_{way}"] == 0
        assert nothing[f"animal_{way}"] == difference(toy.test_a, toy.test_b, toy.masks)
        assert perfect[f"truth_{way}"] == perfect[f"animal_{way}"] == perfect[f"background_{way}"] == 0
        assert perfect[f"stripes_{way}"] == 1
        assert flat[f"background_{way}"] == 0 < flat[f"animal_{way}"] < nothing[f"animal_{way}"]
    assert flat["stripes_ab"] < 0.2 and flat["stripes_ba"] > 0.8
    assert nothing.keys() == perfect.keys() == flat.keys() and len(flat) == 8


def test_each_direction_has_its_own_truth(toy):
    """Pictures painted black off the animal have background changes of their own source, and none on it."""
    black = torch.where(toy.masks[:, None], toy.test_a, 0)
    there, back = scores(toy, "ab", black), scores(toy, "ba", black)
    assert there["background_ab"] == difference(black, toy.test_a, ~toy.masks)
    assert there["truth_ab"] == difference(black, toy.test_b)
    assert back["truth_ba"] == difference(black, toy.test_a)
    assert back["background_ba"] == difference(black, toy.test_b, ~toy.masks)


# ---- what is changed


def test_variants_differ_in_what_they_say():
    """Of the config each variant changes its own options only; "full" is the paper's."""
    full = config_of("full", 0, Sizes()).model_dump()
    names = ("objective", "cycle_weight", "identity_weight", "pool_size", "generator", "discriminator")
    assert [full[name] for name in names] == ["least_squares", 10.0, 0.0, 50, "resnet", "patch"]
    for name, (_, options) in ABLATIONS.items():
        config = config_of(name, 0, Sizes()).model_dump()
        assert {key for key in config if config[key] != full[key]} == set(options), name
    assert len({str(variant) for variant in ABLATIONS.values()}) == len(ABLATIONS)


@pytest.mark.parametrize(
    ("variant", "width", "marks_a_side"),
    [("full", 34, 14), ("contrastive_discriminator", 34, 14), ("small_patches", 16, 30)],
)
def test_patches_are_as_wide_as_is_said(variant, width, marks_a_side):
    """The mark of an inner patch depends on so many pixels across and down, and on all of these."""
    network = model_of(variant, 0, TINY).d_a
    network.beside = torch.zeros(1, 3, 64, 64)
    convolutions = torch.nn.Sequential(*(layer for layer in network if isinstance(layer, torch.nn.Conv2d)))
    x = torch.zeros(1, 3, 64, 64, requires_grad=True)
    marks = convolutions(x)
    assert marks.shape[2:] == network(x).shape[2:] == (marks_a_side, marks_a_side)
    assert network(x).shape[1] == 1
    middle = marks_a_side // 2
    seen = torch.autograd.grad(marks[0, :, middle, middle].sum(), x)[0].abs().sum((0, 1)) > 0
    assert seen.any(0).sum() == seen.any(1).sum() == width and seen.sum() == width**2


def test_the_contrastive_discriminator_learns_the_loss_of_distances(batch):
    """As hinge losses it and the generators get d(real, other real) + max(0, 1 - d(fake, real)) and d(fake, real)."""
    model = ready(cyclegan_parts.ContrastiveCycleGAN, "contrastive_discriminator")
    before = copy.deepcopy(model)
    found = model.step(batch)
    real_a, real_b = (CycleGAN.to_network(part) for part in batch)

    def points(x):
        return torch.nn.Sequential(*before.d_b)(x)

    def distance(x, y):
        return (x - y).square().sum(1).sqrt()

    beside, fake = points(real_b.flip(0)), points(before.g_ab(real_a))
    alike, unlike = distance(points(real_b), beside), distance(fake, beside)
    wanted = {
        "d_b": alike.mean() + torch.relu(1 - unlike).mean(),
        "g_ab": 2 * unlike.mean() - 1,
        "d_b_real": 1 - 2 * alike.mean(),
        "d_b_fake": 1 - 2 * unlike.mean(),
    }
    for name, value in wanted.items():
        assert float(found[name]) == pytest.approx(value.item(), rel=1e-4), name


def test_training_numbers_are_means_over_the_last_tenth(toy, monkeypatch):
    """Of 20 steps the last two count, of 5 the last."""
    monkeypatch.setattr(
        cyclegan_parts, "train_briefly", lambda model, batches, steps, *_: {"loss": torch.arange(1.0, steps + 1)}
    )
    for steps, mean in ((20, 19.5), (5, 5)):
        assert measure({"variant": "full", "seed": 0}, toy, steps, TINY)["loss"] == mean


# ---- cases and the study


def test_a_case_is_determined_by_its_seed(toy):
    """The same case has the same numbers, another seed others, and torch's chance is left alone."""
    before = torch.random.get_rng_state()
    first, again, other = (measure({"variant": "full", "seed": seed}, toy, 3, TINY) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first == again
    assert all(first[name] != other[name] for name in ("truth_ab", "g_ab", "d_a"))


@pytest.mark.parametrize("variant", ["full", "siamese_for_cycle_loss"])
def test_what_is_measured_is_what_a_model_has(toy, variant):
    """Models for both directions have all scores and cycle errors, one-sided ones those from a to b only."""
    found = measure({"variant": variant, "seed": 0}, toy, 1, TINY)
    there = {f"{name}_ab" for name in ("truth", "animal", "background", "stripes")}
    if variant == "siamese_for_cycle_loss":
        assert set(found) == there | {"travel", "margin", "g_ab", "d_b", "d_b_real", "d_b_fake"}
    else:
        back = {name.replace("_ab", "_ba") for name in there}
        assert set(found) >= there | back | {"cycle_aba", "cycle_bab", "cycle_a", "d_a_fake"}
    assert all(np.isfinite(value) for value in found.values())


def test_the_study_keeps_rows_pictures_and_what_they_are_read_beside(tmp_path):
    """Rows of each variant and seed, the ends, the first seed's translations; a variant more is added."""
    options = {"steps": 1, "seeds": (3, 4), "sizes": TINY}
    run = cyclegan_parts.ablate(tmp_path, variants=("full", "siamese_for_cycle_loss"), **options)
    before = study.rows(run)
    run = cyclegan_parts.ablate(tmp_path, variants=("full", "siamese_for_cycle_loss", "no_cycle_loss"), **options)
    drawn = cyclegan_parts.drawn_domains(TINY)
    rows = {(row["variant"], row["seed"]): row for row in study.rows(run)}
    assert len(rows) == 6 and all(row in rows.values() for row in before)
    assert rows["no_cycle_loss", 4] == {"variant": "no_cycle_loss", "seed": 4} | measure(
        {"variant": "no_cycle_loss", "seed": 4}, drawn, 1, TINY
    )
    assert run.metrics["ends"] == ends(drawn)
    means = run.metrics["options"]["variant"]
    assert [means[name]["cycle_weight"] for name in means] == [10, 10, 0]
    assert {path.stem for path in (run.folder / "translations").iterdir()} == set(means)
    for variant, kept in {"full": 2, "siamese_for_cycle_loss": 1}.items():
        strip = load_strip(cyclegan_parts.kept_translations(run.folder, variant), 32)
        assert strip.shape == (kept, TINY.test, 3, 32, 32)


def test_the_published_variants_stand_for_what_they_stood_for():
    run = Run.published("ablations")
    assert run.metrics["options"]["variant"] == {name: cyclegan_parts.described(name, Sizes()) for name in ABLATIONS}
    for name, found in ends(cyclegan_parts.drawn_domains()).items():
        assert run.metrics["ends"][name] == pytest.approx(found)


# ---- gradients of the objectives


def test_gradients_at_the_outputs_that_occur():
    """Each objective pulls as its formula says at the mean output of the training that was made with it."""
    found = gradients_at_the_end(
        {"full": {"d_b_fresh": {"mean": 0.25}}, "cross_entropy": {"d_b_fresh": {"mean": -1.0}}}
    )
    sigmoid = 1 / (1 + np.e)
    wanted = {"least_squares": (0.25, 1.5), "cross_entropy": (-1, 1 - sigmoid), "saturating": (-1, sigmoid)}
    assert {name: (row["output"], pytest.approx(row["pull"])) for name, row in found.items()} == wanted


def test_gradients_are_the_closed_formulas():
    """-sigmoid(D), -sigmoid(-D), 2 (D - 1) and -1, for outputs from -30 to 30."""
    d = np.linspace(-30, 30, 61)
    found = gradient_by_logit(d)
    wanted = {
        "saturating": -1 / (1 + np.exp(-d)),
        "cross_entropy": -1 / (1 + np.exp(d)),
        "least_squares": 2 * (d - 1),
        "hinge": -np.ones(61),
    }
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, err_msg=name)
