"""Run folders: tables that are cut, numbers measured once, published runs that stay as they are."""

import json
from pathlib import Path

import pytest

from hw2lib.training import Run, RunError, Table, runs


@pytest.fixture
def run(tmp_path):
    """A run that was never trained, with weights."""
    run = Run("small", {"seed": 0}, tmp_path)
    runs.write_whole(run.weights, b"weights")
    return run


def test_a_table_takes_no_rows_with_other_columns(tmp_path):
    """As of a half-done run that another version began: one line says so, and the file stays as it was."""
    table = Table(tmp_path / "t.csv")
    table.append([{"step": 0, "loss": 1.0}])
    whole = table.path.read_bytes()
    with pytest.raises(RunError, match=r"t\.csv has other columns .* go on with the version that began it"):
        table.append([{"step": 1, "loss": 1.0, "fresh": 0.5}])
    assert table.path.read_bytes() == whole


def test_a_table_is_cut_to_the_row(tmp_path):
    """A table cut back to a mark and grown again has the bytes of one that was never cut."""
    table = Table(tmp_path / "t.csv")
    table.cut(table.mark()[0])
    table.append([{"step": i, "loss": i / 7} for i in range(3)])
    mark = table.mark()
    table.append([{"step": i, "loss": i / 7} for i in range(3, 5)])
    whole = table.path.read_bytes()
    table.require(mark)
    table.cut(mark[0])
    assert table.read()["step"].tolist() == [0, 1, 2]
    table.append([{"step": i, "loss": i / 7} for i in range(3, 5)])
    assert table.path.read_bytes() == whole
    table.path.write_bytes(whole.replace(b"0", b"1", 1))
    with pytest.raises(RunError, match=r"t\.csv has been changed since"):
        table.require(mark)
    table.cut(mark[0] - 1)
    with pytest.raises(RunError, match=r"t\.csv has lost rows since"):
        table.require(mark)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_rows_on_a_full_disk_are_one_clear_line():
    """As with every file of a run."""
    with pytest.raises(RunError, match=r"cannot write /dev/full \(the disk is full\): make room"):
        Table(Path("/dev/full")).append([{"step": 1}])


@pytest.mark.parametrize("text", ["step,loss\n1,2\n3\n", "step,loss\n1,here\n", "step,loss\n1,\0\n", "\udcff"])
def test_a_damaged_table_is_one_clear_line(tmp_path, text):
    """Rows of another length, and words for numbers, are refused in one line that names the file."""
    (tmp_path / "t.csv").write_text(text, errors="surrogateescape")
    with pytest.raises(RunError, match=r"t\.csv cannot be read") as caught:
        Table(tmp_path / "t.csv").read()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ['{"rows": [', "[1]", "null", "[" * 100_000])
def test_damaged_numbers_are_one_clear_line(run, text):
    """A metrics.json that is no JSON, or holds no names, is refused in one line that names it."""
    (run.folder / "metrics.json").write_text(text)
    with pytest.raises(RunError, match=r"metrics\.json cannot be read"):
        _ = run.metrics


def test_what_was_measured_is_not_measured_again(run):
    """The second call reads; what either returns is what JSON keeps."""
    first = run.measured("cards", lambda: {"last": {1: (0.5, 2)}})
    assert first == {"last": {"1": [0.5, 2]}}
    assert Run("small", {"seed": 0}, run.folder.parent).measured("cards", lambda: pytest.fail("again")) == first
    assert run.metrics["cards"] == first


def test_other_weights_or_another_version_are_measured_anew(run):
    """Numbers are of these weights and this version of the measurement; those of other names stay as they are."""
    run.measured("other", lambda: 1)
    for version, weights, value in ((1, b"weights", 1), (2, b"weights", 2), (2, b"more weights", 3)):
        run.weights.write_bytes(weights)
        assert run.measured("cards", lambda value=value: value, version) == value
    runs.write_whole(run.folder / "published.safetensors", b"in half precision")
    assert run.kept_weights.name == "published.safetensors"
    assert run.measured("cards", lambda: 4, version=2) == 4
    assert run.metrics["other"] == 1
    run.add_metrics("by hand", 5)  # without a stamp nobody knows what it is of
    assert run.measured("by hand", lambda: 6) == 6


def test_without_weights_the_version_decides(run):
    """A run restored without its network keeps what was measured on it."""
    run.measured("cards", lambda: 1)
    run.weights.unlink()
    assert run.measured("cards", lambda: pytest.fail("again")) == 1
    assert run.measured("cards", lambda: 2, version=2) == 2


def test_a_number_that_is_not_finite_is_refused(run):
    """NaN is no JSON and no result."""
    with pytest.raises(RunError, match=r"cards of small-[0-9a-f]+ cannot be kept"):
        run.measured("cards", lambda: {"kd": float("nan")})
    assert not run.metrics


def test_a_published_run_is_read_only(tmp_path, monkeypatch):
    """It has config, tables, numbers and weights of the repository, measures nothing and is not written."""
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    folder = tmp_path / "results" / "small"
    runs.write_whole(folder / "config.json", json.dumps({"seed": 0}).encode())
    runs.write_whole(folder / "metrics.json", json.dumps({"cards": {"last": 1}}).encode())
    Table(folder / "history.csv").append([{"step": 1, "loss": 0.5}])
    run, before = Run.published("small"), sorted(folder.iterdir())
    assert run.is_published and not Run("small", {"seed": 0}, tmp_path).is_published
    assert run.folder_name == Run("small", {"seed": 0}, tmp_path).folder.name
    assert (run.name, run.folder, run.config) == ("small", folder, {"seed": 0})
    assert run.history["loss"].tolist() == [0.5] and not run.epochs
    assert run.kept_weights == tmp_path / "weights" / "small.safetensors"
    assert run.measured("cards", lambda: pytest.fail("measured"), version=7) == {"last": 1}
    with pytest.raises(RunError, match="card was not published with small: did you mean cards"):
        run.measured("card", lambda: pytest.fail("measured"))
    for write in (lambda: run.add_metrics("cards", {}), lambda: run.note(ended="now"), run.begin):
        with pytest.raises(RunError, match="is published and stays as it is"):
            write()
    assert sorted(folder.iterdir()) == before
    with pytest.raises(RunError, match="no published run smal in"):
        Run.published("smal")


def test_a_third_checkpoint_that_a_kill_has_left_goes(tmp_path):
    """A kill between a new checkpoint and the removal of the oldest leaves three: the next start keeps the last two."""
    run = Run("small", {}, tmp_path)
    for step in (1, 2, 3):
        runs.write_whole(run.folder / "checkpoint" / f"step-{step:08d}.pt", b"")
    with run.begin():
        assert [path.name for path in run._checkpoints()] == ["step-00000002.pt", "step-00000003.pt"]
