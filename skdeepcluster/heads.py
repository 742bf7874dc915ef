"""Small networks that follow a backbone."""

from __future__ import annotations

from torch import nn


def projection_head(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    """Linear, batch norm, ReLU, linear: the projector and predictor of BYOL.

    Parameters
    ----------
    n_in, hidden, n_out : int
        Widths. The output is neither normalised nor followed by batch norm.

    Returns
    -------
    head : Sequential
        (b, n_in) -> (b, n_out).

    References
    ----------
    Grill et al., *Bootstrap Your Own Latent*, 2020, section 3.3.
    """
    return nn.Sequential(
        nn.Linear(n_in, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, n_out),
    )
