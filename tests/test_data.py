"""Claims about the pictures a run is given: the right ones, whole, and dealt out as promised."""

import hashlib
import io
import os
import socket
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hw2lib.data import download, folders
from hw2lib.data import pictures as data
from hw2lib.data.batches import Batches
from hw2lib.data.pictures import DataError, Pictures, cifar10, folder, load, root_folder, toy_pictures

BATCHES = "cifar-10-batches-bin"
RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.fixture(autouse=True)
def own_root(tmp_path, monkeypatch):
    """No test reads or writes the data sets and caches of whoever runs it."""
    monkeypatch.setenv("HW2_DATA", str(tmp_path / "root"))
    monkeypatch.setenv("HW2_PROGRESS", "lines")
    monkeypatch.setenv("no_proxy", "*")


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert message and "\n" not in message
    return message


# ---- CIFAR-10 and its download


class Server(ThreadingHTTPServer):
    """Serves `body`; `ranges` is whether it can start in the middle of it, `cut` where it hangs up."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.body, self.ranges, self.cut, self.status = b"", True, None, 200
        self.asked: list[str | None] = []  # the Range header of each request


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


def tar_of(files: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in more:
            archive.addfile(member)
    return packed.getvalue()


@pytest.fixture
def published(server, tmp_path, monkeypatch):
    """A CIFAR-10 of four pictures a file, published on the local server in the place of the true one."""
    rng = np.random.default_rng(0)
    names = list(data.CIFAR10_FILES)
    records = {name: rng.integers(0, 256, (4, 3073), dtype=np.uint8) for name in names}
    for rows in records.values():
        rows[:, 0] %= 10
    files = {f"{BATCHES}/{name}": rows.tobytes() for name, rows in records.items()}

    def publish(body: bytes, **changes) -> None:
        server.body = body
        archive = download.Archive(
            url=f"http://127.0.0.1:{server.server_port}/pictures.tar.gz",
            size=len(body),
            digest_kind="md5",
            digest=hashlib.md5(body).hexdigest(),
        )
        monkeypatch.setattr(data, "CIFAR10_ARCHIVE", replace(archive, **changes))

    sums = {name: hashlib.sha256(rows).hexdigest() for name, rows in records.items()}
    monkeypatch.setattr(data, "CIFAR10_FILES", sums)
    monkeypatch.setattr(data, "CIFAR10_PICTURES", 4)
    publish(tar_of({f"{BATCHES}/readme.html": b"hello", **files}))
    root = tmp_path / "root"
    return SimpleNamespace(records=records, files=files, publish=publish, root=root, part=root / "pictures.tar.gz.part")


def assert_is_published(pictures: Pictures, records: dict[str, np.ndarray]) -> None:
    *train, test = records.values()
    train = np.concatenate(train)
    assert np.array_equal(pictures.train.numpy(), train[:, 1:].reshape(20, 3, 32, 32))
    assert np.array_equal(pictures.test.numpy(), test[:, 1:].reshape(4, 3, 32, 32))
    assert np.array_equal(pictures.train_labels.numpy(), train[:, 0])
    assert np.array_equal(pictures.test_labels.numpy(), test[:, 0])


def unpacked(published) -> Path:
    for name, content in published.files.items():
        (published.root / name).parent.mkdir(parents=True, exist_ok=True)
        (published.root / name).write_bytes(content)
    return published.root / BATCHES


def test_download_gives_the_published_pictures_and_tidies_up(published, server, capsys):
    """A missing CIFAR-10 is downloaded, told of in lines if not on a terminal, and leaves its folder only."""
    assert_is_published(cifar10(), published.records)
    assert server.asked == [None]
    assert [path.name for path in published.root.iterdir()] == [BATCHES]
    assert "pictures.tar.gz: 0.1 of 0.1 MB" in capsys.readouterr().err


def test_whole_folder_touches_no_network(published, monkeypatch):
    """With the folder there and whole, no socket is opened."""
    unpacked(published)
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a socket was opened"))
    assert_is_published(cifar10(), published.records)


def test_download_cut_off_is_carried_on_with(published, server):
    """After a connection that broke, the next run asks for the rest only and ends with the right pictures."""
    server.cut = 30_000
    with pytest.raises(DataError) as error:
        cifar10()
    assert "stopped at 30,000 of" in one_line(error)
    assert published.part.read_bytes() == server.body[:30_000]
    server.cut = None
    assert_is_published(cifar10(), published.records)
    assert server.asked == [None, "bytes=30000-"]


def test_server_without_ranges_restarts(published, server):
    """Where the server sends the whole file in spite of the range, the part there is not added to."""
    server.ranges = False
    published.root.mkdir()
    published.part.write_bytes(b"x" * 1000)
    assert_is_published(cifar10(), published.records)
    assert server.asked == ["bytes=1000-"]


def test_complete_part_needs_no_request(published, server):
    """A part that is complete, its run killed before the renaming, is used without asking the server."""
    published.root.mkdir()
    published.part.write_bytes(server.body)
    assert_is_published(cifar10(), published.records)
    assert server.asked == []


def test_archive_put_there_by_hand_is_used(published, server):
    """An archive put into the root folder by hand, as the messages advise, is all it takes."""
    published.root.mkdir()
    (published.root / "pictures.tar.gz").write_bytes(server.body)
    assert_is_published(cifar10(), published.records)
    assert server.asked == []


def test_wrong_digest_deletes_the_file(published, server):
    """A download of the right length and the wrong bytes is deleted, named, and not unpacked."""
    published.publish(server.body, digest="0" * 32)
    with pytest.raises(DataError) as error:
        cifar10()
    message = one_line(error)
    assert "pictures.tar.gz.part is not the published" in message and "0" * 32 in message
    assert list(published.root.iterdir()) == []


def test_wrong_length_offered_leaves_the_part_alone(published, server):
    """An answer of another length, such as a log-in page, is refused before it spoils what has come."""
    server.cut = 30_000
    with pytest.raises(DataError):
        cifar10()
    size = len(server.body)
    server.body, server.cut, server.ranges = b"<html>log in</html>", None, False
    with pytest.raises(DataError) as error:
        cifar10()
    assert f"offers 19 bytes where {size:,} are expected" in one_line(error)
    assert published.part.stat().st_size == 30_000


@pytest.mark.parametrize("spoil", ["cut in the middle", "a file missing", "no archive"])
def test_damaged_archive_leaves_no_folder(published, server, spoil):
    """An archive that cannot be unpacked whole is reported in one line and leaves no half a folder."""
    packed = {
        "cut in the middle": server.body[: len(server.body) // 2],
        "a file missing": tar_of(dict(list(published.files.items())[:-1])),
        "no archive": b"x" * 5000,
    }
    published.publish(packed[spoil])
    with pytest.raises(DataError) as error:
        cifar10()
    assert "delete it and run again" in one_line(error)
    assert [path.name for path in published.root.iterdir()] == ["pictures.tar.gz"]


def test_archive_cannot_write_elsewhere(published, tmp_path):
    """Members with ../ or absolute paths and links are not unpacked; the expected files still are."""
    link = tarfile.TarInfo(f"{BATCHES}/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    absolute = str(tmp_path / "absolute")
    published.publish(
        tar_of({"../outside": b"x", f"{BATCHES}/../../outside": b"x", absolute: b"x", **published.files}, link)
    )
    assert_is_published(cifar10(), published.records)
    assert sorted(path.name for path in tmp_path.rglob("*") if not path.is_dir()) == sorted(published.records)


def test_link_in_place_of_a_file_is_refused(published):
    """A link under the name of an expected file counts as that file missing."""
    link = tarfile.TarInfo(f"{BATCHES}/test_batch.bin")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    published.publish(tar_of(dict(list(published.files.items())[:-1]), link))
    with pytest.raises(DataError, match=r"holds no file .*test_batch\.bin"):
        cifar10()


def test_no_network_says_what_to_do(published):
    """Without a network the one line names the address, the place for the file, and the toy pictures."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/pictures.tar.gz"
        published.publish(b"x", url=url)
        with pytest.raises(DataError) as error:
            cifar10()
    message = one_line(error)
    assert (
        f"{url} ([Errno" in message and str(published.root / "pictures.tar.gz") in message and "dataset toy" in message
    )


def test_refusal_of_the_server_is_told(published, server):
    """What the server says instead of sending the file, such as that it has none, is in the one line."""
    server.status = 404
    with pytest.raises(DataError) as error:
        cifar10()
    assert "(Not Found)" in one_line(error)


def test_download_can_be_forbidden(published, server):
    """With download=False a missing folder is an error that names it, and the server is not asked."""
    with pytest.raises(DataError) as error:
        cifar10(download=False)
    assert str(published.root / BATCHES) in one_line(error)
    assert server.asked == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_full_disk_is_named(published):
    """A full disk during the download is one line that says so, and is not taken for the network's fault."""
    published.root.mkdir()
    published.part.symlink_to("/dev/full")
    with pytest.raises(DataError) as error:
        cifar10()
    assert "the disk is full" in one_line(error) and str(published.part) in str(error.value)


@pytest.mark.parametrize("spoil", ["truncated", "missing", "changed"])
def test_bad_file_is_named(published, spoil):
    """A CIFAR-10 file that is short, absent, or has one other byte is named, whichever of the six it is."""
    path = unpacked(published) / "data_batch_3.bin"
    content = path.read_bytes()
    if spoil == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + {"truncated": b"", "changed": bytes([content[-1] ^ 1])}[spoil])
    with pytest.raises(DataError) as error:
        cifar10()
    assert f"{path} " in one_line(error) and "delete" in str(error.value)


REAL = os.environ.get("HW2_DATA", "")


@pytest.mark.real_data
@pytest.mark.skipif(not (Path(REAL) / BATCHES).is_dir() or not REAL, reason="$HW2_DATA holds no CIFAR-10")
def test_real_cifar10_has_its_known_statistics():
    """The real CIFAR-10 reads as 50,000 and 10,000 pictures of known means and class counts."""
    pictures = load("cifar10", root=REAL)
    assert pictures.train.shape == (50_000, 3, 32, 32) and pictures.test.shape == (10_000, 3, 32, 32)
    means = pictures.train.numpy().mean(axis=(0, 2, 3)) / 255
    assert means == pytest.approx([0.49140, 0.48216, 0.44653], abs=1e-5)
    assert torch.bincount(pictures.train_labels).tolist() == [5000] * 10
    assert torch.bincount(pictures.test_labels).tolist() == [1000] * 10
    assert pictures.classes == tuple((Path(REAL) / BATCHES / "batches.meta.txt").read_text().split())
    assert pictures.variance == pytest.approx(0.063, abs=5e-4)


# ---- which pictures


def test_root_folder_prefers_argument_then_environment_then_repository(monkeypatch):
    """The root folder is the argument unless it is empty, then $HW2_DATA, then `data` beside hw2lib."""
    monkeypatch.setenv("HW2_DATA", "/somewhere")
    assert root_folder("/given") == Path("/given")
    assert root_folder("") == root_folder(None) == Path("/somewhere")
    monkeypatch.setenv("HW2_DATA", "")
    assert root_folder() == Path(data.__file__).parents[1] / "data"


@pytest.mark.parametrize(
    ("dataset", "size", "says"),
    [
        ("cifar", 32, "toy, cifar10 or the path of a folder"),
        ("", 32, "toy, cifar10 or the path of a folder"),
        ("cifar10", 64, "give size 32"),
        ("toy", 7, "8 or more"),
        ("toy", 32.0, "whole number"),
        ("toy", True, "whole number"),
        ("toy", 8, "cannot be drawn"),
    ],
)
def test_load_refuses_what_is_not_there(dataset, size, says):
    """An unknown data set and a size that cannot be had are errors of one line saying what would be right."""
    with pytest.raises(DataError, match=says) as error:
        load(dataset, size)
    one_line(error)


def test_toy_pictures_are_half_and_half_and_never_shared():
    """The toy pictures are as many as asked for, repeatable, and no test picture is a training one."""
    first, again = toy_pictures(32, train=24, test=9), toy_pictures(32, train=24, test=9)
    assert first.train.shape == (24, 3, 32, 32) and first.test.shape == (9, 3, 32, 32)
    assert first.train.dtype == torch.uint8
    assert first.checksum == again.checksum
    train = {picture.numpy().tobytes() for picture in first.train}
    assert len(train) == 24 and not train & {picture.numpy().tobytes() for picture in first.test}


def test_variance_is_that_of_numpy():
    """The variance of the training pixels agrees with NumPy's in float64, to the 6 digits that are kept."""
    train = torch.randint(0, 256, (5000, 3, 8, 8), generator=torch.Generator().manual_seed(0)) ** 2 // 255
    pictures = Pictures("x", train.to(torch.uint8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "")
    expected = np.var(pictures.train.numpy() / np.float64(255))
    assert pictures.variance == float(f"{expected:.6g}")


def test_checksum_tells_pictures_apart(tmp_path):
    """One other pixel, in either set, makes another checksum."""
    train, test = torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    sums = {data._pictures("x", train, test).checksum}
    test[1, 2, 7, 7] = 1
    sums.add(data._pictures("x", train, test).checksum)
    train[0, 0, 0, 0] = 1
    sums.add(data._pictures("x", train, test).checksum)
    sums.add(data._pictures("x", torch.cat([train, test[:1]]), test[1:]).checksum)
    assert len(sums) == 4 and all(len(each) == 16 for each in sums)


# ---- a folder of pictures


def album(path: Path, count: int, size: int = 16) -> Path:
    """A folder of `count` different PNG pictures."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(count)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path / f"{number:03}.png")
    return path


def grey() -> Image.Image:
    return Image.new("L", (20, 20), 100)


def sixteen_bits(value: int = 100) -> Image.Image:
    return Image.fromarray(np.full((20, 20), value * 257, np.uint16))


def palette() -> Image.Image:
    return Image.new("RGB", (20, 20), RED).quantize(4)


def half_red() -> Image.Image:
    return Image.new("RGBA", (20, 20), (*RED, 0))


@pytest.mark.parametrize(
    ("picture", "name", "expected"),
    [
        (grey, "grey.PNG", (100, 100, 100)),
        (sixteen_bits, "sixteen.png", (100, 100, 100)),
        (sixteen_bits, "sixteen.tiff", (100, 100, 100)),
        (lambda: sixteen_bits(255), "white.png", WHITE),
        (palette, "palette.gif", RED),
        (palette, "palette.png", RED),
        (half_red, "clear.png", WHITE),
        (half_red, "clear.webp", WHITE),
        (lambda: Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "ink.jpg", RED),
        (lambda: Image.new("1", (20, 20), 1), "bits.bmp", WHITE),
    ],
)
def test_every_kind_of_picture_becomes_rgb(tmp_path, picture, name, expected):
    """Grey, CMYK, palette, 1-bit and 16-bit pictures keep their colour, and the transparent shows white."""
    for side in ("train", "test"):
        (tmp_path / "album" / side).mkdir(parents=True)
        picture().save(tmp_path / "album" / side / name)
    pictures = folder(tmp_path / "album", 8)
    assert pictures.train.shape == (1, 3, 8, 8) and pictures.train.dtype == torch.uint8
    assert (pictures.train.int() - torch.tensor(expected).view(3, 1, 1)).abs().max() <= 2


def test_pictures_are_turned_upright_and_cropped_at_the_centre(tmp_path):
    """A picture on its side is turned by its EXIF mark, and of a long one the middle square is kept."""
    stripes = np.zeros((24, 72, 3), np.uint8)
    stripes[:, 24:48] = RED  # the middle third
    stripes[:8, 24:48] = WHITE  # above it a band of white
    turned = Image.fromarray(stripes).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    for side in ("train", "test"):
        (tmp_path / side).mkdir()
        turned.save(tmp_path / side / "a.png", exif=exif)
    square = folder(tmp_path, 24).train[0].permute(1, 2, 0)  # (24, 24, 3)
    assert (square[:8] == torch.tensor(WHITE)).all() and (square[8:] == torch.tensor(RED)).all()


def test_floating_point_picture_is_refused(tmp_path):
    """A picture whose values have no known white is refused, naming it, rather than clipped."""
    Image.fromarray(np.ones((20, 20), np.float32)).save(album(tmp_path / "album", 3) / "depth.tif")
    with pytest.raises(DataError, match=r"depth\.tif") as error:
        folder(tmp_path / "album", 8)
    one_line(error)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_truncated_picture_is_named(tmp_path, suffix):
    """A picture file that ends too early is an error naming it, and nothing is cached."""
    path = album(tmp_path / "album", 3) / f"half{suffix}"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError) as error:
        folder(tmp_path / "album", 8, tmp_path / "cache")
    assert str(path) in one_line(error)
    assert list((tmp_path / "cache").iterdir()) == []


def test_bad_folders_are_told_apart(tmp_path):
    """A missing folder, one without pictures, one with a single one and an empty test set are named."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    (tmp_path / "empty" / "._hidden.jpg").write_text("no picture")
    album(tmp_path / "one", 1)
    album(tmp_path / "split" / "train", 3)
    (tmp_path / "split" / "test").mkdir()
    for name, says in {
        "absent": "no folder",
        "empty": r"\.jpg \.jpeg \.png \.webp \.bmp \.gif \.tif \.tiff",
        "one": "only one picture",
        "split": "test",
    }.items():
        with pytest.raises(DataError, match=says) as error:
            folder(tmp_path / name, 8)
        assert str(tmp_path / name) in one_line(error)


def test_bad_size_is_refused_before_the_folder_is_looked_at(tmp_path):
    """A size below 8 or not a whole number is refused."""
    for size in (7, 0, -32, 32.5, "32", True):
        with pytest.raises(DataError, match="whole number"):
            folder(tmp_path / "absent", size)


def test_train_and_test_folders_are_the_split(tmp_path):
    """With train and test there, pictures are taken from those two and from nowhere else."""
    album(tmp_path / "album" / "train" / "deep", 5)
    album(tmp_path / "album" / "test", 3)
    Image.new("RGB", (9, 9)).save(tmp_path / "album" / "cover.png")
    pictures = load(str(tmp_path / "album"), 16)
    assert pictures.name == "album"
    assert (len(pictures.train), len(pictures.test)) == (5, 3)
    first = np.asarray(Image.open(tmp_path / "album" / "train" / "deep" / "000.png"))
    assert np.array_equal(pictures.train[0].permute(1, 2, 0).numpy(), first)


@pytest.mark.parametrize("count", [2, 3, 10, 120])
def test_split_is_disjoint_complete_and_stable(tmp_path, count):
    """Every picture is in one set, neither is empty, about a tenth is for the test, by path alone."""
    path = album(tmp_path / "album", count, size=8)
    train, test = folders.split(path)
    assert len(train) + len(test) == count and not set(train) & set(test) and train and test
    assert len(test) <= max(1, count // 5)
    moved = path.rename(tmp_path / "elsewhere")
    assert [[file.name for file in part] for part in folders.split(moved)] == [
        [file.name for file in part] for part in (train, test)
    ]
    if count == 120:  # with a few pictures the one that must be in a set can change
        (moved / train[0].name).unlink()
        assert [file.name for file in folders.split(moved)[1]] == [file.name for file in test]


@pytest.mark.parametrize("for_test", [True, False])
def test_neither_set_is_empty_by_chance(tmp_path, for_test):
    """Where the rule would put all of two pictures into one set, one of them goes to the other."""
    lots = {f"{number}.png": hashlib.sha256(f"{number}.png".encode()).hexdigest() for number in range(100)}
    names = [name for name, lot in lots.items() if (int(lot, 16) % 10 == 0) == for_test]
    for name in names[:2]:
        (tmp_path / name).touch()
    assert [len(part) for part in folders.split(tmp_path)] == [1, 1]


def test_cache_is_used_and_outdated_by_a_change(tmp_path, monkeypatch):
    """The second time no picture is opened; when a file has changed, by its time alone, all are read."""
    path = album(tmp_path / "album", 12)
    first = folder(path, 8)
    assert len(list((tmp_path / "root" / ".cache").iterdir())) == 1
    read, opened = folders.read_picture, []
    monkeypatch.setattr(folders, "read_picture", lambda file: opened.append(file) or read(file))
    assert folder(path, 8).checksum == first.checksum and not opened
    changed = path / "003.png"
    before = changed.stat()
    changed.write_bytes((path / "004.png").read_bytes())
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert folder(path, 8).checksum != first.checksum and len(opened) == 12
    folder(path, 9)
    assert len(opened) == 24


@pytest.mark.parametrize("spoil", ["truncated", "empty", "nonsense", "other shape"])
def test_damaged_cache_is_made_anew(tmp_path, spoil, capsys):
    """A cache that is short, empty, no array or another array is replaced, and one line says so."""
    path = album(tmp_path / "album", 12)
    first = folder(path, 8)
    (kept,) = (tmp_path / "root" / ".cache").iterdir()
    content, other = kept.read_bytes(), io.BytesIO()
    np.save(other, np.zeros((12, 3, 9, 9), np.uint8))
    spoilt = {
        "truncated": content[:-1],
        "empty": b"",
        "nonsense": b"x" * 999,
        "other shape": other.getvalue(),
    }
    kept.write_bytes(spoilt[spoil])
    assert folder(path, 8).checksum == first.checksum
    assert capsys.readouterr().err.count("is damaged and is made anew\n") == 1
    assert kept.read_bytes() == content


def test_unwritable_cache_is_done_without(tmp_path, capsys):
    """Where the cache folder cannot be made, one line says so and the pictures are the same."""
    path = album(tmp_path / "album", 5)
    (tmp_path / "file").write_text("in the way")
    assert folder(path, 8, tmp_path / "file" / "cache").checksum == folder(path, 8).checksum
    assert capsys.readouterr().err.count("cannot keep the pictures in") == 1


@pytest.mark.filterwarnings("error")
def test_large_arrays_are_mapped(tmp_path, monkeypatch):
    """Above the limit the cache is mapped, not read, gives the same pictures, and stays unchanged."""
    path = album(tmp_path / "album", 12)
    first = folder(path, 8)
    monkeypatch.setattr(folders, "LARGE", 100)
    monkeypatch.setattr(
        torch, "from_numpy", lambda array, really=torch.from_numpy: mapped.append(array) or really(array)
    )
    mapped = []
    again = folder(path, 8)
    assert isinstance(mapped[0], np.memmap) and again.checksum == first.checksum
    batches = Batches(again.train, 4, seed=0)
    assert sum(len(batch) for batch in batches(0)) == len(first.train)
    assert folder(path, 8).checksum == first.checksum


# ---- batches


def numbered(count: int) -> torch.Tensor:
    """Pictures that show their number in one corner and are lit on the left half only."""
    pictures = torch.zeros(count, 3, 4, 4, dtype=torch.uint8)
    pictures[:, 0, :, :2] = torch.arange(count, dtype=torch.uint8)[:, None, None]
    pictures[:, 1, :, :2] = 200
    return pictures


def numbers(batch: torch.Tensor) -> list[int]:
    return batch[:, 0].amax((1, 2)).tolist()


def mirrored(batch: torch.Tensor) -> torch.Tensor:
    return batch[:, 1, 0, 0] == 0


def test_every_picture_once_an_epoch():
    """An epoch has ceil(N / batch size) batches which hold every picture exactly once."""
    batches = Batches(numbered(50), 8, seed=3)
    seen = list(batches(0))
    assert len(seen) == len(batches) == 7
    assert [len(batch) for batch in seen] == [8] * 6 + [2]
    assert sorted(numbers(torch.cat(seen))) == list(range(50))


def test_order_depends_on_seed_and_epoch_alone():
    """The same (seed, epoch) gives the same batches whatever came before; another of either does not."""
    batches = Batches(numbered(50), 8, seed=3)
    list(batches(7))
    first = torch.cat(list(batches(1)))
    assert torch.equal(first, torch.cat(list(Batches(numbered(50), 8, seed=3)(1))))
    orders = {
        (seed, epoch): tuple(numbers(torch.cat(list(Batches(numbered(50), 8, seed=seed)(epoch)))))
        for seed in range(6)
        for epoch in range(6)
    }
    assert len(set(orders.values())) == 36  # (1, 2) and (2, 1) too: the two are not summed


def test_description_tells_other_batches_apart():
    """Whatever changes the batches of a step, the pictures' values aside, changes their description."""
    usual = {"pictures": numbered(50), "batch_size": 8, "seed": 3, "flip": True}
    others = [{"pictures": numbered(51)}, {"batch_size": 9}, {"seed": 4}, {"flip": False}]
    described = [str(Batches(**(usual | other)).description) for other in ({}, *others)]
    assert len(set(described)) == 5


def test_global_random_state_is_left_alone():
    """Dealing out batches neither uses nor disturbs torch's global random numbers."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = torch.cat(list(Batches(numbered(20), 8, seed=0)(0)))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(torch.cat(list(Batches(numbered(20), 8, seed=0)(0))), first)


@pytest.mark.parametrize("skip", [0, 1, 5, 6, 7])
def test_skip_gives_the_tail(skip):
    """An epoch resumed at step k gives what the whole epoch gives from step k on, mirroring included."""
    batches = Batches(numbered(50), 8, seed=3)
    whole, tail = list(batches(2)), list(batches(2, skip=skip))
    assert len(tail) == 7 - skip
    assert all(torch.equal(one, other) for one, other in zip(tail, whole[skip:], strict=True))


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_the_batch_of_one_process(world_size):
    """Interleaved, the shares of all ranks are the batch of a single process, mirroring included."""
    batches = Batches(numbered(53), 12, seed=3)
    shares = [list(batches(4, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for step, alone in enumerate(batches(4)):
        together = torch.empty_like(alone)
        for rank in range(world_size):
            together[rank::world_size] = shares[rank][step]
        assert torch.equal(together, alone)


def test_a_batch_too_small_to_share_is_said():
    """A last batch with fewer pictures than processes is refused before the first step, in one line."""
    with pytest.raises(DataError, match="the last batch has 1 pictures for 2 processes"):
        next(Batches(numbered(25), 12, seed=0)(0, rank=1, world_size=2))


def test_mirroring_is_left_to_right_half_the_time_and_drawn_anew():
    """About half of the pictures are mirrored, left to right and nothing else, and others in each epoch."""
    pictures = torch.randint(0, 256, (250, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    pictures[:, 0, :, 0], pictures[:, 0, :, -1] = torch.arange(250, dtype=torch.uint8)[:, None], 255
    batches, lots = Batches(pictures, 25, seed=0), []
    for epoch in range(8):
        lot = {}
        for picture in torch.cat(list(batches(epoch))):
            turned = bool(picture[0, 0, 0] == 255)
            upright = picture.flip(-1) if turned else picture
            number = int(upright[0, 0, 0])
            assert torch.equal(upright, pictures[number])
            lot[number] = turned
        lots.append(tuple(lot[number] for number in range(250)))
    assert len(set(lots)) == 8
    share = np.mean(lots)
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(8 * 250)  # four standard deviations


def test_mirroring_is_drawn_anew_at_each_step_of_each_epoch():
    """No two batches of a run have their places mirrored alike, and another seed mirrors others."""
    lots = [
        tuple(mirrored(batch).tolist())
        for seed in (0, 1)
        for epoch in range(3)
        for batch in Batches(numbered(250), 50, seed)(epoch)
    ]
    assert len(set(lots)) == len(lots) == 30


def test_mirroring_can_be_left_out():
    """With flip=False pictures come as they are, in the same order, and the array itself is never changed."""
    pictures = numbered(50)
    plain, turned = list(Batches(pictures, 8, 3, flip=False)(0)), list(Batches(pictures, 8, 3)(0))
    assert not mirrored(torch.cat(plain)).any() and mirrored(torch.cat(turned)).any()
    assert numbers(torch.cat(plain)) == numbers(torch.cat(turned))
    assert torch.equal(pictures, numbered(50))


def test_too_few_pictures_are_refused():
    """Batches of fewer than two pictures are an error."""
    for count in (0, 1):
        with pytest.raises(DataError, match=f"{count} training pictures"):
            Batches(numbered(count), 8, seed=0)
