"""Translations of known pictures have known numbers, perfect translators perfect ones, and what is kept comes back."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.evaluation import translations
from hw2lib.evaluation.judge import kernel_distance
from hw2lib.evaluation.translations import Examiner, colour_shift, difference, translate
from hw2lib.networks import ResnetGenerator
from hw2lib.training import Run, RunError, machine

SMALL = {"size": 32, "base_channels": 2, "blocks": 1}


# ---- differences


def test_differences_of_known_pictures():
    """Black and white are 2 apart, 10 and 20 are 10/127.5, in either order: bytes do not wrap round."""
    black = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    white = black + 255
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


@pytest.mark.parametrize("given", [(64, 64), (30, 20), (97, 50), (50, 97), (33, 32), (500, 32)])
def test_any_picture_fits_a_resnet(given):
    """The shorter side becomes the model's size, the longer one follows, to the nearest multiple of 4."""
    model = CycleGAN(CycleGANConfig(**SMALL))
    width, height = given
    found = translations.fit_for(model, Image.new("RGB", given, (9, 99, 200)))
    scale = 32 / min(given)
    assert found.dtype == torch.uint8
    assert found.shape[:2] == (1, 3)
    assert min(found.shape[2:]) == 32
    for side, wanted in ((found.shape[2], height * scale), (found.shape[3], width * scale)):
        assert side % 4 == 0
        assert abs(side - wanted) <= 2
    assert (found == torch.tensor([9, 99, 200])[:, None, None]).all()
    assert translate(model.g_ab, found).shape == found.shape


def test_a_change_is_carried_to_the_full_size(pictures):
    """What a translation adds is added to the larger picture, where it was added, and the rest of it stays."""
    large = pictures[:1].repeat_interleave(4, 2).repeat_interleave(4, 3)
    fitted = pictures[:1]
    assert torch.equal(translations.at_full_size(large, fitted, fitted), large)
    dark = torch.full_like(fitted, 10)
    lit = dark.clone()
    lit[:, 1, :, 16:] = 110
    found = translations.at_full_size(torch.full_like(large, 10), dark, lit)
    assert (found[:, 1, :, 80:] == 110).all()
    assert (found[:, 1, :, :48] == 10).all() and (found[:, [0, 2]] == 10).all()


def test_a_fitting_picture_is_left_alone(pictures):
    """A square of the model's size reaches either generator pixel by pixel, the right way up."""
    picture = Image.fromarray(pictures[0].permute(1, 2, 0).numpy())
    for generator in ("resnet", "unet"):
        model = CycleGAN(CycleGANConfig(**SMALL, generator=generator))
        assert torch.equal(translations.fit_for(model, picture), pictures[:1])


def test_a_unet_is_given_the_middle():
    """Of a wide picture a U-Net is given the square in its middle."""
    picture = Image.new("RGB", (192, 64), (255, 0, 0))
    picture.paste((0, 0, 255), (64, 0, 128, 64))
    model = CycleGAN(CycleGANConfig(**SMALL, generator="unet"))
    found = translations.fit_for(model, picture)
    assert found.shape == (1, 3, 32, 32)
    assert (found[0, :, :, 2:-2] == torch.tensor([0, 0, 255])[:, None, None]).all()
    assert translate(model.g_ab, found).shape == found.shape


def test_some_of_many_are_scaled(pictures):
    """Evenly spaced ones of any number, all where there are fewer; their colours stay, and those of the size as they are."""
    shades = torch.arange(0, 250, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 36, 36)
    found = translations.some_scaled(shades, 32, 4)
    assert found.shape == (4, 3, 32, 32) and found.dtype == torch.uint8
    assert found.flatten(1).unique(dim=1).flatten().tolist() == [0, 83, 166, 249]
    assert translations.some_scaled(shades, 32, 999)[:, 0, 5, 5].tolist() == list(range(250))
    assert torch.equal(translations.some_scaled(pictures, 32, 999), pictures)


class Turn(nn.Module):
    """A translator that multiplies by a number: -1 gives negatives, and -1 again the pictures themselves."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(float(factor)))

    def forward(self, x):
        return x * self.factor


def test_cycle_errors_are_of_the_way_there_and_back(translator, toy):
    """Two negatives have no cycle error, one alone has its own; domains and averages are kept apart."""
    translator.g_ab, translator.g_ba = Turn(1), Turn(-1)
    translator.average_ab, translator.average_ba = Turn(-1), Turn(-1)
    # fake_a, fake_b.
    negatives = 255 - toy.test_b, 255 - toy.test_a
    assert translations.cycle_error(translator, toy, True, *negatives) == {"aba": 0, "bab": 0}
    found = translations.cycle_error(translator, toy, False, *negatives)
    assert found == {"aba": 0, "bab": difference(255 - toy.test_b, toy.test_b)}
    # As if nothing were to be done.
    found = translations.cycle_error(translator, toy, False, toy.test_a, toy.test_b)
    assert found["aba"] == difference(255 - toy.test_b, toy.test_a)
    assert found["bab"] == difference(toy.test_a, toy.test_b)


@pytest.mark.parametrize(("ema_decay", "threads"), [(0, 1), (0.9, 2)])
def test_what_is_published_is_small(toy, tmp_path, ema_decay, threads):
    """Of a model just trained, generators and averages are kept in half precision, and come back so."""
    torch.set_num_threads(threads)
    try:
        model = CycleGAN(CycleGANConfig(**SMALL, ema_decay=ema_decay, learning_rate=0.01))
        model.setup(machine("cpu", "32"), total_steps=20)
        model.step((toy.test_a[:1], toy.test_b[:1]))
    finally:
        torch.set_num_threads(1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = Run("small", {}, tmp_path)
    published = translations.as_published(model, run)
    tensors, whole = load_file(run.kept_weights), published.state_dict()
    kept = ("g_ab.", "g_ba.", "average_ab.", "average_ba.")
    assert set(tensors) == {name for name in before if name.startswith(kept)}
    for name, tensor in tensors.items():
        assert torch.equal(tensor, before[name].half()), name
        assert torch.equal(whole[name], tensor.float()), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not published.training
    for kind in translations.kinds(model):
        pairs = (network.generators(kind == "average") for network in (model, published))
        for ours, theirs in zip(*pairs, strict=True):
            assert difference(translate(ours, toy.test_a), translate(theirs, toy.test_a)) < 0.01


def test_what_was_published_is_published_again_to_the_byte(tmp_path):
    """The published generators, loaded and kept anew, are the same file: what was measured on them still holds."""
    published, run = Run.published("cyclegan"), Run("cyclegan", {}, tmp_path)
    model = CycleGAN.load(published.kept_weights)
    found = translations.as_published(model, run).state_dict()
    assert run.stamp() == published.stamp()
    again = translations.as_published(CycleGAN(CycleGANConfig(**SMALL)), published).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in found.items())


# ---- the examiner


TOY_SCORES = {f"{name}_{way}" for name in ("change", "shift", "truth", "background") for way in ("ab", "ba")}


def test_an_epoch_leaves_scores_and_pictures(translator, toy, tmp_path):
    """Scores are of all test pictures by both kinds of generators; of each four translations are kept."""
    translator.average_ab, translator.average_ba = Turn(0.2), Turn(-1)
    found = Examiner(translator, toy, None)(tmp_path, 7)
    assert set(found) == {f"{kind}_{name}" for kind in ("last", "average") for name in TOY_SCORES}
    strip = translations.load_strip(translations.strip_path(tmp_path, 7), 32)
    assert strip.shape == (2, 8, 3, 32, 32)
    for row, kind in zip(strip, ("last", "average"), strict=True):
        g_ab, g_ba = translator.generators(averaged=kind == "average")
        fake_b, fake_a = translate(g_ab, toy.test_a), translate(g_ba, toy.test_b)
        assert difference(row, torch.cat([fake_b[:4], fake_a[:4]])) < 0.1
        assert found[f"{kind}_change_ab"] == difference(fake_b, toy.test_a)
        assert found[f"{kind}_truth_ba"] == difference(fake_a, toy.test_a)


def test_without_averages_there_is_one_kind(toy, tmp_path):
    """With ema_decay 0 only the generators as they are have scores and a row of pictures."""
    model = CycleGAN(CycleGANConfig(**SMALL, ema_decay=0))
    model.setup(machine("cpu", "32"), total_steps=20)
    found = Examiner(model.eval(), toy, None)(tmp_path, 1)
    assert set(found) == {f"last_{name}" for name in TOY_SCORES}
    assert len(translations.load_strip(translations.strip_path(tmp_path, 1), 32)) == 1


def test_perfect_translations_have_perfect_scores(translator, toy):
    """True counterparts have truth and background 0 and a change; unchanged pictures the other way round."""
    examiner = Examiner(translator, toy, None)
    perfect = examiner.scores(fake_a=toy.test_a, fake_b=toy.test_b)
    nothing = examiner.scores(fake_a=toy.test_b, fake_b=toy.test_a)
    for way in ("ab", "ba"):
        assert (perfect[f"truth_{way}"], perfect[f"background_{way}"]) == (0, 0)
        assert (nothing[f"change_{way}"], nothing[f"shift_{way}"], nothing[f"background_{way}"]) == (0, 0, 0)
        assert perfect[f"change_{way}"] == nothing[f"truth_{way}"] == difference(toy.test_a, toy.test_b) > 0
        assert perfect[f"shift_{way}"] == colour_shift(toy.test_a, toy.test_b) > 0


def test_background_is_what_is_off_the_animal(translator, toy):
    """The animal painted over leaves the background score 0; all else painted over does not."""
    examiner, masks = Examiner(translator, toy, None), toy.masks[:, None]
    black = torch.zeros_like(toy.test_a)
    on_it = examiner.scores(toy.test_a, torch.where(masks, black, toy.test_a))
    off_it = examiner.scores(toy.test_a, torch.where(masks, toy.test_a, black))
    assert on_it["background_ab"] == 0
    assert on_it["change_ab"] > 0
    assert off_it["background_ab"] == difference(toy.test_a, black, ~toy.masks) > 0.1


def test_photographs_have_no_truth(translator, toy):
    """Where nobody knows the counterparts there are neither truth nor background."""
    photographs = replace(toy, name="own", aligned=False, masks=None)
    found = Examiner(translator, photographs, None).scores(toy.test_a, toy.test_b)
    assert set(found) == {"change_ab", "change_ba", "shift_ab", "shift_ba"}


def test_a_judge_compares_with_the_other_domain(translator, toy, eye):
    """Kernel distances are to real pictures of the other domain; zebras are counted where there are some."""
    horses = replace(toy, zebras=True, aligned=False, masks=None)
    fake_a, fake_b = toy.test_b // 2, toy.test_a.clone()
    # Three of six are blue.
    fake_a[:3, 2] = 255
    found = Examiner(translator, horses, eye).scores(fake_a, fake_b)
    assert found["kd_ab"] == kernel_distance(eye.features(fake_b), eye.features(toy.test_b))
    assert found["kd_ba"] == kernel_distance(eye.features(fake_a), eye.features(toy.test_a))
    assert found["zebra_ba"] == pytest.approx(0.5 + (toy.test_b[3:].double().mean((2, 3)).argmax(1) == 2).sum() / 6)
    own = Examiner(translator, replace(horses, zebras=False), eye).scores(fake_a, fake_b)
    assert set(found) - set(own) == {"zebra_ab", "zebra_ba"}


def test_a_judge_looks_at_real_pictures_once(translator, toy, eye, tmp_path):
    """However many epochs and threads there are, the real test pictures of each domain are judged once."""
    examiner = Examiner(translator, replace(toy, aligned=False, masks=None), eye)
    for epoch in (1, 2):
        found = examiner(tmp_path, epoch)
    assert {"last_kd_ab", "average_kd_ba"} <= set(found)
    for real in (toy.test_a, toy.test_b):
        assert sum(pictures is real for pictures in eye.seen) == 1


# ---- what is kept


def test_strips_come_back(toy, tmp_path):
    """Pictures kept as one file come back nearly, each in its place."""
    kept = torch.stack([toy.test_a[:3], toy.test_b[:3]])
    path = translations.strip_path(tmp_path / "new", 7)
    assert path == tmp_path / "new" / "translations" / "epoch-007.webp"
    translations.save_strip(path, kept)
    found = translations.load_strip(path, 32)
    assert found.shape == kept.shape
    for row in range(2):
        for column in range(3):
            apart = [difference(found[row, column][None], other[None]) for other in kept.flatten(0, 1)]
            assert np.argmin(apart) == 3 * row + column
            assert min(apart) < 0.1
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=r"epoch-007\.webp cannot be read \(.*\): delete"):
        translations.load_strip(path, 32)


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp"])
def test_a_picture_is_written_as_its_name_ends(pictures, tmp_path, name):
    """In a new folder, in the format of the file's name: a PNG byte for byte, in others the colour comes back."""
    picture = pictures[0, :, :20] if name == "x.png" else torch.full((3, 8, 8), 77, dtype=torch.uint8)
    translations.save_picture(tmp_path / "new" / name, picture)
    with Image.open(tmp_path / "new" / name) as opened:
        assert opened.format.lower() in ("jpeg", "png", "webp")
        found = np.asarray(opened.convert("RGB")).transpose(2, 0, 1).astype(int)
    assert np.abs(found - picture.numpy()).max() <= (0 if name == "x.png" else 2)


def test_rows_of_both_ways_are_the_generators_own(translator, toy):
    """Inputs, what each kind of weights makes of them, and the way back from the judged ones, in either direction."""
    for way, pictures, averages in (
        ("ab", toy.test_a, (translator.average_ab, translator.average_ba)),
        ("ba", toy.test_b, (translator.average_ba, translator.average_ab)),
    ):
        rows = translations.there_and_back(translator, pictures, way)
        assert list(rows) == ["input", "last", "average", "back"]
        assert torch.equal(rows["input"], pictures)
        there, back = averages
        assert torch.equal(rows["average"], translate(there, pictures))
        assert not torch.equal(rows["average"], rows["last"])
        assert torch.equal(rows["back"], translate(back, rows["average"]))


def test_published_epochs_are_shown_and_side_by_side(toy):
    """Six of twenty epochs, and runs after the tenth or their last, by the averaged weights; the last ones at the end."""
    run, second = Run.published("cyclegan"), Run.published("cyclegan-identity")
    rows = translations.some_epochs(run, replace(toy, size=128))
    assert [*rows] == ["input", *(f"epoch {epoch}" for epoch in (1, 2, 3, 5, 10, 20)), "last weights"]
    last, averaged = translations.load_strip(translations.strip_path(run.folder, 20), 128)
    assert torch.equal(rows["epoch 20"], averaged) and torch.equal(rows["last weights"], last)
    kept = [translations.load_strip(translations.strip_path(each.folder, 10), 128)[-1] for each in (run, second)]
    beside = translations.side_by_side({"one": run, "other": second}, replace(toy, size=128), 10)
    assert torch.equal(beside["one"], kept[0]) and torch.equal(beside["other"], kept[1])
    assert len(beside["input"]) == len(kept[0]) == 8
    beside = translations.side_by_side({"one": run, "other": second}, replace(toy, size=128))
    assert torch.equal(beside["one"], averaged) and torch.equal(beside["other"], kept[1])
