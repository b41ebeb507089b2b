"""Numbers are what they are said to be: each is computed a second time, by NumPy in float64 or by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hw2lib.evaluation import metrics
from hw2lib.evaluation.codec import CODEC_BITS
from hw2lib.evaluation.metrics import mean_and_error, unigram_nll


def test_psnr_of_known_errors():
    """An MSE of 0.0035 is 24.56 dB, of 1 is 0 dB, and no error is infinitely good."""
    assert metrics.psnr(0.0035) == pytest.approx(24.559, abs=1e-3)
    assert (metrics.psnr(1.0), metrics.psnr(0)) == (0, math.inf)


def test_perplexity_matches_the_entropy_identity():
    """KL(usage || uniform) = log K - log perplexity, in float64, for any counts."""
    counts = torch.randint(0, 50, (512,), generator=torch.Generator().manual_seed(0))
    p = counts.double() / counts.sum()
    kl = (p[p > 0] * (p[p > 0] * 512).log()).sum().item()
    assert kl == pytest.approx(math.log(512) - math.log(metrics.perplexity(counts)), abs=1e-12)


def test_perplexity_grows_with_the_batch():
    """The same codes give a lower perplexity in small batches, and the whole set gives that of the whole set."""
    codes = torch.randint(0, 64, (400, 2, 2), generator=torch.Generator().manual_seed(0))
    found = metrics.perplexity_by_batch(codes, 64, [4, 40, 400, 4000])
    assert list(found) == [4, 40, 400]
    assert found[4] < found[40] < found[400]
    assert found[400] == metrics.perplexity(torch.bincount(codes.flatten(), minlength=64))


def test_squared_errors_are_exact():
    """The error of the mean picture is that of NumPy in float64, without wrapping round at 256."""
    train, test = np.random.default_rng(0).integers(0, 256, (2, 7, 3, 8, 8), dtype=np.uint8)
    expected = ((train.mean(0).round() / 255 - test / 255) ** 2).mean()
    found = metrics.simple_codecs(torch.from_numpy(train), torch.from_numpy(test))["mean_picture"]
    assert found == pytest.approx(expected, rel=1e-12)


def test_roughness_of_known_pictures():
    """A constant picture has roughness 0, a chessboard of 0 and 200 has 200, vertical stripes half of that."""
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 200
    stripes = (torch.arange(8) % 2 * 200).expand(8, 8)
    pictures = torch.stack([torch.full((8, 8), 9), board, stripes])[:, None].expand(3, 3, 8, 8).to(torch.uint8)
    assert metrics.roughness(pictures).tolist() == [0, 200, 100]


def test_nothing_depends_on_how_many_are_looked_at_at_a_time(monkeypatch):
    """Pictures too large to be looked at all at once give the same bits one by one; parts are whole and in order."""
    pictures = torch.randint(0, 256, (9, 3, 48, 48), generator=torch.Generator().manual_seed(0)).to(torch.uint8)

    def numbers():
        return metrics.roughness(pictures).tolist(), metrics.simple_codecs(pictures[:5], pictures[5:])

    assert [len(part) for part in metrics.in_parts(pictures, 8)] == [3, 3, 3]
    together = numbers()
    monkeypatch.setattr(metrics, "in_parts", lambda pictures: pictures.split(1))
    assert numbers() == together


def test_what_does_not_vary_has_no_correlation():
    """Pictures of one colour each are all equally rough: that is 0, and no number that cannot be kept."""
    assert metrics.correlation(torch.zeros(5), torch.arange(5.0)) == 0
    assert metrics.correlation(torch.arange(5.0), torch.arange(5.0)) == pytest.approx(1)


def test_simple_codecs_are_ordered():
    """On smooth pictures more bits help: the mean picture is worse than 4 x 4 thumbnails, those than 8 x 8 ones."""
    coarse = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    smooth = F.interpolate(coarse, size=32, mode="bilinear").to(torch.uint8)
    found = metrics.simple_codecs(smooth[:20], smooth[20:])
    assert sorted(found, key=found.get, reverse=True) == sorted(CODEC_BITS, key=CODEC_BITS.get) == list(found)


# ---- codes under a prior


@pytest.mark.parametrize("by_place", [False, True])
def test_unigram_is_that_of_counting(by_place):
    """Nats per code under smoothed training frequencies, of all places or of each, as loops in Python count them."""
    random = np.random.default_rng(0)
    train, test = random.integers(0, 4, (9, 2, 3)), random.integers(0, 6, (5, 2, 3))
    found = unigram_nll(torch.from_numpy(train), torch.from_numpy(test), 6, by_place, smoothing=0.5)
    costs = np.zeros((5, 2, 3))
    for i, row, column in np.ndindex(costs.shape):
        counted = train[:, row, column] if by_place else train
        chance = ((counted == test[i, row, column]).sum() + 0.5) / (counted.size + 6 * 0.5)
        costs[i, row, column] = -math.log(chance)
    assert found.numpy() == pytest.approx(costs.mean((1, 2)))


def test_the_test_maps_have_no_say_in_the_smoothing():
    """Each test map costs the same alone and among others, a code never seen is not impossible, a little costs little."""
    random = torch.Generator().manual_seed(0)
    train, test = (torch.randint(0, 7, (n, 3, 3), generator=random) for n in (200, 6))
    test[0] = 9
    found = unigram_nll(train, test, 10, by_place=True)
    assert torch.cat([unigram_nll(train, test[i : i + 1], 10, True) for i in range(6)]).equal(found)
    assert found.isfinite().all()
    assert math.log(10) < found[0] < 20
    assert found[1:].mean() == pytest.approx(math.log(7), abs=0.1)
    # 20 maps say little about 9 places: there more is added than where 2000 do.
    few, many = (torch.randint(0, 7, (n, 3, 3), generator=random) for n in (20, 2000))
    own = [unigram_nll(maps, test, 10, True)[0] for maps in (few, many)]
    assert own[0] < own[1]


def test_frequencies_of_each_place_help_where_places_differ():
    """Where each place has a code of its own, that costs next to nothing by place, and log of the places by none."""
    maps = torch.arange(6).view(1, 2, 3).repeat(500, 1, 1)
    assert unigram_nll(maps, maps, 6, by_place=True).mean() < 0.01
    assert unigram_nll(maps, maps, 6, by_place=False).mean() == pytest.approx(math.log(6))


def test_mean_and_error():
    """The standard error is that of the sample, over its root."""
    assert mean_and_error(torch.tensor([1.0, 2.0, 3.0, 4.0])) == pytest.approx((2.5, 1.2909944 / 2))
