"""What the embedding tells: who is typical, who is far from all, a map."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics import euclidean_distances

COMPONENTS = 32  # that distances are taken in: the time of all pairs grows with them
SAMPLE = 5000  # rows that the components are fitted to
BLOCK = 2**22  # distances that are held at once
ON_MAP = 2000  # images whose places are computed: t-SNE takes seconds for as many
FEW = 10  # images that two components place as well
STEPS = 500  # of t-SNE; as many more take as long, and change little


class Geometry:
    """Places of the images in the embedding, reduced to its main components.

    Parameters
    ----------
    clustering : Clustering
        With an ``embedding``.
    rng : RandomState

    Attributes
    ----------
    rows : ndarray of shape (m,), int64
        Those with finite values.
    points : ndarray of shape (m, p), float32
    """

    def __init__(self, clustering, rng):
        embedding = clustering.embedding
        n, d = embedding.shape
        blocks = [slice(start, start + SAMPLE) for start in range(0, n, SAMPLE)]
        finite = [np.isfinite(embedding[block]).all(axis=1) for block in blocks]
        self.rows = np.flatnonzero(np.concatenate(finite))
        drawn = rng.permutation(self.rows)[:SAMPLE]
        fitted = np.asarray(embedding[np.sort(drawn)], np.float64)
        self.mean = fitted.mean(axis=0)
        self.scale = float(np.abs(fitted - self.mean).max()) or 1.0
        self.basis = None
        if d > COMPONENTS and len(drawn) > COMPONENTS:
            pca = PCA(COMPONENTS, svd_solver="randomized", random_state=rng)
            self.basis = pca.fit((fitted - self.mean) / self.scale).components_.T
        parts = [self.rows[i : i + SAMPLE] for i in range(0, len(self.rows), SAMPLE)]
        self.points = np.concatenate([self._place(embedding[part]) for part in parts])
        self.labels = clustering.labels[self.rows]
        self.n = n

    def _place(self, values):
        values = (np.asarray(values, np.float64) - self.mean) / self.scale
        values = values if self.basis is None else values @ self.basis
        return values.astype(np.float32)

    def distances(self):
        """Measure how far the images are from their cluster, and from all clusters.

        Returns
        -------
        own : ndarray of shape (n,), float64
            Distance to the mean of the own cluster; NaN without one.
        nearest : ndarray of shape (n,), float64
            The least distance to the mean of any cluster, in units of the median
            distance within that cluster; NaN for what is not in the embedding.
        """
        own, nearest = np.full(self.n, np.nan), np.full(self.n, np.nan)
        clusters, place = np.unique(self.labels, return_inverse=True)
        groups = [self.points[self.labels == k] for k in clusters if k >= 0]
        if not groups:
            return own, nearest
        centers = np.stack([group.mean(axis=0, dtype=np.float64) for group in groups])
        place = place - (clusters[0] == -1)  # -1 for those in no cluster
        placed = place >= 0
        apart = np.linalg.norm(self.points[placed] - centers[place[placed]], axis=1)
        own[self.rows[placed]] = apart
        of = place[placed]
        median = np.array([np.median(apart[of == k]) for k in range(len(groups))])
        # a cluster of one image, or of equal ones, has no width of its own
        width = np.maximum(median, np.median(apart) / 2) + 1e-9
        size = max(1, BLOCK // len(centers))
        for start in range(0, len(self.points), size):
            block = self.points[start : start + size].astype(np.float64)
            ratio = (euclidean_distances(block, centers) / width).min(axis=1)
            nearest[self.rows[start : start + size]] = ratio
        return own, nearest

    def places(self, rng):
        """Place some images on a map.

        Parameters
        ----------
        rng : RandomState

        Returns
        -------
        rows : ndarray of shape (m,), int64
            At most 2,000, at random.
        positions : ndarray of shape (m, 2), float64
            By t-SNE.
        """
        chosen = np.sort(rng.permutation(len(self.rows))[:ON_MAP])
        points = self.points[chosen]
        if len(points) <= FEW or not np.ptp(points, axis=0).any():
            flat = np.zeros((len(points), 2))
            flat[:, : points.shape[1]] = points[:, :2]
            return self.rows[chosen], flat
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(points) - 1) / 3)
        init = "pca" if points.shape[1] > 1 else "random"
        reducer = TSNE(
            2, perplexity=perplexity, init=init, max_iter=STEPS, random_state=rng
        )
        return self.rows[chosen], reducer.fit_transform(points).astype(np.float64)
