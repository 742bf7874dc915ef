"""Every layout of X becomes the same images."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_digpro import make

from skdeepcluster._input.arrays import Stored
from skdeepcluster._input.images import Images, Part
from skdeepcluster._input.layouts import as_images

N = 64
TOLERANCE = 1e-4  # of an embedding, where pixels were rounded otherwise


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


def read(X, image_shape=None):
    """Return the images of X and their layout."""
    return as_images(make(), X, image_shape=image_shape)


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


@pytest.fixture(scope="module", params=[1, 3, 4])
def first_and_last(request):
    """The same images in both layouts, each with a fit on it."""
    first = CHANNELS_FIRST[request.param]
    last = np.ascontiguousarray(first.transpose(0, 2, 3, 1))
    return [(images, make().fit(images)) for images in (first, last)]


def test_channels_last_is_the_same_as_channels_first(first_and_last):
    (first, a), (last, b) = first_and_last
    assert a.image_shape_ == b.image_shape_ == first.shape[1:]
    assert a.n_features_in_ == b.n_features_in_ == first[0].size
    np.testing.assert_array_equal(a.labels_, b.labels_)
    np.testing.assert_array_equal(a.transform(first), b.transform(last))
    # and each reads the other's layout
    np.testing.assert_array_equal(b.transform(first), a.transform(last))
    np.testing.assert_array_equal(b.predict(first), a.labels_)


def test_flat_rows_after_a_fit_on_images(first_and_last):
    for images, estimator in first_and_last:
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
    _, layout = read(X.reshape(N, -1), image_shape=list(np.array([3, 8, 8])))
    assert layout.shape == (3, 8, 8)
    assert all(type(side) is int for side in layout.shape)


def test_rows_without_image_shape_are_vectors():
    rows = X.reshape(N, -1).astype(float)
    estimator = make()
    images, layout = as_images(estimator, rows)
    assert layout.shape == images.shape == (1, 1, 192)
    assert estimator.n_features_in_ == 192
    np.testing.assert_array_equal(pixels(images)[:, 0, 0], rows)


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
    images, layout = read(data, image_shape=image_shape)
    assert layout.shape == image_shape
    expected = data.transpose(0, 3, 1, 2) if last else data
    np.testing.assert_array_equal(pixels(images), expected)


@pytest.mark.parametrize(
    "shape", [(5, 3, 8, 9), (5, 8, 9, 3), (5, 3, 3, 3), (5, 4, 8, 8)]
)
def test_channel_axis_that_is_found(shape):
    images, layout = read(np.zeros(shape))
    assert images.shape == layout.shape
    channels = shape[1] if shape[1] in (3, 4) else shape[3]
    assert layout.shape[0] == channels


def test_not_square():
    data = colour_images((3, 6, 10)).astype(np.float32)
    images, layout = read(data.transpose(0, 2, 3, 1))
    assert layout.shape == (3, 6, 10)
    np.testing.assert_array_equal(pixels(images), data)


RESTORED = {
    "channels first": (X, None),
    "channels last": (X.transpose(0, 2, 3, 1), None),
    "grey": (X[:, 0], None),
    "rows of pixels": (X.reshape(N, -1), (3, 8, 8)),
    "float": (X / np.float32(255), None),
    "double": (X.transpose(0, 2, 3, 1) - 100.0, None),
    "vectors": (X.reshape(N, -1).astype(np.float32), None),
}


@pytest.mark.parametrize("name", RESTORED)
def test_a_layout_restores_what_was_read(name):
    data, image_shape = RESTORED[name]
    images, layout = read(data, image_shape)
    restored = layout.restore(images[0:5][0])
    assert restored.dtype == (np.uint8 if data.dtype == np.uint8 else np.float32)
    np.testing.assert_array_equal(restored, data[:5])


def test_restored_pixels_are_whole_numbers_of_a_byte():
    _, layout = read(X)
    images = torch.tensor([-3.0, 0.4, 99.6, 300.0] * 48).reshape(1, 3, 8, 8)
    restored = layout.restore(images)
    assert restored.dtype == np.uint8
    assert restored.flatten()[:4].tolist() == [0, 0, 100, 255]


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


@pytest.mark.parametrize("kind", ["array", "reversed", "tensor", "memmap"])
def test_an_index_of_any_shape(kind, tmp_path):
    data = X
    if kind == "reversed":
        data = X[::-1]
    elif kind == "tensor":
        data = torch.tensor(X)
    elif kind == "memmap":
        np.save(tmp_path / "X.npy", X)
        data = np.load(tmp_path / "X.npy", mmap_mode="r")
    images = Images(data, (3, 8, 8))
    index = torch.tensor([[5, 0, 5, 7], [1, 1, 63, 2]])
    batch, same = images[index]
    assert same is index
    expected = np.asarray(data)[index.flatten().numpy()]
    np.testing.assert_array_equal(batch, expected)
    np.testing.assert_array_equal(images[index.T][0][::2], expected[:4])


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


# -- more than 2³¹ bytes, which take no room on the disk while they are 0 --------------


@pytest.fixture
def huge(tmp_path):
    if sys.platform == "win32":
        pytest.skip("files with holes need to be asked for")
    data = np.memmap(tmp_path / "X", np.uint8, "w+", shape=(10**6, 32, 32, 3))
    assert data.size > 2**31
    data[[1, 700_000, -1]] = np.array([1, 7, 9]).reshape(3, 1, 1, 1)
    return data


def test_rows_beyond_two_gibibytes(huge):
    images, _ = as_images(make(), huge)
    assert images.data.size == len(images) * 3072
    rows = torch.tensor([999_999, 1, 700_000, 699_999])
    assert images[rows][0][:, 2, 31, 31].tolist() == [9, 1, 7, 0]
    assert images[999_998:][0].flatten(1).float().mean(1).tolist() == [0, 9]
    some = Part(images, rows)
    assert [len(x) for x in some.chunks(3)] == [3, 1]


def test_size_of_stored_arrays_beyond_int32(huge):
    stored = Stored(Chunked(huge))
    assert stored.size == 10**6 * 3072 and isinstance(stored.size, int)
    assert stored[np.array([999_999, 1])][:, 0, 0, 0].tolist() == [9, 1]


class Chunked:
    """An array as h5py and zarr hold it."""

    chunks = (1,)

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __getitem__(self, rows):
        return self.values[rows]
