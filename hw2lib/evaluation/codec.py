"""A VQ-VAE as a codec: its scores on all test pictures, the use of its codes, and these themselves, for a prior.

`measure_codec` is the call of a notebook: numbers into the run's metrics.json, once.
"""

import io
import math
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hw2lib import processes
from hw2lib.data import CodeSets, Pictures, random_stream
from hw2lib.data.pictures import checksum
from hw2lib.evaluation import metrics
from hw2lib.evaluation.codebook_maps import codebook_maps, save_maps
from hw2lib.training import Run, write_whole
from hw2lib.vqvae import VQVAE

# Bits a picture of metrics.simple_codecs.
CODEC_BITS = {"mean_picture": 0, "thumbnail_4": 4 * 4 * 24, "thumbnail_8": 8 * 8 * 24}
# Pictures in the batches whose perplexities are set side by side, beside the whole set.
BATCH_SIZES = (8, 32, 256, 1024)


def measure_codec(run: Run, model: VQVAE, pictures: Pictures) -> dict[str, dict]:
    """What the report says of `model`, the network of `run`, on all test pictures.

    Kept in the run's metrics under the same names, and measured anew only for other weights:

    reconstruction  the last row of run.epochs (see `evaluate_vqvae`), with bits, those a picture costs, and codecs, the
                    MSE of metrics.simple_codecs
    by_picture      median and most (the 90 % quantile) of the pictures' own NMSE, and roughness, its correlation with
                    metrics.roughness
    use             codes_used, 0 to K, and perplexity_by_batch: {pictures in a batch: perplexity}, the last of all
    umap            {map: {n_neighbors: {"trustworthiness", "islands"}}}, see codebook_maps; load_maps(run) has the points

    As all that JSON keeps, batch sizes and n_neighbors come as str.
    """
    num_codes = model.config.num_codes
    codes = cache(lambda: encode_pictures(model, pictures.test))

    def reconstruction() -> dict:
        places = (model.config.size // 4) ** 2
        codecs = metrics.simple_codecs(pictures.train, pictures.test)
        return last_epoch(run) | {"bits": places * math.log2(num_codes), "codecs": codecs}

    def by_picture() -> dict[str, float]:
        errors = squared_error_by_picture(model, pictures.test) / pictures.variance
        rough = metrics.correlation(errors, metrics.roughness(pictures.test))
        return {"median": float(errors.median()), "most": float(errors.quantile(0.9)), "roughness": rough}

    def use() -> dict:
        by_batch = metrics.perplexity_by_batch(codes(), num_codes, [*BATCH_SIZES, len(codes())])
        return {"codes_used": int((code_counts(codes(), num_codes) > 0).sum()), "perplexity_by_batch": by_batch}

    def umap() -> dict:
        maps = codebook_maps(model.quantizer.codebook.detach().cpu().numpy(), model.config.seed)
        return save_maps(run, maps, code_counts(codes(), num_codes))

    parts = {"reconstruction": reconstruction, "by_picture": by_picture, "use": use, "umap": umap}
    return {name: run.measured(name, measure) for name, measure in parts.items()}


def device_of(network: nn.Module) -> torch.device:
    """Where a network's weights lie."""
    return next(network.parameters()).device


@torch.no_grad()
def evaluate_vqvae(model: VQVAE, pictures: Tensor, batch_size: int = 500) -> dict[str, float]:
    """Scores on all of `pictures`, uint8 (N, 3, H, W), in float32.

    test_nmse (over the training data's variance), test_mse ([0, 1] scale), test_psnr (dB, of the mean MSE),
    test_perplexity and test_codes_used (over the whole set, not by batch), test_vq.
    """
    device = device_of(model)
    squares, vq, counts = 0.0, 0.0, torch.zeros(model.config.num_codes, dtype=torch.long)
    for batch in metrics.in_parts(pictures, batch_size):
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


def encode_pictures(model: VQVAE, pictures: Tensor, mirrored: bool = False, batch_size: int = 500) -> Tensor:
    """Codes, int32 (N, h, w), of uint8 pictures (N, 3, H, W), or of their mirror images."""
    device, parts = device_of(model), metrics.in_parts(pictures, batch_size)
    if mirrored:  # a few at a time, as a copy of all of them may not fit in memory
        parts = (part.flip(-1) for part in parts)
    batches = (model.encode(model.to_network(batch.to(device))) for batch in parts)
    return torch.cat([codes.to(torch.int32).cpu() for codes in batches])


def reconstruct(model: VQVAE, pictures: Tensor) -> Tensor:
    """uint8 pictures (N, 3, H, W) through the codec and back."""
    device = device_of(model)
    return model.to_pictures(model.decode(model.encode(model.to_network(pictures.to(device))))).cpu()


def code_counts(codes: Tensor, num_codes: int) -> np.ndarray:
    """Uses of each code, int64 (K,), among codes of any shape."""
    return torch.bincount(codes.flatten().long(), minlength=num_codes).numpy()


def squared_error_by_picture(model: VQVAE, pictures: Tensor, batch_size: int = 500) -> Tensor:
    """MSE on the [0, 1] scale of each uint8 picture's reconstruction as bytes: float64 (N,)."""
    parts = metrics.in_parts(pictures, batch_size)
    differences = ((reconstruct(model, batch).double() - batch).div_(255) for batch in parts)
    return torch.cat([difference.square().mean((1, 2, 3)) for difference in differences])


def comparison(run: Run) -> dict[str, float]:
    """NMSE and perplexity of a run's last 100 training batches, as notebooks print them, and of the test set."""
    history, last = run.history, last_epoch(run)
    return {
        "nmse": float(history["reconstruction"][-100:].mean()),
        "perplexity": float(history["perplexity"][-100:].mean()),
        "test_nmse": last["test_nmse"],
        "test_perplexity": last["test_perplexity"],
    }


def last_epoch(run: Run) -> dict[str, float]:
    """The last row of run.epochs."""
    return {name: float(values[-1]) for name, values in run.epochs.items()}


# ---- the codes of all pictures, for a prior


def codebook_checksum(model: VQVAE) -> str:
    """16 hex digits that tell one codebook from another."""
    return checksum(model.quantizer.codebook.detach().cpu())


def code_sets(model: VQVAE, pictures: Pictures, run: Run) -> CodeSets:
    """The codes of all pictures by the network of `run`; encoded once, and kept in its folder as uint16."""
    origin = {"pictures": pictures.checksum, "codebook": codebook_checksum(model)}
    path = run.folder / "codes.npz"
    with processes.first_one_first():
        kept = _kept_codes(path, origin)
        if kept is None:
            kept = {
                "train": encode_pictures(model, pictures.train),
                "mirrored": encode_pictures(model, pictures.train, mirrored=True),
                "test": encode_pictures(model, pictures.test),
            }
            content = io.BytesIO()
            few_bytes = {name: codes.numpy().astype(np.uint16) for name, codes in kept.items()}
            np.savez(content, origin=list(origin.values()), **few_bytes)
            write_whole(path, content.getvalue())
    order = torch.randperm(len(kept["train"]), generator=random_stream(0))
    held, others = order.tensor_split([max(1, len(order) // 10)])
    labels = pictures.train_labels
    return CodeSets(
        train=torch.cat([kept["train"][others], kept["mirrored"][others]]),
        held_out=kept["train"][held],
        test=kept["test"],
        in_order=kept["train"],
        train_labels=None if labels is None else torch.cat([labels[others]] * 2),
        held_out_labels=None if labels is None else labels[held],
        test_labels=pictures.test_labels,
        origin=origin,
    )


def _kept_codes(path: Path, origin: dict[str, str]) -> dict[str, Tensor] | None:
    """The codes in the file, int32; None where there is none, or they are of another network or other pictures."""
    if not path.exists():
        return None
    try:
        with np.load(path) as kept:
            if list(kept["origin"]) != list(origin.values()):
                return None
            return {name: torch.from_numpy(kept[name].astype(np.int32)) for name in ("train", "mirrored", "test")}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        print(f"{path} cannot be read: the pictures are encoded anew", flush=True)
        return None
