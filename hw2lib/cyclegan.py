"""CycleGAN: two translators between two domains of pictures without pairs, each one undoing the other.

Zhu, Park, Isola and Efros, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks" (2017),
arXiv:1703.10593; sizes, weights and rates are those of its section 4 and appendix 7. With the paper's names:

    g_ab  G: X -> Y    d_a  D_X    real_a  x    fake_b  G(x)    cycled_a  F(G(x))
    g_ba  F: Y -> X    d_b  D_Y    real_b  y    fake_a  F(y)    cycled_b  G(F(y))

Pictures inside the networks are float in [-1, 1].
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo
from torch import Tensor, nn

from hw2lib import processes
from hw2lib.networks import PatchDiscriminator, PictureDiscriminator, ResnetGenerator, UnetGenerator
from hw2lib.optim import adam, linear_decay, with_rate
from hw2lib.training import weights

Objective = Literal["least_squares", "cross_entropy", "hinge"]
Network = Callable[[Tensor], Tensor]


def _of_the_paper(blocks: int, info: ValidationInfo) -> int:
    return blocks or (9 if info.data.get("size", 256) >= 256 else 6)


Blocks = Annotated[int, Field(ge=0, le=200, validate_default=True), AfterValidator(_of_the_paper)]


class CycleGANConfig(BaseModel):
    """Everything that changes what is learnt. Where it is computed (device, precision, folders) is not here."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: int = Field(256, ge=32, le=8192, multiple_of=4)  # pixels a side
    generator: Literal["resnet", "unet"] = "resnet"
    discriminator: Literal["patch", "picture"] = "patch"
    base_channels: int = Field(64, ge=1, le=2048)  # of the first layer of all four networks
    blocks: Blocks = 0  # residual ones; 0: the paper's choice, 9 from 256 pixels on and 6 below
    objective: Objective = "least_squares"
    cycle_weight: float = Field(10.0, ge=0, le=1e6)  # lambda of equation 3
    identity_weight: float = Field(0.0, ge=0, le=1e6)  # times cycle_weight; appendix 7.1 has 0.5; at 0 not computed
    pool_size: int = Field(50, ge=0, le=100_000)  # earlier translations that discriminators may see; 0: the newest only
    learning_rate: float = Field(2e-4, gt=0, le=10)  # of Adam, until it falls
    decay_share: float = Field(0.5, ge=0, le=1)  # of the steps, at the end, in which the rate falls linearly to 0
    ema_decay: float = Field(0.999, ge=0, lt=1)  # of averages of the generators beside the training; 0: none
    seed: int = Field(0, ge=0, lt=2**31)


# ---- the equation


def translation_losses(
    config: CycleGANConfig, real: Tensor, target: Tensor, there: Network, back: Network, discriminator: Network
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Equation 3 in one direction: the translations, the terms before weighting, and what both generators minimise.

    real: pictures of the source domain; target: of the other one, which `discriminator` knows and only the identity loss
    of section 5.2 looks at; (B, 3, H, W) each, in [-1, 1]. A further term takes a line here.
    """
    fake = there(real)
    cycled, output = back(fake), discriminator(fake)
    losses = {
        "adversarial": generator_loss(config.objective, output.float()),
        "cycle": F.l1_loss(cycled.float(), real),
        "fresh": output.float().mean(),  # a discriminator's own terms are on translations out of the pool
    }
    total = losses["adversarial"] + config.cycle_weight * losses["cycle"]
    if config.identity_weight:
        losses["identity"] = F.l1_loss(there(target).float(), target)
        total = total + config.cycle_weight * config.identity_weight * losses["identity"]
    return fake, losses, total


def discrimination_losses(
    config: CycleGANConfig, real: Tensor, fake: Tensor, discriminator: Network
) -> tuple[dict[str, Tensor], Tensor]:
    """What a discriminator minimises on real pictures and on translations, (B, 3, H, W) each, and its mean outputs."""
    # One pass for both: instance norm keeps pictures apart.
    on_real, on_fake = discriminator(torch.cat([real, fake])).float().chunk(2)
    loss = discriminator_loss(config.objective, on_real, on_fake)
    return {"loss": loss, "real": on_real.mean(), "fake": on_fake.mean()}, loss


def generator_loss(objective: Objective, fake: Tensor) -> Tensor:
    """What a generator minimises, the mean over all patches, for a discriminator's outputs on its translations.

    least_squares (D - 1)^2, section 4 of the paper, after Mao et al. (2017), arXiv:1611.04076; cross_entropy
    -log sigmoid(D), the non-saturating form of Goodfellow et al. (2014); hinge -D, Lim and Ye (2017), arXiv:1705.02894.
    """
    if objective == "least_squares":
        return (fake - 1).square().mean()
    return F.softplus(-fake).mean() if objective == "cross_entropy" else -fake.mean()


def discriminator_loss(objective: Objective, real: Tensor, fake: Tensor) -> Tensor:
    """What a discriminator minimises, halved (appendix 7.1), for its outputs on both.

    least_squares (D(real) - 1)^2 + D(fake)^2; cross_entropy -log sigmoid(D(real)) - log(1 - sigmoid(D(fake)));
    hinge max(0, 1 - D(real)) + max(0, 1 + D(fake)); each the mean over all patches.
    """
    if objective == "least_squares":
        return ((real - 1).square().mean() + fake.square().mean()) / 2
    if objective == "cross_entropy":
        return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


class ImagePool(nn.Module):
    """Earlier translations, so that a discriminator is not shown the newest only (Shrivastava et al. 2017, 2.3).

    A picture that comes while there is room is kept and handed on. Later ones are handed on half of the time; else
    they take the place of a random one in the pool, which is handed on instead. The pictures are in the
    state_dict. Several processes have one pool, of which each keeps a copy: all see the translations of all.
    """

    def __init__(self, size: int = 50):
        super().__init__()
        self.size = size
        self.pictures: list[Tensor] = []  # (3, H, W) each

    def forward(self, fakes: Tensor) -> Tensor:
        """As many pictures as came, (B, 3, H, W), detached; chance comes from torch's CPU generator."""
        fakes = fakes.detach()
        if self.size == 0:
            return fakes
        if self.pictures and self.pictures[0].device != fakes.device:  # after a resume
            self.pictures = [picture.to(fakes.device) for picture in self.pictures]
        handed_on = []
        for fake in processes.whole_of(fakes):
            if len(self.pictures) < self.size:
                self.pictures.append(fake.clone())
            elif torch.rand(()) < 0.5:
                place = int(torch.randint(self.size, ()))
                fake, self.pictures[place] = self.pictures[place], fake.clone()
            handed_on.append(fake)
        return processes.share_of(torch.stack(handed_on))

    def get_extra_state(self) -> Tensor:
        return torch.stack(self.pictures) if self.pictures else torch.empty(0)

    def set_extra_state(self, state: Tensor) -> None:
        self.pictures = list(state.unbind())


class Translator(nn.Module):
    """What CycleGAN and its relatives share: pictures in and out, networks of the config, and how these are updated.

    A relative has a `config`, `learnt` and `step`; `_discrimination` takes its discriminators d_a and d_b.
    """

    @staticmethod
    def to_network(pictures: Tensor) -> Tensor:
        """uint8 pictures (B, 3, H, W) as the networks take them: float in [-1, 1]."""
        return pictures.float().div_(127.5).sub_(1)

    @staticmethod
    def to_pictures(x: Tensor) -> Tensor:
        """Network output (B, 3, H, W) as uint8 pictures, rounded and clamped."""
        return x.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)

    def _generator(self) -> nn.Module:
        size, channels = self.config.size, self.config.base_channels
        if self.config.generator == "resnet":
            return ResnetGenerator(channels, self.config.blocks)
        return UnetGenerator(channels, depth=min(8, (size & -size).bit_length() - 1))  # as often as 2 divides size

    def _discriminator(self) -> nn.Module:
        if self.config.discriminator == "patch":
            return PatchDiscriminator(self.config.base_channels)
        return PictureDiscriminator(self.config.base_channels, self.config.size)

    def learnt(self) -> dict[str, list[nn.Parameter]]:
        """The parameters of each optimiser, by its name."""
        raise NotImplementedError

    def setup(self, fabric, total_steps: int) -> None:
        """Move to fabric's device and make the optimisers and schedules; call once, before the first step."""
        self.fabric = fabric
        self.to(fabric.device, memory_format=torch.channels_last)
        self.parameters_of = self.learnt()
        options = {"lr": self.config.learning_rate, "betas": (0.5, 0.999)}
        self.optimizers = {name: adam(its, fabric.device, **options) for name, its in self.parameters_of.items()}
        rate = linear_decay(total_steps, self.config.decay_share)
        self.schedules = {name: with_rate(optimizer, rate) for name, optimizer in self.optimizers.items()}

    def _prepared(self, batch: Sequence[Tensor]) -> Iterator[Tensor]:
        """uint8 pictures of both domains as the networks take them, in the layout in which these are fast."""
        return (self.to_network(part).contiguous(memory_format=torch.channels_last) for part in batch)

    @contextmanager
    def autocast(self):
        """The precision of the training, as a context."""
        with self.fabric.autocast():
            before = torch.is_autocast_cache_enabled()
            torch.set_autocast_cache_enabled(False)  # the cache of cast weights is one for all threads
            try:
                yield
            finally:
                torch.set_autocast_cache_enabled(before)

    def _discrimination(self, domain: str, real: Tensor, fake: Tensor) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """Losses and gradients of the discriminator of `domain`, on real pictures and on translations into it."""
        discriminator = self.d_a if domain == "a" else self.d_b
        with self.autocast():
            losses, total = discrimination_losses(self.config, real, fake, discriminator)
        grads = torch.autograd.grad(total, list(discriminator.parameters()))
        names = {"loss": f"d_{domain}", "real": f"d_{domain}_real", "fake": f"d_{domain}_fake"}
        return {names[name]: loss.detach() for name, loss in losses.items()}, grads

    def _update(self, name: str, grads: Sequence[Tensor], share: int) -> None:
        """One step of an optimiser and its schedule, with gradients of means over `share` pictures."""
        for parameter, grad in zip(self.parameters_of[name], grads, strict=True):
            parameter.grad = grad
        processes.average_gradients(self.parameters_of[name], share)
        self.optimizers[name].step()
        self.schedules[name].step()


class CycleGAN(Translator):
    """Two generators, two discriminators and the training step. Its first weights depend on the config alone.

    `step` is one update of equation 3, with the least squares of section 4 by default.
    """

    # A weights file may lack what only training needs.
    optional_weights = ("d_a.", "d_b.", "pool_a.", "pool_b.")

    def __init__(self, config: CycleGANConfig):
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.g_ab, self.g_ba = (self._generator() for _ in range(2))
            self.d_a, self.d_b = (self._discriminator() for _ in range(2))
        self.pool_a, self.pool_b = ImagePool(config.pool_size), ImagePool(config.pool_size)
        if config.ema_decay:
            self.average_ab, self.average_ba = (copy.deepcopy(g).requires_grad_(False) for g in (self.g_ab, self.g_ba))

    @classmethod
    def load(cls, path) -> "CycleGAN":
        """The generators of a weights file, in eval mode. Raises hw2lib.training.WeightsError."""
        return weights.load(path, cls, CycleGANConfig)

    def generators(self, averaged: bool) -> tuple[nn.Module, nn.Module]:
        """(g_ab, g_ba), or their averages over the training. Raises ValueError if there are none."""
        if averaged and not self.config.ema_decay:
            raise ValueError("this CycleGAN has no averaged generators: it was trained with ema_decay 0")
        return (self.average_ab, self.average_ba) if averaged else (self.g_ab, self.g_ba)

    def step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """One update of the generators, then one of the discriminators, on uint8 (real_a, real_b), (B, 3, H, W) each.

        Returns, detached: the terms as they are before weighting, g_ab, g_ba (adversarial), cycle_a, cycle_b and, if
        on, identity_a, identity_b (mean absolute error, 0 to 2); the halved losses d_a, d_b; and the discriminators'
        mean outputs on real pictures, on translations out of the pool and on the newest ones, d_a_real, d_a_fake, d_a_fresh
        and so on.
        """
        real_a, real_b = self._prepared(batch)
        with self._discriminators_frozen():
            (fake_b, losses_ab, grads_ab), (fake_a, losses_ba, grads_ba) = self.both(
                self._translation, "ab", (real_a, real_b), (real_b, real_a)
            )
        self._update("generators", torch._foreach_add(grads_ab, grads_ba), len(real_a))
        self._average()
        fake_a, fake_b = self.pool_a(fake_a), self.pool_b(fake_b)
        (losses_a, grads_a), (losses_b, grads_b) = self.both(
            self._discrimination, "ab", (real_a, real_b), (fake_a, fake_b)
        )
        self._update("discriminators", grads_a + grads_b, len(real_a))
        return losses_ab | losses_ba | losses_a | losses_b

    # ---- machinery of the step

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """What a step spends its time in."""
        return self.g_ab, self.g_ba, self.d_a, self.d_b

    def learnt(self) -> dict[str, list[nn.Parameter]]:
        return {
            "generators": [*self.g_ab.parameters(), *self.g_ba.parameters()],
            "discriminators": [*self.d_a.parameters(), *self.d_b.parameters()],
        }

    def setup(self, fabric, total_steps: int) -> None:
        super().setup(fabric, total_steps)
        # The two directions have no value in common, only weights. On a CPU each one gets half of the threads: small
        # operations keep one thread busy, not many. (Measured: 1.5 times as fast on two cores.)
        self.both = map
        if fabric.device.type == "cpu" and torch.get_num_threads() > 1:
            half = torch.get_num_threads() // 2
            self.both = ThreadPoolExecutor(2, initializer=lambda: torch.set_num_threads(half)).map

    @contextmanager
    def _discriminators_frozen(self):
        """The gradient has to pass through the discriminators, not to arrive in them."""
        for parameter in self.parameters_of["discriminators"]:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.parameters_of["discriminators"]:
                parameter.requires_grad_(True)

    def _translation(
        self, source: str, real: Tensor, target: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], tuple[Tensor, ...]]:
        """`translation_losses` from the domain `source`, "a" or "b": translations, losses, gradients of the generators."""
        forth, back = (self.g_ab, self.g_ba, self.d_b), (self.g_ba, self.g_ab, self.d_a)
        with self.autocast():
            fake, losses, total = translation_losses(self.config, real, target, *(forth if source == "a" else back))
        grads = torch.autograd.grad(total, self.parameters_of["generators"])
        other = "b" if source == "a" else "a"
        names = {"adversarial": f"g_{source}{other}", "identity": f"identity_{other}", "fresh": f"d_{other}_fresh"}
        losses = {names.get(name, f"{name}_{source}"): loss.detach() for name, loss in losses.items()}
        return fake.detach().float(), losses, grads

    def _average(self) -> None:
        if not self.config.ema_decay:
            return
        step = self.schedules["generators"].last_epoch
        decay = min(self.config.ema_decay, step / (step + 9))  # short at first: the start is not worth remembering
        averages = [*self.average_ab.parameters(), *self.average_ba.parameters()]
        newest = [parameter.detach() for parameter in self.parameters_of["generators"]]
        torch._foreach_lerp_(averages, newest, 1 - decay)
