"""Images that a fitted MFCVAE generates."""

import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.exceptions import NotFittedError
from small_mfcvae import fit, learnt, make, means_of

N = 64


@pytest.fixture(scope="module")
def X(two_factors):
    return two_factors[0]


@pytest.fixture(scope="module")
def fitted(X):
    return learnt(X)


@pytest.fixture
def latents(fitted, monkeypatch):
    """``fitted``, but it returns latents where it should make images of them."""
    model = copy.copy(fitted)
    monkeypatch.setattr(model, "_generate", np.array, raising=False)
    return model


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
def test_images_have_the_layout_of_the_training_data(layout):
    data, params = LAYOUTS[layout]
    model = fit(data, **params)
    dtype = np.uint8 if data.dtype == np.uint8 else np.float32
    Z = model.transform(data[:5])
    generated = [
        model.reconstruct(data[:5]),
        model.inverse_transform(Z),
        model.sample(5, random_state=0)[0],
        model.sample(5, like=data[:5], random_state=0)[0],
        model.swap_facets(data[:5], data[5:10], 0),
        model.traverse(data[:5], n_steps=4, axis=0)[:, 2],
        model.traverse(data[:5])[:, 0],
    ]
    for images in generated:
        assert images.shape == (5, *data.shape[1:]) and images.dtype == dtype
        assert np.isfinite(images).all()
        if layout != "vectors":  # the sigmoid keeps to the range
            low, high = (0, 255) if dtype == np.uint8 else (data.min(), data.max())
            if low >= 0 and high <= 1:
                low, high = 0, 1
            assert low - 1e-4 <= images.min() and images.max() <= high + 1e-4
        np.testing.assert_array_equal(model.predict(images).shape, (5,))
    np.testing.assert_array_equal(generated[0], generated[1])


def test_pixels_come_back_to_their_places(X):
    # a network that learnt the images shows where each pixel and channel belongs
    model = fit(X, n_facets=1, latent_dims=4, max_epochs=60, hidden_dims=32)
    error = np.abs(model.reconstruct(X).astype(float) - X).mean()
    assert error < 0.4 * np.abs(X - X.mean(0)).mean()


@pytest.mark.parametrize("layout", ["NHWC", "rows", "unit"])
def test_other_layouts_are_the_same_images(X, layout):
    expected = fit(X, max_epochs=4).reconstruct(X)
    data, params = X, {}
    if layout == "NHWC":
        data = np.ascontiguousarray(X.transpose(0, 2, 3, 1))
        expected = expected.transpose(0, 2, 3, 1)
    if layout == "rows":
        data, params = X.reshape(N, -1), {"image_shape": (3, 8, 8)}
        expected = expected.reshape(N, -1)
    if layout == "unit":
        data = X / 255
    images = fit(data, max_epochs=4, **params).reconstruct(data)
    if layout == "unit":
        np.testing.assert_allclose(255 * images, expected, atol=1)
    else:
        np.testing.assert_array_equal(images, expected)


def test_vectors_come_back(X):
    rng = np.random.default_rng(0)
    rows = (
        30 * rng.normal(size=(3, 6))[np.arange(N) % 3] + 200 + rng.normal(size=(N, 6))
    )
    model = fit(rows, n_facets=1, latent_dims=2, max_epochs=100, hidden_dims=32)
    error = np.abs(model.reconstruct(rows) - rows).mean()
    assert error < 0.3 * np.abs(rows - rows.mean(0)).mean()


def test_files_come_back_as_images(X, tmp_path):
    files = []
    for i, image in enumerate(X[:20].transpose(0, 2, 3, 1)):
        files.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(image).save(files[-1])
    images = fit(files).reconstruct(files[:3])
    assert images.shape == (3, 3, 8, 8) and images.dtype == np.uint8


def test_data_frames_come_back_as_arrays(X):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X[:20].reshape(20, -1)).add_prefix("pixel")
    model = fit(frame, image_shape=(3, 8, 8))
    assert model.reconstruct(frame).shape == (20, 192)
    assert list(model.feature_names_in_[:2]) == ["pixel0", "pixel1"]


# -- new images ------------------------------------------------------------------------


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


# -- images with facets of others ------------------------------------------------------


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
    model = learnt(X, n_clusters=3)
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


# -- what is refused -------------------------------------------------------------------

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
