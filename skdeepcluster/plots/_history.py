"""The course of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ._style import LINE, draw_axes, inks, last_step, pyplot

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure


class HistoryDisplay:
    """The course of the training: losses, cluster sizes, learning rate by epoch.

    Make it with :meth:`from_estimator`; the parameters are stored as attributes.

    Parameters
    ----------
    history : list of dicts
        One row an epoch. Shown are the numbers whose names begin with ``loss`` or
        ``lr``, and ``cluster_sizes``; a name may be missing from some of the rows.
        Epochs are numbered by ``epoch``, or from 1 if that does not increase.
    title : str, default=""
        The heading.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
        Where it was plotted.
    axes_ : ndarray of shape (n_panels,) of matplotlib Axes
        One for each name, which is its title.

    See Also
    --------
    ClusterSheetDisplay : What is in the clusters.

    Examples
    --------
    >>> from skdeepcluster.plots import HistoryDisplay
    >>> history = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.5}]
    >>> display = HistoryDisplay(history=history).plot()
    >>> [ax.get_title(loc="left") for ax in display.axes_]
    ['loss']
    """

    def __init__(self, *, history: Sequence[dict[str, Any]], title: str = "") -> None:
        self.history = history
        self.title = title

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        n_columns: int = 3,
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> HistoryDisplay:
        """Plot the history of a fitted estimator.

        Parameters
        ----------
        estimator : fitted clusterer or pipeline
            With ``history_``.
        n_columns : int, default=3
            See :meth:`plot`.
        figure : matplotlib Figure or SubFigure, optional
            See :meth:`plot`.
        figsize : (float, float), optional
            See :meth:`plot`.

        Returns
        -------
        display : HistoryDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If the estimator keeps no history.
        ValueError
            If there is nothing to show in it.
        """
        pyplot(f"{cls.__name__}.from_estimator")
        check_is_fitted(estimator)
        clusterer = last_step(estimator)
        name = type(clusterer).__name__
        if not hasattr(clusterer, "history_"):
            raise TypeError(
                f"{name} has no history_. Pass a fitted estimator of skdeepcluster."
            )
        display = cls(history=clusterer.history_, title=f"{name}: training")
        return display.plot(n_columns=n_columns, figure=figure, figsize=figsize)

    def plot(
        self,
        *,
        n_columns: int = 3,
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> HistoryDisplay:
        """Plot one panel for each name.

        Parameters
        ----------
        n_columns : int, default=3
            Panels side by side.
        figure : matplotlib Figure or SubFigure, optional
            Where to plot; a new figure by default.
        figsize : (float, float), optional
            Width and height of a new figure in inches.

        Returns
        -------
        display : HistoryDisplay
            Itself, with ``figure_`` and ``axes_``.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the history is empty, holds none of the names, or ``n_columns`` is less
            than 1.
        """
        plt = pyplot(f"{type(self).__name__}.plot")
        from matplotlib.ticker import MaxNLocator

        if n_columns < 1:
            raise ValueError(f"n_columns={n_columns!r} should be at least 1.")
        names = shown_names(self.history)
        if not names:
            raise ValueError(
                f"Nothing to show in a history of {len(self.history)} epochs: expected "
                "rows with numbers named loss..., lr... or cluster_sizes."
            )
        epochs = epochs_of(self.history)
        n_columns = min(n_columns, len(names))
        n_rows = -(-len(names) // n_columns)
        if figure is None:
            size = figsize or (3.2 * n_columns, 2.1 * n_rows + 0.4)
            figure = plt.figure(figsize=size, layout="constrained")
        grid = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True)
        axes = grid.ravel()
        for ax in axes[len(names) :]:
            ax.remove()
        self.figure_, self.axes_ = figure, axes[: len(names)]
        ink = inks(figure)
        # a line through few epochs, or through one, would not be seen
        marks = {"marker": "o", "markersize": 3} if len(epochs) <= 20 else {}
        for position, (name, ax) in enumerate(zip(names, self.axes_, strict=True)):
            if name == "cluster_sizes":
                self._draw_sizes(ax, epochs, marks, ink)
            else:
                values = [number_of(row.get(name)) for row in self.history]
                ax.plot(epochs, values, color=LINE, lw=1.5, **marks)
            ax.set_title(name, fontsize=9, color=ink.strong, loc="left")
            draw_axes(ax, ink)
            ax.xaxis.set_major_locator(
                MaxNLocator(5, steps=[1, 2, 5, 10], integer=True)
            )
            if position + n_columns >= len(names):  # nothing is below it
                ax.set_xlabel("epoch", fontsize=8, color=ink.quiet)
                ax.tick_params(labelbottom=True)
        if len(epochs) == 1:
            self.axes_[0].set_xlim(epochs[0] - 1, epochs[0] + 1)
        figure.suptitle(self.title, fontsize=10, color=ink.strong)
        return self

    def _draw_sizes(self, ax, epochs, marks, ink):
        kept = [(e, sizes_of(row)) for e, row in zip(epochs, self.history, strict=True)]
        kept = [(e, sizes) for e, sizes in kept if sizes is not None]
        at = [e for e, _ in kept]
        low, middle, high = zip(
            *((s.min(), np.median(s), s.max()) for _, s in kept), strict=True
        )
        ax.fill_between(at, low, high, color=LINE, alpha=0.15, lw=0)
        for values, label, style in (
            (high, "largest", ":"),
            (middle, "median", "-"),
            (low, "smallest", "--"),
        ):
            ax.plot(at, values, style, color=LINE, lw=1.2, label=label, **marks)
        ax.set_ylim(0, 1.25 * max(high))  # room for the legend above the lines
        ax.legend(
            fontsize=7, frameon=False, labelcolor=ink.quiet, loc="upper center", ncols=3
        )


def shown_names(history):
    """Return what a history has to show: losses, the sizes, the learning rates."""
    seen = dict.fromkeys(key for row in history for key in row)

    def is_shown(key):
        return any(np.isfinite(number_of(row.get(key))) for row in history)

    losses = sorted(
        (k for k in seen if k.startswith("loss") and is_shown(k)),
        key=lambda k: k != "loss",
    )
    rates = [k for k in seen if k.startswith("lr") and is_shown(k)]
    has_sizes = any(sizes_of(row) is not None for row in history)
    return [*losses, *(["cluster_sizes"] if has_sizes else []), *rates]


def epochs_of(history):
    """Return the numbers of the epochs; from 1 where they do not increase."""
    epochs = np.array([row.get("epoch", np.nan) for row in history], float)
    if not (np.diff(epochs) > 0).all() or np.isnan(epochs).any():
        return np.arange(1, len(history) + 1)
    return epochs


def number_of(value):
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan


def sizes_of(row):
    sizes = row.get("cluster_sizes")
    return np.asarray(sizes) if sizes is not None and len(sizes) else None
