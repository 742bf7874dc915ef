"""Array-likes of every kind hold the same images, or get one clear error."""

import decimal
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
import torch
from estimators import make_stripes
from small_digpro import make

from skdeepcluster._input.arrays import Stored, as_array
from skdeepcluster._input.images import CHUNK
from skdeepcluster._input.layouts import as_images

X = make_stripes()[0].copy()
X[0, 0, :2] = 0, 255  # the whole range, in every type
ROWS = X.reshape(len(X), -1)
VECTORS = np.random.default_rng(0).normal(size=(40, 6))


@pytest.fixture(scope="module")
def reference():
    """Fitted on (n, H, W) uint8."""
    return make().fit(X)


def assert_same(reference, X_again):
    model = make().fit(X_again)
    np.testing.assert_array_equal(model.labels_, reference.labels_)
    expected = reference.transform(X)
    np.testing.assert_allclose(model.transform(X_again), expected, atol=1e-5)
    np.testing.assert_array_equal(reference.predict(X_again), reference.labels_)


# -- containers ------------------------------------------------------------------------


class HasArray:
    """Of a library that numpy can only ask for an array."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values if dtype is None else self.values.astype(dtype)


class HasInterface:
    def __init__(self, values):
        self.values, self.__array_interface__ = values, values.__array_interface__


class HasDLPack:
    """As on a GPU, where numpy is refused."""

    def __init__(self, values):
        self.tensor = torch.tensor(values)

    def __dlpack__(self, **kwargs):
        return self.tensor.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


class OnDevice(HasDLPack):
    def __array__(self, dtype=None, copy=None):
        raise TypeError("implicit conversion is not allowed")


def decimals(images):
    return [[[decimal.Decimal(int(v)) for v in row] for row in im] for im in images]


CONTAINERS = {
    "memoryview": memoryview(X),
    "__array__": HasArray(X),
    "__array_interface__": HasInterface(X),
    "__dlpack__": HasDLPack(X),
    "on a device": OnDevice(X),
    "masked, of which nothing is": np.ma.MaskedArray(X),
    "matrix-like": np.asarray(X).view(np.recarray),
    "with gradient": [torch.tensor(x / 255, requires_grad=True) for x in X],
    "bfloat16": [torch.tensor(x / 1.0).bfloat16() for x in X],
    "conjugate": [torch.tensor(x * 1j).conj().imag.neg() for x in X],
    "list of __array__": [HasArray(x) for x in X],
    "list of memoryviews": [memoryview(x) for x in X],
    "list of masked": [np.ma.MaskedArray(x) for x in X],
    "list of two kinds": [x if i % 2 else torch.tensor(x) for i, x in enumerate(X)],
    "decimals": decimals(X),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(reference, name):
    assert_same(reference, CONTAINERS[name])


def test_a_series_of_tensors(reference):
    pandas = pytest.importorskip("pandas")
    assert_same(reference, pandas.Series([torch.tensor(x) for x in X]))


def test_tensors_of_few_bits():
    values = np.array([[0, 0.5, -2, 96]], np.float32)
    for dtype in (torch.float8_e5m2, torch.float8_e4m3fn, torch.bfloat16):
        np.testing.assert_array_equal(as_array(torch.tensor(values).to(dtype)), values)


@pytest.mark.parametrize("values", [X, VECTORS, X.astype(">f4")])
def test_what_is_an_array_is_not_copied(values):
    for same in (values, memoryview(values), HasArray(values), np.ma.array(values)):
        assert np.shares_memory(as_array(same), values)


# -- arrays on a disk ------------------------------------------------------------------


@pytest.fixture(params=["h5py", "zarr"])
def store(request, tmp_path):
    """A function that puts an array on the disk and returns what reads it."""
    library = pytest.importorskip(request.param)

    def store(values, chunk=7):
        chunks = (chunk, *values.shape[1:])
        if request.param == "h5py":
            file = library.File(tmp_path / "images.h5", "a")
            return file.create_dataset(f"X{len(file)}", data=values, chunks=chunks)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.zarr"
        kwargs = {"shape": values.shape, "dtype": values.dtype, "chunks": chunks}
        array = library.create_array(str(path), **kwargs)
        array[:] = values
        return array

    return store


@pytest.mark.parametrize(
    "values",
    [X, X[..., None], np.stack([X] * 3, 1), X / 255, X.astype(np.float32) / 255],
    ids=["grey", "channels last", "channels first", "float64", "float32"],
)
def test_stored_images(store, values):
    model, stored = make().fit(values), store(values)
    again = make().fit(stored)
    np.testing.assert_array_equal(again.labels_, model.labels_)
    np.testing.assert_array_equal(again.transform(stored), model.transform(values))
    np.testing.assert_array_equal(model.predict(stored), model.labels_)
    assert again.n_features_in_ == model.n_features_in_


def test_stored_rows(store):
    params = {"backbone": "mlp", "augment": "vector"}
    rows = VECTORS + np.array([0, 0, 1e9, 0, 0, 0])  # a column with an offset
    model, again = make(**params).fit(rows), make(**params).fit(store(rows))
    np.testing.assert_array_equal(again.labels_, model.labels_)
    np.testing.assert_array_equal(again.predict(store(rows[:9])), model.labels_[:9])
    with pytest.raises(ValueError, match="X has 5 features, but DigPro is expecting 6"):
        again.predict(store(rows[:, :5]))
    flat = make(image_shape=(1, 8, 8)).fit(store(ROWS))
    np.testing.assert_array_equal(flat.labels_, make().fit(X).labels_)


def test_stored_images_are_never_read_whole(store, monkeypatch):
    monkeypatch.setattr("skdeepcluster._input.layouts.CHUNK", 8)
    monkeypatch.setattr("skdeepcluster._input.scaling.CHUNK_VALUES", 8 * 64)
    read: list[int] = []
    get = Stored.__getitem__

    def spy(self, rows):
        read.append(len(get(self, rows)))
        return get(self, rows)

    monkeypatch.setattr(Stored, "__getitem__", spy)
    many = np.concatenate([X / 255] * 20)  # more than a chunk of the moments
    stored = store(many, chunk=60)
    images, _ = as_images(make(), stored)
    assert isinstance(images.data, Stored)
    make(batch_size=200, max_epochs=1).fit(stored).predict(stored)
    assert len(read) > 2 * len(many) / 8  # the checks and the training
    assert max(read) <= CHUNK < len(many)


def test_rows_of_a_stored_array_in_any_order(store):
    stored = as_array(store(X))
    for rows in ([5, 3, 59, 0], [4, 4, 1], [7]):
        np.testing.assert_array_equal(stored[np.array(rows)], X[rows])
    np.testing.assert_array_equal(stored[2:50:7], X[2:50:7])
    assert (len(stored), stored.shape, stored.dtype) == (60, (60, 8, 8), np.uint8)


def test_missing_values_of_a_stored_array(store):
    values = np.tile(X / 255, (40, 1, 1))
    values[-1, 3, 3] = np.nan  # in the last chunk
    with pytest.raises(ValueError, match="X contains NaN"):
        make().fit(store(values))
    with pytest.raises(ValueError, match=r"1 sample\(s\) .* minimum of 2"):
        make().fit(store(values[:1], chunk=1))
    with pytest.raises(ValueError, match="Complex data not supported"):
        make().fit(store(values + 1j))


def test_a_stored_number():
    h5py = pytest.importorskip("h5py")
    with h5py.File("X", "w", driver="core", backing_store=False) as file:
        file["X"] = 3.0
        with pytest.raises(ValueError, match="Expected 2D array, got scalar array"):
            make().fit(file["X"])


def test_views_of_many_axes_are_not_copied():
    view = np.repeat(X, 2, axis=0)[::2].transpose(0, 2, 1)[:, ::-1]
    images, _ = as_images(make(), view)
    assert images.data.strides == view.strides
    assert np.shares_memory(images.data, view)
    np.testing.assert_array_equal(images[0:60][0][:, 0], view)


# -- what cannot be read ---------------------------------------------------------------


def with_value(value):
    rows = VECTORS.tolist()
    rows[3][2] = value
    return rows


LOADER = torch.utils.data.DataLoader(torch.tensor(X))
TIMES = np.arange(40).reshape(10, 4).astype("M8[s]")
NO_TIME = np.where(np.eye(10, 4, dtype=bool), np.datetime64("NaT"), TIMES)
MISSING = "X contains NaN"
BAD = {
    "a loader": (LOADER, TypeError, "X is a DataLoader of torch .*loader.dataset"),
    "sparse, 3-D": (scipy.sparse.coo_array(X), TypeError, r"Sparse .*X\.toarray\(\)"),
    "a sparse dict": (scipy.sparse.dok_array(ROWS), TypeError, "Sparse.*dense data"),
    "sparse, 1-D": (scipy.sparse.coo_array(X[0, 0]), TypeError, "Sparse.*dense data"),
    "sparse rows": (
        [scipy.sparse.csr_array(x) for x in X],
        TypeError,
        r"list of sparse matrices, .*row\.toarray\(\)",
    ),
    "sparse tensor": (torch.tensor(X).to_sparse(), TypeError, r"Sparse.*to_dense\(\)"),
    "meta tensor": (torch.empty(9, 8, 8, device="meta"), ValueError, "device 'meta'"),
    "list of meta tensors": (
        [torch.empty(8, 8, device="meta")] * 9,
        ValueError,
        "on the device 'meta', where tensors have no values",
    ),
    "masked": (np.ma.masked_equal(X, X[0, 0, 0]), ValueError, f"{MISSING}.* masked"),
    "list of masked": (
        [np.ma.masked_equal(x, x[0, 0]) for x in X],
        ValueError,
        MISSING,
    ),
    "None": (with_value(None), ValueError, f"{MISSING}.* None, NA or NaT. Impute"),
    "NaN": (with_value(float("nan")), ValueError, MISSING),
    "a decimal NaN": (with_value(decimal.Decimal("NaN")), ValueError, MISSING),
    "a decimal": (with_value(decimal.Decimal("Infinity")), ValueError, "infinity"),
    "NaT": (with_value(np.datetime64("NaT")), ValueError, MISSING),
    "no image": ([X[0], None, X[1]], ValueError, rf"{MISSING}.*X\[1\] is None"),
    "times": (TIMES, ValueError, r"dtype datetime64\[s\]; numbers .* X\.astype"),
    "no time": (NO_TIME, ValueError, f"{MISSING}.* NaT"),
    "durations": (TIMES - TIMES[0], ValueError, "dtype timedelta64"),
    "records": (np.zeros((9, 8, 8), [("r", "u1")]), ValueError, "dtype .*the fields"),
    "complex": (X + 1j, ValueError, r"Complex data not supported.*complex128.*X\.real"),
    "complex list": ((VECTORS + 1j).tolist(), ValueError, "Complex data not supported"),
    "complex tensor": (torch.tensor(X) + 1j, ValueError, "Complex .* dtype complex64"),
    "ragged": ([[1, 2], [3]], ValueError, "type list, cannot be read .*inhomogeneous"),
    "ragged tensors": (
        [torch.zeros(3, 4, 4), torch.zeros(3, 4, 5)],
        ValueError,
        r"2 different shapes, such as \(3, 4, 4\) and \(3, 4, 5\)",
    ),
    "two ranges": (
        [X[0], X[1] / 255],
        ValueError,
        "the types uint8, float64, whose ranges may differ. Pass images of one type",
    ),
    "an object": (object(), TypeError, "X, of type object, cannot be read as an array"),
    "no axis": (np.array(5.0), ValueError, "Expected 2D array, got scalar array"),
    "memory of one axis": (memoryview(np.zeros(9, ">i4")), ValueError, "got 1D array"),
    "a boxed object": (np.array({}), TypeError, "real number, not 'dict'"),
    "objects": ([object()] * 9, TypeError, "of type object, cannot be read"),
    "raw bytes": (
        np.zeros((9, 3), "V8"),
        ValueError,
        r"dtype \|V8; numbers .* type of",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arrays(reference, name):
    values, error, match = BAD[name]
    for use in (make(backbone="mlp", augment="auto").fit, reference.predict):
        with pytest.raises(error, match=f"(?s){match}") as caught:
            use(values)
        assert len(str(caught.value)) < 700  # no array is printed


def test_nested_tensors(reference):
    nested = torch.nested.as_nested_tensor(
        [torch.zeros(3, 4), torch.zeros(2, 4)], layout=torch.jagged
    )
    with pytest.raises(TypeError, match="nested tensors are not supported"):
        reference.predict(nested)


FRAMES = {
    "NA": lambda pd: pd.DataFrame({"a": pd.array([1, None] * 9, "Int64"), "b": 1.0}),
    "NA among objects": lambda pd: pd.DataFrame(
        {"a": [1.0, pd.NA] * 9, "b": range(18)}
    ),
    "NaT": lambda pd: pd.DataFrame({"a": pd.to_datetime(["2020-01-01", None] * 9)}),
    "NaT and numbers": lambda pd: pd.DataFrame(
        {"a": pd.to_datetime(["2020-01-01", None] * 9), "b": range(18)}
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_missing_values_of_tables(name):
    frame = FRAMES[name](pytest.importorskip("pandas"))
    with pytest.raises(ValueError, match=MISSING):
        make(backbone="mlp", augment="vector").fit(frame)


def test_times_and_complex_numbers_of_tables():
    pandas = pytest.importorskip("pandas")
    model = make(backbone="mlp", augment="vector")
    with pytest.raises(ValueError, match=r"dtype datetime64.*numbers were expected"):
        model.fit(pandas.DataFrame({"a": pandas.date_range("2020-01-01", periods=9)}))
    with pytest.raises(ValueError, match="Complex data not supported: X has the dtype"):
        model.fit(pandas.DataFrame(VECTORS + 1j))


# -- memory, and data on a GPU ---------------------------------------------------------


def traced(function, *args):
    """Bytes that a call needs at its peak."""
    tracemalloc.start()
    try:
        function(*args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_a_strided_view_costs_no_copy(dtype):
    images = np.zeros((8000, 3, 16, 16), dtype)
    for view in (images[:, :, ::-1], images.transpose(0, 2, 3, 1), images[::2]):
        assert traced(as_images, make(), view) < 0.25 * view.nbytes


def test_a_stored_array_costs_no_copy(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "images.h5", "w") as file:
        stored = file.create_dataset("X", data=np.zeros((20_000, 16, 16), np.float32))
        assert traced(as_images, make(), stored) < 0.25 * stored.nbytes


@pytest.mark.gpu
def test_data_move_to_a_gpu_without_their_offset(reference):
    rows = (VECTORS * 1000).astype(np.int64) + 10**15
    for data in (rows, rows / 4, X, X[:, ::-1]):
        images, _ = as_images(make(), data)
        moved = images.to("cuda")
        assert moved.data.is_cuda
        for index in (slice(3, 9), torch.tensor([5, 2])):
            assert torch.equal(moved[index][0].cpu(), images[index][0])
    assert_same(reference, torch.tensor(X).cuda())
    assert_same(reference, [torch.tensor(x).cuda() for x in X])
