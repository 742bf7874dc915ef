"""Which real images are trusted, and the anchors that they are pulled to."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST_RELIABLE = 8  # images of a cluster, if it has so many


def reliable_samples(
    confidence: Tensor, labels: Tensor, n_clusters: int, share: float
) -> Tensor:
    """Choose the most confident images of each cluster.

    By cluster, since one threshold for all would leave the small ones out.

    Parameters
    ----------
    confidence : tensor of shape (n,)
    labels : int64 tensor of shape (n,)
    n_clusters : int
    share : float
        Of each cluster; at least 8 images of it, or all of fewer.

    Returns
    -------
    reliable : bool tensor of shape (n,)

    Notes
    -----
    A reconstruction.
    """
    sizes = torch.bincount(labels, minlength=n_clusters)
    # in float64, and less than an image, so that 0.7 * 10 is no more than 7
    wanted = (share * sizes.double() - 1e-9).ceil().long()
    wanted = torch.maximum(wanted, sizes.clamp_max(LEAST_RELIABLE))
    by_confidence = confidence.argsort(descending=True, stable=True)
    order = by_confidence[labels[by_confidence].argsort(stable=True)]
    first = sizes.cumsum(0) - sizes  # of each cluster, in that order
    rank = torch.arange(len(labels), device=labels.device) - first[labels[order]]
    reliable = torch.zeros_like(labels, dtype=torch.bool)
    reliable[order] = rank < wanted[labels[order]]
    return reliable


@torch.no_grad()
def move_anchors(
    anchors: Tensor, features: Tensor, labels: Tensor, momentum: float
) -> Tensor:
    """Move the anchors to the mean features of their classes in a batch.

    Parameters
    ----------
    anchors : tensor of shape (K, d)
    features : tensor of shape (g, d)
    labels : int64 tensor of shape (g,)
    momentum : float
        How much of an anchor stays.

    Returns
    -------
    moved : tensor of shape (K, d)
        Unit rows; those of classes without features are unchanged.
    """
    members = F.one_hot(labels, len(anchors)).to(features.dtype)
    sizes = members.sum(0).unsqueeze(1)
    means = members.T @ features / sizes.clamp_min(1)
    moved = F.normalize(momentum * anchors + (1 - momentum) * means, dim=1)
    return torch.where(sizes > 0, moved, anchors)


def least_distance(anchors: Tensor) -> float:
    """Least distance between two anchors (K, d); infinite for fewer than two."""
    return F.pdist(anchors).min().item() if len(anchors) > 1 else math.inf
