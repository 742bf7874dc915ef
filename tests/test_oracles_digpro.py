"""The numbers of DigPro's formulas, computed by hand or by slow loops."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from skdeepcluster.digpro.objective import (
    ABSENT,
    group_loss,
    prototype_loss,
    view_alignment_loss,
)

TAU_P, TAU_G = 0.5, 0.1


def eye(k=3):
    return torch.eye(k, dtype=torch.float64)


def randn(*shape, grad=False):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


def unit(x):
    return F.normalize(x, dim=1)


def at_angle(*degrees):
    radians = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([radians.cos(), radians.sin()], dim=1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# -- slow references, written from the equations ---------------------------------------


def slow_prototype_loss(q, k, labels, n_clusters, temperature):
    def prototype(rows, cluster):
        own = [rows[i] / rows[i].norm() for i in range(len(rows)) if labels[i] == c]
        mean = sum(own) / len(own)
        return mean / mean.norm()

    present = sorted({int(label) for label in labels})
    va, vb = {}, {}
    for c in present:
        va[c], vb[c] = prototype(q, c), prototype(k, c)
    total = 0.0
    for c in present:
        own = float(va[c] @ vb[c]) / temperature
        exps = math.exp(own)
        for other in range(n_clusters):
            if other == c:
                continue
            logit = ABSENT
            if other in va:
                logit = float(va[c] @ va[other]) / temperature
            exps += math.exp(logit)
        total += -own + math.log(exps)
    return total / len(present)


def slow_group_loss(u, q, k, groups, beta, temperature):
    def nearest(row):
        cosines = [float(row @ g / (row.norm() * g.norm())) for g in groups]
        return cosines.index(max(cosines))

    owner = [nearest(row) for row in q]
    moved = groups.clone()
    for m in range(len(groups)):
        rows = [q[i] for i in range(len(q)) if owner[i] == m]
        if rows:
            moved[m] = beta * groups[m] + (1 - beta) * sum(rows) / len(rows)
    total = 0.0
    for i in range(len(u)):
        logits = [
            float(u[i] @ g / (u[i].norm() * g.norm())) / temperature for g in moved
        ]
        log_sum = math.log(sum(math.exp(logit) for logit in logits))
        total += log_sum - logits[nearest(k[i])]
    return total / len(u), moved


# -- oracles 1 to 3: prototype aggregation ---------------------------------------------


@pytest.mark.parametrize(
    ("prototypes", "expected", "closed_form"),
    [
        (eye(), 0.239545, math.log(1 + 2 * math.exp(-2))),
        (at_angle(0, 120, 240), 0.094923, math.log(1 + 2 * math.exp(-3))),
        (torch.ones(3, 4, dtype=torch.float64), 1.098612, math.log(3)),
    ],
    ids=["orthonormal", "simplex", "collapsed"],
)
def test_prototype_loss_of_regular_prototypes(prototypes, expected, closed_form):
    loss = prototype_loss(
        prototypes, unit(prototypes), torch.arange(3), 3, TAU_P
    ).item()
    assert loss == pytest.approx(expected, abs=1e-6)
    assert loss == pytest.approx(closed_form, abs=1e-12)


@pytest.mark.parametrize("rho", [-0.2, 0.0, 0.3, 0.9])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_prototype_loss_of_equal_cosines(rho, temperature):
    k = 4
    cosines = (1 - rho) * eye(k) + rho
    rows = torch.linalg.cholesky(cosines)
    loss = prototype_loss(rows, rows, torch.arange(k), k, temperature).item()
    expected = math.log(1 + (k - 1) * math.exp((rho - 1) / temperature))
    assert loss == pytest.approx(expected, abs=1e-12)


def test_prototype_loss_by_hand():
    va, vb = at_angle(0, 60), at_angle(30, 60)
    loss = prototype_loss(va, vb, torch.arange(2), 2, TAU_P).item()
    cos30, cos60 = math.cos(math.pi / 6), 0.5
    by_hand = 0.5 * (
        math.log(1 + math.exp((cos60 - cos30) / 0.5))
        + math.log(1 + math.exp((cos60 - 1) / 0.5))
    )
    assert loss == pytest.approx(0.352963, abs=1e-6)
    assert loss == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("absent", range(4))
def test_prototype_loss_with_an_empty_cluster(absent):
    labels = torch.tensor([c for c in range(4) if c != absent])
    loss = prototype_loss(eye(), eye(), labels, 4, TAU_P).item()
    assert loss == pytest.approx(0.239550, abs=1e-6)
    expected = math.log(1 + 2 * math.exp(-2) + math.exp(-12))
    assert loss == pytest.approx(expected, abs=1e-12)


def test_prototype_loss_of_one_present_cluster_is_about_zero():
    q = randn(5, 4)
    labels = torch.full((5,), 2)
    loss = prototype_loss(q, unit(q), labels, 6, TAU_P).item()
    assert loss == pytest.approx(math.log(1 + 5 * math.exp(-12)), abs=1e-12)


def test_prototype_loss_ignores_the_ids_of_clusters():
    q, k = randn(30, 5), unit(randn(30, 5))
    labels = torch.randint(4, (30,))
    loss = prototype_loss(q, k, labels, 6, TAU_P)
    renamed = torch.randperm(6)[labels]
    torch.testing.assert_close(prototype_loss(q, k, renamed, 6, TAU_P), loss)


def test_prototype_loss_ignores_the_length_of_projections():
    q, k = randn(30, 5, grad=True), unit(randn(30, 5))
    labels = torch.randint(4, (30,))
    loss = prototype_loss(q, k, labels, 4, TAU_P)
    scaled = q.detach() * torch.rand(30, 1, dtype=torch.float64).add(0.1)
    torch.testing.assert_close(prototype_loss(scaled, k, labels, 4, TAU_P), loss)

    (gradient,) = torch.autograd.grad(loss, q)
    assert gradient.norm() > 1e-3
    radial = (gradient * q).sum(1)
    assert radial.abs().max() < 1e-12


# -- oracles 4 to 6: dynamic grouping --------------------------------------------------


def test_group_loss_of_exact_hits():
    q = torch.tensor([[2.0, 0, 0], [0, 4, 0]], dtype=torch.float64)
    loss, moved = group_loss(q, q, eye()[:2], eye(), 0.99, TAU_G)
    assert loss.item() == pytest.approx(9.08e-5, abs=1e-7)
    assert loss.item() == pytest.approx(math.log(1 + 2 * math.exp(-10)), abs=1e-12)
    expected = torch.diag(torch.tensor([1.01, 1.03, 1.0], dtype=torch.float64))
    torch.testing.assert_close(moved, expected)


def test_group_loss_of_a_wrong_side_tie():
    q = torch.tensor([[1.0, 1, 0]], dtype=torch.float64) / math.sqrt(2)
    loss, moved = group_loss(q, q, eye()[1:2], eye(), 1.0, TAU_G)
    assert loss.item() == pytest.approx(0.693572, abs=1e-6)
    expected = math.log(2 + math.exp(-10 / math.sqrt(2)))
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert torch.equal(moved, eye())


@pytest.mark.parametrize("momentum", [1.0, 0.99, 0.5])
def test_group_loss_reaches_projections_through_moved_groups_only(momentum):
    u, q = randn(20, 5), randn(20, 5, grad=True)
    loss, _ = group_loss(u, q, unit(randn(20, 5)), randn(4, 5), momentum, TAU_G)
    if momentum == 1.0:
        gradient = 0.0 if not loss.requires_grad else _gradient(loss, q)
        assert np.all(np.asarray(gradient) == 0.0)
    else:
        assert np.abs(_gradient(loss, q)).max() > 1e-6


def _gradient(loss, x):
    (gradient,) = torch.autograd.grad(loss, x, allow_unused=True)
    return 0.0 if gradient is None else gradient.numpy()


def test_group_loss_reaches_predictions_but_not_targets():
    u, q = randn(20, 5, grad=True), randn(20, 5)
    k = unit(randn(20, 5)).requires_grad_()
    loss, _ = group_loss(u, q, k, randn(4, 5), 0.99, TAU_G)
    to_u, to_k = torch.autograd.grad(loss, (u, k), allow_unused=True)
    assert to_u.abs().max() > 1e-4
    assert to_k is None


def test_moved_groups_carry_gradient_scaled_by_the_momentum():
    q = randn(1, 5, grad=True)
    _, moved = group_loss(q.detach(), q, unit(randn(1, 5)), randn(1, 5), 0.99, TAU_G)
    (gradient,) = torch.autograd.grad(moved.sum(), q)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.01))


@pytest.mark.parametrize("scaled", ["u", "k", "groups"])
def test_group_loss_ignores_scale(scaled):
    parts = {"u": randn(20, 5), "k": unit(randn(20, 5)), "groups": randn(4, 5)}
    q = randn(20, 5)

    def loss():
        return group_loss(parts["u"], q, parts["k"], parts["groups"], 1.0, TAU_G)[0]

    before = loss()
    factor = torch.rand(len(parts[scaled]), 1, dtype=torch.float64).add(0.2)
    parts[scaled] = parts[scaled] * factor
    torch.testing.assert_close(loss(), before)


@pytest.mark.parametrize("momentum", [1.0, 0.99, 0.5])
def test_group_loss_ignores_the_order_of_groups(momentum):
    u, q, k, groups = randn(20, 5), randn(20, 5), unit(randn(20, 5)), randn(4, 5)
    order = torch.randperm(4)
    loss, moved = group_loss(u, q, k, groups, momentum, TAU_G)
    loss_of_order, moved_of_order = group_loss(u, q, k, groups[order], momentum, TAU_G)
    torch.testing.assert_close(loss_of_order, loss)
    torch.testing.assert_close(moved_of_order, moved[order])


def test_empty_groups_stay():
    q = eye()[:1].repeat(6, 1)
    _, moved = group_loss(q, q, q, eye(), 0.5, TAU_G)
    assert torch.equal(moved[1:], eye()[1:])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("momentum", [1.0, 0.9])
def test_group_loss_equals_the_loops(seed, momentum):
    torch.manual_seed(seed)
    u, q, k, groups = randn(25, 6), randn(25, 6), unit(randn(25, 6)), randn(5, 6)
    loss, moved = group_loss(u, q, k, groups, momentum, TAU_G)
    slow, slow_moved = slow_group_loss(u, q, k, groups, momentum, TAU_G)
    assert loss.item() == pytest.approx(slow, abs=1e-10)
    torch.testing.assert_close(moved, slow_moved)


@pytest.mark.parametrize("n_clusters", [4, 7])
@pytest.mark.parametrize("seed", range(3))
def test_prototype_loss_equals_the_loops(seed, n_clusters):
    torch.manual_seed(seed)
    q, k, labels = randn(25, 6), unit(randn(25, 6)), torch.randint(4, (25,))
    loss = prototype_loss(q, k, labels, n_clusters, TAU_P).item()
    slow = slow_prototype_loss(q, k, labels, n_clusters, TAU_P)
    assert loss == pytest.approx(slow, abs=1e-10)


def test_alignment_loss_equals_the_loops():
    u, k = randn(10, 5), unit(randn(10, 5))
    cosines = [float(a @ b / a.norm()) for a, b in zip(u, k, strict=True)]
    assert view_alignment_loss(u, k).item() == pytest.approx(-2 * np.mean(cosines))
    assert view_alignment_loss(k, k).item() == pytest.approx(-2.0)
    assert view_alignment_loss(-k, k).item() == pytest.approx(2.0)


@pytest.mark.parametrize("loss", ["alignment", "group", "prototype"])
def test_losses_of_float32_are_close_to_float64(loss):
    u, q, k, groups = randn(25, 6), randn(25, 6), unit(randn(25, 6)), randn(5, 6)
    labels = torch.randint(5, (25,))

    def value(u, q, k, groups):
        if loss == "alignment":
            return view_alignment_loss(u, k)
        if loss == "group":
            return group_loss(u, q, k, groups, 0.99, TAU_G)[0]
        return prototype_loss(q, k, labels, 5, TAU_P)

    single = value(u.float(), q.float(), k.float(), groups.float())
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(value(u, q, k, groups).item(), abs=1e-5)
