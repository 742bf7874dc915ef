"""Random X, drawn by hypothesis; each can be made again."""

import collections
import datetime
import decimal
import fractions
import pickle
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import scipy.sparse
import torch
import zarr
from hypothesis import strategies as st
from PIL import Image

# -- X ---------------------------------------------------------------------------------

ROWS, IMAGES = (12, 6), (9, 6, 5)
SHAPES = [
    *((12, 1), ROWS, (7, 64), (3, 2), IMAGES, (24, 4, 4), (5, 1, 8, 8), (6, 8, 8, 1)),
    *((6, 3, 8, 8), (6, 8, 8, 3), (5, 4, 6, 6), (4, 2, 8, 8), (4, 6, 6, 2)),
    *((), (0,), (5,), (1,), (0, 4), (4, 0), (0, 0), (1, 3), (2, 3), (2, 1), (0, 8, 8)),
    *((6, 0, 8), (6, 8, 0), (6, 1, 1), (6, 1, 8), (6, 8, 1), (6, 2, 2), (1, 8, 8)),
    *((6, 0, 8, 8), (6, 3, 3, 3), (6, 1, 1, 1), (6, 1, 5, 1), (6, 5, 8, 8)),
    *((6, 1, 1, 9), (6, 3, 1, 1), (6, 1, 8, 8, 8), (4, 2, 3, 2, 3, 2)),
]
NUMBERS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "g", "?"]
DTYPES = [*NUMBERS, ">u2", ">i4", ">f4", ">f8", ">i8"]
DTYPES += ["O", "U", "S", "T", "c8", "c16", "M8[s]", "m8[ns]", "V4", "i4,f4"]
VALUES = [
    *("bytes", "unit", "normal", "counts", "binary", "zeros", "sevens", "ramp"),
    *("one row", "signed unit", "huge", "tiny", "subnormal", "far", "farther"),
    *("extremes", "nan", "all nan", "inf", "-inf", "wide", "outlier", "-0"),
]
LAYOUTS = [
    *("C", "F", "reversed", "mirrored", "strided", "broadcast", "read-only"),
    *("map", "transposed", "unaligned"),
]
CONTAINERS = [
    *("list", "tuple", "rows", "tuple of rows", "object rows", "tensor", "gradient"),
    *("bfloat16", "half", "channels last", "tensors", "frame", "polars", "series"),
    *("text columns", "nullable", "categories", "memoryview", "masked", "all masked"),
    *("hdf5", "zarr", "csr", "coo", "sparse 1-d", "sparse tensor", "quantized"),
    *("meta tensor", "pictures", "odd pictures", "one picture", "files", "bad files"),
    *("odd files", "one file", "folder", "generator", "dict", "set", "deque"),
    *("one number", "None", "a word", "missing", "ragged", "mixed", "decimals"),
    *("fractions", "times", "objects", "interface", "broken array", "class"),
    *("matrix", "record", "range", "bytes", "bytearray", "empty", "nested", "bools"),
]


def values_of(kind, shape, rng):
    """Numbers as long doubles."""
    normal = rng.normal(size=shape)
    first = np.arange(normal.size).reshape(shape) == 0
    found = {
        "bytes": lambda: rng.integers(0, 256, shape),
        "unit": lambda: rng.random(shape),
        "normal": lambda: normal,
        "counts": lambda: rng.integers(0, 10, shape),
        "binary": lambda: rng.integers(0, 2, shape),
        "zeros": lambda: 0 * normal,
        "sevens": lambda: 0 * normal + 7,
        "ramp": lambda: np.arange(normal.size).reshape(shape),
        "one row": lambda: 0 * normal + rng.normal(size=shape[-1:]),
        "signed unit": lambda: 2 * rng.random(shape) - 1,
        "huge": lambda: normal * 1e30,
        "tiny": lambda: normal * 1e-30,
        "subnormal": lambda: rng.random(shape) * 1e-310,
        "far": lambda: normal + 1.7e9,
        "farther": lambda: normal + 1e17,
        "nan": lambda: np.where(first, np.nan, normal),
        "all nan": lambda: np.full(shape, np.nan),
        "inf": lambda: np.where(first, np.inf, normal),
        "-inf": lambda: np.where(first, -np.inf, normal),
        "wide": lambda: normal * 10.0 ** rng.integers(-18, 18, shape),
        "outlier": lambda: np.where(first, 1e12, normal),
        "-0": lambda: -0.0 * np.abs(normal),
        "extremes": lambda: rng.integers(0, 2, shape),  # of the dtype: see array_of
    }[kind]()
    return np.asarray(found, np.longdouble)


def array_of(kind, dtype, shape, rng):
    """Values of a kind, as a dtype holds them."""
    values = values_of(kind, shape, rng)
    dtype = np.dtypes.StringDType() if dtype == "T" else np.dtype(dtype)
    if kind == "extremes" and dtype.kind in "iuf":
        info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        return np.where(values > 0, dtype.type(info.max), dtype.type(info.min))
    if dtype.kind == "V":
        return np.zeros(shape, dtype)
    if dtype.kind in "OMmSUT":
        values = values.astype(float)
    if dtype.kind in "mM":
        values = np.nan_to_num(values).clip(-1e9, 1e9).astype("i8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return values.astype(dtype)


def laid_out(array, layout, folder):
    """The same values, elsewhere in memory."""
    if array.ndim < 2 or not array.size:
        return array
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "reversed":
        return array[::-1].copy()[::-1]
    if layout == "mirrored":
        return array[..., ::-1].copy()[..., ::-1]
    if layout == "strided":
        return np.repeat(np.repeat(array, 2, 0), 2, -1)[::2, ..., ::2]
    if layout == "broadcast":
        return np.broadcast_to(array[:1], array.shape)
    if layout == "transposed":
        return array.T.copy().T
    if layout == "read-only":
        array = array.copy()
        array.flags.writeable = False
    if layout == "unaligned" and array.dtype.kind in "iuf":
        raw = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:]
        return raw.view(array.dtype).reshape(array.shape)
    if layout == "map" and not array.dtype.hasobject and array.dtype.kind != "T":
        path = Path(folder) / "map"
        array.tofile(path)
        return np.memmap(path, array.dtype, "r", shape=array.shape)
    return array


class Interface:
    """An object that only numpy's protocol can read."""

    def __init__(self, array, broken=False):
        self.array, self.broken = array, broken

    def __array__(self, dtype=None, copy=None):
        if self.broken:
            raise KeyError("no values")
        return np.asarray(self.array, dtype)


def picture(row, mode="L"):
    side = int(max(1, row.size) ** 0.5)
    values = np.zeros(side * side) + np.resize(np.abs(row.ravel()) % 256, side * side)
    image = Image.fromarray(values.astype(np.uint8).reshape(side, side))
    return image if mode == "L" else image.convert(mode)


ODD_MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F"]
ODD_MODES += ["I;16", "PA", "La", "RGBa", "RGBX", "LAB"]


def odd_picture(row, rng):
    mode = ODD_MODES[rng.integers(len(ODD_MODES))]
    image = picture(row)
    return (
        Image.new(mode, image.size, rng.integers(200) % 2)
        if mode in (*("La", "RGBa", "PA", "LAB", "I;16"),)
        else image.convert("RGB").convert(mode)
    )


def files(rows, folder, rng, kind):
    """Paths of one picture a row; some of ``bad files`` are none."""
    paths = []
    for i, row in enumerate(rows):
        path = Path(folder) / f"{i}.png"
        picture(row, "RGB" if kind == "odd files" and i % 2 else "L").save(path)
        if kind == "bad files" and rng.random() < 0.4:
            content = path.read_bytes()
            path.unlink()
            damage = rng.integers(6)
            if damage == 1:
                path.mkdir()
            elif damage == 2:
                path.symlink_to(path)
            elif damage:
                path.write_bytes(
                    (content[: len(content) // 2], b"", b"text")[damage - 3]
                )
        paths.append([str, Path, lambda p: str(p).encode()][rng.integers(3)](path))
    return paths


def contained(array, kind, folder, rng):
    """The values in a container; the array itself where it cannot hold them."""
    table = array.reshape(len(array), -1) if array.ndim and array.size else None
    numbers = array.dtype.kind in "biuf" and array.dtype.isnative
    plain = {
        "list": lambda: array.tolist(),
        "tuple": lambda: tuple(array.tolist()),
        "rows": lambda: list(array),
        "tuple of rows": lambda: tuple(array),
        "tensor": lambda: torch.tensor(array),
        "gradient": lambda: torch.tensor(array, dtype=torch.float32).requires_grad_(),
        "bfloat16": lambda: torch.tensor(array).bfloat16(),
        "half": lambda: torch.tensor(array).half(),
        "channels last": lambda: torch.tensor(array).to(
            memory_format=torch.channels_last
        ),
        "tensors": lambda: [torch.tensor(row) for row in array],
        "frame": lambda: pd.DataFrame(table, columns=[f"c{i}" for i in _width(table)]),
        "polars": lambda: pl.DataFrame(table),
        "series": lambda: pd.Series(table[:, 0]),
        "text columns": lambda: pd.DataFrame(table).astype(str) + "a",
        "nullable": lambda: pd.DataFrame(table).convert_dtypes().shift(1),
        "categories": lambda: pd.DataFrame(table).astype("category"),
        "memoryview": lambda: memoryview(array),
        "masked": lambda: np.ma.masked_invalid(array),
        "all masked": lambda: np.ma.masked_all_like(array),
        "csr": lambda: scipy.sparse.csr_matrix(table),
        "coo": lambda: scipy.sparse.coo_array(array),
        "sparse 1-d": lambda: scipy.sparse.coo_array(table[0]),
        "sparse tensor": lambda: torch.tensor(array).to_sparse(),
        "quantized": lambda: torch.quantize_per_tensor(
            torch.tensor(array, dtype=torch.float32), 0.1, 0, torch.quint8
        ),
        "meta tensor": lambda: torch.empty(array.shape, device="meta"),
        "pictures": lambda: [picture(row) for row in table],
        "odd pictures": lambda: [odd_picture(row, rng) for row in table],
        "one picture": lambda: picture(table),
        "one file": lambda: files(table[:1], folder, rng, "files")[0],
        "folder": lambda: folder,
        "generator": lambda: (row for row in array),
        "dict": lambda: {"X": array},
        "set": lambda: set(array.ravel().tolist()),
        "deque": lambda: collections.deque(array),
        "one number": lambda: array.ravel()[0],
        "None": lambda: None,
        "a word": lambda: "images",
        "missing": lambda: [None, *array.tolist()],
        "ragged": lambda: [*array.tolist(), [[0.0]]],
        "mixed": lambda: [*array, "a.png"],
        "decimals": lambda: _each(decimal.Decimal, table),
        "fractions": lambda: _each(fractions.Fraction, table),
        "times": lambda: [[datetime.datetime(2020, 1, 1)] * 2] * 8,
        "objects": lambda: [object()] * 8,
        "object rows": lambda: _object_rows(array),
        "interface": lambda: Interface(array),
        "broken array": lambda: Interface(array, broken=True),
        "class": lambda: np.ndarray,
        "matrix": lambda: np.asmatrix(table),
        "record": lambda: np.rec.fromarrays(table.T),
        "range": lambda: range(len(array)),
        "bytes": lambda: array.tobytes(),
        "bytearray": lambda: bytearray(array.tobytes()),
        "empty": lambda: [],
        "nested": lambda: [[[[[[[array.tolist()]]]]]]],
        "bools": lambda: (array > 0).tolist(),
    }
    for several in ("files", "bad files", "odd files"):
        plain[several] = lambda: files(table, folder, rng, kind)
    if kind == "hdf5" and numbers and array.ndim:
        import h5py

        file = h5py.File(Path(folder) / "X", "w")
        return file.create_dataset("X", data=array, chunks=array.size > 0 or None)
    plain["zarr"] = lambda: zarr.array(np.ascontiguousarray(array))
    try:
        return plain[kind]()
    except Exception:  # such as a table of six dimensions
        return array


def _width(table):
    return range(table.shape[1])


def _each(of, table):
    return [[of(float(value)) for value in row] for row in table]


def _object_rows(array):
    rows = np.empty(len(array), object)
    rows[:] = list(array)
    return rows


@dataclass(frozen=True)
class Input:
    """What X is made of."""

    shape: tuple
    dtype: str
    values: str
    layout: str
    container: str
    seed: int

    def make(self):
        """The X, the same one each time; with files in a folder of its own."""
        rng = np.random.default_rng(self.seed)
        folder = tempfile.mkdtemp()  # in that of the test
        with np.errstate(all="ignore"):
            array = array_of(self.values, self.dtype, self.shape, rng)
        array = laid_out(array, self.layout, folder)
        if self.container == "array":
            return array
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return contained(array, self.container, folder, rng)


def often(usual, others):
    """Something usual in half of all draws, so that not everything is odd at once."""
    return st.sampled_from(usual) | st.sampled_from(others)


inputs = st.builds(
    Input,
    shape=often([ROWS, IMAGES, (7, 64), (6, 3, 8, 8), (6, 8, 8, 1)], SHAPES),
    dtype=often(["u1", "f4", "f8", "i8"], DTYPES),
    values=often(["bytes", "normal", "unit"], VALUES),
    layout=often(["C"], LAYOUTS),
    container=often(["array"], CONTAINERS),
    seed=st.integers(0, 3),
)
usual_inputs = st.builds(
    Input,
    shape=st.sampled_from([ROWS, IMAGES, (6, 3, 8, 8)]),
    dtype=st.sampled_from(["u1", "f4"]),
    values=st.sampled_from(["bytes", "unit"]),
    layout=st.just("C"),
    container=st.just("array"),
    seed=st.integers(0, 3),
)


def content(X):
    """What X holds, to see whether it changed; None where that cannot be told."""
    if isinstance(X, torch.Tensor):
        plain = X.layout == torch.strided and not (X.is_meta or X.is_quantized)
        return X.detach().double().numpy().tobytes() if plain else None
    if isinstance(X, np.ndarray) and not X.dtype.hasobject:
        return X.tobytes(), X.strides, X.flags.writeable
    try:
        if isinstance(X, pd.DataFrame | pd.Series | pl.DataFrame):  # these keep caches
            return repr(X), repr(X.to_numpy().tolist())
        return pickle.dumps(X)
    except Exception:
        return None
