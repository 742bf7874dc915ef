"""New images in another range than the training data: converted, or refused."""

import numpy as np
import pytest
from estimators import make_stripes
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from small_digpro import make

from skdeepcluster._input.images import Images
from skdeepcluster._input.scaling import Scaling

STRIPES = make_stripes()[0]  # uint8
X = np.where(STRIPES == STRIPES.max(), 255, STRIPES).astype(np.uint8)
X[:, 0, 0] = 0

# white is 255, 1 or 65535, and told by the type or by the values
KNOWN = {
    "uint8": X,
    "int64": X.astype(np.int64),
    "uint16": X.astype(np.uint16),
    "uint16 of 16 bits": X.astype(np.uint16) * 257,
    "float to 255": X.astype(np.float32),
    "float to 254": X.clip(0, 254).astype(float),
    "float64 to 1": X / 255,
    "float32 to 1": (X / 255).astype(np.float32),
}
MASKS = {"bool": X > 127, "0 and 1": (X > 127).astype(np.int64)}
# the range is that of the training data
OWN = {
    "-1 to 1": X / 127.5 - 1,
    "0 to 16": X / 255 * 16,
    "0 to 254.3": X / 255 * 254.3,
    "standardised": (X - X.mean()) / X.std(),
    "12 bits": X.astype(np.uint16) * 16,
}
EVERY = {**KNOWN, **MASKS, **OWN}
# the numbers are right as they are
SAME = {(name, "0 to 254.3") for name in list(KNOWN)[:3] + list(KNOWN)[4:6]}
SAME |= {("0 to 254.3", name) for name in list(KNOWN)[:3] + list(KNOWN)[4:6]}


@pytest.fixture(scope="module")
def models():
    return {name: make().fit(images) for name, images in EVERY.items()}


@pytest.mark.parametrize("given", KNOWN)
@pytest.mark.parametrize("fitted", KNOWN)
def test_a_known_white_is_converted(models, fitted, given):
    model = models[fitted]
    before = EVERY[given].copy()
    np.testing.assert_array_equal(model.predict(EVERY[given]), model.labels_)
    embedding = model.transform(EVERY[fitted])
    # 254 was clipped
    np.testing.assert_allclose(model.transform(EVERY[given]), embedding, atol=2e-2)
    np.testing.assert_array_equal(EVERY[given], before)


@pytest.mark.parametrize("given", MASKS)
@pytest.mark.parametrize("fitted", [*KNOWN, *MASKS])
def test_masks_are_black_and_white(models, fitted, given):
    model, white = models[fitted], {"uint8": 255, "uint16 of 16 bits": 65535}
    masks = MASKS["0 and 1"] * np.uint8(255)
    expected = model.transform(masks)
    np.testing.assert_array_equal(model.transform(EVERY[given]), expected)
    if fitted in white:
        as_fitted = MASKS["0 and 1"] * np.array(white[fitted], EVERY[fitted].dtype)
        np.testing.assert_array_equal(model.transform(as_fitted), expected)


REFUSED = [
    (fitted, given)
    for fitted in EVERY
    for given in EVERY
    if (fitted in OWN or given in OWN) and fitted != given
    if (fitted, given) not in SAME and {fitted, given} != {"-1 to 1", "standardised"}
]


@pytest.mark.parametrize(("fitted", "given"), REFUSED)
def test_an_unknown_white_is_refused(models, fitted, given):
    model, before = models[fitted], dict(vars(models[fitted]))
    for method in ("predict", "transform", "score"):
        with pytest.raises(ValueError, match="X holds values from .* fitted on images"):
            getattr(model, method)(EVERY[given])
    assert vars(model) == before


@pytest.mark.parametrize("share", [1 / 255, 0.1, 1e-4])
def test_images_that_were_scaled_twice_are_refused(models, share):
    for name in ("uint8", "float64 to 1"):
        with pytest.raises(ValueError, match="Scale X as the training data were"):
            models[name].predict(share * X / 255)


@pytest.mark.parametrize(("fitted", "given"), sorted(SAME))
def test_numbers_of_one_range_are_taken_as_they_are(models, fitted, given):
    model = models[fitted]
    np.testing.assert_array_equal(model.predict(EVERY[given]), model.labels_)


def test_the_error_tells_both_ranges(models):
    said = "from -1 to 1, but the estimator was fitted on images of 0 to 255. Scale X"
    with pytest.raises(ValueError, match=said):
        models["uint8"].predict(OWN["-1 to 1"])


def test_uint8_is_not_looked_through(models, monkeypatch):
    """Values of uint8 images cost no pass of their own."""

    def of(images, look=True):
        assert not look
        return of.real(images, look)

    of.real = Scaling.match.__globals__["Values"].of
    monkeypatch.setattr("skdeepcluster._input.scaling.Values.of", of)
    np.testing.assert_array_equal(models["uint8"].predict(X), models["uint8"].labels_)
    unit = models["float32 to 1"]
    np.testing.assert_array_equal(unit.predict(X), unit.labels_)


def test_uint8_images_for_a_model_of_unit_floats(models):
    unit = models["float32 to 1"]
    expected = unit.transform(KNOWN["float32 to 1"])
    np.testing.assert_array_equal(unit.transform(X), expected)


# -- what is no mismatch ---------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_a_single_image_is_taken(models, name):
    model = models[name]
    for i in range(9):
        assert model.predict(EVERY[name][i : i + 1]) == model.labels_[i]


@pytest.mark.parametrize("name", [*KNOWN, *OWN])
def test_black_images_are_taken(models, name):
    black = np.full_like(EVERY[name][:3], EVERY[name].min())
    assert len(set(models[name].predict(black))) == 1


@pytest.mark.parametrize("name", OWN)
def test_a_somewhat_larger_range_is_taken(models, name):
    model, images = models[name], EVERY[name]
    wider = images + 0.2 * (images - images.mean())
    assert (model.predict(wider) == model.labels_).mean() > 0.9


def test_a_few_outliers_are_taken(models):
    for name in ("-1 to 1", "float64 to 1"):
        images = EVERY[name].copy()
        images[0, 0, 0] = 500
        labels = models[name].predict(images)
        np.testing.assert_array_equal(labels[1:], models[name].labels_[1:])


@pytest.mark.parametrize("name", ["float to 255", "0 to 16", "-1 to 1"])
def test_one_image_unlike_the_others_only_warns(models, name):
    images = EVERY[name]
    if name == "-1 to 1":
        odd = np.linspace(0.6, 1, 64).reshape(1, 8, 8)
    else:
        odd = images[:1] / images.max() * images.max() / 12
    with pytest.warns(UserWarning, match="Unless these images are dark or bright"):
        models[name].predict(odd)
    with pytest.raises(ValueError, match="X holds values from"):
        models[name].predict(np.repeat(odd, 2, axis=0))


def test_dark_images_that_training_had_are_no_surprise():
    images = X.astype(np.uint16) * 16
    images[1:] //= 12  # one bright outlier makes the range
    model = make().fit(images)
    np.testing.assert_array_equal(model.predict(images[1:]), model.labels_[1:])


@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler()])
def test_scalers_in_cross_validation(scaler):
    """Pixels that hardly vary in training get far out of range in new images."""
    rows = load_digits().data[:120]
    pipeline = make_pipeline(scaler, make(image_shape=(1, 8, 8), max_epochs=1))
    scores = cross_val_score(pipeline, rows, cv=10, error_score="raise")
    assert np.isfinite(scores).all()


def test_vectors_have_no_range():
    rows = np.random.default_rng(0).random((40, 5))
    model = make(backbone="mlp", augment="vector").fit(rows)
    assert len(model.predict(rows * 1000 - 300)) == 40


def test_range_is_found_in_every_chunk(monkeypatch):
    monkeypatch.setattr("skdeepcluster._input.scaling.CHUNK_VALUES", 64)
    images = X.astype(np.float32)
    model = make().fit(X / 127.5 - 1)
    images[:-1] = 0.5
    with pytest.raises(ValueError, match="from 0 to 255"):
        model.predict(np.repeat(images[-1:], 9, axis=0))
    scaling = Scaling(Images(X / 16, (1, 8, 8)))
    assert scaling.seen[:2].tolist() == [0, 255 / 16]
    assert scaling.seen[4] == 0
