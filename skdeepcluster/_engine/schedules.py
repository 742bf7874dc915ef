"""Factors of the learning rate, as functions of the optimiser step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


class WarmupCosine:
    """Factor of the learning rate at step t, counted from 0.

    Linear over ``warmup`` steps, then half a cosine that would reach zero ``period``
    steps later.

    Parameters
    ----------
    warmup, period : float
        In optimiser steps.
    """

    def __init__(self, warmup: float, period: float):
        self.warmup, self.period = warmup, period

    def __call__(self, step: int) -> float:
        step = step + 1
        if step < self.warmup:
            return step / self.warmup
        progress = min(1.0, (step - self.warmup) / max(self.period, 1e-9))
        return 0.5 * (1.0 + math.cos(math.pi * progress))


class Staged:
    """Schedules one after the other, each of which counts its own steps.

    Parameters
    ----------
    ends : sequence of int
        Steps at which all schedules but the last one end.
    schedules : sequence of callables
    factors : sequence of float
        What each schedule is multiplied by.
    """

    def __init__(
        self,
        ends: Sequence[int],
        schedules: Sequence[Callable[[int], float]],
        factors: Sequence[float],
    ):
        self.ends, self.schedules, self.factors = ends, schedules, factors
        self.last = factors[-1]  # highest rate of what follows the plan

    def __call__(self, step: int) -> float:
        stage = sum(step >= end for end in self.ends)
        start = self.ends[stage - 1] if stage else 0
        return self.factors[stage] * self.schedules[stage](step - start)
