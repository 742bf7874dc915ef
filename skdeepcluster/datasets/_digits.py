"""Handwritten digits as images."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.utils import (
    Bunch,
)
from torch.nn.functional import interpolate


def load_digits_images(
    *, size: int = 8, return_X_y: bool = True
) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | Bunch:
    """Load scikit-learn's handwritten digits as grey images.

    Parameters
    ----------
    size : int, default=8
        Height and width. The digits have 8 x 8 pixels and are enlarged bilinearly
        to anything greater.
    return_X_y : bool, default=True
        Return the tuple ``(images, target)`` in place of a Bunch.

    Returns
    -------
    (images, target) : tuple of ndarrays of shape (1797, size, size) and (1797,)
        The images as uint8 from 0 to 255, the digits as int64 from 0 to 9.
    data : :class:`~sklearn.utils.Bunch`
        If ``return_X_y`` is False: ``images``, ``target`` and ``target_names``.

    Raises
    ------
    ValueError
        If ``size`` is not an integer of at least 8.

    See Also
    --------
    sklearn.datasets.load_digits : The same as rows of 64 floats from 0 to 16.

    Examples
    --------
    >>> from skdeepcluster.datasets import load_digits_images
    >>> images, target = load_digits_images(size=16)
    >>> images.shape, images.dtype, target[:5].tolist()
    ((1797, 16, 16), dtype('uint8'), [0, 1, 2, 3, 4])
    """
    if not isinstance(size, Integral) or size < 8:
        raise ValueError(f"size={size!r} should be an integer of at least 8.")
    digits = load_digits()
    pixels = torch.from_numpy(digits.images).unsqueeze(1) * (255 / 16)
    if size > 8:
        pixels = interpolate(pixels, size=(int(size), int(size)), mode="bilinear")
    images = pixels.squeeze(1).round().to(torch.uint8).numpy()
    target = digits.target.astype(np.int64)
    if return_X_y:
        return images, target
    return Bunch(images=images, target=target, target_names=digits.target_names)
