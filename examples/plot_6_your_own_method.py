"""
A method of your own
====================

A clusterer after Barlow Twins (Zbontar et al., 2021): an encoder whose features agree
for two views of an image and are not redundant, and a spherical k-means of them. From
the base classes come the shared parameters, validation and scikit-learn's contract.
"""

import sys

import torch
from torch.nn import functional as F

from skdeepcluster.backbones import make_encoder
from skdeepcluster.base import AtLeastTwo, ClusterModule, DeepClusterer, NonNegative
from skdeepcluster.datasets import load_digits_images
from skdeepcluster.distances import feature_spread
from skdeepcluster.heads import projection_head
from skdeepcluster.kmeans import spherical_kmeans
from skdeepcluster.metrics import clustering_accuracy


def barlow_twins_loss(a, b, weight):
    """Distance of the views' cross-correlation (d, d) from the identity."""
    a, b = ((x - x.mean(0)) / (x.std(0, correction=0) + 1e-4) for x in (a, b))
    correlation = a.T @ b / len(a)
    squares = (correlation - torch.eye(a.shape[1], device=a.device)).square()
    own = squares.trace()
    return own + weight * (squares.sum() - own)


class BarlowModule(ClusterModule):
    """Encoder and centres; ``self.p`` holds the estimator's parameters."""

    def __init__(self, p, data):
        super().__init__(p, data)
        self.encoder, width = make_encoder(p.backbone, data)
        self.encoder.append(projection_head(width, 2 * p.feature_dim, p.feature_dim))
        self.register_buffer("centers", torch.zeros(p.n_clusters, p.feature_dim))

    def losses(self, batch):
        a, b = (self.run(self.encoder, view) for view in batch.views)
        return {"barlow": barlow_twins_loss(a, b, self.p.redundancy_weight)}

    def encode(self, x):
        return F.normalize(self.run(self.encoder, x), dim=1)

    def logits(self, x):
        return 10 * self.encode(x) @ self.centers.T

    def refresh(self, embed):
        z, k = embed(), self.p.n_clusters
        self.centers, labels = spherical_kmeans(z, k, n_init=10)
        sizes, spread = labels.bincount(minlength=k).tolist(), feature_spread(z)
        return {"cluster_sizes": sizes, "feature_spread": spread}

    finish = refresh


class Barlow(DeepClusterer):
    """Clusters of features that Barlow Twins learn.

    Parameters
    ----------
    redundancy_weight
        Weight of the correlations between different features.
    feature_dim
        Width of the embedding.
    """

    module = BarlowModule
    redundancy_weight: NonNegative = 0.02
    feature_dim: AtLeastTwo = 64


if __name__ == "__main__":
    X, y = load_digits_images()
    model = Barlow(10, max_epochs=2 if "--quick" in sys.argv else 60, random_state=0)
    print(f"accuracy {clustering_accuracy(y, model.fit_predict(X)):.3f}")
