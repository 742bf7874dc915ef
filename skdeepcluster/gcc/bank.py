"""A bank of labelled images, as many of each cluster."""

from __future__ import annotations

import torch
from torch import Tensor

from .._engine.protocol import Stateful
from .._engine.randomness import generator

LEAST_KEPT = 10  # images of a class, below which none of it is filtered out
LEAST_SHARE = 0.1  # of a class, likewise


class Bank(Stateful):
    """Labelled images, as many of each cluster, drawn in balanced batches.

    Parameters
    ----------
    image_shape : tuple (C, H, W)
    n_clusters, per_cluster : int
    batch_size : int
        Images that :meth:`draw` gives, or all of a smaller bank.

    Attributes
    ----------
    images : float32 tensor of shape (n_clusters * per_cluster, C, H, W), or none
        In [0, 1], or vectors at unit scale; empty outside of a round.
    labels : int64 tensor of shape (n_clusters * per_cluster,)
        Sorted.
    weights : tensor of shape (n_clusters * per_cluster,)
        How often each is drawn; 0 for what is left out.
    in_use : bool
        Whether there is anything to draw from.
    """

    saved = ["in_use"]
    labels: Tensor
    images: Tensor
    weights: Tensor

    def __init__(self, image_shape, n_clusters, per_cluster, batch_size):
        super().__init__()
        self.n_clusters, self.per_cluster = n_clusters, per_cluster
        labels = torch.arange(n_clusters).repeat_interleave(per_cluster)
        self.batch_size, self.in_use = min(batch_size, len(labels)), False
        self.register_buffer("labels", labels)
        self.register_buffer("images", torch.zeros(0, *image_shape))
        self.register_buffer("weights", torch.zeros(len(labels)))

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # there are images in a round only: take as many as come
        shape = state_dict[f"{prefix}images"].shape
        if shape[0] not in (0, len(self.labels)):
            raise ValueError(f"the bank has {shape[0]} images of {len(self.labels)}")
        self.images = self.images.new_zeros(shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def rows_of(self, labels: Tensor, reliable: Tensor) -> Tensor:
        """Draw rows of reliable images for a bank of real ones.

        Parameters
        ----------
        labels : int64 tensor of shape (n,)
        reliable : bool tensor of shape (n,)

        Returns
        -------
        rows : int64 tensor of shape (n_clusters * per_cluster,)
            With replacement; for a cluster without images, any rows.
        """
        clusters = torch.arange(self.n_clusters, device=labels.device)
        weights = ((labels == clusters.unsqueeze(1)) & reliable).float()
        weights[weights.sum(1) == 0] = 1.0
        draws = weights.multinomial(
            self.per_cluster, replacement=True, generator=generator(weights.device)
        )
        return draws.flatten()

    def judge(
        self, predicted: Tensor, in_use: Tensor, min_agreement: float, filtered: bool
    ) -> tuple[Tensor, Tensor]:
        """Choose what is drawn from, by what the cluster head says of the images.

        Parameters
        ----------
        predicted : int64 tensor of shape (n_clusters * per_cluster,)
        in_use : bool tensor of shape (n_clusters,)
            Clusters that have images at all.
        min_agreement : float
            A cluster of lower agreement is left out.
        filtered : bool
            Whether images that are taken for another cluster are left out, unless less
            than a tenth of their cluster, or 10 images, would stay.

        Returns
        -------
        agreement : tensor of shape (n_clusters,)
            Share of each cluster's images that are taken for it.
        kept : bool tensor of shape (n_clusters * per_cluster,)
        """
        agrees = predicted == self.labels
        agreeing = agrees.view(self.n_clusters, self.per_cluster).sum(1)
        agreement = agreeing / self.per_cluster
        kept = (in_use & (agreement >= min_agreement))[self.labels]
        if filtered:
            enough = agreeing >= max(LEAST_KEPT, LEAST_SHARE * self.per_cluster)
            kept = kept & (agrees | ~enough[self.labels])
        classes = torch.where(kept, self.labels, self.n_clusters)
        self.weights = balanced_weights(classes, self.n_clusters, null_mass=0.0)
        self.in_use = bool(kept.any())
        return agreement, kept

    def draw(self) -> tuple[Tensor, Tensor]:
        """Draw images, each class as often, and their labels."""
        rows = self.weights.multinomial(
            self.batch_size,
            replacement=True,
            generator=generator(self.weights.device),
        )
        return self.images[rows], self.labels[rows]

    def clear(self):
        """Forget the images: they take as much room as the training data."""
        self.images, self.in_use = self.images[:0].clone(), False


def balanced_weights(labels: Tensor, n_clusters: int, null_mass: float) -> Tensor:
    """Weights by which every class is drawn equally often, however large it is.

    Parameters
    ----------
    labels : int64 tensor of shape (n,)
        ``n_clusters`` for images without a class.
    n_clusters : int
    null_mass : float
        Total weight of the images without a class; each class weighs 1.

    Returns
    -------
    weights : tensor of shape (n,)
        One over the size of the class.
    """
    sizes = torch.bincount(labels, minlength=n_clusters + 1)
    mass = torch.ones(n_clusters + 1, device=labels.device)
    mass[n_clusters] = null_mass
    return (mass / sizes.clamp_min(1))[labels]
