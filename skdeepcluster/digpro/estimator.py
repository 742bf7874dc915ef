"""The estimator DigPro."""

from __future__ import annotations

from typing import Literal

import torch

from .._estimator import DeepClusterer
from .._input.layouts import is_vector
from .._parameters import AtLeastTwo, Auto, Count, NonNegative, Positive, Share
from ..augment import simclr
from ..communities import resolve_init
from .module import DigProModule


class DigPro(DeepClusterer):
    """Deep clustering by dynamic grouping and prototype aggregation.

    An encoder learns from two augmented views of each image. Three terms shape it: an
    instance term makes the views of one image agree, *dynamic grouping* makes the
    prediction of one view fall in the group of the other, and *prototype aggregation*
    pulls the mean features of a cluster together across views and pushes those of
    different clusters apart. After every epoch the averaged network's features are
    clustered, which gives the pseudo-labels of the next one (E-step).

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
    e_step
        What finds the pseudo-labels after each epoch, and the last labels: ``"graph"``
        merges parts where nearest neighbours join them, which suits classes that are
        not round or of very different sizes; or ``"kmeans"``. ``"auto"`` is ``"graph"``
        for images and ``"kmeans"`` for vectors. Clusters of parts are assigned by the
        nearest part.
    lr_warmup
        Share of the training in which the learning rate rises.
    feature_dim
        Width of the embedding.
    hidden_dim
        Width of the hidden layers of projector and predictor.
    predictor_lr_scale
        Factor of the learning rate of the predictor, for ``"alignment"``.
    n_init
        Random starts of the clustering after each epoch, beside a start from the last
        centres. The last clustering takes 10 at least.

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
    e_step: Literal["graph", "kmeans"] | Auto = "auto"
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
            "e_step": "kmeans",
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
        self.e_step = resolve_init(self.e_step, data.image_shape)
        if self.group_reset == "n_clusters":
            self.group_reset = self.n_clusters
        if self.group_reset == "epoch":
            self.bank_size = 0  # no reset reads it
        elif self.bank_size == "auto":
            # what the steps between two resets see, and 50 rows a group at least
            seen = 2 * self.batch_size * self.group_reset
            self.bank_size = max(seen, 50 * self.n_clusters)
