"""The losses, anchors and reliable images of GCC against values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from sklearn.metrics import pairwise_distances
from small_gcc import unit
from torch.nn import functional as F

from skdeepcluster._engine.batches import WeightedBatches
from skdeepcluster.gcc.anchors import least_distance, move_anchors, reliable_samples
from skdeepcluster.gcc.bank import balanced_weights
from skdeepcluster.gcc.objective import (
    anchor_loss,
    discriminability_loss,
    domain_alignment_loss,
    multi_kernel,
    weighted_mmd,
)

ONE = torch.ones(1, 1)


@pytest.fixture(autouse=True)
def seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def uniform(n):
    return torch.full((1, n), 1 / n)


# -- the discrepancy -------------------------------------------------------------------


def test_kernel_of_two_points():
    a, b = torch.tensor([[0.0]]), torch.tensor([[1.0]])
    mmd = weighted_mmd(a, b, ONE, ONE, 1.0).item()
    widths = (1 / 4, 1 / 2, 1, 2, 4)
    by_hand = 2 - 2 * sum(math.exp(-1 / m) for m in widths) / 5
    assert by_hand == pytest.approx(1.237255, abs=1e-6)
    assert mmd == pytest.approx(by_hand, abs=1e-6)


def test_kernel_against_a_loop():
    a, b, scale = torch.randn(5, 3), torch.randn(4, 3), 1.7
    squares = pairwise_distances(a, b, metric="sqeuclidean")
    expected = sum(np.exp(-squares / (m * scale)) for m in (0.25, 0.5, 1, 2, 4)) / 5
    np.testing.assert_allclose(multi_kernel(a, b, scale), expected, rtol=1e-5)


def test_discrepancy_of_a_sample_with_itself():
    x = torch.randn(20, 5)
    weights = torch.rand(3, 20)
    weights = weights / weights.sum(1, keepdim=True)
    mmd = weighted_mmd(x, x, weights, weights, 2.0)
    assert mmd.abs().max() < 1e-6


def test_discrepancy_is_symmetric_and_grows_with_a_shift():
    a, b = torch.randn(30, 4), torch.randn(20, 4)
    wa, wb = torch.rand(1, 30), torch.rand(1, 20)
    wa, wb = wa / wa.sum(), wb / wb.sum()
    one, other = weighted_mmd(a, b, wa, wb, 3.0), weighted_mmd(b, a, wb, wa, 3.0)
    torch.testing.assert_close(one, other)
    shifted = [weighted_mmd(a, a + by, wa, wa, 3.0).item() for by in (0.0, 0.5, 1.0)]
    assert -1e-6 < shifted[0] < shifted[1] < shifted[2]


def test_discrepancy_is_not_negative():
    for _ in range(50):
        a, b = torch.randn(2, 6, 2).double()
        wa, wb = torch.rand(2, 1, 6).double()
        wa, wb = wa / wa.sum(), wb / wb.sum()
        assert weighted_mmd(a, b, wa, wb, 1.0) > -1e-12


def test_discrepancy_knows_no_order_and_no_copies():
    a, b, wb = torch.randn(12, 4), torch.randn(9, 4), uniform(9)
    wa = torch.rand(1, 12)
    wa = wa / wa.sum()
    expected = weighted_mmd(a, b, wa, wb, 1.0)
    order = torch.randperm(12)
    torch.testing.assert_close(
        weighted_mmd(a[order], b, wa[:, order], wb, 1.0), expected
    )
    twice = weighted_mmd(torch.cat([a, a]), b, torch.cat([wa, wa], 1) / 2, wb, 1.0)
    torch.testing.assert_close(twice, expected)


def aligned(real, generated, labels, drawn, k, share, trust=None, class_weights=None):
    trust = torch.ones(len(real)) if trust is None else trust
    ones = torch.ones(k) if class_weights is None else class_weights
    return domain_alignment_loss(real, generated, labels, drawn, ones, trust, share)


def two_classes(n=20):
    labels = torch.arange(n) % 2
    points = unit(2, 6)[labels] + 0.05 * torch.randn(n, 6)
    return F.normalize(points, dim=1), labels


def test_mismatched_classes_raise_the_class_term_only():
    real, labels = two_classes()
    generated = real[torch.randperm(20)]
    right = torch.cdist(generated, real).argmin(1) % 2
    good, bad = (
        aligned(real, generated, labels, drawn, 2, share=1.0)
        for drawn in (right, 1 - right)
    )
    assert good < 1e-3 and bad > 0.1
    everyone = [
        aligned(real, generated, labels, drawn, 2, share=0.0)
        for drawn in (right, 1 - right)
    ]
    assert everyone[0] == everyone[1] and everyone[0].abs() < 1e-5


def test_a_class_that_is_absent_contributes_nothing():
    real, labels = two_classes()
    generated = F.normalize(real + 0.3 * torch.randn(20, 6), dim=1).requires_grad_()
    two = aligned(real, generated, labels, labels, 2, share=1.0)
    five = aligned(real, generated, labels, labels, 5, share=1.0)
    torch.testing.assert_close(two, five)
    # one image on one side is not enough of a class
    alone = torch.where(torch.arange(20) == 19, 2, labels)
    left_out = aligned(real[:19], generated, labels[:19], alone, 3, share=1.0)
    assert left_out.isfinite()
    nothing = aligned(
        real, generated, labels, labels + 2, 4, share=1.0, trust=torch.ones(20)
    )
    assert nothing.item() == 0
    nothing.backward()
    assert generated.grad.isfinite().all()


def test_untrusted_images_do_not_count_in_their_class():
    real, labels = two_classes()
    trust = (torch.arange(20) > 5).float()
    # the others' labels are all that changes: the scale of the kernels stays
    other = torch.where(trust > 0, labels, 1 - labels)
    weights = torch.ones(2)
    one, two, wrong = (
        domain_alignment_loss(real, real.flip(0), y, labels.flip(0), weights, t, 1.0)
        for y, t in ((labels, trust), (other, trust), (other, torch.ones(20)))
    )
    assert one == two and wrong > one


def test_the_global_term_is_balanced_over_classes():
    # nine images of one class and one of the other, against one generated of each
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    real = torch.cat([a.repeat(9, 1), b])
    labels = torch.tensor([0] * 9 + [1])
    generated, drawn = torch.cat([a, b]), torch.tensor([0, 1])
    weights = 1 / torch.tensor([9.0, 1.0])
    balanced = aligned(real, generated, labels, drawn, 2, 0.0, class_weights=weights)
    assert balanced.abs() < 1e-6
    assert aligned(real, generated, labels, drawn, 2, 0.0) > 0.05


def test_alignment_moves_both_sides():
    real, labels = two_classes()
    generated = F.normalize(real + 0.5 * torch.randn(20, 6), dim=1)
    real, generated = real.clone().requires_grad_(), generated.requires_grad_()
    aligned(real, generated, labels, labels, 2, 0.5).backward()
    assert real.grad.abs().sum() > 0 and generated.grad.abs().sum() > 0


# -- anchors ---------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "value"), [(0.2, 4.0852e-4), (1.0, 0.796614)])
def test_discriminability_on_the_anchors(temperature, value):
    anchors, labels = torch.eye(10), torch.arange(10).repeat(3)
    loss = discriminability_loss(anchors[labels], labels, anchors, temperature).item()
    by_hand = math.log(1 + 9 * math.exp(-2 / temperature))
    assert by_hand == pytest.approx(value, rel=1e-4)
    assert loss == pytest.approx(by_hand, rel=1e-3)


def test_discriminability_draws_to_the_anchor_and_leaves_it():
    anchors = torch.eye(4).requires_grad_()
    labels = torch.tensor([0, 1, 2])
    features = unit(3, 4)
    nearer = features.clone()
    nearer[0] = F.normalize(features[0] + 0.2 * anchors[0].detach(), dim=0)
    far, near = (
        discriminability_loss(x.requires_grad_(), labels, anchors, 0.2)
        for x in (features, nearer)
    )
    assert near < far
    far.backward()
    assert features.grad.abs().sum() > 0 and anchors.grad is None


def test_anchor_loss_on_the_anchors():
    anchors, labels = torch.eye(10), torch.arange(10)
    loss = anchor_loss(anchors, labels, torch.ones(10, dtype=bool), anchors, 0.5)
    assert loss.item() == pytest.approx(math.log(1 + 9 * math.exp(-2)), abs=1e-6)
    assert loss.item() == pytest.approx(0.796614, abs=1e-6)


def test_unreliable_images_are_not_drawn():
    anchors, labels = torch.eye(5), torch.arange(5)
    features = unit(5, 5).requires_grad_()
    nothing = anchor_loss(features, labels, torch.zeros(5, dtype=bool), anchors, 0.1)
    nothing.backward()
    assert nothing.item() == 0 and features.grad.isfinite().all()
    reliable = torch.tensor([True, True, False, True, True])
    other = labels.clone()
    other[2] = 4
    one, two = (
        anchor_loss(features, y, reliable, anchors, 0.1) for y in (labels, other)
    )
    assert one == two
    assert anchor_loss(features, other, ~reliable, anchors, 0.1) != anchor_loss(
        features, labels, ~reliable, anchors, 0.1
    )


def test_anchors_move_to_the_means_of_their_classes():
    anchors = torch.eye(3)
    features = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    moved = move_anchors(anchors, features, torch.tensor([0, 0]), 0.9)
    expected = np.array([0.9, 0.05, 0.05])
    np.testing.assert_allclose(moved[0], expected / np.linalg.norm(expected), rtol=1e-6)
    assert torch.equal(moved[1:], anchors[1:])
    jump = move_anchors(anchors, features[:1], torch.tensor([2]), 0.0)
    assert torch.equal(jump[2], features[0])


def test_least_distance_of_anchors():
    anchors = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.5]])
    assert least_distance(anchors) == pytest.approx(1.5)
    assert least_distance(anchors[:2]) == pytest.approx(5.0)
    assert least_distance(anchors[:1]) == least_distance(anchors[:0]) == math.inf


# -- pseudo-labels ---------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 1.0])
def test_reliable_images_of_each_cluster(share):
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate((100, 30, 5, 0, 10))])
    labels = labels[torch.randperm(len(labels))]
    confidence = torch.rand(len(labels))
    reliable = reliable_samples(confidence, labels, 5, share)
    for k, n in enumerate((100, 30, 5, 0, 10)):
        inside = reliable[labels == k]
        assert inside.sum() == max(math.ceil(round(share * n, 9)), min(n, 8))
        if 0 < inside.sum() < n:
            c = confidence[labels == k]
            assert c[inside].min() >= c[~inside].max()
    assert reliable.all() == (share == 1.0)


def test_balanced_draws():
    labels = torch.tensor([0] * 300 + [1] * 30 + [2] * 3)
    weights = balanced_weights(labels, 3, null_mass=0.0)
    drawn = torch.cat(list(WeightedBatches(weights, 100, 100)))
    counts = np.bincount(labels[drawn], minlength=3)
    assert counts.sum() == 10_000
    assert chisquare(counts).pvalue > 1e-3


def test_images_without_a_class_are_drawn_twice_as_often_as_a_class():
    labels = torch.tensor([0] * 50 + [1] * 7 + [2] * 20)
    weights = balanced_weights(labels, 2, null_mass=2.0)
    mass = [weights[labels == k].sum().item() for k in range(3)]
    np.testing.assert_allclose(mass, [1, 1, 2], rtol=1e-5)
    assert torch.equal(weights[labels == 0], torch.full((50,), 1 / 50))
