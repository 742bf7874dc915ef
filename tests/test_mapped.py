"""An array in a file: rows are numbers, pickles are paths."""

import os
import pickle

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score
from sklearn.utils import _safe_indexing
from small_digpro import make

from skdeepcluster.datasets import MappedArray, load_digits_images

VALUES = load_digits_images()[0][:120]
KEYS = {
    "all": slice(None),
    "some": slice(90, 10, -3),
    "none": slice(5, 5),
    "integers": np.array([5, -1, 5, 0]),
    "a list": [3, 1],
    "a mask": np.arange(120) % 7 == 0,
    "one": 7,
    "the last": -1,
}


@pytest.fixture
def X(tmp_path):
    np.save(tmp_path / "X.npy", VALUES)
    return MappedArray(tmp_path / "X.npy")


@pytest.mark.parametrize("name", KEYS)
def test_rows_are_those_of_the_array(X, name):
    key, expected = KEYS[name], VALUES[KEYS[name]]
    for found in (X[key], X[key, ...], pickle.loads(pickle.dumps(X))[key]):
        assert found.shape == expected.shape and found.dtype == np.uint8
        np.testing.assert_array_equal(np.asarray(found), expected)


def test_rows_of_rows(X):
    some = X[20:80][::-2][[3, 0]]
    np.testing.assert_array_equal(np.asarray(some), VALUES[20:80][::-2][[3, 0]])
    np.testing.assert_array_equal(np.asarray(some, float), VALUES[[73, 79]])
    assert repr(some).endswith("X.npy', shape=(2, 8, 8), dtype=uint8)")


def test_nothing_is_read_before_it_is_asked_for(X):
    folds = [_safe_indexing(X, np.arange(k, 120, 2)) for k in range(2)]
    assert all(isinstance(fold, MappedArray) for fold in folds)
    assert len(pickle.dumps(X)) < 300  # with 7680 values
    selected = len(pickle.dumps(folds[0])) - len(pickle.dumps(X))
    assert selected < 60 * 8 + 200  # of the rows, their numbers


def test_clusters_are_those_of_the_array(X):
    model, expected = make().fit(X), make().fit(VALUES)
    np.testing.assert_array_equal(model.labels_, expected.labels_)
    np.testing.assert_array_equal(expected.predict(X[40:50]), expected.labels_[40:50])
    np.testing.assert_array_equal(model.predict(VALUES), expected.labels_)
    scores = [cross_val_score(make(), values, cv=2) for values in (X, VALUES)]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize(
    ("key", "match"),
    [
        (120, "Rows 120 to 120 were selected of 120"),
        ([0, -121], "Rows -121 to 0"),
        ([0.5], "a slice, integers, or a mask of 120 entries was expected"),
        ([True, False], "a mask of 120 entries"),
        (np.zeros((2, 2), int), "a slice, integers"),
        ((0, 0), "one index was expected"),
    ],
)
def test_rows_that_there_are_not(X, key, match):
    with pytest.raises(IndexError, match=match):
        X[key]


def test_files_that_hold_no_array(tmp_path):
    with pytest.raises(FileNotFoundError, match="'.*X.npy' does not exist; a file of"):
        MappedArray(tmp_path / "X.npy")
    (tmp_path / "X.npy").touch()
    with pytest.raises(ValueError, match=r"X.npy' cannot be mapped \(it is empty\)"):
        MappedArray(tmp_path / "X.npy")
    np.save(tmp_path / "X.npy", VALUES)
    os.truncate(tmp_path / "X.npy", 5000)
    with pytest.raises(ValueError, match=r"mapped \(it was cut off, or is still being"):
        MappedArray(tmp_path / "X.npy")
    np.savez(tmp_path / "X.npz", VALUES)
    np.save(tmp_path / "number.npy", 5)
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "folder.npy").mkdir()
    with open(tmp_path / "pickle.npy", "wb") as file:
        pickle.dump(VALUES, file)
    begins = "it does not begin as a .npy file does"
    for name, why in {
        "X.npz": begins,
        "text.npy": begins,
        "pickle.npy": begins,
        "folder.npy": "it is a folder",
        "number.npy": "it holds a single number",
        "objects.npy": ".* objects .*",
    }.items():
        match = rf"{name}' cannot be mapped \({why}\)\. Write .*numpy.save"
        with pytest.raises(ValueError, match=match):
            MappedArray(tmp_path / name)


@pytest.mark.parametrize("path", [None, VALUES, 3])
def test_what_is_no_path(path):
    kind = type(path).__name__
    with pytest.raises(TypeError, match=f"path is of type {kind}; the path of a .npy"):
        MappedArray(path)


def test_a_file_that_was_changed(X):
    """To read rows of a file that was cut would end the process."""
    some, pickled = X[20:80], pickle.dumps(X[20:80])
    np.save(X.path, VALUES[:60])
    size = VALUES[:60].nbytes + 128
    match = f"had {VALUES.nbytes + 128} bytes when it was mapped, and has {size} now"
    for read in (lambda: X[0], lambda: np.asarray(X), lambda: np.asarray(some)):
        with pytest.raises(ValueError, match=match):
            read()
    with pytest.raises(ValueError, match=match):
        make().fit(X)
    match = r"held an array of shape \(120, 8, 8\) and type uint8, .*\(60, 8, 8\)"
    with pytest.raises(ValueError, match=match):
        pickle.loads(pickled)


def test_a_file_that_was_changed_to_one_of_its_size(X):
    some, before = X[20:80], os.stat(X.path)
    np.save(X.path, VALUES.reshape(120, 4, 16))
    now = os.stat(X.path)
    assert now.st_size == before.st_size
    os.utime(X.path, ns=(now.st_atime_ns, before.st_mtime_ns + 10**6))
    for read in (lambda: X[0], lambda: np.asarray(some)):
        with pytest.raises(
            ValueError, match="X.npy' was written or touched after .*anew"
        ):
            read()


def test_a_file_that_is_gone(X):
    pickled = pickle.dumps(X)
    os.unlink(X.path)
    np.testing.assert_array_equal(np.asarray(X[5:9]), VALUES[5:9])  # it is mapped
    with pytest.raises(FileNotFoundError, match="'.*X.npy' does not exist.*bring it"):
        pickle.loads(pickled)


def test_a_copy_is_one(tmp_path):
    np.save(tmp_path / "X.npy", np.arange(6.0).reshape(3, 2))
    mapped = MappedArray(tmp_path / "X.npy")
    copy = np.array(mapped)
    copy[0] = 9
    assert np.asarray(mapped)[0, 0] == 0
