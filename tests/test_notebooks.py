"""The notebooks: clean in git, run by papermill as a user would, and rendered into the report."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from hw2lib import ROOT, parameters
from hw2lib.cyclegan import CycleGAN
from hw2lib.pixelcnn import GatedPixelCNN
from hw2lib.report import build as report
from hw2lib.vqvae import VQVAE

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KINDS = {"01_cyclegan": parameters.CycleGANParameters, "02_vqvae": parameters.VQVAEParameters}
PRESETS = sorted((ROOT / "notebooks" / "presets").glob("*/*.yaml"))
BIN = Path(sys.executable).parent
ONE = ("ablation-losses", "objective-gradients", "ablation-weights", "ablation-networks")
TWO = ("collapse-linear", "collapse-power", "collapse-ring")
CYCLEGAN = ("data", "curves", "ab", "ba", "merit-ab", "merit-ba", "epochs", "scores")
VQ = ("curves", "reconstructions", "codes", "use", "umap")
PRIOR = ("fields", "curves", "filling", "samples", "temperature", "neighbours", "completions")
FIGURES = [
    *ONE,
    *(f"cyclegan-{name}" for name in CYCLEGAN),
    *TWO,
    "vqvae-data",
    *(f"prior-{name}" for name in PRIOR),
    *(f"vqvae-{name}" for name in VQ),
]


def named(path):
    return f"{path.parent.name}/{path.name}"


def papermill(*words, runs, notebook="02_vqvae"):
    """The papermill command with the smoke preset; returns what it printed and its exit status."""
    preset = ROOT / "notebooks" / "presets" / "smoke" / f"{notebook}.yaml"
    command = [
        BIN / "papermill",
        "-k",
        "python3",
        ROOT / "notebooks" / f"{notebook}.ipynb",
        *words,
        "-f",
        preset,
    ]
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        env=os.environ | {"HW2_RUNS": str(runs)},
        cwd=runs,
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_notebooks_are_clean(path):
    """In git a notebook has no outputs, no execution counts, the kernel python3, short cells and a small file.

    Only the parameters, a line each, may be more than 20.
    """
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert path.stat().st_size < 60_000
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
            assert len(cell.source.splitlines()) <= 20 or cell.metadata.get("tags") == ["parameters"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_parameters_are_typed_explained_and_known(path):
    """Each parameter has a type, a comment and, in hw2lib.parameters, a field with the same default."""
    kind = KINDS[path.stem]
    cells = [c for c in nbformat.read(path, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1
    lines = cells[0].source.splitlines()
    found = {}
    for line in lines:
        name, _, value = re.fullmatch(r"(\w+): (\w+) = (.+?)  # \S.+", line).groups()
        found[name] = eval(value)
    assert found == kind().model_dump()


@pytest.mark.parametrize("path", PRESETS, ids=named)
def test_presets_fit_their_notebook(path):
    """Every preset names only parameters that exist, with values that are accepted."""
    import yaml

    parameters.given(KINDS[path.stem], yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_the_defaults_are_the_quick_preset(path):
    """A notebook opened and run as it is does what `make report` does."""
    import yaml

    preset = yaml.safe_load((ROOT / "notebooks" / "presets" / "quick" / path.with_suffix(".yaml").name).read_text())
    assert parameters.given(KINDS[path.stem], preset) == KINDS[path.stem]()


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """The whole report, built with the smoke preset."""
    folder = tmp_path_factory.mktemp("smoke")
    before = os.environ.get("HW2_RUNS")
    os.environ["HW2_RUNS"] = str(folder / "runs")
    (folder / "runs").mkdir()
    try:
        report.build("smoke", out=folder / "build")
    finally:
        os.environ.pop("HW2_RUNS") if before is None else os.environ.update(HW2_RUNS=before)
    return folder


@pytest.mark.slow
def test_the_report_is_whole(smoke):
    """The smoke preset gives report.md, offline HTML and PDF, every figure with alt text, and numbers from the run."""
    text = (smoke / "build" / "report.md").read_text()
    pictures = re.findall(r"!\[(.+)\]\((figures/[\w-]+\.png)\)", text)
    assert [path for _, path in pictures] == [f"figures/{name}.png" for name in FIGURES]
    assert all((smoke / "build" / path).stat().st_size > 1000 for _, path in pictures)
    (run,) = (smoke / "runs").glob("vqvae-*")
    metrics = json.loads((run / "metrics.json").read_text())
    assert f"{metrics['reconstruction']['test_nmse']:.4f}" in text
    assert f"{metrics['use']['codes_used']} of 32 codes occur" in text
    (run,) = (smoke / "runs").glob("pixelcnn-*")
    metrics = json.loads((run / "metrics.json").read_text())
    for row in metrics["likelihood"]["rows"].values():
        assert f"| {row['nats']:.3f}" in text
    assert f"| {metrics['card']['new pictures']['kd']:.3f} ± " in text
    (run,) = (smoke / "runs").glob("cyclegan-*")
    metrics = json.loads((run / "metrics.json").read_text())
    assert f"{metrics['cards']['b']['averaged']['truth']:.3f}" in text
    assert f"{metrics['cycle_error']['average']['aba']:.3f}" in text
    for word in (r"\bnan\b", "Traceback", r"\{fig:", "^import "):
        assert not re.search(word, text, re.M), word
    html = (smoke / "build" / "report.html").read_text()
    assert html.count("<img ") == len(pictures)
    assert "<script" not in html
    assert "<math" in html
    assert (smoke / "build" / "report.pdf").read_bytes().startswith(b"%PDF")
    for path in NOTEBOOKS:
        assert (smoke / "build" / "notebooks" / f"{path.stem}.html").stat().st_size > 10_000


@pytest.mark.slow
def test_a_run_leaves_a_network_that_loads(smoke):
    """The weights of the runs are a VQVAE with the preset's codebook, and a CycleGAN that is the trained one."""
    (run,) = (smoke / "runs").glob("vqvae-*")
    assert VQVAE.load(run / "weights.safetensors").config.num_codes == 32
    assert (run / "umap.csv").read_text().startswith("map,n_neighbors,code,uses,x,y\n")
    (run,) = (smoke / "runs").glob("cyclegan-*")
    trained, small = (CycleGAN.load(run / f"{name}.safetensors") for name in ("weights", "published"))
    assert (run / "published.safetensors").stat().st_size < (run / "weights.safetensors").stat().st_size / 4
    (run,) = (smoke / "runs").glob("pixelcnn-*")
    prior = GatedPixelCNN.load(run / "published.safetensors")
    assert (prior.config.num_codes, prior.config.class_names) == (32, ("horse", "zebra"))
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    for averaged in (False, True):
        for ours, theirs in zip(small.generators(averaged), trained.generators(averaged), strict=True):
            assert torch.allclose(ours(x), theirs(x), atol=0.02)  # half precision


@pytest.mark.slow
def test_publishing_copies_numbers_and_weights(smoke, tmp_path):
    """Publishing a build puts report, figures, results and weights where the repository has them."""
    report.publish(smoke / "build", root=tmp_path, runs=smoke / "runs")
    assert (tmp_path / "report.md").read_bytes() == (smoke / "build" / "report.md").read_bytes()
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == set(FIGURES)
    kept = {path.name for path in (tmp_path / "results" / "vqvae").iterdir()}
    assert kept == {"config.json", "epochs.csv", "history.csv", "metrics.json", "provenance.json", "umap.csv"}
    assert VQVAE.load(tmp_path / "weights" / "vqvae.safetensors").config.num_codes == 32
    assert CycleGAN.load(tmp_path / "weights" / "cyclegan.safetensors").config.size == 32
    (chosen,) = (smoke / "runs").glob("pixelcnn-*/published.safetensors")
    assert (tmp_path / "weights" / "pixelcnn.safetensors").read_bytes() == chosen.read_bytes()
    assert len(list((tmp_path / "results" / "cyclegan" / "translations").iterdir())) == 1
    with pytest.raises(report.ReportError, match="is missing, which the report is about"):
        report.publish(smoke / "build", root=tmp_path / "results", runs=tmp_path)


@pytest.mark.slow
def test_a_restored_report_is_the_same(smoke, tmp_path):
    """Publish, restore elsewhere, build again without training: every number of the translations is the same."""
    report.publish(smoke / "build", root=tmp_path, runs=smoke / "runs")
    lines = report.restore(root=tmp_path, runs=tmp_path / "runs")
    assert sorted(lines) == sorted(f"{tmp_path / 'runs' / path.name} restored" for path in (smoke / "runs").iterdir())
    assert all("is there already" in line for line in report.restore(root=tmp_path, runs=tmp_path / "runs"))
    done = papermill(tmp_path / "out.ipynb", "--cwd", tmp_path, runs=tmp_path / "runs", notebook="01_cyclegan")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "loaded from cyclegan-" in (tmp_path / "out.ipynb").read_text()
    (before,), (after,) = ((folder / "runs").glob("cyclegan-*/metrics.json") for folder in (smoke, tmp_path))
    assert json.loads(after.read_text()) == json.loads(before.read_text())
    (tmp_path / "weights" / "cyclegan.safetensors").unlink()
    with pytest.raises(report.ReportError, match=r"cyclegan.safetensors is missing: get the whole repository"):
        report.restore(root=tmp_path, runs=tmp_path / "elsewhere")


@pytest.mark.slow
def test_plain_papermill_loads_the_finished_run(smoke, tmp_path):
    """papermill from any folder runs the notebook too, and finds the run that the report has trained."""
    done = papermill(tmp_path / "out.ipynb", "--cwd", tmp_path, runs=smoke / "runs")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "loaded from vqvae-" in (tmp_path / "out.ipynb").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-p", "epochs", "abc"], "ParameterError: epochs: input should be a valid integer"),
        (["-p", "epoch", "3"], "ParameterError: no parameter epoch: did you mean epochs?"),
        (["-p", "size", "30"], "ParameterError: size: input should be a multiple of 4, not 30"),
        (["-p", "dataset", "cifar11"], 'DataError: no pictures called "cifar11"'),
    ],
)
def test_wrong_parameters_fail_in_the_second_cell(words, message, tmp_path):
    """A wrong parameter stops papermill in the cell after the parameters, with one clear line, before any work."""
    done = papermill(tmp_path / "out.ipynb", *words, runs=tmp_path)
    assert done.returncode != 0
    cells = [c for c in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells if c.cell_type == "code"]
    failed = [c for c in cells if any(o.output_type == "error" for o in c.outputs)]
    assert len(failed) == 1
    assert "hw2lib" in failed[0].source
    assert sum(c.execution_count is not None for c in cells) == 3  # parameters, the injected ones, this one
    (error,) = [o for o in failed[0].outputs if o.output_type == "error"]
    assert len(error.traceback) == 1
    assert error.traceback[0].startswith(message)
    assert not list(tmp_path.glob("vqvae-*"))


def command_line(*words, runs):
    environment = os.environ | {"HW2_RUNS": str(runs), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "hw2lib", *words], capture_output=True, text=True, env=environment, cwd=runs
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cyclegan", "vqvae", "pixelcnn"])
def test_the_command_line_trains_the_notebooks_run(smoke, model):
    """`python -m hw2lib train` asks for the run that the notebook asks for: here it is finished and loaded."""
    done = command_line("train", model, "--preset", "smoke", runs=smoke / "runs")
    assert done.returncode == 0, done.stderr
    assert f"loaded from {model}-" in done.stdout


@pytest.mark.slow
def test_the_command_line_translates_pictures(smoke, tmp_path):
    """`python -m hw2lib translate` scales pictures of any kind and writes what the network makes of them."""
    (run,) = (smoke / "runs").glob("cyclegan-*")
    Image.new("CMYK", (90, 61), (0, 200, 0, 0)).save(tmp_path / "one.jpg")
    Image.new("L", (20, 40), 99).save(tmp_path / "two.png")
    words = ["one.jpg", "two.png", "out", "--to", "a", "--weights", run / "published.safetensors"]
    done = command_line("translate", *map(str, words), runs=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "out" / "one.png").size == (44, 32)
    translated = np.array(Image.open(tmp_path / "out" / "two.png"))
    assert translated.shape == (64, 32, 3)
    x = CycleGAN.to_network(torch.full((1, 3, 64, 32), 99, dtype=torch.uint8))
    expected = CycleGAN.to_pictures(CycleGAN.load(run / "published.safetensors").average_ba(x))
    assert (torch.from_numpy(translated).permute(2, 0, 1).int() - expected[0].int()).abs().max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "vqvae", "-p", "epoch=3"], "ParameterError: no parameter epoch: did you mean epochs?"),
        (
            ["train", "vqvae", "--preset", "huge"],
            "ParameterError: no preset huge: say smoke, quick, cpu or full",
        ),
        (
            ["train", "cyclegan", "-p", "size=66"],
            "ParameterError: size: input should be a multiple of 4, not 66",
        ),
        (
            ["train", "cyclegan", "-p", "objective=wgan"],
            "ParameterError: objective: input should be 'least_squares'",
        ),
        (
            ["translate", "nothing.jpg", "out", "--weights", "no.safetensors"],
            "WeightsError: no.safetensors is missing",
        ),
        (["train", "vqgan"], "Error: Invalid value for"),
        (["publish", "--out", "nowhere"], "ReportError: nowhere holds no report.md: build the report first"),
    ],
)
def test_the_command_line_says_what_is_wrong(words, message, tmp_path):
    """A wrong word on the command line is one clear line on standard error and a failure, with no traceback."""
    done = command_line(*words, runs=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# ---- the README


README = (ROOT / "README.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()
]


def test_readme_commands_exist():
    """Every make target, preset, notebook and file that the README's commands name exists."""
    makefile = (ROOT / "Makefile").read_text()
    assert COMMANDS
    for command in COMMANDS:
        words = shlex.split(command, comments=True)
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets), command
        for word in words:
            if word.startswith(("notebooks/", "benchmarks/", "hw2lib/")):
                assert (ROOT / word).exists(), command


def test_readme_sets_up_as_make_does():
    """The plain pip line of the README is the one that make runs."""
    line = next(command for command in COMMANDS if "pip install" in command)
    assert line.removeprefix(".venv/bin/") in (ROOT / "Makefile").read_text().replace("$(ENV)/", "")


@pytest.mark.slow
def test_readme_papermill_line_runs(smoke, tmp_path):
    """The README's papermill line runs as written, but for the folder its output goes to."""
    line = next(command for command in COMMANDS if "/papermill " in command)
    words = [word.replace("out.ipynb", str(tmp_path / "out.ipynb")) for word in shlex.split(line)]
    words[0] = str(BIN / "papermill")
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"HW2_RUNS": str(smoke / "runs")}
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_readme_sample_line_draws_horses(tmp_path):
    """The README's line for new pictures runs as written, on the published weights, and leaves 64 of them."""
    line = next(command for command in COMMANDS if " sample " in command)
    words = shlex.split(line.replace("horses.png", str(tmp_path / "horses.png")))
    done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "horses.png").size == (8 * 33 - 1, 8 * 33 - 1)


@pytest.mark.slow
def test_readme_python_runs(tmp_path):
    """The README's Python lines run as written and show the shapes that they say."""
    source = re.search(r"```python\n(.*?)```", README, re.S)[1]
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = re.findall(r"print\(.*\)  # (.*)", source)
    assert done.stdout.splitlines() == expected
