"""Distances between embeddings and centres, and what is read from them."""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-12
MAX_ENTRIES = 2**24  # of one block of distances: bounds the memory, not the result


def squared_distances(embedding: Tensor, centers: Tensor) -> Tensor:
    """Squared distance of each row to each centre.

    Parameters
    ----------
    embedding : tensor of shape (n, p)
    centers : tensor of shape (K, p)

    Returns
    -------
    distances : tensor of shape (n, K)
        By products, not differences: small ones are rounded as the large terms are.
    """
    squares = embedding.square().sum(1, keepdim=True) + centers.square().sum(1)
    return (squares - 2 * embedding @ centers.T).clamp_min(0)


def simplified_silhouette(embedding: Tensor, centers: Tensor) -> float:
    """How much nearer the nearest centre is than the next one, in [0, 1].

    Parameters
    ----------
    embedding : tensor of shape (n, p)
    centers : tensor of shape (K, p)
        Two at least.

    Returns
    -------
    silhouette : float
        Mean of one minus the ratio of the two squared distances; 0 for a sample on
        two centres.
    """
    parts = []
    for rows in embedding.split(max(1, MAX_ENTRIES // len(centers))):
        nearest = squared_distances(rows, centers).topk(2, dim=1, largest=False)
        own, other = nearest.values.T
        parts.append((other - own) / other.clamp_min(TINY))
    return torch.cat(parts).mean().item()


def feature_spread(z: Tensor) -> float:
    """Spread of unit embeddings (n, d): 0 in one point, about 1 all over the sphere."""
    return (z.std(0, correction=0).mean() * z.shape[1] ** 0.5).item()
