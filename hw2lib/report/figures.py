"""
One function a figure: numbers and tensors in, a matplotlib figure out. Nothing is read, written or shown here.

What has a name in the results comes under its identifier; the figure shows its title (hw2lib.report.titles).
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from hw2lib import printable
from hw2lib.report.style import OTHER, TEST, TRAIN, fonts_for, styled
from hw2lib.report.titles import SHORT_TITLES, title

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
    white = pictures.new_full((-len(pictures) % columns, *pictures.shape[1:]), 255)
    sheet = make_grid(torch.cat([pictures, white]), columns, padding=1, pad_value=255)
    # make_grid puts a line around the sheet, too, but not around a single picture.
    inner = slice(1, -1) if max(len(pictures), columns) > 1 else slice(None)
    return sheet[:, inner, inner].permute(1, 2, 0).numpy()


def _show_sheet(axes, sheet: np.ndarray, words: str = "") -> None:
    axes.imshow(sheet, interpolation="nearest")
    axes.set_title(words)
    axes.axis("off")


@styled
def pictures(batch: Tensor, columns: int = 12) -> Figure:
    """A sheet of uint8 pictures (N, 3, H, W)."""
    sheet = picture_sheet(batch, columns)
    figure, axes = plt.subplots(figsize=(6.4, 6.4 * sheet.shape[0] / sheet.shape[1]))
    _show_sheet(axes, sheet)
    return figure


@styled
def reconstructions(originals: Tensor, decoded: Tensor, columns: int = 12) -> Figure:
    """Originals and reconstructions, uint8 (N, 3, H, W) each, in alternating rows: each one stands above its own."""
    rows = [part for pair in zip(originals.split(columns), decoded.split(columns), strict=True) for part in pair]
    sheets = [picture_sheet(row, columns) for row in rows]
    width = max(sheet.shape[1] for sheet in sheets)
    height = sum(sheet.shape[0] for sheet in sheets)
    figure, grid = plt.subplots(len(sheets), 1, figsize=(6.4, 6.4 * height / width + 0.12 * len(sheets)))
    for index, (axes, sheet) in enumerate(zip(np.atleast_1d(grid), sheets, strict=True)):
        _show_sheet(axes, sheet)
        label = "original" if index % 2 == 0 else "decoded"
        axes.text(-0.008, 0.5, label, transform=axes.transAxes, rotation=90, ha="right", va="center", fontsize=7)
    figure.subplots_adjust(hspace=0.06)
    return figure


@styled
def picture_as_codes(original: Tensor, codes: Tensor, decoded: Tensor, num_codes: int) -> Figure:
    """One picture, uint8 (3, H, W), its code map (h, w) with the indices written in, and its reconstruction."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(6.4, 2.4))
    _show_sheet(left, original.numpy().transpose(1, 2, 0), f"{original.shape[-1]} x {original.shape[-1]} pixels")
    # The indices have no order: colours only show where the same code comes back.
    middle.imshow((codes.numpy() * 197 % num_codes), cmap="Pastel1", interpolation="nearest")
    for (row, column), code in np.ndenumerate(codes.numpy()):
        middle.text(column, row, code, ha="center", va="center", fontsize=4.6)
    middle.set_title(f"{codes.numel()} codes")
    middle.axis("off")
    _show_sheet(right, decoded.numpy().transpose(1, 2, 0), "decoded from the codes")
    return figure


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
    panels[2].legend(loc="lower right", fontsize=7)
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
        right.annotate(
            f"{value:.0f}", (size, value), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=7
        )
    right.set(title="perplexity is an average over a batch", xlabel="pictures in the batch", ylabel="perplexity")
    right.set_xscale("log")
    right.set_ylim(0, max(by_batch.values()) * 1.18)
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
                axes.legend(fontsize=7)
            trust = by_neighbours[n_neighbors]["trustworthiness"]
            axes.set_title(f"{name}, n_neighbors {n_neighbors}\ntrustworthiness {trust:.2f}")
            axes.set(xticks=[], yticks=[])
    return figure


@styled
def labelled_rows(rows: dict[str, Tensor]) -> Figure:
    """Rows of uint8 pictures (N, 3, H, W) each, by label: an identifier of the results, or words of the caller."""
    sheets = [picture_sheet(pictures, len(pictures)) for pictures in rows.values()]
    height, width = len(sheets) * sheets[0].shape[0], sheets[0].shape[1]
    figure, grid = plt.subplots(len(rows), 1, figsize=(7.0, 7.0 * height / width + 0.05), squeeze=False)
    for axes, label, sheet in zip(grid[:, 0], rows, sheets, strict=True):
        _show_sheet(axes, sheet)
        words = SHORT_TITLES.get(label) or (title(label) if label.isidentifier() else label)
        text = axes.text(-0.006, 0.5, printable(words), transform=axes.transAxes, rotation=90, ha="right", va="center")
        text.set(fontsize=7, fontfamily=fonts_for(printable(words)), parse_math=False)  # it may be anybody's name
    figure.subplots_adjust(hspace=0.03)
    return figure


@styled
def cyclegan_losses(history: dict, objective: str) -> Figure:
    """All losses over the steps, smoothed over 1 % of them, and the discriminators' mean outputs."""
    figure, panels = plt.subplots(2, 2, figsize=(7.2, 5.0), layout="constrained", sharex=True)
    balance = {"least_squares": (0.25, 0.25, 0.5), "cross_entropy": (np.log(2), np.log(2), 0.0)}.get(objective)
    same = [("identity_a", "identity, A", TRAIN, ":"), ("identity_b", "identity, B", TEST, ":")]
    curves = {
        "adversarial losses of the generators": [
            ("g_ab", "A to B", TRAIN, "-"),
            ("g_ba", "B to A", TEST, "--"),
        ],
        "cycle losses (mean absolute error)": [
            ("cycle_a", "A to B to A", TRAIN, "-"),
            ("cycle_b", "B to A to B", TEST, "--"),
            *(same if "identity_a" in history else []),
        ],
        "losses of the discriminators": [("d_a", "of A", TRAIN, "-"), ("d_b", "of B", TEST, "--")],
        "mean outputs of the discriminators": [
            ("d_a_real", "A, real", TRAIN, "-"),
            ("d_a_fake", "A, translated", TRAIN, ":"),
            ("d_b_real", "B, real", TEST, "--"),
            ("d_b_fake", "B, translated", TEST, "-."),
        ],
    }
    levels = [None, None, None, None] if balance is None else [balance[0], None, balance[1], balance[2]]
    span = max(1, len(history["step"]) // 100)
    # More points than can be seen would hide dashes and dots.
    thin = slice(None, None, max(1, span // 4))
    for axes, (words, lines), level in zip(panels.flat, curves.items(), levels, strict=True):
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
            axes.annotate(
                "balance", (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7
            )
        axes.set_title(words)
        axes.legend(fontsize=7, loc="best")
    for axes in panels[1]:
        axes.set_xlabel("step")
    return figure


@styled
def scores_by_epoch(epochs: dict, scores: list[str], references: dict[str, dict[str, float]]) -> Figure:
    """Scores of the test set after each epoch, of the last generators and of their averages.

    scores: some of SCORES; the columns are "last_<score>" and "average_<score>".
    references: score -> end -> level to draw across.
    """
    figure, grid = plt.subplots(1, len(scores), figsize=(7.2, 2.5), layout="constrained", squeeze=False)
    for axes, score in zip(grid[0], scores, strict=True):
        for kind, label, colour, style in (
            ("last", "weights of the epoch", OTHER, "o:"),
            ("average", "averaged", TRAIN, "s-"),
        ):
            if f"{kind}_{score}" in epochs:
                axes.plot(epochs["epoch"], epochs[f"{kind}_{score}"], style, color=colour, label=label, markersize=3)
        for name, level in references.get(score, {}).items():
            axes.axhline(level, color=TEST, linestyle="--", linewidth=0.8)
            axes.annotate(
                title(name), (0, level), xycoords=("axes fraction", "data"), va="bottom", fontsize=7, color=TEST
            )
        axes.set(title=SCORES[score], xlabel="epoch")
    grid[0, -1].legend(fontsize=7, loc="upper right")
    return figure


@styled
def prior_curves(history: dict, epochs: dict, levels: dict[str, float]) -> Figure:
    """Nats per code over the updates: training batches (with dropout) smoothed, three sets after each epoch.

    levels: what is known of a code -> nats to draw across. A ring marks the epoch that the held-out maps chose.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
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
    for name, level in levels.items():
        axes.axhline(level, color=OTHER, linewidth=0.8, zorder=0)
        axes.annotate(title(name), (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
    axes.set(xlabel="update", ylabel="nats per code")
    shown = [*curve[span:], *levels.values(), *epochs["train_nll"]]
    room = 0.06 * (max(shown) - min(shown))
    axes.set_ylim(min(shown) - room, max(shown) + 1.5 * room)
    axes.legend(fontsize=7)
    return figure


@styled
def filling(moments: list[tuple[int, Tensor, Tensor]], num_codes: int) -> Figure:
    """A map being drawn: (codes drawn, map (h, w) with -1 where none is, picture uint8 (3, H, W)), a column each."""
    size = (7.0, 14.6 / len(moments) + 0.25)
    figure, grid = plt.subplots(2, len(moments), figsize=size, layout="constrained", squeeze=False)
    for (above, below), (drawn, codes, picture) in zip(grid.T, moments, strict=True):
        # Indices have no order: colours only show where the same code comes back; white is not drawn yet.
        colours = np.ma.masked_less(codes.numpy(), 0) * 197 % num_codes
        above.imshow(colours, cmap="viridis", vmin=0, vmax=num_codes - 1, interpolation="nearest")
        above.set(xticks=[], yticks=[], title=f"{drawn}")
        above.grid(False)
        for side in above.spines.values():
            side.set(visible=True, color=OTHER, linewidth=0.6)
        _show_sheet(below, picture.numpy().transpose(1, 2, 0))
    return figure
