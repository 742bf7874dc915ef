"""What the tests of StatDEC share: small settings, data and modules."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from skdeepcluster import StatDEC
from skdeepcluster._engine.protocol import Batch, DataFacts
from skdeepcluster._input.images import Images
from skdeepcluster._input.scaling import Scaling
from skdeepcluster.statdec.module import StatDECModule

SHAPE = (1, 8, 8)
N, B, K, D = 40, 12, 3, 8  # images, images of a batch, clusters, width
KINDS = torch.arange(N) % K


def randn(*shape, grad=False):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


def unit(x):
    return F.normalize(x, dim=1)


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


def tight(kinds, k=K, spread=0.02):
    """Unit features close to one of k axes."""
    return unit(torch.eye(k, D)[kinds] + spread * torch.randn(len(kinds), D))


# -- a long tail -----------------------------------------------------------------------

SIZES = np.round(1000 * (10 / 1000) ** (np.arange(10) / 9)).astype(int)


def long_tail(seed):
    """Ten round blobs of 1000 to 10 points, their centres more than 12 apart."""
    rng = np.random.default_rng(seed)
    grid = 13.0 * np.array([(i % 4, i // 4) for i in range(10)])
    y = np.repeat(rng.permutation(10), SIZES)
    return (grid[y] + rng.normal(size=(len(y), 2))).astype(np.float32), y


# -- a module, and the engine around it ------------------------------------------------


def raw_images(n=N, width=64):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(n, width)).astype(np.float32)
    images[np.arange(n), np.arange(n) % K] += 20
    return images


def facts(shape=SHAPE, n_samples=N):
    """What is known of raw images of a shape; they are their own views."""
    images = raw_images(n_samples, int(np.prod(shape)))
    return DataFacts(shape, n_samples, Scaling(Images(images, shape)), nn.Identity())


def make_module(max_epochs=10, n_samples=N, n_clusters=K, features=None, **params):
    """Module of an untrained estimator, past the refresh before the first epoch."""
    defaults = {
        "backbone": "conv",
        "batch_size": B,
        "feature_dim": D,
        "hidden_dim": 16,
        "warmup": 0.0,
        "init": "kmeans",
        "n_init": 2,
        "device": "cpu",
    }
    p = StatDEC(n_clusters, max_epochs=max_epochs, **{**defaults, **params})
    data = facts(n_samples=n_samples)
    p._resolve(data)
    module = StatDECModule(p, data).to(p.device)
    module.refresh(embedder(module, features))
    return module.train()


def embedder(module, features=None):
    """The ``embed`` of the engine; ``features`` stand in for ``encode``."""
    n = len(module.labels)
    x = torch.from_numpy(raw_images(n)).view(n, *SHAPE).to(module.centers.device)

    def embed(function=None):
        if function is None and features is not None:
            return features
        training = module.training
        module.eval()
        with torch.no_grad():
            out = (function or module.encode)(module.scaling(x))
        module.train(training)
        return out

    return embed


def two_views(n=B, device="cpu"):
    """A batch of n images; the views are noise in [0, 1]."""
    index = torch.randperm(N)[:n].to(device)
    return Batch(index, [torch.rand(n, *SHAPE, device=device) for _ in range(2)])


def step(module, batch=None):
    """One training step but for the optimiser's."""
    batch = two_views() if batch is None else batch
    parts = module.losses(batch)
    sum(parts.values()).backward()
    module.advance(batch)
    return {name: part.item() for name, part in parts.items()}


def end_epoch(module, features=None):
    """What the engine does after an epoch; ``features`` as for :func:`embedder`."""
    clock = module.clock
    clock.epoch += 1
    clock.step = clock.epoch * clock.steps_per_epoch  # the tests run fewer
    return module.refresh(embedder(module, features))
