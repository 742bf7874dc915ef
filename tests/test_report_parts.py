"""The parts of a report: what is typical, far, alike, worth a word, and fits."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from pages import data_of, read_page
from PIL import Image, ImageEnhance

from skdeepcluster.report import _duplicates, write_report
from skdeepcluster.report._charts import curves, histogram
from skdeepcluster.report._clustering import checked
from skdeepcluster.report._duplicates import duplicates, look_alike
from skdeepcluster.report._findings import findings
from skdeepcluster.report._geometry import Geometry
from skdeepcluster.report._pictures import Pictures


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def clustering(labels, embedding=None, confidence=None, n_clusters=None, X=None):
    X = noise(len(labels), 6, 6) if X is None else X
    return checked(Pictures(X), labels, n_clusters, confidence, embedding, None, None)


def rng():
    return np.random.RandomState(0)


# -- the embedding


def test_distances_to_clusters():
    embedding = [[0.0], [2], [4], [10], [14], [np.nan], [40]]
    given = clustering([0, 0, 0, 1, 1, -1, -1], embedding)
    own, far = Geometry(given, rng()).distances()
    # in units of the farthest value; means 2 and 12, widths .. 2 and 2 (medians)
    scale = Geometry(given, rng()).scale
    np.testing.assert_allclose(own * scale, [2, 0, 2, 2, 2, np.nan, np.nan], atol=1e-5)
    np.testing.assert_allclose(far, [1, 0, 1, 1, 1, np.nan, 14], atol=1e-5)


def test_a_cluster_of_one_image_has_half_the_usual_width():
    embedding = np.array([[0.0], [2], [4], [6], [100], [101]])
    _, far = Geometry(clustering([0, 0, 0, 0, 1, -1], embedding), rng()).distances()
    # distances to the means 3, 1, 1, 3, 0: their median is 1, and half of it 0.5
    np.testing.assert_allclose(far, [1.5, 0.5, 0.5, 1.5, 0, 2], atol=1e-4)


def test_many_columns_are_reduced_and_keep_distances():
    low = np.random.default_rng(0).normal(size=(200, 5))
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(100, 5)))[0]
    given = clustering(np.arange(200) % 2, low @ basis.T + 7)
    geometry = Geometry(given, rng())
    assert geometry.points.shape == (200, 32)
    points = geometry.points * geometry.scale
    for a, b in ((0, 1), (3, 150)):
        expected = np.linalg.norm(low[a] - low[b])
        np.testing.assert_allclose(
            np.linalg.norm(points[a] - points[b]), expected, rtol=1e-4
        )


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_equal_rows_have_a_place(n):
    rows, places = Geometry(clustering([0] * n, np.ones((n, 3))), rng()).places(rng())
    assert rows.tolist() == list(range(n)) and places.shape == (n, 2)
    assert (places == 0).all()


# -- duplicates


def squared(image):
    return _duplicates._squared(np.asarray(image))


def photograph(seed=0):
    """A smooth picture of 90 x 60, as photographs are smooth."""
    small = Image.fromarray(noise(6, 9, 3, seed=seed))
    return small.resize((90, 60), Image.Resampling.BICUBIC)


def test_what_looks_alike():
    image = photograph()
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    alike = {
        "itself": image,
        "saved again": Image.open(file),
        "smaller": image.resize((45, 30)),
        "darker": ImageEnhance.Brightness(image).enhance(0.7),
    }
    other = {
        "another": photograph(1),
        "negative": Image.eval(image, lambda v: 255 - v),
        "mirrored": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "half of it": image.crop((0, 0, 45, 60)),
        "squeezed": image.resize((60, 60)),
        "flat": Image.new("RGB", (90, 60), "grey"),
    }
    own = squared(image)
    assert {
        k for k, v in (alike | other).items() if look_alike(own, squared(v))
    } == set(alike)


def test_flat_images_are_alike_if_their_level_is():
    black, dark, grey = (squared(Image.new("L", (8, 8), v)) for v in (0, 3, 99))
    assert look_alike(black, dark) and not look_alike(black, grey)


def found(X, embedding, labels=None):
    given = clustering(np.zeros(len(X), int), embedding, X=X)
    geometry = None if embedding is None else Geometry(given, rng())
    groups = duplicates(given.pictures, geometry, rng())
    return [(g.rows.tolist(), g.identical) for g in groups]


def test_copies_and_near_duplicates():
    X = noise(9, 16, 16)
    X[4] = X[7] = X[2]  # copies
    X[8] = X[2] // 2 + 60  # of less contrast
    X[3] = 255 - X[1]  # near in the embedding, and not alike
    X[6] = X[5]  # far from each other in the embedding
    place = {2: 0, 4: 0, 7: 0, 8: 0.1, 1: 5, 3: 5.1, 5: 20, 6: 30, 0: 40}
    embedding = np.array([[float(place[i])] for i in range(9)])
    assert found(X, embedding) == [([2, 4, 7, 8], False), ([5, 6], True)]
    assert found(X, None) == [([2, 4, 7], True), ([5, 6], True)]
    assert found(noise(5, 6, 6), np.arange(5)[:, None]) == []
    assert found(noise(1, 6, 6), np.zeros((1, 1))) == []


def test_copies_of_files(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths[:4]):
        Image.fromarray(noise(6, 6, seed=i % 2)).save(path)
    assert [rows.tolist() for rows in Pictures(paths).identical()] == [[0, 2], [1, 3]]


def test_of_many_images_some_are_searched(monkeypatch):
    monkeypatch.setattr(_duplicates, "SEARCHED", 10)
    given = clustering([0] * 50, np.random.default_rng(0).normal(size=(50, 2)))
    pairs = _duplicates._near(Geometry(given, rng()), np.arange(50), rng())
    assert len(np.unique(pairs)) == 10
    points = given.embedding[pairs]
    apart = np.linalg.norm(points[:, 0] - points[:, 1], axis=1)
    assert (np.diff(apart) >= -1e-6).all() and (pairs[:, 0] < pairs[:, 1]).all()


# -- words


def sentences(*args, unreadable=(), groups=(), **options):
    return findings(clustering(*args, **options), list(groups), dict(unreadable))


def group(n, identical):
    return SimpleNamespace(rows=np.arange(n), identical=identical)


def test_what_is_worth_a_word():
    assert sentences([0, 1]) == []
    assert sentences([0, 1, 1, 1]) == ["Cluster 1 holds 75% of all images."]
    assert sentences([0, 0, 2], n_clusters=3)[0] == "1 of the 3 clusters is empty: 1."
    (empty, _) = sentences([0, 2000])[:1] + [None]
    assert empty.endswith("are empty: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 1,989 more.")
    labels = [0] * 50 + [1] * 50 + [2] * 2
    assert sentences(labels) == [
        "1 cluster has less than a tenth of the average size: 2."
    ]
    sure = np.where(np.arange(10) < 3, 0.4, 0.9)
    (low,) = sentences([0, 1] * 5, confidence=sure)
    assert low.startswith(
        "3 images (30% of those with a label) have a confidence below 0.5"
    )
    assert sentences([0, 1] * 5, confidence=np.where(np.arange(10) < 2, 0.4, 0.9)) == []
    assert sentences(
        [0, 1], groups=[group(3, True), group(2, True), group(4, False)]
    ) == [
        "3 images are exact copies of others.",
        "4 images, in 1 group, look nearly the same.",
    ]


def test_images_without_any_label_are_one_sentence():
    assert sentences([-1, -1], confidence=[np.nan] * 2) == [
        "2 images (100.0%) are in no cluster (label -1)."
    ]


# -- curves


def test_curves_of_a_history():
    history = [
        {"epoch": 1, "loss": 4.0, "lr": 0.1, "cluster_sizes": [1, 3]},
        {"epoch": 2, "loss": np.nan, "lr": 0.1, "note": "x"},
        {"epoch": 5, "loss": 2.0, "lr": 0.1, "cluster_sizes": [2, 2]},
    ]
    loss, sizes, rate = curves(history)
    assert (loss.name, loss.low, loss.high, loss.first, loss.last) == (
        "loss",
        "2",
        "4",
        "1",
        "5",
    )
    assert loss.lines == [("", "", "M0.0 0.0h0M300.0 90.0h0")] and loss.end == "2"
    assert [path for _, _, path in sizes.lines] == [
        "M0.0 0.0h0M300.0 30.0h0",
        "M0.0 30.0h0M300.0 30.0h0",
        "M0.0 60.0h0M300.0 30.0h0",
    ]
    assert sizes.end == "largest 2, median 2, smallest 2"
    assert rate.lines[0][2] == "M0.0 90.0h0L75.0 90.0L300.0 90.0"
    assert curves([]) == [] and curves([{"epoch": 1, "note": "x"}]) == []


def test_a_long_history_is_thinned_and_keeps_its_end():
    history = [{"epoch": i + 1, "loss": float(i)} for i in range(5000)]
    (curve,) = curves(history)
    path = curve.lines[0][2]
    assert path.endswith("L300.0 0.0") and 300 <= path.count("L") < 330


def test_histogram_of_confidence():
    assert histogram(np.array([0, 0.05, 0.55, 1, np.nan])) == [
        2,
        0,
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        1,
    ]


# -- size


@pytest.mark.parametrize("max_bytes", [75_000, 100_000, 200_000])
def test_a_page_keeps_to_its_bytes(tmp_path, max_bytes):
    X, labels = noise(60, 64, 64, 3), np.arange(60) % 4
    options = {"positions": np.random.default_rng(0).normal(size=(60, 2))}
    path = write_report(tmp_path / "r.html", X, labels, max_bytes=max_bytes, **options)
    size = path.stat().st_size
    assert max_bytes / 3 < size <= max_bytes
    page = read_page(path.read_text())
    rows = page.all("div", class_="row")
    assert len(rows) == 4 and all(row.all("img") for row in rows)
    assert len(data_of(page)["x"]) == 60


def test_many_clusters_are_listed_and_the_largest_shown(tmp_path):
    labels = np.r_[np.arange(1300), np.arange(1100, 1300)]
    path = write_report(tmp_path / "r.html", noise(1500, 4, 4), labels)
    page = read_page(path.read_text())
    shown = [s["id"] for s in page.all("section", class_="cluster")]
    assert shown == [f"c{k}" for k in range(1100, 1300)]
    assert len(page.one("ol").all("li")) == 1000
    assert (
        "300 smaller clusters are not listed." in page.one("section", id="sizes").text
    )
    assert (
        "The images of the 200 largest clusters are shown, 1,100 more are not."
        in page.text
    )
