"""Imbalanced subsets of any data."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import (
    _safe_indexing,
    check_consistent_length,
    check_random_state,
    column_or_1d,
)


def make_long_tail(
    X: Any,
    y: Any,
    *,
    ratio: float = 10.0,
    n_samples: int | None = None,
    order: str | Sequence[Any] = "sorted",
    random_state: int | np.random.RandomState | None = None,
) -> tuple[Any, Any]:
    """Draw a subset whose classes shrink exponentially.

    Of K classes the k-th largest, counted from 0, has ``n_max * ratio ** (-k / (K -
    1))`` samples, rounded, drawn without replacement.

    Parameters
    ----------
    X : array-like or list of paths, of n samples
    y : array-like of shape (n,)
        Classes of any type.
    ratio : float, default=10.0
        Size of the largest class over that of the smallest, at least 1.
    n_samples : int, default=None
        Size of the subset, up to rounding. None: the largest that the classes allow.
    order : {"sorted", "random"} or sequence of all classes, default="sorted"
        The classes from the largest to the smallest.
    random_state : int, RandomState or None, default=None
        Draws the samples, their order, and the order of the classes if random.

    Returns
    -------
    X : as X
        The drawn samples, shuffled.
    y : as y
        Their classes.

    Raises
    ------
    ValueError
        If lengths differ, there is one class only, ``ratio`` is below 1, ``order`` is
        not made of the classes, a class has too few samples for ``n_samples``, or
        none would be left of one.

    See Also
    --------
    make_retention : Classes that grow linearly.

    References
    ----------
    Cui et al., *Class-Balanced Loss Based on Effective Number of Samples*, 2019,
    section 5.1.

    Examples
    --------
    >>> import numpy as np
    >>> from skdeepcluster.datasets import load_digits_images, make_long_tail
    >>> X, y = make_long_tail(*load_digits_images(), ratio=10, random_state=0)
    >>> np.bincount(y).tolist()
    [178, 138, 107, 83, 64, 50, 38, 30, 23, 18]
    """
    if not isinstance(ratio, Real) or not 1 <= ratio < np.inf:
        raise ValueError(f"ratio={ratio!r} should be a finite number of at least 1.")
    if n_samples is not None and (not isinstance(n_samples, Integral) or n_samples < 1):
        raise ValueError(
            f"n_samples={n_samples!r} should be an integer of at least 1, or None."
        )
    rng = check_random_state(random_state)
    classes, members = _members(X, y)
    ranked = _ranked(classes, order, rng)
    shares = float(ratio) ** (-np.arange(len(classes)) / (len(classes) - 1))
    available = np.array([len(members[k]) for k in ranked])
    largest = np.min(available / shares)
    if n_samples is not None:
        wanted = n_samples / shares.sum()
        if wanted > largest + 0.5:
            short = ranked[np.argmin(available / shares)]
            raise ValueError(
                f"n_samples={n_samples} at ratio={ratio:g} asks for more than the "
                f"{len(members[short])} samples of class {classes[short]!r}: at most "
                f"{int(largest * shares.sum())} are possible."
            )
        largest = wanted
    sizes = np.minimum(np.rint(largest * shares).astype(int), available)
    if sizes[-1] == 0:
        raise ValueError(
            f"At ratio={ratio:g} no sample is left of class {classes[ranked[-1]]!r}. "
            f"Lower ratio{'' if n_samples is None else ', or raise n_samples'}."
        )
    drawn = [
        rng.choice(members[k], size, replace=False)
        for k, size in zip(ranked, sizes, strict=True)
    ]
    return _take(X, y, rng.permutation(np.concatenate(drawn)))


def make_retention(
    X: Any,
    y: Any,
    *,
    min_rate: float = 0.1,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[Any, Any]:
    """Drop samples so that the classes grow linearly, from first to last.

    Each sample of the k-th class in sorted order, of K and counted from 0, is kept
    with probability ``min_rate + (1 - min_rate) * k / (K - 1)``.

    Parameters
    ----------
    X : array-like or list of paths, of n samples
    y : array-like of shape (n,)
        Classes of any type.
    min_rate : float, default=0.1
        Probability to keep a sample of the first class, in [0, 1].
    random_state : int, RandomState or None, default=None
        Draws the samples.

    Returns
    -------
    X : as X
        The samples that are kept, in their order.
    y : as y
        Their classes.

    Raises
    ------
    ValueError
        If lengths differ, there is one class only, or ``min_rate`` is not in [0, 1].

    See Also
    --------
    make_long_tail : Classes that shrink exponentially, by a ratio.

    References
    ----------
    Xie, Girshick and Farhadi, *Unsupervised Deep Embedding for Clustering Analysis*,
    2016: the experiment on imbalanced data.

    Examples
    --------
    >>> import numpy as np
    >>> from skdeepcluster.datasets import load_digits_images, make_retention
    >>> X, y = make_retention(*load_digits_images(), min_rate=0.1, random_state=0)
    >>> np.bincount(y).tolist()
    [17, 39, 56, 75, 96, 116, 121, 141, 148, 180]
    """
    if not isinstance(min_rate, Real) or not 0 <= min_rate <= 1:
        raise ValueError(f"min_rate={min_rate!r} should be a number in [0, 1].")
    rng = check_random_state(random_state)
    classes, members = _members(X, y)
    rates = np.linspace(min_rate, 1, len(classes))
    rows = [
        own[rng.random_sample(len(own)) < rate]
        for own, rate in zip(members, rates, strict=True)
    ]
    return _take(X, y, np.sort(np.concatenate(rows)))


def _members(X: Any, y: Any) -> tuple[list[Any], list[NDArray[np.int64]]]:
    """Return the classes and the rows of each."""
    check_consistent_length(X, y)
    classes, codes = np.unique(column_or_1d(y), return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"y holds {len(classes)} class(es); an imbalance needs two at least."
        )
    return classes.tolist(), [np.flatnonzero(codes == k) for k in range(len(classes))]


def _ranked(
    classes: list[Any], order: Any, rng: np.random.RandomState
) -> NDArray[np.int64]:
    """Return the places of the classes in an order."""
    if isinstance(order, str) and order == "sorted":
        return np.arange(len(classes))
    if isinstance(order, str) and order == "random":
        return rng.permutation(len(classes))
    places = {label: k for k, label in enumerate(classes)}
    given = [] if isinstance(order, str) else np.asarray(order).tolist()
    if len(given) != len(classes) or set(given) != set(places):
        raise ValueError(
            f"order={order!r} should be 'sorted', 'random', or hold each of the "
            f"{len(classes)} classes of y once."
        )
    return np.array([places[label] for label in given])


def _take(X: Any, y: Any, rows: NDArray[np.int64]) -> tuple[Any, Any]:
    return _safe_indexing(X, rows), _safe_indexing(y, rows)
