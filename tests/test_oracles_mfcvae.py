"""The numbers of MFCVAE's formulas, computed by hand or by slow loops."""

import copy
import math

import numpy as np
import pytest
import torch
from conftest import SMALL_FACETS
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from torch import nn

from skdeepcluster._net import Batch
from skdeepcluster.ladders import conv_ladder, mlp_ladder
from skdeepcluster.mfcvae import (
    MFCVAE,
    analytic_bound,
    divergences,
    effective_number,
    log_likelihood,
    monte_carlo_bound,
    progress,
    refit_prior,
)
from skdeepcluster.mixture import MixturePrior, expected_log_normal, log_normal

each_covariance = pytest.mark.parametrize("covariance_type", ["diag", "full"])


def randn(*shape, seed=0, grad=False):
    generator = torch.Generator().manual_seed(seed)
    out = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return out.requires_grad_(grad)


def assert_close(actual, expected, atol=1e-10):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


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


def dense(covariances):
    """Covariance matrices, of variances too."""
    covariances = np.asarray(covariances)
    if covariances.ndim == 2:
        covariances = covariances[:, None] * np.eye(covariances.shape[1])
    return covariances


def numpy(tensor):
    return tensor.detach().numpy()


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


# -- the prior: oracles 1, 3, 6, 9, 14 -------------------------------------------------


@each_covariance
def test_density_and_responsibilities_are_those_of_scikit_learn(covariance_type):
    # oracle 1
    weights, means, covariances = random_mixture(6, 3, covariance_type)
    prior = random_prior(6, 3, covariance_type)
    reference = GaussianMixture(6, covariance_type=covariance_type)
    reference.weights_, reference.means_ = weights, means
    reference.covariances_ = covariances
    inverse = [np.linalg.inv(np.linalg.cholesky(c)).T for c in dense(covariances)]
    reference.precisions_cholesky_ = (
        np.stack(inverse) if covariance_type == "full" else covariances**-0.5
    )
    z = 2 * randn(50, 3)
    log_joint = numpy(prior.log_joint(z))
    np.testing.assert_allclose(
        np.logaddexp.reduce(log_joint, axis=1), reference.score_samples(z), atol=1e-10
    )
    np.testing.assert_allclose(
        numpy(prior.log_joint(z).softmax(1)), reference.predict_proba(z), atol=1e-12
    )


@each_covariance
def test_log_normal_is_that_of_scipy(covariance_type):
    _, means, covariances = random_mixture(4, 3, covariance_type, seed=3)
    full = covariance_type == "full"
    scales = np.linalg.cholesky(covariances) if full else covariances**0.5
    z = randn(9, 3)
    actual = log_normal(z, torch.tensor(means), torch.tensor(scales))
    expected = [
        multivariate_normal(mean, covariance).logpdf(z)
        for mean, covariance in zip(means, dense(covariances), strict=True)
    ]
    np.testing.assert_allclose(actual, np.stack(expected, 1), atol=1e-10)


@each_covariance
def test_expectation_under_the_posterior(covariance_type):
    # oracle 3: 400 000 samples, within four standard errors
    prior = random_prior(4, 3, covariance_type)
    mean, log_var = posterior(2, 3)
    expected = prior.expected_log_joint(mean, log_var)
    assert expected.shape == (2, 4)
    noise = randn(400_000, 3, seed=5)
    for i in range(2):
        with torch.no_grad():
            z = mean[i] + (0.5 * log_var[i]).exp() * noise
            values = prior.log_joint(z)
        error = values.std(0) / len(values) ** 0.5
        assert ((values.mean(0) - expected[i]).abs() < 4 * error).all()
    without_weights = expected_log_normal(mean, log_var, prior.means, prior.scales)
    assert_close(without_weights + prior.weights.log(), expected)


@each_covariance
def test_expectation_of_a_point_is_the_density(covariance_type):
    prior = random_prior(4, 3, covariance_type)
    mean = randn(5, 3)
    point = torch.full_like(mean, -80.0)
    assert_close(prior.expected_log_joint(mean, point), prior.log_joint(mean))


@each_covariance
@pytest.mark.parametrize("n_clusters", [1, 5])
def test_prior_starts_as_a_standard_normal(covariance_type, n_clusters):
    # oracle 6: the bound of a plain VAE
    prior = MixturePrior(n_clusters, 3, covariance_type).double()
    mean, log_var = posterior(20, 3)
    kl = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(1)
    bound = analytic_bound(log_var, prior.expected_log_joint(mean, log_var))
    assert_close(bound, -kl, atol=1e-5)  # the prior was made in float32
    z = randn(20, 3, seed=9)
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    assert_close(prior.log_joint(z).logsumexp(1), standard, atol=1e-5)


@each_covariance
def test_one_component_has_no_divergence_of_clusters(covariance_type):
    # oracle 6
    prior = MixturePrior(1, 3, covariance_type).double()
    identity = np.ones((1, 3)) if covariance_type == "diag" else np.eye(3)[None]
    prior.set([1.0], np.zeros((1, 3)), identity)
    mean, log_var = posterior(20, 3)
    a = expected_log_normal(mean, log_var, prior.means, prior.scales)
    kl_z, kl_c = divergences(
        torch.ones_like(a), a, prior.weights.log(), -entropy(log_var)
    )
    assert_close(kl_z, 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(1))
    assert_close(kl_c, torch.zeros(20, dtype=torch.float64))


@each_covariance
def test_equal_covariances_make_the_posterior_mean_enough(covariance_type):
    # oracle 9
    weights, means, covariances = random_mixture(5, 3, covariance_type)
    mean, log_var = posterior(30, 3)
    prior = random_prior(5, 3, covariance_type)

    def gap():
        exact = prior.expected_log_joint(mean, log_var).softmax(1)
        return (exact - prior.log_joint(mean).softmax(1)).abs().max().item()

    assert gap() > 0.05
    prior.set(weights, means, np.stack([covariances[0]] * 5))
    assert gap() < 1e-12


@each_covariance
@pytest.mark.parametrize("learn_weights", [True, False])
def test_parameters_come_back(covariance_type, learn_weights):
    weights, means, covariances = random_mixture(4, 3, covariance_type)
    covariances *= 4.0  # beyond what a softplus that turns linear would hide
    if not learn_weights:
        weights = np.full(4, 0.25)
    prior = MixturePrior(4, 3, covariance_type, learn_weights).double()
    prior.set(weights, means, covariances)
    np.testing.assert_allclose(numpy(prior.weights), weights, rtol=1e-10)
    np.testing.assert_allclose(numpy(prior.means), means, rtol=1e-10)
    np.testing.assert_allclose(
        numpy(prior.covariances), covariances, rtol=1e-7, atol=1e-9
    )
    scales = numpy(prior.scales)
    if covariance_type == "diag":
        np.testing.assert_allclose(scales**2, numpy(prior.covariances))
    else:
        assert (np.triu(scales, 1) == 0).all()
        np.testing.assert_allclose(
            scales @ scales.transpose(0, 2, 1), numpy(prior.covariances), atol=1e-12
        )


@each_covariance
def test_frozen_weights_have_no_parameter(covariance_type):
    def trained(learn_weights):
        prior = random_prior(4, 3, covariance_type, learn_weights=learn_weights)
        return {name for name, p in prior.named_parameters() if p.requires_grad}

    assert trained(True) > trained(False)
    prior = random_prior(4, 3, covariance_type, learn_weights=False)
    mean, log_var = posterior(60, 3)
    prior.em_step(mean, log_var)
    np.testing.assert_array_equal(numpy(prior.weights), np.full(4, 0.25))
    prior.set([0.7, 0.1, 0.1, 0.1], prior.means.detach(), prior.covariances.detach())
    np.testing.assert_array_equal(numpy(prior.weights), np.full(4, 0.25))


@each_covariance
def test_prior_is_not_trained_before_it_is_set(covariance_type):
    prior = MixturePrior(4, 3, covariance_type, learn_weights=True)
    assert not any(p.requires_grad for p in prior.parameters())


@each_covariance
def test_every_parameter_of_the_prior_learns(covariance_type):
    prior = random_prior(3, 2, covariance_type)
    prior.log_joint(randn(20, 2)).logsumexp(1).sum().backward()
    for name, parameter in prior.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@each_covariance
def test_one_m_step_by_loops(covariance_type):
    # the closed form of oracle 14
    prior = random_prior(3, 2, covariance_type)
    mean, log_var = posterior(40, 2)
    r = numpy(prior.expected_log_joint(mean, log_var).softmax(1))
    m, v = numpy(mean), np.exp(numpy(log_var))
    means, covariances = np.zeros((3, 2)), np.zeros((3, 2, 2))
    for k in range(3):
        total = sum(r[i, k] for i in range(40))
        means[k] = sum(r[i, k] * m[i] for i in range(40)) / total
        for i in range(40):
            offset = m[i] - means[k]
            spread = np.outer(offset, offset) + np.diag(v[i])
            covariances[k] += r[i, k] * spread / total
    if covariance_type == "diag":
        covariances = np.diagonal(covariances, axis1=1, axis2=2)
    prior.em_step(mean, log_var)
    np.testing.assert_allclose(numpy(prior.weights), r.mean(0), atol=1e-10)
    np.testing.assert_allclose(numpy(prior.means), means, atol=1e-10)
    np.testing.assert_allclose(numpy(prior.covariances), covariances, atol=1e-8)


@each_covariance
@pytest.mark.parametrize("learn_weights", [True, False])
def test_m_steps_never_lower_the_bound(covariance_type, learn_weights):
    # oracle 14
    prior = random_prior(5, 3, covariance_type, seed=2, learn_weights=learn_weights)
    mean, log_var = posterior(80, 3)
    bounds = []
    for _ in range(21):
        with torch.no_grad():
            bounds.append(
                analytic_bound(log_var, prior.expected_log_joint(mean, log_var))
            )
        prior.em_step(mean, log_var)
    bounds = torch.stack(bounds).mean(1)
    assert (bounds.diff() > -1e-9).all()
    assert bounds[-1] > bounds[0] + 0.1


@each_covariance
def test_fit_finds_the_components_and_their_width(covariance_type):
    rng = np.random.default_rng(0)
    centres = np.array([[-6.0, 0.0], [0.0, 6.0], [6.0, 0.0]])
    kinds = np.arange(600) % 3
    mean = torch.tensor(centres[kinds] + 0.5 * rng.normal(size=(600, 2)))
    log_var = torch.full_like(mean, math.log(0.3))
    torch.manual_seed(0)
    prior = MixturePrior(3, 2, covariance_type).double()
    prior.fit(mean, log_var)
    found = prior.expected_log_joint(mean, log_var).argmax(1).numpy()
    for kind in range(3):
        (k,) = set(found[kinds == kind])
        np.testing.assert_allclose(numpy(prior.means)[k], centres[kind], atol=0.1)
        # of the means, and the mean of the posterior's own
        spread = np.diagonal(dense(numpy(prior.covariances))[k])
        np.testing.assert_allclose(spread, 0.25 + 0.3, atol=0.08)


@each_covariance
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_temperature_multiplies_the_standard_deviation(covariance_type, temperature):
    torch.manual_seed(0)
    prior = random_prior(3, 2, covariance_type)
    z = numpy(prior.sample(torch.tensor([0, 2]).repeat(50_000), temperature))
    assert z.shape == (100_000, 2)
    covariances = temperature**2 * dense(numpy(prior.covariances))
    for k, rows in ((0, z[0::2]), (2, z[1::2])):
        np.testing.assert_allclose(
            rows.mean(0), numpy(prior.means)[k], atol=0.02 if temperature else 0
        )
        np.testing.assert_allclose(np.cov(rows.T), covariances[k], atol=0.03)


# -- the bound of a facet: oracles 2, 4, 5, 10 -----------------------------------------


@each_covariance
def test_five_terms_at_one_sample_are_the_marginal(covariance_type):
    # oracle 2
    prior = random_prior(5, 3, covariance_type)
    mean, log_var = posterior(40, 3)
    z = randn(40, 3, seed=8)
    a = log_normal(z, prior.means, prior.scales)
    log_joint = prior.log_joint(z)
    kl_z, kl_c = divergences(
        log_joint.softmax(1), a, prior.weights.log(), log_q(z, mean, log_var)
    )
    bound = monte_carlo_bound(z, mean, log_var, log_joint)
    assert bound.shape == (40,)
    assert_close(-(kl_z + kl_c), bound)
    assert_close(bound, log_joint.logsumexp(1) - log_q(z, mean, log_var))


def test_divergences_by_loops():
    rng = np.random.default_rng(0)
    r, weights = rng.dirichlet(np.ones(4), 6), rng.dirichlet(np.ones(4))
    a, negative_entropy = rng.normal(size=(6, 4)), rng.normal(size=6)
    kl_z, kl_c = divergences(
        *map(torch.tensor, (r, a, np.log(weights), negative_entropy))
    )
    for i in range(6):
        expected = negative_entropy[i] - sum(r[i, k] * a[i, k] for k in range(4))
        assert kl_z[i].item() == pytest.approx(expected)
        expected = sum(r[i, k] * math.log(r[i, k] / weights[k]) for k in range(4))
        assert kl_c[i].item() == pytest.approx(expected)
        assert kl_c[i] >= 0


def test_divergences_of_a_cluster_without_mass_are_finite():
    r = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    log_weights = torch.full((2,), 0.5, dtype=torch.float64).log()
    a = torch.tensor([[-3.0, -900.0]], dtype=torch.float64)
    kl_z, kl_c = divergences(r, a, log_weights, torch.tensor([-1.0]).double())
    assert kl_z.item() == pytest.approx(2.0)
    assert kl_c.item() == pytest.approx(math.log(2))


def factorised_bound(r, prior, mean, log_var):
    """The bound for any q(c|x), from the two divergences."""
    a = expected_log_normal(mean, log_var, prior.means, prior.scales)
    return -sum(divergences(r, a, prior.weights.log(), -entropy(log_var)))


@each_covariance
@pytest.mark.parametrize("scale", [1e-3, 1e-2, 0.1, 1.0])
def test_softmax_of_the_expectation_is_the_best_posterior(covariance_type, scale):
    # oracle 4: any other loses exactly its divergence from the best one
    prior = random_prior(6, 4, covariance_type)
    mean, log_var = posterior(200, 4)
    logits = prior.expected_log_joint(mean, log_var)
    best = analytic_bound(log_var, logits)
    r = logits.softmax(1)
    assert_close(factorised_bound(r, prior, mean, log_var), best)
    other = (logits + scale * randn(200, 6, seed=4)).softmax(1)
    gap = best - factorised_bound(other, prior, mean, log_var)
    divergence = (other * (other.log() - r.log())).sum(1)
    assert_close(gap, divergence)
    assert (gap > 0).all()


@each_covariance
def test_other_posteriors_are_worse(covariance_type):
    # oracle 4: the arithmetic mean over samples, and one sample
    prior = random_prior(6, 4, covariance_type)
    mean, log_var = posterior(10, 4)
    best = analytic_bound(log_var, prior.expected_log_joint(mean, log_var))
    z = mean[:, None] + (0.5 * log_var).exp()[:, None] * randn(10, 500, 4, seed=3)
    each = prior.log_joint(z.flatten(0, 1)).softmax(1).unflatten(0, (10, 500))
    arithmetic = factorised_bound(each.mean(1), prior, mean, log_var)
    assert (arithmetic < best).all()
    for sample in range(20):
        one = factorised_bound(each[:, sample], prior, mean, log_var)
        assert (one < best).all()


def test_order_of_the_estimators():
    # oracle 5: more samples come down to the analytic bound
    n = 400_000
    prior = random_prior(6, 4)
    mean, log_var = posterior(1, 4)
    with torch.no_grad():
        z = mean + (0.5 * log_var).exp() * randn(n, 4, seed=6)
        log_joint = prior.log_joint(z)
        one = monte_carlo_bound(z, mean.expand(n, -1), log_var.expand(n, -1), log_joint)
        analytic = analytic_bound(log_var, prior.expected_log_joint(mean, log_var))
    log_p = log_joint.logsumexp(1)
    log_r = log_joint - log_p[:, None]  # log p(c|z)

    def estimate(size):
        groups = log_r.unflatten(0, (-1, size)).mean(1)
        return (one.mean() + groups.logsumexp(1).mean()).item()

    values = [estimate(size) for size in (1, 5, 100, n)]
    assert values[0] == pytest.approx(one.mean().item(), abs=1e-9)
    assert values == sorted(values, reverse=True)
    assert values[0] > values[1] + 0.1
    error = 4 * one.std().item() / n**0.5
    assert values[-1] == pytest.approx(analytic.item(), abs=error)
    gap = log_p.mean() - prior.expected_log_joint(mean, log_var).logsumexp(1)
    error = 4 * log_p.std().item() / n**0.5
    assert gap > 10 * error
    assert gap.item() == pytest.approx(-log_r.mean(0).logsumexp(0).item(), abs=error)


@each_covariance
def test_gradients_do_not_need_those_of_the_responsibilities(covariance_type):
    # oracle 10: envelope theorem, and Fisher's identity at a sample
    prior = random_prior(5, 3, covariance_type)
    mean, log_var = posterior(12, 3, grad=True)
    means = prior.means.detach().clone().requires_grad_()
    scales, log_weights = prior.scales.detach(), prior.weights.detach().log()

    def assert_same_gradients(one, other):
        for loss in (one, other):
            assert loss.shape == (12,)
        gradients = [
            torch.autograd.grad(loss.sum(), (mean, log_var, means), retain_graph=True)
            for loss in (one, other)
        ]
        for pair in zip(*gradients, strict=True):
            assert_close(*pair)

    a = expected_log_normal(mean, log_var, means, scales)
    r = (a + log_weights).softmax(1).detach()
    assert_same_gradients(
        analytic_bound(log_var, a + log_weights),
        -sum(divergences(r, a, log_weights, -entropy(log_var))),
    )
    z = mean + (0.5 * log_var).exp() * randn(12, 3, seed=7)
    a = log_normal(z, means, scales)
    r = (a + log_weights).softmax(1).detach()
    assert_same_gradients(
        monte_carlo_bound(z, mean, log_var, a + log_weights),
        -sum(divergences(r, a, log_weights, log_q(z, mean, log_var))),
    )


def test_best_weights_are_the_mean_responsibilities():
    # oracle 10
    prior = random_prior(4, 2)
    z = 1.5 * randn(300, 2)
    a = log_normal(z, prior.means, prior.scales).detach()
    raw = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [raw], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = -(a + raw.log_softmax(0)).logsumexp(1).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    weights = raw.detach().softmax(0)
    prior.set(weights, prior.means.detach(), prior.covariances.detach())
    assert_close(prior.log_joint(z).softmax(1).mean(0).detach(), weights, atol=1e-6)
    point = torch.full_like(z, -80.0)
    prior.em_step(z, point)  # so the M-step leaves them where they are
    assert_close(prior.weights.detach(), weights, atol=1e-6)


# -- the whole bound: oracles 7 and 8 --------------------------------------------------


SIGMA = 0.4


def evidence(x, weights, covariances):
    """log of the mixture of N(mean, covariance) for a list of (weight, mean)."""
    parts = [
        math.log(w) + multivariate_normal(numpy(m), numpy(c)).logpdf(numpy(x))
        for (w, m), c in zip(weights, covariances, strict=True)
    ]
    return torch.tensor(np.logaddexp.reduce(parts, axis=0))


def test_exact_posterior_makes_the_bound_tight():
    # oracle 7: orthogonal columns, so that the posterior factorises over facets
    priors = [random_prior(1, 2, seed=1), random_prior(1, 1, seed=2)]
    mu = torch.cat([p.means[0] for p in priors]).detach()
    s = torch.cat([p.covariances[0] for p in priors]).detach()
    w = torch.linalg.qr(randn(6, 3))[0] * torch.tensor([2.0, 0.5, 1.0]).double()
    b = randn(6, seed=3)
    x = randn(15, 6, seed=4)

    precision = 1 / s + w.square().sum(0) / SIGMA**2
    mean = ((x - b) @ w / SIGMA**2 + mu / s) / precision
    log_var = -precision.log().expand_as(mean)
    cov = w @ torch.diag(s) @ w.T + SIGMA**2 * torch.eye(6, dtype=torch.float64)
    exact = evidence(x, [(1.0, w @ mu + b)], [cov])

    def likelihood(z):
        out = z @ w.T + b
        return log_likelihood(
            x.view(-1, 1, 2, 3), out.view(-1, 1, 2, 3), "gaussian", SIGMA
        )

    def facets(tensor):
        return tensor.split([2, 1], dim=1)

    def bound(mean, log_var):
        spread = (log_var.exp() * w.square().sum(0)).sum(1) / (2 * SIGMA**2)
        total = likelihood(mean) - spread
        for prior, m, v in zip(priors, facets(mean), facets(log_var), strict=True):
            total = total + analytic_bound(v, prior.expected_log_joint(m, v))
        return total.detach()

    assert_close(bound(mean, log_var), exact)
    for seed in range(5):
        step = 0.1 * randn(15, 6, seed=seed)
        assert (bound(mean + step[:, :3], log_var) < exact).all()
        assert (bound(mean, log_var + step[:, 3:]) < exact).all()
        # at the exact posterior every sample gives the evidence itself
        z = mean + (0.5 * log_var).exp() * randn(15, 3, seed=seed + 50)
        total = likelihood(z)
        for prior, at, m, v in zip(
            priors, facets(z), facets(mean), facets(log_var), strict=True
        ):
            total = total + monte_carlo_bound(at, m, v, prior.log_joint(at))
        assert_close(total.detach(), exact)


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_bound_is_never_above_the_evidence(covariance_type):
    # oracle 8
    priors = [
        random_prior(3, 2, covariance_type, seed=1),
        random_prior(4, 2, covariance_type, seed=2),
    ]
    w, b, x = randn(6, 4, seed=5), randn(6, seed=6), 2 * randn(200, 6, seed=7)
    noise = SIGMA**2 * torch.eye(6, dtype=torch.float64)
    first, second = (torch.tensor(dense(numpy(p.covariances))) for p in priors)
    components, covariances = [], []
    for i in range(3):
        for k in range(4):
            weight = priors[0].weights[i] * priors[1].weights[k]
            mu = torch.cat([priors[0].means[i], priors[1].means[k]])
            components.append((weight.item(), w @ mu + b))
            s = torch.block_diag(first[i], second[k])
            covariances.append(w @ s @ w.T + noise)
    exact = evidence(x, components, covariances)
    gaps = []
    for seed in range(6):
        mean = torch.linalg.lstsq(w, (x - b).T).solution.T
        mean = mean + 0.3 * seed * randn(200, 4, seed=seed)
        log_var = randn(200, 4, seed=seed + 20) - 2
        out = (mean @ w.T + b).view(-1, 1, 2, 3)
        bound = log_likelihood(x.view(-1, 1, 2, 3), out, "gaussian", SIGMA)
        spread = (log_var.exp() * w.square().sum(0)).sum(1) / (2 * SIGMA**2)
        bound = bound - spread
        for prior, m, v in zip(
            priors, mean.split(2, 1), log_var.split(2, 1), strict=True
        ):
            bound = bound + analytic_bound(v, prior.expected_log_joint(m, v))
        gaps.append((exact - bound).detach())
    assert (torch.stack(gaps) > 0).all()
    assert gaps[0].min() < 3  # and not far below everywhere


# -- the likelihoods -------------------------------------------------------------------


def test_gaussian_likelihood_has_its_constant():
    x, out = torch.rand(4, 3, 2, 2).double(), randn(4, 3, 2, 2)
    expected = torch.distributions.Normal(out, 0.3).log_prob(x).sum((1, 2, 3))
    actual = log_likelihood(x, out, "gaussian", 0.3)
    assert actual.shape == (4,)
    assert_close(actual, expected)


def test_bernoulli_likelihood_of_grey_values():
    x, out = torch.rand(4, 1, 3, 2).double(), 3 * randn(4, 1, 3, 2)
    p = out.sigmoid()
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum((1, 2, 3))
    assert_close(log_likelihood(x, out, "bernoulli", 0.3), expected)
    far = log_likelihood(x, torch.full_like(out, 1e3), "bernoulli", 0.3)
    assert_close(far, -1e3 * (1 - x).sum((1, 2, 3)), atol=1e-6)


# -- the schedule: oracle 11 -----------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "step", "expected"),
    [
        (0, 0, (0, 0, 1)),
        (0, 5, (0, 0, 1)),
        (0, 99, (0, 0, 1)),
        (1, 0, (0, 0, 1)),
        (1, 5, (0, 0.5, 1)),
        (1, 10, (0, 1, 1)),
        (1, 99, (0, 1, 1)),
        (2, 0, (0, 1, 1)),
        (2, 5, (0.5, 1, 1)),
        (2, 10, (1, 1, 1)),
        (2, 99, (1, 1, 1)),
    ],
)
@pytest.mark.parametrize("inactive", [0.0, 0.5])
def test_schedule(stage, step, expected, inactive):
    alpha, gamma = progress(stage, step, 3, 10, inactive_weight=inactive)
    assert list(alpha) == pytest.approx(expected)
    assert list(gamma) == pytest.approx(
        [inactive + (1 - inactive) * a for a in expected]
    )


def test_schedule_without_a_fade():
    assert progress(1, 0, 2, 0)[0] == pytest.approx([1, 1])


# -- the networks: spec of the paper's code, oracle 12 ---------------------------------


def shapes_within(network, *inputs):
    """Output shape of every module, by its name."""
    shapes, handles = {}, []
    for name, module in network.named_modules():

        def keep(module, args, out, name=name):
            shapes[name] = tuple(out.shape[1:])

        handles.append(module.register_forward_hook(keep))
    network(*inputs)
    for handle in handles:
        handle.remove()
    return shapes


def n_parameters(*networks):
    return sum(p.numel() for network in networks for p in network.parameters())


def test_ladder_of_mnist_has_the_weights_of_the_papers_code():
    encoder, decoder = mlp_ladder((1, 28, 28), (5, 5), (500, 2000))
    assert n_parameters(encoder, decoder) == 3_078_304
    assert not [m for m in encoder.modules() if isinstance(m, nn.BatchNorm1d)]


def test_merge_of_the_mnist_ladder_is_a_gate_of_a_tenth():
    _, decoder = mlp_ladder((1, 28, 28), (5, 5), (500, 2000))
    z = torch.randn(4, 10)
    with torch.no_grad():
        rung, top = decoder.rungs[0](z[:, :5]), decoder.rungs[1](z[:, 5:])
        expected = decoder.blocks[0](0.1 * 0.3 * rung + decoder.blocks[1](top))
        torch.testing.assert_close(decoder(z, [0.3, 1.0]), expected)


PAPER_LAYERS = {  # of the table in section 3.3
    2: {
        "encoder": {
            "blocks.0": (64, 16, 16),
            "rungs.0.0": (64, 8, 8),
            "rungs.0.1": (64, 7, 7),
            "rungs.0": (3136,),
            "heads.0": (2 * 20,),
            "blocks.1": (128, 8, 8),
            "rungs.1.0": (128, 4, 4),
            "rungs.1.1": (256, 2, 2),
            "rungs.1": (1024,),
            "heads.1": (2 * 2,),
        },
        "decoder": {
            "rungs.1": (256, 8, 8),
            "blocks.1.0": (128, 16, 16),
            "blocks.1": (64, 16, 16),
            "rungs.0": (64, 16, 16),
            "blocks.0": (3, 32, 32),
        },
    },
    3: {
        "encoder": {
            "blocks.2": (256, 4, 4),
            "rungs.2.0": (256, 2, 2),
            "rungs.2.1": (512, 1, 1),
            "rungs.2": (512,),
            "heads.2": (2 * 7,),
            "blocks.1": (128, 8, 8),
            "rungs.1": (1024,),
            "rungs.0": (3136,),
        },
        "decoder": {
            "rungs.2": (512, 4, 4),
            "blocks.2": (256, 8, 8),
            "rungs.1": (256, 8, 8),
            "blocks.1.0": (128, 16, 16),
            "blocks.1": (64, 16, 16),
            "rungs.0": (64, 16, 16),
            "blocks.0": (3, 32, 32),
        },
    },
}


@pytest.mark.parametrize("n_facets", [2, 3])
def test_convolutional_ladder_has_the_layers_of_the_papers_code(n_facets):
    dims, widths = (20, 2, 7)[:n_facets], (64, 128, 256)[:n_facets]
    encoder, decoder = conv_ladder((3, 32, 32), dims, widths)
    x, z = torch.rand(2, 3, 32, 32), torch.randn(2, sum(dims))
    layers = PAPER_LAYERS[n_facets]
    assert shapes_within(encoder, x).items() >= layers["encoder"].items()
    decoded = shapes_within(decoder, z, [1.0] * n_facets)
    assert decoded.items() >= layers["decoder"].items()
    # the rung of facet 0 comes first, then what comes from above: 64 + 64
    first = next(m for m in decoder.blocks[0].modules() if hasattr(m, "in_channels"))
    assert (first.in_channels, first.kernel_size, first.stride) == (128, (4, 4), (2, 2))


def test_convolutional_ladder_normalises_its_output_on_request_only():
    for normalize, kind in ((True, nn.Sequential), (False, nn.ConvTranspose2d)):
        _, decoder = conv_ladder((3, 8, 8), (2, 2), (4, 8), normalize_output=normalize)
        assert isinstance(decoder.blocks[0], kind)
    assert [m for m in decoder.modules() if isinstance(m, nn.BatchNorm2d)]


SHAPES = [(1, 29, 31), (4, 8, 8), (3, 7, 5), (1, 1, 9), (1, 2, 1), (3, 32, 32)]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("n_facets", [1, 2, 3])
@pytest.mark.parametrize("image_shape", SHAPES, ids=str)
@pytest.mark.parametrize("ladder", [mlp_ladder, conv_ladder])
def test_images_of_any_shape_come_back_in_it(ladder, image_shape, n_facets, shared):
    dims = (4, 1, 3)[:n_facets]
    encoder, decoder = ladder(image_shape, dims, (6, 8, 10)[:n_facets], shared=shared)
    posterior = encoder(torch.rand(5, *image_shape))
    assert posterior.shape == (5, 2 * sum(dims))
    out = decoder(posterior[:, : sum(dims)], [1.0] * n_facets)
    assert out.shape == (5, *image_shape)
    out.sum().backward()
    for network in (encoder, decoder):
        for name, parameter in network.named_parameters():
            if network is decoder or "heads" not in name:
                assert parameter.grad is not None, name


def test_means_come_first_and_facets_leave_at_their_depth():
    encoder, _ = mlp_ladder((1, 4, 4), (3, 2), (6, 8))
    x = torch.rand(7, 1, 4, 4)
    with torch.no_grad():
        h0 = encoder.blocks[0](x)
        h1 = encoder.blocks[1](h0)
        parts = [h(u) for h, u in zip(encoder.heads, (h0, h1), strict=True)]
        expected = [parts[0][:, :3], parts[1][:, :2], parts[0][:, 3:], parts[1][:, 2:]]
        torch.testing.assert_close(encoder(x), torch.cat(expected, 1))


def test_log_variances_are_bounded():
    encoder, _ = mlp_ladder((1, 4, 4), (3, 2), (6, 8))
    out = encoder(1e6 * torch.randn(50, 1, 4, 4))
    assert out[:, 5:].abs().max() <= 10 < out[:, :5].abs().max()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("ladder", [mlp_ladder, conv_ladder])
@pytest.mark.parametrize("off", [0, 1, 2])
def test_image_does_not_depend_on_a_facet_that_is_faded_out(ladder, off, shared):
    # oracle 12
    torch.manual_seed(0)
    dims = (3, 2, 4)
    _, decoder = ladder((3, 8, 8), dims, (8, 8, 8), shared=shared)
    z = torch.randn(6, 9, requires_grad=True)
    alpha = [0.0 if j == off else 1.0 for j in range(3)]
    weight = torch.randn(6, 3, 8, 8)  # a sum over a batch norm has no gradient
    (gradient,) = torch.autograd.grad((weight * decoder(z, alpha)).sum(), z)
    for j, part in enumerate(gradient.split(dims, 1)):
        assert (part.abs().max() == 0) == (j == off)
    moved = z.detach().clone()
    moved.split(dims, 1)[off].add_(5.0)
    with torch.no_grad():
        torch.testing.assert_close(decoder(moved, alpha), decoder(z, alpha))
        assert not torch.allclose(decoder(moved, [1.0] * 3), decoder(z, [1.0] * 3))
    if not shared:
        decoder.zero_grad()
        (weight * decoder(z, alpha)).sum().backward()
        assert all(not p.grad.any() for p in decoder.rungs[off].parameters())


@pytest.mark.parametrize("ladder", [mlp_ladder, conv_ladder])
def test_shared_networks_join_at_the_top_only(ladder):
    encoder, decoder = ladder((3, 8, 8), (3, 2), (8, 16), shared=True)
    assert len(encoder.heads) == 1
    x = torch.rand(4, 3, 8, 8)
    z = torch.randn(4, 5)
    assert shapes_within(encoder, x)["heads.0"] == (10,)
    assert decoder(z, [1.0, 1.0]).shape == x.shape


# -- the module ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(two_factors):
    return MFCVAE(**SMALL_FACETS, device="cpu", precision="float32").fit(two_factors[0])


@pytest.fixture
def module(trained):
    """The module of ``trained`` in float64."""
    module = copy.deepcopy(trained.net_.module_).double().train()
    module.run = lambda network, x: network(x)  # without the cast to float32
    return module


@pytest.fixture
def batch(module, two_factors):
    images = torch.tensor(two_factors[0][:16])
    return Batch(torch.arange(16), [module.scaling(images).double()])


def set_module(module, **options):
    module.options.update(options)
    return module


def slow_mc_bound(z, mean, log_var, prior):
    """Mean log p(z) - log q(z|x), and the loss by one q(c|x) for all L samples."""
    log_joint = torch.stack([prior.log_joint(sample) for sample in z])
    log_p = log_joint.logsumexp(2)
    log_r = log_joint - log_p[:, :, None]
    density = torch.stack([log_q(sample, mean, log_var) for sample in z])
    return (log_p - density).mean(0) + log_r.mean(0).logsumexp(1)


@each_covariance
def test_bound_from_several_samples(covariance_type):
    prior = random_prior(5, 3, covariance_type)
    mean, log_var = posterior(10, 3)
    z = mean + (0.5 * log_var).exp() * randn(7, 10, 3, seed=3)
    log_joint = prior.log_joint(z.flatten(0, 1)).unflatten(0, (7, 10))
    actual = monte_carlo_bound(z, mean, log_var, log_joint)
    assert_close(actual, slow_mc_bound(z, mean, log_var, prior))
    one = monte_carlo_bound(z[:1], mean, log_var, log_joint[:1])
    assert_close(one, monte_carlo_bound(z[0], mean, log_var, log_joint[0]))


@pytest.mark.parametrize("n_mc_samples", [1, 3])
@pytest.mark.parametrize("estimator", ["mc", "analytic"])
@pytest.mark.parametrize("gamma", [[1.0, 1.0], [0.25, 1.0], [0.0, 1.0]], ids=str)
def test_loss_is_the_negative_bound(module, batch, gamma, estimator, n_mc_samples):
    set_module(module, elbo_estimator=estimator, n_mc_samples=n_mc_samples)
    module.gamma = module.alpha = gamma
    module.eval()  # batch norm would see the samples together
    torch.manual_seed(3)
    parts = module.losses(batch)
    torch.manual_seed(3)
    mean, log_var = module.posterior(batch.views[0]).chunk(2, dim=1)
    noise = torch.randn(n_mc_samples, *mean.shape)  # float32, as the module draws it
    z = mean + (0.5 * log_var).exp() * noise
    unit = module.scaling.unstandardize(batch.views[0])
    log_p = torch.zeros(16, dtype=torch.float64)
    for sample in z:
        picture = module.decoder(sample, gamma).sigmoid()
        density = torch.distributions.Normal(picture, SMALL_FACETS["sigma_x"])
        log_p += density.log_prob(unit).sum((1, 2, 3)) / n_mc_samples
    assert parts["reconstruction"].item() == pytest.approx(-log_p.mean().item(), 1e-5)
    facets = zip(
        z.split([3, 1], 2), mean.split([3, 1], 1), log_var.split([3, 1], 1), strict=True
    )
    for j, (at, m, v) in enumerate(facets):
        prior = module.priors[j]
        if estimator == "analytic":
            bound = analytic_bound(v, prior.expected_log_joint(m, v))
        else:
            bound = slow_mc_bound(at, m, v, prior)
        expected = -gamma[j] * bound.mean().item()
        assert parts[f"facet{j}"].item() == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert set(parts) == {"reconstruction", "facet0", "facet1"}


def test_facet_that_is_not_active_has_no_gradient(module, batch):
    # oracle 12: neither its heads, nor its way into the decoder, nor its prior
    module.alpha = module.gamma = [0.0, 1.0]
    sum(module.losses(batch).values()).backward()
    inactive = [
        *module.backbone.heads[0].parameters(),
        *module.backbone.rungs[0].parameters(),
        *module.decoder.rungs[0].parameters(),
        *module.priors[0].parameters(),
    ]
    assert not any(p.grad is not None and p.grad.any() for p in inactive)
    for part in (module.backbone.heads[1], module.backbone.blocks[0], module.priors[1]):
        trained = [p for p in part.parameters() if p.requires_grad]
        assert all(p.grad.any() for p in trained)


def test_image_depends_on_every_facet_that_is_active(module):
    # oracle 12
    z = randn(8, 4, grad=True)
    weight = randn(8, 3, 8, 8, seed=2)
    module.alpha = [1.0, 1.0]
    (gradient,) = torch.autograd.grad((weight * module.draw(z)).sum(), z)
    assert (gradient.abs().max(0).values > 1e-6).all()


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_evidence_is_likelihood_and_analytic_bounds(module, batch, likelihood):
    set_module(module.eval(), likelihood=likelihood)
    mean, log_var = module.posterior(batch.views[0]).chunk(2, dim=1)
    unit = module.scaling.unstandardize(batch.views[0])
    expected = torch.zeros(16, dtype=torch.float64)
    for noise in module.noise:
        z = mean + (0.5 * log_var).exp() * noise
        out = module.decoder(z, [1.0, 1.0])
        if likelihood == "gaussian":
            out = out.sigmoid()
        expected += log_likelihood(unit, out, likelihood, 0.2) / len(module.noise)
    for prior, m, v in zip(
        module.priors, mean.split([3, 1], 1), log_var.split([3, 1], 1), strict=True
    ):
        expected += analytic_bound(v, prior.expected_log_joint(m, v))
    actual = module.evidence(batch.views[0])
    assert actual.shape == (16, 1)
    torch.testing.assert_close(actual[:, 0], expected, rtol=1e-6, atol=1e-6)
    assert_close(module.noise.mean(0), torch.zeros(4, dtype=torch.float64), atol=1e-6)


def test_order_of_the_components_does_not_matter(module, batch):
    # oracle 13
    x = batch.views[0]
    before = module.evidence(x), module.facet_logits(x).split([3, 3], 1)
    prior, order = module.priors[0], torch.tensor([2, 0, 1])
    prior.set(prior.weights[order], prior.means[order], prior.covariances[order])
    after = module.evidence(x), module.facet_logits(x).split([3, 3], 1)
    torch.testing.assert_close(after[0], before[0])
    torch.testing.assert_close(after[1][0], before[1][0][:, order])
    torch.testing.assert_close(after[1][1], before[1][1])


def test_logits_of_the_primary_facet(module, batch):
    x = batch.views[0]
    for facet in (0, 1):
        module.primary_facet = facet
        logits = module.facet_logits(x).split([3, 3], 1)[facet]
        assert torch.equal(module.logits(x), logits)


@pytest.mark.parametrize(
    ("stage_epochs", "fade_in"), [((4, 6), 0.25), ((2, 3, 5), 0.5), ((3, 1), 0.0)]
)
def test_every_step_of_a_training_follows_the_schedule(module, stage_epochs, fade_in):
    set_module(module, fade_in=fade_in)
    n_facets, steps_per_epoch = len(stage_epochs), 7
    module.stage_epochs, module.steps_per_epoch = stage_epochs, steps_per_epoch
    if n_facets == 3:
        module.priors.append(module.priors[0])
    module.step = 0
    module.set_progress()
    for stage, length in enumerate(stage_epochs):
        steps = length * steps_per_epoch
        for step in range(steps):
            expected = progress(stage, step, n_facets, fade_in * steps)
            assert (module.alpha, module.gamma) == expected
            module.after_step()
    assert module.alpha == module.gamma == [1.0] * n_facets


@pytest.mark.parametrize(
    ("stage_epochs", "options", "starts", "refits"),
    [
        # of a stage of ten epochs four are warm-up; two refits in the other six
        ((10, 10), {"warmup": 0.4, "n_refits": 2}, {4: [1], 14: [0]}, [6, 8, 16, 18]),
        ((10, 10), {"warmup": 0.0, "n_refits": 1}, {0: [1], 10: [0]}, [5, 15]),
        ((5, 10), {"warmup": 0.4, "n_refits": 0}, {2: [1], 9: [0]}, []),
        ((10,), {"warmup": 0.4, "n_refits": 1}, {4: [0, 1]}, [7]),
        ((10, 10), {"prior_init": "gmm", "n_refits": 0}, {0: [0, 1]}, []),
    ],
)
def test_when_priors_are_fitted(module, stage_epochs, options, starts, refits):
    set_module(module, **{"prior_init": "warmup_gmm", "warmup": 0.4, **options})
    module.stage_epochs = stage_epochs
    seen_starts, seen_refits = {}, []
    for epoch in range(sum(stage_epochs)):
        module.epoch = epoch
        start, refit = module.due()
        if start:
            seen_starts[epoch] = list(start)
        if refit:
            seen_refits.append(epoch)
    assert seen_starts == starts
    assert seen_refits == refits


@each_covariance
def test_a_refit_never_lowers_the_bound(covariance_type):
    torch.manual_seed(0)
    mean, log_var = posterior(200, 2)

    def bound(prior):
        with torch.no_grad():
            return prior.expected_log_joint(mean, log_var).logsumexp(1).mean().item()

    poor = random_prior(3, 2, covariance_type, seed=4)
    before = bound(poor)
    refit_prior(poor, mean, log_var)
    assert bound(poor) > before + 0.1
    good = random_prior(3, 2, covariance_type, seed=4, learn_weights=False)
    for _ in range(300):
        good.em_step(mean, log_var)
    value = bound(good)
    for _ in range(5):
        refit_prior(good, mean, log_var)
        assert bound(good) >= value - 1e-9
        value = bound(good)


@pytest.mark.parametrize(
    ("init", "variance"), [("gmm", 0.01), ("gmm", 0.3), ("random", 0.01)]
)
@each_covariance
def test_first_components_of_the_papers_start(module, covariance_type, init, variance):
    set_module(module, prior_init=init, init_variance=variance)
    prior = MixturePrior(3, 2, covariance_type).double()
    torch.manual_seed(0)
    kinds = torch.arange(90) % 3
    mean = 5 * torch.eye(3, 2).double()[kinds] + 0.1 * randn(90, 2)
    module.start(prior, mean, torch.zeros_like(mean))
    covariances = dense(numpy(prior.covariances))
    np.testing.assert_allclose(covariances, [variance * np.eye(2)] * 3, atol=1e-6)
    np.testing.assert_allclose(numpy(prior.weights), 1 / 3)
    nearest = np.abs(numpy(prior.means)[:, None] - 5 * np.eye(3, 2)).sum(2).min(0)
    assert (nearest < 0.2).all() == (init == "gmm")


def test_effective_number_of_clusters():
    assert effective_number(torch.tensor([5, 5, 5, 5])) == pytest.approx(4)
    assert effective_number(torch.tensor([7, 0, 0])) == pytest.approx(1)
    expected = math.exp(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    assert effective_number(torch.tensor([1, 0, 3])) == pytest.approx(expected)


def test_history_holds_the_divergences_of_all_images(trained, module, two_factors):
    model, row = trained, trained.history_[-1]
    assert row["alpha"] == [1.0, 1.0]
    module.eval()
    x = module.scaling(torch.tensor(two_factors[0])).double()
    with torch.no_grad():
        mean, log_var = module.posterior(x).chunk(2, dim=1)
        report = module.report(list(module.facets(mean, log_var)))
        for j, (m, v) in enumerate(module.facets(mean, log_var)):
            bound = analytic_bound(v, module.priors[j].expected_log_joint(m, v))
            total = report["kl_z"][j] + report["kl_c"][j]
            assert total == pytest.approx(-bound.mean().item(), rel=1e-9)
    sizes = [np.bincount(column) for column in model.facet_labels_.T]
    assert report["cluster_sizes"] == model.cluster_sizes_.tolist()
    assert report["effective_clusters"] == pytest.approx(
        [effective_number(torch.tensor(s)) for s in sizes]
    )


@each_covariance
def test_em_on_points_of_a_line_stays_finite(covariance_type):
    # far out and without width but for the posterior's: hopeless in float32
    torch.manual_seed(0)
    mean = 100 * torch.randn(500, 1) @ torch.randn(1, 5)
    log_var = torch.full_like(mean, -10.0)
    prior = MixturePrior(8, 5, covariance_type)
    prior.fit(mean, log_var)
    before = prior.expected_log_joint(mean, log_var).logsumexp(1).mean()
    for _ in range(5):
        prior.em_step(mean, log_var)
    after = prior.expected_log_joint(mean, log_var).logsumexp(1).mean()
    assert after.isfinite() and after > before - 0.01
