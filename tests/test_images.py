"""Every layout of X becomes the same images."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL
from PIL import Image
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdeepcluster import DigPro, _images, _scaling
from skdeepcluster._device import seeded
from skdeepcluster._images import ImageFiles, Images
from skdeepcluster._layouts import as_images
from skdeepcluster._scaling import Scaling

N = 64
TOLERANCE = 1e-4  # of an embedding, where pixels were rounded otherwise


def make(**params):
    defaults = {
        "backbone": "conv",
        "augment": "weak",
        "lr": 1e-3,
        "device": "cpu",
        "precision": "float32",
    }
    return DigPro(**{**SMALL, **defaults, **params})


def colour_images(shape=(3, 8, 8), n=N):
    """uint8 images (n, *shape) of three kinds that differ in a bright corner."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 100, (n, *shape), dtype=np.uint8)
    images[0::3, :, :4, :4] += 150
    images[1::3, :, :4, 4:] += 150
    images[2::3, :, 4:, 4:] += 150
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 0, 255
    return images


X = colour_images()


@pytest.fixture(scope="module")
def reference():
    """Fitted on (n, C, H, W) uint8."""
    return make().fit(X)


def read(X, reset=True, **params):
    """Return the images of X and the estimator that checked them."""
    estimator = make(**params)
    return as_images(estimator, X, reset=reset), estimator


def pixels(images):
    return torch.cat(list(images.chunks(7))).numpy()


def assert_same_fit(estimator, reference, X_again=None, exact=True):
    np.testing.assert_array_equal(estimator.labels_, reference.labels_)
    expected = reference.transform(X)
    actual = estimator.transform(X if X_again is None else X_again)
    if exact:
        np.testing.assert_array_equal(actual, expected)
    else:
        np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)


def test_the_reference_tells_the_kinds_apart(reference):
    """Equal labels and embeddings below mean something: images differ in both."""
    assert adjusted_rand_score(np.arange(N) % 3, reference.labels_) > 0.5
    assert reference.transform(X).std(0).max() > 100 * TOLERANCE


# --- Axes


CHANNELS_FIRST = {channels: colour_images((channels, 8, 8)) for channels in (1, 3, 4)}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_last_is_the_same_as_channels_first(channels):
    first = CHANNELS_FIRST[channels]
    last = np.ascontiguousarray(first.transpose(0, 2, 3, 1))
    a, b = make().fit(first), make().fit(last)
    assert a.image_shape_ == b.image_shape_ == (channels, 8, 8)
    assert a.n_features_in_ == b.n_features_in_ == channels * 64
    np.testing.assert_array_equal(a.labels_, b.labels_)
    np.testing.assert_array_equal(a.transform(first), b.transform(last))
    # and each reads the other's layout
    np.testing.assert_array_equal(b.transform(first), a.transform(last))
    np.testing.assert_array_equal(b.predict(first), a.labels_)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_flat_rows_after_a_fit_on_images(channels):
    first = CHANNELS_FIRST[channels]
    for images in (first, np.ascontiguousarray(first.transpose(0, 2, 3, 1))):
        estimator = make().fit(images)
        rows = images.reshape(N, -1)
        np.testing.assert_array_equal(estimator.predict(rows), estimator.labels_)
        expected = estimator.transform(images)
        np.testing.assert_array_equal(estimator.transform(rows), expected)


def test_grey_images_without_a_channel_axis():
    grey = CHANNELS_FIRST[1]
    a, b = make().fit(grey[:, 0]), make().fit(grey)
    assert a.image_shape_ == (1, 8, 8)
    assert a.n_features_in_ == 64
    np.testing.assert_array_equal(a.labels_, b.labels_)
    np.testing.assert_array_equal(a.transform(grey), b.transform(grey[:, 0]))


def test_flat_rows_with_image_shape(reference):
    rows = X.reshape(N, -1)
    estimator = make(image_shape=(3, 8, 8)).fit(rows)
    assert estimator.image_shape_ == (3, 8, 8)
    assert estimator.n_features_in_ == 192
    assert_same_fit(estimator, reference)
    assert_same_fit(estimator, reference, rows)


def test_image_shape_as_a_list_of_numpy_integers():
    _, estimator = read(X.reshape(N, -1), image_shape=list(np.array([3, 8, 8])))
    assert estimator.image_shape_ == (3, 8, 8)
    assert all(type(side) is int for side in estimator.image_shape_)


def test_rows_without_image_shape_are_vectors():
    rows = X.reshape(N, -1).astype(float)
    images, estimator = read(rows)
    assert estimator.image_shape_ == images.shape == (1, 1, 192)
    assert estimator.n_features_in_ == 192
    np.testing.assert_array_equal(pixels(images)[:, 0, 0], rows)


def test_a_fit_on_vectors():
    rows = (
        np.random.default_rng(0).normal(size=(N, 10)) + 5 * np.eye(10)[np.arange(N) % 3]
    )
    estimator = make(backbone="auto", augment="auto").fit(rows)
    assert estimator.n_features_in_ == 10
    assert set(estimator.labels_) <= {0, 1, 2}
    np.testing.assert_array_equal(estimator.predict(rows.tolist()), estimator.labels_)


@pytest.mark.parametrize(
    ("shape", "image_shape", "last"),
    [
        ((5, 3, 9, 3), (3, 9, 3), False),
        ((5, 3, 9, 3), (3, 3, 9), True),
        ((5, 7, 9, 5), (7, 9, 5), False),
        ((5, 7, 9, 5), (5, 7, 9), True),
    ],
)
def test_image_shape_tells_the_channel_axis(shape, image_shape, last):
    data = np.random.default_rng(0).random(shape, dtype=np.float32)
    images, estimator = read(data, image_shape=image_shape)
    assert estimator.image_shape_ == image_shape
    expected = data.transpose(0, 3, 1, 2) if last else data
    np.testing.assert_array_equal(pixels(images), expected)


@pytest.mark.parametrize(
    "shape", [(5, 3, 8, 9), (5, 8, 9, 3), (5, 3, 3, 3), (5, 4, 8, 8)]
)
def test_channel_axis_that_is_found(shape):
    images, estimator = read(np.zeros(shape))
    assert images.shape == estimator.image_shape_
    channels = shape[1] if shape[1] in (3, 4) else shape[3]
    assert estimator.image_shape_[0] == channels


def test_not_square():
    data = colour_images((3, 6, 10)).astype(np.float32)
    images, estimator = read(data.transpose(0, 2, 3, 1))
    assert estimator.image_shape_ == (3, 6, 10)
    np.testing.assert_array_equal(pixels(images), data)


@pytest.mark.parametrize("view", [X[:1], X[:1].reshape(1, -1), list(X[:1])])
def test_one_image_after_fit(reference, view):
    np.testing.assert_array_equal(reference.predict(view), reference.labels_[:1])
    assert reference.transform(view).shape == (1, 8)
    np.testing.assert_allclose(reference.predict_proba(view).sum(1), 1, rtol=1e-6)


# --- Data types


def test_uint8_stays_uint8():
    images, _ = read(X)
    assert images.data.dtype == np.uint8
    batch, index = images[torch.tensor([3, 1])]
    assert batch.dtype == torch.uint8
    np.testing.assert_array_equal(batch.numpy(), X[[3, 1]])
    assert index.tolist() == [3, 1]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_unit_floats_are_the_same_as_uint8(reference, dtype):
    unit = (X / 255).astype(dtype)
    assert_same_fit(make().fit(unit), reference, unit, exact=False)


@pytest.mark.parametrize(
    "same",
    [
        X.astype(np.float64),
        X.astype(np.float32),
        X.astype(np.float16),
        X.astype(np.int64),
        X.astype(np.uint16),
        X.astype(np.int16),
        X.astype(">i4"),
        X.astype(object),
        X / 255 * 16,
    ],
    ids=lambda x: f"{x.dtype} to {x.max()}",
)
def test_whole_range_in_another_type_is_the_same_as_uint8(reference, same):
    assert_same_fit(make().fit(same), reference, same, exact=False)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int32, bool])
def test_batches_of_other_types_are_float32(dtype):
    data = (X > 100).astype(dtype)
    images, _ = read(data)
    assert images.data.dtype == dtype
    assert images[torch.arange(4)][0].dtype == torch.float32
    np.testing.assert_array_equal(pixels(images), X > 100)


def test_bool_is_the_same_as_zeros_and_ones():
    masks = X > 100
    a, b = make().fit(masks), make().fit(masks.astype(float))
    np.testing.assert_array_equal(a.labels_, b.labels_)
    np.testing.assert_array_equal(a.transform(masks), b.transform(masks * 1.0))


# --- Containers


def test_an_array_is_not_copied():
    for data in (X, X.astype(np.float32), X.transpose(0, 2, 3, 1).copy()):
        images, _ = read(data)
        assert np.shares_memory(images.data, data)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_memmap_is_not_loaded(tmp_path, reference, dtype):
    path = tmp_path / "images.npy"
    np.save(path, X.astype(dtype))
    mapped = np.load(path, mmap_mode="r")
    images, _ = read(mapped)
    assert np.shares_memory(images.data, mapped)
    assert images.data.dtype == dtype
    assert_same_fit(make().fit(mapped), reference, mapped, exact=dtype == np.uint8)


def test_read_only(reference):
    data = X.copy()
    data.flags.writeable = False
    assert_same_fit(make().fit(data), reference, data)
    np.testing.assert_array_equal(data, X)


def test_batches_of_read_only_data_can_be_written_to():
    data = X.copy()
    data.flags.writeable = False
    images, _ = read(data)
    images[0:4][0].zero_()
    np.testing.assert_array_equal(data, X)


def test_fit_leaves_the_data_alone():
    for dtype in (np.uint8, np.float32):
        data = X.astype(dtype)
        make().fit(data).predict(data)
        np.testing.assert_array_equal(data, X)


@pytest.mark.parametrize(
    "view",
    [
        X[::-1].copy()[::-1],
        X[:, ::-1].copy()[:, ::-1],
        X[..., ::-1].copy()[..., ::-1],
        np.repeat(X, 2, axis=0)[::2],
        np.asfortranarray(X),
        X.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
    ],
    ids=["rows", "channels", "columns", "every second", "Fortran", "transposed"],
)
def test_strides(reference, view):
    assert not view.flags.c_contiguous
    assert_same_fit(make().fit(view), reference, view)


def test_rows_with_negative_strides_are_not_copied():
    images, _ = read(X[::-1])
    assert np.shares_memory(images.data, X)
    np.testing.assert_array_equal(pixels(images), X[::-1])


TENSORS = {
    "uint8": torch.tensor(X),
    "requires_grad": torch.tensor(X / 255, requires_grad=True),
    "bfloat16": torch.tensor(X).bfloat16(),
    "float16": torch.tensor(X).half(),
    "channels_last": torch.tensor(X).contiguous(memory_format=torch.channels_last),
    "permuted": torch.tensor(X).permute(0, 2, 3, 1),
    "strided": torch.tensor(X).repeat_interleave(2, dim=0)[::2],
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(reference, name):
    tensor = TENSORS[name]
    exact = tensor.dtype == torch.uint8
    if name == "bfloat16":  # 8 bits of precision: the pixels themselves are rounded
        reference, exact = make().fit(tensor.float().numpy()), True
        np.testing.assert_array_equal(make().fit(tensor).labels_, reference.labels_)
        actual = reference.transform(tensor)
        np.testing.assert_array_equal(actual, reference.transform(tensor.float()))
    else:
        assert_same_fit(make().fit(tensor), reference, tensor, exact)


def test_a_tensor_shares_its_memory():
    tensor = torch.tensor(X)
    images, _ = read(tensor)
    assert np.shares_memory(images.data, tensor.numpy())


@pytest.mark.parametrize(
    "sequence",
    [
        list(X),
        tuple(X),
        X.tolist(),
        [Image.fromarray(image) for image in X.transpose(0, 2, 3, 1)],
        [torch.tensor(image) for image in X],
        [torch.tensor(image / 255, requires_grad=True) for image in X],
        np.fromiter(X, dtype=object),
    ],
    ids=["list", "tuple", "lists", "Pillow", "tensors", "requires_grad", "objects"],
)
def test_sequences_of_images(reference, sequence):
    assert_same_fit(make().fit(sequence), reference, sequence, exact=False)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames(reference, library):
    frames = pytest.importorskip(library)
    names = [f"pixel{i}" for i in range(192)]
    frame = frames.DataFrame(dict(zip(names, X.reshape(N, -1).T.copy(), strict=True)))
    estimator = make(image_shape=(3, 8, 8)).fit(frame)
    assert estimator.feature_names_in_.tolist() == names
    assert_same_fit(estimator, reference, frame)
    again = make(image_shape=(3, 8, 8)).fit(frame).fit(X)
    assert not hasattr(again, "feature_names_in_")


def test_in_a_pipeline():
    rows = X.reshape(N, -1)
    pipeline = make_pipeline(StandardScaler(), make(image_shape=(3, 8, 8)))
    labels = pipeline.fit_predict(rows)
    np.testing.assert_array_equal(pipeline.predict(rows), labels)
    assert pipeline[-1].image_shape_ == (3, 8, 8)


# --- Files


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
    decode = _images._decode

    def counted(path, shape):
        reads.append(path)
        return decode(path, shape)

    monkeypatch.setattr(_images, "_decode", counted)
    make(max_epochs=3).fit(paths)
    assert sorted(reads) == paths


@pytest.mark.parametrize("workers", [0, 1])
def test_files_beyond_the_cache_are_read_again_and_again(
    reference, paths, monkeypatch, workers
):
    monkeypatch.setattr(_images, "CACHE_BYTES", 0)
    images, _ = read(paths)
    assert isinstance(images, ImageFiles)
    estimator = make(net_params={"iterator_train__num_workers": workers}).fit(paths)
    assert_same_fit(estimator, reference, paths)


def test_grey_files(tmp_path):
    grey = CHANNELS_FIRST[1][:, 0]
    images, estimator = read(save(tmp_path, grey))
    assert estimator.image_shape_ == (1, 8, 8)
    np.testing.assert_array_equal(pixels(images)[:, 0], grey)


def test_grey_among_colour_is_colour(tmp_path):
    colour = save(tmp_path, X[:5].transpose(0, 2, 3, 1))
    Image.fromarray(X[0, 0]).save(tmp_path / "grey.png")
    images, estimator = read([*colour, tmp_path / "grey.png"])
    assert estimator.image_shape_ == (3, 8, 8)
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
    images, estimator = read(files)
    assert estimator.image_shape_ == (3, 8, 8)
    expected = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    np.testing.assert_array_equal(pixels(images).transpose(0, 2, 3, 1), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_modes_of_files(tmp_path, mode):
    files = save(tmp_path, X[:5, 0], mode=mode)
    assert Image.open(files[0]).mode == mode
    images, estimator = read(files)
    assert estimator.image_shape_ == (1, 8, 8)
    expected = X[:5, 0] if mode != "1" else np.isin(pixels(images)[:, 0], 255) * 255
    np.testing.assert_array_equal(pixels(images)[:, 0], expected)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_files_keep_their_range(tmp_path, suffix):
    deep = X[:5, 0].astype(np.uint16) * 257
    images, estimator = read(save(tmp_path, deep, suffix))
    assert estimator.image_shape_ == (1, 8, 8)
    np.testing.assert_array_equal(pixels(images)[:, 0], X[:5, 0])


def test_alpha_of_files(tmp_path):
    rgba = CHANNELS_FIRST[4].transpose(0, 2, 3, 1)
    images, _ = read(save(tmp_path, rgba), image_shape=(4, 8, 8))
    np.testing.assert_array_equal(pixels(images), CHANNELS_FIRST[4])


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
    images, estimator = read(files, image_shape=(3, 8, 6))
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


# --- Scaling


def test_moments_of_uint8():
    scaling = Scaling(Images(X, (3, 8, 8)))
    unit = X / 255
    mean, std = unit.mean((0, 2, 3)), unit.std((0, 2, 3))
    np.testing.assert_allclose(scaling.mean.flatten(), mean, rtol=1e-6)
    np.testing.assert_allclose(scaling.std.flatten(), std, rtol=1e-6)
    raw = torch.tensor(X)
    np.testing.assert_allclose(scaling.unit(raw), unit, atol=1e-7)
    expected = (unit - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)
    np.testing.assert_allclose(scaling(raw), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("data", "low", "high"),
    [
        (X / 255 * 0.9, 0, 1),
        (X / 255, 0, 1),
        (X / 255.0 * 16, 0, 16),
        (X * 1.0, 0, 255),
        (X / 255 * 4 - 3, -3, 1),
        (X.astype(np.int64) * 5 - 100, -100, 1175),
    ],
    ids=["in [0, 1]", "[0, 1]", "[0, 16]", "[0, 255]", "[-3, 1]", "integers"],
)
def test_range_of_floats(data, low, high):
    scaling = Scaling(Images(data, (3, 8, 8)))
    unit = (data - low) / (high - low)
    raw = torch.tensor(data, dtype=torch.float32)
    np.testing.assert_allclose(scaling.unit(raw), unit, atol=1e-6)
    standard = scaling(raw).double()
    np.testing.assert_allclose(standard.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std((0, 2, 3), correction=0), 1, rtol=1e-5)


def test_range_is_that_of_all_data(monkeypatch):
    monkeypatch.setattr(_scaling, "MAX_SAMPLES", 10)
    data = np.zeros((50, 1, 4, 4))
    data[::2], data[7, 0, 1, 1], data[13, 0, 2, 2] = 1, -4, 12  # not among every fifth
    scaling = Scaling(Images(data, (1, 4, 4)))
    assert scaling.low == -4
    assert scaling.span == 16


def test_moments_of_a_sample(monkeypatch):
    monkeypatch.setattr(_scaling, "MAX_SAMPLES", 10)
    scaling = Scaling(Images(X, (3, 8, 8)))
    expected = (X[::7] / 255).mean((0, 2, 3))  # 64 / 10, rounded up
    np.testing.assert_allclose(scaling.mean.flatten(), expected, rtol=1e-6)


def test_vectors_keep_the_relative_scale_of_their_features():
    rows = np.random.default_rng(0).normal(3, [1.0, 10.0, 0.1], size=(N, 3))
    scaling = Scaling(Images(rows, (1, 1, 3)))
    centred = rows - rows.mean(0)
    expected = centred / np.sqrt(np.mean(centred**2))
    raw = torch.tensor(rows, dtype=torch.float32).reshape(N, 1, 1, 3)
    np.testing.assert_allclose(scaling(raw)[:, 0, 0], expected, atol=1e-5)


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 5)])
def test_constant_data_stay_finite(value, dtype, shape):
    data = np.full((N, *shape), value, dtype)
    out = Scaling(Images(data, shape))(torch.tensor(data))
    assert torch.isfinite(out).all()
    assert out.abs().max() < 1e-5


# --- Randomness


def random_states():
    return [random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()]


@pytest.mark.parametrize("random_state", [0, None])
@pytest.mark.parametrize("workers", [0, 1])
def test_global_random_state_is_left_alone(random_state, workers):
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = random_states()
    params = {"iterator_train__num_workers": workers}
    estimator = make(random_state=random_state, net_params=params).fit(X)
    estimator.predict(X)
    estimator.transform(X)
    estimator.score(X)
    np.testing.assert_equal(random_states(), before)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_one_seed_one_result(reference, dtype):
    a, b = make().fit(X.astype(dtype)), make().fit(X.astype(dtype))
    np.testing.assert_array_equal(a.labels_, b.labels_)
    np.testing.assert_array_equal(a.transform(X), b.transform(X))
    losses = [[row["loss"] for row in e.history_] for e in (a, b)]
    assert losses[0] == losses[1]


def test_the_global_seed_does_not_matter(reference):
    torch.manual_seed(99)
    np.random.seed(99)
    assert_same_fit(make().fit(X), reference)


def test_seeds_differ(reference):
    for seed in (1, None):
        other = make(random_state=seed).fit(X)
        assert not np.array_equal(other.transform(X), reference.transform(X))


def test_random_state_none_draws_anew():
    np.random.seed(0)
    a = make(random_state=None).fit(X)
    np.random.seed(0)
    b = make(random_state=None).fit(X)
    assert not np.array_equal(a.transform(X), b.transform(X))


def test_random_state_instance():
    a = make(random_state=np.random.RandomState(5)).fit(X)
    shared = np.random.RandomState(5)
    b, c = make(random_state=shared).fit(X), make(random_state=shared).fit(X)
    np.testing.assert_array_equal(a.transform(X), b.transform(X))
    assert not np.array_equal(b.transform(X), c.transform(X))


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_workers_change_nothing(reference, workers):
    estimator = make(net_params={"iterator_train__num_workers": workers}).fit(X)
    assert_same_fit(estimator, reference)


@pytest.mark.slow
def test_another_process_gives_the_same(tmp_path, reference):
    np.save(tmp_path / "X.npy", X)
    parameters = make().get_params(deep=False)
    code = (
        "import sys, numpy as np; from skdeepcluster import DigPro\n"
        f"X = np.load({str(tmp_path / 'X.npy')!r})\n"
        f"print(DigPro(**{parameters!r}).fit_predict(X).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(reference.labels_.tolist())


def test_seeded_restores_the_generator():
    before = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(3):
        assert torch.equal(torch.rand(2), first)


# -- values that another range would misread -------------------------------------------


def test_uint8_images_for_a_model_of_unit_floats(reference):
    unit = make().fit((X / 255).astype(np.float32))
    np.testing.assert_array_equal(unit.predict(X), unit.labels_)


@pytest.mark.parametrize(
    ("fitted", "given", "said"),
    [
        (X, X / 255, "values up to 1, but .* fitted on images of 0 to 255"),
        (X / 255, X.astype(float), "values up to 25., but .* on images of 0 to 1"),
    ],
)
def test_another_range_at_predict_warns(fitted, given, said):
    model = make().fit(fitted)
    with pytest.warns(UserWarning, match=said):
        model.predict(given)


@pytest.mark.parametrize("deep", [False, True])
def test_a_photo_taken_sideways_is_turned(tmp_path, deep):
    pixels = np.zeros((10, 30), np.uint16 if deep else np.uint8)
    pixels[:, :10] = 65535 if deep else 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise to see it upright
    paths = [str(tmp_path / f"{i}.png") for i in range(2)]
    for path in paths:
        Image.fromarray(pixels).save(path, exif=exif)
    files = as_images(make(image_shape=None), paths, reset=True)
    assert files.shape == (1, 30, 10)
    upright = files[0:1][0][0, 0]
    assert (upright[:10] == 255).all() and (upright[10:] == 0).all()


def test_values_beyond_float32():
    with pytest.raises(ValueError, match="do not fit float32.* Scale X"):
        make(backbone="mlp", augment="vector").fit(np.eye(20) * 1e300)
