"""The command line: it does what the notebooks do, and says in one line what is wrong."""

import os
import signal
import subprocess
import sys
import time
import tomllib

import pytest

from hw2lib import ROOT, recipes
from hw2lib import __main__ as command_line
from hw2lib.data import toy_pictures
from hw2lib.training import Progress


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train", "vqgan"], ["train"], ["translat"]])
def test_help_and_usage_errors_come_at_once(words):
    """They import neither torch nor anything else that takes long: less than a second, even on a busy machine."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "hw2lib", *words], capture_output=True, text=True)
    assert (done.returncode == 0) == ("--help" in words)
    assert "Usage" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize(("words", "code"), [([], 2), (["translate", "no.jpg"], 1)])
def test_help_and_missing_files_import_no_torch(words, code):
    """The command line itself is light: torch comes with the command that needs it, and when it does."""
    source = f"""
import sys
from hw2lib.__main__ import run
try:
    run({words})
except SystemExit as stopped:
    print(stopped.code, sorted({{"torch", "papermill", "pydantic"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", source], capture_output=True, text=True).stdout == f"{code} []\n"


def test_it_has_the_name_that_it_was_called_by():
    """`hw2` of pyproject.toml starts it, and help and messages say hw2; else they say `python -m hw2lib`."""
    module, _, name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["hw2"].partition(":")
    source = f"import sys; sys.argv[0] = '/bin/hw2'; from {module} import {name}; {name}()"
    for start, called in ((["-c", source], "hw2"), (["-m", "hw2lib"], "python -m hw2lib")):
        for words, said in ((["train", "--help"], f"Usage: {called} train"), (["trian"], f"(see {called} --help)")):
            done = subprocess.run([sys.executable, *start, *words], capture_output=True, text=True)
            assert said in done.stdout + done.stderr


def ended(words, capsys):
    """The exit code of the command line with these words, and what it said on standard error."""
    with pytest.raises(SystemExit) as stopped:
        command_line.run([str(word) for word in words])
    return stopped.value.code, capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_training_with_a_checkpoint(number, code, tmp_path, monkeypatch, capsys):
    """The line says after which step, where the checkpoint is and how to go on; the same command then does."""
    monkeypatch.setattr(recipes, "load", lambda *_: toy_pictures(32, 12, 4))
    words = ["train", "vqvae", "--preset", "smoke", "-p", f"runs={tmp_path}", "-p", "batch_size=2"]
    step, done = Progress.step, []

    def signalled_after_three(progress):
        done.append(1)
        if len(done) == 3:
            os.kill(os.getpid(), number)
        step(progress)

    monkeypatch.setattr(Progress, "step", signalled_after_three)
    found, said = ended(words, capsys)
    (folder,) = tmp_path.glob("vqvae-*")
    assert found == code
    assert said.splitlines()[-1] == (
        f"Stopped after step 3 of 6, with a checkpoint in {folder}: the same command goes on from there"
    )
    command_line.run(words)
    assert len(done) == 6
    assert capsys.readouterr().out.splitlines()[-1] == str(folder)


def test_an_interrupt_elsewhere_is_one_line(monkeypatch, capsys):
    """Ctrl-C before or after a training, or a second one within."""
    monkeypatch.setattr(command_line.files, "require_writable", lambda _: signal.raise_signal(signal.SIGINT))
    code, said = ended(["sample", "a.png"], capsys)
    assert (code, said.strip().count("\n")) == (130, 0), said


@pytest.mark.parametrize(
    ("model", "parameter"),
    [
        ("cyclegan-identity", "identity_epochs=1 or more"),
        ("cyclegan-again", "again=true"),
        ("cyclegan-double", "again=true"),
        ("vqvae-short", "comparison_updates=1 or more"),
        ("vqvae-held-out", "longer_runs=true"),
    ],
)
def test_what_the_parameters_do_not_train_is_said_first(model, parameter, monkeypatch, capsys):
    """The one parameter that this training needs is named, before any picture is loaded; with it the training begins."""
    setup = "cyclegan_setup" if model.startswith("cyclegan") else "vqvae_setup"
    monkeypatch.setattr(recipes, setup, lambda _: pytest.fail("pictures were loaded"))
    words = ["train", model, "--preset", "quick"]
    assert ended(words, capsys) == (1, f"Problem: these parameters train no {model}: add -p {parameter}\n")
    monkeypatch.setattr(recipes, setup, lambda _: signal.raise_signal(signal.SIGINT))
    assert ended([*words, "-p", parameter.removesuffix(" or more")], capsys)[0] == 130


@pytest.mark.slow
def test_it_starts_from_a_shell(tmp_path):
    """`python -m hw2lib` from another folder: an error is one line on standard error, with no traceback."""
    words = [sys.executable, "-m", "hw2lib", "train", "cyclegan", "-p", "size=66"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "ParameterError: size: input should be a multiple of 4, not 66\n"
