"""Metrics of labels and probabilities."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import contingency_matrix
from sklearn.utils import check_array, check_consistent_length


def _check_labels(labels: ArrayLike, name: str) -> NDArray[Any]:
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu()
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(
            f"{name} should be labels of shape (n_samples,), got an array of shape "
            f"{labels.shape}. Pass proba.argmax(axis=1) if these are probabilities."
        )
    return check_array(labels, ensure_2d=False, dtype=None, input_name=name)


def _contingency(labels_true: ArrayLike, labels_pred: ArrayLike) -> NDArray[np.int64]:
    labels_true = _check_labels(labels_true, "labels_true")
    labels_pred = _check_labels(labels_pred, "labels_pred")
    check_consistent_length(labels_true, labels_pred)
    return contingency_matrix(labels_true, labels_pred)


def clustering_accuracy(labels_true: ArrayLike, labels_pred: ArrayLike) -> float:
    """Clustering accuracy (ACC): the share of samples in the cluster of their class.

    Each cluster stands for at most one class and each class for at most one cluster;
    of all such matchings the one with the highest accuracy counts. Where there are
    more clusters than classes, the samples of the clusters left over are errors.

    Parameters
    ----------
    labels_true : array-like of shape (n_samples,)
        The classes; integers, strings or any type that can be sorted.
    labels_pred : array-like of shape (n_samples,)
        The clusters; their type and number need not be those of the classes. A label
        -1 is a cluster like any other.

    Returns
    -------
    accuracy : float
        Between 0 (excluded) and 1 (the same partition).

    Raises
    ------
    ValueError
        If the labels are empty, of unequal length, or not one-dimensional.

    See Also
    --------
    balanced_clustering_accuracy : Each class counts the same, whatever its size.
    per_class_recall : The same matching, class by class.

    Notes
    -----
    The matching is a linear assignment on the contingency table (the Hungarian
    method [1]_), the usual measure of deep clusterings [2]_. On unbalanced classes
    one large cluster already has a high accuracy: show the balanced accuracy and the
    normalised mutual information beside it.

    References
    ----------
    .. [1] H. W. Kuhn, "The Hungarian method for the assignment problem", Naval
       Research Logistics Quarterly, 1955.
    .. [2] J. Xie, R. Girshick, A. Farhadi, "Unsupervised deep embedding for
       clustering analysis", ICML 2016.

    Examples
    --------
    >>> from skdeepcluster.metrics import clustering_accuracy
    >>> clustering_accuracy(["cat", "cat", "dog", "dog"], [1, 1, 0, 0])
    1.0
    >>> clustering_accuracy(["cat", "cat", "dog", "dog"], [1, 1, 0, 2])
    0.75
    """
    table = _contingency(labels_true, labels_pred)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / table.sum())


def balanced_clustering_accuracy(
    labels_true: ArrayLike, labels_pred: ArrayLike
) -> float:
    """Mean recall of the classes, under the matching that makes this mean highest.

    Every class has the same weight, whatever its size. The matching of clusters to
    classes is not the one of :func:`clustering_accuracy`, which gives up small
    classes to win samples of large ones.

    Parameters
    ----------
    labels_true : array-like of shape (n_samples,)
        The classes; integers, strings or any type that can be sorted.
    labels_pred : array-like of shape (n_samples,)
        The clusters, of any type and number.

    Returns
    -------
    accuracy : float
        Between 0 (excluded) and 1. A class without a cluster has recall 0; one
        cluster for everything gives ``1 / n_classes``.

    Raises
    ------
    ValueError
        If the labels are empty, of unequal length, or not one-dimensional.

    See Also
    --------
    sklearn.metrics.balanced_accuracy_score : The same where labels are classes.

    Examples
    --------
    >>> from skdeepcluster.metrics import balanced_clustering_accuracy
    >>> balanced_clustering_accuracy(["a"] * 8 + ["b"] * 2, [0] * 10)
    0.5
    """
    table = _contingency(labels_true, labels_pred)
    recall = table / table.sum(axis=1, keepdims=True)
    rows, columns = linear_sum_assignment(recall, maximize=True)
    return float(recall[rows, columns].sum() / len(recall))


def per_class_recall(
    labels_true: ArrayLike, labels_pred: ArrayLike
) -> NDArray[np.float64]:
    """Recall of each class under the matching of :func:`clustering_accuracy`.

    Parameters
    ----------
    labels_true : array-like of shape (n_samples,)
        The classes; integers, strings or any type that can be sorted.
    labels_pred : array-like of shape (n_samples,)
        The clusters, of any type and number.

    Returns
    -------
    recall : ndarray of shape (n_classes,), float64
        In the order of ``np.unique(labels_true)``; 0 for a class that no cluster was
        matched to. The mean, weighted by the sizes of the classes, is the clustering
        accuracy. Where several matchings are equally accurate, it is one of them.

    Raises
    ------
    ValueError
        If the labels are empty, of unequal length, or not one-dimensional.

    Examples
    --------
    >>> from skdeepcluster.metrics import per_class_recall
    >>> per_class_recall(["cat", "cat", "dog", "dog"], [1, 1, 0, 2])
    array([1. , 0.5])
    """
    table = _contingency(labels_true, labels_pred)
    rows, columns = linear_sum_assignment(table, maximize=True)
    recall = np.zeros(len(table))
    recall[rows] = table[rows, columns] / table[rows].sum(axis=1)
    return recall


def expected_calibration_error(
    labels_true: ArrayLike, proba: ArrayLike, n_bins: int = 15
) -> float:
    """Compute the expected calibration error (ECE) of soft cluster assignments.

    The clusters (the most probable column of each row) are first matched to the
    classes as :func:`clustering_accuracy` does. A sample's confidence is its highest
    probability; it is correct if its cluster was matched to its class.

    Parameters
    ----------
    labels_true : array-like of shape (n_samples,)
        The classes; integers, strings or any type that can be sorted.
    proba : array-like of shape (n_samples, n_clusters)
        Probabilities, as ``predict_proba`` returns them: each row sums to 1.
    n_bins : int, default=15
        Number of equally wide bins of confidence on (0, 1].

    Returns
    -------
    error : float
        Between 0 (the confidence is the accuracy, bin by bin) and 1.

    Raises
    ------
    ValueError
        If the input is empty or of unequal length, ``proba`` does not hold
        probabilities, or ``n_bins`` is not a positive integer.

    Notes
    -----
    Equation 3 of [1]_: the gap between the accuracy and the mean confidence of each
    bin, weighted by the share of samples in it. Bins are open below and closed above.
    The matching is chosen with the labels at hand, so that the accuracies are a
    little optimistic beside those of a classifier.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern
       neural networks", ICML 2017.

    Examples
    --------
    >>> from skdeepcluster.metrics import expected_calibration_error
    >>> proba = [[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.25, 0.75]]
    >>> expected_calibration_error(["cat", "cat", "dog", "dog"], proba)
    0.25
    """
    return mean_gap(*reliability(labels_true, proba, n_bins))


def mean_gap(
    sizes: NDArray[np.int64],
    correct: NDArray[np.float64],
    confidence: NDArray[np.float64],
) -> float:
    """Return the calibration error of the sums that :func:`reliability` gives."""
    # |accuracy - confidence| times the share of the bin: the bin's size cancels
    return float(np.abs(correct - confidence).sum() / sizes.sum())


def reliability(
    labels_true: ArrayLike, proba: ArrayLike, n_bins: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Sums over the bins of confidence: see :func:`expected_calibration_error`.

    Returns
    -------
    sizes, correct, confidence : ndarrays of shape (n_bins,)
        Samples of each bin, how many are correct, and the sum of their confidences.
    """
    if not isinstance(n_bins, Integral) or isinstance(n_bins, bool) or n_bins < 1:
        raise ValueError(f"n_bins={n_bins!r} should be a positive integer.")
    if hasattr(proba, "detach"):
        proba = proba.detach().cpu().double()
    proba = check_array(proba, dtype=np.float64, input_name="proba")
    # float16 and bfloat16 probabilities sum to 1 within about 1e-3 only
    if proba.min() < 0 or not np.allclose(proba.sum(axis=1), 1, atol=5e-3):
        raise ValueError(
            "proba should hold probabilities, each row summing to 1; got values "
            f"from {proba.min():.3g} to {proba.max():.3g}, rows summing to "
            f"{proba.sum(axis=1).min():.3g} to {proba.sum(axis=1).max():.3g}. Pass "
            "what predict_proba returns, not logits or distances."
        )
    labels_true = _check_labels(labels_true, "labels_true")
    check_consistent_length(labels_true, proba)
    labels_pred = proba.argmax(axis=1)
    classes, class_of = np.unique(labels_true, return_inverse=True)
    clusters, cluster_of = np.unique(labels_pred, return_inverse=True)
    rows, columns = linear_sum_assignment(
        contingency_matrix(class_of, cluster_of), maximize=True
    )
    matched = np.full(len(clusters), -1)
    matched[columns] = rows
    correct = matched[cluster_of] == class_of
    confidence = proba.max(axis=1)
    inner_edges = np.linspace(0, 1, n_bins + 1)[1:-1]
    in_bin = np.digitize(confidence, inner_edges, right=True)
    sizes, correct_of, confidence_of = (
        np.bincount(in_bin, weights, minlength=n_bins)
        for weights in (None, correct, confidence)
    )
    return sizes, correct_of, confidence_of


def cluster_balance(labels_pred: ArrayLike, n_clusters: int | None = None) -> float:
    """Entropy of the cluster sizes, relative to clusters of equal size.

    Parameters
    ----------
    labels_pred : array-like of shape (n_samples,)
        The clusters.
    n_clusters : int, optional
        The number of clusters that there should be: empty ones lower the balance. By
        default the number of those in ``labels_pred``.

    Returns
    -------
    balance : float
        From 0 (everything in one cluster) to 1 (all clusters of one size).

    Raises
    ------
    ValueError
        If the labels are empty, or hold more than ``n_clusters`` clusters.

    Examples
    --------
    >>> from skdeepcluster.metrics import cluster_balance
    >>> cluster_balance([0, 0, 1, 1])
    1.0
    >>> cluster_balance([0, 0, 1, 1], n_clusters=4)
    0.5
    """
    labels = _check_labels(labels_pred, "labels_pred")
    sizes = np.unique(labels, return_counts=True)[1]
    if n_clusters is None:
        n_clusters = len(sizes)
    elif len(sizes) > n_clusters:
        raise ValueError(
            f"labels_pred holds {len(sizes)} clusters, more than "
            f"n_clusters={n_clusters}. Pass the number that was asked for, or None."
        )
    if len(sizes) == 1:
        return 0.0
    share = sizes / sizes.sum()
    # rounding may leave the entropy of equal shares a hair above log(n_clusters)
    return min(1.0, float(-(share * np.log(share)).sum() / np.log(n_clusters)))
