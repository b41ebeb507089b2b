"""Paths as the user meant them, and writing that ends in one line where it fails. Imported by all; imports nothing."""

import errno
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from hw2lib import Problem

ROOM = "make room or choose another folder, then run again"
BEGAN = time.time()


def user_path(path: str | Path, error: type[Problem] = Problem) -> Path:
    """An absolute path: `~` is the home folder, and what is relative lies in the current folder. Every path that a user
    can give passes here, once, where it comes in. Raises `error` for a home or a name that no system can have."""
    try:
        found = Path(path).expanduser().absolute()
        try:
            os.stat(found)
        except OSError as reason:
            if reason.errno == errno.ENAMETOOLONG:
                raise error(f"{str(path)[:40]}... is too long for a path: give a shorter one") from None
            if reason.errno in (errno.ELOOP, errno.EACCES):  # a link to itself; a folder one may not look into
                raise RuntimeError(reason.strerror) from None
    except (FileNotFoundError, RuntimeError, ValueError) as reason:  # no current folder, no home, a zero byte
        raise error(f"{path} is no path here ({reason}): give another one") from None
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


def require_writable(path: Path, error: type[Problem] = Problem, advice: str = ROOM) -> None:
    """Say before any work, as `writing` would after it, that a file could not be written; nothing is left or made."""
    with writing(path, error, advice):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        folder = next(above for above in path.parents if above.exists())
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))


def write_whole(path: Path, content: bytes, error: type[Problem] = Problem, advice: str = ROOM) -> None:
    """Write a file, and the folders above it, so that it is there whole or not at all, even after a power cut.

    A kill leaves a hidden part beside it, which goes when the next process writes there. Raises `error` as `writing` does.
    """
    # A name has at most 255 bytes, and a letter up to four.
    part = path.with_name(f".{os.fsdecode(os.fsencode(path.name)[:200])}.{os.getpid()}.part")
    with writing(path, error, advice):
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


@cache  # once a process: a folder may have many files
def _clear(folder: Path) -> None:
    """Remove the parts that killed processes left in a folder; those of processes that live are being written."""
    for part in folder.glob(".*.part"):
        with suppress(OSError, ValueError, OverflowError):  # another user's process; a name that is not ours
            process = int(part.name.split(".")[-2])
            # In a container all of them may have had our number.
            dead = process == os.getpid() and part.stat().st_mtime < BEGAN
            try:
                os.kill(process, 0)
            except ProcessLookupError:
                dead = True
            if dead:
                part.unlink()
