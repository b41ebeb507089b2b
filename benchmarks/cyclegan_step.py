"""One CycleGAN training step beside the plain implementation, in turn in one run: python benchmarks/cyclegan_step.py

Plain is what the well-known implementations do, with the same layers and losses: float32, contiguous tensors,
`nn.InstanceNorm2d`, one direction after the other, separate passes of the discriminators for real and for translated
pictures, pictures decoded from files, resized, cut and mirrored one by one through PIL. Ours is what `hw2lib.training.loop`
runs: batches cut by index, bf16 where the machine computes in it, channels-last, instance norm as batch norm of one
picture, both directions at once on half of the threads each, freed memory kept. The pictures are random bytes: their
content does not change the work. Prints medians and the ratio of the medians. With --profile, prints where our time goes
and what the convolutions alone would take at the speed that this machine reaches in the largest of them.
"""

import io
import itertools
import random
import statistics
import time
import warnings

import click
import numpy as np
import torch
import torch.nn.functional as F
from contest import contest
from PIL import Image
from torch import nn
from torchvision import transforms

from hw2lib import networks
from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data.batches import Pairs
from hw2lib.data.unpaired import load_size
from hw2lib.training import devices


def plain_layers(module: nn.Module) -> nn.Module:
    """The same network with nn.InstanceNorm2d and nn.ConvTranspose2d as they come."""
    for name, child in module.named_children():
        if isinstance(child, networks.InstanceNorm):
            setattr(module, name, nn.InstanceNorm2d(1))  # without affine, the number of channels is not used
            warnings.filterwarnings("ignore", "input's size at dim=1 does not match num_features")
        elif isinstance(child, nn.ConvTranspose2d):
            plain = nn.ConvTranspose2d(
                child.in_channels,
                child.out_channels,
                child.kernel_size,
                child.stride,
                child.padding,
                child.output_padding,
            )
            plain.load_state_dict(child.state_dict())
            setattr(module, name, plain)
        else:
            plain_layers(child)
    return module


def plain_pictures(size: int):
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


class PlainPool:
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


def plain_steps(config: CycleGANConfig):
    model = plain_layers(CycleGAN(config))
    g_ab, g_ba, d_a, d_b = model.g_ab, model.g_ba, model.d_a, model.d_b
    generators = torch.optim.Adam(itertools.chain(g_ab.parameters(), g_ba.parameters()), 2e-4, (0.5, 0.999))
    discriminators = torch.optim.Adam(itertools.chain(d_a.parameters(), d_b.parameters()), 2e-4, (0.5, 0.999))
    pool_a, pool_b = PlainPool(), PlainPool()

    def against(output, target):
        return F.mse_loss(output, torch.full_like(output, target))

    for real_a, real_b in plain_pictures(config.size):
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


def our_model(config: CycleGANConfig, precision: str) -> CycleGAN:
    devices.keep_freed_memory()
    model = CycleGAN(config)
    model.setup(devices.machine("cpu", precision), total_steps=10_000)
    return model


def our_batches(config: CycleGANConfig) -> Pairs:
    side = load_size(config.size)
    a, b = (torch.randint(0, 256, (1000, 3, side, side), dtype=torch.uint8) for _ in range(2))
    return Pairs(a, b, config.size, seed=0)


def our_steps(config: CycleGANConfig, precision: str):
    model, batches = our_model(config, precision), our_batches(config)
    for epoch in itertools.count():
        for batch in batches(epoch):
            yield {name: value.item() for name, value in model.step(batch).items()}


def profile(config: CycleGANConfig, precision: str, steps: int = 5) -> None:
    """Share of each kind of operation in one direction's work on one thread, and of the convolutions' peak."""
    torch.set_num_threads(1)  # so both directions run in this thread, where the profiler sees them
    model, batches = our_model(config, precision), our_batches(config)
    pictures = iter(batches(0))
    for _ in range(3):
        model.step(next(pictures))
    began = time.perf_counter()
    for _ in range(steps):
        model.step(next(pictures))
    seconds = (time.perf_counter() - began) / steps
    with torch.autograd.profiler.profile() as found:
        for _ in range(steps):
            model.step(next(pictures))
    kinds = {
        "convolutions": ("conv",),
        "norms": ("batch_norm",),
        "padding": ("pad",),
        "Adam and averages": ("adam", "lerp"),
        "activations": ("threshold", "clamp", "leaky", "tanh"),
        "copies and casts": ("copy", "cat", "clone"),
    }
    times = dict.fromkeys([*kinds, "the rest"], 0.0)
    for event in found.key_averages():
        kind = next(
            (kind for kind, marks in kinds.items() if any(mark in event.key.lower() for mark in marks)),
            "the rest",
        )
        times[kind] += event.self_cpu_time_total
    print(f"one thread: {seconds:.3f} s a step, of which")
    for kind, microseconds in sorted(times.items(), key=lambda item: -item[1]):
        print(f"  {kind:18} {microseconds / sum(times.values()):6.1%}")
    flops, peak = convolution_work(config), peak_speed(config, precision)
    print(
        f"convolutions: {flops / 1e9:.1f} GFLOP a step; at the peak of {peak / 1e9:.0f} GFLOP/s: {flops / peak:.3f} s, "
        f"{flops / peak / seconds:.0%} of the step"
    )


def convolution_work(config: CycleGANConfig) -> float:
    """Floating-point operations of all convolutions of a step, forward and backward, as PyTorch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    model, batches = our_model(config, "32"), our_batches(config)
    with FlopCounterMode(display=False) as counter:
        model.step(next(iter(batches(0))))
    return counter.get_total_flops()


def peak_speed(config: CycleGANConfig, precision: str) -> float:
    """Operations a second of a residual block's convolution alone, forward, on the present number of threads."""
    bf16 = devices.precision_of(devices.machine("cpu", precision)) == "bf16"
    channels, side = 4 * config.base_channels, config.size // 4
    layer = nn.Conv2d(channels, channels, 3).to(
        torch.bfloat16 if bf16 else torch.float32, memory_format=torch.channels_last
    )
    x = torch.randn(1, channels, side + 2, side + 2).to(layer.weight.dtype, memory_format=torch.channels_last)
    times = []
    with torch.no_grad():
        for _ in range(50):
            began = time.perf_counter()
            layer(x)
            times.append(time.perf_counter() - began)
    return 2 * 9 * channels**2 * side**2 / statistics.median(times)


def steps_of(name: str, options: dict):
    config = CycleGANConfig(size=options["size"], base_channels=options["channels"])
    return plain_steps(config) if name == "plain" else our_steps(config, options["precision"])


@click.command(help=__doc__)
@click.option("--steps", default=20, show_default=True, help="counted steps of each, after 3 that are not")
@click.option("--size", default=128, show_default=True)
@click.option("--channels", default=32, show_default=True)
@click.option("--precision", default="auto", show_default=True)
@click.option("--profile", "profiled", is_flag=True, help="where our time goes, instead of the race")
def main(profiled: bool, **options) -> None:
    if profiled:
        config = CycleGANConfig(size=options["size"], base_channels=options["channels"])
        return profile(config, options["precision"])
    contest(steps_of, options)
    print(f"{options['size']} px, {options['channels']} channels, batch 1, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
