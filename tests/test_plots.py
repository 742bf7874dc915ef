import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skdeepcluster import MFCVAE
from skdeepcluster._input.layouts import Layout
from skdeepcluster.datasets import load_digits_images
from skdeepcluster.plots import ClusterSheetDisplay, FacetsDisplay, HistoryDisplay

# confidences 0: .9, .6, .8; 1: .7, .7, .5; 2: none
PROBA = np.array(
    [
        [0.9, 0.1, 0.0],
        [0.3, 0.7, 0.0],
        [0.6, 0.2, 0.2],
        [0.1, 0.7, 0.2],
        [0.8, 0.2, 0.0],
        [0.3, 0.5, 0.2],
    ]
)
HISTORY = [
    {
        "epoch": epoch,
        "lr": 0.1 / epoch,
        "loss_group": 0.5 * epoch,
        "loss": 3.0 - epoch / 4,
        "seconds": 1.0,
        "cluster_sizes": [10 - epoch, 10, 10 + epoch],
        "note": "text",
    }
    for epoch in range(1, 5)
]


class Given(ClusterMixin, BaseEstimator):
    """Predicts the probabilities that it was given."""

    def __init__(self, proba=PROBA):
        self.proba = proba

    def fit(self, X, y=None, image_shape=None, history=None):
        self.labels_ = self.proba.argmax(axis=1)
        if image_shape is not None:
            self.image_shape_ = image_shape
        if history is not None:
            self.history_ = history
        return self

    def predict_proba(self, X):
        assert len(X) == len(self.proba)
        return self.proba


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def random_images(*shape, dtype=np.uint8):
    images = np.random.default_rng(0).integers(0, 256, size=shape)
    return images.astype(dtype)


def shown(ax):
    return [image.get_array() for image in ax.images]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def assert_shows(display, images, rows):
    """Check that the axes show these rows of (n, H, W) or (n, H, W, C) images."""
    assert len(display.axes_) == len(rows)
    for ax, indices in zip(display.axes_, rows, strict=True):
        assert len(ax.images) == len(indices)
        for found, index in zip(shown(ax), indices, strict=True):
            np.testing.assert_allclose(found, images[index], atol=1e-6)


def test_sheet_shows_the_most_probable_images_of_each_cluster():
    X = random_images(6, 5, 4)
    display = ClusterSheetDisplay.from_estimator(Given().fit(X), X)
    assert_shows(display, X, [[0, 4, 2], [1, 3, 5], []])
    assert [i.tolist() for i in display.indices] == [[0, 4, 2], [1, 3, 5], []]
    assert display.clusters.tolist() == [0, 1, 2]
    assert display.sizes.tolist() == [3, 3, 0]
    np.testing.assert_allclose(display.confidences, [2.3 / 3, 1.9 / 3, np.nan])
    assert texts(display.axes_[0]) == [
        "Cluster 0",
        "3 images · 50.0%",
        "confidence 0.77",
    ]
    assert texts(display.axes_[2]) == ["Cluster 2", "0 images · 0.0%", "empty"]
    title = "Given: 6 images in 3 clusters, most typical first"
    assert display.figure_.get_suptitle() == display.title == title


def test_sheet_of_the_least_certain_images():
    X = random_images(6, 5, 4)
    display = ClusterSheetDisplay.from_estimator(
        Given().fit(X), X, order="uncertain", n_images=2, clusters=[1, 0]
    )
    assert_shows(display, X, [[5, 1], [2, 4]])
    assert texts(display.axes_[0])[0] == "Cluster 1"
    # the whole cluster counts, not the images that are shown
    assert display.sizes.tolist() == [3, 3]
    np.testing.assert_allclose(display.confidences, [1.9 / 3, 2.3 / 3])
    assert "least certain first" in display.title


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("layout", ["first", "last", "flat", "flat last", "frame"])
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_sheet_takes_every_layout(channels, layout, convert):
    last = random_images(6, 5, 7, channels)
    first = np.ascontiguousarray(np.moveaxis(last, -1, 1))
    X = {
        "first": first,
        "last": last,
        "flat": first.reshape(6, -1),
        "flat last": last.reshape(6, -1),
        "frame": first.reshape(6, -1),
    }[layout]
    model = Given().fit(X, image_shape=(channels, 5, 7))
    model.layout_ = Layout(
        model.image_shape_, layout == "flat last", X.shape[1:], X.dtype
    )
    X = pd.DataFrame(X) if layout == "frame" else convert(X)
    display = ClusterSheetDisplay.from_estimator(model, X, clusters=[0, 1])
    expected = last[..., 0] if channels == 1 else last
    assert_shows(display, expected, [[0, 4, 2], [1, 3, 5]])


def test_sheet_of_an_ambiguous_layout_follows_the_estimator():
    X = random_images(6, 3, 8, 3)
    model = Given().fit(X, image_shape=(3, 8, 3))
    display = ClusterSheetDisplay.from_estimator(model, X, clusters=[0])
    assert_shows(display, np.moveaxis(X, 1, -1), [[0, 4, 2]])
    model = Given().fit(X, image_shape=(3, 3, 8))
    display = ClusterSheetDisplay.from_estimator(model, X, clusters=[0])
    assert_shows(display, X, [[0, 4, 2]])


def test_grey_images_are_black_at_their_lowest_value():
    X = random_images(6, 5, 4)
    for images, limits in (
        (X, (0, 255)),
        (X // 4, (0, 255)),
        (X / 510, (0, 1)),
        (X - 100.0, (X.min() - 100.0, X.max() - 100.0)),
        (torch.from_numpy(X / 510).to(torch.bfloat16), (0, 1)),
    ):
        display = ClusterSheetDisplay.from_estimator(
            Given().fit(X), images, clusters=[0, 1], cmap="viridis"
        )
        for image in [i for ax in display.axes_ for i in ax.images]:
            assert image.get_clim() == pytest.approx(limits)
            assert image.get_cmap().name == "viridis"


def test_colours_of_floats_are_brought_to_the_unit_interval():
    X = random_images(6, 5, 4, 3) / 255
    display = ClusterSheetDisplay.from_estimator(Given().fit(X), X, clusters=[0, 1])
    assert_shows(display, X, [[0, 4, 2], [1, 3, 5]])
    display = ClusterSheetDisplay.from_estimator(
        Given().fit(X), 6 * X - 3, clusters=[0, 1]
    )
    unit = (X - X.min()) / (X.max() - X.min())
    assert_shows(display, unit, [[0, 4, 2], [1, 3, 5]])
    constant = np.full((6, 5, 4, 3), 7.0)
    display = ClusterSheetDisplay.from_estimator(Given().fit(X), constant)
    assert_shows(display, np.zeros((6, 5, 4, 3)), [[0, 4, 2], [1, 3, 5], []])


def test_sheet_opens_only_the_files_that_it_shows(tmp_path):
    pixels = random_images(6, 20, 30, 3)
    paths = [str(tmp_path / f"{i}.png") for i in range(6)]
    for i in (0, 4, 1, 3):
        Image.fromarray(pixels[i]).save(paths[i])
    for X in (paths, tuple(paths), np.array(paths), [tmp_path / p for p in paths]):
        display = ClusterSheetDisplay.from_estimator(Given().fit(X), X, n_images=2)
        assert_shows(display, pixels, [[0, 4], [1, 3], []])
    with pytest.raises(ValueError, match=r"2\.png' does not exist"):
        ClusterSheetDisplay.from_estimator(Given().fit(paths), paths, n_images=3)


def test_sheet_of_files_of_several_kinds(tmp_path):
    deep = np.linspace(0, 60_000, 24, dtype=np.uint16).reshape(4, 6)
    grey, colour = random_images(20, 10), random_images(300, 600, 3)
    clear = random_images(8, 8, 4)
    files = {"deep.png": deep, "grey.png": grey, "colour.png": colour, "c.png": clear}
    paths = []
    for name, pixels in files.items():
        Image.fromarray(pixels).save(tmp_path / name)
        paths.append(str(tmp_path / name))
    model = Given(np.ones((4, 1))).fit(paths)
    (ax,) = ClusterSheetDisplay.from_estimator(model, paths).axes_
    found = shown(ax)
    assert [f.shape for f in found] == [(4, 6), (20, 10), (80, 160, 3), (8, 8, 3)]
    # 16 bits are kept, and 8 bits are as bright beside them as they were
    np.testing.assert_array_equal(found[0], deep)
    np.testing.assert_array_equal(found[1], grey.astype(int) * 257)
    assert ax.images[0].get_clim()[1] >= int(grey.max()) * 257
    # each in its own square, with its own proportions
    for position, image in enumerate(ax.images):
        left, right, bottom, top = image.get_extent()
        assert position <= left < right <= position + 1
        assert 0 <= bottom < top <= 1
        height, width = image.get_array().shape[:2]
        assert (top - bottom) / (right - left) == pytest.approx(height / width)
        assert max(top - bottom, right - left) > 0.9


def test_images_beside_vectors():
    X = np.random.default_rng(0).normal(size=(6, 12))
    images = random_images(6, 3, 9, 9)
    for shape in (None, (1, 1, 12)):
        model = Given().fit(X, image_shape=shape)
        display = ClusterSheetDisplay.from_estimator(model, X, images=images)
        assert_shows(display, np.moveaxis(images, 1, -1), [[0, 4, 2], [1, 3, 5], []])
        with pytest.raises(ValueError, match=r"vectors \(shape \(6, 12\)\).*images="):
            ClusterSheetDisplay.from_estimator(model, X)
    with pytest.raises(ValueError, match=r"images have shape \(6, 81\)"):
        ClusterSheetDisplay.from_estimator(model, X, images=images[:, 0].reshape(6, 81))


def test_images_may_be_larger_than_those_fitted():
    X = random_images(6, 3, 4, 4)
    model = Given().fit(X, image_shape=(3, 4, 4))
    images = random_images(6, 20, 30, 3)
    display = ClusterSheetDisplay.from_estimator(model, X, images=images, clusters=[0])
    assert_shows(display, images, [[0, 4, 2]])


def test_sheet_of_a_pipeline():
    X = random_images(6, 20)
    pipeline = make_pipeline(FunctionTransformer(), Given())
    pipeline.fit(X, given__image_shape=(1, 4, 5))
    display = ClusterSheetDisplay.from_estimator(pipeline, X, clusters=[1])
    assert_shows(display, X.reshape(6, 4, 5), [[1, 3, 5]])
    assert display.title.startswith("Given: 6 images")


def test_sheet_of_empty_clusters_only():
    X = random_images(6, 4, 4)
    for images in (X, torch.from_numpy(X), X.tolist(), ["a.png"] * 6):
        display = ClusterSheetDisplay.from_estimator(
            Given().fit(X), images, clusters=[2]
        )
        assert shown(display.axes_[0]) == []
        assert texts(display.axes_[0])[2] == "empty"


@pytest.mark.parametrize(
    "n_clusters, n_columns, expected",
    [(2, None, 1), (10, None, 1), (11, None, 2), (20, None, 2), (5, 3, 3), (2, 9, 2)],
)
def test_sheet_layout(n_clusters, n_columns, expected):
    X, _ = load_digits_images()
    proba = np.eye(n_clusters)[np.arange(len(X)) % n_clusters]
    display = ClusterSheetDisplay.from_estimator(
        Given(proba).fit(X), X, n_images=3, n_columns=n_columns
    )
    display.figure_.draw_without_rendering()
    axes = display.axes_
    assert len(axes) == len(display.figure_.axes) == n_clusters
    # reading order: down the first column, then down the next
    order = [(ax.get_position().x0, -ax.get_position().y0) for ax in axes]
    assert order == sorted(order)
    assert len({round(x, 3) for x, _ in order}) == expected
    # nothing overlaps or leaves the figure: texts and images of each row
    boxes = [ax.get_tightbbox() for ax in axes]
    whole = display.figure_.bbox.padded(1)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1
    assert not any(ax.axison for ax in axes)


def test_sheet_is_drawn_where_it_is_told():
    X = random_images(6, 4, 4)
    figure = plt.figure(figsize=(8, 3))
    left, right = figure.subfigures(1, 2)
    model = Given().fit(X)
    display = ClusterSheetDisplay.from_estimator(model, X, figure=right)
    assert display.figure_ is right
    assert [ax.get_figure(root=False) for ax in display.axes_] == [right] * 3
    assert not left.axes
    again = display.plot(figsize=(5, 6))
    assert again is display
    assert display.figure_.get_size_inches().tolist() == [5, 6]


def test_sheet_of_kmeans_like_clusters_of_digits():
    X, _ = load_digits_images()
    flat = X.reshape(len(X), -1).astype(float)
    kmeans = KMeans(10, n_init=1, random_state=0).fit(flat)
    distance = kmeans.transform(flat)
    odds = np.exp(-distance / distance.std())
    proba = odds / odds.sum(axis=1, keepdims=True)
    display = ClusterSheetDisplay.from_estimator(Given(proba).fit(X), X)
    assert (display.sizes == np.bincount(kmeans.labels_)).all()
    for cluster, indices in enumerate(display.indices):
        assert len(indices) == 10
        assert (kmeans.labels_[indices] == cluster).all()
        values = proba[indices, cluster]
        assert (np.diff(values) <= 0).all()
        rest = np.setdiff1d(np.flatnonzero(kmeans.labels_ == cluster), indices)
        assert values.min() >= proba[rest, cluster].max()


@pytest.mark.parametrize(
    "params, message",
    [
        (
            {"order": "first"},
            "order='first' should be 'typical', 'uncertain' or 'random'",
        ),
        ({"n_images": 0}, "n_images=0 should be at least 1"),
        ({"n_columns": 0}, "n_columns=0 should be at least 1"),
        ({"clusters": [0, 3]}, r"clusters=\[0, 3\] should be some .* 0 to 2"),
        ({"clusters": [-1]}, r"clusters=\[-1\] should be some"),
        ({"clusters": []}, r"clusters=\[\] should be some"),
        ({"images": np.zeros((5, 4, 4))}, "Got 5 images for the 6 rows of X"),
        ({"images": np.zeros((6, 5, 9, 8))}, "neither axis 1 nor axis 3 holds"),
        ({"images": np.zeros((6, 3, 9, 3))}, "ambiguous"),
    ],
)
def test_sheet_errors(params, message):
    X = random_images(6, 4, 4)
    with pytest.raises(ValueError, match=message):
        ClusterSheetDisplay.from_estimator(Given().fit(X), X, **params)


def test_sheet_errors_of_the_estimator():
    X = random_images(6, 4, 4)
    with pytest.raises(TypeError, match="KMeans has no predict_proba"):
        ClusterSheetDisplay.from_estimator(KMeans(), X)
    with pytest.raises(NotFittedError, match="Given instance is not fitted"):
        ClusterSheetDisplay.from_estimator(Given(), X)
    hyperspectral = random_images(6, 5, 4, 4)
    model = Given().fit(X, image_shape=(5, 4, 4))
    with pytest.raises(ValueError, match="Images of 5 channels cannot be shown"):
        ClusterSheetDisplay.from_estimator(model, hyperspectral)


def test_history_has_a_panel_for_each_number():
    model = Given().fit(None, history=HISTORY)
    display = HistoryDisplay.from_estimator(model)
    titles = [ax.get_title(loc="left") for ax in display.axes_]
    assert titles == ["loss", "loss_group", "cluster_sizes", "lr"]
    assert len(display.figure_.axes) == 4
    assert display.figure_.get_suptitle() == "Given: training"
    loss, group, sizes, rate = display.axes_
    for ax, expected in (
        (loss, [2.75, 2.5, 2.25, 2.0]),
        (group, [0.5, 1.0, 1.5, 2.0]),
        (rate, [0.1, 0.05, 0.1 / 3, 0.025]),
    ):
        (line,) = ax.lines
        assert line.get_xdata().tolist() == [1, 2, 3, 4]
        assert line.get_ydata() == pytest.approx(expected)
    largest, median, smallest = sizes.lines
    assert largest.get_ydata().tolist() == [11, 12, 13, 14]
    assert median.get_ydata().tolist() == [10, 10, 10, 10]
    assert smallest.get_ydata().tolist() == [9, 8, 7, 6]
    labels = [text.get_text() for text in sizes.get_legend().get_texts()]
    assert labels == ["largest", "median", "smallest"]
    assert sizes.get_ylim()[0] == 0


def test_history_of_one_epoch_can_be_seen():
    display = HistoryDisplay(history=HISTORY[:1]).plot()
    display.figure_.canvas.draw()
    for ax in display.axes_:
        low, high = ax.get_xlim()
        assert low < 1 < high
        for line in ax.lines:
            assert line.get_marker() == "o"
            assert line.get_ydata().size == 1
        ticks = [tick for tick in ax.get_xticks() if low <= tick <= high]
        assert 1 in ticks
        assert all(float(tick).is_integer() for tick in ticks)


def test_long_history_has_no_markers():
    history = [{"loss": 1 / (1 + i)} for i in range(21)]
    (ax,) = HistoryDisplay(history=history).plot().axes_
    assert ax.lines[0].get_marker() == "None"
    assert ax.lines[0].get_xdata().tolist() == list(range(1, 22))


def test_history_with_holes_keeps_the_epochs():
    history = [
        {"epoch": 3, "loss_vae": torch.tensor(2.0), "cluster_sizes": None},
        {"epoch": 5, "loss_vae": None, "cluster_sizes": [4, 2]},
        {"epoch": 6, "loss_late": np.float32(1.5), "loss_text": "nan?"},
        {"epoch": 9, "loss_vae": 1.0, "cluster_sizes": np.array([3, 2, 1])},
    ]
    display = HistoryDisplay(history=history).plot()
    panels = {ax.get_title(loc="left"): ax for ax in display.axes_}
    assert list(panels) == ["loss_vae", "loss_late", "cluster_sizes"]
    (line,) = panels["loss_vae"].lines
    assert line.get_xdata().tolist() == [3, 5, 6, 9]
    np.testing.assert_array_equal(line.get_ydata(), [2, np.nan, np.nan, 1])
    smallest = panels["cluster_sizes"].lines[2]
    assert smallest.get_xdata().tolist() == [5, 9]
    assert smallest.get_ydata().tolist() == [2, 1]


def test_history_numbers_the_epochs_itself_where_they_start_again():
    history = [{"epoch": e, "loss": 1.0} for e in (1, 2, 1, 2)]
    (ax,) = HistoryDisplay(history=history).plot().axes_
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("n_columns, shape", [(3, (2, 3)), (2, (2, 2)), (9, (1, 4))])
def test_history_layout(n_columns, shape):
    model = make_pipeline(Given()).fit(None, given__history=HISTORY)
    display = HistoryDisplay.from_estimator(model, n_columns=n_columns)
    display.figure_.draw_without_rendering()
    grid = display.axes_[0].get_gridspec()
    assert (grid.nrows, grid.ncols) == shape
    # the lowest panel of each column names the axis and its ticks
    lowest = [ax.get_xlabel() == "epoch" for ax in display.axes_]
    assert lowest == [False] * (4 - grid.ncols) + [True] * grid.ncols
    for ax, is_lowest in zip(display.axes_, lowest, strict=True):
        labels = [label for label in ax.get_xticklabels() if label.get_visible()]
        assert bool(labels) == is_lowest
    boxes = [ax.get_tightbbox() for ax in display.axes_]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_history_is_drawn_where_it_is_told():
    left, right = plt.figure().subfigures(1, 2)
    display = HistoryDisplay(history=HISTORY).plot(figure=right)
    assert display.figure_ is right
    assert len(right.axes) == 4
    assert not left.axes
    display.plot(figsize=(4, 3))
    assert display.figure_.get_size_inches().tolist() == [4, 3]


def test_history_errors():
    with pytest.raises(TypeError, match="KMeans has no history_"):
        HistoryDisplay.from_estimator(KMeans(1, n_init=1).fit([[0.0], [1.0]]))
    with pytest.raises(NotFittedError, match="Given instance is not fitted"):
        HistoryDisplay.from_estimator(Given())
    for history in ([], [{"epoch": 1, "seconds": 2.0, "loss": None}]):
        with pytest.raises(ValueError, match=f"history of {len(history)} epochs"):
            HistoryDisplay(history=history).plot()
    with pytest.raises(ValueError, match="n_columns=0 should be at least 1"):
        HistoryDisplay(history=HISTORY).plot(n_columns=0)


class GivenFacets(Given):
    """Two facets: the given one, and two clusters; it draws what it is asked for."""

    primary_facet = -1
    facet_slices_ = [slice(0, 1), slice(1, 2)]
    image_shape_ = (1, 4, 4)
    layout_ = Layout((1, 4, 4), False, (4, 4), np.dtype(np.uint8))

    def predict_proba_facets(self, X):
        last = np.array([[0.6, 0.4], [0.8, 0.2], [0, 1], [0, 1], [0.3, 0.7], [1, 0]])
        return [self.proba, last]

    def sample(self, n_samples, facet, cluster, temperature, random_state):
        images = np.full((n_samples, 4, 4), 100 * facet + 10 * cluster)
        images[:, 0, 0] = random_state.randint(256, size=n_samples)
        images[:, 1, 1] = 10 * temperature
        return images.astype(np.uint8), None

    def swap_facets(self, X_a, X_b, facets):
        swapped = np.array(X_a)
        swapped[:, 2:] = X_b[:, 2:]
        swapped[:, 0, 0] = sum(facets)
        return swapped


def test_facets_show_what_is_typical_of_each_cluster():
    X = random_images(6, 4, 4)
    display = FacetsDisplay.from_estimator(GivenFacets().fit(X), X, n_images=2)
    expected = [[[0, 4], [1, 3], []], [[5, 1], [2, 3]]]
    assert [[rows.tolist() for rows in own] for own in display.indices] == expected
    for facet, rows in enumerate(expected):
        for row, indices in zip(display.images[facet], rows, strict=True):
            np.testing.assert_array_equal(row, list(X[indices]))
    assert [own.tolist() for own in display.sizes] == [[3, 3, 0], [3, 3]]
    assert display.n_clusters == [3, 2]
    assert texts(display.axes_[0])[:4] == [
        "Cluster 0",
        "3 · 50.0%",
        "Cluster 1",
        "3 · 50.0%",
    ]
    titles = [ax.get_title(loc="left") for ax in display.axes_]
    assert titles == ["Facet 0: 3 clusters", "Facet 1: 2 clusters", "Facet 1 exchanged"]
    title = "GivenFacets: 6 images in 2 facets"
    assert display.figure_.get_suptitle() == display.title == title


def test_facets_are_drawn_from_each_cluster():
    X = random_images(6, 4, 4)
    model = GivenFacets().fit(X)
    display, again, other = (
        FacetsDisplay.from_estimator(
            model, X, n_samples=3, temperature=0.5, random_state=seed
        )
        for seed in (0, 0, 1)
    )
    for facet, own in enumerate(display.samples):
        for cluster, row in enumerate(own):
            assert len(row) == 3
            for image in row:
                assert image[3, 3] == 100 * facet + 10 * cluster
                assert image[1, 1] == 5
    first = [image[0, 0] for own in display.samples for row in own for image in row]
    assert len(set(first)) > 5  # every cluster has noise of its own
    np.testing.assert_array_equal(display.samples[0], again.samples[0])
    assert (np.array(display.samples[0]) != other.samples[0]).any()
    without = FacetsDisplay.from_estimator(model, X, n_samples=0)
    assert without.samples == [[[], [], []], [[], []]]
    assert "drawn" in texts(display.axes_[0])
    assert "drawn" not in texts(without.axes_[0])


@pytest.mark.parametrize(
    "swap, swapped, rows, columns",
    [
        ("auto", [1], [0, 1], [5, 2]),
        (-1, [1], [0, 1], [5, 2]),
        ([0], [0], [5, 2], [0, 1]),
    ],
)
def test_facets_are_exchanged(swap, swapped, rows, columns):
    X = random_images(6, 4, 4)
    display = FacetsDisplay.from_estimator(GivenFacets().fit(X), X, swap=swap)
    assert display.swapped == swapped
    # at the heads, the most typical image of each cluster that has one
    np.testing.assert_array_equal(display.swap_rows, X[rows])
    np.testing.assert_array_equal(display.swap_columns, X[columns])
    for r, row in zip(rows, display.swap_grid, strict=True):
        for c, image in zip(columns, row, strict=True):
            assert image[0, 0] == swapped[0]
            np.testing.assert_array_equal(image[1], X[r, 1])
            np.testing.assert_array_equal(image[2:], X[c, 2:])
    grid = display.axes_[-1]
    assert len(grid.images) == 2 + 2 * 3
    # each image stands right of the head of its row and below that of its column
    found = {tuple(np.ravel(i.get_array())): i.get_extent() for i in grid.images}
    for r in range(2):
        for c in range(2):
            left, _, bottom, _ = found[tuple(np.ravel(display.swap_grid[r][c]))]
            head = found[tuple(np.ravel(display.swap_rows[r]))]
            assert bottom == head[2] and left > head[0]
            head = found[tuple(np.ravel(display.swap_columns[c]))]
            assert left == head[0] and bottom < head[2]


def test_facets_without_a_grid():
    X = random_images(6, 4, 4)
    display = FacetsDisplay.from_estimator(GivenFacets().fit(X), X, swap=None)
    assert len(display.axes_) == 2
    assert display.swap_grid == display.swap_rows == display.swapped == []


def test_facets_of_many_clusters_show_the_largest():
    X = random_images(6, 4, 4)
    model = GivenFacets(PROBA[:, [2, 1, 0]]).fit(X)
    display = FacetsDisplay.from_estimator(model, X, max_clusters=2)
    # in the order of their numbers; the empty one is left out
    assert [own.tolist() for own in display.clusters] == [[1, 2], [0, 1]]
    assert display.axes_[0].get_title(loc="left") == "Facet 0: 2 of 3 clusters"
    assert texts(display.axes_[0])[0] == "Cluster 1"
    assert [row[0][3, 3] for row in display.samples[0]] == [10, 20]


def test_facets_layout():
    X = random_images(6, 4, 4)
    model = GivenFacets().fit(X)
    for n_columns in (None, 2, 1, 9):
        display = FacetsDisplay.from_estimator(model, X, n_columns=n_columns)
        display.figure_.draw_without_rendering()
        assert len(display.axes_) == len(display.figure_.axes) == 3
        grid = display.axes_[0].get_gridspec()
        n = min(n_columns or 3, 3)
        assert (grid.nrows, grid.ncols) == (-(-3 // n), n)
        boxes = [ax.get_tightbbox() for ax in display.axes_]
        whole = display.figure_.bbox.padded(1)
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:i])
            assert whole.x0 <= box.x0 < box.x1 <= whole.x1
            assert whole.y0 <= box.y0 < box.y1 <= whole.y1
    left, right = plt.figure().subfigures(1, 2)
    display.plot(figure=right)
    assert display.figure_ is right
    assert not left.axes
    assert display.plot(figsize=(8, 6)) is display
    assert display.figure_.get_size_inches().tolist() == [8, 6]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["grey", "last", "first", "flat", "float", "paths"])
def test_facets_of_a_fitted_model(kind, tmp_path):
    images = random_images(40, 8, 8, 3)
    X, settings = images, {}
    if kind == "grey":
        X = images[..., 0]
    elif kind == "first":
        X = np.moveaxis(images, -1, 1)
    elif kind == "flat":
        X = np.moveaxis(images, -1, 1).reshape(40, -1)
        settings = {"image_shape": (3, 8, 8)}
    elif kind == "float":
        X = images / 100 - 1
    elif kind == "paths":
        X = [str(tmp_path / f"{i}.png") for i in range(40)]
        for path, pixels in zip(X, images, strict=True):
            Image.fromarray(pixels).save(path)
    model = MFCVAE(
        n_clusters=2,
        latent_dims=2,
        hidden_dims=8,
        max_epochs=2,
        random_state=0,
        **settings,
    ).fit(X)
    display = FacetsDisplay.from_estimator(model, X, n_images=3, n_samples=2)
    shape = (8, 8) if kind == "grey" else (8, 8, 3)
    shown_by_estimator = images[..., 0] if kind == "grey" else images
    # the range is that of real and drawn images together
    atol = 1.0 if kind == "float" else 0
    for own, indices in zip(display.images, display.indices, strict=True):
        for row, rows in zip(own, indices, strict=True):
            assert len(row) == min(3, len(rows))
            for image, index in zip(row, rows, strict=True):
                assert image.shape == shape
                if not atol:
                    np.testing.assert_array_equal(image, shown_by_estimator[index])
                else:
                    close = np.corrcoef(image.ravel(), images[index].ravel())[0, 1]
                    assert close == pytest.approx(1)
    drawn = [image for own in display.samples for row in own for image in row]
    drawn += [image for row in display.swap_grid for image in row]
    assert {image.shape for image in drawn} == {shape}
    if kind == "float":
        assert 0 <= min(i.min() for i in drawn) <= max(i.max() for i in drawn) <= 1
    else:
        assert {image.dtype for image in drawn} == {np.dtype(np.uint8)}


@pytest.mark.parametrize(
    "params, message",
    [
        ({"n_images": 0}, "n_images=0 should be at least 1"),
        ({"n_samples": -1}, "n_samples=-1 should be at least 0"),
        ({"max_clusters": 0}, "max_clusters=0 should be at least 1"),
        ({"n_columns": 0}, "n_columns=0 should be at least 1"),
        ({"swap": 2}, "swap=2 should be 'auto', None, or facets from -2 to 1"),
        ({"swap": "all"}, "swap='all' should be 'auto', None"),
        ({"swap": [0, -1]}, r"swap=\[0, -1\] should hold one .* leave one of the 2"),
        ({"swap": []}, r"swap=\[\] should hold one facet at least"),
    ],
)
def test_facets_errors(params, message):
    X = random_images(6, 4, 4)
    with pytest.raises(ValueError, match=message):
        FacetsDisplay.from_estimator(GivenFacets().fit(X), X, **params)


def test_facets_errors_of_the_estimator():
    X = random_images(6, 4, 4)
    with pytest.raises(TypeError, match="KMeans has no predict_proba_facets"):
        FacetsDisplay.from_estimator(KMeans(), X)
    with pytest.raises(NotFittedError, match="MFCVAE instance is not fitted"):
        FacetsDisplay.from_estimator(MFCVAE(), X)
    model = GivenFacets().fit(X)
    model.image_shape_ = (1, 1, 16)
    with pytest.raises(ValueError, match=r"vectors \(shape \(6, 16\)\)"):
        FacetsDisplay.from_estimator(model, X.reshape(6, 16))


def test_missing_matplotlib_is_named_with_its_remedy(monkeypatch):
    X = random_images(6, 4, 4)
    model = Given().fit(X, history=HISTORY)
    sheet = ClusterSheetDisplay.from_estimator(model, X)
    facets = FacetsDisplay.from_estimator(GivenFacets().fit(X), X)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    remedy = r"needs matplotlib, .* pip install skdeepcluster\[plot\]"
    for call in (
        lambda: ClusterSheetDisplay.from_estimator(model, X),
        lambda: FacetsDisplay.from_estimator(GivenFacets().fit(X), X),
        lambda: HistoryDisplay.from_estimator(model),
        sheet.plot,
        facets.plot,
        HistoryDisplay(history=HISTORY).plot,
    ):
        with pytest.raises(ImportError, match=remedy):
            call()
