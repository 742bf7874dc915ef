"""Pure functions that two or more methods use. All take and return float32 tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy of two views (InfoNCE).

    Each row must find its other view among the 2 n - 1 other rows.

    Parameters
    ----------
    a, b : tensors of shape (n, d)
        Embeddings of two views of the same n images; normalised here.
    temperature : float
        Divides the cosine similarities.

    Returns
    -------
    loss : scalar tensor
        Mean over the 2 n rows.

    References
    ----------
    Chen et al., *A Simple Framework for Contrastive Learning of Visual
    Representations*, 2020, equation 1.
    """
    n = len(a)
    z = F.normalize(torch.cat([a, b]), dim=1)
    logits = z @ z.T / temperature
    logits.fill_diagonal_(float("-inf"))
    target = torch.arange(2 * n, device=z.device).roll(n)
    return F.cross_entropy(logits, target)
