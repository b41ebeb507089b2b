"""The animal of the toy scenes: a horse or a zebra, by coat, as distances from two dozen tapered limbs.

Each limb is a capsule whose radius changes along its axis; a smooth union melts them together. Besides its distance
a limb carries what the painter needs: how much sun it gets, a phase that grows along the body (stripes are its level
lines, so they follow the anatomy), and how much of the mane colour a horse shows there. B is the number of scenes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

Number = float | Tensor  # one for the whole batch, or one per scene as (B, 1, 1)
Pair = tuple[Number, Number]  # a point, a direction, or the values at the two ends of a limb

# The animal's own coordinates: x forwards, y upwards, hooves on y = 0, withers near y = 1.
TAIL = -0.72  # the hindmost x
NECK_BASE = (0.34, 0.86)
FACE = 0.35  # from poll to nose


class Grid(NamedTuple):
    """Where the pixels are and how big they are, in one unit."""

    x: Tensor  # (B or 1, H, W)
    y: Tensor  # (B or 1, H, W)
    pixel: Number


def mix(start: Number, end: Number, share: Tensor) -> Tensor:
    """start where share is 0, end where it is 1."""
    mixed = share * (end - start)
    mixed += start  # in place, because most of the time goes into fresh planes
    return mixed


def edge(distance: Tensor, width: Number) -> Tensor:
    """1 inside, 0 outside, with a ramp `width` wide across distance 0."""
    return (0.5 - distance / width).clamp_(0.0, 1.0)


def wave(turns: Tensor) -> Tensor:
    """Much like a sine, of period 1 and in [-1, 1], but made of parabolas."""
    centred = turns - turns.floor() - 0.5
    return 16.0 * centred * (centred.abs() - 0.5)


def unit(x: Tensor, y: Tensor) -> Pair:
    length = (x * x + y * y).sqrt()
    return x / length, y / length


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


def roll_pose(dice) -> _Pose:
    """A pose from the scene's random numbers, `dice.roll(low, high)` and `dice.chance(probability)`."""
    grazing = dice.chance(0.22)
    rise = mix(dice.roll(0.5, 1.7), dice.roll(-1.0, -0.75), grazing)
    one = torch.ones_like(rise)
    ahead, up = unit(one, rise)
    crest, arch, length = (-up, ahead), dice.roll(0.01, 0.06), 0.53 + 0.08 * grazing
    poll = (NECK_BASE[0] + length * ahead, NECK_BASE[1] + length * up)
    halfway = (NECK_BASE[0] + 0.5 * length * ahead, NECK_BASE[1] + 0.5 * length * up)
    neck = (halfway[0] + arch * crest[0], halfway[1] + arch * crest[1])
    face = unit(one, mix(dice.roll(-1.5, -0.6), dice.roll(-3.0, -2.0), grazing))
    nose = (poll[0] + FACE * face[0], poll[1] + FACE * face[1])

    standing = torch.maximum(grazing, dice.chance(0.3))
    stride = mix(dice.roll(0.10, 0.22), dice.roll(0.03, 0.08), standing)
    beat, feet = dice.roll(), []
    for offset in (0.0, 0.5, 0.75, 0.25):  # the four-beat order of a walk
        forward = wave(beat + offset + 0.25).clamp(0.0, 1.0)  # a hoof is lifted while it moves forward
        feet.append((stride * wave(beat + offset), 0.5 * stride * forward))
    return _Pose(feet, neck, poll, nose, crest, dice.roll(-0.06, 0.08))


def limb(grid: Grid, sun: Pair, start: Pair, end: Pair, radii: Pair, phases: Pair, points: Pair = (0.0, 0.0)) -> _Shape:
    """A tapered capsule; the last three pairs give the values at its start and its end."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    x, y = grid.x - start[0], grid.y - start[1]
    squared = dx * dx + dy * dy
    axis = x * (dx / squared) + y * (dy / squared)
    along = axis.clamp(0.0, 1.0)
    x -= along * dx
    y -= along * dy
    radius = mix(*radii, along)
    light = (x * sun[0] + y * sun[1]).div_(radius).clamp_(-1.0, 1.0)
    distance = x.mul_(x).add_(y.mul_(y)).sqrt_().sub_(radius)
    # The phase runs on beyond both ends, or the round caps would be blots of a single colour.
    return _Shape(distance, light, mix(*phases, axis), mix(*points, along))


def _melt(first: _Shape, second: _Shape, reach: float) -> _Shape:
    """Smooth union: within `reach` the silhouettes, and all they carry, flow into each other."""
    share = edge(second.distance - first.distance, 2.0 * reach)  # of the second
    distance, *carried = (mix(one, other, share) for one, other in zip(first, second, strict=True))
    distance -= reach * share * (1.0 - share)
    return _Shape(distance, *carried)


def _leg(grid: Grid, sun: Pair, joints: tuple, radii: tuple, phase: float, dark: Tensor) -> _Shape:
    """Upper leg, lower leg and hoof; the stripes are rings because the phase falls on the way down."""
    top, middle, foot = joints
    upper = limb(grid, sun, top, middle, radii[:2], (phase, phase - 0.36), (0.0, 0.6 * dark))
    lower = limb(grid, sun, middle, foot, radii[1:], (phase - 0.36, phase - 0.68), (0.9 * dark, dark))
    toe = (foot[0] + 0.04, foot[1] - 0.01)
    hoof = limb(grid, sun, foot, toe, (0.030, 0.036), (phase - 0.68, phase - 0.72), (dark, dark))
    hoof.light.sub_(2.2)  # horn is dark on either coat
    return _melt(_melt(upper, lower, 0.05), hoof, 0.015)


def _legs(grid: Grid, sun: Pair, pose: _Pose, far: int, dark: Tensor) -> tuple[_Shape, _Shape]:
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


def _trunk(grid: Grid, sun: Pair) -> _Shape:
    """Barrel, haunch and chest; the stripes stand upright on the ribs and lie down over the haunch."""
    barrel = limb(grid, sun, (-0.28, 0.785), (0.24, 0.745), (0.168, 0.195), (0.0, 0.0))
    haunch = limb(grid, sun, (-0.35, 0.81), (-0.41, 0.70), (0.185, 0.13), (0.0, 0.0))
    chest = limb(grid, sun, (0.25, 0.84), (0.35, 0.72), (0.165, 0.145), (0.0, 0.0))
    behind = (-0.05 - grid.x).clamp_(0.0, 0.6)
    phase = grid.x + behind * (0.75 * behind + 1.8 * (grid.y - 0.82))
    return _melt(_melt(barrel, haunch, 0.05), chest, 0.05)._replace(phase=phase)


def _neck(grid: Grid, sun: Pair, pose: _Pose) -> tuple[_Shape, _Shape]:
    """The neck and the mane on it, in two pieces each so that they arch."""

    def beside(point: Pair, out: float) -> Pair:
        return point[0] + out * pose.crest[0], point[1] + out * pose.crest[1]

    lower = limb(grid, sun, NECK_BASE, pose.neck, (0.16, 0.115), (0.36, 0.62))
    upper = limb(grid, sun, pose.neck, pose.poll, (0.115, 0.085), (0.62, 0.90))
    withers, middle, crown = beside(NECK_BASE, 0.14), beside(pose.neck, 0.085), beside(pose.poll, 0.075)
    back = limb(grid, sun, withers, middle, (0.015, 0.06), (0.36, 0.62), (1.0, 1.0))
    front = limb(grid, sun, middle, crown, (0.06, 0.045), (0.62, 0.90), (1.0, 1.0))
    return _melt(lower, upper, 0.03), _melt(back, front, 0.02)


def _head(grid: Grid, sun: Pair, pose: _Pose) -> tuple[_Shape, Tensor]:
    """Skull, ears and eye, and how dark the muzzle is."""
    poll, nose = pose.poll, pose.nose
    ahead = ((nose[0] - poll[0]) / FACE, (nose[1] - poll[1]) / FACE)
    x, y = grid.x - poll[0], grid.y - poll[1]
    # The head in coordinates of its own: x from poll to nose, y from jaw to brow.
    face = Grid(x * ahead[0] + y * ahead[1], y * ahead[0] - x * ahead[1], grid.pixel)
    turned = (sun[0] * ahead[0] + sun[1] * ahead[1], sun[1] * ahead[0] - sun[0] * ahead[1])
    skull = limb(face, turned, (0.0, 0.0), (FACE, 0.0), (0.098, 0.058), (0.90, 1.08))
    muzzle = ((face.x - 0.27) * 12.0).clamp_(0.0, 1.0)
    x, y = face.x - 0.10, face.y - 0.035
    eye = edge((x * x + y * y).sqrt_() - 0.018, face.pixel)
    skull = skull._replace(light=skull.light - 0.5 * muzzle - 2.5 * eye, phase=skull.phase + 0.8 * face.y)
    far = limb(face, turned, (0.03, 0.06), (-0.01, 0.17), (0.034, 0.008), (0.90, 0.95))
    near = limb(face, turned, (-0.02, 0.06), (-0.06, 0.17), (0.034, 0.008), (0.90, 0.95))
    far.light.sub_(0.5)
    return _melt(_melt(far, near, 0.005), skull, 0.01), torch.maximum(muzzle, eye)


def draw_animal(grid: Grid, sun: Pair, pose: _Pose, period: Tensor, dark: Tensor, share: float) -> tuple[Tensor, ...]:
    """Cover, light, mane colour of the horse and black of the zebra, each (B, H, W); `share` of its stripes is black."""
    far = _melt(*_legs(grid, sun, pose, 1, dark), 0.01)
    far.light.sub_(0.55)
    bend, tip = (-0.63 - pose.tail, 0.66), (-0.62 - 1.5 * pose.tail, 0.30)
    dock = limb(grid, sun, (-0.53, 0.86), bend, (0.035, 0.04), (0.0, 0.25), (0.8, 1.0))
    hair = limb(grid, sun, bend, tip, (0.05, 0.014), (0.25, 0.6), (1.0, 1.0))
    tuft = ((0.62 - grid.y) * 12.0).clamp_(0.0, 1.0)
    neck, mane = _neck(grid, sun, pose)
    fore, hind = _legs(grid, sun, pose, 0, dark)
    body = _melt(_melt(_melt(_trunk(grid, sun), neck, 0.07), fore, 0.05), hind, 0.06)
    head, muzzle = _head(grid, sun, pose)

    width = share - (1.2 * (0.72 - grid.y)).clamp_(0.0, 0.12)  # stripes thin out on belly and legs
    layers = ((far, 0.0), (_melt(dock, hair, 0.03), tuft), (body, 0.0), (mane, 0.0), (head, muzzle))
    planes = None
    for shape, black in layers:  # from back to front; black adds to the stripes
        cover = edge(shape.distance, grid.pixel)
        turns = shape.phase / period
        ridge = 2.0 * (turns - turns.floor() - 0.5).abs()  # 0 in the middle of a stripe, 1 between two
        stripes = edge((ridge - width) * (0.5 * period), grid.pixel)
        front = (torch.ones_like(cover), shape.light, shape.points, (stripes + black).clamp_(0.0, 1.0))
        planes = planes or (torch.zeros_like(cover), *front[1:])
        planes = tuple(mix(behind, before, cover) for behind, before in zip(planes, front, strict=True))
    return planes
