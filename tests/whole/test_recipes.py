"""Checked parameters in, a trained run out: what is asked for is what is trained, once, and chosen honestly."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml

from hw2lib import ROOT, parameters, recipes
from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data import Pictures, toy_domains
from hw2lib.data.pictures import checksum
from hw2lib.parameters import CycleGANParameters, ParameterError, VQVAEParameters
from hw2lib.pixelcnn import CodesError, GatedPixelCNN, PixelCNNConfig
from hw2lib.training import Run, machine
from hw2lib.vqvae import VQVAE, VQVAEConfig

SIZES = {"size": 32, "base_channels": 2}
SMALL = CycleGANConfig(**SIZES, blocks=1)
# The smallest VQ-VAE: 8 x 8 pixels, maps of 2 x 2 codes.
K = 8


# ---- what is asked for


def test_parameters_come_from_the_notebook_as_numbers():
    """Strings that papermill passes become numbers and truth values; other names of the notebook are left alone."""
    namespace = {"epochs": "3", "kmeans_init": "false", "learning_rate": "1e-4", "something": 1, "In": [""]}
    asked = parameters.check(VQVAEParameters, namespace)
    assert (asked.epochs, asked.kmeans_init, asked.learning_rate) == (3, False, 1e-4)


@pytest.mark.parametrize(
    ("namespace", "message"),
    [
        ({"epochs": "abc"}, "epochs: input should be a valid integer, .*not 'abc'"),
        ({"epochs": 0}, "epochs: input should be greater than or equal to 1, not 0"),
        ({"device": "gpu"}, "device: input should be 'auto', 'cpu', 'cuda' or 'mps', not 'gpu'"),
        ({"In": ["# Parameters\nepoch = 3\n"]}, "no parameter epoch: did you mean epochs?"),
    ],
)
def test_wrong_parameters_are_one_line(namespace, message):
    """A wrong value, and a name that papermill injected but no parameter has, are one line each."""
    with pytest.raises(ParameterError, match=message) as caught:
        parameters.check(VQVAEParameters, namespace)
    assert "\n" not in str(caught.value)
    assert caught.value._render_traceback_() == [f"ParameterError: {caught.value}"]


def test_changes_on_the_command_line_are_checked():
    """name=value pairs are applied over a preset; a wrong form and an unknown name are one line each."""
    assert parameters.given(VQVAEParameters, {"epochs": 5}, ("epochs=7",)).epochs == 7
    with pytest.raises(ParameterError, match="epochs must look like epochs=3"):
        parameters.given(VQVAEParameters, {}, ("epochs",))
    with pytest.raises(ParameterError, match="did you mean batch_size"):
        parameters.given(VQVAEParameters, {"batchsize": 5})


@pytest.mark.parametrize(
    ("setup", "asked", "message"),
    [
        (recipes.cyclegan_setup, CycleGANParameters(objective="wgan"), "objective: input should be 'least_squares', "),
        (recipes.cyclegan_setup, CycleGANParameters(size=66), "size: input should be a multiple of 4, not 66"),
        (recipes.vqvae_setup, VQVAEParameters(size=30), "size: input should be a multiple of 4, not 30"),
    ],
)
def test_a_wrong_config_stops_before_the_pictures(setup, asked, message, monkeypatch):
    """A value that only the network's config refuses is one line, said before any picture is loaded."""
    for loader in ("load", "domains"):
        monkeypatch.setattr(recipes, loader, lambda *_: pytest.fail("loaded pictures"))
    with pytest.raises(ParameterError, match=message) as caught:
        setup(asked)
    assert "\n" not in str(caught.value)


SETUPS = {CycleGANParameters: recipes.cyclegan_setup, VQVAEParameters: recipes.vqvae_setup}


@pytest.mark.parametrize(
    ("kind", "asked", "fits"),
    [
        (CycleGANParameters, {"size": 256, "base_channels": 64}, True),
        (CycleGANParameters, {"size": 256, "base_channels": 64, "batch_size": 64}, False),
        (CycleGANParameters, {"size": 256, "base_channels": 512}, False),
        (CycleGANParameters, {"size": 256, "pool_size": 20_000}, False),
        (VQVAEParameters, {"batch_size": 256, "prior_channels": 64, "experiments": "run"}, True),
        (VQVAEParameters, {"size": 256, "batch_size": 1, "experiments": "published"}, True),
        (VQVAEParameters, {"size": 256, "batch_size": 1, "experiments": "run"}, False),  # for the prior
        (VQVAEParameters, {"size": 256, "batch_size": 256}, False),
    ],
)
def test_what_does_not_fit_into_memory_is_said_before_the_pictures(kind, asked, fits, tmp_path, monkeypatch):
    """On a CPU with 8 GB: the paper's sizes fit, larger batches, pools and networks do not."""
    asked = kind(**asked, device="cpu", precision="32", runs=str(tmp_path))
    monkeypatch.setattr(recipes, "memory_there", lambda cuda: 8 * 10**9)
    for loader in ("load", "domains"):
        monkeypatch.setattr(
            recipes, loader, lambda *_: SimpleNamespace(variance=0.1) if fits else pytest.fail("loaded")
        )
    if fits:
        SETUPS[kind](asked)
    else:
        with pytest.raises(ParameterError, match=r"takes about [\d.,]+ GB of memory, and here are 8.0: lower .*size"):
            SETUPS[kind](asked)


def test_the_memory_of_a_step_is_counted(monkeypatch):
    """Weights four times, for gradients and Adam, and what a picture takes times the batch, twice on a CPU."""
    monkeypatch.setattr(recipes, "memory_there", lambda cuda: 0)

    def gigabytes(batch_size, **wishes):
        config = VQVAEConfig(size=256, hidden_channels=1024, **wishes)
        with pytest.raises(ParameterError) as caught:
            asked = VQVAEParameters(device="cpu", precision="32")
            recipes.require_memory(VQVAE, config, batch_size, asked, "")
        return float(str(caught.value).split("about ")[1].split(" GB")[0].replace(",", ""))

    network = VQVAE(VQVAEConfig(size=256, hidden_channels=1024))
    none, some, many = (gigabytes(batch) for batch in (0, 40, 80))
    learnt = sum(part.nbytes for part in network.parameters())
    assert none == pytest.approx((4 * learnt + sum(part.nbytes for part in network.buffers())) / 1e9, abs=0.06)
    assert many - none == pytest.approx(2 * (some - none), abs=0.2)
    # Of each picture at least its largest map, (512, 128, 128), in encoder and in decoder.
    assert many - none > 80 * 2 * 2 * 512 * 128 * 128 * 4 / 1e9


def test_each_of_several_gpus_holds_a_share(monkeypatch):
    """What does not fit into one GPU may fit into four."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=16 * 10**9))
    config = CycleGANConfig(size=256)
    four = CycleGANParameters(size=256, batch_size=32, devices=4, precision="32")
    recipes.require_memory(CycleGAN, config, 32, four, "")
    with pytest.raises(ParameterError, match=r"here are 16\.0"):
        recipes.require_memory(CycleGAN, config, 32, four.model_copy(update={"devices": 1}), "")


def test_this_machine_has_some_memory():
    """Not none, and not that of all machines together, as a container without a limit reports it."""
    assert 10**8 < recipes.memory_there(cuda=False) < 10**14


@pytest.mark.parametrize("preset", ["smoke", "quick", "cpu", "full"])
def test_every_preset_has_networks_and_pictures(preset, monkeypatch):
    """A preset's values reach the networks' config and the loader of its pictures."""
    asked_for = []
    monkeypatch.setattr(recipes, "domains", lambda *wanted: asked_for.append(wanted))
    values = yaml.safe_load((ROOT / "notebooks" / "presets" / preset / "01_cyclegan.yaml").read_text())
    asked = parameters.given(CycleGANParameters, values, ("data_root=/somewhere",))
    config, _ = recipes.cyclegan_setup(asked)
    assert asked_for == [(values["dataset"], values["size"], "/somewhere")]
    shared = set(values) & set(CycleGANConfig.model_fields)
    assert {"size", "base_channels"} <= shared
    assert all(getattr(config, name) == values[name] for name in shared)


@pytest.mark.parametrize(("epochs", "allowed"), [(20, [0, 1, 10, 20]), (5, [0, 2, 5]), (1, [0, 1])])
def test_runs_can_be_compared(epochs, allowed):
    """The run with the identity loss is as long as the other, or ends while the rate is constant in both."""
    for identity_epochs in range(epochs + 2):
        asked = {"epochs": epochs, "identity_epochs": identity_epochs}
        if identity_epochs <= epochs // 2 or identity_epochs == epochs:
            assert parameters.make(CycleGANParameters, asked).identity_epochs == identity_epochs
        else:
            assert identity_epochs not in allowed
            with pytest.raises(ParameterError, match=f"must be epochs, {epochs}, or at most") as caught:
                parameters.make(CycleGANParameters, asked)
            assert "\n" not in str(caught.value)


def test_a_run_with_the_identity_loss_needs_one_without():
    """A second run with the identity loss makes no sense beside a first one that has it."""
    with pytest.raises(ParameterError, match="beside one with identity_weight 0"):
        parameters.make(CycleGANParameters, {"epochs": 4, "identity_epochs": 2, "identity_weight": 0.5})


# ---- CycleGAN


@pytest.fixture(scope="module")
def toy():
    """Drawn domains with 6 test pairs."""
    return toy_domains(32, train=3, test=6)


def short(tmp_path, **wishes):
    options = {"experiments": "run", "epochs": 2, "device": "cpu", "precision": "32"}
    return CycleGANParameters(**SIZES, **options, runs=str(tmp_path), **wishes)


def test_where_the_truth_is_known_there_is_no_judge(toy, monkeypatch):
    """The judge of photographs is asked about photographs only."""
    monkeypatch.setattr(recipes, "Judge", lambda device: f"the judge on {device}")
    asked = CycleGANParameters(device="cpu")
    assert recipes.judge_for(toy, asked) is None
    assert recipes.judge_for(replace(toy, aligned=False, masks=None), asked) == "the judge on cpu"


def test_the_run_of_the_report(toy, tmp_path):
    """The run has a row of scores and a strip for each epoch, and a second call loads it."""
    first, again = CycleGAN(SMALL), CycleGAN(SMALL)
    run = recipes.train_cyclegan(first, toy, None, short(tmp_path))
    assert run.folder.name.startswith("cyclegan-")
    assert run.history["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert {"last_truth_ab", "average_background_ba"} < set(run.epochs)
    assert len(run.epochs["step"]) == 2
    strips = sorted(path.name for path in (run.folder / "translations").glob("*"))
    assert strips == ["epoch-001.webp", "epoch-002.webp"]
    assert run.provenance["data"] == toy.description
    assert recipes.train_cyclegan(again, toy, None, short(tmp_path)).folder == run.folder
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize(("identity_epochs", "decay_share"), [(1, 0.0), (2, 0.5)])
def test_the_run_with_the_identity_loss(toy, tmp_path, identity_epochs, decay_share):
    """It has the identity loss, lasts as long as asked for, and its rates are the long run's up to there."""
    run = recipes.cyclegan_with_identity(SMALL, toy, None, short(tmp_path, identity_epochs=identity_epochs))
    assert run.folder.name.startswith("cyclegan-identity-")
    changed = {"identity_weight": 0.5, "decay_share": decay_share}
    assert run.config["model"] == SMALL.model_dump(mode="json") | changed
    assert run.history["step"].tolist() == list(range(1, 3 * identity_epochs + 1))
    assert {"identity_a", "identity_b"} < set(run.history)
    rates = []
    for model, steps in ((CycleGAN(SMALL), 6), (CycleGAN.load(run.weights), 3 * identity_epochs)):
        model.setup(machine("cpu", "32"), steps)
        rates.append([model.schedules["generators"].lr_lambdas[0](n) for n in range(3 * identity_epochs)])
    assert rates[0] == rates[1]


def test_other_trainings_differ_by_their_seed_or_length_alone(toy, tmp_path):
    """The second has the next seed in networks and batches, the third twice the steps; they are made only where asked for."""
    for train in (recipes.cyclegan_again, recipes.cyclegan_longer):
        assert train(SMALL, toy, None, short(tmp_path)) is None
    first = recipes.train_cyclegan(CycleGAN(SMALL), toy, None, short(tmp_path)).config
    again = recipes.cyclegan_again(SMALL, toy, None, short(tmp_path, again=True))
    assert again.folder.name.startswith("cyclegan-again-")
    assert again.config == first | {part: first[part] | {"seed": 1} for part in ("model", "batches")}
    longer = recipes.cyclegan_longer(SMALL, toy, None, short(tmp_path, again=True)).config
    assert longer == first | {"steps": 2 * first["steps"]}


def test_numbers_of_the_identity_run_are_enough(toy, tmp_path, capsys):
    """Its network is not needed afterwards: without it a finished run is loaded all the same."""
    asked = short(tmp_path, identity_epochs=1)
    recipes.cyclegan_with_identity(SMALL, toy, None, asked).weights.unlink()
    capsys.readouterr()
    again = recipes.cyclegan_with_identity(SMALL, toy, None, asked)
    assert "finished on" in capsys.readouterr().out
    assert again.history["step"].tolist() == [1, 2, 3]


# ---- codes and their prior


@pytest.fixture
def model():
    sizes = {"size": 8, "hidden_channels": 4, "residual_channels": 2, "residual_blocks": 1}
    return VQVAE(VQVAEConfig(**sizes, num_codes=K, code_dim=3)).eval()


@pytest.fixture
def pictures():
    chance = torch.Generator().manual_seed(0)
    train, test = (torch.randint(256, (count, 3, 8, 8), generator=chance, dtype=torch.uint8) for count in (60, 20))
    labels = torch.arange(60).remainder(2).to(torch.uint8)
    return Pictures("noise", train, test, checksum(train, test), ("horse", "zebra"), labels, labels[:20])


@pytest.fixture
def run(tmp_path):
    return Run("vqvae", {}, tmp_path)


@pytest.fixture
def sets(model, pictures, run):
    return recipes.code_sets(model, pictures, run)


def wishes(tmp_path, **more):
    return VQVAEParameters(runs=str(tmp_path), device="cpu", prior_channels=4, **more)


def new_prior(model):
    config = {"num_codes": K, "height": 2, "width": 2, "codebook": recipes.codebook_checksum(model)}
    return GatedPixelCNN(PixelCNNConfig(**config, classes=2, channels=4, embedding=4, layers=2))


def test_the_prior_fits_its_network(model, pictures, run, tmp_path):
    """Map, codes and classes of the prior are those of the network and the pictures, if any; large maps are seen whole."""
    config = recipes.prior_config(model, pictures, wishes(tmp_path))
    assert (config.num_codes, config.height, config.width) == (K, 2, 2)
    assert config.class_names == ("horse", "zebra")
    large = SimpleNamespace(config=VQVAEConfig(size=64), quantizer=model.quantizer)
    assert recipes.prior_config(large, pictures, wishes(tmp_path)).layers >= 15
    plain = replace(pictures, classes=(), train_labels=None, test_labels=None)
    found = recipes.code_sets(model, plain, run)
    assert found.train_labels is found.held_out_labels is found.test_labels is None
    config = recipes.prior_config(model, plain, wishes(tmp_path))
    assert (config.classes, config.class_names) == (0, ())


def test_a_foreign_prior_is_refused(model):
    """Another map, another K and another codebook of the same size are each said in one line."""
    network = new_prior(model)
    recipes.require_match(network, model)
    for wrong in ({"num_codes": 9}, {"height": 3}):
        config = {"num_codes": K, "height": 2, "width": 2} | wrong
        with pytest.raises(CodesError, match="the VQ-VAE has 2 x 2 of 8"):
            recipes.require_match(GatedPixelCNN(PixelCNNConfig(layers=1, **config)), model)
    with torch.no_grad():
        model.quantizer.codebook.neg_()
    with pytest.raises(CodesError, match="codes of another VQ-VAE"):
        recipes.require_match(network, model)


def test_held_out_maps_choose_the_epoch(model, sets, tmp_path, monkeypatch):
    """The weights are those after the epoch with the least held-out cost, whatever the test maps say."""
    planned = {"train": [3.0, 2.0, 1.0], "held_out": [2.0, 1.0, 1.5], "test": [1.0, 2.0, 0.5]}
    asks, states = iter([(name, n) for n in range(3) for name in planned]), []

    def costs(self, codes, labels):
        name, epoch = next(asks)
        assert len(codes) == {"train": 6, "held_out": 6, "test": 20}[name]
        if name == "train":
            states.append({key: value.clone() for key, value in self.state_dict().items()})
        return torch.full((len(codes),), planned[name][epoch])

    monkeypatch.setattr(GatedPixelCNN, "nll", costs)
    network, again = new_prior(model), new_prior(model)
    run = recipes.train_prior(network, sets, wishes(tmp_path, prior_epochs=3))
    assert run.epochs["held_out_nll"].tolist() == planned["held_out"]
    assert all(torch.equal(value, states[1][name]) for name, value in network.state_dict().items())
    assert not all(torch.equal(value, states[2][name]) for name, value in network.state_dict().items())
    # Finished: loads the chosen ones again.
    recipes.train_prior(again, sets, wishes(tmp_path, prior_epochs=3))
    assert all(torch.equal(value, states[1][name]) for name, value in again.state_dict().items())
