"""DigPro over a training: rates, groups and bank, assignments, whole fits."""

import copy
import math

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from small_digpro import (
    SHAPE,
    STEPS,
    B,
    D,
    K,
    N,
    make,
    make_module,
    step,
    two_views,
)
from test_oracles_digpro import TAU_G, unit
from toy import Spy, make_images

from skdeepcluster import DigPro
from skdeepcluster._engine.protocol import Clock
from skdeepcluster._engine.schedules import WarmupCosine


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# -- oracle 9: the schedule ------------------------------------------------------------

STEPS_PER_EPOCH = 100


@pytest.fixture(scope="module")
def paper_schedule():
    module = make_module(lr_warmup=50 / 1000)
    module.clock = Clock(max_epochs=1000, steps_per_epoch=STEPS_PER_EPOCH)
    return module.schedule()


@pytest.mark.parametrize(
    ("epoch", "expected"), [(25, 0.5), (50, 1.0), (525, 0.53923), (1000, 0.0061558)]
)
def test_learning_rate_of_the_paper(paper_schedule, epoch, expected):
    # step t, counted from 0, trains at the fractional epoch (t + 1) / STEPS_PER_EPOCH
    step = epoch * STEPS_PER_EPOCH - 1
    assert paper_schedule(step) == pytest.approx(expected, rel=1e-5)
    period = 1000 * STEPS_PER_EPOCH
    assert WarmupCosine(period / 20, period)(step) == paper_schedule(step)


def test_learning_rate_rises_then_falls(paper_schedule):
    factors = np.array([paper_schedule(t) for t in range(0, 100_000, 250)])
    peak = factors.argmax()
    assert 0 < factors[0] < 0.01
    assert np.all(np.diff(factors[: peak + 1]) > 0)
    assert np.all(np.diff(factors[peak:]) < 0)


@pytest.mark.parametrize("step", [0, 1, 10, 1000])
def test_schedule_without_warmup_or_beyond_its_end(step):
    progress = min(1.0, (step + 1) / 10)
    expected = 0.5 * (1 + math.cos(math.pi * progress))
    assert WarmupCosine(0, 10)(step) == pytest.approx(expected, abs=1e-12)


# -- oracle 10: bank and group reset ---------------------------------------------------


@pytest.mark.parametrize("instance", ["alignment", "contrast"])
def test_bank_after_the_first_iteration(instance):
    module, batch = make_module(instance=instance), two_views()
    before = module.bank.clone()
    torch.testing.assert_close(before.norm(dim=1), torch.ones(60))
    with torch.no_grad():
        twin = copy.deepcopy(module)
        rows = unit(torch.cat([twin.online(view) for view in batch.views]))
    step(module, batch)
    assert module.bank.shape == (60, D)
    torch.testing.assert_close(module.bank[: 2 * B].norm(dim=1), torch.ones(2 * B))
    torch.testing.assert_close(module.bank[: 2 * B], rows)
    assert torch.equal(module.bank[2 * B :], before[: -2 * B])
    assert not module.bank.requires_grad


def test_bank_smaller_than_a_batch_keeps_its_size():
    module = make_module(bank_size=5)
    step(module)
    assert module.bank.shape == (5, D)


def test_group_reset_finds_tight_bundles():
    k = 5
    module = make_module(n_clusters=k, bank_size=500, feature_dim=16)
    directions = unit(torch.randn(k, 16))
    bundles = directions.repeat(100, 1) + 0.01 * torch.randn(500, 16)
    module.bank = unit(bundles)
    groups = module.reset_groups()
    cosines = groups @ directions.T
    torch.testing.assert_close(groups.norm(dim=1), torch.ones(k))
    assert sorted(cosines.argmax(1).tolist()) == list(range(k))
    assert cosines.max(1).values.min() > 0.999


def test_without_resets_groups_follow_the_prototypes():
    module = make_module(group_reset="epoch")
    features = unit(torch.randn(N, D))
    module.refresh(lambda: features)
    assert torch.equal(module.groups, module.centers)
    step(module)  # moves the groups alone
    assert not torch.equal(module.groups, module.centers)
    torch.testing.assert_close(module.centers.norm(dim=1), torch.ones(K))
    assert module.bank.shape == (0, D)


def test_with_resets_groups_do_not_follow_the_prototypes():
    module = make_module()
    before = module.groups.clone()
    module.refresh(lambda: unit(torch.randn(N, D)))
    assert torch.equal(module.groups, before)


@pytest.mark.parametrize(
    ("group_reset", "expected"),
    [("epoch", []), (1, [2, 3, 4, 5, 6, 7]), (3, [3, 6]), ("n_clusters", [3, 6])],
)
def test_groups_are_reset_every_so_many_steps_but_not_at_first(group_reset, expected):
    module, at = make_module(group_reset=group_reset), []
    fresh = torch.eye(K, D)

    def reset_groups():
        at.append(module.clock.step + 1)
        return fresh

    module.reset_groups = reset_groups
    for number in range(1, 8):
        before = module.groups
        step(module)
        # a step moves the groups by a hundredth of a projection at most
        start = fresh if number in expected else before
        assert (module.groups - start).abs().max() < 0.1
    assert at == expected


# -- state -----------------------------------------------------------------------------


def test_state_dict_round_trip():
    module = make_module(warmup=2 / STEPS, group_reset=2)
    features = unit(torch.randn(N, D))
    module.refresh(lambda: features)
    for _ in range(3):
        step(module)
    torch.manual_seed(1)
    other = make_module(warmup=2 / STEPS, group_reset=2)
    assert (other.clock.step, other.refreshed) == (0, False)
    other.load_state_dict(module.state_dict())
    assert (other.clock.step, other.refreshed) == (3, True)
    for name in ("groups", "bank", "labels", "centers"):
        assert torch.equal(getattr(other, name), getattr(module, name)), name

    batch = two_views()
    torch.manual_seed(2)
    expected = module.losses(batch)
    torch.manual_seed(2)
    got = other.losses(batch)
    assert list(got) == list(expected) == ["instance", "group", "prototype"]
    for name in expected:
        assert torch.equal(got[name], expected[name])


def test_refresh_reports_sizes_and_spread():
    module = make_module(feature_dim=2, n_clusters=4)
    directions = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    report = module.refresh(lambda: directions[torch.arange(N) % 4])
    assert sum(report["cluster_sizes"]) == N
    assert report["cluster_sizes"] == [N // 4] * 4
    # uniform on the sphere: the standard deviation of each coordinate is 1 / sqrt(d)
    assert report["feature_spread"] == pytest.approx(1.0, abs=1e-6)
    collapsed = module.refresh(lambda: directions[:1].repeat(N, 1))
    assert collapsed["feature_spread"] == pytest.approx(0.0, abs=1e-6)
    assert sum(collapsed["cluster_sizes"]) == N


def test_refresh_starts_from_the_last_centres():
    module, seen = make_module(e_step="kmeans"), []
    features = unit(torch.randn(N, D))

    def spy(rows, n_clusters, *, init, n_init, max_iter):
        seen.append((None if init is None else init.clone(), n_init))
        return rows[:n_clusters].clone(), torch.arange(N) % n_clusters

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skdeepcluster.digpro.module.spherical_kmeans", spy)
        module.refresh(lambda: features)
        module.refresh(lambda: features)
        module.finish(lambda: features)
    assert seen[0][0] is None
    assert torch.equal(seen[1][0], features[:K])
    assert [n_init for _, n_init in seen] == [2, 2, 10]


def test_encode_and_logits():
    module = make_module().eval()
    x = torch.rand(B, *SHAPE)
    z = module.encode(x)
    assert z.shape == (B, D)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(B))
    module.parts.centers = unit(torch.randn(K, D))  # of as many parts as clusters
    torch.testing.assert_close(module.logits(x), z @ module.parts.centers.T / TAU_G)


# -- a whole training ------------------------------------------------------------------

RUNTIME_KEYS = {"epoch", "loss", "lr", "seconds", "images_per_second"}
DIGPRO_KEYS = {"loss_instance", "loss_group", "cluster_sizes", "feature_spread"}


@pytest.mark.parametrize("instance", ["contrast", "alignment"])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
def test_parts_by_the_warmup(instance, warmup):
    estimator = make(max_epochs=4, instance=instance, warmup=warmup).fit(make_images())
    for number, row in enumerate(estimator.history_, start=1):
        # 0.3 of eight steps are two: they end with the first epoch
        warm = number <= {0.0: 0, 0.3: 1, 1.0: 4}[warmup]
        parts = set() if warm else {"loss_prototype"}
        assert set(row) == RUNTIME_KEYS | DIGPRO_KEYS | parts


@pytest.mark.parametrize("instance", ["contrast", "alignment"])
def test_the_predictor_has_a_rate_of_its_own(instance):
    values = []

    def look(net):
        values.append([group["lr"] for group in net.optimizer_.param_groups])

    make(
        instance=instance,
        predictor_lr_scale=10.0,
        lr_warmup=0.5,
        max_epochs=3,
        callbacks=[Spy("on_batch_end", look)],
    ).fit(make_images())
    assert len(values) == 3 * 2
    factor = WarmupCosine(0.5 * len(values), len(values))
    for number, rates in enumerate(values):
        expected = [1e-3 * factor(number)]
        if instance == "alignment":
            expected = [10 * expected[0], *expected]
        assert rates == pytest.approx(expected)


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
    assert model.net_.module_.p.ema_momentum == pytest.approx(0.98604)
    assert model.net_.module_.p.group_reset == 3
    assert math.isfinite(model.history_[0]["loss_instance"])


# -- what is chosen by the data --------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (make_images(), (0.3, 0.3)),
        (make_images()[:, :, :1, :].reshape(64, 8), (0.0, 0.6)),
        (make_images(8)[:, :, :1, :1], (0.0, 0.6)),
    ],
    ids=["images", "vectors", "pixels"],
)
def test_groups_and_warmup_are_those_of_images_or_vectors(data, expected):
    params = {"augment": "none", "backbone": "mlp", "max_epochs": 1}
    auto = {"group_weight": "auto", "warmup": "auto"}
    model = make(**params, **auto).fit(data)
    used = model.net_.module_.p
    assert (used.group_weight, used.warmup) == expected
    assert model.get_params()["group_weight"] == model.warmup == "auto"
    named = dict(zip(auto, expected, strict=True))
    same = make(**params, **named).fit(data)
    np.testing.assert_array_equal(same.transform(data), model.transform(data))


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_what_is_asked_of_vectors_is_done(weight):
    rows = np.random.default_rng(0).normal(size=(40, 5))
    params = {"augment": "neighbors", "backbone": "mlp", "max_epochs": 4}
    model = make(**params, group_weight=weight, warmup=0.5).fit(rows)
    assert model.net_.module_.p.group_weight == weight
    assert all(bool(row.get("loss_group", 0)) == bool(weight) for row in model.history_)
    assert [row.get("loss_prototype", 0) != 0 for row in model.history_] == [
        *(False, False, True, True)
    ]
