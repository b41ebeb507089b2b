"""The prior over codes and what it draws: codes of real networks, honest choices, distances, the command line."""

import math
from types import SimpleNamespace

import click.testing
import numpy as np
import pytest
import torch
from PIL import Image

from hw2lib import __main__ as command_line
from hw2lib import parameters, recipes
from hw2lib.data import batches
from hw2lib.data import pictures as data
from hw2lib.evaluation import codec as experiments
from hw2lib.evaluation import likelihoods as prior
from hw2lib.evaluation import new_pictures as samples
from hw2lib.pixelcnn import CodesError, GatedPixelCNN, PixelCNNConfig
from hw2lib.training import runs, weights
from hw2lib.vqvae import VQVAE, VQVAEConfig

K, SIDE = 8, 2  # the smallest VQ-VAE: 8 x 8 pixels, maps of 2 x 2 codes


@pytest.fixture
def model():
    network = VQVAE(
        VQVAEConfig(size=8, hidden_channels=4, residual_channels=2, residual_blocks=1, num_codes=K, code_dim=3)
    )
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():  # a codebook all of whose codes occur
        outputs = network.encoder(torch.rand((2, 3, 8, 8), generator=chance) - 0.5)
        network.quantizer.codebook.copy_(outputs.permute(0, 2, 3, 1).reshape(K, 3))
    return network.eval()


@pytest.fixture
def pictures():
    chance = torch.Generator().manual_seed(0)
    train, test = (torch.randint(256, (count, 3, 8, 8), generator=chance, dtype=torch.uint8) for count in (60, 20))
    labels = torch.arange(60).remainder(2).to(torch.uint8)
    names = {"classes": ("horse", "zebra"), "train_labels": labels, "test_labels": labels[:20]}
    return data.Pictures("noise", train, test, data.checksum(train, test), **names)


@pytest.fixture
def run(tmp_path):
    return runs.Run("vqvae", {}, tmp_path)


@pytest.fixture
def sets(model, pictures, run):
    return recipes.code_sets(model, pictures, run)


def asked(tmp_path, **wishes):
    return parameters.VQVAEParameters(runs=str(tmp_path), prior_channels=4, **wishes)


def new_prior(model, pictures, seed=0):
    config = PixelCNNConfig(
        num_codes=K, height=SIDE, width=SIDE, classes=len(pictures.classes), class_names=pictures.classes,
        codebook=recipes.codebook_checksum(model), channels=4, embedding=4, layers=2, seed=seed,
    )  # fmt: skip
    network = GatedPixelCNN(config).eval()
    with torch.no_grad():  # first weights know no class
        for layer in network.layers:
            if config.classes:
                layer.class_bias.weight.normal_(generator=torch.Generator().manual_seed(seed))
    return network


# ---- codes


def test_codes_are_those_of_the_encoder(model, pictures, sets):
    """Training maps are nine tenths of the pictures and the same mirrored, with their labels; no held-out one is there."""
    train = experiments.encode_pictures(model, pictures.train)
    mirrored = experiments.encode_pictures(model, pictures.train.flip(-1))
    order = torch.randperm(60, generator=batches.random_stream(0))
    held, others = order[:6], order[6:]
    assert torch.equal(sets.train, torch.cat([train[others], mirrored[others]]))
    assert torch.equal(sets.held_out, train[held])
    assert torch.equal(sets.in_order, train)
    assert torch.equal(sets.test, experiments.encode_pictures(model, pictures.test))
    assert torch.equal(sets.train_labels, pictures.train_labels[torch.cat([others, others])])
    assert torch.equal(sets.held_out_labels, pictures.train_labels[held])


def test_codes_are_encoded_once(model, pictures, run, sets, monkeypatch):
    """They are kept as uint16 beside the network and read from there."""
    with np.load(run.folder / "codes.npz") as kept:
        assert {kept[name].dtype for name in ("train", "mirrored", "test")} == {np.dtype("uint16")}
    monkeypatch.setattr(prior, "encode_pictures", None)
    again = recipes.code_sets(model, pictures, run)
    assert torch.equal(again.train, sets.train)


@pytest.mark.parametrize("damage", ["other codebook", "other pictures", "cut off", "no archive"])
def test_codes_that_do_not_fit_are_made_anew(model, pictures, run, sets, damage, capsys):
    """Codes of another network or other pictures, and damaged files, are never used."""
    path = run.folder / "codes.npz"
    if damage == "other codebook":
        with torch.no_grad():
            model.quantizer.codebook.neg_()
    elif damage == "other pictures":
        train = pictures.train.flip(0)
        labels = {"train_labels": pictures.train_labels, "test_labels": pictures.test_labels}
        pictures = data.Pictures("noise", train, pictures.test, "other", pictures.classes, **labels)
    elif damage == "cut off":
        path.write_bytes(path.read_bytes()[:-40])
    else:
        path.write_bytes(b"nothing")
    found = recipes.code_sets(model, pictures, run)
    assert torch.equal(found.in_order, experiments.encode_pictures(model, pictures.train))
    assert ("cannot be read" in capsys.readouterr().out) == (damage in ("cut off", "no archive"))


def test_pictures_without_classes_give_maps_without_labels(model, pictures, tmp_path):
    """A folder of one's own has no labels, and its prior no classes."""
    plain = data.Pictures("noise", pictures.train, pictures.test, "plain")
    found = recipes.code_sets(model, plain, runs.Run("vqvae", {"plain": True}, tmp_path))
    assert found.train_labels is found.held_out_labels is found.test_labels is None
    config = recipes.prior_config(model, plain, asked(tmp_path))
    assert (config.classes, config.class_names) == (0, ())


def test_the_prior_fits_its_network(model, pictures, tmp_path):
    """Map, codes and classes of the prior are those of the network and the pictures; large maps are seen whole."""
    config = recipes.prior_config(model, pictures, asked(tmp_path))
    assert (config.num_codes, config.height, config.width) == (K, SIDE, SIDE)
    assert config.class_names == ("horse", "zebra")
    large = SimpleNamespace(config=VQVAEConfig(size=64), quantizer=model.quantizer)
    assert recipes.prior_config(large, pictures, asked(tmp_path)).layers >= 15


def test_a_foreign_prior_is_refused(model, pictures):
    """Another map, another K and another codebook of the same size are each said in one line."""
    recipes.require_match(new_prior(model, pictures), model)
    for wrong in ({"num_codes": 9}, {"height": 3}):
        config = {"num_codes": K, "height": SIDE, "width": SIDE} | wrong
        with pytest.raises(CodesError, match="the VQ-VAE has 2 x 2 of 8"):
            recipes.require_match(GatedPixelCNN(PixelCNNConfig(layers=1, **config)), model)
    network = new_prior(model, pictures)
    with torch.no_grad():
        model.quantizer.codebook.neg_()
    with pytest.raises(CodesError, match="codes of another VQ-VAE"):
        recipes.require_match(network, model)


# ---- training


def test_held_out_maps_choose_the_epoch(model, pictures, sets, tmp_path, monkeypatch):
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
    network = new_prior(model, pictures)
    run = recipes.train_prior(network, sets, asked(tmp_path, prior_epochs=3))
    assert run.epochs["held_out_nll"].tolist() == planned["held_out"]
    assert all(torch.equal(value, states[1][name]) for name, value in network.state_dict().items())
    assert not all(torch.equal(value, states[2][name]) for name, value in network.state_dict().items())
    again = new_prior(model, pictures, seed=0)
    recipes.train_prior(again, sets, asked(tmp_path, prior_epochs=3))  # finished: loads the chosen ones again
    assert all(torch.equal(value, states[1][name]) for name, value in again.state_dict().items())


def test_a_resumed_run_remembers_its_best_epoch(model, pictures, sets, tmp_path):
    """Epochs before a resume count: a worse epoch after it does not replace the chosen weights."""
    network = new_prior(model, pictures)
    network.fabric = SimpleNamespace(is_global_zero=True)
    examiner = prior.PriorExaminer(network, sets)
    (tmp_path / "epochs.csv").write_text("epoch,step,held_out_nll\n1,5,0.001\n")
    scores = examiner(tmp_path, 2)
    assert scores["held_out_nll"] > 0.001
    assert not (tmp_path / prior.CHOSEN).exists()
    (tmp_path / "epochs.csv").write_text("epoch,step,held_out_nll\n1,5,100\n")
    examiner(tmp_path, 2)
    assert (tmp_path / prior.CHOSEN).exists()


# ---- likelihoods


def test_without_a_class_all_are_tried(model, pictures, sets):
    """p(map) is the mean over the classes of p(map | class), recomputed in NumPy, and the likeliest class is named."""
    network = new_prior(model, pictures)
    found = prior.without_class(network, sets.test)
    costs = np.stack([network.nll(sets.test, torch.full((20,), label)).double().numpy() for label in (0, 1)], 1)
    likely = np.log(np.exp(-4 * costs).mean(1))
    np.testing.assert_allclose(found.nll, -likely / 4, rtol=1e-10)
    assert found.named.tolist() == costs.argmin(1).tolist()
    assert 0 < found.named.double().mean() < 1  # both classes are named


def test_likelihoods_stand_beside_priors_that_know_less(model, pictures, sets):
    """Uniform is log K with no error; a prior with classes has one row more and names them, one without does not."""
    rows, right = prior.likelihoods(new_prior(model, pictures), sets)
    assert rows[prior.UNIFORM] == {"nats": pytest.approx(math.log(K)), "error": 0.0}
    assert list(rows)[-2:] == [prior.SEEN, prior.TOLD]
    assert 0 <= right <= 1
    assert set(prior.levels(rows)) == {prior.UNIFORM, "frequencies of the codes", prior.PLACE}
    plain = data.Pictures("noise", pictures.train, pictures.test, "plain")
    rows, right = prior.likelihoods(new_prior(model, plain), sets)
    assert right is None
    assert prior.TOLD not in rows


def test_identities_of_the_divergence_hold(model, pictures, sets):
    """Each divergence, by its definition, is what the identity says: log K, h w log K, -log p, log K - log perplexity."""
    counts = np.array([5, 1, 0, 2, 9, 3, 1, 1])
    for labelled in (pictures, data.Pictures("noise", pictures.train, pictures.test, "plain")):
        label = torch.tensor(1) if labelled.classes else None
        found = prior.kl_identities(new_prior(model, labelled), sets.test[0], label, counts)
        for words, left, right in found:
            assert left == pytest.approx(right, rel=1e-6), words
    assert found[0][1] == pytest.approx(math.log(K), rel=1e-12)
    share = counts[counts > 0] / counts.sum()
    assert found[3][1] == pytest.approx((share * np.log(share * K)).sum(), rel=1e-9)


# ---- pictures


def test_the_map_fills_in_raster_order(model, pictures, sets):
    """Each moment has the codes of the one before and some more; the last is the sample; nothing drawn is -1."""
    network = new_prior(model, pictures)
    moments = samples.filling(model, network, sets, 1, seed=3, moments=5)
    assert [moment.drawn for moment in moments] == [0, 1, 2, 3, 4]
    whole = network.sample(1, torch.tensor([1]), seed=3)[0]
    for moment in moments:
        flat = moment.codes.flatten()
        assert torch.equal(flat[: moment.drawn], whole.flatten()[: moment.drawn])
        assert (flat[moment.drawn :] == -1).all()
    assert torch.equal(moments[-1].picture, samples.decode_pictures(model, whole[None])[0])
    commonest = sets.train.flatten(1).mode(0).values.view(1, SIDE, SIDE).long()
    assert torch.equal(moments[0].picture, samples.decode_pictures(model, commonest)[0])


def test_completions_keep_the_upper_half(model, pictures, sets, monkeypatch):
    """The upper codes stay as given in every turn; the lower ones are drawn anew in each."""
    monkeypatch.setattr(samples, "decode_pictures", lambda model, codes: codes)
    network = new_prior(model, pictures)
    turns = samples.completions(model, network, sets.test, sets.test_labels, 3, seed=0)
    assert len(turns) == 3
    for maps in turns:
        assert torch.equal(maps[:, 0], sets.test[:, 0].long())
    assert not torch.equal(turns[0][:, 1], turns[1][:, 1])


def test_the_nearest_picture_is_that_of_all_pairs():
    """Positions and distances are those of a comparison of all pairs in float64, beyond the size of a block, too."""
    chance = torch.Generator().manual_seed(0)
    among = torch.randint(256, (5003, 3, 2, 2), generator=chance, dtype=torch.uint8)
    new = torch.cat([among[[5001, 7]], torch.randint(256, (6, 3, 2, 2), generator=chance, dtype=torch.uint8)])
    where, apart = samples.nearest(new, among)
    a, b = (part.flatten(1).double().numpy() / 255 for part in (new, among))
    table = np.sqrt(((a[:, None] - b[None]) ** 2).mean(2))
    assert where.tolist() == table.argmin(1).tolist()
    np.testing.assert_allclose(apart, table.min(1), atol=1e-12)
    assert where[:2].tolist() == [5001, 7]


def test_copies_are_found_out(model, pictures, sets, monkeypatch):
    """Pictures of the training set have distance 0, others have not, and the words follow the numbers."""
    ask = samples.equal_sets(pictures, sets, 20, seed=0)
    monkeypatch.setattr(
        samples, "decode_pictures", lambda model, codes: ask.train if len(codes) < 20 else pictures.test
    )
    found = samples.copy_distances(
        model, sets, ask._replace(train_codes=ask.train_codes[:5]), pictures.train[:4], pictures.train
    )
    assert found["new pictures"] == found["decoded training pictures"] == 0
    assert found["decoded test pictures"] > 0
    assert "nearer than unseen ones do" in samples.copies_in_words(found)
    assert "no nearer" in samples.copies_in_words(found | {"new pictures": 1.0})


def test_equal_sets_hold_codes_of_their_pictures(model, pictures, sets):
    """Both sets have as many pictures as asked for, or as there are, and the codes are those of the training pictures."""
    ask = samples.equal_sets(pictures, sets, 7, seed=1)
    assert len(ask.test) == len(ask.train) == 7
    assert torch.equal(experiments.encode_pictures(model, ask.train), ask.train_codes)
    assert len(samples.equal_sets(pictures, sets, 1000, seed=1).train) == 20


def test_maps_without_a_prior_have_the_frequencies_they_should(sets):
    """Uniform codes are even, codes by frequency are as frequent as in the training maps, within five standard errors."""
    count = 5000
    found = samples.unlearnt_maps(sets, K, count, seed=0)
    wanted = {
        samples.UNIFORM: np.full(K, 1 / K),
        "codes by frequency": np.bincount(sets.train.flatten(), minlength=K) / sets.train.numel(),
    }
    for name, maps in found.items():
        share = np.bincount(maps.flatten(), minlength=K) / maps.numel()
        error = np.sqrt(wanted[name] * (1 - wanted[name]) / maps.numel())
        assert (np.abs(share - wanted[name]) <= 5 * error).all(), name


class ByColour:
    """A judge whose features are the mean colours of three corners."""

    name = "mean colours"

    def features(self, pictures):
        return pictures[:, :, :2, :2].double().mean((2, 3)) / 255


def test_distances_stand_between_uniform_codes_and_real_pictures(model, pictures, sets):
    """Real pictures are the floor and uniform codes the ceiling: a copy of either closes all or nothing of the gap."""
    ask = samples.equal_sets(pictures, sets, 20, seed=0)
    dark = torch.zeros_like(ask.train)
    found = {samples.UNIFORM: dark, "the same": dark.clone(), samples.DRAWN: ask.train.clone()}
    card = samples.picture_card(ByColour(), ask, found)
    assert list(card) == [*found, samples.REAL]
    assert card["the same"]["kd_closed"] == pytest.approx(0)
    assert card[samples.DRAWN]["kd_closed"] == pytest.approx(1)
    assert card[samples.DRAWN]["fd_closed"] == pytest.approx(1)
    assert card[samples.UNIFORM]["kd"] > card[samples.REAL]["kd"]
    assert "kd_closed" not in card[samples.REAL]


def test_every_class_has_its_row(model, pictures):
    """Rows bear the classes' names and are drawn under their labels; without classes there are four plain rows."""
    network = new_prior(model, pictures)
    rows = samples.class_rows(model, network, 3, seed=5)
    assert [name for name, _ in rows] == ["horse", "zebra"]
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    whole = samples.decode_pictures(model, network.sample(6, labels, seed=5))
    assert torch.equal(torch.cat([row for _, row in rows]), whole)
    plain = data.Pictures("noise", pictures.train, pictures.test, "plain")
    assert [len(row) for _, row in samples.class_rows(model, new_prior(model, plain), 3, seed=5)] == [3] * 4


# ---- the command line


@pytest.fixture
def published(model, pictures, tmp_path):
    weights.save(model, tmp_path / "vqvae.safetensors")
    weights.save(new_prior(model, pictures), tmp_path / "pixelcnn.safetensors")
    return [
        "--weights",
        str(tmp_path / "pixelcnn.safetensors"),
        "--codec",
        str(tmp_path / "vqvae.safetensors"),
    ]


def sample(*words):
    """What `python -m hw2lib sample` prints, or its one line of error."""
    result = click.testing.CliRunner().invoke(command_line.main, ["sample", *map(str, words)])
    return result.output if result.exit_code == 0 else str(result.exception)


def test_the_command_line_draws_a_sheet(model, pictures, published, tmp_path):
    """The sheet holds the pictures of the class that was asked for, in a square, and the same seed draws the same."""
    target = tmp_path / "out.png"
    assert sample(*published, "--n", 5, "--class", "zebra", "--seed", 4, target).strip() == str(target)
    sheet = np.array(Image.open(target))
    assert sheet.shape == (2 * 9 - 1, 3 * 9 - 1, 3)
    network = new_prior(model, pictures)
    drawn = samples.decode_pictures(model, network.sample(5, torch.ones(5, dtype=torch.long), seed=4))
    assert np.array_equal(sheet[:8, 9:17], drawn[1].permute(1, 2, 0).numpy())
    before = target.read_bytes()
    sample(*published, "--n", 5, "--class", "zebra", "--seed", 4, target)
    assert target.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--class", "cow"], "this prior knows no class 'cow': give one of horse, zebra"),
        (["--temperature", "0"], "temperature 0.0: give one above 0"),
        (["--top-k", "9"], "top_k 9: give 1 to 8, or 0 for all codes"),
        (["--weights", "missing.safetensors"], "missing.safetensors is missing"),
    ],
)
def test_the_command_line_says_what_is_wrong(words, message, published, tmp_path):
    """One line, and no file."""
    target = tmp_path / "out.png"
    assert message in sample(*published, *words, target)
    assert not target.exists()


def test_the_sheet_needs_a_kind_of_picture(published, tmp_path):
    """A target without a known ending is refused before any work."""
    assert "must end in .png, .jpg or .webp" in sample(*published, tmp_path / "out.txt")


def test_a_network_is_no_prior(published, tmp_path):
    """A VQ-VAE's file given as the prior's is named as what it is."""
    vqvae = tmp_path / "vqvae.safetensors"
    assert "holds VQVAE, not GatedPixelCNN" in sample(*published, "--weights", vqvae, tmp_path / "out.png")
