"""Whether confidences are what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from ..metrics._clustering import mean_gap, reliability
from ..metrics._scorers import with_probabilities
from ._style import LINE, draw_axes, inks, last_step, pyplot

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure


class ReliabilityDisplay:
    """Reliability diagram: accuracy beside confidence, in bins of confidence.

    Bars that reach the diagonal say that of samples with a confidence of, say, 80 %
    four of five are in the right cluster; below it the clustering is too sure of
    itself. Clusters are matched to classes as for
    :func:`~skdeepcluster.metrics.expected_calibration_error`, so that some labels are
    needed. Below the bars are the shares of the samples.

    Make it with :meth:`from_estimator` or :meth:`from_predictions`; the parameters are
    stored as attributes.

    Parameters
    ----------
    sizes : ndarray of shape (n_bins,), int64
        Samples in each of the equally wide bins of confidence on (0, 1].
    accuracies : ndarray of shape (n_bins,), float64
        Share of them that is in the cluster of its class; NaN in an empty bin.
    confidences : ndarray of shape (n_bins,), float64
        Mean of their largest probabilities; NaN in an empty bin.
    ece : float
        Expected calibration error.
    title : str, default=""
        The heading.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
        Where it was plotted.
    axes_ : ndarray of shape (2,) of matplotlib Axes
        The accuracies, and the shares of the samples.

    See Also
    --------
    skdeepcluster.SelectiveClusterer : Leave out what is uncertain.
    sklearn.calibration.CalibrationDisplay : That of a binary classifier.

    References
    ----------
    A. Niculescu-Mizil and R. Caruana, *Predicting good probabilities with supervised
    learning*, ICML 2005.

    Examples
    --------
    >>> from skdeepcluster.plots import ReliabilityDisplay
    >>> proba = [[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.25, 0.75]]
    >>> display = ReliabilityDisplay.from_predictions(["a", "a", "b", "b"], proba)
    >>> display.ece
    0.25
    """

    def __init__(
        self,
        *,
        sizes: NDArray[np.int64],
        accuracies: NDArray[np.float64],
        confidences: NDArray[np.float64],
        ece: float,
        title: str = "",
    ) -> None:
        self.sizes = sizes
        self.accuracies = accuracies
        self.confidences = confidences
        self.ece = ece
        self.title = title

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        n_bins: int = 15,
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> ReliabilityDisplay:
        """Predict the probabilities of X, compare them with y, and plot.

        Parameters
        ----------
        estimator : fitted clusterer or pipeline
            With ``predict_proba``.
        X : array-like, tensor or list of paths of length n_samples
            Whatever the estimator takes.
        y : array-like of shape (n_samples,)
            The classes.
        n_bins : int, default=15
            Bins of confidence.
        figure : matplotlib Figure or SubFigure, optional
            See :meth:`plot`.
        figsize : (float, float), optional
            See :meth:`plot`.

        Returns
        -------
        display : ReliabilityDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If the estimator has no ``predict_proba``.
        ValueError
            As for :meth:`from_predictions`.
        """
        pyplot(f"{cls.__name__}.from_estimator")
        check_is_fitted(estimator)
        name = type(last_step(estimator)).__name__
        if not hasattr(estimator, "predict_proba"):
            raise TypeError(
                f"{name} has no predict_proba, which says how certain it is. Pass an "
                "estimator of skdeepcluster, or a GaussianMixture."
            )
        y, proba = with_probabilities(y, estimator, X)
        return cls.from_predictions(
            y, proba, n_bins=n_bins, name=name, figure=figure, figsize=figsize
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        proba: ArrayLike,
        *,
        n_bins: int = 15,
        name: str | None = None,
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> ReliabilityDisplay:
        """Compare probabilities with classes, and plot.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            The classes; integers, strings or any type that can be sorted.
        proba : array-like of shape (n_samples, n_clusters)
            Probabilities, as ``predict_proba`` returns them.
        n_bins : int, default=15
            Bins of confidence.
        name : str, optional
            What the heading calls the clusterer.
        figure : matplotlib Figure or SubFigure, optional
            See :meth:`plot`.
        figsize : (float, float), optional
            See :meth:`plot`.

        Returns
        -------
        display : ReliabilityDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the input is empty, of unequal length, or holds no probabilities, or
            ``n_bins`` is no positive integer.
        """
        pyplot(f"{cls.__name__}.from_predictions")
        sizes, correct, confidence = reliability(y_true, proba, n_bins)
        ece = mean_gap(sizes, correct, confidence)
        filled = np.where(sizes > 0, sizes, np.nan)
        of = f"{name}: " if name else ""
        display = cls(
            sizes=sizes,
            accuracies=correct / filled,
            confidences=confidence / filled,
            ece=ece,
            title=f"{of}ECE {ece:.3f}",
        )
        return display.plot(figure=figure, figsize=figsize)

    def plot(
        self,
        *,
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> ReliabilityDisplay:
        """Plot the bars.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, optional
            Where to plot; a new figure by default.
        figsize : (float, float), optional
            Width and height of a new figure in inches.

        Returns
        -------
        display : ReliabilityDisplay
            Itself, with ``figure_`` and ``axes_``.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        plt = pyplot(f"{type(self).__name__}.plot")
        if figure is None:
            figure = plt.figure(figsize=figsize or (3.6, 4.4), layout="constrained")
        heights = {"height_ratios": (3, 1)}
        axes = figure.subplots(2, 1, sharex=True, gridspec_kw=heights)
        self.figure_, self.axes_ = figure, axes
        bars, shares = axes
        ink = inks(figure)
        left = np.arange(len(self.sizes)) / len(self.sizes)
        style = {"width": 1 / len(left), "align": "edge", "edgecolor": ink.paper}
        bars.bar(left, np.nan_to_num(self.accuracies), color=LINE, **style)
        # dots at the mean confidence of a bin: the diagonal is what they should meet
        bars.plot(
            self.confidences, self.accuracies, ".", color=ink.strong, markersize=4
        )
        bars.plot((0, 1), (0, 1), "--", color=ink.quiet, lw=1)
        bars.set(xlim=(0, 1), ylim=(0, 1))
        bars.set_ylabel("accuracy", fontsize=8, color=ink.quiet)
        shares.bar(left, self.sizes / max(1, self.sizes.sum()), color=ink.pale, **style)
        shares.set_ylabel("share", fontsize=8, color=ink.quiet)
        shares.set_xlabel("confidence", fontsize=8, color=ink.quiet)
        for ax in axes:
            draw_axes(ax, ink)
        figure.suptitle(self.title, fontsize=10, color=ink.strong)
        return self
