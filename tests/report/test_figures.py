"""Figures: what is drawn is what was given."""

import io

import numpy as np
import pytest
import torch
from matplotlib import pyplot

from hw2lib.data import toy_domains
from hw2lib.report import charts, figures, show, style
from hw2lib.studies import cyclegan_parts, receptive_fields
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
    assert [text.get_text() for text in drawn.axes[0].texts] == ["averaged", "siamese", "A: horse", "truth"]


def shown_in(drawn, sheet: np.ndarray, by: int) -> bool:
    """Whether the file of a figure holds the sheet with each of its pixels as `by` x `by` equal ones."""
    file = pyplot.imread(io.BytesIO(show.png(drawn)))[..., :3]
    file, sheet = (255 * file).round().astype(np.uint8), sheet.repeat(by, 0).repeat(by, 1)
    height, width = sheet.shape[:2]
    corners = (file[: 1 - height, : 1 - width] == sheet[0, 0]).all(-1)
    return any((file[y : y + height, x : x + width] == sheet).all() for y, x in np.argwhere(corners))


@pytest.mark.parametrize(
    ("size", "count", "columns", "by"), [(32, 20, 8, 3), (32, 3, 3, 4), (64, 8, 8, 2), (128, 8, 8, 1), (256, 8, 8, 1)]
)
def test_pictures_are_at_whole_multiples_of_their_pixels(size, count, columns, by):
    """In the file of a figure each pixel of a picture is a square of equally many, whatever stands beside the pictures."""
    batch, other = torch.randint(0, 256, (2, count, 3, size, size), dtype=torch.uint8)
    codes = torch.zeros(8, 8, dtype=torch.int16)
    both = figures.picture_sheet(torch.cat([batch[:columns], other[:columns]]), columns)
    assert shown_in(figures.labelled_rows({"a": batch[:columns], "a longer label": other[:columns]}), both, by)
    assert shown_in(figures.reconstructions(batch, other, columns), both, by)
    assert shown_in(figures.pictures(batch, columns), figures.picture_sheet(batch, columns), by)
    moments = [(place, codes, picture) for place, picture in enumerate(batch[:columns])]
    assert shown_in(figures.filling(moments), figures.picture_sheet(batch[:columns], columns), by)
    left = batch[0].numpy().transpose(1, 2, 0)
    assert shown_in(figures.picture_as_codes(batch[0], codes, other[0]), left, max(1, 320 // size))


def test_labels_stand_beside_their_rows():
    """However long a label is, it ends left of the pictures, within the figure, and above the next row's."""
    label = "a name of many words, some of them-quite-long_and_without_a_space"
    drawn = figures.labelled_rows({f"{name}: {label}": torch.zeros(8, 3, 32, 32, dtype=torch.uint8) for name in "ab"})
    upper, lower = (text.get_window_extent() for text in drawn.axes[0].texts)
    assert 0 <= upper.x0 < upper.x1 < drawn.axes[0].bbox.x0
    assert drawn.bbox.width < 1100
    assert upper.y0 > lower.y1


def test_equal_codes_have_equal_light_colours_and_neighbours_unlike_ones():
    """All 512 codes differ in colour, those next to each other by much; all are light, and no code is neutral grey."""
    colours = figures.code_colours(torch.arange(-1, 512)[None], 1)[:, 0].T.int()  # (513, 3)
    assert len(colours.unique(dim=0)) == 513
    assert (colours[2:] - colours[1:-1]).abs().sum(1).min() > 50
    assert (colours[1:].float() @ torch.tensor([0.299, 0.587, 0.114])).min() > 140
    assert colours[0].unique().numel() == 1
    twice = figures.code_colours(torch.tensor([[7, 300], [300, 7]]), 8)
    assert twice.shape == (3, 8, 8)
    assert torch.equal(twice, twice.flip(1, 2))


def test_every_curve_and_map_can_be_drawn():
    """Each of these functions gives a figure with the panels it promises, also for codebooks with dead codes."""
    steps = np.arange(1.0, 30)
    vqvae, prior = ({name: 1 / steps for name in names} | {"step": steps} for names in (
        ("reconstruction", "vq", "perplexity"), ("nll",),
    ))  # fmt: skip
    epochs = {f"{name}": 1 / steps[::10] for name in ("test_nmse", "test_vq", "test_perplexity", "train_nll")}
    epochs |= {"held_out_nll": 1 / steps[::10], "test_nll": 1 / steps[::10], "step": steps[::10]}
    xy = np.random.default_rng(0).normal(size=(16, 2))
    maps = {name: {3: {"xy": xy, "trustworthiness": 0.9}} for name in ("codebook", "noise")}
    drawn = {
        "curves": (figures.vqvae_curves(vqvae, epochs, 512), 3),
        "prior": (figures.prior_curves(prior, epochs, {"uniform": 1.2}), 1),
        "use": (figures.code_use(np.arange(16), {"8": 5.0, "64": 9.0}), 2),
        "maps": (figures.codebook_maps(maps, np.arange(16)), 2),
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
        "translations": (charts.translations(Run.published("ablations"), ["full", "unet_generator"]), 1),
        "linear": (charts.linear_collapse(Run.published("linear-vae")), 1),
        "power": (charts.decoder_power(Run.published("decoder-power")), 3),
        "ring": (charts.ring(Run.published("ring")), 3),
    }
    for name, (figure, panels) in drawn.items():
        assert len(figure.axes) == panels, name
    legend = drawn["scores"][0].legends[0]
    assert [text.get_text() for text in legend.texts][-2:] == ["doing nothing", "real pictures"]
    assert [line.get_label() for line in drawn["gradients"][0].axes[0].lines][:2] == ["least squares", "hinge"]


def test_the_line_goes_through_the_means():
    """A dot for each seed, and a line through their means; levels are evenly spread."""
    series = {"x": {1.0: [1.0, 3.0], 4.0: [5.0]}}
    drawn = charts.by_level({"a": series, "b": series}, "level")
    line, *dots = drawn.axes[0].lines
    assert list(line.get_ydata()) == [2.0, 5.0]
    assert list(line.get_xdata()) == [0, 1]
    assert [list(dot.get_ydata()) for dot in dots] == [[1.0, 3.0], [5.0]]


def test_a_colour_is_a_direction():
    """Through all panels of the losses one colour is A to B, its judge and its cycle, and another B to A."""
    drawn = figures.cyclegan_losses(Run.published("cyclegan").history, "least_squares")
    for axes in drawn.axes:
        for line in (line for line in axes.lines if not line.get_label().startswith("_")):
            into_b = line.get_label().startswith(("A to B", "D of B"))
            assert line.get_color() == (style.TRAIN if into_b else style.TEST), line.get_label()


def test_legends_cover_no_curve():
    """Legends stand outside of all panels: of the losses above, of the other curves below."""
    run, vqvae = Run.published("cyclegan"), Run.published("vqvae")
    losses = figures.cyclegan_losses(run.history, "least_squares")
    losses.draw_without_rendering()
    assert all(axes.get_legend().get_window_extent().y0 >= axes.bbox.y1 for axes in losses.axes)
    assert all(axes.get_legend().get_window_extent().y1 <= axes.title.get_window_extent().y0 for axes in losses.axes)
    for drawn in (
        figures.vqvae_curves(vqvae.history, vqvae.epochs, 512),
        figures.scores_by_epoch(run.epochs, ["kd_ab"], {"kd_ab": {"doing_nothing": 0.2}}),
        charts.ring(Run.published("ring")),
    ):
        drawn.draw_without_rendering()
        (legend,) = drawn.legends
        assert legend.get_window_extent().y1 <= min(axes.get_tightbbox().y0 for axes in drawn.axes)


def test_no_gradient_is_cut_where_outputs_lie():
    """Between -1 and 2 all of each objective's gradient is within the axes."""
    outputs = cyclegan_parts.discriminator_outputs()
    drawn = charts.objective_gradients(outputs, cyclegan_parts.gradient_by_logit(outputs))
    inside = (outputs >= -1) & (outputs <= 2)
    curves = [line.get_ydata() for line in drawn.axes[0].lines if len(line.get_ydata()) == len(outputs)]
    assert len(curves) == 4
    assert max(curve[inside].max() for curve in curves) == pytest.approx(4)
    assert drawn.axes[0].get_ylim()[1] > 4.1
