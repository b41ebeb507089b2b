"""Tables: results in, cells out."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hw2lib.networks import ResnetGenerator
from hw2lib.report import tables, titles
from hw2lib.studies import codebooks
from hw2lib.training import Run

ENTRY = {"mean": 1.5, "deviation": 0.25, "min": 1.0, "max": 2.0, "count": 3}


def test_an_entry_has_its_spread_where_there_is_one():
    """Mean and deviation of several seeds, the mean of one; far apart values are given by their range."""
    assert titles.plus_minus(ENTRY, 1) == "1.5 ± 0.2"
    assert titles.plus_minus(ENTRY | {"count": 1}, 1) == "1.5"
    assert titles.size(ENTRY | {"max": 1.9}) == "1.5"
    assert titles.size(ENTRY | {"max": 2e4}) == "1 to 20,000"


def test_titles():
    """What has no title of its own is shown as it is, with spaces."""
    assert titles.title("average") == "averaged"
    assert titles.title("no_cycle_loss") == "no cycle loss"


def test_what_was_not_measured_is_a_dash():
    """A variant without a way back has no cycle error, doing nothing has none to be asked for."""
    rows = {row["case"]: row for row in tables.scores(Run.published("ablations"), ["full", "siamese_for_cycle_loss"])}
    assert list(rows) == [
        "doing nothing",
        "all animals in one colour",
        "full",
        "siamese in place of the cycle loss",
        "true counterparts",
    ]
    nothing, flat, full, siamese, truth = (row["cycle error"] for row in rows.values())
    assert (nothing, flat, siamese, truth) == ("", "", "–", "") and "±" in full


def test_cards_of_drawn_pictures_and_of_others_than_zebras():
    """A card has the columns that were measured: the truth of drawn pictures, shares of classes where there are zebras."""
    (drawn,) = tables.card({"last": {"truth": 0.1234, "background": 0.05}})
    assert drawn == {"pictures": "last", "difference to the truth": "0.123", "change of the background": "0.050"}
    (card,) = tables.card({"real_pictures": {"kd": 0.1, "kd_error": 0.01, "fd": 12.34}})
    assert list(card.values()) == ["real pictures", "0.100 ± 0.010", "", "12.3", ""]
    row = {"kd": 0.1, "kd_error": 0.01, "fd": 12.34}
    (card,) = tables.card({"last": row | {"zebra": 0.25, "hoofed": 0.5}}, {"last": {"second_b": 0.125}, "other": {}})
    shares = {"called zebra": "25.0%", "called another hoofed animal": "50.0%", "zebra to the second judge": "12.5%"}
    assert dict([*card.items()][1:4]) == shares
    assert tables.card({"last": row}, {"last": {"second_b": 0.125}})[0]["B to the second judge"] == "12.5%"
    assert tables.card({"last": row | {"kd": -0.0001}})[0]["KD"] == "0.000 ± 0.010"


def test_trainings_stand_side_by_side():
    """Each direction and training: KD at the end, what it was in the last five epochs, and how much of the gap that closes."""
    course = np.array([0.5, 0.3, 0.1, 0.2, 0.15, 0.12])
    epochs = {
        "average_kd_ab": course,
        "average_kd_ba": course / 2,
        **dict.fromkeys(("average_zebra_ab", "average_zebra_ba"), course),
    }
    run = SimpleNamespace(config={"model": {"seed": 1}}, epochs=epochs)
    ends = {"doing_nothing": {"kd": 0.21}, "real_pictures": {"kd": 0.01}}
    there, back = tables.trainings([run], {"a": ends, "b": ends})
    assert there == {
        **{"direction": "A to B", "seed": "1", "epochs": "6", "KD": "0.120", "last five epochs": "0.100 to 0.300"},
        **{"gap closed": "45%", "called zebra": "12.0%"},
    }
    assert (back["direction"], back["KD"], back["gap closed"]) == ("B to A", "0.060", "75%")


def test_disturbances_are_shown_with_their_control():
    """A row for each disturbance but none: what it changes and moves, of translations and of real pictures."""
    numbers = {"change": 0.02, "moved": 0.05, "real_change": 0.01, "real_moved": 0.004, "cycle": 0.1}
    (row,) = tables.hidden({"nothing": dict.fromkeys(numbers, 0.0), "chroma_2": numbers})
    assert list(row.values()) == ["colours at 1/2 of the resolution", "0.020", "0.050", "0.010", "0.004"]


def test_a_codec_without_error_stands_last():
    """Of pictures of one colour each a thumbnail loses nothing: its PSNR is infinite, and the table is still made."""
    codecs = {"mean_picture": 0.1, "thumbnail_4": 0.0, "thumbnail_8": 0.0}
    rows = tables.codecs({"test_mse": 0.01, "test_nmse": 0.1, "bits": 576, "codecs": codecs})
    assert [row["PSNR, dB"] for row in rows] == ["10.00", "20.00", "inf", "inf"]


def test_layers_are_passed_in_order():
    """Layers with weights, alike ones once, with what each makes of a picture; all weights are counted."""
    network = ResnetGenerator(4, blocks=3)
    rows = tables.layers(network, torch.zeros(2, 3, 16, 16))
    assert [row["layer"] for row in rows][:4] == [
        "convolution 7 x 7", "convolution 3 x 3, stride 2", "convolution 3 x 3, stride 2", "residual block, 3 times",
    ]  # fmt: skip
    assert [row["output, C x H x W"] for row in rows][2:] == [
        "16 x 4 x 4", "16 x 4 x 4", "8 x 8 x 8", "4 x 16 x 16", "3 x 16 x 16",
    ]  # fmt: skip
    assert sum(int(row["weights"].replace(",", "")) for row in rows) == tables.count_weights(network)
    assert not any(layer._forward_hooks for layer in network.modules())


def test_losses_of_a_step():
    """What a step returns, with four digits, whether tensors of one step or numbers."""
    rows = tables.losses({"g_ab": torch.tensor([0.123456]), "vq": nn.Parameter(torch.tensor(2.0))})
    assert [tuple(row.values()) for row in rows] == [
        ("adversarial loss of the generator from A to B", "0.1235"),
        ("VQ loss", "2"),
    ]


def test_provenance_of_a_study_and_of_a_training():
    """A study says how many trainings and which seeds it has and a run that was only loaded that it was."""
    study = tables.provenance(Run.published("linear-vae"))
    assert study["run"].endswith(" (published run, loaded)")
    assert study["seed"] == "0, 1, 2"
    assert study["computed"].startswith("18 trainings, cpu")
    assert study["data"] == "drawn by the experiment"
    assert tables.provenance(Run.published("cyclegan"))["data"].startswith("horse2zebra, 2,401 + 260, checksum ")


def test_the_gradients_of_the_terms_are_the_published_ones():
    """Which term teaches which part, computed again, is what the report shows."""
    published, again = Run.published("vqvae").metrics["gradient_facts"], codebooks.gradient_facts(0)
    assert {name: value == 0 for name, value in again.items()} == {name: not value for name, value in published.items()}
    assert again == pytest.approx(published, rel=1e-6)
