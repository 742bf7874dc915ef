"""Searches in several processes: data are not copied, threads are not too many."""

import os

import joblib
import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from small_digpro import make

from skdeepcluster.datasets import MappedArray, load_digits_images
from skdeepcluster.metrics import whole_data_split

GRID = {"lr": [1e-3, 2e-3, 3e-3, 4e-3]}
SEEN = ("process", "threads", "is_map")


def told(model, X, y=None):
    """What a candidate has: its score, and facts on the process that it is in."""
    return {
        "score": model.score(X),
        "process": os.getpid(),
        "threads": torch.get_num_threads(),
        "is_map": isinstance(X, MappedArray),
    }


def search(X):
    options = {"cv": whole_data_split(X), "n_jobs": 2, "refit": False}
    results = GridSearchCV(make(), GRID, scoring=told, **options).fit(X).cv_results_
    return results["mean_test_score"], [results[f"mean_test_{name}"] for name in SEEN]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "X.npy"
    np.save(path, load_digits_images()[0][:240])
    return MappedArray(path)


@pytest.fixture(scope="module")
def alone(images):
    return [make(lr=lr).fit(images).score(images) for lr in GRID["lr"]]


def test_processes_of_joblib(images, alone):
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        scores, (processes, threads, is_map) = search(images)
    np.testing.assert_allclose(scores, alone, rtol=1e-5)
    assert os.getpid() not in processes and set(threads) == {1} and all(is_map)


def test_workers_of_dask(images, alone):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config("dask"),
    ):
        scores, (processes, threads, is_map) = search(images)
    np.testing.assert_allclose(scores, alone, rtol=1e-5)
    assert len(set(processes)) == 2 and os.getpid() not in processes
    assert set(threads) == {1} and all(is_map)  # of torch, in a worker of one thread
