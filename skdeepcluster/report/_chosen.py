"""Which images stand for a cluster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_SHOWN = 200  # clusters, the largest, whose images are shown


@dataclass
class Row:
    """Images that are shown side by side.

    Attributes
    ----------
    title : str
    rows : ndarray of int64
    """

    title: str
    rows: np.ndarray


def examples(clustering, distance, n_examples, rng):
    """Choose the images that are shown of each cluster.

    Parameters
    ----------
    clustering : Clustering
    distance : ndarray of shape (n,), float64, or None
        To the mean of the own cluster.
    n_examples : int
        Images of a row.
    rng : RandomState

    Returns
    -------
    shown : dict of lists of Row
        For each cluster shown, the largest first, and last for -1.
    """
    confidence = clustering.confidence
    n = len(clustering)
    near = np.zeros(n) if distance is None else np.nan_to_num(distance)
    sure = near * 0 if confidence is None else np.nan_to_num(confidence)
    ranked = distance is not None or confidence is not None
    shown = {}
    for cluster in clustering.clusters[:MOST_SHOWN]:
        members = clustering.members[cluster]
        order = members[np.lexsort((near[members], -sure[members]))]
        drawn = np.sort(rng.permutation(members)[:n_examples])
        if len(members) <= n_examples:
            title = "All, most typical first" if ranked else "All"
            shown[cluster] = [Row(title, order)]
        elif not ranked:
            shown[cluster] = [Row("At random", drawn)]
        else:
            least = "Least typical" if confidence is None else "Least certain"
            shown[cluster] = [
                Row("Most typical", order[:n_examples]),
                Row(least, order[::-1][:n_examples]),
                Row("At random", drawn),
            ]
    if -1 in clustering.members:
        outside = clustering.members[-1]
        drawn = np.sort(rng.permutation(outside)[:n_examples])
        title = "All" if len(outside) <= n_examples else "At random"
        shown[-1] = [Row(title, drawn)]
    return shown
