"""Losses of the steps of an epoch, read without waiting for the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor


class Readings:
    """Sums of the numbers that the steps of an epoch leave on the device.

    If each step read its own, a GPU would have nothing to do until the next one is
    queued. They are copied behind the work of their step instead, and read when they
    are there: on a CPU at once, on a GPU a step or two later. Those of the first step
    are waited for, so that there is a loss to show.

    Attributes
    ----------
    sums : dict of float
        Of all steps that were read, by name.
    n_steps : int
        How many these are.
    latest : dict of float
        Numbers of the last of them.
    """

    def __init__(self):
        self.sums: dict[str, float] = {}
        self.n_steps = 0
        self.latest: dict[str, float] = {}
        self._queue: deque = deque()

    def add(self, numbers: dict[str, Tensor]) -> None:
        """Queue the numbers of a step.

        Parameters
        ----------
        numbers : dict of scalar tensors
            On one device, of one dtype.
        """
        values = torch.stack(list(numbers.values())).detach()
        host = values.to("cpu", non_blocking=values.is_cuda)  # there to pinned memory
        copied = None
        if values.is_cuda:
            copied = torch.cuda.current_stream(values.device).record_event()
        self._queue.append((list(numbers), host, copied))

    def read(self, wait: bool = False) -> Iterator[dict[str, float]]:
        """Yield the numbers of each step that is there, once, and add them up.

        Parameters
        ----------
        wait : bool
            Whether to wait for all that were queued.
        """
        while self._queue:
            names, values, copied = self._queue[0]
            if copied is not None and not copied.query():
                if not wait and self.n_steps:
                    return
                copied.synchronize()
            self._queue.popleft()
            self.latest = dict(zip(names, values.tolist(), strict=True))
            self.n_steps += 1
            for name, value in self.latest.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            yield self.latest
