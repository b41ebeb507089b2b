"""The README's commands run as written, and what it and the other pages say is so."""

import re
import shlex

import pytest
from PIL import Image

from hw2lib import ROOT
from hw2lib import __main__ as command_line

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.strip()]


def test_commands_exist():
    """Every make target, preset, notebook and file that the README's commands name exists."""
    makefile = (ROOT / "Makefile").read_text()
    assert COMMANDS
    for command in COMMANDS:
        words = shlex.split(command, comments=True)
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), command
        for word in words:
            if word.startswith(("notebooks/", "benchmarks/", "hw2lib/")):
                assert (ROOT / word).exists(), command


def test_the_map_names_every_room():
    """Every module and every folder of the package is on the map in CONTRIBUTING.md, and what the map names exists."""
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## Where to find what")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", section))
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hw2lib").glob("*.py")}
    there |= {f"{path.parent.relative_to(ROOT).as_posix()}/" for path in (ROOT / "hw2lib").glob("*/__init__.py")}
    assert there - {"hw2lib/__init__.py"} <= named
    assert all((ROOT / name).exists() for name in named)


@pytest.mark.parametrize("page", ["README.md", "weights/README.md"])
def test_numbers_are_the_reports(page):
    """Each score in a table or a list of the page, in words as it stands there, is in report.md."""
    text = re.sub(r"```.*?```|Python [\d.]+|\[[^]]*\]\([^)]*\)", "", (ROOT / page).read_text(), flags=re.DOTALL)
    number = re.compile(r"(?<![\w.])(?:\d+\.\d{2,}(?![\w.])|\d+\.?\d*%)")
    scores = set(number.findall(text))
    assert scores
    assert scores - set(number.findall((ROOT / "report.md").read_text())) == set()


def test_sizes_of_the_weights_are_those_of_the_files():
    """The card's megabytes are the files'."""
    card = (ROOT / "weights" / "README.md").read_text()
    said = re.findall(r"^## (\S+) \((\S+) MB\)", card, re.MULTILINE)
    files = {path.name: f"{path.stat().st_size / 1e6:.1f}" for path in (ROOT / "weights").glob("*.safetensors")}
    assert dict(said) == files


def test_lines_of_the_command_line_are_understood():
    """Every line of the README for our own command, also of what takes hours, names a command and options that there are."""
    lines = [words for command in COMMANDS for words in re.findall(r"(?:-m hw2lib|bin/hw2) (.*)", command)]
    assert len(lines) > 5
    for name, *words in map(shlex.split, lines):
        command_line.main.commands[name].make_context(name, words)


def test_set_up_is_what_make_does():
    """The plain pip line of the README installs what make installs."""
    (line,) = (command for command in COMMANDS if "pip install" in command)
    what = line.partition("pip install ")[2]
    assert what in (ROOT / "Makefile").read_text()


@pytest.mark.slow
def test_sample_line_draws_horses(tmp_path, monkeypatch):
    """The README's line for new pictures runs as written, on the published weights, and leaves 64 of them."""
    (line,) = (command for command in COMMANDS if " sample " in command)
    monkeypatch.chdir(tmp_path)
    command_line.run(shlex.split(line)[1:])
    width, height = Image.open("horses.png").size
    assert height == 4 * (8 * 33 - 1) < width


@pytest.mark.slow
def test_translate_line_translates(tmp_path, monkeypatch):
    """The README's line for translating runs as written, on the published weights."""
    (line,) = (command for command in COMMANDS if " translate " in command)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    command_line.run(shlex.split(line)[1:])
    assert Image.open("horse-1-zebra.png").size == (512, 512)


@pytest.mark.slow
def test_python_lines_run(capsys):
    """The README's Python lines run as written and show the shapes that they say."""
    source = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    exec(compile(source, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"print\(.*\)  # (.*)", source)
