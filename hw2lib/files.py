"""Paths as the user meant them, and writing that ends in one line where it fails. Imported by all; imports nothing."""

import errno
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from hw2lib import Problem

ROOM = "make room or choose another folder, then run again"
BEGAN = time.time()
# Of a part: a process's number means something on its own machine only.
OURS = f"hw2lib-{platform.node()[:60]}"


def user_path(path: str | Path, error: type[Problem] = Problem) -> Path:
    """An absolute path: `~` is the home folder, and what is relative lies in the current folder. Every path that a user
    can give passes here, once, where it comes in. Raises `error` for a home, a name or a link that leads nowhere."""
    try:
        found = Path(path).expanduser().absolute()
        with suppress(FileNotFoundError, NotADirectoryError):  # it may be made yet
            os.stat(found)
    except (OSError, RuntimeError, ValueError) as reason:  # too long, no home, a zero byte, a link to itself
        why = reason.strerror if isinstance(reason, OSError) else reason
        raise error(f"{str(path)[:140]} is no path here ({why}): give another one") from None
    return found


@contextmanager
def writing(path: str | Path, error: type[Problem] = Problem, advice: str = ROOM) -> Iterator[None]:
    """Whatever the system says against writing `path` in this block becomes one line, an `error` that ends in `advice`."""
    try:
        yield
    except OSError as reason:
        if reason.errno is None:  # not the system's: a damaged file that is read, say
            raise
        full = reason.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full" if full else reason.strerror or type(reason).__name__
        raise error(f"cannot write {str(path)[:400]} ({why}): {advice}") from None


def require_writable(path: Path, error: type[Problem] = Problem) -> None:
    """Say before any work, as `writing` would after it, that a file could not be written; nothing is left or made."""
    with writing(path, error):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        folder = next(above for above in path.parents if above.exists())
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))


def write_whole(path: Path, content: bytes, error: type[Problem] = Problem) -> None:
    """Write a file, and the folders above it, so that it is there whole or not at all, even after a power cut.

    A kill leaves a hidden part beside it, which goes when the next process writes there. Raises `error` as `writing` does.
    """
    # A name has at most 255 bytes, and a letter up to four.
    part = path.with_name(f".{os.fsdecode(os.fsencode(path.name)[:150])}.{OURS}.{os.getpid()}.part")
    with writing(path, error):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _clear(path.parent)
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            with suppress(OSError):  # it has become the file, or there was never a folder
                part.unlink()
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)  # the rename itself
        os.close(directory)


def as_sums(sums: dict[str, str]) -> str:
    """Names and their sha256 as `sha256sum -c` reads them, in their order."""
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items())


def from_sums(text: str) -> dict[str, str]:
    """The reverse of `as_sums`; a line that is none gives a name or a checksum that fits no file."""
    return {name: digest for digest, _, name in (line.partition("  ") for line in text.splitlines())}


@cache  # once a process: a folder may have many files
def _clear(folder: Path) -> None:
    """Remove the parts that killed processes left in a folder; those of processes that live are being written."""
    for part in folder.glob(f".*.{OURS}.*.part"):
        with suppress(OSError, ValueError, OverflowError):  # another user's process; a name that only looks like ours
            process = int(part.name.split(".")[-2])
            # In a container all of them may have had our number.
            dead = process == os.getpid() and part.stat().st_mtime < BEGAN
            try:
                os.kill(process, 0)
            except ProcessLookupError:
                dead = True
            if dead:
                part.unlink()
