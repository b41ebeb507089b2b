"""UMAP of a codebook beside its controls, kept in the run: UMAP gives other points on other machines."""

import csv
from collections import defaultdict

import numpy as np
import torch

from hw2lib.training import Run, RunError, write_whole


def codebook_maps(codebook: np.ndarray, seed: int, neighbours=(3, 15, 50)) -> dict[str, dict]:
    """UMAP of a codebook (K, D) and, as controls, of itself shuffled and of Gaussian noise.

    "shuffled" is `shuffled_codebook`; "noise" has its mean and spread in each dimension. Euclidean, as the quantizer
    measures. {"codebook" | "shuffled" | "noise": {n_neighbors: {"xy" (K, 2), "trustworthiness", "islands"}}};
    trustworthiness (Venna and Kaski 2001, 15 neighbours) is 1 where each point's neighbours on the map are its
    neighbours in the codebook, and about 0.5 where the map is drawn at random.
    """
    # Slow to import: a dozen seconds of compilation.
    import umap
    from sklearn.manifold import trustworthiness

    threads = torch.get_num_threads()
    random = np.random.default_rng(seed)
    noise = random.normal(codebook.mean(0), codebook.std(0), codebook.shape)
    maps: dict[str, dict] = {}
    controls = {"shuffled": shuffled_codebook(codebook, seed), "noise": noise}
    for name, vectors in {"codebook": codebook, **controls}.items():
        maps[name] = {}
        for n_neighbors in sorted({min(n, len(vectors) // 2 - 1) for n in neighbours}):
            xy = umap.UMAP(n_neighbors=n_neighbors, random_state=seed, n_jobs=1).fit_transform(vectors)
            trust = trustworthiness(vectors, xy, n_neighbors=min(15, len(vectors) // 2 - 1))
            maps[name][n_neighbors] = {"xy": xy, "trustworthiness": float(trust), "islands": _islands(xy, 4)}
    # UMAP's compiler sets the number of OpenMP threads for all, and with it sums in later trainings would round otherwise.
    torch.set_num_threads(threads)
    return maps


def shuffled_codebook(codebook: np.ndarray, seed: int) -> np.ndarray:
    """A codebook (K, D) with each coordinate shuffled over the codes by itself: of its structure the marginals are left."""
    return np.random.default_rng(seed).permuted(codebook, axis=0)


def islands(maps: dict[str, dict], within: float) -> dict[str, dict[int, int]]:
    """{map: {n_neighbors: clusters}} of `codebook_maps`, where points count as near `within` times the median distance of
    nearest neighbours. How many there are depends on it: the maps' own "islands" are those within 4."""
    return {name: {n: _islands(found["xy"], within) for n, found in by_n.items()} for name, by_n in maps.items()}


def _islands(xy: np.ndarray, within: float) -> int:
    """Clusters of points (N, 2) that DBSCAN finds, on the scale of the points' own nearest neighbours."""
    from sklearn.cluster import DBSCAN
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=1).fit(xy).kneighbors()[0]
    found = DBSCAN(eps=max(within * float(np.median(nearest)), 1e-9), min_samples=3).fit(xy).labels_
    # -1 are points of no cluster.
    return len(set(found) - {-1})


def save_maps(run: Run, maps: dict[str, dict], counts: np.ndarray) -> dict[str, dict]:
    """Keep the points of `codebook_maps` and the uses of each code, (K,), as umap.csv in the run's folder.

    Returns what is left without the points: {map: {n_neighbors: {"trustworthiness", "islands"}}}.
    """
    lines, numbers = ["map,n_neighbors,code,uses,x,y"], {}
    for name, by_n in maps.items():
        for n, found in by_n.items():
            lines += [f"{name},{n},{code},{counts[code]},{x:.4f},{y:.4f}" for code, (x, y) in enumerate(found["xy"])]
        numbers[name] = {n: {key: found[key] for key in ("trustworthiness", "islands")} for n, found in by_n.items()}
    write_whole(run.folder / "umap.csv", ("\n".join(lines) + "\n").encode())
    return numbers


def load_maps(run: Run) -> dict[str, dict]:
    """The maps that a run keeps, as `codebook_maps` made them but for points rounded to 4 digits, and with "uses", the
    uses of each code on the test set, int64 (K,).

    Raises RunError if they were not measured or their points are gone.
    """
    try:
        with (run.folder / "umap.csv").open(newline="") as file:
            points, uses = defaultdict(list), defaultdict(list)
            for row in csv.DictReader(file):
                points[row["map"], row["n_neighbors"]].append((float(row["x"]), float(row["y"])))
                uses[row["map"], row["n_neighbors"]].append(int(row["uses"]))
        points.default_factory = None  # a map that is gone is a KeyError
        if len({*map(len, points.values())}) != 1:
            raise ValueError("umap.csv has lost rows")
        return {
            name: {
                int(n): {"xy": np.array(points[name, n]), "uses": np.array(uses[name, n]), **numbers}
                for n, numbers in by_n.items()
            }
            for name, by_n in run.metrics["umap"].items()
        }
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise RunError(f"{run.folder} holds no maps of the codebook ({error}): delete its metrics.json") from None
