"""Every estimator of the package at small settings: what is listed here is tested."""

import functools

import numpy as np
import pytest
from sklearn.base import clone

from skdeepcluster import GCC, MFCVAE, SCL, DigPro, StatDEC
from skdeepcluster.gcc import Generated

SMALL = {
    "n_clusters": 3,
    "max_epochs": 2,
    "batch_size": 32,
    "feature_dim": 8,
    "hidden_dim": 16,
    "random_state": 0,
}
SMALL_FACETS = {
    "n_clusters": 3,
    "n_facets": 2,
    "latent_dims": (3, 1),
    "hidden_dims": 16,
    "sigma_x": 0.2,
    "max_epochs": 4,
    "batch_size": 32,
    "lr": 1e-2,
    "random_state": 0,
}
SMALL_BANK = {
    "denoiser": "mlp",
    "steps": 10,
    "batch_size": 16,
    "lr": 5e-3,
    "sampling_steps": 2,
}
SMALL_GCC = {
    **SMALL,
    "max_epochs": 3,
    "pretraining": 0.67,
    "bank": Generated(**SMALL_BANK),
    "samples_per_cluster": 6,
    "min_agreement": 0.0,
}

# every estimator of the package: what is listed here passes all tests of all methods
ESTIMATORS = [
    DigPro(**SMALL),
    SCL(**SMALL),
    StatDEC(**SMALL),
    MFCVAE(**SMALL_FACETS),
    GCC(**SMALL_GCC),
]
NAMES = [type(estimator).__name__ for estimator in ESTIMATORS]
# a few epochs are no training for some methods: what tests that ask for clusters add
ENOUGH = {
    "MFCVAE": {"max_epochs": 30, "hidden_dims": 32},
    "GCC": {"bank__steps": 60, "bank__sampling_steps": 5, "samples_per_cluster": 12},
}
# the share of the training before clusters take part, where there is one
WARMUP = {
    "DigPro": "warmup",
    "SCL": "warmup",
    "StatDEC": "warmup",
    "MFCVAE": "prior_warmup",
    "GCC": "pretraining",
}

each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=NAMES)


def trained(estimator):
    """An unfitted copy with settings that find clusters in small data."""
    return clone(estimator).set_params(**ENOUGH.get(type(estimator).__name__, {}))


@functools.cache
def make_stripes():
    """60 grey images, (60, 8, 8) uint8, of three kinds, and their kinds."""
    rng = np.random.default_rng(0)
    kinds = np.arange(60) % 3
    images = rng.integers(0, 60, size=(60, 8, 8))
    images[kinds == 0, 2:4, :] += 180
    images[kinds == 1, :, 4:6] += 180
    images[kinds == 2, 5:, 5:] += 180
    images = images.astype(np.uint8)
    images.flags.writeable = kinds.flags.writeable = False
    return images, kinds


@functools.cache
def fitted(name):
    """The estimator of this name, fitted to the stripes once: not to be changed."""
    return clone(ESTIMATORS[NAMES.index(name)]).fit(make_stripes()[0])
