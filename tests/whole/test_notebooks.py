"""The notebooks: clean in git, run by papermill as a user would, and rendered into the report."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from hw2lib import ROOT, parameters
from hw2lib.data import DataError

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KINDS = {"01_cyclegan": parameters.CycleGANParameters, "02_vqvae": parameters.VQVAEParameters}
PRESETS = sorted((ROOT / "notebooks" / "presets").glob("*/*.yaml"))


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
