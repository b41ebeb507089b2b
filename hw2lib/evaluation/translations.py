"""Translations of test pictures: how they are made, what is measured on them after each epoch, how they are kept.

Errors between pictures are mean absolute differences on the networks' scale, -1 to 1, so that they can be read beside
the training losses: 0 is no difference, 2 the largest.
"""

import io
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn

from hw2lib import Problem, in_one_line
from hw2lib.cyclegan import CycleGAN
from hw2lib.data import Domains
from hw2lib.evaluation.judge import ZEBRA, Judge, kernel_distance, share
from hw2lib.training import Run, RunError, weights, write_whole

# Test pictures of each domain that are kept after each epoch.
STRIP = 4
# How many times as long as the shorter side the longer one may be: memory grows with it.
LONGEST = 16


class ShapeError(Problem):
    """A picture of a shape that cannot be translated."""


def kinds(model: CycleGAN) -> tuple[str, ...]:
    """The kinds of weights that its generators have: "last" and, if averages were kept, "average". The last is judged."""
    return ("last", "average") if model.config.ema_decay else ("last",)


@torch.no_grad()
def translate(generator: nn.Module, pictures: Tensor, autocast=nullcontext, batch_size: int = 4) -> Tensor:
    """Translations, uint8 (N, 3, H, W), of uint8 pictures of that shape; in float32, or in what `autocast()` enters."""
    device = next(generator.parameters()).device
    with autocast():
        batches = [
            CycleGAN.to_pictures(generator(CycleGAN.to_network(batch.to(device)))).cpu()
            for batch in pictures.split(batch_size)
        ]
    return torch.cat(batches)


def fit_for(model: CycleGAN, picture: Image.Image, size: int | None = None) -> Tensor:
    """A picture of any size as a generator takes it, uint8 (1, 3, H, W): the shorter side scaled to the model's size.

    A ResNet generator takes any other `size`, too, and the whole picture, its sides rounded to multiples of 4; a U-Net is
    given a square from the middle. Raises ShapeError where the longer side is more than 16 times the shorter one.
    """
    size = size or model.config.size
    if max(picture.size) > LONGEST * min(picture.size):
        shape = "{} x {}".format(*picture.size)
        raise ShapeError(f"{shape} pixels, longer than {LONGEST} times the shorter side: cut a part out of it")
    if model.config.generator == "unet":
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    else:
        scale = size / min(picture.size)
        picture = picture.resize([4 * round(side * scale / 4) for side in picture.size], Image.Resampling.BICUBIC)
    return as_tensor(picture)


def as_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as uint8 (1, 3, H, W)."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]


def at_full_size(picture: Tensor, fitted: Tensor, translated: Tensor) -> Tensor:
    """A picture as large as it came, plus the change that its translation made where it was `fitted`, scaled up.

    All uint8 (1, 3, H, W), the last two of one size. What is finer than `fitted` could show stays as it was.
    """
    change = F.interpolate(translated.float() - fitted.float(), picture.shape[2:], mode="bicubic")
    return change.add_(picture).round_().clamp_(0, 255).to(torch.uint8)  # in place: it may be a gigabyte


def some_scaled(pictures: Tensor, side: int, most: int) -> Tensor:
    """At most `most` of the square uint8 pictures (N, 3, L, L), evenly spaced, scaled to (N, 3, side, side)."""
    spread = torch.linspace(0, len(pictures) - 1, min(most, len(pictures))).long()
    if pictures.shape[-1] == side:
        return pictures[spread]
    parts = (pictures[part].float() for part in spread.split(100))  # as floats they are four times as large
    scaled = (F.interpolate(part, (side, side), mode="bicubic", antialias=True) for part in parts)
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in scaled])


def save_picture(path: Path, picture: Tensor) -> None:
    """Write a uint8 picture (3, H, W), in the format that the path ends in.

    Raises RunError if it cannot be written, and ShapeError if its format cannot hold it.
    """
    content, kind = io.BytesIO(), Image.registered_extensions()[path.suffix.lower()]
    try:
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(content, kind, quality=95)
    except (OSError, ValueError) as error:  # no WebP has more than 16,383 pixels a side
        raise ShapeError(f"{path} cannot be made ({kind}: {in_one_line(error)}): choose .png") from None
    write_whole(path, content.getvalue())


def difference(pictures: Tensor, others: Tensor, mask: Tensor | None = None) -> float:
    """Mean absolute difference, 0 to 2, of uint8 pictures (N, 3, H, W); where mask (N, H, W) is True, if given."""
    apart = (pictures.int() - others.int()).abs().double() / 127.5
    return float(apart.mean() if mask is None else apart.movedim(1, -1)[mask].mean())


def colour_shift(pictures: Tensor, others: Tensor) -> float:
    """Mean absolute difference, 0 to 2, of the mean colours of uint8 pictures (N, 3, H, W), picture by picture."""
    means = (part.double().mean((2, 3)) / 127.5 for part in (pictures, others))  # (N, 3)
    return float((next(means) - next(means)).abs().mean())


def cycle_error(model: CycleGAN, domains: Domains, averaged: bool, fake_a: Tensor, fake_b: Tensor) -> dict[str, float]:
    """Differences, 0 to 2, between test pictures and what comes back from their translations, uint8 (N, 3, H, W).

    "aba": from A to B and back, "bab": from B to A and back, by the generators that made the translations.
    """
    g_ab, g_ba = model.generators(averaged)
    back_a, back_b = translate(g_ba, fake_b), translate(g_ab, fake_a)
    return {"aba": difference(back_a, domains.test_a), "bab": difference(back_b, domains.test_b)}


def as_published(model: CycleGAN, run: Run) -> CycleGAN:
    """The generators as they are published, in half precision: what is measured is what others get.

    They are kept in the run's folder as published.safetensors, and come on the model's device, in eval mode. Of a
    published run they are what is published, whatever `model` is.
    """
    if not run.is_published:
        weights.save(model, run.folder / "published.safetensors", without=model.optional_weights, dtype=torch.float16)
    return CycleGAN.load(run.kept_weights).to(next(model.g_ab.parameters()).device)


class Examiner:
    """Scores and sample translations after each epoch: call it with the run's folder and the number of the epoch.

    For each direction, and for the generators as they are ("last") and averaged ("average"), if there are averages:

    change    difference between test pictures and their translations; shift: of their mean colours
    kd        kernel distance to real test pictures of the other domain, in the judge's features, if there is a judge
    zebra     share of translations that it calls zebra (photographs of zebras only)
    truth     difference to the true counterparts; background: change off the animal (toy pictures only)
    """

    def __init__(self, model: CycleGAN, domains: Domains, judge: Judge | None):
        self.model, self.domains, self.judge = model, domains, judge

    @cached_property
    def real_features(self) -> dict[str, Tensor]:
        return {"a": self.judge.features(self.domains.test_a), "b": self.judge.features(self.domains.test_b)}

    def __call__(self, folder: Path, epoch: int) -> dict[str, float]:
        names = kinds(self.model)
        if self.judge:
            # Here, before two threads ask for it.
            _ = self.real_features
        rows, scores = zip(*self.model.both(self._look_at, names), strict=True)
        if self.model.fabric.is_global_zero:
            save_strip(strip_path(folder, epoch), torch.stack(rows))
        return {f"{kind}_{name}": score for kind, its in zip(names, scores, strict=True) for name, score in its.items()}

    def _look_at(self, kind: str) -> tuple[Tensor, dict[str, float]]:
        g_ab, g_ba = self.model.generators(averaged=kind == "average")
        fake_b = translate(g_ab, self.domains.test_a, self.model.autocast)
        fake_a = translate(g_ba, self.domains.test_b, self.model.autocast)
        return torch.cat([fake_b[:STRIP], fake_a[:STRIP]]), self.scores(fake_a, fake_b)

    def scores(self, fake_a: Tensor, fake_b: Tensor) -> dict[str, float]:
        """The scores of translations of all test pictures, uint8, by one pair of generators."""
        ours, found = self.domains, {}
        for there, real, fake in (("ab", ours.test_a, fake_b), ("ba", ours.test_b, fake_a)):
            found[f"change_{there}"] = difference(fake, real)
            found[f"shift_{there}"] = colour_shift(fake, real)
            if ours.aligned:
                found[f"truth_{there}"] = difference(fake, ours.test_b if there == "ab" else ours.test_a)
                found[f"background_{there}"] = difference(fake, real, ~ours.masks)
            if self.judge:
                looks = self.judge.look(fake)
                if ours.zebras:
                    found[f"zebra_{there}"] = share(looks.probabilities, ZEBRA)
                found[f"kd_{there}"] = kernel_distance(looks.features, self.real_features[there[1]])
        return found


def strip_path(folder: Path, epoch: int) -> Path:
    """Where a run keeps the translations of an epoch, counted from 1."""
    return folder / "translations" / f"epoch-{epoch:03}.webp"


def save_strip(path: Path, pictures: Tensor) -> None:
    """Keep pictures, uint8 (rows, columns, 3, H, W), as one small file; they are to look at, not to measure.

    After an epoch a row holds translations by one kind of generators, the averaged ones' last.
    """
    rows, columns, channels, height, width = pictures.shape
    sheet = pictures.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    save_picture(path, sheet.permute(2, 0, 1))


def load_strip(path: Path, size: int) -> Tensor:
    """The pictures that save_strip kept, nearly, uint8 (rows, columns, 3, size, size). Raises RunError."""
    try:
        sheet = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
    except OSError as error:
        raise RunError(
            f"{path} cannot be read ({in_one_line(error)}): delete {path.parents[1]} to train anew"
        ) from None
    rows, columns = sheet.shape[0] // size, sheet.shape[1] // size
    return sheet.reshape(rows, size, columns, size, 3).permute(0, 2, 4, 1, 3)


def strip_inputs(domains: Domains) -> Tensor:
    """The test pictures whose translations are kept after each epoch, uint8 (2 STRIP, 3, H, W)."""
    return torch.cat([domains.test_a[:STRIP], domains.test_b[:STRIP]])


# ---- rows of pictures to look at


def there_and_back(model: CycleGAN, pictures: Tensor, way: str) -> dict[str, Tensor]:
    """Test pictures, their translations from a to b (`way` "ab") or b to a ("ba"), and the way back from the judged ones.

    {"input", each of kinds(model), "back"}: uint8 (N, 3, H, W) each.
    """
    rows = {"input": pictures}
    for kind in kinds(model):
        there, back = model.generators(kind == "average")[:: 1 if way == "ab" else -1]
        rows[kind] = translate(there, pictures)
    return rows | {"back": translate(back, rows[kind])}


def some_epochs(run: Run, domains: Domains) -> dict[str, Tensor]:
    """Test pictures, what the judged weights made of them after some epochs, and at the end the last weights, if others.

    {"input": uint8 (2 STRIP, 3, size, size), "epoch 1": ..., "epoch 20": ..., "last weights": ...}.
    """
    last = len(run.epochs["epoch"])
    shown = [epoch for epoch in (1, 2, 3, 5, 10, 20, 50, 100) if epoch < last] + [last]
    kept = {epoch: load_strip(strip_path(run.folder, epoch), domains.size) for epoch in shown}
    rows = {"input": strip_inputs(domains)} | {f"epoch {epoch}": strip[-1] for epoch, strip in kept.items()}
    return rows | ({"last weights": kept[last][0]} if len(kept[last]) > 1 else {})


def side_by_side(runs: Mapping[str, Run], domains: Domains, epoch: int = 0) -> dict[str, Tensor]:
    """Test pictures, "input", and by name what the judged weights of each run made of them after an epoch; 0: its last."""
    rows = {"input": strip_inputs(domains)}
    for name, run in runs.items():
        rows[name] = load_strip(strip_path(run.folder, epoch or len(run.epochs["epoch"])), domains.size)[-1]
    return rows
