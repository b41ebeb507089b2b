"""Ablations: each variant changes what its name says and nothing else; known pictures have known numbers."""

import copy
import json
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

from hw2lib.cyclegan import CycleGAN
from hw2lib.data import unpaired
from hw2lib.data.batches import Pairs
from hw2lib.evaluation import translations as translation
from hw2lib.evaluation.translations import difference, translate
from hw2lib.studies import cyclegan_parts as ablations
from hw2lib.studies import study
from hw2lib.studies.cyclegan_parts import (
    ABLATIONS,
    RestingDiscriminators,
    Sizes,
    WithoutAdversary,
    config_of,
    discriminator_step,
    ends,
    gradient_by_logit,
    local_contrast,
    measure,
    scores,
    stripes,
    train,
)
from hw2lib.studies.steganography import hidden_information
from hw2lib.studies.travelgan import TravelGAN
from hw2lib.training import devices

TINY = Sizes(train=12, test=3, batch_size=2, base_channels=2, blocks=1)


@pytest.fixture(scope="module")
def toy():
    """Drawn domains with 12 training pictures each and 16 test pairs."""
    return unpaired.toy_domains(32, train=12, test=16)


@pytest.fixture
def batch(pictures):
    """uint8 (real_a, real_b), (2, 3, 32, 32) each."""
    return pictures[:2], pictures[2:4]


def ready(kind=CycleGAN, variant="full", steps=20):
    """A tiny model, set up on the CPU."""
    model = kind(config_of(variant, 0, TINY))
    model.setup(devices.machine("cpu", "32"), steps)
    return model


def weights_of(*networks):
    """All weights of networks in one vector, copied."""
    return torch.cat([p.detach().flatten() for network in networks for p in network.parameters()])


def watch(model, name):
    """The weights that the optimiser `name` updates, after each of its updates: a list that grows."""
    seen = []
    optimizer = model.optimizers[name]
    optimizer.register_step_post_hook(
        lambda *_: seen.append(torch.cat([p.detach().flatten() for p in model.parameters_of[name]]))
    )
    return seen


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
    """Who does nothing differs from the truth and changes nothing; the counterparts the other way round."""
    found = ends(toy)
    nothing, perfect = found["doing nothing"], found["true counterparts"]
    for way in ("ab", "ba"):
        assert nothing[f"truth_{way}"] == difference(toy.test_a, toy.test_b) > 0
        assert nothing[f"background_{way}"] == nothing[f"shift_{way}"] == nothing[f"stripes_{way}"] == 0
        assert perfect[f"truth_{way}"] == perfect[f"background_{way}"] == 0
        assert perfect[f"stripes_{way}"] == 1
        assert perfect[f"shift_{way}"] == translation.colour_shift(toy.test_a, toy.test_b) > 0
    assert len(nothing) == len(perfect) == 8


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
    assert [full[name] for name in ("objective", "cycle_weight", "identity_weight", "pool_size")] == [
        "least_squares",
        10.0,
        0.0,
        50,
    ]
    assert (full["generator"], full["discriminator"]) == ("resnet", "patch")
    for name, variant in ABLATIONS.items():
        config = config_of(name, 0, Sizes()).model_dump()
        changed = {key for key in config.keys() & full.keys() if config[key] != full[key]}
        assert changed | {"adversarial"} == set(variant.options) | {"adversarial"}, name
        assert config.keys() >= variant.options.keys(), name
    assert len({str(variant) for variant in ABLATIONS.values()}) == len(ABLATIONS)


def generator_gradients(model, batch):
    """What the generators' update of a step is given, in one vector."""
    given = {}
    update = model._update
    model._update = lambda name, grads: (
        given.setdefault(name, [g.clone() for g in grads]),
        update(name, grads),
    )
    model.step(batch)
    return torch.cat([grad.flatten() for grad in given["generators"]])


def test_without_adversary_only_the_cycle_is_learnt(batch):
    """The generators get the gradient of the cycle loss, whatever discriminators say; in full they do not."""
    changed = {}
    for kind in (CycleGAN, WithoutAdversary):
        one, other = ready(kind), ready(kind)
        for network in (other.d_a, other.d_b):
            network[-1].weight.data.mul_(-3)
        changed[kind] = not torch.equal(generator_gradients(one, batch), generator_gradients(other, batch))
    assert changed == {CycleGAN: True, WithoutAdversary: False}

    model, plain = ready(WithoutAdversary), ready()
    a, b = (CycleGAN.to_network(part) for part in batch)
    g_ab, g_ba = plain.g_ab, plain.g_ba
    cycle = (g_ba(g_ab(a)) - a).abs().mean() + (g_ab(g_ba(b)) - b).abs().mean()
    wanted = torch.autograd.grad(10 * cycle, [*g_ab.parameters(), *g_ba.parameters()])
    torch.testing.assert_close(
        generator_gradients(model, batch), torch.cat([g.flatten() for g in wanted]), rtol=1e-3, atol=1e-6
    )


def test_without_adversary_discriminators_learn_all_the_same(batch):
    """Their first update is that of the full model, and what they say of translations is reported."""
    found = []
    for kind in (CycleGAN, WithoutAdversary):
        model = ready(kind)
        before = weights_of(model.d_a, model.d_b)
        losses = model.step(batch)
        found.append(weights_of(model.d_a, model.d_b))
        assert not torch.equal(before, found[-1])
        assert {"g_ab", "g_ba", "d_a", "d_b_fake"} <= set(losses)
    assert torch.equal(*found)


def test_resting_discriminators_learn_at_every_third_step(batch):
    """After an update they rest twice, while generators change and both learning rates fall alike."""
    model = ready(RestingDiscriminators, steps=6)
    networks = ((model.d_a, model.d_b), (model.g_ab, model.g_ba))
    changed = {0: [], 1: []}
    for _ in range(6):
        before = [weights_of(*its) for its in networks]
        model.step(batch)
        for key, its in enumerate(networks):
            changed[key].append(not torch.equal(before[key], weights_of(*its)))
        rates = {optimizer.param_groups[0]["lr"] for optimizer in model.optimizers.values()}
        assert len(rates) == 1
    assert changed == {0: [True, False, False] * 2, 1: [True] * 6}
    assert rates == {0.0}


def test_one_more_discriminator_step_is_the_discriminators_alone(batch):
    """It leaves generators and rates alone, and updates as a step does whose generators stay as they are."""
    model, other = ready(), ready()
    others_update = other._update
    other._update = lambda name, grads: name == "generators" or others_update(name, grads)
    other.step(batch)
    generators = weights_of(model.g_ab, model.g_ba)
    discriminator_step(model, batch)
    assert torch.equal(weights_of(model.g_ab, model.g_ba), generators)
    torch.testing.assert_close(weights_of(model.d_a, model.d_b), weights_of(other.d_a, other.d_b))
    assert model.schedules["discriminators"].last_epoch == 0
    # The translations are kept in the pools as those of a step are.
    assert len(model.pool_a.pictures) == len(model.pool_b.pictures) == 2


@pytest.mark.parametrize("times", [1, 3])
def test_discriminators_learn_as_often_as_they_are_told(toy, times):
    """In four steps generators change four times, discriminators `times` as often, each on its own batch."""
    model = CycleGAN(config_of("full", 0, TINY))
    batches, seen, dealt = Pairs(toy.train_a, toy.train_b, 32, 0, 2), {}, []

    def deal(epoch):
        for batch in batches(epoch):
            dealt.append(batch)
            yield batch

    def setup(fabric, steps):
        CycleGAN.setup(model, fabric, steps)
        seen.update({name: watch(model, name) for name in model.optimizers})

    model.setup = setup
    train(model, deal, 4, times)
    assert len(dealt) == 4 * times
    for name, count in (("generators", 4), ("discriminators", 4 * times)):
        assert len({tuple(weights.tolist()) for weights in seen[name]}) == len(seen[name]) == count


def test_training_numbers_are_means_over_the_last_tenth():
    """Of 20 steps the last two count, of 5 the last; epochs follow each other as long as there are steps."""

    class Counter:
        def setup(self, fabric, total_steps):
            self.batches = []

        def step(self, batch):
            self.batches.append(batch)
            return {"number": torch.tensor(float(len(self.batches)))}

    def three_batches(epoch):
        return iter([(epoch, 0), (epoch, 1), (epoch, 2)])

    model = Counter()
    assert train(model, three_batches, 20) == {"number": 19.5}
    assert model.batches == [divmod(step, 3) for step in range(20)]
    assert train(model, three_batches, 5) == {"number": 5}


# ---- cases and the study


def test_a_case_is_determined_by_its_seed(toy):
    """The same case has the same numbers, another seed others, and torch's chance is left alone."""
    before = torch.random.get_rng_state()
    first, again, other = (measure({"variant": "full", "seed": seed}, toy, 3, TINY) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first == again
    assert all(first[name] != other[name] for name in ("truth_ab", "g_ab", "d_a"))


@pytest.mark.parametrize("variant", ["no adversarial loss", *list(ABLATIONS)[-2:]])
def test_what_is_measured_is_what_a_model_has(toy, variant):
    """Models for both directions have all scores and cycle errors, one-sided ones those from a to b only."""
    found = measure({"variant": variant, "seed": 0}, toy, 1, TINY)
    there = {f"{name}_ab" for name in ("truth", "background", "shift", "stripes")}
    if ABLATIONS[variant].model is TravelGAN:
        trained = {"travel", "margin"}
        if variant != "siamese without discriminator":
            trained |= {"g_ab", "d_b", "d_b_real", "d_b_fake"}
        assert set(found) == there | trained
    else:
        back = {name.replace("_ab", "_ba") for name in there}
        assert set(found) >= there | back | {"cycle_aba", "cycle_bab", "cycle_a", "d_a_fake"}
    assert all(np.isfinite(value) for value in found.values())


@pytest.mark.parametrize("variant, rows", [("full", 2), ("siamese in place of the cycle loss", 1)])
def test_translations_are_kept_to_look_at(tmp_path, variant, rows):
    """The first seed leaves the first test pictures' translations in the run folder, those of b to a if there are any."""
    run = ablations.ablate(tmp_path, steps=1, seeds=(3, 4), variants=(variant,), sizes=TINY)
    (path,) = (run.folder / "translations").iterdir()
    assert path == ablations.kept_translations(run.folder, variant)
    assert translation.load_strip(path, 32).shape == (rows, TINY.test, 3, 32, 32)


def test_a_study_goes_on_with_the_next_case(tmp_path, monkeypatch):
    """Killed in its second case it measures that one and those after it, not the first; finished, none."""
    asked, real = [], ablations.measure

    def counting(case, *rest):
        if len(asked) == 1 and not killed:
            raise KeyboardInterrupt
        asked.append((case["variant"], case["seed"]))
        return real(case, *rest)

    monkeypatch.setattr(ablations, "measure", counting)
    options = {"steps": 1, "seeds": (0, 5), "variants": ("full", "no cycle loss"), "sizes": TINY}
    killed = False
    with suppress(KeyboardInterrupt):
        ablations.ablate(tmp_path, **options)
    assert asked == [("full", 0)]
    killed = True
    run = ablations.ablate(tmp_path, **options)
    assert asked == [("full", 0), ("no cycle loss", 0), ("full", 5), ("no cycle loss", 5)]
    assert study.rows(ablations.ablate(tmp_path, **options)) == study.rows(run)
    assert len(asked) == 4
    toy = unpaired.toy_domains(32, TINY.train, TINY.test)
    wanted = {"variant": "full", "seed": 5} | real({"variant": "full", "seed": 5}, toy, 1, TINY)
    assert study.rows(run)[2] == wanted
    assert run.metrics["ends"] == ends(toy)
    kept = json.loads((run.folder / "config.json").read_text())["settings"]["variants"]
    assert [kept[name]["cycle_weight"] for name in options["variants"]] == [10, 0]


# ---- gradients of the objectives


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


# ---- hidden information


class Scale(nn.Module):
    """A translator that multiplies by a number."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(float(factor)))

    def forward(self, x):
        return x * self.factor


def translators(there, back):
    """A model with these generators, and averages that are worse."""
    model = CycleGAN(config_of("full", 0, TINY).model_copy(update={"ema_decay": 0.9}))
    model.g_ab, model.g_ba = Scale(there), Scale(back)
    model.average_ab, model.average_ba = Scale(0.5), Scale(1)
    return model


@pytest.mark.parametrize("averaged", [False, True])
def test_without_disturbance_it_is_the_cycle_error(toy, averaged):
    """Noise of deviation 0 and no noise at all give translation.cycle_error, by the generators asked for."""
    model = translators(-1, -0.8)
    generators = model.generators(averaged)
    fake_b, fake_a = translate(generators[0], toy.test_a), translate(generators[1], toy.test_b)
    wanted = translation.cycle_error(model, toy, averaged, fake_a, fake_b)["aba"]
    found = hidden_information(model, toy.test_a, averaged, noises=(0,), qualities=())
    assert found == {name: {"difference": 0, "cycle": wanted} for name in ("nothing", "noise 0")}
    assert wanted > 0.05


def test_disturbances_are_as_strong_as_they_say():
    """On grey, noise differs by s sqrt(2 / pi) / 127.5 in the mean; JPEG the more the lower its quality."""
    grey = torch.full((8, 3, 32, 32), 128, dtype=torch.uint8)
    found = hidden_information(translators(1, 1), grey, False, noises=(4, 12), qualities=())
    for deviation in (4, 12):
        values = found[f"noise {deviation}"]
        assert values["difference"] == pytest.approx(deviation * np.sqrt(2 / np.pi) / 127.5, rel=0.03)
        assert values["difference"] == values["cycle"]
    scenes = unpaired.toy_domains(32, train=2, test=8).test_a
    found = hidden_information(translators(1, 1), scenes, False, noises=(), qualities=(95, 75, 30))
    apart = [found[f"JPEG {quality}"]["difference"] for quality in (95, 75, 30)]
    assert 0 < apart[0] < apart[1] < apart[2] < 0.2


def test_what_is_hidden_does_not_survive(toy):
    """A translator whose pictures are almost grey comes back by amplifying them, until they are disturbed."""
    honest = hidden_information(translators(-1, -1), toy.test_a, False, (3,), (75,))
    hiding = hidden_information(translators(0.05, 20), toy.test_a, False, (3,), (75,))
    assert hiding["nothing"]["cycle"] < 0.06
    for name in ("noise 3", "JPEG 75"):
        assert honest[name]["cycle"] == pytest.approx(honest[name]["difference"], rel=0.05)
        assert hiding[name]["cycle"] - hiding["nothing"]["cycle"] > 5 * hiding[name]["difference"]


def test_looking_changes_nothing(toy):
    """Neither the model nor the pictures nor torch's chance are touched."""
    model = translators(-1, -1)
    before, weights = torch.random.get_rng_state(), copy.deepcopy(model.state_dict())
    pictures = toy.test_a.clone()
    first, again = (hidden_information(model, pictures, False) for _ in range(2))
    assert first == again
    assert torch.equal(pictures, toy.test_a)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items() if "extra" not in name)
