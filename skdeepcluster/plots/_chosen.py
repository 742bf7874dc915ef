"""Which images of each cluster a sheet shows, and what they are called."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._engine.randomness import make_seed
from .._input.paths import IMAGES, are_pictures, path_of

ORDERS = {
    "typical": "most typical first",
    "uncertain": "least certain first",
    "random": "chosen at random",
}
LONGEST = 22  # characters of a name below an image


class Chosen(NamedTuple):
    """What is shown of each cluster, and what there is of it."""

    indices: list[NDArray[np.int64]]
    sizes: NDArray[np.int64]
    confidences: NDArray[np.float64]


def choose(
    labels: NDArray[Any],
    confidence: NDArray[np.float64],
    clusters: NDArray[Any],
    order: str,
    n_images: int,
    random_state: Any,
) -> Chosen:
    """Choose images of each cluster.

    Parameters
    ----------
    labels : ndarray of shape (n,)
    confidence : ndarray of shape (n,), float64
        NaN where it is not known.
    clusters : ndarray of shape (n_rows,)
    order : {"typical", "uncertain", "random"}
    n_images : int
        At most, of each cluster.
    random_state : int, RandomState or None

    Returns
    -------
    chosen : Chosen
        Where ``order`` goes by confidence, without those of which it is not known.
    """
    rng = np.random.RandomState(make_seed(random_state))
    indices, sizes, confidences = [], [], []
    for cluster in clusters:
        members = np.flatnonzero(labels == cluster)
        known = members[~np.isnan(confidence[members])]
        sizes.append(len(members))
        confidences.append(confidence[known].mean() if len(known) else np.nan)
        if order == "random":
            shown = rng.permutation(members)
        else:
            rank = -confidence[known] if order == "typical" else confidence[known]
            shown = known[np.argsort(rank, kind="stable")]
        indices.append(shown[:n_images])
    return Chosen(indices, np.array(sizes, np.int64), np.array(confidences))


def check_choice(order: str, n_images: int) -> None:
    """Raise the errors of what is wrong with these."""
    if order not in ORDERS:
        *first, last = map(repr, ORDERS)
        raise ValueError(f"order={order!r} should be {', '.join(first)} or {last}.")
    if n_images < 1:
        raise ValueError(f"n_images={n_images!r} should be at least 1.")


def names_of(source: Any, indices: NDArray[np.int64]) -> list[str]:
    """Return the file name of each image, or else its row."""
    if not are_pictures(source):
        return [str(i) for i in indices]
    return [
        str(i) if isinstance(x, IMAGES) else os.path.basename(path_of(x))
        for i, x in ((i, source[i]) for i in indices)
    ]


def caption(name: str) -> str:
    """Shorten a name in the middle, and make it one that can be drawn."""
    text = name.encode("utf-8", "replace").decode()
    text = "".join(c if c.isprintable() else "?" for c in text)
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[: half - 1]}…{text[-half:]}"


def check_labels(labels: Any, confidence: Any, n_samples: int):
    """Bring labels of any origin, and their confidences, to arrays.

    Parameters
    ----------
    labels : array-like of shape (n_samples,)
    confidence : array-like of shape (n_samples,) or None
    n_samples : int

    Returns
    -------
    labels : ndarray of shape (n_samples,)
        Of integers, or of str.
    confidence : ndarray of shape (n_samples,), float64
        NaN where it is not known.

    Raises
    ------
    ValueError
        If they are of another shape, or labels are neither whole numbers nor str.
    """
    labels = np.asarray(labels)
    if labels.shape != (n_samples,):
        raise ValueError(
            f"labels has shape {labels.shape}; one label for each of the {n_samples} "
            f"rows of X is needed, shape ({n_samples},)."
        )
    if labels.dtype.kind in "bfO" and not any(isinstance(x, str) for x in labels):
        with np.errstate(invalid="ignore"):
            try:
                whole = labels.astype(np.int64)
                right = bool(np.all(whole == labels))
            except (TypeError, ValueError, OverflowError):
                right = False
        if not right:
            raise ValueError(
                "labels hold values that are no whole numbers. Pass the number or the "
                "name of a cluster for each row of X, and -1 for rows without one."
            )
        labels = whole
    elif labels.dtype.kind not in "iu":
        labels = labels.astype(str)
    if confidence is None:
        return labels, np.full(n_samples, np.nan)
    confidence = np.asarray(confidence, dtype=np.float64)
    if confidence.shape != (n_samples,):
        raise ValueError(
            f"confidence has shape {confidence.shape}; one value for each of the "
            f"{n_samples} rows of X is needed, such as predict_proba(X).max(axis=1)."
        )
    return labels, confidence
