"""Functions of many images, in threads that share memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from torch.utils.data import get_worker_info

from .decoding import Unreadable
from .paths import IMAGES

ROOM_BYTES = 2**28
SHARES = 8  # that a thread gets of the images of a call


class Room:
    """Memory that threads share while they decode images.

    Parameters
    ----------
    limit : int
        Bytes. An image that needs more is decoded alone.
    """

    def __init__(self, limit=ROOM_BYTES):
        self.limit, self.used, self.freed = limit, 0, threading.Condition()

    @contextmanager
    def taken(self, amount):
        """Wait until there is room for ``amount`` bytes, and keep it in the block."""
        with self.freed:
            self.freed.wait_for(lambda: not self.used or self._fits(amount))
            self.used += amount
        try:
            yield
        finally:
            with self.freed:
                self.used -= amount
                self.freed.notify_all()

    def _fits(self, amount):
        return self.used + amount <= self.limit


def caught(function: Callable) -> Callable:
    """Return what ``function`` raises if it is Unreadable."""

    def call(source):
        try:
            return function(source)
        except Unreadable as error:
            return Unreadable(str(error))  # without a traceback, which holds the image

    return call


def in_threads(function, sources):
    """Apply a function to all sources, in threads; an Unreadable is a result, too."""
    # a loader worker has its core to itself, and an image of Pillow is no thread's own
    serial = get_worker_info() is not None or any(
        isinstance(source, IMAGES) for source in sources
    )
    if serial:
        return [caught(function)(source) for source in sources]
    n_threads = min(8, os.cpu_count() or 1)
    # several at a time: to hand over a small file takes as long as to decode it
    size = max(1, len(sources) // (SHARES * n_threads))
    parts = (sources[start : start + size] for start in range(0, len(sources), size))
    with ThreadPoolExecutor(n_threads) as pool:
        results = pool.map(lambda part: list(map(caught(function), part)), parts)
        return [result for part in results for result in part]
