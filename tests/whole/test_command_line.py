"""The command line: it does what the notebooks do, and says in one line what is wrong."""

import subprocess
import sys
import time

import pytest

from hw2lib import __main__ as command_line


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train", "vqgan"], ["train"], ["translat"]])
def test_help_and_usage_errors_come_at_once(words):
    """They import neither torch nor anything else that takes long: less than a second, even on a busy machine."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "hw2lib", *words], capture_output=True, text=True)
    assert (done.returncode == 0) == ("--help" in words)
    assert "Usage" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 1.5


def test_help_imports_no_torch():
    """The command line itself is light: torch comes with the command that needs it."""
    source = "import sys, hw2lib.__main__; print(sorted({'torch', 'papermill', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", source], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "vqvae", "-p", "epoch=3"], "ParameterError: no parameter epoch: did you mean epochs?"),
        (["train", "vqvae", "-p", "epochs"], "ParameterError: epochs must look like epochs=3"),
        (["train", "vqvae", "--preset", "huge"], "ParameterError: no preset 'huge' for 02_vqvae: there are cpu, full,"),
        (["train", "cyclegan", "-p", "size=66"], "ParameterError: size: input should be a multiple of 4, not 66"),
        (["train", "cyclegan", "-p", "objective=wgan"], "ParameterError: objective: input should be 'least_squares'"),
        (["translate", "a.png", "out", "--weights", "no.safetensors"], "WeightsError: no.safetensors is missing"),
        (["translate", "a.png", "b/a.png", "out"], "Problem: out/a.png would be written over"),
        (["sample", "out.bmp"], "Problem: out.bmp must end in .png, .jpg or .webp"),
        (["publish", "--out", "nowhere"], "ReportError: nowhere holds no report.md: build the report first"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words, message, tmp_path, monkeypatch):
    """A wrong word is one clear line and a failure, and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HW2_RUNS", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        command_line.run(words)
    assert str(stopped.value).startswith(message)
    assert "\n" not in str(stopped.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_it_starts_from_a_shell(tmp_path):
    """`python -m hw2lib` from another folder: an error is one line on standard error, with no traceback."""
    words = [sys.executable, "-m", "hw2lib", "train", "cyclegan", "-p", "size=66"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "ParameterError: size: input should be a multiple of 4, not 66\n"
