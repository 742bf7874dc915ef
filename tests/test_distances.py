"""What is read from the distances of embeddings to centres."""

import numpy as np
import pytest
import torch

from skdeepcluster.distances import simplified_silhouette


def test_simplified_silhouette_by_hand():
    centers = torch.tensor([[0.0, 0], [2, 0], [9, 9]], dtype=torch.float64)
    # at a centre, half-way between two, and at squared distances of 0.25 and 2.25
    rows = torch.tensor([[0.0, 0], [1, 0], [0.5, 0]], dtype=torch.float64)
    expected = [1.0, 0.0, 1 - 0.25 / 2.25]
    values = [simplified_silhouette(rows[i : i + 1], centers) for i in range(3)]
    assert values == pytest.approx(expected, abs=1e-9)
    assert simplified_silhouette(rows, centers) == pytest.approx(np.mean(expected))
