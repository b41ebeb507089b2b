"""VQ-VAE: its network, the weights of its terms, one step."""

import pytest
import torch
import torch.nn.functional as F

from hw2lib.vqvae import VQVAE, VQVAEConfig

SMALL = {"hidden_channels": 16, "residual_channels": 8, "num_codes": 32, "code_dim": 8}


@pytest.fixture
def ready(machine):
    """ready(precision, **options) is a small model before its first step of 100."""

    def make(precision="32", **options):
        model = VQVAE(VQVAEConfig(**SMALL | options))
        model.setup(machine(precision), total_steps=100)
        return model.train()

    return make


def test_parameter_count():
    """The network has the number of weights that its layers add up to: the residual blocks are separate ones."""
    with torch.device("meta"):
        found = [sum(p.numel() for p in VQVAE(VQVAEConfig(residual_blocks=blocks)).parameters()) for blocks in (2, 3)]
    assert found == [662_723, 744_963]


def test_shapes_and_round_trip():
    """32 x 32 pixels become 8 x 8 codes; decode(encode(x)) is the reconstruction that forward gives."""
    model = VQVAE(VQVAEConfig(**SMALL)).eval()
    x = torch.rand(3, 3, 32, 32) - 0.5
    codes = model.encode(x)
    assert codes.shape == (3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(model.decode(codes), model(x)[0])


def test_pictures_survive_the_conversion():
    """Every byte value comes back from network range, and what lies outside is clamped."""
    bytes_ = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    x = VQVAE.to_network(bytes_)
    assert x.min() == -0.5
    assert x.max() == 0.5
    assert torch.equal(VQVAE.to_pictures(x), bytes_)
    assert VQVAE.to_pictures(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_decode_refuses_codes_out_of_range():
    """Codes that the codebook does not have are refused with both ranges in the message."""
    with pytest.raises(ValueError, match="0 to 31, not 0 to 32"):
        VQVAE(VQVAEConfig(**SMALL)).decode(torch.tensor([[[0, 32]]]))


def test_a_step_reports_the_terms(pictures, ready):
    """The reported terms fit together: NMSE is MSE over the data's variance, vq is the sum of its two terms."""
    for codebook in ("ema", "gradient"):
        terms = ready(codebook=codebook, data_variance=0.07).step(pictures)
        torch.testing.assert_close(terms["reconstruction"], terms["mse"] / 0.07)
        torch.testing.assert_close(terms["vq"], terms["codebook"] + terms["commitment"])


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_gradients_of_the_path_in_use_are_those_of_float64(pictures, precision, ready):
    """Channels-last, fused and blocked, at batch size 1 and 8, a step's gradients agree with plain float64."""
    for batch in (pictures[:1], pictures[:8]):
        model = ready(precision, codebook="gradient", kmeans_init=False, restart_dead=False)
        plain = VQVAE(model.config).double()
        x = plain.to_network(batch).double()
        z = plain.encoder(x)
        vectors = z.permute(0, 2, 3, 1).reshape(-1, 8)
        book = plain.quantizer.codebook
        codes = model.encode(model.to_network(batch)).flatten()  # the same codes: near ties may fall either way
        chosen = book[codes]
        commitment = 0.25 * (vectors - chosen.detach()).square().mean()
        z_q = (vectors + (chosen - vectors).detach()).view(len(batch), 8, 8, 8).permute(0, 3, 1, 2)
        reconstruction = (plain.decoder(z_q) - x).square().mean() / model.config.data_variance
        codebook = (chosen - vectors.detach()).square().mean()
        # Sums over a picture, as equation 3 has them, over half its numbers.
        numbers, latents = 3 * 32 * 32, 8 * 8 * 8
        (reconstruction + latents * (codebook + commitment) / (numbers / 2)).backward()
        model.step(batch)
        for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
            error = (ours.grad.double() - theirs.grad).norm() / (theirs.grad.norm() + 1e-12)
            assert error < (1e-4 if precision == "32" else 0.1), (name, error)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_training_learns(codebook, ready):
    """100 updates on 16 smooth pictures bring the NMSE far below that of a constant, with many codes in use."""
    torch.manual_seed(0)
    coarse = torch.rand(16, 3, 4, 4)
    smooth = (F.interpolate(coarse, size=32, mode="bilinear") * 255).to(torch.uint8)
    variance = float((smooth.double() / 255).var())
    model = ready(hidden_channels=32, codebook=codebook, data_variance=variance, learning_rate=3e-3)
    for _ in range(100):
        terms = model.step(smooth)
    assert terms["reconstruction"] < 0.5
    assert terms["perplexity"] > 8
