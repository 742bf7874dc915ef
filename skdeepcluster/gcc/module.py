"""Networks and memories of GCC, its objective, and the course of its rounds."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import nn
from torch.nn import functional as F

from .._engine.net import INFERENCE_BATCH
from .._engine.protocol import ClusterModule
from .._engine.randomness import forked
from .._engine.schedules import Staged, WarmupCosine
from .._warnings import warn
from ..backbones import make_encoder
from ..communities import count_parts, neighbor_communities, similarity_to_nearest
from ..distances import feature_spread
from ..heads import projection_head
from ..kmeans import spherical_kmeans
from ..losses import nt_xent
from .anchors import least_distance, move_anchors, reliable_samples
from .bank import Bank
from .diffusion import ConditionalDiffusion
from .diffusion_training import mirrors, train_diffusion
from .objective import anchor_loss, discriminability_loss, domain_alignment_loss
from .rounds import StageLog, check_saved, ends_of_stages, what_went_wrong
from .running_statistics import frozen_running_statistics

if TYPE_CHECKING:
    from .estimator import GCC
    from .generated import Generated

PROTOTYPE_LR_SCALE = 10.0
LEAST_DISTANCE = 0.1  # between two anchors


class GCCModule(ClusterModule):
    """Networks, bank and objective of GCC.

    Parameters
    ----------
    p : GCC
        Resolved parameters.
    data : DataFacts
    """

    p: GCC
    saved = ["ends", "round", "clustered", "too_near", "agreement", "before", "log"]
    training_only = [
        *("bank", "labels", "first_labels", "reliable", "confidence", "taught"),
        *("class_weights", "anchors", "agreement", "before", "log"),
    ]

    def __init__(self, p, data):
        super().__init__(p, data)
        self.ends = ends_of_stages(p.max_epochs, p.pretraining, p.n_rounds)
        self.online, width = make_encoder(p.backbone, data)
        projector = projection_head(width, p.hidden_dim, p.feature_dim)
        self.online.add_module("projector", projector)
        n, k, shape = data.n_samples, p.n_clusters, data.image_shape
        n_parts = count_parts(n, k, p.init)
        prototypes = F.normalize(torch.randn(n_parts, p.feature_dim), dim=1)
        self.prototypes = nn.Parameter(prototypes)
        self.register_buffer("owners", torch.arange(n_parts) % k)
        self.generator = None
        if p.bank != "real" and len(self.ends) > 1:
            with forked():  # stage I is the same with and without it
                diffusion = ConditionalDiffusion(shape, k, p.bank.denoiser)
            self.generator = diffusion.requires_grad_(False)
        self.bank = Bank(shape, k, p.samples_per_cluster, p.batch_size)
        self.register_buffer("labels", torch.zeros(n, dtype=torch.int64))
        self.register_buffer("first_labels", torch.zeros_like(self.labels))
        self.register_buffer("reliable", torch.ones(n, dtype=torch.bool))
        self.register_buffer("confidence", torch.ones(n))
        self.register_buffer("taught", torch.ones(k, dtype=torch.bool))
        self.register_buffer("class_weights", torch.ones(k))
        self.register_buffer("anchors", prototypes[:k].clone())
        self.round, self.clustered, self.too_near = 0, False, 0.0
        self.agreement, self.before = [], None
        self.log = StageLog(p.verbose)

    def set_extra_state(self, state):
        """Take what ``get_extra_state`` gave: of a training, or trimmed."""
        if state["log"] is not None:  # which a trimmed one has not
            check_saved(state, self)
        super().set_extra_state(state)

    # -- networks ----------------------------------------------------------------------

    @property
    def centers(self):
        """Unit prototypes, or means of a cluster's, (n_clusters, feature_dim)."""
        prototypes = F.normalize(self.prototypes.detach(), dim=1)
        if len(prototypes) == self.p.n_clusters:
            return prototypes
        members = F.one_hot(self.owners, self.p.n_clusters).to(prototypes.dtype)
        return F.normalize(members.T @ prototypes, dim=1)

    def encode(self, x):
        """Unit features, (b, feature_dim)."""
        return F.normalize(self.run(self.online, x), dim=1)

    def head(self, z):
        """Logits (b, n_clusters) of unit features."""
        prototypes = F.normalize(self.prototypes, dim=1)
        cosines = similarity_to_nearest(z, prototypes, self.owners, self.p.n_clusters)
        return cosines / self.p.head_temperature

    def logits(self, x):
        """Logits of images in [0, 1], (b, n_clusters)."""
        return self.head(self.encode(x))

    # -- one batch ---------------------------------------------------------------------

    def losses(self, batch):
        """Weighted parts of one batch.

        ``contrast`` in stage I; in stage II ``alignment``, ``discriminability``,
        ``generated_metric`` and ``real_metric``, too.
        """
        p, index = self.p, batch.index
        z1, z2 = self.encode(torch.cat(batch.views)).chunk(2)
        contrast = nt_xent(z1, z2, p.temperature)
        if self.round < 1:
            return {"contrast": contrast}
        parts = {"contrast": p.contrast_weight * contrast}
        labels = self.labels[index]
        reliable = self.reliable[index] & self.taught[labels]
        if self.bank.in_use:
            drawn, drawn_labels = self.bank.draw()
            with frozen_running_statistics(self.online):
                zg = self.encode(self.bank_view(drawn))
            batch.carry = zg.detach(), drawn_labels
            align = domain_alignment_loss(
                z1,
                zg,
                labels,
                drawn_labels,
                class_weights=self.class_weights,
                trust=self.confidence[index] * reliable,
                class_share=p.class_share,
            )
            separate = discriminability_loss(
                zg, drawn_labels, self.anchors, p.discriminability_temperature
            )
            classify = F.cross_entropy(self.head(zg), drawn_labels)
            parts["alignment"] = p.alignment_weight * align
            parts["discriminability"] = p.discriminability_weight * separate
            parts["generated_metric"] = p.metric_weight * classify
        attract = anchor_loss(z2, labels, reliable, self.anchors, p.anchor_temperature)
        parts["real_metric"] = p.anchor_weight * attract
        return parts

    def bank_view(self, unit):
        """Images of the bank as the networks see them, augmented or not."""
        if self.p.augment_bank:
            unit = self.augmentation(unit).float()
        return unit.contiguous(memory_format=torch.channels_last)

    def after_step(self, batch):
        """Move the anchors to the generated features of the batch."""
        if batch.carry is not None:
            features, labels = batch.carry
            self.anchors = move_anchors(
                self.anchors, features, labels, self.p.anchor_momentum
            )

    # -- stages and rounds -------------------------------------------------------------

    @torch.no_grad()
    def refresh(self, embed):
        """Look after the round under way; end it and start the next when it is over."""
        z = embed()
        report = {"feature_spread": feature_spread(z), "round": self.round}
        over = self.clock.epoch == self.ends[self.round]
        if self.round > 0:
            report.update(self.look_after(z, over))
        elif over:
            self.end_pretraining(z)
            report["cluster_sizes"] = self.sizes(self.labels).tolist()
        if over and not self.converged and self.round + 1 < len(self.ends):
            self.round += 1
            self.start_round(embed)
        return report

    def sizes(self, labels):
        """Images of each cluster, (n_clusters,)."""
        return torch.bincount(labels, minlength=self.p.n_clusters)

    @torch.no_grad()
    def end_pretraining(self, z):
        """End stage I: the head becomes a clustering of the features."""
        k, n_init = self.p.n_clusters, self.p.n_init
        if self.p.init == "graph":
            found = neighbor_communities(z, k, n_init=n_init)
            centers, self.owners = found.parts, found.owners
        else:
            centers, _ = spherical_kmeans(z, k, n_init=n_init)
        self.prototypes.copy_(centers)
        self.labels = self.head(z).argmax(1)
        self.first_labels, self.clustered = self.labels.clone(), True
        self.anchors = self.centers
        self.log.end("pretraining", self.round, epochs=self.clock.epoch)

    def start_round(self, embed):
        """Fix pseudo-labels and reliable images, and make a bank by them."""
        self.confidence, self.labels = embed(self.logits).softmax(1).max(1)
        self.reliable = reliable_samples(
            self.confidence, self.labels, self.p.n_clusters, self.p.reliable_share
        )
        self.before = {
            "online": copy.deepcopy(self.online.state_dict()),
            "prototypes": self.prototypes.detach().clone(),
        }
        if self.generator is not None:
            self.bank.images = self.generate(embed)
        else:
            rows = self.bank.rows_of(self.labels, self.reliable)
            raw, _ = embed.images[rows.cpu()]
            self.bank.images = self.scaling(raw.to(rows.device))
        self.judge_bank()
        self.log.start()

    def look_after(self, z, over):
        """Compare clusters with those that the round began with; end it, or undo it."""
        labels, before = self.head(z).argmax(1), self.sizes(self.labels)
        sizes = self.sizes(labels)
        changed = (labels != self.labels).float().mean().item()
        report = {"changed": changed, "cluster_sizes": sizes.tolist()}
        wrong = what_went_wrong(
            before,
            sizes,
            least_distance(self.anchors[before > 0]),
            self.too_near,
            changed,
            self.p.max_change if over else math.inf,
        )
        if wrong:
            warn(
                f"Round {self.round} of the calibration was undone and training ended: "
                f"{wrong}. Labels are those from before it. Lower calibration_lr, or "
                "train longer: the diffusion model (bank__steps) or all (max_epochs).",
                ConvergenceWarning,
            )
            self.online.load_state_dict(self.before["online"])
            self.prototypes.copy_(self.before["prototypes"])
            report["cluster_sizes"] = before.tolist()
            self.converged = True
        elif over:
            self.converged = changed < self.p.tol
        if over or wrong:
            facts = {"changed": changed, "undone": bool(wrong)}
            self.log.end("calibration", self.round, **facts)
        return report

    def extend(self, embed):
        """Begin a further round; after stage I alone, go on with it."""
        end = self.clock.extension[1]
        if len(self.ends) == 1:
            self.ends = [end]
        else:
            self.ends.append(end)
            self.round += 1
            self.start_round(embed)

    @torch.no_grad()
    def finish(self, embed):
        """Settle the prototypes; those of a round that was undone stay."""
        if not self.clustered:
            self.end_pretraining(embed())
        self.prototypes.requires_grad_(False)
        undone = self.log.rows[-1].get("undone", False)
        if self.p.assign == "kmeans" and self.p.init != "graph" and not undone:
            # from the prototypes, so that each centre stays with its cluster
            centers, _ = spherical_kmeans(
                embed(), self.p.n_clusters, init=self.prototypes, n_init=0
            )
            self.prototypes.copy_(centers)
        self.before = None
        self.bank.clear()

    # -- the bank ----------------------------------------------------------------------

    def generate(self, embed):
        """Train the diffusion model on the reliable labels, and draw a bank by it."""
        p = cast("Generated", self.p.bank)
        steps, lr = p.in_round(self.round)
        told = self.labels.masked_fill(~self.reliable, self.generator.null)
        self.log.start()
        loss = train_diffusion(
            self.generator,
            embed.images,
            self.scaling,
            told,
            steps=steps,
            batch_size=p.batch_size,
            lr=lr,
            dropout=p.class_dropout,
            flip=mirrors(self.augmentation),
            bfloat16=embed.bfloat16,
            device=self.labels.device,
            bar=self.log.title("diffusion model", self.round),
            checkpoint=embed.checkpoint(
                "diffusion", [self.round, told, self.generator.state_dict()]
            ),
        )
        self.log.end("diffusion", self.round, loss=loss)
        self.log.start()
        draw = partial(
            self.generator.sample_all,
            guidance_scale=p.guidance_scale,
            n_steps=p.sampling_steps,
            sampler=p.sampler,
            bar=self.log.title("generated images", self.round),
        )
        images = self.run_whole(draw, self.bank.labels)
        self.log.end("sampling", self.round)
        return images

    def judge_bank(self):
        """Keep what the head recognises, and start the anchors from it."""
        p, sizes = self.p, self.sizes(self.labels)
        in_use = sizes > 0
        z = torch.cat([self.encode(x) for x in self.bank.images.split(INFERENCE_BATCH)])
        agreement, kept = self.bank.judge(
            self.head(z).argmax(1),
            in_use,
            p.min_agreement,
            filtered=p.bank_filter == "agreement",
        )
        self.agreement.append(agreement.where(in_use, math.nan).tolist())
        self.taught = in_use & (agreement >= p.min_agreement)
        # of a cluster without generated images nothing is left to align with
        self.class_weights = self.taught / sizes.clamp_min(1)
        left_out = in_use & ~self.taught
        if left_out.any():
            warn(
                f"Round {self.round}: of the images that were generated of the "
                f"clusters {left_out.nonzero().flatten().tolist()}, less than "
                f"min_agreement={p.min_agreement:g} are recognised as such, and the "
                "round leaves them out. Train the diffusion model longer "
                "(bank__steps), or lower n_clusters.",
                ConvergenceWarning,
            )
        labels = self.bank.labels[kept]
        self.anchors = move_anchors(self.centers, z[kept], labels, momentum=0.0)
        apart = least_distance(self.anchors[in_use])
        self.too_near = min(LEAST_DISTANCE, 0.5 * apart)

    # -- training ----------------------------------------------------------------------

    def schedule(self):
        """A linear rise and a cosine in stage I; then a cosine for each round."""
        ends = [self.clock.steps_per_epoch * end for end in self.ends]
        first, *rounds = np.diff(ends, prepend=0).tolist()
        later = self.p.calibration_lr / self.p.lr
        return Staged(
            ends[:-1],
            # one step more: the last step of a round should move, too
            [
                WarmupCosine(self.p.lr_warmup * first, first),
                *(WarmupCosine(0, length + 1) for length in rounds),
            ],
            [1.0, *(later for _ in rounds)],
        )

    def optimizer(self):
        """AdamW; the prototypes have a rate of their own."""
        prototypes = {"lr": PROTOTYPE_LR_SCALE * self.p.lr, "weight_decay": 0.0}
        return {
            "optimizer": torch.optim.AdamW,
            "optimizer__weight_decay": 1e-4,
            "optimizer__param_groups": [("prototypes", prototypes)],
        }
