"""What X may be: every layout is checked here and becomes Images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.utils.validation import validate_data

from .images import ImageFiles, Images, shape_of_files

CHANNELS = (1, 3, 4)


def is_vector(image_shape):
    """Whether X held rows without an image shape: carried as (1, 1, d)."""
    return tuple(image_shape[:2]) == (1, 1)


def listed(X):
    """Return a 1-D array or a Series, of paths or of images, as a list."""
    return list(X) if len(getattr(X, "shape", ())) == 1 else X


def is_paths(X):
    """Whether X is a list of file paths."""
    if isinstance(X, str | Path):
        raise ValueError(
            f"X is one path, {str(X)!r}; a list of image files was expected. Pass "
            "[path], or load_image_folder(path).paths for the files of a folder."
        )
    if not isinstance(X, list | tuple):
        return False
    if not X:
        raise ValueError(
            "X is empty (n_samples = 0). Pass images, vectors or paths of image files."
        )
    other = [i for i, x in enumerate(X) if not isinstance(x, str | Path)]
    if 0 < len(other) < len(X):
        raise TypeError(
            f"X mixes file paths with other things: X[{other[0]}] is of type "
            f"{type(X[other[0]]).__name__}. Pass paths only."
        )
    return not other


def _stack(images):
    """Make one array or tensor of a list of images."""
    shapes = dict.fromkeys(tuple(np.shape(image)) for image in images)
    if len(shapes) > 1:
        first, second = list(shapes)[:2]
        raise ValueError(
            f"X is a list of images of {len(shapes)} different shapes, such as {first} "
            f"and {second}. Resize them to one, or pass their files with image_shape."
        )
    if isinstance(images[0], torch.Tensor):
        return torch.stack(list(images))
    return np.asarray(images)


def check_image_shape(image_shape):
    """Return ``image_shape`` as a tuple (C, H, W) of ints, or None.

    Raises
    ------
    ValueError
        If it is not three positive integers.
    """
    if image_shape is None:
        return None
    shape = tuple(image_shape)
    if len(shape) != 3 or not all(
        isinstance(s, int | np.integer) and s > 0 for s in shape
    ):
        raise ValueError(
            f"image_shape={image_shape!r} should be None or three positive integers "
            "(channels, height, width), for example (3, 32, 32)."
        )
    return tuple(int(s) for s in shape)


def layout_of(array_shape, image_shape):
    """Tell the layout of a 3-D or 4-D array.

    Returns
    -------
    shape : tuple (C, H, W)
    channels_last : bool
    """
    if len(array_shape) == 3:
        candidates = {False: (1, *array_shape[1:])}
    elif len(array_shape) == 4:
        _, a, b, c = array_shape
        candidates = {False: (a, b, c), True: (c, a, b)}
    else:
        raise ValueError(
            f"Found array with dim {len(array_shape)}, shape {tuple(array_shape)}. "
            "Images come as (n, C, H, W), (n, H, W, C) or (n, H, W), vectors as (n, d)."
        )
    if image_shape is not None:
        fits = [last for last, shape in candidates.items() if shape == image_shape]
        if not fits:
            if is_vector(image_shape):
                raise ValueError(
                    f"X has shape {tuple(array_shape)}; vectors of {image_shape[2]} "
                    f"features were expected. Pass rows, (n, {image_shape[2]})."
                )
            raise ValueError(
                f"X has shape {tuple(array_shape)}, which does not hold images of "
                f"image_shape={image_shape} (channels, height, width). Pass images of "
                "that shape, as (n, C, H, W) or (n, H, W, C); one image as image[None]."
            )
    elif len(candidates) == 1:
        fits = [False]
    else:
        fits = [last for last, shape in candidates.items() if shape[0] in CHANNELS]
        if not fits:
            raise ValueError(
                f"X has shape {tuple(array_shape)}: neither axis 1 nor axis 3 holds 1, "
                "3 or 4 channels. Pass image_shape=(C, H, W) if the images have "
                "another number of channels."
            )
    if len(fits) == 2 and candidates[True] != candidates[False]:
        raise ValueError(
            f"X has shape {tuple(array_shape)}, which is ambiguous: the channels may "
            f"be axis 1 (images of shape {candidates[False]}) or axis 3 (of shape "
            f"{candidates[True]}). Pass image_shape=(C, H, W) to say which."
        )
    return candidates[fits[0]], fits[0]


@dataclass(frozen=True)
class Layout:
    """How the training data held their images.

    Attributes
    ----------
    shape : tuple (C, H, W)
        Of an image; ``(1, 1, d)`` for vectors.
    channels_last : bool
        Whether a row holds its values in the order (H, W, C).
    row_shape : tuple of int
        Of a row of X, such as (H, W) or (C * H * W,).
    dtype : dtype
        Of X; uint8 for image files.
    """

    shape: tuple[int, int, int]
    channels_last: bool
    row_shape: tuple[int, ...]
    dtype: np.dtype

    def restore(self, images):
        """Return images in this layout.

        Parameters
        ----------
        images : tensor of shape (n, C, H, W)
            In the range of the training data.

        Returns
        -------
        X : ndarray of shape (n, ...)
            uint8 where the training data were, else float32; (n, C, H, W) for files.
        """
        if self.channels_last:
            images = images.permute(0, 2, 3, 1)
        X = images.float().cpu().numpy().reshape(len(images), *self.row_shape)
        if self.dtype == np.uint8:
            X = X.round().clip(0, 255).astype(np.uint8)
        return X


def as_images(estimator, X, image_shape=None, layout=None):
    """Check X in any of its layouts and return it as images.

    Parameters
    ----------
    estimator : DeepClusterer
        Without a ``layout`` it gets ``n_features_in_`` and ``feature_names_in_``; with
        one, X is checked against them.
    X : array-like, tensor, DataFrame or list of paths
        See the page *What X may be* of the user guide.
    image_shape : tuple (C, H, W), optional
        The estimator's parameter, at ``fit``.
    layout : Layout, optional
        That of the training data, after ``fit``.

    Returns
    -------
    images : Images
    layout : Layout

    Raises
    ------
    ValueError, TypeError
        If X is empty, not finite, not numeric, of an ambiguous layout, or does not
        have the shape that the estimator was fitted on.
    """
    reset = layout is None
    shape = check_image_shape(image_shape) if reset else layout.shape
    X = listed(X)
    if is_paths(X):
        return _files(estimator, list(X), shape, reset)
    if isinstance(X, list | tuple) and np.ndim(X[0]) > 1:
        X = _stack(X)
    if isinstance(X, torch.Tensor):
        X = X.detach().cpu()
        X = (X.float() if X.dtype == torch.bfloat16 else X).numpy()
    last, row_shape = False, None
    if getattr(X, "ndim", 2) > 2:
        if 0 in X.shape:
            raise ValueError(
                f"X has shape {tuple(X.shape)}, which is empty. Pass at least one "
                "image of at least one pixel."
            )
        shape, last = layout_of(X.shape, shape)
        row_shape = X.shape[1:]
        X = X.reshape(len(X), -1)
    elif not reset:
        last = layout.channels_last
        if shape[1] > 1 and tuple(getattr(X, "shape", ())) == shape[1:]:
            raise ValueError(
                f"X has shape {shape[1:]}, that of one image without its sample axis. "
                "Pass X[None]."
            )
    X = validate_data(estimator, X, reset=reset, ensure_min_samples=2 if reset else 1)
    if shape is None:
        shape = (1, 1, X.shape[1])
    elif X.shape[1] != np.prod(shape):
        raise ValueError(
            f"X has {X.shape[1]} features a row, but image_shape={shape} needs "
            f"{' * '.join(map(str, shape))} = {np.prod(shape)}. Pass the shape "
            "(channels, height, width) of the images in these rows."
        )
    return Images(X, shape, last), Layout(
        shape, last, row_shape or X.shape[1:], X.dtype
    )


def _files(estimator, paths, shape, reset):
    if shape is None:
        shape = shape_of_files(paths)
    if shape[0] not in CHANNELS or shape[1] == 1:
        raise ValueError(
            f"image_shape={shape} cannot be read from image files: they have 1, 3 or 4 "
            "channels and more than one row of pixels."
        )
    images = ImageFiles(paths, shape).load()
    if reset:
        if len(paths) < 2:
            raise ValueError(
                f"Found {len(paths)} sample(s) (n_samples = {len(paths)}) while a "
                "minimum of 2 is required. Pass more image files."
            )
        vars(estimator).pop("feature_names_in_", None)
        estimator.n_features_in_ = int(np.prod(shape))
    return images, Layout(shape, False, shape, np.dtype(np.uint8))
