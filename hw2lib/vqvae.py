"""VQ-VAE: a convolutional autoencoder whose latent is a small map of codebook indices.

van den Oord, Vinyals and Kavukcuoglu, "Neural Discrete Representation Learning" (2017), arXiv:1711.00937.
The network is the one of the paper's section 4.1, in the size of its authors' CIFAR-10 example. With the paper's names:

    z_e        encoder output                 z_q        its nearest codebook vectors, e_k
    sg[.]      .detach()                      commitment beta
    num_codes  K                              code_dim   D

Pictures inside the network are float in [-0.5, 0.5].
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from hw2lib import processes
from hw2lib.networks import TransposedConv2d
from hw2lib.optim import adam, constant, warmup_cosine, with_rate
from hw2lib.quantizers import EMAVectorQuantizer, Quantized, VectorQuantizer, as_vectors
from hw2lib.training import weights


class VQVAEConfig(BaseModel):
    """Everything that changes what is learnt. Where it is computed (device, precision, folders) is not here."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: int = Field(32, ge=8, le=8192, multiple_of=4)  # pixels a side; the code map has size / 4
    data_variance: float = Field(0.0633, gt=0, le=1)  # of the training pixels on [0, 1]: turns MSE into NMSE; CIFAR-10
    hidden_channels: int = Field(128, ge=2, le=8192, multiple_of=2)
    residual_channels: int = Field(32, ge=1, le=8192)
    residual_blocks: int = Field(2, ge=0, le=200)
    num_codes: int = Field(512, ge=2, le=65536)  # K; kept as 16 bits
    code_dim: int = Field(64, ge=1, le=8192)  # D
    commitment: float = Field(0.25, ge=0, le=1e6)  # beta; the paper saw no difference from 0.1 to 2
    codebook: Literal["ema", "gradient"] = "ema"  # moved by averages (appendix A.1) or by its loss (equation 3)
    decay: float = Field(0.95, gt=0, lt=1)  # of the moving averages; at 0.99 they lag behind a fast encoder
    kmeans_init: bool = True  # start the codebook on the first batch's encoder outputs
    restart_dead: bool = True  # move codes that are hardly used onto random encoder outputs
    learning_rate: float = Field(2e-3, gt=0, le=10)  # of Adam, at its peak
    schedule: Literal["constant", "cosine"] = "cosine"  # cosine: 2 % warm-up, then to 0 at the last step
    seed: int = Field(0, ge=0, lt=2**31)


# ---- the equation


def vqvae_losses(
    x: Tensor, reconstruction: Tensor, quantized: Quantized, data_variance: float, latent_weight: float
) -> tuple[dict[str, Tensor], Tensor]:
    """The terms of equation 3 and what the network minimises; x, reconstruction (B, 3, H, W) in [-0.5, 0.5].

    The likelihood is a Gaussian whose variance is that of the data. For a picture of n numbers and a latent map of
    m = D h w numbers equation 3 is then

        n / 2 MSE / data_variance + m (codebook term + commitment term),

    since the norms are sums over a picture and the terms are means. Here it is divided by n / 2: `latent_weight` is
    2 m / n. Leaving that factor out, as the well-known notebooks do, weighs the commitment 2.7 times less at the default
    sizes.
    """
    mse = F.mse_loss(reconstruction, x)
    vq = quantized.codebook_loss + quantized.commitment_loss
    losses = {
        "reconstruction": mse / data_variance,
        "mse": mse,
        "codebook": quantized.codebook_loss,
        "commitment": quantized.commitment_loss,
        "vq": vq,
    }
    return losses, losses["reconstruction"] + latent_weight * vq


# ---- the network


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, residual_channels: int):
        super().__init__()
        self.narrow = nn.Conv2d(channels, residual_channels, 3, padding=1)
        self.widen = nn.Conv2d(residual_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.widen(F.relu(self.narrow(F.relu(x)), inplace=True))


def residual_stack(config: VQVAEConfig) -> nn.Sequential:
    channels = config.hidden_channels
    blocks = [ResidualBlock(channels, config.residual_channels) for _ in range(config.residual_blocks)]
    return nn.Sequential(*blocks, nn.ReLU(inplace=True))


class VQVAE(nn.Module):
    """Encoder, quantizer and decoder, with the training step. Its first weights depend on the config alone.

    `encode` and `decode` are the codec; `step` is one update of `vqvae_losses`.
    """

    def __init__(self, config: VQVAEConfig):
        super().__init__()
        self.config = config
        self.latent_weight = 2 * config.code_dim * (config.size // 4) ** 2 / (3 * config.size**2)
        hidden = config.hidden_channels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.encoder = nn.Sequential(  # (B, 3, 32, 32)
                nn.Conv2d(3, hidden // 2, 4, stride=2, padding=1),  # (B, 64, 16, 16)
                nn.ReLU(inplace=True),
                nn.Conv2d(hidden // 2, hidden, 4, stride=2, padding=1),  # (B, 128, 8, 8)
                nn.ReLU(inplace=True),
                nn.Conv2d(hidden, hidden, 3, padding=1),
                residual_stack(config),
                nn.Conv2d(hidden, config.code_dim, 1),  # (B, 64, 8, 8)
            )
            sizes = (config.num_codes, config.code_dim, config.commitment)
            self.quantizer = (
                EMAVectorQuantizer(*sizes, config.decay) if config.codebook == "ema" else VectorQuantizer(*sizes)
            )
            self.decoder = nn.Sequential(  # (B, 64, 8, 8)
                nn.Conv2d(config.code_dim, hidden, 3, padding=1),  # (B, 128, 8, 8)
                residual_stack(config),
                TransposedConv2d(hidden, hidden // 2, 4, stride=2, padding=1),  # (B, 64, 16, 16)
                nn.ReLU(inplace=True),
                TransposedConv2d(hidden // 2, 3, 4, stride=2, padding=1),  # (B, 3, 32, 32)
            )

    @classmethod
    def load(cls, path) -> "VQVAE":
        """The network of a weights file, in eval mode. Raises hw2lib.training.WeightsError."""
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
        z_e = self.encoder(x)
        codes = self.quantizer.nearest(as_vectors(z_e))
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

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """What a step spends its time in."""
        return self.encoder, self.decoder

    def setup(self, fabric, total_steps: int) -> None:
        """Move to fabric's device and make the optimiser and its schedule; call once, before the first step."""
        self.fabric, self.total_steps = fabric, total_steps
        self.to(fabric.device, memory_format=torch.channels_last)
        optimizer = adam(self.parameters(), fabric.device, lr=self.config.learning_rate)
        rate = warmup_cosine(total_steps, total_steps // 50) if self.config.schedule == "cosine" else constant
        self.optimizers, self.schedules = {"network": optimizer}, {"network": with_rate(optimizer, rate)}

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
        losses, total = vqvae_losses(x, reconstruction, quantized, self.config.data_variance, self.latent_weight)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        processes.average_gradients(self.parameters(), len(x))
        optimizer.step()
        schedule.step()
        losses["perplexity"] = quantized.perplexity
        return {name: loss.detach() for name, loss in losses.items()}
