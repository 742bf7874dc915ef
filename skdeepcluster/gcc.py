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

from ._bank import Bank
from ._base import DeepClusterer
from ._cluster_statistics import squared_distances
from ._device import make_seed, resolve_device, seeded
from ._kmeans import spherical_kmeans
from ._layouts import as_input
from ._net import INFERENCE_BATCH, ClusterModule, WarmupCosine, feature_spread
from .backbones import make_backbone
from .denoisers import resolve_denoiser
from .diffusion import (
    SAMPLERS,
    TIMESTEPS,
    ConditionalDiffusion,
    check_steps,
    train_diffusion,
)
from .heads import projection_head
from .losses import nt_xent

KERNELS = (0.25, 0.5, 1.0, 2.0, 4.0)  # widths, in mean squared distances
LEAST_RELIABLE = 8  # images of a cluster, if it has so many
LEAST_DISTANCE = 0.1  # between two anchors
PROTOTYPE_LR_SCALE = 10.0
LATER_STEPS, LATER_LR = 1 / 3, 1 / 4  # of the diffusion model, after round 1


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
    diffusion_lr : float
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
        diffusion_lr,
        flip,
        verbose,
        **options,
    ):
        super().__init__(scaling, augmentation)
        self.n_clusters, self.options = n_clusters, options
        self.ends = np.cumsum([warmup_epochs, *round_epochs]).tolist()
        self.diffusion_steps, self.diffusion_lr = diffusion_steps, diffusion_lr
        self.flip = flip
        self.verbose = verbose
        network, width = make_backbone(backbone, image_shape)
        projector = projection_head(width, hidden_dim, feature_dim)
        self.online = nn.Sequential(OrderedDict(backbone=network, projector=projector))
        prototypes = F.normalize(torch.randn(n_clusters, feature_dim), dim=1)
        self.prototypes = nn.Parameter(prototypes)
        self.generator = None
        if options["bank"] == "generated" and round_epochs:
            with torch.random.fork_rng():  # stage I is the same with and without it
                diffusion = ConditionalDiffusion(image_shape, n_clusters, denoiser)
            self.generator = diffusion.requires_grad_(False)
        self.bank = Bank(image_shape, n_clusters, samples_per_cluster, batch_size)
        self.register_buffer("labels", torch.zeros(n_samples, dtype=torch.int64))
        self.register_buffer("first_labels", torch.zeros_like(self.labels))
        self.register_buffer("reliable", torch.ones(n_samples, dtype=torch.bool))
        self.register_buffer("confidence", torch.ones(n_samples))
        self.register_buffer("taught", torch.ones(n_clusters, dtype=torch.bool))
        self.register_buffer("class_weights", torch.ones(n_clusters))
        self.register_buffer("anchors", prototypes.clone())
        self.epoch, self.round, self.clustered, self.too_near = 0, 0, False, 0.0
        self.stages, self.agreement, self.before, self.seen = [], [], None, None
        self.began = time.perf_counter()

    def get_extra_state(self):
        """State beside parameters and buffers, for ``state_dict``."""
        names = ("epoch", "round", "clustered", "converged", "too_near")
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
        labels = self.labels[index]
        reliable = self.reliable[index] & self.taught[labels]
        if self.bank.in_use:
            drawn, drawn_labels = self.bank.draw()
            with frozen_running_statistics(self.online):
                zg = self.encode(self.bank_view(drawn))
            self.seen = zg.detach(), drawn_labels
            align = alignment_loss(
                z1,
                zg,
                labels,
                drawn_labels,
                class_weights=self.class_weights,
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
        parts["real_metric"] = o["anchor_weight"] * attract
        return parts

    def sizes(self):
        """Images of each cluster, by the pseudo-labels: (n_clusters,)."""
        return F.one_hot(self.labels, self.n_clusters).sum(0)

    def bank_view(self, unit):
        """Bring images of the bank to what the networks see, augmented or not."""
        if self.options["augment_bank"]:
            unit = self.augmentation(unit).float()
        x = self.scaling.standardize(unit)
        return x.contiguous(memory_format=torch.channels_last)

    def after_step(self):
        """Move the anchors to the generated features of the batch."""
        if self.seen is not None:
            momentum = self.options["anchor_momentum"]
            self.anchors = move_anchors(self.anchors, *self.seen, momentum)
            self.seen = None

    # -- stages and rounds -------------------------------------------------------------

    @torch.no_grad()
    def refresh(self, embed):
        """Look after the round under way; end it and start the next when it is over."""
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

    @torch.no_grad()
    def end_pretraining(self, z):
        """End stage I: the head becomes a spherical k-means of the features."""
        centers, _ = spherical_kmeans(z, self.n_clusters, n_init=self.options["n_init"])
        self.prototypes.copy_(centers)
        self.labels = self.head(z).argmax(1)
        self.first_labels, self.clustered = self.labels.clone(), True
        self.anchors = self.centers
        self.log("pretraining", epochs=self.epoch)

    def start_round(self, embed):
        """Fix pseudo-labels and reliable images, and make a bank by them."""
        o, k = self.options, self.n_clusters
        self.confidence, self.labels = embed(self.logits).softmax(1).max(1)
        self.reliable = reliable_samples(
            self.confidence, self.labels, k, o["reliable_share"]
        )
        self.before = {
            "online": copy.deepcopy(self.online.state_dict()),
            "prototypes": self.prototypes.detach().clone(),
        }
        if self.generator is not None:
            self.train_generator(embed)
            self.bank.images = self.generate()
        else:
            rows = self.bank.rows_of(self.labels, self.reliable)
            raw, _ = embed.images[rows.cpu()]
            self.bank.images = self.scaling.unit(raw.to(rows.device))
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
                f"{wrong}. Labels are those from before it. Lower calibration_lr, or "
                "train longer: the diffusion model (diffusion_steps) or all "
                "(max_epochs).",
                ConvergenceWarning,
                stacklevel=2,
            )
            self.online.load_state_dict(self.before["online"])
            self.prototypes.copy_(self.before["prototypes"])
            report["cluster_sizes"] = self.sizes().tolist()
            self.converged = True
        elif over:
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
        if self.least_distance(in_use) < self.too_near:
            return "the anchors of two clusters met"
        most = self.options["max_change"]
        if over and changed > most:
            return f"it changed {changed:.0%} of the labels (max_change={most:g})"
        return None

    def least_distance(self, in_use):
        """Least distance between two anchors of clusters in use."""
        anchors = self.anchors[in_use]
        return F.pdist(anchors).min().item() if len(anchors) > 1 else math.inf

    @torch.no_grad()
    def finish(self, embed):
        """Settle the prototypes; those of a round that was undone stay."""
        if not self.clustered:
            self.end_pretraining(embed())
        self.prototypes.requires_grad_(False)
        undone = self.stages[-1].get("undone", False)
        if self.options["assign"] == "kmeans" and not undone:
            # from the prototypes, so that each centre stays with its cluster
            centers, _ = spherical_kmeans(
                embed(), self.n_clusters, init=self.prototypes, n_init=0
            )
            self.prototypes.copy_(centers)
        self.before = None
        self.bank.clear()
        if self.generator is not None:
            self.generator.bfloat16 = False

    # -- the bank ----------------------------------------------------------------------

    def train_generator(self, embed):
        """Train the diffusion model on the reliable labels; go on in later rounds."""
        o, steps, lr = self.options, self.diffusion_steps, self.diffusion_lr
        if self.round > 1:
            steps, lr = math.ceil(LATER_STEPS * steps), LATER_LR * lr
        null = torch.full_like(self.labels, self.n_clusters)
        self.began = time.perf_counter()
        loss = train_diffusion(
            self.generator,
            embed.images,
            self.scaling,
            torch.where(self.reliable, self.labels, null),
            steps=steps,
            batch_size=o["diffusion_batch_size"],
            lr=lr,
            dropout=o["class_dropout"],
            flip=self.flip,
            bfloat16=embed.bfloat16,
            device=self.labels.device,
            bar=self.title("diffusion model"),
        )
        self.generator.bfloat16 = embed.bfloat16
        self.log("diffusion", loss=loss)

    def generate(self):
        """Draw the images of the bank."""
        o = self.options
        self.began = time.perf_counter()
        images = self.generator.sample_all(
            self.bank.labels,
            o["guidance_scale"],
            o["sampling_steps"],
            o["sampler"],
            self.title("generated images"),
        )
        self.log("sampling")
        return images

    def judge_bank(self):
        """Keep what the head recognises, and start the anchors from it."""
        o, in_use = self.options, self.sizes() > 0
        parts = self.bank.images.split(INFERENCE_BATCH)
        z = torch.cat([self.encode(self.scaling.standardize(part)) for part in parts])
        agreement, kept = self.bank.judge(
            self.head(z).argmax(1),
            in_use,
            o["min_agreement"],
            filtered=o["bank_filter"] == "agreement",
        )
        self.agreement.append(agreement.where(in_use, math.nan).tolist())
        self.taught = in_use & (agreement >= o["min_agreement"])
        # of a cluster without generated images nothing is left to align with
        self.class_weights = self.taught / self.sizes().clamp_min(1)
        left_out = in_use & ~self.taught
        if left_out.any():
            warnings.warn(
                f"Round {self.round}: of the images that were generated of the "
                f"clusters {left_out.nonzero().flatten().tolist()}, less than "
                f"min_agreement={o['min_agreement']:g} are recognised as such, and the "
                "round leaves them out. Train the diffusion model longer "
                "(diffusion_steps), or lower n_clusters.",
                ConvergenceWarning,
                stacklevel=2,
            )
        labels = self.bank.labels[kept]
        self.anchors = move_anchors(self.centers, z[kept], labels, momentum=0.0)
        self.too_near = min(LEAST_DISTANCE, 0.5 * self.least_distance(in_use))

    # -- what is shown -----------------------------------------------------------------

    def title(self, what):
        """Title of a progress bar, or None."""
        return f"GCC, {what}, round {self.round}" if self.verbose else None

    def log(self, stage, **facts):
        """Add a row to the history of stages; show it where that is wanted."""
        seconds = time.perf_counter() - self.began
        self.stages.append(
            {"stage": stage, "round": self.round, "seconds": seconds, **facts}
        )
        if self.verbose:
            from tqdm.auto import tqdm

            text = f"GCC, round {self.round}: {stage} took {seconds:.1f} s"
            tqdm.write(text, file=sys.stderr)


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
    """Generative calibration clustering: a reconstruction.

    Stage I learns features from two augmented views of each image by contrast, and
    turns a spherical k-means of them into a head of prototypes. Stage II goes in
    rounds. A diffusion model is trained on the images, conditioned on the clusters of
    the reliable ones, and draws a bank of images with as many of each cluster. Real and
    generated images are two domains of one problem then: their features are aligned in
    an RKHS, the generated ones are made compact and separate and teach the head, and
    reliable real ones are drawn to the anchors, the class centres of the generated
    ones. The next round goes on with the diffusion model on the better labels.

    This is a **reconstruction**: of the paper the abstract and summaries by others
    could be read, no equation, setting or result; no code was found. Two stages, two
    branches, three losses and the iteration are documented; each formula is a choice
    of ours, the discrepancy after published code of the same first author. The user
    guide says which is which. Do not compare its results with the paper's as a
    reproduction. It is not *Graph Contrastive Clustering* (2021), called GCC as well.

    Parameters
    ----------
    n_clusters : int, default=8
        Number of clusters.
    image_shape : tuple (C, H, W), default=None
        Says that the rows of a 2-D X are flattened images, what file images are
        resized to, or where the channels of an ambiguous 4-D X are.
    backbone : str or Module, default="auto"
        ``"conv"``, ``"resnet18"`` (small-image stem), ``"mlp"``, the name of a
        torchvision classification model, or a module that maps (b, C, H, W) to
        (b, width); the module is copied. ``"auto"``: ``"mlp"`` for vectors, ``"conv"``
        for images up to 32 pixels on a CPU, else ``"resnet18"``.
    augment : str or callable, default="auto"
        How views are made: ``"simclr"``, ``"digits"``, ``"weak"``, ``"vector"``,
        ``"none"``, or a callable that maps (b, C, H, W) in [0, 1] to the same shape.
        ``"auto"``: ``"vector"`` for vectors, ``"digits"`` for one channel, else
        ``"simclr"``, which mirrors and recolours: what you make invariant you stop
        clustering by.
    max_epochs : int or "auto", default="auto"
        Passes over X in both stages. ``"auto"``: 48, but as many as make 900 steps at
        least and 5000 at most, so that small data are not under-trained.
    batch_size : int, default=256
        Real images a step, at most, and generated ones; fewer samples make smaller
        batches.
    lr : float, default=2e-3
        Highest learning rate of stage I, after its warm-up and before the cosine decay;
        that of the prototypes is ten times as high in both stages.
    warmup : float, default=0.85
        Share of the epochs that are stage I; if it is less than 1, one epoch at least
        is left. 1 leaves it at the k-means.
    n_rounds : int, default=1
        Rounds of stage II, which share the other epochs.
    temperature : float, default=0.5
        Temperature of the contrast.
    head_temperature : float, default=0.1
        Temperature of the head's cosines.
    reliable_share : float, default=0.9
        Share of each cluster, the most confident of it, that is reliable; at least 8
        images.
    alignment_weight : float, default=1.0
        Weight of the discrepancy of real and generated features.
    class_share : float, default=0.5
        Part of it that compares class by class; the rest compares all at once, with
        each class of real images of one weight.
    discriminability_weight : float, default=0.5
        Weight of what makes generated features compact and separate.
    discriminability_temperature : float, default=0.2
        Its temperature.
    metric_weight : float, default=1.0
        Weight of the metric learning on generated images, which teach the head.
    anchor_weight : float, default=0.1
        Weight of the metric learning on reliable real images, which are drawn to the
        anchors.
    anchor_temperature : float, default=0.1
        Its temperature.
    anchor_momentum : float, default=0.9
        How much of an anchor stays in a step.
    contrast_weight : float, default=0.5
        Weight of the contrast in stage II, which keeps features from collapsing to the
        anchors.
    bank : {"generated", "real"}, default="generated"
        What the bank holds. ``"real"``: reliable images, as many of each cluster, and
        no diffusion model: the control, and a far faster self-training.
    samples_per_cluster : int or "auto", default="auto"
        Images of each cluster in the bank. ``"auto"``: 100 on a CPU and 500 elsewhere,
        at most the mean size of a cluster.
    augment_bank : bool, default=False
        Whether the images of the bank are augmented, too. Augmented ones move the
        borders of the clusters to where they are for augmented images.
    bank_filter : {"agreement", "none"}, default="agreement"
        Whether generated images that the head takes for another cluster are left out; a
        cluster of which too few would stay keeps all.
    min_agreement : float, default=0.2
        A cluster is left out of the bank for a round, with a warning, if the head
        recognises less than this share of its images.
    denoiser : str, default="auto"
        Network of the diffusion model: a U-Net ``"nano"``, ``"micro"``, ``"tiny"``,
        ``"small"``, ``"base32"``, ``"mid32"`` or ``"ddpm32"``, or ``"mlp"``.
        ``"auto"``: ``"mlp"`` for vectors, ``"nano"`` on a CPU, elsewhere ``"small"``
        for one channel and ``"mid32"`` for more. Large images are cut into patches.
        It learns images as they are, half of them mirrored if the views are.
    diffusion_steps : int or "auto", default="auto"
        Steps of its training in the first round; a third of it in each later one.
        ``"auto"``: 500 on a CPU, 6000 elsewhere.
    diffusion_batch_size : int, default=64
        Images of such a step.
    diffusion_lr : float or "auto", default="auto"
        Highest learning rate of it; a quarter in later rounds. ``"auto"``: 2e-3 for
        ``"mlp"``, ``"nano"``, ``"micro"`` and ``"tiny"``, else 2e-4.
    class_dropout : float, default=0.1
        Share of the images whose cluster it is not told.
    guidance_scale : float, default=1.5
        Guidance of the drawing: 1 is none; above 2 images of a cluster become too much
        alike.
    sampling_steps : int, default=15
        Steps in which images are drawn, in the bank and by :meth:`sample`.
    sampler : {"dpm-solver++", "ddim", "ddpm"}, default="dpm-solver++"
        How. ``"ddim"`` takes a number of steps that divides 1000; ``"ddpm"`` is made
        for all 1000.
    max_change : float, default=0.4
        A round that changes more of the labels is undone, with a warning, and training
        ends. So it does if a cluster is emptied or two anchors meet.
    tol : float, default=5e-3
        Training ends after a round that changed fewer labels than this share.
    assign : {"head", "kmeans"}, default="kmeans"
        What gives ``labels_`` and ``predict``: the head, or a spherical k-means of the
        final features that starts from it.
    n_init : int, default=10
        Random starts of the k-means after stage I.
    lr_warmup : float, default=0.05
        Share of stage I in which the learning rate rises.
    calibration_lr : float, default=3e-4
        Highest learning rate of stage II; each round has a cosine decay of its own.
    feature_dim : int, default=64
        Width of the features.
    hidden_dim : int, default=512
        Width of the hidden layer before the features.
    device : str or torch.device, default="auto"
        ``"auto"`` is CUDA where there is one, else the CPU.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Of the networks in training; losses and predictions are float32. ``"auto"``
        takes bfloat16 on CUDA, and for images on CPUs with bfloat16 instructions.
    net_params : dict, default=None
        Passed to skorch, such as ``{"optimizer__weight_decay": 0.1}``; shown by
        ``get_params`` as ``net__optimizer__weight_decay``.
    callbacks : list, default=None
        Callbacks of skorch.
    verbose : int, default=0
        1 shows a progress bar with the loss parts and the time left.
    random_state : int, RandomState or None, default=None
        Seeds everything. On one CPU the same seed gives the same labels, bit for bit;
        the global generators are not touched.

    Attributes
    ----------
    labels_ : ndarray of shape (n,), int64
        Cluster of each sample, consecutive from 0.
    pretrain_labels_ : ndarray of shape (n,), int64
        Clusters after stage I, in the numbering of ``predict_proba`` before empty
        clusters are left out: compare to see what stage II changed.
    cluster_centers_ : ndarray of shape (n_clusters, feature_dim), float32
        Unit prototypes; those of empty clusters are left out.
    cluster_sizes_ : ndarray of shape (n_clusters,), int64
        Samples of each cluster.
    anchors_ : ndarray of shape (n_clusters, feature_dim), float32
        Class centres of the images of the bank, of unit length; of clusters that the
        bank left out, and without a round, the prototypes.
    reliable_mask_ : ndarray of shape (n,), bool
        The images that were reliable in the last round: whose cluster the diffusion
        model was told. Without a round all are.
    bank_agreement_ : ndarray of shape (n_rounds, K), float64
        For each round and each of the K clusters asked for, the share of the bank's
        images that the head recognised; nan for a cluster without images. Of a round
        that was interrupted before there was a bank there is no row.
    n_rounds_ : int
        Rounds begun, one that was undone as well: anchors, reliable images and the
        diffusion model stay those of it.
    history_ : list of dict
        One row an epoch: ``epoch``, ``round`` (0 in stage I), ``loss`` and its weighted
        parts ``loss_contrast``, ``loss_alignment``, ``loss_discriminability``,
        ``loss_generated_metric`` and ``loss_real_metric``, ``lr``, ``seconds`` (with
        what follows the epoch, such as the diffusion model), ``images_per_second``,
        ``feature_spread`` (near 0: the features collapsed; near 1: spread evenly),
        ``changed`` (share of the labels, since the round began) and ``cluster_sizes``.
    stages_ : list of dict
        One row a stage and round: ``stage`` (``"pretraining"``, ``"diffusion"``,
        ``"sampling"`` or ``"calibration"``), ``round``, ``seconds``, and what the stage
        came to: ``loss`` of the diffusion model; ``changed`` share of the labels, and
        whether the round was ``undone``.
    n_iter_ : int
        Epochs run.
    net_ : ClusterNet
        The trained skorch net; ``net_.module_`` holds the networks.
    device_ : str
        Where it was trained.
    image_shape_ : tuple (C, H, W)
        (1, 1, d) for vectors.
    n_features_in_ : int
        C * H * W.
    feature_names_in_ : ndarray of shape (d,)
        Column names, if X was a DataFrame with string names.

    See Also
    --------
    DigPro : Far faster, and the better choice for labels alone.
    MFCVAE : Draws images as well, of several clusterings.

    References
    ----------
    Haifeng Xia, Hai Huang and Zhengming Ding, *GCC: Generative Calibration Clustering*,
    arXiv 2404.09115, 2024.

    Examples
    --------
    >>> from skdeepcluster import GCC
    >>> from skdeepcluster.datasets import load_digits_images
    >>> X, _ = load_digits_images()
    >>> model = GCC(10, max_epochs=2, diffusion_steps=10, samples_per_cluster=5,
    ...             sampling_steps=2, min_agreement=0, random_state=0).fit(X)
    >>> model.labels_.shape
    (1797,)
    >>> images, clusters = model.sample(4, cluster=0, random_state=0)
    >>> images.shape, images.dtype
    ((4, 8, 8), dtype('uint8'))
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
        "anchor_weight": [Interval(Real, 0, None, closed="left")],
        "anchor_temperature": [Interval(Real, 0, None, closed="neither")],
        "anchor_momentum": [Interval(Real, 0, 1, closed="both")],
        "contrast_weight": [Interval(Real, 0, None, closed="left")],
        "bank": [StrOptions({"generated", "real"})],
        "samples_per_cluster": [
            StrOptions({"auto"}),
            Interval(Integral, 2, None, closed="left"),
        ],
        "augment_bank": ["boolean"],
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
        warmup=0.85,
        n_rounds=1,
        temperature=0.5,
        head_temperature=0.1,
        reliable_share=0.9,
        alignment_weight=1.0,
        class_share=0.5,
        discriminability_weight=0.5,
        discriminability_temperature=0.2,
        metric_weight=1.0,
        anchor_weight=0.1,
        anchor_temperature=0.1,
        anchor_momentum=0.9,
        contrast_weight=0.5,
        bank="generated",
        samples_per_cluster="auto",
        augment_bank=False,
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
        assign="kmeans",
        n_init=10,
        lr_warmup=0.05,
        calibration_lr=3e-4,
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
        self.anchor_weight = anchor_weight
        self.anchor_temperature = anchor_temperature
        self.anchor_momentum = anchor_momentum
        self.contrast_weight = contrast_weight
        self.bank = bank
        self.samples_per_cluster = samples_per_cluster
        self.augment_bank = augment_bank
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

    _auto_budget = (48, 900, 5000)
    # on a CPU, and elsewhere
    _auto_samples = (100, 500)
    _auto_diffusion_steps = (500, 6000)

    def _epochs(self, plan):
        """Return the epochs of stage I, and those of each round."""
        first = round(self.warmup * plan.max_epochs)
        if self.warmup < 1:  # an epoch is left for a round, if there are two
            first = min(first, max(1, plan.max_epochs - 1))
        left = plan.max_epochs - first
        rounds = min(self.n_rounds, left)
        parts = np.array_split(np.arange(left), rounds) if rounds else []
        return first, [len(part) for part in parts]

    def _module(self, plan):
        check_steps(self.sampler, self.sampling_steps)
        first, rounds = self._epochs(plan)
        options = (
            "temperature",
            "head_temperature",
            "reliable_share",
            "alignment_weight",
            "class_share",
            "discriminability_weight",
            "discriminability_temperature",
            "metric_weight",
            "anchor_weight",
            "anchor_temperature",
            "anchor_momentum",
            "contrast_weight",
            "bank",
            "augment_bank",
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
            **self._generator_params(plan),
            "verbose": bool(self.verbose),
            **{name: getattr(self, name) for name in options},
        }

    def _generator_params(self, plan):
        """Return what the device, the images and the views settle of the generator."""
        device = resolve_device(self.device)
        elsewhere = device.type != "cpu"
        denoiser = resolve_denoiser(self.denoiser, plan.image_shape, device)
        n_drawn, steps = self.samples_per_cluster, self.diffusion_steps
        lr, augmentation = self.diffusion_lr, plan.augmentation
        if n_drawn == "auto":
            a_cluster = math.ceil(plan.n_samples / self.n_clusters)
            n_drawn = max(2, min(self._auto_samples[elsewhere], a_cluster))
        if steps == "auto":
            steps = self._auto_diffusion_steps[elsewhere]
        if lr == "auto":
            lr = 2e-3 if denoiser in ("mlp", "nano", "micro", "tiny") else 2e-4
        own = augmentation.modules() if isinstance(augmentation, nn.Module) else ()
        return {
            "samples_per_cluster": n_drawn,
            "denoiser": denoiser,
            "diffusion_steps": steps,
            "diffusion_lr": lr,
            "flip": any(getattr(module, "flip", 0) for module in own),
        }

    def _schedule(self, plan):
        first, rounds = self._epochs(plan)
        ends = plan.steps_per_epoch * np.cumsum([first, *rounds])
        return StagedCosine(
            ends, self.lr_warmup * ends[0], self.calibration_lr / self.lr
        )

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
        self.n_rounds_ = module.round
        self.stages_ = module.stages

    def sample(
        self,
        n_samples=1,
        cluster=None,
        guidance_scale=None,
        sampling_steps=None,
        random_state=None,
    ):
        """Draw new images of clusters.

        A diffusion model may remember: images of a cluster of fewer than some hundred
        can come out as copies of training images. Compare with their nearest
        neighbours before you pass drawn images on, if the training images are private.

        Parameters
        ----------
        n_samples : int, default=1
        cluster : int, default=None
            Of ``labels_``; None: of each as many, in their order.
        guidance_scale : float, default=None
            None: that of the estimator. 0 ignores the cluster.
        sampling_steps : int, default=None
            None: that of the estimator.
        random_state : int, RandomState or None, default=None
            None draws other images in each call.

        Returns
        -------
        X : ndarray of shape (n_samples, ...)
            In layout and range of the training data; uint8 if those were, else float32.
        y : ndarray of shape (n_samples,), int64
            Their clusters.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If there is no such cluster, a number is out of range, or the estimator was
            fitted without a diffusion model.
        """
        check_is_fitted(self)
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        steps = self.sampling_steps if sampling_steps is None else sampling_steps
        if not _is_whole(n_samples) or n_samples < 1:
            raise ValueError(f"n_samples={n_samples!r} should be an integer >= 1.")
        if not isinstance(scale, Real) or not 0 <= scale < math.inf:
            raise ValueError(
                f"guidance_scale={scale!r} should be a finite number >= 0."
            )
        if not _is_whole(steps) or not 1 <= steps <= TIMESTEPS:
            raise ValueError(
                f"sampling_steps={steps!r} should be an integer from 1 to {TIMESTEPS}."
            )
        k = len(self._kept)
        if cluster is None:
            labels = np.sort(np.arange(n_samples) % k)
        elif _is_whole(cluster) and 0 <= cluster < k:
            labels = np.full(n_samples, cluster)
        else:
            raise ValueError(
                f"cluster={cluster!r} should be None or an integer from 0 to {k - 1}."
            )
        if not any(row["stage"] == "diffusion" for row in self.stages_):
            raise ValueError(
                "This GCC has no trained diffusion model to draw with. Fit it with "
                "bank='generated', and with max_epochs and warmup that leave epochs "
                f"for a round (n_iter_={self.n_iter_}, n_rounds_={self.n_rounds_})."
            )
        check_steps(self.sampler, steps)
        module, device = self.net_.module_.eval(), self.net_.device
        classes = torch.as_tensor(self._kept[labels])
        with seeded(make_seed(random_state), device):
            unit = module.generator.sample_all(
                classes.to(device), scale, int(steps), self.sampler
            )
        return as_input(self, module.scaling.raw(unit)), labels.astype(np.int64)


def _is_whole(value):
    return isinstance(value, Integral) and not isinstance(value, bool)
