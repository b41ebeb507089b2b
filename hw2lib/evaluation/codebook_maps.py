"""UMAP of a codebook beside its controls."""

from pathlib import Path

import numpy as np

from hw2lib.training.runs import write_whole


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


def save_maps(path: Path, maps: dict[str, dict], counts: np.ndarray) -> None:
    """The points of codebook_maps as CSV: UMAP gives other coordinates on other machines, so they are kept."""
    found = [(name, n, values["xy"]) for name, by_n in maps.items() for n, values in by_n.items()]
    lines = ["map,n_neighbors,code,uses,x,y"]
    for name, n, xy in found:
        lines += [f"{name},{n},{code},{counts[code]},{x:.4f},{y:.4f}" for code, (x, y) in enumerate(xy)]
    write_whole(path, ("\n".join(lines) + "\n").encode())
