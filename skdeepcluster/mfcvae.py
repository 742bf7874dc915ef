"""MFCVAE: several clusterings of the same images at once (Falck et al., 2021)."""

from __future__ import annotations

import copy
import math
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn
from torch.nn import functional as F

from ._base import DeepClusterer, check_enough
from ._layouts import is_vector
from ._net import INFERENCE_BATCH, ClusterModule
from .callbacks import FacetCollapseWarning
from .facets import FacetMixin, check_facet
from .ladders import LADDERS
from .mixture import LOG_2PI, MixturePrior, fit_mixture

SCORE_DRAWS = 8  # fixed noise vectors of score_samples: four and their opposites


def monte_carlo_bound(
    z: Tensor, mean: Tensor, log_var: Tensor, log_joint: Tensor
) -> Tensor:
    """Part of a facet in the evidence lower bound, from samples.

    With one sample it is ``log p(z) - log q(z|x)``, where p is the whole mixture: the
    assignment q(c|x) at the very same sample sums out. With L samples it is the value
    at the assignment that is best for all of them, biased upwards, and falls to
    :func:`analytic_bound` as L grows.

    Parameters
    ----------
    z : tensor of shape (b, d) or (L, b, d)
        Drawn from q(z|x).
    mean, log_var : tensors of shape (b, d)
        Of q(z|x).
    log_joint : tensor of shape (b, K) or (L, b, K)
        ``log pi_k + log N(z; mu_k, S_k)`` at these samples.

    Returns
    -------
    bound : tensor of shape (b,), in nats
    """
    log_q = -0.5 * (LOG_2PI + log_var + (z - mean).square() / log_var.exp()).sum(-1)
    if z.ndim == 3:
        log_q, log_joint = log_q.mean(0), log_joint.mean(0)
    return log_joint.logsumexp(1) - log_q


def analytic_bound(log_var: Tensor, expected_log_joint: Tensor) -> Tensor:
    """Part of a facet in the evidence lower bound, exact at the optimal q(c|x).

    For fixed q(z|x) the best assignment is ``softmax_k A_k``, with A the expectation
    of ``log pi_k + log N(z; mu_k, S_k)`` over q(z|x), and the bound at it is
    ``logsumexp_k A_k`` and the entropy of q(z|x).

    Parameters
    ----------
    log_var : tensor of shape (b, d)
        Of q(z|x).
    expected_log_joint : tensor of shape (b, K)
        A.

    Returns
    -------
    bound : tensor of shape (b,), in nats
    """
    return expected_log_joint.logsumexp(1) + gaussian_entropy(log_var)


def gaussian_entropy(log_var: Tensor) -> Tensor:
    """Entropy of diagonal Gaussians (b, d), in nats: (b,)."""
    return 0.5 * (log_var + 1 + LOG_2PI).sum(1)


def divergences(
    r: Tensor, log_density: Tensor, log_weights: Tensor, negative_entropy: Tensor
) -> tuple[Tensor, Tensor]:
    """Split a facet's bound into what its z and what its cluster cost.

    Parameters
    ----------
    r : tensor of shape (b, K)
        q(c|x).
    log_density : tensor of shape (b, K)
        ``log N(z; mu_k, S_k)``, at a sample or in expectation.
    log_weights : tensor of shape (K,)
    negative_entropy : tensor of shape (b,)
        ``log q(z|x)``, at the same sample or in expectation.

    Returns
    -------
    kl_z : tensor of shape (b,)
        ``log q(z|x) - sum_k r_k log N(z; mu_k, S_k)``; no divergence by itself, it can
        be negative.
    kl_c : tensor of shape (b,)
        Divergence of r from the weights.
    """
    kl_z = negative_entropy - (r * log_density).sum(1)
    kl_c = (torch.special.xlogy(r, r) - r * log_weights).sum(1)
    return kl_z, kl_c


def log_likelihood(x: Tensor, out: Tensor, likelihood: str, sigma_x: float) -> Tensor:
    """Log-likelihood of images, summed over pixels and channels.

    Parameters
    ----------
    x : tensor of shape (b, C, H, W)
        For ``"bernoulli"`` with values in [0, 1].
    out : tensor of shape (b, C, H, W)
        The logits for ``"bernoulli"``, the mean for ``"gaussian"``.
    likelihood : {"bernoulli", "gaussian"}
    sigma_x : float
        Standard deviation of the Gaussian.

    Returns
    -------
    log_p : tensor of shape (b,), in nats
    """
    if likelihood == "bernoulli":
        return -F.binary_cross_entropy_with_logits(out, x, reduction="none").sum(
            (1, 2, 3)
        )
    square = ((x - out) / sigma_x).square().sum((1, 2, 3))
    return -0.5 * square - x[0].numel() * (0.5 * LOG_2PI + math.log(sigma_x))


def progress(
    stage: int,
    step: int,
    n_facets: int,
    fade_steps: float,
    inactive_weight: float = 0.0,
) -> tuple[list[float], list[float]]:
    """How far each facet is faded in, and the weight of its prior.

    Stage s activates facet ``n_facets - 1 - s``: the deepest one comes first, at once,
    and each other one fades in linearly.

    Parameters
    ----------
    stage, step : int
        Counted from 0; the step since the stage began.
    n_facets : int
    fade_steps : float
        Steps until a facet is whole.
    inactive_weight : float, default=0.0
        Weight of the prior of a facet that does not take part yet.

    Returns
    -------
    alpha, gamma : lists of n_facets floats
        From the shallow to the deep facets.
    """
    active = n_facets - 1 - stage
    fade = 1.0 if stage == 0 or step >= fade_steps else step / fade_steps
    alpha = [0.0] * active + [fade] + [1.0] * stage
    gamma = [inactive_weight + (1 - inactive_weight) * a for a in alpha]
    return alpha, gamma


class MFCVAEModule(ClusterModule):
    """Networks, priors and objective of MFCVAE.

    Parameters
    ----------
    scaling : Scaling
    augmentation : callable or Module
    backbone : {"mlp", "conv"}
    ladder : dict
        Options of the builder of the networks.
    image_shape : tuple (C, H, W)
    n_clusters, latent_dims, hidden_dims : tuples of J ints
    stage_epochs : tuple of ints
        Epochs of each stage; a single stage trains all facets from the start.
    steps_per_epoch : int
    primary_facet : int
        From 0.
    **options
        As in :class:`MFCVAE`.
    """

    n_views = 1

    def __init__(
        self,
        scaling,
        augmentation,
        backbone,
        ladder,
        image_shape,
        n_clusters,
        latent_dims,
        hidden_dims,
        stage_epochs,
        steps_per_epoch,
        primary_facet,
        covariance_type,
        learn_weights,
        **options,
    ):
        super().__init__(scaling, augmentation)
        self.options, self.primary_facet = options, primary_facet
        self.latent_dims, self.n_clusters = list(latent_dims), list(n_clusters)
        self.stage_epochs, self.steps_per_epoch = stage_epochs, steps_per_epoch
        self.backbone, self.decoder = LADDERS[backbone](
            image_shape, latent_dims, hidden_dims, **ladder
        )
        self.priors = nn.ModuleList(
            MixturePrior(k, d, covariance_type, learn_weights)
            for k, d in zip(n_clusters, latent_dims, strict=True)
        )
        half = torch.randn(SCORE_DRAWS // 2, sum(latent_dims))
        self.register_buffer("noise", torch.cat([half, -half]))
        centers = torch.zeros(n_clusters[primary_facet], sum(latent_dims))
        self.register_buffer("centers", centers)
        self.epoch, self.step = 0, 0
        self.set_progress()

    @property
    def n_facets(self):
        """J."""
        return len(self.priors)

    def get_extra_state(self):
        """State beside parameters and buffers, for ``state_dict``."""
        return {"epoch": self.epoch, "step": self.step, "alpha": self.alpha}

    def set_extra_state(self, state):
        """Take what :meth:`get_extra_state` gave."""
        self.epoch, self.step = state["epoch"], state["step"]
        self.set_progress()
        self.alpha = state["alpha"]

    # -- networks ----------------------------------------------------------------------

    def posterior(self, x):
        """[means | log-variances] of all facets, (b, 2 D), of standardised images."""
        return self.run(self.backbone, self.scaling.unstandardize(x))

    def decode(self, z):
        """Output of the decoder for latents (b, D), before the non-linearity."""
        return self.run(lambda z: self.decoder(z, self.alpha), z)

    def draw(self, z):
        """Mean images, at unit scale, of latents (b, D)."""
        out = self.decode(z)
        return out.sigmoid() if self.options["output"] == "sigmoid" else out

    def log_likelihood(self, x, z):
        """Log-likelihood of images (b, C, H, W) at unit scale given z: (b,)."""
        likelihood, sigma_x = self.options["likelihood"], self.options["sigma_x"]
        out = self.decode(z) if likelihood == "bernoulli" else self.draw(z)
        return log_likelihood(x, out, likelihood, sigma_x)

    def facets(self, *tensors):
        """Split columns (..., D) of tensors: a tuple of them for each facet."""
        return zip(*(t.split(self.latent_dims, dim=-1) for t in tensors), strict=True)

    # -- one batch ---------------------------------------------------------------------

    def losses(self, batch):
        """Weighted parts of one batch: ``reconstruction``, and ``facet0``, ..."""
        n_samples = self.options["n_mc_samples"]
        (x,) = batch.views
        mean, log_var = self.posterior(x).chunk(2, dim=1)
        noise = torch.randn(n_samples, *mean.shape, device=mean.device)
        z = mean + (0.5 * log_var).exp() * noise
        unit = self.scaling.unstandardize(x).repeat(n_samples, 1, 1, 1)
        parts = {"reconstruction": -self.log_likelihood(unit, z.flatten(0, 1)).mean()}
        for j, facet in enumerate(self.facets(z, mean, log_var)):
            parts[f"facet{j}"] = mean.new_zeros(())
            if self.gamma[j] > 0:
                bound = self.bound(self.priors[j], *facet)
                parts[f"facet{j}"] = -self.gamma[j] * bound.mean()
        return parts

    def bound(self, prior, z, mean, log_var):
        """Part of a facet in the bound, by the estimator of choice: (b,)."""
        if self.options["elbo_estimator"] == "analytic":
            return analytic_bound(log_var, prior.expected_log_joint(mean, log_var))
        log_joint = prior.log_joint(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        return monte_carlo_bound(z, mean, log_var, log_joint)

    def after_step(self):
        """Fade in the facet of this stage."""
        self.step += 1
        self.set_progress()

    # -- progressive training ----------------------------------------------------------

    def set_progress(self):
        """Set alpha and gamma, of every facet, for this step."""
        if len(self.stage_epochs) == 1:
            self.alpha = self.gamma = [1.0] * self.n_facets
            return
        ends = np.cumsum(self.stage_epochs) * self.steps_per_epoch
        stage = min(np.searchsorted(ends, self.step, side="right"), len(ends) - 1)
        stage_steps = self.stage_epochs[stage] * self.steps_per_epoch
        step = self.step - (ends[stage] - stage_steps)
        fade_steps = self.options["fade_in"] * stage_steps
        self.alpha, self.gamma = progress(
            int(stage), int(step), self.n_facets, fade_steps
        )

    def due(self):
        """Facets whose prior starts now, and whether the others are fitted anew."""
        o, everyone = self.options, list(range(self.n_facets))
        start, refit, first = [], False, 0
        for stage, length in enumerate(self.stage_epochs):
            warm = first + round(o["warmup"] * length)
            left, times = first + length - warm, o["n_refits"]
            steps = {round(left * i / (times + 1)) for i in range(1, times + 1)}
            refit = refit or self.epoch - warm in steps - {0}
            if self.epoch == warm:
                single = len(self.stage_epochs) == 1
                start = everyone if single else [self.n_facets - 1 - stage]
            first += length
        if o["prior_init"] != "warmup_gmm":
            start = everyone if self.epoch == 0 else []
        return start, refit

    # -- all images --------------------------------------------------------------------

    def encode(self, x):
        """Means of all facets, (b, D)."""
        return self.posterior(x).chunk(2, dim=1)[0]

    def logits(self, x):
        """Expected log joint of the primary facet: its softmax is q(c|x)."""
        parts = self.facet_logits(x).split(self.n_clusters, dim=1)
        return parts[self.primary_facet]

    def facet_logits(self, x):
        """Expected log joints of all facets side by side, (b, sum of K_j)."""
        facets = self.facets(*self.posterior(x).chunk(2, dim=1))
        pairs = zip(self.priors, facets, strict=True)
        return torch.cat([p.expected_log_joint(*facet) for p, facet in pairs], dim=1)

    def evidence(self, x):
        """Evidence lower bound of standardised images, in nats: (b, 1).

        The expectation of the likelihood is over the same few noise vectors for every
        image, so that the bound of an image does not depend on its neighbours.
        """
        mean, log_var = self.posterior(x).chunk(2, dim=1)
        unit, std = self.scaling.unstandardize(x), (0.5 * log_var).exp()
        total = sum(self.log_likelihood(unit, mean + std * e) for e in self.noise)
        bound = total / len(self.noise)
        for prior, facet in zip(self.priors, self.facets(mean, log_var), strict=True):
            bound = bound + analytic_bound(facet[1], prior.expected_log_joint(*facet))
        return bound.unsqueeze(1)

    @torch.no_grad()
    def refresh(self, embed):
        """Fit the priors whose time has come, and report."""
        posteriors = embed(self.posterior)
        facets = list(self.facets(*posteriors.chunk(2, dim=1)))
        start, refit = self.due()
        for j, (prior, facet) in enumerate(zip(self.priors, facets, strict=True)):
            if j in start:
                self.start(prior, *facet)
            elif refit and prior.is_set:
                refit_prior(prior, *facet)
        self.epoch += 1
        return self.report(facets)

    def start(self, prior, mean, log_var):
        """Give a prior its first components."""
        if self.options["prior_init"] == "warmup_gmm":
            prior.fit(mean, log_var)
            return
        if self.options["prior_init"] == "gmm":
            # as the authors do: of the fitted mixture only the means are kept
            mixture = fit_mixture(mean, prior.n_clusters, "diag")
            means = torch.as_tensor(mixture.means_, device=mean.device)
        else:
            means = torch.randn_like(prior.means)
        variance = torch.full_like(means, self.options["init_variance"])
        if prior.covariance_type == "full":
            variance = torch.diag_embed(variance)
        prior.set(torch.ones(len(means)) / len(means), means, variance)

    def report(self, facets):
        """What the history shall hold, of posteriors of all images."""
        report = {"alpha": list(self.alpha)}
        for key in ("kl_z", "kl_c", "effective_clusters"):
            report[key] = []
        for j, (prior, facet) in enumerate(zip(self.priors, facets, strict=True)):
            joint = expected_log_joint(prior, *facet)
            log_weights = prior.log_weights
            kl_z, kl_c = divergences(
                joint.softmax(1),
                joint - log_weights,
                log_weights,
                -gaussian_entropy(facet[1]),
            )
            sizes = joint.argmax(1).bincount(minlength=prior.n_clusters)
            report["kl_z"].append(kl_z.mean().item())
            report["kl_c"].append(kl_c.mean().item())
            in_use = effective_number(sizes) if prior.is_set else 0.0
            report["effective_clusters"].append(in_use)
            if j == self.primary_facet:
                report["cluster_sizes"] = sizes.tolist()
        return report

    @torch.no_grad()
    def finish(self, embed):
        """Settle the priors and the centres by the final networks."""
        posteriors = embed(self.posterior)
        facets = list(self.facets(*posteriors.chunk(2, dim=1)))
        for prior, facet in zip(self.priors, facets, strict=True):
            if not prior.is_set:
                self.start(prior, *facet)
            elif self.options["n_refits"] > 0:
                refit_prior(prior, *facet)
        # facets that an interrupt came before stay out of the pictures
        self.alpha = [1.0 if a > 0 else 0.0 for a in self.alpha]
        j = self.primary_facet
        labels = expected_log_joint(self.priors[j], *facets[j]).argmax(1)
        members = F.one_hot(labels, len(self.centers)).to(posteriors.dtype)
        means = posteriors[:, : sum(self.latent_dims)]
        sizes = members.sum(0).unsqueeze(1)
        self.centers = members.T @ means / sizes.clamp_min(1)


def expected_log_joint(prior, mean, log_var):
    """``prior.expected_log_joint`` of all images (n, d), some at a time: (n, K)."""
    rows = zip(mean.split(INFERENCE_BATCH), log_var.split(INFERENCE_BATCH), strict=True)
    return torch.cat([prior.expected_log_joint(*part) for part in rows])


def refit_prior(prior, mean, log_var):
    """Fit a prior anew, and keep the old components if the bound would fall.

    With q(z|x) fixed, the rest of the evidence lower bound does not depend on the
    prior: this step never lowers it.
    """

    def bound():
        return expected_log_joint(prior, mean, log_var).logsumexp(1).mean()

    before, old = bound(), copy.deepcopy(prior.state_dict())
    prior.fit(mean, log_var)
    if not bound() > before:
        prior.load_state_dict(old)


def effective_number(sizes: Tensor) -> float:
    """Exponential of the entropy of cluster sizes (K,): K if they are equal."""
    shares = sizes.double() / sizes.sum()
    return torch.special.entr(shares).sum().exp().item()


class MFCVAE(FacetMixin, DeepClusterer):
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
    n_clusters : int or sequence of n_facets ints, default=8
        Number of clusters of each facet, from the shallow facets to the deep ones.
    n_facets : int, default=2
        Number of clusterings. With 1 it is a model like VaDE.
    latent_dims : int, sequence of n_facets ints or "auto", default="auto"
        Latents of each facet, from the shallow to the deep ones. ``"auto"``: 5 for the
        shallowest and 2 for the others; 10 for a single facet.
    image_shape : tuple (C, H, W), default=None
        Says that the rows of a 2-D X are flattened images, what file images are
        resized to, or where the channels of an ambiguous 4-D X are.
    backbone : {"auto", "mlp", "conv"}, default="auto"
        Fully connected or convolutional encoder and decoder. ``"auto"``: ``"mlp"`` for
        vectors, ``"conv"`` for images.
    architecture : {"ladder", "shared"}, default="ladder"
        ``"shared"``: all facets leave and enter the networks at their top, as an
        ablation.
    hidden_dims : int, sequence of n_facets ints or "auto", default="auto"
        Width of each block of the ladder: units, or channels. ``"auto"``: 400 units,
        or 16 channels that double from block to block up to 64.
    augment : str or callable, default="none"
        How images are changed before they are encoded and drawn, as for the other
        methods. What changes at random becomes part of what the facets explain.
    likelihood : {"gaussian", "bernoulli"}, default="gaussian"
        Of a pixel given the latents; ``"bernoulli"`` for images only.
    sigma_x : float, default=0.3
        Standard deviation of the Gaussian, for images in [0, 1] or vectors at unit
        scale. The smaller, the more the latents hold: half of it weighs errors four
        times.
    output : {"auto", "sigmoid", "identity"}, default="auto"
        What the decoder ends in. ``"auto"``: the sigmoid for images.
    normalize_output : bool, default=False
        Whether ELU and batch norm come before that, in the convolutional decoder.
    covariance_type : {"full", "diag"}, default="full"
        Covariances of the clusters.
    learn_weights : bool, default=False
        Whether the weights of the clusters are learnt; else they are uniform. Learnt
        weights may merge clusters where there are few.
    elbo_estimator : {"mc", "analytic"}, default="mc"
        How the facets' part of the bound is estimated in training: by samples, or in
        closed form at the optimal q(c|x).
    n_mc_samples : int, default=1
        Samples of the latents of an image in a step.
    progressive : bool, default=True
        Train the facets one after the other; else all from the start, as with fewer
        epochs than facets.
    stage_shares : sequence of n_facets floats, default=None
        Relative lengths of the stages in the order of training: the deepest facet
        first. None: equal.
    fade_in : float, default=0.25
        Share of a stage in which its facet is faded in.
    prior_init : {"warmup_gmm", "gmm", "random"}, default="warmup_gmm"
        ``"warmup_gmm"``: a facet starts with a standard normal prior, and its mixture
        is fitted to what the encoder has learnt by then. ``"gmm"``: fitted to the
        untrained encoder, of which the means are kept: the paper's, which needs the
        paper's long training. ``"random"``: normal means.
    warmup : float, default=0.4
        Share of a stage with the standard normal prior.
    n_refits : int, default=5
        How often, in the rest of each stage, the mixtures are fitted anew; a fit is
        kept only if the bound rises. 0 leaves it out.
    init_variance : float, default=0.01
        First variance of the clusters of ``"gmm"`` and ``"random"``.
    primary_facet : int, default=-1
        The facet of ``labels_``, ``predict`` and ``predict_proba``: 0 is the
        shallowest, -1 the deepest.
    max_epochs : int or "auto", default="auto"
        Passes over X. ``"auto"``: 40, but as many as make 1600 steps at least and
        6000 at most.
    batch_size : int, default=128
        Images a step, at most; fewer samples make smaller batches.
    lr : float, default=1e-3
        Learning rate of Adam.
    device : str or torch.device, default="auto"
        ``"auto"`` is CUDA where there is one, else the CPU.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Of the networks in training; losses and predictions are float32. ``"auto"``
        takes bfloat16 on CUDA, and for images on CPUs with bfloat16 instructions.
    net_params : dict, default=None
        Passed to skorch, such as ``{"optimizer__weight_decay": 0.1}``; shown by
        ``get_params`` as ``net__optimizer__weight_decay``.
    callbacks : list, default=None
        Callbacks of skorch.
    verbose : int, default=0
        1 shows a progress bar with the loss parts and the time left.
    random_state : int, RandomState or None, default=None
        Seeds everything. On one CPU the same seed gives the same labels, bit for bit;
        the global generators are not touched.

    Attributes
    ----------
    labels_ : ndarray of shape (n,), int64
        Cluster of each sample in the primary facet, consecutive from 0.
    facet_labels_ : ndarray of shape (n, n_facets), int64
        Cluster of each sample in every facet; each column is consecutive from 0.
    n_active_clusters_ : list of n_facets ints
        Clusters of each facet that are not empty.
    weights_, means_, covariances_ : lists of n_facets ndarrays, float32
        Mixture of each facet, of shapes (k,), (k, d) and (k, d, d), or (k, d) for
        ``"diag"``, as in :class:`~sklearn.mixture.GaussianMixture`; empty clusters are
        left out, and the weights of the others sum to 1.
    facet_slices_ : list of n_facets slices
        Columns of each facet in what :meth:`transform` returns.
    cluster_centers_ : ndarray of shape (n_clusters, d), float32
        Mean embedding, over all facets, of each cluster of the primary facet.
    cluster_sizes_ : ndarray of shape (n_clusters,), int64
        Samples of each cluster of the primary facet.
    history_ : list of dict
        One row an epoch: ``epoch``, ``loss`` and its parts ``loss_reconstruction`` and
        ``loss_facet0``, ``loss_facet1`` and so on, ``lr``, ``seconds``,
        ``images_per_second``, ``cluster_sizes`` of the primary facet, and lists with
        an entry for each facet: ``alpha`` (how far it is faded in), ``kl_z`` and
        ``kl_c`` (nats that its latents and its clusters cost) and
        ``effective_clusters`` (exponential of the entropy of its cluster sizes: near 1
        it collapsed; 0 before it has a mixture).
    n_iter_ : int
        Epochs run.
    net_ : ClusterNet
        The trained skorch net; ``net_.module_`` holds the networks.
    device_ : str
        Where it was trained.
    image_shape_ : tuple (C, H, W)
        (1, 1, d) for vectors.
    n_features_in_ : int
        C * H * W.
    feature_names_in_ : ndarray of shape (d,)
        Column names, if X was a DataFrame with string names.

    See Also
    --------
    sklearn.mixture.GaussianMixture : The mixture of one facet, without the networks.
    skdeepcluster.metrics.facet_label_scores : Compare facets with known factors.

    References
    ----------
    Fabian Falck, Haoting Zhang, Matthew Willetts, George Nicholson, Christopher Yau and
    Chris Holmes, *Multi-Facet Clustering Variational Autoencoders*, NeurIPS 2021, arXiv
    2106.05241.

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

    _parameter_constraints: dict = {
        **DeepClusterer._parameter_constraints,
        "n_clusters": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "n_facets": [Interval(Integral, 1, None, closed="left")],
        "latent_dims": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
            "array-like",
        ],
        "backbone": [str, nn.Module],
        "architecture": [StrOptions({"ladder", "shared"})],
        "hidden_dims": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
            "array-like",
        ],
        "likelihood": [StrOptions({"gaussian", "bernoulli"})],
        "sigma_x": [Interval(Real, 0, None, closed="neither")],
        "output": [StrOptions({"auto", "sigmoid", "identity"})],
        "normalize_output": ["boolean"],
        "covariance_type": [StrOptions({"diag", "full"})],
        "learn_weights": ["boolean"],
        "elbo_estimator": [StrOptions({"mc", "analytic"})],
        "n_mc_samples": [Interval(Integral, 1, None, closed="left")],
        "progressive": ["boolean"],
        "stage_shares": [None, "array-like"],
        "fade_in": [Interval(Real, 0, 1, closed="both")],
        "prior_init": [StrOptions({"warmup_gmm", "gmm", "random"})],
        "warmup": [Interval(Real, 0, 1, closed="both")],
        "n_refits": [Interval(Integral, 0, None, closed="left")],
        "init_variance": [Interval(Real, 0, None, closed="neither")],
        "primary_facet": [Integral],
    }

    def __init__(
        self,
        n_clusters=8,
        *,
        n_facets=2,
        latent_dims="auto",
        image_shape=None,
        backbone="auto",
        architecture="ladder",
        hidden_dims="auto",
        augment="none",
        likelihood="gaussian",
        sigma_x=0.3,
        output="auto",
        normalize_output=False,
        covariance_type="full",
        learn_weights=False,
        elbo_estimator="mc",
        n_mc_samples=1,
        progressive=True,
        stage_shares=None,
        fade_in=0.25,
        prior_init="warmup_gmm",
        warmup=0.4,
        n_refits=5,
        init_variance=0.01,
        primary_facet=-1,
        max_epochs="auto",
        batch_size=128,
        lr=1e-3,
        device="auto",
        precision="auto",
        net_params=None,
        callbacks=None,
        verbose=0,
        random_state=None,
    ):
        self.n_clusters = n_clusters
        self.n_facets = n_facets
        self.latent_dims = latent_dims
        self.image_shape = image_shape
        self.backbone = backbone
        self.architecture = architecture
        self.hidden_dims = hidden_dims
        self.augment = augment
        self.likelihood = likelihood
        self.sigma_x = sigma_x
        self.output = output
        self.normalize_output = normalize_output
        self.covariance_type = covariance_type
        self.learn_weights = learn_weights
        self.elbo_estimator = elbo_estimator
        self.n_mc_samples = n_mc_samples
        self.progressive = progressive
        self.stage_shares = stage_shares
        self.fade_in = fade_in
        self.prior_init = prior_init
        self.warmup = warmup
        self.n_refits = n_refits
        self.init_variance = init_variance
        self.primary_facet = primary_facet
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.device = device
        self.precision = precision
        self.net_params = net_params
        self.callbacks = callbacks
        self.verbose = verbose
        self.random_state = random_state

    @staticmethod
    def paper_settings(name) -> dict:
        """Keyword arguments of a published configuration.

        ``"mnist"``: 401 epochs of the 60 000 training images in batches of 512, about
        47 000 steps. ``"3dshapes"``: 3 840 images of 32 x 32 pixels, 401 epochs in
        batches of 150. ``"svhn"``: its 73 257 training images, 401 epochs in batches of
        150. What stays different: an epoch drops the remainder of its batches; clusters
        have a least scale; the convolutions of the encoder have no weight norm, and
        weights no data-dependent start, which the released code itself undoes for most
        of them; ``predict`` takes the optimal q(c|x), not the responsibilities at the
        mean; the temperature of ``sample`` multiplies standard deviations.

        Parameters
        ----------
        name : {"mnist", "3dshapes", "svhn"}

        Returns
        -------
        settings : dict
            For ``MFCVAE(**MFCVAE.paper_settings(name))``.

        Raises
        ------
        ValueError
            If the name is another one.

        References
        ----------
        The authors' code, github.com/FabianFalck/mfcvae at 9f1eca4, ``configs/`` and
        ``train.py``.
        """
        always = {
            "n_facets": 2,
            "augment": "none",
            "elbo_estimator": "mc",
            "prior_init": "gmm",
            "n_refits": 0,
            "init_variance": 0.01,
            "max_epochs": 401,
            "precision": "float32",
        }
        conv = {
            "backbone": "conv",
            "hidden_dims": (64, 128),
            "likelihood": "gaussian",
            "normalize_output": True,
            "covariance_type": "full",
            "learn_weights": False,
            "stage_shares": (100, 301),
            "batch_size": 150,
        }
        own = {
            "mnist": {
                "n_clusters": (25, 25),
                "latent_dims": (5, 5),
                "backbone": "mlp",
                "hidden_dims": (500, 2000),
                "likelihood": "bernoulli",
                "output": "sigmoid",
                "covariance_type": "diag",
                "learn_weights": True,
                "stage_shares": (200, 201),
                "fade_in": 15_000 / (201 * 118),
                "batch_size": 512,
                "lr": 5e-4,
            },
            "3dshapes": {
                **conv,
                "n_clusters": (60, 20),
                "latent_dims": (20, 2),
                "sigma_x": 0.6,
                "output": "identity",
                "fade_in": 2_000 / (301 * 26),
                "lr": 3e-4,
            },
            "svhn": {
                **conv,
                "n_clusters": (200, 50),
                "latent_dims": (22, 7),
                "sigma_x": 0.3,
                "output": "sigmoid",
                "fade_in": 15_000 / (301 * 489),
                "lr": 5e-4,
            },
        }
        if name not in list(own):
            raise ValueError(
                f"name={name!r} is unknown; pass one of {', '.join(map(repr, own))}."
            )
        return {**always, **own[name]}

    _auto_budget = (40, 1600, 6000)

    # -- what the engine asks ----------------------------------------------------------

    def _module(self, plan):
        vectors, n = is_vector(plan.image_shape), self.n_facets
        if vectors and self.likelihood == "bernoulli":
            raise ValueError(
                "likelihood='bernoulli' needs images, whose values go to [0, 1], but X "
                "holds vectors. Use 'gaussian', or pass image_shape=(C, H, W) if the "
                "rows are images."
            )
        n_clusters = self._per_facet("n_clusters", self.n_clusters)
        check_enough(plan.n_samples, max(n_clusters))
        latent_dims, hidden_dims = self.latent_dims, self.hidden_dims
        if isinstance(latent_dims, str):
            latent_dims = (5,) + (2,) * (n - 1) if n > 1 else (10,)
        if isinstance(hidden_dims, str):
            hidden_dims = (400,) * n
            if plan.backbone == "conv":
                hidden_dims = tuple(min(16 * 2**j, 64) for j in range(n))
        output = self.output
        if output == "auto":
            output = "identity" if vectors else "sigmoid"
        if self.likelihood == "bernoulli" and output == "identity":
            raise ValueError(
                "likelihood='bernoulli' needs probabilities; use output='sigmoid', or "
                "'auto'."
            )
        ladder = {"shared": self.architecture == "shared"}
        if plan.backbone == "conv":
            ladder["normalize_output"] = self.normalize_output
        options = (
            "likelihood",
            "sigma_x",
            "elbo_estimator",
            "n_mc_samples",
            "fade_in",
            "prior_init",
            "warmup",
            "n_refits",
            "init_variance",
        )
        return MFCVAEModule, {
            "backbone": plan.backbone,
            "ladder": ladder,
            "image_shape": plan.image_shape,
            "n_clusters": n_clusters,
            "latent_dims": self._per_facet("latent_dims", latent_dims),
            "hidden_dims": self._per_facet("hidden_dims", hidden_dims),
            "stage_epochs": self._stage_epochs(plan.max_epochs),
            "steps_per_epoch": plan.steps_per_epoch,
            "primary_facet": self._primary(),
            "covariance_type": self.covariance_type,
            "learn_weights": self.learn_weights,
            "output": output,
            **{name: getattr(self, name) for name in options},
        }

    def _per_facet(self, name, value):
        """Return one positive integer for each facet."""
        n = self.n_facets
        values = [value] * n if np.ndim(value) == 0 else list(value)
        if len(values) != n:
            raise ValueError(
                f"{name}={value!r} has {len(values)} entries, but n_facets={n}. Pass "
                f"one integer, or {n}: from the shallow facets to the deep ones."
            )
        if not all(isinstance(v, Integral) and v >= 1 for v in values):
            raise ValueError(f"{name}={value!r} should hold integers of at least 1.")
        return tuple(int(v) for v in values)

    def _primary(self):
        return check_facet(self.primary_facet, self.n_facets, "primary_facet")

    def _stage_epochs(self, max_epochs):
        """Return the epochs of each stage, in the order of training."""
        n, shares = self.n_facets, self.stage_shares
        if shares is None:
            shares = [1] * n
        if len(shares) != n or not all(
            isinstance(s, Real) and 0 < s < math.inf for s in shares
        ):
            raise ValueError(
                f"stage_shares={self.stage_shares!r} should be None or {n} positive "
                "numbers, one for each facet (n_facets), the deepest first."
            )
        if not self.progressive or max_epochs < n:
            return (max_epochs,)
        ends = np.rint(np.cumsum(shares) / np.sum(shares) * max_epochs).astype(int)
        # every stage has one epoch at least
        ends = np.maximum(ends, np.arange(1, n + 1))
        ends = np.minimum(ends, max_epochs - np.arange(n)[::-1])
        return tuple(np.diff(ends, prepend=0).tolist())

    @property
    def _n_clusters(self):
        values = self._per_facet("n_clusters", self.n_clusters)
        return values[self._primary()]

    def _resolve_backbone(self, device):
        vectors = is_vector(self.image_shape_)
        if self.backbone == "auto":
            return "mlp" if vectors else "conv"
        if not isinstance(self.backbone, str) or self.backbone not in LADDERS:
            raise ValueError(
                f"backbone={self.backbone!r} is no network that MFCVAE can turn into a "
                "decoder. Pass 'auto', 'mlp' or 'conv', and hidden_dims for its size."
            )
        if vectors and self.backbone == "conv":
            raise ValueError(
                "backbone='conv' needs images, but X holds vectors. Use "
                "backbone='mlp', or pass image_shape=(C, H, W) if the rows are images."
            )
        return self.backbone

    def _collapse_warning(self):
        return FacetCollapseWarning()

    def _optimizer_params(self, plan):
        return {"optimizer": torch.optim.Adam}

    def _state(self, net):
        ends = np.cumsum(net.module_.latent_dims)
        dims = zip(ends - net.module_.latent_dims, ends, strict=True)
        kept = [np.arange(k) for k in net.module_.n_clusters]
        return {
            **super()._state(net),
            "facet_slices_": [slice(int(a), int(b)) for a, b in dims],
            "_primary_facet": net.module_.primary_facet,
            "_kept_facets": kept,
        }

    def _clusterings(self):
        asked = self._per_facet("n_clusters", self.n_clusters)
        pairs = zip(self.n_active_clusters_, asked, strict=True)
        return [(f"Facet {j}: ", *pair) for j, pair in enumerate(pairs)]

    def _finish(self, net, images):
        super()._finish(net, images)
        labels = [a.argmax(1) for a in self._facet_logits(images)]
        found = [np.unique(column, return_inverse=True) for column in labels]
        self._kept_facets = [kept for kept, _ in found]
        self.facet_labels_ = np.stack([inverse for _, inverse in found], axis=1)
        self.n_active_clusters_ = [len(kept) for kept in self._kept_facets]
        priors = list(zip(net.module_.priors, self._kept_facets, strict=True))
        with torch.no_grad():
            weights = [p.weights.cpu().numpy()[kept] for p, kept in priors]
            self.means_ = [p.means.cpu().numpy()[kept] for p, kept in priors]
            self.covariances_ = [
                p.covariances.cpu().numpy()[kept] for p, kept in priors
            ]
        self.weights_ = [w / w.sum() for w in weights]

    # -- how well images are explained -------------------------------------------------

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
        images = self._read(X)
        return (
            self.net_.evaluate(images, self.net_.module_.evidence).cpu().numpy()[:, 0]
        )

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
        return float(self.score_samples(X).astype(np.float64).mean())
