"""
What the report begins and ends with: a picture, what was found, which of the homework's claims hold; and the runs behind it.

All is read from what the notebooks showed (`document.Shown`): nothing is said here that no cell said.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby

from hw2lib.report import ReportError, show
from hw2lib.report.answers import VERDICTS
from hw2lib.report.markdown import anchor

HERO = "hero"  # the name of the figure that the report begins with, wherever its notebook makes it
Prose = Callable[[str, str], str]  # Markdown, and where it stands -> as the report has it


def in_short(found: Sequence, headings: list[str], prose: Prose) -> list[str]:
    """The heading "In short", every `%%in_short`, and the claims; nothing if there are none of either."""
    findings = [f"- {prose(shown.note['in_short'], shown.where)}" for shown in found if "in_short" in shown.note]
    parts = [*(["\n".join(findings)] if findings else []), *claims(found, headings, prose)]
    return ["## In short", *parts] if parts else []


def claims(found: Sequence, headings: list[str], prose: Prose) -> list[str]:
    """How many claims have which verdict, the `%%words` that they use, and the claims by the question that they stand under.

    By the homework's sections, whatever the order of the notebooks. Raises ReportError for a claim under no heading, or
    under one that is not the only one of its name, which a link could not tell apart.
    """
    made = sorted((shown for shown in found if "claim" in shown.note), key=lambda shown: shown.note["claim"]["section"])
    lines, kinds = [], Counter()
    for (section, heading), group in groupby(made, lambda shown: (shown.note["claim"]["section"], shown.heading)):
        number = "" if heading.endswith(f"({section})") else f" ({section})"
        lines.append(f"- [{heading}](#{anchor(heading)}){number}")
        for where, _, _, note in group:
            if headings.count(heading) != 1:
                told = f"{heading!r} stands there twice" if heading else "there is none above it"
                raise ReportError(f"{where}: a claim needs a heading of its own, and {told}")
            says, verdict, why = (note["claim"][key] for key in ("says", "verdict", "why"))
            kinds[next(kind for kind in VERDICTS if verdict.startswith(kind))] += 1
            because = f" {_capital(why).rstrip('.')}." if why else ""
            lines.append(f"  - **{_capital(verdict)}.** " + prose(f'"{says}"{because}', where))
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in VERDICTS if kinds[kind])
    words = [prose(shown.note["words"], shown.where) for shown in found if "words" in shown.note]
    return [f"**{len(made)} claims of the homework:** {counts}.", *words, "\n".join(lines)] if made else []


def provenance(notes: list[dict]) -> list[str]:
    """
    The heading "Provenance" and a table with a row for each `show.provenance`, or nothing if there was none.

    What is the same for all runs is said once, below.
    """
    facts = [note["provenance"] for note in notes if "provenance" in note]
    if not facts:
        return []
    names = list(dict.fromkeys(name for found in facts for name in found))
    # JSON sorts by name.
    names.sort(key=lambda name: name != "run")
    same = [name for name in names if len(facts) > 1 and len({found.get(name) for found in facts}) == 1]
    rows = [{name: found.get(name, "") for name in names if name not in same} for found in facts]
    common = "; ".join(f"{name}: {facts[0][name]}" for name in same)
    number = 1 + sum("number" in note for note in notes if "table" in note)
    table = f"**Table {number}.** The runs behind this report.\n\n{show.pipe_table(rows)}"
    return ["## Provenance", table, *([f"The same for all: {common}."] if same else [])]


def last_day(report: str) -> str:
    """The day on which the last of the runs under Provenance ended, 2026-01-31, or nothing."""
    return max(re.findall(r", until (\d{4}-\d\d-\d\d) ", report.partition("\n## Provenance\n")[2]), default="")


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
