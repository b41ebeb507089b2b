"""
A built report becomes the published one, and the published one a report that can be built again.

    publish: build/report.md, figures/ and the run folders that it names -> report.md, figures/, results/, weights/
    restore: results/ and weights/ -> run folders
    site: report.md, figures/ and the built notebooks -> build/site/, for a static host
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import nbformat

from hw2lib import ROOT, files
from hw2lib.report import ReportError, document, pages
from hw2lib.training.runs import Run, runs_folder

# Runs whose network is published.
WEIGHTS = ("cyclegan", "vqvae", "pixelcnn")
# The checksums of all that is published: `sha256sum -c results/SHA256SUMS` in the repository, or `python -m hw2lib check`.
SUMS = "results/SHA256SUMS"
WHOLE = "get the whole repository"


def publish(build_folder: str | Path, root: Path = ROOT, runs: str | Path | None = None) -> None:
    """
    Make a build the published report: report.md, figures/, results/<run>/ and weights/ in the repository root.

    The runs are those that the notebooks named in their provenance; of published ones that were only loaded the results
    stay. Figures and results no longer used are removed. Raises ReportError if the build or one of its runs is not
    whole; nothing has then been changed.
    """
    build_folder = Path(build_folder)
    _built(build_folder)
    named = document.runs_of(build_folder / "notebooks")
    made = [_run_in(runs_folder(runs) / run["folder"]) for run in named if not run["published"]]
    document.clear(root)
    with files.writing(root, ReportError):
        _replace(build_folder, named, made, root)


def _replace(build_folder: Path, named: list[dict], made: list[Run], root: Path) -> None:
    """Publish what is known to be there."""
    # Copied first: the move is quick.
    with document.making_in(root) as new:
        copied = shutil.copytree(build_folder / "figures", new / "figures")
        shutil.copy(build_folder / "report.md", new)
        document.replace_figures(copied, root / "figures")
        os.replace(new / "report.md", root / "report.md")
    results, stay = root / "results", {run["name"] for run in named if run["published"]}
    for folder in results.glob("*/"):
        if folder.name not in stay:
            shutil.rmtree(folder)
    for run in made:
        found = {file for pattern in ("*.json", "*.csv", "translations/*.webp") for file in run.folder.glob(pattern)}
        if run.name not in WEIGHTS:  # of such a CycleGAN the report shows the end
            found -= {*sorted(run.folder.glob("translations/epoch-*"))[:-1]}
        for file in found:
            kept = results / run.name / file.relative_to(run.folder)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, kept)
        if run.name in WEIGHTS:
            (root / "weights").mkdir(exist_ok=True)
            shutil.copy(run.kept_weights, root / "weights" / f"{run.name}.safetensors")
    results.mkdir(exist_ok=True)
    (root / SUMS).write_text(files.as_sums(sums(root)), encoding="utf-8")


def sums(root: Path = ROOT) -> dict[str, str]:
    """Published file, by its path in the repository, -> its sha256."""
    found = [
        root / "report.md",
        *(path for folder in ("figures", "results") for path in (root / folder).rglob("*")),
        *(root / "weights").glob("*.safetensors"),
    ]
    names = {path.relative_to(root).as_posix(): path for path in sorted(found) if path.is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in names.items() if name != SUMS}


def kept_sums(root: Path = ROOT) -> dict[str, str]:
    """As `sums`, as they were when the report was published. Raises ReportError."""
    _require(WHOLE, root / SUMS)
    return files.from_sums((root / SUMS).read_text(encoding="utf-8"))


def restore(root: Path = ROOT, runs: str | Path | None = None) -> list[str]:
    """
    Undo `publish`: make run folders of the published results and weights; return a line on each.

    A report of the published preset is then built without training. Of runs whose network is not published only
    numbers come back, and the last pictures of a CycleGAN. Raises ReportError for weights that should be there and are not.
    """
    lines = []
    document.clear(runs_folder(runs))
    for config in sorted((root / "results").glob("*/config.json")):
        name = config.parent.name
        published = root / "weights" / f"{name}.safetensors"
        if name in WEIGHTS:
            _require(WHOLE, published)
        run = Run(name, json.loads(config.read_text()), runs)
        if run.folder.exists():
            lines.append(f"{run.folder} is there already; delete it to restore it")
            continue
        # There whole or not at all.
        with files.writing(run.folder, ReportError), document.making_in(run.folder.parent) as new:
            copied = shutil.copytree(config.parent, new / name)
            if published.is_file():
                shutil.copy(published, copied / run.weights.name)
            copied.rename(run.folder)
        run.seal()
        lines.append(f"{run.folder} restored")
    return lines


def site(build_folder: str | Path, root: Path = ROOT) -> Path:
    """
    Make the folder `site` in that of a build: the published report, index.html and report.pdf, and the build's notebooks.

    No data sets are needed: where the build is not the published one but of the quick preset, say, the page says so.
    Raises ReportError, before any work, if the build or the published report is not whole.
    """
    _require(WHOLE, root / "report.md", root / "figures")
    build_folder, report = Path(build_folder), (root / "report.md").read_text(encoding="utf-8")
    built, target = _built(build_folder), build_folder / "site"
    notebooks = sorted((build_folder / "notebooks").glob("*.ipynb"))
    links = ", ".join(f"[{path.stem}]({path.stem}.html) ([executed]({path.name}))" for path in notebooks)
    command = re.search(r"`python -m hw2lib report .*?`", built)[0]
    ran = "" if built == report else f" as they ran for {command}, whose report is another"
    page, line = document.tree(report), pages.tree(f"[PDF](report.pdf). Notebooks{ran}: {links}.", document.TITLE)
    with files.writing(target, ReportError), document.making_in(build_folder) as hidden:
        new = hidden / "site"  # which others may read
        shutil.copytree(root / "figures", new / "figures")
        pages.write_pdf(page, new / "report.pdf")
        pages.write_html(page | {"blocks": line["blocks"] + page["blocks"]}, new / "index.html")
        for path in notebooks:
            shutil.copy(path, new)
            shutil.copy(path.with_suffix(".html"), new)
        shutil.rmtree(new / "figures")
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)
    return target


def _built(folder: Path) -> str:
    """The report.md of a build. Raises ReportError if that is not whole."""
    notebooks = sorted((folder / "notebooks").glob("*.ipynb")) or [folder / "notebooks" / "*.ipynb"]
    needed = (folder / "report.md", folder / "figures", *notebooks, *(path.with_suffix(".html") for path in notebooks))
    _require("build the report first, with python -m hw2lib report", *needed)
    for path in notebooks:  # a later build may have failed half-way
        document.check_executed(nbformat.read(path, as_version=4), path.name)
    return (folder / "report.md").read_text(encoding="utf-8")


def _run_in(folder: Path) -> Run:
    """The finished run in a folder, with its network if that is published. Raises ReportError if there is none."""
    if not (folder / "provenance.json").is_file():
        raise ReportError(f"{folder} is missing, which the report is about: set HW2_RUNS to where it lies")
    run = Run(folder.name.rpartition("-")[0], json.loads((folder / "config.json").read_text()), folder.parent)
    if not (run.finished if run.name in WEIGHTS else "ended" in run.provenance):
        raise ReportError(f"{folder} is no finished run: build the report again")
    return run


def _require(cure: str, *paths: Path) -> None:
    """Raise ReportError, ending in `cure`, for the first of the paths that is not there."""
    for path in paths:
        if not path.exists():
            raise ReportError(f"{path} is missing: {cure}")
