"""Code maps of a trained VQ-VAE as training data of a prior."""

from collections.abc import Iterator

import torch
from torch import Tensor

from hw2lib.data import Batches, checksum
from hw2lib.pixelcnn import CodesError


class CodeBatches:
    """Shuffled batches of code maps and their labels, for training; the order depends on (seed, epoch) alone."""

    def __init__(self, codes, labels, batch_size: int, seed: int, origin: dict | None = None):
        """codes: (N, H, W), whole numbers of any dtype; labels: (N,) or None. Arrays or tensors.

        `origin`, if given, identifies the codes in place of their checksum. Raises CodesError if there are not as many labels as maps, DataError if N < 2.
        """
        self.codes = torch.as_tensor(codes).to(torch.int32)
        self.labels = None if labels is None else torch.as_tensor(labels).to(torch.int32)
        if self.labels is not None and len(self.labels) != len(self.codes):
            raise CodesError(f"{len(self.labels)} labels for {len(self.codes)} code maps: give one for each")
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
