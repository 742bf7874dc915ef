"""Threads on a machine that others use, too: waiting ones sleep in place of spinning.

OpenMP's threads wait for one another by spinning: the next piece of work comes sooner
so, where every thread has a core. Where other processes want the cores, the thread that
spins takes the time that the one it waits for needs, and a training takes ten times as
long. GNU's OpenMP spins for a moment only as soon as a process has more threads than
cores. Fewer threads would help, too, but they add numbers in another order: the result
of a seed would depend on what else runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from threadpoolctl import ThreadpoolController

LOOK = 0.5  # seconds over which switches are counted
SPELL = 20.0  # seconds between two looks at a machine that was crowded
# that other processes force in a second of this one: up to 60 where it has its cores,
# about 250 where it shares them, however many they are
MOST_SWITCHES = 125


class Crowd:
    """Sees whether other processes want the cores, and stops the spinning if they do.

    Attributes
    ----------
    is_seen : bool
        Whether the machine was crowded when this looked last.
    """

    until = 0.0  # when a machine that was crowded is looked at again, for all of them

    def __init__(self):
        self.is_seen = False
        self.idle: threading.Event | None = None
        # elsewhere there is another OpenMP, and a single thread waits for none
        self.works = sys.platform == "linux" and torch.get_num_threads() > 1
        if self.works and time.monotonic() < Crowd.until:
            self.outnumber()
        self.begin()

    def begin(self) -> None:
        """Begin to count."""
        self.began, self.used = time.monotonic(), time.process_time()
        self.switches = _forced_switches() if self.works else 0

    def look(self) -> None:
        """Look, if it is time to; cheap enough for every step."""
        now = time.monotonic()
        if not self.works:
            return
        if self.is_seen and now >= Crowd.until:
            self.leave()
            self.begin()
        elif not self.is_seen and now - self.began >= LOOK:
            seconds = time.process_time() - self.used
            crowded = _forced_switches() - self.switches > MOST_SWITCHES * seconds
            self.begin()
            if crowded:
                Crowd.until = now + SPELL
                self.outnumber()

    def outnumber(self) -> None:
        """Have threads sleep while they wait."""
        self.is_seen, self.idle = True, threading.Event()
        threading.Thread(target=_outnumber, args=[self.idle], daemon=True).start()

    def leave(self) -> None:
        """Let threads spin as ever."""
        if self.idle is not None:
            self.idle.set()
        self.is_seen, self.idle = False, None


_current: ContextVar[Crowd | None] = ContextVar("crowd", default=None)


@contextlib.contextmanager
def watched() -> Iterator[Crowd]:
    """Let :func:`look` see to the threads inside the block, and within it."""
    outer = _current.get()
    if outer is not None:
        yield outer
        return
    crowd = Crowd()
    token = _current.set(crowd)
    try:
        yield crowd
    finally:
        _current.reset(token)
        crowd.leave()


def look() -> None:
    """Look whether the machine is crowded, if it is time to."""
    crowd = _current.get()
    if crowd is not None:
        crowd.look()


def _forced_switches() -> int:
    import resource  # which Windows does not have

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _outnumber(idle):
    """Have more OpenMP threads than cores, which do nothing, until an event is set."""
    free = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)
    for library in ThreadpoolController().select(user_api="openmp").lib_controllers:
        run = getattr(library.dynlib, "GOMP_parallel", None)
        if run is not None:
            run.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_uint] * 2
            # every thread frees NULL, and waits for more: they belong to this thread
            run(free, None, len(os.sched_getaffinity(0)) + 1, 0)
    idle.wait()
