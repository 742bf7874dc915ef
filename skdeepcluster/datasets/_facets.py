"""Images with several known factors."""

from __future__ import annotations

from collections.abc import Callable
from colorsys import hsv_to_rgb
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import (
    Bunch,
    check_random_state,
    gen_batches,
)


def make_facet_images(
    n_samples: int = 1000,
    *,
    size: int = 28,
    n_shapes: int = 4,
    n_colours: int | None = None,
    n_backgrounds: int = 6,
    jitter: float = 1.0,
    scale: tuple[float, float] = (0.8, 1.1),
    noise: float = 0.02,
    return_X_y: bool = True,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | Bunch:
    """Draw images that can be grouped in several ways, with the labels of each.

    A shape on a plain background. Shape and background are independent, so that each
    factor is a partition of its own, and the others tell nothing of it: the shapes
    are equal in area, and so in their share of the mean colour.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of images.
    size : int, default=28
        Height and width, at least 8.
    n_shapes : int, default=4
        How many of square, disc, triangle, plus and ring, in this order.
    n_colours : int, default=None
        Number of colours of the shapes, all darker than the backgrounds. None: all
        shapes are of one light grey, and colour is no factor.
    n_backgrounds : int, default=6
        Number of colours of the background.
    jitter : float, default=1.0
        How many pixels a shape may be off the centre, on either axis, uniformly. Much
        more than a pixel and position varies more than shape does.
    scale : pair of float, default=(0.8, 1.1)
        Least and greatest size of the shapes, drawn uniformly. At 1 a disc fills a
        good half of the width; parts beyond the border are cut off.
    noise : float, default=0.02
        Standard deviation of the noise on each pixel, where white is 1.
    return_X_y : bool, default=True
        Return the tuple ``(images, target)`` in place of a Bunch.
    random_state : int, RandomState or None, default=None
        Draws factors, sizes, places and noise.

    Returns
    -------
    (images, target) : tuple of ndarrays
        The images as uint8 of shape (n_samples, size, size, 3), and the factors as
        int64 of shape (n_samples, 2), columns shape and background; or of shape
        (n_samples, 3), columns shape, colour and background, with ``n_colours``.
    data : :class:`~sklearn.utils.Bunch`
        If ``return_X_y`` is False: ``images``, ``target`` and ``target_names``, which
        names the columns.

    Raises
    ------
    ValueError
        If a number is out of range.

    See Also
    --------
    skdeepcluster.metrics.facet_label_scores : Compares clusterings with factors.

    Examples
    --------
    >>> from skdeepcluster.datasets import make_facet_images
    >>> images, target = make_facet_images(100, random_state=0)
    >>> images.shape, images.dtype
    ((100, 28, 28, 3), dtype('uint8'))
    >>> target.shape, target.max(axis=0).tolist()
    ((100, 2), [3, 5])
    """
    for name, value, least in (
        ("n_samples", n_samples, 1),
        ("size", size, 8),
        ("n_shapes", n_shapes, 1),
        ("n_colours", 1 if n_colours is None else n_colours, 1),
        ("n_backgrounds", n_backgrounds, 1),
    ):
        if not isinstance(value, Integral) or value < least:
            raise ValueError(
                f"{name}={value!r} should be an integer of at least {least}"
                f"{', or None' if name == 'n_colours' else ''}."
            )
    if n_shapes > len(SHAPES):
        raise ValueError(
            f"n_shapes={n_shapes} is more than the {len(SHAPES)} shapes that there "
            f"are: {', '.join(SHAPES)}."
        )
    for name, spread in {"jitter": jitter, "noise": noise}.items():
        if not isinstance(spread, Real) or not 0 <= spread < np.inf:
            raise ValueError(f"{name}={spread!r} should be a finite number, 0 or more.")
    sizes = np.asarray(scale, dtype=object)
    if sizes.shape != (2,) or not (
        all(isinstance(s, Real) for s in sizes) and 0 < sizes[0] <= sizes[1] < np.inf
    ):
        raise ValueError(
            f"scale={scale!r} should be a pair of finite numbers above 0, the least "
            "first."
        )
    rng = check_random_state(random_state)
    shape, colour, background = (
        rng.randint(n, size=n_samples)
        for n in (n_shapes, n_colours or 1, n_backgrounds)
    )
    backdrops = _hues(n_backgrounds, saturation=0.75, value=0.85)
    paints = _hues(n_colours, 1.0, 0.4) if n_colours else np.full((1, 3), 0.95)
    # half the width of the image is 1
    radius = 0.55 * rng.uniform(*scale, size=n_samples)
    centre = rng.uniform(-jitter, jitter, size=(2, n_samples)) * 2 / size
    images = np.empty((n_samples, size, size, 3), np.uint8)
    for rows in gen_batches(n_samples, 1000):
        mask = _masks(size, shape[rows], radius[rows], centre[:, rows])[..., None]
        fore = paints[colour[rows], None, None]
        back = backdrops[background[rows], None, None]
        pixels = back + mask * (fore - back)
        pixels += noise * rng.standard_normal(pixels.shape)
        images[rows] = np.rint(255 * pixels.clip(0, 1))
    factors = {"shape": shape, "colour": colour, "background": background}
    if n_colours is None:
        del factors["colour"]
    target = np.column_stack(list(factors.values())).astype(np.int64)
    if return_X_y:
        return images, target
    return Bunch(images=images, target=target, target_names=list(factors))


def _hues(n: int, saturation: float, value: float) -> NDArray[np.float64]:
    return np.array([hsv_to_rgb(k / n, saturation, value) for k in range(n)])


# Signed distance to the edge, negative inside, v downwards; and the area.
SHAPES: dict[str, tuple[Callable[[Any, Any], Any], float]] = {
    "square": (lambda u, v: np.maximum(abs(u), abs(v)) - 1, 4.0),
    "disc": (lambda u, v: np.hypot(u, v) - 1, np.pi),
    "triangle": (lambda u, v: np.maximum(0.75**0.5 * abs(u) - v / 2, v) - 1, 27**0.5),
    "plus": (
        lambda u, v: np.maximum(
            np.maximum(abs(u), abs(v)) - 1, np.minimum(abs(u), abs(v)) - 1 / 3
        ),
        20 / 9,
    ),
    "ring": (lambda u, v: abs(np.hypot(u, v) - 0.75) - 0.25, 0.75 * np.pi),
}


def _masks(
    size: int, shape: NDArray[Any], radius: NDArray[Any], centre: NDArray[Any]
) -> NDArray[np.float64]:
    """Return how far each pixel is covered: from 0 to 1 over a pixel at the edge."""
    axis = (np.arange(size) + 0.5) * 2 / size - 1
    masks = np.empty((len(shape), size, size))
    for k, (distance, area) in enumerate(SHAPES.values()):
        own = shape == k
        # all shapes have the area of a disc of this radius
        unit = radius[own, None, None] * np.sqrt(np.pi / area)
        v = (axis[:, None] - centre[0, own, None, None]) / unit
        u = (axis - centre[1, own, None, None]) / unit
        masks[own] = (0.5 - distance(u, v) * unit * size / 2).clip(0, 1)
    return masks
