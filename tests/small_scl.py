"""What the tests of SCL share: formulas as slow loops, and small modules."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from skdeepcluster import SCL
from skdeepcluster._engine.protocol import Batch, DataFacts
from skdeepcluster._input.images import Images
from skdeepcluster._input.scaling import Scaling
from skdeepcluster.scl.module import SCLModule

SHAPE = (1, 8, 8)
N, B, K, D = 40, 12, 3, 8  # images, images of a batch, clusters, width
KINDS = torch.arange(N) % K


def unit(x):
    return F.normalize(x, dim=1)


def eye(k):
    return torch.eye(k, dtype=torch.float64)


def randn(*shape, grad=False):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


# -- slow references, written from the equations ---------------------------------------


def slow_contrastive(z, memory, index, labels, temperature, instance=None):
    """One anchor, one slot at a time."""
    total = 0.0
    for a, own in enumerate(index.tolist()):
        positive = math.exp(float(z[a] @ memory[own]) / temperature)
        negatives = 0.0
        for j in range(len(memory)):
            alone = instance is not None and bool(instance[a])
            if j != own and (alone or labels[j] != labels[own]):
                negatives += math.exp(float(z[a] @ memory[j]) / temperature)
        total -= math.log(positive / (positive + negatives))
    return total / len(z)


def slow_member_similarity(z, memory, labels, n_clusters, temperature, index=None):
    s = np.zeros((len(z), n_clusters))
    for a in range(len(z)):
        for j in range(len(memory)):
            if index is None or j != index[a]:
                s[a, labels[j]] += math.exp(float(z[a] @ memory[j]) / temperature)
    return s / s.sum(1, keepdims=True)


# -- a module, and the engine around it ------------------------------------------------


def raw_images():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(N, 64)).astype(np.float32)
    images[np.arange(N), np.arange(N) % K] += 20
    return images


DATA = DataFacts(SHAPE, N, Scaling(Images(raw_images(), SHAPE)), nn.Identity())


def make_module(n_clusters=K, **params):
    """Module of an untrained estimator, past the refresh before the first epoch."""
    defaults = {
        "backbone": "mlp",
        "max_epochs": 10,
        "batch_size": B,
        "feature_dim": D,
        "hidden_dim": 16,
        "warmup": 0.0,
        "n_init": 2,
        "device": "cpu",
    }
    p = SCL(n_clusters, **{**defaults, **params})
    p._resolve(DATA)
    module = SCLModule(p, DATA).to(p.device)
    module.refresh(embedder(module))
    return module.train()


def embedder(module, features=None):
    """The ``embed`` of the engine; ``features`` stand in for ``encode``."""
    x = torch.from_numpy(raw_images()).view(N, *SHAPE).to(module.memory.device)

    def embed(function=None, rows=None):
        if function is None and features is not None:
            return features
        training = module.training
        module.eval()
        with torch.no_grad():
            out = (function or module.encode)(
                module.scaling(x if rows is None else x[rows])
            )
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
    return batch, {name: part.item() for name, part in parts.items()}


def end_epoch(module, features=None):
    """What the engine does after an epoch; ``features`` as for :func:`embedder`."""
    module.clock.epoch += 1
    return module.refresh(embedder(module, features))


# -- what must be true of a module -----------------------------------------------------


def features_of(module, x):
    """Features of the backbone, of images in [0, 1]."""
    scaling = module.scaling
    return module.encoder.backbone((x - scaling.mean) / scaling.std)


def log_boundary(module, x):
    """Log-probabilities of the linear head on the backbone, on clean images."""
    (head,) = (
        m
        for m in module.modules()
        if isinstance(m, nn.Linear) and m.out_features == len(module.centers)
    )
    module.eval()
    with torch.no_grad():
        out = head(features_of(module, x)).log_softmax(1)
    module.train()
    return out


def centroids(module):
    members = F.one_hot(module.labels, module.centers.shape[0]).float()
    return unit(members.T @ module.memory), members.sum(0)


def assert_consistent(module):
    """Unit memory, labels in range, centres that are directions of their members."""
    torch.testing.assert_close(module.memory.norm(dim=1), torch.ones(N))
    expected, sizes = centroids(module)
    filled = sizes > 0
    torch.testing.assert_close(module.centers[filled], expected[filled])
    torch.testing.assert_close(
        module.centers.norm(dim=1), torch.ones(len(sizes)), rtol=1e-4, atol=1e-4
    )
