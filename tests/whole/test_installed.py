"""hw2lib where pip has put it, without the repository."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from PIL import Image

from hw2lib import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The command line of what a wheel holds, unpacked as pip does, run in another folder."""
    folder = tmp_path_factory.mktemp("installed")
    for name in ("hw2lib", "notebooks", "weights"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder]
    subprocess.run([*pip, folder / "source"], check=True)
    zipfile.ZipFile(next(folder.glob("*.whl"))).extractall(folder / "site")
    (folder / "elsewhere").mkdir()

    def run(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "hw2lib", *words]
        environment = os.environ | {"PYTHONPATH": str(folder / "site")}
        return subprocess.run(command, cwd=folder / "elsewhere", env=environment, capture_output=True, text=True)

    run.folder = folder / "elsewhere"
    return run


def test_published_networks_come_with_the_package(run):
    """All three networks work as pip has installed them, and what they make is in the folder where one is."""
    done = run("sample", "--n", "4", "new.png")
    assert done.returncode == 0, done.stderr
    assert Image.open(run.folder / "new.png").size[0] > 2 * 32
    Image.new("RGB", (150, 128)).save(run.folder / "photo.png")
    done = run("translate", "photo.png")
    assert done.returncode == 0, done.stderr
    assert Image.open(run.folder / "photo-zebra.png").size == (152, 128)


def test_presets_come_with_the_package_and_runs_stay_out_of_it(run):
    """A training with a preset works, and leaves its run where one is."""
    done = run("train", "vqvae", "--preset", "smoke")
    assert done.returncode == 0, done.stderr
    assert list((run.folder / "runs").glob("vqvae-*/weights.safetensors"))


@pytest.mark.parametrize("command", ["report", "publish", "site", "restore", "check"])
def test_what_needs_the_repository_says_so(run, command):
    """Commands about the report end in one line that says where they work."""
    done = run(command)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "needs the repository" in done.stderr
