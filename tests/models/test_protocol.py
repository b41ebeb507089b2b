"""What the training loop, weights files and users rely on, for all three models: config, setup, step, state, resume."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from hw2lib import training
from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data import Batches, CodeBatches, Pairs
from hw2lib.pixelcnn import GatedPixelCNN, PixelCNNConfig
from hw2lib.training import WeightsError, weights
from hw2lib.vqvae import VQVAE, VQVAEConfig


def random(high, *shape, seed=7):
    return torch.randint(0, high, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def pairs(batch_size):
    return lambda: Pairs(random(256, 6, 3, 36, 36), random(256, 5, 3, 36, 36, seed=8), 32, 0, batch_size)


TRANSLATOR = {"size": 32, "base_channels": 2, "blocks": 1, "pool_size": 3}
CODEC = {"size": 16, "hidden_channels": 8, "residual_channels": 4, "num_codes": 16, "code_dim": 4}
PRIOR = {"num_codes": 11, "height": 4, "width": 5, "embedding": 6, "channels": 8, "layers": 2}
TERMS = {
    "cyclegan": "g_ab cycle_a d_b_fresh identity_b g_ba cycle_b d_a_fresh identity_a d_a d_a_real d_a_fake d_b d_b_real d_b_fake",
    "vqvae": "reconstruction mse codebook commitment vq perplexity",
    "pixelcnn": "nll bits accuracy",
}


def case(model, config, batches, precision="32", threads=1):
    return SimpleNamespace(model=model, config=config, batches=batches, precision=precision, threads=threads)


# Each has what makes resuming hard: pools, averages, moving codebooks, restarts, dropout; some bf16 and two threads.
CASES = {
    "cyclegan": case(CycleGAN, CycleGANConfig(**TRANSLATOR, ema_decay=0.9, identity_weight=0.5), pairs(1)),
    "cyclegan, bf16": case(CycleGAN, CycleGANConfig(**TRANSLATOR), pairs(1), "bf16", 2),
    "vqvae": case(VQVAE, VQVAEConfig(**CODEC), lambda: Batches(random(256, 40, 3, 16, 16), 16, 0), "bf16"),
    "vqvae, gradient": case(
        VQVAE, VQVAEConfig(**CODEC, codebook="gradient"), lambda: Batches(random(256, 40, 3, 16, 16), 16, 0)
    ),
    "pixelcnn": case(
        GatedPixelCNN,
        PixelCNNConfig(**PRIOR, classes=3),
        lambda: CodeBatches(random(11, 20, 4, 5).int(), torch.arange(20) % 3, 8, 0),
    ),
}
every_case = pytest.mark.parametrize("name", CASES)
one_of_each = pytest.mark.parametrize("name", TERMS)


def fit(name, folder, epochs=2):
    its = CASES[name]
    model = its.model(its.config)
    run = training.fit(
        model,
        its.batches(),
        name="small",
        epochs=epochs,
        evaluate=lambda folder, epoch: {"weight": float(next(model.parameters()).double().sum())},
        device="cpu",
        precision=its.precision,
        runs=folder,
    )
    return run, model


def contents(run):
    """What must be equal between an interrupted and an uninterrupted run."""
    return {name: (run.folder / name).read_bytes() for name in ("history.csv", "epochs.csv", "weights.safetensors")}


def same(one, other):
    return set(one) == set(other) and all(torch.equal(value, other[key]) for key, value in one.items())


# ---- config


@one_of_each
def test_the_config_is_whole(name):
    """It is equal to what is read back from its JSON, cannot be changed, and knows no other names."""
    config = CASES[name].config
    assert type(config).model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError):
        config.seed = 3
    with pytest.raises(ValidationError, match="bas_channels"):
        type(config)(bas_channels=8)


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        (VQVAEConfig, {"commitment": -1}),
        (VQVAEConfig, {"size": 30}),
        (VQVAEConfig, {"decay": 1}),
        (PixelCNNConfig, {"kernel": 4}),
        (PixelCNNConfig, {"kernel": 1}),
        (PixelCNNConfig, {"dropout": 1}),
    ],
)
def test_a_value_out_of_range_is_refused(config, wrong):
    """The error names the field. (What CycleGANConfig says is in test_cyclegan.)"""
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        config(**wrong)


@every_case
def test_first_weights_depend_on_the_config_alone(name):
    """Models of one config are equal and leave torch's chance alone; another seed is another model in every kernel."""
    its = CASES[name]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = its.model(its.config).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(one, its.model(its.config).state_dict())
    other = its.model(its.config.model_copy(update={"seed": 1})).state_dict()
    kernels = [key for key, value in one.items() if value.ndim == 4]
    assert kernels and not any(torch.equal(one[key], other[key]) for key in kernels)


# ---- steps


@every_case
def test_a_step_returns_finite_scalars_and_learns(name):
    """Its terms are detached, finite and the same at each step; optimisers have schedules; weights move."""
    its = CASES[name]
    model = its.model(its.config)
    model.setup(training.machine("cpu", its.precision), total_steps=8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = TERMS[name.split(",")[0]].split()
    if not getattr(its.config, "identity_weight", 1):
        expected = [term for term in expected if not term.startswith("identity")]
    model.train()
    for batch in its.batches()(0):
        terms = model.step(batch)
        assert list(terms) == expected
        assert all(value.shape == () and value.isfinite() and not value.requires_grad for value in terms.values())
    assert set(model.optimizers) == set(model.schedules)
    assert {schedule.last_epoch for schedule in model.schedules.values()} == {len(its.batches())}
    after = model.state_dict()
    trained = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    kernels = [key for key in trained if before[key].ndim == 4]
    assert kernels and not any(torch.equal(before[key], after[key]) for key in kernels)


# ---- trainings


@every_case
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_interrupted_it_resumes_to_the_same_bits(name, how, tmp_path, monkeypatch, threads):
    """Stopped within an epoch, or broken off in the middle of a step after one, it ends as an unbroken training."""
    its = CASES[name]
    steps = len(its.batches())
    stop_at = {"stopped": 2, "killed": steps + 2}[how]
    with threads(its.threads):
        torch.manual_seed(1)
        whole, model = fit(name, tmp_path / "whole")
        step, taken = its.model.step, []

        def interrupted(self, batch):
            taken.append(1)
            if len(taken) == stop_at and how == "stopped":
                os.kill(os.getpid(), signal.SIGTERM)
            losses = step(self, batch)
            if len(taken) == stop_at and how == "killed":
                raise KeyboardInterrupt
            return losses

        monkeypatch.setattr(its.model, "step", interrupted)
        with pytest.raises(training.Stopped if how == "stopped" else KeyboardInterrupt):
            fit(name, tmp_path / "broken")
        torch.manual_seed(2)
        run, resumed = fit(name, tmp_path / "broken")
    assert contents(run) == contents(whole)
    assert [found["step"] for found in run.provenance["resumed"]] == [steps if how == "killed" else stop_at]
    for key, optimizer in model.optimizers.items():
        ours, theirs = (one.state_dict()["state"] for one in (optimizer, resumed.optimizers[key]))
        assert all(same(state, theirs[number]) for number, state in ours.items())


# ---- weights on disk


@every_case
def test_weights_round_trip(name, tmp_path):
    """A trained model comes back from its run bit for bit, in eval mode, with its config and all that it keeps."""
    run, model = fit(name, tmp_path, epochs=1)
    again = CASES[name].model.load(run.weights)
    assert again.config == model.config
    assert not again.training
    assert same(model.state_dict(), again.state_dict())


@one_of_each
def test_bad_weights_are_refused_in_one_line(name, tmp_path):
    """A missing, a torn, a foreign and an incomplete file each give one line that names the file."""
    its = CASES[name]
    model = its.model(its.config)
    weights.save(model, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    save_file({"x": torch.zeros(1)}, tmp_path / "unknown.safetensors")
    other = nn.Linear(1, 1)
    other.config = model.config
    weights.save(other, tmp_path / "foreign.safetensors")
    first = next(iter(model.state_dict()))
    weights.save(model, tmp_path / "incomplete.safetensors", without=(first,))
    (tmp_path / "torn.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "words.safetensors").write_bytes(b"not weights")
    for kind, message in {
        "missing": f"is missing: {its.model.__name__}.load needs",
        "torn": "is no readable weights file of",
        "words": "is no readable weights file of",
        "unknown": f"holds an unknown model, not {its.model.__name__}",
        "foreign": f"holds Linear, not {its.model.__name__}",
        "incomplete": f"tensors missing: \\['{first}'",
    }.items():
        path = tmp_path / f"{kind}.safetensors"
        with pytest.raises(WeightsError, match=message) as caught:
            its.model.load(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
