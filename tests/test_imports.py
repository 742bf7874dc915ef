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

import skdeepcluster
from skdeepcluster._warnings import ignored
from skdeepcluster.gcc.diffusion import ConditionalDiffusion
from skdeepcluster.pretrained import load_network

X = make_stripes()[0]
LATER = ["diffusers", "torchvision", "matplotlib", "sklearn.mixture", "sklearn.cluster"]


def test_what_only_some_need_is_imported_when_they_do():
    code = "import sys, skdeepcluster; skdeepcluster.SCL"
    code += f"; print(*(set({LATER}) & set(sys.modules)))"
    assert printed(code) == ""


def test_the_package_alone_imports_no_other():
    code = "import sys; before = set(sys.modules); import skdeepcluster"
    code += "; print({name.split('.')[0] for name in set(sys.modules) - before}"
    code += " - set(sys.stdlib_module_names))"
    assert printed(code) == "{'skdeepcluster'}"


def test_names_and_submodules_are_there_when_they_are_used():
    assert set(skdeepcluster.__all__) <= set(dir(skdeepcluster))
    assert {*skdeepcluster._MODULES, "__version__"} == set(skdeepcluster.__all__)
    for name in skdeepcluster.__all__:
        assert getattr(skdeepcluster, name) is not None
    assert skdeepcluster.pretrained.load_network is load_network
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        skdeepcluster.nothing  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'SLC'"):
        from skdeepcluster import SLC  # noqa: F401


def test_a_module_that_lacks_what_it_needs_says_so(monkeypatch):
    monkeypatch.delattr(skdeepcluster, "sorting")
    monkeypatch.delitem(sys.modules, "skdeepcluster.sorting")
    monkeypatch.setitem(sys.modules, "skdeepcluster.sorting._sort", None)
    with pytest.raises(ModuleNotFoundError, match="_sort"):
        skdeepcluster.sorting  # noqa: B018


def printed(code):
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


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
