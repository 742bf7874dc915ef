"""Ctrl-C and SIGTERM in training: noted at once, obeyed between two steps."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextvars import ContextVar

from .distributed import are_several, highest

# what a process does without handlers of its own
DEFAULTS = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


class StopTraining(Exception):
    """A callback asks to end training here, and to keep what was learnt."""


class Interrupted(BaseException):
    """A signal asked to end training.

    Attributes
    ----------
    number : int
        Of the signal.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class Signals:
    """Notes the signals that ask to end.

    The first one is noted, and :func:`check` obeys it where the state is consistent: a
    file is written whole, an import ends. A second one is obeyed at once.

    Attributes
    ----------
    noted : int or None
        Number of the signal.
    """

    def __init__(self):
        self.noted: int | None = None
        self.obeyed = False

    def hold(self) -> None:
        """Note signals, but let what is under way come to its end."""
        self.obeyed = True

    def note(self, number, frame):
        """Handle a signal."""
        if self.noted is not None:
            raise ending(number)
        self.noted = number


_current: ContextVar[Signals | None] = ContextVar("signals", default=None)


@contextlib.contextmanager
def signals() -> Iterator[Signals]:
    """Note signals inside the block, unless the caller handles them in its own way.

    SIGTERM ends the worker processes of joblib and multiprocessing as ever.

    Python hands signals to its main thread: in others the block changes nothing.
    """
    noted, before = Signals(), {}
    if threading.current_thread() is threading.main_thread():
        # a worker of joblib would report its end as a result, and live on
        worker = multiprocessing.current_process().name != "MainProcess"
        for number, default in DEFAULTS.items():
            if worker and number == signal.SIGTERM:
                continue
            if signal.getsignal(number) is default:
                before[number] = signal.signal(number, noted.note)
    token = _current.set(noted)
    try:
        yield noted
    finally:
        _current.reset(token)
        for number, handler in before.items():
            signal.signal(number, handler)


def interruption(number: int, estimator) -> BaseException:
    """Return what ``fit`` raises after a signal, when the estimator is fitted."""
    epoch = estimator.history_[-1]["epoch"]
    message = (
        f"Training was interrupted after epoch {epoch}. The estimator is fitted: it "
        "holds what was learnt until then, and is the attribute estimator of this "
        "exception."
    )
    # no subclass: only at exactly these does Python end as the signal asks
    error = ending(number, message)
    error.estimator = estimator  # type: ignore[attr-defined]
    return error


def ending(number: int, message: str = "") -> BaseException:
    """Return the exception that a signal becomes in Python."""
    if number == signal.SIGINT:
        return KeyboardInterrupt(message)
    return SystemExit(128 + number)


def check(together: bool = False) -> None:
    """End training here if a signal asked for it; once, so that it can be finished.

    Parameters
    ----------
    together : bool
        Whether all processes of a training are at this place, with none ahead: only
        there several of them obey, all of them to a signal that one got.
    """
    current = _current.get()
    if current is None or current.obeyed or (are_several() and not together):
        return
    if together:
        theirs = highest(current.noted or 0)
        if theirs and current.noted is None:  # one that came meanwhile stays
            current.noted = theirs
    if current.noted is not None:
        current.obeyed = True
        raise Interrupted(current.noted)


def was_noted() -> bool:
    """Whether a signal asked to end training."""
    current = _current.get()
    return current is not None and current.noted is not None
