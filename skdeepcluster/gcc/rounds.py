"""When stages and rounds end, what a round must not do, and what the log tells."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from torch import Tensor

from .._engine.saved import compare, refuse
from .._progress import say


def ends_of_stages(max_epochs: int, pretraining: float, n_rounds: int) -> list[int]:
    """Share the epochs between stage I and the rounds of stage II.

    Parameters
    ----------
    max_epochs : int
    pretraining : float
        Share of stage I. Below 1 an epoch is left for a round, if there are two.
    n_rounds : int
        Wanted; each has one epoch at least.

    Returns
    -------
    ends : list of int
        Epochs that are done at the end of stage I and of each round.
    """
    first = round(pretraining * max_epochs)
    if pretraining < 1:
        first = min(first, max(1, max_epochs - 1))
    left = max_epochs - first
    rounds = min(n_rounds, left)
    parts = np.array_split(np.arange(left), rounds) if rounds else []
    return np.cumsum([first, *map(len, parts)]).tolist()


def what_went_wrong(
    before: Tensor,
    sizes: Tensor,
    distance: float,
    least_distance: float,
    changed: float,
    max_change: float,
) -> str | None:
    """Say what is wrong with a round so far, if anything is.

    Parameters
    ----------
    before, sizes : int64 tensors of shape (K,)
        Images of each cluster when the round began, and now.
    distance : float
        Between the two nearest anchors.
    least_distance : float
        What counts as apart.
    changed : float
        Share of the labels that the round changed.
    max_change : float
        Largest share allowed; infinite before the end of the round.

    Returns
    -------
    reason : str or None
        To follow "The round was undone".
    """
    lost = ((before > 0) & (sizes == 0)).nonzero().flatten().tolist()
    if lost:
        return f"it emptied the clusters {lost}"
    if distance < least_distance:
        return "the anchors of two clusters met"
    if changed > max_change:
        return f"it changed {changed:.0%} of the labels (max_change={max_change:g})"
    return None


def check_saved(state: dict, module: Any) -> None:
    """Refuse stages and rounds that no training comes to.

    Parameters
    ----------
    state : dict
        As ``get_extra_state`` of the module gave it, or anything else.
    module : GCCModule
        Before the state is taken.

    Raises
    ------
    ValueError
        If its parts contradict the module, or each other.
    """
    ends, number, log = state["ends"], state["round"], state["log"]
    whole = all(type(end) is int for end in ends)
    planned = len(module.ends) == 1 or ends[: len(module.ends)] == module.ends
    if not (whole and planned and sorted(set(ends)) == ends):
        refuse(f"its rounds end at epochs {ends}, those planned at {module.ends}")
    if not 0 <= number < len(ends):
        refuse(f"it is in round {number} of {len(ends) - 1}")
    if number > 0 or state["before"] is not None:
        weights = {
            "online": module.online.state_dict(),
            "prototypes": module.prototypes.detach(),
        }
        compare(state["before"], weights, "what its round began with")
    rows = log.rows if isinstance(vars(log).get("rows"), list) else [None]
    if not all(isinstance(row, dict) for row in rows) or len(rows) < state["clustered"]:
        refuse("its stages are no rows")
    for row in state["agreement"]:
        if not isinstance(row, list) or len(row) != len(module.class_weights):
            refuse("its agreement is not one of each cluster")
        compare(row, [0.0] * len(row), "its agreement")


class StageLog:
    """What the stages of a fit came to, and how long they took.

    Parameters
    ----------
    verbose : int
        Whether the end of each stage is shown; only with 1 bars have a title.

    Attributes
    ----------
    rows : list of dict
        One row a stage and round: ``stage``, ``round``, ``seconds`` and its facts.
    """

    def __init__(self, verbose: int):
        self.rows: list[dict] = []
        self.verbose = verbose
        self.start()

    def start(self) -> None:
        """Begin to count the seconds of a stage."""
        self.began = time.perf_counter()

    def end(self, stage: str, number: int, **facts) -> None:
        """Add the row of a stage, of round ``number``."""
        seconds = time.perf_counter() - self.began
        row = {"stage": stage, "round": number, "seconds": seconds, **facts}
        self.rows.append(row)
        if self.verbose:
            say(f"GCC, round {number}: {stage} took {seconds:.1f} s")

    def title(self, what: str, number: int) -> str | None:
        """Title of a progress bar, or None where none is wanted."""
        return f"GCC, {what}, round {number}" if self.verbose == 1 else None

    def __getstate__(self):
        # this clock means nothing to another process
        return {**vars(self), "began": time.perf_counter() - self.began}

    def __setstate__(self, state):
        vars(self).update(state, began=time.perf_counter() - state["began"])
