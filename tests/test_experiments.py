"""Figures: what is drawn is what was given. (To be moved to tests/report.)"""

import numpy as np
import pytest
import torch

from hw2lib.report import figures


def test_a_sheet_keeps_the_pixels(pictures):
    """Pictures on a sheet are the pictures, in rows, with a white line between."""
    sheet = figures.picture_sheet(pictures[:5], columns=3)
    assert sheet.shape == (2 * 33 - 1, 3 * 33 - 1, 3)
    np.testing.assert_array_equal(sheet[33:65, 33:65], pictures[4].numpy().transpose(1, 2, 0))
    assert (sheet[32] == 255).all()
    assert (sheet[33:, 66:] == 255).all()


def test_smoothing_is_unbiased():
    """A constant stays what it is from the first value on, and a jump is followed slowly."""
    assert figures.smoothed(np.full(9, 3.0), 5) == pytest.approx(np.full(9, 3.0))
    jump = figures.smoothed(np.array([0.0] * 50 + [1.0] * 5), 10)
    assert 0.3 < jump[-1] < 0.5


def test_every_figure_can_be_drawn(pictures):
    """Each figure function gives a figure with the panels it promises, also for codebooks with dead codes."""
    steps = np.arange(1.0, 30)
    history = {"step": steps, "reconstruction": 1 / steps, "vq": 1 / steps, "perplexity": steps}
    epochs = {
        "step": steps[::10],
        "test_nmse": 1 / steps[::10],
        "test_vq": 1 / steps[::10],
        "test_perplexity": steps[::10],
    }
    counts = np.arange(16)
    xy = np.random.default_rng(0).normal(size=(16, 2))
    maps = {name: {3: {"xy": xy, "trustworthiness": 0.9}} for name in ("codebook", "noise")}
    drawn = {
        "curves": (figures.vqvae_curves(history, epochs, 512), 3),
        "sheet": (figures.pictures(pictures), 1),
        "pairs": (figures.reconstructions(pictures[:24], pictures[24:]), 4),
        "codes": (
            figures.picture_as_codes(pictures[0], torch.zeros(8, 8, dtype=torch.int16), pictures[0], 16),
            3,
        ),
        "use": (figures.code_use(counts, {8: 5.0, 64: 9.0}), 2),
        "maps": (figures.codebook_maps(maps, counts), 2),
    }
    for name, (figure, panels) in drawn.items():
        figure.canvas.draw()
        assert len(figure.axes) == panels, name
        figures.plt.close(figure)
