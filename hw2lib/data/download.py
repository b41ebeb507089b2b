"""Fetches an archive of pictures from the network, checks it and unpacks the files that are wanted.

The way of a download: the bytes go to `<name>.part`, which a later run carries on from if this one is cut
off; when the file is complete its length and digest are checked and only then does it get its own name; the
expected files are unpacked into a hidden folder beside the wanted one and renamed in one step, so that a
folder that is there under its own name is always complete. Nothing here knows what the pictures are.
"""

import errno
import hashlib
import http.client
import os
import re
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm.auto import tqdm

from hw2lib import Problem, in_one_line
from hw2lib.training.progress import somebody_watches

TIMEOUT = 30  # seconds without a byte before the network is given up
CHUNK = 1 << 18  # bytes read at a time
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
    print(line, file=sys.stderr, flush=True)


@contextmanager
def disk_errors_told(path: Path, advice: str) -> Iterator[None]:
    """Turns a failure to write `path` into a DataError of one line that ends in `advice`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the operating system's: a damaged archive being read, say
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else error.strerror or type(error).__name__
        raise DataError(f"cannot write {path}: {reason}; {advice}") from error


def fetch(archive: Archive, root: Path) -> Path:
    """The path of the whole, checked archive in `root`; what is not there yet is downloaded.

    Raises DataError if the network fails or the disk is full (what has come is kept for the next run), or if
    the complete file is not the published one (it is deleted then, as carrying on from it could not succeed).
    Two processes must not fetch the same archive at once.
    """
    whole = root / archive.name
    if not whole.is_file():
        part = root / f"{archive.name}.part"
        with disk_errors_told(part, "put that right, then run again to carry on"):
            root.mkdir(parents=True, exist_ok=True)
            _download(archive, part)
        _check(archive, part)
        part.replace(whole)
    else:
        _check(archive, whole)
    return whole


def _download(archive: Archive, part: Path) -> None:
    """Brings `part` to the archive's full length, starting from the bytes it already holds."""
    have = part.stat().st_size if part.is_file() else 0
    if have >= archive.size:
        return
    with _answer(archive, part, have) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0  # the server sends the file from its start whatever was asked for
        offered = response.headers.get("Content-Length")
        if offered is not None and have + int(offered) != archive.size:
            # A log-in page or another edition of the file; mixing it into the part would spoil what is there.
            raise DataError(
                f"{archive.url} offers {have + int(offered):,} bytes where {archive.size:,} are expected: "
                f"{_by_hand(archive, part)}"
            )
        mode = "ab" if have else "wb"
        with part.open(mode) as file, _Progress(archive.name, have, archive.size) as progress:
            for chunk in _chunks(response, archive, part):
                file.write(chunk)
                progress.add(len(chunk))


def _answer(archive: Archive, part: Path, have: int) -> http.client.HTTPResponse:
    """The server's answer to a request for the archive from byte `have` on."""
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        return urllib.request.urlopen(urllib.request.Request(archive.url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()  # a refusal comes with a page, whose connection stays open until then
        raise _network_error(archive, part, error) from error
    except (OSError, http.client.HTTPException) as error:
        raise _network_error(archive, part, error) from error


def _chunks(response: http.client.HTTPResponse, archive: Archive, part: Path) -> Iterator[bytes]:
    """The answer's bytes; reading is apart from writing so that the network and the disk are told apart."""
    left = archive.size  # a server that never stops must not fill the disk
    while left > 0:
        try:
            chunk = response.read(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _network_error(archive, part, error) from error
        if not chunk:
            return
        left -= len(chunk)
        yield chunk


def _network_error(archive: Archive, part: Path, error: Exception) -> DataError:
    reason = in_one_line(getattr(error, "reason", error))
    return DataError(f"cannot download {archive.url} ({reason}): {_by_hand(archive, part)}")


def _by_hand(archive: Archive, part: Path) -> str:
    return (
        f"run again to carry on, or download it elsewhere and put it at {part.with_name(archive.name)}, "
        "or use the toy pictures (dataset toy needs no download)"
    )


def _check(archive: Archive, path: Path) -> None:
    """Raises DataError unless `path` is the published file; a file that cannot become it is deleted."""
    size = path.stat().st_size
    if size < archive.size and path.suffix == ".part":
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
        path.unlink()
        raise DataError(
            f"{path} is not the published {archive.name} ({found}, expected {expected}) and was deleted: "
            "run again to download it afresh"
        )


def unpack_tar(path: Path, target: Path, names: Iterable[str]) -> None:
    """Makes the folder `target` of exactly the files `<target's name>/<name>` of the tar archive at `path`.

    No other member is looked at and no path of the archive is used for writing, so an archive cannot place
    a file, a link or a device anywhere. Raises DataError if a file is missing or the archive is damaged.
    """
    with _whole_or_not_at_all(path, target) as building, tarfile.open(path) as archive:
        # Where a name occurs twice the last one counts, as with every tar.
        members = {member.name.removeprefix("./"): member for member in archive if member.isreg()}
        for name in names:
            member = members.get(f"{target.name}/{name}")
            if member is None:
                raise DataError(f"{path} holds no file {target.name}/{name}: delete it and run again")
            with archive.extractfile(member) as source:
                _copy_member(source, building / name, path)


def unpack_zip(path: Path, target: Path, counts: Mapping[str, int], suffix: str) -> None:
    """Makes the folder `target` of the files `<target's name>/<folder>/*<suffix>` of the zip file at `path`.

    `counts` has the folders and how many files each must have. No other member is looked at and of the
    archive's paths only plain file names are used for writing, so an archive cannot place a file anywhere
    else. Raises DataError if the files are not as many as expected or the archive is damaged.
    """
    with _whole_or_not_at_all(path, target) as building, zipfile.ZipFile(path) as archive:
        # Where a name occurs twice the last one counts, as with every zip.
        members = {member.filename: member for member in archive.infolist()}
        plain = re.compile(rf"\w[\w-]*{re.escape(suffix)}", re.ASCII)  # no separator, colon or leading dot
        for folder, count in counts.items():
            above = f"{target.name}/{folder}/"
            found = {name.removeprefix(above): members[name] for name in members if name.startswith(above)}
            found = {name: member for name, member in found.items() if plain.fullmatch(name)}
            if len(found) != count:
                raise DataError(
                    f"{path} holds {len(found):,} files {above}*{suffix}, expected {count:,}: delete it and run again"
                )
            with disk_errors_told(building / folder, f"{path} is kept: put that right, then run again"):
                (building / folder).mkdir(exist_ok=True)
            for name, member in found.items():
                with archive.open(member) as source:
                    _copy_member(source, building / folder / name, path)


@contextmanager
def _whole_or_not_at_all(path: Path, target: Path) -> Iterator[Path]:
    """A hidden folder to unpack the archive at `path` into; it becomes `target` if all goes well."""
    building = target.with_name(f".{target.name}.{os.getpid()}")
    with disk_errors_told(building, f"{path} is kept: put that right, then run again"):
        building.mkdir(parents=True, exist_ok=True)  # left over if an earlier run was killed
    try:
        yield building
        with disk_errors_told(target, "move it away, then run again"):
            building.rename(target)
    except DAMAGES as error:
        raise DataError(f"{path} cannot be unpacked ({in_one_line(error)}): delete it and run again") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _copy_member(source: IO[bytes], to: Path, path: Path) -> None:
    with disk_errors_told(to, f"{path} is kept: put that right, then run again"), to.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK)


class _Progress:
    """A bar where somebody watches; elsewhere, as in a log file, one line for each tenth."""

    def __init__(self, name: str, done: int, total: int):
        self.name, self.done, self.total = name, done, total
        quiet = not somebody_watches()
        self.bar = tqdm(desc=name, initial=done, total=total, unit="B", unit_scale=True, disable=quiet)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def add(self, count: int) -> None:
        tenths = self.done * 10 // self.total
        self.done += count
        self.bar.update(count)
        if self.bar.disable and self.done * 10 // self.total > tenths:
            notice(f"{self.name}: {self.done / 1e6:,.1f} of {self.total / 1e6:,.1f} MB")
