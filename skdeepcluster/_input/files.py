"""Image files and images of Pillow, read as Images, and those that cannot be read."""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice

import numpy as np

from .._warnings import warn
from .decoding import (
    BYTE,
    DEEP,
    FLOAT,
    MODES,
    Header,
    Unreadable,
    decode,
    read_header,
)
from .images import CHUNK, Images, Rows
from .paths import IMAGES, LISTED, counted, path_of
from .threads import Room, caught, in_threads

CACHE_BYTES = 2**30
FEW = 64  # pictures of any size that are held at once


class ImageFiles(Images):
    """Image files, decoded when they are read and resized to one shape.

    Parameters
    ----------
    sources : list of paths or PIL images
    shape : tuple (C, H, W)
    dtype : dtype
        uint8, uint16 or float32.

    Attributes
    ----------
    bad : dict
        The :class:`Unreadable` of each row that is known to be one.
    """

    def __init__(self, sources, shape, dtype=BYTE):
        super().__init__(np.fromiter(sources, object, len(sources)), shape)
        self._dtype, self.bad = dtype, {}

    @property
    def dtype(self):
        return self._dtype

    def to(self, device):
        return self

    def decode(self, rows):
        """Decode some rows.

        Parameters
        ----------
        rows : slice or int64 ndarray

        Returns
        -------
        pixels : list of ndarray of shape (C, H, W), or Unreadable
        """
        room = Room()
        return in_threads(
            lambda s: decode(s, self.shape, self.dtype, room), self.data[rows]
        )

    def _read(self, rows):
        pixels = self.decode(rows)
        bad = {i: p for i, p in enumerate(pixels) if isinstance(p, Unreadable)}
        if bad:
            raise ValueError(_listing(list(self.data[rows]), bad))
        return np.stack(pixels)

    def read(self, rows):
        """Read those of some rows that can be read.

        Parameters
        ----------
        rows : int64 ndarray of shape (b,)

        Returns
        -------
        images : tensor of shape (b_read, C, H, W), uint8 or float32
        bad : dict
            The :class:`Unreadable` of each other row.
        """
        pixels = self.decode(rows)
        bad = {
            int(row): part
            for row, part in zip(rows, pixels, strict=True)
            if isinstance(part, Unreadable)
        }
        good = [part for part in pixels if not isinstance(part, Unreadable)]
        values = np.stack(good) if good else np.empty((0, *self.shape), self.dtype)
        block = Images(values, self.shape)
        block.rescale = self.rescale
        return block[:][0], bad

    def unreadable(self):
        """Decode every file, to find all that cannot be read.

        Returns
        -------
        bad : dict
            The :class:`Unreadable` of each such row.
        """
        for start in range(0, len(self), FEW):
            rows = np.arange(start, min(start + FEW, len(self)))
            self.bad |= self.read(rows)[1]
        return self.bad

    def load(self):
        """Decode every file once, and keep the pixels where they fit in 1 GiB.

        Returns
        -------
        images : Images or ImageFiles
            Of the files that can be read.
        bad : dict
            The :class:`Unreadable` of each other row.
        """
        keep = len(self) * math.prod(self.shape) * self.dtype.itemsize <= CACHE_BYTES
        pixels = np.empty((len(self) if keep else 0, *self.shape), self.dtype)
        good: list[int] = []
        bad = {}
        for start in range(0, len(self), CHUNK):
            for row, part in enumerate(self.decode(slice(start, start + CHUNK)), start):
                if isinstance(part, Unreadable):
                    bad[row] = part
                    continue
                if keep:
                    pixels[len(good)] = part
                good.append(row)
        if keep:
            return Images(pixels[: len(good)], self.shape), bad
        return ImageFiles(self.data[good], self.shape, self.dtype), bad


def open_files(estimator, sources, shape=None, fitted=None):
    """Look at image files, or images of Pillow, without decoding them.

    Parameters
    ----------
    estimator : DeepClusterer or ImageEncoder
        It gets ``n_features_in_`` at ``fit``.
    sources : list of paths or PIL images
    shape : tuple (C, H, W), optional
        Of each image; that of the files if they agree on one.
    fitted : dtype, optional
        Of the training data, after ``fit``.

    Returns
    -------
    images : ImageFiles
        Of all sources. Its ``bad`` has those that cannot be opened, where files had to
        be opened to tell their shape or dtype.

    Raises
    ------
    ValueError
        At ``fit``, if no file can be opened. If sizes differ and no shape is given, or
        no image can have that shape.
    """
    # an entry of os.scandir cannot be sent to a loader's worker
    sources = [s if isinstance(s, IMAGES) else path_of(s) for s in sources]
    reset = fitted is None
    bad: dict[int, Unreadable] = {}
    dtype = fitted if fitted in (BYTE, DEEP) else None
    if shape is None or dtype is None:
        heads: Counter[Header] = Counter()  # of a million files few differ
        for start in range(0, len(sources), CHUNK):
            part = sources[start : start + CHUNK]
            found = in_threads(lambda s: read_header(s, upright=shape is None), part)
            for row, head in enumerate(found, start):
                if isinstance(head, Unreadable):
                    bad[row] = head
                else:
                    heads[head] += 1
        if len(bad) == len(sources) and reset:
            raise ValueError(_listing(sources, bad))
        dtype = _common_dtype(heads, fitted)
        shape = shape or _common_shape(heads, dtype)
    if shape[0] not in MODES or shape[:2] == (1, 1) or (shape[0], dtype) == (4, FLOAT):
        raise ValueError(
            f"image_shape={shape} cannot be read from image files: they have 1, 3 or 4 "
            "channels (4 with 8 or 16 bits only), and more than one row of pixels if "
            "it is one. Pass another image_shape; one row of grey values as a vector."
        )
    if reset:
        vars(estimator).pop("feature_names_in_", None)
        estimator.n_features_in_ = int(np.prod(shape))
    files = ImageFiles(sources, shape, dtype)
    files.bad = bad
    return files


def read_files(estimator, sources, shape=None, fitted=None, skip=False):
    """Read image files, or images of Pillow, as one set.

    Parameters
    ----------
    estimator : DeepClusterer
        It gets ``n_features_in_`` at ``fit``.
    sources : list of paths or PIL images
    shape : tuple (C, H, W), optional
        Of each image; that of the files if they agree on one.
    fitted : dtype, optional
        Of the training data, after ``fit``.
    skip : bool
        Whether to leave out what cannot be read if the estimator's ``on_error`` is
        ``"skip"``.

    Returns
    -------
    images : Images
        With ``rows`` where some were left out.

    Raises
    ------
    ValueError
        If files cannot be read: all of them are named. If sizes differ and no shape is
        given, or no image can have that shape.
    """
    files = open_files(estimator, sources, shape, fitted)
    images, bad = files.load()
    skip = skip and estimator.on_error == "skip"
    if fitted is None and len(bad) == len(files):
        skip = False
    images.rows = left_out(
        files, bad, skip, "They are left out, and their labels are -1."
    )
    if fitted is None and len(images) < 2:
        raise ValueError(
            f"Found {len(images)} sample(s) (n_samples = {len(images)}) while a "
            "minimum of 2 is required. Pass more image files."
        )
    return images


def left_out(files, bad, skip, end) -> Rows | None:
    """Tell of the files that cannot be read, in one error or one warning.

    Parameters
    ----------
    files : ImageFiles
        Of all rows of X.
    bad : dict
        The :class:`Unreadable` of each row that cannot be read.
    skip : bool
        Whether that is a warning.
    end : str
        Last sentence of the warning: what becomes of these rows.

    Returns
    -------
    rows : Rows or None
        None if all can be read.

    Raises
    ------
    ValueError
        If some cannot, without ``skip``: all of them are named.
    """
    if not bad:
        return None
    sources = list(files.data)
    if not skip:
        raise ValueError(_listing(sources, bad))
    paths = [s if isinstance(s, str) else None for s in sources]
    skipped = [(i, paths[i], str(bad[i])) for i in sorted(bad)]
    read = np.array([i for i in range(len(sources)) if i not in bad], np.int64)
    warn(_listing(sources, bad, end))
    return Rows(len(sources), read, skipped)


def thumbnails(sources, side):
    """Read images to look at.

    Parameters
    ----------
    sources : list of paths or PIL images
    side : int
        Most pixels of a side.

    Returns
    -------
    images : list of ndarray of shape (H, W) or (H, W, 3)
        Of one dtype, unless some hold 32-bit values.

    Raises
    ------
    ValueError
        If a file cannot be read.
    """
    heads = in_threads(lambda s: read_header(s, upright=False), sources)
    deep = any(getattr(head, "dtype", BYTE) == DEEP for head in heads)
    images = read_thumbnails(sources, side, DEEP if deep else BYTE)
    bad = {i: image for i, image in enumerate(images) if isinstance(image, Unreadable)}
    if bad:
        raise ValueError(_listing(sources, bad))
    return images


def read_thumbnails(sources, side, dtype=BYTE):
    """Read images to look at, as far as they can be read.

    Parameters
    ----------
    sources : list of paths or PIL images
    side : int
        Most pixels of a side.
    dtype : dtype
        uint8 or uint16: of the result, unless an image holds 32-bit values.

    Returns
    -------
    images : list of ndarray of shape (H, W) or (H, W, 3), or Unreadable
    """
    room = Room()

    def thumbnail(source):
        head = read_header(source)
        factor = min(1, side / max(head.size))
        width, height = (max(1, round(s * factor)) for s in head.size)
        own = FLOAT if head.dtype == FLOAT else dtype
        pixels = decode(source, (1 if head.grey else 3, height, width), own, room)
        return pixels[0] if head.grey else pixels.transpose(1, 2, 0)

    return in_threads(thumbnail, sources)


def check_file(path):
    """Decode an image file, to find out whether that works.

    Parameters
    ----------
    path : path

    Returns
    -------
    reason : str or None
        What is wrong with it.
    """
    head = caught(read_header)(path)
    small = (1, 1, 1)
    if not isinstance(head, Unreadable):
        head = caught(lambda s: decode(s, small, head.dtype))(path)
    return str(head) if isinstance(head, Unreadable) else None


def check_files(paths):
    """Apply :func:`check_file` to many, in threads."""
    return in_threads(check_file, paths)


def _common_dtype(heads, fitted=None):
    """Find the smallest dtype that holds all files; 32 bits if none has fewer.

    After a fit on 32 bits, one such file is enough: the others are told to be wrong.
    """
    own = {head.dtype for head in heads}
    if own == {FLOAT} or (fitted == FLOAT and FLOAT in own):
        return FLOAT
    return DEEP if DEEP in own else BYTE


def _joins(dtype, common):
    return (dtype == FLOAT) == (common == FLOAT)


def _common_shape(heads, dtype):
    """Return (C, H, W) if all files that hold such values agree on it."""
    joined = {head: n for head, n in heads.items() if _joins(head.dtype, dtype)}
    sizes = {head.size for head in joined}
    if len(sizes) > 1:
        raise ValueError(
            f"The {sum(joined.values())} image files have {len(sizes)} different "
            "sizes. Pass the shape that they shall be resized to, for example "
            "image_shape=(3, 32, 32)."
        )
    (width, height) = sizes.pop()
    return (1 if all(head.grey for head in joined) else 3, height, width)


def _listing(sources, bad, end=None):
    """Name the files that cannot be read, and say why and what to do, or became."""
    if end is None and len(bad) == len(sources):
        end = "Pass images that can be read."
    end = end or "Remove them from X, or pass on_error='skip'."
    lines = [f"{len(bad)} of {counted(len(sources), 'image file')} cannot be read:"]
    for i in islice(sorted(bad), LISTED):
        image = isinstance(sources[i], IMAGES)
        lines.append(f"{f'X[{i}]' if image else repr(path_of(sources[i]))} {bad[i]}.")
    if len(bad) > LISTED:
        lines.append(f"And {len(bad) - LISTED} more.")
    return "\n  ".join(lines) + "\n" + end
