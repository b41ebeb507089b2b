"""CycleGAN in the plane: two domains of eight Gaussians each, where every question about a loss takes seconds.

The model is CycleGAN itself, its losses, pool and step, with networks of two hidden layers in place of convolutions. What
the cycle loss leaves open is what Moriakov, Adler and Teuwen (2020), arXiv:2001.09061, prove: a bijection, any of many.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data import random_stream
from hw2lib.studies.cyclegan_parts import RestingDiscriminators, WithoutAdversary, discriminator_step
from hw2lib.studies.mode_collapse import DEVIATION, MODES, SAMPLES, centres, coverage
from hw2lib.studies.study import Case, study, train_briefly
from hw2lib.training import Run

INNER, OUTER = 1.0, 2.0  # radii
SHARED = torch.arange(MODES) % 2 == 0  # modes that domains with a common part have in common


class PlaneGAN(CycleGAN):
    """CycleGAN between points (B, 2)."""

    def _prepared(self, batch: Sequence[Tensor]) -> Iterator[Tensor]:
        return iter(batch)

    def _generator(self) -> nn.Module:
        return _perceptron(2)

    def _discriminator(self) -> nn.Module:
        return _perceptron(1)


def _perceptron(outputs: int) -> nn.Sequential:
    """(B, 2) to (B, outputs)."""
    return nn.Sequential(nn.Linear(2, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, outputs))


class PlaneWithoutAdversary(WithoutAdversary, PlaneGAN):
    """Generators that learn from the cycle loss alone."""


class PlaneWithRest(RestingDiscriminators, PlaneGAN):
    """Discriminators updated at one of three steps."""


class Variant(NamedTuple):
    """What differs from the first entry of VARIANTS."""

    options: dict = {}  # noqa: RUF012 - never changed
    model: type[PlaneGAN] = PlaneGAN
    discriminator_steps: int = 1
    shared: bool = False  # whether the domains have half of their modes in common


VARIANTS: dict[str, Variant] = {
    "full": Variant(),  # least squares, cycle weight 10, no identity loss, no pool, rate 0.001
    "no_cycle_loss": Variant({"cycle_weight": 0.0}),
    "cycle_weight_0_1": Variant({"cycle_weight": 0.1}),
    "cycle_weight_1": Variant({"cycle_weight": 1.0}),
    "cycle_weight_100": Variant({"cycle_weight": 100.0}),
    "no_adversarial_loss": Variant(model=PlaneWithoutAdversary),
    "with_identity_loss": Variant({"identity_weight": 0.5}),
    "common_full": Variant(shared=True),
    "common_with_identity_loss": Variant({"identity_weight": 0.5}, shared=True),
    "pool": Variant({"pool_size": 1024}),
    "three_discriminator_steps": Variant(discriminator_steps=3),
    "resting_discriminators": Variant(model=PlaneWithRest),
    **{f"least_squares_{rate:g}": Variant({"learning_rate": rate}) for rate in (3e-4, 3e-3, 1e-2)},
    "cross_entropy": Variant({"objective": "cross_entropy"}),
    **{
        f"cross_entropy_{rate:g}": Variant({"objective": "cross_entropy", "learning_rate": rate})
        for rate in (3e-4, 3e-3, 1e-2)
    },
}


def modes_of(shared: bool) -> tuple[Tensor, Tensor]:
    """The centres of the domains a and b, float32 (8, 2) each; the nearest of b to the i-th of a is the i-th.

    a lies on a circle of radius 1 and b on one of radius 2. With a common part both lie on that of radius 2, but for every
    other mode of a.
    """
    outer = centres() * OUTER / centres().norm(dim=1, keepdim=True)
    inner = outer * INNER / OUTER
    return torch.where(SHARED[:, None] & torch.tensor(shared), outer, inner), outer


def config_of(variant: str, seed: int) -> CycleGANConfig:
    """The config of a variant's model; sizes of pictures and of convolutions mean nothing here."""
    shared = {"size": 32, "pool_size": 0, "learning_rate": 1e-3, "ema_decay": 0.0, "seed": seed}
    return CycleGANConfig(**shared | VARIANTS[variant].options)


def draw(modes: Tensor, count: int, dice: torch.Generator) -> Tensor:
    """Points, float32 (count, 2), around modes (8, 2), each equally likely."""
    chosen = torch.randint(len(modes), (count,), generator=dice)
    return modes[chosen] + DEVIATION * torch.randn(count, 2, generator=dice)


def measure(case: Case, steps: int, batch_size: int) -> dict[str, float]:
    """Train the variant of the case with its seed, and look at where the generators take new points and the centres.

    modes_ab, near_ab   `mode_collapse.coverage` of b by translations of a; modes_ba, near_ba the other way round
    cycle_aba, cycle_bab   mean absolute difference of a point and what comes back, as in the cycle loss
    change_ab     mean distance between a point of a and its translation; `least_change` is what it could be
    hit           modes of b that are the nearest to the translation of a centre of a, 1 to 8: 8 is a bijection
    kept          centres of a, of 8, whose translation is nearest to the mode of b that is nearest to them
    x_0, y_0 ...  where the centres of a are taken
    And what `step` returns, as means over the last tenth of the steps.
    """
    variant = VARIANTS[case["variant"]]
    modes_a, modes_b = modes_of(variant.shared)
    model = variant.model(config_of(case["variant"], case["seed"]))

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        dice = random_stream(case["seed"], epoch)
        for _ in range(100):
            yield draw(modes_a, batch_size, dice), draw(modes_b, batch_size, dice)

    def train_discriminators(stream: Iterable[tuple[Tensor, Tensor]]) -> None:
        for batch in islice(stream, variant.discriminator_steps - 1):
            discriminator_step(model, batch)

    history = train_briefly(model, batches, steps, case["seed"], train_discriminators)
    dice = random_stream(case["seed"], -1)
    a, b = draw(modes_a, SAMPLES, dice), draw(modes_b, SAMPLES, dice)
    with torch.no_grad():
        fake_b, fake_a, taken = model.g_ab(a), model.g_ba(b), model.g_ab(modes_a)
        back_a, back_b = model.g_ba(fake_b), model.g_ab(fake_a)
    nearest = torch.cdist(taken, modes_b).argmin(1)
    found = {f"{name}_ab": value for name, value in coverage(fake_b, modes_b).items()}
    found |= {f"{name}_ba": value for name, value in coverage(fake_a, modes_a).items()}
    found |= {
        "cycle_aba": float((back_a - a).abs().mean()),
        "cycle_bab": float((back_b - b).abs().mean()),
        "change_ab": float((fake_b - a).norm(dim=1).mean()),
        "least_change": float((modes_b - modes_a).norm(dim=1).mean()),
        "hit": len(nearest.unique()),
        "kept": int((nearest == torch.arange(MODES)).sum()),
    }
    for axis, values in zip("xy", taken.T.tolist(), strict=True):
        found |= {f"{axis}_{mode}": value for mode, value in enumerate(values)}
    return found | {name: float(losses[-max(1, steps // 10) :].mean()) for name, losses in history.items()}


def plane(runs=None, steps: int = 3000, seeds: Sequence[int] = range(10), n_jobs: int = 1) -> Run:
    """The study of `measure`: every variant with every seed. Raises RunError."""
    settings = {"steps": steps, "batch_size": 128}
    options = {
        name: config_of(name, 0).model_dump(mode="json", exclude={"seed"})
        | {"model": its.model.__name__, "discriminator_steps": its.discriminator_steps, "shared": its.shared}
        for name, its in VARIANTS.items()
    }
    cases = [{"variant": variant, "seed": seed} for seed in seeds for variant in VARIANTS]
    return study("plane", settings, cases, partial(measure, **settings), runs, {"variant": options}, n_jobs)
