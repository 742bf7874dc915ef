"""From raw values to [0, 1], and from there to those that networks expect."""

import numpy as np
import pytest
import torch
from small_digpro import make
from test_images import N, X

from skdeepcluster._input import scaling as moments
from skdeepcluster._input.images import Images
from skdeepcluster._input.scaling import Scaling


def test_moments_of_uint8():
    scaling = Scaling(Images(X, (3, 8, 8)))
    unit = X / 255
    mean, std = unit.mean((0, 2, 3)), unit.std((0, 2, 3))
    np.testing.assert_allclose(scaling.mean.flatten(), mean, rtol=1e-6)
    np.testing.assert_allclose(scaling.std.flatten(), std, rtol=1e-6)
    raw = torch.tensor(X)
    np.testing.assert_allclose(scaling(raw), unit, atol=1e-7)
    expected = (unit - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)
    standard = scaling.standardize()(scaling(raw))
    np.testing.assert_allclose(standard, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("data", "low", "high"),
    [
        (X / 255 * 0.9, 0, 1),
        (X / 255, 0, 1),
        (X / 255.0 * 16, 0, 16),
        (X * 1.0, 0, 255),
        (X / 255 * 4 - 3, -3, 1),
        (X.astype(np.int64) * 5 - 100, -100, 1175),
    ],
    ids=["in [0, 1]", "[0, 1]", "[0, 16]", "[0, 255]", "[-3, 1]", "integers"],
)
def test_range_of_floats(data, low, high):
    scaling = Scaling(Images(data, (3, 8, 8)))
    unit = (data - low) / (high - low)
    raw = torch.tensor(data, dtype=torch.float32)
    np.testing.assert_allclose(scaling(raw), unit, atol=1e-6)
    np.testing.assert_allclose(scaling.inverse(scaling(raw)), raw, rtol=1e-5, atol=1e-4)
    standard = scaling.standardize()(scaling(raw)).double()
    np.testing.assert_allclose(standard.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std((0, 2, 3), correction=0), 1, rtol=1e-5)


def test_range_is_that_of_all_data(monkeypatch):
    monkeypatch.setattr(moments, "MAX_SAMPLES", 10)
    data = np.zeros((50, 1, 4, 4))
    data[::2], data[7, 0, 1, 1], data[13, 0, 2, 2] = 1, -4, 12  # not among every fifth
    scaling = Scaling(Images(data, (1, 4, 4)))
    assert scaling.low == -4
    assert scaling.span == 16


def test_moments_of_a_sample(monkeypatch):
    monkeypatch.setattr(moments, "MAX_SAMPLES", 10)
    scaling = Scaling(Images(X, (3, 8, 8)))
    expected = (X[::7] / 255).mean((0, 2, 3))  # 64 / 10, rounded up
    np.testing.assert_allclose(scaling.mean.flatten(), expected, rtol=1e-6)


def test_vectors_keep_the_relative_scale_of_their_features():
    rows = np.random.default_rng(0).normal(3, [1.0, 10.0, 0.1], size=(N, 3))
    scaling = Scaling(Images(rows, (1, 1, 3)))
    centred = rows - rows.mean(0)
    expected = centred / np.sqrt(np.mean(centred**2))
    raw = torch.tensor(rows, dtype=torch.float32).reshape(N, 1, 1, 3)
    np.testing.assert_allclose(scaling(raw)[:, 0, 0], expected, atol=1e-5)
    assert torch.equal(scaling.standardize()(scaling(raw)), scaling(raw))
    np.testing.assert_allclose(scaling.inverse(scaling(raw)), raw, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 5)])
def test_constant_data_stay_finite(value, dtype, shape):
    data = np.full((N, *shape), value, dtype)
    scaling = Scaling(Images(data, shape))
    out = scaling.standardize()(scaling(torch.tensor(data)))
    assert torch.isfinite(out).all()
    assert out.abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_values_beyond_float32():
    with pytest.raises(ValueError, match="do not fit float32.* Scale X"):
        make(backbone="mlp", augment="vector").fit(np.eye(20) * 1e300)
