"""Sheets of the images of each cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from .._input.paths import listed
from ._style import QUIET, STRONG, last_step, pyplot
from ._tiles import (
    TILE,
    draw_tile,
    in_use,
    most_probable,
    proportions,
    require_images,
    split,
    take_images,
    to_range,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

LABEL, TEXT = 1.6, 0.46  # inches, width and height of the text beside a row
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
        Where it was plotted.
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
        """Predict the clusters of X, choose images of each, and plot them.

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
            require_images(X, shape)
        elif len(images) != len(X):
            raise ValueError(
                f"Got {len(images)} images for the {len(X)} rows of X. Pass one image "
                "for each row, in the same order."
            )

        proba = in_use(estimator.predict_proba(X))
        labels, confidence = most_probable(proba)
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
        layout = getattr(last_step(estimator), "layout_", None)
        channels_last = layout is not None and layout.channels_last
        source = X if images is None else images
        flat = take_images(source, np.concatenate(indices), shape, channels_last)
        flat, value_range = to_range(flat)
        rows = split(flat, [len(row) for row in indices])
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
        """Plot the sheet.

        Parameters
        ----------
        n_columns : int, optional
            Into how many columns the clusters go, each filled from top to bottom. By
            default one for up to 10 clusters, else two.
        cmap : str, default="gray"
            The colours of images with one channel.
        figure : matplotlib Figure or SubFigure, optional
            Where to plot; a new figure by default.
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
        tall = proportions(image for row in self.images for image in row)
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
        for position, image in enumerate(self.images[row]):
            draw_tile(ax, image, position, 0, tall, cmap, self.value_range)
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
