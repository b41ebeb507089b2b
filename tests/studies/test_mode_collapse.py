"""Mode collapse: the ring is what it is said to be, modes are counted, and both networks are trained as often as asked."""

import math

import pytest
import torch

from hw2lib.studies import mode_collapse as ring
from hw2lib.studies.study import rows

RING = {"steps": 20, "noise": 8, "batch_size": 32}


def test_the_ring_has_its_radius_and_spread():
    """Eight even modes at distance 2, equally often, each round with deviation .05; .989 are near."""
    points = ring.draw_ring(40_000, torch.Generator().manual_seed(0))
    turns = torch.atan2(points[:, 1], points[:, 0]) / (2 * math.pi) * 8
    modes = turns.round()
    assert (turns - modes).abs().max() < 0.2  # nothing between the modes
    for mode in range(8):
        own = points[modes % 8 == mode]
        angle = 2 * math.pi * mode / 8
        centre = torch.tensor([2 * math.cos(angle), 2 * math.sin(angle)])
        assert len(own) == pytest.approx(5000, abs=400)
        torch.testing.assert_close(own.mean(0), centre, atol=0.005, rtol=0)
        torch.testing.assert_close(own.T.cov(), 0.05**2 * torch.eye(2), atol=2e-4, rtol=0)
    found = ring.coverage(points)
    assert found["modes"] == 8
    assert found["near"] == pytest.approx(1 - math.exp(-4.5), abs=0.003)


def test_modes_are_counted():
    """All eight, one, none far away or for no samples; a mode needs a hundredth, within three deviations."""
    centres = ring.centres()
    assert ring.coverage(centres.repeat(100, 1)) == {"modes": 8, "near": 1.0}
    assert ring.coverage(centres[3].expand(2500, 2)) == {"modes": 1, "near": 1.0}
    assert ring.coverage(torch.full((2500, 2), 40.0)) == {"modes": 0, "near": 0.0}
    assert ring.coverage(torch.zeros(2500, 2)) == {"modes": 0, "near": 0.0}
    assert ring.coverage(torch.zeros(0, 2)) == {"modes": 0, "near": 0.0}
    assert ring.coverage(torch.full((2500, 2), math.nan)) == {"modes": 0, "near": 0.0}
    for few, modes in ((24, 1), (25, 2)):
        samples = torch.cat([centres[0].expand(2500 - few, 2), centres[5].expand(few, 2)])
        assert ring.coverage(samples) == {"modes": modes, "near": 1.0}
    for away, near in ((0.149, 1.0), (0.151, 0.0)):
        assert ring.coverage(centres[:1] + torch.tensor([0.0, away]))["near"] == near


@pytest.mark.parametrize(("ratio", "updates"), [(0.2, [1, 0, 0, 0, 0, 1, 0]), (1.0, [1] * 7), (5.0, [5] * 7)])
def test_the_discriminator_is_updated_as_often_as_asked(ratio, updates, monkeypatch):
    """One update at every fifth step, one a step, or five; nothing else is drawn from the data."""
    assert [ring.due(step, ratio) for step in range(7)] == updates
    drawn, draw = [], ring.draw_ring
    monkeypatch.setattr(ring, "draw_ring", lambda count, dice: drawn.append(count) or draw(count, dice))
    found = ring.measure_ring({"setup": "plain", "width": 8, "ratio": ratio, "seed": 0}, **RING | {"steps": 7})
    assert drawn == [32 * count for count in updates]
    assert math.isfinite(found["d_loss"])
    assert math.isfinite(found["g_loss"])


def test_losses_are_least_squares(monkeypatch):
    """A D that says .3 of everything and cannot learn has the losses ((D - 1)^2 + D^2) / 2, (D - 1)^2."""

    def constant(width, packing):
        network = torch.nn.Sequential(torch.nn.Linear(2 * packing, 1))
        with torch.no_grad():
            network[0].weight.zero_()
            network[0].bias.fill_(0.3)
        return network

    monkeypatch.setattr(ring, "discriminator_network", constant)
    monkeypatch.setitem(ring.SETUPS, "plain", {"learning_rate": 0.0, "packing": 2})
    found = ring.measure_ring({"setup": "plain", "width": 1, "ratio": 1.0, "seed": 0}, **RING)
    assert found["d_loss"] == pytest.approx((0.49 + 0.09) / 2, abs=1e-6)
    assert found["g_loss"] == pytest.approx(0.49, abs=1e-6)


def test_the_last_tenth_is_averaged():
    """Only losses of the last tenth of the steps count, or the last loss where none is there."""
    losses = [(step, float(step)) for step in range(100)]
    assert ring.last_tenth(losses, 100) == pytest.approx(94.5)
    assert ring.last_tenth([(0, 1.0), (5, 2.0)], 10) == 2.0


def test_a_generator_learns_the_ring(monkeypatch):
    """After 300 steps more samples are within .5 of a mode than at first; parameters are counted."""
    monkeypatch.setattr(ring, "NEAR", 0.5)
    case, settings = {"setup": "plain", "width": 128, "ratio": 1.0, "seed": 0}, RING | {"batch_size": 128}
    first, found = (ring.measure_ring(case, **settings | {"steps": steps}) for steps in (1, 300))
    assert found["near"] > first["near"] + 0.05
    assert found["parameters"] == 2 * 128 + 128 + 128 + 1
    assert found["generator_parameters"] == 8 * 128 + 128 + 128**2 + 128 + 2 * 128 + 2


def test_the_ring_is_determined_by_the_case_and_leaves_chance_alone():
    """The same case gives the same numbers, another seed others; the global random state stays as it was."""
    before = torch.get_rng_state()
    case = {"setup": "packed", "width": 16, "ratio": 5.0, "seed": 0}
    first = ring.measure_ring(case, **RING)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert ring.measure_ring(case, **RING) == first
    assert ring.measure_ring(case | {"seed": 1}, **RING)["g_loss"] != first["g_loss"]


def test_a_packed_discriminator_is_shown_two_samples_at_once(monkeypatch):
    """Its rows are pairs of points of one kind, half as many as there are points, in the order in which they were drawn."""
    seen = []

    def recording(width, packing):
        network = torch.nn.Sequential(torch.nn.Linear(2 * packing, 1))
        network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
        return network

    drawn, draw = [], ring.draw_ring
    monkeypatch.setattr(ring, "discriminator_network", recording)
    monkeypatch.setattr(ring, "draw_ring", lambda count, dice: drawn.append(draw(count, dice)) or drawn[-1])
    ring.measure_ring({"setup": "packed", "width": 1, "ratio": 1.0, "seed": 0}, **RING | {"steps": 1})
    real = seen[0][:16]
    assert [tuple(batch.shape) for batch in seen] == [(32, 4), (16, 4)]
    assert torch.equal(real.reshape(32, 2), drawn[0])


def test_the_study_keeps_a_row_for_each_case_and_samples_of_the_first_seed(tmp_path):
    """Cases are the product of what is asked for, in that order."""
    run = ring.ring(tmp_path, widths=(4, 8), ratios=(0.2, 5), steps=1, seeds=(0, 1), setups=("plain",))
    found = [(row["width"], row["ratio"], row["seed"], len(ring.shown(row))) for row in rows(run)]
    assert found == [(width, ratio, seed, 64 * (not seed)) for width in (4, 8) for ratio in (0.2, 5) for seed in (0, 1)]
