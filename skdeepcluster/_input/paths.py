"""Which X are image files or images of Pillow, in whatever container they come."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, KeysView, Set, ValuesView
from pathlib import PurePath

import numpy as np
from PIL import Image
from scipy.sparse import issparse

from .items import Item, by_index, image_column

IMAGES = (Image.Image, Item)
PATHS = (str, bytes, PurePath, os.DirEntry)
LISTED = 10  # files that a message names
ONE_BY_ONE = (Iterator, KeysView, ValuesView, deque)


def listed(X):
    """Return whatever holds paths or images one by one as a list.

    Parameters
    ----------
    X : object
        A 1-D array, a Series, a table of one column of paths, an iterator, a view of a
        dict or a deque becomes a list, and so does a data set of images of Pillow; one
        of arrays is read by rows. All else stays as it is.

    Returns
    -------
    X : object

    Raises
    ------
    TypeError
        If X is a set or a dict, which do not say which row is which.
    ValueError
        If X does not tell its shape.
    """
    if issparse(X):  # one of its kinds is a dict
        return X
    if isinstance(X, dict):
        if hasattr(X, "paths"):
            raise TypeError(
                f"X is a {type(X).__name__}, as load_image_folder returns it. Pass its "
                "paths: load_image_folder(path).paths."
            )
        if hasattr(X, "column_names"):
            raise TypeError(
                f"X, of type {type(X).__name__}, holds the data sets "
                f"{', '.join(map(repr, X))}; one was expected. Pass the column of its "
                f"images, such as X[{next(iter(X), 'train')!r}]['image']."
            )
        firsts = {k: v[0] for k, v in X.items() if isinstance(v, list) and v}
        column = image_column(firsts)
        if column is not None:
            raise TypeError(
                f"X is a dict of lists; images were expected. Pass X[{column!r}]."
            )
        raise TypeError("X is a dict. Pass list(X.values()), or those of its arrays.")
    if isinstance(X, Set) and not isinstance(X, KeysView):
        raise TypeError(
            f"X is a {type(X).__name__}, which has no order that labels could follow. "
            "Pass sorted(X)."
        )
    shape = _shape_of(X)
    if isinstance(X, ONE_BY_ONE) or (isinstance(shape, tuple) and len(shape) == 1):
        return list(X)
    words = getattr(getattr(X, "dtype", None), "kind", "?") in "OSTU"
    one_column = isinstance(shape, tuple) and len(shape) == 2 and shape[1] == 1
    if one_column and (words or hasattr(X, "columns")):
        column = np.asarray(X)[:, 0]
        if len(column) and isinstance(column[0], PATHS):
            return list(column)
    return by_index(X)


def _shape_of(X):
    try:
        return getattr(X, "shape", None)
    except Exception as error:  # h5py's own, of a file that was closed
        raise ValueError(
            f"X, of type {type(X).__name__}, cannot be read ({error}). If it is in a "
            "file that was closed, open that again, and leave it open."
        ) from error


def are_pictures(X):
    """Whether X is a list of file paths, or of images of Pillow.

    Raises
    ------
    ValueError
        If X is one path or one image, or empty.
    TypeError
        If X mixes them with other things.
    """
    if isinstance(X, PATHS):
        if isinstance(X, bytes) and b"\0" in X:
            raise TypeError(
                f"X is {len(X)} bytes; a list of images was expected. Pass an array, "
                "such as np.frombuffer(X, np.uint8).reshape(n, height, width)."
            )
        raise ValueError(
            f"X is one path, {path_of(X)[:200]!r}; a list of image files was expected. "
            "Pass [path], or load_image_folder(path).paths for the files of a folder."
        )
    if isinstance(X, Image.Image):
        raise ValueError("X is one image; a list of images was expected. Pass [image].")
    if not isinstance(X, list | tuple):
        return False
    if not X:
        raise ValueError(
            "X is empty (n_samples = 0). Pass images, vectors or paths of image files; "
            "of an iterator, which is empty once it was read, pass list(iterator)."
        )
    other = [i for i, x in enumerate(X) if not isinstance(x, (*PATHS, *IMAGES))]
    if 0 < len(other) < len(X):
        raise TypeError(
            "X mixes paths, or images of Pillow, with other things: "
            f"X[{other[0]}] is of type {type(X[other[0]]).__name__}. Pass paths and "
            "images of Pillow only, or arrays only."
        )
    content = [i for i, x in enumerate(X) if isinstance(x, bytes) and b"\0" in x]
    if content:
        raise TypeError(
            f"X[{content[0]}] is bytes that are no path. If they are the content of an "
            "image file, pass PIL.Image.open(io.BytesIO(X[i])) for each."
        )
    return not other


def path_of(source):
    """Return a path of any kind as a str, with the user's home in place of ``~``."""
    return os.path.expanduser(os.fsdecode(os.fspath(source)))


def counted(n, thing):
    """Say how many things there are: ``1 file``, ``2 files``."""
    return f"{n} {thing}{'' if n == 1 else 's'}"


def named_lines(named):
    """Name paths for a message, a line each, and say how many more there are.

    Parameters
    ----------
    named : list of tuple (path, reason)

    Returns
    -------
    lines : str
        Each begins with a line break.
    """
    lines = [f"\n  {name!r}: {reason}" for name, reason in named[:LISTED]]
    more = len(named) - LISTED
    return "".join(lines) + (f"\n  and {more} more" if more > 0 else "")
