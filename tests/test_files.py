"""Image files become the same images as their pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import cross_val_predict, cross_val_score
from small_digpro import make
from test_images import CHANNELS_FIRST, N, X, assert_same_fit, pixels, read

from skdeepcluster._input import images as reading
from skdeepcluster._input.images import ImageFiles
from skdeepcluster._input.layouts import as_images


@pytest.fixture(scope="module")
def reference():
    """Fitted on (n, C, H, W) uint8."""
    return make().fit(X)


def save(folder, images, suffix=".png", mode=None):
    paths = []
    for i, image in enumerate(images):
        path = folder / f"{i:03}{suffix}"
        picture = Image.fromarray(image)
        (picture.convert(mode) if mode else picture).save(path)
        paths.append(str(path))
    return paths


@pytest.fixture
def paths(tmp_path):
    """X as PNG files."""
    return save(tmp_path, X.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    "container", [list, tuple, np.array, "object", "Path", "Series"]
)
def test_files_are_the_same_as_their_pixels(reference, paths, container):
    if container == "object":
        files = np.array(paths, dtype=object)
    elif container == "Path":
        files = [Path(path) for path in paths]
    elif container == "Series":
        files = pytest.importorskip("pandas").Series(paths, index=range(5, N + 5))
    else:
        files = container(paths)
    estimator = make().fit(files)
    assert estimator.image_shape_ == (3, 8, 8)
    assert estimator.n_features_in_ == 192
    assert_same_fit(estimator, reference, files)
    np.testing.assert_array_equal(reference.predict(files[:1]), reference.labels_[:1])


def test_files_after_data_with_feature_names(paths):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X.reshape(N, -1)).rename(columns=str)
    estimator = make(image_shape=(3, 8, 8)).fit(frame).fit(paths)
    assert not hasattr(estimator, "feature_names_in_")


def test_files_are_decoded_once(paths, monkeypatch):
    reads = []
    decode = reading._decode

    def counted(path, shape):
        reads.append(path)
        return decode(path, shape)

    monkeypatch.setattr(reading, "_decode", counted)
    make(max_epochs=3).fit(paths)
    assert sorted(reads) == paths


@pytest.mark.parametrize("workers", [0, 1])
def test_files_beyond_the_cache_are_read_again_and_again(
    reference, paths, monkeypatch, workers
):
    monkeypatch.setattr(reading, "CACHE_BYTES", 0)
    images, _ = read(paths)
    assert isinstance(images, ImageFiles)
    estimator = make(net_params={"iterator_train__num_workers": workers}).fit(paths)
    assert_same_fit(estimator, reference, paths)


def test_grey_files(tmp_path):
    grey = CHANNELS_FIRST[1][:, 0]
    images, layout = read(save(tmp_path, grey))
    assert layout.shape == (1, 8, 8)
    np.testing.assert_array_equal(pixels(images)[:, 0], grey)


def test_grey_among_colour_is_colour(tmp_path):
    colour = save(tmp_path, X[:5].transpose(0, 2, 3, 1))
    Image.fromarray(X[0, 0]).save(tmp_path / "grey.png")
    images, layout = read([*colour, tmp_path / "grey.png"])
    assert layout.shape == (3, 8, 8)
    np.testing.assert_array_equal(pixels(images)[5], X[:1, 0].repeat(3, axis=0))


def test_colour_files_as_grey(tmp_path):
    files = save(tmp_path, X[:5].transpose(0, 2, 3, 1))
    images, _ = read(files, image_shape=(1, 8, 8))
    expected = [np.asarray(Image.open(file).convert("L")) for file in files]
    np.testing.assert_array_equal(pixels(images)[:, 0], expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr"])
def test_modes_of_files(tmp_path, mode):
    suffix = ".tiff" if mode in ("CMYK", "YCbCr") else ".png"
    files = save(tmp_path, X[:5].transpose(0, 2, 3, 1), suffix, mode)
    assert Image.open(files[0]).mode == mode
    images, layout = read(files)
    assert layout.shape == (3, 8, 8)
    expected = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    np.testing.assert_array_equal(pixels(images).transpose(0, 2, 3, 1), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_modes_of_files(tmp_path, mode):
    files = save(tmp_path, X[:5, 0], mode=mode)
    assert Image.open(files[0]).mode == mode
    images, layout = read(files)
    assert layout.shape == (1, 8, 8)
    expected = X[:5, 0] if mode != "1" else np.isin(pixels(images)[:, 0], 255) * 255
    np.testing.assert_array_equal(pixels(images)[:, 0], expected)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_files_keep_their_range(tmp_path, suffix):
    deep = X[:5, 0].astype(np.uint16) * 257
    images, layout = read(save(tmp_path, deep, suffix))
    assert layout.shape == (1, 8, 8)
    np.testing.assert_array_equal(pixels(images)[:, 0], X[:5, 0])


def test_alpha_of_files(tmp_path):
    rgba = CHANNELS_FIRST[4].transpose(0, 2, 3, 1)
    images, layout = read(save(tmp_path, rgba), image_shape=(4, 8, 8))
    np.testing.assert_array_equal(pixels(images), CHANNELS_FIRST[4])
    restored = layout.restore(images[0:5][0])  # files have no layout of their own
    np.testing.assert_array_equal(restored, CHANNELS_FIRST[4][:5])
    assert restored.dtype == np.uint8


def test_jpeg_files(tmp_path):
    files = save(tmp_path, X[:5].transpose(0, 2, 3, 1), ".jpg")
    images, _ = read(files)
    expected = [np.asarray(Image.open(file)) for file in files]
    np.testing.assert_array_equal(pixels(images).transpose(0, 2, 3, 1), expected)


def test_files_of_many_sizes_are_resized(tmp_path):
    sizes = [(20, 30), (9, 9), (8, 8), (40, 7)]
    files = []
    for i, (width, height) in enumerate(sizes):
        files.append(tmp_path / f"{i}.png")
        Image.new("RGB", (width, height), (10 * i, 50, 200)).save(files[-1])
    estimator = make()
    images, _ = as_images(estimator, files, image_shape=(3, 8, 6))
    assert estimator.n_features_in_ == 144
    for i, image in enumerate(pixels(images)):
        assert image.shape == (3, 8, 6)
        assert np.unique(image[0]).tolist() == [10 * i]
        assert np.unique(image[1:]).tolist() == [50, 200]


def test_files_are_resized_to_the_shape_of_the_fit(tmp_path, reference, paths):
    large = tmp_path / "large"
    large.mkdir()
    blocks = X[:9].transpose(0, 2, 3, 1).repeat(2, axis=1).repeat(2, axis=2)
    files = save(large, blocks)
    expected = [
        np.asarray(Image.open(file).resize((8, 8), Image.Resampling.BICUBIC))
        for file in files
    ]
    actual = reference.transform(files)
    np.testing.assert_array_equal(actual, reference.transform(np.stack(expected)))


def test_cross_validation_slices_paths(paths, reference):
    estimator = make(max_epochs=1)
    scores = cross_val_score(estimator, paths, cv=2)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(scores, cross_val_score(estimator, X, cv=2))
    labels = cross_val_predict(estimator, paths, cv=2)
    np.testing.assert_array_equal(labels, cross_val_predict(estimator, X, cv=2))


@pytest.mark.parametrize("deep", [False, True])
def test_a_photo_taken_sideways_is_turned(tmp_path, deep):
    pixels = np.zeros((10, 30), np.uint16 if deep else np.uint8)
    pixels[:, :10] = 65535 if deep else 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise to see it upright
    paths = [str(tmp_path / f"{i}.png") for i in range(2)]
    for path in paths:
        Image.fromarray(pixels).save(path, exif=exif)
    files, _ = read(paths)
    assert files.shape == (1, 30, 10)
    upright = files[0:1][0][0, 0]
    assert (upright[:10] == 255).all() and (upright[10:] == 0).all()
