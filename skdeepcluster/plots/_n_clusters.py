"""What speaks for each number of clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from ._style import LINE, draw_axes, inks, pyplot

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

PANELS = {
    "silhouette": "silhouette (filled: candidates)",
    "stability": "stability: do two halves agree?",
    "generalization": "generalization: do neighbours predict?",
    "smallest": "share of the smallest cluster",
}


class NClustersDisplay:
    """Curves of the evidence over the number of clusters, and what was chosen.

    A dashed line marks the number that was chosen. The candidates are filled in the
    curve of the silhouette; numbers that are too unstable to be chosen are hollow. The
    band around the stability is one standard deviation over the splits.

    Make it with :meth:`from_search` or :meth:`from_estimator`; the parameters are
    stored as attributes.

    Parameters
    ----------
    results : dict of ndarrays of shape (n_candidates,)
        ``results_`` of a search: ``n_clusters``, ``silhouette``, ``stability``,
        ``stability_std``, ``generalization`` and ``smallest``.
    chosen : int
        The number that was chosen.
    candidates : sequence of int, default=()
        Numbers that are about as good.
    title : str, default=""
        The heading.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
        Where it was plotted.
    axes_ : ndarray of shape (4,) of matplotlib Axes
        Silhouette, stability, generalization, and size of the smallest cluster.

    See Also
    --------
    skdeepcluster.model_selection.NClustersSearch : What gathers the evidence.
    DendrogramDisplay : Many clusters and how they merge.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import make_blobs
    >>> from skdeepcluster.model_selection import select_n_clusters
    >>> from skdeepcluster.plots import NClustersDisplay
    >>> X, _ = make_blobs(200, centers=[[0, 0], [6, 0], [0, 6]], random_state=0)
    >>> search = select_n_clusters(KMeans(random_state=0), X, random_state=0)
    >>> display = NClustersDisplay.from_search(search)
    >>> display.title
    'KMeans: 3 clusters, confidence high'
    """

    def __init__(
        self,
        *,
        results: dict[str, NDArray[Any]],
        chosen: int,
        candidates: Sequence[int] = (),
        title: str = "",
    ) -> None:
        self.results = results
        self.chosen = chosen
        self.candidates = candidates
        self.title = title

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        n_clusters: Sequence[int] | Literal["auto"] = "auto",
        *,
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
        **options: Any,
    ) -> NClustersDisplay:
        """Search for the number of clusters of X, and plot.

        To keep the search, fit it first and pass it to :meth:`from_search`.

        Parameters
        ----------
        estimator : clusterer
            Whatever :class:`~skdeepcluster.model_selection.NClustersSearch` takes.
        X : array-like or list of paths
            Whatever the estimator takes.
        n_clusters : range or list of int or "auto", default="auto"
            Numbers of clusters to try. ``"auto"`` is ``range(2, 16)``, or as far as the
            samples reach: to half of them.
        figure : matplotlib Figure or SubFigure, optional
            See :meth:`plot`.
        figsize : (float, float), optional
            See :meth:`plot`.
        **options
            Further parameters of the search, such as ``random_state``.

        Returns
        -------
        display : NClustersDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            As for the search.
        """
        pyplot(f"{cls.__name__}.from_estimator")
        from ..model_selection import select_n_clusters

        search = select_n_clusters(estimator, X, n_clusters, **options)
        return cls.from_search(search, figure=figure, figsize=figsize)

    @classmethod
    def from_search(
        cls,
        search: Any,
        *,
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> NClustersDisplay:
        """Plot what a search has found.

        Parameters
        ----------
        search : NClustersSearch
            Fitted.
        figure : matplotlib Figure or SubFigure, optional
            See :meth:`plot`.
        figsize : (float, float), optional
            See :meth:`plot`.

        Returns
        -------
        display : NClustersDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        NotFittedError
            If the search is not fitted.
        TypeError
            If it is no search.
        """
        pyplot(f"{cls.__name__}.from_search")
        from ..model_selection import NClustersSearch

        if not isinstance(search, NClustersSearch):
            raise TypeError(
                f"{type(search).__name__} is no search for the number of clusters. "
                "Pass what select_n_clusters returns, or call from_estimator."
            )
        check_is_fitted(search)
        estimator = search.estimator
        last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
        return cls(
            results=search.results_,
            chosen=search.n_clusters_,
            candidates=search.candidates_,
            title=f"{type(last).__name__}: {search.n_clusters_} clusters, "
            f"confidence {search.confidence_}",
        ).plot(figure=figure, figsize=figsize)

    def plot(
        self,
        *,
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> NClustersDisplay:
        """Plot the curves.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, optional
            Where to plot; a new figure by default.
        figsize : (float, float), optional
            Width and height of a new figure in inches.

        Returns
        -------
        display : NClustersDisplay
            Itself, with ``figure_`` and ``axes_``.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        plt = pyplot(f"{type(self).__name__}.plot")
        from matplotlib.ticker import MaxNLocator

        from ..model_selection._choice import stable_ones

        if figure is None:
            figure = plt.figure(figsize=figsize or (7, 4.4), layout="constrained")
        axes = figure.subplots(2, 2, sharex=True).ravel()
        self.figure_, self.axes_ = figure, axes
        ink = inks(figure)
        numbers = np.asarray(self.results["n_clusters"])
        stable = stable_ones(self.results["stability"])
        for ax, (name, title) in zip(axes, PANELS.items(), strict=True):
            values = self.results[name]
            ax.axvline(self.chosen, color=ink.strong, linestyle="--", lw=1, zorder=1)
            ax.plot(numbers, values, color=LINE, lw=1.5, zorder=2)
            filled = (
                np.isin(numbers, self.candidates) if name == "silhouette" else stable
            )
            faces = [LINE if one else ink.paper for one in filled]
            edges = [LINE if one else ink.quiet for one in stable]
            ax.scatter(numbers, values, s=20, c=faces, edgecolors=edges, zorder=3)
            ax.set_title(title, fontsize=9, color=ink.strong, loc="left")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            draw_axes(ax, ink)
        mean, spread = self.results["stability"], self.results["stability_std"]
        axes[1].fill_between(
            numbers, mean - spread, mean + spread, color=LINE, alpha=0.15, lw=0
        )
        for ax in axes[1:3]:
            ax.set_ylim(min(0, ax.get_ylim()[0]), 1.05)
        axes[3].set_ylim(bottom=0)
        for ax in axes[2:]:
            ax.set_xlabel("number of clusters", fontsize=8, color=ink.quiet)
        figure.suptitle(self.title, fontsize=10, color=ink.strong)
        return self
