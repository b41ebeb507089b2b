"""
From executed notebooks to one document: Markdown for the repository, then HTML and PDF to read offline.

The Markdown comes from nbconvert, without code; figures and tables are numbered through the whole report by
the notes that `hw2lib.show` left in the outputs' metadata. `hw2lib.pages` makes the pages from that Markdown.
"""

import base64
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from nbconvert.filters import strip_ansi
from nbformat import NotebookNode
from traitlets.config import Config

from hw2lib import pages, show
from hw2lib.pages import ReportError

TITLE = "CycleGAN and VQ-VAE: a measured reproduction"

ERROR_TAG = "papermill-error-cell-tag"
NEVER_SHOWN = {"remove-cell"}  # tags of cells; widgets for exploring, say
NOT_IN_REPORT = NEVER_SHOWN | {"parameters", "injected-parameters"}
WIDGET = "application/vnd.jupyter.widget-view+json"

# GitHub refuses \operatorname; \mathbbm and \mathds are not known everywhere; Typst loses \tag and \color,
# and prints the symbols beside \! and \; on top of each other
BROKEN_MATHS = re.compile(r"\\(?:operatorname|mathbbm|mathds|tag|color)(?![A-Za-z])|\\[!;]")
CODE_BLOCK = re.compile(r"(^`{3,}.*?^`{3,}[ \t]*$|^~{3,}.*?^~{3,}[ \t]*$)", re.DOTALL | re.MULTILINE)
CODE_SPAN = re.compile(r"(`[^`\n]+`)")
HEADING = re.compile(r"^(?=#{1,5} )", re.MULTILINE)
ANY_HEADING = re.compile(r"^#+ +(\S.*?)[ \t]*$", re.MULTILINE)
TITLE_LINE = re.compile(r"^# +(\S.*)$", re.MULTILINE)
DISPLAY_MATHS = re.compile(r"^([ \t]*)\$\$(.+?)\$\$[ \t]*$", re.DOTALL | re.MULTILINE)
INLINE_MATHS = re.compile(r"(?<![\\$])\$(?=[^\s$`])((?:[^$\n]|\n(?!\n))+?)(?<=\S)\$(?![\d$])")
MARKDOWN_IN_MATHS = re.compile(r"\\[^\w\s]|\*|\W_")  # \, loses its backslash, }_{ ... }_{ becomes emphasis
FIGURE_REFERENCE = re.compile(r"\{fig:([^{}\s]+)\}")


def check_source(path: Path) -> None:
    """Raise ReportError for a notebook without one title, or with maths that does not show everywhere."""
    notebook = nbformat.read(path, as_version=4)
    notebook_title(notebook, path.name)
    for where, cell in numbered(notebook, path.name):
        if cell.cell_type == "markdown":
            check_maths(cell.source, where)


def check_maths(markdown: str, where: str) -> None:
    """Raise ReportError for a macro that breaks on GitHub, in HTML or in PDF; code is not looked at."""
    if broken := BROKEN_MATHS.search(CODE_SPAN.sub("", CODE_BLOCK.sub("", markdown))):
        cure = r"use \mathrm{...}, \mathbf{1} and \, instead"
        raise ReportError(f"{where}: {broken[0]} does not show on GitHub, in HTML and in PDF alike; {cure}")


def check_executed(notebook: NotebookNode, name: str) -> None:
    """Raise ReportError unless every cell ran without an error: papermill leaves half-run notebooks."""
    for where, cell in numbered(notebook, name):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if failed(cell):
            raise ReportError(f"{where} ended with an error: run the notebook again")
        if cell.execution_count is None:
            raise ReportError(f"{where} was not run: run the whole notebook again")
    banner = any(ERROR_TAG in _tags(cell) for cell in notebook.cells)
    if banner or notebook.metadata.get("papermill", {}).get("exception"):
        raise ReportError(f"{name} stopped with an error when it ran: run it again")


def failed(cell: NotebookNode) -> bool:
    """Whether the cell ended with an error."""
    return any(output.output_type == "error" for output in cell.get("outputs", []))


def numbered(notebook: NotebookNode, name: str) -> Iterator[tuple[str, NotebookNode]]:
    """The cells, each with its place in words; counted as in the source, without what papermill put in."""
    cells = (cell for cell in notebook.cells if not _tags(cell) & {"injected-parameters", ERROR_TAG})
    for number, cell in enumerate(cells, start=1):
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
    note = f"*Generated by `python -m hw2lib report --preset {preset}`; its numbers are read from that run.*"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".report-") as folder:
        new = Path(folder)
        write_figures(notebooks, new / "figures")
        for name, notebook in notebooks.items():
            code_page = to_markdown(notebook, name, figures, with_code=True)
            page = pages.tree(
                code_page, notebook_title(notebook, name), f"The notebook {name}, with its code"
            )
            pages.write_html(page, new / _page(name))
        parts = [to_markdown(notebook, name, figures) for name, notebook in notebooks.items()]
        body = protect_maths("\n\n".join(parts + provenance_section(notebooks)))
        summary = protect_maths("\n\n".join(summary_section(notebooks, figures)))
        contents = f"## Contents\n\n{pages.contents(body)}"
        report = "\n\n".join(filter(None, [f"# {TITLE}", note, summary, contents, body])) + "\n"
        (new / "report.md").write_text(report, encoding="utf-8")
        document = pages.tree(f"{summary}\n\n{body}", TITLE, note)
        pages.write_html(document, new / "report.html")
        pages.write_pdf(document, new / "report.pdf")
        for path in executed:
            os.replace(new / _page(path.name), path.with_name(_page(path.name)))
        replace_figures(new / "figures", out / "figures")
        for name in ("report.md", "report.html", "report.pdf"):
            os.replace(new / name, out / name)


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
    for where, output in _shown(notebooks):
        note = _note(output)
        if name := note.get("figure"):
            if name in figures:
                raise ReportError(f"{where}: the figure name {name!r} is used twice in the report")
            figures[name] = note["number"] = len(figures) + 1
        elif any(kind.startswith("image/") for kind in output.data):
            raise ReportError(f"{where}: a picture without name, caption and alt text; use show.figure")
        elif note.get("table") and note["caption"]:
            note["number"] = tables = tables + 1
    return figures


def write_figures(notebooks: dict[str, NotebookNode], folder: Path) -> None:
    """Write each shown figure as <name>.png."""
    folder.mkdir()
    for _, output in _shown(notebooks):
        if name := _note(output).get("figure"):
            (folder / f"{name}.png").write_bytes(base64.b64decode(output.data["image/png"]))


def to_markdown(notebook: NotebookNode, name: str, figures: dict[str, int], with_code: bool = False) -> str:
    """
    One notebook as Markdown whose headings begin at the second level.

    As a part of the report its title becomes "Part n" (the number its file name begins with), and code,
    parameters and progress are hidden. With code it is a page of its own, without its title.
    """
    notebook = deepcopy(notebook)
    number = re.match(r"\d+", name)
    part = f"Part {int(number[0])}. " if number else ""
    title = "" if with_code else rf"# {part}\1"
    for where, cell in numbered(notebook, name):
        if cell.cell_type == "markdown":
            text = _outside(CODE_BLOCK, cell.source, lambda prose: TITLE_LINE.sub(title, prose))
            cell.source = _prose(text, where, figures, shift=not with_code)
        elif cell.cell_type == "code":
            shown = [_output(output, cell, where, figures, with_code) for output in cell.outputs]
            cell.outputs = [
                nbformat.v4.new_output("display_data", {"text/markdown": markdown})
                for markdown in shown
                if markdown and not _tags(cell) & NOT_IN_REPORT
            ]
    config = Config()
    config.MarkdownExporter.exclude_input = not with_code
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_cell_tags = NEVER_SHOWN if with_code else NOT_IN_REPORT
    markdown, _ = MarkdownExporter(config=config).from_notebook_node(notebook)
    return re.sub(r"\n{3,}", "\n\n", markdown).strip()


def protect_maths(markdown: str) -> str:
    """
    Write formulas that GitHub's Markdown would damage in its own form, $`...`$ or a block marked `math`.

    The others stay between dollar signs, which more programs show.
    """

    def display(found: re.Match) -> str:
        indent, formula = found[1], found[2].strip()
        return f"{indent}```math\n{indent}{formula}\n{indent}```" if damaged(formula) else found[0]

    def inline(found: re.Match) -> str:
        return f"$`{found[1]}`$" if damaged(found[1]) else found[0]

    damaged = MARKDOWN_IN_MATHS.search
    markdown = _outside(CODE_BLOCK, markdown, lambda prose: DISPLAY_MATHS.sub(display, prose))
    return _outside_code(markdown, lambda prose: INLINE_MATHS.sub(inline, prose))


def summary_section(notebooks: dict[str, NotebookNode], figures: dict[str, int]) -> list[str]:
    """
    The heading "In short", every `show.result`, and a table of every `show.claim` with a link to its heading.

    Nothing if there are none. Raises ReportError for a claim under no heading, or under one that is not the only
    one of its name, which a link could not tell apart.
    """
    results, claims, names = [], [], []
    for name, notebook in notebooks.items():
        heading = ""
        for where, cell in numbered(notebook, name):
            if cell.cell_type == "markdown":
                found = ANY_HEADING.findall(CODE_BLOCK.sub("", cell.source))
                names += found
                heading = found[-1] if found else heading
            for output in (found for found in cell.get("outputs", []) if "data" in found):
                note = _note(output)
                if words := note.get("result"):
                    results.append(f"- {_prose(words, where, figures, shift=False)}")
                if words := note.get("claim"):
                    if not heading:
                        raise ReportError(f"{where}: a claim needs a heading above it")
                    claims.append((heading, words))
    rows = []
    for heading, words in claims:
        if names.count(heading) > 1:
            raise ReportError(f"the heading {heading!r} stands there twice, and a claim under it: rename one")
        link = f"[{heading}](#{anchor(heading)})"
        columns = {"": words["section"], "the homework says": words["says"], "verdict": words["verdict"]}
        rows.append(columns | {"evidence": link})
    parts = ["\n".join(results), show.pipe_table(rows) if rows else ""]
    return ["## In short", *filter(None, parts)] if any(parts) else []


def anchor(heading: str) -> str:
    """What GitHub and pandoc call the heading in a link, if it has no maths and is the only one of its name."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def provenance_section(notebooks: dict[str, NotebookNode]) -> list[str]:
    """
    The heading "Provenance" and a table with a row for each `show.provenance`, or nothing if there was none.

    What is the same for all runs is said once, below.
    """
    facts = [_note(output)["provenance"] for _, output in _shown(notebooks) if "provenance" in _note(output)]
    if not facts:
        return []
    names = list(dict.fromkeys(name for found in facts for name in found))
    names.sort(key=lambda name: name != "run")  # JSON sorts by name
    same = [name for name in names if len(facts) > 1 and len({found.get(name) for found in facts}) == 1]
    rows = [{name: found.get(name, "") for name in names if name not in same} for found in facts]
    common = "; ".join(f"{name}: {facts[0][name]}" for name in same)
    number = 1 + sum(
        "number" in _note(output) for _, output in _shown(notebooks) if _note(output).get("table")
    )
    table = f"**Table {number}.** The runs behind this report.\n\n{show.pipe_table(rows)}"
    return ["## Provenance", table, *([f"The same for all: {common}."] if same else [])]


def run_names(folder: Path) -> list[str]:
    """The run folders that the executed notebooks in a folder named in their provenance."""
    notebooks = {path.name: nbformat.read(path, as_version=4) for path in sorted(folder.glob("*.ipynb"))}
    facts = [_note(output).get("provenance", {}) for _, output in _shown(notebooks)]
    return [found["run"] for found in facts if "run" in found]


def _output(
    output: NotebookNode, cell: NotebookNode, where: str, figures: dict[str, int], with_code: bool
) -> str:
    """One output of a cell as Markdown; empty when it is not shown."""
    if output.output_type == "stream":
        noise = output.name == "stderr" or "progress" in _tags(cell)
        return "" if noise and not with_code else _fenced(output.text)
    note = _note(output)
    elsewhere = ("provenance" in note or "result" in note) and not with_code  # in the report
    if "caption_of" in note or WIDGET in output.data or elsewhere:
        return ""
    if "figure" in note:
        alt = re.sub(r"([\\\[\]`*_$<&:])", r"\\\1", note["alt"])
        text = f"![{alt}](figures/{note['figure']}.png)\n\n**Figure {note['number']}.** {note['caption']}"
    elif "text/markdown" in output.data:
        text = output.data["text/markdown"]
        if "table" in note and "number" in note:
            text = f"**Table {note['number']}.** {note['caption']}\n\n{text}"
    elif "text/latex" in output.data:
        text = output.data["text/latex"]
    else:
        return _fenced(output.data.get("text/plain", ""))
    return _prose(text, where, figures, shift=not with_code)


def _prose(markdown: str, where: str, figures: dict[str, int], shift: bool) -> str:
    """Markdown that was checked, with references resolved and, on demand, headings one level deeper."""
    check_maths(markdown, where)

    def reference(found: re.Match) -> str:
        if found[1] not in figures:
            known = ", ".join(figures) or "none"
            raise ReportError(
                f"{where} refers to figure {found[1]!r}, which is not shown; there are: {known}"
            )
        return f"Figure {figures[found[1]]}"

    text = _outside_code(markdown, lambda prose: FIGURE_REFERENCE.sub(reference, prose))
    return _outside(CODE_BLOCK, text, lambda prose: HEADING.sub("#", prose)) if shift else text


def _outside(code: re.Pattern, markdown: str, change: Callable[[str], str]) -> str:
    """Apply a change to Markdown, but not to the code that the pattern finds."""
    pieces = code.split(markdown)  # prose and code in turn
    return "".join(piece if index % 2 else change(piece) for index, piece in enumerate(pieces))


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Apply a change to Markdown, but not to code blocks and code spans."""
    return _outside(CODE_BLOCK, markdown, lambda text: _outside(CODE_SPAN, text, change))


def _fenced(text: str) -> str:
    """Printed text as a code block: without colours, and only the last state of a line that was rewritten."""
    lines = strip_ansi(text).strip("\n").split("\n")
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines]
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n" + "\n".join(lines) + f"\n{fence}" if any(lines) else ""


def _shown(notebooks: dict[str, NotebookNode]) -> Iterator[tuple[str, NotebookNode]]:
    """The displayed outputs of all cells that the report shows, in order, each with its place in words."""
    for name, notebook in notebooks.items():
        for where, cell in numbered(notebook, name):
            if cell.cell_type == "code" and not _tags(cell) & NOT_IN_REPORT:
                yield from ((where, output) for output in cell.outputs if "data" in output)


def _page(name: str) -> str:
    """The file name of a notebook's page."""
    return Path(name).with_suffix(".html").name


def _tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def _note(output: NotebookNode) -> dict:
    """What `hw2lib.show` noted about an output; a change to it stays with the output."""
    return output.metadata.get("hw2lib", {})
