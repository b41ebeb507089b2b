"""CycleGAN: each test states a claim, most of them details that re-implementations get wrong."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from hw2lib import cyclegan, parameters
from hw2lib.cyclegan import CycleGAN, CycleGANConfig, ImagePool, discriminator_loss, generator_loss
from hw2lib.data import batches
from hw2lib.evaluation import translations as translation
from hw2lib.networks import (
    InstanceNorm,
    PatchDiscriminator,
    PictureDiscriminator,
    ResidualBlock,
    ResnetGenerator,
    TransposedConv2d,
    UnetGenerator,
)
from hw2lib.training import devices, runs, weights
from hw2lib.training import loop as training

SMALL = {"size": 32, "base_channels": 2, "blocks": 1}
ROOT = Path(runs.__file__).parents[1]


def ready(precision="32", total_steps=20, **options):
    model = CycleGAN(CycleGANConfig(**SMALL | options))
    model.setup(devices.machine("cpu", precision), total_steps)
    return model.train()


@pytest.fixture
def pair(pictures):
    """Two pictures of each domain, uint8 (2, 3, 32, 32)."""
    return pictures[:2], pictures[2:4]


@pytest.fixture
def without_norm(monkeypatch):
    """Instance norm lets every pixel see all others of its map; taken out, only convolutions look around."""
    monkeypatch.setattr(InstanceNorm, "forward", lambda self, x: x)


def plain_norm(x):
    """Instance norm as its formula says."""
    centred = x - x.mean((2, 3), keepdim=True)
    return centred / (centred.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()


def noise(*shape, seed=0):
    """Random numbers in [-1, 1), float32."""
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1


def small_networks():
    return [
        ResnetGenerator(2, 1),
        UnetGenerator(2, 3),
        PatchDiscriminator(2),
        PictureDiscriminator(2, 32),
    ]


def kind(network):
    return type(network).__name__


# ---- what the networks are made of


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def conv(inputs, outputs, side):
    """Weights of a convolution, with its biases."""
    return inputs * outputs * side**2 + outputs


@pytest.mark.parametrize(("k", "blocks", "known"), [(64, 9, 11_378_179), (64, 6, 7_837_699), (5, 2, None)])
def test_resnet_generator_has_the_paper_s_weights(k, blocks, known):
    """c7s1-k, d2k, d4k, R4k, u2k, uk, c7s1-3 add up to the reference implementation's number of weights."""
    with torch.device("meta"):
        found = count(ResnetGenerator(k, blocks))
    ends = conv(3, k, 7) + conv(k, 2 * k, 3) + conv(2 * k, 4 * k, 3)
    ends += conv(4 * k, 2 * k, 3) + conv(2 * k, k, 3) + conv(k, 3, 7)
    assert found == ends + blocks * 2 * conv(4 * k, 4 * k, 3)
    assert known is None or found == known


@pytest.mark.parametrize(("k", "known"), [(64, 2_764_737), (3, None)])
def test_patch_discriminator_has_the_paper_s_weights(k, known):
    """C64-C128-C256-C512 and a convolution to one channel add up to the reference's number of weights."""
    with torch.device("meta"):
        found = count(PatchDiscriminator(k))
    assert found == conv(3, k, 4) + conv(k, 2 * k, 4) + conv(2 * k, 4 * k, 4) + conv(4 * k, 8 * k, 4) + conv(
        8 * k, 1, 4
    )
    assert known is None or found == known


@pytest.mark.parametrize(("k", "depth", "known"), [(64, 8, 54_409_603), (64, 7, 41_825_667), (3, 2, None)])
def test_unet_generator_has_pix2pix_s_weights(k, depth, known):
    """Channels double down to 8k, all ways up but the deepest take twice as many: it adds up to that."""
    with torch.device("meta"):
        found = count(UnetGenerator(k, depth))
    channels = [3, k, 2 * k, 4 * k, 8 * k, 8 * k, 8 * k, 8 * k, 8 * k][: depth + 1]
    down = sum(conv(inputs, outputs, 4) for inputs, outputs in pairwise(channels))
    up = conv(channels[-1], channels[-2], 4)
    up += sum(conv(2 * inputs, outputs, 4) for outputs, inputs in pairwise(channels[:-1]))
    assert found == down + up
    assert known is None or found == known


def test_picture_discriminator_halves_to_four_pixels():
    """Of 256 pixels six halvings leave 4 x 4, which one convolution judges: the weights add up to that."""
    with torch.device("meta"):
        found = count(PictureDiscriminator(64, 256))
    channels = [3, 64, 128, 256, 512, 512, 512]
    assert found == sum(conv(inputs, outputs, 4) for inputs, outputs in pairwise(channels)) + conv(512, 1, 4)


def described(network):
    """Its layers in order, one word each."""
    words = {
        nn.ReflectionPad2d: lambda layer: f"reflect{layer.padding[0]}",
        nn.Conv2d: lambda layer: "conv{}-{}k{}s{}p{}".format(*numbers(layer)),
        TransposedConv2d: lambda layer: "up{}-{}k{}s{}p{}".format(*numbers(layer)),
        nn.LeakyReLU: lambda layer: f"leaky{layer.negative_slope}",
    }
    leaves = [layer for layer in network.modules() if not list(layer.children())]
    assert all(getattr(layer, "padding_mode", "zeros") == "zeros" for layer in leaves)
    return [words.get(type(layer), lambda layer: kind(layer).lower())(layer) for layer in leaves]


def numbers(layer):
    return (
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size[0],
        layer.stride[0],
        layer.padding[0],
    )


def test_resnet_generator_layer_by_layer():
    """Borders are reflected at the ends and in blocks, zero in strided layers; norms but at the end."""
    norm_relu = ["instancenorm", "relu"]
    block = ["reflect1", "conv32-32k3s1p0", *norm_relu, "reflect1", "conv32-32k3s1p0", "instancenorm"]
    down = ["conv8-16k3s2p1", *norm_relu, "conv16-32k3s2p1", *norm_relu]
    up = ["up32-16k3s2p1", *norm_relu, "up16-8k3s2p1", *norm_relu]
    expected = ["reflect3", "conv3-8k7s1p0", *norm_relu, *down, *block, *block, *up]
    assert described(ResnetGenerator(8, 2)) == [*expected, "reflect3", "conv8-3k7s1p0", "tanh"]


def test_patch_discriminator_layer_by_layer():
    """No norm in first and last layer, the two last of stride 1, LeakyReLU 0.2, zero borders, no sigmoid."""
    first = ["conv3-8k4s2p1", "leaky0.2"]
    middle = ["conv8-16k4s2p1", "conv16-32k4s2p1", "conv32-64k4s1p1"]
    expected = first + [word for layer in middle for word in (layer, "instancenorm", "leaky0.2")]
    assert described(PatchDiscriminator(8)) == [*expected, "conv64-1k4s1p1"]


def test_a_residual_block_adds_to_its_input():
    """With weights 0 a block is the identity, also for negative numbers: nothing comes after the sum."""
    block, x = ResidualBlock(4), noise(2, 4, 6, 6)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(block(x), x)


def test_reflected_borders_leave_no_edge(without_norm):
    """What both ends and the blocks of the ResNet make of a constant picture is constant up to the border."""
    layers = list(ResnetGenerator(4, 1))
    parts = {
        "start": (nn.Sequential(*layers[:2]), 3),
        "block": (next(layer for layer in layers if isinstance(layer, ResidualBlock)), 16),
        "end": (nn.Sequential(*layers[-3:]), 4),
    }
    for name, (part, channels) in parts.items():
        y = part(noise(channels, 1, 1).expand(1, -1, 8, 8))
        torch.testing.assert_close(y, y[:, :, 4:5, 4:5].expand_as(y), rtol=1e-5, atol=1e-6, msg=name)
        assert y.abs().max() > 1e-3


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_unet_is_pix2pix_s_recursion(depth):
    """Each level is down, the one below, up, beside its own input; no norm at the edge and at the bottom."""
    network, x = UnetGenerator(3, depth).double(), noise(2, 3, 64, 64).double()

    def level(number, x):
        down, up = network.down[number][1], network.up[number][1]
        inner = F.leaky_relu(x, 0.2) if number else x
        inner = F.conv2d(inner, down.weight, down.bias, stride=2, padding=1)
        if number < depth - 1:
            inner = level(number + 1, plain_norm(inner) if number else inner)
        y = F.conv_transpose2d(inner.relu(), up.weight, up.bias, stride=2, padding=1)
        return torch.cat([x, plain_norm(y)], 1) if number else y.tanh()

    torch.testing.assert_close(network(x), level(0, x))


def test_transposed_convolution_is_that_of_torch():
    """Adding the bias apart changes neither values nor gradients of a transposed convolution."""
    ours = TransposedConv2d(3, 5, 3, stride=2, padding=1, output_padding=1).double()
    theirs = nn.ConvTranspose2d(3, 5, 3, stride=2, padding=1, output_padding=1).double()
    theirs.load_state_dict(ours.state_dict())
    found = []
    for layer in (ours, theirs):
        x = noise(2, 3, 6, 6).double().requires_grad_()
        y = layer(x)
        found.append((y, *torch.autograd.grad(y.sin().sum(), (x, layer.weight, layer.bias))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


# ---- what the networks see


def test_a_patch_is_70_pixels_wide(without_norm):
    """An output of the patch discriminator depends on 70 x 70 pixels, by its gradient and by recursion."""
    network = PatchDiscriminator(2).double()
    x = noise(1, 3, 144, 144).double().requires_grad_()
    y = network(x)
    (gradient,) = torch.autograd.grad(y[0, 0, 8, 8], x)
    seen = gradient.abs().sum((0, 1)) > 0
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    assert (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1) == (70, 70)
    assert seen.sum() == 70 * 70
    field = 1
    for layer in reversed([layer for layer in network if isinstance(layer, nn.Conv2d)]):
        field = (field - 1) * layer.stride[0] + layer.kernel_size[0]
    assert field == 70


def test_a_picture_of_256_pixels_has_30_by_30_patches():
    """The map of the patch discriminator for 256 pixels is 30 x 30, of one channel."""
    with torch.no_grad():
        assert PatchDiscriminator(1)(noise(1, 3, 256, 256)).shape == (1, 1, 30, 30)


@pytest.mark.parametrize("size", [32, 36, 64])
def test_picture_discriminator_sees_everything(size, without_norm):
    """Its one judgement of a picture depends on every pixel, also where 2 does not divide the size often."""
    x = noise(2, 3, size, size).double().requires_grad_()
    y = PictureDiscriminator(2, size).double()(x)
    assert y.shape == (2, 1, 1, 1)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert (gradient != 0).any(1).all()


@pytest.mark.parametrize("size", [32, 36, 64])
@pytest.mark.parametrize(("generator", "discriminator"), [("resnet", "patch"), ("unet", "picture")])
def test_shapes(size, generator, discriminator):
    """Generators keep the shape, within [-1, 1]; discriminators give a map, or one number a picture."""
    config = SMALL | {"size": size, "generator": generator, "discriminator": discriminator}
    model = CycleGAN(CycleGANConfig(**config))
    x = noise(2, 3, size, size)
    with torch.no_grad():
        y, judged = model.g_ab(x), model.d_b(x)
    assert y.shape == x.shape
    assert y.abs().max() <= 1
    assert judged.shape == ((2, 1, size // 8 - 2, size // 8 - 2) if discriminator == "patch" else (2, 1, 1, 1))


def test_unet_goes_down_as_often_as_two_divides_the_size():
    """At 256 pixels the depth is 8, at 128 it is 7, at 36 only 2; it never exceeds 8."""
    sizes = {256: 8, 128: 7, 36: 2, 96: 5, 512: 8}
    with torch.device("meta"):
        for size, depth in sizes.items():
            options = {"size": size, "base_channels": 1, "blocks": 1, "generator": "unet", "ema_decay": 0}
            assert len(CycleGAN(CycleGANConfig(**options)).g_ab.down) == depth


@pytest.mark.parametrize("network", small_networks(), ids=kind)
def test_pictures_of_a_batch_do_not_see_each_other(network):
    """A picture's output is the same alone and in company, and has no gradient for its neighbours."""
    x = noise(3, 3, 32, 32).requires_grad_()
    y = network(x)
    torch.testing.assert_close(y[1:2], network(x[1:2]), rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(y[1].square().sum(), x)
    assert (gradient[0] == 0).all() and (gradient[2] == 0).all() and (gradient[1] != 0).any()


@pytest.mark.parametrize("network", small_networks(), ids=kind)
def test_training_and_use_are_the_same(network):
    """Training mode leaves no trace and changes no output; only convolutions' weights are to be saved."""
    x = noise(2, 3, 32, 32)
    with torch.no_grad():
        trained = network.train()(x)
        assert torch.equal(network.eval()(x), trained)
    kernels = [n for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert set(network.state_dict()) == {f"{n}.{part}" for n in kernels for part in ("weight", "bias")}


@pytest.mark.parametrize("options", [{}, {"generator": "unet", "discriminator": "picture"}])
def test_first_weights_are_those_of_the_paper(options):
    """Every weight of all four networks comes from N(0, 0.02), every bias is 0."""
    model = CycleGAN(CycleGANConfig(size=32, base_channels=16, blocks=1, ema_decay=0, **options))
    checked = Counter()
    for name, values in model.named_parameters():
        if name.endswith("bias"):
            assert (values == 0).all(), name
        elif values.numel() >= 1000:
            assert 0.018 < values.std() < 0.022, name
            assert values.mean().abs() < 5 * 0.02 / values.numel() ** 0.5, name
            checked[name.split(".")[0]] += 1
    assert set(checked) == {"g_ab", "g_ba", "d_a", "d_b"}
    assert min(checked.values()) >= 2


def test_first_weights_depend_on_the_config_alone():
    """Models of one config are equal and leave torch's chance alone; seeds, and the directions, differ."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = CycleGAN(CycleGANConfig(**SMALL)).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = CycleGAN(CycleGANConfig(**SMALL)).state_dict()
    other = CycleGAN(CycleGANConfig(**SMALL, seed=1)).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in one.items())
    kernels = [name for name in one if name.endswith("weight")]
    assert not any(torch.equal(one[name], other[name]) for name in kernels)
    for mine, its in (("g_ab.", "g_ba."), ("d_a.", "d_b.")):
        assert not any(torch.equal(one[n], one[n.replace(mine, its)]) for n in kernels if n.startswith(mine))


# ---- instance norm


def maps(batch, memory_format=torch.contiguous_format):
    """Three maps a picture: of a large mean, of a plain one, and so even that epsilon counts."""
    scale, shift = torch.tensor([[3.0, 1.0, 0.004], [5.0, -1.0, 0.0]])[:, :, None, None]
    return (noise(batch, 3, 9, 7) * scale + shift).contiguous(memory_format=memory_format)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_instance_norm_is_the_formula(batch, memory_format):
    """Values and gradients are those of the formula in float64, for either layout and any batch."""
    x = maps(batch, memory_format).requires_grad_()
    exact = x.detach().double().requires_grad_()
    towards = noise(batch, 3, 9, 7, seed=1).contiguous(memory_format=memory_format)
    y, expected = InstanceNorm()(x), plain_norm(exact)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(y, x, towards)
    (wanted,) = torch.autograd.grad(expected, exact, towards.double())
    for channel in range(3):  # their sizes differ by three orders
        error = (gradient[:, channel] - wanted[:, channel]).norm() / wanted[:, channel].norm()
        assert error < 1e-4, channel


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_instance_norm_in_bf16_only_rounds(batch, memory_format):
    """In bf16 values are the formula's but for rounding mean, deviation, result; gradients are close."""
    x = maps(batch, memory_format).bfloat16().requires_grad_()
    exact = x.detach().double().requires_grad_()
    y, expected = InstanceNorm()(x), plain_norm(exact)
    assert y.dtype == torch.bfloat16
    offset = exact.mean((2, 3), keepdim=True).abs() / exact.std((2, 3), keepdim=True)
    assert ((y.double() - expected).abs() <= 2.0**-8 * (2 * expected.abs() + 3 * offset) + 1e-4).all()
    towards = noise(batch, 3, 9, 7, seed=1).bfloat16()
    (gradient,) = torch.autograd.grad(y, x, towards)
    (wanted,) = torch.autograd.grad(expected, exact, towards.double())
    for channel in range(3):
        error = (gradient[:, channel] - wanted[:, channel]).norm() / wanted[:, channel].norm()
        assert error < 0.01, channel


@pytest.mark.parametrize("batch", [1, 2])
def test_a_map_of_one_pixel_cannot_be_normalised(batch):
    """Maps of a single pixel are refused instead of becoming 0."""
    with pytest.raises(ValueError, match="more than 1 "):
        InstanceNorm()(noise(batch, 3, 1, 1))


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


def test_least_squares_are_means_of_squares():
    """Patches of 0 and 2 are 1 each away from 1: a generator loses 1, where a square of means would be 0."""
    uneven = torch.tensor([0.0, 2.0]).view(1, 1, 1, 2)
    assert generator_loss("least_squares", uneven) == 1
    assert discriminator_loss("least_squares", uneven, 1 - uneven) == 1


def test_the_balance():
    """Where a discriminator cannot tell it says 1/2 and both lose 1/4; by cross-entropy both lose log 2."""
    even = torch.full((1, 1, 3, 3), 0.5)
    assert generator_loss("least_squares", even) == 0.25
    assert discriminator_loss("least_squares", even, even) == 0.25
    nothing = torch.zeros(1, 1, 3, 3)
    assert generator_loss("cross_entropy", nothing).item() == pytest.approx(np.log(2))
    assert discriminator_loss("cross_entropy", nothing, nothing).item() == pytest.approx(np.log(2))


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


@contextmanager
def threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def reference(config, batch):
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


def stepped(config, batch, precision, number_of_threads):
    """What a first step reports, and the gradients that it hands to the optimisers."""
    model = CycleGAN(config)
    with threads(number_of_threads):
        model.setup(devices.machine("cpu", precision), total_steps=20)
        terms = model.train().step(batch)
    assert not any(term.requires_grad for term in terms.values())
    gradients = {name: [p.grad for p in its] for name, its in model.parameters_of.items()}
    return {name: term.item() for name, term in terms.items()}, gradients


def flat(gradients):
    return torch.cat([gradient.flatten().double() for gradient in gradients])


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("identity", [0, 0.5])
@pytest.mark.parametrize(("generator", "discriminator"), [("resnet", "patch"), ("unet", "picture")])
def test_a_step_is_that_of_float64(pair, size, identity, generator, discriminator):
    """Terms and gradients are the objective's in float64, weighted 10 and 5; two threads change no bit."""
    config = CycleGANConfig(
        **SMALL | {"base_channels": 4},
        generator=generator,
        discriminator=discriminator,
        identity_weight=identity,
    )
    batch = [part[:size] for part in pair]
    expected, wanted = reference(config, batch)
    for precision in ("32", "bf16"):
        found, gradients = stepped(config, batch, precision, 1)
        near = {"rel": 1e-4, "abs": 1e-5} if precision == "32" else {"rel": 0.05, "abs": 0.02}
        assert found == pytest.approx(expected, **near), precision
        for name, ours in gradients.items():
            error = (flat(ours) - flat(wanted[name])).norm() / flat(wanted[name]).norm()
            likeness = F.cosine_similarity(flat(ours), flat(wanted[name]), dim=0)
            assert error < 1e-3 if precision == "32" else likeness > 0.9, (precision, name, error, likeness)
        parallel, its = stepped(config, batch, precision, 2)
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


@pytest.mark.parametrize("objective", ["cross_entropy", "hinge"])
def test_a_step_has_the_objective_it_was_given(pair, objective):
    """With another objective, too, terms and gradients are those of float64."""
    config = CycleGANConfig(**SMALL, objective=objective)
    expected, wanted = reference(config, pair)
    found, gradients = stepped(config, pair, "32", 1)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for name, ours in gradients.items():
        assert (flat(ours) - flat(wanted[name])).norm() < 1e-3 * flat(wanted[name]).norm(), name


def test_two_threads_share_the_directions(pair):
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


class Keeps(nn.Module):
    """A translator that leaves pictures of positive (or negative) values alone and makes all others grey."""

    def __init__(self, sign):
        super().__init__()
        self.sign, self.shift = sign, nn.Parameter(torch.zeros(1, 1, 1, 1))

    def forward(self, x):
        return self.sign * F.relu(self.sign * x) + self.shift


def test_identity_is_asked_for_on_the_target_domain(pictures):
    """Translators that leave their target domain alone, and nothing else, have identity losses of 0."""
    dark, bright = pictures[:2] // 4, 255 - pictures[2:4] // 4
    model = CycleGAN(CycleGANConfig(**SMALL, identity_weight=0.5, ema_decay=0))
    model.g_ab, model.g_ba = Keeps(1), Keeps(-1)
    model.setup(devices.machine("cpu", "32"), total_steps=20)
    terms = model.step((dark, bright))
    assert (terms["identity_a"], terms["identity_b"]) == (0, 0)
    assert terms["cycle_a"] > 0.1 and terms["cycle_b"] > 0.1


@pytest.mark.parametrize("source", ["a", "b"])
def test_each_cycle_trains_both_generators(pair, source, monkeypatch):
    """The cycle error of one domain alone has a gradient for every convolution of both generators."""
    monkeypatch.setattr(cyclegan, "generator_loss", lambda objective, fake: 0 * fake.mean())
    model = ready()
    there, target = (model.to_network(part) for part in (pair if source == "a" else reversed(pair)))
    _, terms, gradients = model._translation(source, there, target)
    assert set(terms) == {f"cycle_{source}", "g_ab" if source == "a" else "g_ba"}
    kernels = [gradient for gradient in gradients if gradient.dim() == 4]
    assert len(kernels) == 2 * sum(isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)) for m in model.g_ab.modules())
    assert all(gradient.norm() > 1e-4 for gradient in kernels)


def test_each_update_is_of_its_own_networks(pair):
    """The generators' update leaves discriminators alone, without gradients; theirs leaves the generators."""
    model, seen = ready(), []
    names = ("g_ab", "g_ba", "d_a", "d_b")

    def state():
        return {name: [p.detach().clone() for p in getattr(model, name).parameters()] for name in names}

    def watch(kind, before):
        model.optimizers[kind].register_step_pre_hook(lambda *_: before.update(state()))

        def after(*_):
            now = state()
            changed = {n for n in names if not all(map(torch.equal, before[n], now[n]))}
            seen.append((kind, changed))
            if kind == "generators":
                graded = [p.grad is not None for p in model.parameters_of["discriminators"]]
                assert not any(graded)

        model.optimizers[kind].register_step_post_hook(after)

    watch("generators", {})
    watch("discriminators", {})
    model.step(pair)
    assert seen == [("generators", {"g_ab", "g_ba"}), ("discriminators", {"d_a", "d_b"})]


def test_discriminators_see_the_pools_pictures(pair, monkeypatch):
    """Pools are given the newest translations into their domains, and what they hand on is judged.

    In the generators' step a discriminator is frozen and passes gradients on; in its own they end there.
    """
    model, given, judged, learns = ready(), {}, {"a": [], "b": []}, []
    with torch.no_grad():
        a, b = (model.to_network(part) for part in pair)
        expected = {"a": model.g_ba(b), "b": model.g_ab(a)}
    real, old = {"a": a, "b": b}, {"a": noise(2, 3, 32, 32, seed=3), "b": noise(2, 3, 32, 32, seed=4)}
    for domain in "ab":
        pool, judge = getattr(model, f"pool_{domain}"), getattr(model, f"d_{domain}")
        monkeypatch.setattr(pool, "forward", lambda fakes, domain=domain: given.update({domain: fakes}) or old[domain])
        judge.register_forward_pre_hook(lambda _, inputs, domain=domain: judged[domain].append(inputs[0]))
        judge.register_forward_pre_hook(lambda judge, _: learns.append({p.requires_grad for p in judge.parameters()}))
    model.step(pair)
    assert learns == [{False}, {False}, {True}, {True}]
    for domain in "ab":
        torch.testing.assert_close(given[domain], expected[domain], rtol=1e-3, atol=1e-4)
        in_generators_step, in_own_step = judged[domain]
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
    pool = ImagePool(2)
    fakes = tagged(1, 2).requires_grad_()
    handed_on = pool(fakes * 1)
    assert not handed_on.requires_grad
    plain = tagged(1, 2)
    pool = ImagePool(2)
    pool(plain)
    plain.zero_()
    assert tags(pool.pictures) == [1, 2]


def test_a_swapped_in_picture_is_a_copy():
    """A picture that takes an old one's place is copied, too."""
    pool = ImagePool(1)
    pool(tagged(0))
    torch.manual_seed(0)
    for tag in range(1, 20):
        newest = tagged(tag)
        pool(newest)
        newest.fill_(-1)
    (kept,) = tags(pool.pictures)
    assert kept > 0


def test_a_pool_of_size_0_is_no_pool():
    """Without room the newest pictures are handed on, detached, and nothing is kept."""
    pool = ImagePool(0)
    for tag in range(20):
        handed_on = pool(tagged(tag).requires_grad_())
        assert tags(handed_on) == [tag]
        assert not handed_on.requires_grad
    assert pool.pictures == []


def test_a_pool_is_seeded_by_torch():
    """The same seed gives the same swaps, another seed others."""
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        pool = ImagePool(5)
        found.append(tags(pool(tagged(*range(60)))))
    assert found[0] == found[1] != found[2]


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


# ---- rates and averages


def rates(model, name, steps):
    found = []
    for _ in range(steps):
        found.append(model.optimizers[name].param_groups[0]["lr"])
        model.optimizers[name].step()
        model.schedules[name].step()
    return found


@pytest.mark.parametrize("name", ["generators", "discriminators"])
def test_learning_rates(name):
    """The rate is constant for half of the steps, falls linearly to a tenth at the last of 20, then is 0."""
    model = ready(learning_rate=0.5)
    found = rates(model, name, 21)
    assert found[:10] == [0.5] * 10
    assert found[10:20] == pytest.approx([0.5 * (20 - step) / 10 for step in range(10, 20)])
    assert found[19] == pytest.approx(0.05)
    assert found[20] == 0
    assert rates(ready(learning_rate=0.5, decay_share=0), name, 20) == [0.5] * 20
    assert rates(ready(learning_rate=0.5, decay_share=1), name, 20) == pytest.approx(
        [0.5 * (20 - step) / 20 for step in range(20)]
    )


def test_a_step_is_one_of_the_schedule(pair):
    """Each step takes each schedule one step further."""
    model = ready()
    for step in (1, 2):
        model.step(pair)
        assert [schedule.last_epoch for schedule in model.schedules.values()] == [step, step]


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
    assert sum(isinstance(m, ResidualBlock) for m in CycleGAN(CycleGANConfig(**SMALL | {"blocks": 3})).g_ab) == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 28}, "size: input should be greater than or equal to 32, not 28"),
        ({"size": 130}, "size: input should be a multiple of 4, not 130"),
        (
            {"objective": "wgan"},
            "objective: input should be 'least_squares', 'cross_entropy' or 'hinge', not 'wgan'",
        ),
        ({"generator": "vit"}, "generator: input should be 'resnet' or 'unet', not 'vit'"),
        ({"lambda_a": 10}, "lambda_a: extra inputs are not permitted, not 10"),
        ({"cycle_weight": -1}, "cycle_weight: input should be greater than or equal to 0, not -1"),
        ({"learning_rate": 0}, "learning_rate: input should be greater than 0, not 0"),
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


# ---- weights on disk


@pytest.fixture
def trained(pair, tmp_path):
    """A model with pictures in its pools, and its weights file."""
    model = ready(pool_size=3, seed=3)
    for _ in range(3):
        model.step(pair)
    weights.save(model, tmp_path / "w" / "cyclegan.safetensors")
    return model, tmp_path / "w" / "cyclegan.safetensors"


def rewritten(path, change):
    """The same file with other tensors, `change` of those that it has."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    other = path.with_name("other.safetensors")
    save_file(change(load_file(path)), other, metadata=metadata)
    return other


def test_weights_round_trip(trained):
    """A saved model comes back bit for bit, in eval mode, with config, averages and pools."""
    model, path = trained
    again = CycleGAN.load(path)
    assert again.config == model.config
    assert not again.training
    assert len(again.pool_a.pictures) == 3
    assert set(again.state_dict()) == set(model.state_dict())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_generators_alone_are_enough_for_use(trained, pair):
    """A file without discriminators and pools loads, and translates as the whole one does."""
    model, path = trained
    needed = ("g_ab.", "g_ba.", "average_ab.", "average_ba.")
    few = rewritten(path, lambda tensors: {n: t for n, t in tensors.items() if n.startswith(needed)})
    again = CycleGAN.load(few)
    for averaged in (False, True):
        for ours, theirs in zip(model.generators(averaged), again.generators(averaged), strict=True):
            assert torch.equal(translation.translate(ours, pair[0]), translation.translate(theirs, pair[0]))


@pytest.mark.parametrize("part", ["g_ab.", "average_ba."])
def test_a_missing_generator_is_one_line(trained, part):
    """A file that lacks a generator, or a tensor of it, is refused in one line that names file and tensor."""
    _, path = trained
    first = next(name for name in load_file(path) if name.startswith(part))
    for lost in (part, first):
        other = rewritten(path, lambda tensors, lost=lost: {n: t for n, t in tensors.items() if not n.startswith(lost)})
        with pytest.raises(weights.WeightsError, match="tensors missing") as caught:
            CycleGAN.load(other)
        assert str(other) in str(caught.value)
        assert first in str(caught.value)
        assert "\n" not in str(caught.value)


def test_half_precision_files_load_as_float32(trained):
    """A file of float16 tensors gives a float32 model that is as near as float16 is."""
    model, path = trained
    half = CycleGAN.load(rewritten(path, lambda tensors: {n: t.half() for n, t in tensors.items()}))
    for ours, theirs in zip(model.parameters(), half.parameters(), strict=True):
        assert theirs.dtype == torch.float32
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-7)


# ---- the loop


def fit(folder, precision="32", *, name="small", **options):
    """Two epochs of six steps, with a pool that fills early, averages and an evaluation."""
    random = torch.Generator().manual_seed(7)
    a, b = (torch.randint(0, 256, (n, 3, 36, 36), dtype=torch.uint8, generator=random) for n in (6, 5))
    model = CycleGAN(CycleGANConfig(**SMALL, pool_size=3, ema_decay=0.9, identity_weight=0.5))
    tests = a[:2, :, :32, :32]
    run = training.fit(
        model,
        batches.Pairs(a, b, 32, seed=0),
        name=name,
        epochs=2,
        evaluate=lambda folder, epoch: {
            "mean": translation.translate(model.generators(True)[0], tests).double().mean().item()
        },
        device="cpu",
        precision=precision,
        runs=folder,
        **options,
    )
    return run, model


def contents(run):
    """What must be equal between an interrupted and an uninterrupted run."""
    return {name: (run.folder / name).read_bytes() for name in ("history.csv", "epochs.csv", "weights.safetensors")}


@pytest.mark.parametrize(
    ("stop_at", "how", "precision", "number"),
    [(2, "stopped", "32", 1), (9, "stopped", "32", 2), (6, "stopped", "bf16", 2), (10, "killed", "32", 2)],
)
def test_interrupted_anywhere_it_resumes_to_the_same_bits(tmp_path, monkeypatch, stop_at, how, precision, number):
    """History, scores, weights, averages and pools of a run in two parts are those of an unbroken one."""
    with threads(number):
        whole, model = fit(tmp_path / "whole", precision)
        step, taken = CycleGAN.step, []

        def interrupted(self, batch):
            taken.append(1)
            if len(taken) == stop_at:
                if how == "killed":  # in the middle of a step, as far from a checkpoint as can be
                    step(self, batch)
                    raise KeyboardInterrupt
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self, batch)

        monkeypatch.setattr(CycleGAN, "step", interrupted)
        with pytest.raises(training.Stopped if how == "stopped" else KeyboardInterrupt):
            fit(tmp_path / "broken", precision)
        torch.manual_seed(stop_at)
        run, resumed = fit(tmp_path / "broken", precision)
    assert contents(run) == contents(whole)
    saved = load_file(run.weights)
    assert len(saved["pool_a._extra_state"]) == len(saved["pool_b._extra_state"]) == 3
    assert any(name.startswith("average_ab.") for name in saved)
    assert [found["step"] for found in run.provenance["resumed"]] == [6 if how == "killed" else stop_at]
    states = ([one.optimizers[n].state_dict()["state"] for n in one.optimizers] for one in (model, resumed))
    for one, other in zip(*states, strict=True):
        assert all(torch.equal(one[i]["exp_avg"], other[i]["exp_avg"]) for i in one)


def test_two_runs_are_equal(tmp_path):
    """The same config and number of threads give the same bits, whatever the global random state was."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with threads(2):
            found.append(contents(fit(tmp_path / str(seed))[0]))
    assert found[0] == found[1]


def test_a_run_records_every_term(tmp_path):
    """The history has a row a step with every term of the step, the evaluations have a row an epoch."""
    run, _ = fit(tmp_path)
    assert run.history["step"].tolist() == list(range(1, 13))
    losses = {"g_ab", "g_ba", "cycle_a", "cycle_b", "identity_a", "identity_b", "d_a", "d_b"}
    judged = {"d_a_real", "d_a_fake", "d_b_real", "d_b_fake"}
    assert set(run.history) == {"epoch", "step"} | losses | judged
    assert run.epochs["step"].tolist() == [6, 12]


# ---- slow ones, in processes of their own


def in_process(script, *command):
    """Run a script with the package; returns what it prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, *command, str(script)],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


@pytest.mark.slow
def test_several_processes_train_the_same_networks(tmp_path):
    """Two processes that share each batch have, to rounding, the losses of one, and move weights alike."""
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import torch
            torch.set_num_threads(1)
            from hw2lib.data import unpaired
            from hw2lib.training import loop as training
            from hw2lib.cyclegan import CycleGAN, CycleGANConfig
            random = torch.Generator().manual_seed(7)
            a, b = torch.randint(0, 256, (2, 8, 3, 36, 36), dtype=torch.uint8, generator=random)
            training.fit(
                CycleGAN(CycleGANConfig(**{SMALL!r}, identity_weight=0.5)),
                batches.Pairs(a, b, 32, 0, batch_size=4),
                name="small", epochs=2, device="cpu", precision="32",
                runs="{tmp_path}/" + ("two" if torch.distributed.is_torchelastic_launched() else "one"),
            )
            """
        )
    )
    in_process(script)
    in_process(script, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    first = CycleGAN(CycleGANConfig(**SMALL, identity_weight=0.5)).state_dict()
    one, two = (load_file(next((tmp_path / name).glob("*/weights.safetensors"))) for name in ("one", "two"))
    for name in (name for name in first if name.endswith("weight")):
        moved = (one[name] - first[name]).norm()
        assert (two[name] - one[name]).norm() < 0.05 * moved, name
    histories = [runs.Table(next((tmp_path / name).glob("*/history.csv"))).read() for name in ("one", "two")]
    assert len(histories[0]["step"]) == 4
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "steps", "limit"), [("full", 2, None), ("cpu", 2, 4e9)])
def test_published_sizes_fit_a_small_machine(tmp_path, preset, steps, limit):
    """Presets' networks take two steps in two CPU threads, losses finite; the CPU's own in less than 4 GB."""
    values = yaml.safe_load((ROOT / "notebooks" / "presets" / preset / "01_cyclegan.yaml").read_text())
    config = {name: value for name, value in values.items() if name in CycleGANConfig.model_fields}
    script = tmp_path / "steps.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import json, resource, sys, torch
            torch.set_num_threads(2)
            from hw2lib.training import loop as training
            from hw2lib.cyclegan import CycleGAN, CycleGANConfig
            config = CycleGANConfig(**{config!r})
            model = CycleGAN(config)
            devices.keep_freed_memory()
            model.setup(devices.machine("cpu", "32"), {steps})
            batch = torch.randint(0, 256, (2, 1, 3, config.size, config.size), dtype=torch.uint8)
            losses = [float(value) for _ in range({steps}) for value in model.step(batch).values()]
            unit = 1 if sys.platform == "darwin" else 1024
            peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(json.dumps({{"losses": losses, "peak": peak, "blocks": config.blocks}}))
            """
        )
    )
    found = json.loads(in_process(script).splitlines()[-1])
    assert found["blocks"] == (9 if preset == "full" else 6)
    assert len(found["losses"]) >= 10 * steps and np.isfinite(found["losses"]).all()
    assert limit is None or found["peak"] < limit, f"{found['peak'] / 1e9:.2f} GB"


def test_blocks_of_the_paper_for_sizes_that_come_as_text():
    """A size that pydantic turns into a number has the paper's blocks, too."""
    assert CycleGANConfig(size="64").blocks == 6
    assert CycleGANConfig(size="256", blocks="3").blocks == 3
