"""Which rows make a batch, and how long a training is."""

import pytest
import torch

from skdeepcluster._engine.batches import (
    EpochBatches,
    NeighborBatches,
    WeightedBatches,
)
from skdeepcluster._engine.protocol import Clock
from skdeepcluster._settings import Budget


@pytest.mark.parametrize("batch_size", [2, 3, 8, 32])
@pytest.mark.parametrize("n", [2, 3, 5, 9, 17, 32, 33, 64, 65])
def test_batches_of_an_epoch(n, batch_size):
    sampler = EpochBatches(n, batch_size)
    batches = list(sampler)
    assert len(batches) == len(sampler) == EpochBatches.count(n, batch_size) >= 1
    rows = torch.cat(batches)
    assert len(rows.unique()) == len(rows)
    assert 0 <= rows.min() and rows.max() < n
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size and min(sizes) >= 2
    if n < 2 * batch_size and n > 3:
        assert sorted(rows.tolist()) == list(range(n))
        assert max(sizes) - min(sizes) <= 1
    elif n >= 2 * batch_size:
        assert set(sizes) == {batch_size}
        assert n - len(rows) < batch_size


def test_less_than_two_batches_are_halved():
    batches = list(EpochBatches(63, 32))
    assert [len(batch) for batch in batches] == [32, 31]
    assert sorted(torch.cat(batches).tolist()) == list(range(63))


def test_batches_are_shuffled_and_drop_another_remainder():
    torch.manual_seed(0)
    sampler = EpochBatches(35, 16)
    first, second = (torch.cat(list(sampler)) for _ in range(2))
    assert not torch.equal(first, second)
    assert set(range(35)) - set(first.tolist()) != set(range(35)) - set(second.tolist())
    torch.manual_seed(0)
    assert torch.equal(torch.cat(list(EpochBatches(35, 16))), first)


NEIGHBORS = torch.stack([(torch.arange(35) + step) % 35 for step in (1, 7, 12)], dim=1)


def test_batches_of_neighbors_are_those_of_an_epoch():
    torch.manual_seed(0)
    sampler = NeighborBatches(NEIGHBORS, batch_size=16, n_views=2)
    batches = list(sampler)
    assert len(batches) == len(sampler) == EpochBatches.count(35, 16)
    assert [batch.shape for batch in batches] == [(3, 16)] * 2
    assert all(batch.dtype == torch.int64 for batch in batches)
    own = torch.cat([batch[0] for batch in batches])
    assert len(own.unique()) == len(own) == 32
    torch.manual_seed(0)
    again = list(NeighborBatches(NEIGHBORS, batch_size=16, n_views=2))
    assert all(map(torch.equal, batches, again))


@pytest.mark.parametrize("n_views", [1, 2, 3])
def test_each_view_is_the_row_or_one_of_its_neighbors_equally_often(n_views):
    torch.manual_seed(0)
    sampler = NeighborBatches(NEIGHBORS, batch_size=16, n_views=n_views)
    rows = torch.cat([batch for _ in range(100) for batch in sampler], dim=1)
    steps = (rows[1:] - rows[0]) % 35
    n = steps.shape[1]
    for view in steps:
        assert set(view.tolist()) == {0, 1, 7, 12}
        for step in (0, 1, 7, 12):  # five standard errors of a share of 1/4
            assert abs((view == step).float().mean() - 0.25) < 5 * (0.1875 / n) ** 0.5
    for other in steps[1:]:  # drawn independently: one of four is the same
        assert abs((steps[0] == other).float().mean() - 0.25) < 5 * (0.1875 / n) ** 0.5


def test_weighted_batches_follow_the_weights():
    torch.manual_seed(0)
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0])
    sampler = WeightedBatches(weights, batch_size=500, n_batches=4)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 4
    assert [batch.shape for batch in batches] == [(500,)] * 4
    counts = torch.bincount(torch.cat(batches), minlength=4)
    assert counts[0] == counts[3] == 0
    # five standard errors of a share of 3/4 among 2000
    assert abs(counts[2] / 2000 - 0.75) < 5 * (0.75 * 0.25 / 2000) ** 0.5
    assert not torch.equal(batches[0], batches[1])


@pytest.mark.parametrize(
    ("steps_per_epoch", "epochs"),
    [(1, 6), (2, 3), (3, 2), (4, 2), (6, 2), (8, 1), (100, 1)],
)
def test_a_budget_in_epochs(steps_per_epoch, epochs):
    # two epochs, but six steps at least, and no more epochs than make eight steps
    assert Budget(2, min_steps=6, max_steps=8).in_epochs(steps_per_epoch) == epochs


def test_the_usual_budget_gives_small_data_more_epochs():
    budget = Budget(epochs=25, min_steps=600, max_steps=3000)
    epochs = [budget.in_epochs(steps) for steps in (1, 4, 24, 40, 120, 400, 5000)]
    assert epochs == [600, 150, 25, 25, 25, 8, 1]


def test_the_clock_rounds_a_share_to_a_step():
    clock = Clock(max_epochs=3, steps_per_epoch=5)
    assert clock.total_steps == 15
    passed = []
    for clock.step in range(16):
        passed.append([clock.passed(share) for share in (0.0, 0.3, 0.5, 1.0)])
    first = [column.index(True) for column in map(list, zip(*passed, strict=True))]
    assert first == [0, 4, 8, 15]  # of 4.5 and 7.5, the even ones
