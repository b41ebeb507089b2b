"""Claims about the two domains a CycleGAN is given: the right pictures, whole, each split at its size."""

import hashlib
import io
import os
import shutil
import socket
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hw2lib.data import Domains, folders, pictures, toy_domains, unpaired
from hw2lib.data.toy import Scenes, scenes
from hw2lib.data.unpaired import SPLITS, load, load_size

REAL = os.environ.get("HW2_DATA", "")


def sets(domains: Domains) -> tuple[torch.Tensor, ...]:
    """The four picture sets, in the order of SPLITS."""
    return domains.train_a, domains.train_b, domains.test_a, domains.test_b


# ---- which pictures


@pytest.mark.parametrize("size", [31, 28, 0, -4, 33, 34, 64.0, "64", None, True])
def test_sizes_that_cannot_be_are_refused(refused, root, size):
    """A size that is no whole number, below 32 or not divisible by 4 is named, before anything is downloaded."""
    says = f"size {size!r}: give a whole number of pixels, 32 or more and divisible by 4"
    assert refused(load, "toy", size) == refused(load, "horse2zebra", size) == says
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    ("dataset", "near"),
    [
        ("horses2zebra", "did you mean horse2zebra?"),
        ("", "there are toy, horse2zebra"),
        ("/nowhere", "there are toy, horse2zebra"),
    ],
)
def test_unknown_data_sets_are_refused(refused, dataset, near):
    """A name that is no data set and no folder is refused, naming what is near, or all there is."""
    says = f'no pictures called "{dataset}" and no such folder of trainA, trainB, testA, testB: {near}'
    assert refused(load, dataset, 64) == says


@pytest.mark.parametrize(("size", "expected"), [(32, 36), (64, 72), (128, 143), (256, 286), (36, 40), (192, 215)])
def test_training_pictures_are_286_256ths_of_the_size(size, expected):
    """Training pictures are 286/256 of the size that is used, rounded, and halves are rounded up."""
    assert load_size(size) == expected


def test_description_counts_each_split_and_both_sets():
    """The description has name, checksum, the number of each split, and whole numbers for both sets."""
    splits = [torch.zeros(count, 3, 8, 8, dtype=torch.uint8) for count in (5, 7, 2, 1)]
    described = Domains("x", *splits, size=8, checksum="abc").description
    counts = {"train_a": 5, "train_b": 7, "test_a": 2, "test_b": 1, "train": 12, "test": 3}
    assert described == {"name": "x", "checksum": "abc"} | counts


def test_checksum_tells_each_of_the_four_sets():
    """One other pixel in any of the four sets makes another checksum, as do domains that are swapped."""
    splits = [torch.zeros(2 + number, 3, 8, 8, dtype=torch.uint8) for number in range(4)]
    sums = {unpaired._domains("x", *splits).checksum}
    sums.add(unpaired._domains("x", splits[1], splits[0], *splits[2:]).checksum)
    for split in splits:
        split[1, 2, 7, 7] = 1
        sums.add(unpaired._domains("x", *splits).checksum)
    assert len(sums) == 6 and all(len(each) == 16 for each in sums)


# ---- toy pictures


@pytest.fixture(scope="module")
def toy() -> Domains:
    return toy_domains(32, train=128, test=128)


def test_toy_has_the_promised_numbers_and_sizes(monkeypatch):
    """The toy domains are 1,024 horses and zebras of 36 pixels, and 128 pairs of 32 with their masks."""
    monkeypatch.setattr(unpaired, "scenes", lambda count, size, *_: Scenes(*blank(count, size)))
    toy = load("toy", 32)
    assert (toy.name, toy.a, toy.b, toy.size, toy.aligned) == ("toy", "horse", "zebra", 32, True)
    assert [tuple(each.shape) for each in sets(toy)] == [(1024, 3, 36, 36)] * 2 + [(128, 3, 32, 32)] * 2
    assert toy.masks.shape == (128, 32, 32)


def blank(count: int, size: int) -> list[torch.Tensor]:
    return [torch.zeros(count, *planes, size, size, dtype=torch.uint8) for planes in ((3,), (3,), ())]


def test_toy_sets_are_of_scenes_of_their_own(toy):
    """Domain a holds the horses of some scenes, b the zebras of others, the tests both of further ones."""
    seed_a, seed_b, test_seed = unpaired.TOY_SEEDS
    # The identities of runs rest on it, on any machine.
    assert toy.checksum == "6afd82f3120ed78c"
    assert len({*unpaired.TOY_SEEDS, *pictures.TOY_SEEDS}) == 5
    assert torch.equal(toy.train_a[:20], scenes(20, 36, seed_a).horses)
    assert torch.equal(toy.train_b[:20], scenes(20, 36, seed_b).zebras)
    horses, zebras, masks = scenes(128, 32, test_seed)
    assert torch.equal(toy.test_a, horses) and torch.equal(toy.test_b, zebras) and torch.equal(toy.masks, masks)


def test_toy_training_pictures_have_no_counterparts(toy):
    """No training horse shares its landscape with a training zebra, as it would with its own counterpart."""

    def alike(some, others):
        """The share of equal pixels of each picture and each other one."""
        return torch.stack([(picture == others).all(1).float().mean((1, 2)) for picture in some])

    assert alike(toy.test_a, toy.test_b).diagonal().min() > 0.5
    assert alike(toy.train_a, toy.train_b).max() < 0.3


# ---- a folder of one's own


@pytest.fixture
def own(tmp_path, album):
    """A folder of two domains."""
    for split, count in zip(SPLITS, (3, 4, 3, 5), strict=True):
        album(tmp_path / "own" / split, count, size=48)
    return tmp_path / "own"


def test_folder_gives_each_split_at_its_size(own):
    """Each split is read in order, training pictures scaled to the load size and test pictures to size."""
    domains = load(str(own), 32)
    assert (domains.name, domains.a, domains.b, domains.size) == ("own", "A", "B", 32)
    assert (domains.masks, domains.aligned) == (None, False)
    for split, found, side, count in zip(SPLITS, sets(domains), (36, 36, 32, 32), (3, 4, 3, 5), strict=True):
        assert found.shape == (count, 3, side, side) and found.dtype == torch.uint8
        for number, picture in enumerate(found):
            with Image.open(own / split / f"{number:03}.png") as opened:
                expected = np.asarray(opened.resize((side, side), Image.Resampling.BICUBIC))
            assert np.array_equal(picture.permute(1, 2, 0), expected)


def test_only_the_split_that_changed_is_read_again(own, monkeypatch):
    """A second load reads no picture and gives the same; after a change that split alone is read again."""
    really, read = folders.read_picture, []
    monkeypatch.setattr(folders, "read_picture", lambda file: read.append(file.parent.name) or really(file))
    first = load(str(own), 32)
    assert Counter(read) == {"trainA": 3, "trainB": 4, "testA": 3, "testB": 5}
    read.clear()
    assert load(str(own), 32).checksum == first.checksum and not read
    Image.new("RGB", (50, 50)).save(own / "trainB" / "001.png")
    assert load(str(own), 32).checksum != first.checksum and read == ["trainB"] * 4


@pytest.mark.parametrize("missing", [("trainB",), ("testA", "testB"), SPLITS])
def test_missing_splits_are_named(own, tmp_path, missing, unread, refused):
    """Exactly the folders that are missing are named, and a file of that name counts as missing."""
    for split in missing:
        (own / split).rename(tmp_path / split)
    (own / missing[0]).write_text("a file")
    says = f"{own} has no folder {', '.join(missing)}: {', '.join(SPLITS)} are needed"
    assert refused(load, str(own), 32) == says


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("left", [0, 2])
def test_too_few_pictures_are_refused(own, split, left, unread, refused):
    """A split with none, or fewer than a distance and its error need, is named before any picture is read."""
    for file in sorted((own / split).iterdir())[left:]:
        # A hidden file is no picture.
        file.rename(file.with_name(f".{file.name}"))
    has = "has too few pictures, 2" if left else "has no pictures"
    says = f"{own / split} {has} (passed over: "
    assert refused(load, str(own), 32).startswith(says)


def test_the_same_pictures_twice_are_refused(own, refused):
    """Between two domains with the same test pictures there is no gap to close: that is said at once."""
    shutil.rmtree(own / "testB")
    (own / "testB").symlink_to(own / "testA")
    assert refused(load, str(own), 32) == f"{own / 'testA'} and testB show the same: give pictures of two domains"


def test_what_is_passed_over_is_counted_over_all_splits(own):
    """Files that are no pictures are counted in all four folders and beside them."""
    for place in (own / "trainA", own / "testB", own):
        (place / "notes.txt").touch()
    found = load(str(own), 32)
    assert found.passed_over == {".txt": 2, f"beside {', '.join(SPLITS)}": 1}
    assert "passed_over" not in found.description


# ---- horse2zebra


def jpeg(number: int) -> bytes:
    packed = io.BytesIO()
    Image.new("RGB", (40, 40), (20 * number, 100, 200)).save(packed, "JPEG")
    return packed.getvalue()


@pytest.fixture
def published(root, monkeypatch):
    """A horse2zebra of ten pictures, in its folder, published in the place of the true one."""
    folder, sums, numbers = root / "horse2zebra", {}, iter(range(10))
    for split, count in zip(SPLITS, (3, 4, 1, 2), strict=True):
        (folder / split).mkdir(parents=True)
        listing = ""
        for place in range(count):
            content, name = jpeg(next(numbers)), f"n{place}_7.jpg"
            (folder / split / name).write_bytes(content)
            listing += f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        sums[split] = (count, hashlib.sha256(listing.encode()).hexdigest())
    monkeypatch.setattr(unpaired, "HORSE2ZEBRA_SPLITS", sums)
    return SimpleNamespace(folder=folder, sums=sums)


def assert_is_published(domains: Domains) -> None:
    assert (domains.name, domains.a, domains.b, domains.aligned) == ("horse2zebra", "horse", "zebra", False)
    assert [tuple(each.shape[::3]) for each in sets(domains)] == [(3, 36), (4, 36), (1, 32), (2, 32)]
    reds = [round(float(picture[0].float().mean()) / 20) for each in sets(domains) for picture in each]
    assert reds == list(range(10))


def test_whole_folder_touches_no_network(published, monkeypatch):
    """With the folder there and whole, nothing is asked for; what is no visible .jpg beside them changes nothing."""
    (published.folder / "trainA" / "._n0_7.jpg").write_text("no picture")
    (published.folder / "trainA" / "notes.txt").write_text("no picture")
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a socket was opened"))
    monkeypatch.setattr(unpaired, "fetch_folder", lambda *_: pytest.fail("the archive was asked for"))
    assert_is_published(load("horse2zebra", 32))


def test_missing_folder_is_fetched(published, monkeypatch):
    """A missing folder is fetched with as many pictures a split as published, and then read."""
    away, asked = published.folder.rename(published.folder.with_name("away")), []
    monkeypatch.setattr(unpaired, "fetch_folder", lambda *what: asked.append(what) or away.rename(what[1]))
    assert_is_published(load("horse2zebra", 32))
    counts = {"trainA/*.jpg": 3, "trainB/*.jpg": 4, "testA/*.jpg": 1, "testB/*.jpg": 2}
    assert asked == [(unpaired.HORSE2ZEBRA_ARCHIVE, published.folder, counts)]


def test_root_is_where_it_is_looked_for(published, root, tmp_path):
    """With `root` given, the folder is taken from there and the cache is kept there."""
    root.rename(tmp_path / "elsewhere")
    assert_is_published(load("horse2zebra", 32, root=tmp_path / "elsewhere"))
    assert (tmp_path / "elsewhere" / ".cache").is_dir() and not root.exists()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("spoil", ["changed", "cut", "renamed"])
def test_other_files_are_named_by_their_split(published, split, spoil, unread, refused):
    """One other byte, one byte less or another name is refused, naming the split and both sums."""
    file = published.folder / split / "n0_7.jpg"
    content = file.read_bytes()
    if spoil == "renamed":
        file.rename(file.with_name("n0_8.jpg"))
    else:
        file.write_bytes(content[:-1] + {"cut": b"", "changed": bytes([content[-1] ^ 1])}[spoil])
    message = refused(load, "horse2zebra", 32)
    assert message.startswith(f"{published.folder / split} does not hold the published pictures (sha256 ")
    assert message.endswith(f"expected {published.sums[split][1]}): delete {published.folder} and run again")


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("spoil", ["file missing", "file added", "split missing"])
def test_splits_of_other_numbers_are_named(published, split, spoil, unread, monkeypatch, refused):
    """A file or a split too few or a file too many is refused, with both numbers, before any sum is taken."""
    monkeypatch.setattr(unpaired, "_check_published", lambda *_: pytest.fail("sums were taken"))
    path, expected = published.folder / split, published.sums[split][0]
    if spoil == "file missing":
        (path / "n0_7.jpg").unlink()
    elif spoil == "file added":
        (path / "n9_7.jpg").write_bytes(b"x")
    else:
        path.rename(published.folder / "away")
    found = {"file missing": f"holds {expected - 1} pictures", "file added": f"holds {expected + 1} pictures"}
    says = f"{path} {found.get(spoil, 'is missing')}, expected {expected}: delete {published.folder} and run again"
    assert refused(load, "horse2zebra", 32) == says


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not (Path(REAL) / "horse2zebra").is_dir() or not REAL, reason="$HW2_DATA holds no horse2zebra")
def test_real_horse2zebra_is_the_published_one(root):
    """The real horse2zebra passes its sums and has its known numbers of pictures, some without colour."""
    (root / "horse2zebra").symlink_to(Path(REAL).absolute() / "horse2zebra")
    found = sets(load("horse2zebra", 32))
    assert [tuple(each.shape[::3]) for each in found] == [(1067, 36), (1334, 36), (120, 32), (140, 32)]
    # 7 of the 61 are grey files, all others are in RGB.
    colourless = [int((each == each[:, :1]).flatten(1).all(1).sum()) for each in found]
    assert colourless == [8, 61, 0, 5]
