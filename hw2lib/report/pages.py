"""
From Markdown to pages that need no network: HTML with MathML and no script, and PDF by Typst.

Both go through pandoc's document tree, where a picture and the caption below it become one figure. pandoc and
Typst come as Python wheels, so there is no browser and no LaTeX to install.
"""

import json
import os
import re
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from hw2lib.report import ReportError, show
from hw2lib.report.style import fonts_for

LANGUAGE = "en-GB"
HTML_STYLE = Path(__file__).with_name("report_style.css")
TYPST_TEMPLATE = Path(__file__).with_name("report_template.typ")
CSS_DOTS_PER_INCH = 96
# GitHub's; a rule (---) at the top is not a metadata block, and < no tag.
MARKDOWN = "gfm-yaml_metadata_block-raw_html"
# Characters in a cell that make it a sentence.
LONG = 60
CAPTION = re.compile(r"(Figure|Table) \d+\.")

MATHML = "http://www.w3.org/1998/Math/MathML"
# pandoc puts this invisible operator after log, min, ...
APPLY_FUNCTION = "\u2061"
THIN_SPACE = "0.167em"
SCRIPTS = ("msub", "msup", "msubsup", "munder", "mover", "munderover")


def contents(markdown: str) -> str:
    """The table of contents, heading levels two to four: a list whose links work on GitHub."""
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder) / "contents.md"
        template.write_text("$table-of-contents$", encoding="utf-8")
        to = ["-t", "gfm", "--wrap=none", f"--template={template}", "--toc", "--toc-depth=4"]
        return _pandoc(markdown, "-f", MARKDOWN, *to).strip()


def tree(markdown: str, title: str, subtitle: str = "") -> dict:
    """The pandoc tree of a document whose headings begin at the second level: the title is the first."""
    document = json.loads(_pandoc(markdown, "-f", MARKDOWN, "-t", "json"))
    document["blocks"] = _join_captions(document["blocks"])
    document["meta"] = {"title": _inlines(title), "lang": {"t": "MetaString", "c": LANGUAGE}}
    if subtitle:
        document["meta"]["subtitle"] = _inlines(subtitle)
    return document


def write_html(document: dict, path: Path) -> None:
    """Write one HTML file with pictures and style inside; pictures are looked for from the file's folder."""
    blocks = [_html_block(block, path.parent) for block in document["blocks"]]
    source = json.dumps(document | {"blocks": blocks})
    style = ["--embed-resources", f"--css={HTML_STYLE}", "--toc", "--toc-depth=4"]
    to = ["-t", "html5", "--standalone", "--mathml", *style]
    page = _pandoc(source, "-f", "json", *to, folder=path.parent)
    page = re.sub(r"<math\b.*?</math>", lambda maths: _space_operators(maths[0]), page, flags=re.DOTALL)
    path.write_text(page, encoding="utf-8")


def write_pdf(document: dict, path: Path) -> None:
    """Write a tagged PDF on A4; pictures are looked for from the file's folder."""
    import typst

    own = {"Figure": _typst_figure, "Table": _typst_table}
    blocks = [own.get(block["t"], lambda block: block)(block) for block in document["blocks"]]
    to = ["-t", "typst", "--standalone", f"--template={TYPST_TEMPLATE}", "--shift-heading-level-by=-1"]
    source = _pandoc(json.dumps(document | {"blocks": blocks}), "-f", "json", *to)
    source_file = path.with_suffix(".typ")
    source_file.write_text(source, encoding="utf-8")
    try:
        # The fonts inside the wheel only, where they do: the pages look the same on every machine.
        typst.compile(source_file, output=path, root=path.parent, ignore_system_fonts=len(fonts_for(source)) == 1)
    except typst.TypstError as error:
        raise ReportError(f"Typst cannot set {path.stem}: {str(error).splitlines()[0]}") from error
    source_file.unlink()


def _pandoc(text: str, *arguments: str, folder: Path | None = None) -> str:
    """Run pandoc on a text. Raises ReportError, for a warning too: a formula or picture it cannot show."""
    import pypandoc

    command = [pypandoc.get_pandoc_path(), "--fail-if-warnings", *arguments]
    # In the locale C it cannot open a file whose path has other letters than ASCII.
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    result = subprocess.run(command, input=text.encode(), capture_output=True, cwd=folder, env=environment)
    if result.returncode != 0:
        reason = " ".join(result.stderr.decode(errors="replace").split())
        raise ReportError(f"pandoc cannot convert the report: {reason}")
    return result.stdout.decode()


def _inlines(markdown: str) -> dict:
    """One line of Markdown as metadata of a document."""
    paragraph = json.loads(_pandoc(markdown, "-f", MARKDOWN, "-t", "json"))["blocks"][0]
    return {"t": "MetaInlines", "c": paragraph["c"]}


def _join_captions(blocks: list[dict]) -> list[dict]:
    """Make a figure of each picture with "Figure n." below it, and give a table the "Table n." above it."""
    joined = []
    for block in blocks:
        before = joined[-1] if joined else {"t": ""}
        caption = [None, [{"t": "Plain", "c": block["c"]}]] if block["t"] == "Para" else None
        if caption and _kind(block) == "Figure" and _is_picture(before):
            joined[-1] = {"t": "Figure", "c": [["", [], []], caption, [before | {"t": "Plain"}]]}
        elif block["t"] == "Table" and _kind(before) == "Table":
            block["c"][1] = [None, [before | {"t": "Plain"}]]
            joined[-1] = block
        else:
            joined.append(block)
    return joined


def _kind(block: dict) -> str:
    """What a paragraph is the caption of: it begins with a bold "Figure n." or "Table n."."""
    if block["t"] != "Para" or block["c"][0]["t"] != "Strong":
        return ""
    found = CAPTION.fullmatch(_words(block["c"][0]["c"]))
    return found[1] if found else ""


def _words(inlines: list[dict]) -> str:
    """The inlines as plain text, without their markup."""
    return "".join(inline["c"] if inline["t"] == "Str" else " " for inline in inlines)


def _is_picture(block: dict) -> bool:
    return block["t"] == "Para" and [inline["t"] for inline in block["c"]] == ["Image"]


def _html_block(block: dict, folder: Path) -> dict:
    """The block, ready for a page: a wide table scrolls in a box, a picture has the size it was made in."""
    if block["t"] == "Table":
        # The index lets it be scrolled by keyboard.
        box = ["", ["wide"], [["tabindex", "0"]]]
        return {"t": "Div", "c": [box, [block]]}
    if block["t"] == "Figure":
        block = deepcopy(block)
        _, _, [source, _] = image = block["c"][2][0]["c"][0]["c"]
        # The width in a PNG's header.
        pixels = int.from_bytes((folder / source).read_bytes()[16:20])
        image[0][2].append(["width", f"{pixels * CSS_DOTS_PER_INCH // show.DOTS_PER_INCH}"])
    return block


def _typst_figure(figure: dict) -> dict:
    """The figure with its picture written as Typst: pandoc 3.9 drops the alternative text there."""
    attributes, caption, [picture] = figure["c"]
    _, alt, [source, _] = picture["c"][0]["c"]
    call = f"#picture({_typst_string(source)}, alt: {_typst_string(_words(alt))})"
    picture = {"t": "Plain", "c": [{"t": "RawInline", "c": ["typst", call]}]}
    return {"t": "Figure", "c": [attributes, caption, [picture]]}


def _typst_table(table: dict) -> dict:
    """The table; the summary's, which has sentences and no caption, with columns as wide as what they hold.

    Typst gives the short ones too much there.
    """
    attributes, caption, columns, head, bodies, foot = table["c"]
    rows = [row for _, *_, part in (head, *bodies) for _, row in part]
    texts = [[" ".join(_strings(cell)) for cell in column] for column in zip(*rows, strict=True)]
    if caption[1] or max(len(text) for cells in texts for text in cells) <= LONG:
        return table
    words = [max(map(len, " ".join(cells).split()), default=1) for cells in texts]
    # With room for the gap between columns.
    needs = [
        max(4 + 1.4 * least, min(LONG, 1.5 * fmean(map(len, cells)))) for least, cells in zip(words, texts, strict=True)
    ]
    shares = [{"t": "ColWidth", "c": need / sum(needs)} for need in needs]
    columns = [[alignment, share] for (alignment, _), share in zip(columns, shares, strict=True)]
    return {"t": "Table", "c": [attributes, caption, columns, head, bodies, foot]}


def _strings(element) -> Iterator[str]:
    """All words in a part of a document."""
    if isinstance(element, dict):
        yield from [element["c"]] if element["t"] == "Str" else _strings(element.get("c", []))
    elif isinstance(element, list):
        for part in element:
            yield from _strings(part)


def _typst_string(words: str) -> str:
    return '"' + words.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _space_operators(maths: str) -> str:
    """Set thin spaces around log, min, ... as TeX does: browsers give none, and "log D" would read "logD"."""
    ElementTree.register_namespace("", MATHML)
    root = ElementTree.fromstring(maths)
    for row in [*root.iter(f"{{{MATHML}}}mrow"), *root.iter(f"{{{MATHML}}}mtd")]:
        items = [item for item in row if item.text != APPLY_FUNCTION]
        row[:] = items[:1]
        for left, right in pairwise(items):
            named = _is_operator(left) or _is_operator(right)
            if named and not _is_symbol(right) and (left.get("form") == "postfix" or not _is_symbol(left)):
                row.append(ElementTree.Element(f"{{{MATHML}}}mspace", width=THIN_SPACE))
            row.append(right)
    return ElementTree.tostring(root, encoding="unicode")


def _is_operator(item: ElementTree.Element) -> bool:
    """Whether the item is a named function (an identifier of several letters), with or without limits."""
    tag = _tag(item)
    parts = [part for part in item if part.text != APPLY_FUNCTION]
    if tag in SCRIPTS or (tag == "mrow" and len(parts) == 1):
        return _is_operator(parts[0])
    return tag == "mi" and len(item.text or "") > 1


def _is_symbol(item: ElementTree.Element) -> bool:
    """Whether the item begins with a bracket, a sign or a space, which bring their own distance."""
    tag = _tag(item)
    if (tag in SCRIPTS or tag == "mrow") and len(item):
        return _is_symbol(item[0])
    return tag in ("mo", "mspace")


def _tag(item: ElementTree.Element) -> str:
    return item.tag.removeprefix(f"{{{MATHML}}}")
