"""TraVeLGAN: its losses, and who gets which gradient."""

import copy

import numpy as np
import pytest
import torch

from hw2lib.cyclegan import CycleGAN, CycleGANConfig, discriminator_loss, generator_loss
from hw2lib.studies import travelgan
from hw2lib.studies.travelgan import (
    SiameseNetwork,
    TravelError,
    TravelGAN,
    margin_loss,
    transformation_vectors,
    travel_loss,
)
from hw2lib.training import machine

SMALL = {"size": 32, "base_channels": 4, "blocks": 1, "discriminator": "picture"}


def make(total_steps=10, **options) -> TravelGAN:
    """A small model, set up on the CPU."""
    model = TravelGAN(CycleGANConfig(**SMALL | options))
    model.setup(machine("cpu", "32"), total_steps)
    return model


def points(count=5, dim=7, seed=0) -> torch.Tensor:
    return torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def batch(pictures):
    """uint8 (real_a, real_b), (4, 3, 32, 32) each."""
    return pictures[:4], pictures[4:8]


# ---- losses


def test_losses_are_those_of_the_definition():
    """Travel and margin loss equal their sums over all i != j, written out in NumPy float64."""
    before, after, margin = points(seed=0).numpy(), points(seed=1).numpy(), 3.5
    travel, apart = [], []
    for i in range(5):
        for j in range(5):
            if i != j:
                v, w = before[i] - before[j], after[i] - after[j]
                cosine = (v * w).sum() / np.sqrt((v**2).sum() * (w**2).sum())
                travel.append(1 - cosine + ((v - w) ** 2).sum() / 7)
                apart.append(max(0.0, margin - np.sqrt((v**2).sum())))
    v, w = transformation_vectors(points(seed=0)), transformation_vectors(points(seed=1))
    assert v.shape == (10, 7)
    assert 0 < sum(apart) < margin * len(apart)  # some pairs are nearer than the margin, some are not
    assert float(travel_loss(v, w)) == pytest.approx(np.mean(travel), rel=1e-12)
    assert float(margin_loss(v, margin)) == pytest.approx(np.mean(apart), rel=1e-12)


def test_every_pair_has_one_vector():
    """All i < j are there once, neighbours first."""
    numbers = torch.tensor([[1.0], [10.0], [100.0], [1000.0]])
    assert transformation_vectors(numbers).flatten().tolist() == [-9, -90, -900, -99, -990, -999]


def test_what_keeps_all_vectors_costs_nothing():
    """Moving all translated points by one vector keeps all vectors; scaling keeps the angles."""
    v = transformation_vectors(points())
    moved = transformation_vectors(points() + points(1, seed=2))
    assert float(travel_loss(v, moved)) == pytest.approx(0, abs=1e-12)
    assert float(travel_loss(v, 3 * v)) == pytest.approx(float(4 * v.square().mean()), rel=1e-12)
    assert float(travel_loss(v, -v)) == pytest.approx(2 + float(4 * v.square().mean()), rel=1e-12)


def test_equal_pictures_do_not_blow_up_the_gradient():
    """Points that differ by rounding only give bounded gradients: they have no direction."""
    before = (1e-7 * points()).requires_grad_()
    after = points(seed=1)
    loss = travel_loss(transformation_vectors(before), transformation_vectors(after))
    assert torch.autograd.grad(loss, before)[0].abs().max() < 1e3
    zero = torch.zeros(3, 4, requires_grad=True)
    vectors = transformation_vectors(zero)
    grad = torch.autograd.grad(travel_loss(vectors, vectors) + margin_loss(vectors, 1.0), zero)[0]
    assert torch.isfinite(grad).all()


def test_a_siamese_network_that_tells_nothing_apart_pays_the_margin(batch):
    """One point for all pictures costs the whole margin; one that tells them apart by more costs nothing."""
    model = make()
    model.siamese.register_forward_hook(lambda module, inputs, out: 0 * out + 1)
    assert float(model.step(batch)["margin"]) == pytest.approx(travelgan.MARGIN)
    v = transformation_vectors(points())
    assert margin_loss(v, 0.9 * float(v.norm(dim=1).min())) == 0


def test_training_drives_points_apart(batch, monkeypatch):
    """From points that are far too near, steps of S bring the margin loss down."""
    monkeypatch.setattr(travelgan, "MARGIN", 500.0)
    model = make(learning_rate=1e-3)
    found = [float(model.step(batch)["margin"]) for _ in range(8)]
    assert found[-1] < found[0] - 0.5


# ---- networks and steps


@pytest.mark.parametrize("size", [32, 36, 64])
def test_the_siamese_network_maps_pictures_to_points(size):
    """(B, 3, H, W) to (B, dim), each picture by itself."""
    network = SiameseNetwork(4, size, dim=9)
    x = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert network(x).shape == (3, 9)
        torch.testing.assert_close(network(x)[1:2], network(x[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", ["least_squares", "cross_entropy", "hinge"])
def test_each_network_gets_the_gradient_of_its_own_losses(batch, objective):
    """G: adversarial and weighted travel; S: weighted travel and margin; D: its own loss."""
    model = make(cycle_weight=3.0, objective=objective)
    g, s, d = (copy.deepcopy(network) for network in (model.g_ab, model.siamese, model.d_b))
    losses = model.step(batch)

    real_a, real_b = map(CycleGAN.to_network, batch)
    fake = g(real_a)
    v, w = transformation_vectors(s(real_a)), transformation_vectors(s(fake))
    travel, margin = travel_loss(v, w), margin_loss(v, travelgan.MARGIN)
    adversarial = generator_loss(objective, d(fake))
    of_d = discriminator_loss(objective, d(real_b), d(fake.detach()))
    for name, value in {"travel": travel, "margin": margin, "g_ab": adversarial, "d_b": of_d}.items():
        assert float(losses[name]) == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name
    for ours, copied, loss in (
        (model.g_ab, g, adversarial + 3 * travel),
        (model.siamese, s, 3 * travel + 3 * margin),
        (model.d_b, d, of_d),
    ):
        expected = torch.autograd.grad(loss, list(copied.parameters()), retain_graph=True)
        scale = max(float(grad.abs().max()) for grad in expected)
        assert scale > 0
        for parameter, grad in zip(ours.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, grad, rtol=1e-3, atol=1e-4 * scale)


def test_steps_lower_the_travel_loss(batch):
    """On one batch, again and again, the travel loss falls."""
    model = make(total_steps=100, learning_rate=1e-3)
    found = [float(model.step(batch)["travel"]) for _ in range(12)]
    assert found[-1] < 0.8 * found[0]


def test_a_batch_of_one_is_refused(batch):
    """One line, before any work: neither weights nor chance are touched."""
    model = make()
    model.g_ab.register_forward_hook(lambda *_: pytest.fail("began to work"))
    before, chance = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.raises(TravelError, match="has 1: give a batch size of 2 or more") as error:
        model.step((batch[0][:1], batch[1][:1]))
    assert "\n" not in str(error.value)
    assert torch.equal(chance, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for count in (0, 1):
        with pytest.raises(TravelError):
            transformation_vectors(torch.zeros(count, 3))
