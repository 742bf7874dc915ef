import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgba

from skdeepcluster.metrics import clustering_accuracy
from skdeepcluster.plots import ConfusionDisplay
from skdeepcluster.plots._confusion import brief

CLASSES = np.repeat(["ant", "bee", "cat"], [4, 5, 3])
CLUSTERS = np.array([2, 2, 2, 0, 0, 0, 0, 0, 7, 7, 7, 2])


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def cells(display):
    """Texts of the cells, by row and column."""
    return {
        tuple(map(round, text.get_position()[::-1])): text.get_text()
        for text in display.ax_.texts
    }


def test_matched_labels_are_on_the_diagonal():
    display = ConfusionDisplay.from_labels(CLASSES, CLUSTERS, names=("class", "group"))
    assert display.rows.tolist() == ["ant", "bee", "cat"]
    assert display.columns.tolist() == [2, 0, 7]
    assert display.table.tolist() == [[3, 1, 0], [0, 4, 1], [1, 0, 2]]
    assert display.accuracy == clustering_accuracy(CLASSES, CLUSTERS) == 9 / 12
    shares = [[3 / 4, 1 / 4, 0], [0, 4 / 5, 1 / 5], [1 / 3, 0, 2 / 3]]
    (image,) = display.ax_.images
    np.testing.assert_allclose(image.get_array(), shares)
    assert image.get_clim() == (0, 1)
    assert cells(display) == {
        (0, 0): "3\n75%",
        (0, 1): "1\n25%",
        (1, 1): "4\n80%",
        (1, 2): "1\n20%",
        (2, 0): "1\n33%",
        (2, 2): "2\n67%",
    }
    ax = display.ax_
    assert [t.get_text() for t in ax.get_xticklabels()] == ["2", "0", "7"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["ant", "bee", "cat"]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("class", "group")
    # of 66 pairs 10 are together in both, 19 in each
    ari = (10 - 19 * 19 / 66) / (19 - 19 * 19 / 66)
    title = f"12 samples, 75.0% of them matched, ARI {ari:.2f}"
    assert display.figure_.get_suptitle() == display.title == title


@pytest.mark.parametrize("turned", [False, True])
def test_labels_that_are_left_over_come_last(turned):
    few = np.repeat([0, 1], [6, 4])
    many = np.array([3, 3, 3, 5, 5, -1, 4, 4, 4, 9])
    a, b = (many, few) if turned else (few, many)
    display = ConfusionDisplay.from_labels(a, b)
    rows, columns = (
        (display.columns, display.rows) if turned else (display.rows, display.columns)
    )
    assert rows.tolist() == [0, 1]
    assert columns.tolist() == [3, 4, -1, 5, 9]
    table = display.table.T if turned else display.table
    assert table.tolist() == [[3, 0, 1, 2, 0], [0, 3, 0, 0, 1]]
    assert display.accuracy == clustering_accuracy(a, b) == 0.6


@pytest.mark.parametrize("n", [1, 2, 12, 13, 40])
def test_every_text_is_within_its_cell(n):
    rng = np.random.default_rng(0)
    a = np.concatenate([np.arange(n)] * 200)
    b = np.where(rng.random(len(a)) < 0.9, a, rng.integers(0, n, len(a)))
    display = ConfusionDisplay.from_labels(a, b)
    figure, ax = display.figure_, display.ax_
    figure.draw_without_rendering()
    assert (max(display.table.sum(axis=1)) == 200) and display.accuracy > 0.85
    with_share = "\n" in ax.texts[0].get_text()
    assert with_share == (n <= 12)
    side = ax.transData.transform([(1, 0)]) - ax.transData.transform([(0, 0)])
    for text in ax.texts[:: max(1, n // 3)]:
        box = text.get_window_extent()
        assert box.width < side[0, 0] and box.height < side[0, 0]
    assert text.get_fontsize() >= 6


def test_text_can_be_read_on_a_dark_figure():
    for dark in (True, False):
        with plt.style.context("dark_background" if dark else "default"):
            figure = plt.figure().subfigures()
            display = ConfusionDisplay.from_labels(CLASSES, CLUSTERS, figure=figure)
        assert display.figure_ is figure
        (image,) = display.ax_.images
        empty = np.mean(image.to_rgba(np.array([[0.0]]))[0, 0, :3])
        assert empty == (0 if dark else 1)
        for text in display.ax_.texts:
            row, column = map(round, text.get_position()[::-1])
            cell = image.cmap(image.get_array()[row, column])
            assert abs(to_rgba(text.get_color())[0] - np.mean(cell[:3])) > 0.35


def test_counts_are_short():
    found = [brief(count) for count in (7, 9_999, 12_345, 999_499, 1_234_567)]
    assert found == ["7", "9999", "12k", "999k", "1.2M"]


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        ConfusionDisplay.from_labels([0, 1], [0, 1, 1])
    with pytest.raises(ValueError, match="labels_b should be labels of shape"):
        ConfusionDisplay.from_labels([0, 1], [[0.5, 0.5], [0.2, 0.8]])
    with pytest.raises(ValueError, match="0 sample"):
        ConfusionDisplay.from_labels([], [])
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    message = r"from_labels needs matplotlib.*skdeepcluster\[plot\]"
    with pytest.raises(ImportError, match=message):
        ConfusionDisplay.from_labels([0, 1], [0, 1])


def test_two_names_are_needed():
    with pytest.raises(ValueError, match=r"names=\('a',\) should be two"):
        ConfusionDisplay.from_labels([0, 1], [0, 1], names=("a",))
