"""Procedural savannah scenes: the data set that needs no download.

Every scene is painted twice from one geometry, once with a plain horse coat and once with zebra stripes, so
each picture has a TRUE counterpart. Real unpaired data has none; here a translation can be compared with what
it should have been, and the mask tells whether the background was left alone.

The animal comes from `hw2lib.data.animal` as distances, light and stripe phases; this file rolls the dice and paints sky,
grass, trees and coat. Distances give every edge a ramp one pixel wide, hence no supersampling.

Scene i is a function of (seed, i) alone: its random numbers come from a generator of its own, and pixels are
computed only with operations that IEEE 754 rounds exactly (+ - * / sqrt, min, max, floor), whose results do
not depend on chunks, threads or vector units. sin and exp give no such guarantee; that is why waves are made
of parabolas and glows of rational functions.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hw2lib.data.animal import TAIL, Grid, draw_animal, edge, limb, mix, roll_pose, unit, wave
from hw2lib.data.download import DataError

SMALLEST_SIZE = 32
LARGEST_SIZE = 640  # thousands of them must fit in memory
# Bounds memory and fits the cache. Besides, torch splits only larger planes over threads, which costs more
# than it gains where other work keeps the cores busy.
SAMPLES_PER_CHUNK = 2**15
DICE = 48  # uniform numbers per scene
LATTICE = 24  # a scene's noise interpolates LATTICE x LATTICE further ones

# Horse coats: body, mane and tail, and how far the lower legs take on the colour of the mane.
COATS = (
    ((126, 70, 38), (30, 22, 20), 1.0),  # bay
    ((84, 48, 32), (26, 20, 18), 0.9),  # dark bay
    ((160, 82, 40), (176, 98, 52), 0.0),  # chestnut
    ((150, 80, 42), (226, 192, 138), 0.1),  # flaxen chestnut
    ((52, 46, 46), (24, 22, 24), 0.6),  # black
    ((168, 168, 172), (104, 104, 112), 0.7),  # grey
    ((226, 220, 208), (206, 198, 182), 0.2),  # white grey
    ((210, 158, 86), (244, 230, 200), 0.3),  # palomino
    ((200, 160, 104), (44, 34, 28), 1.0),  # buckskin
    ((170, 134, 98), (66, 50, 42), 0.9),  # dun
)
WHITE, BLACK = (238, 230, 214), (32, 27, 27)  # of the zebras
# Times of day: sky overhead, sky at the horizon, light in the sun, light in the shade (255 changes nothing).
DAYLIGHTS = (
    ((84, 150, 216), (198, 224, 238), (268, 262, 250), (128, 136, 152)),  # noon
    ((120, 172, 216), (250, 224, 186), (276, 258, 226), (122, 124, 140)),  # morning
    ((102, 122, 176), (252, 184, 116), (278, 238, 196), (120, 106, 122)),  # golden hour
    ((160, 174, 188), (216, 220, 220), (236, 240, 246), (146, 152, 160)),  # overcast
    ((84, 88, 146), (236, 160, 142), (250, 208, 196), (112, 104, 132)),  # dusk
)
GRASSES = ((208, 180, 106), (190, 154, 88), (134, 156, 78), (106, 142, 68), (198, 172, 128), (158, 152, 86))
LEAVES = (61, 87, 46)

STRIPE_PERIODS = (0.12, 0.15)
SMALLEST_STRIPE_PERIOD = 3.2  # pixels of the smallest picture; narrower stripes would average to grey there


class Scenes(NamedTuple):
    """Paired pictures: horses[i], zebras[i] and masks[i] show the same scene."""

    horses: Tensor  # uint8 (N, 3, size, size)
    zebras: Tensor  # uint8 (N, 3, size, size)
    masks: Tensor  # bool (N, size, size), where the animal is


def scenes(count: int, size: int, seed: int, calm: bool = False) -> Scenes:
    """Paint `count` scenes of `size` x `size` pixels, each with a horse and again with a zebra.

    Calm ones have all the same coat, time of day and grass, and stripes twice as wide as the smallest picture needs, of which
    a third is black: in halves, black and white could be exchanged without anyone seeing it in a zebra alone.

    Returns horses and zebras as uint8 (count, 3, size, size) in 0..255 and masks as bool (count, size, size).
    Scene i depends on (seed, i) alone and is the same scene at every size; horses[i] and zebras[i] are equal
    wherever masks[i] is False.

    Raises DataError unless count and seed are whole numbers of at least 0 and size is one of 32 to 640.
    """
    _require("count", count, 0)
    _require("size", size, SMALLEST_SIZE, " pixels")
    if size > LARGEST_SIZE:
        raise DataError(f"the toy pictures cannot be drawn with {size} pixels a side: give a smaller size")
    _require("seed", seed, 0)
    horses, zebras = (torch.empty(count, 3, size, size, dtype=torch.uint8) for _ in range(2))
    masks = torch.empty(count, size, size, dtype=torch.bool)
    chunk = max(1, SAMPLES_PER_CHUNK // size**2)
    for first in range(0, count, chunk):
        here = slice(first, min(first + chunk, count))
        horses[here], zebras[here], masks[here] = _paint(_Dice(seed, here.start, here.stop, calm), size)
    return Scenes(horses, zebras, masks)


def _require(name: str, value: object, least: int, unit: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DataError(
            f"the toy pictures cannot be drawn: {name} must be a whole number of at least {least}{unit}, not {value!r}"
        )


# ---- dice and noise ------------------------------------------------------------------------------------------


class _Dice:
    """The random numbers of scenes first..last-1, handed out one after another."""

    def __init__(self, seed: int, first: int, last: int, calm: bool) -> None:
        self.calm = calm
        streams = (np.random.SeedSequence((seed, index)) for index in range(first, last))
        rows = [
            np.random.Generator(np.random.PCG64(stream)).random(DICE + LATTICE**2, dtype=np.float32)
            for stream in streams
        ]
        numbers = torch.from_numpy(np.stack(rows))
        self._columns = iter(numbers[:, :DICE].unbind(1))
        self.lattice = numbers[:, DICE:].reshape(-1, LATTICE, LATTICE)  # (B, LATTICE, LATTICE)

    def roll(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """A number in [low, high) per scene, (B, 1, 1)."""
        return (next(self._columns) * (high - low) + low)[:, None, None]

    def chance(self, probability: float) -> Tensor:
        """1.0 with the given probability, else 0.0, per scene, (B, 1, 1)."""
        return (next(self._columns) < probability).float()[:, None, None]

    def pick(self, count: int) -> Tensor:
        """An index below count per scene, (B,); 0 in calm ones."""
        return (next(self._columns) * (1 if self.calm else count)).long()


def _noise(lattice: Tensor, size: int, across: int, down: int) -> Tensor:
    """Smooth noise in [0, 1) with `across` x `down` bumps in a picture, (B, size, size)."""

    def cells(bumps: int) -> tuple[Tensor, Tensor, Tensor]:
        place = _centres(size) * bumps
        part = place - place.floor()
        cell = place.long()
        return cell % LATTICE, (cell + 1) % LATTICE, part * part * (3.0 - 2.0 * part)

    left, right, share = cells(across)
    lines = mix(lattice[:, :, left], lattice[:, :, right], share)  # (B, LATTICE, size)
    upper, lower, share = cells(down)
    return mix(lines[:, upper], lines[:, lower], share[:, None])


def _centres(size: int) -> Tensor:
    return (torch.arange(size, dtype=torch.float32) + 0.5) / size


def _colours(table: list | tuple, choice: Tensor) -> Tensor:
    """The chosen rows of a table of 0..255 colours, (B, 3, 1, 1) in 0..1."""
    return (torch.tensor(table, dtype=torch.float32) / 255.0)[choice][:, :, None, None]


# ---- landscape ---------------------------------------------------------------------------------------------


def _landscape(dice: _Dice, grid: Grid, horizon: Tensor, from_left: Tensor, day: list[Tensor]) -> Tensor:
    """Sky, clouds, hills, a wood, grass and acacias, (B, 3, H, W) in about 0..1."""
    zenith, haze, sunlight, _ = day
    height = horizon - grid.y  # above the horizon
    size = grid.x.shape[-1]

    picture = mix(haze, zenith, (height / horizon).clamp(0.0, 1.0)[:, None])
    x, y = grid.x - 0.5 + 0.45 * from_left, height - dice.roll(0.02, 0.3)
    picture = mix(picture, sunlight.clamp(0.0, 1.0), 0.8 / (1.0 + 90.0 * (x * x + y * y))[:, None])
    clouds = 0.7 * _noise(dice.lattice, size, 3, 11) + 0.3 * _noise(dice.lattice, size, 8, 23)
    clouds = 0.7 * (3.0 * (clouds - dice.roll(0.5, 0.8))).clamp_(0.0, 1.0)
    picture = mix(picture, 0.5 + 0.5 * haze, clouds[:, None])

    leaves = _colours([LEAVES], torch.zeros(1, dtype=torch.long)) * (0.4 + 0.6 * sunlight)
    for tallest, mist in ((0.16, 0.75), (0.09, 0.5)):  # the farther, the more of the haze
        ridge = wave(grid.x * dice.roll(0.5, 1.2) + dice.roll()) + 0.4 * wave(grid.x * dice.roll(1.6, 3.0))
        ridge = dice.roll(0.1, 1.0) * tallest * (0.55 + 0.4 * ridge)
        hills = (1.0 - mist) * leaves + 0.85 * mist * haze
        picture = mix(picture, hills, edge(height - ridge, 1.5 * grid.pixel)[:, None])
    wood = dice.roll(-0.03, 0.05) + 0.05 * _noise(dice.lattice, size, 19, 1)[:, :1]
    picture = mix(picture, 0.8 * leaves + 0.2 * haze, edge(height - wood, 2.0 * grid.pixel)[:, None])

    depth = (-height / (1.0 - horizon)).clamp_(0.0, 1.0)  # 0 at the horizon, 1 at the lower edge
    grass = _colours(GRASSES, dice.pick(len(GRASSES))) * (0.5 + 0.5 * sunlight)
    blades = sum(_noise(dice.lattice, size, *bumps) - 0.5 for bumps in ((23, 17), (7, 19), (47, 29)))
    shade = dice.roll(0.85, 1.08) * (1.0 + blades * (0.05 + 0.12 * depth) - 0.12 * depth)
    meadow = mix(0.6 * grass + 0.4 * haze, grass, depth.sqrt()[:, None]) * shade[:, None]
    picture = mix(picture, meadow, edge(height, grid.pixel)[:, None])
    for _ in range(3):
        picture = _acacia(dice, grid, picture, horizon, leaves)
    return picture


def _acacia(dice: _Dice, grid: Grid, picture: Tensor, horizon: Tensor, leaves: Tensor) -> Tensor:
    """Add an umbrella tree, or none where its place is left of the picture."""
    tall = dice.roll(0.10, 0.32)
    place = dice.roll(-0.7, 1.0)
    tree = Grid((grid.x - place) / tall, (horizon + 0.1 * tall - grid.y) / tall, grid.pixel / tall)
    lean = (dice.roll(-0.15, 0.15), 0.0)
    trunk = limb(tree, (0.0, 0.0), lean, (0.0, 0.62), (0.045, 0.03), (0.0, 0.0)).distance
    picture = mix(picture, 0.45 * leaves, edge(trunk, tree.pixel)[:, None])
    rise = 3.4 * (tree.y - 0.72)
    rough = 0.25 * _noise(dice.lattice, grid.x.shape[-1], 31, 37)
    crown = 0.5 * ((tree.x * tree.x + rise * rise).sqrt_() + rough - 0.75)
    crown = torch.maximum(crown, 0.62 - tree.y)  # flat below
    green = leaves * (0.7 + 1.2 * (tree.y - 0.6).clamp_(0.0, 0.4))[:, None]
    return mix(picture, green, edge(crown, tree.pixel)[:, None])


# ---- picture -----------------------------------------------------------------------------------------------


def _paint(dice: _Dice, size: int) -> Scenes:
    """One chunk of scenes."""
    centres = _centres(size)
    grid = Grid(centres.expand(1, size, size), centres[:, None].expand(1, size, size), 1.0 / size)
    coat, daylight = dice.pick(len(COATS)), dice.pick(len(DAYLIGHTS))
    day = [_colours(column, daylight) for column in zip(*DAYLIGHTS, strict=True)]
    facing = 1.0 - 2.0 * dice.chance(0.5)  # 1 to the right, -1 to the left
    from_left = dice.roll(-1.0, 1.0)  # where the light comes from
    horizon = dice.roll(0.36, 0.62)
    pose = roll_pose(dice)

    # As big as the dice say, but no longer than the picture is wide and no taller than it is high.
    reach = pose.nose[0] + 0.07 - TAIL
    top = (pose.poll[1] + 0.2).clamp(min=1.1)
    scale = torch.minimum(dice.roll(0.42, 0.60), torch.minimum(0.97 / reach, 0.88 / top))
    slack = 0.50 - 0.5 * scale * reach
    centre = 0.5 - (TAIL + 0.5 * reach) * scale * facing + dice.roll(-1.0, 1.0) * slack
    ground = mix((top * scale + 0.04).clamp(min=0.80), 0.95, dice.roll())
    own = Grid((grid.x - centre) * facing / scale, (ground - grid.y) / scale, grid.pixel / scale)

    landscape = _landscape(dice, grid, horizon, from_left, day)
    x, y = (own.x - 0.25 * from_left * facing) / 0.68, (own.y - 0.03) / 0.10
    shadow = 0.5 * (1.25 - x * x - y * y).clamp_(0.0, 1.0)[:, None]
    landscape = landscape * (1.0 - shadow * (1.0 - 0.6 * day[3]))

    sun = unit(-0.8 * from_left * facing, torch.full_like(facing, 0.75))
    smallest = SMALLEST_STRIPE_PERIOD / SMALLEST_SIZE * (2 if dice.calm else 1)
    period = torch.maximum(dice.roll(*STRIPE_PERIODS), smallest / scale)
    dark = torch.tensor([row[2] for row in COATS])[coat][:, None, None]
    planes = draw_animal(own, sun, pose, period, dark, 0.34 if dice.calm else 0.5)
    cover, light, points, black = (plane[:, None] for plane in planes)  # (B, 1, H, W)
    light = 0.60 + 0.46 * light  # negative at hooves and eyes, which are dark in any light
    lamp = mix(day[3], day[2], light.clamp(0.0, 1.0)) * (1.0 + light.clamp(-0.8, 0.0))  # (B, 3, H, W)

    tone = dice.roll(0.92, 1.08)[:, None]
    body, mane = (_colours([row[part] for row in COATS], coat) * tone for part in (0, 1))
    white, ink = _colours([WHITE, BLACK], torch.arange(2))  # (3, 1, 1)
    horses = mix(landscape, mix(body, mane, points) * lamp, cover)
    zebras = mix(landscape, mix(white, ink, black) * lamp, cover)
    return Scenes(_bytes(horses), _bytes(zebras), planes[0] > 0.0)


def _bytes(picture: Tensor) -> Tensor:
    return (picture * 255.0 + 0.5).clamp_(0.0, 255.0).to(torch.uint8)
