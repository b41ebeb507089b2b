"""What a translation hides from the eye: it is disturbed a little before it goes back."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hw2lib.cyclegan import CycleGAN
from hw2lib.evaluation.translations import difference, translate


def hidden_information(
    model: CycleGAN,
    pictures: Tensor,
    averaged: bool,
    noises: Sequence[float] = (1, 3, 10),
    qualities: Sequence[int] = (95, 75, 50),
) -> dict[str, dict[str, float]]:
    """Cycle errors from a to b and back when the translations are disturbed before they go back.

    pictures: uint8 (N, 3, H, W) of domain a; averaged: which generators, as in translations.cycle_error;
    noises: standard deviations of normal noise in grey levels, N(0, s / 255); qualities: of JPEG, 1 to 95.

    "nothing", "noise_3", "jpeg_75" and so on -> "difference" of disturbed translations to undisturbed,
    and "cycle", the error of what comes back, 0 to 2 both. An error that rises above that of "nothing"
    by much more than the difference says that the way back rests on a pattern too faint to see
    (Chu, Zhmoginov and Sandler 2017, "CycleGAN, a Master of Steganography", arXiv:1712.02950).
    """
    there, back = model.generators(averaged)
    fakes = translate(there, pictures)
    noise = torch.randn(fakes.shape, generator=torch.Generator().manual_seed(0))
    disturbed = {"nothing": fakes}
    for deviation in noises:
        disturbed[f"noise_{deviation:g}"] = (fakes + deviation * noise).round().clamp(0, 255).to(torch.uint8)
    for quality in qualities:
        disturbed[f"jpeg_{quality}"] = torch.stack([_as_jpeg(fake, quality) for fake in fakes])
    return {
        name: {"difference": difference(these, fakes), "cycle": difference(translate(back, these), pictures)}
        for name, these in disturbed.items()
    }


def _as_jpeg(picture: Tensor, quality: int) -> Tensor:
    """A uint8 picture (3, H, W) as it comes back from a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
