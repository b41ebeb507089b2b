"""Claims about folders of pictures: every kind is read, damage is named, and the cache is only ever a shortcut."""

import hashlib
import io
import os
import pickle
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, features

from hw2lib.data import Batches, folders, pictures, read_picture
from hw2lib.data.pictures import folder

# As `folders` has it outside of tests.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")
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
        (Image.new("RGB", (20, 20), RED), "camera.jfif", (254, 0, 0)),
        (Image.new("RGB", (20, 20), RED), "old.ppm", RED),
        (Image.new("RGB", (20, 20), RED), "new.JP2", RED),
        pytest.param(
            *(Image.new("RGB", (20, 20), RED), "newest.avif", RED),
            marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF"),
        ),
    ],
)
def test_every_kind_of_picture_becomes_rgb(tmp_path, picture, name, expected):
    """Grey, CMYK, palette, 1-bit and 16-bit pictures keep their colour, and the transparent shows white."""
    picture.save(tmp_path / name)
    (file,), _ = folders.picture_files(tmp_path)
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


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_malformed_exif_is_no_damage(tmp_path, suffix):
    """A picture is turned upright where its EXIF says how, whatever else is wrong with it, and else taken as it is."""
    turned = b"MM\0*\0\0\0\x08\0\x02" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"  # orientation 6
    for exif, size in {
        b"no TIFF": (20, 10),
        b"II*\0\xff\xff\xff\xff": (20, 10),
        turned: (10, 20),
        turned + b"\x01\x1a\0\x02\0\0\0\x04abc\0\0\0\0\0": (10, 20),  # a resolution of "abc"
    }.items():
        Image.new("RGB", (20, 10), RED).save(tmp_path / f"a{suffix}", exif=b"Exif\0\0" + exif)
        found = read_picture(tmp_path / f"a{suffix}")
        assert found.size == size and np.abs(np.asarray(found).astype(int) - RED).max() <= 2


def test_an_enormous_picture_is_refused_unread(tmp_path, refused):
    """A picture of more than 100 million pixels is named with its size before it is decoded, a bomb as well."""
    for side in (10_001, 30_000):
        (tmp_path / "vast.ppm").write_text(f"P6 {side} {side} 255 ")
        assert "vast.ppm is too large (" in (message := refused(read_picture, tmp_path / "vast.ppm"))
        assert message.endswith("scale it to 100,000,000 pixels or fewer")


@pytest.mark.parametrize("name", ["absent.png", "folder.png", "two\nlines.png"])
def test_what_is_no_readable_file_is_not_called_damaged(tmp_path, refused, name):
    """A missing file and a folder are not to be repaired or removed, and a name of two lines is shown in one."""
    (tmp_path / "folder.png").mkdir()
    message = refused(read_picture, tmp_path / name)
    assert "cannot be opened (" in message and message.endswith("give the path of a picture that may be read")


def test_floating_point_picture_is_refused(tmp_path, refused):
    """A picture whose values have no known white is refused, naming it, rather than clipped."""
    Image.fromarray(np.ones((20, 20), np.float32)).save(tmp_path / "depth.tif")
    assert f"{tmp_path / 'depth.tif'} cannot be read as a picture (mode F" in refused(
        read_picture, tmp_path / "depth.tif"
    )


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_truncated_picture_is_named(tmp_path, root, album, refused, suffix):
    """A picture file that ends too early is an error naming it, and nothing is cached."""
    path = album(tmp_path / "album", 6)
    half = path / f"half{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(half)
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    assert f"{half} cannot be read as a picture (" in refused(folder, path, 8)
    assert list((root / ".cache").iterdir()) == []


# ---- which pictures


def test_bad_folders_are_told_apart(tmp_path, album, unread, refused):
    """A folder without pictures, and sets of too few for what is measured are named, unread."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    # Hidden files are what macOS leaves beside pictures.
    (tmp_path / "empty" / "._hidden.jpg").write_text("no picture")
    album(tmp_path / "five", 5)
    album(tmp_path / "split" / "train", 9)
    album(tmp_path / "split" / "test", 2)
    kinds = ", such as .jpg, .png or .webp files"
    for name, says in {
        "empty": f"{{}} has no pictures (passed over: 1 hidden, 1 .txt): 6 or more are needed, 3 of them for the test{kinds}",
        "five": f"{{}} has too few pictures, 5: 6 or more are needed, 3 of them for the test{kinds}",
        "split": f"{{}}/test has too few pictures, 2: 3 or more are needed{kinds}",
    }.items():
        assert refused(folder, tmp_path / name, 8) == says.format(tmp_path / name)


def test_pictures_of_one_colour_are_refused(tmp_path, refused):
    """Of an all-white set there is nothing to learn, and no variance to measure errors by: one line says so."""
    for number in range(9):
        Image.new("RGB", (9, 9), WHITE).save(tmp_path / f"{number}.png")
    says = f"the 6 training pictures in {tmp_path} have one colour: give pictures that differ"
    assert refused(folder, tmp_path, 8) == says


def test_linked_folders_are_read_and_loops_are_not(tmp_path, album):
    """A linked class folder is read under the name of the link, once; links that lead back, up or nowhere are passed over."""
    path, cats = album(tmp_path / "album" / "dogs", 2).parent, album(tmp_path / "elsewhere" / "cats", 3)
    (path / "cats").symlink_to(cats)
    (path / "cats again").symlink_to(cats)
    (path / "dogs" / "up").symlink_to(path)
    (path / "dogs" / "far up").symlink_to(tmp_path)
    (path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(path / "pipe.png")
    found, passed_over = folders.picture_files(path)
    names = [file.relative_to(path).as_posix() for file in found]
    assert names == [f"cats/{n:03}.png" for n in range(3)] + [f"dogs/{n:03}.png" for n in range(2)]
    assert passed_over == {"folder met before": 3, "broken link, or no plain file": 2}


def test_what_is_passed_over_is_said_and_kept_out_of_the_identity(tmp_path, album, capsys):
    """One line says how many files were passed over and why; the set keeps it, and is the same set without them."""
    path = album(tmp_path / "album", 12)
    before = folder(path, 8)
    assert before.passed_over == {} and "passed over" not in capsys.readouterr().err
    for name in ("a.txt", "b.TXT", "film.mpeg", "README", ".hidden.png", "c.h5"):
        (path / name).touch()
    after = folder(path, 8)
    assert after.passed_over == {".txt": 2, ".mpeg": 1, "without suffix": 1, "hidden": 1, ".h5": 1}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith(f"passed over in {path}: 2 .txt, 1 ")
    assert after.description == before.description


def test_train_and_test_folders_are_the_split(tmp_path, album):
    """With train and test there, pictures are taken from those two, in order, and from nowhere else."""
    album(tmp_path / "album" / "train" / "deep", 5)
    album(tmp_path / "album" / "test", 3)
    Image.new("RGB", (9, 9)).save(tmp_path / "album" / "cover.png")
    pictures = folder(tmp_path / "album", 16)
    assert (pictures.name, len(pictures.train), len(pictures.test)) == ("album", 5, 3)
    assert pictures.passed_over == {"beside train, test": 1}
    for number, picture in enumerate(pictures.train):
        with Image.open(tmp_path / "album" / "train" / "deep" / f"{number:03}.png") as opened:
            assert np.array_equal(picture.permute(1, 2, 0), np.asarray(opened))


@pytest.mark.parametrize("count", [6, 7, 20, 60, 120])
def test_split_is_disjoint_complete_and_stable(tmp_path, count):
    """Every picture is in one set, by path alone; both are large enough to be measured, a tenth or so is for the test."""
    path = tmp_path / "album"
    path.mkdir()
    for number in range(count):
        (path / f"{number}.png").touch()
    train, test, _ = folders.split(path)
    assert sorted(train + test) == sorted(path.iterdir())
    assert len(train) >= 3 and 3 <= len(test) <= max(3, count // 5)
    moved = path.rename(tmp_path / "elsewhere")
    names = [[file.name for file in part] for part in (train, test)]
    assert [[file.name for file in part] for part in folders.split(moved)[:2]] == names
    # With a few pictures the one that must be in a set can change.
    if count == 120:
        (moved / train[0].name).unlink()
        assert [file.name for file in folders.split(moved)[1]] == names[1]


@pytest.mark.parametrize("for_test", [True, False])
def test_neither_set_is_too_small_by_chance(tmp_path, for_test):
    """Where the rule would put all of six pictures into one set, three of them go to the other."""
    lots = {f"{number}.png": hashlib.sha256(f"{number}.png".encode()).hexdigest() for number in range(100)}
    names = [name for name, lot in lots.items() if (int(lot, 16) % 10 == 0) == for_test]
    for name in names[:6]:
        (tmp_path / name).touch()
    assert [len(part) for part in folders.split(tmp_path)[:2]] == [3, 3]


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
    path = album(tmp_path / "album", 6)
    (tmp_path / "elsewhere").mkdir()
    folder(path, 8, tmp_path / "elsewhere")
    assert len(list((tmp_path / "elsewhere" / ".cache").iterdir())) == 1
    assert list((tmp_path / "root").iterdir()) == [] and len(list(path.iterdir())) == 6


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


def test_unwritable_cache_is_done_without(tmp_path, root, album, capsys):
    """Where the cache folder cannot be made, one line says so and the pictures are the same."""
    path = album(tmp_path / "album", 6)
    (root / ".cache").write_text("in the way")
    found = folder(path, 8)
    assert capsys.readouterr().err.count("cannot keep the pictures in") == 1
    (root / ".cache").unlink()
    assert folder(path, 8).checksum == found.checksum


def test_a_cache_too_large_for_disk_and_memory_is_refused(tmp_path, root, album, unread, monkeypatch, refused):
    """What neither the disk nor the memory can hold is said with its size before any picture is read."""
    monkeypatch.setattr(folders, "LARGE", 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    message = refused(folder, album(tmp_path / "album", 6), 8)
    assert message.startswith(f"cannot keep the pictures in {root / '.cache'} (No space left on device): make 0.0 GB")
    assert list((root / ".cache").iterdir()) == []


@pytest.mark.parametrize("bytes_left", [0, 5, 128, 128 + 192 * 4, 128 + 192 * 7 + 50])
def test_a_cache_that_was_cut_off_is_gone_on_with(tmp_path, root, album, opened, bytes_left):
    """After a kill at any length of the unfinished file only what is missing is read, and the cache is the same."""
    path = album(tmp_path / "album", 12)
    folder(path, 8)
    (kept,) = (root / ".cache").iterdir()
    content, done = kept.read_bytes(), max(0, (bytes_left - 128) // 192)
    kept.rename(kept.with_name(f".{kept.name}.part")).write_bytes(content[:bytes_left])
    # Of the folder as it once was.
    kept.with_name(f".album-8-{'0' * 16}.npy.part").touch()
    opened.clear()
    folder(path, 8)
    assert len(opened) == 12 - done
    assert kept.read_bytes() == content and list((root / ".cache").iterdir()) == [kept]


def test_killed_between_two_blocks_it_goes_on(tmp_path, root, album, opened, monkeypatch):
    """A kill leaves the blocks that were done; the next run reads the rest, and the squares are those of one that was not."""
    monkeypatch.setattr(folders, "BLOCK", 4 * 192)
    path, read = album(tmp_path / "album", 12, size=8), folders.read_picture

    def killed(file):
        if len(opened) == 9:
            raise KeyboardInterrupt
        return read(file)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(folders, "read_picture", killed)
        folder(path, 8)
    opened.clear()
    found = folder(path, 8)
    assert len(opened) == 4
    for file, square in zip(
        [part for sets in folders.split(path)[:2] for part in sets], [*found.train, *found.test], strict=True
    ):
        assert np.array_equal(square.permute(1, 2, 0), np.asarray(Image.open(file)))


@pytest.mark.filterwarnings("error")
def test_large_arrays_are_mapped(tmp_path, album, monkeypatch):
    """Above the limit the cache is mapped, not read, gives the same pictures, and stays unchanged."""
    path = album(tmp_path / "album", 12)
    first = folder(path, 8)
    monkeypatch.setattr(folders, "MAPPED", 100)
    monkeypatch.setattr(folders, "LARGE", 100)
    really, mapped = torch.from_numpy, []
    monkeypatch.setattr(torch, "from_numpy", lambda array: mapped.append(array) or really(array))
    again = folder(path, 8)
    assert isinstance(mapped[0], np.memmap) and again.checksum == first.checksum
    batches = list(Batches(again.train, 4, seed=0)(0))
    assert sum(map(len, batches)) == len(first.train)
    # What a process beside this one is sent.
    sent = pickle.dumps(again)
    assert len(sent) < 2000 and pictures.checksum((there := pickle.loads(sent)).train, there.test) == first.checksum
    assert folder(path, 8).checksum == first.checksum
