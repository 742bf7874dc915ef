"""What the tests of DigPro and of the input share: estimators and modules to try."""

import numpy as np
import torch
from torch import nn

from skdeepcluster import DigPro
from skdeepcluster._engine.protocol import Batch, DataFacts
from skdeepcluster._input.images import Images
from skdeepcluster._input.scaling import Scaling
from skdeepcluster.digpro.module import DigProModule

SMALL = {
    "n_clusters": 3,
    "max_epochs": 2,
    "batch_size": 32,
    "feature_dim": 8,
    "hidden_dim": 16,
    "backbone": "conv",
    "augment": "weak",
    "lr": 1e-3,
    "device": "cpu",
    "precision": "float32",
    "random_state": 0,
}


def make(**params):
    """An unfitted DigPro that fits at once."""
    return DigPro(**{**SMALL, **params})


# -- a module without the engine around it ---------------------------------------------

SHAPE = (1, 8, 8)
N, B, K, D = 40, 12, 3, 8  # images, images of a batch, clusters, width
STEPS = 30  # of the training that the module is made for


def make_data():
    raw = np.random.default_rng(0).random((N, SHAPE[1] * SHAPE[2]), np.float32)
    return DataFacts(SHAPE, N, Scaling(Images(raw, SHAPE)), nn.Identity())


def make_module(**params):
    """Module of resolved parameters, before the first step."""
    defaults = {
        "n_clusters": K,
        "backbone": "mlp",
        "batch_size": B,
        "max_epochs": STEPS // (N // B),
        "feature_dim": D,
        "hidden_dim": 16,
        "instance": "alignment",
        "prototype_weight": 0.1,
        "group_reset": 10_000,
        "bank_size": 60,
        "ema_momentum": 0.98604,
        "noise_std": 0.0,
        "warmup": 0.0,
        "n_init": 2,
        "device": "cpu",
    }
    data, p = make_data(), DigPro(**{**defaults, **params})
    p._resolve(data)
    module = DigProModule(p, data)
    module.labels = torch.arange(N) % K
    return module.train()


def two_views(n=B):
    """A batch of n images; the views are noise in [0, 1]."""
    return Batch(torch.randperm(N)[:n], [torch.rand(n, *SHAPE) for _ in range(2)])


def step(module, batch=None):
    """One training step but for the optimiser's."""
    batch = two_views() if batch is None else batch
    parts = module.losses(batch)
    module.advance(batch)
    return parts
