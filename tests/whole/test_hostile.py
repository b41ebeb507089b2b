"""What nobody should ask for, and somebody will: one line that names the thing and the remedy, at once, and nothing left.

A table of bad inputs for the command line, then properties of every parameter and every option.
"""

import errno
import json
import math
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from hw2lib import ROOT, Problem, files, parameters, recipes
from hw2lib import __main__ as command_line
from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data import download, folders, load, toy_pictures
from hw2lib.evaluation import translations
from hw2lib.parameters import CycleGANParameters, ParameterError, VQVAEParameters
from hw2lib.pixelcnn import GatedPixelCNN, PixelCNNConfig
from hw2lib.report import build, publish
from hw2lib.training import weights
from hw2lib.vqvae import VQVAE, VQVAEConfig

SECONDS = 5
NOBODY = "~nobody-of-this-name/x"
# How a line says what would be right.
REMEDY = (
    "should|must|give|did you mean|there are|lower|see python|take |choose|repair|remove|put |need|correct|cut |build "
)


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """A folder of files and folders that are not what their names say, and of a few that are."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "notes.png").write_text("no picture")
    (folder / "empty.png").touch()
    (folder / "empty").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "loop").symlink_to(folder / "loop")
    picture = Image.effect_noise((64, 64), 50).convert("RGB")
    picture.save(folder / "good.png")
    picture.save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:700])
    picture.resize((2000, 2)).save(folder / "long.png")
    splits = (f"domains/{split}" for split in ("trainA", "trainB", "testA", "testB"))
    for turn, place in enumerate(("single", "no splits", *splits)):
        (folder / place).mkdir(parents=True)
        for number in range(1 if place == "single" else 3):
            picture.rotate(10 * turn + number).save(folder / place / f"{number}.png")
    (folder / "text.safetensors").write_text("no weights")
    about = {"model": "CycleGAN", "config": {"size": 32}}
    for name, said in {"list": [], "null": None, "nothing": about | {"config": None}, "few": about}.items():
        save_file({"x": torch.zeros(1)}, folder / f"{name}.safetensors", metadata={"hw2lib": json.dumps(said)})
    save_file({"x": torch.zeros(1)}, folder / "strange.safetensors")
    codec = VQVAE(
        VQVAEConfig(size=8, hidden_channels=2, residual_channels=1, residual_blocks=0, num_codes=8, code_dim=2)
    )
    weights.save(codec, folder / "vqvae.safetensors")
    weights.save(CycleGAN(CycleGANConfig(size=32, base_channels=1, blocks=1)), folder / "cyclegan.safetensors")
    sizes = {"height": 2, "width": 2, "channels": 2, "embedding": 2, "layers": 1}
    weights.save(GatedPixelCNN(PixelCNNConfig(num_codes=8, **sizes)), folder / "pixelcnn.safetensors")
    weights.save(GatedPixelCNN(PixelCNNConfig(num_codes=9, **sizes)), folder / "of-nine.safetensors")
    # What takes seconds once is not the input's fault.
    recipes.require_memory(CycleGAN, CycleGANConfig(size=32), 1, CycleGANParameters(), "")
    with torch.no_grad():
        codec.quantizer.codebook[0] = math.nan
    weights.save(codec, folder / "nan.safetensors")
    return folder


@pytest.fixture
def here(tmp_path, tmp_path_factory, monkeypatch):
    """An empty working folder on a machine with 8 GB and no network; what is trained would go there, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HW2_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HW2_DATA", str(tmp_path_factory.mktemp("data")))  # for the cache of pictures
    monkeypatch.setattr(recipes, "memory_there", lambda cuda: 8 * 10**9)
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *_, **__: pytest.fail("went to the network"))
    return tmp_path


# ---- the table

# Parameters: whatever is wrong with one, its name is in the line.
CYCLEGAN = f"""
size=0 size=-4 size=66 size=36.5 size=nan size=abc size= size=None size=[64] size=1000000000 size=8192 size={"9" * 5000}
epochs=0 epochs=-1 epochs=1.5 epochs=inf epochs={10**30} epochs=three batch_size=0 batch_size=10**3 batch_size={2**40}
batch_size=60000 base_channels=0 base_channels=100000 base_channels=2048 base_channels=-16 generator=vgg generator=
generator=Resnet discriminator=pixel objective=wgan cycle_weight=nan cycle_weight=inf cycle_weight=-1 cycle_weight=1e400
cycle_weight=ten identity_weight=-0.5 identity_weight=1e9 pool_size=-1 pool_size=2.5 pool_size={10**12} pool_size=100000
learning_rate=inf learning_rate=0 learning_rate=-1e-4 learning_rate=nan learning_rate=1e9 learning_rate=2e-4x ema_decay=1
ema_decay=1.5 ema_decay=nan standard_fid=perhaps experiments=perhaps identity_epochs=-1 identity_epochs=3
identity_epochs={10**20} answer_steps=0 answer_steps={10**18} answer_seeds=0 answer_seeds={10**9} seed=-1 seed=1.5
seed={2**32} seed={2**64} devices=0 devices=2 compiled=perhaps device=gpu device=cuda:0 precision=16 precision= n_jobs=-1 n_jobs={10**9} dataset=
"""
VQVAE_ = f"""
size=7 size=30 size=1000000000 size=4096 num_codes=1 num_codes=0 num_codes=70000 num_codes=512.5 code_dim=0 code_dim={10**9}
commitment=-1 commitment=inf commitment=nan codebook=mean kmeans_init=2 restart_dead=sometimes learning_rate=nan
comparison_updates=-1 comparison_updates={10**15} prior_epochs=0 prior_channels=0 prior_channels=4096 prior_channels={10**9}
judged_pictures=15 judged_pictures={10**12} answer_updates=0 batch_size=0 batch_size=65536 epochs={10**30} seed={2**63}
"""
NAMED = [
    (["train", model, "-p", change], change.partition("=")[0])
    for model, changes in (("cyclegan", CYCLEGAN), ("vqvae", VQVAE_))
    for change in changes.split()
]

# Everything else: words, and what of them is in the line.
OTHERS = [
    *((["train", "vqvae", "-p", change], change.strip()[:40]) for change in ("epochs", "epochs 3", "3")),
    *((["train", "vqvae", "-p", f"{name}=1"], name) for name in ("epoch", "Epochs", "", "model_config", "jobs", "größe")),
    (["train", "vqvae", "-p", f"dataset={'x' * 5000}"], "xxx"),
    (["train", "vqvae", "-p", f"dataset={NOBODY}"], NOBODY),
    (["train", "cyclegan", "-p", "dataset=horse3zebra"], "horse3zebra"),
    (["train", "vqvae", "-p", "dataset=no\nsuch"], r"no\\nsuch"),
    (["train", "vqvae", "-p", "dataset=/dev/null"], "/dev/null"),
    (["train", "vqvae", "-p", "dataset={bad}/empty"], "empty"),
    (["train", "vqvae", "-p", "dataset={bad}/single"], "single"),
    (["train", "vqvae", "-p", "dataset={bad}/good.png"], "good.png"),
    (["train", "cyclegan", "-p", "dataset={bad}/no splits"], "no splits"),
    (["train", "vqvae", "-p", "size=1000", "-p", "batch_size=1", "-p", "experiments=published"], "toy"),
    (["train", "vqvae", "-p", "dataset=cifar10", "-p", "size=64"], "size"),
    (["train", "vqvae", "-p", f"runs={NOBODY}"], NOBODY),
    (["train", "vqvae", "-p", f"runs={'r/' * 3000}"], "r/r/"),
    (["train", "cyclegan", "-p", "size=32", "-p", "dataset={bad}/domains", "-p", "runs=/dev/null/r"], "/dev/null/r"),
    (["train", "vqvae", "-p", "data_root=a\0b"], r"a\\x00b"),
    (["train", "vqvae", "--data", NOBODY], NOBODY),
    (["train", "vqvae", "--data", ""], "--data"),
    (["train", "vqvae", "--preset", "../../x"], r"\.\./\.\./x"),
    (["train", "vqvae", "--preset", "smoke/../full"], "smoke/../full"),
    (["train", "vqvae", "--preset", "*"], r"\*"),
    (["train", "vqvae", "--preset", ""], "preset ''"),
    (["train", "vqvae", "--preset", "x" * 5000], "xxx"),
    (["train", "vqvae", "--preset"], "--preset"),
    (["train", "vqvae", "--epochs", "3"], "--epochs"),
    (["train", "vqvae", "more"], "more"),
    (["train", "vqgan"], "vqgan"),
    (["train"], "cyclegan"),
    (["--preset", "smoke", "train", "vqvae"], "--preset"),
    (["trian"], "trian"),
    (["x" * 5000], "xxx"),
    (["check", "results"], "results"),
    (["report", "--preset", "huge"], "huge"),
    (["report", "--preset", "../presets/smoke"], r"\.\./presets/smoke"),
    (["report", "--data", NOBODY], NOBODY),
    (["report", "--data", "x" * 5000], "xxx"),
    (["report", "--out", ""], "--out"),
    (["report", "--preset", "smoke", "--out", "{bad}/good.png/out"], "good.png"),
    (["report", "--preset", "smoke", "--out", "{bad}/good.png"], "good.png"),
    (["report", "now"], "now"),
    (["publish", "--out", "nowhere"], "nowhere"),
    (["publish", "--out", "{bad}/good.png"], "good.png"),
    (["restore", "all"], "all"),
    (["translate"], "SOURCES"),
    (["translate", "{bad}/good.png", "out"], "no such file: .*/out"),
    (["translate", "no.png"], "no.png"),
    (["translate", "{bad}/*.gif"], "gif"),
    (["translate", ""], "no such file"),
    (["translate", "{bad}/empty"], "empty has no pictures"),
    (["translate", "{bad}/pipe.png"], "pipe.png"),
    (["translate", "{bad}/good.png", "/dev/zero"], "/dev/zero"),
    (["translate", "{bad}/good.png", "--size", "16"], "--size"),
    (["sample", "x.png", "--codec", "{bad}/pipe.png"], "pipe.png"),
    (["train", "vqvae", "-p", "dataset={bad}/pipe.png"], "pipe.png"),
    (["translate", "{bad}/notes.png"], "notes.png"),
    (["translate", "{bad}/empty.png"], "empty.png"),
    (["translate", "{bad}/cut.jpg"], "cut.jpg"),
    (["translate", "{bad}/good.png", "{bad}/long.png"], "long.png"),
    (["translate", "{bad}/good.png", "{bad}/empty/../good.png"], "good-zebra.png"),
    (["translate", "{bad}/good.png", "-o", "{bad}/good.png"], "good.png"),
    (["translate", "{bad}/good.png", "{bad}/whole.jpg", "-o", "out.png"], "out.png"),
    (["translate", "{bad}/good.png", "-o", "{bad}/whole.jpg/deep/er"], "whole.jpg"),
    (["translate", "{bad}/good.png", "-o", "/dev/null/out"], "/dev/null/out"),
    (["translate", "{bad}/good.png", "-o", "/proc/out"], "/proc/out"),
    (["translate", "{bad}/good.png", "-o", "x" * 300], "xxx"),
    (["translate", "{bad}/good.png", "-o", "x/" * 5000], "x/x/"),
    (["translate", "{bad}/good.png", "-o", NOBODY], NOBODY),
    (["translate", "{bad}/good.png", "-o", ""], "--out"),
    (["translate", "{bad}/good.png", "-o", "{bad}/loop"], "loop"),
    (["translate", "{bad}/loop"], "loop"),
    (["train", "vqvae", "-p", "runs={bad}/loop"], "loop"),
    (["train", "vqvae", "-p", "dataset={bad}/loop"], "loop"),
    (["report", "--out", "{bad}/loop"], "loop"),
    (["translate", NOBODY], NOBODY),
    (["translate", "a\0b.png"], r"a\\x00b"),
    (["translate", "{bad}/good.png", "--to", "c"], "--to"),
    (["translate", "{bad}/good.png", "--to", "zebra", "--weights", "{bad}/cyclegan.safetensors"], "cyclegan.safetensors"),
    *(
        (["translate", "{bad}/good.png", "--weights", f"{{bad}}/{name}"], name)
        for name in ("text.safetensors", "empty", "empty.png", "list.safetensors", "null.safetensors", "no.safetensors",
                     "nothing.safetensors", "few.safetensors", "strange.safetensors", "vqvae.safetensors")
    ),
    *((["sample", name], "x") for name in ("x.bmp", "x", "x.png.gz", "x.", "x/.png")),
    (["sample"], "TARGET"),
    (["sample", ""], "TARGET"),
    (["sample", "a.png", "b.png"], "b.png"),
    (["sample", "{bad}/good.png/x.png"], "good.png"),
    (["sample", "/proc/x.png"], "/proc/x.png"),
    (["sample", f"{'x' * 300}.png"], "xxx"),
    (["sample", f"{NOBODY}.png"], NOBODY),
    *((["sample", "x.png", "--n", n], "--n") for n in ("0", "-1", f"{10**12}", "9" * 5000, "many", "1.5", "")),
    *((["sample", "x.png", "--temperature", t], "temperature") for t in ("0", "-1", "nan", "inf", "1e-300", "hot", "")),
    *((["sample", "x.png", "--top-k", k], "top.k") for k in ("-1", "513", f"{10**30}", "all")),
    *((["sample", "x.png", "--seed", seed], "--seed") for seed in ("-1", f"{2**64}", "0.5", "dice")),
    *((["sample", "x.png", "--class", name], "class") for name in ("cow", "", "HORSE", "3", "horse\n")),
    (["sample", "x.png", "--weights", "{bad}/vqvae.safetensors"], "vqvae.safetensors"),
    (["sample", "x.png", "--codec", "{bad}/pixelcnn.safetensors"], "pixelcnn.safetensors"),
    (["sample", "x.png", "--codec", "{bad}/nan.safetensors"], "nan.safetensors"),
    (["sample", "x.png", "--weights", "{bad}/pixelcnn.safetensors"], "prior"),
    (["sample", "x.png", "--weights", "{bad}/of-nine.safetensors", "--codec", "{bad}/vqvae.safetensors"], "prior"),
    (["sample", "x.png", "--codec", ""], "--codec"),
]  # fmt: skip


def said_of(words, capsys):
    """The exit code of the command line and what it said on standard error; 0 and nothing if all went well."""
    capsys.readouterr()
    try:
        command_line.run(words)
    except SystemExit as stopped:
        return stopped.code or 0, capsys.readouterr().err
    return 0, ""


def left_in(folder):
    return {path for path in folder.rglob("*") if path.is_file() or path.is_symlink()}


def assert_one_line(code, said, thing):
    assert code in (1, 2), said
    assert said.count("\n") == 1, said
    assert said.rstrip("\n").isprintable()
    assert len(said) < 1100
    assert re.search(thing, said), said
    assert re.search(REMEDY, said), said


@pytest.mark.parametrize(("words", "thing"), NAMED + OTHERS)
def test_bad_input_is_one_line(words, thing, bad, here, capsys):
    """It fails within seconds, in a line that names the thing and the remedy, and leaves no file."""
    before, began = left_in(bad), time.process_time()  # what else runs on the machine is not the input's fault
    code, said = said_of([word.replace("{bad}", str(bad)) for word in words], capsys)
    assert time.process_time() - began < SECONDS
    assert_one_line(code, said, thing.replace("bad", bad.name))
    assert left_in(bad) == before
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("words", "name", "value", "thing"),
    [
        (["train", "vqvae"], "HW2_RUNS", NOBODY, NOBODY),
        (["train", "cyclegan"], "HW2_RUNS", "r/" * 3000, "r/r/"),
        (["restore"], "HW2_RUNS", "/dev/null/r", "/dev/null/r"),
        (["restore"], "HW2_RUNS", NOBODY, NOBODY),
        (["report", "--preset", "smoke"], "HW2_RUNS", NOBODY, NOBODY),
        (["report", "--preset", "smoke"], "HW2_DATA", NOBODY, NOBODY),
        (["train", "vqvae", "--preset", "cpu"], "HW2_DATA", NOBODY, NOBODY),
        (["train", "vqvae", "--preset", "cpu"], "HW2_DATA", "/dev/null/d", "/dev/null/d"),
        (["train", "cyclegan", "--preset", "cpu"], "HW2_DATA", "mistyped", "mistyped"),
    ],
)
def test_a_bad_folder_in_the_surroundings_is_one_line(words, name, value, thing, here, monkeypatch, capsys):
    """As for an option; a folder that is not there is not made."""
    small = toy_pictures(32, 12, 4)
    monkeypatch.setattr(recipes, "load", lambda dataset, *rest: small if dataset == "toy" else load(dataset, *rest))
    monkeypatch.setenv(name, value)
    code, said = said_of(words, capsys)
    assert_one_line(code, said, thing)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("content", "thing"),
    [
        (b"epochs: [1", "smoke/02_vqvae.yaml must be readable YAML"),
        (b"\xff\xfe\x00", "smoke/02_vqvae.yaml must be readable YAML"),
        (b"!!python/object/apply:os.getcwd []", "must be readable YAML"),
        (b"- epochs\n", "must hold lines like"),
        (b"40", "must hold lines like"),
        (b"epoch: 40", "no parameter epoch: did you mean epochs"),
        (b"1: 2", "no parameter 1: there are"),
        (b"epochs: {1: 2}", "epochs: input should be"),
        (b"size: .nan", "size: input should be a finite number"),
        (b"learning_rate: -.inf", "learning_rate: input should be a finite number"),
        (b"seed: 1e3x", "seed: input should be"),
        (b"dataset:", "dataset: input should be a valid string"),
        (b"dataset: 2024-01-01", "dataset: input should be a valid string"),
    ],
)
def test_a_bad_preset_is_one_line(content, thing, here, monkeypatch, capsys):
    """A preset of the user's own, mistyped."""
    (here / "presets/smoke").mkdir(parents=True)
    (here / "presets/smoke/02_vqvae.yaml").write_bytes(content)
    monkeypatch.setattr(parameters, "PRESETS", here / "presets")
    code, said = said_of(["train", "vqvae", "--preset", "smoke"], capsys)
    assert_one_line(code, said, thing)


def test_a_current_folder_that_is_gone_is_one_line(here, capsys):
    """As after the deletion of a project in another window; absolute paths still work."""
    (here / "gone").mkdir()
    os.chdir(here / "gone")
    (here / "gone").rmdir()
    code, said = said_of(["sample", "x.png"], capsys)
    assert_one_line(code, said, "x.png")


def test_a_folder_one_may_not_look_into_is_one_line(here, monkeypatch, capsys):
    """What lies below another user's folder; root may look anywhere, so the system's answer is made up."""

    def denied(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files, "os", SimpleNamespace(stat=denied))
    code, said = said_of(["publish", "--out", "/home/other/build"], capsys)
    assert_one_line(code, said, "/home/other/build is no path here .Permission denied.: give another one")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_full_disk_leaves_nothing(when, bad, here, monkeypatch, capsys):
    """Known before the work if it is full then; else nothing half-written stays."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "no space")

    if when == "before":
        monkeypatch.setattr(files.tempfile, "TemporaryFile", full)
        monkeypatch.setattr(CycleGAN, "load", lambda *_: pytest.fail("worked"))
    else:
        monkeypatch.setattr(files.os, "fsync", full)
    code, said = said_of(["translate", str(bad / "good.png")], capsys)
    assert_one_line(code, said, "good-zebra.png .the disk is full.: make room")
    assert not left_in(here)


@pytest.mark.parametrize("name", ["x" * 250, "我" * 83, "a b", "--to", "é\u0301", "x.y.z", "C:\\x", "$HOME", "*"])
def test_odd_names_are_names(name, bad, here):
    """Whatever a file system can hold can be written, under the name that was given."""
    command_line.run(["translate", str(bad / "good.png"), "-o", name])
    assert (here / name / "good-zebra.png").is_file()


def test_a_container_without_a_home_has_caches(tmp_path):
    """Numba and matplotlib are told of a folder of one's own where the usual one cannot be written, and only there."""
    names = ("NUMBA_CACHE_DIR", "MPLCONFIGDIR")
    source = f"import hw2lib, os; print(*(os.environ.get(name) for name in {names}))"
    clean = {key: value for key, value in os.environ.items() if key not in (*names, "XDG_CACHE_HOME")}

    def told(home):
        surroundings = clean | {"HOME": str(home), "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", source]
        return subprocess.run(command, env=surroundings, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert told(tmp_path).split() == ["None", "None"]
    for home in ("/dev/null", "relative"):
        for folder in map(Path, told(home).split()):
            assert folder.parent.parent == tmp_path
            assert folder.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("data", ["my data", 'it\'s "mine"', "a;b", "~/d", "(x) & y", ""])
def test_make_report_takes_any_folder(data):
    """One report, one stamp, and the folder as it was given."""
    command = ["make", "-n", "-C", str(ROOT), "-o", ".venv/done", "-W", "hw2lib/__init__.py", "report", f"DATA={data}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in done.splitlines() if " -m hw2lib " in line)
    assert shlex.split(line)[3:] == ["report", "--preset", "quick", *(["--data", data] if data else [])]
    assert len(re.findall(r'touch "build/.done-[0-9-]+"', done)) == 1


# ---- properties

# What is checked, and the config of networks that checks what reaches it again.
KINDS = {
    CycleGANParameters: CycleGANConfig,
    VQVAEParameters: VQVAEConfig,
    CycleGANConfig: CycleGANConfig,
    VQVAEConfig: VQVAEConfig,
    PixelCNNConfig: PixelCNNConfig,
}
NUMBERS = st.integers() | st.integers(-(10**40), 10**40) | st.floats() | st.sampled_from([2**31, 2**32, 2**63, 2**64])
WORDS = (
    NUMBERS.map(str) | st.text(max_size=20) | st.sampled_from(["x" * 5000, "auto", "true", "1e9999", "-0.0", NOBODY])
)
ANYTHING = st.one_of(NUMBERS, WORDS, st.none(), st.booleans(), st.lists(NUMBERS, max_size=2), st.binary(max_size=4))
thorough = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@thorough
def test_a_parameter_is_taken_or_refused(kind, data):
    """Whatever it is given, it holds a word or a number that everybody can take, as JSON would keep it; or there is one line."""
    name = data.draw(st.sampled_from(list(kind.model_fields)))
    try:
        made = parameters.make(kind, {name: data.draw(ANYTHING)})
        parameters.make(KINDS[kind], made.model_dump(include=set(KINDS[kind].model_fields)))
    except ParameterError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 1000
        return
    kept = json.loads(json.dumps(made.model_dump(mode="json"), allow_nan=False))
    assert kind(**kept) == made
    assert all(abs(value) < 2**31 for value in kept.values() if isinstance(value, int | float))


@given(
    changes=st.lists(st.tuples(st.sampled_from(list(VQVAEParameters.model_fields)) | st.text(), WORDS).map("=".join))
)
@thorough
def test_changes_are_taken_or_refused(changes):
    """Any words after -p."""
    try:
        parameters.given(VQVAEParameters, parameters.preset("smoke", "02_vqvae"), tuple(changes))
    except ParameterError as error:
        assert str(error).isprintable()


OPTIONS = [
    (command, option) for command in sorted(command_line.main.commands) for option in command_line.main.commands[command].params
]  # fmt: skip


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=lambda value: getattr(value, "name", value))
@given(data=st.data())
@settings(thorough, max_examples=30)
def test_an_option_is_taken_or_refused(command, option, bad, here, monkeypatch, capsys, data):
    """Any word for an option or an argument, where the others are right: done, or one line."""
    for place, name in ((build, "build"), (publish, "publish"), (publish, "restore"), (recipes, "cyclegan_setup")):
        monkeypatch.setattr(place, name, lambda *_: [])
    monkeypatch.setattr(folders, "picture_files", lambda _: ([], Counter()))  # "/" is a word, too
    monkeypatch.setattr(recipes, "vqvae_setup", stop)
    monkeypatch.setattr(recipes, "cyclegan_setup", stop)
    monkeypatch.setattr(translations, "save_picture", lambda *_: None)
    monkeypatch.setattr(translations, "translate", lambda generator, picture: picture)
    right = {
        "train": {"model": "vqvae"},
        "translate": {"sources": bad / "good.png", "--out": here / "out", "--weights": bad / "cyclegan.safetensors"},
        "sample": {"target": here / "x.png", "--n": 2, "--weights": bad / "pixelcnn.safetensors",
                   "--codec": bad / "vqvae.safetensors"},
    }.get(command, {})  # fmt: skip
    name = option.name if option.param_type_name == "argument" else option.opts[-1]
    asked = right | {name: data.draw(WORDS)}
    flags = [str(word) for name, value in asked.items() if name.startswith("-") for word in (name, value)]
    code, said = said_of([command, *flags, "--", *(str(v) for k, v in asked.items() if not k.startswith("-"))], capsys)
    assert code in (0, 1, 2)
    assert said.count("\n") == bool(code)
    assert said.strip("\n").isprintable()
    assert not list(here.iterdir())


def stop(*_):
    raise Problem("so far, so good")
