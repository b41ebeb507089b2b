"""Claims about the two domains a CycleGAN is given: the right pictures, whole, and dealt out as promised."""

import hashlib
import io
import os
import socket
import stat
import tempfile
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hw2lib.data import unpaired
from hw2lib.data import folders
from hw2lib.data import pictures as data
from hw2lib.data.batches import Pairs
from hw2lib.data.unpaired import SPLITS, Domains, load, load_size, toy_domains
from hw2lib.data.download import Archive, DataError, unpack_zip
from hw2lib.data.toy import scenes

RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.fixture(autouse=True)
def own_root(tmp_path, monkeypatch):
    """No test reads or writes the data sets and caches of whoever runs it."""
    monkeypatch.setenv("HW2_DATA", str(tmp_path / "root"))
    monkeypatch.setenv("HW2_PROGRESS", "lines")


def refused(*args, **kwargs) -> str:
    """What `load` says against these arguments, which must be one line."""
    with pytest.raises(DataError) as error:
        load(*args, **kwargs)
    message = str(error.value)
    assert message and "\n" not in message
    return message


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def part(domains: Domains, split: str) -> torch.Tensor:
    """The pictures of "trainA", "trainB", "testA" or "testB"."""
    return getattr(domains, f"{split[:-1]}_{split[-1].lower()}")


# ---- which pictures


@pytest.mark.parametrize("size", [31, 30, 28, 0, -4, 33, 34, 254, 64.0, "64", None, True])
def test_sizes_that_cannot_be_are_refused(size):
    """A size that is no whole number, below 32 or not divisible by 4 is named, and what would be right."""
    assert refused("toy", size) == f"size {size!r}: give a whole number of pixels, 32 or more and divisible by 4"


@pytest.mark.parametrize("dataset", ["horses", "", "cifar10", "/nowhere"])
def test_unknown_data_sets_are_refused(dataset):
    """A name that is no data set and no folder is refused, naming what there is."""
    message = refused(dataset, 64)
    assert f'"{dataset}"' in message
    assert "toy, horse2zebra or the path of a folder that holds trainA, trainB, testA, testB" in message


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
    assert f"{described['train']:,}" == "12"


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
    return load("toy", 32)


def same_pixels(some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """The share of pixels, all three colours alike, in which each picture equals each other one, (N, M)."""
    return torch.stack([(picture == others).all(1).float().mean((1, 2)) for picture in some])


def test_toy_has_the_promised_numbers_and_sizes(toy):
    """The toy domains are 1,024 horses and zebras of 36 pixels, and 128 pairs of 32 with their masks."""
    assert (toy.name, toy.a, toy.b, toy.size, toy.aligned) == ("toy", "horse", "zebra", 32, True)
    assert toy.train_a.shape == toy.train_b.shape == (1024, 3, 36, 36)
    assert toy.test_a.shape == toy.test_b.shape == (128, 3, 32, 32)
    assert toy.masks.shape == (128, 32, 32) and toy.masks.dtype == torch.bool
    assert {each.dtype for each in (toy.train_a, toy.train_b, toy.test_a, toy.test_b)} == {torch.uint8}
    assert toy.description["train"] == 2048 and toy.description["test"] == 256


def test_toy_is_the_same_each_time(toy):
    """The toy pictures are repeatable, and fewer of them are the first of more."""
    again = toy_domains(32, train=6, test=3)
    assert again.checksum == toy_domains(32, train=6, test=3).checksum != toy.checksum
    for few, many in zip(
        (again.train_a, again.train_b, again.test_a, again.test_b, again.masks),
        (toy.train_a, toy.train_b, toy.test_a, toy.test_b, toy.masks),
        strict=True,
    ):
        assert torch.equal(few, many[: len(few)])


def test_toy_domains_show_horses_and_zebras(toy):
    """Domain a holds what the painter calls horses and b what it calls zebras, in training and test."""
    seed_a, seed_b, test_seed = unpaired.TOY_SEEDS
    assert torch.equal(toy.train_a[:20], scenes(20, 36, seed_a).horses)
    assert torch.equal(toy.train_b[:20], scenes(20, 36, seed_b).zebras)
    horses, zebras, masks = scenes(20, 32, test_seed)
    assert torch.equal(toy.test_a[:20], horses) and torch.equal(toy.test_b[:20], zebras)
    assert torch.equal(toy.masks[:20], masks)


def test_toy_training_pictures_have_no_counterparts(toy):
    """No training horse shares its landscape with a training zebra, as it would with its own counterpart."""
    assert same_pixels(toy.test_a, toy.test_b).diagonal().min() > 0.5  # what counterparts have in common
    assert same_pixels(toy.train_a[:256], toy.train_b[:256]).max() < 0.3
    counterparts = scenes(1024, 36, unpaired.TOY_SEEDS[0]).zebras
    assert not {each.numpy().tobytes() for each in counterparts} & {each.numpy().tobytes() for each in toy.train_b}


def test_toy_scenes_are_shared_by_no_two_sets():
    """Training horses, training zebras, test pairs and `data.toy_pictures` have no scene in common."""
    assert len({*unpaired.TOY_SEEDS, *data.TOY_SEEDS}) == 5
    training = toy_domains(32, train=64, test=1)  # drawn at 36 pixels, as are these tests
    tests, others = toy_domains(36, train=1, test=64), data.toy_pictures(36, train=64, test=64)
    assert same_pixels(training.train_a, tests.test_a).max() < 0.3
    assert same_pixels(training.train_b, tests.test_b).max() < 0.3
    assert same_pixels(training.train_a, others.train[::2]).max() < 0.3


def test_toy_test_pictures_are_counterparts(toy):
    """test_b[i] equals test_a[i] wherever masks[i] has no animal, and differs where it has one."""
    masks = toy.masks[:, None].expand_as(toy.test_a)
    assert torch.equal(toy.test_a[~masks], toy.test_b[~masks])
    differ = (toy.test_a != toy.test_b).any(1)  # (128, 32, 32)
    assert (differ.sum((1, 2)) > 0.5 * toy.masks.sum((1, 2))).all()
    covered = toy.masks.float().mean((1, 2))
    assert covered.min() > 0.02 and covered.max() < 0.7


# ---- a folder of one's own


def album(path: Path, counts=(3, 4, 3, 5), size: int = 48) -> Path:
    """A folder of two domains of different PNG pictures."""
    for split, count in zip(SPLITS, counts, strict=True):
        (path / split).mkdir(parents=True)
        for number, pixels in enumerate(noise(count, size, size, 3)):
            Image.fromarray(pixels).save(path / split / f"{number:03}.png")
    return path


@pytest.fixture
def unread(monkeypatch):
    """No picture may be read: what is wrong has to be found before."""
    monkeypatch.setattr(folders, "read_picture", lambda path: pytest.fail(f"{path} was read"))


def test_folder_gives_each_split_at_its_size(tmp_path):
    """Each split is read in order, training pictures scaled to the load size and test pictures to size."""
    path = album(tmp_path / "album")
    domains = load(str(path), 32)
    assert (domains.name, domains.a, domains.b, domains.size) == ("album", "A", "B", 32)
    assert (domains.masks, domains.aligned) == (None, False)
    for split, side, count in zip(SPLITS, (36, 36, 32, 32), (3, 4, 3, 5), strict=True):
        pictures = part(domains, split)
        assert pictures.shape == (count, 3, side, side) and pictures.dtype == torch.uint8
        for number, picture in enumerate(pictures):
            with Image.open(path / split / f"{number:03}.png") as opened:
                expected = np.asarray(opened.resize((side, side), Image.Resampling.BICUBIC))
            assert np.array_equal(picture.permute(1, 2, 0), expected)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    ("picture", "name", "expected"),
    [
        (lambda: Image.new("L", (40, 40), 100), "grey.jpg", (100, 100, 100)),
        (lambda: Image.fromarray(np.full((40, 40), 100 * 257, np.uint16)), "deep.png", (100, 100, 100)),
        (lambda: Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "ink.jpg", RED),
        (lambda: Image.new("RGBA", (40, 40), (*RED, 0)), "clear.png", WHITE),
        (lambda: Image.new("RGB", (60, 40), RED).quantize(4), "PALETTE.GIF", RED),
    ],
)
def test_every_kind_of_picture_becomes_rgb(tmp_path, split, picture, name, expected):
    """In every split grey, CMYK, palette and 16-bit pictures keep their colour; the transparent is white."""
    path = album(tmp_path / "album")
    picture().save(path / split / name)
    domains = load(str(path), 32)
    pictures = part(domains, split)
    ours = sorted(file.name for file in (path / split).iterdir()).index(name)
    assert (pictures[ours].int() - torch.tensor(expected).view(3, 1, 1)).abs().max() <= 2


def test_folder_is_read_once(tmp_path, monkeypatch):
    """A second load reads no picture and gives the same; after a change that split alone is read again."""
    path, read = album(tmp_path / "album"), []
    really = folders.read_picture
    monkeypatch.setattr(folders, "read_picture", lambda file: read.append(file.parent.name) or really(file))
    first = load(str(path), 32)
    assert Counter(read) == {"trainA": 3, "trainB": 4, "testA": 3, "testB": 5}
    read.clear()
    assert load(str(path), 32).checksum == first.checksum and not read
    Image.fromarray(noise(50, 50, 3)).save(path / "trainB" / "001.png")
    assert load(str(path), 32).checksum != first.checksum and read == ["trainB"] * 4


def test_cache_of_a_folder_is_kept_in_the_root(tmp_path):
    """The squares of a folder are kept below the root that is given, and nothing is written in the folder."""
    path = album(tmp_path / "album")
    load(str(path), 32, root=tmp_path / "elsewhere")
    assert len(list((tmp_path / "elsewhere" / ".cache").iterdir())) == 4
    assert sorted(each.name for each in tmp_path.iterdir()) == ["album", "elsewhere"]
    assert sorted(each.name for each in path.iterdir()) == sorted(SPLITS)


@pytest.mark.parametrize("split", ["trainA", "testB"])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_picture_is_named(tmp_path, split, suffix):
    """A picture file that ends too early is an error of one line naming it."""
    path = album(tmp_path / "album")
    broken = path / split / f"half{suffix}"
    Image.fromarray(noise(64, 64, 3)).save(broken)
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    assert f"{broken} cannot be read as a picture" in refused(str(path), 32)


@pytest.mark.parametrize("missing", [("trainB",), ("testA", "testB"), SPLITS])
def test_missing_splits_are_named(tmp_path, missing, unread):
    """Exactly the folders that are missing are named, and a file of that name counts as missing."""
    path = album(tmp_path / "album")
    for split in missing:
        (path / split).rename(tmp_path / split)
    (path / missing[0]).write_text("a file")
    assert refused(str(path), 32).startswith(f"{path} has no folder {', '.join(missing)}: ")


def test_other_names_of_splits_are_told(tmp_path):
    """A folder that is laid out as train/A is told the four names that are expected."""
    (tmp_path / "album" / "train" / "A").mkdir(parents=True)
    message = refused(str(tmp_path / "album"), 32)
    assert message == f"{tmp_path / 'album'} has no folder {', '.join(SPLITS)}: {', '.join(SPLITS)} are needed"


@pytest.mark.parametrize("split", SPLITS)
def test_split_without_pictures_is_named(tmp_path, split, unread):
    """A split that holds no picture is named before any picture of the others is read."""
    path = album(tmp_path / "album")
    for file in (path / split).iterdir():
        file.rename(file.with_name(f".{file.name}"))  # a hidden file is no picture
    (path / split / "notes.txt").write_text("no picture")
    assert f"no pictures in {path / split}" in refused(str(path), 32)


@pytest.mark.parametrize("split", SPLITS)
def test_too_few_pictures_are_refused(tmp_path, split, unread):
    """A split with fewer pictures than a distance and its error need is named before any picture is read."""
    counts = [2 if each == split else 3 for each in SPLITS]
    message = refused(str(album(tmp_path / "album", counts)), 32)
    assert message == f"{tmp_path / 'album' / split} has too few pictures, 2: 3 or more are needed"


# ---- horse2zebra and its download


def jpeg(number: int) -> bytes:
    packed = io.BytesIO()
    Image.new("RGB", (40, 40), (20 * number, 100, 200)).save(packed, "JPEG")
    return packed.getvalue()


def zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A horse2zebra of ten pictures, published in a folder in the place of the true one."""
    names = [
        f"{split}/n{number}_7.jpg" for split, count in zip(SPLITS, (3, 4, 1, 2), strict=True) for number in range(count)
    ]
    files = {f"horse2zebra/{name}": jpeg(number) for number, name in enumerate(names)}
    sums = {}
    for split in SPLITS:
        ours = sorted(name for name in files if f"/{split}/" in name)
        listing = [hashlib.sha256(files[name]).hexdigest() + "  " + name.split("/")[-1] for name in ours]
        sums[split] = (len(ours), hashlib.sha256(("\n".join(listing) + "\n").encode()).hexdigest())
    monkeypatch.setattr(unpaired, "HORSE2ZEBRA_SPLITS", sums)
    server, root = tmp_path / "server", tmp_path / "root"
    server.mkdir()

    def publish(body: bytes, **changes) -> None:
        (server / "pictures.zip").write_bytes(body)
        address = (server / "pictures.zip").as_uri()
        archive = Archive(address, len(body), "sha256", hashlib.sha256(body).hexdigest())
        monkeypatch.setattr(unpaired, "HORSE2ZEBRA_ARCHIVE", replace(archive, **changes))

    publish(zip_of({"horse2zebra/": b"", "horse2zebra/readme.txt": b"hello", **files}))
    return SimpleNamespace(files=files, publish=publish, root=root, folder=root / "horse2zebra")


def unpacked(published) -> Path:
    for name, content in published.files.items():
        (published.root / name).parent.mkdir(parents=True, exist_ok=True)
        (published.root / name).write_bytes(content)
    return published.folder


def assert_is_published(domains: Domains) -> None:
    assert (domains.name, domains.a, domains.b, domains.aligned) == ("horse2zebra", "horse", "zebra", False)
    sets = (domains.train_a, domains.train_b, domains.test_a, domains.test_b)
    assert [each.shape[-1] for each in sets] == [36, 36, 32, 32]
    reds = [round(float(picture[0].float().mean()) / 20) for each in sets for picture in each]
    assert [len(each) for each in sets] == [3, 4, 1, 2] and reds == list(range(10))


def test_download_gives_the_published_pictures_and_tidies_up(published):
    """A missing horse2zebra is downloaded and unpacked, and leaves its folder and the cache only."""
    assert_is_published(load("horse2zebra", 32))
    assert sorted(path.name for path in published.root.iterdir()) == [".cache", "horse2zebra"]
    there = {path.relative_to(published.root).as_posix() for path in published.folder.rglob("*.*")}
    assert there == set(published.files)


def test_whole_folder_touches_no_network(published, monkeypatch):
    """With the folder there and whole, nothing is asked for."""
    unpacked(published)
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a socket was opened"))
    monkeypatch.setattr(unpaired, "fetch", lambda *_: pytest.fail("the archive was asked for"))
    assert_is_published(load("horse2zebra", 32))


def test_root_is_where_it_is_looked_for(published, tmp_path):
    """With `root` given, the folder is taken from there and the cache is kept there."""
    unpacked(published)
    published.root.rename(tmp_path / "elsewhere")
    assert_is_published(load("horse2zebra", 32, root=tmp_path / "elsewhere"))
    assert (tmp_path / "elsewhere" / ".cache").is_dir() and not published.root.exists()


def test_hidden_and_other_files_do_not_count(published):
    """What is no visible .jpg, such as a readme or what macOS leaves behind, changes nothing."""
    folder = unpacked(published)
    (folder / "trainA" / "._n0_7.jpg").write_text("no picture")
    (folder / "trainA" / "notes.txt").write_text("no picture")
    assert_is_published(load("horse2zebra", 32))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("spoil", ["changed", "cut", "renamed"])
def test_other_files_are_named_by_their_split(published, split, spoil, unread):
    """One other byte, one byte less or another name is refused, naming the split and both sums."""
    file = unpacked(published) / split / "n0_7.jpg"
    content = file.read_bytes()
    if spoil == "renamed":
        file.rename(file.with_name("n0_8.jpg"))
    else:
        file.write_bytes(content[:-1] + {"cut": b"", "changed": bytes([content[-1] ^ 1])}[spoil])
    message = refused("horse2zebra", 32)
    assert message.startswith(f"{published.folder / split} does not hold the published pictures (sha256 ")
    assert f"expected {unpaired.HORSE2ZEBRA_SPLITS[split][1]})" in message
    assert message.endswith(f"delete {published.folder} and run again")


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("spoil", ["file missing", "file added", "split missing"])
def test_splits_of_other_numbers_are_named(published, split, spoil, unread, monkeypatch):
    """A file or a split too few or a file too many is refused, with both numbers, before any sum is taken."""
    monkeypatch.setattr(unpaired, "_check_published", lambda *_: pytest.fail("sums were taken"))
    path = unpacked(published) / split
    expected = unpaired.HORSE2ZEBRA_SPLITS[split][0]
    if spoil == "file missing":
        (path / "n0_7.jpg").unlink()
        found = f"holds {expected - 1} pictures"
    elif spoil == "file added":
        (path / "n9_7.jpg").write_bytes(b"x")
        found = f"holds {expected + 1} pictures"
    else:
        path.rename(published.root / "away")
        found = "is missing"
    message = refused("horse2zebra", 32)
    assert message == f"{path} {found}, expected {expected}: delete {published.folder} and run again"


def test_wrong_size_is_refused_before_the_download(published):
    """A size that cannot be had is told before anything is downloaded."""
    refused("horse2zebra", 30)
    assert not published.root.exists()


def test_wrong_digest_is_not_unpacked(published):
    """A download of the right length and the wrong bytes is deleted, named and not unpacked."""
    published.publish(zip_of(published.files), digest="0" * 64)
    assert "is not the published pictures.zip" in refused("horse2zebra", 32)
    assert list(published.root.iterdir()) == []


def test_no_network_says_what_to_do(published):
    """Without a network the one line names the address, the place for the file and the toy pictures."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/pictures.zip"
        published.publish(b"x", url=url)
        message = refused("horse2zebra", 32)
    assert url in message and str(published.root / "pictures.zip") in message and "dataset toy" in message


def stored_with_one_bit_flipped(files: dict[str, bytes]) -> bytes:
    body = bytearray(zip_of(files, zipfile.ZIP_STORED))
    body[200] ^= 1  # inside the first picture, which only its check sum tells
    return bytes(body)


def with_central_entries(files: dict[str, bytes], flags: int, method: int) -> bytes:
    """An archive whose list of members says other flags (1: encrypted) and another method of packing."""
    usual, other = (b"PK\1\2\x14\3\x14\0" + bytes([each, 0, way, 0]) for each, way in ((0, 8), (flags, method)))
    body = zip_of(files)
    assert body.count(usual) == len(files)
    return body.replace(usual, other)


UNREADABLE, UNEXPECTED = "cannot be unpacked", "holds {} files horse2zebra/{}/*.jpg, expected {}"
SPOILT = {
    "cut in the middle": (lambda files: zip_of(files)[:-100], UNREADABLE),
    "no archive": (lambda files: b"x" * 5000, UNREADABLE),
    "one bit flipped": (stored_with_one_bit_flipped, UNREADABLE),
    "encrypted": (lambda files: with_central_entries(files, 1, 8), UNREADABLE),
    "unknown packing": (lambda files: with_central_entries(files, 0, 99), UNREADABLE),
    "a name that is no text": (
        lambda files: zip_of({**files, "é.jpg": b""}).replace("é".encode(), b"\xff\xff"),
        UNREADABLE,
    ),
    "a file missing": (lambda files: zip_of(dict([*files.items()][1:])), UNEXPECTED.format(2, "trainA", 3)),
    "a file too many": (
        lambda files: zip_of({**files, "horse2zebra/testB/more.jpg": b"x"}),
        UNEXPECTED.format(3, "testB", 2),
    ),
    "a split missing": (
        lambda files: zip_of({name: files[name] for name in files if "/testA/" not in name}),
        UNEXPECTED.format(0, "testA", 1),
    ),
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_archive_that_is_not_whole_leaves_no_folder(published, spoil):
    """An archive that cannot be unpacked whole is reported in one line and leaves no half a folder."""
    pack, says = SPOILT[spoil]
    published.publish(pack(published.files))
    message = refused("horse2zebra", 32)
    assert says in message and "delete it and run again" in message
    assert [path.name for path in published.root.iterdir()] == ["pictures.zip"]


SMALL_ZIP = zip_of({"set/a/0.jpg": b"0" * 40, "set/a/1.jpg": bytes(range(40)), "set/b/0.jpg": b""})


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, len(SMALL_ZIP) - 1), value=st.integers(1, 255))
def test_any_damage_leaves_a_whole_folder_or_none(place, value):
    """Whichever byte of an archive is changed, the folder is made whole, or one line said and none left."""
    with tempfile.TemporaryDirectory() as temporary:
        path, target = Path(temporary) / "set.zip", Path(temporary) / "set"
        path.write_bytes(SMALL_ZIP[:place] + bytes([SMALL_ZIP[place] ^ value]) + SMALL_ZIP[place + 1 :])
        try:
            unpack_zip(path, target, {"a": 2, "b": 1}, ".jpg")
            assert len(list(target.rglob("*.jpg"))) == 3
            assert sorted(each.name for each in Path(temporary).iterdir()) == ["set", "set.zip"]
        except DataError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            assert [each.name for each in Path(temporary).iterdir()] == ["set.zip"]


def test_archive_cannot_write_elsewhere(published, tmp_path):
    """Members of unexpected paths are not unpacked, wherever they lead; the expected files still are."""
    absolute = str(tmp_path / "absolute.jpg")
    wicked = ["../x.jpg", "horse2zebra/../../x.jpg", "horse2zebra/trainA/../../../x.jpg", absolute, "x.jpg"]
    wicked += ["horse2zebra/trainA/..\\x.jpg", "horse2zebra/trainA/C:x.jpg", f"horse2zebra/trainA/{absolute}"]
    wicked += ["horse2zebra/trainA/in/x.jpg", "horse2zebra/trainA/.x.jpg", "horse2zebra/trainA/..jpg"]
    wicked += ["horse2zebra/trainC/x.jpg", "other/trainA/x.jpg", "horse2zebra/trainA/x.jpg/y.png"]
    published.publish(zip_of({**dict.fromkeys(wicked, b"x"), **published.files}))
    assert_is_published(load("horse2zebra", 32))
    there = {path for path in tmp_path.rglob("*") if path.is_file() and ".cache" not in path.parts}
    expected = {published.root / name for name in published.files}
    assert there == expected | {tmp_path / "server" / "pictures.zip"}


def test_link_in_an_archive_is_no_link_on_the_disk(tmp_path):
    """A member that is marked as a link becomes an ordinary file, whose sum then is not the published one."""
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        link = zipfile.ZipInfo("set/a/0.jpg")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    unpack_zip(tmp_path / "set.zip", tmp_path / "set", {"a": 1}, ".jpg")
    (file,) = (tmp_path / "set" / "a").iterdir()
    assert not file.is_symlink() and file.read_text() == "/etc/passwd"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_last_of_two_members_of_one_name_counts(tmp_path):
    """Where a name occurs twice in an archive, it counts as one file and the last is taken."""
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for content in ("first", "last"):
            archive.writestr("set/a/0.jpg", content)
    unpack_zip(tmp_path / "set.zip", tmp_path / "set", {"a": 1}, ".jpg")
    assert (tmp_path / "set" / "a" / "0.jpg").read_text() == "last"


def test_file_in_the_place_of_the_folder_is_told(published):
    """A file where the folder has to be is neither overwritten nor taken for the archive's fault."""
    published.root.mkdir()
    published.folder.write_text("mine")
    assert "move it away, then run again" in refused("horse2zebra", 32)
    assert published.folder.read_text() == "mine"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_full_disk_is_named(published):
    """A disk that is full during the unpacking is one line that says so; the archive alone is kept."""
    building = published.root / f".horse2zebra.{os.getpid()}" / "trainB"
    building.mkdir(parents=True)
    (building / "n2_7.jpg").symlink_to("/dev/full")
    message = refused("horse2zebra", 32)
    assert "the disk is full" in message and "pictures.zip is kept" in message
    assert [path.name for path in published.root.iterdir()] == ["pictures.zip"]


REAL = os.environ.get("HW2_DATA", "")


@pytest.mark.real_data
@pytest.mark.skipif(not (Path(REAL) / "horse2zebra").is_dir() or not REAL, reason="$HW2_DATA holds no horse2zebra")
def test_real_horse2zebra_is_the_published_one(tmp_path):
    """The real horse2zebra passes its sums and has its known numbers of pictures, some without colour."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "horse2zebra").symlink_to(Path(REAL).absolute() / "horse2zebra")
    domains = load("horse2zebra", 32)
    sets = (domains.train_a, domains.train_b, domains.test_a, domains.test_b)
    assert [tuple(each.shape) for each in sets] == [
        (1067, 3, 36, 36),
        (1334, 3, 36, 36),
        (120, 3, 32, 32),
        (140, 3, 32, 32),
    ]
    colourless = [int((each == each[:, :1]).flatten(1).all(1).sum()) for each in sets]
    assert colourless == [8, 61, 0, 5]  # 7 of the 61 are grey files, all others are in RGB


# ---- pairs


def tagged(count: int, side: int = 12) -> torch.Tensor:
    """Pictures whose red tells the row, green the column and blue the picture's number."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    numbers = torch.arange(count)[:, None, None].expand(count, side, side)
    planes = [rows.expand_as(numbers), columns.expand_as(numbers), numbers]
    return torch.stack(planes, 1).to(torch.uint8)


def place(square: torch.Tensor) -> tuple[int, int, int, bool]:
    """Number of the picture, top, left and whether it was mirrored, for a square of a tagged picture."""
    return (
        int(square[2, 0, 0]),
        int(square[0, 0, 0]),
        int(square[1].min()),
        bool(square[1, 0, 0] > square[1, 0, 1]),
    )


def numbers(batches) -> tuple[list[int], list[int]]:
    """The numbers of the tagged pictures of both domains, in the order they were dealt out."""
    both = [torch.cat(domain)[:, 2, 0, 0].tolist() for domain in zip(*batches, strict=True)]
    return both[0], both[1]


def equal(some, others) -> bool:
    """Whether two lists of pairs are the same bytes."""
    assert len(some) == len(others)
    return all(
        torch.equal(x, y) for one, other in zip(some, others, strict=True) for x, y in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("batch_size", [1, 4])
def test_squares_are_cut_anywhere_and_mirrored_or_not(batch_size):
    """Every square is a square of its picture, as it is or mirrored; all places come, all equally often."""
    pairs = Pairs(tagged(40), tagged(30), 8, seed=0, batch_size=batch_size)
    seen = [Counter(), Counter()]
    for epoch in range(50):
        for batch in pairs(epoch):
            for domain, counted, squares in zip((pairs.a, pairs.b), seen, batch, strict=True):
                assert squares.dtype == torch.uint8 and squares.shape == (batch_size, 3, 8, 8)
                for square in squares:
                    number, top, left, mirrored = place(square)
                    expected = domain[number, :, top : top + 8, left : left + 8]
                    assert torch.equal(square, expected.flip(-1) if mirrored else expected)
                    counted[top, left, mirrored] += 1
    for counted in seen:
        assert len(counted) == 5 * 5 * 2
        expected = 50 * 40 / 50
        surprise = sum((count - expected) ** 2 / expected for count in counted.values())  # chi squared
        assert surprise < 49 + 4 * np.sqrt(2 * 49)  # four standard deviations


def test_each_picture_has_a_place_of_its_own():
    """Neither the pictures of a pair nor neighbours in a batch are cut and mirrored alike, save by chance."""
    batches = [pair for epoch in range(10) for pair in Pairs(tagged(40), tagged(40), 8, 0, batch_size=4)(epoch)]
    a, b = (np.array([[place(square)[1:] for square in pair[side]] for pair in batches]) for side in (0, 1))
    for one, other in ((a, b), (a[:, 1:], a[:, :-1]), (b[:, 1:], b[:, :-1]), (a[1:], a[:-1])):
        alike = (one == other).reshape(-1, 3)
        assert alike.all(1).mean() < 0.06  # 1/50 by chance
        assert (np.abs(alike.mean(0) - [1 / 5, 1 / 5, 1 / 2]) < 4 * 0.5 / np.sqrt(len(alike))).all()


def test_a_picture_is_cut_anew_at_each_visit():
    """A picture is not cut alike in the epochs of a run, nor at its visits within one epoch."""
    pairs = Pairs(tagged(2), tagged(20), 8, seed=0)
    lots = {}
    for epoch in range(4):
        for a, _ in pairs(epoch):
            number, *where = place(a[0])
            lots.setdefault((epoch, number), []).append(tuple(where))
    assert all(len(lot) == 10 and len(set(lot)) > 5 for lot in lots.values())
    assert len({tuple(lot) for lot in lots.values()}) == 8


def test_full_size_is_only_mirrored():
    """Where the pictures are no larger than the squares, they come whole."""
    for a, b in Pairs(tagged(9, 8), tagged(9, 8), 8, seed=0)(0):
        assert place(a[0])[1:3] == place(b[0])[1:3] == (0, 0)


def test_domains_may_differ_in_load_size():
    """Each domain is cut by its own width."""
    pairs = Pairs(tagged(20, 12), tagged(20, 9), 8, seed=0)
    for a, b in pairs(0):
        for domain, square in ((pairs.a, a[0]), (pairs.b, b[0])):
            number, top, left, mirrored = place(square)
            expected = domain[number, :, top : top + 8, left : left + 8]
            assert torch.equal(square, expected.flip(-1) if mirrored else expected)


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize(("count_a", "count_b"), [(25, 10), (10, 25), (10, 10), (2, 25)])
def test_epoch_is_as_long_as_the_larger_domain(count_a, count_b, batch_size):
    """An epoch has as many pairs as the larger domain has pictures; the last batch may be short."""
    pairs = Pairs(tagged(count_a), tagged(count_b), 8, seed=3, batch_size=batch_size)
    visits = max(count_a, count_b)
    lengths = [(len(a), len(b)) for a, b in pairs(0)]
    assert len(lengths) == len(pairs) == -(-visits // batch_size)
    expected = [batch_size] * (visits // batch_size) + ([visits % batch_size] if visits % batch_size else [])
    assert lengths == [(length, length) for length in expected]


@pytest.mark.parametrize(("count_a", "count_b"), [(25, 10), (10, 25), (10, 20)])
def test_a_is_walked_through_in_rounds(count_a, count_b):
    """No picture of a comes again before all of a have come, and each round has an order of its own."""
    seen, _ = numbers(Pairs(tagged(count_a), tagged(count_b), 8, seed=3, batch_size=4)(0))
    rounds = [seen[first : first + count_a] for first in range(0, len(seen), count_a)]
    for each in rounds:
        assert len(set(each)) == len(each)
    assert all(len(each) == count_a for each in rounds[:-1])
    assert len({tuple(each) for each in rounds}) == len(rounds)


@pytest.mark.parametrize(("count_a", "count_b"), [(25, 10), (10, 25), (10, 10)])
def test_b_is_drawn_with_replacement_and_evenly(count_a, count_b):
    """Any picture of b may come at any visit, again too, and over many epochs all come equally often."""
    pairs = Pairs(tagged(count_a), tagged(count_b), 8, seed=3, batch_size=8)
    epochs = [numbers(pairs(epoch))[1] for epoch in range(100)]
    assert sum(len(set(seen)) < min(len(seen), count_b) for seen in epochs) > 5
    counts = np.bincount(np.concatenate(epochs), minlength=count_b)
    expected = 100 * max(count_a, count_b) / count_b
    assert len(counts) == count_b and (abs(counts - expected) < 4.5 * np.sqrt(expected)).all()


def test_order_depends_on_seed_and_epoch_alone():
    """The same (seed, epoch) gives the same pairs whatever came before; another of either gives others."""
    pairs = Pairs(tagged(20), tagged(30), 8, seed=3)
    list(pairs(7))
    assert equal(list(pairs(1)), list(Pairs(tagged(20), tagged(30), 8, seed=3)(1)))
    orders = [numbers(Pairs(tagged(20), tagged(30), 8, seed, 10)(epoch)) for seed in range(4) for epoch in range(4)]
    for domain in (0, 1):
        assert len({tuple(order[domain]) for order in orders}) == 16


def test_pairing_differs_from_epoch_to_epoch():
    """A picture of a meets other pictures of b in other epochs."""
    pairs = Pairs(tagged(30), tagged(30), 8, seed=0)
    met = [dict(zip(*numbers(pairs(epoch)), strict=True)) for epoch in range(2)]
    assert sum(met[0][number] == met[1][number] for number in range(30)) < 6


@pytest.mark.parametrize("batch_size", [2, 7])
def test_batch_size_does_not_change_the_order(batch_size):
    """In whatever batches, the same pictures meet in the same order."""
    whole = numbers(Pairs(tagged(20), tagged(30), 8, seed=3)(2))
    assert numbers(Pairs(tagged(20), tagged(30), 8, 3, batch_size)(2)) == whole


@pytest.mark.parametrize(("batch_size", "skip"), [(8, 0), (8, 1), (8, 6), (8, 7), (1, 1), (1, 20), (1, 49), (1, 50)])
def test_skip_gives_the_tail(batch_size, skip):
    """An epoch resumed at step k gives what the whole epoch gives from step k on, squares included."""
    pairs = Pairs(tagged(20), tagged(50), 8, seed=3, batch_size=batch_size)
    whole, tail = list(pairs(2)), list(pairs(2, skip=skip))
    assert len(tail) == len(pairs) - skip and equal(tail, whole[skip:])


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_the_batch_of_one_process(world_size):
    """Interleaved, the shares of all ranks are the batch of a single process, squares included."""
    pairs = Pairs(tagged(20), tagged(53), 8, seed=3, batch_size=12)
    shares = [list(pairs(4, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for step, alone in enumerate(pairs(4)):
        for domain in (0, 1):
            together = torch.empty_like(alone[domain])
            for rank in range(world_size):
                together[rank::world_size] = shares[rank][step][domain]
            assert torch.equal(together, alone[domain])


@pytest.mark.parametrize(("count", "batch_size", "smallest"), [(24, 1, 1), (25, 12, 1), (26, 3, 2), (2, 8, 2)])
def test_a_batch_too_small_to_share_is_said(count, batch_size, smallest):
    """A batch with fewer pictures than processes, be it the last or any, is refused before the first step."""
    pairs = Pairs(tagged(count), tagged(2), 8, seed=0, batch_size=batch_size)
    with pytest.raises(DataError, match=f"^a batch has {smallest} pictures for {smallest + 1} processes"):
        next(pairs(0, rank=0, world_size=smallest + 1))
    assert sum(len(a) for a, _ in pairs(0, world_size=smallest)) >= count // smallest


def test_description_tells_other_pairs_apart():
    """Whatever changes the squares of a step, the pictures' values aside, changes the description."""
    usual = {"a": tagged(20), "b": tagged(30), "size": 8, "seed": 3, "batch_size": 4}
    others = [{"a": tagged(21)}, {"b": tagged(31)}, {"size": 9}, {"seed": 4}, {"batch_size": 5}]
    others.append({"a": tagged(20, 13), "b": tagged(30, 13)})
    described = [str(Pairs(**(usual | other)).description) for other in ({}, *others)]
    assert len(set(described)) == 7


def test_global_random_state_and_pictures_are_left_alone():
    """Dealing out pairs neither uses nor disturbs torch's global random numbers, nor changes a picture."""
    a, b = tagged(20), tagged(30)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = list(Pairs(a, b, 8, seed=0)(0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    for square in (square for pair in first for square in pair):
        square.zero_()
    assert torch.equal(a, tagged(20)) and torch.equal(b, tagged(30))
    again = list(Pairs(a, b, 8, seed=0)(0))
    assert equal(again, list(Pairs(tagged(20), tagged(30), 8, seed=0)(0)))


def test_only_what_fits_moves_to_the_device(monkeypatch):
    """Small domains are moved to the device, large ones stay where they are; squares are on the device."""
    monkeypatch.setattr(folders, "LARGE", tagged(5).nbytes)
    pairs = Pairs(tagged(5), tagged(6), 8, seed=0, batch_size=2)
    # The meta device has shapes and no values, which is enough to see what is where.
    assert {square.device.type for batch in pairs(0, device="meta") for square in batch} == {"meta"}
    assert (pairs.a.device.type, pairs.b.device.type) == ("meta", "cpu")


def test_what_cannot_be_dealt_out_is_refused():
    """A domain of fewer than two pictures, or of smaller ones than the squares, is an error of one line."""
    for count in (0, 1):
        with pytest.raises(DataError, match=f"^{count} training pictures in domain a: 2 or more are needed$"):
            Pairs(tagged(count), tagged(5), 8, seed=0)
        with pytest.raises(DataError, match=f"^{count} training pictures in domain b: 2 or more are needed$"):
            Pairs(tagged(5), tagged(count), 8, seed=0)
    with pytest.raises(DataError, match=r"^pictures of 7 pixels hold no square of 8: "):
        Pairs(tagged(5), tagged(5, 7), 8, seed=0)
