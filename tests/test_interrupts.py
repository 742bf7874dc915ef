"""Ctrl-C and SIGTERM end one fit, keep what was learnt, and end what is around it."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from estimators import ESTIMATORS, each_estimator, make_stripes
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import EarlyStopping
from skorch.utils import noop
from toy import IMAGES, RUNTIME, Spy, ToyModule, make, stops

from skdeepcluster import GCC
from skdeepcluster.gcc.diffusion_training import DiffusionObjective

X = make_stripes()[0]


@pytest.fixture(autouse=True)
def defaults():
    """Handle signals as a fresh process does, whatever runs the tests."""
    wanted = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, how) for number, how in wanted.items()}
    yield
    for number, how in wanted.items():
        assert signal.getsignal(number) is how  # given back by every fit
        signal.signal(number, before[number])


def sends(number, event, at):
    """A callback that sends this process a signal at an event, the ``at``-th time."""
    seen = []

    def send(net):
        seen.append(event)
        if len(seen) == at:
            os.kill(os.getpid(), number)

    return Spy(event, send)


MOMENTS = [  # two steps an epoch
    ("on_epoch_end", 1, 1),
    ("on_epoch_end", 2, 2),
    ("on_epoch_begin", 3, 2),
    ("on_batch_begin", 3, 1),
    ("on_batch_end", 3, 1),
    ("on_batch_end", 6, 2),
]


@pytest.mark.parametrize(
    ("number", "error", "said"),
    [
        (signal.SIGINT, KeyboardInterrupt, "interrupted after epoch {}"),
        (signal.SIGTERM, SystemExit, "143"),
    ],
)
@pytest.mark.parametrize(("event", "at", "epochs"), MOMENTS)
def test_a_signal_leaves_a_fitted_estimator(number, error, said, event, at, epochs):
    model = make(max_epochs=5, callbacks=[sends(number, event, at)])
    with pytest.raises(error, match=said.format(epochs)) as caught:
        model.fit(IMAGES)
    assert caught.value.estimator is model
    assert model.n_iter_ == len(model.history_) == epochs
    for row in model.history_:
        assert set(row) == RUNTIME | {"loss_size", "loss_mean", "largest"}
    np.testing.assert_array_equal(model.predict(IMAGES), model.labels_)


def test_a_signal_while_processes_agree_counts(monkeypatch):
    calls = []

    def highest(number):
        calls.append(number)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return number  # what this process had before

    monkeypatch.setattr("skdeepcluster._engine.interrupts.highest", highest)
    with pytest.raises(KeyboardInterrupt, match="interrupted after epoch"):
        make(max_epochs=5).fit(IMAGES)
    assert 4 <= len(calls) <= 5


@each_estimator
def test_every_method_can_be_interrupted(estimator):
    stop = sends(signal.SIGINT, "on_batch_end", 3)
    model = clone(estimator).set_params(max_epochs=5, callbacks=[stop])
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    assert 1 <= model.n_iter_ < 5
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    assert set(model.labels_) == set(range(len(model.cluster_centers_)))


@pytest.mark.parametrize("event", ["on_train_begin", "on_batch_begin", "on_batch_end"])
@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)],
)
def test_a_signal_before_a_whole_epoch_leaves_the_estimator_as_it_was(
    event, number, error
):
    model = make(max_epochs=5, callbacks=[sends(number, event, 1)])
    before = dict(vars(model))
    with pytest.raises(error) as caught:
        model.fit(IMAGES)
    assert not hasattr(caught.value, "estimator")
    assert vars(model) == before


def test_a_second_one_ends_at_once():
    class Twice(ToyModule):
        def finish(self, embed):
            os.kill(os.getpid(), signal.SIGINT)

    stop = sends(signal.SIGINT, "on_epoch_end", 2)
    model = make(Twice, max_epochs=5, callbacks=[stop])
    before = dict(vars(model))
    with pytest.raises(KeyboardInterrupt) as caught:
        model.fit(IMAGES)
    assert not hasattr(caught.value, "estimator")
    assert vars(model) == before


def test_one_after_the_last_epoch_lets_fit_come_to_its_end():
    class AtTheEnd(ToyModule):
        def finish(self, embed):
            os.kill(os.getpid(), signal.SIGINT)
            super().finish(embed)

    model = make(AtTheEnd, max_epochs=3)
    with pytest.raises(KeyboardInterrupt, match="after epoch 3"):
        model.fit(IMAGES)
    np.testing.assert_array_equal(
        model.predict(IMAGES), make(max_epochs=3).fit(IMAGES).labels_
    )


class InterruptedInRefresh(ToyModule):
    """Ctrl-C comes after the second epoch, where the caller handles it himself."""

    def refresh(self, embed):
        if self.clock.epoch == 2:
            raise KeyboardInterrupt
        return super().refresh(embed)


def test_a_handler_of_the_caller_stays_and_may_raise():
    own = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        mine = signal.getsignal(signal.SIGINT)
        model = make(InterruptedInRefresh, max_epochs=5)
        with pytest.raises(KeyboardInterrupt, match="after epoch 1"):
            model.fit(IMAGES)
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, own)
    assert model.n_iter_ == 1
    np.testing.assert_array_equal(model.predict(IMAGES), model.labels_)


def test_while_a_diffusion_model_trains(monkeypatch):
    losses, seen = DiffusionObjective.losses, []

    def interrupted(self, batch):
        seen.append(1)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return losses(self, batch)

    monkeypatch.setattr(DiffusionObjective, "losses", interrupted)
    gcc = next(model for model in ESTIMATORS if isinstance(model, GCC))
    with pytest.raises(KeyboardInterrupt, match="after epoch 1") as caught:
        clone(gcc).fit(X)
    assert len(seen) == 3  # the step under way was the last
    model = caught.value.estimator
    np.testing.assert_array_equal(model.predict(X), model.labels_)


FIRST_FIT = """
import os, signal, sys
import numpy as np
from skdeepcluster import DigPro

class Watch:
    sent = False
    def find_spec(self, name, path=None, target=None):
        if name == "sympy.logic" and not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGINT)

def first_fit(backbone):
    watch = Watch()
    sys.meta_path.insert(0, watch)
    X = np.random.default_rng(0).random((16, 32, 32))
    model = DigPro(2, max_epochs=1, batch_size=8, backbone=backbone)
    try:
        model.fit(X)
    except KeyboardInterrupt:
        print("interrupted")
    model.fit(X)
    print(watch.sent, len(model.labels_), flush=True)

for backbone in sys.argv[1:]:
    if not os.fork():  # what both import is imported once
        first_fit(backbone)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_first_fit_of_a_process_breaks_no_import_off():
    backbones = ["conv", "shufflenet_v2_x0_5"]
    command = [sys.executable, "-W", "ignore", "-c", FIRST_FIT, *backbones]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == 2 * "interrupted\nTrue 16\n", done.stderr


# -- what is around the fit ------------------------------------------------------------


def test_a_search_ends():
    fits = []

    class Interrupted(ToyModule):
        def __init__(self, p, data):
            super().__init__(p, data)
            fits.append(p.lr)

        def refresh(self, embed):
            if len(fits) == 2 and self.clock.epoch == 1:
                os.kill(os.getpid(), signal.SIGINT)
            return super().refresh(embed)

    model = make(Interrupted, max_epochs=3)
    search = GridSearchCV(model, {"lr": [1e-2, 1e-3, 1e-4]}, cv=2)
    with pytest.raises(KeyboardInterrupt):
        search.fit(IMAGES)
    assert len(fits) == 2  # of seven
    assert not hasattr(search, "best_params_")


def test_the_last_step_of_a_pipeline_is_fitted():
    stop = sends(signal.SIGINT, "on_epoch_end", 2)
    pipeline = make_pipeline(
        FunctionTransformer(), make(max_epochs=5, callbacks=[stop])
    )
    with pytest.raises(KeyboardInterrupt):
        pipeline.fit(IMAGES)
    np.testing.assert_array_equal(pipeline.predict(IMAGES), pipeline[-1].labels_)


def test_other_threads_fit_without_touching_the_handlers():
    errors = []

    def fit():
        try:
            make().fit(IMAGES)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=fit)
    thread.start()
    thread.join()
    assert not errors


SCRIPT = """
import sys, numpy as np
from skdeepcluster import DigPro
from skorch.callbacks import Callback

class Tell(Callback):
    def on_epoch_end(self, net, **kwargs):
        print("epoch", flush=True)

X = np.random.default_rng(0).random((64, 8, 8))
model = DigPro(3, max_epochs=10**6, batch_size=32, callbacks=[Tell()])
try:
    for _ in range(3):
        model.fit(X)
        print("went on")
finally:
    print("fitted", len(model.labels_), flush=True)
"""


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, 143, "")],
)
def test_a_script_ends(number, code, said):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "epoch\n"
    time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out.endswith("fitted 64\n") and "went on" not in out
    assert said in err


# -- a callback that stops -------------------------------------------------------------


@pytest.mark.parametrize(("event", "at", "epochs"), MOMENTS)
def test_a_callback_that_stops_is_no_interrupt(event, at, epochs):
    model = make(max_epochs=5, callbacks=[stops(event, at)]).fit(IMAGES)
    assert model.n_iter_ == len(model.history_) == epochs
    np.testing.assert_array_equal(model.predict(IMAGES), model.labels_)


@pytest.mark.parametrize("event", ["on_train_begin", "on_batch_end"])
def test_a_callback_that_stops_before_an_epoch_is_done_is_an_error(event, tmp_path):
    model = make(max_epochs=5, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="nothing was learnt"):
        model.set_params(callbacks=[stops(event, 1)]).fit(IMAGES)
    assert model.set_params(callbacks=None).fit(IMAGES).n_iter_ == 5


def test_a_callback_that_stops_at_the_end_is_too_late():
    assert make(callbacks=[stops("on_train_end", 1)]).fit(IMAGES).n_iter_ == 2


def test_a_failed_fit_says_why_beside_callbacks_that_act_at_its_end():
    class Diverges(ToyModule):
        def losses(self, batch):
            bad = float("nan") if self.clock.epoch == 2 else 1.0
            return {name: bad * part for name, part in super().losses(batch).items()}

    best = EarlyStopping(monitor="loss", load_best=True, sink=noop)
    with pytest.raises(FloatingPointError, match="epoch 3"):
        make(Diverges, max_epochs=4, callbacks=[best]).fit(IMAGES)


def test_a_failed_fit_does_not_run_the_end_of_training():
    class Fails(ToyModule):
        def refresh(self, embed):
            if self.clock.epoch == 2:
                raise RuntimeError("no memory left")
            return super().refresh(embed)

    ends = []
    spy = Spy("on_train_end", lambda net: ends.append(1))
    with pytest.raises(RuntimeError, match="no memory left"):
        make(Fails, callbacks=[spy]).fit(IMAGES)
    assert not ends
    make(callbacks=[spy]).fit(IMAGES)
    assert ends == [1]
