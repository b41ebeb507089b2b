"""HTML and PDF of the report: whole without a network, in a real browser, with formulas, captions and alternative texts."""

import io
import re
import shutil
import subprocess
import tempfile
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from unicodedata import normalize

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from hw2lib import ROOT, printable
from hw2lib.report import ReportError, answers, document, pages, show, tables
from hw2lib.report.style import fonts_for

PAGES = ["report.html", "notebooks/01_sample.html", "notebooks/02_other.html"]


class Page(HTMLParser):
    """What the tests ask of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.addresses, self.alts, self.places, self.words = [], [], [], set(), ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.addresses += [attributes[key] for key in ("src", "href", "srcset", "data") if key in attributes]
        self.places |= {f"#{attributes['id']}"} if "id" in attributes else set()
        if tag == "html":
            self.language = attributes.get("lang")
        if tag == "img":
            self.alts.append(attributes.get("alt"))

    def handle_data(self, data):
        self.words += data


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_whole(built, name):
    """A page loads nothing: pictures, style and icon are inside, and every link leads to a place in the page."""
    page = Page(built / name)
    assert all(address.startswith("data:") or address in page.places for address in page.addresses)
    assert not re.search(r"@import|url\((?!['\"]?data:|\"')", page.source)
    assert page.language == "en-GB"
    assert {"title", "math"} <= set(page.tags)


def test_page_figures(built):
    """In the page every picture has its alternative text, and a caption of its own with one number."""
    page = Page(built / "report.html")
    assert page.alts == ["Six squares", "A magenta [square] with axes", "Empty axes"]
    assert page.tags.count("figure") == page.tags.count("figcaption") == 3
    assert page.tags.count("caption") == 3
    assert page.words.count("The end.") == page.words.count("Figure 3. The end.") == 1


def test_code_page(built):
    """A notebook's own page shows the code, the parameters of the run and what was printed, but for cells to play with."""
    words = Page(built / "notebooks" / "01_sample.html").words
    for piece in ("pyplot.subplots", "epochs = 2", "epoch 1 of 2 lines", "warned", "seed", "%%answer", "Figure 2."):
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
    """The PDF has a title, the first picture, what is in short, contents, text, formulas and captions that are numbered once;
    its date is that of the last run."""
    assert (built / "report.pdf").read_bytes().startswith(b"%PDF")
    if not shutil.which("pdftotext"):
        pytest.skip("pdftotext is not installed (Debian: poppler-utils)")
    result = subprocess.run(["pdftotext", "-layout", built / "report.pdf", "-"], capture_output=True, check=True)
    words = " ".join(result.stdout.decode().split())
    pieces = (
        document.TITLE,
        "Figure 1.",
        "In short",
        "Contents",
        "It took 2 epochs",
        "Of the second part.",
        "Table 3.",
    )
    order = [words.index(piece) for piece in pieces]
    assert order == sorted(order)
    assert "log 𝐷(𝑥)" in words
    assert words.count("The end.") == words.count("Figure 3. The end.") == 1
    # Typst's own number.
    assert "Figure 3: " not in words
    assert words.count("Part 1. Pictures: a sample") > 2  # in the contents, as a heading, above pages
    facts = subprocess.run(["pdfinfo", "-isodates", built / "report.pdf"], capture_output=True, text=True).stdout
    assert re.search(r"CreationDate: +2026-01-02", facts)


# ---- in a browser


@pytest.fixture
def opened(browser):
    """opened(path, width, ...) -> the page of a file in a window that wide, where what a console is told fails the test."""
    told, contexts = [], []

    def open_page(path: Path, width: int = 1280, **how):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, offline=True, **how))
        page = contexts[-1].new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not told


def pixels(page, place: str) -> np.ndarray:
    """What a part of the page looks like, (rows, columns, RGB)."""
    return np.asarray(Image.open(io.BytesIO(page.locator(place).screenshot())).convert("RGB"))


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 768, 375])
@pytest.mark.parametrize("name", PAGES[:2])
def test_any_window_will_do(built, opened, name, width):
    """Light and dark, nothing is wider than the window, what is cut off scrolls by keys, but no caption; axe-core finds
    nothing wrong."""
    for scheme in ("light", "dark"):
        page = opened(built / name, width, color_scheme=scheme)
        found = Axe().run(page).response["violations"]
        assert not [(rule["id"], rule["nodes"][0]["html"]) for rule in found]
        assert page.evaluate("document.documentElement.scrollWidth") == width
        cut = "[...document.querySelectorAll('.wide, pre')].filter(box => box.scrollWidth > box.clientWidth)"
        assert page.evaluate(f"{cut}.every(box => box.tabIndex == 0)")
        page.add_style_tag(
            content="table { width: 90rem } caption::after { content: 'and a word more, and one more, and one' }"
        )
        captions = page.evaluate(
            "[...document.querySelectorAll('caption')].map(it => it.getBoundingClientRect().right)"
        )
        assert captions and max(captions) <= width
        lightness = page.evaluate("getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g)")
        assert (int(lightness[0]) > 128) == (scheme == "light")


@pytest.mark.slow
def test_the_contents_are_beside_the_text_or_folded(built, opened):
    """They stay in sight in a wide window; in a narrow one a click unfolds them."""
    wide, narrow = (opened(built / "report.html", width) for width in (1280, 375))
    wide.evaluate("scrollTo(0, 1e6)")
    link = "nav a[href='#provenance']"
    assert wide.locator("nav").bounding_box()["y"] >= 0 and wide.locator(link).is_visible()
    assert not narrow.locator(link).is_visible()
    narrow.locator("summary").click()
    assert narrow.locator(link).is_visible()


@pytest.mark.slow
def test_a_bar_slides_between_pictures_and_translations(built, opened):
    """In every column the translation (green) ends where the bar stands, and the input (red) begins; the way back stays."""
    page = opened(built / "report.html")
    for at in (25, 75):
        page.locator(".bar input").fill(str(at))
        row = pixels(page, ".strip")[64]
        share = [(row[:, colour] > 250) & (row[:, 2] < 5) for colour in (1, 0)]  # green, red
        assert [part.mean() for part in share] == pytest.approx([at / 100, 1 - at / 100], abs=0.03)
        assert share[0][2:20].all() and share[0][131:150].all() and share[1][-20:-2].all()
    assert (pixels(page, ".hero .zoom")[64] == (0, 0, 255)).all(axis=-1).mean() > 0.98
    bare = opened(built / "report.html", java_script_enabled=False)
    assert {*map(tuple, pixels(bare, ".hero img")[40::128, 60])} >= {(255, 0, 0), (0, 255, 0), (0, 0, 255)}


@pytest.mark.slow
def test_a_picture_grows_by_a_click(built, opened):
    """A click, or the space bar, shows a picture pixel by pixel, and another one puts it back, with no script."""
    page = opened(built / "report.html", width=375, java_script_enabled=False)
    picture = page.locator("figure.losses img")
    natural, small = picture.evaluate("picture => picture.naturalWidth"), picture.bounding_box()["width"]
    picture.click()
    assert picture.bounding_box()["width"] == natural > small
    page.keyboard.press("Space")
    assert picture.bounding_box()["width"] == small


@pytest.mark.slow
def test_page_in_a_browser(built, opened):
    """A real browser draws letters, formulas, and the magenta of the picture inside."""
    page = opened(built / "report.html")
    assert page.locator("mtable").count() and page.locator("figcaption").count()
    red, green, blue = pixels(page, "figure.losses").reshape(-1, 3).T
    assert ((red > 240) & (green < 15) & (blue > 240)).sum() > 10_000
    assert (pixels(page, "main").reshape(-1, 3).max(axis=1) < 75).sum() > 3_000


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
    return document.write_up(notebooks, document.number_outputs(notebooks), "tiny")


def shown_in_html(text: str, folder: Path) -> Page:
    (folder / "figures").mkdir()
    for name in re.findall(r"figures/(f\d+)\.png", text):
        shutil.copy(ROOT / "figures" / "prior-fields.png", folder / "figures" / f"{name}.png")
    pages.write_html(document.tree(text), folder / "page.html")
    return Page(folder / "page.html")


def test_names_are_shown_as_they_are(tmp_path, monkeypatch):
    """Whatever a folder is called, its name stands letter by letter in captions, tables, answers, claims and pictures' texts."""
    text = written_up(HOSTILE, monkeypatch)
    page = shown_in_html(text, tmp_path)
    assert not {"del", "math", "h4"} & set(page.tags)
    assert page.tags.count("script") == page.tags.count("em") == 1  # of the page itself
    assert page.tags.count("img") == page.tags.count("figure") == len(HOSTILE)
    assert page.alts == [f"Alt {' '.join(printable(name).split())} end" for name in HOSTILE]
    words = " ".join(page.words.split())
    for name in HOSTILE:
        assert words.count(" ".join(printable(name).split())) >= 10, name
    pages.write_pdf(document.tree(text), tmp_path / "page.pdf")
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
