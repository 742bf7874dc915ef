"""Batch norms that see a second domain."""

from __future__ import annotations

import contextlib

from torch import nn


@contextlib.contextmanager
def frozen_running_statistics(module: nn.Module):
    """Leave the running statistics of batch norms as they are, inside the block.

    In training mode batches are still normalised by their own statistics: for images
    of another domain, which the running statistics should not know of.

    Parameters
    ----------
    module : Module
    """
    norms = [
        m
        for m in module.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
