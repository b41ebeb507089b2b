"""Markdown as text: what is code in it and what is not, words that are none, formulas that show everywhere, links."""

import re
from collections.abc import Callable

from hw2lib import printable
from hw2lib.report import ReportError

# GitHub refuses \operatorname; \mathbbm and \mathds are not known everywhere; Typst loses \tag and \color,
# and prints the symbols beside \! and \; on top of each other
BROKEN_MATHS = re.compile(r"\\(?:operatorname|mathbbm|mathds|tag|color)(?![A-Za-z])|\\[!;]")
CODE_BLOCK = re.compile(r"(^`{3,}.*?^`{3,}[ \t]*$|^~{3,}.*?^~{3,}[ \t]*$)", re.DOTALL | re.MULTILINE)
CODE_SPAN = re.compile(r"(`[^`\n]+`)")
DISPLAY_MATHS = re.compile(r"^([ \t]*)\$\$(.+?)\$\$[ \t]*$", re.DOTALL | re.MULTILINE)
INLINE_MATHS = re.compile(r"(?<![\\$])\$(?=[^\s$`])((?:[^$\n]|\n(?!\n))+?)(?<=\S)\$(?![\d$])")
MARKDOWN_IN_MATHS = re.compile(r"\\[^\w\s]|\*|\W_")  # \, loses its backslash, }_{ ... }_{ becomes emphasis

# What begins something in Markdown. Formulas, tables and references are found by us, too, and not all by backslashes.
MARKUP = re.compile(r"([\\$|{}])|([\[\]`*_<&:~#@])")


class Markdown(str):
    """Text that is Markdown already."""


def escape(text: str) -> str:
    """Markdown that shows the text as it is, on one line: names of folders, files and classes may hold anything."""
    if isinstance(text, Markdown):
        return text
    return MARKUP.sub(lambda found: f"&#{ord(found[1])};" if found[1] else f"\\{found[2]}", printable(text))


def code(text: str) -> Markdown:
    """The text as a code span, or escaped where a code span could not hold it."""
    text = printable(text)
    return Markdown(escape(text) if re.search(r"[`|$]|\{fig:|^ | $|^$", text) else f"`{text}`")


def check_maths(markdown: str, where: str) -> None:
    """Raise ReportError for a macro that breaks on GitHub, in HTML or in PDF; code is not looked at."""
    if broken := BROKEN_MATHS.search(CODE_SPAN.sub("", CODE_BLOCK.sub("", markdown))):
        cure = r"use \mathrm{...}, \mathbf{1} and \, instead"
        raise ReportError(f"{where}: {broken[0]} does not show on GitHub, in HTML and in PDF alike; {cure}")


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
    markdown = outside(CODE_BLOCK, markdown, lambda prose: DISPLAY_MATHS.sub(display, prose))
    return outside_code(markdown, lambda prose: INLINE_MATHS.sub(inline, prose))


def anchor(heading: str) -> str:
    """What GitHub and pandoc call the heading in a link, if it has no maths and is the only one of its name."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def outside(code: re.Pattern, markdown: str, change: Callable[[str], str]) -> str:
    """Apply a change to Markdown, but not to the code that the pattern finds."""
    pieces = code.split(markdown)  # prose and code in turn
    return "".join(piece if index % 2 else change(piece) for index, piece in enumerate(pieces))


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Apply a change to Markdown, but not to code blocks and code spans."""
    return outside(CODE_BLOCK, markdown, lambda text: outside(CODE_SPAN, text, change))
