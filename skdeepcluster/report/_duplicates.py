"""Identical files, and images that look nearly the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors

from .._input.decoding import Unreadable
from ._pictures import CHUNK

NEIGHBORS = 3  # of each image that are candidates
PAIRS = 2000  # the nearest, whose pixels are compared
SEARCHED = 50_000  # images; the time grows with the square
SIDE = 32  # pixels that are compared
ALIKE = 0.98  # correlation of their pixels
FLAT = 4.0  # grey levels: what varies less has no correlation to speak of
SHAPES = 1.1  # ratio of two ratios of the sides


@dataclass
class Group:
    """Images that are the same, or look so.

    Attributes
    ----------
    rows : ndarray of int64
    identical : bool
        Byte by byte, all of them.
    """

    rows: np.ndarray
    identical: bool


def duplicates(pictures, geometry, rng):
    """Find identical images, and among neighbours in the embedding near-duplicates.

    Parameters
    ----------
    pictures : Pictures
    geometry : Geometry or None
        Without it, identical ones are found alone.
    rng : RandomState

    Returns
    -------
    groups : list of Group
        The largest first.
    """
    same = pictures.identical()
    first = np.arange(len(pictures))  # of the images that are identical
    for rows in same:
        first[rows] = rows[0]
    near = [] if geometry is None else _alike(pictures, _near(geometry, first, rng))
    edges = [(rows[0], row) for rows in same for row in rows[1:]] + near
    if not edges:
        return []
    a, b = np.array(edges).T
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(len(first), len(first)))
    _, of = connected_components(graph, directed=False)
    involved = np.unique(edges)
    order = involved[np.argsort(of[involved], kind="stable")]
    _, starts = np.unique(of[order], return_index=True)
    groups = [
        Group(rows, len(np.unique(first[rows])) == 1)
        for rows in np.split(order, starts[1:])
    ]
    return sorted(groups, key=lambda g: (-len(g.rows), g.rows[0]))


def _near(geometry, first, rng):
    """Return pairs of rows, (p, 2), that are near in the embedding, nearest first."""
    kept = np.flatnonzero(first[geometry.rows] == geometry.rows)  # one of each kind
    if len(kept) > SEARCHED:
        kept = np.sort(rng.permutation(kept)[:SEARCHED])
    if len(kept) < 2:
        return np.empty((0, 2), np.int64)
    search = NearestNeighbors(n_neighbors=min(NEIGHBORS, len(kept) - 1))
    distance, found = search.fit(geometry.points[kept]).kneighbors()
    rows = geometry.rows[kept]
    pairs = np.stack([np.repeat(rows, found.shape[1]), rows[found].ravel()], axis=1)
    pairs, where = np.unique(np.sort(pairs, axis=1), axis=0, return_index=True)
    return pairs[np.argsort(distance.ravel()[where], kind="stable")[:PAIRS]]


def _alike(pictures, pairs):
    """Return those of some pairs that look nearly the same."""
    rows = np.unique(pairs)
    small = {}
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        for row, image in zip(part, pictures.read(part, 2 * SIDE), strict=True):
            if not isinstance(image, Unreadable):
                small[row] = _squared(image)
    return [
        (a, b)
        for a, b in pairs.tolist()
        if a in small and b in small and look_alike(small[a], small[b])
    ]


def _squared(image):
    """Bring an image to few pixels, and keep how wide it was."""
    height, width = image.shape[:2]
    pixels = Image.fromarray(image).convert("RGB").resize((SIDE, SIDE))
    return np.asarray(pixels), width / height


def look_alike(first, second):
    """Whether two images have nearly the same pixels, but for contrast and light.

    Parameters
    ----------
    first, second : tuple (pixels, ratio)
        uint8 ndarray of shape (32, 32, 3), and width over height.

    Returns
    -------
    alike : bool
    """
    (a, wide_a), (b, wide_b) = first, second
    if max(wide_a / wide_b, wide_b / wide_a) > SHAPES:
        return False
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    spread = a.std(), b.std()
    if min(spread) < FLAT:
        return bool(max(spread) < FLAT and abs(a.mean() - b.mean()) < FLAT)
    return bool(((a - a.mean()) * (b - b.mean())).mean() > ALIKE * np.prod(spread))
