"""One training in several processes, such as those that ``torchrun`` starts.

Here is how they meet, part, and learn of each other's errors. In a single process
everything here does nothing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import waiting

TIMEOUT = timedelta(seconds=60)  # that a process waits for the others in training
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of torchrun
GLOO = re.compile(r"\bgloo[/\\]\S+:\d+\]")  # its errors name a line of its source


def part_of(n: int, rank: int, size: int) -> slice:
    """Rows of a process out of n: what they have differs by one row at most."""
    return slice(rank * n // size, (rank + 1) * n // size)


class Group:
    """The processes of a training, as seen from one of them.

    Parameters
    ----------
    board : Store
        Where they leave word for one another.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and how many there are.
    splits : bool
        Whether calls of networks are shared at the moment.
    losses : callable or None
        What the replicas of the objective compute, with the gradients of all of them.
    patience : timedelta
        That it waits for the others at the moment.
    """

    def __init__(self, board):
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.splits = True
        self.losses: Callable | None = None
        self.patience, self._exchanges = TIMEOUT, 0
        self.processes = dist.new_group(timeout=TIMEOUT, backend=_backend())
        self.board = board

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

    def exchange(self, facts: dict) -> list[dict]:
        """Wait with patience for all processes; return what each of them has to say.

        Parameters
        ----------
        facts : dict
            That JSON can hold.

        Returns
        -------
        facts : list of dict
            By rank, as JSON gives them back.

        Raises
        ------
        RuntimeError
            If others ended, did not come in time, or gave up before this one came.
        """
        self._exchanges += 1
        place = f"exchange {self._exchanges}"
        self.board.set(f"{place}/{self.rank}", json.dumps(facts))
        self.patience = waiting.MEETING
        late = f"{place}/late"
        if waiting.absent(self.board, place, self.rank, self.size, "ended"):
            self.board.set(late, "")
            raise dist.DistError("others ended, or did not come in time")
        if self.board.check([late]):
            seconds = f"{waiting.MEETING.total_seconds():g} seconds"
            raise RuntimeError(
                f"Process {self.rank} read X, or loaded weights, for more than "
                f"{seconds} longer than others: they gave up."
            )
        self.patience = TIMEOUT
        places = [f"{place}/{n}" for n in range(self.size)]
        return [json.loads(self.board.get(each)) for each in places]

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
        seconds = f"{self.patience.total_seconds():g} seconds"
        killed = f"{who} was killed, or did not answer for {seconds}"
        return RuntimeError(
            f"Training in {self.size} processes was ended: "
            f"{('; '.join(reasons) or killed).rstrip('.')}. Start all of them again: "
            "a training with checkpoint='folder' goes on from its last save, and an "
            "ImageEncoder with cache='folder' from the features that it has."
        )

    def _errors(self):
        """What the processes say of their end, by rank, once all do or time is up."""
        waiting.say_goodbye(self.board, self.size)
        ended = [n for n in range(self.size) if self.board.check([str(n)])]
        return {n: self.board.get(str(n)).decode() for n in ended}


_current: ContextVar[Group | None] = ContextVar("group", default=None)


def current() -> Group | None:
    """Return the processes of the training under way; None if there is one alone."""
    return _current.get()


# -- where it begins and ends ----------------------------------------------------------


@contextlib.contextmanager
def joined(what: str = "") -> Iterator[None]:
    """Train with the other processes inside the block, if there are any.

    That is if the caller has begun a process group, or in processes that have the
    environment variables of ``torchrun``. Each of them has to get here.

    Parameters
    ----------
    what : str
        Class of what is trained, which has to be the same in all of them.

    Raises
    ------
    ValueError
        In all processes, if they train what is not the same.
    RuntimeError
        In all that are there, if some do not come; in all other processes, if one ends
        by an error, or is killed.
    """
    if _current.get() is not None or not _are_several():
        yield
        return
    begun = not dist.is_initialized()
    try:
        group = _meet(what)
        token = _current.set(group)
        try:
            yield
        except BaseException as error:
            from .interrupts import signals  # which imports this

            with signals():  # torchrun sends one to all at once: each says why first
                raised = group.leave(error)
            if raised is None:
                raise
            raise raised from error
        else:
            group.leave()
        finally:
            _current.reset(token)
    finally:
        if begun and dist.is_initialized():
            dist.destroy_process_group()


def in_all(fit):
    """Run a method of an estimator within :func:`joined`.

    It goes around the check of parameters: an error in those of one process is told to
    the others, too.
    """

    @functools.wraps(fit)
    def wrapper(self, *args, **kwargs):
        with joined(type(self).__qualname__):
            return fit(self, *args, **kwargs)

    return wrapper


def _meet(what):
    """Wait for all processes, and connect them."""
    begun = dist.is_initialized()  # by the caller
    if begun:
        rank, size = dist.get_rank(), dist.get_world_size()
    else:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        store = dist.distributed_c10d._get_default_store() if begun else _store(rank)
        number = store.add(f"skdeepcluster/trainings of {rank}", 1)  # as of any other
        board = dist.PrefixStore(f"skdeepcluster/{number}", store)
        missing = waiting.missing(board, rank, size, what)
        if not missing:
            theirs = [board.get(f"here/{n}").decode() for n in range(size)]
            if len(set(theirs)) > 1:
                waiting.say_goodbye(board, size)
                _refuse([{"the class": each} for each in theirs])
            if not begun:
                dist.init_process_group(
                    _backend(),
                    store=dist.PrefixStore("group", board),
                    rank=rank,
                    world_size=size,
                    timeout=TIMEOUT,
                )
            return Group(board)
        told = (
            f"process {missing} was not started, has ended, or did not call fit within "
            f"{waiting.MEETING.total_seconds():g} seconds of the first one that did"
        )
        cause = None
    except RuntimeError as error:  # torch's own, of what it could not reach
        cause, told = error, f"process {rank} could not reach the others, or lost them"
        if not begun:
            where = ":".join(os.environ[name] for name in VARIABLES[2:])
            told += f". They meet at process 0, by MASTER_ADDR:MASTER_PORT={where}"
        told += f". PyTorch said: {str(error).splitlines()[0].rstrip('.')}"
    raise RuntimeError(
        f"Training in {size} processes did not begin: {told}. See what each of them "
        "wrote, and start all of them again: each has to call fit on the same X."
    ) from cause


@functools.cache  # a second training meets where the first one did
def _store(rank):
    # as if it were alone, since torch's own waiting does not say who is missing
    return next(dist.rendezvous("env://", rank, 1, timeout=waiting.MEETING))[0]


def _are_several():
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size() > 1
    # workers of joblib have the variables of the process that started them, too
    main = multiprocessing.current_process().name == "MainProcess"
    told = all(name in os.environ for name in VARIABLES)
    return main and told and int(os.environ["WORLD_SIZE"]) > 1


def _backend():
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def _is_of_others(error):
    """Whether an error is of what connects the processes; others may say the same."""
    torchs = isinstance(error, dist.DistError)
    return torchs or (isinstance(error, RuntimeError) and bool(GLOO.search(str(error))))


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


def same(value: Any, patiently: bool = False) -> Any:
    """Return the value that the first process has, in all of them.

    Parameters
    ----------
    value : object
        One that JSON can hold, if it is waited for patiently.
    patiently : bool
        Whether a process may be late, or have ended by an error of its own.
    """
    group = _current.get()
    if group is None:
        return value
    if patiently:
        return group.exchange({"value": value})[0]["value"]
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


def of_all(value: Any) -> list:
    """Return the values that the processes have, by rank."""
    group = _current.get()
    if group is None:
        return [value]
    found: list = [None] * group.size
    dist.all_gather_object(found, value, group=group.processes)
    return found


def check_agreed(facts: dict) -> None:
    """Refuse processes that train on other data, or by other parameters.

    Parameters
    ----------
    facts : dict
        What a training has to agree in with that of every other process: strings, or
        a dict of a digest for each image that is compared.

    Raises
    ------
    ValueError
        In all processes, if they differ.
    """
    group = _current.get()
    if group is not None:
        _refuse(group.exchange(facts))


def _refuse(found):
    """Raise an error if the facts of some process are not those of the first one."""
    for rank, theirs in enumerate(found):
        for name, ours in found[0].items():
            other = theirs.get(name)
            if other == ours:
                continue
            differ = f"{ours} and {other}"
            if isinstance(ours, dict) and isinstance(other, dict):
                rows = [row for row in ours | other if other.get(row) != ours.get(row)]
                differ = f"rows {', '.join(rows)} of {len(ours)} that are compared"
            raise ValueError(
                f"Processes 0 and {rank} train together, but differ in {name}: "
                f"{differ}. Call fit in all of them on the same X, with the same "
                "parameters."
            )
