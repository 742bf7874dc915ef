"""A map of the embedding, with images at some of its points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_array, check_is_fitted

from .._engine.randomness import make_seed
from .._input.paths import listed
from ..metrics._clustering import _check_labels
from ._map import (
    apart,
    box,
    check_reducer,
    colors_apart,
    extent,
    middles,
    one_of_each_first,
    outlines,
    reduced,
)
from ._style import LINE, MARKERS, PALETTE, inks, last_step, pyplot
from ._tiles import require_images, take_images, to_range

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

LARGEST = 0.08  # side of a thumbnail, of the side of the map
FREE = 1.06  # from one thumbnail to the next, in widths of one
NAME = 0.02  # half the height of a name in the map, of the side of the map
AROUND = 0.1  # what belongs to one place of the map, of its side


class EmbeddingDisplay:
    """A map of all samples in two dimensions, with some of their images.

    Each point is a sample, its colour and shape the label. Thumbnails do not cover each
    other: one of each label, if there is room, then some from all over the map. Up to
    ten labels are named beside the map. More are named within it, and those that have
    the same colour are far from each other.

    Make it with :meth:`from_estimator` or :meth:`from_embedding`; the parameters are
    stored as attributes. A map keeps some distances and bends others: what looks like
    one group may be several.

    Parameters
    ----------
    positions : ndarray of shape (n_samples, 2), float64
        Coordinates. Rows of NaN are not shown.
    labels : ndarray of shape (n_samples,), optional
        Labels; -1 is none.
    images : sequence of ndarrays of shape (H, W), (H, W, 3) or (H, W, 4), default=()
        The thumbnails.
    indices : ndarray of int64, default=()
        Which rows they belong to.
    side : float, default=0
        Side of the largest of them, in units of the map.
    value_range : (float, float), default=(0, 255)
        The values of grey images that are black and white.
    title : str, default=""
        The heading.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
        Where it was plotted.
    ax_ : matplotlib Axes
        The map.

    See Also
    --------
    ClusterSheetDisplay : Images of each cluster, in rows.

    Examples
    --------
    >>> from skdeepcluster import DigPro  # doctest: +SKIP
    >>> from skdeepcluster.plots import EmbeddingDisplay  # doctest: +SKIP
    >>> model = DigPro(10).fit(X)  # doctest: +SKIP
    >>> EmbeddingDisplay.from_estimator(model, X, reducer="tsne")  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        positions: NDArray[np.float64],
        labels: NDArray | None = None,
        images: Any = (),
        indices: Any = (),
        side: float = 0.0,
        value_range: tuple[float, float] = (0, 255),
        title: str = "",
    ) -> None:
        self.positions = positions
        self.labels = labels
        self.images = images
        self.indices = indices
        self.side = side
        self.value_range = value_range
        self.title = title

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        reducer: Literal["pca", "tsne"] | Any = "pca",
        labels: ArrayLike | None = None,
        images: Any = None,
        n_thumbnails: int = 60,
        random_state: Any = None,
        cmap: str = "gray",
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> EmbeddingDisplay:
        """Embed X, reduce the embedding to two dimensions, and plot it.

        Parameters
        ----------
        estimator : fitted clusterer, transformer or pipeline
            With ``transform``, and with ``predict`` if ``labels`` is None.
        X : array-like, tensor or list of paths of length n_samples
            Whatever the estimator takes.
        reducer : {"pca", "tsne"}, transformer or None, default="pca"
            What brings the embedding to two dimensions. ``"pca"`` takes no time and
            keeps large distances; ``"tsne"`` keeps neighbours together, which shows
            clusters better, and takes about a minute for 10 000 samples. A fitted
            transformer, such as UMAP's, transforms the embedding; one that is not
            fitted is cloned and fitted to it. None takes an embedding of two dimensions
            as it is.
        labels : array-like of shape (n_samples,), optional
            What the colours mean, such as classes; the predicted clusters by default.
        images : array-like, tensor or list of paths of length n_samples, optional
            The images that belong to the rows of X, if X does not hold them, or not in
            a form to look at. Of vectors without images, points are shown alone.
        n_thumbnails : int, default=60
            The most thumbnails. More are smaller, and 0 shows none.
        random_state : int, RandomState instance or None, default=None
            Seed of ``"tsne"``, and of which images are shown.
        cmap : str, default="gray"
            See :meth:`plot`.
        figure : matplotlib Figure or SubFigure, optional
            See :meth:`plot`.
        figsize : (float, float), optional
            See :meth:`plot`.

        Returns
        -------
        display : EmbeddingDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If the estimator has no ``transform``, or the reducer is none.
        ValueError
            As for :meth:`from_embedding`, or if the reducer gives not two dimensions.
        """
        pyplot(f"{cls.__name__}.from_estimator")
        check_is_fitted(estimator)
        last = last_step(estimator)
        name = type(last).__name__
        if not hasattr(estimator, "transform"):
            raise TypeError(
                f"{name} has no transform, which gives the embedding. Pass an "
                "estimator of skdeepcluster, or the coordinates of a map of your own "
                "to from_embedding."
            )
        check_reducer(reducer)
        X, seed = listed(X), make_seed(random_state)
        shape = getattr(last, "image_shape_", None)
        if images is None and n_thumbnails and _shows(X, shape):
            images = X
        if labels is None:
            labels = estimator.predict(X)
        embedding = np.asarray(estimator.transform(X))
        positions, by = reduced(embedding, reducer, seed)
        layout = getattr(last, "layout_", None)
        return cls._of(
            positions,
            labels,
            images,
            n_thumbnails=n_thumbnails,
            seed=seed,
            layout=(shape, layout is not None and layout.channels_last),
            title=f"{name}: {len(positions):,} samples{by}",
        ).plot(cmap=cmap, figure=figure, figsize=figsize)

    @classmethod
    def from_embedding(
        cls,
        positions: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        images: Any = None,
        n_thumbnails: int = 60,
        random_state: Any = None,
        cmap: str = "gray",
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> EmbeddingDisplay:
        """Plot coordinates that there are.

        Parameters
        ----------
        positions : array-like of shape (n_samples, 2)
            Coordinates, of UMAP say. Rows of NaN are not shown.
        labels : array-like of shape (n_samples,), optional
            What the colours mean; of any type that can be sorted, and -1 is no label.
        images : array-like, tensor or list of paths of length n_samples, optional
            The images: (n, H, W), (n, C, H, W), (n, H, W, C) or files. Only those that
            are shown are read.
        n_thumbnails : int, default=60
            The most thumbnails. More are smaller, and 0 shows none.
        random_state : int, RandomState instance or None, default=None
            Seed of which images are shown.
        cmap : str, default="gray"
            See :meth:`plot`.
        figure : matplotlib Figure or SubFigure, optional
            See :meth:`plot`.
        figsize : (float, float), optional
            See :meth:`plot`.

        Returns
        -------
        display : EmbeddingDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the positions are not of two dimensions, labels or images are of another
            length, or ``n_thumbnails`` is negative.
        """
        pyplot(f"{cls.__name__}.from_embedding")
        return cls._of(
            positions,
            labels,
            listed(images),
            n_thumbnails=n_thumbnails,
            seed=make_seed(random_state),
        ).plot(cmap=cmap, figure=figure, figsize=figsize)

    @classmethod
    def _of(
        cls,
        positions,
        labels,
        images,
        n_thumbnails,
        seed,
        layout=(None, False),
        title=None,
    ):
        """Check what there is, and choose the thumbnails."""
        positions = check_array(
            positions, dtype=np.float64, ensure_all_finite="allow-nan"
        )
        if positions.shape[1] != 2:
            raise ValueError(
                f"positions has shape {positions.shape}: two columns were expected. "
                "Reduce it first, by sklearn.manifold.TSNE say."
            )
        n = len(positions)
        if title is None:
            title = f"{n:,} samples"
        for name, values in (("labels", labels), ("images", images)):
            if values is not None and len(values) != n:
                raise ValueError(
                    f"Got {len(values)} {name} for {n} positions. Pass one for each, "
                    "in the same order."
                )
        if n_thumbnails < 0:
            raise ValueError(f"n_thumbnails={n_thumbnails!r} should be at least 0.")
        if labels is not None:
            labels = _check_labels(labels, "labels")
        display = cls(positions=positions, labels=labels, title=title)
        if images is not None and n_thumbnails and n:
            whole = extent(positions)
            display.side = whole * min(LARGEST, 0.6 / n_thumbnails**0.5)
            free = np.ones(n, dtype=bool)
            for place in display._middles():  # where the names will be
                far = np.abs(positions - place).max(axis=1)
                free &= far >= display.side / 2 + NAME * whole
            order = one_of_each_first(display._numbers, seed)
            display.indices = apart(
                positions, order, FREE * display.side, n_thumbnails, free
            )
            taken = take_images(images, display.indices, *layout)
            display.images, display.value_range = to_range(taken)
        return display

    def plot(
        self,
        *,
        cmap: str = "gray",
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> EmbeddingDisplay:
        """Plot the map.

        Parameters
        ----------
        cmap : str, default="gray"
            The colours of images with one channel.
        figure : matplotlib Figure or SubFigure, optional
            Where to plot; a new figure by default.
        figsize : (float, float), optional
            Width and height of a new figure in inches; by default as the map needs.

        Returns
        -------
        display : EmbeddingDisplay
            Itself, with ``figure_`` and ``ax_``.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        plt = pyplot(f"{type(self).__name__}.plot")
        if figure is None:
            width, height = np.ptp(box(self.positions), axis=0)
            size = (7.2, 0.8 + 5.4 * np.clip(height / (width or 1.0), 0.4, 1.2))
            figure = plt.figure(figsize=figsize or size, layout="constrained")
        ink = inks(figure)
        self.figure_, self.ax_ = figure, figure.subplots()
        places = self._middles()
        colors, markers = np.array([LINE]), np.array(["o"])
        if self.labels is not None:
            which = np.append(colors_apart(places, len(PALETTE)), len(PALETTE))
            colors = np.array([*PALETTE, ink.pale])[which]
            markers = np.array([*MARKERS, "X"])[which]
        self._draw_points(colors, markers)
        for image, index in zip(self.images, self.indices, strict=True):
            self._draw_image(image, index, colors, cmap)
        self._draw_names(places, colors, markers, ink)
        self.ax_.set(aspect="equal", xticks=[], yticks=[], facecolor="none")
        self.ax_.spines[:].set_color(ink.quiet)
        self.ax_.spines[:].set_linewidth(0.5)
        figure.suptitle(self.title, fontsize=10, color=ink.strong)
        return self

    @property
    def _names(self):
        """The labels that there are, but for -1."""
        names = np.unique(self.labels) if self.labels is not None else np.array([])
        return names[names != -1] if names.dtype.kind in "if" else names

    @property
    def _numbers(self):
        """Number of each point's label; -1 is none."""
        if self.labels is None:
            return np.full(len(self.positions), -1)
        names = self._names
        at = np.searchsorted(names, self.labels)
        at = np.minimum(at, max(0, len(names) - 1))
        known = names[at] == self.labels if len(names) else np.zeros(len(at), bool)
        return np.where(known, at, -1)

    def _middles(self):
        radius = AROUND * extent(self.positions)
        return middles(self.positions, self._numbers, len(self._names), radius)

    def _draw_points(self, colors, markers):
        there = np.flatnonzero(~np.isnan(self.positions).any(axis=1))
        # in an order of no meaning, or the last label would cover the others
        there = np.random.RandomState(0).permutation(there)
        points = self.ax_.scatter(
            *self.positions[there].T,
            c=colors[self._numbers[there]],
            s=np.clip(3e4 / max(1, len(there)), 1.5, 24),
            alpha=0.8,
            linewidths=0,
            rasterized=len(there) > 10_000,
        )
        # one collection of all shapes: each of its own would cover those before it
        points.set_paths(outlines(markers)[self._numbers[there]])
        low, high = box(self.positions)
        margin = 0.6 * self.side + 0.02 * extent(self.positions)
        self.ax_.set_xlim(low[0] - margin, high[0] + margin)
        self.ax_.set_ylim(low[1] - margin, high[1] + margin)

    def _draw_image(self, image, index, colors, cmap):
        (x, y), (height, width) = self.positions[index], image.shape[:2]
        dx, dy = (self.side / 2 * s / max(height, width) for s in (width, height))
        self.ax_.imshow(
            image,
            extent=(x - dx, x + dx, y - dy, y + dy),
            cmap=cmap,
            vmin=self.value_range[0],
            vmax=self.value_range[1],
            interpolation="nearest" if max(height, width) <= 64 else None,
            aspect="auto",
            zorder=2,
            clip_on=True,
        )
        color = colors[self._numbers[index]]
        frame = {"fill": False, "edgecolor": color, "linewidth": 1.2, "zorder": 2.1}
        from matplotlib.patches import Rectangle

        self.ax_.add_patch(Rectangle((x - dx, y - dy), 2 * dx, 2 * dy, **frame))

    def _draw_names(self, places, colors, markers, ink):
        """Write the labels at their places; list up to ten with their sizes."""
        if self.labels is None:
            return
        from matplotlib.lines import Line2D
        from matplotlib.patheffects import withStroke

        halo = [withStroke(linewidth=2.5, foreground=ink.paper)]
        style: dict[str, Any] = {"size": 9, "weight": "bold", "zorder": 3}
        style |= {"color": ink.strong, "path_effects": halo, "ha": "center"}
        for name, place in zip(self._names, places, strict=True):
            if not np.isnan(place).any():
                x, y = place
                self.ax_.text(x, y, str(name), va="center", **style)
        numbers = self._numbers
        sizes = np.bincount(numbers[numbers >= 0], minlength=len(places))
        rows = list(zip(self._names, sizes, colors, markers, strict=False))
        if (numbers < 0).any():
            rows.append(("none", int((numbers < 0).sum()), colors[-1], markers[-1]))
        if len(places) > len(PALETTE):
            return
        dot: dict[str, Any] = {"ls": "", "ms": 6, "mew": 0}
        self.ax_.legend(
            [Line2D([], [], color=c, marker=m, **dot) for *_, c, m in rows],
            [f"{name} · {size:,}" for name, size, _, _ in rows],
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            fontsize=8,
            frameon=False,
            labelcolor=ink.quiet,
            handletextpad=0.2,
        )


def _shows(X, image_shape):
    """Whether X holds images to look at, not vectors."""
    try:
        require_images(X, image_shape)
    except ValueError:
        return False
    return True
