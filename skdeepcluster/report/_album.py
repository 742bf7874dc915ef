"""Images as the page holds them, of a size that the page has room for."""

from __future__ import annotations

import numpy as np

from .._input.decoding import Unreadable
from .._progress import ImageProgress
from ._pictures import CHUNK, encode

# share of the images, and the longest side in pixels: the first that fits is taken
RUNGS = (
    (1.0, 128),
    (1.0, 96),
    (1.0, 80),
    (1.0, 64),
    (1.0, 48),
    (0.5, 48),
    (0.5, 32),
    (0.25, 32),
    (0.25, 24),
    (0.1, 16),
)
SMALL = 64  # side of an image that the map alone shows
COARSE = 64  # up to this side, pixels are shown as squares
TRIED = 24  # images that tell how many bytes one takes


class Album:
    """The encoded images of a page.

    Parameters
    ----------
    pictures : Pictures

    Attributes
    ----------
    sources : dict of str
        The ``data:`` address of each row.
    plain : set of int
        Rows whose pixels are shown as squares.
    unreadable : dict of str
        The reason, for each row that could not be read.
    """

    def __init__(self, pictures):
        self.pictures = pictures
        self.sources, self.plain, self.unreadable = {}, set(), {}

    def fill(self, rows, side, verbose=0):
        """Read and encode images.

        Parameters
        ----------
        rows : dict of bool
            For each row, whether the map alone shows it.
        side : int
            Most pixels of a side.
        verbose : int
            Whether to show progress.
        """
        order = sorted(rows)
        with ImageProgress("Thumbnails", len(order), 0, verbose) as progress:
            for start in range(0, len(order), CHUNK):
                part = order[start : start + CHUNK]
                images = self.pictures.read(part, side)
                for row, image in zip(part, images, strict=True):
                    if isinstance(image, Unreadable):
                        self.unreadable[row] = str(image)
                        continue
                    if max(image.shape[:2]) <= min(COARSE, side - 1):
                        self.plain.add(row)
                    own = min(side, SMALL) if rows[row] else side
                    self.sources[row] = encode(image, own)
                progress.advance(len(part))

    def estimate(self, rows, side, rng):
        """Estimate the bytes that the images would take.

        Parameters
        ----------
        rows : dict of bool
        side : int
        rng : RandomState

        Returns
        -------
        size : float
        """
        tried = rng.permutation(sorted(rows))[:TRIED]
        images = self.pictures.read(tried, side)
        known = [i for i in images if not isinstance(i, Unreadable)]
        on_map = sum(rows.values())
        per_side = {
            s: np.mean([len(encode(image, s)) for image in known] or [0])
            for s in {side, min(side, SMALL)}
        }
        return per_side[side] * (len(rows) - on_map) + (
            per_side[min(side, SMALL)] * on_map
        )
