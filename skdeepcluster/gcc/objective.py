"""The losses of stage II: what real and generated features owe each other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..distances import squared_distances

KERNELS = (0.25, 0.5, 1.0, 2.0, 4.0)  # widths, in mean squared distances


def multi_kernel(a: Tensor, b: Tensor, scale: Tensor | float) -> Tensor:
    """Mean of five Gaussian kernels.

    Parameters
    ----------
    a, b : tensors of shape (n, d) and (m, d)
    scale : scalar tensor or float
        The kernels are ``exp(-|a - b|^2 / (w scale))`` for w from 1/4 to 4.

    Returns
    -------
    kernel : tensor of shape (n, m)

    References
    ----------
    The widths are those of the same first author's GSP-MSGD, which sums the kernels.
    """
    distances = squared_distances(a, b) / scale
    first, *others = ((-distances / width).exp() for width in KERNELS)
    return sum(others, first) / len(KERNELS)


def weighted_mmd(
    real: Tensor,
    generated: Tensor,
    real_weights: Tensor,
    generated_weights: Tensor,
    scale: Tensor | float,
) -> Tensor:
    """Squared maximum mean discrepancy of weighted samples.

    Parameters
    ----------
    real, generated : tensors of shape (n, d) and (m, d)
        With gradient.
    real_weights, generated_weights : tensors of shape (r, n) and (r, m)
        Each row compares another pair of weighted samples, and sums to 1.
    scale : scalar tensor or float
        Of the kernels.

    Returns
    -------
    mmd : tensor of shape (r,)
        ``w K w' + v K v' - 2 w K v'``: a biased estimate, not negative, 0 for equal
        weighted samples.

    References
    ----------
    Gretton et al., *A Kernel Two-Sample Test*, 2012, equation 5.
    """
    k_rr = multi_kernel(real, real, scale)
    k_gg = multi_kernel(generated, generated, scale)
    k_rg = multi_kernel(real, generated, scale)
    return (
        ((real_weights @ k_rr) * real_weights).sum(1)
        + ((generated_weights @ k_gg) * generated_weights).sum(1)
        - 2 * ((real_weights @ k_rg) * generated_weights).sum(1)
    )


def domain_alignment_loss(
    real: Tensor,
    generated: Tensor,
    labels: Tensor,
    generated_labels: Tensor,
    class_weights: Tensor,
    trust: Tensor,
    class_share: float,
) -> Tensor:
    """Align real and generated features in an RKHS: all together, and by class.

    Parameters
    ----------
    real : tensor of shape (b, d)
        Features of real images, with gradient.
    generated : tensor of shape (g, d)
        Features of generated images, with gradient.
    labels, generated_labels : int64 tensors of shape (b,) and (g,)
        Pseudo-labels, and the classes that the images were generated of.
    class_weights : tensor of shape (K,)
        What a real image of each class counts in the global term: the generated images
        are balanced, and the loss should measure appearance, not the sizes.
    trust : tensor of shape (b,)
        What a real image counts in the term of its class: its confidence, or 0 if it is
        not reliable.
    class_share : float
        Weight of the mean over the classes; one minus it is that of the global term.

    Returns
    -------
    loss : scalar tensor
        Classes with fewer than two images on either side are left out.

    Notes
    -----
    A reconstruction; GSP-MSGD, of the same first author, joins both terms in equal
    parts.
    """
    k = len(class_weights)
    with torch.no_grad():
        pooled = torch.cat([real, generated])
        n = len(pooled)
        scale = squared_distances(pooled, pooled).sum() / (n * (n - 1))
        scale = scale.clamp_min(1e-6)
        members = F.one_hot(labels, k).T.to(real.dtype) * trust
        drawn = F.one_hot(generated_labels, k).T.to(real.dtype)
        present = ((members > 0).sum(1) >= 2) & (drawn.sum(1) >= 2)
        everyone = class_weights[labels]
        real_weights = torch.cat([everyone[None], members])
        generated_weights = torch.cat([torch.ones_like(drawn[:1]), drawn])
        real_weights = _normalised(real_weights)
        generated_weights = _normalised(generated_weights)
    mmd = weighted_mmd(real, generated, real_weights, generated_weights, scale)
    by_class = (mmd[1:] * present).sum() / present.sum().clamp_min(1)
    return (1 - class_share) * mmd[0] + class_share * by_class


def _normalised(weights):
    return weights / weights.sum(1, keepdim=True).clamp_min(1e-12)


def discriminability_loss(
    generated: Tensor, labels: Tensor, anchors: Tensor, temperature: float
) -> Tensor:
    """Make generated features compact and separate: near their anchor, far from others.

    Parameters
    ----------
    generated : tensor of shape (g, d)
        Unit features, with gradient.
    labels : int64 tensor of shape (g,)
    anchors : tensor of shape (K, d)
        Unit rows; no gradient flows into them.
    temperature : float

    Returns
    -------
    loss : scalar tensor
        Mean of the cross-entropy by squared distance, and of the squared distance to
        the own anchor.

    Notes
    -----
    A reconstruction.
    """
    distances = squared_distances(generated, anchors.detach())
    own = distances.gather(1, labels.unsqueeze(1)).mean()
    return F.cross_entropy(-distances / temperature, labels) + own


def anchor_loss(
    real: Tensor,
    labels: Tensor,
    reliable: Tensor,
    anchors: Tensor,
    temperature: float,
) -> Tensor:
    """Pull reliable real features to the anchor of their pseudo-label.

    Parameters
    ----------
    real : tensor of shape (b, d)
        Unit features, with gradient.
    labels : int64 tensor of shape (b,)
    reliable : bool tensor of shape (b,)
        Others do not count.
    anchors : tensor of shape (K, d)
        Unit rows; no gradient flows into them.
    temperature : float

    Returns
    -------
    loss : scalar tensor
        Mean cross-entropy over the reliable ones; 0 if there are none.

    Notes
    -----
    A reconstruction.
    """
    losses = F.cross_entropy(
        real @ anchors.detach().T / temperature, labels, reduction="none"
    )
    return (losses * reliable).sum() / reliable.sum().clamp_min(1)
