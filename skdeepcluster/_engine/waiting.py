"""How processes of a training wait for one another, and who does not come."""

from __future__ import annotations

import time
from datetime import timedelta

import torch.distributed as dist

from .._warnings import warn

# that a process waits for the others where they do what may take one much longer than
# another: import, read all of X, load weights
MEETING = timedelta(minutes=10)
NOTICE = timedelta(seconds=30)  # after which it says for whom it waits there
FAREWELL = 5.0  # seconds in which all of them say why they end
PAUSE = 0.05  # seconds between two looks at what they say


def missing(board: dist.Store, rank: int, size: int, what: str) -> str:
    """Wait for all processes; name those that did not come in time, for all others.

    Parameters
    ----------
    board : Store
        Where they leave word for one another.
    rank, size : int
        Number of this process, and how many there are.
    what : str
        What it says of itself.

    Returns
    -------
    missing : str
        Numbers of processes; empty if all came.
    """
    board.set(f"here/{rank}", what)
    late = absent(board, "here", rank, size, "missing")
    if not board.check(["missing"]):  # else this one may be too late itself
        if not late:
            return ""
        board.set("missing", ", ".join(map(str, late)))
    names = board.get("missing").decode()
    say_goodbye(board, size - len(names.split(",")))
    return names


def absent(board: dist.Store, place: str, rank: int, size: int, end: str) -> list[int]:
    """Wait for all processes at a place, until time is up, or `end` is on the board.

    Parameters
    ----------
    board : Store
    place : str
        Where each of them leaves word.
    rank, size : int
    end : str
        What is there once nobody waits any longer.

    Returns
    -------
    late : list of int
        Those that did not come.
    """
    names = [f"{place}/{n}" for n in range(size)]
    began, told, most = time.monotonic(), False, MEETING.total_seconds()
    while True:
        ended = board.check([end])  # looked at first: who is there may end at once
        if board.check(names):
            return []
        waited = time.monotonic() - began
        late = []
        if ended or waited > most or (waited > NOTICE.total_seconds() and not told):
            late = [n for n in range(size) if not board.check([names[n]])]
        if late and (ended or waited > most):
            return late
        if late:
            told = True
            if rank == min(set(range(size)).difference(late)):  # one is enough
                warn(
                    f"Process {rank} waits for process {', '.join(map(str, late))} "
                    "to call fit and to read X, and will do so for "
                    f"{most - waited:.0f} seconds more.",
                    RuntimeWarning,
                    first_only=False,
                )
        time.sleep(PAUSE)


def say_goodbye(board: dist.Store, size: int) -> None:
    """Wait a moment for that many to end: one of them has the board."""
    board.add("ended", 1)
    until = time.monotonic() + FAREWELL
    while board.add("ended", 0) < size and time.monotonic() < until:
        time.sleep(PAUSE)
