"""When facets are faded in, and when their priors are fitted."""

import copy

import numpy as np
import pytest
import torch
from small_mfcvae import make_module

from skdeepcluster._engine.protocol import Batch
from skdeepcluster._engine.randomness import seeded
from skdeepcluster.mfcvae import module as mfcvae
from skdeepcluster.mfcvae.mixture import MixturePrior
from skdeepcluster.mfcvae.stages import (
    faded_in,
    prior_starts,
    refit_epochs,
    stage_lengths,
)

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
def test_schedule(stage, step, expected):
    # alpha fades pictures and bounds alike: the oracle's gamma without a weight before
    alpha = faded_in(100 * stage + step, [100, 100, 100], 3, 0.1)
    assert alpha == pytest.approx(expected)


def test_schedule_without_a_fade():
    assert faded_in(100, [100, 100], 2, 0.0) == [1.0, 1.0]


def test_a_single_stage_trains_all_facets():
    assert faded_in(0, [100], 3, 0.5) == [1.0] * 3


def test_after_the_last_step_all_facets_are_there():
    assert faded_in(200, [100, 100], 2, 1.0) == [1.0, 1.0]


def test_beta_falls_when_a_facet_is_faded_in(two_factors):
    params = {"n_facets": 3, "latent_dims": 1, "fade_in": 0.5, "batch_size": 32}
    module = make_module(two_factors[0], beta_decay=8.0, max_epochs=6, **params)
    betas = []
    for module.clock.step in range(14):  # four steps a stage, and some beyond
        module.fade()
        betas.append(module.beta)
    assert betas == [64] * 4 + [64, 64, 8, 8] + [8, 8, 1, 1] + [1, 1]
    module = make_module(two_factors[0], beta_decay=8.0, progressive=False, **params)
    assert module.beta == 1


def test_beta_divides_the_likelihood_alone(two_factors):
    X = two_factors[0]
    module, images = make_module(X), torch.as_tensor(X) / 255
    module.alpha = [0.5, 1.0]
    parts = []
    for module.p.beta_decay in (4.0, 1.0):
        with seeded(0):
            parts.append(module.losses(Batch(torch.arange(64), [images])))
    torch.testing.assert_close(
        parts[0]["reconstruction"] * 4, parts[1]["reconstruction"]
    )
    assert all(parts[0][name] == parts[1][name] for name in ("facet0", "facet1"))


@pytest.mark.parametrize("max_epochs", [2, 3, 7, 100])
@pytest.mark.parametrize("shares", [(1, 1), (1, 99), (99, 1), (0.3, 0.7)])
def test_stages_share_the_epochs(max_epochs, shares):
    lengths = stage_lengths(max_epochs, shares)
    assert sum(lengths) == max_epochs and len(lengths) == 2 and min(lengths) >= 1
    assert all(isinstance(n, int) for n in lengths)
    if max_epochs == 100:
        assert lengths == pytest.approx([100 * s / sum(shares) for s in shares])


def test_fewer_epochs_than_facets_make_one_stage():
    assert stage_lengths(2, (1, 1, 1)) == (2,)


@pytest.mark.parametrize(
    ("shares", "fade_in"), [((4, 6), 0.25), ((2, 3, 5), 0.5), ((3, 1), 0.0)]
)
def test_every_step_of_a_training_follows_the_schedule(two_factors, shares, fade_in):
    n_facets, steps_per_epoch = len(shares), 7
    module = make_module(
        two_factors[0],
        n_facets=n_facets,
        latent_dims=1,
        stage_shares=shares,
        fade_in=fade_in,
        max_epochs=sum(shares),
        batch_size=9,
    )
    assert module.clock.steps_per_epoch == steps_per_epoch
    for stage, epochs in enumerate(shares):
        steps = epochs * steps_per_epoch
        for step in range(steps):
            left = fade_in * steps - step
            fade = 1.0 if stage == 0 or left <= 0 else step / (fade_in * steps)
            expected = [0.0] * (n_facets - 1 - stage) + [fade] + [1.0] * stage
            assert module.alpha == expected
            module.clock.step += 1
            module.after_step(None)
    assert module.alpha == [1.0] * n_facets


# -- the priors ------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(1,), (7,), (3, 10)])
def test_more_refits_than_epochs_are_one_after_each(lengths):
    ends = np.cumsum(lengths).tolist()
    starts = [end - n + round(0.3 * n) for end, n in zip(ends, lengths, strict=True)]
    every = {
        epoch
        for start, end in zip(starts, ends, strict=True)
        for epoch in range(start + 1, end + 1)
    }
    for n_refits in (2 * max(lengths), 99, 2**63):
        assert refit_epochs(lengths, 0.3, n_refits) == every


@pytest.mark.parametrize(
    ("shares", "params", "starts", "refits"),
    [
        # of a stage of ten epochs four are warm-up; two refits in the other six
        (
            (10, 10),
            {"prior_warmup": 0.4, "n_refits": 2},
            {4: [1], 14: [0]},
            {6: [1], 8: [1], 16: [0, 1], 18: [0, 1]},
        ),
        (
            (10, 10),
            {"prior_warmup": 0.0, "n_refits": 1},
            {0: [1], 10: [0]},
            {5: [1], 15: [0, 1]},
        ),
        ((5, 10), {"prior_warmup": 0.4, "n_refits": 0}, {2: [1], 9: [0]}, {}),
        (
            (5, 5),
            {"prior_warmup": 0.4, "n_refits": 1, "progressive": False},
            {4: [0, 1]},
            {7: [0, 1]},
        ),
        ((10, 10), {"prior_init": "gmm", "n_refits": 0}, {0: [0, 1]}, {}),
        (
            (10, 10),
            {"prior_init": "gmm", "n_refits": 1},
            {0: [0, 1]},
            {7: [0, 1], 17: [0, 1]},
        ),
    ],
)
def test_when_priors_are_fitted(
    two_factors, monkeypatch, shares, params, starts, refits
):
    X = two_factors[0][:16]
    module = make_module(X, stage_shares=shares, max_epochs=sum(shares), **params)
    x = module.scaling(torch.tensor(X))
    seen_starts, seen_refits = {}, {}

    def note(seen, prior):
        j = next(j for j, other in enumerate(module.priors) if other is prior)
        seen.setdefault(module.clock.epoch, []).append(j)

    def start(prior, mean, log_var):
        note(seen_starts, prior)
        means, covariances = prior.means.detach(), prior.covariances.detach()
        prior.set(prior.weights.detach(), means, covariances)

    monkeypatch.setattr(module, "start", start)
    monkeypatch.setattr(mfcvae, "refit_prior", lambda p, *_: note(seen_refits, p))
    for epoch in range(sum(shares)):
        module.clock.epoch = epoch
        module.refresh(lambda function: function(x))
    assert seen_starts == starts
    assert seen_refits == refits


@pytest.mark.parametrize("n_refits", [0, 1])
def test_priors_at_the_end(two_factors, monkeypatch, n_refits):
    # what an interrupt left without a mixture gets one; others may be fitted anew
    X = two_factors[0][:16]
    module = make_module(X, n_refits=n_refits)
    x, prior = module.scaling(torch.tensor(X)), module.priors[1]
    prior.set(torch.ones(3) / 3, torch.randn(3, 1), torch.ones(3, 1, 1))
    refitted = []
    monkeypatch.setattr(mfcvae, "refit_prior", lambda p, *_: refitted.append(p))
    module.finish(lambda function: function(x))
    assert refitted == [prior] * n_refits
    assert all(prior.is_set for prior in module.priors)


def test_epochs_of_a_short_stage_are_few():
    # one warm epoch of two, and more refits than there are epochs after it
    assert prior_starts([2, 2], 2, 0.5) == [3, 1]
    assert refit_epochs([2, 2], 0.5, 5) == {2, 4}
    assert refit_epochs([2, 2], 1.0, 5) == set()


def test_a_state_knows_which_components_are_trained():
    prior, other = (MixturePrior(3, 2, learn_weights=True) for _ in range(2))
    prior.set([0.2, 0.3, 0.5], torch.randn(3, 2), torch.ones(3, 2))
    fresh, state = copy.deepcopy(other.state_dict()), prior.state_dict()
    other.load_state_dict(state)
    assert other.is_set and all(p.requires_grad for p in other.parameters())
    other.load_state_dict(fresh)
    assert not other.is_set and not any(p.requires_grad for p in other.parameters())


def test_a_state_knows_how_far_facets_are_faded_in(two_factors):
    module = make_module(two_factors[0][:16], max_epochs=8, fade_in=0.5)
    fresh = copy.deepcopy(module)
    module.clock.step = 5
    module.after_step(None)
    assert module.alpha == [0.5, 1.0]
    fresh.load_state_dict(module.state_dict())
    assert fresh.alpha == [0.5, 1.0] and fresh.clock.step == 5
