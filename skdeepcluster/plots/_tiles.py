"""Images to look at: taken out of any layout of X, and plotted."""

from __future__ import annotations

from itertools import islice

import numpy as np
from sklearn.utils import _safe_indexing

from .._input.files import thumbnails
from .._input.layouts import is_vector, layout_of
from .._input.paths import are_pictures

THUMBNAIL = 160  # pixels: image files are larger than a sheet can show
TILE = 0.62  # inches, the side of one image if it is square
GAP = 0.04  # between two images, in widths of an image


def draw_tile(ax, image, left, bottom, tall, cmap, value_range):
    """Plot an image in the middle of a field of width 1 and height ``tall``."""
    height, width = image.shape[:2]
    scale = min((1 - GAP) / width, (1 - GAP) * tall / height) / 2
    x, y, dx, dy = left + 0.5, bottom + tall / 2, width * scale, height * scale
    ax.imshow(
        image,
        extent=(x - dx, x + dx, y - dy, y + dy),
        cmap=cmap,
        vmin=value_range[0],
        vmax=value_range[1],
        interpolation="nearest" if max(image.shape[:2]) <= 64 else None,
    )


def proportions(images):
    """Height over width; images of several shapes are fitted into squares."""
    ratios = {image.shape[0] / image.shape[1] for image in images}
    return ratios.pop() if len(ratios) == 1 else 1.0


INSTEAD = "images=, an array or a list of paths with one image for each row of X"


def require_images(X, image_shape, instead=INSTEAD):
    """Raise the error for vectors before anything is predicted."""
    if are_pictures(X):
        return
    shape = np.shape(X)
    if len(shape) == 2 and (image_shape is None or is_vector(image_shape)):
        raise ValueError(
            f"X holds vectors (shape {tuple(shape)}), which cannot be shown. Pass "
            f"{instead}."
        )


def require_drawn_images(estimator):
    """Raise the error for an estimator that draws features before it does."""
    if getattr(estimator, "encoder_", None) is not None:
        raise ValueError(
            f"This {type(estimator).__name__} was fitted with trainable='none': it "
            "draws features, which cannot be shown. Fit one to the images themselves, "
            "or show those that there are by ClusterSheetDisplay."
        )


def take_images(source, chosen, image_shape, channels_last):
    """Take the chosen images out of any layout of X, each (H, W) or (H, W, C)."""
    if not len(chosen):
        return []
    if are_pictures(source):
        return thumbnails([source[i] for i in chosen], THUMBNAIL)
    part = _safe_indexing(source, chosen)
    if hasattr(part, "detach"):
        part = part.detach().cpu()
        part = part.float() if part.is_floating_point() else part
    return list(to_panels(np.asarray(part), image_shape, channels_last))


def most_probable(proba):
    """Return the cluster and its probability, (n,) each; -1 for a row of NaN."""
    confidence = proba.max(axis=1)
    return np.where(np.isnan(confidence), -1, proba.argmax(axis=1)), confidence


def in_use(proba):
    """Leave out the columns of empty clusters, which are 0 and come last."""
    proba = np.asarray(proba)
    return proba[:, : 1 + np.flatnonzero(proba.any(axis=0)).max(initial=0)]


def ranked(proba):
    """Return the members of each cluster, the most probable first."""
    labels, confidence = most_probable(proba)
    order = np.argsort(-confidence, kind="stable")
    return [order[labels[order] == k] for k in range(proba.shape[1])]


def split(items, lengths):
    """Cut a list into lists of these lengths."""
    remaining = iter(items)
    return [list(islice(remaining, length)) for length in lengths]


def to_panels(array, image_shape, channels_last):
    """Bring (n, ...) images to (n, H, W) or (n, H, W, C)."""
    if array.ndim == 2:
        if image_shape is None or array.shape[1] != np.prod(image_shape):
            raise ValueError(
                f"The images have shape {array.shape}, and the estimator has no image "
                "shape that these rows could be brought to. Pass images= as "
                "(n, H, W), (n, C, H, W) or (n, H, W, C)."
            )
        channels, height, width = image_shape
        order = (height, width, channels) if channels_last else tuple(image_shape)
        array = array.reshape(-1, *order)
    elif array.ndim == 3:
        return array
    else:
        # images= may be larger than what the estimator was fitted on
        known = image_shape and {
            tuple(image_shape),
            (*image_shape[1:], image_shape[0]),
        }
        fits = known and tuple(array.shape[1:]) in known
        _, channels_last = layout_of(array.shape, tuple(image_shape) if fits else None)
    if not channels_last:
        array = np.moveaxis(array, 1, -1)
    if array.shape[-1] == 1:
        return array[..., 0]
    if array.shape[-1] not in (3, 4):
        raise ValueError(
            f"Images of {array.shape[-1]} channels cannot be shown. Pass images= with "
            "1, 3 or 4 of them."
        )
    return array


def to_range(images):
    """Find black and white; bring colours, which matplotlib does not scale, to them."""
    if all(image.dtype == np.uint8 for image in images):  # or there is none
        return images, (0.0, 255.0)
    low = min(float(image.min()) for image in images)
    high = max(float(image.max()) for image in images)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    span = (high - low) or 1.0
    scaled = [
        (image.astype(np.float64) - low) / span if image.ndim == 3 else image
        for image in images
    ]
    return scaled, (low, high)
