"""`translate` finds the pictures that are meant, writes each where one expects it, and never over a source."""

import io
import re

import click.testing
import numpy as np
import pytest
from PIL import Image

from hw2lib import __main__ as command_line
from hw2lib import translate as translating
from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data import read_picture
from hw2lib.evaluation import translations
from hw2lib.training import weights


@pytest.fixture(scope="module")
def model():
    return CycleGAN(CycleGANConfig(size=32, base_channels=1, blocks=1)).eval()


@pytest.fixture
def here(model, tmp_path, monkeypatch):
    """The current folder, with a photo, an album, and weights that count as the published ones."""
    monkeypatch.chdir(tmp_path)
    picture = Image.effect_noise((96, 64), 90).convert("RGB")
    (tmp_path / "album/more").mkdir(parents=True)
    for number, name in enumerate(("photo.jpg", "album/1.png", "album/more/1.webp")):
        picture.rotate(number).save(tmp_path / name)
    (tmp_path / "album/notes.txt").touch()
    weights.save(model, tmp_path / "own.safetensors")
    weights.save(model, tmp_path / "published.safetensors")
    monkeypatch.setattr(translating, "PUBLISHED", tmp_path / "published.safetensors")
    return tmp_path


def translate(*words, published=True, **streams):
    """What `translate` with these words printed, or its one line of error."""
    file = "published.safetensors" if published else "own.safetensors"
    asked = ["translate", *map(str, words), "--weights", file]
    result = click.testing.CliRunner().invoke(command_line.main, asked, **streams)
    return result.stdout if result.exit_code == 0 else str(result.exception)


def made(here):
    return {path.relative_to(here).as_posix() for path in here.rglob("*zebra*") if path.is_file()}


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (["photo.jpg"], ["photo-zebra.png"]),
        (["photo.jpg", "-o", "zebra.JPG"], ["zebra.JPG"]),
        (["photo.jpg", "-o", "zebra.x"], ["zebra.x/photo-zebra.png"]),
        (["album", "photo.jpg"], ["album-zebra/1-zebra.png", "album-zebra/more/1-zebra.png", "photo-zebra.png"]),
        (["album/more/../../album", "-o", "."], ["1-zebra.png", "more/1-zebra.png"]),
        (["a*/*.png", "pho?o.jpg", "-o", "zebra"], ["zebra/1-zebra.png", "zebra/photo-zebra.png"]),
    ],
)
def test_each_translation_is_where_one_expects_it(words, files, here):
    """The current folder for a file, one beside it for a folder; a file if the output ends like one, else a folder."""
    printed = translate(*words)
    assert made(here) == set(files)
    assert sorted(printed.split()) == sorted(str(here / file) for file in files)


def test_names_are_those_of_the_published_domains(here, model):
    """zebra is b and horse a, for the published weights; nobody knows what others show."""
    translate("photo.jpg", "--to", "horse")
    translate("photo.jpg", "--to", "a", published=False)
    fitted = translations.fit_for(model, read_picture(here / "photo.jpg"))
    for name in ("photo-horse.png", "photo-a.png"):
        wanted = translations.translate(model.average_ba, fitted)
        assert np.array_equal(translations.as_tensor(Image.open(name)), wanted)
    assert "own.safetensors show is not known" in translate("photo.jpg", "--to", "horse", published=False)


def test_a_pipe_will_do(here):
    """- takes a picture from standard input, and -o - gives a PNG file, and nothing else, to standard output."""
    content = (here / "photo.jpg").read_bytes()
    found = click.testing.CliRunner().invoke(
        command_line.main, ["translate", "-", "-o", "-", "--weights", "own.safetensors"], input=content
    )
    translate("photo.jpg")
    assert np.array_equal(Image.open(io.BytesIO(found.stdout_bytes)), Image.open("photo-zebra.png"))
    assert "standard input cannot be read as a picture" in translate("-", input=b"no picture")


@pytest.mark.parametrize(
    ("words", "shape"),
    [([], (48, 32)), (["--size", 64], (96, 64)), (["--full-size"], (96, 64)), (["--full-size", "--beside"], (192, 64))],
)
def test_sizes_are_those_asked_for(words, shape, here):
    """The model's size, another one, or the picture's own; with --beside twice as wide, the picture at the left."""
    translate("photo.jpg", *words)
    picture = Image.open("photo-zebra.png")
    assert picture.size == shape
    if "--beside" in words:
        assert np.array_equal(picture.crop((0, 0, 96, 64)), read_picture(here / "photo.jpg"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photo.jpg", "-o", "photo.jpg"], "photo.jpg would be written over"),
        (["photo.jpg", "album/../photo.jpg"], "photo-zebra.png would be written over, or twice"),
        (["album", "photo.jpg", "-o", "zebra.png"], "3 pictures cannot be written into"),
        (["photo.jpg", "zebra"], "no such file: .*zebra: give one that is there .-o names"),
        (["album/notes.txt", "photo.jpg"], "notes.txt cannot be read as a picture"),
        (["photo.jpg", "album/notes.txt"], "notes.txt cannot be read as a picture"),
        (["*.gif"], "no such file"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(words, message, here):
    """One line, and every file is as it was."""
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert re.search(message, translate(*words))
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_a_unet_has_one_size(here):
    """Squares of its own: another size, or the whole picture, is refused."""
    weights.save(CycleGAN(CycleGANConfig(size=32, base_channels=1, generator="unet")), here / "own.safetensors")
    assert "holds U-Nets" in translate("photo.jpg", "--full-size", published=False)
    translate("photo.jpg", published=False)
    assert Image.open("photo-b.png").size == (32, 32)


def test_many_have_a_bar_where_somebody_watches(here, monkeypatch):
    """On standard error, one for the reading and one for the work; a single picture has none."""
    monkeypatch.setenv("HW2_PROGRESS", "bar")
    runner = click.testing.CliRunner()
    said = [
        runner.invoke(command_line.main, ["translate", words, "--weights", "own.safetensors"]).stderr
        for words in ("album", "photo.jpg")
    ]
    assert "reading: 100%" in said[0] and "translating: 100%" in said[0]
    assert said[1] == ""
