"""Statistics, centres and losses of StatDEC's module, step by step."""

import copy
import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from small_statdec import (
    KINDS,
    B,
    D,
    K,
    N,
    embedder,
    end_epoch,
    long_tail,
    make_module,
    step,
    tight,
    two_views,
    unit,
)
from torch.nn import functional as F

from skdeepcluster.metrics import balanced_clustering_accuracy
from skdeepcluster.statdec import centers
from skdeepcluster.statdec import module as statdec
from skdeepcluster.statdec.objective import log_student_t
from skdeepcluster.statdec.statistics import (
    ClusterStatistics,
    cluster_statistics,
    merge_statistics,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def spy(monkeypatch):
    """Calls of a function of the method, as dicts of arguments and ``result``."""

    def watch(name):
        good, calls = getattr(statdec, name), []
        signature = inspect.signature(good)

        def spying(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            result = good(*args, **kwargs)
            calls.append({**bound.arguments, "result": result})
            return result

        monkeypatch.setattr(statdec, name, spying)
        return calls

    return watch


def test_warmup_trains_both_embeddings_by_contrast(spy):
    module, calls = (
        make_module(warmup=0.5, temperature=0.4, tau_plus=0.1),
        spy("debiased_contrastive"),
    )
    parts = step(module)
    assert list(parts) == ["representation"]
    (projection, embedding) = (call["result"][0].item() for call in calls)
    assert {call["temperature"] for call in calls} == {0.4}
    assert {call["tau_plus"] for call in calls} == {0.1}
    assert parts["representation"] == pytest.approx(projection + 0.5 * embedding)
    assert all(len(call["a"]) == len(call["b"]) == B for call in calls)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_losses_change_nothing_that_steps_leave_behind(spy, warmup):
    module, calls = make_module(warmup=warmup), spy("debiased_contrastive")
    before, batch = copy.deepcopy(module.state_dict()), two_views()
    module.losses(batch)
    # the trained networks have batch norms, whose statistics move
    names = [n for n in before if not n.startswith("online") and "extra" not in n]
    assert {n.partition(".")[0] for n in names} >= {"cardinality", "mean", "teacher"}
    for name in names:
        assert torch.equal(module.state_dict()[name], before[name]), name
    assert torch.equal(batch.metrics["clamped"], calls[0]["result"][1])
    assert not any(part.requires_grad for part in batch.carry or ())


@pytest.mark.parametrize(
    ("warmup", "max_epochs", "expected"),
    [(0.0, 5, 0), (0.5, 4, 2), (1.0, 4, 4), (0.5, 2, 1), (0.7, 1, 1)],
)
def test_epochs_of_the_warmup(warmup, max_epochs, expected):
    module, warm = make_module(max_epochs, warmup=warmup), 0
    for _ in range(max_epochs):
        warm += "clustering" not in step(module)
        end_epoch(module)
    assert warm == expected
    module.finish(embedder(module))
    assert torch.equal(module.labels, embedder(module)(module.logits).argmax(1))


def test_weight_of_the_clustering_loss_rises(spy):
    module = make_module(max_epochs=10, cluster_weight=0.6, ramp=0.2)
    calls = spy("dec_loss")
    weights = [step(module)["clustering"] / 0.6 for _ in range(9)]
    ratios = [w / call["result"].item() for w, call in zip(weights, calls, strict=True)]
    # 0.2 of ten epochs of three steps are six
    expected = [min(1.0, number / 6) for number in range(1, 10)]
    assert ratios == pytest.approx(expected, rel=1e-4)


def test_target_is_that_of_both_views_and_of_all_data(spy):
    module = make_module(cardinality_power=0.5)
    assigned, sharpened = spy("log_student_t"), spy("sharpened_target")
    losses = spy("dec_loss")
    cardinality = module.cardinality.clone()
    step(module)
    (call,), (target,), (loss,) = assigned, sharpened, losses
    q = call["result"].exp()
    assert q.shape == (2 * B, K)
    torch.testing.assert_close(target["q"], q.view(2, B, K).mean(0))
    assert torch.equal(target["cardinality"], cardinality)
    assert target["power"] == 0.5
    assert torch.equal(loss["target"], target["result"].repeat(2, 1))
    torch.testing.assert_close(loss["log_q"], call["result"])
    assert call["alpha"] == 1.0


def test_running_cardinality(spy):
    module, calls = make_module(), spy("log_student_t")
    for _ in range(5):
        before = module.cardinality.clone()
        step(module)
        q = calls[-1]["result"].detach().exp()
        expected = 0.95 * before + 0.05 * N / (2 * B) * q.sum(0)
        torch.testing.assert_close(module.cardinality, expected)
        assert module.cardinality.sum().item() == pytest.approx(N, rel=1e-5)


def test_running_mean_and_variance_are_those_of_a_union(spy):
    module, calls = make_module(), spy("log_student_t")
    before = module.cardinality, module.mean, module.variance
    before = ClusterStatistics(*(part.double() for part in before))
    step(module)
    q = calls[-1]["result"].detach().exp().double()
    batch = cluster_statistics(q, calls[-1]["embedding"].detach().double())
    old = before._replace(cardinality=0.95 * before.cardinality)
    new = batch._replace(cardinality=0.05 * N / (2 * B) * batch.cardinality)
    expected = merge_statistics(old, new)
    torch.testing.assert_close(
        module.mean.double(), expected.mean, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        module.variance.double(), expected.variance, rtol=1e-3, atol=1e-5
    )


def test_statistics_of_an_epoch_are_exact():
    module = make_module()
    for _ in range(4):
        step(module)
    features = tight(KINDS)
    end_epoch(module, features)
    q = log_student_t(features, module.centers.detach(), module.scale).exp()
    expected = cluster_statistics(q.double(), features.double())
    # in float32, which is what the module holds
    torch.testing.assert_close(module.cardinality, expected.cardinality.float())
    torch.testing.assert_close(module.mean.double(), expected.mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        module.variance.double(), expected.variance, rtol=1e-3, atol=1e-6
    )
    assert torch.equal(module.labels, q.argmax(1))


@pytest.mark.parametrize("init", ["kmeans", "overcluster"])
def test_start_of_the_joint_phase(init):
    features = tight(KINDS)
    module = make_module(init=init, features=features)
    assert adjusted_rand_score(KINDS, module.labels) == 1.0
    distance = torch.cdist(features, module.centers.detach()).min(1).values.square()
    assert module.scale.item() == pytest.approx(distance.mean().item(), rel=1e-4)
    sizes = KINDS.bincount().double()
    found = module.cardinality.double().sort().values
    torch.testing.assert_close(found, sizes.sort().values, rtol=0.05, atol=0)


@pytest.mark.parametrize("init", ["kmeans", "overcluster"])
@pytest.mark.parametrize("seed", range(3))
def test_start_finds_small_clusters(init, seed):
    torch.manual_seed(seed)
    X, y = long_tail(seed)
    # on a sphere so wide that the blobs do not see its curve
    centred = torch.from_numpy(X - X.mean(0)) / 200
    features = unit(torch.cat([centred, torch.ones(len(X), 1)], dim=1))
    module = make_module(
        n_samples=len(X),
        n_clusters=10,
        feature_dim=3,
        init=init,
        n_init=20,
        features=features,
        backbone="mlp",
    )
    assert balanced_clustering_accuracy(y, module.labels.numpy()) > 0.97


def test_random_start_takes_images():
    features = tight(KINDS, spread=0.3)
    module = make_module(init="random", features=features)
    found = torch.cdist(module.centers.detach(), features).min(1)
    assert found.values.max() < 1e-3
    assert len(found.indices.unique()) == K


@pytest.mark.parametrize(
    ("n_clusters", "expected"), [(3, 0.13), (10, 0.1), (40, 0.025), (1, 0.13)]
)
def test_prior_by_the_number_of_clusters(spy, n_clusters, expected):
    module = make_module(n_clusters=n_clusters, tau_plus="auto")
    calls = spy("debiased_contrastive")
    step(module)
    assert float(calls[0]["tau_plus"]) == pytest.approx(expected)


# -- ablations -------------------------------------------------------------------------


def reached(module, part):
    """Names of the parameters that a part of the joint loss trains."""
    module.zero_grad()
    module.losses(two_views())[part].backward()
    named = module.named_parameters()
    return {n for n, p in named if p.grad is not None and p.grad.abs().max() > 0}


@pytest.mark.parametrize("share_trunk", [True, False])
@pytest.mark.parametrize("detach", [True, False])
def test_what_the_clustering_loss_trains(detach, share_trunk):
    module = make_module(detach_representation=detach, share_trunk=share_trunk)
    representation = reached(module, "representation")
    clustering = reached(module, "clustering")
    assert bool(representation & clustering) == (not detach)
    assert "centers" in clustering - representation
    trunks = {name for name, p in module.named_parameters() if p.ndim == 4}
    trunks = {name for name in trunks if "teacher" not in name}
    assert len(trunks) == (3 if share_trunk else 6)
    assert len(trunks & representation) == 3
    own = 0 if share_trunk else 3
    assert len(trunks & (clustering - representation)) == own


def test_second_trunk_starts_as_a_copy_after_the_warmup():
    module = make_module(share_trunk=False, warmup=0.1)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    step(module)
    optimizer.step()
    end_epoch(module)
    weights = [p for n, p in module.named_parameters() if "teacher" not in n]
    weights = [p for p in weights if p.ndim == 4]
    pairs = [(a, b) for a in weights for b in weights if a is not b]
    assert sum(a.shape == b.shape and torch.equal(a, b) for a, b in pairs) == 6


# -- re-seeding -----------------------------------------------------------------------


def starve(module, features):
    """Put the centre of the third cluster where nothing is; whether it moved away."""
    lost = -unit(features.sum(0, keepdim=True))[0]
    with torch.no_grad():
        module.centers[2] = lost
    end_epoch(module, features)
    return not torch.equal(module.centers.detach()[2], lost)


def starved_features():
    kinds = torch.cat([torch.zeros(20), torch.ones(16), torch.full((4,), 2)]).long()
    return tight(kinds), kinds


def test_a_starved_centre_is_put_where_images_are():
    features, kinds = starved_features()
    module = make_module(features=features)
    step(module)
    assert starve(module, features)
    # a mean of images, not of the empty place it was at
    cosines = F.cosine_similarity(module.centers[2:].detach(), features)
    assert cosines.max() > 0.5
    assert module.cardinality[2].item() == pytest.approx(10)


def test_centres_are_reseeded_three_times_at_most():
    features, _ = starved_features()
    module = make_module(features=features, max_epochs=20)
    moved = []
    for _ in range(5):
        step(module)
        moved.append(starve(module, features))
    assert moved == [True, True, True, False, False]


def test_well_filled_centres_stay():
    features = tight(KINDS)
    module = make_module(features=features)
    last = module.centers.detach().clone()
    for _ in range(3):
        end_epoch(module, features)
    assert torch.equal(module.centers.detach(), last)


# -- the end ---------------------------------------------------------------------------


def test_the_end_takes_the_centers_of_the_larger_silhouette(monkeypatch):
    features, kinds = starved_features()
    good = unit(torch.eye(K, D))
    bad = unit(torch.ones(K, D) + 0.1 * torch.randn(K, D))
    module = make_module(features=features)
    for found, merged in ((good, bad), (bad, good)):
        monkeypatch.setattr(centers, "kmeans_centers", lambda *_, a=found, **__: a)
        monkeypatch.setattr(
            centers, "overcluster_centers", lambda *_, a=merged, **__: a
        )
        module.finish(embedder(module, features))
        torch.testing.assert_close(module.centers.detach(), good)
        assert torch.equal(module.labels, kinds)


def test_neighbors_decide_where_both_kinds_of_centers_are_apart(monkeypatch):
    # three tight groups of 40, 40 and 10 points: for two clusters, the silhouette joins
    # the small group with a large one, and neighbours know that the large ones belong
    angles = torch.tensor([0.0, 2 * torch.pi / 3, 4 * torch.pi / 3])
    corners = torch.stack([angles.cos(), angles.sin()], dim=1)
    kinds = torch.arange(3).repeat_interleave(torch.tensor([40, 40, 10]))
    features = corners[kinds]
    right = torch.stack([corners[:2].mean(0), corners[2]])
    wrong = torch.stack([corners[0], corners[1:].mean(0)])
    members = torch.where(kinds == 2, kinds, 0)
    nearest = torch.stack([(members == m).nonzero()[:9, 0] for m in members])
    for found, merged in ((right, wrong), (wrong, right)):
        monkeypatch.setattr(centers, "kmeans_centers", lambda *_, a=found, **__: a)
        monkeypatch.setattr(
            centers, "overcluster_centers", lambda *_, a=merged, **__: a
        )
        kept = centers.final_centers(features, 2, nearest, n_init=1, seed=0)
        torch.testing.assert_close(kept, right)
        kept = centers.final_centers(features, 2, n_init=1, seed=0)
        torch.testing.assert_close(kept, wrong)


@pytest.mark.parametrize("recluster", [False, True])
def test_centers_of_the_joint_phase_stay_on_demand(recluster):
    features = tight(KINDS)
    module = make_module(features=features, recluster=recluster)
    with torch.no_grad():
        module.centers += 0.1
    last = module.centers.detach().clone()
    module.finish(embedder(module, features))
    assert torch.equal(module.centers.detach(), last) == (not recluster)
    q = log_student_t(features, module.centers.detach(), module.scale).exp()
    expected = cluster_statistics(q, features)
    torch.testing.assert_close(module.cardinality, expected.cardinality)
    torch.testing.assert_close(module.mean, expected.mean)


def rate_of_the_centers(module):
    groups = module.optimizer()["optimizer__param_groups"]
    return dict(groups)["centers"]["lr"]


def test_learning_rates_of_both_phases():
    params = {"batch_size": 4, "warmup": 0.5, "backbone": "mlp"}  # ten steps an epoch
    schedule = make_module(100, lr_warmup=0.05, **params).schedule()
    factors = np.array([schedule(step) for step in range(1000)])
    first, second = factors[:500], factors[500:]
    peak = first.argmax()
    assert 0 < peak < 100 and first.max() == pytest.approx(1.0, abs=0.01)
    assert (np.diff(first[:peak]) > 0).all()
    assert (np.diff(first[peak:]) < 0).all()
    assert 0 < second.max() < 1 and (np.diff(second) <= 0).all()
    assert (factors >= 0).all() and second[-1] < 0.01 * second[0]
    # the centres go the same way in many steps as in few
    ways = []
    for epochs in (100, 400):
        module = make_module(epochs, **params)
        schedule, rate = module.schedule(), rate_of_the_centers(module)
        steps = range(5 * epochs, 10 * epochs)
        ways.append(rate * sum(schedule(step) for step in steps))
    assert ways[1] == pytest.approx(ways[0], rel=0.05)


def test_centers_learn_faster_and_do_not_decay():
    optimizer = make_module(lr=0.01).optimizer()
    ((pattern, group),) = optimizer["optimizer__param_groups"]
    assert pattern == "centers"
    assert group["lr"] > 0.01 and group["weight_decay"] == 0


# -- state -----------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"share_trunk": False}], ids=str)
@pytest.mark.parametrize("warmup", [0.0, 0.2, 1.0])
def test_state_dict_round_trip(warmup, params):
    params = {"warmup": warmup, "ramp": 0.5, **params}
    module = make_module(**params)
    for _ in range(2):
        step(module)
        end_epoch(module)
    step(module)
    torch.manual_seed(1)
    other = make_module(**params)
    other.load_state_dict(module.state_dict())
    for _ in range(2):
        batch = two_views()
        steps = [step(twin, replace(batch)) for twin in (module, other)]
        assert steps[0] == steps[1]
        reports = [end_epoch(twin) for twin in (module, other)]
        assert reports[0] == reports[1]
        for name, tensor in module.state_dict().items():
            if isinstance(tensor, torch.Tensor):
                assert torch.equal(other.state_dict()[name], tensor), name


def test_report():
    module = make_module()
    step(module)
    before = module.labels.clone()
    report = end_epoch(module)
    assert report["cluster_sizes"] == module.labels.bincount(minlength=K).tolist()
    changed = (module.labels != before).float().mean().item()
    assert report["changed"] == pytest.approx(changed)
    assert all(isinstance(v, int | float | list) for v in report.values())


def test_encode_and_logits():
    module = make_module()
    z = embedder(module)()
    torch.testing.assert_close(z.norm(dim=1), torch.ones(N))
    logits = embedder(module)(module.logits)
    expected = log_student_t(z, module.centers.detach(), module.scale)
    torch.testing.assert_close(logits, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("warmup", [0.0, 1.0])
@pytest.mark.parametrize("tau_plus", [0.1, "auto"])
def test_a_step_does_not_wait_for_the_device(warmup, tau_plus):
    module = make_module(device="cuda", warmup=warmup, tau_plus=tau_plus)
    batches = [two_views(device="cuda") for _ in range(2)]
    step(module, batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = sum(module.losses(batches[1]).values())  # a wait raises here
        loss.backward()
        module.after_step(batches[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()
