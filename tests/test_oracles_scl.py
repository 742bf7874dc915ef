"""The numbers of SCL's formulas, computed by hand or by slow loops."""

import copy
import inspect
import math

import numpy as np
import pytest
import torch
from conftest import SMALL
from sklearn.metrics import adjusted_rand_score
from torch import nn
from torch.nn import functional as F

from skdeepcluster import SCL, scl
from skdeepcluster._base import Plan
from skdeepcluster._images import Images
from skdeepcluster._net import Batch
from skdeepcluster._scaling import Scaling
from skdeepcluster.datasets import load_digits_images
from skdeepcluster.metrics import clustering_accuracy
from skdeepcluster.scl import (
    balance_loss,
    consistency_loss,
    log_member_similarity,
    log_visual_similarity,
    pseudo_label_loss,
    remember,
    semantic_contrastive,
)

TAU = 0.5


def randn(*shape, grad=False):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


def unit(x):
    return F.normalize(x, dim=1)


def eye(k):
    return torch.eye(k, dtype=torch.float64)


def log_of(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


def gradient(loss, x):
    (found,) = torch.autograd.grad(loss, x, retain_graph=True, allow_unused=True)
    return found


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# -- slow references, written from the equations ---------------------------------------


def slow_contrastive(z, memory, index, labels, temperature, instance=None):
    """One anchor, one slot at a time."""
    total = 0.0
    for a, own in enumerate(index.tolist()):
        positive = math.exp(float(z[a] @ memory[own]) / temperature)
        negatives = 0.0
        for j in range(len(memory)):
            alone = instance is not None and bool(instance[a])
            if j != own and (alone or labels[j] != labels[own]):
                negatives += math.exp(float(z[a] @ memory[j]) / temperature)
        total -= math.log(positive / (positive + negatives))
    return total / len(z)


def slow_member_similarity(z, memory, labels, n_clusters, temperature, index=None):
    s = np.zeros((len(z), n_clusters))
    for a in range(len(z)):
        for j in range(len(memory)):
            if index is None or j != index[a]:
                s[a, labels[j]] += math.exp(float(z[a] @ memory[j]) / temperature)
    return s / s.sum(1, keepdims=True)


def slots(n=30, d=6, b=8, k=4, grad=False):
    """Unit anchors and memory, the anchors' slots, labels of all slots."""
    z, memory = unit(randn(b, d)).requires_grad_(grad), unit(randn(n, d))
    return z, memory, torch.randperm(n)[:b], torch.randint(k, (n,))


# -- oracles 1 to 3: the semantic contrastive loss -------------------------------------


def test_contrastive_loss_by_hand():
    memory = eye(2)[[0, 0, 1, 1, 1]]
    labels = torch.tensor([0, 0, 1, 1, 1])
    loss = semantic_contrastive(eye(2)[:1], memory, torch.tensor([0]), labels, TAU)
    assert loss.item() == pytest.approx(0.340753, abs=1e-6)
    assert loss.item() == pytest.approx(math.log(1 + 3 * math.exp(-2)), abs=1e-12)


def test_without_a_negative_the_loss_is_exactly_zero():
    z, memory, index, labels = slots(grad=True)
    loss = semantic_contrastive(z, memory, index, torch.zeros_like(labels), TAU)
    assert loss.item() == 0.0
    assert not gradient(loss, z).any()
    assert semantic_contrastive(z[:1], memory[:1], index[:1] * 0, labels[:1], TAU) == 0


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_singleton_labels_are_instance_discrimination(seed, temperature):
    torch.manual_seed(seed)
    z, memory, index, _ = slots(grad=True)
    alone = torch.arange(len(memory))
    loss = semantic_contrastive(z, memory, index, alone, temperature)
    expected = F.cross_entropy(z @ memory.T / temperature, index)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(
        gradient(loss, z), gradient(expected, z), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 2, 4])
def test_contrastive_loss_equals_the_loops(seed, k):
    torch.manual_seed(seed)
    z, memory, index, labels = slots(k=k)
    loss = semantic_contrastive(z, memory, index, labels, TAU).item()
    assert loss == pytest.approx(
        slow_contrastive(z, memory, index, labels, TAU), abs=1e-10
    )


def test_slots_of_the_own_cluster_change_nothing():
    z, memory, index, labels = slots(b=1, grad=True)
    loss = semantic_contrastive(z, memory, index, labels, TAU)
    kin = labels == labels[index]
    kin[index] = False
    assert kin.sum() > 2
    other = memory.clone()
    other[kin] = unit(randn(int(kin.sum()), memory.shape[1]))
    again = semantic_contrastive(z, other, index, labels, TAU)
    assert again.item() == loss.item()
    assert torch.equal(gradient(again, z), gradient(loss, z))


def test_contrastive_loss_ignores_a_common_rotation():
    z, memory, index, labels = slots()
    turn, _ = torch.linalg.qr(randn(6, 6))
    loss = semantic_contrastive(z, memory, index, labels, TAU)
    turned = semantic_contrastive(z @ turn, memory @ turn, index, labels, TAU)
    torch.testing.assert_close(turned, loss)


@pytest.mark.parametrize("seed", range(3))
def test_one_more_negative_can_only_raise_the_loss(seed):
    torch.manual_seed(seed)
    z, memory, index, labels = slots(b=1)
    stranger = (labels[index] + 1) % 4
    for _ in range(5):
        loss = semantic_contrastive(z, memory, index, labels, TAU)
        memory = torch.cat([memory, unit(randn(1, 6))])
        labels = torch.cat([labels, stranger])
        assert semantic_contrastive(z, memory, index, labels, TAU) > loss


def test_nothing_flows_into_the_memory():
    z, memory, index, labels = slots(grad=True)
    memory.requires_grad_()
    loss = semantic_contrastive(z, memory, index, labels, TAU)
    assert gradient(loss, z).abs().max() > 1e-4
    assert gradient(loss, memory) is None


@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_contrastive_loss_of_low_temperatures_is_finite(temperature):
    z, memory, index, labels = (
        x.float() if x.is_floating_point() else x for x in slots()
    )
    z.requires_grad_()
    loss = semantic_contrastive(z, memory, index, labels, temperature)
    assert loss.dtype == torch.float32
    assert loss.isfinite() and gradient(loss, z).isfinite().all()
    slow = slow_contrastive(
        z.detach().double(), memory.double(), index, labels, temperature
    )
    assert loss.item() == pytest.approx(slow, rel=1e-5)


# -- the guard against one large cluster -----------------------------------------------


def test_guarded_anchors_have_all_other_slots_as_negatives():
    z, memory, index, labels = slots()
    instance = torch.arange(len(z)) % 2 == 0
    loss = semantic_contrastive(z, memory, index, labels, TAU, instance=instance)
    slow = slow_contrastive(z, memory, index, labels, TAU, instance)
    assert loss.item() == pytest.approx(slow, abs=1e-10)
    everyone = semantic_contrastive(
        z, memory, index, labels * 0, TAU, instance=torch.ones_like(instance)
    )
    expected = F.cross_entropy(z @ memory.T / TAU, index)
    torch.testing.assert_close(everyone, expected)


def test_guard_of_nobody_changes_nothing():
    z, memory, index, labels = slots()
    nobody = torch.zeros(len(z), dtype=torch.bool)
    loss = semantic_contrastive(z, memory, index, labels, TAU, instance=nobody)
    torch.testing.assert_close(
        loss, semantic_contrastive(z, memory, index, labels, TAU)
    )


# -- sampled negatives -----------------------------------------------------------------


@pytest.mark.parametrize("guarded", [False, True])
def test_all_slots_as_candidates_give_the_whole_sum(guarded):
    z, memory, index, labels = slots()
    instance = torch.arange(len(z)) % 2 == 0 if guarded else None
    whole = semantic_contrastive(z, memory, index, labels, TAU, instance=instance)
    sampled = semantic_contrastive(
        z,
        memory,
        index,
        labels,
        TAU,
        candidates=torch.randperm(len(memory)),
        instance=instance,
    )
    torch.testing.assert_close(sampled, whole)


@pytest.mark.parametrize("guarded", [False, True])
def test_the_sum_over_sampled_negatives_is_unbiased(guarded):
    # of one anchor, the sum over negatives by its positive is exp(loss) - 1
    z, memory, index, labels = slots(n=60, b=1)
    instance = torch.tensor([guarded])

    def ratio(candidates):
        loss = semantic_contrastive(
            z, memory, index, labels, TAU, candidates=candidates, instance=instance
        )
        return math.expm1(loss.item())

    draws = [ratio(torch.randperm(60)[:20]) for _ in range(2000)]
    error = np.std(draws) / math.sqrt(len(draws))
    assert error < 0.01 * np.mean(draws)
    assert np.mean(draws) == pytest.approx(ratio(None), abs=4 * error)


def test_sampled_negatives_are_scaled_to_the_number_of_all():
    # six of eight slots are negatives and look alike: any two of them stand for all
    memory = eye(2)[[0, 0, 1, 1, 1, 1, 1, 1]]
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 2, 2])
    index, z = torch.tensor([0]), eye(2)[:1]
    expected = math.log(1 + 6 * math.exp(-2))
    for candidates in ([2, 7], [0, 1, 4], [5], list(range(8))):
        loss = semantic_contrastive(
            z, memory, index, labels, TAU, candidates=torch.tensor(candidates)
        )
        assert loss.item() == pytest.approx(expected, abs=1e-12), candidates


def test_sampled_negatives_of_no_other_cluster():
    z, memory, index, labels = slots(b=1, grad=True)
    kin = (labels == labels[index]).nonzero()[:, 0]
    loss = semantic_contrastive(z, memory, index, labels, TAU, candidates=kin)
    assert loss.item() == 0.0
    found = gradient(loss, z)
    assert found.isfinite().all() and not found.any()


def test_slots_that_are_no_candidates_do_not_matter():
    z, memory, index, labels = slots(b=1)
    candidates = torch.randperm(30)[:12]
    loss = semantic_contrastive(z, memory, index, labels, TAU, candidates=candidates)
    others = torch.ones(30, dtype=torch.bool)
    others[candidates], others[index] = False, False
    memory = memory.clone()
    memory[others] = unit(randn(int(others.sum()), 6))
    again = semantic_contrastive(z, memory, index, labels, TAU, candidates=candidates)
    assert again.item() == loss.item()


# -- oracle 4: prediction by visual similarity -----------------------------------------


def test_visual_similarity_by_hand():
    s = log_visual_similarity(eye(3)[:1], eye(3), 0.5).exp()
    expected = torch.tensor([[0.786986, 0.106507, 0.106507]], dtype=torch.float64)
    torch.testing.assert_close(s, expected, rtol=0, atol=1e-6)


def test_visual_similarity_is_a_softmax_of_cosines():
    z, centers = unit(randn(7, 5)), unit(randn(4, 5))
    s = log_visual_similarity(z, centers, 0.1)
    torch.testing.assert_close(s, (z @ centers.T / 0.1).log_softmax(1))
    torch.testing.assert_close(s.exp().sum(1), torch.ones(7, dtype=torch.float64))


def test_member_similarity_of_equal_cosines_is_the_share_of_the_cluster():
    memory, labels = eye(2)[[0] * 6], torch.tensor([0, 0, 0, 1, 1, 2])
    s = log_member_similarity(eye(2)[:1], memory, labels, 3, 0.1).exp()
    expected = torch.tensor([[1 / 2, 1 / 3, 1 / 6]], dtype=torch.float64)
    torch.testing.assert_close(s, expected)


def test_member_similarity_of_one_member_each_is_the_centroid_form():
    z, memory = unit(randn(7, 5)), unit(randn(4, 5))
    member = log_member_similarity(z, memory, torch.arange(4), 4, 0.2)
    torch.testing.assert_close(member, log_visual_similarity(z, memory, 0.2))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_member_similarity_equals_the_loops(seed, own):
    torch.manual_seed(seed)
    z, memory, index, labels = slots()
    labels[:4] = torch.arange(4)  # no cluster is empty
    labels[4:8] = torch.arange(4)
    index = index if own else None
    s = log_member_similarity(z, memory, labels, 4, 0.3, index)
    slow = slow_member_similarity(z, memory, labels, 4, 0.3, index)
    np.testing.assert_allclose(s.exp().numpy(), slow, atol=1e-10)


def test_member_similarity_of_clusters_without_members_is_finite():
    z, memory = unit(randn(3, 5)).requires_grad_(), unit(randn(6, 5))
    labels = torch.tensor([0, 1, 1, 1, 1, 1])  # of 0 only the own slot; nothing of 2
    s = log_member_similarity(z, memory, labels, 3, 0.1, torch.tensor([0, 1, 2]))
    assert s.isfinite().all()
    assert s.exp()[:, 2].max() < 1e-6 and s.exp()[0, 0] < 1e-6
    loss = consistency_loss(s.detach() * 0 - math.log(3), s)
    assert gradient(loss, z).isfinite().all()


@pytest.mark.parametrize("form", ["centroid", "member"])
def test_similarities_pass_gradient_to_the_embedding_only(form):
    z, memory, _, labels = slots(grad=True)
    memory.requires_grad_()
    if form == "centroid":
        s = log_visual_similarity(z, memory, 0.1)
    else:
        s = log_member_similarity(z, memory, labels, 4, 0.1)
    assert gradient(s[:, 0].sum(), z).abs().max() > 1e-3
    assert gradient(s[:, 0].sum(), memory) is None


# -- oracle 5: consistency -------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "s", "expected"),
    [
        ((0.7, 0.2, 0.1), (0.6, 0.3, 0.1), 0.713350),
        ((0.25,) * 4, (0.25,) * 4, math.log(4)),
        ((1.0, 1e-12), (1.0, 1e-12), 0.0),
        ((1.0, 1e-12), (1e-12, 1.0), 26.9379),
    ],
    ids=["soft", "uniform", "equal", "opposed"],
)
def test_consistency_by_hand(p, s, expected):
    loss = consistency_loss(log_of(p), log_of(s)).item()
    closed = -math.log(sum(a * b for a, b in zip(p, s, strict=True)))
    assert loss == pytest.approx(expected, abs=1e-4 if expected > 20 else 1e-6)
    assert loss == pytest.approx(closed, abs=1e-10)


def test_consistency_is_symmetric_and_a_mean_over_samples():
    p, s = randn(9, 4).log_softmax(1), randn(9, 4).log_softmax(1)
    loss = consistency_loss(p, s)
    torch.testing.assert_close(consistency_loss(s, p), loss)
    rows = [consistency_loss(p[i : i + 1], s[i : i + 1]) for i in range(9)]
    torch.testing.assert_close(torch.stack(rows).mean(), loss)


def test_consistency_pulls_a_head_to_the_consensus():
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    log_s = torch.tensor([[2.0, 0, 0]], dtype=torch.float64).log_softmax(1)
    found = gradient(consistency_loss(logits.log_softmax(1), log_s), logits)
    expected = torch.tensor([[-0.453652, 0.226826, 0.226826]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_consistency_trains_both_heads():
    a, b = randn(9, 4, grad=True), randn(9, 4, grad=True)
    loss = consistency_loss(a.log_softmax(1), b.log_softmax(1))
    p, s = a.softmax(1), b.softmax(1)
    consensus = (p * s) / (p * s).sum(1, keepdim=True)
    torch.testing.assert_close(gradient(loss, a), (p - consensus).detach() / 9)
    torch.testing.assert_close(gradient(loss, b), (s - consensus).detach() / 9)


def test_pseudo_label_loss_equals_the_loops():
    four = [randn(9, 4, grad=True) for _ in range(4)]
    logs = [x.log_softmax(1) for x in four]
    loss = pseudo_label_loss(*logs)
    total = 0.0
    for i in range(9):
        product = [
            math.exp(sum(float(x[i, k].detach()) for x in logs)) for k in range(4)
        ]
        label = product.index(max(product))
        total += sum(-float(x[i, label].detach()) for x in logs) / 4
    assert loss.item() == pytest.approx(total / 9, abs=1e-10)
    for x in four:
        assert gradient(loss, x).abs().max() > 1e-3


# -- oracle 6: balance -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (eye(4).repeat(3, 1), 0.0),
        (torch.full((5, 4), 0.25, dtype=torch.float64), 0.0),
        (eye(4)[:1].repeat(5, 1), 1.386294),
        (eye(4)[:2].repeat(3, 1), math.log(2)),
    ],
    ids=["balanced", "uniform", "one cluster", "two of four"],
)
def test_balance_by_hand(p, expected):
    assert balance_loss(p).item() == pytest.approx(expected, abs=1e-6)


def test_balance_of_random_assignments_is_the_entropy_gap():
    p = randn(20, 5).softmax(1)
    mean = p.mean(0).numpy()
    expected = math.log(5) + float((mean * np.log(mean)).sum())
    assert balance_loss(p).item() == pytest.approx(expected, abs=1e-10)
    assert 0 <= balance_loss(p).item() <= math.log(5)


@pytest.mark.parametrize("logit", [5.0, 20.0, 60.0])
def test_balance_pushes_mass_out_of_the_one_cluster(logit):
    logits = torch.zeros(6, 4)
    logits[:, 0] = logit
    logits.requires_grad_()
    found = gradient(balance_loss(logits.softmax(1)), logits)
    assert found.isfinite().all()
    if logit == 5.0:
        assert (found[:, 0] > 0).all() and (found[:, 1:] < 0).all()


def test_balance_gradient_of_one_hots_is_finite():
    p = eye(4)[:1].repeat(5, 1).requires_grad_()
    found = gradient(balance_loss(p), p)
    assert found.isfinite().all()
    assert (found[:, 0] > found[:, 1]).all()


# -- oracle 7: the weights keep one cluster from being the best ------------------------


def totals(balance_weight, consistency_weight, contrast=4.0, k=10):
    """Objective of all samples in one cluster, and of the uninformative point."""
    one = balance_weight * balance_loss(eye(k)[:1].repeat(2 * k, 1)).item()
    flat = torch.full((1, k), 1 / k, dtype=torch.float64)
    agreement = consistency_loss(flat.log(), flat.log()).item()
    return one, contrast + consistency_weight * agreement + balance_loss(flat).item()


def test_totals_by_hand():
    assert totals(3, 1) == pytest.approx((6.9078, 6.3026), abs=1e-4)
    assert totals(1, 1) == pytest.approx((2.3026, 6.3026), abs=1e-4)


def test_default_weights_make_one_cluster_no_bargain():
    model = SCL(10)
    one, uninformative = totals(model.balance_weight, model.consistency_weight)
    assert one > uninformative


# -- oracle 8: the memory --------------------------------------------------------------


def test_memory_by_hand():
    memory = eye(4)[:3].clone()
    before = memory.clone()
    assert remember(memory, torch.tensor([0]), eye(4)[1:2], 0.5) is None
    half = math.sqrt(0.5)
    expected = torch.tensor([half, half, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(memory[0], expected)
    assert memory[0].norm().item() == pytest.approx(1.0)
    assert memory[0, 0].item() == pytest.approx(0.7071, abs=1e-4)
    assert torch.equal(memory[1:], before[1:])


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 1.0])
def test_memory_of_any_momentum(momentum):
    memory, index = unit(randn(10, 5)), torch.tensor([7, 2, 4])
    before, z = memory.clone(), 0.5 * (unit(randn(3, 5)) + unit(randn(3, 5)))
    remember(memory, index, z, momentum)
    expected = before.clone()
    for row, slot in zip(z, index.tolist(), strict=True):
        mixed = momentum * before[slot] + (1 - momentum) * row
        expected[slot] = mixed / mixed.norm()
    torch.testing.assert_close(memory, expected)
    untouched = [j for j in range(10) if j not in (7, 2, 4)]
    assert torch.equal(memory[untouched], before[untouched])


def test_of_duplicate_slots_the_last_write_wins():
    memory, z = unit(randn(4, 5)), unit(randn(3, 5))
    before = memory.clone()
    remember(memory, torch.tensor([1, 2, 1]), z, 0.5)
    expected = unit(0.5 * before[1:2] + 0.5 * z[2:])[0]
    torch.testing.assert_close(memory[1], expected)


def test_memory_keeps_no_graph():
    memory, z = unit(randn(4, 5)), unit(randn(2, 5)).requires_grad_()
    remember(memory, torch.tensor([1, 2]), z, 0.5)
    assert not memory.requires_grad


# -- the module ------------------------------------------------------------------------

SHAPE = (1, 8, 8)
N, B, K, D = 40, 12, 3, 8
KINDS = torch.arange(N) % K
CLUSTER_PARTS = {"consistency", "balance"}


def raw_images():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(N, 64)).astype(np.float32)
    images[np.arange(N), np.arange(N) % K] += 20
    return images


def make_module(max_epochs=10, device="cpu", n_clusters=K, **params):
    """Module of an untrained estimator, past the refresh before the first epoch."""
    defaults = {"feature_dim": D, "hidden_dim": 16, "warmup": 0.0, "n_init": 2}
    estimator = SCL(n_clusters, **{**defaults, **params})
    plan = Plan(
        image_shape=SHAPE,
        n_samples=N,
        backbone="mlp",
        scaling=Scaling(Images(raw_images(), SHAPE)),
        augmentation=nn.Identity(),
        max_epochs=max_epochs,
        steps_per_epoch=3,
    )
    kind, module_params = estimator._module(plan)
    module = kind(plan.scaling, plan.augmentation, **module_params).to(device)
    module.refresh(embedder(module))
    return module.train()


def embedder(module, features=None):
    """The ``embed`` of the engine; ``features`` stand in for ``encode``."""
    x = torch.from_numpy(raw_images()).view(N, *SHAPE).to(module.memory.device)

    def embed(function=None):
        if function is None and features is not None:
            return features
        training = module.training
        module.eval()
        with torch.no_grad():
            out = (function or module.encode)(module.scaling(x))
        module.train(training)
        return out

    return embed


def two_views(n=B, device="cpu"):
    index = torch.randperm(N)[:n].to(device)
    return Batch(index, [torch.randn(n, *SHAPE, device=device) for _ in range(2)])


def step(module, batch=None):
    """One training step but for the optimiser's."""
    batch = two_views() if batch is None else batch
    parts = module.losses(batch)
    sum(parts.values()).backward()
    module.after_step()
    return batch, {name: part.item() for name, part in parts.items()}


@pytest.fixture
def spy(monkeypatch):
    """Calls of a function of the method, as dicts of arguments and ``result``."""

    def watch(name):
        good, calls = getattr(scl, name), []
        signature = inspect.signature(good)

        def spying(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            result = good(*args, **kwargs)
            calls.append({**bound.arguments, "result": result})
            return result

        monkeypatch.setattr(scl, name, spying)
        return calls

    return watch


def centroids(module):
    members = F.one_hot(module.labels, module.centers.shape[0]).float()
    return unit(members.T @ module.memory), members.sum(0)


def assert_consistent(module):
    """Unit memory, labels in range, centres that are directions of their members."""
    torch.testing.assert_close(module.memory.norm(dim=1), torch.ones(N))
    expected, sizes = centroids(module)
    filled = sizes > 0
    torch.testing.assert_close(module.centers[filled], expected[filled])
    torch.testing.assert_close(
        module.centers.norm(dim=1), torch.ones(len(sizes)), rtol=1e-4, atol=1e-4
    )


def test_memory_starts_as_random_unit_rows_of_singletons():
    module = make_module(warmup=1.0)
    assert module.memory.shape == (N, D)
    torch.testing.assert_close(module.memory.norm(dim=1), torch.ones(N))
    cosines = module.memory @ module.memory.T - torch.eye(N)
    assert cosines.abs().mean() < 2 / math.sqrt(D)
    assert torch.equal(module.labels, torch.arange(N))


def test_warmup_is_instance_discrimination(spy):
    module, calls = make_module(warmup=0.5), spy("semantic_contrastive")
    for _ in range(4):
        memory, calls[:] = module.memory.clone(), []
        batch, parts = step(module)
        assert not CLUSTER_PARTS & set(parts)
        call = calls[0]
        assert len(call["labels"].unique()) == len(call["labels"]) == N
        assert call["instance"] is None or call["instance"].all()
        assert torch.equal(call["index"], batch.index.repeat(2))
        logits = call["z"].detach() @ memory.T / call["temperature"]
        expected = F.cross_entropy(logits, call["index"])
        assert call["result"].item() == pytest.approx(expected.item(), abs=1e-6)
        assert parts["semantic"] == pytest.approx(expected.item(), abs=1e-6)
        module.refresh(embedder(module))


@pytest.mark.parametrize(
    ("warmup", "max_epochs", "expected"),
    [(0.0, 5, 0), (0.3, 10, 3), (0.5, 4, 2), (1.0, 4, 4), (0.3, 1, 0), (0.3, 2, 1)],
)
def test_epochs_of_the_warmup(warmup, max_epochs, expected):
    module, warm = make_module(max_epochs, warmup=warmup), 0
    for _ in range(max_epochs):
        _, parts = step(module)
        warm += not CLUSTER_PARTS & set(parts)
        module.refresh(embedder(module))
    assert warm == expected == round(warmup * max_epochs)
    module.finish(embedder(module))
    assert module.labels.max() < K
    assert_consistent(module)


def test_clusters_of_an_interrupted_warmup():
    module = make_module(warmup=0.5)
    step(module)
    module.finish(embedder(module))
    assert module.labels.unique().tolist() == [0, 1, 2]
    assert_consistent(module)


def test_kmeans_starts_memory_labels_centers_and_head():
    module = make_module(warmup=0.1)
    step(module)
    features = unit(torch.eye(K, D)[KINDS] + 0.05 * torch.randn(N, D))
    module.refresh(embedder(module, features))
    torch.testing.assert_close(module.memory, features)
    assert adjusted_rand_score(KINDS, module.labels) == 1.0
    assert_consistent(module)
    boundary = log_boundary(module, embedder(module)(lambda x: x)).argmax(1)
    assert torch.equal(boundary, module.labels)  # the kinds are easy to tell apart


def log_boundary(module, x):
    """Log-probabilities of the linear head on the backbone, on clean images."""
    (head,) = (
        m
        for m in module.modules()
        if isinstance(m, nn.Linear) and m.out_features == len(module.centers)
    )
    module.eval()
    with torch.no_grad():
        out = head(module.backbone(x)).log_softmax(1)
    module.train()
    return out


def test_random_start():
    module = make_module(init="random", warmup=0.1)
    step(module)
    memory, images = module.memory.clone(), embedder(module)(lambda x: x)
    boundary = log_boundary(module, images)
    module.refresh(embedder(module))
    torch.testing.assert_close(log_boundary(module, images), boundary)
    assert torch.equal(module.memory, memory)
    assert module.labels.unique().tolist() == [0, 1, 2]
    assert adjusted_rand_score(KINDS, module.labels) < 0.5
    assert_consistent(module)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_a_step_moves_the_slots_of_its_batch_alone(spy, warmup, momentum):
    module = make_module(warmup=warmup, memory_momentum=momentum)
    calls = spy("semantic_contrastive")
    memory, labels = module.memory.clone(), module.labels.clone()
    batch, _ = step(module)
    z1, z2 = calls[0]["z"].detach().chunk(2)
    mixed = momentum * memory[batch.index] + (1 - momentum) * 0.5 * (z1 + z2)
    torch.testing.assert_close(module.memory[batch.index], unit(mixed))
    others = torch.ones(N, dtype=torch.bool)
    others[batch.index] = False
    assert torch.equal(module.memory[others], memory[others])
    assert torch.equal(module.labels[others], labels[others])
    torch.testing.assert_close(module.memory.norm(dim=1), torch.ones(N))
    if warmup:
        assert torch.equal(module.labels, labels)


@pytest.mark.parametrize("similarity", ["centroid", "member"])
def test_centers_follow_memory_and_labels_of_every_step(similarity):
    module = make_module(init="random", similarity=similarity)
    labels = module.labels.clone()
    for number in range(12):
        step(module)
        assert_consistent(module)
        if number % 5 == 4:
            module.refresh(embedder(module))
            assert_consistent(module)
    assert not torch.equal(module.labels, labels)


def expected_parts(module, batch):
    """What ``losses`` promises, spelled out on a copy of the networks."""
    twin, o = copy.deepcopy(module), module.options
    with torch.no_grad():
        h = twin.backbone(torch.cat(batch.views))
        z = unit(twin.projector(h)).double()
        p = twin.head(h).double().log_softmax(1)
    memory, centers = module.memory.double(), module.centers.double()
    index = batch.index.repeat(2)
    if o["similarity"] == "centroid":
        s = log_visual_similarity(z, centers, o["similarity_temperature"])
    else:
        temperature = o["similarity_temperature"]
        shares = slow_member_similarity(z, memory, module.labels, K, temperature, index)
        s = torch.from_numpy(shares).log()
    (p1, p2), (s1, s2) = p.chunk(2), s.chunk(2)
    if o["consistency"] == "agreement":
        consistency = 0.5 * (consistency_loss(p1, s2) + consistency_loss(p2, s1))
    else:
        consistency = pseudo_label_loss(p1, p2, s1, s2)
    balance = 0.5 * (balance_loss(p1.exp()) + balance_loss(p2.exp()))
    guarded = (module.labels.bincount(minlength=K) > N / 2)[module.labels[index]]
    semantic = slow_contrastive(
        z, memory, index, module.labels, o["temperature"], guarded
    )
    (z1, z2), rows = z.chunk(2), torch.arange(len(batch.index))
    fresh = rows, module.labels[batch.index], o["temperature"], guarded
    view = 0.5 * (slow_contrastive(z1, z2, *fresh) + slow_contrastive(z2, z1, *fresh))
    labels = (p1 + p2 + s1 + s2).argmax(1)
    expected = {
        "semantic": o["memory_weight"] * semantic,
        "view": o["view_weight"] * view,
        "consistency": o["consistency_weight"] * consistency.item(),
        "balance": o["balance_weight"] * balance.item(),
    }
    return expected, labels


@pytest.mark.parametrize("similarity", ["centroid", "member"])
@pytest.mark.parametrize("consistency", ["agreement", "cross_entropy"])
def test_module_equals_the_loops(similarity, consistency):
    module = make_module(
        similarity=similarity,
        consistency=consistency,
        similarity_temperature=0.3,
        consistency_weight=0.7,
        balance_weight=1.9,
        memory_weight=0.4,
        view_weight=0.6,
    )
    for _ in range(3):
        batch = two_views()
        expected, labels = expected_parts(module, batch)
        _, parts = step(module, batch)
        assert list(parts) == ["semantic", "view", "consistency", "balance"]
        for name, value in expected.items():
            assert parts[name] == pytest.approx(value, abs=1e-5), name
        assert torch.equal(module.labels[batch.index], labels)


def test_consensus_of_all_four_predictions_is_the_new_label(spy):
    module, calls = make_module(init="random"), spy("pseudo_label_loss")
    module.options["consistency"] = "cross_entropy"
    batch, _ = step(module)
    (call,) = calls
    four = [call[name] for name in ("log_p1", "log_p2", "log_s1", "log_s2")]
    assert torch.equal(module.labels[batch.index], sum(four).argmax(1))


def test_which_networks_train():
    module = make_module(warmup=0.1)
    step(module)
    head = {f"head.{name}" for name, _ in module.head.named_parameters()}
    trained = {n for n, p in module.named_parameters() if p.grad is not None}
    assert not trained & head
    module.zero_grad()
    module.refresh(embedder(module))
    assert all(p.grad is None for p in module.parameters())  # of the fit of the head
    step(module)
    gradients = {n: p.grad for n, p in module.named_parameters() if p.requires_grad}
    assert all(g is not None and g.abs().max() > 0 for g in gradients.values())
    assert not any(buffer.requires_grad for buffer in module.buffers())


@pytest.mark.parametrize(("k", "share"), [(3, 0.7), (3, 0.45), (2, 0.7)])
def test_guard_of_a_cluster_of_more_than_half(spy, k, share):
    module, calls = make_module(n_clusters=k, warmup=0.1), spy("semantic_contrastive")
    kinds = torch.zeros(N, dtype=torch.int64)
    kinds[round(share * N) :] = 1 + torch.arange(N - round(share * N)) % (k - 1)
    features = unit(torch.eye(k, D)[kinds] + 0.01 * torch.randn(N, D))
    module.refresh(embedder(module, features))
    assert adjusted_rand_score(kinds, module.labels) == 1.0
    labels = module.labels.clone()
    batch = two_views(30)
    module.losses(batch)
    guarded = calls[0]["instance"]
    large = labels.bincount().argmax()
    if share > 0.5 and k > 2:
        assert torch.equal(guarded, labels[batch.index.repeat(2)] == large)
        assert guarded.any() and not guarded.all()
    else:
        assert guarded is None or not guarded.any()


def test_empty_clusters_are_revived():
    module = make_module(init="random")
    for _ in range(3):
        step(module)
    module.labels[module.labels == 1] = 0
    weights = module.head.weight.detach().clone()
    report = module.refresh(embedder(module))
    sizes = module.labels.bincount(minlength=K)
    assert sizes[1] >= 5 and report["cluster_sizes"] == sizes.tolist()
    assert_consistent(module)
    assert torch.equal(module.head.weight[[0, 2]], weights[[0, 2]])
    norms = weights.norm(dim=1)
    revived = module.head.weight[1].detach()
    assert revived.norm().item() == pytest.approx(norms.mean().item(), rel=1e-4)
    chosen = embedder(module)(module.backbone)[module.labels == 1].mean(0)
    assert F.cosine_similarity(revived, chosen, dim=0).item() == pytest.approx(1.0)


def test_two_empty_clusters_are_revived_by_different_samples():
    module = make_module(n_clusters=5)
    module.labels = module.labels.clamp_max(2)
    module.refresh(embedder(module))
    sizes = module.labels.bincount(minlength=5)
    assert sizes[3] >= 5 and sizes[4] >= 5
    assert_consistent(module)


@pytest.mark.parametrize(
    ("n_negatives", "expected"), [(7, 7), (None, None), ("auto", None)]
)
def test_number_of_sampled_negatives(spy, n_negatives, expected):
    module = make_module(n_negatives=n_negatives)
    calls, drawn = spy("semantic_contrastive"), []
    for _ in range(3):
        step(module)
    for call in calls:
        if len(call["memory"]) != N:
            continue
        candidates = call["candidates"]
        if expected is None:
            assert candidates is None
        else:
            assert len(candidates.unique()) == len(candidates) == expected
            drawn.append(frozenset(candidates.tolist()))
    assert len(set(drawn)) == (3 if expected else 0)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_state_dict_round_trip(warmup):
    params = {"warmup": warmup, "n_negatives": 20}
    module = make_module(**params)
    for _ in range(3):
        step(module)
    module.refresh(embedder(module))
    step(module)
    torch.manual_seed(1)
    other = make_module(**{**params, "warmup": 0.5})
    other.warmup_epochs = module.warmup_epochs
    other.load_state_dict(module.state_dict())
    for name in ("memory", "labels", "centers"):
        assert torch.equal(getattr(other, name), getattr(module, name)), name
    for _ in range(2):
        batch, steps = two_views(), []
        for twin in (module, other):
            torch.manual_seed(2)
            steps.append(step(twin, batch)[1])
        assert steps[0] == steps[1]
        assert torch.equal(other.memory, module.memory)
        assert torch.equal(other.labels, module.labels)
        assert torch.equal(other.centers, module.centers)
        reports = [twin.refresh(embedder(twin)) for twin in (module, other)]
        assert reports[0] == reports[1]


def test_report_of_the_clusters():
    module = make_module()
    for _ in range(2):
        step(module)
    report = module.refresh(embedder(module))
    assert report["cluster_sizes"] == module.labels.bincount(minlength=K).tolist()
    assert sum(report["cluster_sizes"]) == N
    assert 0 <= report["agreement"] <= 1
    spread = module.memory.std(0, correction=0).mean().item() * math.sqrt(D)
    assert report["feature_spread"] == pytest.approx(spread, rel=1e-5)
    assert all(isinstance(v, int | float | list) for v in report.values())


@pytest.mark.parametrize("similarity", ["centroid", "member"])
@pytest.mark.parametrize("assign", ["boundary", "similarity", "consensus"])
def test_logits_of_each_assignment(assign, similarity):
    module = make_module(assign=assign, similarity=similarity)
    for _ in range(3):
        step(module)
    module.finish(embedder(module))
    images = embedder(module)(lambda x: x)
    boundary, z = log_boundary(module, images), embedder(module)()
    temperature = module.options["similarity_temperature"]
    if similarity == "centroid":
        visual = log_visual_similarity(z, module.centers, temperature)
    else:
        visual = log_member_similarity(z, module.memory, module.labels, K, temperature)
    expected = {
        "boundary": boundary,
        "similarity": visual,
        "consensus": boundary + visual,
    }[assign]
    logits = embedder(module)(module.logits)
    torch.testing.assert_close(logits.softmax(1), expected.softmax(1))
    torch.testing.assert_close(module.memory, z)  # of the final network


# -- the estimator ---------------------------------------------------------------------


@pytest.mark.parametrize("similarity", ["centroid", "member"])
@pytest.mark.parametrize("assign", ["boundary", "similarity", "consensus"])
def test_labels_are_predictions_for_every_assignment(stripes, assign, similarity):
    X, _ = stripes
    params = {**SMALL, "max_epochs": 4}
    model = SCL(**params, assign=assign, similarity=similarity)
    labels = model.fit_predict(X)
    np.testing.assert_array_equal(model.predict(X), labels)
    np.testing.assert_array_equal(model.predict_proba(X).argmax(1), labels)
    if assign == "similarity" and similarity == "centroid":
        cosines = model.transform(X) @ model.cluster_centers_.T
        np.testing.assert_array_equal(cosines.argmax(1), labels)


@pytest.mark.parametrize(
    "params",
    [
        {"init": "random", "balance_weight": 5.0},
        {"consistency": "cross_entropy"},
        {"view_weight": 0.0},
        {"memory_weight": 0.0},
        {"n_negatives": 16},
        {"memory_momentum": 0.0},
        {"n_clusters": 1},
        {"warmup": 0.0},
        {"warmup": 1.0},
        {"max_epochs": 1},
        {"n_clusters": 2},
    ],
    ids=str,
)
def test_options_train(stripes, params):
    X, _ = stripes
    model = SCL(**{**SMALL, "max_epochs": 4, **params}).fit(X)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    assert all(math.isfinite(row["loss"]) for row in model.history_)
    if params.get("n_clusters") == 1:
        assert model.score(X) == -1.0


def test_history(stripes):
    X, _ = stripes
    model = SCL(**{**SMALL, "max_epochs": 4, "warmup": 0.5}).fit(X)
    for number, row in enumerate(model.history_):
        parts = {key for key in row if key.startswith("loss_")}
        after = {f"loss_{name}" for name in CLUSTER_PARTS}
        assert parts >= {"loss_semantic"}
        assert parts & after == (after if number >= 2 else set())
        assert row["loss"] == pytest.approx(sum(row[key] for key in parts), rel=1e-5)
        assert ("agreement" in row) == (number >= 2)
        assert row["feature_spread"] > 0
    assert sum(model.history_[-1]["cluster_sizes"]) == len(X)


# -- oracle 10: end to end -------------------------------------------------------------


def gaussian_images(n=120):
    """Images about three means that lie far apart, and which."""
    rng = np.random.default_rng(0)
    means = 40 + 170 * (rng.random((3, 8, 8)) > 0.5)
    kinds = np.arange(n) % 3
    noise = rng.normal(0, 10, (n, 8, 8))
    return np.clip(means[kinds] + noise, 0, 255).astype(np.uint8), kinds


@pytest.mark.parametrize("assign", ["boundary", "similarity", "consensus"])
def test_gaussian_images(assign):
    X, kinds = gaussian_images()
    model = SCL(
        3, assign=assign, augment="weak", max_epochs=20, batch_size=60, random_state=0
    ).fit(X)
    assert clustering_accuracy(kinds, model.labels_) == 1.0
    module = model.net_.module_
    boundary = log_boundary(module, module.scaling(torch.from_numpy(X[:, None])))
    visual = model.transform(X) @ model.cluster_centers_.T
    assert np.mean(boundary.argmax(1).numpy() == visual.argmax(1)) > 0.99
    assert model.history_[-1]["agreement"] > 0.99


def test_smoke_of_a_short_training_on_digits():
    X = load_digits_images()[0][:600]
    model = SCL(10, max_epochs=8, batch_size=128, warmup=3 / 8, random_state=0).fit(X)
    last = model.history_[-1]
    assert all(math.isfinite(row["loss"]) for row in model.history_)
    assert np.count_nonzero(last["cluster_sizes"]) >= 9
    assert last["agreement"] > 0.6
    module = model.net_.module_
    np.testing.assert_allclose(module.memory.norm(dim=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(model.predict(X), model.labels_)


@pytest.mark.gpu
@pytest.mark.parametrize("warmup", [0.0, 1.0])
@pytest.mark.parametrize("similarity", ["centroid", "member"])
def test_a_step_does_not_wait_for_the_device(warmup, similarity):
    module = make_module(device="cuda", warmup=warmup, similarity=similarity)
    batches = [two_views(device="cuda") for _ in range(2)]
    module.losses(batches[0])
    module.after_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = sum(module.losses(batches[1]).values())  # a wait raises here
        loss.backward()
        module.after_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()
