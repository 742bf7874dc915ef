"""What the tests of MFCVAE share: small settings, mixtures, modules to try."""

import math
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from skdeepcluster import MFCVAE
from skdeepcluster._engine.protocol import DataFacts
from skdeepcluster._input.images import Images
from skdeepcluster._input.scaling import Scaling
from skdeepcluster.mfcvae.mixture import MixturePrior
from skdeepcluster.mfcvae.module import MFCVAEModule

SMALL = {
    "n_clusters": 3,
    "n_facets": 2,
    "latent_dims": (3, 1),
    "hidden_dims": 8,
    "sigma_x": 0.2,
    "max_epochs": 2,
    "batch_size": 32,
    "lr": 1e-2,
    "n_refits": 1,
    "device": "cpu",
    "precision": "float32",
    "random_state": 0,
}
# what finds the factors of the small images
ENOUGH = {"max_epochs": 60, "hidden_dims": 32, "n_refits": 5}


def make(**params):
    """An unfitted MFCVAE: two epochs, enough for what does not depend on learning."""
    return MFCVAE(**{**SMALL, **params})


def fit(X, **params):
    """Fit it, without warnings of clusters that are empty by then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make(**params).fit(X)


LEARNT = {}


def learnt(X, n_clusters=(4, 3)):
    """A model that found the factors of X: fitted once, not to be changed."""
    if n_clusters not in LEARNT:
        LEARNT[n_clusters] = make(**{**ENOUGH, "n_clusters": n_clusters}).fit(X)
    return LEARNT[n_clusters]


def means_of(model, labels):
    """Means of these clusters, side by side."""
    means = [
        means[column] for means, column in zip(model.means_, labels.T, strict=True)
    ]
    return np.concatenate(means, axis=1)


def convergence_warnings(function, *args):
    """Messages of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*args)
    return [str(w.message) for w in caught if w.category is ConvergenceWarning]


def make_module(X, **params):
    """Module of resolved parameters for images X, before the first step."""
    images = Images(X, X.shape[1:])
    data = DataFacts(images.shape, len(X), Scaling(images), nn.Identity())
    p = make(**params)
    p._resolve(data)
    return MFCVAEModule(p, data)


# -- numbers in float64 ----------------------------------------------------------------


def randn(*shape, seed=0, grad=False):
    generator = torch.Generator().manual_seed(seed)
    out = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return out.requires_grad_(grad)


def assert_close(actual, expected, atol=1e-10):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def numpy(tensor):
    return tensor.detach().numpy()


def dense(covariances):
    """Covariance matrices, of variances too."""
    covariances = np.asarray(covariances)
    if covariances.ndim == 2:
        covariances = covariances[:, None] * np.eye(covariances.shape[1])
    return covariances


def posterior(n, dim, seed=0, grad=False):
    """Mean and log-variance of q(z|x) for n samples."""
    mean = randn(n, dim, seed=seed)
    log_var = 0.7 * randn(n, dim, seed=seed + 1) - 0.5
    return mean.requires_grad_(grad), log_var.requires_grad_(grad)


def entropy(log_var):
    return 0.5 * (log_var + 1 + math.log(2 * math.pi)).sum(1)


def log_q(z, mean, log_var):
    density = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    return density.log_prob(z).sum(-1)


def random_mixture(n_clusters, dim, covariance_type, seed=0):
    """Weights, means and covariances in the layout of GaussianMixture."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(n_clusters, 3.0))
    means = rng.normal(size=(n_clusters, dim))
    if covariance_type == "diag":
        covariances = rng.uniform(0.1, 1.5, (n_clusters, dim))
    else:
        a = rng.normal(size=(n_clusters, dim, dim))
        covariances = a @ a.transpose(0, 2, 1) / dim + 0.1 * np.eye(dim)
    return weights, means, covariances


def random_prior(n_clusters, dim, covariance_type="diag", seed=0, learn_weights=True):
    prior = MixturePrior(n_clusters, dim, covariance_type, learn_weights).double()
    weights, means, covariances = random_mixture(n_clusters, dim, covariance_type, seed)
    if not learn_weights:
        weights = np.full(n_clusters, 1 / n_clusters)
    prior.set(weights, means, covariances)
    return prior


def slow_mc_bound(z, mean, log_var, prior):
    """Mean log p(z) - log q(z|x), and the loss by one q(c|x) for all L samples."""
    log_joint = torch.stack([prior.log_joint(sample) for sample in z])
    log_p = log_joint.logsumexp(2)
    log_r = log_joint - log_p[:, :, None]
    density = torch.stack([log_q(sample, mean, log_var) for sample in z])
    return (log_p - density).mean(0) + log_r.mean(0).logsumexp(1)
