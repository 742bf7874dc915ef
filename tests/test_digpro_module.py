"""DigPro on a batch: losses, what they train, and the averaged network."""

import copy

import pytest
import torch
from small_digpro import (
    STEPS,
    K,
    make_module,
    step,
    two_views,
)
from test_oracles_digpro import TAU_G, TAU_P, slow_group_loss, slow_prototype_loss, unit

from skdeepcluster._engine.protocol import Batch
from skdeepcluster.digpro.objective import (
    group_loss,
    prototype_loss,
    view_alignment_loss,
)
from skdeepcluster.losses import nt_xent


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# -- the module on a batch -------------------------------------------------------------


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
    module.online, module.teacher.network = Table(rows), Table(rows)
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
    module, batch = ideal_module(warmup=5 / STEPS)
    parts = module.losses(batch)
    assert list(parts) == ["instance", "group"]
    total = sum(parts.values()).item()
    assert total == pytest.approx(-2.0 + 0.3 * 9.08e-5, abs=1e-5)


@pytest.mark.parametrize("instance", ["alignment", "contrast"])
def test_prototypes_wait_for_the_warmup(instance):
    module = make_module(warmup=2 / STEPS, instance=instance)
    names = []
    for _ in range(4):
        parts = step(module)
        assert all(part.requires_grad and part.ndim == 0 for part in parts.values())
        names.append(list(parts))
    warm, whole = ["instance", "group"], ["instance", "group", "prototype"]
    assert names == [warm, warm, whole, whole]


def expected_parts(module, batch):
    """What ``losses`` promises, spelled out on copies of the networks."""
    twin = copy.deepcopy(module)
    aligns = module.p.instance == "alignment"
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
            parts["instance"] += 0.5 * view_alignment_loss(u[a], k[b]).item()
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
    module.advance(batch)
    torch.testing.assert_close(module.groups, groups)


def test_targets_of_contrast_pass_no_gradient_to_the_prototypes():
    module, batch = make_module(instance="contrast"), two_views()
    twin = copy.deepcopy(module)
    weight, own = module.online.projector[-1].weight, twin.online.projector[-1].weight
    (found,) = torch.autograd.grad(module.losses(batch)["prototype"], weight)
    q = [twin.online(view) for view in batch.views]
    k = [unit(rows).detach() for rows in q]
    labels = twin.labels[batch.index]
    losses = [prototype_loss(q[a], k[1 - a], labels, K, TAU_P) for a in (0, 1)]
    (expected,) = torch.autograd.grad(0.5 * 0.1 * sum(losses), own)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("instance", ["alignment", "contrast"])
def test_losses_change_nothing_but_running_statistics(instance):
    module = make_module(instance=instance, group_reset=2)
    step(module)
    before = copy.deepcopy(module.state_dict())
    assert module.reset_is_due()
    module.losses(two_views())
    after = module.state_dict()
    for name, value in before.items():
        if name.endswith("_extra_state"):
            assert after[name] == value, name
        elif "running" not in name and "tracked" not in name:
            assert torch.equal(after[name], value), name


def test_second_pair_starts_from_the_groups_that_the_first_one_moved():
    module, batch = make_module(group_momentum=0.2), two_views()
    seen = []

    def spy(predicted, online, target, groups, *rest):
        loss, moved = group_loss(predicted, online, target, groups, *rest)
        seen.append((groups, moved))
        return loss, moved

    before = module.groups.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skdeepcluster.digpro.module.group_loss", spy)
        step(module, batch)
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


@pytest.mark.parametrize(("warmup", "passes"), [(0, 4), (1 / STEPS, 2)])
def test_noise_is_a_second_pass_after_the_warmup(warmup, passes):
    module = make_module(noise_std=1e-3, warmup=warmup)
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
    module.teacher.move(step=1)
    for p in module.teacher.parameters():
        torch.testing.assert_close(p, torch.full_like(p, expected), atol=1e-12, rtol=0)
    for p in module.online.parameters():
        assert torch.equal(p, torch.ones_like(p))


def test_teacher_of_alignment_keeps_its_own_running_statistics():
    module = make_module()
    with torch.no_grad():
        for buffer in module.online.buffers():
            buffer.fill_(7)
    before = [buffer.clone() for buffer in module.teacher.buffers()]
    module.teacher.move(step=1)
    for old, new in zip(before, module.teacher.buffers(), strict=True):
        assert torch.equal(old, new)
    module.losses(two_views())
    assert not all(map(torch.equal, before, module.teacher.buffers()))


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
    module.teacher.move(step=1000)
    for buffer in averages:
        torch.testing.assert_close(buffer, torch.full_like(buffer, 0.75))


def test_average_of_a_young_contrast_run_is_short():
    module, moved = make_module(instance="contrast", ema_momentum=0.9).double(), []
    for number in range(1, 41):
        with torch.no_grad():
            for p in module.online.parameters():
                p.fill_(1.0)
            for p in module.teacher.parameters():
                p.fill_(0.0)
        module.teacher.move(number)
        moved.append(float(next(module.teacher.parameters()).detach().mean()))
    assert moved[0] > 0.5
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] == pytest.approx(0.1)


def test_teacher_starts_as_a_copy():
    module = make_module()
    online = module.online.state_dict()
    teacher = module.teacher.network.state_dict()
    assert list(online) == list(teacher)
    for name in online:
        assert torch.equal(online[name], teacher[name])
        assert online[name].data_ptr() != teacher[name].data_ptr()
    assert not any(p.requires_grad for p in module.teacher.parameters())
