"""The generators and discriminators of CycleGAN; pictures are (B, 3, H, W), float, about [-1, 1].

k is `base_channels`. Norms are instance norms without affine parameters or running statistics, so that no network
behaves differently in training and in use.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InstanceNorm(nn.Module):
    """Each map of each picture to mean 0 and variance 1 (Ulyanov et al. 2016, arXiv:1607.08022, without affine).

    Raises ValueError for maps of a single pixel, which would all become 0.
    """

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1 and x.device.type != "cpu":
            return F.instance_norm(x)
        # Picture by picture, since of one picture instance norm is batch norm. On a CPU that is several times as fast as
        # group norm in channels-last layout, where `F.instance_norm` of one picture has wrong gradients (torch 2.14).
        pictures = [F.batch_norm(one, None, None, training=True) for one in x.split(1)]
        return pictures[0] if len(pictures) == 1 else torch.cat(pictures)


def initialise(network: nn.Module) -> nn.Module:
    """Weights from N(0, 0.02), biases 0 (appendix 7.1 of the CycleGAN paper); returns the network."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            nn.init.zeros_(layer.bias)
    return network


class TransposedConv2d(nn.ConvTranspose2d):
    """A transposed convolution that adds its bias apart: oneDNN takes that gradient by a slow reference loop."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv_transpose2d(x, self.weight, None, self.stride, self.padding, self.output_padding)
        return y.add_(self.bias.to(y.dtype)[:, None, None])  # in place: y is large and nobody else's


# ---- generators


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with reflected borders; no ReLU after the sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            InstanceNorm(),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            InstanceNorm(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ResnetGenerator(nn.Sequential):
    """Residual blocks at a quarter of the resolution: (B, 3, H, W) to the same shape, H and W divisible by 4.

    c7s1-k, d2k, d4k, `blocks` times R4k, u2k, uk, c7s1-3 in the words of the CycleGAN paper's appendix 7.2, after
    Johnson, Alahi and Fei-Fei (2016), arXiv:1603.08155.
    """

    def __init__(self, base_channels: int = 64, blocks: int = 9):
        k = base_channels
        super().__init__(
            nn.ReflectionPad2d(3),
            nn.Conv2d(3, k, 7),  # (B, k, H, W)
            *_norm_relu(),
            nn.Conv2d(k, 2 * k, 3, stride=2, padding=1),  # (B, 2k, H / 2, W / 2)
            *_norm_relu(),
            nn.Conv2d(2 * k, 4 * k, 3, stride=2, padding=1),  # (B, 4k, H / 4, W / 4)
            *_norm_relu(),
            *(ResidualBlock(4 * k) for _ in range(blocks)),
            TransposedConv2d(4 * k, 2 * k, 3, stride=2, padding=1, output_padding=1),  # (B, 2k, H / 2, W / 2)
            *_norm_relu(),
            TransposedConv2d(2 * k, k, 3, stride=2, padding=1, output_padding=1),  # (B, k, H, W)
            *_norm_relu(),
            nn.ReflectionPad2d(3),
            nn.Conv2d(k, 3, 7),
            nn.Tanh(),
        )
        initialise(self)


def _norm_relu() -> tuple[nn.Module, nn.Module]:
    return InstanceNorm(), nn.ReLU(inplace=True)


class UnetGenerator(nn.Module):
    """Halve the resolution `depth` times and double it back, with a bridge at each: (B, 3, H, W) to the same shape.

    H and W divisible by 2 ** depth. The network of pix2pix (Isola et al. 2017, arXiv:1611.07004, appendix 6.1.1)
    without dropout; at the size 256 its depth is 8, at 128 it is 7.
    """

    def __init__(self, base_channels: int = 64, depth: int = 8):
        super().__init__()
        channels = [3, *(base_channels * min(2**level, 8) for level in range(depth))]
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.LeakyReLU(0.2) if level > 0 else nn.Identity(),
                nn.Conv2d(channels[level], channels[level + 1], 4, stride=2, padding=1),
                # neither the picture's edge nor a map of perhaps one pixel is normalised
                InstanceNorm() if 0 < level < depth - 1 else nn.Identity(),
            )
            for level in range(depth)
        )
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                TransposedConv2d(
                    channels[level + 1] * (1 if level == depth - 1 else 2),
                    channels[level],
                    4,
                    stride=2,
                    padding=1,
                ),
                InstanceNorm() if level > 0 else nn.Tanh(),
            )
            for level in range(depth)
        )
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        bridges: list[Tensor] = []
        for down in self.down:
            x = down(x)
            bridges.append(x)
        x = self.up[-1](bridges.pop())
        for up in reversed(self.up[:-1]):
            x = up(torch.cat([bridges.pop(), x], 1))
        return x


# ---- discriminators


class PatchDiscriminator(nn.Sequential):
    """Says of each 70 x 70 patch how real it looks: (B, 3, H, W) to a map (B, 1, H / 8 - 2, W / 8 - 2), no sigmoid.

    C64-C128-C256-C512 and a last convolution to one channel (appendix 7.2 of the CycleGAN paper, k = 64).
    """

    def __init__(self, base_channels: int = 64):
        k = base_channels
        super().__init__(
            *_halving(k, 3),  # (B, 4k, H / 8, W / 8)
            nn.Conv2d(4 * k, 8 * k, 4, padding=1),
            InstanceNorm(),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(8 * k, 1, 4, padding=1),
        )
        initialise(self)


class PictureDiscriminator(nn.Sequential):
    """Says of the whole picture how real it looks: (B, 3, H, W) to (B, 1, 1, 1); H = W = `size`, a multiple of 4.

    Halves the resolution as PatchDiscriminator does, as long as 2 divides the side and it is 8 or more; the last
    convolution sees the map that is left as a whole.
    """

    def __init__(self, base_channels: int = 64, size: int = 256):
        halvings, side = 0, size
        while side >= 8 and side % 2 == 0:
            halvings, side = halvings + 1, side // 2
        channels = base_channels * min(2 ** (halvings - 1), 8)
        super().__init__(*_halving(base_channels, halvings), nn.Conv2d(channels, 1, side))
        initialise(self)


def _halving(base_channels: int, times: int) -> Iterator[nn.Module]:
    """`times` convolutions of stride 2, from 3 channels to k, 2k, 4k, at most 8k; no norm in the first."""
    channels = [3, *(base_channels * min(2**level, 8) for level in range(times))]
    for level in range(times):
        yield nn.Conv2d(channels[level], channels[level + 1], 4, stride=2, padding=1)
        if level > 0:
            yield InstanceNorm()
        yield nn.LeakyReLU(0.2, inplace=True)
