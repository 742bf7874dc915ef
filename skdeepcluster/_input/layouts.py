"""What X may be: every layout is checked here and becomes Images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import validate_data

from .arrays import Stored, as_array, check_values, is_frame, offset_of
from .files import open_files, read_files
from .images import CHUNK, Images
from .paths import are_pictures, listed

CHANNELS = (1, 3, 4)


def is_vector(image_shape):
    """Whether X held rows without an image shape: carried as (1, 1, d)."""
    return tuple(image_shape[:2]) == (1, 1)


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
    offset : ndarray of shape () or (d,), or None
        Subtracted from X before its values become float32.
    """

    shape: tuple[int, int, int]
    channels_last: bool
    row_shape: tuple[int, ...]
    dtype: np.dtype
    offset: np.ndarray | None = None

    def restore(self, images):
        """Return images in this layout.

        Parameters
        ----------
        images : tensor of shape (n, C, H, W)
            In the range of the training data.

        Returns
        -------
        X : ndarray of shape (n, ...)
            uint8 where the training data were, float64 where they have an offset, else
            float32; (n, C, H, W) for files.
        """
        if self.channels_last:
            images = images.permute(0, 2, 3, 1)
        X = images.float().cpu().numpy().reshape(len(images), *self.row_shape)
        if self.offset is not None:
            X = X + self.offset.astype(np.float64)
        if self.dtype == np.uint8:
            X = X.round().clip(0, 255).astype(np.uint8)
        return X


def as_images(
    estimator,
    X,
    image_shape=None,
    layout=None,
    skip=False,
    stream=False,
    file_shape=None,
):
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
    skip : bool
        Whether the caller can do with fewer images, which ``rows`` of the images tells,
        if the estimator's ``on_error`` allows that.
    stream : bool
        Whether the caller goes through X once and learns nothing of it: files are not
        decoded here, and one image is enough.
    file_shape : tuple (C, H, W), optional
        That image files get where no ``image_shape`` is given.

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
    X = listed(as_array(X) if isinstance(X, torch.Tensor | memoryview) else X)
    if are_pictures(X):
        fitted = None if reset else layout.dtype
        images: Images
        if stream:
            images = open_files(estimator, X, shape or file_shape, fitted)
        else:
            images = read_files(estimator, X, shape or file_shape, fitted, skip)
        return images, Layout(images.shape, False, images.shape, images.dtype)
    X = as_array(X)
    last, row_shape = False, None
    if getattr(X, "ndim", 2) > 2:
        if 0 in X.shape:
            raise ValueError(
                f"X has shape {tuple(X.shape)}, which is empty. Pass at least one "
                "image of at least one pixel."
            )
        shape, last = layout_of(X.shape, shape)
        row_shape = tuple(X.shape[1:])
    elif not reset:
        last = layout.channels_last
        if shape[1] > 1 and tuple(getattr(X, "shape", ())) == shape[1:]:
            raise ValueError(
                f"X has shape {shape[1:]}, that of one image without its sample axis. "
                "Pass X[None]."
            )
    with np.errstate(over="ignore", invalid="ignore"):  # in sums that look for NaN
        X = _validated(estimator, X, reset, 2 if reset and not stream else 1)
    if shape is None:
        shape = (1, 1, X.shape[1])
    elif row_shape is None and X.shape[1] != np.prod(shape):
        raise ValueError(
            f"X has {X.shape[1]} features a row, but image_shape={shape} needs "
            f"{' * '.join(map(str, shape))} = {np.prod(shape)}. Pass the shape "
            "(channels, height, width) of the images in these rows."
        )
    if reset:
        with np.errstate(over="ignore"):  # an error will tell of it
            offset = offset_of(X, per_feature=is_vector(shape))
        layout = Layout(shape, last, row_shape or X.shape[1:], X.dtype, offset)
    return Images(X, shape, last, layout.offset), layout


def _validated(estimator, X, reset, enough):
    """Check values and size; set ``n_features_in_`` or compare with it."""
    if is_frame(X):
        return _validated_table(estimator, X, reset, enough)
    check_values(X)
    if isinstance(X, np.ndarray) and X.ndim == 1:  # scikit-learn would print it
        raise ValueError(
            f"Expected 2D array, got 1D array instead: X has shape {X.shape}. "
            "Reshape your data: X.reshape(1, -1) is one row, X.reshape(-1, 1) is rows "
            "of one value."
        )
    if isinstance(X, Stored) and X.dtype.kind not in "biuf":
        X = np.asarray(X)
    if isinstance(X, Stored):
        _check_stored(X, enough)
    elif X.ndim > 2:  # as it is: rows of what is strided would be a copy
        kwargs = {"ensure_min_samples": enough, "estimator": estimator}
        X = check_array(X, allow_nd=True, input_name="X", **kwargs)
    else:
        try:
            return validate_data(estimator, X, reset=reset, ensure_min_samples=enough)
        except ValueError as error:
            _check_rows(X, error)
            raise
    if X.ndim == 2:
        validate_data(estimator, X, reset=reset, skip_check_array=True)
    elif reset:
        vars(estimator).pop("feature_names_in_", None)
        estimator.n_features_in_ = int(np.prod(X.shape[1:]))
    return X


def _validated_table(estimator, X, reset, enough):
    try:
        values = validate_data(estimator, X, reset=reset, ensure_min_samples=enough)
    except (TypeError, ValueError) as error:
        check_values(np.asarray(X))  # tells a plainer reason, where there is one
        _check_rows(np.asarray(X), error)
        raise
    check_values(values)
    # of categories scikit-learn makes objects
    return values.astype(np.float64) if values.dtype == object else values


def _check_rows(X, error):
    """Say where rows of NaN come from, if these are what was refused."""
    refused = str(error).startswith("Input X contains NaN")
    if not refused or X.ndim != 2 or X.dtype.kind != "f":
        return
    rows = np.isnan(X).all(axis=1).nonzero()[0]
    if len(rows):
        raise ValueError(
            f"Input X contains NaN: {len(rows)} of {len(X)} rows hold nothing else, "
            f"the first is X[{rows[0]}]. ImageEncoder(on_error='skip') leaves such "
            "rows for files that it could not read: leave these files out before, as "
            "load_image_folder(path, on_error='skip') does. If they come from "
            "elsewhere, leave the rows out."
        )


def _check_stored(X, enough):
    if len(X) < enough or not X.size:
        raise ValueError(
            f"Found array with {len(X)} sample(s) (shape={X.shape}) while a minimum of "
            f"{enough} is required, of one feature at least."
        )
    if X.dtype.kind == "f":
        for start in range(0, len(X), CHUNK):
            assert_all_finite(X[start : start + CHUNK], input_name="X")


def check_enough(n_samples, n_clusters):
    """Refuse more clusters than samples."""
    if n_samples < n_clusters:
        raise ValueError(
            f"n_samples={n_samples} should be >= n_clusters={n_clusters}. Pass more "
            "samples or lower n_clusters."
        )
