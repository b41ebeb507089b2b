"""Folders of pictures, of any size and kind, as squares of one size: read once, on all cores, then kept in a cache.

The squares of a folder are one uint8 array (N, 3, size, size) in a `.npy` file whose name says what it was made of, so
a folder that has changed has another cache. Until it is whole it has another name, and a run that is killed meanwhile is
gone on with by the next. `hw2lib.data.pictures` makes picture sets of them.
"""

import errno
import hashlib
import io
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import joblib
import numpy as np
from PIL import Image, ImageOps

from hw2lib import in_one_line
from hw2lib.data.download import DataError, alone, notice, shown

# What Pillow decodes by itself; of these kinds (drawings, films, data of other libraries) it knows little but the name.
FOREIGN = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
SUFFIXES = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN.keys() - FOREIGN}
FEWEST = 3  # pictures in a set: with fewer, means and distances have no standard error
MAPPED = 1 << 28  # bytes; a larger array is mapped from the cache: memory is used as there is some, and shared
LARGE = 1 << 30  # bytes; a larger array stays off the training device
BLOCK = 1 << 25  # bytes of squares that are made between two writings
MOST_PIXELS = 100_000_000  # of a picture, which in memory takes six bytes for each
# Pillow warns of malformed EXIF, and from 89 million pixels on; what matters is an error here.
warnings.filterwarnings("ignore", module="PIL")


def split(path: Path) -> tuple[list[Path], list[Path], Counter[str]]:
    """The files of the training and of the test set, each in the order of their paths, and what was passed over.

    Raises DataError for sets of fewer than 3 pictures.
    """
    if (path / "train").is_dir() and (path / "test").is_dir():
        files, passed_over = named_sets(path, ("train", "test"))
        return *files.values(), passed_over
    files, passed_over = picture_files(path)
    _require(files, 2 * FEWEST, path, passed_over, f", {FEWEST} of them for the test")
    # By a digest of the path, so that a picture does not change sides when others are added or removed.
    draw = {file: hashlib.sha256(os.fsencode(file.relative_to(path).as_posix())).digest() for file in files}
    tenth = {file for file in files if int.from_bytes(draw[file]) % 10 == 0}
    first = sorted(files, key=lambda file: (file not in tenth, draw[file]))
    test = set(first[: min(max(len(tenth), FEWEST), len(files) - FEWEST)])
    return [file for file in files if file not in test], [file for file in files if file in test], passed_over


def named_sets(path: Path, names: Iterable[str]) -> tuple[dict[str, list[Path]], Counter[str]]:
    """The pictures in each of these folders in `path`, and what was passed over. DataError where it is fewer than 3."""
    files, passed_over = {}, Counter()
    for name in names:
        files[name], its = picture_files(path / name)
        _require(files[name], FEWEST, path / name, its)
        passed_over += its
    beside = [name for name in os.listdir(path) if name not in files and not name.startswith(".")]
    return files, passed_over + Counter({f"beside {', '.join(files)}": len(beside)})


def picture_files(path: Path) -> tuple[list[Path], Counter[str]]:
    """All pictures below `path`, by suffix, sorted by relative path, and how many files were passed over, by reason.

    Links are followed, but no folder is read twice, be it that a link leads back or that two lead to the same.
    """
    # From above `path` a link would come back to it.
    found, passed_over, met = [], Counter(), {_identity(parent) for parent in path.resolve().parents}
    failed = "folder that cannot be read"
    for folder, below, names in os.walk(path, followlinks=True, onerror=lambda _: passed_over.update([failed])):
        if _identity(folder) in met:
            passed_over["folder met before"] += 1
            below.clear()
            continue
        met.add(_identity(folder))
        inside = "" if folder == str(path) else os.path.relpath(folder, path) + "/"
        # Hidden files are no pictures whatever they are called: macOS leaves a "._x.jpg" beside an "x.jpg".
        passed_over["hidden"] += sum(name.startswith(".") for name in (*below, *names))
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in (name for name in names if not name.startswith(".")):
            suffix = os.path.splitext(name)[1].lower()
            if suffix not in SUFFIXES:
                passed_over[suffix or "without suffix"] += 1
            elif not os.path.isfile(os.path.join(folder, name)):
                passed_over["broken link, or no plain file"] += 1
            else:
                found.append(inside + name)
    return [path / name for name in sorted(found)], +passed_over


def _identity(folder: str | Path) -> tuple[int, int]:
    about = os.stat(folder)
    return about.st_dev, about.st_ino


def _require(files: list[Path], least: int, path: Path, passed_over: Counter[str], of_them: str = "") -> None:
    """Raises DataError for fewer than `least` pictures."""
    if len(files) < least:
        has = f"has too few pictures, {len(files)}" if files else "has no pictures"
        but = f" (passed over: {in_words(passed_over)})" if passed_over else ""
        raise DataError(f"{path} {has}{but}: {least} or more are needed{of_them}, such as .jpg, .png or .webp files")


def told(path: Path, passed_over: Counter[str]) -> dict[str, int]:
    """What was passed over in the folder `path`, which one line has then said."""
    if passed_over:
        notice(f"passed over in {path}: {in_words(passed_over)}")
    return dict(passed_over.most_common())


def in_words(passed_over: Counter[str]) -> str:
    """'12 .txt, 3 hidden': the commonest reasons for which files were passed over."""
    common = passed_over.most_common(5)
    rest = passed_over.total() - sum(count for _, count in common)
    return ", ".join(f"{count:,} {reason}" for reason, count in [*common, ("other", rest)] if count)


def cached_squares(path: Path, files: list[Path], size: int, cache: Path) -> np.ndarray:
    """The squares of all files, uint8 (N, 3, size, size), from the cache or made and kept there."""
    shape = (len(files), 3, size, size)
    kept = cache / f"{path.resolve().name[:50]}-{size}-{_listing_digest(path, files, size)}.npy"
    try:
        if kept.is_file():
            try:
                return _open_squares(kept, shape)
            except (ValueError, EOFError):
                notice(f"the cache {kept} is damaged and is made anew")
                kept.unlink()
        _write_squares(kept, files, shape)
        return _open_squares(kept, shape)
    except OSError as error:
        why = f"cannot keep the pictures in {cache} ({error.strerror or in_one_line(error)})"
        if (total := int(np.prod(shape, dtype=np.int64))) > LARGE:
            raise DataError(f"{why}: make {total / 1e9:,.1f} GB of room there, or choose another data folder") from None
        notice(f"{why}: the next run reads them anew")
    return np.concatenate(list(_squares(path.name, files, size)))


def _listing_digest(path: Path, files: list[Path], size: int) -> str:
    """16 hex digits over all that the squares depend on; a file is taken as changed by its length or time."""
    digest = hashlib.sha256(os.fsencode(f"{path.resolve()}\0{size}"))
    for file in files:
        try:
            about = file.stat()
        except OSError as error:
            raise DataError(f"{file} cannot be opened ({error.strerror}): run again") from None
        digest.update(os.fsencode(f"\0{file.relative_to(path)}\0{about.st_size}\0{about.st_mtime_ns}"))
    return digest.hexdigest()[:16]


def _open_squares(kept: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The array in the file `kept`; ValueError, EOFError or OSError if it is damaged."""
    # "c" maps the file as "r" would, but torch takes no read-only arrays without a warning.
    squares = np.load(kept, mmap_mode="c" if np.prod(shape, dtype=np.int64) > MAPPED else None)
    if squares.shape != shape or squares.dtype != np.uint8:
        raise ValueError(f"{squares.dtype} {squares.shape}")
    return squares


def _write_squares(kept: Path, files: list[Path], shape: tuple[int, ...]) -> None:
    """Writes the squares in order, so that the length of the unfinished file tells how many are done."""
    part, each = kept.with_name(f".{kept.name}.part"), int(np.prod(shape[1:]))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    begin = len(header.getvalue())
    kept.parent.mkdir(parents=True, exist_ok=True)
    with alone(kept.parent):
        if kept.is_file():  # made by the process that was waited for
            return
        for old in kept.parent.glob(".*.part"):
            if old != part and old.name.rsplit("-", 1)[0] == part.name.rsplit("-", 1)[0]:
                old.unlink()  # of a folder of this name, as it was or elsewhere
        done = max(0, (part.stat().st_size if part.exists() else 0) - begin) // each
        try:
            if each * (len(files) - done) > shutil.disk_usage(kept.parent).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with part.open("r+b" if done else "wb") as file:
                file.write(header.getvalue())
                file.seek(begin + each * done)
                for block in _squares(kept.stem.rsplit("-", 2)[0], files, shape[-1], done):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            part.replace(kept)
        except (DataError, OSError):
            part.unlink(missing_ok=True)
            raise


def _squares(name: str, files: list[Path], size: int, done: int = 0) -> Iterator[np.ndarray]:
    """The squares of all but the first `done` files, uint8 (n, 3, size, size) at a time, made on all cores."""
    step = max(1, BLOCK // (3 * size**2))
    # Threads: Pillow decodes and scales without the interpreter's lock, and a process would import all of torch.
    with joblib.Parallel(n_jobs=-1, backend="threading") as parallel:

        def block(first: int) -> np.ndarray:
            some = files[first : first + step]
            squares = np.empty((len(some), 3, size, size), np.uint8)
            parallel(joblib.delayed(_fill)(squares[at : at + 8], some[at : at + 8]) for at in range(0, len(some), 8))
            return squares

        blocks = (block(first) for first in range(done, len(files), step))
        yield from shown(blocks, f"reading {name}", len(files), done, " pictures")


def _fill(squares: np.ndarray, files: list[Path]) -> None:
    """Fills squares, uint8 (n, 3, size, size), with n pictures, each scaled and cut to its middle."""
    for square, file in zip(squares, files, strict=True):
        picture = ImageOps.fit(read_picture(file), square.shape[1:], Image.Resampling.BICUBIC)
        square[:] = np.asarray(picture).transpose(2, 0, 1)


def read_picture(path: Path) -> Image.Image:
    """The picture in the file, upright and in RGB.

    Grey, CMYK, palette and 16 bits are converted; what is transparent shows white; of several frames the
    first is taken. Raises DataError, naming the file, if it is damaged, too large or has values of unknown range.
    """
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise Image.DecompressionBombError(f"{picture.width:,} x {picture.height:,} pixels")
            picture.load()
            with suppress(Exception):  # on malformed EXIF, and they are many: then the picture is taken as it is
                ImageOps.exif_transpose(picture, in_place=True)
            if picture.mode in ("I", "F"):
                raise ValueError(f"mode {picture.mode} does not say which value is white, 8 or 16 bits would")
            if picture.mode.startswith("I;16"):  # convert() would clip: all values above 255 became white
                values = np.asarray(picture).astype(np.uint32)
                picture = Image.fromarray(((values + 128) // 257).astype(np.uint8))
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            return picture.convert("RGB")
    except Image.DecompressionBombError as error:
        what = f"is too large ({in_one_line(error)}): scale it to {MOST_PIXELS:,} pixels or fewer"
    except Exception as error:  # whatever a decoder raises on a damaged file, and they raise much
        what = f"cannot be read as a picture ({in_one_line(error)}): repair or remove it"
        if isinstance(error, OSError) and error.errno is not None:
            what = f"cannot be opened ({error.strerror}): give the path of a picture that may be read"
    raise DataError(f"{path} {what}")
