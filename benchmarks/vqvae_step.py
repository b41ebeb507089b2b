"""One VQ-VAE training step beside the plain implementation, in turn in one run: python benchmarks/vqvae_step.py

Plain is what the well-known notebooks do, with the same layers and loss: float32, contiguous tensors, one-hot
quantizer, and a DataLoader that opens each picture as a PIL image. Ours is what `hw2lib.training.fit` runs: the batch by
index, bf16 where the machine computes in it, channels-last, distances in blocks, freed memory kept. The pictures are
random bytes in CIFAR-10's shape: their content does not change the work. Prints medians and the ratio of the medians.
"""

import click
import torch
import torch.nn.functional as F
from contest import contest
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from hw2lib.data.batches import Batches
from hw2lib.training import devices
from hw2lib.vqvae import VQVAE, VQVAEConfig


class PlainQuantizer(nn.Module):
    """EMA codebook with one-hot matrices."""

    def __init__(self, num_codes: int, code_dim: int, commitment: float, decay: float):
        super().__init__()
        self.num_codes, self.commitment, self.decay = num_codes, commitment, decay
        self.register_buffer("codebook", torch.randn(num_codes, code_dim))
        self.register_buffer("sums", self.codebook.clone())
        self.register_buffer("counts", torch.ones(num_codes))

    def forward(self, z_e):
        channels_last = z_e.permute(0, 2, 3, 1).contiguous()  # (B, H, W, D)
        vectors = channels_last.view(-1, channels_last.shape[-1])
        distances = (
            vectors.square().sum(1, keepdim=True)
            + self.codebook.square().sum(1)
            - 2 * torch.matmul(vectors, self.codebook.t())
        )
        codes = distances.argmin(1, keepdim=True)
        one_hot = torch.zeros(len(codes), self.num_codes).scatter_(1, codes, 1)  # (N, K)
        quantized = torch.matmul(one_hot, self.codebook).view(channels_last.shape)
        with torch.no_grad():
            self.counts.mul_(self.decay).add_(one_hot.sum(0), alpha=1 - self.decay)
            self.sums.mul_(self.decay).add_(torch.matmul(one_hot.t(), vectors), alpha=1 - self.decay)
            self.codebook.copy_(self.sums / (self.counts + 1e-5)[:, None])
        loss = self.commitment * F.mse_loss(quantized.detach(), channels_last)
        quantized = channels_last + (quantized - channels_last).detach()
        use = one_hot.mean(0)
        perplexity = torch.exp(-(use * torch.log(use + 1e-10)).sum())
        return quantized.permute(0, 3, 1, 2).contiguous(), loss, perplexity


class PlainPictures(Dataset):
    """A picture at a time through PIL, as torchvision's CIFAR10 does."""

    def __init__(self, pictures: torch.Tensor):
        self.pictures = pictures.permute(0, 2, 3, 1).numpy()
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))]
        )

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.pictures[index]))


def plain_steps(config: VQVAEConfig, pictures: torch.Tensor, batch_size: int):
    network = VQVAE(config)
    quantizer = PlainQuantizer(config.num_codes, config.code_dim, config.commitment, config.decay)
    weights = [*network.encoder.parameters(), *network.decoder.parameters()]
    optimizer = torch.optim.Adam(weights, lr=config.learning_rate)
    while True:
        for x in DataLoader(PlainPictures(pictures), batch_size, shuffle=True):
            optimizer.zero_grad()
            z_q, vq, _ = quantizer(network.encoder(x))
            (F.mse_loss(network.decoder(z_q), x) / config.data_variance + vq).backward()
            optimizer.step()
            yield


def our_steps(config: VQVAEConfig, pictures: torch.Tensor, batch_size: int, precision: str):
    devices.keep_freed_memory()
    model = VQVAE(config)
    fabric = devices.machine("cpu", precision)
    model.setup(fabric, total_steps=10_000)
    batches = Batches(pictures, batch_size, seed=0)
    while True:
        for batch in batches(0, device=fabric.device):
            model.step(batch)
            yield


def steps_of(name: str, options: dict):
    batch_size = options["batch_size"]
    random = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (20 * batch_size, 3, 32, 32), dtype=torch.uint8, generator=random)
    config = VQVAEConfig()
    if name == "plain":
        return plain_steps(config, pictures, batch_size)
    return our_steps(config, pictures, batch_size, options["precision"])


@click.command(help=__doc__)
@click.option("--steps", default=15, show_default=True, help="counted steps of each, after 3 that are not")
@click.option("--batch-size", default=256, show_default=True)
@click.option("--precision", default="auto", show_default=True)
def main(**options) -> None:
    contest(steps_of, options)
    print(f"batch {options['batch_size']}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
