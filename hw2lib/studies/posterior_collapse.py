"""Posterior collapse, q(z|x) = p(z) for every x: does it need a powerful decoder, does power lead to it?

`linear_vae`: encoder and decoder are matrices and the data Gaussian, so that the ELBO is a formula. The best
decoder is that of probabilistic PCA, along the principal axes, and directions of less variance than the noise
get no latent: Lucas et al., "Don't Blame the ELBO!" (2019), arXiv:1911.02469; Tipping and Bishop (1999).

`decoder_power`: a VAE whose decoder sees z and the k pixels before the one that it gives: factorised for
k = 0, autoregressive for k = 63. Bowman et al. (2016), arXiv:1511.06349, and Chen et al. (2017),
arXiv:1611.02731, section 2, say what such a decoder leaves to z.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hw2lib.studies.study import Case, study
from hw2lib.training import Run

# Nats of KL; a latent above it counts as used.
ACTIVE = 0.01

# ---- linear VAE

# Of the data's covariance, in falling order; there are as many latents.
EIGENVALUES = (4.0, 2.0, 1.0, 0.5, 0.25)


def linear_vae(runs=None, sigma2s=(0.1, 0.3, 0.7, 1.5, 3.0, 5.0), seeds=(0, 1, 2), n_jobs=1) -> Run:
    """The study of `measure_linear` over observation variances and seeds (of axes and first weights)."""
    cases = [{"sigma2": float(sigma2), "seed": seed} for sigma2 in sigma2s for seed in seeds]
    return study("linear-vae", {"eigenvalues": EIGENVALUES}, cases, measure_linear, runs, n_jobs=n_jobs)


def measure_linear(case: Case) -> dict[str, float]:
    """Train on the exact ELBO and compare with the formulas; all in nats.

    kl_1 >= kl_2 ...: KL of each latent, with analytic_kl_1 ... for it. active, analytic_active: latents above
    ACTIVE. elbo, and analytic_elbo that it should reach. angle: the largest, in degrees, between an active
    latent's column of the decoder and the principal axis nearest to it.
    """
    axes, covariance = gaussian_data(case["seed"])
    encoder, log_variance, decoder = train_linear(covariance, case["sigma2"], case["seed"])
    elbo, kl = linear_elbo(covariance, case["sigma2"], encoder, log_variance, decoder)
    found, right = kl.sort(descending=True).values.tolist(), analytic_kl(case["sigma2"])
    cosines = (axes.T @ F.normalize(decoder[:, kl > ACTIVE], dim=0)).abs().amax(0).clamp(max=1)
    return {
        **{f"kl_{place}": value for place, value in enumerate(found, 1)},
        **{f"analytic_kl_{place}": value for place, value in enumerate(right, 1)},
        "active": sum(value > ACTIVE for value in found),
        "analytic_active": sum(value > ACTIVE for value in right),
        "elbo": float(elbo),
        "analytic_elbo": analytic_elbo(case["sigma2"]),
        "angle": max(cosines.acos().rad2deg().tolist(), default=0.0),
    }


def gaussian_data(seed: int) -> tuple[Tensor, Tensor]:
    """Principal axes, columns of an orthogonal (D, D), and covariance (D, D), float64, of the data."""
    eigenvalues = torch.tensor(EIGENVALUES, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator).double()).Q
    return axes, axes @ eigenvalues.diag() @ axes.T


def linear_elbo(
    covariance: Tensor, sigma2: float, encoder: Tensor, log_variance: Tensor, decoder: Tensor
) -> tuple[Tensor, Tensor]:
    """ELBO, and KL of each latent (L,): exact means over x ~ N(0, covariance), in nats.

    q(z|x) = N(V x, diag(exp(log_variance))), p(x|z) = N(W z, sigma2 I), p(z) = N(0, I), encoder V (L, D),
    decoder W (D, L); biases are left out, as all means are 0. E|x - W z|^2 is that of (I - W V) x and what
    the posterior's variances add through W.
    """
    missed = torch.eye(len(covariance), dtype=covariance.dtype) - decoder @ encoder
    square = ((missed @ covariance) * missed).sum() + (decoder.square() @ log_variance.exp()).sum()
    log_likelihood = -0.5 * (len(covariance) * math.log(2 * math.pi * sigma2) + square / sigma2)
    kl = 0.5 * (((encoder @ covariance) * encoder).sum(1) + log_variance.exp() - 1 - log_variance)
    return log_likelihood - kl.sum(), kl


def train_linear(covariance: Tensor, sigma2: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """encoder, log_variance and decoder of `linear_elbo`, float64, that L-BFGS finds from random weights."""
    size = len(covariance)
    generator = torch.Generator().manual_seed(seed + 1_000_000)  # not the numbers that made the axes
    encoder, decoder = torch.randn(2, size, size, generator=generator).double() / math.sqrt(size)
    parts = [part.requires_grad_() for part in (encoder, torch.zeros(size).double(), decoder)]
    ends = {"max_iter": 2000, "tolerance_grad": 1e-9, "tolerance_change": 1e-14}
    optimizer = torch.optim.LBFGS(parts, line_search_fn="strong_wolfe", **ends)

    def loss() -> Tensor:
        optimizer.zero_grad()
        negative = -linear_elbo(covariance, sigma2, *parts)[0]
        negative.backward()
        return negative

    optimizer.step(loss)
    return tuple(part.detach() for part in parts)


def analytic_kl(sigma2: float) -> list[float]:
    """KL of each latent at the optimum, -1/2 log of its posterior's variance min(1, sigma2 / eigenvalue)."""
    return [max(0.0, 0.5 * math.log(value / sigma2)) for value in EIGENVALUES]


def analytic_elbo(sigma2: float) -> float:
    """The greatest mean log-likelihood of pPCA, whose variances are max(eigenvalue, sigma2) on the axes."""
    variances = [(value, max(value, sigma2)) for value in EIGENVALUES]
    return -0.5 * sum(math.log(2 * math.pi * model) + value / model for value, model in variances)


# ---- pictures of a known origin, with so few causes that the decoder of k = 63 can nearly do without z

SIDE, PIXELS = 8, 64
PERIODS = (4, 8)  # pixels
FLIPPED = 0.2  # share of flipped pixels, a stationary Markov chain in raster order:
STAYS = 0.75  # P(flipped | the pixel before is), so that runs have a mean length of 4
BEGINS = FLIPPED * (1 - STAYS) / (1 - FLIPPED)  # P(flipped | the pixel before is not)


def all_patterns() -> Tensor:
    """The 24 equally likely causes, stripes of each direction, period and phase: (24, 64) of 0 and 1."""
    x, y = torch.arange(PIXELS) % SIDE, torch.arange(PIXELS) // SIDE
    rows = [(of + phase) % n < n // 2 for of in (x, y) for n in PERIODS for phase in range(n)]
    return torch.stack(rows).float()


def draw_pictures(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Stripes with runs of pixels flipped, in raster order (count, 64) of 0 and 1, and causes (count,)."""
    patterns = all_patterns()
    causes = torch.randint(len(patterns), (count,), generator=generator)
    dice = torch.rand(count, PIXELS, generator=generator)
    flips = [dice[:, 0] < FLIPPED]
    for place in range(1, PIXELS):
        flips.append(dice[:, place] < torch.where(flips[-1], STAYS, BEGINS))
    return (patterns[causes] - torch.stack(flips, 1).float()).abs(), causes


def true_nlls(pictures: Tensor, causes: Tensor, k: int) -> dict[str, float]:
    """What perfect models reach on pictures (N, 64) of causes (N,), from the generator: nats a picture.

    true_nll: -log p(x), which no model can beat. true_nll_given_cause: -log p(x|cause), if told the stripes.
    true_nll_without_z: for a decoder of k that has no z, the sum of -log p(x_i | the k pixels before).
    """
    log_here = torch.tensor([1 - FLIPPED, FLIPPED], dtype=torch.float64).log()
    log_next = torch.tensor([[1 - BEGINS, BEGINS], [1 - STAYS, STAYS]], dtype=torch.float64).log()
    flips = (pictures != all_patterns()[:, None]).long()  # (24, N, 64)
    path = F.pad(log_next[flips[..., :-1], flips[..., 1:]].cumsum(-1), (1, 0))  # from pixel 0
    whole = log_here[flips[..., 0]] + path[..., -1]  # log p(picture | cause), (24, N)
    last = torch.arange(PIXELS)
    first = (last - k).clamp(min=0)  # of the pixels that are seen
    begun = log_here[flips[..., first]] - path[..., first]
    seen = torch.where(first < last, begun + path[..., last - 1], 0.0)  # log p(seen | cause), (24, N, 64)
    return {
        "true_nll": math.log(len(flips)) - float(whole.logsumexp(0).mean()),
        "true_nll_given_cause": -float(whole[causes, torch.arange(len(causes))].mean()),
        "true_nll_without_z": float((seen.logsumexp(0) - (begun + path).logsumexp(0)).sum(1).mean()),
    }


# ---- a decoder of graded power

LATENTS, HIDDEN, CHANNELS = 8, 64, 32


class VAE(nn.Module):
    """p(x|z) is a product over the pixels, each of which is told z and the k pixels before it.

    Weights and their first values are the same for every k; those for pixels farther back are idle.
    """

    def __init__(self, k: int):
        super().__init__()
        self.k = k
        self.encoder = nn.Sequential(nn.Linear(PIXELS, 128), nn.ReLU(), nn.Linear(128, 2 * LATENTS))
        wide = nn.Linear(HIDDEN, PIXELS * CHANNELS)
        self.from_z = nn.Sequential(nn.Linear(LATENTS, HIDDEN), nn.ReLU(), wide)
        self.from_before = nn.Linear(PIXELS - 1, CHANNELS, bias=False)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(CHANNELS, CHANNELS), nn.ReLU(), nn.Linear(CHANNELS, 1))

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and standard deviation of q(z|x), and KL from N(0, I) in nats, each (B, L), for (B, 64)."""
        mean, log_variance = self.encoder(2 * pictures - 1).chunk(2, dim=1)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        return mean, (0.5 * log_variance).exp(), kl

    def logits(self, z: Tensor, pictures: Tensor) -> Tensor:
        """Of each pixel's being 1, (B, 64), for z (B, L) and the pictures (B, 64) themselves."""
        signs = F.pad(2 * pictures - 1, (PIXELS - 1, 0))[:, :-1]  # 0 stands for what lies before the picture
        before = signs.unfold(1, PIXELS - 1, 1)[..., PIXELS - 1 - self.k :]  # (B, 64, k), the nearest last
        told = F.linear(before, self.from_before.weight[:, PIXELS - 1 - self.k :])
        return self.head(told + self.from_z(z).view(-1, PIXELS, CHANNELS)).squeeze(2)

    def nll(self, z: Tensor, pictures: Tensor) -> Tensor:
        """-log p(x|z) in nats, (B,)."""
        return F.softplus((1 - 2 * pictures) * self.logits(z, pictures)).sum(1)


def decoder_power(runs=None, ks=(0, 1, 2, 4, 8, 63), steps=2000, seeds=(0, 1, 2), pictures=20_000, n_jobs=1) -> Run:
    """The study of `measure_power` over k and seeds (of pictures, weights and batches)."""
    settings = {"steps": steps, "pictures": pictures, "batch_size": 128, "learning_rate": 2e-3}
    cases = [{"k": k, "seed": seed} for k in ks for seed in seeds]
    return study("decoder-power", settings, cases, partial(measure_power, **settings), runs, n_jobs=n_jobs)


def measure_power(case: Case, steps: int, pictures: int, batch_size: int, learning_rate: float) -> dict[str, float]:
    """Train on the plain ELBO of `pictures` pictures; means over a fifth as many new ones, in nats a picture.

    kl, nll (-log p(x|z), one z of q(z|x) each), elbo. active: latents whose mean KL is above ACTIVE.
    shuffled: rise of nll where each picture gets another's z, 0 if z is ignored. decoder_parameters: those in
    use. `true_nlls`: true_nll_without_z - true_nll is all that z can be worth to a perfect decoder of k.
    """
    generator = torch.Generator().manual_seed(case["seed"])
    train, _ = draw_pictures(pictures, generator)
    test, causes = draw_pictures(pictures // 5, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case["seed"])
        vae = VAE(case["k"])
    # Not optim.adam: fused steps round otherwise, and the published numbers are of these.
    optimizer = torch.optim.Adam(vae.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = train[torch.randint(pictures, (batch_size,), generator=generator)]
        mean, deviation, kl = vae.encode(batch)
        z = mean + deviation * torch.randn(mean.shape, generator=generator)
        optimizer.zero_grad()
        (vae.nll(z, batch) + kl.sum(1)).mean().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        mean, deviation, kl = vae.encode(test)
        z = mean + deviation * torch.randn(mean.shape, generator=generator)
        nll, shuffled = (float(vae.nll(some, test).double().mean()) for some in (z, z.roll(1, 0)))
    kl = kl.double().mean(0)
    used = [*vae.from_z.parameters(), *vae.head.parameters()]
    return {
        "kl": float(kl.sum()),
        "nll": nll,
        "elbo": -nll - float(kl.sum()),
        "active": int((kl > ACTIVE).sum()),
        "shuffled": shuffled - nll,
        "decoder_parameters": sum(part.numel() for part in used) + case["k"] * CHANNELS,
        **true_nlls(test, causes, case["k"]),
    }
