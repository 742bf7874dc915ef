"""SCL from data to labels."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from estimators import SMALL
from small_scl import DATA, eye, log_boundary

from skdeepcluster import SCL
from skdeepcluster.datasets import load_digits_images
from skdeepcluster.metrics import clustering_accuracy
from skdeepcluster.scl.objective import balance_loss, consistency_loss

# -- oracle 7: the weights keep one cluster from being the best ------------------------


def totals(balance_weight, consistency_weight, contrast=4.0, k=10):
    """Objective of all samples in one cluster, and of the uninformative point."""
    one = balance_weight * balance_loss(eye(k)[:1].repeat(2 * k, 1)).item()
    flat = torch.full((1, k), 1 / k, dtype=torch.float64)
    agreement = consistency_loss(flat.log(), flat.log()).item()
    return one, contrast + consistency_weight * agreement + balance_loss(flat).item()


def test_totals_by_hand():
    assert totals(3, 1) == pytest.approx((6.9078, 6.3026), abs=1e-4)
    assert totals(1, 1) == pytest.approx((2.3026, 6.3026), abs=1e-4)


def test_default_weights_make_one_cluster_no_bargain():
    model = SCL(10)
    one, uninformative = totals(model.balance_weight, model.consistency_weight)
    assert one > uninformative


# -- the estimator ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_samples", "asked", "expected"),
    [(1024, "auto", None), (1025, "auto", 1024), (40, 40, None), (40, 39, 39)],
)
def test_negatives_of_a_large_memory_are_sampled(n_samples, asked, expected):
    p = SCL(n_negatives=asked)
    p._resolve(replace(DATA, n_samples=n_samples))
    assert p.n_negatives == expected


@pytest.mark.parametrize("similarity", ["centroid", "member"])
@pytest.mark.parametrize("assign", ["boundary", "similarity", "consensus"])
def test_labels_are_predictions_for_every_assignment(stripes, assign, similarity):
    X, _ = stripes
    params = {**SMALL, "max_epochs": 4}
    model = SCL(**params, assign=assign, similarity=similarity)
    labels = model.fit_predict(X)
    np.testing.assert_array_equal(model.predict(X), labels)
    np.testing.assert_array_equal(model.predict_proba(X).argmax(1), labels)
    if assign == "similarity" and similarity == "centroid":
        cosines = model.transform(X) @ model.cluster_centers_.T
        np.testing.assert_array_equal(cosines.argmax(1), labels)


@pytest.mark.parametrize(
    "params",
    [
        {"init": "random", "balance_weight": 5.0},
        {"consistency": "cross_entropy"},
        {"view_weight": 0.0},
        {"memory_weight": 0.0},
        {"n_negatives": 16},
        {"memory_momentum": 0.0},
        {"n_clusters": 1},
        {"warmup": 0.0},
        {"warmup": 1.0},
        {"max_epochs": 1},
        {"n_clusters": 2},
    ],
    ids=str,
)
def test_options_train(stripes, params):
    X, _ = stripes
    model = SCL(**{**SMALL, "max_epochs": 4, **params}).fit(X)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    assert all(math.isfinite(row["loss"]) for row in model.history_)
    if params.get("n_clusters") == 1:
        assert model.score(X) == -1.0


def test_history(stripes):
    X, _ = stripes
    model = SCL(**{**SMALL, "max_epochs": 4, "warmup": 0.5}).fit(X)
    for number, row in enumerate(model.history_):
        parts = {key for key in row if key.startswith("loss_")}
        after = {f"loss_{name}" for name in ("consistency", "balance")}
        assert parts >= {"loss_semantic"}
        assert parts & after == (after if number >= 2 else set())
        assert row["loss"] == pytest.approx(sum(row[key] for key in parts), rel=1e-5)
        assert ("agreement" in row) == (number >= 2)
        assert row["feature_spread"] > 0
    assert sum(model.history_[-1]["cluster_sizes"]) == len(X)


# -- oracle 10: end to end -------------------------------------------------------------


def gaussian_images(n=120):
    """Images about three means that lie far apart, and which."""
    rng = np.random.default_rng(0)
    means = 40 + 170 * (rng.random((3, 8, 8)) > 0.5)
    kinds = np.arange(n) % 3
    noise = rng.normal(0, 10, (n, 8, 8))
    return np.clip(means[kinds] + noise, 0, 255).astype(np.uint8), kinds


@pytest.mark.parametrize("assign", ["boundary", "similarity", "consensus"])
def test_gaussian_images(assign):
    X, kinds = gaussian_images()
    model = SCL(
        3, assign=assign, augment="weak", max_epochs=20, batch_size=60, random_state=0
    ).fit(X)
    assert clustering_accuracy(kinds, model.labels_) == 1.0
    module = model.net_.module_
    boundary = log_boundary(module, module.scaling(torch.from_numpy(X[:, None])))
    visual = model.transform(X) @ model.cluster_centers_.T
    assert np.mean(boundary.argmax(1).numpy() == visual.argmax(1)) > 0.99
    assert model.history_[-1]["agreement"] > 0.99


def test_smoke_of_a_short_training_on_digits():
    X = load_digits_images()[0][:600]
    model = SCL(10, max_epochs=8, batch_size=128, warmup=3 / 8, random_state=0).fit(X)
    last = model.history_[-1]
    assert all(math.isfinite(row["loss"]) for row in model.history_)
    assert np.count_nonzero(last["cluster_sizes"]) >= 9
    assert last["agreement"] > 0.6
    module = model.net_.module_
    np.testing.assert_allclose(module.memory.norm(dim=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
