"""Nearest neighbours by cosine, and how far clusters keep them together."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ._engine.crowd import look
from ._engine.interrupts import check
from ._warnings import warn

MAX_ENTRIES = 2**24  # of one block of similarities: bounds the memory, not the result
MAX_EXACT = 200_000  # rows whose pairs are all compared: the time grows with the square
HNSW_LINKS = 32


def nearest_neighbors(rows: Tensor, n_neighbors: int) -> Tensor:
    """Find the nearest other rows of each row, by cosine similarity.

    Up to 200 000 rows all pairs are compared, on the device of the rows. Of more, a
    graph of faiss (HNSW) finds most of them, if faiss is installed; with several
    threads not the same ones each time.

    Parameters
    ----------
    rows : tensor of shape (n, d), float32
        Of any length; at least two rows.
    n_neighbors : int
        At most n - 1.

    Returns
    -------
    neighbors : int64 tensor of shape (n, n_neighbors)
        Indices of rows, the nearest first, never that of the row itself. On the CPU.

    References
    ----------
    Malkov and Yashunin, *Efficient and Robust Approximate Nearest Neighbor Search
    Using Hierarchical Navigable Small World Graphs*, 2018.
    """
    rows = F.normalize(rows, dim=1)
    if len(rows) > MAX_EXACT:
        try:
            import faiss
        except ImportError:
            warn(
                f"The nearest neighbours of {len(rows)} rows are found by comparing "
                "all pairs, which takes long. Install faiss-cpu for a faster search, "
                "by pip install skdeepcluster[large]."
            )
        else:
            return _approximate(faiss, rows, n_neighbors)
    return _exact(rows, n_neighbors)


def normalized_association(labels: Tensor, neighbors: Tensor) -> float:
    """Share of a cluster's neighbours that are its own members, averaged over clusters.

    Parameters
    ----------
    labels : int64 tensor of shape (n,)
        Clusters from 0.
    neighbors : int64 tensor of shape (n, k)
        Rows near each row.

    Returns
    -------
    association : float
        From 0 to 1, where no neighbours are in different clusters. Pairs count in both
        directions, and empty clusters are left out. It is one minus the normalised cut,
        divided by the number of clusters.

    References
    ----------
    Shi and Malik, *Normalized Cuts and Image Segmentation*, 2000.
    """
    counts = links_between(labels, neighbors, int(labels.max()) + 1)
    degrees = counts.sum(1)
    used = degrees > 0
    return (counts.diagonal()[used] / degrees[used]).mean().item()


def links_between(labels: Tensor, neighbors: Tensor, n_clusters: int) -> Tensor:
    """Count the links between clusters; each neighbour is a link in both directions.

    Parameters
    ----------
    labels : int64 tensor of shape (n,)
    neighbors : int64 tensor of shape (n, k)
        Rows near each row.
    n_clusters : int
        Above all labels.

    Returns
    -------
    links : tensor of shape (n_clusters, n_clusters), float64
        Symmetric. What a cluster has within itself counts twice, so that its row adds
        up to the degrees of its members.
    """
    pairs = labels.unsqueeze(1) * n_clusters + labels[neighbors]
    counts = torch.bincount(pairs.flatten(), minlength=n_clusters**2)
    counts = counts.view(n_clusters, n_clusters).double()
    return counts + counts.T


def _exact(rows, n_neighbors):
    n = len(rows)
    neighbors = torch.empty(n, n_neighbors, dtype=torch.int64)
    size = max(1, MAX_ENTRIES // n)
    for start in range(0, n, size):
        check()
        look()
        block = rows[start : start + size]
        similarity = block @ rows.T
        # the row itself: which of several equal ones it is, only its index tells
        similarity.diagonal(start).fill_(-torch.inf)
        nearest = similarity.topk(n_neighbors, dim=1).indices
        neighbors[start : start + size] = nearest.cpu()
    return neighbors


def _approximate(faiss, rows, n_neighbors):
    values = rows.cpu().numpy()
    index = faiss.IndexHNSWFlat(values.shape[1], HNSW_LINKS)
    index.add(values)
    index.hnsw.efSearch = 4 * n_neighbors + 16
    _, found = index.search(values, n_neighbors + 1)
    found = torch.from_numpy(found)
    # the row itself goes to the end; where it was not found, the farthest one does
    own = torch.arange(len(rows)).unsqueeze(1)
    last = (found == own).int().argsort(dim=1, stable=True)
    found = found.gather(1, last)[:, :n_neighbors]
    return torch.where(found < 0, own, found)  # fewer were found: the row itself
