"""The clusters of each facet, and images with facets of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from .._engine.randomness import make_seed
from .._input.paths import listed
from ._style import inks, pyplot
from ._tiles import (
    draw_tile,
    in_use,
    proportions,
    ranked,
    require_drawn_images,
    require_images,
    split,
    take_images,
    to_panels,
    to_range,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

TILE = 0.46  # inches, the side of one image if it is square
LABEL, HEAD = 1.0, 0.5  # inches, the text beside the rows and above them
HEADS = 6  # images at the head of each side of the grid
APART = 0.3  # in widths of an image, between real images and drawn ones


class FacetsDisplay:
    """The clusters of every facet, and a grid of images that exchange facets.

    For each facet a panel with a row for each cluster: its most typical images, and
    beside them new ones drawn from it. Each row should have one thing in common, that
    of its facet, and vary in all others. In the grid, an image has some facets from
    the image at the head of its column and the others from that of its row.

    Make it with :meth:`from_estimator`; all parameters are stored as attributes.

    Parameters
    ----------
    images : list of J lists of lists of ndarrays of shape (H, W) or (H, W, C)
        The typical images of each shown cluster of each facet.
    samples : list of J lists of lists of ndarrays
        The images that were drawn from these clusters.
    clusters : list of J ndarrays of int64
        The numbers of the clusters.
    sizes : list of J ndarrays of int64
        The number of images in each of them.
    n_clusters : list of J ints
        How many clusters each facet has, those that are not shown too.
    n_samples : int
        The number of images of all clusters.
    indices : list of J lists of ndarrays of int64, optional
        Which rows of X the typical images are.
    swapped : sequence of int, default=()
        The facets that the grid takes from the heads of the columns; empty: no grid.
    swap_rows, swap_columns : lists of ndarrays of shape (H, W) or (H, W, C)
        The images at the heads of rows and columns.
    swap_grid : list of lists of ndarrays
        The images in the grid, row by row.
    value_range : (float, float), default=(0, 255)
        The values of grey images that are black and white.
    title : str, default=""
        The heading.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
        Where it was plotted.
    axes_ : ndarray of shape (n_panels,) of matplotlib Axes
        One for each facet, from the shallow to the deep ones, and the grid's.

    See Also
    --------
    ClusterSheetDisplay : The clusters of one clustering.

    Examples
    --------
    >>> from skdeepcluster import MFCVAE  # doctest: +SKIP
    >>> from skdeepcluster.plots import FacetsDisplay  # doctest: +SKIP
    >>> model = MFCVAE().fit(X)  # doctest: +SKIP
    >>> FacetsDisplay.from_estimator(model, X)  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        images: Sequence[Sequence[Sequence[NDArray[Any]]]],
        samples: Sequence[Sequence[Sequence[NDArray[Any]]]],
        clusters: Sequence[NDArray[np.int64]],
        sizes: Sequence[NDArray[np.int64]],
        n_clusters: Sequence[int],
        n_samples: int,
        indices: Sequence[Sequence[NDArray[np.int64]]] | None = None,
        swapped: Sequence[int] = (),
        swap_rows: Sequence[NDArray[Any]] = (),
        swap_columns: Sequence[NDArray[Any]] = (),
        swap_grid: Sequence[Sequence[NDArray[Any]]] = (),
        value_range: tuple[float, float] = (0, 255),
        title: str = "",
    ) -> None:
        self.images = images
        self.samples = samples
        self.clusters = clusters
        self.sizes = sizes
        self.n_clusters = n_clusters
        self.n_samples = n_samples
        self.indices = indices
        self.swapped = swapped
        self.swap_rows = swap_rows
        self.swap_columns = swap_columns
        self.swap_grid = swap_grid
        self.value_range = value_range
        self.title = title

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        n_images: int = 4,
        n_samples: int = 4,
        max_clusters: int = 8,
        swap: int | Sequence[int] | Literal["auto"] | None = "auto",
        temperature: float = 1.0,
        random_state: int | np.random.RandomState | None = None,
        n_columns: int | None = None,
        cmap: str = "gray",
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> FacetsDisplay:
        """Predict all facets of X, draw new images, and show them.

        Parameters
        ----------
        estimator : fitted MFCVAE
        X : array-like, tensor or list of paths of length n
            Images, in whatever layout the estimator takes.
        n_images : int, default=4
            The number of images of each cluster, if it has so many: those with the
            highest probability of it. Of equal ones the first in X come first.
        n_samples : int, default=4
            How many images to draw from each cluster; its other facets are drawn from
            all of theirs.
        max_clusters : int, default=8
            Of facets with more clusters the largest are shown.
        swap : "auto", int, sequence of int or None, default="auto"
            The facets that the grid exchanges: the one for ``labels_`` by default, if
            there is another. At the heads of the columns stand typical images of up to
            6 clusters of the first of these facets, at those of the rows typical
            images of clusters of the first facet that stays. None: no grid.
        temperature : float, default=1.0
            Scales the spread of drawn images within a cluster; 0 draws the middle.
        random_state : int, RandomState or None, default=None
            For the drawn images.
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
        display : FacetsDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If the estimator has no facets.
        ValueError
            If a parameter is out of its range, or X holds no images.
        """
        pyplot(f"{cls.__name__}.from_estimator")
        name = type(estimator).__name__
        if not hasattr(estimator, "predict_proba_facets"):
            raise TypeError(
                f"{name} has no predict_proba_facets. Pass a fitted MFCVAE; of a "
                "pipeline its last step, with X as that step gets it."
            )
        for key, value, least in (
            ("n_images", n_images, 1),
            ("n_samples", n_samples, 0),
            ("max_clusters", max_clusters, 1),
        ):
            if value < least:
                raise ValueError(f"{key}={value!r} should be at least {least}.")
        check_is_fitted(estimator)
        n_facets = len(estimator.facet_slices_)
        swapped = _swapped(swap, estimator.primary_facet, n_facets)
        shape, channels_last = estimator.image_shape_, estimator.layout_.channels_last
        rng = np.random.RandomState(make_seed(random_state))
        X = listed(X)
        require_images(X, shape)
        if n_samples or swapped:
            require_drawn_images(estimator)

        probas = [in_use(proba) for proba in estimator.predict_proba_facets(X)]
        ranks = [ranked(proba) for proba in probas]  # members, most typical first
        sizes = [np.array([len(m) for m in members]) for members in ranks]
        clusters = [
            np.sort(np.argsort(-s, kind="stable")[:max_clusters]) for s in sizes
        ]
        indices = [
            [members[k][:n_images] for k in shown]
            for members, shown in zip(ranks, clusters, strict=True)
        ]
        # heads of the grid: the most typical image of each cluster that has one
        kept = [j for j in range(n_facets) if j not in swapped]
        heads = [
            np.array([own[0] for own in indices[j] if len(own)][:HEADS], dtype=np.int64)
            for j in ((kept[0], swapped[0]) if swapped else ())
        ] or [np.empty(0, np.int64)] * 2

        drawn = [
            estimator.sample(
                n_samples,
                facet=j,
                cluster=int(k),
                temperature=temperature,
                random_state=rng,
            )[0]
            for j, shown in enumerate(clusters)
            for k in (shown if n_samples else ())
        ]
        if swapped:
            pairs = np.repeat(heads[0], len(heads[1])), np.tile(heads[1], len(heads[0]))
            X_a, X_b = (_safe_indexing(X, rows) for rows in pairs)
            drawn.append(estimator.swap_facets(X_a, X_b, list(swapped)))

        # one range for all, so that real and drawn images can be compared
        chosen = np.concatenate([*(rows for own in indices for rows in own), *heads])
        real = take_images(X, chosen, shape, channels_last)
        new = [
            image for part in drawn for image in to_panels(part, shape, channels_last)
        ]
        pixels, value_range = to_range([*real, *new])
        lengths = [len(rows) for own in indices for rows in own]
        lengths += [len(h) for h in heads] + [n_samples] * sum(map(len, clusters))
        lengths += [len(heads[1])] * len(heads[0])
        parts = iter(split(pixels, lengths))
        images = [[next(parts) for _ in own] for own in clusters]
        swap_rows, swap_columns = next(parts), next(parts)
        samples = [[next(parts) for _ in own] for own in clusters]
        return cls(
            images=images,
            samples=samples,
            clusters=clusters,
            sizes=[s[shown] for s, shown in zip(sizes, clusters, strict=True)],
            n_clusters=[len(s) for s in sizes],
            n_samples=len(probas[0]),
            indices=indices,
            swapped=swapped,
            swap_rows=swap_rows,
            swap_columns=swap_columns,
            swap_grid=list(parts),
            value_range=value_range,
            title=f"{name}: {len(probas[0]):,} images in {n_facets} facet"
            f"{'s' if n_facets > 1 else ''}",
        ).plot(n_columns=n_columns, cmap=cmap, figure=figure, figsize=figsize)

    def plot(
        self,
        *,
        n_columns: int | None = None,
        cmap: str = "gray",
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> FacetsDisplay:
        """Plot the panels.

        Parameters
        ----------
        n_columns : int, optional
            Panels side by side; by default up to three in one row, else two.
        cmap : str, default="gray"
            The colours of images with one channel.
        figure : matplotlib Figure or SubFigure, optional
            Where to plot; a new figure by default.
        figsize : (float, float), optional
            Width and height of a new figure in inches; by default as the panels need.

        Returns
        -------
        display : FacetsDisplay
            Itself, with ``figure_`` and ``axes_``.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If ``n_columns`` is less than 1.
        """
        plt = pyplot(f"{type(self).__name__}.plot")
        n_panels = len(self.images) + bool(self.swap_grid)
        if n_columns is None:
            n_columns = n_panels if n_panels <= 3 else 2
        elif n_columns < 1:
            raise ValueError(f"n_columns={n_columns!r} should be at least 1.")
        n_columns = min(n_columns, n_panels)
        n_rows = -(-n_panels // n_columns)
        everything = [i for own in self.images for row in own for i in row]
        tall = proportions([*everything, *self.swap_rows, *self.swap_columns])
        tile = TILE / np.sqrt(tall)  # one size of area, whatever the shape
        # the room that each panel needs, in images
        sizes = [
            (_width(own) + _width(new) + APART, len(own) * tall)
            for own, new in zip(self.images, self.samples, strict=True)
        ]
        if self.swap_grid:
            columns, rows = len(self.swap_columns), len(self.swap_rows)
            sizes.append((1 + APART + columns, (1 + rows) * tall + APART))
        widths = [max(w for w, _ in sizes[c::n_columns]) for c in range(n_columns)]
        heights = [
            max(h for _, h in sizes[r * n_columns : (r + 1) * n_columns])
            for r in range(n_rows)
        ]
        if figure is None:
            size = (
                sum(widths) * tile + n_columns * LABEL + 0.2,
                sum(heights) * tile + n_rows * HEAD + 0.3,
            )
            figure = plt.figure(figsize=figsize or size, layout="constrained")
        axes = figure.subplots(
            n_rows,
            n_columns,
            squeeze=False,
            width_ratios=[w * tile + LABEL for w in widths],
            height_ratios=[h * tile + HEAD for h in heights],
        ).ravel()
        for ax in axes[n_panels:]:
            ax.remove()
        self.figure_, self.axes_ = figure, axes[:n_panels]
        for ax, (width, height) in zip(self.axes_, sizes, strict=True):
            ax.set(xlim=(0, width), ylim=(0, height), aspect="equal", anchor="N")
            ax.set_axis_off()
        ink = inks(figure)
        for facet in range(len(self.images)):
            self._draw_facet(facet, tall, cmap, ink)
        if self.swap_grid:
            self._draw_grid(tall, cmap, ink)
        for ax, (width, height) in zip(self.axes_, sizes, strict=True):
            ax.set(xlim=(0, width), ylim=(0, height))  # imshow moved them
        figure.suptitle(self.title, fontsize=10, color=ink.strong)
        return self

    def _draw_facet(self, facet, tall, cmap, ink):
        ax = self.axes_[facet]
        rows, drawn = self.images[facet], self.samples[facet]
        first = _width(rows) + APART
        for row in range(len(rows)):
            bottom = (len(rows) - 1 - row) * tall
            for left, tiles in ((0, rows[row]), (first, drawn[row])):
                for position, image in enumerate(tiles):
                    at = left + position, bottom
                    draw_tile(ax, image, *at, tall, cmap, self.value_range)
            size = self.sizes[facet][row]
            share = f"{size:,} · {size / self.n_samples:.1%}"
            name = f"Cluster {self.clusters[facet][row]}"
            middle = 0, bottom + tall / 2
            _write(ax, name, middle, (-8, 6), "right", ink.strong, weight="bold")
            _write(ax, share, middle, (-8, -6), "right", ink.quiet)
        shown, every = len(rows), self.n_clusters[facet]
        of = f"{shown} of {every}" if shown < every else every
        plural = "s" if every > 1 else ""
        self._head(ax, f"Facet {facet}: {of} cluster{plural}")
        top = len(rows) * tall
        _write(ax, "most typical", (0, top), (2, 6), "left", ink.quiet)
        if _width(drawn):
            _write(ax, "drawn", (first, top), (2, 6), "left", ink.quiet)

    def _draw_grid(self, tall, cmap, ink):
        ax, n_rows = self.axes_[-1], len(self.swap_rows)
        for r in range(-1, n_rows):
            heads = self.swap_columns if r < 0 else self.swap_grid[r]
            bottom = (n_rows - 1 - r) * tall + (APART if r < 0 else 0)
            if r >= 0:
                draw_tile(
                    ax, self.swap_rows[r], 0, bottom, tall, cmap, self.value_range
                )
            for c, image in enumerate(heads):
                at = c + 1 + APART, bottom
                draw_tile(ax, image, *at, tall, cmap, self.value_range)
        names = " and ".join(map(str, self.swapped))
        plural = "s" if len(self.swapped) > 1 else ""
        self._head(ax, f"Facet{plural} {names} exchanged")
        top = (n_rows + 1) * tall + APART
        given = f"facet{plural} {names} from these"
        _write(ax, given, (1 + APART, top), (2, 6), "left", ink.quiet)
        corner = (0.5, n_rows * tall + APART + tall / 2)
        _write(ax, "the rest\nfrom these", corner, (0, 0), "center", ink.quiet)

    def _head(self, ax, text):
        title = ax.set_title(text, fontsize=9, loc="left", weight="bold", pad=16)
        title.set_color(inks(self.figure_).strong)


def _swapped(swap, primary_facet, n_facets):
    """Return the facets to exchange, from 0."""
    if swap is None or (isinstance(swap, str) and swap == "auto" and n_facets == 1):
        return []
    given = [primary_facet] if isinstance(swap, str) else np.atleast_1d(swap).tolist()
    known = range(-n_facets, n_facets)
    if (isinstance(swap, str) and swap != "auto") or any(j not in known for j in given):
        raise ValueError(
            f"swap={swap!r} should be 'auto', None, or facets from {-n_facets} to "
            f"{n_facets - 1}."
        )
    facets = list(dict.fromkeys(j % n_facets for j in given))
    if not 0 < len(facets) < n_facets:
        raise ValueError(
            f"swap={swap!r} should hold one facet at least, and leave one of the "
            f"{n_facets}. Pass None for no grid."
        )
    return facets


def _width(rows):
    return max(map(len, rows), default=0)


def _write(ax, text, at, offset, ha, color, **style):
    # offsets in points, so that lines keep apart at any size of the images
    ax.annotate(
        text,
        at,
        xytext=offset,
        textcoords="offset points",
        ha=ha,
        va="center",
        fontsize=8,
        color=color,
        annotation_clip=False,
        **style,
    )
