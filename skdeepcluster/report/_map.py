"""Points of the map, as whole numbers that take few bytes."""

from __future__ import annotations

import numpy as np

MOST = 20_000  # points
PICTURED = 2000  # points that show their image
GRID = 4000  # steps of the longer side


def map_points(clustering, geometry, rng):
    """Choose which images are on the map, and where.

    Parameters
    ----------
    clustering : Clustering
    geometry : Geometry or None
    rng : RandomState

    Returns
    -------
    points : dict of lists, or None
        ``x``, ``y`` and the cluster ``c`` of each point, and its row ``row``. None
        without positions and embedding.
    """
    if clustering.positions is not None:
        places = clustering.positions
        rows = np.flatnonzero(np.isfinite(places).all(axis=1))
        rows = np.sort(rng.permutation(rows)[:MOST])
        places = places[rows]
    elif geometry is not None and len(geometry.rows):
        rows, places = geometry.places(rng)
    else:
        return None
    if not len(rows):
        return None
    low = places.min(axis=0)
    span = (places - low).max() or 1.0
    x, y = ((places - low) * (GRID / span)).round().astype(int).T
    labels = clustering.labels[rows]
    # the page's y axis goes down
    return {
        "x": x.tolist(),
        "y": (y.max() - y).tolist(),
        "c": labels.tolist(),
        "row": rows,
    }


def pictured(points, share, rng):
    """Draw the points that show their image, as indices of the points."""
    n = max(1, round(share * PICTURED))
    return np.sort(rng.permutation(len(points["row"]))[:n])
