"""Communities of the graph of neighbours."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from torch.nn import functional as F

from skdeepcluster import SCL, DigPro, communities
from skdeepcluster._engine.randomness import seeded
from skdeepcluster.communities import (
    merge_by_modularity,
    modularity,
    neighbor_communities,
)
from skdeepcluster.kmeans import nearest_centers, spherical_kmeans
from skdeepcluster.neighbors import links_between


def slow_modularity(links, merged):
    """By its definition: links within clusters, less those of random ones."""
    groups = [np.flatnonzero(merged == k) for k in np.unique(merged)]
    total = links.sum()
    within = sum(links[np.ix_(g, g)].sum() / total for g in groups)
    return within - sum((links[g].sum() / total) ** 2 for g in groups)


def slow_merge(links, n_clusters):
    """Try each union, and take the one of the highest modularity."""
    merged = np.arange(len(links))
    while len(np.unique(merged)) > n_clusters:
        unions = [
            np.where(merged == b, a, merged)
            for a, b in itertools.combinations(np.unique(merged), 2)
        ]
        merged = max(unions, key=lambda union: slow_modularity(links, union))
    return merged


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n_clusters", [1, 3, 7])
def test_merges_are_those_of_the_highest_modularity(seed, n_clusters):
    rng = np.random.default_rng(seed)
    links = rng.integers(0, 9, (7, 7)) * (rng.random((7, 7)) < 0.6)
    links = links + links.T + np.eye(7)
    merged = merge_by_modularity(torch.from_numpy(links), n_clusters)
    assert merged.dtype == torch.int64
    assert set(merged.tolist()) == set(range(n_clusters))
    expected = slow_merge(links, n_clusters)
    assert adjusted_rand_score(expected, merged) == 1.0


def test_modularity_by_its_definition():
    links = np.random.default_rng(0).integers(0, 9, (5, 5))
    links = links + links.T
    expected = slow_modularity(links, np.arange(5))
    assert modularity(torch.from_numpy(links).double()) == pytest.approx(expected)
    assert modularity(torch.tensor([[7.0]])) == 0.0
    apart = torch.tensor([[2.0, 0.0], [0.0, 2.0]])  # all within, half of it by chance
    assert modularity(apart) == 0.5


def test_links_count_both_directions():
    labels = torch.tensor([0, 0, 2, 2])
    nearest = torch.tensor([[1], [2], [3], [2]])
    expected = torch.tensor([[2.0, 0, 1], [0, 0, 0], [1, 0, 4]], dtype=torch.float64)
    assert torch.equal(links_between(labels, nearest, 3), expected)


def digits():
    """Rows of unit length: of these, k-means joins and splits digits."""
    X, y = load_digits(return_X_y=True)
    return F.normalize(torch.from_numpy(X).float(), dim=1), y


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limit", [5_000, 1_000])
def test_digits_that_kmeans_does_not_find(seed, limit, monkeypatch):
    monkeypatch.setattr(communities, "MAX_ROWS", limit)
    rows, y = digits()
    with seeded(seed):
        centers, labels = neighbor_communities(rows, 10, n_init=3)
        _, of_kmeans = spherical_kmeans(rows, 10, n_init=3)
    assert adjusted_rand_score(y, labels) > 0.75
    assert adjusted_rand_score(y, labels) > adjusted_rand_score(y, of_kmeans) + 0.08
    means = torch.stack([rows[labels == k].mean(0) for k in range(10)])
    torch.testing.assert_close(centers, F.normalize(means, dim=1))


def test_better_clusters_about_the_last_centres_stay():
    rows, _ = digits()
    with seeded(0):
        centers, _ = neighbor_communities(rows, 10, n_init=5)
        stay, labels = neighbor_communities(rows, 10, init=centers, n_init=0)
        torch.testing.assert_close(stay, F.normalize(sums(rows, labels), dim=1))
        assert torch.equal(labels, nearest_centers(rows, centers))
        poor, _ = spherical_kmeans(rows, 10, n_init=1)
        _, found = neighbor_communities(rows, 10, init=poor, n_init=2)
    assert adjusted_rand_score(labels, found) > 0.8
    assert adjusted_rand_score(nearest_centers(rows, poor), found) < 0.8


def sums(rows, labels):
    return F.one_hot(labels).float().T @ rows


def test_the_same_generator_gives_the_same_communities():
    rows, _ = digits()
    runs = []
    for _ in range(2):
        with seeded(3):
            runs.append(neighbor_communities(rows, 4, n_init=1))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("n_clusters", [1, 5, 12])
def test_few_rows_a_cluster_are_clustered_by_kmeans(n_clusters, monkeypatch):
    monkeypatch.setattr(communities, "MAX_ROWS", 10)
    rows = F.normalize(torch.randn(12, 4), dim=1)
    with seeded(0):
        centers, labels = neighbor_communities(rows, n_clusters, n_init=2)
    with seeded(0):
        expected, of_kmeans = spherical_kmeans(rows, n_clusters, n_init=2)
    assert torch.equal(centers, expected) and torch.equal(labels, of_kmeans)


def test_equal_rows():
    rows = F.normalize(torch.ones(200, 3), dim=1)
    with seeded(0):
        centers, labels = neighbor_communities(rows, 3, n_init=1)
    assert torch.isfinite(centers).all() and centers.shape == (3, 3)
    assert 0 <= labels.min() and labels.max() < 3


@pytest.mark.parametrize(("cls", "name"), [(DigPro, "e_step"), (SCL, "init")])
def test_auto_is_the_graph_for_images_and_kmeans_for_vectors(cls, name):
    rng = np.random.default_rng(0)
    kinds = {"graph": rng.random((40, 8, 8)), "kmeans": rng.normal(size=(40, 5))}
    for expected, X in kinds.items():
        model = cls(2, max_epochs=1, feature_dim=4, hidden_dim=4, device="cpu").fit(X)
        assert getattr(model.net_.module_.p, name) == expected
        assert getattr(model, name) == "auto"
