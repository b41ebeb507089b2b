"""What the tests of models share: threads for a while, a machine without lightning-fabric, the norm as its formula."""

from contextlib import contextmanager, nullcontext

import pytest
import torch


@pytest.fixture
def threads():
    """A context in which torch has this number of threads."""

    @contextmanager
    def limited(number):
        before = torch.get_num_threads()
        torch.set_num_threads(number)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    return limited


@pytest.fixture
def machine():
    """machine(precision) has what a step needs of lightning-fabric."""

    class Machine:
        device, world_size = torch.device("cpu"), 1

        def __init__(self, precision="32"):
            self.precision = precision

        def autocast(self):
            return torch.autocast("cpu", torch.bfloat16) if self.precision == "bf16" else nullcontext()

    return Machine


@pytest.fixture
def plain_norm():
    """Instance norm as its formula says."""

    def norm(x):
        centred = x - x.mean((2, 3), keepdim=True)
        return centred / (centred.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()

    return norm
