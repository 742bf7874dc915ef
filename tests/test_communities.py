"""Communities of the graph of neighbours."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from torch.nn import functional as F

from skdeepcluster import GCC, SCL, DigPro, StatDEC, communities
from skdeepcluster._engine.randomness import seeded
from skdeepcluster.communities import (
    LINKAGES,
    Parts,
    agreement,
    count_parts,
    cut_share,
    merge,
    nearest_of_each,
    neighbor_communities,
)
from skdeepcluster.kmeans import nearest_centers, spherical_kmeans
from skdeepcluster.neighbors import links_between

ENOUGH = torch.full((7,), 9)  # rows, to be a cluster


def slow_modularity(links, merged):
    """By its definition: links within clusters, less those of random ones."""
    groups = [np.flatnonzero(merged == k) for k in np.unique(merged)]
    total = links.sum()
    within = sum(links[np.ix_(g, g)].sum() / total for g in groups)
    return within - sum((links[g].sum() / total) ** 2 for g in groups)


def slow_normalized(links, a, b):
    """Links of two clusters, over the root of the product of all that they have."""
    return links[np.ix_(a, b)].sum() / np.sqrt(links[a].sum() * links[b].sum())


def slow_merge(links, n_clusters, linkage):
    """Try each union, and take the one that is linked best."""
    merged = np.arange(len(links))

    def linked(pair):
        if linkage == "normalized":
            return slow_normalized(links, *(np.flatnonzero(merged == c) for c in pair))
        return slow_modularity(links, np.where(merged == pair[1], pair[0], merged))

    while len(np.unique(merged)) > n_clusters:
        pairs = itertools.combinations(np.unique(merged), 2)
        kept, joined = max(pairs, key=linked)
        merged = np.where(merged == joined, kept, merged)
    return merged


@pytest.mark.parametrize("linkage", LINKAGES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n_clusters", [1, 3, 7])
def test_the_best_linked_parts_are_merged(linkage, seed, n_clusters):
    rng = np.random.default_rng(seed)
    links = rng.integers(0, 9, (7, 7)) * (rng.random((7, 7)) < 0.6)
    links = links + links.T + np.eye(7)
    given = torch.from_numpy(links)
    owners = merge(given, ENOUGH[:7], n_clusters, linkage)
    assert torch.equal(given, torch.from_numpy(links))
    assert owners.dtype == torch.int64
    assert set(owners.tolist()) == set(range(n_clusters))
    expected = slow_merge(links, n_clusters, linkage)
    assert adjusted_rand_score(expected, owners) == 1.0


def test_linkages_by_hand():
    # two large parts with 4 links of 44 each; two small ones with 2 of 4 each
    links = torch.tensor(
        [[40.0, 4, 0, 0], [4, 40, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]]
    ).double()
    links[1, 2] = links[2, 1] = 1.0
    # modularity gains: 2 x (4 - 44 x 45 / 98) < 0 and 2 x (2 - 5 x 4 / 98) > 0
    assert merge(links, ENOUGH[:4], 3, "modularity").tolist() == [0, 1, 2, 2]
    assert merge(links, ENOUGH[:4], 3, "normalized").tolist() == [0, 1, 2, 2]
    # 4 / sqrt(44 x 45) = .09 is more than 1 / sqrt(45 x 9) = .05
    assert merge(links, ENOUGH[:4], 2, "normalized").tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("linkage", LINKAGES)
def test_a_few_rows_are_no_cluster(linkage):
    # the last part has two rows, which all others are far from: 1 link to each
    links = torch.full((4, 4), 1.0).double()
    links[:2, :2] = links[2, 2] = 30.0
    links[:3, :3] += 8 * torch.eye(3)
    few = torch.tensor([40, 40, 40, 2])
    assert merge(links, few, 2, linkage).tolist() in ([0, 0, 1, 0], [0, 0, 1, 1])
    assert merge(links, few + 3, 3, linkage).tolist() == [0, 0, 1, 2]


def test_parts_without_links_are_merged_too():
    links = torch.zeros(4, 4, dtype=torch.float64)
    links[0, 0], links[1, 1] = 2.0, 2.0
    for linkage in LINKAGES:
        owners = merge(links, ENOUGH[:4], 2, linkage)
        assert set(owners.tolist()) == {0, 1}


def test_agreement_is_the_mean_rand_index_with_the_others():
    runs = [(None, torch.tensor(x)) for x in ([0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1])]
    other = adjusted_rand_score([0, 0, 1, 1], [0, 1, 1, 1])
    expected = [(1 + other) / 2, (1 + other) / 2, other]
    np.testing.assert_allclose(agreement(runs), expected)
    assert agreement(runs[:1]).tolist() == [0.0]
    one = torch.zeros(4, dtype=torch.int64)
    assert agreement([(one,), (one,)]).tolist() == [1.0, 1.0]


def test_agreement_of_many_runs_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, (5, 300)) * (rng.random((5, 1)) < 0.7)
    labels[1] = np.where(rng.random(300) < 0.8, labels[0], labels[1])
    expected = [
        np.mean([adjusted_rand_score(a, b) for j, b in enumerate(labels) if j != i])
        for i, a in enumerate(labels)
    ]
    found = agreement([(torch.from_numpy(row),) for row in labels])
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("n_samples", "n_clusters", "expected"),
    [
        (10_000, 10, 100),
        (10**6, 100, 500),
        (10**6, 1000, 2000),
        (300, 10, 30),
        (190, 10, 10),
        (3, 1, 1),
    ],
)
def test_number_of_parts(n_samples, n_clusters, expected):
    assert count_parts(n_samples, n_clusters) == expected
    assert count_parts(n_samples, n_clusters, "kmeans") == n_clusters


def test_the_nearest_part_of_each_cluster():
    similarity = torch.tensor([[0.1, -0.5, 0.7, 0.3], [-0.9, -0.2, -0.3, -0.4]])
    owners = torch.tensor([1, 0, 1, 0])
    expected = torch.tensor([[0.3, 0.7], [-0.2, -0.3]])
    assert torch.equal(nearest_of_each(similarity, owners, 2), expected)
    none = torch.full((2, 1), -2.0)  # a cluster without parts is nearest to nothing
    expected = torch.cat([expected, none], dim=1)
    assert torch.equal(nearest_of_each(similarity, owners, 3), expected)


def test_blocks_of_rows_change_no_similarity(monkeypatch):
    parts = Parts(3, 6, 4)
    parts.centers = F.normalize(torch.randn(6, 4), dim=1)
    rows = F.normalize(torch.randn(50, 4), dim=1)
    whole = parts.similarity(rows)
    seen, nearest = [], communities.nearest_of_each
    monkeypatch.setattr(
        communities,
        "nearest_of_each",
        lambda x, *by: seen.append(len(x)) or nearest(x, *by),
    )
    monkeypatch.setattr(communities, "MAX_ENTRIES", 7 * 6)
    torch.testing.assert_close(parts.similarity(rows), whole)
    assert seen == [7] * 7 + [1]


def test_links_count_both_directions():
    labels = torch.tensor([0, 0, 2, 2])
    nearest = torch.tensor([[1], [2], [3], [2]])
    expected = torch.tensor([[2.0, 0, 1], [0, 0, 0], [1, 0, 4]], dtype=torch.float64)
    assert torch.equal(links_between(labels, nearest, 3), expected)


def digits():
    """Rows of unit length: of these, k-means joins and splits digits."""
    X, y = load_digits(return_X_y=True)
    return F.normalize(torch.from_numpy(X).float(), dim=1), y


@pytest.mark.parametrize(("seed", "limit"), [(0, 5_000), (1, 5_000), (2, 1_000)])
def test_digits_that_kmeans_does_not_find(seed, limit, monkeypatch):
    monkeypatch.setattr(communities, "MAX_ROWS", limit)
    rows, y = digits()
    with seeded(seed):
        found = neighbor_communities(rows, 10)
        _, of_kmeans = spherical_kmeans(rows, 10, n_init=3)
    assert found.linkage == "modularity"
    assert adjusted_rand_score(y, found.labels) > 0.75
    assert (
        adjusted_rand_score(y, found.labels) > adjusted_rand_score(y, of_kmeans) + 0.08
    )
    means = torch.stack([rows[found.labels == k].mean(0) for k in range(10)])
    torch.testing.assert_close(found.centers, F.normalize(means, dim=1))


@pytest.mark.parametrize("seed", range(3))
def test_classes_of_very_different_sizes(seed):
    """An even patch of the sphere and small dense ones: k-means cuts the large one."""
    rng = np.random.default_rng(seed)
    # a class as large as instance discrimination makes it: as wide as it has samples
    sizes, widths = (1500, 250, 60, 40), (1.2, 0.4, 0.15, 0.15)
    places = 3.0 * np.eye(4, 6)
    X = np.concatenate(
        [
            place + width * rng.uniform(-1, 1, (n, 6))
            for n, width, place in zip(sizes, widths, places, strict=True)
        ]
    )
    rows = F.normalize(torch.from_numpy(X).float(), dim=1)
    y = np.repeat(range(4), sizes)
    with seeded(seed):
        found = neighbor_communities(rows, 4)
        by_modularity = neighbor_communities(rows, 4, linkage="modularity")
    assert found.linkage == "normalized"
    assert adjusted_rand_score(y, found.labels) > 0.95
    assert adjusted_rand_score(y, by_modularity.labels) < 0.8


def test_parts_assign_what_they_were_found_in():
    rows, _ = digits()
    parts = Parts(10, count_parts(len(rows), 10), rows.shape[1])
    with seeded(0):
        found = neighbor_communities(rows, 10, linkage="normalized", n_init=2)
    parts.take(found)
    assert torch.equal(parts.similarity(rows).argmax(1), found.labels)
    assert torch.equal(found.owners[nearest_centers(rows, found.parts)], found.labels)


@pytest.mark.parametrize("favourite", [0, -1])
def test_earlier_clusters_are_one_run_of_the_others(favourite, monkeypatch):
    rows, _ = digits()
    rows = rows[:600]
    last = Parts(10, 60, rows.shape[1])
    with seeded(0):
        last.take(neighbor_communities(rows, 10, linkage="normalized", n_init=1))
    seen = []

    def judged(runs):
        seen.extend(runs)
        return np.eye(len(runs))[favourite]

    monkeypatch.setattr(communities, "agreement", judged)
    found = neighbor_communities(rows, 10, linkage="modularity", last=last, n_init=2)
    assert len(seen) == 3
    assert torch.equal(seen[-1][2], last.similarity(rows).argmax(1))
    assert torch.equal(found.parts, last.centers) == (favourite == -1)
    assert torch.equal(found.labels, seen[favourite][2])


@pytest.mark.parametrize("linkage", LINKAGES)
@pytest.mark.parametrize(("n_kinds", "n_clusters"), [(10, 10), (2, 2), (2, 4)])
def test_copies_of_a_few_rows(n_kinds, n_clusters, linkage):
    # fewer rows than parts: those that are empty lie where others are
    kinds = F.normalize(torch.randn(n_kinds, 6), dim=1)
    y = torch.arange(n_kinds).repeat(60)
    parts = Parts(n_clusters, count_parts(len(y), n_clusters), 6)
    with seeded(0):
        found = neighbor_communities(kinds[y], n_clusters, linkage=linkage, n_init=3)
    parts.take(found)
    assert adjusted_rand_score(y, found.labels) == 1.0
    assert torch.equal(parts.similarity(kinds[y]).argmax(1), found.labels)


def test_cut_share_by_hand():
    links = torch.tensor([[8.0, 1, 2], [1, 6, 0], [2, 0, 4]]).double()
    assert cut_share(links, torch.tensor([0, 0, 0])) == 0.0
    assert cut_share(links, torch.tensor([0, 0, 1])) == 4 / 24
    assert cut_share(links, torch.tensor([2, 1, 0])) == 6 / 24


@pytest.mark.parametrize(("fewer", "expected"), [(0.018, 1), (0.016, 0), (-0.3, 0)])
def test_the_second_linkage_cuts_less(fewer, expected, monkeypatch):
    rows, _ = digits()
    drawn, cuts = [], []

    def cut(links, owners):
        # on average over the runs, not in each of them
        cuts.append(0.5 - fewer / 2 * (len(cuts) % 4) * (len(cuts) % 2))
        return cuts[-1]

    def kmeans(rows, *args, **options):
        drawn.append(len(rows))
        return spherical_kmeans(rows, *args, **options)

    monkeypatch.setattr(communities, "cut_share", cut)
    monkeypatch.setattr(communities, "spherical_kmeans", kmeans)
    found = neighbor_communities(rows[:400], 10, n_init=2)
    assert found.linkage == LINKAGES[expected]
    assert drawn == [280] * 20 and len(cuts) == 40


ROWS = F.normalize(
    torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=1
)
HOLED = ROWS.clone().index_fill_(0, torch.tensor([7]), float("nan"))


@pytest.mark.parametrize(
    ("rows", "n_clusters", "options", "error", "match"),
    [
        (ROWS, 0, {}, ValueError, "n_clusters=0 should be from 1 to the 50 rows"),
        (ROWS, 51, {}, ValueError, "n_clusters=51"),
        (ROWS, 2, {"n_init": 0}, ValueError, "n_init=0 should be 1 or more"),
        (ROWS, 2, {"linkage": "normalised"}, ValueError, "'normalised' should be one"),
        (ROWS, 2.0, {}, TypeError, "n_clusters=2.0 should be an integer"),
        (ROWS, True, {}, TypeError, "n_clusters=True should be an integer"),
        (ROWS, 2, {"n_init": 1.5}, TypeError, "n_init=1.5 should be an integer"),
        (HOLED, 2, {}, ValueError, "entries that are NaN or infinite"),
        (1 / torch.zeros(9, 2), 2, {}, ValueError, "entries that are NaN or infinite"),
        (ROWS.numpy(), 2, {}, TypeError, "floating-point numbers, but is ndarray"),
        (ROWS.long(), 2, {}, TypeError, "floating-point numbers, but is torch.int64"),
        (ROWS[0], 2, {}, ValueError, r"the shape \(n, d\).* but has \(3,\)"),
        (ROWS[None], 2, {}, ValueError, r"but has \(1, 50, 3\)"),
        (ROWS[:, :0], 2, {}, ValueError, r"but has \(50, 0\)"),
    ],
)
def test_what_cannot_be_used(rows, n_clusters, options, error, match):
    with pytest.raises(error, match=match):
        neighbor_communities(rows, n_clusters, **options)


def test_the_same_generator_gives_the_same_communities():
    rows, _ = digits()
    runs = []
    for _ in range(2):
        with seeded(3):
            runs.append(neighbor_communities(rows, 4, linkage="normalized", n_init=2))
    assert all(torch.equal(a, b) for a, b in zip(*(r[:4] for r in runs), strict=True))


@pytest.mark.parametrize("n_clusters", [1, 5, 12])
def test_few_rows_a_cluster_are_clustered_by_kmeans(n_clusters, monkeypatch):
    monkeypatch.setattr(communities, "MAX_ROWS", 10)
    rows = F.normalize(torch.randn(12, 4), dim=1)
    with seeded(0):
        found = neighbor_communities(rows, n_clusters, n_init=2)
    with seeded(0):
        expected, of_kmeans = spherical_kmeans(rows, n_clusters, n_init=2)
    assert torch.equal(found.centers, expected) and torch.equal(found.labels, of_kmeans)
    assert torch.equal(found.parts, expected)
    assert found.owners.tolist() == list(range(n_clusters))


def test_equal_rows():
    rows = F.normalize(torch.ones(200, 3), dim=1)
    with seeded(0):
        found = neighbor_communities(rows, 3)
    assert torch.isfinite(found.centers).all() and found.centers.shape == (3, 3)
    assert 0 <= found.labels.min() and found.labels.max() < 3


METHODS = [(DigPro, "e_step"), (SCL, "init"), (StatDEC, "init"), (GCC, "init")]


@pytest.mark.parametrize(("cls", "name"), METHODS)
def test_auto_is_the_graph_for_images_and_kmeans_for_vectors(cls, name):
    rng = np.random.default_rng(0)
    kinds = {"graph": rng.random((40, 8, 8)), "kmeans": rng.normal(size=(40, 5))}
    for expected, X in kinds.items():
        model = cls(2, max_epochs=1, feature_dim=4, hidden_dim=4, device="cpu").fit(X)
        assert getattr(model.net_.module_.p, name) == expected
        assert getattr(model, name) == "auto"
