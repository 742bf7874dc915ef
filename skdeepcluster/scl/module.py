"""Networks, memory and objective of SCL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._engine.protocol import ClusterModule
from .._engine.randomness import generator
from .._engine.schedules import WarmupCosine
from ..backbones import make_encoder
from ..communities import Parts, count_parts, neighbor_communities
from ..distances import feature_spread
from ..heads import projection_head
from ..kmeans import cluster_sums, spherical_kmeans
from .objective import (
    balance_loss,
    consistency_loss,
    log_member_similarity,
    log_visual_similarity,
    pseudo_label_loss,
    remember,
    semantic_contrastive,
)

if TYPE_CHECKING:
    from .estimator import SCL

RARELY_TWICE = 64  # slots for each one that is drawn: few are then drawn twice
HEAD_STEPS, HEAD_LR, HEAD_ROWS = 100, 1e-2, 2**14  # of the first fit of the head
REVIVED = 0.01  # share of the samples that an empty cluster is given
POOL = 0.1  # share of the least certain samples, from which it takes them


class SCLModule(ClusterModule):
    """Networks, memory and objective of SCL.

    Parameters
    ----------
    p : SCL
        Resolved parameters.
    data : DataFacts
    """

    p: SCL
    saved = ["clustered"]
    training_only = ["sums", "sizes", "shares"]

    def __init__(self, p, data):
        super().__init__(p, data)
        self.encoder, width = make_encoder(p.backbone, data)
        self.projector = projection_head(width, p.hidden_dim, p.feature_dim)
        self.head = nn.Linear(width, p.n_clusters)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        # random rows: those of an untrained network would nearly be the same
        memory = F.normalize(torch.randn(data.n_samples, p.feature_dim), dim=1)
        self.register_buffer("memory", memory)
        # each slot is a cluster of its own until the warm-up ends
        self.register_buffer("labels", torch.arange(data.n_samples))
        self.register_buffer("centers", torch.zeros(p.n_clusters, p.feature_dim))
        # in training a cluster has one centre, and parts when the last ones are found
        n_parts = count_parts(data.n_samples, p.n_clusters, p.init)
        self.parts = Parts(p.n_clusters, n_parts, p.feature_dim)
        self.register_buffer("sums", torch.zeros(p.n_clusters, p.feature_dim))
        self.register_buffer("sizes", torch.zeros(p.n_clusters))
        self.register_buffer("shares", torch.full((p.n_clusters,), 1 / p.n_clusters))
        self.clustered = False
        if p.assign == "boundary" or p.similarity == "centroid":
            self.training_only = ["memory", "labels"]

    # -- one batch ---------------------------------------------------------------------

    def losses(self, batch):
        """Weighted parts of one batch.

        ``semantic`` and ``view`` always, ``consistency`` and ``balance`` after the
        warm-up.
        """
        p, index = self.p, batch.index
        h = self.features(torch.cat(batch.views))
        z = self.embedding(h)
        z1, z2 = z.chunk(2)
        parts = self.contrast(z1, z2, index)
        mean, labels = 0.5 * (z1 + z2).detach(), None
        if self.clustered:
            log_p, log_s = self.log_boundary(h), self.log_similarity(z, index.repeat(2))
            (p1, p2), (s1, s2) = log_p.chunk(2), log_s.chunk(2)
            if p.consistency == "agreement":
                consistency = 0.5 * (
                    consistency_loss(p1, s2) + consistency_loss(p2, s1)
                )
            else:
                consistency = pseudo_label_loss(p1, p2, s1, s2)
            balance = 0.5 * sum(
                balance_loss(log_q.exp(), self.shares) for log_q in (p1, p2)
            )
            parts["consistency"] = p.consistency_weight * consistency
            parts["balance"] = p.balance_weight * balance
            labels = (p1 + p2 + s1 + s2).argmax(1)
            agree = log_p.argmax(1) == log_s.argmax(1)
            batch.metrics["agreement"] = agree.float().mean()
        batch.carry = mean, labels
        return parts

    def contrast(self, z1, z2, index):
        """Contrast both views with the memory, and with one another."""
        p, instance, candidates = self.p, None, None
        if p.n_negatives is not None:
            candidates = some_slots(len(self.memory), p.n_negatives, z1.device)
        if self.clustered and p.n_clusters > 2:
            # a cluster of more than half the samples would have few to repel it
            instance = self.sizes[self.labels[index]] > 0.5 * len(self.memory)
        semantic = semantic_contrastive(
            torch.cat([z1, z2]),
            self.memory,
            index.repeat(2),
            self.labels,
            p.temperature,
            candidates=candidates,
            instance=None if instance is None else instance.repeat(2),
        )
        parts = {"semantic": p.memory_weight * semantic}
        if p.view_weight > 0:
            batch = torch.arange(len(index), device=index.device), self.labels[index]
            view = sum(
                semantic_contrastive(a, b, *batch, p.temperature, instance=instance)
                for a, b in ((z1, z2), (z2, z1))
            )
            parts["view"] = p.view_weight * 0.5 * view
        return parts

    def features(self, x):
        """Features of the backbone, (b, width)."""
        return self.run(self.encoder, x)

    def embedding(self, h):
        """Unit embeddings of these features, (b, feature_dim)."""
        return F.normalize(self.run(self.projector, h), dim=1)

    def log_boundary(self, h):
        """Prediction by decision boundaries, (b, n_clusters)."""
        return F.log_softmax(self.run(self.head, h), dim=1)

    def log_similarity(self, z, index=None):
        """Prediction by visual similarity, (b, n_clusters)."""
        p = self.p
        if p.similarity == "centroid":
            if self.parts.taken:
                cosine = self.parts.similarity(z)
                return F.log_softmax(cosine / p.similarity_temperature, dim=1)
            return log_visual_similarity(z, self.centers, p.similarity_temperature)
        return log_member_similarity(
            z,
            self.memory,
            self.labels,
            self.p.n_clusters,
            p.similarity_temperature,
            index,
        )

    @torch.no_grad()
    def after_step(self, batch):
        """Write the batch's embeddings and consensus labels to the memory."""
        index, (z, labels) = batch.index, batch.carry
        before = self.memory[index]
        remember(self.memory, index, z, self.p.memory_momentum)
        if labels is None:
            return
        # products with one-hot rows: index_add is not deterministic on CUDA
        left = F.one_hot(self.labels[index], self.p.n_clusters).to(z.dtype)
        joined = F.one_hot(labels, self.p.n_clusters).to(z.dtype)
        self.labels[index] = labels
        self.sums += joined.T @ self.memory[index] - left.T @ before
        self.sizes += joined.sum(0) - left.sum(0)
        self.move_centers()

    def move_centers(self):
        """Set the centres to the directions of the sums; empty clusters keep theirs."""
        filled = self.sizes.unsqueeze(1) > 0
        self.centers = torch.where(filled, F.normalize(self.sums, dim=1), self.centers)

    # -- all images --------------------------------------------------------------------

    def encode(self, x):
        """Unit embeddings, (b, feature_dim)."""
        return self.embedding(self.features(x))

    def logits(self, x, assign=None):
        """Log-probabilities of ``assign``; those of both predictions add up."""
        assign = assign or self.p.assign
        h = self.features(x)
        if assign == "boundary":
            return self.log_boundary(h)
        log_s = self.log_similarity(self.embedding(h))
        return log_s if assign == "similarity" else log_s + self.log_boundary(h)

    @torch.no_grad()
    def refresh(self, embed):
        """Cluster when the warm-up ends; then revive empty clusters and report."""
        if self.clustered:
            self.gather()
            self.revive(embed)
        elif self.clock.epoch >= round(self.p.warmup * self.clock.max_epochs):
            self.begin_clusters(embed)
        report = {"feature_spread": feature_spread(self.memory)}
        if self.clustered:
            report["cluster_sizes"] = self.sizes.long().tolist()
        return report

    @torch.no_grad()
    def finish(self, embed):
        """Settle memory, labels and centres by the final networks, unaugmented."""
        p = self.p
        if not self.clustered:
            self.begin_clusters(embed)
        self.memory = embed()
        if p.recluster and p.init == "graph":
            found = neighbor_communities(
                self.memory, p.n_clusters, linkage=self.parts.linkage, n_init=p.n_init
            )
            self.parts.take(found)
            self.labels = found.labels
            self.fit_head(embed)
        self.labels = embed(self.logits).argmax(1)
        self.gather()

    def gather(self):
        """Sums, sizes and centres of the clusters, anew from memory and labels."""
        found = cluster_sums(self.memory, self.labels[None], self.p.n_clusters)
        (self.sums,), (self.sizes,) = found
        self.move_centers()

    def begin_clusters(self, embed):
        """End the warm-up: first labels, and a head that agrees with them."""
        p, k = self.p, self.p.n_clusters
        if p.init == "random":
            own = generator(self.labels.device)
            self.labels.random_(k, generator=own)
            directions = torch.empty_like(self.centers).normal_(generator=own)
            self.centers = F.normalize(directions, dim=1)
        else:
            self.memory = embed()
            if p.init == "graph":
                found = neighbor_communities(self.memory, k, n_init=p.n_init)
                self.parts.decide(found)
                self.labels = found.labels
                if found.linkage == "normalized":  # of very different sizes
                    sizes = self.labels.bincount(minlength=k).clamp_min(1)
                    self.shares = sizes / sizes.sum()
            else:
                self.centers, self.labels = spherical_kmeans(
                    self.memory, k, n_init=p.n_init
                )
            self.fit_head(embed)
        self.gather()
        self.clustered = True

    @torch.enable_grad()
    def fit_head(self, embed):
        """Teach the cluster head the labels, alone."""
        labels, rows = self.labels, None
        if len(labels) > HEAD_ROWS:
            own = {"device": labels.device, "generator": generator(labels.device)}
            rows = torch.randperm(len(labels), **own)[:HEAD_ROWS]
            labels = labels[rows]
        h = embed(self.features, rows)
        optimizer = torch.optim.Adam(self.head.parameters(), HEAD_LR)
        for _ in range(HEAD_STEPS):
            optimizer.zero_grad()
            F.cross_entropy(self.head(h), labels).backward()
            optimizer.step()
        optimizer.zero_grad()

    def revive(self, embed):
        """Give each empty cluster samples that no cluster is sure of."""
        empty = (self.sizes == 0).nonzero().flatten().tolist()
        if not empty:
            return
        log_q = embed(lambda x: self.logits(x, "consensus"))
        confidence = log_q.softmax(1).amax(1)
        n = len(confidence)
        for cluster in empty:
            pool = confidence.argsort()[: max(5, round(POOL * n))]
            near = (self.memory[pool] @ self.memory[pool[0]]).argsort(descending=True)
            chosen = pool[near[: max(5, round(REVIVED * n))]]
            self.labels[chosen] = cluster
            confidence[chosen] = 1.0  # the next empty cluster takes others
        # all rows anew: a row along the mean features of a few images would be nearest
        # to all, since what is pooled after a ReLU has a common direction
        self.fit_head(embed)
        self.gather()

    # -- training ----------------------------------------------------------------------

    def schedule(self):
        """A linear rise and a cosine over all steps."""
        steps = self.clock.total_steps
        return WarmupCosine(self.p.lr_warmup * steps, steps)

    def optimizer(self):
        """AdamW with a small weight decay."""
        return {"optimizer": torch.optim.AdamW, "optimizer__weight_decay": 1e-4}


def some_slots(n_slots: int, n: int, device) -> Tensor:
    """Draw n slots of the memory; of far more, with replacement.

    A permutation of 10⁶ slots in each step would take as long as a small network does.
    """
    own = {"device": device, "generator": generator(device)}
    if n_slots >= RARELY_TWICE * n:
        return torch.randint(n_slots, (n,), **own)
    return torch.randperm(n_slots, **own)[:n]
