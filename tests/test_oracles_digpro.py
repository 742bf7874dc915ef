"""The numbers of DigPro's formulas, computed by hand or by slow loops."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from skdeepcluster import DigPro
from skdeepcluster._images import Images
from skdeepcluster._net import Batch, WarmupCosine
from skdeepcluster._scaling import Scaling
from skdeepcluster.digpro import (
    ABSENT,
    DigProModule,
    alignment_loss,
    group_loss,
    prototype_loss,
)
from skdeepcluster.losses import nt_xent

TAU_P, TAU_G = 0.5, 0.1
SHAPE = (1, 8, 8)
N, B, K, D = 40, 12, 3, 8


def eye(k=3):
    return torch.eye(k, dtype=torch.float64)


def randn(*shape, grad=False):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


def unit(x):
    return F.normalize(x, dim=1)


def at_angle(*degrees):
    radians = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([radians.cos(), radians.sin()], dim=1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# -- slow references, written from the equations ---------------------------------------


def slow_prototype_loss(q, k, labels, n_clusters, temperature):
    def prototype(rows, cluster):
        own = [rows[i] / rows[i].norm() for i in range(len(rows)) if labels[i] == c]
        mean = sum(own) / len(own)
        return mean / mean.norm()

    present = sorted({int(label) for label in labels})
    va, vb = {}, {}
    for c in present:
        va[c], vb[c] = prototype(q, c), prototype(k, c)
    total = 0.0
    for c in present:
        own = float(va[c] @ vb[c]) / temperature
        exps = math.exp(own)
        for other in range(n_clusters):
            if other == c:
                continue
            logit = ABSENT
            if other in va:
                logit = float(va[c] @ va[other]) / temperature
            exps += math.exp(logit)
        total += -own + math.log(exps)
    return total / len(present)


def slow_group_loss(u, q, k, groups, beta, temperature):
    def nearest(row):
        cosines = [float(row @ g / (row.norm() * g.norm())) for g in groups]
        return cosines.index(max(cosines))

    owner = [nearest(row) for row in q]
    moved = groups.clone()
    for m in range(len(groups)):
        rows = [q[i] for i in range(len(q)) if owner[i] == m]
        if rows:
            moved[m] = beta * groups[m] + (1 - beta) * sum(rows) / len(rows)
    total = 0.0
    for i in range(len(u)):
        logits = [
            float(u[i] @ g / (u[i].norm() * g.norm())) / temperature for g in moved
        ]
        log_sum = math.log(sum(math.exp(logit) for logit in logits))
        total += log_sum - logits[nearest(k[i])]
    return total / len(u), moved


# -- oracles 1 to 3: prototype aggregation ---------------------------------------------


@pytest.mark.parametrize(
    ("prototypes", "expected", "closed_form"),
    [
        (eye(), 0.239545, math.log(1 + 2 * math.exp(-2))),
        (at_angle(0, 120, 240), 0.094923, math.log(1 + 2 * math.exp(-3))),
        (torch.ones(3, 4, dtype=torch.float64), 1.098612, math.log(3)),
    ],
    ids=["orthonormal", "simplex", "collapsed"],
)
def test_prototype_loss_of_regular_prototypes(prototypes, expected, closed_form):
    loss = prototype_loss(
        prototypes, unit(prototypes), torch.arange(3), 3, TAU_P
    ).item()
    assert loss == pytest.approx(expected, abs=1e-6)
    assert loss == pytest.approx(closed_form, abs=1e-12)


@pytest.mark.parametrize("rho", [-0.2, 0.0, 0.3, 0.9])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_prototype_loss_of_equal_cosines(rho, temperature):
    k = 4
    cosines = (1 - rho) * eye(k) + rho
    rows = torch.linalg.cholesky(cosines)
    loss = prototype_loss(rows, rows, torch.arange(k), k, temperature).item()
    expected = math.log(1 + (k - 1) * math.exp((rho - 1) / temperature))
    assert loss == pytest.approx(expected, abs=1e-12)


def test_prototype_loss_by_hand():
    va, vb = at_angle(0, 60), at_angle(30, 60)
    loss = prototype_loss(va, vb, torch.arange(2), 2, TAU_P).item()
    cos30, cos60 = math.cos(math.pi / 6), 0.5
    by_hand = 0.5 * (
        math.log(1 + math.exp((cos60 - cos30) / 0.5))
        + math.log(1 + math.exp((cos60 - 1) / 0.5))
    )
    assert loss == pytest.approx(0.352963, abs=1e-6)
    assert loss == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("absent", range(4))
def test_prototype_loss_with_an_empty_cluster(absent):
    labels = torch.tensor([c for c in range(4) if c != absent])
    loss = prototype_loss(eye(), eye(), labels, 4, TAU_P).item()
    assert loss == pytest.approx(0.239550, abs=1e-6)
    expected = math.log(1 + 2 * math.exp(-2) + math.exp(-12))
    assert loss == pytest.approx(expected, abs=1e-12)


def test_prototype_loss_of_one_present_cluster_is_about_zero():
    q = randn(5, 4)
    labels = torch.full((5,), 2)
    loss = prototype_loss(q, unit(q), labels, 6, TAU_P).item()
    assert loss == pytest.approx(math.log(1 + 5 * math.exp(-12)), abs=1e-12)


def test_prototype_loss_ignores_the_ids_of_clusters():
    q, k = randn(30, 5), unit(randn(30, 5))
    labels = torch.randint(4, (30,))
    loss = prototype_loss(q, k, labels, 6, TAU_P)
    renamed = torch.randperm(6)[labels]
    torch.testing.assert_close(prototype_loss(q, k, renamed, 6, TAU_P), loss)


def test_prototype_loss_ignores_the_length_of_projections():
    q, k = randn(30, 5, grad=True), unit(randn(30, 5))
    labels = torch.randint(4, (30,))
    loss = prototype_loss(q, k, labels, 4, TAU_P)
    scaled = q.detach() * torch.rand(30, 1, dtype=torch.float64).add(0.1)
    torch.testing.assert_close(prototype_loss(scaled, k, labels, 4, TAU_P), loss)

    (gradient,) = torch.autograd.grad(loss, q)
    assert gradient.norm() > 1e-3
    radial = (gradient * q).sum(1)
    assert radial.abs().max() < 1e-12


# -- oracles 4 to 6: dynamic grouping --------------------------------------------------


def test_group_loss_of_exact_hits():
    q = torch.tensor([[2.0, 0, 0], [0, 4, 0]], dtype=torch.float64)
    loss, moved = group_loss(q, q, eye()[:2], eye(), 0.99, TAU_G)
    assert loss.item() == pytest.approx(9.08e-5, abs=1e-7)
    assert loss.item() == pytest.approx(math.log(1 + 2 * math.exp(-10)), abs=1e-12)
    expected = torch.diag(torch.tensor([1.01, 1.03, 1.0], dtype=torch.float64))
    torch.testing.assert_close(moved, expected)


def test_group_loss_of_a_wrong_side_tie():
    q = torch.tensor([[1.0, 1, 0]], dtype=torch.float64) / math.sqrt(2)
    loss, moved = group_loss(q, q, eye()[1:2], eye(), 1.0, TAU_G)
    assert loss.item() == pytest.approx(0.693572, abs=1e-6)
    expected = math.log(2 + math.exp(-10 / math.sqrt(2)))
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert torch.equal(moved, eye())


@pytest.mark.parametrize("momentum", [1.0, 0.99, 0.5])
def test_group_loss_reaches_projections_through_moved_groups_only(momentum):
    u, q = randn(20, 5), randn(20, 5, grad=True)
    loss, _ = group_loss(u, q, unit(randn(20, 5)), randn(4, 5), momentum, TAU_G)
    if momentum == 1.0:
        gradient = 0.0 if not loss.requires_grad else _gradient(loss, q)
        assert np.all(np.asarray(gradient) == 0.0)
    else:
        assert np.abs(_gradient(loss, q)).max() > 1e-6


def _gradient(loss, x):
    (gradient,) = torch.autograd.grad(loss, x, allow_unused=True)
    return 0.0 if gradient is None else gradient.numpy()


def test_group_loss_reaches_predictions_but_not_targets():
    u, q = randn(20, 5, grad=True), randn(20, 5)
    k = unit(randn(20, 5)).requires_grad_()
    loss, _ = group_loss(u, q, k, randn(4, 5), 0.99, TAU_G)
    to_u, to_k = torch.autograd.grad(loss, (u, k), allow_unused=True)
    assert to_u.abs().max() > 1e-4
    assert to_k is None


def test_moved_groups_carry_gradient_scaled_by_the_momentum():
    q = randn(1, 5, grad=True)
    _, moved = group_loss(q.detach(), q, unit(randn(1, 5)), randn(1, 5), 0.99, TAU_G)
    (gradient,) = torch.autograd.grad(moved.sum(), q)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.01))


@pytest.mark.parametrize("scaled", ["u", "k", "groups"])
def test_group_loss_ignores_scale(scaled):
    parts = {"u": randn(20, 5), "k": unit(randn(20, 5)), "groups": randn(4, 5)}
    q = randn(20, 5)

    def loss():
        return group_loss(parts["u"], q, parts["k"], parts["groups"], 1.0, TAU_G)[0]

    before = loss()
    factor = torch.rand(len(parts[scaled]), 1, dtype=torch.float64).add(0.2)
    parts[scaled] = parts[scaled] * factor
    torch.testing.assert_close(loss(), before)


@pytest.mark.parametrize("momentum", [1.0, 0.99, 0.5])
def test_group_loss_ignores_the_order_of_groups(momentum):
    u, q, k, groups = randn(20, 5), randn(20, 5), unit(randn(20, 5)), randn(4, 5)
    order = torch.randperm(4)
    loss, moved = group_loss(u, q, k, groups, momentum, TAU_G)
    loss_of_order, moved_of_order = group_loss(u, q, k, groups[order], momentum, TAU_G)
    torch.testing.assert_close(loss_of_order, loss)
    torch.testing.assert_close(moved_of_order, moved[order])


def test_empty_groups_stay():
    q = eye()[:1].repeat(6, 1)
    _, moved = group_loss(q, q, q, eye(), 0.5, TAU_G)
    assert torch.equal(moved[1:], eye()[1:])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("momentum", [1.0, 0.9])
def test_group_loss_equals_the_loops(seed, momentum):
    torch.manual_seed(seed)
    u, q, k, groups = randn(25, 6), randn(25, 6), unit(randn(25, 6)), randn(5, 6)
    loss, moved = group_loss(u, q, k, groups, momentum, TAU_G)
    slow, slow_moved = slow_group_loss(u, q, k, groups, momentum, TAU_G)
    assert loss.item() == pytest.approx(slow, abs=1e-10)
    torch.testing.assert_close(moved, slow_moved)


@pytest.mark.parametrize("n_clusters", [4, 7])
@pytest.mark.parametrize("seed", range(3))
def test_prototype_loss_equals_the_loops(seed, n_clusters):
    torch.manual_seed(seed)
    q, k, labels = randn(25, 6), unit(randn(25, 6)), torch.randint(4, (25,))
    loss = prototype_loss(q, k, labels, n_clusters, TAU_P).item()
    slow = slow_prototype_loss(q, k, labels, n_clusters, TAU_P)
    assert loss == pytest.approx(slow, abs=1e-10)


def test_alignment_loss_equals_the_loops():
    u, k = randn(10, 5), unit(randn(10, 5))
    cosines = [float(a @ b / a.norm()) for a, b in zip(u, k, strict=True)]
    assert alignment_loss(u, k).item() == pytest.approx(-2 * np.mean(cosines))
    assert alignment_loss(k, k).item() == pytest.approx(-2.0)
    assert alignment_loss(-k, k).item() == pytest.approx(2.0)


@pytest.mark.parametrize("loss", ["alignment", "group", "prototype"])
def test_losses_of_float32_are_close_to_float64(loss):
    u, q, k, groups = randn(25, 6), randn(25, 6), unit(randn(25, 6)), randn(5, 6)
    labels = torch.randint(5, (25,))

    def value(u, q, k, groups):
        if loss == "alignment":
            return alignment_loss(u, k)
        if loss == "group":
            return group_loss(u, q, k, groups, 0.99, TAU_G)[0]
        return prototype_loss(q, k, labels, 5, TAU_P)

    single = value(u.float(), q.float(), k.float(), groups.float())
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(value(u, q, k, groups).item(), abs=1e-5)


# -- the module on a batch -------------------------------------------------------------


def make_module(**params):
    raw = np.random.default_rng(0).random((N, SHAPE[1] * SHAPE[2]), np.float32)
    params = {
        "backbone": "mlp",
        "image_shape": SHAPE,
        "n_samples": N,
        "n_clusters": K,
        "feature_dim": D,
        "hidden_dim": 16,
        "warmup_steps": 0,
        "reset_steps": 10_000,
        "bank_size": 60,
        "instance": "alignment",
        "instance_temperature": 0.5,
        "group_weight": 0.3,
        "prototype_weight": 0.1,
        "group_temperature": TAU_G,
        "prototype_temperature": TAU_P,
        "group_momentum": 0.99,
        "ema_momentum": 0.98604,
        "noise_std": 0.0,
        "n_init": 2,
        **params,
    }
    module = DigProModule(Scaling(Images(raw, SHAPE)), torch.nn.Identity(), **params)
    module.labels = torch.arange(N) % K
    return module.train()


def two_views(n=B):
    index = torch.randperm(N)[:n]
    views = [torch.randn(n, *SHAPE), torch.randn(n, *SHAPE)]
    return Batch(index, views)


class Table(torch.nn.Module):
    """A network that answers its calls from a list, whatever the images."""

    def __init__(self, *answers):
        super().__init__()
        self.answers, self.calls = answers, 0

    def forward(self, x):
        self.calls += 1
        return self.answers[(self.calls - 1) % len(self.answers)]


def ideal_module(**params):
    """Perfect alignment: both views, prediction and target are the unit vectors."""
    module = make_module(feature_dim=3, **params)
    rows = torch.eye(3)
    module.online, module.teacher = Table(rows), Table(rows)
    module.predictor = torch.nn.Identity()
    module.groups = torch.eye(3)
    return module, Batch(torch.arange(3), [rows, rows])


def test_total_at_the_ideal_point():
    module, batch = ideal_module()
    parts = module.losses(batch)
    assert list(parts) == ["instance", "group", "prototype"]
    assert parts["instance"].item() == pytest.approx(-2.0, abs=1e-6)
    assert parts["group"].item() == pytest.approx(0.3 * 9.08e-5, abs=1e-6)
    assert parts["prototype"].item() == pytest.approx(0.1 * 0.239545, abs=1e-6)
    assert sum(parts.values()).item() == pytest.approx(-1.97602, abs=1e-5)


def test_total_at_the_ideal_point_during_warmup():
    module, batch = ideal_module(warmup_steps=5)
    parts = module.losses(batch)
    assert list(parts) == ["instance", "group"]
    total = sum(parts.values()).item()
    assert total == pytest.approx(-2.0 + 0.3 * 9.08e-5, abs=1e-5)


@pytest.mark.parametrize("instance", ["alignment", "contrast"])
def test_prototypes_wait_for_the_warmup(instance):
    module = make_module(warmup_steps=2, instance=instance)
    names = []
    for _ in range(4):
        parts = module.losses(two_views())
        assert all(part.requires_grad and part.ndim == 0 for part in parts.values())
        names.append(list(parts))
        module.after_step()
    warm, whole = ["instance", "group"], ["instance", "group", "prototype"]
    assert names == [warm, warm, whole, whole]


def expected_parts(module, batch):
    """What ``losses`` promises, spelled out on copies of the networks."""
    twin = copy.deepcopy(module)
    aligns = module.options["instance"] == "alignment"
    with torch.no_grad():
        q = [twin.online(view).double() for view in batch.views]
        if aligns:
            k = [unit(twin.teacher(view)).double() for view in batch.views]
            u = [twin.predictor(rows.float()).double() for rows in q]
        else:  # one network: it sees both views, and its own output is the target
            k, u = [unit(rows) for rows in q], q
    groups, labels = twin.groups.double(), twin.labels[batch.index]
    parts = {"instance": 0.0, "group": 0.0, "prototype": 0.0}
    if not aligns:
        parts["instance"] = nt_xent(*q, 0.5).item()
    for a, b in ((0, 1), (1, 0)):
        if aligns:
            parts["instance"] += 0.5 * alignment_loss(u[a], k[b]).item()
        loss, groups = slow_group_loss(u[a], q[a], k[b], groups, 0.99, TAU_G)
        parts["group"] += 0.5 * 0.3 * loss
        loss = slow_prototype_loss(q[a], k[b], labels, K, TAU_P)
        parts["prototype"] += 0.5 * 0.1 * loss
    return parts, groups.float()


@pytest.mark.parametrize("instance", ["alignment", "contrast"])
def test_module_equals_the_loops(instance):
    module, batch = make_module(instance=instance), two_views()
    expected, groups = expected_parts(module, batch)
    parts = module.losses(batch)
    assert set(parts) == set(expected)
    for name, value in expected.items():
        assert parts[name].item() == pytest.approx(value, abs=1e-5), name
    torch.testing.assert_close(module.groups, groups)


def test_second_pair_starts_from_the_groups_that_the_first_one_moved():
    module, batch = make_module(group_momentum=0.2), two_views()
    seen = []

    def spy(predicted, online, target, groups, *rest):
        loss, moved = group_loss(predicted, online, target, groups, *rest)
        seen.append((groups, moved))
        return loss, moved

    before = module.groups.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skdeepcluster.digpro.group_loss", spy)
        module.losses(batch)
    (first, moved), (second, last) = seen
    assert torch.equal(first, before)
    assert torch.equal(second, moved) and not torch.equal(second, first)
    assert torch.equal(module.groups, last)
    assert not module.groups.requires_grad


def test_contrast_has_no_predictor_and_no_teacher_pass():
    module = make_module(instance="contrast")
    assert not hasattr(module, "predictor")
    passes = []
    module.teacher.register_forward_hook(lambda *call: passes.append(call))
    module.losses(two_views())
    assert passes == []


@pytest.mark.parametrize("instance", ["alignment", "contrast"])
@pytest.mark.parametrize("part", ["instance", "group", "prototype"])
def test_nothing_flows_into_the_teacher(instance, part):
    module = make_module(instance=instance)
    module.losses(two_views())[part].backward()
    assert all(p.grad is None for p in module.teacher.parameters())
    gradients = [p.grad for p in module.online.parameters()]
    assert all(g is not None for g in gradients)
    assert max(g.abs().max() for g in gradients) > 0


@pytest.mark.parametrize(
    ("part", "reached"), [("instance", True), ("group", True), ("prototype", False)]
)
def test_which_parts_train_the_predictor(part, reached):
    module = make_module()
    module.losses(two_views())[part].backward()
    gradients = [p.grad for p in module.predictor.parameters()]
    assert any(g is not None and g.abs().max() > 0 for g in gradients) == reached


def test_even_a_teacher_that_could_be_trained_gets_no_gradient():
    module = make_module()
    module.teacher.requires_grad_(True)
    sum(module.losses(two_views()).values()).backward()
    assert all(p.grad is None for p in module.teacher.parameters())


@pytest.mark.parametrize(("warmup_steps", "passes"), [(0, 4), (1, 2)])
def test_noise_is_a_second_pass_after_the_warmup(warmup_steps, passes):
    module = make_module(noise_std=1e-3, warmup_steps=warmup_steps)
    seen = []
    module.predictor.register_forward_hook(lambda *call: seen.append(call))
    module.losses(two_views())
    assert len(seen) == passes


def test_noise_has_the_given_size_and_stays_out_of_the_groups():
    calm, loud = make_module(), make_module(noise_std=10.0)
    loud.load_state_dict(calm.state_dict())
    batch, inputs = two_views(), []
    loud.predictor.register_forward_pre_hook(lambda _, x: inputs.append(x[0].detach()))
    quiet, noisy = calm.losses(batch), loud.losses(batch)
    assert noisy["instance"].item() != pytest.approx(quiet["instance"].item(), abs=1e-4)
    for part in ("group", "prototype"):
        assert noisy[part].item() == pytest.approx(quiet[part].item(), abs=1e-6)
    noise = inputs[2] - inputs[0]
    assert noise.std().item() == pytest.approx(10.0, rel=0.3)


def test_predictor_starts_small():
    module = make_module(feature_dim=64, hidden_dim=256)
    first, _, _, last = module.predictor
    for layer in (first, last):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


# -- oracle 8: the teacher -------------------------------------------------------------

# The released code moves the teacher twice an iteration, by 0.99 and by 0.996, with the
# same student; here one step of 0.99 * 0.996 = 0.98604 stands for both. On an iteration
# that resets the groups it left the first of the two out; one momentum cannot, and
# 0.996 is what would stand for that case.


@pytest.mark.parametrize(("momentum", "expected"), [(0.98604, 0.01396), (0.996, 0.004)])
def test_ema_of_one_iteration(momentum, expected):
    assert 0.99 * 0.996 == pytest.approx(0.98604, abs=1e-12)
    module = make_module(ema_momentum=momentum).double()
    with torch.no_grad():
        for p in module.online.parameters():
            p.fill_(1.0)
        for p in module.teacher.parameters():
            p.fill_(0.0)
    module.after_step()
    for p in module.teacher.parameters():
        torch.testing.assert_close(p, torch.full_like(p, expected), atol=1e-12, rtol=0)
    for p in module.online.parameters():
        assert torch.equal(p, torch.ones_like(p))
    assert module.step == 2


def test_teacher_of_alignment_keeps_its_own_running_statistics():
    module = make_module()
    with torch.no_grad():
        for buffer in module.online.buffers():
            buffer.fill_(7)
    before = [buffer.clone() for buffer in module.teacher.buffers()]
    module.after_step()
    for old, new in zip(before, module.teacher.buffers(), strict=True):
        assert torch.equal(old, new)
    module.losses(two_views())
    assert not torch.equal(before[0], next(module.teacher.buffers()))


def test_teacher_of_contrast_averages_running_statistics_too():
    # it sees no training batch, so that it has none of its own
    module = make_module(instance="contrast", ema_momentum=0.25)
    statistics = [b for b in module.online.buffers() if b.is_floating_point()]
    averages = [b for b in module.teacher.buffers() if b.is_floating_point()]
    with torch.no_grad():
        for buffer in statistics:
            buffer.fill_(1.0)
        for buffer in averages:
            buffer.fill_(0.0)
    module.after_step()
    for buffer in averages:
        torch.testing.assert_close(buffer, torch.full_like(buffer, 0.75))


def test_average_of_a_young_contrast_run_is_short():
    module, moved = make_module(instance="contrast", ema_momentum=0.9).double(), []
    for _ in range(40):
        with torch.no_grad():
            for p in module.online.parameters():
                p.fill_(1.0)
            for p in module.teacher.parameters():
                p.fill_(0.0)
        module.after_step()
        moved.append(float(next(module.teacher.parameters()).detach().mean()))
    assert moved[0] > 0.5
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] == pytest.approx(0.1)


def test_teacher_starts_as_a_copy():
    module = make_module()
    online, teacher = module.online.state_dict(), module.teacher.state_dict()
    assert list(online) == list(teacher)
    for name in online:
        assert torch.equal(online[name], teacher[name])
        assert online[name].data_ptr() != teacher[name].data_ptr()
    assert not any(p.requires_grad for p in module.teacher.parameters())


# -- oracle 9: the schedule ------------------------------------------------------------

STEPS_PER_EPOCH = 100


@pytest.fixture
def paper_schedule():
    plan = SimpleNamespace(
        total_steps=1000 * STEPS_PER_EPOCH,
        steps_per_epoch=STEPS_PER_EPOCH,
        max_epochs=1000,
    )
    return DigPro(3, lr_warmup=50 / 1000)._schedule(plan)


@pytest.mark.parametrize(
    ("epoch", "expected"), [(25, 0.5), (50, 1.0), (525, 0.53923), (1000, 0.0061558)]
)
def test_learning_rate_of_the_paper(paper_schedule, epoch, expected):
    # step t, counted from 0, trains at the fractional epoch (t + 1) / STEPS_PER_EPOCH
    step = epoch * STEPS_PER_EPOCH - 1
    assert paper_schedule(step) == pytest.approx(expected, rel=1e-5)
    period = 1000 * STEPS_PER_EPOCH
    assert WarmupCosine(period / 20, period)(step) == paper_schedule(step)


def test_learning_rate_rises_then_falls(paper_schedule):
    factors = np.array([paper_schedule(t) for t in range(0, 100_000, 250)])
    peak = factors.argmax()
    assert 0 < factors[0] < 0.01
    assert np.all(np.diff(factors[: peak + 1]) > 0)
    assert np.all(np.diff(factors[peak:]) < 0)


@pytest.mark.parametrize("step", [0, 1, 10, 1000])
def test_schedule_without_warmup_or_beyond_its_end(step):
    progress = min(1.0, (step + 1) / 10)
    expected = 0.5 * (1 + math.cos(math.pi * progress))
    assert WarmupCosine(0, 10)(step) == pytest.approx(expected, abs=1e-12)


# -- oracle 10: bank and group reset ---------------------------------------------------


@pytest.mark.parametrize("instance", ["alignment", "contrast"])
def test_bank_after_the_first_iteration(instance):
    module, batch = make_module(instance=instance), two_views()
    before = module.bank.clone()
    torch.testing.assert_close(before.norm(dim=1), torch.ones(60))
    with torch.no_grad():
        twin = copy.deepcopy(module)
        rows = unit(torch.cat([twin.online(view) for view in batch.views]))
    module.losses(batch)
    assert module.bank.shape == (60, D)
    torch.testing.assert_close(module.bank[: 2 * B].norm(dim=1), torch.ones(2 * B))
    torch.testing.assert_close(module.bank[: 2 * B], rows)
    assert torch.equal(module.bank[2 * B :], before[: -2 * B])
    assert not module.bank.requires_grad


def test_bank_smaller_than_a_batch_keeps_its_size():
    module = make_module(bank_size=5)
    module.losses(two_views())
    assert module.bank.shape == (5, D)


def test_group_reset_finds_tight_bundles():
    k = 5
    module = make_module(n_clusters=k, bank_size=500, feature_dim=16)
    directions = unit(torch.randn(k, 16))
    bundles = directions.repeat(100, 1) + 0.01 * torch.randn(500, 16)
    module.bank = unit(bundles)
    module.reset_groups()
    cosines = module.groups @ directions.T
    torch.testing.assert_close(module.groups.norm(dim=1), torch.ones(k))
    assert sorted(cosines.argmax(1).tolist()) == list(range(k))
    assert cosines.max(1).values.min() > 0.999


def test_without_resets_groups_follow_the_prototypes():
    module = make_module(reset_steps=None, bank_size=0)
    features = unit(torch.randn(N, D))
    module.refresh(lambda: features)
    assert torch.equal(module.groups, module.centers)
    module.losses(two_views())  # moves the groups alone
    assert not torch.equal(module.groups, module.centers)
    torch.testing.assert_close(module.centers.norm(dim=1), torch.ones(K))
    assert module.bank.shape == (0, D)


def test_with_resets_groups_do_not_follow_the_prototypes():
    module = make_module()
    before = module.groups.clone()
    module.refresh(lambda: unit(torch.randn(N, D)))
    assert torch.equal(module.groups, before)


@pytest.mark.parametrize(
    ("reset_steps", "expected"), [(None, []), (1, [2, 3, 4, 5, 6, 7]), (3, [3, 6])]
)
def test_groups_are_reset_every_so_many_steps_but_not_at_first(reset_steps, expected):
    module, at = make_module(reset_steps=reset_steps), []
    module.reset_groups = lambda: at.append(module.step)
    for _ in range(7):
        module.losses(two_views())
        module.after_step()
    assert at == expected


# -- state -----------------------------------------------------------------------------


def test_state_dict_round_trip():
    module = make_module(warmup_steps=2, reset_steps=2)
    features = unit(torch.randn(N, D))
    module.refresh(lambda: features)
    for _ in range(3):
        module.losses(two_views())
        module.after_step()
    torch.manual_seed(1)
    other = make_module(warmup_steps=2, reset_steps=2)
    assert (other.step, other.refreshed) == (1, False)
    other.load_state_dict(module.state_dict())
    assert (other.step, other.refreshed) == (4, True)
    for name in ("groups", "bank", "labels", "centers"):
        assert torch.equal(getattr(other, name), getattr(module, name)), name

    batch = two_views()
    torch.manual_seed(2)
    expected = module.losses(batch)
    torch.manual_seed(2)
    got = other.losses(batch)
    assert list(got) == list(expected) == ["instance", "group", "prototype"]
    for name in expected:
        assert torch.equal(got[name], expected[name])


def test_refresh_reports_sizes_and_spread():
    module = make_module(feature_dim=2, n_clusters=4)
    directions = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    report = module.refresh(lambda: directions[torch.arange(N) % 4])
    assert sum(report["cluster_sizes"]) == N
    assert report["cluster_sizes"] == [N // 4] * 4
    # uniform on the sphere: the standard deviation of each coordinate is 1 / sqrt(d)
    assert report["feature_spread"] == pytest.approx(1.0, abs=1e-6)
    collapsed = module.refresh(lambda: directions[:1].repeat(N, 1))
    assert collapsed["feature_spread"] == pytest.approx(0.0, abs=1e-6)
    assert sum(collapsed["cluster_sizes"]) == N


def test_refresh_starts_from_the_last_centres():
    module, seen = make_module(), []
    features = unit(torch.randn(N, D))

    def spy(rows, n_clusters, *, init, n_init, max_iter):
        seen.append((None if init is None else init.clone(), n_init))
        return rows[:n_clusters].clone(), torch.arange(N) % n_clusters

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skdeepcluster.digpro.spherical_kmeans", spy)
        module.refresh(lambda: features)
        module.refresh(lambda: features)
        module.finish(lambda: features)
    assert seen[0][0] is None
    assert torch.equal(seen[1][0], features[:K])
    assert [n_init for _, n_init in seen] == [2, 2, 10]


def test_encode_and_logits():
    module = make_module().eval()
    x = torch.randn(B, *SHAPE)
    z = module.encode(x)
    assert z.shape == (B, D)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(B))
    module.centers = unit(torch.randn(K, D))
    torch.testing.assert_close(module.logits(x), z @ module.centers.T / TAU_G)
