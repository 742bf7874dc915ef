"""Several clusterings of one fit: a facet for each."""

from __future__ import annotations

from numbers import Integral

import numpy as np
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from .._calibration import probabilities, temperatures
from .._engine.guard import guarded
from .._estimator import DeepClusterer
from .._input.images import expand
from .collapse import FacetCollapseWarning
from .view import FacetView


def check_facet(facet, n_facets, name):
    """Return the number of a facet, from 0.

    Raises
    ------
    ValueError
        If there is none of that number; ``name`` says where it came from.
    """
    if not isinstance(facet, Integral) or not -n_facets <= facet < n_facets:
        raise ValueError(
            f"{name}={facet!r} should be an integer from {-n_facets} to "
            f"{n_facets - 1}: of {n_facets} facets (n_facets) 0 is the shallowest and "
            "-1 the deepest."
        )
    return int(facet) % n_facets


def columns(latent_dims):
    """Columns of each facet in an embedding, as slices."""
    ends = np.cumsum(latent_dims).tolist()
    return [slice(end - dim, end) for end, dim in zip(ends, latent_dims, strict=True)]


def components(prior, kept):
    """Weights, means and covariances of some clusters of a prior, as arrays."""
    found = prior.weights, prior.means, prior.covariances
    weights, means, covariances = (t.detach().cpu().numpy()[kept] for t in found)
    return weights / weights.sum(), means, covariances


class FacetClusterer(DeepClusterer):
    """Has a clustering for each facet; one of them is that of ``labels_``.

    The module of a method has ``facet_logits``, of all facets side by side, ``priors``,
    and the resolved parameters ``n_clusters``, ``latent_dims`` and ``primary_facet``.

    Attributes
    ----------
    labels_ : ndarray of shape (n,), int64
        Cluster of each sample in the primary facet, consecutive from 0.
    cluster_centers_ : ndarray of shape (n_clusters, d), float32
        Mean embedding, over all facets, of each cluster of the primary facet. Empty
        clusters are left out.
    cluster_sizes_ : ndarray of shape (n_clusters,), int64
        Samples of each cluster of the primary facet.
    facet_labels_ : ndarray of shape (n, n_facets), int64
        Cluster of each sample in every facet; each column is consecutive from 0.
    n_active_clusters_ : list of n_facets ints
        Clusters of each facet that are not empty.
    weights_, means_, covariances_ : lists of n_facets ndarrays, float32
        Mixture of each facet, of shapes (k,), (k, d) and (k, d, d), or (k, d) for
        ``"diag"``, as in :class:`~sklearn.mixture.GaussianMixture`; empty clusters are
        left out, and the weights of the others sum to 1.
    temperature_ : float
        That of the primary facet: see ``facet_temperatures_``.
    facet_temperatures_ : list of n_facets floats
        Number by which the logits of each facet are divided before their softmax is
        ``predict_proba``: 1 without calibration.
    facet_slices_ : list of n_facets slices
        Columns of each facet in what :meth:`transform` returns.
    """

    _per_sample = ("labels_", "facet_labels_")
    # an argument of ours, none that a meta-estimator should route
    __metadata_request__predict = {"facet": UNUSED}
    __metadata_request__predict_proba = {"facet": UNUSED}

    # -- what is fitted ----------------------------------------------------------------

    def _callbacks(self):
        return [FacetCollapseWarning()]

    def _state(self, net):
        p = net.module_.p
        return {
            **super()._state(net),
            "facet_slices_": columns(p.latent_dims),
            "_kept_facets": [np.arange(k) for k in p.n_clusters],
            "facet_temperatures_": [1.0] * len(p.n_clusters),
        }

    def _set_fitted(self, module, images):
        self.facet_slices_ = columns(module.p.latent_dims)
        labels = [logits.argmax(1) for logits in self._facet_logits(images)]
        found = [np.unique(column, return_inverse=True) for column in labels]
        kept, labels = zip(*found, strict=True)
        self._kept_facets = list(kept)
        self.facet_labels_ = np.stack(labels, axis=1)
        self.n_active_clusters_ = [len(clusters) for clusters in kept]
        mixtures = map(components, module.priors, kept)
        self.weights_, self.means_, self.covariances_ = map(
            list, zip(*mixtures, strict=True)
        )

    def _calibrate(self, images):
        module, kept = self.net_.module_, self._kept_facets
        starts = np.cumsum([0, *module.p.n_clusters[:-1]])
        own = [start + clusters for start, clusters in zip(starts, kept, strict=True)]
        self.facet_temperatures_ = temperatures(
            self.net_, images, module.facet_logits, own
        )
        self.temperature_ = self.facet_temperatures_[module.p.primary_facet]

    def _clusterings(self):
        asked = self.net_.module_.p.n_clusters
        pairs = zip(self.n_active_clusters_, asked, strict=True)
        return [(f"Facet {j}: ", *pair) for j, pair in enumerate(pairs)]

    # -- prediction --------------------------------------------------------------------

    def _facet_logits(self, images):
        """Logits (n, k) of each facet, of the clusters that are not empty."""
        module = self.net_.module_
        logits = self.net_.evaluate(images, module.facet_logits).cpu().numpy()
        parts = np.split(logits, np.cumsum(module.p.n_clusters)[:-1], axis=1)
        pairs = zip(parts, self._kept_facets, strict=True)
        return [part[:, kept] for part, kept in pairs]

    @guarded
    def predict_facets(self, X):
        """Assign images to clusters, once for each facet.

        Parameters
        ----------
        X : array-like or list of paths
            As for :meth:`transform`.

        Returns
        -------
        labels : ndarray of shape (n, n_facets), int64
            Equal to ``facet_labels_`` for the training data.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X does not hold images of the fitted shape.
        """
        images = self._read(X, skip=True)
        labels = [a.argmax(1) for a in self._facet_logits(images)]
        return expand(np.stack(labels, axis=1), images)

    @guarded
    def predict_proba_facets(self, X):
        """Give the probability of each cluster of each facet.

        Parameters
        ----------
        X : array-like or list of paths
            As for :meth:`transform`.

        Returns
        -------
        proba : list of n_facets ndarrays of shape (n, n_clusters), float32
            The optimal q(c|x) of each facet, with its logarithm divided by that one of
            ``facet_temperatures_`` and rows that sum to 1. Empty clusters have columns
            of 0, after the others.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X does not hold images of the fitted shape.
        """
        images = self._read(X, skip=True)
        logits, asked = self._facet_logits(images), self.net_.module_.p.n_clusters
        facets = zip(logits, asked, self.facet_temperatures_, strict=True)
        return [expand(probabilities(*facet), images) for facet in facets]

    @guarded
    def predict(self, X, facet=None):
        """Assign images to the clusters of one facet.

        Parameters
        ----------
        X : array-like or list of paths
            As for :meth:`transform`.
        facet : int, default=None
            None: ``primary_facet``.

        Returns
        -------
        labels : ndarray of shape (n,), int64
            Equal to ``labels_`` for the training data and the primary facet.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X does not hold images of the fitted shape, or there is no such facet.
        """
        images, facet = self._read(X, skip=True), self._check_facet(facet)
        return expand(self._facet_logits(images)[facet].argmax(1), images)

    @guarded
    def predict_proba(self, X, facet=None):
        """Give the probability of each cluster of one facet.

        Parameters
        ----------
        X : array-like or list of paths
            As for :meth:`transform`.
        facet : int, default=None
            None: ``primary_facet``.

        Returns
        -------
        proba : ndarray of shape (n, n_clusters), float32
            Rows sum to 1; the columns are the clusters of that facet's labels. Empty
            clusters have columns of 0, after the others.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X does not hold images of the fitted shape, or there is no such facet.
        """
        images, facet = self._read(X, skip=True), self._check_facet(facet)
        logits = self._facet_logits(images)[facet]
        asked = self.net_.module_.p.n_clusters[facet]
        temperature = self.facet_temperatures_[facet]
        return expand(probabilities(logits, asked, temperature), images)

    def get_feature_names_out(self, input_features=None):
        """Name the columns of :meth:`transform`: ``facet0_z0``, ``facet0_z1``, ...

        Parameters
        ----------
        input_features : ignored
            But checked, as every transformer does.

        Returns
        -------
        names : ndarray of str objects
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features, generate_names=False)
        names = [
            f"facet{j}_z{i}"
            for j, columns in enumerate(self.facet_slices_)
            for i in range(columns.stop - columns.start)
        ]
        return np.asarray(names, dtype=object)

    def facet(self, facet):
        """View one facet as an estimator of its own.

        Parameters
        ----------
        facet : int

        Returns
        -------
        view : FacetView
            Fitted: its ``predict``, ``predict_proba`` and ``transform`` are those of
            this facet, its ``fit`` does nothing.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If there is no such facet.
        """
        check_is_fitted(self)
        return FacetView(self, self._check_facet(facet))

    def _check_facet(self, facet):
        """Return the number of a facet, from 0; None is the primary one."""
        if facet is None:
            return self.net_.module_.p.primary_facet
        return check_facet(facet, len(self.facet_slices_), "facet")
