"""What a long job says."""

import json

from hw2lib.training import Progress, duration
from hw2lib.training.progress import left


def test_durations_read_well():
    """Seconds, minutes and hours each have their form."""
    assert [duration(s) for s in (7.2, 130, 3700)] == ["7 s", "2 min 10 s", "1 h 01 min"]


def test_progress_says_how_long_and_one_line_an_epoch(capsys, monkeypatch):
    """In a log there is an estimate early on, then a line for each epoch with its numbers and the time left, in a report of which part."""
    monkeypatch.setenv("HW2_PROGRESS", "lines")
    shown = Progress("name", total=60)
    for _ in range(30):
        shown.step()
    monkeypatch.setenv("HW2_PART", "notebook 1 of 2")
    shown.epoch(1, 2, {"loss": 0.25, "codes": 1234})
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("name: 40 steps to go, about ")
    assert second.startswith("name: epoch 1 of 2: loss 0.25, codes 1234; ")
    assert second.endswith(" left of this part of notebook 1 of 2")


def test_what_is_left_of_a_report_counts_other_runs_as_they_are_on_record(monkeypatch, tmp_path):
    """This run's own estimate, and the recorded seconds of all that have not ended; a run that is not on record says nothing of it."""
    monkeypatch.setenv("HW2_PART", "notebook 1 of 2")
    monkeypatch.setenv("HW2_RECORDED", json.dumps({"own-1": 10000, "ended-2": 20000, "begun-3": 600, "to-come-4": 60}))
    for name, facts in (("own-1", {}), ("ended-2", {"ended": "now"}), ("begun-3", {"started": "now"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "provenance.json").write_text(json.dumps(facts))
    said = "30 s left of this part of notebook 1 of 2"
    assert left(30, tmp_path / "own-1") == f"{said}, about 11 min 30 s of the report"
    assert left(30, tmp_path / "own-of-other-data-5") == left(30) == said
