"""Networks, groups and objective of DigPro."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from .._engine.average import Average, short_at_first
from .._engine.protocol import ClusterModule
from .._engine.randomness import generator
from .._engine.schedules import WarmupCosine
from ..backbones import make_encoder
from ..communities import LINKAGES, Parts, count_parts, neighbor_communities
from ..distances import feature_spread
from ..heads import projection_head
from ..kmeans import spherical_kmeans
from ..losses import nt_xent
from .objective import group_loss, prototype_loss, view_alignment_loss

if TYPE_CHECKING:
    from .estimator import DigPro

PAIRS = ((0, 1), (1, 0))  # of views: the online one and the one that gives the target


class DigProModule(ClusterModule):
    """Networks, memories and objective of DigPro.

    Parameters
    ----------
    p : DigPro
        Resolved parameters.
    data : DataFacts
    """

    p: DigPro
    saved = ["refreshed"]
    training_only = ["online", "predictor", "groups", "bank", "labels"]

    def __init__(self, p, data):
        super().__init__(p, data)
        self.aligns = p.instance == "alignment"
        self.online, width = make_encoder(p.backbone, data)
        projector = projection_head(width, p.hidden_dim, p.feature_dim)
        self.online.add_module("projector", projector)
        if self.aligns:
            self.teacher = Average(self.online, p.ema_momentum, own_statistics=True)
            self.predictor = projection_head(p.feature_dim, p.hidden_dim, p.feature_dim)
            for layer in (self.predictor[0], self.predictor[-1]):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
        else:
            momentum = partial(short_at_first, p.ema_momentum)
            self.teacher = Average(self.online, momentum)
        self.register_buffer("groups", torch.rand(p.n_clusters, p.feature_dim))
        bank = F.normalize(torch.randn(p.bank_size, p.feature_dim), dim=1)
        self.register_buffer("bank", bank)
        self.register_buffer("labels", torch.zeros(data.n_samples, dtype=torch.int64))
        self.register_buffer("centers", torch.zeros(p.n_clusters, p.feature_dim))
        n_parts = count_parts(data.n_samples, p.n_clusters, p.e_step)
        self.parts = Parts(p.n_clusters, n_parts, p.feature_dim)
        self.refreshed = False

    # -- M-step: one batch -------------------------------------------------------------

    def losses(self, batch):
        """Parts ``instance``, ``group`` and ``prototype`` of one batch, weighted."""
        p, warm = self.p, not self.clock.passed(self.p.warmup)
        groups = self.reset_groups() if self.reset_is_due() else self.groups
        q = [self.run(self.online, view) for view in batch.views]
        u, k, instance = self.views_agree(q, batch.views, warm)
        group = 0.0
        for a, b in PAIRS:
            loss, moved = group_loss(
                u[a], q[a], k[b], groups, p.group_momentum, p.group_temperature
            )
            # at once: the second pair starts from the groups that the first one moved
            groups = moved.detach()
            group = group + 0.5 * loss
        batch.carry = groups, [x.detach() for x in q]
        parts = {"instance": instance, "group": p.group_weight * group}
        if not warm:
            labels = self.labels[batch.index]
            settings = labels, p.n_clusters, p.prototype_temperature
            parts["prototype"] = p.prototype_weight * sum(
                0.5 * prototype_loss(q[a], k[b], *settings) for a, b in PAIRS
            )
        return parts

    def views_agree(self, q, views, warm):
        """Predictions, unit targets and the instance term of the projections q."""
        if not self.aligns:
            k = [F.normalize(x.detach(), dim=1) for x in q]
            return q, k, nt_xent(q[0], q[1], self.p.instance_temperature)
        with torch.no_grad():
            k = [F.normalize(self.run(self.teacher, view), dim=1) for view in views]
        u = [self.run(self.predictor, x) for x in q]
        instance = 0.5 * sum(
            view_alignment_loss(self.noisy(q[a], u[a], warm), k[b]) for a, b in PAIRS
        )
        return u, k, instance

    def noisy(self, online, predicted, warm):
        """Prediction of the projections moved by noise; none while warming up."""
        if warm or self.p.noise_std == 0:
            return predicted
        own = generator(online.device)
        noise = self.p.noise_std * torch.empty_like(online).normal_(generator=own)
        return self.run(self.predictor, online + noise)

    def reset_is_due(self):
        """Whether the groups start afresh in this step: not in the first one."""
        if self.p.group_reset == "epoch":
            return False
        step = self.clock.step + 1
        return step > 1 and step % self.p.group_reset == 0

    @torch.no_grad()
    def reset_groups(self):
        """Groups by a k-means of the bank: against stale and dead ones."""
        groups, _ = spherical_kmeans(
            self.bank, self.p.n_clusters, init=self.groups, n_init=1, max_iter=10
        )
        return groups

    def after_step(self, batch):
        """Take the moved groups; put unit projections at the front of the bank."""
        self.groups, q = batch.carry
        if self.p.group_reset != "epoch":
            new = F.normalize(torch.cat(q), dim=1)
            self.bank = torch.cat([new, self.bank])[: len(self.bank)]

    # -- E-step: all images ------------------------------------------------------------

    def encode(self, x):
        """Unit target features, (b, feature_dim)."""
        return F.normalize(self.run(self.teacher, x), dim=1)

    def logits(self, x):
        """Cosine to the nearest part of each cluster, by the groups' temperature."""
        return self.parts.similarity(self.encode(x)) / self.p.group_temperature

    def refresh(self, embed):
        """E-step: the pseudo-labels of the next epoch."""
        features = embed()
        self.cluster(features, self.p.n_init, max_iter=100)
        sizes = self.labels.bincount(minlength=self.p.n_clusters).tolist()
        return {"cluster_sizes": sizes, "feature_spread": feature_spread(features)}

    def finish(self, embed):
        """Final prototypes, with more restarts."""
        self.cluster(embed(), max(10, self.p.n_init), max_iter=300)

    def cluster(self, features, n_init, max_iter):
        """Labels and prototypes by communities or k-means; the groups may follow."""
        k = self.p.n_clusters
        if self.p.e_step == "graph":
            # decided once, when the warm-up ends: features that were trained towards
            # clusters agree with themselves
            warm = not self.clock.passed(self.p.warmup)
            linkage = LINKAGES[0] if warm else self.parts.linkage
            last = self.parts if self.refreshed and linkage else None
            found = neighbor_communities(
                features, k, linkage=linkage, last=last, n_init=n_init
            )
            self.parts.take(found)
            if not warm:
                self.parts.decide(found)
            self.centers, self.labels = found.centers, found.labels
        else:
            last = self.centers if self.refreshed else None
            self.centers, self.labels = spherical_kmeans(
                features, k, init=last, n_init=n_init, max_iter=max_iter
            )
            self.parts.centers = self.centers
        self.refreshed = True
        if self.p.group_reset == "epoch":
            self.groups = self.centers.clone()

    # -- training ----------------------------------------------------------------------

    def schedule(self):
        """A linear rise and a cosine over all steps."""
        steps = self.clock.total_steps
        return WarmupCosine(self.p.lr_warmup * steps, steps)

    def optimizer(self):
        """AdamW; the predictor has a rate of its own."""
        params = {"optimizer": torch.optim.AdamW, "optimizer__weight_decay": 1e-4}
        if self.aligns:
            rate = self.p.predictor_lr_scale * self.p.lr
            params["optimizer__param_groups"] = [("predictor.*", {"lr": rate})]
        return params
