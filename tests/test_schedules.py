"""Factors of the learning rate, as functions of the step."""

import math

import pytest

from skdeepcluster._engine.schedules import Staged, WarmupCosine


def test_warmup_is_linear_and_ends_on_the_cosine():
    schedule = WarmupCosine(warmup=4, period=100)
    assert [schedule(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    factors = [schedule(step) for step in range(3, 110)]
    assert factors == sorted(factors, reverse=True)
    assert schedule(3 + 50) == pytest.approx(0.5)
    assert schedule(3 + 100) == schedule(3 + 1000) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("step", [0, 1, 10, 1000])
def test_without_warmup_or_beyond_the_end(step):
    progress = min(1.0, (step + 1) / 10)
    expected = 0.5 * (1 + math.cos(math.pi * progress))
    assert WarmupCosine(0, 10)(step) == pytest.approx(expected, abs=1e-12)


def test_a_period_of_nothing_is_finite():
    assert WarmupCosine(0, 0)(0) == pytest.approx(0.0, abs=1e-15)


def test_stages_count_their_own_steps():
    schedule = Staged([2, 5], [float, lambda step: 10 + step, float], [1, 2, 100])
    expected = [0, 1, 2 * 10, 2 * 11, 2 * 12, 0, 100, 200]
    assert [schedule(step) for step in range(8)] == expected


def test_a_stage_without_steps_is_passed_over():
    schedule = Staged([0, 2], [None, float, lambda step: -1 - step], [1, 1, 1])
    assert [schedule(step) for step in range(4)] == [0, 1, -1, -2]
