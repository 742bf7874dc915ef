"""Scorers for searches, with and without classes."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.metrics import (
    calinski_harabasz_score,
    davies_bouldin_score,
    make_scorer,
    silhouette_score,
)
from sklearn.utils import _safe_indexing, check_consistent_length
from sklearn.utils.validation import _num_samples

from ._clustering import (
    balanced_clustering_accuracy,
    cluster_balance,
    clustering_accuracy,
    expected_calibration_error,
)
from ._spaces import comparable_embedding

# The Davies-Bouldin index has no upper bound, and an infinite score would turn the
# means of a search into nan.
_WORST_DAVIES_BOULDIN = -1e6


def _embedding_and_labels(estimator: Any, X: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    embedding = comparable_embedding(estimator, X)
    labels = np.asarray(estimator.predict(X))
    if issparse(embedding):
        return embedding, labels
    read = ~np.isnan(embedding).any(axis=1)  # on_error="skip" leaves rows of NaN
    return embedding[read], labels[read]


def _is_degenerate(labels: NDArray[Any]) -> bool:
    # where scikit-learn's own scores raise
    n_found = len(np.unique(labels))
    return n_found == 1 or n_found == len(labels)


def silhouette_scorer(
    estimator: Any, X: Any, y: Any = None, *, sample_size: int = 5000
) -> float:
    """Mean silhouette of the predicted clusters in the estimator's embedding.

    Where ``transform`` gives the distances to the centres, as of
    :class:`~sklearn.cluster.KMeans`, the space would be another one for each number of
    clusters: there, and without ``transform``, the rows that the clusterer takes are
    the embedding.

    Parameters
    ----------
    estimator : fitted clusterer
        With ``predict``, and with ``transform`` if X does not hold rows of numbers.
    X : array-like or list of paths of length n_samples
        Whatever the estimator takes.
    y : ignored
        So that it can be used as ``scoring=``.
    sample_size : int, default=5000
        The silhouette needs all pairs of samples. Of more than ``sample_size``
        samples as many are drawn, the same ones at each call; only these are
        embedded. Bind another value with :func:`functools.partial`.

    Returns
    -------
    score : float
        From -1 to 1, higher is better; -1 where it is undefined, which is with one
        cluster or with as many clusters as samples.

    See Also
    --------
    sklearn.metrics.silhouette_score : The score itself.

    Notes
    -----
    A score in an embedding compares clusterings of one embedding well. Two
    embeddings that were learnt differently are on different scales, and a collapsed
    one can have a high silhouette: look at :func:`balance_scorer` beside it.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skdeepcluster.metrics import silhouette_scorer, whole_data_split
    >>> X = [[0.0], [0.1], [5.0], [5.1], [9.0], [9.1]]
    >>> search = GridSearchCV(
    ...     KMeans(n_init=5, random_state=0),
    ...     {"n_clusters": [2, 3, 4]},
    ...     scoring=silhouette_scorer,
    ...     cv=whole_data_split(X),
    ... ).fit(X)
    >>> search.best_params_
    {'n_clusters': 3}
    """
    n_samples = _num_samples(X)
    if n_samples > sample_size:
        # drawn, since evenly spaced rows may fall in step with periodic data; sorted,
        # since memory maps and files are read faster so
        rows = np.random.RandomState(0).choice(n_samples, sample_size, replace=False)
        X = _safe_indexing(X, np.sort(rows))
    embedding, labels = _embedding_and_labels(estimator, X)
    if _is_degenerate(labels):
        return -1.0
    return float(silhouette_score(embedding, labels))


def calinski_harabasz_scorer(estimator: Any, X: Any, y: Any = None) -> float:
    """Calinski-Harabasz score of the predicted clusters in the embedding.

    Parameters
    ----------
    estimator : fitted clusterer
        With ``predict``. The embedding is what ``transform`` gives; where these are
        distances to the centres, or there are none, what the clusterer takes.
    X : array-like or list of paths of length n_samples
        Whatever the estimator takes.
    y : ignored
        So that it can be used as ``scoring=``.

    Returns
    -------
    score : float
        From 0 upwards, higher is better; 0 where it is undefined, which is with one
        cluster or with as many clusters as samples.

    See Also
    --------
    sklearn.metrics.calinski_harabasz_score : The score itself.
    """
    embedding, labels = _embedding_and_labels(estimator, X)
    if _is_degenerate(labels):
        return 0.0
    return float(calinski_harabasz_score(embedding, labels))


def davies_bouldin_scorer(estimator: Any, X: Any, y: Any = None) -> float:
    """Minus the Davies-Bouldin index of the predicted clusters in the embedding.

    Parameters
    ----------
    estimator : fitted clusterer
        With ``predict``. The embedding is what ``transform`` gives; where these are
        distances to the centres, or there are none, what the clusterer takes.
    X : array-like or list of paths of length n_samples
        Whatever the estimator takes.
    y : ignored
        So that it can be used as ``scoring=``.

    Returns
    -------
    score : float
        At most 0, higher is better; -1e6, the lowest value, where the index is
        undefined: with one cluster, with as many clusters as samples, or where all
        clusters have the same centre.

    See Also
    --------
    sklearn.metrics.davies_bouldin_score : The index itself.
    """
    embedding, labels = _embedding_and_labels(estimator, X)
    if _is_degenerate(labels):
        return _WORST_DAVIES_BOULDIN
    index = float(davies_bouldin_score(embedding, labels))
    if index == 0.0:
        # scikit-learn returns 0, its best value, for a collapsed embedding too
        centers = np.stack([embedding[labels == k].mean(0) for k in np.unique(labels)])
        if np.allclose(centers, centers[0], rtol=0, atol=1e-8):
            return _WORST_DAVIES_BOULDIN
    return max(-index, _WORST_DAVIES_BOULDIN)


def balance_scorer(estimator: Any, X: Any, y: Any = None) -> float:
    """How evenly the samples are spread over the clusters.

    Parameters
    ----------
    estimator : fitted clusterer
        With ``predict``. If it, or the last step of it as a pipeline, has an integer
        ``n_clusters``, then clusters that stay empty lower the score.
    X : array-like or list of paths of length n_samples
        Whatever the estimator takes.
    y : ignored
        So that it can be used as ``scoring=``.

    Returns
    -------
    score : float
        From 0 (everything in one cluster) to 1 (all clusters of one size).

    See Also
    --------
    cluster_balance : The same for labels.

    Notes
    -----
    It tells a collapse, not a good clustering: random labels are balanced too. Read
    it beside another score; on unbalanced classes it should not be 1.
    """
    labels = np.asarray(estimator.predict(X))
    labels = labels[labels >= 0]  # on_error="skip" leaves labels of -1
    clusterer = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    n_clusters = getattr(clusterer, "n_clusters", None)
    n_found = len(np.unique(labels))
    asked = int(n_clusters) if isinstance(n_clusters, Integral) else 0
    return cluster_balance(labels, n_clusters=max(asked, n_found))


def calibration_scorer(estimator: Any, X: Any, y: ArrayLike) -> float:
    """Minus the expected calibration error of ``predict_proba``.

    Parameters
    ----------
    estimator : fitted clusterer
        With ``predict_proba``.
    X : array-like or list of paths of length n_samples
        Whatever the estimator takes.
    y : array-like of shape (n_samples,)
        The classes.

    Returns
    -------
    score : float
        From -1 to 0, higher is better.

    See Also
    --------
    expected_calibration_error : The error itself.
    """
    return -expected_calibration_error(*with_probabilities(y, estimator, X))


def with_probabilities(y: ArrayLike, estimator: Any, X: Any) -> tuple[Any, Any]:
    """Return classes and probabilities, without rows that on_error="skip" left out."""
    proba = np.asarray(estimator.predict_proba(X))
    left_out = np.isnan(proba).all(axis=1)
    if left_out.any():
        check_consistent_length(y, proba)
        read = np.flatnonzero(~left_out)
        return _safe_indexing(y, read), proba[read]
    return y, proba


#: Scorers with labels, for ``scoring=`` where ``y`` holds the classes.
clustering_accuracy_scorer = make_scorer(clustering_accuracy)
balanced_clustering_accuracy_scorer = make_scorer(balanced_clustering_accuracy)


def whole_data_split(X: Any) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return the one "fold" of a search without cross-validation.

    A clustering of all data is chosen by its score on these same data: the labels
    that are wanted are those of the training samples.

    Parameters
    ----------
    X : int or array-like
        The number of samples, or the samples.

    Returns
    -------
    cv : list of one tuple (train, test)
        Both hold the indices of all samples. Goes into ``cv=``.

    Raises
    ------
    ValueError
        If there are no samples.

    Examples
    --------
    >>> from skdeepcluster.metrics import whole_data_split
    >>> whole_data_split(3)
    [(array([0, 1, 2]), array([0, 1, 2]))]
    """
    n_samples = int(X) if isinstance(X, Integral) else len(X)
    if n_samples < 1:
        raise ValueError(
            f"Got {n_samples} samples to split; pass the samples, or their number."
        )
    everything = np.arange(n_samples)
    return [(everything, everything)]
