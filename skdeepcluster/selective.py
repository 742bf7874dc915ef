"""Predictions that leave out what is uncertain."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any

import numpy as np
from sklearn.base import _fit_context, clone
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.validation import check_is_fitted

from ._meta import MetaClusterer
from ._parameters import Share

Clusterer = Annotated[Any, HasMethods(["fit", "predict_proba"]), "clusterer"]


class SelectiveClusterer(MetaClusterer):
    """Clusterer with a reject option: samples that it is not certain of have label -1.

    The confidence of a sample is its largest probability. Where that is below the
    threshold, ``predict`` and ``labels_`` are -1, as of noise in DBSCAN; a person, or
    another method, may look at these. The rule is optimal if the probabilities are
    those of the classes (Chow, 1970): look at them with a
    :class:`~skdeepcluster.plots.ReliabilityDisplay` if you have some labels.

    Any clusterer of scikit-learn's kind with ``predict_proba`` can be used, a
    :class:`~sklearn.mixture.GaussianMixture` or a pipeline as well.

    Parameters
    ----------
    estimator
        Clusterer with ``predict_proba``, whose columns are the labels. It is cloned.
    threshold
        Lowest confidence of a sample that keeps its label. With 0 all do. It has no
        effect if ``coverage`` is a number.
    coverage
        Share of the training samples that keep their labels: the threshold is then the
        confidence of the least certain one of these, in place of ``threshold``. Samples
        of equal confidence are kept together. None goes by ``threshold``.

    Attributes
    ----------
    estimator_ : object
        The fitted clusterer.
    labels_ : ndarray of shape (n,), int64
        Cluster of each sample; -1 where it is uncertain, or was left out.
    threshold_ : float
        Lowest confidence of a sample that keeps its label.
    coverage_ : float
        Share of the training samples with a label.

    See Also
    --------
    skdeepcluster.metrics.expected_calibration_error : Whether confidences are true.

    References
    ----------
    C. K. Chow, *On optimum recognition error and reject tradeoff*, IEEE Transactions on
    Information Theory, 1970.

    Ran El-Yaniv and Yair Wiener, *On the foundations of noise-free selective
    classification*, JMLR, 2010.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from sklearn.mixture import GaussianMixture
    >>> from skdeepcluster import SelectiveClusterer
    >>> X, _ = make_blobs(200, centers=3, cluster_std=2.0, random_state=0)
    >>> mixture = GaussianMixture(3, random_state=0)
    >>> model = SelectiveClusterer(mixture, coverage=0.9).fit(X)
    >>> int((model.labels_ == -1).sum())
    20
    """

    estimator: Clusterer = field(kw_only=False)
    threshold: Share = 0.5
    coverage: Share | None = None

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None):
        """Fit the clusterer, and set the threshold.

        Parameters
        ----------
        X : array-like or list of paths
            Whatever the clusterer takes.
        y : ignored by clusterers
            Handed on to the clusterer.

        Returns
        -------
        self : SelectiveClusterer
        """
        self.estimator_ = clone(self.estimator).fit(X, y)
        proba = self.estimator_.predict_proba(X)
        confidence = np.sort(proba.max(axis=1))  # NaN, of rows left out, comes last
        confidence = confidence[~np.isnan(confidence)][::-1]
        self.threshold_ = float(self.threshold)
        if self.coverage is not None:
            n_kept = round(self.coverage * len(confidence))
            # nothing is above infinity
            self.threshold_ = float(confidence[n_kept - 1]) if n_kept else np.inf
        self.labels_ = self._labels(proba)
        self.coverage_ = float(np.mean(self.labels_ != -1))
        return self

    def _labels(self, proba):
        certain = proba.max(axis=1) >= self.threshold_  # False for NaN
        return np.where(certain, proba.argmax(axis=1), -1).astype(np.int64)

    def predict(self, X):
        """Assign samples to clusters, or to none.

        Parameters
        ----------
        X : array-like or list of paths
            Whatever the clusterer takes.

        Returns
        -------
        labels : ndarray of shape (n,), int64
            -1 where the largest probability is below ``threshold_``.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        return self._labels(self.predict_proba(X))

    def predict_proba(self, X):
        """Give the probability of each cluster, as the clusterer does.

        Parameters
        ----------
        X : array-like or list of paths
            Whatever the clusterer takes.

        Returns
        -------
        proba : ndarray of shape (n, n_clusters)

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        check_is_fitted(self)
        return self.estimator_.predict_proba(X)
