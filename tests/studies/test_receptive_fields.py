"""Receptive fields: a leak and a gap would be found, and the published prior has neither."""

import torch

from hw2lib import ROOT
from hw2lib.pixelcnn import GatedPixelCNN
from hw2lib.studies.receptive_fields import gated, leaks_and_gaps, masked, sees
from hw2lib.training import Run


def test_a_leak_and_a_gap_would_be_found():
    """Logits that see their own place, and nothing before it, are 64 leaks and 2016 gaps."""
    x = torch.randn(1, 3, 8, 8).repeat(64, 1, 1, 1).requires_grad_()
    assert leaks_and_gaps({"own": sees(x * 2, x)}) == {"own": {"leaks": 64, "gaps": 2016}}


def test_a_masked_pixelcnn_has_a_blind_spot():
    """The plain PixelCNN never sees some of the past places, to the right and above, the same ones at each call."""
    found = masked(12, 8, 8)
    unseen = ~found[36].view(8, 8)[:4]  # of row 4, column 4: the rows above
    assert unseen[3, 6:].all()
    assert not unseen[:, :5].any()
    assert torch.equal(found, masked(12, 8, 8))


def test_what_the_published_prior_sees():
    """All pairs of places, by gradients of the published weights: no leak and no gap; masked kernels have 322 gaps."""
    prior = GatedPixelCNN.load(ROOT / "weights" / "pixelcnn.safetensors")
    found = leaks_and_gaps({"gated": gated(prior), "masked": masked(12, 8, 8)})
    assert found == Run.published("pixelcnn").metrics["fields"]
    assert found == {"gated": {"leaks": 0, "gaps": 0}, "masked": {"leaks": 0, "gaps": 322}}
