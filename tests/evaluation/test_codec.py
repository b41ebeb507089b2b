"""A codec's scores are those of the whole test set, its codebook's maps come back, and both are measured once."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from hw2lib.data import Pictures, random_stream
from hw2lib.evaluation import codebook_maps, codec, metrics
from hw2lib.training import Run, RunError, Table
from hw2lib.vqvae import VQVAE, VQVAEConfig


@pytest.fixture(scope="module")
def model():
    sizes = {"hidden_channels": 8, "residual_channels": 4, "num_codes": 16, "code_dim": 4}
    return VQVAE(VQVAEConfig(**sizes, data_variance=0.05)).eval()


def test_evaluation_is_that_of_the_whole_set(model, pictures):
    """Scores do not depend on how the set is cut into batches and agree with NumPy in float64."""
    whole = codec.evaluate_vqvae(model, pictures)
    assert codec.evaluate_vqvae(model, pictures, batch_size=7) == pytest.approx(whole, rel=1e-5)
    with torch.no_grad():
        decoded = model(model.to_network(pictures))[0].double().numpy()
    mse = ((decoded - (pictures.double().numpy() / 255 - 0.5)) ** 2).mean()
    assert whole["test_mse"] == pytest.approx(mse, rel=1e-5)
    assert whole["test_nmse"] == pytest.approx(mse / 0.05, rel=1e-5)
    assert whole["test_psnr"] == pytest.approx(-10 * math.log10(mse), rel=1e-5)
    counts = codec.code_counts(codec.encode_pictures(model, pictures), 16)
    assert whole["test_codes_used"] == (counts > 0).sum()
    assert whole["test_perplexity"] == pytest.approx(metrics.perplexity(torch.from_numpy(counts)))


def test_errors_by_picture_average_to_the_error(model, pictures):
    """The mean of the pictures' own errors is the error of the set of decoded bytes."""
    by_picture = codec.squared_error_by_picture(model, pictures, batch_size=11)
    expected = ((pictures.double() - codec.reconstruct(model, pictures)) / 255).square().mean().item()
    assert by_picture.shape == (48,)
    assert by_picture.mean().item() == pytest.approx(expected, rel=1e-9)


# ---- one call


@pytest.fixture
def run(tmp_path):
    """A run of 200 steps and two epochs."""
    run = Run("vqvae", {}, tmp_path)
    run.folder.mkdir()
    Table(run.folder / "history.csv").append(
        [{"step": step, "reconstruction": step, "perplexity": 2 * step} for step in range(1, 201)]
    )
    Table(run.folder / "epochs.csv").append(
        [{"epoch": epoch, "test_nmse": epoch / 8, "test_perplexity": 4} for epoch in (1, 2)]
    )
    return run


@pytest.fixture
def maps():
    """Three maps of 16 codes for two numbers of neighbours, of random points."""
    random = np.random.default_rng(0)
    return {
        name: {n: {"xy": random.normal(size=(16, 2)), "trustworthiness": n / 8, "islands": n} for n in (3, 7)}
        for name in ("codebook", "shuffled", "noise")
    }


def test_a_codec_is_measured_once(model, pictures, run, maps, monkeypatch):
    """What the rooms compute is kept in the run under its names, and read from there the second time."""
    monkeypatch.setattr(codec, "codebook_maps", lambda codebook, seed: maps)
    ours = Pictures("noise", pictures[:24], pictures[24:], "")
    found = codec.measure_codec(run, model, ours)
    assert {name: run.metrics[name] for name in found} == found
    assert found["reconstruction"] == {
        "epoch": 2,
        "test_nmse": 0.25,
        "test_perplexity": 4,
        "bits": 64 * 4,
        "codecs": metrics.simple_codecs(ours.train, ours.test),
    }
    errors = codec.squared_error_by_picture(model, ours.test).numpy() / ours.variance
    rough = metrics.roughness(ours.test).numpy()
    expected = {
        "median": np.sort(errors)[11],
        "most": np.quantile(errors, 0.9),
        "roughness": np.corrcoef(errors, rough)[0, 1],
    }
    assert found["by_picture"] == pytest.approx(expected)
    codes = codec.encode_pictures(model, ours.test)
    assert found["use"]["codes_used"] == len(codes.unique())
    by_batch = metrics.perplexity_by_batch(codes, 16, [8, 24])
    assert found["use"]["perplexity_by_batch"] == {str(size): value for size, value in by_batch.items()}
    for room in ("encode_pictures", "squared_error_by_picture", "codebook_maps"):
        monkeypatch.setattr(codec, room, lambda *_: pytest.fail("measured again"))
    assert codec.measure_codec(run, model, ours) == found


def test_the_short_run_is_read_as_notebooks_print_it(run):
    """The means of the last hundred batches, and the test set after the last epoch."""
    assert codec.comparison(run) == {"nmse": 150.5, "perplexity": 301, "test_nmse": 0.25, "test_perplexity": 4}
    assert codec.comparison(Run.published("vqvae-short")) == Run.published("vqvae").metrics["comparison"]


# ---- the codes of all pictures


@pytest.fixture
def kept(labelled, run):
    return codec.code_sets(labelled.model, labelled.pictures, run)


def test_codes_are_those_of_the_encoder(labelled, kept):
    """Training maps are nine tenths of the pictures and the same mirrored, with their labels; no held-out one is there."""
    model, pictures, _ = labelled
    train, mirrored = (codec.encode_pictures(model, part) for part in (pictures.train, pictures.train.flip(-1)))
    order = torch.randperm(60, generator=random_stream(0))
    held, others = order[:6], order[6:]
    assert torch.equal(kept.train, torch.cat([train[others], mirrored[others]]))
    assert torch.equal(kept.held_out, train[held])
    assert torch.equal(kept.in_order, train)
    assert torch.equal(kept.test, codec.encode_pictures(model, pictures.test))
    assert torch.equal(kept.train_labels, pictures.train_labels[torch.cat([others, others])])
    assert torch.equal(kept.held_out_labels, pictures.train_labels[held])


def test_codes_are_encoded_once(labelled, run, kept, monkeypatch):
    """They are kept as uint16 beside the network and read from there."""
    with np.load(run.folder / "codes.npz") as file:
        assert {file[name].dtype for name in ("train", "mirrored", "test")} == {np.dtype("uint16")}
    monkeypatch.setattr(codec, "encode_pictures", lambda *_: pytest.fail("encoded again"))
    assert torch.equal(codec.code_sets(labelled.model, labelled.pictures, run).train, kept.train)


@pytest.mark.parametrize("damage", ["other codebook", "other pictures", "cut off", "no archive"])
def test_codes_that_do_not_fit_are_made_anew(labelled, run, kept, damage, capsys):
    """Codes of another network or other pictures, and damaged files, are never used."""
    path, (model, pictures, _) = run.folder / "codes.npz", labelled
    if damage == "other codebook":
        with torch.no_grad():
            model.quantizer.codebook.neg_()
    elif damage == "other pictures":
        pictures = replace(pictures, train=pictures.train.flip(0), checksum="other")
    else:
        path.write_bytes(path.read_bytes()[:-40] if damage == "cut off" else b"nothing")
    found = codec.code_sets(model, pictures, run)
    assert torch.equal(found.in_order, codec.encode_pictures(model, pictures.train))
    assert ("cannot be read" in capsys.readouterr().out) == (damage in ("cut off", "no archive"))


# ---- maps of the codebook


def test_maps_come_back(run, maps):
    """Points kept in the run are the same to four digits, with uses and the numbers of each map; lost ones are one line."""
    run.measured("umap", lambda: codebook_maps.save_maps(run, maps, np.arange(16)))
    lines = (run.folder / "umap.csv").read_text().splitlines()
    assert len(lines) == 1 + 3 * 2 * 16
    assert lines[2].startswith("codebook,3,1,1,")
    found = codebook_maps.load_maps(run)
    assert [(name, list(by_n)) for name, by_n in found.items()] == [(name, [3, 7]) for name in maps]
    for name, by_n in maps.items():
        for n, values in by_n.items():
            assert found[name][n].pop("xy") == pytest.approx(values.pop("xy"), abs=5.1e-5)
            assert found[name][n].pop("uses").tolist() == list(range(16))
            assert found[name][n] == values
    for left in (
        "\n".join(lines[:-1]),
        "\n".join(lines[:-16]),
        "\n".join(lines)[:-9],
        "\n".join(lines) + "\0",
        "",
        None,
    ):
        (run.folder / "umap.csv").unlink() if left is None else (run.folder / "umap.csv").write_text(left)
        with pytest.raises(RunError, match="holds no maps of the codebook") as caught:
            codebook_maps.load_maps(run)
        assert "\n" not in str(caught.value)


def test_the_published_maps_are_whole():
    """Each published map has a point for each of the 512 codes, and keeps the islands that results/ says."""
    for by_n in codebook_maps.load_maps(Run.published("vqvae")).values():
        assert list(by_n) == [3, 15, 50]
        for found in by_n.values():
            assert found["xy"].shape == (512, 2)
            assert codebook_maps._islands(found["xy"], 4) == found["islands"]


def test_islands_are_counted():
    """Three separate heaps of points are three islands at any scale, and one where all that is far counts as near."""
    heaps = np.random.default_rng(0).normal(size=(3, 40, 2))
    heaps[:, :, 0] += [[0], [50], [100]]
    heaps = heaps.reshape(120, 2)
    for scale in (0.01, 1, 100):
        maps = {"heaps": {3: {"xy": scale * heaps}}}
        assert codebook_maps.islands(maps, within=4) == {"heaps": {3: 3}}
        assert codebook_maps.islands(maps, within=1e4) == {"heaps": {3: 1}}


@pytest.mark.slow
def test_trustworthiness_tells_structure_from_noise():
    """A codebook of separate heaps has a far higher trustworthiness than the noise control with its mean and spread."""
    random = np.random.default_rng(0)
    # Heaps of 24: larger than the 15 neighbours that the trustworthiness looks at.
    heaps = random.normal(size=(8, 16)).repeat(24, axis=0) * 3 + random.normal(size=(192, 16)) * 0.3
    maps = codebook_maps.codebook_maps(heaps, seed=0, neighbours=(500,))
    # No more than half of the codes.
    found = maps["codebook"][95]
    assert found["xy"].shape == (192, 2)
    assert found["islands"] >= 1
    for control in ("shuffled", "noise"):
        assert found["trustworthiness"] > maps[control][95]["trustworthiness"] + 0.05


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
    # Where each value came from (64, 8): each column in an order of its own.
    came_from = (shuffled[:, :, None] == codebook.T[None]).argmax(2)
    assert len({tuple(column) for column in came_from.T}) == 8
