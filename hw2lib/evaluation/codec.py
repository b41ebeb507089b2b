"""What is measured on trained networks: here rooms are wired together, so that notebooks only call."""

import numpy as np
import torch
from torch import Tensor

from hw2lib.evaluation import metrics
from hw2lib.training.progress import duration
from hw2lib.training.runs import Run
from hw2lib.vqvae import VQVAE

# What the best-known notebooks of the same network print for their training batches after 1,000 updates of 32 pictures
# at learning rate 3e-4 with an EMA codebook: (NMSE, perplexity). The second prints errors on [-1, 1]; here divided by 4.
PRINTED_AT_1000 = {
    "google-deepmind/sonnet, vqvae_example.ipynb": (0.105, 71.8),
    "zalandoresearch/pytorch-vq-vae, 2018": (0.184, 17.2),
}
CODEC_BITS = {"mean picture": 0, "4 x 4 thumbnail": 4 * 4 * 24, "8 x 8 thumbnail": 8 * 8 * 24}


@torch.no_grad()
def evaluate_vqvae(model: VQVAE, pictures: Tensor, batch_size: int = 500) -> dict[str, float]:
    """Scores on all of `pictures`, uint8 (N, 3, H, W), in float32.

    test_nmse (over the training data's variance), test_mse ([0, 1] scale), test_psnr (dB, of the mean MSE),
    test_perplexity and test_codes_used (over the whole set, not by batch), test_vq.
    """
    device = model.quantizer.counts.device
    squares, vq, counts = 0.0, 0.0, torch.zeros(model.config.num_codes, dtype=torch.long)
    for batch in pictures.split(batch_size):
        x = model.to_network(batch.to(device))
        reconstruction, quantized = model(x)
        squares += float((reconstruction - x).square().sum(dtype=torch.float64))
        vq += float(quantized.codebook_loss + quantized.commitment_loss) * len(batch)
        counts += torch.bincount(quantized.codes.flatten().cpu(), minlength=len(counts))
    mse = squares / pictures.numel()
    return {
        "test_nmse": mse / model.config.data_variance,
        "test_mse": mse,
        "test_psnr": metrics.psnr(mse),
        "test_vq": vq / len(pictures),
        "test_perplexity": metrics.perplexity(counts),
        "test_codes_used": int((counts > 0).sum()),
    }


def encode_pictures(model: VQVAE, pictures: Tensor, batch_size: int = 500) -> Tensor:
    """Codes, int32 (N, h, w), of uint8 pictures (N, 3, H, W)."""
    device = model.quantizer.counts.device
    batches = (model.encode(model.to_network(batch.to(device))) for batch in pictures.split(batch_size))
    return torch.cat([codes.to(torch.int32).cpu() for codes in batches])


def reconstruct(model: VQVAE, pictures: Tensor) -> Tensor:
    """uint8 pictures (N, 3, H, W) through the codec and back."""
    device = model.quantizer.counts.device
    return model.to_pictures(model.decode(model.encode(model.to_network(pictures.to(device))))).cpu()


def code_counts(codes: Tensor, num_codes: int) -> np.ndarray:
    """Uses of each code, int64 (K,), among codes of any shape."""
    return torch.bincount(codes.flatten().long(), minlength=num_codes).numpy()


def squared_error_by_picture(model: VQVAE, pictures: Tensor, batch_size: int = 500) -> Tensor:
    """MSE on the [0, 1] scale of each uint8 picture's reconstruction as bytes: float64 (N,)."""
    differences = ((reconstruct(model, batch).double() - batch).div_(255) for batch in pictures.split(batch_size))
    return torch.cat([difference.square().mean((1, 2, 3)) for difference in differences])


def comparison(run: Run) -> dict[str, float]:
    """NMSE and perplexity of a run's last 100 training batches, as notebooks print them, and of the test set."""
    history, last = run.history, rows(run.epochs)[-1]
    return {
        "nmse": float(history["reconstruction"][-100:].mean()),
        "perplexity": float(history["perplexity"][-100:].mean()),
        "test_nmse": last["test_nmse"],
        "test_perplexity": last["test_perplexity"],
    }


def rows(table: dict[str, np.ndarray]) -> list[dict[str, float]]:
    """A table of columns as a list of its rows."""
    return [dict(zip(table, map(float, row), strict=True)) for row in zip(*table.values(), strict=True)]


def provenance(run: Run) -> dict[str, str]:
    """What a reader must know of a training or of a study (hw2lib.studies.study) to judge or repeat it, as words."""
    made, asked = run.provenance, run.config
    changed = ", with uncommitted changes" if made["dirty"] else ""
    pictures = made.get("data") or asked.get("settings", {}).get("data")
    seeds = sorted({case["seed"] for case in asked.get("cases", [])}) or [made["seed"]]
    facts = [f"{len(asked['cases'])} trainings"] if "cases" in asked else []
    facts += [made["device"], f"{made['processes']} process"] if "processes" in made else [made["device"]]
    facts += [f"threads: {made['threads']}", f"precision {made.get('precision', '32')}"]
    resumed = f", resumed {len(made['resumed'])} times" if made.get("resumed") else ""
    software = [f"Python {made['python']}", *(f"{name} {v}" for name, v in made["versions"].items())]
    return {
        "run": run.folder.name,
        "commit": made["commit"][:12] + changed,
        "data": _data_in_words(pictures) if pictures else "drawn by the experiment",
        "seed": ", ".join(map(str, seeds)),
        "computed": ", ".join(facts),
        "time": f"{duration(made['seconds'])}{resumed}, until {made['ended'][:16].replace('T', ' ')} UTC",
        "software": ", ".join(software),
    }


def _data_in_words(pictures: dict) -> str:
    checksums = [f"{name} {value}" for name, value in pictures.items() if isinstance(value, str) and name != "name"]
    return ", ".join([f"{pictures['name']}, {pictures['train']:,} + {pictures['test']:,}", *checksums])


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's r of two series (N,)."""
    return float(np.corrcoef(one.numpy(), other.numpy())[0, 1])
