import os

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import mutual_info_score

from skdeepcluster.datasets import (
    load_digits_images,
    load_image_folder,
    make_facet_images,
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


# -- images with several factors -------------------------------------------------------


def test_facet_images_of_two_factors():
    images, target = make_facet_images(60, random_state=0)
    assert images.shape == (60, 28, 28, 3)
    assert images.dtype == np.uint8
    assert target.shape == (60, 2)
    assert target.dtype == np.int64
    data = make_facet_images(60, return_X_y=False, random_state=0)
    np.testing.assert_array_equal(data.images, images)
    np.testing.assert_array_equal(data.target, target)
    assert data.target_names == ["shape", "background"]


def test_facet_images_of_three_factors():
    data = make_facet_images(
        300, size=16, n_shapes=5, n_colours=3, return_X_y=False, random_state=0
    )
    assert data.images.shape == (300, 16, 16, 3)
    assert data.target_names == ["shape", "colour", "background"]
    assert [set(column) for column in data.target.T.tolist()] == [
        set(range(n)) for n in (5, 3, 6)
    ]


def test_facet_images_are_what_their_labels_say():
    images, target = make_facet_images(
        400, n_colours=4, n_backgrounds=5, jitter=0, noise=0, random_state=0
    )
    corner, middle = images[:, 0, 0], images[:, 14, 14]
    for pixels, labels, n in ((corner, target[:, 2], 5), (middle, target[:, 1], 4)):
        colours = [np.unique(pixels[labels == k], axis=0) for k in range(n)]
        # one colour for each label, and another for each
        assert [len(c) for c in colours] == [1] * n
        assert len(np.unique(np.concatenate(colours), axis=0)) == n
    assert middle.max() < corner.max(axis=1).min()
    # one size, one place: what is drawn is the same for the same shape only
    images, target = make_facet_images(
        100, n_shapes=5, n_backgrounds=1, jitter=0, noise=0, scale=(1, 1)
    )
    kinds = [np.unique(images[target[:, 0] == k], axis=0) for k in range(5)]
    assert [len(k) for k in kinds] == [1] * 5
    assert len(np.unique(np.concatenate(kinds), axis=0)) == 5
    # the ring has a hole
    assert (kinds[4][0, 14, 14] == kinds[4][0, 0, 0]).all()


def test_facet_shapes_are_of_one_area():
    images, target = make_facet_images(
        1000, n_shapes=5, n_backgrounds=1, noise=0, scale=(1, 1), random_state=0
    )
    back = images[0, 0, 0].astype(float)
    area = ((images - back) / (0.95 * 255 - back)).mean((1, 2))[:, 1]
    of_shape = [area[target[:, 0] == k].mean() for k in range(5)]
    np.testing.assert_allclose(of_shape, np.pi * 0.55**2 / 4, rtol=0.01)


def test_facet_factors_are_uniform_and_independent():
    _, target = make_facet_images(20_000, size=8, n_colours=3, random_state=0)
    for labels, n in zip(target.T, (4, 3, 6), strict=True):
        np.testing.assert_allclose(np.bincount(labels) / 20_000, 1 / n, atol=0.015)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert mutual_info_score(target[:, a], target[:, b]) < 0.002


def test_facet_images_move_grow_and_are_noisy():
    still = {"jitter": 0, "noise": 0, "scale": (1, 1)}

    def kinds(**change):
        settings = {"n_shapes": 1, "n_backgrounds": 1, **still, **change}
        return np.unique(make_facet_images(50, **settings, random_state=0)[0], axis=0)

    assert len(kinds()) == 1
    for change in ({"jitter": 1}, {"scale": (0.8, 1)}, {"noise": 0.05}):
        assert len(kinds(**change)) > 40
    square = (kinds(jitter=2, size=32) - kinds(size=32)[0, 0, 0]).any(axis=3)
    middles = [np.argwhere(mask).mean(axis=0) - 15.5 for mask in square]
    assert 1 < np.abs(middles).max() <= 2.5
    spread = kinds(noise=0.05)[:, 0, 0].std(axis=0) / 255
    np.testing.assert_allclose(spread, 0.05, rtol=0.4)


def test_facet_images_follow_their_seed():
    first, again, other = (make_facet_images(20, random_state=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()
    assert (first[1] != other[1]).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_samples": 0}, "n_samples=0 should be an integer of at least 1"),
        ({"size": 7}, "size=7 should be an integer of at least 8"),
        ({"n_shapes": 2.0}, r"n_shapes=2\.0 should be an integer"),
        ({"n_shapes": 6}, "more than the 5 shapes that there are: square, disc"),
        ({"n_colours": 0}, "n_colours=0 should be an integer of at least 1, or None"),
        ({"n_backgrounds": -1}, "n_backgrounds=-1 should be"),
        ({"jitter": -1}, "jitter=-1 should be a finite number, 0 or more"),
        ({"noise": np.nan}, "noise=nan should be a finite number"),
        ({"scale": (1.1, 0.8)}, r"scale=\(1\.1, 0\.8\) should be a pair"),
        ({"scale": (0, 1)}, "scale=.* should be a pair of finite numbers above 0"),
        ({"scale": 1.0}, r"scale=1\.0 should be a pair"),
        ({"scale": "ab"}, "scale='ab' should be a pair"),
    ],
)
def test_facet_images_errors(change, message):
    with pytest.raises(ValueError, match=message):
        make_facet_images(**change)


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
