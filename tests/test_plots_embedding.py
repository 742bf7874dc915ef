import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from estimators import fitted, make_stripes
from matplotlib.colors import to_rgba
from matplotlib.markers import MarkerStyle
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdeepcluster.datasets import load_digits_images
from skdeepcluster.plots import EmbeddingDisplay
from skdeepcluster.plots._map import (
    apart,
    colors_apart,
    extent,
    middles,
    one_of_each_first,
)
from skdeepcluster.plots._style import PALETTE

CORNERS = np.array([[0, 0], [0, 4], [4, 0], [4, 4]]) + 0.0
X, Y = make_blobs(200, centers=4, n_features=6, random_state=0)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def points(display):
    """Coordinates and colours of the points that were plotted, sorted."""
    (scatter,) = display.ax_.collections
    order = np.lexsort(scatter.get_offsets().T)
    return scatter.get_offsets()[order], scatter.get_facecolors()[order]


def texts(display):
    return [text.get_text() for text in display.ax_.texts]


def legend(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


def test_points_have_the_colours_of_their_labels():
    labels = ["b", "a", "b", "c"]
    display = EmbeddingDisplay.from_embedding(CORNERS, labels)
    at, colors = points(display)
    np.testing.assert_array_equal(at, CORNERS[[0, 2, 1, 3]])
    expected = [to_rgba(PALETTE[i], alpha=0.8) for i in (1, 1, 0, 2)]
    np.testing.assert_allclose(colors, expected)
    assert texts(display) == ["a", "b", "c"]
    places = [tuple(text.get_position()) for text in display.ax_.texts]
    assert places[0] == (0, 4) and places[2] == (4, 4)
    assert legend(display) == ["a · 1", "b · 2", "c · 1"]
    assert display.figure_.get_suptitle() == display.title == "4 samples"
    np.testing.assert_array_equal(display.positions, CORNERS)
    assert not display.ax_.images and len(display.indices) == 0


def test_thumbnails_are_the_images_of_their_points():
    images = np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3)
    labels = np.array([0, 0, 1, 1])
    display = EmbeddingDisplay.from_embedding(
        CORNERS, labels, images=images, n_thumbnails=4
    )
    # the names are on the first of the two points of each, which are as near
    assert sorted(display.indices) == [1, 3]
    for image, index in zip(display.ax_.images, display.indices, strict=True):
        np.testing.assert_array_equal(image.get_array(), images[index])
        left, right, bottom, top = image.get_extent()
        x, y = CORNERS[index]
        assert ((left + right) / 2, (bottom + top) / 2) == pytest.approx((x, y))
        assert right - left == pytest.approx(0.08 * 4)  # of the longer side of the map
        assert (top - bottom) / (right - left) == pytest.approx(2 / 3)
        assert image.get_clim() == (0, 255)
    frames = [patch.get_edgecolor() for patch in display.ax_.patches]
    assert frames == [to_rgba(PALETTE[k]) for k in labels[display.indices]]


@pytest.mark.parametrize("n_thumbnails", [0, 7, 200])
def test_thumbnails_do_not_cover_each_other(n_thumbnails):
    digits, y = load_digits_images()
    positions = PCA(2).fit_transform(digits.reshape(len(digits), -1))
    display = EmbeddingDisplay.from_embedding(
        positions, y, images=digits, n_thumbnails=n_thumbnails, random_state=0
    )
    assert len(display.ax_.images) == len(display.indices) <= n_thumbnails
    assert len(display.indices) >= min(7, n_thumbnails)
    at = positions[display.indices]
    far = np.abs(at[:, None] - at).max(axis=2)
    np.fill_diagonal(far, np.inf)
    assert (far >= display.side).all()
    if n_thumbnails == 7:  # each of another digit
        assert len(set(y[display.indices])) == 7
    again = EmbeddingDisplay.from_embedding(
        positions, y, images=digits, n_thumbnails=n_thumbnails, random_state=0
    )
    np.testing.assert_array_equal(again.indices, display.indices)


def test_labels_differ_in_shape_as_in_colour():
    labels = np.append(np.arange(10), -1)
    positions = np.stack([labels, labels % 3], axis=1)
    display = EmbeddingDisplay.from_embedding(positions, labels)
    (scatter,) = display.ax_.collections
    at = np.round(scatter.get_offsets()[:, 0]).astype(int)
    paths = dict(zip(at, scatter.get_paths(), strict=True))
    keys = display.ax_.get_legend().get_lines()
    for k, key, color in zip(labels, keys, [*PALETTE, "0.7"], strict=True):
        marker = MarkerStyle(key.get_marker())
        shape = marker.get_path().transformed(marker.get_transform())
        np.testing.assert_array_equal(paths[k].vertices, shape.vertices)
        assert key.get_color() == color
    assert len({key.get_marker() for key in keys}) == 11
    plain = EmbeddingDisplay.from_embedding(positions)
    assert (
        len({path.vertices.tobytes() for path in plain.ax_.collections[0].get_paths()})
        == 1
    )


def test_more_than_ten_labels_are_named_in_the_map_only():
    labels = np.repeat(np.arange(12), 5)
    angles = 2 * np.pi * labels / 12
    positions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    display = EmbeddingDisplay.from_embedding(positions, labels)
    assert texts(display) == [str(k) for k in range(12)]
    assert display.ax_.get_legend() is None
    # the eleventh has the colour of the one across the circle
    places = np.stack([np.cos(angles[::5]), np.sin(angles[::5])], axis=1)
    assert colors_apart(places, 10).tolist() == [*range(10), 4, 5]


def test_rows_of_nan_and_without_a_label():
    positions = np.vstack([CORNERS, [np.nan, np.nan]])
    display = EmbeddingDisplay.from_embedding(positions, [0, -1, 1, 1, -1])
    at, colors = points(display)
    assert len(at) == 4
    np.testing.assert_allclose(colors[2], to_rgba("0.7", alpha=0.8))  # light grey
    assert texts(display) == ["0", "1"]
    assert legend(display) == ["0 · 1", "1 · 2", "none · 2"]
    assert len(display.positions) == 5
    one = EmbeddingDisplay.from_embedding([[1, 2], [1, 2]], images=np.ones((2, 3, 3)))
    assert len(one.ax_.images) == 1 and one.ax_.get_legend() is None
    none = EmbeddingDisplay.from_embedding(np.full((2, 2), np.nan), [0, 1])
    assert not len(points(none)[0]) and texts(none) == []


def test_an_estimator_is_embedded_and_reduced():
    images, kinds = make_stripes()
    model = fitted("DigPro")
    display = EmbeddingDisplay.from_estimator(model, images, random_state=0)
    expected = PCA(2, random_state=0).fit_transform(model.transform(images))
    np.testing.assert_allclose(display.positions, expected, atol=1e-5)
    np.testing.assert_array_equal(display.labels, model.labels_)
    assert display.title == "DigPro: 60 samples, by PCA"
    for image, index in zip(display.ax_.images, display.indices, strict=True):
        np.testing.assert_array_equal(image.get_array(), images[index])
    flat = images.reshape(60, -1)
    other = EmbeddingDisplay.from_estimator(
        model, flat, labels=kinds, n_thumbnails=1, random_state=1
    )
    np.testing.assert_array_equal(other.labels, kinds)
    (shown,) = other.ax_.images
    np.testing.assert_array_equal(shown.get_array(), images[other.indices[0]])


def test_pipelines_and_reducers():
    pipeline = make_pipeline(StandardScaler(), KMeans(4, n_init=1, random_state=0))
    embedding = pipeline.fit(X).transform(X)
    expected = PCA(2).fit_transform(embedding)
    unfitted, fitted_before = PCA(2), PCA(2).fit(embedding)
    mapped = {"reducer": "tsne", "random_state": 3}
    tsne = EmbeddingDisplay.from_estimator(pipeline, X, **mapped)
    assert tsne.title == "KMeans: 200 samples, by t-SNE" and not tsne.ax_.images
    again = EmbeddingDisplay.from_estimator(pipeline, X, **mapped)
    np.testing.assert_array_equal(again.positions, tsne.positions)
    for reducer in (unfitted, fitted_before):
        display = EmbeddingDisplay.from_estimator(pipeline, X, reducer=reducer)
        np.testing.assert_allclose(display.positions, expected, atol=1e-6)
        assert not display.ax_.images  # vectors
        np.testing.assert_array_equal(display.labels, pipeline.predict(X))
    assert not hasattr(unfitted, "components_")
    part = EmbeddingDisplay.from_estimator(pipeline, X[:9], reducer=fitted_before)
    np.testing.assert_allclose(part.positions, expected[:9], atol=1e-6)
    images = np.zeros((200, 5, 5), dtype=np.uint8)
    display = EmbeddingDisplay.from_estimator(pipeline, X, images=images)
    assert display.ax_.images
    two = KMeans(2, n_init=1, random_state=0).fit(X)
    display = EmbeddingDisplay.from_estimator(two, X, reducer=None)
    np.testing.assert_array_equal(display.positions, two.transform(X))
    assert display.title == "KMeans: 200 samples"


@pytest.mark.parametrize("high, tall", [(0.1, 0.4), (0.8, 0.8), (9, 1.2)])
def test_the_figure_is_as_tall_as_the_map_needs(high, tall):
    display = EmbeddingDisplay.from_embedding(CORNERS * [1, high])
    assert display.figure_.get_size_inches()[1] == pytest.approx(0.8 + 5.4 * tall)
    assert display.ax_.get_aspect() == 1


def test_many_points_are_pixels_in_a_drawing():
    rng = np.random.default_rng(0)
    display = EmbeddingDisplay.from_embedding(
        rng.normal(size=(20_000, 2)), rng.integers(0, 30, 20_000)
    )
    (scatter,) = display.ax_.collections
    assert scatter.get_rasterized() and scatter.get_sizes()[0] == 1.5


def test_places():
    line = np.stack([np.arange(10.0), np.zeros(10)], axis=1)
    order = np.array([5, 4, 9, 0, 1, 2, 3, 6, 7, 8])
    assert apart(line, order, 2, 9).tolist() == [5, 9, 0, 2, 7]
    assert apart(line, order, 2, 2).tolist() == [5, 9]
    free = np.arange(10) < 3
    assert apart(line, order, 1.5, 9, free).tolist() == [0, 2]
    same = np.zeros((3, 2))
    assert apart(same, np.arange(3), 0.0, 9).tolist() == [0, 1, 2]
    assert extent(np.array([[0, 1], [np.nan, 9], [2, 4]])) == 3
    assert extent(same) == 1
    numbers = np.array([0, 0, 0, 0, 0, 0, 2, 2, 2, -1])
    order = one_of_each_first(numbers, 0)
    assert sorted(order) == list(range(10))
    assert set(numbers[order[:3]]) == {-1, 0, 2}
    # between two groups nobody is: it goes to the one that is nearer
    groups = np.array([0, 1, 2, 3, 12, 13, 14]) + 0.0
    places = middles(np.stack([groups, 0 * groups], axis=1), np.zeros(7, int), 2, 3.0)
    assert places[0, 0] in (1, 2) and np.isnan(places[1]).all()


def test_errors(monkeypatch):
    with pytest.raises(NotFittedError):
        EmbeddingDisplay.from_estimator(KMeans(2), X)
    mixture = GaussianMixture(2).fit(X)
    with pytest.raises(TypeError, match="GaussianMixture has no transform"):
        EmbeddingDisplay.from_estimator(mixture, X)
    kmeans = KMeans(3, n_init=1).fit(X)
    for reducer in ("umap", PCA, KMeans(2).fit_predict):
        with pytest.raises(TypeError, match="reducer=.*should be 'pca'"):
            EmbeddingDisplay.from_estimator(kmeans, X, reducer=reducer)
    with pytest.raises(ValueError, match=r"map, by PCA has shape \(200, 3\)"):
        EmbeddingDisplay.from_estimator(kmeans, X, reducer=PCA(3))
    with pytest.raises(ValueError, match=r"map has shape \(200, 3\)"):
        EmbeddingDisplay.from_estimator(kmeans, X, reducer=None)
    one = KMeans(1, n_init=1).fit(X)
    with pytest.raises(ValueError, match=r"embedding has shape \(200, 1\)"):
        EmbeddingDisplay.from_estimator(one, X)
    with pytest.raises(ValueError, match=r"positions has shape \(200, 6\)"):
        EmbeddingDisplay.from_embedding(X)
    with pytest.raises(ValueError, match="Got 3 labels for 4 positions"):
        EmbeddingDisplay.from_embedding(CORNERS, [1, 2, 3])
    with pytest.raises(ValueError, match="Got 2 images for 4 positions"):
        EmbeddingDisplay.from_embedding(CORNERS, images=np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match="n_thumbnails=-1"):
        EmbeddingDisplay.from_embedding(CORNERS, n_thumbnails=-1)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    message = r"from_embedding needs matplotlib.*skdeepcluster\[plot\]"
    with pytest.raises(ImportError, match=message):
        EmbeddingDisplay.from_embedding(CORNERS)
