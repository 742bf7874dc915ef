"""A method of the smallest kind, to test the engine and the estimator on."""

from __future__ import annotations

import numpy as np
import torch
from skorch.callbacks import Callback
from torch import nn
from torch.nn import functional as F

from skdeepcluster._engine.average import Average
from skdeepcluster._engine.protocol import ClusterModule, DataFacts
from skdeepcluster._estimator import DeepClusterer
from skdeepcluster._input.images import Images
from skdeepcluster._input.scaling import Scaling
from skdeepcluster._parameters import AtLeastTwo, Share
from skdeepcluster._settings import Budget
from skdeepcluster.kmeans import spherical_kmeans

N, STEPS = 64, 2  # images, and steps of an epoch
RUNTIME = {"epoch", "loss", "lr", "seconds", "images_per_second"}


def make_images(n=N, channels=1, seed=0):
    """Images (n, channels, 8, 8), uint8, of three kinds of stripes."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, size=(n, channels, 8, 8))
    for kind, rows in enumerate((slice(0, 3), slice(3, 5), slice(5, 8))):
        images[kind::3, :, rows] += 180
    return images.astype(np.uint8)


IMAGES = make_images()


class ToyModule(ClusterModule):
    """One linear layer, one view, two losses, k-means after each epoch."""

    n_views = 1

    def __init__(self, p, data):
        super().__init__(p, data)
        self.p: Toy
        channels, height, width = data.image_shape
        self.backbone = nn.Sequential(
            data.scaling.standardize(),
            nn.Flatten(),
            nn.Linear(channels * height * width, p.width),
        )
        self.average = Average(self.backbone, p.momentum)
        self.register_buffer("centers", torch.zeros(p.n_clusters, p.width))

    def losses(self, batch):
        z = self.run(self.backbone, batch.views[0])
        return {"size": z.square().mean(), "mean": z.mean(0).square().mean()}

    def schedule(self):
        return None

    def refresh(self, embed):
        self.centers, _ = spherical_kmeans(embed(), self.p.n_clusters)
        return {"largest": self.centers.max().item()}

    def encode(self, x):
        return F.normalize(self.run(self.backbone, x), dim=1)

    def logits(self, x):
        return self.encode(x) @ self.centers.T


class Toy(DeepClusterer):
    """A method of the smallest kind.

    Parameters
    ----------
    width
        Outputs of the linear layer.
    momentum
        Share of the averaged layer that stays in a step.
    """

    module = ToyModule
    budget = Budget(epochs=2, min_steps=6, max_steps=8)

    width: AtLeastTwo = 4
    momentum: Share = 0.5


SMALL = {
    "n_clusters": 3,
    "augment": "weak",
    "max_epochs": 2,
    "batch_size": N // STEPS,
    "lr": 0.01,
    "device": "cpu",
    "precision": "float32",
    "random_state": 0,
}


def make(module=ToyModule, **params):
    """An unfitted Toy that fits at once, with a module of its kind."""
    cls = Toy if module is ToyModule else type("Toy", (Toy,), {"module": module})
    return cls(**{**SMALL, **params})


class Spy(Callback):
    """Calls a function with the net at an event."""

    def __init__(self, event, function):
        setattr(self, event, lambda net, *args, **kwargs: function(net))

    def initialize(self):
        return self


def stops(event, at):
    """A callback that ends training at an event, the ``at``-th time, as skorch's do."""
    seen = []

    def stop(net):
        seen.append(event)
        if len(seen) == at:
            raise KeyboardInterrupt

    return Spy(event, stop)


def spied(function, event="on_train_begin", images=IMAGES, **params):
    """Values that a function of the net takes at an event of a fit, and the fit."""
    values = []
    callbacks = [Spy(event, lambda net: values.append(function(net)))]
    return values, make(callbacks=callbacks, **params).fit(images)


def data_facts(images=IMAGES):
    shape = images.shape[1:]
    return DataFacts(shape, len(images), Scaling(Images(images, shape)), nn.Identity())
