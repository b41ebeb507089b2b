"""Running the notebooks: parameters are checked first, failures say what and where, any kernel and folder will do."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from nbformat.v4 import new_code_cell

from hw2lib import ROOT, parameters
from hw2lib.report import ReportError, build, document


def test_unknown_parameter(notebooks):
    """A parameter the notebook does not have is refused in one line, with the nearest name."""
    with pytest.raises(ReportError, match=r"^01_sample.ipynb has no parameter 'epoch': did you mean epochs\?$"):
        build.check_parameters(notebooks[0], {"epoch": 2})


def test_parameters_are_checked_first(notebooks, presets, tmp_path):
    """Build refuses an unknown parameter before any notebook runs, and accepts one that only one has."""
    with pytest.raises(ReportError, match="no parameter 'sizes'"):
        build.build("tiny", out=tmp_path / "out", notebooks=notebooks, changes={"size": 4, "sizes": 4})
    assert not (tmp_path / "out").exists()


def test_missing_preset(notebooks, presets, tmp_path):
    """A preset that does not exist is refused with the names of those that do."""
    with pytest.raises(parameters.ParameterError, match=r"no preset 'huge' for 01_sample: there are tiny"):
        build.build("huge", out=tmp_path, notebooks=notebooks)


def test_failing_cell(write_notebook, tmp_path):
    """A failing cell stops the build in one line: notebook, cell and error; the half-run notebook stays, and is no report."""
    parameters_cell = new_code_cell("x = 1", metadata={"tags": ["parameters"]})
    failing = new_code_cell("raise ValueError(f'x is\\n{x}')")
    notebook = write_notebook(tmp_path / "01_bad.ipynb", "# Bad", parameters_cell, failing)
    partial = tmp_path / "build" / "notebooks" / "01_bad.ipynb"
    with pytest.raises(ReportError) as caught:
        build.execute(notebook, partial, {"x": 2})
    assert str(caught.value) == f"01_bad.ipynb, cell 3: ValueError: x is 2 (see {partial})"
    with pytest.raises(ReportError, match="cell 3 ended with an error"):
        document.assemble([partial], tmp_path / "build", "tiny")
    assert [path.name for path in (tmp_path / "build").iterdir()] == ["notebooks"]


def test_killed_kernel(write_notebook, tmp_path):
    """A killed kernel (out of memory, say) is told apart from a failing cell, with what to do."""
    kill = new_code_cell(f"import os\nos.kill(os.getpid(), {signal.SIGKILL:d})")
    notebook = write_notebook(tmp_path / "01_dead.ipynb", "# Dead", kill)
    with pytest.raises(ReportError, match=r"01_dead\.ipynb: the kernel was killed; .* run it again"):
        build.execute(notebook, tmp_path / "out.ipynb", {})


@pytest.mark.slow
def test_any_folder_any_kernel(notebooks, built, tmp_path):
    """From another folder, without an activated environment, beside a foreign kernel: the same figure, by this Python.

    And importing the wing is light: runner, exporter, pandoc and Typst are imported where they work.
    """
    kernel = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "foreign", "language": "python"}))
    program = (
        "import sys; from pathlib import Path; from hw2lib import parameters; from hw2lib.report import build, publish;"
        "assert not {'papermill', 'nbconvert', 'pypandoc', 'typst'} & set(sys.modules);"
        "notebook = Path(sys.argv[1]); parameters.PRESETS = notebook.parent / 'presets';"
        "build.build('tiny', out='here', notebooks=[notebook])"
    )
    environment = {"PATH": os.defpath, "HOME": str(tmp_path), "JUPYTER_DATA_DIR": str(kernel.parents[2])}
    # Else matplotlib looks through all fonts of the machine.
    environment["MPLCONFIGDIR"] = matplotlib.get_cachedir()
    result = subprocess.run(
        [sys.executable, "-c", program, notebooks[1]],
        cwd=tmp_path, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    # Seen on the terminal.
    assert "size 16 lines" in result.stdout
    assert f"Python {sys.executable}" in (tmp_path / "here" / "report.md").read_text(encoding="utf-8")
    figure = Path("figures", "the-end.png")
    assert (tmp_path / "here" / figure).read_bytes() == (built / figure).read_bytes()
