"""What the procedural scenes promise to the experiments that learn from them."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from hw2lib.data import toy
from hw2lib.data.toy import Scenes, scenes

COUNT = 64


@pytest.fixture(scope="module")
def sample() -> Scenes:
    return scenes(COUNT, 32, seed=0)


def same(one: Scenes, other: Scenes) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def interior(masks: Tensor) -> Tensor:
    """The masks without their outermost pixels, so that silhouettes do not count as pattern."""
    return max_pool2d((~masks).float(), 3, 1, 1) == 0


def pattern(pictures: Tensor, inside: Tensor) -> Tensor:
    """Mean change of brightness from pixel to pixel inside each animal, (N,)."""
    grey = pictures.float().mean(1)
    steps = torch.zeros_like(grey)
    steps[:, :, 1:] += grey.diff(dim=2).abs()
    steps[:, 1:] += grey.diff(dim=1).abs()
    return (steps * inside).sum((1, 2)) / inside.sum((1, 2))


@pytest.mark.parametrize(("count", "size"), [(0, 40), (5, 33)])
def test_shapes_and_types(count, size):
    """Pictures are bytes and masks are booleans, in the promised shapes; no scenes are no error."""
    shapes = [(tuple(part.shape), part.dtype) for part in scenes(count, size, seed=1)]
    assert shapes == [((count, 3, size, size), torch.uint8)] * 2 + [((count, size, size), torch.bool)]


def test_other_seed_other_scenes(sample):
    """Another seed gives other scenes, and no two scenes of a seed are alike."""
    other = scenes(COUNT, 32, seed=1)
    pictures = torch.cat([sample.horses, other.horses]).flatten(1)
    assert len(pictures.unique(dim=0)) == 2 * COUNT


@pytest.mark.parametrize("size", [33, 64])
def test_count_and_chunks_do_not_matter(size, monkeypatch):
    """The first scenes of a long call equal a short call bit for bit, also when painted one at a time."""
    long = scenes(23, size, seed=7)
    first = Scenes(*(part[:9] for part in long))
    assert same(first, scenes(9, size, seed=7))
    monkeypatch.setattr(toy, "SAMPLES_PER_CHUNK", 1)
    assert same(first, scenes(9, size, seed=7))


def test_threads_do_not_matter(monkeypatch):
    """One thread and two give the same bits, also where rows do not fill vector registers."""
    monkeypatch.setattr(toy, "SAMPLES_PER_CHUNK", 2**16)  # planes large enough for torch to split
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(scenes(40, 33, seed=3))
    finally:
        torch.set_num_threads(before)
    assert same(*results)


def test_calm_scenes_have_one_coat_and_wide_stripes(sample):
    """The same animals, all bays at noon; half as many changes of brightness on the zebras."""
    calm = scenes(COUNT, 32, seed=0, calm=True)
    assert torch.equal(calm.masks, sample.masks)
    inside = interior(calm.masks)
    colours = torch.stack([horse[:, where].float().mean(1) for horse, where in zip(calm.horses, inside, strict=True)])
    assert colours.std(0).max() < 15  # of 255
    assert pattern(calm.zebras, inside).mean() < 0.75 * pattern(sample.zebras, inside).mean()


def test_same_scene_at_every_size():
    """A 128 px scene shrunk to 64 px is close to the 64 px scene and far from every other scene."""
    large, small = scenes(8, 128, seed=2), scenes(8, 64, seed=2)
    for big, little in ((large.horses, small.horses), (large.zebras, small.zebras)):
        shrunk = avg_pool2d(big.float(), 2)
        distances = (shrunk[:, None] - little.float()[None]).abs().mean((2, 3, 4))  # (8, 8)
        assert distances.diagonal().max() < 3
        assert (distances + 1000 * torch.eye(8)).min() > 10


def test_counterparts_share_the_background(sample):
    """Outside the mask a horse picture and its zebra counterpart are equal; inside they differ clearly."""
    difference = (sample.horses.int() - sample.zebras.int()).abs().amax(1)  # (N, H, W)
    assert difference[~sample.masks].max() == 0
    inside = (difference * sample.masks).sum((1, 2)) / sample.masks.sum((1, 2))
    assert inside.min() > 25


@pytest.mark.parametrize("size", [32, 64])
def test_horses_are_plain_and_zebras_striped(size):
    """Every zebra has at least 2.5 times the pattern of its own horse, and all zebras more than any horse."""
    horses, zebras, masks = scenes(COUNT, size, seed=4)
    inside = interior(masks)
    plain, striped = pattern(horses, inside), pattern(zebras, inside)
    assert (striped / plain).min() > 2.5
    assert striped.min() > 1.5 * plain.max()


def test_zebras_are_black_and_white(sample):
    """Stripes stay apart even at the smallest size: every zebra has many light and many dark pixels."""
    inside = interior(sample.masks)
    for zebra, where in zip(sample.zebras.float().mean(1), inside, strict=True):
        low, high = zebra[where].quantile(torch.tensor([0.2, 0.8]))
        assert high - low > 60


def test_animals_vary(sample):
    """Animals fill a tenth to half of the picture, graze or hold their heads high, face both ways, large and small."""
    masks = sample.masks
    share, height, width = masks.float().mean((1, 2)), masks.any(2).sum(1), masks.any(1).sum(1)
    assert 0.10 < share.min() < share.max() < 0.50
    assert (height / width).min() < 0.63 and (height / width).max() > 0.85
    assert 16 <= width.min() < width.max() / 1.3
    assert len(masks.flatten(1).unique(dim=0)) == COUNT
    # How far the top fifth of each animal lies to the right of its middle, in widths of the animal.
    side = []
    for mask in masks:
        rows, columns = mask.nonzero().unbind(1)
        top = rows <= rows.min() + (rows.max() - rows.min()) // 5
        middle = (columns.min() + columns.max()) / 2
        side.append((columns[top].float().mean() - middle) / (columns.max() - columns.min()))
    assert (torch.stack(side) > 0.15).sum() > COUNT / 8 and (torch.stack(side) < -0.15).sum() > COUNT / 8


def test_colours_vary(sample):
    """There are dark and light horses, brown ones and grey ones, below skies and on grass of clearly different colours."""
    inside = interior(sample.masks)[:, None]
    coats = (sample.horses * inside).sum((2, 3)) / inside.sum((2, 3))  # (N, 3)
    assert coats.mean(1).min() < 70 and coats.mean(1).max() > 150
    warmth = coats[:, 0] - coats[:, 2]
    assert warmth.min() < 20 and warmth.max() > 70
    for rows in (slice(0, 3), slice(29, 32)):
        assert sample.horses[:, :, rows].float().mean((2, 3)).std(0).min() > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 16, 0), "size must be a whole number of at least 32 pixels, not 16"),
        ((1, 64.0, 0), "size must be a whole number of at least 32 pixels, not 64.0"),
        ((-1, 32, 0), "count must be a whole number of at least 0, not -1"),
        ((True, 32, 0), "count must be a whole number of at least 0, not True"),
        ((1, 32, -5), "seed must be a whole number of at least 0, not -5"),
        ((1, 32, "7"), "seed must be a whole number of at least 0, not '7'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, refused):
    """A wrong argument is refused with one line that names it, its value and what would be right."""
    assert refused(scenes, *arguments) == f"the toy pictures cannot be drawn: {message}"
