"""Shuffled batches of pictures, of pairs of two domains and of code maps, made on the training device.

The arrays stay uint8 until the training step scales them: a quarter of the bytes is a quarter of the copying.
torchvision's transforms draw once for a whole batch; here each picture is cut and mirrored on its own.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hw2lib.data import folders
from hw2lib.data.download import DataError
from hw2lib.data.pictures import checksum


def random_stream(*numbers: int) -> torch.Generator:
    """Random numbers for a seed and what else is given, mixed by a digest as sums would coincide."""
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Dealer(ABC):
    """Deals an epoch out in shuffled batches. Called with an epoch it gives them one by one.

    The order of an epoch depends on (seed, epoch) alone, and what else is drawn for a batch on (seed, epoch, step)
    alone, so a run can be resumed at any step and shared among any number of processes.
    """

    # The names of the arrays, which move to the device where they are not too large for it.
    arrays: tuple[str, ...]
    # How many times an epoch shows something.
    visits: int

    def __init__(self, batch_size: int, seed: int):
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        """Steps in an epoch; the last one has what is left and may be short."""
        return -(-self.visits // self.batch_size)

    @property
    def smallest(self) -> int:
        """The size of the smallest batch of an epoch."""
        return self.visits % self.batch_size or self.batch_size

    @property
    @abstractmethod
    def description(self) -> dict:
        """What the order and the augmentation depend on, for the identity of a run."""

    @abstractmethod
    def _order(self, stream: torch.Generator) -> Tensor:
        """What each visit of an epoch shows, int64 (..., visits)."""

    def _augment(self, shown: Tensor, stream: torch.Generator) -> Tensor:
        """What is to be dealt at some visits (..., B), and how: int64 (..., B)."""
        return shown

    @abstractmethod
    def _batch(self, drawn: Tensor, device: str | torch.device):
        """The batch of what `_augment` has drawn, on the device."""

    def __call__(
        self, epoch: int, skip: int = 0, device: str | torch.device = "cpu", rank: int = 0, world_size: int = 1
    ) -> Iterator:
        """The batches of an epoch from step `skip` on, on the device.

        Process `rank` of `world_size` gets every `world_size`-th item of each batch, from the `rank`-th on: together
        they see what one alone would see. Raises DataError if a batch has fewer items than there are processes.
        """
        if self.smallest < world_size:
            raise DataError(f"a batch has {self.smallest} pictures for {world_size} processes: change the batch size")
        for name in self.arrays:
            array = getattr(self, name)
            # A larger one may be mapped from the disk and not fit the device.
            if array is not None and array.nbytes <= folders.LARGE:
                setattr(self, name, array.to(device))
        order = self._order(random_stream(self.seed, epoch))
        for step in range(skip, len(self)):
            shown = order[..., step * self.batch_size : (step + 1) * self.batch_size]
            # Drawn for the whole batch before it is shared out, so that it is the same for any world_size.
            drawn = self._augment(shown, random_stream(self.seed, epoch, step))
            yield self._batch(drawn[..., rank::world_size], device)


class Batches(Dealer):
    """Every picture of one array once an epoch, mirrored at random: uint8 (B, 3, H, W)."""

    arrays = ("pictures",)

    def __init__(self, pictures: Tensor, batch_size: int, seed: int):
        """`pictures` is uint8 (N, 3, H, W), DataError if N < 2."""
        super().__init__(batch_size, seed)
        self.pictures, self.visits = pictures, _enough(pictures, "training pictures")

    @property
    def description(self) -> dict:
        return {"pictures": self.visits, "batch_size": self.batch_size, "seed": self.seed, "flip": True}

    def _order(self, stream: torch.Generator) -> Tensor:
        return torch.randperm(self.visits, generator=stream)

    def _augment(self, shown: Tensor, stream: torch.Generator) -> Tensor:
        """Which pictures, and 1 where they are mirrored, (2, B)."""
        return torch.stack([shown, torch.rand(len(shown), generator=stream) < 0.5])

    def _batch(self, drawn: Tensor, device: str | torch.device) -> Tensor:
        shown, mirrored = drawn
        # index_select and index_copy_ are several times as fast as [] and where on bytes.
        shown = shown.to(self.pictures.device, non_blocking=True)  # as in `_cut`
        batch = self.pictures.index_select(0, shown).to(device, non_blocking=True)  # (B, 3, H, W)
        rows = mirrored.nonzero().flatten().to(device, non_blocking=True)
        return batch.index_copy_(0, rows, batch.index_select(0, rows).flip(-1))


class Pairs(Dealer):
    """Random squares of both domains, dealt out together: two uint8 (B, 3, size, size); what makes a pair is chance.

    An epoch has as many visits as the larger domain has pictures. It walks through a in a random order, and
    through it again in another order if b is larger; at each visit a picture of b is drawn, any of them.
    """

    arrays = ("a", "b")

    def __init__(self, a: Tensor, b: Tensor, size: int, seed: int, batch_size: int = 1):
        """`a` and `b` are uint8 (N, 3, L, L), each with an N of its own; DataError if N < 2 or L < size."""
        super().__init__(batch_size, seed)
        self.a, self.b, self.size = a, b, size
        self.visits = max(_enough(a, "training pictures in domain a"), _enough(b, "training pictures in domain b"))
        if (side := min(a.shape[-1], b.shape[-1])) < size:
            raise DataError(f"pictures of {side} pixels hold no square of {size}: give a smaller size")

    @property
    def description(self) -> dict:
        return {
            "pictures_a": len(self.a),
            "pictures_b": len(self.b),
            "load_size": self.a.shape[-1],
            "size": self.size,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    def _order(self, stream: torch.Generator) -> Tensor:
        """Which picture of a and which of b, (2, visits)."""
        rounds = range(-(-self.visits // len(self.a)))
        order_a = torch.cat([torch.randperm(len(self.a), generator=stream) for _ in rounds])[: self.visits]
        return torch.stack([order_a, torch.randint(len(self.b), (self.visits,), generator=stream)])

    def _augment(self, shown: Tensor, stream: torch.Generator) -> Tensor:
        """For a and for b: where each square starts in the flat array, and the step along its rows, (2, 2, B)."""
        places = []
        for pictures, chosen in zip((self.a, self.b), shown, strict=True):
            side = pictures.shape[-1]
            top, left = torch.randint(side - self.size + 1, (2, len(chosen)), generator=stream)
            # 0 or 1, and then read from the right.
            mirrored = torch.randint(2, (len(chosen),), generator=stream)
            start = (chosen * 3 * side + top) * side + left + mirrored * (self.size - 1)
            places.append(torch.stack([start, 1 - 2 * mirrored]))
        return torch.stack(places)

    def _batch(self, drawn: Tensor, device: str | torch.device) -> tuple[Tensor, Tensor]:
        return tuple(
            _cut(pictures, places, self.size).to(device)
            for pictures, places in zip((self.a, self.b), drawn, strict=True)
        )


def _cut(pictures: Tensor, places: Tensor, size: int) -> Tensor:
    """Squares of pictures (N, 3, L, L) at places (2, B) of `Pairs`, uint8 (B, 3, size, size), on their device."""
    side, home = pictures.shape[-1], pictures.device
    # Waiting for the copy would make the GPU run dry; nobody changes `places` meanwhile.
    start, step = places.to(home, non_blocking=True)[:, :, None, None, None]  # (B, 1, 1, 1) each
    pixels = torch.arange(size, device=home)
    planes = torch.arange(3, device=home)[:, None, None] * side**2 + pixels[:, None] * side  # (3, size, 1)
    # One gather of bytes for the whole batch, for which no whole picture is copied.
    return pictures.take(start + planes + step * pixels)


class CodeBatches(Dealer):
    """Every code map once an epoch, with its label: int32 (B, H, W), and int32 (B,) or None."""

    arrays = ("codes", "labels")

    def __init__(self, codes, labels, batch_size: int, seed: int, origin: dict | None = None):
        """`codes` is (N, H, W), whole numbers of any dtype, `labels` (N,) or None; arrays or tensors.

        `origin`, if given, identifies the codes in place of their checksum. Raises DataError if there are not as many
        labels as maps, or if N < 2.
        """
        super().__init__(batch_size, seed)
        self.codes = torch.as_tensor(codes).to(torch.int32)
        self.labels = None if labels is None else torch.as_tensor(labels).to(torch.int32)
        self.visits = _enough(self.codes, "code maps")
        if self.labels is not None and len(self.labels) != self.visits:
            raise DataError(f"{len(self.labels)} labels for {self.visits} code maps: give one for each")
        self.origin = origin or {"checksum": checksum(self.codes, *([] if self.labels is None else [self.labels]))}

    @property
    def description(self) -> dict:
        """Another encoder makes other codes, so their origin is told as well."""
        order = {"batch_size": self.batch_size, "seed": self.seed}
        return {"maps": self.visits, "labels": self.labels is not None} | self.origin | order

    def _order(self, stream: torch.Generator) -> Tensor:
        return torch.randperm(self.visits, generator=stream)

    def _batch(self, drawn: Tensor, device: str | torch.device) -> tuple[Tensor, Tensor | None]:
        rows = drawn.to(self.codes.device, non_blocking=True)
        codes = self.codes.index_select(0, rows).to(device)
        return codes, None if self.labels is None else self.labels.index_select(0, rows).to(device)


def _enough(array: Tensor, what: str) -> int:
    """The number of rows; DataError if there are fewer than two."""
    if len(array) < 2:
        raise DataError(f"{len(array)} {what}: 2 or more are needed")
    return len(array)


@dataclass(frozen=True, eq=False)
class CodeSets:
    """Code maps, int32 (N, h, w), of three sets of pictures, with labels, uint8 (N,), or None for each.

    train     nine tenths of the training pictures, and after them the same ones mirrored
    held_out  the other tenth, chosen at random; not mirrored
    test      the test pictures
    in_order  all training pictures, in the order of the pictures
    origin    checksums of the pictures and of the codebook. Not of the codes: another machine rounds otherwise, and
              of a million codes some are then others
    """

    train: Tensor
    held_out: Tensor
    test: Tensor
    in_order: Tensor
    train_labels: Tensor | None
    held_out_labels: Tensor | None
    test_labels: Tensor | None
    origin: dict[str, str]
