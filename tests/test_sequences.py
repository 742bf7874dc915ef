"""X as a data set or a sequence of images that is read one by one."""

import ctypes
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.utils import _safe_indexing
from small_digpro import make
from torch.utils.data import TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor

from skdeepcluster import ImageEncoder
from skdeepcluster._input.layouts import as_images
from skdeepcluster._input.paths import listed
from skdeepcluster.datasets import load_digits_images

X = load_digits_images()[0][:120]
PICTURES = [Image.fromarray(x) for x in X]


class Column:
    """A column of a data set on a disk: each image is decoded when it is asked for."""

    def __init__(self, files):
        self.files, self.read = files, []

    def __len__(self):
        return len(self.files)

    def __getitem__(self, row):
        self.read.append(row)
        return Image.open(io.BytesIO(self.files[row]))


def png(image):
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


ENCODED = {"bytes": png(PICTURES[0]), "path": None}


class Pairs(torch.utils.data.Dataset):
    """Items with a target each."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        return self.images[row], row % 3


@pytest.fixture(scope="module")
def reference():
    return make().fit(X)


@pytest.fixture
def folder(tmp_path):
    for i, picture in enumerate(PICTURES):
        (tmp_path / f"class {i // 60}").mkdir(exist_ok=True)
        picture.save(tmp_path / f"class {i // 60}" / f"{i:03d}.png")
    return tmp_path


KINDS = {
    "a column of images": Column([png(picture) for picture in PICTURES]),
    "images and targets": Pairs(PICTURES),
    "arrays and targets": Pairs(X),
    "tensors and targets": torch.utils.data.TensorDataset(
        torch.tensor(X), torch.zeros(len(X))
    ),
    "a subset": torch.utils.data.Subset(Pairs([*X, *X]), range(len(X))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_those_of_the_array(reference, kind):
    model = make().fit(KINDS[kind])
    np.testing.assert_array_equal(model.labels_, reference.labels_)
    np.testing.assert_array_equal(reference.predict(KINDS[kind]), reference.labels_)
    assert model.image_shape_ == (1, 8, 8)
    pickle.loads(pickle.dumps(model)).predict(X[:3])


def test_a_folder_of_torchvision(reference, folder):
    colours = np.repeat(X[:, None], 3, axis=1)  # as its loader reads grey files
    expected = make().fit(colours).labels_
    np.testing.assert_array_equal(make().fit(ImageFolder(folder)).labels_, expected)
    tensors = ImageFolder(folder, PILToTensor())
    np.testing.assert_array_equal(make().fit(tensors).labels_, expected)
    paths = [path for path, _ in ImageFolder(folder).samples]
    np.testing.assert_array_equal(make().fit(paths).labels_, reference.labels_)


@pytest.mark.parametrize("kind", ["images and targets", "arrays and targets"])
def test_loader_workers_read_them(reference, kind):
    model = make(net_params={"iterator_train__num_workers": 1}).fit(KINDS[kind])
    np.testing.assert_array_equal(model.labels_, reference.labels_)


def test_arrays_are_never_held_together(monkeypatch):
    monkeypatch.setattr("skdeepcluster._input.layouts.CHUNK", 8)
    images, layout = as_images(make(), Pairs(X.astype(np.float32)))
    assert not isinstance(images.data, np.ndarray) and layout.shape == (1, 8, 8)
    rows = torch.tensor([[5, 2], [5, 7]])
    np.testing.assert_array_equal(images[rows][0][:, 0], X[[5, 2, 5, 7]])
    np.testing.assert_array_equal(images[3:90:7][0][:, 0], X[3:90:7])


def test_images_stay_as_they_are():
    """A decoder may leave out detail of a file of its own, not of another's image."""
    file = io.BytesIO()
    Image.new("RGB", (512, 512)).save(file, "jpeg")
    images = [Image.open(io.BytesIO(file.getvalue())) for _ in range(2)]
    as_images(make(image_shape=(3, 8, 8)), Pairs(images))
    assert all(image.size == (512, 512) for image in images)


def test_each_image_is_read_no_more_than_it_has_to_be():
    column = Column([png(picture) for picture in PICTURES])
    as_images(make(), column)
    # to tell what it is, for the header, and for the pixels, which fit in memory
    assert max(map(column.read.count, range(len(X)))) == 3


def test_damaged_images_are_told_and_left_out():
    column = Column([png(picture) for picture in PICTURES])
    column.files[0], column.files[7] = b"no image", column.files[7][:90]
    with pytest.raises(
        ValueError, match=r"2 of 120 (?s:.*)X\[0\] cannot be (?s:.*)X\[7\]"
    ):
        make().fit(column)
    with pytest.warns(UserWarning, match=r"X\[0\] cannot be read \(cannot identify"):
        model = make(on_error="skip").fit(column)
    assert [row for row, _, _ in model.skipped_] == [0, 7]
    np.testing.assert_array_equal(np.flatnonzero(model.labels_ < 0), [0, 7])


class Odd(Pairs):
    """One item is another thing than the others."""

    def __init__(self, row, item, images=X):
        super().__init__(images)
        self.row, self.item = row, item

    def __getitem__(self, row):
        if row != self.row:
            return super().__getitem__(row)
        if isinstance(self.item, Exception):
            raise self.item
        return self.item


class Endless:
    """A data set of one's own, which refuses no index."""

    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 30

    def __getitem__(self, row):
        assert row < 30, "an index beyond the end"
        return self.item


class EndlessOfTorch(Endless, torch.utils.data.Dataset):
    pass


class Rows(Pairs):
    def __getitem__(self, row):
        return {"label": 0, "img": self.images[row]}


class Table(Rows):
    column_names = ["label", "img"]
    shape = (len(X), 2)


class Splits(dict):
    """Several tables, as a data set of Hugging Face comes."""

    column_names = {"train": ["label", "img"]}


class TableStream:
    """A table of Hugging Face that comes row by row; its columns do, too."""

    def __init__(self, column_names):
        self.column_names = column_names

    def __iter__(self):
        yield {"img": X[0]}

    def __getitem__(self, name):
        return (row[name] for row in self)


class StreamOfRows:
    column_names = None

    def __iter__(self):
        yield {"img": X[0]}


class Sized:
    def __len__(self):
        return 0

    def __getitem__(self, row):
        raise IndexError(row)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from X


BAD = {
    "another shape": (Odd(5, X[0, :4]), ValueError, r"X\[5\] has shape \(4, 8\).*one"),
    "another dtype": (Odd(5, X[0] / 1.0), ValueError, r"X\[5\] .* dtype float64"),
    "damaged": (Odd(5, OSError("torn")), ValueError, r"X\[5\] cannot .*\(torn\)"),
    "no image": (Odd(5, (None, 1), PICTURES), ValueError, r"X\[5\] is not .*NoneType"),
    "rows": (
        Rows(X),
        TypeError,
        r"type Rows, holds 'label', 'img' at .*\[row\['img'\] for row in X\]",
    ),
    "a list of rows": (
        [{"label": 0, "img": picture} for picture in PICTURES],
        TypeError,
        r"type list, holds 'label', 'img' at .*\[row\['img'\] for row in X\]",
    ),
    "a table of images": (
        Table(X),
        TypeError,
        r"type Table, holds 'label', 'img' .*the column .* such as X\['img'\]",
    ),
    "a table that is not decoded": (
        Table([ENCODED] * 9),
        TypeError,
        r"X.cast_column\('img', datasets.Image\(\)\)\['img'\]",
    ),
    "a tuple of rows": (
        ({"label": 0, "img": PICTURES[0]},) * 9,
        TypeError,
        r"type tuple, holds 'label', 'img' at .*\[row\['img'\] for row in X\]",
    ),
    "rows of paths": (
        [{"label": 0, "file": "a.png"}] * 9,
        TypeError,
        r"holds 'label', 'file' at .*\[row\['file'\] for row in X\]",
    ),
    "rows without an image": (
        [{"label": 0}] * 9,
        TypeError,
        r"holds 'label' at .*Pass a list of the images alone, or of their paths\.",
    ),
    "a stream of a table": (
        TableStream(["label", "image"]),
        TypeError,
        r"holds 'label', 'image' at .*Pass .* \[row\['image'\] for row in X\]",
    ),
    "a stream of a table without names": (
        TableStream(None),
        TypeError,
        "type TableStream, holds rows .*Pass a list of the images alone",
    ),
    "a batch of a table": (
        {"label": [0] * 9, "img": PICTURES[:9]},
        TypeError,
        r"X is a dict of lists; .*Pass X\['img'\]",
    ),
    "samples of torchvision": (
        [("a/0.png", 0), ("b/1.png", 1)],
        TypeError,
        r"holds tuple \(str, int\) at index 0; .* path alone .*\[x\[0\] for x in X\]",
    ),
    "lists of an image and a target": (
        [[picture, 0] for picture in PICTURES],
        TypeError,
        r"list \(Image, int\) at index 0; an image .* alone .*\[x\[0\] for x in X\]",
    ),
    "a fold with one that is missing": (
        [*((picture, 0) for picture in PICTURES), None],
        TypeError,
        "type list, holds NoneType at index 120; an image .*Pass what has one of these",
    ),
    "a table without rows": (Table([]), ValueError, "type Table, is empty"),
    "a column that is not decoded": (
        Pairs([ENCODED] * 9),
        TypeError,
        r"holds 'bytes', 'path' .*BytesIO\(x\['bytes'\]\)",
    ),
    "splits": (
        Splits(train=Table(X)),
        TypeError,
        r"data sets 'train'; one .*X\['train'\]\['image'\]",
    ),
    "no index": (Stream(), TypeError, "Stream of torch without .*loader.dataset"),
    "a stream of rows": (StreamOfRows(), TypeError, "StreamOfRows, cannot .* by index"),
    "empty": (Pairs(X[:0]), ValueError, r"Pairs, is empty \(n_samples = 0\).*folder"),
    "no data set, and empty": (Sized(), ValueError, "type Sized, is empty"),
    "an empty list": ([], ValueError, r"X is empty \(n_samples = 0\). Pass images"),
    "texts": (Pairs(["a.png", "b.png"]), ValueError, "2 of 2 image files cannot be"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_items(reference, name):
    values, error, match = BAD[name]
    for use in (make().fit, reference.predict):
        with pytest.raises(error, match=f"(?s){match}"):
            use(values)


@pytest.mark.parametrize("kind", [Endless, EndlessOfTorch])
@pytest.mark.parametrize(
    ("item", "match"),
    [
        (5, "holds int at index 0; an image .*, or a tuple of .*Pass what has one of"),
        (None, "holds NoneType at index 0; an image"),
        (b"\x89PNG", "holds bytes at index 0; an image"),
        ((None, 1), r"holds tuple \(NoneType, int\) at index 0; an image"),
        ((), r"holds tuple \(\) at index 0; an image"),
        (torch.tensor(3), "holds Tensor at index 0; an image"),
        (
            [torch.zeros(3, 8, 8), 1],
            r"holds list \(Tensor, int\) at index 0; an image .* alone was expected. "
            r"Pass \[X\[i\]\[0\] for i in range\(len\(X\)\)\]\.",
        ),
    ],
)
def test_no_index_beyond_the_end_is_read(kind, item, match):
    with pytest.raises(TypeError, match=f"type {kind.__name__}, {match}"):
        make().fit(kind(item))


def test_a_buffer_is_an_array():
    values = np.random.default_rng(0).normal(size=(40, 6))
    buffer = (ctypes.c_double * 6 * 40).from_buffer(values)
    images, layout = as_images(make(), buffer)
    assert layout.shape == (1, 1, 6)
    np.testing.assert_array_equal(images[:][0].reshape(40, 6), values.astype("f4"))


def test_a_data_set_of_paths(reference, folder):
    paths = [Path(path) for path, _ in ImageFolder(folder).samples]
    np.testing.assert_array_equal(make().fit(Pairs(paths)).labels_, reference.labels_)


def test_features_of_a_data_set():
    class Mean(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    encoder = ImageEncoder(Mean(), device="cpu")
    np.testing.assert_allclose(
        encoder.fit_transform(KINDS["images and targets"]),
        encoder.fit_transform(X),
        rtol=1e-6,
    )


def test_rows_of_a_data_set_of_arrays():
    arrays = listed(TensorDataset(torch.from_numpy(X), torch.arange(len(X))))
    np.testing.assert_array_equal(arrays[3], X[3])
    for rows in ([5, 2], np.array([5, 2]), slice(2, 9, 3)):
        np.testing.assert_array_equal(arrays[rows], X[rows])
    np.testing.assert_array_equal(arrays[[5, 2], ...], X[[5, 2]])
    np.testing.assert_array_equal(_safe_indexing(arrays, [5, 2]), X[[5, 2]])


@pytest.mark.parametrize("kind", [torch.from_numpy, Image.fromarray, np.asarray])
def test_a_fold_of_images_and_targets(kind):
    pairs = [(kind(x), i % 3) for i, x in enumerate(X)]
    params = {"max_epochs": 1, "lr": 1e-30}
    expected = make(**params).fit(X)
    np.testing.assert_array_equal(make(**params).fit(pairs).labels_, expected.labels_)
    np.testing.assert_array_equal(expected.predict(pairs[:20]), expected.labels_[:20])


def test_a_column_named_image_comes_before_one_of_paths():
    row = {"label": "cat", "image": [[1, 2], [3, 4]]}
    with pytest.raises(TypeError, match=r"\[row\['image'\] for row in X\]"):
        make().fit([row] * 9)
    with pytest.raises(TypeError, match=r"Pass X\['image'\]"):
        make().fit({"label": ["cat"] * 9, "image": [[[1, 2], [3, 4]]] * 9})
