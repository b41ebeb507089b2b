"""Fetches an archive of pictures from the network, checks it and unpacks the files that are wanted.

The way of a download: the bytes go to `<name>.part`, which a later run carries on from if this one is cut off; when the
file is complete its length and digest are checked; the expected files are unpacked into a hidden folder beside the wanted
one and renamed in one step, so that a folder that is there under its own name is always complete. A file called `<name>`
was put there by hand: it is used, and left alone. Nothing here knows what the pictures are. torchvision's downloads start
anew when cut off.
"""

import fcntl
import hashlib
import http.client
import os
import re
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from tqdm.auto import tqdm

from hw2lib import Problem, in_one_line, torchrun_rank
from hw2lib.files import writing
from hw2lib.training.progress import duration, somebody_watches

TIMEOUT = 30  # seconds without a byte before the network is given up
CHUNK = 1 << 18  # bytes read at a time
PART = ".part"  # ends the name of what was downloaded here
# What is raised on reading a damaged archive; the last two by zipfile, on methods and names that cannot be.
DAMAGES = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)


class DataError(Problem):
    """Bad or missing pictures; the message is one line saying what was wrong and what would be right."""


@dataclass(frozen=True)
class Archive:
    """A published file and what it must be."""

    url: str
    size: int  # bytes
    digest_kind: str  # a name that hashlib knows
    digest: str  # hexadecimal

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def notice(line: str) -> None:
    """One line for whoever watches; on standard error, because standard output belongs to results."""
    if not torchrun_rank():  # the first of several processes speaks for all
        print(Problem(line), file=sys.stderr, flush=True)  # printable, whatever the names in it are


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time is in this block for a folder; the others say so and wait.

    Where the file system knows no locks nobody waits.
    """
    held = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                notice(f"waiting for another process that is filling {folder}")
                fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def shown(chunks: Iterable[Sized], name: str, total: int, done: int, unit: str) -> Iterator[Sized]:
    """The chunks as they are, of `total` bytes or pictures, `done` of which were there before.

    Under a bar where somebody watches; elsewhere, as in a log file, a line after five seconds and for each tenth.
    """
    watched, begun, before, said = somebody_watches(), time.monotonic(), done, 0
    with tqdm(desc=name, initial=done, total=total, unit=unit, unit_scale=True, disable=not watched) as bar:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk))
            done += len(chunk)
            spent = time.monotonic() - begun
            if not watched and spent > 5 and done < total and (done * 10 // total > said or not said):
                said = max(1, done * 10 // total)
                left = duration(spent / (done - before) * (total - done))
                notice(f"{name}: {done / total:.0%} of {tqdm.format_sizeof(total)}{unit}, about {left} left")


def fetch_folder(archive: Archive, target: Path, counts: Mapping[str, int]) -> None:
    """Makes the folder `target` of files of an archive, `counts` as in `unpack`; the archive is fetched beside it.

    What was downloaded is deleted then, an archive that somebody put there stays. Where two processes want the same
    folder one waits for the other. Raises DataError as `fetch` and `unpack` do.
    """
    with writing(target.parent, DataError):
        target.parent.mkdir(parents=True, exist_ok=True)
    with alone(target.parent):
        if target.is_dir():
            return
        path = fetch(archive, target.parent)
        unpack(path, target, counts)
        if path.suffix == PART:
            path.unlink()


def fetch(archive: Archive, root: Path) -> Path:
    """The path of the whole, checked archive in the folder `root`: the file of its name, if somebody put it there.

    Else the downloaded one, which is called so with .part at the end; what is not there yet is downloaded. Raises
    DataError if the network fails or the disk is full (what has come is kept for the next run), if the complete
    download is not the published file (it is deleted then, as carrying on from it could not succeed), or if the file
    that was put there is not.
    """
    whole = root / archive.name
    if not whole.is_file():
        whole = root / f"{archive.name}{PART}"
        with writing(whole, DataError, "put that right, then run again to carry on"):
            _download(archive, whole)
    _check(archive, whole)
    return whole


def unpack(path: Path, target: Path, counts: Mapping[str, int]) -> None:
    """Makes the folder `target` of the files `<target's name>/<pattern>` of the tar or zip archive at `path`.

    `counts` has the patterns, such as "trainA/*.jpg", and how many files each must have; * stands for a plain name. No
    other member is looked at and no other path is used for writing, so an archive cannot place a file, a link or a
    device anywhere. Raises DataError if the files are not as many as expected or the archive is damaged.
    """
    with _whole_or_not_at_all(path, target) as building, _members(path) as members:
        for pattern, count in counts.items():
            # A plain name has no separator, colon or leading dot.
            wanted = re.escape(f"{target.name}/{pattern}").replace(r"\*", r"\w[\w-]*")
            found = [name for name in members if re.fullmatch(wanted, name, re.ASCII)]
            if len(found) != count:
                raise DataError(
                    f"{path} holds {len(found):,} files {target.name}/{pattern}, expected {count:,}: "
                    "delete it and run again"
                )
            for name in found:
                to = building / name.removeprefix(f"{target.name}/")
                with members[name]() as source, writing(to, DataError, _kept(path)):
                    to.parent.mkdir(exist_ok=True)
                    with to.open("wb") as file:
                        shutil.copyfileobj(source, file, CHUNK)


# ---- the network


def _download(archive: Archive, part: Path) -> None:
    """Brings `part` to the archive's full length, starting from the bytes it already holds."""
    have = part.stat().st_size if part.is_file() else 0
    if have >= archive.size:
        return
    notice(f"downloading {archive.url}, {(archive.size - have) / 1e6:,.1f} MB, into {part.parent}")
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={have}-"} if have else {})
    with _network_errors_told(archive, part):
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            # The server sends the file from its start whatever was asked for.
            have = 0
        offered = response.headers.get("Content-Length")
        if offered is not None and have + int(offered) != archive.size:
            # A log-in page or another edition of the file; mixing it into the part would spoil what is there.
            raise DataError(
                f"{archive.url} offers {have + int(offered):,} bytes where {archive.size:,} are expected: "
                f"{_by_hand(archive, part)}"
            )
        with part.open("ab" if have else "wb") as file:
            for chunk in shown(_chunks(response, archive, part), archive.name, archive.size, have, "B"):
                file.write(chunk)


def _chunks(response: http.client.HTTPResponse, archive: Archive, part: Path) -> Iterator[bytes]:
    """The answer's bytes; reading is apart from writing so that the network and the disk are told apart."""
    # A server that never stops must not fill the disk.
    left = archive.size
    while left > 0:
        with _network_errors_told(archive, part):
            chunk = response.read(CHUNK)
        if not chunk:
            return
        left -= len(chunk)
        yield chunk


def _check(archive: Archive, path: Path) -> None:
    """Raises DataError unless `path` is the published file; a download that cannot become it is deleted."""
    size = path.stat().st_size
    if size < archive.size and path.suffix == PART:
        raise DataError(
            f"the download of {archive.url} stopped at {size:,} of {archive.size:,} bytes: {_by_hand(archive, path)}"
        )
    if size == archive.size:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, archive.digest_kind).hexdigest()
        found, expected = f"{archive.digest_kind} {digest}", f"{archive.digest_kind} {archive.digest}"
    else:
        found, expected = f"{size:,} bytes", f"{archive.size:,} bytes"
    if found != expected:
        what = f"{path} is not the published {archive.name} ({found}, expected {expected})"
        if path.suffix != PART:
            raise DataError(f"{what}: move it away, then run again to download it")
        path.unlink()
        raise DataError(f"{what} and was deleted: run again to download it afresh")


# ---- the archive


@contextmanager
def _members(path: Path) -> Iterator[dict[str, Callable[[], IO[bytes]]]]:
    """The files of an archive, each as a function that opens it; where a name occurs twice the last one counts."""
    if path.name.removesuffix(PART).endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            yield {member.filename: partial(archive.open, member) for member in archive.infolist()}
    else:
        with tarfile.open(path) as archive:
            files = [member for member in archive if member.isreg()]
            yield {member.name.removeprefix("./"): partial(archive.extractfile, member) for member in files}


@contextmanager
def _whole_or_not_at_all(path: Path, target: Path) -> Iterator[Path]:
    """A hidden folder to unpack the archive at `path` into; it becomes `target` if all goes well."""
    building = target.with_name(f".{target.name}{PART}")
    with writing(building, DataError, _kept(path)):
        # It is there if an earlier run was killed.
        building.mkdir(parents=True, exist_ok=True)
    try:
        yield building
        with writing(target, DataError, "move it away, then run again"):
            building.rename(target)
    except DAMAGES as error:
        raise DataError(f"{path} cannot be unpacked ({in_one_line(error)}): delete it and run again") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


# ---- what is said when it fails


@contextmanager
def _network_errors_told(archive: Archive, part: Path) -> Iterator[None]:
    """Turns a failure to read from the network into a DataError of one line."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            # A refusal comes with a page, whose connection stays open until then.
            error.close()
        reason = in_one_line(getattr(error, "reason", error))
        raise DataError(f"cannot download {archive.url} ({reason}): {_by_hand(archive, part)}") from error


def _by_hand(archive: Archive, part: Path) -> str:
    return (
        f"run again to carry on, or download it elsewhere and put it at {part.with_name(archive.name)}, "
        "or use the toy pictures (dataset toy needs no download)"
    )


def _kept(path: Path) -> str:
    return f"put that right, then run again; {path} is kept"
