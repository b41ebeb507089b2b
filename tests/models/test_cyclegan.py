"""CycleGAN: each test states a claim, most of them details that re-implementations get wrong."""

import json
import os
import subprocess
import sys
import textwrap
import threading
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from hw2lib import ROOT, parameters
from hw2lib.cyclegan import CycleGAN, CycleGANConfig, ImagePool, discriminator_loss, generator_loss
from hw2lib.networks import InstanceNorm, ResidualBlock
from hw2lib.training import machine

SMALL = {"size": 32, "base_channels": 2, "blocks": 1}


def ready(precision="32", total_steps=20, **options):
    model = CycleGAN(CycleGANConfig(**SMALL | options))
    model.setup(machine("cpu", precision), total_steps)
    return model.train()


@pytest.fixture
def pair(pictures):
    """Two pictures of each domain, uint8 (2, 3, 32, 32)."""
    return pictures[:2], pictures[2:4]


def noise(*shape, seed=0):
    """Random numbers in [-1, 1), float32."""
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1


# ---- the objectives

# What a generator and a discriminator minimise, as the papers write it.
PLAIN = {
    "least_squares": (
        lambda fake: ((fake - 1) ** 2).mean(),
        lambda real, fake: (((real - 1) ** 2).mean() + (fake**2).mean()) / 2,
    ),
    "cross_entropy": (
        lambda fake: -torch.sigmoid(fake).log().mean(),
        lambda real, fake: -(torch.sigmoid(real).log().mean() + (1 - torch.sigmoid(fake)).log().mean()) / 2,
    ),
    "hinge": (
        lambda fake: -fake.mean(),
        lambda real, fake: (torch.clamp(1 - real, min=0).mean() + torch.clamp(1 + fake, min=0).mean()) / 2,
    ),
}


@pytest.mark.parametrize("objective", PLAIN)
def test_objectives_are_those_of_float64(objective):
    """Both losses, and their gradients for every output, are those of the papers' formulas in float64."""
    real, fake = (3 * noise(2, 1, 5, 4, seed=seed) for seed in (0, 1))
    real.requires_grad_(), fake.requires_grad_()
    exact = [part.detach().double().requires_grad_() for part in (real, fake)]
    generator, discriminator = PLAIN[objective]
    for ours, plain, inputs, wanted in (
        (generator_loss(objective, fake), generator(exact[1]), [fake], exact[1:]),
        (discriminator_loss(objective, real, fake), discriminator(*exact), [real, fake], exact),
    ):
        assert ours.item() == pytest.approx(plain.item(), rel=1e-5)
        gradients = zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(plain, wanted), strict=True)
        for gradient, expected in gradients:
            torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("objective", PLAIN)
def test_extreme_outputs_stay_finite(objective):
    """Outputs of 200 in the wrong direction give finite losses and gradients, which a plain log would not."""
    high = torch.full((1, 1, 2, 2), 200.0)
    for sign in (1, -1):
        fake = (-sign * high).requires_grad_()
        loss = generator_loss(objective, fake) + discriminator_loss(objective, sign * high, fake)
        assert loss.isfinite()
        assert torch.autograd.grad(loss, fake)[0].isfinite().all()


# ---- one step


def reference(config, batch, plain_norm):
    """What a first step must report, and its gradients: everything written plainly, in float64."""
    plain = CycleGAN(config).double()
    a, b = (part.double() / 127.5 - 1 for part in batch)
    generator, discriminator = PLAIN[config.objective]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InstanceNorm, "forward", lambda self, x: plain_norm(x))
        fake_b, fake_a = plain.g_ab(a), plain.g_ba(b)
        on = {
            "d_a_real": plain.d_a(a),
            "d_a_fake": plain.d_a(fake_a.detach()),
            "d_b_real": plain.d_b(b),
            "d_b_fake": plain.d_b(fake_b.detach()),
        }
        terms = {
            "g_ab": generator(plain.d_b(fake_b)),
            "g_ba": generator(plain.d_a(fake_a)),
            "cycle_a": (plain.g_ba(fake_b) - a).abs().mean(),
            "cycle_b": (plain.g_ab(fake_a) - b).abs().mean(),
            "d_a": discriminator(on["d_a_real"], on["d_a_fake"]),
            "d_b": discriminator(on["d_b_real"], on["d_b_fake"]),
            "d_a_fresh": on["d_a_fake"].mean(),
            "d_b_fresh": on["d_b_fake"].mean(),
        }
        total = terms["g_ab"] + terms["g_ba"] + 10 * (terms["cycle_a"] + terms["cycle_b"])
        if config.identity_weight:
            terms["identity_a"] = (plain.g_ba(a) - a).abs().mean()
            terms["identity_b"] = (plain.g_ab(b) - b).abs().mean()
            total = total + 5 * (terms["identity_a"] + terms["identity_b"])  # 0.5 of the 10
    gradients = {
        "generators": torch.autograd.grad(total, [*plain.g_ab.parameters(), *plain.g_ba.parameters()]),
        "discriminators": torch.autograd.grad(
            terms["d_a"] + terms["d_b"], [*plain.d_a.parameters(), *plain.d_b.parameters()]
        ),
    }
    terms |= {name: outputs.mean() for name, outputs in on.items()}
    return {name: term.item() for name, term in terms.items()}, gradients


def stepped(config, batch, precision):
    """What a first step reports, and the gradients that it hands to the optimisers."""
    model = CycleGAN(config)
    model.setup(machine("cpu", precision), total_steps=20)
    terms = model.train().step(batch)
    gradients = {name: [p.grad for p in its] for name, its in model.parameters_of.items()}
    return {name: term.item() for name, term in terms.items()}, gradients


def flat(gradients):
    return torch.cat([gradient.flatten().double() for gradient in gradients])


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (1, {}),
        (2, {"identity_weight": 0.5}),
        (1, {"identity_weight": 0.5, "generator": "unet", "discriminator": "picture"}),
        (2, {"generator": "unet", "discriminator": "picture"}),
        (2, {"objective": "cross_entropy"}),
        (2, {"objective": "hinge"}),
    ],
)
def test_a_step_is_that_of_float64(pair, size, options, plain_norm, threads):
    """Terms and gradients are the objective's in float64, weighted 10 and 5; two threads change no bit."""
    config = CycleGANConfig(**SMALL | {"base_channels": 4}, **options)
    batch = [part[:size] for part in pair]
    expected, wanted = reference(config, batch, plain_norm)
    for precision in ("32", "bf16"):
        found, gradients = stepped(config, batch, precision)
        near = {"rel": 1e-4, "abs": 1e-5} if precision == "32" else {"rel": 0.05, "abs": 0.02}
        assert found == pytest.approx(expected, **near), precision
        for name, ours in gradients.items():
            error = (flat(ours) - flat(wanted[name])).norm() / flat(wanted[name]).norm()
            likeness = F.cosine_similarity(flat(ours), flat(wanted[name]), dim=0)
            assert error < 1e-3 if precision == "32" else likeness > 0.9, (precision, name, error, likeness)
        with threads(2):
            parallel, its = stepped(config, batch, precision)
        assert parallel == found
        for name, ours in gradients.items():
            assert all(torch.equal(one, two) for one, two in zip(ours, its[name], strict=True)), name


@pytest.mark.parametrize(("precision", "dtype"), [("32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_that_of_the_convolutions(pair, precision, dtype):
    """In bf16 every convolution of a step computes in it; weights, averages, pools, losses stay float32."""
    model, seen = ready(precision), set()
    for network in (model.g_ab, model.g_ba, model.d_a, model.d_b):
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                layer.register_forward_hook(lambda _, inputs, y: seen.add(y.dtype))
    assert torch.is_autocast_cache_enabled()
    terms = model.step(pair)
    assert torch.is_autocast_cache_enabled()  # what comes afterwards may want it
    assert seen == {dtype}
    assert {tensor.dtype for tensor in (*model.state_dict().values(), *terms.values())} == {torch.float32}


def test_two_threads_share_the_directions(pair, threads):
    """With two threads the directions are computed beside the main thread, with one in it."""
    for number in (1, 2):
        with threads(number):
            model, where = ready(), set()
            for network in (model.g_ab, model.g_ba, model.d_a, model.d_b):
                network.register_forward_hook(lambda *_, where=where: where.add(threading.get_ident()))
            model.step(pair)
        assert (threading.get_ident() in where) == (number == 1)


@pytest.mark.parametrize(("identity", "calls"), [(0, 4), (0.5, 6)])
def test_no_generator_is_called_in_vain(pair, identity, calls):
    """A step calls generators four times, with the identity loss six times, and each discriminator twice."""
    model, counted = ready(identity_weight=identity), Counter()
    for name in ("g_ab", "g_ba", "d_a", "d_b"):
        getattr(model, name).register_forward_hook(lambda *_, name=name: counted.update([name]))
    model.step(pair)
    assert counted == {"g_ab": calls // 2, "g_ba": calls // 2, "d_a": 2, "d_b": 2}


def test_discriminators_see_the_pools_pictures(pair, monkeypatch):
    """Pools are given the newest translations into their domains, and discriminators see what they hand on.

    In the generators' step a discriminator is frozen and passes gradients on; in its own they end there.
    """
    model, given, seen, learns = ready(), {}, {"a": [], "b": []}, []
    with torch.no_grad():
        a, b = (model.to_network(part) for part in pair)
        expected = {"a": model.g_ba(b), "b": model.g_ab(a)}
    real, old = {"a": a, "b": b}, {"a": noise(2, 3, 32, 32, seed=3), "b": noise(2, 3, 32, 32, seed=4)}
    for domain in "ab":
        pool, discriminator = getattr(model, f"pool_{domain}"), getattr(model, f"d_{domain}")
        monkeypatch.setattr(pool, "forward", lambda fakes, domain=domain: given.update({domain: fakes}) or old[domain])
        discriminator.register_forward_pre_hook(lambda _, inputs, domain=domain: seen[domain].append(inputs[0]))
        discriminator.register_forward_pre_hook(lambda d, _: learns.append({p.requires_grad for p in d.parameters()}))
    model.step(pair)
    assert learns == [{False}, {False}, {True}, {True}]
    for domain in "ab":
        torch.testing.assert_close(given[domain], expected[domain], rtol=1e-3, atol=1e-4)
        in_generators_step, in_own_step = seen[domain]
        assert in_generators_step.requires_grad
        assert not in_own_step.requires_grad
        assert torch.equal(in_own_step, torch.cat([real[domain], old[domain]]))


def test_training_learns(pictures):
    """Sixty updates on one smooth pair bring the cycle errors below half of what they were."""
    torch.manual_seed(0)
    smooth = F.interpolate(torch.rand(2, 3, 4, 4), size=32, mode="bilinear") * 255
    batch = [part[None].to(torch.uint8) for part in smooth]
    model = ready(base_channels=4, learning_rate=2e-3, total_steps=60)
    errors = []
    for _ in range(60):
        terms = model.step(batch)
        errors.append(float(terms["cycle_a"] + terms["cycle_b"]))
    assert errors[-1] < errors[0] / 2


# ---- the pool


def tagged(*tags):
    """Pictures of one value each, (N, 3, 2, 2)."""
    return torch.tensor(tags, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 2, 2).clone()


def tags(pictures):
    return [picture.flatten()[0].item() for picture in pictures]


def test_a_pool_fills_with_what_passes_through():
    """The first pictures are kept and handed on as they are, also when a batch overfills the pool."""
    pool = ImagePool(3)
    assert tags(pool(tagged(1, 2))) == [1, 2]
    torch.manual_seed(0)
    assert tags(pool(tagged(3, 4, 5, 6)))[0] == 3
    assert len(pool.pictures) == 3


def test_a_full_pool_swaps_half_of_the_time():
    """A picture is handed on, or takes the place of an old one that is: half of the time, any place alike."""
    pool, places = ImagePool(4), Counter()
    pool(tagged(-4, -3, -2, -1))
    torch.manual_seed(0)
    for tag in range(2000):
        before = tags(pool.pictures)
        (handed_on,) = tags(pool(tagged(tag)))
        after = tags(pool.pictures)
        if handed_on == tag:
            assert after == before
        else:
            place = before.index(handed_on)
            assert after == [*before[:place], tag, *before[place + 1 :]]
            places[place] += 1
    swaps = sum(places.values())
    assert abs(swaps - 1000) < 5 * 2000**0.5 / 2
    assert set(places) == {0, 1, 2, 3}
    assert all(abs(found - swaps / 4) < 5 * (swaps * 3 / 16) ** 0.5 for found in places.values())


def test_each_picture_of_a_batch_has_its_own_chance():
    """Of a batch that comes to a full pool some pictures are swapped and some not, each in its place."""
    pool = ImagePool(50)
    pool(tagged(*range(50)))
    torch.manual_seed(0)
    handed_on = tags(pool(tagged(*range(100, 140))))
    own = [tag == 100 + place for place, tag in enumerate(handed_on)]
    assert 10 < sum(own) < 30
    assert sorted(handed_on + tags(pool.pictures)) == sorted([*range(50), *range(100, 140)])


def test_a_pool_keeps_copies():
    """What a pool holds and hands on has no gradient and is not changed by later changes of what came."""
    assert not ImagePool(2)(tagged(1, 2).requires_grad_() * 1).requires_grad
    pool = ImagePool(1)
    torch.manual_seed(0)
    for tag in range(1, 20):  # the first one fills the pool, later ones are swapped in
        newest = tagged(tag)
        pool(newest)
        newest.fill_(-1)
        assert tags(pool.pictures)[0] > 0
    assert tags(pool.pictures) != [1]


def test_a_pool_of_size_0_is_no_pool():
    """Without room the newest pictures are handed on, detached, and nothing is kept."""
    pool = ImagePool(0)
    for tag in range(20):
        handed_on = pool(tagged(tag).requires_grad_())
        assert tags(handed_on) == [tag]
        assert not handed_on.requires_grad
    assert pool.pictures == []


def test_a_pool_is_saved_with_its_pictures():
    """A pool loaded from a state_dict goes on as the first one does; an empty one is loaded as empty."""
    one, other = ImagePool(5), ImagePool(5)
    one(tagged(*range(5)))
    other(tagged(7, 8))
    other.load_state_dict(one.state_dict())
    found = []
    for pool in (one, other):
        torch.manual_seed(3)
        found.append((tags(pool(tagged(*range(10, 30)))), tags(pool.pictures)))
    assert found[0] == found[1]
    other.load_state_dict(ImagePool(5).state_dict())
    assert other.pictures == []


# ---- optimisers and averages


def test_one_adam_for_the_generators_and_one_for_the_discriminators():
    """Two optimisers have all weights but the averages between them, with the paper's rate and betas."""
    model = ready()
    owned = {name: {id(p) for g in o.param_groups for p in g["params"]} for name, o in model.optimizers.items()}
    assert owned == {
        "generators": {id(p) for network in (model.g_ab, model.g_ba) for p in network.parameters()},
        "discriminators": {id(p) for network in (model.d_a, model.d_b) for p in network.parameters()},
    }
    for optimizer in model.optimizers.values():
        assert type(optimizer) is torch.optim.Adam
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"], group["weight_decay"]) == (2e-4, (0.5, 0.999), 0)


def test_averages_are_those_of_float64(pair):
    """At the n-th update the averages move by 9/(n + 9) to the new weights, at least by 1 - ema_decay."""
    model = ready(ema_decay=0.3, learning_rate=0.01)
    newest = [*model.g_ab.parameters(), *model.g_ba.parameters()]
    averages = [*model.average_ab.parameters(), *model.average_ba.parameters()]
    exact = [weight.detach().double().numpy().copy() for weight in newest]
    for step in range(1, 7):
        model.step(pair)
        decay = min(0.3, step / (step + 9))
        exact = [
            decay * mean + (1 - decay) * weight.detach().double().numpy()
            for mean, weight in zip(exact, newest, strict=True)
        ]
    for found, mean, weight in zip(averages, exact, newest, strict=True):
        np.testing.assert_allclose(found.numpy(), mean, rtol=1e-5, atol=1e-7)
        assert not torch.equal(found, weight)
    assert not any(average.requires_grad for average in averages)
    assert model.generators(averaged=True) == (model.average_ab, model.average_ba)
    assert model.generators(averaged=False) == (model.g_ab, model.g_ba)


def test_no_averages_without_a_decay(pair):
    """With ema_decay 0 nothing is averaged or saved, and asking for averages says so."""
    model = ready(ema_decay=0)
    model.step(pair)
    assert not any(name.startswith("average") for name in model.state_dict())
    with pytest.raises(ValueError, match="no averaged generators: it was trained with ema_decay 0"):
        model.generators(averaged=True)
    assert model.generators(averaged=False) == (model.g_ab, model.g_ba)


# ---- the config


def test_defaults_are_the_papers():
    """The paper's sizes, weights and rates are the defaults: nine blocks from 256 pixels on, six below."""
    config = CycleGANConfig()
    assert (config.size, config.base_channels, config.blocks, config.pool_size) == (256, 64, 9, 50)
    assert (config.generator, config.discriminator) == ("resnet", "patch")
    assert (config.objective, config.cycle_weight, config.identity_weight) == ("least_squares", 10, 0)
    assert (config.learning_rate, config.decay_share) == (2e-4, 0.5)
    assert [CycleGANConfig(size=size).blocks for size in (128, 252, 256, 512)] == [6, 6, 9, 9]
    assert CycleGANConfig(size=128, blocks=0) == CycleGANConfig(size=128)
    assert CycleGANConfig(size=128, blocks=2).blocks == 2
    assert CycleGANConfig(size="64").blocks == 6  # papermill passes strings
    assert CycleGANConfig(size="256", blocks="3").blocks == 3
    assert sum(isinstance(m, ResidualBlock) for m in CycleGAN(CycleGANConfig(**SMALL | {"blocks": 3})).g_ab) == 3


def test_unet_goes_down_as_often_as_two_divides_the_size():
    """At 256 pixels the depth is 8, at 128 it is 7, at 36 only 2; it never exceeds 8."""
    sizes = {256: 8, 128: 7, 36: 2, 96: 5, 512: 8}
    with torch.device("meta"):
        for size, depth in sizes.items():
            options = {"size": size, "base_channels": 1, "blocks": 1, "generator": "unet", "ema_decay": 0}
            assert len(CycleGAN(CycleGANConfig(**options)).g_ab.down) == depth


@pytest.mark.parametrize("options", [{}, {"generator": "unet", "discriminator": "picture"}])
def test_first_weights_are_those_of_the_paper(options):
    """Every weight of all four networks comes from N(0, 0.02) by itself, every bias is 0."""
    model = CycleGAN(CycleGANConfig(size=32, base_channels=16, blocks=1, ema_decay=0, **options))
    checked = Counter()
    for name, values in model.named_parameters():
        if name.endswith("bias"):
            assert (values == 0).all(), name
        elif values.numel() >= 1000:
            assert 0.018 < values.std() < 0.022, name
            assert values.mean().abs() < 5 * 0.02 / values.numel() ** 0.5, name
            checked[name.split(".")[0]] += 1
    for one, other in ((model.g_ab, model.g_ba), (model.d_a, model.d_b)):
        assert not torch.equal(next(one.parameters()), next(other.parameters()))
    assert set(checked) == {"g_ab", "g_ba", "d_a", "d_b"}
    assert min(checked.values()) >= 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 28}, "size: input should be greater than or equal to 32, not 28"),
        ({"size": 130}, "size: input should be a multiple of 4, not 130"),
        (
            {"objective": "wgan"},
            "objective: input should be 'least_squares', 'cross_entropy' or 'hinge', not 'wgan'",
        ),
        ({"lambda_a": 10}, "lambda_a: extra inputs are not permitted, not 10"),
        ({"cycle_weight": -1}, "cycle_weight: input should be greater than or equal to 0, not -1"),
        ({"ema_decay": 1}, "ema_decay: input should be less than 1, not 1"),
        ({"decay_share": 1.5}, "decay_share: input should be less than or equal to 1, not 1.5"),
    ],
)
def test_wrong_config_is_one_line(wrong, message):
    """A wrong value or an unknown name is one line: the field, what it may be and what was given."""
    with pytest.raises(parameters.ParameterError) as caught:
        parameters.make(CycleGANConfig, wrong)
    assert str(caught.value) == message


def test_pictures_survive_the_conversion():
    """Every byte value lies in [-1, 1] inside, comes back the same, and what lies outside is clamped."""
    bytes_ = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    x = CycleGAN.to_network(bytes_)
    assert (x.min(), x.max()) == (-1, 1)
    assert torch.equal(CycleGAN.to_pictures(x), bytes_)
    assert CycleGAN.to_pictures(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]
    assert CycleGAN.to_pictures(torch.tensor([-1.0, 0.0, 1.0]).bfloat16()).tolist() == [0, 128, 255]


# ---- on a small machine


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "limit"), [("full", None), ("cpu", 4e9)])
def test_published_sizes_fit_a_small_machine(tmp_path, preset, limit):
    """Presets' networks take a step in two CPU threads, losses finite; the CPU's own takes two in less than 4 GB."""
    steps = 2 if limit else 1
    values = yaml.safe_load((ROOT / "notebooks" / "presets" / preset / "01_cyclegan.yaml").read_text())
    config = {name: value for name, value in values.items() if name in CycleGANConfig.model_fields}
    script = tmp_path / "steps.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import json, resource, sys, torch
            torch.set_num_threads(2)
            from hw2lib import training
            from hw2lib.cyclegan import CycleGAN, CycleGANConfig
            config = CycleGANConfig(**{config!r})
            model = CycleGAN(config)
            training.keep_freed_memory()
            model.setup(training.machine("cpu", "32"), 2)
            batch = torch.randint(0, 256, (2, 1, 3, config.size, config.size), dtype=torch.uint8)
            losses = [float(value) for _ in range({steps}) for value in model.step(batch).values()]
            unit = 1 if sys.platform == "darwin" else 1024
            peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(json.dumps({{"losses": losses, "peak": peak, "blocks": config.blocks}}))
            """
        )
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["blocks"] == (9 if preset == "full" else 6)
    assert len(found["losses"]) >= 10 * steps and np.isfinite(found["losses"]).all()
    assert limit is None or found["peak"] < limit, f"{found['peak'] / 1e9:.2f} GB"
