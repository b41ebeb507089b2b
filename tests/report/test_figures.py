"""Figures: what is drawn is what was given."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot

from hw2lib.data import toy_domains
from hw2lib.report import charts, figures, style
from hw2lib.studies import receptive_fields
from hw2lib.training import Run


@pytest.fixture(autouse=True)
def closed():
    """No figure outlives its test."""
    yield
    pyplot.close("all")


def test_a_sheet_keeps_the_pixels(pictures):
    """Pictures on a sheet are the pictures, in rows, with a white line between and none around."""
    sheet = figures.picture_sheet(pictures[:5], columns=3)
    assert sheet.shape == (2 * 33 - 1, 3 * 33 - 1, 3)
    np.testing.assert_array_equal(sheet[33:65, 33:65], pictures[4].numpy().transpose(1, 2, 0))
    assert (sheet[32] == 255).all()
    assert (sheet[33:, 66:] == 255).all()
    np.testing.assert_array_equal(figures.picture_sheet(pictures[:1], 1), pictures[0].numpy().transpose(1, 2, 0))


def test_smoothing_is_unbiased():
    """A constant stays what it is from the first value on, and a jump is followed slowly."""
    assert figures.smoothed(np.full(9, 3.0), 5) == pytest.approx(np.full(9, 3.0))
    jump = figures.smoothed(np.array([0.0] * 50 + [1.0] * 5), 10)
    assert 0.3 < jump[-1] < 0.5


def test_the_look_is_the_figures_alone(pictures):
    """Drawing and importing change none of the user's settings."""
    before = dict(pyplot.rcParams)
    drawn = figures.code_use(np.arange(16), {"8": 5.0})
    assert not drawn.axes[0].spines["top"].get_visible()
    assert dict(pyplot.rcParams) == before
    assert pyplot.rcParams["font.size"] != style.STYLE["font.size"]


def test_rows_have_the_titles_of_their_identifiers(pictures):
    """A row under an identifier of the results has its title, a short one where there is one; other words stay."""
    rows = dict.fromkeys(("average", "siamese_for_cycle_loss", "A: horse", "truth"), pictures[:3])
    drawn = figures.labelled_rows(rows)
    assert [axes.texts[0].get_text() for axes in drawn.axes] == ["averaged", "siamese + D", "A: horse", "truth"]


def test_every_figure_can_be_drawn(pictures):
    """Each figure function gives a figure with the panels it promises, also for codebooks with dead codes."""
    steps = np.arange(1.0, 30)
    vqvae, prior = ({name: 1 / steps for name in names} | {"step": steps} for names in (
        ("reconstruction", "vq", "perplexity"), ("nll",),
    ))  # fmt: skip
    epochs = {f"{name}": 1 / steps[::10] for name in ("test_nmse", "test_vq", "test_perplexity", "train_nll")}
    epochs |= {"held_out_nll": 1 / steps[::10], "test_nll": 1 / steps[::10], "step": steps[::10]}
    xy = np.random.default_rng(0).normal(size=(16, 2))
    maps = {name: {3: {"xy": xy, "trustworthiness": 0.9}} for name in ("codebook", "noise")}
    codes = torch.zeros(8, 8, dtype=torch.int16)
    drawn = {
        "curves": (figures.vqvae_curves(vqvae, epochs, 512), 3),
        "prior": (figures.prior_curves(prior, epochs, {"uniform": 1.2}), 1),
        "sheet": (figures.pictures(pictures), 1),
        "pairs": (figures.reconstructions(pictures[:24], pictures[24:]), 4),
        "codes": (figures.picture_as_codes(pictures[0], codes, pictures[0], 16), 3),
        "use": (figures.code_use(np.arange(16), {"8": 5.0, "64": 9.0}), 2),
        "maps": (figures.codebook_maps(maps, np.arange(16)), 2),
        "filling": (figures.filling([(0, codes - 1, pictures[0]), (64, codes, pictures[1])], 16), 4),
        "fields": (charts.seen_places({"masked": receptive_fields.masked(4, 4, 4)}, 9, 4, 4), 1),
    }
    for name, (figure, panels) in drawn.items():
        figure.canvas.draw()
        assert len(figure.axes) == panels, name


def test_every_curve_of_the_published_runs_can_be_drawn(monkeypatch):
    """Losses of CycleGAN and its scores between their ends, and a chart for each study."""
    monkeypatch.setattr(charts.cyclegan_parts, "drawn_domains", lambda: toy_domains(32, 2, 8))
    run = Run.published("cyclegan")
    scores, ends = ["kd_ab", "kd_ba"], {"kd_ab": {"doing_nothing": 0.2, "real_pictures": 0.0}}
    outputs = np.linspace(-4, 4, 17)
    gradients = {"least_squares": 2 * (outputs - 1), "hinge": -np.ones(17)}
    drawn = {
        "losses": (figures.cyclegan_losses(run.history, "least_squares"), 4),
        "scores": (figures.scores_by_epoch(run.epochs, scores, ends), 2),
        "gradients": (charts.objective_gradients(outputs, gradients), 1),
        "weights": (charts.cycle_weights(Run.published("ablations")), 3),
        "translations": (charts.translations(Run.published("ablations"), ["full", "unet_generator"]), 4),
        "linear": (charts.linear_collapse(Run.published("linear-vae")), 1),
        "power": (charts.decoder_power(Run.published("decoder-power")), 3),
        "ring": (charts.ring(Run.published("ring")), 3),
    }
    for name, (figure, panels) in drawn.items():
        assert len(figure.axes) == panels, name
    assert [text.get_text() for text in drawn["scores"][0].axes[0].texts] == ["doing nothing", "real pictures"]
    assert [line.get_label() for line in drawn["gradients"][0].axes[0].lines][:2] == ["least squares", "hinge"]


def test_the_line_goes_through_the_means():
    """A dot for each seed, and a line through their means; levels are evenly spread."""
    series = {"x": {1.0: [1.0, 3.0], 4.0: [5.0]}}
    drawn = charts.by_level({"a": series, "b": series}, "level")
    line, *dots = drawn.axes[0].lines
    assert list(line.get_ydata()) == [2.0, 5.0]
    assert list(line.get_xdata()) == [0, 1]
    assert [list(dot.get_ydata()) for dot in dots] == [[1.0, 3.0], [5.0]]
