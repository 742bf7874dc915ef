"""Maps: two dimensions of an embedding, and which of its points have an image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted


def check_reducer(reducer) -> None:
    """Refuse what cannot make a map, before anything is embedded.

    Parameters
    ----------
    reducer : {"pca", "tsne"}, transformer or None

    Raises
    ------
    TypeError
        If it is something else.
    """
    if reducer is None or reducer in ("pca", "tsne"):
        return
    if isinstance(reducer, type) or not hasattr(reducer, "fit_transform"):
        raise TypeError(
            f"reducer={reducer!r} should be 'pca', 'tsne', None, or a transformer such "
            "as sklearn.manifold.TSNE(2)."
        )


def reduced(embedding, reducer, seed: int) -> tuple[NDArray[np.float64], str]:
    """Bring an embedding to two dimensions.

    Parameters
    ----------
    embedding : ndarray of shape (n, d)
        Rows of NaN stay so.
    reducer : {"pca", "tsne"}, transformer or None
    seed : int
        Of t-SNE.

    Returns
    -------
    positions : ndarray of shape (n, 2), float64
    by : str
        What the heading says of the reducer.

    Raises
    ------
    ValueError
        If there are not two dimensions, after the reducer or before it.
    """
    there = ~np.isnan(embedding).any(axis=1)
    rows, by = embedding[there], ""
    if isinstance(reducer, str):
        if embedding.shape[1] < 2 or len(rows) < 3:
            raise ValueError(
                f"The embedding has shape {rows.shape}, of which {reducer!r} makes no "
                "map. Pass three samples at least, and two dimensions."
            )
        by = {"pca": ", by PCA", "tsne": ", by t-SNE"}[reducer]
        rows = _reducer(reducer, len(rows), seed).fit_transform(rows)
    elif reducer is not None:
        by = f", by {type(reducer).__name__}"
        rows = _transformed(reducer, rows)
    if np.ndim(rows) != 2 or np.shape(rows)[1] != 2:
        raise ValueError(
            f"The map{by} has shape {np.shape(rows)}: two columns were expected. "
            "Pass a reducer with two outputs, such as PCA(2)."
        )
    positions = np.full((len(embedding), 2), np.nan)
    positions[there] = rows
    return positions, by


def _reducer(name, n, seed):
    if name == "pca":
        from sklearn.decomposition import PCA

        return PCA(2, random_state=seed)
    from sklearn.manifold import TSNE

    # a neighbourhood has to be smaller than the data
    return TSNE(2, perplexity=min(30, (n - 1) / 3), init="pca", random_state=seed)


def _transformed(reducer, rows):
    try:
        check_is_fitted(reducer)
    except NotFittedError:
        return clone(reducer).fit_transform(rows)
    if hasattr(reducer, "transform"):
        return reducer.transform(rows)
    return clone(reducer).fit_transform(rows)  # t-SNE has no place for new rows


def box(positions) -> NDArray[np.float64]:
    """Find the lowest and the highest coordinates, leaving out NaN.

    Parameters
    ----------
    positions : ndarray of shape (n, 2)

    Returns
    -------
    box : ndarray of shape (2, 2), float64
        The lower left corner and the upper right one; 0 where there is no point.
    """
    there = positions[~np.isnan(positions).any(axis=1)]
    if not len(there):
        return np.zeros((2, 2))
    return np.stack([there.min(axis=0), there.max(axis=0)])


def extent(positions) -> float:
    """Longer side of the box around the points; 1 if all are one point.

    Parameters
    ----------
    positions : ndarray of shape (n, 2)
    """
    return float(np.ptp(box(positions), axis=0).max()) or 1.0


def middles(positions, numbers, n_labels, radius) -> NDArray[np.float64]:
    """Find a point of each label that is amid others of it.

    From the one nearest to the median, which may be between two groups of the label,
    it goes to where the points around it are most.

    Parameters
    ----------
    positions : ndarray of shape (n, 2)
    numbers : ndarray of shape (n,), int64
        Labels from 0 on; -1 is none.
    n_labels : int
    radius : float
        How far "around" is.

    Returns
    -------
    middles : ndarray of shape (n_labels, 2)
        NaN where a label has no points.
    """
    found = np.full((n_labels, 2), np.nan)
    there = ~np.isnan(positions).any(axis=1)
    for k in range(n_labels):
        own = positions[there & (numbers == k)]
        if not len(own):
            continue
        place = np.median(own, axis=0)
        for _ in range(5):
            place = own[_distances(own, place).argmin()]
            place = own[_distances(own, place) <= radius].mean(axis=0)
        found[k] = own[_distances(own, place).argmin()]
    return found


def _distances(points, place):
    return np.linalg.norm(points - place, axis=1)


def apart(positions, order, distance, n_most, free=None) -> NDArray[np.int64]:
    """Choose points whose squares do not cover each other.

    Parameters
    ----------
    positions : ndarray of shape (n, 2)
        Rows of NaN are not chosen.
    order : ndarray of int64
        Which come first.
    distance : float
        From one centre to the next, along one axis at least.
    n_most : int
    free : ndarray of shape (n,), bool, optional
        Which may be chosen; all by default.

    Returns
    -------
    chosen : ndarray of shape (<= n_most,), int64
    """
    points = positions[order]
    left = ~np.isnan(points).any(axis=1)
    if free is not None:
        left &= free[order]
    chosen: list[int] = []
    while len(chosen) < n_most and left.any():
        first = int(left.argmax())
        chosen.append(order[first])
        left &= np.abs(points - points[first]).max(axis=1) >= distance
        left[first] = False  # at no distance from itself, if all are one point
    return np.array(chosen, dtype=np.int64)


def one_of_each_first(numbers, seed: int) -> NDArray[np.int64]:
    """Shuffle the points, such that the first ones have different labels.

    Parameters
    ----------
    numbers : ndarray of shape (n,), int64
    seed : int

    Returns
    -------
    order : ndarray of shape (n,), int64
    """
    order = np.random.RandomState(seed).permutation(len(numbers))
    firsts = np.sort(np.unique(numbers[order], return_index=True)[1])
    return np.concatenate([order[firsts], np.delete(order, firsts)])


def colors_apart(places, n_colors: int) -> NDArray[np.int64]:
    """Choose a color for each label, such that equal ones are far from each other.

    Parameters
    ----------
    places : ndarray of shape (n_labels, 2)
        Where the labels are.
    n_colors : int

    Returns
    -------
    colors : ndarray of shape (n_labels,), int64
        The first ``n_colors`` labels have one each.
    """
    colors = np.arange(len(places)) % n_colors
    for k in range(n_colors, len(places)):
        far = np.linalg.norm(places[:k] - places[k], axis=1)
        nearest = [far[colors[:k] == color].min() for color in range(n_colors)]
        colors[k] = int(np.nan_to_num(nearest).argmax())
    return colors


def outlines(markers) -> NDArray[np.object_]:
    """Return shapes as paths, an array of objects.

    Parameters
    ----------
    markers : sequence of str
        Names of matplotlib.
    """
    from matplotlib.markers import MarkerStyle

    paths = np.empty(len(markers), object)
    for i, marker in enumerate(map(MarkerStyle, markers)):
        paths[i] = marker.get_path().transformed(marker.get_transform())
    return paths
