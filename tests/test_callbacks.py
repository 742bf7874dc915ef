"""Callbacks of a user: what they are, how they are named, and what they monitor."""

import math
import warnings

import numpy as np
import pytest
from estimators import ESTIMATORS, NAMES, make_stripes
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, Freezer, LRScheduler
from toy import IMAGES, ToyModule, make, spied

from skdeepcluster.callbacks import CollapseWarning
from skdeepcluster.statdec.callbacks import ClampingWarning

HISTORY = "the history does not have.*'epoch', .*'loss', .*'loss_best'"


@pytest.mark.parametrize(
    "callback",
    [
        1,
        int,
        None.__class__,
        "EarlyStopping",
        ("a",),
        ("a", 1),
        ("a", Callback(), 2),
        (1, Callback()),
        [Callback()],
    ],
)
def test_what_is_no_callback_is_refused_by_name(callback):
    estimator = make(callbacks=[Callback(), callback])
    with pytest.raises(TypeError, match=r"callbacks\[1\]=.* is no callback of skorch"):
        estimator.fit(IMAGES)
    assert not hasattr(estimator, "labels_")


@pytest.mark.parametrize(
    "callback", [Callback, Callback(), ("mine", Callback()), ("mine", Callback), None]
)
def test_what_skorch_takes_is_taken(callback):
    assert make(callbacks=[callback]).fit(IMAGES).n_iter_ == 2


OWN = ["collapse", "converged", "lr_scheduler", "bar", "sklearn", "CollapseWarning"]


@pytest.mark.parametrize("name", OWN)
def test_names_of_a_user_do_not_collide_with_ours(name):
    model = make(callbacks=[(name, Callback())], verbose=1).fit(IMAGES)
    assert model.n_iter_ == 2


def test_a_callback_of_ours_can_be_passed_again():
    twice = [CollapseWarning(threshold=0.5), CollapseWarning()]
    assert make(callbacks=twice).fit(IMAGES).n_iter_ == 2


@pytest.mark.parametrize(
    ("callback", "monitor"),
    [
        (EarlyStopping(), "valid_loss"),
        (Checkpoint(), "valid_loss_best"),
        (LRScheduler("ReduceLROnPlateau"), "train_loss"),
        (EarlyStopping(monitor="typo"), "typo"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_monitor_that_there_is_not_names_those_that_there_are(callback, monitor):
    name = type(callback).__name__
    with pytest.raises(ValueError, match=f"{name} monitors '{monitor}', .*{HISTORY}"):
        make(callbacks=[callback]).fit(IMAGES)


def test_an_error_of_a_callback_that_monitors_stays_its_own():
    class Fails(Callback):
        monitor = "loss"

        def on_epoch_end(self, net, **kwargs):
            raise KeyError("a key of its own")

    with pytest.raises(KeyError, match="a key of its own"):
        make(callbacks=[Fails()]).fit(IMAGES)


def test_best_epochs_are_marked_for_monitors(tmp_path):
    def look(net):
        return [(row["loss"], row["loss_best"]) for row in net.history]

    checkpoint = Checkpoint(monitor="loss_best", dirname=tmp_path)
    callbacks = [checkpoint, EarlyStopping(monitor="loss", patience=9)]
    values, estimator = spied(look, "on_train_end", max_epochs=5, lr=0.3)
    losses, best = zip(*values[-1], strict=True)
    assert best == tuple(
        losses[i] < min(losses[:i], default=math.inf) for i in range(5)
    )
    assert best[0] is True and "loss_best" not in estimator.history_[0]

    make(callbacks=callbacks).fit(IMAGES)
    assert (tmp_path / "params.pt").exists()


def test_a_pattern_that_freezes_nothing_is_refused():
    with pytest.raises(ValueError, match=r"'online\*' of Freezer .*'backbone\*'"):
        make(callbacks=[Freezer(["backbone*", "online*"])]).fit(IMAGES)
    with pytest.raises(ValueError, match=r"of Freezer fits no parameter"):
        make(callbacks=[Freezer(lambda name: name == "typo")]).fit(IMAGES)


def test_a_pattern_that_fits_freezes():
    weights = []

    class Watched(ToyModule):
        def refresh(self, embed):
            weights.append(self.backbone[2].weight.clone().numpy())
            return super().refresh(embed)

    make(Watched, callbacks=[Freezer("backbone*weight")]).fit(IMAGES)
    assert np.array_equal(weights[0], weights[-1]) and len(weights) == 3


# -- parameters that reach skorch and the optimiser ------------------------------------


@pytest.mark.parametrize(
    ("net_params", "error"),
    [
        ({"optimizer__weight_decay": -1}, ValueError),
        ({"optimizer__foo": 1}, TypeError),
        ({"optimizer": 3}, TypeError),
        ({"iterator_train__num_workers": -1}, ValueError),
        ({"iterator_train__foo": 1}, TypeError),
    ],
)
def test_parameters_of_the_net_that_fail_are_named(net_params, error):
    (key,) = net_params
    with pytest.raises(error, match=f"net_params=.*{key}.* cannot be used: "):
        make(net_params=net_params).fit(IMAGES)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=NAMES)
def test_a_rate_beyond_float32_is_named(estimator):
    estimator = clone(estimator).set_params(lr=1e38)
    with pytest.raises(FloatingPointError, match=r"Lower lr="):
        estimator.fit(make_stripes()[0])


# -- warnings of a training that goes on -----------------------------------------------


class FakeNet:
    lr, batch_size = 0.1, 4

    class module_:
        class p:
            tau_plus, temperature = 0.1, 0.5

    def __init__(self, rows):
        self.history = [{"epoch": i, **row} for i, row in enumerate(rows, start=1)]


@pytest.mark.parametrize(
    ("callback", "bad", "good"),
    [
        (CollapseWarning(patience=1), {"feature_spread": 0}, {"feature_spread": 1}),
        (ClampingWarning(), {"clamped": 0.9}, {"clamped": 0.1}),
    ],
)
@pytest.mark.parametrize(
    ("before", "expected"), [([0, 0], 1), ([0, 1], 0), ([1, 0], 0)]
)
def test_what_was_warned_of_is_not_warned_of_again(
    callback, bad, good, before, expected
):
    net = FakeNet([bad if warned else good for warned in before] + [bad])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clone_of = type(callback)(**callback.get_params())
        clone_of.on_train_begin(net)
        clone_of.on_epoch_end(net)
    assert [w.category for w in caught] == [ConvergenceWarning] * expected
