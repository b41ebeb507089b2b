"""Running the notebooks: parameters are checked first, failures say what and where, any kernel and folder will do."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest
from nbformat.v4 import new_code_cell

from hw2lib import ROOT, parameters
from hw2lib.report import ReportError, build, document
from hw2lib.training import Run, duration


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


def test_paths_are_meant_from_the_callers_folder(write_notebook, presets, tmp_path, monkeypatch, capfd):
    """Relative folders of runs and data, and ~, are absolute before a kernel starts in the notebook's own folder."""
    show = new_code_cell("import os\nprint('folders', os.environ['HW2_RUNS'], os.environ['HW2_DATA'])")
    notebook = write_notebook(tmp_path / "elsewhere" / "01_x.ipynb", "# X", show)
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HW2_RUNS", "r")
    monkeypatch.setenv("HW2_DATA", "~/d")
    assert build.execute(notebook, "out.ipynb", {}) == tmp_path / "out.ipynb"
    assert f"folders {tmp_path / 'r'} {tmp_path / 'home' / 'd'}" in capfd.readouterr().out


def test_a_report_says_what_is_on_record(notebooks, tmp_path, monkeypatch, capsys):
    """At first what the preset says of itself, and for the published one the times of its runs, which each kernel is told."""
    told = []
    monkeypatch.setattr(build, "execute", lambda *given: told.append(given[-1]))
    monkeypatch.setattr(document, "assemble", lambda *_: None)
    monkeypatch.setattr(parameters, "PRESETS", tmp_path)
    for preset in ("tiny", document.PUBLISHED):
        (tmp_path / preset).mkdir()
        for path in notebooks:
            (tmp_path / preset / f"{path.stem}.yaml").write_text(f"# About {path.stem}.\n{{}}  # no\n")
        build.build(preset, out=tmp_path, notebooks=notebooks)
    assert [json.loads(given["HW2_RECORDED"]) for given in told[:2]] == [{}, {}]
    recorded = json.loads(told[2]["HW2_RECORDED"])
    ring = Run.published("ring")
    assert recorded[ring.folder_name] == ring.provenance["seconds"]
    first, second = (
        ("notebook 1 of 2: 01_sample.ipynb", "# About 01_sample."),
        ("notebook 2 of 2: 02_other.ipynb", "# About 02_other."),
    )
    parts = [*first, *second]
    whole = f"The published runs took {duration(sum(recorded.values()))} on {ring.provenance['device']}: those to come count as long"
    assert capsys.readouterr().out.splitlines() == [*parts, whole, *parts]


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (
            "file",
            r"cannot write .*file/notebooks/report\.ipynb \(Not a directory\): make room or choose another folder",
        ),
        ("/proc/out", r"cannot write /proc/out/notebooks/report\.ipynb \(.*\): make room or choose another folder"),
        ("a" * 300, r"is no path here \(File name too long\): give another one"),
        ("full", r"1 MB are free for .*full, and a report takes 60: make room or choose another folder"),
    ],
)
def test_where_the_report_cannot_be_written_is_said_first(notebooks, presets, tmp_path, monkeypatch, out, words):
    """A file in its place, a folder that may not be written and a full disk: one line, before any kernel starts."""
    (tmp_path / "file").write_text("")
    if out == "full":
        monkeypatch.setattr(build.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_000_000))
    monkeypatch.setattr(build, "execute", lambda *_: pytest.fail("a kernel was started"))
    with pytest.raises(ReportError, match=words):
        build.build("tiny", out=tmp_path / out, notebooks=notebooks)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_what_a_kill_left_is_removed(notebooks, presets, tmp_path, monkeypatch):
    """Hidden folders of a build that was killed go at the start of the next one."""
    left = tmp_path / ".hw2lib-report-abc" / "figures"
    left.mkdir(parents=True)
    (left / "a.png").write_bytes(b"")
    monkeypatch.setattr(build, "execute", lambda *_: None)
    monkeypatch.setattr(document, "assemble", lambda *_: None)
    build.build("tiny", out=tmp_path, notebooks=notebooks)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_is_one_line(built, tmp_path, monkeypatch):
    """The disk is full when the documents are written: one line, and nothing of them is left."""
    out = shutil.copytree(built, tmp_path / "build")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(document.pages, "write_pdf", full)
    with pytest.raises(ReportError, match=r"cannot write .*build \(the disk is full\): make room"):
        document.assemble(sorted((out / "notebooks").glob("*.ipynb")), out, "tiny")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
