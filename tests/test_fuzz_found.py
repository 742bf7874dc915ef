"""What random inputs found, by kind, each with what is right."""

import fractions

import numpy as np
import pandas as pd
import pytest
import torch
from small_digpro import make

from skdeepcluster import MFCVAE
from skdeepcluster._parameters import as_declared, sizes_fit
from skdeepcluster.datasets import load_digits_images

X = load_digits_images()[0][:24]
ROWS = np.random.default_rng(0).normal(size=(24, 4))


def refused(X, error, match, **params):
    model = make(**params)
    before = dict(vars(model))
    with pytest.raises(error, match=match) as caught:
        model.fit(X)
    assert vars(model) == before and len(str(caught.value)) < 1000


# -- parameters ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({"hidden_dim": True, "n_init": np.True_}, {"hidden_dim": 1, "n_init": 1}),
        ({"warmup": fractions.Fraction(1, 2)}, {"warmup": 0.5}),
        ({"group_weight": 2**70}, {"group_weight": 2.0**70}),
        ({"lr": np.longdouble(0.01)}, {"lr": 0.01}),
        ({"random_state": np.True_}, {"random_state": 1}),
    ],
    ids=str,
)
def test_numbers_of_every_kind(given, same):
    params = {"max_epochs": 1, "lr": 1e-30, **given}
    model = make(**params).fit(X)
    reference = make(**{**params, **same}).fit(X)
    np.testing.assert_array_equal(model.transform(X), reference.transform(X))
    for name, value in given.items():
        assert model.get_params()[name] is value


@pytest.mark.parametrize("name", ["n_init", "hidden_dim", "group_reset", "bank_size"])
def test_whole_numbers_of_more_than_64_bits(name):
    refused(X, ValueError, f"{name} is a number that does not fit", **{name: 2**63})


def test_a_number_that_is_no_float():
    refused(X, ValueError, "lr is a number that does not fit", lr=10**400)
    assert as_declared((True, 2, "x"), "sizes", []) == (1, 2, "x")


def test_numbers_of_facets():
    params = {"n_facets": np.True_, "primary_facet": np.False_, "n_clusters": 3}
    assert MFCVAE(**params, max_epochs=1).fit(X).n_iter_ == 1
    for shares in (np.array(3), [[1, 1], [1, 1]], [1]):
        with pytest.raises(ValueError, match="stage_shares=.* 2 positive numbers"):
            MFCVAE(3, stage_shares=shares, max_epochs=1).fit(X)


def test_a_checkpoint_of_the_engine_alone():
    refused(X, ValueError, "net_params .* 'checkpoint'", net_params={"checkpoint": 1})
    refused(X, ValueError, "net_params=.* cannot be used", net_params={"history": 3})


@pytest.mark.parametrize("name", ["hidden_dim", "feature_dim"])
def test_sizes_that_no_memory_holds(name):
    refused(X, ValueError, rf"{name}={2**61} is more than", **{name: 2**61})


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="^mine$"), sizes_fit({"hidden_dim": 64}):
        raise RuntimeError("mine")
    with pytest.raises(IndexError), sizes_fit({"hidden_dim": 2**40}):
        raise IndexError


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\ud800", "/dev/null", "file/a"])
def test_checkpoints_that_are_no_folders(name, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    refused(X, (OSError, ValueError), "checkpoint=.* is no folder", checkpoint=name)


@pytest.mark.parametrize(
    "augment",
    [lambda x: x.to("meta"), lambda x: x.to_sparse(), lambda x: x.to(torch.complex64)],
    ids=["device", "sparse", "complex"],
)
def test_views_of_another_kind(augment):
    refused(X, ValueError, "augment returned a tensor on", augment=augment)


# -- X ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "error", "match"),
    [
        ([[object()] * 2] * 8, TypeError, "X holds values that are no numbers"),
        ([[10**400, 1]] * 8, ValueError, "X holds values that are no numbers"),
        (pd.DataFrame([["1a", "2"]] * 8), ValueError, "X holds values .* '1a'"),
        (np.array([[1j, 2]] * 8, object), ValueError, "Complex data not supported"),
        (ROWS.tobytes(), TypeError, "X is 768 bytes"),
        ("x" * 5000, ValueError, "X is one path"),
        (np.frombuffer(ROWS.tobytes(), np.uint8), ValueError, "Reshape your data"),
        (np.rec.fromarrays([[1]] * 99), ValueError, r"X has the dtype .*\.\.\.; numb"),
        (np.ma.masked_all((8, 2), "i4,f4"), ValueError, "X has the dtype"),
    ],
    ids=[
        *("objects", "large", "text", "complex", "bytes", "path", "1-D", "record"),
        "masked",
    ],
)
def test_values_that_are_none(values, error, match):
    refused(values, error, match)


def test_texts_of_numpys_own_type_are_numbers():
    texts = ROWS.astype(np.dtypes.StringDType())
    expected = (
        make(augment="vector", backbone="mlp")
        .fit(ROWS.astype(str).astype(float))
        .labels_
    )
    np.testing.assert_array_equal(
        make(augment="vector", backbone="mlp").fit(texts).labels_, expected
    )


def test_categories_that_are_far_from_0():
    frame = pd.DataFrame((1e12 + 4 * ROWS).astype(int)).astype("category")
    expected = (
        make(augment="vector", backbone="mlp")
        .fit((1e12 + 4 * ROWS).astype(int))
        .labels_
    )
    np.testing.assert_array_equal(
        make(augment="vector", backbone="mlp").fit(frame).labels_, expected
    )


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_extremes_are_an_error_alone():
    most = np.finfo(float).max
    values = np.where(ROWS > 0, most, -most)
    of_vectors = {"augment": "vector", "backbone": "mlp"}
    refused(values, ValueError, "do not fit float32", **of_vectors)
    refused(torch.tensor(values), ValueError, "do not fit float32", **of_vectors)
    larger = values.astype(np.longdouble) * most
    refused(larger, ValueError, "X .* too large|float32", **of_vectors)
