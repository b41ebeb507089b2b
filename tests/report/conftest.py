"""Two small notebooks, the report that was built of them once, and what a notebook would show."""

import json
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from hw2lib import parameters
from hw2lib.report import show
from hw2lib.report.build import build

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
def draw():
    figure, axes = pyplot.subplots(figsize=(3, 2))
    axes.set_facecolor("magenta")
    return figure
show.figure(draw, "losses", "Losses of $D$ in {{ epochs }} epochs.", "A magenta [square] with axes")
show.table([{"run": "a | b", "loss": "0.25 ± 0.01"}, {"run": "c", "loss": "−1"}], "Losses, one seed.")
show.table([{"uncaptioned": "table"}])
print("\\x1b[31mplain\\x1b[0m print")
"""
HERO = """
import torch
from hw2lib.report import figures
rows = torch.zeros(3, 2, 3, 128, 128, dtype=torch.uint8)
for row in range(3):
    rows[row, :, row] = 255  # red, green, blue
show.figure(figures.pictures(rows.flatten(0, 1), columns=2), "hero", "Not yet {fig:losses}.", "Six squares")
"""
ANSWER = "%%answer\nIt took **{{ epochs }}** epochs with data from {{ data_root }} and is {{ loss | d2 }}, $e^{x}$."
CLAIMS = """%%claims 1.1
| the homework says | verdict | why | needs |
|---|---|---|---|
| $x$ is small. | half right | see {fig:losses}: {{ loss | d2 }}; it may grow. | loss |
| It is large. | wrong | {{ other.loss | d2 }}. | other.loss |
"""
PROVENANCE = """
import sys
from hw2lib.training import Run
run = Run("{name}", {{"seed": {seed}}}, runs)
with run.begin():
    run.note(commit="0123456789abcdef", dirty=False, python=sys.executable, versions={{}}, device="cpu", threads=1,
             seed={seed}, seconds=1, ended="2026-01-02T03:04:05")
show.provenance(run)
"""


def code(source: str, *tags: str):
    return new_code_cell(source, metadata={"tags": list(tags)})


@pytest.fixture(scope="session")
def write_notebook():
    """write_notebook(path, *cells) -> path; a cell is one of nbformat's, or the text of a Markdown cell."""

    def write(path: Path, *cells) -> Path:
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        cells = [new_markdown_cell(cell) if isinstance(cell, str) else cell for cell in cells]
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
        return path

    return write


@pytest.fixture(scope="session")
def notebooks(tmp_path_factory, write_notebook) -> list[Path]:
    folder = tmp_path_factory.mktemp("project")
    runs = f"runs = {str(folder / 'runs')!r}"
    first = write_notebook(
        folder / "01_sample.ipynb",
        INTRODUCTION,
        code("epochs: int = 3  # number of epochs\ndata_root: str = 'nowhere'\nprint('chosen')", "parameters"),
        code(f"import os, sys\nfrom matplotlib import pyplot\nfrom hw2lib.report import show\n{runs}"),
        code("%load_ext hw2lib.report.answers\nloss, other = 0.25, None"),
        code(
            "print('epoch 1 of', epochs, os.environ['HW2_PROGRESS'])\nprint('warned', file=sys.stderr)",
            "progress",
        ),
        code(DRAWING),
        code(HERO),
        code(ANSWER),
        code("print('only for exploring')\npyplot.figure()", "play"),
        "## Is $x$ small?\n\n### Is it?\n\nPerhaps.",
        code(CLAIMS),
        code("%%in_short loss\n**It** is {{ loss }}, see {fig:losses}."),
        code("%%in_short other\nNever said."),
        code("%%words\n*Small* is below {{ epochs }}."),
        code(PROVENANCE.format(name="a", seed=7)),
    )
    second = write_notebook(
        folder / "02_other.ipynb",
        "# Codes\n\nText.\n\n## The loss of $D$",
        code("size = 8", "parameters"),
        code("import os\nprint('size', size, os.environ['HW2_PROGRESS'])", "progress"),
        code(f"from matplotlib import pyplot\nfrom hw2lib.report import show\n{runs}"),
        code("figure, axes = pyplot.subplots()\nshow.figure(figure, 'the-end', 'The end.', 'Empty axes')"),
        code("show.table([{'n': '1'}], 'Of the second part.')"),
        code(PROVENANCE.format(name="b", seed=8)),
    )
    for notebook, values in ((first, {"epochs": 2}), (second, {"size": 16})):
        preset = folder / "presets" / "tiny" / f"{notebook.stem}.yaml"
        preset.parent.mkdir(parents=True, exist_ok=True)
        # JSON is YAML.
        preset.write_text(json.dumps(values))
    return [first, second]


@pytest.fixture
def presets(notebooks, monkeypatch) -> None:
    """The presets are those of the two notebooks."""
    monkeypatch.setattr(parameters, "PRESETS", notebooks[0].parent / "presets")


@pytest.fixture(scope="session")
def built(notebooks, tmp_path_factory) -> Path:
    """A report that was built once for all tests that only read it."""
    out = tmp_path_factory.mktemp("build")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameters, "PRESETS", notebooks[0].parent / "presets")
        assert build("tiny", data="data", out=out, notebooks=notebooks) == out / "report.md"
    return out


@pytest.fixture(scope="session")
def markdown(built) -> str:
    return (built / "report.md").read_text(encoding="utf-8")


@pytest.fixture
def displayed(monkeypatch) -> list:
    """What show.py displays: (data, metadata) of each output."""
    outputs = []
    monkeypatch.setattr(show, "display", lambda data, metadata, raw: outputs.append((data, metadata)))
    return outputs
