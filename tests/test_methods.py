"""What the engine and the input promise, for every method of the package."""

import copy
import math
import pickle
import re
import warnings

import numpy as np
import pytest
import torch
from estimators import ESTIMATORS, NAMES, WARMUP, trained
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from skorch.callbacks import Callback
from torch import nn

from skdeepcluster import callbacks
from skdeepcluster._engine.net import ClusterNet
from skdeepcluster._engine.protocol import ClusterModule
from skdeepcluster._estimator import DeepClusterer

N, STEPS = 64, 2  # images, and steps of an epoch
RUNTIME = {"epoch", "loss", "lr", "seconds", "images_per_second"}


def colour_images(n=N):
    """Images (n, 3, 8, 8), uint8, of three kinds that differ in a bright corner."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 100, (n, 3, 8, 8), dtype=np.uint8)
    images[0::3, :, :4, :4] += 150
    images[1::3, :, :4, 4:] += 150
    images[2::3, :, 4:, 4:] += 150
    return images


X = colour_images()


@pytest.fixture(scope="module", params=ESTIMATORS, ids=NAMES)
def make(request):
    """The function that makes an unfitted estimator of the method."""

    def make(enough=False, **params):
        defaults = {"device": "cpu", "precision": "float32"}
        estimator = trained(request.param) if enough else clone(request.param)
        return estimator.set_params(**{**defaults, **params})

    return make


@pytest.fixture(scope="module")
def reference(make):
    """The estimator, fitted to X once: not to be changed."""
    return make().fit(X)


class Spy(Callback):
    """Calls a function with the net at an event."""

    def __init__(self, event, function):
        setattr(self, event, lambda net, *args, **kwargs: function(net))

    def initialize(self):
        return self


def n_views(make):
    """How often a step augments each image."""
    return type(make()).module.n_views


def assert_equal(one, other, again=X):
    np.testing.assert_array_equal(one.labels_, other.labels_)
    np.testing.assert_array_equal(one.transform(again), other.transform(X))


def state_of(estimator):
    return dict(vars(estimator))


def assert_unchanged(estimator, before):
    assert vars(estimator).keys() == before.keys()
    assert all(vars(estimator)[key] is before[key] for key in before)


def convergence_warnings(estimator, images):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(images)
    return [str(w.message) for w in caught if w.category is ConvergenceWarning]


# -- input -----------------------------------------------------------------------------


def test_every_layout_is_the_same_images(make, reference, tmp_path):
    np.save(tmp_path / "X.npy", X)
    files = []
    for i, image in enumerate(X.transpose(0, 2, 3, 1)):
        files.append(tmp_path / f"{i:03}.png")
        Image.fromarray(image).save(files[-1])
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    last = np.ascontiguousarray(X.transpose(0, 2, 3, 1))
    for same in (files, mapped):
        assert_equal(make().fit(same), reference, same)
    for same in (files, mapped, last, X.reshape(N, -1), torch.tensor(X), list(X)):
        np.testing.assert_array_equal(reference.predict(same), reference.labels_)


def test_vectors(make):
    rows = (
        np.random.default_rng(0).normal(size=(N, 10)) + 9 * np.eye(10)[np.arange(N) % 3]
    )
    model = make().fit(rows)
    assert model.image_shape_ == (1, 1, 10)
    np.testing.assert_array_equal(model.predict(rows.tolist()), model.labels_)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 5, 9), (1, 2, 1)], ids=str)
def test_images_of_other_shapes(make, shape):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, *shape), dtype=np.uint8)
    model = make(max_epochs=1, augment="weak", image_shape=shape).fit(images)
    np.testing.assert_array_equal(model.predict(images), model.labels_)
    assert model.predict(images[:1]).shape == (1,)


@pytest.mark.parametrize("n", [3, 4, 31, 33, 65])
@pytest.mark.parametrize("max_epochs", [1, 2])
def test_every_size_of_data_trains(make, n, max_epochs):
    images = colour_images(n)
    model = make(max_epochs=max_epochs, batch_size=32).fit(images)
    np.testing.assert_array_equal(model.predict(images), model.labels_)
    assert all(math.isfinite(row["loss"]) for row in model.history_)
    assert math.isfinite(model.score(images))


@pytest.mark.parametrize("value", [0, 7, 255])
def test_images_that_are_all_alike(make, value):
    images = np.full((N, 8, 8), value, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = make(max_epochs=3).fit(images)
    np.testing.assert_array_equal(model.predict(images), model.labels_)
    assert np.isfinite(model.transform(images)).all()
    assert math.isfinite(model.score(images))


BAD = {
    "NaN": (np.full((20, 192), np.nan), "X contains NaN"),
    "few": (X[:2], "n_samples=2 should be >= n_clusters=3"),
    "empty": (X[:0], r"\(0, 3, 8, 8\), which is empty"),
    "missing": (["not/there.png"] * 9, "'not/there.png' does not exist"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_leave_the_estimator_as_it_was(make, reference, case):
    bad, match = BAD[case]
    for model in (make(), copy.copy(reference)):
        before = state_of(model)
        with pytest.raises(ValueError, match=match):
            model.fit(bad)
        assert_unchanged(model, before)
    if case != "few":  # which are enough after a fit
        with pytest.raises(ValueError, match=match):
            model.predict(bad)
        assert_unchanged(model, before)


def test_every_public_method_needs_a_fit(make):
    model = make()
    names = ["predict", "transform", "predict_proba", "score"]
    if hasattr(model, "score_samples"):
        names.append("score_samples")
    for name in names:
        with pytest.raises(NotFittedError, match="Call 'fit'"):
            getattr(model, name)(X)


# -- errors and interrupts in training -------------------------------------------------


class Fails(nn.Module):
    """Identity, but an error after some calls."""

    def __init__(self, error, after):
        super().__init__()
        self.error, self.left = error, after

    def forward(self, x):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return x


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_an_error_in_training_leaves_the_estimator_as_it_was(make, reference, error):
    # in the second step, and before an epoch is whole
    after = 2 * n_views(make) - 1
    for model in (make(), copy.copy(reference)):
        model.augment = Fails(error, after)
        before, generator = state_of(model), torch.get_rng_state()
        with pytest.raises(type(error)):
            model.fit(X)
        assert_unchanged(model, before)
        assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("at", [1, 2])
def test_a_loss_that_is_not_finite_names_epoch_and_remedy(make, at):
    good = n_views(make) * STEPS * (at - 1)

    class Poison(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x * float("nan") if self.calls > good else x

    model = make(augment=Poison(), lr=0.0123)
    with pytest.raises(FloatingPointError) as caught:
        model.fit(X)
    assert f"epoch {at} " in str(caught.value) and "lr=0.0123" in str(caught.value)
    assert not hasattr(model, "labels_")


def test_weights_that_diverge_raise(make):
    with pytest.raises(FloatingPointError, match=r"NaN or infinite.*Lower lr=1e\+30"):
        make(lr=1e30, max_epochs=3).fit(X)


@pytest.mark.parametrize(
    ("event", "at"),
    [
        ("on_epoch_end", 1),
        ("on_batch_begin", 3),
        ("on_batch_end", 3),
        ("on_batch_end", 6),
    ],
)
def test_interrupt_keeps_a_usable_estimator(make, event, at):
    seen = []

    def interrupt(net):
        seen.append(event)
        if len(seen) == at:
            raise KeyboardInterrupt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = make(max_epochs=5, callbacks=[Spy(event, interrupt)]).fit(X)
    assert model.n_iter_ == len(model.history_) < 5
    labels = model.labels_
    assert set(labels) == set(range(len(model.cluster_centers_)))
    np.testing.assert_array_equal(model.predict(X), labels)
    model.callbacks = None  # a closure cannot be pickled
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), labels)


# -- history and warnings --------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_history(make, share):
    warmup = WARMUP.get(type(make()).__name__)
    model = make(max_epochs=4, **({warmup: share} if warmup else {})).fit(X)
    for number, row in enumerate(model.history_, start=1):
        parts = [value for key, value in row.items() if key.startswith("loss_")]
        assert row.keys() >= RUNTIME and parts and row["epoch"] == number
        assert row["loss"] == pytest.approx(sum(parts), rel=1e-5)
        assert all(isinstance(value, int | float | list) for value in row.values())
        assert row["images_per_second"] * row["seconds"] == pytest.approx(N)
        assert 0 <= row.get("feature_spread", 0) < 2
    sizes = model.history_[-1]["cluster_sizes"]
    assert len(sizes) == 3 and sum(sizes) == N


def test_keys_of_the_history_are_documented(make):
    model = make(max_epochs=4).fit(X)
    keys = {key for row in model.history_ for key in row}
    attribute = re.search(
        r"history_ : list of dict\n(.*?)n_iter_ : int", type(model).__doc__, re.S
    )
    documented = set(re.findall(r"``(\w+)``", attribute[1]))
    missing = sorted(keys - documented)
    assert not missing, f"name them in history_ of the section Attributes: {missing}"


def test_a_good_fit_is_silent(make, two_factors, capfd):
    model = make(enough=True)
    model.set_params(max_epochs=3 * model.max_epochs)
    assert convergence_warnings(model, two_factors[0]) == []
    assert capfd.readouterr() == ("", "")


def test_bar(make, capsys, monkeypatch):
    monkeypatch.setattr(callbacks, "shows_bars", lambda: True)
    model = make(verbose=1).fit(X)
    out, err = capsys.readouterr()
    last = f"epoch={model.n_iter_}/{model.n_iter_}"
    assert out == "" and type(model).__name__ in err and last in err
    for key in model.history_[-1]:
        if key.startswith("loss"):
            assert key.removeprefix("loss_") + "=" in err


def test_collapse_is_seen(make):
    images = np.full_like(X, 100)
    model = make(augment=nn.Identity(), max_epochs=8, lr=1e-4)
    caught = convergence_warnings(model, images)
    collapsing = [m.split(" is collapsing")[0] for m in caught if "collapsing" in m]
    assert collapsing, "is feature_spread in what refresh reports?"
    assert len(set(collapsing)) == len(collapsing)
    # images that the network cannot tell apart share a label
    empty = [m for m in caught if "2 of 3 clusters are empty" in m]
    assert empty and len(set(empty)) == len(empty)
    assert model.labels_.tolist() == [0] * N
    assert model.cluster_sizes_.tolist() == [N]
    assert len(model.cluster_centers_) == 1
    np.testing.assert_allclose(model.predict_proba(X), np.eye(3)[model.labels_])
    if type(model).score is DeepClusterer.score:
        assert model.score(X) == -1.0


# -- what skorch is handed -------------------------------------------------------------


def test_optimizer_has_every_network_that_trains(make):
    seen = []

    def look(net):
        rows = [p for group in net.optimizer_.param_groups for p in group["params"]]
        ids = {id(p) for p in rows}
        trains = [(n, p) for n, p in net.module_.named_parameters() if p.requires_grad]
        assert not any("teacher" in name for name, _ in trains)
        seen.append(all(id(p) in ids for _, p in trains))

    make(max_epochs=1, callbacks=[Spy("on_train_begin", look)]).fit(X)
    assert seen == [True]


def test_every_network_learns(make):
    begin = {}

    def look(net):
        for name, p in net.module_.named_parameters():
            if p.requires_grad:
                begin[name] = p.detach().clone()

    model = make(max_epochs=4, callbacks=[Spy("on_train_begin", look)]).fit(X)
    end = dict(model.net_.module_.named_parameters())
    for name, parameter in begin.items():
        assert not torch.equal(parameter, end[name]), name


def test_compile_takes_the_backbones_only(make):
    seen = []

    def look(net):
        modules = net.module_.named_modules()
        seen.append({n for n, m in modules if m._compiled_call_impl is not None})

    net_params = {"compile": True, "compile__backend": "eager"}
    spies = [Spy("on_train_begin", look)]
    model = make(max_epochs=1, net_params=net_params, callbacks=spies).fit(X)
    (names,) = seen
    assert names and all(name.endswith("backbone") for name in names)
    model.callbacks = None  # a closure cannot be pickled
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.labels_)


def test_loader_workers_change_nothing(make, reference):
    one = make(net_params={"iterator_train__num_workers": 1}).fit(X)
    assert_equal(one, reference)


def test_a_module_of_the_user_is_not_trained_itself(make):
    own = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.BatchNorm1d(7))
    before = [tensor.clone() for tensor in own.state_dict().values()]
    model = make(backbone=own)
    if type(model)._resolve_backbone is not DeepClusterer._resolve_backbone:
        with pytest.raises(ValueError, match=r"(?s)backbone=Sequential.* Pass 'auto'"):
            model.fit(X)
        return
    model.fit(X)
    after = own.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert model.backbone is own
    np.testing.assert_array_equal(model.predict(X), model.labels_)


# -- precision -------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_of_training_and_of_inference(monkeypatch, make, precision):
    seen = {"training": set(), "refresh": set(), "inference": set()}
    phase, good = ["refresh"], ClusterModule.run

    def run(self, network, x):
        def watched(x):
            autocast = torch.is_autocast_enabled(x.device.type)
            seen["training" if self.training else phase[0]].add(autocast)
            return network(x)

        out = good(self, watched, x)
        assert out.dtype == torch.float32
        return out

    def inference(net):
        phase[0] = "inference"

    monkeypatch.setattr(ClusterModule, "run", run)
    spies = [Spy("on_train_end", inference)]
    model = make(precision=precision, callbacks=spies, max_epochs=3).fit(X)
    model.transform(X), model.predict_proba(X)
    half = {precision == "bfloat16"}
    assert seen == {"training": half, "refresh": half, "inference": {False}}
    assert all(p.dtype == torch.float32 for p in model.net_.module_.parameters())
    np.testing.assert_array_equal(model.predict(X), model.labels_)


def test_bfloat16_changes_the_training_a_little(make):
    single, half = (
        make(precision=precision, max_epochs=1).fit(X).history_[-1]["loss"]
        for precision in ("float32", "bfloat16")
    )
    assert single != half
    assert single == pytest.approx(half, rel=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cuda(make, precision):
    model = make(device="cuda", precision=precision).fit(X)
    assert model.device_.startswith("cuda")
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    again = make(device="cuda", precision=precision).fit(X)
    # sums on a GPU have no fixed order: last digits differ, and in time the labels
    first = again.history_[0]["loss"]
    assert first == pytest.approx(model.history_[0]["loss"], rel=1e-2)


# -- going on from a captured state ----------------------------------------------------


@pytest.fixture(scope="module")
def captured(make):
    """A whole training, and its states after each epoch."""
    states = {}

    def capture(net):
        states[net.module_.clock.epoch] = copy.deepcopy(net.training_state())

    spies = [Spy("on_epoch_end", capture)]
    return make(max_epochs=4, callbacks=spies).fit(X), states


@pytest.mark.parametrize("at", [1, 2, 3])
def test_training_goes_on_from_a_captured_state_bit_for_bit(
    make, captured, monkeypatch, at
):
    (whole, states), train = captured, ClusterNet.train

    def resume(net, images):
        net.load_training_state(states[at])
        return train(net, images)

    monkeypatch.setattr(ClusterNet, "train", resume)
    assert_equal(make(max_epochs=4).fit(X), whole)
