"""Clusters of any shape: communities in the graph of nearest neighbours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ._engine.randomness import generator
from ._input.layouts import is_vector
from .kmeans import nearest_centers, spherical_kmeans
from .neighbors import links_between, nearest_neighbors

SMALL_CLUSTERS = 10  # for each cluster that is asked for
SMALLEST = 10  # rows of a small cluster, on average
N_NEIGHBORS = 15
MAX_ROWS = 5_000  # in the graph: bounds the time, which grows with the square


def resolve_init(init: str, image_shape: tuple[int, int, int]) -> str:
    """Replace ``"auto"``: ``"graph"`` for images, ``"kmeans"`` for vectors.

    Parameters
    ----------
    init : str
    image_shape : tuple (C, H, W)

    Returns
    -------
    init : str
    """
    if init != "auto":
        return init
    return "kmeans" if is_vector(image_shape) else "graph"


def neighbor_communities(
    features: Tensor, n_clusters: int, *, init: Tensor | None = None, n_init: int = 10
) -> tuple[Tensor, Tensor]:
    """Cluster unit vectors by what is connected, not by what is near a centre.

    A spherical k-means with ten times as many centres finds small clusters, and those
    that neighbours join are merged; of several runs the one of the highest modularity
    counts. k-means itself would cut a large or long cluster into several, and give two
    small ones a common centre: instance discrimination spreads the images evenly, so
    that a large class fills a large part of the sphere.

    Parameters
    ----------
    features : tensor of shape (n, d), float32
        Unit rows, on any device.
    n_clusters : int
        At most n.
    init : tensor of shape (n_clusters, d), optional
        Unit centres: if the clusters about them have a higher modularity than those of
        all runs, they stay.
    n_init : int
        Runs, by torch's generator of the device.

    Returns
    -------
    centers : tensor of shape (n_clusters, d)
        Unit means of the clusters. Rows of a cluster need not be nearest to its own.
    labels : int64 tensor of shape (n,)

    Notes
    -----
    Of more than 5 000 rows, as many are drawn for k-means and graph; each other row
    joins the small cluster with the nearest centre. Of less than twenty rows a cluster,
    k-means alone makes the clusters.
    """
    n = min(len(features), MAX_ROWS)
    n_small = min(SMALL_CLUSTERS * n_clusters, n // SMALLEST)
    if n_small < 2 * n_clusters:
        return spherical_kmeans(features, n_clusters, init=init, n_init=n_init)
    drawn = features
    if n < len(features):
        own = generator(features.device)
        order = torch.randperm(len(features), device=features.device, generator=own)
        drawn = features[order[:n]]
    neighbors = nearest_neighbors(drawn, min(N_NEIGHBORS, n // (2 * n_clusters)))
    neighbors = neighbors.to(drawn.device)
    runs = []
    if init is not None:
        links = links_between(nearest_centers(drawn, init), neighbors, n_clusters)
        runs.append((modularity(links), init, torch.arange(n_clusters)))
    for _ in range(n_init):
        centers, small = spherical_kmeans(drawn, n_small, n_init=1)
        links = links_between(small, neighbors, n_small)
        merged = merge_by_modularity(links, n_clusters)
        members = F.one_hot(merged, n_clusters).to(links.device, links.dtype)
        runs.append((modularity(members.T @ links @ members), centers, merged))
    _, centers, merged = max(runs, key=lambda run: run[0])
    labels = merged.to(features.device)[nearest_centers(features, centers)]
    members = F.one_hot(labels, n_clusters).to(features.dtype)
    return F.normalize(members.T @ features, dim=1), labels


def modularity(links: Tensor) -> float:
    """Share of the links within clusters, less that of links at random.

    Parameters
    ----------
    links : tensor of shape (n_clusters, n_clusters), float64
        As :func:`links_between` counts them.

    Returns
    -------
    modularity : float
        Below 1; 0 if all is one cluster. Links at random keep the degrees of the rows.
    """
    shares = links / links.sum()
    return (shares.diagonal().sum() - shares.sum(1).square().sum()).item()


def merge_by_modularity(links: Tensor, n_clusters: int) -> Tensor:
    """Merge clusters, those first whose union adds most to the modularity.

    Parameters
    ----------
    links : tensor of shape (n_small, n_small), float64
        Of the small clusters, as :func:`links_between` counts them.
    n_clusters : int
        How many are left.

    Returns
    -------
    merged : int64 tensor of shape (n_small,)
        Cluster of each small one, below ``n_clusters``; on the CPU.

    References
    ----------
    Newman, *Fast algorithm for detecting community structure in networks*, 2004.
    """
    shares = (links / links.sum()).cpu().numpy()
    degrees = shares.sum(1)
    gain = shares - np.outer(degrees, degrees)  # half of what a union adds
    np.fill_diagonal(gain, -np.inf)
    merged = np.arange(len(gain))
    for _ in range(len(gain) - n_clusters):
        kept, joined = sorted(np.unravel_index(gain.argmax(), gain.shape))
        # what a union gains by another one is the sum of what its parts would gain
        gain[kept] += gain[joined]
        gain[:, kept] = gain[kept]
        gain[joined] = gain[:, joined] = -np.inf
        merged[merged == joined] = kept
    return torch.from_numpy(np.unique(merged, return_inverse=True)[1])
