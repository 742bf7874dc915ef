"""Estimators of wide vectors, which they reduce to principal components."""

import functools
import pickle

import numpy as np
import pytest
import torch
from estimators import ESTIMATORS, NAMES
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import FunctionTransformer
from torch import nn

import skdeepcluster
from skdeepcluster import SCL

N, D, K = 60, 30, 4  # rows, columns, components
KINDS = np.arange(N) % 3
RNG = np.random.default_rng(0)
FACTORS = RNG.normal(size=(N, K)) + 6 * np.eye(3, K)[KINDS]
X = 200 + 10 * (FACTORS @ RNG.normal(size=(K, D)) + 0.1 * RNG.normal(size=(N, D)))
SMALL = {"max_epochs": 2, "feature_dim": 8, "hidden_dim": 8, "random_state": 0}

each_name = pytest.mark.parametrize("name", NAMES)


@functools.cache
def fitted(name):
    """The estimator of this name, of 4 components: not to be changed."""
    model = clone(ESTIMATORS[NAMES.index(name)]).set_params(n_components=K)
    return model.fit(X)


@each_name
def test_networks_see_the_components(name):
    model = fitted(name)
    assert model.net_.module_.scaling.components.shape == (D, K)
    layers = [part for part in model.net_.module_.modules() if hasattr(part, "weight")]
    widths = {part.in_features for part in layers if isinstance(part, nn.Linear)}
    assert K in widths and D not in widths


@each_name
def test_the_estimator_speaks_of_the_columns_of_X(name):
    model = fitted(name)
    assert model.n_features_in_ == D and model.image_shape_ == (1, 1, D)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    np.testing.assert_array_equal(model.predict(X[:1]), model.labels_[:1])
    np.testing.assert_allclose(
        model.transform(X[5:6]), model.transform(X)[5:6], atol=1e-5
    )
    with pytest.raises(ValueError, match="30"):
        model.predict(X[:, :K])


@each_name
def test_copies_and_files(name, tmp_path):
    model = fitted(name)
    model.save(tmp_path / "model")
    loaded = skdeepcluster.load(tmp_path / "model", device="cpu")
    for again in (pickle.loads(pickle.dumps(model)), loaded):
        np.testing.assert_array_equal(again.transform(X), model.transform(X))
        np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
        with pytest.raises(ValueError, match="30"):
            again.predict(X[:, :K])


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("name", ["MFCVAE", "GCC"])
def test_samples_have_the_columns_of_X(name, n):
    drawn = fitted(name).sample(n, random_state=0)[0]
    assert drawn.shape == (n, D) and drawn.dtype == np.float32
    assert 100 < drawn.mean() < 300
    # of the space of the components, about the mean
    pca = PCA(K).fit(X)
    back = pca.inverse_transform(pca.transform(drawn))
    assert np.abs(drawn - back).mean() < 0.2 * X.std()


def test_latents_and_reconstructions_have_the_columns_of_X():
    model = fitted("MFCVAE")
    again = model.inverse_transform(model.transform(X))
    assert again.shape == model.reconstruct(X).shape == (N, D)


def test_a_backbone_of_ones_own_sees_the_components():
    seen = []

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(K, 5)

        def forward(self, x):
            seen.append(tuple(x.shape[1:]))
            return self.linear(x.flatten(1))

    model = SCL(3, backbone=Own(), n_components=K, **SMALL).fit(X)
    assert set(seen) == {(1, 1, K)}
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    with pytest.raises(ValueError, match=r"cannot read images of shape \(1, 1, 30\)"):
        SCL(3, backbone=Own(), n_components=None, **SMALL).fit(X)


def test_the_default_reduces_wide_vectors_only():
    rng = np.random.default_rng(0)
    for width, expected in ((256, (0, 0)), (257, (257, 256))):
        model = SCL(3, **SMALL).fit(rng.normal(size=(300, width)))
        assert model.net_.module_.scaling.components.shape == expected


def test_what_is_asked_of_vectors_is_not_of_images():
    images = RNG.random((20, 8, 8))
    plain, other = (
        SCL(3, standardize=standardize, n_components=n, **SMALL).fit(images)
        for standardize, n in ((True, 256), (False, 2))
    )
    np.testing.assert_array_equal(other.transform(images), plain.transform(images))


def test_a_column_that_varies_much_drowns_no_other():
    loud = np.column_stack([X - 200, RNG.normal(0, 8 * X.std(), N)])
    found = []
    for standardize in (True, False):
        model = SCL(3, standardize=standardize, random_state=0, max_epochs=30)
        found.append(adjusted_rand_score(model.fit_predict(loud), KINDS))
    assert found[0] > 0.9 > 0.5 > found[1]


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"n_components": 0}, "'n_components' parameter of SCL"),
        ({"n_components": 0.9}, "'n_components' parameter of SCL"),
        ({"standardize": "yes"}, "'standardize' parameter of SCL"),
    ],
)
def test_bad_values(params, match):
    model = SCL(3, **SMALL, **params)
    with pytest.raises(ValueError, match=match):
        model.fit(X)
    assert not hasattr(model, "labels_")


def test_components_of_frozen_features(tmp_path):
    network = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.ReLU(), nn.Flatten())
    images = (255 * RNG.random((40, 8, 8))).astype(np.uint8)
    model = SCL(3, backbone=network, trainable="none", n_components=K, **SMALL)
    model.fit(images)
    assert model.net_.module_.scaling.components.shape == (54, K)
    model.save(tmp_path / "model")
    again = skdeepcluster.load(tmp_path / "model", backbone=network, device="cpu")
    np.testing.assert_array_equal(again.transform(images), model.transform(images))
    np.testing.assert_array_equal(again.predict(images[:1]), model.labels_[:1])


def test_another_number_of_components_is_another_training(tmp_path):
    model = SCL(3, checkpoint=tmp_path, **SMALL).fit(X)
    other = clone(model).set_params(n_components=K)
    with pytest.raises(ValueError, match="n_components"):
        other.fit(X)


def test_in_a_pipeline_of_float16():
    half = FunctionTransformer(lambda rows: rows.astype(np.float16)).fit_transform(X)
    model = SCL(3, n_components=K, **SMALL).fit(half)
    assert model.transform(half).dtype == np.float32
    assert torch.isfinite(model.net_.module_.scaling.components).all()
