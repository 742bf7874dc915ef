"""The estimator MFCVAE."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import field
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from sklearn.utils._param_validation import Interval
from torch import nn

from .._engine.guard import guarded
from .._engine.randomness import generators, make_seed, seeded
from .._input.images import expand
from .._input.layouts import check_enough, is_vector
from .._input.paths import path_of
from .._parameters import AtLeastTwo, Auto, Count, Positive, Share
from .._progress import say
from .._settings import Budget
from ..callbacks import sklearn_callbacks
from .facets import check_facet
from .generation import FacetGenerator
from .module import MFCVAEModule
from .paper import paper_settings

PerFacet = Annotated[Sequence[int], "array-like", "sequence of n_facets ints"]
Shares = Annotated[Sequence[float], "array-like", "sequence of n_facets floats"]
AtLeastOne = Annotated[float, Interval(Real, 1, None, closed="left")]
Ladder = Annotated[
    str, (str, nn.Module), '{"auto", "mlp", "conv"}, a pretrained network'
]


def per_facet(name, value, n_facets):
    """Return one positive integer for each facet.

    Raises
    ------
    ValueError
        If ``value`` does not hold them; ``name`` says where it came from.
    """
    values = [value] * n_facets if np.ndim(value) == 0 else list(value)
    if len(values) != n_facets:
        raise ValueError(
            f"{name}={value!r} has {len(values)} entries, but n_facets={n_facets}. "
            f"Pass one integer, or {n_facets}: from the shallow facets to the deep "
            "ones."
        )
    if not all(isinstance(v, Integral) and int(v) >= 1 for v in values):
        raise ValueError(f"{name}={value!r} should hold integers of at least 1.")
    return tuple(int(v) for v in values)


def check_shares(shares, n_facets):
    """Return the relative lengths of the stages.

    Raises
    ------
    ValueError
        If they are not one positive number for each facet.
    """
    if shares is None:
        return (1.0,) * n_facets
    if np.shape(shares) != (n_facets,) or not all(
        isinstance(s, Real) and 0 < float(s) < math.inf for s in shares
    ):
        raise ValueError(
            f"stage_shares={shares!r} should be None or {n_facets} positive numbers, "
            "one for each facet (n_facets), the deepest first."
        )
    return tuple(shares)


class MFCVAE(FacetGenerator):
    """Multi-facet clustering variational autoencoder: several clusterings at once.

    A variational autoencoder whose latent is split into facets, each with a mixture of
    Gaussians as its prior: images are clustered by shape in one facet, by colour in
    another. The facets leave the encoder, and enter the decoder, at different depths,
    and are trained one after the other, the deepest first. All of them come from one
    ``fit``; images can be drawn from a cluster of any facet, and facets exchanged
    between images.

    Which facet takes which factor is not under control: the one that is trained first,
    the deepest, takes what explains most pixels and fits into its latents, so that
    these should be few. The defaults are for minutes on two cores; those of the paper
    are ``MFCVAE(**MFCVAE.paper_settings("mnist"))``. The user guide lists what differs.

    Parameters
    ----------
    n_clusters
        Number of clusters of each facet: one number for all facets, or one for each,
        from the shallow facets to the deep ones.
    n_facets
        Number of clusterings. With 1 the model is like VaDE.
    latent_dims
        Number of latents of each facet: one number for all facets, or one for each,
        from the shallow facets to the deep ones. ``"auto"`` is 5 for the shallowest
        facet and 2 for the others, or 10 for a single facet.
    backbone
        Kind of encoder and decoder: fully connected (``"mlp"``) or convolutional
        (``"conv"``). ``"auto"`` is ``"mlp"`` for vectors and ``"conv"`` for images.
        With ``trainable="none"``, and only then, a network of which the features are
        encoded and reconstructed: the name of a torchvision classification model,
        ``"timm:NAME"``, ``"efficientnet_lite0"`` (or 1, 2), or a module that maps
        (b, C, H, W) to (b, width).
    architecture
        Depth at which facets leave the encoder and enter the decoder: another one for
        each facet (``"ladder"``), or the top for all of them (``"shared"``), which is
        an ablation.
    hidden_dims
        Width of each block of the encoder, in units or channels: one number for all
        blocks, or one for each, from the shallow facets to the deep ones. ``"auto"`` is
        400 units, or 16 channels that double from block to block up to 64.
    augment
        Random changes of the images before they are encoded and reconstructed:
        ``"none"``, ``"simclr"``, ``"digits"``, ``"weak"``, ``"vector"``, ``"auto"`` (by
        the kind of data, as for the other methods), or a callable that maps
        (b, C, H, W) in [0, 1] to the same shape. What changes at random becomes part of
        what the facets explain.
    likelihood
        Distribution of a pixel given the latents. ``"bernoulli"`` is for images only.
    sigma_x
        Standard deviation of a pixel under the Gaussian likelihood, for images in
        [0, 1] or vectors at unit scale. The smaller it is, the more the latents hold:
        half of it weighs errors four times.
    output
        Last function of the decoder. ``"auto"`` is the sigmoid for images and the
        identity for vectors.
    normalize_output
        Whether ELU and batch norm follow the last convolution of the decoder, as in the
        paper's code. A fully connected decoder has neither.
    covariance_type
        Covariances of the clusters: full or diagonal matrices.
    learn_weights
        Whether the weights of the clusters are learnt. Otherwise they are uniform.
        Learnt weights may merge clusters where there are few.
    elbo_estimator
        Estimator of the facets' part of the evidence lower bound in training: samples
        (``"mc"``), or the closed form at the optimal q(c|x) (``"analytic"``).
    n_mc_samples
        Samples of the latents of an image in a step.
    progressive
        Whether the facets are trained one after the other. Otherwise, and if there are
        fewer epochs than facets, all are trained from the start.
    stage_shares
        Relative lengths of the stages in the order of training: the deepest facet
        first. None makes them equal.
    fade_in
        Share of each stage in which the new facet is faded in.
    beta_decay
        Factor by which beta falls with each facet that is faded in, down to 1: with
        three facets and 8 from 64 over 8. The log-likelihood is divided by beta, as in
        a beta-VAE, so that a facet takes the factor that explains most pixels, and
        leaves the others to those that come after it. If it is too high for small or
        plain images, the deepest facet collapses. With 1 the evidence lower bound is
        maximised from the start, as in the paper. ``"auto"`` is 8 with three facets or
        more, else 1.
    prior_init
        First mixture of a facet: ``"warmup_gmm"`` fits it to what the encoder has
        learnt after a warm-up with a standard normal prior; ``"gmm"`` fits it to the
        untrained encoder and keeps the means, as the paper does, which needs the
        paper's long training; ``"random"`` draws the means from a normal distribution.
    prior_warmup
        Share of each stage in which the facet has a standard normal prior.
    n_refits
        Times that the mixtures are fitted anew in each stage after the warm-up. A fit
        is kept only if it raises the evidence lower bound. With 0 there is none.
    init_variance
        First variance of the clusters with ``prior_init="gmm"`` or ``"random"``.
    n_init
        Number of trainings, each from a seed of its own. The one with the highest
        evidence lower bound of X is kept. It takes that many times as long. The first
        training is that of ``n_init=1``. With a ``checkpoint``, each has a folder of
        its own in that one; with ``warm_start`` only the one that was kept goes on.
        After an interrupt, the best of those so far is kept.
    primary_facet
        Facet of ``labels_``, ``predict`` and ``predict_proba``: 0 is the shallowest, -1
        the deepest.
    max_epochs
        Passes over X. ``"auto"`` is 40, or as many more as make 1600 optimiser steps,
        or as few as make 6000.
    lr
        Learning rate of the optimiser, Adam: the same in all steps.

    Attributes
    ----------
    history_ : list of dict
        One row an epoch: ``epoch``, ``loss`` and its parts ``loss_reconstruction`` and
        ``loss_facet0``, ``loss_facet1`` and so on, ``lr``, ``seconds``,
        ``images_per_second``, ``cluster_sizes`` of the primary facet, and lists with
        an entry for each facet: ``alpha`` (how far it is faded in), ``kl_z`` and
        ``kl_c`` (nats that its latents and its clusters cost) and
        ``effective_clusters`` (exponential of the entropy of its cluster sizes: near 1
        it collapsed; 0 before it has a mixture).
    init_scores_ : list of float
        With ``n_init`` above 1, the evidence lower bound of X after each training.

    See Also
    --------
    sklearn.mixture.GaussianMixture : The mixture of one facet, without the networks.
    skdeepcluster.metrics.facet_label_scores : Compare facets with known factors.

    References
    ----------
    Fabian Falck, Haoting Zhang, Matthew Willetts, George Nicholson, Christopher Yau and
    Chris Holmes, *Multi-Facet Clustering Variational Autoencoders*, NeurIPS 2021, arXiv
    2106.05241.

    Irina Higgins, Loic Matthey, Arka Pal, Christopher Burgess, Xavier Glorot, Matthew
    Botvinick, Shakir Mohamed and Alexander Lerchner, *beta-VAE: Learning basic visual
    concepts with a constrained variational framework*, ICLR 2017.

    Examples
    --------
    >>> from skdeepcluster import MFCVAE
    >>> from skdeepcluster.datasets import make_facet_images
    >>> X, _ = make_facet_images(200, size=16, random_state=0)
    >>> model = MFCVAE(n_clusters=(4, 6), max_epochs=2, random_state=0).fit(X)
    >>> model.facet_labels_.shape
    (200, 2)
    >>> images, labels = model.sample(3, facet=1, cluster=0, random_state=0)
    >>> images.shape, labels[:, 1].tolist()
    ((3, 16, 16, 3), [0, 0, 0])
    """

    module = MFCVAEModule
    budget = Budget(epochs=40, min_steps=1600, max_steps=6000)
    features_only = True

    n_clusters: Count | PerFacet = field(  # type: ignore[assignment]
        default=8, kw_only=False
    )
    n_facets: Count = 2
    latent_dims: Count | PerFacet | Auto = "auto"
    backbone: Ladder = "auto"
    architecture: Literal["ladder", "shared"] = "ladder"
    hidden_dims: Count | PerFacet | Auto = "auto"
    augment: str | Callable = "none"
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    sigma_x: Positive = 0.3
    output: Literal["auto", "sigmoid", "identity"] = "auto"
    normalize_output: bool = False
    covariance_type: Literal["full", "diag"] = "full"
    learn_weights: bool = False
    elbo_estimator: Literal["mc", "analytic"] = "mc"
    n_mc_samples: Count = 1
    progressive: bool = True
    stage_shares: Shares | None = None
    fade_in: Share = 0.25
    beta_decay: AtLeastOne | Auto = "auto"
    prior_init: Literal["warmup_gmm", "gmm", "random"] = "warmup_gmm"
    prior_warmup: Share = 0.4
    n_refits: Annotated[int, Interval(Integral, 0, None, closed="left")] = 5
    init_variance: Positive = 0.01
    n_init: Count = 1
    primary_facet: Annotated[int, Integral, "int"] = -1
    batch_size: AtLeastTwo = 128
    lr: Positive = 1e-3

    paper_settings = staticmethod(paper_settings)

    # -- what the engine asks ----------------------------------------------------------

    @property
    def _n_clusters(self):
        p = self._with_plain_values()
        values = per_facet("n_clusters", p.n_clusters, p.n_facets)
        return values[check_facet(p.primary_facet, p.n_facets, "primary_facet")]

    def _resolve(self, data):
        super()._resolve(data)
        n, vectors = self.n_facets, is_vector(data.image_shape)
        if isinstance(self.latent_dims, str):  # "auto"; an array would not compare
            self.latent_dims = (5,) + (2,) * (n - 1) if n > 1 else 10
        if isinstance(self.hidden_dims, str):
            channels = [min(16 * 2**j, 64) for j in range(n)]
            self.hidden_dims = channels if self.backbone == "conv" else 400
        if self.beta_decay == "auto":
            self.beta_decay = 8.0 if n > 2 else 1.0
        n_clusters = per_facet("n_clusters", self.n_clusters, n)
        check_enough(data.n_samples, max(n_clusters))
        self.n_clusters = n_clusters
        self.latent_dims = per_facet("latent_dims", self.latent_dims, n)
        self.hidden_dims = per_facet("hidden_dims", self.hidden_dims, n)
        self.stage_shares = check_shares(self.stage_shares, n)
        self.primary_facet = check_facet(self.primary_facet, n, "primary_facet")
        if self.output == "auto":
            self.output = "identity" if vectors else "sigmoid"
        if self.likelihood == "bernoulli" and vectors:
            raise ValueError(
                "likelihood='bernoulli' needs images, whose values go to [0, 1], but X "
                "holds vectors. Use 'gaussian', or pass image_shape=(C, H, W) if the "
                "rows are images."
            )
        if self.likelihood == "bernoulli" and self.output == "identity":
            raise ValueError(
                "likelihood='bernoulli' needs probabilities; use output='sigmoid', or "
                "'auto'."
            )

    def _resolve_backbone(self, image_shape):
        vectors = is_vector(image_shape)
        if self.backbone == "auto":
            return "mlp" if vectors else "conv"
        if self.backbone not in ("mlp", "conv"):
            raise ValueError(
                f"backbone={self.backbone!r} is no network that MFCVAE can turn into a "
                "decoder. Pass 'auto', 'mlp' or 'conv', and hidden_dims for its size; "
                "or trainable='none', if it is a pretrained network."
            )
        if vectors and self.backbone == "conv":
            raise ValueError(
                "backbone='conv' needs images, but X holds vectors. Use "
                "backbone='mlp', or pass image_shape=(C, H, W) if the rows are images."
            )
        return self.backbone

    # -- several trainings -------------------------------------------------------------

    def _fit_images(self, images, data, asked, X, y):
        """Train once, or ``n_init`` times and keep what explains the images best."""
        vars(self).pop("init_scores_", None)  # of an earlier fit
        goes_on = self.warm_start and "_training" in vars(self)
        if self.n_init == 1 or goes_on:
            return super()._fit_images(images, data, asked, X, y)
        first = generators().seed
        others = np.random.RandomState(first)
        best: dict = {}
        scores: list[float] = []
        with sklearn_callbacks(self, self.n_init, X, y, self._state):
            before = dict(vars(self))
            for number in range(self.n_init):
                self._become(before)
                if self.checkpoint:
                    folder = Path(path_of(self.checkpoint)) / f"init_{number}"
                    self.checkpoint = folder
                if self.verbose:
                    say(f"MFCVAE, training {number + 1}/{self.n_init}:")
                asked.obeyed = False  # what is under way may be interrupted again
                try:
                    with seeded(make_seed(others) if number else first):
                        super()._fit_images(images, data, asked, X, y)
                except (KeyboardInterrupt, SystemExit):
                    if best and asked.noted is not None:
                        break  # one that learnt nothing yet
                    raise
                scores.append(self._bound(images))
                if scores[-1] == max(scores):
                    best = dict(vars(self))
                if asked.noted is not None:
                    break
            self._become({**best, "checkpoint": before["checkpoint"]})
            self.init_scores_ = scores

    def _become(self, state):
        """Take parameters and attributes of another moment."""
        vars(self).clear()
        vars(self).update(state)

    def _bound(self, images):
        """Mean evidence lower bound of images that were read."""
        bound = self.net_.evaluate(images, self.net_.module_.evidence)
        return bound.double().mean().item()

    # -- how well images are explained -------------------------------------------------

    @guarded
    def score_samples(self, X):
        """Evidence lower bound of each image: higher is more normal.

        Parameters
        ----------
        X : array-like or list of paths
            As for :meth:`transform`.

        Returns
        -------
        bound : ndarray of shape (n,), float32
            In nats, of images in [0, 1] or of vectors at unit scale; at the optimal
            q(c|x). The expectation of the likelihood is over 8 noise vectors that
            are drawn once, in ``fit``, so that two calls agree.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X does not hold images of the fitted shape.
        """
        images = self._read(X, skip=True)
        bound = self.net_.evaluate(images, self.net_.module_.evidence)
        return expand(bound.cpu().numpy()[:, 0], images)

    @guarded
    def score(self, X, y=None):
        """Mean of :meth:`score_samples`: higher is better.

        Parameters
        ----------
        X : array-like or list of paths
            As for :meth:`transform`.
        y : ignored

        Returns
        -------
        score : float
            Comparable between models of the same ``likelihood`` and ``sigma_x`` only.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X does not hold images of the fitted shape.
        """
        return float(np.nanmean(self.score_samples(X).astype(np.float64)))
