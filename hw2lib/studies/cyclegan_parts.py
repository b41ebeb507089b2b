"""What parts of CycleGAN are for that points in the plane cannot show: small trainings where the truth is known.

The pictures are drawn (see hw2lib.data.toy): a translation can be compared with its true counterpart. Which part is
changed follows the paper's own ablation (Zhu et al. 2017, arXiv:1703.10593, section 5.1.4) and the homework's
questions. Besides, what needs no training: the gradients of the objectives (`gradient_by_logit`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hw2lib.cyclegan import CycleGAN, CycleGANConfig, Objective, Translator, generator_loss
from hw2lib.data import Domains, Pairs, toy_domains
from hw2lib.evaluation.translations import cycle_error, difference, save_strip, translate
from hw2lib.networks import PatchDiscriminator, ResidualBlock, ResnetGenerator, initialise
from hw2lib.studies.study import Case, at_the_end, study, train_briefly
from hw2lib.studies.travelgan import TravelGAN
from hw2lib.training import Run

# Test pictures of each domain whose translations can be looked at.
KEPT = 8
# Of red, green, blue: Rec. ITU-R BT.601.
LUMINANCE = (0.299, 0.587, 0.114)


# ---- what is changed


class OneHalving(Translator):
    """The paper's networks for small pictures: one halving in place of the generator's two, two of the discriminator's three."""

    halvings = 2  # of the discriminator, whose marks then depend on 34 x 34 pixels; 1: on 16 x 16

    def _generator(self) -> nn.Module:
        if self.config.generator == "unet":
            return super()._generator()
        paper = list(ResnetGenerator(self.config.base_channels, 0))
        blocks = (ResidualBlock(2 * self.config.base_channels) for _ in range(self.config.blocks))
        return initialise(nn.Sequential(*paper[:7], *blocks, *paper[13:]))

    def _discriminator(self) -> nn.Module:
        return super()._discriminator() if self.config.discriminator == "picture" else self._patches(1)

    def _patches(self, dim: int) -> nn.Sequential:
        """C64-C128-C256, or C64-C128, and a last convolution: (B, 3, H, W) to `dim` numbers of each patch, (B, dim, H', W').

        H' = H / 2 ** halvings - 2, and W' likewise.
        """
        paper = list(PatchDiscriminator(self.config.base_channels))[: 2 + 3 * self.halvings]
        paper[3 * self.halvings - 1].stride = (1, 1)
        last = nn.Conv2d(self.config.base_channels << self.halvings, dim, 4, padding=1)
        return initialise(nn.Sequential(*paper, last))


class DrawnCycleGAN(OneHalving, CycleGAN):
    """CycleGAN for the drawn pictures."""


class SmallPatches(DrawnCycleGAN):
    """With a discriminator that sees 16 x 16 pixels at once."""

    halvings = 1


class DrawnTravelGAN(OneHalving, TravelGAN):
    """TraVeLGAN for the drawn pictures."""


class Likeness(nn.Sequential):
    """An embedding E of patches as a discriminator: 1 - 2 d, where d = |E(x) - E(y)| and y is a real picture `beside` x."""

    def forward(self, x: Tensor) -> Tensor:
        points, real = super().forward(x), super().forward(self.beside)
        real = real.repeat(len(points) // len(real), 1, 1, 1)
        return 1 - 2 * torch.linalg.vector_norm(points - real, dim=1, keepdim=True)


class ContrastiveCycleGAN(DrawnCycleGAN):
    """A contrastive loss in place of the classification: the hinge losses of `Likeness`.

    E minimises d(real, another real) + max(0, 1 - d(translation, real)), generators 2 d(translation, real): the loss of
    Hadsell, Chopra and LeCun (2006), doi 10.1109/CVPR.2006.100, equation 4, of distances, not of their squares. Needs B >= 2.
    """

    def _discriminator(self) -> nn.Module:
        return Likeness(*self._patches(16))

    def step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        self.d_a.beside, self.d_b.beside = (part.roll(1, 0) for part in self._prepared(batch))
        return super().step(batch)


# The models, and what differs in their configs from that of the first.
ABLATIONS: dict[str, tuple[type[Translator], dict]] = {
    "full": (DrawnCycleGAN, {}),  # least squares, cycle weight 10, no identity loss, pool of 50, ResNet, patches
    "no_cycle_loss": (DrawnCycleGAN, {"cycle_weight": 0.0}),
    "with_identity_loss": (DrawnCycleGAN, {"identity_weight": 0.5}),
    "cross_entropy": (DrawnCycleGAN, {"objective": "cross_entropy"}),
    "unet_generator": (DrawnCycleGAN, {"generator": "unet"}),
    "small_patches": (SmallPatches, {}),
    "whole_picture_discriminator": (DrawnCycleGAN, {"discriminator": "picture"}),
    "contrastive_discriminator": (ContrastiveCycleGAN, {"objective": "hinge"}),
    "siamese_for_cycle_loss": (DrawnTravelGAN, {}),
}


class Sizes(NamedTuple):
    """What all variants share: how large pictures, networks and batches are, and how large a step."""

    size: int = 32  # pixels a side
    train: int = 384  # pictures of each domain
    test: int = 64  # pairs
    batch_size: int = 4
    base_channels: int = 16
    blocks: int = 2
    learning_rate: float = 1e-3  # not the paper's 2e-4: few steps of small networks


DEFAULT = Sizes()


def config_of(variant: str, seed: int, sizes: Sizes) -> CycleGANConfig:
    """The config of a variant's model. What is judged are the last weights: no averages are kept."""
    shared = {name: value for name, value in sizes._asdict().items() if name in CycleGANConfig.model_fields}
    return CycleGANConfig(**shared | ABLATIONS[variant][1], seed=seed, ema_decay=0.0)


def model_of(variant: str, seed: int = 0, sizes: Sizes = DEFAULT) -> Translator:
    """A variant's model, untrained."""
    return ABLATIONS[variant][0](config_of(variant, seed, sizes))


def described(variant: str, sizes: Sizes) -> dict:
    """All that a variant stands for, in JSON's types."""
    config = config_of(variant, 0, sizes).model_dump(mode="json", exclude={"seed"})
    return config | {"model": ABLATIONS[variant][0].__name__}


# ---- what is measured


def local_contrast(pictures: Tensor, masks: Tensor) -> float:
    """Mean absolute difference in luminance, 0 to 2, of neighbours across and down that are both on the mask.

    pictures: uint8 (N, 3, H, W), masks: bool (N, H, W).
    """
    light = torch.einsum("nchw,c->nhw", pictures.double() / 127.5, torch.tensor(LUMINANCE, dtype=torch.float64))
    across = light.diff(dim=2).abs()[masks[:, :, 1:] & masks[:, :, :-1]]
    down = light.diff(dim=1).abs()[masks[:, 1:] & masks[:, :-1]]
    return float(torch.cat([across, down]).mean())


def stripes(fake: Tensor, source: Tensor, target: Tensor, masks: Tensor) -> float:
    """How far translations have gone from the stripes of their source, 0, to those of the counterparts, 1, and beyond.

    uint8 (N, 3, H, W) each, masks bool (N, H, W). Compared is how much more local contrast there is on the animals than
    off them: much for zebras, little for horses, none for noise or checkerboards all over the picture. Such rubbish has
    got rid of stripes, too, so read the way from b to a beside the truth.
    """
    at, start, end = (
        local_contrast(pictures, masks) - local_contrast(pictures, ~masks) for pictures in (fake, source, target)
    )
    return (at - start) / (end - start)


def scores(domains: Domains, way: str, fake: Tensor) -> dict[str, float]:
    """Numbers of translations `fake`, uint8, of all test pictures from a to b (`way` "ab") or b to a ("ba").

    truth       mean absolute difference, 0 to 2, to the true counterparts
    animal      the same on the animal
    background  the same to the source, off the animal, where nothing has to change
    stripes     0 as the source, 1 as the true counterparts, see `stripes`
    """
    source, target = domains.test_a, domains.test_b
    if way == "ba":
        source, target = target, source
    found = {
        "truth": difference(fake, target),
        "animal": difference(fake, target, domains.masks),
        "background": difference(fake, source, ~domains.masks),
        "stripes": stripes(fake, source, target, domains.masks),
    }
    return {f"{name}_{way}": value for name, value in found.items()}


def ends(domains: Domains) -> dict[str, dict[str, float]]:
    """The scores of who does nothing, paints all animals in one colour, or knows the true counterparts: to read others beside."""
    a, b, masks = domains.test_a, domains.test_b, domains.masks
    return {
        "doing_nothing": scores(domains, "ab", a) | scores(domains, "ba", b),
        "one_colour": scores(domains, "ab", painted(a, b, masks)) | scores(domains, "ba", painted(b, a, masks)),
        "true_counterparts": scores(domains, "ab", b) | scores(domains, "ba", a),
    }


def painted(source: Tensor, target: Tensor, masks: Tensor) -> Tensor:
    """The sources with every animal in the median colour of the targets' animals, uint8 (N, 3, H, W)."""
    colour = target.permute(1, 0, 2, 3)[:, masks].median(1).values
    return torch.where(masks[:, None], colour[:, None, None], source)


def measure(case: Case, domains: Domains, steps: int, sizes: Sizes, keep: Path | None = None) -> dict[str, float]:
    """Train the variant of the case with its seed, and look at its translations of the test pictures.

    Scores of both directions, the cycle errors "cycle_aba" and "cycle_bab" (translations.cycle_error; none of these for models
    from a to b only), and what `step` returns as means over the last tenth of the steps. The first KEPT translations go to
    the file `keep`, from a to b above those from b to a.
    """
    variant, seed = case["variant"], case["seed"]
    model = model_of(variant, seed, sizes)
    batches = Pairs(domains.train_a, domains.train_b, sizes.size, seed, sizes.batch_size)

    history = train_briefly(model, batches, steps, seed)
    fakes = {"ab": translate(model.g_ab, domains.test_a)}
    found = {}
    if isinstance(model, CycleGAN):
        fakes["ba"] = translate(model.g_ba, domains.test_b)
        cycles = cycle_error(model, domains, False, fakes["ba"], fakes["ab"])
        found = {f"cycle_{way}": error for way, error in cycles.items()}
    for way, fake in fakes.items():
        found |= scores(domains, way, fake)
    if keep:
        save_strip(keep, torch.stack([fake[:KEPT] for fake in fakes.values()]))
    return found | at_the_end(history)


def drawn_domains(sizes: Sizes = DEFAULT) -> Domains:
    """The pictures of all ablations, see data.toy_domains."""
    return toy_domains(sizes.size, sizes.train, sizes.test, calm=True)


def kept_translations(folder: Path, variant: str) -> Path:
    """Where the study in a run folder keeps what a variant made of the first test pictures (see `measure`)."""
    return folder / "translations" / f"{variant}.webp"


def ablate(
    runs=None,
    steps: int = 3000,
    seeds: Sequence[int] = (0, 1, 2),
    variants: Sequence[str] = tuple(ABLATIONS),
    sizes: Sizes = DEFAULT,
    n_jobs: int = 1,
) -> Run:
    """Every variant with every seed, as a study; its metrics have the numbers of `ends`, too.

    All are trained on the same pictures; the seed is that of the first weights, the order of the pictures and
    the pools. Of the first seed some translations are kept, see `kept_translations`. Raises RunError.
    """
    domains = drawn_domains(sizes)
    settings = {"steps": steps, "sizes": sizes._asdict(), "data": domains.description}
    options = {name: described(name, sizes) for name in variants}
    cases = [{"variant": variant, "seed": seed} for seed in seeds for variant in variants]
    folder = Run("ablations", {"settings": settings}, runs).folder

    def measured(case: Case) -> dict[str, float]:
        keep = kept_translations(folder, case["variant"]) if case["seed"] == seeds[0] else None
        return measure(case, domains, steps, sizes, keep)

    run = study("ablations", settings, cases, measured, runs, {"variant": options}, n_jobs)
    run.measured("ends", lambda: ends(domains))
    return run


# ---- why least squares


def gradients_at_the_end(parts: dict) -> dict[str, dict[str, float]]:
    """How hard objectives pull at the outputs on translations that occur: {"output", "pull"} of three of `gradient_by_logit`.

    parts: the entries of the study by variant. An output is the mean on the newest translations over the last tenth of the steps, that of
    "saturating" the one of "cross_entropy", whose discriminator is the same.
    """
    variants = {"least_squares": "full", "cross_entropy": "cross_entropy", "saturating": "cross_entropy"}
    outputs = {name: parts[variant]["d_b_fresh"]["mean"] for name, variant in variants.items()}
    return {
        name: {"output": output, "pull": abs(float(gradient_by_logit(np.array([output]))[name][0]))}
        for name, output in outputs.items()
    }


def gradient_by_logit(logits: np.ndarray) -> dict[str, np.ndarray]:
    """Derivatives of what a generator minimises with respect to a discriminator's output, at `logits` (N,).

    Of each objective of cyclegan.generator_loss, and of "saturating", log(1 - sigmoid(D)): the cross entropy
    of the minimax game, against which Goodfellow et al. (2014), arXiv:1406.2661, section 3, advise. float64
    (N,) each, by autograd. Outputs do not mean the same: a discriminator of least squares aims at 0 and 1, of
    hinge at -1 and 1 or beyond, of cross entropy at the logit of a probability.
    """

    def gradient(loss) -> np.ndarray:
        outputs = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
        (found,) = torch.autograd.grad(loss(outputs) * len(outputs), outputs)  # losses are means
        return found.numpy()

    return {"saturating": gradient(lambda outputs: -F.softplus(outputs).mean())} | {
        objective: gradient(lambda outputs, objective=objective: generator_loss(objective, outputs))
        for objective in get_args(Objective)
    }


def discriminator_outputs() -> np.ndarray:
    """Outputs at which objectives are compared, float64 (161,), from -4 to 4."""
    return torch.linspace(-4, 4, 161, dtype=torch.float64).numpy()
