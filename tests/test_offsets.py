"""Values far from 0 and close to each other, or very small: nothing is rounded away."""

import numpy as np
import pytest
import torch
from estimators import make_stripes
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from small_digpro import make

from skdeepcluster._input import arrays
from skdeepcluster._input.arrays import offset_of
from skdeepcluster._input.images import Images
from skdeepcluster._input.layouts import as_images
from skdeepcluster._input.scaling import Scaling

STRIPES, KINDS = make_stripes()
RNG = np.random.default_rng(0)
GROUPS = np.arange(240) // 60
V = np.eye(4)[GROUPS] * 9 + RNG.normal(size=(240, 4))
WHOLE = (V * 1000).astype(np.int64)


def cluster(rows, **changed):
    params = {"max_epochs": 8, "batch_size": 64, "backbone": "mlp", **changed}
    return make(n_clusters=4, augment="vector", **params).fit(rows)


@pytest.mark.parametrize(
    "rows",
    [
        V + 1.7e9,
        V - 1.7e9,
        WHOLE + 10**17,
        WHOLE + np.array([0, -(10**17), 10**16, 10**12]),
        (WHOLE + 10**5).astype(np.uint64) + np.uint64(2**63),
        (WHOLE // 100 + 2**30).astype(np.int32),
        V.astype(np.longdouble) + 1.7e12,
    ],
    ids=["times", "negative", "int64", "columns", "uint64", "int32", "longdouble"],
)
def test_vectors_with_an_offset(rows):
    model = cluster(rows)
    kmeans = KMeans(4, n_init=3, random_state=0).fit_predict(V)
    assert adjusted_rand_score(kmeans, GROUPS) == 1
    assert adjusted_rand_score(model.labels_, GROUPS) == 1
    np.testing.assert_array_equal(model.predict(rows), model.labels_)
    np.testing.assert_array_equal(model.predict(rows[:7]), model.labels_[:7])


def test_a_column_of_times():
    times = 1.7e9 + 3600.0 * GROUPS + RNG.normal(0, 60, 240)
    rows = np.column_stack([times, RNG.normal(0, 60, (240, 3))])
    # their spread is what tells the groups: it should decide
    model = cluster(rows, standardize=False)
    assert adjusted_rand_score(model.labels_, GROUPS) == 1


def test_an_offset_changes_nothing_of_what_networks_see():
    whole = (V * 64).round() / 64  # exact in float64 beside the offset, too
    seen = []
    for rows in (whole, whole + 2.0**40):
        images, _ = as_images(make(), rows)
        seen.append(Scaling(images)(images[0:240][0]))
    np.testing.assert_allclose(seen[1], seen[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "images",
    [STRIPES / 255 + 1e6, STRIPES.astype(np.int64) + 10**12, -1e9 - STRIPES / 255.0],
    ids=["float64", "int64", "negative"],
)
def test_images_with_an_offset(images):
    model = make(max_epochs=6).fit(images)
    assert adjusted_rand_score(model.labels_, KINDS) == 1
    np.testing.assert_array_equal(model.predict(images), model.labels_)
    with pytest.raises(ValueError, match=r"fitted .* to .*, plus -?1000000"):
        model.predict(STRIPES)


@pytest.mark.parametrize("scale", [1e-17, 1e-30])
def test_tiny_values(scale):
    images, rows = STRIPES / 255 * scale, V * scale
    model = make(max_epochs=6).fit(images)
    assert adjusted_rand_score(model.labels_, KINDS) == 1
    np.testing.assert_array_equal(model.predict(images), model.labels_)
    assert adjusted_rand_score(cluster(rows).labels_, GROUPS) == 1
    with pytest.raises(ValueError, match="fitted on images of 0 to"):
        model.predict(STRIPES / 255)


@pytest.mark.parametrize("X", [STRIPES * 1e-300, V * 1e-60], ids=["images", "vectors"])
def test_values_that_float32_does_not_hold(X):
    with pytest.raises(ValueError, match="differ by less than .* float32 .* Scale X"):
        make(backbone="mlp", augment="auto").fit(X)


@pytest.mark.parametrize("value", [5, 1e-17, 1e9 + 0.5])
def test_constants_with_an_offset(value):
    data = np.full((20, 3, 4, 4), value)
    offset = offset_of(data, per_feature=False)
    images = Images(data, (3, 4, 4), offset=offset)
    out = Scaling(images)(images[0:20][0])
    assert out.isfinite().all()
    assert len(out.unique()) == 1


# -- where the offset is, and where there is none --------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        STRIPES,
        V,
        V + 100,
        (V + 1e6).astype(np.float32),
        STRIPES / 255,
        STRIPES.astype(np.int16) + 10_000,
        STRIPES.astype(np.int64),
        STRIPES > 9,
    ],
)
def test_no_offset(data):
    assert offset_of(data, per_feature=data.ndim == 2) is None
    assert as_images(make(), data)[1].offset is None


def test_only_columns_that_need_one_have_an_offset():
    rows = np.column_stack([V[:, 0], V[:, 1] + 1e9, np.full(240, 7.0)])
    offset = as_images(make(), rows)[1].offset
    assert offset.dtype == np.float64
    assert offset[0] == 0
    assert abs(offset[1] - 1e9) < 20
    assert offset[2] == 7


def test_an_offset_of_images_is_asked_of_all_of_them(monkeypatch):
    monkeypatch.setattr(arrays, "SAMPLE", 10 * 64)
    images = np.ones((40, 8, 8), np.int64) * 10**6
    images[1::2] = 0  # every second, which no sample has
    images = images[: 2 * (len(images) // 2)]
    assert offset_of(images, per_feature=False) is None


def test_batches_are_exact():
    rows = WHOLE + 10**17
    offset = offset_of(rows, per_feature=True)
    assert offset.dtype == np.int64
    images = Images(rows, (1, 1, 4), offset=offset)
    expected = (rows - offset).astype(np.float32)
    index = torch.tensor([5, 3, 230])
    np.testing.assert_array_equal(images[index][0][:, 0, 0], expected[index])
    np.testing.assert_array_equal(images[2:9][0][:, 0, 0], expected[2:9])


@pytest.mark.parametrize("data", [WHOLE + 10**15, STRIPES.astype(np.int64) + 10**12])
def test_a_layout_restores_the_offset(data):
    images, layout = as_images(make(), data)
    restored = layout.restore(images[0:5][0])
    assert restored.dtype == np.float64
    np.testing.assert_array_equal(restored, data[:5])
