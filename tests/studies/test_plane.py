"""CycleGAN between two rings of Gaussians."""

import math

import pytest
import torch

from hw2lib.studies import plane
from hw2lib.studies.mode_collapse import DEVIATION, draw_ring
from hw2lib.studies.study import rows


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
