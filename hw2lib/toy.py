"""Procedural savannah scenes: the data set that needs no download.

Every scene is painted twice from one geometry, once with a plain horse coat and once with zebra stripes, so
each picture has a TRUE counterpart. Real unpaired data has none; here a translation can be compared with what
it should have been, and the mask tells whether the background was left alone.

An animal is two dozen tapered limbs (capsules whose radius changes along the axis) melted together by a
smooth union. Besides its distance, each limb carries what the painter needs: how much sun it gets, a phase
that grows along the body (stripes are its level lines, so they follow the anatomy), and how much of the mane
colour a horse shows there. Distances also give every edge a ramp one pixel wide, hence no supersampling.

Scene i is a function of (seed, i) alone: its random numbers come from a generator of its own, and pixels are
computed only with operations that IEEE 754 rounds exactly (+ - * / sqrt, min, max, floor), whose results do
not depend on chunks, threads or vector units. sin and exp give no such guarantee; that is why waves are made
of parabolas and glows of rational functions.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Number = float | Tensor  # one for the whole batch, or one per scene as (B, 1, 1)
Pair = tuple[Number, Number]  # a point, a direction, or the values at the two ends of a limb

SMALLEST_SIZE = 32
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

# The animal's own coordinates: x forwards, y upwards, hooves on y = 0, withers near y = 1.
TAIL = -0.72  # the hindmost x
NECK_BASE = (0.34, 0.86)
FACE = 0.35  # from poll to nose
STRIPE_PERIODS = (0.12, 0.15)
SMALLEST_STRIPE_PERIOD = 3.2  # pixels of the smallest picture; narrower stripes would average to grey there


class Scenes(NamedTuple):
    """Paired pictures: horses[i], zebras[i] and masks[i] show the same scene."""

    horses: Tensor  # uint8 (N, 3, size, size)
    zebras: Tensor  # uint8 (N, 3, size, size)
    masks: Tensor  # bool (N, size, size), where the animal is


def scenes(count: int, size: int, seed: int) -> Scenes:
    """Paint `count` scenes of `size` x `size` pixels, each with a horse and again with a zebra.

    Returns horses and zebras as uint8 (count, 3, size, size) in 0..255 and masks as bool (count, size, size).
    Scene i depends on (seed, i) alone and is the same scene at every size; horses[i] and zebras[i] are equal
    wherever masks[i] is False.

    Raises ValueError unless count and seed are whole numbers of at least 0 and size is one of at least 32.
    """
    _require("count", count, 0)
    _require("size", size, SMALLEST_SIZE, " pixels")
    _require("seed", seed, 0)
    horses, zebras = (torch.empty(count, 3, size, size, dtype=torch.uint8) for _ in range(2))
    masks = torch.empty(count, size, size, dtype=torch.bool)
    chunk = max(1, SAMPLES_PER_CHUNK // size**2)
    for first in range(0, count, chunk):
        here = slice(first, min(first + chunk, count))
        horses[here], zebras[here], masks[here] = _paint(_Dice(seed, here.start, here.stop), size)
    return Scenes(horses, zebras, masks)


def _require(name: str, value: object, least: int, unit: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}{unit}, not {value!r}")


# ---- numbers, ramps and noise ------------------------------------------------------------------------------


class _Grid(NamedTuple):
    """Where the pixels are and how big they are, in one unit."""

    x: Tensor  # (B or 1, H, W)
    y: Tensor  # (B or 1, H, W)
    pixel: Number


class _Dice:
    """The random numbers of scenes first..last-1, handed out one after another."""

    def __init__(self, seed: int, first: int, last: int) -> None:
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
        """An index below count per scene, (B,)."""
        return (next(self._columns) * count).long()


def _mix(start: Number, end: Number, share: Tensor) -> Tensor:
    """start where share is 0, end where it is 1."""
    mixed = share * (end - start)
    mixed += start  # in place, because most of the time goes into fresh planes
    return mixed


def _edge(distance: Tensor, width: Number) -> Tensor:
    """1 inside, 0 outside, with a ramp `width` wide across distance 0."""
    return (0.5 - distance / width).clamp_(0.0, 1.0)


def _wave(turns: Tensor) -> Tensor:
    """Much like a sine, of period 1 and in [-1, 1], but made of parabolas."""
    centred = turns - turns.floor() - 0.5
    return 16.0 * centred * (centred.abs() - 0.5)


def _unit(x: Tensor, y: Tensor) -> Pair:
    length = (x * x + y * y).sqrt()
    return x / length, y / length


def _noise(lattice: Tensor, size: int, across: int, down: int) -> Tensor:
    """Smooth noise in [0, 1) with `across` x `down` bumps in a picture, (B, size, size)."""

    def cells(bumps: int) -> tuple[Tensor, Tensor, Tensor]:
        place = _centres(size) * bumps
        part = place - place.floor()
        cell = place.long()
        return cell % LATTICE, (cell + 1) % LATTICE, part * part * (3.0 - 2.0 * part)

    left, right, share = cells(across)
    lines = _mix(lattice[:, :, left], lattice[:, :, right], share)  # (B, LATTICE, size)
    upper, lower, share = cells(down)
    return _mix(lines[:, upper], lines[:, lower], share[:, None])


def _centres(size: int) -> Tensor:
    return (torch.arange(size, dtype=torch.float32) + 0.5) / size


def _colours(table: list | tuple, choice: Tensor) -> Tensor:
    """The chosen rows of a table of 0..255 colours, (B, 3, 1, 1) in 0..1."""
    return (torch.tensor(table, dtype=torch.float32) / 255.0)[choice][:, :, None, None]


# ---- anatomy -----------------------------------------------------------------------------------------------


class _Shape(NamedTuple):
    """A silhouette and what it carries, each (B, H, W)."""

    distance: Tensor  # negative inside
    light: Tensor  # -1 turned away from the sun, 1 facing it
    phase: Tensor  # position along the body; stripes are its level lines
    points: Tensor  # share of the mane colour on a horse


class _Pose(NamedTuple):
    """What the dice decide about an animal."""

    feet: list[tuple[Tensor, Tensor]]  # swing and lift of near fore, far fore, near hind, far hind
    neck: Pair  # the middle of the neck
    poll: Pair  # where the neck ends and the head begins
    nose: Pair
    crest: Pair  # unit vector from the neck to the mane
    tail: Tensor  # how far it swings out


def _pose(dice: _Dice) -> _Pose:
    grazing = dice.chance(0.22)
    rise = _mix(dice.roll(0.5, 1.7), dice.roll(-1.0, -0.75), grazing)
    one = torch.ones_like(rise)
    ahead, up = _unit(one, rise)
    crest, arch, length = (-up, ahead), dice.roll(0.01, 0.06), 0.53 + 0.08 * grazing
    poll = (NECK_BASE[0] + length * ahead, NECK_BASE[1] + length * up)
    halfway = (NECK_BASE[0] + 0.5 * length * ahead, NECK_BASE[1] + 0.5 * length * up)
    neck = (halfway[0] + arch * crest[0], halfway[1] + arch * crest[1])
    face = _unit(one, _mix(dice.roll(-1.5, -0.6), dice.roll(-3.0, -2.0), grazing))
    nose = (poll[0] + FACE * face[0], poll[1] + FACE * face[1])

    standing = torch.maximum(grazing, dice.chance(0.3))
    stride = _mix(dice.roll(0.10, 0.22), dice.roll(0.03, 0.08), standing)
    beat, feet = dice.roll(), []
    for offset in (0.0, 0.5, 0.75, 0.25):  # the four-beat order of a walk
        forward = _wave(beat + offset + 0.25).clamp(0.0, 1.0)  # a hoof is lifted while it moves forward
        feet.append((stride * _wave(beat + offset), 0.5 * stride * forward))
    return _Pose(feet, neck, poll, nose, crest, dice.roll(-0.06, 0.08))


def _limb(
    grid: _Grid, sun: Pair, start: Pair, end: Pair, radii: Pair, phases: Pair, points: Pair = (0.0, 0.0)
) -> _Shape:
    """A tapered capsule; the last three pairs give the values at its start and its end."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    x, y = grid.x - start[0], grid.y - start[1]
    squared = dx * dx + dy * dy
    axis = x * (dx / squared) + y * (dy / squared)
    along = axis.clamp(0.0, 1.0)
    x -= along * dx
    y -= along * dy
    radius = _mix(*radii, along)
    light = (x * sun[0] + y * sun[1]).div_(radius).clamp_(-1.0, 1.0)
    distance = x.mul_(x).add_(y.mul_(y)).sqrt_().sub_(radius)
    # The phase runs on beyond both ends, or the round caps would be blots of a single colour.
    return _Shape(distance, light, _mix(*phases, axis), _mix(*points, along))


def _melt(first: _Shape, second: _Shape, reach: float) -> _Shape:
    """Smooth union: within `reach` the silhouettes, and all they carry, flow into each other."""
    share = _edge(second.distance - first.distance, 2.0 * reach)  # of the second
    distance, *carried = (_mix(one, other, share) for one, other in zip(first, second, strict=True))
    distance -= reach * share * (1.0 - share)
    return _Shape(distance, *carried)


def _leg(grid: _Grid, sun: Pair, joints: tuple, radii: tuple, phase: float, dark: Tensor) -> _Shape:
    """Upper leg, lower leg and hoof; the stripes are rings because the phase falls on the way down."""
    top, middle, foot = joints
    upper = _limb(grid, sun, top, middle, radii[:2], (phase, phase - 0.36), (0.0, 0.6 * dark))
    lower = _limb(grid, sun, middle, foot, radii[1:], (phase - 0.36, phase - 0.68), (0.9 * dark, dark))
    toe = (foot[0] + 0.04, foot[1] - 0.01)
    hoof = _limb(grid, sun, foot, toe, (0.030, 0.036), (phase - 0.68, phase - 0.72), (dark, dark))
    hoof.light.sub_(2.2)  # horn is dark on either coat
    return _melt(_melt(upper, lower, 0.05), hoof, 0.015)


def _legs(grid: _Grid, sun: Pair, pose: _Pose, far: int, dark: Tensor) -> tuple[_Shape, _Shape]:
    """Fore and hind leg of the near (0) or the far (1) side."""
    right, up = 0.07 * far, 0.03 * far  # perspective: the far side stands a little further up the picture
    swing, lift = pose.feet[far]
    knee = (0.29 + right + 0.5 * swing + lift, 0.35 + 0.5 * lift)
    joints = ((0.27 + right, 0.68), knee, (0.28 + right + swing, 0.045 + up + lift))
    fore = _leg(grid, sun, joints, (0.095, 0.045, 0.031), 0.22, dark)
    swing, lift = pose.feet[2 + far]
    hock = (-0.47 + right + 0.5 * swing + 0.3 * lift, 0.36 + 0.5 * lift)
    joints = ((-0.36 + right, 0.70), hock, (-0.43 + right + swing, 0.045 + up + lift))
    return fore, _leg(grid, sun, joints, (0.135, 0.047, 0.033), -0.36, dark)


def _trunk(grid: _Grid, sun: Pair) -> _Shape:
    """Barrel, haunch and chest; the stripes stand upright on the ribs and lie down over the haunch."""
    barrel = _limb(grid, sun, (-0.28, 0.785), (0.24, 0.745), (0.168, 0.195), (0.0, 0.0))
    haunch = _limb(grid, sun, (-0.35, 0.81), (-0.41, 0.70), (0.185, 0.13), (0.0, 0.0))
    chest = _limb(grid, sun, (0.25, 0.84), (0.35, 0.72), (0.165, 0.145), (0.0, 0.0))
    behind = (-0.05 - grid.x).clamp_(0.0, 0.6)
    phase = grid.x + behind * (0.75 * behind + 1.8 * (grid.y - 0.82))
    return _melt(_melt(barrel, haunch, 0.05), chest, 0.05)._replace(phase=phase)


def _neck(grid: _Grid, sun: Pair, pose: _Pose) -> tuple[_Shape, _Shape]:
    """The neck and the mane on it, in two pieces each so that they arch."""

    def beside(point: Pair, out: float) -> Pair:
        return point[0] + out * pose.crest[0], point[1] + out * pose.crest[1]

    lower = _limb(grid, sun, NECK_BASE, pose.neck, (0.16, 0.115), (0.36, 0.62))
    upper = _limb(grid, sun, pose.neck, pose.poll, (0.115, 0.085), (0.62, 0.90))
    withers, middle, crown = beside(NECK_BASE, 0.14), beside(pose.neck, 0.085), beside(pose.poll, 0.075)
    back = _limb(grid, sun, withers, middle, (0.015, 0.06), (0.36, 0.62), (1.0, 1.0))
    front = _limb(grid, sun, middle, crown, (0.06, 0.045), (0.62, 0.90), (1.0, 1.0))
    return _melt(lower, upper, 0.03), _melt(back, front, 0.02)


def _head(grid: _Grid, sun: Pair, pose: _Pose) -> tuple[_Shape, Tensor]:
    """Skull, ears and eye, and how dark the muzzle is."""
    poll, nose = pose.poll, pose.nose
    ahead = ((nose[0] - poll[0]) / FACE, (nose[1] - poll[1]) / FACE)
    x, y = grid.x - poll[0], grid.y - poll[1]
    # The head in coordinates of its own: x from poll to nose, y from jaw to brow.
    face = _Grid(x * ahead[0] + y * ahead[1], y * ahead[0] - x * ahead[1], grid.pixel)
    turned = (sun[0] * ahead[0] + sun[1] * ahead[1], sun[1] * ahead[0] - sun[0] * ahead[1])
    skull = _limb(face, turned, (0.0, 0.0), (FACE, 0.0), (0.098, 0.058), (0.90, 1.08))
    muzzle = ((face.x - 0.27) * 12.0).clamp_(0.0, 1.0)
    x, y = face.x - 0.10, face.y - 0.035
    eye = _edge((x * x + y * y).sqrt_() - 0.018, face.pixel)
    skull = skull._replace(light=skull.light - 0.5 * muzzle - 2.5 * eye, phase=skull.phase + 0.8 * face.y)
    far = _limb(face, turned, (0.03, 0.06), (-0.01, 0.17), (0.034, 0.008), (0.90, 0.95))
    near = _limb(face, turned, (-0.02, 0.06), (-0.06, 0.17), (0.034, 0.008), (0.90, 0.95))
    far.light.sub_(0.5)
    return _melt(_melt(far, near, 0.005), skull, 0.01), torch.maximum(muzzle, eye)


def _animal(grid: _Grid, sun: Pair, pose: _Pose, period: Tensor, dark: Tensor) -> tuple[Tensor, ...]:
    """Cover, light, mane colour of the horse and black of the zebra, each (B, H, W)."""
    far = _melt(*_legs(grid, sun, pose, 1, dark), 0.01)
    far.light.sub_(0.55)
    bend, tip = (-0.63 - pose.tail, 0.66), (-0.62 - 1.5 * pose.tail, 0.30)
    dock = _limb(grid, sun, (-0.53, 0.86), bend, (0.035, 0.04), (0.0, 0.25), (0.8, 1.0))
    hair = _limb(grid, sun, bend, tip, (0.05, 0.014), (0.25, 0.6), (1.0, 1.0))
    tuft = ((0.62 - grid.y) * 12.0).clamp_(0.0, 1.0)
    neck, mane = _neck(grid, sun, pose)
    fore, hind = _legs(grid, sun, pose, 0, dark)
    body = _melt(_melt(_melt(_trunk(grid, sun), neck, 0.07), fore, 0.05), hind, 0.06)
    head, muzzle = _head(grid, sun, pose)

    width = 0.50 - (1.2 * (0.72 - grid.y)).clamp_(0.0, 0.12)  # stripes thin out on belly and legs
    layers = ((far, 0.0), (_melt(dock, hair, 0.03), tuft), (body, 0.0), (mane, 0.0), (head, muzzle))
    planes = None
    for shape, black in layers:  # from back to front; black adds to the stripes
        cover = _edge(shape.distance, grid.pixel)
        turns = shape.phase / period
        ridge = 2.0 * (turns - turns.floor() - 0.5).abs()  # 0 in the middle of a stripe, 1 between two
        stripes = _edge((ridge - width) * (0.5 * period), grid.pixel)
        front = (torch.ones_like(cover), shape.light, shape.points, (stripes + black).clamp_(0.0, 1.0))
        planes = planes or (torch.zeros_like(cover), *front[1:])
        planes = tuple(_mix(behind, before, cover) for behind, before in zip(planes, front, strict=True))
    return planes


# ---- landscape ---------------------------------------------------------------------------------------------


def _landscape(dice: _Dice, grid: _Grid, horizon: Tensor, from_left: Tensor, day: list[Tensor]) -> Tensor:
    """Sky, clouds, hills, a wood, grass and acacias, (B, 3, H, W) in about 0..1."""
    zenith, haze, sunlight, _ = day
    height = horizon - grid.y  # above the horizon
    size = grid.x.shape[-1]

    picture = _mix(haze, zenith, (height / horizon).clamp(0.0, 1.0)[:, None])
    x, y = grid.x - 0.5 + 0.45 * from_left, height - dice.roll(0.02, 0.3)
    picture = _mix(picture, sunlight.clamp(0.0, 1.0), 0.8 / (1.0 + 90.0 * (x * x + y * y))[:, None])
    clouds = 0.7 * _noise(dice.lattice, size, 3, 11) + 0.3 * _noise(dice.lattice, size, 8, 23)
    clouds = 0.7 * (3.0 * (clouds - dice.roll(0.5, 0.8))).clamp_(0.0, 1.0)
    picture = _mix(picture, 0.5 + 0.5 * haze, clouds[:, None])

    leaves = _colours([LEAVES], torch.zeros(1, dtype=torch.long)) * (0.4 + 0.6 * sunlight)
    for tallest, mist in ((0.16, 0.75), (0.09, 0.5)):  # the farther, the more of the haze
        ridge = _wave(grid.x * dice.roll(0.5, 1.2) + dice.roll()) + 0.4 * _wave(grid.x * dice.roll(1.6, 3.0))
        ridge = dice.roll(0.1, 1.0) * tallest * (0.55 + 0.4 * ridge)
        hills = (1.0 - mist) * leaves + 0.85 * mist * haze
        picture = _mix(picture, hills, _edge(height - ridge, 1.5 * grid.pixel)[:, None])
    wood = dice.roll(-0.03, 0.05) + 0.05 * _noise(dice.lattice, size, 19, 1)[:, :1]
    picture = _mix(picture, 0.8 * leaves + 0.2 * haze, _edge(height - wood, 2.0 * grid.pixel)[:, None])

    depth = (-height / (1.0 - horizon)).clamp_(0.0, 1.0)  # 0 at the horizon, 1 at the lower edge
    grass = _colours(GRASSES, dice.pick(len(GRASSES))) * (0.5 + 0.5 * sunlight)
    blades = sum(_noise(dice.lattice, size, *bumps) - 0.5 for bumps in ((23, 17), (7, 19), (47, 29)))
    shade = dice.roll(0.85, 1.08) * (1.0 + blades * (0.05 + 0.12 * depth) - 0.12 * depth)
    meadow = _mix(0.6 * grass + 0.4 * haze, grass, depth.sqrt()[:, None]) * shade[:, None]
    picture = _mix(picture, meadow, _edge(height, grid.pixel)[:, None])
    for _ in range(3):
        picture = _acacia(dice, grid, picture, horizon, leaves)
    return picture


def _acacia(dice: _Dice, grid: _Grid, picture: Tensor, horizon: Tensor, leaves: Tensor) -> Tensor:
    """Add an umbrella tree, or none where its place is left of the picture."""
    tall = dice.roll(0.10, 0.32)
    place = dice.roll(-0.7, 1.0)
    tree = _Grid((grid.x - place) / tall, (horizon + 0.1 * tall - grid.y) / tall, grid.pixel / tall)
    lean = (dice.roll(-0.15, 0.15), 0.0)
    trunk = _limb(tree, (0.0, 0.0), lean, (0.0, 0.62), (0.045, 0.03), (0.0, 0.0)).distance
    picture = _mix(picture, 0.45 * leaves, _edge(trunk, tree.pixel)[:, None])
    rise = 3.4 * (tree.y - 0.72)
    rough = 0.25 * _noise(dice.lattice, grid.x.shape[-1], 31, 37)
    crown = 0.5 * ((tree.x * tree.x + rise * rise).sqrt_() + rough - 0.75)
    crown = torch.maximum(crown, 0.62 - tree.y)  # flat below
    green = leaves * (0.7 + 1.2 * (tree.y - 0.6).clamp_(0.0, 0.4))[:, None]
    return _mix(picture, green, _edge(crown, tree.pixel)[:, None])


# ---- picture -----------------------------------------------------------------------------------------------


def _paint(dice: _Dice, size: int) -> Scenes:
    """One chunk of scenes."""
    centres = _centres(size)
    grid = _Grid(centres.expand(1, size, size), centres[:, None].expand(1, size, size), 1.0 / size)
    coat, daylight = dice.pick(len(COATS)), dice.pick(len(DAYLIGHTS))
    day = [_colours(column, daylight) for column in zip(*DAYLIGHTS, strict=True)]
    facing = 1.0 - 2.0 * dice.chance(0.5)  # 1 to the right, -1 to the left
    from_left = dice.roll(-1.0, 1.0)  # where the light comes from
    horizon = dice.roll(0.36, 0.62)
    pose = _pose(dice)

    # As big as the dice say, but no longer than the picture is wide and no taller than it is high.
    reach = pose.nose[0] + 0.07 - TAIL
    top = (pose.poll[1] + 0.2).clamp(min=1.1)
    scale = torch.minimum(dice.roll(0.42, 0.60), torch.minimum(0.97 / reach, 0.88 / top))
    slack = 0.50 - 0.5 * scale * reach
    centre = 0.5 - (TAIL + 0.5 * reach) * scale * facing + dice.roll(-1.0, 1.0) * slack
    ground = _mix((top * scale + 0.04).clamp(min=0.80), 0.95, dice.roll())
    own = _Grid((grid.x - centre) * facing / scale, (ground - grid.y) / scale, grid.pixel / scale)

    landscape = _landscape(dice, grid, horizon, from_left, day)
    x, y = (own.x - 0.25 * from_left * facing) / 0.68, (own.y - 0.03) / 0.10
    shadow = 0.5 * (1.25 - x * x - y * y).clamp_(0.0, 1.0)[:, None]
    landscape = landscape * (1.0 - shadow * (1.0 - 0.6 * day[3]))

    sun = _unit(-0.8 * from_left * facing, torch.full_like(facing, 0.75))
    period = torch.maximum(dice.roll(*STRIPE_PERIODS), SMALLEST_STRIPE_PERIOD / SMALLEST_SIZE / scale)
    dark = torch.tensor([row[2] for row in COATS])[coat][:, None, None]
    planes = _animal(own, sun, pose, period, dark)
    cover, light, points, black = (plane[:, None] for plane in planes)  # (B, 1, H, W)
    light = 0.60 + 0.46 * light  # negative at hooves and eyes, which are dark in any light
    lamp = _mix(day[3], day[2], light.clamp(0.0, 1.0)) * (1.0 + light.clamp(-0.8, 0.0))  # (B, 3, H, W)

    tone = dice.roll(0.92, 1.08)[:, None]
    body, mane = (_colours([row[part] for row in COATS], coat) * tone for part in (0, 1))
    white, ink = _colours([WHITE, BLACK], torch.arange(2))  # (3, 1, 1)
    horses = _mix(landscape, _mix(body, mane, points) * lamp, cover)
    zebras = _mix(landscape, _mix(white, ink, black) * lamp, cover)
    return Scenes(_bytes(horses), _bytes(zebras), planes[0] > 0.0)


def _bytes(picture: Tensor) -> Tensor:
    return (picture * 255.0 + 0.5).clamp_(0.0, 255.0).to(torch.uint8)
