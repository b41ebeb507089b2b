"""Gated PixelCNN: a prior over the code maps of a VQ-VAE, which tells likely maps from unlikely ones and draws new ones.

van den Oord et al., "Conditional Image Generation with PixelCNN Decoders" (2016), arXiv:1606.05328: gated units are
equation 2, the two stacks without a blind spot figure 2 and section 2.2, classes equation 4. A map x of H W codes in
raster order has the probability of equation 1, the product of p(x_i | x_1, ..., x_(i-1), class).

    vertical stack      at row r sees the rows above r, all columns
    horizontal stack    at (r, c) sees the codes left of c in row r and what the vertical stack says of row r

Nothing is masked: kernels are as small as what they may see, and the maps are padded above and on the left. Apart
from the paper: the vertical stack has residual connections, too (without them the deepest layers hear little of the
codes at first), each place of the map has a learnt vector, and whole channels are dropped in training.
"""

import math
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from hw2lib import Problem, processes
from hw2lib.optim import adam, constant, warmup_cosine, with_rate
from hw2lib.training import weights


class CodesError(Problem):
    """Codes, labels or wishes that do not fit the prior."""


class PixelCNNConfig(BaseModel):
    """Everything that changes what is learnt. Where it is computed (device, precision, folders) is not here.

    Each code can depend on all before it if layers * (kernel // 2) is at least max(height, width) - 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_codes: int = Field(512, ge=2, le=65536)  # K
    height: int = Field(8, ge=1, le=2048)  # of the map, in codes
    width: int = Field(8, ge=1, le=2048)
    classes: int = Field(0, ge=0, le=65536)  # 0: unconditional
    class_names: tuple[str, ...] = ()  # as many as classes, or none
    codebook: str = ""  # checksum of the codebook whose codes are learnt, if it is known
    embedding: int = Field(64, ge=1, le=8192)  # numbers that stand for a code at the entrance
    channels: int = Field(64, ge=1, le=8192)  # of each stack
    layers: int = Field(10, ge=1, le=2048)  # 8 x 8 maps are seen whole from 7 on
    kernel: int = Field(3, ge=3, le=99)  # odd; a layer sees kernel // 2 codes to each side
    dropout: float = Field(0.1, ge=0, lt=1)  # share of channels: 50,000 maps are few
    learning_rate: float = Field(6e-3, gt=0, le=10)  # of AdamW, at its peak
    weight_decay: float = Field(0.01, ge=0, le=1e6)  # of the kernels, not of biases and tables
    schedule: Literal["constant", "cosine"] = "cosine"  # cosine: 5 % warm-up, then to 0 at the last step
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _fitting(self):
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, to have a middle, not {self.kernel}")
        if self.class_names and len(self.class_names) != self.classes:
            raise ValueError(f"{len(self.class_names)} class_names for {self.classes} classes")
        return self


def gate(a: Tensor) -> Tensor:
    """tanh(a_f) * sigmoid(a_g) of the two halves of the channels (equation 2): (B, 2 C, H, W) to (B, C, H, W)."""
    features, gates = a.chunk(2, dim=1)
    return torch.tanh(features) * torch.sigmoid(gates)


class GatedLayer(nn.Module):
    """A layer of both stacks (figure 2). The first one, alone, must not see the row (the code) it stands at.

    Shapes: stacks (B, C, H, W), except for the embedded codes that the first layer takes, (B, E, H, W).
    """

    def __init__(self, config: PixelCNNConfig, first: bool):
        super().__init__()
        inputs, channels = config.embedding if first else config.channels, config.channels
        side, here = config.kernel // 2, 0 if first else 1
        self.first = first
        self.above = (side, side, side, here - 1)  # left, right, top, bottom: -1 drops the last row
        self.left = (side, here - 1, 0, 0)
        self.vertical = nn.Conv2d(inputs, 2 * channels, (side + here, config.kernel))
        self.horizontal = nn.Conv2d(inputs, 2 * channels, (1, side + here))
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        # Whole channels: a random number for each element would cost as much as a convolution.
        self.dropout = processes.ChannelDropout(config.dropout)
        if config.classes:  # h one-hot: V h is a bias for each class and layer, and here for each stack
            self.class_bias = nn.Embedding(config.classes, 4 * channels)
            nn.init.zeros_(self.class_bias.weight)

    def down(self, v: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The vertical stack: its next v, (B, C, H, W), and what it tells the horizontal one, (B, 2 C, H, W)."""
        a = self.vertical(F.pad(v, self.above))
        for_v, for_h = 0.0, 0.0
        if labels is not None:
            for_v, for_h = self.class_bias(labels)[:, :, None, None].to(a.dtype).chunk(2, dim=1)
        a = a + for_v
        after = self.dropout(gate(a))
        return after if self.first else v + after, self.across(a) + for_h

    def along(self, h: Tensor, told: Tensor) -> Tensor:
        """The horizontal stack: its next h, (B, C, H, W). Rows do not touch: any of them can be taken alone."""
        a = self.horizontal(F.pad(h, self.left)) + told
        after = self.out(self.dropout(gate(a)))
        return after if self.first else h + after


class GatedPixelCNN(nn.Module):
    """The prior, its training step and its sampler. Its first weights depend on the config alone.

    Codes are whole numbers in [0, K) of any dtype, (B, H, W); labels, (B,), in [0, classes), are given to a
    conditional prior and only to one. CodesError if they do not fit.
    """

    def __init__(self, config: PixelCNNConfig):
        super().__init__()
        self.config = config
        channels = config.channels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.embedding = nn.Embedding(config.num_codes, config.embedding)
            self.place = nn.Parameter(torch.zeros(channels, config.height, config.width))
            self.layers = nn.ModuleList(GatedLayer(config, first=i == 0) for i in range(config.layers))
            self.head = nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(channels, 2 * channels, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(2 * channels, config.num_codes, 1),
            )

    @classmethod
    def load(cls, path) -> "GatedPixelCNN":
        """The prior of a weights file, in eval mode. Raises hw2lib.training.WeightsError."""
        return weights.load(path, cls, PixelCNNConfig)

    def forward(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits (B, K, H, W), float32: those at (r, c) depend on the codes before (r, c) in raster order only."""
        self._check(codes, labels)
        codes, labels = codes.long(), None if labels is None else labels.long()
        return self.head(self._horizontal(codes, self._vertical(codes, labels), slice(None))).float()

    # The sampler calls these two with parts of a map: they are what makes it fast.

    def _vertical(self, codes: Tensor, labels: Tensor | None) -> list[Tensor]:
        """What each layer's vertical stack tells of each row, (B, 2 C, rows, W), for the upper rows of maps."""
        v, told = self.embedding(codes).permute(0, 3, 1, 2), []
        for layer in self.layers:
            v, words = layer.down(v, labels)
            told.append(words)
        return told

    def _horizontal(self, codes: Tensor, told: list[Tensor], rows: slice) -> Tensor:
        """The last features (B, C, rows, columns) of some rows of maps, up to any column."""
        h = self.embedding(codes).permute(0, 3, 1, 2)
        for layer, words in zip(self.layers, told, strict=True):
            h = layer.along(h, words)
            if layer.first:
                h = h + self.place[:, rows, : codes.shape[2]].to(h.dtype)
        return h

    # ---- likelihood

    @torch.no_grad()
    def nll(self, codes: Tensor, labels: Tensor | None = None, batch_size: int = 500) -> Tensor:
        """Negative log-likelihood of each map in nats per code, (B,), float32 on the CPU, without dropout.

        Maps and labels may lie on any device. The mean of what is returned is the nats per code of the set, as all maps
        have equally many; its spread gives the error.
        """
        self._check(codes, labels)
        costs = []
        with self._evaluating():
            for start in range(0, len(codes), batch_size):
                some = codes[start : start + batch_size].to(self.place.device)
                its = None if labels is None else labels[start : start + batch_size].to(self.place.device)
                costs.append(_surprise(self(some, its), some).mean((1, 2)).cpu())
        return torch.cat(costs)

    # ---- sampling

    @torch.no_grad()
    def sample(
        self,
        n: int,
        labels: Tensor | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        given: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """n code maps, int64 (n, H, W), drawn code by code in raster order; the same seed gives the same maps.

        Logits are divided by `temperature`, 1e-6 to 1e6; `top_k` leaves only the most likely codes, 0 leaves all.
        With `given` (n, H, W) and `known` (H, W), bool, known codes stay as given and the others are drawn, each under
        the codes before it, known or drawn: a known code says nothing about those before it.

        Each row of the vertical stack is computed once, and of the horizontal one the present row alone, by the very
        layers that `forward` calls. Its logits are those of `forward` but for rounding, about 1e-5 of their spread:
        with K = 512, about one code in 10,000 is another than a loop over whole maps would draw.
        """
        canvas, known = self._canvas(n, labels, temperature, top_k, given, known)
        labels = None if labels is None else labels.to(canvas.device).long()
        # Chance is drawn at once and on the CPU: the same for any device and whatever is known.
        luck = torch.rand(canvas.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        with self._evaluating():
            for row in range(self.config.height):
                wanted = (~known[row]).nonzero().flatten().tolist()  # columns
                if wanted:
                    told = self._vertical(canvas[:, : row + 1], labels)
                for column in wanted:
                    h = self._horizontal(
                        canvas[:, row : row + 1, : column + 1],
                        [words[:, :, row:, : column + 1] for words in told],
                        slice(row, row + 1),
                    )
                    logits = self.head(h[..., -1:])[:, :, 0, 0]  # (n, K)
                    canvas[:, row, column] = draw(logits, luck[:, row, column], temperature, top_k)
        return canvas

    def _canvas(self, n, labels, temperature, top_k, given, known) -> tuple[Tensor, Tensor]:
        """The maps to begin with, (n, H, W), 0 where nothing is known, and what is known, (H, W) on the CPU."""
        num_codes, shape = self.config.num_codes, (n, self.config.height, self.config.width)
        if not 1e-6 <= temperature <= 1e6:
            raise CodesError(f"temperature {temperature}: give 1e-6 to 1e6 (top_k=1 takes the likeliest code)")
        if not 0 <= top_k <= num_codes:
            raise CodesError(f"top_k {top_k}: give 1 to {num_codes}, or 0 for all codes")
        if (given is None) != (known is None):
            raise CodesError("given and known belong together: the codes, and where they are to stay")
        canvas = torch.zeros(shape, dtype=torch.long, device=self.place.device)
        if given is None:
            self._check(canvas, labels)
            return canvas, torch.zeros(shape[1:], dtype=torch.bool)
        if known.dtype != torch.bool or known.shape != shape[1:]:
            raise CodesError(f"known must be bool {shape[1:]}, not {_kind(known)}")
        if tuple(given.shape) != shape:
            raise CodesError(f"given must be codes {shape}, not {_kind(given)}")
        canvas = torch.where(known.to(canvas.device), given.to(canvas.device).long(), canvas)
        self._check(canvas, labels)
        return canvas, known.cpu()

    # ---- training

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """What a step spends its time in."""
        return (self,)

    def setup(self, fabric, total_steps: int) -> None:
        """Move to fabric's device and make the optimiser and its schedule; call once, before the first step."""
        self.fabric = fabric
        self.to(fabric.device, memory_format=torch.channels_last)
        groups = [
            {"params": [part for part in self.parameters() if (part.ndim == 4) == kernels], "weight_decay": decay}
            for kernels, decay in ((True, self.config.weight_decay), (False, 0.0))
        ]
        optimizer = adam(groups, fabric.device, torch.optim.AdamW, lr=self.config.learning_rate, betas=(0.9, 0.95))
        rate = warmup_cosine(total_steps, total_steps // 20) if self.config.schedule == "cosine" else constant
        self.optimizers, self.schedules = {"network": optimizer}, {"network": with_rate(optimizer, rate)}

    def step(self, batch: tuple[Tensor, Tensor | None]) -> dict[str, Tensor]:
        """One update on (codes, labels) as CodeBatches deals them out; the returned scalars are detached.

        nll in nats per code and bits, the same in bits, are with dropout, before the update; accuracy is the share
        of codes that were the likeliest one.
        """
        codes, labels = batch
        with self.fabric.autocast():
            logits = self(codes, labels)
        nll = _surprise(logits, codes).mean()
        optimizer = self.optimizers["network"]
        optimizer.zero_grad(set_to_none=True)
        nll.backward()
        processes.average_gradients(self.parameters(), len(codes))
        optimizer.step()
        self.schedules["network"].step()
        right = (logits.detach().argmax(1) == codes).float().mean()
        return {"nll": nll.detach(), "bits": nll.detach() / math.log(2), "accuracy": right}

    @contextmanager
    def _evaluating(self):
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    def _check(self, codes: Tensor, labels: Tensor | None) -> None:
        size = (self.config.height, self.config.width)
        if codes.ndim != 3 or tuple(codes.shape[1:]) != size or codes.is_floating_point():
            raise CodesError(f"codes must be whole numbers (B, {size[0]}, {size[1]}), not {_kind(codes)}")
        looks = codes.device.type == "cpu" or not self.training  # in a step a GPU would have to finish first
        if looks:
            _check_range("codes", codes, self.config.num_codes)
        if (labels is None) == bool(self.config.classes):
            raise CodesError(
                "labels are given, and this prior knows no classes"
                if labels is not None
                else f"this prior was trained with {self.config.classes} classes: give a label for each map"
            )
        if labels is not None:
            if labels.shape != codes.shape[:1] or labels.is_floating_point():
                raise CodesError(f"labels must be whole numbers ({len(codes)},), not {_kind(labels)}")
            if looks:
                _check_range("labels", labels, self.config.classes)


def draw(logits: Tensor, luck: Tensor, temperature: float = 1.0, top_k: int = 0) -> Tensor:
    """A code for each row of logits (n, K), int64 (n,) on their device, by inverting the distribution function.

    luck: float64 (n,) on the CPU, uniform in [0, 1). Computed in float64, which not every device has.
    """
    values = logits.cpu().double()
    if top_k:
        best, where = values.topk(top_k)
        values = torch.full_like(values, -math.inf).scatter(1, where, best)
    reached = torch.softmax(values / temperature, 1).cumsum(1)  # (n, K)
    return (reached < luck[:, None] * reached[:, -1:]).sum(1).to(logits.device)


def _surprise(logits: Tensor, codes: Tensor) -> Tensor:
    """-log p of each code in nats, (B, H, W), for logits (B, K, H, W)."""
    rows = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])  # a softmax over neighbours in memory is fast
    return F.cross_entropy(rows, codes.long().flatten(), reduction="none").view(codes.shape)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _check_range(name: str, values: Tensor, count: int) -> None:
    if values.numel():
        low, high = (int(value) for value in values.long().aminmax())
        if not 0 <= low <= high < count:
            raise CodesError(f"{name} must lie in 0 to {count - 1}, not {low} to {high}")
