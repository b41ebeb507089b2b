"""HTML and PDF of the report: whole without a network, in a real browser, with formulas, captions and alternative texts."""

import json
import re
import shutil
import subprocess
import tempfile
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from unicodedata import normalize

import matplotlib.image
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from hw2lib import ROOT, printable
from hw2lib.report import ReportError, answers, document, pages, show, tables
from hw2lib.report.style import fonts_for

OFFLINE_CHROMIUM = [
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND",
]  # fmt: skip
PAGES = ["report.html", "notebooks/01_sample.html", "notebooks/02_other.html"]


class Page(HTMLParser):
    """What the tests ask of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.addresses, self.alts, self.words = [], [], [], ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.addresses += [attributes[key] for key in ("src", "href", "srcset", "data") if key in attributes]
        if tag == "html":
            self.language = attributes.get("lang")
        if tag == "img":
            self.alts.append(attributes.get("alt"))

    def handle_data(self, data):
        self.words += data


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_whole(built, name):
    """A page loads nothing and runs no script: pictures are inside, links stay in the page."""
    page = Page(built / name)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not re.search(r"@import|url\((?!['\"]?data:)", page.source)
    assert page.language == "en-GB"
    assert {"title", "math"} <= set(page.tags)


def test_page_figures(built):
    """In the page every picture has its alternative text, and a caption of its own with one number."""
    page = Page(built / "report.html")
    assert page.alts == ["A magenta [square] with axes", "Empty axes"]
    assert page.tags.count("figure") == page.tags.count("figcaption") == 2
    assert page.tags.count("caption") == 3
    assert page.words.count("The end.") == page.words.count("Figure 2. The end.") == 1


def test_code_page(built):
    """A notebook's own page shows the code, the parameters of the run and what was printed, but for cells to play with."""
    words = Page(built / "notebooks" / "01_sample.html").words
    for piece in ("pyplot.subplots", "epochs = 2", "epoch 1 of 2 lines", "warned", "seed", "%%answer", "Figure 1."):
        assert piece in words, piece
    assert "exploring" not in words


def test_operator_spacing(tmp_path):
    """In MathML a named function keeps its distance from a letter, and stands close to a bracket."""
    pages.write_html(pages.tree(r"$2\log D$ and $\log(x)$ and $\min_G V$", "T"), tmp_path / "page.html")
    first, second, third = re.findall(r"<math.*?</semantics>", (tmp_path / "page.html").read_text(), re.DOTALL)
    assert first.count("<mspace") == 2
    assert second.count("<mspace") == 0
    assert third.index("<mi>G</mi>") < third.index("<mspace") < third.index("<mi>V</mi>")


def test_unknown_maths_is_refused(tmp_path):
    """A formula that pandoc cannot show stops the build instead of reaching the page as source."""
    with pytest.raises(ReportError, match="pandoc"):
        pages.write_html(pages.tree(r"$\nosuchmacro{x}$", "T"), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_pdf(built):
    """The PDF has a title, contents, text, formulas and captions that are numbered once."""
    assert (built / "report.pdf").read_bytes().startswith(b"%PDF")
    if not shutil.which("pdftotext"):
        pytest.skip("pdftotext is not installed (Debian: poppler-utils)")
    result = subprocess.run(["pdftotext", "-layout", built / "report.pdf", "-"], capture_output=True, check=True)
    words = " ".join(result.stdout.decode().split())
    pieces = (document.TITLE, "Contents", "It took 2 epochs", "Of the second part.", "Table 3.")
    order = [words.index(piece) for piece in pieces]
    assert order == sorted(order)
    assert "log 𝐷(𝑥)" in words
    assert words.count("The end.") == words.count("Figure 2. The end.") == 1
    # Typst's own number.
    assert "Figure 2: " not in words


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES[:2])
def test_page_in_a_browser(built, tmp_path, name):
    """A real browser without a network draws the page: letters, and the magenta of the picture inside."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("Chromium is not installed")
    command = [chromium, *OFFLINE_CHROMIUM, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=900,2400"]
    address = (built / name).as_uri()
    dom = subprocess.run([*command, "--dump-dom", address], capture_output=True, check=True, timeout=120).stdout
    assert b"<mtable" in dom
    assert b"<figcaption" in dom
    picture = tmp_path / "page.png"
    subprocess.run([*command, f"--screenshot={picture}", address], capture_output=True, check=True, timeout=120)
    pixels = matplotlib.image.imread(picture)[..., :3].reshape(-1, 3)  # (pixels, RGB), 0 to 1
    red, green, blue = pixels.T
    assert ((red > 0.95) & (green < 0.05) & (blue > 0.95)).sum() > 10_000
    assert (pixels.max(axis=1) < 0.3).sum() > 3_000


# ---- names from data

HOSTILE = [
    "<script>alert(1)</script>", "a|b $x_1$ {fig:x} *em*", "我的照片", "`code` ``more``", r"\tag{1} \operatorname{x} \|", "a\n\n# b", "é🐎",
    "[x](y) ![z](w)", "<!-- x", "&amp; &#36;", "~~s~~ ==t==", ":horse:", "_a_ __b__ ***c***", "#1 @x", "$$", "{{ x }} {% y %}", "\udcff\x00",
    "http://x.y/z", "|", "^[n]", 'a"b\'c', "--- ...",
]  # fmt: skip


def written_up(names: list[str], monkeypatch) -> str:
    """The text of a report whose captions, alternative texts, tables, answers and claims hold each of the names."""
    monkeypatch.setattr(show, "_published", lambda name: (ROOT / "figures" / "prior-fields.png").read_bytes())
    published, outputs = SimpleNamespace(is_published=True), []
    for number, name in enumerate(names):
        known = {"name": name}
        with show.collected(known) as shown:
            show.figure(None, f"f{number}", "Of {{ name }} and {{ name | code }}.", "Alt {{ name }} end", of=published)
            data = tables._data({"name": name, "train": 3, "test": 4}, {name: 2})
            show.table([{"data": data}], "{{ name }}")
            answers.run("answer", "", "It is {{ name }} and **{{ name }}**.", known)
            answers.run("claims", "1.1", "| a |\n|---|\n| {{ name }} | wrong | so is {{ name }}. | |", known)
        outputs += shown
    cells = [new_markdown_cell("# Title\n\n## Heading"), new_code_cell("show", outputs=outputs, execution_count=1)]
    notebooks = {"01_x.ipynb": new_notebook(cells=cells)}
    return document.write_up(notebooks, document.number_outputs(notebooks), "tiny")[1]


def shown_in_html(text: str, folder: Path) -> Page:
    (folder / "figures").mkdir()
    for name in re.findall(r"figures/(f\d+)\.png", text):
        shutil.copy(ROOT / "figures" / "prior-fields.png", folder / "figures" / f"{name}.png")
    pages.write_html(pages.tree(text, "T"), folder / "page.html")
    return Page(folder / "page.html")


def test_names_are_shown_as_they_are(tmp_path, monkeypatch):
    """Whatever a folder is called, its name stands letter by letter in captions, tables, answers, claims and pictures' texts."""
    text = written_up(HOSTILE, monkeypatch)
    page = shown_in_html(text, tmp_path)
    assert not {"script", "em", "del", "math", "h4"} & set(page.tags)
    assert page.tags.count("img") == page.tags.count("figure") == len(HOSTILE)
    assert page.alts == [f"Alt {' '.join(printable(name).split())} end" for name in HOSTILE]
    words = " ".join(page.words.split())
    for name in HOSTILE:
        assert words.count(" ".join(printable(name).split())) >= 10, name
    pages.write_pdf(pages.tree(text, "T"), tmp_path / "page.pdf")
    if shutil.which("pdftotext"):
        result = subprocess.run(["pdftotext", "-layout", tmp_path / "page.pdf", "-"], capture_output=True, check=True)
        assert "a|b $x_1$ {fig:x} *em*, 3 + 4" in " ".join(result.stdout.decode().split())


@given(st.lists(st.text(min_size=1, max_size=30), min_size=5, max_size=5))
@example(["\U0002f800", "e\u0301", "\u212b", "\u03d3\u0301", "ﬁ"])
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.slow
def test_any_name_is_shown_as_it_is(tmp_path_factory, names):
    """The same for any text at all; where Unicode has two codes for a letter, pandoc writes the usual one in places."""
    with pytest.MonkeyPatch.context() as patch:
        page = shown_in_html(written_up(names, patch), tmp_path_factory.mktemp("page"))
    alike = partial(normalize, "NFD")  # either code in its parts, which never join what stands beside them
    assert [*map(alike, page.alts)] == [alike(" ".join(f"Alt {printable(name)} end".split())) for name in names]
    words = alike("".join(page.words.split()))
    assert all(words.count(alike("".join(printable(name).split()))) >= 10 for name in names)


def test_letters_that_no_font_has_are_told(capsys):
    """Boxes in figures and in the PDF do not come without a word of what would help."""
    families = fonts_for("horse \U0001f9ff\ue000")
    assert families[0] == "DejaVu Sans"
    assert "boxes stand for them in figures and report.pdf; install one" in capsys.readouterr().err
    assert fonts_for("Größe \u03c3") == ("DejaVu Sans",)
    assert not capsys.readouterr().err


def test_any_locale_will_do(tmp_path, monkeypatch):
    """In the locale C, in a folder whose name has other letters than ASCII, the pages are made."""
    folder = tmp_path / "größe 我"
    (folder / "tmp").mkdir(parents=True)
    style = shutil.copy(pages.HTML_STYLE, folder / "style.css")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setattr(pages, "HTML_STYLE", style)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    assert pages.contents("## Größe") == "- [Größe](#größe)"
    document_tree = pages.tree("Größe", "T")
    pages.write_html(document_tree, folder / "page.html")
    pages.write_pdf(document_tree, folder / "page.pdf")
    assert "Größe" in (folder / "page.html").read_text(encoding="utf-8")


def test_a_table_of_sentences_has_columns_as_wide_as_what_they_hold():
    """In the PDF: shares that add up to one, more for sentences than for words; a table with a caption stays as it is."""
    rows = f"| a | b |\n|---|---|\n| right | {'word ' * 40} |\n| half right | {'word ' * 30} |"
    (table,) = json.loads(pages._pandoc(rows, "-f", pages.MARKDOWN, "-t", "json"))["blocks"]
    short, long = (share["c"] for _, share in pages._typst_table(table)["c"][2])
    assert short + long == pytest.approx(1) and 0.1 < short < long
    table["c"][1] = [None, [{"t": "Plain", "c": [{"t": "Str", "c": "Table."}]}]]
    assert pages._typst_table(table) is table
