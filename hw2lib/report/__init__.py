"""
The report wing: numbers of finished runs in, a report out.

`titles`, `tables`, `figures` and `charts` show numbers; `answers` and `show` put them into a notebook; `build` runs the
notebooks, `document` and `pages` make Markdown, HTML and PDF of them, `publish` keeps the result, `check` makes it again.
Only notebooks, tests and the command line import this wing.
"""

from hw2lib import Problem


class ReportError(Problem):
    """The report cannot be built; the message is one clear line."""
