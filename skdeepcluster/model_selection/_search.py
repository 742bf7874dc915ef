"""The number of clusters, chosen without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

import numpy as np
from sklearn.base import _fit_context, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_random_state, indexable
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.validation import _num_samples, check_is_fitted

from .._engine.randomness import make_seed
from .._input.paths import listed
from .._meta import MetaClusterer, can
from .._parameters import AtLeastTwo, Auto, Count, RandomState
from ..metrics._spaces import comparable_embedding
from ._asked import asked_numbers, learns, parts_of, possible_numbers
from ._choice import choose
from ._gathering import by_refits, fit_to, in_embedding, labels_of

Clusterer = Annotated[Any, HasMethods(["fit", "predict"]), "clusterer"]
Numbers = Annotated[
    Sequence[int], (range, list, tuple, np.ndarray), "range or list of int"
]


class NClustersSearch(MetaClusterer):
    """Clusterer that chooses its number of clusters, without labels.

    Each number is tried on all samples and on halves of them, and judged by evidence
    that is comparable between numbers: whether two halves of the data lead to the same
    clusters (*stability*), how compact and separate these are in one and the same
    reduced space (*silhouette*), whether neighbours predict the labels of samples
    that were held out (*generalization*), and the sizes. Chosen is the highest
    silhouette among the numbers with at least three quarters of the highest stability,
    or the smallest number within one per cent of it. Draw the curves with an
    :class:`~skdeepcluster.plots.NClustersDisplay`.

    The choice is a proposal: how often it was right is in the guide, :ref:`how-many`.

    Parameters
    ----------
    estimator
        Clusterer with ``predict`` and a parameter ``n_clusters`` or ``n_components``,
        or a pipeline that ends in one. It is cloned; the steps of a pipeline before
        the last one are fitted once, to all samples.
    n_clusters
        Numbers of clusters to try, from 2 to half the number of samples. Numbers above
        that of distinct samples are left out, with a warning. ``"auto"`` is
        ``range(2, 16)``, or as far as the samples reach. An int asks for that number
        alone: the evidence for it is gathered, and nothing is chosen.
    parameter
        Name of the parameter that takes the number, such as
        ``"estimator__n_clusters"`` if the estimator is wrapped in another one.
        ``"auto"`` finds ``n_clusters`` or ``n_components`` of the last step.
    strategy
        What is fitted again for each number: ``"refit"`` the estimator itself, to all
        samples and to each half; ``"embedding"`` only k-means, in an embedding that
        the estimator learns once, for the largest number. The estimator is then
        fitted to all samples for the number that was chosen. ``"auto"`` is
        ``"embedding"`` for estimators of this package, which take long to train, and
        else ``"refit"``.
    n_splits
        Random splits into two halves, for the stability and the generalization.
    max_samples
        Samples from which the evidence is gathered; of more, as many are drawn. What
        is chosen, and what learns an embedding, are fitted to all. None takes all.
    verbose
        Whether to write a line for each number.
    random_state
        Seed of the splits, and of the fits to halves.

    Attributes
    ----------
    n_clusters_ : int
        The number that was chosen. The estimator may leave some of them empty.
    confidence_ : {"high", "medium", "low"}
        How sure the choice is: "high" if it is stable and no other number comes near,
        "medium" if only the next numbers do, "low" otherwise, and if the last number
        that was tried is within one per cent of the highest silhouette.
    reason_ : str
        Sentences that say why.
    candidates_ : list of int
        Numbers whose silhouette is at least 95 % of the highest one, and that are
        stable; the chosen one is the first.
    results_ : dict of ndarrays of shape (n_candidates,)
        The curves: ``n_clusters``; ``stability`` and ``stability_std``, the mean
        adjusted Rand index of two halves, and its standard deviation over the splits;
        ``silhouette``; ``generalization``, the adjusted Rand index of what neighbours
        predict; ``smallest``, the share of the smallest cluster, 0 if one is empty;
        ``balance``, as of :func:`~skdeepcluster.metrics.cluster_balance`.
    space_ : ndarray of shape (n_read, d), d at most 16
        Where silhouettes and neighbours were measured.
    best_estimator_, estimator_ : object
        The estimator, fitted to all samples with the number that was chosen.
    labels_ : ndarray of shape (n,), int64
        Cluster of each sample; -1 for image files that were left out.
    n_features_in_, feature_names_in_ : int, ndarray of str
        Those of ``best_estimator_``, if it has them.

    See Also
    --------
    select_n_clusters : The same as a function.
    MergeTree : Many clusters that are merged step by step, to be looked at.

    References
    ----------
    Tilman Lange, Volker Roth, Mikio L. Braun and Joachim M. Buhmann,
    *Stability-based validation of clustering solutions*, Neural Computation, 2004.

    Robert Tibshirani and Guenther Walther, *Cluster validation by prediction strength*,
    Journal of Computational and Graphical Statistics, 2005.

    Peter J. Rousseeuw, *Silhouettes: a graphical aid to the interpretation and
    validation of cluster analysis*, Journal of Computational and Applied Mathematics,
    1987.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import make_blobs
    >>> from skdeepcluster.model_selection import NClustersSearch
    >>> X, _ = make_blobs(300, centers=4, cluster_std=0.6, random_state=0)
    >>> search = NClustersSearch(KMeans(n_init=5, random_state=0), range(2, 8))
    >>> search.set_params(random_state=0).fit(X).n_clusters_
    4
    >>> search.confidence_
    'high'
    """

    estimator: Clusterer = field(kw_only=False)
    n_clusters: Count | Numbers | Auto = field(default="auto", kw_only=False)
    parameter: str = "auto"
    strategy: Literal["auto", "embedding", "refit"] = "auto"
    n_splits: Count = 4
    max_samples: AtLeastTwo | None = 10_000
    verbose: bool = False
    random_state: RandomState = None

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None):
        """Gather the evidence, choose, and fit the estimator with what was chosen.

        Parameters
        ----------
        X : array-like or list of paths
            Whatever the estimator takes.
        y : ignored by clusterers
            Handed on to the estimator.

        Returns
        -------
        self : NClustersSearch

        Raises
        ------
        ValueError
            If a number of clusters is out of its range, above the number of distinct
            samples, or the estimator has no such parameter.
        """
        X = listed(X)
        seed = make_seed(self.random_state)
        n_samples = _num_samples(X)
        rows = None
        if self.max_samples is not None and n_samples > self.max_samples:
            rng = check_random_state(seed)
            rows = np.sort(rng.choice(n_samples, self.max_samples, replace=False))
        used = np.arange(n_samples) if rows is None else rows
        asked = asked_numbers(self.n_clusters, len(used))
        front, last, parameter = parts_of(self.estimator, self.parameter)
        Z = X if front is None else front.fit_transform(X, y)
        Z, y = indexable(Z, y)  # parts of them will be taken
        numbers = possible_numbers(asked, Z, used)
        models = {}
        if self.strategy == "embedding" or (self.strategy == "auto" and learns(last)):
            most = numbers[-1]
            models[most] = fit_to(last, parameter, most, Z, y)
            E = comparable_embedding(models[most], Z)
            found = in_embedding(E if rows is None else E[rows], numbers, self, seed)
        elif rows is None:
            found = by_refits(last, parameter, Z, y, numbers, self, seed)
            models = dict(zip(numbers, found.fitted, strict=True))
        else:
            some_y = None if y is None else _safe_indexing(y, rows)
            some_Z = _safe_indexing(Z, rows)
            found = by_refits(last, parameter, some_Z, some_y, numbers, self, seed)
        self.results_, self.space_ = found.results, found.space
        tried = self.results_["n_clusters"].tolist()
        choice = choose(self.results_, is_open=tried == asked)
        self.n_clusters_ = k = tried[choice.position]
        self.candidates_ = choice.candidates
        self.confidence_, self.reason_ = choice.confidence, choice.reason
        chosen = models[k] if k in models else fit_to(last, parameter, k, Z, y)
        self.labels_ = labels_of(chosen, Z)
        self.estimator_ = self.best_estimator_ = self._whole(front, chosen)
        return self

    def _whole(self, front, chosen):
        """Put the fitted steps before the fitted clusterer."""
        if not isinstance(self.estimator, Pipeline):
            return chosen
        whole = clone(self.estimator)
        before = front.steps if front is not None else []
        whole.steps = [*before, (whole.steps[-1][0], chosen)]
        return whole

    def predict(self, X):
        """Assign samples to clusters, as the best estimator does.

        Parameters
        ----------
        X : array-like or list of paths
            Whatever the estimator takes.

        Returns
        -------
        labels : ndarray of shape (n,), int64

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        check_is_fitted(self)
        return self.best_estimator_.predict(X)

    @can("predict_proba")
    def predict_proba(self, X):
        """Give the probability of each cluster; the estimator needs to give them.

        Parameters
        ----------
        X : array-like or list of paths
            Whatever the estimator takes.

        Returns
        -------
        proba : ndarray of shape (n, n_clusters)

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        check_is_fitted(self)
        return self.best_estimator_.predict_proba(X)


def select_n_clusters(
    estimator: Any,
    X: Any,
    n_clusters: Sequence[int] | int | Literal["auto"] = "auto",
    **options: Any,
) -> NClustersSearch:
    """Choose the number of clusters of X without labels.

    Parameters
    ----------
    estimator : clusterer
        With ``predict`` and a parameter ``n_clusters`` or ``n_components``, or a
        pipeline that ends in one. It is cloned.
    X : array-like or list of paths
        Whatever the estimator takes.
    n_clusters : range or list of int, int or "auto", default="auto"
        Numbers of clusters to try. ``"auto"`` is ``range(2, 16)``, or as far as the
        samples reach: to half of them.
    **options
        Further parameters of :class:`NClustersSearch`, such as ``random_state``.

    Returns
    -------
    search : NClustersSearch
        Fitted: ``n_clusters_``, ``confidence_``, ``reason_`` and ``candidates_`` say
        what was chosen, ``results_`` has the evidence, and ``labels_`` and ``predict``
        are of the estimator with the number that was chosen.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from sklearn.mixture import GaussianMixture
    >>> from skdeepcluster.model_selection import select_n_clusters
    >>> X, _ = make_blobs(300, centers=[[0, 0], [6, 0], [0, 6]], random_state=0)
    >>> mixture = GaussianMixture(random_state=0)
    >>> search = select_n_clusters(mixture, X, range(2, 7), random_state=0)
    >>> search.n_clusters_, search.candidates_
    (3, [3])
    """
    return NClustersSearch(estimator, n_clusters, **options).fit(X)
