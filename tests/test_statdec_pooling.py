"""Pooling to statistics, and the maps that are pooled."""

import math

import numpy as np
import pytest
import torch
from small_statdec import facts, make_module, step
from torch import nn

from skdeepcluster import StatDEC
from skdeepcluster.backbones import make_backbone
from skdeepcluster.statdec import StatisticsPooling
from skdeepcluster.statdec.networks import StatisticsNetworks, make_feature_map
from skdeepcluster.statdec.pooling import GridStatistics

EPS = 1e-5


def pool(x, mask=None, **params):
    """Mean, second moment and cardinality of a set, as arrays of C columns each."""
    x = torch.as_tensor(x, dtype=torch.float32)
    channels = x.shape[1]
    out = StatisticsPooling(**params)(x, mask)
    assert out.dtype == torch.float32
    return [part.numpy() for part in out.split(channels, dim=1)]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# -- one set ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("second", "spread"), [("var", 1.25), ("std", math.sqrt(1.25 + EPS))]
)
@pytest.mark.parametrize(
    ("cardinality", "expected"), [("active", 1.237504), ("count", math.log(5))]
)
def test_four_numbers(second, spread, cardinality, expected):
    parts = pool([[[0.0, 1, 2, 3]]], second=second, cardinality=cardinality)
    mean, moment, size = (float(part.item()) for part in parts)
    assert mean == pytest.approx(1.5, abs=1e-6)
    assert moment == pytest.approx(spread, abs=1e-6)
    assert size == pytest.approx(expected, abs=1e-6)


def test_active_count_of_four_numbers():
    # the size is log(1 + count); of 0, 1, 2 and 3 the count is short of 4
    _, _, size = pool([[[0.0, 1, 2, 3]]])
    assert math.expm1(size.item()) == pytest.approx(2.446998, abs=1e-5)


def test_moments_equal_numpy():
    x = np.random.default_rng(0).normal(3, 2, (5, 4, 30)).astype(np.float32)
    mean, var, size = pool(x, second="var")
    np.testing.assert_allclose(mean, x.mean(2), rtol=0, atol=1e-6)
    np.testing.assert_allclose(var, x.var(2), rtol=1e-6, atol=1e-6)
    active = (1 - np.exp(-np.maximum(x.astype(float), 0))).sum(2)
    np.testing.assert_allclose(size, np.log1p(active), rtol=0, atol=1e-6)
    _, std, _ = pool(x)
    np.testing.assert_allclose(std, np.sqrt(x.var(2) + EPS), rtol=1e-6, atol=1e-6)


def test_variance_beside_a_large_mean():
    # the mean square less the squared mean would be all rounding here
    x = 1000 + np.random.default_rng(0).random((3, 2, 50))
    _, var, _ = pool(x, second="var")
    x = x.astype(np.float32).astype(float)
    np.testing.assert_allclose(var, x.var(2), rtol=1e-3)


def test_a_map_is_a_set_of_positions():
    x = torch.randn(5, 3, 4, 6)
    pooling = StatisticsPooling()
    torch.testing.assert_close(pooling(x), pooling(x.flatten(2)))
    mask = torch.rand(5, 4, 6)
    torch.testing.assert_close(pooling(x, mask), pooling(x.flatten(2), mask.flatten(1)))
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pooling(last), pooling(x))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cardinality", ["active", "count", None])
def test_order_does_not_matter(masked, cardinality):
    x, order = torch.randn(5, 3, 12), torch.randperm(12)
    mask = (torch.rand(5, 12) > 0.4).float() if masked else None
    pooling = StatisticsPooling(cardinality=cardinality)
    out = pooling(x, mask)
    permuted = pooling(x[..., order], None if mask is None else mask[:, order])
    torch.testing.assert_close(permuted, out)


@pytest.mark.parametrize("value", [1e6, -1e6, math.inf, math.nan])
@pytest.mark.parametrize("cardinality", ["active", "count", None])
def test_masked_positions_have_no_influence(cardinality, value):
    x, mask = torch.randn(5, 3, 12), torch.ones(5, 12)
    mask[:, 8:] = 0
    wild = x.clone()
    wild[..., 8:] = value
    pooling = StatisticsPooling(cardinality=cardinality)
    torch.testing.assert_close(pooling(wild, mask), pooling(x[..., :8]))
    wild.requires_grad_()
    pooling(wild, mask).square().sum().backward()
    assert wild.grad.isfinite().all()
    assert not wild.grad[..., 8:].any()
    assert wild.grad[..., :8].abs().max() > 0


def test_no_mask_is_a_mask_of_ones():
    x = torch.randn(5, 3, 12)
    pooling = StatisticsPooling()
    torch.testing.assert_close(pooling(x, torch.ones(5, 12)), pooling(x))
    everywhere = torch.ones(5, 12, dtype=torch.bool)
    torch.testing.assert_close(pooling(x, everywhere), pooling(x))


def test_weights_are_fractions_of_positions():
    x, weights = torch.randn(1, 2, 3), torch.tensor([[1.0, 0.5, 0.5]])
    # twice as many positions, each of half the weight: 1, 1/2, 1/2 of 4, 2, 2
    repeated = x[..., [0, 0, 1, 2]]
    mean, var, size = pool(x, weights, second="var")
    expected = pool(repeated, second="var")
    np.testing.assert_allclose(mean, expected[0], atol=1e-6)
    np.testing.assert_allclose(var, expected[1], atol=1e-6)
    np.testing.assert_allclose(np.expm1(size), np.expm1(expected[2]) / 2, atol=1e-6)
    *_, count = StatisticsPooling(cardinality="count")(x, weights)[0]
    assert count.item() == pytest.approx(math.log(3), abs=1e-6)


def test_a_set_of_nothing_is_finite():
    x = torch.randn(2, 3, 4, requires_grad=True)
    out = StatisticsPooling()(x, torch.zeros(2, 4))
    out.sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()
    np.testing.assert_allclose(out.detach()[:, :3], 0)
    np.testing.assert_allclose(out.detach()[:, 6:], 0)


# -- cardinality -----------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 4, 9])
def test_a_set_and_its_double(n):
    x = torch.randn(2, 3, n)
    twice = x.repeat(1, 1, 2)
    for cardinality in ("active", "count", None):
        once = StatisticsPooling(cardinality=cardinality)(x)
        double = StatisticsPooling(cardinality=cardinality)(twice)
        torch.testing.assert_close(double[:, :6], once[:, :6])
        gain = double[:, 6:] - once[:, 6:]
        if cardinality == "count":
            assert gain.shape == (2, 1)
            expected = math.log((1 + 2 * n) / (1 + n))
            torch.testing.assert_close(gain, torch.full_like(gain, expected))
        elif cardinality == "active":
            counts = torch.expm1(once[:, 6:])
            torch.testing.assert_close(torch.expm1(double[:, 6:]), 2 * counts)
        else:
            assert gain.shape == (2, 0)


@pytest.mark.parametrize("value", [0.3, 1.0, 20.0])
def test_constant_positive_map(value):
    x = torch.full((2, 3, 5, 4), value)
    mean, var, size = pool(x, second="var")
    np.testing.assert_allclose(mean, value, rtol=1e-6)
    np.testing.assert_allclose(var, 0, atol=1e-10)
    active = 20 * (1 - math.exp(-value))
    np.testing.assert_allclose(np.expm1(size), active, rtol=1e-5)


@pytest.mark.parametrize("second", ["std", "var"])
def test_constant_negative_map(second):
    x = torch.full((2, 3, 5, 4), -0.7, requires_grad=True)
    out = StatisticsPooling(second=second)(x)
    assert torch.equal(out[:, 6:], torch.zeros(2, 3))
    out[:, 3:6].sum().backward()
    assert x.grad.isfinite().all()
    torch.testing.assert_close(x.grad, torch.zeros_like(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("cardinality", "more"), [("active", 3), ("count", 1), (None, 0)]
)
@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 4, 5), (2, 3, 1), (1, 3, 1, 1)])
def test_widths(cardinality, more, shape):
    out = StatisticsPooling(cardinality=cardinality)(torch.randn(shape))
    assert out.shape == (shape[0], 6 + more)


def test_gradients_are_those_of_the_formula():
    pooling = StatisticsPooling().double()
    x = torch.rand(2, 2, 4, dtype=torch.float64) + 0.5
    x.requires_grad_()
    pooling(x).sum().backward()
    y = x.detach().clone().requires_grad_()
    parts = [
        y.mean(2),
        (y.var(2, correction=0) + EPS).sqrt(),
        torch.log1p((1 - torch.exp(-y.clamp_min(0))).sum(2)),
    ]
    sum(part.sum() for part in parts).backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-5)


def test_pooling_computes_in_float32_under_autocast():
    x = 100 + torch.randn(4, 3, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        out = StatisticsPooling()(x)
        half = StatisticsPooling()(x.bfloat16())
    torch.testing.assert_close(out, StatisticsPooling()(x))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, StatisticsPooling()(x.bfloat16().float()))


# -- the grid --------------------------------------------------------------------------


@pytest.mark.parametrize("cardinality", ["active", "count", None])
@pytest.mark.parametrize("grid", [1, 2, 3])
@pytest.mark.parametrize("size", [(6, 6), (7, 7), (4, 5), (3, 8)])
def test_cells_of_the_grid_are_pooled_alone(size, grid, cardinality):
    x = torch.randn(4, 3, *size)
    module = GridStatistics(grid, cardinality)
    pooled = module(x)
    assert pooled.shape == (4, module.columns(3))

    def slices(length):  # as adaptive pooling divides
        return [
            slice(i * length // grid, -(-(i + 1) * length // grid)) for i in range(grid)
        ]

    pooling = StatisticsPooling(cardinality=cardinality)
    cells = [
        pooling(x[:, :, rows, columns])
        for rows in slices(size[0])
        for columns in slices(size[1])
    ]
    expected = torch.cat(cells, dim=1)
    torch.testing.assert_close(pooled, expected)
    means = torch.cat([cell[:, :3] for cell in cells], dim=1)
    average = nn.functional.adaptive_avg_pool2d(x, grid).flatten(1)
    torch.testing.assert_close(means.sort(1).values, average.sort(1).values)


@pytest.mark.parametrize("size", [(4, 4), (6, 4), (5, 5)])
def test_gradients_of_the_grid_are_those_of_its_cells(size):
    x = torch.randn(6, 3, *size).relu().contiguous(memory_format=torch.channels_last)
    x, y = (x.clone().requires_grad_() for _ in range(2))
    module, weights = GridStatistics(2), torch.randn(6, 2 * 2 * 3 * 3)
    (module(x) * weights).sum().backward()
    rows, columns = ((slice(-(-s // 2)), slice(s // 2, s)) for s in size)
    cells = [y[:, :, r, c].flatten(2) for r in rows for c in columns]
    parts = [
        (cell.mean(2), (cell.var(2, correction=0) + EPS).sqrt(), active(cell))
        for cell in cells
    ]
    expected = torch.cat([part for cell in parts for part in cell], dim=1)
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-6)
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-6)


def active(x):
    return torch.log1p((1 - torch.exp(-x.relu())).sum(2))


def test_dead_channels_have_finite_gradients():
    x = torch.randn(6, 3, 4, 4)
    x[:, 1] = 0
    x.requires_grad_()
    GridStatistics(2)(x).square().sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("pooling", ["statistics", "avg"])
@pytest.mark.parametrize(
    ("size", "grid", "cells"), [(28, 2, 4), (28, 9, 16), (16, 3, 4), (8, 2, 1)]
)
def test_the_grid_has_no_more_cells_than_the_map_has_positions(
    size, grid, cells, pooling
):
    p = StatDEC(backbone="conv", pooling=pooling, grid=grid, feature_dim=8)
    networks = StatisticsNetworks(p, facts((1, size, size)))
    assert networks(torch.rand(3, 1, size, size)).shape == (3, 16)
    columns = cells * 128 * (3 if pooling == "statistics" else 1)
    assert networks.representation[0].num_features == columns


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
    # the one of an mlp backbone is as wide as its output
    assert len([m for m in norms if m.num_features == columns]) == (
        3 if params.get("backbone") == "mlp" else 2
    )
    pools = [m for m in online.values() if isinstance(m, StatisticsPooling)]
    statistics = params.get("pooling") != "avg" and params.get("backbone") != "mlp"
    assert bool(pools) == statistics
    assert math.isfinite(step(module)["clustering"])


# -- feature maps ----------------------------------------------------------------------


SHAPES = [(1, 16, 16), (1, 28, 28), (3, 32, 32), (4, 33, 20), (1, 1, 8), (2, 3, 3)]
OWN = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 7))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "grid"), [("conv", 2), ("resnet18", 1)])
def test_feature_map_is_the_backbone_without_its_pooling(name, grid, shape):
    torch.manual_seed(1)
    network, (channels, *size) = make_feature_map(name, shape)
    torch.manual_seed(1)
    whole, width = make_backbone(name, shape)
    assert channels * grid**2 == width
    assert network.training
    pairs = zip(network.state_dict().values(), whole.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)  # no statistic has moved
    x = torch.randn(3, *shape)
    with torch.no_grad():
        maps = network.eval()(x)
        pooled = nn.functional.adaptive_avg_pool2d(maps, grid).flatten(1)
        torch.testing.assert_close(pooled, whole.eval()(x))
    assert maps.shape == (3, channels, *size) and maps.ndim == 4


@pytest.mark.parametrize(
    "backbone", ["mlp", "squeezenet1_0", OWN, nn.Flatten()], ids=str
)
def test_other_backbones_have_no_feature_map(backbone):
    shape = (3, 32, 32) if isinstance(backbone, str) else (1, 8, 8)
    network, features = make_feature_map(backbone, shape)
    assert network(torch.randn(2, *shape)).shape == (2, *features)
