"""Figures of the experiments behind the written answers: a study or numbers in, a matplotlib figure out."""

from collections.abc import Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from hw2lib.evaluation.translations import load_strip
from hw2lib.report.figures import labelled_rows
from hw2lib.report.style import LINES, OTHER, TEST, TRAIN, legend_below, styled
from hw2lib.report.titles import pace, short_title, title
from hw2lib.studies import cyclegan_parts, mode_collapse, plane, posterior_collapse
from hw2lib.studies.study import by_case, rows, values
from hw2lib.training import Run

Series = dict[str, dict[float, list[float]]]  # label -> level -> a value for each seed


@styled
def objective_gradients(outputs: np.ndarray, gradients: dict[str, np.ndarray]) -> Figure:
    """How hard each generator's objective pulls at a discriminator's output on a translation.

    outputs (N,), gradients by objective (N,) each: cyclegan_parts.gradient_by_logit. Drawn are absolute values.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for (name, gradient), (colour, style) in zip(gradients.items(), LINES, strict=False):
        axes.plot(
            outputs,
            np.abs(gradient),
            style[1:],
            color=colour,
            label=title(name),
            marker=style[0],
            markevery=len(outputs) // 8,
            markersize=4,
        )
    axes.axvline(0, color=OTHER, linewidth=0.6, zorder=0)
    axes.set(
        xlabel="output of the discriminator on a translation: left, it is sure that it is not real",
        ylabel="size of the gradient",
        ylim=(0, 6.3),  # cuts least squares below -2, where none of its outputs lie
    )
    axes.xaxis.label.set_fontsize(8)
    legend_below(figure)
    return figure


@styled
def by_level(panels: dict[str, Series], xlabel: str) -> Figure:
    """A panel a score: over the levels of what was varied, a dot for each seed and a line through the means.

    Levels are spread evenly over the axis, since only their order is meant, and written below it.
    """
    figure, grid = plt.subplots(1, len(panels), figsize=(7.2, 2.6), layout="constrained", squeeze=False, sharex=True)
    for axes, (words, series) in zip(grid[0], panels.items(), strict=True):
        levels = sorted({level for found in series.values() for level in found})
        for (label, found), (colour, style) in zip(series.items(), cycle(LINES), strict=False):
            at = [levels.index(level) for level in found]
            axes.plot(
                at,
                [np.mean(seeds) for seeds in found.values()],
                style,
                color=colour,
                markersize=4,
                label=label,
            )
            for place, seeds in zip(at, found.values(), strict=True):
                axes.plot([place] * len(seeds), seeds, ".", color=colour, alpha=0.5, markersize=4)
        axes.set(title=words, xlabel=xlabel, xticks=range(len(levels)))
        axes.set_xticklabels([f"{level:g}" for level in levels])
    legend_below(figure)
    return figure


@styled
def plane_arrows(run: Run, variants: Sequence[str], count: int = 3) -> Figure:
    """Where each of a's modes goes in the plane: a column a variant, a row for each of the first seeds, an arrow a mode."""
    seeds = sorted({row["seed"] for row in rows(run)})[:count]
    size = (7.4, 7.4 * len(seeds) / len(variants) + 0.3)
    figure, grid = plt.subplots(len(seeds), len(variants), figsize=size, layout="constrained", squeeze=False)
    colours = plt.colormaps["hsv"](np.linspace(0, 1, plane.MODES, endpoint=False)) * (0.85, 0.85, 0.85, 1)
    for row in rows(run):
        if row["seed"] not in seeds or row["variant"] not in variants:
            continue
        axes = grid[seeds.index(row["seed"]), variants.index(row["variant"])]
        starts, goals = plane.modes(plane.VARIANTS[row["variant"]].overlapping)
        axes.plot(*goals.T, "o", color=OTHER, fillstyle="none", markersize=7, markeredgewidth=0.8)
        for start, end, colour in zip(starts.tolist(), plane.ends(row).tolist(), colours, strict=True):
            axes.plot(*start, ".", color=colour, markersize=5)
            axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour, "shrinkA": 0, "shrinkB": 0})
        axes.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal")
        axes.axis("off")
        if row["seed"] == seeds[0]:
            axes.set_title(short_title(row["variant"]), fontsize=7)
    return figure


def translations(run: Run, variants: Sequence[str]) -> Figure:
    """What variants of the ablations made of the first test pictures, between these and the true zebras."""
    domains = cyclegan_parts.drawn_domains()
    kept = {name: load_strip(cyclegan_parts.kept_translations(run.folder, name), domains.size)[0] for name in variants}
    count = len(kept[variants[0]])
    return labelled_rows({"input": domains.test_a[:count], **kept, "truth": domains.test_b[:count]})


@styled
def linear_collapse(run: Run) -> Figure:
    """KL of each latent of a linear VAE over the noise variance: measured dots on the curves of the formula."""
    figure, axes = plt.subplots(figsize=(6.0, 2.7), layout="constrained")
    found = by_case(run)
    variances = np.geomspace(min(found), max(found), 201)
    curves = np.array([posterior_collapse.analytic_kl(variance) for variance in variances])  # (variances, latents)
    for latent, (colour, style) in zip(range(1, curves.shape[1] + 1), LINES, strict=False):
        axes.plot(variances, curves[:, latent - 1], color=colour, linewidth=1)
        dots = [entries[f"kl_{latent}"]["mean"] for entries in found.values()]
        axes.plot(list(found), dots, style[0], color=colour, markersize=5, label=f"latent {latent}")
    axes.set(xscale="log", xlabel=r"noise variance $\sigma^2$ of the decoder", ylabel="KL, nats")
    axes.legend(fontsize=7, title="measured; lines: formula", title_fontsize=7)
    return figure


def decoder_power(run: Run) -> Figure:
    """What a stronger decoder leaves to z, over the k pixels that it sees."""
    panels = {"KL, nats a picture": "kl", "loss if z is another picture's": "shuffled", "active latents": "active"}
    return by_level({words: {"": values(run, "k", score)} for words, score in panels.items()}, "k")


def ring(run: Run) -> Figure:
    """Modes, samples near a mode and the generator's loss over the discriminator's width, a line for each pace."""
    panels = {"modes covered, of 8": "modes", "samples near a mode": "near", "generator's loss": "g_loss"}
    paces = {ratio: pace(ratio) for ratio in values(run, "ratio", "modes")}
    found = {
        words: {label: values(run, "width", score, ratio=ratio, setup="plain") for ratio, label in paces.items()}
        for words, score in panels.items()
    }
    return by_level(found, "width of the discriminator")


@styled
def ring_samples(run: Run) -> Figure:
    """Samples of the first seed on the ring: a column a width of the discriminator, a row a setup and a pace of 1 or more."""
    shown = [row for row in rows(run) if "x_0" in row and row["ratio"] >= 1]
    widths = sorted({row["width"] for row in shown})
    lines = list(dict.fromkeys((row["ratio"], row["setup"]) for row in shown))
    size = (1.5 * len(widths) + 1.5, 1.4 * len(lines))
    figure, grid = plt.subplots(len(lines), len(widths), figsize=size, layout="constrained", squeeze=False)
    for row in shown:
        axes = grid[lines.index((row["ratio"], row["setup"])), widths.index(row["width"])]
        axes.plot(*mode_collapse.centres().T, "o", color=OTHER, fillstyle="none", markersize=6, markeredgewidth=0.7)
        axes.plot(*zip(*mode_collapse.shown(row), strict=True), ".", color=TRAIN, markersize=2.5)
        axes.set(xlim=(-2.8, 2.8), ylim=(-2.8, 2.8), aspect="equal", xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
        if row["width"] == widths[0]:
            words = f"{title(row['setup'])},\n{pace(row['ratio'])}"
            axes.set_ylabel(words, rotation=0, ha="right", va="center", fontsize=7)
        if lines[0] == (row["ratio"], row["setup"]):
            axes.set_title(f"width {row['width']}", fontsize=8)
    return figure


@styled
def seen_places(fields: dict[str, Tensor], place: int, height: int, width: int) -> Figure:
    """Which places of a map reach the logits at one `place`: receptive_fields.sees by name, bool (places, places) each."""
    figure, grid = plt.subplots(1, len(fields), figsize=(2.3 * len(fields), 2.4), layout="constrained", squeeze=False)
    for axes, (name, found) in zip(grid[0], fields.items(), strict=True):
        sheet = np.ones((height, width, 3))
        for other, seen in enumerate(found[place].tolist()):
            row, column = divmod(other, width)
            if seen or other < place:
                sheet[row, column] = to_rgb(TRAIN if seen and other < place else TEST)
            if other < place and not seen:
                axes.text(column, row, "x", ha="center", va="center", color="white", fontsize=9)
        sheet[divmod(place, width)] = 0.1
        axes.imshow(sheet, interpolation="nearest")
        axes.set_title(title(name))
        axes.set(xticks=np.arange(width) - 0.5, yticks=np.arange(height) - 0.5, xticklabels=[], yticklabels=[])
        axes.tick_params(length=0)
    return figure
