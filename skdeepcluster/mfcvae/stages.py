"""Progressive training: one stage after the other, each of which adds a facet.

Stage s adds facet ``n_facets - 1 - s``: the deepest one comes first. A single stage
trains all facets from its start.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np


def stage_lengths(max_epochs: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Epochs of each stage, in the order of training.

    Parameters
    ----------
    max_epochs : int
    shares : sequence of float
        Relative lengths.

    Returns
    -------
    lengths : tuple of int
        Each stage has one epoch at least. Fewer epochs than stages make a single one.
    """
    n = len(shares)
    if max_epochs < n:
        return (max_epochs,)
    ends = np.rint(np.cumsum(shares) / np.sum(shares) * max_epochs).astype(int)
    ends = np.maximum(ends, np.arange(1, n + 1))
    ends = np.minimum(ends, max_epochs - np.arange(n)[::-1])
    return tuple(np.diff(ends, prepend=0).tolist())


def faded_in(
    step: int, lengths: Sequence[int], n_facets: int, fade_in: float
) -> list[float]:
    """How far each facet takes part: alpha, from 0 to 1.

    The first facet is there at once; each later one is faded in linearly.

    Parameters
    ----------
    step : int
        Optimiser steps that are done.
    lengths : sequence of int
        Steps of each stage.
    n_facets : int
    fade_in : float
        Share of a stage until the new facet takes full part.

    Returns
    -------
    alpha : list of n_facets floats
        From the shallow to the deep facets.
    """
    if len(lengths) == 1:
        return [1.0] * n_facets
    ends = list(accumulate(lengths))
    stage = min(bisect_right(ends, step), len(ends) - 1)
    done, fade_steps = step - ends[stage] + lengths[stage], fade_in * lengths[stage]
    fade = 1.0 if stage == 0 or done >= fade_steps else done / fade_steps
    return [0.0] * (n_facets - 1 - stage) + [fade] + [1.0] * stage


def prior_starts(lengths: Sequence[int], n_facets: int, warmup: float) -> list[int]:
    """Epochs after which the prior of each facet becomes a mixture.

    Parameters
    ----------
    lengths : sequence of int
        Epochs of each stage.
    n_facets : int
    warmup : float
        Share of a stage in which the new facet has a standard normal prior.

    Returns
    -------
    epochs : list of n_facets ints
        From the shallow to the deep facets.
    """
    starts = _warmup_ends(lengths, warmup)
    return starts * n_facets if len(starts) == 1 else starts[::-1]


def refit_epochs(lengths: Sequence[int], warmup: float, n_refits: int) -> set[int]:
    """Epochs after which the mixtures are fitted anew.

    Parameters
    ----------
    lengths : sequence of int
        Epochs of each stage.
    warmup : float
        As for :func:`prior_starts`.
    n_refits : int
        Evenly spaced refits in the rest of each stage; fewer if it is short.

    Returns
    -------
    epochs : set of int
    """
    found = set()
    starts, ends = _warmup_ends(lengths, warmup), accumulate(lengths)
    for start, end in zip(starts, ends, strict=True):
        n = min(n_refits, 2 * (end - start))  # so many fit after each epoch
        after = {round((end - start) * i / (n + 1)) for i in range(1, n + 1)}
        found |= {start + epochs for epochs in after - {0}}
    return found


def _warmup_ends(lengths, warmup):
    firsts = accumulate(lengths[:-1], initial=0)
    pairs = zip(firsts, lengths, strict=True)
    return [first + round(warmup * length) for first, length in pairs]
