"""Data sets and sequences of images, which are read one by one, by their index."""

from __future__ import annotations

import os

import numpy as np
import torch
from PIL import Image

from .arrays import Stored, as_array, is_frame

PATHS = (str, os.PathLike)
TRIED = 16  # items of which one has to be readable, to tell what they are
# what has any of these is an array, a table or a mapping, and is read as such
OTHERS = ("shape", "__array__", "__array_interface__", "__dlpack__", "keys")


class Item:
    """One image of a data set, which is read when it is needed.

    Parameters
    ----------
    images : object
        With an image, or a tuple of an image and a target, at each index.
    row : int
    """

    __slots__ = ("images", "row")

    def __init__(self, images, row):
        self.images, self.row = images, row

    def read(self):
        """Return the image, whatever that is by now."""
        return image_of(self.images[self.row])


class Arrays(Stored):
    """Arrays or tensors of one shape in a sequence, read by rows and never whole.

    Parameters
    ----------
    images : object
        With one, or a tuple of one and a target, at each index.
    first : ndarray
        One of them: all have its shape and dtype.
    """

    def __init__(self, images, first):
        self.source = images
        self.shape, self.dtype = (len(images), *first.shape), first.dtype
        self.ndim, self.size = len(self.shape), len(images) * first.size

    def __getitem__(self, rows):
        if isinstance(rows, tuple):  # rows of all else, as scikit-learn asks for them
            (rows, _) = rows
        if np.ndim(rows) == 0 and not isinstance(rows, slice):
            return self._row(int(rows))
        if isinstance(rows, slice):
            rows = range(*rows.indices(len(self)))
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for place, row in enumerate(rows):
            out[place] = self._row(int(row))
        return out

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype)

    def _row(self, row):
        try:
            values = as_array(image_of(self.source[row]))
            shape, dtype = values.shape, values.dtype
        except Exception as error:  # any library may raise anything here
            raise ValueError(
                f"X[{row}] cannot be read as an array ({str(error)[:200]}). Leave it "
                "out of X."
            ) from error
        if shape != self.shape[1:] or dtype != self.dtype:
            raise ValueError(
                f"X[{row}] has shape {shape} and dtype {dtype}, where others have "
                f"{self.shape[1:]} and {self.dtype}. Bring all to one shape and dtype."
            )
        return values


def image_of(item):
    """Return an item of a data set without the target that may come with it."""
    return item[0] if isinstance(item, tuple) and item else item


def by_index(X):
    """Return a data set or sequence of images as what reads it by index.

    Parameters
    ----------
    X : object
        With ``len(X)``, and images, or tuples of an image and a target, at ``X[i]``.

    Returns
    -------
    X : list of Item, of images or of paths, Arrays, or object
        X itself if it holds no images in that way, or is an array. Of a list or tuple
        of tuples of an image and a target, as a fold of a data set is, the images.

    Raises
    ------
    TypeError
        If X has several columns, or what is no image at an index.
    ValueError
        If X is a data set without items.
    """
    if isinstance(X, list | tuple) and X:
        if isinstance(X[0], dict):
            _raise_columns(X, X[0])
        odd = next((i for i, item in enumerate(X) if not _has_target(item)), None)
        if odd is None:
            return [image_of(item) for item in X]
        if odd or _is_group(X[0]):
            _raise_item(X, odd, X[odd])
    plain = isinstance(X, list | tuple | np.ndarray | torch.Tensor) or is_frame(X)
    # a stream has columns as well, of which it may not know the names
    if not plain and hasattr(X, "column_names") and hasattr(type(X), "__getitem__"):
        _raise_columns(X, image_of(_one_of(X)[1]), X.column_names or ())
    if plain or any(hasattr(X, name) for name in OTHERS):
        return X
    row, item = _one_of(X)
    first = image_of(item)
    if isinstance(first, Image.Image):
        return [Item(X, row) for row in range(len(X))]
    if isinstance(first, PATHS):
        return X if isinstance(X, str) else [image_of(X[row]) for row in range(len(X))]
    if isinstance(first, np.ndarray | torch.Tensor) and first.ndim:
        return Arrays(X, as_array(first))
    if isinstance(first, dict):
        _raise_columns(X, first)
    # numpy would go on until an index is refused, which may never be
    if row is not None and not hasattr(type(X), "__iter__") and not _is_buffer(X):
        _raise_item(X, row, item)
    return X


def _has_target(item):
    """Whether an item of a list is a tuple of an image and a number."""
    if not isinstance(item, tuple) or len(item) != 2 or np.ndim(item[1]):
        return False
    image = item[0]
    return isinstance(image, Image.Image) or getattr(image, "ndim", 0) > 1


def _is_group(item):
    """Whether an item of a list has an image, or a path, and what comes with it."""
    if not isinstance(item, list | tuple) or len(item) < 2:
        return False
    image, *others = item
    if any(isinstance(x, list | tuple) or _may_be_image(x) for x in others):
        return False
    if isinstance(image, PATHS):  # a row of words, or of paths, is another mistake
        return not any(isinstance(other, PATHS) for other in others)
    return _may_be_image(image)


def _is_buffer(X):
    try:
        memoryview(X)
    except TypeError:
        return False
    return True


def _raise_item(X, row, item):
    """Say what an item is that is no image, and how to come by one."""
    what = type(item).__name__
    if isinstance(item, list | tuple):
        what += f" ({', '.join(type(part).__name__ for part in item[:5])})"
    if _is_group(item):
        alone = "[x[0] for x in X]"
        if not isinstance(X, list | tuple):  # which may have no end but its length
            alone = "[X[i][0] for i in range(len(X))]"
        expected = f"an image or a path alone was expected. Pass {alone}."
    else:
        expected = (
            "an image (an array, a tensor, one of Pillow, or a path), or a tuple of an "
            "image and a target, was expected. Pass what has one of these at each "
            "index, such as a list of arrays."
        )
    raise TypeError(
        f"X, of type {type(X).__name__}, holds {what} at index {row}; {expected}"
    )


def image_column(row):
    """Return a name in a dict: of an image, "image", or of a path; or None."""
    images = [name for name, value in row.items() if _may_be_image(value)]
    images += [name for name in row if name == "image"]
    paths = [name for name, value in row.items() if isinstance(value, PATHS)]
    return next(iter(images + paths), None)


def _raise_columns(X, row, names=()):
    """Say which column to pass: the first one that has an image in a row, if any."""
    row = row if isinstance(row, dict) else dict.fromkeys(names)
    image = image_column(row)
    if row.keys() == {"bytes", "path"}:  # one of its columns, not decoded
        what = "[PIL.Image.open(io.BytesIO(x['bytes'])) for x in X]"
    elif image is None:
        what = "a list of the images alone, or of their paths"
    elif names and hasattr(type(X), "__len__"):  # else its columns are streams as well
        what = f"the column of the images, decoded, such as X[{image!r}]"
        if isinstance(row.get(image), dict):
            what = f"X.cast_column({image!r}, datasets.Image())[{image!r}]"
    else:
        what = f"the images alone, such as [row[{image!r}] for row in X]"
    raise TypeError(
        f"X, of type {type(X).__name__}, holds "
        f"{', '.join(map(repr, [*row][:5])) or 'rows'} at each index; an image was "
        f"expected. Pass {what}."
    )


def _may_be_image(value):
    undecoded = isinstance(value, dict) and value.keys() == {"bytes", "path"}
    return undecoded or isinstance(value, Image.Image) or getattr(value, "ndim", 0) > 1


def _one_of(X):
    """Return the first item that can be read and its row, or None twice."""
    if not (hasattr(type(X), "__len__") and hasattr(type(X), "__getitem__")):
        return None, None
    try:
        n = len(X)
    except TypeError:  # a data set that is not read by index
        return None, None
    if n == 0:
        raise ValueError(
            f"X, of type {type(X).__name__}, is empty (n_samples = 0); images were "
            "expected. See whether its folder, or what filtered it, is the right one."
        )
    for row in range(min(n, TRIED)):
        try:
            return row, X[row]
        except Exception:  # a damaged image, or no index at all
            continue
    return None, None
