"""What a prior draws is what its codes decode to, and is judged beside equally many pictures."""

import numpy as np
import pytest
import torch

from hw2lib.evaluation import new_pictures
from hw2lib.evaluation.codec import encode_pictures
from hw2lib.evaluation.new_pictures import decode_pictures
from hw2lib.pixelcnn import CodesError
from hw2lib.training import Run

K = 8


def test_the_map_fills_in_raster_order(labelled, new_prior):
    """Each moment has the codes of the one before and some more; the last is the sample; nothing drawn is -1."""
    model, sets, network = labelled.model, labelled.sets, new_prior(labelled)
    moments = new_pictures.filling(model, network, sets, 1, seed=3, moments=5)
    assert [moment.drawn for moment in moments] == [0, 1, 2, 3, 4]
    whole = network.sample(1, torch.tensor([1]), seed=3)[0]
    for moment in moments:
        flat = moment.codes.flatten()
        assert torch.equal(flat[: moment.drawn], whole.flatten()[: moment.drawn])
        assert (flat[moment.drawn :] == -1).all()
    assert torch.equal(moments[-1].picture, decode_pictures(model, whole[None])[0])
    commonest = sets.train.flatten(1).mode(0).values.view(1, 2, 2).long()
    assert torch.equal(moments[0].picture, decode_pictures(model, commonest)[0])


def test_completions_keep_the_upper_half(labelled, new_prior, monkeypatch):
    """The upper codes stay as given in every turn; the lower ones are drawn anew in each."""
    monkeypatch.setattr(new_pictures, "decode_pictures", lambda model, codes: codes)
    sets = labelled.sets
    turns = new_pictures.completions(labelled.model, new_prior(labelled), sets.test, sets.test_labels, 3, seed=0)
    assert len(turns) == 3
    for maps in turns:
        assert torch.equal(maps[:, 0], sets.test[:, 0].long())
    assert not torch.equal(turns[0][:, 1], turns[1][:, 1])


def test_every_class_has_its_row(either, new_prior):
    """Rows bear the classes' names and are drawn under their labels, behind the likeliest; else there are four rows."""
    network, classes = new_prior(either), either.pictures.classes
    rows = new_pictures.class_rows(either.model, network, 3, seed=5)
    assert tuple(rows) == (classes or ("new 1", "new 2", "new 3", "new 4"))
    labels = torch.tensor([0, 0, 0, 1, 1, 1]) if classes else None
    whole = decode_pictures(either.model, network.sample(3 * len(rows), labels, seed=5))
    assert torch.equal(torch.cat([row[1:] for row in rows.values()]), whole)
    first = network.sample(1, labels[:1] if classes else None, seed=9, top_k=1)
    assert torch.equal(rows[next(iter(rows))][:1], decode_pictures(either.model, first))


def test_labels_are_those_of_the_name(either, new_prior):
    """A name gives its label, no name all in turn, and an unknown one is one line that says which there are."""
    network = new_prior(either)
    if either.pictures.classes:
        assert new_pictures.labels_for(network, 3, "zebra").tolist() == [1, 1, 1]
        assert new_pictures.labels_for(network, 3, None).tolist() == [0, 1, 0]
    else:
        assert new_pictures.labels_for(network, 3, None) is None
    with pytest.raises(
        CodesError, match=r"knows no class 'cow': (give one of horse, zebra|it was trained without names)"
    ):
        new_pictures.labels_for(network, 3, "cow")


# ---- copies


def test_the_nearest_picture_is_that_of_all_pairs():
    """Positions and distances are those of a comparison of all pairs in float64, beyond the size of a block, too."""
    chance = torch.Generator().manual_seed(0)
    among = torch.randint(256, (5003, 3, 2, 2), generator=chance, dtype=torch.uint8)
    new = torch.cat([among[[5001, 7]], torch.randint(256, (6, 3, 2, 2), generator=chance, dtype=torch.uint8)])
    where, apart = new_pictures.nearest(new, among)
    a, b = (part.flatten(1).double().numpy() / 255 for part in (new, among))
    table = np.sqrt(((a[:, None] - b[None]) ** 2).mean(2))
    assert where.tolist() == table.argmin(1).tolist()
    np.testing.assert_allclose(apart, table.min(1), atol=1e-12)
    assert where[:2].tolist() == [5001, 7]


def test_copies_are_found_out(labelled, monkeypatch):
    """Pictures of the training set have distance 0, others have not."""
    model, pictures, sets = labelled
    ask = new_pictures.equal_sets(pictures, sets, 5, seed=0)
    monkeypatch.setattr(
        new_pictures, "decode_pictures", lambda model, codes: ask.train if len(codes) < 20 else pictures.test
    )
    found = new_pictures.copy_distances(model, sets, ask, pictures.train[:4], pictures.train)
    assert found["new_pictures"] == found["decoded_train"] == 0
    assert found["decoded_test"] > 0


def test_neighbours_are_the_nearest_by_each_measure(labelled, new_prior, eye, tmp_path):
    """Below each new picture stands the training picture nearest in pixels, and in features; which ones, is kept."""
    run, pictures = Run("pixelcnn", {}, tmp_path), labelled.pictures
    ask = (labelled.model, new_prior(labelled))
    found = new_pictures.neighbours(run, *ask, eye, pictures, label=1, most=5, seed=2)
    assert torch.equal(found["by pixels"], pictures.train[new_pictures.nearest(found["new"], pictures.train)[0]])
    alike = pictures.train[pictures.train_labels == 1][:5]
    for new, near in zip(found["new"], found["by features"], strict=True):
        apart = (eye.features(alike) - eye.features(new[None])).norm(dim=1)
        assert torch.equal(near, alike[apart.argmin()])
    again = new_pictures.neighbours(run, *ask, None, pictures, label=1, most=5, seed=2)
    assert all(torch.equal(again[name], found[name]) for name in found)


# ---- the card


def test_equal_sets_hold_codes_of_their_pictures(labelled):
    """Both sets have as many pictures as asked for, or as there are, and the codes are those of the training pictures."""
    model, pictures, sets = labelled
    ask = new_pictures.equal_sets(pictures, sets, 7, seed=1)
    assert len(ask.test) == len(ask.train) == 7
    assert torch.equal(encode_pictures(model, ask.train), ask.train_codes)
    assert len(new_pictures.equal_sets(pictures, sets, 1000, seed=1).train) == 20


def test_maps_without_a_prior_have_the_frequencies_they_should(labelled):
    """Uniform codes are even, codes by frequency are as frequent as in the training maps, within five standard errors."""
    train = labelled.sets.train
    found = new_pictures.unlearnt_maps(labelled.sets, K, 5000, seed=0)
    frequent = np.bincount(train.flatten(), minlength=K) / train.numel()
    for name, wanted in {"uniform_codes": np.full(K, 1 / K), "codes_by_frequency": frequent}.items():
        share = np.bincount(found[name].flatten(), minlength=K) / found[name].numel()
        error = np.sqrt(wanted * (1 - wanted) / found[name].numel())
        assert (np.abs(share - wanted) <= 5 * error).all(), name


def test_distances_stand_between_uniform_codes_and_real_pictures(labelled, eye):
    """Real pictures are the floor and uniform codes the ceiling: a copy of either closes all or nothing of the gap."""
    ask = new_pictures.equal_sets(labelled.pictures, labelled.sets, 20, seed=0)
    dark = torch.zeros_like(ask.train)
    found = {"uniform_codes": dark, "codes_by_frequency": dark.clone(), "new_pictures": ask.train.clone()}
    card = new_pictures.picture_card(eye, ask, found)
    assert list(card) == [*found, "real_pictures"]
    assert card["codes_by_frequency"]["kd_closed"] == pytest.approx(0)
    assert card["new_pictures"]["kd_closed"] == pytest.approx(1)
    assert card["new_pictures"]["fd_closed"] == pytest.approx(1)
    assert card["uniform_codes"]["kd"] > card["real_pictures"]["kd"]
    assert "kd_closed" not in card["real_pictures"]
