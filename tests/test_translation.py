"""What is measured on translators: known pictures have known numbers, perfect translators perfect ones."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from hw2lib import ROOT, parameters, recipes
from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data import unpaired
from hw2lib.evaluation import scorecards as verdicts
from hw2lib.evaluation import translations as translation
from hw2lib.evaluation.judge import Looks, kernel_distance
from hw2lib.evaluation.translations import Examiner, colour_shift, difference, translate
from hw2lib.networks import ResnetGenerator
from hw2lib.parameters import CycleGANParameters
from hw2lib.training import devices
from hw2lib.training.runs import Run

SIZES = {"size": 32, "base_channels": 2}
SMALL = SIZES | {"blocks": 1}


@pytest.fixture(scope="module")
def toy():
    """Drawn domains with 6 test pairs."""
    return unpaired.toy_domains(32, train=3, test=6)


@pytest.fixture
def model(toy):
    """A model whose averages differ from its generators."""
    model = CycleGAN(CycleGANConfig(**SMALL, ema_decay=0.9, learning_rate=0.01))
    model.setup(devices.machine("cpu", "32"), total_steps=20)
    for _ in range(3):
        model.step((toy.test_a[:1], toy.test_b[:1]))
    return model.eval()


# ---- differences


def test_differences_of_known_pictures():
    """Black and white are 2 apart, 10 and 20 are 10/127.5, in either order: bytes do not wrap round."""
    black, white = (
        torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        torch.full((2, 3, 4, 4), 255, dtype=torch.uint8),
    )
    assert difference(black, white) == difference(white, black) == 2
    assert difference(black + 10, black + 20) == difference(black + 20, black + 10) == pytest.approx(10 / 127.5)
    assert difference(white, white) == 0


def test_a_mask_says_where_to_look(pictures):
    """With a mask only pixels where it is True count, in all colours: NumPy finds the same in float64."""
    one, other = pictures[:4], pictures[4:8]
    mask = torch.rand(4, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.2
    apart = np.abs(one.numpy().astype(float) - other.numpy().astype(float)) / 127.5
    where = np.broadcast_to(mask.numpy()[:, None], apart.shape)
    assert difference(one, other, mask) == pytest.approx(apart[where].mean(), rel=1e-12)
    assert difference(one, other) == pytest.approx(apart.mean(), rel=1e-12)
    changed = torch.where(mask[:, None], one, other)
    assert difference(one, changed, mask) == 0


def test_a_colour_shift_is_one_of_the_mean_colour(pictures):
    """Moved pixels shift no colour; 51 more red is 51/127.5 in one of three; opposite shifts add up."""
    dim = pictures[:2] // 2
    assert colour_shift(dim, dim.flip(3)) == pytest.approx(0, abs=1e-12)
    assert difference(dim, dim.flip(3)) > 0.1
    redder = dim.clone()
    redder[:, 0] += 51
    assert colour_shift(redder, dim) == pytest.approx(51 / 127.5 / 3)
    opposite = redder.clone()
    opposite[1] = dim[1]
    assert colour_shift(opposite, torch.stack([dim[0], redder[1]])) == pytest.approx(51 / 127.5 / 3)


# ---- translations


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_translations_do_not_depend_on_the_batches(pictures, batch_size):
    """However pictures are cut into batches, each becomes, to rounding, what it becomes alone."""
    torch.manual_seed(0)
    generator = ResnetGenerator(2, 1)
    found = translate(generator, pictures[:7], batch_size=batch_size)
    with torch.no_grad():
        alone = [CycleGAN.to_pictures(generator(CycleGAN.to_network(p[None]))) for p in pictures[:7]]
    assert found.shape == (7, 3, 32, 32)
    assert found.dtype == torch.uint8
    apart = (found.int() - torch.cat(alone).int()).abs()
    assert apart.max() <= 1
    assert apart.float().mean() < 1e-3


def test_translating_computes_in_the_context_it_is_given(pictures):
    """Generators run without gradients, inside the given context, and what they give becomes bytes again."""
    seen = []

    @contextmanager
    def bf16():
        with torch.autocast("cpu", torch.bfloat16):
            yield

    generator = ResnetGenerator(2, 1)
    generator.register_forward_hook(
        lambda _, inputs, y: seen.append((torch.is_autocast_enabled("cpu"), y.requires_grad))
    )
    plain, rounded = translate(generator, pictures[:4]), translate(generator, pictures[:4], bf16)
    assert seen == [(False, False), (True, False)]
    assert 0 < difference(plain, rounded) < 0.02


def test_strips_come_back(toy, tmp_path):
    """Pictures kept as one file come back nearly, each in its place."""
    kept = torch.stack([toy.test_a[:3], toy.test_b[:3]])
    path = translation.strip_path(tmp_path / "new", 7)
    assert path == tmp_path / "new" / "translations" / "epoch-007.webp"
    translation.save_strip(path, kept)
    found = translation.load_strip(path, 32)
    assert found.shape == kept.shape
    for row in range(2):
        for column in range(3):
            apart = [difference(found[row, column][None], other[None]) for other in kept.flatten(0, 1)]
            assert np.argmin(apart) == 3 * row + column
            assert min(apart) < 0.1


def test_pictures_are_written_as_they_are(pictures, tmp_path):
    """A PNG in a new folder holds the picture byte for byte."""
    translation.save_picture(tmp_path / "new" / "picture.png", pictures[0, :, :20])
    found = np.array(Image.open(tmp_path / "new" / "picture.png"))
    np.testing.assert_array_equal(found, pictures[0, :, :20].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("given", [(64, 64), (30, 20), (97, 50), (50, 97), (33, 32), (500, 32)])
def test_any_picture_fits_a_resnet(given):
    """The shorter side becomes the model's size, the longer one follows, less at most three pixels."""
    model = CycleGAN(CycleGANConfig(**SMALL))
    width, height = given
    found = translation.fit_for(model, Image.new("RGB", given, (9, 99, 200)))
    scale = 32 / min(given)
    assert found.dtype == torch.uint8
    assert found.shape[:2] == (1, 3)
    assert min(found.shape[2:]) == 32
    for side, wanted in ((found.shape[2], height * scale), (found.shape[3], width * scale)):
        assert side % 4 == 0
        assert wanted - 4 < side <= wanted + 0.5
    assert (found == torch.tensor([9, 99, 200])[:, None, None]).all()
    assert translate(model.g_ab, found).shape == found.shape


def test_a_fitting_picture_is_left_alone(pictures):
    """A square of the model's size reaches either generator pixel by pixel, the right way up."""
    picture = Image.fromarray(pictures[0].permute(1, 2, 0).numpy())
    for generator in ("resnet", "unet"):
        model = CycleGAN(CycleGANConfig(**SMALL, generator=generator))
        assert torch.equal(translation.fit_for(model, picture), pictures[:1])


def test_a_unet_is_given_the_middle():
    """Of a wide picture a U-Net is given the square in its middle."""
    picture = Image.new("RGB", (192, 64), (255, 0, 0))
    picture.paste((0, 0, 255), (64, 0, 128, 64))
    model = CycleGAN(CycleGANConfig(**SMALL, generator="unet"))
    found = translation.fit_for(model, picture)
    assert found.shape == (1, 3, 32, 32)
    assert (found[0, :, :, 2:-2] == torch.tensor([0, 0, 255])[:, None, None]).all()
    assert translate(model.g_ab, found).shape == found.shape


class Turn(nn.Module):
    """A translator that multiplies by a number: -1 gives negatives, and -1 again the pictures themselves."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(float(factor)))

    def forward(self, x):
        return x * self.factor


def test_cycle_errors_are_of_the_way_there_and_back(model, toy):
    """Two negatives have no cycle error, one alone has its own; domains and averages are kept apart."""
    model.g_ab, model.g_ba = Turn(1), Turn(-1)
    model.average_ab, model.average_ba = Turn(-1), Turn(-1)
    negatives = 255 - toy.test_b, 255 - toy.test_a  # fake_a, fake_b
    assert translation.cycle_error(model, toy, True, *negatives) == {"aba": 0, "bab": 0}
    found = translation.cycle_error(model, toy, False, *negatives)
    assert found == {"aba": 0, "bab": difference(255 - toy.test_b, toy.test_b)}
    found = translation.cycle_error(model, toy, False, toy.test_a, toy.test_b)  # as if nothing were to be done
    assert found["aba"] == difference(255 - toy.test_b, toy.test_a)
    assert found["bab"] == difference(toy.test_a, toy.test_b)


@pytest.mark.parametrize(("ema_decay", "threads"), [(0, 1), (0.9, 2)])
def test_what_is_published_is_small(toy, tmp_path, ema_decay, threads):
    """Of a model just trained, generators and averages are kept in half precision, and come back so."""
    torch.set_num_threads(threads)
    try:
        model = CycleGAN(CycleGANConfig(**SMALL, ema_decay=ema_decay, learning_rate=0.01))
        model.setup(devices.machine("cpu", "32"), total_steps=20)
        model.step((toy.test_a[:1], toy.test_b[:1]))
    finally:
        torch.set_num_threads(1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    published = translation.as_published(model, Run("small", {}, tmp_path))
    (path,) = tmp_path.glob("*/published.safetensors")
    tensors, whole = load_file(path), published.state_dict()
    kept = ("g_ab.", "g_ba.", "average_ab.", "average_ba.")
    assert set(tensors) == {name for name in before if name.startswith(kept)}
    for name, tensor in tensors.items():
        assert torch.equal(tensor, before[name].half()), name
        assert torch.equal(whole[name], tensor.float()), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not published.training
    for averaged in (False, True) if ema_decay else (False,):
        for ours, theirs in zip(model.generators(averaged), published.generators(averaged), strict=True):
            assert difference(translate(ours, toy.test_a), translate(theirs, toy.test_a)) < 0.01


# ---- the examiner


class Eye:
    """A judge whose features are mean colours and to whom pictures in which blue is strongest are zebras."""

    def look(self, pictures):
        features = pictures.double().mean((2, 3)) / 255
        probabilities = torch.zeros(len(pictures), 1000)
        probabilities[:, translation.ZEBRA] = (features.argmax(1) == 2).float()
        probabilities[:, 0] = 0.5
        return Looks(features, probabilities)

    def features(self, pictures):
        return self.look(pictures).features


TOY_SCORES = {f"{name}_{way}" for name in ("change", "shift", "truth", "background") for way in ("ab", "ba")}


def test_an_epoch_leaves_scores_and_pictures(model, toy, tmp_path):
    """Scores are of all test pictures by both kinds of generators; of each four translations are kept."""
    model.average_ab, model.average_ba = Turn(0.2), Turn(-1)
    found = Examiner(model, toy, None)(tmp_path, 7)
    assert set(found) == {f"{kind}_{name}" for kind in ("last", "average") for name in TOY_SCORES}
    strip = translation.load_strip(translation.strip_path(tmp_path, 7), 32)
    assert strip.shape == (2, 8, 3, 32, 32)
    for row, kind in zip(strip, ("last", "average"), strict=True):
        g_ab, g_ba = model.generators(averaged=kind == "average")
        fake_b, fake_a = translate(g_ab, toy.test_a), translate(g_ba, toy.test_b)
        assert difference(row, torch.cat([fake_b[:4], fake_a[:4]])) < 0.1
        assert found[f"{kind}_change_ab"] == difference(fake_b, toy.test_a)
        assert found[f"{kind}_truth_ba"] == difference(fake_a, toy.test_a)


def test_without_averages_there_is_one_kind(toy, tmp_path):
    """With ema_decay 0 only the generators as they are have scores and a row of pictures."""
    model = CycleGAN(CycleGANConfig(**SMALL, ema_decay=0))
    model.setup(devices.machine("cpu", "32"), total_steps=20)
    found = Examiner(model.eval(), toy, None)(tmp_path, 1)
    assert set(found) == {f"last_{name}" for name in TOY_SCORES}
    assert len(translation.load_strip(translation.strip_path(tmp_path, 1), 32)) == 1


def test_perfect_translations_have_perfect_scores(model, toy):
    """True counterparts have truth and background 0 and a change; unchanged pictures the other way round."""
    examiner = Examiner(model, toy, None)
    perfect = examiner.scores(fake_a=toy.test_a, fake_b=toy.test_b)
    nothing = examiner.scores(fake_a=toy.test_b, fake_b=toy.test_a)
    for way in ("ab", "ba"):
        assert (perfect[f"truth_{way}"], perfect[f"background_{way}"]) == (0, 0)
        assert (nothing[f"change_{way}"], nothing[f"shift_{way}"], nothing[f"background_{way}"]) == (0, 0, 0)
        assert perfect[f"change_{way}"] == nothing[f"truth_{way}"] == difference(toy.test_a, toy.test_b) > 0
        assert perfect[f"shift_{way}"] == colour_shift(toy.test_a, toy.test_b) > 0


def test_background_is_what_is_off_the_animal(model, toy):
    """The animal painted over leaves the background score 0; all else painted over does not."""
    examiner, masks = Examiner(model, toy, None), toy.masks[:, None]
    black = torch.zeros_like(toy.test_a)
    on_it = examiner.scores(toy.test_a, torch.where(masks, black, toy.test_a))
    off_it = examiner.scores(toy.test_a, torch.where(masks, toy.test_a, black))
    assert on_it["background_ab"] == 0
    assert on_it["change_ab"] > 0
    assert off_it["background_ab"] == difference(toy.test_a, black, ~toy.masks) > 0.1


def test_photographs_have_no_truth(model, toy):
    """Where nobody knows the counterparts there are neither truth nor background."""
    photographs = replace(toy, name="own", aligned=False, masks=None)
    found = Examiner(model, photographs, None).scores(toy.test_a, toy.test_b)
    assert set(found) == {"change_ab", "change_ba", "shift_ab", "shift_ba"}


def test_a_judge_compares_with_the_other_domain(model, toy):
    """Kernel distances are to real pictures of the other domain; zebras are counted where there are some."""
    horses = replace(toy, zebras=True, aligned=False, masks=None)
    fake_a, fake_b = toy.test_b // 2, toy.test_a.clone()
    fake_a[:3, 2] = 255  # three of six are blue
    found = Examiner(model, horses, Eye()).scores(fake_a, fake_b)
    eye = Eye()
    assert found["kd_ab"] == kernel_distance(eye.features(fake_b), eye.features(toy.test_b))
    assert found["kd_ba"] == kernel_distance(eye.features(fake_a), eye.features(toy.test_a))
    assert found["zebra_ba"] == pytest.approx(0.5 + (toy.test_b[3:].double().mean((2, 3)).argmax(1) == 2).sum() / 6)
    assert {"zebra_ab", "zebra_ba"} <= set(found)
    own = Examiner(model, replace(horses, zebras=False), Eye()).scores(fake_a, fake_b)
    assert set(own) == set(found) - {"zebra_ab", "zebra_ba"}


def test_where_the_truth_is_known_there_is_no_judge(toy, monkeypatch):
    """The judge of photographs is asked about photographs only."""
    monkeypatch.setattr(translation, "Judge", lambda: "the judge")
    assert recipes.judge_for(toy) is None
    assert recipes.judge_for(replace(toy, aligned=False, masks=None)) == "the judge"


def test_a_judge_looks_at_real_pictures_once(model, toy, tmp_path):
    """However many epochs and threads there are, the real test pictures of each domain are judged once."""
    seen = []

    class Counting(Eye):
        def features(self, pictures):
            seen.append(pictures)
            return super().features(pictures)

    examiner = Examiner(model, replace(toy, aligned=False, masks=None), Counting())
    for epoch in (1, 2):
        found = examiner(tmp_path, epoch)
    assert {"last_kd_ab", "average_kd_ba"} <= set(found)
    assert len(seen) == 2
    assert torch.equal(seen[0], toy.test_a) and torch.equal(seen[1], toy.test_b)


# ---- what is asked for


def test_a_wrong_config_stops_before_the_pictures(monkeypatch):
    """A value that only the networks' config refuses is one line, said before any picture is loaded."""
    monkeypatch.setattr(unpaired, "load", lambda *_: pytest.fail("loaded pictures"))
    for wrong, message in (
        ({"objective": "wgan"}, "objective: input should be 'least_squares', 'cross_entropy' or 'hinge'"),
        ({"size": 66}, "size: input should be a multiple of 4, not 66"),
    ):
        with pytest.raises(parameters.ParameterError, match=message) as caught:
            recipes.cyclegan_setup(CycleGANParameters(**wrong))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("preset", ["smoke", "quick", "cpu", "full"])
def test_every_preset_has_networks_and_pictures(preset, monkeypatch):
    """A preset's values reach the networks' config and the loader of its pictures."""
    asked_for = []
    monkeypatch.setattr(unpaired, "load", lambda *wanted: asked_for.append(wanted))
    values = yaml.safe_load((ROOT / "notebooks" / "presets" / preset / "01_cyclegan.yaml").read_text())
    asked = parameters.given(CycleGANParameters, values, ("data_root=somewhere",))
    config, _ = recipes.cyclegan_setup(asked)
    assert asked_for == [(values["dataset"], values["size"], "somewhere")]
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
            with pytest.raises(parameters.ParameterError, match=f"must be epochs, {epochs}, or at most") as caught:
                parameters.make(CycleGANParameters, asked)
            assert "\n" not in str(caught.value)


def test_a_run_with_the_identity_loss_needs_one_without():
    """A second run with the identity loss makes no sense beside a first one that has it."""
    with pytest.raises(parameters.ParameterError, match="beside one with identity_weight 0"):
        parameters.make(CycleGANParameters, {"epochs": 4, "identity_epochs": 2, "identity_weight": 0.5})


# ---- runs


def test_the_run_of_the_report(toy, tmp_path):
    """The run has a row of scores and a strip for each epoch, and a second call loads it."""
    asked = CycleGANParameters(**SIZES, epochs=2, runs=str(tmp_path), device="cpu", precision="32")
    config = CycleGANConfig(**SMALL)
    first = CycleGAN(config)
    run = recipes.train_cyclegan(first, toy, None, asked)
    assert run.folder.name.startswith("cyclegan-")
    assert run.history["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert {"last_truth_ab", "average_background_ba"} < set(run.epochs)
    assert len(run.epochs["step"]) == 2
    assert [p.name for p in sorted((run.folder / "translations").glob("*"))] == [
        "epoch-001.webp",
        "epoch-002.webp",
    ]
    assert run.provenance["data"] == toy.description
    again = CycleGAN(config)
    assert recipes.train_cyclegan(again, toy, None, asked).folder == run.folder
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize(("identity_epochs", "decay_share"), [(1, 0.0), (2, 0.5)])
def test_the_run_with_the_identity_loss(toy, tmp_path, identity_epochs, decay_share):
    """It has the identity loss, lasts as long as asked for, and its rates are the long run's up to there."""
    options = {"epochs": 2, "identity_epochs": identity_epochs, "device": "cpu", "precision": "32"}
    asked = CycleGANParameters(**SIZES, **options, runs=str(tmp_path))
    config = CycleGANConfig(**SMALL)
    run = recipes.train_with_identity(config, toy, None, asked)
    assert run.folder.name.startswith("cyclegan-identity-")
    assert run.config["model"] == config.model_dump(mode="json") | {
        "identity_weight": 0.5,
        "decay_share": decay_share,
    }
    assert run.history["step"].tolist() == list(range(1, 3 * identity_epochs + 1))
    assert {"identity_a", "identity_b"} < set(run.history)
    rates = []
    for model, steps in ((CycleGAN(config), 6), (CycleGAN.load(run.weights), 3 * identity_epochs)):
        model.setup(devices.machine("cpu", "32"), steps)
        rates.append([model.schedules["generators"].lr_lambdas[0](n) for n in range(3 * identity_epochs)])
    assert rates[0] == rates[1]


def test_numbers_of_the_identity_run_are_enough(toy, tmp_path, capsys):
    """Its network is not needed afterwards: without it a finished run is loaded all the same."""
    options = {"epochs": 2, "identity_epochs": 1, "device": "cpu", "precision": "32"}
    asked = CycleGANParameters(**SIZES, **options, runs=str(tmp_path))
    config = CycleGANConfig(**SMALL)
    recipes.train_with_identity(config, toy, None, asked).weights.unlink()
    capsys.readouterr()
    again = recipes.train_with_identity(config, toy, None, asked)
    assert "finished on" in capsys.readouterr().out
    assert again.history["step"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp"])
def test_a_picture_is_written_as_its_name_ends(tmp_path, name):
    """The format is that of the file's name, and the colour comes back."""
    translation.save_picture(tmp_path / "new" / name, torch.full((3, 8, 8), 77, dtype=torch.uint8))
    with Image.open(tmp_path / "new" / name) as opened:
        assert opened.format.lower() in ("jpeg", "png", "webp") and opened.size == (8, 8)
        assert abs(int(np.asarray(opened.convert("RGB")).mean()) - 77) <= 2


def test_the_identity_loss_is_read_from_the_numbers():
    """The paragraph says the shifts and shares of the two runs as they are, and no shares where there are no zebras."""
    runs = {
        name: {
            "colour shift, A to B": shift,
            "colour shift, B to A": 2 * shift,
            "called zebra, A to B": share,
        }
        for name, shift, share in (("without identity loss", 0.2, 0.5), ("with identity loss", 0.1, 0.25))
    }
    words = verdicts.identity_in_words(runs)
    assert "move by 0.100 instead of 0.200 from A to B, and by 0.200 instead of 0.400 from B to A" in words
    assert "25% are called zebra with it and 50% without" in words
    for row in runs.values():
        del row["called zebra, A to B"]
    assert "zebra" not in verdicts.identity_in_words(runs)
    assert "ties generators to the colours" in words
    runs["with identity loss"]["colour shift, A to B"] = 0.3
    assert "ties generators to the colours" not in verdicts.identity_in_words(runs)
