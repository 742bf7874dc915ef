"""What trains in StatDEC: networks, centres, and statistics of the clusters."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from .._engine.average import Average, short_at_first
from .._engine.protocol import ClusterModule
from .._engine.randomness import draw_seed, generator
from .._engine.schedules import Staged, WarmupCosine
from ..communities import Parts, count_parts, neighbor_communities
from ..distances import TINY, feature_spread, squared_distances
from ..kmeans import spherical_kmeans
from .centers import (
    N_NEIGHBORS,
    center_among_outliers,
    final_centers,
    kmeans_centers,
    overcluster_centers,
)
from .networks import StatisticsNetworks
from .objective import (
    debiased_contrastive,
    dec_loss,
    log_assignments,
    log_student_t,
    sharpened_target,
)
from .statistics import (
    ClusterStatistics,
    cluster_statistics,
    merge_statistics,
    outlier_score,
)

if TYPE_CHECKING:
    from .estimator import StatDEC

EMBEDDING_WEIGHT = 0.5  # of the contrastive loss on the embedding while warming up
STATISTICS_MOMENTUM = 0.95
VARIANCE_FLOOR = 0.05  # of the mean variance: a tiny cluster is no point
MIN_JOINT_EPOCHS = 5  # before the labels may end the training
MAX_RESEEDS = 3
SMALLEST_SHARE = 0.002  # of the samples: a cluster with less is seeded again
EMA_MOMENTUM = 0.99
JOINT_RATE = 0.2  # of the learning rate: what the joint phase starts from
CENTER_LR_SCALE = 10.0
CENTER_STEPS = 150  # at the full rate: bounds how far the centres move


class StatDECModule(ClusterModule):
    """Networks, cluster statistics and objective of StatDEC.

    Parameters
    ----------
    p : StatDEC
        Resolved parameters.
    data : DataFacts
    """

    p: StatDEC
    saved = ["reseeds"]
    training_only = ["online", "labels", "neighbors"]

    def __init__(self, p, data):
        super().__init__(p, data)
        self.warmup_epochs = int(p.warmup * p.max_epochs)
        if p.warmup > 0:  # short trainings warm up for an epoch, too
            self.warmup_epochs = max(1, self.warmup_epochs)
        self.warmup_steps = self.warmup_epochs * self.clock.steps_per_epoch
        self.joint_steps = self.clock.total_steps - self.warmup_steps
        self.online = StatisticsNetworks(p, data)
        self.teacher = Average(self.online, partial(short_at_first, EMA_MOMENTUM))
        k, d, n = p.n_clusters, p.feature_dim, data.n_samples
        self.centers = nn.Parameter(torch.zeros(k, d))
        # in training a cluster has one centre, and parts when the last ones are found
        self.parts = Parts(k, count_parts(n, k, p.init), d)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("cardinality", torch.full((k,), n / k))
        self.register_buffer("mean", torch.zeros(k, d))
        self.register_buffer("variance", torch.ones(k))
        self.register_buffer("labels", torch.zeros(n, dtype=torch.int64))
        self.reseeds = 0
        self.neighbors = data.neighbors

    @property
    def statistics(self) -> ClusterStatistics:
        """Statistics of the clusters, which the buffers hold."""
        return ClusterStatistics(self.cardinality, self.mean, self.variance)

    @statistics.setter
    def statistics(self, statistics):
        self.cardinality, self.mean, self.variance = statistics

    # -- one batch ---------------------------------------------------------------------

    def losses(self, batch):
        """Parts ``representation`` and, after the warm-up, ``clustering``, weighted."""
        p = self.p
        u, e = zip(
            *(self.run(self.online, view).chunk(2, dim=1) for view in batch.views),
            strict=True,
        )
        representation, batch.metrics["clamped"] = self.contrast(u)
        if self.clock.epoch < self.warmup_epochs:
            # centres can only be found in an embedding that means something
            extra, _ = self.contrast(e)
            return {"representation": representation + EMBEDDING_WEIGHT * extra}

        embedding = F.normalize(torch.cat(e), dim=1)
        log_q = self.log_q(embedding)
        q = log_q.detach().exp()
        mean_q = q.view(2, -1, p.n_clusters).mean(0)
        target = sharpened_target(mean_q, self.cardinality, self.cardinality_power())
        clustering = dec_loss(target.repeat(2, 1), log_q)
        batch.carry = cluster_statistics(q, embedding.detach())
        return {
            "representation": representation,
            "clustering": p.cluster_weight * self.ramp() * clustering,
        }

    def contrast(self, z):
        """Debiased loss of both views' projections, and the share of clamped rows."""
        a, b = z
        return debiased_contrastive(a, b, self.p.temperature, self.p.tau_plus)

    def cardinality_power(self):
        """Power of the cluster sizes in the target: none of very different ones."""
        if self.p.cardinality_power != "auto":
            return self.p.cardinality_power
        return 0.0 if self.parts.linkage == "normalized" else 1.0

    def ramp(self):
        """Share of the weight of the clustering loss that this step has."""
        step = self.clock.step - self.warmup_steps
        return min(1.0, (step + 1) / max(1, round(self.p.ramp * self.joint_steps)))

    def after_step(self, batch):
        """Merge the statistics of a batch, scaled up to the data, with the last."""
        if batch.carry is None:  # a step of the warm-up
            return
        scale = len(self.labels) / batch.carry.cardinality.sum()
        new = batch.carry.cardinality * scale * (1 - STATISTICS_MOMENTUM)
        running = self.statistics._replace(
            cardinality=STATISTICS_MOMENTUM * self.cardinality
        )
        self.statistics = merge_statistics(
            running, batch.carry._replace(cardinality=new)
        )

    # -- inference ---------------------------------------------------------------------

    def encode(self, x):
        """Unit embeddings of the clustering network, (b, feature_dim)."""
        return F.normalize(self.run(self.teacher, x).chunk(2, dim=1)[1], dim=1)

    def represent(self, x):
        """Images to the representation, (b, hidden_dim)."""
        return self.run(self.teacher.network.represent, x)

    def log_q(self, embedding):
        """Embeddings to logarithms of their soft assignments."""
        if not self.parts.taken:
            return log_student_t(embedding, self.centers, self.scale)
        return log_assignments(self.part_distances(embedding), self.scale)

    def part_distances(self, embedding):
        """Squared distance to the nearest part of each cluster, (b, n_clusters)."""
        return (2 - 2 * self.parts.similarity(embedding)).clamp_min(0)

    def logits(self, x):
        """Images to logarithms of their soft assignments."""
        return self.log_q(self.encode(x))

    def outlier_score(self, embedding, clusters=slice(None)):
        """Embeddings to outlier scores, (b,); a floor keeps a tiny cluster from 0."""
        floor = (VARIANCE_FLOOR * self.variance.mean()).clamp_min(TINY)
        variance = self.variance.clamp_min(floor)
        numbers = torch.arange(len(variance), device=variance.device)
        centers, owners = self.centers, numbers
        if self.parts.taken:
            centers, owners = self.parts.centers, self.parts.owners
        used = torch.isin(owners, numbers[clusters])
        return outlier_score(embedding, centers[used], variance[owners[used]])

    # -- all images --------------------------------------------------------------------

    @torch.no_grad()
    def refresh(self, embed):
        """Centres while warming up; assignments and statistics of the clusters."""
        features, last = embed(), self.labels
        joint_epochs = self.clock.epoch - self.warmup_epochs
        if joint_epochs < 0:
            self.follow(features)
        elif joint_epochs == 0:
            self.initialise(features)
        self.assess(features)
        changed = (self.labels != last).float().mean().item()
        if joint_epochs > 0:
            self.reseed(features)
        self.converged = joint_epochs >= MIN_JOINT_EPOCHS and changed < self.p.tol
        sizes = torch.bincount(self.labels, minlength=self.p.n_clusters)
        return {
            "changed": changed,
            "cluster_sizes": sizes.tolist(),
            "feature_spread": feature_spread(features),
        }

    def follow(self, features):
        """Keep provisional centres near the features of the warm-up."""
        centers, _ = spherical_kmeans(
            features,
            self.p.n_clusters,
            init=self.centers if self.clock.epoch else None,
            n_init=1,
            max_iter=20,
        )
        self.set_centers(features, centers)

    def initialise(self, features):
        """Centres that the joint phase starts from, and trunks that part."""
        k = self.p.n_clusters
        if self.p.init == "graph":
            found = neighbor_communities(features, k, n_init=self.p.n_init)
            self.parts.decide(found)
            centers = found.centers
        elif self.p.init == "random":
            order = torch.randperm(len(features), generator=generator())
            centers = features[order[:k].to(features.device)]
        else:
            methods = {"kmeans": kmeans_centers, "overcluster": overcluster_centers}
            centers = methods[self.p.init](
                features, k, n_init=self.p.n_init, seed=draw_seed()
            )
        self.set_centers(features, centers)
        for network in (self.online, self.teacher.network):
            network.split_trunks()

    def set_centers(self, features, centers):
        """Take new centres, and the scale of distances that goes with them."""
        self.centers.copy_(centers)
        self.set_scale(squared_distances(features, centers))

    def set_scale(self, distances):
        """Take the mean squared distance to the nearest cluster for one."""
        self.scale = distances.min(1).values.mean().clamp_min(TINY)

    def assess(self, features):
        """Assign all images anew; exact statistics of the clusters."""
        log_q = self.log_q(features)
        self.labels = log_q.argmax(1)
        self.statistics = cluster_statistics(log_q.exp(), features)

    def reseed(self, features):
        """Move centres that lost their samples to dense places far from the others."""
        least = max(2, SMALLEST_SHARE * len(features))
        for cluster in (self.cardinality < least).nonzero()[:, 0].tolist():
            if self.reseeds == MAX_RESEEDS:
                return
            score = self.outlier_score(features)
            self.centers[cluster] = center_among_outliers(features, score)
            self.cardinality[cluster] = N_NEIGHBORS
            self.reseeds += 1

    @torch.no_grad()
    def finish(self, embed):
        """Clusters anew, in the final embedding, and their statistics."""
        features, p = embed(), self.p
        self.centers.requires_grad_(False)  # an attribute of the estimator from now on
        if p.recluster and p.init == "graph":
            found = neighbor_communities(
                features, p.n_clusters, linkage=self.parts.linkage, n_init=p.n_init
            )
            self.parts.take(found)
            self.centers.copy_(found.centers)
            self.set_scale(self.part_distances(features))
        elif p.recluster:
            centers = final_centers(
                features,
                p.n_clusters,
                self.neighbors,
                n_init=p.n_init,
                seed=draw_seed(),
            )
            self.set_centers(features, centers)
        self.assess(features)

    # -- training ----------------------------------------------------------------------

    def schedule(self):
        """Half a cosine for each phase; the first one begins with a linear rise."""
        rise = self.p.lr_warmup * self.clock.total_steps
        return Staged(
            ends=[self.warmup_steps],
            schedules=[
                WarmupCosine(rise, self.warmup_steps),
                WarmupCosine(0, self.joint_steps),
            ],
            factors=[1.0, JOINT_RATE],
        )

    def optimizer(self):
        """AdamW; the centres have a rate of their own and do not decay."""
        # Adam's steps have the length of the rate: in many steps the centres, which
        # the soft assignments pull together, would meet in one place
        share = min(1.0, CENTER_STEPS / max(1, self.joint_steps))
        rate = CENTER_LR_SCALE * share * self.p.lr
        return {
            "optimizer": torch.optim.AdamW,
            "optimizer__weight_decay": 1e-4,
            "optimizer__param_groups": [("centers", {"lr": rate, "weight_decay": 0.0})],
        }
