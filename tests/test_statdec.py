"""StatDEC from data to labels."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
from estimators import SMALL
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import roc_auc_score
from skorch.callbacks import Callback

from skdeepcluster import StatDEC
from skdeepcluster.metrics import balanced_clustering_accuracy
from skdeepcluster.statdec import module


@pytest.mark.parametrize(
    "params",
    [
        {"pooling": "avg"},
        {"cardinality": "count"},
        {"cardinality": None},
        {"grid": 1},
        {"share_trunk": False},
        {"detach_representation": True},
        {"init": "overcluster"},
        {"init": "random"},
        {"tau_plus": "auto"},
        {"tau_plus": 0.0},
        {"cardinality_power": 0.0},
        {"cluster_weight": 0.0},
        {"recluster": False},
        {"warmup": 0.0},
        {"warmup": 1.0},
        {"max_epochs": 1},
        {"n_clusters": 1},
        {"representation": "contrastive"},
    ],
    ids=str,
)
def test_options_train(stripes, params):
    X, _ = stripes
    model = StatDEC(**{**SMALL, "max_epochs": 4, "n_init": 2, **params}).fit(X)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    assert all(math.isfinite(row["loss"]) for row in model.history_)
    assert np.isfinite(model.score_samples(X)).all()
    assert math.isfinite(model.score(X))
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.labels_)
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))


def test_training_ends_when_labels_stay(stripes):
    X, _ = stripes
    params = {**SMALL, "max_epochs": 12, "warmup": 0.25}
    model = StatDEC(**params, tol=1.0).fit(X)
    assert model.n_iter_ == len(model.history_) == 3 + 5
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    endless = StatDEC(**params, tol=0.0).fit(X)
    assert endless.n_iter_ == 12


def fit_warnings(model, X):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X)
    return [w for w in caught if w.category is ConvergenceWarning]


def test_a_clamped_estimate_is_said_once(stripes):
    X, _ = stripes
    model = StatDEC(**{**SMALL, "max_epochs": 5}, tau_plus=0.7)
    (said,) = [w for w in fit_warnings(model, X) if "clamped" in str(w.message)]
    message = str(said.message)
    assert "tau_plus=0.7" in message and "temperature=0.5" in message
    assert said.filename == __file__
    assert max(row["clamped"] for row in model.history_) > 0.5


def test_without_correction_nothing_is_clamped(stripes):
    X, _ = stripes
    model = StatDEC(**{**SMALL, "max_epochs": 5}, tau_plus=0.0)
    assert not any("clamped" in str(w.message) for w in fit_warnings(model, X))
    assert {row["clamped"] for row in model.history_} == {0.0}


@pytest.mark.filterwarnings("ignore:The debiased estimate was clamped")
def test_share_that_was_clamped_in_an_epoch(stripes, monkeypatch):
    good, shares = module.debiased_contrastive, []

    def spying(*args):
        result = good(*args)
        shares.append(result[1].item())
        return result

    monkeypatch.setattr(module, "debiased_contrastive", spying)
    X, _ = stripes
    # much must be subtracted before alike embeddings are clamped
    model = StatDEC(**{**SMALL, "warmup": 0.5}, tau_plus=0.9).fit(X)
    # two steps an epoch; in the warm-up the second contrast is that of the embedding
    expected = np.mean([shares[0:4:2], shares[4:6]], axis=1)
    found = [row["clamped"] for row in model.history_]
    assert len(shares) == 6 and found == pytest.approx(expected)
    assert 0 < min(found) and max(found) < 1


def rate_of_the_centers(module):
    groups = module.optimizer()["optimizer__param_groups"]
    return dict(groups)["centers"]["lr"]


def test_rates_of_the_groups_follow_the_schedule(stripes):
    X, _ = stripes
    seen = []

    class Look(Callback):
        def on_batch_begin(self, net, **kwargs):
            groups = net.optimizer_.param_groups
            seen.append([(g["lr"], [p.shape for p in g["params"]]) for g in groups])

    params = {**SMALL, "max_epochs": 4, "warmup": 0.5, "lr": 1e-3}
    model = StatDEC(**params, callbacks=[("look", Look())]).fit(X)
    trained = model.net_.module_
    schedule, largest = trained.schedule(), [rate_of_the_centers(trained), 1e-3]
    assert len(seen) == 4 * 2
    for step_number, groups in enumerate(seen):
        assert groups[0][1] == [(3, SMALL["feature_dim"])]  # the centres alone
        expected = [lr * schedule(step_number) for lr in largest]
        assert [lr for lr, _ in groups] == pytest.approx(expected)


def test_own_groups_of_parameters(stripes):
    X, _ = stripes
    params = {"optimizer__param_groups": [], "optimizer__weight_decay": 0.0}
    model = StatDEC(**SMALL, net_params=params).fit(X)
    assert model.n_iter_ == SMALL["max_epochs"]


def test_history(stripes):
    X, _ = stripes
    model = StatDEC(**{**SMALL, "max_epochs": 4, "warmup": 0.5}).fit(X)
    for number, row in enumerate(model.history_):
        parts = {key for key in row if key.startswith("loss_")}
        joint = {"loss_clustering"} if number >= 2 else set()
        assert parts == {"loss_representation"} | joint
        assert row["loss"] == pytest.approx(sum(row[key] for key in parts), rel=1e-5)
        assert 0 <= row["clamped"] <= 1 and 0 <= row["changed"] <= 1
        assert sum(row["cluster_sizes"]) == len(X) and row["feature_spread"] > 0


def test_contrastive_representation(stripes):
    X, _ = stripes
    params = {**SMALL, "max_epochs": 3}
    model = StatDEC(**params, representation="contrastive").fit(X)
    plain = StatDEC(**params).fit(X)
    assert model.transform(X).shape == (60, SMALL["hidden_dim"])
    assert plain.transform(X).shape == (60, SMALL["feature_dim"])
    np.testing.assert_array_equal(model.labels_, plain.labels_)
    np.testing.assert_array_equal(model.cluster_centers_, plain.cluster_centers_)
    assert model.score(X) == plain.score(X)
    assert len(model.get_feature_names_out()) == SMALL["hidden_dim"]


def test_unfitted_scores():
    with pytest.raises(NotFittedError):
        StatDEC().score_samples(np.zeros((3, 8, 8)))


# -- oracle 10: end to end -------------------------------------------------------------


def squares():
    """Bright squares in one of three places: 100, 40 and 10 images, and the places."""
    rng = np.random.default_rng(0)
    kinds = np.repeat([0, 1, 2], [100, 40, 10])
    images = rng.integers(0, 60, (150, 12, 12))
    for kind, (row, column) in enumerate([(1, 1), (1, 7), (7, 4)]):
        images[kinds == kind, row : row + 4, column : column + 4] += 180
    order = rng.permutation(150)
    return images[order].astype(np.uint8), kinds[order]


@pytest.fixture(scope="module")
def fitted():
    X, kinds = squares()
    model = StatDEC(3, max_epochs=30, batch_size=64, hidden_dim=64, random_state=0)
    return X, kinds, model.fit(X)


def test_squares(fitted):
    X, kinds, model = fitted
    assert balanced_clustering_accuracy(kinds, model.labels_) > 0.95
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.labels_)
    twin = clone(model)
    assert {k: str(v) for k, v in twin.get_params().items()} == {
        k: str(v) for k, v in model.get_params().items()
    }
    assert not hasattr(twin, "labels_")


def test_statistics_of_the_fitted_clusters(fitted):
    X, _, model = fitted
    assert model.cluster_cardinality_.shape == model.cluster_variance_.shape == (3,)
    assert model.cluster_cardinality_.sum() == pytest.approx(1.0, abs=1e-5)
    uncalibrated = copy.copy(model)
    uncalibrated.temperature_ = 1.0
    proba = uncalibrated.predict_proba(X)
    np.testing.assert_allclose(model.cluster_cardinality_, proba.mean(0), atol=1e-4)
    assert (model.cluster_variance_ > 0).all()
    e = model.transform(X)
    for k, share in enumerate(proba.T):
        mean = share @ e / share.sum()
        variance = share @ np.square(e - mean).mean(1) / share.sum()
        assert model.cluster_variance_[k] == pytest.approx(variance, rel=1e-3)


def test_scores_of_samples(fitted):
    X, _, model = fitted
    score = model.score_samples(X)
    assert score.shape == (150,) and score.dtype == np.float32
    assert (score <= 0).all()
    parts = model.net_.module_.parts
    distance = cdist(model.transform(X), parts.centers.numpy(), "sqeuclidean")
    units = model.feature_dim * np.maximum(
        model.cluster_variance_, 0.05 * model.cluster_variance_.mean()
    )
    units = units[parts.owners.numpy()]
    np.testing.assert_allclose(score, -(distance / units).min(1), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.score_samples(X[::-1])[::-1], score, rtol=1e-4)
    np.testing.assert_allclose(model.score_samples(X[:3]), score[:3], rtol=1e-4)


def test_images_of_nothing_are_less_normal(fitted):
    X, _, model = fitted
    nothing = np.random.default_rng(1).integers(0, 60, X.shape).astype(np.uint8)
    scores = np.concatenate([model.score_samples(X), model.score_samples(nothing)])
    assert roc_auc_score(np.repeat([1, 0], 150), scores) > 0.9
