"""Shuffled batches of pictures, of pairs of two domains and of code maps, made on the training device."""

import hashlib
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


class Batches:
    """Shuffled, mirrored batches of one picture array, for training.

    The order of an epoch depends on (seed, epoch) alone and what is mirrored on (seed, epoch, step) alone, so
    a run can be resumed at any step and shared among any number of processes.
    """

    def __init__(self, pictures: torch.Tensor, batch_size: int, seed: int, flip: bool = True):
        """`pictures` is uint8 (N, 3, H, W), DataError if N < 2; `flip` mirrors about half of them."""
        if len(pictures) < 2:
            raise DataError(f"{len(pictures)} training pictures: 2 or more are needed")
        self.pictures = pictures
        self.batch_size = batch_size
        self.seed = seed
        self.flip = flip

    def __len__(self) -> int:
        """Steps in an epoch; the last one has the pictures that are left and may be short."""
        return -(-len(self.pictures) // self.batch_size)

    @property
    def description(self) -> dict:
        """What the order and the augmentation depend on, for the identity of a run."""
        count = len(self.pictures)
        return {"pictures": count, "batch_size": self.batch_size, "seed": self.seed, "flip": self.flip}

    def __call__(
        self,
        epoch: int,
        skip: int = 0,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[torch.Tensor]:
        """The batches of an epoch from step `skip` on, each uint8 (B, 3, H, W) on the device.

        Process `rank` of `world_size` gets every `world_size`-th picture of each batch, from the `rank`-th
        on: together they see what one alone would see. Raises DataError if the last batch has fewer pictures than
        there are processes.
        """
        last = len(self.pictures) % self.batch_size
        if 0 < last < world_size:
            raise DataError(f"the last batch has {last} pictures for {world_size} processes: change the batch size")
        if self.pictures.nbytes <= folders.LARGE:  # a larger array may be mapped from the disk and not fit the device
            self.pictures = self.pictures.to(device)
        home = self.pictures.device
        order = torch.randperm(len(self.pictures), generator=random_stream(self.seed, epoch))
        for step in range(skip, len(self)):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            # Drawn for the whole batch before it is shared out, so that it is the same for any world_size.
            mirrored = torch.rand(len(chosen), generator=random_stream(self.seed, epoch, step)) < 0.5
            mine = chosen[rank::world_size].to(home)
            # index_select and index_copy_ are several times as fast as [] and where on bytes.
            batch = self.pictures.index_select(0, mine).to(device)  # (B, 3, H, W)
            if self.flip:
                rows = mirrored[rank::world_size].nonzero().flatten().to(device)
                batch.index_copy_(0, rows, batch.index_select(0, rows).flip(-1))
            yield batch


class Pairs:
    """Random squares of both domains, dealt out together, for training; what makes a pair is chance.

    An epoch has as many visits as the larger domain has pictures. It walks through a in a random order, and
    through it again in another order if b is larger; at each visit a picture of b is drawn, any of them.
    Order and draw depend on (seed, epoch) alone, what is cut out and mirrored on (seed, epoch, step) alone,
    so a run can be resumed at any step and shared among any number of processes.
    """

    def __init__(self, a: Tensor, b: Tensor, size: int, seed: int, batch_size: int = 1):
        """`a` and `b` are uint8 (N, 3, L, L), each with an N of its own; DataError if N < 2 or L < size."""
        for name, pictures in (("a", a), ("b", b)):
            if len(pictures) < 2:
                raise DataError(f"{len(pictures)} training pictures in domain {name}: 2 or more are needed")
            if (side := pictures.shape[-1]) < size:
                raise DataError(f"pictures of {side} pixels hold no square of {size}: give a smaller size")
        self.a, self.b = a, b
        self.size = size
        self.seed = seed
        self.batch_size = batch_size

    @property
    def visits(self) -> int:
        """Pairs in an epoch."""
        return max(len(self.a), len(self.b))

    def __len__(self) -> int:
        """Steps in an epoch; the last one has the pairs that are left and may be short."""
        return -(-self.visits // self.batch_size)

    @property
    def description(self) -> dict:
        """What the order and the augmentation depend on, for the identity of a run."""
        return {
            "pictures_a": len(self.a),
            "pictures_b": len(self.b),
            "load_size": self.a.shape[-1],
            "size": self.size,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    def __call__(
        self,
        epoch: int,
        skip: int = 0,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches (a, b) of an epoch from step `skip` on, each uint8 (B, 3, size, size) on the device.

        Process `rank` of `world_size` gets every `world_size`-th pair of each batch, from the `rank`-th on:
        together they see what one alone would see. Raises DataError if a batch has fewer pairs than there are
        processes.
        """
        smallest = self.visits % self.batch_size or self.batch_size
        if smallest < world_size:
            raise DataError(f"a batch has {smallest} pictures for {world_size} processes: change the batch size")
        # A larger array may be mapped from the disk and not fit the device.
        self.a, self.b = (
            pictures.to(device) if pictures.nbytes <= folders.LARGE else pictures for pictures in (self.a, self.b)
        )
        order_a, order_b = self._orders(random_stream(self.seed, epoch))
        for step in range(skip, len(self)):
            here = slice(step * self.batch_size, (step + 1) * self.batch_size)
            draws = random_stream(self.seed, epoch, step)
            # Drawn for the whole batch before it is shared out, so that it is the same for any world_size.
            places_a = self._places(self.a, order_a[here], draws)[:, rank::world_size]
            places_b = self._places(self.b, order_b[here], draws)[:, rank::world_size]
            yield _cut(self.a, places_a, self.size).to(device), _cut(self.b, places_b, self.size).to(device)

    def _orders(self, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which picture of a and which of b each visit of an epoch shows, int64 (visits,) each."""
        rounds = range(-(-self.visits // len(self.a)))
        order_a = torch.cat([torch.randperm(len(self.a), generator=draws) for _ in rounds])
        return order_a[: self.visits], torch.randint(len(self.b), (self.visits,), generator=draws)

    def _places(self, pictures: Tensor, chosen: Tensor, draws: torch.Generator) -> Tensor:
        """Where each square starts in the flat array, and the step along its rows (1 or -1), int64 (2, B)."""
        side = pictures.shape[-1]
        top, left = torch.randint(side - self.size + 1, (2, len(chosen)), generator=draws)
        mirrored = torch.randint(2, (len(chosen),), generator=draws)  # 0 or 1, and then read from the right
        start = (chosen * 3 * side + top) * side + left + mirrored * (self.size - 1)
        return torch.stack([start, 1 - 2 * mirrored])


def _cut(pictures: Tensor, places: Tensor, size: int) -> Tensor:
    """Squares of pictures (N, 3, L, L) at `Pairs._places`, uint8 (B, 3, size, size), on their device."""
    side, home = pictures.shape[-1], pictures.device
    # Waiting for the copy would make the GPU run dry; nobody changes `places` meanwhile.
    start, step = places.to(home, non_blocking=True)[:, :, None, None, None]  # (B, 1, 1, 1) each
    pixels = torch.arange(size, device=home)
    planes = torch.arange(3, device=home)[:, None, None] * side**2 + pixels[:, None] * side  # (3, size, 1)
    # One gather of bytes for the whole batch, for which no whole picture is copied.
    return pictures.take(start + planes + step * pixels)


class CodeBatches:
    """Shuffled batches of code maps and their labels, for training; the order depends on (seed, epoch) alone."""

    def __init__(self, codes, labels, batch_size: int, seed: int, origin: dict | None = None):
        """codes: (N, H, W), whole numbers of any dtype; labels: (N,) or None. Arrays or tensors.

        `origin`, if given, identifies the codes in place of their checksum. Raises DataError if there are not as many labels as maps, DataError if N < 2.
        """
        self.codes = torch.as_tensor(codes).to(torch.int32)
        self.labels = None if labels is None else torch.as_tensor(labels).to(torch.int32)
        if self.labels is not None and len(self.labels) != len(self.codes):
            raise DataError(f"{len(self.labels)} labels for {len(self.codes)} code maps: give one for each")
        self.origin = origin or {"checksum": checksum(self.codes, *([] if self.labels is None else [self.labels]))}
        self.rows = Batches(torch.arange(len(self.codes)), batch_size, seed, flip=False)

    def __len__(self) -> int:
        """Steps in an epoch; the last one has the maps that are left and may be short."""
        return len(self.rows)

    @property
    def description(self) -> dict:
        """What is dealt and in which order, for the identity of a run: another encoder makes other codes."""
        order = {name: self.rows.description[name] for name in ("batch_size", "seed")}
        return {"maps": len(self.codes), "labels": self.labels is not None} | self.origin | order

    def __call__(
        self, epoch: int, skip: int = 0, device="cpu", rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The batches of an epoch from step `skip` on: int32 codes (B, H, W), labels (B,) or None, on the device.

        Shared among processes as data.Batches shares pictures; raises DataError as it does.
        """
        self.codes = self.codes.to(device)
        self.labels = None if self.labels is None else self.labels.to(device)
        for rows in self.rows(epoch, skip, device, rank, world_size):
            yield (
                self.codes.index_select(0, rows),
                None if self.labels is None else self.labels.index_select(0, rows),
            )


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
