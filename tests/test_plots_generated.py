"""The sheet of generated images beside real ones."""

import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from estimators import SMALL_FACETS, SMALL_GCC
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError

from skdeepcluster import GCC, MFCVAE
from skdeepcluster.plots import GeneratedSheetDisplay

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def random_images(n=40):
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    X = random_images()[..., 0]
    return X, GCC(**SMALL_GCC).fit(X)


def test_rows(model):
    X, estimator = model
    display = GeneratedSheetDisplay.from_estimator(
        estimator, X, n_real=2, n_generated=3, random_state=0
    )
    k = len(estimator.cluster_sizes_)
    assert display.clusters.tolist() == list(range(k)) and len(display.axes_) == k
    np.testing.assert_array_equal(display.sizes, estimator.cluster_sizes_)
    proba = estimator.predict_proba(X)
    for row in range(k):
        indices = display.indices[row]
        assert len(display.real[row]) == len(indices) <= 2
        assert proba[indices[0], row] == proba[estimator.labels_ == row, row].max()
        for image, index in zip(display.real[row], indices, strict=True):
            np.testing.assert_array_equal(image, X[index])
        for image, index in zip(
            display.nearest[row], display.nearest_indices[row], strict=True
        ):
            np.testing.assert_array_equal(image, X[index])
        assert len(display.generated[row]) == 3
        assert len(display.axes_[row].images) == len(indices) + 6


def test_generated_images_are_those_of_sample(model, monkeypatch):
    X, estimator = model
    drawn, sample = [], estimator.sample

    def watched(*args, **kwargs):
        drawn.append(
            (kwargs["cluster"], kwargs["guidance_scale"], sample(*args, **kwargs)[0])
        )
        return drawn[-1][2], None

    monkeypatch.setattr(estimator, "sample", watched)
    displays = [
        GeneratedSheetDisplay.from_estimator(
            estimator,
            X,
            clusters=[1, 0],
            n_generated=4,
            random_state=seed,
            guidance_scale=0.5,
        )
        for seed in (3, 3, 4)
    ]
    assert [call[:2] for call in drawn] == 3 * [(1, 0.5), (0, 0.5)]
    images = [np.stack([drawn[2 * i][2], drawn[2 * i + 1][2]]) for i in range(3)]
    for display, expected in zip(displays, images, strict=True):
        np.testing.assert_array_equal(display.generated, expected)
    np.testing.assert_array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_nearest_images_and_distances(model):
    X, estimator = model
    display = GeneratedSheetDisplay.from_estimator(estimator, X, random_state=0)
    drawn = np.asarray(display.generated, dtype=float).reshape(-1, 64) / 255
    rows = X.reshape(len(X), -1) / 255
    squares = ((drawn[:, None] - rows) ** 2).mean(2)
    np.testing.assert_array_equal(display.nearest_indices.ravel(), squares.argmin(1))
    np.testing.assert_allclose(
        display.distances.ravel(), squares.min(1) ** 0.5, rtol=1e-4
    )
    between = ((rows[:, None] - rows) ** 2).mean(2)
    np.fill_diagonal(between, np.inf)
    least = between.min(1) ** 0.5
    assert np.isin(display.real_distances.round(4), least.round(4)).all()
    heading = display.figure_.get_suptitle()
    assert f"generated images {np.median(display.distances):.3f}" in heading


def test_copies_have_no_distance(model, monkeypatch):
    X, estimator = model

    def copies(n_samples, cluster=None, random_state=None):
        return X[:n_samples], np.full(n_samples, cluster)

    monkeypatch.setattr(estimator, "sample", copies)
    display = GeneratedSheetDisplay.from_estimator(estimator, X, n_generated=5)
    assert display.nearest_indices.tolist() == [list(range(5))] * len(display.clusters)
    np.testing.assert_array_equal(display.distances, 0)
    assert display.real_distances.min() > 0.1


@pytest.mark.parametrize("kind", ["last", "first", "flat", "float", "paths"])
def test_layouts(kind, tmp_path):
    X, settings = random_images(), {}
    if kind == "first":
        X = np.moveaxis(X, -1, 1)
    elif kind == "flat":
        X = np.moveaxis(X, -1, 1).reshape(40, -1)
        settings = {"image_shape": (3, 8, 8)}
    elif kind == "float":
        X = X / 100 - 1
    elif kind == "paths":
        paths = [str(tmp_path / f"{i}.png") for i in range(40)]
        for path, pixels in zip(paths, X, strict=True):
            Image.fromarray(pixels).save(path)
        X = paths
    estimator = GCC(**{**SMALL_GCC, **settings}).fit(X)
    display = GeneratedSheetDisplay.from_estimator(estimator, X, n_generated=3)
    shapes = {
        image.shape
        for rows in (display.real, display.generated, display.nearest)
        for row in rows
        for image in row
    }
    assert shapes == {(8, 8, 3)}


@pytest.mark.parametrize("facet", [0, 1])
def test_facets_can_be_shown(facet):
    X = random_images()
    estimator = MFCVAE(**{**SMALL_FACETS, "max_epochs": 2}).fit(X)
    display = GeneratedSheetDisplay.from_estimator(
        estimator, X, n_generated=2, facet=facet
    )
    sizes = np.bincount(estimator.facet_labels_[:, facet])
    np.testing.assert_array_equal(display.sizes, sizes)
    assert len(display.generated) == len(sizes)


def test_layout_of_the_figure(model):
    X, estimator = model
    display = GeneratedSheetDisplay.from_estimator(estimator, X)
    display.figure_.draw_without_rendering()
    boxes = [ax.get_tightbbox() for ax in display.axes_]
    whole = display.figure_.bbox.padded(1)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1
    left, right = plt.figure().subfigures(1, 2)
    assert display.plot(figure=right) is display
    assert display.figure_ is right and not left.axes
    display.plot(figsize=(8, 6))
    assert display.figure_.get_size_inches().tolist() == [8, 6]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_real": 0}, "n_real=0 should be an integer, at least 1"),
        ({"n_generated": 1.5}, "n_generated=1.5 should be an integer, at least 1"),
        ({"cluster": 1}, r"cluster=... is not taken: pass clusters=\[...\]"),
        ({"clusters": [7]}, r"clusters=\[7\] should be some of the numbers 0 to"),
        ({"clusters": []}, r"clusters=\[\] should be some"),
        ({"guidance_scale": -1}, "guidance_scale=-1 should be"),
    ],
)
def test_errors(model, params, message):
    X, estimator = model
    with pytest.raises(ValueError, match=message):
        GeneratedSheetDisplay.from_estimator(estimator, X, **params)


def test_errors_of_the_estimator(model, monkeypatch):
    X, estimator = model
    with pytest.raises(TypeError, match="KMeans cannot draw images of its clusters"):
        GeneratedSheetDisplay.from_estimator(KMeans(), X)
    with pytest.raises(NotFittedError):
        GeneratedSheetDisplay.from_estimator(GCC(), X)
    vectors = np.random.default_rng(0).normal(size=(40, 6))
    with pytest.raises(ValueError, match=r"vectors \(shape \(40, 6\)\)"):
        GeneratedSheetDisplay.from_estimator(GCC(**SMALL_GCC).fit(vectors), vectors)
    display = GeneratedSheetDisplay.from_estimator(estimator, X)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for call in (
        lambda: GeneratedSheetDisplay.from_estimator(estimator, X),
        display.plot,
    ):
        with pytest.raises(ImportError, match=r"pip install skdeepcluster\[plot\]"):
            call()
