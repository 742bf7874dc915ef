"""One training in several processes, such as those that ``torchrun`` starts.

Here is how they meet, part, and learn of each other's errors. In a single process
everything here does nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(seconds=60)  # that a process waits for the others
FAREWELL = 5.0  # seconds in which all of them say why they end
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of torchrun
WORDS = ("gloo", "nccl", "connection", "socket", "timed out")  # of a lost process

_trainings = itertools.count()  # of this process, and so of every other one


def part_of(n: int, rank: int, size: int) -> slice:
    """Rows of a process out of n: what they have differs by one row at most."""
    return slice(rank * n // size, (rank + 1) * n // size)


class Group:
    """The processes of a training, as seen from one of them.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and how many there are.
    splits : bool
        Whether calls of networks are shared at the moment.
    losses : callable or None
        What the replicas of the objective compute, with the gradients of all of them.
    """

    def __init__(self):
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.splits = True
        self.losses: Callable | None = None
        self.processes = dist.new_group(timeout=TIMEOUT, backend=_backend())
        store = dist.distributed_c10d._get_default_store()
        self.board = dist.PrefixStore(f"skdeepcluster/{next(_trainings)}", store)

    def rows(self, n: int) -> slice:
        """Rows of this process, of n."""
        return part_of(n, self.rank, self.size)

    def gather(self, part: Tensor, n: int) -> Tensor:
        """Put the rows of all processes together: n."""
        longest = part.new_zeros(-(-n // self.size), *part.shape[1:])
        longest[: len(part)] = part
        parts = [torch.empty_like(longest) for _ in range(self.size)]
        dist.all_gather(parts, longest, group=self.processes)
        rows = [part_of(n, rank, self.size) for rank in range(self.size)]
        pairs = zip(parts, rows, strict=True)
        return torch.cat([x[: own.stop - own.start] for x, own in pairs])

    def sum(self, x: Tensor) -> Tensor:
        """Add up a tensor over the processes."""
        x = x.clone()
        dist.all_reduce(x, group=self.processes)
        return x

    def leave(self, error: BaseException | None = None) -> RuntimeError | None:
        """Part from the others, and tell them of an error, if there is one.

        Returns
        -------
        theirs : RuntimeError or None
            What to raise here, if the error is that others ended.
        """
        self.losses, told = None, {}
        lost = _is_of_others(error)
        with contextlib.suppress(RuntimeError):  # who has the board may be lost
            if error is not None:
                text = "" if lost else f"{type(error).__name__}: {error}"
                self.board.set(str(self.rank), text)
            # those that wait for this one learn of it
            dist.destroy_process_group(self.processes)
            if error is not None:
                told = self._errors()
        if not lost:
            return None
        reasons = [f"process {n} raised {text}" for n, text in told.items() if text]
        silent = [str(n) for n in range(self.size) if n not in told]
        who = f"process {', '.join(silent)}" if silent else "one of them"
        killed = f"{who} was killed, or did not answer for {TIMEOUT.seconds} seconds"
        return RuntimeError(
            f"Training in {self.size} processes was ended: "
            f"{('; '.join(reasons) or killed).rstrip('.')}. Start all of them again: "
            "with checkpoint='folder' they go on from the last save."
        )

    def _errors(self):
        """What the processes say of their end, by rank, once all do or time is up."""
        self.board.add("ended", 1)
        until = time.monotonic() + FAREWELL
        while self.board.add("ended", 0) < self.size and time.monotonic() < until:
            time.sleep(0.05)
        ended = [n for n in range(self.size) if self.board.check([str(n)])]
        return {n: self.board.get(str(n)).decode() for n in ended}


_current: ContextVar[Group | None] = ContextVar("group", default=None)


def current() -> Group | None:
    """Return the processes of the training under way; None if there is one alone."""
    return _current.get()


# -- where it begins and ends ----------------------------------------------------------


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Train with the other processes inside the block, if there are any.

    That is if the caller has begun a process group, or in processes that have the
    environment variables of ``torchrun``. Each of them has to get here.

    Raises
    ------
    RuntimeError
        In all other processes, if one ends by an error, or is killed.
    """
    if _current.get() is not None or not _are_several():
        yield
        return
    begun = not dist.is_initialized()
    if begun:
        store, rank, size = _meeting_point()
        prefix = dist.PrefixStore(f"skdeepcluster/group/{next(_trainings)}", store)
        dist.init_process_group(_backend(), store=prefix, rank=rank, world_size=size)
    group = Group()
    token = _current.set(group)
    try:
        yield
    except BaseException as error:
        raised = group.leave(error)
        if raised is None:
            raise
        raise raised from error
    else:
        group.leave()
    finally:
        _current.reset(token)
        if begun:
            dist.destroy_process_group()


def _are_several():
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size() > 1
    # workers of joblib have the variables of the process that started them, too
    main = multiprocessing.current_process().name == "MainProcess"
    told = all(name in os.environ for name in VARIABLES)
    return main and told and int(os.environ["WORLD_SIZE"]) > 1


@cache  # a second training meets where the first one did
def _meeting_point():
    return next(dist.rendezvous("env://"))


def _backend():
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def _is_of_others(error):
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in said for word in WORDS)


def is_first() -> bool:
    """Whether this process is the one that shows, warns and writes files."""
    group = _current.get()
    return group is None or group.rank == 0


def are_several() -> bool:
    """Whether the training under way has other processes."""
    return _current.get() is not None


def local_device() -> torch.device:
    """Return the CUDA device of this process: of several on a machine, each has one."""
    group = _current.get()
    if group is None:
        return torch.device("cuda")
    rank = int(os.environ.get("LOCAL_RANK", group.rank))
    return torch.device("cuda", rank % torch.cuda.device_count())


# -- what they agree in ----------------------------------------------------------------


def same(value: Any) -> Any:
    """Return the value that the first process has, in all of them."""
    group = _current.get()
    if group is None:
        return value
    listed = [value]
    dist.broadcast_object_list(
        listed, group=group.processes, device=torch.device("cpu")
    )
    return value if group.rank == 0 else listed[0]


def highest(number: int) -> int:
    """Return the highest number that a process has."""
    group = _current.get()
    if group is None:
        return number
    found = torch.tensor(number)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=group.processes)
    return int(found)


def check_agreed(facts: dict) -> None:
    """Refuse processes that train on other data, or by other parameters.

    Parameters
    ----------
    facts : dict of str
        What a training has to agree in with that of every other process.

    Raises
    ------
    ValueError
        In all processes, if they differ.
    """
    group = _current.get()
    if group is None:
        return
    found: list = [None] * group.size
    dist.all_gather_object(found, facts, group=group.processes)
    for rank, theirs in enumerate(found):
        for name in facts:
            if theirs.get(name) != found[0].get(name):
                raise ValueError(
                    f"Processes 0 and {rank} train together, but differ in {name}: "
                    f"{found[0].get(name)} and {theirs.get(name)}. Call fit in all of "
                    "them on the same X, with the same parameters."
                )
