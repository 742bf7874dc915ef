"""Sheets of the images of each cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from .._images import open_image
from .._layouts import is_paths, is_vector, layout_of, listed
from ._style import QUIET, STRONG, last_step, pyplot

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

THUMBNAIL = 160  # pixels: image files are larger than a sheet can show
TILE = 0.62  # inches, the side of one image if it is square
LABEL, TEXT = 1.6, 0.46  # inches, width and height of the text beside a row
GAP = 0.04  # between two images, in widths of an image
ROWS_PER_COLUMN = 10


class ClusterSheetDisplay:
    """A sheet of example images: one row of them for each cluster.

    Make it with :meth:`from_estimator`; all parameters are stored as attributes.

    Parameters
    ----------
    images : list of n_rows lists of ndarrays of shape (H, W), (H, W, 3) or (H, W, 4)
        The images of each row, in the order shown.
    clusters : ndarray of shape (n_rows,), int64
        The number of the cluster of each row.
    sizes : ndarray of shape (n_rows,), int64
        The number of samples in each cluster.
    confidences : ndarray of shape (n_rows,), float64
        The mean probability that the samples of a cluster have of being in it; nan
        where there are none.
    n_samples : int
        The number of samples of all clusters, those that are not shown too.
    indices : list of n_rows ndarrays of int64, optional
        Which rows of X the images are.
    value_range : (float, float), default=(0, 255)
        The values of grey images that are black and white.
    title : str, default=""
        The heading of the sheet.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
        Where it was drawn.
    axes_ : ndarray of shape (n_rows,) of matplotlib Axes
        One for each cluster, in the order of ``clusters``.

    See Also
    --------
    HistoryDisplay : How the training went.

    Examples
    --------
    >>> from skdeepcluster import DigPro  # doctest: +SKIP
    >>> from skdeepcluster.plots import ClusterSheetDisplay  # doctest: +SKIP
    >>> model = DigPro(10).fit(X)  # doctest: +SKIP
    >>> ClusterSheetDisplay.from_estimator(model, X)  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        images: Sequence[Sequence[NDArray[Any]]],
        clusters: NDArray[np.int64],
        sizes: NDArray[np.int64],
        confidences: NDArray[np.float64],
        n_samples: int,
        indices: Sequence[NDArray[np.int64]] | None = None,
        value_range: tuple[float, float] = (0, 255),
        title: str = "",
    ) -> None:
        self.images = images
        self.clusters = clusters
        self.sizes = sizes
        self.confidences = confidences
        self.n_samples = n_samples
        self.indices = indices
        self.value_range = value_range
        self.title = title

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        n_images: int = 10,
        clusters: Sequence[int] | None = None,
        order: Literal["typical", "uncertain"] = "typical",
        images: Any = None,
        n_columns: int | None = None,
        cmap: str = "gray",
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> ClusterSheetDisplay:
        """Predict the clusters of X, choose images of each, and draw them.

        Parameters
        ----------
        estimator : fitted clusterer or pipeline
            With ``predict_proba``.
        X : array-like, tensor or list of paths of length n_samples
            Whatever the estimator takes.
        n_images : int, default=10
            The number of images of each cluster, if it has so many.
        clusters : sequence of int, optional
            The clusters to show, in this order; all of them by default.
        order : {"typical", "uncertain"}, default="typical"
            Show the samples with the highest probability of their cluster, or those
            with the lowest. Of equal ones the first in X come first.
        images : array-like, tensor or list of paths of length n_samples, optional
            The images that belong to the rows of X, if X does not hold them (features
            of another network) or not in a form to look at (standardised pixels).
            Layouts as for X.
        n_columns : int, optional
            See :meth:`plot`.
        cmap : str, default="gray"
            See :meth:`plot`.
        figure : matplotlib Figure or SubFigure, optional
            See :meth:`plot`.
        figsize : (float, float), optional
            See :meth:`plot`.

        Returns
        -------
        display : ClusterSheetDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If the estimator has no ``predict_proba``.
        ValueError
            If a parameter is out of its range, X holds no images and none are
            passed, or their number is not that of X.
        """
        pyplot(f"{cls.__name__}.from_estimator")
        name = type(last_step(estimator)).__name__
        if not hasattr(estimator, "predict_proba"):
            raise TypeError(
                f"{name} has no predict_proba, by which the images of a cluster are "
                "chosen. Pass an estimator of skdeepcluster, or a mixture model."
            )
        if order not in ("typical", "uncertain"):
            raise ValueError(f"order={order!r} should be 'typical' or 'uncertain'.")
        if n_images < 1:
            raise ValueError(f"n_images={n_images!r} should be at least 1.")
        check_is_fitted(estimator)
        shape = getattr(last_step(estimator), "image_shape_", None)
        X, images = listed(X), listed(images)
        if images is None:
            _require_images(X, shape)
        elif len(images) != len(X):
            raise ValueError(
                f"Got {len(images)} images for the {len(X)} rows of X. Pass one image "
                "for each row, in the same order."
            )

        proba = np.asarray(estimator.predict_proba(X))
        labels, confidence = proba.argmax(axis=1), proba.max(axis=1)
        n_clusters = proba.shape[1]
        shown = np.arange(n_clusters) if clusters is None else np.asarray(clusters)
        if not set(shown.tolist()) <= set(range(n_clusters)) or shown.size == 0:
            raise ValueError(
                f"clusters={clusters!r} should be some of the numbers 0 to "
                f"{n_clusters - 1}."
            )
        rank = -confidence if order == "typical" else confidence
        indices, sizes, confidences = [], [], []
        for cluster in shown:
            members = np.flatnonzero(labels == cluster)
            first = np.argsort(rank[members], kind="stable")[:n_images]
            indices.append(members[first])
            sizes.append(len(members))
            confidences.append(
                confidence[members].mean(dtype=np.float64) if len(members) else np.nan
            )
        channels_last = getattr(last_step(estimator), "_channels_last", False)
        rows, value_range = _read_rows(
            X if images is None else images, indices, shape, channels_last
        )
        which = "most typical" if order == "typical" else "least certain"
        return cls(
            images=rows,
            clusters=shown.astype(np.int64),
            sizes=np.array(sizes, dtype=np.int64),
            confidences=np.array(confidences),
            n_samples=len(labels),
            indices=indices,
            value_range=value_range,
            title=f"{name}: {len(labels):,} images in {n_clusters} clusters, "
            f"{which} first",
        ).plot(n_columns=n_columns, cmap=cmap, figure=figure, figsize=figsize)

    def plot(
        self,
        *,
        n_columns: int | None = None,
        cmap: str = "gray",
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> ClusterSheetDisplay:
        """Draw the sheet.

        Parameters
        ----------
        n_columns : int, optional
            Into how many columns the clusters go, each filled from top to bottom. By
            default one for up to 10 clusters, else two.
        cmap : str, default="gray"
            The colours of images with one channel.
        figure : matplotlib Figure or SubFigure, optional
            Where to draw; a new figure by default.
        figsize : (float, float), optional
            Width and height of a new figure in inches; by default as the sheet needs.

        Returns
        -------
        display : ClusterSheetDisplay
            Itself, with ``figure_`` and ``axes_``.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If ``n_columns`` is less than 1.
        """
        plt = pyplot(f"{type(self).__name__}.plot")
        n_clusters = len(self.clusters)
        if n_columns is None:
            n_columns = 1 if n_clusters <= ROWS_PER_COLUMN else 2
        elif n_columns < 1:
            raise ValueError(f"n_columns={n_columns!r} should be at least 1.")
        n_columns = min(n_columns, n_clusters)
        n_rows = -(-n_clusters // n_columns)
        n_images = max([1, *map(len, self.images)])
        # height over width; images of several shapes are fitted into squares
        ratios = {i.shape[0] / i.shape[1] for row in self.images for i in row}
        tall = ratios.pop() if len(ratios) == 1 else 1.0
        tile = TILE / np.sqrt(tall)  # one size of area, whatever the shape
        if figure is None:
            size = (
                # not so narrow that the title would not fit
                max(4.6, n_columns * (LABEL + n_images * tile) + 0.2),
                n_rows * max(tile * tall, TEXT) * 1.12 + 0.5,
            )
            figure = plt.figure(figsize=figsize or size, layout="constrained")
        axes = figure.subplots(n_rows, n_columns, squeeze=False).T.ravel()
        for ax in axes[n_clusters:]:
            ax.remove()
        self.figure_, self.axes_ = figure, axes[:n_clusters]
        for row, ax in enumerate(self.axes_):
            self._draw_row(ax, row, n_images, tall, cmap)
        figure.suptitle(self.title, fontsize=10, color=STRONG)
        return self

    def _draw_row(self, ax, row, n_images, tall, cmap):
        low, high = self.value_range
        for position, image in enumerate(self.images[row]):
            height, width = image.shape[:2]
            scale = min((1 - GAP) / width, (1 - GAP) * tall / height) / 2
            x, y, dx, dy = position + 0.5, tall / 2, width * scale, height * scale
            ax.imshow(
                image,
                extent=(x - dx, x + dx, y - dy, y + dy),
                cmap=cmap,
                vmin=low,
                vmax=high,
                interpolation="nearest" if max(image.shape[:2]) <= 64 else None,
            )
        ax.set(xlim=(0, n_images), ylim=(0, tall), aspect="equal", anchor="W")
        ax.set_axis_off()
        size, confidence = self.sizes[row], self.confidences[row]
        share = f"{size:,} images · {size / self.n_samples:.1%}"
        certainty = "empty" if size == 0 else f"confidence {confidence:.2f}"
        # offsets in points, so that the lines keep apart at any height of a row
        for text, offset, style in (
            (f"Cluster {self.clusters[row]}", 11, {"weight": "bold", "size": 9}),
            (share, 0, {"color": QUIET, "size": 8}),
            (certainty, -11, {"color": QUIET, "size": 8}),
        ):
            ax.annotate(
                text,
                (0, 0.5),
                xycoords="axes fraction",
                xytext=(-8, offset),
                textcoords="offset points",
                ha="right",
                va="center",
                **style,
            )


def _require_images(X, image_shape):
    """Raise the error for vectors before anything is predicted."""
    if is_paths(X):
        return
    shape = np.shape(X)
    if len(shape) == 2 and (image_shape is None or is_vector(image_shape)):
        raise ValueError(
            f"X holds vectors (shape {tuple(shape)}), which cannot be shown. Pass "
            "images=, an array or a list of paths with one image for each row of X."
        )


def _read_rows(source, indices, image_shape, channels_last):
    """Take the chosen images out of any layout of X.

    Returns
    -------
    rows : list of lists of ndarrays of shape (H, W) or (H, W, C)
    value_range : (float, float)
    """
    chosen = np.concatenate(indices)
    if not len(chosen):
        return [[] for _ in indices], (0.0, 255.0)
    if is_paths(source):
        flat = [_thumbnail(source[i]) for i in chosen]
    else:
        part = _safe_indexing(source, chosen)
        if hasattr(part, "detach"):
            part = part.detach().cpu()
            part = part.float() if part.is_floating_point() else part
        flat = list(_to_panels(np.asarray(part), image_shape, channels_last))
    flat, value_range = _to_range(flat)
    bounds = np.cumsum([len(i) for i in indices])[:-1]
    starts, ends = [0, *bounds], [*bounds, len(flat)]
    return [flat[a:b] for a, b in zip(starts, ends, strict=True)], value_range


def _thumbnail(path):
    with open_image(path) as image:
        deep = image.mode[0] in "IF"  # 16 and 32 bits: Pillow would clip, not scale
        if not deep:
            alpha = image.mode in ("RGBA", "LA", "PA")
            grey = image.mode in ("1", "L")
            image = image.convert("L" if grey else "RGBA" if alpha else "RGB")
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        return np.asarray(image)


def _to_panels(array, image_shape, channels_last):
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


def _to_range(images):
    """Find black and white; bring colours, which matplotlib does not scale, to them."""
    if all(image.dtype == np.uint8 for image in images):
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
