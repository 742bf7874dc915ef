"""The modes of torch, numpy and scikit-learn in which the package computes."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator

import numpy as np
import sklearn
import torch

from .crowd import watched

_lock = threading.Lock()
_users = 0  # of the float32 default that replaces another one
_replaced = torch.float32


def _after_fork():
    """Wait for nothing that only the parent has: threads of torch, holders of locks."""
    global _lock, _users
    _lock = threading.Lock()
    if _users and _replaced != torch.float32:
        torch.set_default_dtype(_replaced)
    _users = 0
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    """Make float32 the default, which all threads share, until its last user ends."""
    global _users, _replaced
    with _lock:
        if _users == 0:
            _replaced = torch.get_default_dtype()
        _users += 1
        if torch.get_default_dtype() != torch.float32:
            torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0 and _replaced != torch.float32:
                torch.set_default_dtype(_replaced)


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Compute as if the caller had set no mode of torch, numpy or scikit-learn.

    That is in float32 on the CPU by default, outside of autocast and inference mode,
    with gradients, numpy's own error state, and numpy arrays for scikit-learn. Other
    threads see the default dtype, if the caller had changed it: torch has one for all.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_float32())
        if torch.get_default_device() != torch.device("cpu"):
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(
            np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")
        )
        stack.enter_context(sklearn.config_context(array_api_dispatch=False))
        yield


def guarded(method):
    """Run a method within :func:`pinned` and :func:`watched`."""

    @functools.wraps(method)
    def wrapper(*args, **kwargs):
        with pinned(), watched():
            return method(*args, **kwargs)

    return wrapper


def unchanged_on_error(fit):
    """Leave the estimator as it was if its ``fit`` raises."""

    @functools.wraps(fit)
    def wrapper(self, X, y=None):
        before = dict(vars(self))
        try:
            return fit(self, X, y)
        except BaseException as error:
            if getattr(error, "estimator", None) is not self:  # else it is fitted
                vars(self).clear()
                vars(self).update(before)
            raise

    return wrapper
