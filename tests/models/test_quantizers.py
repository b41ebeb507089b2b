"""Both codebooks: the nearest code, the loss terms and who gets their gradients, the moving averages, restarts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hw2lib.quantizers import EMAVectorQuantizer, VectorQuantizer, code_perplexity


def z_e(batch=2, dim=8, side=4, seed=0, **kw):
    return torch.randn(batch, dim, side, side, generator=torch.Generator().manual_seed(seed), **kw)


def both(restart_below=0.0):
    quantizers = [VectorQuantizer(32, 8, 0.25), EMAVectorQuantizer(32, 8, 0.25, 0.99)]
    for quantizer in quantizers:
        quantizer.restart_below = restart_below
    return quantizers


def kind(quantizer):
    return type(quantizer).__name__


# ---- the nearest code


@given(count=st.integers(1, 3000), codes=st.integers(2, 70), dim=st.integers(1, 20), seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_nearest_code_is_that_of_numpy(count, codes, dim, seed):
    """The blocked matrix product finds, to rounding, the nearest code that NumPy finds in float64 by brute force."""
    quantizer = EMAVectorQuantizer(codes, dim, 0.25)
    random = np.random.default_rng(seed)
    vectors, book = random.normal(size=(count, dim)), random.normal(size=(codes, dim))
    quantizer.codebook.copy_(torch.from_numpy(book))
    found = quantizer.nearest(torch.from_numpy(vectors).float()).numpy()
    distances = ((vectors[:, None] - book[None]) ** 2).sum(2)
    assert (distances[np.arange(count), found] <= distances.min(1) + 1e-5 * (1 + distances.min(1))).all()


@pytest.mark.parametrize("quantizer", both(), ids=kind)
def test_an_output_is_the_codebook_vector_of_its_code(quantizer):
    """z_q at a place equals the codebook row of the code at that place, in the layout (B, D, H, W)."""
    quantizer.eval()
    out = quantizer(z_e())
    assert out.z_q.shape == (2, 8, 4, 4)
    assert out.codes.shape == (2, 4, 4)
    torch.testing.assert_close(out.z_q[1, :, 2, 3], quantizer.codebook[out.codes[1, 2, 3]].detach())


@pytest.mark.parametrize("quantizer", both(), ids=kind)
def test_layout_of_the_input_does_not_matter(quantizer):
    """Channels-last and contiguous encoder outputs give the same codes, losses and gradients."""
    quantizer.eval()
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = z_e().to(memory_format=memory_format).requires_grad_()
        out = quantizer(x)
        (out.z_q.sin().sum() + out.commitment_loss).backward()
        results.append((out.codes, out.commitment_loss, x.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_wrong_depth_is_said():
    """An encoder output whose channels are not D is refused with both numbers in the message."""
    with pytest.raises(ValueError, match=r"\(B, 8, H, W\), not \(2, 5, 4, 4\)"):
        VectorQuantizer(32, 8, 0.25)(z_e(dim=5))


def test_quantizing_under_autocast_stays_in_float32():
    """bf16 around the quantizer changes no code: distances are computed in float32."""
    quantizer = EMAVectorQuantizer(512, 64, 0.25).eval()
    x = z_e(4, 64, 8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = quantizer(x)
    assert inside.z_q.dtype == torch.float32
    assert torch.equal(inside.codes, quantizer(x).codes)


# ---- the loss terms and their gradients


@pytest.mark.parametrize("quantizer", both(), ids=kind)
def test_straight_through_gradient(quantizer):
    """The gradient of the decoder's input arrives unchanged at the encoder's output, and not at the codebook."""
    x = z_e(requires_grad=True)
    out = quantizer(x)
    gradient = torch.randn_like(out.z_q)
    (from_encoder,) = torch.autograd.grad(out.z_q, x, gradient, retain_graph=True)
    assert torch.equal(from_encoder, gradient)
    if isinstance(quantizer, VectorQuantizer):
        assert torch.autograd.grad(out.z_q, quantizer.codebook, gradient, allow_unused=True)[0] is None


def test_each_term_reaches_what_it_should():
    """The codebook term has no gradient for the encoder, the commitment term none for the codebook."""
    quantizer, x = VectorQuantizer(32, 8, 0.25), z_e(requires_grad=True)
    out = quantizer(x)
    assert torch.autograd.grad(out.codebook_loss, x, retain_graph=True, allow_unused=True)[0] is None
    assert torch.autograd.grad(out.commitment_loss, quantizer.codebook, allow_unused=True)[0] is None


@pytest.mark.parametrize("quantizer", both(), ids=kind)
def test_losses_are_those_of_float64(quantizer):
    """Both terms are means over all elements, commitment weighted by beta, as NumPy computes them in float64."""
    quantizer.eval()
    x = z_e()
    out = quantizer(x)
    vectors = x.permute(0, 2, 3, 1).double().numpy().reshape(-1, 8)
    chosen = quantizer.codebook.detach().double().numpy()[out.codes.flatten()]
    error = ((vectors - chosen) ** 2).mean()
    assert out.commitment_loss.item() == pytest.approx(0.25 * error, rel=1e-5)
    assert out.codebook_loss.item() == pytest.approx(error if kind(quantizer) == "VectorQuantizer" else 0, rel=1e-5)


# ---- the moving averages


def test_averages_are_those_of_float64():
    """After three updates the EMA codebook is the one of appendix A.1, recomputed in float64."""
    quantizer = EMAVectorQuantizer(6, 3, 0.25, 0.9)
    book = quantizer.codebook.double().numpy().copy()
    counts, sums = np.ones(6), book.copy()
    for seed in range(3):
        x = z_e(2, 3, 5, seed)
        codes = quantizer(x).codes.flatten().numpy()
        vectors = x.permute(0, 2, 3, 1).double().numpy().reshape(-1, 3)
        for code in range(6):
            counts[code] = 0.9 * counts[code] + 0.1 * (codes == code).sum()
            sums[code] = 0.9 * sums[code] + 0.1 * vectors[codes == code].sum(0)
        book = sums / counts[:, None]
        np.testing.assert_allclose(quantizer.codebook.numpy(), book, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(quantizer.counts.numpy(), counts, rtol=1e-5)


def test_an_unused_code_stays_where_it_is():
    """A code that no vector chooses keeps its place for 3,000 updates: it neither explodes nor decays to the origin."""
    quantizer = EMAVectorQuantizer(4, 8, 0.25, 0.99)
    far = torch.full((8,), 50.0)
    quantizer.codebook[3], quantizer.sums[3] = far, far
    for seed in range(3000):
        quantizer(z_e(1, 8, 2, seed))
    torch.testing.assert_close(quantizer.codebook[3], far, rtol=1e-3, atol=0)


@pytest.mark.parametrize("quantizer", both(restart_below=0.5), ids=kind)
def test_eval_updates_nothing(quantizer):
    """In eval mode no buffer and no parameter changes."""
    quantizer.eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(z_e())
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_averages_are_buffers():
    """The EMA codebook and its averages are saved with the model and unknown to the optimiser."""
    quantizer = EMAVectorQuantizer(32, 8, 0.25)
    assert list(quantizer.parameters()) == []
    assert {"codebook", "sums", "counts"} <= set(quantizer.state_dict())
    assert [name for name, _ in VectorQuantizer(32, 8, 0.25).named_parameters()] == ["codebook"]


# ---- start and restart


@pytest.mark.parametrize("quantizer", both(), ids=kind)
def test_kmeans_start_lies_on_the_data(quantizer):
    """Started on data in 32 tight heaps, the codebook explains nearly all of their variance."""
    torch.manual_seed(1)
    heaps = 10 * torch.randn(32, 8)
    vectors = heaps[torch.arange(32).repeat(40)] + 0.01 * torch.randn(1280, 8)
    x = vectors.view(20, 8, 8, 8).permute(0, 3, 1, 2)
    quantizer.start_from(x)
    quantizer.eval()
    assert quantizer(x).commitment_loss < 0.25 * 0.25 * vectors.var()
    assert torch.equal(quantizer.counts, torch.ones(32))
    if isinstance(quantizer, EMAVectorQuantizer):
        torch.testing.assert_close(quantizer.sums, quantizer.codebook)


@pytest.mark.parametrize("quantizer", both(restart_below=0.03), ids=kind)
def test_dead_codes_are_moved_onto_encoder_outputs(quantizer):
    """A code unused for long ends on a vector of the current batch, with its averages, and the others stay."""
    quantizer.counts.fill_(100.0)
    quantizer.counts[7] = 1e-4
    quantizer.codebook.data[7] = 1e3
    before = quantizer.codebook.detach().clone()
    x = z_e(8)
    quantizer(x)
    vectors = x.permute(0, 2, 3, 1).reshape(-1, 8)
    assert (vectors == quantizer.codebook[7]).all(1).any()
    if isinstance(quantizer, EMAVectorQuantizer):
        torch.testing.assert_close(quantizer.sums[7] / quantizer.counts[7], quantizer.codebook[7])
    else:
        others = torch.arange(32) != 7
        assert torch.equal(quantizer.codebook[others], before[others])


def test_restart_off_moves_nothing():
    """Without restarts a dead code stays dead."""
    quantizer = VectorQuantizer(32, 8, 0.25)
    quantizer.counts.fill_(1e-6)
    before = quantizer.codebook.detach().clone()
    quantizer(z_e())
    assert torch.equal(quantizer.codebook, before)


def test_fewer_vectors_than_codes_can_start_and_restart():
    """A batch with fewer vectors than codes is no error."""
    quantizer = EMAVectorQuantizer(512, 8, 0.25)
    quantizer.restart_below = 0.03
    quantizer.start_from(z_e())
    quantizer(z_e())
    assert quantizer.codebook.isfinite().all()


# ---- perplexity


def test_perplexity_of_known_distributions():
    """Even use of K codes gives K, one code gives 1, and a known uneven use gives exp of its entropy."""
    assert code_perplexity(torch.full((512,), 7)).item() == pytest.approx(512, rel=1e-5)
    assert code_perplexity(torch.tensor([0, 9, 0])).item() == pytest.approx(1)
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert code_perplexity(torch.tensor([2, 1, 1, 0])).item() == pytest.approx(math.exp(entropy), rel=1e-6)
