"""The report: what the notebooks show, in order and numbered, readable offline as Markdown, HTML and PDF."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import nbformat
import pytest
from matplotlib import pyplot
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from hw2lib import ROOT
from hw2lib.report import build as report
from hw2lib.report import document, pages, show
from hw2lib.report.build import ReportError

OFFLINE_CHROMIUM = [
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND",
]  # fmt: skip
BROKEN = [r"\operatorname{sg}", r"\operatorname*{min}", r"\mathbbm{1}", r"\mathds{1}"]
BROKEN += [r"x\tag{1}", r"\color{red}x", r"a\!b", r"a\;b"]

INTRODUCTION = r"""# Pictures: a sample

**Summary.** The end is in {fig:the-end}, the start in {fig:losses}; `{fig:code}` is code.

## The loss of $D$

Inline $\log D(x)$ and $\{a \mid b\}$, then

$$
\begin{aligned}
L &= \mathbb{E}_{x}[\log D(x)] \\
  &= \lVert \mathrm{sg}[z_e] - e \rVert_2^2 .
\end{aligned}
$$

```python
# a comment, no heading
```
"""
DRAWING = """
figure, axes = pyplot.subplots(figsize=(3, 2))
axes.set_facecolor("magenta")
show.figure(figure, "losses", "Losses of $D$, falling.", "A magenta [square] with axes")
show.table([{"run": "a | b", "loss": "0.25 ± 0.01"}, {"run": "c", "loss": "−1"}], "Losses, one seed.")
show.table([{"uncaptioned": "table"}])
show.text(f"It took **{epochs}** epochs with data from {data_root}.")
print("\\x1b[31mplain\\x1b[0m print")
"""


def code(source: str, *tags: str):
    return new_code_cell(source, metadata={"tags": list(tags)})


def write_notebook(path: Path, *cells) -> Path:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells), metadata=kernel), path)
    return path


def preset(notebook: Path, name: str, **parameters) -> None:
    path = notebook.parent / "presets" / name / f"{notebook.stem}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(parameters))  # JSON is YAML


def executed(*cells, **metadata):
    """A notebook as papermill leaves it, without running it."""
    for number, cell in enumerate(cells, start=1):
        if cell.cell_type == "code":
            cell.execution_count = number
    return new_notebook(cells=[new_markdown_cell("# Title"), *cells], metadata=metadata)


def shown(data: dict, **note):
    """An executed cell with one displayed output."""
    output = new_output("display_data", data, metadata={"hw2lib": note})
    return new_code_cell("show", outputs=[output])


@pytest.fixture(scope="session")
def notebooks(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("project") / "notebooks"
    first = write_notebook(
        folder / "01_sample.ipynb",
        new_markdown_cell(INTRODUCTION),
        code("epochs: int = 3  # number of epochs\ndata_root: str = 'nowhere'\nprint('chosen')", "parameters"),
        code("import os, sys\nfrom matplotlib import pyplot\nfrom hw2lib import show"),
        code(
            "print('epoch 1 of', epochs, os.environ['HW2_PROGRESS'])\nprint('warned', file=sys.stderr)",
            "progress",
        ),
        code(DRAWING),
        code("print('only for exploring')", "remove-cell"),
        new_markdown_cell("## Is $x$ small?\n\n### Is it?\n\nPerhaps."),
        code(
            "show.claim('1.1', 'It is\\nsmall.', 'half right', 'see {fig:losses}.')\n"
            "show.result('**It** is 0.25, see {fig:losses}.')"
        ),
        code("show.provenance({'part': 'a-1', 'seed': 7, 'python': sys.executable, 'device': 'cpu'})"),
    )
    second = write_notebook(
        folder / "02_other.ipynb",
        new_markdown_cell("# Codes\n\nText.\n\n## The loss of $D$"),
        code("size = 8", "parameters"),
        code("from matplotlib import pyplot\nfrom hw2lib import show"),
        code("figure, axes = pyplot.subplots()\nshow.figure(figure, 'the-end', 'The end.', 'Empty axes')"),
        code(
            "show.table([{'n': '1'}], 'Of the second part.')\nshow.provenance({'part': 'b-2', 'seed': 8, 'device': 'cpu'})"
        ),
    )
    preset(first, "tiny", epochs=2)
    preset(second, "tiny", size=16)
    return [first, second]


@pytest.fixture(scope="session")
def built(notebooks, tmp_path_factory) -> Path:
    """A report that was built once for all tests that only read it."""
    out = tmp_path_factory.mktemp("build")
    assert report.build("tiny", data="data", out=out, notebooks=notebooks) == out / "report.md"
    return out


@pytest.fixture(scope="session")
def markdown(built) -> str:
    return (built / "report.md").read_text(encoding="utf-8")


def positions(text: str, *pieces: str) -> list[int]:
    return [text.index(piece) for piece in pieces]


# The Markdown


def test_order(markdown):
    """The report goes title, contents, part by part in the order of the notebooks, provenance."""
    order = positions(
        markdown, f"# {document.TITLE}", "## In short", "- **It** is", "| half right |", "## Contents", "## Part 1. Pictures: a sample", "### The loss",
        "](figures/losses.png)", "> **Homework, 1.1:**", "## Part 2. Codes", "](figures/the-end.png)",
        "## Provenance", "| a-1 |", "| b-2 |",
    )  # fmt: skip
    assert order == sorted(order)


def test_numbers(markdown):
    """Figures and captioned tables are numbered through the whole report, each with its caption."""
    assert re.findall(r"^\*\*(Figure \d+)\.\*\* (.*)$", markdown, re.MULTILINE) == [
        ("Figure 1", "Losses of $D$, falling."),
        ("Figure 2", "The end."),
    ]
    assert re.findall(r"^\*\*(Table \d+)\.\*\* (.*)$", markdown, re.MULTILINE) == [
        ("Table 1", "Losses, one seed."),
        ("Table 2", "Of the second part."),
        ("Table 3", "The runs behind this report."),
    ]


def test_provenance(markdown):
    """A row for each run; what is the same for all is said once, and what only some have is empty for the others."""
    assert (
        f"| part | python | seed |\n| :--- | :--- | ---: |\n| a-1 | {sys.executable} | 7 |\n| b-2 |  | 8 |" in markdown
    )
    assert "The same for all: device: cpu." in markdown


def test_claims(markdown):
    """A claim stands where it was made, and in the summary with a link to its heading; a result only in the summary."""
    assert "> **Homework, 1.1:** It is small. **Half right:** see Figure 1." in markdown
    assert "| 1.1 | It is small. | half right | [Is it?](#is-it) |" in markdown
    assert markdown.count("is 0.25, see Figure 1.") == 1
    assert "\n#### Is it?\n" in markdown


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([], "a claim needs a heading above it"),
        ([new_markdown_cell("## Twice"), new_markdown_cell("## Twice")], "'Twice' stands there twice"),
    ],
)
def test_claims_need_a_heading_of_their_own(cells, words):
    """A claim under no heading, or under one that a link could not tell from another, is refused."""
    claim = {"section": "1", "says": "so", "verdict": "wrong", "why": "no"}
    notebook = executed(*cells, shown({"text/markdown": "so"}, claim=claim))
    if not cells:
        notebook.cells.pop(0)
    with pytest.raises(ReportError, match=words):
        document.summary_section({"1.ipynb": notebook}, {})


def test_no_claims_no_summary():
    """A report without results and claims has no summary."""
    assert document.summary_section({"1.ipynb": executed()}, {}) == []


def test_references(markdown):
    """A reference becomes the figure's number, also before the figure and in another notebook; code stays."""
    assert "The end is in Figure 2, the start in Figure 1; `{fig:code}` is code." in markdown


def test_figure_files(built, markdown):
    """Every figure is a PNG under its own name, and no other file lies beside it."""
    assert {path.name for path in (built / "figures").iterdir()} == {"losses.png", "the-end.png"}
    assert (built / "figures" / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert r"![A magenta \[square\] with axes](figures/losses.png)" in markdown


def test_only_results(markdown):
    """Code, parameters, progress, warnings and the captions for Jupyter do not reach the report."""
    noises = [
        "import",
        "Parameters",
        "chosen",
        "epoch 1 of",
        "warned",
        "exploring",
        "**Table.**",
        "Figure `",
        "\x1b",
    ]
    for noise in noises:
        assert noise not in markdown, noise
    assert "```text\nplain print\n```" in markdown
    assert f"It took **2** epochs with data from {Path.cwd() / 'data'}." in markdown


def test_headings(markdown):
    """There is one first-level heading, and a comment in a code block is no heading."""
    assert re.findall(r"^# .*$", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL), re.MULTILINE) == [
        f"# {document.TITLE}"
    ]
    assert "\n# a comment, no heading" in markdown


def test_contents_links(markdown):
    """Every link of the contents is the anchor that GitHub gives to a heading, repeated headings too."""
    anchors, seen = set(), {}
    for heading in re.findall(r"^##+ (.*)$", markdown, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        anchors.add(f"{slug}-{seen[slug]}" if slug in seen else slug)
        seen[slug] = seen.get(slug, 0) + 1
    links = re.findall(r"^ *- \[.*\]\(#(.*)\)$", markdown, re.MULTILINE)
    assert len(links) == 7
    assert set(links) <= anchors


def test_maths_on_github(markdown):
    """Formulas that Markdown would damage are in GitHub's protected form; simple ones stay as they are."""
    assert "$\\log D(x)$" in markdown
    assert "$`\\{a \\mid b\\}`$" in markdown
    assert "```math\n\\begin{aligned}" in markdown
    assert "$$" not in markdown


# HTML and PDF


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


PAGES = ["report.html", "notebooks/01_sample.html", "notebooks/02_other.html"]


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
    """A notebook's own page shows the code, the parameters of the run and what was printed."""
    words = Page(built / "notebooks" / "01_sample.html").words
    for piece in ("pyplot.subplots", "epochs = 2", "epoch 1 of 2 lines", "warned", "seed", "Figure 1."):
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
    order = positions(words, document.TITLE, "Contents", "It took 2 epochs", "Of the second part.", "Table 3.")
    assert order == sorted(order)
    assert "log 𝐷(𝑥)" in words
    assert words.count("The end.") == words.count("Figure 2. The end.") == 1
    assert "Figure 2: " not in words  # Typst's own number


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES[:2])
def test_page_in_a_browser(built, tmp_path, name):
    """A real browser without a network draws the page: letters, and the magenta of the picture inside."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("Chromium is not installed")
    command = [
        chromium,
        *OFFLINE_CHROMIUM,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=900,2400",
    ]
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


# Running the notebooks


def test_unknown_parameter(notebooks):
    """A parameter the notebook does not have is refused in one line, with the nearest name and all names."""
    with pytest.raises(ReportError) as caught:
        report.check_parameters(notebooks[0], {"epoch": 2})
    assert str(caught.value) == (
        "01_sample.ipynb has no parameter 'epoch'; did you mean 'epochs'? It has: data_root, epochs"
    )


def test_parameters_are_checked_first(notebooks, tmp_path):
    """Build refuses an unknown parameter before any notebook runs, and accepts one that only one has."""
    with pytest.raises(ReportError, match="no parameter 'sizes'"):
        report.build("tiny", out=tmp_path / "out", notebooks=notebooks, parameters={"size": 4, "sizes": 4})
    assert not (tmp_path / "out").exists()


def test_missing_preset(notebooks, tmp_path):
    """A preset that does not exist is refused with the names of those that do."""
    with pytest.raises(ReportError, match=r"no preset 'huge' for 01_sample\.ipynb; there are: tiny"):
        report.build("huge", out=tmp_path, notebooks=notebooks)


def test_failing_cell(tmp_path):
    """A failing cell stops the build in one line: notebook, cell and error; the half-run notebook stays."""
    notebook = write_notebook(
        tmp_path / "notebooks" / "01_bad.ipynb",
        new_markdown_cell("# Bad"),
        code("x = 1", "parameters"),
        code("raise ValueError(f'x is\\n{x}')"),
    )
    preset(notebook, "tiny", x=2)
    with pytest.raises(ReportError) as caught:
        report.build("tiny", out=tmp_path / "build", notebooks=[notebook])
    partial = tmp_path / "build" / "notebooks" / "01_bad.ipynb"
    assert str(caught.value) == f"01_bad.ipynb, cell 3: ValueError: x is 2 (see {partial})"
    assert partial.is_file()
    assert [path.name for path in (tmp_path / "build").iterdir()] == ["notebooks"]
    with pytest.raises(ReportError, match="cell 3 ended with an error"):
        document.assemble([partial], tmp_path / "build", "tiny")


def test_killed_kernel(tmp_path):
    """A killed kernel (out of memory, say) is told apart from a failing cell, with what to do."""
    kill = code("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    notebook = write_notebook(tmp_path / "01_dead.ipynb", new_markdown_cell("# Dead"), kill)
    with pytest.raises(ReportError, match=r"01_dead\.ipynb: the kernel was killed; .* run it again"):
        report.execute(notebook, tmp_path / "out.ipynb", {})


@pytest.mark.slow
def test_any_folder_any_kernel(notebooks, built, tmp_path):
    """From another folder, without an activated environment, beside a foreign kernel: the same report."""
    kernel = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "foreign", "language": "python"}))
    program = (
        "import sys; from pathlib import Path; from hw2lib import report;"
        "report.build('tiny', data=sys.argv[1], out='here', notebooks=[Path(path) for path in sys.argv[2:]])"
    )
    environment = {"PATH": os.defpath, "HOME": str(tmp_path), "JUPYTER_DATA_DIR": str(kernel.parents[2])}
    arguments = [Path.cwd() / "data", *notebooks]
    result = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=tmp_path, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "epoch 1 of 2 lines" in result.stdout  # seen on the terminal
    assert f"| {sys.executable} | 7 |" in (tmp_path / "here" / "report.md").read_text(encoding="utf-8")
    for name in ("report.md", "figures/losses.png"):
        assert (tmp_path / "here" / name).read_bytes() == (built / name).read_bytes()


# What is refused


@pytest.mark.parametrize(
    ("notebook", "words"),
    [
        (
            executed(new_markdown_cell("failed", metadata={"tags": [document.ERROR_TAG]})),
            "stopped with an error",
        ),
        (executed(papermill={"exception": True}), "stopped with an error"),
        (
            executed(new_code_cell("1/0", outputs=[new_output("error", ename="E", evalue="", traceback=[])])),
            "cell 2",
        ),
        (new_notebook(cells=[new_markdown_cell("# Title"), new_code_cell("1")]), "cell 2 was not run"),
    ],
)
def test_half_run_notebook(notebook, words):
    """A notebook that stopped, failed or was not run is no report, whichever trace of it is left."""
    with pytest.raises(ReportError, match=f"01_x.ipynb.*{words}"):
        document.check_executed(notebook, "01_x.ipynb")


def test_empty_cells_need_no_run():
    """An empty code cell, which Jupyter never runs, does not make a notebook half-run."""
    document.check_executed(new_notebook(cells=[new_code_cell(" \n")]), "01_x.ipynb")


@pytest.mark.parametrize("formula", BROKEN)
def test_broken_maths(tmp_path, formula):
    """A macro that breaks on GitHub, in HTML or in PDF is refused before the notebook runs, with its cell."""
    path = write_notebook(tmp_path / "01_x.ipynb", new_markdown_cell("# Title"), new_markdown_cell(f"See ${formula}$."))
    with pytest.raises(ReportError, match=re.escape("01_x.ipynb, cell 2: \\")):
        document.check_source(path)


def test_maths_in_code_is_free(tmp_path):
    """Code may hold any macro, and maths may hold what only begins like a broken one."""
    text = "# Title\n\n`\\color` and $\\colorful \\, \\mathrm{x}$\n\n```\n\\tag{1} \\;\n```"
    document.check_source(write_notebook(tmp_path / "01_x.ipynb", new_markdown_cell(text)))


def test_maths_in_outputs():
    """Maths that a cell prints as Markdown is checked as well."""
    notebook = executed(shown({"text/markdown": r"$a\;b$"}, text=True))
    with pytest.raises(ReportError, match=r"01_x.ipynb, cell 2: \\;"):
        document.to_markdown(notebook, "01_x.ipynb", {})


@pytest.mark.parametrize("text", ["no heading", "# One\n\n# Two"])
def test_one_title(tmp_path, text):
    """A notebook has one first-level heading: the title of its part."""
    with pytest.raises(ReportError, match="needs one first-level heading"):
        document.check_source(write_notebook(tmp_path / "01_x.ipynb", new_markdown_cell(text)))


def test_unknown_reference():
    """A reference to a figure that is not shown is refused, with the figures there are."""
    notebook = executed(new_markdown_cell("See {fig:los}."))
    with pytest.raises(ReportError, match=r"01_x.ipynb, cell 2 refers to figure 'los'.*: losses, the-end"):
        document.to_markdown(notebook, "01_x.ipynb", {"losses": 1, "the-end": 2})


def test_figure_names_are_used_once():
    """The same figure name in two places is refused: one file would overwrite the other."""
    cells = [shown({"image/png": ""}, figure="a", caption="b", alt="c") for _ in range(2)]
    with pytest.raises(ReportError, match="'a' is used twice"):
        document.number_outputs({"01_x.ipynb": executed(*cells)})


def test_bare_picture():
    """A picture without name, caption and alternative text is refused."""
    with pytest.raises(ReportError, match=r"cell 2: a picture without name.* show\.figure"):
        document.number_outputs({"01_x.ipynb": executed(shown({"image/png": ""}))})


def test_failed_build_keeps_the_old(built, tmp_path):
    """When the documents cannot be made, those of an earlier build stay whole, and nothing else is left."""
    out = shutil.copytree(built, tmp_path / "build")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    path = out / "notebooks" / "02_other.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(new_markdown_cell("See {fig:nowhere}."))
    nbformat.write(notebook, path)
    before[path] = path.read_bytes()
    with pytest.raises(ReportError, match="nowhere"):
        document.assemble(sorted((out / "notebooks").glob("*.ipynb")), out, "tiny")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


# Publishing and showing


def test_publish(built, tmp_path):
    """Publishing copies the report and its figures to the repository, and removes figures no longer used."""
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "old.png").write_bytes(b"")
    report.publish(built, root=tmp_path)
    assert (tmp_path / "report.md").read_bytes() == (built / "report.md").read_bytes()
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"losses.png", "the-end.png"}
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "figures"}
    with pytest.raises(ReportError, match="build the report first"):
        report.publish(tmp_path / "figures", root=tmp_path)


@pytest.fixture
def displayed(monkeypatch) -> list:
    """What show.py displays: (data, metadata) of each output."""
    outputs = []
    monkeypatch.setattr(show, "display", lambda data, metadata, raw: outputs.append((data, metadata)))
    return outputs


def test_figure_in_jupyter(displayed):
    """A figure is a picture with its facts, then a visible caption; it is closed; its file never changes."""
    for _ in range(2):
        figure, axes = pyplot.subplots()
        axes.plot([1, 2])
        show.figure(figure, "two-words", "A  caption\nin lines.", "A line")
        assert figure.number not in pyplot.get_fignums()
    (picture, metadata), (caption, mark), (again, _), _ = displayed
    assert metadata["hw2lib"] == {"figure": "two-words", "caption": "A caption in lines.", "alt": "A line"}
    assert picture["image/png"] == again["image/png"]
    assert caption["text/markdown"] == "**Figure `two-words`.** A caption in lines."
    assert mark == {"hw2lib": {"caption_of": "two-words"}}


@pytest.mark.parametrize(
    ("name", "caption", "alt"),
    [
        ("Two Words", "a", "b"),
        ("../a", "a", "b"),
        ("", "a", "b"),
        ("a", "", "b"),
        ("a", "b", " "),
        ("a", "b", "b"),
    ],
)
def test_figure_needs_words(displayed, name, caption, alt):
    """A figure without a usable name, a caption and an alternative text of its own is refused."""
    with pytest.raises(ValueError, match="figure"):
        show.figure(pyplot.figure(), name, caption, alt)
    pyplot.close("all")
    assert not displayed


def test_table_in_jupyter(displayed):
    """A table escapes pipes, keeps a cell on its line and sets columns of numbers to the right."""
    show.table([{"a|b": "x\ny", "n": "1 ± 2"}, {"a|b": "z", "n": "–"}], "Some words.")
    caption, table = (data["text/markdown"] for data, _ in displayed)
    assert caption == "**Table.** Some words."
    assert table == "| a\\|b | n |\n| :--- | ---: |\n| x y | 1 ± 2 |\n| z | – |"
    with pytest.raises(ValueError, match="at least one row"):
        show.table([])
