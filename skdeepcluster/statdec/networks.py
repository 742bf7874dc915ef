"""Networks of StatDEC: trunk, statistics pooling, projection and embedding."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .._engine.protocol import DataFacts, Stateful
from ..backbones import make_backbone, make_standardize
from .pooling import make_pooling

if TYPE_CHECKING:
    from .estimator import StatDEC


def make_feature_map(backbone, image_shape) -> tuple[nn.Module, tuple[int, ...]]:
    """Build a backbone without its pooling, where it is known to have one.

    Parameters
    ----------
    backbone : str or Module
        As for :func:`make_backbone`.
    image_shape : tuple (C, H, W)

    Returns
    -------
    network : Module
        (b, C, H, W) -> (b, channels, h, w) for ``"conv"`` and ``"resnet18"``; every
        other backbone is whole: (b, C, H, W) -> (b, width).
    shape : tuple (channels, h, w) or (width,)
        Of what the network gives for an image.

    Raises
    ------
    ValueError
        If a module does not map images of that shape to (b, width).
    """
    network, width = make_backbone(backbone, image_shape)
    if isinstance(backbone, nn.Module) or backbone not in ("conv", "resnet18"):
        return network, (width,)
    *stages, _, _ = network.named_children()  # a pooling, and what comes after it
    features = nn.Sequential(OrderedDict(stages))
    with torch.no_grad():
        shape = features.eval()(torch.zeros(1, *image_shape)).shape[1:]
    return features.train(), tuple(shape)


class StatisticsNetworks(Stateful):
    """Representation network and clustering network.

    Parameters
    ----------
    p : StatDEC
        Resolved parameters.
    data : DataFacts
    """

    saved = ["splits"]

    def __init__(self, p: StatDEC, data: DataFacts):
        super().__init__()
        self.detach_representation = p.detach_representation
        backbone, shape = make_feature_map(p.backbone, data.image_shape)
        self.standardize = make_standardize(backbone, data)
        self.backbone = backbone
        self.cluster_trunk = None if p.share_trunk else copy.deepcopy(self.backbone)
        self.splits = False  # until then the clustering network has no trunk of its own
        self.pool, width = make_pooling(p.pooling, p.cardinality, p.grid, shape)
        # the statistics have scales of their own
        self.representation, self.clustering = (
            nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, p.hidden_dim))
            for _ in range(2)
        )
        self.projection = nn.Linear(p.hidden_dim, p.feature_dim)
        self.embedding = nn.Linear(2 * p.hidden_dim, p.feature_dim)

    def split_trunks(self):
        """Give the clustering network its own copy of the trunk, if it has one."""
        if self.cluster_trunk is not None and not self.splits:
            self.cluster_trunk.load_state_dict(self.backbone.state_dict())
            self.splits = True

    def represent(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to the representation r, (b, hidden_dim)."""
        return self.representation(self.pool(self.backbone(self.standardize(x))))

    def forward(self, x: Tensor) -> Tensor:
        """Images to projection u and embedding e side by side, (b, 2 feature_dim)."""
        x = self.standardize(x)
        pooled = self.pool(self.backbone(x))
        r = self.representation(pooled)
        if self.cluster_trunk is not None and self.splits:
            own = self.pool(self.cluster_trunk(x))
        else:  # pooled once for both: it has no weights
            own = pooled.detach() if self.detach_representation else pooled
        c = self.clustering(own)
        shared = r.detach() if self.detach_representation else r
        u = self.projection(r.relu())
        e = self.embedding(torch.cat([shared, c], dim=1).relu())
        return torch.cat([u, e], dim=1)
