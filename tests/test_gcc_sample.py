"""Images that a fitted GCC draws of its clusters."""

import pickle

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from small_gcc import fitted, make, squares

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def model():
    """A fitted copy of one's own."""
    return pickle.loads(pickle.dumps(fitted()[2]))


def watch(model):
    """Note what the diffusion model is asked for."""
    asked, generator = [], model.net_.module_.generator
    draw = generator.sample_all

    def watched(classes, *args):
        asked.append((classes.tolist(), *args))
        return draw(classes, *args)

    generator.sample_all = watched
    return asked


def test_samples_look_like_the_training_data(model):
    drawn, labels = model.sample(7, random_state=0)
    assert drawn.shape == (7, 8, 8) and drawn.dtype == np.uint8
    assert labels.dtype == np.int64 and labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    again, _ = model.sample(7, random_state=0)
    np.testing.assert_array_equal(drawn, again)
    other, _ = model.sample(7)
    assert not np.array_equal(drawn, other)


@pytest.mark.parametrize(
    "layout", ["channels first", "channels last", "rows", "vectors", "0 to 1"]
)
def test_samples_come_in_the_layout_of_the_data(layout):
    rng = np.random.default_rng(0)
    X, params = rng.integers(0, 256, (40, 3, 8, 8)).astype(np.uint8), {}
    if layout == "channels last":
        X = np.ascontiguousarray(X.transpose(0, 2, 3, 1))
    elif layout == "rows":
        X = X.reshape(40, -1).astype(np.float64) - 100
        params = {"image_shape": (3, 8, 8)}
    elif layout == "vectors":
        X = 50 + 10 * rng.normal(size=(40, 6))
    elif layout == "0 to 1":
        X = X / np.float32(255)
    drawn, labels = make(**params).fit(X).sample(5, random_state=0)
    assert drawn.shape == (5, *X.shape[1:]) and len(labels) == 5
    assert drawn.dtype == (np.uint8 if X.dtype == np.uint8 else np.float32)
    if layout != "vectors":
        assert drawn.min() >= X.min() - 1e-3 and drawn.max() <= X.max() + 1e-3
    else:
        assert abs(drawn.mean() - 50) < 20


def test_guidance_and_cluster_of_samples(model):
    drawn, labels = model.sample(30, cluster=1, random_state=0)
    assert (labels == 1).all()
    assert (model.predict(drawn) == 1).mean() > 0.8
    without, _ = model.sample(30, cluster=1, guidance_scale=0, random_state=0)
    assert len(set(model.predict(without))) > 1
    quick, _ = model.sample(30, cluster=1, sampling_steps=2, random_state=0)
    assert not np.array_equal(quick, drawn)


def test_what_is_not_given_is_that_of_the_bank(model):
    asked = watch(model)
    model.sample(1, random_state=0)
    model.sample(1, guidance_scale=2, sampling_steps=2, random_state=0)
    model.set_params(
        bank__guidance_scale=0.5, bank__sampling_steps=4, bank__sampler="ddim"
    )
    model.sample(1, random_state=0)
    assert asked == [
        ([0], 1.5, 5, "dpm-solver++"),
        ([0], 2, 2, "dpm-solver++"),
        ([0], 0.5, 4, "ddim"),
    ]
    with pytest.raises(ValueError, match="sampling_steps=3 does not divide 1000"):
        model.sample(1, sampling_steps=3)


def test_samples_of_an_unpickled_model(model):
    one, other = (m.sample(4, random_state=3)[0] for m in (model, fitted()[2]))
    np.testing.assert_array_equal(one, other)


def test_samples_of_clusters_that_are_left(model):
    # labels leave out an empty cluster, and samples follow them
    model._kept = np.array([0, 2])
    asked = watch(model)
    _, labels = model.sample(4, random_state=0)
    assert labels.tolist() == [0, 0, 1, 1] and asked[0][0] == [0, 0, 2, 2]
    with pytest.raises(ValueError, match="cluster=2 should be None or .* 0 to 1"):
        model.sample(1, cluster=2)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"n_samples": 0}, "n_samples=0 should be an integer >= 1"),
        ({"n_samples": 1.5}, "n_samples=1.5 should be an integer"),
        ({"cluster": 3}, "cluster=3 should be None or an integer from 0 to 2"),
        ({"cluster": -1}, "cluster=-1 should be"),
        ({"cluster": "a"}, "cluster='a' should be"),
        ({"cluster": True}, "cluster=True should be"),
        ({"n_samples": True}, "n_samples=True should be"),
        ({"guidance_scale": -1}, "guidance_scale=-1 should be a finite number >= 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan should be"),
        ({"sampling_steps": 0}, "sampling_steps=0 should be an integer from 1 to 1000"),
    ],
)
def test_bad_arguments_of_sample(params, match):
    with pytest.raises(ValueError, match=match):
        fitted()[2].sample(**params)


def test_nothing_to_draw_before_fit():
    with pytest.raises(NotFittedError):
        make().sample(3)


@pytest.mark.parametrize(
    "params",
    [
        {"bank": "real"},
        {"pretraining": 1.0},
        {"max_epochs": 1, "pretraining": 0.9},
    ],
)
def test_nothing_to_draw_with(params):
    model = make(**params).fit(squares()[0])
    with pytest.raises(ValueError, match="no trained diffusion model to draw with"):
        model.sample(3)
