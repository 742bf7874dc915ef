"""One facet of a fitted MFCVAE as an estimator of its own."""

from __future__ import annotations

from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin


class FacetView(ClusterMixin, TransformerMixin, BaseEstimator):
    """One facet of a fitted :class:`~skdeepcluster.MFCVAE`, as a frozen estimator.

    Made by :meth:`MFCVAE.facet <skdeepcluster.MFCVAE.facet>`. ``fit`` does nothing and
    ``clone`` returns the view itself, so that it can stand in a Pipeline that is
    fitted, or searched over, behind it.

    Parameters
    ----------
    estimator : MFCVAE
        Fitted.
    number : int
        Of the facet, from 0.

    Attributes
    ----------
    labels_ : ndarray of shape (n,), int64
        Of the training data.
    cluster_centers_ : ndarray of shape (n_clusters, d)
        Means of the facet's mixture.
    """

    def __init__(self, estimator, number):
        self.estimator = estimator
        self.number = number

    def __sklearn_is_fitted__(self):
        return True

    def __sklearn_clone__(self):
        return self

    @property
    def labels_(self):
        return self.estimator.facet_labels_[:, self.number]

    @property
    def cluster_centers_(self):
        return self.estimator.means_[self.number]

    @property
    def n_features_in_(self):
        """Values of an image."""
        return self.estimator.n_features_in_

    def fit(self, X, y=None):
        """Do nothing: the facet is fitted.

        Parameters
        ----------
        X, y : ignored

        Returns
        -------
        self : FacetView
        """
        return self

    def fit_predict(self, X, y=None, **kwargs):
        """As :meth:`predict`.

        Parameters
        ----------
        X : array-like or list of paths
        y, **kwargs : ignored

        Returns
        -------
        labels : ndarray of shape (n,), int64
        """
        return self.predict(X)

    def predict(self, X):
        """Assign images to the clusters of this facet.

        Parameters
        ----------
        X : array-like or list of paths

        Returns
        -------
        labels : ndarray of shape (n,), int64
        """
        return self.estimator.predict(X, facet=self.number)

    def predict_proba(self, X):
        """Give the probability of each cluster of this facet.

        Parameters
        ----------
        X : array-like or list of paths

        Returns
        -------
        proba : ndarray of shape (n, n_clusters), float32
        """
        return self.estimator.predict_proba(X, facet=self.number)

    def transform(self, X):
        """Embed images in this facet.

        Parameters
        ----------
        X : array-like or list of paths

        Returns
        -------
        embedding : ndarray of shape (n, d), float32
        """
        embedding = self.estimator.transform(X)
        return embedding[:, self.estimator.facet_slices_[self.number]]

    def get_feature_names_out(self, input_features=None):
        """Name the columns of :meth:`transform`.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        names : ndarray of str objects
        """
        names = self.estimator.get_feature_names_out()
        return names[self.estimator.facet_slices_[self.number]]
