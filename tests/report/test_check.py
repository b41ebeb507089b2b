"""The audit of the published report: the repository passes, and no change of it goes unnoticed."""

import json
import re
import shutil
from functools import cache

import numpy as np
import pytest
from PIL import Image

from hw2lib import ROOT
from hw2lib.report import ReportError, check, publish, show
from hw2lib.training import runs

derived = cache(check.derived)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A copy of what is published, which the audit looks at; its text and figures are made again only once."""
    for folder in ("figures", "results", "weights"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "report.md", tmp_path)
    monkeypatch.setenv("HW2_DATA", str(tmp_path))
    monkeypatch.setattr(check, "derived", derived)
    for module in (check, runs, show):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path


def replaced(path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1, old
    path.write_text(text.replace(old, new, 1))


def flip_bit(path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def repaint(path) -> None:
    """Another last pixel, far from all that is drawn."""
    pixels = np.array(Image.open(path))
    pixels[-1, -1, 0] ^= 1
    Image.fromarray(pixels).save(path)


def lose_provenance(root) -> None:
    path = root / "results" / "ring" / "provenance.json"
    path.write_text(
        json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "commit"})
    )


def lose_row(root) -> None:
    path = root / "results" / "vqvae-short" / "history.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.slow
def test_the_repository_passes():
    """Every number, paragraph, table and figure that needs no pictures follows from results/; what does is named."""
    lines = list(check.check())
    words = "\n".join(lines)
    assert "DISAGREES" not in words
    numbers = int(re.search(r"([\d,]+) numbers follow from results/", words)[1].replace(",", ""))
    assert numbers > 1500
    assert "figures: 16 of 16 that need no pictures are drawn the same, to the pixel" in words
    left_out = lines[-1].partition(": ")[2].split("; ")
    assert len(left_out) == 19
    assert sum(words.startswith("figure ") for words in left_out) == len(list((ROOT / "figures").iterdir())) - 16


# What is done to the repository, and what the audit says; where the checksums are written anew, it must see it by itself.
TAMPERED = [
    (lambda root: replaced(root / "report.md", "1,067", "1,068"), "report.md was changed"),
    (lambda root: replaced(root / "results/cyclegan/history.csv", "\n2,", "\n3,"), "results/cyclegan/history.csv was changed"),
    (lambda root: flip_bit(root / "weights/pixelcnn.safetensors", -100), "weights/pixelcnn.safetensors was changed"),
    (lambda root: repaint(root / "figures/cyclegan-ab.png"), "figures/cyclegan-ab.png was changed"),
    (lambda root: (root / "results/ablations/translations/full.webp").unlink(), "full.webp is missing"),
    (lambda root: (root / "results/vqvae/more.csv").write_text("a\n1\n"), "results/vqvae/more.csv was not published"),
    (lambda root: (root / publish.SUMS).unlink(), "SHA256SUMS is missing: get the whole repository"),
]  # fmt: skip
FORGED = [
    (check.runs, lambda root: flip_bit(root / "weights/vqvae.safetensors", -100), "^vqvae: .* was measured with other weights"),
    (check.runs, lose_provenance, "ring: its provenance does not say commit"),
    (check.runs, lose_row, "vqvae-short: its data, or the rows of its history, are not those of its config"),
    (check.runs, lambda root: replaced(root / "results/vqvae/config.json", '"train": 50000', '"train": 50001'), "vqvae: its data"),
    (check.runs, lambda root: replaced(root / "results/vqvae/provenance.json", ": 1830.2", ": 18302"), "it took 18302 seconds"),
    (check.runs, lambda root: replaced(root / "results/pixelcnn/config.json", '"kernel": 3', '"kernel": 5'), "another config"),
    (check.pictures, lambda root: replaced(root / "results/ablations/config.json", "fc0f48cb", "538d226f"), "drawn domains has the checksum fc0f48cb"),
    (check.report, lambda root: replaced(root / "report.md", "1,067", "1,068"), "line .*1,068.* follows .*1,067"),
    (check.report, lambda root: replaced(root / "report.md", "**Half right.**", "**Right.**"), "line .*follows"),
    (check.report, lambda root: replaced(root / "report.md", "| doing nothing |", "| doing it |"), "line .*doing it"),
    (check.report, lambda root: repaint(root / "figures/vqvae-curves.png"), "figures/vqvae-curves.png is drawn otherwise"),
]  # fmt: skip


@pytest.mark.parametrize(("tamper", "words"), TAMPERED)
def test_a_file_that_was_changed_is_found(root, tamper, words):
    """No file can be changed, lost or added without its checksum."""
    tamper(root)
    try:
        _, wrong = check.files()
    except ReportError as error:
        wrong = [str(error)]
    assert len(wrong) == 1
    assert words in wrong[0]


@pytest.mark.slow
@pytest.mark.parametrize(("part", "tamper", "words"), FORGED)
def test_what_does_not_fit_is_found_without_checksums(root, part, tamper, words):
    """A digit of the report, a row of results, a bit of weights, a pixel of a figure: each contradicts something else."""
    assert not part()[1]
    tamper(root)
    _, wrong = part()
    assert wrong
    assert re.search(words, wrong[0])


@pytest.mark.slow
def test_a_changed_result_changes_the_report(root, monkeypatch):
    """A number in results/ that is not the published one makes other text; the whole audit then ends with an error."""
    monkeypatch.undo()
    for module in (check, runs, show):
        monkeypatch.setattr(module, "ROOT", root)
    replaced(root / "results/vqvae/metrics.json", '"test_psnr": 2', '"test_psnr": 3')
    audit, lines = check.check(), []
    with pytest.raises(ReportError, match="of these lines disagree"):
        lines.extend(audit)
    assert lines[0].startswith("files: ")
    assert "DISAGREES: results/vqvae/metrics.json was changed" in lines
    assert any(line.startswith("DISAGREES: report.md, line ") and "34.79" in line for line in lines)
