"""Publishing a build, and restoring what was published."""

import json
import re
import shutil

import pytest

from hw2lib.report import ReportError, publish
from hw2lib.training import Run


@pytest.fixture
def runs(notebooks):
    """The run folders that the two notebooks left."""
    return notebooks[0].parent / "runs"


def test_publish(built, runs, tmp_path):
    """Publishing copies the report, its figures and its runs' results, and removes those no longer used."""
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "old.png").write_bytes(b"")
    (tmp_path / "results" / "old").mkdir(parents=True)
    publish.publish(built, root=tmp_path, runs=runs)
    assert (tmp_path / "report.md").read_bytes() == (built / "report.md").read_bytes()
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"hero.png", "losses.png", "the-end.png"}
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"a", "b", "SHA256SUMS"}
    assert {path.name for path in (tmp_path / "results" / "a").iterdir()} == {"config.json", "provenance.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "figures", "results"}
    assert publish.kept_sums(tmp_path) == publish.sums(tmp_path)
    assert len(publish.sums(tmp_path)) == 8


def test_of_other_trainings_the_last_pictures_are_published(built, runs, tmp_path, monkeypatch):
    """Of a run whose network stays behind the translations of its last epoch come along; of others, and of a study, all."""
    monkeypatch.setattr(publish, "WEIGHTS", ("b",))
    runs, root = shutil.copytree(runs, tmp_path / "runs"), tmp_path / "root"
    root.mkdir()
    for run in runs.glob("[ab]-*"):
        (run / "translations").mkdir()
        for name in ("translations/epoch-001.webp", "translations/epoch-002.webp", "translations/full.webp"):
            (run / name).write_bytes(b"")
        (run / "weights.safetensors").write_bytes(b"")
    publish.publish(built, root=root, runs=runs)
    kept = {name: sorted(path.stem for path in (root / f"results/{name}/translations").iterdir()) for name in "ab"}
    assert kept == {"a": ["epoch-002", "full"], "b": ["epoch-001", "epoch-002", "full"]}


def test_nothing_is_published_by_halves(built, runs, tmp_path, monkeypatch):
    """A run that is gone, or half done, or whose network is gone, is refused before anything changes."""
    with pytest.raises(ReportError, match="is missing, which the report is about: set HW2_RUNS"):
        publish.publish(built, root=tmp_path, runs=tmp_path / "elsewhere")
    monkeypatch.setattr(Run, "provenance", {})
    with pytest.raises(ReportError, match=r"runs/a-\w+ is no finished run: build the report again"):
        publish.publish(built, root=tmp_path, runs=runs)
    monkeypatch.undo()
    monkeypatch.setattr(publish, "WEIGHTS", ("b",))
    with pytest.raises(ReportError, match=r"runs/b-\w+ is no finished run"):
        publish.publish(built, root=tmp_path, runs=runs)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lost", ["report.md", "figures", "notebooks", "notebooks/02_other.html"])
@pytest.mark.parametrize("command", [publish.publish, publish.site])
def test_half_a_build_is_refused_before_any_work(built, tmp_path, monkeypatch, command, lost):
    """What of a build is missing, and what to run, is one line; so is a notebook that a later build left half-run."""
    root = tmp_path / "root"
    (root / "figures").mkdir(parents=True)
    (root / "report.md").write_text("# R")
    build = shutil.copytree(built, tmp_path / "build")
    (build / lost).rename(tmp_path / "lost")
    monkeypatch.setattr(publish.pages, "write_pdf", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(
        ReportError, match=rf"build/{lost}\S* is missing: build the report first, with python -m hw2lib report"
    ):
        command(build, root=root)
    (tmp_path / "lost").rename(build / lost)
    notebook = build / "notebooks" / "01_sample.ipynb"
    notebook.write_text(re.sub('"execution_count": [0-9]+', '"execution_count": null', notebook.read_text()))
    with pytest.raises(ReportError, match=r"01_sample.ipynb, cell \d+ was not run"):
        command(build, root=root)
    assert sorted(path.name for path in root.iterdir()) == ["figures", "report.md"]
    assert not (build / "site").exists()


def test_loaded_runs_stay_published(built, runs, tmp_path, monkeypatch):
    """A published run that the report only loaded is not published again: its results stay as they are."""
    found = publish.document.runs_of(built / "notebooks")
    found[0] |= {"published": True}
    monkeypatch.setattr(publish.document, "runs_of", lambda folder: found)
    (tmp_path / "results" / "a").mkdir(parents=True)
    (tmp_path / "results" / "a" / "config.json").write_text("{}")
    publish.publish(built, root=tmp_path, runs=runs)
    assert (tmp_path / "results" / "a" / "config.json").read_text() == "{}"
    assert (tmp_path / "results" / "b" / "config.json").read_text() != "{}"


def test_site(built, tmp_path):
    """A site is the published report and the notebooks that were built; where these are others, its first page says so."""
    build = shutil.copytree(built, tmp_path / "build")
    for path in (built / "figures", built / "report.md"):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    publish.site(build, root=tmp_path)
    published = (tmp_path / "report.md").read_text()
    (tmp_path / "report.md").write_text(published.replace("It took", "It has taken"))
    assert "whose report is another" not in (build / "site" / "index.html").read_text()
    site = publish.site(build, root=tmp_path)
    stems = ("01_sample", "02_other")
    assert {path.name for path in site.iterdir()} == {
        *("index.html", "report.pdf"), *(f"{stem}.{kind}" for stem in stems for kind in ("html", "ipynb"))
    }  # fmt: skip
    assert site.stat().st_mode == (build / "notebooks").stat().st_mode  # others may read it, too
    page = " ".join((site / "index.html").read_text().split())
    assert "It has taken" in page
    assert re.search(
        r"as they ran for <code>python -m hw2lib report --preset tiny</code>, whose report is another", page
    )
    assert all((site / name).is_file() for name in re.findall(r'href="([\w.]+)"', page))
    (tmp_path / "report.md").unlink()
    with pytest.raises(ReportError, match=r"report.md is missing: get the whole repository"):
        publish.site(build, root=tmp_path)


def test_restore_undoes_publish(built, tmp_path, monkeypatch):
    """A restored run is the published one, with the network that was kept; what is there already stays."""
    monkeypatch.setattr(publish, "WEIGHTS", ("a",))
    run = Run("a", {"n": 1}, tmp_path / "runs")
    with run.begin():
        run.note(ended="now", seconds=1)
    run.weights.write_bytes(b"all")
    (run.folder / "published.safetensors").write_bytes(b"half")
    monkeypatch.setattr(
        publish.document, "runs_of", lambda folder: [{"name": "a", "folder": run.folder_name, "published": False}]
    )
    root = tmp_path / "root"
    root.mkdir()
    publish.publish(built, root=root, runs=tmp_path / "runs")
    (line,) = publish.restore(root=root, runs=tmp_path / "again")
    restored = Run("a", {"n": 1}, tmp_path / "again")
    assert line == f"{restored.folder} restored"
    assert restored.finished and restored.weights.read_bytes() == b"half"
    assert json.loads((restored.folder / "config.json").read_text()) == {"n": 1}
    assert restored.damaged() == []
    restored.weights.write_bytes(b"other")
    assert restored.damaged() == ["weights.safetensors"]
    assert "is there already; delete it" in publish.restore(root=root, runs=tmp_path / "again")[0]
    (root / "weights" / "a.safetensors").unlink()
    with pytest.raises(ReportError, match=r"a.safetensors is missing: get the whole repository"):
        publish.restore(root=root, runs=tmp_path / "third")
    assert not (tmp_path / "third").exists()
