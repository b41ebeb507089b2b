"""Picture sets: CIFAR-10, drawn toy pictures, or a folder of one's own.

`load` finds the pictures by name (downloading CIFAR-10 if it is not there, reading a folder through a cache) and returns
them as `Pictures`: two uint8 arrays of shape (N, 3, H, W), a training and a test one, with a checksum that says which
pictures a run has seen.
"""

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from hw2lib import HOME, did_you_mean
from hw2lib.data import folders
from hw2lib.data.download import Archive, DataError, fetch_folder
from hw2lib.data.toy import scenes
from hw2lib.files import user_path

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_ARCHIVE = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    size=170_052_171,
    digest_kind="md5",
    digest="c32a1d4ab5d03f1284b67883e8d87530",
)
CIFAR10_FILES = {  # name -> sha256; the last one is the test set
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
CIFAR10_SIDE = 32  # pixels
CIFAR10_PICTURES = 10_000  # in each file
CIFAR10_RECORD = 1 + 3 * CIFAR10_SIDE**2  # bytes: the label, then the red, the green and the blue plane

SMALLEST_SIDE = 8  # pixels
TOY_SEEDS = (1, 2)  # of the training and of the test scenes


@dataclass(frozen=True, eq=False)
class Pictures:
    """A training and a test set of pictures of one size, and what identifies them.

    name          "toy", "cifar10" or the folder's name
    train, test   uint8 (N, 3, H, W) and (M, 3, H, W), values 0 to 255
    checksum      16 hex digits over shapes and pixels of both: the same pictures, the same checksum
    classes       the names of the labels, if there are any
    train_labels, test_labels   uint8 (N,) and (M,), positions in `classes`
    passed_over   how many files of a folder were not taken for pictures, by reason
    mapped        the file that train and test, one after the other, are mapped from, if they are
    """

    name: str
    train: torch.Tensor
    test: torch.Tensor
    checksum: str
    classes: tuple[str, ...] = ()
    train_labels: torch.Tensor | None = None
    test_labels: torch.Tensor | None = None
    passed_over: dict[str, int] = field(default_factory=dict)
    mapped: str = ""

    def __getstate__(self) -> dict:
        """For a process beside this one, which maps the file as well: copies would fill the memory."""
        return vars(self) | ({"train": len(self.train), "test": None} if self.mapped else {})

    def __setstate__(self, state: dict) -> None:
        if state["mapped"]:
            squares = torch.from_numpy(np.load(state["mapped"], mmap_mode="c"))
            state |= dict(zip(("train", "test"), squares.tensor_split([state["train"]]), strict=True))
        vars(self).update(state)

    @property
    def description(self) -> dict:
        """Name, checksum and numbers, for the identity and the provenance of a run."""
        return {"name": self.name, "checksum": self.checksum, "train": len(self.train), "test": len(self.test)}

    @cached_property
    def variance(self) -> float:
        """The variance of all training values on the scale [0, 1], to 6 significant digits.

        Computed in whole numbers from a histogram, so it is exact and the same on any machine.
        """
        parts = self.train.flatten().split(folders.BLOCK)
        histograms = [torch.bincount(part, minlength=256) for part in parts]
        counts = torch.stack(histograms).sum(0).tolist()
        total = sum(counts)
        first = sum(count * value for value, count in enumerate(counts))
        second = sum(count * value**2 for value, count in enumerate(counts))
        return float(f"{(total * second - first**2) / (total * 255) ** 2:.6g}")


def root_folder(root: str | Path | None = None) -> Path:
    """Where data sets live: `root` if it says anything, else $HW2_DATA, else `data` in the repository.

    Raises DataError unless it is a folder, but for the last: in a folder whose name is a slip nothing is found, and all
    would be fetched into it.
    """
    folder = user_path(root or os.environ.get("HW2_DATA") or HOME / "data", DataError)
    if not folder.is_dir() and folder != HOME / "data":
        raise DataError(f"no folder {folder} for the data sets: make it, or correct its name")
    return folder


def load(dataset: str, size: int = 32, root: str | Path | None = None) -> Pictures:
    """The pictures called "toy" or "cifar10", or those in the folder `dataset`, as squares of `size` pixels.

    `root` is where data sets and the cache live, see `root_folder`. Raises DataError if there is no such
    data set, if it cannot be had whole, or if it does not come in that size.
    """
    if not isinstance(size, int) or size < SMALLEST_SIDE:
        raise DataError(f"size {size!r}: give a whole number of pixels, {SMALLEST_SIDE} or more")
    if dataset == "toy":
        return toy_pictures(size)
    if dataset == "cifar10":
        if size != CIFAR10_SIDE:
            raise DataError(f"cifar10 has no pictures of size {size}: give size {CIFAR10_SIDE}")
        return cifar10(root)
    if not dataset or not user_path(dataset, DataError).is_dir():
        known = did_you_mean(dataset, ("toy", "cifar10"))
        raise DataError(f'no pictures called "{dataset}" and no such folder: {known}')
    return folder(dataset, size, root)


def checksum(*sets: torch.Tensor) -> str:
    """16 hex digits over the shapes and pixels of picture arrays, in this order."""
    digest = hashlib.sha256()
    for pictures in sets:
        digest.update(str(tuple(pictures.shape)).encode())
        digest.update(pictures.contiguous().numpy())
    return digest.hexdigest()[:16]


def _pictures(name: str, train: torch.Tensor, test: torch.Tensor, **more) -> Pictures:
    return Pictures(name, train, test, checksum(train, test), **more)


# ---- CIFAR-10


def cifar10(root: str | Path | None = None) -> Pictures:
    """CIFAR-10 in its published order: 50,000 training and 10,000 test pictures, labelled.

    All are uint8 (N, 3, 32, 32). Read from the folder `cifar-10-batches-bin` in the root folder, as the
    official binary archive unpacks; if that folder is there no network is touched. Else the archive is
    downloaded (170 MB; a download that was cut off is carried on with), unpacked and deleted. Each file's
    length and sha256 are checked at every load, which takes a fraction of a second.

    Raises DataError if the folder is missing and cannot be downloaded, or if a file is not the published one.
    """
    where = root_folder(root) / CIFAR10_FOLDER
    if not where.is_dir():
        fetch_folder(CIFAR10_ARCHIVE, where, dict.fromkeys(CIFAR10_FILES, 1))
    parts = [_read_cifar10(where / name, sha256) for name, sha256 in CIFAR10_FILES.items()]
    (*train, test), (*train_labels, test_labels) = zip(*parts, strict=True)
    return _pictures(
        "cifar10",
        torch.cat(train),
        test,
        classes=CIFAR10_CLASSES,
        train_labels=torch.cat(train_labels),
        test_labels=test_labels,
    )


def _read_cifar10(path: Path, sha256: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The pictures, uint8 (10000, 3, 32, 32), and the labels, uint8 (10000,), of one file."""
    expected = CIFAR10_PICTURES * CIFAR10_RECORD
    found = f"has {path.stat().st_size:,} bytes" if path.is_file() else "is missing"
    if found != f"has {expected:,} bytes":
        raise DataError(f"{path} {found}, expected {expected:,}: delete {path.parent} and run again")
    records = np.fromfile(path, dtype=np.uint8)
    if hashlib.sha256(records).hexdigest() != sha256:
        raise DataError(f"{path} is not the published file (sha256): delete {path.parent} and run again")
    records = records.reshape(CIFAR10_PICTURES, CIFAR10_RECORD)
    pixels = records[:, 1:].reshape(-1, 3, CIFAR10_SIDE, CIFAR10_SIDE)
    return torch.from_numpy(pixels), torch.from_numpy(records[:, 0].copy())


# ---- toy pictures


def toy_pictures(size: int, train: int = 4096, test: int = 512) -> Pictures:
    """Drawn pictures, horses and zebras in turn, labelled, uint8 (N, 3, size, size); no scene is in both sets.

    They need no download and are the same everywhere. Raises DataError if the size is too small to draw.
    """
    sets, labels = [], []
    for count, seed in zip((train, test), TOY_SEEDS, strict=True):
        drawn = scenes((count + 1) // 2, size, seed)
        sets.append(torch.stack([drawn.horses, drawn.zebras], 1).flatten(0, 1)[:count])
        labels.append(torch.arange(count).remainder(2).to(torch.uint8))
    return _pictures("toy", *sets, classes=("horse", "zebra"), train_labels=labels[0], test_labels=labels[1])


# ---- a folder of one's own pictures


def folder(path: str | Path, size: int, root: str | Path | None = None) -> Pictures:
    """The pictures in the folder `path`, each scaled and cropped to a square: uint8 (N, 3, size, size).

    If the folder holds `train` and `test`, those are the two sets; else all pictures below it are taken and
    about every tenth, chosen by its path, is for the test. Links are followed; hidden files and what is no
    picture by its name are passed over, and one line says so. The squares are kept
    in the folder `.cache` of the root folder, which can be deleted at any time; they are made anew when a file
    is added, removed or changed. Arrays of more than 256 MiB are mapped from there.

    Raises DataError if a set has fewer than 3 pictures, a picture cannot be read (the message names it), or all
    training pictures have one colour.
    """
    path = user_path(path, DataError)
    train, test, passed_over = folders.split(path)
    squares = folders.cached_squares(path, train + test, size, root_folder(root) / ".cache")
    found = _pictures(
        path.resolve().name,
        *torch.from_numpy(squares).tensor_split([len(train)]),
        passed_over=folders.told(path, passed_over),
        mapped=str(getattr(squares, "filename", "")),
    )
    if not found.variance:
        raise DataError(f"the {len(train):,} training pictures in {path} have one colour: give pictures that differ")
    return found
