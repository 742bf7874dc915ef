"""What several processes of a training share, and what each of them does whole.

Every process has the same networks, draws the same numbers and computes the loss of the
whole batch: losses, memories, clusters and statistics need to know nothing of the
others. Only calls of networks are shared: each process calls them on some rows, batch
norms count all rows, and what comes out is gathered, with its gradient. In a single
process everything here does nothing.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from .._input.images import sent
from .batch_norm import WholeBatchNorms
from .distributed import current, highest, part_of, same
from .randomness import Generators, drawing_from, generators

# -- networks, a part of the rows each -------------------------------------------------


@contextlib.contextmanager
def _alone(group) -> Iterator[None]:
    """Call networks on what this process was given, with draws of its own."""
    before, group.splits = group.splits, False
    own = _OfRank(generators(), group.rank)
    try:
        with drawing_from(own), WholeBatchNorms(group):
            yield
    finally:
        group.splits = before


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
    group, n = current(), len(inputs[0])
    if group is None or not group.splits or n < group.size:
        return network(*inputs)
    own = [
        _Part.apply(x, group) if x.requires_grad else x[group.rows(n)] for x in inputs
    ]
    with _alone(group):
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
    group = current()
    if group is None or not group.splits or n < group.size:
        return function(slice(0, n))
    with _alone(group):
        part = function(group.rows(n))
    return group.gather(part, n)


def in_step(blocks: Iterable) -> Iterator:
    """Yield blocks of work; no process is ahead of another by more than one.

    One that is faster, or has less to do, would wait for the others at the end, and in
    the end take them for lost.

    Parameters
    ----------
    blocks : iterable
        Of this process, as many as it has.
    """
    blocks = iter(blocks)
    block = next(blocks, None)
    while highest(int(block is not None)):
        if block is not None:
            yield block
            block = next(blocks, None)


# -- rows that are read ----------------------------------------------------------------


class PartlyRead(Dataset):
    """Batches of rows that are slow to read: each process reads some of them.

    Parameters
    ----------
    images : Images
    """

    def __init__(self, images):
        group = current()
        self.images, self.place = images, (group.rank, group.size)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        """Read this process's part of a batch; the index stays that of all rows."""
        rows = index.flatten()
        return self.images[rows[part_of(len(rows), *self.place)]][0], index


def partly_read(images) -> Dataset:
    """Return images that several processes read in parts, if reading takes time."""
    quick = isinstance(images.data, Tensor) or (
        type(images.data) is np.ndarray and images.data.dtype != object
    )
    return images if quick or current() is None else PartlyRead(images)


def whole_batch(raw: Tensor, index: Tensor, device) -> Tensor:
    """Bring a batch to a device, of which each process may have read a part.

    Parameters
    ----------
    raw : tensor of shape (b, ...)
    index : int64 tensor
        Of all rows of the batch.
    device : str or torch.device
    """
    raw, group = sent(raw, device), current()
    if group is None or len(raw) == index.numel():
        return raw
    return group.gather(raw, index.numel())


# -- objectives ------------------------------------------------------------------------


class _Losses(nn.Module):
    """What DistributedDataParallel wraps: the forward pass is that of a whole step."""

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
    """Align an objective, and have :func:`losses` average its gradients from now on."""
    group = current()
    if group is not None:
        align(objective)
        group.losses = None  # the last one lets go of the weights first
        group.losses = DistributedDataParallel(
            _Losses(objective),
            process_group=group.processes,
            find_unused_parameters=True,  # of another stage of the training
            init_sync=False,
        )


def losses(objective: nn.Module, batch: Any) -> dict[str, Tensor]:
    """``objective.losses(batch)``; then gradients are those of all processes."""
    group = current()
    if group is None or group.losses is None:
        return objective.losses(batch)  # type: ignore[operator]
    return group.losses(batch)


@torch.no_grad()
def align(module: nn.Module, row: dict | None = None) -> None:
    """Give all processes the state that a module has in the first one.

    What each computed by itself from the same numbers, such as a k-means, may differ
    in the last bits on other devices, and so in what is decided by them.

    Parameters
    ----------
    module : Module
    row : dict, optional
        Of the history, made the same, too: callbacks decide by its times.
    """
    group = current()
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
    if row is not None:
        row.update(same({name: row[name] for name in row if name != "batches"}))
    file = io.BytesIO()
    if group.rank == 0:
        torch.save(states, file)
    file = io.BytesIO(same(file.getvalue()))
    if group.rank:
        device = next(module.parameters()).device  # not that of the first process
        states = torch.load(file, map_location=device, weights_only=False)
        for name, state in states.items():
            vars(module.get_submodule(name)).update(state)
