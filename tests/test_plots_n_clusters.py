import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from estimators import fitted, make_stripes
from matplotlib.colors import to_hex
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdeepcluster.model_selection import MergeTree, NClustersSearch
from skdeepcluster.plots import DendrogramDisplay, NClustersDisplay
from skdeepcluster.plots._style import LINE

RESULTS = {
    "n_clusters": np.array([2, 3, 4, 5]),
    "silhouette": np.array([0.2, 0.4, 0.39, 0.5]),
    "stability": np.array([0.9, 0.8, 0.7, 0.3]),
    "stability_std": np.array([0.1, 0.0, 0.1, 0.2]),
    "generalization": np.array([1.0, 0.9, 0.8, 0.7]),
    "smallest": np.array([0.4, 0.3, 0.2, 0.1]),
}
TREE = MergeTree([[0.0], [1.0], [5.0], [5.5], [9.0]], [0, 1, 2, 3, 3])
IMAGES = make_stripes()[0]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def is_filled(ax):
    faces = ax.collections[0].get_facecolors()
    return [to_hex(face) == LINE for face in faces]


def test_curves_and_what_was_chosen():
    display = NClustersDisplay(results=RESULTS, chosen=3, candidates=[3, 4]).plot()
    names = ("silhouette", "stability", "generalization", "smallest")
    for ax, name in zip(display.axes_, names, strict=True):
        chosen, curve = ax.lines
        np.testing.assert_array_equal(curve.get_ydata(), RESULTS[name])
        np.testing.assert_array_equal(curve.get_xdata(), RESULTS["n_clusters"])
        assert list(chosen.get_xdata()) == [3, 3]
    assert is_filled(display.axes_[0]) == [False, True, True, False]
    assert is_filled(display.axes_[1]) == [True, True, True, False]  # 5 is unstable
    display.figure_.draw_without_rendering()
    boxes = [ax.get_tightbbox() for ax in display.axes_]
    assert not any(boxes[0].overlaps(box) for box in boxes[1:])


def test_a_search_is_plotted_or_run():
    X, _ = make_blobs(90, centers=3, cluster_std=0.5, random_state=1)
    model = make_pipeline(StandardScaler(), KMeans(n_init=1, random_state=0))
    search = NClustersSearch(model, [2, 3, 4], n_splits=1, random_state=0)
    with pytest.raises(NotFittedError):
        NClustersDisplay.from_search(search)
    right = plt.figure(layout="constrained").subfigures(1, 2)[1]
    display = NClustersDisplay.from_search(search.fit(X), figure=right)
    assert display.title == "KMeans: 3 clusters, confidence high"
    assert display.figure_ is right and display.results is search.results_
    again = NClustersDisplay.from_estimator(
        model, X, [2, 3, 4], n_splits=1, random_state=0, figsize=(5, 4)
    )
    assert again.chosen == 3 and again.candidates == search.candidates_
    assert again.figure_.get_size_inches().tolist() == [5, 4]


def test_branches_end_at_the_rows_of_their_leaves():
    display = DendrogramDisplay.from_tree(TREE, n_clusters=2)
    tree, rows = display.axes_
    assert display.order_.tolist() == [0, 1, 2, 3]
    texts = [text.get_text() for text in rows.texts]
    assert texts == ["0 · 1", "1 · 1", "2 · 1", "3 · 2"]
    cut, *branches = tree.lines
    low, high = TREE.linkage_[-2:, 2]
    assert list(cut.get_xdata()) == [(low + high) / 2] * 2
    first = branches[[b.get_xdata()[1] for b in branches].index(1.0)]
    np.testing.assert_array_equal(first.get_xdata(), [0, 1, 1, 0])
    np.testing.assert_array_equal(first.get_ydata(), [0, 0, 1, 1])
    colors = [strip.get_color() for strip in rows.lines]
    ends = [np.mean(strip.get_ydata()) for strip in rows.lines]
    np.testing.assert_allclose(ends, [3.5, 2.5, 1.5, 0.5])  # beside the texts
    assert colors[0] == colors[1] == first.get_color()
    assert colors[2] == colors[3] != colors[0]
    uncut = DendrogramDisplay.from_tree(TREE)
    assert len(uncut.axes_[0].lines) == 3
    assert not uncut.axes_[1].lines


def test_rows_show_their_most_typical_images():
    images = np.zeros((5, 4, 4), np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None]
    display = DendrogramDisplay.from_tree(TREE, images, n_images=1)
    shown = [row[0][0, 0] for row in display.images]
    assert shown == [0, 1, 2, 3]  # 3 and 4 are as near to the centre of the last
    tiles = display.axes_[1].images
    values = [tile.get_array()[0, 0] for tile in tiles]
    assert values == [shown[leaf] for leaf in display.order_]
    bottoms = [tile.get_extent()[2] for tile in tiles]
    assert bottoms == sorted(bottoms, reverse=True)


def test_images_come_out_of_an_estimator_or_beside_it():
    model = fitted("SCL")
    display = DendrogramDisplay.from_estimator(model, IMAGES, n_images=2)
    n_leaves = len(np.unique(model.labels_))
    assert display.title == f"SCL: {n_leaves} clusters and how they merge"
    assert all(len(row) == 2 and row[0].shape == (8, 8) for row in display.images)
    rows = IMAGES.reshape(60, -1) / 255.0
    kmeans = KMeans(4, n_init=1, random_state=0).fit(rows)
    display = DendrogramDisplay.from_estimator(kmeans, rows, images=IMAGES)
    nearest = kmeans.transform(rows)[:, 0].argmin()
    np.testing.assert_array_equal(display.images[0][0], IMAGES[nearest])
    with pytest.raises(ValueError, match="cannot be shown"):
        DendrogramDisplay.from_estimator(kmeans, rows)


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match="n_images=0"):
        DendrogramDisplay.from_tree(TREE, IMAGES[:5], n_images=0)
    with pytest.raises(ValueError, match="Got 6 images for the 5 samples"):
        DendrogramDisplay.from_tree(TREE, IMAGES[:6])
    with pytest.raises(ValueError, match="n_clusters=9"):
        DendrogramDisplay.from_tree(TREE, n_clusters=9)
    assert not plt.get_fignums()  # no figure was left behind
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for plot in (
        lambda: DendrogramDisplay.from_tree(TREE),
        lambda: NClustersDisplay(results=RESULTS, chosen=3).plot(),
    ):
        with pytest.raises(ImportError, match=r"needs matplotlib.*\[plot\]"):
            plot()


def test_what_is_no_search():
    with pytest.raises(TypeError, match="KMeans is no search for the number"):
        NClustersDisplay.from_search(KMeans(2))
