"""What a notebook shows, in Jupyter and in the outputs' notes."""

import base64
from types import SimpleNamespace

import pytest
from matplotlib import pyplot

from hw2lib import ROOT
from hw2lib.report import ReportError, answers, show
from hw2lib.training import Run


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
    assert caption["text/markdown"] == "**Figure.** A caption in lines."
    assert mark == {"hw2lib": {"caption_of": "two-words"}}


@pytest.mark.parametrize(
    ("name", "caption", "alt"),
    [("Two Words", "a", "b"), ("../a", "a", "b"), ("", "a", "b"), ("a", "", "b"), ("a", "b", " "), ("a", "b", "b")],
)
def test_figure_needs_words(displayed, name, caption, alt):
    """A figure without a usable name, a caption and an alternative text of its own is refused, and not drawn."""
    with pytest.raises(ValueError, match="figure"):
        show.figure(lambda: pytest.fail("drawn"), name, caption, alt)
    assert not displayed


def test_the_figure_of_a_published_run_is_the_published_one(displayed):
    """Of a run that was only loaded the picture in figures/ is shown, and none is drawn; of others one is."""
    published = Run.published("ablations")
    show.figure(lambda: pytest.fail("drawn"), "ablation-losses", "Some words.", "Other words", of=published)
    show.figure(pyplot.figure, "ablation-losses", "Some words.", "Other words", of=SimpleNamespace(is_published=False))
    (picture, note), _, (drawn, _), _ = displayed
    published_picture = (ROOT / "figures" / "ablation-losses.png").read_bytes()
    assert base64.b64decode(picture["image/png"]) == published_picture != base64.b64decode(drawn["image/png"])
    assert note["hw2lib"]["figure"] == "ablation-losses"
    with pytest.raises(ReportError, match=r"no-such\.png is missing, which was published with the run"):
        show.figure(pyplot.figure, "no-such", "Some words.", "Other words", of=published)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("Losses before weighting and mean outputs, smoothed over the steps; the rest.", "Losses before weighting and mean outputs"),
        ("From A to B: the first 8 pictures (not chosen), their translations.", "From A to B: the first 8 pictures"),
        ("From B to A, as in {fig:two-words}: the first 8 pictures.", "From B to A: the first 8 pictures"),
        ("Short.", "Short"),
    ],
)  # fmt: skip
def test_a_reference_reads_as_the_captions_first_words(displayed, caption, words):
    """In Jupyter a figure that is referred to is named by its caption; the report still finds the reference."""
    show.figure(pyplot.figure, "some-figure", caption, "Nothing")
    show.text("See {fig:some-figure}, not `{fig:some-figure}` and not {fig:other-one}.")
    data, metadata = displayed[-1]
    assert (
        data["text/markdown"] == f"See the figure “{words}”, not `{{fig:some-figure}}` and not the figure “other one”."
    )
    assert metadata["hw2lib"]["markdown"] == "See {fig:some-figure}, not `{fig:some-figure}` and not {fig:other-one}."


def test_captions_may_hold_numbers(displayed, monkeypatch):
    """Captions, alternative texts and captions of tables are filled in from the notebook's names."""
    shell = SimpleNamespace(user_ns={"steps": 1000})
    monkeypatch.setattr(show, "get_ipython", lambda: shell)
    show.figure(pyplot.figure, "a", "{{ steps | n }} steps.", "After {{ steps }}")
    show.table([{"a": "1"}], "{{ steps | n }} rows.")
    notes = [metadata["hw2lib"] for _, metadata in displayed]
    assert notes[0] == {"figure": "a", "caption": "1,000 steps.", "alt": "After 1000"}
    assert notes[-1] == {"table": True, "caption": "1,000 rows."}
    with pytest.raises(ReportError, match="'stops' is undefined"):
        show.table([{"a": "1"}], "{{ stops }} rows.")


def test_table_in_jupyter(displayed):
    """A table escapes pipes, keeps a cell on its line and sets columns of numbers to the right."""
    show.table([{"a|b": "x\ny", "n": "1 ± 2"}, {"a|b": "z", "n": "–"}], "Some words.")
    caption, table = (data["text/markdown"] for data, _ in displayed)
    assert caption == "**Table.** Some words."
    assert table == "| a\\|b | n |\n| :--- | ---: |\n| x y | 1 ± 2 |\n| z | – |"
    with pytest.raises(ValueError, match="at least one row"):
        show.table([])


def test_provenance_names_the_run(displayed):
    """The note of a run's provenance says which folder it is, and whether it was only loaded."""
    show.provenance(Run.published("ring"))
    ((_, metadata),) = displayed
    note = metadata["hw2lib"]
    assert note["run"] == {"name": "ring", "folder": Run.published("ring").folder_name, "published": True}
    assert note["provenance"]["run"] == f"{note['run']['folder']} (published run, loaded)"


def test_the_four_magics_show_what_they_say(displayed):
    """%%answer shows a text, %%claims a claim a row, %%in_short a result and %%words what words mean, where their needs are met."""
    magics = {}
    shell = SimpleNamespace(user_ns={"loss": 0.25, "other": None})
    shell.register_magic_function = lambda function, kind, name: magics.update({name: function})
    answers.load_ipython_extension(shell)
    magics["answer"]("", "It is {{ loss | d2 }}.\n")
    magics["answer"]("other", "It is {{ other.loss }}.")
    magics["claims"]("1.2", "| a | b | c | d |\n|---|---|---|---|\n| So. | right | {{ loss }} | loss |")
    magics["in_short"]("other", "No.")
    magics["in_short"]("", "Yes, {{ loss | d1 }}.")
    magics["words"]("other", "*Other* is {{ other.loss }}.")
    magics["words"]("loss", "*Loss*\nis {{ loss | d1 }}.")
    assert [data["text/markdown"] for data, _ in displayed] == [
        "It is 0.25.",
        "*Not measured here.*",
        "> **Homework, 1.2:** So. **Right:** 0.25",
        "**In short:** Yes, 0.2.",
        "**In short:** *Loss* is 0.2.",
    ]
    # The report's summary tells the two apart by their notes.
    assert [metadata["hw2lib"] for _, metadata in displayed[-2:]] == [
        {"in_short": "Yes, 0.2."},
        {"words": "*Loss* is 0.2."},
    ]
