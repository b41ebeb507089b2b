"""What all models' optimisers share: Adam, and schedules of the learning rate."""

import math
from collections.abc import Callable, Iterable

import torch
from torch.optim.lr_scheduler import LambdaLR


def adam(
    parameters: Iterable, device: torch.device, kind: type[torch.optim.Adam] = torch.optim.Adam, **options
) -> torch.optim.Adam:
    """Adam, or `kind` such as AdamW, over parameters or groups of them; one fused pass where the device has it."""
    return kind(parameters, fused=device.type in ("cpu", "cuda"), **options)


def with_rate(optimizer: torch.optim.Optimizer, rate: Callable[[int], float]) -> LambdaLR:
    """A schedule: before step 0, 1, 2, ... the learning rate is that of the optimiser times rate(step)."""
    return LambdaLR(optimizer, rate)


def constant(step: int) -> float:
    """The learning rate as it is."""
    return 1.0


def linear_decay(total_steps: int, decay_share: float) -> Callable[[int], float]:
    """1, then falling linearly in the last `decay_share` of the steps: above 0 at the last step, 0 only after it."""
    falling = total_steps - round(total_steps * (1 - decay_share))
    return lambda step: min(1.0, (total_steps - step) / max(1, falling))


def warmup_cosine(total_steps: int, warmup: int) -> Callable[[int], float]:
    """Linearly up to 1 in the first `warmup` steps (at least one), then half a cosine down to 0 after the last step."""
    warmup = max(1, warmup)

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))

    return rate
