"""The reject option: what is uncertain has label -1."""

import pickle

import numpy as np
import pytest
from estimators import fitted, make_stripes
from PIL import Image
from sklearn.base import BaseEstimator, ClusterMixin, clone, is_clusterer
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skdeepcluster import ConsensusClusterer, DigPro, SelectiveClusterer
from skdeepcluster.model_selection import NClustersSearch

CONFIDENCE = np.array([0.9, 0.6, np.nan, 0.75, 0.6, 1.0, 0.55])
X, Y = make_blobs(100, centers=3, cluster_std=2.5, random_state=0)


class Given(ClusterMixin, BaseEstimator):
    """Has two clusters, and confidences that were given."""

    def fit(self, X, y=None):
        self.labels_ = self.predict_proba(X).argmax(axis=1)
        return self

    def predict_proba(self, X):
        odd = np.arange(len(CONFIDENCE)) % 2 == 1
        first = np.where(odd, 1 - CONFIDENCE, CONFIDENCE)
        return np.stack([first, 1 - first], axis=1)


@parametrize_with_checks(
    [
        SelectiveClusterer(GaussianMixture(2, random_state=0), threshold=0.6),
        SelectiveClusterer(GaussianMixture(2, random_state=0), coverage=0.9),
    ]
)
def test_contract_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "params, labels, threshold",
    [
        ({"threshold": 0.0}, [0, 1, -1, 1, 0, 1, 0], 0.0),
        ({"threshold": 0.6}, [0, 1, -1, 1, 0, 1, -1], 0.6),
        ({"threshold": 0.7}, [0, -1, -1, 1, -1, 1, -1], 0.7),
        ({"threshold": 1}, [-1, -1, -1, -1, -1, 1, -1], 1.0),
        ({"coverage": 1.0}, [0, 1, -1, 1, 0, 1, 0], 0.55),
        ({"coverage": 0.5, "threshold": 0.99}, [0, -1, -1, 1, -1, 1, -1], 0.75),
        # the fourth and the fifth are equally certain
        ({"coverage": 4 / 6}, [0, 1, -1, 1, 0, 1, -1], 0.6),
        ({"coverage": 0.0}, [-1] * 7, np.inf),
    ],
)
def test_what_is_below_the_threshold_has_no_label(params, labels, threshold):
    model = SelectiveClusterer(Given(), **params)
    np.testing.assert_array_equal(model.fit_predict(CONFIDENCE), labels)
    np.testing.assert_array_equal(model.predict(CONFIDENCE), labels)
    assert model.labels_.dtype == np.int64
    assert model.threshold_ == pytest.approx(threshold)
    assert model.coverage_ == pytest.approx(np.mean(np.array(labels) >= 0))


def test_it_is_the_clusterer_but_for_the_labels():
    inner = make_pipeline(StandardScaler(), GaussianMixture(3, random_state=0))
    model = SelectiveClusterer(inner, threshold=0.9).fit(X)
    alone = clone(inner).fit(X)
    np.testing.assert_array_equal(model.predict_proba(X), alone.predict_proba(X))
    assert model.score(X) == alone.score(X)
    labels, kept = alone.predict(X), alone.predict_proba(X).max(axis=1) >= 0.9
    assert 0 < kept.sum() < len(X)
    np.testing.assert_array_equal(model.labels_, np.where(kept, labels, -1))
    assert model.n_features_in_ == 2 and not hasattr(model, "feature_names_in_")
    assert is_clusterer(model) and not hasattr(model, "transform")
    assert not hasattr(inner[-1], "converged_")  # a clone was fitted
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.labels_)


def test_more_is_right_of_what_is_kept():
    mixture = GaussianMixture(3, random_state=0)
    model = SelectiveClusterer(mixture, coverage=0.6).fit(X)
    truth = GaussianMixture(3, random_state=0).fit(X).predict(X)
    matched = np.array([np.bincount(Y[truth == k]).argmax() for k in range(3)])
    right, kept = matched[truth] == Y, model.labels_ >= 0
    assert right[kept].mean() > right.mean() > right[~kept].mean()


def test_search_over_the_clusterer_and_the_threshold():
    model = SelectiveClusterer(GaussianMixture(random_state=0))
    grid = {"estimator__n_components": [1, 3], "threshold": [0.5, 0.8]}
    apart, _ = make_blobs(90, centers=3, cluster_std=0.5, random_state=0)
    search = GridSearchCV(model, grid, cv=3).fit(apart)
    assert search.best_params_["estimator__n_components"] == 3
    labels = search.best_estimator_.labels_
    assert set(labels) <= {-1, 0, 1, 2}


def test_images_of_files_that_cannot_be_read_are_uncertain(tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(31)]
    for path, image in zip(paths, make_stripes()[0], strict=False):
        Image.fromarray(image).save(path)
    (tmp_path / "4.png").write_bytes(b"no picture")
    inner = clone(fitted("DigPro")).set_params(on_error="skip", image_shape=(1, 8, 8))
    with pytest.warns(UserWarning, match="4.png"):
        model = SelectiveClusterer(inner, threshold=0.0).fit(paths)
    assert np.flatnonzero(model.labels_ == -1).tolist() == [4]
    assert model.transform(paths[:3]).shape == (3, 8)
    assert list(model.get_feature_names_out()) == [f"digpro{i}" for i in range(8)]
    assert model.estimator_.skipped_[0][0] == 4
    assert isinstance(model.estimator_, DigPro)


def test_errors():
    with pytest.raises(NotFittedError):
        SelectiveClusterer(Given()).predict(X)
    with pytest.raises(ValueError, match="'threshold' parameter"):
        SelectiveClusterer(Given(), threshold=1.5).fit(CONFIDENCE)
    with pytest.raises(ValueError, match="'coverage' parameter"):
        SelectiveClusterer(Given(), coverage=-0.1).fit(CONFIDENCE)
    with pytest.raises(ValueError, match="'estimator' parameter"):
        SelectiveClusterer(KMeans(2)).fit(X)


@pytest.mark.parametrize(
    "outer", [SelectiveClusterer, ConsensusClusterer, NClustersSearch]
)
def test_a_class_is_no_clusterer(outer):
    with pytest.raises(TypeError, match=r"is a class; .* Pass Gaussian"):
        outer(GaussianMixture).fit([[0.0], [1.0], [2.0]])
