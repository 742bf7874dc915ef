"""From logits to probabilities."""

from __future__ import annotations

import numpy as np
import torch


def probabilities(logits, n_clusters):
    """Softmax of the clusters in use, and columns of 0 for the empty ones.

    A column for each cluster: so the folds of a cross-validation fit together.
    """
    proba = torch.from_numpy(logits).softmax(1).numpy()
    return np.pad(proba, ((0, 0), (0, n_clusters - proba.shape[1])))
