"""What more than one network has: a layer, and gradients shared among processes."""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn


class TransposedConv2d(nn.ConvTranspose2d):
    """A transposed convolution that adds its bias apart: oneDNN takes that gradient by a slow reference loop."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv_transpose2d(x, self.weight, None, self.stride, self.padding, self.output_padding)
        return y + self.bias.to(y.dtype)[:, None, None]


def average_gradients(fabric, parameters: Iterable[nn.Parameter]) -> None:
    """Replace each parameter's gradient by its mean over all processes; with one process nothing happens."""
    if fabric.world_size > 1:
        for parameter in parameters:
            parameter.grad = fabric.all_reduce(parameter.grad, reduce_op="mean")
