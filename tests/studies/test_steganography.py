"""What translations hide: disturbances are as strong as they say, and tell a translator that hides from one that does not."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data.unpaired import toy_domains
from hw2lib.evaluation.translations import cycle_error, difference, translate
from hw2lib.studies import steganography


@pytest.fixture(scope="module")
def toy():
    """Drawn domains with 16 test pairs."""
    return toy_domains(32, train=2, test=16)


class Scale(nn.Module):
    """A translator that multiplies by a number."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(float(factor)))

    def forward(self, x):
        return x * self.factor


def translators(there, back):
    """A model with these generators, and averages that are worse."""
    model = CycleGAN(CycleGANConfig(size=32, base_channels=2, blocks=1, ema_decay=0.9))
    model.g_ab, model.g_ba = Scale(there), Scale(back)
    model.average_ab, model.average_ba = Scale(0.5), Scale(1)
    return model


@pytest.mark.parametrize("averaged", [False, True])
def test_without_disturbance_it_is_the_cycle_error(toy, averaged):
    """Nothing moves, and the error there and back is translations.cycle_error, both ways, by the generators asked for."""
    model = translators(-1, -0.8)
    g_ab, g_ba = model.generators(averaged)
    wanted = cycle_error(model, toy, averaged, translate(g_ba, toy.test_b), translate(g_ab, toy.test_a))
    found = steganography.hidden_both_ways(model, toy, averaged)
    for way, error in (("ab", wanted["aba"]), ("ba", wanted["bab"])):
        assert found[way]["nothing"] == {"change": 0, "moved": 0, "real_change": 0, "real_moved": 0, "cycle": error}
        assert set(found[way]) == {"nothing", *steganography.DISTURBANCES}
    assert wanted["aba"] > 0.05


def test_disturbances_are_as_strong_as_they_say(toy):
    """On grey, noise differs by s sqrt(2 / pi) / 127.5 in the mean; JPEG the more the lower its quality."""
    grey = torch.full((8, 3, 32, 32), 128, dtype=torch.uint8)
    for deviation in (4, 12):
        change = difference(steganography.noisy(grey, deviation), grey)
        assert change == pytest.approx(deviation * np.sqrt(2 / np.pi) / 127.5, rel=0.03)
    apart = [difference(steganography.compressed(toy.test_a, quality), toy.test_a) for quality in (95, 75, 30)]
    assert 0 < apart[0] < apart[1] < apart[2] < 0.2


def test_colours_and_brightness_are_made_coarse_apart():
    """Red and green of equal brightness, pixel by pixel, become one colour and keep it; black and white the other way round."""
    red_green = torch.tensor([[200, 0, 0], [0, 102, 0]], dtype=torch.uint8)  # both 59.8 of 255 bright
    black_white = torch.tensor([[0, 0, 0], [255, 255, 255]], dtype=torch.uint8)
    for pair, coarse, kept in ((red_green, (1, 2), (0,)), (black_white, (0,), (1, 2))):
        checks = torch.arange(8)[:, None] + torch.arange(8)
        picture = pair[checks % 2].permute(2, 0, 1)[None]  # (1, 3, 8, 8)
        spread = [steganography.coarser(picture, planes, 2).double().std((2, 3)).max() for planes in (coarse, kept)]
        assert spread[0] < 3 < 50 < spread[1]


def test_finest_colours_are_exchanged(toy):
    """Each picture gets the fine colours of the one before it: alike pictures stay as they are, but for rounding."""
    alike = toy.test_a[:1].repeat(3, 1, 1, 1)
    assert difference(steganography.exchanged(alike), alike) < 1e-9
    changed = steganography.exchanged(toy.test_a)
    coarse = steganography.coarser(toy.test_a, steganography.CHROMA, 2).int()
    wanted = (coarse[1] + toy.test_a[0].int() - coarse[0]).clamp(0, 255)
    assert torch.equal(changed[1].int(), wanted)


def test_what_is_hidden_does_not_survive(toy):
    """A translator whose pictures are almost grey comes back by amplifying them: what comes back moves 20 times as far."""
    disturbances = {name: steganography.DISTURBANCES[name] for name in ("noise_3", "jpeg_75")}
    honest = steganography.hidden_information(Scale(-1), Scale(-1), toy.test_a, toy.test_b, disturbances)
    hiding = steganography.hidden_information(Scale(0.05), Scale(10), toy.test_a, toy.test_b, disturbances)
    for name in disturbances:
        assert honest[name]["moved"] == pytest.approx(honest[name]["change"], rel=0.05)
        assert honest[name]["real_moved"] == pytest.approx(honest[name]["real_change"], rel=0.05)
        assert hiding[name]["moved"] > 5 * hiding[name]["change"]


def test_rows_to_look_at(toy):
    """What was taken away from translations is theirs less the coarser ones, eight times as strong, around grey."""
    rows = steganography.without_fine_colours(translators(-1, -1), toy.test_a[:2], averaged=False)
    apart = rows["translated"].int() - rows["coarser_colours"]
    assert torch.equal(rows["taken_away"].int(), (128 + 8 * apart).clamp(0, 255))
    assert torch.equal(rows["back"], toy.test_a[:2])


def test_looking_changes_nothing(toy):
    """Neither the model nor the pictures nor torch's chance are touched."""
    model = translators(-1, -1)
    before, weights = torch.random.get_rng_state(), copy.deepcopy(model.state_dict())
    pictures = toy.test_a.clone()
    first, again = (steganography.hidden_both_ways(model, toy, False) for _ in range(2))
    assert first == again
    assert torch.equal(pictures, toy.test_a)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items() if "extra" not in name)
