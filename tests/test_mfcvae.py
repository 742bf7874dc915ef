"""MFCVAE's parameters: what they change in a training, and what is refused."""

import copy
import inspect
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback
from small_mfcvae import convergence_warnings, fit, make, make_module

from skdeepcluster import MFCVAE
from skdeepcluster.mfcvae.collapse import FacetCollapseWarning
from skdeepcluster.mfcvae.stages import stage_lengths

N = 64


@pytest.fixture(scope="module")
def X(two_factors):
    return two_factors[0]


@pytest.fixture(scope="module")
def fitted(X):
    return fit(X)


# -- other numbers of facets and clusters ----------------------------------------------


@pytest.mark.parametrize("n_facets", [1, 2, 3, 4])
def test_numbers_of_facets(X, n_facets):
    model = fit(X, n_facets=n_facets, latent_dims=2, max_epochs=4)
    assert model.facet_labels_.shape == (N, n_facets)
    assert model.transform(X).shape == (N, 2 * n_facets)
    np.testing.assert_array_equal(model.predict_facets(X), model.facet_labels_)
    new, labels = model.sample(5, random_state=0)
    assert new.shape == (5, *X.shape[1:]) and labels.shape == (5, n_facets)
    parts = [key for key in model.history_[-1] if key.startswith("loss_facet")]
    assert len(parts) == n_facets


def test_one_cluster_in_a_facet(X):
    model = fit(X, n_clusters=(1, 3))
    assert not model.facet_labels_[:, 0].any()
    np.testing.assert_array_equal(model.predict_proba(X, facet=0), np.ones((N, 1)))
    # and it costs no assignment
    assert model.history_[-1]["kl_c"][0] == pytest.approx(0, abs=1e-5)
    assert convergence_warnings(make(n_clusters=1).fit, X) == []


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
        {"prior_warmup": 0.0},
        {"prior_warmup": 1.0},
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
    X = X[:32]
    model = fit(X, **{"max_epochs": 4, **params})
    np.testing.assert_array_equal(model.predict_facets(X), model.facet_labels_)
    assert np.isfinite(model.score_samples(X)).all()
    assert all(np.isfinite(row["loss"]) for row in model.history_)
    assert model.reconstruct(X).shape == X.shape


@pytest.mark.parametrize("n_facets", [1, 2, 3])
def test_defaults(X, n_facets):
    model = MFCVAE(n_facets=n_facets, n_clusters=3, max_epochs=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X[:24])
    width = 10 if n_facets == 1 else 5 + 2 * (n_facets - 1)
    assert model.transform(X).shape == (N, width)


def test_what_auto_stands_for(X):
    auto = {"latent_dims": "auto", "hidden_dims": "auto", "max_epochs": "auto"}
    p = make_module(X, **auto, n_facets=4).p
    assert p.latent_dims == (5, 2, 2, 2) and p.hidden_dims == (16, 32, 64, 64)
    assert p.output == "sigmoid" and p.n_clusters == (3,) * 4
    assert p.max_epochs == 800  # 1600 steps
    for n_facets, decay in {1: 1, 2: 1, 3: 8, 4: 8}.items():
        p = make_module(X, n_facets=n_facets, latent_dims=1).p
        assert p.beta_decay == decay
    p = make_module(X, **auto, backbone="mlp", n_facets=1, primary_facet=-1).p
    assert p.latent_dims == (10,) and p.hidden_dims == (400,)
    assert p.primary_facet == 0 and p.stage_shares == (1.0,)
    p = make_module(X[:, :1, :1], **auto).p  # vectors
    assert p.hidden_dims == (400, 400) and p.output == "identity"


# -- the course of training ------------------------------------------------------------


def test_facets_come_one_after_the_other(X):
    model = fit(X, n_facets=3, latent_dims=1, max_epochs=12, stage_shares=(2, 1, 1))
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
    model = fit(X, progressive=False, max_epochs=4)
    assert all(row["alpha"] == [1.0, 1.0] for row in model.history_)
    assert model.history_[0]["loss_facet0"] != 0


def test_fewer_epochs_than_facets(X):
    model = fit(X, n_facets=4, latent_dims=1)
    assert model.history_[-1]["alpha"] == [1.0] * 4
    assert model.predict_facets(X).shape == (N, 4)


def test_priors_learn(X):
    seen = []

    class Look(Callback):
        def on_epoch_end(self, net, **kwargs):
            seen.append([p.means.detach().clone() for p in net.module_.priors])

    fit(X, max_epochs=10, n_refits=0, callbacks=[Look()], learn_weights=True)
    for j, set_at in ((0, 7), (1, 2)):  # after 7 and 2 epochs, of stages of 5
        assert torch.equal(seen[set_at - 2][j], torch.zeros_like(seen[0][j]))
        assert not torch.equal(seen[set_at - 1][j], seen[-1][j])
        moved = [bool((row[j] != 0).any()) for row in seen]
        assert not moved[0] and moved[-1]


def test_an_interrupt_before_the_last_stage_leaves_its_facet_out(X):
    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 4:
                raise KeyboardInterrupt

    model = fit(X, max_epochs=20, callbacks=[Stop()])
    assert model.n_iter_ == 4
    np.testing.assert_array_equal(model.predict_facets(X), model.facet_labels_)
    np.testing.assert_array_equal(
        model.swap_facets(X, X[::-1], 0), model.reconstruct(X)
    )


def test_other_seeds_and_the_same(X):
    one, same, other = (fit(X, max_epochs=4, random_state=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.facet_labels_, same.facet_labels_)
    np.testing.assert_array_equal(one.score_samples(X), same.score_samples(X))
    assert not np.allclose(one.transform(X), other.transform(X))


# -- collapse --------------------------------------------------------------------------


def collapse_messages(rows, n_clusters, alpha=(1.0, 1.0), **params):
    """What the callback says of a history of ``effective_clusters``."""
    callback, p = FacetCollapseWarning(**params), make(n_clusters=n_clusters)
    net = SimpleNamespace(module_=SimpleNamespace(p=p), history=[])

    def train():
        callback.on_train_begin(net)
        for epoch, used in enumerate(rows, start=1):
            row = {"epoch": epoch, "effective_clusters": used, "alpha": alpha}
            net.history.append(row)
            callback.on_epoch_end(net)

    return convergence_warnings(train)


def test_collapse_that_lasts_is_warned_of_once_for_each_facet():
    messages = collapse_messages([[5.0, 1.0]] * 9, [8, 8])
    assert len(messages) == 1 and messages[0].startswith("Facet 1 is collapsing")
    for remedy in ("prior_init='warmup_gmm'", "n_refits", "prior_warmup", "sigma_x"):
        assert remedy in messages[0]
    assert len(collapse_messages([[1.2, 1.0]] * 9, [8, 8])) == 2


def test_what_is_no_collapse():
    assert collapse_messages([[0.0, 0.0]] * 9, [8, 8]) == []  # no mixture yet
    assert collapse_messages([[1.0, 1.0]] * 9, [1, 1]) == []  # one cluster was asked
    assert collapse_messages([[1.0, 1.0], [3.0, 3.0]] * 9, [8, 8]) == []  # passes
    waits = collapse_messages([[1.0, 1.0]] * 9, [8, 8], alpha=(0.0, 1.0))
    assert [message.split(" is")[0] for message in waits] == ["Facet 1"]


def test_early_collapse_is_seen_and_recorded(X):
    # images that are all alike share a cluster, whatever the mixtures are
    model = make(max_epochs=18)
    messages = convergence_warnings(lambda: model.fit(np.full_like(X, 7)))
    for facet in (0, 1):
        start = f"Facet {facet} is collapsing: up to epoch "
        (message,) = [m for m in messages if m.startswith(start)]
        epoch = int(message.removeprefix(start).split()[0])
        used = [row["effective_clusters"][facet] for row in model.history_]
        first = next(i for i, value in enumerate(used) if value > 0)
        assert used[:first] == [0.0] * first  # before it has a mixture
        assert used[first:] == [1.0] * (18 - first)
        assert epoch == first + 3


def test_facets_that_do_not_train_yet_are_no_collapse(X):
    # the paper's start gives every facet a mixture before it takes part
    model = make(prior_init="gmm", max_epochs=20, stage_shares=(19, 1), n_refits=5)
    messages = convergence_warnings(model.fit, X)
    assert not any(m.startswith("Facet 0 is collapsing") for m in messages)


# -- search ----------------------------------------------------------------------------


def test_grid_search_over_facets(X):
    grid = [
        {"n_facets": [1], "latent_dims": [2]},
        {"n_facets": [2], "latent_dims": [(2, 1), 2], "n_clusters": [(3, 4)]},
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search = GridSearchCV(make(latent_dims=2), grid, cv=2).fit(X[:32])
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
    assert stage_lengths(settings["max_epochs"], settings["stage_shares"]) == stages
    assert settings["fade_in"] * stages[1] * steps == pytest.approx(fade)
    # mixtures of as many clusters need as many images, and time
    few = {"n_clusters": (6, 5), "max_epochs": 1, "random_state": 0, "device": "cpu"}
    images = np.random.default_rng(0).integers(0, 256, (20, *shape), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = MFCVAE(**{**settings, **few}).fit(images)
    np.testing.assert_array_equal(model.predict_facets(images), model.facet_labels_)
    networks = model.net_.module_.backbone, model.net_.module_.decoder
    if name == "mnist":
        count = sum(p.numel() for n in networks for p in n.parameters())
        assert count == 3_078_304


def test_unknown_paper_settings():
    with pytest.raises(ValueError, match="'cifar' is unknown.*'mnist', '3dshapes'"):
        MFCVAE.paper_settings("cifar")


def test_paper_settings_are_a_copy():
    MFCVAE.paper_settings("mnist")["n_clusters"] = 3
    assert MFCVAE.paper_settings("mnist")["n_clusters"] == (25, 25)


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
    ({"beta_decay": 0.5}, "'beta_decay' .* Got 0.5"),
    ({"prior_warmup": -0.1}, "'prior_warmup' .* Got -0.1"),
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
def test_bad_parameters(fitted, X, params, match):
    for model in (make(), copy.copy(fitted)):
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
