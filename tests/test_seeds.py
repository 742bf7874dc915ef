"""What is random, and what is not."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from small_digpro import make
from test_images import X, assert_same_fit

from skdeepcluster._engine.device import seed_of_torch, seeded


@pytest.fixture(scope="module")
def reference():
    """Fitted on (n, C, H, W) uint8."""
    return make().fit(X)


def random_states():
    return [random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()]


def test_loader_workers_leave_the_global_random_state_alone():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = random_states()
    estimator = make(net_params={"iterator_train__num_workers": 1}).fit(X)
    estimator.predict(X)
    estimator.transform(X)
    estimator.score(X)
    np.testing.assert_equal(random_states(), before)


def test_one_seed_one_result():
    a, b = make().fit(X.astype(np.float32)), make().fit(X.astype(np.float32))
    np.testing.assert_array_equal(a.labels_, b.labels_)
    np.testing.assert_array_equal(a.transform(X), b.transform(X))
    losses = [[row["loss"] for row in e.history_] for e in (a, b)]
    assert losses[0] == losses[1]


def test_the_global_seed_does_not_matter(reference):
    torch.manual_seed(99)
    np.random.seed(99)
    assert_same_fit(make().fit(X), reference)


def test_random_state_none_draws_anew():
    np.random.seed(0)
    a = make(random_state=None).fit(X)
    np.random.seed(0)
    b = make(random_state=None).fit(X)
    assert not np.array_equal(a.transform(X), b.transform(X))


def test_random_state_instance():
    a = make(random_state=np.random.RandomState(5)).fit(X)
    shared = np.random.RandomState(5)
    b, c = make(random_state=shared).fit(X), make(random_state=shared).fit(X)
    np.testing.assert_array_equal(a.transform(X), b.transform(X))
    assert not np.array_equal(b.transform(X), c.transform(X))


def test_two_loader_workers_change_nothing(reference):
    estimator = make(net_params={"iterator_train__num_workers": 2}).fit(X)
    assert_same_fit(estimator, reference)


def test_another_process_gives_the_same(tmp_path, reference):
    np.save(tmp_path / "X.npy", X)
    parameters = make().get_params(deep=False)
    code = (
        "import sys, numpy as np; from skdeepcluster import DigPro\n"
        f"X = np.load({str(tmp_path / 'X.npy')!r})\n"
        f"print(DigPro(**{parameters!r}).fit_predict(X).tolist())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(reference.labels_.tolist())


def test_seeded_restores_the_generator():
    before = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(3):
        assert torch.equal(torch.rand(2), first)


def test_seed_of_torch_follows_the_generator():
    with seeded(3):
        drawn = [seed_of_torch() for _ in range(3)]
    with seeded(3):
        assert seed_of_torch() == drawn[0]
    assert len(set(drawn)) == 3 and all(type(seed) is int for seed in drawn)
