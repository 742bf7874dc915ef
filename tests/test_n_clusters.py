"""The number of clusters, chosen without labels."""

import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from estimators import make_stripes
from PIL import Image
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, ClusterMixin, clone, is_clusterer
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.metrics import silhouette_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from toy import Toy

from skdeepcluster import ConsensusClusterer, SelectiveClusterer
from skdeepcluster.metrics import silhouette_scorer, whole_data_split
from skdeepcluster.model_selection import NClustersSearch, select_n_clusters
from skdeepcluster.model_selection._choice import choose
from skdeepcluster.model_selection._evidence import (
    Silhouettes,
    generalization,
    reduced,
    stability,
)

X, Y = make_blobs(240, centers=4, n_features=3, cluster_std=0.8, random_state=3)
KMEANS = KMeans(n_init=3, random_state=0)


@parametrize_with_checks([NClustersSearch(KMEANS, [2, 3], n_splits=1, random_state=0)])
def test_contract_of_scikit_learn(estimator, check):
    check(estimator)


def test_the_right_number_of_separate_clusters_is_chosen_surely():
    search = select_n_clusters(KMEANS, X, range(2, 9), random_state=0)
    assert search.n_clusters_ == 4 and search.candidates_ == [4]
    assert search.confidence_ == "high"
    assert search.reason_.startswith("4 clusters have the highest silhouette")
    assert is_clusterer(search) and search.best_estimator_.n_clusters == 4
    alone = KMeans(4, n_init=3, random_state=0).fit(X)
    np.testing.assert_array_equal(search.labels_, alone.labels_)
    np.testing.assert_array_equal(search.predict(X), alone.labels_)
    np.testing.assert_array_equal(search.transform(X), alone.transform(X))
    assert search.score(X) == alone.score(X)
    assert search.n_features_in_ == 3 and not hasattr(search, "predict_proba")
    assert not hasattr(KMEANS, "labels_")  # clones were fitted


def test_the_curves_are_the_scores_of_the_clusterings():
    search = NClustersSearch(KMEANS, [5, 3, 4, 4], n_splits=2, random_state=1).fit(X)
    results = search.results_
    assert results["n_clusters"].tolist() == [3, 4, 5]
    for row, k in enumerate((3, 4, 5)):
        labels = KMeans(k, n_init=3, random_state=0).fit_predict(X)
        # three features stay as they are, and 240 samples are all compared
        assert results["silhouette"][row] == pytest.approx(silhouette_score(X, labels))
        assert results["smallest"][row] == np.bincount(labels).min() / len(X)
    again = NClustersSearch(KMEANS, [3, 4, 5], n_splits=2, random_state=1).fit(X)
    for name, values in results.items():
        np.testing.assert_array_equal(again.results_[name], values)
    other = clone(again).set_params(random_state=2).fit(X)
    assert (other.results_["stability"] != results["stability"]).any()


def test_evidence_by_hand():
    assert stability([[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1]]) == pytest.approx(
        [1.0, 0.0, 0.0]
    )
    space = np.array([[0.0], [1.0], [9.0], [10.0], [0.4], [9.6]])
    rows, others = np.arange(4), np.array([4, 5])
    # all four rows are the neighbours, so that one label wins both
    labels = np.array([0, 0, 0, 1, 0, 1])
    assert generalization(space, labels, rows, others) == 0.0
    near = np.repeat(space, 20, axis=0)
    labels = (near[:, 0] > 5).astype(int)
    halves = np.arange(0, 120, 2), np.arange(1, 120, 2)
    assert generalization(near, labels, *halves) == 1.0
    silhouettes = Silhouettes(space[:4], np.random.RandomState(0))
    # of each sample: 1 to its own, 9 on average or 8 + 10 over 2 to the others
    expected = np.mean([1 - 1 / 9.5, 1 - 1 / 8.5, 1 - 1 / 8.5, 1 - 1 / 9.5])
    assert silhouettes.of(np.array([0, 0, 1, 1])) == pytest.approx(expected)
    # without the last: 1 and 9; 1 and 8; the third is alone, which counts as 0
    expected = np.mean([1 - 1 / 9, 1 - 1 / 8, 0])
    assert silhouettes.of(np.array([0, 0, 1, -1])) == pytest.approx(expected)
    assert silhouettes.of(np.zeros(4, int)) == silhouettes.of(np.arange(4)) == -1.0


def test_the_reduced_space_is_of_directions_from_the_mean():
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(50, 20)) * np.r_[np.full(10, 5.0), np.ones(10)] + 7
    space = reduced(wide, 0)
    parts = PCA(16, svd_solver="full").fit_transform(wide)
    parts /= np.linalg.norm(parts, axis=1, keepdims=True)
    np.testing.assert_allclose(space @ space.T, parts @ parts.T, atol=1e-6)
    np.testing.assert_array_equal(reduced(wide[:, :16], 0), wide[:, :16])


def curves(stability, silhouette, first=2):
    numbers = np.arange(first, first + len(stability))
    return {
        "n_clusters": numbers,
        "stability": np.array(stability),
        "silhouette": np.array(silhouette),
    }


@pytest.mark.parametrize(
    "stability, silhouette, first, chosen, candidates, confidence, words",
    [
        ([0.9, 0.9, 0.5], [0.2, 0.4, 0.3], 2, 3, [3], "high", "No other number"),
        # the highest silhouette is of an unstable one
        ([0.9, 1.0, 0.5], [0.2, 0.4, 0.6], 2, 3, [3], "high", "higher with 4, but"),
        ([0.7, 0.8, 0.75], [0.2, 0.4, 0.3], 2, 3, [3], "medium", "is not high"),
        ([0.9, 0.9, 0.9], [0.39, 0.4, 0.3], 2, 3, [3, 2], "medium", "2 is almost as"),
        # the smallest of what is tied
        (
            [0.9, 0.9, 0.9, 0.9, 0.9],
            [0.1, 0.2, 0.397, 0.4, 0.1],
            *(2, 4, [4, 5], "medium", "4 is the smallest number of clusters with"),
        ),
        (
            [0.9, 0.9, 0.9, 0.9, 0.9],
            [0.1, 0.4, 0.2, 0.39, 0.1],
            *(2, 3, [3, 5], "low", "5 is almost as good: look"),
        ),
        # tied with the last one, beyond which there may be better ones
        (
            [0.92] * 8,
            [0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.724, 0.7256],
            *(2, 8, [8, 9], "low", "9 is an end of the numbers that were tried: pass"),
        ),
        ([0.5, 0.5], [0.2, 0.3], 2, 3, [3], "low", "all. 3 is an end"),
        ([1.0, 1.0], [-1.0, -1.0], 2, 2, [2], "low", "No number of clusters separates"),
        ([0.4, 0.5, 0.4], [0.2, 0.4, 0.3], 2, 3, [3], "low", "no clusters at all"),
        ([0.9, 0.9, 0.9], [0.2, 0.3, 0.4], 2, 4, [4], "low", "pass numbers beyond"),
        ([0.9, 0.9, 0.9], [0.4, 0.3, 0.2], 2, 2, [2], "high", "of all."),
        ([0.9, 0.9, 0.9], [0.4, 0.3, 0.2], 5, 5, [5], "low", "pass numbers beyond"),
        ([-0.1, -0.2], [-0.3, -0.2], 2, 2, [2], "low", "little agreement"),
        ([1.0], [0.4], 3, 3, [3], "low", "Nothing else was tried"),
    ],
)
def test_choice(stability, silhouette, first, chosen, candidates, confidence, words):
    results = curves(stability, silhouette, first)
    choice = choose(results)
    assert results["n_clusters"][choice.position] == chosen
    assert (choice.candidates, choice.confidence) == (candidates, confidence)
    assert words in choice.reason


def test_pipelines_mixtures_and_wrapped_clusterers():
    inner = make_pipeline(StandardScaler(), KMEANS)
    search = NClustersSearch(inner, [3, 4, 5], random_state=0).fit(X)
    model = search.best_estimator_
    assert model[-1].n_clusters == search.n_clusters_ == 4
    np.testing.assert_array_equal(model.predict(X), search.labels_)
    np.testing.assert_allclose(model[0].mean_, X.mean(axis=0))
    mixture = GaussianMixture(random_state=0)
    search.set_params(estimator=mixture).fit(X)
    assert search.best_estimator_.n_components == 4
    np.testing.assert_array_equal(search.predict_proba(X).argmax(1), search.labels_)
    selective = SelectiveClusterer(mixture, coverage=0.9)
    search.set_params(estimator=selective, parameter="estimator__n_components").fit(X)
    assert search.best_estimator_.estimator_.n_components == search.n_clusters_
    alone = clone(selective).set_params(estimator__n_components=search.n_clusters_)
    np.testing.assert_array_equal(search.labels_, alone.fit_predict(X))
    search.set_params(estimator__coverage=0.5)
    assert search.estimator.coverage == 0.5
    again = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(again.predict(X), search.predict(X))


def test_an_int_asks_for_that_number_alone():
    search = NClustersSearch(KMEANS, 3, random_state=0).fit(X)
    assert search.n_clusters_ == 3 and search.confidence_ == "low"
    grid = GridSearchCV(search, {"n_clusters": [2, 4]}, scoring=silhouette_scorer)
    grid.set_params(cv=whole_data_split(X)).fit(X)
    assert grid.best_params_ == {"n_clusters": 4}


def test_auto_reaches_to_half_of_the_samples():
    search = NClustersSearch(KMEANS, n_splits=1, random_state=0)
    assert search.fit(X).results_["n_clusters"].tolist() == list(range(2, 16))
    assert search.fit(X[:10]).results_["n_clusters"].tolist() == [2, 3, 4, 5]


def test_of_many_samples_some_are_enough():
    search = NClustersSearch(KMEANS, [3, 4, 5], max_samples=100, random_state=0).fit(X)
    assert search.space_.shape == (100, 3) and search.n_clusters_ == 4
    alone = KMeans(4, n_init=3, random_state=0).fit(X)
    np.testing.assert_array_equal(search.labels_, alone.labels_)
    with pytest.raises(ValueError, match="up to 51 with n_samples = 100"):
        search.set_params(n_clusters=[51]).fit(X)


SMALL = {
    "max_epochs": 3,
    "lr": 0.01,
    "batch_size": 30,
    "augment": "weak",
    "device": "cpu",
    "random_state": 0,
}


@pytest.mark.parametrize("strategy", ["auto", "refit"])
def test_estimators_of_this_package(strategy):
    images, _ = make_stripes()
    search = NClustersSearch(
        Toy(**SMALL), [2, 3, 4], strategy=strategy, n_splits=2, random_state=0
    )
    search.fit(images)
    alone = Toy(search.n_clusters_, **SMALL).fit(images)
    np.testing.assert_array_equal(search.labels_, alone.labels_)
    np.testing.assert_array_equal(search.predict(images), alone.labels_)
    # side by side, the embeddings of three fits have 12 columns
    assert search.space_.shape == (60, 4 if strategy == "auto" else 12)
    assert search.n_clusters_ in (3, 4) and len(search.results_["stability"]) == 3


def test_image_files_that_cannot_be_read_are_left_out(tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(30)]
    for path, image in zip(paths, make_stripes()[0], strict=False):
        Image.fromarray(image).save(path)
    (tmp_path / "4.png").write_bytes(b"no picture")
    toy = Toy(**SMALL, on_error="skip", image_shape=(1, 8, 8))
    for strategy in ("embedding", "refit"):
        search = NClustersSearch(toy, [2, 3], strategy=strategy, n_splits=1)
        with pytest.warns(UserWarning, match="4.png"):
            search.fit(paths)
        assert np.flatnonzero(search.labels_ == -1).tolist() == [4]
        assert len(search.space_) == 29
    wrapped = NClustersSearch(SelectiveClusterer(toy), [2, 3], n_splits=1)
    wrapped.set_params(parameter="estimator__n_clusters", max_samples=20)
    with pytest.warns(UserWarning, match="4.png"):
        assert len(wrapped.fit(paths).space_) in (19, 20)  # one embedding, of Toy
    assert wrapped.space_.shape[1] == 4


def test_lines_are_written_where_they_are_wanted(capsys):
    NClustersSearch(KMEANS, [3, 4], n_splits=1, random_state=0).fit(X)
    assert capsys.readouterr().err == ""
    NClustersSearch(KMEANS, [3, 4], n_splits=1, random_state=0, verbose=True).fit(X)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[1].startswith("4 clusters: stability 1.00")


class NoPredict(ClusterMixin, BaseEstimator):
    def fit(self, X, y=None):
        return self


@pytest.mark.parametrize(
    "params, message",
    [
        ({"n_clusters": range(1, 4)}, "begins with 1"),
        ({"n_clusters": []}, "should hold whole numbers"),
        ({"n_clusters": [2.5]}, "should hold whole numbers"),
        ({"n_clusters": range(2, 122)}, "up to 121 with n_samples = 240"),
        ({"n_clusters": "many"}, "'n_clusters' parameter"),
        ({"strategy": "fast"}, "'strategy' parameter"),
        ({"n_splits": 0}, "'n_splits' parameter"),
        ({"estimator": NoPredict()}, "'estimator' parameter"),
        ({"estimator": AgglomerativeClustering()}, "'estimator' parameter"),
        ({"estimator": SelectiveClusterer(GaussianMixture())}, "no parameter"),
        ({"parameter": "k"}, "KMeans has no parameter 'k'.*n_init"),
    ],
)
def test_errors(params, message):
    with pytest.raises(ValueError, match=message):
        NClustersSearch(**{"estimator": KMEANS, **params}).fit(X)


# -- samples that are equal


FIVE = np.repeat(np.random.default_rng(0).normal(size=(5, 4)), 12, axis=0)
MESSAGE = "Only 5 of the 60 rows of X are distinct: .* those above 5 are not tried"


@pytest.mark.parametrize(
    "estimator, X",
    [
        (KMeans(n_init=1, random_state=0), FIVE),
        (GaussianMixture(random_state=0), FIVE),
        (KMeans(n_init=1, random_state=0), csr_array(FIVE)),
        (KMeans(n_init=1, random_state=0), pd.DataFrame(FIVE)),
        (make_pipeline(StandardScaler(), KMeans(n_init=1, random_state=0)), FIVE),
        (Toy(**SMALL), np.rint(50 * FIVE + 128).reshape(60, 2, 2)),
    ],
    ids=["k-means", "mixture", "sparse", "frame", "pipeline", "embedding"],
)
def test_the_range_ends_at_the_number_of_distinct_rows(estimator, X):
    with pytest.warns(UserWarning, match=MESSAGE) as told:
        search = select_n_clusters(estimator, X, range(3, 20), random_state=0)
    assert len(told) == 1  # and none of scikit-learn, for each number and half
    assert search.results_["n_clusters"].tolist() == [3, 4, 5]
    assert search.n_clusters_ == 5 and "beyond" not in search.reason_
    assert len(set(search.labels_)) == 5


def test_halves_with_few_distinct_rows():
    rows = np.vstack([FIVE, 9 + np.arange(40).reshape(10, 4)])
    kmeans = KMeans(n_init=1, random_state=0)
    for estimator in (kmeans, ConsensusClusterer(kmeans, n_runs=2, random_state=0)):
        name = "n_clusters" if estimator is kmeans else "estimator__n_clusters"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            search = NClustersSearch(estimator, [2, 15], parameter=name, n_splits=2)
            search.set_params(random_state=0).fit(rows)
        assert search.results_["n_clusters"].tolist() == [2, 15]


def test_there_are_fewer_distinct_rows_than_clusters():
    for given, said in (
        (FIVE, "Only 5 of the 60 rows of X are distinct.*into 7.*numbers up to 5, or"),
        (np.ones((40, 3)), "All 40 rows of X are equal.*into 7 clusters. Pass other"),
    ):
        for numbers in (7, range(7, 9)):
            with pytest.raises(ValueError, match=said):
                select_n_clusters(KMEANS, given, numbers)


# -- what comes out


def test_frames_come_out_where_they_are_asked_for():
    for kmeans in (KMEANS, make_pipeline(StandardScaler(), clone(KMEANS))):
        search = NClustersSearch(clone(kmeans), [3, 4], n_splits=1, random_state=0)
        plain = clone(search).fit(X)
        assert search.set_output(transform="pandas") is search
        frame = search.fit_transform(X)
        np.testing.assert_allclose(frame, plain.transform(X))
        names = [f"kmeans{k}" for k in range(plain.n_clusters_)]
        assert list(frame.columns) == names
        assert isinstance(clone(search).fit(X).transform(X), pd.DataFrame)
        plain.set_output(transform="polars")
        assert isinstance(plain.fit(X).transform(X), pl.DataFrame)
    assert not hasattr(NClustersSearch(GaussianMixture()), "set_output")
    for wrapper in (ConsensusClusterer, SelectiveClusterer):
        model = wrapper(Toy(**SMALL)).set_output(transform="pandas")
        assert model.get_params()["estimator"]._sklearn_output_config


def test_before_fit():
    with pytest.raises(NotFittedError):
        NClustersSearch(KMEANS).predict(X)
    assert Y.max() == 3  # the data have what the tests look for
