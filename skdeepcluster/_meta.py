"""What clusterers around another clusterer share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from sklearn.base import ClusterMixin, MetaEstimatorMixin
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ._parameters import Declared


def can(name):
    """Whether the clusterer within, fitted or not, has a method."""

    def check(self):
        getattr(getattr(self, "estimator_", self.estimator), name)  # or its own error
        return True

    return available_if(check)


class MetaClusterer(MetaEstimatorMixin, ClusterMixin, Declared):
    """Base of a clusterer around another one, which is ``estimator_`` once fitted.

    Attributes
    ----------
    n_features_in_, feature_names_in_ : int, ndarray of str
        Those of ``estimator_``, if it has them.
    image_shape_, layout_ : tuple (C, H, W), Layout
        Those of ``estimator_``, if it has them, by which displays show images.
    """

    if TYPE_CHECKING:  # no parameters: those are annotated fields of subclasses
        estimator: Any
        estimator_: Any

        def fit(self, X: Any, y: Any = None) -> Self: ...

    @can("transform")
    def transform(self, X):
        """Embed samples, as the clusterer does; it needs a ``transform``.

        Parameters
        ----------
        X : array-like or list of paths
            Whatever the clusterer takes.

        Returns
        -------
        embedding : ndarray of shape (n, d)

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        check_is_fitted(self)
        return self.estimator_.transform(X)

    @can("transform")
    def fit_transform(self, X, y=None):
        """Fit, and embed the same samples; it needs a ``transform``.

        Parameters
        ----------
        X : array-like or list of paths
            Whatever the clusterer takes.
        y : array-like, default=None
            Handed on to the clusterer.

        Returns
        -------
        embedding : ndarray of shape (n, d)
        """
        return self.fit(X, y).transform(X)

    @can("set_output")
    def set_output(self, *, transform=None):
        """Choose what :meth:`transform` returns, as that of the clusterer does.

        As in a :class:`~sklearn.pipeline.Pipeline`, it is set for the clusterer within,
        ``estimator``, and for the fitted one.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None, default=None
            Array, or data frame; None changes nothing.

        Returns
        -------
        self : object
        """
        self.estimator.set_output(transform=transform)
        if hasattr(self, "estimator_"):
            self.estimator_.set_output(transform=transform)
        return self

    @can("score")
    def score(self, X, y=None):
        """Score the clusterer by its own ``score``, on all samples.

        Parameters
        ----------
        X : array-like or list of paths
            Whatever the clusterer takes.
        y : array-like, default=None
            Handed on to the clusterer.

        Returns
        -------
        score : float

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        check_is_fitted(self)
        return self.estimator_.score(X, y)

    @can("get_feature_names_out")
    def get_feature_names_out(self, input_features=None):
        """Name the columns of :meth:`transform`, as the clusterer does.

        Parameters
        ----------
        input_features : array-like of str or None, default=None

        Returns
        -------
        names : ndarray of str objects

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        check_is_fitted(self)
        return self.estimator_.get_feature_names_out(input_features)

    @property
    def n_features_in_(self):
        check_is_fitted(self)
        return self.estimator_.n_features_in_

    @property
    def feature_names_in_(self):
        check_is_fitted(self)
        return self.estimator_.feature_names_in_

    @property
    def image_shape_(self):
        check_is_fitted(self)
        return self.estimator_.image_shape_

    @property
    def layout_(self):
        check_is_fitted(self)
        return self.estimator_.layout_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        tags.input_tags = inner.input_tags
        tags.transformer_tags = inner.transformer_tags
        tags.non_deterministic = inner.non_deterministic
        return tags
