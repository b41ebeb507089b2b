"""
What a notebook shows: figures, tables, sentences with measured numbers, and where they came from.

In Jupyter the reader sees the picture with its caption below, or the table. The same facts (name, caption,
alternative text) lie in the output's metadata, under the key `hw2lib`: from there `hw2lib.report.document` writes
the numbered report, so a notebook never counts its figures itself. To point at a figure, write `{fig:its-name}` in an
answer or a caption: the report turns it into "Figure 3", and in Jupyter it reads as the first words of that figure's caption.
Captions and alternative texts may hold {{ }}, as answers do (hw2lib.report.answers).
"""

import base64
import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from IPython import get_ipython
from IPython.display import display
from matplotlib import pyplot
from matplotlib.figure import Figure
from nbformat import NotebookNode
from nbformat.v4 import new_output

from hw2lib import ROOT
from hw2lib.report import ReportError, tables
from hw2lib.report.answers import render
from hw2lib.report.markdown import outside_code
from hw2lib.report.style import DOTS_PER_INCH, STYLE
from hw2lib.training.runs import Run

FIGURE_NAME = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")
FIGURE_REFERENCE = re.compile(r"\{fig:([^{}\s]+)\}")
# A cell that starts like a number and is no list, or is left out.
NUMBER = re.compile(r"(?!.*, )[-−+±<>≈]?\s?\d.*|[-–—]?")

# Of figures that were shown, the first words of the caption, by name.
_titles: dict[str, str] = {}
_elsewhere: tuple[list[NotebookNode], Mapping] | None = None


@contextmanager
def collected(names: Mapping) -> Iterator[list[NotebookNode]]:
    """In this block what is shown becomes outputs in a list, outside of Jupyter; captions are filled in from `names`."""
    global _elsewhere
    before, _elsewhere = _elsewhere, ([], names)
    try:
        yield _elsewhere[0]
    finally:
        _elsewhere = before


def figure(fig: Figure | Callable[[], Figure], name: str, caption: str, alt: str, of: Run | None = None) -> None:
    """
    Show a matplotlib figure, or what a function draws, with its caption, and close it.

    `name` becomes the file `figures/<name>.png` of the report: lower-case words joined by hyphens or
    underscores. `caption` (Markdown) says what to see; `alt` (plain text) says what is drawn, for those who cannot see it.
    Of a published run that was only loaded, the published picture is shown and the function not called.
    Raises ValueError for a bad name, and for a caption or an alt text that is empty or says the same, and ReportError
    if there is no such picture.
    """
    caption, alt = _words(caption), _words(alt, plain=True)
    if not FIGURE_NAME.fullmatch(name):
        raise ValueError(f"figure name {name!r}: use lower-case words joined by hyphens or underscores")
    if not caption or not alt or caption == alt:
        raise ValueError(f"figure {name!r} needs a caption and an alt text that differ")
    loaded = of is not None and of.is_published
    picture = _published(name) if loaded else png(fig() if callable(fig) else fig)
    note = {"figure": name, "caption": caption, "alt": alt}
    data = {"image/png": base64.b64encode(picture).decode(), "text/plain": caption}
    _display(data, {"hw2lib": note, "image/png": {"alt": alt}, "alt": alt})
    _titles[name] = first_words(caption)
    _markdown(f"**Figure.** {caption}", {"caption_of": name})


def table(rows: list[dict], caption: str = "") -> None:
    """
    Show rows as a Markdown table; the columns are the keys of the first row, the cells are text (Markdown).

    Columns of numbers are set to the right. Raises ValueError when there are no rows.
    """
    caption = _words(caption)
    if caption:
        _markdown(f"**Table.** {caption}", {"caption_of": "table"})
    _markdown(pipe_table(rows), {"table": True, "caption": caption})


def text(markdown: str) -> None:
    """Show a paragraph of Markdown."""
    _markdown(markdown, {"text": True})


def claim(section: str, says: str, verdict: str, why: str, more: str = "") -> None:
    """
    Show what the homework says in `section`, such as "1.1", beside a verdict, which begins with one of VERDICTS, and its reason.

    The report's summary lists all claims under links to their headings, with what decides (`why`) but without what there
    is to say `more`.
    """
    says, verdict, why, more = map(_one_line, (says, verdict, why, more))
    because = f":** {why}" if why else ".**"
    verdict_in_words = f"{verdict[0].upper()}{verdict[1:]}{because}{f'; {more}' if more else ''}"
    words = f"> **Homework, {section}:** {says} **{verdict_in_words}"
    _markdown(words, {"claim": {"section": section, "says": says, "verdict": verdict, "why": why}})


def result(markdown: str, part: str = "in_short") -> None:
    """Show a finding for the report's summary, or `words` that its claims use; in the report it stands only there."""
    _markdown(f"**In short:** {_one_line(markdown)}", {part: _one_line(markdown)})


def provenance(run: Run) -> None:
    """Show where a run's numbers came from (commit, versions, device, seed, ...); the report ends with it."""
    facts = tables.provenance(run)
    note = {"provenance": facts, "run": {"name": run.name, "folder": run.folder_name, "published": run.is_published}}
    _markdown(pipe_table([{"fact": key, "value": value} for key, value in facts.items()]), note)


def pipe_table(rows: list[dict]) -> str:
    """The rows as a Markdown table, with pipes escaped and columns of numbers set to the right."""
    if not rows:
        raise ValueError("a table needs at least one row")
    columns = {key: [_one_line(str(row.get(key, ""))) for row in rows] for key in rows[0]}
    rules = ["---:" if all(map(NUMBER.fullmatch, cells)) else ":---" for cells in columns.values()]
    lines = [map(str, columns), rules, *zip(*columns.values(), strict=True)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _published(name: str) -> bytes:
    path = ROOT / "figures" / f"{name}.png"
    if not path.is_file():
        raise ReportError(f"{path} is missing, which was published with the run: get the whole repository")
    return path.read_bytes()


def png(fig: Figure) -> bytes:
    """The figure as a PNG file; it is closed. Without the Software tag the same figure gives the same file, so git shows real
    changes only."""
    picture = io.BytesIO()
    # Ticks are made when a figure is saved, and look as the settings are then.
    with pyplot.rc_context(STYLE):
        fig.savefig(picture, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(fig)
    return picture.getvalue()


def _words(text: str, plain: bool = False) -> str:
    """A caption in one line, with what is measured filled in from the notebook's names."""
    names = _elsewhere[1] if _elsewhere else getattr(get_ipython(), "user_ns", None)
    return _one_line(text if names is None else render(text, names, plain))


def _one_line(words: str) -> str:
    """The words with single spaces, no line breaks: Markdown would end a caption or a cell there."""
    return " ".join(words.split())


def first_words(caption: str) -> str:
    """As many of a caption's first words as tell it from others: 25 characters, and on to where a clause ends."""
    plain = re.sub(r" \([^()]*\)|,[^,.:;]*\{fig:[^{}]*\}", "", caption)
    return re.match(r".{25,}?(?=[.,:;](?: |$))|.*", plain)[0].removesuffix(" and").rstrip(".")


def _markdown(markdown: str, note: dict) -> None:
    """Show Markdown in the notebook, with a note for the report, which gives the figures that it refers to their numbers."""
    named = outside_code(markdown, lambda prose: FIGURE_REFERENCE.sub(_in_words, prose))
    note = note | ({"markdown": markdown} if named != markdown else {})
    _display({"text/markdown": named, "text/plain": named}, {"hw2lib": note})


def _in_words(reference: re.Match) -> str:
    return f"the figure “{_titles.get(reference[1], reference[1].replace('-', ' '))}”"


def _display(data: dict, metadata: dict) -> None:
    if _elsewhere:
        _elsewhere[0].append(new_output("display_data", data, metadata=metadata))
    else:
        display(data, metadata=metadata, raw=True)
