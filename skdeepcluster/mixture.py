"""Mixtures of Gaussians as priors: densities, expectations, fits."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional as F

LOG_2PI = math.log(2 * math.pi)
BETA = 10.0  # of softplus, as in the authors' code
MIN_SCALE = 1e-3  # of a component: one point must not draw its variance to 0
FIT_ROWS = 20_000  # that a mixture is fitted to at most
N_INIT, EM_STEPS = 3, 5  # of a fit: starts of the mixture, and steps after it


def log_normal(z: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """Log-density of points under each of K Gaussians.

    Parameters
    ----------
    z : tensor of shape (b, d)
    means : tensor of shape (K, d)
    scales : tensor of shape (K, d) or (K, d, d)
        Standard deviations, or lower Cholesky factors of full covariances.

    Returns
    -------
    log_density : tensor of shape (b, K)
    """
    difference = z.unsqueeze(1) - means
    if scales.ndim == 2:
        whitened, log_det = difference / scales, scales.log().sum(1)
    else:
        whitened = torch.linalg.solve_triangular(
            scales, difference.permute(1, 2, 0), upper=False
        ).permute(2, 0, 1)
        log_det = scales.diagonal(dim1=1, dim2=2).log().sum(1)
    dim = means.shape[1]
    return -0.5 * (dim * LOG_2PI + whitened.square().sum(2)) - log_det


def expected_log_normal(
    mean: Tensor, log_var: Tensor, means: Tensor, scales: Tensor
) -> Tensor:
    """Expectation of :func:`log_normal` over diagonal Gaussians, in closed form.

    Parameters
    ----------
    mean, log_var : tensors of shape (b, d)
        Of the Gaussian that z follows.
    means : tensor of shape (K, d)
    scales : tensor of shape (K, d) or (K, d, d)
        As for :func:`log_normal`.

    Returns
    -------
    expectation : tensor of shape (b, K)
        ``log N(mean; mu_k, S_k) - sum_i var_i (S_k^-1)_ii / 2``.
    """
    if scales.ndim == 2:
        precision = scales.square().reciprocal()
    else:
        eye = torch.eye(means.shape[1], dtype=scales.dtype, device=scales.device)
        inverse = torch.linalg.solve_triangular(
            scales, eye.expand_as(scales), upper=False
        )
        precision = inverse.square().sum(1)  # the diagonal of L^-T L^-1
    return log_normal(mean, means, scales) - 0.5 * log_var.exp() @ precision.T


def fit_mixture(
    points: Tensor, n_clusters: int, covariance_type: str
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
    points = points.double().cpu().numpy()
    mixture = GaussianMixture(
        n_clusters,
        covariance_type=covariance_type,
        n_init=N_INIT,
        reg_covar=1e-4 * points.var() + 1e-9,
        random_state=int(torch.randint(2**31 - 1, ())),
    )
    # so small that threads would mostly wait for each other
    with threadpool_limits(1), warnings.catch_warnings():
        # few distinct points, or not converged: the bound decides what is kept
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(points)


def _inverse_softplus(y):
    return y + torch.log(-torch.expm1(-BETA * y)) / BETA


class MixturePrior(nn.Module):
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
    """

    def __init__(self, n_clusters, dim, covariance_type="diag", learn_weights=False):
        super().__init__()
        self.covariance_type, self.learn_weights = covariance_type, learn_weights
        self.raw_weights = nn.Parameter(torch.zeros(n_clusters))
        self.means = nn.Parameter(torch.zeros(n_clusters, dim))
        one = _inverse_softplus(torch.tensor(1.0 - MIN_SCALE))
        raw = torch.full((n_clusters, dim), one.item())
        if covariance_type == "full":
            raw = torch.diag_embed(raw)
        self.raw_scales = nn.Parameter(raw)
        self.set_extra_state(False)

    def get_extra_state(self):
        """Whether the components were set, for ``state_dict``."""
        return self.is_set

    def set_extra_state(self, is_set):
        """Take what :meth:`get_extra_state` gave: only set components are trained."""
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
        like = {"dtype": torch.float64, "device": self.means.device}
        covariances = torch.as_tensor(covariances, **like)
        if self.learn_weights:
            weights = torch.as_tensor(weights, **like)
            self.raw_weights.copy_(weights.clamp_min(1e-6).log())
        self.means.copy_(torch.as_tensor(means, **like))
        if self.covariance_type == "diag":
            raw = _inverse_softplus(_above_floor(covariances.sqrt()))
        else:
            raw = torch.linalg.cholesky(covariances)
            diagonal = _above_floor(raw.diagonal(dim1=1, dim2=2))
            raw = raw.tril(-1) + torch.diag_embed(_inverse_softplus(diagonal))
        self.raw_scales.copy_(raw)
        self.set_extra_state(True)

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
            rows = torch.randperm(len(mean), device=mean.device)[:FIT_ROWS]
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
        noise = torch.randn_like(self.means[components])
        if scales.ndim == 2:
            shift = scales * noise
        else:
            shift = (scales @ noise.unsqueeze(2)).squeeze(2)
        return self.means[components] + temperature * shift


def _above_floor(scale):
    return (scale - MIN_SCALE).clamp_min(1e-5)
