"""Images of any origin, read by index in batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

CHUNK = 1024


@dataclass(frozen=True)
class Rows:
    """Which rows of X became images, where some could not be read.

    Attributes
    ----------
    n : int
        Rows of X.
    read : ndarray of shape (n_read,), int64
        Those that were read.
    skipped : list of tuple (row, path, reason)
        The others.
    """

    n: int
    read: np.ndarray
    skipped: list[tuple[int, str | None, str]]


class Images(Dataset):
    """Rows of an array, read as batches of images.

    Parameters
    ----------
    data : ndarray, tensor or Stored of shape (n, ...)
        The rows in their own layout and dtype; never copied here.
    shape : tuple (C, H, W)
        The shape of one image; ``(1, 1, d)`` for vectors.
    channels_last : bool
        Whether a row holds its values in the order (H, W, C).
    offset : ndarray of shape () or (d,), optional
        Subtracted before values become float32, which would round it away.

    Attributes
    ----------
    rescale : tuple of two floats or None
        Factor and divisor of all values: set where X tells the same images in another
        range than the training data.
    rows : Rows or None
        Set where rows of X are left out.
    origin : tuple of Images and Pretrained, or None
        What features were computed from, and by which network.
    """

    offset: np.ndarray | None
    rescale: tuple[float, float] | None = None
    rows: Rows | None = None
    origin: tuple | None = None

    def __init__(self, data, shape, channels_last=False, offset=None):
        self.data, self.shape, self.channels_last = data, shape, channels_last
        self.offset = offset

    def __len__(self):
        return len(self.data)

    @property
    def dtype(self):
        return self.data.dtype

    @property
    def is_byte(self):
        """Whether values are those of uint8 images, from 0 to 255."""
        return self.dtype == np.uint8 and self.offset is None

    def __getitem__(self, index):
        """Read a batch.

        Parameters
        ----------
        index : slice or int64 tensor of any shape

        Returns
        -------
        images : tensor of shape (b, C, H, W), uint8 or float32
            In the order of the index, flattened.
        index : the index, as it came
        """
        rows = index.flatten() if isinstance(index, torch.Tensor) else index
        if isinstance(self.data, torch.Tensor):
            if isinstance(rows, torch.Tensor):
                rows = sent(rows, self.data.device)
            batch = self.data[rows]
        else:
            batch = self._values(
                rows.numpy() if isinstance(rows, torch.Tensor) else rows
            )
            # from_numpy refuses what it could not write to or stride over
            if not batch.flags.writeable or any(s < 0 for s in batch.strides):
                batch = batch.copy()
            batch = torch.from_numpy(batch)
        if self.rescale is not None:
            factor, divisor = self.rescale
            batch = batch.float() * factor / divisor
        channels, height, width = self.shape
        if self.channels_last:
            batch = batch.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        else:
            batch = batch.reshape(-1, channels, height, width)
        return batch, index

    def _read(self, rows):
        return np.asarray(self.data[rows])

    def _values(self, rows):
        """Rows as they are trained on: a contiguous array, uint8 or float32."""
        batch = self._read(rows)
        if (
            self.offset is not None
        ):  # a long double has the bits of int64 on most systems
            batch = np.subtract(batch, self.offset, dtype=np.longdouble)
        dtype = np.uint8 if batch.dtype == np.uint8 else np.float32
        with np.errstate(over="ignore"):  # an error will tell of it
            return batch.astype(dtype, order="C", copy=False)

    def chunks(self, size=CHUNK, rows=None):
        """Yield the images of a slice of rows, or all, in order, ``size`` at a time."""
        start, stop, _ = (rows or slice(None)).indices(len(self))
        for first in range(start, max(start + 1, stop), size):  # none: an empty chunk
            yield self[first : min(first + size, stop)][0]

    def to(self, device):
        """Move the data to a CUDA device once, if they fit in half its free memory."""
        device = torch.device(device)
        if device.type != "cuda":
            return self
        itemsize = 1 if self.is_byte else 4
        free, _ = torch.cuda.mem_get_info(device)
        if self.data.size * itemsize > free / 2:
            return self
        data = torch.empty(
            self.data.shape,
            dtype=torch.uint8 if itemsize == 1 else torch.float32,
            device=device,
        )
        for start in range(0, len(self), CHUNK):
            rows = slice(start, start + CHUNK)
            data[rows] = torch.from_numpy(self._values(rows).copy()).to(device)
        moved = Images(data, self.shape, self.channels_last)
        moved.rows = self.rows
        return moved


class Part:
    """Some rows of images, read in batches as a net evaluates them.

    Parameters
    ----------
    images : Images
    rows : int64 tensor of shape (b,)
    """

    def __init__(self, images: Images, rows: torch.Tensor):
        self.images, self.rows, self.shape = images, rows, images.shape

    def __len__(self):
        return len(self.rows)

    def chunks(self, size=CHUNK, rows=None):
        """Yield the images of a slice of rows, or all, in order, ``size`` at a time."""
        for some in self.rows[rows or slice(None)].split(size):
            yield self.images[some][0]


def sent(x, device):
    """Send a tensor to a device, without waiting for a GPU.

    Parameters
    ----------
    x : tensor
    device : str or torch.device

    Returns
    -------
    x : tensor
        On the device; work that is queued there sees its values.
    """
    if torch.device(device).type == "cuda" and not x.is_cuda:
        x = x.pin_memory()  # from other memory, the copy waits for what is queued
    return x.to(device, non_blocking=True)


def expand(values, images):
    """Give each row of X its value, also those that were left out.

    Parameters
    ----------
    values : ndarray of shape (n_read, ...)
        Of the images that were read.
    images : Images

    Returns
    -------
    values : ndarray of shape (n, ...)
        Of the same dtype: NaN, -1 or False where rows were left out; ``values`` itself
        if none was.
    """
    if images.rows is None:
        return values
    fill = {"f": np.nan, "i": -1, "b": False}[values.dtype.kind]
    expanded = np.full((images.rows.n, *values.shape[1:]), fill, values.dtype)
    expanded[images.rows.read] = values
    return expanded
