"""The estimator GCC: parameters, fitted attributes, and images of clusters."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Annotated, Literal

import numpy as np
import torch
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from .._engine.guard import guarded
from .._engine.randomness import make_seed, seeded
from .._estimator import DeepClusterer
from .._parameters import AtLeastTwo, Auto, Count, NonNegative, Positive, Share
from .._settings import Budget
from ..communities import resolve_init
from ..pretrained.frozen import restore
from .diffusion import TIMESTEPS, check_steps
from .generated import Generated
from .module import GCCModule


class GCC(DeepClusterer):
    """Generative calibration clustering: a reconstruction.

    Stage I learns features from two augmented views of each image by contrast, and
    turns clusters of them into a head of prototypes. Stage II goes in
    rounds. A diffusion model is trained on the images, conditioned on the clusters of
    the reliable ones, and draws a bank of images with as many of each cluster. Real and
    generated images are two domains of one problem then: their features are aligned in
    an RKHS, the generated ones are made compact and separate and teach the head, and
    reliable real ones are pulled to the anchors, the class centres of the generated
    ones. The next round goes on with the diffusion model on the better labels.

    This is a **reconstruction**: of the paper the abstract and summaries by others
    could be read, no equation, setting or result; no code was found. Two stages, two
    branches, three losses and the iteration are documented; each formula is a choice
    of ours, the discrepancy after published code of the same first author. The user
    guide says which is which. Do not compare its results with the paper's as a
    reproduction. It is not *Graph Contrastive Clustering* (2021), called GCC as well.

    Parameters
    ----------
    max_epochs
        Passes over X in both stages. ``"auto"`` is 48, or as many more as make 900
        optimiser steps, or as few as make 5000.
    batch_size
        Most real images in an optimiser step; stage II adds as many images of the bank.
        Fewer samples make smaller batches.
    lr
        Highest learning rate of stage I, after a linear warm-up and before a cosine
        decay. In both stages the prototypes learn at ten times the rate of the network.
    pretraining
        Share of the epochs of stage I. Below 1, one epoch at least is left for stage
        II; with 1, training ends with the k-means after stage I.
    n_rounds
        Rounds of stage II, which share the epochs that stage I leaves.
    temperature
        Temperature of the contrastive loss.
    head_temperature
        Temperature of the cosines of the cluster head.
    reliable_share
        Share of the images of a cluster, the most confident ones, that are reliable; 8
        images at least.
    alignment_weight
        Weight of the discrepancy of real and generated features.
    class_share
        Share of the discrepancy of real and generated features that compares them class
        by class. The rest compares all features at once, and weighs the real images so
        that every class counts alike.
    discriminability_weight
        Weight of the loss that makes generated features compact and separate.
    discriminability_temperature
        Temperature of the loss that makes generated features compact and separate.
    metric_weight
        Weight of the metric learning on generated images, which teach the head.
    anchor_weight
        Weight of the metric learning on reliable real images, which are pulled to the
        anchors.
    anchor_temperature
        Temperature of the metric learning on reliable real images.
    anchor_momentum
        Share of an anchor that stays when a batch moves it.
    contrast_weight
        Weight of the contrastive loss in stage II, where it keeps features from
        collapsing to the anchors.
    bank
        Images from which stage II learns, as many of each cluster. ``"generated"`` is
        ``Generated()``, images that a diffusion model draws: pass a :class:`Generated`
        to change that model, or set ``bank__steps`` and the like. ``"real"`` is
        reliable images, without a diffusion model: the control, and a far faster
        self-training.
    samples_per_cluster
        Images of each cluster in the bank. ``"auto"`` is 100 on a CPU and 500
        elsewhere, at most the mean size of a cluster.
    augment_bank
        Whether the images of the bank are augmented, too. If they are, the borders of
        the clusters suit augmented images better than those that are predicted.
    bank_filter
        Images of the bank that are left out: with ``"agreement"`` those that the head
        takes for another cluster, unless too few of a cluster would stay; with
        ``"none"`` none.
    min_agreement
        Smallest share of the images of a cluster in the bank that the head has to
        recognise. If it recognises fewer, the round leaves the cluster out, with a
        warning.
    max_change
        Largest share of the labels that a round may change. If more change, if a
        cluster is emptied, or if two anchors meet, the round is undone, with a warning,
        and training ends.
    tol
        Training ends after a round that changed fewer labels than this share.
    assign
        What gives ``labels_`` and ``predict``: the head, or a spherical k-means of the
        final features that starts from the prototypes of the head. With
        ``init="graph"``, the head always does.
    init
        What finds the clusters after stage I: ``"graph"`` merges parts where nearest
        neighbours join them, which suits classes that are not round or of very
        different sizes, and the head has a prototype for each part; or ``"kmeans"``.
        ``"auto"`` is ``"graph"`` for images and ``"kmeans"`` for vectors.
    n_init
        Random starts of what finds the clusters after stage I.
    lr_warmup
        Share of stage I in which the learning rate rises.
    calibration_lr
        Highest learning rate of stage II. Each round has a cosine decay of its own.
    feature_dim
        Width of the features.
    hidden_dim
        Width of the hidden layer before the features.
    verbose
        What is shown in training, with the parts of the loss and the time left: nothing
        (0); bars, or where there is neither terminal nor notebook some lines (1); a
        line an epoch (2). The end of each stage has a line, too. Lines go to the logger
        ``skdeepcluster`` if that takes INFO, else to the standard error.

    Attributes
    ----------
    pretrain_labels_ : ndarray of shape (n,), int64
        Clusters after stage I, in the numbering of ``predict_proba`` before empty
        clusters are left out: compare to see what stage II changed.
    cluster_centers_ : ndarray of shape (n_clusters, feature_dim), float32
        Unit prototypes, or means of those of a cluster. Empty clusters are left out.
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
        came to: ``epochs`` of stage I; ``loss`` of the diffusion model; ``changed``
        share of the labels, and whether the round was ``undone``.

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
    >>> from skdeepcluster.datasets import load_digits_images
    >>> from skdeepcluster.gcc import GCC, Generated
    >>> X, _ = load_digits_images()
    >>> model = GCC(10, max_epochs=2, bank=Generated(steps=10, sampling_steps=2),
    ...             samples_per_cluster=5, min_agreement=0, random_state=0).fit(X)
    >>> model.labels_.shape
    (1797,)
    >>> images, clusters = model.sample(4, cluster=0, random_state=0)
    >>> images.shape, images.dtype
    ((4, 8, 8), dtype('uint8'))
    """

    module = GCCModule
    budget = Budget(epochs=48, min_steps=900, max_steps=5000)
    auto_samples = (100, 500)  # on a CPU, and elsewhere
    _per_sample = ("labels_", "pretrain_labels_", "reliable_mask_")

    pretraining: Share = 0.85
    n_rounds: Count = 1
    temperature: Positive = 0.5
    head_temperature: Positive = 0.1
    reliable_share: Annotated[float, Interval(Real, 0, 1, closed="right")] = 0.9
    alignment_weight: NonNegative = 1.0
    class_share: Share = 0.5
    discriminability_weight: NonNegative = 0.5
    discriminability_temperature: Positive = 0.2
    metric_weight: NonNegative = 1.0
    anchor_weight: NonNegative = 0.1
    anchor_temperature: Positive = 0.1
    anchor_momentum: Share = 0.9
    contrast_weight: NonNegative = 0.5
    bank: Literal["generated", "real"] | Generated = "generated"
    samples_per_cluster: AtLeastTwo | Auto = "auto"
    augment_bank: bool = False
    bank_filter: Literal["agreement", "none"] = "agreement"
    min_agreement: Share = 0.2
    max_change: Share = 0.4
    tol: Share = 5e-3
    assign: Literal["head", "kmeans"] = "kmeans"
    init: Literal["graph", "kmeans"] | Auto = "auto"
    n_init: Count = 10
    lr_warmup: Share = 0.05
    calibration_lr: Positive = 3e-4
    feature_dim: AtLeastTwo = 64
    hidden_dim: Count = 512

    # -- nested parameters of the bank -------------------------------------------------

    def set_params(self, **params):
        """Set parameters; ``bank__...`` ones are those of :class:`Generated`.

        Parameters
        ----------
        **params : dict

        Returns
        -------
        self : GCC

        Raises
        ------
        ValueError
            If there is no such parameter, or the bank has none.
        """
        bank = params.get("bank", self.bank)
        nested = [key for key in params if key.startswith("bank__")]
        if nested and not isinstance(bank, Generated):
            if bank != "generated":
                raise ValueError(
                    f"{nested[0]} is a parameter of generated images, but bank="
                    f"{bank!r}. Pass bank='generated' with it, or leave it out."
                )
            params["bank"] = Generated()
        return super().set_params(**params)

    def _validate_params(self):
        super()._validate_params()
        if isinstance(self.bank, Generated):
            self.bank._validate_params()

    def _resolve(self, data):
        super()._resolve(data)
        self.init = resolve_init(self.init, data.image_shape)
        if self.samples_per_cluster == "auto":
            a_cluster = math.ceil(data.n_samples / self.n_clusters)
            most = self.auto_samples[self.device.type != "cpu"]
            self.samples_per_cluster = max(2, min(most, a_cluster))
        if self.bank == "generated":
            self.bank = Generated()
        if self.bank != "real":
            self.bank = self.bank.resolved(data.image_shape, self.device)

    def _set_fitted(self, module, images):
        agreement = np.array(module.agreement)
        self.bank_agreement_ = agreement.reshape(-1, self.n_clusters)
        self.pretrain_labels_ = module.first_labels.cpu().numpy()
        self.reliable_mask_ = module.reliable.cpu().numpy()
        self.anchors_ = module.anchors.cpu().numpy()[self._kept]
        self.n_rounds_ = module.round
        self.stages_ = module.log.rows

    # -- images of clusters ------------------------------------------------------------

    @guarded
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
            None: that of ``bank``. 0 ignores the cluster.
        sampling_steps : int, default=None
            None: that of ``bank``.
        random_state : int, RandomState or None, default=None
            None draws other images in each call.

        Returns
        -------
        X : ndarray of shape (n_samples, ...)
            In layout and range of the training data; uint8 if those were, else float32.
            With ``trainable="none"`` rows of features, float32.
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
        bank = self.bank if isinstance(self.bank, Generated) else Generated()
        scale = bank.guidance_scale if guidance_scale is None else guidance_scale
        steps = bank.sampling_steps if sampling_steps is None else sampling_steps
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
                "bank='generated', and with max_epochs and pretraining that leave "
                f"epochs for a round (n_iter_={self.n_iter_}, "
                f"n_rounds_={self.n_rounds_})."
            )
        check_steps(bank.sampler, steps)
        module, device = self.net_.module_.eval(), self.net_.device
        classes = torch.as_tensor(self._kept[labels])
        with seeded(make_seed(random_state)):
            unit = module.generator.sample_all(
                classes.to(device), float(scale), int(steps), bank.sampler
            )
        X = restore(self, module.scaling.inverse(unit))
        return X, labels.astype(np.int64)


def _is_whole(value):
    return isinstance(value, Integral) and not isinstance(value, bool)
