"""What a user would write instead: float32, the layers as they come, pictures through PIL, batches by DataLoader.

Each function is an endless iterator, and each `next` one piece of work; those in ours.py have the same names and do the
same work. Layers and losses are the same, pictures are random bytes, weights random: what is in them does not change the
work. OpenMP, memory and layouts are as torch sets them.
"""

import io
import itertools
import random
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms

from hw2lib import networks
from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data.unpaired import load_size
from hw2lib.evaluation import Judge
from hw2lib.pixelcnn import GatedPixelCNN, PixelCNNConfig
from hw2lib.vqvae import VQVAE, VQVAEConfig

# ---- CycleGAN: one direction after the other, separate passes of the discriminators


def cyclegan(size: int, channels: int):
    """Training steps at batch 1."""
    config = CycleGANConfig(size=size, base_channels=channels)
    model = as_they_come(CycleGAN(config))
    g_ab, g_ba, d_a, d_b = model.g_ab, model.g_ba, model.d_a, model.d_b
    generators = torch.optim.Adam(itertools.chain(g_ab.parameters(), g_ba.parameters()), 2e-4, (0.5, 0.999))
    discriminators = torch.optim.Adam(itertools.chain(d_a.parameters(), d_b.parameters()), 2e-4, (0.5, 0.999))
    pool_a, pool_b = Pool(), Pool()

    def against(output, target):
        return F.mse_loss(output, torch.full_like(output, target))

    for real_a, real_b in pairs_from_files(size):
        fake_b, fake_a = g_ab(real_a), g_ba(real_b)
        cycled_a, cycled_b = g_ba(fake_b), g_ab(fake_a)
        for parameter in (*d_a.parameters(), *d_b.parameters()):
            parameter.requires_grad = False
        generators.zero_grad()
        cycle = F.l1_loss(cycled_a, real_a) + F.l1_loss(cycled_b, real_b)
        loss = against(d_b(fake_b), 1.0) + against(d_a(fake_a), 1.0) + 10 * cycle
        loss.backward()
        generators.step()
        for parameter in (*d_a.parameters(), *d_b.parameters()):
            parameter.requires_grad = True
        discriminators.zero_grad()
        for discriminator, real, fake in ((d_a, real_a, pool_a(fake_a)), (d_b, real_b, pool_b(fake_b))):
            ((against(discriminator(real), 1.0) + against(discriminator(fake), 0.0)) / 2).backward()
        discriminators.step()
        yield loss.item()


def as_they_come(module: nn.Module) -> nn.Module:
    """The same network with nn.InstanceNorm2d and nn.ConvTranspose2d."""
    for name, child in module.named_children():
        if isinstance(child, networks.InstanceNorm):
            setattr(module, name, nn.InstanceNorm2d(1))  # without affine, the number of channels is not used
            warnings.filterwarnings("ignore", "input's size at dim=1 does not match num_features")
        elif isinstance(child, nn.ConvTranspose2d):
            sizes = (child.kernel_size, child.stride, child.padding, child.output_padding)
            plain = nn.ConvTranspose2d(child.in_channels, child.out_channels, *sizes)
            plain.load_state_dict(child.state_dict())
            setattr(module, name, plain)
        else:
            as_they_come(child)
    return module


def pairs_from_files(size: int):
    """Endless (real_a, real_b) as a data loader without workers makes them from JPEG files."""
    files = []
    for seed in range(20):
        noise = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).save(file, "JPEG")
        files.append(file)
    transform = transforms.Compose(
        [
            transforms.Resize(load_size(size), transforms.InterpolationMode.BICUBIC),
            transforms.RandomCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
    )
    while True:
        yield tuple(transform(Image.open(random.choice(files)).convert("RGB"))[None] for _ in range(2))


class Pool:
    def __init__(self):
        self.pictures = []

    def __call__(self, fake):
        fake = fake.detach()
        if len(self.pictures) < 50:
            self.pictures.append(fake)
            return fake
        if random.random() < 0.5:
            return fake
        place = random.randrange(50)
        old, self.pictures[place] = self.pictures[place], fake
        return old


# ---- VQ-VAE: a one-hot quantizer


def vqvae(batch: int, codes: int):
    """Training steps on pictures of 32 pixels."""
    config = VQVAEConfig(num_codes=codes)
    network = as_they_come(VQVAE(config))
    quantizer = OneHotQuantizer(codes, config.code_dim, config.commitment, config.decay)
    weights = [*network.encoder.parameters(), *network.decoder.parameters()]
    optimizer = torch.optim.Adam(weights, lr=config.learning_rate)
    pictures = OneByOne(torch.randint(0, 256, (20 * batch, 3, 32, 32), dtype=torch.uint8))
    while True:
        for x in DataLoader(pictures, batch, shuffle=True):
            optimizer.zero_grad()
            z_q, vq, _ = quantizer(network.encoder(x))
            loss = F.mse_loss(network.decoder(z_q), x) / config.data_variance + vq
            loss.backward()
            optimizer.step()
            yield loss.item()


class OneHotQuantizer(nn.Module):
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


class OneByOne(Dataset):
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


# ---- the prior: masked kernels, and a pass over whole maps for each code that is drawn


def prior(batch: int):
    """Training steps on code maps of 8 x 8 with ten classes."""
    config = PixelCNNConfig(classes=10)
    model = masked(GatedPixelCNN(config))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    maps = torch.randint(config.num_codes, (20 * batch, config.height, config.width))
    while True:
        for codes, labels in DataLoader(TensorDataset(maps, torch.arange(len(maps)) % 10), batch, shuffle=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(codes, labels), codes)
            loss.backward()
            optimizer.step()
            yield loss.item()


class Masked(nn.Conv2d):
    """A whole kernel, of which the last `hidden` rows or columns are masked at each pass."""

    def __init__(self, seen: nn.Conv2d, side: int, rows: bool):
        whole = 2 * side + 1
        super().__init__(seen.in_channels, seen.out_channels, (whole if rows else 1, whole))
        hidden = whole - seen.kernel_size[0 if rows else 1]
        mask = torch.ones_like(self.weight)
        mask[:, :, whole - hidden :] *= 0 if rows else 1
        mask[..., whole - hidden :] *= 1 if rows else 0
        self.register_buffer("mask", mask)

    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, self.bias)


def masked(model: GatedPixelCNN) -> GatedPixelCNN:
    """The same network with masks in place of smaller kernels."""
    side = model.config.kernel // 2
    for layer in model.layers:
        layer.vertical, layer.above = Masked(layer.vertical, side, rows=True), (side,) * 4
        layer.horizontal, layer.left = Masked(layer.horizontal, side, rows=False), (side, side, 0, 0)
    return model


def sampling(maps: int):
    """Sets of code maps, drawn from the network of the published prior's size."""
    model = masked(GatedPixelCNN(PixelCNNConfig(classes=10))).eval()
    labels = torch.arange(maps) % 10
    while True:
        canvas = torch.zeros(maps, model.config.height, model.config.width, dtype=torch.long)
        with torch.no_grad():
            for row, column in itertools.product(range(model.config.height), range(model.config.width)):
                logits = model(canvas, labels)[:, :, row, column]
                canvas[:, row, column] = torch.multinomial(logits.softmax(1), 1)[:, 0]
        yield


# ---- the judge, and a folder of pictures


def judge(pictures: int):
    """What the judge sees in pictures of 128 pixels: resized by PIL, one by one, and twenty in a pass."""
    network = Judge()._network
    noise = np.random.default_rng(0).integers(0, 256, (pictures, 128, 128, 3), np.uint8)
    shown = [Image.fromarray(picture) for picture in noise]
    transform = transforms.Compose(
        [
            transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize((127 / 255,) * 3, (128 / 255,) * 3),
        ]
    )
    while True:
        with torch.no_grad():
            for first in range(0, pictures, 20):
                batch = torch.stack([transform(picture) for picture in shown[first : first + 20]])
                network._fc(network.extract_features(batch).mean((2, 3))).softmax(1)
        yield


def cache(folder: str, size: int):
    """The folder's pictures, read one after the other."""
    while True:
        squares = [
            ImageOps.fit(Image.open(file).convert("RGB"), (size, size), Image.Resampling.BICUBIC)
            for file in sorted(Path(folder).iterdir())
        ]
        yield np.stack([np.asarray(square) for square in squares])
