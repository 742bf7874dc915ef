"""What a search was asked: the numbers of clusters, and what they are numbers of."""

from __future__ import annotations

from numbers import Integral

import numpy as np
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing

from .._estimator import DeepClusterer
from .._input.paths import are_pictures
from .._warnings import warn

NAMES = ("n_clusters", "n_components")
BLOCK = 1024  # rows that are looked at together


def asked_numbers(given, n_samples):
    """Return the numbers of clusters to try, increasing.

    Parameters
    ----------
    given : range, list, tuple, ndarray, int or "auto"
    n_samples : int
        Samples from which the evidence is gathered.

    Returns
    -------
    numbers : list of int

    Raises
    ------
    ValueError
        If they are not whole, below 2, or above half the number of samples.
    """
    if isinstance(given, str):
        given = range(2, min(16, 1 + max(2, n_samples // 2)))
    alone = isinstance(given, Integral)
    numbers = sorted(set([given] if alone else given))
    if not numbers or not all(isinstance(k, Integral) for k in numbers):
        raise ValueError(
            f"n_clusters={given!r} should hold whole numbers. Pass for example "
            "range(2, 16)."
        )
    if not alone and numbers[0] < 2:
        raise ValueError(
            f"n_clusters={given!r} begins with {numbers[0]}, which there is nothing "
            "to compare with. Pass numbers from 2 on."
        )
    if 2 * numbers[-1] > n_samples:
        raise ValueError(
            f"n_clusters goes up to {numbers[-1]} with n_samples = {n_samples}: halves "
            f"of these are clustered as well. Pass numbers up to {n_samples // 2}, or "
            "more samples."
        )
    return list(map(int, numbers))


def possible_numbers(numbers, X, rows, name="X"):
    """Leave out numbers of clusters that are above the number of distinct rows.

    Parameters
    ----------
    numbers : list of int
        Increasing.
    X : array-like or list of length n
        Files and pictures are not compared.
    rows : ndarray of int
        Those from which the evidence is gathered.
    name : str
        What X is to the user.

    Returns
    -------
    possible : list of int

    Raises
    ------
    ValueError
        If none is left.
    """
    n = n_distinct(X, rows, numbers[-1])
    possible = [k for k in numbers if k <= n]
    if possible == numbers:
        return numbers
    known = f"Only {n} of the {len(rows)} rows of {name} are distinct"
    if n == 1:
        known = f"All {len(rows)} rows of {name} are equal"
    if not possible:
        raise ValueError(
            f"{known}: they cannot be put into {numbers[0]} clusters. Pass "
            f"{f'numbers up to {n}, or ' if n > 1 else ''}other samples."
        )
    warn(f"{known}: of the numbers of clusters, those above {n} are not tried.")
    return possible


def n_distinct(X, rows, most):
    """Count the distinct ones among some rows of X, up to some number.

    Parameters
    ----------
    X : array-like or list of length n
        All files and pictures are taken for distinct.
    rows : ndarray of int
    most : int

    Returns
    -------
    n_distinct : int
        ``most`` at the most.
    """
    if are_pictures(X):
        return most
    seen: set[bytes] = set()
    for start in range(0, len(rows), BLOCK):
        block = _safe_indexing(X, rows[start : start + BLOCK])
        block = block.detach().cpu() if hasattr(block, "detach") else block
        block = np.asarray(block.toarray() if issparse(block) else block)
        if not block.size:  # the clusterer refuses rows without values
            return most
        seen.update(row.tobytes() for row in block)
        if len(seen) >= most:
            return most
    return len(seen)


def parts_of(estimator, parameter):
    """Take a clone of an estimator apart.

    Parameters
    ----------
    estimator : clusterer or pipeline
    parameter : str
        "auto", or the name of the parameter of the whole that takes the number.

    Returns
    -------
    front : Pipeline or None
        The steps before the last one.
    last : clusterer
    parameter : str
        Its parameter.

    Raises
    ------
    ValueError
        If it has no such parameter.
    """
    whole = clone(estimator)
    front, last, prefix = None, whole, ""
    if isinstance(whole, Pipeline):
        name, last = whole.steps[-1]
        prefix = f"{name}__"
        front = whole[:-1] if len(whole) > 1 else None
    known = last.get_params()
    asked = parameter.removeprefix(prefix)
    if parameter == "auto":
        asked = next((name for name in NAMES if name in known), "n_clusters")
    if asked not in known:
        raise ValueError(
            f"{type(last).__name__} has no parameter {asked!r}. Pass parameter=, the "
            f"name of one of {', '.join(sorted(known))}."
        )
    return front, last, asked


def learns(clusterer):
    """Whether a clusterer, or the one within it, is trained by this package."""
    while hasattr(clusterer, "estimator"):
        clusterer = clusterer.estimator
    return isinstance(clusterer, DeepClusterer)
