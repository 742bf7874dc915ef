"""An array in a file, of which copies for other processes hold the path alone."""

from __future__ import annotations

import contextlib
import os

import numpy as np


class MappedArray:
    """Images or vectors in a ``.npy`` file, read where and when they are used.

    A search copies the rows of each fold for each of its candidates, and sends them to
    other processes. Of this X, a selection of rows holds their numbers, and a pickle
    the path. Each process maps the file into its own memory; the pages that have been
    read are shared by all processes of a machine.

    Parameters
    ----------
    path : path
        Of an array of shape (n, ...), as ``numpy.save`` writes it. Processes on other
        machines need the file at the same path.
    rows : int64 ndarray of shape (n_rows,), optional
        Those that are selected; all by default.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
    chunks : tuple of int
        A row is read by itself.

    Raises
    ------
    TypeError
        If ``path`` is no path.
    ValueError
        If the file holds no array, or one that cannot be mapped. Later, if the file was
        written again when rows are read, or holds another shape or type when a copy is
        made in another process.
    FileNotFoundError
        If there is no such file.

    See Also
    --------
    load_image_folder : Paths of image files, which are as easy to send.

    Examples
    --------
    >>> import numpy as np
    >>> from tempfile import TemporaryDirectory
    >>> from skdeepcluster.datasets import MappedArray, load_digits_images
    >>> X, _ = load_digits_images()
    >>> with TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/X.npy", X)
    ...     some = MappedArray(f"{folder}/X.npy")[100:200]
    ...     some.shape, bool((np.asarray(some) == X[100:200]).all())
    ((100, 8, 8), True)
    """

    def __init__(self, path, rows=None):
        if not isinstance(path, str | bytes | os.PathLike):
            raise TypeError(
                f"path is of type {type(path).__name__}; the path of a .npy file was "
                "expected. Write an array by numpy.save, and pass the path."
            )
        self.path = os.path.abspath(path)
        if os.path.isdir(self.path):
            raise self._unfit("it is a folder")
        try:
            self._stamp = _stamp(self.path)
            values = np.lib.format.open_memmap(self.path, mode="r")
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{self.path!r} does not exist; a file of numpy.save was expected. If "
                "this is another machine, or another folder, bring it to this path."
            ) from None
        except (EOFError, ValueError) as error:
            why = str(error)
            if self._stamp[0] == 0:
                why = "it is empty"
            elif "magic string" in why:
                why = "it does not begin as a .npy file does"
            elif "mmap length" in why:
                why = "it was cut off, or is still being written"
            raise self._unfit(why) from error
        if not values.ndim:
            raise self._unfit("it holds a single number")
        self._set(values, rows)

    def _set(self, values, rows):
        self._values, self.rows = values, rows
        self.shape = (len(values if rows is None else rows), *values.shape[1:])
        self.dtype, self.chunks = values.dtype, (1, *values.shape[1:])

    def _unfit(self, why):
        return ValueError(
            f"{self.path!r} cannot be mapped ({why}). Write the images, or vectors, "
            "by numpy.save, as one array of numbers."
        )

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, key):
        """Select rows, which are not read yet; a single one is.

        Parameters
        ----------
        key : int, slice, or ndarray of shape (n_rows,), int64 or bool
            Or a tuple of one of these and ``...``.

        Returns
        -------
        rows : MappedArray or ndarray

        Raises
        ------
        IndexError
            If a row is out of range, or another axis is indexed, too.
        """
        if isinstance(key, tuple):
            if len(key) != 2 or key[1] is not Ellipsis:
                raise IndexError(
                    f"Rows of a MappedArray were selected by {key!r}; one index was "
                    "expected. Select other axes of np.asarray(X[rows])."
                )
            key = key[0]
        if isinstance(key, slice):
            taken = range(len(self))[key]
            key = np.arange(taken.start, taken.stop, taken.step)
        rows = np.asarray(key)
        if rows.dtype == bool and rows.shape == (len(self),):
            rows = np.flatnonzero(rows)
        if rows.dtype.kind not in "iu" or rows.ndim > 1:
            raise IndexError(
                f"Rows were selected by {key!r}; a slice, integers, or a mask of "
                f"{len(self)} entries was expected."
            )
        if rows.size and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(
                f"Rows {rows.min()} to {rows.max()} were selected of {len(self)}."
            )
        rows = np.where(rows < 0, rows + len(self), rows)
        own = rows if self.rows is None else self.rows[rows]
        if own.ndim == 0:
            return np.asarray(self._read(own))
        selected = object.__new__(MappedArray)  # without opening the file again
        selected.path, selected._stamp = self.path, self._stamp
        selected._set(self._values, own)
        return selected

    def _read(self, rows):
        """Read rows, unless they may be gone: that would end the process."""
        with contextlib.suppress(FileNotFoundError):  # what is mapped stays readable
            (size, written), (now, again) = self._stamp, _stamp(self.path)
            if (size, written) != (now, again):
                what = f"had {size} bytes when it was mapped, and has {now} now"
                if size == now:
                    what = "was written or touched after it was mapped"
                raise ValueError(
                    f"{self.path!r} {what}. Open it anew, and write to another file "
                    "meanwhile."
                )
        return self._values if rows is None else self._values[rows]

    def __array__(self, dtype=None, copy=None):
        return np.array(self._read(self.rows), dtype, copy=copy)

    def __reduce__(self):
        whole = self._values.shape, self._values.dtype
        return _again, (self.path, self.rows, *whole)

    def __repr__(self):
        return f"MappedArray({self.path!r}, shape={self.shape}, dtype={self.dtype})"


def _stamp(path):
    """Return the size of a file, and when it was written."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _again(path, rows, shape, dtype):
    """Map a file in another process, if it holds what it did."""
    mapped = MappedArray(path)
    if (mapped.shape, mapped.dtype) != (shape, dtype):
        raise ValueError(
            f"{path!r} held an array of shape {shape} and type {dtype}, and now holds "
            f"one of {mapped.shape} and {mapped.dtype}. Leave it as it is while others "
            "read it."
        )
    mapped._set(mapped._values, rows)
    return mapped
