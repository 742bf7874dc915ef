"""The module of GCC by itself: a step, the start of a round, the learning rate."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from small_gcc import K, N, features, make_module, unit
from torch import nn
from torch.nn import functional as F

from skdeepcluster._engine.protocol import Batch
from skdeepcluster.gcc.objective import (
    anchor_loss,
    discriminability_loss,
    domain_alignment_loss,
)
from skdeepcluster.gcc.running_statistics import frozen_running_statistics
from skdeepcluster.kmeans import spherical_kmeans
from skdeepcluster.losses import nt_xent

# weights that no two parts share
WEIGHTS = {
    "alignment_weight": 2.0,
    "discriminability_weight": 3.0,
    "metric_weight": 5.0,
    "anchor_weight": 7.0,
    "contrast_weight": 11.0,
}


@pytest.fixture(autouse=True)
def seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def in_a_round(**changed):
    """A module in stage II and a batch, and a bank that gives the same images."""
    module = make_module(**{**WEIGHTS, **changed}).train()
    module.round, module.bank.in_use = 1, True
    module.prototypes.data *= 3  # rows are normalised on use
    module.labels = torch.arange(N) % K
    module.confidence, module.reliable = torch.rand(N), torch.rand(N) > 0.4
    module.class_weights, module.anchors = torch.rand(K), unit(K, 8)
    drawn = torch.rand(18, 1, 8, 8, requires_grad=True), torch.arange(18) % K
    module.bank.draw = lambda: drawn
    views = [torch.rand(16, 1, 8, 8) for _ in range(2)]
    return module, Batch(torch.randperm(N)[:16], views), drawn


def statistics(network):
    return [b.clone() for name, b in network.named_buffers() if "running" in name]


# -- a step ----------------------------------------------------------------------------


@pytest.mark.parametrize("taught", [(True, True, True), (True, False, True)])
def test_parts_of_a_step(taught):
    module, batch, (images, drawn) = in_a_round()
    module.taught = torch.tensor(taught)
    other, index = copy.deepcopy(module.online), batch.index
    z1, z2 = features(other, torch.cat(batch.views)).chunk(2)
    after_real = statistics(other)
    zg = features(other, images)
    labels = module.labels[index]
    reliable = module.reliable[index] & module.taught[labels]
    W = F.normalize(module.prototypes, dim=1)
    align = domain_alignment_loss(
        z1,
        zg,
        labels,
        drawn,
        module.class_weights,
        module.confidence[index] * reliable,
        0.5,
    )
    expected = {
        "contrast": 11 * nt_xent(z1, z2, 0.5),
        "alignment": 2 * align,
        "discriminability": 3 * discriminability_loss(zg, drawn, module.anchors, 0.2),
        "generated_metric": 5 * F.cross_entropy(zg @ W.T / 0.1, drawn),
        "real_metric": 7 * anchor_loss(z2, labels, reliable, module.anchors, 0.1),
    }
    parts = module.losses(batch)
    assert list(parts) == list(expected)
    for name, value in parts.items():
        torch.testing.assert_close(value, expected[name], msg=name)
    # the running statistics are those of the real images alone
    assert all(map(torch.equal, statistics(module.online), after_real))
    weight = module.online.projector[-1].weight
    for name, value in parts.items():
        to_encoder, to_head, to_bank = torch.autograd.grad(
            value,
            (weight, module.prototypes, images),
            retain_graph=True,
            allow_unused=True,
        )
        assert to_encoder.abs().sum() > 0, name
        assert (to_head is not None) == (name == "generated_metric")
        of_bank = name in ("alignment", "discriminability", "generated_metric")
        assert (to_bank is not None) == of_bank
        assert to_bank is None or to_bank.abs().sum() > 0


def test_parts_of_stage_one_and_without_a_bank():
    module, batch, _ = in_a_round()
    module.round = 0
    (contrast,) = module.losses(batch).values()
    z1, z2 = module.encode(torch.cat(batch.views)).chunk(2)
    torch.testing.assert_close(contrast, nt_xent(z1, z2, 0.5))
    module.round, module.bank.in_use = 1, False
    assert list(module.losses(batch)) == ["contrast", "real_metric"]


def test_images_of_the_bank_are_augmented_where_that_is_wanted():
    class Watched(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x

    for augment_bank in (True, False):
        seen = []
        module, batch, (images, _) = in_a_round(augment_bank=augment_bank)
        module.augmentation = Watched()
        module.losses(batch)
        assert len(seen) == augment_bank and all(x is images for x in seen)


def test_anchors_move_after_a_step():
    module, batch, (images, drawn) = in_a_round(anchor_momentum=0.6)
    before = module.anchors.clone()
    other = copy.deepcopy(module.online)
    module.losses(batch)
    assert torch.equal(module.anchors, before)  # losses change nothing
    module.after_step(batch)
    zg = features(other, images).detach()
    means = torch.stack([zg[drawn == k].mean(0) for k in range(K)])
    expected = F.normalize(0.6 * before + 0.4 * means, dim=1)
    torch.testing.assert_close(module.anchors, expected)
    module.after_step(Batch(batch.index, batch.views))
    torch.testing.assert_close(module.anchors, expected)  # without a bank's images


# -- between the steps -----------------------------------------------------------------


def test_the_head_is_the_kmeans():
    module, z = make_module(n_clusters=7, init="kmeans"), unit(500, 8)
    module.end_pretraining(z)
    torch.testing.assert_close(module.prototypes.norm(dim=1), torch.ones(7))
    _, nearest = (z @ module.prototypes.T).max(1)
    assert torch.equal(module.head(z).argmax(1), nearest)
    assert torch.equal(module.labels, nearest)
    # a fixed point of the iterations: one more changes no label
    _, labels = spherical_kmeans(z, 7, init=module.prototypes.detach(), n_init=0)
    assert torch.equal(labels, module.labels)


@pytest.mark.parametrize("min_agreement", [0.0, 0.9])
def test_a_round_starts_from_the_bank(min_agreement):
    module = make_module(min_agreement=min_agreement, bank_filter="none").eval()
    module.labels = torch.arange(N) % 2  # cluster 2 is empty
    module.bank.images = torch.rand(18, 1, 8, 8)
    with torch.no_grad():
        z = features(module.online, module.bank.images)
        # the head takes all for cluster 0
        module.prototypes.copy_(torch.stack([z.mean(0), -z.mean(0), -z.mean(0)]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module.judge_bank()
    ((zero, one, two),) = module.agreement
    assert (zero, one) == (1, 0) and math.isnan(two)
    kept = [True, min_agreement == 0, False]
    assert module.taught.tolist() == kept
    means = F.normalize(torch.stack([z[6 * k : 6 * k + 6].mean(0) for k in range(3)]))
    expected = torch.where(module.taught[:, None], means, module.centers)
    torch.testing.assert_close(module.anchors, expected)
    sizes = torch.tensor([20.0, 20.0, 1.0])
    torch.testing.assert_close(module.class_weights, module.taught / sizes)


def test_generated_images_leave_the_running_statistics():
    network = make_module().online.train()
    x, before = torch.rand(16, 1, 8, 8), statistics(network)
    assert len(before) == 8
    tracked = [b.clone() for b in network.buffers()]
    with frozen_running_statistics(network):
        inside = network(x)
    assert all(map(torch.equal, tracked, network.buffers()))
    outside = network(x)
    torch.testing.assert_close(inside, outside)  # their own statistics, in both cases
    assert not any(map(torch.equal, before, statistics(network)))


def test_running_statistics_are_tracked_again_after_an_error():
    network = make_module().online.train()
    with pytest.raises(RuntimeError, match="stop"), frozen_running_statistics(network):
        raise RuntimeError("stop")
    before = statistics(network)
    network(torch.rand(16, 1, 8, 8))
    assert not any(map(torch.equal, before, statistics(network)))


def schedule(steps_per_epoch, **params):
    module = make_module(**params)
    module.clock.steps_per_epoch = steps_per_epoch
    return module.schedule()


def test_learning_rate_of_the_stages():
    params = {"lr": 1e-3, "calibration_lr": 5e-4}
    # steps 0 to 100, 140 and 180
    factor = schedule(20, max_epochs=9, pretraining=5 / 9, lr_warmup=0.1, **params)
    rates = [factor(step) for step in range(180)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates[:100]) == pytest.approx(1, 1e-3)
    assert rates[99] < 0.03
    assert 0.49 < rates[100] <= 0.5 and rates[139] < 0.01
    np.testing.assert_allclose(rates[100:140], rates[140:180])
    short = schedule(1, max_epochs=1, pretraining=0.0, **params)
    assert short(0) > 0.1
