"""Generators and discriminators: what they are made of, what they see, and the norm inside."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hw2lib.networks import (
    InstanceNorm,
    PatchDiscriminator,
    PictureDiscriminator,
    ResidualBlock,
    ResnetGenerator,
    TransposedConv2d,
    UnetGenerator,
)


@pytest.fixture
def without_norm(monkeypatch):
    """Instance norm lets every pixel see all others of its map; taken out, only convolutions look around."""
    monkeypatch.setattr(InstanceNorm, "forward", lambda self, x: x)


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


@pytest.mark.parametrize(
    ("network", "sizes", "known"),
    [
        (ResnetGenerator, (64, 9), 11_378_179),
        (ResnetGenerator, (64, 6), 7_837_699),
        (UnetGenerator, (64, 8), 54_409_603),
        (UnetGenerator, (64, 7), 41_825_667),
        (PatchDiscriminator, (64,), 2_764_737),
        (PictureDiscriminator, (64, 256), 11_154_369),
    ],
)
def test_networks_have_the_papers_numbers_of_weights(network, sizes, known):
    """As many as in the reference implementations of CycleGAN and pix2pix; the last is ours, summed up by hand."""
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in network(*sizes).parameters()) == known


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
def test_unet_is_pix2pix_s_recursion(depth, plain_norm):
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


@pytest.mark.parametrize("size", [32, 36, 64])
def test_picture_discriminator_sees_everything(size, without_norm):
    """Its one judgement of a picture depends on every pixel, also where 2 does not divide the size often."""
    x = noise(2, 3, size, size).double().requires_grad_()
    y = PictureDiscriminator(2, size).double()(x)
    assert y.shape == (2, 1, 1, 1)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert (gradient != 0).any(1).all()


@pytest.mark.parametrize("size", [32, 36, 64, 256])
def test_shapes(size):
    """Generators keep the shape, within [-1, 1]; discriminators give a map, 30 x 30 at 256 pixels, or one number."""
    x = noise(2, 3, size, size)
    with torch.no_grad():
        for generator in (ResnetGenerator(1, 1), UnetGenerator(1, 2)):
            y = generator(x)
            assert y.shape == x.shape and y.abs().max() <= 1
        assert PatchDiscriminator(1)(x).shape == (2, 1, size // 8 - 2, size // 8 - 2)
        assert PictureDiscriminator(1, size)(x).shape == (2, 1, 1, 1)


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


# ---- instance norm


def maps(batch, memory_format=torch.contiguous_format):
    """Three maps a picture: of a large mean, of a plain one, and so even that epsilon counts."""
    scale, shift = torch.tensor([[3.0, 1.0, 0.004], [5.0, -1.0, 0.0]])[:, :, None, None]
    return (noise(batch, 3, 9, 7) * scale + shift).contiguous(memory_format=memory_format)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_instance_norm_is_the_formula(batch, memory_format, dtype, plain_norm):
    """Values and gradients are those of the formula in float64, for either layout and any batch; bf16 only rounds."""
    x = maps(batch, memory_format).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    towards = noise(batch, 3, 9, 7, seed=1).to(dtype).contiguous(memory_format=memory_format)
    y, expected = InstanceNorm()(x), plain_norm(exact)
    assert y.dtype == dtype
    if dtype == torch.float32:
        torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-5)
    else:  # mean, deviation and result are rounded
        offset = exact.mean((2, 3), keepdim=True).abs() / exact.std((2, 3), keepdim=True)
        assert ((y.double() - expected).abs() <= 2.0**-8 * (2 * expected.abs() + 3 * offset) + 1e-4).all()
    (gradient,) = torch.autograd.grad(y, x, towards)
    (wanted,) = torch.autograd.grad(expected, exact, towards.double())
    for channel in range(3):  # their sizes differ by three orders
        error = (gradient[:, channel] - wanted[:, channel]).norm() / wanted[:, channel].norm()
        assert error < (1e-4 if dtype == torch.float32 else 0.01), channel


@pytest.mark.parametrize("batch", [1, 2])
def test_a_map_of_one_pixel_cannot_be_normalised(batch):
    """Maps of a single pixel are refused instead of becoming 0."""
    with pytest.raises(ValueError, match="more than 1 "):
        InstanceNorm()(noise(batch, 3, 1, 1))
