"""Sheets of labels of any origin, in lines, with names."""

import os
import warnings

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from sklearn.cluster import KMeans

from skdeepcluster.datasets import load_digits_images
from skdeepcluster.plots import ClusterSheetDisplay
from skdeepcluster.plots._chosen import caption, choose

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 5, 4), dtype=np.uint8)
LABELS = [2, 0, 2, -1, 0, 2, 2, 0]
SURE = [0.2, 0.9, 0.8, 0.1, 0.9, 0.5, 0.7, np.nan]
sheet = ClusterSheetDisplay.from_predictions


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def rows(display):
    return [indices.tolist() for indices in display.indices]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_labels_without_confidences():
    display = sheet(IMAGES, LABELS, random_state=0)
    assert display.clusters.tolist() == [0, 2, -1]
    assert [sorted(row) for row in rows(display)] == [[1, 4, 7], [0, 2, 5, 6], [3]]
    assert display.sizes.tolist() == [3, 4, 1]
    assert np.isnan(display.confidences).all()
    assert display.title == "8 images in 2 clusters, chosen at random"
    assert texts(display.axes_[0]) == ["Cluster 0", "3 images · 37.5%"]
    assert texts(display.axes_[2]) == ["rejected", "1 image · 12.5%"]
    for ax, row in zip(display.axes_, rows(display), strict=True):
        for image, i in zip(ax.images, row, strict=True):
            np.testing.assert_array_equal(image.get_array(), IMAGES[i])


def test_confidences_give_the_order():
    display = sheet(IMAGES, LABELS, SURE, name="KMeans")
    assert rows(display) == [[1, 4], [2, 6, 5, 0], [3]]  # row 7 has none
    np.testing.assert_allclose(display.confidences, [0.9, 0.55, 0.1])
    assert display.sizes.tolist() == [3, 4, 1]
    assert display.title == "KMeans: 8 images in 2 clusters, most typical first"
    assert texts(display.axes_[1])[2] == "confidence 0.55"
    display = sheet(IMAGES, LABELS, SURE, order="uncertain", n_images=2, clusters=[2])
    assert rows(display) == [[0, 5]]
    display = sheet(IMAGES, LABELS, SURE, order="random", clusters=[2], random_state=1)
    assert sorted(rows(display)[0]) == [0, 2, 5, 6]


def test_a_random_sample_follows_its_seed_alone():
    X, labels = np.repeat(IMAGES, 20, axis=0), np.arange(160) % 2
    before = np.random.get_state()[1].tolist()
    first, again, other = (
        rows(sheet(X, labels, random_state=seed)) for seed in (0, 0, 1)
    )
    sheet(X, labels)
    assert first == again != other
    assert np.random.get_state()[1].tolist() == before
    unknown = np.full(160, np.nan)
    shown = [
        choose(labels, unknown, [0], "random", 4, seed).indices[0] for seed in range(60)
    ]
    counts = np.bincount(np.concatenate(shown), minlength=160)
    assert counts[::2].sum() == counts.sum() == 240
    assert counts.max() < 12 and (counts[::2] > 0).mean() > 0.85


@pytest.mark.parametrize(
    ("labels", "clusters", "headings"),
    [
        (["cat", "dog", "cat", "-1", "$x_1$", "dog", "dog", "cat"], None, 4),
        (np.array(LABELS, np.int8), [-1, 0, 2], ["rejected", "Cluster 0", "Cluster 2"]),
        (np.array(LABELS, float), None, ["Cluster 0", "Cluster 2", "rejected"]),
        (np.array(LABELS, object), [2], ["Cluster 2"]),
        (np.array(LABELS) == 2, None, ["Cluster 0", "Cluster 1"]),
    ],
)
def test_labels_of_any_origin(labels, clusters, headings):
    display = sheet(IMAGES, labels, clusters=clusters, random_state=0)
    found = [texts(ax)[0] for ax in display.axes_]
    if headings == 4:
        headings = ["$x_1$", "rejected", "cat", "dog"]
        assert sorted(found) == sorted(headings)
        display.figure_.draw_without_rendering()  # no formula
    else:
        assert found == headings


def test_labels_of_pandas_and_of_kmeans():
    pd = pytest.importorskip("pandas")
    X, _ = load_digits_images()
    labels = KMeans(4, n_init=1, random_state=0).fit_predict(X.reshape(len(X), -1))
    display = sheet(X, pd.Series(labels, index=range(5, len(X) + 5)))
    assert display.sizes.tolist() == np.bincount(labels).tolist()
    assert all((labels[row] == k).all() for k, row in enumerate(display.indices))


@pytest.mark.parametrize(
    ("n_images", "per_line", "lines"), [(40, 10, 4), (25, 10, 3), (7, 10, 1), (7, 2, 4)]
)
def test_images_go_on_in_a_line_below(n_images, per_line, lines):
    X, labels = np.repeat(IMAGES[:, :, :3], 20, axis=0), np.arange(160) % 2
    labels[:150] = 0  # and ten of cluster 1 at most
    display = sheet(X, labels, n_images=n_images, images_per_line=per_line)
    display.figure_.draw_without_rendering()
    ax, small = display.axes_
    places = [tuple(np.round(image.get_extent(), 2)) for image in ax.images]
    assert len(places) == len(set(places)) == n_images
    columns = [int(left) for left, *_ in places]
    assert columns == [i % per_line for i in range(n_images)]
    bottoms = [bottom for _, _, bottom, _ in places]
    assert bottoms == sorted(bottoms, reverse=True) and len(set(bottoms)) == lines
    width, height = display.figure_.get_size_inches()
    assert width < 8.5 and (lines < 3 or height > 2)
    # all images have one size on the paper, also in rows of fewer lines
    sizes = {
        round(i.get_window_extent().height, 0) for i in [*ax.images, *small.images]
    }
    assert max(sizes) - min(sizes) <= 1
    assert not ax.get_tightbbox().overlaps(small.get_tightbbox())


def test_names_of_files(tmp_path):
    names = ["a.png", "$x$_1.png", os.fsdecode(b"\xff.png"), "x\ny.png", "é.png"]
    names += ["IMG_20230514_183011_HDR_1.png", "b.png", "c.png"]
    paths = [str(tmp_path / name) for name in names]
    for path, image in zip(paths, IMAGES, strict=True):
        Image.fromarray(image).save(path)
    display = sheet(paths, [0] * 8, np.arange(8)[::-1], show_names=True)
    assert display.names == [names]
    shown = texts(display.axes_[0])[:8]
    assert shown == [
        "a.png",
        "$x$_1.png",
        "?.png",
        "x?y.png",
        "é.png",
        "IMG_202305…1_HDR_1.png",
        "b.png",
        "c.png",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        display.figure_.draw_without_rendering()
    ax = display.axes_[0]
    boxes = [text.get_window_extent() for text in ax.texts[:8]]
    pictures = [image.get_window_extent() for image in ax.images]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(picture) for picture in pictures)
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert box.y1 <= pictures[i].y0 and ax.bbox.padded(1).y0 <= box.y0


def test_rows_are_named_where_there_are_no_files():
    display = sheet(IMAGES, LABELS, SURE, show_names=True)
    assert display.names == [["1", "4"], ["2", "6", "5", "0"], ["3"]]
    pictures = [Image.fromarray(image) for image in IMAGES]
    display = sheet(pictures, LABELS, SURE, show_names=True)
    assert display.names[0] == ["1", "4"]
    assert sheet(IMAGES, LABELS).names is None


def test_captions():
    assert caption("x" * 22) == "x" * 22
    assert caption("a" * 30 + ".jpeg") == "a" * 10 + "…" + "a" * 6 + ".jpeg"
    assert len(caption("é" * 300)) == 22


def test_files_that_could_not_be_read_are_not_shown(tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(8)]
    for i in range(7):
        Image.fromarray(IMAGES[i]).save(paths[i])
    assert rows(sheet(paths, LABELS, SURE)) == [[1, 4], [2, 6, 5, 0], [3]]
    with pytest.raises(ValueError, match=r"7\.png' does not exist"):
        sheet(paths, LABELS)


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((IMAGES, LABELS[:5]), {}, r"labels has shape \(5,\); .* 8 rows"),
        ((IMAGES, LABELS, SURE[:5]), {}, r"confidence has shape \(5,\)"),
        ((IMAGES, [0.5] * 8), {}, "labels hold values that are no whole numbers"),
        ((IMAGES, [np.nan] * 8), {}, "labels hold values that are no whole"),
        ((IMAGES, [None] * 8), {}, "labels hold values that are no whole"),
        ((IMAGES, LABELS), {"order": "typical"}, "goes by confidence, and there is"),
        ((IMAGES, LABELS), {"order": "best"}, "'typical', 'uncertain' or 'random'"),
        ((IMAGES, LABELS), {"n_images": 0}, "n_images=0 should be at least 1"),
        ((IMAGES, LABELS), {"images_per_line": 0}, "images_per_line=0 should be at"),
        (
            (IMAGES, LABELS),
            {"clusters": [7]},
            r"clusters=\[7\] should be some of the 3",
        ),
        ((IMAGES, LABELS), {"clusters": []}, r"clusters=\[\] should be some of the"),
        (
            (IMAGES.reshape(8, -1), LABELS),
            {},
            "vectors .* Pass the images, an array or",
        ),
    ],
)
def test_what_is_refused(arguments, options, match):
    with pytest.raises(ValueError, match=match):
        sheet(*arguments, **options)
