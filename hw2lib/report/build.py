"""
Run the notebooks and build the report: papermill, then `hw2lib.report.document`.

    notebooks/02_vqvae.ipynb + notebooks/presets/quick/02_vqvae.yaml
      -> build/notebooks/02_vqvae.ipynb (executed), 02_vqvae.html (with code)
      -> build/report.md, figures/, report.html, report.pdf
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import nbformat

from hw2lib import ROOT, did_you_mean, files, in_one_line, parameters
from hw2lib.report import ReportError, document
from hw2lib.training import Run, duration

ROOM_NEEDED = 60_000_000  # bytes; what the published report takes with its notebooks, and a little more
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def check_parameters(notebook: Path, asked: Iterable[str]) -> set[str]:
    """The names in the notebook's parameters cell. Raises ReportError for one that it lacks; papermill only warns of it."""
    import papermill

    known = sorted(papermill.inspect_notebook(notebook))
    for name in asked:
        if name not in known:
            raise ReportError(f"{notebook.name} has no parameter {name!r}: {did_you_mean(name, known)}")
    return set(known)


def execute(notebook: Path, output: Path, values: dict, told: dict[str, str] | None = None) -> Path:
    """
    Run a notebook with these parameters in its own folder, printing what it prints; return `output`.

    The kernel is the Python that runs this function, and imports this checkout of hw2lib; `told` are environment variables
    for it. Raises ReportError for an unknown parameter and for a cell that fails; the notebook up to that cell is then in
    `output`.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    notebook, output = Path(notebook).resolve(), files.user_path(output, ReportError)
    check_parameters(notebook, values)
    try:
        with _own_kernel(told or {}):
            output.parent.mkdir(parents=True, exist_ok=True)
            papermill.execute_notebook(
                notebook, output, values, kernel_name="python3", cwd=notebook.parent,
                progress_bar=False, coalesce_streams=True, stdout_file=sys.stdout, stderr_file=sys.stderr, iopub_timeout=120,
            )  # fmt: skip
    except PapermillExecutionError as error:
        reason = in_one_line(f"{error.ename}: {error.evalue}")
        cells = document.numbered(nbformat.read(output, as_version=4), notebook.name)
        where = next((where for where, cell in cells if document.failed(cell)), notebook.name)
        raise ReportError(f"{where}: {reason} (see {output})") from error
    except OSError as error:
        with files.writing(error.filename or output, ReportError):
            raise
    except DeadKernelError as error:
        cure = "perhaps it ran out of memory; run it again: training goes on from its last checkpoint"
        raise ReportError(f"{notebook.name}: the kernel was killed; {cure}") from error
    document.check_executed(nbformat.read(output, as_version=4), notebook.name)
    return output


def build(
    preset: str = "quick",
    data: str | None = None,
    out: str | Path = ROOT / "build",
    notebooks: list[Path] | None = None,
    changes: dict | None = None,
) -> Path:
    """
    Run the notebooks with a preset and write the report into `out`; return the path of its report.md.

    `data` replaces the data root, `changes` any other parameter of the preset; what only some notebooks
    have goes to those. All names, and whether `out` can be written, are checked before the first notebook runs. Raises
    ReportError and ParameterError; the documents of an earlier build then stay as they were.
    """
    notebooks = [Path(notebook).resolve() for notebook in (NOTEBOOKS if notebooks is None else notebooks)]
    if not notebooks:
        raise ReportError(f"there are no notebooks in {ROOT / 'notebooks'}")
    out, changes = files.user_path(out, ReportError), dict(changes or {})
    if data is not None:
        changes["data_root"] = str(files.user_path(data, ReportError))
    settings = _settings(notebooks, preset, changes)
    _look_into(out)
    executed, recorded = [], _recorded(preset)
    for number, path in enumerate(notebooks, 1):
        part = f"notebook {number} of {len(notebooks)}"
        about = (parameters.PRESETS / preset / f"{path.stem}.yaml").read_text(encoding="utf-8").splitlines()
        print(f"{part}: {path.name}", *(line for line in about if line.startswith("#")), sep="\n", flush=True)
        told = {"HW2_PART": part, "HW2_RECORDED": json.dumps(recorded)}
        executed.append(execute(path, out / "notebooks" / path.name, settings[path], told))
    document.assemble(executed, out, preset)
    return out / "report.md"


def _recorded(preset: str) -> dict[str, float]:
    """For the published preset, the seconds that each published run took, by the folder's name; says so with their sum."""
    if preset != document.PUBLISHED:
        return {}
    runs = [Run.published(path.parent.name) for path in (ROOT / "results").glob("*/config.json")]
    recorded = {run.folder_name: run.provenance["seconds"] for run in runs}
    on = " and ".join({run.provenance["device"] for run in runs})
    print(
        f"The published runs took {duration(sum(recorded.values()))} on {on}: those to come count as long", flush=True
    )
    return recorded


def _look_into(out: Path) -> None:
    """Remove what a kill left in the folder of the report. Raises ReportError if the report could not be written there."""
    document.clear(out)
    files.require_writable(out / "notebooks" / "report.ipynb", ReportError)
    above = next(folder for folder in (out, *out.parents) if folder.exists())
    if shutil.disk_usage(above).free < ROOM_NEEDED:
        free = shutil.disk_usage(above).free / 1e6
        raise ReportError(f"{free:.0f} MB are free for {out}, and a report takes {ROOM_NEEDED / 1e6:.0f}: {files.ROOM}")


def _settings(notebooks: list[Path], preset: str, changes: dict) -> dict[Path, dict]:
    """Each notebook's parameters: those of the preset, with the changes it knows. Raises ReportError and ParameterError."""
    settings, unused = {}, set(changes)
    for notebook in notebooks:
        document.check_source(notebook)
        settings[notebook] = parameters.preset(preset, notebook.stem)
        known = check_parameters(notebook, settings[notebook]) & changes.keys()
        settings[notebook] |= {name: changes[name] for name in known}
        unused -= known
    check_parameters(notebooks[0], sorted(unused))
    return settings


@contextmanager
def _own_kernel(told: dict[str, str]) -> Iterator[None]:
    """
    In this block the kernel `python3` is this interpreter, even in a virtual environment that was not
    activated or when the user has another kernel of that name. In it, training prints one line an epoch.
    """
    # It runs in the folder of the notebook, and paths are meant from this one.
    folders = {
        name: str(files.user_path(os.environ[name])) for name in ("HW2_RUNS", "HW2_DATA") if os.environ.get(name)
    }
    # It warns of TCP at each start, of an interrupt at each end.
    quiet = "--IPKernelApp.log_level=CRITICAL"
    specification = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", quiet],
        "display_name": "Python 3",
        "language": "python",
        "env": {"HW2_PROGRESS": "lines", "PYTHONPATH": _with_first(ROOT, "PYTHONPATH"), **folders, **told},
    }
    with tempfile.TemporaryDirectory() as folder:
        kernel = Path(folder) / "kernels" / "python3" / "kernel.json"
        kernel.parent.mkdir(parents=True)
        kernel.write_text(json.dumps(specification), encoding="utf-8")
        # Its sockets are named in a file, for which the user of a container may have no home.
        ours = {"JUPYTER_PATH": _with_first(folder, "JUPYTER_PATH"), "JUPYTER_RUNTIME_DIR": folder}
        with mock.patch.dict(os.environ, ours):
            yield


def _with_first(folder: str | Path, variable: str) -> str:
    """The value of a path variable with a folder before the others."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))
