"""
Run the notebooks and build the report: papermill, then `hw2lib.report.document`.

    notebooks/02_vqvae.ipynb + notebooks/presets/quick/02_vqvae.yaml
      -> build/notebooks/02_vqvae.ipynb (executed), 02_vqvae.html (with code)
      -> build/report.md, figures/, report.html, report.pdf
"""

import difflib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import read_yaml_file

from hw2lib import ROOT
from hw2lib.report import document
from hw2lib.report.pages import ReportError
from hw2lib.training.runs import Run, runs_folder

__all__ = ["NOTEBOOKS", "ReportError", "build", "check_parameters", "execute", "publish", "restore"]

WEIGHTS = ("cyclegan", "vqvae", "pixelcnn")  # runs whose network is published
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def check_parameters(notebook: Path, parameters: dict) -> None:
    """Raise ReportError for a name that the notebook's parameters cell lacks; papermill only warns of it."""
    names = sorted(papermill.inspect_notebook(notebook))
    for name in parameters:
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {nearest[0]!r}? " if nearest else ""
            known = ", ".join(names) or "none"
            raise ReportError(f"{Path(notebook).name} has no parameter {name!r}; {hint}It has: {known}")


def preset_parameters(preset: str, notebook: Path) -> dict:
    """The parameters in presets/<preset>/<notebook's name>.yaml beside the notebook. Raises ReportError."""
    presets = notebook.parent / "presets"
    path = presets / preset / f"{notebook.stem}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(found.parent.name for found in presets.glob(f"*/{path.name}"))) or "none"
        raise ReportError(f"there is no preset {preset!r} for {notebook.name}; there are: {known}")
    try:
        parameters = read_yaml_file(str(path)) or {}
    except yaml.YAMLError as error:
        raise ReportError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(parameters, dict):
        raise ReportError(f"{path} must hold lines like `epochs: 40`")
    return parameters


def execute(notebook: Path, output: Path, parameters: dict) -> Path:
    """
    Run a notebook with these parameters in its own folder, printing what it prints; return `output`.

    The kernel is the Python that runs this function, and imports this checkout of hw2lib. Raises ReportError
    for an unknown parameter and for a cell that fails; the notebook up to that cell is then in `output`.
    """
    notebook, output = Path(notebook).resolve(), Path(output).resolve()
    check_parameters(notebook, parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _own_kernel():
            papermill.execute_notebook(
                notebook, output, parameters, kernel_name="python3", cwd=notebook.parent,
                progress_bar=False, coalesce_streams=True, stdout_file=sys.stdout, stderr_file=sys.stderr,
            )  # fmt: skip
    except PapermillExecutionError as error:
        reason = " ".join(f"{error.ename}: {error.evalue}".split())
        cells = document.numbered(nbformat.read(output, as_version=4), notebook.name)
        where = next((where for where, cell in cells if document.failed(cell)), notebook.name)
        raise ReportError(f"{where}: {reason} (see {output})") from error
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
    parameters: dict | None = None,
) -> Path:
    """
    Run the notebooks with a preset and write the report into `out`; return the path of its report.md.

    `data` replaces the data root, `parameters` any other parameter of the preset; what only some notebooks
    have goes to those. All names are checked before the first notebook runs. Raises ReportError; the
    documents of an earlier build then stay as they were.
    """
    notebooks = [Path(notebook).resolve() for notebook in (NOTEBOOKS if notebooks is None else notebooks)]
    if not notebooks:
        raise ReportError(f"there are no notebooks in {ROOT / 'notebooks'}")
    out = Path(out).resolve()
    changes = dict(parameters or {})
    if data is not None:
        changes["data_root"] = str(Path(data).expanduser().resolve())
    settings = _settings(notebooks, preset, changes)
    executed = [execute(path, out / "notebooks" / path.name, settings[path]) for path in notebooks]
    document.assemble(executed, out, preset)
    return out / "report.md"


def publish(build_folder: str | Path, root: Path = ROOT, runs: str | Path | None = None) -> None:
    """
    Make a build the published report: report.md, figures/, results/<run>/ and weights/ in the repository root.

    The runs are those that the notebooks named in their provenance. Figures and results no longer used are removed. Raises
    ReportError if the build or one of its runs is not there; nothing has then been changed.
    """
    build_folder = Path(build_folder)
    if not (build_folder / "report.md").is_file():
        raise ReportError(f"{build_folder} holds no report.md: build the report first")
    folders = [runs_folder(runs) / name for name in document.run_names(build_folder / "notebooks")]
    for folder in folders:
        if not (folder / "provenance.json").is_file():
            raise ReportError(f"{folder} is missing, which the report is about: set HW2_RUNS to where it lies")
    with tempfile.TemporaryDirectory(dir=root, prefix=".report-") as new:  # copied first: the move is quick
        copied = shutil.copytree(build_folder / "figures", Path(new) / "figures")
        shutil.copy(build_folder / "report.md", new)
        document.replace_figures(copied, root / "figures")
        os.replace(Path(new) / "report.md", root / "report.md")
    shutil.rmtree(root / "results", ignore_errors=True)
    for folder in folders:
        name = folder.name.rpartition("-")[0]
        for file in (*folder.glob("*.json"), *folder.glob("*.csv"), *folder.glob("translations/*")):
            kept = root / "results" / name / file.relative_to(folder)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, kept)
        if name in WEIGHTS:
            (root / "weights").mkdir(exist_ok=True)
            # A network that has a smaller form for use leaves it beside its weights.
            small = folder / "published.safetensors"
            kept = small if small.is_file() else folder / "weights.safetensors"
            shutil.copy(kept, root / "weights" / f"{name}.safetensors")


def restore(root: Path = ROOT, runs: str | Path | None = None) -> list[str]:
    """
    Undo `publish`: make run folders of the published results and weights; return a line on each.

    A report of the published preset is then built without training. Of runs whose network is not published only the
    numbers come back. Raises ReportError for weights that should be there and are not.
    """
    lines = []
    for config in sorted((root / "results").glob("*/config.json")):
        name = config.parent.name
        published = root / "weights" / f"{name}.safetensors"
        if name in WEIGHTS and not published.is_file():
            raise ReportError(f"{published} is missing: get the whole repository")
        run = Run(name, json.loads(config.read_text()), runs)
        if run.folder.exists():
            lines.append(f"{run.folder} is there already; delete it to restore it")
            continue
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=run.folder.parent, prefix=f".{name}-") as new:  # there whole or not at all
            copied = shutil.copytree(config.parent, Path(new) / name)
            if published.is_file():
                shutil.copy(published, copied / run.weights.name)
            copied.rename(run.folder)
        lines.append(f"{run.folder} restored")
    return lines


def _settings(notebooks: list[Path], preset: str, changes: dict) -> dict[Path, dict]:
    """Each notebook's parameters: those of the preset, with the changes it knows. Raises ReportError."""
    settings, unused = {}, dict(changes)
    for notebook in notebooks:
        document.check_source(notebook)
        settings[notebook] = preset_parameters(preset, notebook)
        check_parameters(notebook, settings[notebook])
        known = papermill.inspect_notebook(notebook).keys() & changes.keys()
        settings[notebook] |= {name: changes[name] for name in known}
        unused = {name: value for name, value in unused.items() if name not in known}
    if unused:
        check_parameters(notebooks[0], unused)
    return settings


@contextmanager
def _own_kernel() -> Iterator[None]:
    """
    In this block the kernel `python3` is this interpreter, even in a virtual environment that was not
    activated or when the user has another kernel of that name. In it, training prints one line an epoch.
    """
    quiet = "--IPKernelApp.log_level=CRITICAL"  # it warns of TCP at each start, of an interrupt at each end
    specification = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", quiet],
        "display_name": "Python 3",
        "language": "python",
        "env": {"HW2_PROGRESS": "lines", "PYTHONPATH": _with_first(ROOT, "PYTHONPATH")},
    }
    before = os.environ.get("JUPYTER_PATH")
    with tempfile.TemporaryDirectory() as folder:
        kernel = Path(folder) / "kernels" / "python3" / "kernel.json"
        kernel.parent.mkdir(parents=True)
        kernel.write_text(json.dumps(specification), encoding="utf-8")
        os.environ["JUPYTER_PATH"] = _with_first(folder, "JUPYTER_PATH")
        try:
            yield
        finally:
            os.environ.pop("JUPYTER_PATH")
            if before is not None:
                os.environ["JUPYTER_PATH"] = before


def _with_first(folder: str | Path, variable: str) -> str:
    """The value of a path variable with a folder before the others."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))
