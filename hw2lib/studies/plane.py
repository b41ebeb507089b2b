"""CycleGAN in the plane: between two rings of eight Gaussians its own losses and step, and seconds a training.

What the homework asks of the losses (1.1) is decided here, where it can be counted: which modes are hit, whether the way
back is known, and whether each mode goes to its nearest. Networks are perceptrons of 128 x 128; all else is CycleGAN's.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.studies.mode_collapse import MODES, SAMPLES, centres, coverage, draw_ring, perceptron
from hw2lib.studies.study import Case, at_the_end, study, train_briefly
from hw2lib.training import Run


class Plane(CycleGAN):
    """CycleGAN on points, float32 (B, 2), as they are."""

    def _prepared(self, batch: Sequence[Tensor]) -> Iterator[Tensor]:
        return iter(batch)

    def _generator(self) -> nn.Module:
        return perceptron(2, 2)

    def _discriminator(self) -> nn.Module:
        return perceptron(2, 1)


class PlaneWithoutAdversary(Plane):
    """Generators that learn from the cycle loss alone: discriminators learn, but pass no gradient on."""

    def _discriminator(self) -> nn.Module:
        network = super()._discriminator()
        network.register_forward_pre_hook(lambda network, inputs: inputs[0].detach())
        return network


class PlaneWithRestingDiscriminators(Plane):
    """Discriminators updated at the first of every three steps; their learning rate falls all the same."""

    def _update(self, name: str, grads: Sequence[Tensor], share: int) -> None:
        if name == "discriminators" and self.schedules[name].last_epoch % 3:
            self.schedules[name].step()
        else:
            super()._update(name, grads, share)


def discriminator_step(model: CycleGAN, batch: tuple[Tensor, Tensor]) -> None:
    """An update of the discriminators alone, on points (real_a, real_b), at the present learning rate."""
    real_a, real_b = model._prepared(batch)
    with torch.no_grad(), model.autocast():
        fake_a, fake_b = model.g_ba(real_b).float(), model.g_ab(real_a).float()
    _, grads_a = model._discrimination("a", real_a, model.pool_a(fake_a))
    _, grads_b = model._discrimination("b", real_b, model.pool_b(fake_b))
    for parameter, grad in zip(model.parameters_of["discriminators"], grads_a + grads_b, strict=True):
        parameter.grad = grad
    model.optimizers["discriminators"].step()


def discriminator_steps(model: CycleGAN, count: int) -> Callable[[Iterator[tuple[Tensor, Tensor]]], None]:
    """For study.train_briefly: `count` updates of the discriminators alone before each step, each on a batch of its own."""

    def train(stream: Iterator[tuple[Tensor, Tensor]]) -> None:
        for batch in islice(stream, count):
            discriminator_step(model, batch)

    return train


class Variant(NamedTuple):
    """What differs from the first entry of VARIANTS."""

    options: dict = {}  # noqa: RUF012 - never changed
    model: type[Plane] = Plane
    discriminator_steps: int = 1
    overlapping: bool = False  # half of the modes of a are modes of b, too


VARIANTS: dict[str, Variant] = {
    "full": Variant(),  # least squares, cycle weight 10, no identity loss, no pool, the rate .001
    "no_cycle_loss": Variant({"cycle_weight": 0.0}),
    "no_adversarial_loss": Variant(model=PlaneWithoutAdversary),
    "with_identity_loss": Variant({"identity_weight": 0.5}),
    "overlapping": Variant(overlapping=True),
    "overlapping_with_identity_loss": Variant({"identity_weight": 0.5}, overlapping=True),
    **{f"cycle_weight_{weight:g}": Variant({"cycle_weight": weight}) for weight in (0.1, 1.0, 100.0)},
    **{f"least_squares_{rate:g}": Variant({"learning_rate": rate}) for rate in (0.003, 0.01, 0.03)},
    **{
        f"cross_entropy_{rate:g}": Variant({"objective": "cross_entropy", "learning_rate": rate})
        for rate in (0.001, 0.003, 0.01, 0.03)
    },
    "pool": Variant({"pool_size": 1024}),
    "three_discriminator_steps": Variant(discriminator_steps=3),
    "resting_discriminators": Variant(model=PlaneWithRestingDiscriminators),
}
SHARED = {"size": 32, "pool_size": 0, "learning_rate": 1e-3, "ema_decay": 0.0}  # the size is of no picture
BATCH_SIZE = 128


def modes(overlapping: bool) -> tuple[Tensor, Tensor]:
    """The centres of a's modes and of b's, float32 (8, 2) each, at the same angles: b's at radius 2, a's at radius 1.

    Of overlapping domains every second mode of a is where b's is.
    """
    b = centres()
    a = b / 2
    if overlapping:
        a[::2] = b[::2]
    return a, b


def plane(runs=None, steps: int = 3000, seeds=range(10), variants: Sequence[str] = tuple(VARIANTS), n_jobs=1) -> Run:
    """The study of `measure` over variants and seeds. Raises RunError."""
    options = {name: described(name) for name in variants}
    cases = [{"variant": variant, "seed": seed} for seed in seeds for variant in variants]
    settings = {"steps": steps, "batch_size": BATCH_SIZE}
    return study("plane", settings, cases, partial(measure, steps=steps), runs, {"variant": options}, n_jobs)


def config_of(variant: str, seed: int) -> CycleGANConfig:
    """The config of a variant's model."""
    return CycleGANConfig(**SHARED | VARIANTS[variant].options, seed=seed)


def described(variant: str) -> dict:
    """All that a variant stands for, in JSON's types."""
    its, config = VARIANTS[variant], config_of(variant, 0)
    unused = {"seed", "size", "generator", "discriminator", "base_channels", "blocks"}
    more = {"model": its.model.__name__, "discriminator_steps": its.discriminator_steps, "overlapping": its.overlapping}
    return config.model_dump(mode="json", exclude=unused) | more


def measure(case: Case, steps: int) -> dict[str, float]:
    """Train the variant of the case with its seed, and look at where 2,500 new points of each domain go.

    modes_ab, near_ab and so on: `coverage` of the other domain's modes. cycle_aba: mean distance of F(G(x)) to x; moved_ab:
    mean distance of G(x) to x. Of a's eight centres: hit, how many of b's modes are nearest to one of their translations; kept,
    how many go to the mode at their own angle; x_0, y_0, ... y_7, where they go. And what `step` returns, as means over
    the last tenth of the steps.
    """
    variant, seed = VARIANTS[case["variant"]], case["seed"]
    a, b = modes(variant.overlapping)
    dice = torch.Generator().manual_seed(seed)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield draw_ring(BATCH_SIZE, dice, a), draw_ring(BATCH_SIZE, dice, b)

    model = variant.model(config_of(case["variant"], seed))
    history = train_briefly(model, batches, steps, seed, discriminator_steps(model, variant.discriminator_steps - 1))
    from_a, from_b = draw_ring(SAMPLES, dice, a), draw_ring(SAMPLES, dice, b)
    with torch.no_grad():
        in_b, in_a, ends = model.g_ab(from_a), model.g_ba(from_b), model.g_ab(a)
        back_a, back_b = model.g_ba(in_b), model.g_ab(in_a)
    goals = torch.cdist(ends, b).argmin(1)
    found = {f"{name}_ab": value for name, value in coverage(in_b, b).items()}
    found |= {f"{name}_ba": value for name, value in coverage(in_a, a).items()}
    found |= {
        "cycle_aba": distance(back_a, from_a),
        "cycle_bab": distance(back_b, from_b),
        "moved_ab": distance(in_b, from_a),
        "hit": len(goals.unique()),
        "kept": int((goals == torch.arange(MODES)).sum()),
    }
    found |= {f"{axis}_{mode}": float(ends[mode, place]) for place, axis in enumerate("xy") for mode in range(MODES)}
    return found | at_the_end(history)


def ends(row: dict) -> Tensor:
    """Where a's eight centres go in a measured row, (8, 2)."""
    return torch.tensor([[row[f"x_{mode}"], row[f"y_{mode}"]] for mode in range(MODES)])


def order(row: dict) -> str:
    """How a's centres lie among b's modes: "kept" at their angles, "turned" by one angle all, "mirrored", or "other"."""
    goals, own = torch.cdist(ends(row), centres()).argmin(1), torch.arange(MODES)
    if (goals == own).all():
        return "kept"
    if len(((goals - own) % MODES).unique()) == 1:
        return "turned"
    return "mirrored" if len(((goals + own) % MODES).unique()) == 1 else "other"


def outcomes(measured: list[dict]) -> dict[str, dict[str, int]]:
    """Of each variant's trainings: how many there are, "trainings", how many "hit" all modes both ways, and of these each `order`."""
    found: dict[str, dict[str, int]] = {}
    for row in measured:
        its = found.setdefault(
            row["variant"], dict.fromkeys(("trainings", "hit", "kept", "turned", "mirrored", "other"), 0)
        )
        its["trainings"] += 1
        if row["modes_ab"] == row["modes_ba"] == MODES:
            its["hit"] += 1
            its[order(row)] += 1
    return found


def distance(one: Tensor, other: Tensor) -> float:
    """Mean Euclidean distance of points, (N, 2) each."""
    return float((one - other).norm(dim=1).mean())
