"""Memory, clusters and losses of SCL's module, step by step."""

import copy
import inspect
import math
import operator

import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from small_scl import (
    KINDS,
    D,
    K,
    N,
    assert_consistent,
    embedder,
    end_epoch,
    features_of,
    log_boundary,
    make_module,
    slow_contrastive,
    slow_member_similarity,
    step,
    two_views,
    unit,
)
from torch.nn import functional as F

from skdeepcluster._engine.protocol import Batch
from skdeepcluster.scl import module as scl
from skdeepcluster.scl.objective import (
    balance_loss,
    consistency_loss,
    log_member_similarity,
    log_visual_similarity,
    pseudo_label_loss,
)

CLUSTER_PARTS = {"consistency", "balance"}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def spy(monkeypatch):
    """Calls of a function of the method, as dicts of arguments and ``result``."""

    def watch(name):
        good, calls = getattr(scl, name), []
        signature = inspect.signature(good)

        def spying(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            result = good(*args, **kwargs)
            calls.append({**bound.arguments, "result": result})
            return result

        monkeypatch.setattr(scl, name, spying)
        return calls

    return watch


def test_memory_starts_as_random_unit_rows_of_singletons():
    module = make_module(warmup=1.0)
    assert module.memory.shape == (N, D)
    torch.testing.assert_close(module.memory.norm(dim=1), torch.ones(N))
    cosines = module.memory @ module.memory.T - torch.eye(N)
    assert cosines.abs().mean() < 2 / math.sqrt(D)
    assert torch.equal(module.labels, torch.arange(N))


def test_warmup_is_instance_discrimination(spy):
    module, calls = make_module(warmup=0.5), spy("semantic_contrastive")
    for _ in range(4):
        memory, calls[:] = module.memory.clone(), []
        batch, parts = step(module)
        assert not CLUSTER_PARTS & set(parts)
        call = calls[0]
        assert len(call["labels"].unique()) == len(call["labels"]) == N
        assert call["instance"] is None or call["instance"].all()
        assert torch.equal(call["index"], batch.index.repeat(2))
        logits = call["z"].detach() @ memory.T / call["temperature"]
        expected = F.cross_entropy(logits, call["index"])
        assert call["result"].item() == pytest.approx(expected.item(), abs=1e-6)
        assert parts["semantic"] == pytest.approx(expected.item(), abs=1e-6)
        end_epoch(module)


@pytest.mark.parametrize(
    ("warmup", "max_epochs", "expected"),
    [(0.0, 5, 0), (0.3, 10, 3), (0.5, 4, 2), (1.0, 4, 4), (0.3, 1, 0), (0.3, 2, 1)],
)
def test_epochs_of_the_warmup(warmup, max_epochs, expected):
    module, warm = make_module(max_epochs=max_epochs, warmup=warmup), 0
    for _ in range(max_epochs):
        _, parts = step(module)
        warm += not CLUSTER_PARTS & set(parts)
        end_epoch(module)
    assert warm == expected == round(warmup * max_epochs)
    module.finish(embedder(module))
    assert module.labels.max() < K
    assert_consistent(module)


def test_clusters_of_an_interrupted_warmup():
    module = make_module(warmup=0.5)
    step(module)
    torch.nn.init.zeros_(module.head.weight)  # it knows no cluster before k-means
    module.finish(embedder(module))
    assert module.labels.unique().tolist() == [0, 1, 2]
    assert_consistent(module)


def test_kmeans_starts_memory_labels_centers_and_head():
    module = make_module(warmup=0.1)
    step(module)
    features = unit(torch.eye(K, D)[KINDS] + 0.05 * torch.randn(N, D))
    end_epoch(module, features)
    torch.testing.assert_close(module.memory, features)
    assert adjusted_rand_score(KINDS, module.labels) == 1.0
    assert_consistent(module)
    boundary = log_boundary(module, embedder(module)(lambda x: x)).argmax(1)
    assert torch.equal(boundary, module.labels)  # the kinds are easy to tell apart


def test_the_head_of_many_images_is_fitted_to_some(monkeypatch):
    """Features of all images would take far more memory than their embedding."""
    monkeypatch.setattr("skdeepcluster.scl.module.HEAD_ROWS", 16)
    module, asked = make_module(init="kmeans"), []
    embed = embedder(module)

    def spy(function=None, rows=None):
        out = embed(function, rows)
        asked.append((function, rows, out))
        return out

    module.fit_head(spy)
    ((function, rows, h),) = asked
    assert function == module.features and len(set(rows.tolist())) == len(h) == 16
    found = module.head(h).argmax(1)
    assert (found == module.labels[rows]).float().mean() > 0.9


@pytest.mark.parametrize(("n_slots", "n"), [(640, 10), (639, 10), (10, 10)])
def test_slots_that_are_drawn(n_slots, n):
    drawn = torch.stack([scl.some_slots(n_slots, n, "cpu") for _ in range(400)])
    assert drawn.shape == (400, n) and drawn.dtype == torch.int64
    counts = drawn.flatten().bincount(minlength=n_slots)
    assert len(counts) == n_slots and (n_slots > 10 or (counts == 400).all())
    # the mean slot of 400 n draws, within five of its standard errors
    error = n_slots / (12 * drawn.numel()) ** 0.5
    assert abs(drawn.float().mean() - (n_slots - 1) / 2) < 5 * error
    repeats = sum(len(set(row)) < n for row in drawn.tolist())
    assert (repeats > 0) == (n_slots == 640)


def test_random_start():
    module = make_module(init="random", warmup=0.1)
    step(module)
    memory, images = module.memory.clone(), embedder(module)(lambda x: x)
    boundary = log_boundary(module, images)
    end_epoch(module)
    torch.testing.assert_close(log_boundary(module, images), boundary)
    assert torch.equal(module.memory, memory)
    assert module.labels.unique().tolist() == [0, 1, 2]
    assert adjusted_rand_score(KINDS, module.labels) < 0.5
    assert_consistent(module)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_a_step_moves_the_slots_of_its_batch_alone(spy, warmup, momentum):
    module = make_module(warmup=warmup, memory_momentum=momentum)
    calls = spy("semantic_contrastive")
    memory, labels = module.memory.clone(), module.labels.clone()
    batch, _ = step(module)
    z1, z2 = calls[0]["z"].detach().chunk(2)
    mixed = momentum * memory[batch.index] + (1 - momentum) * 0.5 * (z1 + z2)
    torch.testing.assert_close(module.memory[batch.index], unit(mixed))
    others = torch.ones(N, dtype=torch.bool)
    others[batch.index] = False
    assert torch.equal(module.memory[others], memory[others])
    assert torch.equal(module.labels[others], labels[others])
    torch.testing.assert_close(module.memory.norm(dim=1), torch.ones(N))
    if warmup:
        assert torch.equal(module.labels, labels)


@pytest.mark.parametrize("similarity", ["centroid", "member"])
def test_centers_follow_memory_and_labels_of_every_step(similarity):
    module = make_module(init="random", similarity=similarity)
    labels = module.labels.clone()
    for number in range(12):
        step(module)
        assert_consistent(module)
        if number % 5 == 4:
            end_epoch(module)
            assert_consistent(module)
    assert not torch.equal(module.labels, labels)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_losses_change_nothing(warmup):
    module, batch = make_module(warmup=warmup), two_views()
    before = copy.deepcopy(module.state_dict())
    module.losses(batch)
    moved = ("running_mean", "running_var", "num_batches_tracked")  # by a batch norm
    for name, value in module.state_dict().items():
        if not name.endswith(moved):
            same = torch.equal if isinstance(value, torch.Tensor) else operator.eq
            assert same(value, before[name]), name
    kept = [*batch.carry, *batch.metrics.values()]
    assert not any(x.requires_grad for x in kept if x is not None)


def expected_parts(module, batch):
    """What ``losses`` promises, spelled out on a copy of the networks."""
    twin, p = copy.deepcopy(module), module.p
    with torch.no_grad():
        h = features_of(twin, torch.cat(batch.views))
        z = unit(twin.projector(h)).double()
        log_p = twin.head(h).double().log_softmax(1)
    memory, centers = module.memory.double(), module.centers.double()
    index = batch.index.repeat(2)
    temperature = p.similarity_temperature
    if p.similarity == "centroid":
        log_s = log_visual_similarity(z, centers, temperature)
    else:
        shares = slow_member_similarity(z, memory, module.labels, K, temperature, index)
        log_s = torch.from_numpy(shares).log()
    (p1, p2), (s1, s2) = log_p.chunk(2), log_s.chunk(2)
    if p.consistency == "agreement":
        consistency = 0.5 * (consistency_loss(p1, s2) + consistency_loss(p2, s1))
    else:
        consistency = pseudo_label_loss(p1, p2, s1, s2)
    balance = 0.5 * (balance_loss(p1.exp()) + balance_loss(p2.exp()))
    guarded = (module.labels.bincount(minlength=K) > N / 2)[module.labels[index]]
    semantic = slow_contrastive(z, memory, index, module.labels, p.temperature, guarded)
    (z1, z2), rows = z.chunk(2), torch.arange(len(batch.index))
    fresh = rows, module.labels[batch.index], p.temperature, guarded
    view = 0.5 * (slow_contrastive(z1, z2, *fresh) + slow_contrastive(z2, z1, *fresh))
    labels = (p1 + p2 + s1 + s2).argmax(1)
    agreement = (log_p.argmax(1) == log_s.argmax(1)).double().mean().item()
    expected = {
        "semantic": p.memory_weight * semantic,
        "view": p.view_weight * view,
        "consistency": p.consistency_weight * consistency.item(),
        "balance": p.balance_weight * balance.item(),
    }
    return expected, labels, agreement


@pytest.mark.parametrize("similarity", ["centroid", "member"])
@pytest.mark.parametrize("consistency", ["agreement", "cross_entropy"])
def test_module_equals_the_loops(similarity, consistency):
    module = make_module(
        similarity=similarity,
        consistency=consistency,
        similarity_temperature=0.3,
        consistency_weight=0.7,
        balance_weight=1.9,
        memory_weight=0.4,
        view_weight=0.6,
    )
    for _ in range(3):
        batch = two_views()
        expected, labels, agreement = expected_parts(module, batch)
        _, parts = step(module, batch)
        assert list(parts) == ["semantic", "view", "consistency", "balance"]
        for name, value in expected.items():
            assert parts[name] == pytest.approx(value, abs=1e-5), name
        assert torch.equal(module.labels[batch.index], labels)
        assert batch.metrics["agreement"].item() == pytest.approx(agreement)


def test_consensus_of_all_four_predictions_is_the_new_label(spy):
    module = make_module(init="random", consistency="cross_entropy")
    calls = spy("pseudo_label_loss")
    batch, _ = step(module)
    (call,) = calls
    four = [call[name] for name in ("log_p1", "log_p2", "log_s1", "log_s2")]
    assert torch.equal(module.labels[batch.index], sum(four).argmax(1))


def test_which_networks_train():
    module = make_module(warmup=0.1)
    step(module)
    head = {f"head.{name}" for name, _ in module.head.named_parameters()}
    trained = {n for n, p in module.named_parameters() if p.grad is not None}
    assert not trained & head
    module.zero_grad()
    end_epoch(module)
    assert all(p.grad is None for p in module.parameters())  # of the fit of the head
    step(module)
    gradients = {n: p.grad for n, p in module.named_parameters() if p.requires_grad}
    assert all(g is not None and g.abs().max() > 0 for g in gradients.values())
    assert not any(buffer.requires_grad for buffer in module.buffers())


@pytest.mark.parametrize(("k", "share"), [(3, 0.7), (3, 0.45), (2, 0.7)])
def test_guard_of_a_cluster_of_more_than_half(spy, k, share):
    module, calls = make_module(n_clusters=k, warmup=0.1), spy("semantic_contrastive")
    kinds = torch.zeros(N, dtype=torch.int64)
    kinds[round(share * N) :] = 1 + torch.arange(N - round(share * N)) % (k - 1)
    features = unit(torch.eye(k, D)[kinds] + 0.01 * torch.randn(N, D))
    end_epoch(module, features)
    assert adjusted_rand_score(kinds, module.labels) == 1.0
    labels = module.labels.clone()
    batch = two_views(30)
    module.losses(batch)
    guarded = calls[0]["instance"]
    large = labels.bincount().argmax()
    if share > 0.5 and k > 2:
        assert torch.equal(guarded, labels[batch.index.repeat(2)] == large)
        assert guarded.any() and not guarded.all()
    else:
        assert guarded is None or not guarded.any()


def test_empty_clusters_are_revived():
    module = make_module(init="random")
    for _ in range(3):
        step(module)
    module.labels[module.labels == 1] = 0
    report = end_epoch(module)
    sizes = module.labels.bincount(minlength=K)
    assert sizes[1] >= 5 and report["cluster_sizes"] == sizes.tolist()
    assert_consistent(module)


def test_a_revived_cluster_does_not_take_the_others(monkeypatch):
    # features of a ReLU have a large common part, which a row along the mean of a few
    # of them shares with all: the head would call every image that cluster
    module, kinds = make_module(warmup=0.1), torch.arange(N) % 2
    width = module.head.in_features
    h = 1.0 + torch.eye(2, width)[kinds] + 0.1 * torch.rand(N, width)
    end_epoch(module)
    monkeypatch.setattr(module, "features", lambda x: h)
    module.labels = kinds.clone()
    module.fit_head(embedder(module))
    module.gather()
    with torch.no_grad():
        module.revive(embedder(module))
    named = module.log_boundary(h).argmax(1)
    others = module.labels != 2
    assert (~others).sum() == 5
    assert torch.equal(named[others], kinds[others])


def test_two_empty_clusters_are_revived_by_different_samples():
    module = make_module(n_clusters=5)
    module.labels = module.labels.clamp_max(2)
    end_epoch(module)
    sizes = module.labels.bincount(minlength=5)
    assert sizes[3] >= 5 and sizes[4] >= 5
    assert_consistent(module)


@pytest.mark.parametrize(
    ("n_negatives", "expected"), [(7, 7), (None, None), ("auto", None)]
)
def test_number_of_sampled_negatives(spy, n_negatives, expected):
    module = make_module(n_negatives=n_negatives)
    calls, drawn = spy("semantic_contrastive"), []
    for _ in range(3):
        step(module)
    for call in calls:
        if len(call["memory"]) != N:
            continue
        candidates = call["candidates"]
        if expected is None:
            assert candidates is None
        else:
            assert len(candidates.unique()) == len(candidates) == expected
            drawn.append(frozenset(candidates.tolist()))
    assert len(set(drawn)) == (3 if expected else 0)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_state_dict_round_trip(warmup):
    params = {"warmup": warmup, "n_negatives": 20}
    module = make_module(**params)
    for _ in range(3):
        step(module)
    end_epoch(module)
    step(module)
    torch.manual_seed(1)
    other = make_module(**{**params, "warmup": 0.5})
    other.p.warmup = module.p.warmup
    other.load_state_dict(module.state_dict())
    assert other.clock == module.clock
    for name in ("memory", "labels", "centers"):
        assert torch.equal(getattr(other, name), getattr(module, name)), name
    for _ in range(2):
        batch, steps = two_views(), []
        for twin in (module, other):
            torch.manual_seed(2)
            seen, parts = step(twin, Batch(batch.index, batch.views))
            steps.append({**parts, **seen.metrics})
        assert steps[0] == steps[1]
        assert torch.equal(other.memory, module.memory)
        assert torch.equal(other.labels, module.labels)
        assert torch.equal(other.centers, module.centers)
        reports = [end_epoch(twin) for twin in (module, other)]
        assert reports[0] == reports[1]


def test_report_of_the_clusters():
    module = make_module()
    batches = [step(module)[0] for _ in range(2)]
    report = end_epoch(module)
    assert report["cluster_sizes"] == module.labels.bincount(minlength=K).tolist()
    assert sum(report["cluster_sizes"]) == N
    for batch in batches:
        assert batch.metrics.keys() == {"agreement"}
        assert 0 <= batch.metrics["agreement"] <= 1
    spread = module.memory.std(0, correction=0).mean().item() * math.sqrt(D)
    assert report["feature_spread"] == pytest.approx(spread, rel=1e-5)
    assert all(isinstance(v, int | float | list) for v in report.values())


@pytest.mark.parametrize("similarity", ["centroid", "member"])
@pytest.mark.parametrize("assign", ["boundary", "similarity", "consensus"])
def test_logits_of_each_assignment(assign, similarity):
    module = make_module(assign=assign, similarity=similarity)
    for _ in range(3):
        step(module)
    module.finish(embedder(module))
    images = embedder(module)(lambda x: x)
    boundary, z = log_boundary(module, images), embedder(module)()
    temperature = module.p.similarity_temperature
    if similarity == "centroid":
        visual = log_visual_similarity(z, module.centers, temperature)
    else:
        visual = log_member_similarity(z, module.memory, module.labels, K, temperature)
    expected = {
        "boundary": boundary,
        "similarity": visual,
        "consensus": boundary + visual,
    }[assign]
    logits = embedder(module)(module.logits)
    torch.testing.assert_close(logits.softmax(1), expected.softmax(1))
    torch.testing.assert_close(module.memory, z)  # of the final network


@pytest.mark.gpu
@pytest.mark.parametrize("warmup", [0.0, 1.0])
@pytest.mark.parametrize("similarity", ["centroid", "member"])
def test_a_step_does_not_wait_for_the_device(warmup, similarity):
    module = make_module(device="cuda", warmup=warmup, similarity=similarity)
    batches = [two_views(device="cuda") for _ in range(2)]
    module.losses(batches[0])
    module.after_step(batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = sum(module.losses(batches[1]).values())  # a wait raises here
        loss.backward()
        module.after_step(batches[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()
