"""Which rows make a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, RandomSampler, Sampler

from .randomness import generator


class EpochBatches(BatchSampler):
    """Shuffled batches, none larger than asked for and none too small for batch norm.

    Less than two batches of rows are halved. Of more, the remainder of an epoch is
    dropped, another one each time.

    Parameters
    ----------
    n : int
        Rows of the data.
    batch_size : int
    """

    def __init__(self, n: int, batch_size: int):
        super().__init__(RandomSampler(range(n)), batch_size, drop_last=True)
        self.n = n

    @staticmethod
    def count(n: int, batch_size: int) -> int:
        """Batches of an epoch."""
        if batch_size < n < 2 * batch_size and n >= 4:
            return 2
        return max(1, n // batch_size)

    def __len__(self):
        return self.count(self.n, self.batch_size)

    def __iter__(self):
        order = torch.randperm(self.n, generator=generator())
        if self.n < 2 * self.batch_size:
            halves = order.tensor_split(len(self))
            yield from (half[: self.batch_size] for half in halves)
        else:
            yield from order.split(self.batch_size)[: len(self)]


class NeighborBatches(EpochBatches):
    """Shuffled batches with a row for each view: the row itself or a neighbour.

    Parameters
    ----------
    neighbors : int64 tensor of shape (n, k)
        Rows that may stand for each row.
    batch_size, n_views : int

    Yields
    ------
    rows : int64 tensor of shape (1 + n_views, b)
        The rows of the batch, and those of each view.
    """

    def __init__(self, neighbors: Tensor, batch_size: int, n_views: int):
        super().__init__(len(neighbors), batch_size)
        own = torch.arange(len(neighbors)).unsqueeze(1)
        self.candidates, self.n_views = torch.cat([own, neighbors], dim=1), n_views

    def __iter__(self):
        for index in super().__iter__():
            candidates = self.candidates[index]
            shape = len(index), self.n_views
            which = torch.randint(candidates.shape[1], shape, generator=generator())
            yield torch.cat([index[None], candidates.gather(1, which).T])


class WeightedBatches(Sampler):
    """Batches drawn with replacement.

    Parameters
    ----------
    weights : tensor of shape (n,)
        Of each row, not normalised.
    batch_size, n_batches : int
    """

    def __init__(self, weights: Tensor, batch_size: int, n_batches: int):
        self.weights = weights.double().cpu()
        self.batch_size, self.n_batches = batch_size, n_batches

    def __len__(self):
        return self.n_batches

    def __iter__(self):
        for _ in range(self.n_batches):
            yield torch.multinomial(
                self.weights,
                self.batch_size,
                replacement=True,
                generator=generator(),
            )
