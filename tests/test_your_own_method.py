"""The worked example of a method is a whole scikit-learn estimator."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from estimators import make_stripes
from numpydoc.docscrape import ClassDoc
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from skdeepcluster import DigPro

EXAMPLE = Path(__file__).parents[1] / "examples" / "plot_6_your_own_method.py"
SPEC = importlib.util.spec_from_file_location("your_own_method", EXAMPLE)
# under its name, so that its estimators can be pickled
example = sys.modules[SPEC.name] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(example)

SMALL = {"n_clusters": 3, "max_epochs": 2, "batch_size": 32, "feature_dim": 8}


@parametrize_with_checks([example.Barlow(**SMALL, random_state=0)])
def test_contract(estimator, check):
    check(estimator)


def test_the_example_is_short():
    lines = EXAMPLE.read_text().splitlines()
    assert len(lines) <= 80 and max(map(len, lines)) <= 88


def test_parameters_and_documentation_come_with_the_base_class():
    model = example.Barlow(4, redundancy_weight=0.5)
    assert model.get_params().keys() - DigPro().get_params().keys() == {
        "redundancy_weight"
    }
    documented = {p.name: p.type for p in ClassDoc(example.Barlow)["Parameters"]}
    assert documented.keys() == model.get_params().keys()
    assert documented["redundancy_weight"] == "float >= 0, default=0.02"
    with pytest.raises(ValueError, match="'redundancy_weight' parameter of Barlow"):
        clone(model).set_params(redundancy_weight=-1).fit(make_stripes()[0])


def test_it_clusters():
    X, kinds = make_stripes()
    model = example.Barlow(**{**SMALL, "max_epochs": 30}, random_state=0).fit(X)
    members = [np.bincount(kinds[model.labels_ == k]) for k in range(3)]
    assert all(counts.max() / counts.sum() > 0.9 for counts in members)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    assert model.history_[-1]["loss_barlow"] < model.history_[0]["loss_barlow"]


def test_loss_of_equal_and_of_redundant_features():
    a = np.random.default_rng(0).normal(size=(4096, 2))
    a = example.torch.from_numpy(np.linalg.qr(a - a.mean(0))[0])  # uncorrelated
    same = example.barlow_twins_loss(a, a, 0.5)
    assert float(same) < 1e-2
    twice = a[:, [0, 0]]
    # off the diagonal two correlations of 1
    assert float(example.barlow_twins_loss(twice, twice, 0.5)) == pytest.approx(
        1.0, abs=0.05
    )
    # opposite features: two of -1 on the diagonal
    assert float(example.barlow_twins_loss(a, -a, 0.5)) == pytest.approx(8.0, abs=0.2)
