"""What several rooms' tests share: the smallest networks, pictures and judges."""

from typing import NamedTuple

import pytest
import torch

from hw2lib.cyclegan import CycleGAN, CycleGANConfig
from hw2lib.data import CodeSets, Pictures, toy_domains
from hw2lib.evaluation.codec import encode_pictures
from hw2lib.evaluation.judge import ZEBRA, Looks
from hw2lib.pixelcnn import GatedPixelCNN, PixelCNNConfig
from hw2lib.training import machine
from hw2lib.vqvae import VQVAE, VQVAEConfig

K = 8


class Eye:
    """A judge whose features are mean colours and to whom pictures in which blue is strongest are zebras."""

    def __init__(self):
        self.seen = []

    def look(self, pictures):
        self.seen.append(pictures)
        features = pictures.double().mean((2, 3)) / 255
        probabilities = torch.zeros(len(pictures), 1000)
        probabilities[:, ZEBRA] = (features.argmax(1) == 2).float() * (0.6 + 0.4 * features[:, 2].float())
        probabilities[:, 0] = 0.5
        return Looks(features, probabilities)

    def features(self, pictures):
        return self.look(pictures).features


@pytest.fixture
def eye():
    return Eye()


@pytest.fixture(scope="session")
def toy():
    """Drawn domains with 6 test pairs."""
    return toy_domains(32, train=3, test=6)


@pytest.fixture(scope="session")
def trained(toy):
    config = CycleGANConfig(size=32, base_channels=2, blocks=1, ema_decay=0.9, learning_rate=0.01)
    model = CycleGAN(config)
    model.setup(machine("cpu", "32"), total_steps=20)
    for _ in range(3):
        model.step((toy.test_a[:1], toy.test_b[:1]))
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def translator(trained):
    """A CycleGAN of three steps, whose averages differ from its generators."""
    model = CycleGAN(CycleGANConfig(size=32, base_channels=2, blocks=1, ema_decay=0.9))
    model.setup(machine("cpu", "32"), total_steps=20)
    model.load_state_dict(trained)
    return model.eval()


class Coded(NamedTuple):
    """The smallest VQ-VAE, noise for it and the codes of that."""

    model: VQVAE
    pictures: Pictures
    sets: CodeSets


def coded(classes: tuple[str, ...]) -> Coded:
    """8 x 8 pixels, maps of 2 x 2 codes, all K of which occur."""
    sizes = {"size": 8, "hidden_channels": 4, "residual_channels": 2, "residual_blocks": 1}
    model = VQVAE(VQVAEConfig(**sizes, num_codes=K, code_dim=3)).eval()
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        outputs = model.encoder(torch.rand((2, 3, 8, 8), generator=chance) - 0.5)
        model.quantizer.codebook.copy_(outputs.permute(0, 2, 3, 1).reshape(K, 3))
    chance = torch.Generator().manual_seed(0)
    train, test = (torch.randint(256, (count, 3, 8, 8), generator=chance, dtype=torch.uint8) for count in (60, 20))
    labels = torch.arange(60).remainder(2).to(torch.uint8) if classes else None
    cut = (lambda part: labels[part]) if classes else (lambda part: None)
    pictures = Pictures("noise", train, test, "0", classes, labels, cut(slice(20)))
    codes = encode_pictures(model, train)
    sets = CodeSets(
        codes[6:], codes[:6], encode_pictures(model, test), codes, cut(slice(6, 60)), cut(slice(6)), cut(slice(20)), {}
    )
    return Coded(model, pictures, sets)


@pytest.fixture(params=[("horse", "zebra"), ()], ids=["classes", "plain"])
def either(request):
    """With classes and without."""
    return coded(request.param)


@pytest.fixture
def labelled():
    return coded(("horse", "zebra"))


@pytest.fixture
def new_prior():
    """Makes an untrained prior for what was coded, that knows its classes."""

    def make(found: Coded) -> GatedPixelCNN:
        names = found.pictures.classes
        config = PixelCNNConfig(
            num_codes=K, height=2, width=2, classes=len(names), class_names=names, channels=4, embedding=4, layers=2
        )
        network = GatedPixelCNN(config).eval()
        with torch.no_grad():
            # First weights know no class.
            for layer in network.layers if names else ():
                layer.class_bias.weight.normal_(generator=torch.Generator().manual_seed(0))
        return network

    return make
