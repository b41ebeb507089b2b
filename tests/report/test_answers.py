"""Written answers: what a cell may hold. That report.md says what results/ say, `check` knows."""

import re

import nbformat
import pytest

from hw2lib import ROOT
from hw2lib.report import ReportError, answers

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
ENTRY = {"mean": 0.1234, "deviation": 0.0123, "min": 0.1, "max": 0.2, "count": 3}
DECIMAL = re.compile(r"(?<![\w.])\d[\d,]*\.\d+%?")
# Numbers in the prose of answers that are no results.
NO_RESULTS = {
    "0.1": "a weight of the cycle loss",
    "0.25": "least squares: the loss where real and translated cannot be told apart",
    "0.5": "least squares: what everything is then marked",
    "0.9": "a temperature",
    "0.95": "a decay of averages",
    "0.99": "a decay of averages",
}


# ---- templates


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("{{ x | d0 }} {{ x | d2 }} {{ x | d6 }}", "1234 1234.50 1234.500000"),
        ("{{ 0.467 | pct }} {{ 0.467 | pct1 }}", "47% 46.7%"),
        ("{{ x | n }} {{ 50000 | n }} {{ x | g }} {{ x | g3 }}", "1,234 50,000 1234.5 1.23e+03"),
        ("{{ entry | pm2 }} {{ one | pm2 }}", "0.12 ± 0.01 0.12"),
        ("{{ 7679.9 | duration }}", "2 h 08 min"),
        ("{{ 'unet_generator' | title }}, {{ 'no_cycle_loss' | title }}", "U-Net generator, no cycle loss"),
        ("{{ 0.2 | pace }}, {{ 5.0 | pace }}", "1 update of D in 5 steps, 5 a step"),
        (r"$\mathrm{E}_{q(z \mid x)} e^{x_{1}}$ {fig:losses} 5% {x}", r"$\mathrm{E}_{q(z \mid x)} e^{x_{1}}$ {fig:losses} 5% {x}"),
    ],
)  # fmt: skip
def test_numbers_are_filled_in(text, rendered):
    """Filters write a number as the report does; formulas and references to figures stay as they are."""
    assert answers.render(text, {"x": 1234.5, "entry": ENTRY, "one": ENTRY | {"count": 1}}) == rendered


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It is {{ los }}.", "'los' is undefined, in 'It is {{ los }}.'"),
        ("It is {{ loss.ab }}.", "has no attribute 'ab'"),
        ("It is {{ loss | d9 }}.", "No filter named 'd9'"),
        ("It is {{ loss | d2 }}.", "unsupported format"),
        ("It is {{ loss", "unexpected end"),
    ],
)
def test_what_cannot_be_filled_in_is_one_line(text, words):
    """A slip in a template stops with one line that says what and where."""
    with pytest.raises(ReportError, match=re.escape(words)) as caught:
        answers.render(text, {"loss": {}})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("needs", "met"),
    [
        ("", True),
        ("run", True),
        ("run run.hidden", True),
        ("run.beside", False),
        ("second", False),
        ("second.a.b", False),
    ],
)
def test_needs(needs, met):
    """A need is met if it is there and true; what is missing inside of a name is not."""
    assert answers.met(needs, {"run": {"hidden": 1}, "second": None}) is met


def test_needs_are_looked_at_in_turn():
    """After a need that is not met names may be missing; a name that nobody gave is otherwise a slip, and refused."""
    assert not answers.met("second beside", {"second": None})
    with pytest.raises(ReportError, match=r"nothing is called 'secnd' here: did you mean second\?"):
        answers.met("secnd", {"second": None})


def test_an_answer_that_was_not_measured_is_not_made():
    """Its template is not rendered."""
    assert answers.answer("run", " It is {{ run.x | d1 }}.\n", {"run": {"x": 0.25}}) == "It is 0.2."
    assert answers.answer("run", "It is {{ run.x | d1 }}.", {"run": None}) == "*Not measured here.*"


def test_claims_are_the_rows_of_a_table():
    """A claim a row: pipes in braces or behind a backslash do not end a cell; what is not measured is said to be so; what
    decides comes before a semicolon."""
    table = r"""
| the homework says | verdict | why | needs |
|---|---|---|---|
| L = log p(x \| z) in {{ way }} | wrong sign | it is {{ x | d2 }}; {{ way }} is more. | x |
| It is large. | right | it is {{ second.x | d2 }}. | second |
"""
    found = answers.claims(" 1.1", table, {"x": 0.5, "second": None, "way": "A"})
    assert [claim.pop("section") for claim in found] == ["1.1", "1.1"]
    assert found == [
        {"says": "L = log p(x | z) in A", "verdict": "wrong sign", "why": "it is 0.50", "more": "A is more."},
        {"says": "It is large.", "verdict": "not measured here", "why": "", "more": ""},
    ]
    with pytest.raises(ReportError, match="four cells, between five pipes, and not 3"):
        answers.claims("1.1", "| a | b | c |\n|---|---|---|\n| a | b | c |", {})
    with pytest.raises(ReportError, match=r"a verdict begins with one of right, half right, wrong, .*'fine' does not"):
        answers.claims("1.1", "| a |\n|---|\n| It is so. | fine | as one sees. | |", {})


# ---- the notebooks


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_results_stand_between_braces(path):
    """No answer has a decimal number of its own, but for a few that are no results."""
    for _, _, text in filter(None, (answers.parts(cell.source) for cell in nbformat.read(path, 4).cells)):
        prose = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\$[^$]*\$|section [\d.]+", "", text, flags=re.DOTALL)
        assert not set(DECIMAL.findall(prose)) - set(NO_RESULTS), prose
