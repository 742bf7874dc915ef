"""Networks, priors and objective of MFCVAE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._engine.protocol import ClusterModule
from .._engine.randomness import generator
from .bounds import analytic_bound, divergences, log_likelihood, monte_carlo_bound
from .collapse import effective_number
from .gaussians import gaussian_entropy
from .ladders import make_ladder
from .mixture import MixturePrior, fit_mixture, log_joint_of_all, refit_prior
from .stages import faded_in, prior_starts, refit_epochs, stage_lengths

if TYPE_CHECKING:
    from .estimator import MFCVAE

SCORE_NOISE = 8  # fixed noise vectors of score_samples: four and their opposites


class MFCVAEModule(ClusterModule):
    """Networks, priors and objective of MFCVAE.

    Parameters
    ----------
    p : MFCVAE
        Resolved parameters.
    data : DataFacts

    Attributes
    ----------
    alpha : list of J floats
        How far each facet takes part in this step, from the shallow to the deep ones.
    """

    p: MFCVAE
    centers: Tensor
    noise: Tensor
    priors: Sequence[MixturePrior]
    saved = ["alpha"]
    n_views = 1

    def __init__(self, p, data):
        super().__init__(p, data)
        self.backbone, self.decoder = make_ladder(p, data.image_shape)
        self.priors = nn.ModuleList(
            MixturePrior(k, d, p.covariance_type, p.learn_weights)
            for k, d in zip(p.n_clusters, p.latent_dims, strict=True)
        )
        width = sum(p.latent_dims)
        half = torch.randn(SCORE_NOISE // 2, width)
        self.register_buffer("noise", torch.cat([half, -half]))
        centers = torch.zeros(p.n_clusters[p.primary_facet], width)
        self.register_buffer("centers", centers)
        shares = p.stage_shares if p.progressive else [1]
        self.stages = stage_lengths(p.max_epochs, shares)
        self.prior_starts = [0] * p.n_facets
        if p.prior_init == "warmup_gmm":
            self.prior_starts = prior_starts(self.stages, p.n_facets, p.prior_warmup)
        self.refits = refit_epochs(self.stages, p.prior_warmup, p.n_refits)
        self.fade()

    # -- networks ----------------------------------------------------------------------

    def posterior(self, x):
        """[means | log-variances] of all facets, (b, 2 D)."""
        return self.run(self.backbone, x)

    def decode(self, z):
        """Output of the decoder for latents (b, D), before the non-linearity."""
        return self.run(lambda z: self.decoder(z, self.alpha), z)

    def generate(self, z):
        """Mean images, in [0, 1], of latents (b, D); vectors at unit scale."""
        out = self.decode(z)
        return out.sigmoid() if self.p.output == "sigmoid" else out

    def log_likelihood(self, x, z):
        """Log-likelihood of images given latents (b, D): (b,)."""
        p = self.p
        out = self.decode(z) if p.likelihood == "bernoulli" else self.generate(z)
        return log_likelihood(x, out, p.likelihood, p.sigma_x)

    def by_facet(self, *tensors):
        """Split columns (..., D) of tensors: a tuple of them for each facet."""
        parts = (t.split(self.p.latent_dims, dim=-1) for t in tensors)
        return list(zip(*parts, strict=True))

    # -- one batch ---------------------------------------------------------------------

    def losses(self, batch):
        """Weighted parts of one batch: ``reconstruction``, and ``facet0``, ..."""
        n_samples, (x,) = self.p.n_mc_samples, batch.views
        mean, log_var = self.posterior(x).chunk(2, dim=1)
        noise = torch.randn(
            n_samples,
            *mean.shape,
            device=mean.device,
            generator=generator(mean.device),
        )
        z = mean + (0.5 * log_var).exp() * noise
        copies = x.repeat(n_samples, 1, 1, 1)
        log_p = self.log_likelihood(copies, z.flatten(0, 1))
        # not the facets times beta: Adam's steps would stay small long after it fell
        parts = {"reconstruction": -log_p.mean() / self.beta}
        for j, facet in enumerate(self.by_facet(z, mean, log_var)):
            parts[f"facet{j}"] = mean.new_zeros(())
            if self.alpha[j] > 0:
                bound = self.bound(self.priors[j], *facet)
                parts[f"facet{j}"] = -self.alpha[j] * bound.mean()
        return parts

    def bound(self, prior, z, mean, log_var):
        """Part of a facet in the bound, by the estimator of choice: (b,)."""
        if self.p.elbo_estimator == "analytic":
            return analytic_bound(log_var, prior.expected_log_joint(mean, log_var))
        log_joint = prior.log_joint(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        return monte_carlo_bound(z, mean, log_var, log_joint)

    def after_step(self, batch):
        """Fade in the facet of this stage."""
        self.fade()

    def fade(self):
        """Set alpha for the step to come."""
        clock, p = self.clock, self.p
        steps = [epochs * clock.steps_per_epoch for epochs in self.stages]
        self.alpha = faded_in(clock.step, steps, p.n_facets, p.fade_in)

    @property
    def beta(self):
        """What the likelihood is divided by: 1 when all facets take full part.

        It falls once the new facet is faded in: before, the older ones would take what
        is left to that.
        """
        return self.p.beta_decay ** sum(alpha < 1 for alpha in self.alpha)

    # -- all images --------------------------------------------------------------------

    def encode(self, x):
        """Means of all facets, (b, D)."""
        return self.posterior(x).chunk(2, dim=1)[0]

    def logits(self, x):
        """Expected log joint of the primary facet: its softmax is q(c|x)."""
        parts = self.facet_logits(x).split(self.p.n_clusters, dim=1)
        return parts[self.p.primary_facet]

    def facet_logits(self, x):
        """Expected log joints of all facets side by side, (b, sum of K_j)."""
        facets = self.by_facet(*self.posterior(x).chunk(2, dim=1))
        pairs = zip(self.priors, facets, strict=True)
        return torch.cat([p.expected_log_joint(*facet) for p, facet in pairs], dim=1)

    def evidence(self, x):
        """Evidence lower bound of images, in nats: (b, 1).

        The expectation of the likelihood is over the same few noise vectors for every
        image, so that the bound of an image does not depend on its neighbours.
        """
        mean, log_var = self.posterior(x).chunk(2, dim=1)
        std = (0.5 * log_var).exp()
        log_p = [self.log_likelihood(x, mean + std * e) for e in self.noise]
        bound = sum(log_p, mean.new_zeros(())) / len(log_p)
        for prior, facet in zip(self.priors, self.by_facet(mean, log_var), strict=True):
            bound = bound + analytic_bound(facet[1], prior.expected_log_joint(*facet))
        return bound.unsqueeze(1)

    @torch.no_grad()
    def refresh(self, embed):
        """Fit the priors whose time has come, and report."""
        epoch, facets = self.clock.epoch, self.posteriors(embed)
        for j, (prior, facet) in enumerate(zip(self.priors, facets, strict=True)):
            if epoch == self.prior_starts[j]:
                self.start(prior, *facet)
            elif epoch in self.refits and prior.is_set:
                refit_prior(prior, *facet)
        return self.report(facets)

    def posteriors(self, embed):
        """Means and log-variances (n, d_j) of all training images, for each facet."""
        return self.by_facet(*embed(self.posterior).chunk(2, dim=1))

    def start(self, prior, mean, log_var):
        """Give a prior its first components."""
        if self.p.prior_init == "warmup_gmm":
            return prior.fit(mean, log_var)
        if self.p.prior_init == "gmm":
            # as the authors do: of the fitted mixture only the means are kept
            mixture = fit_mixture(mean, prior.n_clusters, "diag")
            means = torch.as_tensor(mixture.means_, device=mean.device)
        else:
            means = torch.empty_like(prior.means)
            means.normal_(generator=generator(means.device))
        variance = torch.full_like(means, self.p.init_variance)
        if prior.covariance_type == "full":
            variance = torch.diag_embed(variance)
        prior.set(torch.ones(len(means)) / len(means), means, variance)

    def report(self, facets):
        """What the history shall hold, of posteriors of all images."""
        report = {"alpha": list(self.alpha)}
        report |= {"kl_z": [], "kl_c": [], "effective_clusters": []}
        for j, (prior, facet) in enumerate(zip(self.priors, facets, strict=True)):
            joint, log_weights = log_joint_of_all(prior, *facet), prior.log_weights
            kl_z, kl_c = divergences(
                joint.softmax(1),
                joint - log_weights,
                log_weights,
                -gaussian_entropy(facet[1]),
            )
            sizes = joint.argmax(1).bincount(minlength=prior.n_clusters)
            in_use = effective_number(sizes) if prior.is_set else 0.0
            report["kl_z"].append(kl_z.mean().item())
            report["kl_c"].append(kl_c.mean().item())
            report["effective_clusters"].append(in_use)
            if j == self.p.primary_facet:
                report["cluster_sizes"] = sizes.tolist()
        return report

    @torch.no_grad()
    def finish(self, embed):
        """Settle the priors and the centres by the final networks."""
        facets = self.posteriors(embed)
        for prior, facet in zip(self.priors, facets, strict=True):
            if not prior.is_set:
                self.start(prior, *facet)
            elif self.p.n_refits > 0:
                refit_prior(prior, *facet)
        # facets that an interrupt came before stay out of the images
        self.alpha = [1.0 if a > 0 else 0.0 for a in self.alpha]
        j = self.p.primary_facet
        labels = log_joint_of_all(self.priors[j], *facets[j]).argmax(1)
        members = F.one_hot(labels, len(self.centers)).to(self.centers)
        means = torch.cat([mean for mean, _ in facets], dim=1)
        self.centers = members.T @ means / members.sum(0).unsqueeze(1).clamp_min(1)

    # -- training ----------------------------------------------------------------------

    def schedule(self):
        """None: the learning rate is constant, as in the authors' code."""
        return None

    def optimizer(self):
        """Adam, as in the authors' code."""
        return {"optimizer": torch.optim.Adam}
