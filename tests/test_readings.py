"""Losses that are read when they are there: at once on a CPU, later on a GPU."""

import math

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
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
    for numbers in ({"loss": 1.0}, {"loss": 2.5, "loss_late": 0.5}):
        readings.add({name: torch.tensor(value) for name, value in numbers.items()})
        assert list(readings.read()) == [numbers]
    assert list(readings.read()) == []
    assert readings.sums == {"loss": 3.5, "loss_late": 0.5}
    assert readings.n_steps == 2


def test_what_is_not_there_yet_is_read_later_and_in_order():
    readings, events = Readings(), [Event(), Event(), Event()]
    for i, event in enumerate(events):
        readings._queue.append((["loss"], torch.tensor([float(i)]), event))
    events[2].over = True  # the third one has to wait for the second
    assert list(readings.read()) == [{"loss": 0.0}]  # of the first step, waited for
    assert list(readings.read()) == []
    assert readings.latest == {"loss": 0.0}
    events[1].over = True
    assert list(readings.read()) == [{"loss": 1.0}, {"loss": 2.0}]
    readings._queue.append((["loss"], torch.tensor([3.0]), Event()))
    assert list(readings.read(wait=True)) == [{"loss": 3.0}]
    assert readings.n_steps == 4


@pytest.fixture
def late(monkeypatch):
    """Have the losses of all steps come when they are waited for."""
    add = Readings.add

    def later(self, numbers):
        add(self, numbers)
        self._queue[-1] = *self._queue[-1][:2], Event()

    monkeypatch.setattr(Readings, "add", later)


def history(**params):
    rows = make(max_epochs=3, **params).fit(IMAGES).history_
    timed = ("seconds", "images_per_second")
    return [{k: row[k] for k in row if k not in timed} for row in rows]


def test_losses_that_come_late_make_the_same_history(request):
    at_once = history()
    request.getfixturevalue("late")
    assert history() == at_once


def test_callbacks_see_the_last_loss_that_is_there(late):
    seen = []

    class Look(Callback):
        def on_batch_end(self, net, loss=None, **kwargs):
            seen.append(float(loss))

    model = make(max_epochs=2, batch_size=5, callbacks=[Look()]).fit(IMAGES)
    assert len(seen) == 2 * (len(IMAGES) // 5)
    assert np.isfinite(seen).all()
    assert seen[0] == seen[1] != seen[-1]
    assert model.n_iter_ == 2


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
