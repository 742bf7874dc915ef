"""What is read from the distances of embeddings to centres."""

import numpy as np
import pytest
import torch

from skdeepcluster import distances
from skdeepcluster.distances import simplified_silhouette


def test_simplified_silhouette_by_hand():
    centers = torch.tensor([[0.0, 0], [2, 0], [9, 9]], dtype=torch.float64)
    # at a centre, half-way between two, and at squared distances of 0.25 and 2.25
    rows = torch.tensor([[0.0, 0], [1, 0], [0.5, 0]], dtype=torch.float64)
    expected = [1.0, 0.0, 1 - 0.25 / 2.25]
    values = [simplified_silhouette(rows[i : i + 1], centers) for i in range(3)]
    assert values == pytest.approx(expected, abs=1e-9)
    assert simplified_silhouette(rows, centers) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("max_entries", [1, 50])
def test_blocks_do_not_change_the_silhouette(monkeypatch, max_entries):
    rows, centers = torch.randn(40, 6).double(), torch.randn(7, 6).double()
    expected, sizes = simplified_silhouette(rows, centers), []
    whole = distances.squared_distances
    monkeypatch.setattr(distances, "MAX_ENTRIES", max_entries)
    monkeypatch.setattr(
        distances, "squared_distances", lambda *a: sizes.append(len(a[0])) or whole(*a)
    )
    assert simplified_silhouette(rows, centers) == pytest.approx(expected, rel=1e-12)
    assert sum(sizes) == 40 and max(sizes) == max(1, max_entries // 7)
