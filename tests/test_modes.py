"""What the caller set in torch, numpy or the process changes no result."""

import asyncio
import contextlib
import functools
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings

import joblib
import numpy as np
import pytest
import torch
from estimators import ESTIMATORS, NAMES, each_estimator, fitted, make_stripes
from sklearn.base import clone
from torch import nn
from torchvision.transforms import v2

from skdeepcluster import DigPro

X = make_stripes()[0]


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        assert torch.get_default_dtype() == dtype  # as the caller left it
        torch.set_default_dtype(before)


@contextlib.contextmanager
def numpy_raises():
    with np.errstate(all="raise"):
        yield


MODES = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "errstate": numpy_raises,
}


def results(estimator, X):
    """Everything that a fitted estimator computes of X, and draws."""
    found = {"labels_": estimator.labels_, "score": estimator.score(X)}
    names = ["predict", "transform", "predict_proba", "score_samples"]
    names += ["predict_facets", "reconstruct"]
    for name in names:
        if hasattr(estimator, name):
            found[name] = getattr(estimator, name)(X)
    if hasattr(estimator, "sample"):
        found["sample"], _ = estimator.sample(2, random_state=0)
    return found


@functools.cache
def expected_results(name):
    """Those of an estimator that was fitted without any mode."""
    return results(fitted(name), X)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize("mode", MODES)
@each_estimator
def test_modes_of_the_caller_change_nothing(estimator, mode):
    expected = expected_results(type(estimator).__name__)
    with MODES[mode]():
        model = clone(estimator).fit(X)
        assert_same(results(model, X), expected)


def test_the_guard_gives_back_a_default_dtype_that_two_threads_replaced():
    with default_dtype(torch.float64):
        models = [clone(ESTIMATORS[0]) for _ in range(3)]
        joblib.Parallel(3, backend="threading")(
            joblib.delayed(m.fit)(X) for m in models
        )
        assert torch.zeros(1).dtype == torch.float64


ARRAY_API = """
import numpy as np, sklearn
from skdeepcluster import MFCVAE
X = np.random.default_rng(0).random((32, 8, 8))
make = lambda: MFCVAE(2, hidden_dims=8, max_epochs=2, batch_size=16, random_state=0)
expected = make().fit(X).transform(X)
with sklearn.config_context(array_api_dispatch=True):
    np.testing.assert_array_equal(make().fit(X).transform(X), expected)
"""


def test_scikit_learns_array_api_changes_nothing():
    # scipy reads the variable when it is imported
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    command = [sys.executable, "-W", "ignore", "-c", ARRAY_API]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- threads and processes -------------------------------------------------------------


def labels_and_embedding(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # filters are of the process
        estimator.fit(X)
    return estimator.labels_, estimator.transform(X)


@each_estimator
def test_fits_in_threads_are_those_alone(estimator):
    seeds = range(4)
    models = [clone(estimator).set_params(random_state=seed) for seed in seeds]
    alone = [labels_and_embedding(clone(model)) for model in models]
    beside = joblib.Parallel(4, backend="threading")(
        joblib.delayed(labels_and_embedding)(clone(model)) for model in models
    )
    for one, other in zip(alone, beside, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


@each_estimator
def test_a_thread_of_the_user_may_draw_beside_a_fit(estimator):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    stop, drawn = threading.Event(), []

    def draw():
        drawn.append(torch.rand(3))
        while not stop.is_set():
            torch.rand(3)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        model = clone(estimator).fit(X)
    finally:
        stop.set()
        thread.join()
    alone = fitted(type(estimator).__name__)
    np.testing.assert_array_equal(model.transform(X), alone.transform(X))
    assert torch.equal(drawn[0], expected)


def test_dropout_of_a_users_backbone_draws_from_the_generators_of_the_fit():
    layers = [nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.ReLU()]
    model = clone(ESTIMATORS[0]).set_params(backbone=nn.Sequential(*layers))
    first = clone(model).fit(X).transform(X)
    before = torch.get_rng_state()
    second = clone(model).fit(X).transform(X)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(first, second)
    other = clone(model).set_params(random_state=1).fit(X).transform(X)
    assert not np.array_equal(first, other)


def add_noise(x):
    return (x + 0.1 * torch.randn_like(x)).clamp(0, 1)


@pytest.mark.parametrize(
    "augment",
    [add_noise, nn.Sequential(v2.RandomResizedCrop(8), v2.GaussianNoise())],
)
def test_an_augmentation_of_a_users_own_draws_from_them_too(augment):
    model = clone(ESTIMATORS[0]).set_params(augment=augment)
    first = clone(model).fit(X).transform(X)
    torch.manual_seed(11)
    np.testing.assert_array_equal(first, clone(model).fit(X).transform(X))


def test_tasks_of_one_thread_have_their_own_numbers():
    async def both():
        fits = [asyncio.to_thread(clone(ESTIMATORS[0]).fit, X) for _ in range(2)]
        return await asyncio.gather(*fits)

    expected = fitted(NAMES[0]).transform(X)
    for model in asyncio.run(both()):
        np.testing.assert_array_equal(model.transform(X), expected)


def test_predictions_go_on_in_threads_beside_a_fit():
    model = fitted(NAMES[0])
    expected = model.transform(X)
    jobs = [joblib.delayed(model.transform)(X) for _ in range(8)]
    jobs += [joblib.delayed(clone(ESTIMATORS[0]).fit)(X) for _ in range(2)]
    for found in joblib.Parallel(4, backend="threading")(jobs)[:8]:
        np.testing.assert_array_equal(found, expected)


def test_images_are_drawn_beside_a_fit():
    model = fitted("GCC")
    expected, _ = model.sample(3, random_state=0)
    jobs = [joblib.delayed(model.sample)(3, random_state=0) for _ in range(3)]
    jobs.append(joblib.delayed(clone(ESTIMATORS[0]).fit)(X))
    *drawn, fit = joblib.Parallel(4, backend="threading")(jobs)
    for images, _ in drawn:
        np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(fit.transform(X), fitted(NAMES[0]).transform(X))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_of_a_process_with_threads_does_not_hang():
    code_ran = multiprocessing.get_context("fork").Queue()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.ones(2**20).sum()  # the parent's pool of threads, which the child lacks
        model = DigPro(3, max_epochs=1, random_state=0).fit(X)

        def child():
            code_ran.put(model.predict(X))

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        labels = code_ran.get(timeout=60)
        process.join(60)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(labels, model.labels_)
    assert process.exitcode == 0


@pytest.mark.gpu
@each_estimator
def test_fits_in_threads_on_a_gpu_draw_what_they_draw_alone(estimator):
    model = clone(estimator).set_params(device="cuda", precision="float32")
    alone = clone(model).fit(X)
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    beside = joblib.Parallel(3, backend="threading")(
        joblib.delayed(clone(model).fit)(X) for _ in range(3)
    )
    assert torch.equal(torch.cuda.get_rng_state(), before)
    other = clone(model).set_params(random_state=1).fit(X).history_[0]["loss"]
    # sums on a GPU have no fixed order: last digits differ, draws do not
    for fit in beside:
        loss = fit.history_[0]["loss"]
        assert loss == pytest.approx(alone.history_[0]["loss"], rel=1e-3)
        assert loss != pytest.approx(other, rel=1e-3)
