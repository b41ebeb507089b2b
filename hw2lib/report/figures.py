"""
One function a figure: numbers and tensors in, a matplotlib figure out. Nothing is read, written or shown here.

What has a name in the results comes under its identifier; the figure shows its title (hw2lib.report.titles).
"""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from hw2lib import printable
from hw2lib.report.style import DOTS_PER_INCH, LEVELS, OTHER, TEST, TRAIN, fonts_for, legend_below, styled
from hw2lib.report.titles import short_title, title

ROOM = 1040  # pixels across the page for pictures, beside their labels
# Scores of the test set after each epoch.
SCORES = {
    "zebra_ab": "share called zebra, A to B",
    "kd_ab": "kernel distance, A to B",
    "kd_ba": "kernel distance, B to A",
    "truth_ab": "difference to the truth, A to B",
    "truth_ba": "difference to the truth, B to A",
    "background_ab": "change of the background, A to B",
}


def picture_sheet(pictures: Tensor, columns: int) -> np.ndarray:
    """uint8 pictures (N, 3, H, W) as one array (rows H, columns W, 3) with one-pixel white lines between."""
    sheet = make_grid(_whole_rows(pictures, columns), columns, padding=1, pad_value=255)
    # make_grid puts a line around the sheet, too, but not around a single picture.
    inner = slice(1, -1) if max(len(pictures), columns) > 1 else slice(None)
    return sheet[:, inner, inner].permute(1, 2, 0).numpy()


def _whole_rows(pictures: Tensor, columns: int) -> Tensor:
    """Pictures (N, 3, H, W), and white ones up to a multiple of `columns`."""
    return torch.cat([pictures, pictures.new_full((-len(pictures) % columns, *pictures.shape[1:]), 255)])


def _sheet(
    batch: Tensor, columns: int, labels: Sequence[str] = (), titles: Sequence[str] = (), largest: int = 128, by: int = 0
) -> Axes:
    """Pictures at the whole multiple of their pixels that fits, with a label at the left of each row, a title over each column.

    In the file each of their pixels is a square of equally many: nothing is resampled. A picture is made no wider than
    `largest`. In the data coordinates of the axes, too, a picture's pixel is 1 x 1.
    """
    sheet, (height, width) = picture_sheet(batch, columns), batch.shape[2:]
    by = by or max(1, min(ROOM // sheet.shape[1], largest // width))
    size = by * np.array(sheet.shape[1::-1])  # pixels of the figure, (width, height)
    figure = plt.figure(figsize=size / DOTS_PER_INCH)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    axes.axis("off")
    letters = 7 * max(1, size[0] / ROOM)  # points; what is wider than a page is seen smaller
    lines = max(1, int(by * height / (2.5 * letters)))  # that a row has room for
    for row, label in enumerate(map(printable, labels)):
        words = textwrap.fill(label, 13, max_lines=lines, placeholder=" ...")
        text = axes.text(-8 / by, (height + 1) * row + height / 2, words, ha="right", va="center")
        text.set(fontsize=letters, fontfamily=fonts_for(label), parse_math=False)  # it may be anybody's name
    for column, words in enumerate(titles):
        axes.text((width + 1) * column + width / 2, -5 / by, words, ha="center", va="bottom", fontsize=letters + 1)
    box = axes.get_tightbbox()
    margin = np.ceil([-box.x0, box.y1 - size[1]])  # left, top
    figure.set_size_inches((size + margin + 0.5) / DOTS_PER_INCH)  # a file has whole pixels: half of one is cut off
    axes.set_position((margin[0] / figure.bbox.width, 0, *size / figure.bbox.size))
    figure.patch.set_in_layout(True)  # what frames the figure tightly then frames all of it, at whole pixels
    return axes


@styled
def pictures(batch: Tensor, columns: int = 8, titles: Sequence[str] = (), largest: int = 128) -> Figure:
    """A sheet of uint8 pictures (N, 3, H, W), with a title over each column; none is wider than `largest` pixels."""
    return _sheet(batch, columns, (), titles, largest).figure


@styled
def reconstructions(originals: Tensor, decoded: Tensor, columns: int = 8) -> Figure:
    """Originals and reconstructions, uint8 (N, 3, H, W) each, in alternating rows: each one stands above its own."""
    halves = (_whole_rows(batch, columns).split(columns) for batch in (originals, decoded))
    rows = [row for pair in zip(*halves, strict=True) for row in pair]
    return _sheet(torch.cat(rows), columns, ["original", "decoded"] * (len(rows) // 2)).figure


def code_colours(codes: Tensor, height: int) -> Tensor:
    """A light colour for each code of a map (h, w), as a picture uint8 (3, height, ...); grey where there is none (-1).

    Codes have no order. A step of the golden ratio around the circle of hues sets those that follow each other far
    apart, and brings none back.
    """
    indices = codes.long().numpy()
    colours = np.stack([indices * 0.618034 % 1, 0.25 + 0.1 * (indices % 3), np.full(indices.shape, 0.97)], -1)
    colours = np.where(indices[..., None] < 0, 0.9, hsv_to_rgb(colours))
    cell = height // len(codes)
    picture = torch.from_numpy((255 * colours).round().astype(np.uint8)).permute(2, 0, 1)
    return picture.repeat_interleave(cell, 1).repeat_interleave(cell, 2)


@styled
def picture_as_codes(original: Tensor, codes: Tensor, decoded: Tensor) -> Figure:
    """One picture, uint8 (3, H, W), its code map (h, w) with the indices written in, and its reconstruction."""
    height, width = original.shape[1:]
    titles = [f"{width} x {height} pixels", f"{codes.numel()} codes", "decoded from the codes"]
    axes = _sheet(torch.stack([original, code_colours(codes, height), decoded]), 3, (), titles, largest=320)
    cell = height // len(codes)
    points = min(7, 0.2 * axes.bbox.height / len(codes))  # three digits fill four fifths of a cell
    for (row, column), code in np.ndenumerate(codes.numpy()):
        x, y = width + 1 + cell * (column + 0.5) - 0.5, cell * (row + 0.5) - 0.5
        axes.text(x, y, code, ha="center", va="center", fontsize=points)
    return axes.figure


def smoothed(values: np.ndarray, span: int) -> np.ndarray:
    """Exponential moving average with the time constant `span`, unbiased at the start."""
    keep, mean, weight, out = 1 - 1 / max(1, span), 0.0, 0.0, np.empty(len(values))
    for index, value in enumerate(values):
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        out[index] = mean / weight
    return out


@styled
def vqvae_curves(history: dict, epochs: dict, num_codes: int) -> Figure:
    """Reconstruction loss, VQ loss and perplexity over the steps: each step faint, smoothed, and the test set."""
    figure, panels = plt.subplots(1, 3, figsize=(7.2, 2.5), layout="constrained")
    curves = [
        ("reconstruction", "test_nmse", "reconstruction loss (NMSE)", True),
        ("vq", "test_vq", "VQ loss", True),
        ("perplexity", "test_perplexity", f"perplexity (of {num_codes})", False),
    ]
    span = max(1, len(history["step"]) // 100)
    for axes, (train, test, words, logarithmic) in zip(panels, curves, strict=True):
        axes.plot(history["step"], history[train], color=TRAIN, alpha=0.18, linewidth=0.5)
        axes.plot(history["step"], smoothed(history[train], span), color=TRAIN, label="training batches, smoothed")
        axes.plot(epochs["step"], epochs[test], "o--", color=TEST, markersize=2.2, linewidth=0.8, label="test set")
        axes.set(title=words, xlabel="update")
        if logarithmic:
            axes.set_yscale("log")
    legend_below(figure)
    return figure


@styled
def code_use(counts: np.ndarray, by_batch: dict[str, float]) -> Figure:
    """Left: share of each code, sorted, against even use; right: mean perplexity by pictures in a batch."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 2.5), layout="constrained")
    share, sizes = np.sort(counts)[::-1] / counts.sum(), list(map(int, by_batch))
    left.bar(np.arange(1, len(share) + 1), share, width=1.0, color=TRAIN)
    left.axhline(1 / len(share), color=TEST, linestyle="--", linewidth=1, label="even use, 1 / K")
    left.set(title="use of the codes on the test set", xlabel="code, by use", ylabel="share")
    left.legend()
    right.plot(sizes, list(by_batch.values()), "o-", color=TRAIN)
    for size, value in zip(sizes, by_batch.values(), strict=True):
        right.annotate(f"{value:.0f}", (size, value), xytext=(3, -3), textcoords="offset points", va="top", fontsize=7)
    right.set(title="perplexity is an average over a batch", xlabel="pictures in the batch", ylabel="perplexity")
    right.set_xscale("log")
    right.margins(x=0.12)
    right.set_ylim(bottom=0)
    return figure


@styled
def codebook_maps(maps: dict[str, dict], counts: np.ndarray) -> Figure:
    """UMAP of the codebook (first row) and of its controls (a row each), a column for each n_neighbors.

    maps: as evaluation.codebook_maps gives; counts (K,): uses of each code on the test set, the area of its dot.
    """
    columns = list(maps["codebook"])
    figure, grid = plt.subplots(
        len(maps), len(columns), figsize=(7.0, 2.2 * len(maps)), layout="constrained", squeeze=False
    )
    for row, (name, by_neighbours) in zip(grid, maps.items(), strict=True):
        for axes, n_neighbors in zip(row, columns, strict=True):
            xy, used = by_neighbours[n_neighbors]["xy"], counts > 0
            real = name == "codebook"
            area = 60 * counts[used] / counts.max() + 2 if real else 9
            axes.scatter(*xy[used].T if real else xy.T, s=area, color=TRAIN if real else OTHER, alpha=0.6, linewidths=0)
            if real and not used.all():
                axes.scatter(*xy[~used].T, s=14, marker="x", color=TEST, linewidths=0.8, label="never used")
                axes.legend()
            trust = by_neighbours[n_neighbors]["trustworthiness"]
            axes.set_title(f"{name}, n_neighbors {n_neighbors}\ntrustworthiness {trust:.2f}")
            axes.set(xticks=[], yticks=[])
    return figure


@styled
def labelled_rows(rows: dict[str, Tensor], columns: int = 0, by: int = 0) -> Figure:
    """Rows of uint8 pictures (N, 3, H, W) each, by label: an identifier of the results, or words of the caller.

    With `columns` a longer row goes on in the next one, with `by` pictures are that many times as large.
    """
    columns = columns or max(map(len, rows.values()))
    labels, parts = [], []
    for label, row in rows.items():
        some = row.split(columns)
        labels += [short_title(label) if label.isidentifier() else label] + [""] * (len(some) - 1)
        parts += [_whole_rows(part, columns) for part in some]
    return _sheet(torch.cat(parts), columns, labels, by=by).figure


def pixels(figure: Figure) -> Tensor:
    """A figure as a picture, uint8 (3, H, W); it is closed."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    plt.close(figure)
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1)


@styled
def cyclegan_losses(history: dict, objective: str) -> Figure:
    """All losses over the steps, smoothed over 1 % of them, and the discriminators' mean outputs."""
    figure, panels = plt.subplots(2, 2, figsize=(7.2, 5.0), layout="constrained", sharex=True)
    balances = {"least_squares": (0.25, 0.25, 0.5), "cross_entropy": (np.log(2), np.log(2), 0.0)}
    of_g, of_d, output = balances.get(objective, (None, None, None))  # where D cannot tell the two apart
    # A colour is a direction: of its generator, the discriminator that judges it, the cycle that begins with it.
    same = [
        ("identity_b", "identity: A to B, given B", TRAIN, ":"),
        ("identity_a", "identity: B to A, given A", TEST, ":"),
    ]
    curves = {
        "adversarial losses of the generators": [
            ("g_ab", "A to B (judged by D of B)", TRAIN, "-"),
            ("g_ba", "B to A (judged by D of A)", TEST, "--"),
        ],
        "cycle losses (mean absolute error)": [
            ("cycle_a", "A to B to A", TRAIN, "-"),
            ("cycle_b", "B to A to B", TEST, "--"),
            *(same if "identity_a" in history else []),
        ],
        "losses of the discriminators": [
            ("d_b", "D of B (judges A to B)", TRAIN, "-"),
            ("d_a", "D of A (judges B to A)", TEST, "--"),
        ],
        "mean outputs of the discriminators": [
            ("d_b_real", "D of B, real", TRAIN, "-"),
            ("d_b_fake", "D of B, A to B", TRAIN, ":"),
            ("d_a_real", "D of A, real", TEST, "--"),
            ("d_a_fake", "D of A, B to A", TEST, "-."),
        ],
    }
    span = max(1, len(history["step"]) // 100)
    # More points than can be seen would hide dashes and dots.
    thin = slice(None, None, max(1, span // 4))
    for axes, (words, lines), level in zip(panels.flat, curves.items(), (of_g, None, of_d, output), strict=True):
        settled = [level] if level is not None else []
        for name, label, colour, style in lines:
            values = smoothed(history[name], span)
            settled += [values[span:].min(), values[span:].max()] if len(values) > span else []
            axes.plot(history["step"][thin], values[thin], style, color=colour, label=label, linewidth=1.2)
        # The first steps would flatten all that follows.
        if settled:
            room = 0.08 * (max(settled) - min(settled))
            axes.set_ylim(min(settled) - room, max(settled) + 2 * room)
        if level is not None:
            axes.axhline(level, color=OTHER, linewidth=0.8, zorder=0)
        axes.set_title(words, pad=31)
        # Between title and axes it covers no curve.
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    for axes in panels[1]:
        axes.set_xlabel("step")
    return figure


@styled
def scores_by_epoch(epochs: dict, scores: list[str], references: dict[str, dict[str, float]]) -> Figure:
    """Scores of the test set after each epoch, of the last generators and of their averages.

    scores: some of SCORES; the columns are "last_<score>" and "average_<score>".
    references: score -> end -> level to draw across.
    """
    rows, columns = -(-len(scores) // 3), min(3, len(scores))
    size = (7.2, 2.3 * rows + 0.3)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axes in grid.flat[len(scores) :]:
        axes.remove()
    for axes, score in zip(grid.flat, scores, strict=False):
        for kind, label, colour, style in (
            ("last", "weights of the epoch", OTHER, "o:"),
            ("average", "averaged", TRAIN, "s-"),
        ):
            if f"{kind}_{score}" in epochs:
                axes.plot(epochs["epoch"], epochs[f"{kind}_{score}"], style, color=colour, label=label, markersize=3)
        for (name, level), style in zip(references.get(score, {}).items(), LEVELS, strict=False):
            axes.axhline(level, color=TEST, linestyle=style, linewidth=0.8, label=title(name))
        axes.set(title=SCORES[score], xlabel="epoch")
    legend_below(figure)
    return figure


@styled
def prior_curves(history: dict, epochs: dict, levels: dict[str, float]) -> Figure:
    """Nats per code over the updates: training batches (with dropout) smoothed, three sets after each epoch.

    levels: what is known of a code -> nats to draw across. A ring marks the epoch that the held-out maps chose.
    """
    figure, axes = plt.subplots(figsize=(7.0, 3.4), layout="constrained")
    span = max(1, len(history["step"]) // 100)
    curve = smoothed(history["nll"], span)
    axes.plot(history["step"], curve, color=TRAIN, alpha=0.5, linewidth=1, label="training batches, with dropout")
    lines = [
        ("train_nll", "training maps", TRAIN, "s-"),
        ("held_out_nll", "held-out maps", OTHER, "^:"),
        ("test_nll", "test maps", TEST, "o--"),
    ]
    for name, label, colour, style in lines:
        axes.plot(epochs["step"], epochs[name], style, color=colour, markersize=3, linewidth=1, label=label)
    best = int(epochs["held_out_nll"].argmin())
    axes.plot(epochs["step"][best], epochs["held_out_nll"][best], "o", color="black", fillstyle="none", markersize=9)
    for (name, level), style in zip(levels.items(), LEVELS, strict=False):
        axes.axhline(level, color=OTHER, linestyle=style, linewidth=0.8, zorder=0, label=title(name))
    axes.set(xlabel="update", ylabel="nats per code")
    shown = [*curve[span:], *levels.values(), *epochs["train_nll"]]
    room = 0.06 * (max(shown) - min(shown))
    axes.set_ylim(min(shown) - room, max(shown) + room)
    legend_below(figure)
    return figure


@styled
def filling(moments: Sequence[tuple[int, Tensor, Tensor]]) -> Figure:
    """A map being drawn: (codes drawn, map (h, w) with -1 where none is, picture uint8 (3, H, W)), a column each."""
    drawn, maps, decoded = zip(*moments, strict=True)
    maps = [code_colours(codes, decoded[0].shape[1]) for codes in maps]
    return _sheet(torch.stack([*maps, *decoded]), len(moments), titles=list(map(str, drawn))).figure
