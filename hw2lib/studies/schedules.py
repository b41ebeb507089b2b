"""Was the training long enough, and what do the curves owe to its settings? The whole training once more, otherwise.

"vqvae-half" and "vqvae-double" have half and twice the epochs, each with its whole schedule. "vqvae-usual" is set as the
best-known notebook of this network (zalandoresearch/pytorch-vq-vae). It and "vqvae-held-out", which is set as the run itself,
keep a tenth of the training pictures for scores: nobody has chosen anything by them.
"""

from dataclasses import replace

import torch

from hw2lib.data import Pictures, random_stream
from hw2lib.parameters import VQVAEParameters
from hw2lib.recipes import fit_vqvae
from hw2lib.studies.codebooks import with_noise_averages
from hw2lib.training import Run
from hw2lib.vqvae import VQVAE, VQVAEConfig

# Of those of the run itself.
EPOCHS = {"vqvae-half": 0.5, "vqvae-double": 2.0, "vqvae-usual": 1.0, "vqvae-held-out": 1.0}
USUAL = {"decay": 0.99, "kmeans_init": False, "restart_dead": False, "learning_rate": 1e-3, "schedule": "constant"}


def whole_training(name: str, config: VQVAEConfig, pictures: Pictures, asked: VQVAEParameters) -> Run | None:
    """The run of this name in EPOCHS, published or made anew, as `asked` says; None if it says that there is none."""
    if asked.experiments == "published":
        return Run.published(name)
    if not asked.longer_runs:
        return None
    model = usual(config) if name == "vqvae-usual" else VQVAE(config)
    held_out = None
    if name in ("vqvae-usual", "vqvae-held-out"):
        pictures, held_out = with_held_out(pictures)
    epochs = max(1, round(EPOCHS[name] * asked.epochs))
    return fit_vqvae(model, pictures, asked, asked.batch_size, held_out, name=name, epochs=epochs, numbers_only=True)


def usual(config: VQVAEConfig) -> VQVAE:
    """A network for the same pictures as others set it: averages that start as noise, and the loss of plain means.

    In these the commitment is not multiplied by `latent_weight`; here beta is divided by it.
    """
    plain = config.commitment / VQVAE(config).latent_weight
    return with_noise_averages(config.model_copy(update={**USUAL, "codebook": "ema", "commitment": plain}))


def with_held_out(pictures: Pictures) -> tuple[Pictures, torch.Tensor]:
    """The pictures without a tenth of the training pictures, and this tenth, (N, 3, H, W), drawn at random."""
    order = torch.randperm(len(pictures.train), generator=random_stream(1))
    held, kept = order.tensor_split([max(1, len(order) // 10)])
    labels = pictures.train_labels
    fewer = replace(
        pictures, train=pictures.train[kept], train_labels=None if labels is None else labels[kept], mapped=""
    )
    return fewer, pictures.train[held]
