"""Figures of the experiments behind the written answers: as hw2lib.report.figures, numbers in, a matplotlib figure out."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from hw2lib.report.figures import OTHER, TEST, TRAIN  # its look, too

STYLES = (  # told apart in grey print by line style and marker as well
    (TRAIN, "o-"),
    (TEST, "s--"),
    (OTHER, "^:"),
    ("#2a9d8f", "D-."),
    ("#8a5a9e", "v-"),
    ("#c77d26", "P--"),
)
Series = dict[str, dict[float, list[float]]]  # label -> level -> a value for each seed


def objective_gradients(outputs: np.ndarray, gradients: dict[str, np.ndarray]) -> Figure:
    """How hard each generator's objective pulls at a discriminator's output on a translation.

    outputs (N,), gradients by objective (N,) each: ablations.gradient_by_logit. Drawn are absolute values.
    """
    figure, axes = plt.subplots(figsize=(6.0, 2.9), layout="constrained")
    for (name, gradient), (colour, style) in zip(gradients.items(), STYLES, strict=False):
        axes.plot(
            outputs,
            np.abs(gradient),
            style[1:],
            color=colour,
            label=name.replace("_", " "),
            marker=style[0],
            markevery=len(outputs) // 8,
            markersize=4,
        )
    axes.axvline(0, color=OTHER, linewidth=0.6, zorder=0)
    axes.set(
        xlabel="output of the discriminator on a translation: left, it is sure that this is none of its pictures",
        ylabel="size of the gradient",
        ylim=(0, 4),
    )
    axes.xaxis.label.set_fontsize(8)
    axes.legend(fontsize=7)
    return figure


def by_level(panels: dict[str, Series], xlabel: str) -> Figure:
    """A panel a score: over the levels of what was varied, a dot for each seed and a line through the means.

    Levels are spread evenly over the axis, since only their order is meant, and written below it.
    """
    figure, grid = plt.subplots(1, len(panels), figsize=(7.2, 2.6), layout="constrained", squeeze=False, sharex=True)
    for axes, (title, series) in zip(grid[0], panels.items(), strict=True):
        levels = sorted({level for values in series.values() for level in values})
        for (label, values), (colour, style) in zip(series.items(), STYLES, strict=False):
            at = [levels.index(level) for level in values]
            axes.plot(
                at,
                [np.mean(found) for found in values.values()],
                style,
                color=colour,
                markersize=4,
                label=label,
            )
            for place, found in zip(at, values.values(), strict=True):
                axes.plot([place] * len(found), found, ".", color=colour, alpha=0.5, markersize=4)
        axes.set(title=title, xlabel=xlabel, xticks=range(len(levels)))
        axes.set_xticklabels([f"{level:g}" for level in levels])
    if any(label for series in panels.values() for label in series):
        grid[0, -1].legend(fontsize=7)
    return figure


def linear_collapse(found: dict[float, list[float]], analytic: dict[float, list[float]]) -> Figure:
    """KL of each latent of a linear VAE over the noise variance: measured dots on the curves of the formula.

    noise variance -> KL by latent, in falling order; measured, and for many variances from the formula.
    """
    figure, axes = plt.subplots(figsize=(6.0, 2.7), layout="constrained")
    variances = np.array(sorted(analytic))
    curves = np.array([analytic[variance] for variance in variances])  # (variances, latents)
    for latent, (colour, style) in zip(range(curves.shape[1]), STYLES, strict=False):
        axes.plot(variances, curves[:, latent], color=colour, linewidth=1)
        dots = [values[latent] for values in found.values()]
        axes.plot(list(found), dots, style[0], color=colour, markersize=5, label=f"latent {latent + 1}")
    axes.set(xscale="log", xlabel=r"noise variance $\sigma^2$ of the decoder", ylabel="KL, nats")
    axes.legend(fontsize=7, title="measured; lines: formula", title_fontsize=7)
    return figure


def seen_places(fields: dict[str, Tensor], place: int, height: int, width: int) -> Figure:
    """Which places of a map reach the logits at one `place`: fields.sees by name, bool (places, places) each."""
    figure, grid = plt.subplots(1, len(fields), figsize=(2.3 * len(fields), 2.4), layout="constrained", squeeze=False)
    for axes, (name, found) in zip(grid[0], fields.items(), strict=True):
        sheet = np.ones((height, width, 3))
        for other, seen in enumerate(found[place].tolist()):
            wanted = other < place
            colour = (0.23, 0.44, 0.71) if seen and wanted else (0.82, 0.29, 0.36) if seen or wanted else None
            if colour:
                sheet[divmod(other, width)] = colour
        sheet[divmod(place, width)] = 0.1
        axes.imshow(sheet, interpolation="nearest")
        axes.set_title(name)
        axes.set(xticks=np.arange(width) - 0.5, yticks=np.arange(height) - 0.5, xticklabels=[], yticklabels=[])
        axes.tick_params(length=0)
        for other in (~found[place]).nonzero().flatten().tolist():
            if other < place:
                row, column = divmod(other, width)
                axes.text(column, row, "x", ha="center", va="center", color="white", fontsize=9)
    return figure
