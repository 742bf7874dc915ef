"""Several runs of one clusterer: what they agree on."""

import os
import pickle
import signal
from typing import ClassVar

import numpy as np
import pytest
from estimators import each_estimator, fitted, make_stripes
from joblib import parallel_config
from PIL import Image
from sklearn.base import BaseEstimator, ClusterMixin, clone, is_clusterer
from sklearn.cluster import DBSCAN, KMeans, SpectralClustering
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from skorch.callbacks import Callback
from toy import IMAGES, make

from skdeepcluster import ConsensusClusterer, SelectiveClusterer
from skdeepcluster.consensus import best_jaccard, matched, overlaps
from skdeepcluster.metrics import clustering_accuracy

X, Y = make_blobs(120, centers=5, cluster_std=2.0, random_state=0)
KMEANS = KMeans(5, n_init=1, init="random")


class Given(ClusterMixin, BaseEstimator):
    """Each fit has the labels that come next."""

    def __init__(self, draw, random_state=None):
        self.draw, self.random_state = draw, random_state

    def fit(self, X, y=None):
        self.labels_ = np.array(self.draw())
        return self

    def predict(self, X):
        return self.labels_


class Soft(Given):
    """Each fit has the probabilities that come next."""

    def fit(self, X, y=None):
        self.proba_ = np.array(self.draw())
        self.labels_ = self.proba_.argmax(axis=1)
        return self

    def predict_proba(self, X):
        return self.proba_


def consensus_of(runs, kind=Given, **params):
    left = iter(runs)
    model = ConsensusClusterer(kind(lambda: next(left)), n_runs=len(runs), **params)
    return model.fit(np.zeros((len(runs[0]), 1)))


def of_classifiers(estimator):
    # what has probabilities and takes sparse data is taken for a classifier there
    sparse = ("check_estimator_sparse_array", "check_estimator_sparse_matrix")
    kmeans = isinstance(estimator.estimator, KMeans)
    return dict.fromkeys(sparse, "asks for tags of a classifier") if kmeans else {}


@parametrize_with_checks(
    [
        ConsensusClusterer(KMeans(2, n_init=1), n_runs=2, random_state=0),
        ConsensusClusterer(GaussianMixture(2), n_runs=2, random_state=0),
    ],
    expected_failed_checks=of_classifiers,
)
def test_contract_of_scikit_learn(estimator, check):
    check(estimator)


def test_agreement_of_three_runs_by_hand():
    # the second is the first with other numbers; in the third one sample has moved
    runs = [
        [0, 0, 0, 1, 1, 1, 2, 2],
        [2, 2, 2, 0, 0, 0, 1, 1],
        [1, 1, 0, 0, 0, 0, 2, 2],
    ]
    model = consensus_of(runs)
    assert model.labels_.tolist() == runs[0] and model.labels_.dtype == np.int64
    np.testing.assert_allclose(model.agreement_, [1, 1, 2 / 3, 1, 1, 1, 1, 1])
    # {0, 1} of {0, 1, 2}, and {3, 4, 5} in {2, 3, 4, 5}
    jaccard = [(2 + 2 / 3) / 3, (2 + 3 / 4) / 3, 1]
    np.testing.assert_allclose(model.cluster_agreement_, jaccard)
    # 5 pairs together in both, 7 and 8 in one, of 28
    ari = (5 - 2) / (7.5 - 2)
    np.testing.assert_allclose(
        model.pairwise_ari_, [[1, 1, ari], [1, 1, ari], [ari, ari, 1]]
    )
    assert model.estimator_ is model.estimators_[0]
    assert model.predict(X[:8]).tolist() == runs[0]
    np.testing.assert_allclose(model.predict_agreement(X[:8]), model.agreement_)
    np.testing.assert_allclose(model.predict_proba(X[:8])[2], [2 / 3, 1 / 3, 0])


def test_a_label_that_no_sample_had_is_no_vote():
    model = consensus_of([[0, 0, 1], [0, 0, 1], [0, 0, 1]])
    model.estimators_[2].labels_ = np.array([0, 2, 1])  # of a center that had no sample
    assert model.predict(X[:3]).tolist() == [0, 0, 1]
    np.testing.assert_allclose(model.predict_agreement(X[:3]), [1, 2 / 3, 1])


@pytest.mark.parametrize(
    "runs, labels, agreement",
    [
        # of more clusters, the one left over joins the one that it is most like
        (
            [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], [2, 0, 0, 1, 1, 1]],
            [0, 0, 0, 1, 1, 1],
            [1] * 6,
        ),
        # with fewer, a cluster has no vote of this run
        (
            [[0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 2], [1, 1, 1, 0, 0, 0]],
            [0, 0, 0, 1, 1, 2],
            [1, 1, 1, 1, 1, 2 / 3],
        ),
        # -1 is no cluster, and has votes
        (
            [[-1, -1, 0, 0, 1, 1], [-1, 1, 1, 1, 0, 0], [-1, -1, 1, 1, 0, 0]],
            [-1, -1, 0, 0, 1, 1],
            [1, 2 / 3, 1, 1, 1, 1],
        ),
        ([[4, 4, 9, 9], [9, 9, 4, 4]], [0, 0, 1, 1], [1] * 4),
    ],
)
def test_runs_of_unlike_numbers_of_clusters(runs, labels, agreement):
    model = consensus_of(runs)
    assert model.labels_.tolist() == labels
    np.testing.assert_allclose(model.agreement_, agreement)
    assert model.predict(X[: len(labels)]).tolist() == labels


def test_a_cluster_that_wins_nowhere_is_left_out():
    # the first is the most central one; its last cluster is none of the others
    runs = [
        [0, 0, 0, 0, 1, 1, 1, 1, 2, 2],
        [0, 0, 0, 0, 1, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 1, 0, 1],
    ]
    model = consensus_of(runs)
    assert model.estimator_ is model.estimators_[0]
    assert model.labels_.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]
    # that cluster has joined the first one, and votes with it
    thirds = np.array([3, 3, 3, 3, 2, 3, 3, 2, 3, 2])
    np.testing.assert_allclose(model.agreement_, thirds / 3)
    # {0, 1, 2, 3, 8, 9} and {4, 5, 6, 7} beside the clusters of each run
    jaccard = [(4 / 6 + 6 / 7 + 5 / 7) / 3, (1 + 3 / 4 + 3 / 5) / 3]
    np.testing.assert_allclose(model.cluster_agreement_, jaccard)
    np.testing.assert_allclose(model.predict_proba(X[:10]).sum(axis=1), 1)


def test_probabilities_are_brought_together_and_averaged():
    runs = [
        [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]],
        [[0.2, 0.8], [0.9, 0.1], [0.7, 0.3]],
        [[0.7, 0.3], [0.6, 0.4], [0.1, 0.9]],
    ]
    model = consensus_of(runs, Soft)
    # the second run has its columns the other way round: of 8 votes for two partitions
    proba = [[2.4 / 3, 0.6 / 3], [1.3 / 3, 1.7 / 3], [0.6 / 3, 2.4 / 3]]
    np.testing.assert_allclose(model.predict_proba(X[:3]), proba)
    assert model.labels_.tolist() == [0, 1, 1]
    np.testing.assert_allclose(model.agreement_, [1, 1 / 3, 1])


def test_tables():
    table = overlaps(np.array([0, 1, 1, -1]), np.array([1, 0, 1, 1]), 3, 2)
    assert table.tolist() == [[0, 1], [1, 1], [0, 0]]
    assert matched(np.array([[5, 4], [4, 0]])).tolist() == [1, 0]
    np.testing.assert_allclose(best_jaccard(np.array([[3, 1], [0, 2]])), [3 / 4, 2 / 3])


def test_it_is_better_than_a_run_and_the_same_again():
    blobs, y = make_blobs(400, centers=8, cluster_std=1.0, random_state=3)
    kmeans = KMeans(8, n_init=1, init="random")
    model = ConsensusClusterer(kmeans, n_runs=9, random_state=0).fit(blobs)
    runs = [clustering_accuracy(y, one.labels_) for one in model.estimators_]
    assert clustering_accuracy(y, model.labels_) > np.mean(runs) + 0.02
    seeds = {one.random_state for one in model.estimators_}
    assert len(seeds) == 9 and kmeans.random_state is None
    with parallel_config("threading"):
        again = clone(model).set_params(n_jobs=2).fit(blobs)
    np.testing.assert_array_equal(again.labels_, model.labels_)
    np.testing.assert_array_equal(again.agreement_, model.agreement_)
    other = clone(model).set_params(random_state=1).fit(blobs)
    assert not np.array_equal(other.pairwise_ari_, model.pairwise_ari_)
    np.testing.assert_array_equal(model.predict(blobs), model.labels_)


def test_it_stands_in_for_the_clusterer():
    inner = make_pipeline(StandardScaler(), PCA(2), KMEANS)
    model = ConsensusClusterer(inner, n_runs=3, random_state=0).fit(X)
    central = model.estimator_
    assert model.pairwise_ari_.sum(axis=1).argmax() == model.estimators_.index(central)
    np.testing.assert_array_equal(model.transform(X), central.transform(X))
    assert model.score(X) == central.score(X) and model.n_features_in_ == 2
    assert central[1].random_state != model.estimators_[1][1].random_state
    assert not hasattr(model, "image_shape_") and not hasattr(model, "layout_")
    assert is_clusterer(model) and len(model.get_feature_names_out()) == 5
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.labels_)
    model.set_params(estimator__kmeans__n_clusters=2)
    assert model.fit(X).labels_.max() == 1
    selective = SelectiveClusterer(clone(model), threshold=1.0).fit(X)
    assert (selective.labels_ == model.labels_)[model.agreement_ == 1].all()


def test_what_cannot_predict_has_labels():
    spectral = SpectralClustering(3, n_components=2)
    model = ConsensusClusterer(spectral, n_runs=2, random_state=0).fit(X)
    assert len(model.labels_) == len(X) and not hasattr(model, "predict")
    assert not hasattr(model, "predict_proba")


@each_estimator
def test_each_method(estimator, tmp_path):
    images, _ = make_stripes()
    inner = clone(estimator).set_params(checkpoint=tmp_path, calibrate="none")
    model = ConsensusClusterer(inner, n_runs=2, random_state=0).fit(images)
    np.testing.assert_array_equal(model.predict(images), model.labels_)
    n_clusters = len(np.unique(model.labels_))
    assert model.cluster_agreement_.shape == (n_clusters,)
    np.testing.assert_allclose(model.predict_proba(images).sum(axis=1), 1, rtol=1e-5)
    assert len(model.transform(images[:4])) == 4
    assert model.image_shape_ == (1, 8, 8)
    assert model.layout_ == model.estimator_.layout_
    # each run has a checkpoint of its own
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run_0", "run_1"]
    assert all(any((tmp_path / name).iterdir()) for name in ("run_0", "run_1"))


def test_images_of_files_that_cannot_be_read_have_no_label(tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(31)]
    for path, image in zip(paths, make_stripes()[0], strict=False):
        Image.fromarray(image).save(path)
    (tmp_path / "4.png").write_bytes(b"no picture")
    inner = clone(fitted("DigPro")).set_params(on_error="skip", image_shape=(1, 8, 8))
    with pytest.warns(UserWarning, match="4.png"):
        model = ConsensusClusterer(inner, n_runs=2, random_state=0).fit(paths)
        assert model.predict(paths).tolist() == model.labels_.tolist()
    assert np.flatnonzero(model.labels_ == -1).tolist() == [4]


def test_errors():
    with pytest.raises(NotFittedError):
        ConsensusClusterer(KMEANS).predict(X)
    with pytest.raises(ValueError, match="'n_runs' parameter"):
        ConsensusClusterer(KMEANS, n_runs=1).fit(X)
    with pytest.raises(ValueError, match="'estimator' parameter"):
        ConsensusClusterer(PCA(2)).fit(X)
    with pytest.raises(ValueError, match="DBSCAN has no parameter random_state"):
        ConsensusClusterer(DBSCAN()).fit(X)
    with pytest.raises(ValueError, match="runs of Given give no sample a label"):
        consensus_of([[-1, -1, -1], [-1, -1, 0], [0, -1, -1]])


class Interrupts(Callback):
    """Sends the signal of Ctrl-C at the end of the third epoch of all runs."""

    epochs: ClassVar = []

    def on_epoch_end(self, net, **kwargs):
        self.epochs.append(net)
        if len(self.epochs) == 3:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_reaches_the_caller():
    model = ConsensusClusterer(make(max_epochs=2, callbacks=[Interrupts()]), n_runs=3)
    with pytest.raises(KeyboardInterrupt):
        model.fit(IMAGES)
    # the first of the two epochs of the second run was its last, and no third run began
    assert len(Interrupts.epochs) == 3
    assert not hasattr(model, "labels_")


def test_global_generators_are_left_alone():
    before = np.random.get_state()[1].copy()
    ConsensusClusterer(KMEANS, n_runs=2).fit(X)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
