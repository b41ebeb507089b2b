"""On a device that is not the CPU: every tensor is made where it is used, and no step makes the CPU wait.

There need be no other device: torch's "meta" has tensors without content, which here have one, computed on the CPU. An
operation on tensors of both devices fails, as it would with a GPU, and so does, where steps are taken, one that returns
what the device has to compute first.
"""

import copy
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from hw2lib import optional, recipes
from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data import Batches, CodeBatches, Pairs, toy_domains
from hw2lib.evaluation import codec, likelihoods, new_pictures, translations
from hw2lib.evaluation.judge import Judge, JudgeError
from hw2lib.pixelcnn import GatedPixelCNN, PixelCNNConfig
from hw2lib.studies.travelgan import TravelGAN
from hw2lib.vqvae import VQVAE, VQVAEConfig

FAR = torch.device("meta")
# What returns a number, or a tensor whose size depends on the content.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "bincount", "is_nonzero"}


class Tensor(torch.Tensor):
    """A tensor on the device; `near` is its content."""

    @staticmethod
    def __new__(cls, near):
        layout = {"strides": near.stride(), "storage_offset": near.storage_offset(), "dtype": near.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, near.shape, device=FAR, requires_grad=False, **layout)

    def __init__(self, near):
        self.near = near

    def tolist(self):  # which torch lets no subclass do; `numpy` fails, as on a GPU
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {}, waits=True)


class Elsewhere(TorchDispatchMode):
    """Inside, what is made on the device, or moved to it, is there; with `waits` False nothing may wait for it."""

    def __init__(self, waits=True):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        with self:  # without autograd some come whole, that are made of others
            parts = function.decompose(*args, **kwargs or {})
        return compute(function, args, kwargs or {}, self.waits) if parts is NotImplemented else parts


def compute(function, args, kwargs, waits):
    name, to = function.overloadpacket.__name__, kwargs.get("device")
    to = None if to is None else torch.device(to)
    tensors = []
    tree_map_only(torch.Tensor, tensors.append, (args, kwargs))
    far = [tensor for tensor in tensors if isinstance(tensor, Tensor)]
    moved = name in ("_to_copy", "copy_")
    # A kernel takes a single number of the CPU as a number.
    stray = [tensor for tensor in tensors if not isinstance(tensor, Tensor) and tensor.ndim]
    assert not (far and stray) or moved, f"{name} of a tensor on the device and one on the CPU"
    leaves = moved and far and (to not in (None, FAR) or not isinstance(tensors[0], Tensor))
    arrives = moved and not kwargs.get("non_blocking") and stray and (to == FAR or far)
    chosen = name == "index" and any(tensor.dtype == torch.bool for tensor in tensors[1:])
    assert waits or not (leaves or arrives or (far and (chosen or name in WAITING))), f"{name} waits for the device"
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.near, (args, dict(kwargs)))
    if to == FAR:
        kwargs["device"] = torch.device("cpu")
    result = function(*args, **kwargs)
    if isinstance(result, torch.Tensor) and any(result is near for near in args):
        return tensors[0]  # changed in place
    there = to == FAR if to is not None else bool(far)
    return tree_map_only(torch.Tensor, Tensor, result) if there else result


@pytest.fixture
def elsewhere(monkeypatch):
    """A context in which the device is there, and a machine that computes on it."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows real devices only

    @contextmanager
    def device(waits=True):
        with Elsewhere(waits):
            yield SimpleNamespace(device=FAR, world_size=1, is_global_zero=True, autocast=nullcontext)

    return device


def random(high, *shape, seed=7):
    return torch.randint(0, high, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


TRANSLATOR = {"size": 32, "base_channels": 2, "blocks": 1, "pool_size": 3}
CODEC = VQVAEConfig(size=16, hidden_channels=8, residual_channels=4, num_codes=16, code_dim=4)
PRIOR = PixelCNNConfig(num_codes=16, height=4, width=4, embedding=6, channels=8, layers=2, classes=2)


def pairs():
    return Pairs(random(256, 6, 3, 36, 36), random(256, 5, 3, 36, 36, seed=8), 32, 0, batch_size=2)


def pictures():
    return Batches(random(256, 40, 3, 16, 16), 16, 0)


STEPS = {
    "cyclegan": (CycleGAN, CycleGANConfig(**TRANSLATOR, ema_decay=0.9, identity_weight=0.5), pairs),
    "cyclegan, unet": (CycleGAN, CycleGANConfig(**TRANSLATOR, generator="unet", discriminator="picture"), pairs),
    "travelgan": (TravelGAN, CycleGANConfig(**TRANSLATOR), pairs),
    "vqvae": (VQVAE, CODEC, pictures),
    "vqvae, gradient": (VQVAE, CODEC.model_copy(update={"codebook": "gradient"}), pictures),
    "pixelcnn": (GatedPixelCNN, PRIOR, lambda: CodeBatches(random(16, 20, 4, 4).int(), torch.arange(20) % 2, 8, 0)),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_never_waits(name, elsewhere, machine):
    """Nor does the dealing of its batch, once the arrays are there; its numbers are those of the CPU."""
    kind, config, deal = STEPS[name]
    model, near = kind(config), kind(config)
    near.setup(machine(), 4)
    near.train()
    with elsewhere() as far:
        model.setup(far, 4)
        model.train()
        batches = deal()(0, device=FAR)
        first = next(batches)
        for number, expected in enumerate(deal()(0)):
            torch.manual_seed(number)
            losses = near.step(expected)
            torch.manual_seed(number)
            # K-means, once at the start, may wait.
            with elsewhere(waits=number == 0):
                found = model.step(next(batches) if number else first)
            assert {value.device for value in found.values()} == {FAR}
            for term, value in losses.items():
                assert float(found[term]) == pytest.approx(float(value), rel=1e-4, abs=1e-5), term
            if number == 1:
                break


@pytest.mark.parametrize("spoilt", ["waits", "mixes"])
def test_a_fault_would_be_found(spoilt, elsewhere, monkeypatch):
    """A step that asks for a number, and one that makes a tensor on the CPU, fail here as on a GPU."""
    step = VQVAE.to_network
    wrong = {
        "waits": lambda batch: step(batch) * float(batch.float().mean()),
        "mixes": lambda batch: step(batch) * torch.ones(16),
    }
    monkeypatch.setattr(VQVAE, "to_network", staticmethod(wrong[spoilt]))
    with elsewhere(waits=False) as far:
        model = VQVAE(CODEC)
        with elsewhere():
            model.setup(far, 4)
            batch = next(pictures()(0, device=FAR))
        with pytest.raises(AssertionError, match={"waits": "waits for the device", "mixes": "one on the CPU"}[spoilt]):
            model.train().step(batch)


def on(model, far):
    model.setup(far, 4)
    return model.eval()


def test_evaluation_and_sampling_mix_no_devices(elsewhere, tmp_path):
    """What is measured after each epoch and drawn after the training comes to the CPU, and is what a CPU computes."""
    domains = toy_domains(32, train=3, test=5)
    drawn = random(256, 9, 3, 16, 16)
    translator, autoencoder = CycleGAN(CycleGANConfig(**TRANSLATOR, ema_decay=0.9)), VQVAE(CODEC)
    prior = GatedPixelCNN(PRIOR.model_copy(update={"class_names": ("one", "two")}))
    codes = codec.encode_pictures(autoencoder.eval(), drawn)
    labels = torch.arange(len(codes)) % 2
    sets = SimpleNamespace(
        train=codes, held_out=codes[:4], test=codes[4:8], in_order=codes,
        train_labels=labels, held_out_labels=labels[:4], test_labels=labels[4:8],
    )  # fmt: skip

    def scores(translator, autoencoder, prior, folder):
        folder.mkdir()
        yield translations.Examiner(translator, domains, None)(folder, 1)
        yield codec.evaluate_vqvae(autoencoder, drawn)
        yield {"error": float(codec.squared_error_by_picture(autoencoder, drawn).sum())}
        yield likelihoods.examine(prior, sets, folder, 1)
        yield {name: row["nats"] for name, row in likelihoods.likelihoods(prior, sets)["rows"].items()}
        yield {name: its["kl"] for name, its in likelihoods.identities(prior, sets).items()}
        maps = prior.sample(4, labels[:4], given=codes[:4], known=torch.arange(16).view(4, 4) < 6)
        yield {"drawn": float(new_pictures.decode_pictures(autoencoder, maps).double().mean())}
        yield {"rows": float(new_pictures.class_rows(autoencoder, prior, 2, 0)["one"].double().mean())}
        assert len(recipes.codebook_checksum(autoencoder)) == 16

    with elsewhere() as far:
        models = [on(copy.deepcopy(model), far) for model in (translator, autoencoder, prior)]
        found = list(scores(*models, tmp_path / "far"))
    for model in (translator, autoencoder, prior):
        model.fabric, model.both = SimpleNamespace(is_global_zero=True, autocast=nullcontext), map
    for ours, theirs in zip(scores(translator, autoencoder, prior.eval(), tmp_path / "near"), found, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)


def test_the_judge_mixes_no_devices(elsewhere):
    """It looks at pictures of the CPU from the device, and its looks are on the CPU."""
    optional("efficientnet_lite_pytorch", "the judge", JudgeError)
    with elsewhere():
        looks = Judge(FAR).look(random(256, 2, 3, 32, 32))
    assert {looks.features.device.type, looks.probabilities.device.type} == {"cpu"}
    torch.testing.assert_close(looks.probabilities, Judge("cpu").look(random(256, 2, 3, 32, 32)).probabilities)
