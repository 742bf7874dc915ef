"""Losses of StatDEC: debiased contrast, soft assignments and their target."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..distances import TINY, squared_distances

# -- representation --------------------------------------------------------------------


def debiased_contrastive(
    a: Tensor, b: Tensor, temperature: float, tau_plus: float
) -> tuple[Tensor, Tensor]:
    """Debiased contrastive loss of two views: NT-Xent, less the false negatives.

    A share ``tau_plus`` of the negatives of an anchor is taken to be of its own class,
    and what they add to the denominator, estimated by the positive, is subtracted. An
    estimate below what negatives can give is clamped; negatives have no gradient then.

    Parameters
    ----------
    a, b : tensors of shape (n, d)
        Embeddings of two views of the same n images; normalised here.
    temperature : float
        Divides the cosine similarities.
    tau_plus : float
        Share of false negatives, in [0, 1). 0 gives NT-Xent.

    Returns
    -------
    loss : scalar tensor
        Mean over the 2 n rows.
    clamped : scalar tensor
        Share of the rows whose estimate was clamped, without gradient.

    References
    ----------
    Chuang et al., *Debiased Contrastive Learning*, 2020, equations 7 and 8 with one
    positive.
    """
    n = len(a)
    tau = a.new_full((), tau_plus)
    z = F.normalize(torch.cat([a, b]), dim=1)
    logits = z @ z.T / temperature
    positive = torch.cat([logits.diagonal(n), logits.diagonal(-n)])
    rows = torch.arange(2 * n, device=z.device)
    same_image = rows.unsqueeze(1) % n == rows % n
    n_negatives = 2 * n - 2
    # all in ratios to the positive and in logarithms: low temperatures overflow
    total = logits.masked_fill(same_image, -math.inf).logsumexp(1) - positive
    left = 1 - tau * n_negatives * (-total).clamp_max(80).exp()
    estimate = total + left.clamp_min(TINY).log() - torch.log1p(-tau)
    estimate = estimate.masked_fill(left <= 0, -math.inf)
    least = math.log(n_negatives) - 1 / temperature - positive
    clamped = (estimate < least).float().mean()
    return F.softplus(torch.maximum(estimate, least)).mean(), clamped


# -- clustering ------------------------------------------------------------------------


def log_student_t(
    embedding: Tensor, centers: Tensor, scale: float | Tensor, alpha: float = 1.0
) -> Tensor:
    """Logarithm of the soft assignments: a Student t kernel about each centre.

    Parameters
    ----------
    embedding : tensor of shape (n, p)
    centers : tensor of shape (K, p)
    scale : float, or tensor of shape () or (K,)
        Squared distance that counts as one. A common factor of embedding and centres,
        squared in the scale, changes nothing.
    alpha : float
        Degrees of freedom.

    Returns
    -------
    log_q : tensor of shape (n, K)
        Rows are normalised: their exponentials sum to 1.

    References
    ----------
    Xie et al., *Unsupervised Deep Embedding for Clustering Analysis*, 2016, equation 1,
    where the scale is 1.
    """
    return log_assignments(squared_distances(embedding, centers), scale, alpha)


def log_assignments(
    distances: Tensor, scale: float | Tensor, alpha: float = 1.0
) -> Tensor:
    """Logarithm of the soft assignments, by the squared distances to the clusters.

    Parameters
    ----------
    distances : tensor of shape (n, K)
    scale : float, or tensor of shape () or (K,)
        Squared distance that counts as one.
    alpha : float
        Degrees of freedom.

    Returns
    -------
    log_q : tensor of shape (n, K)
        As :func:`log_student_t` gives it.
    """
    relative = distances / (alpha * scale)
    return (-(alpha + 1) / 2 * relative.log1p()).log_softmax(1)


def sharpened_target(q: Tensor, cardinality: Tensor, power: float = 1.0) -> Tensor:
    """Target of the assignments: squared, and divided by what a cluster holds.

    Parameters
    ----------
    q : tensor of shape (n, K)
        Soft assignments; rows sum to 1.
    cardinality : tensor of shape (K,)
        Samples of each cluster over the whole data, in any unit.
    power : float
        Exponent of the cardinality. 1 is DEC's target, which protects small clusters
        and pushes towards equal sizes; 0 does neither.

    Returns
    -------
    p : tensor of shape (n, K)
        Rows sum to 1; no gradient.

    References
    ----------
    Xie et al., 2016, equation 3.
    """
    weight = q.detach().square() / cardinality.detach().clamp_min(TINY) ** power
    return weight / weight.sum(1, keepdim=True)


def dec_loss(target: Tensor, log_q: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of the assignments from their target.

    Parameters
    ----------
    target : tensor of shape (n, K)
    log_q : tensor of shape (n, K)

    Returns
    -------
    loss : scalar tensor

    References
    ----------
    Xie et al., 2016, equation 2.
    """
    return (torch.xlogy(target, target) - target * log_q).sum(1).mean()
