"""
Is the published report what its results say? `check` makes report.md and the figures again, from results/ and weights/.

For this the notebooks' own cells are run (`replay`), but without pictures and without training: what these would give is
known from the published runs (`given`) or stays out, and is named. Then all files are compared with their checksums.
"""

import ast
import io
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import nbformat
import numpy as np
import torch
from nbformat import NotebookNode
from PIL import Image

from hw2lib import ROOT, data, in_one_line, parameters, recipes
from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data.pictures import CIFAR10_FOLDER
from hw2lib.pixelcnn import GatedPixelCNN
from hw2lib.report import ReportError, answers, document, publish, show
from hw2lib.report.build import NOTEBOOKS
from hw2lib.studies.cyclegan_parts import drawn_domains
from hw2lib.training import Run
from hw2lib.vqvae import VQVAE, VQVAEConfig

# What a run's provenance says in any case, and what that of a training says beside.
FACTS = {"commit", "dirty", "python", "versions", "system", "device", "threads", "started", "ended", "seconds"}
MORE_FACTS = {"processes", "precision", "seed", "data"}
NUMBER = re.compile(r"\d[\d,.]*")
LEFT_OUT = "not made again"

Found = tuple[list[str], list[str]]  # lines on what agrees, lines on what does not


def check() -> Iterator[str]:
    """Lines on what agrees and what does not: the files, the runs, the data that is at hand, the text and the figures.

    Takes less than a minute, and writes nothing but the data's cache. Raises ReportError at the end if anything disagreed.
    """
    wrong = 0
    for part in (files, runs, pictures, report):
        try:
            agree, disagree = part()
        except Exception as error:  # of damaged results anything may come
            agree, disagree = [], [f"{part.__name__}: {type(error).__name__}, {in_one_line(error)}"]
        yield from agree
        yield from (f"DISAGREES: {line}" for line in disagree)
        wrong += len(disagree)
    if wrong:
        raise ReportError(f"{wrong} of these lines disagree: get the whole repository again, or build and publish anew")


def files() -> Found:
    """Whether every published file has the checksum that it was published with."""
    kept, here = publish.kept_sums(ROOT), publish.sums(ROOT)
    wrong = [
        f"{name} {'is missing' if name not in here else 'was changed' if name in kept else 'was not published'}"
        for name in sorted(kept.keys() | here.keys())
        if kept.get(name) != here.get(name)
    ]
    return [f"files: {len(kept.items() & here.items())} of {len(kept)} as in {publish.SUMS}"], wrong


def runs() -> Found:
    """Whether each run says where it comes from and is whole, and whether its numbers are of the published weights."""
    wrong, found = [], [Run.published(path.parent.name) for path in sorted((ROOT / "results").glob("*/config.json"))]
    for run in found:
        made, training = run.provenance, "model" in run.config
        missing = (FACTS | (MORE_FACTS if training else set())) - made.keys()
        wrong += [f"{run.name}: its provenance does not say {fact}" for fact in sorted(missing)]
        if not missing:
            seconds = datetime.fromisoformat(made["ended"]) - datetime.fromisoformat(made["started"])
            if made["dirty"] or not re.fullmatch("[0-9a-f]{40}", made["commit"]):
                wrong.append(f"{run.name}: the commit {made['commit']} is none, or was changed")
            if not 0 < made["seconds"] < seconds.total_seconds() + 2:
                wrong.append(f"{run.name}: it took {made['seconds']} seconds, between times that are {seconds} apart")
        if training and (made.get("data"), len(run.history["step"])) != (run.config["data"], run.config["steps"]):
            wrong.append(f"{run.name}: its data, or the rows of its history, are not those of its config")
        stamp = run.stamp()["weights"]
        others = [name for name, of in run.metrics.get("measured_with", {}).items() if of["weights"] not in ("", stamp)]
        wrong += [f"{run.name}: {name} was measured with other weights" for name in others if stamp]
    networks = {"cyclegan": CycleGAN, "vqvae": VQVAE, "pixelcnn": GatedPixelCNN}
    loaded = {name: kind.load(Run.published(name).weights) for name, kind in networks.items()}
    for name, network in loaded.items():
        if network.config.model_dump(mode="json") != Run.published(name).config["model"]:
            wrong.append(f"weights/{name}.safetensors is a network of another config than results/{name}")
    recipes.require_match(loaded["pixelcnn"], loaded["vqvae"])
    return [f"runs: {len(found)} looked at: provenance, rows, finite weights that are those measured"], wrong


def pictures() -> Found:
    """Whether the pictures that are at hand, and the drawn ones, are those that the runs had; nothing is fetched."""
    agree, wrong, root = [], [], data.root_folder()
    drawn = Run.published("ablations").config["settings"]["data"]["checksum"]
    sets = [("the drawn domains", drawn, drawn_domains)]
    for name, run, folder, load in (
        ("cifar10", "vqvae", CIFAR10_FOLDER, data.load),
        ("horse2zebra", "cyclegan", "horse2zebra", data.domains),
    ):
        config = Run.published(run).config
        if (root / folder).is_dir():
            sets.append((name, config["data"]["checksum"], partial(load, name, config["model"]["size"], root)))
        else:
            agree.append(f"data: {name} is not in {root} and was not looked at")
    for name, expected, load in sets:
        found = load().checksum
        if found == expected:
            agree.append(f"data: {name} has the checksum {expected}, as in the runs")
        else:
            wrong.append(f"data: {name} has the checksum {found}, and in the runs {expected}")
    return agree, wrong


def report() -> Found:
    """Whether report.md and the figures come out again of the results."""
    text, drawn, left_out = derived()
    agree, wrong = compare(text, (ROOT / "report.md").read_text(encoding="utf-8"))
    by = f"by matplotlib {matplotlib.__version__}, constraints.txt has the one that drew it"
    differ = [f"figures/{name}.png is drawn otherwise ({by})" for name, png in drawn.items() if not _same(name, png)]
    same = len(drawn) - len(differ)
    agree.append(f"figures: {same} of {len(drawn)} that need no pictures are drawn the same, to the pixel")
    agree.append(f"not made again, for they need pictures: {'; '.join(left_out)}")
    return agree, wrong + differ


def derived() -> tuple[str, dict[str, bytes], list[str]]:
    """(report.md, its figures, what of both was left out for it needs pictures), from results/ and weights/."""
    replayed = {path.name: replay(path) for path in NOTEBOOKS}
    notebooks = {name: notebook for name, (notebook, _) in replayed.items()}
    left_out = [words for _, absent in replayed.values() for words in absent]
    text = document.write_up(notebooks, document.number_outputs(notebooks), document.PUBLISHED)
    figures = document.figures_in(notebooks)
    return text, {name: png for name, png in figures.items() if f"figure {name}" not in left_out}, left_out


def compare(made: str, published: str) -> Found:
    """Two reports, paragraph by paragraph, but for the tables that were left out of the one that was made."""
    ours, theirs = made.strip().split("\n\n"), published.strip().split("\n\n")
    for place in reversed([place for place, block in enumerate(ours) if LEFT_OUT in block]):
        if (caption := ours[place - 1]) in theirs:
            del ours[place], theirs[theirs.index(caption) + 1]
    same, numbers, wrong = 0, 0, []
    for kind, i, j, k, m in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if kind == "equal":
            same += j - i
            numbers += sum(len(NUMBER.findall(block)) for block in ours[i:j])
        else:
            line = published[: published.find((theirs[k:] or theirs)[0])].count("\n") + 1
            wrong.append(f"report.md, line {line}: {_difference(' '.join(theirs[k:m]), ' '.join(ours[i:j]))}")
    return [f"report.md: {same} paragraphs and tables with {numbers:,} numbers follow from results/"], wrong


def _difference(published: str, derived: str) -> str:
    """Where two texts begin to differ, with a few words around."""
    start = next((place for place, pair in enumerate(zip(published, derived, strict=False)) if len(set(pair)) > 1), 0)
    start = published.rfind(" ", 0, max(0, start - 20)) + 1
    said, follows = (" ".join(text[start : start + 80].split()) or "nothing" for text in (published, derived))
    return f"it says {said!r}, and from results/ follows {follows!r}"


def _same(name: str, png: bytes) -> bool:
    here, there = (np.asarray(Image.open(f)) for f in (io.BytesIO(png), ROOT / "figures" / f"{name}.png"))
    return np.array_equal(here, there)


# ---- the notebooks, run on results alone


class NotDerivedError(Exception):
    """Pictures are needed, or a training, and not results alone."""


class Absent:
    """Pictures that are not at hand; but for their number, whatever is asked of them raises NotDerivedError."""

    def __init__(self, count: int = 1):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, part) -> "Absent":
        return Absent(len(range(self.count)[part])) if isinstance(part, slice) else self()

    def __getattr__(self, name: str):
        raise NotDerivedError(name)

    def __call__(self, *_, **__):
        raise NotDerivedError

    @classmethod
    def __torch_function__(cls, *_):
        raise NotDerivedError


def given(stem: str) -> dict:
    """The names of notebooks/<stem>.ipynb that come from pictures or a training, as they were for the published run."""
    return {"01_cyclegan": _of_cyclegan, "02_vqvae": _of_vqvae}[stem]() | {"judge": Absent(), "new_pictures": Absent()}


def _of_cyclegan() -> dict:
    run = Run.published("cyclegan")
    config, about = CycleGANConfig(**run.config["model"]), run.config["data"]
    sets = {name: Absent(about[name]) for name in ("train_a", "train_b", "test_a", "test_b")}
    return {
        "asked": _asked(parameters.CycleGANParameters, "01_cyclegan"),
        "config": config,
        "domains": SimpleNamespace(
            name=about["name"], size=config.size, a="horse", b="zebra", zebras=True, aligned=False, **sets
        ),
        "batches": Absent(),
        "x": torch.zeros(1, 3, config.size, config.size),  # of which only the shape counts
        "run": run,
        "model": CycleGAN.load(run.weights),
    }


def _of_vqvae() -> dict:
    run, prior = Run.published("vqvae"), Run.published("pixelcnn")
    config, about, codec = VQVAEConfig(**run.config["model"]), run.config["data"], VQVAE.load(run.weights)
    return {
        "asked": _asked(parameters.VQVAEParameters, "02_vqvae"),
        "config": config,
        "pictures": SimpleNamespace(name=about["name"], train=Absent(about["train"]), test=Absent(about["test"])),
        "x": torch.zeros(1, 3, config.size, config.size),
        **dict.fromkeys(("losses", "total"), Absent()),
        "run": run,
        "model": codec,
        "prior": recipes.Prior(GatedPixelCNN.load(prior.weights), codec, prior, Absent(), Absent()),
    }


def _asked(kind: type[parameters.Parameters], stem: str) -> parameters.Parameters:
    return parameters.make(kind, parameters.preset(document.PUBLISHED, stem) | {"experiments": "published"})


class _Late(ast.NodeTransformer):
    """What show.figure and show.table are given first becomes a function: it may fail where their captions do not."""

    def visit_Call(self, call: ast.Call) -> ast.Call:
        self.generic_visit(call)
        if ast.unparse(call.func) in ("show.figure", "show.table") and not isinstance(call.args[0], ast.Lambda):
            call.args[0] = ast.parse(f"lambda: {ast.unparse(call.args[0])}", mode="eval").body
        return call


def replay(path: Path) -> tuple[NotebookNode, list[str]]:
    """A notebook with the outputs that follow from the published runs, and what of it was left out."""
    notebook, fixed, left_out = nbformat.read(path, as_version=4), given(path.stem), []

    def figure(draw: Callable, name: str, *words, **_) -> None:
        try:
            show.figure(draw, name, *words)
        except NotDerivedError:
            left_out.append(f"figure {name}")
            show.figure(None, name, *words, of=SimpleNamespace(is_published=True))

    def table(rows: Callable, caption: str) -> None:
        try:
            show.table(rows(), caption)
        except NotDerivedError:
            left_out.append(f"table: {caption}")
            show.table([{LEFT_OUT: ""}], caption)

    fixed["show"] = SimpleNamespace(figure=figure, table=table, provenance=show.provenance)
    names = dict(fixed)
    for _, cell in document.numbered(notebook, path.name):
        if cell.cell_type == "code" and not document.tags(cell) & document.NOT_IN_REPORT:
            with show.collected(names) as cell.outputs:
                if found := answers.parts(cell.source):
                    answers.run(*found, names)
                else:
                    source = re.sub("^%.*$", "", cell.source, flags=re.MULTILINE)
                    for statement in _Late().visit(ast.parse(source)).body:
                        _execute(statement, names, fixed)
    # As it is read from a file, where the keys of a note are sorted.
    return nbformat.reads(nbformat.writes(notebook), as_version=4), left_out


def _execute(statement: ast.stmt, names: dict, fixed: dict) -> None:
    """Run a statement of a cell, unless all that it does is to give values to names whose values are known."""
    bound = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    if isinstance(statement, ast.Assign) and bound <= fixed.keys():
        return
    try:
        exec(compile(ast.fix_missing_locations(ast.Module([statement], [])), "<cell>", "exec"), names)
    except NotDerivedError:
        names |= dict.fromkeys(bound, Absent())
    names |= fixed
    for run in names.values():
        if isinstance(run, Run):
            run.is_published = False  # as it was when the report was made
