"""Folders of pictures, of any size and kind, as squares of one size: read once, then kept in a cache.

The squares of a folder are one uint8 array (N, 3, size, size) in a `.npy` file whose name says what it was made of, so
a folder that has changed has another cache. `hw2lib.data.pictures` makes picture sets of them.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from hw2lib import in_one_line
from hw2lib.data.download import DataError, notice
from hw2lib.training.progress import somebody_watches

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
LARGE = 1 << 30  # bytes; a larger array stays on the disk, mapped, and off the training device


def split(path: Path) -> tuple[list[Path], list[Path]]:
    """The files of the training and of the test set, each in the order of their paths."""
    if (path / "train").is_dir() and (path / "test").is_dir():
        return picture_files(path / "train"), picture_files(path / "test")
    files = picture_files(path)
    if len(files) < 2:
        raise DataError(f"{path} holds only one picture, {files[0].name}: 2 or more are needed")
    # By a digest of the path, so that a picture does not change sides when others are added or removed.
    draw = {file: hashlib.sha256(os.fsencode(file.relative_to(path).as_posix())).digest() for file in files}
    first, *_, last = sorted(files, key=draw.get)
    test = {file for file in files if int.from_bytes(draw[file]) % 10 == 0}
    test = (test or {first}) - ({last} if len(test) == len(files) else set())
    return [file for file in files if file not in test], [file for file in files if file in test]


def picture_files(path: Path) -> list[Path]:
    """All pictures below `path`, by suffix, sorted by relative path; DataError if there is none."""
    files = [file for file in path.rglob("*") if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file()]
    relative = sorted(file.relative_to(path).as_posix() for file in files)
    # Hidden files are no pictures whatever they are called: macOS leaves a "._x.jpg" beside an "x.jpg".
    shown = [path / name for name in relative if not any(part.startswith(".") for part in name.split("/"))]
    if not shown:
        raise DataError(f"no pictures in {path}: put files ending in {' '.join(PICTURE_SUFFIXES)} there")
    return shown


def cached_squares(path: Path, files: list[Path], size: int, cache: Path) -> np.ndarray:
    """The squares of all files, uint8 (N, 3, size, size), from the cache or made and kept there."""
    shape = (len(files), 3, size, size)
    kept = cache / f"{path.resolve().name}-{size}-{_listing_digest(path, files, size)}.npy"
    if kept.is_file():
        try:
            return _open_squares(kept, shape)
        except (OSError, ValueError, EOFError):
            notice(f"the cache {kept} is damaged and is made anew")
    try:
        _write_squares(kept, _squares(files, size), shape)
        return _open_squares(kept, shape)
    except OSError as error:
        notice(f"cannot keep the pictures in {cache} ({error.strerror}): the next run reads them anew")
    squares = np.empty(shape, np.uint8)
    for position, square in enumerate(_squares(files, size)):
        squares[position] = square
    return squares


def _listing_digest(path: Path, files: list[Path], size: int) -> str:
    """16 hex digits over all that the squares depend on; a file is taken as changed by its length or time."""
    digest = hashlib.sha256(os.fsencode(f"{path.resolve()}\0{size}"))
    for file in files:
        about = file.stat()
        digest.update(os.fsencode(f"\0{file.relative_to(path)}\0{about.st_size}\0{about.st_mtime_ns}"))
    return digest.hexdigest()[:16]


def _open_squares(kept: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The array in the file `kept`; ValueError, EOFError or OSError if it is damaged."""
    # "c" maps the file as "r" would, but torch takes no read-only arrays without a warning.
    squares = np.load(kept, mmap_mode="c" if np.prod(shape, dtype=np.int64) > LARGE else None)
    if squares.shape != shape or squares.dtype != np.uint8:
        raise ValueError(f"{squares.dtype} {squares.shape}")
    return squares


def _write_squares(kept: Path, squares: Iterator[np.ndarray], shape: tuple[int, ...]) -> None:
    """Writes the squares one by one, as they may not fit in memory; `kept` appears only when complete."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_name(f".{kept.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for square in squares:
                file.write(square.tobytes())
        part.replace(kept)
    finally:
        part.unlink(missing_ok=True)


def _squares(files: list[Path], size: int) -> Iterator[np.ndarray]:
    for file in tqdm(files, desc="reading pictures", unit="", disable=not somebody_watches()):
        square = ImageOps.fit(read_picture(file), (size, size), Image.Resampling.BICUBIC)
        yield np.asarray(square).transpose(2, 0, 1)  # (3, size, size)


def read_picture(path: Path) -> Image.Image:
    """The picture in the file, upright and in RGB.

    Grey, CMYK, palette and 16 bits are converted; what is transparent shows white; of several frames the
    first is taken. Raises DataError, naming the file, if it is damaged or has values of unknown range.
    """
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode in ("I", "F"):
                raise ValueError(f"mode {picture.mode} does not say which value is white, 8 or 16 bits would")
            if picture.mode.startswith("I;16"):  # convert() would clip: all values above 255 became white
                values = np.asarray(picture).astype(np.uint32)
                picture = Image.fromarray(((values + 128) // 257).astype(np.uint8))
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            return picture.convert("RGB")
    except Exception as error:  # whatever a decoder raises on a damaged file, and they raise much
        reason = in_one_line(error)
        raise DataError(f"{path} cannot be read as a picture ({reason}): repair or remove it") from error
