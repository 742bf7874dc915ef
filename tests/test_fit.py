"""Around a training: callbacks, interrupts, errors, warnings, and what is shown."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import EarlyStopping
from toy import IMAGES, STEPS, Spy, Toy, ToyModule, make, make_images, stops

from skdeepcluster import callbacks
from skdeepcluster.callbacks import CollapseWarning

# -- callbacks -------------------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False])
def test_early_stopping(named):
    stopping = EarlyStopping(
        monitor="loss", patience=2, threshold=1e3, threshold_mode="abs"
    )
    callbacks = [("stop", stopping)] if named else [stopping]
    estimator = make(max_epochs=9, callbacks=callbacks).fit(IMAGES)
    # the first epoch is the best of all, the two that follow are one too many
    assert estimator.n_iter_ == len(estimator.history_) == 3
    np.testing.assert_array_equal(estimator.predict(IMAGES), estimator.labels_)
    assert callbacks in ([("stop", stopping)], [stopping])


def test_callbacks_can_be_used_again():
    values = []
    callbacks = [Spy("on_epoch_end", lambda net: values.append(len(net.history)))]
    estimator = make(callbacks=callbacks).fit(IMAGES)
    estimator.fit(IMAGES)
    assert values == [1, 2, 1, 2]
    assert len(callbacks) == 1


# -- errors ----------------------------------------------------------------------------


class Fails(ToyModule):
    def refresh(self, embed):
        raise RuntimeError("out of memory, say")


class FailsLater(ToyModule):
    def after_step(self, batch):
        raise RuntimeError("out of memory, say")


@pytest.mark.parametrize("module", [Fails, FailsLater])
def test_the_bar_is_closed_by_an_error_and_does_not_hide_it(monkeypatch, module):
    tqdm = pytest.importorskip("tqdm.auto").tqdm
    bars, closed, close = [], [], tqdm.close

    def spy(bar):
        closed.append(bar)
        close(bar)

    def init(bar, *args, **kwargs):
        bars.append(bar)
        good(bar, *args, **kwargs)

    good = tqdm.__init__
    monkeypatch.setattr(tqdm, "__init__", init)
    monkeypatch.setattr(tqdm, "close", spy)
    monkeypatch.setattr(callbacks, "shows_bars", lambda: True)
    with pytest.raises(RuntimeError, match="out of memory, say"):
        make(module, verbose=1).fit(IMAGES)
    # the first step may fail before the bar is there
    assert len(bars) == (module is FailsLater) and set(bars) <= set(closed)


# -- warnings --------------------------------------------------------------------------


class Constant(ToyModule):
    """The same features for every image, and a spread by the epoch."""

    def encode(self, x):
        return super().encode(x) * 0 + 0.5

    def refresh(self, embed):
        super().refresh(embed)
        return {"feature_spread": 0.0}


def caught_by(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return caught


def test_collapse_is_seen_once_and_with_a_remedy():
    caught = caught_by(lambda: make(Constant, max_epochs=8).fit(IMAGES))
    collapse, empty = [str(w.message) for w in caught]
    for word in ("epoch 5", "spread is 0.000", "Lower lr=0.01", "batch_size=32"):
        assert word in collapse
    assert empty.startswith("2 of 3 clusters are empty: labels run from 0 to 0.")
    assert all(w.category is ConvergenceWarning for w in caught)


class FakeNet:
    lr, batch_size = 0.1, 4

    def __init__(self):
        self.history = []


@pytest.mark.parametrize(
    ("spreads", "expected"),
    [
        ([0.01] * 2, []),  # too early to tell
        ([0.01] * 5, [3]),
        ([1.0, 1.0, 1.0, 0.04, 0.01], [4]),
        ([1.0, 1.0, 1.0, 0.06, 0.05], []),
        ([None] * 5, []),
    ],
)
def test_collapse_warning(spreads, expected):
    callback, net, warned = CollapseWarning(threshold=0.05, patience=3), FakeNet(), []
    callback.on_train_begin(net)
    for epoch, spread in enumerate(spreads, start=1):
        row = {"epoch": epoch}
        net.history.append(row if spread is None else {**row, "feature_spread": spread})
        caught = caught_by(lambda: callback.on_epoch_end(net))
        warned += [epoch] * len(caught)
    assert warned == expected


def here(function):
    """Line of the definition of a function, which its only call follows."""
    return function.__code__.co_firstlineno + 1


def places(function):
    return {(w.filename, w.lineno) for w in caught_by(function)}


def test_warnings_point_at_the_call_of_fit():
    estimator = make(Constant, max_epochs=6)

    def call():
        estimator.fit(IMAGES)

    assert places(call) == {(__file__, here(call))}

    def call():
        estimator.fit_predict(IMAGES)

    assert places(call) == {(__file__, here(call))}


def test_warnings_point_at_the_call_of_predict():
    estimator = make().fit(IMAGES)
    for method in (estimator.predict, estimator.transform, estimator.score):

        def call(method=method):
            method(IMAGES[:1] / 12.5)  # as dark as no training image

        assert places(call) == {(__file__, here(call))}


def test_warnings_point_at_the_call_of_a_search():
    class Constantly(Toy):
        module = Constant

    search = GridSearchCV(
        Constantly(**make().get_params(deep=False)),
        {"n_clusters": [2, 3]},
        cv=2,
        scoring=lambda estimator, X, y=None: 1.0,
    )

    def call():
        search.fit(IMAGES)

    assert places(call) == {(__file__, here(call))}


def test_warnings_in_a_callback_point_at_the_callback():
    fitted = make().fit(IMAGES)

    def call(net):
        fitted.predict(IMAGES[:1] / 12.5)  # as dark as no training image

    estimator = make(max_epochs=1, callbacks=[Spy("on_epoch_end", call)])
    assert places(lambda: estimator.fit(IMAGES)) == {(__file__, here(call))}


# -- what is shown ---------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(callbacks, "shows_bars", lambda: True)


@pytest.mark.usefixtures("terminal")
def test_bar_counts_steps_and_epochs(capsys):
    make(verbose=1, max_epochs=3).fit(IMAGES)
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{3 * STEPS}/{3 * STEPS}" in err and "epoch=3/3" in err
    for part in ("Toy", "loss=", "size=", "mean="):
        assert part in err


@pytest.mark.usefixtures("terminal")
def test_bar_of_a_fit_that_stops_early(capsys):
    make(verbose=1, max_epochs=9, callbacks=[stops("on_epoch_end", 2)]).fit(IMAGES)
    assert f"{2 * STEPS}/{9 * STEPS}" in capsys.readouterr().err


# -- epochs by the size of the data ----------------------------------------------------


@pytest.mark.parametrize(("n", "expected"), [(32, 6), (33, 3), (64, 3), (128, 2)])
def test_auto_epochs_scale_by_steps(n, expected):
    estimator = make(max_epochs="auto").fit(make_images(n))
    assert estimator.n_iter_ == expected
    assert estimator.net_.module_.clock.max_epochs == expected
    assert estimator.net_.module_.clock.step >= 6
    assert estimator.max_epochs == "auto"


# -- CUDA ------------------------------------------------------------------------------


def on_cpu(estimator):
    estimator = pickle.loads(pickle.dumps(estimator))
    estimator.net_.module_.cpu()
    estimator.net_.device = "cpu"
    return estimator


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_cuda(channels, precision):
    images = make_images(channels=channels)
    estimator = make(device="cuda", precision=precision).fit(images)
    assert estimator.device_.startswith("cuda")
    assert all(p.is_cuda for p in estimator.net_.module_.parameters())
    np.testing.assert_array_equal(estimator.predict(images), estimator.labels_)
    twin = on_cpu(estimator)
    np.testing.assert_allclose(
        twin.transform(images), estimator.transform(images), atol=1e-2
    )
    assert np.mean(twin.predict(images) == estimator.labels_) > 0.95


@pytest.mark.gpu
def test_cuda_leaves_the_generators_alone():
    torch.manual_seed(3)
    torch.cuda.manual_seed_all(3)
    before = torch.cuda.get_rng_state(), torch.get_rng_state()
    make(device="cuda").fit(IMAGES)
    assert torch.equal(torch.cuda.get_rng_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.gpu
def test_auto_takes_cuda_and_bfloat16():
    estimator = make(device="auto", precision="auto").fit(IMAGES)
    assert estimator.device_.startswith("cuda")
    assert estimator.net_.bfloat16 == torch.cuda.is_bf16_supported()
