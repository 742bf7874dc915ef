"""The engine: batches, losses by name, E-steps, precision, what skorch is handed."""

import copy
import math
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback, EarlyStopping
from torch import nn
from torch.nn import functional as F

from skdeepcluster import DigPro
from skdeepcluster._base import DeepClusterer, epochs_for
from skdeepcluster._images import Images
from skdeepcluster._net import ClusterModule, EpochBatches, WarmupCosine, ema_update
from skdeepcluster._scaling import Scaling
from skdeepcluster.callbacks import CollapseWarning
from skdeepcluster.digpro import DigProModule

N, STEPS = 64, 2  # images, and steps of an epoch

RUNTIME_KEYS = {"epoch", "loss", "lr", "seconds", "images_per_second"}
DIGPRO_KEYS = {"loss_instance", "loss_group", "cluster_sizes", "feature_spread"}


def make_images(n=N, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, size=(n, channels, 8, 8))
    for kind, rows in enumerate((slice(0, 3), slice(3, 5), slice(5, 8))):
        images[kind::3, :, rows] += 180
    return images.astype(np.uint8)


@pytest.fixture
def images():
    return make_images()


def make(**params):
    params = {
        "n_clusters": 3,
        "backbone": "conv",
        "max_epochs": 2,
        "batch_size": N // STEPS,
        "feature_dim": 8,
        "hidden_dim": 16,
        "instance": "contrast",
        "warmup": 0.0,
        "lr": 1e-3,
        "precision": "float32",
        "device": "cpu",
        "random_state": 0,
        **params,
    }
    return DigPro(**params)


class Spy(Callback):
    """Calls a function with the net at an event."""

    def __init__(self, event, function):
        setattr(self, event, lambda net, *args, **kwargs: function(net))

    def initialize(self):
        return self


def spied(function, event="on_train_begin", **params):
    """Values that a function of the net takes at an event of a fit, in order."""
    values = []
    callbacks = [Spy(event, lambda net: values.append(function(net)))]
    estimator = make(callbacks=callbacks, **params).fit(make_images())
    return values, estimator


# -- batches of an epoch ---------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [2, 3, 8, 32])
@pytest.mark.parametrize("n", [2, 3, 5, 9, 17, 32, 33, 64, 65])
def test_batches_of_an_epoch(n, batch_size):
    sampler = EpochBatches(n, batch_size)
    batches = list(sampler)
    assert len(batches) == len(sampler) == EpochBatches.count(n, batch_size) >= 1
    rows = torch.cat(batches)
    assert len(rows.unique()) == len(rows)
    assert 0 <= rows.min() and rows.max() < n
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size and min(sizes) >= 2
    if n < 2 * batch_size and n > 3:
        assert sorted(rows.tolist()) == list(range(n))
        assert max(sizes) - min(sizes) <= 1
    elif n >= 2 * batch_size:
        assert set(sizes) == {batch_size}
        assert n - len(rows) < batch_size


def test_less_than_two_batches_are_halved():
    batches = list(EpochBatches(63, 32))
    assert [len(batch) for batch in batches] == [32, 31]
    assert sorted(torch.cat(batches).tolist()) == list(range(63))


def test_batches_are_shuffled_and_drop_another_remainder():
    torch.manual_seed(0)
    sampler = EpochBatches(35, 16)
    first, second = (torch.cat(list(sampler)) for _ in range(2))
    assert not torch.equal(first, second)
    assert set(range(35)) - set(first.tolist()) != set(range(35)) - set(second.tolist())
    torch.manual_seed(0)
    assert torch.equal(torch.cat(list(EpochBatches(35, 16))), first)


@pytest.mark.parametrize("n", [3, 31, 33, 64, 65])
def test_every_size_of_data_trains(n):
    estimator = make(batch_size=32, max_epochs=1).fit(make_images(n))
    assert len(estimator.labels_) == n
    assert math.isfinite(estimator.history_[0]["loss"])


# -- history ---------------------------------------------------------------------------


@pytest.mark.parametrize("instance", ["contrast", "alignment"])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
def test_history(images, instance, warmup):
    estimator = make(max_epochs=4, instance=instance, warmup=warmup).fit(images)
    assert estimator.n_iter_ == len(estimator.history_) == 4
    for number, row in enumerate(estimator.history_, start=1):
        parts = {key: value for key, value in row.items() if key.startswith("loss_")}
        # 0.3 of eight steps are two: they end with the first epoch
        warm = number <= {0.0: 0, 0.3: 1, 1.0: 4}[warmup]
        assert ("loss_prototype" in parts) == (not warm)
        assert set(row) == RUNTIME_KEYS | DIGPRO_KEYS | set(parts)
        assert row["loss"] == pytest.approx(sum(parts.values()), rel=1e-5)
        assert row["epoch"] == number
        assert len(row["cluster_sizes"]) == 3 and sum(row["cluster_sizes"]) == N
        assert row["seconds"] > 0
        images_seen = row["images_per_second"] * row["seconds"]
        assert images_seen == pytest.approx(N)


def test_history_of_a_warmup_that_ends_within_an_epoch(images):
    # one of the two steps of the epoch has a prototype part: the mean is over both
    estimator = make(max_epochs=1, warmup=0.5).fit(images)
    (row,) = estimator.history_
    parts = [row[f"loss_{name}"] for name in ("instance", "group", "prototype")]
    assert row["loss"] == pytest.approx(sum(parts), rel=1e-5)


def test_history_holds_plain_numbers(images):
    for row in make().fit(images).history_:
        assert all(isinstance(row[k], int | float | list) for k in row)


@pytest.mark.parametrize("instance", ["contrast", "alignment"])
def test_learning_rate_of_each_step(instance):
    values, estimator = spied(
        lambda net: [group["lr"] for group in net.optimizer_.param_groups],
        event="on_batch_begin",
        instance=instance,
        predictor_lr_scale=10.0,
        lr_warmup=0.5,
        max_epochs=3,
    )
    factor = WarmupCosine(0.5 * 3 * STEPS, 3 * STEPS)
    for step, rates in enumerate(values):
        expected = [1e-3 * factor(step)]
        if instance == "alignment":
            expected = [10 * expected[0], *expected]
        assert sorted(rates, reverse=True) == pytest.approx(expected)
    assert len(values) == 3 * STEPS


@pytest.mark.parametrize("instance", ["contrast", "alignment"])
def test_history_shows_the_learning_rate_that_lr_sets(images, instance):
    params = {"predictor_lr_scale": 10.0, "lr_warmup": 0.5, "max_epochs": 3}
    estimator = make(instance=instance, **params).fit(images)
    factor = WarmupCosine(0.5 * 3 * STEPS, 3 * STEPS)
    for epoch, row in enumerate(estimator.history_):
        steps = range(epoch * STEPS, (epoch + 1) * STEPS + 1)
        rates = [1e-3 * factor(step) for step in steps]
        assert min(rates) * 0.999 <= row["lr"] <= max(rates) * 1.001


# -- losses that are not finite --------------------------------------------------------


class Explodes(nn.Module):
    """Features that are NaN from the given training batch on."""

    def __init__(self, at):
        super().__init__()
        self.at, self.seen = at, 0
        self.linear = nn.Linear(64, 8)

    def forward(self, x):
        self.seen += self.training
        features = self.linear(x.flatten(1))
        return features * float("nan") if self.seen >= self.at else features


# two views a step, two steps an epoch
@pytest.mark.parametrize(("at", "epoch"), [(1, 1), (4, 1), (5, 2), (9, 3)])
def test_nan_names_epoch_part_and_remedy(images, at, epoch):
    estimator = make(backbone=Explodes(at), max_epochs=3, lr=0.0123)
    before = dict(vars(estimator))
    with pytest.raises(FloatingPointError) as caught:
        estimator.fit(images)
    message = str(caught.value)
    assert f"epoch {epoch} " in message
    assert "instance" in message
    assert "Lower lr=0.0123" in message and "precision='float32'" in message
    assert vars(estimator) == before


@pytest.mark.parametrize("part", ["group", "prototype"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_only_the_bad_part_is_named(monkeypatch, images, part, value):
    good = DigProModule.losses

    def bad(self, batch):
        parts = good(self, batch)
        return {**parts, part: parts[part] * 0 + value}

    monkeypatch.setattr(DigProModule, "losses", bad)
    with pytest.raises(FloatingPointError, match=rf"epoch 1 \(loss part: {part}\)"):
        make().fit(images)


def test_nan_leaves_a_fitted_estimator_as_it_was(images):
    estimator = make().fit(images)
    before, labels = dict(vars(estimator)), estimator.labels_.copy()
    embedding = estimator.transform(images)
    estimator.backbone = Explodes(3)
    with pytest.raises(FloatingPointError):
        estimator.fit(make_images(seed=1))
    for name, value in before.items():
        if name != "backbone":
            assert vars(estimator)[name] is value, name
    assert np.array_equal(estimator.predict(images), labels)
    assert np.array_equal(estimator.transform(images), embedding)


def test_global_generator_is_untouched_after_an_error(images):
    estimator = make(backbone=Explodes(1))
    before = torch.get_rng_state()
    with pytest.raises(FloatingPointError):
        estimator.fit(images)
    assert torch.equal(torch.get_rng_state(), before)


# -- teacher ---------------------------------------------------------------------------


def networks():
    teacher = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for network, value in ((teacher, 0.0), (student, 1.0)):
            for tensor in (*network.parameters(), *network.buffers()):
                tensor.fill_(value)
    return teacher, student


@pytest.mark.parametrize("momentum", [0.0, 0.25, 0.99, 1.0])
def test_ema_update(momentum):
    teacher, student = networks()
    ema_update(teacher, student, momentum)
    for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(t, torch.full_like(t, 1.0 - momentum))
        assert torch.equal(s, torch.ones_like(s))
        assert t.requires_grad and t.grad_fn is None
    assert all(torch.equal(b, torch.zeros_like(b)) for b in teacher.buffers())


def test_ema_update_of_buffers_leaves_counters():
    teacher, student = networks()
    ema_update(teacher, student, 0.9, buffers=True)
    norm = teacher[1]
    for buffer in (norm.running_mean, norm.running_var, norm.weight.detach()):
        torch.testing.assert_close(buffer, torch.full_like(buffer, 0.1))
    assert norm.num_batches_tracked == 0


def test_teacher_moves_after_the_optimiser(images):
    module = make(instance="alignment", ema_momentum=0.0).fit(images).net_.module_
    assert module.step == 1 + 2 * STEPS
    pairs = zip(module.teacher.parameters(), module.online.parameters(), strict=True)
    assert all(torch.equal(t, o) for t, o in pairs)


def test_teacher_of_momentum_one_stays(images):
    values, estimator = spied(
        lambda net: copy.deepcopy(list(net.module_.teacher.parameters())),
        instance="alignment",
        ema_momentum=1.0,
    )
    teacher = estimator.net_.module_.teacher.parameters()
    assert all(torch.equal(a, b) for a, b in zip(values[0], teacher, strict=True))
    student = estimator.net_.module_.online.parameters()
    assert not all(torch.equal(a, b) for a, b in zip(values[0], student, strict=True))


def test_teacher_of_alignment_keeps_its_own_running_statistics(images):
    module = make(instance="alignment", ema_momentum=1.0).fit(images).net_.module_
    own = [b for b in module.teacher.buffers() if b.ndim]
    students = [b for b in module.online.buffers() if b.ndim]
    assert not any(torch.equal(a, b) for a, b in zip(own, students, strict=True))
    assert all(not torch.equal(b, torch.zeros_like(b)) for b in own)


# -- precision and memory layout -------------------------------------------------------


@pytest.mark.parametrize(
    ("bfloat16", "inside"), [(True, torch.bfloat16), (False, torch.float32)]
)
def test_run_computes_in_the_engine_s_precision(images, bfloat16, inside):
    module = ClusterModule(Scaling(Images(images, (1, 8, 8))), nn.Identity())
    module.bfloat16 = bfloat16
    seen = []

    def network(x):
        seen.append(F.linear(x, torch.ones(2, 4)))
        return seen[0]

    out = module.run(network, torch.ones(3, 4))
    assert seen[0].dtype == inside
    assert out.dtype == torch.float32
    assert torch.equal(out, torch.full((3, 2), 4.0))


@pytest.mark.parametrize("instance", ["contrast", "alignment"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_of_training_and_of_inference(
    monkeypatch, images, precision, instance
):
    seen = {"training": set(), "refresh": set(), "inference": set()}
    phase, good = ["refresh"], DigProModule.run

    def run(self, network, x):
        dtypes = []
        layer = next(m for m in network.modules() if isinstance(m, nn.Linear))
        handle = layer.register_forward_hook(lambda *io: dtypes.append(io[2].dtype))
        out = good(self, network, x)
        handle.remove()
        assert out.dtype == torch.float32
        seen["training" if self.training else phase[0]].update(dtypes)
        return out

    def finish(self, embed):
        phase[0] = "inference"
        return good_finish(self, embed)

    good_finish = DigProModule.finish
    monkeypatch.setattr(DigProModule, "run", run)
    monkeypatch.setattr(DigProModule, "finish", finish)
    estimator = make(precision=precision, instance=instance).fit(images)
    estimator.transform(images), estimator.predict_proba(images)
    trained = {getattr(torch, precision)}
    expected = {"training": trained, "refresh": trained, "inference": {torch.float32}}
    assert seen == expected


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_labels_come_from_float32(images, precision):
    estimator = make(precision=precision).fit(images)
    module = estimator.net_.module_.eval()
    with torch.no_grad():
        x = module.scaling(torch.from_numpy(images))
        z = F.normalize(module.teacher(x), dim=1)
        nearest = (z @ module.centers.T).argmax(1)
    assert all(p.dtype == torch.float32 for p in module.parameters())
    np.testing.assert_allclose(estimator.transform(images), z.numpy(), atol=1e-5)
    assert np.array_equal(estimator.labels_, np.unique(nearest, return_inverse=True)[1])
    assert np.array_equal(estimator.predict(images), estimator.labels_)


def test_bfloat16_changes_the_training(images):
    single, half = (
        make(precision=precision).fit(images).history_[-1]["loss"]
        for precision in ("float32", "bfloat16")
    )
    assert single != half
    assert single == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize("channels", [1, 3])
def test_weights_are_channels_last(channels):
    estimator = make().fit(make_images(channels=channels))
    weights = [p for p in estimator.net_.module_.parameters() if p.ndim == 4]
    assert weights
    for weight in weights:
        assert weight.is_contiguous(memory_format=torch.channels_last)


# -- what skorch is handed -------------------------------------------------------------


def compiled(module):
    return {
        name for name, m in module.named_modules() if m._compiled_call_impl is not None
    }


def test_compile_takes_the_backbones_only(images):
    values, estimator = spied(
        lambda net: compiled(net.module_),
        net_params={"compile": True, "compile__backend": "eager"},
        max_epochs=1,
    )
    assert values == [{"online.backbone", "teacher.backbone"}]
    estimator.callbacks = None  # a closure cannot be pickled
    again = pickle.loads(pickle.dumps(estimator))
    assert np.array_equal(again.predict(images), estimator.labels_)
    plain = make(max_epochs=1).fit(images)
    np.testing.assert_allclose(
        estimator.transform(images), plain.transform(images), atol=1e-4
    )


def test_nothing_is_compiled_by_default():
    values, _ = spied(lambda net: compiled(net.module_), max_epochs=1)
    assert values == [set()]


def test_optimizer_of_net_params():
    net_params = {
        "optimizer": torch.optim.SGD,
        "optimizer__weight_decay": 0.25,
        "optimizer__momentum": 0.5,
    }
    values, _ = spied(
        lambda net: (type(net.optimizer_), net.optimizer_.defaults.copy()),
        net_params=net_params,
        max_epochs=1,
    )
    ((optimizer, defaults),) = values
    assert optimizer is torch.optim.SGD
    assert (defaults["weight_decay"], defaults["momentum"]) == (0.25, 0.5)


@pytest.mark.parametrize("instance", ["contrast", "alignment"])
def test_optimizer_trains_every_network_but_the_teacher(instance):
    def split(net):
        optimised = {id(p) for g in net.optimizer_.param_groups for p in g["params"]}
        named = net.module_.named_parameters()
        return {name for name, p in named if p.requires_grad and id(p) in optimised}

    values, estimator = spied(split, instance=instance, max_epochs=1)
    module = estimator.net_.module_
    trained = {n for n, _ in module.named_parameters() if not n.startswith("teacher")}
    assert values == [trained]
    assert any(name.startswith("predictor") for name in trained) == (
        instance == "alignment"
    )


def test_weight_decay_of_net_params_changes_the_fit(images):
    first, second = (
        make(net_params={"optimizer__weight_decay": decay}).fit(images)
        for decay in (0.0, 100.0)
    )
    assert not np.allclose(first.transform(images), second.transform(images))


def test_loader_workers_do_not_change_the_result(images):
    none, one = (
        make(net_params={"iterator_train__num_workers": workers}).fit(images)
        for workers in (0, 1)
    )
    assert np.array_equal(none.labels_, one.labels_)
    assert np.array_equal(none.transform(images), one.transform(images))
    assert [row["loss"] for row in none.history_] == [
        row["loss"] for row in one.history_
    ]


def test_net_params_are_left_alone(images):
    net_params = {"optimizer__weight_decay": 0.5}
    make(net_params=net_params).fit(images)
    assert net_params == {"optimizer__weight_decay": 0.5}


@pytest.mark.parametrize("named", [True, False])
def test_early_stopping(images, named):
    stopping = EarlyStopping(
        monitor="loss", patience=2, threshold=1e3, threshold_mode="abs"
    )
    callbacks = [("stop", stopping)] if named else [stopping]
    estimator = make(max_epochs=9, callbacks=callbacks).fit(images)
    # the first epoch is the best of all, the two that follow are one too many
    assert estimator.n_iter_ == len(estimator.history_) == 3
    assert np.array_equal(estimator.predict(images), estimator.labels_)
    assert callbacks in ([("stop", stopping)], [stopping])


def test_callbacks_can_be_used_again(images):
    values = []
    callbacks = [Spy("on_epoch_end", lambda net: values.append(len(net.history)))]
    estimator = make(callbacks=callbacks).fit(images)
    estimator.fit(images)
    assert values == [1, 2, 1, 2]
    assert len(callbacks) == 1


def interrupts(event, at):
    seen = []

    def interrupt(net):
        seen.append(event)
        if len(seen) == at:
            raise KeyboardInterrupt

    return Spy(event, interrupt)


INTERRUPTS = [  # two steps an epoch
    ("on_epoch_end", 1),
    ("on_epoch_end", 2),
    ("on_batch_begin", 3),
    ("on_batch_end", 3),
    ("on_batch_end", 6),
]


@pytest.mark.parametrize(("event", "at"), INTERRUPTS)
def test_interrupt_keeps_a_usable_estimator(images, event, at):
    estimator = make(max_epochs=5, callbacks=[interrupts(event, at)]).fit(images)
    labels = estimator.labels_
    assert labels.shape == (N,)
    assert set(labels) == set(range(len(estimator.cluster_centers_)))
    assert np.array_equal(estimator.predict(images), labels)
    assert estimator.transform(images).shape == (N, 8)
    estimator.callbacks = None  # a closure cannot be pickled
    again = pickle.loads(pickle.dumps(estimator))
    assert np.array_equal(again.predict(images), labels)


@pytest.mark.parametrize(("event", "at"), INTERRUPTS)
def test_history_of_an_interrupted_fit_has_whole_rows(images, event, at):
    estimator = make(max_epochs=5, callbacks=[interrupts(event, at)]).fit(images)
    assert estimator.n_iter_ == len(estimator.history_) < 5
    for row in estimator.history_:
        assert set(row) == RUNTIME_KEYS | DIGPRO_KEYS | {"loss_prototype"}


@pytest.mark.parametrize("event", ["on_batch_begin", "on_batch_end"])
def test_interrupt_before_a_whole_epoch_ends_fit(images, event):
    estimator = make(max_epochs=5, callbacks=[interrupts(event, 1)])
    before = dict(vars(estimator))
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(images)
    assert vars(estimator) == before


def test_interrupt_within_an_epoch_is_said(images):
    stop = interrupts("on_batch_begin", 3)
    with pytest.warns(ConvergenceWarning, match="interrupted in epoch 2 of 5"):
        make(max_epochs=5, callbacks=[stop]).fit(images)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error"
        )  # a callback that stops between epochs is no news
        make(max_epochs=5, callbacks=[interrupts("on_epoch_end", 1)]).fit(images)


# -- what goes wrong -------------------------------------------------------------------


def test_weights_that_diverge_in_the_last_step_raise(images):
    estimator = make(lr=1e30, max_epochs=1)
    with pytest.raises(FloatingPointError, match=r"NaN or infinite.*Lower lr=1e\+30"):
        estimator.fit(images)
    assert not hasattr(estimator, "labels_")


def test_the_bar_does_not_hide_an_error_before_the_first_step(images):
    class Fails(torch.nn.Module):
        def forward(self, x):
            if len(x) > 2:
                raise RuntimeError("out of memory, say")
            return x.flatten(1)

    with pytest.raises(RuntimeError, match="out of memory, say"):
        make(backbone=Fails(), verbose=1).fit(images)


@pytest.mark.parametrize(
    ("augment", "got"),
    [
        (lambda x: x[:, :, :4], r"\(32, 1, 4, 8\)"),
        (lambda x: None, "NoneType"),
        (lambda x: x.numpy(), "ndarray"),
    ],
)
def test_augmentation_of_another_shape_or_type(images, augment, got):
    with pytest.raises(ValueError, match=f"augment returned {got} for a batch of"):
        make(augment=augment).fit(images)


def test_augmentation_in_float64_trains(images):
    estimator = make(augment=lambda x: x.double()).fit(images)
    assert math.isfinite(estimator.history_[-1]["loss"])


def test_warnings_point_at_the_call_of_fit():
    with pytest.warns(ConvergenceWarning, match="clusters are empty") as caught:
        make(n_clusters=3).fit(np.zeros((40, 8, 8), np.uint8))
    assert {Path(w.filename).name for w in caught} == {Path(__file__).name}


# -- E-steps ---------------------------------------------------------------------------


@pytest.mark.parametrize("instance", ["contrast", "alignment"])
def test_assignments_before_the_first_and_after_every_epoch(
    monkeypatch, images, instance
):
    calls = []

    def spy(name):
        good = getattr(DigProModule, name)

        def method(self, embed):
            z = embed()
            calls.append((name, self.step, self.training, z.shape))
            return good(self, lambda: z)

        return method

    for name in ("refresh", "finish"):
        monkeypatch.setattr(DigProModule, name, spy(name))
    make(max_epochs=3, instance=instance).fit(images)
    z = (False, torch.Size([N, 8]))
    assert calls == [
        ("refresh", 1, *z),
        ("refresh", 1 + STEPS, *z),
        ("refresh", 1 + 2 * STEPS, *z),
        ("refresh", 1 + 3 * STEPS, *z),
        ("finish", 1 + 3 * STEPS, *z),
    ]


def test_embedding_of_the_e_step_is_in_order(monkeypatch, images):
    seen = []
    good = DigProModule.finish

    def finish(self, embed):
        seen.append(embed().cpu().numpy())
        good(self, embed)

    monkeypatch.setattr(DigProModule, "finish", finish)
    estimator = make().fit(images)
    np.testing.assert_array_equal(seen[0], estimator.transform(images))


def test_many_images_are_embedded_in_batches(monkeypatch):
    monkeypatch.setattr("skdeepcluster._net.INFERENCE_PIXELS", 20 * 8 * 8)
    sizes = []
    good = DigProModule.encode

    def encode(self, x):
        sizes.append(len(x))
        return good(self, x)

    images = make_images()
    estimator = make(max_epochs=1).fit(images)
    monkeypatch.setattr(DigProModule, "encode", encode)
    assert np.array_equal(estimator.predict(images), estimator.labels_)
    assert sizes == [20, 20, 20, 4]


# -- a method of the smallest kind -----------------------------------------------------


class Recorder(ClusterModule):
    """One view, one loss, no E-step of its own."""

    n_views = 1

    def __init__(self, scaling, augmentation, n_clusters, seen):
        super().__init__(scaling, augmentation)
        self.network, self.seen = nn.Linear(64, 4), seen
        self.register_buffer("centers", torch.eye(n_clusters, 4))

    def encode(self, x):
        return self.run(self.network, x.flatten(1))

    def logits(self, x):
        return self.encode(x) @ self.centers.T

    def losses(self, batch):
        self.seen.append((self.training, batch))
        return {"norm": self.encode(batch.views[0]).square().mean()}


class Smallest(DeepClusterer):
    def __init__(self, n_clusters=8, seen=None, **params):
        defaults = {"image_shape": None, "backbone": "auto", "max_epochs": 2}
        defaults |= {"batch_size": 32, "lr": 0.1, "device": "cpu", "verbose": 0}
        defaults |= {"precision": "float32", "net_params": None, "callbacks": None}
        defaults |= {"random_state": 0, "augment": "auto"}
        vars(self).update(defaults | params, n_clusters=n_clusters, seen=seen)

    @classmethod
    def _get_param_names(cls):
        return ["n_clusters"]

    def _module(self, plan):
        return Recorder, {"n_clusters": self.n_clusters, "seen": self.seen}

    def _auto_epochs(self, n_samples, steps_per_epoch):
        return epochs_for(6, steps_per_epoch)


@pytest.mark.filterwarnings("ignore:.*clusters are empty")
def test_smallest_method(images):
    seen = []
    estimator = Smallest(3, seen, augment=nn.Identity()).fit(images)
    assert len(seen) == 2 * STEPS
    first, last = estimator.history_
    assert set(first) == RUNTIME_KEYS | {"loss_norm"}
    assert last["loss"] < first["loss"]
    assert last["lr"] == 0.1
    assert estimator.transform(images).shape == (N, 4)


@pytest.mark.filterwarnings("ignore:.*clusters are empty")
def test_batches_hold_the_images_their_rows_and_their_views(images):
    seen = []
    estimator = Smallest(3, seen, augment=lambda x: x + 1).fit(images)
    scaling = estimator.net_.module_.scaling
    whole = scaling(torch.from_numpy(images))
    assert torch.allclose(whole.mean(), torch.zeros(()), atol=1e-5)
    assert torch.allclose(whole.std(), torch.ones(()), atol=1e-3)
    for training, batch in seen:
        assert training
        (view,) = batch.views
        assert batch.index.dtype == torch.int64 and view.dtype == torch.float32
        torch.testing.assert_close(view, whole[batch.index] + 1 / scaling.std)
    rows = torch.cat([batch.index for _, batch in seen[:STEPS]])
    assert sorted(rows.tolist()) == list(range(N))


@pytest.mark.filterwarnings("ignore:.*clusters are empty")
def test_augmentation_sees_the_unit_interval(images):
    lows_and_highs = []

    def augment(x):
        lows_and_highs.append((float(x.min()), float(x.max()), tuple(x.shape)))
        return x

    Smallest(3, [], augment=augment).fit(images)
    low, high, shape = map(list, zip(*lows_and_highs, strict=True))
    assert min(low) >= 0 and 0.8 < max(high) <= 1
    assert set(shape) == {(N // STEPS, 1, 8, 8)}


# -- epochs by the size of the data ----------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "per_epoch", "expected"), [(6, 1, 6), (6, 4, 2), (6, 6, 1), (6, 100, 1)]
)
def test_epochs_for(steps, per_epoch, expected):
    assert epochs_for(steps, per_epoch) == expected


@pytest.mark.filterwarnings("ignore:.*clusters are empty")
@pytest.mark.parametrize(("n", "expected"), [(32, 6), (33, 3), (64, 3), (128, 2)])
def test_auto_epochs_scale_by_steps(n, expected):
    estimator = Smallest(3, [], max_epochs="auto").fit(make_images(n))
    assert estimator.n_iter_ == expected
    assert len(estimator.seen) >= 6


def test_auto_epochs_of_digpro_give_small_data_more():
    epochs = [make()._auto_epochs(256 * steps, steps) for steps in (1, 4, 40, 400)]
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[0] >= 4 * epochs[1] - 4 > epochs[-1]
    assert epochs[-1] >= 1


# -- what the user sees ----------------------------------------------------------------


def test_silent_by_default(images, capfd):
    make(verbose=0).fit(images).predict(images)
    assert capfd.readouterr() == ("", "")


def test_bar_with_loss_parts(images, capsys):
    make(verbose=1).fit(images)
    out, err = capsys.readouterr()
    assert out == ""
    assert "DigPro" in err and f"{2 * STEPS}/{2 * STEPS}" in err
    assert "epoch=2/2" in err
    for part in ("loss=", "instance=", "group=", "prototype="):
        assert part in err


class Constant(nn.Module):
    """The same features for every image."""

    def __init__(self):
        super().__init__()
        self.features = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return self.features.expand(len(x), -1)


def fit_warnings(estimator, images):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(images)
    return [w for w in caught if issubclass(w.category, ConvergenceWarning)]


def test_collapse_is_seen_once_and_with_a_remedy(images):
    estimator = make(backbone=Constant(), max_epochs=8, lr=1e-4)
    caught = [str(w.message) for w in fit_warnings(estimator, images)]
    collapse = [message for message in caught if "collapsing" in message]
    assert len(collapse) == 1
    for word in ("epoch 5", "Lower lr=0.0001", f"batch_size={N // STEPS}"):
        assert word in collapse[0]


def test_empty_clusters_are_left_out_with_a_warning(images):
    estimator = make(backbone=Constant())
    caught = [str(w.message) for w in fit_warnings(estimator, images)]
    assert any("2 of 3 clusters are empty" in message for message in caught)
    assert estimator.labels_.tolist() == [0] * N
    assert estimator.cluster_sizes_.tolist() == [N]
    assert estimator.cluster_centers_.shape == (1, 8)
    assert estimator.predict_proba(images).shape == (N, 1)


def test_a_good_fit_does_not_warn(images):
    assert fit_warnings(make(max_epochs=6), images) == []


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
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            callback.on_epoch_end(net)
        warned += [epoch] * len(caught)
    assert warned == expected


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
    assert next(estimator.net_.module_.parameters()).is_cuda
    assert np.array_equal(estimator.predict(images), estimator.labels_)
    twin = on_cpu(estimator)
    np.testing.assert_allclose(
        twin.transform(images), estimator.transform(images), atol=1e-2
    )
    assert np.mean(twin.predict(images) == estimator.labels_) > 0.95


@pytest.mark.gpu
def test_cuda_leaves_the_generators_alone(images):
    torch.manual_seed(3)
    torch.cuda.manual_seed_all(3)
    before = torch.cuda.get_rng_state(), torch.get_rng_state()
    make(device="cuda").fit(images)
    assert torch.equal(torch.cuda.get_rng_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.gpu
def test_auto_takes_cuda_and_bfloat16(images):
    estimator = make(device="auto", precision="auto").fit(images)
    assert estimator.device_.startswith("cuda")
    assert estimator.net_.bfloat16 == torch.cuda.is_bf16_supported()


# -- the released configuration --------------------------------------------------------


def test_paper_settings_train_as_they_are():
    groups = []

    class Look(Callback):
        def on_batch_end(self, net, **kwargs):
            groups[:] = [(g["lr"], g["momentum"]) for g in net.optimizer_.param_groups]

    settings = {**DigPro.paper_settings(), "max_epochs": 1}
    model = DigPro(3, **settings, callbacks=[("look", Look())], random_state=0)
    model.fit(make_images(n=64, channels=3))
    assert type(model.net_.module_.online.backbone).__name__ == "ResNet"
    assert model.transform(make_images(n=4, channels=3)).shape == (4, 256)
    (predictor, momentum), (rest, _) = groups
    assert momentum == 0.9
    assert predictor == pytest.approx(10 * rest)
    assert model.net_.module_.options["ema_momentum"] == pytest.approx(0.98604)
    assert model.net_.module_.reset_steps == 3
    assert math.isfinite(model.history_[0]["loss_instance"])
