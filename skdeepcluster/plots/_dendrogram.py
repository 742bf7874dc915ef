"""Clusters and how they merge, with images of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from .._input.paths import listed
from ._style import inks, last_step, pyplot
from ._tiles import (
    draw_tile,
    proportions,
    require_images,
    split,
    take_images,
    to_range,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

    from ..model_selection import MergeTree

ROW, LABEL, TREE = 0.42, 0.8, 2.6  # inches: a row, the text beside it, the tree
# Okabe and Ito's, which colour-blind people tell apart; grey is above the cut
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


class DendrogramDisplay:
    """The tree of mergers of many clusters, with images of each.

    Each row is a cluster, the images nearest to its centre first. Two branches meet at
    the distance of the clusters that they merge: a long stretch without a merger is
    where to cut. With ``n_clusters``, what is merged until so many are left has one
    colour each, and a dashed line is the cut.

    Make it with :meth:`from_estimator` or :meth:`from_tree`; the parameters are stored
    as attributes.

    Parameters
    ----------
    tree : MergeTree
        Clusters and their mergers.
    images : list of n_leaves lists of ndarrays of shape (H, W), (H, W, 3) or (H, W, 4)
        The images of each leaf, in the order shown; without any, rows are text.
    n_clusters : int, optional
        Where to cut: the number of clusters that are left. None draws no cut.
    value_range : (float, float), default=(0, 255)
        The values of grey images that are black and white.
    title : str, default=""
        The heading.

    Attributes
    ----------
    order_ : ndarray of shape (n_leaves,), int64
        The leaves from top to bottom.
    figure_ : matplotlib Figure or SubFigure
        Where it was plotted.
    axes_ : ndarray of shape (2,) of matplotlib Axes
        The tree, and the images.

    See Also
    --------
    skdeepcluster.model_selection.MergeTree : The tree itself.
    ClusterSheetDisplay : Clusters without a tree.

    Examples
    --------
    >>> from skdeepcluster.model_selection import MergeTree
    >>> from skdeepcluster.plots import DendrogramDisplay
    >>> tree = MergeTree([[0.0], [1.0], [5.0], [5.5]], [0, 1, 2, 3])
    >>> display = DendrogramDisplay.from_tree(tree, n_clusters=2)
    >>> display.order_
    array([2, 3, 0, 1])
    """

    def __init__(
        self,
        *,
        tree: MergeTree,
        images: Sequence[Sequence[NDArray[Any]]] = (),
        n_clusters: int | None = None,
        value_range: tuple[float, float] = (0, 255),
        title: str = "",
    ) -> None:
        self.tree = tree
        self.images = images
        self.n_clusters = n_clusters
        self.value_range = value_range
        self.title = title

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        method: Literal["ward", "average"] = "ward",
        n_clusters: int | None = None,
        n_images: int = 6,
        images: Any = None,
        cmap: str = "gray",
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> DendrogramDisplay:
        """Merge the clusters that an estimator finds in X, and plot.

        Parameters
        ----------
        estimator : fitted clusterer or pipeline
            With ``predict``; rather with too many clusters than with too few.
        X : array-like, tensor or list of paths of length n_samples
            Whatever the estimator takes.
        method : {"ward", "average"}, default="ward"
            Which clusters are near: see
            :class:`~skdeepcluster.model_selection.MergeTree`.
        n_clusters : int, optional
            Where to cut.
        n_images : int, default=6
            The number of images of each cluster, if it has so many.
        images : array-like, tensor or list of paths of length n_samples, optional
            The images that belong to the rows of X, if X holds none.
        cmap : str, default="gray"
            See :meth:`plot`.
        figure : matplotlib Figure or SubFigure, optional
            See :meth:`plot`.
        figsize : (float, float), optional
            See :meth:`plot`.

        Returns
        -------
        display : DendrogramDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If a parameter is out of its range, X holds no images and none are
            passed, or their number is not that of X.
        """
        pyplot(f"{cls.__name__}.from_estimator")
        from ..model_selection import MergeTree

        check_is_fitted(estimator)
        last = last_step(estimator)
        shape, layout = (getattr(last, n, None) for n in ("image_shape_", "layout_"))
        X, images = listed(X), listed(images)
        if images is None:
            require_images(X, shape)
        tree = MergeTree.from_estimator(estimator, X, method=method)
        display = cls(tree=tree, n_clusters=n_clusters, title=_title(tree, last))
        source = X if images is None else images
        channels_last = layout is not None and layout.channels_last
        display._take(source, n_images, shape, channels_last)
        return display.plot(cmap=cmap, figure=figure, figsize=figsize)

    @classmethod
    def from_tree(
        cls,
        tree: MergeTree,
        images: Any = None,
        *,
        n_clusters: int | None = None,
        n_images: int = 6,
        cmap: str = "gray",
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> DendrogramDisplay:
        """Plot a tree.

        Parameters
        ----------
        tree : MergeTree
            Clusters and their mergers.
        images : array-like, tensor or list of paths of length n_samples, optional
            One for each sample that was clustered. None writes the sizes alone.
        n_clusters : int, optional
            Where to cut.
        n_images : int, default=6
            The number of images of each cluster, if it has so many.
        cmap : str, default="gray"
            See :meth:`plot`.
        figure : matplotlib Figure or SubFigure, optional
            See :meth:`plot`.
        figsize : (float, float), optional
            See :meth:`plot`.

        Returns
        -------
        display : DendrogramDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If a parameter is out of its range, or the number of images is not that of
            the samples.
        """
        pyplot(f"{cls.__name__}.from_tree")
        display = cls(tree=tree, n_clusters=n_clusters, title=_title(tree))
        if images is not None:
            images = listed(images)
            require_images(images, None)
            display._take(images, n_images, None, False)
        return display.plot(cmap=cmap, figure=figure, figsize=figsize)

    def _take(self, source, n_images, image_shape, channels_last):
        """Take the images of each leaf, the nearest to its centre first."""
        if n_images < 1:
            raise ValueError(f"n_images={n_images!r} should be at least 1.")
        if len(source) != len(self.tree.labels):
            raise ValueError(
                f"Got {len(source)} images for the {len(self.tree.labels)} samples of "
                "the tree. Pass one image for each sample, in the same order."
            )
        chosen = [members[:n_images] for members in self.tree.members_]
        flat = take_images(source, np.concatenate(chosen), image_shape, channels_last)
        flat, self.value_range = to_range(flat)
        self.images = split(flat, list(map(len, chosen)))

    def plot(
        self,
        *,
        cmap: str = "gray",
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> DendrogramDisplay:
        """Plot the tree and the images.

        Parameters
        ----------
        cmap : str, default="gray"
            The colours of images with one channel.
        figure : matplotlib Figure or SubFigure, optional
            Where to plot; a new figure by default.
        figsize : (float, float), optional
            Width and height of a new figure in inches; by default as the rows need.

        Returns
        -------
        display : DendrogramDisplay
            Itself, with ``figure_``, ``axes_`` and ``order_``.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there are not ``n_clusters`` clusters.
        """
        plt = pyplot(f"{type(self).__name__}.plot")
        from scipy.cluster.hierarchy import dendrogram

        n_leaves = len(self.tree.sizes_)
        drawn = dendrogram(self.tree.linkage_, no_plot=True)
        self.order_ = np.array(drawn["leaves"], dtype=np.int64)
        left = self._left()  # before a figure is made: it refuses a wrong cut
        tall = proportions(image for row in self.images for image in row)
        tall = tall if self.images else 1.0
        n_images = max(map(len, self.images), default=0)
        widths = TREE, LABEL + n_images * ROW / tall
        if figure is None:
            size = sum(widths), n_leaves * ROW + 0.9
            figure = plt.figure(figsize=figsize or size, layout="constrained")
        axes = figure.subplots(1, 2, width_ratios=widths)
        self.figure_, self.axes_ = figure, axes
        ink = inks(figure)
        colors = [(*COLORS, ink.strong)[rank % (len(COLORS) + 1)] for rank in left]
        self._draw_tree(axes[0], drawn, colors, ink)
        self._draw_rows(axes[1], colors, tall, n_images, cmap, ink)
        figure.suptitle(self.title, fontsize=10, color=ink.strong)
        return self

    def _left(self):
        """Number the clusters at the cut from the top: that of each row."""
        if self.n_clusters is None:
            return [len(COLORS)] * len(self.order_)
        left = self.tree.leaves_at(self.n_clusters)[self.order_].tolist()
        ranks = {cluster: rank for rank, cluster in enumerate(dict.fromkeys(left))}
        return [ranks[cluster] for cluster in left]

    def _draw_tree(self, ax, drawn, colors, ink):
        heights, cut = self.tree.linkage_[:, 2], self.n_clusters
        below = np.inf
        if cut is not None and 1 < cut:
            n_merged = len(heights) + 1 - cut
            lower = heights[n_merged - 1] if n_merged else 0.0
            below = (lower + heights[n_merged]) / 2
            ax.axvline(below, color=ink.quiet, linestyle="--", lw=1)
        for y, x in zip(drawn["icoord"], drawn["dcoord"], strict=True):
            rows = (np.array(y) - 5) / 10  # scipy has leaves at 5, 15, 25, ...
            one = cut is not None and x[1] < below
            color = colors[int(rows[0])] if one else ink.quiet
            ax.plot(x, rows, color=color, lw=1.8 if one else 1.0)
        ax.set(ylim=(len(colors) - 0.5, -0.5), yticks=[])
        ax.set_xlim(1.03 * heights[-1] or 1.0, 0)
        ax.set_xlabel("distance of what is merged", fontsize=8, color=ink.quiet)
        ax.tick_params(labelsize=8, color=ink.pale, labelcolor=ink.quiet)
        ax.spines[["top", "left", "right"]].set_visible(False)
        ax.set_facecolor("none")
        ax.spines["bottom"].set_color(ink.pale)

    def _draw_rows(self, ax, colors, tall, n_images, cmap, ink):
        text, n_rows = LABEL * tall / ROW, len(colors)  # in widths of an image
        for row, (leaf, color) in enumerate(zip(self.order_, colors, strict=True)):
            bottom = (n_rows - 1 - row) * tall
            cluster = self.tree.labels[self.tree.members_[leaf][0]]
            label = f"{cluster} · {self.tree.sizes_[leaf]:,}"
            at = text - 0.15, bottom + tall / 2
            ax.text(*at, label, ha="right", va="center", fontsize=8, color=ink.strong)
            if self.n_clusters is not None:
                high = bottom + 0.15 * tall, bottom + 0.85 * tall
                ax.plot((0, 0), high, color=color, lw=3, solid_capstyle="butt")
            for i, image in enumerate(self.images[leaf] if self.images else ()):
                args = tall, cmap, self.value_range
                draw_tile(ax, image, text + i, bottom, *args)
        ax.set(xlim=(0, text + n_images), ylim=(0, n_rows * tall), aspect="auto")
        ax.set_axis_off()
        head = (
            "cluster · size, most typical images first"
            if n_images
            else "cluster · size"
        )
        ax.set_title(head, fontsize=8, color=ink.quiet, loc="left")


def _title(tree, estimator=None):
    of = f"{type(estimator).__name__}: " if estimator is not None else ""
    return f"{of}{len(tree.sizes_)} clusters and how they merge"
