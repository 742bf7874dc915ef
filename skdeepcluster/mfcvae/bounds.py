"""The evidence lower bound: likelihood of an image, and the part of a facet."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .gaussians import LOG_2PI, gaussian_entropy


def log_likelihood(
    x: Tensor, out: Tensor, likelihood: Literal["gaussian", "bernoulli"], sigma_x: float
) -> Tensor:
    """Log-likelihood of images, summed over pixels and channels.

    Parameters
    ----------
    x : tensor of shape (b, C, H, W)
        For ``"bernoulli"`` with values in [0, 1].
    out : tensor of shape (b, C, H, W)
        The logits for ``"bernoulli"``, the mean for ``"gaussian"``.
    likelihood : {"gaussian", "bernoulli"}
    sigma_x : float
        Standard deviation of the Gaussian.

    Returns
    -------
    log_p : tensor of shape (b,), in nats
    """
    if likelihood == "bernoulli":
        return -F.binary_cross_entropy_with_logits(out, x, reduction="none").sum(
            (1, 2, 3)
        )
    square = ((x - out) / sigma_x).square().sum((1, 2, 3))
    return -0.5 * square - x[0].numel() * (0.5 * LOG_2PI + math.log(sigma_x))


def analytic_bound(log_var: Tensor, expected_log_joint: Tensor) -> Tensor:
    """Part of a facet in the evidence lower bound, exact at the optimal q(c|x).

    For fixed q(z|x) the best assignment is ``softmax_k A_k``, with A the expectation
    of ``log pi_k + log N(z; mu_k, S_k)`` over q(z|x), and the bound at it is
    ``logsumexp_k A_k`` plus the entropy of q(z|x).

    Parameters
    ----------
    log_var : tensor of shape (b, d)
        Of q(z|x).
    expected_log_joint : tensor of shape (b, K)
        A.

    Returns
    -------
    bound : tensor of shape (b,), in nats
    """
    return expected_log_joint.logsumexp(1) + gaussian_entropy(log_var)


def monte_carlo_bound(
    z: Tensor, mean: Tensor, log_var: Tensor, log_joint: Tensor
) -> Tensor:
    """Part of a facet in the evidence lower bound, from samples.

    With one sample it is ``log p(z) - log q(z|x)``, where p is the whole mixture: the
    assignment q(c|x) at the very same sample sums out. With L samples it is the value
    at the assignment that is best for all of them, biased upwards, and falls to
    :func:`analytic_bound` as L grows.

    Parameters
    ----------
    z : tensor of shape (b, d) or (L, b, d)
        Drawn from q(z|x).
    mean, log_var : tensors of shape (b, d)
        Of q(z|x).
    log_joint : tensor of shape (b, K) or (L, b, K)
        ``log pi_k + log N(z; mu_k, S_k)`` at these samples.

    Returns
    -------
    bound : tensor of shape (b,), in nats
    """
    log_q = -0.5 * (LOG_2PI + log_var + (z - mean).square() / log_var.exp()).sum(-1)
    if z.ndim == 3:
        log_q, log_joint = log_q.mean(0), log_joint.mean(0)
    return log_joint.logsumexp(1) - log_q


def divergences(
    r: Tensor, log_density: Tensor, log_weights: Tensor, negative_entropy: Tensor
) -> tuple[Tensor, Tensor]:
    """Split a facet's part of the bound into the costs of latents and cluster.

    Parameters
    ----------
    r : tensor of shape (b, K)
        q(c|x).
    log_density : tensor of shape (b, K)
        ``log N(z; mu_k, S_k)``, at a sample or in expectation.
    log_weights : tensor of shape (K,)
    negative_entropy : tensor of shape (b,)
        ``log q(z|x)``, at the same sample or in expectation.

    Returns
    -------
    kl_z : tensor of shape (b,)
        ``log q(z|x) - sum_k r_k log N(z; mu_k, S_k)``; no divergence by itself, it can
        be negative.
    kl_c : tensor of shape (b,)
        Divergence of r from the weights.
    """
    kl_z = negative_entropy - (r * log_density).sum(1)
    kl_c = (torch.special.xlogy(r, r) - r * log_weights).sum(1)
    return kl_z, kl_c
