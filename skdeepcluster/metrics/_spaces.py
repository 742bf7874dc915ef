"""The space in which clusterings can be compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import euclidean_distances
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array


def comparable_embedding(estimator: Any, X: Any) -> Any:
    """Embed X in a space that means the same for any number of clusters.

    That is what ``transform`` gives, unless these are distances to the centres, as of
    :class:`~sklearn.cluster.KMeans`: of them there are as many as clusters. There, and
    if there is no ``transform``, it is what the clusterer was fitted to.

    Parameters
    ----------
    estimator : fitted clusterer, or pipeline or search that ends in one
    X : array-like or list of paths of length n_samples
        Whatever the estimator takes.

    Returns
    -------
    embedding : ndarray or sparse matrix of shape (n_samples, d)

    Raises
    ------
    TypeError
        If the estimator has no such space: X does not hold rows of numbers.
    """
    if hasattr(estimator, "best_estimator_"):
        return comparable_embedding(estimator.best_estimator_, X)
    if isinstance(estimator, Pipeline):
        *first, (_, last) = estimator.steps
        before = estimator[:-1].transform(X) if first else X
        return comparable_embedding(last, before)
    embedding = own_embedding(estimator, X)
    if embedding is not None:
        return embedding
    try:
        return check_array(X, accept_sparse="csr", ensure_all_finite="allow-nan")
    except (ValueError, TypeError) as error:
        raise TypeError(
            f"{type(estimator).__name__} embeds nothing, so that its clusters are "
            f"compared in X, which should then be rows of numbers ({error}). Put "
            "an ImageEncoder or a reshaping step before it, in a pipeline."
        ) from error


def own_embedding(estimator: Any, X: Any) -> Any:
    """Embed X as a clusterer learnt to; None if it learnt no embedding."""
    if not hasattr(estimator, "transform"):
        return None
    embedding = check_array(
        estimator.transform(X), accept_sparse="csr", ensure_all_finite="allow-nan"
    )
    return None if _are_distances(estimator, X, embedding) else embedding


def _are_distances(estimator, X, embedding):
    """Whether an embedding holds the distances of X to the centres."""
    n_features = getattr(estimator, "n_features_in_", None)
    for name in ("cluster_centers_", "subcluster_centers_"):  # the latter of Birch
        centers = np.asarray(getattr(estimator, name, ()))
        # centres among the rows of X: those of deep estimators are in the embedding
        if centers.shape == (embedding.shape[1], n_features):
            rows = check_array(X, accept_sparse="csr")
            distances = euclidean_distances(rows[:1], centers)
            return np.allclose(embedding[:1], distances, rtol=1e-3)
    return False
