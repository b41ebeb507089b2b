"""HTML and PDF of the report: whole without a network, in a real browser, with formulas, captions and alternative texts."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pytest

from hw2lib.report import ReportError, document, pages

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
