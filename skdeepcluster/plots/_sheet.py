"""Sheets of the images of each cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from .._input.paths import listed
from ._chosen import ORDERS, check_choice, check_labels, choose, names_of
from ._rows import draw_row
from ._style import inks, last_step, pyplot
from ._tiles import (
    TILE,
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
CAPTION = 0.13  # inches, height of a name below an image
NAMED = 1.5  # times the side of an image, where names are shown


class ClusterSheetDisplay:
    """A sheet of example images: a row of them, or several lines, for each cluster.

    Make it with :meth:`from_estimator`, or of labels of any origin with
    :meth:`from_predictions`; all parameters are stored as attributes.

    Parameters
    ----------
    images : list of n_rows lists of ndarrays of shape (H, W), (H, W, 3) or (H, W, 4)
        The images of each row, in the order shown.
    clusters : ndarray of shape (n_rows,), int64 or str
        The number, or the name, of the cluster of each row; -1 is none.
    sizes : ndarray of shape (n_rows,), int64
        The number of samples in each cluster.
    confidences : ndarray of shape (n_rows,), float64
        The mean probability that the samples of a cluster have of being in it; nan
        where there are none, or where it is not known.
    n_samples : int
        The number of samples of all clusters, those that are not shown too.
    indices : list of n_rows ndarrays of int64, optional
        Which rows of X the images are.
    value_range : (float, float), default=(0, 255)
        The values of grey images that are black and white.
    title : str, default=""
        The heading of the sheet.
    names : list of n_rows lists of str, optional
        What is written below the images.

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
        names: Sequence[Sequence[str]] | None = None,
    ) -> None:
        self.images = images
        self.clusters = clusters
        self.sizes = sizes
        self.confidences = confidences
        self.n_samples = n_samples
        self.indices = indices
        self.value_range = value_range
        self.title = title
        self.names = names

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        n_images: int = 10,
        clusters: Sequence[int] | None = None,
        order: Literal["typical", "uncertain", "random"] = "typical",
        images: Any = None,
        show_names: bool = False,
        random_state: int | np.random.RandomState | None = None,
        images_per_line: int = 10,
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
            The clusters to show, in this order; all of them by default, and at the end
            -1, those that a :class:`~skdeepcluster.SelectiveClusterer` rejects.
        order : {"typical", "uncertain", "random"}, default="typical"
            Show the samples with the highest probability of their cluster, those with
            the lowest, or any. Of equal ones the first in X come first.
        images : array-like, tensor or list of paths of length n_samples, optional
            The images that belong to the rows of X, if X does not hold them (features
            of another network) or not in a form to look at (standardised pixels).
            Layouts as for X.
        show_names : bool, default=False
            Whether to write the names of the files below the images, or else the rows
            of X that they are.
        random_state : int, RandomState or None, default=None
            Seed of what ``order="random"`` chooses.
        images_per_line : int, default=10
            See :meth:`plot`.
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
                "chosen. Pass an estimator of skdeepcluster, or a mixture model; or "
                "its labels to from_predictions."
            )
        check_choice(order, n_images)
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
        least = getattr(last_step(estimator), "threshold_", 0.0)  # SelectiveClusterer
        labels, confidence = most_probable(proba, least)
        n_clusters = proba.shape[1]
        there = [*range(n_clusters), *([-1] if (confidence < least).any() else [])]
        shown = np.asarray(there if clusters is None else clusters)
        if not set(shown.tolist()) <= set(there) or shown.size == 0:
            some = f"some of the numbers {min(there)} to {n_clusters - 1}"
            raise ValueError(f"clusters={clusters!r} should be {some}.")
        layout = getattr(last_step(estimator), "layout_", None)
        display = cls._of(
            X if images is None else images,
            labels,
            np.asarray(confidence, np.float64),
            shown.astype(np.int64),
            (order, n_images, random_state),
            f"{name}: {len(labels):,} images in {n_clusters} clusters, ",
            show_names,
            shape,
            layout is not None and layout.channels_last,
        )
        return display.plot(
            images_per_line=images_per_line,
            n_columns=n_columns,
            cmap=cmap,
            figure=figure,
            figsize=figsize,
        )

    @classmethod
    def from_predictions(
        cls,
        X: Any,
        labels: ArrayLike,
        confidence: ArrayLike | None = None,
        *,
        n_images: int = 10,
        clusters: Sequence[int] | Sequence[str] | None = None,
        order: Literal["typical", "uncertain", "random"] | None = None,
        show_names: bool = False,
        random_state: int | np.random.RandomState | None = None,
        name: str | None = None,
        images_per_line: int = 10,
        n_columns: int | None = None,
        cmap: str = "gray",
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> ClusterSheetDisplay:
        """Choose images of each cluster of a clustering of any origin, and plot them.

        Parameters
        ----------
        X : array-like, tensor or list of paths of length n_samples
            The images themselves, also where features of them were clustered.
        labels : array-like of shape (n_samples,)
            Cluster of each image: whole numbers, of which -1 is none (``"rejected"``),
            or names.
        confidence : array-like of shape (n_samples,), optional
            How sure each label is, such as ``predict_proba(X).max(axis=1)``; NaN where
            that is not known.
        n_images : int, default=10
            The number of images of each cluster, if it has so many.
        clusters : sequence of int or str, optional
            The clusters to show, in this order; all of them by default, and -1 last.
        order : {"typical", "uncertain", "random"}, optional
            Show the images with the highest confidence, those with the lowest, or any.
            By default the highest if there are confidences, else any.
        show_names : bool, default=False
            Whether to write the names of the files below the images, or else the rows
            of X that they are.
        random_state : int, RandomState or None, default=None
            Seed of what ``order="random"`` chooses.
        name : str, optional
            What the heading calls the clusterer.
        images_per_line : int, default=10
            See :meth:`plot`.
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
        ValueError
            If a parameter is out of its range, X holds no images, labels or confidences
            are not one for each, or ``order`` needs confidences and there are none.

        Examples
        --------
        >>> from sklearn.cluster import KMeans
        >>> from skdeepcluster.datasets import load_digits_images
        >>> from skdeepcluster.plots import ClusterSheetDisplay
        >>> X, _ = load_digits_images()
        >>> labels = KMeans(10, random_state=0).fit_predict(X.reshape(len(X), -1))
        >>> sheet = ClusterSheetDisplay.from_predictions(X, labels, random_state=0)
        >>> sheet.title
        '1,797 images in 10 clusters, chosen at random'
        """
        pyplot(f"{cls.__name__}.from_predictions")
        X = listed(X)
        require_images(X, None, "the images, an array or a list of paths, in its place")
        found, sure = check_labels(labels, confidence, len(X))
        order = order or ("random" if confidence is None else "typical")
        check_choice(order, n_images)
        if confidence is None and order != "random":
            raise ValueError(
                f"order={order!r} goes by confidence, and there is none. Pass "
                "confidence=, or order='random'."
            )
        there = np.unique(found)
        shown = np.sort(there) if clusters is None else np.asarray(clusters)
        if clusters is None and shown.dtype.kind == "i":  # what has no cluster is last
            shown = np.concatenate([shown[shown >= 0], shown[shown < 0]])
        if shown.size == 0 or not set(shown.tolist()) <= set(there.tolist()):
            raise ValueError(
                f"clusters={clusters!r} should be some of the {len(there)} labels."
            )
        n_clusters = sum(str(label) != "-1" for label in there)
        of = f"{name}: " if name else ""
        display = cls._of(
            X,
            found,
            sure,
            shown,
            (order, n_images, random_state),
            f"{of}{len(found):,} images in {n_clusters} clusters, ",
            show_names,
        )
        return display.plot(
            images_per_line=images_per_line,
            n_columns=n_columns,
            cmap=cmap,
            figure=figure,
            figsize=figsize,
        )

    @classmethod
    def _of(
        cls,
        source,
        labels,
        confidence,
        clusters,
        choice,
        title,
        show_names,
        shape=None,
        channels_last=False,
    ):
        order, n_images, random_state = choice
        chosen = choose(labels, confidence, clusters, order, n_images, random_state)
        together = np.concatenate(chosen.indices)
        flat, value_range = to_range(
            take_images(source, together, shape, channels_last)
        )
        names = None
        if show_names:
            names = [names_of(source, indices) for indices in chosen.indices]
        return cls(
            images=split(flat, [len(row) for row in chosen.indices]),
            clusters=clusters,
            sizes=chosen.sizes,
            confidences=chosen.confidences,
            n_samples=len(labels),
            indices=chosen.indices,
            value_range=value_range,
            title=title + ORDERS[order],
            names=names,
        )

    def plot(
        self,
        *,
        images_per_line: int = 10,
        n_columns: int | None = None,
        cmap: str = "gray",
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> ClusterSheetDisplay:
        """Plot the sheet.

        Parameters
        ----------
        images_per_line : int, default=10
            After how many images a cluster goes on in a line below.
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
            If ``images_per_line`` or ``n_columns`` is less than 1.
        """
        plt = pyplot(f"{type(self).__name__}.plot")
        n_clusters = len(self.clusters)
        if n_columns is None:
            n_columns = 1 if n_clusters <= ROWS_PER_COLUMN else 2
        for parameter, value in (
            ("images_per_line", images_per_line),
            ("n_columns", n_columns),
        ):
            if value < 1:
                raise ValueError(f"{parameter}={value!r} should be at least 1.")
        n_columns = min(n_columns, n_clusters)
        n_rows = -(-n_clusters // n_columns)
        per_line = min(images_per_line, max([1, *map(len, self.images)]))
        tall = proportions(image for row in self.images for image in row)
        tile = TILE / np.sqrt(tall)  # one size of area, whatever the shape
        below = 0.0  # height of a name, in widths of an image
        if self.names is not None:
            tile *= NAMED
            below = CAPTION / tile
        lines = [max(1, -(-len(row) // per_line)) for row in self.images]
        deepest = [max(lines[i::n_rows]) for i in range(n_rows)]
        heights = [max(n * tile * (tall + below), TEXT) * 1.12 for n in deepest]
        if figure is None:
            size = (
                # not so narrow that the title would not fit
                max(4.6, n_columns * (LABEL + per_line * tile) + 0.2),
                sum(heights) + 0.5,
            )
            figure = plt.figure(figsize=figsize or size, layout="constrained")
        ratios = {"height_ratios": heights}
        axes = figure.subplots(n_rows, n_columns, squeeze=False, gridspec_kw=ratios)
        axes = axes.T.ravel()
        for ax in axes[n_clusters:]:
            ax.remove()
        self.figure_, self.axes_ = figure, axes[:n_clusters]
        for row, ax in enumerate(self.axes_):
            draw_row(self, ax, row, per_line, lines[row], tall, below, cmap)
        figure.suptitle(self.title, fontsize=10, color=inks(figure).strong)
        return self
