"""Metrics of several clusterings of the same samples, against several known factors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.utils import Bunch, check_consistent_length

from ._clustering import _check_labels, _contingency, clustering_accuracy


def purity_score(labels_true: ArrayLike, labels_pred: ArrayLike) -> float:
    """Purity: the share of samples in the class that is most frequent in their cluster.

    Parameters
    ----------
    labels_true : array-like of shape (n_samples,)
        The classes; integers, strings or any type that can be sorted.
    labels_pred : array-like of shape (n_samples,)
        The clusters, of any type and number.

    Returns
    -------
    purity : float
        From the share of the largest class (one cluster for everything) to 1 (no
        cluster holds samples of two classes).

    Raises
    ------
    ValueError
        If the labels are empty, of unequal length, or not one-dimensional.

    See Also
    --------
    clustering_accuracy : One cluster for one class. Never above the purity.
    facet_label_scores : Both, for several clusterings and several factors.

    Notes
    -----
    Many clusters may stand for one class, so that splitting a cluster never lowers
    the purity: as many clusters as samples have purity 1. Compare it between
    clusterings of equally many clusters only. The multi-facet clustering VAE is
    evaluated by it [1]_, under the name of accuracy and with more clusters than
    classes; a clustering accuracy of one cluster for each class is not the same
    measure.

    References
    ----------
    .. [1] F. Falck, H. Zhang, M. Willetts, G. Nicholson, C. Yau, C. Holmes,
       "Multi-Facet Clustering Variational Autoencoders", NeurIPS 2021; its official
       code, https://github.com/FabianFalck/mfcvae.

    Examples
    --------
    >>> from skdeepcluster.metrics import clustering_accuracy, purity_score
    >>> kinds = ["cat", "cat", "dog", "dog"]
    >>> purity_score(kinds, [0, 0, 0, 1])
    0.75
    >>> purity_score(kinds, [0, 1, 2, 2]), clustering_accuracy(kinds, [0, 1, 2, 2])
    (1.0, 0.75)
    """
    table = _contingency(labels_true, labels_pred)
    return float(table.max(axis=0).sum() / table.sum())


def facet_label_scores(facet_labels: ArrayLike, Y: ArrayLike) -> Bunch:
    """Compare each of J clusterings with each of M known factors.

    Where each facet took one factor, each row and each column of a table has one high
    entry. What a facet tells of the other factors is leakage. It is read off ``nmi``
    or ``ari``, which are near 0 for independent labels, not off ``purity``, which is
    never below the share of the largest class.

    Parameters
    ----------
    facet_labels : array-like of shape (n_samples, n_facets) or (n_samples,)
        The clusters: ``facet_labels_``, or what ``predict_facets`` returns.
    Y : array-like of shape (n_samples, n_factors) or (n_samples,)
        The classes by each factor, of any type that can be sorted.

    Returns
    -------
    scores : :class:`~sklearn.utils.Bunch`
        Arrays of shape (n_facets, n_factors), float64:

        purity : see :func:`purity_score`
            What the paper of the multi-facet clustering VAE calls accuracy.
        accuracy : see :func:`clustering_accuracy`
            One cluster for one class; clusters to spare are errors.
        nmi : see :func:`sklearn.metrics.normalized_mutual_info_score`
            With the arithmetic mean of both entropies.
        ari : see :func:`sklearn.metrics.adjusted_rand_score`
            Corrected for chance.

    Raises
    ------
    ValueError
        If an argument is empty, has more than two axes, or the lengths differ.

    Examples
    --------
    >>> from skdeepcluster.metrics import facet_label_scores
    >>> facet_labels = [[0, 1], [0, 1], [1, 2], [1, 0]]
    >>> Y = [["disc", "red"], ["disc", "red"], ["ring", "blue"], ["ring", "red"]]
    >>> scores = facet_label_scores(facet_labels, Y)
    >>> scores.purity
    array([[1.  , 0.75],
           [1.  , 1.  ]])
    >>> scores.accuracy
    array([[1.  , 0.75],
           [0.75, 0.75]])
    """
    facets = _columns(facet_labels, "facet_labels")
    factors = _columns(Y, "Y")
    check_consistent_length(facets[0], factors[0])
    measures = {
        "purity": purity_score,
        "accuracy": clustering_accuracy,
        "nmi": normalized_mutual_info_score,
        "ari": adjusted_rand_score,
    }
    return Bunch(
        **{
            name: np.array([[measure(y, labels) for y in factors] for labels in facets])
            for name, measure in measures.items()
        }
    )


def _columns(labels: Any, name: str) -> list[NDArray[Any]]:
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu()
    labels = np.asarray(labels)
    if labels.ndim not in (1, 2) or labels.size == 0:
        raise ValueError(
            f"{name} should be labels of shape (n_samples, n_columns) or (n_samples,), "
            f"got an array of shape {labels.shape}."
        )
    return [_check_labels(c, name) for c in labels.reshape(len(labels), -1).T]
