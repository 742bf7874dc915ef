"""Fits to all samples and to halves of them, and the evidence that they give."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.preprocessing import normalize
from sklearn.utils import _safe_indexing, check_array, check_random_state

from .._progress import say
from ..metrics import cluster_balance
from ..metrics._spaces import own_embedding
from ._asked import n_distinct, possible_numbers
from ._evidence import Silhouettes, generalization, reduced, stability


class Found(NamedTuple):
    """The evidence, and what gave it.

    Attributes
    ----------
    results : dict of ndarrays of shape (n_numbers,)
    space : ndarray of shape (n_read, d)
        Where clusterings were compared.
    fitted : list of estimators
        Those that were fitted to all samples, one for each number.
    """

    results: dict
    space: np.ndarray
    fitted: list


def fit_to(clusterer, parameter, n_clusters, X, y=None, rows=None, seed=None):
    """Fit a clone.

    Parameters
    ----------
    clusterer : estimator
    parameter : str
        Name of the number of clusters.
    n_clusters : int
    X, y : array-like or list of length n
    rows : ndarray of int, optional
        The part of them to fit to.
    seed : int, optional
        Replaces each ``random_state`` of the clusterer.

    Returns
    -------
    fitted : estimator
    """
    model = clone(clusterer).set_params(**{parameter: n_clusters})
    if seed is not None:
        names = [n for n in model.get_params() if n.split("__")[-1] == "random_state"]
        model.set_params(**dict.fromkeys(names, seed))
    if rows is not None:
        X = _safe_indexing(X, rows)
        y = None if y is None else _safe_indexing(y, rows)
    return model.fit(X, y)


def labels_of(fitted, X):
    """Labels of the samples that a clusterer was fitted to, (n,), int64."""
    labels = getattr(fitted, "labels_", None)
    labels = fitted.predict(X) if labels is None else labels
    return np.asarray(labels).astype(np.int64)


def in_embedding(embedding, numbers, search, seed):
    """Gather the evidence by k-means in one embedding.

    Parameters
    ----------
    embedding : ndarray of shape (n, d)
        Rows of NaN are left out.
    numbers : list of int
    search : NClustersSearch
        With ``n_splits`` and ``verbose``.
    seed : int

    Returns
    -------
    found : Found
        ``fitted`` are k-means, not clusterers of images.
    """
    from sklearn.cluster import KMeans

    E = embedding[np.isfinite(embedding).all(axis=1)]
    # images that differ may be one and the same to a network
    numbers = possible_numbers(numbers, E, np.arange(len(E)), "the embedding")
    kmeans = KMeans(n_init=3, random_state=seed)
    return by_refits(kmeans, "n_clusters", E, None, numbers, search, seed)


def by_refits(clusterer, parameter, X, y, numbers, search, seed):
    """Gather the evidence by fits of a clusterer, as :func:`in_embedding` does.

    Parameters
    ----------
    clusterer : estimator
    parameter : str
        Name of the number of clusters.
    X, y : array-like or list of length n
    numbers : list of int
    search : NClustersSearch
        With ``n_splits`` and ``verbose``.
    seed : int

    Returns
    -------
    found : Found
    """
    rng = check_random_state(seed)
    fitted = [fit_to(clusterer, parameter, k, X, y) for k in numbers]
    space, read = _common_space(fitted, X, seed)
    silhouettes = Silhouettes(space, rng)
    # the same halves for every number: curves are compared, not single values
    orders = [rng.permutation(len(read)) for _ in range(search.n_splits)]
    splits = [(order[: len(order) // 2], order[len(order) // 2 :]) for order in orders]
    # a half has no more clusters than it has distinct rows
    most = [
        [n_distinct(X, read[half], numbers[-1]) for half in halves] for halves in splits
    ]
    rows = []
    for k, whole in zip(numbers, fitted, strict=True):
        labels = labels_of(whole, X)[read]
        pairs = []
        for halves, limits in zip(splits, most, strict=True):
            seeds = rng.randint(2**31 - 1, size=2)
            said = [
                fit_to(clusterer, parameter, min(k, n), X, y, read[half], s).predict(X)
                for half, n, s in zip(halves, limits, seeds.tolist(), strict=True)
            ]
            pairs.append(
                _compare(space, [np.asarray(one)[read] for one in said], halves)
            )
        agreement, neighbours = np.array(pairs).T
        kept = labels[labels >= 0]  # a reject option leaves some without a label
        sizes = np.bincount(kept, minlength=k)
        rows.append(
            {
                "n_clusters": k,
                "stability": agreement.mean(),
                "stability_std": agreement.std(),
                "silhouette": silhouettes.of(labels),
                "generalization": neighbours.mean(),
                "smallest": sizes.min() / len(kept),
                "balance": cluster_balance(kept, n_clusters=len(sizes)),
            }
        )
        if search.verbose:
            values = ("stability", "silhouette", "generalization", "smallest")
            told = ", ".join(f"{name} {rows[-1][name]:.2f}" for name in values)
            say(f"{k} clusters: {told}")
    results = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Found(results, space, fitted)


def _compare(space, said, halves):
    """Agreement of two halves, and of each with neighbours on the other half."""
    (agreement,) = stability(said)
    a, b = halves
    first, second = said
    there = generalization(space, first, a, b), generalization(space, second, b, a)
    return agreement, np.mean(there)


def _common_space(fitted, X, seed):
    """Return a space in which all fits can be compared, and the rows it is of."""
    own = own_embedding(fitted[0], X)
    if own is None:  # they clustered X itself
        rows = check_array(X, accept_sparse="csr")
        return reduced(rows, seed), np.arange(rows.shape[0])
    read = np.flatnonzero(np.isfinite(own).all(axis=1))
    # each learnt an embedding of its own: side by side they are one and the same
    every = [normalize(own_embedding(one, X)[read]) for one in fitted]
    return reduced(np.hstack(every), seed), read
