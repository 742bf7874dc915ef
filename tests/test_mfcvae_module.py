"""The objective of MFCVAE on a batch, and what it knows of all images."""

import copy
import math

import numpy as np
import pytest
import torch
from small_mfcvae import (
    SMALL,
    assert_close,
    dense,
    fit,
    numpy,
    randn,
    slow_mc_bound,
)

from skdeepcluster._engine.protocol import Batch
from skdeepcluster.mfcvae.bounds import analytic_bound, log_likelihood
from skdeepcluster.mfcvae.collapse import effective_number
from skdeepcluster.mfcvae.mixture import MixturePrior


@pytest.fixture(scope="module")
def trained(two_factors):
    return fit(two_factors[0], max_epochs=10)


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


@pytest.mark.parametrize("n_mc_samples", [1, 3])
@pytest.mark.parametrize("estimator", ["mc", "analytic"])
@pytest.mark.parametrize("alpha", [[1.0, 1.0], [0.25, 1.0], [0.0, 1.0]], ids=str)
def test_loss_is_the_negative_bound(module, batch, alpha, estimator, n_mc_samples):
    module.p.set_params(elbo_estimator=estimator, n_mc_samples=n_mc_samples)
    module.alpha = alpha
    module.eval()  # batch norm would see the samples together
    torch.manual_seed(3)
    parts = module.losses(batch)
    torch.manual_seed(3)
    mean, log_var = module.posterior(batch.views[0]).chunk(2, dim=1)
    noise = torch.randn(n_mc_samples, *mean.shape)  # float32, as the module draws it
    z = mean + (0.5 * log_var).exp() * noise
    log_p = torch.zeros(16, dtype=torch.float64)
    for sample in z:
        image = module.decoder(sample, alpha).sigmoid()
        density = torch.distributions.Normal(image, SMALL["sigma_x"])
        log_p += density.log_prob(batch.views[0]).sum((1, 2, 3)) / n_mc_samples
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
        expected = -alpha[j] * bound.mean().item()
        assert parts[f"facet{j}"].item() == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert set(parts) == {"reconstruction", "facet0", "facet1"}


def test_facet_that_is_not_active_has_no_gradient(module, batch):
    # oracle 12: neither its heads, nor its way into the decoder, nor its prior
    module.alpha = [0.0, 1.0]
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
    (gradient,) = torch.autograd.grad((weight * module.generate(z)).sum(), z)
    assert (gradient.abs().max(0).values > 1e-6).all()


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_evidence_is_likelihood_and_analytic_bounds(module, batch, likelihood):
    module.eval().p.likelihood = likelihood
    mean, log_var = module.posterior(batch.views[0]).chunk(2, dim=1)
    expected = torch.zeros(16, dtype=torch.float64)
    for noise in module.noise:
        z = mean + (0.5 * log_var).exp() * noise
        out = module.decoder(z, [1.0, 1.0])
        if likelihood == "gaussian":
            out = out.sigmoid()
        expected += log_likelihood(batch.views[0], out, likelihood, 0.2) / len(
            module.noise
        )
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
        module.p.primary_facet = facet
        logits = module.facet_logits(x).split([3, 3], 1)[facet]
        assert torch.equal(module.logits(x), logits)


def test_history_holds_the_divergences_of_all_images(trained, module, two_factors):
    assert trained.history_[-1]["alpha"] == [1.0, 1.0]
    module.eval()
    x = module.scaling(torch.tensor(two_factors[0])).double()
    with torch.no_grad():
        mean, log_var = module.posterior(x).chunk(2, dim=1)
        report = module.report(module.by_facet(mean, log_var))
        for j, (m, v) in enumerate(module.by_facet(mean, log_var)):
            bound = analytic_bound(v, module.priors[j].expected_log_joint(m, v))
            total = report["kl_z"][j] + report["kl_c"][j]
            assert total == pytest.approx(-bound.mean().item(), rel=1e-9)
    sizes = [np.bincount(column) for column in trained.facet_labels_.T]
    assert report["cluster_sizes"] == trained.cluster_sizes_.tolist()
    assert report["effective_clusters"] == pytest.approx(
        [effective_number(torch.tensor(s)) for s in sizes]
    )


@pytest.mark.parametrize(
    ("init", "variance"), [("gmm", 0.01), ("gmm", 0.3), ("random", 0.01)]
)
@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_first_components_of_the_papers_start(module, covariance_type, init, variance):
    module.p.set_params(prior_init=init, init_variance=variance)
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
