"""The same work as in plain.py, by the same names, as hw2lib does it."""

import itertools
import tempfile

import torch

from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data import Batches, CodeBatches, Pairs
from hw2lib.data.pictures import folder as picture_folder
from hw2lib.data.unpaired import load_size
from hw2lib.evaluation import Judge
from hw2lib.pixelcnn import GatedPixelCNN, PixelCNNConfig
from hw2lib.training import keep_freed_memory, machine
from hw2lib.training.devices import precision_of
from hw2lib.vqvae import VQVAE, VQVAEConfig


def trained(model, batches, precision: str):
    """Steps as `hw2lib.training.fit` takes them."""
    keep_freed_memory()
    fabric = machine("cpu", precision)
    model.setup(fabric, total_steps=10_000)
    for epoch in itertools.count():
        for batch in batches(epoch, device=fabric.device):
            yield {name: value.item() for name, value in model.step(batch).items()}


def cyclegan(size: int, channels: int, precision: str = "auto"):
    side = load_size(size)
    a, b = (torch.randint(0, 256, (200, 3, side, side), dtype=torch.uint8) for _ in range(2))
    return trained(CycleGAN(CycleGANConfig(size=size, base_channels=channels)), Pairs(a, b, size, seed=0), precision)


def vqvae(batch: int, codes: int, precision: str = "auto"):
    pictures = torch.randint(0, 256, (20 * batch, 3, 32, 32), dtype=torch.uint8)
    return trained(VQVAE(VQVAEConfig(num_codes=codes)), Batches(pictures, batch, seed=0), precision)


def prior(batch: int, precision: str = "auto"):
    config = PixelCNNConfig(classes=10)
    maps = torch.randint(config.num_codes, (20 * batch, config.height, config.width))
    batches = CodeBatches(maps, torch.arange(len(maps)) % 10, batch, seed=0)
    return trained(GatedPixelCNN(config), batches, precision)


def sampling(maps: int):
    keep_freed_memory()
    model = GatedPixelCNN(PixelCNNConfig(classes=10)).eval()
    for seed in itertools.count():
        yield model.sample(maps, torch.arange(maps) % 10, seed=seed)


def judge(pictures: int):
    outsider = Judge()
    shown = torch.randint(0, 256, (pictures, 3, 128, 128), dtype=torch.uint8)
    while True:
        yield outsider.look(shown)


def cache(folder: str, size: int):
    while True:
        with tempfile.TemporaryDirectory() as root:  # so that nothing is kept from the time before
            yield picture_folder(folder, size, root)


# ---- what the convolutions alone would take


def convolutions(race: str, options: dict):
    """Floating-point operations of all convolutions of a training step, forward and backward, as PyTorch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(1)  # so that both directions run in this thread, where they are counted
    steps = globals()[race](**options, precision="32")
    while True:
        with FlopCounterMode(display=False) as counter:
            next(steps)
        yield sum(count for kind, count in counter.get_flop_counts()["Global"].items() if "conv" in str(kind))


def peak():
    """GFLOP of twenty forward passes of a residual block's convolution: nothing here computes faster."""
    dtype = torch.bfloat16 if precision_of(machine("cpu")) == "bf16" else torch.float32
    layer = torch.nn.Conv2d(128, 128, 3).to(dtype, memory_format=torch.channels_last)
    x = torch.randn(1, 128, 34, 34).to(dtype, memory_format=torch.channels_last)
    while True:
        with torch.inference_mode():
            for _ in range(20):
                layer(x)
        yield 20 * 2 * 9 * 128**2 * 32**2 / 1e9


def profile(race: str, options: dict):
    """A step on one thread: seconds of each kind of operation."""
    torch.set_num_threads(1)
    steps = globals()[race](**options)
    kinds = {
        "convolutions": ("conv",),
        "norms": ("batch_norm",),
        "padding": ("pad",),
        "Adam and averages": ("adam", "lerp"),
        "activations": ("threshold", "clamp", "leaky", "tanh", "relu"),
        "codes": ("addmm", "argmin", "bincount", "scatter", "embedding"),
        "copies and casts": ("copy", "cat", "clone"),
    }
    while True:
        with torch.autograd.profiler.profile() as found:
            next(steps)
        times = dict.fromkeys([*kinds, "the rest"], 0.0)
        for event in found.key_averages():
            marked = (kind for kind, marks in kinds.items() if any(mark in event.key.lower() for mark in marks))
            times[next(marked, "the rest")] += event.self_cpu_time_total / 1e6
        yield times
