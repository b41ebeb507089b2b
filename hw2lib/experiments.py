"""What is measured on trained networks: here rooms are wired together, so that notebooks only call."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hw2lib import data, metrics, training
from hw2lib.parameters import VQVAEParameters, make
from hw2lib.progress import duration
from hw2lib.runs import Run, write_whole
from hw2lib.vqvae import VQVAE, VQVAEConfig

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


def vqvae_setup(asked: VQVAEParameters) -> tuple[VQVAEConfig, data.Pictures]:
    """The pictures, and the config of a network for them. What is wrong with the config is said before they load."""
    fields = set(VQVAEConfig.model_fields) - {"data_variance"}
    config = make(VQVAEConfig, asked.model_dump(include=fields))
    pictures = data.load(asked.dataset, asked.size, asked.data_root)
    return make(VQVAEConfig, config.model_dump() | {"data_variance": pictures.variance}), pictures


def train_vqvae(model: VQVAE, pictures: data.Pictures, asked: VQVAEParameters) -> Run:
    """The run that the report is about."""
    batches = data.Batches(pictures.train, asked.batch_size, asked.seed)
    return _fit(model, batches, pictures, asked, name="vqvae", epochs=asked.epochs)


def train_vqvae_as_others(pictures: data.Pictures, config: VQVAEConfig, asked: VQVAEParameters) -> Run:
    """`asked.comparison_updates` updates as other notebooks print them: batch 32, constant rate 3e-4."""
    model = VQVAE(config.model_copy(update={"learning_rate": 3e-4, "schedule": "constant"}))
    batches = data.Batches(pictures.train, 32, asked.seed)
    updates = asked.comparison_updates
    return _fit(model, batches, pictures, asked, name="vqvae-short", updates=updates, numbers_only=True)


def _fit(model: VQVAE, batches: data.Batches, pictures: data.Pictures, asked: VQVAEParameters, **more) -> Run:
    return training.fit(
        model,
        batches,
        evaluate=lambda folder, epoch: evaluate_vqvae(model, pictures.test),
        data=pictures.description,
        **more,
        **asked.model_dump(include={"device", "precision", "runs"}),
    )


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
    """What a reader must know of a training or of a study (hw2lib.study) to judge or repeat it, as words."""
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


def codebook_maps(codebook: np.ndarray, seed: int, neighbours=(3, 15, 50)) -> dict[str, dict]:
    """UMAP of a codebook (K, D) and, as controls, of itself shuffled and of Gaussian noise.

    "shuffled" is `shuffled_codebook`; "noise" has its mean and spread in each dimension. Euclidean, as the quantizer
    measures. {"codebook" | "shuffled" | "noise": {n_neighbors: {"xy" (K, 2), "trustworthiness", "islands"}}};
    trustworthiness (Venna and Kaski 2001, 15 neighbours) is 1 where each point's neighbours on the map are its
    neighbours in the codebook, and about 0.5 where the map is drawn at random.
    """
    import umap  # slow to import: a dozen seconds of compilation
    from sklearn.manifold import trustworthiness

    random = np.random.default_rng(seed)
    noise = random.normal(codebook.mean(0), codebook.std(0), codebook.shape)
    maps: dict[str, dict] = {}
    controls = {"shuffled": shuffled_codebook(codebook, seed), "noise": noise}
    for name, vectors in {"codebook": codebook, **controls}.items():
        maps[name] = {}
        for n_neighbors in sorted({min(n, len(vectors) // 2 - 1) for n in neighbours}):
            xy = umap.UMAP(n_neighbors=n_neighbors, random_state=seed, n_jobs=1).fit_transform(vectors)
            trust = trustworthiness(vectors, xy, n_neighbors=min(15, len(vectors) // 2 - 1))
            maps[name][n_neighbors] = {
                "xy": xy,
                "trustworthiness": float(trust),
                "islands": _islands(xy),
            }
    return maps


def shuffled_codebook(codebook: np.ndarray, seed: int) -> np.ndarray:
    """A codebook (K, D) with each coordinate shuffled over the codes by itself: of its structure the marginals are left."""
    return np.random.default_rng(seed).permuted(codebook, axis=0)


def _islands(xy: np.ndarray) -> int:
    """Clusters of points (N, 2) that DBSCAN finds, on the scale of the points' own nearest neighbours."""
    from sklearn.cluster import DBSCAN
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=1).fit(xy).kneighbors()[0]
    found = DBSCAN(eps=max(4 * float(np.median(nearest)), 1e-9), min_samples=3).fit(xy).labels_
    return len(set(found) - {-1})  # -1 are points of no cluster


def map_numbers(maps: dict[str, dict]) -> dict[str, dict]:
    """codebook_maps without the points: trustworthiness and islands of each map."""
    return {
        name: {n: {key: value for key, value in found.items() if key != "xy"} for n, found in by_n.items()}
        for name, by_n in maps.items()
    }


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's r of two series (N,)."""
    return float(np.corrcoef(one.numpy(), other.numpy())[0, 1])


def save_maps(path: Path, maps: dict[str, dict], counts: np.ndarray) -> None:
    """The points of codebook_maps as CSV: UMAP gives other coordinates on other machines, so they are kept."""
    found = [(name, n, values["xy"]) for name, by_n in maps.items() for n, values in by_n.items()]
    lines = ["map,n_neighbors,code,uses,x,y"]
    for name, n, xy in found:
        lines += [f"{name},{n},{code},{counts[code]},{x:.4f},{y:.4f}" for code, (x, y) in enumerate(xy)]
    write_whole(path, ("\n".join(lines) + "\n").encode())
