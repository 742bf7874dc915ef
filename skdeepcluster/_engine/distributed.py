"""One training in several processes, such as those that ``torchrun`` starts.

Every process has the same networks, reads the same rows, draws the same numbers and
computes the loss of the whole batch: losses, memories, clusters and statistics need to
know nothing of the others. Only calls of networks are shared: each process calls them
on its rows of a batch, batch norms count all rows, and what comes out is gathered, with
its gradient. In a single process everything here does nothing.
"""

from __future__ import annotations

import contextlib
import io
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
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from .randomness import Generators, drawing_from, generators

TIMEOUT = timedelta(seconds=60)  # that a process waits for the others
FAREWELL = 5.0  # seconds in which all of them say why they end
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of torchrun
WORDS = ("gloo", "nccl", "connection", "socket", "timed out")  # of a lost process

_trainings = itertools.count()  # of this process, and so of every other one


class Group:
    """The processes of a training, as seen from one of them.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and how many there are.
    splits : bool
        Whether calls of networks are shared at the moment.
    losses : callable or None
        The replica that averages the gradients of all processes.
    """

    def __init__(self):
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.splits, self.losses = True, None
        self.processes = dist.new_group(timeout=TIMEOUT, backend=_backend())
        store = dist.distributed_c10d._get_default_store()
        self.board = dist.PrefixStore(f"skdeepcluster/{next(_trainings)}", store)

    def rows(self, n: int, rank: int | None = None) -> slice:
        """Rows of a process out of n: numbers of rows differ by one at most."""
        rank = self.rank if rank is None else rank
        return slice(rank * n // self.size, (rank + 1) * n // self.size)

    def gather(self, part: Tensor, n: int) -> Tensor:
        """Put the rows of all processes together: n."""
        longest = part.new_zeros(-(-n // self.size), *part.shape[1:])
        longest[: len(part)] = part
        parts = [torch.empty_like(longest) for _ in range(self.size)]
        dist.all_gather(parts, longest, group=self.processes)
        rows = [self.rows(n, rank) for rank in range(self.size)]
        sizes = [own.stop - own.start for own in rows]
        return torch.cat([x[:size] for x, size in zip(parts, sizes, strict=True)])

    def sum(self, x: Tensor) -> Tensor:
        """Add up a tensor over the processes."""
        x = x.clone()
        dist.all_reduce(x, group=self.processes)
        return x

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Call networks on what this process was given, with draws of its own."""
        before, self.splits = self.splits, False
        own = _OfRank(generators(), self.rank)
        try:
            with drawing_from(own), _WholeBatchNorms(self):
                yield
        finally:
            self.splits = before

    def farewell(self, error: BaseException) -> BaseException:
        """Tell the others of an error; return what to raise for it here."""
        text = "" if _is_of_others(error) else f"{type(error).__name__}: {error}"
        told = {}
        with contextlib.suppress(RuntimeError):  # the one that has the board is lost
            self.board.set(str(self.rank), text)
            self.board.add("ended", 1)
            until = time.monotonic() + FAREWELL
            while self.board.add("ended", 0) < self.size and time.monotonic() < until:
                time.sleep(0.05)
            for rank in map(str, range(self.size)):
                if self.board.check([rank]):
                    told[rank] = self.board.get(rank).decode()
        if text:
            return error
        reasons = [f"process {rank} raised {told[rank]}" for rank in told if told[rank]]
        silent = [str(n) for n in range(self.size) if str(n) not in told]
        what = "; ".join(reasons) or (
            f"process {' or '.join(silent) or 0} ended, or did not answer for "
            f"{TIMEOUT.seconds} seconds: it may have been killed, or have found no "
            "memory"
        )
        lost = RuntimeError(
            f"Training in {self.size} processes was ended: {what.rstrip('.')}. Start "
            "all of them again: with checkpoint='folder' they go on from the last save."
        )
        lost.__cause__ = error
        return lost


class _OfRank(Generators):
    """Generators of one process, for what draws within a network.

    The seed comes from the generator that all share, and is drawn only if any is.
    """

    def __init__(self, shared, rank):
        super().__init__(rank)
        self.shared = shared

    def on(self, device):
        if not self.of:
            shared = self.shared.on("cpu")
            self.seed += int(torch.randint(2**31 - 1, (), generator=shared))
        return super().on(device)


_current: ContextVar[Group | None] = ContextVar("group", default=None)


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
        raised = group.farewell(error)
        if raised is error:
            raise
        raise raised from error
    finally:
        _current.reset(token)
        group.losses = None
        dist.destroy_process_group(None if begun else group.processes)


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
    rank = int(os.environ.get("LOCAL_RANK", group.rank % torch.cuda.device_count()))
    return torch.device("cuda", rank)


# -- what is shared --------------------------------------------------------------------


class _Part(Function):
    """Rows of this process; the gradient is that of all rows."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group, ctx.n = group, len(x)
        return x[group.rows(len(x))]

    @staticmethod
    def backward(ctx, grad):
        return ctx.group.gather(grad, ctx.n) / ctx.group.size, None


class _Whole(Function):
    """Rows of all processes.

    The loss is the same in each, and so is the gradient of the rows: the part of this
    process is at hand. It is taken as often as there are processes, since gradients of
    weights are averaged over them.
    """

    @staticmethod
    def forward(ctx, part, group, n):
        ctx.group, ctx.n = group, n
        return group.gather(part, n)

    @staticmethod
    def backward(ctx, grad):
        return grad[ctx.group.rows(ctx.n)] * ctx.group.size, None, None


def in_shares(network: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``network(*inputs)``, of which each process computes some rows.

    Batch norms count the rows of all processes; any other function has to treat each
    row by itself.

    Parameters
    ----------
    network : callable
        Tensors of n rows to a tensor of n rows.
    *inputs : tensors of shape (n, ...)
        The same in all processes.

    Returns
    -------
    out : tensor of shape (n, ...)
        The same in all processes, with the gradient.
    """
    group, n = _current.get(), len(inputs[0])
    if group is None or not group.splits or n < group.size:
        return network(*inputs)
    own = [
        _Part.apply(x, group) if x.requires_grad else x[group.rows(n)] for x in inputs
    ]
    with group.alone():
        part = network(*own)
    return _Whole.apply(part, group, n)


def all_rows(function: Callable[[slice], Tensor], n: int) -> Tensor:
    """``function`` of all n rows, of which each process is given some.

    Parameters
    ----------
    function : callable
        Takes a slice of rows, and returns a tensor of as many rows.
    n : int

    Returns
    -------
    out : tensor of shape (n, ...)
        In the order of the rows, the same in all processes.
    """
    group = _current.get()
    if group is None or not group.splits or n < group.size:
        return function(slice(0, n))
    with group.alone():
        part = function(group.rows(n))
    return group.gather(part, n)


class _WholeBatchNorms(TorchFunctionMode):
    """Have batch norms in training count the rows of all processes.

    ``nn.SyncBatchNorm`` does so on GPUs only, and would have to replace layers that
    are the user's.
    """

    def __init__(self, group):
        super().__init__()
        self.group = group

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.batch_norm and kwargs.get("training"):
            return _batch_norm(self.group, *args, **kwargs)
        return function(*args, **kwargs)


def _batch_norm(group, x, mean, var, weight, bias, training, momentum, eps):
    return _BatchNorm.apply(x, weight, bias, (mean, var, momentum), eps, group)


class _BatchNorm(Function):
    """Batch norm by mean and variance of the rows of all processes."""

    @staticmethod
    def forward(ctx, x, weight, bias, running, eps, group):
        places, channels = [0, *range(2, x.ndim)], x.shape[1]
        here = [*torch.var_mean(_precise(x), places, correction=0)]
        count = here[0].new_full((1,), x.numel() // channels)
        here = torch.cat([count, *here]).double().unsqueeze(0)
        n, var, mean = group.gather(here, group.size).split([1, *[channels] * 2], 1)
        share = n / n.sum()
        middle = (share * mean).sum(0)
        var = (share * (var + (mean - middle).square())).sum(0)
        n = n.sum()
        running_mean, running_var, momentum = running
        if running_mean is not None:
            running_mean.lerp_(middle.to(running_mean), momentum)
            unbiased = var * (n / (n - 1).clamp_min(1))
            running_var.lerp_(unbiased.to(running_var), momentum)
        mean, var = (x_.to(_precise(x[:0])) for x_ in (middle, var))
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), n)
        ctx.group = group
        return F.batch_norm(x, mean, var, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx, grad):
        x, weight, mean, rstd, n = ctx.saved_tensors
        places, wide = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        grad = _precise(grad)
        unit = (_precise(x) - mean.view(wide)) * rstd.view(wide)
        sums = torch.stack([grad.sum(places), (grad * unit).sum(places)])
        of_bias, of_weight = sums if weight is not None else (None, None)
        whole = (ctx.group.sum(sums.double()) / n).to(sums)
        scale = rstd if weight is None else rstd * weight
        inner = grad - whole[0].view(wide) - unit * whole[1].view(wide)
        of_x = (scale.view(wide) * inner).to(x.dtype)
        return of_x, of_weight, of_bias, None, None, None


def _precise(x):
    return x if x.dtype == torch.float64 else x.float()


class _Losses(nn.Module):
    """What DistributedDataParallel wraps: its forward pass is that of the whole step."""

    def __init__(self, objective):
        super().__init__()
        self.objective = objective
        # buffers are the same everywhere without it, and it would hold on to old ones
        names = [f"objective.{name}" for name, _ in objective.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, names)
        # it warns where it looks for weights that are not used, and all are
        self.unused = nn.Parameter(next(objective.parameters()).new_zeros(1))

    def forward(self, batch):
        return self.objective.losses(batch)


def replicate(objective: nn.Module) -> None:
    """Have :func:`losses` average the gradients of all that trains from now on."""
    group = _current.get()
    if group is not None:
        group.losses = None  # the last one lets go of the weights first
        group.losses = DistributedDataParallel(
            _Losses(objective),
            process_group=group.processes,
            find_unused_parameters=True,  # of another stage of the training
            init_sync=False,
        )


def losses(objective: nn.Module, batch: Any) -> dict[str, Tensor]:
    """``objective.losses(batch)``; then gradients are those of all processes."""
    group = _current.get()
    return objective.losses(batch) if group is None else group.losses(batch)


# -- what is made the same -------------------------------------------------------------


def same(value: Any) -> Any:
    """Return the value that the first process has, in all of them."""
    group = _current.get()
    if group is None:
        return value
    listed = [value]
    dist.broadcast_object_list(listed, group=group.processes, device="cpu")
    return value if group.rank == 0 else listed[0]


def highest(number: int) -> int:
    """Return the highest number that a process has."""
    group = _current.get()
    if group is None:
        return number
    found = torch.tensor(number)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=group.processes)
    return int(found)


@torch.no_grad()
def align(module: nn.Module) -> None:
    """Give all processes the state that a module has in the first one.

    What each computed by itself from the same numbers, such as a k-means, may differ
    in the last bits on other devices, and so in what is decided by them.
    """
    group = _current.get()
    if group is None:
        return
    for tensor in [*module.parameters(), *module.buffers()]:
        flat = tensor.detach().contiguous()
        dist.broadcast(flat, 0, group=group.processes)
        if group.rank:
            tensor.copy_(flat)
    states = {
        name: part.get_extra_state()
        for name, part in module.named_modules()
        if type(part).get_extra_state is not nn.Module.get_extra_state
    }
    file = io.BytesIO()
    if group.rank == 0:
        torch.save(states, file)
    file = io.BytesIO(same(file.getvalue()))
    if group.rank:
        device = next(module.parameters()).device  # not that of the first process
        states = torch.load(file, map_location=device, weights_only=False)
        for name, state in states.items():
            vars(module.get_submodule(name)).update(state)


def check_same(facts: dict) -> None:
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
