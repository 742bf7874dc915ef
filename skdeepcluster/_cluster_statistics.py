"""Statistics of clusters (cardinality, mean, variance), and centres to start from."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-12


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
    distance = squared_distances(embedding, centers)
    own, other = distance.topk(2, dim=1, largest=False).values.T
    return ((other - own) / other.clamp_min(TINY)).mean().item()


class ClusterStatistics(NamedTuple):
    """What statistics pooling is to an image, for each cluster.

    Attributes
    ----------
    cardinality : tensor of shape (K,)
        Sum of the soft assignments.
    mean : tensor of shape (K, p)
    variance : tensor of shape (K,)
        Mean squared distance to the mean, a dimension.
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
    variance : tensor of shape (K,)
        A dimension; positive.

    Returns
    -------
    score : tensor of shape (n,)
        0 at a centre.
    """
    # differences: products would cancel where the distance is small
    mode = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(embedding, centers, compute_mode=mode).square()
    return (distance / (embedding.shape[1] * variance)).min(1).values


def kmeans_centers(
    features: Tensor, n_clusters: int, *, n_init: int = 20, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """scikit-learn's k-means, whose greedy draws find small clusters more often.

    Parameters
    ----------
    features : tensor of shape (n, p)
    n_clusters : int
        At most n.
    n_init : int
        Starts; the best one counts.
    seed : int

    Returns
    -------
    centers : tensor of shape (n_clusters, p)
        On the device of the features.
    labels : int64 tensor of shape (n,)
        On the CPU.
    """
    kmeans = KMeans(n_clusters, n_init=n_init, random_state=seed)
    with warnings.catch_warnings():  # of equal samples: empty clusters are said at last
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = kmeans.fit_predict(features.cpu().numpy())
    centers = features.new_tensor(kmeans.cluster_centers_)
    return centers, torch.from_numpy(labels).long()


def overcluster_centers(
    features: Tensor,
    n_clusters: int,
    *,
    factor: int = 5,
    n_init: int = 20,
    seed: int = 0,
) -> Tensor:
    """Centres from many small clusters, each of which counts once.

    k-means spends its centres where the samples are: a large class gets several, two
    small ones share one. Merging many small clusters without a look at their sizes
    gives a small class as much say as a slice of a large one.

    Parameters
    ----------
    features : tensor of shape (n, p)
    n_clusters : int
        At most n.
    factor : int
        Small clusters for each cluster.
    n_init, seed : int
        As in :func:`kmeans_centers`.

    Returns
    -------
    centers : tensor of shape (n_clusters, p)
        Unweighted means of the merged centres, on the device of the features.
    """
    n_small = min(factor * n_clusters, len(features))
    centers, _ = kmeans_centers(features, n_small, n_init=n_init, seed=seed)
    if n_clusters == n_small:
        return centers
    tree = AgglomerativeClustering(n_clusters, linkage="average")
    merged = torch.from_numpy(tree.fit_predict(centers.cpu().numpy()))
    members = F.one_hot(merged, n_clusters).to(centers)
    return cluster_statistics(members, centers).mean
