"""GCC: generative calibration clustering (after Xia, Huang and Ding, 2024)."""

from __future__ import annotations

import contextlib
import copy
import math
import sys
import time
import warnings
from collections import OrderedDict
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.nn import functional as F

from ._base import DeepClusterer
from ._cluster_statistics import squared_distances
from ._device import make_seed, resolve_device, seeded
from ._kmeans import spherical_kmeans
from ._layouts import as_input
from ._net import INFERENCE_BATCH, ClusterModule, WarmupCosine, feature_spread
from .backbones import make_backbone
from .diffusion import (
    DENOISERS,
    SAMPLERS,
    ConditionalDiffusion,
    balanced_weights,
    resolve_denoiser,
    train_diffusion,
)
from .heads import projection_head
from .losses import nt_xent

KERNELS = (0.25, 0.5, 1.0, 2.0, 4.0)  # widths, in mean squared distances
LEAST_RELIABLE = 8  # images of a cluster, if it has so many
LEAST_KEPT = 10  # generated images of a class, below which none is filtered out
LEAST_DISTANCE = 0.1  # between two anchors
SAMPLING_BATCH = 256
PROTOTYPE_LR_SCALE = 10.0


# -- the objective ---------------------------------------------------------------------


def multi_kernel(a: Tensor, b: Tensor, scale: Tensor | float) -> Tensor:
    """Mean of five Gaussian kernels.

    Parameters
    ----------
    a, b : tensors of shape (n, d) and (m, d)
    scale : scalar tensor or float
        The kernels are ``exp(-|a - b|^2 / (w scale))`` for w from 1/4 to 4.

    Returns
    -------
    kernel : tensor of shape (n, m)

    References
    ----------
    The widths are those of the same first author's GSP-MSGD, which sums the kernels.
    """
    distances = squared_distances(a, b) / scale
    return sum((-distances / width).exp() for width in KERNELS) / len(KERNELS)


def weighted_mmd(
    real: Tensor,
    generated: Tensor,
    real_weights: Tensor,
    generated_weights: Tensor,
    scale: Tensor | float,
) -> Tensor:
    """Squared maximum mean discrepancy of weighted samples.

    Parameters
    ----------
    real, generated : tensors of shape (n, d) and (m, d)
        With gradient.
    real_weights, generated_weights : tensors of shape (r, n) and (r, m)
        Each row compares another pair of weighted samples, and sums to 1.
    scale : scalar tensor or float
        Of the kernels.

    Returns
    -------
    mmd : tensor of shape (r,)
        ``w K w' + v K v' - 2 w K v'``: a biased estimate, not negative, 0 for equal
        weighted samples.

    References
    ----------
    Gretton et al., *A Kernel Two-Sample Test*, 2012, equation 5.
    """
    k_rr = multi_kernel(real, real, scale)
    k_gg = multi_kernel(generated, generated, scale)
    k_rg = multi_kernel(real, generated, scale)
    return (
        ((real_weights @ k_rr) * real_weights).sum(1)
        + ((generated_weights @ k_gg) * generated_weights).sum(1)
        - 2 * ((real_weights @ k_rg) * generated_weights).sum(1)
    )


def alignment_loss(
    real: Tensor,
    generated: Tensor,
    labels: Tensor,
    generated_labels: Tensor,
    class_weights: Tensor,
    trust: Tensor,
    class_share: float = 0.5,
) -> Tensor:
    """Align real and generated features in an RKHS: all together, and by class.

    Parameters
    ----------
    real : tensor of shape (b, d)
        Features of real images, with gradient.
    generated : tensor of shape (g, d)
        Features of generated images, with gradient.
    labels, generated_labels : int64 tensors of shape (b,) and (g,)
        Pseudo-labels, and the classes that the images were generated of.
    class_weights : tensor of shape (K,)
        What a real image of each class counts in the global term: the generated images
        are balanced, and the loss should measure appearance, not the sizes.
    trust : tensor of shape (b,)
        What a real image counts in the term of its class: its confidence, or 0 if it is
        not reliable.
    class_share : float, default=0.5
        Weight of the mean over the classes; one minus it is that of the global term.

    Returns
    -------
    loss : scalar tensor
        Classes with fewer than two images on either side are left out.

    Notes
    -----
    A reconstruction; GSP-MSGD, of the same first author, joins both terms in equal
    parts.
    """
    k = len(class_weights)
    with torch.no_grad():
        pooled = torch.cat([real, generated])
        n = len(pooled)
        scale = squared_distances(pooled, pooled).sum() / (n * (n - 1))
        scale = scale.clamp_min(1e-6)
        members = F.one_hot(labels, k).T.to(real.dtype) * trust
        drawn = F.one_hot(generated_labels, k).T.to(real.dtype)
        present = ((members > 0).sum(1) >= 2) & (drawn.sum(1) >= 2)
        everyone = class_weights[labels]
        real_weights = torch.cat([everyone[None], members])
        generated_weights = torch.cat([torch.ones_like(drawn[:1]), drawn])
        real_weights = _normalised(real_weights)
        generated_weights = _normalised(generated_weights)
    mmd = weighted_mmd(real, generated, real_weights, generated_weights, scale)
    by_class = (mmd[1:] * present).sum() / present.sum().clamp_min(1)
    return (1 - class_share) * mmd[0] + class_share * by_class


def _normalised(weights):
    return weights / weights.sum(1, keepdim=True).clamp_min(1e-12)


def discriminability_loss(
    generated: Tensor, labels: Tensor, anchors: Tensor, temperature: float = 0.2
) -> Tensor:
    """Make generated features compact and separate: near their anchor, far from others.

    Parameters
    ----------
    generated : tensor of shape (g, d)
        Unit features, with gradient.
    labels : int64 tensor of shape (g,)
    anchors : tensor of shape (K, d)
        Unit rows; no gradient flows into them.
    temperature : float

    Returns
    -------
    loss : scalar tensor
        Mean of the cross-entropy by squared distance, and of the squared distance to
        the own anchor.

    Notes
    -----
    A reconstruction.
    """
    distances = squared_distances(generated, anchors.detach())
    own = distances.gather(1, labels.unsqueeze(1)).mean()
    return F.cross_entropy(-distances / temperature, labels) + own


def anchor_loss(
    real: Tensor,
    labels: Tensor,
    reliable: Tensor,
    anchors: Tensor,
    temperature: float = 0.1,
) -> Tensor:
    """Draw reliable real features to the anchor of their pseudo-label.

    Parameters
    ----------
    real : tensor of shape (b, d)
        Unit features, with gradient.
    labels : int64 tensor of shape (b,)
    reliable : bool tensor of shape (b,)
        Others do not count.
    anchors : tensor of shape (K, d)
        Unit rows; no gradient flows into them.
    temperature : float

    Returns
    -------
    loss : scalar tensor
        Mean cross-entropy over the reliable ones; 0 if there are none.

    Notes
    -----
    A reconstruction.
    """
    losses = F.cross_entropy(
        real @ anchors.detach().T / temperature, labels, reduction="none"
    )
    return (losses * reliable).sum() / reliable.sum().clamp_min(1)


def reliable_samples(
    confidence: Tensor, labels: Tensor, n_clusters: int, share: float
) -> Tensor:
    """Choose the most confident images of each cluster.

    By cluster, since one threshold for all would leave the small ones out.

    Parameters
    ----------
    confidence : tensor of shape (n,)
    labels : int64 tensor of shape (n,)
    n_clusters : int
    share : float
        Of each cluster; at least 8 images of it, or all of fewer.

    Returns
    -------
    reliable : bool tensor of shape (n,)

    Notes
    -----
    A reconstruction.
    """
    sizes = torch.bincount(labels, minlength=n_clusters)
    # in float64, and less than an image, so that 0.7 * 10 is no more than 7
    wanted = (share * sizes.double() - 1e-9).ceil().long()
    wanted = torch.maximum(wanted, sizes.clamp_max(LEAST_RELIABLE))
    by_confidence = confidence.argsort(descending=True, stable=True)
    order = by_confidence[labels[by_confidence].argsort(stable=True)]
    first = sizes.cumsum(0) - sizes  # of each cluster, in that order
    rank = torch.arange(len(labels), device=labels.device) - first[labels[order]]
    reliable = torch.zeros_like(labels, dtype=torch.bool)
    reliable[order] = rank < wanted[labels[order]]
    return reliable


@torch.no_grad()
def move_anchors(
    anchors: Tensor, features: Tensor, labels: Tensor, momentum: float
) -> Tensor:
    """Move the anchors to the mean features of their classes in a batch.

    Parameters
    ----------
    anchors : tensor of shape (K, d)
    features : tensor of shape (g, d)
    labels : int64 tensor of shape (g,)
    momentum : float
        How much of an anchor stays.

    Returns
    -------
    moved : tensor of shape (K, d)
        Unit rows; those of classes without features are unchanged.
    """
    members = F.one_hot(labels, len(anchors)).to(features.dtype)
    sizes = members.sum(0).unsqueeze(1)
    means = members.T @ features / sizes.clamp_min(1)
    moved = F.normalize(momentum * anchors + (1 - momentum) * means, dim=1)
    return torch.where(sizes > 0, moved, anchors)


@contextlib.contextmanager
def frozen_running_statistics(module: nn.Module):
    """Leave the running statistics of batch norms as they are, inside the block.

    In training mode batches are still normalised by their own statistics: for images
    of another domain, which the running statistics should not know of.

    Parameters
    ----------
    module : Module
    """
    norms = [
        m
        for m in module.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


# -- networks and stages ---------------------------------------------------------------


class GCCModule(ClusterModule):
    """Networks, bank and objective of GCC.

    Parameters
    ----------
    scaling : Scaling
    augmentation : callable or Module
    backbone : str or Module
    image_shape : tuple (C, H, W)
    n_samples, n_clusters : int
    feature_dim, hidden_dim : int
        Widths of the features and of the hidden layer before them.
    warmup_epochs : int
        Epochs of stage I.
    round_epochs : list of int
        Epochs of the rounds of stage II.
    batch_size : int
        Generated images of a step.
    samples_per_cluster : int
        Images of each cluster in the bank.
    denoiser : str
    diffusion_steps : int
        Steps of the first round's training of the diffusion model.
    flip : bool
        Whether it learns of mirrored images, too.
    verbose : bool
    **options
        As in :class:`GCC`.
    """

    def __init__(
        self,
        scaling,
        augmentation,
        backbone,
        image_shape,
        n_samples,
        n_clusters,
        feature_dim,
        hidden_dim,
        warmup_epochs,
        round_epochs,
        batch_size,
        samples_per_cluster,
        denoiser,
        diffusion_steps,
        flip,
        verbose,
        **options,
    ):
        super().__init__(scaling, augmentation)
        self.n_clusters, self.options = n_clusters, options
        self.ends = np.cumsum([warmup_epochs, *round_epochs]).tolist()
        self.bank_batch = min(batch_size, n_clusters * samples_per_cluster)
        self.diffusion_steps, self.flip = diffusion_steps, flip
        self.verbose = verbose
        network, width = make_backbone(backbone, image_shape)
        projector = projection_head(width, hidden_dim, feature_dim)
        self.online = nn.Sequential(OrderedDict(backbone=network, projector=projector))
        prototypes = F.normalize(torch.randn(n_clusters, feature_dim), dim=1)
        self.prototypes = nn.Parameter(prototypes)
        self.generator = None
        if options["bank"] == "generated":
            with torch.random.fork_rng():  # stage I is the same with and without it
                diffusion = ConditionalDiffusion(image_shape, n_clusters, denoiser)
            self.generator = diffusion.requires_grad_(False)
        labels = torch.arange(n_clusters).repeat_interleave(samples_per_cluster)
        for name, buffer in {
            "labels": torch.zeros(n_samples, dtype=torch.int64),
            "first_labels": torch.zeros(n_samples, dtype=torch.int64),
            "confidence": torch.ones(n_samples),
            "reliable": torch.ones(n_samples, dtype=torch.bool),
            "anchors": prototypes.clone(),
            "bank": torch.zeros(len(labels), *image_shape),
            "bank_labels": labels,
            "bank_weights": torch.zeros(len(labels)),
        }.items():
            self.register_buffer(name, buffer)
        self.epoch, self.round, self.clustered, self.has_bank = 0, 0, False, False
        self.stages, self.agreement, self.before, self.seen = [], [], None, None
        self.began = time.perf_counter()

    def get_extra_state(self):
        """State beside parameters and buffers, for ``state_dict``."""
        names = ("epoch", "round", "clustered", "has_bank", "converged")
        names += ("stages", "agreement", "before")
        return {name: copy.deepcopy(getattr(self, name)) for name in names}

    def set_extra_state(self, state):
        """Take what :meth:`get_extra_state` gave."""
        vars(self).update(copy.deepcopy(state))

    # -- networks ----------------------------------------------------------------------

    @property
    def centers(self):
        """Unit prototypes, (n_clusters, feature_dim)."""
        return F.normalize(self.prototypes.detach(), dim=1)

    def encode(self, x):
        """Unit features, (b, feature_dim)."""
        return F.normalize(self.run(self.online, x), dim=1)

    def head(self, z):
        """Logits (b, n_clusters) of unit features."""
        prototypes = F.normalize(self.prototypes, dim=1)
        return z @ prototypes.T / self.options["head_temperature"]

    def logits(self, x):
        """Logits of standardised images, (b, n_clusters)."""
        return self.head(self.encode(x))

    # -- one batch ---------------------------------------------------------------------

    def losses(self, batch):
        """Weighted parts of one batch.

        ``contrast`` in stage I; in stage II ``alignment``, ``discriminability``,
        ``generated_metric`` and ``real_metric``, too.
        """
        o, index = self.options, batch.index
        z1, z2 = self.encode(torch.cat(batch.views)).chunk(2)
        contrast = nt_xent(z1, z2, o["temperature"])
        if self.round < 1:
            return {"contrast": contrast}
        parts = {"contrast": o["contrast_weight"] * contrast}
        labels, reliable = self.labels[index], self.reliable[index]
        if self.has_bank:
            drawn, drawn_labels = self.draw()
            with frozen_running_statistics(self.online):
                zg = self.encode(drawn)
            self.seen = zg.detach(), drawn_labels
            align = alignment_loss(
                z1,
                zg,
                labels,
                drawn_labels,
                class_weights=1 / self.sizes().clamp_min(1),
                trust=self.confidence[index] * reliable,
                class_share=o["class_share"],
            )
            separate = discriminability_loss(
                zg, drawn_labels, self.anchors, o["discriminability_temperature"]
            )
            classify = F.cross_entropy(self.head(zg), drawn_labels)
            parts["alignment"] = o["alignment_weight"] * align
            parts["discriminability"] = o["discriminability_weight"] * separate
            parts["generated_metric"] = o["metric_weight"] * classify
        attract = anchor_loss(
            z2, labels, reliable, self.anchors, o["anchor_temperature"]
        )
        parts["real_metric"] = o["metric_weight"] * attract
        return parts

    def sizes(self):
        """Images of each cluster, by the pseudo-labels: (n_clusters,)."""
        return F.one_hot(self.labels, self.n_clusters).sum(0)

    def draw(self):
        """Draw a view of images of the bank, each class as often: views and classes."""
        rows = torch.multinomial(self.bank_weights, self.bank_batch, replacement=True)
        view = self.scaling.standardize(self.augmentation(self.bank[rows]).float())
        view = view.contiguous(memory_format=torch.channels_last)
        return view, self.bank_labels[rows]

    def after_step(self):
        """Move the anchors to the generated features of the batch."""
        if self.seen is not None:
            momentum = self.options["anchor_momentum"]
            self.anchors = move_anchors(self.anchors, *self.seen, momentum)
            self.seen = None

    # -- stages and rounds -------------------------------------------------------------

    @torch.no_grad()
    def refresh(self, embed):
        """Look after the round under way; end it, and start the next, when it is over."""
        z = embed()
        report = {"feature_spread": feature_spread(z), "round": self.round}
        over = self.epoch == self.ends[self.round]
        if self.round > 0:
            report.update(self.look_after(z, over))
        elif over:
            self.end_pretraining(z)
            report["cluster_sizes"] = self.sizes().tolist()
        if over and not self.converged and self.round + 1 < len(self.ends):
            self.round += 1
            self.start_round(embed)
        self.epoch += 1
        return report

    def end_pretraining(self, z):
        """End stage I: the head becomes a spherical k-means of the features, exactly."""
        centers, _ = spherical_kmeans(
            z, self.n_clusters, n_init=self.options["n_init"]
        )
        self.prototypes.copy_(centers)
        self.labels = self.head(z).argmax(1)
        self.first_labels, self.clustered = self.labels, True
        self.log("pretraining", epochs=self.epoch)

    def start_round(self, embed):
        """Fix pseudo-labels and reliable images, and make a bank by them."""
        proba = embed(self.logits).softmax(1)
        self.confidence, self.labels = proba.max(1)
        self.reliable = reliable_samples(
            self.confidence, self.labels, self.n_clusters, self.options["reliable_share"]
        )
        self.before = {
            "online": copy.deepcopy(self.online.state_dict()),
            "prototypes": self.prototypes.detach().clone(),
        }
        if self.generator is None:
            self.fill_with_real(embed.images)
        else:
            self.fill_with_generated(embed)
        self.judge_bank()
        self.began = time.perf_counter()

    def look_after(self, z, over):
        """Compare clusters with those that the round began with; end it, or undo it."""
        labels = self.head(z).argmax(1)
        sizes = torch.bincount(labels, minlength=self.n_clusters)
        changed = (labels != self.labels).float().mean().item()
        report = {"changed": changed, "cluster_sizes": sizes.tolist()}
        wrong = self.what_went_wrong(sizes, changed, over)
        if wrong:
            warnings.warn(
                f"Round {self.round} of the calibration was undone and training ended: "
                f"{wrong}. Labels are those from before it. Lower lr, train the "
                "diffusion model longer (diffusion_steps), or pretrain longer (warmup, "
                "max_epochs).",
                ConvergenceWarning,
                stacklevel=2,
            )
            self.online.load_state_dict(self.before["online"])
            self.prototypes.copy_(self.before["prototypes"])
            report["cluster_sizes"] = self.sizes().tolist()
            self.converged = True
        elif over:
            self.labels = labels
            self.converged = changed < self.options["tol"]
        if over or wrong:
            self.log("calibration", changed=changed, undone=bool(wrong))
        return report

    def what_went_wrong(self, sizes, changed, over):
        """Say what is wrong with the round so far, or return None."""
        in_use = self.sizes() > 0
        lost = (in_use & (sizes == 0)).nonzero().flatten().tolist()
        if lost:
            return f"it emptied the clusters {lost}"
        anchors = self.anchors[in_use]
        if len(anchors) > 1 and F.pdist(anchors).min() < LEAST_DISTANCE:
            return "the anchors of two clusters met"
        most = self.options["max_change"]
        if over and changed > most:
            return f"it changed {changed:.0%} of the labels (max_change={most:g})"
        return None

    @torch.no_grad()
    def finish(self, embed):
        """Settle the prototypes."""
        if not self.clustered:
            self.end_pretraining(embed())
        self.prototypes.requires_grad_(False)
        if self.options["assign"] == "kmeans":
            # from the prototypes, so that each centre stays with its cluster
            centers, _ = spherical_kmeans(
                embed(), self.n_clusters, init=self.prototypes, n_init=0
            )
            self.prototypes.copy_(centers)
        self.before = None
        self.bank = self.bank[:0]  # as large as the training data, and of no more use
        if self.generator is not None:
            self.generator.bfloat16 = False

    # -- the bank ----------------------------------------------------------------------

    def fill_with_generated(self, embed):
        """Train the diffusion model on the reliable labels, and draw from it."""
        o, first = self.options, self.round == 1
        null = torch.full_like(self.labels, self.n_clusters)
        began = time.perf_counter()
        loss = train_diffusion(
            self.generator,
            embed.images,
            self.scaling,
            torch.where(self.reliable, self.labels, null),
            steps=self.diffusion_steps if first else math.ceil(self.diffusion_steps / 3),
            batch_size=o["diffusion_batch_size"],
            lr=o["diffusion_lr"] * (1 if first else 0.25),
            dropout=o["class_dropout"],
            flip=self.flip,
            bfloat16=embed.bfloat16,
            device=self.labels.device,
            bar=f"GCC, diffusion model, round {self.round}" if self.verbose else None,
        )
        self.log("diffusion", began, loss=loss)
        began = time.perf_counter()
        self.generator.bfloat16 = embed.bfloat16
        parts = self.bank_labels.split(SAMPLING_BATCH)
        with progress_bar(
            f"GCC, generated images, round {self.round}", len(self.bank), self.verbose
        ) as bar:
            drawn = []
            for part in parts:
                drawn.append(
                    self.generator.sample(
                        part, o["guidance_scale"], o["sampling_steps"], o["sampler"]
                    )
                )
                bar.update(len(part))
        self.bank = torch.cat(drawn)
        self.log("sampling", began)

    def fill_with_real(self, images):
        """Put reliable images in the place of generated ones: the control."""
        share = self.reliable.float() / self.sizes()[self.labels]
        weights = F.one_hot(self.labels, self.n_clusters).T * share
        weights[weights.sum(1) == 0] = 1.0  # no image is of this cluster: any will do
        rows = torch.multinomial(
            weights, len(self.bank) // self.n_clusters, replacement=True
        )
        raw, _ = images[rows.flatten().cpu()]
        self.bank = self.scaling.unit(raw.to(self.labels.device))

    def judge_bank(self):
        """Keep what the head recognises, and start the anchors from it."""
        o, k = self.options, self.n_clusters
        z = torch.cat(
            [
                self.encode(self.scaling.standardize(part))
                for part in self.bank.split(INFERENCE_BATCH)
            ]
        )
        members = F.one_hot(self.bank_labels, k).bool()
        agrees = self.head(z).argmax(1) == self.bank_labels
        count = (members & agrees[:, None]).sum(0)
        per_cluster = len(self.bank) // k
        share = count / per_cluster
        self.agreement.append(share.tolist())
        taught = (share >= o["min_agreement"]) & (self.sizes() > 0)
        left_out = ((self.sizes() > 0) & ~taught).nonzero().flatten().tolist()
        if left_out:
            warnings.warn(
                f"Round {self.round}: of the images that were generated of the clusters "
                f"{left_out}, less than min_agreement={o['min_agreement']:g} are "
                "recognised as such. The round leaves these clusters' images out. Train "
                "the diffusion model longer (diffusion_steps), or lower n_clusters.",
                ConvergenceWarning,
                stacklevel=2,
            )
        kept = taught[self.bank_labels]
        if o["bank_filter"] == "agreement":
            enough = count >= max(LEAST_KEPT, 0.1 * per_cluster)
            kept = kept & (agrees | ~enough[self.bank_labels])
        classes = torch.where(kept, self.bank_labels, k)
        self.bank_weights = balanced_weights(classes, k, null_mass=0.0)
        self.has_bank = bool(kept.any())
        self.anchors = move_anchors(self.centers, z[kept], self.bank_labels[kept], 0.0)

    def log(self, stage, began=None, **facts):
        """Add a row to the history of stages; show it where that is wanted."""
        seconds = time.perf_counter() - (began or self.began)
        row = {"stage": stage, "round": self.round, "seconds": seconds, **facts}
        self.stages.append(row)
        if self.verbose:
            from tqdm.auto import tqdm

            text = f"GCC, round {self.round}: {stage} took {seconds:.1f} s"
            tqdm.write(text, file=sys.stderr)


def progress_bar(title, total, verbose):
    """Return a bar of tqdm, which shows nothing unless ``verbose``."""
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=title, unit="image", disable=not verbose)


class StagedCosine:
    """Factor of the learning rate: a warm-up and a cosine for each stage and round.

    Parameters
    ----------
    ends : list of int
        Steps at which stages end.
    warmup : float
        Steps of the first warm-up.
    later : float
        Highest factor after the first stage.
    """

    def __init__(self, ends, warmup, later):
        self.ends, self.later = ends, later
        lengths = np.diff(ends, prepend=0)
        self.stages = [WarmupCosine(warmup, lengths[0])]
        # one more: the last step of a round should move, too
        self.stages += [WarmupCosine(0, length + 1) for length in lengths[1:]]

    def __call__(self, step):
        stage = int(np.searchsorted(self.ends[:-1], step, side="right"))
        start = self.ends[stage - 1] if stage else 0
        return (self.later if stage else 1.0) * self.stages[stage](step - start)


class GCC(DeepClusterer):
    """Generative calibration clustering: a diffusion model calibrates the clusters.

    Placeholder.
    """

    _parameter_constraints: dict = {
        **DeepClusterer._parameter_constraints,
        "warmup": [Interval(Real, 0, 1, closed="both")],
        "n_rounds": [Interval(Integral, 1, None, closed="left")],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "head_temperature": [Interval(Real, 0, None, closed="neither")],
        "reliable_share": [Interval(Real, 0, 1, closed="right")],
        "alignment_weight": [Interval(Real, 0, None, closed="left")],
        "class_share": [Interval(Real, 0, 1, closed="both")],
        "discriminability_weight": [Interval(Real, 0, None, closed="left")],
        "discriminability_temperature": [Interval(Real, 0, None, closed="neither")],
        "metric_weight": [Interval(Real, 0, None, closed="left")],
        "anchor_temperature": [Interval(Real, 0, None, closed="neither")],
        "anchor_momentum": [Interval(Real, 0, 1, closed="both")],
        "contrast_weight": [Interval(Real, 0, None, closed="left")],
        "bank": [StrOptions({"generated", "real"})],
        "samples_per_cluster": [
            StrOptions({"auto"}),
            Interval(Integral, 2, None, closed="left"),
        ],
        "bank_filter": [StrOptions({"agreement", "none"})],
        "min_agreement": [Interval(Real, 0, 1, closed="both")],
        "denoiser": [str],
        "diffusion_steps": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "diffusion_batch_size": [Interval(Integral, 1, None, closed="left")],
        "diffusion_lr": [
            StrOptions({"auto"}),
            Interval(Real, 0, None, closed="neither"),
        ],
        "class_dropout": [Interval(Real, 0, 1, closed="both")],
        "guidance_scale": [Interval(Real, 0, None, closed="left")],
        "sampling_steps": [Interval(Integral, 1, 1000, closed="both")],
        "sampler": [StrOptions(set(SAMPLERS))],
        "max_change": [Interval(Real, 0, 1, closed="both")],
        "tol": [Interval(Real, 0, 1, closed="both")],
        "assign": [StrOptions({"head", "kmeans"})],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "lr_warmup": [Interval(Real, 0, 1, closed="both")],
        "calibration_lr": [Interval(Real, 0, None, closed="neither")],
        "feature_dim": [Interval(Integral, 2, None, closed="left")],
        "hidden_dim": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_clusters=8,
        *,
        image_shape=None,
        backbone="auto",
        augment="auto",
        max_epochs="auto",
        batch_size=256,
        lr=2e-3,
        warmup=0.7,
        n_rounds=2,
        temperature=0.5,
        head_temperature=0.1,
        reliable_share=0.7,
        alignment_weight=1.0,
        class_share=0.5,
        discriminability_weight=0.5,
        discriminability_temperature=0.2,
        metric_weight=1.0,
        anchor_temperature=0.1,
        anchor_momentum=0.9,
        contrast_weight=0.5,
        bank="generated",
        samples_per_cluster="auto",
        bank_filter="agreement",
        min_agreement=0.2,
        denoiser="auto",
        diffusion_steps="auto",
        diffusion_batch_size=64,
        diffusion_lr="auto",
        class_dropout=0.1,
        guidance_scale=1.5,
        sampling_steps=15,
        sampler="dpm-solver++",
        max_change=0.4,
        tol=5e-3,
        assign="head",
        n_init=10,
        lr_warmup=0.05,
        calibration_lr=1e-3,
        feature_dim=64,
        hidden_dim=512,
        device="auto",
        precision="auto",
        net_params=None,
        callbacks=None,
        verbose=0,
        random_state=None,
    ):
        self.n_clusters = n_clusters
        self.image_shape = image_shape
        self.backbone = backbone
        self.augment = augment
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.warmup = warmup
        self.n_rounds = n_rounds
        self.temperature = temperature
        self.head_temperature = head_temperature
        self.reliable_share = reliable_share
        self.alignment_weight = alignment_weight
        self.class_share = class_share
        self.discriminability_weight = discriminability_weight
        self.discriminability_temperature = discriminability_temperature
        self.metric_weight = metric_weight
        self.anchor_temperature = anchor_temperature
        self.anchor_momentum = anchor_momentum
        self.contrast_weight = contrast_weight
        self.bank = bank
        self.samples_per_cluster = samples_per_cluster
        self.bank_filter = bank_filter
        self.min_agreement = min_agreement
        self.denoiser = denoiser
        self.diffusion_steps = diffusion_steps
        self.diffusion_batch_size = diffusion_batch_size
        self.diffusion_lr = diffusion_lr
        self.class_dropout = class_dropout
        self.guidance_scale = guidance_scale
        self.sampling_steps = sampling_steps
        self.sampler = sampler
        self.max_change = max_change
        self.tol = tol
        self.assign = assign
        self.n_init = n_init
        self.lr_warmup = lr_warmup
        self.calibration_lr = calibration_lr
        self.feature_dim = feature_dim
        self.hidden_dim = hidden_dim
        self.device = device
        self.precision = precision
        self.net_params = net_params
        self.callbacks = callbacks
        self.verbose = verbose
        self.random_state = random_state

    _auto_budget = (55, 1000, 5000)

    def _epochs(self, plan):
        """Return the epochs of stage I, and those of each round."""
        first = round(self.warmup * plan.max_epochs)
        left = plan.max_epochs - first
        rounds = min(self.n_rounds, left)
        parts = np.array_split(np.arange(left), rounds) if rounds else []
        return first, [len(part) for part in parts]

    def _module(self, plan):
        device = resolve_device(self.device)
        denoiser = resolve_denoiser(self.denoiser, plan.image_shape, device)
        small = denoiser in ("mlp", "nano", "micro", "tiny")
        first, rounds = self._epochs(plan)
        n_drawn, steps, rate = (
            self.samples_per_cluster,
            self.diffusion_steps,
            self.diffusion_lr,
        )
        if n_drawn == "auto":
            most = 100 if device.type == "cpu" else 500
            n_drawn = max(2, min(most, math.ceil(plan.n_samples / self.n_clusters)))
        if steps == "auto":
            steps = 500 if device.type == "cpu" else 6000
        if rate == "auto":
            rate = 2e-3 if small else 2e-4
        flips = (getattr(m, "flip", 0) for m in _modules(plan.augmentation))
        options = (
            "temperature",
            "head_temperature",
            "reliable_share",
            "alignment_weight",
            "class_share",
            "discriminability_weight",
            "discriminability_temperature",
            "metric_weight",
            "anchor_temperature",
            "anchor_momentum",
            "contrast_weight",
            "bank",
            "bank_filter",
            "min_agreement",
            "diffusion_batch_size",
            "class_dropout",
            "guidance_scale",
            "sampling_steps",
            "sampler",
            "max_change",
            "tol",
            "assign",
            "n_init",
        )
        return GCCModule, {
            "backbone": plan.backbone,
            "image_shape": plan.image_shape,
            "n_samples": plan.n_samples,
            "n_clusters": self.n_clusters,
            "feature_dim": self.feature_dim,
            "hidden_dim": self.hidden_dim,
            "warmup_epochs": first,
            "round_epochs": rounds,
            "batch_size": min(self.batch_size, plan.n_samples),
            "samples_per_cluster": n_drawn,
            "denoiser": denoiser,
            "diffusion_steps": steps,
            "diffusion_lr": rate,
            "flip": any(flips),
            "verbose": bool(self.verbose),
            **{name: getattr(self, name) for name in options},
        }

    def _schedule(self, plan):
        first, rounds = self._epochs(plan)
        ends = plan.steps_per_epoch * np.cumsum([first, *rounds])
        return StagedCosine(ends, self.lr_warmup * ends[0], self.calibration_lr / self.lr)

    def _optimizer_params(self, plan):
        prototypes = {"lr": PROTOTYPE_LR_SCALE * self.lr, "weight_decay": 0.0}
        return {
            "optimizer": torch.optim.AdamW,
            "optimizer__weight_decay": 1e-4,
            "optimizer__param_groups": [("prototypes", prototypes)],
        }

    def _finish(self, net, images):
        super()._finish(net, images)
        module = net.module_
        self.pretrain_labels_ = module.first_labels.cpu().numpy()
        self.reliable_mask_ = module.reliable.cpu().numpy()
        self.anchors_ = module.anchors.cpu().numpy()[self._kept]
        shape = (-1, self.n_clusters)
        self.bank_agreement_ = np.array(module.agreement).reshape(shape)
        self.n_rounds_ = len(module.agreement)
        self.stages_ = module.stages

    def sample(
        self, n_samples=1, cluster=None, guidance_scale=None, random_state=None
    ):
        """Draw."""
        check_is_fitted(self)
        module, device = self.net_.module_.eval(), self.net_.device
        k = len(self._kept)
        labels = np.sort(np.arange(n_samples) % k) if cluster is None else np.full(n_samples, cluster)
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        classes = torch.as_tensor(self._kept[labels])
        with seeded(make_seed(random_state), device):
            parts = [
                module.generator.sample(
                    part.to(device), scale, self.sampling_steps, self.sampler
                )
                for part in classes.split(SAMPLING_BATCH)
            ]
        return as_input(self, module.scaling.raw(torch.cat(parts))), labels


def _modules(augmentation):
    return augmentation.modules() if isinstance(augmentation, nn.Module) else []
