"""From raw values to [0, 1], and from there to those that networks expect."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from small_digpro import make
from test_images import N, X

from skdeepcluster._input import scaling as moments
from skdeepcluster._input.images import Images
from skdeepcluster._input.layouts import as_images
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
@pytest.mark.parametrize("d", [20, 300])
@pytest.mark.parametrize("value", [1e30, 1e300])
@pytest.mark.parametrize("standardize", [True, False])
def test_values_beyond_float32(d, value, standardize):
    model = make(backbone="mlp", augment="vector", standardize=standardize)
    rows = np.eye(40, d) * value
    if value == 1e30:  # moments are those of float64
        assert np.isfinite(model.fit(rows).transform(rows)).all()
        return
    with pytest.raises(ValueError, match="do not fit float32.* Scale X"):
        model.fit(rows)


# -- features that vary unlike, and principal components -------------------------------


def as_rows(scaling, rows):
    """Scaled vectors (n, d), of raw ones."""
    raw = torch.from_numpy(np.float32(rows)).reshape(len(rows), 1, 1, -1)
    out = scaling(raw)
    assert out.dtype == torch.float32
    assert out.shape[1:] == scaling.shape((1, 1, rows.shape[1]))
    return out.flatten(1).double().numpy()


def scaling_of(rows, **params):
    return Scaling(Images(rows, (1, 1, rows.shape[1])), **params)


def average_spread(rows):
    """Root of the mean variance; none counts for more than ten times the median."""
    variance = np.sort(rows.var(0)[rows.var(0) > 0])
    median = variance[(len(variance) - 1) // 2]
    return np.sqrt(np.minimum(rows.var(0), 100 * median).mean())


def scaled(rows, standardize):
    """Centred rows of unit scale, by the definition."""
    centred = rows - rows.mean(0)
    if standardize:
        centred = centred / np.maximum(rows.std(0), average_spread(rows))
    return centred / np.sqrt(np.mean(centred**2))


def low_rank(n=120, d=30, rank=4, seed=0):
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, rank)) * [9, 5, 3, 2][:rank]
    return 20 + factors @ rng.normal(size=(rank, d))


SPREAD = np.r_[50.0, 7.0, np.linspace(0.1, 4, 10)]
WIDE = np.random.default_rng(0).normal(3, SPREAD, size=(200, 12))


def test_features_that_vary_much_are_scaled_down_and_no_others_up():
    scaling = scaling_of(WIDE, standardize=True)
    out = as_rows(scaling, WIDE)
    np.testing.assert_allclose(out, scaled(WIDE, True), atol=1e-5)
    ratio = out.std(0) / WIDE.std(0)
    average = average_spread(WIDE)
    below = WIDE.std(0) < average
    assert 0 < below.sum() < 12
    np.testing.assert_allclose(ratio[below], ratio[below][0], rtol=1e-4)
    np.testing.assert_allclose(out.std(0)[~below], out.std(0)[~below][0], rtol=1e-4)
    assert (ratio[~below] < ratio[below].min()).all()


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("k", [1, 4, 11])
def test_components_are_those_of_scikit_learn(k, standardize):
    scaling = scaling_of(WIDE, standardize=standardize, n_components=k)
    directions = scaling.components.double().numpy()
    np.testing.assert_allclose(directions.T @ directions, np.eye(k), atol=1e-5)
    expected = PCA(k).fit(scaled(WIDE, standardize)).components_
    projection = expected.T @ expected
    np.testing.assert_allclose(directions @ directions.T, projection, atol=1e-4)
    out = as_rows(scaling, WIDE)
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-5)
    assert np.mean(out**2) == pytest.approx(1, rel=1e-4)
    expected = PCA(k).fit_transform(scaled(WIDE, standardize))
    expected /= np.sqrt(np.mean(expected**2))
    np.testing.assert_allclose(np.abs(out), np.abs(expected), atol=1e-3)  # signs


@pytest.mark.parametrize("k", [None, 12, 13, 1000])
def test_vectors_that_are_no_wider_are_not_reduced(k):
    scaling = scaling_of(WIDE, n_components=k)
    assert scaling.components.shape == (0, 0)
    assert scaling.shape((1, 1, 12)) == (1, 1, 12)
    np.testing.assert_array_equal(
        as_rows(scaling, WIDE), as_rows(scaling_of(WIDE), WIDE)
    )


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("k", [4, 10, None])
def test_rows_of_low_rank_come_back(k, standardize):
    rows = low_rank()
    scaling = scaling_of(rows, standardize=standardize, n_components=k)
    unit = torch.from_numpy(np.float32(as_rows(scaling, rows)))
    back = scaling.inverse(unit.reshape(len(rows), 1, 1, -1))
    assert back.shape == (120, 1, 1, 30)
    np.testing.assert_allclose(back[:, 0, 0], rows, atol=1e-3)


def test_what_components_leave_out_comes_back_as_the_nearest():
    scaling = scaling_of(WIDE, n_components=3)
    raw = torch.from_numpy(np.float32(WIDE)).reshape(-1, 1, 1, 12)
    pca = PCA(3).fit(WIDE)
    expected = pca.inverse_transform(pca.transform(WIDE))
    back = scaling.inverse(scaling(raw))[:, 0, 0]
    np.testing.assert_allclose(back, expected, atol=2e-3)
    again = scaling.inverse(scaling(back.reshape(-1, 1, 1, 12)))[:, 0, 0]
    np.testing.assert_allclose(again, back, atol=2e-3)


@pytest.mark.parametrize("n", [2, 5])
def test_fewer_rows_than_components(n):
    rows = WIDE[:n]
    scaling = scaling_of(rows, standardize=True, n_components=8)
    assert scaling.components.shape == (12, n - 1)
    raw = torch.from_numpy(np.float32(rows)).reshape(-1, 1, 1, 12)
    np.testing.assert_allclose(scaling.inverse(scaling(raw)), raw, atol=1e-3)


@pytest.mark.parametrize("n_components", [None, 3])
@pytest.mark.parametrize("standardize", [True, False])
def test_an_offset_changes_no_component(standardize, n_components):
    whole = (WIDE * 64).round() / 64  # exact in float64 beside the offset, too
    outs = []
    for rows in (whole, whole + 2.0**40):
        images, _ = as_images(make(), rows)
        scaling = Scaling(images, standardize, n_components)
        outs.append(scaling(images[0:200][0]).flatten(1).abs())
    np.testing.assert_allclose(outs[1], outs[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("n_components", [None, 5])
def test_constant_columns_come_back(n_components):
    rows = low_rank()
    rows[:, ::3] = 7.0
    scaling = scaling_of(rows, standardize=True, n_components=n_components)
    assert np.isfinite(as_rows(scaling, rows)).all()
    raw = torch.from_numpy(np.float32(rows)).reshape(-1, 1, 1, 30)
    np.testing.assert_allclose(scaling.inverse(scaling(raw)), raw, atol=1e-3)


@pytest.mark.filterwarnings("error")
def test_constant_rows_have_components_too():
    scaling = scaling_of(np.full((50, 30), 7.0), standardize=True, n_components=5)
    out = as_rows(scaling, np.full((3, 30), 7.0))
    assert out.shape == (3, 5)
    assert not out.any()


def test_very_wide_vectors_are_reduced_at_random(monkeypatch):
    rows = low_rank(d=60)
    exact = as_rows(scaling_of(rows, n_components=4), rows)
    monkeypatch.setattr(moments, "MAX_WIDTH", 59)
    solvers = []

    class Spied(PCA):
        def __init__(self, n_components, svd_solver, random_state):
            solvers.append(svd_solver)
            super().__init__(
                n_components, svd_solver=svd_solver, random_state=random_state
            )

    monkeypatch.setattr(moments, "PCA", Spied)
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    one, other = (as_rows(scaling_of(rows, n_components=4), rows) for _ in range(2))
    assert solvers == ["randomized", "randomized"]
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(np.abs(one), np.abs(exact), atol=1e-3)
    monkeypatch.setattr(moments, "MAX_WIDTH", 60)
    scaling_of(rows, n_components=4)
    assert solvers[2] == "covariance_eigh"


@pytest.mark.parametrize(("name", "value"), [("MAX_SAMPLES", 40), ("MAX_VALUES", 480)])
def test_components_of_some_rows(monkeypatch, name, value):
    read = []

    class Spied(PCA):
        def fit(self, rows):
            read.append(rows.shape)
            return super().fit(rows)

    monkeypatch.setattr(moments, "PCA", Spied)
    monkeypatch.setattr(moments, name, value)
    scaling_of(WIDE, n_components=3)
    assert read == [(40, 12)]


@pytest.mark.parametrize("width, loud", [(20, 30.0), (100, 1e3), (300, 1e6)])
def test_one_loud_feature_does_not_decide_everything(width, loud):
    rows = np.random.default_rng(0).normal(size=(200, width)).astype(np.float32)
    rows[:, 0] *= loud
    scaling = Scaling(Images(rows, (1, 1, width)), standardize=True)
    variance = scaling(torch.from_numpy(rows).view(-1, 1, 1, width)).var(0).flatten()
    assert variance[0] / variance.sum() < 0.3


def test_the_average_is_that_of_all_features_where_none_is_loud():
    rows = np.random.default_rng(0).normal(size=(500, 8)) * [0, 0, 1, 1, 1, 2, 3, 5]
    rows = rows.astype(np.float32)
    scaling = Scaling(Images(rows, (1, 1, 8)), standardize=True)
    spread = rows.std(0)
    expected = np.maximum(spread, np.sqrt((spread**2).mean()))
    found = scaling.span.flatten().numpy()
    np.testing.assert_allclose(found / found[0], expected / expected[0], rtol=1e-5)
