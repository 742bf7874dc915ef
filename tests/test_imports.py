"""What an import loads, and that nothing of ours warns."""

import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from estimators import each_estimator, make_stripes
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skdeepcluster._warnings import ignored
from skdeepcluster.gcc.diffusion import ConditionalDiffusion

X = make_stripes()[0]
LATER = ["diffusers", "torchvision", "matplotlib", "sklearn.mixture", "sklearn.cluster"]


def test_what_only_some_need_is_imported_when_they_do():
    code = f"import sys, skdeepcluster; print(*(set({LATER}) & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == []


@pytest.fixture
def no_warning():
    """All warnings are errors, but for those of the clusters that were found."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@each_estimator
@pytest.mark.usefixtures("no_warning")
def test_neither_fit_nor_prediction_warns(estimator):
    model = clone(estimator).fit(X)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    assert np.isfinite(model.transform(X)).all()
    assert np.isfinite(model.score(X))
    if hasattr(model, "sample"):
        images, labels = model.sample(3, random_state=0)
        assert images.shape == (3, 8, 8) and len(labels) == 3


@pytest.mark.usefixtures("no_warning")
@pytest.mark.parametrize("sampler", ["dpm-solver++", "ddim", "ddpm"])
def test_no_sampler_warns(sampler):
    model = ConditionalDiffusion((1, 1, 4), 2, "mlp")
    drawn = model.sample(torch.tensor([0, 1, 1]), 1.5, 2, sampler)
    assert drawn.shape == (3, 1, 1, 4) and drawn.isfinite().all()


def test_filters_of_warnings_are_left_as_they_were_by_threads():
    before = list(warnings.filters)

    def ignore():
        with ignored(UserWarning, "of a thread"):
            time.sleep(1e-3)  # another thread has its turn

    threads = [threading.Thread(target=ignore) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="of a thread"):
        warnings.warn("of a thread", UserWarning, stacklevel=1)
