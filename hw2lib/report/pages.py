"""
From Markdown to pages that need no network: HTML with MathML, one file, and PDF by Typst.

Both go through pandoc's document tree, where a picture and the caption below it become one figure. What frames the text is in
report_page.html, report_style.css and report_template.typ. pandoc and Typst come as Python wheels, so there is no browser
and no LaTeX to install.
"""

import json
import os
import re
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
from copy import deepcopy
from itertools import chain, pairwise
from pathlib import Path

from hw2lib.report import ReportError, show
from hw2lib.report.answers import VERDICTS
from hw2lib.report.style import fonts_for

LANGUAGE = "en-GB"
HTML_STYLE = Path(__file__).with_name("report_style.css")
HTML_TEMPLATE = Path(__file__).with_name("report_page.html")
TYPST_TEMPLATE = Path(__file__).with_name("report_template.typ")
CSS_DOTS_PER_INCH = 96
# GitHub's; a rule (---) at the top is not a metadata block, and < no tag.
MARKDOWN = "gfm-yaml_metadata_block-raw_html"
CAPTION = re.compile(r"(Figure|Table) (\d+)\.")
# A picture that shows itself at its full size, and back, with no script: the box stands for what was clicked.
ZOOM = '<label class="zoom"><input type="checkbox" aria-label="Show the picture at its full size">'

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


def tree(markdown: str, title: str, subtitle: str = "", date: str = "") -> dict:
    """The pandoc tree of a document whose headings begin at the second level: the title is the first; `date` as 2026-01-31."""
    document = json.loads(_pandoc(markdown, "-f", MARKDOWN, "-t", "json"))
    document["blocks"] = _join_captions(document["blocks"])
    document["meta"] = {"title": _inlines(title), "lang": {"t": "MetaString", "c": LANGUAGE}}
    document["meta"] |= {"subtitle": _inlines(subtitle)} if subtitle else {}
    document["meta"] |= {"date": {"t": "MetaString", "c": date}} if date else {}
    return document


def write_html(document: dict, path: Path) -> None:
    """Write one HTML file with pictures and style inside; pictures are looked for from the file's folder."""
    blocks = [_html_block(block, path.parent) for block in document["blocks"]]
    source = json.dumps(document | {"blocks": blocks})
    style = [f"--template={HTML_TEMPLATE}", "--embed-resources", f"--css={HTML_STYLE}", "--toc", "--toc-depth=4"]
    to = ["-t", "html5", "--standalone", "--section-divs", "--mathml", *style]
    page = _pandoc(source, "-f", "json", *to, folder=path.parent)
    page = re.sub(r"<math\b.*?</math>", lambda maths: _space_operators(maths[0]), page, flags=re.DOTALL)
    path.write_text(page, encoding="utf-8")


def write_pdf(document: dict, path: Path) -> None:
    """Write a tagged PDF on A4; pictures are looked for from the file's folder."""
    import typst

    blocks = [_typst_figure(block) if block["t"] == "Figure" else block for block in document["blocks"]]
    # The contents come before the second part: what is in short comes first.
    parts = [place for place, block in enumerate(blocks) if block["t"] == "Header" and block["c"][0] == 2]
    blocks[parts[1] if parts[1:] else 0 : 0] = [{"t": "RawBlock", "c": ["typst", "#contents"]}]
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
        if _kind(block) == "Figure" and before["t"] == "Para" and [part["t"] for part in before["c"]] == ["Image"]:
            caption = [None, [block | {"t": "Plain"}]]
            # Its file's name is its class.
            attributes = [_number(block), [Path(before["c"][0]["c"][2][0]).stem], []]
            joined[-1] = {"t": "Figure", "c": [attributes, caption, [before | {"t": "Plain"}]]}
        elif block["t"] == "Table" and _kind(before) == "Table":
            block["c"][:2] = [[_number(before), [], []], [None, [before | {"t": "Plain"}]]]
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


def _number(caption: dict) -> str:
    """What links to the figure or table of a caption call it: figure-3."""
    return _words(caption["c"][0]["c"]).rstrip(".").lower().replace(" ", "-")


def _words(inlines: list[dict]) -> str:
    """The inlines as plain text, without their markup."""
    return "".join(inline["c"] if inline["t"] == "Str" else " " for inline in inlines)


def _html_block(block: dict, folder: Path) -> dict:
    """The block, ready for a page: a heading links to itself, a wide table scrolls in a box, a picture grows by a click."""
    block = deepcopy(block)
    if block["t"] == "Header":
        _, (name, *_), inlines = block["c"]
        block["c"][2] = [{"t": "Link", "c": [["", [], []], inlines, [f"#{name}", ""]]}]
    if block["t"] == "BulletList":
        lists = [part["c"] for item in block["c"] for part in item if part["t"] == "BulletList"]
        for claim in chain.from_iterable(lists):
            match claim:  # a claim begins with its verdict, whose kind becomes a class
                case [{"t": "Plain", "c": [{"t": "Strong", "c": words} as verdict, *_]}, *_]:
                    kinds = [kind.replace(" ", "-") for kind in VERDICTS if _words(words).lower().startswith(kind)]
                    claim[0]["c"][0] = {"t": "Span", "c": [["", kinds[:1], []], [verdict]]}
    if block["t"] == "Table":
        name = block["c"][0][0].replace("-", " ") or "table"
        box = ["", ["wide"], [["role", "group"], ["aria-label", name.capitalize()]]]
        return {"t": "Div", "c": [box, [block]]}
    if block["t"] == "Figure":
        [picture] = block["c"][2]
        _, _, [source, _] = image = picture["c"][0]["c"]
        # The width in a PNG's header: it is shown in the size that it was made in.
        pixels = int.from_bytes((folder / source).read_bytes()[16:20])
        image[0][2].append(["width", f"{pixels * CSS_DOTS_PER_INCH // show.DOTS_PER_INCH}"])
        before, after = ({"t": "RawInline", "c": ["html", text]} for text in (ZOOM, "</label>"))
        picture["c"] = [before, *picture["c"], after]
    return block


def _typst_figure(figure: dict) -> dict:
    """The figure with its picture written as Typst: pandoc 3.9 drops the alternative text there."""
    attributes, caption, [picture] = figure["c"]
    _, alt, [source, _] = picture["c"][0]["c"]
    source, alt = (json.dumps(words, ensure_ascii=False) for words in (source, _words(alt)))  # as Typst quotes
    call = f"#picture({source}, alt: {alt})"
    picture = {"t": "Plain", "c": [{"t": "RawInline", "c": ["typst", call]}]}
    return {"t": "Figure", "c": [attributes, caption, [picture]]}


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
