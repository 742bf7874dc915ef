"""What the tests of GCC share: small images, estimators and modules to try."""

import functools

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from skdeepcluster._engine.protocol import DataFacts
from skdeepcluster._input.images import Images
from skdeepcluster._input.scaling import Scaling
from skdeepcluster.gcc import GCC, Generated
from skdeepcluster.gcc.diffusion import ConditionalDiffusion
from skdeepcluster.gcc.module import GCCModule

BANK = {"denoiser": "mlp", "steps": 20, "lr": 5e-3, "sampling_steps": 3}
SMALL = {
    "n_clusters": 3,
    "max_epochs": 2,
    "batch_size": 32,
    "feature_dim": 8,
    "hidden_dim": 16,
    "pretraining": 0.5,
    "n_rounds": 2,
    "reliable_share": 0.7,
    "calibration_lr": 1e-3,
    "assign": "head",
    "samples_per_cluster": 12,
    "device": "cpu",
    "precision": "float32",
    "random_state": 0,
}


def make(bank=None, **params):
    """An unfitted GCC that fits at once; a dict changes its generated bank."""
    if bank is None or isinstance(bank, dict):
        bank = Generated(**{**BANK, **(bank or {})})
    return GCC(**{**SMALL, "bank": bank, **params})


def squares(sizes=(20, 20, 20), size=8, seed=0):
    """Bright squares in as many positions, (n, size, size) uint8, and the positions."""
    rng, half = np.random.default_rng(seed), size // 2
    y = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    images = rng.integers(0, 40, (len(y), size, size))
    for kind, (top, left) in enumerate([(0, 0), (0, half), (half, size // 4)]):
        images[y == kind, top : top + half, left : left + half] += 180
    return images.astype(np.uint8), y


@functools.cache
def fitted():
    """Images, their kinds, and a GCC fitted to them once: not to be changed."""
    X, y = squares()
    return X, y, make({"steps": 100, "sampling_steps": 5}, max_epochs=4, tol=0.0).fit(X)


# -- modules without the engine around them --------------------------------------------

SHAPE, N, K = (1, 8, 8), 40, 3
RAW = Images(np.random.default_rng(0).random((N, 64), np.float32), SHAPE)
DATA = DataFacts(SHAPE, N, Scaling(RAW), nn.Identity())


def make_module(bank=None, **params):
    """Module of resolved parameters, before the first step."""
    bank = {"steps": 5, "batch_size": 8, **(bank or {})}
    p = make(**{"bank": bank, "backbone": "conv", "samples_per_cluster": 6, **params})
    p._resolve(DATA)
    return GCCModule(p, DATA)


def features(online, x):
    """Unit features of images in [0, 1], by an encoder that may be a copy."""
    x = (x - DATA.scaling.mean) / DATA.scaling.std
    return F.normalize(online.projector(online.backbone(x)), dim=1)


def unit(n, d):
    return F.normalize(torch.randn(n, d), dim=1)


def diffusion(shape=SHAPE, k=K, denoiser="mlp"):
    return ConditionalDiffusion(shape, k, denoiser)
