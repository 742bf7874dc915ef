"""The numbers of SCL's formulas, computed by hand or by slow loops."""

import math

import numpy as np
import pytest
import torch
from small_scl import eye, randn, slow_contrastive, slow_member_similarity, unit
from torch.nn import functional as F

from skdeepcluster.scl.objective import (
    balance_loss,
    consistency_loss,
    log_member_similarity,
    log_visual_similarity,
    pseudo_label_loss,
    remember,
    semantic_contrastive,
)

TAU = 0.5


def gradient(loss, x):
    (found,) = torch.autograd.grad(loss, x, retain_graph=True, allow_unused=True)
    return found


def slots(n=30, d=6, b=8, k=4, grad=False):
    """Unit anchors and memory, the anchors' slots, labels of all slots."""
    z, memory = unit(randn(b, d)).requires_grad_(grad), unit(randn(n, d))
    return z, memory, torch.randperm(n)[:b], torch.randint(k, (n,))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


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
    log_p, log_s = (torch.tensor([x], dtype=torch.float64).log() for x in (p, s))
    loss = consistency_loss(log_p, log_s).item()
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


def test_balance_against_other_shares_is_the_divergence():
    p, shares = (
        randn(20, 3).softmax(1),
        torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64),
    )
    mean = p.mean(0)
    expected = (mean * (mean / shares).log()).sum().item()
    assert balance_loss(p, shares).item() == pytest.approx(expected, abs=1e-10)
    assert balance_loss(shares.repeat(4, 1), shares).item() == pytest.approx(
        0, abs=1e-7
    )
    equal = torch.full_like(shares, 1 / 3)
    assert balance_loss(p, equal).item() == pytest.approx(balance_loss(p).item())


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
