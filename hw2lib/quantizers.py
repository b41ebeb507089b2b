"""The quantizers of a VQ-VAE: nearest code, loss terms, and two ways for the codebook to learn.

van den Oord, Vinyals and Kavukcuoglu, "Neural Discrete Representation Learning" (2017), arXiv:1711.00937. With the
paper's names: z_e is the encoder's output, e the codebook, sg[.] is .detach(), K is num_codes, D is code_dim and beta is
commitment.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hw2lib import processes


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


def as_vectors(z_e: Tensor) -> Tensor:
    """The vectors of maps (B, D, H, W), row by row: float32 (B H W, D). No copy in channels-last layout."""
    return z_e.float().permute(0, 2, 3, 1).reshape(-1, z_e.shape[1])


class _Quantizer(nn.Module):
    """What both codebooks share: the nearest code, the loss terms, usage counts, start and restart of codes.

    `restart_below`, which may be set before any step, is a share of the mean use N / K: a code whose moving-average
    count falls below it is dead and is moved onto an encoder output of the current batch. 0 switches restarts off.

    Of several processes each quantizes its share; in training, uses, sums and restarts are those of the whole batch.
    """

    def __init__(self, num_codes: int, code_dim: int, commitment: float, decay: float):
        super().__init__()
        self.num_codes, self.code_dim, self.commitment = num_codes, code_dim, commitment
        self.decay, self.restart_below = decay, 0.0
        # Buffers, not parameters: the optimiser must not see them, checkpoints must.
        self.register_buffer("counts", torch.ones(num_codes))  # moving average of each code's uses a batch

    def nearest(self, vectors: Tensor) -> Tensor:
        """Index of the nearest codebook vector, (N,), for vectors (N, D), by Euclidean distance (equation 1)."""
        # |z - e|^2 = |z|^2 - 2 z.e + |e|^2, and |z|^2 is the same for every code: one matrix product does it, on a
        # CPU in blocks whose distances stay in the cache.
        norms, block = self.codebook.square().sum(1), 1024 if vectors.device.type == "cpu" else len(vectors)
        codes = [torch.addmm(norms, rows, self.codebook.t(), alpha=-2).argmin(1) for rows in vectors.split(block)]
        return torch.cat(codes)

    def forward(self, z_e: Tensor) -> Quantized:
        """Quantize z_e (B, D, H, W). In training mode the usage counts, and with EMA the codebook, are updated."""
        if z_e.ndim != 4 or z_e.shape[1] != self.code_dim:
            raise ValueError(f"z_e must be (B, {self.code_dim}, H, W), not {tuple(z_e.shape)}")
        with torch.autocast(z_e.device.type, enabled=False):  # 8 bits of mantissa cannot tell near codes apart
            batch, _, height, width = z_e.shape
            vectors = as_vectors(z_e)  # (N, D), N = B H W
            codes = self.nearest(vectors.detach())  # (N,)
            quantized = F.embedding(codes, self.codebook)  # (N, D)
            codebook_loss = self.codebook_loss(vectors, quantized)
            commitment_loss = self.commitment * F.mse_loss(vectors, quantized.detach())
            uses = self._uses(codes)  # (K,)
            if self.training:
                with torch.no_grad():
                    self.counts.lerp_(uses, 1 - self.decay)
                    self.update_codebook(vectors, codes)
                    if self.restart_below:
                        threshold = self.restart_below * uses.sum() / self.num_codes
                        self._restart_dead_codes(vectors, threshold, height * width)
            z_q = vectors + (quantized - vectors).detach()  # straight-through estimator, section 3.2
            z_q = z_q.view(batch, height, width, self.code_dim).permute(0, 3, 1, 2)  # (B, D, H, W)
        return Quantized(z_q, codes.view(batch, height, width), codebook_loss, commitment_loss, code_perplexity(uses))

    @torch.no_grad()
    def start_from(self, z_e: Tensor, iterations: int = 10) -> None:
        """Set the codebook to the k-means centres of encoder outputs z_e (B, D, H, W), and the counts to 1."""
        vectors = as_vectors(z_e)  # (N, D)
        first = self._random_rows(vectors, z_e[0, 0].numel())
        self._move_codes(torch.ones_like(self.counts, dtype=torch.bool), first, 1.0)
        for _ in range(iterations):
            codes = self.nearest(vectors)
            uses = self._uses(codes)
            centres = self._sum_by_code(vectors, codes) / uses.clamp(min=1)[:, None]
            self._move_codes(uses > 0, centres, 1.0)

    def _restart_dead_codes(self, vectors: Tensor, threshold: Tensor, each: int) -> None:
        # Restarted with twice the threshold: with a decay of 0.95 a code has 14 batches to find use before it is
        # dead again. No branch on the tensor, so that nothing waits for the device.
        self._move_codes(self.counts < threshold, self._random_rows(vectors, each), 2 * threshold)

    def _random_rows(self, vectors: Tensor, each: int) -> Tensor:
        """K of the vectors (N, D), `each` to a picture; without repetition where N allows."""
        count = each * sum(processes.of_all(len(vectors) // each))
        rows = torch.randperm(count, device=vectors.device)[: self.num_codes]
        if len(rows) < self.num_codes:
            rows = torch.randint(count, (self.num_codes,), device=vectors.device)
        return processes.rows_of_whole(vectors, rows, each)

    def _uses(self, codes: Tensor) -> Tensor:
        # Not bincount, for which a GPU has to finish first.
        uses = torch.zeros(self.num_codes, device=codes.device)  # (K,)
        uses.index_add_(0, codes, torch.ones_like(codes, dtype=uses.dtype))
        return processes.summed(uses) if self.training else uses

    def _sum_by_code(self, vectors: Tensor, codes: Tensor) -> Tensor:
        sums = vectors.new_zeros(self.num_codes, self.code_dim)
        return processes.summed(sums.index_add_(0, codes, vectors))  # (K, D)

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

    def __init__(self, num_codes: int, code_dim: int, commitment: float):
        super().__init__(num_codes, code_dim, commitment, decay=0.99)
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

    def __init__(self, num_codes: int, code_dim: int, commitment: float, decay: float = 0.99):
        super().__init__(num_codes, code_dim, commitment, decay)
        self.register_buffer("codebook", torch.randn(num_codes, code_dim))
        self.register_buffer("sums", self.codebook.clone())  # moving average of the sum of each code's vectors

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
