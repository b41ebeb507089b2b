"""From executed notebooks to one Markdown document: in order, numbered, and only what is fit to be shown."""

import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from hw2lib.report import ReportError, document

BROKEN = [r"\operatorname{sg}", r"\operatorname*{min}", r"\mathbbm{1}", r"\mathds{1}"]
BROKEN += [r"x\tag{1}", r"\color{red}x", r"a\!b", r"a\;b"]


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


# ---- what the report holds


def test_order(markdown):
    """The report goes title, contents, first picture, summary, part by part in the order of the notebooks, provenance."""
    pieces = [
        f"# {document.TITLE}", "<details>", "](figures/hero.png)", "## In short", "- **It** is", "claims of the homework", "*Small* is below 2",
        "- **Half right.**", "## Part 1. Pictures: a sample", "### The loss", "](figures/losses.png)", "> **Homework, 1.1:**", "## Part 2. Codes", "](figures/the-end.png)",
        "## Provenance", "| a-", "| b-",
    ]  # fmt: skip
    order = [markdown.index(piece) for piece in pieces]
    assert order == sorted(order)


def test_numbers(markdown):
    """Figures and captioned tables are numbered through the whole report, each with its caption and a place to link to."""
    assert re.findall(r'^<a id="(.*)"></a>\*\*((?:Figure|Table) \d+)\.\*\* (.*)$', markdown, re.MULTILINE) == [
        ("figure-1", "Figure 1", "Not yet [Figure 2](#figure-2)."),
        ("figure-2", "Figure 2", "Losses of $D$ in 2 epochs."),
        ("table-1", "Table 1", "Losses, one seed."),
        ("figure-3", "Figure 3", "The end."),
        ("table-2", "Table 2", "Of the second part."),
        ("table-3", "Table 3", "The runs behind this report."),
    ]


def test_provenance(markdown):
    """A row for each run; what is the same for all is said once."""
    assert re.search(r"\| run \| seed \|\n.*\n\| a-\w{8} \| 7 \|\n\| b-\w{8} \| 8 \|\n\nThe same for all: ", markdown)
    assert f"Python {sys.executable}; time: 1 s, until 2026-01-02 03:04 UTC." in markdown


def test_answers(markdown):
    """What cells with %%answer, %%claims, %%in_short and %%words say is in the report, with the numbers of the notebook."""
    assert f"It took **2** epochs with data from {Path.cwd() / 'data'} and is 0.25, $e^{{x}}$." in markdown
    assert (
        "> **Homework, 1.1:** $x$ is small. **Half right:** see [Figure 2](#figure-2): 0.25; it may grow." in markdown
    )
    assert "> **Homework, 1.1:** It is large. **Not measured here.**" in markdown
    assert markdown.count("is 0.25, see [Figure 2](#figure-2).") == 1
    assert markdown.count("*Small* is below 2.") == 1
    assert "Never said" not in markdown


def test_claims_in_short(markdown):
    """The summary counts the verdicts, then names each question once, a link, and below it its claims with what decides."""
    assert (
        """
**2 claims of the homework:** 1 half right, 1 not measured here.

*Small* is below 2.

- [Is it?](#is-it) (1.1)
  - **Half right.** "$x$ is small." See [Figure 2](#figure-2): 0.25.
  - **Not measured here.** "It is large."
"""
        in markdown
    )
    assert "\n#### Is it?\n" in markdown


def test_references(markdown):
    """A reference becomes a link with the figure's number, also before the figure and in another notebook; code stays."""
    assert "The end is in [Figure 3](#figure-3), the start in [Figure 2](#figure-2); `{fig:code}` is code." in markdown


def test_figure_files(built, markdown):
    """Every figure is a PNG under its own name, and no other file lies beside it."""
    assert {path.name for path in (built / "figures").iterdir()} == {"hero.png", "losses.png", "the-end.png"}
    assert (built / "figures" / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert r"![A magenta \[square\] with axes](figures/losses.png)" in markdown


def test_only_results(markdown):
    """Code, parameters, progress, warnings, cells to play with and the captions for Jupyter do not reach the report."""
    for noise in (
        "import", "Parameters", "chosen", "epoch 1 of", "warned", "exploring", "%%", "**Table.**", "Figure `", "\x1b",
    ):  # fmt: skip
        assert noise not in markdown, noise
    assert "```text\nplain print\n```" in markdown


def test_headings(markdown):
    """There is one first-level heading, and a comment in a code block is no heading."""
    prose = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    assert re.findall(r"^# .*$", prose, re.MULTILINE) == [f"# {document.TITLE}"]
    assert "\n# a comment, no heading" in markdown


def test_contents_links(markdown):
    """Every link of the contents is the anchor that GitHub gives to a heading, repeated headings too."""
    anchors, seen = set(), {}
    for heading in re.findall(r"^##+ (.*)$", markdown, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        anchors.add(f"{slug}-{seen[slug]}" if slug in seen else slug)
        seen[slug] = seen.get(slug, 0) + 1
    links = re.findall(r"^ *- \[.*\]\(#([^)]*)\)$", markdown, re.MULTILINE)
    assert len(links) == 7
    assert set(links) <= anchors


def test_maths_on_github(markdown):
    """Formulas that Markdown would damage are in GitHub's protected form; simple ones stay as they are."""
    assert "$\\log D(x)$" in markdown
    assert "$`\\{a \\mid b\\}`$" in markdown
    assert "```math\n\\begin{aligned}" in markdown
    assert "$$" not in markdown


def test_texts_of_another_preset_are_marked(markdown):
    """A report of other numbers than the published ones says that its texts were written for those."""
    assert markdown.count("were written for the published run") == 1
    assert "were written for" not in (Path(document.__file__).parents[2] / "report.md").read_text()


# ---- what is refused


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([], "a claim needs a heading of its own, and there is none above it"),
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
        document.write_up({"1.ipynb": notebook}, {}, "tiny")


def test_claims_go_by_the_homeworks_sections():
    """Claims are in the order of their sections, that of the notebook within one."""
    given = (("1.2", "later"), ("1.1", "first"), ("1.1", "then"))
    claims = [{"section": section, "says": says, "verdict": "wrong", "why": "no"} for section, says in given]
    notebook = executed(new_markdown_cell("## One"), *(shown({"text/markdown": "so"}, claim=claim) for claim in claims))
    report = document.write_up({"1.ipynb": notebook}, {}, "tiny")
    assert re.findall('Wrong.\\*\\* "(.*)" No', report) == ["first", "then", "later"]


def test_no_claims_no_summary():
    """A report without results and claims has no summary."""
    assert "In short" not in document.write_up({"1.ipynb": executed()}, {}, "tiny")


@pytest.mark.parametrize(
    ("notebook", "words"),
    [
        (executed(new_markdown_cell("failed", metadata={"tags": [document.ERROR_TAG]})), "stopped with an error"),
        (executed(papermill={"exception": True}), "stopped with an error"),
        (executed(new_code_cell("1/0", outputs=[new_output("error", ename="E", evalue="", traceback=[])])), "cell 2"),
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
@pytest.mark.parametrize("cell", [new_markdown_cell, lambda text: new_code_cell(f"%%answer\n{text}")])
def test_broken_maths(tmp_path, write_notebook, formula, cell):
    """A macro that breaks on GitHub, in HTML or in PDF is refused before the notebook runs, with its cell."""
    path = write_notebook(tmp_path / "01_x.ipynb", "# Title", cell(f"See ${formula}$."))
    with pytest.raises(ReportError, match=re.escape("01_x.ipynb, cell 2: \\")):
        document.check_source(path)


def test_maths_in_code_is_free(tmp_path, write_notebook):
    """Code may hold any macro, and maths may hold what only begins like a broken one."""
    text = "# Title\n\n`\\color` and $\\colorful \\, \\mathrm{x}$\n\n```\n\\tag{1} \\;\n```"
    document.check_source(write_notebook(tmp_path / "01_x.ipynb", text, new_code_cell(r"'\;'")))


def test_maths_in_outputs():
    """Maths that a cell prints as Markdown is checked as well."""
    notebook = executed(shown({"text/markdown": r"$a\;b$"}, text=True))
    with pytest.raises(ReportError, match=r"01_x.ipynb, cell 2: \\;"):
        document.to_markdown(notebook, "01_x.ipynb", {})


@pytest.mark.parametrize("text", ["no heading", "# One\n\n# Two"])
def test_one_title(tmp_path, write_notebook, text):
    """A notebook has one first-level heading: the title of its part."""
    with pytest.raises(ReportError, match="needs one first-level heading"):
        document.check_source(write_notebook(tmp_path / "01_x.ipynb", text))


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
