"""Sheets of generated images beside real ones."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from .._engine.randomness import make_seed
from .._input.layouts import as_images
from .._input.paths import listed
from ._style import inks, pyplot
from ._tiles import (
    draw_tile,
    in_use,
    most_probable,
    proportions,
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
LABEL, TEXT = 1.3, 0.9  # inches, width and least height of the text beside a row
APART = 0.4  # in widths of an image, between real images and generated ones


class GeneratedSheetDisplay:
    """Images generated of each cluster, beside real ones and above the most alike.

    A row for each cluster: on the left its most typical images, on the right new ones
    that were drawn of it, and below each the training image that is nearest to it in
    pixels. A model that remembers draws images that are far nearer to a training image
    than training images are to one another.

    Make it with :meth:`from_estimator`; all parameters are stored as attributes.

    Parameters
    ----------
    real : list of n_rows lists of ndarrays of shape (H, W), (H, W, 3) or (H, W, 4)
        The most typical images of each cluster.
    generated : list of n_rows lists of ndarrays
        Images that were drawn of it.
    nearest : list of n_rows lists of ndarrays
        Of each of these, the nearest training image.
    clusters : ndarray of shape (n_rows,), int64
        The numbers of the clusters.
    sizes : ndarray of shape (n_rows,), int64
        The number of training images of each.
    indices : list of n_rows ndarrays of int64, optional
        Which rows of X the real images are.
    nearest_indices : ndarray of shape (n_rows, n_generated), int64, optional
        Which rows of X the nearest images are.
    distances : ndarray of shape (n_rows, n_generated), float64, optional
        To the nearest training images: the root of the mean squared difference of the
        values, in shares of their range.
    real_distances : ndarray of shape (n,), float64, optional
        The same of training images, some hundred of them, to the nearest other one.
    value_range : (float, float), default=(0, 255)
        The values of grey images that are black and white.
    title : str, default=""
        The heading.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
        Where it was plotted.
    axes_ : ndarray of shape (n_rows,) of matplotlib Axes
        One for each cluster, in the order of ``clusters``.

    See Also
    --------
    ClusterSheetDisplay : Real images only, of any clustering.
    FacetsDisplay : The like for the facets of an MFCVAE.

    Examples
    --------
    >>> from skdeepcluster import GCC  # doctest: +SKIP
    >>> from skdeepcluster.plots import GeneratedSheetDisplay  # doctest: +SKIP
    >>> model = GCC(10).fit(X)  # doctest: +SKIP
    >>> GeneratedSheetDisplay.from_estimator(model, X)  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        real: Sequence[Sequence[NDArray[Any]]],
        generated: Sequence[Sequence[NDArray[Any]]],
        nearest: Sequence[Sequence[NDArray[Any]]],
        clusters: NDArray[np.int64],
        sizes: NDArray[np.int64],
        indices: Sequence[NDArray[np.int64]] | None = None,
        nearest_indices: NDArray[np.int64] | None = None,
        distances: NDArray[np.float64] | None = None,
        real_distances: NDArray[np.float64] | None = None,
        value_range: tuple[float, float] = (0, 255),
        title: str = "",
    ) -> None:
        self.real = real
        self.generated = generated
        self.nearest = nearest
        self.clusters = clusters
        self.sizes = sizes
        self.indices = indices
        self.nearest_indices = nearest_indices
        self.distances = distances
        self.real_distances = real_distances
        self.value_range = value_range
        self.title = title

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        n_real: int = 4,
        n_generated: int = 8,
        clusters: Sequence[int] | None = None,
        random_state: int | np.random.RandomState | None = None,
        cmap: str = "gray",
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
        **sample_params: Any,
    ) -> GeneratedSheetDisplay:
        """Draw images of each cluster, find the nearest of X, and show them.

        Parameters
        ----------
        estimator : fitted GCC or MFCVAE
            With ``sample`` and ``predict_proba``.
        X : array-like, tensor or list of paths of length n
            The images that the estimator was fitted on.
        n_real : int, default=4
            The number of typical images of each cluster, if it has so many: those with
            the highest probability of it.
        n_generated : int, default=8
            How many images to draw of each cluster.
        clusters : sequence of int, optional
            The clusters to show, in this order; all of them by default.
        random_state : int, RandomState or None, default=None
            For the generated images.
        cmap : str, default="gray"
            See :meth:`plot`.
        figure : matplotlib Figure or SubFigure, optional
            See :meth:`plot`.
        figsize : (float, float), optional
            See :meth:`plot`.
        **sample_params
            Passed to ``sample``, such as ``guidance_scale=2``, or ``facet=0`` for the
            clusters of that facet of an MFCVAE.

        Returns
        -------
        display : GeneratedSheetDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If the estimator cannot draw images.
        ValueError
            If a parameter is out of its range, or X holds no images.
        """
        pyplot(f"{cls.__name__}.from_estimator")
        name = type(estimator).__name__
        if not hasattr(estimator, "sample") or not hasattr(estimator, "predict_proba"):
            raise TypeError(
                f"{name} cannot draw images of its clusters. Pass a fitted GCC or "
                "MFCVAE; of a pipeline its last step, with X as that step gets it."
            )
        for key, value in (("n_real", n_real), ("n_generated", n_generated)):
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{key}={value!r} should be an integer, at least 1.")
        if "cluster" in sample_params:
            raise ValueError("cluster=... is not taken: pass clusters=[...].")
        check_is_fitted(estimator)
        X = listed(X)
        shape = estimator.image_shape_
        channels_last = estimator.layout_.channels_last
        require_images(X, shape)
        require_drawn_images(estimator)
        rng = np.random.RandomState(make_seed(random_state))

        facet = {k: sample_params[k] for k in ("facet",) if k in sample_params}
        proba = in_use(estimator.predict_proba(X, **facet))
        n_clusters = proba.shape[1]
        shown = np.arange(n_clusters) if clusters is None else np.atleast_1d(clusters)
        if not set(shown.tolist()) <= set(range(n_clusters)) or shown.size == 0:
            raise ValueError(
                f"clusters={clusters!r} should be some of the numbers 0 to "
                f"{n_clusters - 1}."
            )
        labels, confidence = most_probable(proba)
        members = [np.flatnonzero(labels == k) for k in shown]
        indices = [
            own[np.argsort(-confidence[own], kind="stable")[:n_real]] for own in members
        ]
        drawn = np.concatenate(
            [
                estimator.sample(
                    n_generated, cluster=int(k), random_state=rng, **sample_params
                )[0]
                for k in shown
            ]
        )
        distances, nearest = _nearest(estimator, drawn, X)
        some = rng.permutation(len(labels))[: len(drawn)]
        real_distances, _ = _nearest(estimator, X, X, rows=some)

        # one range for all, so that real and generated images can be compared
        chosen = [*indices, nearest]
        panels = take_images(X, np.concatenate(chosen), shape, channels_last)
        panels += list(to_panels(drawn, shape, channels_last))
        panels, value_range = to_range(panels)
        lengths = [len(own) for own in indices] + 2 * len(shown) * [n_generated]
        parts = split(panels, lengths)
        k = len(shown)
        return cls(
            real=parts[:k],
            nearest=parts[k : 2 * k],
            generated=parts[2 * k :],
            clusters=shown.astype(np.int64),
            sizes=np.array([len(own) for own in members], dtype=np.int64),
            indices=indices,
            nearest_indices=nearest.reshape(k, n_generated),
            distances=distances.reshape(k, n_generated),
            real_distances=real_distances,
            value_range=value_range,
            title=_title(name, distances, real_distances),
        ).plot(cmap=cmap, figure=figure, figsize=figsize)

    def plot(
        self,
        *,
        cmap: str = "gray",
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> GeneratedSheetDisplay:
        """Plot the sheet.

        Parameters
        ----------
        cmap : str, default="gray"
            The colours of images with one channel.
        figure : matplotlib Figure or SubFigure, optional
            Where to plot; a new figure by default.
        figsize : (float, float), optional
            Width and height of a new figure in inches; by default as the sheet needs.

        Returns
        -------
        display : GeneratedSheetDisplay
            Itself, with ``figure_`` and ``axes_``.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        plt = pyplot(f"{type(self).__name__}.plot")
        n_rows = len(self.clusters)
        n_real = max([1, *map(len, self.real)])
        n_generated = max(map(len, self.generated))
        tall = proportions(image for row in self.generated for image in row)
        tile = TILE / np.sqrt(tall)  # one size of area, whatever the shape
        width = n_real + APART + n_generated
        if figure is None:
            size = (
                max(5.6, LABEL + width * tile + 0.2),
                n_rows * max(2 * tile * tall, TEXT) * 1.1 + 0.7,
            )
            figure = plt.figure(figsize=figsize or size, layout="constrained")
        axes = figure.subplots(n_rows, 1, squeeze=False)[:, 0]
        self.figure_, self.axes_ = figure, axes
        ink = inks(figure)
        named = {"color": ink.strong, "weight": "bold", "size": 9}
        for row, ax in enumerate(axes):
            for position, image in enumerate(self.real[row]):
                draw_tile(ax, image, position, tall / 2, tall, cmap, self.value_range)
            for line, images in ((tall, self.generated[row]), (0, self.nearest[row])):
                for position, image in enumerate(images):
                    left = n_real + APART + position
                    draw_tile(ax, image, left, line, tall, cmap, self.value_range)
            ax.set(xlim=(0, width), ylim=(0, 2 * tall), aspect="equal", anchor="W")
            ax.set_axis_off()
            for text, offset, style in (
                (f"Cluster {self.clusters[row]}", 6, named),
                (f"{self.sizes[row]:,} images", -6, {"color": ink.quiet, "size": 8}),
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
        for text, left in (
            ("typical", 0),
            ("generated, and below each the nearest of X", n_real + APART),
        ):
            axes[0].annotate(
                text,
                (left, 2 * tall),
                xytext=(0, 3),
                textcoords="offset points",
                ha="left",
                va="bottom",
                color=ink.quiet,
                size=8,
            )
        figure.suptitle(self.title, fontsize=9, color=ink.strong)
        return self


def _title(name, distances, real_distances):
    generated, real = np.median(distances), np.median(real_distances)
    return (
        f"{name}: median distance to the nearest image of X\n"
        f"of generated images {generated:.3f}, of those in X {real:.3f}"
    )


def _nearest(estimator, queries, X, rows=None):
    """Distance to the nearest image of X and its row; of rows of X: another one."""
    scaling = copy.deepcopy(estimator.net_.module_.scaling).cpu()
    query, _ = as_images(estimator, queries, layout=estimator.layout_)
    images, _ = as_images(estimator, X, layout=estimator.layout_)
    wanted = torch.arange(len(query)) if rows is None else torch.as_tensor(rows)
    q = scaling(query[wanted][0]).flatten(1)
    best = torch.full((len(q),), torch.inf)
    index, start = torch.zeros(len(q), dtype=torch.int64), 0
    for raw in images.chunks():
        # by differences: by products, a copy would have some distance
        distance = torch.cdist(
            q,
            scaling(raw).flatten(1),
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        if rows is not None:
            own = torch.arange(start, start + len(raw))
            distance = distance.masked_fill(wanted[:, None] == own, torch.inf)
        value, at = distance.min(1)
        index = torch.where(value < best, start + at, index)
        best = torch.minimum(best, value)
        start += len(raw)
    return best.double().numpy() / q.shape[1] ** 0.5, index.numpy()
