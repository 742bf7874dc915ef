"""SCL: semantic contrastive learning (after Huang and Gong, 2021), a reconstruction."""

from __future__ import annotations

import math
from numbers import Integral, Real

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn
from torch.nn import functional as F

from ._base import DeepClusterer
from ._kmeans import spherical_kmeans
from ._net import ClusterModule, WarmupCosine, feature_spread
from .backbones import make_backbone
from .heads import projection_head

AUTO_NEGATIVES = 1024  # slots a step contrasts against: bounds its time
HEAD_STEPS, HEAD_LR, HEAD_ROWS = 100, 1e-2, 2**14  # of the first fit of the head
REVIVED = 0.01  # share of the samples that an empty cluster is given
POOL = 0.1  # share of the least certain samples, from which it takes them


def semantic_contrastive(
    z: Tensor,
    memory: Tensor,
    index: Tensor,
    labels: Tensor,
    temperature: float,
    *,
    candidates: Tensor | None = None,
    instance: Tensor | None = None,
) -> Tensor:
    """Contrast each anchor with its own slot against the slots of other clusters.

    For an anchor z in slot i with negatives N_i, the slots of another label, it is
    ``-log(exp(z M_i / t) / (exp(z M_i / t) + sum_{j in N_i} exp(z M_j / t)))``: slots
    of the anchor's own cluster neither attract nor repel. With a label of its own for
    every slot this is instance discrimination, the cross-entropy of ``z M^T / t``.

    Parameters
    ----------
    z : tensor of shape (b, d)
        Unit embeddings of the anchors, with gradient.
    memory : tensor of shape (n, d)
        Unit rows; no gradient flows into it.
    index : int64 tensor of shape (b,)
        Slots of the anchors.
    labels : int64 tensor of shape (n,)
        Cluster of every slot; with ``candidates`` from 0 to n - 1.
    temperature : float
    candidates : int64 tensor of shape (m,), optional
        The only slots that serve as negatives, each at most once. Their sum is scaled
        up to the number of an anchor's negatives in the whole memory.
    instance : bool tensor of shape (b,), optional
        Anchors that all other slots repel, whatever their cluster.

    Returns
    -------
    loss : scalar tensor
        Mean over the anchors; one without negatives counts 0.

    Notes
    -----
    A reconstruction: the abstract of the paper names a cluster-aware contrast, but not
    its equation.
    """
    memory = memory.detach()
    slots = torch.arange(len(memory), device=z.device)
    rows = memory
    if candidates is not None:
        slots, rows = candidates, memory[candidates]
    own = labels[index].unsqueeze(1)
    negative = labels[slots] != own
    if instance is not None:
        negative = negative | instance.unsqueeze(1)
    negative = negative & (slots != index.unsqueeze(1))
    logits = z @ rows.T / temperature
    against = logits.masked_fill(~negative, -math.inf).logsumexp(1)
    if candidates is not None:
        sizes = torch.zeros_like(labels).scatter_add_(
            0, labels, torch.ones_like(labels)
        )
        left_out = sizes[labels[index]]
        if instance is not None:
            left_out = left_out.masked_fill(instance, 1)
        everywhere = (len(labels) - left_out).clamp_min(1)
        share = negative.sum(1, dtype=z.dtype).clamp_min(1) / everywhere
        against = against - share.log()
    positive = (z * memory[index]).sum(1) / temperature
    return F.softplus(against - positive).mean()


def log_visual_similarity(z: Tensor, centers: Tensor, temperature: float) -> Tensor:
    """Log-probability of each cluster by the cosine to its centre.

    Parameters
    ----------
    z : tensor of shape (b, d)
        Unit embeddings, with gradient.
    centers : tensor of shape (K, d)
        Unit centres.
    temperature : float

    Returns
    -------
    log_s : tensor of shape (b, K)
    """
    return F.log_softmax(z @ centers.detach().T / temperature, dim=1)


def log_member_similarity(
    z: Tensor,
    memory: Tensor,
    labels: Tensor,
    n_clusters: int,
    temperature: float,
    index: Tensor | None = None,
) -> Tensor:
    """Log-probability of each cluster by the similarity to all of its members.

    The similarities ``exp(z M_j / t)`` are summed over each cluster and normalised, so
    that a large cluster is likelier than a small one of equal similarity.

    Parameters
    ----------
    z : tensor of shape (b, d)
        Unit embeddings, with gradient.
    memory : tensor of shape (n, d)
        Unit rows.
    labels : int64 tensor of shape (n,)
        Cluster of every slot.
    n_clusters : int
    temperature : float
    index : int64 tensor of shape (b,), optional
        Slots that z itself fills; each is left out of its own row.

    Returns
    -------
    log_s : tensor of shape (b, K)
        Finite, also for a cluster without members.
    """
    logits = z @ memory.detach().T / temperature
    if index is not None:
        own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, index[:, None], 1)
        logits = logits.masked_fill(own, -math.inf)
    shares = logits.softmax(1) @ F.one_hot(labels, n_clusters).to(logits.dtype)
    return shares.clamp_min(torch.finfo(shares.dtype).tiny).log()


def consistency_loss(log_p: Tensor, log_s: Tensor) -> Tensor:
    """Minus the log-probability that two independent predictions agree.

    Parameters
    ----------
    log_p, log_s : tensors of shape (b, K)
        Log-probabilities, both with gradient.

    Returns
    -------
    loss : scalar tensor
        Mean of ``-log sum_k p_k s_k``: 0 where both name one cluster for certain.

    Notes
    -----
    A reconstruction: the simplest symmetric form of the consistency condition that the
    abstract of the paper names.
    """
    return -(log_p + log_s).logsumexp(1).mean()


def pseudo_label_loss(
    log_p1: Tensor, log_p2: Tensor, log_s1: Tensor, log_s2: Tensor
) -> Tensor:
    """Cross-entropy of four predictions with the label that they agree on best.

    Parameters
    ----------
    log_p1, log_p2, log_s1, log_s2 : tensors of shape (b, K)
        Log-probabilities of either kind for both views, with gradient.

    Returns
    -------
    loss : scalar tensor
        Mean over samples and predictions.
    """
    predictions = (log_p1, log_p2, log_s1, log_s2)
    labels = sum(predictions).argmax(1)
    return sum(F.nll_loss(log_q, labels) for log_q in predictions) / 4


def balance_loss(p: Tensor) -> Tensor:
    """How far the mean prediction is from uniform, in [0, log K].

    Parameters
    ----------
    p : tensor of shape (b, K)
        Probabilities of one view, with gradient.

    Returns
    -------
    loss : scalar tensor
        ``log K`` minus the entropy of the batch mean; its gradient is finite where a
        cluster has no share at all.

    References
    ----------
    Huang, Gong and Zhu, *Deep Semantic Clustering by Partition Confidence
    Maximisation*, 2020: the same authors' regulariser.
    """
    mean = p.mean(0)
    return math.log(p.shape[1]) + (mean * mean.clamp_min(1e-12).log()).sum()


@torch.no_grad()
def remember(memory: Tensor, index: Tensor, z: Tensor, momentum: float) -> None:
    """Move slots of the memory towards new embeddings, in place.

    Parameters
    ----------
    memory : tensor of shape (n, d)
        Unit rows; those of ``index`` become
        ``normalize(momentum * row + (1 - momentum) * z)``, all others stay.
    index : int64 tensor of shape (b,)
        Without duplicates; on a CPU the last of two equal slots wins.
    z : tensor of shape (b, d)
    momentum : float
        How much of a row stays, in [0, 1].
    """
    moved = momentum * memory[index] + (1 - momentum) * z
    memory[index] = F.normalize(moved, dim=1)


class SCLModule(ClusterModule):
    """Networks, memory and objective of SCL.

    Parameters
    ----------
    scaling : Scaling
    augmentation : callable or Module
    backbone : str or Module
    image_shape : tuple (C, H, W)
    n_samples, n_clusters : int
    feature_dim, hidden_dim : int
        Widths of the embedding and of its hidden layer.
    warmup_epochs : int
        Epochs of instance discrimination.
    n_negatives : int or None
        Random slots of the memory that a step contrasts against; None: all.
    **options
        As in :class:`SCL`.
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
        n_negatives,
        **options,
    ):
        super().__init__(scaling, augmentation)
        self.n_clusters, self.warmup_epochs = n_clusters, warmup_epochs
        self.n_negatives, self.options = n_negatives, options
        self.backbone, width = make_backbone(backbone, image_shape)
        self.projector = projection_head(width, hidden_dim, feature_dim)
        self.head = nn.Linear(width, n_clusters)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        # random rows: those of an untrained network would nearly be the same
        memory = F.normalize(torch.randn(n_samples, feature_dim), dim=1)
        self.register_buffer("memory", memory)
        # each slot is a cluster of its own until the warm-up ends
        self.register_buffer("labels", torch.arange(n_samples))
        self.register_buffer("centers", torch.zeros(n_clusters, feature_dim))
        self.register_buffer("sums", torch.zeros(n_clusters, feature_dim))
        self.register_buffer("sizes", torch.zeros(n_clusters))
        self.register_buffer("agreed", torch.zeros(()))  # share, summed over the steps
        self.epoch, self.step, self.clustered, self.seen = 0, 0, False, None

    def get_extra_state(self):
        """State beside parameters and buffers, for ``state_dict``."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "clustered": self.clustered,
        }

    def set_extra_state(self, state):
        """Take what :meth:`get_extra_state` gave."""
        self.epoch, self.step = state["epoch"], state["step"]
        self.clustered = state["clustered"]

    # -- one batch ---------------------------------------------------------------------

    def losses(self, batch):
        """Weighted parts of one batch.

        ``semantic`` and ``view`` always, ``consistency`` and ``balance`` after the
        warm-up.
        """
        o, index = self.options, batch.index
        h = self.features(torch.cat(batch.views))
        z = self.embedding(h)
        z1, z2 = z.chunk(2)
        parts = self.contrast(z1, z2, index)
        mean, labels = 0.5 * (z1 + z2).detach(), None
        if self.clustered:
            log_p, log_s = self.log_boundary(h), self.log_similarity(z, index.repeat(2))
            p1, p2, s1, s2 = *log_p.chunk(2), *log_s.chunk(2)
            if o["consistency"] == "agreement":
                consistency = 0.5 * (
                    consistency_loss(p1, s2) + consistency_loss(p2, s1)
                )
            else:
                consistency = pseudo_label_loss(p1, p2, s1, s2)
            balance = 0.5 * (balance_loss(p1.exp()) + balance_loss(p2.exp()))
            parts["consistency"] = o["consistency_weight"] * consistency
            parts["balance"] = o["balance_weight"] * balance
            labels = (p1 + p2 + s1 + s2).argmax(1)
            self.agreed += (log_p.argmax(1) == log_s.argmax(1)).float().mean()
            self.step += 1
        self.seen = index, mean, labels
        return parts

    def contrast(self, z1, z2, index):
        """Contrast both views with the memory, and with one another."""
        o, instance, candidates = self.options, None, None
        if self.n_negatives is not None:
            order = torch.randperm(len(self.memory), device=z1.device)
            candidates = order[: self.n_negatives]
        if self.clustered and self.n_clusters > 2:
            # a cluster of more than half the samples would have few to repel it
            instance = self.sizes[self.labels[index]] > 0.5 * len(self.memory)
        semantic = semantic_contrastive(
            torch.cat([z1, z2]),
            self.memory,
            index.repeat(2),
            self.labels,
            o["temperature"],
            candidates=candidates,
            instance=None if instance is None else instance.repeat(2),
        )
        parts = {"semantic": o["memory_weight"] * semantic}
        if o["view_weight"] > 0:
            batch = torch.arange(len(index), device=index.device), self.labels[index]
            view = sum(
                semantic_contrastive(a, b, *batch, o["temperature"], instance=instance)
                for a, b in ((z1, z2), (z2, z1))
            )
            parts["view"] = o["view_weight"] * 0.5 * view
        return parts

    def features(self, x):
        """Features of the backbone, (b, width)."""
        return self.run(self.backbone, x)

    def embedding(self, h):
        """Unit embeddings of these features, (b, feature_dim)."""
        return F.normalize(self.run(self.projector, h), dim=1)

    def log_boundary(self, h):
        """Prediction by decision boundaries, (b, n_clusters)."""
        return F.log_softmax(self.run(self.head, h), dim=1)

    def log_similarity(self, z, index=None):
        """Prediction by visual similarity, (b, n_clusters)."""
        o = self.options
        if o["similarity"] == "centroid":
            return log_visual_similarity(z, self.centers, o["similarity_temperature"])
        return log_member_similarity(
            z,
            self.memory,
            self.labels,
            self.n_clusters,
            o["similarity_temperature"],
            index,
        )

    @torch.no_grad()
    def after_step(self):
        """Write the batch's embeddings and consensus labels to the memory."""
        index, z, labels = self.seen
        self.seen = None
        before = self.memory[index]
        remember(self.memory, index, z, self.options["memory_momentum"])
        if labels is None:
            return
        # products with one-hot rows: index_add is not deterministic on CUDA
        left = F.one_hot(self.labels[index], self.n_clusters).to(z.dtype)
        joined = F.one_hot(labels, self.n_clusters).to(z.dtype)
        self.labels[index] = labels
        self.sums += joined.T @ self.memory[index] - left.T @ before
        self.sizes += joined.sum(0) - left.sum(0)
        self.move_centers()

    def move_centers(self):
        """Set the centres to the directions of the sums; empty clusters keep theirs."""
        filled = self.sizes.unsqueeze(1) > 0
        self.centers = torch.where(filled, F.normalize(self.sums, dim=1), self.centers)

    # -- all images --------------------------------------------------------------------

    def encode(self, x):
        """Unit embeddings, (b, feature_dim)."""
        return self.embedding(self.features(x))

    def logits(self, x, assign=None):
        """Log-probabilities of ``assign``; those of both predictions add up."""
        assign = assign or self.options["assign"]
        h = self.features(x)
        if assign == "boundary":
            return self.log_boundary(h)
        log_s = self.log_similarity(self.embedding(h))
        return log_s if assign == "similarity" else log_s + self.log_boundary(h)

    @torch.no_grad()
    def refresh(self, embed):
        """Cluster when the warm-up ends; then revive empty clusters and report."""
        if self.clustered:
            self.gather()
            self.revive(embed)
        elif self.epoch >= self.warmup_epochs:
            self.start(embed)
        self.epoch += 1
        report = {"feature_spread": feature_spread(self.memory)}
        if self.clustered:
            report["cluster_sizes"] = self.sizes.long().tolist()
            if self.step > 0:
                report["agreement"] = self.agreed.item() / self.step
                self.agreed.zero_()
                self.step = 0
        return report

    @torch.no_grad()
    def finish(self, embed):
        """Settle memory, labels and centres by the final networks, unaugmented."""
        if not self.clustered:
            self.start(embed)
        labels = embed(self.logits).argmax(1)
        self.memory, self.labels = embed(), labels
        self.gather()

    def gather(self):
        """Sums, sizes and centres of the clusters, anew from memory and labels."""
        members = F.one_hot(self.labels, self.n_clusters).to(self.memory.dtype)
        self.sums, self.sizes = members.T @ self.memory, members.sum(0)
        self.move_centers()

    def start(self, embed):
        """End the warm-up: first labels, and a head that agrees with them."""
        if self.options["init"] == "kmeans":
            self.memory = embed()
            self.centers, self.labels = spherical_kmeans(
                self.memory, self.n_clusters, n_init=self.options["n_init"]
            )
            self.fit_head(embed(self.features))
        else:
            self.labels = torch.randint_like(self.labels, self.n_clusters)
            directions = torch.randn_like(self.centers)
            self.centers = F.normalize(directions, dim=1)
        self.gather()
        self.clustered = True

    @torch.enable_grad()
    def fit_head(self, h):
        """Teach the cluster head the labels, alone."""
        labels = self.labels
        if len(h) > HEAD_ROWS:
            rows = torch.randperm(len(h), device=h.device)[:HEAD_ROWS]
            h, labels = h[rows], labels[rows]
        optimizer = torch.optim.Adam(self.head.parameters(), HEAD_LR)
        for _ in range(HEAD_STEPS):
            optimizer.zero_grad()
            F.cross_entropy(self.head(h), labels).backward()
            optimizer.step()
        optimizer.zero_grad()

    def revive(self, embed):
        """Give each empty cluster samples that no cluster is sure of."""
        empty = (self.sizes == 0).nonzero().flatten().tolist()
        if not empty:
            return
        h = embed(self.features)
        log_q = embed(lambda x: self.logits(x, "consensus"))
        confidence = log_q.softmax(1).amax(1)
        n = len(confidence)
        scale = self.head.weight.norm(dim=1).mean()
        for cluster in empty:
            pool = confidence.argsort()[: max(5, round(POOL * n))]
            near = (self.memory[pool] @ self.memory[pool[0]]).argsort(descending=True)
            chosen = pool[near[: max(5, round(REVIVED * n))]]
            self.labels[chosen] = cluster
            confidence[chosen] = 1.0  # the next empty cluster takes others
            self.head.weight[cluster] = scale * F.normalize(h[chosen].mean(0), dim=0)
        self.gather()


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
    temperature : float, default=0.5
        Temperature of the contrast.
    similarity_temperature : float, default=0.1
        Temperature of the prediction by visual similarity.
    similarity : {"centroid", "member"}, default="centroid"
        What an embedding is compared with: the centres of the clusters in the memory,
        or all of their members.
    consistency : {"agreement", "cross_entropy"}, default="agreement"
        How the two predictions are made to agree: by the probability that they name
        the same cluster, or by cross-entropy with the cluster that they agree on best.
    consistency_weight : float, default=1.0
        Weight of the consistency.
    balance_weight : float, default=3.0
        Weight of the balance. Keep it above ``consistency_weight``, or one cluster for
        all images is what the consistency likes best.
    memory_weight : float, default=1.0
        Weight of the contrast with the memory.
    view_weight : float, default=1.0
        Weight of the same contrast within the batch, where the other views stand in
        for the memory: the memory of a short training is old. 0 leaves it out.
    memory_momentum : float, default=0.5
        How much of an embedding in the memory stays when its image is seen again.
    n_negatives : int, "auto" or None, default="auto"
        Random images of the memory that a step contrasts against. ``"auto"``: 1024 of
        more images; None: all.
    init : {"kmeans", "random"}, default="kmeans"
        First clusters after the warm-up: spherical k-means of the embeddings, which
        the head is fitted to, or random ones.
    warmup : float, default=0.3
        Share of the epochs that discriminate instances.
    assign : {"boundary", "similarity", "consensus"}, default="consensus"
        The prediction that gives ``labels_``, ``predict`` and ``predict_proba``: that
        of the head, that by visual similarity, or the product of both.
    n_init : int, default=5
        Random starts of the k-means.
    lr_warmup : float, default=0.05
        Share of the steps in which the learning rate rises.
    feature_dim : int, default=64
        Width of the embedding.
    hidden_dim : int, default=512
        Width of the hidden layer before the embedding.
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
        Unit directions of the clusters' mean embeddings; empty clusters are left out.
    cluster_sizes_ : ndarray of shape (n_clusters,), int64
        Samples of each cluster.
    history_ : list of dict
        One row an epoch: ``epoch``, ``loss`` and its weighted parts ``loss_semantic``,
        ``loss_view``, ``loss_consistency`` and ``loss_balance``, ``lr``, ``seconds``,
        ``images_per_second``, ``feature_spread`` (near 0: the embedding collapsed; near
        1: spread evenly), ``cluster_sizes`` and ``agreement`` (share of the views for
        which both predictions name one cluster). What concerns clusters is there
        after the warm-up only.
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

    _parameter_constraints: dict = {
        **DeepClusterer._parameter_constraints,
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "similarity_temperature": [Interval(Real, 0, None, closed="neither")],
        "similarity": [StrOptions({"centroid", "member"})],
        "consistency": [StrOptions({"agreement", "cross_entropy"})],
        "consistency_weight": [Interval(Real, 0, None, closed="left")],
        "balance_weight": [Interval(Real, 0, None, closed="left")],
        "memory_weight": [Interval(Real, 0, None, closed="left")],
        "view_weight": [Interval(Real, 0, None, closed="left")],
        "memory_momentum": [Interval(Real, 0, 1, closed="left")],
        "n_negatives": [
            None,
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "init": [StrOptions({"kmeans", "random"})],
        "warmup": [Interval(Real, 0, 1, closed="both")],
        "assign": [StrOptions({"boundary", "similarity", "consensus"})],
        "n_init": [Interval(Integral, 1, None, closed="left")],
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
        similarity_temperature=0.1,
        similarity="centroid",
        consistency="agreement",
        consistency_weight=1.0,
        balance_weight=3.0,
        memory_weight=1.0,
        view_weight=1.0,
        memory_momentum=0.5,
        n_negatives="auto",
        init="kmeans",
        warmup=0.3,
        assign="consensus",
        n_init=5,
        lr_warmup=0.05,
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
        self.temperature = temperature
        self.similarity_temperature = similarity_temperature
        self.similarity = similarity
        self.consistency = consistency
        self.consistency_weight = consistency_weight
        self.balance_weight = balance_weight
        self.memory_weight = memory_weight
        self.view_weight = view_weight
        self.memory_momentum = memory_momentum
        self.n_negatives = n_negatives
        self.init = init
        self.warmup = warmup
        self.assign = assign
        self.n_init = n_init
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
        n_negatives = self.n_negatives
        if n_negatives == "auto":
            n_negatives = AUTO_NEGATIVES
        if n_negatives is not None and n_negatives >= plan.n_samples:
            n_negatives = None
        options = (
            "temperature",
            "similarity_temperature",
            "similarity",
            "consistency",
            "consistency_weight",
            "balance_weight",
            "memory_weight",
            "view_weight",
            "memory_momentum",
            "init",
            "assign",
            "n_init",
        )
        return SCLModule, {
            "backbone": plan.backbone,
            "image_shape": plan.image_shape,
            "n_samples": plan.n_samples,
            "n_clusters": self.n_clusters,
            "feature_dim": self.feature_dim,
            "hidden_dim": self.hidden_dim,
            "warmup_epochs": round(self.warmup * plan.max_epochs),
            "n_negatives": n_negatives,
            **{name: getattr(self, name) for name in options},
        }

    def _schedule(self, plan):
        return WarmupCosine(self.lr_warmup * plan.total_steps, plan.total_steps)

    def _optimizer_params(self, plan):
        return {"optimizer": torch.optim.AdamW, "optimizer__weight_decay": 1e-4}
