import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdeepcluster.metrics import expected_calibration_error
from skdeepcluster.plots import ReliabilityDisplay

Y = ["ant", "ant", "bee", "bee", "bee", "ant"]
# two bins: confidences .4 and .45 below, .6, .8, .9 and 1 above; the last is wrong
PROBA = np.array(
    [
        [0.4, 0.3, 0.3],
        [0.6, 0.4, 0.0],
        [0.2, 0.8, 0.0],
        [0.1, 0.9, 0.0],
        [0.35, 0.45, 0.2],
        [0.0, 1.0, 0.0],
    ]
)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def heights(ax):
    return [bar.get_height() for bar in ax.patches]


def test_bars_are_accuracies_and_shares():
    display = ReliabilityDisplay.from_predictions(Y, PROBA, n_bins=2)
    assert display.sizes.tolist() == [2, 4]
    np.testing.assert_allclose(display.accuracies, [1, 0.75])
    np.testing.assert_allclose(display.confidences, [0.425, 0.825])
    ece = (2 * 0.575 + 4 * 0.075) / 6
    assert display.ece == pytest.approx(ece)
    assert display.ece == expected_calibration_error(Y, PROBA, n_bins=2)
    bars, shares = display.axes_
    np.testing.assert_allclose(heights(bars), [1, 0.75])
    np.testing.assert_allclose(heights(shares), [1 / 3, 2 / 3])
    assert [bar.get_x() for bar in bars.patches] == [0, 0.5]
    dots, diagonal = bars.lines
    np.testing.assert_allclose(dots.get_xdata(), display.confidences)
    np.testing.assert_allclose(dots.get_ydata(), display.accuracies)
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    title = f"ECE {ece:.3f}"
    assert display.figure_.get_suptitle() == display.title == title


def test_empty_bins_have_no_bar():
    display = ReliabilityDisplay.from_predictions(Y, PROBA, n_bins=4)
    assert display.sizes.tolist() == [0, 2, 1, 3]
    assert np.isnan(display.accuracies[0]) and np.isnan(display.confidences[0])
    assert heights(display.axes_[0])[0] == 0


def test_an_estimator_and_a_pipeline_are_predicted():
    X, y = make_blobs(90, centers=3, cluster_std=2.0, random_state=0)
    model = GaussianMixture(3, random_state=0)
    for estimator in (model, make_pipeline(StandardScaler(), model)):
        proba = estimator.fit(X).predict_proba(X)
        display = ReliabilityDisplay.from_estimator(estimator, X, y)
        assert display.ece == expected_calibration_error(y, proba)
        assert display.title == f"GaussianMixture: ECE {display.ece:.3f}"
        assert len(display.sizes) == 15


def test_it_is_drawn_where_it_is_told():
    left, right = plt.figure(layout="constrained").subfigures(1, 2)
    display = ReliabilityDisplay.from_predictions(Y, PROBA, figure=right, name="Mine")
    assert display.figure_ is right and display.title.startswith("Mine: ")
    assert len(right.axes) == 2 and not left.axes
    assert display.plot(figsize=(4, 3)) is display
    assert display.figure_.get_size_inches().tolist() == [4, 3]
    display.figure_.draw_without_rendering()
    upper, lower = (ax.get_tightbbox() for ax in display.axes_)
    assert not upper.overlaps(lower)


def test_errors(monkeypatch):
    with pytest.raises(NotFittedError):
        ReliabilityDisplay.from_estimator(GaussianMixture(2), [[0.0]], [0])
    kmeans = KMeans(1, n_init=1).fit([[0.0], [1.0]])
    with pytest.raises(TypeError, match="KMeans has no predict_proba"):
        ReliabilityDisplay.from_estimator(kmeans, [[0.0], [1.0]], [0, 0])
    with pytest.raises(ValueError, match="n_bins=0"):
        ReliabilityDisplay.from_predictions(Y, PROBA, n_bins=0)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        ReliabilityDisplay.from_predictions(Y[:5], PROBA)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    message = r"from_predictions needs matplotlib.*skdeepcluster\[plot\]"
    with pytest.raises(ImportError, match=message):
        ReliabilityDisplay.from_predictions(Y, PROBA)
