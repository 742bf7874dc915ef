import math

import pytest
import torch
from torch.nn import functional as F

from skdeepcluster.losses import nt_xent


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def randn(*shape, grad=False):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


def slow_nt_xent(a, b, temperature):
    n = len(a)
    rows = [row / row.norm() for row in [*a, *b]]
    total = 0.0
    for i in range(2 * n):
        positive = i + n if i < n else i - n
        exps = [math.exp(float(rows[i] @ row) / temperature) for row in rows]
        others = sum(exps[:i] + exps[i + 1 :])
        total -= math.log(exps[positive] / others)
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_equals_the_loops(n, temperature):
    a, b = randn(n, 5), randn(n, 5)
    expected = slow_nt_xent(a, b, temperature)
    assert nt_xent(a, b, temperature).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("n", [2, 3, 8])
def test_equal_views_of_orthonormal_rows(n, temperature):
    # one positive of cosine 1 among 2 n - 2 rows of cosine 0
    a = torch.eye(n, dtype=torch.float64)
    expected = math.log(1 + (2 * n - 2) * math.exp(-1 / temperature))
    assert nt_xent(a, a, temperature).item() == pytest.approx(expected, abs=1e-12)


def test_known_value():
    # n = 2, temperature 0.5: log(1 + 2 exp(-2))
    a = torch.eye(2, dtype=torch.float64)
    assert nt_xent(a, a, 0.5).item() == pytest.approx(0.239545, abs=1e-6)


@pytest.mark.parametrize("n", [2, 9])
def test_collapsed_rows_cost_the_log_of_the_candidates(n):
    a = torch.ones(n, 4, dtype=torch.float64)
    assert nt_xent(a, a, 0.5).item() == pytest.approx(math.log(2 * n - 1), abs=1e-12)


def test_one_image_has_nothing_to_tell_apart():
    loss = nt_xent(randn(1, 4), randn(1, 4), 0.5).item()
    assert loss == pytest.approx(0.0, abs=1e-12)


def test_symmetric_and_free_of_scale_and_order():
    a, b = randn(6, 4), randn(6, 4)
    loss = nt_xent(a, b, 0.5)
    torch.testing.assert_close(nt_xent(b, a, 0.5), loss)
    torch.testing.assert_close(nt_xent(3 * a, 0.1 * b, 0.5), loss)
    order = torch.randperm(6)
    torch.testing.assert_close(nt_xent(a[order], b[order], 0.5), loss)
    assert nt_xent(a, b[order], 0.5).item() != pytest.approx(loss.item(), abs=1e-6)


def test_temperature_sharpens():
    a = torch.eye(4, dtype=torch.float64)
    losses = [nt_xent(a, a, t).item() for t in (0.05, 0.1, 0.5, 1.0, 10.0)]
    assert losses == sorted(losses)
    assert losses[0] < 1e-7
    assert losses[-1] == pytest.approx(math.log(7), abs=0.1)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_finite_and_reaches_both_views(dtype, temperature):
    a = torch.randn(5, 4, dtype=dtype, requires_grad=True)
    b = torch.randn(5, 4, dtype=dtype, requires_grad=True)
    loss = nt_xent(a, b, temperature)
    loss.backward()
    for x in (a, b):
        assert torch.isfinite(x.grad).all()
        assert x.grad.abs().max() > 0
        # the loss does not see the length of a row
        assert (x.grad * x).sum(1).abs().max() < 1e-5


def test_gradient_of_equal_rows_and_of_zero_rows_is_finite():
    for rows in (torch.ones(4, 3), torch.zeros(4, 3)):
        a, b = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        nt_xent(a, b, 0.1).backward()
        assert torch.isfinite(a.grad).all() and torch.isfinite(b.grad).all()


def test_gradient_equals_finite_differences():
    a, b = randn(4, 3, grad=True), randn(4, 3, grad=True)
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.5), (a, b))


def test_inputs_are_left_alone():
    a, b = randn(4, 3), randn(4, 3)
    before = a.clone(), b.clone()
    nt_xent(a, b, 0.5)
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])


def test_descent_brings_views_together():
    a, b = randn(8, 4, grad=True), randn(8, 4, grad=True)
    optimizer = torch.optim.SGD([a, b], lr=1.0)
    before = nt_xent(a, b, 0.5).item()
    cosine = F.cosine_similarity(a, b).mean().item()
    for _ in range(50):
        optimizer.zero_grad()
        nt_xent(a, b, 0.5).backward()
        optimizer.step()
    assert nt_xent(a, b, 0.5).item() < before
    assert F.cosine_similarity(a, b).mean().item() > max(cosine, 0.5)
