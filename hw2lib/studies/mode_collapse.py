"""Mode collapse on a ring of eight Gaussians: does it come from a discriminator that is too weak?

The generator is always the same; the discriminator's width and how often it is updated vary, and the SETUPS. The ring is like
that of Metz et al., "Unrolled GANs" (2017), arXiv:1611.02163; the least squares loss that of Mao et al.
(2017), arXiv:1611.04076, with CycleGAN's targets 0 and 1. Arora and Zhang (2017), arXiv:1706.08224: a
discriminator of limited capacity cannot forbid a generator of few modes. Lin et al. (2018), arXiv:1712.04086: one that judges
several samples at once ("packing") sees whether they are alike.
"""

import math
import statistics
from functools import partial

import torch
from torch import Tensor, nn

from hw2lib.optim import adam
from hw2lib.studies.study import Case, study
from hw2lib.training import Run

MODES = 8
RADIUS = 2.0
DEVIATION = 0.05  # of each Gaussian, along x and along y
NEAR = 3 * DEVIATION  # a sample this close to a mode's centre counts as of that mode
LEAST_SHARE = 0.01  # of all samples: a mode with fewer near ones is not covered
SAMPLES = 2500  # for the measurement
SHOWN = 64  # samples of the first seed that are kept to look at
SETUPS = {
    "plain": {"learning_rate": 1e-3, "packing": 1},
    "smaller_rate": {"learning_rate": 3e-4, "packing": 1},
    "packed": {"learning_rate": 1e-3, "packing": 2},  # samples that are judged at once
}


def centres() -> Tensor:
    """The modes, float32 (8, 2), evenly on the circle."""
    angles = torch.arange(MODES) * (2 * math.pi / MODES)
    return RADIUS * torch.stack([angles.cos(), angles.sin()], 1)


def draw_ring(count: int, generator: torch.Generator, modes: Tensor | None = None) -> Tensor:
    """Points of the data, float32 (count, 2), each mode equally likely: around the ring's, or around `modes` (8, 2)."""
    around = centres() if modes is None else modes
    drawn = torch.randint(MODES, (count,), generator=generator)
    return around[drawn] + DEVIATION * torch.randn(count, 2, generator=generator)


def coverage(samples: Tensor, modes: Tensor | None = None) -> dict[str, float]:
    """modes: how many have at least LEAST_SHARE of the samples (N, 2) within NEAR; near: share near any mode.

    Of the ring, or of `modes` (M, 2). No samples, or samples that are not numbers, cover nothing. The data have
    near = 1 - exp(-9/2) = .989.
    """
    near = torch.cdist(samples, centres() if modes is None else modes) <= NEAR  # (N, M); the discs do not touch
    count = max(1, len(samples))
    covered = int((near.sum(0) >= max(1, LEAST_SHARE * count)).sum())
    return {"modes": covered, "near": int(near.sum()) / count}


def perceptron(inputs: int, outputs: int) -> nn.Sequential:
    """(B, inputs) to (B, outputs) by two hidden layers of 128: the generator, from noise to points."""
    return nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, outputs))


def discriminator_network(width: int, packing: int = 1) -> nn.Sequential:
    """`packing` points, (B, 2 packing), to ratings (B, 1) by one hidden layer, so that its width is all the capacity there is."""
    return nn.Sequential(nn.Linear(2 * packing, width), nn.LeakyReLU(0.2), nn.Linear(width, 1))


def ring(
    runs=None,
    widths=(4, 16, 128, 512),
    ratios=(0.2, 1.0, 5.0),
    steps: int = 2000,
    seeds=(0, 1, 2),
    n_jobs=1,
    setups=tuple(SETUPS),
) -> Run:
    """The study of `measure_ring` over setups, widths, discriminator updates per generator update, and seeds."""
    settings = {"steps": steps, "noise": 8, "batch_size": 128}
    cases = [
        {"setup": setup, "width": width, "ratio": float(ratio), "seed": seed}
        for setup in setups
        for width in widths
        for ratio in ratios
        for seed in seeds
    ]
    options = {"setup": {name: SETUPS[name] for name in setups}}
    return study("ring", settings, cases, partial(measure_ring, **settings), runs, options, n_jobs)


def measure_ring(case: Case, steps: int, noise: int, batch_size: int) -> dict[str, float]:
    """Train for `steps` updates of the generator; setup (of SETUPS), width, ratio (see `due`) and seed are the case's.

    modes and near: `coverage` of SAMPLES new samples; x_0, y_0, ...: of seed 0 the first SHOWN of them. g_loss: mean (D(G(z))
    - 1)^2. d_loss: half the sum of mean (D(x) - 1)^2 and mean D(G(z))^2. Both losses are means over the last tenth of the
    generator's steps, and .25 where D says .5 of everything. parameters: of the discriminator; generator_parameters beside it.
    """
    rate, packing = SETUPS[case["setup"]].values()
    dice = torch.Generator().manual_seed(case["seed"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case["seed"])
        maker, critic = perceptron(noise, 2), discriminator_network(case["width"], packing)
    for_maker, for_critic = (
        adam(part.parameters(), torch.device("cpu"), lr=rate, betas=(0.5, 0.999)) for part in (maker, critic)
    )

    g_losses, d_losses = [], []
    for step in range(steps):
        updates = due(step, case["ratio"])  # between which the generator stays the same
        real = draw_ring(updates * batch_size, dice)
        with torch.no_grad():
            fake = maker(torch.randn(updates * batch_size, noise, generator=dice))
        packs = [part.view(updates, batch_size // packing, 2 * packing) for part in (real, fake)]
        for points in torch.cat(packs, 1):
            for_real, for_fake = critic(points).chunk(2)
            d_loss = 0.5 * ((for_real - 1).square().mean() + for_fake.square().mean())
            for_critic.zero_grad()
            d_loss.backward()
            for_critic.step()
            d_losses.append((step, d_loss.item()))
        drawn = maker(torch.randn(batch_size, noise, generator=dice))
        g_loss = (critic(drawn.view(-1, 2 * packing)) - 1).square().mean()
        for_maker.zero_grad()
        g_loss.backward(inputs=list(maker.parameters()))
        for_maker.step()
        g_losses.append((step, g_loss.item()))

    with torch.no_grad():
        samples = maker(torch.randn(SAMPLES, noise, generator=dice))
    kept = samples[: 0 if case["seed"] else SHOWN].tolist()
    return {
        **coverage(samples),
        **{
            f"{axis}_{place}": value
            for place, point in enumerate(kept)
            for axis, value in zip("xy", point, strict=True)
        },
        "g_loss": last_tenth(g_losses, steps),
        "d_loss": last_tenth(d_losses, steps),
        "parameters": sum(part.numel() for part in critic.parameters()),
        "generator_parameters": sum(part.numel() for part in maker.parameters()),
    }


def shown(row: dict) -> list[tuple[float, float]]:
    """The samples that a measured row keeps."""
    return [(row[f"x_{place}"], row[f"y_{place}"]) for place in range(SHOWN) if f"x_{place}" in row]


def due(step: int, ratio: float) -> int:
    """Updates of the discriminator in this step: 5 for a ratio of 5, 1 in every fifth step for .2."""
    return round(ratio) if ratio >= 1 else int(step % round(1 / ratio) == 0)


def last_tenth(losses: list[tuple[int, float]], steps: int) -> float:
    """The mean of (step, loss) pairs over the last tenth of `steps`; the last loss if none is there."""
    return statistics.fmean([loss for step, loss in losses if step >= 0.9 * steps] or [losses[-1][1]])
