"""Mixtures of Gaussians as priors, and how they are fitted."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional as F

from .._engine.net import INFERENCE_BATCH
from .._engine.protocol import Stateful
from .._engine.randomness import draw_seed, generator
from .._warnings import ignored
from .gaussians import expected_log_normal, log_normal

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

BETA = 10.0  # of softplus, as in the authors' code
MIN_SCALE = 1e-3  # of a component: one point must not shrink its variance to 0
FIT_ROWS = 20_000  # that a mixture is fitted to at most
N_INIT, EM_STEPS = 3, 5  # of a fit: starts of the mixture, and steps after it


def fit_mixture(
    points: Tensor, n_clusters: int, covariance_type: Literal["diag", "full"]
) -> GaussianMixture:
    """Fit scikit-learn's mixture, the best of some starts, seeded by torch.

    Parameters
    ----------
    points : tensor of shape (n, d)
    n_clusters : int
    covariance_type : {"diag", "full"}

    Returns
    -------
    mixture : GaussianMixture
    """
    from sklearn.mixture import GaussianMixture  # which imports half of scikit-learn

    rows = points.double().cpu().numpy()
    mixture = GaussianMixture(
        n_clusters,
        covariance_type=covariance_type,
        n_init=N_INIT,
        reg_covar=1e-4 * rows.var() + 1e-9,
        random_state=draw_seed(),
    )
    # few distinct points, or not converged: the bound decides what is kept; and it is
    # so small that threads would mostly wait for each other
    with ignored(ConvergenceWarning), threadpool_limits(1):
        return mixture.fit(rows)


class MixturePrior(Stateful):
    """A mixture of K Gaussians in d dimensions, the prior of a facet.

    It starts as N(0, I): all components are equal, and none is trained until
    :meth:`set` or :meth:`fit` has told them apart.

    Parameters
    ----------
    n_clusters, dim : int
        K and d.
    covariance_type : {"diag", "full"}, default="diag"
    learn_weights : bool, default=False
        Whether the weights are learnt; else they stay uniform.

    Attributes
    ----------
    is_set : bool
        Whether the components were told apart.
    """

    saved = ["is_set"]

    def __init__(self, n_clusters, dim, covariance_type="diag", learn_weights=False):
        super().__init__()
        self.covariance_type, self.learn_weights = covariance_type, learn_weights
        self.raw_weights = nn.Parameter(torch.zeros(n_clusters))
        self.means = nn.Parameter(torch.zeros(n_clusters, dim))
        one = _inverse_softplus(torch.tensor(1.0 - MIN_SCALE, device="cpu"))
        raw = torch.full((n_clusters, dim), one.item())
        if covariance_type == "full":
            raw = torch.diag_embed(raw)
        self.raw_scales = nn.Parameter(raw)
        self._train(False)

    def set_extra_state(self, state):
        """Take what ``get_extra_state`` gave."""
        super().set_extra_state(state)
        self._train(self.is_set)

    def _train(self, is_set):
        """Only components that are set are trained."""
        self.is_set = is_set
        self.means.requires_grad_(is_set)
        self.raw_scales.requires_grad_(is_set)
        self.raw_weights.requires_grad_(is_set and self.learn_weights)

    @property
    def n_clusters(self) -> int:
        """K."""
        return len(self.means)

    @property
    def log_weights(self) -> Tensor:
        """Log-weights, (K,)."""
        return self.raw_weights.log_softmax(0)

    @property
    def weights(self) -> Tensor:
        """Weights, (K,)."""
        return self.raw_weights.softmax(0)

    @property
    def scales(self) -> Tensor:
        """Standard deviations (K, d), or lower Cholesky factors (K, d, d)."""
        if self.covariance_type == "diag":
            return F.softplus(self.raw_scales, beta=BETA) + MIN_SCALE
        diagonal = self.raw_scales.diagonal(dim1=1, dim2=2)
        diagonal = F.softplus(diagonal, beta=BETA) + MIN_SCALE
        return self.raw_scales.tril(-1) + torch.diag_embed(diagonal)

    @property
    def covariances(self) -> Tensor:
        """Variances (K, d), or covariances (K, d, d)."""
        scales = self.scales
        return scales.square() if scales.ndim == 2 else scales @ scales.mT

    def log_joint(self, z: Tensor) -> Tensor:
        """``log pi_k + log N(z; mu_k, S_k)``, (b, K)."""
        return self.log_weights + log_normal(z, self.means, self.scales)

    def expected_log_joint(self, mean: Tensor, log_var: Tensor) -> Tensor:
        """Expectation of :meth:`log_joint` over N(mean, diag exp log_var), (b, K)."""
        expected = expected_log_normal(mean, log_var, self.means, self.scales)
        return self.log_weights + expected

    @torch.no_grad()
    def set(self, weights, means, covariances) -> None:
        """Set the components; they are trained from now on.

        Parameters
        ----------
        weights : array of shape (K,)
            Not read unless they are learnt.
        means : array of shape (K, d)
        covariances : array of shape (K, d) or (K, d, d)
            As in :class:`sklearn.mixture.GaussianMixture`.
        """
        device = self.means.device
        double = partial(torch.as_tensor, dtype=torch.float64, device=device)
        covariances = double(covariances)
        if self.learn_weights:
            self.raw_weights.copy_(double(weights).clamp_min(1e-6).log())
        self.means.copy_(double(means))
        if self.covariance_type == "diag":
            raw = _inverse_softplus(_above_floor(covariances.sqrt()))
        else:
            raw = torch.linalg.cholesky(covariances)
            diagonal = _above_floor(raw.diagonal(dim1=1, dim2=2))
            raw = raw.tril(-1) + torch.diag_embed(_inverse_softplus(diagonal))
        self.raw_scales.copy_(raw)
        self._train(True)

    @torch.no_grad()
    def fit(self, mean: Tensor, log_var: Tensor) -> None:
        """Fit the components to the posteriors of a data set.

        A :class:`~sklearn.mixture.GaussianMixture` of the means, widened by the mean
        posterior variance, and then steps of :meth:`em_step`, which take that of each
        sample.

        Parameters
        ----------
        mean, log_var : tensors of shape (n, d)
        """
        if len(mean) > FIT_ROWS:
            rows = torch.randperm(
                len(mean), device=mean.device, generator=generator(mean.device)
            )[:FIT_ROWS]
            mean, log_var = mean[rows], log_var[rows]
        mixture = fit_mixture(mean, self.n_clusters, self.covariance_type)
        # without the posteriors' variance the widest component would take everything
        spread = log_var.double().exp().mean(0).cpu().numpy()
        if self.covariance_type == "full":
            spread = np.diag(spread)
        self.set(mixture.weights_, mixture.means_, mixture.covariances_ + spread)
        for _ in range(EM_STEPS):
            self.em_step(mean, log_var)

    @torch.no_grad()
    def em_step(self, mean: Tensor, log_var: Tensor) -> None:
        """One exact step of expectation maximisation on fixed posteriors.

        It never lowers the mean of ``logsumexp_k expected_log_joint``. Components
        without any share stay as they are.

        Parameters
        ----------
        mean, log_var : tensors of shape (n, d)
        """
        mean, log_var = mean.double(), log_var.double()
        old = self.means.double(), self.scales.double()
        log_joint = self.log_weights + expected_log_normal(mean, log_var, *old)
        r = log_joint.softmax(1)
        mass = r.sum(0)
        live = (mass > 1e-6).unsqueeze(1)
        share = r / mass.clamp_min(1e-6)
        means = torch.where(live, share.T @ mean, old[0])
        spread = share.T @ log_var.exp()
        pairs = zip(share.T, means, strict=True)
        if self.covariance_type == "diag":
            squares = [s @ (mean - m).square() for s, m in pairs]
            covariances = torch.stack(squares) + spread
        else:
            live = live.unsqueeze(2)
            squares = [(s * (mean - m).T) @ (mean - m) for s, m in pairs]
            covariances = torch.stack(squares) + torch.diag_embed(spread)
        covariances = torch.where(live, covariances, self.covariances.double())
        self.set(mass / mass.sum(), means, covariances)

    def sample(self, components: Tensor, temperature: float = 1.0) -> Tensor:
        """Draw a point from each of these components.

        Parameters
        ----------
        components : int64 tensor of shape (n,)
        temperature : float, default=1.0
            Multiplies the standard deviation: 0 gives the means.

        Returns
        -------
        z : tensor of shape (n, d)
        """
        scales = self.scales[components]
        noise = torch.empty_like(self.means[components])
        noise.normal_(generator=generator(noise.device))
        if scales.ndim == 2:
            shift = scales * noise
        else:
            shift = (scales @ noise.unsqueeze(2)).squeeze(2)
        return self.means[components] + temperature * shift


def log_joint_of_all(prior: MixturePrior, mean: Tensor, log_var: Tensor) -> Tensor:
    """``prior.expected_log_joint`` of all images (n, d), some at a time: (n, K)."""
    rows = zip(mean.split(INFERENCE_BATCH), log_var.split(INFERENCE_BATCH), strict=True)
    return torch.cat([prior.expected_log_joint(*part) for part in rows])


@torch.no_grad()
def refit_prior(prior: MixturePrior, mean: Tensor, log_var: Tensor) -> None:
    """Fit a prior anew, and keep the old components unless the bound rises.

    With q(z|x) fixed, the rest of the evidence lower bound does not depend on the
    prior: this step never lowers it.

    Parameters
    ----------
    prior : MixturePrior
    mean, log_var : tensors of shape (n, d)
        The posteriors of a data set.
    """

    def bound():
        return log_joint_of_all(prior, mean, log_var).logsumexp(1).mean()

    before, old = bound(), copy.deepcopy(prior.state_dict())
    prior.fit(mean, log_var)
    if not bound() > before:
        prior.load_state_dict(old)


def _inverse_softplus(y):
    return y + torch.log(-torch.expm1(-BETA * y)) / BETA


def _above_floor(scale):
    return (scale - MIN_SCALE).clamp_min(1e-5)
