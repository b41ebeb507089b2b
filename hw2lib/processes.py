"""What several processes have in common: each has a share of every batch, and what is computed is that of the whole batch.

Of W processes the r-th has the items r, r + W, ... of a batch, in the order that one process would see; shares may differ
by one. All processes call these functions at the same places. With one process they return what they are given.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hw2lib import Problem, torchrun_rank


class GroupError(Problem):
    """Another process of the group is gone."""


def launched() -> bool:
    """Whether this process is one of several, as torchrun starts them."""
    return torchrun_rank() is not None


def together() -> bool:
    """Whether there is a group of processes, which there is from the first `training.machine` on."""
    return dist.is_available() and dist.is_initialized()


def count() -> int:
    return dist.get_world_size() if together() else 1


def rank() -> int:
    """0 is the first process, which alone writes and speaks."""
    return dist.get_rank() if together() else torchrun_rank() or 0


@contextmanager
def _in_touch() -> Iterator[None]:
    try:
        yield
    except RuntimeError:  # what gloo and NCCL say of it is an address
        raise GroupError("another process of this training has ended: what it said stands above") from None


def summed(tensor: Tensor) -> Tensor:
    """The tensor, which has become the sum over all processes. Raises GroupError."""
    if together():
        with _in_touch():
            dist.all_reduce(tensor)
    return tensor


def of_all(number: int) -> list[int]:
    """The whole numbers of all processes, such as the sizes of their shares. No GPU has to finish its work for it."""
    if count() == 1:
        return [number]
    found = [torch.tensor(0) for _ in range(count())]
    with _in_touch():
        dist.all_gather(found, torch.tensor(number), group=_cpu_group(dist.group.WORLD))
    return [int(each) for each in found]


def told(value=None):
    """What the first process calls this with, whatever can be pickled; the others wait for it. Raises GroupError."""
    if not together():
        return value
    values = [value]
    with _in_touch():
        dist.broadcast_object_list(values, group=_cpu_group(dist.group.WORLD), device=torch.device("cpu"))
    return values[0]


@contextmanager
def first_one_first() -> Iterator[None]:
    """The first process does what is in the block, then the others: what it has left on the disk they find."""
    if rank():
        told()
    yield
    if not rank():
        told()


@contextmanager
def first_one_only(context: AbstractContextManager) -> Iterator[None]:
    """The first process enters the context; the others wait until it has, and raise the Problem that it met."""
    with ExitStack() as stack:
        problem = None
        if not rank():
            try:
                stack.enter_context(context)
            except Problem as error:
                problem = error
        if problem := told(problem):
            raise problem
        yield


# ---- the whole batch


def share_of(whole: Tensor) -> Tensor:
    """This process's items (n, ...) of a whole batch (N, ...)."""
    return whole[rank() :: count()] if count() > 1 else whole


def whole_of(share: Tensor) -> Tensor:
    """The whole batch (N, ...), in the order of one process, of which this one has `share` (n, ...)."""
    if count() == 1:
        return share
    size = sum(of_all(len(share)))
    padded = share.new_zeros(-(-size // count()), *share.shape[1:])
    padded[: len(share)] = share
    shares = [torch.empty_like(padded) for _ in range(count())]
    with _in_touch():
        dist.all_gather(shares, padded)
    return torch.stack(shares, 1).flatten(0, 1)[:size]  # what is padded comes last


def rows_of_whole(share: Tensor, rows: Tensor, each: int) -> Tensor:
    """Those rows of the whole (N each, D) of which this process has the share (n each, D), `each` rows to an item."""
    if count() == 1:
        return share[rows]
    item, inside = rows // each, rows % each
    mine = item % count() == rank()
    # Nothing but what is asked for travels.
    found = share[torch.where(mine, item // count() * each + inside, 0)]
    return summed(torch.where(mine[:, None], found, 0))


class ChannelDropout(nn.Dropout2d):
    """torch's own, to the very numbers, drawn for the whole batch of which this process may have a share only."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = x.new_empty(sum(of_all(len(x))), x.shape[1], 1, 1).bernoulli_(1 - self.p)
        return x * share_of(kept.div_(1 - self.p))


def average_gradients(parameters: Iterable[nn.Parameter], share: int) -> None:
    """Each gradient, of a mean over the `share` items of this process, becomes that of the mean over the whole batch."""
    if count() == 1:
        return
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads]).mul_(share / sum(of_all(share)))
    parts = summed(flat).split([grad.numel() for grad in grads])
    for grad, part in zip(grads, parts, strict=True):
        grad.copy_(part.view_as(grad))


@cache
def _cpu_group(world) -> "dist.ProcessGroup":
    """A group that passes what lies on the CPU, for which no GPU has to finish its work, and the first process may work for
    hours while the others wait: who waits for a dead one, torchrun ends."""
    return dist.new_group(backend="gloo", timeout=timedelta(days=7))
