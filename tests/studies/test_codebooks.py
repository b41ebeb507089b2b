"""Loss terms, starts and other quantizers: each case changes what its name says, and nothing else."""

import json
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hw2lib.data import random_stream, toy_pictures
from hw2lib.evaluation.codec import evaluate_vqvae
from hw2lib.evaluation.metrics import perplexity
from hw2lib.studies import codebooks, study
from hw2lib.studies.codebooks import (
    QUANTIZERS,
    REMOVED,
    STARTS,
    NoiseAverages,
    QuantizerError,
    Without,
    borrow,
    config_as_others,
    encoder_scores,
    gradient_facts,
    measure_quantizer,
    measure_start,
    measure_terms,
    scores,
    train,
)
from hw2lib.training import Run, machine
from hw2lib.vqvae import VQVAE, VQVAEConfig

SMALL = VQVAEConfig(hidden_channels=8, residual_channels=4, num_codes=16, code_dim=4)
LEVELS = (4, 4)
PARTS = ("encoder", "codebook", "decoder")
# What each term of equation 3 teaches, by its stop-gradients and the straight-through estimator.
TAUGHT = {"reconstruction": {"encoder", "decoder"}, "codebook": {"codebook"}, "commitment": {"encoder"}}


@pytest.fixture(scope="module")
def toy():
    """40 drawn training pictures and 12 test pictures."""
    return toy_pictures(32, train=40, test=12)


def ready(model, steps=20):
    """A model set up on the CPU, in training mode."""
    model.setup(machine("cpu", "32"), steps)
    return model.train()


def steps(model, pictures, count=3):
    """`count` updates on 16 pictures each, from the same chance: what they return."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [model.step(pictures[16 * step : 16 * step + 16]) for step in range(count)]


def copied(module):
    """All weights and buffers of a module, copied."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    """Whether two of `copied` are equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def options(codebook, **more):
    return SMALL.model_copy(update={"codebook": codebook, "learning_rate": 1e-2, **more})


both_codebooks = pytest.mark.parametrize("codebook", ["gradient", "ema"])


# ---- gradients of the terms


def test_each_term_teaches_what_equation_3_says():
    """Of the nine norms exactly those are 0, not nearly, that the stop-gradients make 0; the others are not small."""
    for seed in (0, 1):
        facts = gradient_facts(seed)
        assert set(facts) == {f"{term}_{part}" for term in TAUGHT for part in PARTS}
        for term, taught in TAUGHT.items():
            for part in PARTS:
                assert facts[f"{term}_{part}"] > 1e-6 if part in taught else facts[f"{term}_{part}"] == 0
    assert gradient_facts(0) == gradient_facts(0) != facts


def test_gradient_facts_are_those_of_the_network():
    """In float32 the network's own forward gives the same nine norms, with the weights that `step` gives the terms."""
    sizes = {"size": 16, "hidden_channels": 16, "residual_channels": 8, "num_codes": 32, "code_dim": 8}
    config = VQVAEConfig(codebook="gradient", seed=3, **sizes)
    x = torch.rand(4, 3, 16, 16, dtype=torch.float64, generator=random_stream(3)).float() - 0.5
    facts, latents, numbers = gradient_facts(3), 8 * 4 * 4, 3 * 16 * 16
    for term in TAUGHT:
        model = VQVAE(config)
        reconstruction, quantized = model(x)
        loss = {
            "reconstruction": F.mse_loss(reconstruction, x) / config.data_variance,
            "codebook": latents / (numbers / 2) * quantized.codebook_loss,
            "commitment": latents / (numbers / 2) * quantized.commitment_loss,
        }[term]
        loss.backward()
        for part, module in zip(PARTS, (model.encoder, model.quantizer, model.decoder), strict=True):
            squares = [float(p.grad.double().square().sum()) for p in module.parameters() if p.grad is not None]
            assert facts[f"{term}_{part}"] == pytest.approx(math.sqrt(sum(squares)), rel=1e-4), (term, part)


def test_the_gradients_of_the_terms_are_the_published_ones():
    """Which term teaches which part, computed again, is what the report shows."""
    published, again = Run.published("vqvae").metrics["gradient_facts"], gradient_facts(0)
    assert published == pytest.approx(again, rel=1e-6)
    assert {name for name, norm in published.items() if norm == 0} == {
        name for name, norm in again.items() if norm == 0
    }


# ---- a term removed


@both_codebooks
def test_with_nothing_removed_it_is_a_vqvae(codebook, pictures):
    """Three steps leave the weights, averages and reported terms of a VQVAE, bit for bit, with start and restarts."""
    models = [ready(VQVAE(options(codebook))), ready(Without(options(codebook), "nothing"))]
    plain, whole = (steps(model, pictures) for model in models)
    assert same(copied(models[0]), copied(models[1]))
    for one, other in zip(plain, whole, strict=True):
        assert same(one, other)


@both_codebooks
@pytest.mark.parametrize("removed", REMOVED[1:])
def test_a_removed_term_changes_the_training(codebook, removed, pictures):
    """The first step reports the whole one's terms, all of them; after it the network is another."""
    whole, less = ready(VQVAE(options(codebook))), ready(Without(options(codebook), removed))
    first, second = steps(whole, pictures, 1)[0], steps(less, pictures, 1)[0]
    assert same(first, second)
    assert not same(copied(whole), copied(less))


def test_without_the_codebook_term_the_gradient_codebook_stays(pictures):
    """After its start it does not move by a bit, while the encoder does; with the term it moves."""
    for removed, moves in (("codebook", False), ("nothing", True)):
        model = ready(Without(options("gradient", restart_dead=False), removed))
        steps(model, pictures, 1)
        codebook, encoder = model.quantizer.codebook.detach().clone(), copied(model.encoder)
        steps(model, pictures, 3)
        assert torch.equal(model.quantizer.codebook, codebook) != moves
        assert not same(copied(model.encoder), encoder)


def test_frozen_averages_do_not_move(pictures):
    """Without its averages' steps the EMA codebook, its sums and counts stay as started; restarts are off, too."""
    for removed, moves in (("codebook", False), ("nothing", True)):
        model = ready(Without(options("ema"), removed))
        with torch.random.fork_rng(devices=[]):  # as VQVAE.step does at the first step
            torch.manual_seed(0)
            model.quantizer.start_from(model.encoder(model.to_network(pictures[:16])).detach())
        started = copied(model.quantizer)
        steps(model, pictures, 3)
        assert same(copied(model.quantizer), started) != moves


def test_two_codebooks_that_learn_nothing_are_one(toy):
    """With the codebook's learning removed, the gradient and the EMA codebook train to the same bits, not else."""
    for removed in ("codebook", "nothing"):
        one, other = (
            measure_terms({"codebook": codebook, "removed": removed, "seed": 0}, toy, 3, SMALL)
            for codebook in ("gradient", "ema")
        )
        numbers = one.keys() - {"test_vq"}  # where the gradient codebook reports its own term
        assert all(one[number] == other[number] for number in numbers) == (removed == "codebook")


@both_codebooks
def test_without_the_commitment_term_the_quantizer_tells_the_encoder_nothing(codebook, pictures):
    """The gradient at z_e is then the decoder's alone, and the terms of the quantizer send none at all."""
    x = VQVAE.to_network(pictures[:4])
    for removed in ("commitment", "nothing"):
        model = Without(options(codebook), removed)
        _, quantized = model(x)
        vq = quantized.codebook_loss + quantized.commitment_loss
        reaches = False
        if vq.requires_grad:
            weights = list(model.encoder.parameters())
            reaches = any(g.any() for g in torch.autograd.grad(vq, weights, materialize_grads=True))
        assert reaches == (removed == "nothing")
        assert quantized.commitment_loss > 0


@both_codebooks
def test_without_the_reconstruction_term_the_decoder_stays(codebook, pictures):
    """The decoder keeps its first weights, the encoder learns from the commitment term all the same."""
    model = ready(Without(options(codebook), "reconstruction"))
    decoder, encoder = copied(model.decoder), copied(model.encoder)
    steps(model, pictures)
    assert same(copied(model.decoder), decoder)
    assert not same(copied(model.encoder), encoder)


# ---- starts


def test_averages_of_noise_explode_and_sink():
    """As in NumPy: after one update unused codes are the noise times .99 over nearly nothing; 1,500 later they are at 0."""
    torch.manual_seed(0)
    quantizer = NoiseAverages(8, 3, 0.25, 0.99)
    quantizer.codebook[4:] = 50.0  # out of reach
    codebook, noise = quantizer.codebook.double().numpy(), quantizer.sums.double().numpy()
    assert np.abs(codebook[:4] - noise[:4]).min() > 0  # of its own
    x = torch.randn(2, 3, 4, 4)
    vectors = x.permute(0, 2, 3, 1).double().numpy().reshape(-1, 3)
    codes = ((vectors[:, None] - codebook[None]) ** 2).sum(2).argmin(1)
    uses = np.bincount(codes, minlength=8)
    counts = 0.01 * uses
    counts = (counts + 1e-5) / (counts.sum() + 8e-5) * counts.sum()
    sums = 0.99 * noise + 0.01 * np.stack([vectors[codes == code].sum(0) for code in range(8)])
    quantizer(x)
    np.testing.assert_allclose(quantizer.codebook.numpy(), sums / counts[:, None], rtol=1e-4)
    np.testing.assert_allclose(quantizer.counts.numpy(), counts, rtol=1e-4)  # smoothed, and kept so
    np.testing.assert_allclose(quantizer.codebook[4:].numpy(), 0.99 * noise[4:] / 1e-5, rtol=1e-3)
    assert quantizer.codebook[4:].norm(dim=1).min() > 1e4
    for _ in range(1500):
        quantizer(x + 100)  # one code takes them all, the others are unused
    assert quantizer.codebook.norm(dim=1).sort().values[-2] < 0.1


def test_starts_are_what_they_are_called(toy, monkeypatch):
    """k-means only where it is named, restarts only where they are named, the noise only in the control; one decay."""
    seen = {}
    monkeypatch.setattr(
        codebooks, "train", lambda model, *_: seen.setdefault(start, model) and {"perplexity": torch.ones(0)}
    )
    for name in ("scores", "encoder_scores"):
        monkeypatch.setattr(codebooks, name, lambda *_: {})
    for start in STARTS:
        assert measure_start({"start": start, "seed": 1}, toy, 5, SMALL) == {}
    for start, model in seen.items():
        config = model.config
        assert config.kmeans_init == (start in ("kmeans_start", "both"))
        assert config.restart_dead == (start in ("restarts", "both"))
        assert isinstance(model.quantizer, NoiseAverages) == (start == "noise_averages")
        assert (config.codebook, config.schedule, config.seed) == ("ema", "constant", 1)
        assert model.quantizer.decay == config.decay == 0.99
        assert config.learning_rate == 3e-4
        assert same(copied(model.encoder), copied(seen["neither"].encoder))
        assert same(copied(model.decoder), copied(seen["neither"].decoder))


def test_early_perplexity_is_the_mean_around_the_update(toy, monkeypatch):
    """perplexity_at_100 averages updates 91 to 110; what lies beyond the end is left out."""
    values = torch.arange(1.0, 1001.0)
    monkeypatch.setattr(codebooks, "train", lambda model, pictures, updates: {"perplexity": values[:updates]})
    for name in ("scores", "encoder_scores"):
        monkeypatch.setattr(codebooks, name, lambda *_: {})
    found = measure_start({"start": "neither", "seed": 0}, toy, 1000, SMALL)
    assert found == {
        "perplexity_at_100": np.mean(range(91, 111)),
        "perplexity_at_500": np.mean(range(491, 511)),
    }
    assert set(measure_start({"start": "neither", "seed": 0}, toy, 110, SMALL)) == {"perplexity_at_100"}
    assert measure_start({"start": "neither", "seed": 0}, toy, 109, SMALL) == {}


# ---- what is measured


def test_config_as_others(toy):
    """Sizes and commitment are the given ones; rate, schedule, picture size and variance are the experiment's."""
    given = SMALL.model_copy(update={"commitment": 0.5, "learning_rate": 1.0})
    config = config_as_others(given, toy, 7, codebook="gradient")
    expected = {"learning_rate": 3e-4, "schedule": "constant", "data_variance": toy.variance}
    expected |= {"seed": 7, "codebook": "gradient"}
    assert config == given.model_copy(update=expected)


def test_encoder_scores_are_those_of_numpy(toy):
    """The size of z_e and the commitment term over all pictures agree with float64, also when split unevenly."""
    model = VQVAE(config_as_others(SMALL, toy)).eval()
    with torch.no_grad():
        z_e = model.encoder(model.to_network(toy.test)).permute(0, 2, 3, 1).double().numpy().reshape(-1, 4)
    codebook = model.quantizer.codebook.double().numpy()
    nearest = ((z_e[:, None] - codebook[None]) ** 2).sum(2).min(1)
    for batch_size in (5, 500):
        found = encoder_scores(model, toy, batch_size)
        assert found["encoder_rms"] == pytest.approx(np.sqrt((z_e**2).mean()), rel=1e-5)
        assert found["test_commitment"] == pytest.approx(0.25 * nearest.mean() / 4, rel=1e-5)


def test_scores_are_of_the_first_test_pictures_and_the_last_batches(toy, monkeypatch):
    """Only so many test pictures are looked at, and only the last 100 updates count as what notebooks print."""
    model = VQVAE(config_as_others(SMALL, toy)).eval()
    history = {"reconstruction": torch.arange(300.0), "perplexity": -torch.arange(300.0)}
    monkeypatch.setattr(codebooks, "TEST_PICTURES", 5)
    found = scores(model, toy, history)
    assert found.pop("train_nmse") == -found.pop("train_perplexity") == 249.5
    assert found == evaluate_vqvae(model, toy.test[:5]) != evaluate_vqvae(model, toy.test)


def test_train_makes_the_updates_that_it_is_asked_for(toy):
    """3 updates on 40 pictures: a batch of 32, one of 8 and the first of the next epoch; then eval mode."""
    seen = []
    model = VQVAE(config_as_others(SMALL, toy))
    real = model.step
    model.step = lambda batch: seen.append(batch) or real(batch)
    history = train(model, toy, 3)
    assert [len(batch) for batch in seen] == [32, 8, 32]
    first, again = seen[0].flatten(1), seen[2].flatten(1)
    assert not torch.equal(first.sort(0).values, again.sort(0).values)
    assert history["mse"].shape == (3,)
    assert not model.training


MEASURES = {
    "terms": (measure_terms, {"codebook": "gradient", "removed": "commitment"}, ()),
    "start": (measure_start, {"start": "noise_averages"}, ()),
    "ours": (measure_quantizer, {"quantizer": "ema"}, (LEVELS,)),
    "fsq": (measure_quantizer, {"quantizer": "fsq"}, (LEVELS,)),
    "simvq": (measure_quantizer, {"quantizer": "simvq"}, (LEVELS,)),
}


@pytest.mark.parametrize("name", MEASURES)
def test_a_case_is_determined_by_its_seed(toy, name):
    """The same case has the same numbers, another seed others, and torch's chance is left alone."""
    measure, case, more = MEASURES[name]
    before = torch.random.get_rng_state()
    first, again, other = (measure(case | {"seed": seed}, toy, 2, SMALL, *more) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first == again
    assert all(first[number] != other[number] for number in ("test_nmse", "train_nmse"))
    assert all(np.isfinite(value) for value in first.values())


def test_the_studies_have_every_case(toy, tmp_path):
    """A row for each codebook and removed term, start, or quantizer, with the case's own numbers; settings say the rest."""
    asked = {"pictures": toy, "runs": tmp_path, "updates": 1, "seeds": (4,), "config": SMALL}
    terms, starts = codebooks.terms(**asked), codebooks.starts(**asked)
    quantizers = codebooks.other_quantizers(**asked, levels=LEVELS)
    case = {"codebook": "ema", "removed": "reconstruction", "seed": 4}
    assert study.rows(terms)[5] == case | measure_terms(case, toy, 1, SMALL)
    found = study.by_case(terms)
    assert {codebook: tuple(its) for codebook, its in found.items()} == {"gradient": REMOVED, "ema": REMOVED}
    assert tuple(study.by_case(starts)) == tuple(STARTS)
    assert starts.metrics["options"]["start"] == STARTS
    assert tuple(study.by_case(quantizers)) == QUANTIZERS
    assert quantizers.metrics["package"]["vector-quantize-pytorch"][0].isdigit()

    settings = [json.loads((run.folder / "config.json").read_text())["settings"] for run in (terms, starts, quantizers)]
    assert all((its["updates"], its["batch_size"], its["test_pictures"]) == (1, 32, 12) for its in settings)
    configs = [its["config"] for its in settings]
    assert configs[0]["learning_rate"] == 3e-4 and not configs[0]["restart_dead"]
    assert configs[1]["decay"] == 0.99
    assert settings[2]["levels"] == [4, 4] and configs[2]["num_codes"] == 16


# ---- other quantizers


def test_fsq_rounds_to_its_levels():
    """Without projections its values are those of the paper's formula in NumPy, its codes count them in base 4."""
    config = SMALL.model_copy(update={"code_dim": 2})
    quantizer = borrow("fsq", config, LEVELS)
    assert not list(quantizer.parameters())
    z_e = 2 * torch.randn(3, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    found = quantizer(z_e)
    z, half = z_e.double().numpy(), (4 - 1) * (1 + 1e-3) / 2
    levels = np.round(np.tanh(z + np.arctanh(0.5 / half)) * half - 0.5)  # -2 to 1
    np.testing.assert_allclose(found.z_q.numpy(), levels / 2, atol=1e-6)
    codes = (levels[:, 0] + 2) + 4 * (levels[:, 1] + 2)
    np.testing.assert_array_equal(found.codes.numpy(), codes)
    assert found.codes.dtype == torch.int64 and set(np.unique(codes)) == set(range(16))
    counts = torch.bincount(found.codes.flatten(), minlength=16)
    assert float(found.perplexity) == pytest.approx(perplexity(counts), rel=1e-5)
    assert found.codebook_loss == found.commitment_loss == 0


def test_simvq_is_equation_3_on_a_moved_codebook():
    """Codes are the nearest of frozen noise times the matrix, losses those of equation 3, gradients straight-through."""
    torch.manual_seed(0)
    config = SMALL.model_copy(update={"commitment": 0.5})
    quantizer = borrow("simvq", config)
    z_e = torch.randn(3, 4, 5, 5, requires_grad=True)
    found = quantizer(z_e)
    (matrix,) = quantizer.parameters()
    codebook = quantizer.layer.frozen_codebook.double().numpy() @ matrix.detach().double().numpy().T  # (16, 4)
    vectors = z_e.detach().permute(0, 2, 3, 1).double().numpy()
    distances = ((vectors[..., None, :] - codebook) ** 2).sum(-1)
    np.testing.assert_array_equal(found.codes.numpy(), distances.argmin(-1))
    np.testing.assert_allclose(
        found.z_q.detach().permute(0, 2, 3, 1).numpy(), codebook[distances.argmin(-1)], atol=1e-5
    )
    assert found.codebook_loss.item() == pytest.approx(1.5 * distances.min(-1).mean() / 4, rel=1e-5)
    gradient = torch.randn_like(z_e)
    arrived, at_matrix = torch.autograd.grad(
        found.z_q, (z_e, matrix), gradient, retain_graph=True, materialize_grads=True
    )
    torch.testing.assert_close(arrived, gradient)
    assert not at_matrix.any()
    assert torch.autograd.grad(found.codebook_loss, matrix)[0].any()


def test_the_network_around_a_quantizer_is_the_same(toy, monkeypatch):
    """Encoder and decoder are the same for all, to the bit of their first weights; each quantizer has its own weights."""
    seen = {}
    monkeypatch.setattr(codebooks, "train", lambda model, *_: seen.setdefault(name, model))
    monkeypatch.setattr(codebooks, "scores", lambda *_: {})
    for name in QUANTIZERS:
        measure_quantizer({"quantizer": name, "seed": 2}, toy, 1, SMALL, LEVELS)
    for name, model in seen.items():
        assert model.config.num_codes == 16
        for part in ("encoder", "decoder"):
            ours, theirs = copied(getattr(seen["ema"], part)), copied(getattr(model, part))
            assert same(ours, theirs), name
    trained = {name: sum(p.numel() for p in model.quantizer.parameters()) for name, model in seen.items()}
    assert trained == {"fsq": 4 * 2 + 2 + 2 * 4 + 4, "simvq": 4 * 4, "ema": 0, "gradient": 16 * 4}


def test_the_borrowed_layers_learn(pictures):
    """What a borrowed quantizer has of weights is in the optimiser: all of it moves in three steps."""
    for name in ("fsq", "simvq"):
        model = VQVAE(options("ema", kmeans_init=False))
        model.quantizer = borrow(name, model.config, LEVELS)
        before = [p.detach().clone() for p in model.quantizer.parameters()]
        steps(ready(model), pictures)
        after = list(model.quantizer.parameters())
        assert len(after) and not any(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_a_missing_package_is_said_before_any_training(toy, tmp_path, monkeypatch):
    """Without vector-quantize-pytorch the study ends at its first case with what to install."""
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    monkeypatch.setattr(codebooks, "train", lambda *_: pytest.fail("trained"))
    with pytest.raises(QuantizerError, match=r"^vector-quantize-pytorch cannot be imported .*hw2lib\[eval\]"):
        codebooks.other_quantizers(toy, tmp_path, updates=1, seeds=(0,), config=SMALL)
