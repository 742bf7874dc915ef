"""Images that a fitted MFCVAE generates: new ones, reconstructions, mixtures of two."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from .._engine.guard import guarded
from .._engine.net import INFERENCE_BATCH
from .._engine.randomness import make_seed, seeded
from ..pretrained.frozen import restore
from .facets import FacetClusterer


def through_points(points, n_steps):
    """Path (n_steps, d) of straight lines through points (k, d)."""
    at = np.linspace(0, len(points) - 1, n_steps)
    lower = np.minimum(at.astype(int), len(points) - 2)
    share = (at - lower)[:, None]
    return (1 - share) * points[lower] + share * points[lower + 1]


def along_axis(z, weights, means, covariances, axis, n_steps):
    """Paths (n, n_steps, d) of latents (n, d): one latent goes over a mixture's range.

    That is two standard deviations of the mixture to both sides of the mean.
    """
    if covariances.ndim == 3:
        covariances = np.diagonal(covariances, axis1=1, axis2=2)
    means, variances = means[:, axis], covariances[:, axis]
    center = weights @ means
    spread = np.sqrt(weights @ (variances + (means - center) ** 2))
    path = np.repeat(z[:, None], n_steps, axis=1)
    path[:, :, axis] = center + spread * np.linspace(-2, 2, n_steps)
    return path


def paired(Z, n, name):
    """Rows of Z for n images; one row serves for all."""
    if len(Z) not in (1, n):
        raise ValueError(f"{name} holds {len(Z)} images; 1 or {n} were expected.")
    return np.broadcast_to(Z, (n, Z.shape[1]))


class FacetGenerator(FacetClusterer):
    """Generates images from the latents of facets.

    The module of a method has ``generate``, from all latents to images, and ``priors``
    with ``sample``, from clusters to the latents of a facet.
    """

    @torch.no_grad()
    def _generate(self, z):
        """Images in the layout of the training data, of latents (n, D)."""
        module, device = self.net_.module_.eval(), self.net_.device
        module.autocast = False
        z = torch.as_tensor(np.asarray(z, dtype=np.float32))
        parts = [module.generate(part.to(device)) for part in z.split(INFERENCE_BATCH)]
        return restore(self, module.scaling.inverse(torch.cat(parts)))

    @guarded
    def inverse_transform(self, X):
        """Generate images from latents.

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
        width = self.facet_slices_[-1].stop
        if Z.shape[1] != width:
            raise ValueError(
                f"X has {Z.shape[1]} columns, but transform gives {width}: the facets "
                "side by side, see facet_slices_."
            )
        return self._generate(Z)

    @guarded
    def reconstruct(self, X):
        """Generate images from what the facets hold of them.

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
        return self._generate(self._embed(self._read(X)))

    @guarded
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
            The facet that ``cluster`` belongs to, and the only one that is drawn if
            ``like`` holds the others. None: ``primary_facet``.
        cluster : int, default=None
            Cluster of that facet to draw from. None: all, by their weights.
        like : array-like of 1 or n_samples images, default=None
            Images whose other facets are kept, in place of drawing them.
        temperature : float, default=1.0
            Factor of the standard deviation of every cluster; 0 gives the means.
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
        if not isinstance(n_samples, Integral) or int(n_samples) < 1:
            raise ValueError(f"n_samples={n_samples!r} should be an integer >= 1.")
        if not isinstance(temperature, Real) or not 0 <= float(temperature) < math.inf:
            raise ValueError(
                f"temperature={temperature!r} should be a finite number >= 0."
            )
        if cluster is not None:
            self._check_cluster(facet, cluster)
        rng = np.random.RandomState(make_seed(random_state))
        n_facets = len(self.facet_slices_)
        labels = np.empty((n_samples, n_facets), dtype=np.int64)
        Z = np.empty((n_samples, self.facet_slices_[-1].stop), dtype=np.float32)
        if like is not None:
            images = self._read(like)
            Z[:] = paired(self._embed(images), n_samples, "like")
            given = [logits.argmax(1) for logits in self._facet_logits(images)]
            labels[:] = np.stack(given, axis=1)
        for j in range(n_facets) if like is None else [facet]:
            fixed = cluster if j == facet else None
            labels[:, j] = self._draw_clusters(j, n_samples, fixed, rng)
            latents = self._draw_latents(j, labels[:, j], temperature, rng)
            Z[:, self.facet_slices_[j]] = latents
        return self._generate(Z), labels

    def _draw_clusters(self, facet, n, cluster, rng):
        """Clusters of n new images: a given one, or by the weights of all."""
        if cluster is not None:
            return cluster
        weights = self.weights_[facet].astype(np.float64)
        return rng.choice(len(weights), n, p=weights / weights.sum())

    @torch.no_grad()
    def _draw_latents(self, facet, labels, temperature, rng):
        """Latents (n, d) of one facet, from its clusters (n,)."""
        prior, device = self.net_.module_.priors[facet], self.net_.device
        components = torch.as_tensor(self._kept_facets[facet][labels])
        with seeded(rng.randint(2**31 - 1)):
            return prior.sample(components.to(device), temperature).cpu().numpy()

    @guarded
    def swap_facets(self, X_a, X_b, facets):
        """Generate each image of ``X_a`` with some facets of its partner in ``X_b``.

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
        other = paired(other, len(Z), "X_b")
        if facets is None:
            raise ValueError("facets=None should be a facet or a list of facets.")
        for facet in np.atleast_1d(facets).tolist():
            columns = self.facet_slices_[self._check_facet(facet)]
            Z[:, columns] = other[:, columns]
        return self._generate(Z)

    @guarded
    def traverse(self, X, facet=None, *, clusters=None, axis=None, n_steps=7):
        """Generate images while one of their facets moves.

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
        means = self.means_[facet]
        if axis is not None:
            self._check_axis(facet, axis)
            mixture = self.weights_[facet], means, self.covariances_[facet]
            path = along_axis(Z[:, columns], *mixture, axis, n_steps)
        elif clusters is not None:
            self._check_path(facet, clusters)
            path = through_points(means[list(clusters)], n_steps)[None]
        else:
            path = means[None]
        rows = np.repeat(Z[:, None], path.shape[1], axis=1)
        rows[:, :, columns] = path
        images = self._generate(rows.reshape(-1, Z.shape[1]))
        return images.reshape(*rows.shape[:2], *images.shape[1:])

    def _check_axis(self, facet, axis):
        dim = self.means_[facet].shape[1]
        if not isinstance(axis, Integral) or not -dim <= axis < dim:
            raise ValueError(
                f"axis={axis!r} should be an integer from {-dim} to {dim - 1}: facet "
                f"{facet} has {dim} latents."
            )

    def _check_path(self, facet, clusters):
        if np.ndim(clusters) != 1 or len(clusters) < 2:
            raise ValueError(
                f"clusters={clusters!r} should be a list of two clusters at least."
            )
        for cluster in clusters:
            self._check_cluster(facet, cluster)

    def _check_cluster(self, facet, cluster):
        k = len(self.means_[facet])
        if not isinstance(cluster, Integral) or not 0 <= int(cluster) < k:
            raise ValueError(
                f"cluster={cluster!r} should be an integer from 0 to {k - 1}: facet "
                f"{facet} has {k} clusters."
            )
