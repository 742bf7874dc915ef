"""Numbers of numpy are parameters as good as Python's."""

import numpy as np
import pytest
import torch
from estimators import ESTIMATORS, NAMES, fitted, make_stripes
from sklearn.base import clone
from sklearn.utils._param_validation import InvalidParameterError

from skdeepcluster import GCC, MFCVAE
from skdeepcluster._parameters import plain

X = make_stripes()[0]


def same_type(value, expected):
    return type(value) is type(expected) and value == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(3), 3),
        (np.uint8(3), 3),
        (np.float32(0.5), 0.5),
        (np.longdouble(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("auto"), "auto"),
        ((np.int64(1), 8), (1, 8)),
        ([np.float32(0.5), None], [0.5, None]),
        ({"a": (np.int64(1),)}, {"a": (1,)}),
        (True, True),
        (None, None),
    ],
    ids=repr,
)
def test_plain(value, expected):
    got = plain(value)
    assert same_type(got, expected)
    parts = got.values() if isinstance(got, dict) else got
    if isinstance(got, (dict, list, tuple)):
        wanted = expected.values() if isinstance(expected, dict) else expected
        assert all(map(same_type, parts, wanted))


def test_what_is_no_scalar_stays_itself():
    for value in (
        np.arange(2),
        torch.ones(2),
        np.random.RandomState(0),
        torch.nn.ReLU(),
    ):
        assert plain(value) is value


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=NAMES)
def test_all_numbers_at_once_change_nothing(estimator):
    name = type(estimator).__name__
    params = clone(estimator).get_params()
    scalars = {
        key: np.asarray(value)[()]
        for key, value in params.items()
        if isinstance(value, (bool, int, float))
    }
    assert {"batch_size", "lr", "n_clusters", "random_state"} <= scalars.keys()
    if name == "MFCVAE":
        assert "learn_weights" in scalars
    if name == "GCC":
        assert "bank__steps" in scalars
    model = clone(estimator).set_params(**scalars).fit(X)
    reference = fitted(name)
    np.testing.assert_array_equal(model.labels_, reference.labels_)
    np.testing.assert_array_equal(model.transform(X), reference.transform(X))
    if hasattr(model, "sample"):
        one, other = (m.sample(2, random_state=0)[0] for m in (model, reference))
        np.testing.assert_array_equal(one, other)
    for key, value in scalars.items():
        assert model.get_params()[key] is value


@pytest.mark.parametrize("value", [np.array(32), torch.tensor(32), np.int64(1)])
def test_what_is_no_number_or_out_of_range_is_refused(value):
    with pytest.raises(InvalidParameterError, match="'batch_size' .* Got "):
        GCC(batch_size=value).fit(X)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_tensor_is_no_number(dtype):
    with pytest.raises(InvalidParameterError, match="'lr' .* Got tensor"):
        GCC(lr=torch.tensor(1e-3, dtype=dtype)).fit(X)


def test_settings_within_settings():
    model = MFCVAE(
        n_clusters=[np.int64(3), np.int64(2)],
        latent_dims=(np.int32(3), np.int32(1)),
        hidden_dims=np.array([16, 16]),
        max_epochs=np.int64(2),
        net_params={"optimizer__weight_decay": np.float32(0.5)},
        random_state=np.random.RandomState(0),
    ).fit(X)
    assert model.net_.module_.p.n_clusters == (3, 2)
    weight_decay = model.net_.get_params()["optimizer__weight_decay"]
    assert same_type(weight_decay, 0.5)
