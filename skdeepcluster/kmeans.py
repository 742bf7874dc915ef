"""Spherical k-means on the device: batched restarts, warm starts, no empty centre."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ._engine.randomness import generator

MAX_ENTRIES = 2**24  # of one block of similarities: bounds the memory, not the result
FEWEST, OF_EACH = 2**14, 256  # rows that centres are found in: in all, and of each


def spherical_kmeans(
    features: Tensor,
    n_clusters: int,
    *,
    init: Tensor | None = None,
    n_init: int = 3,
    max_iter: int = 100,
) -> tuple[Tensor, Tensor]:
    """Cluster unit vectors by cosine similarity, all restarts at once.

    Lloyd's iterations run for ``init`` (if given) and for ``n_init`` draws of
    k-means++ side by side, until no label changes; the run with the highest mean
    similarity wins. An empty centre moves to the sample farthest from its own centre;
    that sample leaves its old centre in the next iteration.

    Of more than 16 384 rows and 256 rows a centre, as many are drawn, and the centres
    are found in these; all rows are then assigned to them.

    Parameters
    ----------
    features : tensor of shape (n, d), float32 or float64
        Unit rows, on any device.
    n_clusters : int
        At most n.
    init : tensor of shape (n_clusters, d), optional
        Centres to start one of the runs from.
    n_init : int
        Number of k-means++ draws, from torch's generator of the device.
    max_iter : int
        Upper bound of Lloyd's iterations.

    Returns
    -------
    centers : tensor of shape (n_clusters, d)
        Unit rows.
    labels : int64 tensor of shape (n,)
        Index of the nearest centre.
    """
    rows = enough_of(features, n_clusters)
    starts = [] if init is None else [F.normalize(init.to(rows), dim=1)[None]]
    if n_init > 0:
        starts.append(_plus_plus(rows, n_clusters, n_init))
    centers = torch.cat(starts)
    labels = None
    for _ in range(max_iter):
        last = labels
        labels, similarity = _assign(rows, centers)
        if last is not None and torch.equal(labels, last):
            break
        centers = _means(rows, labels, similarity, centers)
    labels, similarity = _assign(rows, centers)
    best = similarity.mean(1).argmax()
    # a view would keep the labels of all runs alive
    found = centers[best].clone()
    if len(rows) < len(features):
        return found, nearest_centers(features, found)
    return found, labels[best].clone()


def nearest_centers(features: Tensor, centers: Tensor) -> Tensor:
    """Find the nearest centre of each row by cosine similarity.

    Parameters
    ----------
    features : tensor of shape (n, d)
        Unit rows.
    centers : tensor of shape (k, d)
        Unit rows.

    Returns
    -------
    labels : int64 tensor of shape (n,)
    """
    return _assign(features, centers[None])[0][0]


def some_of(rows: Tensor, n: int) -> Tensor:
    """Draw n rows, or all in their order if there are no more."""
    if n >= len(rows):
        return rows
    own = generator(rows.device)
    return rows[torch.randperm(len(rows), device=rows.device, generator=own)[:n]]


def enough_of(rows: Tensor, n_clusters: int) -> Tensor:
    """Draw as many rows as centres are found in: 16 384, or 256 a centre, or all."""
    return some_of(rows, max(FEWEST, OF_EACH * n_clusters))


def cluster_sums(features: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Sum and count the rows of each cluster, in blocks of rows.

    Parameters
    ----------
    features : tensor of shape (n, d)
    labels : int64 tensor of shape (runs, n)
        Clusters below k, of each of several clusterings.
    k : int

    Returns
    -------
    sums : tensor of shape (runs, k, d)
    sizes : tensor of shape (runs, k)
        Of the dtype of the features.
    """
    runs, n = labels.shape
    sums = features.new_zeros(runs, k, features.shape[1])
    sizes = features.new_zeros(runs, k)
    for rows in _blocks(n, runs * k):
        # a product with one-hot rows: index_add is not deterministic on CUDA
        one_hot = F.one_hot(labels[:, rows], k).to(features.dtype)
        sums += one_hot.transpose(1, 2) @ features[rows]
        sizes += one_hot.sum(1)
    return sums, sizes


def _plus_plus(features: Tensor, n_clusters: int, n_init: int) -> Tensor:
    """k-means++ draws (Arthur and Vassilvitskii, 2007), shape (n_init, k, d)."""
    n = len(features)
    own = generator(features.device)
    chosen = torch.randint(n, (n_init,), device=features.device, generator=own)
    centers, nearest = [features[chosen]], None
    for _ in range(1, n_clusters):
        # |a - b|^2 = 2 - 2 cos for unit vectors
        distance = (2 - 2 * centers[-1] @ features.T).clamp_min(0)
        nearest = distance if nearest is None else torch.minimum(nearest, distance)
        # identical samples leave no distance to draw by: then any sample will do
        weights = torch.where(nearest.sum(1, keepdim=True) > 0, nearest, 1.0)
        centers.append(features[torch.multinomial(weights, 1, generator=own)[:, 0]])
    return torch.stack(centers, dim=1)


def _blocks(n: int, columns: int):
    size = max(1, MAX_ENTRIES // columns)
    return [slice(start, start + size) for start in range(0, n, size)]


def _assign(features: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centre and its similarity, each of shape (runs, n)."""
    runs, k, _ = centers.shape
    parts = []
    for rows in _blocks(len(features), runs * k):
        similarity = features[rows] @ centers.flatten(0, 1).T
        parts.append(similarity.view(-1, runs, k).max(2))
    labels = torch.cat([part.indices for part in parts]).T
    return labels, torch.cat([part.values for part in parts]).T


def _means(features, labels, similarity, centers):
    """Unit means of the assigned samples; empty centres move to far samples."""
    sums, sizes = cluster_sums(features, labels, centers.shape[1])
    means = F.normalize(sums, dim=2)
    for run, cluster in (sizes == 0).nonzero().tolist():
        farthest = similarity[run].argmin()
        means[run, cluster] = features[farthest]
        similarity[run, farthest] = 2.0  # the next empty centre takes another one
    return means
