"""What a report is about, checked before any of its work begins."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ._pictures import Pictures

LONG = 120  # characters of a name that are shown
# they turn the direction of what follows, or cannot be seen
TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@dataclass
class Clustering:
    """Images, and what a clustering says of each.

    Attributes
    ----------
    pictures : Pictures
    labels : ndarray of shape (n,), int64
        -1 for none.
    n_clusters : int
        Empty ones included.
    confidence : ndarray of shape (n,), float64, or None
        NaN only where the label is -1.
    embedding : array of shape (n, d), or None
    positions : ndarray of shape (n, 2), float64, or None
    names : list of str
    agreement : ndarray of shape (n,), float64, or None
        Share of the runs that agree with the label; NaN only where that is -1.
    cluster_agreement : ndarray of shape (n_clusters,), float64, or None
    """

    pictures: Pictures
    labels: np.ndarray
    n_clusters: int
    confidence: np.ndarray | None
    embedding: np.ndarray | None
    positions: np.ndarray | None
    names: list[str]
    agreement: np.ndarray | None = None
    cluster_agreement: np.ndarray | None = None

    def __len__(self):
        return len(self.labels)

    def name(self, row) -> str:
        return readable(self.names[row])

    @cached_property
    def clusters(self) -> list[int]:
        """Those that are not empty, the largest first."""
        found, sizes = np.unique(self.labels[self.labels >= 0], return_counts=True)
        return found[np.argsort(-sizes, kind="stable")].tolist()

    @cached_property
    def members(self) -> dict[int, np.ndarray]:
        """Rows of each cluster that is not empty, and of -1 where there are any."""
        order = np.argsort(self.labels, kind="stable")
        found, first = np.unique(self.labels[order], return_index=True)
        return dict(zip(found.tolist(), np.split(order, first[1:]), strict=True))


def checked(
    pictures,
    labels,
    n_clusters,
    confidence,
    embedding,
    positions,
    names,
    agreement=None,
    cluster_agreement=None,
):
    """Check what was passed, and put it together.

    Parameters
    ----------
    pictures : Pictures
    labels, n_clusters, confidence, embedding, positions, names : object
    agreement, cluster_agreement : object, optional
        As they were passed.

    Returns
    -------
    clustering : Clustering

    Raises
    ------
    ValueError
        If lengths, shapes or values do not fit.
    """
    n = len(pictures)
    if n == 0:
        raise ValueError("X is empty (n_samples = 0). Pass one image at least.")
    labels = _array(labels, "labels", n, 1)
    whole = labels.dtype.kind == "f" and bool(np.all(labels % 1 == 0))
    if labels.dtype.kind not in "iu" and not whole:
        raise ValueError(
            f"labels are of dtype {labels.dtype}; whole numbers from -1 on were "
            "expected. Pass what fit_predict returned, or number your own labels by "
            "np.unique(labels, return_inverse=True)[1]."
        )
    labels = labels.astype(np.int64)
    if labels.min() < -1:
        raise ValueError(
            f"labels hold {labels.min()}; numbers from 0 on were expected, or -1 for "
            "images in no cluster."
        )
    least = int(labels.max()) + 1
    if n_clusters is None:
        n_clusters = least
    elif n_clusters < least:
        raise ValueError(
            f"n_clusters={n_clusters!r}, but labels hold the number {least - 1}. Pass "
            f"{least} at least, or None."
        )
    own = labels >= 0
    if confidence is not None:
        confidence = _numbers(confidence, "confidence", n, 1, own)
        what = "predict_proba(X).max(axis=1)"
        _check_unit(confidence, "confidence", "probabilities", what)
    if agreement is not None:
        agreement = _numbers(agreement, "agreement", n, 1, own)
        what = "agreement_ of a ConsensusClusterer"
        _check_unit(agreement, "agreement", "shares", what)
    if cluster_agreement is not None:
        cluster_agreement = np.asarray(cluster_agreement, np.float64)
        if cluster_agreement.shape != (n_clusters,):
            raise ValueError(
                f"cluster_agreement has shape {cluster_agreement.shape}; one number "
                f"for each of the {n_clusters} clusters was expected. Pass "
                "cluster_agreement_ of a ConsensusClusterer, and n_clusters= if the "
                "last clusters are empty."
            )
        if np.isnan(cluster_agreement).any():
            raise ValueError("cluster_agreement holds NaN. Pass a number for each.")
        what = "cluster_agreement_ of a ConsensusClusterer"
        _check_unit(cluster_agreement, "cluster_agreement", "shares", what)
    if embedding is not None:
        embedding = _array(embedding, "embedding", n, 2)
        for start in range(0, n, 4096):  # a memory map is not read as a whole
            part = slice(start, start + 4096)
            _numbers(embedding[part], "embedding", len(labels[part]), 2, own[part])
    if positions is not None:
        positions = _numbers(positions, "positions", n, 2, own)
        if positions.shape[1] != 2:
            raise ValueError(
                f"positions have shape {positions.shape}; two columns were expected, "
                "x and y. Pass vectors of more as embedding=."
            )
    names = pictures.names() if names is None else [str(name) for name in names]
    if len(names) != n:
        raise ValueError(f"Got {len(names)} names for {n} images. Pass one for each.")
    return Clustering(
        pictures,
        labels,
        int(n_clusters),
        confidence,
        embedding,
        positions,
        names,
        agreement,
        cluster_agreement,
    )


def _check_unit(values, name, kind, what):
    low, high = np.nanmin(values, initial=0), np.nanmax(values, initial=0)
    if low < 0 or high > 1:
        raise ValueError(
            f"{name} goes from {np.nanmin(values):.3g} to {np.nanmax(values):.3g}; "
            f"{kind} from 0 to 1 were expected. Pass {what}."
        )


def _array(values, name, n, ndim):
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    array = np.asarray(values)
    if array.ndim != ndim:
        expected = "(n,)" if ndim == 1 else "(n, d)"
        raise ValueError(
            f"{name} has shape {array.shape}; {expected} was expected, n = {n}."
        )
    if len(array) != n:
        raise ValueError(
            f"{name} has {len(array)} entries, and X {n} images. Pass one for each "
            "image, in the same order."
        )
    return array


def _numbers(values, name, n, ndim, own):
    array = _array(values, name, n, ndim)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} is of dtype {array.dtype}; numbers were expected.")
    array = array.astype(np.float64)
    finite = np.isfinite(array) if ndim == 1 else np.isfinite(array).all(axis=1)
    if not finite[own].all():
        row = int(np.flatnonzero(own & ~finite)[0])
        raise ValueError(
            f"{name} holds NaN or infinite values, the first for image {row}, which "
            f"has a label. Only where the label is -1 it may."
        )
    if np.isinf(array).any():
        raise ValueError(f"{name} holds infinite values. Pass NaN for what is unknown.")
    return array


def readable(name: str) -> str:
    """Make a name fit to be shown, whatever bytes a file system allows.

    Parameters
    ----------
    name : str

    Returns
    -------
    name : str
        Characters that cannot be seen, or that turn the direction of the text, are
        written as Python would; what is long has dots in its middle.
    """
    text = "".join(map(_visible, name))
    if len(text) <= LONG:
        return text
    return f"{text[: LONG // 2]}…{text[-LONG // 2 + 1 :]}"


def _visible(character):
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no text, as os.fsdecode keeps it
        return f"\\x{code - 0xDC00:02x}"
    hidden = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    if hidden or character in TURNING:
        return ascii(character)[1:-1]
    return character
