"""The prior of a facet: densities, expectations, fits."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from small_mfcvae import (
    assert_close,
    dense,
    entropy,
    numpy,
    posterior,
    randn,
    random_mixture,
    random_prior,
)

from skdeepcluster.mfcvae.bounds import analytic_bound, divergences
from skdeepcluster.mfcvae.gaussians import expected_log_normal, log_normal
from skdeepcluster.mfcvae.mixture import MixturePrior, refit_prior

each_covariance = pytest.mark.parametrize("covariance_type", ["diag", "full"])


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
