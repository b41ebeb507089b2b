"""Claims about downloads: resumed, checked, and unpacked whole or not at all."""

import fcntl
import hashlib
import io
import itertools
import os
import shutil
import socket
import stat
import tarfile
import tempfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw2lib.data import download
from hw2lib.data.download import Archive, DataError, fetch, fetch_folder, unpack

BODY = np.random.default_rng(0).bytes(100_000)
NAME = "pictures.tar.gz"


# ---- the network


class Server(ThreadingHTTPServer):
    """Serves `body`; `ranges` is whether it can start in the middle of it, `cut` where it hangs up."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.body, self.ranges, self.cut, self.status = BODY, True, None, 200
        # The Range header of each request.
        self.asked: list[str | None] = []

    def archive(self, digest: str | None = None, name: str = NAME) -> Archive:
        """What is published, its body being what it is now."""
        url = f"http://127.0.0.1:{self.server_port}/{name}"
        return Archive(url, len(self.body), "md5", digest or hashlib.md5(self.body).hexdigest())


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges else 0
        self.send_response(206 if start else self.server.status)
        self.send_header("Content-Length", str(len(self.server.body) - start))
        self.end_headers()
        self.wfile.write(self.server.body[start : self.server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_download_is_announced(server, root, capsys, monkeypatch):
    """What is missing is announced with its size and place before the first request, and leaves nothing else."""
    ask = Answer.do_GET
    monkeypatch.setattr(Answer, "do_GET", lambda self: said.append(capsys.readouterr().err) or ask(self))
    said, archive = [], server.archive()
    assert fetch(archive, root).read_bytes() == BODY
    assert server.asked == [None]
    assert said == [f"downloading {archive.url}, 0.1 MB, into {root}\n"]
    assert [path.name for path in root.iterdir()] == [f"{NAME}.part"]


def test_a_notice_is_one_line_of_one_process(monkeypatch, capsys):
    """Names of two lines are shown in one, and of several processes only the first says something."""
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
        download.notice("two\nlines")
    assert capsys.readouterr().err == "two\\nlines\n"


def test_a_long_job_says_what_is_left(monkeypatch, capsys):
    """A log gets no line in the first five seconds, then one, then one for each tenth, with the time that is left."""
    clock = itertools.count()
    monkeypatch.setattr(download.time, "monotonic", lambda: next(clock))
    assert len(list(download.shown(["x"] * 30, "reading x", 40, 10, " pictures"))) == 30
    lines = capsys.readouterr().err.splitlines()
    # A second each, and the last tenth is not worth a line.
    assert lines[0] == "reading x: 40% of 40.0 pictures, about 24 s left" and len(lines) == 6


def test_a_download_cut_off_is_carried_on_with(server, root, refused):
    """After a connection that broke, the next run asks for the rest only and ends with the right bytes."""
    server.cut = 30_000
    assert "stopped at 30,000 of 100,000 bytes: run again to carry on" in refused(fetch, server.archive(), root)
    assert (root / f"{NAME}.part").read_bytes() == BODY[:30_000]
    server.cut = None
    assert fetch(server.archive(), root).read_bytes() == BODY
    assert server.asked == [None, "bytes=30000-"]


def test_a_server_without_ranges_restarts(server, root):
    """Where the server sends the whole file in spite of the range, the part there is not added to."""
    server.ranges = False
    (root / f"{NAME}.part").write_bytes(b"x" * 1000)
    assert fetch(server.archive(), root).read_bytes() == BODY
    assert server.asked == ["bytes=1000-"]


@pytest.mark.parametrize("name", [NAME, f"{NAME}.part"])
def test_a_complete_file_needs_no_request(server, root, name):
    """A file put there by hand, as the messages advise, or a part whose run was killed before the renaming, is used."""
    (root / name).write_bytes(BODY)
    assert fetch(server.archive(), root).read_bytes() == BODY
    assert server.asked == []


def test_a_download_of_other_bytes_is_deleted(server, root, refused):
    """A download of the right length and the wrong bytes cannot become the right file: it is named and deleted."""
    (root / f"{NAME}.part").write_bytes(BODY)
    message = refused(fetch, server.archive("0" * 32), root)
    assert f"{root / NAME}.part is not the published {NAME} (md5" in message
    assert "and was deleted: run again" in message
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("body", [b"x" * len(BODY), BODY[:-1]])
def test_another_file_of_the_users_is_left_alone(server, root, refused, body):
    """A file that somebody put there, of other bytes or short, is named with both sums and stays as it is."""
    archive = server.archive()
    (root / NAME).write_bytes(body)
    message = refused(fetch_folder, archive, root / "set", COUNTS)
    assert f"{root / NAME} is not the published {NAME} (" in message and message.count("expected ") == 1
    assert "move it away, then run again to download it" in message
    assert (root / NAME).read_bytes() == body and server.asked == []


def test_of_two_processes_one_waits(server, root, capsys):
    """While another process fetches the folder this one waits, says so, and takes what the other has made."""
    other = os.open(root, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    waiting = threading.Thread(target=fetch_folder, args=(server.archive(), root / "set", COUNTS))
    waiting.start()
    while waiting.is_alive() and "waiting for another process" not in (said := capsys.readouterr().err):
        time.sleep(0.001)
    (root / "set").mkdir()
    os.close(other)
    waiting.join()
    assert f"that is filling {root}\n" in said and server.asked == []


def test_a_wrong_length_offered_leaves_the_part_alone(server, root, refused):
    """An answer of another length, such as a log-in page, is refused before it spoils what has come."""
    archive, page = server.archive(), b"<html>log in</html>"
    (root / f"{NAME}.part").write_bytes(BODY[:30_000])
    server.body, server.ranges = page, False
    assert "offers 19 bytes where 100,000 are expected" in refused(fetch, archive, root)
    assert (root / f"{NAME}.part").read_bytes() == BODY[:30_000]


def test_no_network_says_what_to_do(root, refused):
    """Without a network the one line names the address, the place for the file, and the toy pictures."""
    with socket.socket() as unused:
        # Bound and not listening: connections are refused.
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/{NAME}"
        message = refused(fetch, Archive(url, 1, "md5", ""), root)
    assert f"{url} ([Errno" in message
    assert str(root / NAME) in message
    assert "dataset toy" in message


def test_a_refusal_of_the_server_is_told(server, root, refused):
    """What the server says instead of sending the file, such as that it has none, is in the one line."""
    server.status = 404
    assert "(Not Found)" in refused(fetch, server.archive(), root)


full_disk = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")


@full_disk
def test_a_disk_full_of_the_download_is_named(server, root, refused):
    """A full disk during the download is one line that says so, and is not taken for the network's fault."""
    (root / f"{NAME}.part").symlink_to("/dev/full")
    assert f"cannot write {root / NAME}.part (the disk is full)" in refused(fetch, server.archive(), root)


# ---- archives


FILES = {"set/a/0.jpg": b"0" * 40, "set/a/1.jpg": bytes(range(40)), "set/b/0.jpg": b"", "set/readme.txt": b"hello"}
COUNTS = {"a/*.jpg": 2, "b/0.jpg": 1}
PICTURES = {name: content for name, content in FILES.items() if name.endswith(".jpg")}


def tar_of(members, links=()) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return packed.getvalue()


def zip_of(members, links=(), method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
        for name, target in links:
            link = zipfile.ZipInfo(name)
            link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, target)
    return packed.getvalue()


PACK = {"set.tar.gz": tar_of, "set.zip": zip_of}
each_kind = pytest.mark.parametrize("name", PACK)


def unpacked(path: Path, body: bytes) -> dict[str, bytes]:
    """The files that `unpack` makes of an archive at `path`, by their paths beside it."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(body)
    unpack(path, path.with_name("set"), COUNTS)
    files = (file for file in path.parent.rglob("*") if file.is_file() and file != path)
    return {file.relative_to(path.parent).as_posix(): file.read_bytes() for file in files}


@each_kind
def test_a_folder_is_fetched_and_tidied_up_after(server, root, name):
    """Of a published archive the expected files are left, and nothing else, unless somebody put it there."""
    server.body = PACK[name](FILES.items())
    fetch_folder(server.archive(name=name), root / "set", COUNTS)
    assert {file.relative_to(root).as_posix() for file in root.rglob("*.*")} == set(PICTURES)
    shutil.rmtree(root / "set")
    (root / name).write_bytes(server.body)
    fetch_folder(server.archive(name=name), root / "set", COUNTS)
    assert (root / name).read_bytes() == server.body and len(server.asked) == 1


@each_kind
def test_an_archive_cannot_write_elsewhere(tmp_path, root, name):
    """Members of unexpected paths are not unpacked, wherever they lead; the expected files still are."""
    absolute = str(tmp_path / "absolute.jpg")
    wicked = ["../x.jpg", "set/../../x.jpg", "set/a/../../../x.jpg", absolute, f"set/a/{absolute}", "x.jpg"]
    wicked += ["set/a/..\\x.jpg", "set/a/C:x.jpg", "set/a/in/x.jpg", "set/a/.x.jpg", "set/a/..jpg", "set/c/x.jpg"]
    wicked += ["other/a/x.jpg", "set/a/x.jpg/y.png", "set/b/1.jpg", "set/b/0xjpg", "set/a/x.jpg\n"]
    packed = PACK[name]([*((each, b"x") for each in wicked), *FILES.items()], [("set/link", "/etc")])
    assert unpacked(root / name, packed) == PICTURES
    assert {path.name for path in tmp_path.iterdir()} == {"root"}


@each_kind
def test_a_link_in_an_archive_is_no_link_on_the_disk(root, name, refused):
    """A link under the name of an expected file counts as missing in a tar, and is an ordinary file of a zip."""
    members = [(each, content) for each, content in FILES.items() if each != "set/b/0.jpg"]
    packed = PACK[name](members, [("set/b/0.jpg", "/etc/passwd")])
    if name.endswith("gz"):
        assert "holds 0 files set/b/0.jpg, expected 1" in refused(unpacked, root / name, packed)
    else:
        assert unpacked(root / name, packed)["set/b/0.jpg"] == b"/etc/passwd"
        assert not (root / "set" / "b" / "0.jpg").is_symlink()


@each_kind
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_last_of_two_members_of_one_name_counts(root, name):
    """Where a name occurs twice in an archive, it counts as one file and the last is taken."""
    packed = PACK[name]([("set/a/0.jpg", b"first"), *FILES.items()])
    assert unpacked(root / name, packed) == PICTURES


def with_central_entries(flags: int, method: int) -> bytes:
    """A zip file whose list of members says other flags (1: encrypted) and another method of packing."""
    usual, other = (b"PK\1\2\x14\3\x14\0" + bytes([each, 0, way, 0]) for each, way in ((0, 8), (flags, method)))
    body = zip_of(FILES.items())
    assert body.count(usual) == len(FILES)
    return body.replace(usual, other)


def with_one_bit_flipped() -> bytes:
    """A zip file whose first picture only its check sum tells from the published one."""
    body = zip_of(FILES.items(), method=zipfile.ZIP_STORED)
    assert body.count(b"0" * 40) == 1
    return body.replace(b"0" * 40, b"0" * 39 + b"1")


UNREADABLE = "cannot be unpacked ("
SPOILT = {
    "cut": (lambda pack: pack(FILES.items())[:-60], UNREADABLE),
    "no archive": (lambda pack: b"x" * 5000, UNREADABLE),
    "one short": (lambda pack: pack([*FILES.items()][1:]), "holds 1 files set/a/*.jpg, expected 2"),
    "one too many": (
        lambda pack: pack([*FILES.items(), ("set/a/more.jpg", b"x")]),
        "holds 3 files set/a/*.jpg, expected 2",
    ),
    "a folder missing": (lambda pack: pack([*FILES.items()][:2]), "holds 0 files set/b/0.jpg, expected 1"),
}
SPOILT_ZIP = {
    "one bit flipped": (lambda _: with_one_bit_flipped(), UNREADABLE),
    "encrypted": (lambda _: with_central_entries(1, 8), UNREADABLE),
    "unknown packing": (lambda _: with_central_entries(0, 99), UNREADABLE),
    "a name that is no text": (
        lambda pack: pack([*FILES.items(), ("é.jpg", b"")]).replace("é".encode(), b"\xff\xff"),
        UNREADABLE,
    ),
}


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        pytest.param(name, *spoilt, id=f"{name}-{what}")
        for name, all_spoilt in {"set.tar.gz": SPOILT, "set.zip": SPOILT | SPOILT_ZIP}.items()
        for what, spoilt in all_spoilt.items()
    ],
)
def test_an_archive_that_is_not_whole_leaves_no_folder(root, refused, name, spoil, says):
    """An archive that cannot be unpacked whole is reported in one line and leaves no half a folder."""
    message = refused(unpacked, root / name, spoil(PACK[name]))
    assert says in message
    assert message.endswith("delete it and run again")
    assert [path.name for path in root.iterdir()] == [name]


@each_kind
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_damage_leaves_a_whole_folder_or_none(name, data):
    """Whichever byte of an archive is changed, the folder is made whole, or one line said and none left."""
    body = PACK[name](FILES.items())
    place, change = data.draw(st.integers(0, len(body) - 1)), data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / name
        try:
            made = unpacked(path, body[:place] + bytes([body[place] ^ change]) + body[place + 1 :])
            assert len(made) == 3
            assert {each.name for each in Path(temporary).iterdir()} == {"set", name}
        except DataError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            assert [each.name for each in Path(temporary).iterdir()] == [name]


@each_kind
def test_a_file_in_the_place_of_the_folder_is_told(root, refused, name):
    """A file where the folder has to be is neither overwritten nor taken for the archive's fault."""
    (root / "set").write_text("mine")
    assert "move it away, then run again" in refused(unpacked, root / name, PACK[name](FILES.items()))
    assert (root / "set").read_text() == "mine"


@full_disk
@each_kind
def test_a_disk_full_of_unpacking_is_named(root, refused, name):
    """A disk that is full during the unpacking is one line that says so; the archive alone is kept."""
    building = root / ".set.part" / "a"
    building.mkdir(parents=True)
    (building / "1.jpg").symlink_to("/dev/full")
    message = refused(unpacked, root / name, PACK[name](FILES.items()))
    assert "(the disk is full)" in message and message.endswith(f"{root / name} is kept")
    assert [path.name for path in root.iterdir()] == [name]
