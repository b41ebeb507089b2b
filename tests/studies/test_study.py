"""Studies: every case is measured once, a killed one goes on, and the numbers are summed up as they are."""

import json

import pytest
import torch

from hw2lib import studies
from hw2lib.parameters import CycleGANParameters
from hw2lib.studies import mode_collapse, study
from hw2lib.training import Run, RunError

CASES = [{"variant": variant, "seed": seed} for seed in (0, 1, 2) for variant in ("plain", "odd")]


def measure(case):
    number = {"plain": 1.0, "odd": 10.0}.get(case["variant"], 0.0) + case["seed"]
    return {"score": number, "steps": 5} | ({"only": 1.5} if case["variant"] == "odd" else {})


class Recorder:
    """`measure` that remembers its cases and is interrupted before it measures `last` of them."""

    def __init__(self, last=100):
        self.seen, self.last = [], last

    def __call__(self, case):
        if len(self.seen) == self.last:
            raise KeyboardInterrupt
        self.seen.append(case)
        return measure(case)


def test_every_case_is_measured_once(tmp_path, capsys):
    """The rows hold the cases in order with their numbers; asked for again, the study is read and nothing measured."""
    run = study.study("small", {"steps": 5}, CASES, measure, tmp_path)
    assert study.rows(run) == [case | measure(case) for case in CASES]
    assert capsys.readouterr().out.splitlines()[0].startswith("small: case 1 of 6: variant plain, seed 0; ")
    again = study.study("small", {"steps": 5}, CASES, None, tmp_path)
    assert study.rows(again) == study.rows(run)
    assert "finished on" in capsys.readouterr().out


def test_a_killed_study_goes_on(tmp_path):
    """Cases that were measured before the kill are not measured again, and the result is that of one that was not killed."""
    killed, rest = Recorder(4), Recorder()
    with pytest.raises(KeyboardInterrupt):
        study.study("small", {}, CASES, killed, tmp_path)
    run = study.study("small", {}, CASES, rest, tmp_path)
    assert killed.seen + rest.seen == CASES
    assert study.rows(run) == [case | measure(case) for case in CASES]
    assert run.provenance["ended"] >= run.provenance["started"]
    assert [again["rows"] for again in run.provenance["resumed"]] == [4]


def test_a_study_without_provenance_goes_on(tmp_path):
    """Where that file was lost the rows still hold, and the provenance begins anew."""
    run = study.study("small", {}, CASES, measure, tmp_path)
    (run.folder / "provenance.json").unlink()
    again = study.study("small", {}, CASES, None, tmp_path)
    assert study.rows(again) == study.rows(run) and {"started", "ended", "seconds"} <= again.provenance.keys()


def test_new_cases_are_added_and_old_ones_kept(tmp_path):
    """More seeds and variants are the same run: only what is missing is measured; what is asked for comes first, in order."""
    first = study.study("small", {}, CASES[:2], measure, tmp_path)
    recorder = Recorder()
    wider = [{"variant": variant, "seed": seed} for variant in ("third", "odd") for seed in (1, 0)]
    run = study.study("small", {}, wider, recorder, tmp_path)
    assert run.folder == first.folder
    assert recorder.seen == [case for case in wider if case not in CASES[:2]]
    assert study.rows(run) == [case | measure(case) for case in [*wider, CASES[0]]]


def test_a_case_that_means_something_else_is_measured_anew(tmp_path):
    """Options are no identity: where those of a value change, its rows are measured again, and no others."""
    means = {"plain": {"weight": 1.0}, "odd": {"weight": 2.0}}
    first = study.study("small", {}, CASES, measure, tmp_path, {"variant": means})
    assert first.metrics["options"] == {"variant": means}
    for changed, recorder in (({"odd": {"weight": 3.0}}, Recorder()), ({"odd": {"weight": 3.0}}, Recorder(0))):
        run = study.study("small", {}, CASES, recorder, tmp_path, {"variant": changed})
        assert run.folder == first.folder
        assert recorder.seen == ([case for case in CASES if case["variant"] == "odd"] if recorder.last else [])
        assert run.metrics["options"] == {"variant": means | changed}
        assert study.rows(run) == study.rows(first)


def test_settings_are_the_identity(tmp_path):
    """Other settings are another folder, whose config.json holds them and nothing else."""
    first = study.study("small", {"steps": 5}, CASES, measure, tmp_path)
    assert study.study("small", {"steps": 6}, CASES, measure, tmp_path).folder != first.folder
    assert json.loads((first.folder / "config.json").read_text()) == {"settings": {"steps": 5}}


def test_two_processes_do_not_measure_the_same(tmp_path):
    """While a study is being measured, a second one is refused in one line."""
    run = Run("small", {"settings": {}}, tmp_path)
    with run.begin(), pytest.raises(RunError, match="by another process"):
        study.study("small", {}, CASES, measure, tmp_path)


def test_a_case_has_one_thread(tmp_path, monkeypatch):
    """Whatever the caller's number of threads, which is his again afterwards."""
    threads = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    run = study.study("small", {}, CASES[:1], measure, tmp_path)
    assert threads == [1, 7]
    assert run.provenance["threads"] == 1


@pytest.mark.slow
def test_side_by_side_is_one_after_the_other(tmp_path):
    """Two jobs give the rows of one job, bit for bit and in the same order."""
    options = {"widths": (4, 8), "ratios": (1, 5), "steps": 5, "seeds": (0,)}
    one, two = (mode_collapse.ring(tmp_path / str(n_jobs), n_jobs=n_jobs, **options) for n_jobs in (1, 2))
    assert json.dumps(study.rows(one)) == json.dumps(study.rows(two))


def test_seeds_are_summed_up(tmp_path):
    """Mean, deviation, least and greatest over the seeds of each variant, in the order of the cases, of the numbers that it has."""
    run = study.study("small", {}, CASES, measure, tmp_path)
    found = study.by_case(run)
    assert list(found) == ["plain", "odd"]
    assert list(found["plain"]) == ["score", "steps"]
    assert list(found["odd"]) == ["score", "steps", "only"]
    assert found["odd"]["score"] == {"mean": 11.0, "deviation": 1.0, "min": 10.0, "max": 12.0, "count": 3}
    assert study.seeds(run) == 3
    assert study.values(run, "seed", "score", variant="odd") == {0: [10.0], 1: [11.0], 2: [12.0]}


def test_cases_of_two_things_are_one_inside_the_other(tmp_path):
    """{{ terms.gradient.codebook.score.mean }} finds its number in a template; a number that one seed lacks is left out."""
    cases = [{"codebook": "gradient", "removed": "codebook", "seed": seed} for seed in (0, 1)]
    numbers = [{"score": 1.0, "early": 5.0}, {"score": 2.0}]
    run = study.study("terms", {}, cases, lambda case: numbers[case["seed"]], tmp_path)
    assert study.by_case(run)["gradient"]["codebook"].keys() == {"score"}
    assert study.by_case(run)["gradient"]["codebook"]["score"]["mean"] == 1.5


def test_entries_differ_where_no_seeds_overlap():
    """All seeds on one side; a shared value is no difference."""
    low, high, wide = ({"min": least, "max": most} for least, most in ((0, 1), (2, 3), (1, 4)))
    assert study.above(high, low) and not study.above(low, high) and not study.above(wide, low)
    assert study.differ(low, high) and study.differ(high, low) and not study.differ(wide, low)


def test_train_briefly_makes_the_steps_that_it_is_asked_for():
    """Epochs follow each other as long as there are steps; a step's chance is the seed's and torch's own is left alone."""

    class Model(torch.nn.Module):
        def setup(self, fabric, total_steps):
            self.seen, self.total_steps = [], total_steps

        def step(self, batch):
            self.seen.append(batch)
            assert self.training
            return {"number": torch.tensor(float(len(self.seen))), "chance": torch.rand(())}

    def batches(epoch):
        return iter([(epoch, 0), (epoch, 1), (epoch, 2)])

    models, before = [Model(), Model(), Model()], torch.get_rng_state()
    one, again = (study.train_briefly(model, batches, 5, seed=3) for model in models[:2])
    assert models[0].seen == [divmod(step, 3) for step in range(5)]
    assert models[0].total_steps == 5 and not models[0].training
    assert one["number"].tolist() == [1, 2, 3, 4, 5]
    assert torch.equal(one["chance"], again["chance"])
    assert torch.equal(torch.get_rng_state(), before)
    study.train_briefly(models[2], batches, 2, 3, next)
    assert models[2].seen == [(0, 1), (1, 0)]


def test_published_studies_are_loaded(monkeypatch):
    """All eight by their names, with as many rows as cases; asked to be run, each is made with the notebook's sizes."""
    asked = CycleGANParameters()
    for name, count in {"ablations": 27, "linear-vae": 18, "decoder-power": 18, "ring": 108, "plane": 190}.items():
        run = studies.load_or_run(name, asked)
        assert run.is_published and len(study.rows(run)) == count
        assert study.seeds(run) == (10 if name == "plane" else 3)
    for name, count in {"codebook-terms": 24, "codebook-starts": 15, "codebook-quantizers": 12}.items():
        assert len(study.rows(studies.load_or_run(name, asked, pictures=None, config=None))) == count
    monkeypatch.setattr(mode_collapse, "ring", lambda **given: given)
    asked = CycleGANParameters(experiments="run", answer_steps=7, answer_seeds=2, runs="/there", n_jobs=4)
    assert studies.load_or_run("ring", asked) == {"runs": "/there", "steps": 7, "seeds": range(2), "n_jobs": 4}
