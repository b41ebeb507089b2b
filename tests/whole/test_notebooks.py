"""The notebooks: clean in git, run by papermill as a user would, and rendered into the report."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch

from hw2lib import ROOT, parameters
from hw2lib.cyclegan import CycleGAN
from hw2lib.data import DataError
from hw2lib.pixelcnn import GatedPixelCNN
from hw2lib.report import ReportError, answers, publish
from hw2lib.vqvae import VQVAE

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KINDS = {"01_cyclegan": parameters.CycleGANParameters, "02_vqvae": parameters.VQVAEParameters}
PRESETS = sorted((ROOT / "notebooks" / "presets").glob("*/*.yaml"))
FIGURES = {
    "ablation": {"losses", "networks", "weights"},
    "collapse": {"linear", "power", "ring"},
    "cyclegan": {"ab", "ba", "curves", "data", "epochs", "identity", "merit-ab", "merit-ba", "scores"},
    "objective": {"gradients"},
    "prior": {"completions", "curves", "fields", "filling", "neighbours", "samples", "temperature"},
    "vqvae": {"codes", "curves", "data", "reconstructions", "umap", "use"},
}
ALL_FIGURES = {f"{part}-{name}" for part, names in FIGURES.items() for name in names}


def named(path):
    return f"{path.parent.name}/{path.name}"


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def papermill(*words, runs, notebook="02_vqvae"):
    """The papermill command with the smoke preset; returns what it printed and its exit status."""
    presets = ROOT / "notebooks" / "presets" / "smoke"
    command = [Path(sys.executable).parent / "papermill", "-k", "python3", ROOT / "notebooks" / f"{notebook}.ipynb"]
    command += [*words, "-f", presets / f"{notebook}.yaml"]
    environment = os.environ | {"HW2_RUNS": str(runs)}
    return subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, cwd=runs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_notebooks_are_clean(path):
    """In git a notebook has no outputs, no execution counts, the kernel python3 and a small file."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert path.stat().st_size < 80_000
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    assert not any(cell.outputs or cell.execution_count for cell in code_cells(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_a_code_cell_fits_twelve_lines(path):
    """But for the parameters, a line each; and sentences with numbers are answers, not strings of Python."""
    for cell in code_cells(path):
        if "parameters" not in tags(cell) and not cell.source.startswith("%%"):
            assert len(cell.source.splitlines()) <= 12, cell.source
            assert not re.search(r"\bf[\"']", cell.source), cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_parameters_are_typed_explained_and_known(path):
    """Each parameter has a type, a comment and, in hw2lib.parameters, a field with the same default."""
    (cell,) = (cell for cell in code_cells(path) if "parameters" in tags(cell))
    lines = [re.fullmatch(r"(\w+): \w+ = (.+?)  # \S.+", line) for line in cell.source.splitlines()]
    assert {line[1]: eval(line[2]) for line in lines} == KINDS[path.stem]().model_dump()


@pytest.mark.parametrize("path", PRESETS, ids=named)
def test_presets_fit_their_notebook(path):
    """Every preset names only parameters that exist, with values that are accepted; quick has the notebook's own."""
    kind, preset = KINDS[path.stem], path.parent.name
    asked = parameters.given(kind, parameters.preset(preset, path.stem))
    assert asked.experiments == ("published" if preset == "quick" else "run")
    assert preset != "quick" or asked == kind()


@pytest.mark.parametrize(
    ("preset", "message"), [("huge", "quick"), ("../quick", "quick"), ("cpuu", "did you mean cpu")]
)
def test_presets_have_names(preset, message):
    """A preset that does not exist, and a path, are refused with the names that there are."""
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.preset(preset, "02_vqvae")


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"epochs": "abc"}, parameters.ParameterError, "epochs: input should be a valid integer"),
        ({"size": "30"}, parameters.ParameterError, "size: input should be a multiple of 4, not 30"),
        ({"dataset": "cifar11"}, DataError, 'no pictures called "cifar11"'),
        ({"experiments": "some"}, parameters.ParameterError, "experiments: input should be 'published' or 'run'"),
    ],
)
def test_wrong_values_are_refused_before_any_work(values, error, message):
    """What the second cell does with a wrong value: one clear line."""
    from hw2lib import recipes

    namespace = KINDS["02_vqvae"]().model_dump() | values
    with pytest.raises(error, match=message) as raised:
        recipes.vqvae_setup(parameters.check(KINDS["02_vqvae"], namespace))
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_wrong_name_fails_in_the_second_cell(tmp_path):
    """A parameter that does not exist stops papermill in the cell after the parameters, with one line, before any work."""
    done = papermill(tmp_path / "out.ipynb", "-p", "epoch", "3", runs=tmp_path)
    assert done.returncode != 0
    cells = code_cells(tmp_path / "out.ipynb")
    (failed,) = (cell for cell in cells if any(output.output_type == "error" for output in cell.outputs))
    # The parameters, the injected ones, this one.
    assert cells.index(failed) == 2
    (error,) = (output for output in failed.outputs if output.output_type == "error")
    assert error.traceback == ["ParameterError: no parameter epoch: did you mean epochs?"]
    assert not list(tmp_path.glob("vqvae-*"))


# ---- one report with the smoke preset


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
    assert "<script" not in html
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
        assert len(made) == sum(magic == "answer" for magic, *_ in answers.cells(path))
        for cell in made:
            (output,) = cell.outputs
            left_out = output.data["text/markdown"] == "*Not measured here.*"
            assert left_out == bool(re.match(r"%%answer.*\b((beside_)?photographs|(prior_on_)?cifar10)\b", cell.source))


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
    done = papermill(tmp_path / "out.ipynb", "--cwd", tmp_path, runs=again, notebook="01_cyclegan")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "loaded from cyclegan-" in (tmp_path / "out.ipynb").read_text()
    assert {path: path.read_bytes() for path in again.glob("*/metrics.json")} == before

    (tmp_path / "weights" / "cyclegan.safetensors").unlink()
    with pytest.raises(ReportError, match=r"cyclegan.safetensors is missing: get the whole repository"):
        publish.restore(root=tmp_path, runs=tmp_path / "elsewhere")
    with pytest.raises(ReportError, match="is missing, which the report is about"):
        publish.publish(smoke.build, root=tmp_path / "results", runs=tmp_path)
