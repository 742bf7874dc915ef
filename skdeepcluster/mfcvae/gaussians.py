"""Gaussians: densities, expectations of log-densities, entropy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def log_normal(z: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """Log-density of points under each of K Gaussians.

    Parameters
    ----------
    z : tensor of shape (b, d)
    means : tensor of shape (K, d)
    scales : tensor of shape (K, d) or (K, d, d)
        Standard deviations, or lower Cholesky factors of full covariances.

    Returns
    -------
    log_density : tensor of shape (b, K)
    """
    difference = z.unsqueeze(1) - means
    if scales.ndim == 2:
        whitened, log_det = difference / scales, scales.log().sum(1)
    else:
        whitened = torch.linalg.solve_triangular(
            scales, difference.permute(1, 2, 0), upper=False
        ).permute(2, 0, 1)
        log_det = scales.diagonal(dim1=1, dim2=2).log().sum(1)
    dim = means.shape[1]
    return -0.5 * (dim * LOG_2PI + whitened.square().sum(2)) - log_det


def expected_log_normal(
    mean: Tensor, log_var: Tensor, means: Tensor, scales: Tensor
) -> Tensor:
    """Expectation of :func:`log_normal` over diagonal Gaussians, in closed form.

    Parameters
    ----------
    mean, log_var : tensors of shape (b, d)
        Of the Gaussian that z follows.
    means : tensor of shape (K, d)
    scales : tensor of shape (K, d) or (K, d, d)
        As for :func:`log_normal`.

    Returns
    -------
    expectation : tensor of shape (b, K)
        ``log N(mean; mu_k, S_k) - sum_i var_i (S_k^-1)_ii / 2``.
    """
    if scales.ndim == 2:
        precision = scales.square().reciprocal()
    else:
        eye = torch.eye(means.shape[1], dtype=scales.dtype, device=scales.device)
        inverse = torch.linalg.solve_triangular(
            scales, eye.expand_as(scales), upper=False
        )
        precision = inverse.square().sum(1)  # the diagonal of L^-T L^-1
    return log_normal(mean, means, scales) - 0.5 * log_var.exp() @ precision.T


def gaussian_entropy(log_var: Tensor) -> Tensor:
    """Entropy of diagonal Gaussians (b, d), in nats: (b,)."""
    return 0.5 * (log_var + 1 + LOG_2PI).sum(1)
