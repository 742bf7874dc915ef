"""The choice between numbers of clusters, and what can be said about it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ._evidence import NO_CLUSTERS

# chosen on MNIST, Fashion-MNIST, Imagenette, CIFAR-10 (train), COIL-20 and drawn
# Gaussians: see examples/benchmarks/n_clusters.py
STABLE = 0.75  # share of the highest stability that a number needs
TIED = 0.99  # share of the highest silhouette from which the smallest number is taken
CLOSE = 0.95  # share of the highest silhouette that makes a number a candidate
SURE, FAIR = 0.85, 0.75  # stability that a confidence asks for


class Choice(NamedTuple):
    """What was chosen, and why."""

    position: int
    candidates: list[int]
    confidence: str
    reason: str


def choose(results, is_open=True) -> Choice:
    """Take the highest silhouette among the numbers that are about as stable as any.

    Of numbers whose silhouettes are within one per cent of it, the smallest is taken.

    Parameters
    ----------
    results : dict
        With ``n_clusters``, increasing, ``stability`` and ``silhouette``: ndarrays of
        shape (n_candidates,).
    is_open : bool
        Whether there may be more clusters than the last number.

    Returns
    -------
    choice : Choice
        ``position`` in the arrays; ``candidates`` are numbers of clusters, the best
        first; ``confidence`` is "high", "medium" or "low".
    """
    numbers = results["n_clusters"]
    stability, silhouette = results["stability"], results["silhouette"]
    if (silhouette == NO_CLUSTERS).all():
        first = int(numbers[0])
        return Choice(
            0,
            [first],
            "low",
            "No number of clusters separates the samples: no clustering has two "
            f"clusters whose silhouette could be measured, and {first} is only the "
            "first number that was tried. Check whether all samples are equal.",
        )
    most = stability.max()
    stable = stable_ones(stability)
    ranked = np.flatnonzero(stable)[np.argsort(-silhouette[stable], kind="stable")]
    highest = silhouette[ranked[0]]
    # the smallest of what is tied: splitting a cluster in two often costs nothing
    tied = [int(i) for i in ranked if silhouette[i] >= _share(highest, TIED)]
    best = min(tied)
    near = _share(highest, CLOSE)
    close = [best, *(int(i) for i in ranked if silhouette[i] >= near and i != best)]
    confidence, remark = _judge(best, close, stability[best], numbers)
    # what is tied with the last number may be beaten, too, by what lies beyond it
    at_ends = [i for i in tied if i == len(numbers) - 1 and is_open]
    at_ends += [0] if best == 0 and numbers[0] > 2 else []
    if at_ends and len(numbers) > 1:
        is_end = "are the ends" if len(at_ends) > 1 else "is an end"
        hint = (
            f"{_listed(numbers[sorted(at_ends)])} {is_end} of the numbers that were "
            "tried: pass numbers beyond."
        )
        remark = hint if confidence != "low" else f"{remark} {hint}"
        confidence = "low"
    left_out = np.flatnonzero(~stable & (silhouette > highest))
    among = (
        "all" if stable.all() else "those with three quarters of the highest stability"
    )
    if best == ranked[0]:
        reason = f"{numbers[best]} clusters have the highest silhouette"
    else:
        reason = (
            f"{numbers[best]} is the smallest number of clusters with a silhouette "
            "within one per cent of the highest"
        )
    steadiest = numbers[int(stability.argmax())]
    reason += (
        f" ({silhouette[best]:.2f}) of {among}. Two halves of the data agree on them "
        f"to {stability[best]:.2f}; the most, on {steadiest}, is {most:.2f}."
    )
    if len(left_out):
        reason += (
            f" The silhouette is higher with {_listed(numbers[left_out])}, but the "
            "agreement is much lower."
        )
    candidates = [int(numbers[i]) for i in close]
    return Choice(best, candidates, confidence, f"{reason} {remark}")


def stable_ones(stability):
    """Which numbers of clusters are stable enough to be chosen, (n_candidates,)."""
    most = stability.max()
    return stability >= _share(most, STABLE)


def _share(most, share):
    """Return a value below the highest one, also if that is negative."""
    return most - (1 - share) * abs(most)


def _judge(best, close, stability, numbers):
    """Confidence in the choice, and a sentence about it."""
    others = numbers[sorted(set(close) - {best})]
    if len(numbers) == 1:
        return "low", "Nothing else was tried: pass several numbers."
    if stability < FAIR:
        return "low", (
            "That is little agreement: there may be other numbers of clusters that "
            "are as good, or no clusters at all."
        )
    if len(others) == 0 and stability >= SURE:
        return "high", "No other number comes near."
    if len(others) == 0:
        return "medium", "No other number comes near, but the agreement is not high."
    text = f"{_listed(others)} {'are' if len(others) > 1 else 'is'} almost as good"
    if all(abs(i - best) == 1 for i in close if i != best):
        return "medium", f"{text}."
    return "low", f"{text}: look at the clusters of each."


def _listed(numbers):
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last
