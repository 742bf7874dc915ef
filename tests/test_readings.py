"""Losses that are read when they are there: at once on a CPU, later on a GPU."""

import math

import pytest
import torch
from toy import IMAGES, ToyModule, make

from skdeepcluster._engine.readings import Readings


class Event:
    """Stands in for that of a copy from a GPU: it is over once it was waited for."""

    def __init__(self):
        self.over = False

    def query(self):
        return self.over

    def synchronize(self):
        self.over = True


def test_steps_add_up_under_their_own_names():
    readings = Readings()
    assert math.isnan(readings.latest["loss"])
    for numbers in ({"loss": 1.0}, {"loss": 2.5, "loss_late": 0.5}):
        readings.add({name: torch.tensor(value) for name, value in numbers.items()})
        assert list(readings.read()) == [numbers]
    assert list(readings.read()) == []
    assert readings.sums == {"loss": 3.5, "loss_late": 0.5}
    assert readings.n_steps == 2


def test_what_is_not_there_yet_is_read_later_and_in_order():
    readings, events = Readings(), [Event(), Event()]
    for i, event in enumerate(events):
        readings._queue.append((["loss"], torch.tensor([float(i)]), event))
    events[1].over = True  # the second one has to wait for the first
    assert list(readings.read()) == []
    assert readings.n_steps == 0
    events[0].over = True
    assert list(readings.read()) == [{"loss": 0.0}, {"loss": 1.0}]
    readings._queue.append((["loss"], torch.tensor([2.0]), Event()))
    assert list(readings.read(wait=True)) == [{"loss": 2.0}]
    assert readings.n_steps == 3


@pytest.fixture
def late(monkeypatch):
    """Have the losses of all steps come at the end of the epoch."""
    read = Readings.read
    monkeypatch.setattr(
        Readings, "read", lambda self, wait=False: read(self, wait) if wait else ()
    )


def history(**params):
    rows = make(max_epochs=3, **params).fit(IMAGES).history_
    timed = ("seconds", "images_per_second")
    return [{k: row[k] for k in row if k not in timed} for row in rows]


def test_losses_that_come_late_make_the_same_history(request):
    at_once = history()
    request.getfixturevalue("late")
    assert history() == at_once


class Explodes(ToyModule):
    def losses(self, batch):
        parts = super().losses(batch)
        return {**parts, "bad": parts["size"] * (math.nan if self.clock.step else 1)}


def test_a_loss_that_is_nan_ends_the_epoch_at_the_latest(late):
    with pytest.raises(FloatingPointError, match=r"epoch 1 \(loss part: bad\)"):
        make(Explodes).fit(IMAGES)


@pytest.mark.gpu
def test_copies_from_a_gpu():
    readings = Readings()
    values = torch.arange(100.0, device="cuda")
    for value in values:
        readings.add({"loss": value, "loss_half": 0.5 * value})
        list(readings.read())
    list(readings.read(wait=True))
    assert readings.sums == {"loss": 4950.0, "loss_half": 2475.0}
    assert readings.n_steps == 100
