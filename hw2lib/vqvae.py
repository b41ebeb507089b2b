"""VQ-VAE: a convolutional autoencoder whose latent is a small map of codebook indices.

van den Oord, Vinyals and Kavukcuoglu, "Neural Discrete Representation Learning" (2017), arXiv:1711.00937.
The network is the one of the paper's section 4.1, in the size of its authors' CIFAR-10 example. With the paper's names:

    z_e        encoder output                 z_q        its nearest codebook vectors, e_k
    sg[.]      .detach()                      commitment beta
    num_codes  K                              code_dim   D

Pictures inside the network are float in [-0.5, 0.5].
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from hw2lib import weights


class VQVAEConfig(BaseModel):
    """Everything that changes what is learnt. Where it is computed (device, precision, folders) is not here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(32, ge=8, multiple_of=4)  # pixels a side; the code map has size / 4
    data_variance: float = Field(
        0.0633, gt=0
    )  # of the training pixels on [0, 1]: turns MSE into NMSE; CIFAR-10's
    hidden_channels: int = Field(128, ge=2, multiple_of=2)
    residual_channels: int = Field(32, ge=1)
    residual_blocks: int = Field(2, ge=0)
    num_codes: int = Field(512, ge=2)  # K
    code_dim: int = Field(64, ge=1)  # D
    commitment: float = Field(0.25, ge=0)  # beta; the paper saw no difference from 0.1 to 2
    codebook: Literal["ema", "gradient"] = (
        "ema"  # moved by averages (appendix A.1) or by its loss (equation 3)
    )
    decay: float = Field(0.95, gt=0, lt=1)  # of the moving averages; at 0.99 they lag behind a fast encoder
    kmeans_init: bool = True  # start the codebook on the first batch's encoder outputs
    restart_dead: bool = True  # move codes that are hardly used onto random encoder outputs
    learning_rate: float = Field(1e-3, gt=0)  # of Adam, at its peak
    schedule: Literal["constant", "cosine"] = "cosine"  # cosine: 2 % warm-up, then to 0 at the last step
    seed: int = Field(0, ge=0)


class Quantized(NamedTuple):
    z_q: Tensor  # (B, D, H, W), straight-through: the value is the codebook vector, the gradient goes to z_e
    codes: Tensor  # (B, H, W) int64 in [0, K)
    codebook_loss: Tensor  # ||sg[z_e] - e||^2, mean over all elements; 0 with EMA, which has no such term
    commitment_loss: Tensor  # beta ||z_e - sg[e]||^2, mean over all elements
    perplexity: Tensor  # exp of the entropy of the batch's code usage: 1 to K


def code_perplexity(counts: Tensor) -> Tensor:
    """Effective number of equally used codes, exp(H(p)) with p = counts / counts.sum(); counts: (K,), any dtype."""
    probabilities = counts / counts.sum()
    return torch.special.entr(probabilities).sum().exp()  # entr(p) = -p log p, and 0 at p = 0


def _sum_over_processes(tensor: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def _same_on_all_processes(tensor: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(tensor, src=0)
    return tensor


class _Quantizer(nn.Module):
    """What both codebooks share: the nearest code, the loss terms, usage counts, start and restart of codes.

    `restart_below` is a share of the mean use N / K: a code whose moving-average count falls below it is dead and is
    moved onto an encoder output of the current batch. 0 switches restarts off.
    """

    def __init__(self, num_codes: int, code_dim: int, commitment: float, decay: float, restart_below: float):
        super().__init__()
        self.num_codes, self.code_dim, self.commitment = num_codes, code_dim, commitment
        self.decay, self.restart_below = decay, restart_below
        # Buffers, not parameters: the optimiser must not see them, checkpoints must.
        self.register_buffer("counts", torch.ones(num_codes))  # moving average of each code's uses a batch

    def nearest(self, vectors: Tensor) -> Tensor:
        """Index of the nearest codebook vector, (N,), for vectors (N, D), by Euclidean distance (equation 1)."""
        # |z - e|^2 = |z|^2 - 2 z.e + |e|^2, and |z|^2 is the same for every code: one matrix product does it, on a
        # CPU in blocks whose distances stay in the cache.
        norms, block = self.codebook.square().sum(1), 1024 if vectors.device.type == "cpu" else len(vectors)
        codes = [
            torch.addmm(norms, rows, self.codebook.t(), alpha=-2).argmin(1) for rows in vectors.split(block)
        ]
        return torch.cat(codes)

    def forward(self, z_e: Tensor) -> Quantized:
        """Quantize z_e (B, D, H, W). In training mode the usage counts, and with EMA the codebook, are updated."""
        if z_e.ndim != 4 or z_e.shape[1] != self.code_dim:
            raise ValueError(f"z_e must be (B, {self.code_dim}, H, W), not {tuple(z_e.shape)}")
        with torch.autocast(
            z_e.device.type, enabled=False
        ):  # 8 bits of mantissa cannot tell near codes apart
            batch, _, height, width = z_e.shape
            vectors = z_e.float().permute(0, 2, 3, 1).reshape(-1, self.code_dim)  # (N, D), N = B H W
            codes = self.nearest(vectors.detach())  # (N,)
            quantized = F.embedding(codes, self.codebook)  # (N, D)
            codebook_loss = self.codebook_loss(vectors, quantized)
            commitment_loss = self.commitment * F.mse_loss(vectors, quantized.detach())
            uses = _sum_over_processes(torch.bincount(codes, minlength=self.num_codes).float())  # (K,)
            if self.training:
                with torch.no_grad():
                    self.counts.lerp_(uses, 1 - self.decay)
                    self.update_codebook(vectors, codes)
                    if self.restart_below:
                        self._restart_dead_codes(vectors, self.restart_below * uses.sum() / self.num_codes)
            z_q = vectors + (quantized - vectors).detach()  # straight-through estimator, section 3.2
            z_q = z_q.view(batch, height, width, self.code_dim).permute(0, 3, 1, 2)  # (B, D, H, W)
        return Quantized(
            z_q, codes.view(batch, height, width), codebook_loss, commitment_loss, code_perplexity(uses)
        )

    @torch.no_grad()
    def start_from(self, z_e: Tensor, iterations: int = 10) -> None:
        """Set the codebook to the k-means centres of encoder outputs z_e (B, D, H, W), and the counts to 1."""
        vectors = z_e.float().permute(0, 2, 3, 1).reshape(-1, self.code_dim)  # (N, D)
        self._move_codes(torch.ones_like(self.counts, dtype=torch.bool), self._random_rows(vectors), 1.0)
        for _ in range(iterations):
            codes = self.nearest(vectors)
            uses = _sum_over_processes(torch.bincount(codes, minlength=self.num_codes).float())
            centres = self._sum_by_code(vectors, codes) / uses.clamp(min=1)[:, None]
            self._move_codes(uses > 0, centres, 1.0)

    def _restart_dead_codes(self, vectors: Tensor, threshold: Tensor) -> None:
        # Restarted with twice the threshold: with a decay of 0.95 a code has 14 batches to find use before it is
        # dead again. No branch on the tensor, so that nothing waits for the device.
        self._move_codes(self.counts < threshold, self._random_rows(vectors), 2 * threshold)

    def _random_rows(self, vectors: Tensor) -> Tensor:
        """K rows of vectors (N, D); without repetition where N allows."""
        rows = torch.randperm(len(vectors), device=vectors.device)[: self.num_codes]
        if len(rows) < self.num_codes:
            rows = torch.randint(len(vectors), (self.num_codes,), device=vectors.device)
        return _same_on_all_processes(vectors[rows])

    def _sum_by_code(self, vectors: Tensor, codes: Tensor) -> Tensor:
        sums = vectors.new_zeros(self.num_codes, self.code_dim)
        return _sum_over_processes(sums.index_add_(0, codes, vectors))  # (K, D)

    def _move_codes(self, which: Tensor, to: Tensor, count: Tensor | float) -> None:
        """Put the codes chosen by `which` (K,) bool at the rows `to` (K, D), as if used `count` times a batch."""
        self.codebook.data.copy_(torch.where(which[:, None], to, self.codebook))
        self.counts.copy_(torch.where(which, count, self.counts))


class VectorQuantizer(_Quantizer):
    """Codebook learnt by its loss term, ||sg[z_e] - e||^2 (second term of equation 3).

    >>> quantizer = VectorQuantizer(num_codes=512, code_dim=64, commitment=0.25)
    >>> quantizer(torch.randn(2, 64, 8, 8)).codes.shape
    torch.Size([2, 8, 8])
    """

    def __init__(self, num_codes: int, code_dim: int, commitment: float, restart_below: float = 0.0):
        super().__init__(num_codes, code_dim, commitment, decay=0.99, restart_below=restart_below)
        self.codebook = nn.Parameter(torch.empty(num_codes, code_dim).uniform_(-1 / num_codes, 1 / num_codes))

    def codebook_loss(self, vectors: Tensor, quantized: Tensor) -> Tensor:
        return F.mse_loss(quantized, vectors.detach())

    def update_codebook(self, vectors: Tensor, codes: Tensor) -> None:
        """The optimiser does it."""


class EMAVectorQuantizer(_Quantizer):
    """Codebook that follows the moving average of the vectors assigned to each code (appendix A.1, equations 6 to 8).

    Both averages start as if each code had been used once at its own place, so that an unused code stays where it
    is; the averages that fresh noise or zero counts would start with send unused codes to infinity and then to 0.
    """

    def __init__(
        self,
        num_codes: int,
        code_dim: int,
        commitment: float,
        decay: float = 0.99,
        restart_below: float = 0.0,
    ):
        super().__init__(num_codes, code_dim, commitment, decay, restart_below)
        self.register_buffer("codebook", torch.randn(num_codes, code_dim))
        self.register_buffer(
            "sums", self.codebook.clone()
        )  # moving average of the sum of each code's vectors

    def codebook_loss(self, vectors: Tensor, quantized: Tensor) -> Tensor:
        return vectors.new_zeros(())

    def update_codebook(self, vectors: Tensor, codes: Tensor) -> None:
        """One step of the averages; `counts` has had its step already."""
        self.sums.lerp_(self._sum_by_code(vectors, codes), 1 - self.decay)
        # Laplace smoothing keeps the division finite as a count goes to 0. Its pseudo-count sits at the code's own
        # place (at the origin it would pull unused codes there), and touches the quotient, never the averages.
        epsilon = 1e-5
        self.codebook.copy_((self.sums + epsilon * self.codebook) / (self.counts + epsilon)[:, None])

    def _move_codes(self, which: Tensor, to: Tensor, count: Tensor | float) -> None:
        super()._move_codes(which, to, count)
        self.sums.copy_(torch.where(which[:, None], to * count, self.sums))


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, residual_channels: int):
        super().__init__()
        self.narrow = nn.Conv2d(channels, residual_channels, 3, padding=1)
        self.widen = nn.Conv2d(residual_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.widen(F.relu(self.narrow(F.relu(x))))


def residual_stack(config: VQVAEConfig) -> nn.Sequential:
    channels = config.hidden_channels
    blocks = [ResidualBlock(channels, config.residual_channels) for _ in range(config.residual_blocks)]
    return nn.Sequential(*blocks, nn.ReLU())


class VQVAE(nn.Module):
    """Encoder, quantizer and decoder, with the training step. Its first weights depend on the config alone.

    `encode` and `decode` are the codec; `step` is one update of the loss of equation 3 with a Gaussian likelihood
    whose variance is that of the data. For a picture of n numbers and a latent map of m = D h w numbers it is

        n / 2 MSE / data_variance + m (codebook term + commitment term),

    since the norms are sums over a picture and the terms are means. `step` takes it divided by n / 2. Leaving the
    factor 2 m / n out, as the well-known notebooks do, weighs the commitment 2.7 times less at the default sizes.
    """

    def __init__(self, config: VQVAEConfig):
        super().__init__()
        self.config = config
        self.latent_weight = 2 * config.code_dim * (config.size // 4) ** 2 / (3 * config.size**2)  # 2 m / n
        hidden = config.hidden_channels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.encoder = nn.Sequential(  # (B, 3, 32, 32)
                nn.Conv2d(3, hidden // 2, 4, stride=2, padding=1),  # (B, 64, 16, 16)
                nn.ReLU(),
                nn.Conv2d(hidden // 2, hidden, 4, stride=2, padding=1),  # (B, 128, 8, 8)
                nn.ReLU(),
                nn.Conv2d(hidden, hidden, 3, padding=1),
                residual_stack(config),
                nn.Conv2d(hidden, config.code_dim, 1),  # (B, 64, 8, 8)
            )
            sizes = (config.num_codes, config.code_dim, config.commitment)
            self.quantizer = (
                EMAVectorQuantizer(*sizes, config.decay)
                if config.codebook == "ema"
                else VectorQuantizer(*sizes)
            )
            self.decoder = nn.Sequential(  # (B, 64, 8, 8)
                nn.Conv2d(config.code_dim, hidden, 3, padding=1),  # (B, 128, 8, 8)
                residual_stack(config),
                nn.ConvTranspose2d(hidden, hidden // 2, 4, stride=2, padding=1),  # (B, 64, 16, 16)
                nn.ReLU(),
                nn.ConvTranspose2d(hidden // 2, 3, 4, stride=2, padding=1),  # (B, 3, 32, 32)
            )

    @classmethod
    def load(cls, path) -> "VQVAE":
        """The network of a weights file, in eval mode. Raises hw2lib.weights.WeightsError."""
        return weights.load(path, cls, VQVAEConfig)

    @staticmethod
    def to_network(pictures: Tensor) -> Tensor:
        """uint8 pictures (B, 3, H, W) as the network takes them: float in [-0.5, 0.5]."""
        return pictures.float().div_(255).sub_(0.5)

    @staticmethod
    def to_pictures(x: Tensor) -> Tensor:
        """Network output (B, 3, H, W) as uint8 pictures, rounded and clamped."""
        return x.float().add(0.5).mul(255).round().clamp(0, 255).to(torch.uint8)

    def forward(self, x: Tensor) -> tuple[Tensor, Quantized]:
        """Reconstruction (B, 3, H, W), float32, and what the quantizer says, for x (B, 3, H, W) in [-0.5, 0.5]."""
        quantized = self.quantizer(self.encoder(x))
        return self.decoder(quantized.z_q).float(), quantized

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Codes (B, H / 4, W / 4), int64, of x (B, 3, H, W) in [-0.5, 0.5]."""
        z_e = self.encoder(x).float()
        codes = self.quantizer.nearest(z_e.permute(0, 2, 3, 1).reshape(-1, self.config.code_dim))
        return codes.view(len(x), *z_e.shape[2:])

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """x (B, 3, 4 h, 4 w), about [-0.5, 0.5], of codes (B, h, w) in [0, K). Raises ValueError out of that range."""
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.config.num_codes:
            raise ValueError(
                f"codes must lie in 0 to {self.config.num_codes - 1}, not {int(codes.min())} to {int(codes.max())}"
            )
        z_q = F.embedding(codes.long(), self.quantizer.codebook).permute(0, 3, 1, 2)  # (B, D, h, w)
        return self.decoder(z_q).float()

    def setup(self, fabric, total_steps: int) -> None:
        """Move to fabric's device and make the optimiser and its schedule; call once, before the first step."""
        self.fabric, self.total_steps = fabric, total_steps
        self.to(fabric.device, memory_format=torch.channels_last)
        fused = fabric.device.type in ("cpu", "cuda")
        optimizer = torch.optim.Adam(self.parameters(), lr=self.config.learning_rate, fused=fused)
        self.optimizers = {"network": optimizer}
        self.schedules = {"network": torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate(total_steps))}

    def _rate(self, total_steps: int):
        warmup = max(1, total_steps // 50)

        def rate(step: int) -> float:
            if self.config.schedule == "constant":
                return 1.0
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))

        return rate

    def _restart_below(self, step: int) -> float:
        # While the encoder moves fast, restarts cost more than they bring and only dead codes are worth one. As it
        # comes to rest (with a cosine schedule), moving rare codes to where the data is dense evens out their use.
        late = step / self.total_steps if self.config.schedule == "cosine" else 0.0
        return 0.03 + 0.37 * late**3 if self.config.restart_dead else 0.0

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """One update on uint8 pictures (B, 3, H, W); returns the loss terms and the perplexity, detached.

        reconstruction (NMSE) is mse / data_variance, mse is on the [0, 1] scale, vq = codebook + commitment.
        """
        x = self.to_network(batch).contiguous(memory_format=torch.channels_last)
        optimizer, schedule = self.optimizers["network"], self.schedules["network"]
        self.quantizer.restart_below = self._restart_below(schedule.last_epoch)
        with self.fabric.autocast():
            if schedule.last_epoch == 0 and self.config.kmeans_init:
                self.quantizer.start_from(self.encoder(x).detach())
            reconstruction, quantized = self(x)
        mse = F.mse_loss(reconstruction, x)
        vq = quantized.codebook_loss + quantized.commitment_loss
        optimizer.zero_grad(set_to_none=True)
        (mse / self.config.data_variance + self.latent_weight * vq).backward()
        if self.fabric.world_size > 1:
            for parameter in self.parameters():
                parameter.grad = self.fabric.all_reduce(parameter.grad, reduce_op="mean")
        optimizer.step()
        schedule.step()
        return {
            "reconstruction": mse.detach() / self.config.data_variance,
            "mse": mse.detach(),
            "codebook": quantized.codebook_loss.detach(),
            "commitment": quantized.commitment_loss.detach(),
            "vq": vq.detach(),
            "perplexity": quantized.perplexity,
        }
