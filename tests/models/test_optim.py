"""Adam and the courses of the learning rate."""

import pytest
import torch
from torch import nn

from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.optim import adam, linear_decay, warmup_cosine, with_rate
from hw2lib.pixelcnn import GatedPixelCNN, PixelCNNConfig
from hw2lib.studies.travelgan import TravelGAN
from hw2lib.vqvae import VQVAE, VQVAEConfig


def test_linear_decay():
    """Constant for half of 20 steps, then linearly to a tenth at the last and 0 after it; or all the way, or never."""
    assert [linear_decay(20, 0.5)(step) for step in range(21)] == pytest.approx(
        [1] * 10 + [n / 10 for n in range(10, -1, -1)]
    )
    assert linear_decay(20, 0.5)(20) == 0
    assert [linear_decay(20, 0)(step) for step in range(20)] == [1] * 20
    assert [linear_decay(20, 1)(step) for step in range(20)] == pytest.approx([(20 - step) / 20 for step in range(20)])


def test_warmup_cosine():
    """It rises over the first steps, peaks at 1, is half way down in the middle, and small but not 0 at the last."""
    rates = [warmup_cosine(100, 2)(step) for step in range(100)]
    assert rates[:2] == [0.5, 1]
    assert rates[51] == pytest.approx(0.5)
    assert max(rates) == 1 and 0 < rates[-1] < 0.001
    assert [warmup_cosine(100, 5)(step) for step in range(6)] == [0.2, 0.4, 0.6, 0.8, 1, 1]
    assert [warmup_cosine(1, 0)(step) for step in range(2)] == [1, 1]


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_adam_is_fused_where_it_can_be(device):
    """On a CPU, and not on MPS; options and kinds go on to torch."""
    layer = nn.Linear(2, 2)
    optimizer = adam(layer.parameters(), torch.device(device), torch.optim.AdamW, lr=0.25, betas=(0.5, 0.9))
    assert type(optimizer) is torch.optim.AdamW
    assert (optimizer.defaults["lr"], optimizer.defaults["betas"]) == (0.25, (0.5, 0.9))
    assert optimizer.defaults["fused"] == (device == "cpu")


def test_a_schedule_moves_the_rate():
    """Before step n the optimiser's rate is its own times rate(n)."""
    optimizer = adam(nn.Linear(2, 2).parameters(), torch.device("cpu"), lr=0.5)
    schedule, found = with_rate(optimizer, linear_decay(4, 1)), []
    for _ in range(5):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert found == [0.5, 0.375, 0.25, 0.125, 0]


@pytest.mark.parametrize(
    ("model", "course"),
    [
        (CycleGAN(CycleGANConfig(size=32, base_channels=1, blocks=1)), linear_decay(100, 0.5)),
        (CycleGAN(CycleGANConfig(size=32, base_channels=1, blocks=1, decay_share=0.3)), linear_decay(100, 0.3)),
        (TravelGAN(CycleGANConfig(size=32, base_channels=1, blocks=1, decay_share=0.3)), linear_decay(100, 0.3)),
        (VQVAE(VQVAEConfig(hidden_channels=2)), warmup_cosine(100, 2)),
        (VQVAE(VQVAEConfig(hidden_channels=2, schedule="constant")), lambda step: 1),
        (GatedPixelCNN(PixelCNNConfig(channels=1)), warmup_cosine(100, 5)),
        (GatedPixelCNN(PixelCNNConfig(channels=1, schedule="constant")), lambda step: 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_model_has_its_course(model, course, machine):
    """CycleGAN and TraVeLGAN fall linearly, VQ-VAE warms up over 2 % and the prior over 5 % of the steps."""
    model.setup(machine(), total_steps=100)
    for name, schedule in model.schedules.items():
        assert schedule.optimizer is model.optimizers[name]
        assert schedule.base_lrs[0] == model.config.learning_rate
        assert [schedule.lr_lambdas[0](step) for step in range(101)] == [course(step) for step in range(101)]
