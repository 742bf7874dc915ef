"""Statistics of clusters: cardinality, mean and variance, and what they tell."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..distances import TINY, squared_distances


class ClusterStatistics(NamedTuple):
    """What statistics pooling is to an image, for each cluster.

    Attributes
    ----------
    cardinality : tensor of shape (K,)
        Sum of the soft assignments.
    mean : tensor of shape (K, p)
    variance : tensor of shape (K,)
        Mean squared distance to the mean, per dimension.
    """

    cardinality: Tensor
    mean: Tensor
    variance: Tensor


def cluster_statistics(q: Tensor, embedding: Tensor) -> ClusterStatistics:
    """Cardinality, mean and variance of each cluster.

    Parameters
    ----------
    q : tensor of shape (n, K)
        Soft or hard assignments.
    embedding : tensor of shape (n, p)

    Returns
    -------
    statistics : ClusterStatistics
        An empty cluster has mean and variance zero.
    """
    cardinality = q.sum(0)
    share = q / cardinality.clamp_min(TINY)
    mean = share.T @ embedding
    distance = squared_distances(embedding, mean)
    return ClusterStatistics(
        cardinality, mean, (share * distance).sum(0) / embedding.shape[1]
    )


def merge_statistics(a: ClusterStatistics, b: ClusterStatistics) -> ClusterStatistics:
    """Statistics of the union of two parts.

    Parameters
    ----------
    a, b : ClusterStatistics
        Of K clusters each.

    Returns
    -------
    statistics : ClusterStatistics

    References
    ----------
    Chan, Golub and LeVeque, *Updating formulae and a pairwise algorithm for computing
    sample variances*, 1979.
    """
    n = a.cardinality + b.cardinality
    share_a = a.cardinality / n.clamp_min(TINY)
    share_b = b.cardinality / n.clamp_min(TINY)
    mean = share_a.unsqueeze(1) * a.mean + share_b.unsqueeze(1) * b.mean
    between = share_a * share_b * (a.mean - b.mean).square().mean(1)
    return ClusterStatistics(
        n, mean, share_a * a.variance + share_b * b.variance + between
    )


def outlier_score(embedding: Tensor, centers: Tensor, variance: Tensor) -> Tensor:
    """Squared distance to the nearest cluster in units of its variance.

    Parameters
    ----------
    embedding : tensor of shape (n, p)
    centers : tensor of shape (K, p)
        Of clusters, or of their parts.
    variance : tensor of shape (K,)
        Of the cluster of each, per dimension; positive.

    Returns
    -------
    score : tensor of shape (n,)
        0 at a centre.
    """
    # differences: products would cancel where the distance is small
    mode = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(embedding, centers, compute_mode=mode).square()
    return (distance / (embedding.shape[1] * variance)).min(1).values
