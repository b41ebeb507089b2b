"""The pictures that a prior over codes draws, and how they are judged. Here rooms are wired together."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hw2lib.data import generator
from hw2lib.judge import Judge, between, frechet_distance, kernel_distance, kernel_distance_error
from hw2lib.pixelcnn import GatedPixelCNN
from hw2lib.prior import CodeSets
from hw2lib.vqvae import VQVAE


@torch.no_grad()
def decode_pictures(model: VQVAE, codes: Tensor, batch_size: int = 500) -> Tensor:
    """uint8 pictures (N, 3, H, W) of code maps (N, h, w)."""
    device = model.quantizer.counts.device
    return torch.cat(
        [model.to_pictures(model.decode(part.to(device))).cpu() for part in codes.split(batch_size)]
    )


def every_class(prior: GatedPixelCNN, each: int) -> Tensor | None:
    """Labels for `each` maps of every class in turn, or None for a prior without classes."""
    return torch.arange(prior.config.classes).repeat_interleave(each) if prior.config.classes else None


def draw_pictures(model: VQVAE, prior: GatedPixelCNN, count: int, seed: int, **options) -> Tensor:
    """New pictures, uint8 (count, 3, H, W), of random classes; `options` are those of GatedPixelCNN.sample."""
    classes, labels = prior.config.classes, None
    if classes:
        labels = torch.randint(classes, (count,), generator=generator(seed, count))
    maps = prior.sample(count, labels, seed=seed, **options)
    return decode_pictures(model, maps)


def unlearnt_maps(sets: CodeSets, num_codes: int, count: int, seed: int) -> dict[str, Tensor]:
    """Maps without any prior, (count, h, w): of uniform codes, and of codes with the frequencies of the training maps."""
    shape, chance = (count, *sets.train.shape[1:]), generator(seed)
    frequencies = torch.bincount(sets.train.flatten(), minlength=num_codes).double()
    drawn = torch.multinomial(frequencies, math.prod(shape), replacement=True, generator=chance)
    return {
        "uniform codes": torch.randint(num_codes, shape, generator=chance),
        "codes by frequency": drawn.view(shape),
    }


def picture_card(
    judge: Judge, test: Tensor, train: Tensor, found: dict[str, Tensor]
) -> dict[str, dict[str, float]]:
    """Distances from sets of pictures to `test` in the judge's features; all uint8 (N, 3, H, W), of equally many.

    "real pictures", which are `train`, is the floor, found["uniform codes"] the ceiling. Each row has kd, kd_error and fd,
    the others also kd_closed, kd_closed_error and fd_closed, see judge.between.
    """
    wanted, rows = judge.features(test), {}
    for name, pictures in {**found, "real pictures": train}.items():
        features = judge.features(pictures)
        rows[name] = {
            "kd": kernel_distance(features, wanted),
            "kd_error": kernel_distance_error(features, wanted),
            "fd": frechet_distance(features, wanted),
        }
    floor, ceiling = rows["real pictures"], rows["uniform codes"]
    for row in (row for row in rows.values() if row is not floor and row is not ceiling):
        for kind in ("kd", "fd"):
            row[f"{kind}_closed"] = between(row[kind], floor[kind], ceiling[kind])
        row["kd_closed_error"] = row["kd_error"] / abs(ceiling["kd"] - floor["kd"])
    return rows


def nearest(pictures: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """For each uint8 picture (N, 3, H, W) the position, int64 (N,), of the nearest of `among`, (M, 3, H, W), in pixels.

    And how far that is: the root of the mean squared difference on the scale [0, 1], float64 (N,).
    """
    queries = pictures.flatten(1).float() / 255
    best = torch.full((len(pictures),), math.inf)
    where = torch.zeros(len(pictures), dtype=torch.long)
    for start in range(0, len(among), 5000):
        part = among[start : start + 5000].flatten(1).float() / 255
        squares = part.square().sum(1) - 2 * queries @ part.T  # but for the query's own square
        least, place = squares.min(1)
        where = torch.where(least < best, place + start, where)
        best = torch.minimum(best, least)
    apart = (pictures.double() - among[where].double()) / 255
    return where, apart.square().mean((1, 2, 3)).sqrt()


def nearest_by_judge(judge: Judge, pictures: Tensor, among: Tensor) -> Tensor:
    """For each picture the position of the nearest of `among` by Euclidean distance of the judge's features."""
    return torch.cdist(judge.features(pictures), judge.features(among)).argmin(1)


class Moment(NamedTuple):
    """A map that is being drawn: how many codes it has, int64 (h, w) with -1 where none is, and decoded."""

    drawn: int
    codes: Tensor
    picture: Tensor  # uint8 (3, H, W), with the commonest code of each place where none is drawn


def filling(
    model: VQVAE, prior: GatedPixelCNN, sets: CodeSets, label: int | None, seed: int, moments: int = 9
) -> list[Moment]:
    """How a picture comes into being: the map at `moments` evenly spaced moments, from empty to full."""
    height, width = prior.config.height, prior.config.width
    seen = [torch.zeros(height, width, dtype=torch.long)]
    prior.sample(
        1,
        None if label is None else torch.tensor([label]),
        seed=seed,
        watch=lambda codes, row, column: seen.append(codes[0].clone()),
    )
    commonest = sets.train.flatten(1).mode(0).values.view(height, width).long()
    found = []
    for drawn in np.linspace(0, height * width, moments).round().astype(int):
        there = torch.arange(height * width).view(height, width) < drawn
        picture = decode_pictures(model, torch.where(there, seen[drawn], commonest)[None])[0]
        found.append(Moment(int(drawn), torch.where(there, seen[drawn], -1), picture))
    return found


def completions(
    model: VQVAE, prior: GatedPixelCNN, codes: Tensor, labels: Tensor | None, count: int, seed: int
) -> list[Tensor]:
    """Pictures whose lower half is drawn anew, `count` times: uint8 (N, 3, H, W) each, for maps (N, h, w)."""
    known = torch.zeros(codes.shape[1:], dtype=torch.bool)
    known[: codes.shape[1] // 2] = True
    maps = (
        prior.sample(len(codes), labels, seed=seed + turn, given=codes, known=known) for turn in range(count)
    )
    return [decode_pictures(model, drawn) for drawn in maps]
