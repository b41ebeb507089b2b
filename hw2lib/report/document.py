"""
From executed notebooks to one document: Markdown for the repository, then HTML and PDF to read offline.

The Markdown is what the cells say and show, without code; figures and tables are numbered through the whole report by
the notes that `hw2lib.report.show` left in the outputs' metadata. `hw2lib.report.pages` makes the pages from that Markdown.
"""

import base64
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode

from hw2lib import files
from hw2lib.report import ReportError, pages, show, summary
from hw2lib.report.markdown import CODE_BLOCK, anchor, check_maths, escape, outside, outside_code, protect_maths

TITLE = "CycleGAN and VQ-VAE: a measured reproduction"
# The preset of the report in the repository.
PUBLISHED = "cpu"

# What the names of hidden folders begin with.
MAKING = ".hw2lib-report-"
ERROR_TAG = "papermill-error-cell-tag"
# Tags of cells that no page shows: what is there to explore, say.
NEVER_SHOWN = {"remove-cell", "play"}
NOT_IN_REPORT = NEVER_SHOWN | {"parameters", "injected-parameters"}
WIDGET = "application/vnd.jupyter.widget-view+json"

HEADING = re.compile(r"^(?=#{1,5} )", re.MULTILINE)
ANY_HEADING = re.compile(r"^#+ +(\S.*?)[ \t]*$", re.MULTILINE)
TITLE_LINE = re.compile(r"^# +(\S.*)$", re.MULTILINE)
CAPTION = re.compile(r"^\*\*((?:Figure|Table) \d+)\.\*\*", re.MULTILINE)
REFERENCE = re.compile(r"\[((?:Figure|Table) \d+)\]\(#[\w-]+\)")


def check_source(path: Path) -> None:
    """Raise ReportError for a notebook without one title, or with maths in its prose that does not show everywhere."""
    notebook = nbformat.read(path, as_version=4)
    notebook_title(notebook, path.name)
    for where, cell in numbered(notebook, path.name):
        if cell.cell_type == "markdown" or cell.source.startswith("%%"):
            check_maths(cell.source, where)


def check_executed(notebook: NotebookNode, name: str) -> None:
    """Raise ReportError unless every cell ran without an error: papermill leaves half-run notebooks."""
    for where, cell in numbered(notebook, name):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if failed(cell):
            raise ReportError(f"{where} ended with an error: run the notebook again")
        if cell.execution_count is None:
            raise ReportError(f"{where} was not run: run the whole notebook again")
    banner = any(ERROR_TAG in tags(cell) for cell in notebook.cells)
    if banner or notebook.metadata.get("papermill", {}).get("exception"):
        raise ReportError(f"{name} stopped with an error when it ran: run it again")


def failed(cell: NotebookNode) -> bool:
    """Whether the cell ended with an error."""
    return any(output.output_type == "error" for output in cell.get("outputs", []))


def numbered(notebook: NotebookNode, name: str) -> Iterator[tuple[str, NotebookNode]]:
    """The cells, each with its place in words; counted as in the source, without what papermill put in."""
    number = 0
    for cell in notebook.cells:
        number += not tags(cell) & {"injected-parameters", ERROR_TAG}
        yield f"{name}, cell {number}", cell


def notebook_title(notebook: NotebookNode, name: str) -> str:
    """The notebook's first-level heading. Raises ReportError if there is none, or more than one."""
    sources = [cell.source for _, cell in numbered(notebook, name) if cell.cell_type == "markdown"]
    titles = TITLE_LINE.findall(CODE_BLOCK.sub("", "\n\n".join(sources)))
    if len(titles) != 1:
        raise ReportError(f"{name} needs one first-level heading (# Title), and has {len(titles)}")
    return titles[0].strip()


def assemble(executed: list[Path], out: Path, preset: str) -> None:
    """
    Write the report of executed notebooks.

    Into `out` go report.md, report.html, report.pdf and figures/; beside each notebook its HTML with the
    code. All is made in a temporary folder and moved when it is whole. Raises ReportError for a notebook that
    did not run to its end, a figure without name and text, and maths or references that would not show.
    """
    notebooks = {path.name: nbformat.read(path, as_version=4) for path in executed}
    for name, notebook in notebooks.items():
        check_executed(notebook, name)
    figures = number_outputs(notebooks)
    report = write_up(notebooks, figures, preset)
    with files.writing(out, ReportError), making_in(out) as new:
        (new / "figures").mkdir()
        for name, picture in figures_in(notebooks).items():
            (new / "figures" / f"{name}.png").write_bytes(picture)
        for name, notebook in notebooks.items():
            code_page = to_markdown(notebook, name, figures, with_code=True)
            page = pages.tree(code_page, notebook_title(notebook, name), f"The notebook {name}, with its code")
            pages.write_html(page, new / _page(name))
        (new / "report.md").write_text(report, encoding="utf-8")
        document = tree(report)
        pages.write_html(document, new / "report.html")
        pages.write_pdf(document, new / "report.pdf")
        for path in executed:
            os.replace(new / _page(path.name), path.with_name(_page(path.name)))
        replace_figures(new / "figures", out / "figures")
        for name in ("report.md", "report.html", "report.pdf"):
            os.replace(new / name, out / name)


@contextmanager
def making_in(folder: Path) -> Iterator[Path]:
    """A hidden folder in one that is made if need be: what is made there is then moved, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=MAKING) as new:
        yield Path(new)


def clear(folder: Path) -> None:
    """Remove the hidden folders that are there when a process was killed in `making_in`."""
    for left in folder.glob(f"{MAKING}*"):
        shutil.rmtree(left, ignore_errors=True)


def write_up(notebooks: dict[str, NotebookNode], figures: dict[str, int], preset: str) -> str:
    """report.md of executed notebooks whose outputs are numbered."""

    def prose(markdown: str, where: str) -> str:
        return _prose(markdown, where, figures, shift=False)

    warning = "" if preset == PUBLISHED else " Its texts were written for the published run and need not fit this one."
    note = f"*Generated by `python -m hw2lib report --preset {preset}`; its numbers are read from the runs under Provenance.{warning}*"
    found = list(_shown(notebooks))
    headings = [heading for notebook in notebooks.values() for cell in notebook.cells for heading in _headings_in(cell)]
    hero = [prose(_picture(shown.note), shown.where) for shown in found if shown.note.get("figure") == summary.HERO]
    parts = [to_markdown(notebook, name, figures) for name, notebook in notebooks.items()]
    parts += summary.provenance([shown.note for shown in found])
    first = hero + summary.in_short(found, headings, prose)
    first, body = (protect_maths("\n\n".join(part)) for part in (first, parts))
    contents = f"<details>\n<summary>Contents</summary>\n\n{pages.contents(body)}\n\n</details>"
    text = "\n\n".join(filter(None, [f"# {TITLE}", note, contents, first, body])) + "\n"
    return CAPTION.sub(lambda found: f'<a id="{anchor(found[1])}"></a>{found[0]}', text)


def tree(report: str) -> dict:
    """The pandoc tree of report.md without what only GitHub needs: its contents, and the places that links lead to."""
    report = re.sub(r"^<details>.*?^</details>\n\n|^<a id=[^>]*></a>", "", report, flags=re.DOTALL | re.MULTILINE)
    title, note, body = report.split("\n\n", 2)
    date = summary.last_day(report)
    return pages.tree(body, title.removeprefix("# "), f"{note} Last run: {date}." if date else note, date)


def replace_figures(source: Path, target: Path) -> None:
    """Move the PNG files of one folder to another; those that lay there before and are used no longer go."""
    target.mkdir(parents=True, exist_ok=True)
    for stale in {path.name for path in target.glob("*.png")} - {path.name for path in source.iterdir()}:
        (target / stale).unlink()
    for path in source.iterdir():
        os.replace(path, target / path.name)


def number_outputs(notebooks: dict[str, NotebookNode]) -> dict[str, int]:
    """
    Number figures and captioned tables of all notebooks, in their outputs' notes; return figure -> number.

    Raises ReportError for a figure name used twice, and for a picture that was not shown by `show.figure`.
    """
    figures, tables = {}, 0
    hero_first = sorted(_shown(notebooks), key=lambda shown: shown.note.get("figure") != summary.HERO)
    for where, _, output, note in hero_first:
        if name := note.get("figure"):
            if name in figures:
                raise ReportError(f"{where}: the figure name {name!r} is used twice in the report")
            figures[name] = note["number"] = len(figures) + 1
        elif any(kind.startswith("image/") for kind in output.data):
            raise ReportError(f"{where}: a picture without name, caption and alt text; use show.figure")
        elif note.get("table") and note["caption"]:
            note["number"] = tables = tables + 1
    return figures


def figures_in(notebooks: dict[str, NotebookNode]) -> dict[str, bytes]:
    """Each shown figure, a PNG file, by its name."""
    return {
        shown.note["figure"]: base64.b64decode(shown.output.data["image/png"])
        for shown in _shown(notebooks)
        if shown.note.get("figure")
    }


def to_markdown(notebook: NotebookNode, name: str, figures: dict[str, int], with_code: bool = False) -> str:
    """
    One notebook as Markdown whose headings begin at the second level.

    As a part of the report its title becomes "Part n" (the number its file name begins with), and code,
    parameters and progress are hidden. With code it is a page of its own, without its title.
    """
    number = re.match(r"\d+", name)
    part = f"Part {int(number[0])}. " if number else ""
    title = "" if with_code else rf"# {part}\1"
    shown = []
    for where, cell in numbered(notebook, name):
        if tags(cell) & (NEVER_SHOWN if with_code else NOT_IN_REPORT):
            continue
        if cell.cell_type == "markdown":
            text = outside(CODE_BLOCK, cell.source, lambda prose: TITLE_LINE.sub(title, prose))
            shown.append(_prose(text, where, figures, shift=not with_code))
        elif cell.cell_type == "code":
            shown += [f"```python\n{cell.source}\n```"] if with_code else []
            shown += [_output(output, cell, where, figures, with_code) for output in cell.outputs]
    markdown = "\n\n".join(shown)
    if with_code:  # what another notebook shows is not on its page
        here = set(CAPTION.findall(markdown))
        markdown = REFERENCE.sub(lambda found: found[0] if found[1] in here else found[1], markdown)
    return re.sub(r"\n{3,}", "\n\n", markdown).strip()


def runs_of(folder: Path) -> list[dict]:
    """The runs that the executed notebooks in a folder showed the provenance of: {"name", "folder", "published"} each."""
    notebooks = {path.name: nbformat.read(path, as_version=4) for path in sorted(folder.glob("*.ipynb"))}
    return [shown.note["run"] for shown in _shown(notebooks) if "run" in shown.note]


def _output(output: NotebookNode, cell: NotebookNode, where: str, figures: dict[str, int], with_code: bool) -> str:
    """One output of a cell as Markdown; empty when it is not shown."""
    if output.output_type == "stream":
        noise = output.name == "stderr" or "progress" in tags(cell)
        return "" if noise and not with_code else _fenced(output.text)
    note = _note(output)
    elsewhere = note.keys() & {"provenance", "in_short", "words"} or note.get("figure") == summary.HERO  # in the report
    if "caption_of" in note or WIDGET in output.data or (elsewhere and not with_code):
        return ""
    if "figure" in note:
        text = _picture(note)
    elif "text/markdown" in output.data:
        text = note.get("markdown", output.data["text/markdown"])
        if "table" in note and "number" in note:
            text = f"**Table {note['number']}.** {note['caption']}\n\n{text}"
    elif "text/latex" in output.data:
        text = output.data["text/latex"]
    else:
        return _fenced(output.data.get("text/plain", ""))
    return _prose(text, where, figures, shift=not with_code)


def _picture(note: dict) -> str:
    return f"![{escape(note['alt'])}](figures/{note['figure']}.png)\n\n**Figure {note['number']}.** {note['caption']}"


def _prose(markdown: str, where: str, figures: dict[str, int], shift: bool) -> str:
    """Markdown that was checked, with references resolved and, on demand, headings one level deeper."""
    check_maths(markdown, where)

    def reference(found: re.Match) -> str:
        if found[1] not in figures:
            known = ", ".join(figures) or "none"
            raise ReportError(f"{where} refers to figure {found[1]!r}, which is not shown; there are: {known}")
        return f"[Figure {figures[found[1]]}](#figure-{figures[found[1]]})"

    text = outside_code(markdown, lambda prose: show.FIGURE_REFERENCE.sub(reference, prose))
    return outside(CODE_BLOCK, text, lambda prose: HEADING.sub("#", prose)) if shift else text


def _fenced(text: str) -> str:
    """Printed text as a code block: without colours, and only the last state of a line that was rewritten."""
    from nbconvert.filters import strip_ansi

    lines = strip_ansi(text).strip("\n").split("\n")
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines]
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n" + "\n".join(lines) + f"\n{fence}" if any(lines) else ""


class Shown(NamedTuple):
    """A displayed output."""

    where: str  # in words
    heading: str  # the nearest one above it, or ""
    output: NotebookNode
    note: dict  # what `show` noted about it; a change stays with the output


def _shown(notebooks: dict[str, NotebookNode]) -> Iterator[Shown]:
    """What the report shows of the outputs of all cells, in order."""
    for name, notebook in notebooks.items():
        heading = ""
        for where, cell in numbered(notebook, name):
            heading = (_headings_in(cell) or [heading])[-1]
            if cell.cell_type == "code" and not tags(cell) & NOT_IN_REPORT:
                for output in cell.outputs:
                    if "data" in output:
                        yield Shown(where, heading, output, _note(output))


def _headings_in(cell: NotebookNode) -> list[str]:
    return ANY_HEADING.findall(CODE_BLOCK.sub("", cell.source)) if cell.cell_type == "markdown" else []


def _page(name: str) -> str:
    """The file name of a notebook's page."""
    return Path(name).with_suffix(".html").name


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def _note(output: NotebookNode) -> dict:
    """What `hw2lib.report.show` noted about an output; a change to it stays with the output."""
    return output.metadata.get("hw2lib", {})
