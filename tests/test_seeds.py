"""What is random, and what is not."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from small_digpro import make
from test_images import X, assert_same_fit

from skdeepcluster._engine.randomness import (
    draw_seed,
    forked,
    generator,
    own_draws,
    seeded,
)


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


def test_seeded_leaves_the_generators_of_torch_alone():
    before = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(2, generator=generator())
        torch.manual_seed(4)  # as another thread might
        second = torch.rand(2, generator=generator())
    torch.set_rng_state(before)
    expected = torch.Generator().manual_seed(3)
    assert torch.equal(first, torch.rand(2, generator=expected))
    assert torch.equal(second, torch.rand(2, generator=expected))
    assert generator() is None


def test_seeds_follow_the_generator():
    with seeded(3):
        drawn = [draw_seed() for _ in range(3)]
    with seeded(3):
        assert draw_seed() == drawn[0]
    assert len(set(drawn)) == 3 and all(type(seed) is int for seed in drawn)


def test_a_fork_leaves_no_trace():
    with seeded(3):
        one = generator()
        with forked():
            assert generator() is not one
            inside = torch.rand(2, generator=generator())
        assert torch.equal(torch.rand(2, generator=generator()), inside)


DRAWS = {
    "rand": lambda x: torch.rand(3, 4),
    "randn": lambda x: torch.randn((3, 4), dtype=torch.float64),
    "rand_like": torch.rand_like,
    "randn_like": lambda x: torch.randn_like(x.to(memory_format=torch.channels_last)),
    "randint": lambda x: torch.randint(2, 100, (20,)),
    "randint without low": lambda x: torch.randint(100, (20,)),
    "randint_like": lambda x: torch.randint_like(x, 3, 100),
    "randperm": lambda x: torch.randperm(20),
    "uniform": lambda x: torch.empty(5).uniform_(2, 3),
    "normal": lambda x: torch.normal(torch.zeros(5), 1.0),
    "bernoulli": lambda x: torch.bernoulli(torch.full((20,), 0.5)),
    "multinomial": lambda x: torch.ones(9).multinomial(5),
    "dropout": lambda x: torch.nn.functional.dropout(x, 0.3),
    "dropout2d": lambda x: torch.nn.functional.dropout2d(x, 0.3),
    "alpha_dropout": lambda x: torch.nn.functional.alpha_dropout(x, 0.3, True),
    "rrelu": lambda x: torch.nn.functional.rrelu(x - 1, training=True),
    "gumbel": lambda x: torch.nn.functional.gumbel_softmax(x),
    "weights": lambda x: torch.nn.Conv2d(2, 3, 3).weight.detach(),
    "truncated": lambda x: torch.nn.init.trunc_normal_(torch.empty(9)),
    "orthogonal": lambda x: torch.nn.init.orthogonal_(torch.empty(3, 3)),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_what_others_draw_is_that_of_torch_of_the_same_seed(draw):
    x = torch.linspace(0.5, 1.5, 32).reshape(4, 2, 2, 2)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = DRAWS[draw](x)
        torch.manual_seed(5)
        before = torch.get_rng_state()
        with seeded(3), own_draws():
            drawn = DRAWS[draw](x)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn, expected) and drawn.dtype == expected.dtype
    assert drawn.stride() == expected.stride()


def test_the_gradient_of_dropout_is_that_of_what_was_kept():
    x = torch.ones(1000, requires_grad=True)
    with seeded(0), own_draws():
        y = torch.nn.functional.dropout(x, 0.25)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    torch.testing.assert_close(y.detach().unique(), torch.tensor([0.0, 4 / 3]))
