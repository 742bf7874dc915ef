"""From logits to probabilities that mean something, without labels.

A temperature is the one number that makes confidences higher or lower and changes no
label. With labels it is chosen such that the probabilities predict them best (Guo et
al., 2017). Here the label of a partner stands in for the label of a sample: something
that a person would mostly put into the same class, such as another view of the image,
or a near neighbour.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._engine.net import ClusterNet
from ._engine.randomness import forked, generator
from ._input.images import Images
from ._input.layouts import is_vector
from .neighbors import nearest_neighbors

ROWS = 2000  # that the temperature is found on
POOLED = 32  # pixels a side, of images that are compared as they are
BOUND = 100.0  # of the temperature, and of its inverse
HALVINGS = 40


def probabilities(logits, n_clusters, temperature=1.0):
    """Softmax of the clusters in use, and columns of 0 for the empty ones.

    A column for each cluster: so the folds of a cross-validation fit together.
    """
    scaled = torch.from_numpy(logits).double() / temperature
    proba = scaled.softmax(1).float().numpy()
    return np.pad(proba, ((0, 0), (0, n_clusters - proba.shape[1])))


def best_temperature(logits, partners):
    """Temperature at which probabilities predict the labels of partners best.

    The cross-entropy between ``softmax(logits / T)`` and the labels is convex in 1/T.
    As for Platt (1999), labels are counted as if each cluster had been seen one
    partner more often: perfect agreement of few samples is no certainty.

    Parameters
    ----------
    logits : ndarray of shape (n, k)
    partners : int64 ndarray of shape (n, m)
        Labels of m partners of each row, columns of ``logits``.

    Returns
    -------
    temperature : float
        From 1/100 to 100; 1 if there is nothing that it could change.
    """
    n, k = logits.shape
    values = torch.from_numpy(logits).double()
    values = values - values.amax(1, keepdim=True)
    if k < 2 or not values.any():
        return 1.0
    labels = torch.from_numpy(partners)
    seen = values.gather(1, labels).mean()
    unseen = k / (n + k)
    target = (1 - unseen) * seen + unseen * values.mean()
    low, high = -math.log(BOUND), math.log(BOUND)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        expected = ((values / math.exp(middle)).softmax(1) * values).sum(1).mean()
        # the derivative by 1/T: the hotter, the less the mean logit that is expected
        if expected > target:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def sampled_rows(n, most=ROWS):
    """Choose rows at random, in order; all if there are no more than ``most``."""
    if n <= most:
        return torch.arange(n)
    return torch.randperm(n, generator=generator())[:most].sort().values


class Part:
    """Some rows of images, read in batches as a net evaluates them.

    Parameters
    ----------
    images : Images
    rows : int64 tensor of shape (b,)
    """

    def __init__(self, images: Images, rows: Tensor):
        self.images, self.rows, self.shape = images, rows, images.shape

    def __len__(self):
        return len(self.rows)

    def chunks(self, size, rows):
        """Yield the images of a slice of the rows, in order, ``size`` at a time."""
        for some in self.rows[rows].split(size):
            yield self.images[some][0]


def as_they_are(unit: Tensor) -> Tensor:
    """Return vectors, or the pixels of images, which are made small if they are not."""
    if max(unit.shape[2:]) > POOLED and not is_vector(tuple(unit.shape[1:])):
        unit = F.adaptive_avg_pool2d(unit, POOLED)
    return unit.flatten(1)


def temperatures(net: ClusterNet, images, function, columns) -> list[float]:
    """Temperature of each clustering, by the agreement of samples and partners.

    The partner of an image is another random view of it. A view of a vector says
    little, since noise leaves it where it is, and without an augmentation there is
    none: then partners are the nearest of the other rows, as many as a tenth of a
    cluster of mean size. At most 2000 rows are compared, drawn at random.

    Parameters
    ----------
    net : ClusterNet
        Trained.
    images : Images
        Of the training.
    function : callable
        Images in [0, 1] to logits of all clusterings side by side.
    columns : list of int arrays
        Columns of the clusters that are in use, for each clustering.

    Returns
    -------
    temperatures : list of float
        The generators stand afterwards where they stood before.
    """
    with forked():
        part = Part(images, sampled_rows(len(images)))
        logits = others = net.evaluate(part, function).cpu()
        if has_views(net, images):
            with net.own_draws():
                others = net.evaluate(part, lambda x: function(net._view(x))).cpu()
            partners = torch.arange(len(part)).unsqueeze(1)
        else:
            most = n_partners(len(part), min(map(len, columns)))
            rows = net.evaluate(part, as_they_are)
            partners = nearest_neighbors(rows - rows.mean(0), most)
    found = []
    for own in columns:
        few = partners[:, : n_partners(len(part), len(own))]
        labels = others[:, own].argmax(1)[few]
        found.append(best_temperature(logits[:, own].numpy(), labels.numpy()))
    return found


def has_views(net: ClusterNet, images) -> bool:
    """Whether training saw views that a sample may disagree with."""
    augmented = not isinstance(net.module_.augmentation, nn.Identity)
    return augmented and not is_vector(images.shape)


def n_partners(n: int, n_clusters: int) -> int:
    """Nearest rows that are mostly of the same class, if clusters are of equal size."""
    return max(1, n // (10 * n_clusters))
