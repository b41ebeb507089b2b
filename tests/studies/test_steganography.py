"""What translations hide: disturbances are as strong as they say, and tell a translator that hides from one that does not."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data.unpaired import toy_domains
from hw2lib.evaluation.translations import cycle_error, translate
from hw2lib.studies.steganography import hidden_information


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
    """Noise of deviation 0 and no noise at all give translations.cycle_error, by the generators asked for."""
    model = translators(-1, -0.8)
    generators = model.generators(averaged)
    fake_b, fake_a = translate(generators[0], toy.test_a), translate(generators[1], toy.test_b)
    wanted = cycle_error(model, toy, averaged, fake_a, fake_b)["aba"]
    found = hidden_information(model, toy.test_a, averaged, noises=(0,), qualities=())
    assert found == {name: {"difference": 0, "cycle": wanted} for name in ("nothing", "noise_0")}
    assert wanted > 0.05


def test_disturbances_are_as_strong_as_they_say(toy):
    """On grey, noise differs by s sqrt(2 / pi) / 127.5 in the mean; JPEG the more the lower its quality."""
    grey = torch.full((8, 3, 32, 32), 128, dtype=torch.uint8)
    found = hidden_information(translators(1, 1), grey, False, noises=(4, 12), qualities=())
    for deviation in (4, 12):
        values = found[f"noise_{deviation}"]
        assert values["difference"] == pytest.approx(deviation * np.sqrt(2 / np.pi) / 127.5, rel=0.03)
        assert values["difference"] == values["cycle"]
    found = hidden_information(translators(1, 1), toy.test_a, False, noises=(), qualities=(95, 75, 30))
    apart = [found[f"jpeg_{quality}"]["difference"] for quality in (95, 75, 30)]
    assert 0 < apart[0] < apart[1] < apart[2] < 0.2


def test_what_is_hidden_does_not_survive(toy):
    """A translator whose pictures are almost grey comes back by amplifying them, until they are disturbed."""
    honest = hidden_information(translators(-1, -1), toy.test_a, False, (3,), (75,))
    hiding = hidden_information(translators(0.05, 20), toy.test_a, False, (3,), (75,))
    assert hiding["nothing"]["cycle"] < 0.06
    for name in ("noise_3", "jpeg_75"):
        assert honest[name]["cycle"] == pytest.approx(honest[name]["difference"], rel=0.05)
        assert hiding[name]["cycle"] - hiding["nothing"]["cycle"] > 5 * hiding[name]["difference"]


def test_looking_changes_nothing(toy):
    """Neither the model nor the pictures nor torch's chance are touched."""
    model = translators(-1, -1)
    before, weights = torch.random.get_rng_state(), copy.deepcopy(model.state_dict())
    pictures = toy.test_a.clone()
    first, again = (hidden_information(model, pictures, False) for _ in range(2))
    assert first == again
    assert torch.equal(pictures, toy.test_a)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items() if "extra" not in name)
