"""The numbers of StatDEC's formulas, computed by hand or by slow loops."""

import inspect
import math
import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SMALL
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score, roc_auc_score
from skorch.callbacks import Callback
from torch import nn
from torch.nn import functional as F

from skdeepcluster import statdec
from skdeepcluster._base import Plan
from skdeepcluster._images import Images
from skdeepcluster._net import Batch
from skdeepcluster._scaling import Scaling
from skdeepcluster.heads import StatisticsPooling
from skdeepcluster.losses import nt_xent
from skdeepcluster.metrics import balanced_clustering_accuracy
from skdeepcluster.statdec import (
    ClusterStatistics,
    StatDEC,
    StatisticsNetworks,
    cluster_statistics,
    debiased_contrastive,
    dec_loss,
    kmeans_centers,
    log_student_t,
    merge_statistics,
    outlier_score,
    overcluster_centers,
    sharpened_target,
    simplified_silhouette,
)

T = 0.5


def randn(*shape, grad=False):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


def unit(x):
    return F.normalize(x, dim=1)


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


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


def test_correction_of_each_anchor():
    a, b = randn(6, 4), randn(6, 4)
    tau = torch.rand(12, dtype=torch.float64) * 0.13
    loss, clamped = debiased_contrastive(a, b, T, tau)
    slow = slow_debiased(a.numpy(), b.numpy(), T, tau.tolist())
    assert loss.item() == pytest.approx(slow[0], abs=1e-10)
    assert clamped.item() == pytest.approx(slow[1], abs=1e-6)
    both = torch.cat([tau[:6], tau[:6]])
    images, _ = debiased_contrastive(a, b, T, tau[:6])  # one of both views
    torch.testing.assert_close(images, debiased_contrastive(a, b, T, both)[0])
    same, _ = debiased_contrastive(a, b, T, torch.full_like(tau, 0.1))
    torch.testing.assert_close(same, debiased_contrastive(a, b, T, 0.1)[0])


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

SIZES = np.round(1000 * (10 / 1000) ** (np.arange(10) / 9)).astype(int)


def long_tail(seed):
    """Ten round blobs of 1000 to 10 points, their centres more than 12 apart."""
    rng = np.random.default_rng(seed)
    grid = 13.0 * np.array([(i % 4, i // 4) for i in range(10)])
    y = np.repeat(rng.permutation(10), SIZES)
    return (grid[y] + rng.normal(size=(len(y), 2))).astype(np.float32), y


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
        centers, labels = kmeans_centers(torch.from_numpy(X), 10, seed=seed)
        np.testing.assert_array_equal(labels.numpy(), nearest(X, centers))
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


# -- which centres to take at the end --------------------------------------------------


def test_simplified_silhouette_by_hand():
    centers = tensor([[0.0, 0], [2, 0], [9, 9]])
    # at a centre, half-way between two, and at squared distances of 0.25 and 2.25
    rows = tensor([[0.0, 0], [1, 0], [0.5, 0]])
    expected = [1.0, 0.0, 1 - 0.25 / 2.25]
    values = [simplified_silhouette(rows[i : i + 1], centers) for i in range(3)]
    assert values == pytest.approx(expected, abs=1e-9)
    assert simplified_silhouette(rows, centers) == pytest.approx(np.mean(expected))


# -- the module ------------------------------------------------------------------------

SHAPE = (1, 8, 8)
N, B, K, D = 40, 12, 3, 8
KINDS = torch.arange(N) % K


def raw_images(n=N):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(n, 64)).astype(np.float32)
    images[np.arange(n), np.arange(n) % K] += 20
    return images


def make_module(max_epochs=10, n_samples=N, device="cpu", n_clusters=K, **params):
    """Module of an untrained estimator, past the refresh before the first epoch."""
    features = params.pop("features", None)
    defaults = {"feature_dim": D, "hidden_dim": 16, "warmup": 0.0, "n_init": 2}
    estimator = StatDEC(n_clusters, **{**defaults, **params})
    plan = Plan(
        image_shape=SHAPE,
        n_samples=n_samples,
        backbone=params.get("backbone", "conv"),
        scaling=Scaling(Images(raw_images(n_samples), SHAPE)),
        augmentation=nn.Identity(),
        max_epochs=max_epochs,
        steps_per_epoch=3,
    )
    kind, module_params = estimator._module(plan)
    module = kind(plan.scaling, plan.augmentation, **module_params).to(device)
    module.refresh(embedder(module, features))
    return module.train()


def embedder(module, features=None):
    """The ``embed`` of the engine; ``features`` stand in for ``encode``."""
    n = len(module.labels)
    x = torch.from_numpy(raw_images(n)).view(n, *SHAPE).to(module.centers.device)

    def embed(function=None):
        if function is None and features is not None:
            return features
        training = module.training
        module.eval()
        with torch.no_grad():
            out = (function or module.encode)(module.scaling(x))
        module.train(training)
        return out

    return embed


def two_views(n=B, device="cpu"):
    index = torch.randperm(N)[:n].to(device)
    return Batch(index, [torch.randn(n, *SHAPE, device=device) for _ in range(2)])


def step(module, batch=None):
    """One training step but for the optimiser's."""
    batch = two_views() if batch is None else batch
    parts = module.losses(batch)
    sum(parts.values()).backward()
    module.after_step()
    return {name: part.item() for name, part in parts.items()}


def tight(kinds, k=K, spread=0.02):
    """Unit features close to one of k axes."""
    return unit(torch.eye(k, D)[kinds] + spread * torch.randn(len(kinds), D))


@pytest.fixture
def spy(monkeypatch):
    """Calls of a function of the method, as dicts of arguments and ``result``."""

    def watch(name):
        good, calls = getattr(statdec, name), []
        signature = inspect.signature(good)

        def spying(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            result = good(*args, **kwargs)
            calls.append({**bound.arguments, "result": result})
            return result

        monkeypatch.setattr(statdec, name, spying)
        return calls

    return watch


def test_warmup_trains_both_embeddings_by_contrast(spy):
    module, calls = (
        make_module(warmup=0.5, temperature=0.4, tau_plus=0.1),
        spy("debiased_contrastive"),
    )
    parts = step(module)
    assert list(parts) == ["representation"]
    (projection, embedding) = (call["result"][0].item() for call in calls)
    assert {call["temperature"] for call in calls} == {0.4}
    assert {call["tau_plus"] for call in calls} == {0.1}
    assert parts["representation"] == pytest.approx(projection + 0.5 * embedding)
    assert all(len(call["a"]) == len(call["b"]) == B for call in calls)


@pytest.mark.parametrize(
    ("warmup", "max_epochs", "expected"),
    [(0.0, 5, 0), (0.5, 4, 2), (1.0, 4, 4), (0.5, 2, 1), (0.7, 1, 1)],
)
def test_epochs_of_the_warmup(warmup, max_epochs, expected):
    module, warm = make_module(max_epochs, warmup=warmup), 0
    for _ in range(max_epochs):
        warm += "clustering" not in step(module)
        module.refresh(embedder(module))
    assert warm == expected
    module.finish(embedder(module))
    assert torch.equal(module.labels, embedder(module)(module.logits).argmax(1))


def test_weight_of_the_clustering_loss_rises(spy):
    module = make_module(max_epochs=10, cluster_weight=0.6, ramp=0.2)
    calls = spy("dec_loss")
    weights = [step(module)["clustering"] / 0.6 for _ in range(9)]
    ratios = [w / call["result"].item() for w, call in zip(weights, calls, strict=True)]
    # 0.2 of ten epochs of three steps are six
    expected = [min(1.0, number / 6) for number in range(1, 10)]
    assert ratios == pytest.approx(expected, rel=1e-4)


def test_target_is_that_of_both_views_and_of_all_data(spy):
    module = make_module(cardinality_power=0.5)
    assigned, sharpened = spy("log_student_t"), spy("sharpened_target")
    losses = spy("dec_loss")
    cardinality = module.cardinality.clone()
    step(module)
    (call,), (target,), (loss,) = assigned, sharpened, losses
    q = call["result"].exp()
    assert q.shape == (2 * B, K)
    torch.testing.assert_close(target["q"], q.view(2, B, K).mean(0))
    assert torch.equal(target["cardinality"], cardinality)
    assert target["power"] == 0.5
    assert torch.equal(loss["target"], target["result"].repeat(2, 1))
    torch.testing.assert_close(loss["log_q"], call["result"])
    assert call["alpha"] == 1.0


def test_running_cardinality(spy):
    module, calls = make_module(), spy("log_student_t")
    for _ in range(5):
        before = module.cardinality.clone()
        step(module)
        q = calls[-1]["result"].detach().exp()
        expected = 0.95 * before + 0.05 * N / (2 * B) * q.sum(0)
        torch.testing.assert_close(module.cardinality, expected)
        assert module.cardinality.sum().item() == pytest.approx(N, rel=1e-5)


def test_running_mean_and_variance_are_those_of_a_union(spy):
    module, calls = make_module(), spy("log_student_t")
    before = module.cardinality, module.mean, module.variance
    before = ClusterStatistics(*(part.double() for part in before))
    step(module)
    q = calls[-1]["result"].detach().exp().double()
    batch = cluster_statistics(q, calls[-1]["embedding"].detach().double())
    old = before._replace(cardinality=0.95 * before.cardinality)
    new = batch._replace(cardinality=0.05 * N / (2 * B) * batch.cardinality)
    expected = merge_statistics(old, new)
    torch.testing.assert_close(
        module.mean.double(), expected.mean, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        module.variance.double(), expected.variance, rtol=1e-3, atol=1e-5
    )


def test_statistics_of_an_epoch_are_exact():
    module = make_module()
    for _ in range(4):
        step(module)
    features = tight(KINDS)
    module.refresh(embedder(module, features))
    q = log_student_t(features, module.centers.detach(), module.scale).exp()
    expected = cluster_statistics(q.double(), features.double())
    # in float32, which is what the module holds
    torch.testing.assert_close(module.cardinality, expected.cardinality.float())
    torch.testing.assert_close(module.mean.double(), expected.mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        module.variance.double(), expected.variance, rtol=1e-3, atol=1e-6
    )
    assert torch.equal(module.labels, q.argmax(1))


@pytest.mark.parametrize("init", ["kmeans", "overcluster"])
def test_start_of_the_joint_phase(init):
    features = tight(KINDS)
    module = make_module(init=init, features=features)
    assert adjusted_rand_score(KINDS, module.labels) == 1.0
    distance = torch.cdist(features, module.centers.detach()).min(1).values.square()
    assert module.scale.item() == pytest.approx(distance.mean().item(), rel=1e-4)
    sizes = KINDS.bincount().double()
    found = module.cardinality.double().sort().values
    torch.testing.assert_close(found, sizes.sort().values, rtol=0.05, atol=0)


@pytest.mark.parametrize("init", ["kmeans", "overcluster"])
@pytest.mark.parametrize("seed", range(3))
def test_start_finds_small_clusters(init, seed):
    torch.manual_seed(seed)
    X, y = long_tail(seed)
    # on a sphere so wide that the blobs do not see its curve
    centred = torch.from_numpy(X - X.mean(0)) / 200
    features = unit(torch.cat([centred, torch.ones(len(X), 1)], dim=1))
    module = make_module(
        n_samples=len(X),
        n_clusters=10,
        feature_dim=3,
        init=init,
        n_init=20,
        features=features,
        backbone="mlp",
    )
    assert balanced_clustering_accuracy(y, module.labels.numpy()) > 0.97


def test_random_start_takes_images():
    features = tight(KINDS, spread=0.3)
    module = make_module(init="random", features=features)
    found = torch.cdist(module.centers.detach(), features).min(1)
    assert found.values.max() < 1e-3
    assert len(found.indices.unique()) == K


@pytest.mark.parametrize(
    ("n_clusters", "expected"), [(3, 0.13), (10, 0.1), (40, 0.025), (1, 0.13)]
)
def test_prior_by_the_number_of_clusters(spy, n_clusters, expected):
    module = make_module(n_clusters=n_clusters, tau_plus="auto")
    calls = spy("debiased_contrastive")
    step(module)
    assert float(calls[0]["tau_plus"]) == pytest.approx(expected)


# -- ablations -------------------------------------------------------------------------


def reached(module, part):
    """Names of the parameters that a part of the joint loss trains."""
    module.zero_grad()
    module.losses(two_views())[part].backward()
    named = module.named_parameters()
    return {n for n, p in named if p.grad is not None and p.grad.abs().max() > 0}


@pytest.mark.parametrize("share_trunk", [True, False])
@pytest.mark.parametrize("detach", [True, False])
def test_what_the_clustering_loss_trains(detach, share_trunk):
    module = make_module(detach_representation=detach, share_trunk=share_trunk)
    representation = reached(module, "representation")
    clustering = reached(module, "clustering")
    assert bool(representation & clustering) == (not detach)
    assert "centers" in clustering - representation
    trunks = {name for name, p in module.named_parameters() if p.ndim == 4}
    trunks = {name for name in trunks if "teacher" not in name}
    assert len(trunks) == (3 if share_trunk else 6)
    assert len(trunks & representation) == 3
    own = 0 if share_trunk else 3
    assert len(trunks & (clustering - representation)) == own


def test_second_trunk_starts_as_a_copy_after_the_warmup():
    module = make_module(share_trunk=False, warmup=0.1)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    step(module)
    optimizer.step()
    module.refresh(embedder(module))
    weights = [p for n, p in module.named_parameters() if "teacher" not in n]
    weights = [p for p in weights if p.ndim == 4]
    pairs = [(a, b) for a in weights for b in weights if a is not b]
    assert sum(a.shape == b.shape and torch.equal(a, b) for a, b in pairs) == 6


@pytest.mark.parametrize(
    ("params", "columns"),
    [
        ({}, 3 * 128),  # the map of 8 x 8 pixels has one position
        ({"share_trunk": False, "grid": 1}, 3 * 128),
        ({"cardinality": "count", "grid": 1}, 2 * 128 + 1),
        ({"backbone": "resnet18", "grid": 1}, 3 * 512),
        ({"pooling": "avg"}, 128),
        ({"backbone": "mlp"}, 512),
    ],
    ids=str,
)
def test_both_networks_end_in_a_pooling(params, columns):
    module = make_module(**params)
    named = dict(module.named_modules())
    online = {name: m for name, m in named.items() if "teacher" not in name}
    norms = [m for m in online.values() if isinstance(m, nn.BatchNorm1d)]
    # those of an mlp backbone are as wide as its output
    assert len([m for m in norms if m.num_features == columns]) == (
        4 if params.get("backbone") == "mlp" else 2
    )
    pools = [m for m in online.values() if isinstance(m, StatisticsPooling)]
    statistics = params.get("pooling") != "avg" and params.get("backbone") != "mlp"
    assert bool(pools) == statistics
    assert math.isfinite(step(module)["clustering"])


@pytest.mark.parametrize("pooling", ["statistics", "avg"])
@pytest.mark.parametrize(
    ("size", "grid", "cells"), [(28, 2, 4), (28, 9, 16), (16, 3, 4), (8, 2, 1)]
)
def test_the_grid_has_no_more_cells_than_the_map_has_positions(
    size, grid, cells, pooling
):
    networks = StatisticsNetworks(
        "conv", (1, size, size), 8, 16, pooling, "active", grid, True, False
    )
    assert networks(torch.randn(3, 1, size, size)).shape == (3, 16)
    columns = cells * 128 * (3 if pooling == "statistics" else 1)
    assert networks.representation[0].num_features == columns


@pytest.mark.parametrize(
    "params",
    [
        {"pooling": "avg"},
        {"cardinality": "count"},
        {"cardinality": None},
        {"grid": 1},
        {"share_trunk": False},
        {"detach_representation": True},
        {"init": "overcluster"},
        {"init": "random"},
        {"tau_plus": "auto"},
        {"tau_plus": 0.0},
        {"cardinality_power": 0.0},
        {"cluster_weight": 0.0},
        {"recluster": False},
        {"warmup": 0.0},
        {"warmup": 1.0},
        {"max_epochs": 1},
        {"n_clusters": 1},
        {"representation": "contrastive"},
    ],
    ids=str,
)
def test_options_train(stripes, params):
    X, _ = stripes
    model = StatDEC(**{**SMALL, "max_epochs": 4, **params}).fit(X)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    assert all(math.isfinite(row["loss"]) for row in model.history_)
    assert np.isfinite(model.score_samples(X)).all()
    assert math.isfinite(model.score(X))
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.labels_)
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))


# -- re-seeding, convergence, warnings -------------------------------------------------


def starve(module, features):
    """Put the centre of the third cluster where nothing is; whether it moved away."""
    lost = -unit(features.sum(0, keepdim=True))[0]
    with torch.no_grad():
        module.centers[2] = lost
    module.refresh(embedder(module, features))
    return not torch.equal(module.centers.detach()[2], lost)


def starved_features():
    kinds = torch.cat([torch.zeros(20), torch.ones(16), torch.full((4,), 2)]).long()
    return tight(kinds), kinds


def test_a_starved_centre_is_put_where_images_are():
    features, kinds = starved_features()
    module = make_module(features=features)
    step(module)
    assert starve(module, features)
    # a mean of images, not of the empty place it was at
    cosines = F.cosine_similarity(module.centers[2:].detach(), features)
    assert cosines.max() > 0.5
    assert module.cardinality[2].item() == pytest.approx(10)


def test_centres_are_reseeded_three_times_at_most():
    features, _ = starved_features()
    module = make_module(features=features, max_epochs=20)
    moved = []
    for _ in range(5):
        step(module)
        moved.append(starve(module, features))
    assert moved == [True, True, True, False, False]


def test_well_filled_centres_stay():
    features = tight(KINDS)
    module = make_module(features=features)
    centers = module.centers.detach().clone()
    for _ in range(3):
        module.refresh(embedder(module, features))
    assert torch.equal(module.centers.detach(), centers)


def test_training_ends_when_labels_stay(stripes):
    X, _ = stripes
    params = {**SMALL, "max_epochs": 12, "warmup": 0.25}
    model = StatDEC(**params, tol=1.0).fit(X)
    assert model.n_iter_ == len(model.history_) == 3 + 5
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    endless = StatDEC(**params, tol=0.0).fit(X)
    assert endless.n_iter_ == 12


def fit_warnings(model, X):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X)
    return [str(w.message) for w in caught if w.category is ConvergenceWarning]


def test_a_clamped_estimate_is_said_once(stripes):
    X, _ = stripes
    model = StatDEC(**{**SMALL, "max_epochs": 5}, tau_plus=0.7)
    said = [m for m in fit_warnings(model, X) if "clamped" in m]
    assert len(said) == 1
    assert "tau_plus=0.7" in said[0] and "temperature=0.5" in said[0]
    assert max(row["clamped"] for row in model.history_) > 0.5


def test_without_correction_nothing_is_clamped(stripes):
    X, _ = stripes
    model = StatDEC(**{**SMALL, "max_epochs": 5}, tau_plus=0.0)
    assert [m for m in fit_warnings(model, X) if "clamped" in m] == []
    assert {row["clamped"] for row in model.history_} == {0.0}


def test_share_that_was_clamped_in_an_epoch(spy):
    # much must be subtracted before alike embeddings are clamped
    module, calls = make_module(tau_plus=0.9), spy("debiased_contrastive")
    for _ in range(3):
        step(module)
    shares = [call["result"][1].item() for call in calls]
    report = module.refresh(embedder(module))
    assert report["clamped"] == pytest.approx(np.mean(shares), abs=1e-6)
    assert 0 < report["clamped"] < 1
    calls.clear()
    step(module)
    report = module.refresh(embedder(module))
    assert report["clamped"] == pytest.approx(calls[0]["result"][1].item(), abs=1e-6)


# -- the end ---------------------------------------------------------------------------


def test_the_end_takes_the_centers_of_the_larger_silhouette(monkeypatch):
    features, kinds = starved_features()
    good = unit(torch.eye(K, D))
    bad = unit(torch.ones(K, D) + 0.1 * torch.randn(K, D))
    for centers, merged in ((good, bad), (bad, good)):
        answer = centers, kinds
        monkeypatch.setattr(statdec, "kmeans_centers", lambda *_, a=answer, **__: a)
        monkeypatch.setattr(
            statdec, "overcluster_centers", lambda *_, a=merged, **__: a
        )
        module = make_module(features=features)
        module.finish(embedder(module, features))
        torch.testing.assert_close(module.centers.detach(), good)
        assert torch.equal(module.labels, kinds)


@pytest.mark.parametrize("recluster", [False, True])
def test_centers_of_the_joint_phase_stay_on_demand(recluster):
    features = tight(KINDS)
    module = make_module(features=features, recluster=recluster)
    with torch.no_grad():
        module.centers += 0.1
    centers = module.centers.detach().clone()
    module.finish(embedder(module, features))
    assert torch.equal(module.centers.detach(), centers) == (not recluster)
    q = log_student_t(features, module.centers.detach(), module.scale).exp()
    expected = cluster_statistics(q, features)
    torch.testing.assert_close(module.cardinality, expected.cardinality)
    torch.testing.assert_close(module.mean, expected.mean)


def rate_of_the_centers(model, plan):
    groups = model._optimizer_params(plan)["optimizer__param_groups"]
    return dict(groups)["centers"]["lr"]


def test_learning_rates_of_both_phases():
    plan = SimpleNamespace(max_epochs=100, steps_per_epoch=10, total_steps=1000)
    schedule = StatDEC(3, warmup=0.5, lr_warmup=0.05)._schedule(plan)
    factors = np.array([schedule(step) for step in range(1000)])
    first, second = factors[:500], factors[500:]
    peak = first.argmax()
    assert 0 < peak < 100 and first.max() == pytest.approx(1.0, abs=0.01)
    assert (np.diff(first[:peak]) > 0).all()
    assert (np.diff(first[peak:]) < 0).all()
    assert 0 < second.max() < 1 and (np.diff(second) <= 0).all()
    assert (factors >= 0).all() and second[-1] < 0.01 * second[0]
    # the centres go the same way in many steps as in few
    ways = []
    for epochs in (100, 400):
        plan = SimpleNamespace(
            max_epochs=epochs, steps_per_epoch=10, total_steps=10 * epochs
        )
        model = StatDEC(3, warmup=0.5)
        schedule, rate = model._schedule(plan), rate_of_the_centers(model, plan)
        steps = range(5 * epochs, 10 * epochs)
        ways.append(rate * sum(schedule(step) for step in steps))
    assert ways[1] == pytest.approx(ways[0], rel=0.05)


def test_rates_of_the_groups_follow_the_schedule(stripes):
    X, _ = stripes
    seen = []

    class Look(Callback):
        def on_batch_begin(self, net, **kwargs):
            groups = net.optimizer_.param_groups
            seen.append([(g["lr"], [p.shape for p in g["params"]]) for g in groups])

    params = {**SMALL, "max_epochs": 4, "warmup": 0.5, "lr": 1e-3}
    model = StatDEC(**params, callbacks=[("look", Look())]).fit(X)
    plan = SimpleNamespace(max_epochs=4, steps_per_epoch=2, total_steps=8)
    schedule, largest = model._schedule(plan), [rate_of_the_centers(model, plan), 1e-3]
    for step_number, groups in enumerate(seen):
        assert groups[0][1] == [(3, SMALL["feature_dim"])]  # the centres alone
        expected = [lr * schedule(step_number) for lr in largest]
        assert [lr for lr, _ in groups] == pytest.approx(expected)


def test_own_groups_of_parameters(stripes):
    X, _ = stripes
    params = {"optimizer__param_groups": [], "optimizer__weight_decay": 0.0}
    model = StatDEC(**SMALL, net_params=params).fit(X)
    assert model.n_iter_ == SMALL["max_epochs"]


def test_centers_learn_faster_and_do_not_decay():
    plan = SimpleNamespace(max_epochs=10, steps_per_epoch=10, total_steps=100)
    params = StatDEC(3, lr=0.01)._optimizer_params(plan)
    ((pattern, group),) = params["optimizer__param_groups"]
    assert pattern == "centers"
    assert group["lr"] > 0.01 and group["weight_decay"] == 0


# -- state -----------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"share_trunk": False}], ids=str)
@pytest.mark.parametrize("warmup", [0.0, 0.2, 1.0])
def test_state_dict_round_trip(warmup, params):
    params = {"warmup": warmup, "ramp": 0.5, **params}
    module = make_module(**params)
    for _ in range(2):
        step(module)
        module.refresh(embedder(module))
    step(module)
    torch.manual_seed(1)
    other = make_module(**params)
    other.load_state_dict(module.state_dict())
    for _ in range(2):
        batch = two_views()
        steps = [step(twin, batch) for twin in (module, other)]
        assert steps[0] == steps[1]
        reports = [twin.refresh(embedder(twin)) for twin in (module, other)]
        assert reports[0] == reports[1]
        for name, tensor in module.state_dict().items():
            if isinstance(tensor, torch.Tensor):
                assert torch.equal(other.state_dict()[name], tensor), name


def test_report():
    module = make_module()
    step(module)
    before = module.labels.clone()
    report = module.refresh(embedder(module))
    assert report["cluster_sizes"] == module.labels.bincount(minlength=K).tolist()
    changed = (module.labels != before).float().mean().item()
    assert report["changed"] == pytest.approx(changed)
    assert all(isinstance(v, int | float | list) for v in report.values())


def test_encode_and_logits():
    module = make_module()
    z = embedder(module)()
    torch.testing.assert_close(z.norm(dim=1), torch.ones(N))
    logits = embedder(module)(module.logits)
    expected = log_student_t(z, module.centers.detach(), module.scale)
    torch.testing.assert_close(logits, expected)


# -- oracle 10: end to end -------------------------------------------------------------


def squares():
    """Bright squares in one of three places: 100, 40 and 10 images, and the places."""
    rng = np.random.default_rng(0)
    kinds = np.repeat([0, 1, 2], [100, 40, 10])
    images = rng.integers(0, 60, (150, 12, 12))
    for kind, (row, column) in enumerate([(1, 1), (1, 7), (7, 4)]):
        images[kinds == kind, row : row + 4, column : column + 4] += 180
    order = rng.permutation(150)
    return images[order].astype(np.uint8), kinds[order]


@pytest.fixture(scope="module")
def fitted():
    X, kinds = squares()
    model = StatDEC(3, max_epochs=30, batch_size=64, hidden_dim=64, random_state=0)
    return X, kinds, model.fit(X)


def test_squares(fitted):
    X, kinds, model = fitted
    assert balanced_clustering_accuracy(kinds, model.labels_) > 0.95
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.labels_)
    twin = clone(model)
    assert {k: str(v) for k, v in twin.get_params().items()} == {
        k: str(v) for k, v in model.get_params().items()
    }
    assert not hasattr(twin, "labels_")


def test_statistics_of_the_fitted_clusters(fitted):
    X, _, model = fitted
    assert model.cluster_cardinality_.shape == model.cluster_variance_.shape == (3,)
    assert model.cluster_cardinality_.sum() == pytest.approx(1.0, abs=1e-5)
    proba = model.predict_proba(X)
    np.testing.assert_allclose(model.cluster_cardinality_, proba.mean(0), atol=1e-4)
    assert (model.cluster_variance_ > 0).all()
    e = model.transform(X)
    for k, share in enumerate(proba.T):
        mean = share @ e / share.sum()
        variance = share @ np.square(e - mean).mean(1) / share.sum()
        assert model.cluster_variance_[k] == pytest.approx(variance, rel=1e-3)


def test_scores_of_samples(fitted):
    X, _, model = fitted
    score = model.score_samples(X)
    assert score.shape == (150,) and score.dtype == np.float32
    assert (score <= 0).all()
    distance = cdist(model.transform(X), model.cluster_centers_, "sqeuclidean")
    units = model.feature_dim * np.maximum(
        model.cluster_variance_, 0.05 * model.cluster_variance_.mean()
    )
    np.testing.assert_allclose(score, -(distance / units).min(1), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.score_samples(X[::-1])[::-1], score, rtol=1e-4)
    np.testing.assert_allclose(model.score_samples(X[:3]), score[:3], rtol=1e-4)


def test_images_of_nothing_are_less_normal(fitted):
    X, _, model = fitted
    nothing = np.random.default_rng(1).integers(0, 60, X.shape).astype(np.uint8)
    scores = np.concatenate([model.score_samples(X), model.score_samples(nothing)])
    assert roc_auc_score(np.repeat([1, 0], 150), scores) > 0.9


def test_unfitted_scores():
    with pytest.raises(NotFittedError):
        StatDEC().score_samples(np.zeros((3, 8, 8)))


def test_contrastive_representation(stripes):
    X, _ = stripes
    params = {**SMALL, "max_epochs": 3}
    model = StatDEC(**params, representation="contrastive").fit(X)
    plain = StatDEC(**params).fit(X)
    assert model.transform(X).shape == (60, SMALL["hidden_dim"])
    assert plain.transform(X).shape == (60, SMALL["feature_dim"])
    np.testing.assert_array_equal(model.labels_, plain.labels_)
    np.testing.assert_array_equal(model.cluster_centers_, plain.cluster_centers_)
    assert model.score(X) == plain.score(X)
    assert len(model.get_feature_names_out()) == SMALL["hidden_dim"]


def test_history(stripes):
    X, _ = stripes
    model = StatDEC(**{**SMALL, "max_epochs": 4, "warmup": 0.5}).fit(X)
    for number, row in enumerate(model.history_):
        parts = {key for key in row if key.startswith("loss_")}
        joint = {"loss_clustering"} if number >= 2 else set()
        assert parts == {"loss_representation"} | joint
        assert row["loss"] == pytest.approx(sum(row[key] for key in parts), rel=1e-5)
        assert 0 <= row["clamped"] <= 1 and 0 <= row["changed"] <= 1
        assert sum(row["cluster_sizes"]) == len(X) and row["feature_spread"] > 0


@pytest.mark.gpu
@pytest.mark.parametrize("warmup", [0.0, 1.0])
@pytest.mark.parametrize("tau_plus", [0.1, "auto"])
def test_a_step_does_not_wait_for_the_device(warmup, tau_plus):
    module = make_module(device="cuda", warmup=warmup, tau_plus=tau_plus)
    batches = [two_views(device="cuda") for _ in range(2)]
    module.losses(batches[0])
    module.after_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = sum(module.losses(batches[1]).values())  # a wait raises here
        loss.backward()
        module.after_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()
