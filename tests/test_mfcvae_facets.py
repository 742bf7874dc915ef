"""The facets of a fitted MFCVAE: clusterings, columns, views, scores."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from small_mfcvae import ENOUGH, convergence_warnings, fit, learnt, make, means_of

N = 64


@pytest.fixture(scope="module")
def X(two_factors):
    return two_factors[0]


@pytest.fixture(scope="module")
def fitted(X):
    return learnt(X)


# -- several clusterings ---------------------------------------------------------------


def test_each_facet_finds_another_factor(X, two_factors):
    labels = learnt(X, n_clusters=3).facet_labels_
    scores = np.array(
        [
            [adjusted_rand_score(kinds, column) for kinds in two_factors[1].T]
            for column in labels.T
        ]
    )
    own = scores.argmax(1)
    assert set(own) == {0, 1}
    assert scores.max(1).min() > 0.9 and scores.min(1).max() < 0.1


def test_fitted_attributes(fitted, X):
    labels = fitted.facet_labels_
    assert labels.shape == (N, 2) and labels.dtype == np.int64
    np.testing.assert_array_equal(fitted.labels_, labels[:, 1])
    assert fitted.facet_slices_ == [slice(0, 3), slice(3, 4)]
    for j, (k, d) in enumerate([(4, 3), (3, 1)]):
        active = fitted.n_active_clusters_[j]
        assert 1 < active <= k
        np.testing.assert_array_equal(np.unique(labels[:, j]), np.arange(active))
        assert fitted.weights_[j].shape == (active,)
        assert fitted.weights_[j].sum() == pytest.approx(1, rel=1e-6)
        assert fitted.means_[j].shape == (active, d)
        assert fitted.covariances_[j].shape == (active, d, d)
    embedding = fitted.transform(X)
    for k, center in enumerate(fitted.cluster_centers_):
        members = embedding[fitted.labels_ == k]
        assert fitted.cluster_sizes_[k] == len(members)
        np.testing.assert_allclose(center, members.mean(0), rtol=1e-4, atol=1e-5)


def test_predictions_of_every_facet(fitted, X):
    labels = fitted.predict_facets(X)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, fitted.facet_labels_)
    proba = fitted.predict_proba_facets(X)
    assert len(proba) == 2
    for facet in (0, 1, -1, -2):
        np.testing.assert_array_equal(fitted.predict(X, facet=facet), labels[:, facet])
        one = fitted.predict_proba(X, facet=facet)
        np.testing.assert_array_equal(one, proba[facet])
        assert one.shape == (N, fitted.n_active_clusters_[facet])
        np.testing.assert_array_equal(one.argmax(1), labels[:, facet])
        np.testing.assert_allclose(one.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(fitted.predict(X), labels[:, 1])
    np.testing.assert_array_equal(fitted.predict_proba(X), proba[1])


def test_neighbours_do_not_matter(fitted, X):
    order = np.random.default_rng(0).permutation(N)
    labels, bound = fitted.predict_facets(X[order]), fitted.score_samples(X[order])
    np.testing.assert_array_equal(labels, fitted.facet_labels_[order])
    np.testing.assert_allclose(bound, fitted.score_samples(X)[order], rtol=1e-4)
    alone = [fitted.predict_facets(X[i : i + 1])[0] for i in range(9)]
    np.testing.assert_array_equal(alone, fitted.facet_labels_[:9])


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_mixtures_are_those_of_scikit_learn(X, covariance_type):
    model = fit(X, max_epochs=10, covariance_type=covariance_type, learn_weights=True)
    module, Z = model.net_.module_, model.transform(X)
    for j, columns in enumerate(model.facet_slices_):
        mixture = GaussianMixture(
            model.n_active_clusters_[j], covariance_type=covariance_type
        )
        mixture.weights_, mixture.means_ = model.weights_[j], model.means_[j]
        mixture.covariances_ = model.covariances_[j]
        if covariance_type == "full":
            factors = np.linalg.cholesky(model.covariances_[j].astype(float))
            mixture.precisions_cholesky_ = np.stack(
                [np.linalg.inv(factor).T for factor in factors]
            )
        else:
            mixture.precisions_cholesky_ = model.covariances_[j] ** -0.5
        with torch.no_grad():  # at the posterior means, for which both have a formula
            joint = module.priors[j].log_joint(torch.tensor(Z[:, columns]))
        expected = joint[:, model._kept_facets[j]].softmax(1)
        actual = mixture.predict_proba(Z[:, columns])
        np.testing.assert_allclose(actual, expected, atol=1e-3)


@pytest.mark.parametrize("primary_facet", [0, 1, -1, -2, np.int64(0)])
def test_primary_facet(X, primary_facet):
    model = make(primary_facet=primary_facet, n_clusters=(5, 3), lr=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        np.testing.assert_array_equal(model.fit_predict(X), model.labels_)
    labels = model.facet_labels_[:, primary_facet]
    np.testing.assert_array_equal(model.labels_, labels)
    np.testing.assert_array_equal(model.predict(X), labels)
    assert len(model.cluster_centers_) == model.n_active_clusters_[primary_facet]
    assert len(model.history_[-1]["cluster_sizes"]) == (5, 3)[primary_facet]


def test_parameters_that_are_set_after_fit_wait_for_the_next(fitted, X):
    model = copy.copy(fitted).set_params(primary_facet=0, n_facets=5, n_clusters=2)
    np.testing.assert_array_equal(model.predict(X), fitted.labels_)
    assert model.predict_facets(X).shape == (N, 2)
    assert model.sample(2, random_state=0)[1].shape == (2, 2)
    with pytest.raises(ValueError, match="from -2 to 1"):
        model.predict(X, facet=3)


def test_empty_clusters_are_left_out(X):
    model = make(**{**ENOUGH, "max_epochs": 16}, n_clusters=(20, 12))
    messages = convergence_warnings(model.fit, X)
    active = model.n_active_clusters_
    for j, k in enumerate((20, 12)):
        said = [
            f"Facet {j}: {k - active[j]} of {k} clusters are empty" in m
            for m in messages
        ]
        assert sum(said) == (active[j] < k)
    assert active[1] < 12
    for j, k in enumerate((20, 12)):
        found = np.unique(model.facet_labels_[:, j])
        np.testing.assert_array_equal(found, np.arange(active[j]))
        proba = model.predict_proba(X, facet=j)
        assert proba.shape == (N, k)
        assert (proba[:, active[j] :] == 0).all()
        assert len(model.means_[j]) == len(model.weights_[j]) == active[j]
        assert model.weights_[j].sum() == pytest.approx(1, rel=1e-6)
        # a cluster's mean is where its members are
        Z = model.transform(X)[:, model.facet_slices_[j]]
        for c, mean in enumerate(model.means_[j]):
            spread = np.sqrt(np.diagonal(model.covariances_[j][c]))
            members = Z[model.facet_labels_[:, j] == c]
            assert (np.abs(members.mean(0) - mean) < 2 * spread).all()
    # samples are of the clusters that are left, by their new numbers
    assert any((kept != np.arange(len(kept))).any() for kept in model._kept_facets)
    model._generate = np.array
    Z, labels = model.sample(40, temperature=0, random_state=0)
    np.testing.assert_array_equal(Z, means_of(model, labels))


# -- names and frames ------------------------------------------------------------------


def test_names_of_the_columns(fitted, X):
    names = ["facet0_z0", "facet0_z1", "facet0_z2", "facet1_z0"]
    assert fitted.get_feature_names_out().tolist() == names
    assert fitted.facet(0).get_feature_names_out().tolist() == names[:3]
    assert fitted.facet(1).get_feature_names_out().tolist() == names[3:]


def test_data_frames_out(fitted, X):
    pytest.importorskip("pandas")
    frame = copy.copy(fitted).set_output(transform="pandas").transform(X)
    assert list(frame.columns) == fitted.get_feature_names_out().tolist()
    view = fitted.facet(0).set_output(transform="pandas")
    assert list(view.transform(X).columns) == list(frame.columns[:3])


# -- views of a facet ------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, -1])
def test_a_facet_is_an_estimator(fitted, X, number):
    view = fitted.facet(number)
    columns = fitted.facet_slices_[number]
    np.testing.assert_array_equal(view.labels_, fitted.facet_labels_[:, number])
    np.testing.assert_array_equal(view.predict(X), view.labels_)
    np.testing.assert_array_equal(view.fit_predict(X), view.labels_)
    np.testing.assert_array_equal(
        view.predict_proba(X), fitted.predict_proba(X, facet=number)
    )
    np.testing.assert_array_equal(view.transform(X), fitted.transform(X)[:, columns])
    np.testing.assert_array_equal(view.fit_transform(X), view.transform(X))
    assert view.n_features_in_ == 192
    assert len(view.cluster_centers_) == fitted.n_active_clusters_[number]


def test_fitting_a_view_changes_nothing(fitted, X):
    view = fitted.facet(0)
    before, state = dict(vars(fitted)), dict(vars(view))
    assert view.fit(X[:5]) is view
    assert all(vars(fitted)[key] is value for key, value in before.items())
    assert vars(view) == state


def test_views_in_pipelines(fitted, X, two_factors):
    for column in range(2):
        best = max(
            cross_val_score(
                make_pipeline(fitted.facet(j), LogisticRegression()),
                X,
                two_factors[1][:, column],
                cv=3,
            ).mean()
            for j in range(2)
        )
        assert best > 0.8
    scores = cross_val_score(
        fitted.facet(0), X, two_factors[1][:, 0], scoring="adjusted_rand_score", cv=2
    )
    assert np.isfinite(scores).all()


def test_views_are_cloned_and_pickled(fitted, X):
    view = fitted.facet(0)
    for copied in (clone(view), pickle.loads(pickle.dumps(view))):
        np.testing.assert_array_equal(copied.predict(X), view.labels_)
    assert "FacetView" in repr(view)


def test_a_view_needs_a_fit_and_a_facet_that_is_there(fitted):
    with pytest.raises(NotFittedError, match="Call 'fit'"):
        make().facet(0)
    with pytest.raises(ValueError, match="facet=2 .* from -2 to 1"):
        fitted.facet(2)


# -- scores ----------------------------------------------------------------------------


def test_score_is_the_mean_bound(fitted, X):
    bound = fitted.score_samples(X)
    assert bound.shape == (N,)
    np.testing.assert_array_equal(bound, fitted.score_samples(X))
    assert fitted.score(X) == pytest.approx(bound.mean(), rel=1e-5)
    assert fitted.score(X, y=np.arange(N)) == fitted.score(X)


def test_foreign_images_score_lower(fitted, X):
    noise = np.random.default_rng(0).integers(0, 256, X.shape, dtype=np.uint8)
    assert fitted.score_samples(noise).max() < fitted.score_samples(X).min()


def test_training_raises_the_bound(fitted, X):
    assert fitted.score(X) > fit(X).score(X) + 50
