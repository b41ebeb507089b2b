"""`sample` draws what the published weights, or others, draw, into one sheet, and says in one line what is wrong."""

import click.testing
import numpy as np
import pytest
import torch
from PIL import Image

from hw2lib import __main__ as command_line
from hw2lib.evaluation.new_pictures import decode_pictures
from hw2lib.evaluation.translations import ShapeError, save_picture
from hw2lib.pixelcnn import GatedPixelCNN, PixelCNNConfig
from hw2lib.report import figures
from hw2lib.report.figures import labelled_rows
from hw2lib.training import weights
from hw2lib.vqvae import VQVAE, VQVAEConfig


@pytest.fixture
def model():
    sizes = {"size": 8, "hidden_channels": 4, "residual_channels": 2, "residual_blocks": 1}
    return VQVAE(VQVAEConfig(**sizes, num_codes=8, code_dim=3)).eval()


@pytest.fixture
def prior():
    names = {"classes": 2, "class_names": ("horse", "zebra")}
    return GatedPixelCNN(PixelCNNConfig(num_codes=8, height=2, width=2, channels=4, layers=2, **names)).eval()


@pytest.fixture
def files(model, prior, tmp_path):
    weights.save(model, tmp_path / "vqvae.safetensors")
    weights.save(prior, tmp_path / "pixelcnn.safetensors")
    return ["--weights", tmp_path / "pixelcnn.safetensors", "--codec", tmp_path / "vqvae.safetensors"]


def sample(*words):
    """What `python -m hw2lib sample` prints, or its one line of error."""
    result = click.testing.CliRunner().invoke(command_line.main, ["sample", *map(str, words)])
    return result.output if result.exit_code == 0 else str(result.exception)


def test_the_command_line_draws_a_sheet(model, prior, files, tmp_path):
    """The sheet holds the pictures of the class that was asked for, in a square beside its name, each pixel four times as
    wide, and the same seed draws the same."""
    target = tmp_path / "out.png"
    words = [*files, "--n", 5, "--class", "zebra", "--seed", 4, target]
    assert sample(*words).strip() == str(target)
    sheet, before = np.array(Image.open(target)), target.read_bytes()
    width = 4 * (3 * 9 - 1)
    assert sheet.shape[0] == 4 * (2 * 9 - 1) and sheet.shape[1] > width
    assert (sheet[:34, :-width] < 128).any() and (sheet[36:, :-width] == 255).all()
    drawn = decode_pictures(model, prior.sample(5, torch.ones(5, dtype=torch.long), seed=4))
    shown = sheet[:, -width:][:32, 36:68]
    assert np.array_equal(shown, drawn[1].permute(1, 2, 0).numpy().repeat(4, 0).repeat(4, 1))
    sample(*words)
    assert target.read_bytes() == before


def test_each_class_has_rows_of_its_own(model, prior, files, tmp_path, monkeypatch):
    """Without a class all are drawn in turn, and shown by class."""
    monkeypatch.setattr(figures, "labelled_rows", lambda rows, *_, **__: seen.append(rows) or draw(rows))
    draw, seen = labelled_rows, []
    sample(*files, "--n", 5, tmp_path / "out.png")
    drawn = decode_pictures(model, prior.sample(5, torch.arange(5) % 2, seed=0))
    assert list(seen[0]) == ["horse", "zebra"]
    assert torch.equal(seen[0]["horse"], drawn[::2]) and torch.equal(seen[0]["zebra"], drawn[1::2])


@pytest.mark.parametrize("name", ["S.PNG", "s.JpG", "s.webp"])
def test_suffixes_count_in_any_case(name, files, tmp_path):
    """The format is that of the suffix."""
    sample(*files, "--n", 2, tmp_path / name)
    kind = Image.open(tmp_path / name).format
    assert kind == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[name.lower().partition(".")[2]]


def test_a_sheet_that_the_format_cannot_hold_is_one_line(model, tmp_path):
    """No WebP has more than 16,383 pixels a side."""
    with pytest.raises(ShapeError, match=r"long.webp cannot be made .*: choose .png"):
        save_picture(tmp_path / "long.webp", torch.zeros(3, 1, 20_000, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--class", "cow"], "this prior knows no class 'cow': give one of horse, zebra"),
        (["--temperature", "0"], "temperature 0.0: give 1e-6 to 1e6"),
        (["--top-k", "9"], "top_k 9: give 1 to 8, or 0 for all codes"),
        (["--weights", "vqvae.safetensors"], "holds VQVAE, not GatedPixelCNN"),
    ],
)
def test_the_command_line_says_what_is_wrong(words, message, files, tmp_path, monkeypatch):
    """One line, and no file."""
    monkeypatch.chdir(tmp_path)
    assert message in sample(*files, *words, "out.png")
    assert not (tmp_path / "out.png").exists()
