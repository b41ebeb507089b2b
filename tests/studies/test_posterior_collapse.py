"""Posterior collapse: the formulas and the decoder's dial."""

import itertools
import math

import numpy as np
import pytest
import torch

from hw2lib.studies import posterior_collapse as collapse
from hw2lib.studies.study import rows

POWER = {"steps": 4, "pictures": 200, "batch_size": 16, "learning_rate": 2e-3}


def log_normal(x: np.ndarray, mean: np.ndarray, variance) -> np.ndarray:
    """log N(x; mean, diag(variance)) of each row."""
    return -0.5 * (np.log(2 * np.pi * variance) + (x - mean) ** 2 / variance).sum(1)


# ---- linear VAE


def test_the_closed_form_is_the_elbo():
    """Sampled in NumPy, log p(x|z) + log p(z) - log q(z|x) has the mean that is said, and so has the KL."""
    random, sigma2, count = np.random.default_rng(0), 0.7, 400_000
    encoder, decoder = random.normal(size=(2, 5, 5)) * 0.5
    log_variance = random.normal(size=5) * 0.5
    _, covariance = collapse.gaussian_data(seed=3)
    x = random.multivariate_normal(np.zeros(5), covariance.numpy(), count)
    z = x @ encoder.T + np.exp(0.5 * log_variance) * random.normal(size=(count, 5))
    reconstruction = log_normal(x, z @ decoder.T, np.full(5, sigma2))
    prior, posterior = log_normal(z, 0 * z, np.ones(5)), log_normal(z, x @ encoder.T, np.exp(log_variance))
    parts = [torch.from_numpy(part) for part in (encoder, log_variance, decoder)]
    elbo, kl = collapse.linear_elbo(covariance, sigma2, *parts)
    for sampled, exact in ((reconstruction + prior - posterior, elbo), (posterior - prior, kl.sum())):
        assert abs(sampled.mean() - float(exact)) < 5 * sampled.std() / math.sqrt(count)


def test_the_covariance_has_the_eigenvalues_on_the_axes():
    """The axes are orthogonal, each seed has its own, and the covariance stretches each by its eigenvalue."""
    axes, covariance = collapse.gaussian_data(seed=0)
    torch.testing.assert_close(axes.T @ axes, torch.eye(5).double())
    values = torch.tensor(collapse.EIGENVALUES).double()
    torch.testing.assert_close(covariance @ axes, axes * values)
    assert not torch.allclose(axes, collapse.gaussian_data(seed=1)[0], atol=0.1)


@pytest.mark.parametrize(("sigma2", "active"), [(0.1, 5), (0.3, 4), (0.7, 3), (1.5, 2), (3.0, 1)])
def test_latents_are_those_of_pca(sigma2, active):
    """KL is 1/2 log(eigenvalue / sigma2) to 1 %, 0 below the noise, on the axes; the bound is tight."""
    found = collapse.measure_linear({"sigma2": sigma2, "seed": 1})
    assert found["active"] == found["analytic_active"] == active
    for place, value in enumerate((4, 2, 1, 0.5, 0.25), 1):
        right = max(0, 0.5 * math.log(value / sigma2))
        assert found[f"analytic_kl_{place}"] == pytest.approx(right)
        assert found[f"kl_{place}"] == pytest.approx(right, rel=0.01, abs=1e-4)
    assert found["angle"] < 0.1
    assert found["elbo"] == pytest.approx(found["analytic_elbo"], abs=1e-7)


def test_noise_above_all_eigenvalues_leaves_nothing():
    """With sigma^2 = 5 > 4 no latent is used, and the bound is that of the noise alone."""
    found = collapse.measure_linear({"sigma2": 5.0, "seed": 0})
    assert found["active"] == 0
    assert found["kl_1"] < 1e-6
    assert found["elbo"] == pytest.approx(-0.5 * (5 * math.log(2 * math.pi * 5) + 7.75 / 5), abs=1e-9)


def test_the_likelihood_is_that_of_a_gaussian():
    """analytic_elbo is E log N(x; 0, W W^T + sigma2 I) for the W that pPCA gives, computed with matrices."""
    axes, covariance = (part.numpy() for part in collapse.gaussian_data(seed=2))
    values, sigma2 = np.array(collapse.EIGENVALUES), 0.7
    decoder = axes * np.sqrt(np.maximum(values - sigma2, 0))
    model = decoder @ decoder.T + sigma2 * np.eye(5)
    trace = np.trace(np.linalg.solve(model, covariance))
    likelihood = -0.5 * (5 * math.log(2 * math.pi) + np.linalg.slogdet(model)[1] + trace)
    assert collapse.analytic_elbo(sigma2) == pytest.approx(likelihood)


def test_alignment_matters():
    """Turned latents give the same p(x) but, with the best diagonal posterior, a lower ELBO and other KLs."""
    sigma2 = 0.1
    _, covariance = collapse.gaussian_data(seed=0)
    _, _, aligned = collapse.train_linear(covariance, sigma2, seed=0)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double()).Q

    def best(decoder):
        """The best diagonal posterior: the true mean, and 1 over the diagonal of the true precision."""
        precision = torch.eye(5).double() + decoder.T @ decoder / sigma2
        encoder = torch.linalg.solve(precision, decoder.T) / sigma2
        return collapse.linear_elbo(covariance, sigma2, encoder, -precision.diagonal().log(), decoder)

    (straight, kl), (turned, other) = best(aligned), best(aligned @ turn)
    assert float(straight) == pytest.approx(collapse.analytic_elbo(sigma2), abs=1e-7)
    assert turned < straight - 0.1
    assert (kl.sort().values - other.sort().values).abs().max() > 0.1


# ---- pictures of a known origin


def test_stripes_are_all_different_and_half_on():
    """24 patterns, each with as many ones as zeros and constant along rows or along columns."""
    patterns = collapse.all_patterns()
    assert len(patterns) == len(patterns.unique(dim=0)) == 24
    assert (patterns.sum(1) == 32).all()
    square = patterns.view(-1, 8, 8)
    upright, level = (square == square[:, :1]).all((1, 2)), (square == square[:, :, :1]).all((1, 2))
    assert upright.sum() == level.sum() == 12
    assert (upright ^ level).all()


def test_flips_come_in_runs():
    """A fifth of the pixels is flipped at every place, and a run goes on with probability 3/4."""
    pictures, causes = collapse.draw_pictures(20_000, torch.Generator().manual_seed(0))
    flips = pictures != collapse.all_patterns()[causes]
    assert (flips.float().mean(0) - 0.2).abs().max() < 0.02  # 7 standard errors
    assert float(flips[:, 1:][flips[:, :-1]].float().mean()) == pytest.approx(0.75, abs=0.01)
    assert (torch.bincount(causes, minlength=24) / 20_000 - 1 / 24).abs().max() < 0.01


def chance_of(window: tuple, start: int) -> float:
    """p(these pixels from `start` on), from the definition: the mean over causes of the chain of flips."""
    total = 0.0
    for pattern in collapse.all_patterns()[:, start : start + len(window)].tolist():
        flips = [a != b for a, b in zip(pattern, window, strict=True)]
        chance = 0.2 if flips[0] else 0.8
        for before, after in itertools.pairwise(flips):
            begins = 0.75 if before else 0.0625
            chance *= begins if after else 1 - begins
        total += chance
    return total / 24


@pytest.mark.parametrize("k", [0, 1, 3, 63])
def test_the_least_nll_without_z_is_bayes(k):
    """-log p(x_i | the k pixels before), window by window from the definition, has the sum that is said."""
    pictures, causes = collapse.draw_pictures(3, torch.Generator().manual_seed(1))
    expected = 0.0
    for picture in pictures.tolist():
        for place in range(64):
            first = max(0, place - k)
            before = chance_of(picture[first:place], first) if place > first else 1.0
            expected -= math.log(chance_of(picture[first : place + 1], first) / before) / 3
    found = collapse.true_nlls(pictures, causes, k)
    assert found["true_nll_without_z"] == pytest.approx(expected, rel=1e-9)
    whole = -sum(math.log(chance_of(picture, 0)) for picture in pictures.tolist()) / 3
    assert found["true_nll"] == pytest.approx(whole, rel=1e-9)


def test_knowing_more_is_worth_more():
    """The least nll falls with k from 64 log 2 to the entropy; the stripes are worth at most log 24 nats."""
    pictures, causes = collapse.draw_pictures(300, torch.Generator().manual_seed(2))
    found = [collapse.true_nlls(pictures, causes, k) for k in (0, 1, 2, 4, 8, 63)]
    falling = [numbers["true_nll_without_z"] for numbers in found]
    assert falling[0] == pytest.approx(64 * math.log(2))
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == pytest.approx(found[0]["true_nll"])
    assert 0 < found[0]["true_nll"] - found[0]["true_nll_given_cause"] < math.log(24)


# ---- a decoder of graded power


@pytest.fixture
def pictures():
    return collapse.draw_pictures(6, torch.Generator().manual_seed(7))[0]


@pytest.mark.parametrize("k", [0, 1, 4, 8, 63])
def test_a_decoder_sees_k_pixels_and_z(k, pictures):
    """Each logit has a gradient from the k pixels before it, no other pixel, and from z."""
    torch.manual_seed(0)
    vae = collapse.VAE(k).double()
    inputs = pictures.double().requires_grad_()
    z = torch.randn(6, collapse.LATENTS).double().requires_grad_()
    logits = vae.logits(z, inputs)
    for place in (0, 1, 5, 9, 40, 63):
        by_pixel, by_z = torch.autograd.grad(logits[:, place].sum(), (inputs, z), retain_graph=True, allow_unused=True)
        seen = torch.zeros(64) if by_pixel is None else (by_pixel != 0).any(0).float()
        assert seen.nonzero().flatten().tolist() == list(range(max(0, place - k), place))
        assert (by_z != 0).any(0).all()


def test_the_decoders_begin_alike_and_differ_only_by_what_they_see(pictures):
    """All k share the first weights; with z alone, at the first pixel, they say the same."""
    found = []
    for k in (0, 8, 63):
        torch.manual_seed(3)
        vae = collapse.VAE(k)
        found.append(vae.logits(torch.ones(6, collapse.LATENTS), pictures).detach())
    assert all(torch.allclose(logits[:, 0], found[0][:, 0]) for logits in found)
    assert not torch.allclose(found[1][:, 9:], found[2][:, 9:])


def test_nll_and_kl_are_what_numpy_says(pictures):
    """Bernoulli likelihoods and KL(N(m, s^2) || N(0, 1)), from their definitions in float64."""
    torch.manual_seed(4)
    vae = collapse.VAE(4).double()
    z, inputs = torch.randn(6, collapse.LATENTS).double(), pictures.double()
    chances = 1 / (1 + np.exp(-vae.logits(z, inputs).detach().numpy()))
    expected = -np.log(np.where(pictures.numpy() == 1, chances, 1 - chances)).sum(1)
    np.testing.assert_allclose(vae.nll(z, inputs).detach().numpy(), expected)
    mean, deviation, kl = (part.detach().numpy() for part in vae.encode(inputs))
    np.testing.assert_allclose(kl, -np.log(deviation) + (deviation**2 + mean**2 - 1) / 2)


def test_power_is_determined_by_the_case_and_leaves_chance_alone():
    """The same case gives the same numbers, another seed others; the global random state stays as it was."""
    before = torch.get_rng_state()
    first = collapse.measure_power({"k": 2, "seed": 0}, **POWER)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert collapse.measure_power({"k": 2, "seed": 0}, **POWER) == first
    assert collapse.measure_power({"k": 2, "seed": 1}, **POWER)["nll"] != first["nll"]
    assert first["elbo"] == pytest.approx(-first["nll"] - first["kl"])


def test_training_uses_z_where_nothing_else_is_seen():
    """A factorised decoder that trained for a while needs the z of its own picture; the numbers say so."""
    settings = POWER | {"steps": 120, "pictures": 1000, "batch_size": 64, "learning_rate": 5e-3}
    found = collapse.measure_power({"k": 0, "seed": 0}, **settings)
    assert found["kl"] > 1
    assert found["active"] > 0
    assert found["shuffled"] > 1
    assert found["elbo"] > -64 * math.log(2)


def test_an_ignored_z_shows(monkeypatch):
    """Without the path from z to the pixels, shuffled is 0 and the KL goes to 0."""
    logits = collapse.VAE.logits
    monkeypatch.setattr(collapse.VAE, "logits", lambda vae, z, x: logits(vae, 0 * z, x))
    found = collapse.measure_power({"k": 1, "seed": 0}, **POWER | {"steps": 150, "learning_rate": 1e-2})
    assert found["shuffled"] == 0
    assert found["active"] == 0


def test_the_studies_keep_a_row_for_each_case(tmp_path):
    """Cases are the product of what is asked for, each with its numbers; a wider study keeps them."""
    run = collapse.linear_vae(tmp_path, sigma2s=(1.5, 5.0), seeds=(0,))
    assert [(row["sigma2"], row["active"]) for row in rows(run)] == [(1.5, 2), (5.0, 0)]
    run = collapse.decoder_power(tmp_path, ks=(0, 63), steps=1, seeds=(0, 1), pictures=50)
    assert [(row["k"], row["seed"]) for row in rows(run)] == [(0, 0), (0, 1), (63, 0), (63, 1)]
    wider = collapse.decoder_power(tmp_path, ks=(0, 8, 63), steps=1, seeds=(0,), pictures=50)
    assert wider.folder == run.folder
    assert [(row["k"], row["seed"]) for row in rows(wider)] == [(0, 0), (8, 0), (63, 0), (0, 1), (63, 1)]
