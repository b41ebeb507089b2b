"""What the parts of a VQ-VAE are for: short trainings with a loss term cut, another start, or another quantizer.

All are at the pace of the best-known notebooks of the same network, whose printed numbers can stand beside these: batches
of 32 pictures, Adam at a constant 3e-4, 1,000 updates. Besides, what needs no training: which part each loss term
teaches (`gradient_facts`).

`terms`, `starts` and `other_quantizers` are studies. Of the config that they are given the sizes, the commitment and, but
for `starts`, the decay count.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hw2lib import Problem, optional
from hw2lib.data import Batches, Pictures, random_stream
from hw2lib.evaluation.codec import evaluate_vqvae
from hw2lib.parameters import make
from hw2lib.quantizers import EMAVectorQuantizer, Quantized, code_perplexity
from hw2lib.studies.study import Case, study, train_briefly
from hw2lib.training import Run
from hw2lib.vqvae import VQVAE, VQVAEConfig

BATCH_SIZE = 32
# The first ones of the test set are looked at, or all where there are fewer.
TEST_PICTURES = 4096
DEFAULT = VQVAEConfig()


# ---- what all studies share


def config_as_others(config: VQVAEConfig, pictures: Pictures, seed: int = 0, **options) -> VQVAEConfig:
    """The config for these pictures at the other notebooks' learning rate, with `options` of this experiment."""
    shared = {
        "size": pictures.train.shape[-1],
        "data_variance": pictures.variance,
        "learning_rate": 3e-4,
        "schedule": "constant",
        "seed": seed,
    }
    return make(VQVAEConfig, config.model_dump() | shared | options)


def train(model: VQVAE, pictures: Pictures, updates: int) -> dict[str, Tensor]:
    """`train_briefly` with the batches of all these studies, and the chance of starts and restarts from the config."""
    batches = Batches(pictures.train, BATCH_SIZE, model.config.seed)
    return train_briefly(model, batches, updates, model.config.seed)


def scores(model: VQVAE, pictures: Pictures, history: dict[str, Tensor]) -> dict[str, float]:
    """evaluate_vqvae's numbers, and train_nmse and train_perplexity of the last 100 batches, as notebooks print them."""
    return evaluate_vqvae(model, pictures.test[:TEST_PICTURES]) | {
        "train_nmse": float(history["reconstruction"][-100:].mean()),
        "train_perplexity": float(history["perplexity"][-100:].mean()),
    }


@torch.no_grad()
def encoder_scores(model: VQVAE, pictures: Pictures, batch_size: int = 500) -> dict[str, float]:
    """encoder_rms, the root mean square of z_e, and test_commitment, beta ||z_e - e||^2, of the test pictures."""
    test = pictures.test[:TEST_PICTURES]
    squares = commitment = 0.0
    for batch in test.split(batch_size):
        z_e = model.encoder(model.to_network(batch))
        squares += float(z_e.square().mean(dtype=torch.float64)) * len(batch)
        commitment += float(model.quantizer(z_e).commitment_loss) * len(batch)
    return {"encoder_rms": math.sqrt(squares / len(test)), "test_commitment": commitment / len(test)}


def _study(
    name: str, cases: list[Case], measure, given: dict, shared: dict, runs, options: dict | None = None, n_jobs: int = 1
) -> Run:
    """The study of measure(case, **given), whose cases all have the options `shared` in their config."""
    pictures, config = given["pictures"], given["config"]
    settings = {
        "updates": given["updates"],
        "batch_size": BATCH_SIZE,
        "test_pictures": min(TEST_PICTURES, len(pictures.test)),
        "data": pictures.description,
        "config": config_as_others(config, pictures, **shared).model_dump(mode="json", exclude={"seed"}),
    }
    if "levels" in given:
        settings["levels"] = list(given["levels"])
    return study(name, settings, cases, partial(measure, **given), runs, options, n_jobs)


def _with_quantizer(config: VQVAEConfig, quantizer: Callable[[], nn.Module]) -> VQVAE:
    """A VQ-VAE with another quantizer; its other first weights are those of the config."""
    model = VQVAE(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model.quantizer = quantizer()
    return model


# ---- the three terms of the loss

REMOVED = ("nothing", "reconstruction", "codebook", "commitment")
# Restarts, too, move codes onto encoder outputs: they would do a part of the work of the term that is missing.
TERMS_OPTIONS = {"kmeans_init": True, "restart_dead": False}


class Without(VQVAE):
    """A VQ-VAE that one term of equation 3 does not teach: it is computed and reported, and its gradient is cut.

    The EMA codebook has no codebook term; the averages, which are in its place, stand still instead. With "nothing"
    removed it is a VQVAE, bit for bit.
    """

    def __init__(self, config: VQVAEConfig, removed: str):
        super().__init__(config)
        self.removed = removed

    def forward(self, x: Tensor) -> tuple[Tensor, Quantized]:
        reconstruction, quantized = super().forward(x)
        if self.removed == "reconstruction":
            reconstruction = reconstruction.detach()
        elif self.removed == "codebook":
            quantized = quantized._replace(codebook_loss=quantized.codebook_loss.detach())
        elif self.removed == "commitment":
            quantized = quantized._replace(commitment_loss=quantized.commitment_loss.detach())
        return reconstruction, quantized

    def train(self, mode: bool = True) -> "Without":
        super().train(mode)
        if self.removed == "codebook":
            self.quantizer.eval()  # a quantizer in eval mode keeps its averages as they are
        return self


def terms(pictures: Pictures, runs=None, updates=1000, seeds=(0, 1, 2), config=DEFAULT, n_jobs=1) -> Run:
    """The study of `measure_terms`: each term removed in turn, for both codebooks. Raises RunError."""
    cases = [
        {"codebook": codebook, "removed": removed, "seed": seed}
        for seed in seeds
        for codebook in ("gradient", "ema")
        for removed in REMOVED
    ]
    given = {"pictures": pictures, "updates": updates, "config": config}
    return _study("codebook-terms", cases, measure_terms, given, TERMS_OPTIONS, runs, n_jobs=n_jobs)


def measure_terms(case: Case, pictures: Pictures, updates: int, config=DEFAULT) -> dict[str, float]:
    """`scores` and `encoder_scores` of case["codebook"] trained without the term case["removed"].

    All start from the k-means centres of the first batch: what a codebook makes of its start shows, not the start. Two
    codebooks that learn nothing are one: with "codebook" removed both train alike.
    """
    options = TERMS_OPTIONS | {"codebook": case["codebook"]}
    model = Without(config_as_others(config, pictures, case["seed"], **options), case["removed"])
    return scores(model, pictures, train(model, pictures, updates)) | encoder_scores(model, pictures)


def gradient_facts(seed: int) -> dict[str, float]:
    """Norm of the gradient that each term of equation 3, weighted as in VQVAE.step, sends to each part of the network.

    {"reconstruction_encoder": ..., ...}, nine numbers, each term and each of encoder, codebook and decoder. By autograd
    in float64, for a small network with a gradient codebook at its first weights and 4 pictures of noise. A part that a
    term does not reach has exactly 0.
    """
    sizes = {"size": 16, "hidden_channels": 16, "residual_channels": 8, "num_codes": 32, "code_dim": 8}
    config = VQVAEConfig(codebook="gradient", seed=seed, **sizes)
    model = VQVAE(config).double()
    x = torch.rand(4, 3, 16, 16, dtype=torch.float64, generator=random_stream(seed)) - 0.5
    z_e = model.encoder(x)
    vectors = z_e.permute(0, 2, 3, 1)  # (4, 4, 4, 8); quantizer.forward would make them float32
    codes = model.quantizer.nearest(vectors.detach().reshape(-1, 8)).view(4, 4, 4)
    chosen = F.embedding(codes, model.quantizer.codebook)  # (4, 4, 4, 8)
    z_q = vectors + (chosen - vectors).detach()
    reconstruction = model.decoder(z_q.permute(0, 3, 1, 2))
    losses = {
        "reconstruction": F.mse_loss(reconstruction, x) / config.data_variance,
        "codebook": model.latent_weight * F.mse_loss(chosen, vectors.detach()),
        "commitment": model.latent_weight * config.commitment * F.mse_loss(vectors, chosen.detach()),
    }
    parts = {"encoder": model.encoder, "codebook": model.quantizer, "decoder": model.decoder}
    facts = {}
    for term, loss in losses.items():
        for part, module in parts.items():
            found = torch.autograd.grad(loss, [*module.parameters()], retain_graph=True, materialize_grads=True)
            facts[f"{term}_{part}"] = float(torch.cat([gradient.flatten() for gradient in found]).norm())
    return facts


# ---- the codebook's start

STARTS_OPTIONS = {"codebook": "ema", "decay": 0.99}  # the decay of the other notebooks
STARTS: dict[str, dict[str, bool]] = {
    "neither": {"kmeans_init": False, "restart_dead": False},
    "kmeans_start": {"kmeans_init": True, "restart_dead": False},
    "restarts": {"kmeans_init": False, "restart_dead": True},
    "both": {"kmeans_init": True, "restart_dead": True},
    "noise_averages": {"kmeans_init": False, "restart_dead": False},
}


class NoiseAverages(EMAVectorQuantizer):
    """The averages as zalandoresearch/pytorch-vq-vae has them, whose start sends unused codes far off.

    The counts start at 0 and the sums as noise that has nothing to do with the codebook: an unused code is at once
    noise over nearly nothing. The smoothed counts take the place of the counts, which for an unused code do not fall
    with its sum: the code then sinks to the origin.
    """

    def __init__(self, num_codes: int, code_dim: int, commitment: float, decay: float):
        super().__init__(num_codes, code_dim, commitment, decay)
        self.counts.zero_()
        self.sums.normal_()

    def update_codebook(self, vectors: Tensor, codes: Tensor) -> None:
        """One step of the averages; `counts` has had its step, but not its smoothing."""
        epsilon, total = 1e-5, self.counts.sum()
        self.counts.add_(epsilon).mul_(total / (total + self.num_codes * epsilon))
        self.sums.lerp_(self._sum_by_code(vectors, codes), 1 - self.decay)
        self.codebook.copy_(self.sums / self.counts[:, None])


def with_noise_averages(config: VQVAEConfig) -> VQVAE:
    """A VQ-VAE whose averages start as NoiseAverages."""
    sizes = (config.num_codes, config.code_dim, config.commitment, config.decay)
    return _with_quantizer(config, lambda: NoiseAverages(*sizes))


def starts(pictures: Pictures, runs=None, updates=1000, seeds=(0, 1, 2), config=DEFAULT, n_jobs=1) -> Run:
    """The study of `measure_start` over STARTS and seeds. Raises RunError."""
    cases = [{"start": start, "seed": seed} for seed in seeds for start in STARTS]
    given = {"pictures": pictures, "updates": updates, "config": config}
    return _study("codebook-starts", cases, measure_start, given, STARTS_OPTIONS, runs, {"start": STARTS}, n_jobs)


def measure_start(case: Case, pictures: Pictures, updates: int, config=DEFAULT) -> dict[str, float]:
    """`scores` and `encoder_scores` of an EMA codebook that begins as case["start"] of STARTS says.

    Also perplexity_at_100 and perplexity_at_500 if it gets there: means of the 20 training batches around these updates.
    """
    asked = config_as_others(config, pictures, case["seed"], **STARTS_OPTIONS, **STARTS[case["start"]])
    model = with_noise_averages(asked) if case["start"] == "noise_averages" else VQVAE(asked)
    history = train(model, pictures, updates)
    early = {
        f"perplexity_at_{at}": float(history["perplexity"][at - 10 : at + 10].mean())
        for at in (100, 500)
        if at + 10 <= updates
    }
    return scores(model, pictures, history) | encoder_scores(model, pictures) | early


# ---- other quantizers

LEVELS = (8, 8, 8)  # of FSQ: 512 codes
# The borrowed ones first, so that a package that is missing is said before anything has been trained.
QUANTIZERS = ("fsq", "simvq", "ema", "gradient")


class QuantizerError(Problem):
    """A quantizer of another package that cannot be had."""


class Borrowed(nn.Module):
    """A quantizer of vector-quantize-pytorch in the place of ours, for training and VQVAE.forward only."""

    def __init__(self, layer: nn.Module, num_codes: int):
        super().__init__()
        self.layer, self.num_codes = layer, num_codes

    def forward(self, z_e: Tensor) -> Quantized:
        """Quantize z_e (B, D, H, W). codebook_loss is all that the layer adds to the loss, commitment_loss is 0."""
        z_q, codes, *losses = self.layer(z_e)
        zero = z_e.new_zeros(())
        uses = torch.bincount(codes.flatten(), minlength=self.num_codes).float()  # (K,)
        return Quantized(z_q, codes.long(), sum(losses, zero), zero, code_perplexity(uses))


def borrow(name: str, config: VQVAEConfig, levels: Sequence[int] = LEVELS) -> Borrowed:
    """FSQ or SimVQ for the config's network and its number of codes. Raises QuantizerError without the package.

    FSQ (Mentzer et al. 2023, arXiv:2309.15505) rounds each of len(levels) bounded numbers to its levels: no codebook
    learns and the loss has one term. The package's linear layers lead from D to these numbers and back. SimVQ (Zhu et al.
    2024, arXiv:2411.02038) learns one matrix that moves all codes, which are frozen noise, by the codebook term.
    """
    package = optional("vector_quantize_pytorch", "vector-quantize-pytorch", QuantizerError)
    if name == "fsq":
        return Borrowed(package.FSQ(list(levels), dim=config.code_dim), config.num_codes)
    layer = package.SimVQ(
        dim=config.code_dim,
        codebook_size=config.num_codes,
        channel_first=True,
        rotation_trick=False,  # straight-through, as in its paper and as in ours
        input_to_quantize_commit_loss_weight=config.commitment,
    )
    return Borrowed(layer, config.num_codes)


def other_quantizers(
    pictures: Pictures, runs=None, updates=1000, seeds=(0, 1, 2), config=DEFAULT, levels=LEVELS, n_jobs=1
) -> Run:
    """The study of `measure_quantizer` over QUANTIZERS and seeds; its metrics name the package's version, too.

    `levels` are FSQ's, and all quantizers have as many codes as they make. Raises RunError, and QuantizerError without
    vector-quantize-pytorch.
    """
    cases = [{"quantizer": quantizer, "seed": seed} for seed in seeds for quantizer in QUANTIZERS]
    given = {"pictures": pictures, "updates": updates, "config": config, "levels": levels}
    shared = {"num_codes": math.prod(levels)}
    run = _study("codebook-quantizers", cases, measure_quantizer, given, shared, runs, n_jobs=n_jobs)
    if "package" not in run.metrics:
        run.add_metrics("package", {"vector-quantize-pytorch": version("vector-quantize-pytorch")})
    return run


def measure_quantizer(case: Case, pictures: Pictures, updates: int, config=DEFAULT, levels=LEVELS) -> dict[str, float]:
    """`scores` of one network with the quantizer case["quantizer"]; ours have k-means start and restarts, as published.

    Encoder and decoder are the same, and so are their first weights.
    """
    name, ours = case["quantizer"], case["quantizer"] in ("ema", "gradient")
    codebook = {"codebook": "gradient" if name == "gradient" else "ema", "num_codes": math.prod(levels)}
    options = codebook | {"kmeans_init": ours, "restart_dead": ours}
    asked = config_as_others(config, pictures, case["seed"], **options)
    model = VQVAE(asked) if ours else _with_quantizer(asked, lambda: borrow(name, asked, levels))
    return scores(model, pictures, train(model, pictures, updates))
