"""Networks that are the running average of those that are trained."""

import copy
import pickle

import pytest
import torch
from torch import nn

from skdeepcluster._engine.average import Average, ema_update, short_at_first


def network(value=None):
    made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    if value is not None:
        fill(made, value)
    return made


@torch.no_grad()
def fill(made, value):
    for tensor in (*made.parameters(), *made.buffers()):
        tensor.fill_(value)


@pytest.mark.parametrize("momentum", [0.0, 0.25, 0.99, 1.0])
def test_ema_update(momentum):
    average, trained = network(0.0), network(1.0)
    ema_update(average, trained, momentum)
    for a, t in zip(average.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(a, torch.full_like(a, 1.0 - momentum))
        assert torch.equal(t, torch.ones_like(t))
        assert a.requires_grad and a.grad_fn is None
    assert all(torch.equal(b, torch.zeros_like(b)) for b in average.buffers())


def test_ema_update_of_buffers_leaves_counters():
    average = network(0.0)
    ema_update(average, network(1.0), 0.9, buffers=True)
    norm = average[1]
    for buffer in (norm.running_mean, norm.running_var, norm.weight.detach()):
        torch.testing.assert_close(buffer, torch.full_like(buffer, 0.1))
    assert norm.num_batches_tracked == 0


def test_starts_as_a_copy_without_gradient():
    trained = network()
    average = Average(trained, 0.9)
    online, own = trained.state_dict(), average.network.state_dict()
    assert list(online) == list(own)
    for name in online:
        assert torch.equal(online[name], own[name])
        assert online[name].data_ptr() != own[name].data_ptr()
    assert not any(p.requires_grad for p in average.parameters())
    assert all(p.requires_grad for p in trained.parameters())
    # what is trained is not a part of it, nor saved twice
    assert len(list(average.parameters())) == len(list(trained.parameters()))
    x = torch.rand(5, 3, dtype=torch.float64)
    torch.testing.assert_close(average.eval()(x), trained.eval()(x))


def test_buffers_move_or_stay():
    for own_statistics, expected in ((False, 0.25), (True, 0.0)):
        trained = network(0.0)
        average = Average(trained, 0.75, own_statistics=own_statistics)
        fill(trained, 1.0)
        average.move(1)
        norm = average.network[1]
        assert norm.running_mean.tolist() == [expected] * 4
        assert norm.weight.tolist() == [0.25] * 4


def test_momentum_by_the_step():
    trained, steps = network(0.0), []

    def momentum(step):
        steps.append(step)
        return 0.5 if step < 10 else 1.0

    average = Average(trained, momentum)
    fill(trained, 1.0)
    for step in (3, 9, 10, 11):
        average.move(step)
    assert steps == [3, 9, 10, 11]
    torch.testing.assert_close(
        average.network[0].bias, torch.full((4,), 0.75, dtype=torch.float64)
    )


def test_short_at_first():
    momenta = [short_at_first(0.9, step) for step in range(1, 30)]
    assert momenta[0] == pytest.approx(1 / 3)
    assert momenta == sorted(momenta) and momenta[-1] == 0.9
    assert momenta.count(0.9) == 29 - 17  # 1 - 2 / 20 is 0.9 after 18 steps


def pickled(both):
    return pickle.loads(pickle.dumps(both))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_averages_the_copied_network(copied):
    both = nn.ModuleDict({"trained": network(0.0)})
    both["average"] = Average(both["trained"], 0.5)
    twin = copied(both)
    fill(twin["trained"], 1.0)
    for pair in (both, twin):
        pair["average"].move(1)
    assert both["average"].network[0].bias.tolist() == [0.0] * 4
    assert twin["average"].network[0].bias.tolist() == [0.5] * 4


def test_moving_to_another_type_keeps_the_pair():
    both = nn.ModuleDict({"trained": network(0.0)})
    both["average"] = Average(both["trained"], 0.5)
    both.float().to(memory_format=torch.channels_last)
    fill(both["trained"], 1.0)
    both["average"].move(1)
    assert both["average"].network[0].bias.tolist() == [0.5] * 4


def test_an_average_sees_no_batch_unless_it_has_statistics_of_its_own():
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    plain, own = Average(student, 0.9), Average(student, 0.9, own_statistics=True)
    both = nn.ModuleList([plain, own]).train()
    x = torch.ones(5, 3)
    before = plain.network[1].running_mean.clone()
    plain(x), own(x)
    assert not plain.training and own.training
    assert torch.equal(plain.network[1].running_mean, before)
    assert not torch.equal(own.network[1].running_mean, before)
    both.eval()
    assert not own.training
