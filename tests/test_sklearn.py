"""The scikit-learn contract, for every estimator of the package."""

import pickle
import random
from contextlib import nullcontext

import joblib
import numpy as np
import pytest
import torch
from estimators import ESTIMATORS, each_estimator, fitted, trained
from numpydoc.docscrape import ClassDoc, FunctionDoc
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skdeepcluster.callbacks import SKLEARN_CALLBACKS
from skdeepcluster.metrics import (
    balance_scorer,
    calinski_harabasz_scorer,
    clustering_accuracy_scorer,
    davies_bouldin_scorer,
    silhouette_scorer,
    whole_data_split,
)

OPTIONAL_CHECKS = [
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_dataframe_column_names_consistency",
    "check_param_validation",
]


def brief(estimator):
    """An unfitted copy of one epoch, for what does not depend on the training."""
    return clone(estimator).set_params(max_epochs=1)


@parametrize_with_checks(ESTIMATORS)  # no expected failure
def test_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("check", OPTIONAL_CHECKS)
@each_estimator
def test_optional_contract(estimator, check):
    getattr(estimator_checks, check)(type(estimator).__name__, brief(estimator))


@pytest.mark.parametrize("seed", range(8))
@each_estimator
def test_contract_of_rows_for_any_seed(estimator, seed):
    # float32 kernels may differ by the shape of a batch: no seed may depend on it
    estimator = brief(estimator).set_params(random_state=seed)
    name = type(estimator).__name__
    estimator_checks.check_methods_subset_invariance(name, estimator)
    estimator_checks.check_methods_sample_order_invariance(name, estimator)


@pytest.fixture
def vectors():
    X, y = make_blobs(90, n_features=6, centers=3, cluster_std=0.6, random_state=0)
    return X, np.array(["ant", "bee", "cat"])[y]


# -- copies and parameters -------------------------------------------------------------


@each_estimator
def test_clone_and_repr(estimator):
    copy = clone(estimator.set_params(net__optimizer__weight_decay=0.1))
    assert copy.get_params()["net__optimizer__weight_decay"] == 0.1
    assert copy is not estimator and "weight_decay" in repr(copy)
    estimator.set_params(net_params=None)


@each_estimator
def test_pickle_and_joblib(estimator, stripes, tmp_path):
    X, _ = stripes
    model = fitted(type(estimator).__name__)
    joblib.dump(model, tmp_path / "fitted.joblib")
    for copy in (
        pickle.loads(pickle.dumps(model)),
        joblib.load(tmp_path / "fitted.joblib"),
    ):
        np.testing.assert_array_equal(copy.predict(X), model.labels_)
        np.testing.assert_array_equal(copy.transform(X), model.transform(X))
        assert copy.history_ == model.history_


@each_estimator
def test_nested_net_parameters(estimator, vectors):
    X, _ = vectors
    est = clone(estimator).set_params(net__optimizer__weight_decay=0.5)
    assert est.net_params == {"optimizer__weight_decay": 0.5}
    strong = est.fit(X).transform(X)
    weak = est.set_params(net__optimizer__weight_decay=0.0).fit(X).transform(X)
    assert not np.allclose(strong, weak)


@each_estimator
def test_predict_equals_labels_and_attributes(estimator, stripes):
    X, _ = stripes
    est = clone(estimator)
    labels = est.fit_predict(X, y=np.array(["whatever"] * len(X), dtype=object))
    assert labels is est.labels_ and labels.dtype == np.int64
    np.testing.assert_array_equal(est.predict(X), labels)
    np.testing.assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))
    np.testing.assert_array_equal(est.cluster_sizes_, np.bincount(labels))
    assert est.n_features_in_ == 64 and est.image_shape_ == (1, 8, 8)
    assert est.n_iter_ == len(est.history_) == est.max_epochs
    assert est.device_ in ("cpu", "cuda")
    embedding = est.fit_transform(X)
    assert embedding.dtype == np.float32
    assert est.cluster_centers_.shape == (labels.max() + 1, embedding.shape[1])
    proba = est.predict_proba(X)
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(proba.argmax(1), est.labels_)
    assert np.isfinite(est.score(X))


@each_estimator
def test_one_cluster(estimator, stripes):
    X, _ = stripes
    est = clone(estimator).set_params(n_clusters=1).fit(X)
    assert set(est.labels_) == {0} and np.isfinite(est.score(X))


# -- compositions ----------------------------------------------------------------------


@each_estimator
def test_last_step_of_a_pipeline(estimator, vectors):
    X, y = vectors
    pipe = make_pipeline(StandardScaler(), PCA(4), trained(estimator))
    labels = pipe.fit_predict(X)
    np.testing.assert_array_equal(pipe.predict(X), labels)
    assert adjusted_rand_score(y, labels) > 0.4


@each_estimator
def test_flat_images_behind_a_scaler(estimator, stripes):
    X, _ = stripes
    est = clone(estimator).set_params(image_shape=(1, 8, 8))
    pipe = make_pipeline(StandardScaler(), est).fit(X.reshape(len(X), -1))
    assert pipe[-1].image_shape_ == (1, 8, 8)
    np.testing.assert_array_equal(pipe.predict(X.reshape(len(X), -1)), pipe[-1].labels_)


@each_estimator
def test_features_for_a_classifier(estimator, stripes):
    X, kinds = stripes
    pipe = make_pipeline(trained(estimator), LogisticRegression()).fit(X, kinds)
    assert pipe.score(X, kinds) > 0.8


@each_estimator
def test_column_transformer(estimator, vectors):
    X, _ = vectors
    columns = ColumnTransformer(
        [("deep", clone(estimator), slice(0, 4)), ("rest", "passthrough", [4, 5])]
    )
    out = columns.fit_transform(X)
    fitted = columns.named_transformers_["deep"]
    assert out.shape == (len(X), fitted.cluster_centers_.shape[1] + 2)
    assert columns.get_feature_names_out()[0].startswith("deep__")


# -- search ----------------------------------------------------------------------------


@pytest.mark.parametrize("scoring", [None, "adjusted_rand_score"])
@each_estimator
def test_grid_search(estimator, vectors, scoring):
    X, y = vectors
    names = "n_clusters", "net__optimizer__weight_decay"
    grid = [dict(zip(names, ([k], [w]), strict=True)) for k, w in ((2, 0.0), (3, 0.1))]
    search = GridSearchCV(brief(estimator), grid, scoring=scoring, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert set(search.best_params_) == set(names)


@pytest.mark.parametrize(
    "scorer",
    [
        silhouette_scorer,
        calinski_harabasz_scorer,
        davies_bouldin_scorer,
        balance_scorer,
    ],
    ids=lambda scorer: scorer.__name__,
)
@each_estimator
def test_grid_search_without_labels(estimator, vectors, scorer):
    X, _ = vectors
    search = GridSearchCV(
        brief(estimator), {"n_clusters": [1, 3]}, scoring=scorer, cv=whole_data_split(X)
    ).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    if scorer is silhouette_scorer:
        assert search.cv_results_["mean_test_score"][0] == -1


@each_estimator
def test_grid_search_in_two_processes(estimator, stripes):
    X, _ = stripes
    pipe = make_pipeline(clone(estimator))
    name = f"{type(estimator).__name__.lower()}__n_clusters"
    results = [
        GridSearchCV(pipe, {name: [2, 3]}, scoring=silhouette_scorer, cv=2, n_jobs=jobs)
        .fit(X)
        .cv_results_["mean_test_score"]
        for jobs in (1, 2)
    ]
    np.testing.assert_allclose(*results, rtol=1e-5)


@each_estimator
def test_cross_validation(estimator, stripes):
    X, kinds = stripes
    names = np.array(["bar", "post", "box"])[kinds]
    labels = cross_val_predict(brief(estimator), X, names, cv=3)
    assert labels.shape == (len(X),) and labels.max() < estimator.n_clusters
    # folds in which a cluster is empty fit together with the others
    many = brief(estimator).set_params(n_clusters=15)
    proba = cross_val_predict(many, X, method="predict_proba", cv=3)
    assert proba.shape == (len(X), 15)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    scores = cross_val_score(
        brief(estimator), X, names, scoring=clustering_accuracy_scorer, cv=2
    )
    assert ((scores > 0) & (scores <= 1)).all()


@each_estimator
def test_code_that_used_kmeans(estimator, vectors):
    X, y = vectors
    for model in (KMeans(3, random_state=0), trained(estimator)):
        assert adjusted_rand_score(y, model.fit_predict(X)) > 0.4
        assert model.fit(X).transform(X).shape[0] == len(X)
        found = model.cluster_centers_.shape[0]
        assert found == 3, "add settings to ENOUGH that find all clusters"


# -- randomness ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, None])
@each_estimator
def test_global_random_state_is_untouched(estimator, stripes, seed):
    X, _ = stripes
    states = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())
    clone(estimator).set_params(random_state=seed).fit(X).transform(X)
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


@each_estimator
def test_same_seed_same_labels_bit_for_bit(estimator, stripes):
    X, _ = stripes
    first, second = (clone(estimator).fit(X) for _ in range(2))
    np.testing.assert_array_equal(first.labels_, second.labels_)
    np.testing.assert_array_equal(first.transform(X), second.transform(X))
    other = clone(estimator).set_params(random_state=1).fit(X)
    assert not np.array_equal(first.transform(X), other.transform(X))


# -- scikit-learn's callbacks ----------------------------------------------------------

needs_callbacks = pytest.mark.skipif(
    not SKLEARN_CALLBACKS, reason="scikit-learn has callbacks since 1.9"
)


@needs_callbacks
@each_estimator
def test_sklearn_scoring_monitor(estimator, stripes):
    from sklearn.callback import ScoringMonitor

    X, kinds = stripes
    monitor = ScoringMonitor(scoring="adjusted_rand_score")
    est = clone(estimator).set_callbacks(monitor).fit(X, kinds)
    logs = monitor.get_logs().data_as_pandas
    assert len(logs) >= est.n_iter_
    pickle.dumps(est.set_callbacks())


@needs_callbacks
@each_estimator
def test_sklearn_progress_bar(estimator, stripes, capsys):
    from sklearn.callback import ProgressBar

    X, _ = stripes
    clone(estimator).set_callbacks(ProgressBar()).fit(X)
    assert type(estimator).__name__ in capsys.readouterr().out


@needs_callbacks
@each_estimator
def test_sklearn_callback_stops_training(estimator, stripes):
    class Stop:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context): ...

        def on_fit_task_end(self, estimator, context):
            return context.task_name == "epoch" and context.task_id >= 1

    X, _ = stripes
    est = clone(estimator).set_params(max_epochs=9).set_callbacks(Stop()).fit(X)
    assert est.n_iter_ == 2
    np.testing.assert_array_equal(est.predict(X), est.labels_)


# -- documentation ---------------------------------------------------------------------


@each_estimator
def test_public_methods_are_documented(estimator):
    cls = type(estimator)
    names = {"fit", "predict", "predict_proba", "transform", "score", "score_samples"}
    for name in names & set(dir(cls)):
        doc = FunctionDoc(getattr(cls, name))
        with nullcontext(name):
            assert doc["Parameters"] and doc["Returns"] and doc["Raises"]


@each_estimator
def test_fitted_attributes_are_documented(estimator):
    attributes = ClassDoc(type(estimator))["Attributes"]
    documented = {name for p in attributes for name in p.name.split(", ")}
    names = vars(fitted(type(estimator).__name__))
    public = {n for n in names if n.endswith("_") and not n.startswith("_")}
    assert public <= documented
