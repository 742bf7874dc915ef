"""Where centres of clusters start, start anew, and end."""

from __future__ import annotations

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.nn import functional as F

from .._warnings import ignored
from ..distances import simplified_silhouette, squared_distances
from ..kmeans import enough_of
from ..neighbors import normalized_association
from .statistics import cluster_statistics

FINAL_FACTOR = 3  # small clusters for each cluster, at the end
MAX_CANDIDATES = 512  # for the place of a new centre: bounds the memory
N_NEIGHBORS = 10  # whose mean is a new centre


def kmeans_centers(
    features: Tensor, n_clusters: int, *, n_init: int = 20, seed: int = 0
) -> Tensor:
    """scikit-learn's k-means, whose greedy draws find small clusters more often.

    Parameters
    ----------
    features : tensor of shape (n, p)
        Of more than 16 384 rows and 256 rows a centre, as many are drawn.
    n_clusters : int
        At most n.
    n_init : int
        Starts; the best one counts.
    seed : int

    Returns
    -------
    centers : tensor of shape (n_clusters, p)
        On the device of the features.
    """
    from sklearn.cluster import KMeans  # which imports half of scikit-learn

    kmeans = KMeans(n_clusters, n_init=n_init, random_state=seed)
    with ignored(ConvergenceWarning):  # of equal samples: empty clusters are said last
        kmeans.fit(enough_of(features, n_clusters).cpu().numpy())
    return features.new_tensor(kmeans.cluster_centers_)


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
    n_init : int
        Starts of the k-means that finds the small clusters; the best one counts.
    seed : int

    Returns
    -------
    centers : tensor of shape (n_clusters, p)
        Unweighted means of the merged centres, on the device of the features.
    """
    n_small = min(factor * n_clusters, len(features))
    centers = kmeans_centers(features, n_small, n_init=n_init, seed=seed)
    if n_clusters == n_small:
        return centers
    from sklearn.cluster import AgglomerativeClustering

    tree = AgglomerativeClustering(n_clusters, linkage="average")
    merged = torch.from_numpy(tree.fit_predict(centers.cpu().numpy()))
    members = F.one_hot(merged, n_clusters).to(centers)
    return cluster_statistics(members, centers).mean


def final_centers(
    features: Tensor,
    n_clusters: int,
    neighbors: Tensor | None = None,
    *,
    n_init: int,
    seed: int,
) -> Tensor:
    """Centres of k-means or of over-clustering: those that separate better.

    Separation is the simplified silhouette, and where neighbours are known, plus the
    normalised association. The silhouette counts samples, in an embedding that was
    trained towards clusters; the association counts clusters, in the data. Each is
    right where the other one errs.

    Parameters
    ----------
    features : tensor of shape (n, p)
    n_clusters : int
        At most n.
    neighbors : int64 tensor of shape (n, k), optional
        Nearest rows of each row in the data.
    n_init : int
        Starts of each k-means; the best one counts.
    seed : int

    Returns
    -------
    centers : tensor of shape (n_clusters, p)
        On the device of the features.
    """
    options = {"n_init": n_init, "seed": seed}
    centers = kmeans_centers(features, n_clusters, **options)
    if n_clusters == 1:
        return centers
    merged = overcluster_centers(features, n_clusters, factor=FINAL_FACTOR, **options)

    def separation(centers):
        silhouette = simplified_silhouette(features, centers)
        if neighbors is None:
            return silhouette
        labels = squared_distances(features, centers).argmin(1).cpu()
        return silhouette + normalized_association(labels, neighbors)

    return max(centers, merged, key=separation)


def center_among_outliers(features: Tensor, score: Tensor) -> Tensor:
    """Centre in the densest place that is far from all clusters.

    Parameters
    ----------
    features : tensor of shape (n, p)
    score : tensor of shape (n,)
        Outlier scores. The twentieth part of the samples with the largest ones, and
        512 samples at most, are candidates.

    Returns
    -------
    center : tensor of shape (p,)
        Mean of the ten nearest neighbours of the candidate whose neighbours are
        nearest; the candidate is one of them.
    """
    n = len(features)
    far = score.topk(max(1, min(MAX_CANDIDATES, n // 20))).indices
    distance = squared_distances(features[far], features)
    near = distance.topk(min(N_NEIGHBORS, n), largest=False)
    densest = near.values.mean(1).argmin()
    return features[near.indices[densest]].mean(0)
