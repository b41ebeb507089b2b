"""CycleGAN between two rings of Gaussians."""

import math

import pytest
import torch

from hw2lib.studies import plane
from hw2lib.studies.mode_collapse import DEVIATION, draw_ring
from hw2lib.studies.plane import (
    Plane,
    PlaneWithoutAdversary,
    PlaneWithRestingDiscriminators,
    discriminator_step,
    discriminator_steps,
)
from hw2lib.studies.study import rows
from hw2lib.training import machine


def row_of(goals, **more) -> dict:
    """A measured row whose centres go to these modes of b."""
    ends = plane.modes(False)[1][list(goals)]
    places = {f"{axis}_{mode}": float(ends[mode, at]) for at, axis in enumerate("xy") for mode in range(8)}
    return {"variant": "full", "modes_ab": 8, "modes_ba": 8} | places | more


def test_modes_are_at_equal_angles_and_overlap_in_half_of_them():
    for overlapping, radii in ((False, [1.0] * 8), (True, [2.0, 1.0] * 4)):
        a, b = plane.modes(overlapping)
        torch.testing.assert_close(b.norm(dim=1), torch.full((8,), 2.0))
        torch.testing.assert_close(a.norm(dim=1), torch.tensor(radii))
        angles = [torch.atan2(points[:, 1], points[:, 0]) for points in (a, b)]
        torch.testing.assert_close(angles[0], angles[1])


def test_points_lie_around_their_modes_with_the_stated_deviation():
    a, _ = plane.modes(False)
    points = draw_ring(40_000, torch.Generator().manual_seed(0), a)
    nearest = torch.cdist(points, a).argmin(1)
    assert (points - a[nearest]).std() == pytest.approx(DEVIATION, rel=0.01)
    assert torch.bincount(nearest, minlength=8).float().div(5000).sub(1).abs().max() < 0.05


@pytest.mark.parametrize(
    ("goals", "order"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], "kept"),
        ([3, 4, 5, 6, 7, 0, 1, 2], "turned"),
        ([5, 4, 3, 2, 1, 0, 7, 6], "mirrored"),
        ([1, 0, 2, 3, 4, 5, 6, 7], "other"),
        ([0, 0, 0, 0, 0, 0, 0, 0], "other"),
    ],
)
def test_the_order_of_a_map_is_told(goals, order):
    assert plane.order(row_of(goals)) == order


def test_only_trainings_that_hit_all_modes_both_ways_have_an_order():
    turned, missing = row_of([1, 2, 3, 4, 5, 6, 7, 0]), row_of(range(8), modes_ba=7)
    assert plane.outcomes([turned, missing])["full"] == {
        "trainings": 2,
        "hit": 1,
        "kept": 0,
        "turned": 1,
        "mirrored": 0,
        "other": 0,
    }


def test_points_enter_the_networks_as_they_are_and_the_step_is_cyclegans():
    model = plane.Plane(plane.config_of("full", 0))
    points = torch.randn(3, 2)
    assert all(got is given for got, given in zip(model._prepared((points, points)), (points, points), strict=True))
    assert plane.Plane.step is plane.CycleGAN.step
    assert [sum(p.numel() for p in part.parameters()) for part in model.networks] == [17154, 17154, 17025, 17025]


def test_each_variant_trains_and_differs_from_the_first_in_what_its_name_says(tmp_path):
    names = ["full", "no_adversarial_loss", "overlapping_with_identity_loss", "three_discriminator_steps", "pool"]
    run = plane.plane(tmp_path, steps=3, seeds=[0], variants=names)
    found = {row["variant"]: row for row in rows(run)}
    assert all(math.isfinite(value) for row in found.values() for value in row.values() if isinstance(value, float))
    assert "identity_a" in found["overlapping_with_identity_loss"] and "identity_a" not in found["full"]
    assert len({row["x_0"] for row in found.values()}) == 4  # three steps do not fill the pool
    first = run.metrics["options"]["variant"]["full"]
    changed = {
        name: {key for key in first if first[key] != its[key]}
        for name, its in run.metrics["options"]["variant"].items()
    }
    assert changed == {
        "full": set(),
        "no_adversarial_loss": {"model"},
        "overlapping_with_identity_loss": {"identity_weight", "overlapping"},
        "three_discriminator_steps": {"discriminator_steps"},
        "pool": {"pool_size"},
    }


@pytest.fixture
def batch():
    """Points (real_a, real_b), float32 (2, 2) each."""
    return tuple(torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(0)))


def ready(kind=Plane, steps=20, **options):
    """A model, set up on the CPU."""
    model = kind(plane.config_of("full", 0).model_copy(update=options))
    model.setup(machine("cpu", "32"), steps)
    return model


def weights_of(*networks):
    """All weights of networks in one vector, copied."""
    return torch.cat([p.detach().flatten() for network in networks for p in network.parameters()])


def generator_gradients(model, batch):
    """What the generators' update of a step is given, in one vector."""
    given = {}
    update = model._update
    model._update = lambda name, grads, share: (
        given.setdefault(name, [g.clone() for g in grads]),
        update(name, grads, share),
    )
    model.step(batch)
    return torch.cat([grad.flatten() for grad in given["generators"]])


def test_without_adversary_only_the_cycle_is_learnt(batch):
    """The generators get the gradient of the cycle loss, whatever discriminators say; in full they do not."""
    changed = {}
    for kind in (Plane, PlaneWithoutAdversary):
        one, other = ready(kind), ready(kind)
        for network in (other.d_a, other.d_b):
            network[-1].weight.data.mul_(-3)
        changed[kind] = not torch.equal(generator_gradients(one, batch), generator_gradients(other, batch))
    assert changed == {Plane: True, PlaneWithoutAdversary: False}

    model, plain = ready(PlaneWithoutAdversary), ready()
    a, b = batch
    g_ab, g_ba = plain.g_ab, plain.g_ba
    cycle = (g_ba(g_ab(a)) - a).abs().mean() + (g_ab(g_ba(b)) - b).abs().mean()
    wanted = torch.autograd.grad(10 * cycle, [*g_ab.parameters(), *g_ba.parameters()])
    torch.testing.assert_close(
        generator_gradients(model, batch), torch.cat([g.flatten() for g in wanted]), rtol=1e-3, atol=1e-6
    )


def test_without_adversary_discriminators_learn_all_the_same(batch):
    """Their first update is that of the full model, and what they say of translations is reported."""
    found = []
    for kind in (Plane, PlaneWithoutAdversary):
        model = ready(kind)
        before = weights_of(model.d_a, model.d_b)
        losses = model.step(batch)
        found.append(weights_of(model.d_a, model.d_b))
        assert not torch.equal(before, found[-1])
        assert {"g_ab", "g_ba", "d_a", "d_b_fake"} <= set(losses)
    assert torch.equal(*found)


def test_resting_discriminators_learn_at_every_third_step(batch):
    """After an update they rest twice, while generators change and both learning rates fall alike."""
    model = ready(PlaneWithRestingDiscriminators, steps=6)
    networks = ((model.d_a, model.d_b), (model.g_ab, model.g_ba))
    changed = {0: [], 1: []}
    for _ in range(6):
        before = [weights_of(*its) for its in networks]
        model.step(batch)
        for key, its in enumerate(networks):
            changed[key].append(not torch.equal(before[key], weights_of(*its)))
        rates = {optimizer.param_groups[0]["lr"] for optimizer in model.optimizers.values()}
        assert len(rates) == 1
    assert changed == {0: [True, False, False] * 2, 1: [True] * 6}
    assert rates == {0.0}


def test_one_more_discriminator_step_is_the_discriminators_alone(batch):
    """It leaves generators and rates alone, and updates as a step does whose generators stay as they are."""
    model, other = (ready(pool_size=50) for _ in range(2))
    others_update = other._update
    other._update = lambda name, grads, share: name == "generators" or others_update(name, grads, share)
    other.step(batch)
    generators = weights_of(model.g_ab, model.g_ba)
    discriminator_step(model, batch)
    assert torch.equal(weights_of(model.g_ab, model.g_ba), generators)
    torch.testing.assert_close(weights_of(model.d_a, model.d_b), weights_of(other.d_a, other.d_b))
    assert model.schedules["discriminators"].last_epoch == 0
    # The translations are kept in the pools as those of a step are.
    assert len(model.pool_a.pictures) == len(model.pool_b.pictures) == 2


def test_discriminators_learn_as_often_as_they_are_told(monkeypatch):
    """Each further step of the discriminators takes a batch of its own, of which the generators see nothing."""
    seen = []
    monkeypatch.setattr(plane, "discriminator_step", lambda model, batch: seen.append(batch))
    stream = iter(range(5))
    discriminator_steps(None, 2)(stream)
    assert seen == [0, 1] and next(stream) == 2
