"""What a fitted MFCVAE draws, and its facets as estimators of their own."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from ._device import make_seed, seeded
from ._layouts import as_input
from ._net import INFERENCE_BATCH


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


class FacetMixin:
    """What MFCVAE does once it is fitted: several clusterings, and drawing."""

    # an argument of ours, none that a meta-estimator should route
    __metadata_request__predict = {"facet": UNUSED}
    __metadata_request__predict_proba = {"facet": UNUSED}

    # -- several clusterings -----------------------------------------------------------

    def _facet_logits(self, images):
        module = self.net_.module_
        logits = self.net_.evaluate(images, module.facet_logits).cpu().numpy()
        parts = np.split(logits, np.cumsum(module.n_clusters)[:-1], axis=1)
        pairs = zip(parts, self._kept_facets, strict=True)
        return [part[:, kept] for part, kept in pairs]

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
        logits = self._facet_logits(self._read(X))
        return np.stack([a.argmax(1) for a in logits], axis=1)

    def predict_proba_facets(self, X):
        """Give the probability of each cluster of each facet.

        Parameters
        ----------
        X : array-like or list of paths
            As for :meth:`transform`.

        Returns
        -------
        proba : list of n_facets ndarrays of shape (n, n_clusters), float32
            The optimal q(c|x) of each facet; rows sum to 1.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X does not hold images of the fitted shape.
        """
        logits = self._facet_logits(self._read(X))
        return [torch.from_numpy(a).softmax(1).numpy() for a in logits]

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
        images, facet = self._read(X), self._check_facet(facet)
        return self._facet_logits(images)[facet].argmax(1)

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
            Rows sum to 1; the columns are the clusters of that facet's labels.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X does not hold images of the fitted shape, or there is no such facet.
        """
        images, facet = self._read(X), self._check_facet(facet)
        logits = self._facet_logits(images)[facet]
        return torch.from_numpy(logits).softmax(1).numpy()

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
            return self._primary_facet
        return check_facet(facet, len(self.facet_slices_), "facet")

    # -- drawing -----------------------------------------------------------------------

    @torch.no_grad()
    def _draw(self, z):
        """Images in the layout of the training data, of latents (n, D)."""
        module, device = self.net_.module_.eval(), self.net_.device
        module.bfloat16 = False
        z = torch.as_tensor(np.asarray(z, dtype=np.float32))
        parts = [module.draw(part.to(device)) for part in z.split(INFERENCE_BATCH)]
        return as_input(self, module.scaling.raw(torch.cat(parts)))

    def inverse_transform(self, X):
        """Draw images from latents.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Latents, in the columns of :meth:`transform`.

        Returns
        -------
        images : ndarray of shape (n, ...)
            Mean images, in layout and range of the training data; uint8 if those were.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X has another number of columns.
        """
        check_is_fitted(self)
        Z = check_array(X, dtype=np.float32)
        if Z.shape[1] != self._n_features_out:
            raise ValueError(
                f"X has {Z.shape[1]} columns, but transform gives "
                f"{self._n_features_out}: the facets side by side, see facet_slices_."
            )
        return self._draw(Z)

    def reconstruct(self, X):
        """Draw images from what the facets hold of them.

        Parameters
        ----------
        X : array-like or list of paths
            As for :meth:`transform`.

        Returns
        -------
        X_new : ndarray of shape (n, ...)
            As :meth:`inverse_transform` returns it.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X does not hold images of the fitted shape.
        """
        return self._draw(self._embed(self._read(X)))

    def sample(
        self,
        n_samples=1,
        facet=None,
        cluster=None,
        like=None,
        temperature=1.0,
        random_state=None,
    ):
        """Draw new images.

        Parameters
        ----------
        n_samples : int, default=1
        facet : int, default=None
            The facet that ``cluster`` is one of, and that is drawn where ``like`` holds
            the others; None: ``primary_facet``.
        cluster : int, default=None
            Draw that facet from this cluster; None: from all, by their weights.
        like : array-like of 1 or n_samples images, default=None
            Take the other facets from these images, in place of drawing them.
        temperature : float, default=1.0
            Multiplies the standard deviation of every cluster; 0 draws their means.
        random_state : int, RandomState or None, default=None
            None draws other images in each call.

        Returns
        -------
        X : ndarray of shape (n_samples, ...)
            As :meth:`inverse_transform` returns it.
        y : ndarray of shape (n_samples, n_facets), int64
            Their clusters.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If there is no such facet or cluster, or a number is out of range.
        """
        check_is_fitted(self)
        facet = self._check_facet(facet)
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(f"n_samples={n_samples!r} should be an integer >= 1.")
        if not isinstance(temperature, Real) or not 0 <= temperature < math.inf:
            raise ValueError(
                f"temperature={temperature!r} should be a finite number >= 0."
            )
        if cluster is not None:
            self._check_cluster(facet, cluster)
        rng = np.random.RandomState(make_seed(random_state))
        labels = np.empty((n_samples, len(self.facet_slices_)), dtype=np.int64)
        Z = np.empty((n_samples, self._n_features_out), dtype=np.float32)
        if like is not None:
            images = self._read(like)
            Z[:] = self._paired(self._embed(images), n_samples, "like")
            given = np.stack([a.argmax(1) for a in self._facet_logits(images)], axis=1)
            labels[:] = given
        for j in range(len(self.facet_slices_)):
            if like is not None and j != facet:
                continue
            if j == facet and cluster is not None:
                labels[:, j] = cluster
            else:
                k = len(self.weights_[j])
                weights = self.weights_[j].astype(np.float64)
                labels[:, j] = rng.choice(k, n_samples, p=weights / weights.sum())
            with torch.no_grad(), seeded(rng.randint(2**31 - 1), self.net_.device):
                components = torch.as_tensor(self._kept_facets[j][labels[:, j]])
                prior = self.net_.module_.priors[j]
                z = prior.sample(components.to(self.net_.device), temperature)
            Z[:, self.facet_slices_[j]] = z.cpu().numpy()
        return self._draw(Z), labels

    def swap_facets(self, X_a, X_b, facets):
        """Draw each image of ``X_a`` with some facets of its partner in ``X_b``.

        Parameters
        ----------
        X_a, X_b : array-like or lists of paths, of n images; X_b may be of 1
        facets : int or list of int
            What to take from ``X_b``.

        Returns
        -------
        X_new : ndarray of shape (n, ...)
            As :meth:`inverse_transform` returns it.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If images do not pair up, or there is no such facet.
        """
        Z, other = self._embed(self._read(X_a)), self._embed(self._read(X_b))
        other = self._paired(other, len(Z), "X_b")
        if facets is None:
            raise ValueError("facets=None should be a facet or a list of facets.")
        for facet in np.atleast_1d(facets).tolist():
            columns = self.facet_slices_[self._check_facet(facet)]
            Z[:, columns] = other[:, columns]
        return self._draw(Z)

    def traverse(self, X, facet=None, *, clusters=None, axis=None, n_steps=7):
        """Draw images while one of their facets moves.

        Parameters
        ----------
        X : array-like or list of paths
            n images, whose other facets stay.
        facet : int, default=None
            The one that moves; None: ``primary_facet``.
        clusters : sequence of int, default=None
            Move in straight lines through the means of these clusters, of which there
            are two at least. None, and no ``axis``: visit the mean of every cluster.
        axis : int, default=None
            Move along this latent of the facet, two standard deviations of its prior to
            both sides of the mean.
        n_steps : int, default=7
            Images of a row; not read when every cluster is visited.

        Returns
        -------
        rows : ndarray of shape (n, n_steps, ...)

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If there is no such facet, cluster or axis, or both are given.
        """
        images, facet = self._read(X), self._check_facet(facet)
        Z, columns = self._embed(images), self.facet_slices_[facet]
        if clusters is not None and axis is not None:
            raise ValueError("Pass clusters or axis, not both.")
        if not isinstance(n_steps, Integral) or n_steps < 2:
            raise ValueError(f"n_steps={n_steps!r} should be an integer >= 2.")
        if axis is not None:
            path = self._along_axis(Z[:, columns], facet, axis, n_steps)
        elif clusters is None:
            path = self.means_[facet][None]
        else:
            path = self._along_means(facet, clusters, n_steps)[None]
        rows = np.repeat(Z[:, None], path.shape[1], axis=1)
        rows[:, :, columns] = path
        drawn = self._draw(rows.reshape(-1, Z.shape[1]))
        return drawn.reshape(*rows.shape[:2], *drawn.shape[1:])

    def _along_axis(self, z, facet, axis, n_steps):
        """Paths (n, n_steps, d) of one latent over the prior's range."""
        dim = z.shape[1]
        if not isinstance(axis, Integral) or not -dim <= axis < dim:
            raise ValueError(
                f"axis={axis!r} should be an integer from {-dim} to {dim - 1}: facet "
                f"{facet} has {dim} latents."
            )
        weights, means = self.weights_[facet], self.means_[facet][:, axis]
        covariances = self.covariances_[facet]
        if covariances.ndim == 3:
            covariances = np.diagonal(covariances, axis1=1, axis2=2)
        center = weights @ means
        spread = np.sqrt(weights @ (covariances[:, axis] + (means - center) ** 2))
        path = np.repeat(z[:, None], n_steps, axis=1)
        path[:, :, axis] = center + spread * np.linspace(-2, 2, n_steps)
        return path

    def _along_means(self, facet, clusters, n_steps):
        """Path (n_steps, d) through the means of clusters."""
        if np.ndim(clusters) != 1 or len(clusters) < 2:
            raise ValueError(
                f"clusters={clusters!r} should be a list of two clusters at least."
            )
        for cluster in clusters:
            self._check_cluster(facet, cluster)
        stops = self.means_[facet][list(clusters)]
        at = np.linspace(0, len(stops) - 1, n_steps)
        lower = np.minimum(at.astype(int), len(stops) - 2)
        share = (at - lower)[:, None]
        return (1 - share) * stops[lower] + share * stops[lower + 1]

    def _check_cluster(self, facet, cluster):
        k = self.n_active_clusters_[facet]
        if not isinstance(cluster, Integral) or not 0 <= cluster < k:
            raise ValueError(
                f"cluster={cluster!r} should be an integer from 0 to {k - 1}: facet "
                f"{facet} has {k} clusters."
            )

    def _paired(self, Z, n, name):
        """Rows of Z for n images; one row serves for all."""
        if len(Z) not in (1, n):
            raise ValueError(f"{name} holds {len(Z)} images; 1 or {n} were expected.")
        return np.broadcast_to(Z, (n, Z.shape[1]))


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
        embedding = self.estimator._embed(self.estimator._read(X))
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
