"""What is shown in training: a bar on a terminal, lines elsewhere, or the log."""

import io
import logging
import re
import sys
from types import SimpleNamespace

import pytest
from toy import IMAGES, STEPS, make

from skdeepcluster import _progress, callbacks
from skdeepcluster._engine.protocol import Clock
from skdeepcluster.callbacks import TrainingBar

LINE = re.compile(
    r"Toy, epoch (\d+)/(\d+): loss \d+\.\d{3}, size \d+\.\d{3}, mean \d+\.\d{3} "
    r"\((?:\d+ s|\d+:\d\d), (?:\d+ s|\d+:\d\d) left\)"
)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(callbacks, "shows_bars", lambda: True)


def epochs(lines):
    matches = [LINE.fullmatch(line) for line in lines]
    assert None not in matches, lines
    return [int(match[1]) for match in matches]


def test_in_a_file_there_is_no_bar_and_short_epochs_share_a_line(capsys):
    make(verbose=1, max_epochs=30).fit(IMAGES)
    out, err = capsys.readouterr()
    assert out == "" and "\r" not in err
    assert epochs(err.splitlines())[-1] == 30
    assert len(err.splitlines()) <= 3  # one in five seconds, and the last


def test_an_epoch_that_takes_long_has_a_line(capsys, monkeypatch):
    monkeypatch.setattr(TrainingBar, "interval", 0.0)
    make(verbose=1, max_epochs=3).fit(IMAGES)
    assert epochs(capsys.readouterr().err.splitlines()) == [1, 2, 3]


@pytest.mark.usefixtures("terminal")
def test_two_asks_for_a_line_an_epoch_on_a_terminal_too(capsys):
    make(verbose=2, max_epochs=3).fit(IMAGES)
    err = capsys.readouterr().err
    assert "\r" not in err and epochs(err.splitlines()) == [1, 2, 3]


@pytest.mark.usefixtures("terminal")
def test_lines_go_to_a_log_that_takes_them(capsys, caplog):
    with caplog.at_level(logging.INFO, logger="skdeepcluster"):
        make(verbose=2, max_epochs=3).fit(IMAGES)
    assert {record.name for record in caplog.records} == {"skdeepcluster"}
    assert epochs([record.getMessage() for record in caplog.records]) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")


def test_nothing_is_shown_unasked(capsys, caplog):
    with caplog.at_level(logging.INFO):
        make().fit(IMAGES)
    assert capsys.readouterr() == ("", "") and not caplog.records


@pytest.mark.usefixtures("terminal")
def test_bar_and_time_left_begin_where_training_goes_on(capsys, monkeypatch):
    clock = Clock(max_epochs=6, steps_per_epoch=STEPS, step=4 * STEPS, epoch=4)
    net = SimpleNamespace(
        module_=SimpleNamespace(clock=clock), history=[{"epoch": 5, "loss": 0.5}]
    )
    bar = TrainingBar("Toy")
    bar.on_train_begin(net)
    assert (bar.bar_.n, bar.bar_.total) == (4 * STEPS, 6 * STEPS)
    bar.on_train_end(net)
    assert f"{4 * STEPS}/{6 * STEPS}" in capsys.readouterr().err

    times = iter([100.0, 130.0, 130.0])
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: next(times))
    bar = TrainingBar("Toy", lines=True)
    bar.on_train_begin(net)
    clock.step += STEPS
    bar.on_epoch_end(net)
    expected = "Toy, epoch 5/6: loss 0.500 (30 s, 30 s left)\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (125, "2:05"), (3725, "1:02:05")]
)
def test_duration(seconds, text):
    assert _progress.duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shell(**attributes):
    return SimpleNamespace(get_ipython=lambda: SimpleNamespace(**attributes))


@pytest.mark.parametrize(
    ("stream", "ipython", "expected"),
    [
        (io.StringIO(), None, False),
        (None, None, False),
        (Terminal(), None, True),
        (Terminal(), shell(), True),
        (io.StringIO(), shell(), False),
        (io.StringIO(), shell(kernel=1), True),  # a notebook
    ],
)
def test_where_a_bar_can_be_drawn(monkeypatch, stream, ipython, expected):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert _progress.shows_bars() is expected


def test_a_closed_standard_error_is_no_terminal(monkeypatch):
    stream = Terminal()
    stream.close()
    stream.isatty = lambda: io.StringIO.isatty(stream)
    monkeypatch.setattr(sys, "stderr", stream)
    assert _progress.shows_bars() is False


def test_without_a_standard_error_nothing_is_said(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert make(verbose=1).fit(IMAGES).n_iter_ == 2
