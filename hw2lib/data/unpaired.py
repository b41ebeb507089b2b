"""Two domains of pictures without pairs, for CycleGAN: horse2zebra, drawn pictures, or a folder of one's own.

`load` finds the pictures by name and returns them as `Domains`: for each of the domains a and b a training and a test
array, uint8 (N, 3, H, W). Training pictures are kept larger than they are used, by 286/256 as in the CycleGAN paper: the
resize is the same at every visit and is done once, while the square that is cut out and its mirroring are drawn anew
whenever `hw2lib.data.Pairs` deals a picture out.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from hw2lib import did_you_mean
from hw2lib.data import folders
from hw2lib.data.download import Archive, DataError, fetch_folder
from hw2lib.data.pictures import checksum, root_folder
from hw2lib.data.toy import scenes
from hw2lib.files import user_path

SPLITS = ("trainA", "trainB", "testA", "testB")

HORSE2ZEBRA = "horse2zebra"
HORSE2ZEBRA_ARCHIVE = Archive(
    url="http://efrosgans.eecs.berkeley.edu/cyclegan/datasets/horse2zebra.zip",
    size=116_867_962,
    digest_kind="sha256",
    digest="a74d9d392eecca9966b51287a76ca126af473d9de4f3e8fc0e9cda08fa1730a1",
)
HORSE2ZEBRA_SPLITS = {  # number of pictures, and the sha256 of what `sha256sum *.jpg` prints in the C locale
    "trainA": (1067, "b9aa89201da96f5a0ae5f4392df0172b74b38e2a875096193ea4b0e3a6b8976a"),
    "trainB": (1334, "4e184601c964ac98e832f6b47216f0c77af63495f33f45e066ac2a12b3163f77"),
    "testA": (120, "12675fc156fb852a05537b9ef9bdd7f31c6dd2410507019ce6231d7fa77504fc"),
    "testB": (140, "0d55199041a5ae2e0e71dc04783c162cd1cb602cb653f03eb4c1bd98fec96439"),
}

SMALLEST_SIZE = 32  # pixels
TOY_SEEDS = (3, 4, 5)  # of the scenes of the training horses, the training zebras and the test pairs


@dataclass(frozen=True, eq=False)
class Domains:
    """Training and test pictures of two domains, and what identifies them.

    name              "toy", "horse2zebra" or the folder's name
    train_a, train_b  uint8 (N, 3, L, L) with L = `load_size(size)`, values 0 to 255; the two N may differ
    test_a, test_b    uint8 (M, 3, size, size); the two M may differ
    size              pixels of what is cut out of training pictures, and of test pictures
    checksum          16 hex digits over shapes and pixels of all four
    a, b              what the domains show, such as "horse" and "zebra"
    masks             bool (M, size, size), where the animal is in test pictures, if that is known
    aligned           whether test_b[i] is the true counterpart of test_a[i]
    zebras            whether these are photographs, of which those of b show zebras
    passed_over       how many files of a folder were not taken for pictures, by reason
    """

    name: str
    train_a: Tensor
    train_b: Tensor
    test_a: Tensor
    test_b: Tensor
    size: int
    checksum: str
    a: str = "A"
    b: str = "B"
    masks: Tensor | None = None
    aligned: bool = False
    zebras: bool = False
    passed_over: dict[str, int] = field(default_factory=dict)

    @property
    def description(self) -> dict:
        """Name, checksum and numbers, for the identity and the provenance of a run."""
        counts = {split: len(getattr(self, split)) for split in ("train_a", "train_b", "test_a", "test_b")}
        return {
            "name": self.name,
            "checksum": self.checksum,
            "train": counts["train_a"] + counts["train_b"],
            "test": counts["test_a"] + counts["test_b"],
            **counts,
        }


def load(dataset: str, size: int, root: str | Path | None = None) -> Domains:
    """The domains called "toy" or "horse2zebra", or those in the folder `dataset`, for squares of `size`.

    `size` is in pixels. A folder of one's own holds the folders trainA, trainB, testA and testB. `root` is
    where data sets and the cache live, see `hw2lib.data.root_folder`. Raises DataError if there is no such data set,
    if it cannot be had whole, or if size is not a whole number of 32 or more that 4 divides.
    """
    if not isinstance(size, int) or size < SMALLEST_SIZE or size % 4:
        raise DataError(f"size {size!r}: give a whole number of pixels, {SMALLEST_SIZE} or more and divisible by 4")
    if dataset == "toy":
        return toy_domains(size)
    if dataset == HORSE2ZEBRA:
        return horse2zebra(size, root)
    if not dataset or not user_path(dataset, DataError).is_dir():
        known = did_you_mean(dataset, ("toy", HORSE2ZEBRA))
        raise DataError(f'no pictures called "{dataset}" and no such folder of {", ".join(SPLITS)}: {known}')
    return folder(dataset, size, root)


def load_size(size: int) -> int:
    """Pixels of a training picture of which `size` are cut out: 286 for 256, others in proportion."""
    return (size * 286 + 128) // 256  # rounds half up


def _domains(name: str, train_a: Tensor, train_b: Tensor, test_a: Tensor, test_b: Tensor, **more) -> Domains:
    total = checksum(train_a, train_b, test_a, test_b)
    return Domains(name, train_a, train_b, test_a, test_b, test_a.shape[-1], total, **more)


# ---- toy pictures


def toy_domains(size: int, train: int = 1024, test: int = 128, calm: bool = False) -> Domains:
    """Drawn horses and zebras: `train` of each, all from different scenes, and `test` scenes as pairs; see toy.scenes.

    Training pictures are uint8 (train, 3, L, L), test pictures (test, 3, size, size). No training horse has
    its zebra among the training zebras; test_b[i] is test_a[i] as a zebra and masks[i] shows where it stands.
    They need no download and are the same everywhere. Raises DataError if the size is too small to draw.
    """
    seed_a, seed_b, test_seed = TOY_SEEDS
    side = load_size(size)
    horses, zebras = scenes(train, side, seed_a, calm).horses, scenes(train, side, seed_b, calm).zebras
    pairs = scenes(test, size, test_seed, calm)
    more = {"a": "horse", "b": "zebra", "masks": pairs.masks, "aligned": True}
    return _domains("toy", horses, zebras, pairs.horses, pairs.zebras, **more)


# ---- horse2zebra


def horse2zebra(size: int, root: str | Path | None = None) -> Domains:
    """The published horse2zebra: 1,067 and 1,334 training, 120 and 140 test pictures of 256 pixels, scaled.

    Read from the folder `horse2zebra` in the root folder, as the official archive unpacks; if that folder is
    there no network is touched. Else the archive is downloaded (117 MB; a download that was cut off is
    carried on with), unpacked and deleted. Number, names and sha256 of the files are checked at every load,
    which takes a fraction of a second; the scaled pictures are cached.

    Raises DataError if the folder is missing and cannot be downloaded, or if a split is not as published.
    """
    where = root_folder(root) / HORSE2ZEBRA
    if not where.is_dir():
        counts = {f"{split}/*.jpg": count for split, (count, _) in HORSE2ZEBRA_SPLITS.items()}
        fetch_folder(HORSE2ZEBRA_ARCHIVE, where, counts)
    files = {split: _published_files(where / split) for split in SPLITS}
    # Only now, as counting all of them is cheap.
    for split in SPLITS:
        _check_published(where / split, files[split])
    return _read(where, files, size, root, a="horse", b="zebra", zebras=True)


def _published_files(path: Path) -> list[Path]:
    """The pictures of one split, sorted by name; DataError unless they are as many as published."""
    files = sorted(path.glob("[!.]*.jpg"))  # without hidden files, as the shell's *.jpg
    expected, _ = HORSE2ZEBRA_SPLITS[path.name]
    if len(files) != expected:
        found = f"holds {len(files):,} pictures" if path.is_dir() else "is missing"
        raise DataError(f"{path} {found}, expected {expected:,}: delete {path.parent} and run again")
    return files


def _check_published(path: Path, files: list[Path]) -> None:
    """Raises DataError unless the files of the split are the published ones, by name and content."""
    _, expected = HORSE2ZEBRA_SPLITS[path.name]
    lines = (f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    found = hashlib.sha256("".join(lines).encode()).hexdigest()
    if found != expected:
        raise DataError(
            f"{path} does not hold the published pictures (sha256 of their sums {found}, "
            f"expected {expected}): delete {path.parent} and run again"
        )


# ---- a folder of one's own pictures


def folder(path: str | Path, size: int, root: str | Path | None = None) -> Domains:
    """The pictures in the folders trainA, trainB, testA and testB of the folder `path`, as squares.

    Training pictures become uint8 (N, 3, L, L), test pictures (M, 3, size, size). How pictures are found, read
    and cached is told at `hw2lib.data.pictures.folder`.

    Raises DataError if a folder is missing or has fewer than 3 pictures, if a picture cannot be read (the
    message names it), or if the test pictures of both domains are the same.
    """
    path = user_path(path, DataError)
    missing = [split for split in SPLITS if not (path / split).is_dir()]
    if missing:
        raise DataError(f"{path} has no folder {', '.join(missing)}: {', '.join(SPLITS)} are needed")
    files, passed_over = folders.named_sets(path, SPLITS)
    found = _read(path, files, size, root, passed_over=folders.told(path, passed_over))
    # Between them there would be no gap that translations could close.
    if {*map(checksum, found.test_a)} == {*map(checksum, found.test_b)}:
        raise DataError(f"{path / 'testA'} and testB show the same: give pictures of two domains")
    return found


def _read(path: Path, files: dict[str, list[Path]], size: int, root: str | Path | None, **more) -> Domains:
    """The domains of the files of each split, which are below `path`."""
    sides = {split: load_size(size) if split.startswith("train") else size for split in SPLITS}
    cache = root_folder(root) / ".cache"
    squares = (folders.cached_squares(path, files[split], sides[split], cache) for split in SPLITS)
    return _domains(path.resolve().name, *map(torch.from_numpy, squares), **more)
