"""Text of every display can be read, whatever is behind it."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from skdeepcluster import plots
from skdeepcluster.model_selection import MergeTree
from skdeepcluster.plots._style import background

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (12, 4, 4)).astype(np.uint8)
LABELS = np.repeat([0, 1, 2], 4)
PLACES = RNG.normal(size=(12, 2))
NUMBERS = np.array([2, 3, 4])
CURVES = ("silhouette", "stability", "stability_std", "generalization", "smallest")
TILES = [[[X[0], X[1]], [X[2]]]]
EPOCHS = [{"epoch": e, "loss": 1 / e, "cluster_sizes": [e, 4]} for e in (1, 2)]


def merged(figure):
    tree = MergeTree(PLACES, LABELS)
    images = [list(X[:2])] * 3
    return plots.DendrogramDisplay(
        tree=tree, images=images, n_clusters=2, title="t"
    ).plot(figure=figure)


DISPLAYS = {
    "ClusterSheetDisplay": lambda figure: plots.ClusterSheetDisplay.from_predictions(
        X, [-1, -1, *LABELS[2:]], show_names=True, figure=figure
    ),
    "ConfusionDisplay": lambda figure: plots.ConfusionDisplay.from_labels(
        LABELS, [0, 0, 0, 1, *LABELS[4:]], figure=figure
    ),
    "DendrogramDisplay": merged,
    "EmbeddingDisplay": lambda figure: plots.EmbeddingDisplay.from_embedding(
        PLACES, [-1, *LABELS[1:]], figure=figure
    ),
    "FacetsDisplay": lambda figure: plots.FacetsDisplay(
        images=TILES * 2,
        samples=[[[X[4]], []]] * 2,
        clusters=[[0, 1]] * 2,
        sizes=[[6, 6]] * 2,
        n_clusters=[3, 2],
        n_samples=12,
        swap_rows=[X[5]],
        swap_columns=[X[6]],
        swap_grid=[[X[7]]],
        swapped=[1],
        title="title",
    ).plot(figure=figure),
    "GeneratedSheetDisplay": lambda figure: plots.GeneratedSheetDisplay(
        real=[[X[0]]], generated=[[X[1]]], nearest=[[X[2]]], clusters=[0], sizes=[12]
    ).plot(figure=figure),
    "HistoryDisplay": lambda figure: plots.HistoryDisplay(history=EPOCHS).plot(
        figure=figure
    ),
    "NClustersDisplay": lambda figure: plots.NClustersDisplay(
        results={"n_clusters": NUMBERS, **dict.fromkeys(CURVES, NUMBERS / 9)},
        chosen=3,
        title="title",
    ).plot(figure=figure),
    "ReliabilityDisplay": lambda figure: plots.ReliabilityDisplay.from_predictions(
        LABELS, np.eye(3)[LABELS] * 0.7 + 0.1, figure=figure
    ),
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_every_display_is_here():
    assert set(DISPLAYS) == set(plots.__all__)


def luminance(color):
    levels = np.array(to_rgb(color))
    low = levels / 12.92
    levels = np.where(levels <= 0.04045, low, ((levels + 0.055) / 1.055) ** 2.4)
    return levels @ (0.2126, 0.7152, 0.0722)


def contrast(a, b):
    """Ratio of two colours as of the WCAG, from 1 to 21."""
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


def written(display):
    """Texts that are seen, but for those in cells of a colour of their own."""
    figure = display.figure_
    switched_off = [ax for ax in figure.axes if not ax.axison]
    left_out = [a.findobj(Text) for ax in switched_off for a in (ax.xaxis, ax.yaxis)]
    if isinstance(display, plots.ConfusionDisplay):
        left_out.append(display.ax_.texts)
    left_out = {text for texts in left_out for text in texts}
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible() and text not in left_out:
            yield text


@pytest.mark.parametrize("name", sorted(DISPLAYS))
def test_text_can_be_read(name):
    for style, options in (
        ("default", {}),
        ("dark_background", {}),
        ("default", {"facecolor": "#202428"}),
    ):
        with plt.style.context(style):
            figure = plt.figure(**options)
            display = DISPLAYS[name](figure)
            figure.draw_without_rendering()  # which numbers the ticks
        texts = list(written(display))
        assert len(texts) >= 3
        for text in texts:
            found = contrast(text.get_color(), background(figure))
            assert found >= 3, (style, options, text)
