"""The losses of SCL, and its memory: pure functions, but for the memory's update."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def semantic_contrastive(
    z: Tensor,
    memory: Tensor,
    index: Tensor,
    labels: Tensor,
    temperature: float,
    *,
    candidates: Tensor | None = None,
    instance: Tensor | None = None,
) -> Tensor:
    """Contrast each anchor with its own slot against the slots of other clusters.

    For an anchor z in slot i with negatives N_i, the slots of another label, it is
    ``-log(exp(z M_i / t) / (exp(z M_i / t) + sum_{j in N_i} exp(z M_j / t)))``: slots
    of the anchor's own cluster neither attract nor repel. With a label of its own for
    every slot this is instance discrimination, the cross-entropy of ``z M^T / t``.

    Parameters
    ----------
    z : tensor of shape (b, d)
        Unit embeddings of the anchors, with gradient.
    memory : tensor of shape (n, d)
        Unit rows; no gradient flows into it.
    index : int64 tensor of shape (b,)
        Slots of the anchors.
    labels : int64 tensor of shape (n,)
        Cluster of every slot; with ``candidates`` from 0 to n - 1.
    temperature : float
    candidates : int64 tensor of shape (m,), optional
        The only slots that serve as negatives, each at most once. Their sum is scaled
        up to the number of an anchor's negatives in the whole memory.
    instance : bool tensor of shape (b,), optional
        Anchors that all other slots repel, whatever their cluster.

    Returns
    -------
    loss : scalar tensor
        Mean over the anchors; one without negatives counts 0.

    Notes
    -----
    A reconstruction: the abstract of the paper names a cluster-aware contrast, but not
    its equation.
    """
    memory = memory.detach()
    slots = torch.arange(len(memory), device=z.device)
    rows = memory
    if candidates is not None:
        slots, rows = candidates, memory[candidates]
    own = labels[index].unsqueeze(1)
    negative = labels[slots] != own
    if instance is not None:
        negative = negative | instance.unsqueeze(1)
    negative = negative & (slots != index.unsqueeze(1))
    logits = z @ rows.T / temperature
    against = logits.masked_fill(~negative, -math.inf).logsumexp(1)
    if candidates is not None:
        sizes = torch.zeros_like(labels).scatter_add_(
            0, labels, torch.ones_like(labels)
        )
        left_out = sizes[labels[index]]
        if instance is not None:
            left_out = left_out.masked_fill(instance, 1)
        everywhere = (len(labels) - left_out).clamp_min(1)
        share = negative.sum(1, dtype=z.dtype).clamp_min(1) / everywhere
        against = against - share.log()
    positive = (z * memory[index]).sum(1) / temperature
    return F.softplus(against - positive).mean()


def log_visual_similarity(z: Tensor, centers: Tensor, temperature: float) -> Tensor:
    """Log-probability of each cluster by the cosine to its centre.

    Parameters
    ----------
    z : tensor of shape (b, d)
        Unit embeddings, with gradient.
    centers : tensor of shape (K, d)
        Unit centres.
    temperature : float

    Returns
    -------
    log_s : tensor of shape (b, K)
    """
    return F.log_softmax(z @ centers.detach().T / temperature, dim=1)


def log_member_similarity(
    z: Tensor,
    memory: Tensor,
    labels: Tensor,
    n_clusters: int,
    temperature: float,
    index: Tensor | None = None,
) -> Tensor:
    """Log-probability of each cluster by the similarity to all of its members.

    The similarities ``exp(z M_j / t)`` are summed over each cluster and normalised, so
    that a large cluster is likelier than a small one of equal similarity.

    Parameters
    ----------
    z : tensor of shape (b, d)
        Unit embeddings, with gradient.
    memory : tensor of shape (n, d)
        Unit rows.
    labels : int64 tensor of shape (n,)
        Cluster of every slot.
    n_clusters : int
    temperature : float
    index : int64 tensor of shape (b,), optional
        Slots that z itself fills; each is left out of its own row.

    Returns
    -------
    log_s : tensor of shape (b, K)
        Finite, also for a cluster without members.
    """
    logits = z @ memory.detach().T / temperature
    if index is not None:
        own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, index[:, None], 1)
        logits = logits.masked_fill(own, -math.inf)
    shares = logits.softmax(1) @ F.one_hot(labels, n_clusters).to(logits.dtype)
    return shares.clamp_min(torch.finfo(shares.dtype).tiny).log()


def consistency_loss(log_p: Tensor, log_s: Tensor) -> Tensor:
    """Minus the log-probability that two independent predictions agree.

    Parameters
    ----------
    log_p, log_s : tensors of shape (b, K)
        Log-probabilities, both with gradient.

    Returns
    -------
    loss : scalar tensor
        Mean of ``-log sum_k p_k s_k``: 0 where both name one cluster for certain.

    Notes
    -----
    A reconstruction: the simplest symmetric form of the consistency condition that the
    abstract of the paper names.
    """
    return -(log_p + log_s).logsumexp(1).mean()


def pseudo_label_loss(
    log_p1: Tensor, log_p2: Tensor, log_s1: Tensor, log_s2: Tensor
) -> Tensor:
    """Cross-entropy of four predictions with the label that they agree on best.

    Parameters
    ----------
    log_p1, log_p2, log_s1, log_s2 : tensors of shape (b, K)
        Log-probabilities of either kind for both views, with gradient.

    Returns
    -------
    loss : scalar tensor
        Mean over samples and predictions.
    """
    labels = (log_p1 + log_p2 + log_s1 + log_s2).argmax(1)
    predictions = (log_p1, log_p2, log_s1, log_s2)
    first, *others = (F.nll_loss(log_q, labels) for log_q in predictions)
    return sum(others, first) / 4


def balance_loss(p: Tensor, shares: Tensor | None = None) -> Tensor:
    """How far the mean prediction is from the shares that clusters should have.

    Parameters
    ----------
    p : tensor of shape (b, K)
        Probabilities of one view, with gradient.
    shares : tensor of shape (K,), optional
        Positive; they sum to 1. None: equal ones.

    Returns
    -------
    loss : scalar tensor
        Kullback-Leibler divergence of the batch mean from the shares; from equal ones,
        ``log K`` minus its entropy. The gradient is finite where the mean is 0.

    References
    ----------
    Huang, Gong and Zhu, *Deep Semantic Clustering by Partition Confidence
    Maximisation*, 2020: the same authors' regulariser.
    """
    mean = p.mean(0)
    entropy_gap = (mean * mean.clamp_min(1e-12).log()).sum()
    if shares is None:
        return math.log(p.shape[1]) + entropy_gap
    return entropy_gap - (mean * shares.log()).sum()


@torch.no_grad()
def remember(memory: Tensor, index: Tensor, z: Tensor, momentum: float) -> None:
    """Move slots of the memory towards new embeddings, in place.

    Parameters
    ----------
    memory : tensor of shape (n, d)
        Unit rows; those of ``index`` become
        ``normalize(momentum * row + (1 - momentum) * z)``, all others stay.
    index : int64 tensor of shape (b,)
        Without duplicates; on a CPU the last of two equal slots wins.
    z : tensor of shape (b, d)
    momentum : float
        How much of a row stays, in [0, 1].
    """
    moved = momentum * memory[index] + (1 - momentum) * z
    memory[index] = F.normalize(moved, dim=1)
