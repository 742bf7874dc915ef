"""Array-likes of any library: made an array, or read piece by piece."""

from __future__ import annotations

import math
from numbers import Number

import numpy as np
import torch
from scipy.sparse import issparse
from torch.utils.data import DataLoader, Dataset

from .images import CHUNK

SAMPLE = 2**17  # values that an offset is looked for in
FAR = 2**8  # offsets from this many times the spread on cost float32 too many digits


class Stored:
    """An array on a disk, of h5py or zarr, that is read by rows and never whole.

    Parameters
    ----------
    source : object
        With ``shape``, ``dtype`` and ``chunks``; sliced as an array is.
    """

    def __init__(self, source):
        self.source = source
        self.shape, self.dtype = tuple(source.shape), np.dtype(source.dtype)
        self.ndim, self.size = len(self.shape), math.prod(self.shape)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        if isinstance(rows, slice):
            return np.asarray(self.source[rows])
        order, back = np.unique(rows, return_inverse=True)  # as h5py wants them
        return np.asarray(self.source[order])[back]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.source[:], dtype)


def is_stored(X):
    """Whether X is an array that a library keeps in chunks."""
    chunked = all(hasattr(X, name) for name in ("chunks", "shape", "dtype"))
    return chunked and len(X.shape) > 0


def is_frame(X):
    """Whether X is a table with names of columns, which scikit-learn reads."""
    return hasattr(X, "__dataframe__") or hasattr(X, "dtypes") or hasattr(X, "columns")


def as_array(X):
    """Return an array-like as an array, a Stored, or the table that it is.

    Parameters
    ----------
    X : object
        With ``__array__``, ``__array_interface__``, ``__dlpack__`` or a buffer; a
        tensor; nested lists, or a list of any of these.

    Returns
    -------
    X : ndarray, Stored, DataFrame or sparse matrix
        Tables and sparse matrices come back as they are: scikit-learn tells them.

    Raises
    ------
    TypeError
        If it is sparse in more than two dimensions, a loader of torch, or no array.
    ValueError
        If it has masked or missing entries, holds no values, or is ragged.
    """
    if type(X) is np.ndarray:
        return X.astype(object) if X.dtype.kind == "T" else X
    if isinstance(X, torch.Tensor):
        return _from_tensor(X)
    if isinstance(X, Stored):
        return X
    if isinstance(X, Dataset | DataLoader):
        raise TypeError(
            f"X is a {type(X).__name__} of torch without an image, or an image and a "
            "target, at each index. Pass a data set that has these, such as "
            "loader.dataset, or an array of the images."
        )
    if issparse(X) and X.ndim > 2:
        raise TypeError(
            f"Sparse data of shape {X.shape} were passed, dense ones are required. "
            "Pass X.toarray()."
        )
    if is_frame(X) or issparse(X):
        return X
    if isinstance(X, list | tuple):
        return _from_list(X)
    if isinstance(X, np.ma.MaskedArray):
        if X.dtype.names is None and np.ma.is_masked(X):
            _raise_missing("it has masked entries")
        return X.data
    if isinstance(X, np.ndarray):
        return X
    if is_stored(X):
        return Stored(X)
    return _convert(X)


def _from_tensor(tensor):
    if tensor.layout != torch.strided or tensor.is_nested:
        raise TypeError(
            f"Sparse or nested tensors are not supported, and X has the layout "
            f"{tensor.layout}. Pass X.to_dense(), or one tensor of images of one shape."
        )
    if tensor.is_meta:
        raise ValueError(
            f"X is a tensor of shape {tuple(tensor.shape)} on the device 'meta', where "
            "tensors have no values. Pass one that has."
        )
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    try:
        return tensor.numpy()
    except TypeError:  # bfloat16 and the types of eight bits
        return tensor.float().numpy()


def _from_list(items):
    """Make one array of rows or images."""
    if all(isinstance(item, list | tuple | int | float) for item in items):
        return _convert(items)
    missing = [i for i, item in enumerate(items) if item is None]
    if missing:
        _raise_missing(f"X[{missing[0]}] is None")
    images = [_element(item) for item in items]
    shapes = dict.fromkeys(np.shape(image) for image in images)
    if len(shapes) > 1:
        first, second = list(shapes)[:2]
        raise ValueError(
            f"X is a list of images of {len(shapes)} different shapes, such as {first} "
            f"and {second}. Resize them to one, or pass their files with image_shape."
        )
    types = dict.fromkeys(image.dtype for image in images if np.ndim(image) > 1)
    if len(types) > 1 and np.dtype(np.uint8) in types:
        raise ValueError(
            f"X is a list of images of the types {', '.join(map(str, types))}, whose "
            "ranges may differ. Pass images of one type."
        )
    return np.asarray(images)


def _element(item):
    if isinstance(item, Number | np.generic | str | bytes):
        return item
    if issparse(item):
        raise TypeError(
            "X is a list of sparse matrices, dense rows are required. Pass "
            "[row.toarray() for row in X]."
        )
    return np.asarray(as_array(item))


def _convert(X):
    """``np.asarray``, with errors that tell what came."""
    try:
        try:
            array = np.asarray(X)
        except (TypeError, RuntimeError):
            if not hasattr(X, "__dlpack__"):
                raise
            return _from_tensor(torch.from_dlpack(X))  # as on a GPU
        if array.dtype == object and not array.ndim:
            if hasattr(X, "__dlpack__"):
                return _from_tensor(torch.from_dlpack(X))
            raise TypeError("it has no values by index")
        return array
    except MemoryError:
        raise
    except Exception as error:  # any library may raise anything here
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(
            f"X, of type {type(X).__name__}, cannot be read as an array ({reason}). "
            "Pass a numpy array of images (n, C, H, W), or of rows (n, d)."
        ) from error


def _raise_missing(what):
    raise ValueError(
        f"Input X contains NaN or missing values: {what}. Impute these, or leave their "
        "rows out."
    )


def check_values(X):
    """Refuse values that are no real numbers.

    Parameters
    ----------
    X : ndarray or Stored

    Raises
    ------
    ValueError
        If the values are complex, dates, records, or missing.
    """
    kind = X.dtype.kind
    if kind == "c":
        raise ValueError(
            f"Complex data not supported: X has the dtype {X.dtype}. Pass X.real, or "
            "np.abs(X)."
        )
    if kind in "mM":
        if np.isnat(np.asarray(X)).any():
            _raise_missing("it has entries that are NaT")
        raise ValueError(
            f"X has the dtype {X.dtype}; numbers were expected. Pass times as numbers, "
            "for example X.astype('int64')."
        )
    if kind == "V":
        raise ValueError(
            f"X has the dtype {_short(X.dtype)}; numbers were expected. Pass them as "
            "a type of numpy, such as float32, or the fields of records as columns."
        )
    if kind == "O":
        objects = np.asarray(X)
        if any(_is_missing(value) for value in objects.flat):
            _raise_missing("it has entries that are None, NA or NaT")
        _check_numbers(objects)


def _check_numbers(objects):
    """Convert objects as scikit-learn will, whose errors do not say what of."""
    if any(isinstance(value, complex | np.complexfloating) for value in objects.flat):
        raise ValueError("Complex data not supported: X holds some. Pass their parts.")
    try:
        objects.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"X holds values that are no numbers ({str(error)[:200]}). Pass numbers, "
            "as in X.astype(float)."
        ) from error


def _short(dtype):
    return str(dtype) if len(str(dtype)) <= 100 else f"{str(dtype)[:100]}..."


def _is_missing(value):
    """Whether an object is None or one of the NA and NaT of other libraries."""
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def offset_of(data, per_feature):
    """Find what to subtract before values become float32.

    That is needed where they lie far from 0 and close to each other, as times do: then
    float32 would round their differences away.

    Parameters
    ----------
    data : ndarray or Stored of shape (n, ...)
    per_feature : bool
        Whether each column has an offset of its own.

    Returns
    -------
    offset : ndarray of shape (d,) or (), or None
        Integers of the type of the data, else float64; 0 where it is not needed, and
        None where it is needed nowhere.

    Raises
    ------
    ValueError
        If values differ, but by less than float32 can tell.
    """
    if np.can_cast(data.dtype, np.float32):
        return None
    rows = min(CHUNK, max(16, SAMPLE * len(data) // data.size), len(data))
    sample = np.asarray(data[:: -(-len(data) // rows)])
    axis = 0 if per_feature else None
    values = sample if per_feature else sample.ravel()
    middle = np.partition(values, len(values) // 2, axis=0)[len(values) // 2]
    distance = np.subtract(values, middle, dtype=np.longdouble)
    spread = np.abs(distance, out=distance).max(axis)
    if 0 < np.max(spread) < np.finfo(np.float32).tiny / FAR:
        raise ValueError(
            f"X holds values that differ by less than {np.max(spread):.0e}, which "
            "float32 does not hold. Scale X, for example by a StandardScaler."
        )
    far = _size(middle) > FAR * spread
    if not per_feature and far:  # the range of all images tells what they are
        parts = (data[i : i + CHUNK] for i in range(0, len(data), CHUNK))
        lows, highs = zip(*((part.min(), part.max()) for part in parts), strict=True)
        spread = np.subtract(max(highs), min(lows), dtype=np.longdouble)
        far = _size(middle) > FAR * spread
    if not np.any(far):
        return None
    offset = np.where(far, middle, np.zeros_like(middle))
    return offset.astype(np.float64) if data.dtype.kind == "f" else offset


def _size(values):
    return np.abs(np.asarray(values).astype(np.longdouble))
