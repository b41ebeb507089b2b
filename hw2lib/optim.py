"""What all models' optimisers share: Adam, schedules of the learning rate, gradients averaged over processes."""

from collections.abc import Iterable

from torch import nn


def average_gradients(fabric, parameters: Iterable[nn.Parameter]) -> None:
    """Replace each parameter's gradient by its mean over all processes; with one process nothing happens."""
    if fabric.world_size > 1:
        for parameter in parameters:
            parameter.grad = fabric.all_reduce(parameter.grad, reduce_op="mean")
