"""A training that goes on from its state ends as if it had never stopped."""

import copy
import io

import numpy as np
import pytest
import torch
from small_digpro import make as make_digpro
from toy import IMAGES, Spy, ToyModule, make

from skdeepcluster._engine.protocol import Clock, DataFacts, Objective, Stateful
from skdeepcluster._engine.randomness import seeded
from skdeepcluster._engine.schedules import WarmupCosine
from skdeepcluster._input.layouts import as_images
from skdeepcluster._input.scaling import Scaling
from skdeepcluster.augment import make_augmentation

EPOCHS, STOP = 4, 2


class Queue(Stateful):
    """A part of a module with a memory, and with state that is no tensor."""

    saved = ["filled", "sizes"]

    def __init__(self, width):
        super().__init__()
        self.register_buffer("rows", torch.zeros(8, width))
        self.filled, self.sizes = 0, {}


class Remembers(ToyModule):
    """Every kind of state: memory, averages, stages, random draws, a schedule."""

    saved = ["stage"]

    def __init__(self, p, data):
        super().__init__(p, data)
        self.queue, self.stage = Queue(p.width), []

    def losses(self, batch):
        z = self.run(self.backbone, batch.views[0])
        z = z + 0.1 * torch.randn_like(z)
        batch.carry = z.detach()
        away = (z - self.queue.rows.mean(0)).square().mean()
        return {"size": z.square().mean(), "away": (1 + len(self.stage)) * away}

    def after_step(self, batch):
        queue, z = self.queue, batch.carry
        queue.rows = torch.cat([z[:3], queue.rows])[:8]
        queue.filled += 3
        queue.sizes[self.clock.epoch] = queue.filled

    def refresh(self, embed):
        self.stage = [*self.stage, self.clock.epoch]
        return super().refresh(embed)

    def finish(self, embed):
        super().refresh(embed)  # k-means draws its starts

    def schedule(self):
        return WarmupCosine(2, self.clock.total_steps)


CASES = {
    "toy": make(Remembers, max_epochs=EPOCHS),
    "contrast": make_digpro(max_epochs=EPOCHS, group_reset=3),
    "alignment": make_digpro(
        max_epochs=EPOCHS, group_reset=3, instance="alignment", noise_std=0.1
    ),
    "epoch": make_digpro(max_epochs=EPOCHS),
}


def stopped(estimator, **params):
    """The state after some epochs, and the fit that went on."""
    states = []

    def capture(net):
        if len(net.history) == STOP:
            states.append(copy.deepcopy(net.training_state()))

    estimator = copy.deepcopy(estimator).set_params(**params)
    estimator.set_params(callbacks=[Spy("on_epoch_end", capture)]).fit(IMAGES)
    (state,) = states
    return state, estimator


def resumed(estimator, state, device="cpu", **params):
    """A net of equal parameters, built anew from other random numbers, trained on."""
    estimator = copy.deepcopy(estimator).set_params(**params)
    images, layout = as_images(estimator, IMAGES)
    data = DataFacts(
        image_shape=layout.shape,
        n_samples=len(images),
        scaling=Scaling(images),
        augmentation=make_augmentation(estimator.augment, layout.shape),
    )
    p = type(estimator)(**estimator.get_params(deep=False))
    p._resolve(data)
    with seeded(12345):
        net = estimator._make_net(p, data, [])
        net.load_training_state(state)
        net.train(images)
        net.finish(images)
    return net, images


def assert_equal_states(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[name]), name
        else:
            assert value == other[name], name


def assert_goes_on(estimator, state, whole, **params):
    net, images = resumed(estimator, state, **params)
    assert_equal_states(net.module_.state_dict(), whole.net_.module_.state_dict())
    names = [name for name in whole.history_[0] if name.startswith("loss")]
    losses = [[row[name] for name in names] for row in net.history]
    expected = [[row[name] for name in names] for row in whole.history_]
    assert losses == expected and len(losses) == EPOCHS
    assert [r["lr"] for r in net.history] == [r["lr"] for r in whole.history_]
    labels = net.evaluate(images, net.module_.logits).argmax(1).cpu().numpy()
    np.testing.assert_array_equal(
        np.unique(labels, return_inverse=True)[1], whole.labels_
    )


@pytest.mark.parametrize("case", CASES)
def test_a_training_goes_on_bit_for_bit(case):
    state, whole = stopped(CASES[case])
    assert state["module"]["_extra_state"]["clock"] == Clock(EPOCHS, 2, 2 * STOP, STOP)
    assert_goes_on(CASES[case], state, whole)


def test_a_state_survives_the_disk():
    state, whole = stopped(CASES["toy"])
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert_goes_on(CASES["toy"], torch.load(file, weights_only=False), whole)


def test_a_state_can_be_used_twice():
    state, whole = stopped(CASES["toy"])
    for _ in range(2):
        assert_goes_on(CASES["toy"], state, whole)


def test_capturing_changes_nothing():
    _, whole = stopped(CASES["toy"])
    plain = copy.deepcopy(CASES["toy"]).fit(IMAGES)
    assert_equal_states(
        plain.net_.module_.state_dict(), whole.net_.module_.state_dict()
    )


def test_another_seed_or_epoch_is_seen():
    # equal states above mean something: a training depends on all of it
    state, whole = stopped(CASES["toy"])
    for key, value in (
        ("generators", {"cpu": torch.get_rng_state()}),
        ("optimizer", None),
    ):
        changed = {**state, key: value}
        if value is None:
            changed[key] = copy.deepcopy(state[key])
            for moments in changed[key]["state"].values():
                moments["exp_avg"] += 1e-3
        net, _ = resumed(CASES["toy"], changed)
        weight = net.module_.backbone[-1].weight
        assert not torch.equal(weight, whole.net_.module_.backbone[-1].weight)


def test_a_net_can_train_on_after_the_state_of_its_end():
    states = []
    spy = Spy("on_train_end", lambda net: states.append(net.training_state()))
    estimator = copy.deepcopy(CASES["toy"]).set_params(callbacks=[spy]).fit(IMAGES)
    net, _ = resumed(CASES["toy"], states[0])  # there is no epoch left
    assert len(net.history) == EPOCHS
    weight = estimator.net_.module_.backbone[-1].weight
    assert torch.equal(net.module_.backbone[-1].weight, weight)


# -- state beside tensors --------------------------------------------------------------


def test_plain_attributes_are_saved_by_name_from_every_class():
    class Longer(Queue):
        saved = ["note"]
        note = "new"

    queue, other = Longer(2), Longer(2)
    queue.filled, queue.sizes, queue.note = 5, {1: [2]}, "old"
    state = queue.state_dict()
    other.load_state_dict(state)
    assert (other.filled, other.sizes, other.note) == (5, {1: [2]}, "old")
    # copies: neither shares what the other may change
    queue.sizes[1].append(3)
    other.sizes[1].append(4)
    assert state["_extra_state"]["sizes"] == {1: [2]}


def test_the_clock_is_saved_and_the_caller_keeps_scaling_and_state():
    images, layout = as_images(make(), IMAGES)
    data = DataFacts(layout.shape, len(images), Scaling(images), torch.nn.Identity())
    one, other = (Objective(data, Clock(3, 2)) for _ in range(2))
    one.clock.step, one.clock.epoch = 5, 2
    other.load_state_dict(one.state_dict())
    assert other.clock == Clock(3, 2, 5, 2)
    one.clock.step = 6
    assert other.clock.step == 5
    one.double()
    assert data.scaling.low.dtype == torch.float32


# -- CUDA ------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_a_training_on_cuda_goes_on(case):
    state, whole = stopped(CASES[case], device="cuda")
    assert state["generators"]["cuda:0"].numel()
    net, images = resumed(CASES[case], state, device="cuda")
    labels = net.evaluate(images, net.module_.logits).argmax(1).cpu().numpy()
    assert np.mean(np.unique(labels, return_inverse=True)[1] == whole.labels_) == 1
