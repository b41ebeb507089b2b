"""Metrics, parameters, experiments and figures: the numbers in the report are what they are said to be."""

import math

import numpy as np
import pytest
import torch

from hw2lib import parameters, recipes
from hw2lib.data import pictures as data
from hw2lib.evaluation import codebook_maps, metrics
from hw2lib.evaluation import codec as experiments
from hw2lib.report import figures
from hw2lib.vqvae import VQVAE, VQVAEConfig

SMALL = {"hidden_channels": 8, "residual_channels": 4, "num_codes": 16, "code_dim": 4}


@pytest.fixture(scope="module")
def model():
    return VQVAE(VQVAEConfig(**SMALL, data_variance=0.05)).eval()


# ---- metrics


def test_psnr_of_known_errors():
    """An MSE of 0.0035 is 24.56 dB, of 1 is 0 dB, and no error is infinitely good."""
    assert metrics.psnr(0.0035) == pytest.approx(24.559, abs=1e-3)
    assert metrics.psnr(1.0) == 0
    assert metrics.psnr(0) == math.inf


def test_perplexity_matches_the_entropy_identity():
    """KL(usage || uniform) = log K - log perplexity, in float64, for any counts."""
    counts = torch.randint(0, 50, (512,), generator=torch.Generator().manual_seed(0))
    p = counts.double() / counts.sum()
    kl = (p[p > 0] * (p[p > 0] * 512).log()).sum().item()
    assert kl == pytest.approx(math.log(512) - math.log(metrics.perplexity(counts)), abs=1e-12)


def test_perplexity_grows_with_the_batch():
    """The same codes give a lower perplexity in small batches, and the whole set gives that of the whole set."""
    codes = torch.randint(0, 64, (400, 2, 2), generator=torch.Generator().manual_seed(0))
    found = metrics.perplexity_by_batch(codes, 64, [4, 40, 400, 4000])
    assert list(found) == [4, 40, 400]
    assert found[4] < found[40] < found[400]
    assert found[400] == metrics.perplexity(torch.bincount(codes.flatten(), minlength=64))


def test_squared_errors_are_exact():
    """The error of uint8 pictures is that of NumPy in float64, without wrapping round at 256."""
    random = np.random.default_rng(0)
    one, other = random.integers(0, 256, (2, 7, 3, 5, 5), dtype=np.uint8)
    expected = ((one / 255 - other / 255) ** 2).mean()
    found = metrics.mean_squared_error(torch.from_numpy(one), torch.from_numpy(other))
    assert found == pytest.approx(expected, rel=1e-12)


def test_islands_are_counted():
    """Three separate heaps of points are three islands, at any scale."""
    random = np.random.default_rng(0)
    heaps = random.normal(size=(3, 40, 2))
    heaps[:, :, 0] += [[0], [50], [100]]
    heaps = heaps.reshape(120, 2)
    for scale in (0.01, 1, 100):
        assert codebook_maps._islands(scale * heaps) == 3


def test_roughness_of_known_pictures():
    """A constant picture has roughness 0, a chessboard of 0 and 200 has 200, vertical stripes half of that."""
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 200
    stripes = (torch.arange(8) % 2 * 200).expand(8, 8)
    pictures = torch.stack([torch.full((8, 8), 9), board, stripes])[:, None].expand(3, 3, 8, 8).to(torch.uint8)
    assert metrics.roughness(pictures).tolist() == [0, 200, 100]


def test_simple_codecs_are_ordered():
    """On smooth pictures more bits help: the mean picture is worse than 4 x 4 thumbnails, those than 8 x 8 ones."""
    coarse = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    smooth = torch.nn.functional.interpolate(coarse, size=32, mode="bilinear").to(torch.uint8)
    found = metrics.simple_codecs(smooth[:20], smooth[20:])
    assert found["mean picture"] > found["4 x 4 thumbnail"] > found["8 x 8 thumbnail"]
    assert set(found) == set(experiments.CODEC_BITS)


# ---- experiments


def test_evaluation_is_that_of_the_whole_set(model, pictures):
    """Scores do not depend on how the set is cut into batches and agree with NumPy in float64."""
    whole = experiments.evaluate_vqvae(model, pictures)
    parts = experiments.evaluate_vqvae(model, pictures, batch_size=7)
    assert parts == pytest.approx(whole, rel=1e-5)
    with torch.no_grad():
        decoded = model(model.to_network(pictures))[0].double().numpy()
    mse = ((decoded - (pictures.double().numpy() / 255 - 0.5)) ** 2).mean()
    assert whole["test_mse"] == pytest.approx(mse, rel=1e-5)
    assert whole["test_nmse"] == pytest.approx(mse / 0.05, rel=1e-5)
    assert whole["test_psnr"] == pytest.approx(-10 * math.log10(mse), rel=1e-5)
    codes = experiments.encode_pictures(model, pictures)
    counts = experiments.code_counts(codes, 16)
    assert whole["test_codes_used"] == (counts > 0).sum()
    assert whole["test_perplexity"] == pytest.approx(metrics.perplexity(torch.from_numpy(counts)))


def test_errors_by_picture_average_to_the_error(model, pictures):
    """The mean of the pictures' own errors is the error of the set of decoded bytes."""
    by_picture = experiments.squared_error_by_picture(model, pictures, batch_size=11)
    expected = metrics.mean_squared_error(pictures, experiments.reconstruct(model, pictures))
    assert by_picture.shape == (48,)
    assert by_picture.mean().item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_trustworthiness_tells_structure_from_noise(tmp_path):
    """A codebook of separate heaps has a far higher trustworthiness than the noise control with its mean and spread."""
    random = np.random.default_rng(0)
    # heaps of 24: larger than the 15 neighbours that the trustworthiness looks at
    heaps = random.normal(size=(8, 16)).repeat(24, axis=0) * 3 + random.normal(size=(192, 16)) * 0.3
    maps = codebook_maps.codebook_maps(heaps, seed=0, neighbours=(5, 500))
    assert list(maps["codebook"]) == [5, 95]
    for n in maps["codebook"]:
        assert maps["codebook"][n]["xy"].shape == (192, 2)
        assert maps["codebook"][n]["islands"] >= 1
        for control in ("shuffled", "noise"):
            assert maps["codebook"][n]["trustworthiness"] > maps[control][n]["trustworthiness"] + 0.05
    codebook_maps.save_maps(tmp_path / "umap.csv", maps, np.arange(192))
    lines = (tmp_path / "umap.csv").read_text().splitlines()
    assert len(lines) == 1 + 3 * 2 * 192
    assert lines[1].startswith("codebook,5,0,0,")
    drawn = figures.codebook_maps(maps, np.arange(192))
    assert len(drawn.axes) == 6


def test_a_shuffled_codebook_keeps_columns_and_no_rows():
    """Each column has the same values, no row is left; the same seed gives the same, another another; nothing is changed."""
    codebook = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    before = codebook.copy()
    shuffled = codebook_maps.shuffled_codebook(codebook, 0)
    assert np.array_equal(codebook, before) and shuffled.dtype == codebook.dtype
    assert np.array_equal(np.sort(shuffled, 0), np.sort(codebook, 0))
    assert not {row.tobytes() for row in shuffled} & {row.tobytes() for row in codebook}
    assert np.array_equal(shuffled, codebook_maps.shuffled_codebook(codebook, 0))
    assert not np.array_equal(shuffled, codebook_maps.shuffled_codebook(codebook, 1))
    order = shuffled[:, :, None] == codebook.T[None]  # (64, 8, 64): where each value came from
    came_from = order.argmax(2)
    assert len({tuple(column) for column in came_from.T}) == 8  # each column in an order of its own


# ---- parameters


def test_parameters_come_from_the_notebook_as_numbers():
    """Strings that papermill passes become numbers and truth values; other names of the notebook are left alone."""
    namespace = {"epochs": "3", "kmeans_init": "false", "learning_rate": "1e-4", "something": 1, "In": [""]}
    asked = parameters.check(parameters.VQVAEParameters, namespace)
    assert (asked.epochs, asked.kmeans_init, asked.learning_rate) == (3, False, 1e-4)


@pytest.mark.parametrize(
    ("namespace", "message"),
    [
        ({"epochs": "abc"}, "epochs: input should be a valid integer, .*not 'abc'"),
        ({"epochs": 0}, "epochs: input should be greater than or equal to 1, not 0"),
        ({"device": "gpu"}, "device: input should be 'auto', 'cpu', 'cuda' or 'mps', not 'gpu'"),
        ({"In": ["# Parameters\nepoch = 3\n"]}, "no parameter epoch: did you mean epochs?"),
    ],
)
def test_wrong_parameters_are_one_line(namespace, message):
    """A wrong value, and a name that papermill injected but no parameter has, are one line each."""
    with pytest.raises(parameters.ParameterError, match=message) as caught:
        parameters.check(parameters.VQVAEParameters, namespace)
    assert "\n" not in str(caught.value)
    assert caught.value._render_traceback_() == [f"ParameterError: {caught.value}"]


def test_changes_on_the_command_line_are_checked():
    """name=value pairs are applied over a preset; a wrong form and an unknown name are one line each."""
    kind = parameters.VQVAEParameters
    assert parameters.given(kind, {"epochs": 5}, ("epochs=7",)).epochs == 7
    with pytest.raises(parameters.ParameterError, match="epochs must look like epochs=3"):
        parameters.given(kind, {}, ("epochs",))
    with pytest.raises(parameters.ParameterError, match="did you mean batch_size"):
        parameters.given(kind, {"batchsize": 5})


def test_a_wrong_config_stops_before_the_pictures(monkeypatch):
    """A value that only the network's config refuses is said before any picture is loaded."""
    monkeypatch.setattr(data, "load", lambda *_: pytest.fail("loaded pictures"))
    with pytest.raises(parameters.ParameterError, match="size: input should be a multiple of 4, not 30"):
        recipes.vqvae_setup(parameters.VQVAEParameters(size=30))


# ---- figures


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
