import os

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from skdeepcluster.datasets import (
    load_digits_images,
    load_image_folder,
    make_long_tail,
    make_retention,
)


@pytest.fixture
def folder(tmp_path):
    """Two classes, one of them with a folder inside, and things that are no images."""
    for name in ("b/2.PNG", "b/10.png", "a/deep/x.jpeg", "a/1.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(path, format="PNG")
    for name in ("b/notes.txt", "a/._1.jpg", ".cache/thumb.png", "a/pngs"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no image")
    return tmp_path


def names(data, folder):
    return [os.path.relpath(p, folder).replace(os.sep, "/") for p in data.paths]


def test_digits_are_scaled_to_bytes():
    images, target = load_digits_images()
    digits = load_digits()
    assert images.dtype == np.uint8
    assert images.max() == 255
    np.testing.assert_allclose(images / 255 * 16, digits.images, atol=16 / 255 / 2)
    assert target.dtype == np.int64
    assert (target == digits.target).all()


def test_digits_enlarged():
    small, _ = load_digits_images()
    large, target = load_digits_images(size=16)
    assert large.shape == (1797, 16, 16)
    assert target.shape == (1797,)
    # pixels of twice the size: the corners stay, pairs on an edge are 3 : 1
    assert (large[:, ::15, ::15] == small[:, ::7, ::7]).all()
    row = small[:, 0].astype(float)
    assert np.abs(large[:, 0, 2] - (0.75 * row[:, 1] + 0.25 * row[:, 0])).max() <= 1
    means = large.mean((1, 2)), small.mean((1, 2))
    np.testing.assert_allclose(*means, atol=1)


def test_digits_as_a_bunch():
    data = load_digits_images(size=10, return_X_y=False)
    images, target = load_digits_images(size=10)
    assert (data.images == images).all()
    assert (data.target == target).all()
    assert data.target_names.tolist() == list(range(10))


@pytest.mark.parametrize("size", [7, 16.0, None])
def test_digits_size_error(size):
    with pytest.raises(ValueError, match=f"size={size} should be an integer"):
        load_digits_images(size=size)


def test_folder_with_classes(folder):
    data = load_image_folder(folder)
    assert names(data, folder) == ["a/1.jpg", "a/deep/x.jpeg", "b/10.png", "b/2.PNG"]
    assert all(type(path) is str for path in data.paths)
    assert data.target.tolist() == [0, 0, 1, 1]
    assert data.target.dtype == np.int64
    assert data.target_names == ["a", "b"]
    assert Image.open(data.paths[0]).size == (4, 4)


def test_folder_without_classes(folder):
    Image.new("L", (4, 4)).save(folder / "top.png")
    data = load_image_folder(str(folder))
    assert names(data, folder)[-1] == "top.png"
    assert len(data.paths) == 5
    assert data.target is None
    assert data.target_names is None
    flat = load_image_folder(folder, recursive=False)
    assert names(flat, folder) == ["top.png"]


def test_folder_extensions(folder):
    for extensions in ("png", ".png", ["PNG"], (".Png",)):
        data = load_image_folder(folder, extensions=extensions)
        assert names(data, folder) == ["b/10.png", "b/2.PNG"]
        assert data.target.tolist() == [0, 0]
        assert data.target_names == ["b"]


def test_folder_of_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    assert names(load_image_folder("~/b"), folder) == ["b/10.png", "b/2.PNG"]


def test_folder_errors(folder):
    with pytest.raises(FileNotFoundError, match="There is no folder '.*nowhere'"):
        load_image_folder(folder / "nowhere")
    with pytest.raises(NotADirectoryError, match=r"1\.jpg' is a file; a folder is"):
        load_image_folder(folder / "a" / "1.jpg")
    with pytest.raises(ValueError, match=r"found 6 files \(.*1 x \.txt.*\.webp\. Pass"):
        load_image_folder(folder, extensions=".webp")
    (folder / "top.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"\(1 x \.txt\).*, or recursive=True"):
        load_image_folder(folder, recursive=False)
    (folder / "void").mkdir()
    with pytest.raises(ValueError, match="found 0 files, expected"):
        load_image_folder(folder / "void")


# -- imbalanced subsets ----------------------------------------------------------------


@pytest.fixture
def thousand():
    """4000 rows that hold their own number, of four classes of 1000 each."""
    return np.arange(4000)[:, None], np.array(["a", "b", "c", "d"])[np.arange(4000) % 4]


def counts(y):
    return dict(zip(*np.unique(y, return_counts=True), strict=True))


def test_long_tail_is_exponential(thousand):
    X, y = make_long_tail(*thousand, ratio=8, random_state=0)
    assert counts(y) == {"a": 1000, "b": 500, "c": 250, "d": 125}
    assert len(np.unique(X)) == len(X)
    np.testing.assert_array_equal(thousand[1][X[:, 0]], y)
    assert not (np.diff(X[:, 0]) > 0).all()


def test_long_tail_of_some_samples_and_some_order(thousand):
    _, y = make_long_tail(*thousand, ratio=8, n_samples=150, order=["d", "b", "c", "a"])
    assert counts(y) == {"d": 80, "b": 40, "c": 20, "a": 10}


def test_long_tail_without_a_tail(thousand):
    assert set(counts(make_long_tail(*thousand, ratio=1)[1]).values()) == {1000}


def test_long_tail_is_as_large_as_unequal_classes_allow():
    y = np.repeat([0, 1, 2], [30, 90, 10])
    assert counts(make_long_tail(y, y, ratio=4)[1]) == {0: 30, 1: 15, 2: 8}
    assert counts(make_long_tail(y, y, ratio=4, order=[1, 0, 2])[1]) == {
        0: 20,
        1: 40,
        2: 10,
    }


def test_long_tail_order_is_drawn(thousand):
    largest = {
        max(counts(y), key=counts(y).get)
        for seed in range(20)
        for _, y in [make_long_tail(*thousand, order="random", random_state=seed)]
    }
    assert largest == {"a", "b", "c", "d"}


def test_long_tail_keeps_the_kind_of_its_input(thousand):
    X, y = thousand
    paths = [f"{i}.png" for i in range(len(y))]
    drawn, classes = make_long_tail(paths, y.tolist(), random_state=0)
    assert isinstance(drawn, list) and isinstance(classes, list)
    again, _ = make_long_tail(paths, y, random_state=0)
    assert drawn == again != make_long_tail(paths, y, random_state=1)[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ratio": 0.5}, "ratio=0.5 should be"),
        ({"ratio": float("nan")}, "should be a finite number of at least 1"),
        ({"ratio": float("inf")}, "should be a finite number of at least 1"),
        ({"ratio": 1e6}, "is left of class 'd'. Lower ratio.$"),
        ({"n_samples": 0}, "n_samples=0 should be an integer"),
        ({"n_samples": 60.5}, "n_samples=60.5 should be an integer"),
        ({"ratio": 2, "n_samples": 3000}, "1000 samples of class 'a': at most 2923"),
        ({"ratio": 50, "n_samples": 12}, "no sample is left of class 'd'"),
        ({"order": "size"}, "'sorted', 'random', or hold each of the 4"),
        ({"order": ["a", "b"]}, "once"),
        ({"order": ["a", "b", "c", "c"]}, "once"),
    ],
)
def test_long_tail_refuses(thousand, wrong, message):
    with pytest.raises(ValueError, match=message):
        make_long_tail(*thousand, **wrong)


@pytest.mark.parametrize("make", [make_long_tail, make_retention])
def test_imbalance_needs_classes_of_each_sample(make, thousand):
    X, y = thousand
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        make(X[:-1], y)
    with pytest.raises(ValueError, match=r"y holds 1 class\(es\)"):
        make(X, np.zeros(len(X)))


def test_retention_is_linear(thousand):
    X, y = make_retention(*thousand, min_rate=0.1, random_state=0)
    for label, rate in zip("abcd", (0.1, 0.4, 0.7, 1.0), strict=True):
        spread = np.sqrt(1000 * rate * (1 - rate))
        assert abs(counts(y)[label] - 1000 * rate) <= 4 * spread
    assert (np.diff(X[:, 0]) > 0).all()
    np.testing.assert_array_equal(thousand[1][X[:, 0]], y)


def test_retention_of_everything_and_of_nothing(thousand):
    assert len(make_retention(*thousand, min_rate=1)[0]) == 4000
    assert "a" not in counts(make_retention(*thousand, min_rate=0)[1])


@pytest.mark.parametrize("rate", [-0.1, 1.5, "all"])
def test_retention_refuses(thousand, rate):
    with pytest.raises(ValueError, match="min_rate="):
        make_retention(*thousand, min_rate=rate)
