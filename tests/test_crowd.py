"""Threads on a machine that others use."""

import os
import sys
import threading
import time

import numpy as np
import pytest
import torch
from estimators import ESTIMATORS, make_stripes
from sklearn.base import clone

from skdeepcluster._engine import crowd
from skdeepcluster._engine.crowd import Crowd, look, watched

X = make_stripes()[0]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def switches(monkeypatch):
    """How many switches others force, as a test sets them."""
    count = [0]
    monkeypatch.setattr(crowd, "_forced_switches", lambda: count[0])
    monkeypatch.setattr(crowd, "LOOK", 0.0)
    monkeypatch.setattr(Crowd, "until", 0.0)
    return count


def idle_threads():
    return sum(thread._target is crowd._outnumber for thread in threading.enumerate())


def tasks():
    return len(os.listdir("/proc/self/task"))


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@on_linux
@pytest.mark.usefixtures("two_threads")
def test_a_crowd_is_seen_and_left(switches, monkeypatch):
    with watched() as seen:
        look()
        assert not seen.is_seen and idle_threads() == 0
        switches[0] += 10**9
        before = tasks()
        look()
        assert seen.is_seen and idle_threads() == 1
        # more of OpenMP's threads than cores
        wait_for(lambda: tasks() - before > len(os.sched_getaffinity(0)))
        look()
        assert seen.is_seen  # for a while
        with watched() as inner:
            assert inner is seen
        assert seen.is_seen
    assert not seen.is_seen
    with watched() as again:  # in the next fit at once
        assert again.is_seen
        monkeypatch.setattr(Crowd, "until", 0.0)
        look()
        assert not again.is_seen
    wait_for(lambda: idle_threads() == 0)
    look()  # outside of a fit it is nothing


def test_one_thread_waits_for_none(switches):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with watched() as seen:
            switches[0] += 10**9
            look()
            assert not seen.is_seen
    finally:
        torch.set_num_threads(before)


@on_linux
@pytest.mark.usefixtures("two_threads")
def test_the_cure_changes_no_result(switches, monkeypatch):
    estimator = clone(ESTIMATORS[0]).set_params(max_epochs=1)
    plain = clone(estimator).fit(X)
    seen = []
    monkeypatch.setattr(
        crowd, "_forced_switches", lambda: seen.append(1) or 10**9 * len(seen)
    )
    cured = clone(estimator).fit(X)
    assert seen
    np.testing.assert_array_equal(cured.transform(X), plain.transform(X))
    assert torch.get_num_threads() == 2
