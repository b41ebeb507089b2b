"""The pictures that a prior over codes draws, how they are judged, and whether they are copies."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hw2lib.data import CodeSets, Pictures, random_stream
from hw2lib.evaluation import metrics
from hw2lib.evaluation.codec import device_of
from hw2lib.evaluation.judge import Judge
from hw2lib.evaluation.scorecards import distance_card
from hw2lib.pixelcnn import CodesError, GatedPixelCNN
from hw2lib.training import Run
from hw2lib.vqvae import VQVAE


@torch.no_grad()
def decode_pictures(model: VQVAE, codes: Tensor, batch_size: int = 500) -> Tensor:
    """uint8 pictures (N, 3, H, W) of code maps (N, h, w)."""
    device, parts = device_of(model), metrics.in_parts(codes, batch_size, side=8)
    return torch.cat([model.to_pictures(model.decode(part.to(device))).cpu() for part in parts])


def labels_for(prior: GatedPixelCNN, count: int, name: str | None) -> Tensor | None:
    """Labels, int64 (count,), of the class called `name`, or of all classes in turn; None for a prior without classes.

    Raises CodesError for a name that the prior does not know.
    """
    names, classes = prior.config.class_names, prior.config.classes
    if name is None:
        return torch.arange(count) % classes if classes else None
    if name not in names:
        known = f"give one of {', '.join(names)}" if names else "it was trained without names of classes"
        raise CodesError(f"this prior knows no class {name!r}: {known}")
    return torch.full((count,), names.index(name))


def class_rows(model: VQVAE, prior: GatedPixelCNN, each: int, seed: int) -> dict[str, Tensor]:
    """Pictures of each class by its name, uint8 (1 + each, 3, H, W): the likeliest code each time, then `each` drawn.

    Without classes there are four such rows.
    """
    classes = prior.config.classes
    unnamed = [f"class {label}" for label in range(classes)] or [f"new {number}" for number in range(1, 5)]
    names = prior.config.class_names or unnamed
    labels = torch.arange(classes).repeat_interleave(each) if classes else None
    drawn = prior.sample(len(names) * each, labels, seed=seed)  # in one batch
    likeliest = prior.sample(len(names), None if labels is None else labels[::each], seed=seed, top_k=1)
    maps = torch.cat([likeliest[:, None], drawn.unflatten(0, (len(names), each))], 1)  # (classes, 1 + each, h, w)
    return dict(zip(names, decode_pictures(model, maps.flatten(0, 1)).split(1 + each), strict=True))


def draw_pictures(model: VQVAE, prior: GatedPixelCNN, count: int, seed: int, **options) -> Tensor:
    """New pictures, uint8 (count, 3, H, W), of random classes; `options` are those of GatedPixelCNN.sample.

    The same seed gives the same classes and the same luck, so that two temperatures differ in nothing else.
    """
    classes, labels = prior.config.classes, None
    if classes:
        labels = torch.randint(classes, (count,), generator=random_stream(seed, count))
    return decode_pictures(model, prior.sample(count, labels, seed=seed, **options))


def unlearnt_maps(sets: CodeSets, num_codes: int, count: int, seed: int) -> dict[str, Tensor]:
    """Maps without any prior, (count, h, w): of uniform codes, and of codes with the frequencies of the training maps."""
    shape, chance = (count, *sets.train.shape[1:]), random_stream(seed)
    frequencies = torch.bincount(sets.train.flatten(), minlength=num_codes).double()
    drawn = torch.multinomial(frequencies, math.prod(shape), replacement=True, generator=chance)
    return {
        "uniform_codes": torch.randint(num_codes, shape, generator=chance),
        "codes_by_frequency": drawn.view(shape),
    }


class EqualSets(NamedTuple):
    """Equally many test and training pictures, uint8 (N, 3, H, W), and the codes of the latter, (N, h, w)."""

    test: Tensor
    train: Tensor
    train_codes: Tensor


def equal_sets(pictures: Pictures, sets: CodeSets, most: int, seed: int) -> EqualSets:
    """`most` pictures of each set, drawn at random; all of the smaller set where it has fewer."""
    count, chance = min(most, len(pictures.test), len(pictures.train)), random_stream(seed)
    test, train = (torch.randperm(len(part), generator=chance)[:count] for part in (pictures.test, pictures.train))
    return EqualSets(pictures.test[test], pictures.train[train], sets.in_order[train])


def card_sets(model: VQVAE, prior: GatedPixelCNN, sets: CodeSets, ask: EqualSets, seed: int) -> dict[str, Tensor]:
    """The sets of pictures that `picture_card` sets side by side, from the worst on, each as large as ask.test.

    uniform_codes and codes_by_frequency, without a prior; new_pictures, and new_pictures_cooler at temperature 0.9;
    reconstructions of ask.train.
    """
    count, maps = len(ask.test), unlearnt_maps(sets, model.config.num_codes, len(ask.test), seed)
    return {name: decode_pictures(model, codes) for name, codes in maps.items()} | {
        "new_pictures": draw_pictures(model, prior, count, seed),
        "new_pictures_cooler": draw_pictures(model, prior, count, seed, temperature=0.9),
        "reconstructions": decode_pictures(model, ask.train_codes),
    }


def picture_card(judge: Judge, ask: EqualSets, found: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Distances of the sets of `card_sets` to ask.test, between uniform_codes and real_pictures, which are ask.train.

    Rows as in scorecards.distance_card.
    """
    return distance_card(judge, ask.test, found | {"real_pictures": ask.train}, worst="uniform_codes")


def nearest(pictures: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """For each uint8 picture (N, 3, H, W) the position, int64 (N,), of the nearest of `among`, (M, 3, H, W), in pixels.

    And how far that is: the root of the mean squared difference on the scale [0, 1], float64 (N,).
    """
    queries = pictures.flatten(1).float() / 255
    best = torch.full((len(pictures),), math.inf)
    where = torch.zeros(len(pictures), dtype=torch.long)
    start = 0
    for part in metrics.in_parts(among, 5000):
        part = part.flatten(1).float() / 255
        # But for the query's own square.
        squares = part.square().sum(1) - 2 * queries @ part.T
        least, place = squares.min(1)
        where = torch.where(least < best, place + start, where)
        best = torch.minimum(best, least)
        start += len(part)
    pairs = zip(metrics.in_parts(pictures), metrics.in_parts(among[where]), strict=True)
    apart = [((one.double() - other.double()) / 255).square().mean((1, 2, 3)) for one, other in pairs]
    return where, torch.cat(apart).sqrt()


def neighbours(
    run: Run,
    model: VQVAE,
    prior: GatedPixelCNN,
    judge: Judge,
    pictures: Pictures,
    label: int | None,
    most: int,
    seed: int,
) -> dict[str, Tensor]:
    """ "new", ten pictures of a class (of any, if label is None), and to each the nearest training picture: "by pixels" of
    all, "by features" of the judge of at most `most` of the class; uint8 (10, 3, H, W) each.

    Which ones they are is kept as the run's metrics["neighbours"]: {"pixels", "features"}, positions in pictures.train.
    """
    new = decode_pictures(model, prior.sample(10, None if label is None else torch.full((10,), label), seed=seed))
    train = pictures.train
    alike = torch.arange(len(train)) if label is None else (pictures.train_labels == label).nonzero().flatten()
    alike = alike[:most]

    def positions() -> dict[str, list[int]]:
        by_features = torch.cdist(judge.features(new), judge.features(train[alike])).argmin(1)
        return {"pixels": nearest(new, train)[0].tolist(), "features": alike[by_features].tolist()}

    found = run.measured("neighbours", positions, version=[1, label, most, seed])
    return {"new": new, "by pixels": train[found["pixels"]], "by features": train[found["features"]]}


def copy_distances(
    model: VQVAE, sets: CodeSets, ask: EqualSets, new: Tensor, train: Tensor, most: int = 500
) -> dict[str, float]:
    """Median distance in pixels to the nearest training picture: of new pictures, of decoded test pictures, which cannot
    be copies, and of decoded training pictures, which are copies. Root mean squares on the scale [0, 1]."""
    parts = {
        "new_pictures": new[:most],
        "decoded_test": decode_pictures(model, sets.test[:most]),
        "decoded_train": decode_pictures(model, ask.train_codes[:most]),
    }
    return {name: float(nearest(part, train)[1].median()) for name, part in parts.items()}


class Moment(NamedTuple):
    """A map that is being drawn: how many codes it has, int64 (h, w) with -1 where none is, and decoded."""

    drawn: int
    codes: Tensor
    picture: Tensor  # uint8 (3, H, W), with the commonest code of each place where none is drawn


def filling(
    model: VQVAE, prior: GatedPixelCNN, sets: CodeSets, label: int | None, seed: int, moments: int = 9
) -> list[Moment]:
    """How a picture comes into being: the map at `moments` evenly spaced moments, from empty to full."""
    # Drawn in raster order, so that the map at any moment is the beginning of the whole one.
    whole = prior.sample(1, None if label is None else torch.tensor([label]), seed=seed)[0].cpu()
    commonest = sets.train.flatten(1).mode(0).values.view_as(whole).long()
    found = []
    for drawn in np.linspace(0, whole.numel(), moments).round().astype(int):
        there = torch.arange(whole.numel()).view_as(whole) < drawn
        picture = decode_pictures(model, torch.where(there, whole, commonest)[None])[0]
        found.append(Moment(int(drawn), torch.where(there, whole, -1), picture))
    return found


def upper_half(pictures: Tensor) -> Tensor:
    """A copy of pictures (N, 3, H, W) with a grey lower half."""
    shown = pictures.clone()
    shown[:, :, pictures.shape[2] // 2 :] = 128
    return shown


def completions(
    model: VQVAE, prior: GatedPixelCNN, codes: Tensor, labels: Tensor | None, count: int, seed: int
) -> list[Tensor]:
    """Pictures whose lower half is drawn anew, `count` times: uint8 (N, 3, H, W) each, for maps (N, h, w)."""
    known = torch.zeros(codes.shape[1:], dtype=torch.bool)
    known[: codes.shape[1] // 2] = True
    maps = (prior.sample(len(codes), labels, seed=seed + turn, given=codes, known=known) for turn in range(count))
    return [decode_pictures(model, drawn) for drawn in maps]
