"""DigPro: dynamic grouping and prototype aggregation (Zhang and Huang, 2024)."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._engine.average import Average, short_at_first
from ._engine.protocol import ClusterModule
from ._engine.randomness import generator
from ._engine.schedules import WarmupCosine
from ._estimator import DeepClusterer
from ._input.layouts import is_vector
from ._parameters import AtLeastTwo, Auto, Count, NonNegative, Positive, Share
from .augment import simclr
from .backbones import make_encoder
from .distances import feature_spread
from .heads import projection_head
from .kmeans import spherical_kmeans
from .losses import nt_xent

ABSENT = -10.0  # logit of a cluster without a sample in the batch
PAIRS = ((0, 1), (1, 0))  # of views: the online one and the one that gives the target


def view_alignment_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Instance alignment: minus twice the mean cosine, in [-2, 2].

    Parameters
    ----------
    predicted, target : tensors of shape (b, d)
        The noisy online prediction of one view, the target feature of the other.

    Returns
    -------
    loss : scalar tensor
    """
    return -2.0 * F.cosine_similarity(predicted, target, dim=1).mean()


def group_loss(
    predicted: Tensor,
    online: Tensor,
    target: Tensor,
    groups: Tensor,
    momentum: float,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Dynamic grouping: predict the group that the other view falls in.

    Parameters
    ----------
    predicted, online : tensors of shape (b, d)
        Prediction u and raw projection q of one view, with gradient.
    target : tensor of shape (b, d)
        Unit target features k of the other view, without gradient.
    groups : tensor of shape (K, d)
        The stored groups G, not normalised.
    momentum : float
        How much of a group stays when it moves to the batch mean of its samples.
    temperature : float

    Returns
    -------
    loss : scalar tensor
        Gradients flow into u, and into q through the moved groups.
    moved : tensor of shape (K, d)
        The groups after this batch; those without a sample are unchanged.
    """
    directions = F.normalize(groups, dim=1)
    group_of_target = (target @ directions.T).argmax(1)
    owner = (online.detach() @ directions.T).argmax(1)
    members = F.one_hot(owner, len(groups)).to(online.dtype)
    sizes = members.sum(0).unsqueeze(1)
    means = members.T @ online / sizes.clamp_min(1)
    moved = momentum * groups + (1 - momentum) * means
    moved = torch.where(sizes > 0, moved, groups)
    logits = F.normalize(predicted, dim=1) @ F.normalize(moved, dim=1).T
    return F.cross_entropy(logits / temperature, group_of_target), moved


def prototype_loss(
    online: Tensor, target: Tensor, labels: Tensor, n_clusters: int, temperature: float
) -> Tensor:
    """Prototype aggregation: equal clusters attract across views, others repel.

    Parameters
    ----------
    online : tensor of shape (b, d)
        Projections of one view, with gradient; normalised here.
    target : tensor of shape (b, d)
        Unit target features of the other view.
    labels : int64 tensor of shape (b,)
        Pseudo-labels of the batch; at least one.
    n_clusters : int
    temperature : float

    Returns
    -------
    loss : scalar tensor
        Mean over the clusters that the batch holds.
    """
    members = F.one_hot(labels, n_clusters).to(online.dtype)
    present = members.sum(0) > 0
    # the direction of a mean is that of the sum
    prototypes = F.normalize(members.T @ F.normalize(online, dim=1), dim=1)
    targets = F.normalize(members.T @ target, dim=1)
    attract = (prototypes * targets).sum(1) / temperature
    logits = prototypes @ prototypes.T / temperature
    own = torch.eye(n_clusters, dtype=torch.bool, device=logits.device)
    logits = torch.where(own, attract, logits).masked_fill(~present, ABSENT)
    # a product: an index by a mask would wait for the device
    loss = (logits.logsumexp(1) - attract) * present
    return loss.sum() / present.sum()


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
        """Cosine to each prototype over the temperature of the groups."""
        return self.encode(x) @ self.centers.T / self.p.group_temperature

    def refresh(self, embed):
        """Pseudo-labels by spherical k-means, warm-started from the last centres."""
        features = embed()
        self.cluster(features, self.p.n_init, max_iter=100)
        sizes = self.labels.bincount(minlength=self.p.n_clusters).tolist()
        return {"cluster_sizes": sizes, "feature_spread": feature_spread(features)}

    def finish(self, embed):
        """Final prototypes, with more restarts."""
        self.cluster(embed(), max(10, self.p.n_init), max_iter=300)

    def cluster(self, features, n_init, max_iter):
        """Labels and prototypes by k-means; the groups may follow."""
        self.centers, self.labels = spherical_kmeans(
            features,
            self.p.n_clusters,
            init=self.centers if self.refreshed else None,
            n_init=n_init,
            max_iter=max_iter,
        )
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


class DigPro(DeepClusterer):
    """Deep clustering by dynamic grouping and prototype aggregation.

    An encoder learns from two augmented views of each image. Three terms shape it: an
    instance term makes the views of one image agree, *dynamic grouping* makes the
    prediction of one view fall in the group of the other, and *prototype aggregation*
    pulls the mean features of a cluster together across views and pushes those of
    different clusters apart. After every epoch spherical k-means over the averaged
    network's features gives the pseudo-labels of the next one (E-step).

    The equations are those of the authors' released code; the body of the paper could
    not be read. By default the instance term is contrastive (InfoNCE) and the settings
    are made for minutes on two cores; ``DigPro(k, **DigPro.paper_settings())`` has
    those of the released code. The user guide lists the departures of both.

    Parameters
    ----------
    instance
        Loss that makes the two views of an image agree. ``"contrast"`` is NT-Xent of
        the projections: targets are features of the other view without gradient, and
        the averaged network only averages. ``"alignment"`` is the released code's, with
        a predictor and a forward pass of the averaged network.
    instance_temperature
        Temperature of the instance term ``"contrast"``.
    group_weight
        Weight of the dynamic-grouping loss. ``"auto"`` is 0.3 for images and 0 for
        vectors, where results with it depend on the seed.
    prototype_weight
        Weight of the prototype-aggregation loss.
    group_temperature
        Temperature of the dynamic-grouping loss, and of ``predict_proba`` before it is
        calibrated.
    prototype_temperature
        Temperature of the prototype-aggregation loss.
    group_momentum
        Share of a group that stays when a batch moves it.
    group_reset
        When the groups start afresh: ``"epoch"``, from the prototypes after each epoch;
        a number of steps, or as many as ``"n_clusters"``, from recent projections.
    bank_size
        Recent projections that are clustered when the groups start afresh. ``"auto"``
        holds those since the last start. Unused with ``group_reset="epoch"``.
    ema_momentum
        Share of the averaged network that stays in a step. With ``"contrast"`` it is
        smaller in the first steps.
    noise_std
        Standard deviation of the noise on projections, for ``"alignment"``.
    warmup
        Share of the training without the prototype-aggregation loss. ``"auto"`` is 0.3
        for images and 0.6 for vectors.
    lr_warmup
        Share of the training in which the learning rate rises.
    feature_dim
        Width of the embedding.
    hidden_dim
        Width of the hidden layers of projector and predictor.
    predictor_lr_scale
        Factor of the learning rate of the predictor, for ``"alignment"``.
    n_init
        Random starts of the k-means after each epoch, beside a start from the last
        centres. The last k-means takes 10 at least.

    Attributes
    ----------
    cluster_centers_ : ndarray of shape (n_clusters, feature_dim), float32
        Unit prototypes. Empty clusters are left out.
    history_ : list of dict
        One row an epoch: ``epoch``, ``loss`` and its weighted parts ``loss_instance``,
        ``loss_group`` and ``loss_prototype``, ``lr``, ``seconds``,
        ``images_per_second``, ``cluster_sizes`` and ``feature_spread`` (near 0: the
        embedding collapsed; near 1: spread evenly).

    See Also
    --------
    sklearn.cluster.KMeans : What to try first.

    References
    ----------
    Haixin Zhang and Dong Huang, *Towards Efficient and Effective Deep Clustering with
    Dynamic Grouping and Prototype Aggregation*, arXiv 2401.13581, 2024.

    Examples
    --------
    >>> from skdeepcluster import DigPro
    >>> from skdeepcluster.datasets import load_digits_images
    >>> X, _ = load_digits_images()
    >>> model = DigPro(n_clusters=10, max_epochs=2, random_state=0).fit(X)
    >>> model.labels_.shape
    (1797,)
    >>> model.transform(X).shape
    (1797, 64)
    """

    module = DigProModule

    instance: Literal["contrast", "alignment"] = "contrast"
    instance_temperature: Positive = 0.5
    group_weight: NonNegative | Auto = "auto"
    prototype_weight: NonNegative = 0.5
    group_temperature: Positive = 0.1
    prototype_temperature: Positive = 0.5
    group_momentum: Share = 0.99
    group_reset: Literal["epoch", "n_clusters"] | Count = "epoch"
    bank_size: Count | Auto = "auto"
    ema_momentum: Share = 0.99
    noise_std: NonNegative = 1e-3
    warmup: Share | Auto = "auto"
    lr_warmup: Share = 0.05
    feature_dim: AtLeastTwo = 64
    hidden_dim: Count = 512
    predictor_lr_scale: Positive = 10.0
    n_init: Count = 3

    @staticmethod
    def paper_settings() -> dict:
        """Keyword arguments of the released code's ImageNet-10 run.

        ResNet-18 with the small-image stem, SGD, 1000 epochs of batches of 128, teacher
        momentum 0.98604 (the released code averages twice a step, by 0.99 and by
        0.996). Not for a CPU. What stays different: images are normalised by their own
        moments; the k-means of the E-step also starts from the last centres, that of a
        reset is spherical and starts from the groups; empty centres are re-seeded; the
        teacher moves as fast in the steps of a reset (the released code: by 0.996).

        Returns
        -------
        settings : dict

        References
        ----------
        github.com/Regan-Zhang/DigPro at dfa30b3, ``config/`` and ``models/``.
        """
        return {
            "backbone": "resnet18",
            "augment": simclr(min_area=0.08),
            "max_epochs": 1000,
            "batch_size": 128,
            "lr": 0.05 * 128 / 256,
            "instance": "alignment",
            "group_weight": 0.3,
            "prototype_weight": 0.1,
            "group_temperature": 0.1,
            "prototype_temperature": 0.5,
            "group_momentum": 0.99,
            "group_reset": "n_clusters",
            "bank_size": 2560,
            "ema_momentum": 0.99 * 0.996,
            "noise_std": 1e-3,
            "warmup": 0.05,
            "lr_warmup": 0.05,
            "feature_dim": 256,
            "hidden_dim": 4096,
            "predictor_lr_scale": 10.0,
            "n_init": 10,
            "precision": "float32",
            "net_params": {
                "optimizer": torch.optim.SGD,
                "optimizer__momentum": 0.9,
                "optimizer__weight_decay": 5e-4,
            },
        }

    def _resolve(self, data):
        super()._resolve(data)
        weight, warmup = (0.0, 0.6) if is_vector(data.image_shape) else (0.3, 0.3)
        self.group_weight = weight if self.group_weight == "auto" else self.group_weight
        self.warmup = warmup if self.warmup == "auto" else self.warmup
        if self.group_reset == "n_clusters":
            self.group_reset = self.n_clusters
        if self.group_reset == "epoch":
            self.bank_size = 0  # no reset reads it
        elif self.bank_size == "auto":
            # what the steps between two resets see, and 50 rows a group at least
            seen = 2 * self.batch_size * self.group_reset
            self.bank_size = max(seen, 50 * self.n_clusters)
