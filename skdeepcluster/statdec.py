"""StatDEC: debiased representation learning joined to deep embedded clustering."""

from __future__ import annotations

import copy
import math
import warnings
from numbers import Integral, Real

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn
from torch.nn import functional as F

from ._base import DeepClusterer
from ._cluster_statistics import (
    TINY,
    ClusterStatistics,
    cluster_statistics,
    kmeans_centers,
    merge_statistics,
    outlier_score,
    overcluster_centers,
    simplified_silhouette,
    squared_distances,
)
from ._kmeans import spherical_kmeans
from ._net import ClusterModule, WarmupCosine, ema_update, feature_spread
from .backbones import make_feature_map
from .heads import GridStatistics

HIGHEST_PRIOR = 0.13  # at temperature 0.5: exp(-2) would clamp orthogonal negatives
STATISTICS_MOMENTUM = 0.95
VARIANCE_FLOOR = 0.05  # of the mean variance: a tiny cluster is no point
MIN_JOINT_EPOCHS = 5  # before the labels may end the training
MAX_RESEEDS = 3
SMALLEST_SHARE = 0.002  # of the samples: a cluster with less is seeded again
MAX_CANDIDATES = 512  # for its new centre: bounds the memory
N_NEIGHBORS = 10  # whose mean is that centre
EMBEDDING_WEIGHT = 0.5  # of the contrastive loss on the embedding while warming up
EMA_MOMENTUM = 0.99
FINAL_FACTOR = 3  # small clusters for each cluster, at the end
CENTER_LR_SCALE = 10.0
CENTER_STEPS = 150  # at the full rate: bounds how far the centres move
JOINT_RATE = 0.2  # of the learning rate: what the joint phase starts from


# -- representation --------------------------------------------------------------------


def debiased_contrastive(
    a: Tensor, b: Tensor, temperature: float, tau_plus: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Debiased contrastive loss of two views: NT-Xent, less the false negatives.

    A share ``tau_plus`` of the negatives of an anchor is taken to be of its own class,
    and what they add to the denominator, estimated by the positive, is subtracted. An
    estimate below what negatives can give is clamped; negatives have no gradient then.

    Parameters
    ----------
    a, b : tensors of shape (n, d)
        Embeddings of two views of the same n images; normalised here.
    temperature : float
        Divides the cosine similarities.
    tau_plus : float, or tensor of shape (n,) or (2 n,)
        Share of false negatives, in [0, 1). 0 gives NT-Xent.

    Returns
    -------
    loss : scalar tensor
        Mean over the 2 n rows.
    clamped : scalar tensor
        Share of the rows whose estimate was clamped, without gradient.

    References
    ----------
    Chuang et al., *Debiased Contrastive Learning*, 2020, equations 7 and 8 with one
    positive.
    """
    n = len(a)
    if not isinstance(tau_plus, Tensor):
        tau_plus = a.new_full((), tau_plus)  # a copy to the device would wait
    elif tau_plus.shape == (n,):
        tau_plus = tau_plus.repeat(2)
    z = F.normalize(torch.cat([a, b]), dim=1)
    logits = z @ z.T / temperature
    positive = torch.cat([logits.diagonal(n), logits.diagonal(-n)])
    rows = torch.arange(2 * n, device=z.device)
    same_image = rows.unsqueeze(1) % n == rows % n
    n_negatives = 2 * n - 2
    # all in ratios to the positive and in logarithms: low temperatures overflow
    total = logits.masked_fill(same_image, -math.inf).logsumexp(1) - positive
    left = 1 - tau_plus * n_negatives * (-total).clamp_max(80).exp()
    estimate = total + left.clamp_min(TINY).log() - torch.log1p(-tau_plus)
    estimate = estimate.masked_fill(left <= 0, -math.inf)
    least = math.log(n_negatives) - 1 / temperature - positive
    clamped = (estimate < least).float().mean()
    return F.softplus(torch.maximum(estimate, least)).mean(), clamped


# -- clustering ------------------------------------------------------------------------


def log_student_t(
    embedding: Tensor, centers: Tensor, scale: float | Tensor, alpha: float = 1.0
) -> Tensor:
    """Logarithm of the soft assignments: a Student t kernel about each centre.

    Parameters
    ----------
    embedding : tensor of shape (n, p)
    centers : tensor of shape (K, p)
    scale : float, or tensor of shape () or (K,)
        Squared distance that counts as one. A common factor of embedding and centres,
        squared in the scale, changes nothing.
    alpha : float
        Degrees of freedom.

    Returns
    -------
    log_q : tensor of shape (n, K)
        Rows are normalised: their exponentials sum to 1.

    References
    ----------
    Xie et al., *Unsupervised Deep Embedding for Clustering Analysis*, 2016, equation 1,
    where the scale is 1.
    """
    distance = squared_distances(embedding, centers) / (alpha * scale)
    return (-(alpha + 1) / 2 * distance.log1p()).log_softmax(1)


def sharpened_target(q: Tensor, cardinality: Tensor, power: float = 1.0) -> Tensor:
    """Target of the assignments: squared, and divided by what a cluster holds.

    Parameters
    ----------
    q : tensor of shape (n, K)
        Soft assignments; rows sum to 1.
    cardinality : tensor of shape (K,)
        Samples of each cluster over the whole data, in any unit.
    power : float
        Of the cardinality. 1 is DEC's target, which protects small clusters and pushes
        towards equal sizes; 0 does neither.

    Returns
    -------
    p : tensor of shape (n, K)
        Rows sum to 1; no gradient.

    References
    ----------
    Xie et al., 2016, equation 3.
    """
    weight = q.detach().square() / cardinality.detach().clamp_min(TINY) ** power
    return weight / weight.sum(1, keepdim=True)


def dec_loss(target: Tensor, log_q: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of the assignments from their target.

    Parameters
    ----------
    target : tensor of shape (n, K)
    log_q : tensor of shape (n, K)

    Returns
    -------
    loss : scalar tensor

    References
    ----------
    Xie et al., 2016, equation 2.
    """
    return (torch.xlogy(target, target) - target * log_q).sum(1).mean()


# -- networks --------------------------------------------------------------------------


class StatisticsNetworks(nn.Module):
    """Representation network and clustering network.

    Parameters
    ----------
    backbone : str or Module
    image_shape : tuple (C, H, W)
    feature_dim, hidden_dim : int
        Widths of the two embeddings and of the blocks.
    pooling, cardinality, grid, share_trunk, detach_representation
        As in :class:`StatDEC`.
    """

    def __init__(
        self,
        backbone,
        image_shape,
        feature_dim,
        hidden_dim,
        pooling,
        cardinality,
        grid,
        share_trunk,
        detach_representation,
    ):
        super().__init__()
        self.detach_representation = detach_representation
        self.backbone, (channels, *size) = make_feature_map(backbone, image_shape)
        grid = min([grid, *size])  # more cells than positions would repeat them
        self.cluster_trunk = None if share_trunk else copy.deepcopy(self.backbone)
        self.splits = False  # until then the clustering network has no trunk of its own
        self.pool = nn.Identity()
        if size and pooling == "statistics":
            self.pool = GridStatistics(grid, cardinality)
            channels = self.pool.columns(channels)
        elif size:
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(grid), nn.Flatten())
            channels *= grid**2
        self.representation, self.clustering = (
            nn.Sequential(nn.BatchNorm1d(channels), nn.Linear(channels, hidden_dim))
            for _ in range(2)
        )
        self.projection = nn.Linear(hidden_dim, feature_dim)
        self.embedding = nn.Linear(2 * hidden_dim, feature_dim)

    def split_trunks(self):
        """Give the clustering network its own copy of the trunk, if it has one."""
        if self.cluster_trunk is not None and not self.splits:
            self.cluster_trunk.load_state_dict(self.backbone.state_dict())
            self.splits = True

    def get_extra_state(self):
        """State beside parameters and buffers, for ``state_dict``."""
        return {"splits": self.splits}

    def set_extra_state(self, state):
        """Take what :meth:`get_extra_state` gave."""
        self.splits = state["splits"]

    def represent(self, x: Tensor) -> Tensor:
        """Images to the representation r, (b, hidden_dim)."""
        return self.representation(self.pool(self.backbone(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Images to projection u and embedding e side by side, (b, 2 feature_dim)."""
        pooled = self.pool(self.backbone(x))
        r = self.representation(pooled)
        if self.splits:
            own = self.pool(self.cluster_trunk(x))
        else:  # pooled once for both: it has no weights
            own = pooled.detach() if self.detach_representation else pooled
        c = self.clustering(own)
        shared = r.detach() if self.detach_representation else r
        u = self.projection(r.relu())
        e = self.embedding(torch.cat([shared, c], dim=1).relu())
        return torch.cat([u, e], dim=1)


class TwoCosines:
    """Factor of the learning rate: half a cosine for each phase.

    Parameters
    ----------
    rise : float
        Steps in which the rate of the first phase rises.
    first, second : int
        Steps of the phases.
    rate : float
        What the second one starts from.
    """

    def __init__(self, rise, first, second, rate):
        self.first, self.rate = first, rate
        self.phases = WarmupCosine(rise, first), WarmupCosine(0, second)

    def __call__(self, step: int) -> float:
        if step < self.first:
            return self.phases[0](step)
        return self.rate * self.phases[1](step - self.first)


class StatDECModule(ClusterModule):
    """Networks, cluster statistics and objective of StatDEC.

    Parameters
    ----------
    scaling : Scaling
    augmentation : callable or Module
    networks : dict
        Parameters of :class:`StatisticsNetworks`.
    n_samples, n_clusters : int
    warmup_epochs : int
        Epochs without clustering loss.
    ramp_steps : int
        Steps in which its weight rises.
    **options
        As in :class:`StatDEC`.
    """

    def __init__(
        self,
        scaling,
        augmentation,
        networks,
        n_samples,
        n_clusters,
        warmup_epochs,
        ramp_steps,
        **options,
    ):
        super().__init__(scaling, augmentation)
        self.n_clusters, self.options = n_clusters, options
        self.warmup_epochs, self.ramp_steps = warmup_epochs, ramp_steps
        self.online = StatisticsNetworks(**networks)
        self.teacher = copy.deepcopy(self.online).requires_grad_(False)
        p = networks["feature_dim"]
        self.centers = nn.Parameter(torch.zeros(n_clusters, p))
        self.register_buffer("scale", torch.ones(()))
        share = n_samples / n_clusters
        self.register_buffer("cardinality", torch.full((n_clusters,), share))
        self.register_buffer("mean", torch.zeros(n_clusters, p))
        self.register_buffer("variance", torch.ones(n_clusters))
        self.register_buffer("labels", torch.zeros(n_samples, dtype=torch.int64))
        self.register_buffer("clamped", torch.zeros(()))
        self.epoch = self.step = self.joint_step = self.epoch_step = self.reseeds = 0
        self.warned = False

    def get_extra_state(self):
        """State beside parameters and buffers, for ``state_dict``."""
        names = "epoch", "step", "joint_step", "epoch_step", "reseeds", "warned"
        return {name: getattr(self, name) for name in names}

    def set_extra_state(self, state):
        """Take what :meth:`get_extra_state` gave."""
        vars(self).update(state)

    @property
    def is_joint(self):
        """Whether the clustering loss is part of the objective."""
        return self.epoch > self.warmup_epochs

    # -- one batch ---------------------------------------------------------------------

    def losses(self, batch):
        """Parts ``representation`` and, after the warm-up, ``clustering``, weighted."""
        o = self.options
        u, e = zip(
            *(self.run(self.online, view).chunk(2, dim=1) for view in batch.views),
            strict=True,
        )
        loss, clamped = self.contrast(u)
        self.clamped += clamped
        if not self.is_joint:
            # centres can only be found in an embedding that means something
            embedding, _ = self.contrast(e)
            return {"representation": loss + EMBEDDING_WEIGHT * embedding}

        e = F.normalize(torch.cat(e), dim=1)
        log_q = self.log_q(e)
        q = log_q.detach().exp()
        mean_q = q.view(2, -1, self.n_clusters).mean(0)
        target = sharpened_target(mean_q, self.cardinality, o["cardinality_power"])
        clustering = dec_loss(target.repeat(2, 1), log_q)
        ramp = min(1.0, (self.joint_step + 1) / max(1, self.ramp_steps))
        self.move_statistics(cluster_statistics(q, e.detach()))
        return {
            "representation": loss,
            "clustering": o["cluster_weight"] * ramp * clustering,
        }

    def contrast(self, z):
        """Debiased loss of both views' projections, and the share of clamped rows."""
        tau_plus = self.options["tau_plus"]
        if tau_plus == "auto":
            highest = HIGHEST_PRIOR * math.exp(2 - 1 / self.options["temperature"])
            tau_plus = min(1 / self.n_clusters, highest)
        return debiased_contrastive(*z, self.options["temperature"], tau_plus)

    @torch.no_grad()
    def move_statistics(self, batch):
        """Merge the statistics of a batch, scaled up to the data, with the last ones.

        Parameters
        ----------
        batch : ClusterStatistics
        """
        scale = len(self.labels) / batch.cardinality.sum()
        new = batch.cardinality * scale * (1 - STATISTICS_MOMENTUM)
        running = ClusterStatistics(
            STATISTICS_MOMENTUM * self.cardinality, self.mean, self.variance
        )
        self.statistics = merge_statistics(running, batch._replace(cardinality=new))

    def after_step(self):
        """Move the averaged networks towards those that are trained."""
        # the average of a young run is short
        momentum = min(EMA_MOMENTUM, 1 - 2 / (self.step + 3))
        ema_update(self.teacher, self.online, momentum, buffers=True)
        self.step += 1
        self.epoch_step += 1
        self.joint_step += self.is_joint

    # -- all images --------------------------------------------------------------------

    @property
    def statistics(self):
        """The ClusterStatistics that the buffers hold."""
        return ClusterStatistics(self.cardinality, self.mean, self.variance)

    @statistics.setter
    def statistics(self, statistics):
        self.cardinality, self.mean, self.variance = statistics

    def encode(self, x):
        """Unit embeddings of the clustering network, (b, feature_dim)."""
        return F.normalize(self.run(self.teacher, x).chunk(2, dim=1)[1], dim=1)

    def represent(self, x):
        """Images to the representation, (b, hidden_dim)."""
        return self.run(self.teacher.represent, x)

    def log_q(self, embedding):
        """Embeddings to logarithms of their soft assignments."""
        return log_student_t(embedding, self.centers, self.scale)

    def logits(self, x):
        """Images to logarithms of their soft assignments."""
        return self.log_q(self.encode(x))

    def outlier_score(self, embedding, clusters=slice(None)):
        """Embeddings to outlier scores, (b,); a floor keeps a tiny cluster from 0."""
        floor = (VARIANCE_FLOOR * self.variance.mean()).clamp_min(TINY)
        variance = self.variance.clamp_min(floor)
        return outlier_score(embedding, self.centers[clusters], variance[clusters])

    @torch.no_grad()
    def refresh(self, embed):
        """Centres while warming up; assignments and statistics of the clusters."""
        features, last = embed(), self.labels
        if self.epoch < self.warmup_epochs:
            self.follow(features)
        elif self.epoch == self.warmup_epochs:
            self.initialise(features)
        self.assess(features)
        changed = (self.labels != last).float().mean().item()
        joint_epochs = self.epoch - self.warmup_epochs
        if joint_epochs > 0:
            self.reseed(features)
        self.converged = (
            joint_epochs >= MIN_JOINT_EPOCHS and changed < self.options["tol"]
        )
        clamped = (self.clamped / max(1, self.epoch_step)).item()
        self.warn_if_clamped(clamped)
        self.clamped.zero_()
        self.epoch, self.epoch_step = self.epoch + 1, 0
        sizes = torch.bincount(self.labels, minlength=self.n_clusters)
        return {
            "clamped": clamped,
            "changed": changed,
            "cluster_sizes": sizes.tolist(),
            "feature_spread": feature_spread(features),
        }

    @torch.no_grad()
    def finish(self, embed):
        """Centres anew, by competition of two clusterings; final statistics."""
        features = embed()
        self.centers.requires_grad_(False)  # an attribute of the estimator from now on
        if self.options["recluster"]:
            self.set_centers(features, self.final_centers(features))
        self.assess(features)

    def final_centers(self, features):
        """Centres of k-means or of over-clustering, by the simplified silhouette."""
        n_init, seed = self.options["n_init"], int(torch.randint(2**31 - 1, ()))
        centers, _ = kmeans_centers(features, self.n_clusters, n_init=n_init, seed=seed)
        if self.n_clusters == 1:
            return centers
        merged = overcluster_centers(
            features, self.n_clusters, factor=FINAL_FACTOR, n_init=n_init, seed=seed
        )
        return max(centers, merged, key=lambda c: simplified_silhouette(features, c))

    def follow(self, features):
        """Keep provisional centres near the features of the warm-up."""
        centers, _ = spherical_kmeans(
            features,
            self.n_clusters,
            init=self.centers if self.epoch else None,
            n_init=1,
            max_iter=20,
        )
        self.set_centers(features, centers)

    def initialise(self, features):
        """Centres that the joint phase starts from."""
        init, k = self.options["init"], self.n_clusters
        if init == "random":
            centers = features[torch.randperm(len(features))[:k].to(features.device)]
        else:
            options = {
                "n_init": self.options["n_init"],
                "seed": int(torch.randint(2**31 - 1, ())),
            }
            if init == "overcluster":
                centers = overcluster_centers(features, k, **options)
            else:
                centers, _ = kmeans_centers(features, k, **options)
        self.set_centers(features, centers)
        for network in (self.online, self.teacher):
            network.split_trunks()

    def set_centers(self, features, centers):
        """Take new centres, and the scale of distances that goes with them."""
        self.centers.copy_(centers)
        distance = squared_distances(features, centers).min(1).values
        self.scale = distance.mean().clamp_min(TINY)

    def assess(self, features):
        """Assign all images anew; exact statistics of the clusters."""
        log_q = self.log_q(features)
        self.labels = log_q.argmax(1)
        self.statistics = cluster_statistics(log_q.exp(), features)

    def reseed(self, features):
        """Move centres that lost their samples to dense places far from the others."""
        n = len(features)
        least = max(2, SMALLEST_SHARE * n)
        for cluster in (self.cardinality < least).nonzero()[:, 0].tolist():
            if self.reseeds == MAX_RESEEDS:
                return
            score = self.outlier_score(features)
            far = score.topk(max(1, min(MAX_CANDIDATES, n // 20))).indices
            distance = squared_distances(features[far], features)
            near = distance.topk(min(N_NEIGHBORS, n), largest=False)
            densest = near.values.mean(1).argmin()
            self.centers[cluster] = features[near.indices[densest]].mean(0)
            self.cardinality[cluster] = N_NEIGHBORS
            self.reseeds += 1

    def warn_if_clamped(self, clamped):
        """Say once that the debiased loss is no longer one."""
        if clamped <= 0.5 or self.warned:
            return
        self.warned = True
        warnings.warn(
            f"The debiased estimate was clamped for {clamped:.0%} of the images of an "
            "epoch: their negatives have no gradient. Lower tau_plus="
            f"{self.options['tau_plus']!r}, or raise temperature="
            f"{self.options['temperature']}.",
            ConvergenceWarning,
            stacklevel=2,
        )


class StatDEC(DeepClusterer):
    """Deep clustering of imbalanced data with statistics of images and of clusters.

    A representation network learns from two views of each image by a contrastive loss
    that ``tau_plus`` corrects for false negatives. A clustering network embeds the same
    images and sharpens soft assignments to centres. Both end in *statistics pooling*:
    mean, second moment and soft size of what the feature map holds, in place of an
    average.
    The same three statistics of each cluster, over all images, keep large clusters
    from dominating the target (cardinality) and tell outliers (variance).

    A reconstruction. The abstracts of the paper name two networks that are trained
    together, the statistics pooling of both, the explicit clustering loss and centres
    that are not random; its equations, settings and code could not be read. The
    formulas here are those of the nearest public sources: the debiased contrastive
    loss of Chuang et al. and the clustering loss of Xie et al. That loss pushes
    towards clusters of equal size. So by default the centres are found anew at the
    end (``recluster``), which is this package's addition.

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
        Passes over X. ``"auto"``: 25, but as many as make 600 steps at least and
        3000 at most, so that small data are not under-trained.
    batch_size : int, default=256
        Images a step, at most; fewer samples make smaller batches.
    lr : float, default=2e-3
        Highest learning rate, after its warm-up and before the cosine decay. The phase
        with clustering loss starts from a fifth of it and has a decay of its own; the
        rate of the centres is ten times as high, less in long trainings.
    temperature : float, default=0.5
        Temperature of the contrastive loss, 0.03 at least.
    tau_plus : float or "auto", default=0.0
        Share of the negatives that are taken for false ones. 0, plain NT-Xent, came
        out better on long-tailed digits; the usual value is 0.1.
        ``"auto"``: 1 / n_clusters, but at most 0.13 at temperature 0.5, above which
        the estimate is clamped; less at lower temperatures.
    cluster_weight : float, default=1.0
        Weight of the clustering loss.
    warmup : float, default=0.75
        Share of the epochs without clustering loss.
    ramp : float, default=0.2
        Share of the rest in which its weight rises.
    pooling : {"statistics", "avg"}, default="statistics"
        What both networks end in. A backbone other than ``"conv"`` and ``"resnet18"``
        gives vectors, which are sets of one: they are not pooled. Images of 16 pixels
        or less leave ``"conv"`` a cell of one position, where nothing varies.
    cardinality : {"active", "count"} or None, default="active"
        Size of the set in statistics pooling: the soft number of positions in which a
        channel is positive, the number of positions, or none.
    grid : int, default=2
        Rows and columns of cells that are pooled, as many as the map has at most.
    share_trunk : bool, default=True
        Whether both networks share the layers before the pooling. If not, the
        clustering network gets its own copy after the warm-up.
    detach_representation : bool, default=False
        Whether the clustering loss is kept from the representation network.
    init : {"kmeans", "overcluster", "random"}, default="kmeans"
        First centres: k-means, k-means with five times as many centres that are then
        merged without a look at their sizes, or random images.
    recluster : bool, default=True
        Whether the last centres are found anew in the final embedding: by k-means, and
        by k-means with three times as many centres that are then merged; those with
        the larger simplified silhouette are taken. The merged ones suit classes of
        very different sizes. If not, the centres are those of the clustering loss.
    n_init : int, default=20
        Starts of these k-means.
    cardinality_power : float, default=1.0
        Power of the cardinality that divides the target. 1 pushes towards equal sizes
        and keeps small clusters from vanishing; 0 does neither.
    tol : float, default=1e-3
        Training ends when fewer labels than this share changed in an epoch, after five
        epochs with clustering loss.
    representation : {"clustering", "contrastive"}, default="clustering"
        What ``transform`` gives: the embedding that is clustered, or the
        representation, for a classifier or for other data. Centres, labels and
        ``score`` are those of the embedding.
    lr_warmup : float, default=0.05
        Share of the steps in which the learning rate rises.
    feature_dim : int, default=64
        Width of the embedding and of the contrastive projection.
    hidden_dim : int, default=256
        Width of the representation, and of its like in the clustering network.
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
    cluster_centers_ : ndarray of shape (n_clusters, feature_dim), float32
        Centres in the embedding, whose rows have unit length; empty clusters are left
        out.
    cluster_sizes_ : ndarray of shape (n_clusters,), int64
        Samples of each cluster.
    cluster_cardinality_ : ndarray of shape (n_clusters,), float32
        Mean soft assignment to each cluster.
    cluster_variance_ : ndarray of shape (n_clusters,), float32
        Mean squared distance, a dimension, of a cluster to its mean.
    history_ : list of dict
        One row an epoch: ``epoch``, ``loss`` and its weighted parts
        ``loss_representation`` and ``loss_clustering``, ``lr``, ``seconds``,
        ``images_per_second``, ``clamped`` (share of the images whose debiased estimate
        was clamped), ``changed`` (share of the labels), ``cluster_sizes`` and
        ``feature_spread`` (near 0: the embedding collapsed; near 1: spread evenly).
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
    DigPro : For data whose classes are about equally large.

    References
    ----------
    Mina Rezaei, Emilio Dorigatti, David Ruegamer and Bernd Bischl, *Joint Debiased
    Representation Learning and Imbalanced Data Clustering*, arXiv 2109.05232, 2022.

    Ching-Yao Chuang et al., *Debiased Contrastive Learning*, 2020.

    Junyuan Xie, Ross Girshick and Ali Farhadi, *Unsupervised Deep Embedding for
    Clustering Analysis*, 2016.

    Examples
    --------
    >>> from skdeepcluster import StatDEC
    >>> from skdeepcluster.datasets import load_digits_images
    >>> X, _ = load_digits_images()
    >>> model = StatDEC(n_clusters=10, max_epochs=2, random_state=0).fit(X)
    >>> model.labels_.shape
    (1797,)
    >>> model.score_samples(X).shape
    (1797,)
    """

    _parameter_constraints: dict = {
        **DeepClusterer._parameter_constraints,
        "temperature": [Interval(Real, 0.03, None, closed="left")],
        "tau_plus": [
            StrOptions({"auto"}),
            Interval(Real, 0, 1, closed="left"),
        ],
        "cluster_weight": [Interval(Real, 0, None, closed="left")],
        "warmup": [Interval(Real, 0, 1, closed="both")],
        "ramp": [Interval(Real, 0, 1, closed="both")],
        "pooling": [StrOptions({"statistics", "avg"})],
        "cardinality": [StrOptions({"active", "count"}), None],
        "grid": [Interval(Integral, 1, None, closed="left")],
        "share_trunk": ["boolean"],
        "detach_representation": ["boolean"],
        "init": [StrOptions({"kmeans", "overcluster", "random"})],
        "recluster": ["boolean"],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "cardinality_power": [Interval(Real, 0, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "representation": [StrOptions({"clustering", "contrastive"})],
        "lr_warmup": [Interval(Real, 0, 1, closed="both")],
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
        temperature=0.5,
        tau_plus=0.0,
        cluster_weight=1.0,
        warmup=0.75,
        ramp=0.2,
        pooling="statistics",
        cardinality="active",
        grid=2,
        share_trunk=True,
        detach_representation=False,
        init="kmeans",
        recluster=True,
        n_init=20,
        cardinality_power=1.0,
        tol=1e-3,
        representation="clustering",
        lr_warmup=0.05,
        feature_dim=64,
        hidden_dim=256,
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
        self.temperature = temperature
        self.tau_plus = tau_plus
        self.cluster_weight = cluster_weight
        self.warmup = warmup
        self.ramp = ramp
        self.pooling = pooling
        self.cardinality = cardinality
        self.grid = grid
        self.share_trunk = share_trunk
        self.detach_representation = detach_representation
        self.init = init
        self.recluster = recluster
        self.n_init = n_init
        self.cardinality_power = cardinality_power
        self.tol = tol
        self.representation = representation
        self.lr_warmup = lr_warmup
        self.feature_dim = feature_dim
        self.hidden_dim = hidden_dim
        self.device = device
        self.precision = precision
        self.net_params = net_params
        self.callbacks = callbacks
        self.verbose = verbose
        self.random_state = random_state

    def _module(self, plan):
        networks = (
            "feature_dim",
            "hidden_dim",
            "pooling",
            "cardinality",
            "grid",
            "share_trunk",
            "detach_representation",
        )
        options = (
            "temperature",
            "tau_plus",
            "cluster_weight",
            "init",
            "recluster",
            "n_init",
            "cardinality_power",
            "tol",
        )
        warmup_epochs = self._warmup_epochs(plan)
        joint_steps = (plan.max_epochs - warmup_epochs) * plan.steps_per_epoch
        return StatDECModule, {
            "networks": {
                "backbone": plan.backbone,
                "image_shape": plan.image_shape,
                **{name: getattr(self, name) for name in networks},
            },
            "n_samples": plan.n_samples,
            "n_clusters": self.n_clusters,
            "warmup_epochs": warmup_epochs,
            "ramp_steps": round(self.ramp * joint_steps),
            **{name: getattr(self, name) for name in options},
        }

    def _warmup_epochs(self, plan):
        # short trainings warm up for an epoch, too
        return max(self.warmup > 0, int(self.warmup * plan.max_epochs))

    def _schedule(self, plan):
        warmup_steps = self._warmup_epochs(plan) * plan.steps_per_epoch
        joint_steps = plan.total_steps - warmup_steps
        rise = self.lr_warmup * plan.total_steps
        return TwoCosines(rise, warmup_steps, joint_steps, JOINT_RATE)

    def _optimizer_params(self, plan):
        joint_epochs = plan.max_epochs - self._warmup_epochs(plan)
        # Adam's steps have the length of the rate: in many steps the centres, which
        # the soft assignments draw together, would meet in one place
        share = min(1.0, CENTER_STEPS / max(1, joint_epochs * plan.steps_per_epoch))
        centers = {"lr": CENTER_LR_SCALE * share * self.lr, "weight_decay": 0.0}
        return {
            "optimizer": torch.optim.AdamW,
            "optimizer__weight_decay": 1e-4,
            "optimizer__param_groups": [("centers", centers)],
        }

    def _state(self, net):
        state = super()._state(net)
        state["_represents"] = self.representation  # out of reach of ``set_params``
        if self.representation == "contrastive":
            state["_n_features_out"] = self.hidden_dim
        return state

    def _finish(self, net, images):
        super()._finish(net, images)
        module = net.module_
        share = module.cardinality / module.cardinality.sum()
        self.cluster_cardinality_ = share.cpu().numpy()[self._kept]
        self.cluster_variance_ = module.variance.cpu().numpy()[self._kept]

    def transform(self, X):
        """Embed images.

        Parameters
        ----------
        X : array-like or list of paths
            Images of the shape that the estimator was fitted on, in any layout.

        Returns
        -------
        embedding : ndarray of shape (n, feature_dim) or (n, hidden_dim), float32
            By ``representation``: unit embeddings, or representations.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X does not hold images of the fitted shape.
        """
        images = self._read(X)
        if self._represents == "clustering":
            return self._embed(images)
        return self.net_.evaluate(images, self.net_.module_.represent).cpu().numpy()

    def score_samples(self, X):
        """Tell how normal images are: larger is more normal.

        Minus the squared distance to the nearest centre in units of the variance of
        its cluster.

        Parameters
        ----------
        X : array-like or list of paths
            As for :meth:`transform`.

        Returns
        -------
        score : ndarray of shape (n,), float32
            0 at a centre. The variance is that of soft assignments, to which all
            images add: -1 is far outside most clusters.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X does not hold images of the fitted shape.
        """
        images = self._read(X)
        module = self.net_.module_

        def outlier_score(x):
            return module.outlier_score(module.encode(x), self._kept).unsqueeze(1)

        return -self.net_.evaluate(images, outlier_score).squeeze(1).cpu().numpy()
