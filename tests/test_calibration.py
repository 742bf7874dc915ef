"""Temperatures that are found without labels."""

import numpy as np
import pytest
import torch
from estimators import each_estimator, fitted, make_stripes
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.neighbors import NearestNeighbors
from toy import make, make_images

import skdeepcluster
from skdeepcluster import SCL, StatDEC
from skdeepcluster._calibration import (
    as_they_are,
    best_temperature,
    has_views,
    n_partners,
    probabilities,
    sampled_rows,
    temperatures,
)
from skdeepcluster._engine.checkpoint import identity_of
from skdeepcluster._engine.randomness import generators, seeded
from skdeepcluster._input.images import Images
from skdeepcluster.metrics import expected_calibration_error
from skdeepcluster.neighbors import nearest_neighbors

X = make_stripes()[0]


def true_logits(n=20_000, k=4, seed=0):
    """Logits, and labels drawn from their softmax."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, size=(n, k)).astype(np.float32)
    noise = rng.gumbel(size=(n, 2, k))
    return logits, (logits[:, None] + noise).argmax(2)


# -- the temperature of given labels ---------------------------------------------------


@pytest.mark.parametrize("factor", [0.05, 0.5, 1.0, 3.0, 20.0])
def test_a_known_factor_is_found(factor):
    logits, labels = true_logits()
    assert best_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.03)


def test_the_scale_of_the_logits_does_not_matter_for_the_probabilities():
    logits, labels = true_logits(500)
    found = []
    for one in (logits, 7 * logits + 3):
        found.append(probabilities(one, 4, best_temperature(one, labels)))
    np.testing.assert_allclose(*found, atol=1e-4)


def test_it_minimises_the_cross_entropy():
    logits, labels = true_logits(300, seed=1)
    best = best_temperature(logits, labels)

    def loss(temperature):
        proba = np.log(probabilities(logits, 4, temperature))
        likelihood = np.take_along_axis(proba, labels, 1).mean()
        unseen = 4 / (300 + 4)  # what each cluster was seen more often
        return -(1 - unseen) * likelihood - unseen * proba.mean()

    assert loss(best) < min(loss(0.98 * best), loss(1.02 * best))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e8])
def test_perfect_agreement_is_no_certainty(scale):
    logits = scale * np.eye(3, dtype=np.float32)[np.arange(60) % 3]
    temperature = best_temperature(logits, logits.argmax(1)[:, None])
    assert 0.01 <= temperature <= 100
    if scale == 1.0:  # each other cluster as if once among 63 partners
        np.testing.assert_allclose(
            probabilities(logits, 3, temperature).max(1), 61 / 63, atol=1e-5
        )


def test_disagreement_makes_all_clusters_alike():
    logits, _ = true_logits(300)
    against = logits.argmin(1)[:, None]
    assert best_temperature(logits, against) == pytest.approx(100)


@pytest.mark.parametrize("logits", [np.zeros((5, 3)), np.full((5, 1), 2.0)])
def test_where_nothing_can_change_it_is_1(logits):
    assert best_temperature(logits, np.zeros((5, 1), np.int64)) == 1.0


def test_probabilities_have_a_column_for_each_cluster():
    logits = np.log([[0.2, 0.8], [0.5, 0.5]]).astype(np.float32)
    expected = [[1 / 3, 2 / 3, 0], [0.5, 0.5, 0]]
    proba = probabilities(logits, 3, temperature=2.0)
    np.testing.assert_allclose(proba, expected, atol=1e-6)
    assert proba.dtype == np.float32


# -- partners --------------------------------------------------------------------------


def test_neighbors_are_the_nearest_by_angle():
    points = np.random.default_rng(0).normal(3, 1, size=(50, 6)).astype(np.float32)
    search = NearestNeighbors(n_neighbors=5, metric="cosine")
    expected = search.fit(points - points.mean(0)).kneighbors(return_distance=False)
    found = nearest_neighbors(torch.from_numpy(points - points.mean(0)), 5)
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize(
    "n, k, expected", [(2000, 10, 20), (2000, 500, 1), (60, 3, 2), (2, 1, 1), (9, 3, 1)]
)
def test_partners_are_a_tenth_of_a_cluster(n, k, expected):
    assert n_partners(n, k) == expected


def test_large_images_are_compared_when_made_small():
    images = torch.rand(2, 3, 96, 64)
    small = as_they_are(images)
    assert small.shape == (2, 3 * 32 * 32)
    means = images.mean((2, 3))
    np.testing.assert_allclose(small.view(2, 3, -1).mean(2), means, rtol=1e-5)
    assert as_they_are(torch.rand(2, 3, 32, 32)).shape == (2, 3072)
    vectors = torch.rand(2, 1, 1, 100)
    assert torch.equal(as_they_are(vectors), vectors.flatten(1))


def test_rows_are_drawn_where_there_are_many():
    assert sampled_rows(30).tolist() == list(range(30))
    with seeded(0):
        rows, others = sampled_rows(300, 50), sampled_rows(300, 50)
    assert len(set(rows.tolist())) == 50 and rows.tolist() == sorted(rows.tolist())
    assert rows.tolist() != others.tolist()


@pytest.mark.parametrize(
    "augment, data, expected",
    [
        ("weak", make_images(), True),
        ("none", make_images(), False),
        (lambda x: x, make_images(), True),
        ("vector", np.random.default_rng(0).normal(size=(30, 5)), False),
    ],
)
def test_images_that_are_augmented_have_views(augment, data, expected):
    model = make(augment=augment).fit(data)
    images = Images(data, model.image_shape_)
    assert has_views(model.net_, images) is expected


def test_only_a_view_can_disagree():
    def shuffled(x):  # a batch, whose images change places
        return x.flip(0)

    data = make_images(64)
    sure, unsure = (make(augment=a).fit(data) for a in (lambda x: x, shuffled))
    assert sure.temperature_ < 1 < unsure.temperature_
    assert unsure.temperature_ == pytest.approx(100)


def test_it_draws_nothing_from_the_training():
    model = make(augment="weak").fit(make_images())
    images = Images(make_images(), model.image_shape_)
    function, columns = model.net_.module_.logits, [np.arange(3)]
    with seeded(0):
        before = generators().on("cpu").get_state()
        first = temperatures(model.net_, images, function, columns)
        assert torch.equal(generators().on("cpu").get_state(), before)
        assert temperatures(model.net_, images, function, columns) == first
    with seeded(1):
        assert temperatures(model.net_, images, function, columns) != first


@pytest.mark.parametrize("augment", ["weak", "none"])
def test_clusterings_side_by_side_have_a_temperature_each(augment):
    model = make(augment=augment).fit(make_images())
    images, logits = Images(make_images(), (1, 8, 8)), model.net_.module_.logits
    with seeded(0):
        one, three = temperatures(
            model.net_,
            images,
            lambda x: torch.cat([logits(x), 3 * logits(x)], dim=1),
            [np.array([0, 1, 2]), np.array([3, 4, 5])],
        )
    assert three == pytest.approx(3 * one)


def test_some_rows_stand_for_many(monkeypatch):
    monkeypatch.setattr("skdeepcluster._calibration.sampled_rows", lambda n: ROWS)
    ROWS = torch.tensor([1, 4, 7, 30, 31, 32, 50])
    seen = []
    model = make(augment=lambda x: seen.append(len(x)) or x).fit(make_images())
    assert seen[-1] == 7
    assert 0 < model.temperature_ < 100


# -- estimators ------------------------------------------------------------------------


@each_estimator
def test_no_label_changes(estimator):
    model = fitted(type(estimator).__name__)
    plain = clone(estimator).set_params(calibrate="none").fit(X)
    assert plain.temperature_ == 1.0 != model.temperature_
    np.testing.assert_array_equal(plain.labels_, model.labels_)
    np.testing.assert_array_equal(plain.transform(X), model.transform(X))
    logits = np.log(np.maximum(plain.predict_proba(X), 1e-38))
    if logits.min() > -80:  # else it was rounded to 0
        n_used = len(model.cluster_sizes_)
        expected = probabilities(logits[:, :n_used], 3, model.temperature_)
        np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-4)


def test_facets_have_temperatures_of_their_own(tmp_path):
    model = fitted("MFCVAE")
    assert model.temperature_ == model.facet_temperatures_[-1]
    assert len(model.facet_temperatures_) == 2
    model.save(tmp_path / "model")
    again = skdeepcluster.load(tmp_path / "model", device="cpu")
    assert again.facet_temperatures_ == model.facet_temperatures_
    assert again.temperature_ == model.temperature_


@pytest.mark.parametrize("n, k", [(2, 2), (2, 1), (3, 2)])
@pytest.mark.parametrize("kind", ["images", "vectors"])
def test_few_samples(n, k, kind):
    data, augment = make_images(n), "weak"
    if kind == "vectors":
        data, augment = data.reshape(n, -1), "vector"
    model = make(n_clusters=k, augment=augment, batch_size=2).fit(data)
    assert 0.01 <= model.temperature_ <= 100
    np.testing.assert_array_equal(model.predict_proba(data).argmax(1), model.labels_)


# the one is too sure of itself, the other too cautious
@pytest.mark.parametrize("cls, share", [(SCL, 1.0), (StatDEC, 0.2)])
def test_confidences_of_clusters_that_overlap_come_nearer_to_the_truth(cls, share):
    data, y = make_blobs(300, n_features=8, centers=3, cluster_std=5.0, random_state=0)
    model = cls(3, max_epochs=3, hidden_dim=32, random_state=0)
    error = {}
    for kind in ("none", "agreement"):
        proba = clone(model).set_params(calibrate=kind).fit(data).predict_proba(data)
        error[kind] = expected_calibration_error(y, proba)
    assert error["agreement"] < share * error["none"]


def test_a_training_that_goes_on_may_be_calibrated_anew():
    model, images = make(), Images(make_images(), (1, 8, 8))
    other = clone(model).set_params(calibrate="none")
    assert identity_of(model, images) == identity_of(other, images)


def test_an_unknown_calibration_is_refused():
    with pytest.raises(ValueError, match="'calibrate' parameter of Toy"):
        make(calibrate="labels").fit(make_images())
