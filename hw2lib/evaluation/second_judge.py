"""A second judge of translations: a small network that has seen the training pictures of both domains and no others.

horse2zebra was collected from ImageNet, so that an ImageNet classifier may have learnt from the very test pictures. This
one knows only what CycleGAN knew, tells two classes apart, A and B, and its errors on the real test pictures are its own.
"""

from itertools import chain, count, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hw2lib.data import Domains, Pairs
from hw2lib.data.unpaired import load_size
from hw2lib.evaluation.translations import some_scaled
from hw2lib.networks import PatchDiscriminator
from hw2lib.optim import adam, linear_decay, with_rate

# Chosen by every tenth training picture of horse2zebra, held out from the others: 94 % right. A minute on two CPU cores.
SIDE, CHANNELS, BATCH_SIZE, STEPS, LEARNING_RATE = 128, 16, 8, 2400, 1e-3
# Training pictures of each domain, evenly spaced, that it is shown.
MOST = 5000


class SecondJudge:
    """A patch discriminator trained to tell B from A, whose patches vote: float32, on the CPU.

    Trained on random squares of the training pictures of `domains`, mirrored at random, of 128 pixels or what test
    pictures have, if that is less; by cross-entropy and Adam, at a rate that falls linearly to 0. The same seed gives the
    same network on the same number of threads, and no random numbers of the caller's are drawn.
    """

    def __init__(self, domains: Domains, seed: int = 0, steps: int = STEPS):
        self.side = min(SIDE, domains.size)
        train = (some_scaled(pictures, load_size(self.side), MOST) for pictures in (domains.train_a, domains.train_b))
        batches = Pairs(*train, self.side, seed, BATCH_SIZE)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network: nn.Module = PatchDiscriminator(CHANNELS)
        optimizer = adam(self.network.parameters(), torch.device("cpu"), lr=LEARNING_RATE)
        schedule = with_rate(optimizer, linear_decay(steps, decay_share=1.0))
        for real_a, real_b in islice(chain.from_iterable(map(batches, count())), steps):
            logits = self._logits(torch.cat([real_a, real_b]))
            is_b = torch.arange(len(logits)) >= len(real_a)
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(logits, is_b.float()).backward()
            optimizer.step()
            schedule.step()

    def _logits(self, pictures: Tensor) -> Tensor:
        """The mean over all patches of uint8 pictures (N, 3, side, side): (N,), above 0 for B."""
        return self.network(pictures.float().div_(127.5).sub_(1)).mean((1, 2, 3))

    @torch.no_grad()
    def share_of_b(self, pictures: Tensor) -> float:
        """Share, 0 to 1, of uint8 pictures (N, 3, H, H) that it takes for B rather than A."""
        parts = some_scaled(pictures, self.side, len(pictures)).split(20)
        return float((torch.cat([self._logits(part) for part in parts]) > 0).double().mean())
