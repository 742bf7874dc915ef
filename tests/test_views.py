"""What a fitted estimator holds is no view of more than that."""

import numpy as np
import pytest
import torch
from estimators import NAMES, fitted

from skdeepcluster.kmeans import spherical_kmeans


def held(value):
    """Bytes that an array or a tensor keeps alive."""
    if isinstance(value, torch.Tensor):
        return value.untyped_storage().nbytes()
    return value.nbytes if value.base is None else held(value.base)


def arrays(value, path):
    """Arrays and tensors in attributes, lists and dicts."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        yield path, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from arrays(part, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            yield from arrays(part, f"{path}[{i}]")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_fitted_is_a_view_of_more(name):
    model = fitted(name)
    state = model.net_.module_.state_dict()
    found = dict(arrays(vars(model), "") or ()) | dict(arrays(dict(state), "state"))
    assert ".labels_" in found and ".cluster_centers_" in found
    too_much = {
        path: (held(value), value.nbytes)
        for path, value in found.items()
        if held(value) > value.nbytes
    }
    assert not too_much


def test_kmeans_keeps_the_best_run_only():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(50, 4, generator=generator)
    features = torch.nn.functional.normalize(features, dim=1)
    centers, labels = spherical_kmeans(features, 3, n_init=10)
    assert held(labels) == 50 * 8 and held(centers) == 3 * 4 * 4
