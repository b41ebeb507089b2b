"""What a long job says."""

from hw2lib.training import Progress, duration


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
