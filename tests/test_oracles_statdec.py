"""The numbers of StatDEC's formulas, computed by hand or by slow loops."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from small_statdec import SIZES, long_tail, randn, tensor, unit
from torch.nn import functional as F

from skdeepcluster.losses import nt_xent
from skdeepcluster.metrics import balanced_clustering_accuracy
from skdeepcluster.statdec.centers import kmeans_centers, overcluster_centers
from skdeepcluster.statdec.objective import (
    debiased_contrastive,
    dec_loss,
    log_student_t,
    sharpened_target,
)
from skdeepcluster.statdec.statistics import (
    ClusterStatistics,
    cluster_statistics,
    merge_statistics,
    outlier_score,
)

T = 0.5


def gradient(loss, x):
    (found,) = torch.autograd.grad(loss, x, retain_graph=True, allow_unused=True)
    return found


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# -- slow references, written from the equations ---------------------------------------


def slow_debiased(a, b, temperature, tau_plus):
    """One anchor, one negative at a time; tau_plus per anchor. Loss, share clamped."""
    u = [row / np.linalg.norm(row) for row in np.vstack([a, b])]
    n = len(u)
    total, clamped = 0.0, 0
    for i in range(n):
        other = (i + n // 2) % n
        positive = math.exp(u[i] @ u[other] / temperature)
        negatives = sum(
            math.exp(u[i] @ u[j] / temperature) for j in range(n) if j not in (i, other)
        )
        tau = tau_plus[i]
        estimate = (negatives - tau * (n - 2) * positive) / (1 - tau)
        lowest = (n - 2) * math.exp(-1 / temperature)
        clamped += estimate < lowest
        total += math.log(1 + max(estimate, lowest) / positive)
    return total / n, clamped / n


def slow_student_t(embedding, centers, scale, alpha):
    distance = cdist(embedding, centers, "sqeuclidean")
    kernel = (1 + distance / (alpha * scale)) ** (-(alpha + 1) / 2)
    return kernel / kernel.sum(1, keepdims=True)


# -- oracle 3: the debiased contrastive loss -------------------------------------------


@pytest.mark.parametrize("temperature", [0.1, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_without_correction_the_loss_is_nt_xent(seed, temperature):
    torch.manual_seed(seed)
    a, b = randn(7, 5, grad=True), randn(7, 5)
    loss, clamped = debiased_contrastive(a, b, temperature, 0.0)
    expected = nt_xent(a, b, temperature)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(
        gradient(loss, a), gradient(expected, a), rtol=0, atol=1e-6
    )
    assert clamped.item() == 0.0


@pytest.mark.parametrize("tau_plus", [0.0, 0.05, 0.1, 0.13, 0.5])
def test_loss_of_equal_embeddings(tau_plus):
    rows = torch.ones(4, 3, dtype=torch.float64)
    loss, _ = debiased_contrastive(rows, 2 * rows, T, tau_plus)
    assert loss.item() == pytest.approx(1.945910, abs=1e-6)
    assert loss.item() == pytest.approx(math.log(7), abs=1e-10)


@pytest.mark.parametrize(
    ("tau_plus", "expected", "share"),
    [(0.0, 0.594438, 0), (0.05, 0.431107, 0), (0.1, 0.211531, 0), (0.2, 0.104264, 1)],
)
def test_loss_of_equal_positives_and_orthogonal_negatives(tau_plus, expected, share):
    rows = torch.eye(4, dtype=torch.float64)
    loss, clamped = debiased_contrastive(rows, rows, T, tau_plus)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert clamped.item() == share
    assert not clamped.requires_grad


def test_correction_lowers_the_loss_to_a_bound():
    rows = torch.eye(4, dtype=torch.float64)
    taus = np.linspace(0, 0.95, 40)
    losses = [debiased_contrastive(rows, rows, T, tau)[0].item() for tau in taus]
    assert np.isfinite(losses).all()
    assert (np.diff(losses) <= 1e-12).all()
    assert min(losses) >= math.log(1 + 6 * math.exp(-2 / T)) - 1e-12


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("tau_plus", [0.01, 0.1, 0.3])
def test_debiased_loss_equals_the_loops(seed, temperature, tau_plus):
    torch.manual_seed(seed)
    a, b = randn(6, 4), randn(6, 4)
    loss, clamped = debiased_contrastive(a, b, temperature, tau_plus)
    slow = slow_debiased(a.numpy(), b.numpy(), temperature, [tau_plus] * 12)
    assert loss.item() == pytest.approx(slow[0], abs=1e-10)
    assert clamped.item() == pytest.approx(slow[1], abs=1e-6)
    assert loss.item() >= math.log(1 + 10 * math.exp(-2 / temperature)) - 1e-12


def test_debiased_loss_ignores_length_and_which_view_is_first():
    a, b = randn(6, 4), randn(6, 4)
    loss, _ = debiased_contrastive(a, b, T, 0.1)
    length = torch.rand(6, 1, dtype=torch.float64) + 0.1
    torch.testing.assert_close(debiased_contrastive(a * length, b, T, 0.1)[0], loss)
    torch.testing.assert_close(debiased_contrastive(b, a, T, 0.1)[0], loss)


def test_debiased_loss_trains_both_views():
    a, b = randn(6, 4, grad=True), randn(6, 4, grad=True)
    loss, _ = debiased_contrastive(a, b, T, 0.1)
    assert gradient(loss, a).abs().max() > 1e-3
    assert gradient(loss, b).abs().max() > 1e-3


@pytest.mark.parametrize("temperature", [0.03, 0.1, 0.5])
@pytest.mark.parametrize("tau_plus", [0.0, 0.1, 0.9])
def test_debiased_loss_of_float32_is_finite(temperature, tau_plus):
    a = torch.randn(64, 8)
    b = (a + 0.01 * torch.randn(64, 8)).requires_grad_()
    loss, _ = debiased_contrastive(a, b, temperature, tau_plus)
    assert loss.dtype == torch.float32
    assert loss.isfinite() and gradient(loss, b).isfinite().all()
    taus = [tau_plus] * 128
    slow, _ = slow_debiased(
        a.double().numpy(), b.detach().double().numpy(), temperature, taus
    )
    # at low temperatures the loss is near zero, and log1p of rounding is left
    assert loss.item() == pytest.approx(slow, rel=1e-3, abs=1e-6)


# -- oracle 4: the gradient of a clamped estimate --------------------------------------


def test_clamped_negatives_get_no_gradient_but_positives_do():
    a = torch.eye(4, dtype=torch.float64).requires_grad_()
    turn = 0.1 * randn(4, 4)
    b = (torch.eye(4, dtype=torch.float64) + turn).requires_grad_()
    loss, clamped = debiased_contrastive(a, b, T, 0.2)
    assert clamped.item() == 1.0
    # what is left when no negative counts: each anchor and its positive
    cosine = F.cosine_similarity(a, b, dim=1)
    alone = torch.log1p(6 * math.exp(-1 / T) / (cosine / T).exp()).mean()
    torch.testing.assert_close(loss, alone)
    for x in (a, b):
        torch.testing.assert_close(gradient(loss, x), gradient(alone, x))
        assert gradient(loss, x).abs().max() > 1e-4


# -- oracle 5: soft assignments --------------------------------------------------------


def test_student_t_by_hand():
    centers = tensor([[0.0, 0], [1, 0], [0, 2]])
    q = log_student_t(tensor([[0.0, 0]]), centers, 1.0).exp()
    expected = tensor([[0.588235, 0.294118, 0.117647]])
    torch.testing.assert_close(q, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("each", [False, True])
def test_student_t_equals_numpy(alpha, each):
    embedding, centers = randn(20, 5), randn(4, 5)
    scale = torch.rand(4, dtype=torch.float64) + 0.5 if each else 0.7
    q = log_student_t(embedding, centers, scale, alpha).exp()
    slow = slow_student_t(embedding.numpy(), centers.numpy(), np.asarray(scale), alpha)
    np.testing.assert_allclose(q.numpy(), slow, rtol=1e-8)
    np.testing.assert_allclose(q.sum(1).numpy(), 1)


def test_student_t_has_no_unit():
    embedding, centers = randn(20, 5), randn(4, 5)
    q = log_student_t(embedding, centers, 0.3)
    torch.testing.assert_close(log_student_t(10 * embedding, 10 * centers, 30.0), q)


def test_student_t_trains_embedding_and_centers():
    embedding, centers = randn(20, 5, grad=True), randn(4, 5, grad=True)
    centers.data[0] = embedding.data[0]  # a distance of zero has a gradient too
    q = log_student_t(embedding, centers, 1.0)
    for x in (embedding, centers):
        found = gradient(q[:, 0].sum(), x)
        assert found.isfinite().all() and found.abs().max() > 1e-3


def test_student_t_of_float32_close_to_a_center():
    # |a|^2 + |b|^2 - 2 ab would lose all digits of this distance
    centers = torch.tensor([[100.0, 100.0], [100.0, 101.0]])
    q = log_student_t(centers[:1] + torch.tensor([[0.0, 0.01]]), centers, 1.0).exp()
    kernel = np.array([1 / (1 + 1e-4), 1 / (1 + 0.99**2)])
    np.testing.assert_allclose(q[0].numpy(), kernel / kernel.sum(), atol=1e-4)


# -- oracle 6: the target and its divergence -------------------------------------------

Q = [[0.9, 0.1], [0.6, 0.4]]


@pytest.mark.parametrize(
    ("cardinality", "expected"),
    [
        ([1.5, 0.5], [[0.964286, 0.035714], [0.428571, 0.571429]]),
        ([1.0, 1.0], [[0.987805, 0.012195], [0.692308, 0.307692]]),
        ([7.0, 7.0], [[0.987805, 0.012195], [0.692308, 0.307692]]),
    ],
    ids=["column sums", "equal", "equal at any size"],
)
def test_target_by_hand(cardinality, expected):
    p = sharpened_target(tensor(Q), tensor(cardinality))
    torch.testing.assert_close(p, tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_target_of_any_power_equals_numpy(power):
    q, cardinality = randn(20, 4).softmax(1), torch.rand(4, dtype=torch.float64) + 0.1
    p = sharpened_target(q, cardinality, power=power)
    slow = q.numpy() ** 2 / cardinality.numpy() ** power
    np.testing.assert_allclose(p.numpy(), slow / slow.sum(1, keepdims=True), rtol=1e-8)
    np.testing.assert_allclose(p.sum(1).numpy(), 1)


def test_target_has_no_gradient():
    logits = randn(20, 4, grad=True)
    q = logits.softmax(1)
    assert not sharpened_target(q, q.sum(0)).requires_grad


def test_one_hot_rows_are_a_fixed_point_of_the_target():
    q = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 2]]
    torch.testing.assert_close(sharpened_target(q, q.sum(0)), q)
    uniform = torch.full((5, 3), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(sharpened_target(uniform, uniform.sum(0)), uniform)


def test_target_of_an_empty_cluster_is_finite():
    q = tensor([[1.0, 0.0], [1.0, 0.0]])
    p = sharpened_target(q, q.sum(0))
    assert p.isfinite().all()
    torch.testing.assert_close(p, q)


def test_divergence_by_hand():
    q = tensor(Q)
    p = sharpened_target(q, q.sum(0))
    rows = [dec_loss(p[i : i + 1], q[i : i + 1].log()).item() for i in range(2)]
    assert rows == pytest.approx([0.029757, 0.059612], abs=1e-6)
    assert dec_loss(p, q.log()).item() == pytest.approx(np.mean(rows), abs=1e-12)


def test_divergence_of_equal_rows_is_zero():
    q = randn(9, 4).softmax(1)
    assert dec_loss(q, q.log()).item() == pytest.approx(0.0, abs=1e-12)


def test_divergence_of_certain_targets_is_finite():
    p = torch.eye(3, dtype=torch.float64)
    logits = 100 * torch.eye(3, dtype=torch.float64).roll(1, 0)
    logits.requires_grad_()
    loss = dec_loss(p, logits.log_softmax(1))
    assert loss.item() == pytest.approx(100.0, abs=1e-6)
    assert gradient(loss, logits).isfinite().all()


def test_divergence_pulls_assignments_to_their_target():
    logits = randn(9, 4, grad=True)
    p = randn(9, 4).softmax(1)
    found = gradient(dec_loss(p, logits.log_softmax(1)), logits)
    torch.testing.assert_close(found, (logits.softmax(1) - p).detach() / 9)


# -- oracle 7: statistics of the clusters ----------------------------------------------


def hard(labels, k):
    return F.one_hot(labels, k).double()


def assert_equal_statistics(one, other):
    for name in ClusterStatistics._fields:
        got, expected = getattr(one, name), getattr(other, name)
        torch.testing.assert_close(
            got, expected, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_statistics_of_hard_assignments_equal_numpy():
    embedding, labels = randn(50, 6) + 3, torch.arange(50) % 3
    statistics = cluster_statistics(hard(labels, 3), embedding)
    assert ClusterStatistics._fields == ("cardinality", "mean", "variance")
    assert isinstance(statistics, ClusterStatistics)
    for k in range(3):
        rows = embedding[labels == k].numpy()
        assert statistics.cardinality[k].item() == pytest.approx(len(rows))
        np.testing.assert_allclose(statistics.mean[k].numpy(), rows.mean(0), atol=1e-10)
        assert statistics.variance[k].item() == pytest.approx(rows.var(0).mean())


def test_statistics_of_soft_assignments_equal_the_loops():
    embedding, q = randn(20, 6), randn(20, 3).softmax(1)
    statistics = cluster_statistics(q, embedding)
    for k in range(3):
        n = float(q[:, k].sum())
        mean = sum(float(q[i, k]) * embedding[i] for i in range(20)) / n
        variance = sum(
            float(q[i, k]) * float((embedding[i] - mean).square().sum())
            for i in range(20)
        )
        assert statistics.cardinality[k].item() == pytest.approx(n)
        torch.testing.assert_close(statistics.mean[k], mean)
        assert statistics.variance[k].item() == pytest.approx(variance / (6 * n))
    assert statistics.cardinality.sum().item() == pytest.approx(20)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_merged_statistics_are_those_of_the_union(seed, soft):
    torch.manual_seed(seed)
    embedding = randn(12, 4) + randn(1, 4)
    q = hard(torch.arange(12) % 2, 2) if not soft else randn(12, 2).softmax(1)
    parts = [cluster_statistics(q[rows], embedding[rows]) for rows in split(7, 12)]
    whole = cluster_statistics(q, embedding)
    assert_equal_statistics(merge_statistics(*parts), whole)
    assert_equal_statistics(merge_statistics(*reversed(parts)), whole)


def split(at, n):
    return slice(0, at), slice(at, n)


def test_merging_with_nothing_changes_nothing():
    embedding, labels = randn(12, 4), torch.arange(12) % 2
    first = cluster_statistics(hard(labels, 3), embedding)
    # the third cluster has no member in either part, the second none in the other
    second = cluster_statistics(hard(labels[::2], 3), embedding[::2])
    merged = merge_statistics(first, second)
    assert all(part.isfinite().all() for part in merged)
    for got, expected in zip(merged, first, strict=True):
        torch.testing.assert_close(got[1], expected[1])
    assert merged.cardinality.tolist() == [12.0, 6.0, 0.0]


# -- oracle 8: outliers ----------------------------------------------------------------


def test_outlier_score_by_hand():
    centers, variance = tensor([[0.0, 0], [10, 0]]), tensor([1.0, 4.0])
    scores = outlier_score(tensor([[1.0, 1], [10, 4], [5, 0]]), centers, variance)
    # 2 / (2 * 1), 16 / (2 * 4), and 25 / (2 * 4) rather than 25 / (2 * 1)
    torch.testing.assert_close(scores, tensor([1.0, 2.0, 25 / 8]))


def blobs():
    labels = torch.arange(90) % 3
    return 8 * unit(torch.eye(3, 5, dtype=torch.float64))[labels] + randn(90, 5), labels


def test_far_points_are_outliers_of_any_cluster():
    embedding, labels = blobs()
    statistics = cluster_statistics(hard(labels, 3), embedding)
    known = outlier_score(embedding, statistics.mean, statistics.variance)
    far = 60 * unit(randn(20, 5))
    assert outlier_score(far, statistics.mean, statistics.variance).min() > known.max()


def test_outlier_score_ignores_a_common_rotation():
    embedding, labels = blobs()
    statistics = cluster_statistics(hard(labels, 3), embedding)
    turn, _ = torch.linalg.qr(randn(5, 5))
    score = outlier_score(embedding, statistics.mean, statistics.variance)
    turned = outlier_score(
        embedding @ turn, statistics.mean @ turn, statistics.variance
    )
    torch.testing.assert_close(turned, score)


# -- oracle 9: centres of small clusters -----------------------------------------------


def nearest(X, centers):
    return cdist(X, np.asarray(centers)).argmin(1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("overcluster", [False, True])
def test_small_clusters_are_found(seed, overcluster):
    X, y = long_tail(seed)
    assert SIZES[[0, -1]].tolist() == [1000, 10]
    if overcluster:
        centers = overcluster_centers(torch.from_numpy(X), 10, seed=seed)
    else:
        centers = kmeans_centers(torch.from_numpy(X), 10, seed=seed)
    assert tuple(centers.shape) == (10, 2)
    assert balanced_clustering_accuracy(y, nearest(X, centers)) > 0.97


def test_overclustered_centers_are_unweighted_means():
    # two groups of five tight bundles: one bundle of each holds nearly all samples
    bundles = np.concatenate([np.arange(5), 100 + 2 * np.arange(5)])
    sizes = [100, 5, 5, 5, 5] * 2
    x = torch.from_numpy(np.repeat(bundles, sizes)).float()
    features = torch.stack([x, torch.zeros_like(x)], dim=1)
    features += 0.01 * torch.randn(len(x), 2)
    centers = overcluster_centers(features, 2, factor=5, n_init=10, seed=0)
    np.testing.assert_allclose(sorted(np.asarray(centers)[:, 0]), [2, 104], atol=0.05)


def test_overclustering_of_one_seed_is_one_result():
    X, _ = long_tail(0)
    X = torch.from_numpy(X)
    first, second = (overcluster_centers(X, 10, seed=3) for _ in range(2))
    np.testing.assert_array_equal(np.asarray(first), np.asarray(second))


@pytest.mark.parametrize(("n", "k"), [(30, 30), (20, 7), (12, 1)])
def test_overclustering_of_few_samples(n, k):
    centers = overcluster_centers(torch.randn(n, 3), k, seed=0)
    assert tuple(centers.shape) == (k, 3)
    assert np.isfinite(np.asarray(centers)).all()
