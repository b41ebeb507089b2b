"""What codes cost is recomputed, identities hold, and the prior of a run is measured once for what was asked."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hw2lib.evaluation import likelihoods, new_pictures
from hw2lib.evaluation.codec import code_counts
from hw2lib.training import Run

K = 8


def test_without_a_class_all_are_tried(labelled, new_prior):
    """p(map) is the mean over the classes of p(map | class), recomputed in NumPy, and the likeliest class is named."""
    network, codes = new_prior(labelled), labelled.sets.test
    found = likelihoods.without_class(network, codes)
    costs = np.stack([network.nll(codes, torch.full((20,), label)).double().numpy() for label in (0, 1)], 1)
    likely = np.log(np.exp(-4 * costs).mean(1))
    np.testing.assert_allclose(found.nll, -likely / 4, rtol=1e-10)
    assert found.named.tolist() == costs.argmin(1).tolist()
    # Both classes are named.
    assert 0 < found.named.double().mean() < 1


def test_likelihoods_stand_beside_priors_that_know_less(either, new_prior):
    """Uniform is log K with no error; a prior with classes has one row more and names them, one without does not."""
    classes = bool(either.pictures.classes)
    found = likelihoods.likelihoods(new_prior(either), either.sets)
    rows = found["rows"]
    assert list(rows) == ["uniform", "frequency", "place", "seen", "told"][: 4 + classes]
    assert rows["uniform"] == {"nats": pytest.approx(math.log(K)), "error": 0.0}
    assert likelihoods.levels(rows) == {name: rows[name]["nats"] for name in ("uniform", "frequency", "place")}
    assert 0 <= found["class_named"] <= 1 if classes else found["class_named"] is None


def test_identities_of_the_divergence_hold(either, new_prior):
    """Each divergence, by its definition, is what the identity says: log K, h w log K, -log p, log K - log perplexity."""
    found = likelihoods.identities(new_prior(either), either.sets)
    assert list(found) == ["one_code", "one_picture", "learnt_prior", "usage"]
    for name, sides in found.items():
        assert sides["kl"] == pytest.approx(sides["other_side"], rel=1e-6), name
    assert found["one_code"]["kl"] == pytest.approx(math.log(K), rel=1e-12)
    assert found["one_picture"]["kl"] == pytest.approx(4 * math.log(K), rel=1e-12)
    counts = code_counts(either.sets.test, K)
    share = counts[counts > 0] / counts.sum()
    assert found["usage"]["kl"] == pytest.approx((share * np.log(share * K)).sum(), rel=1e-9)


def test_a_resumed_run_remembers_its_best_epoch(labelled, new_prior, tmp_path):
    """Epochs before a resume count: a worse epoch after it does not replace the chosen weights."""
    network = new_prior(labelled)
    network.fabric = SimpleNamespace(is_global_zero=True)
    (tmp_path / "epochs.csv").write_text("epoch,step,held_out_nll\n1,5,0.001\n")
    assert likelihoods.examine(network, labelled.sets, tmp_path, 2)["held_out_nll"] > 0.001
    assert not (tmp_path / "published.safetensors").exists()
    (tmp_path / "epochs.csv").write_text("epoch,step,held_out_nll\n1,5,100\n")
    likelihoods.examine(network, labelled.sets, tmp_path, 2)
    assert (tmp_path / "published.safetensors").exists()


# ---- one call


def test_a_prior_is_measured_once_for_what_was_asked(labelled, new_prior, eye, tmp_path, monkeypatch):
    """What is kept is what the rooms compute; asked for sets of another size, only what depends on it is measured anew."""
    model, pictures, sets = labelled
    run, network = Run("pixelcnn", {}, tmp_path), new_prior(labelled)

    def measure(judged):
        return likelihoods.measure_prior(run, network, model, sets, pictures, eye, judged, seed=3)

    found = measure(10)
    assert {name: run.metrics[name] for name in found} == found
    assert found["likelihood"] == likelihoods.likelihoods(network, sets)
    assert found["identities"] == likelihoods.identities(network, sets)
    ask = new_pictures.equal_sets(pictures, sets, 10, seed=3)
    drawn = new_pictures.card_sets(model, network, sets, ask, seed=3)
    assert found["judged"] == {"pictures": 10}
    assert found["card"] == new_pictures.picture_card(eye, ask, drawn)
    assert found["copies"] == new_pictures.copy_distances(model, sets, ask, drawn["new_pictures"], pictures.train)
    for room in ("likelihoods", "identities"):
        monkeypatch.setattr(likelihoods, room, lambda *_: pytest.fail("measured again"))
    more = measure(20)
    assert more["card"] != found["card"]
    monkeypatch.setattr(likelihoods, "card_sets", lambda *_: pytest.fail("drawn again"))
    assert measure(20) == more


def test_the_published_prior_is_read():
    """Of the published run nothing is measured, whatever is asked for, and nothing else is needed."""
    run = Run.published("pixelcnn")
    found = likelihoods.measure_prior(run, None, None, None, None, None, 7, 7)
    assert found == {name: run.metrics[name] for name in ("likelihood", "identities", "judged", "card", "copies")}
