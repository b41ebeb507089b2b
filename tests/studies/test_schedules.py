"""Whole trainings of a VQ-VAE, otherwise: how long, how set, and scored on which pictures."""

from dataclasses import replace

import pytest
import torch

from hw2lib import __main__ as command_line
from hw2lib import parameters, recipes
from hw2lib.parameters import VQVAEParameters
from hw2lib.studies import schedules


@pytest.fixture
def asked(tmp_path):
    changes = ("epochs=2", "batch_size=512", f"runs={tmp_path}")
    return parameters.given(VQVAEParameters, parameters.preset("smoke", "02_vqvae"), changes)


def test_each_training_is_as_long_as_its_name_says_and_only_two_hold_pictures_out(asked):
    config, pictures = recipes.vqvae_setup(asked)
    pictures = replace(pictures, train=pictures.train[:500], train_labels=None, test=pictures.test[:50])
    runs = {name: schedules.whole_training(name, config, pictures, asked) for name in schedules.EPOCHS}
    assert [len(run.epochs["epoch"]) for run in runs.values()] == [1, 4, 2, 2]
    assert [name for name, run in runs.items() if "held_out_nmse" in run.epochs] == ["vqvae-usual", "vqvae-held-out"]
    assert len({run.config["data"]["train"] for run in runs.values()}) == 2
    assert runs["vqvae-held-out"].config["model"] == runs["vqvae-half"].config["model"]


def test_the_command_line_trains_each_of_them():
    """As several processes are started by it: of a name that it did not know nothing would be trained."""
    assert {*schedules.EPOCHS} <= {*command_line.TRAINED}


def test_none_is_made_unless_asked_for(asked):
    config, pictures = recipes.vqvae_setup(asked)
    none = asked.model_copy(update={"longer_runs": False})
    assert schedules.whole_training("vqvae-half", config, pictures, none) is None


def test_a_tenth_is_held_out_and_nothing_is_lost_or_shown_twice(asked):
    _, pictures = recipes.vqvae_setup(asked)
    fewer, held = schedules.with_held_out(pictures)
    assert len(held) == len(pictures.train) // 10
    both = torch.cat([fewer.train, held]).flatten(1)
    assert torch.equal(both.unique(dim=0), pictures.train.flatten(1).unique(dim=0)) and len(both) == len(pictures.train)


def test_the_usual_loss_adds_plain_means(asked):
    """beta times latent_weight is the config's beta again, and the averages begin as noise, with counts of 0."""
    config, _ = recipes.vqvae_setup(asked)
    model = schedules.usual(config)
    assert model.latent_weight * model.config.commitment == pytest.approx(config.commitment)
    assert float(model.quantizer.counts.sum()) == 0
    assert not (model.config.kmeans_init or model.config.restart_dead)
