"""Numbers for pictures and codes. Tensors in, floats out; no model, no file."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hw2lib.quantizers import code_perplexity


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error on the [0, 1] scale; infinite at 0."""
    return math.inf if mse == 0 else -10 * math.log10(mse)


def perplexity(counts: Tensor) -> float:
    """Effective number of equally used codes, 1 to K, for counts (K,) of a whole set: in float64."""
    return float(code_perplexity(counts.double()))


def perplexity_by_batch(codes: Tensor, num_codes: int, sizes: list[int]) -> dict[int, float]:
    """Mean perplexity of batches of each size, for codes (N, h, w): a batch shows too few codes to tell the truth.

    Sizes above N are left out; a last short batch does not count.
    """
    means = {}
    for size in sorted({size for size in sizes if size <= len(codes)}):
        batches = codes[: len(codes) // size * size].reshape(len(codes) // size, -1).long()  # (batches, codes)
        values = [perplexity(torch.bincount(batch, minlength=num_codes)) for batch in batches]
        means[size] = sum(values) / len(values)
    return means


def in_parts(pictures: Tensor, most: int = 500, side: int = 32) -> tuple[Tensor, ...]:
    """Pictures (N, ..., H, W), `most` at a time, or fewer where they have more than side x side places: for memory."""
    return pictures.split(max(1, min(most, most * side**2 // (pictures.shape[-2] * pictures.shape[-1]))))


def roughness(pictures: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, 0 to 255, of uint8 pictures (N, 3, H, W): float64 (N,)."""

    def along(dim: int) -> Tensor:
        return torch.cat([part.int().diff(dim=dim).abs().double().mean((1, 2, 3)) for part in in_parts(pictures)])

    return (along(2) + along(3)) / 2


def simple_codecs(train: Tensor, test: Tensor) -> dict[str, float]:
    """MSE on the [0, 1] scale of codecs that anybody could write, to see a learnt one's number between two ends.

    train, test: uint8 (N, 3, H, W). "mean_picture" knows nothing of the picture; "thumbnail_4" and "thumbnail_8" are
    its area averages of 4 x 4 and 8 x 8 pixels, enlarged bilinearly, at 24 bits a thumbnail pixel.
    """
    mean = (sum(part.sum(0, keepdim=True) for part in in_parts(train)) / len(train)).round()  # (1, 3, H, W)

    def thumbnail(pictures: Tensor, side: int) -> Tensor:
        small = F.adaptive_avg_pool2d(pictures.float(), side).round()  # (N, 3, side, side)
        return F.interpolate(small, pictures.shape[-2:], mode="bilinear", align_corners=False).round()

    def error(codec: Callable[[Tensor], Tensor]) -> float:
        squares = (int((part.int() - codec(part).int()).square().sum()) for part in in_parts(test))
        return sum(squares) / test.numel() / 255**2  # in whole numbers up to here

    thumbnails = {f"thumbnail_{side}": error(partial(thumbnail, side=side)) for side in (4, 8)}
    return {"mean_picture": error(lambda part: mean)} | thumbnails


# ---- codes under a prior


def unigram_nll(train: Tensor, test: Tensor, num_codes: int, by_place: bool, smoothing: float | None = None) -> Tensor:
    """Nats per code of each test map, float64 (M,), under the frequencies of the training maps' codes.

    train (N, H, W), test (M, H, W): whole numbers in [0, K). `by_place`: frequencies of each place of the map, else
    of all together. `smoothing` is added to each count, so that no code is impossible; without it, the power of 2
    from 1/64 to 64 that gives the last tenth of the training maps the least under the others. `test` has no say.
    """
    if smoothing is None:
        part = len(train) - max(1, len(train) // 10)
        powers = [2.0**power for power in range(-6, 7)]
        smoothing = min(
            powers,
            key=lambda power: float(unigram_nll(train[:part], train[part:], num_codes, by_place, power).mean()),
        )
    places = train[0].numel() if by_place else 1
    # The row of each place in the table of counts.
    where = torch.arange(train[0].numel()) % places * num_codes
    parts = (part.flatten(1) + where for part in in_parts(train, 5000, side=8))
    counts = sum(torch.bincount(part.flatten(), minlength=places * num_codes) for part in parts)
    table = counts.view(places, num_codes).double() + smoothing
    table = -(table / table.sum(1, keepdim=True)).log()  # (places, K)
    return table.flatten()[test.long().flatten(1) + where].mean(1)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of values (M,), M > 1, and its standard error: of maps, as codes of one map are not independent."""
    values = values.double()
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's r, -1 to 1, of two series (N,); 0 if one of them does not vary, as with pictures of one colour each."""
    if not one.var() or not other.var():
        return 0.0
    return float(np.corrcoef(one.numpy(), other.numpy())[0, 1])
