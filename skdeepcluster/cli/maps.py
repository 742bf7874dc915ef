"""A 2-D map of an embedding: in seconds, of however many images."""

from __future__ import annotations

import numpy as np

MAPPED = 2000  # images that t-SNE takes, in some seconds; its time grows faster than n
NEAREST = 5  # images of the map that place another one
PERPLEXITY = 30.0  # of scikit-learn: the neighbours that t-SNE keeps near


def make_map(embedding: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """Place images in the plane, those that are alike near one another.

    By t-SNE, of at most ``MAPPED`` random ones: the others are placed by
    :func:`place`.

    Parameters
    ----------
    embedding : ndarray of shape (n, d), float32
    kind : {"tsne", "pca"}
        What makes the map. t-SNE of fewer than 4 images is left to PCA.
    seed : int

    Returns
    -------
    positions : ndarray of shape (n, 2), float32
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n, d = embedding.shape
    if kind == "pca" or n < 4:
        flat = PCA(min(2, n, d), random_state=seed).fit_transform(embedding)
        return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1]))).astype(np.float32)
    some = np.sort(np.random.default_rng(seed).permutation(n)[:MAPPED])
    # of one embedding, "pca" would begin with one axis
    tsne = TSNE(
        init="pca" if d > 1 else "random",
        perplexity=min(PERPLEXITY, (len(some) - 1) / 3),
        random_state=seed,
    )
    mapped = tsne.fit_transform(embedding[some])
    if len(some) == n:
        return mapped.astype(np.float32)
    positions = place(embedding, embedding[some], mapped)
    positions[some] = mapped
    return positions


def place(new: np.ndarray, embedding: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Place images in a map that there is: among their nearest neighbours.

    Parameters
    ----------
    new : ndarray of shape (m, d)
    embedding : ndarray of shape (n, d)
        Of the images of the map.
    positions : ndarray of shape (n, 2)

    Returns
    -------
    positions : ndarray of shape (m, 2), float32
        Means of those of the nearest images, nearer ones with more weight.
    """
    from sklearn.neighbors import KNeighborsRegressor

    neighbors = KNeighborsRegressor(min(NEAREST, len(embedding)), weights="distance")
    return neighbors.fit(embedding, positions).predict(new).astype(np.float32)
