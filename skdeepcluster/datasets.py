"""Image data to cluster: digits, own folders, several factors, imbalanced subsets."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from colorsys import hsv_to_rgb
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.utils import (
    Bunch,
    _safe_indexing,
    check_consistent_length,
    check_random_state,
    column_or_1d,
    gen_batches,
)
from torch.nn.functional import interpolate

__all__ = [
    "load_digits_images",
    "load_image_folder",
    "make_facet_images",
    "make_long_tail",
    "make_retention",
]

IMAGE_EXTENSIONS = (
    ".bmp",
    ".gif",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)


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


def load_image_folder(
    path: str | os.PathLike[str],
    *,
    recursive: bool = True,
    extensions: str | Sequence[str] = IMAGE_EXTENSIONS,
) -> Bunch:
    """List the images of a folder, for an estimator to read.

    No image is opened: pass ``paths`` to ``fit``. The folder needs no subfolders;
    where it has them, they are given as classes to compare the clusters with.

    Parameters
    ----------
    path : str or path-like
        The folder; ``~`` is the home folder.
    recursive : bool, default=True
        Whether to look into subfolders, at any depth. Links to folders are not
        followed.
    extensions : str or sequence of str, default=the usual image formats
        What names of images end in, in any case, with or without the dot. Names that
        begin with a dot are passed over, those of folders too.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        paths : list of str
            The images, sorted by their place in the folder: the same order on every
            system.
        target : ndarray of shape (n_images,), int64, or None
            The number of the subfolder of ``path`` that each image is in, from 0;
            None if any image lies in ``path`` itself.
        target_names : list of str or None
            The names of these subfolders.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    NotADirectoryError
        If ``path`` is a file.
    ValueError
        If the folder holds no image.

    See Also
    --------
    sklearn.datasets.load_files : For folders of text; it reads the files.

    Examples
    --------
    >>> from skdeepcluster.datasets import load_image_folder
    >>> photos = load_image_folder("~/photos")  # doctest: +SKIP
    >>> model.fit(photos.paths)  # doctest: +SKIP
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        raise FileNotFoundError(
            f"There is no folder {str(folder)!r} (looked for it from {os.getcwd()!r}). "
            "Pass the path of a folder that holds images."
        )
    if not folder.is_dir():
        raise NotADirectoryError(
            f"{str(folder)!r} is a file; a folder is expected. Pass the folder that "
            "holds the image, or a list of paths straight to fit."
        )
    if isinstance(extensions, str):
        extensions = (extensions,)
    endings = tuple("." + e.lower().lstrip(".") for e in extensions)
    files = _list_files(folder, recursive)
    found = [file for file in files if file.name.lower().endswith(endings)]
    if not found:
        raise ValueError(_nothing_found(folder, files, endings, recursive))
    parts = [file.relative_to(folder).parts for file in found]
    target: Any = None
    target_names = None
    if all(len(p) > 1 for p in parts):
        names, target = np.unique([p[0] for p in parts], return_inverse=True)
        target, target_names = target.astype(np.int64), names.tolist()
    return Bunch(
        paths=[str(file) for file in found], target=target, target_names=target_names
    )


def _list_files(folder: Path, recursive: bool) -> list[Path]:
    files = []
    for root, folders, names in os.walk(folder):
        # in place: what is taken out here is not walked into
        folders[:] = [f for f in folders if recursive and not f.startswith(".")]
        files += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(files, key=lambda file: file.relative_to(folder).parts)


def _nothing_found(
    folder: Path, files: list[Path], endings: tuple[str, ...], recursive: bool
) -> str:
    counts = Counter(file.suffix.lower() or "no extension" for file in files)
    there = ", ".join(f"{n} x {ending}" for ending, n in counts.most_common(5))
    deeper = "" if recursive else ", or recursive=True to look into subfolders"
    return (
        f"No images in {str(folder)!r}: found {len(files)} files"
        f"{f' ({there})' if there else ''}, expected names that end in "
        f"{', '.join(endings)}. Pass another folder, or extensions=(...){deeper}."
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

    A shape on a plain background. What is drawn on what is independent, so that each
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
    for name, value in {"jitter": jitter, "noise": noise}.items():
        if not isinstance(value, Real) or not 0 <= value < np.inf:
            raise ValueError(f"{name}={value!r} should be a finite number, 0 or more.")
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


def make_long_tail(
    X: Any,
    y: Any,
    *,
    ratio: float = 10.0,
    n_samples: int | None = None,
    order: str | Sequence[Any] = "sorted",
    random_state: int | np.random.RandomState | None = None,
) -> tuple[Any, Any]:
    """Draw a subset whose classes shrink exponentially.

    Of K classes the k-th largest, counted from 0, has ``n_max * ratio ** (-k / (K -
    1))`` samples, rounded, drawn without replacement.

    Parameters
    ----------
    X : array-like or list of paths, of n samples
    y : array-like of shape (n,)
        Classes of any type.
    ratio : float, default=10.0
        Size of the largest class over that of the smallest, at least 1.
    n_samples : int, default=None
        Size of the subset, up to rounding. None: the largest that the classes allow.
    order : {"sorted", "random"} or sequence of all classes, default="sorted"
        The classes from the largest to the smallest.
    random_state : int, RandomState or None, default=None
        Draws the samples, their order, and the order of the classes if random.

    Returns
    -------
    X : as X
        The drawn samples, shuffled.
    y : as y
        Their classes.

    Raises
    ------
    ValueError
        If lengths differ, there is one class only, ``ratio`` is below 1, ``order`` is
        not made of the classes, a class has too few samples for ``n_samples``, or
        none would be left of one.

    See Also
    --------
    make_retention : Classes that grow linearly.

    References
    ----------
    Cui et al., *Class-Balanced Loss Based on Effective Number of Samples*, 2019,
    section 5.1.

    Examples
    --------
    >>> import numpy as np
    >>> from skdeepcluster.datasets import load_digits_images, make_long_tail
    >>> X, y = make_long_tail(*load_digits_images(), ratio=10, random_state=0)
    >>> np.bincount(y).tolist()
    [178, 138, 107, 83, 64, 50, 38, 30, 23, 18]
    """
    if not isinstance(ratio, Real) or not 1 <= ratio < np.inf:
        raise ValueError(f"ratio={ratio!r} should be a finite number of at least 1.")
    if n_samples is not None and (not isinstance(n_samples, Integral) or n_samples < 1):
        raise ValueError(
            f"n_samples={n_samples!r} should be an integer of at least 1, or None."
        )
    rng = check_random_state(random_state)
    classes, members = _members(X, y)
    ranked = _ranked(classes, order, rng)
    shares = float(ratio) ** (-np.arange(len(classes)) / (len(classes) - 1))
    available = np.array([len(members[k]) for k in ranked])
    largest = np.min(available / shares)
    if n_samples is not None:
        wanted = n_samples / shares.sum()
        if wanted > largest + 0.5:
            short = ranked[np.argmin(available / shares)]
            raise ValueError(
                f"n_samples={n_samples} at ratio={ratio:g} asks for more than the "
                f"{len(members[short])} samples of class {classes[short]!r}: at most "
                f"{int(largest * shares.sum())} are possible."
            )
        largest = wanted
    sizes = np.minimum(np.rint(largest * shares).astype(int), available)
    if sizes[-1] == 0:
        raise ValueError(
            f"At ratio={ratio:g} no sample is left of class {classes[ranked[-1]]!r}. "
            f"Lower ratio{'' if n_samples is None else ', or raise n_samples'}."
        )
    drawn = [
        rng.choice(members[k], size, replace=False)
        for k, size in zip(ranked, sizes, strict=True)
    ]
    return _take(X, y, rng.permutation(np.concatenate(drawn)))


def make_retention(
    X: Any,
    y: Any,
    *,
    min_rate: float = 0.1,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[Any, Any]:
    """Drop samples so that the classes grow linearly, from first to last.

    Each sample of the k-th class in sorted order, of K and counted from 0, is kept
    with probability ``min_rate + (1 - min_rate) * k / (K - 1)``.

    Parameters
    ----------
    X : array-like or list of paths, of n samples
    y : array-like of shape (n,)
        Classes of any type.
    min_rate : float, default=0.1
        Probability to keep a sample of the first class, in [0, 1].
    random_state : int, RandomState or None, default=None
        Draws the samples.

    Returns
    -------
    X : as X
        The samples that are kept, in their order.
    y : as y
        Their classes.

    Raises
    ------
    ValueError
        If lengths differ, there is one class only, or ``min_rate`` is not in [0, 1].

    See Also
    --------
    make_long_tail : Classes that shrink exponentially, by a ratio.

    References
    ----------
    Xie, Girshick and Farhadi, *Unsupervised Deep Embedding for Clustering Analysis*,
    2016: the experiment on imbalanced data.

    Examples
    --------
    >>> import numpy as np
    >>> from skdeepcluster.datasets import load_digits_images, make_retention
    >>> X, y = make_retention(*load_digits_images(), min_rate=0.1, random_state=0)
    >>> np.bincount(y).tolist()
    [17, 39, 56, 75, 96, 116, 121, 141, 148, 180]
    """
    if not isinstance(min_rate, Real) or not 0 <= min_rate <= 1:
        raise ValueError(f"min_rate={min_rate!r} should be a number in [0, 1].")
    rng = check_random_state(random_state)
    classes, members = _members(X, y)
    rates = np.linspace(min_rate, 1, len(classes))
    rows = [
        own[rng.random_sample(len(own)) < rate]
        for own, rate in zip(members, rates, strict=True)
    ]
    return _take(X, y, np.sort(np.concatenate(rows)))


def _members(X: Any, y: Any) -> tuple[list[Any], list[NDArray[np.int64]]]:
    """Return the classes and the rows of each."""
    check_consistent_length(X, y)
    classes, codes = np.unique(column_or_1d(y), return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"y holds {len(classes)} class(es); an imbalance needs two at least."
        )
    return classes.tolist(), [np.flatnonzero(codes == k) for k in range(len(classes))]


def _ranked(
    classes: list[Any], order: Any, rng: np.random.RandomState
) -> NDArray[np.int64]:
    """Return the places of the classes in an order."""
    if isinstance(order, str) and order == "sorted":
        return np.arange(len(classes))
    if isinstance(order, str) and order == "random":
        return rng.permutation(len(classes))
    places = {label: k for k, label in enumerate(classes)}
    given = [] if isinstance(order, str) else np.asarray(order).tolist()
    if len(given) != len(classes) or set(given) != set(places):
        raise ValueError(
            f"order={order!r} should be 'sorted', 'random', or hold each of the "
            f"{len(classes)} classes of y once."
        )
    return np.array([places[label] for label in given])


def _take(X: Any, y: Any, rows: NDArray[np.int64]) -> tuple[Any, Any]:
    return _safe_indexing(X, rows), _safe_indexing(y, rows)
