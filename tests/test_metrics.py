import pickle
from functools import partial
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import (
    adjusted_rand_score,
    balanced_accuracy_score,
    calinski_harabasz_score,
    davies_bouldin_score,
    get_scorer,
    normalized_mutual_info_score,
    silhouette_score,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdeepcluster import metrics
from skdeepcluster.metrics import (
    balance_scorer,
    balanced_clustering_accuracy,
    balanced_clustering_accuracy_scorer,
    calibration_scorer,
    calinski_harabasz_scorer,
    cluster_balance,
    clustering_accuracy,
    clustering_accuracy_scorer,
    davies_bouldin_scorer,
    expected_calibration_error,
    facet_label_scores,
    per_class_recall,
    purity_score,
    silhouette_scorer,
    whole_data_split,
)

LABEL_METRICS = [
    clustering_accuracy,
    balanced_clustering_accuracy,
    per_class_recall,
    purity_score,
]
LABEL_FREE = [
    silhouette_scorer,
    calinski_harabasz_scorer,
    davies_bouldin_scorer,
    balance_scorer,
]
SCORERS = [
    *LABEL_FREE,
    calibration_scorer,
    clustering_accuracy_scorer,
    balanced_clustering_accuracy_scorer,
]


class SoftKMeans(TransformerMixin, ClusterMixin, BaseEstimator):
    """The methods of a deep clusterer, around k-means."""

    def __init__(self, n_clusters=3):
        self.n_clusters = n_clusters

    def fit(self, X, y=None):
        self.kmeans_ = KMeans(self.n_clusters, n_init=5, random_state=0).fit(X)
        self.labels_ = self.kmeans_.labels_
        return self

    def transform(self, X):
        return 2 * np.asarray(X)

    def predict_proba(self, X):
        odds = np.exp(-self.kmeans_.transform(X))
        return odds / odds.sum(axis=1, keepdims=True)

    def predict(self, X):
        return self.predict_proba(X).argmax(axis=1)


class Fixed(TransformerMixin, ClusterMixin, BaseEstimator):
    """Predicts the last column of X; the others are the embedding."""

    n_rows_seen = 0

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        self.n_rows_seen = len(X)
        return np.asarray(X)[:, :-1]

    def predict(self, X):
        return np.asarray(X)[:, -1].astype(int)


@pytest.fixture(scope="module")
def blobs():
    return make_blobs(n_samples=120, centers=4, cluster_std=0.6, random_state=3)


def brute_force(labels_true, labels_pred):
    """Best accuracy and best mean recall over all one-to-one matchings."""
    n = max(labels_true.max(), labels_pred.max()) + 1
    classes = np.unique(labels_true)
    accuracy, balanced = [], []
    for permutation in permutations(range(n)):
        correct = np.array(permutation)[labels_pred] == labels_true
        accuracy.append(correct.mean())
        balanced.append(np.mean([correct[labels_true == c].mean() for c in classes]))
    return max(accuracy), max(balanced)


@pytest.mark.parametrize("n_classes, n_clusters", [(3, 3), (5, 3), (2, 6), (1, 4)])
def test_accuracies_are_the_best_of_all_matchings(n_classes, n_clusters):
    rng = np.random.default_rng(n_classes)
    for _ in range(10):
        # sizes of the classes differ, so that the two matchings differ at times
        labels_true = np.minimum(rng.geometric(0.5, 40), n_classes) - 1
        labels_true[:n_classes] = np.arange(n_classes)
        labels_pred = (labels_true + rng.integers(0, 3, 40)) % n_clusters
        accuracy, balanced = brute_force(labels_true, labels_pred)
        assert clustering_accuracy(labels_true, labels_pred) == pytest.approx(accuracy)
        assert balanced_clustering_accuracy(labels_true, labels_pred) == (
            pytest.approx(balanced)
        )


def test_balanced_accuracy_has_its_own_matching():
    # Cluster 0 holds 6 of 10 "a" and 3 of 3 "b"; cluster 1 holds 4 of 10 "a".
    labels_true = np.array(["a"] * 10 + ["b"] * 3)
    labels_pred = np.array([0] * 6 + [1] * 4 + [0] * 3)
    # "b" to cluster 0 and "a" to cluster 1, against "a" to cluster 0
    assert clustering_accuracy(labels_true, labels_pred) == pytest.approx(7 / 13)
    assert balanced_clustering_accuracy(labels_true, labels_pred) == pytest.approx(0.7)
    labels_pred = np.array([0] * 9 + [1] * 1 + [0] * 3)
    # 9 of 13 with "a" to cluster 0; mean recall .55 the other way, .45 this way
    assert clustering_accuracy(labels_true, labels_pred) == pytest.approx(9 / 13)
    assert balanced_clustering_accuracy(labels_true, labels_pred) == pytest.approx(0.55)
    assert per_class_recall(labels_true, labels_pred).tolist() == [0.9, 0.0]


def test_balanced_accuracy_agrees_with_sklearn_where_clusters_are_classes():
    rng = np.random.default_rng(0)
    labels_true = np.repeat([0, 1, 2], [50, 20, 5])
    labels_pred = np.where(rng.random(75) < 0.8, labels_true, 0)
    expected = balanced_accuracy_score(labels_true, labels_pred)
    found = balanced_clustering_accuracy(labels_true, (labels_pred + 1) % 3)
    assert found == pytest.approx(expected)


def test_per_class_recall_weighted_by_size_is_the_accuracy():
    rng = np.random.default_rng(1)
    labels_true = rng.integers(0, 4, 60)
    labels_pred = np.where(rng.random(60) < 0.6, labels_true, rng.integers(0, 6, 60))
    sizes = np.bincount(labels_true)
    recall = per_class_recall(labels_true, labels_pred)
    assert recall.shape == (4,)
    assert (recall * sizes).sum() / 60 == pytest.approx(
        clustering_accuracy(labels_true, labels_pred)
    )


def test_per_class_recall_is_in_the_order_of_sorted_classes():
    recall = per_class_recall(["z", "z", "b", "b", "m"], [7, 7, 7, 3, 5])
    assert recall.tolist() == [0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    "convert",
    [
        list,
        np.asarray,
        pd.Series,
        pd.Categorical,
        lambda y: np.array(y, dtype=object),
    ],
)
def test_labels_of_any_type(convert):
    labels_true = ["cat", "dog", "cat", "eel"]
    assert clustering_accuracy(convert(labels_true), [5, -1, 5, 5]) == 0.75
    assert clustering_accuracy(torch.tensor([5, -1, 5, 5]), convert(labels_true)) == (
        0.75
    )


@pytest.mark.parametrize("metric", LABEL_METRICS)
@pytest.mark.parametrize(
    "labels_true, labels_pred, message",
    [
        ([], [], "0 sample"),
        ([0, 1], [0, 1, 1], "inconsistent numbers of samples"),
        ([0, 1], [[0.9, 0.1], [0.2, 0.8]], r"labels_pred should be .* shape \(2, 2\)"),
        ([[0], [1]], [0, 1], "labels_true should be labels of shape"),
        ([0.0, np.nan], [0, 1], "labels_true contains NaN"),
    ],
)
def test_errors_of_labels(metric, labels_true, labels_pred, message):
    with pytest.raises(ValueError, match=message):
        metric(labels_true, labels_pred)


def test_purity_by_hand():
    # cluster 0 holds a a b, cluster 1 holds b b b c, cluster 2 holds a c
    labels_true = list("aab" + "bbbc" + "ac")
    labels_pred = [0] * 3 + [1] * 4 + [2] * 2
    assert purity_score(labels_true, labels_pred) == pytest.approx((2 + 3 + 1) / 9)
    # several clusters of one class are no error; one cluster of several classes is
    assert purity_score(list("aabb"), [0, 1, 2, 3]) == 1
    assert purity_score(list("aaab"), [5, 5, 5, 5]) == 0.75
    # the classes vote in the clusters, not the other way round
    assert purity_score([5, 5, 5, 5], list("aaab")) == 1


def test_purity_is_the_accuracy_where_a_cluster_may_be_matched_again():
    rng = np.random.default_rng(0)
    for n_clusters in (2, 4, 9):
        labels_true = rng.integers(0, 4, 80)
        labels_pred = (labels_true + rng.integers(0, 3, 80)) % n_clusters
        votes = [np.bincount(labels_true[labels_pred == k]) for k in set(labels_pred)]
        expected = sum(vote.max() for vote in votes) / 80
        assert purity_score(labels_true, labels_pred) == pytest.approx(expected)
        assert expected >= clustering_accuracy(labels_true, labels_pred)


def test_facet_label_scores_by_hand():
    Y = np.array([["disc", "red"], ["disc", "blue"], ["ring", "red"], ["ring", "blue"]])
    facet_labels = np.array([[0, 3, 0], [0, 0, 0], [1, 3, 0], [1, 1, 0]])
    scores = facet_label_scores(facet_labels, Y)
    assert scores.purity.tolist() == [[1, 0.5], [0.75, 1], [0.5, 0.5]]
    assert scores.accuracy.tolist() == [[1, 0.5], [0.5, 0.75], [0.5, 0.5]]
    # the second facet has entropy 3/2 log 2, and tells half a bit of the shape
    expected = [[1, 0], [0.5 / 1.25, 1 / 1.25], [0, 0]]
    np.testing.assert_allclose(scores.nmi, expected, atol=1e-12)
    assert scores.ari[0].tolist() == [1, -0.5]


def test_facet_label_scores_are_those_of_each_pair():
    rng = np.random.default_rng(0)
    facet_labels, Y = rng.integers(0, 5, (50, 3)), rng.integers(0, 3, (50, 2))
    scores = facet_label_scores(torch.from_numpy(facet_labels), pd.DataFrame(Y))
    assert sorted(scores) == ["accuracy", "ari", "nmi", "purity"]
    for j in range(3):
        for m in range(2):
            pair = Y[:, m], facet_labels[:, j]
            assert scores.purity[j, m] == purity_score(*pair)
            assert scores.accuracy[j, m] == clustering_accuracy(*pair)
            assert scores.nmi[j, m] == normalized_mutual_info_score(*pair)
            assert scores.ari[j, m] == adjusted_rand_score(*pair)


def test_facet_label_scores_of_single_columns():
    labels, y = [0, 0, 1, 1], ["a", "a", "a", "b"]
    for one in (labels, np.reshape(labels, (4, 1)), torch.tensor(labels)):
        for other in (y, np.reshape(y, (4, 1)), pd.Series(y), pd.DataFrame({"y": y})):
            assert facet_label_scores(one, other).purity.tolist() == [[0.75]]


@pytest.mark.parametrize(
    "facet_labels, Y, message",
    [
        ([[0], [1]], [[0], [1], [1]], "inconsistent numbers of samples"),
        ([], [0], r"facet_labels should be labels of shape .* got .* shape \(0,\)"),
        ([0, 1], np.zeros((2, 0)), r"Y should be labels .* shape \(2, 0\)"),
        ([0, 1], np.zeros((2, 1, 1)), r"Y should be labels .* shape \(2, 1, 1\)"),
        (3, [0], r"facet_labels should be .* shape \(\)"),
        ([0, 1], [[0.0], [np.nan]], "Y contains NaN"),
    ],
)
def test_errors_of_facet_label_scores(facet_labels, Y, message):
    with pytest.raises(ValueError, match=message):
        facet_label_scores(facet_labels, Y)


def test_calibration_error_by_hand():
    # columns 0, 1, 2 are matched to "c", "a", "b"
    labels_true = ["c", "c", "a", "c", "b", "a"]
    proba = [
        [0.9, 0.1, 0.0],  # right, bin (0.8, 1]
        [0.7, 0.2, 0.1],  # right, bin (0.6, 0.8]
        [0.2, 0.8, 0.0],  # right, its confidence is the upper edge of (0.6, 0.8]
        [0.0, 1.0, 0.0],  # wrong, bin (0.8, 1]
        [0.2, 0.3, 0.5],  # right, bin (0.4, 0.6]
        [0.1, 0.3, 0.6],  # wrong, bin (0.4, 0.6]
    ]
    by_bin = [(2 / 6, 0.5, 0.95), (2 / 6, 1.0, 0.75), (2 / 6, 0.5, 0.55)]
    expected = sum(share * abs(acc - conf) for share, acc, conf in by_bin)
    found = expected_calibration_error(labels_true, proba, n_bins=5)
    assert found == pytest.approx(expected)
    # in one bin over- and under-confidence cancel
    one_bin = abs(4 / 6 - np.mean([0.9, 0.7, 0.8, 1.0, 0.5, 0.6]))
    assert expected_calibration_error(labels_true, proba, n_bins=1) == (
        pytest.approx(one_bin)
    )


def test_calibration_error_of_extremes():
    certain = np.eye(3)[[0, 1, 2, 0]]
    assert expected_calibration_error([2, 0, 1, 2], certain) == 0
    # four classes, three clusters: the class left over is wrong with confidence 1
    assert expected_calibration_error([2, 0, 1, 3], certain) == 0.25
    # three clusters, two classes: the cluster left over is wrong, whoever is in it
    assert expected_calibration_error([0, 1, 0, 0], certain) == 0.25
    # clusters that no sample is in take no class away from another
    unused = np.full((4, 5), 0.1)
    unused[:, 4] = 0.6
    assert expected_calibration_error(["a"] * 4, unused) == pytest.approx(0.4)


def test_calibration_error_of_a_calibrated_model_vanishes():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 20_000)
    cluster = rng.integers(0, 2, 20_000)
    right = rng.random(20_000) < confidence
    proba = np.stack([confidence, 1 - confidence], axis=1)
    proba[cluster == 1] = proba[cluster == 1, ::-1]
    labels_true = np.where(right, cluster, 1 - cluster)
    assert expected_calibration_error(labels_true, proba) < 0.02
    assert expected_calibration_error(labels_true, proba.round()) > 0.2


def test_calibration_error_takes_low_precision_tensors():
    proba = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).softmax(1).to(torch.bfloat16)
    expected = 1 - proba.double().max(dim=1).values.mean().item()
    found = expected_calibration_error([1, 0], proba, n_bins=1)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    "proba, n_bins, message",
    [
        ([[3.0, -2.0], [0.0, 1.0]], 15, "from -2 to 3"),
        ([[0.4, 0.4], [0.5, 0.5]], 15, "summing to 0.8 to 1"),
        ([[0.5, 0.5]], 15, "inconsistent numbers of samples"),
        ([0.5, 0.5], 15, "Expected 2D array"),
        ([[0.5, 0.5], [0.5, 0.5]], 0, "n_bins=0 should be a positive integer"),
        ([[0.5, 0.5], [0.5, 0.5]], 2.5, "n_bins=2.5 should be a positive integer"),
    ],
)
def test_errors_of_calibration_error(proba, n_bins, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error([0, 1], proba, n_bins)


def test_cluster_balance_by_hand():
    labels = [0] * 6 + [1] * 2
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert cluster_balance(labels) == pytest.approx(entropy / np.log(2))
    assert cluster_balance(labels, n_clusters=5) == pytest.approx(entropy / np.log(5))
    assert cluster_balance(["x"] * 4) == 0
    assert cluster_balance(["x"] * 4, n_clusters=1) == 0
    # rounding alone would exceed 1 for some of these
    assert max(cluster_balance(np.arange(k)) for k in range(2, 60)) == 1


def test_cluster_balance_errors():
    with pytest.raises(ValueError, match="holds 3 clusters, more than n_clusters=2"):
        cluster_balance([0, 1, 2], n_clusters=2)
    with pytest.raises(ValueError, match="0 sample"):
        cluster_balance([])


@pytest.mark.parametrize(
    "scorer, score, sign",
    [
        (silhouette_scorer, silhouette_score, 1),
        (calinski_harabasz_scorer, calinski_harabasz_score, 1),
        (davies_bouldin_scorer, davies_bouldin_score, -1),
    ],
)
def test_label_free_scorers_score_the_embedding(blobs, scorer, score, sign):
    X, _ = blobs
    stretched = np.c_[X[:, 0] * 50, X[:, 1]]
    model = SoftKMeans(4).fit(X)
    model.transform = lambda X: stretched
    expected = sign * score(stretched, model.predict(X))
    assert scorer(model, X) == pytest.approx(expected)
    assert expected != pytest.approx(sign * score(X, model.predict(X)), rel=1e-3)


@pytest.mark.parametrize(
    "scorer, worst",
    [
        (silhouette_scorer, -1.0),
        (calinski_harabasz_scorer, 0.0),
        (davies_bouldin_scorer, -1e6),
    ],
)
@pytest.mark.parametrize("labels", [np.zeros(6), np.arange(6)])
def test_label_free_scorers_where_the_score_is_undefined(scorer, worst, labels):
    X = np.c_[np.random.default_rng(0).normal(size=(6, 2)), labels]
    assert scorer(Fixed(), X) == worst


def test_davies_bouldin_tells_collapsed_from_perfect():
    labels = [0, 0, 1, 1]
    collapsed = np.c_[np.ones((4, 2)), labels]
    perfect = np.c_[labels, labels, labels]
    around_one_centre = np.c_[[-1.0, 1.0, -2.0, 2.0], np.zeros(4), labels]
    almost_one_centre = np.c_[[-1.0, 1.0, -2.0, 2.0 + 1e-7], np.zeros(4), labels]
    assert davies_bouldin_scorer(Fixed(), collapsed) == -1e6
    assert davies_bouldin_scorer(Fixed(), around_one_centre) == -1e6
    assert davies_bouldin_scorer(Fixed(), almost_one_centre) == -1e6
    assert davies_bouldin_scorer(Fixed(), perfect) == 0


def test_silhouette_is_scored_on_a_fixed_sample():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 200)
    X = np.c_[rng.normal(size=(400, 2)) + 2 * labels[:, None], labels]
    model = Fixed()
    whole = silhouette_scorer(model, X)
    assert model.n_rows_seen == 400
    state = np.random.get_state()[1].tolist()
    sampled = silhouette_scorer(model, X, sample_size=100)
    assert model.n_rows_seen == 100
    assert sampled != whole
    assert sampled == pytest.approx(whole, abs=0.1)
    assert sampled == silhouette_scorer(model, X, sample_size=100)
    assert sampled == silhouette_scorer(model, X.tolist(), sample_size=100)
    assert np.random.get_state()[1].tolist() == state


def test_balance_scorer_counts_empty_clusters(blobs):
    X, _ = blobs
    model = SoftKMeans(4).fit(X)
    assert balance_scorer(model, X) == pytest.approx(1.0, abs=1e-3)
    one = X[model.predict(X) == 0]
    assert balance_scorer(model, one) == 0
    two = X[np.isin(model.predict(X), [0, 1])]
    assert balance_scorer(model, two) == pytest.approx(0.5, abs=1e-3)
    pipeline = make_pipeline(StandardScaler(), SoftKMeans(4)).fit(X)
    labels = pipeline.predict(two)
    assert balance_scorer(pipeline, two) == cluster_balance(labels, n_clusters=4)
    # the number is not known where it is no integer
    model.n_clusters = (4, 3)
    assert balance_scorer(model, two) == pytest.approx(1.0, abs=1e-3)


def test_scorers_with_labels(blobs):
    X, y = blobs
    names = np.array(["fox", "gnu", "hen", "owl"])[y]
    model = SoftKMeans(3).fit(X)
    labels, proba = model.predict(X), model.predict_proba(X)
    assert clustering_accuracy_scorer(model, X, names) == 0.75
    assert balanced_clustering_accuracy_scorer(model, X, names) == (
        balanced_clustering_accuracy(names, labels)
    )
    error = expected_calibration_error(names, proba)
    assert calibration_scorer(model, X, names) == -error
    assert error > 0


@pytest.mark.parametrize("scorer", SCORERS)
def test_scorers_can_be_pickled(scorer, blobs):
    X, y = blobs
    model = SoftKMeans(3).fit(X)
    again = pickle.loads(pickle.dumps(scorer))
    assert again(model, X, y) == scorer(model, X, y)
    assert get_scorer(scorer) is scorer


def test_grid_search_on_two_processes_finds_the_number_of_clusters(blobs):
    X, y = blobs
    search = GridSearchCV(
        SoftKMeans(),
        {"n_clusters": [1, 2, 4, 8]},
        scoring={
            "silhouette": silhouette_scorer,
            "small": partial(silhouette_scorer, sample_size=60),
            "accuracy": clustering_accuracy_scorer,
            "balance": balance_scorer,
            "davies_bouldin": davies_bouldin_scorer,
        },
        refit="silhouette",
        cv=whole_data_split(X),
        n_jobs=2,
        error_score="raise",
    ).fit(X, y)
    assert search.best_params_ == {"n_clusters": 4}
    results = search.cv_results_
    assert results["mean_test_silhouette"][0] == -1
    assert results["mean_test_small"].argmax() == 2
    assert results["mean_test_accuracy"][2] == 1
    assert results["mean_test_balance"][0] == 0
    assert all(np.isfinite(v).all() for k, v in results.items() if "mean_test" in k)
    # trained and scored on all samples
    assert results["mean_test_silhouette"][2] == pytest.approx(
        silhouette_scorer(search.best_estimator_, X)
    )


def test_grid_search_without_labels(blobs):
    X, _ = blobs
    search = GridSearchCV(
        SoftKMeans(),
        {"n_clusters": [3, 4]},
        scoring=silhouette_scorer,
        cv=whole_data_split(len(X)),
    )
    assert search.fit(X).best_params_ == {"n_clusters": 4}


@pytest.mark.parametrize(
    "X", [5, np.int64(5), np.zeros((5, 1, 2, 2)), ["a.png"] * 5, torch.zeros(5, 2)]
)
def test_whole_data_split(X):
    ((train, test),) = whole_data_split(X)
    assert train.tolist() == test.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("X", [0, -1, []])
def test_whole_data_split_of_nothing(X):
    with pytest.raises(ValueError, match=r"Got (0|-1) samples to split"):
        whole_data_split(X)


def test_all_names_exist():
    assert sorted(metrics.__all__) == metrics.__all__
    assert all(hasattr(metrics, name) for name in metrics.__all__)
