"""Threads on a machine that others use, too: waiting ones sleep in place of spinning.

OpenMP's threads wait for one another by spinning: the next piece of work comes sooner
so, where every thread has a core. Where other processes want the cores, the thread that
spins takes the time that the one it waits for needs, and a training takes ten times as
long. GNU's OpenMP spins for a moment only as soon as a process has more threads than
cores. Fewer threads would help, too, but they add numbers in another order: the result
of a seed would depend on what else runs.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time

import torch
from threadpoolctl import ThreadpoolController

LOOK = 0.5  # seconds over which switches are counted
SPELL = 20.0  # seconds between two looks at a machine that was crowded
MOST_SWITCHES = 50  # a second, that other processes force on one that has its cores


class Crowd:
    """Sees whether other processes want the cores, and stops the spinning if they do.

    Attributes
    ----------
    is_seen : bool
        Whether the machine was crowded when this looked last.
    """

    def __init__(self):
        self.is_seen = False
        self.idle: threading.Event | None = None
        # elsewhere there is another OpenMP, and a single thread waits for none
        self.works = sys.platform == "linux" and torch.get_num_threads() > 1
        self.begin()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.leave()

    def begin(self) -> None:
        """Begin to count."""
        self.began = time.monotonic()
        self.switches = _forced_switches() if self.works else 0

    def look(self) -> None:
        """Look, if it is time to; cheap enough for every step."""
        if not self.works:
            return
        seconds = time.monotonic() - self.began
        if self.is_seen and seconds >= SPELL:
            self.leave()
        elif not self.is_seen and seconds >= LOOK:
            rate = (_forced_switches() - self.switches) / seconds
            self.begin()
            if rate > MOST_SWITCHES:
                self.is_seen, self.idle = True, threading.Event()
                threading.Thread(
                    target=_outnumber, args=[self.idle], daemon=True
                ).start()

    def leave(self) -> None:
        """Let threads spin as ever."""
        if self.idle is not None:
            self.idle.set()
        self.is_seen, self.idle = False, None
        self.begin()


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
