"""Many clusters, merged step by step."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import euclidean_distances
from sklearn.utils import check_array
from sklearn.utils.validation import check_consistent_length, column_or_1d

from .._input.paths import listed
from ..metrics._spaces import comparable_embedding


class MergeTree:
    """Clusters that are merged, the two nearest ones at a time, until one is left.

    For those who rather look than count: cluster into more clusters than there can be,
    look at the tree in a :class:`~skdeepcluster.plots.DendrogramDisplay`, and cut it
    where clusters that belong together are merged and others are not yet.

    Parameters
    ----------
    embedding : array-like of shape (n, d)
        Where distances are measured.
    labels : array-like of shape (n,), int
        Cluster of each sample; rows of -1 are in no cluster. Leaves are numbered as
        the labels are, without those that no sample has.
    method : {"ward", "average"}, default="ward"
        Which clusters are near. ``"ward"`` merges the two whose merger adds least to
        the sum of squared distances to the centres, so that small clusters go first;
        ``"average"`` the two whose centres are nearest, where what was merged is as
        far from another as its samples are on average.

    Attributes
    ----------
    linkage_ : ndarray of shape (n_leaves - 1, 4), float64
        The mergers, in the format of :func:`scipy.cluster.hierarchy.linkage`: the two
        clusters, their distance, and the number of leaves in both.
    centers_ : ndarray of shape (n_leaves, d), float64
        Mean of each leaf.
    sizes_ : ndarray of shape (n_leaves,), int64
        Samples in each.
    members_ : list of n_leaves ndarrays of int64
        Which samples these are, the one nearest to the centre first.

    Raises
    ------
    ValueError
        If the lengths differ, fewer than two clusters have samples, or there is no such
        ``method``.

    See Also
    --------
    NClustersSearch : Counts in place of you.
    skdeepcluster.plots.DendrogramDisplay : The tree, with images.

    References
    ----------
    Joe H. Ward, *Hierarchical grouping to optimize an objective function*, Journal of
    the American Statistical Association, 1963.

    G. N. Lance and W. T. Williams, *A general theory of classificatory sorting
    strategies: 1. Hierarchical systems*, The Computer Journal, 1967.

    Examples
    --------
    >>> from skdeepcluster.model_selection import MergeTree
    >>> X = [[0.0], [1.0], [5.0], [5.5], [9.0]]
    >>> tree = MergeTree(X, [0, 1, 2, 2, 3])
    >>> tree.labels_at(2)
    array([0, 0, 1, 1, 1])
    >>> tree.linkage_.shape
    (3, 4)
    """

    def __init__(
        self,
        embedding: ArrayLike,
        labels: ArrayLike,
        *,
        method: Literal["ward", "average"] = "ward",
    ) -> None:
        if method not in ("ward", "average"):
            raise ValueError(f"method={method!r} should be 'ward' or 'average'.")
        rows = check_array(embedding, ensure_all_finite="allow-nan", dtype=np.float64)
        given: NDArray[np.int64] = column_or_1d(labels).astype(np.int64)
        check_consistent_length(rows, given)
        found = np.unique(given[given >= 0])
        if len(found) < 2:
            raise ValueError(
                f"Got {len(found)} cluster, which has none to be merged with. Pass a "
                "clustering of two or more; of many for a tree worth looking at."
            )
        self.method = method
        self.labels = given
        self.sizes_ = np.bincount(given[given >= 0])[found]
        self.centers_ = np.array([rows[given == k].mean(axis=0) for k in found])
        self.members_ = []
        for cluster, center in zip(found, self.centers_, strict=True):
            members = np.flatnonzero(given == cluster)
            distances = np.square(rows[members] - center).sum(axis=1)
            self.members_.append(members[distances.argsort(kind="stable")])
        self.linkage_ = merged(self.centers_, self.sizes_, method)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        method: Literal["ward", "average"] = "ward",
    ) -> MergeTree:
        """Merge the clusters that a fitted estimator finds in X.

        Parameters
        ----------
        estimator : fitted clusterer or pipeline
            With ``predict``. Distances are those of its embedding; without one, or if
            ``transform`` gives the distances to centres, those of X.
        X : array-like or list of paths of length n
            Whatever the estimator takes.
        method : {"ward", "average"}, default="ward"
            Which clusters are near: see :class:`MergeTree`.

        Returns
        -------
        tree : MergeTree

        Raises
        ------
        ValueError
            If fewer than two clusters have samples.
        """
        X = listed(X)
        embedding = comparable_embedding(estimator, X)
        return cls(embedding, estimator.predict(X), method=method)

    def leaves_at(self, n_clusters: int) -> NDArray[np.int64]:
        """Tell which cluster each leaf is in once only some clusters are left.

        Parameters
        ----------
        n_clusters : int
            The number of clusters that are left, from 1 to ``n_leaves``.

        Returns
        -------
        clusters : ndarray of shape (n_leaves,), int64
            From 0 to ``n_clusters - 1``, in the order of their first leaves.

        Raises
        ------
        ValueError
            If there are not so many clusters.
        """
        n_leaves = len(self.sizes_)
        whole = isinstance(n_clusters, Integral)
        if not whole or not 1 <= n_clusters <= n_leaves:
            raise ValueError(
                f"n_clusters={n_clusters!r} should be a whole number from 1 to "
                f"{n_leaves}, the number of clusters that were merged."
            )
        member = np.arange(n_leaves)
        for step, row in enumerate(self.linkage_[: n_leaves - n_clusters]):
            member[np.isin(member, row[:2])] = n_leaves + step
        _, first, inverse = np.unique(member, return_index=True, return_inverse=True)
        return first.argsort().argsort()[inverse].astype(np.int64)

    def labels_at(self, n_clusters: int) -> NDArray[np.int64]:
        """Label the samples once only some clusters are left.

        Parameters
        ----------
        n_clusters : int
            The number of clusters that are left, from 1 to ``n_leaves``.

        Returns
        -------
        labels : ndarray of shape (n,), int64
            From 0 to ``n_clusters - 1``; -1 for samples in no cluster.

        Raises
        ------
        ValueError
            If there are not so many clusters.
        """
        labels = np.full(len(self.labels), -1)
        for members, left in zip(
            self.members_, self.leaves_at(n_clusters), strict=True
        ):
            labels[members] = left
        return labels


def merged(centers, sizes, method):
    """Merge clusters of given sizes, in scipy's format.

    scipy's own linkage takes every row for one sample. With the sizes, Ward's tree of
    clusters is the upper part of that of their samples, if these are compact.

    Parameters
    ----------
    centers : ndarray of shape (k, d)
    sizes : ndarray of shape (k,)
    method : {"ward", "average"}

    Returns
    -------
    linkage : ndarray of shape (k - 1, 4)
    """
    k = len(centers)
    n = np.append(sizes, np.zeros(k - 1)).astype(np.float64)
    leaves = np.ones(2 * k - 1)
    d = np.full((2 * k - 1, 2 * k - 1), np.inf)
    d[:k, :k] = euclidean_distances(centers)
    if method == "ward":
        d[:k, :k] *= np.sqrt(2 * np.outer(sizes, sizes) / np.add.outer(sizes, sizes))
    np.fill_diagonal(d, np.inf)
    linkage = np.empty((k - 1, 4))
    for step in range(k - 1):
        i, j = sorted(divmod(int(d.argmin()), len(d)))
        new, height = k + step, d[i, j]
        n[new], leaves[new] = n[i] + n[j], leaves[i] + leaves[j]
        if method == "ward":  # Lance and Williams, of squares
            squares = (n + n[i]) * d[i] ** 2 + (n + n[j]) * d[j] ** 2 - n * height**2
            row = np.sqrt(np.maximum(squares, 0) / (n + n[new]))
        else:
            row = (n[i] * d[i] + n[j] * d[j]) / n[new]
        linkage[step] = i, j, height, leaves[new]
        gone = ~np.isfinite(d[i]) | ~np.isfinite(d[j])
        d[new] = d[:, new] = np.where(gone, np.inf, row)
        d[[i, j]] = d[:, [i, j]] = np.inf
    return linkage
