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


def test_nothing_is_published_by_halves(built, runs, tmp_path):
    """A folder without a report, or a run that is gone, is refused before anything changes."""
    with pytest.raises(ReportError, match="build the report first"):
        publish.publish(tmp_path, root=tmp_path)
    with pytest.raises(ReportError, match="is missing, which the report is about: set HW2_RUNS"):
        publish.publish(built, root=tmp_path, runs=tmp_path / "elsewhere")
    assert not list(tmp_path.iterdir())


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
    page = " ".join((site / "index.html").read_text().split())
    assert "It has taken" in page
    assert re.search(
        r"as they ran for <code>python -m hw2lib report --preset tiny</code>, whose report is another", page
    )
    assert all((site / name).is_file() for name in re.findall(r'href="([\w.]+)"', page))
    with pytest.raises(ReportError, match="build the report first"):
        publish.site(tmp_path / "figures", root=tmp_path)


def test_restore_undoes_publish(tmp_path, monkeypatch):
    """A restored run is the published one, with the network that was kept; what is there already stays."""
    monkeypatch.setattr(publish, "WEIGHTS", ("a",))
    run = Run("a", {"n": 1}, tmp_path / "runs")
    with run.begin():
        run.note(ended="now", seconds=1)
    run.weights.write_bytes(b"all")
    (run.folder / "published.safetensors").write_bytes(b"half")
    build = tmp_path / "build"
    (build / "figures").mkdir(parents=True)
    (build / "report.md").write_text("# R")
    monkeypatch.setattr(
        publish.document, "runs_of", lambda folder: [{"name": "a", "folder": run.folder_name, "published": False}]
    )
    root = tmp_path / "root"
    root.mkdir()
    publish.publish(build, root=root, runs=tmp_path / "runs")
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
