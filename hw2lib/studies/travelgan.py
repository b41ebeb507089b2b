"""TraVeLGAN: one translator from domain a to domain b, held to its source by a siamese network, not a cycle.

Amodio and Krishnaswamy, "TraVeLGAN: Image-to-image Translation by Transformation Vector Learning" (2019),
arXiv:1902.09631. The siamese network replaces the cycle loss and the second generator, but not the
discriminator: it knows nothing of domain b. With the paper's names:

    g_ab  G: X -> Y    d_b  D    siamese  S    real_a  x    fake_b  G(x)    real_b  y

    transformation vectors    v_ij = S(x_i) - S(x_j),  v'_ij = S(G(x_i)) - S(G(x_j)),  i != j in a batch
    L_TraVeL                  Dist(v_ij, v'_ij) over all pairs
    L_Sc                      max(0, delta - |v_ij|) over all pairs
    G minimises               its adversarial loss + cycle_weight L_TraVeL
    S minimises               L_Sc + L_TraVeL, so that it looks for what G can keep

This was checked with the authors' code, KrishnaswamyLab/travelgan, not with the text of the paper. Dist, and
that pairs are averaged, are the code's. The code has |v_ij|^2 in L_Sc, with delta = 10, a first layer of S
for each domain, one S for both directions, batch norm, cross entropy, no pool and a constant learning rate.
Here the rest is as in CycleGAN, so that the two differ only in what ties a translation to its source.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hw2lib import Problem
from hw2lib.cyclegan import CycleGANConfig, ImagePool, Network, Translator, generator_loss
from hw2lib.networks import PictureDiscriminator, initialise

# delta, and how many numbers S makes of a picture; both the authors' code's.
MARGIN, DIM = 10.0, 1000


class TravelError(Problem):
    """Batches without a pair of pictures to compare."""


def translation_losses(
    config: CycleGANConfig, real: Tensor, generator: Network, siamese: Network, discriminator: Network
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """The translations of real, (B, 3, H, W) in [-1, 1], the terms before weighting, and what G and S minimise."""
    fake = generator(real)
    # One pass for both: instance norm keeps pictures apart.
    before, after = (transformation_vectors(part) for part in siamese(torch.cat([real, fake])).float().chunk(2))
    losses = {
        "travel": travel_loss(before, after),
        "margin": margin_loss(before, MARGIN),
        "g_ab": generator_loss(config.objective, discriminator(fake).float()),
    }
    return fake, losses, losses["g_ab"] + config.cycle_weight * (losses["travel"] + losses["margin"])


class SiameseNetwork(PictureDiscriminator):
    """S, pictures as points of which only directions and distances count: (B, 3, H, W) to (B, dim).

    H = W = `size`, a multiple of 4. A picture discriminator with `dim` outputs, as in the authors' code.
    """

    def __init__(self, base_channels: int = 64, size: int = 256, dim: int = DIM):
        super().__init__(base_channels, size)
        self[-1] = initialise(nn.Conv2d(self[-1].in_channels, dim, self[-1].kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flatten(1)


def transformation_vectors(points: Tensor) -> Tensor:
    """v_ij = points[i] - points[j] of all i < j: (B, D) to (B (B - 1) / 2, D), neighbours j = i + 1 first.

    Those of i > j are the same with the other sign, which no loss here sees. Raises TravelError if B < 2.
    """
    _require_pair(len(points))
    # Not points[i] - points[j]: on a CPU, threads add up its gradient in any order, so two runs would differ.
    return torch.cat([points[:-apart] - points[apart:] for apart in range(1, len(points))])


def travel_loss(before: Tensor, after: Tensor) -> Tensor:
    """L_TraVeL of transformation vectors before and after translation, (pairs, D) each: a scalar, 0 or more.

    The mean over pairs of 1 - cos(v, v') + |v - v'|^2 / D, as in the authors' code (which leaves out the 1).
    Lengths below 0.001 count as that in the cosine: they are rounding of equal points and have no direction.
    """
    angle = 1 - F.cosine_similarity(before, after, dim=1, eps=1e-3)
    return (angle + (before - after).square().mean(1)).mean()


def margin_loss(vectors: Tensor, margin: float) -> Tensor:
    """L_Sc of transformation vectors (pairs, D): the mean over pairs of max(0, margin - |v|), 0 to margin.

    It keeps S from mapping all pictures to one point, where every translation would be right.
    """
    return F.relu(margin - torch.linalg.vector_norm(vectors, dim=1)).mean()


def _require_pair(count: int) -> None:
    if count < 2:
        raise TravelError(
            f"TraVeLGAN compares the pictures of a batch, and a batch, or a process's share, has {count}: "
            "give a batch size of 2 or more that leaves 2 or more for the end of an epoch, too"
        )


class TravelGAN(Translator):
    """Generator, siamese network, discriminator, and the training step; `g_ab` translates.

    Its config is CycleGAN's, whose cycle_weight is the weight of all that S looks at (the authors' code has 10), and which
    knows no identity loss or averages here. Its first weights depend on the config alone.
    """

    def __init__(self, config: CycleGANConfig):
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.g_ab = self._generator()
            self.siamese = SiameseNetwork(config.base_channels, config.size)
            self.d_b, self.pool_b = self._discriminator(), ImagePool(config.pool_size)

    def step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """One update of G and S, then one of D, on uint8 (real_a, real_b), (B, 3, H, W) each.

        Returns, detached: travel, margin and g_ab, as they are before weighting, the halved d_b, and D's mean outputs
        d_b_real, d_b_fake. Raises TravelError, before any work, if B < 2.
        """
        _require_pair(len(batch[0]))
        real_a, real_b = self._prepared(batch)
        with self.autocast():
            fake, losses, total = translation_losses(self.config, real_a, self.g_ab, self.siamese, self.d_b)
        self._update("translation", torch.autograd.grad(total, self.parameters_of["translation"]), len(real_a))
        its, grads = self._discrimination("b", real_b, self.pool_b(fake.float()))
        self._update("discriminator", grads, len(real_a))
        return {name: loss.detach() for name, loss in (losses | its).items()}

    def learnt(self) -> dict[str, list[nn.Parameter]]:
        # G and S minimise one sum: a term that is not for both depends on one of them only.
        return {
            "translation": [*self.g_ab.parameters(), *self.siamese.parameters()],
            "discriminator": list(self.d_b.parameters()),
        }
