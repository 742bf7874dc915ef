"""GCC and its diffusion model against values that can be worked out by hand."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from sklearn.metrics import pairwise_distances
from torch import nn
from torch.nn import functional as F

from skdeepcluster._bank import balanced_weights
from skdeepcluster._images import Images
from skdeepcluster._kmeans import spherical_kmeans
from skdeepcluster._net import Batch
from skdeepcluster._scaling import Scaling
from skdeepcluster.denoisers import DENOISERS, UNet, resolve_denoiser
from skdeepcluster.diffusion import (
    SAMPLERS,
    ConditionalDiffusion,
    DiffusionModule,
    WeightedBatches,
    train_diffusion,
)
from skdeepcluster.gcc import (
    GCCModule,
    StagedCosine,
    alignment_loss,
    anchor_loss,
    discriminability_loss,
    frozen_running_statistics,
    move_anchors,
    multi_kernel,
    reliable_samples,
    weighted_mmd,
)
from skdeepcluster.losses import nt_xent

ONE = torch.ones(1, 1)


@pytest.fixture(autouse=True)
def seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def unit(n, d):
    return F.normalize(torch.randn(n, d), dim=1)


def uniform(n):
    return torch.full((1, n), 1 / n)


# -- the contrast ----------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_contrast_of_equal_embeddings(temperature):
    z = torch.ones(4, 8)
    assert nt_xent(z, z, temperature).item() == pytest.approx(math.log(7), abs=1e-5)


def test_contrast_of_orthogonal_pairs():
    z = torch.eye(4)
    expected = -math.log(math.e**2 / (math.e**2 + 6))
    assert expected == pytest.approx(0.594438, abs=1e-6)
    assert nt_xent(z, z, 0.5).item() == pytest.approx(expected, abs=1e-6)


# -- the discrepancy -------------------------------------------------------------------


def test_kernel_of_two_points():
    a, b = torch.tensor([[0.0]]), torch.tensor([[1.0]])
    mmd = weighted_mmd(a, b, ONE, ONE, 1.0).item()
    widths = (1 / 4, 1 / 2, 1, 2, 4)
    by_hand = 2 - 2 * sum(math.exp(-1 / m) for m in widths) / 5
    assert by_hand == pytest.approx(1.237255, abs=1e-6)
    assert mmd == pytest.approx(by_hand, abs=1e-6)


def test_kernel_against_a_loop():
    a, b, scale = torch.randn(5, 3), torch.randn(4, 3), 1.7
    squares = pairwise_distances(a, b, metric="sqeuclidean")
    expected = sum(np.exp(-squares / (m * scale)) for m in (0.25, 0.5, 1, 2, 4)) / 5
    np.testing.assert_allclose(multi_kernel(a, b, scale), expected, rtol=1e-5)


def test_discrepancy_of_a_sample_with_itself():
    x = torch.randn(20, 5)
    weights = torch.rand(3, 20)
    weights = weights / weights.sum(1, keepdim=True)
    mmd = weighted_mmd(x, x, weights, weights, 2.0)
    assert mmd.abs().max() < 1e-6


def test_discrepancy_is_symmetric_and_grows_with_a_shift():
    a, b = torch.randn(30, 4), torch.randn(20, 4)
    wa, wb = torch.rand(1, 30), torch.rand(1, 20)
    wa, wb = wa / wa.sum(), wb / wb.sum()
    one, other = weighted_mmd(a, b, wa, wb, 3.0), weighted_mmd(b, a, wb, wa, 3.0)
    torch.testing.assert_close(one, other)
    shifted = [weighted_mmd(a, a + by, wa, wa, 3.0).item() for by in (0.0, 0.5, 1.0)]
    assert -1e-6 < shifted[0] < shifted[1] < shifted[2]


def test_discrepancy_is_not_negative():
    for _ in range(50):
        a, b = torch.randn(2, 6, 2).double()
        wa, wb = torch.rand(2, 1, 6).double()
        wa, wb = wa / wa.sum(), wb / wb.sum()
        assert weighted_mmd(a, b, wa, wb, 1.0) > -1e-12


def test_discrepancy_knows_no_order_and_no_copies():
    a, b, wb = torch.randn(12, 4), torch.randn(9, 4), uniform(9)
    wa = torch.rand(1, 12)
    wa = wa / wa.sum()
    expected = weighted_mmd(a, b, wa, wb, 1.0)
    order = torch.randperm(12)
    torch.testing.assert_close(
        weighted_mmd(a[order], b, wa[:, order], wb, 1.0), expected
    )
    twice = weighted_mmd(torch.cat([a, a]), b, torch.cat([wa, wa], 1) / 2, wb, 1.0)
    torch.testing.assert_close(twice, expected)


def aligned(real, generated, labels, drawn, k, share, trust=None, class_weights=None):
    trust = torch.ones(len(real)) if trust is None else trust
    ones = torch.ones(k) if class_weights is None else class_weights
    return alignment_loss(real, generated, labels, drawn, ones, trust, share)


def two_classes(n=20):
    labels = torch.arange(n) % 2
    points = unit(2, 6)[labels] + 0.05 * torch.randn(n, 6)
    return F.normalize(points, dim=1), labels


def test_mismatched_classes_raise_the_class_term_only():
    real, labels = two_classes()
    generated = real[torch.randperm(20)]
    right = torch.cdist(generated, real).argmin(1) % 2
    good, bad = (
        aligned(real, generated, labels, drawn, 2, share=1.0)
        for drawn in (right, 1 - right)
    )
    assert good < 1e-3 and bad > 0.1
    everyone = [
        aligned(real, generated, labels, drawn, 2, share=0.0)
        for drawn in (right, 1 - right)
    ]
    assert everyone[0] == everyone[1] and everyone[0].abs() < 1e-5


def test_a_class_that_is_absent_contributes_nothing():
    real, labels = two_classes()
    generated = F.normalize(real + 0.3 * torch.randn(20, 6), dim=1).requires_grad_()
    two = aligned(real, generated, labels, labels, 2, share=1.0)
    five = aligned(real, generated, labels, labels, 5, share=1.0)
    torch.testing.assert_close(two, five)
    # one image on one side is not enough of a class
    alone = torch.where(torch.arange(20) == 19, 2, labels)
    left_out = aligned(real[:19], generated, labels[:19], alone, 3, share=1.0)
    assert left_out.isfinite()
    nothing = aligned(
        real, generated, labels, labels + 2, 4, share=1.0, trust=torch.ones(20)
    )
    assert nothing.item() == 0
    nothing.backward()
    assert generated.grad.isfinite().all()


def test_untrusted_images_do_not_count_in_their_class():
    real, labels = two_classes()
    trust = (torch.arange(20) > 5).float()
    # the others' labels are all that changes: the scale of the kernels stays
    other = torch.where(trust > 0, labels, 1 - labels)
    weights = torch.ones(2)
    one, two, wrong = (
        alignment_loss(real, real.flip(0), y, labels.flip(0), weights, t, 1.0)
        for y, t in ((labels, trust), (other, trust), (other, torch.ones(20)))
    )
    assert one == two and wrong > one


def test_the_global_term_is_balanced_over_classes():
    # nine images of one class and one of the other, against one generated of each
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    real = torch.cat([a.repeat(9, 1), b])
    labels = torch.tensor([0] * 9 + [1])
    generated, drawn = torch.cat([a, b]), torch.tensor([0, 1])
    weights = 1 / torch.tensor([9.0, 1.0])
    balanced = aligned(real, generated, labels, drawn, 2, 0.0, class_weights=weights)
    assert balanced.abs() < 1e-6
    assert aligned(real, generated, labels, drawn, 2, 0.0) > 0.05


def test_alignment_moves_both_sides():
    real, labels = two_classes()
    generated = F.normalize(real + 0.5 * torch.randn(20, 6), dim=1)
    real, generated = real.clone().requires_grad_(), generated.requires_grad_()
    aligned(real, generated, labels, labels, 2, 0.5).backward()
    assert real.grad.abs().sum() > 0 and generated.grad.abs().sum() > 0


# -- anchors ---------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "value"), [(0.2, 4.0852e-4), (1.0, 0.796614)])
def test_discriminability_on_the_anchors(temperature, value):
    anchors, labels = torch.eye(10), torch.arange(10).repeat(3)
    loss = discriminability_loss(anchors[labels], labels, anchors, temperature).item()
    by_hand = math.log(1 + 9 * math.exp(-2 / temperature))
    assert by_hand == pytest.approx(value, rel=1e-4)
    assert loss == pytest.approx(by_hand, rel=1e-3)


def test_discriminability_draws_to_the_anchor_and_leaves_it():
    anchors = torch.eye(4).requires_grad_()
    labels = torch.tensor([0, 1, 2])
    features = unit(3, 4)
    nearer = features.clone()
    nearer[0] = F.normalize(features[0] + 0.2 * anchors[0].detach(), dim=0)
    far, near = (
        discriminability_loss(x.requires_grad_(), labels, anchors)
        for x in (features, nearer)
    )
    assert near < far
    far.backward()
    assert features.grad.abs().sum() > 0 and anchors.grad is None


def test_anchor_loss_on_the_anchors():
    anchors, labels = torch.eye(10), torch.arange(10)
    loss = anchor_loss(anchors, labels, torch.ones(10, dtype=bool), anchors, 0.5)
    assert loss.item() == pytest.approx(math.log(1 + 9 * math.exp(-2)), abs=1e-6)
    assert loss.item() == pytest.approx(0.796614, abs=1e-6)


def test_unreliable_images_are_not_drawn():
    anchors, labels = torch.eye(5), torch.arange(5)
    features = unit(5, 5).requires_grad_()
    nothing = anchor_loss(features, labels, torch.zeros(5, dtype=bool), anchors)
    nothing.backward()
    assert nothing.item() == 0 and features.grad.isfinite().all()
    reliable = torch.tensor([True, True, False, True, True])
    other = labels.clone()
    other[2] = 4
    one, two = (anchor_loss(features, y, reliable, anchors) for y in (labels, other))
    assert one == two
    assert anchor_loss(features, other, ~reliable, anchors) != anchor_loss(
        features, labels, ~reliable, anchors
    )


def test_anchors_move_to_the_means_of_their_classes():
    anchors = torch.eye(3)
    features = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    moved = move_anchors(anchors, features, torch.tensor([0, 0]), 0.9)
    expected = np.array([0.9, 0.05, 0.05])
    np.testing.assert_allclose(moved[0], expected / np.linalg.norm(expected), rtol=1e-6)
    assert torch.equal(moved[1:], anchors[1:])
    jump = move_anchors(anchors, features[:1], torch.tensor([2]), 0.0)
    assert torch.equal(jump[2], features[0])


# -- pseudo-labels ---------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 1.0])
def test_reliable_images_of_each_cluster(share):
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate((100, 30, 5, 0, 10))])
    labels = labels[torch.randperm(len(labels))]
    confidence = torch.rand(len(labels))
    reliable = reliable_samples(confidence, labels, 5, share)
    for k, n in enumerate((100, 30, 5, 0, 10)):
        inside = reliable[labels == k]
        assert inside.sum() == max(math.ceil(round(share * n, 9)), min(n, 8))
        if 0 < inside.sum() < n:
            c = confidence[labels == k]
            assert c[inside].min() >= c[~inside].max()
    assert reliable.all() == (share == 1.0)


def test_balanced_draws():
    labels = torch.tensor([0] * 300 + [1] * 30 + [2] * 3)
    weights = balanced_weights(labels, 3, null_mass=0.0)
    drawn = torch.cat(list(WeightedBatches(weights, 100, 100)))
    counts = np.bincount(labels[drawn], minlength=3)
    assert counts.sum() == 10_000
    assert chisquare(counts).pvalue > 1e-3


def test_images_without_a_class_are_drawn_twice_as_often_as_a_class():
    labels = torch.tensor([0] * 50 + [1] * 7 + [2] * 20)
    weights = balanced_weights(labels, 2)
    mass = [weights[labels == k].sum().item() for k in range(3)]
    np.testing.assert_allclose(mass, [1, 1, 2], rtol=1e-5)
    assert torch.equal(weights[labels == 0], torch.full((50,), 1 / 50))


# -- networks of GCC -------------------------------------------------------------------


def options(**changed):
    return {
        "temperature": 0.5,
        "head_temperature": 0.1,
        "reliable_share": 0.7,
        "alignment_weight": 1.0,
        "class_share": 0.5,
        "discriminability_weight": 0.5,
        "discriminability_temperature": 0.2,
        "metric_weight": 1.0,
        "anchor_weight": 1.0,
        "augment_bank": False,
        "anchor_temperature": 0.1,
        "anchor_momentum": 0.9,
        "contrast_weight": 0.5,
        "bank": "generated",
        "bank_filter": "agreement",
        "min_agreement": 0.2,
        "diffusion_batch_size": 8,
        "class_dropout": 0.1,
        "guidance_scale": 1.5,
        "sampling_steps": 2,
        "sampler": "dpm-solver++",
        "max_change": 0.4,
        "tol": 0.005,
        "assign": "head",
        "n_init": 10,
        **changed,
    }


def make_module(n=40, k=3, **changed):
    images = Images(np.random.default_rng(0).random((n, 64), np.float32), (1, 8, 8))
    return GCCModule(
        Scaling(images),
        nn.Identity(),
        backbone="conv",
        image_shape=(1, 8, 8),
        n_samples=n,
        n_clusters=k,
        feature_dim=8,
        hidden_dim=16,
        warmup_epochs=1,
        round_epochs=[1],
        batch_size=32,
        samples_per_cluster=6,
        denoiser="mlp",
        diffusion_steps=5,
        diffusion_lr=1e-3,
        flip=False,
        verbose=False,
        **options(**changed),
    )


def test_the_head_is_the_kmeans():
    module, z = make_module(k=7), unit(500, 8)
    module.end_pretraining(z)
    torch.testing.assert_close(module.prototypes.norm(dim=1), torch.ones(7))
    _, nearest = (z @ module.prototypes.T).max(1)
    assert torch.equal(module.head(z).argmax(1), nearest)
    assert torch.equal(module.labels, nearest)
    # a fixed point of the iterations: one more changes no label
    _, labels = spherical_kmeans(z, 7, init=module.prototypes.detach(), n_init=0)
    assert torch.equal(labels, module.labels)


# weights that no two parts share
WEIGHTS = {
    "alignment_weight": 2.0,
    "discriminability_weight": 3.0,
    "metric_weight": 5.0,
    "anchor_weight": 7.0,
    "contrast_weight": 11.0,
}


def in_a_round(**changed):
    """A module in stage II and a batch, and a bank that gives the same images."""
    module = make_module(n=40, k=3, **{**WEIGHTS, **changed}).train()
    module.round, module.bank.in_use = 1, True
    module.prototypes.data *= 3  # rows are normalised on use
    module.labels = torch.arange(40) % 3
    module.confidence, module.reliable = torch.rand(40), torch.rand(40) > 0.4
    module.class_weights, module.anchors = torch.rand(3), unit(3, 8)
    drawn = torch.rand(18, 1, 8, 8, requires_grad=True), torch.arange(18) % 3
    module.bank.draw = lambda: drawn
    views = [torch.randn(16, 1, 8, 8) for _ in range(2)]
    return module, Batch(torch.randperm(40)[:16], views), drawn


@pytest.mark.parametrize("taught", [(True, True, True), (True, False, True)])
def test_parts_of_a_step(taught):
    module, batch, (images, drawn) = in_a_round()
    module.taught = torch.tensor(taught)
    other, index = copy.deepcopy(module.online), batch.index
    z1, z2 = F.normalize(other(torch.cat(batch.views)), dim=1).chunk(2)
    after_real = statistics(other)
    zg = F.normalize(other(module.scaling.standardize(images)), dim=1)
    labels = module.labels[index]
    reliable = module.reliable[index] & module.taught[labels]
    W = F.normalize(module.prototypes, dim=1)
    expected = {
        "contrast": 11 * nt_xent(z1, z2, 0.5),
        "alignment": 2
        * alignment_loss(
            z1,
            zg,
            labels,
            drawn,
            module.class_weights,
            module.confidence[index] * reliable,
            0.5,
        ),
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
    module.after_step()
    zg = F.normalize(other(module.scaling.standardize(images)), dim=1).detach()
    means = torch.stack([zg[drawn == k].mean(0) for k in range(3)])
    expected = F.normalize(0.6 * before + 0.4 * means, dim=1)
    torch.testing.assert_close(module.anchors, expected)
    module.after_step()  # without a bank's images nothing moves
    torch.testing.assert_close(module.anchors, expected)


@pytest.mark.parametrize("min_agreement", [0.0, 0.9])
def test_a_round_starts_from_the_bank(min_agreement):
    module = make_module(n=40, k=3, min_agreement=min_agreement, bank_filter="none")
    module = module.eval()
    module.labels = torch.arange(40) % 2  # cluster 2 is empty
    module.bank.images = torch.rand(18, 1, 8, 8)
    with torch.no_grad():
        z = module.encode(module.scaling.standardize(module.bank.images))
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


def statistics(network):
    return [b.clone() for name, b in network.named_buffers() if "running" in name]


def test_generated_images_leave_the_running_statistics():
    network = make_module().online.train()
    x, before = torch.randn(16, 1, 8, 8), statistics(network)
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
    network(torch.randn(16, 1, 8, 8))
    assert not any(map(torch.equal, before, statistics(network)))


def test_learning_rate_of_the_stages():
    factor = StagedCosine([100, 140, 180], warmup=10, later=0.5)
    rates = [factor(step) for step in range(180)]
    assert rates[0] == pytest.approx(0.1) and max(rates[:100]) == pytest.approx(1, 1e-3)
    assert rates[99] < 0.03
    assert 0.49 < rates[100] <= 0.5 and rates[139] < 0.01
    np.testing.assert_allclose(rates[100:140], rates[140:180])
    short = StagedCosine([0, 1], warmup=0, later=0.5)
    assert short(0) > 0.1


# -- the diffusion model ---------------------------------------------------------------


def diffusion(shape=(1, 8, 8), k=3, denoiser="mlp"):
    return ConditionalDiffusion(shape, k, denoiser)


def test_algebra_of_the_noise():
    model = diffusion()
    a, x0, eps = 0.3, 1.7, -0.4
    x_t = math.sqrt(a) * x0 + math.sqrt(1 - a) * eps
    v = math.sqrt(a) * eps - math.sqrt(1 - a) * x0
    assert math.sqrt(a) * x_t - math.sqrt(1 - a) * v == pytest.approx(x0)
    assert math.sqrt(1 - a) * x_t + math.sqrt(a) * v == pytest.approx(eps)
    # the scheduler has no such step: give it one
    model.scheduler.alphas_cumprod[7] = a
    at, one = torch.tensor([7]), torch.ones(1, 1)
    noisy = model.scheduler.add_noise(x0 * one, eps * one, at)
    velocity = model.scheduler.get_velocity(x0 * one, eps * one, at)
    assert noisy.item() == pytest.approx(x_t, rel=1e-5)
    assert velocity.item() == pytest.approx(v, rel=1e-5)


def test_the_loss_is_the_error_of_the_velocity(monkeypatch):
    model, seen = diffusion(), {}

    def denoise(x, t, labels):
        seen.update(x=x, t=t, labels=labels)
        return torch.zeros_like(x)

    monkeypatch.setattr(model, "denoise", denoise)
    images, labels = torch.rand(32, 1, 8, 8), torch.arange(32) % 4
    loss = model.loss(images, labels)
    a = model.scheduler.alphas_cumprod[seen["t"]].view(-1, 1, 1, 1)
    x0 = 2 * images - 1
    eps = (seen["x"] - a.sqrt() * x0) / (1 - a).sqrt()
    v = a.sqrt() * eps - (1 - a).sqrt() * x0
    torch.testing.assert_close(loss, v.square().mean(), rtol=1e-3, atol=0)
    assert torch.equal(seen["labels"], labels)
    assert len(seen["t"].unique()) > 20 and seen["t"].max() < 1000


@pytest.mark.parametrize("denoiser", ["mlp", "nano"])
def test_guidance(denoiser):
    model = diffusion(denoiser=denoiser)
    x, t = torch.randn(6, 1, 8, 8), torch.tensor(500)
    labels = torch.arange(6) % 3
    with torch.no_grad():
        v = {g: model.guided(x, t, labels, g) for g in (0, 0.5, 1, 1.5, 2)}
        conditional = model.denoise(x, t.expand(6), labels)
        unconditional = model.denoise(x, t.expand(6), torch.full((6,), 3))
    torch.testing.assert_close(v[1], conditional)
    torch.testing.assert_close(v[0], unconditional)
    assert not torch.allclose(v[0], v[1], atol=1e-4)
    torch.testing.assert_close(v[0.5], (v[0] + v[1]) / 2, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(v[2] - v[1.5], (v[1] - v[0]) / 2, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 5, 9), (1, 2, 1), (3, 70, 33)])
def test_unets_of_any_size(shape):
    network = UNet(shape, 4, DENOISERS["nano"])
    network.network = Echo()
    x = torch.randn(2, *shape)
    # padded, cut into patches and put together again: each pixel stays where it was
    assert torch.equal(network(x, torch.zeros(2), torch.zeros(2).long()), x)
    height, width = network.network.seen[2:]
    assert height % 2 == 0 and width % 2 == 0 and max(height, width) <= 18


class Echo(nn.Module):
    def forward(self, x, t, labels):
        self.seen = x.shape
        return type("Output", (), {"sample": x})


@pytest.mark.parametrize(
    ("name", "shape", "millions"),
    [
        ("nano", (1, 28, 28), 0.64),
        ("micro", (1, 28, 28), 1.4),
        ("tiny", (1, 28, 28), 1.05),
        ("small", (1, 28, 28), 4.4),
        ("base32", (3, 32, 32), 6.5),
        ("mid32", (3, 32, 32), 14.6),
        ("ddpm32", (3, 32, 32), 35.8),
    ],
)
def test_sizes_of_the_unets(name, shape, millions):
    network = UNet(shape, 11, DENOISERS[name])
    count = sum(p.numel() for p in network.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize("denoiser", ["mlp", "nano"])
def test_the_class_embedding_has_a_row_for_no_class(denoiser):
    model = diffusion(k=5, denoiser=denoiser)
    (rows,) = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    assert rows.num_embeddings == 6


def test_unreliable_images_teach_no_class():
    images = Images(np.random.default_rng(0).random((40, 64), np.float32), (1, 8, 8))
    labels, seen = torch.full((40,), 3), []
    module = DiffusionModule(Scaling(images), nn.Identity(), diffusion(), labels, 0.1)
    rows = module.trained.denoiser.class_embedding.weight
    for _ in range(5):
        index = torch.randint(40, (16,))
        batch = type("B", (), {"index": index, "views": [torch.randn(16, 1, 8, 8)]})
        module.zero_grad()
        module.losses(batch)["diffusion"].backward()
        seen.append(rows.grad.abs().sum(1) > 0)
    assert torch.equal(torch.stack(seen).any(0), torch.tensor([False] * 3 + [True]))


def test_the_average_of_the_weights():
    images = Images(np.random.default_rng(0).random((40, 64), np.float32), (1, 8, 8))
    average = diffusion()
    labels = torch.zeros(40, dtype=torch.int64)
    module = DiffusionModule(Scaling(images), nn.Identity(), average, labels, 0.1)
    assert module.average is average  # it is moved in place
    (expected, *_) = [p.detach().clone() for p in average.parameters()]
    for step in range(1, 4):
        (weight, *_) = module.trained.parameters()
        weight.data += torch.randn_like(weight)
        module.after_step()
        momentum = (1 + step) / (10 + step)
        expected = momentum * expected + (1 - momentum) * weight.detach()
    torch.testing.assert_close(next(average.parameters()), expected)
    module.step = 10**6
    module.after_step()
    expected = 0.999 * expected + 0.001 * weight.detach()
    torch.testing.assert_close(next(average.parameters()), expected)


def test_dropout_of_classes():
    images = Images(np.random.default_rng(0).random((40, 64), np.float32), (1, 8, 8))
    for dropout, rows in ((0.0, [True] * 3 + [False]), (1.0, [False] * 3 + [True])):
        labels = torch.arange(40) % 3
        module = DiffusionModule(
            Scaling(images), nn.Identity(), diffusion(), labels, dropout
        )
        batch = type(
            "B", (), {"index": torch.arange(40), "views": [torch.randn(40, 1, 8, 8)]}
        )
        module.losses(batch)["diffusion"].backward()
        grad = module.trained.denoiser.class_embedding.weight.grad
        assert (grad.abs().sum(1) > 0).tolist() == rows


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_of_a_perfect_denoiser(monkeypatch, sampler):
    model, constant = diffusion(), 0.37
    alphas = model.scheduler.alphas_cumprod
    assert alphas[999] == pytest.approx(2.4e-9, rel=0.05)
    times = []

    def guided(x, t, labels, scale):
        # of a constant image: v by way of the noise that x must hold
        times.append(int(t))
        a = alphas[t].double()
        eps = (x.double() - a.sqrt() * constant) / (1 - a).sqrt()
        return (a.sqrt() * eps - (1 - a).sqrt() * constant).float()

    monkeypatch.setattr(model, "guided", guided)
    n_steps = {"dpm-solver++": 15, "ddim": 20, "ddpm": 1000}[sampler]
    drawn = model.sample(torch.zeros(4).long(), 1.5, n_steps, sampler)
    assert times[0] == 999 and len(times) == n_steps
    np.testing.assert_allclose(2 * drawn - 1, constant, atol=1e-4)


def test_samples_are_drawn_again_by_the_same_seed():
    model, labels = diffusion(), torch.arange(6) % 3
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(model.sample(labels, n_steps=3))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_ranges():
    images, vectors = diffusion(), diffusion((1, 1, 8))
    x = torch.tensor([0.0, 0.25, 1.0])
    assert images.from_unit(x).tolist() == [-1, -0.5, 1]
    assert images.to_unit(torch.tensor([-3.0, -0.5, 1.0])).tolist() == [0, 0.25, 1]
    assert vectors.from_unit(x) is x
    assert vectors.to_unit(torch.tensor([-9.0])).item() == -9


def test_a_diffusion_model_learns_two_constant_classes():
    rows = np.repeat([[0.1], [0.8]], [10, 60], 0) * np.ones((70, 64))
    images = Images(rows.astype(np.float32), (1, 8, 8))
    labels = torch.tensor([0] * 10 + [1] * 60)
    model = diffusion(k=2)
    before = [p.clone() for p in model.parameters()]
    loss = train_diffusion(
        model.requires_grad_(False),
        images,
        Scaling(images),
        labels,
        steps=300,
        batch_size=32,
        lr=3e-3,
        dropout=0.1,
    )
    assert loss < 0.1
    assert not any(map(torch.equal, before, model.parameters()))
    drawn = model.sample(torch.tensor([0, 1] * 8), 1.0, 15).mean((1, 2, 3))
    np.testing.assert_allclose(drawn[0::2], 0.1, atol=0.08)
    np.testing.assert_allclose(drawn[1::2], 0.8, atol=0.08)


def test_denoiser_of_auto():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert resolve_denoiser("auto", (1, 28, 28), cpu) == "nano"
    assert resolve_denoiser("auto", (1, 1, 50), cuda) == "mlp"
    assert resolve_denoiser("auto", (1, 28, 28), cuda) == "small"
    assert resolve_denoiser("auto", (3, 32, 32), cuda) == "mid32"
    with pytest.raises(
        ValueError, match="'huge' is unknown. Pass one of 'auto', 'mlp'"
    ):
        resolve_denoiser("huge", (1, 28, 28), cpu)
    with pytest.raises(ValueError, match="'nano' needs images, but X holds vectors"):
        resolve_denoiser("nano", (1, 1, 50), cpu)
