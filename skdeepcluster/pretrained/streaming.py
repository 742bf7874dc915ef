"""Blocks of images that are read while the block before is computed with."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._input.files import ImageFiles
from .._input.images import Images
from .._input.layouts import is_vector
from .._input.scaling import Scaling

MAX_LOOKED_AT = 256  # files of 16 or 32 bits that tell the range of all: bounds memory
BLACK_AND_WHITE = Images(
    np.array([0, 0, 255, 255], np.uint8).reshape(2, 1, 2, 1), (1, 2, 1)
)


class Block(NamedTuple):
    """Some rows of X.

    Attributes
    ----------
    rows : ndarray of shape (b,), int64
        Those that could be read.
    images : tensor of shape (b, C, H, W), uint8 or float32
    bad : dict
        The Unreadable of each other row.
    """

    rows: np.ndarray
    images: Tensor
    bad: dict


def blocks(images: Images, rows: np.ndarray, size: int) -> Iterator[Block]:
    """Read rows in order, one block ahead of the one that the caller works on.

    Three blocks are in memory at most, however many there are.

    Parameters
    ----------
    images : Images
    rows : ndarray of shape (n,), int64
        Without repetitions.
    size : int
        Rows of a block.

    Yields
    ------
    block : Block
    """
    ahead = None
    with ThreadPoolExecutor(1) as pool:
        for start in range(0, len(rows), size):
            coming = pool.submit(_read, images, rows[start : start + size])
            if ahead is not None:
                yield ahead.result()
            ahead = coming
        if ahead is not None:
            yield ahead.result()


def _read(images, rows):
    if isinstance(images, ImageFiles):
        values, bad = images.read(rows)
        good = rows[[row not in bad for row in rows]] if bad else rows
        return Block(good, values, bad)
    together = rows[-1] - rows[0] == len(rows) - 1
    # a slice is a view of what it was taken from
    index = (
        slice(int(rows[0]), int(rows[-1]) + 1) if together else torch.from_numpy(rows)
    )
    return Block(rows, images[index][0], {})


# -- range -----------------------------------------------------------------------------


def range_of(images: Images) -> Scaling:
    """Find what brings images to [0, 1].

    Of 8 bits it is known without looking; of files of more bits, as many as
    ``MAX_LOOKED_AT`` are decoded to find it.

    Parameters
    ----------
    images : Images

    Returns
    -------
    scaling : Scaling
    """
    known = images.is_byte and not is_vector(images.shape)
    scaling = Scaling(BLACK_AND_WHITE if known else _sample(images))
    return scaling.eval()


def match(images: Images, scaling: Scaling) -> None:
    """Bring new images to the range of those of the fit: see :meth:`Scaling.match`.

    Parameters
    ----------
    images : Images
        Their ``rescale`` is set where values are to be multiplied.
    scaling : Scaling

    Raises
    ------
    ValueError
        If values are of another range, and it is not known of which.
    """
    known = images.is_byte and scaling.seen[4] == 255
    if len(images) and not known:
        images.rescale = scaling.match(_sample(images)).rescale


def _sample(images):
    if not isinstance(images, ImageFiles):
        return images
    step = -(-len(images) // MAX_LOOKED_AT)
    some = ImageFiles(images.data[::step], images.shape, images.dtype)
    return some.load()[0]
