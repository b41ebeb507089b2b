"""What a place of a code map sees of the others, found by gradients: nothing is taken from how a network is drawn.

A prior in raster order may see all places before the one that it gives, and no other. The gated PixelCNN does (van den
Oord et al. 2016, arXiv:1606.05328, figure 2); the PixelCNN of masked kernels (van den Oord, Kalchbrenner and Kavukcuoglu
2016, arXiv:1601.06759) leaves a blind spot to the right and above.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hw2lib.pixelcnn import GatedPixelCNN


def sees(logits: Tensor, x: Tensor) -> Tensor:
    """Bool (places, places): whether the logits at a place, row, have a gradient in x at a place, column.

    logits (places, K, H, W) and x (places, E, H, W) are as many equal maps as a map has places.
    """
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(logits.shape[1], generator=random, dtype=logits.dtype)
    own = torch.einsum("pkq,k->pq", logits.flatten(2), weight).diagonal().sum()
    return torch.autograd.grad(own, x)[0].abs().sum(1).flatten(1) > 0


def gated(prior: GatedPixelCNN) -> Tensor:
    """`sees` of a prior with its present weights, in float64, at a map of code 0 (of class 0)."""
    config = prior.config
    twin = GatedPixelCNN(config)
    twin.load_state_dict({name: value.detach().cpu() for name, value in prior.state_dict().items()})
    twin.double().eval()
    places = config.height * config.width
    codes = torch.zeros(places, config.height, config.width, dtype=torch.long)
    x = twin.embedding(codes).detach().permute(0, 3, 1, 2).requires_grad_()  # (places, E, H, W)
    twin.embedding.register_forward_hook(lambda *_: x.permute(0, 2, 3, 1))  # both stacks enter there
    return sees(twin(codes, torch.zeros(places, dtype=torch.long) if config.classes else None), x)


def masked(layers: int, height: int, width: int) -> Tensor:
    """`sees` of the plain PixelCNN: masked 3 x 3 convolutions of random weights, mask A in the first, then mask B."""
    random = torch.Generator().manual_seed(0)
    places = height * width
    x = torch.randn(1, 4, height, width, dtype=torch.float64, generator=random).repeat(places, 1, 1, 1)
    h = x.requires_grad_()
    for layer in range(layers):
        mask = torch.ones(3, 3, dtype=torch.float64)
        mask[1, 1 + (layer > 0) :] = 0  # mask A: not the present place
        mask[2] = 0
        kernels = torch.randn(4, 4, 3, 3, dtype=torch.float64, generator=random)
        h = torch.tanh(F.conv2d(h, kernels * mask, padding=1))
    return sees(h, x)


def leaks_and_gaps(found: dict[str, Tensor]) -> dict[str, dict[str, int]]:
    """Of each `sees`, how many pairs of places see what is not before them, "leaks", and do not see what is, "gaps"."""
    before = torch.ones_like(next(iter(found.values()))).tril(-1)
    return {
        name: {"leaks": int((its & ~before).sum()), "gaps": int((~its & before).sum())} for name, its in found.items()
    }
