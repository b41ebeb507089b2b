"""The second judge knows what it was trained on, and nothing else."""

from dataclasses import replace

import pytest
import torch

from hw2lib.data import toy_domains
from hw2lib.evaluation.second_judge import SecondJudge


@pytest.fixture(scope="module")
def drawn():
    return toy_domains(32, train=60, test=40)


def weights(judge):
    return torch.cat([weight.detach().flatten() for weight in judge.network.parameters()])


def test_it_knows_pictures_that_it_has_not_seen(drawn):
    """After few steps it tells drawn zebras from drawn horses that it was not trained on, of any size."""
    judge = SecondJudge(drawn, steps=60)
    assert judge.share_of_b(drawn.test_b) > 0.9 > 0.1 > judge.share_of_b(drawn.test_a)
    large = drawn.test_b.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert judge.share_of_b(large) > 0.9


def test_it_depends_on_the_seed_and_the_training_pictures_alone(drawn):
    """The same seed gives the same weights whatever the test pictures and the caller's random numbers, which stay."""
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = weights(SecondJudge(drawn, steps=3))
    assert torch.equal(torch.get_rng_state(), state) and one.dtype == torch.float32
    torch.manual_seed(2)
    others = replace(drawn, test_a=drawn.test_b, test_b=drawn.test_a)
    assert torch.equal(weights(SecondJudge(others, steps=3)), one)
    assert not torch.equal(weights(SecondJudge(drawn, seed=1, steps=3)), one)
    assert not torch.equal(weights(SecondJudge(replace(drawn, train_a=drawn.train_b), steps=3)), one)


def test_large_pictures_are_judged_small():
    """Whatever the size of the translations, it looks at 128 pixels at most: its cost does not grow with theirs."""
    blank = torch.zeros(3, 3, 161, 161, dtype=torch.uint8)
    drawn = replace(toy_domains(32, train=3, test=3), train_a=blank, train_b=blank, size=144)
    judge, seen = SecondJudge(drawn, steps=1), []
    judge.network.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].shape))
    judge.share_of_b(blank)
    assert seen == [(3, 3, 128, 128)]
