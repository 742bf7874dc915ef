"""The engine: what it hands to a module, and what it makes of the answers."""

import numpy as np
import pytest
import torch
from torch import nn
from toy import (
    IMAGES,
    RUNTIME,
    STEPS,
    N,
    ToyModule,
    data_facts,
    make,
    make_images,
    spied,
)

from skdeepcluster._engine.batches import WeightedBatches
from skdeepcluster._engine.net import TrainingNet
from skdeepcluster._engine.protocol import Clock, ClusterModule, Objective
from skdeepcluster._engine.schedules import Staged, WarmupCosine
from skdeepcluster._input.images import Images
from skdeepcluster.kmeans import spherical_kmeans


def test_a_method_of_the_smallest_kind():
    estimator = make(max_epochs=3, lr=0.05).fit(IMAGES)
    first, *_, last = estimator.history_
    assert set(first) == RUNTIME | {"loss_size", "loss_mean", "largest"}
    assert last["loss"] < first["loss"]
    assert last["lr"] == 0.05
    assert estimator.transform(IMAGES).shape == (N, 4)


# -- a step ----------------------------------------------------------------------------


class Records(ToyModule):
    """Keeps what it is given."""

    def __init__(self, p, data):
        super().__init__(p, data)
        self.batches, self.steps = [], []

    def losses(self, batch):
        assert self.training
        weight = self.backbone[-1].weight
        batch.carry = weight.detach().clone(), self.average.network[-1].weight.clone()
        self.batches.append(batch)
        return super().losses(batch)

    def after_step(self, batch):
        assert batch is self.batches[-1]
        assert not torch.is_grad_enabled()
        weight, average = self.backbone[-1].weight, self.average.network[-1].weight
        before, average_before = batch.carry
        self.steps.append(
            {
                "clock": (self.clock.epoch, self.clock.step),
                "moved": not torch.equal(weight, before),
                "averaged": torch.allclose(average, (average_before + weight) / 2),
            }
        )


def recorded(module=Records, images=IMAGES, **params):
    return make(module=module, **params).fit(images).net_.module_


def test_after_a_step_everything_has_moved():
    steps = recorded().steps
    assert [step["clock"] for step in steps] == [(0, 1), (0, 2), (1, 3), (1, 4)]
    assert all(step["moved"] and step["averaged"] for step in steps)


class CountedMomentum(ToyModule):
    def __init__(self, p, data):
        super().__init__(p, data)
        self.steps = []
        self.average.momentum = lambda step: self.steps.append(step) or 0.5


def test_the_momentum_of_an_average_is_told_how_many_steps_are_done():
    assert recorded(CountedMomentum).steps == [1, 2, 3, 4]


def test_batches_hold_the_images_their_rows_and_their_views():
    module = recorded(augment=lambda x: x + 1)
    whole = torch.from_numpy(IMAGES) / 255
    for batch in module.batches:
        (view,) = batch.views
        assert batch.index.dtype == torch.int64 and view.dtype == torch.float32
        torch.testing.assert_close(view, whole[batch.index] + 1)
    rows = torch.cat([batch.index for batch in module.batches[:STEPS]])
    assert sorted(rows.tolist()) == list(range(N))


def test_views_are_in_the_unit_interval_and_their_standardisation_is_a_layer():
    seen = []

    def augment(x):
        seen.append(x)
        return x

    # floats of another range: [0, 1] is that of the training data
    module = make(augment=augment).fit(IMAGES * 3.0 - 100).net_.module_
    x = torch.cat(seen[:STEPS])
    assert x.shape == (N, 1, 8, 8)
    assert x.min() == 0 and x.max() == pytest.approx(1)
    standard = module.backbone[0](x)
    assert standard.mean().item() == pytest.approx(0, abs=1e-5)
    assert standard.std().item() == pytest.approx(1, rel=1e-3)


class TwoViews(Records):
    n_views = 2


def test_each_view_is_augmented_anew():
    images = make_images(channels=3)
    for batch in recorded(TwoViews, images, augment=torch.rand_like).batches:
        first, second = batch.views
        assert not torch.equal(first, second)
        assert first.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("augment", "got"),
    [
        (lambda x: x[:, :, :4], r"\(32, 1, 4, 8\)"),
        (lambda x: None, "NoneType"),
        (lambda x: x.numpy(), "ndarray"),
    ],
)
def test_augmentation_of_another_shape_or_type(augment, got):
    with pytest.raises(ValueError, match=f"augment returned {got} for a batch of"):
        make(augment=augment).fit(IMAGES)


def test_augmentation_in_float64_trains_in_float32():
    module = recorded(augment=lambda x: x.double())
    assert module.batches[0].views[0].dtype == torch.float32


# -- history ---------------------------------------------------------------------------


class Scripted(ToyModule):
    """Losses and a metric of known values; a part that every other step has."""

    def losses(self, batch):
        step = self.clock.step
        zero = 0 * self.run(self.backbone, batch.views[0]).sum()
        batch.metrics["number"] = torch.tensor(float(step))
        parts = {"always": zero + 1 + step}
        return {**parts, "odd": zero + 10} if step % 2 else parts


def test_history_is_the_mean_over_the_steps_of_an_epoch():
    first, second = make(Scripted).fit(IMAGES).history_
    assert (first["loss_always"], first["loss_odd"], first["loss"]) == (1.5, 5, 6.5)
    assert (second["loss_always"], second["loss_odd"], second["loss"]) == (3.5, 5, 8.5)
    assert (first["number"], second["number"]) == (0.5, 2.5)


class Explodes(ToyModule):
    """A part, or a metric, that takes a value at a step."""

    at, part, value = 0, "size", float("nan")

    def losses(self, batch):
        parts = super().losses(batch)
        batch.metrics["share"] = torch.tensor(0.5)
        if self.clock.step == self.at:
            shown = parts if self.part in parts else batch.metrics
            shown[self.part] = shown[self.part] * 0 + self.value
        return parts


# two steps an epoch
@pytest.mark.parametrize(("at", "epoch"), [(0, 1), (1, 1), (2, 2), (5, 3)])
@pytest.mark.parametrize("part", ["size", "mean", "share"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_what_is_not_finite_names_epoch_part_and_remedy(at, epoch, part, value):
    module = type("Module", (Explodes,), {"at": at, "part": part, "value": value})
    match = rf"epoch {epoch} \(loss part: {part}\). Lower lr=0.0123, .*'float32'"
    with pytest.raises(FloatingPointError, match=match):
        make(module, max_epochs=3, lr=0.0123).fit(IMAGES)


class Overflows(ToyModule):
    def losses(self, batch):
        parts = super().losses(batch)
        return {name: 0 * part + 3e38 for name, part in parts.items()}


def test_parts_that_are_finite_while_their_sum_is_not():
    with pytest.raises(FloatingPointError, match=r"epoch 1 \(loss part: their sum\)"):
        make(Overflows).fit(IMAGES)


def test_weights_that_diverge_in_the_last_step_raise():
    estimator = make(lr=3e37, max_epochs=1, batch_size=N)
    match = r"embedding became NaN or infinite after 1 epoch\(s\). Lower lr=3e\+37"
    with pytest.raises(FloatingPointError, match=match):
        estimator.fit(IMAGES)
    assert not hasattr(estimator, "labels_")


# -- optimiser and rates ---------------------------------------------------------------


def test_optimizer_of_net_params():
    net_params = {
        "optimizer": torch.optim.SGD,
        "optimizer__weight_decay": 0.25,
        "optimizer__momentum": 0.5,
    }
    before = dict(net_params)
    values, _ = spied(
        lambda net: (type(net.optimizer_), net.optimizer_.defaults.copy()),
        net_params=net_params,
        max_epochs=1,
    )
    ((optimizer, defaults),) = values
    assert optimizer is torch.optim.SGD
    assert (defaults["weight_decay"], defaults["momentum"]) == (0.25, 0.5)
    assert net_params == before


def test_the_rate_has_one_place():
    with pytest.raises(ValueError, match=r"'optimizer__lr', .* pass lr=\.\.\. there"):
        make(net_params={"optimizer__lr": 0.1}).fit(IMAGES)


def rates(net):
    return [group["lr"] for group in net.optimizer_.param_groups]


def test_the_rate_is_constant_without_a_schedule():
    values, estimator = spied(rates, "on_batch_begin", lr=0.02)
    assert values == [[0.02]] * 4
    assert [row["lr"] for row in estimator.history_] == [0.02] * 2


class ByDefault(ToyModule):
    """The schedule of a module that has none of its own."""

    schedule = ClusterModule.schedule


def test_the_rate_rises_and_falls_by_default():
    values, _ = spied(rates, "on_batch_begin", module=ByDefault, lr=0.02, max_epochs=20)
    factor = WarmupCosine(0.05 * 40, 40)
    assert [rate for (rate,) in values] == [0.02 * factor(step) for step in range(40)]
    assert values[0] < values[1] > values[-1]


class Scheduled(ToyModule):
    """Two stages, and a bias that learns ten times as fast."""

    def schedule(self):
        return Staged([3], [lambda step: 1 / (1 + step), lambda step: 1 + step], [1, 3])

    def optimizer(self):
        groups = [("*.bias", {"lr": 10 * self.p.lr})]
        return {"optimizer": torch.optim.SGD, "optimizer__param_groups": groups}


def test_the_schedule_sets_the_rate_of_every_group_in_every_step():
    values, estimator = spied(rates, "on_batch_end", module=Scheduled, max_epochs=3)
    factors = [1, 1 / 2, 1 / 3, 3, 6, 9]
    assert values == [pytest.approx([0.1 * f, 0.01 * f]) for f in factors]
    # history: the rate that lr sets, in the last step of the epoch
    assert [row["lr"] for row in estimator.history_] == pytest.approx(
        [0.01 * factor for factor in factors[1::2]]
    )


def test_the_rates_are_those_that_move_the_weights():
    # a loss of gradient 1: what SGD subtracts is the rate
    class Slope(Scheduled):
        def losses(self, batch):
            return {"slope": self.backbone[-1].bias.sum()}

    values, _ = spied(
        lambda net: net.module_.backbone[-1].bias[0].item(),
        "on_batch_end",
        module=Slope,
        max_epochs=2,
    )
    moves = -np.diff(values)
    np.testing.assert_allclose(moves, [0.1 / 2, 0.1 / 3, 0.1 * 3], rtol=1e-4)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_an_average_of_extreme_momentum(momentum):
    values, estimator = spied(
        lambda net: net.module_.average.network[-1].weight.clone(), momentum=momentum
    )
    module = estimator.net_.module_
    average, trained = module.average.network[-1].weight, module.backbone[-1].weight
    assert torch.equal(average, trained if momentum == 0 else values[0])
    assert not torch.equal(values[0], trained)


# -- E-steps and evaluation ------------------------------------------------------------


class Calls(ToyModule):
    """Keeps when its hooks ran, and what they were given."""

    def __init__(self, p, data):
        super().__init__(p, data)
        self.calls, self.sizes, self.embedding = [], [], None

    def _note(self, name, embed):
        z = embed()
        clock = self.clock
        self.calls.append((name, clock.epoch, clock.step, self.training, len(z)))
        return z

    def encode(self, x):
        self.sizes.append(len(x))
        return super().encode(x)

    def refresh(self, embed):
        self._note("refresh", embed)
        return super().refresh(embed)

    def finish(self, embed):
        self.embedding = self._note("finish", embed)
        means = embed(lambda x: x.mean((1, 2, 3))[:, None])
        whole = next(embed.images.chunks(N)) / 255
        torch.testing.assert_close(means[:, 0], whole.mean((1, 2, 3)))


def test_assignments_before_the_first_and_after_every_epoch():
    estimator = make(Calls, max_epochs=3).fit(IMAGES)
    module = estimator.net_.module_
    assert module.calls == [
        ("refresh", 0, 0, False, N),
        ("refresh", 1, STEPS, False, N),
        ("refresh", 2, 2 * STEPS, False, N),
        ("refresh", 3, 3 * STEPS, False, N),
        ("finish", 3, 3 * STEPS, False, N),
    ]
    # in order of the images
    np.testing.assert_array_equal(module.embedding, estimator.transform(IMAGES))


def test_many_images_are_embedded_in_batches(monkeypatch):
    estimator = make(Calls, max_epochs=1).fit(IMAGES)
    module = estimator.net_.module_
    monkeypatch.setattr("skdeepcluster._engine.net.INFERENCE_PIXELS", 20 * 8 * 8)
    module.sizes.clear()
    np.testing.assert_array_equal(estimator.predict(IMAGES), estimator.labels_)
    assert module.sizes == [20, 20, 20, 4]
    # of large images, too, a batch has some
    monkeypatch.setattr("skdeepcluster._engine.net.INFERENCE_PIXELS", 1)
    module.sizes.clear()
    estimator.predict(IMAGES)
    assert module.sizes == [16] * 4


class Converges(ToyModule):
    def refresh(self, embed):
        self.converged = self.clock.epoch == 2
        return super().refresh(embed)


@pytest.mark.filterwarnings("error")
def test_a_module_ends_training_when_it_has_converged():
    estimator = make(Converges, max_epochs=5).fit(IMAGES)
    assert estimator.n_iter_ == len(estimator.history_) == 2
    assert estimator.net_.module_.clock.epoch == 2


# -- another objective than clusters ---------------------------------------------------


class Mean(Objective):
    """Learns the mean image."""

    n_views = 1

    def __init__(self, data):
        super().__init__(data, Clock(max_epochs=30, steps_per_epoch=4))
        self.mean, self.scale = nn.Parameter(torch.zeros(data.image_shape)), 1.0

    def losses(self, batch):
        return {"distance": self.scale * (batch.views[0] - self.mean).square().mean()}


def test_any_objective_trains_on_batches_of_its_own():
    data, images = data_facts(), Images(IMAGES, (1, 8, 8))
    torch.manual_seed(0)
    weights = (torch.arange(N) % 3 == 0).float()  # of one kind only
    batches = WeightedBatches(weights, batch_size=16, n_batches=4)
    net = TrainingNet(Mean(data), batches=batches, lr=0.05, max_epochs=30)
    net.set_params(optimizer=torch.optim.Adam, verbose=0)
    net.initialize().train(images)
    assert len(net.history) == net.module_.clock.epoch == 30
    assert net.module_.clock.step == 120
    expected = torch.from_numpy(IMAGES[::3]).float().mean(0) / 255
    torch.testing.assert_close(net.module_.mean.data, expected, atol=0.05, rtol=0)


def test_another_name_of_the_rate_in_the_remedy():
    module = Mean(data_facts())
    module.scale = float("nan")
    net = TrainingNet(module, rate="diffusion_lr", lr=0.05, batch_size=32)
    with pytest.raises(FloatingPointError, match="Lower diffusion_lr=0.05"):
        net.initialize().train(Images(IMAGES, (1, 8, 8)))


# -- mistakes of a method --------------------------------------------------------------


class Mistaken(ToyModule):
    """Gives what a function of its losses makes of them."""

    change = staticmethod(lambda batch, parts: parts)

    def losses(self, batch):
        return self.change(batch, super().losses(batch))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda batch, parts: parts["size"], "losses of Wrong gave a Tensor; a dict"),
        (lambda batch, parts: {}, "losses of Wrong gave no part; one at least"),
        (
            lambda batch, parts: {"size": parts["size"].expand(3)},
            r"losses of Wrong gave 'size' as \(3,\); a scalar tensor",
        ),
        (
            lambda batch, parts: batch.metrics.update(seen=1.0) or parts,
            "batch.metrics of Wrong gave 'seen' as <class 'float'>; a scalar tensor",
        ),
    ],
)
def test_losses_of_a_wrong_kind_are_named(change, match):
    wrong = type("Wrong", (Mistaken,), {"change": staticmethod(change)})
    with pytest.raises(TypeError, match=match):
        make(module=wrong).fit(IMAGES)


@pytest.mark.parametrize("name", ["losses", "encode", "logits"])
def test_what_a_module_does_not_have_is_named(name):
    missing = {name: getattr(ClusterModule, name)}
    with pytest.raises(NotImplementedError, match=f"Lacks has no {name}"):
        make(module=type("Lacks", (ToyModule,), missing)).fit(IMAGES)


def test_a_module_without_centers_is_named():
    class Centerless(ToyModule):
        def __init__(self, p, data):
            super().__init__(p, data)
            del self.centers

    with pytest.raises(TypeError, match="Centerless has no centers of two dimensions"):
        make(module=Centerless).fit(IMAGES)


def test_hooks_over_all_images_run_in_evaluation_mode_without_gradient():
    seen = []

    class Looks(ToyModule):
        def refresh(self, embed):
            seen.append((self.training, torch.is_grad_enabled()))

        def finish(self, embed):
            seen.append((self.training, torch.is_grad_enabled()))
            self.centers, _ = spherical_kmeans(embed(), self.p.n_clusters)

    make(module=Looks).fit(IMAGES)
    assert seen == [(False, False)] * 4
