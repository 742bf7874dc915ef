"""DigPro: dynamic grouping and prototype aggregation (Zhang and Huang, 2024)."""

from __future__ import annotations

import copy
from collections import OrderedDict
from numbers import Integral, Real

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn
from torch.nn import functional as F

from ._base import DeepClusterer
from ._kmeans import spherical_kmeans
from ._net import ClusterModule, WarmupCosine, ema_update, feature_spread
from .augment import simclr
from .backbones import make_backbone
from .heads import projection_head
from .losses import nt_xent

ABSENT = -10.0  # logit of a cluster without a sample in the batch
PAIRS = ((0, 1), (1, 0))  # of views: the online one and the one that gives the target


def alignment_loss(predicted: Tensor, target: Tensor) -> Tensor:
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
    scaling : Scaling
    augmentation : callable or Module
    backbone : str or Module
    image_shape : tuple (C, H, W)
    n_samples, n_clusters : int
    feature_dim, hidden_dim : int
        Widths of the projection and of the hidden layers of projector and predictor.
    warmup_steps : int
        Steps without prototype loss and without noise.
    reset_steps : int or None
        Steps between two resets of the groups by a k-means of the bank; None lets
        them follow the prototypes of each E-step.
    bank_size : int
        Online projections that a reset clusters.
    **options
        As in :class:`DigPro`.
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
        warmup_steps,
        reset_steps,
        bank_size,
        **options,
    ):
        super().__init__(scaling, augmentation)
        self.n_clusters, self.warmup_steps = n_clusters, warmup_steps
        self.reset_steps, self.options = reset_steps, options
        self.aligns = options["instance"] == "alignment"
        network, width = make_backbone(backbone, image_shape)
        projector = projection_head(width, hidden_dim, feature_dim)
        self.online = nn.Sequential(OrderedDict(backbone=network, projector=projector))
        self.teacher = copy.deepcopy(self.online).requires_grad_(False)
        if self.aligns:
            self.predictor = projection_head(feature_dim, hidden_dim, feature_dim)
            for layer in (self.predictor[0], self.predictor[-1]):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
        self.register_buffer("groups", torch.rand(n_clusters, feature_dim))
        bank = F.normalize(torch.randn(bank_size, feature_dim), dim=1)
        self.register_buffer("bank", bank)
        self.register_buffer("labels", torch.zeros(n_samples, dtype=torch.int64))
        self.register_buffer("centers", torch.zeros(n_clusters, feature_dim))
        self.step, self.refreshed = 1, False

    def get_extra_state(self):
        """State beside parameters and buffers, for ``state_dict``."""
        return {"step": self.step, "refreshed": self.refreshed}

    def set_extra_state(self, state):
        """Take what :meth:`get_extra_state` gave."""
        self.step, self.refreshed = state["step"], state["refreshed"]

    # -- M-step: one batch -------------------------------------------------------------

    def losses(self, batch):
        """Parts ``instance``, ``group`` and ``prototype`` of one batch, weighted."""
        o, warm = self.options, self.step <= self.warmup_steps
        if self.reset_steps and self.step > 1 and self.step % self.reset_steps == 0:
            self.reset_groups()

        q = [self.run(self.online, view) for view in batch.views]
        if self.aligns:
            with torch.no_grad():
                k = [F.normalize(self.run(self.teacher, v), dim=1) for v in batch.views]
            u = [self.run(self.predictor, x) for x in q]
            instance = 0.5 * sum(
                alignment_loss(self.noisy(q[a], u[a], warm), k[b]) for a, b in PAIRS
            )
        else:
            k = [F.normalize(x.detach(), dim=1) for x in q]
            u = q
            instance = nt_xent(*q, o["instance_temperature"])

        group = 0.0
        for a, b in PAIRS:
            loss, moved = group_loss(
                u[a],
                q[a],
                k[b],
                self.groups,
                o["group_momentum"],
                o["group_temperature"],
            )
            # at once: the second pair starts from the groups that the first one moved
            self.groups = moved.detach()
            group = group + 0.5 * loss
        if self.reset_steps:
            self.remember(q)
        parts = {"instance": instance, "group": o["group_weight"] * group}
        if not warm:
            labels, k_clusters = self.labels[batch.index], self.n_clusters
            parts["prototype"] = o["prototype_weight"] * sum(
                0.5
                * prototype_loss(
                    q[a], k[b], labels, k_clusters, o["prototype_temperature"]
                )
                for a, b in PAIRS
            )
        return parts

    def noisy(self, online, predicted, warm):
        """Prediction of the projections moved by noise; none while warming up."""
        std = self.options["noise_std"]
        if warm or std == 0:
            return predicted
        return self.run(self.predictor, online + std * torch.randn_like(online))

    @torch.no_grad()
    def remember(self, online):
        """Put the unit projections of both views at the front of the bank."""
        new = F.normalize(torch.cat(online), dim=1)
        self.bank = torch.cat([new, self.bank])[: len(self.bank)]

    @torch.no_grad()
    def reset_groups(self):
        """Move the groups to a k-means of the bank: against stale and dead ones."""
        self.groups, _ = spherical_kmeans(
            self.bank, self.n_clusters, init=self.groups, n_init=1, max_iter=10
        )

    def after_step(self):
        """Move the teacher towards the online network."""
        momentum = self.options["ema_momentum"]
        if not self.aligns:  # the average of a young run is short
            momentum = min(momentum, 1 - 2 / (self.step + 2))
        # a teacher that sees no training batch has no batch statistics of its own
        ema_update(self.teacher, self.online, momentum, buffers=not self.aligns)
        self.step += 1

    # -- E-step: all images ------------------------------------------------------------

    def encode(self, x):
        """Unit target features, (b, feature_dim)."""
        return F.normalize(self.run(self.teacher, x), dim=1)

    def logits(self, x):
        """Cosine to each prototype over the temperature of the groups."""
        return self.encode(x) @ self.centers.T / self.options["group_temperature"]

    def refresh(self, embed):
        """Pseudo-labels by spherical k-means, warm-started from the last centres."""
        features = self._cluster(embed(), self.options["n_init"], max_iter=100)
        sizes = torch.bincount(self.labels, minlength=self.n_clusters)
        return {
            "cluster_sizes": sizes.tolist(),
            "feature_spread": feature_spread(features),
        }

    def finish(self, embed):
        """Final prototypes, with more restarts."""
        self._cluster(embed(), max(10, self.options["n_init"]), max_iter=300)

    def _cluster(self, features, n_init, max_iter):
        self.centers, self.labels = spherical_kmeans(
            features,
            self.n_clusters,
            init=self.centers if self.refreshed else None,
            n_init=n_init,
            max_iter=max_iter,
        )
        self.refreshed = True
        if self.reset_steps is None:
            self.groups = self.centers.clone()
        return features


class DigPro(DeepClusterer):
    """Deep clustering by dynamic grouping and prototype aggregation.

    An encoder learns from two augmented views of each image. Three terms shape it: an
    instance term makes the views of one image agree, *dynamic grouping* makes the
    prediction of one view fall in the group of the other, and *prototype aggregation*
    pulls the mean features of a cluster together across views and pushes those of
    different clusters apart. After every epoch spherical k-means over the averaged
    network's features gives the pseudo-labels of the next one (E-step).

    The equations are those that the authors' released code computes; the body of the
    paper could not be read. By default the instance term is contrastive (InfoNCE) and
    the settings are made for minutes on two cores; ``DigPro(k,
    **DigPro.paper_settings())`` has those of the released code. The user guide lists
    the departures of both.

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
        Highest learning rate, after the warm-up and before the cosine decay.
    instance : {"contrast", "alignment"}, default="contrast"
        Instance term. ``"contrast"``: NT-Xent of the two views' projections; targets
        are stop-gradient features of the other view, and the teacher only averages.
        ``"alignment"``: the released code's, with predictor and teacher forward pass.
    instance_temperature : float, default=0.5
        Temperature of ``"contrast"``.
    group_weight : float, default=0.3
        Weight of dynamic grouping.
    prototype_weight : float, default=0.5
        Weight of prototype aggregation.
    group_temperature : float, default=0.1
        Temperature of dynamic grouping, and of ``predict_proba``.
    prototype_temperature : float, default=0.5
        Temperature of prototype aggregation.
    group_momentum : float, default=0.99
        How much of a group stays when a batch moves it.
    group_reset : "epoch", "n_clusters" or int, default="epoch"
        When the groups start afresh: from the prototypes after each epoch, or from a
        k-means of recent projections every so many steps (``"n_clusters"``: as many
        steps as clusters).
    bank_size : int or "auto", default="auto"
        Recent projections that a reset clusters; ``"auto"`` holds those of the steps
        between two resets. Unused with ``group_reset="epoch"``.
    ema_momentum : float, default=0.99
        Momentum of the teacher; shorter in the first steps of ``"contrast"``.
    noise_std : float, default=1e-3
        Noise on the projections that ``"alignment"`` predicts from, after the warm-up.
    warmup : float, default=0.3
        Share of the steps without prototype aggregation.
    lr_warmup : float, default=0.05
        Share of the steps in which the learning rate rises.
    feature_dim : int, default=64
        Width of the embedding.
    hidden_dim : int, default=512
        Width of the hidden layer of projector and predictor.
    predictor_lr_scale : float, default=10.0
        Factor of the predictor's learning rate (``"alignment"`` only).
    n_init : int, default=3
        Random starts of k-means in an E-step, beside the warm start; the last one
        takes 10 at least.
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
        Unit prototypes; empty clusters are left out.
    cluster_sizes_ : ndarray of shape (n_clusters,), int64
        Samples of each cluster.
    history_ : list of dict
        One row an epoch: ``epoch``, ``loss`` and its weighted parts ``loss_instance``,
        ``loss_group`` and ``loss_prototype``, ``lr``, ``seconds``,
        ``images_per_second``, ``cluster_sizes`` and ``feature_spread`` (near 0: the
        embedding collapsed; near 1: spread evenly).
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

    _parameter_constraints: dict = {
        **DeepClusterer._parameter_constraints,
        "instance": [StrOptions({"contrast", "alignment"})],
        "instance_temperature": [Interval(Real, 0, None, closed="neither")],
        "group_weight": [Interval(Real, 0, None, closed="left")],
        "prototype_weight": [Interval(Real, 0, None, closed="left")],
        "group_temperature": [Interval(Real, 0, None, closed="neither")],
        "prototype_temperature": [Interval(Real, 0, None, closed="neither")],
        "group_momentum": [Interval(Real, 0, 1, closed="both")],
        "group_reset": [
            StrOptions({"epoch", "n_clusters"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "bank_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "ema_momentum": [Interval(Real, 0, 1, closed="both")],
        "noise_std": [Interval(Real, 0, None, closed="left")],
        "warmup": [Interval(Real, 0, 1, closed="both")],
        "lr_warmup": [Interval(Real, 0, 1, closed="both")],
        "feature_dim": [Interval(Integral, 2, None, closed="left")],
        "hidden_dim": [Interval(Integral, 1, None, closed="left")],
        "predictor_lr_scale": [Interval(Real, 0, None, closed="neither")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
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
        instance="contrast",
        instance_temperature=0.5,
        group_weight=0.3,
        prototype_weight=0.5,
        group_temperature=0.1,
        prototype_temperature=0.5,
        group_momentum=0.99,
        group_reset="epoch",
        bank_size="auto",
        ema_momentum=0.99,
        noise_std=1e-3,
        warmup=0.3,
        lr_warmup=0.05,
        feature_dim=64,
        hidden_dim=512,
        predictor_lr_scale=10.0,
        n_init=3,
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
        self.instance = instance
        self.instance_temperature = instance_temperature
        self.group_weight = group_weight
        self.prototype_weight = prototype_weight
        self.group_temperature = group_temperature
        self.prototype_temperature = prototype_temperature
        self.group_momentum = group_momentum
        self.group_reset = group_reset
        self.bank_size = bank_size
        self.ema_momentum = ema_momentum
        self.noise_std = noise_std
        self.warmup = warmup
        self.lr_warmup = lr_warmup
        self.feature_dim = feature_dim
        self.hidden_dim = hidden_dim
        self.predictor_lr_scale = predictor_lr_scale
        self.n_init = n_init
        self.device = device
        self.precision = precision
        self.net_params = net_params
        self.callbacks = callbacks
        self.verbose = verbose
        self.random_state = random_state

    @staticmethod
    def paper_settings() -> dict:
        """Keyword arguments of the released configuration.

        Those of the authors' ImageNet-10 run: ResNet-18 with the small-image stem,
        SGD, 1000 epochs of batches of 128, teacher momentum 0.98604 (the released code
        averages twice a step, by 0.99 and by 0.996), groups reset every ``n_clusters``
        steps. Not for a CPU. What stays different: images are normalised by their own
        mean and standard deviation, not by ImageNet's; the k-means of the E-step also
        starts from the last centres, that of a reset is spherical and starts from the
        groups; empty centres are re-seeded; the teacher moves by 0.98604 in the steps
        of a reset, too (the released code: by 0.996).

        Returns
        -------
        settings : dict
            For ``DigPro(n_clusters, **DigPro.paper_settings())``.

        References
        ----------
        The authors' code, github.com/Regan-Zhang/DigPro at dfa30b3, ``config/`` and
        ``models/``.
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

    def _module(self, plan):
        reset_steps = {"epoch": None, "n_clusters": self.n_clusters}.get(
            self.group_reset, self.group_reset
        )
        bank_size = self.bank_size
        if reset_steps is None:
            bank_size = 0  # no reset reads it
        elif bank_size == "auto":
            # what the steps between two resets see, and 50 rows a group at least
            batch_size = min(self.batch_size, plan.n_samples)
            bank_size = max(2 * batch_size * reset_steps, 50 * self.n_clusters)
        options = (
            "instance",
            "instance_temperature",
            "group_weight",
            "prototype_weight",
            "group_temperature",
            "prototype_temperature",
            "group_momentum",
            "ema_momentum",
            "noise_std",
            "n_init",
        )
        return DigProModule, {
            "backbone": plan.backbone,
            "image_shape": plan.image_shape,
            "n_samples": plan.n_samples,
            "n_clusters": self.n_clusters,
            "feature_dim": self.feature_dim,
            "hidden_dim": self.hidden_dim,
            "warmup_steps": round(self.warmup * plan.total_steps),
            "reset_steps": reset_steps,
            "bank_size": bank_size,
            **{name: getattr(self, name) for name in options},
        }

    def _schedule(self, plan):
        return WarmupCosine(self.lr_warmup * plan.total_steps, plan.total_steps)

    def _optimizer_params(self, plan):
        params = {"optimizer": torch.optim.AdamW, "optimizer__weight_decay": 1e-4}
        if self.instance == "alignment":
            rate = self.predictor_lr_scale * self.lr
            params["optimizer__param_groups"] = [("predictor.*", {"lr": rate})]
        return params
