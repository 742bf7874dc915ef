import os

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from skdeepcluster.datasets import load_digits_images, load_image_folder


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
