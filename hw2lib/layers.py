"""Layers that more than one network has."""

import torch.nn.functional as F
from torch import Tensor, nn


class TransposedConv2d(nn.ConvTranspose2d):
    """A transposed convolution that adds its bias apart: oneDNN takes that gradient by a slow reference loop."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv_transpose2d(x, self.weight, None, self.stride, self.padding, self.output_padding)
        return y + self.bias.to(y.dtype)[:, None, None]
