"""Clusters of several parts, where methods start from them and end with them."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from skdeepcluster import GCC, SCL, DigPro, StatDEC, digpro, gcc, scl, statdec
from skdeepcluster.communities import LINKAGES, count_parts, neighbor_communities

N, K = 120, 3
SIZES = (80, 30, 10)
SMALL = {"feature_dim": 8, "hidden_dim": 16, "device": "cpu", "random_state": 0}
METHODS = {
    "DigPro": (DigPro, {"max_epochs": 3}),
    "SCL": (SCL, {"max_epochs": 3}),
    "StatDEC": (StatDEC, {"max_epochs": 3}),
    "GCC": (GCC, {"max_epochs": 3, "pretraining": 1.0}),
}
MODULES = {"DigPro": digpro, "SCL": scl, "StatDEC": statdec, "GCC": gcc}


def squares():
    """Images with a bright square in one of three corners, and whose they are."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (N, 8, 8)).astype(np.uint8)
    y = np.repeat(range(K), SIZES)
    for kind, (row, column) in enumerate([(0, 0), (0, 5), (5, 2)]):
        images[y == kind, row : row + 3, column : column + 3] += 190
    return images, y


def fitted(name, linkage, monkeypatch, **params):
    """Fit a method whose graph decides for a linkage; what it asked for each time."""
    asked = []

    def decided(*args, **options):
        asked.append(options.get("linkage"))
        options["linkage"] = options.get("linkage") or linkage
        return neighbor_communities(*args, **options)

    cls, own = METHODS[name]
    monkeypatch.setattr(MODULES[name].module, "neighbor_communities", decided)
    X, _ = squares()
    with warnings.catch_warnings(action="ignore"):
        model = cls(K, **{**SMALL, **own, **params}).fit(X)
    return model, asked


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("linkage", LINKAGES)
def test_labels_are_those_of_predict_and_survive_a_file(name, linkage, monkeypatch):
    model, _ = fitted(name, linkage, monkeypatch)
    X, _ = squares()
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(model)).predict(X), model.labels_
    )
    assert model.cluster_centers_.shape == (len(model.cluster_sizes_), 8)


@pytest.mark.parametrize("linkage", LINKAGES)
def test_digpro_decides_once_after_the_warmup(linkage, monkeypatch):
    model, asked = fitted("DigPro", linkage, monkeypatch, max_epochs=6, warmup=0.5)
    # before the first epoch and after each: 3 in the warm-up, then 4 and the last one
    assert asked == [LINKAGES[0]] * 3 + [None] + [linkage] * 4
    assert model.net_.module_.parts.linkage == linkage


@pytest.mark.parametrize("linkage", LINKAGES)
def test_scl_expects_the_sizes_that_it_found(linkage, monkeypatch):
    seen = []
    monkeypatch.setattr(
        scl.module,
        "balance_loss",
        lambda p, shares: seen.append(shares.clone()) or p.sum() * 0,
    )
    model, asked = fitted("SCL", linkage, monkeypatch)
    assert asked == [None, linkage] and len(seen) > 0
    equal = torch.full((K,), 1 / K)
    assert all(torch.equal(shares, seen[0]) for shares in seen)
    assert seen[0].sum().item() == pytest.approx(1)
    assert torch.allclose(seen[0], equal) == (linkage == "modularity")


@pytest.mark.parametrize("recluster", [True, False])
def test_scl_ends_in_parts(recluster, monkeypatch):
    model, asked = fitted("SCL", "normalized", monkeypatch, recluster=recluster)
    X, _ = squares()
    module, z = model.net_.module_, torch.from_numpy(model.transform(X))
    assert asked == [None] + ["normalized"] * recluster
    assert module.parts.taken == recluster
    found = module.parts if recluster else module
    owners = module.parts.owners if recluster else torch.arange(K)
    assert len(found.centers) == (count_parts(N, K) if recluster else K)
    cosine = z @ found.centers.T
    nearest = torch.stack([cosine[:, owners == k].amax(1) for k in range(K)], dim=1)
    expected = (nearest / module.p.similarity_temperature).log_softmax(1)
    torch.testing.assert_close(module.log_similarity(z), expected)


@pytest.mark.parametrize(
    ("linkage", "given", "power"),
    [
        ("modularity", "auto", 1.0),
        ("normalized", "auto", 0.0),
        ("normalized", 0.5, 0.5),
    ],
)
def test_statdec_leaves_clusters_of_unequal_size_alone(
    linkage, given, power, monkeypatch
):
    powers = []
    target = statdec.module.sharpened_target

    def sharpened(q, cardinality, power):
        powers.append(power)
        return target(q, cardinality, power)

    monkeypatch.setattr(statdec.module, "sharpened_target", sharpened)
    model, asked = fitted(
        "StatDEC", linkage, monkeypatch, max_epochs=4, cardinality_power=given
    )
    assert asked == [None, linkage]
    assert set(powers) == {power}


def test_statdec_ends_in_parts(monkeypatch):
    model, _ = fitted("StatDEC", "normalized", monkeypatch)
    X, _ = squares()
    module, z = model.net_.module_, torch.from_numpy(model.transform(X))
    parts, owners = module.parts.centers, module.parts.owners
    assert module.parts.taken and len(parts) == count_parts(N, K) == 12
    nearest = torch.cdist(z, parts).square()
    distance = torch.stack([nearest[:, owners == k].amin(1) for k in range(K)], dim=1)
    q = 1 / (1 + distance / module.scale)
    expected = (q / q.sum(1, keepdim=True)).log()
    torch.testing.assert_close(module.log_q(z), expected, rtol=1e-3, atol=1e-4)
    assert module.scale.item() == pytest.approx(
        distance.amin(1).mean().item(), rel=1e-3
    )
    variance = module.variance.clamp_min(0.05 * module.variance.mean())
    score = -(distance / (8 * variance)).amin(1)
    np.testing.assert_allclose(model.score_samples(X), score, rtol=2e-2, atol=1e-4)


def test_gcc_has_prototypes_of_each_part(monkeypatch):
    model, asked = fitted("GCC", "normalized", monkeypatch)
    X, _ = squares()
    module, z = model.net_.module_, torch.from_numpy(model.transform(X))
    assert asked == [None] and module.prototypes.shape == (12, 8)
    prototypes = F.normalize(module.prototypes.detach(), dim=1)
    nearest = module.owners[(z @ prototypes.T).argmax(1)]
    np.testing.assert_array_equal(model._kept[model.labels_], nearest)
    means = torch.stack([prototypes[module.owners == k].mean(0) for k in range(K)])
    torch.testing.assert_close(module.centers, F.normalize(means, dim=1))
