"""Whatever comes as X or as a parameter: a whole result, or one clear error.

``FUZZ=5000 python -m pytest tests/test_fuzz.py`` tries as many other inputs of each
method and kind.
"""

import contextlib
import io
import os
import random
import re
import tempfile
import warnings

import numpy as np
import pytest
import torch
from estimators import ESTIMATORS, NAMES, SMALL_BANK, fitted
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

pytest.importorskip("hypothesis")
pytest.importorskip("h5py")
pytest.importorskip("zarr")

from fuzzed import content, inputs, usual_inputs  # noqa: E402
from fuzzed_parameters import parameters_of  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from skdeepcluster.gcc import Generated  # noqa: E402

MORE = int(os.environ.get("FUZZ", 0))
ERRORS = (ValueError, TypeError, FloatingPointError, OSError)
# what an error about X or about the training may say, beside a name of a parameter
NAMED = re.compile(
    r"\bX\b|[Aa]rray|sample|loss|lr|embedding|dense|images?\b|NaN|callback|parameter of"
)
QUICK = {"max_epochs": 1}
QUICK_GCC = {"max_epochs": 2, "bank": Generated(**{**SMALL_BANK, "steps": 2})}


def fuzz(check, name, examples, *strategies):
    """Run a check on so many inputs: always the same ones, others for each method."""
    outcomes = []
    run = settings(
        max_examples=MORE or examples,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )(given(st.tuples(*strategies))(lambda drawn: outcomes.append(check(*drawn))))
    (run if MORE else seed(NAMES.index(name))(run))()
    assert len(outcomes) >= examples and any(outcomes) and not all(outcomes)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """Relative paths and temporary files are in a folder of the test."""
    path = tmp_path_factory.mktemp("fuzz")
    (path / "file").write_text("no folder")
    fitted("GCC")  # the first fit imports what adds filters for warnings
    with contextlib.chdir(path), pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(path))
        yield


def modes():
    """What belongs to the caller: generators, modes, folder."""
    return (
        torch.get_rng_state().numpy().tobytes(),
        repr(np.random.get_state()),
        random.getstate(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        np.geterr(),
        list(warnings.filters),
        os.getcwd(),
    )


@contextlib.contextmanager
def caller(X):
    """Fail if a block changes X, or a mode of its caller, or warns in others' name."""
    held = content(X)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = modes()
        with contextlib.redirect_stderr(io.StringIO()):
            yield
        assert modes() == before
    assert held is None or content(X) == held
    for warning in caught:
        if "feature names" in str(warning.message):  # scikit-learn says where
            continue
        assert warning.category in (UserWarning, ConvergenceWarning), warning
        assert warning.filename == __file__, warning


def assert_clear(error, names=()):
    """An error of a kind that callers expect, which says what is wrong."""
    text = str(error)
    assert isinstance(error, ERRORS), f"{type(error).__name__}: {error}"
    assert 15 < len(text) < 2000, text
    assert NAMED.search(text) or any(name in text for name in names), text


def outcome(method, X, names=()):
    """The result of a method, or None for a clear error."""
    with caller(X):
        try:
            return method(X)
        except Exception as error:
            assert_clear(error, names)
    return None


def assert_whole(model, X, result):
    """A fit has labels, and its predictions are those."""
    assert result is model
    labels = model.labels_
    assert labels.dtype == np.int64 and labels.ndim == 1
    read = labels >= 0
    assert read.sum() == len(labels) - len(model.skipped_)
    assert set(labels[read]) == set(range(len(model.cluster_sizes_)))
    if X is None:
        return
    np.testing.assert_array_equal(model.predict(X()), labels)
    assert_rows(model, X, len(labels), read)


def assert_rows(model, X, n, read):
    z, proba = model.transform(X()), model.predict_proba(X())
    assert z.shape[0] == proba.shape[0] == n
    assert z.dtype == proba.dtype == np.float32
    assert np.isfinite(z[read]).all() and np.isnan(z[~read]).all()
    np.testing.assert_allclose(proba[read].sum(1), 1, atol=1e-5)


def check_fit(name, x, params):
    quick = QUICK_GCC if name == "GCC" else QUICK
    model = clone(ESTIMATORS[NAMES.index(name)]).set_params(**quick)
    for name, value in params.items():
        setattr(model, name, value)  # set_params would not take all of them
    before = dict(vars(model))
    result = outcome(model.fit, x.make(), params)
    after = vars(model)
    if result is None:
        assert after.keys() == before.keys()
    assert all(after[name] is value for name, value in before.items())
    if result is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert_whole(model, x.make, result)
    return result is not None


def check_new(name, x, method):
    model = fitted(name)
    before = dict(vars(model))
    result = outcome(getattr(model, method), x.make())
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[key] is value for key, value in before.items())
    if result is None:
        return False
    if method == "score":
        assert np.isfinite(result)
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = model.predict(x.make())
        assert labels.dtype == np.int64 and len(result) == len(labels)
        assert set(labels) <= set(range(len(model.cluster_sizes_)))
        assert_rows(model, x.make, len(labels), labels >= 0)
    return True


@pytest.mark.parametrize("name", NAMES)
def test_any_x_fits_or_is_refused(name):
    fuzz(lambda x: check_fit(name, x, {}), name, 60, inputs)


@pytest.mark.parametrize("name", NAMES)
def test_any_parameters_fit_or_are_refused(name):
    params = parameters_of(ESTIMATORS[NAMES.index(name)])
    fuzz(lambda *drawn: check_fit(name, *drawn), name, 60, usual_inputs, params)


@pytest.mark.parametrize("name", NAMES)
def test_any_x_is_predicted_or_refused(name):
    methods = st.sampled_from(["predict", "transform", "predict_proba", "score"])
    fuzz(lambda *drawn: check_new(name, *drawn), name, 40, inputs, methods)
