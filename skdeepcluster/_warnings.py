"""Warnings that point at the user's line, whatever stands between."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import joblib
import sklearn
import skorch
import torch

FILES = (__file__, *(str(p.__file__) for p in (joblib, sklearn, skorch, torch)))
BETWEEN = tuple(f"{Path(file).parent}{os.sep}" for file in FILES)
BETWEEN += (contextlib.__file__,)
FILTERS = threading.RLock()


def _renew_lock():
    global FILTERS
    FILTERS = threading.RLock()


if hasattr(os, "register_at_fork"):  # another thread of the parent may have held it
    os.register_at_fork(after_in_child=_renew_lock)


def warn(
    message: str, category: type[Warning] = UserWarning, first_only: bool = True
) -> None:
    """Warn at the first line that is neither of this package nor of those it runs in.

    Of several processes of a training only the first one warns.

    Parameters
    ----------
    message : str
    category : type of Warning
    first_only : bool
        Whether the other processes say nothing.
    """
    from ._engine.distributed import is_first  # which imports more than this

    if first_only and not is_first():
        return
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(BETWEEN):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


@contextlib.contextmanager
def ignored(category: type[Warning], message: str = "") -> Iterator[None]:
    """Ignore a warning inside the block, in one thread at a time.

    Filters are those of the process: threads that change them beside each other would
    leave them changed.

    Parameters
    ----------
    category : type of Warning
    message : str
        What it begins with.
    """
    with FILTERS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message, category)
        yield
