"""What a person should know before the pictures, in words."""

from __future__ import annotations

from itertools import islice

import numpy as np

LOW = 0.5  # a confidence below it: the other clusters together are as likely
MANY = 0.25  # share of such images that is worth a word
LARGE = 0.5  # share of one cluster that is worth a word
SMALL = 0.1  # of the mean size of a cluster
LISTED = 10  # numbers that a sentence names
# of the agreement of runs on a cluster: Hennig, "Cluster-wise assessment of cluster
# stability", 2007
DISSOLVED, STABLE = 0.5, 0.75


def findings(clustering, groups, unreadable, how_many=None):
    """Say what looks wrong with a clustering.

    Parameters
    ----------
    clustering : Clustering
    groups : list of Group
        Of duplicates.
    unreadable : dict of str
        The reason why an image could not be read, by its row.
    how_many : HowMany, optional

    Returns
    -------
    sentences : list of str
    """
    n, found = len(clustering), clustering.clusters
    sizes = {k: len(clustering.members[k]) for k in found}
    said = []
    n_empty = clustering.n_clusters - len(found)
    if n_empty:
        numbers = (k for k in range(clustering.n_clusters) if k not in sizes)
        empty = list(islice(numbers, LISTED))
        verb = "is" if n_empty == 1 else "are"
        said.append(
            f"{n_empty:,} of the {clustering.n_clusters:,} clusters {verb} empty: "
            f"{_numbers(empty, n_empty)}."
        )
    if len(found) == 1:
        said.append(f"All images with a label are in one cluster, cluster {found[0]}.")
    elif found and sizes[found[0]] > LARGE * n:
        share = sizes[found[0]] / n
        said.append(f"Cluster {found[0]} holds {share:.0%} of all images.")
    few = [k for k in found if sizes[k] < SMALL * n / max(1, len(found))]
    if few:
        verb = "cluster has" if len(few) == 1 else "clusters have"
        said.append(
            f"{len(few):,} {verb} less than a tenth of the average size: "
            f"{_numbers(few[:LISTED], len(few))}."
        )
    outside = n - sum(sizes.values())
    if outside:
        said.append(
            f"{_images(outside)} ({outside / n:.1%}) {_is(outside)} in no cluster "
            "(label -1)."
        )
    if how_many is not None and how_many.confidence == "low":
        said.append(
            f"The number of clusters, {how_many.n_clusters}, was chosen with low "
            'confidence: read "How many clusters".'
        )
    said += _of_agreement(clustering)
    said += _of_confidence(clustering)
    said += _of_duplicates(groups)
    if unreadable:
        row, reason = next(iter(unreadable.items()))
        said.append(
            f"{_images(len(unreadable))} that this page was to show could not be read; "
            f"the first is {clustering.name(row)}, which {reason}."
        )
    return said


def _of_agreement(clustering):
    if clustering.cluster_agreement is None:
        return []
    agreement = {k: clustering.cluster_agreement[k] for k in clustering.clusters}
    accidents = [k for k, value in agreement.items() if value < DISSOLVED]
    rough = [k for k, v in agreement.items() if DISSOLVED <= v < STABLE]
    said = []
    if accidents:
        one = len(accidents) == 1
        verb = "cluster is an accident" if one else "clusters are accidents"
        said.append(
            f"{len(accidents):,} {verb} of the seed, found in few of the runs "
            f"(agreement below {DISSOLVED}): "
            f"{_numbers(sorted(accidents)[:LISTED], len(accidents))}."
        )
    if rough:
        verb = "cluster is" if len(rough) == 1 else "clusters are"
        said.append(
            f"{len(rough):,} {verb} found again only roughly by other runs (agreement "
            f"below {STABLE}): {_numbers(sorted(rough)[:LISTED], len(rough))}."
        )
    return said


def _of_confidence(clustering):
    if clustering.confidence is None:
        return []
    confidence = clustering.confidence[clustering.labels >= 0]
    low = int((confidence < LOW).sum())
    if low <= MANY * len(confidence):
        return []
    return [
        f"{_images(low)} ({low / len(confidence):.0%} of those with a label) "
        f"{'has' if low == 1 else 'have'} a confidence below {LOW}: look at the least "
        "certain ones before you use their labels."
    ]


def _of_duplicates(groups):
    identical = [g for g in groups if g.identical]
    alike = [g for g in groups if not g.identical]
    said = []
    if identical:
        extra = sum(len(g.rows) - 1 for g in identical)
        said.append(
            f"{_images(extra)} {_is(extra)} an exact copy of another one."
            if extra == 1
            else f"{_images(extra)} are exact copies of others."
        )
    if alike:
        involved = sum(len(g.rows) for g in alike)
        where = "1 group" if len(alike) == 1 else f"{len(alike):,} groups"
        said.append(f"{_images(involved)}, in {where}, look nearly the same.")
    return said


def _numbers(listed, n):
    """Write some numbers, of n in all."""
    more = n - len(listed)
    end = f" and {more:,} more" if more else ""
    return ", ".join(map(str, listed)) + end


def _images(n):
    return "1 image" if n == 1 else f"{n:,} images"


def _is(n):
    return "is" if n == 1 else "are"


def mean_confidence(clustering, rows=None):
    """Return the mean confidence of some rows with a label, or None."""
    if clustering.confidence is None:
        return None
    rows = clustering.labels >= 0 if rows is None else rows
    values = clustering.confidence[rows]
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None
