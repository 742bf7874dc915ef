"""Several trainings of MFCVAE, of which the one with the highest bound is kept."""

import os
import pickle
import signal
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from small_mfcvae import ENOUGH, convergence_warnings, fit, make
from toy import Spy

import skdeepcluster
from skdeepcluster._engine.randomness import make_seed
from skdeepcluster.callbacks import SKLEARN_CALLBACKS

FEW = {"n_init": 3, "max_epochs": 4}


@pytest.fixture(scope="module")
def X(two_factors):
    return two_factors[0]


@pytest.fixture(scope="module")
def alone(X):
    """The three trainings, each as a fit of its own."""
    others = np.random.RandomState(make_seed(0))
    seeds = [0, others, others]
    return [fit(X, max_epochs=4, random_state=seed) for seed in seeds]


def quietly(model, X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X)


def history(model):
    clock = ("seconds", "images_per_second")
    return [
        {key: row[key] for key in row if key not in clock} for row in model.history_
    ]


def assert_same_fit(one, other, X):
    np.testing.assert_array_equal(one.labels_, other.labels_)
    np.testing.assert_array_equal(one.facet_labels_, other.facet_labels_)
    np.testing.assert_array_equal(one.score_samples(X), other.score_samples(X))
    for mine, its in zip(one.means_, other.means_, strict=True):
        np.testing.assert_array_equal(mine, its)
    np.testing.assert_equal(history(one), history(other))


def test_the_training_with_the_highest_bound_is_kept_whole(X, alone):
    model = fit(X, **FEW)
    assert model.init_scores_ == pytest.approx([m.score(X) for m in alone], abs=1e-3)
    assert len(set(model.init_scores_)) == 3
    best = np.argmax(model.init_scores_)
    assert model.score(X) == pytest.approx(max(model.init_scores_), abs=1e-3)
    assert_same_fit(model, alone[best], X)
    np.testing.assert_array_equal(model.predict_facets(X), model.facet_labels_)


def test_a_later_training_that_is_worse_changes_nothing(X, alone):
    """Of two trainings the first is kept where it is the better one."""
    for number in range(2):
        others = np.random.RandomState(make_seed(number))
        one, other = (fit(X, max_epochs=4, random_state=s) for s in (number, others))
        wanted = max(one, other, key=lambda model: model.score(X))
        model = fit(X, max_epochs=4, n_init=2, random_state=number)
        assert_same_fit(model, wanted, X)


def test_one_training_has_no_scores(X):
    assert not hasattr(fit(X), "init_scores_")
    model = fit(X, **FEW)
    assert not hasattr(model.set_params(n_init=1).fit(X), "init_scores_")


def test_the_same_seed_gives_the_same(X):
    one, same = fit(X, **FEW), fit(X, **FEW)
    assert one.init_scores_ == same.init_scores_
    assert_same_fit(one, same, X)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert_same_fit(fit(X, **FEW, random_state=np.random.RandomState(0)), one, X)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_best_of_several_finds_both_factors(X, two_factors):
    model = make(**ENOUGH, n_clusters=(4, 3), n_init=2).fit(X)
    scores = skdeepcluster.metrics.facet_label_scores(
        model.facet_labels_, two_factors[1]
    )
    assert scores["purity"].max(axis=0).min() == 1


def test_copies_pickles_and_files(X, tmp_path):
    model = fit(X, **FEW)
    assert clone(model).get_params() == model.get_params()
    back = pickle.loads(pickle.dumps(model))
    assert back.init_scores_ == model.init_scores_
    np.testing.assert_array_equal(back.predict_facets(X), model.facet_labels_)
    model.save(tmp_path / "model.safetensors")
    loaded = skdeepcluster.load(tmp_path / "model.safetensors")
    assert loaded.init_scores_ == model.init_scores_
    np.testing.assert_array_equal(loaded.predict_facets(X), model.facet_labels_)


def test_only_clusters_of_the_kept_training_are_warned_of(X):
    plain = np.full_like(X, 7)  # images that are all alike share a cluster
    messages = convergence_warnings(make(n_init=3).fit, plain)
    empty = [message for message in messages if "clusters are empty" in message]
    assert len(empty) == 2  # of two facets


def test_each_training_is_announced(X, capsys):
    fit(X, n_init=2, verbose=2)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "training" in line] == [
        "MFCVAE, training 1/2:",
        "MFCVAE, training 2/2:",
    ]
    assert sum("epoch 2/2" in line for line in lines) == 2


def test_features_are_computed_once(X):
    class Network(torch.nn.Module):
        seen = 0

        def forward(self, x):
            Network.seen += len(x)
            return x.flatten(1)[:, ::8]

    params = {"backbone": Network(), "trainable": "none", "latent_dims": 2}
    fit(X, **params)
    once, Network.seen = Network.seen, 0
    model = fit(X, **params, n_init=2)
    assert Network.seen == once
    np.testing.assert_array_equal(model.predict_facets(X), model.facet_labels_)


# -- callbacks, interrupts and trainings that go on ------------------------------------


def at_training(number, act):
    """A callback that acts at each end of an epoch of one training, from 1."""
    seen = []

    def look(net):
        seen.extend([net] * (net not in seen))
        if len(seen) == number:
            act(net)

    return Spy("on_epoch_end", look)


def interrupt(net):
    if len(net.history) == 2:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", [1, 2])
def test_an_interrupt_keeps_the_best_so_far(X, alone, number):
    model = make(**FEW, callbacks=[at_training(number, interrupt)])
    with pytest.raises(KeyboardInterrupt, match="interrupted after epoch") as caught:
        quietly(model, X)
    assert caught.value.estimator is model
    assert len(model.init_scores_) == number  # the last of them is not whole
    best = np.argmax(model.init_scores_)
    assert model.n_iter_ == (2 if best == number - 1 else 4)
    assert model.score(X) == pytest.approx(max(model.init_scores_), abs=1e-3)
    if number == 2:
        assert model.init_scores_[0] == pytest.approx(alone[0].score(X), abs=1e-3)


def test_a_training_that_learnt_nothing_yet_is_none(X, alone):
    begun = []

    def begin(net):
        begun.append(net)
        if len(begun) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    model = make(**FEW, callbacks=[Spy("on_train_begin", begin)])
    with pytest.raises(KeyboardInterrupt, match="interrupted after epoch 4") as caught:
        quietly(model, X)
    assert caught.value.estimator is model and len(model.init_scores_) == 1
    assert_same_fit(model, alone[0], X)


def test_an_interrupt_before_anything_was_learnt_changes_nothing(X):
    begin = Spy("on_train_begin", lambda net: os.kill(os.getpid(), signal.SIGINT))
    model = make(**FEW, callbacks=[begin])
    before = dict(vars(model))
    with pytest.raises(KeyboardInterrupt, match="as it was"):
        quietly(model, X)
    assert vars(model) == before


def fail(net):
    if len(net.history) == 3:
        raise RuntimeError("killed")


def test_trainings_go_on_from_a_checkpoint(X, tmp_path):
    folder = {"checkpoint": tmp_path, "checkpoint_every": 0}
    whole = fit(X, **FEW)
    model = make(**FEW, **folder, callbacks=[at_training(2, fail)])
    before = dict(vars(model))
    with pytest.raises(RuntimeError, match="killed"):
        quietly(model, X)
    assert vars(model) == before
    epochs = []
    count = Spy("on_epoch_end", lambda net: epochs.append(len(net.history)))
    model = make(**FEW, **folder, callbacks=[count])
    quietly(model, X)
    # the first was done, and the second had saved two epochs
    assert epochs == [3, 4, 1, 2, 3, 4]
    assert model.checkpoint == tmp_path
    assert model.init_scores_ == whole.init_scores_
    assert_same_fit(model, whole, X)


def test_no_name_of_a_checkpoint_is_refused(X):
    with pytest.raises(ValueError, match="checkpoint='' names no folder"):
        make(**FEW, checkpoint="").fit(X)


def test_only_the_kept_training_goes_on(X, alone):
    model = fit(X, **FEW, warm_start=True)
    best = int(np.argmax(model.init_scores_))
    epochs = []
    count = Spy("on_epoch_end", lambda net: epochs.append(len(net.history)))
    quietly(model.set_params(max_epochs=6, callbacks=[count]), X)
    assert epochs == [5, 6]
    assert history(model)[:4] == history(alone[best])


@pytest.mark.skipif(not SKLEARN_CALLBACKS, reason="scikit-learn has none before 1.9")
def test_callbacks_of_scikit_learn_see_the_trainings(X):
    class Tasks:
        def __init__(self):
            self.begun, self.ended, self.around = [], [], []

        def setup(self, estimator, context):
            self.around.append("setup")

        def teardown(self, estimator, context):
            self.around.append("teardown")

        def on_fit_task_begin(self, estimator, context):
            self.begun.append((context.task_name, context.task_id))

        def on_fit_task_end(self, estimator, context):
            self.ended.append((context.task_name, context.task_id))

    tasks = Tasks()
    quietly(make(n_init=2).set_callbacks(tasks), X)
    epochs = [("epoch", 0), ("epoch", 1)]
    trainings = [[("training", i), *epochs] for i in (0, 1)]
    assert tasks.begun == [("fit", 0), *trainings[0], *trainings[1]]
    assert tasks.ended == [
        *epochs,
        ("training", 0),
        *epochs,
        ("training", 1),
        ("fit", 0),
    ]
    assert tasks.around == ["setup", "teardown"]


@pytest.mark.parametrize("n_init", [0, -1, 1.5, "auto"])
def test_numbers_that_are_refused(X, n_init):
    with pytest.raises(ValueError, match="'n_init'"):
        make(n_init=n_init).fit(X)
