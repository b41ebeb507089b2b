"""
Prose with measured numbers: `%load_ext hw2lib.report.answers` gives a notebook four cell magics.

    %%answer ablations metrics.hidden
    Without the cycle loss the error there and back is {{ cases.no_cycle_loss.cycle_aba.mean | d2 }} ({fig:plane-arrows}).

    %%claims 1.1
    | the homework says | verdict | why | needs |
    |---|---|---|---|
    | The identity loss has no positive effect. | wrong | the background changes by {{ change | d2 }} only. | ablations |

    %%in_short run
    **CycleGAN**, {{ run.config.epochs }} epochs ...

    %%words
    *KD* is a distance to real pictures ...

Between double braces stands Jinja over the names of the notebook, and what it gives is shown as it is, whatever it holds;
all else is Markdown. What follows the other three, and the last column of the claims, are needs: names or expressions
without spaces that must all be true, for else the sentence has not been measured here and is not made. A claim's verdict
begins with one of VERDICTS, which the report counts; what of its `why` comes before the first "; " decides, and stands in the
report's summary, too. What the words of that summary mean, `words` says.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial

import jinja2

from hw2lib import did_you_mean, in_one_line, printable
from hw2lib.report import ReportError, titles
from hw2lib.report.markdown import code, escape
from hw2lib.training.progress import duration

NOT_MEASURED = "not measured here"
MAGICS = ("answer", "claims", "in_short", "words")
VERDICTS = ("right", "half right", "wrong", "not shown", NOT_MEASURED)
# A cell of a table: no pipe ends it inside of braces, nor one behind a backslash.
CELL = re.compile(r"((?:\{\{.*?\}\}|\{%.*?%\}|\\.|[^|\\])*)\|")

FILTERS = {
    **{f"d{digits}": f"{{:.{digits}f}}".format for digits in range(7)},
    **{f"pm{digits}": lambda entry, digits=digits: titles.plus_minus(entry, digits) for digits in range(4)},
    "pct": "{:.0%}".format,
    "pct1": "{:.1%}".format,
    "n": "{:,.0f}".format,
    "g": "{:g}".format,
    "g3": "{:.3g}".format,
    "code": code,
    "duration": duration,
    "seeds": titles.seeds_in_words,
    "pace": titles.pace,
    "size": titles.size,
    "title": titles.title,
}


def _text(change: Callable[[str], str]) -> Callable:
    return lambda value: change(value) if isinstance(value, str) else value


TEMPLATES = jinja2.Environment(undefined=jinja2.StrictUndefined, finalize=_text(escape))
TEMPLATES.filters |= FILTERS
PLAIN = TEMPLATES.overlay(finalize=_text(printable))
# What is needed may be missing; what is written may not.
NEEDS = TEMPLATES.overlay(undefined=jinja2.ChainableUndefined)


def render(text: str, names: Mapping, plain: bool = False) -> str:
    """The text with every {{ }} filled in from `names`, escaped unless the text is `plain` and no Markdown.

    Raises ReportError for a name that is not there.
    """
    try:
        return (PLAIN if plain else TEMPLATES).from_string(text).render(names)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise ReportError(f"{in_one_line(error)}, in {' '.join(text.split())[:80]!r}") from error


def met(needs: str, names: Mapping) -> bool:
    """Whether all of the needs, separated by spaces, are true; what comes after one that is not is not looked at.

    Raises ReportError for a name that nobody has given: a slip would hide a sentence for good.
    """
    for need in needs.split():
        name = re.match(r"\w*", need)[0]
        if name not in names:
            raise ReportError(f"nothing is called {name!r} here: {did_you_mean(name, names)}")
        if not NEEDS.compile_expression(need)(names):
            return False
    return True


def answer(needs: str, text: str, names: Mapping) -> str:
    """The rendered text, or that it has not been measured."""
    return render(text, names).strip() if met(needs, names) else f"*{NOT_MEASURED.capitalize()}.*"


def claims(section: str, text: str, names: Mapping) -> list[dict[str, str]]:
    """The arguments of `show.claim` for each row of a Markdown table. Raises ReportError for a row without four cells."""
    found = []
    for line in text.strip().splitlines()[2:]:
        cells = [cell.strip().replace(r"\|", "|") for cell in CELL.findall(line.strip()[1:])]
        if len(cells) != 4:
            raise ReportError(
                f"a claim has four cells, between five pipes, and not {len(cells)}: {line.strip()[:80]!r}"
            )
        says, verdict, why, needs = cells
        if not verdict.startswith(VERDICTS):
            raise ReportError(f"a verdict begins with one of {', '.join(VERDICTS[:-1])}, and {verdict!r} does not")
        verdict, why = (verdict, why) if met(needs, names) else (NOT_MEASURED, "")
        why, _, more = why.partition("; ")
        texts = {"says": says, "verdict": verdict, "why": why, "more": more}
        found.append({"section": section.strip()} | {key: render(cell, names) for key, cell in texts.items()})
    return found


def parts(source: str) -> tuple[str, str, str] | None:
    """(magic, its line, its text) of a cell with one of the magics, None of any other."""
    first, _, text = source.partition("\n")
    magic, _, line = first.removeprefix("%%").partition(" ")
    return (magic, line.strip(), text) if first.startswith("%%") and magic in MAGICS else None


def run(magic: str, line: str, text: str, names: Mapping) -> None:
    """Show what a cell with one of the magics says."""
    from hw2lib.report import show  # which renders captions by this room

    if magic == "answer":
        show.text(answer(line, text, names))
    elif magic == "claims":
        for found in claims(line, text, names):
            show.claim(**found)
    elif met(line, names):
        show.result(render(text, names), magic)


def load_ipython_extension(shell) -> None:
    """Register the magics."""
    for magic in MAGICS:
        shell.register_magic_function(partial(run, magic, names=shell.user_ns), "cell", magic)
