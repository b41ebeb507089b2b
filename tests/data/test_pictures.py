"""Claims about sets of pictures: the right ones, whole, and told apart by their checksum."""

import hashlib
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hw2lib import ROOT
from hw2lib.data import Pictures, cifar10, domains, load, pictures, root_folder, toy_pictures

BATCHES = "cifar-10-batches-bin"
REAL = os.environ.get("HW2_DATA", "")


# ---- CIFAR-10


@pytest.fixture
def published(root, monkeypatch):
    """A CIFAR-10 of four pictures a file, in its folder, published in the place of the true one."""
    rng = np.random.default_rng(0)
    records = {name: rng.integers(0, 256, (4, 3073), dtype=np.uint8) for name in pictures.CIFAR10_FILES}
    folder = root / BATCHES
    folder.mkdir()
    for name, rows in records.items():
        rows[:, 0] %= 10
        rows.tofile(folder / name)
    sums = {name: hashlib.sha256(rows).hexdigest() for name, rows in records.items()}
    monkeypatch.setattr(pictures, "CIFAR10_FILES", sums)
    monkeypatch.setattr(pictures, "CIFAR10_PICTURES", 4)
    return SimpleNamespace(folder=folder, records=records)


def test_whole_folder_touches_no_network(published, monkeypatch):
    """With the folder there and whole, no socket is opened and the pictures are the published ones, in order."""
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a socket was opened"))
    found = cifar10()
    *train, test = published.records.values()
    train = np.concatenate(train)
    assert np.array_equal(found.train, train[:, 1:].reshape(20, 3, 32, 32))
    assert np.array_equal(found.test, test[:, 1:].reshape(4, 3, 32, 32))
    assert np.array_equal(found.train_labels, train[:, 0])
    assert np.array_equal(found.test_labels, test[:, 0])


def test_missing_folder_is_fetched(published, monkeypatch):
    """A missing folder is fetched with exactly the six files, and then read."""
    before, asked = cifar10().checksum, []
    away = published.folder.rename(published.folder.with_name("away"))
    monkeypatch.setattr(pictures, "fetch_folder", lambda *what: asked.append(what) or away.rename(what[1]))
    assert cifar10().checksum == before
    assert asked == [(pictures.CIFAR10_ARCHIVE, published.folder, dict.fromkeys(published.records, 1))]


@pytest.mark.parametrize("spoil", ["truncated", "missing", "changed"])
def test_bad_file_is_named(published, refused, spoil):
    """A CIFAR-10 file that is short, absent, or has one other byte is named, whichever of the six it is."""
    path = published.folder / "data_batch_3.bin"
    content = path.read_bytes()
    if spoil == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + {"truncated": b"", "changed": bytes([content[-1] ^ 1])}[spoil])
    says = {"truncated": "has 12,291 bytes, expected 12,292", "missing": "is missing, expected 12,292"}
    expected = says.get(spoil, "is not the published file (sha256)")
    assert refused(cifar10) == f"{path} {expected}: delete {published.folder} and run again"


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not (Path(REAL) / BATCHES).is_dir() or not REAL, reason="$HW2_DATA holds no CIFAR-10")
def test_real_cifar10_has_its_known_statistics():
    """The real CIFAR-10 reads as 50,000 and 10,000 pictures of known means and class counts."""
    real = load("cifar10", root=REAL)
    assert real.train.shape == (50_000, 3, 32, 32) and real.test.shape == (10_000, 3, 32, 32)
    means = real.train.numpy().mean(axis=(0, 2, 3)) / 255
    assert means == pytest.approx([0.49140, 0.48216, 0.44653], abs=1e-5)
    assert torch.bincount(real.train_labels).tolist() == [5000] * 10
    assert torch.bincount(real.test_labels).tolist() == [1000] * 10
    assert real.classes == tuple((Path(REAL) / BATCHES / "batches.meta.txt").read_text().split())
    assert real.variance == pytest.approx(0.063, abs=5e-4)


# ---- which pictures


def test_root_folder_prefers_argument_then_environment_then_repository(monkeypatch, tmp_path):
    """The root folder is the argument unless it is empty, then $HW2_DATA, then `data` beside hw2lib."""
    monkeypatch.setenv("HW2_DATA", "/tmp")
    assert root_folder(tmp_path) == tmp_path
    assert root_folder("") == root_folder(None) == Path("/tmp")
    monkeypatch.setenv("HW2_DATA", "")
    assert root_folder() == ROOT / "data"


@pytest.mark.parametrize("dataset", ["cifar10", "an album"])
def test_a_root_that_is_not_there_is_refused(tmp_path, album, monkeypatch, refused, dataset):
    """A folder for data sets that was named and is missing is taken for a slip: nothing is made there or fetched."""
    monkeypatch.chdir(album(tmp_path / "an album", 6).parent)
    says = f"no folder {tmp_path / 'dta'} for the data sets: make it, or correct its name"
    assert refused(load, dataset, 32, "dta") == says
    monkeypatch.setenv("HW2_DATA", str(tmp_path / "dta"))
    assert refused(load, dataset) == says
    assert not (tmp_path / "dta").exists()


@pytest.mark.parametrize("dataset", ["x" * 5000, "~nobody-at-all/x", "zero\0byte"])
def test_a_name_that_no_system_can_have_is_one_short_line(refused, dataset):
    """A name of 5,000 letters, of nobody's home or with a zero byte is refused as all others are."""
    for call in (load, domains):
        assert len(refused(call, dataset, 32)) < 200


@pytest.mark.parametrize(
    ("dataset", "size", "says"),
    [
        ("cifar", 32, 'no pictures called "cifar" and no such folder: did you mean cifar10?'),
        ("", 32, 'no pictures called "" and no such folder: there are toy, cifar10'),
        ("cifar10", 64, "cifar10 has no pictures of size 64: give size 32"),
        ("toy", 7, "size 7: give a whole number of pixels, 8 or more"),
        ("toy", 32.0, "size 32.0: give a whole number of pixels, 8 or more"),
        ("toy", True, "size True: give a whole number of pixels, 8 or more"),
        ("toy", 8, "the toy pictures cannot be drawn: size must be a whole number of at least 32 pixels, not 8"),
    ],
)
def test_load_refuses_what_is_not_there(refused, dataset, size, says):
    """An unknown data set and a size that cannot be had are errors of one line saying what would be right."""
    assert refused(load, dataset, size) == says


def test_load_reads_a_folder_by_its_path(tmp_path, root, album):
    """What is no name of a data set is taken for the path of a folder."""
    found = load(str(album(tmp_path / "album", 12)), 16)
    assert found.name == "album" and len(found.train) + len(found.test) == 12
    assert (root / ".cache").is_dir()


def test_toy_pictures_are_half_and_half_and_never_shared():
    """The toy pictures are as many as asked for, repeatable, and no test picture is a training one."""
    first, again = toy_pictures(32, train=24, test=9), toy_pictures(32, train=24, test=9)
    assert first.train.shape == (24, 3, 32, 32) and first.test.shape == (9, 3, 32, 32)
    assert first.train.dtype == torch.uint8
    assert first.checksum == again.checksum
    assert first.test_labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    train = {picture.numpy().tobytes() for picture in first.train}
    assert len(train) == 24 and not train & {picture.numpy().tobytes() for picture in first.test}


def test_toy_pictures_are_those_of_the_published_runs():
    """The toy pictures have the checksum that the identities of runs rest on, on any machine."""
    assert toy_pictures(32, train=64, test=16).checksum == "d5a6205d251b8d84"


# ---- what identifies them


def test_variance_is_that_of_numpy():
    """The variance of the training pixels agrees with NumPy's in float64, to the 6 digits that are kept."""
    train = torch.randint(0, 256, (5000, 3, 8, 8), generator=torch.Generator().manual_seed(0)) ** 2 // 255
    found = Pictures("x", train.to(torch.uint8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "")
    expected = np.var(found.train.numpy() / np.float64(255))
    assert found.variance == float(f"{expected:.6g}")


def test_checksum_tells_pictures_apart():
    """One other pixel, in either set, makes another checksum, as does a picture in the other set."""
    train, test = torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    sums = {pictures.checksum(train, test)}
    test[1, 2, 7, 7] = 1
    sums.add(pictures.checksum(train, test))
    train[0, 0, 0, 0] = 1
    sums.add(pictures.checksum(train, test))
    sums.add(pictures.checksum(torch.cat([train, test[:1]]), test[1:]))
    assert len(sums) == 4 and all(len(each) == 16 for each in sums)
