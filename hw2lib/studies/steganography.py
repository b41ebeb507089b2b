"""What a translation hides from the eye: it is disturbed a little before it goes back.

Chu, Zhmoginov and Sandler 2017, "CycleGAN, a Master of Steganography", arXiv:1712.02950.
"""

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hw2lib.cyclegan import CycleGAN
from hw2lib.data import Domains
from hw2lib.evaluation.translations import difference, translate

LUMA, CHROMA = (0,), (1, 2)  # planes of YCbCr
AMPLIFIED = 8  # times, for the eye


def noisy(pictures: Tensor, deviation: float) -> Tensor:
    """uint8 pictures (N, 3, H, W) with normal noise of this standard deviation in grey levels."""
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    return (pictures + deviation * noise).round().clamp(0, 255).to(torch.uint8)


def compressed(pictures: Tensor, quality: int, subsampling: str = "4:2:0") -> Tensor:
    """uint8 pictures (N, 3, H, W) as they come back from JPEG files; 4:2:0 halves the resolution of colours, 4:4:4 keeps it."""

    def through_a_file(picture: Image.Image) -> Image.Image:
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=quality, subsampling=subsampling)
        return Image.open(content)

    return _each(pictures, through_a_file)


def coarser(pictures: Tensor, planes: tuple[int, ...], by: int) -> Tensor:
    """uint8 pictures (N, 3, H, W) whose planes of YCbCr are averaged over `by` x `by` pixels and made smooth again."""

    def smoothed(picture: Image.Image) -> Image.Image:
        parts = list(picture.convert("YCbCr").split())
        for plane in planes:
            small = parts[plane].resize([side // by for side in picture.size], Image.Resampling.BOX)
            parts[plane] = small.resize(picture.size, Image.Resampling.BICUBIC)
        return Image.merge("YCbCr", parts).convert("RGB")

    return _each(pictures, smoothed)


def exchanged(pictures: Tensor) -> Tensor:
    """uint8 pictures (N, 3, H, W), each with the finest colours, which `coarser` by 2 takes away, of the one before it."""
    coarse = coarser(pictures, CHROMA, 2)
    return (coarse + (pictures.int() - coarse).roll(1, 0)).clamp(0, 255).to(torch.uint8)


def _each(pictures: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    changed = [np.array(change(Image.fromarray(picture))) for picture in pictures.permute(0, 2, 3, 1).numpy()]
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2)


DISTURBANCES: dict[str, Callable[[Tensor], Tensor]] = {
    **{f"noise_{deviation}": partial(noisy, deviation=deviation) for deviation in (3, 10)},
    **{f"luma_{by}": partial(coarser, planes=LUMA, by=by) for by in (2, 4)},
    **{f"chroma_{by}": partial(coarser, planes=CHROMA, by=by) for by in (2, 4, 8)},
    "exchanged": exchanged,
    **{f"jpeg_{quality}_444": partial(compressed, quality=quality, subsampling="4:4:4") for quality in (95, 75)},
    **{f"jpeg_{quality}": partial(compressed, quality=quality) for quality in (95, 75)},
}


def hidden_information(
    there: nn.Module,
    back: nn.Module,
    pictures: Tensor,
    real: Tensor,
    disturbances: dict[str, Callable[[Tensor], Tensor]] = DISTURBANCES,
) -> dict[str, dict[str, float]]:
    """How far what comes back moves when a translation is disturbed before it goes.

    pictures: uint8 (N, 3, H, W), which `there` translates; real: such pictures of the other domain, in which nobody
    has hidden anything: the control.

    "nothing" and each disturbance -> means over all pixels, 0 to 2: "change" of the translations by it, "moved", of what
    `back` makes of them, and "cycle", between that and the pictures; "real_change" and "real_moved" are the first two of
    the real pictures. A translation that moves much more than real pictures do rests on a pattern that the eye does not see.
    """
    fakes = translate(there, pictures)
    cycled, real_back = translate(back, fakes), translate(back, real)
    nothing = dict.fromkeys(("change", "moved", "real_change", "real_moved"), 0.0)
    found = {"nothing": nothing | {"cycle": difference(cycled, pictures)}}
    for name, disturb in disturbances.items():
        other, real_other = disturb(fakes), disturb(real)
        other_back = translate(back, other)
        found[name] = {
            "change": difference(other, fakes),
            "moved": difference(other_back, cycled),
            "real_change": difference(real_other, real),
            "real_moved": difference(translate(back, real_other), real_back),
            "cycle": difference(other_back, pictures),
        }
    return found


def hidden_both_ways(model: CycleGAN, domains: Domains, averaged: bool, most: int = 40) -> dict[str, dict]:
    """`hidden_information` of the first `most` test pictures, "ab" from a to b and back, "ba" the other way round."""
    g_ab, g_ba = model.generators(averaged)
    a, b = domains.test_a[:most], domains.test_b[:most]
    return {"ab": hidden_information(g_ab, g_ba, a, b), "ba": hidden_information(g_ba, g_ab, b, a)}


def without_fine_colours(model: CycleGAN, pictures: Tensor, averaged: bool) -> dict[str, Tensor]:
    """Rows to look at, uint8 (N, 3, H, W): translations from a to b and back, with and without their finest colours."""
    there, back = model.generators(averaged)
    fakes = translate(there, pictures)
    coarse = coarser(fakes, CHROMA, 2)
    taken = (128 + AMPLIFIED * (fakes.float() - coarse)).clamp(0, 255).to(torch.uint8)
    rows = {"input": pictures, "translated": fakes, "coarser_colours": coarse, "taken_away": taken}
    return rows | {"back": translate(back, fakes), "back_without": translate(back, coarse)}
