"""Studies: every case is measured once, a killed one goes on, and the numbers are summed up as they are."""

import json

import pytest

from hw2lib.studies import study
from hw2lib.training.runs import Run, RunError

CASES = [{"variant": variant, "seed": seed} for seed in (0, 1, 2) for variant in ("plain", "odd")]


def measure(case):
    number = {"plain": 1.0, "odd": 10.0}[case["variant"]] + case["seed"]
    return {"score": number, "steps": 5} | ({"only": 1.5} if case["variant"] == "odd" else {})


def test_every_case_is_measured_once(tmp_path, capsys):
    """The rows hold the cases in order with their numbers; asked for again, the study is read and nothing measured."""
    run = study.study("small", {"steps": 5}, CASES, measure, tmp_path)
    assert study.rows(run) == [case | measure(case) for case in CASES]
    assert capsys.readouterr().out.splitlines()[0].startswith("small 1/6: plain, 0  (")
    again = study.study("small", {"steps": 5}, CASES, None, tmp_path)
    assert study.rows(again) == study.rows(run)
    assert "finished on" in capsys.readouterr().out


def test_a_killed_study_goes_on(tmp_path):
    """Cases that were measured before the kill are not measured again, and the result is that of one that was not killed."""
    seen = []

    def killed_at(last):
        def one(case):
            if len(seen) == last:
                raise KeyboardInterrupt
            seen.append(case)
            return measure(case)

        return one

    with pytest.raises(KeyboardInterrupt):
        study.study("small", {}, CASES, killed_at(4), tmp_path)
    run = study.study("small", {}, CASES, killed_at(100), tmp_path)
    assert seen == CASES
    assert study.rows(run) == [case | measure(case) for case in CASES]
    assert run.provenance["ended"] >= run.provenance["started"]


def test_other_settings_are_another_study(tmp_path):
    """Settings and cases are the identity: a change of either measures anew, in a folder of its own."""
    first = study.study("small", {"steps": 5}, CASES, measure, tmp_path)
    assert study.study("small", {"steps": 6}, CASES, measure, tmp_path).folder != first.folder
    assert study.study("small", {"steps": 5}, CASES[:2], measure, tmp_path).folder != first.folder
    assert json.loads((first.folder / "config.json").read_text()) == {
        "settings": {"steps": 5},
        "cases": CASES,
    }


def test_two_processes_do_not_measure_the_same(tmp_path):
    """While a study is being measured, a second one is refused in one line."""
    run = Run("small", {"settings": {}, "cases": CASES}, tmp_path)
    with run.begin(), pytest.raises(RunError, match="by another process"):
        study.study("small", {}, CASES, measure, tmp_path)


def test_seeds_are_summed_up(tmp_path):
    """Mean, deviation, least and greatest over the seeds of each variant, in the order of the cases, of the numbers that it has."""
    found = study.by_case(study.study("small", {}, CASES, measure, tmp_path))
    assert list(found) == [("plain",), ("odd",)]
    assert list(found["plain",]) == ["score", "steps"]
    assert list(found["odd",]) == ["score", "steps", "only"]
    wanted = {"mean": 11.0, "deviation": 1.0, "min": 10.0, "max": 12.0, "count": 3}
    assert found["odd",]["score"] == wanted
    assert study.spread(found["odd",]["score"], 1) == "11.0 ± 1.0"
    assert study.spread({"mean": 0.5, "min": 0.5, "max": 0.5, "count": 1}) == "0.500"
