"""One whole report with the smoke preset, and all that can be told from it: pages, runs, command line, publishing."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from hw2lib import ROOT
from hw2lib import __main__ as command_line
from hw2lib.cyclegan import CycleGAN
from hw2lib.pixelcnn import GatedPixelCNN
from hw2lib.report import ReportError, publish
from hw2lib.report.build import build
from hw2lib.vqvae import VQVAE

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIGURES = {
    "ablation": {"losses", "networks"},
    "collapse": {"linear", "power", "ring", "ring-samples"},
    "cyclegan": {"ab", "ba", "curves", "data", "epochs", "identity", "hidden", "merit-ab", "merit-ba", "scores"},
    "objective": {"gradients"},
    "plane": {"arrows"},
    "prior": {"completions", "curves", "fields", "filling", "neighbours", "samples", "temperature"},
    "vqvae": {"codes", "curves", "data", "reconstructions", "umap", "usual", "use"},
}
ALL_FIGURES = {f"{part}-{name}" for part, names in FIGURES.items() for name in names} | {"hero"}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The whole report, built once with the smoke preset: `build`, its documents, and `runs`, its run folders."""
    folder = tmp_path_factory.mktemp("smoke")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HW2_RUNS", str(folder / "runs"))
        build("smoke", out=folder / "build")
    return SimpleNamespace(build=folder / "build", runs=folder / "runs")


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def papermill_line():
    """The command of the README."""
    (line,) = re.findall(r"^\.venv/bin/papermill .*", (ROOT / "README.md").read_text(), re.MULTILINE)
    return line


def run_papermill(words, folder, runs):
    """The README's command from the repository's root, with its output in a folder."""
    words = [str(Path(sys.executable).parent / "papermill"), *words[1:]]
    words = [word.replace("out.ipynb", str(folder / "out.ipynb")) for word in words]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"HW2_RUNS": str(runs)})


def metrics(smoke, name):
    (path,) = smoke.runs.glob(f"{name}-????????/metrics.json")
    return json.loads(path.read_text())


@pytest.mark.slow
def test_the_report_is_whole(smoke):
    """The smoke preset gives report.md, offline HTML and PDF, and every figure with alt text."""
    text = (smoke.build / "report.md").read_text()
    pictures = re.findall(r"!\[(.+)\]\(figures/([\w-]+)\.png\)", text)
    assert {name for _, name in pictures} == ALL_FIGURES
    assert all((smoke.build / "figures" / f"{name}.png").stat().st_size > 1000 for _, name in pictures)
    for word in (r"\bnan\b", "Traceback", r"\{fig:", "^import ", r"\{\{", "^## Play"):
        assert not re.search(word, text, re.M), word
    html = (smoke.build / "report.html").read_text()
    assert html.count("<img ") == len(pictures)
    assert html.count("<script") == 1
    assert "<math" in html
    assert (smoke.build / "report.pdf").read_bytes().startswith(b"%PDF")
    assert all((smoke.build / "notebooks" / f"{path.stem}.html").stat().st_size > 10_000 for path in NOTEBOOKS)


@pytest.mark.slow
def test_the_report_has_the_runs_numbers(smoke):
    """What was measured stands in the report as the run folders have it."""
    text, found = (smoke.build / "report.md").read_text(), metrics(smoke, "vqvae")
    assert f"{found['reconstruction']['test_nmse']:.4f}" in text
    assert f"{found['use']['codes_used']} of 32 codes occur" in text
    found = metrics(smoke, "pixelcnn")
    assert all(f"| {row['nats']:.3f}" in text for row in found["likelihood"]["rows"].values())
    assert f"| {found['card']['new_pictures']['kd']:.3f} ± " in text
    found = metrics(smoke, "cyclegan")
    assert f"{found['cards']['b']['average']['truth']:.3f}" in text
    assert f"{found['cycle_error']['average']['aba']:.3f}" in text


@pytest.mark.slow
def test_every_answer_is_rendered(smoke):
    """All answers of both notebooks are made in the smoke run, but for those that need photographs or CIFAR-10."""
    for path in NOTEBOOKS:
        cells = code_cells(smoke.build / "notebooks" / path.name)
        made = [cell for cell in cells if cell.source.startswith("%%answer")]
        assert len(made) == sum(cell.source.startswith("%%answer") for cell in code_cells(path))
        for cell in made:
            (output,) = cell.outputs
            left_out = output.data["text/markdown"] == "*Not measured here.*"
            assert left_out == bool(
                re.match(r"%%answer.*\b((beside_)?photographs|(prior_on_)?cifar10|longer_known)\b", cell.source)
            )


@pytest.mark.slow
def test_runs_leave_networks_that_load(smoke):
    """The weights of the runs are a VQVAE with the preset's codebook, its prior, and a CycleGAN that is the trained one."""
    (run,) = smoke.runs.glob("vqvae-????????")
    assert VQVAE.load(run / "weights.safetensors").config.num_codes == 32
    assert (run / "umap.csv").read_text().startswith("map,n_neighbors,code,uses,x,y\n")
    (run,) = smoke.runs.glob("pixelcnn-*")
    assert GatedPixelCNN.load(run / "published.safetensors").config.class_names == ("horse", "zebra")
    (run,) = smoke.runs.glob("cyclegan-????????")
    trained, small = (CycleGAN.load(run / f"{name}.safetensors") for name in ("weights", "published"))
    assert (run / "published.safetensors").stat().st_size < (run / "weights.safetensors").stat().st_size / 4
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    for averaged in (False, True):
        for ours, theirs in zip(small.generators(averaged), trained.generators(averaged), strict=True):
            assert torch.allclose(ours(x), theirs(x), atol=0.02)  # half precision


@pytest.mark.slow
def test_publish_and_restore_lead_to_the_same_numbers(smoke, tmp_path):
    """Published, restored elsewhere and run again: nothing is trained or measured, and every number is the same."""
    publish.publish(smoke.build, root=tmp_path, runs=smoke.runs)
    assert (tmp_path / "report.md").read_bytes() == (smoke.build / "report.md").read_bytes()
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == ALL_FIGURES
    kept = {path.name for path in (tmp_path / "results" / "vqvae").iterdir()}
    assert kept == {"config.json", "epochs.csv", "history.csv", "metrics.json", "provenance.json", "umap.csv"}
    assert CycleGAN.load(tmp_path / "weights" / "cyclegan.safetensors").config.size == 32
    (chosen,) = smoke.runs.glob("pixelcnn-*/published.safetensors")
    assert (tmp_path / "weights" / "pixelcnn.safetensors").read_bytes() == chosen.read_bytes()

    again = tmp_path / "runs"
    lines = publish.restore(root=tmp_path, runs=again)
    assert sorted(lines) == sorted(f"{again / path.name} restored" for path in smoke.runs.iterdir())
    assert all("is there already" in line for line in publish.restore(root=tmp_path, runs=again))
    before = {path: path.read_bytes() for path in again.glob("*/metrics.json")}
    words = shlex.split(papermill_line().replace("02_vqvae", "01_cyclegan"))
    done = run_papermill(words, tmp_path, again)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "loaded from cyclegan-" in (tmp_path / "out.ipynb").read_text()
    assert {path: path.read_bytes() for path in again.glob("*/metrics.json")} == before

    (tmp_path / "weights" / "cyclegan.safetensors").unlink()
    with pytest.raises(ReportError, match=r"cyclegan.safetensors is missing: get the whole repository"):
        publish.restore(root=tmp_path, runs=tmp_path / "elsewhere")
    with pytest.raises(ReportError, match="is missing, which the report is about"):
        publish.publish(smoke.build, root=tmp_path / "results", runs=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cyclegan", "vqvae", "pixelcnn"])
def test_it_trains_the_notebooks_run(smoke, model, monkeypatch, capsys):
    """`train` asks for the run that the notebook asks for: here it is finished and loaded."""
    monkeypatch.setenv("HW2_RUNS", str(smoke.runs))
    command_line.run(["train", model, "--preset", "smoke"])
    assert f"loaded from {model}-" in capsys.readouterr().out


@pytest.mark.slow
def test_it_translates_pictures(smoke, tmp_path, monkeypatch):
    """`translate` scales pictures of any kind and writes what the network makes of them."""
    (weights,) = smoke.runs.glob("cyclegan-????????/published.safetensors")
    Image.new("CMYK", (90, 61), (0, 200, 0, 0)).save(tmp_path / "one.jpg")
    Image.new("L", (20, 40), 99).save(tmp_path / "two.png")
    monkeypatch.chdir(tmp_path)
    command_line.run(["translate", "one.jpg", "two.png", "-o", "out", "--to", "a", "--weights", str(weights)])
    assert Image.open(tmp_path / "out" / "one-a.png").size == (48, 32)
    translated = torch.from_numpy(np.array(Image.open(tmp_path / "out" / "two-a.png"))).permute(2, 0, 1)
    x = CycleGAN.to_network(torch.full((1, 3, 64, 32), 99, dtype=torch.uint8))
    expected = CycleGAN.to_pictures(CycleGAN.load(weights).average_ba(x))[0]
    assert (translated.int() - expected.int()).abs().max() <= 1


@pytest.mark.slow
def test_papermill_line_runs(smoke, tmp_path):
    """The README's papermill line runs as written, and loads the run that the report has trained."""
    done = run_papermill(shlex.split(papermill_line()), tmp_path, smoke.runs)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "loaded from vqvae-" in (tmp_path / "out.ipynb").read_text()
