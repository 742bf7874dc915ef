"""Networks whose weights are the running average of those of another one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """Running average of a network that is trained; it gets no gradient.

    Parameters
    ----------
    network : Module
        What is averaged. The average starts as a copy of it.
    momentum : float or callable
        How much of the average stays in a step. A callable takes the number of
        optimiser steps that are done.
    own_statistics : bool, default=False
        Whether batch norms of the average normalise training batches by the batch, and
        keep running statistics of their own. Otherwise those are averaged, too, and
        the average stays in evaluation mode.

    Attributes
    ----------
    network : Module
        The average.
    """

    training_only = ["source"]

    def __init__(
        self,
        network: nn.Module,
        momentum: float | Callable[[int], float],
        own_statistics: bool = False,
    ):
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.source = [network]  # in a list: no submodule, its weights are elsewhere
        self.momentum, self.own_statistics = momentum, own_statistics
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        """The averaged network of x."""
        return self.network(x)

    def train(self, mode: bool = True) -> Average:
        """Set the mode of the average, unless it stays in evaluation mode."""
        return super().train(mode and self.own_statistics)

    def move(self, step: int) -> None:
        """Move towards the network that is trained.

        Parameters
        ----------
        step : int
            Optimiser steps that are done.
        """
        momentum = self.momentum(step) if callable(self.momentum) else self.momentum
        ema_update(self.network, self.source[0], momentum, not self.own_statistics)


def short_at_first(momentum: float, step: int) -> float:
    """Momentum of an average that is short in the first steps of a training."""
    return min(momentum, 1 - 2 / (step + 2))


@torch.no_grad()
def ema_update(
    average: nn.Module, trained: nn.Module, momentum: float, buffers: bool = False
) -> None:
    """Move weights: ``a <- momentum * a + (1 - momentum) * t``.

    Parameters
    ----------
    average, trained : Module
        Of the same structure.
    momentum : float
    buffers : bool
        Whether floating-point buffers move, too.
    """
    pairs: list = [*zip(average.parameters(), trained.parameters(), strict=True)]
    if buffers:
        pairs += [
            pair
            for pair in zip(average.buffers(), trained.buffers(), strict=True)
            if pair[0].is_floating_point()
        ]
    to, by = zip(*pairs, strict=True)
    torch._foreach_lerp_(list(to), list(by), 1.0 - momentum)
