"""Claims about folders of pictures: every kind is read, damage is named, and the cache is only ever a shortcut."""

import hashlib
import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from hw2lib.data import Batches, folders, read_picture
from hw2lib.data.pictures import folder

RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.fixture
def opened(monkeypatch):
    """The files that have been read."""
    read, files = folders.read_picture, []
    monkeypatch.setattr(folders, "read_picture", lambda file: files.append(file) or read(file))
    return files


# ---- pictures


def sixteen_bits(value: int) -> Image.Image:
    return Image.fromarray(np.full((20, 20), value * 257, np.uint16))


PALETTE = Image.new("RGB", (20, 20), RED).quantize(4)
CLEAR = Image.new("RGBA", (20, 20), (*RED, 0))


@pytest.mark.parametrize(
    ("picture", "name", "expected"),
    [
        (Image.new("L", (20, 20), 100), "grey.PNG", (100, 100, 100)),
        (Image.new("L", (20, 20), 100), "grey.jpg", (100, 100, 100)),
        (sixteen_bits(100), "sixteen.png", (100, 100, 100)),
        (sixteen_bits(100), "sixteen.tiff", (100, 100, 100)),
        (sixteen_bits(255), "white.png", WHITE),
        (PALETTE, "palette.GIF", RED),
        (PALETTE, "palette.png", RED),
        (CLEAR, "clear.png", WHITE),
        (CLEAR, "clear.webp", WHITE),
        (Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "ink.jpg", RED),
        (Image.new("1", (20, 20), 1), "bits.bmp", WHITE),
    ],
)
def test_every_kind_of_picture_becomes_rgb(tmp_path, picture, name, expected):
    """Grey, CMYK, palette, 1-bit and 16-bit pictures keep their colour, and the transparent shows white."""
    picture.save(tmp_path / name)
    (file,) = folders.picture_files(tmp_path)
    read = read_picture(file)
    assert read.mode == "RGB"
    assert np.abs(np.asarray(read).astype(int) - expected).max() <= 2


def test_pictures_are_turned_upright_and_cropped_at_the_centre(tmp_path):
    """A picture on its side is turned by its EXIF mark, and of a long one the middle square is kept."""
    stripes = np.zeros((24, 72, 3), np.uint8)
    # The middle third, and above it a band of white.
    stripes[:, 24:48], stripes[:8, 24:48] = RED, WHITE
    turned = Image.fromarray(stripes).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    # To be turned a quarter clockwise.
    exif[0x0112] = 6
    turned.save(tmp_path / "a.png", exif=exif)
    square = folders.cached_squares(tmp_path, [tmp_path / "a.png"], 24, tmp_path / "cache")[0]  # (3, 24, 24)
    assert (square[:, :8].T == WHITE).all() and (square[:, 8:].T == RED).all()


def test_floating_point_picture_is_refused(tmp_path, refused):
    """A picture whose values have no known white is refused, naming it, rather than clipped."""
    Image.fromarray(np.ones((20, 20), np.float32)).save(tmp_path / "depth.tif")
    assert f"{tmp_path / 'depth.tif'} cannot be read as a picture (mode F" in refused(
        read_picture, tmp_path / "depth.tif"
    )


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_truncated_picture_is_named(tmp_path, root, album, refused, suffix):
    """A picture file that ends too early is an error naming it, and nothing is cached."""
    path = album(tmp_path / "album", 3)
    half = path / f"half{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(half)
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    assert f"{half} cannot be read as a picture (" in refused(folder, path, 8)
    assert list((root / ".cache").iterdir()) == []


# ---- which pictures


def test_bad_folders_are_told_apart(tmp_path, album, refused):
    """A missing folder, one without pictures, one with a single one and an empty test set are named."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    # Hidden files are what macOS leaves beside pictures.
    (tmp_path / "empty" / "._hidden.jpg").write_text("no picture")
    album(tmp_path / "one", 1)
    album(tmp_path / "split" / "train", 3)
    (tmp_path / "split" / "test").mkdir()
    for name, says in {
        "absent": "no folder {}",
        "empty": "no pictures in {}: put files ending in .jpg .jpeg .png .webp .bmp .gif .tif .tiff there",
        "one": "{} holds only one picture",
        "split": "no pictures in {}/test",
    }.items():
        assert says.format(tmp_path / name) in refused(folder, tmp_path / name, 8)


def test_bad_size_is_refused_before_the_folder_is_looked_at(tmp_path, refused):
    """A size below 8 or not a whole number is refused."""
    for size in (7, 0, -32, 32.5, "32", True):
        assert "whole number of pixels, 8 or more" in refused(folder, tmp_path / "absent", size)


def test_train_and_test_folders_are_the_split(tmp_path, album):
    """With train and test there, pictures are taken from those two, in order, and from nowhere else."""
    album(tmp_path / "album" / "train" / "deep", 5)
    album(tmp_path / "album" / "test", 3)
    Image.new("RGB", (9, 9)).save(tmp_path / "album" / "cover.png")
    pictures = folder(tmp_path / "album", 16)
    assert (pictures.name, len(pictures.train), len(pictures.test)) == ("album", 5, 3)
    for number, picture in enumerate(pictures.train):
        with Image.open(tmp_path / "album" / "train" / "deep" / f"{number:03}.png") as opened:
            assert np.array_equal(picture.permute(1, 2, 0), np.asarray(opened))


@pytest.mark.parametrize("count", [2, 3, 10, 120])
def test_split_is_disjoint_complete_and_stable(tmp_path, count):
    """Every picture is in one set, neither is empty, about a tenth is for the test, by path alone."""
    path = tmp_path / "album"
    path.mkdir()
    for number in range(count):
        (path / f"{number}.png").touch()
    train, test = folders.split(path)
    assert sorted(train + test) == sorted(path.iterdir()) and train and test
    assert len(test) <= max(1, count // 5)
    moved = path.rename(tmp_path / "elsewhere")
    names = [[file.name for file in part] for part in (train, test)]
    assert [[file.name for file in part] for part in folders.split(moved)] == names
    # With a few pictures the one that must be in a set can change.
    if count == 120:
        (moved / train[0].name).unlink()
        assert [file.name for file in folders.split(moved)[1]] == names[1]


@pytest.mark.parametrize("for_test", [True, False])
def test_neither_set_is_empty_by_chance(tmp_path, for_test):
    """Where the rule would put all of two pictures into one set, one of them goes to the other."""
    lots = {f"{number}.png": hashlib.sha256(f"{number}.png".encode()).hexdigest() for number in range(100)}
    names = [name for name, lot in lots.items() if (int(lot, 16) % 10 == 0) == for_test]
    for name in names[:2]:
        (tmp_path / name).touch()
    assert [len(part) for part in folders.split(tmp_path)] == [1, 1]


# ---- the cache


def test_cache_is_used_and_outdated_by_a_change(tmp_path, root, album, opened):
    """The second time no picture is opened; when a file has changed, by its time alone, all are read."""
    path = album(tmp_path / "album", 12)
    first = folder(path, 8)
    assert len(list((root / ".cache").iterdir())) == 1 and len(opened) == 12
    assert folder(path, 8).checksum == first.checksum and len(opened) == 12
    changed = path / "003.png"
    before = changed.stat()
    changed.write_bytes((path / "004.png").read_bytes())
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert folder(path, 8).checksum != first.checksum and len(opened) == 24
    folder(path, 9)
    assert len(opened) == 36


def test_cache_is_kept_in_the_root_that_is_given(tmp_path, album):
    """The squares are kept below the root that is given, and nothing is written in the folder."""
    path = album(tmp_path / "album", 3)
    folder(path, 8, tmp_path / "elsewhere")
    assert len(list((tmp_path / "elsewhere" / ".cache").iterdir())) == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["album", "elsewhere"]
    assert len(list(path.iterdir())) == 3


@pytest.mark.parametrize("spoil", ["truncated", "empty", "nonsense", "other shape"])
def test_damaged_cache_is_made_anew(tmp_path, root, album, capsys, spoil):
    """A cache that is short, empty, no array or another array is replaced, and one line says so."""
    path = album(tmp_path / "album", 12)
    first = folder(path, 8)
    (kept,) = (root / ".cache").iterdir()
    content, other = kept.read_bytes(), io.BytesIO()
    np.save(other, np.zeros((12, 3, 9, 9), np.uint8))
    spoilt = {"truncated": content[:-1], "empty": b"", "nonsense": b"x" * 999, "other shape": other.getvalue()}
    kept.write_bytes(spoilt[spoil])
    assert folder(path, 8).checksum == first.checksum
    assert capsys.readouterr().err.count("is damaged and is made anew\n") == 1
    assert kept.read_bytes() == content


def test_unwritable_cache_is_done_without(tmp_path, album, capsys):
    """Where the cache folder cannot be made, one line says so and the pictures are the same."""
    path = album(tmp_path / "album", 5)
    (tmp_path / "file").write_text("in the way")
    assert folder(path, 8, tmp_path / "file").checksum == folder(path, 8).checksum
    assert capsys.readouterr().err.count("cannot keep the pictures in") == 1


@pytest.mark.filterwarnings("error")
def test_large_arrays_are_mapped(tmp_path, album, monkeypatch):
    """Above the limit the cache is mapped, not read, gives the same pictures, and stays unchanged."""
    path = album(tmp_path / "album", 12)
    first = folder(path, 8)
    monkeypatch.setattr(folders, "LARGE", 100)
    really, mapped = torch.from_numpy, []
    monkeypatch.setattr(torch, "from_numpy", lambda array: mapped.append(array) or really(array))
    again = folder(path, 8)
    assert isinstance(mapped[0], np.memmap) and again.checksum == first.checksum
    batches = list(Batches(again.train, 4, seed=0)(0))
    assert sum(map(len, batches)) == len(first.train)
    assert folder(path, 8).checksum == first.checksum
