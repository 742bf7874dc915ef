"""What a report takes: checked before any work, and estimators of any kind."""

import os

import numpy as np
import pandas as pd
import pytest
from pages import data_of, read_page
from PIL import Image
from sklearn.cluster import DBSCAN, KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn
from toy import IMAGES, make

from skdeepcluster import ImageEncoder, SelectiveClusterer
from skdeepcluster.report import _write, write_report, write_report_of
from skdeepcluster.report._clustering import readable

X = np.random.default_rng(0).integers(0, 256, (6, 8, 8)).astype(np.uint8)
LABELS = [0, 0, 1, 1, 1, -1]
SURE = [0.9, 0.8, 0.7, 0.6, 0.5, np.nan]
ROWS = IMAGES.reshape(len(IMAGES), -1).astype(float)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"labels": LABELS[:5]}, "labels has 5 entries, and X 6 images"),
        ({"labels": [LABELS]}, r"labels has shape \(1, 6\); \(n,\) was expected"),
        (
            {"labels": [0.5, 0, 1, 1, 1, 1]},
            "labels are of dtype float64; whole numbers",
        ),
        ({"labels": list("aabbcc")}, "labels are of dtype <U1; whole numbers"),
        ({"labels": [True] * 6}, "labels are of dtype bool; whole numbers"),
        ({"labels": [0, 0, 1, 1, 1, -2]}, "labels hold -2; numbers from 0 on"),
        ({"n_clusters": 1}, "n_clusters=1, but labels hold the number 1. Pass 2"),
        ({"confidence": SURE[:5]}, "confidence has 5 entries, and X 6 images"),
        ({"confidence": [np.nan] * 6}, "confidence holds NaN .* first for image 0"),
        ({"confidence": [2.0] * 6}, "confidence goes from 2 to 2; probabilities"),
        ({"confidence": ["a"] * 6}, "confidence is of dtype <U1; numbers"),
        ({"embedding": X[:5, 0]}, "embedding has 5 entries, and X 6 images"),
        ({"embedding": np.zeros(6)}, r"embedding has shape \(6,\); \(n, d\) was"),
        ({"embedding": np.full((6, 2), np.inf)}, "embedding holds NaN or infinite"),
        ({"positions": np.zeros((6, 3))}, r"positions have shape \(6, 3\); two"),
        ({"positions": np.full((6, 2), np.nan)}, "positions holds NaN or infinite"),
        ({"names": ["a"]}, "Got 1 names for 6 images"),
        ({"n_examples": 0}, "n_examples=0 should be at least 1"),
        ({"max_bytes": 9000}, "max_bytes=9000 is too little for a page of 6 images"),
        ({"X": X.reshape(6, 64)}, r"X holds vectors \(shape \(6, 64\)\), and a report"),
        ({"X": X[:0], "labels": []}, "X is empty"),
        ({"X": []}, "X is empty"),
        ({"X": "folder"}, "X is one path"),
        ({"X": np.zeros((6, 9, 8, 7))}, "neither axis 1 nor axis 3 holds 1, 3 or 4"),
    ],
)
def test_bad_input_is_told_and_nothing_is_written(tmp_path, change, match):
    path = tmp_path / "report.html"
    path.write_text("before")
    arguments = {"X": X, "labels": LABELS} | change
    with pytest.raises(ValueError, match=match):
        write_report(path, arguments.pop("X"), arguments.pop("labels"), **arguments)
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["report.html"]


def test_a_place_that_cannot_be_written_is_told_early(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; the name of a file"):
        write_report(tmp_path, X, LABELS)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="is no folder, and none can be made there"):
        write_report(tmp_path / "file" / "report.html", X, LABELS)
    new = tmp_path / "new" / "report.html"
    assert write_report(str(new), X, LABELS) == new and new.exists()


@pytest.mark.parametrize(
    "name, shown",
    [
        ("plain name.jpg", "plain name.jpg"),
        ("tab\tline\n\x00", "tab\\tline\\n\\x00"),
        ("\u202eab\u2066\u200f", "\\u202eab\\u2066\\u200f"),
        ("\u2028\ud800", "\\u2028\\ud800"),
        (os.fsdecode(b"\xff"), "\\xff"),
        ("نمی\u200cدانم 👩\u200d🔬", "نمی\u200cدانم 👩\u200d🔬"),
        ("a" * 100 + "b" * 100, "a" * 60 + "…" + "b" * 59),
    ],
)
def test_names_are_made_readable(name, shown):
    assert readable(name) == shown
    shown.encode()


def test_names_are_paths_below_the_folder_of_all(tmp_path):
    paths = [
        tmp_path / "a" / "1.png",
        tmp_path / "a" / "1 b" / "2.png",
        tmp_path / "3.png",
    ]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(path)
    column = pd.Series([str(path) for path in paths])
    page = read_page(write_report(tmp_path / "r.html", column, [0, 0, 0]).read_text())
    shown = [image["alt"] for image in page.one("section", id="c0").all("img")]
    names = [os.path.join("a", "1.png"), os.path.join("a", "1 b", "2.png"), "3.png"]
    assert shown == [f"{name}, cluster 0" for name in names]


def test_files_that_cannot_be_read_are_told(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths[:2]:
        Image.new("L", (4, 4)).save(path)
    paths[2].write_text("text")
    places = np.arange(8).reshape(4, 2)
    with pytest.warns(UserWarning, match="1 of 4 files is missing:\n.*3.png"):
        path = write_report(tmp_path / "r.html", paths, [0, 0, 0, -1], positions=places)
    page = read_page(path.read_text())
    said = [item.text for item in page.one("section", id="findings").all("li")]
    assert said == [
        "All images with a label are in one cluster, cluster 0.",
        "1 image (25.0%) is in no cluster (label -1).",
        "1 image is an exact copy of another one.",
        "2 images that this page was to show could not be read; the first is 2.png, "
        "which is not an image that Pillow can read.",
    ]
    assert (
        page.one("section", id="c-1").one("span", class_="missing").text == "no picture"
    )
    assert [row for _, row, *_ in data_of(page)["pictures"]] == [0, 1]


def test_no_page_of_files_that_are_not_there(tmp_path):
    path = tmp_path / "r.html"
    with pytest.raises(FileNotFoundError, match="2 of 2 files are missing:\n.*no.png"):
        write_report(path, ["no.png", "n2.png"], [0, 1])
    assert not path.exists()


def test_whole_floats_are_labels_and_swapped_arguments_are_told(tmp_path):
    path = tmp_path / "r.html"
    first = write_report(path, X, [0.0, 0, 1, 1, 1, -1]).read_text()
    assert write_report(path, X, LABELS).read_text() == first
    with pytest.raises(TypeError, match="path is of type ndarray, .* are swapped"):
        write_report(X, str(path), LABELS)


# -- of estimators


@pytest.fixture
def passed(monkeypatch):
    """What write_report_of hands to write_report."""
    calls = []

    def take(path, X, labels, **options):
        calls.append({"X": X, "labels": labels, **options})
        return path

    monkeypatch.setattr(_write, "write_report", take)
    return calls


def test_the_report_of_an_estimator(tmp_path, passed):
    model = make().fit(IMAGES)
    write_report_of(tmp_path / "r.html", model, IMAGES)
    proba = model.predict_proba(IMAGES)
    (found,) = passed
    np.testing.assert_array_equal(found["labels"], model.labels_)
    np.testing.assert_allclose(found["confidence"], proba.max(axis=1))
    np.testing.assert_allclose(found["embedding"], model.transform(IMAGES))
    assert found["n_clusters"] == 3 and found["history"] == model.history_
    assert found["title"] == "Clusters of Toy" and "warnings" not in found
    assert found["settings"]["estimator"].startswith("Toy(")


def test_the_report_of_a_pipeline_runs_its_steps_once(tmp_path, passed):
    calls = []
    count = FunctionTransformer(
        lambda X: (calls.append(len(X)), X.reshape(len(X), -1))[1]
    )
    model = make_pipeline(count, PCA(4), GaussianMixture(3, random_state=0)).fit(IMAGES)
    calls.clear()
    write_report_of(tmp_path / "r.html", model, IMAGES, title="Mine")
    (found,) = passed
    assert calls == [len(IMAGES)] and found["title"] == "Mine"
    np.testing.assert_array_equal(found["labels"], model.predict(IMAGES))
    np.testing.assert_allclose(found["embedding"], model[:-1].transform(IMAGES))


def test_files_that_a_step_left_out_are_in_no_cluster(tmp_path, passed):
    paths = [tmp_path / f"{i:02}.png" for i in range(9)]
    for path, image in zip(paths, IMAGES[:, 0], strict=False):
        Image.fromarray(image).save(path)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    encoder = ImageEncoder(network, image_size=8, device="cpu", on_error="skip")
    model = make_pipeline(encoder, GaussianMixture(2, random_state=0)).fit(paths)
    paths[4].write_text("text")
    with pytest.warns(UserWarning, match="Their rows are NaN"):
        write_report_of(tmp_path / "r.html", model, paths)
    (found,) = passed
    others = np.delete(np.arange(9), 4)
    expected = model.predict([paths[i] for i in others])
    np.testing.assert_array_equal(found["labels"][others], expected)
    assert found["labels"][4] == -1 and np.isnan(found["confidence"][4])
    assert np.isnan(found["embedding"]).any(axis=1).tolist() == [
        i == 4 for i in range(9)
    ]
    assert found["warnings"] == [f"1 file was left out as unreadable: {paths[4]}."]


def test_distances_to_centers_are_no_embedding(tmp_path, passed):
    model = KMeans(3, n_init=1, random_state=0).fit(ROWS)
    write_report_of(tmp_path / "r.html", model, ROWS, images=IMAGES)
    assert passed[0]["embedding"] is None and "confidence" not in passed[0]


def test_rejected_images_are_in_no_cluster(tmp_path):
    model = SelectiveClusterer(make(), coverage=0.5).fit(IMAGES)
    path = write_report_of(tmp_path / "r.html", model, IMAGES)
    page = read_page(path.read_text())
    facts = {f.one("dt").text: f.one("dd").text for f in page.one("dl").all("div")}
    assert facts["In no cluster"] == str((model.labels_ == -1).sum()) == "32"


def test_rows_of_pixels_become_images(tmp_path, passed):
    model = make(image_shape=(1, 8, 8)).fit(IMAGES.reshape(len(IMAGES), -1))
    write_report_of(tmp_path / "r.html", model, IMAGES.reshape(len(IMAGES), -1))
    np.testing.assert_array_equal(passed[0]["X"], IMAGES[:, 0])


def test_files_left_out_are_told(tmp_path):
    paths = [tmp_path / f"{i:02}.png" for i in range(13)]
    for path, image in zip(paths, IMAGES[:, 0], strict=False):
        Image.fromarray(image).save(path)
    paths[3].write_text("text")
    model = make(on_error="skip")
    with pytest.warns(UserWarning, match="cannot be read"):
        model.fit(paths)
    with pytest.warns(UserWarning, match="cannot be read"):
        page = read_page(write_report_of(tmp_path / "r.html", model, paths).read_text())
    said = [item.text for item in page.one("section", id="findings").all("li")]
    assert said[0] == f"1 file was left out as unreadable: {paths[3]}."
    assert "1 image (7.7%) is in no cluster (label -1)." in said


def test_what_no_report_can_be_written_of(tmp_path):
    path = tmp_path / "r.html"
    with pytest.raises(TypeError, match="DBSCAN has no predict. Pass its labels_ to"):
        write_report_of(path, DBSCAN().fit(ROWS), ROWS, images=IMAGES)
    with pytest.raises(ValueError, match="X holds vectors"):
        write_report_of(path, GaussianMixture(2).fit(ROWS[:, :3]), ROWS[:, :3])
    with pytest.raises(NotFittedError):
        write_report_of(path, make(), IMAGES)
