"""The images of X, whatever they come as, read small and a few at a time."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections import defaultdict

import numpy as np
from PIL import Image, features

from .._input.arrays import as_array
from .._input.decoding import Unreadable
from .._input.files import read_thumbnails
from .._input.paths import PATHS, are_pictures, listed, path_of
from .._input.threads import in_threads
from ..plots._tiles import to_panels

CHUNK = 256  # images that are held at once
SAMPLE = 1000  # images that black and white are looked for in
PLAIN = 32  # pixels: grey images up to this side are kept exactly
QUALITY = 72


class Pictures:
    """Images to look at.

    Parameters
    ----------
    X : array-like, tensor or list of paths of length n

    Raises
    ------
    ValueError
        If X holds no images.
    """

    def __init__(self, X):
        X = listed(X)
        self.listed = are_pictures(X)
        self.files = self.listed and all(isinstance(x, PATHS) for x in X)
        self.data = X if self.listed else as_array(X)
        if not self.listed:
            shape = tuple(self.data.shape)
            if len(shape) == 2:
                raise ValueError(
                    f"X holds vectors (shape {shape}), and a report shows images. Pass "
                    "the images that they belong to as X, an array or a list of paths, "
                    "and the vectors as embedding=."
                )
            first = self._panels(slice(0, 1))  # which raises for what is no image
            self.black, self.white = 0.0, 255.0
            if first.dtype != np.uint8 and len(first):
                step = -(-len(self) // SAMPLE)
                self.black, self.white = _range(self._panels(slice(None, None, step)))

    def __len__(self):
        return len(self.data) if self.listed else self.data.shape[0]

    def names(self):
        """Return a name for each: the path below what all have in common, or a row.

        Returns
        -------
        names : list of str
        """
        if not self.files:
            return [f"row {i}" for i in range(len(self))]
        paths = [path_of(source) for source in self.data]
        try:
            common = os.path.commonpath([os.path.dirname(path) for path in paths])
        except ValueError:  # absolute and relative ones, or two drives
            return paths
        return [os.path.relpath(path, common) if common else path for path in paths]

    def read(self, rows, side):
        """Read some images small.

        Parameters
        ----------
        rows : sequence of int
        side : int
            Most pixels of a side. Smaller ones stay as they are.

        Returns
        -------
        images : list of uint8 ndarray of shape (H, W) or (H, W, 3), or Unreadable
        """
        if self.listed:
            images = read_thumbnails([self.data[i] for i in rows], side)
            return [_to_bytes(image) for image in images]
        span = (self.white - self.black) or 1.0
        # stored arrays are read fastest in their order
        order, back = np.unique(np.asarray(rows, np.int64), return_inverse=True)
        panels = self._panels(order)
        if panels.dtype != np.uint8:
            scaled = (panels.astype(np.float64) - self.black) * (255 / span)
            panels = np.nan_to_num(scaled).clip(0, 255).round().astype(np.uint8)
        return [_small(panels[i], side) for i in back]

    def _panels(self, rows):
        return to_panels(np.asarray(self.data[rows]), None, None)

    def identical(self):
        """Find the images that are the same, byte by byte.

        Returns
        -------
        groups : list of int64 ndarrays
            Rows, two at least in each group. None are found among images of Pillow,
            which would have to be decoded.
        """
        if self.files:
            candidates = self._of_one_size()
            digests = in_threads(lambda i: _digest_of(self.data[i]), candidates)
            found = zip(candidates, digests, strict=True)
        elif self.listed:
            return []
        else:
            found = self._digests()
        groups = defaultdict(list)
        for row, digest in found:
            groups[digest].append(row)
        groups.pop(None, None)  # what cannot be opened
        return [np.array(rows) for rows in groups.values() if len(rows) > 1]

    def _of_one_size(self):
        sizes = defaultdict(list)
        for row, source in enumerate(self.data):
            try:
                sizes[os.path.getsize(path_of(source))].append(row)
            except (OSError, ValueError):
                continue
        groups = (rows for rows in sizes.values() if len(rows) > 1)
        return sorted(row for rows in groups for row in rows)

    def _digests(self):
        for start in range(0, len(self), CHUNK):
            for row, image in enumerate(self._panels(slice(start, start + CHUNK))):
                yield start + row, hashlib.sha256(image.tobytes()).digest()


def encode(image, side):
    """Encode an image for a page.

    Parameters
    ----------
    image : uint8 ndarray of shape (H, W) or (H, W, 3)
    side : int
        Most pixels of a side.

    Returns
    -------
    url : str
        A ``data:`` address.
    """
    picture = Image.fromarray(_small(image, side))
    file = io.BytesIO()
    kind = "webp" if features.check("webp") else "jpeg"
    if image.ndim == 2 and max(image.shape) <= PLAIN:
        kind = "png"
        picture.save(file, "png", optimize=True)
    elif kind == "webp":
        picture.save(file, kind, quality=QUALITY, method=2)
    else:
        picture.save(file, kind, quality=QUALITY, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _small(image, side):
    if max(image.shape[:2]) > side or image.shape[-1:] == (4,) and image.ndim == 3:
        picture = Image.fromarray(image)
        if picture.mode == "RGBA":  # what is transparent shows white, as of files
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture).convert("RGB")
        picture.thumbnail((side, side))
        return np.asarray(picture)
    return np.ascontiguousarray(image)


def _to_bytes(image):
    """Bring what a file of 32-bit values holds to 8 bits, by its own range."""
    if isinstance(image, Unreadable) or image.dtype == np.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    return ((image - low) * (255 / ((high - low) or 1.0))).round().astype(np.uint8)


def _range(panels):
    """Find black and white, as the sheets do."""
    low, high = float(np.nanmin(panels)), float(np.nanmax(panels))
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def _digest_of(path):
    try:
        with open(path_of(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except (OSError, ValueError):
        return None
