"""The estimator SCL."""

from __future__ import annotations

from numbers import Real
from typing import Annotated, Literal

from sklearn.utils._param_validation import Interval

from .._estimator import DeepClusterer
from .._input.layouts import is_vector
from .._parameters import AtLeastTwo, Auto, Count, NonNegative, Positive, Share
from ..communities import resolve_init
from .module import SCLModule

AUTO_NEGATIVES = 1024  # slots a step contrasts against: bounds its time


class SCL(DeepClusterer):
    """Deep clustering by semantic contrastive learning: a reconstruction.

    A memory holds an embedding and a cluster of every training image. Each image is
    told apart from the images of *other* clusters only, so that clusters gather. Two
    predictions name its cluster: by visual similarity to the clusters in the memory,
    and by the decision boundaries of a linear head on the backbone. They are trained
    to agree across two augmented views, with clusters of similar size, and what both
    agree on is written to the memory in every step. Training starts with instance
    discrimination, the same contrast with every image as a cluster of its own.

    This is a **reconstruction** from the abstract of the paper: its equations, settings
    and results could not be read, and no code was released. Each ingredient that the
    abstract names is made precise by the same authors' earlier methods or by a choice
    of ours; the user guide says which. Do not compare its results with the paper's as
    a reproduction.

    Parameters
    ----------
    temperature
        Temperature of the semantic contrast.
    similarity_temperature
        Temperature of the prediction by visual similarity.
    similarity
        What an embedding is compared with: the centres of the clusters in the memory
        (``"centroid"``), or all of their members (``"member"``).
    consistency
        Loss that makes the two predictions agree: ``"agreement"``, minus the
        log-probability that they name the same cluster, or ``"cross_entropy"`` with the
        cluster that they agree on best.
    consistency_weight
        Weight of the consistency loss.
    balance_weight
        Weight of the loss that keeps clusters of similar size, or of the sizes that
        they begin with where the graph of neighbours tells that these are very
        different. Keep it above ``consistency_weight``: otherwise one cluster for all
        images minimises the objective.
    memory_weight
        Weight of the semantic contrast with the memory.
    view_weight
        Weight of the semantic contrast within the batch, with the other views in the
        place of the memory: in a short training the memory is old. 0 leaves it out.
    memory_momentum
        Share of an embedding in the memory that stays when the image is seen again.
    n_negatives
        Random images of the memory that a step contrasts against. ``"auto"`` is 1024,
        or all of fewer images; None is all.
    init
        What finds the first clusters, when the warm-up ends: ``"graph"`` merges parts
        where nearest neighbours join them, which suits classes that are not round or of
        very different sizes; ``"kmeans"`` is a spherical k-means. The head is fitted to
        these. ``"random"`` takes random ones. ``"auto"`` is ``"graph"`` for images and
        ``"kmeans"`` for vectors.
    recluster
        With ``init="graph"``, whether the last clusters are found anew in the final
        embedding. Images are then compared with the nearest part of each cluster, and
        the head is fitted to these clusters. If not, or with another ``init``, clusters
        are those that training ends with.
    warmup
        Share of the training without clusters, in whole epochs: instance
        discrimination. ``"auto"`` is 0.6 for images and 0.3 for vectors.
    assign
        Prediction that gives ``labels_``, ``predict`` and ``predict_proba``: that of
        the head (``"boundary"``), that by visual similarity (``"similarity"``), or the
        product of both (``"consensus"``).
    n_init
        Random starts of the clustering that ends the warm-up.
    lr_warmup
        Share of the training in which the learning rate rises.
    feature_dim
        Width of the embedding.
    hidden_dim
        Width of the hidden layer before the embedding.

    Attributes
    ----------
    cluster_centers_ : ndarray of shape (n_clusters, feature_dim), float32
        Unit directions of the clusters' mean embeddings. Empty clusters are left out.
    history_ : list of dict
        One row an epoch: ``epoch``, ``loss`` and its weighted parts ``loss_semantic``,
        ``loss_view``, ``loss_consistency`` and ``loss_balance``, ``lr``, ``seconds``,
        ``images_per_second``, ``feature_spread`` (near 0: the embedding collapsed; near
        1: spread evenly), ``cluster_sizes`` and ``agreement`` (share of the views for
        which both predictions name one cluster). What concerns clusters is there after
        the warm-up only.

    See Also
    --------
    DigPro : The same contrast without a memory; clusters by k-means after each epoch.

    References
    ----------
    Jiabo Huang and Shaogang Gong, *Deep Clustering by Semantic Contrastive Learning*,
    arXiv 2103.02662, 2021.

    Examples
    --------
    >>> from skdeepcluster import SCL
    >>> from skdeepcluster.datasets import load_digits_images
    >>> X, _ = load_digits_images()
    >>> model = SCL(n_clusters=10, max_epochs=2, random_state=0).fit(X)
    >>> model.labels_.shape
    (1797,)
    >>> model.predict_proba(X).shape
    (1797, 10)
    """

    module = SCLModule

    temperature: Positive = 0.5
    similarity_temperature: Positive = 0.1
    similarity: Literal["centroid", "member"] = "centroid"
    consistency: Literal["agreement", "cross_entropy"] = "agreement"
    consistency_weight: NonNegative = 1.0
    balance_weight: NonNegative = 3.0
    memory_weight: NonNegative = 1.0
    view_weight: NonNegative = 1.0
    memory_momentum: Annotated[float, Interval(Real, 0, 1, closed="left")] = 0.5
    n_negatives: Count | Auto | None = "auto"
    init: Literal["graph", "kmeans", "random"] | Auto = "auto"
    recluster: bool = True
    warmup: Share | Auto = "auto"
    assign: Literal["boundary", "similarity", "consensus"] = "consensus"
    n_init: Count = 5
    lr_warmup: Share = 0.05
    feature_dim: AtLeastTwo = 64
    hidden_dim: Count = 512

    def _resolve(self, data):
        super()._resolve(data)
        self.init = resolve_init(self.init, data.image_shape)
        if self.warmup == "auto":
            self.warmup = 0.3 if is_vector(data.image_shape) else 0.6
        if self.n_negatives == "auto":
            self.n_negatives = AUTO_NEGATIVES
        if self.n_negatives is not None and self.n_negatives >= data.n_samples:
            self.n_negatives = None
