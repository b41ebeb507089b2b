"""All that is measured of speed, in one table: python benchmarks/table.py

Plain is what a user would write instead (plain.py), ours what hw2lib does (ours.py); each side lives in a process of its
own, and they work in turn. Times are those of the quickest try: what disturbs it only makes it slower. The share of the
peak is the work of all convolutions of a step, at the speed of a residual block's alone on all cores, over the time that
the step took. A growth of 2 means: four times as long for twice as much. With --profile, prints where the time of a
training step goes on one thread.
"""

import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from contest import Others, contest

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("what", "plain", "ours", "ratio", "a second", "of the peak", "memory, plain and ours", "growth")
CYCLEGAN = {"size": 128, "channels": 32}
VQVAE = {"batch": 256, "codes": 512}
MAPS, JUDGED, PHOTOGRAPHS, KEPT = 64, 40, 400, 64  # how many, and the pixels of a kept square


def races(turns: int, folder: Path) -> Iterator[dict[str, str]]:
    """A row for each kind of work that a plain implementation does, too."""
    (peak,) = contest([("ours", "peak", {})], turns, 10)
    speed = peak.value / peak.seconds
    photographs(folder, PHOTOGRAPHS)
    for title, race, options, count, pieces in (
        ("CycleGAN, a step: 128 px, 32 channels", "cyclegan", CYCLEGAN, 2, 3),
        ("VQ-VAE, a step: 256 pictures", "vqvae", VQVAE, VQVAE["batch"], 3),
        ("prior, a step: 64 code maps", "prior", {"batch": MAPS}, MAPS, 3),
        ("prior, 64 code maps drawn", "sampling", {"maps": MAPS}, MAPS, 1),
        ("judge, 40 pictures", "judge", {"pictures": JUDGED}, JUDGED, 1),
        ("data cache, 400 photographs", "cache", {"folder": str(folder), "size": KEPT}, PHOTOGRAPHS, 1),
    ):
        plain, ours = contest([(side, race, options) for side in ("plain", "ours")], turns if pieces > 1 else 3, pieces)
        row = {
            "what": title,
            "plain": duration(plain.seconds),
            "ours": duration(ours.seconds),
            "ratio": f"{plain.seconds / ours.seconds:.2f}",
            "a second": f"{count / ours.seconds:.4g}",
            "memory, plain and ours": f"{plain.memory:.2f}, {ours.memory:.2f} GiB",
        }
        if race in ("cyclegan", "vqvae", "prior"):
            (work,) = contest([("ours", "convolutions", {"race": race, "options": options})], 1)
            row["of the peak"] = f"{work.value / 1e9 / speed / ours.seconds:.0%}"
        yield row
    yield {"what": "the peak: a residual convolution", "a second": f"{speed:.0f} GFLOP"}


def photographs(folder: Path, count: int) -> None:
    """Noise of 256 pixels in JPEG files, of which no two are alike."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    for seed in range(count):
        noise = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{seed}.jpg")


def growth(turns: int, folder: Path) -> Iterator[dict[str, str]]:
    """A row for each number that the time depends on, at three of its values."""
    sizes = (PHOTOGRAPHS // 2, PHOTOGRAPHS, 2 * PHOTOGRAPHS)
    for count in sizes:
        photographs(folder / f"{count}", count)
    for title, race, values, options_at in (
        ("CycleGAN, a step by pixels a side", "cyclegan", (64, 128, 256), lambda v: CYCLEGAN | {"size": v}),
        ("CycleGAN, a step by channels", "cyclegan", (16, 32, 64), lambda v: CYCLEGAN | {"channels": v}),
        ("VQ-VAE, a step by codes", "vqvae", (128, 512, 2048), lambda v: VQVAE | {"codes": v}),
        ("data cache, by pictures", "cache", sizes, lambda v: {"folder": str(folder / f"{v}"), "size": KEPT}),
    ):
        times = contest([("ours", race, options_at(value)) for value in values], max(2, turns // 2), 2)
        yield {
            "what": f"{title}: {', '.join(map(str, values))}",
            "ours": ", ".join(duration(its.seconds) for its in times),
            "growth": f"{exponent(values, [its.seconds for its in times]):.2f}",
        }


def exponent(values: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of the line through the logarithms."""
    return statistics.linear_regression([math.log(v) for v in values], [math.log(s) for s in seconds]).slope


def starts() -> Iterator[dict[str, str]]:
    """A row for what is waited for before anything begins; the start of Python itself is in it."""
    for title, words in (("import hw2lib", ["-c", "import hw2lib"]), ("--help", ["-m", "hw2lib", "--help"])):
        yield {"what": title, "ours": duration(min(timed([sys.executable, *words]) for _ in range(5)))}


def timed(words: list[str], folder: Path = ROOT) -> float:
    began = time.perf_counter()
    subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def cold_report() -> Iterator[dict[str, str]]:
    """Rows for a fresh clone: the set-up, whose packages may have to be downloaded, and then the report."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), folder], check=True)
        for title, target in (("cold set-up", ".venv/done"), ("cold make report, after it", "report")):
            yield {"what": title, "ours": duration(timed(["make", target, f"PYTHON={sys.executable}"], Path(folder)))}


def duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def as_markdown(rows: list[dict[str, str]]) -> str:
    """A table whose columns stand under each other in a terminal, too."""
    lines = [dict(zip(COLUMNS, COLUMNS, strict=True)), *rows]
    widths = {name: max(len(line.get(name, "")) for line in lines) for name in COLUMNS}
    texts = [
        "| " + " | ".join(line.get(name, "").ljust(width) for name, width in widths.items()) + " |" for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths.values()) + "|"
    return "\n".join([texts[0], rule, *texts[1:]])


def profile() -> None:
    for race, options in (("cyclegan", CYCLEGAN), ("vqvae", VQVAE)):
        (found,) = contest([("ours", "profile", {"race": race, "options": options})], 1, warm_up=3)
        total = sum(found.value.values())
        print(f"{race}, a step on one thread: {duration(total)}, of which")
        for kind, seconds in sorted(found.value.items(), key=lambda item: -item[1]):
            print(f"  {kind:18} {seconds / total:6.1%}")


@click.command(help=__doc__)
@click.option("--turns", default=6, show_default=True, type=click.IntRange(1), help="of each side in a race")
@click.option("--report", is_flag=True, help="also a report from a fresh clone, with its set-up: many minutes")
@click.option("--profile", "profiled", is_flag=True, help="where the time of a step goes, instead of the table")
def main(turns: int, report: bool, profiled: bool) -> None:
    if profiled:
        return profile()
    rows = []
    with tempfile.TemporaryDirectory() as folder, Others() as others:
        folder = Path(folder)
        for part in (starts(), races(turns, folder / "race"), growth(turns, folder), cold_report() if report else ()):
            for row in part:
                rows.append(row)
                print(row["what"], file=sys.stderr, flush=True)
    import torch

    print(as_markdown(rows))
    print(
        f"\n{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}."
    )
    if others.share is not None:
        print(f"Other programs had {others.share:.0%} of the cores meanwhile.")


if __name__ == "__main__":
    main()
