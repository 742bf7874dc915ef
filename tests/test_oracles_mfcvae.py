"""The numbers of MFCVAE's bounds, computed by hand or by slow loops."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from small_mfcvae import (
    assert_close,
    dense,
    entropy,
    log_q,
    numpy,
    posterior,
    randn,
    random_prior,
    slow_mc_bound,
)

from skdeepcluster.mfcvae.bounds import (
    analytic_bound,
    divergences,
    log_likelihood,
    monte_carlo_bound,
)
from skdeepcluster.mfcvae.gaussians import expected_log_normal, log_normal

each_covariance = pytest.mark.parametrize("covariance_type", ["diag", "full"])

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
