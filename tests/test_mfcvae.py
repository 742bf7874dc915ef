"""MFCVAE's own face: facets, drawings, and what it refuses."""

import copy
import inspect
import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SMALL_FACETS
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback

from skdeepcluster import MFCVAE
from skdeepcluster.callbacks import FacetCollapseWarning

N = 64


def make(**params):
    defaults = {"device": "cpu", "precision": "float32"}
    return MFCVAE(**{**SMALL_FACETS, **defaults, **params})


def quick(X, **params):
    """Two epochs: enough for what does not depend on what is learnt."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make(max_epochs=2, **params).fit(X)


@pytest.fixture(scope="module")
def X(two_factors):
    return two_factors[0]


@pytest.fixture(scope="module")
def fitted(X):
    return make(max_epochs=60, n_clusters=(4, 3)).fit(X)


@pytest.fixture
def latents(fitted, monkeypatch):
    """``fitted``, but it returns latents where it should draw them."""
    model = copy.copy(fitted)
    monkeypatch.setattr(model, "_draw", np.array, raising=False)
    return model


def convergence_warnings(fit, *args):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(*args)
    return [str(w.message) for w in caught if w.category is ConvergenceWarning]


# -- several clusterings ---------------------------------------------------------------


def test_each_facet_finds_another_factor(X, two_factors):
    labels = make(max_epochs=60).fit(X).facet_labels_
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
    model = make(covariance_type=covariance_type, learn_weights=True).fit(X)
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
    model = quick(X, primary_facet=primary_facet, n_clusters=(5, 3), lr=1e-4)
    labels = model.facet_labels_[:, primary_facet]
    np.testing.assert_array_equal(model.labels_, labels)
    np.testing.assert_array_equal(model.predict(X), labels)
    np.testing.assert_array_equal(model.fit_predict(X), model.labels_)
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
    model = make(n_clusters=(20, 12))
    messages = convergence_warnings(model.fit, X)
    active = model.n_active_clusters_
    for j, k in enumerate((20, 12)):
        said = [
            f"Facet {j}: {k - active[j]} of {k} clusters are empty" in m
            for m in messages
        ]
        assert sum(said) == (active[j] < k)
    assert active[1] < 12
    for j in range(2):
        found = np.unique(model.facet_labels_[:, j])
        np.testing.assert_array_equal(found, np.arange(active[j]))
        assert model.predict_proba(X, facet=j).shape == (N, active[j])
        assert len(model.means_[j]) == len(model.weights_[j]) == active[j]
        # a cluster's mean is where its members are
        Z = model.transform(X)[:, model.facet_slices_[j]]
        for k, mean in enumerate(model.means_[j]):
            spread = np.sqrt(np.diagonal(model.covariances_[j][k]))
            members = Z[model.facet_labels_[:, j] == k]
            assert (np.abs(members.mean(0) - mean) < 2 * spread).all()
    # samples are of the clusters that are left, by their new numbers
    assert any((kept != np.arange(len(kept))).any() for kept in model._kept_facets)
    model._draw = np.array
    Z, labels = model.sample(40, temperature=0, random_state=0)
    np.testing.assert_array_equal(Z, means_of(model, labels))


# -- other numbers of facets and clusters ----------------------------------------------


@pytest.mark.parametrize("n_facets", [1, 2, 3, 4])
def test_numbers_of_facets(X, n_facets):
    model = make(n_facets=n_facets, latent_dims=2, max_epochs=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X)
    assert model.facet_labels_.shape == (N, n_facets)
    assert model.transform(X).shape == (N, 2 * n_facets)
    np.testing.assert_array_equal(model.predict_facets(X), model.facet_labels_)
    new, labels = model.sample(5, random_state=0)
    assert new.shape == (5, *X.shape[1:]) and labels.shape == (5, n_facets)
    parts = [key for key in model.history_[-1] if key.startswith("loss_facet")]
    assert len(parts) == n_facets


def test_one_cluster_in_a_facet(X):
    model = quick(X, n_clusters=(1, 3))
    assert not model.facet_labels_[:, 0].any()
    np.testing.assert_array_equal(model.predict_proba(X, facet=0), np.ones((N, 1)))
    assert convergence_warnings(quick(X, n_clusters=1).fit, X) == []


def test_a_facet_of_one_cluster_costs_no_assignment(X):
    row = quick(X, n_clusters=(1, 3)).history_[-1]
    assert row["kl_c"][0] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    "params",
    [
        {"backbone": "mlp"},
        {"architecture": "shared"},
        {"architecture": "shared", "backbone": "mlp"},
        {"covariance_type": "diag"},
        {"learn_weights": True},
        {"elbo_estimator": "analytic"},
        {"n_mc_samples": 3},
        {"n_mc_samples": 2, "elbo_estimator": "analytic"},
        {"likelihood": "bernoulli"},
        {"output": "identity"},
        {"output": "identity", "normalize_output": True},
        {"progressive": False},
        {"stage_shares": (1, 3)},
        {"fade_in": 0.0},
        {"fade_in": 1.0},
        {"prior_init": "gmm"},
        {"prior_init": "random"},
        {"warmup": 0.0},
        {"warmup": 1.0},
        {"n_refits": 0},
        {"n_refits": 50},
        {"max_epochs": 1},
        {"hidden_dims": (8, 40)},
        {"latent_dims": [2, 2]},
        {"augment": "weak"},
    ],
    ids=str,
)
def test_every_option_trains(X, params):
    model = make(**{"max_epochs": 6, **params})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X)
    np.testing.assert_array_equal(model.predict_facets(X), model.facet_labels_)
    assert np.isfinite(model.score_samples(X)).all()
    assert all(np.isfinite(row["loss"]) for row in model.history_)
    assert model.reconstruct(X).shape == X.shape


@pytest.mark.parametrize("n_facets", [1, 2, 3])
def test_defaults(X, n_facets):
    model = MFCVAE(n_facets=n_facets, n_clusters=3, max_epochs=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X)
    width = 10 if n_facets == 1 else 5 + 2 * (n_facets - 1)
    assert model.transform(X).shape == (N, width)


# -- the course of training ------------------------------------------------------------


def test_facets_come_one_after_the_other(X):
    model = make(n_facets=3, latent_dims=1, max_epochs=12, stage_shares=(2, 1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X)
    alphas = np.array([row["alpha"] for row in model.history_])
    np.testing.assert_array_equal(alphas[:, 2], 1)
    np.testing.assert_array_equal(alphas[:5, :2], 0)
    assert alphas[7, 1] == 1 and alphas[7, 0] == 0
    np.testing.assert_array_equal(alphas[-1], [1, 1, 1])
    used = np.array([row["effective_clusters"] for row in model.history_])
    # no mixture before its stage and the warm-up in it: 6, 3 and 3 epochs
    begin = (used > 0).argmax(0)
    assert begin[2] < 6 <= begin[1] < 9 <= begin[0]
    off = [row["loss_facet0"] for row in model.history_[:8]]
    assert off == [0.0] * 8 and model.history_[-1]["loss_facet0"] != 0


def test_without_progression_all_facets_start_at_once(X):
    model = make(progressive=False, max_epochs=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X)
    assert all(row["alpha"] == [1.0, 1.0] for row in model.history_)
    assert model.history_[0]["loss_facet0"] != 0


@pytest.mark.parametrize("max_epochs", [2, 3, 7, 100])
@pytest.mark.parametrize("shares", [None, (1, 1), (1, 99), (99, 1), (0.3, 0.7)])
def test_stages_share_the_epochs(max_epochs, shares):
    epochs = make(stage_shares=shares)._stage_epochs(max_epochs)
    assert sum(epochs) == max_epochs and len(epochs) == 2 and min(epochs) >= 1
    assert all(isinstance(n, int) for n in epochs)
    if max_epochs == 100:
        exact = 100 * np.array(shares or (1, 1)) / np.sum(shares or (1, 1))
        np.testing.assert_allclose(epochs, exact)


def test_fewer_epochs_than_facets(X):
    model = quick(X, n_facets=4, latent_dims=1)
    assert model.history_[-1]["alpha"] == [1.0] * 4
    assert model.predict_facets(X).shape == (N, 4)


def test_priors_learn(X):
    seen = []

    class Look(Callback):
        def on_epoch_end(self, net, **kwargs):
            seen.append([p.means.detach().clone() for p in net.module_.priors])

    make(max_epochs=20, n_refits=0, callbacks=[Look()], learn_weights=True).fit(X)
    for j, set_at in ((0, 16), (1, 6)):
        assert not torch.equal(seen[set_at][j], seen[-1][j])
        moved = [bool((row[j] != 0).any()) for row in seen]
        assert not moved[0] and moved[-1]


def test_an_interrupt_before_the_last_stage_leaves_its_facet_out(X):
    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 6:
                raise KeyboardInterrupt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = make(callbacks=[Stop()]).fit(X)
    assert model.n_iter_ == 6
    np.testing.assert_array_equal(model.predict_facets(X), model.facet_labels_)
    np.testing.assert_array_equal(
        model.swap_facets(X, X[::-1], 0), model.reconstruct(X)
    )


def test_other_seeds_and_the_same(X):
    one, same = make(max_epochs=6), make(max_epochs=6)
    other = make(max_epochs=6, random_state=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for model in (one, same, other):
            model.fit(X)
    np.testing.assert_array_equal(one.facet_labels_, same.facet_labels_)
    np.testing.assert_array_equal(one.score_samples(X), same.score_samples(X))
    assert not np.allclose(one.transform(X), other.transform(X))


# -- collapse --------------------------------------------------------------------------


def collapse_messages(rows, n_clusters, **params):
    """What the callback says of a history of ``effective_clusters``."""
    callback = FacetCollapseWarning(**params)
    net = SimpleNamespace(module_=SimpleNamespace(n_clusters=n_clusters), history=[])

    def train():
        callback.on_train_begin(net)
        for epoch, used in enumerate(rows, start=1):
            net.history.append({"epoch": epoch, "effective_clusters": used})
            callback.on_epoch_end(net)

    return convergence_warnings(train)


def test_collapse_that_lasts_is_warned_of_once_for_each_facet():
    messages = collapse_messages([[5.0, 1.0]] * 9, [8, 8])
    assert len(messages) == 1 and messages[0].startswith("Facet 1 is collapsing")
    for remedy in ("prior_init='warmup_gmm'", "n_refits", "warmup", "sigma_x"):
        assert remedy in messages[0]
    assert len(collapse_messages([[1.2, 1.0]] * 9, [8, 8])) == 2


def test_what_is_no_collapse():
    assert collapse_messages([[0.0, 0.0]] * 9, [8, 8]) == []  # no mixture yet
    assert collapse_messages([[1.0, 1.0]] * 9, [1, 1]) == []  # one cluster was asked
    assert collapse_messages([[1.0, 1.0], [3.0, 3.0]] * 9, [8, 8]) == []  # passes


def test_early_collapse_is_seen_and_recorded(X):
    # images that are all alike share a cluster, whatever the mixtures are
    model = make(max_epochs=30)
    messages = convergence_warnings(lambda: model.fit(np.full_like(X, 7)))
    for facet in (0, 1):
        start = f"Facet {facet} is collapsing: up to epoch "
        (message,) = [m for m in messages if m.startswith(start)]
        epoch = int(message.removeprefix(start).split()[0])
        used = [row["effective_clusters"][facet] for row in model.history_]
        first = next(i for i, value in enumerate(used) if value > 0)
        assert used[:first] == [0.0] * first  # before it has a mixture
        assert used[first:] == [1.0] * (30 - first)
        assert epoch == first + 3


def test_facets_that_do_not_train_yet_are_no_collapse(X):
    # the paper's start gives every facet a mixture before it takes part
    model = make(prior_init="gmm", max_epochs=20, stage_shares=(19, 1))
    messages = convergence_warnings(model.fit, X)
    assert not any(m.startswith("Facet 0 is collapsing") for m in messages)


# -- layouts ---------------------------------------------------------------------------

UNIT = np.random.default_rng(0).random((40, 3, 6, 8))
BYTES = (255 * UNIT).astype(np.uint8)
LAYOUTS = {
    "NCHW bytes": (BYTES, {}),
    "NHWC bytes": (np.ascontiguousarray(BYTES.transpose(0, 2, 3, 1)), {}),
    "grey bytes": (BYTES[:, 0], {}),
    "rows of bytes": (BYTES.reshape(40, -1), {"image_shape": (3, 6, 8)}),
    "NCHW unit": (UNIT, {}),
    "NHWC float32": (UNIT.transpose(0, 2, 3, 1).astype(np.float32), {}),
    "grey unit": (UNIT[:, 0], {}),
    "rows of any range": (90 * UNIT.reshape(40, -1) - 45, {"image_shape": (3, 6, 8)}),
    "floats of bytes": (BYTES.astype(float), {}),
    "vectors": (7 * UNIT.reshape(40, -1)[:, :9] + 100, {}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_drawings_have_the_layout_of_the_training_data(layout):
    data, params = LAYOUTS[layout]
    model = quick(data, **params)
    dtype = np.uint8 if data.dtype == np.uint8 else np.float32
    Z = model.transform(data[:5])
    drawn = [
        model.reconstruct(data[:5]),
        model.inverse_transform(Z),
        model.sample(5, random_state=0)[0],
        model.sample(5, like=data[:5], random_state=0)[0],
        model.swap_facets(data[:5], data[5:10], 0),
        model.traverse(data[:5], n_steps=4, axis=0)[:, 2],
        model.traverse(data[:5])[:, 0],
    ]
    for images in drawn:
        assert images.shape == (5, *data.shape[1:]) and images.dtype == dtype
        assert np.isfinite(images).all()
        if layout != "vectors":  # the sigmoid keeps to the range
            low, high = (0, 255) if dtype == np.uint8 else (data.min(), data.max())
            if low >= 0 and high <= 1:
                low, high = 0, 1
            assert low - 1e-4 <= images.min() and images.max() <= high + 1e-4
        np.testing.assert_array_equal(model.predict(images).shape, (5,))
    np.testing.assert_array_equal(drawn[0], drawn[1])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "rows", "unit"])
def test_pixels_come_back_to_their_places(X, layout):
    # a network that learnt the images shows where each pixel and channel belongs
    data, params = X, {}
    if layout == "NHWC":
        data = np.ascontiguousarray(X.transpose(0, 2, 3, 1))
    if layout == "rows":
        data, params = X.reshape(N, -1), {"image_shape": (3, 8, 8)}
    if layout == "unit":
        data = X / 255
    model = make(n_facets=1, latent_dims=4, max_epochs=60, **params).fit(data)
    error = np.abs(model.reconstruct(data).astype(float) - data).mean()
    assert error < 0.4 * np.abs(data - data.mean(0)).mean()


def test_vectors_come_back(X):
    rng = np.random.default_rng(0)
    rows = (
        30 * rng.normal(size=(3, 6))[np.arange(N) % 3] + 200 + rng.normal(size=(N, 6))
    )
    model = make(n_facets=1, latent_dims=2, max_epochs=100).fit(rows)
    error = np.abs(model.reconstruct(rows) - rows).mean()
    assert error < 0.3 * np.abs(rows - rows.mean(0)).mean()


def test_files_are_drawn_as_images(X, tmp_path):
    files = []
    for i, image in enumerate(X[:20].transpose(0, 2, 3, 1)):
        files.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(image).save(files[-1])
    drawn = quick(files).reconstruct(files[:3])
    assert drawn.shape == (3, 3, 8, 8) and drawn.dtype == np.uint8


def test_data_frames_are_drawn_as_arrays(X):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X.reshape(N, -1)).add_prefix("pixel")
    model = quick(frame, image_shape=(3, 8, 8))
    assert model.reconstruct(frame).shape == (N, 192)
    assert list(model.feature_names_in_[:2]) == ["pixel0", "pixel1"]


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


# -- drawing ---------------------------------------------------------------------------


def means_of(model, labels):
    """Means of these clusters, side by side."""
    means = [
        means[column] for means, column in zip(model.means_, labels.T, strict=True)
    ]
    return np.concatenate(means, axis=1)


def test_inverse_transform_of_the_embedding_is_the_reconstruction(fitted, X):
    Z = fitted.transform(X)
    np.testing.assert_array_equal(fitted.inverse_transform(Z), fitted.reconstruct(X))
    as_list = fitted.inverse_transform(Z[:2].tolist())
    np.testing.assert_array_equal(as_list, fitted.reconstruct(X[:2]))


@pytest.mark.parametrize("facet", [0, 1, -1, None])
def test_temperature_zero_draws_the_means(latents, X, facet):
    # oracle 12
    number = 1 if facet is None else facet
    for cluster in range(latents.n_active_clusters_[number]):
        Z, labels = latents.sample(
            9, facet=facet, cluster=cluster, temperature=0, random_state=1
        )
        assert (labels[:, number] == cluster).all()
        np.testing.assert_array_equal(Z, means_of(latents, labels))


def test_samples_follow_the_mixtures(latents):
    Z, labels = latents.sample(20_000, random_state=0)
    assert labels.dtype == np.int64
    for j, columns in enumerate(latents.facet_slices_):
        shares = np.bincount(labels[:, j]) / len(labels)
        np.testing.assert_allclose(shares, latents.weights_[j], atol=0.02)
        for k in range(latents.n_active_clusters_[j]):
            z = Z[labels[:, j] == k][:, columns]
            spread = latents.covariances_[j][k]
            error = np.sqrt(np.diagonal(spread).max())
            np.testing.assert_allclose(z.mean(0), latents.means_[j][k], atol=error / 10)
            np.testing.assert_allclose(
                np.cov(z.T).reshape(spread.shape), spread, atol=0.1 * error**2
            )
    joint = np.histogram2d(*labels.T, bins=latents.n_active_clusters_)[0] / len(labels)
    independent = np.outer(joint.sum(1), joint.sum(0))
    np.testing.assert_allclose(joint, independent, atol=0.02)


def test_temperature_multiplies_the_standard_deviation(latents):
    whole, half = (
        latents.sample(500, cluster=0, facet=0, temperature=t, random_state=0)
        for t in (1.0, 0.5)
    )
    np.testing.assert_array_equal(whole[1], half[1])
    means = means_of(latents, whole[1])
    np.testing.assert_allclose(half[0] - means, (whole[0] - means) / 2, atol=1e-5)


@pytest.mark.parametrize("n_like", [1, 6])
def test_samples_like_given_images(latents, X, n_like):
    Z, labels = latents.sample(
        6, facet=0, cluster=1, like=X[:n_like], temperature=0, random_state=0
    )
    np.testing.assert_array_equal(labels[:, 0], 1)
    given = latents.facet_labels_[:n_like, 1]
    np.testing.assert_array_equal(labels[:, 1], np.broadcast_to(given, 6))
    np.testing.assert_array_equal(Z[:, :3], np.tile(latents.means_[0][1], (6, 1)))
    held = np.broadcast_to(latents.transform(X[:n_like])[:, 3:], (6, 1))
    np.testing.assert_allclose(Z[:, 3:], held, rtol=1e-5)


def test_seeds_of_samples(fitted):
    one, labels = fitted.sample(8, random_state=0)
    again, same_labels = fitted.sample(8, random_state=0)
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(labels, same_labels)
    assert not np.array_equal(one, fitted.sample(8, random_state=1)[0])
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert not np.array_equal(fitted.sample(8)[0], fitted.sample(8)[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[0])
    assert torch.equal(torch.get_rng_state(), states[1])
    generator = np.random.RandomState(0)
    first, second = (fitted.sample(8, random_state=generator)[0] for _ in range(2))
    assert not np.array_equal(first, second)
    copied = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copied.sample(8, random_state=0)[0], one)


def test_one_sample_is_the_default(fitted, X):
    new, labels = fitted.sample()
    assert new.shape == (1, *X.shape[1:]) and labels.shape == (1, 2)


def test_swaps(fitted, X):
    # oracle 12
    a, b = X[:10], X[10:20]
    one, other = fitted.reconstruct(a), fitted.reconstruct(b)
    assert not np.array_equal(one, other)
    for facets in (0, 1, [0, 1], [], -1):
        np.testing.assert_array_equal(fitted.swap_facets(a, a, facets), one)
    np.testing.assert_array_equal(fitted.swap_facets(a, b, [0, 1]), other)
    np.testing.assert_array_equal(fitted.swap_facets(a, b, []), one)
    np.testing.assert_array_equal(
        fitted.swap_facets(a, b, 0), fitted.swap_facets(b, a, [1])
    )
    np.testing.assert_array_equal(
        fitted.swap_facets(a, b, -1), fitted.swap_facets(a, b, (1,))
    )
    single = fitted.swap_facets(a, b[:1], 1)
    np.testing.assert_array_equal(single, fitted.swap_facets(a, b[[0] * 10], 1))
    mixed = fitted.swap_facets(a, b, 0)
    assert not np.array_equal(mixed, one) and not np.array_equal(mixed, other)


def test_a_swap_exchanges_what_a_facet_stands_for(X, two_factors):
    model = make(max_epochs=60).fit(X)
    order = np.random.default_rng(0).permutation(N)
    swapped = model.predict_facets(model.swap_facets(X, X[order], 0))
    expected = model.facet_labels_.copy()
    expected[:, 0] = expected[order, 0]
    assert (swapped == expected).mean(0).min() > 0.9


@pytest.mark.parametrize("facet", [0, 1, None])
def test_traverse_every_cluster(latents, X, facet):
    number = 1 if facet is None else facet
    rows = latents.traverse(X[:3], facet)
    means, columns = latents.means_[number], latents.facet_slices_[number]
    assert rows.shape == (3, len(means), 4)
    Z = latents.transform(X[:3])
    for i in range(3):
        np.testing.assert_array_equal(rows[i][:, columns], means)
        others = np.delete(rows[i], columns, axis=1)
        held = np.delete(Z[i], columns)
        np.testing.assert_array_equal(others, np.tile(held, (len(means), 1)))


def test_traverse_between_clusters(latents, X):
    means = latents.means_[0]
    rows = latents.traverse(X[:2], 0, clusters=[2, 0], n_steps=5)[:, :, :3]
    for share, z in zip(np.linspace(0, 1, 5), rows[0], strict=True):
        expected = (1 - share) * means[2] + share * means[0]
        np.testing.assert_allclose(z, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(rows[0], rows[1])
    through = latents.traverse(X[:1], 0, clusters=(0, 1, 2), n_steps=5)[0, :, :3]
    np.testing.assert_allclose(through[[0, 2, 4]], means[[0, 1, 2]], rtol=1e-5)


def test_traverse_an_axis(latents, X):
    Z = latents.transform(X[:4])
    rows = latents.traverse(X[:4], 0, axis=1, n_steps=5)
    assert rows.shape == (4, 5, 4)
    weights, means = latents.weights_[0], latents.means_[0][:, 1]
    center = weights @ means
    second = latents.covariances_[0][:, 1, 1] + means**2
    spread = np.sqrt(weights @ second - center**2)
    expected = center + spread * np.array([-2, -1, 0, 1, 2])
    for i in range(4):
        np.testing.assert_allclose(rows[i, :, 1], expected, rtol=1e-4, atol=1e-4)
        for column in (0, 2, 3):
            np.testing.assert_array_equal(rows[i, :, column], Z[i, column])


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
    assert fitted.score(X) > quick(X).score(X) + 50


# -- search ----------------------------------------------------------------------------


def test_grid_search_over_facets(X):
    grid = [
        {"n_facets": [1], "latent_dims": [2]},
        {"n_facets": [2], "latent_dims": [(2, 1), 2], "n_clusters": [(3, 4)]},
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search = GridSearchCV(make(max_epochs=3, latent_dims=2), grid, cv=2).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert (
        search.best_estimator_.facet_labels_.shape[1] == search.best_params_["n_facets"]
    )


# -- the paper's settings --------------------------------------------------------------

TABLE = {  # of section 4.2
    "mnist": {
        "n_clusters": (25, 25),
        "latent_dims": (5, 5),
        "hidden_dims": (500, 2000),
        "backbone": "mlp",
        "covariance_type": "diag",
        "learn_weights": True,
        "likelihood": "bernoulli",
        "lr": 5e-4,
        "batch_size": 512,
        "stages": (200, 201),
        "fade_steps": (15_000, 118),
        "shape": (1, 28, 28),
    },
    "3dshapes": {
        "n_clusters": (60, 20),
        "latent_dims": (20, 2),
        "hidden_dims": (64, 128),
        "backbone": "conv",
        "covariance_type": "full",
        "learn_weights": False,
        "likelihood": "gaussian",
        "sigma_x": 0.6,
        "output": "identity",
        "lr": 3e-4,
        "batch_size": 150,
        "stages": (100, 301),
        "fade_steps": (2_000, 26),
        "shape": (3, 32, 32),
    },
    "svhn": {
        "n_clusters": (200, 50),
        "latent_dims": (22, 7),
        "hidden_dims": (64, 128),
        "backbone": "conv",
        "covariance_type": "full",
        "learn_weights": False,
        "likelihood": "gaussian",
        "sigma_x": 0.3,
        "output": "sigmoid",
        "lr": 5e-4,
        "batch_size": 150,
        "stages": (100, 301),
        "fade_steps": (15_000, 489),
        "shape": (3, 32, 32),
    },
}


@pytest.mark.parametrize("name", TABLE)
def test_paper_settings(name):
    expected, settings = dict(TABLE[name]), MFCVAE.paper_settings(name)
    fade, steps = expected.pop("fade_steps")
    stages, shape = expected.pop("stages"), expected.pop("shape")
    assert settings.items() >= expected.items()
    assert set(settings) <= set(inspect.signature(MFCVAE).parameters)
    model = MFCVAE(**settings)
    assert model._stage_epochs(model.max_epochs) == stages
    assert settings["fade_in"] * stages[1] * steps == pytest.approx(fade)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (210, *shape), dtype=np.uint8)
    model.set_params(max_epochs=1, random_state=0, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(images)
    np.testing.assert_array_equal(model.predict_facets(images), model.facet_labels_)
    networks = model.net_.module_.backbone, model.net_.module_.decoder
    if name == "mnist":
        count = sum(p.numel() for n in networks for p in n.parameters())
        assert count == 3_078_304


def test_unknown_paper_settings():
    with pytest.raises(ValueError, match="'cifar' is unknown.*'mnist', '3dshapes'"):
        MFCVAE.paper_settings("cifar")


# -- what is refused -------------------------------------------------------------------

BAD = [
    ({"n_clusters": (3, 3, 3)}, r"n_clusters=\(3, 3, 3\) .* n_facets=2"),
    ({"n_clusters": (3, 0)}, r"n_clusters=\(3, 0\) .* integers of at least 1"),
    ({"n_clusters": (3, 2.5)}, r"n_clusters=\(3, 2.5\) .* integers"),
    ({"n_clusters": 0}, r"'n_clusters' .* Got 0"),
    ({"n_clusters": ()}, r"n_clusters=\(\) .* n_facets=2"),
    ({"n_clusters": (3, 65)}, "n_samples=64 should be >= n_clusters=65"),
    ({"latent_dims": (3,)}, r"latent_dims=\(3,\) .* n_facets=2"),
    ({"latent_dims": "large"}, r"'latent_dims' .* \{'auto'\}.* Got 'large'"),
    ({"latent_dims": (3, -1)}, r"latent_dims=\(3, -1\) .* integers"),
    ({"hidden_dims": (3, 4, 5)}, r"hidden_dims=\(3, 4, 5\) .* n_facets=2"),
    ({"n_facets": 0}, "'n_facets' .* Got 0"),
    ({"n_facets": 3}, r"latent_dims=\(3, 1\) has 2 entries, but n_facets=3"),
    ({"stage_shares": (1, 1, 1)}, r"stage_shares=\(1, 1, 1\) .* 2 positive"),
    ({"stage_shares": (1, 0)}, r"stage_shares=\(1, 0\) .* 2 positive"),
    ({"stage_shares": (1, float("nan"))}, r"stage_shares=\(1, nan\) .* 2 positive"),
    ({"stage_shares": (1, float("inf"))}, r"stage_shares=\(1, inf\) .* 2 positive"),
    ({"primary_facet": 2}, "primary_facet=2 .* from -2 to 1"),
    ({"primary_facet": -3}, "primary_facet=-3 .* from -2 to 1"),
    ({"primary_facet": 0.5}, "'primary_facet' .* Got 0.5"),
    ({"sigma_x": 0}, "'sigma_x' .* Got 0"),
    ({"fade_in": 1.5}, "'fade_in' .* Got 1.5"),
    ({"warmup": -0.1}, "'warmup' .* Got -0.1"),
    ({"n_refits": -1}, "'n_refits' .* Got -1"),
    ({"n_mc_samples": 0}, "'n_mc_samples' .* Got 0"),
    ({"likelihood": "poisson"}, "'likelihood' .* Got 'poisson'"),
    ({"covariance_type": "tied"}, "'covariance_type' .* Got 'tied'"),
    ({"prior_init": "kmeans"}, "'prior_init' .* Got 'kmeans'"),
    ({"architecture": "tree"}, "'architecture' .* Got 'tree'"),
    ({"backbone": "resnet18"}, "backbone='resnet18' .* 'auto', 'mlp' or 'conv'"),
    ({"backbone": "resnot"}, "backbone='resnot' .* 'auto', 'mlp' or 'conv'"),
    (
        {"backbone": torch.nn.Flatten()},
        r"backbone=Flatten.* 'auto', 'mlp' or 'conv'",
    ),
    ({"init_variance": 0}, "'init_variance' .* Got 0"),
    ({"output": "tanh"}, "'output' .* Got 'tanh'"),
    ({"likelihood": "bernoulli", "output": "identity"}, "(?i)bernoulli.*sigmoid"),
]


@pytest.mark.parametrize(("params", "match"), BAD, ids=str)
def test_bad_parameters(X, params, match):
    for model in (make(), quick(X)):
        before = dict(vars(model))
        model.set_params(**params)
        wanted = dict(vars(model))
        with pytest.raises(ValueError, match=match):
            model.fit(X)
        assert vars(model).keys() == wanted.keys() == before.keys()
        assert all(vars(model)[key] is wanted[key] for key in wanted)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"likelihood": "bernoulli"}, "bernoulli.*vectors"),
        ({"backbone": "conv"}, "backbone='conv' needs images"),
    ],
)
def test_what_vectors_cannot_have(params, match):
    rows = np.random.default_rng(0).normal(size=(40, 6))
    with pytest.raises(ValueError, match=match):
        make(**params).fit(rows)


CALLS = {
    "predict": (lambda m, X: m.predict(X, facet=2), "facet=2 .* from -2 to 1"),
    "predict -3": (lambda m, X: m.predict(X, facet=-3), "facet=-3 .* from -2 to 1"),
    "predict 0.5": (lambda m, X: m.predict(X, facet=0.5), "facet=0.5 .* integer"),
    "proba": (lambda m, X: m.predict_proba(X, facet=2), "facet=2"),
    "sample facet": (lambda m, X: m.sample(2, facet=2), "facet=2"),
    "cluster": (lambda m, X: m.sample(2, cluster=3), r"cluster=3 .* from 0 to 2"),
    "cluster -1": (lambda m, X: m.sample(2, cluster=-1), "cluster=-1 .* from 0"),
    "cluster 0.5": (lambda m, X: m.sample(2, cluster=0.5), "cluster=0.5 .* integer"),
    "temperature": (lambda m, X: m.sample(temperature=-1), "temperature=-1 .* >= 0"),
    "nan": (lambda m, X: m.sample(temperature=float("nan")), "temperature=nan"),
    "n_samples": (lambda m, X: m.sample(0), "n_samples=0 .* >= 1"),
    "n_samples 1.5": (lambda m, X: m.sample(1.5), "n_samples=1.5 .* integer"),
    "like": (lambda m, X: m.sample(4, like=X[:3]), "like holds 3 .* 1 or 4"),
    "like shape": (lambda m, X: m.sample(1, like=X[:1, :, :4]), "image_shape"),
    "swap": (lambda m, X: m.swap_facets(X[:4], X[:3], 0), "X_b holds 3 .* 1 or 4"),
    "swap facet": (lambda m, X: m.swap_facets(X, X, [0, 2]), "facet=2"),
    "both": (lambda m, X: m.traverse(X, clusters=[0, 1], axis=0), "not both"),
    "axis": (lambda m, X: m.traverse(X, 0, axis=3), "axis=3 .* from -3 to 2"),
    "steps": (lambda m, X: m.traverse(X, axis=0, n_steps=1), "n_steps=1 .* >= 2"),
    "one cluster": (
        lambda m, X: m.traverse(X, clusters=[0]),
        r"clusters=\[0\] .* two clusters",
    ),
    "clusters": (lambda m, X: m.traverse(X, clusters=[0, 9]), "cluster=9"),
    "traverse facet": (lambda m, X: m.traverse(X, 5), "facet=5"),
    "columns": (lambda m, X: m.inverse_transform(np.zeros((2, 3))), "3 columns.* 4"),
    "one row": (lambda m, X: m.inverse_transform(np.zeros(4)), "Expected 2D array"),
    "NaN": (
        lambda m, X: m.inverse_transform(np.full((1, 4), np.nan)),
        "contains NaN",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_bad_calls(fitted, X, case):
    call, match = CALLS[case]
    before = dict(vars(fitted))
    with pytest.raises(ValueError, match=match):
        call(fitted, X)
    assert vars(fitted).keys() == before.keys()
    assert all(vars(fitted)[key] is before[key] for key in before)


def test_every_method_needs_a_fit(X):
    model = make()
    calls = [
        lambda: model.predict_facets(X),
        lambda: model.predict_proba_facets(X),
        lambda: model.score_samples(X),
        lambda: model.reconstruct(X),
        lambda: model.inverse_transform(np.zeros((1, 4))),
        lambda: model.sample(),
        lambda: model.swap_facets(X, X, 0),
        lambda: model.traverse(X),
        lambda: model.facet(0),
        model.get_feature_names_out,
    ]
    for call in calls:
        with pytest.raises(NotFittedError, match="Call 'fit'"):
            call()
