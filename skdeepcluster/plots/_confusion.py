"""Two clusterings of the same samples, or clusters and classes, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from ..metrics._clustering import _check_labels, _contingency
from ._style import LINE, background, inks, is_dark, pyplot

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

WIDE, NARROW = 0.56, 0.3  # inches of a cell: of few, and of many
FEW = 12  # rows and columns up to which shares are written below the counts


class ConfusionDisplay:
    """Table of two clusterings, or of classes and clusters, of the same samples.

    A cell has the number of samples that are in its row and in its column; its colour
    is the share of the row. Labels that are matched with each other meet on the
    diagonal: of all one-to-one matchings it is the one with the most samples, as for
    :func:`~skdeepcluster.metrics.clustering_accuracy`. Labels that are left over, where
    there are more rows than columns or the other way round, come last.

    Make it with :meth:`from_labels`; the parameters are stored as attributes.

    Parameters
    ----------
    table : ndarray of shape (n_rows, n_columns), int64
        Samples of each pair, in the order shown.
    rows, columns : ndarrays of shape (n_rows,) and (n_columns,)
        The labels, in the order shown.
    names : (str, str), default=("rows", "columns")
        What the rows are, and the columns.
    title : str, default=""
        The heading.

    Attributes
    ----------
    accuracy : float
        Share of the samples on the diagonal.
    figure_ : matplotlib Figure or SubFigure
        Where it was plotted.
    ax_ : matplotlib Axes
        The table.

    See Also
    --------
    sklearn.metrics.ConfusionMatrixDisplay : The same for labels of a classifier, which
        need no matching.

    Examples
    --------
    >>> from skdeepcluster.plots import ConfusionDisplay
    >>> display = ConfusionDisplay.from_labels(["a", "a", "b", "b"], [1, 1, 0, 1])
    >>> display.columns
    array([1, 0])
    >>> display.table
    array([[2, 0],
           [1, 1]])
    """

    def __init__(
        self,
        *,
        table: NDArray[np.int64],
        rows: NDArray,
        columns: NDArray,
        names: tuple[str, str] = ("rows", "columns"),
        title: str = "",
    ) -> None:
        self.table = table
        self.rows = rows
        self.columns = columns
        self.names = names
        self.title = title

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.table) / self.table.sum())

    @classmethod
    def from_labels(
        cls,
        labels_a: ArrayLike,
        labels_b: ArrayLike,
        *,
        names: tuple[str, str] = ("first", "second"),
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> ConfusionDisplay:
        """Count the samples of each pair of labels, match the labels, and plot.

        Parameters
        ----------
        labels_a : array-like of shape (n_samples,)
            Labels of the rows, such as classes; of any type that can be sorted. A
            label -1 is one like any other.
        labels_b : array-like of shape (n_samples,)
            Labels of the columns, such as clusters.
        names : (str, str), default=("first", "second")
            What the rows are, and the columns, such as ``("class", "cluster")``.
        figure : matplotlib Figure or SubFigure, optional
            See :meth:`plot`.
        figsize : (float, float), optional
            See :meth:`plot`.

        Returns
        -------
        display : ConfusionDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the labels are empty, of unequal length, or not one-dimensional, or
            ``names`` are not two.
        """
        pyplot(f"{cls.__name__}.from_labels")
        if isinstance(names, str) or len(names) != 2:
            raise ValueError(
                f"names={names!r} should be two: of the rows and of the columns. Pass "
                'for example ("class", "cluster").'
            )
        a, b = _check_labels(labels_a, "labels_a"), _check_labels(labels_b, "labels_b")
        table = _contingency(a, b)
        rows, columns = in_matched_order(table)
        display = cls(
            table=table[rows][:, columns],
            rows=np.unique(a)[rows],
            columns=np.unique(b)[columns],
            names=names,
        )
        display.title = (
            f"{len(a):,} samples, {display.accuracy:.1%} of them matched, "
            f"ARI {adjusted_rand_score(a, b):.2f}"
        )
        return display.plot(figure=figure, figsize=figsize)

    def plot(
        self,
        *,
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> ConfusionDisplay:
        """Plot the table.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, optional
            Where to plot; a new figure by default.
        figsize : (float, float), optional
            Width and height of a new figure in inches; by default as the table needs.

        Returns
        -------
        display : ConfusionDisplay
            Itself, with ``figure_`` and ``ax_``.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        plt = pyplot(f"{type(self).__name__}.plot")
        from matplotlib.colors import LinearSegmentedColormap, to_rgb

        n_rows, n_columns = self.table.shape
        few = max(n_rows, n_columns) <= FEW
        cell = WIDE if few else NARROW
        if figure is None:
            size = (max(4.4, n_columns * cell + 1.2), max(2.4, n_rows * cell + 1.2))
            figure = plt.figure(figsize=figsize or size, layout="constrained")
        quiet, strong, *_ = inks(figure)
        ax = figure.subplots()
        self.figure_, self.ax_ = figure, ax
        shares = self.table / np.maximum(self.table.sum(axis=1, keepdims=True), 1)
        ends = [background(figure), to_rgb(LINE)]
        colors = LinearSegmentedColormap.from_list("", ends)
        ax.imshow(shares, cmap=colors, vmin=0, vmax=1)
        for (i, j), count in np.ndenumerate(self.table):
            if count:
                text = brief(count)
                if few:
                    text += f"\n{shares[i, j]:.0%}"
                style: dict[str, Any] = {"size": 8 if few else 6, "linespacing": 1.1}
                ink = "0.95" if is_dark(colors(shares[i, j])) else "0.1"
                ax.text(j, i, text, ha="center", va="center", color=ink, **style)
        upright = few and max(len(str(label)) for label in self.columns) <= 6
        ax.set_xticks(range(n_columns), self.columns, rotation=0 if upright else 90)
        ax.set_yticks(range(n_rows), self.rows)
        ax.tick_params(labelsize=8 if few else 7, length=0, labelcolor=quiet)
        ax.set_xlabel(self.names[1], fontsize=9, color=quiet)
        ax.set_ylabel(self.names[0], fontsize=9, color=quiet)
        ax.set_xticks(np.arange(n_columns + 1) - 0.5, minor=True)
        ax.set_yticks(np.arange(n_rows + 1) - 0.5, minor=True)
        ax.grid(which="minor", color=quiet, lw=0.25)
        ax.tick_params(which="minor", length=0)
        ax.spines[:].set_visible(False)
        figure.suptitle(self.title, fontsize=10, color=strong)
        return self


def in_matched_order(table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order rows and columns: those matched with each other first, then the others.

    Parameters
    ----------
    table : ndarray of shape (n_rows, n_columns)

    Returns
    -------
    rows, columns : ndarrays of shape (n_rows,) and (n_columns,), int64
        The others follow the order of those that they have most in common with.
    """
    rows, columns = linear_sum_assignment(table, maximize=True)
    return _with_others(rows, table[:, columns]), _with_others(columns, table[rows].T)


def _with_others(matched, table):
    others = np.setdiff1d(np.arange(len(table)), matched)
    nearest = table[others].argmax(axis=1)
    return np.concatenate([matched, others[np.argsort(nearest, kind="stable")]])


def brief(count) -> str:
    """Write a count with four characters or so."""
    if count < 10_000:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 1e6 else f"{count / 1e6:.1f}M"
