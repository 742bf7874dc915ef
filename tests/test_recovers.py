"""Acceptance: clusters that k-means does not find, in seconds, for fixed seeds."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, pairwise_distances_argmin

from skdeepcluster import GCC, MFCVAE, SCL, DigPro, StatDEC
from skdeepcluster.datasets import (
    load_digits_images,
    make_facet_images,
    make_long_tail,
)
from skdeepcluster.gcc import Generated
from skdeepcluster.metrics import (
    balanced_clustering_accuracy,
    clustering_accuracy,
    facet_label_scores,
    silhouette_scorer,
)

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def digits():
    return load_digits_images()


@pytest.fixture(scope="module")
def model(digits):
    return DigPro(10, max_epochs=40, random_state=0).fit(digits[0])


def kmeans(X, k):
    return KMeans(k, n_init=10, random_state=0).fit_predict(X.reshape(len(X), -1))


def test_digits(digits, model):
    X, y = digits
    # the mean of seeds: for some of them, ones and eights share two clusters
    labels = [model.labels_]
    for seed in (1, 2):
        again = DigPro(10, max_epochs=40, random_state=seed)
        labels.append(again.fit_predict(X))
    assert np.mean([clustering_accuracy(y, found) for found in labels]) > 0.9
    assert adjusted_rand_score(y, model.labels_) > adjusted_rand_score(y, kmeans(X, 10))
    np.testing.assert_array_equal(model.predict(X), model.labels_)


def test_training_goes_forward(digits, model):
    X, _ = digits
    first, last = model.history_[0], model.history_[-1]
    assert last["loss_instance"] < first["loss_instance"]
    assert last["feature_spread"] > 0.8
    assert model.score(X) > DigPro(10, max_epochs=1, random_state=0).fit(X).score(X)
    assert silhouette_scorer(model, X) > 0.2


def test_new_images(digits):
    X, y = digits
    model = DigPro(10, max_epochs=40, random_state=0).fit(X[:1200])
    assert clustering_accuracy(y[1200:], model.predict(X[1200:])) > 0.8


def test_other_instance_terms_run_and_learn(digits):
    X, y = digits
    model = DigPro(
        10,
        instance="alignment",
        ema_momentum=0.95,
        group_reset=20,
        max_epochs=20,
        random_state=0,
    ).fit(X)
    assert clustering_accuracy(y, model.labels_) > 0.5
    assert len(model.cluster_sizes_) == 10


def test_mnist(packs):
    X, y, _ = packs("mnist_test.npz")
    X, y = X[:3000], y[:3000]
    model = DigPro(10, max_epochs=30, random_state=0).fit(X)
    accuracy = clustering_accuracy(y, model.labels_)
    assert accuracy > clustering_accuracy(y, kmeans(X, 10)) + 0.2
    assert accuracy > 0.8


# the clusters of SCL begin late: a short training leaves them little time
@pytest.mark.parametrize(("method", "epochs"), [(SCL, "auto"), (StatDEC, 40)])
def test_digits_of_every_method(digits, method, epochs):
    X, y = digits
    model = method(10, max_epochs=epochs, random_state=0).fit(X)
    assert clustering_accuracy(y, model.labels_) > 0.88
    assert adjusted_rand_score(y, model.labels_) > adjusted_rand_score(y, kmeans(X, 10))
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    assert model.history_[-1]["feature_spread"] > 0.8
    assert len(model.cluster_sizes_) == 10


def test_long_tail_of_usps(packs):
    X, y, _ = packs("usps.npz")
    X, y = make_long_tail(
        X, y, ratio=10, n_samples=3000, order="random", random_state=0
    )
    model = StatDEC(10, max_epochs=30, random_state=0).fit(X)
    recall = balanced_clustering_accuracy(y, model.labels_)
    assert recall > balanced_clustering_accuracy(y, kmeans(X, 10)) + 0.08


def test_digits_that_are_drawn(digits):
    X, y = digits
    model = GCC(
        10,
        max_epochs=40,
        bank=Generated(steps=200, sampling_steps=10),
        samples_per_cluster=40,
        random_state=0,
    ).fit(X)
    accuracy = clustering_accuracy(y, model.labels_)
    assert accuracy > 0.88
    assert accuracy > clustering_accuracy(y, model.pretrain_labels_) - 0.03
    assert adjusted_rand_score(y, model.labels_) > adjusted_rand_score(y, kmeans(X, 10))
    # the clusters are those of the true digits, and so are the drawings
    drawn, clusters = model.sample(100, random_state=0)
    rows = X.reshape(len(X), -1).astype(float)
    nearest = pairwise_distances_argmin(drawn.reshape(100, -1).astype(float), rows)
    assert clustering_accuracy(y[nearest], clusters) > 0.85
    assert drawn.std() == pytest.approx(X.std(), rel=0.2)


def test_calibration_does_no_harm(packs):
    X, y, _ = packs("fashion_mnist_test.npz")
    X, y = X[:2000], y[:2000]
    model = GCC(
        10,
        max_epochs=30,
        bank=Generated(steps=250, batch_size=32, sampling_steps=8),
        samples_per_cluster=40,
        random_state=0,
    ).fit(X)
    # there was something to do harm: a round, with most of the clusters in its bank
    assert not model.stages_[-1]["undone"]
    assert np.median(model.bank_agreement_) > 0.5
    before = clustering_accuracy(y, model.pretrain_labels_)
    assert before > clustering_accuracy(y, kmeans(X, 10))
    assert clustering_accuracy(y, model.labels_) > before - 0.03


@pytest.mark.parametrize(("backbone", "hidden_dims"), [("mlp", 128), ("conv", 16)])
def test_facets_of_shapes_on_backgrounds(backbone, hidden_dims):
    X, Y = make_facet_images(
        1500, size=16, n_shapes=3, n_backgrounds=4, jitter=0, random_state=0
    )
    model = MFCVAE(
        (8, 6),
        latent_dims=(4, 1),  # two dimensions of the deep facet would hold the shape too
        backbone=backbone,
        hidden_dims=hidden_dims,
        sigma_x=0.15,
        stage_shares=(25, 35),
        max_epochs=60,
        batch_size=64,
        lr=2e-3,
        random_state=0,
    ).fit(X)
    scores = facet_label_scores(model.facet_labels_, Y)
    (shape_0, background_0), (shape_1, background_1) = scores.nmi
    assert scores.purity[1, 1] >= 0.95
    assert scores.purity[0, 0] >= 0.55  # chance is about 0.37
    assert shape_0 > shape_1 and background_1 > background_0
    assert min(model.n_active_clusters_) >= 4
    np.testing.assert_array_equal(model.predict_facets(X), model.facet_labels_)
    # the facets draw what they stand for: other backgrounds, the shapes stay
    order = np.random.default_rng(0).permutation(len(X))
    swapped = model.predict_facets(model.swap_facets(X, X[order], 1))
    kinds = [
        np.array(
            [np.bincount(y[labels == k]).argmax() for k in range(labels.max() + 1)]
        )
        for y, labels in zip(Y.T, model.facet_labels_.T, strict=True)
    ]
    shapes, backgrounds = kinds[0][swapped[:, 0]], kinds[1][swapped[:, 1]]
    assert (backgrounds == Y[order, 1]).mean() > 0.95
    assert (shapes == kinds[0][model.facet_labels_[:, 0]]).mean() > 0.75
