"""A training that was killed goes on, and ends as the one that was not."""

import copy
import os
import pickle
import signal
import warnings
from functools import partial, wraps
from pathlib import Path

import numpy as np
import pytest
import torch
from estimators import ESTIMATORS, each_estimator, fitted, make_stripes
from sklearn.base import clone
from skorch.callbacks import Checkpoint as SkorchCheckpoint
from skorch.callbacks import LoadInitState
from toy import IMAGES, Spy, ToyModule, make, stops

import skdeepcluster
from skdeepcluster import GCC
from skdeepcluster._engine.checkpoint import Checkpoint, facts_of
from skdeepcluster._input.layouts import as_images
from skdeepcluster._storage.container import read
from skdeepcluster._storage.digest import digest
from skdeepcluster._storage.encoding import unpack
from skdeepcluster.gcc import Generated
from skdeepcluster.gcc.diffusion import ConditionalDiffusion
from skdeepcluster.gcc.diffusion_training import DiffusionObjective

X = make_stripes()[0]
NAMES = [type(estimator).__name__ for estimator in ESTIMATORS]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def saving(estimator, folder, **params):
    """A copy of an estimator that saves every epoch."""
    params = {"checkpoint": folder, "checkpoint_every": 0, **params}
    return clone(estimator).set_params(**params)


def quietly(estimator, X=X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(X)


def assert_same_fit(one, other, X=X):
    np.testing.assert_array_equal(one.labels_, other.labels_)
    np.testing.assert_array_equal(one.transform(X), other.transform(X))
    clock = ("seconds", "images_per_second")
    rows = [
        [{key: row[key] for key in row if key not in clock} for row in model.history_]
        for model in (one, other)
    ]
    np.testing.assert_equal(*rows)


def dies_at(owner, name, count, before=True):
    """Make a method kill its process when it is called the ``count``-th time."""
    method, calls = getattr(owner, name), []

    def deadly(*args, **kwargs):
        calls.append(name)
        if before and len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        result = method(*args, **kwargs)
        if not before and len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


def killed(estimator, *where, X=X, **how):
    """Fit in a child that dies at a call; True if it died of that."""
    child = os.fork()
    if child == 0:
        try:
            dies_at(*where, **how)
            quietly(estimator, X)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


# -- kills -----------------------------------------------------------------------------


@needs_fork
@each_estimator
def test_a_killed_training_goes_on_as_if_nothing_had_happened(estimator, tmp_path):
    whole = fitted(type(estimator).__name__)
    model = saving(estimator, tmp_path)
    # in the first write, in the second one before the file is there, and after it
    assert killed(model, os, "fsync", 1)
    assert not (tmp_path / "training.safetensors").exists()
    assert killed(model, os, "replace", 2)
    assert killed(model, os, "replace", 1, before=False)
    assert_same_fit(quietly(model), whole)
    assert [path.name for path in tmp_path.iterdir()] == ["training.safetensors"]


LONG_BANK = Generated(denoiser="mlp", steps=120, batch_size=16, sampling_steps=2)


def rounds(**params):
    gcc = next(model for model in ESTIMATORS if isinstance(model, GCC))
    params = {"max_epochs": 5, "pretraining": 0.4, "n_rounds": 2, **params}
    return clone(gcc).set_params(bank=LONG_BANK, tol=0, max_change=1, **params)


@pytest.fixture(scope="module")
def whole_rounds():
    return quietly(rounds())


@needs_fork
@pytest.mark.parametrize(
    "where",
    [
        (DiffusionObjective, "losses", 3),  # in the first of its epochs of 60 steps
        (DiffusionObjective, "losses", 70),
        (DiffusionObjective, "losses", 130),  # of the second round
        (ConditionalDiffusion, "sample_all", 1),
        (ConditionalDiffusion, "sample_all", 2),
    ],
    ids=["first steps", "second epoch", "second round", "sampling", "sampling again"],
)
def test_a_diffusion_model_goes_on_too(where, whole_rounds, tmp_path):
    whole = whole_rounds
    model = saving(rounds(), tmp_path)
    assert killed(model, *where)
    steps = []
    losses = DiffusionObjective.losses

    def counted(self, batch):
        steps.append(self.clock.step)
        return losses(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiffusionObjective, "losses", counted)
        quietly(model)
    assert_same_fit(model, whole)
    images = [m.sample(2, random_state=0)[0] for m in (model, whole)]
    np.testing.assert_array_equal(*images)
    assert steps[:1] == {3: [0], 70: [60], 130: [0], 1: [0], 2: []}[where[2]]
    # of both trainings only what was lost is run again
    lost = {3: 160, 70: 100, 130: 40, 1: 40, 2: 0}
    assert len(steps) == lost[where[2]]


def test_saving_changes_nothing(tmp_path):
    for estimator, name in zip(ESTIMATORS, NAMES, strict=True):
        assert_same_fit(quietly(saving(estimator, tmp_path / name)), fitted(name))


def test_a_training_that_is_over_is_not_run_again(tmp_path):
    first = quietly(saving(ESTIMATORS[0], tmp_path))
    epochs = []
    spy = Spy("on_epoch_begin", lambda net: epochs.append(1))
    again = quietly(saving(ESTIMATORS[0], str(tmp_path), callbacks=[spy]))
    assert not epochs
    assert_same_fit(again, first)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_was_interrupted_goes_on(number, tmp_path):
    class Interrupted(ToyModule):
        def after_step(self, batch):
            if self.clock.step == 7:
                os.kill(os.getpid(), number)

    before = signal.signal(number, signal.default_int_handler)
    try:
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
        model = make(Interrupted, max_epochs=6, checkpoint=tmp_path, checkpoint_every=0)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            model.fit(IMAGES)
    finally:
        signal.signal(number, before)
    assert model.n_iter_ == 3
    going_on = make(max_epochs=6, checkpoint=tmp_path).fit(IMAGES)
    assert_same_fit(going_on, make(max_epochs=6).fit(IMAGES), IMAGES)


def test_a_training_of_unknown_seed_goes_on(tmp_path):
    model = make(random_state=None, checkpoint=tmp_path, checkpoint_every=0)
    first = model.fit(IMAGES)
    again = clone(model).fit(IMAGES)
    assert_same_fit(first, again, IMAGES)


def test_writes_are_some_seconds_apart(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Checkpoint, "save", lambda self, state: saved.append(state))
    make(max_epochs=4, checkpoint=tmp_path).fit(IMAGES)
    assert len(saved) == 1 and saved[0]["ended"]
    make(max_epochs=4, checkpoint=tmp_path, checkpoint_every=0).fit(IMAGES)
    assert len(saved) == 1 + 4 + 1


# -- more epochs -----------------------------------------------------------------------


@each_estimator
def test_epochs_can_be_added(estimator, tmp_path):
    epochs = estimator.max_epochs
    # no method may find that it converged before
    calm = {"tol": 0.0} if hasattr(estimator, "tol") else {}
    calm |= {"max_change": 1.0} if hasattr(estimator, "max_change") else {}
    model = saving(estimator, tmp_path, **calm)
    first = quietly(clone(model))
    more = quietly(clone(model).set_params(max_epochs=epochs + 3))
    assert more.n_iter_ == epochs + 3
    assert [row["epoch"] for row in more.history_] == list(range(1, epochs + 4))
    assert more.history_[:epochs] == first.history_
    rates = [row["lr"] for row in more.history_]
    if more.net_.module_.schedule() is not None:
        assert rates[epochs] > rates[epochs - 1]
        assert rates[epochs] > rates[epochs + 2] > 0
    assert not np.array_equal(more.transform(X), first.transform(X))
    # in one fit after the other, too, and killed or not
    kept = quietly(clone(estimator).set_params(warm_start=True, **calm))
    assert_same_fit(kept, first)
    assert_same_fit(quietly(kept.set_params(max_epochs=epochs + 3)), more)


def test_epochs_that_are_added_to_gcc_are_a_further_round(tmp_path):
    model = saving(rounds(max_epochs=4, pretraining=0.5, n_rounds=1), tmp_path)
    assert quietly(clone(model)).n_rounds_ == 1
    more = quietly(clone(model).set_params(max_epochs=6))
    assert more.n_rounds_ == 2 and len(more.bank_agreement_) == 2
    assert [row["round"] for row in more.history_] == [0, 0, 1, 1, 2, 2]


@needs_fork
def test_epochs_that_are_added_can_be_killed(tmp_path):
    model = saving(
        rounds(max_epochs=4, pretraining=0.5, n_rounds=1), tmp_path / "whole"
    )
    quietly(clone(model))
    whole = quietly(clone(model).set_params(max_epochs=6))
    model = saving(
        rounds(max_epochs=4, pretraining=0.5, n_rounds=1), tmp_path / "killed"
    )
    quietly(clone(model))
    longer = clone(model).set_params(max_epochs=6)
    assert killed(longer, DiffusionObjective, "losses", 20)
    assert killed(longer, os, "replace", 2)
    assert_same_fit(quietly(longer), whole)


@needs_fork
def test_epochs_can_be_added_before_the_plan_is_done(tmp_path):
    model = saving(ESTIMATORS[0], tmp_path, max_epochs=4)
    assert killed(model, os, "replace", 3)
    more = quietly(clone(model).set_params(max_epochs=6))
    plan = saving(ESTIMATORS[0], tmp_path / "plan", max_epochs=4)
    quietly(clone(plan))
    assert_same_fit(more, quietly(clone(plan).set_params(max_epochs=6)))


def test_fewer_epochs_are_refused(tmp_path):
    model = make(max_epochs=3, checkpoint=tmp_path)
    model.fit(IMAGES)
    with pytest.raises(ValueError, match="planned for 3 epochs"):
        model.set_params(max_epochs=2).fit(IMAGES)


def test_early_stopping_is_an_end_until_more_epochs_are_asked_for(tmp_path):
    stop = [stops("on_epoch_end", 2)]
    model = make(max_epochs=4, callbacks=stop, checkpoint=tmp_path)
    assert model.fit(IMAGES).n_iter_ == 2
    assert make(max_epochs=4, checkpoint=tmp_path).fit(IMAGES).n_iter_ == 2
    assert make(max_epochs=5, checkpoint=tmp_path).fit(IMAGES).n_iter_ == 5


# -- warm starts -----------------------------------------------------------------------


def test_a_cold_start_begins_anew():
    model = make(max_epochs=2).fit(IMAGES)
    assert model.set_params(max_epochs=4).fit(IMAGES).n_iter_ == 4
    assert_same_fit(model, make(max_epochs=4).fit(IMAGES), IMAGES)


def test_a_warm_start_needs_the_same_data_and_parameters():
    model = make(max_epochs=2, warm_start=True).fit(IMAGES)
    labels = model.labels_
    with pytest.raises(ValueError, match="differs in X"):
        model.fit(255 - IMAGES)
    with pytest.raises(ValueError, match="differs in lr"):
        model.set_params(lr=0.5).fit(IMAGES)
    np.testing.assert_array_equal(model.labels_, labels)
    model.set_params(lr=1e-2, max_epochs=3).fit(IMAGES)
    assert model.n_iter_ == 3


def test_a_warm_start_that_fails_changes_nothing():
    def fail(net):
        if len(net.history) == 6:
            raise RuntimeError("no memory left")

    model = make(max_epochs=2, warm_start=True).fit(IMAGES)
    model.set_params(max_epochs=10, callbacks=[Spy("on_epoch_end", fail)])
    with pytest.raises(RuntimeError):
        model.fit(IMAGES)
    model.set_params(max_epochs=4, callbacks=None).fit(IMAGES)
    once = make(max_epochs=2, warm_start=True).fit(IMAGES)
    assert_same_fit(model, once.set_params(max_epochs=4).fit(IMAGES), IMAGES)


def test_a_random_state_may_have_moved():
    model = make(max_epochs=2, warm_start=True, random_state=np.random.RandomState(3))
    assert model.fit(IMAGES).set_params(max_epochs=4).fit(IMAGES).n_iter_ == 4


def test_a_copy_begins_anew():
    model = make(max_epochs=2, warm_start=True).fit(IMAGES)
    assert clone(model).set_params(max_epochs=3).fit(IMAGES).n_iter_ == 3
    again = pickle.loads(pickle.dumps(quietly(saving(ESTIMATORS[0], None))))
    assert "_training" not in vars(again)


# -- what is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"n_clusters": 2}, "n_clusters"),
        ({"lr": 0.5, "random_state": 4}, "lr, random_state"),
        ({"augment": "none"}, "augment"),
        ({"random_state": np.random.RandomState(0)}, "random_state"),
        ({"net_params": {"optimizer__weight_decay": 0.1}}, "net_params"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(changed, named, tmp_path):
    make(checkpoint=tmp_path).fit(IMAGES)
    other = make(checkpoint=tmp_path, **changed)
    with pytest.raises(ValueError, match=f"differs in {named}\\. "):
        other.fit(IMAGES)
    with pytest.raises(ValueError, match="differs in X"):
        make(checkpoint=tmp_path).fit(IMAGES[::-1].copy())


class Darker:
    def __init__(self, share):
        self.share = share

    def __call__(self, x):
        return self.share * x


def darker(x, share):
    return share * x


darker_itself = darker


def graph(function):
    """A network of one layer and another function after it, without its class."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 2, bias=False)
            torch.nn.init.ones_(self.layer.weight)

        def forward(self, x):
            return function(self.layer(x))

    return torch.fx.symbolic_trace(Net())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (partial(darker, share=0.5), partial(darker, share=0.9)),
        (Darker(0.5), Darker(0.9)),
        (lambda x: 0.9 * x, lambda x: 0.5 * x),
    ],
    ids=["partial", "attribute", "lambda"],
)
def test_a_checkpoint_of_another_augmentation_is_refused(one, other, tmp_path):
    make(checkpoint=tmp_path, augment=one).fit(IMAGES)
    with pytest.raises(ValueError, match="differs in augment"):
        make(checkpoint=tmp_path, augment=other).fit(IMAGES)
    make(checkpoint=tmp_path, augment=copy.deepcopy(one)).fit(IMAGES)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "folder", "link"])
def test_a_damaged_checkpoint_is_never_read(damage, tmp_path):
    make(checkpoint=tmp_path).fit(IMAGES)
    path = tmp_path / "training.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    if damage in ("folder", "link"):
        path.rename(tmp_path / "other")
        if damage == "folder":
            path.mkdir()
        else:
            path.symlink_to(tmp_path / "other")
    else:
        path.write_bytes({"cut": data[:-1], "flipped": data, "empty": b""}[damage])
    with pytest.raises(skdeepcluster.FileError, match="training.safetensors"):
        make(checkpoint=tmp_path).fit(IMAGES)


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    left = tmp_path / ".training.safetensors.1234.tmp"
    left.write_bytes(b"half")
    make(checkpoint=tmp_path).fit(IMAGES)
    assert [path.name for path in tmp_path.iterdir()] == ["training.safetensors"]


def test_an_empty_name_is_not_the_current_folder():
    with pytest.raises(ValueError, match="names no folder"):
        make(checkpoint="").fit(IMAGES)


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("text")
    with pytest.raises(OSError, match="file"):
        make(checkpoint=path).fit(IMAGES)


def test_history_that_cannot_be_saved_is_named(tmp_path):
    spy = Spy("on_epoch_end", lambda net: net.history.record("mine", object()))
    with pytest.raises(TypeError, match="mine"):
        make(checkpoint=tmp_path, callbacks=[spy]).fit(IMAGES)


@pytest.mark.parametrize(
    "callback",
    [LoadInitState(None), SkorchCheckpoint(f_optimizer=None, use_safetensors=True)],
)
def test_skorchs_own_way_to_go_on_is_refused(callback):
    with pytest.raises(ValueError, match="Pass checkpoint="):
        make(callbacks=[callback]).fit(IMAGES)


def test_a_checkpoint_of_a_gpu_goes_on_without_one(tmp_path):
    make(max_epochs=2, checkpoint=tmp_path).fit(IMAGES)
    saved = Checkpoint(tmp_path, 0, {}, "training")
    document, tensors = read(saved.path, "checkpoint")
    saved.identity, state = (
        unpack(document, tensors)[k] for k in ("identity", "state")
    )
    state["generators"]["cuda:0"] = torch.zeros(16, dtype=torch.uint8)
    saved.save(state)
    assert (
        make(max_epochs=3, checkpoint=tmp_path, device="cpu").fit(IMAGES).n_iter_ == 3
    )


# -- digests ---------------------------------------------------------------------------


def test_digests_tell_values_apart():
    a, b = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    values = [1, 1.0, True, "1", None, [1], {"a": 1}, np.array([1]), np.array([1.0])]
    values += [torch.ones(1), a, b, digest, Path, np.random.RandomState(0), Generated()]
    values += [np.random.RandomState(1), Generated(steps=3), (1, 2), [[1], 2]]
    digests = [digest(value) for value in values]
    assert len(set(digests)) == len(values)
    assert digests == [digest(value) for value in values]
    assert digest(a) == digest(pickle.loads(pickle.dumps(a)))


def closing_over(value):
    def scaled(x):
        return x * value

    return scaled


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x * 1.0, lambda x: x * 3.0),
        (lambda x: x.mean(), lambda x: x.amax()),
        (lambda x: [i * 1.0 for i in x], lambda x: [i * 2.0 for i in x]),
        (lambda x: lambda i: i + 1, lambda x: lambda i: i + 9),
        (lambda x, by=1: x * by, lambda x, by=2: x * by),
        (lambda x, *, by=1: x * by, lambda x, *, by=2: x * by),
        (closing_over(1), closing_over(2)),
        (closing_over(np), closing_over(torch)),
        (wraps(darker)(closing_over(1)), wraps(darker)(closing_over(2))),
        (graph(torch.relu), graph(torch.tanh)),
        (Darker(0.5).__call__, Darker(0.9).__call__),
    ],
)
def test_digests_tell_code_apart(one, other):
    assert digest(one) == digest(copy.deepcopy(one)) != digest(other)


def test_functions_count_by_the_name_that_leads_to_them(monkeypatch):
    before = digest(darker)
    assert before == digest(darker, code=False)
    monkeypatch.setitem(globals(), "darker", None)
    assert digest(darker_itself) != before


# -- folders that take nothing ---------------------------------------------------------


def full(*args, **kwargs):
    raise OSError(28, "No space left on device")


def test_a_write_that_fails_does_not_lose_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr("skdeepcluster._engine.checkpoint.write_tree", full)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        model = make(checkpoint=tmp_path).fit(IMAGES)
    assert_same_fit(model, make().fit(IMAGES), IMAGES)


def test_a_folder_that_takes_nothing_is_an_error_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    epochs = []
    spy = Spy("on_epoch_begin", lambda net: epochs.append(1))
    with pytest.raises(OSError, match="Nothing can be written in checkpoint="):
        make(checkpoint=tmp_path, callbacks=[spy]).fit(IMAGES)
    assert not epochs


def test_a_model_needs_a_folder_that_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="Make it first"):
        make().fit(IMAGES).save(tmp_path / "none" / "model.safetensors")


def test_processes_may_read_their_batches_otherwise():
    facts = [
        facts_of(
            make(net_params={"iterator_train__num_workers": n, "gradient_clip": 2.0}),
            as_images(make(), IMAGES)[0],
        )
        for n in (0, 2)
    ]
    assert facts[0] == facts[1]
    assert facts[0]["net_params"] == "{'gradient_clip': 2.0}"
