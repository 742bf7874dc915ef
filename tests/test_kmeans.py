import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from torch.nn import functional as F

from skdeepcluster import kmeans
from skdeepcluster.kmeans import cluster_sums, spherical_kmeans
from skdeepcluster.statdec.centers import kmeans_centers


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def unit(x):
    return F.normalize(x, dim=1)


def bundles(n_clusters=5, size=20, dim=12, spread=0.05, dtype=torch.float32):
    """Unit rows around orthogonal directions: no two bundles are near."""
    truth = torch.arange(n_clusters * size) % n_clusters
    directions = torch.eye(n_clusters, dim, dtype=dtype)
    noise = torch.randn(len(truth), dim, dtype=dtype)
    return unit(directions[truth] + spread * noise), truth


def on_circle(*degrees, dtype=torch.float64):
    radians = torch.deg2rad(torch.tensor(degrees, dtype=dtype))
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def similarity(features, centers, labels):
    return (features * centers[labels]).sum(1).mean().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_partition_as_scikit_learn(dtype):
    features, truth = bundles(dtype=dtype)
    centers, labels = spherical_kmeans(features, 5)
    reference = KMeans(5, n_init=10, random_state=0).fit_predict(features.numpy())
    assert adjusted_rand_score(reference, labels) == 1.0
    assert adjusted_rand_score(truth, labels) == 1.0
    assert centers.dtype == dtype and labels.dtype == torch.int64
    assert centers.shape == (5, 12) and labels.shape == (100,)


def test_centres_of_many_rows_are_found_in_some(monkeypatch):
    monkeypatch.setattr(kmeans, "FEWEST", 50)
    monkeypatch.setattr(kmeans, "OF_EACH", 8)
    features, truth = bundles(size=200)
    seen, means = [], kmeans._means
    monkeypatch.setattr(
        kmeans, "_means", lambda rows, *a: seen.append(len(rows)) or means(rows, *a)
    )
    centers, labels = spherical_kmeans(features, 5, n_init=5)
    assert set(seen) == {50}  # more than 8 of each
    assert adjusted_rand_score(truth, labels) == 1.0
    assert torch.equal(labels, (features @ centers.T).argmax(1))
    seen.clear()
    spherical_kmeans(features, 9)
    assert set(seen) == {72}


def test_centres_of_statdec_are_found_in_some(monkeypatch):
    monkeypatch.setattr(kmeans, "FEWEST", 50)
    monkeypatch.setattr(kmeans, "OF_EACH", 8)
    features, truth = bundles(size=200)
    seen, fit = [], KMeans.fit
    monkeypatch.setattr(
        KMeans, "fit", lambda self, X: seen.append(len(X)) or fit(self, X)
    )
    centers = kmeans_centers(features, 5)
    assert seen == [50] and len(features) == 1000
    labels = torch.cdist(features, centers).argmin(1)
    assert adjusted_rand_score(truth, labels) == 1.0


@pytest.mark.parametrize("max_entries", [1, 700, 2**24])
def test_sums_of_clusters(monkeypatch, max_entries):
    monkeypatch.setattr(kmeans, "MAX_ENTRIES", max_entries)
    features = torch.randn(120, 6, dtype=torch.float64)
    labels = torch.stack([torch.arange(120) % 5, torch.arange(120) // 30])
    sums, sizes = cluster_sums(features, labels, 5)
    for run in range(2):
        for k in range(5):
            members = features[labels[run] == k]
            torch.testing.assert_close(sums[run, k], members.sum(0))
            assert sizes[run, k] == len(members)


def test_result_is_a_fixed_point():
    features = unit(torch.randn(200, 6, dtype=torch.float64))
    centers, labels = spherical_kmeans(features, 7, n_init=2, max_iter=300)
    torch.testing.assert_close(centers.norm(dim=1), torch.ones(7, dtype=torch.float64))
    assert torch.equal((features @ centers.T).argmax(1), labels)
    for cluster in range(7):
        mean = features[labels == cluster].mean(0)
        torch.testing.assert_close(centers[cluster], mean / mean.norm())


def test_one_iteration_by_hand():
    features = on_circle(0, 20, 90, 110)
    init = on_circle(-10, 120)
    centers, labels = spherical_kmeans(features, 2, init=init, n_init=0, max_iter=1)
    assert labels.tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(centers, on_circle(10, 100))


def test_warm_start_keeps_the_order_of_the_centres():
    features, truth = bundles()
    init = torch.eye(5, 12)[[3, 1, 4, 0, 2]]
    centers, labels = spherical_kmeans(features, 5, init=init, n_init=0)
    assert (centers * init).sum(1).min() > 0.9
    assert torch.equal(torch.tensor([3, 1, 4, 0, 2])[labels], truth)


def test_init_needs_no_normalisation_and_is_left_alone():
    features, _ = bundles()
    init = torch.eye(5, 12)
    scaled = init * torch.arange(1.0, 6.0)[:, None]
    before = scaled.clone()
    centers, labels = spherical_kmeans(features, 5, init=init, n_init=0)
    others, same = spherical_kmeans(features, 5, init=scaled, n_init=0)
    assert torch.equal(labels, same)
    torch.testing.assert_close(centers, others)
    assert torch.equal(scaled, before)


def test_features_are_left_alone():
    features, _ = bundles()
    before = features.clone()
    spherical_kmeans(features, 5)
    assert torch.equal(features, before)


def test_init_takes_the_dtype_of_the_features():
    features, truth = bundles(dtype=torch.float64)
    init = torch.eye(5, 12, dtype=torch.float32)
    centers, labels = spherical_kmeans(features, 5, init=init, n_init=0)
    assert centers.dtype == torch.float64
    assert torch.equal(labels, truth)


def test_a_bad_warm_start_loses_against_fresh_draws():
    features, truth = bundles()
    stuck = unit(torch.ones(5, 12) + 1e-3 * torch.randn(5, 12))
    alone = spherical_kmeans(features, 5, init=stuck, n_init=0, max_iter=1)
    both = spherical_kmeans(features, 5, init=stuck, n_init=5, max_iter=1)
    assert similarity(features, *both) > similarity(features, *alone) + 0.01
    assert adjusted_rand_score(truth, both[1]) > adjusted_rand_score(truth, alone[1])


def test_the_best_of_the_restarts_is_kept(monkeypatch):
    # four groups of points, three of them close: one start is a bad local optimum
    features = on_circle(0, 1, 30, 31, 180, 181, 210, 211)
    bad = on_circle(0, 1, 30, 195)
    good = on_circle(0, 30, 180, 210)
    monkeypatch.setattr(kmeans, "_plus_plus", lambda *_: torch.stack([bad, good, bad]))
    centers, labels = spherical_kmeans(features, 4, n_init=3)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    torch.testing.assert_close(centers, on_circle(0.5, 30.5, 180.5, 210.5))


def test_more_restarts_are_not_worse():
    features = unit(torch.randn(150, 4))
    scores = []
    for n_init in (1, 20):
        runs = []
        for seed in range(5):
            torch.manual_seed(seed)
            runs.append(
                similarity(features, *spherical_kmeans(features, 12, n_init=n_init))
            )
        scores.append(np.mean(runs))
    assert scores[1] > scores[0]


@pytest.mark.parametrize("far", [180.0, 270.0])
def test_a_centre_without_samples_moves_to_a_far_sample(far):
    features = on_circle(0, 2, 40, 42)
    init = on_circle(1, far)
    centers, labels = spherical_kmeans(features, 2, init=init, n_init=0)
    assert labels.tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(centers, on_circle(1, 41))


def test_several_empty_centres_move_to_different_samples():
    features = on_circle(0, 1, 89, 91, 270, 271)
    init = on_circle(0, 0, 0)
    moved, _ = spherical_kmeans(features, 3, init=init, n_init=0, max_iter=1)
    torch.testing.assert_close(moved[1:], on_circle(91, 270))
    _, labels = spherical_kmeans(features, 3, init=init, n_init=0)
    assert adjusted_rand_score([0, 0, 1, 1, 2, 2], labels) == 1.0


def test_equal_centres_part():
    features, truth = bundles(n_clusters=2)
    init = torch.eye(1, 12).repeat(2, 1)
    _, labels = spherical_kmeans(features, 2, init=init, n_init=0)
    assert adjusted_rand_score(truth, labels) == 1.0


def test_zero_centres_are_no_trap():
    features, truth = bundles(n_clusters=3)
    _, labels = spherical_kmeans(features, 3, init=torch.zeros(3, 12), n_init=0)
    assert len(labels.unique()) == 3
    assert adjusted_rand_score(truth, labels) > 0.4


@pytest.mark.parametrize("max_entries", [1, 50, 333, 10_000])
def test_blocks_do_not_change_the_result(monkeypatch, max_entries):
    features, _ = bundles(spread=0.3, dtype=torch.float64)
    torch.manual_seed(3)
    centers, labels = spherical_kmeans(features, 5, n_init=4)
    monkeypatch.setattr(kmeans, "MAX_ENTRIES", max_entries)
    n_blocks = len(kmeans._blocks(len(features), 4 * 5))
    assert n_blocks == -(-100 // max(1, max_entries // 20))
    torch.manual_seed(3)
    others, same = spherical_kmeans(features, 5, n_init=4)
    assert torch.equal(labels, same)
    torch.testing.assert_close(centers, others)


def test_blocks_cover_every_row_once(monkeypatch):
    monkeypatch.setattr(kmeans, "MAX_ENTRIES", 60)
    rows = np.concatenate([np.arange(47)[part] for part in kmeans._blocks(47, 10)])
    assert rows.tolist() == list(range(47))


def test_as_many_clusters_as_samples():
    features = unit(torch.randn(9, 4, dtype=torch.float64))
    centers, labels = spherical_kmeans(features, 9)
    assert sorted(labels.tolist()) == list(range(9))
    torch.testing.assert_close(centers[labels], features)


def test_fewer_distinct_samples_than_clusters():
    features = on_circle(0, 90, 180).repeat(4, 1)
    centers, labels = spherical_kmeans(features, 5)
    assert torch.isfinite(centers).all()
    torch.testing.assert_close(centers.norm(dim=1), torch.ones(5, dtype=torch.float64))
    assert len(labels.unique()) == 3
    assert torch.equal(labels, labels[:3].repeat(4))
    torch.testing.assert_close(centers[labels], features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_samples(dtype):
    features = unit(torch.ones(10, 7, dtype=dtype))
    centers, labels = spherical_kmeans(features, 3)
    assert torch.isfinite(centers).all()
    torch.testing.assert_close(centers[labels], features)


@pytest.mark.parametrize("n_init", [1, 3])
def test_one_cluster(n_init):
    features = unit(torch.randn(20, 3, dtype=torch.float64) + 1)
    centers, labels = spherical_kmeans(features, 1, n_init=n_init)
    assert labels.tolist() == [0] * 20
    mean = features.mean(0, keepdim=True)
    torch.testing.assert_close(centers, unit(mean))


def test_one_seed_gives_one_result():
    features = unit(torch.randn(120, 5))
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(spherical_kmeans(features, 10, n_init=1))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][1], results[2][1])


def test_draws_are_samples_and_far_apart():
    features, truth = bundles(spread=0.01)
    centers = kmeans._plus_plus(features, 5, 50)
    assert centers.shape == (50, 5, 12)
    nearest = (centers @ features.T).argmax(2)
    torch.testing.assert_close(centers, features[nearest])
    distinct = [len(truth[rows].unique()) for rows in nearest]
    # uniform draws would find all five bundles in 4 % of the runs
    assert np.mean(np.array(distinct) == 5) > 0.9


def test_agrees_with_scikit_learn_on_the_optimum_of_noisy_data():
    features, _ = bundles(spread=0.25, dtype=torch.float64)
    centers, labels = spherical_kmeans(features, 5, n_init=20, max_iter=300)
    reference = KMeans(5, n_init=20, random_state=0).fit(features.numpy())
    own = torch.from_numpy(reference.labels_).long()
    theirs = unit(torch.from_numpy(reference.cluster_centers_))
    assert similarity(features, centers, labels) >= (
        similarity(features, theirs, own) - 1e-3
    )


@pytest.mark.gpu
def test_cuda_finds_the_same_partition():
    features, truth = bundles(size=200)
    centers, labels = spherical_kmeans(features.cuda(), 5)
    assert centers.is_cuda and labels.is_cuda
    assert adjusted_rand_score(truth, labels.cpu()) == 1.0
