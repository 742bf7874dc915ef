"""StatDEC: the estimator."""

from __future__ import annotations

import math
from numbers import Real
from typing import Annotated, Literal

from sklearn.utils._param_validation import Interval

from .._engine.guard import guarded
from .._estimator import DeepClusterer
from .._input.images import expand
from .._parameters import AtLeastTwo, Auto, Count, NonNegative, Share
from ..communities import resolve_init
from .callbacks import ClampingWarning
from .module import StatDECModule

HIGHEST_PRIOR = 0.13  # at temperature 0.5: exp(-2) would clamp orthogonal negatives


class StatDEC(DeepClusterer):
    """Deep clustering of imbalanced data with statistics of images and of clusters.

    A representation network learns from two views of each image by a contrastive loss
    that ``tau_plus`` corrects for false negatives. A clustering network embeds the same
    images and sharpens soft assignments to centres. Both end in *statistics pooling*:
    mean, second moment and soft size of what the feature map holds, in place of an
    average. The same three statistics of each cluster, over all images, keep large
    clusters from dominating the target (cardinality) and tell outliers (variance).

    A reconstruction. The abstracts of the paper name two networks that are trained
    together, the statistics pooling of both, the explicit clustering loss and centres
    that are not random; its equations, settings and code could not be read. The
    formulas here are those of the nearest public sources: the debiased contrastive
    loss of Chuang et al. and the clustering loss of Xie et al. That loss pushes
    towards clusters of equal size. So by default the clusters are found anew at the
    end (``recluster``), and sizes that are very different are left alone
    (``cardinality_power``): both are this package's additions.

    Parameters
    ----------
    lr
        Highest learning rate, after a linear warm-up and before a cosine decay. With
        the clustering loss it starts again from a fifth, and decays to zero once more.
        The learning rate of the centres is ten times as high, less in long trainings.
    temperature
        Temperature of the contrastive loss.
    tau_plus
        Share of the negatives that are taken for false ones. 0, plain NT-Xent, came
        out better on long-tailed digits; the usual value is 0.1. ``"auto"`` is
        1 / n_clusters, but at most 0.13 at temperature 0.5, above which the loss is
        clamped; less at lower temperatures.
    cluster_weight
        Weight of the clustering loss.
    warmup
        Share of the training without the clustering loss. Fractions of an epoch are
        rounded down, but any share above 0 makes one epoch at least.
    ramp
        Share of the steps with the clustering loss in which the weight of that loss
        rises to ``cluster_weight``.
    pooling
        Layer with which both networks turn a feature map into a vector:
        ``"statistics"`` (mean, second moment and size) or ``"avg"`` (mean alone). A
        backbone other than ``"conv"`` and ``"resnet18"`` gives vectors, and nothing is
        pooled. Images of 16 pixels or less leave ``"conv"`` cells of one position, in
        which nothing varies.
    cardinality
        Size of the set in statistics pooling: ``"active"`` is the soft number of
        positions in which a channel is positive, ``"count"`` the number of positions.
        With None the size is left out.
    grid
        Rows and columns of cells into which a feature map is pooled; no more than the
        map has positions.
    share_trunk
        Whether both networks share the layers before the pooling. If not, the
        clustering network gets a copy of these layers after the warm-up.
    detach_representation
        Whether the clustering loss is kept from training the representation network.
    init
        Where the centres start, and with ``"graph"`` also where they end: ``"graph"``
        merges parts where nearest neighbours join them, which suits classes that are
        not round or of very different sizes; ``"kmeans"``; ``"overcluster"``, k-means
        with five times as many centres, which are then merged without a look at their
        sizes; or ``"random"``, embeddings of random images. ``"auto"`` is ``"graph"``
        for images and ``"kmeans"`` for vectors.
    recluster
        Whether the last clusters are found anew in the final embedding. With
        ``init="graph"`` that is by the graph again, and images go to the cluster of the
        nearest part. Otherwise it is by k-means, and by k-means with three times as
        many centres, which are then merged: those with the larger simplified silhouette
        are taken; where neighbours are the views, the share of neighbours in the same
        cluster, averaged over clusters, is added to it. If not, the centres are those
        of the clustering loss.
    n_init
        Random starts of what finds the first or the last clusters.
    cardinality_power
        Power of the cluster size that divides the target. 1 pushes towards equal sizes
        and keeps small clusters from vanishing; 0 does neither. ``"auto"`` is 0 where
        the graph of neighbours tells of clusters of very different sizes, else 1.
    tol
        Share of the labels. If fewer change in an epoch, training ends, after five
        epochs with the clustering loss at the earliest.
    representation
        What ``transform`` gives: ``"clustering"``, the embedding that is clustered, or
        ``"contrastive"``, the representation, for a classifier or for other data.
        Centres, labels and ``score`` are those of the embedding in either case.
    lr_warmup
        Share of the training in which the learning rate rises.
    feature_dim
        Width of the embedding and of the contrastive projection.
    hidden_dim
        Width of the representation, and of the layer of the clustering network that is
        joined with it.

    Attributes
    ----------
    cluster_centers_ : ndarray of shape (n_clusters, feature_dim), float32
        Centres in the embedding, whose rows have unit length: of clusters that have
        several parts, their means. Empty clusters are left out.
    cluster_cardinality_ : ndarray of shape (n_clusters,), float32
        Mean soft assignment to each cluster: ``predict_proba`` before it is calibrated.
    cluster_variance_ : ndarray of shape (n_clusters,), float32
        Mean squared distance per dimension of the samples of a cluster, weighted by
        their soft assignments, to the mean of the cluster.
    history_ : list of dict
        One row an epoch: ``epoch``, ``loss`` and its weighted parts
        ``loss_representation`` and ``loss_clustering``, ``clamped`` (share of the
        images whose debiased estimate was clamped), ``lr``, ``seconds``,
        ``images_per_second``, ``changed`` (share of the labels), ``cluster_sizes`` and
        ``feature_spread`` (near 0: the embedding collapsed; near 1: spread evenly).

    See Also
    --------
    DigPro : Of images at least as good in most of what was measured.

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

    module = StatDECModule

    temperature: Annotated[float, Interval(Real, 0.03, None, closed="left")] = 0.5
    tau_plus: Annotated[float, Interval(Real, 0, 1, closed="left")] | Auto = 0.0
    cluster_weight: NonNegative = 1.0
    warmup: Share = 0.75
    ramp: Share = 0.2
    pooling: Literal["statistics", "avg"] = "statistics"
    cardinality: Literal["active", "count"] | None = "active"
    grid: Count = 2
    share_trunk: bool = True
    detach_representation: bool = False
    init: Literal["graph", "kmeans", "overcluster", "random"] | Auto = "auto"
    recluster: bool = True
    n_init: Count = 20
    cardinality_power: NonNegative | Auto = "auto"
    tol: NonNegative = 1e-3
    representation: Literal["clustering", "contrastive"] = "clustering"
    lr_warmup: Share = 0.05
    feature_dim: AtLeastTwo = 64
    hidden_dim: Count = 256

    def _resolve(self, data):
        super()._resolve(data)
        self.init = resolve_init(self.init, data.image_shape)
        if self.tau_plus == "auto":
            highest = HIGHEST_PRIOR * math.exp(2 - 1 / self.temperature)
            self.tau_plus = min(1 / self.n_clusters, highest)

    def _callbacks(self):
        return [*super()._callbacks(), ClampingWarning()]

    def _state(self, net):
        state = super()._state(net)
        if self.representation == "contrastive":
            state["_n_features_out"] = self.hidden_dim
        return state

    def _set_fitted(self, module, images):
        share = module.cardinality / module.cardinality.sum()
        self.cluster_cardinality_ = share.cpu().numpy()[self._kept]
        self.cluster_variance_ = module.variance.cpu().numpy()[self._kept]

    @guarded
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
        images, module = self._read(X, skip=True), self.net_.module_
        if module.p.representation == "clustering":  # what ``fit`` was told
            return expand(self._embed(images), images)
        embedding = self.net_.evaluate(images, module.represent)
        return expand(embedding.cpu().numpy(), images)

    @guarded
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
            0 at a centre, or at that of a part of a cluster. The variance is that of
            soft assignments, to which all images add: -1 is far outside most clusters.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X does not hold images of the fitted shape.
        """
        images = self._read(X, skip=True)
        module = self.net_.module_

        def outlier_score(x):
            return module.outlier_score(module.encode(x), self._kept).unsqueeze(1)

        score = -self.net_.evaluate(images, outlier_score).squeeze(1)
        return expand(score.cpu().numpy(), images)
