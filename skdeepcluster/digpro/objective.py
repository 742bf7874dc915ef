"""The losses of DigPro: pure functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ABSENT = -10.0  # logit of a cluster without a sample in the batch


def view_alignment_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Instance alignment: minus twice the mean cosine, in [-2, 2].

    Parameters
    ----------
    predicted, target : tensors of shape (b, d)
        The noisy online prediction of one view, the target feature of the other.

    Returns
    -------
    loss : scalar tensor
    """
    return -2.0 * F.cosine_similarity(predicted, target, dim=1).mean()


def group_loss(
    predicted: Tensor,
    online: Tensor,
    target: Tensor,
    groups: Tensor,
    momentum: float,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Dynamic grouping: predict the group that the other view falls in.

    Parameters
    ----------
    predicted, online : tensors of shape (b, d)
        Prediction u and raw projection q of one view, with gradient.
    target : tensor of shape (b, d)
        Unit target features k of the other view, without gradient.
    groups : tensor of shape (K, d)
        The stored groups G, not normalised.
    momentum : float
        How much of a group stays when it moves to the batch mean of its samples.
    temperature : float

    Returns
    -------
    loss : scalar tensor
        Gradients flow into u, and into q through the moved groups.
    moved : tensor of shape (K, d)
        The groups after this batch; those without a sample are unchanged.
    """
    directions = F.normalize(groups, dim=1)
    group_of_target = (target @ directions.T).argmax(1)
    owner = (online.detach() @ directions.T).argmax(1)
    members = F.one_hot(owner, len(groups)).to(online.dtype)
    sizes = members.sum(0).unsqueeze(1)
    means = members.T @ online / sizes.clamp_min(1)
    moved = momentum * groups + (1 - momentum) * means
    moved = torch.where(sizes > 0, moved, groups)
    logits = F.normalize(predicted, dim=1) @ F.normalize(moved, dim=1).T
    return F.cross_entropy(logits / temperature, group_of_target), moved


def prototype_loss(
    online: Tensor, target: Tensor, labels: Tensor, n_clusters: int, temperature: float
) -> Tensor:
    """Prototype aggregation: equal clusters attract across views, others repel.

    Parameters
    ----------
    online : tensor of shape (b, d)
        Projections of one view, with gradient; normalised here.
    target : tensor of shape (b, d)
        Unit target features of the other view.
    labels : int64 tensor of shape (b,)
        Pseudo-labels of the batch; at least one.
    n_clusters : int
    temperature : float

    Returns
    -------
    loss : scalar tensor
        Mean over the clusters that the batch holds.
    """
    members = F.one_hot(labels, n_clusters).to(online.dtype)
    present = members.sum(0) > 0
    # the direction of a mean is that of the sum
    prototypes = F.normalize(members.T @ F.normalize(online, dim=1), dim=1)
    targets = F.normalize(members.T @ target, dim=1)
    attract = (prototypes * targets).sum(1) / temperature
    logits = prototypes @ prototypes.T / temperature
    own = torch.eye(n_clusters, dtype=torch.bool, device=logits.device)
    logits = torch.where(own, attract, logits).masked_fill(~present, ABSENT)
    # a product: an index by a mask would wait for the device
    loss = (logits.logsumexp(1) - attract) * present
    return loss.sum() / present.sum()
