"""DeepClusterer: scikit-learn's contract, once, for every method."""

from __future__ import annotations

import signal
from typing import ClassVar

import numpy as np
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from ._calibration import probabilities, temperatures
from ._engine.batches import EpochBatches, NeighborBatches
from ._engine.checkpoint import clock_of, last_training
from ._engine.crowd import watched
from ._engine.device import resolve_device, resolve_precision
from ._engine.distributed import in_all, same
from ._engine.guard import guarded, pinned, unchanged_on_error
from ._engine.interrupts import Interrupted, ending, interruption, signals
from ._engine.net import ClusterNet
from ._engine.protocol import ClusterModule, DataFacts
from ._engine.randomness import make_seed, own_draws, seeded
from ._input.images import expand
from ._input.layouts import as_images, check_enough
from ._input.scaling import Scaling
from ._parameters import sizes_fit
from ._settings import Budget, SharedParameters
from ._storage.pickling import Storable
from ._warnings import warn
from .augment import Neighbors, make_augmentation
from .backbones import resolve_backbone
from .callbacks import (
    CallbackSupportMixin,
    CollapseWarning,
    StopWhenConverged,
    TrainingBar,
    arrange_callbacks,
    check_patterns,
    sklearn_callbacks,
    with_callbacks,
)
from .distances import simplified_silhouette
from .pretrained.backbone import (
    backbone_in_training,
    check_pretrained,
    file_shape,
    with_own_rate,
)
from .pretrained.frozen import Frozen, read_features, train_on_features


class DeepClusterer(
    Storable,
    ClassNamePrefixFeaturesOutMixin,
    CallbackSupportMixin,
    TransformerMixin,
    ClusterMixin,
    SharedParameters,
):
    """Base class of the methods: everything but networks and objective.

    A method declares its own parameters as annotated fields and names its ``module``.
    Where the defaults do not fit it also sets ``budget``, or overrides ``_resolve``,
    ``_callbacks``, ``_state``, ``_set_fitted``, ``_n_clusters``, ``_clusterings`` and
    ``score``.
    """

    # -- what a method says ------------------------------------------------------------

    module: ClassVar[type[ClusterModule]]
    budget: ClassVar[Budget] = Budget(epochs=25, min_steps=600, max_steps=3000)
    encoder_: ClassVar[Frozen | None] = None  # until a fit sets one

    def _resolve(self, data: DataFacts) -> None:
        """Replace each ``"auto"``, in a copy of the estimator that training reads.

        The estimator keeps what it was told; ``net_.module_.p`` has what was used.
        """
        self.device = resolve_device(self.device)
        self.backbone = backbone_in_training(self)
        self.backbone = self._resolve_backbone(data.image_shape)
        self.batch_size = min(self.batch_size, data.n_samples)
        if self.max_epochs == "auto":
            steps = EpochBatches.count(data.n_samples, self.batch_size)
            self.max_epochs = self.budget.in_epochs(steps)

    def _resolve_backbone(self, image_shape):
        """Return the backbone, checked, without an ``"auto"``."""
        return resolve_backbone(self.backbone, image_shape, self.device)

    def _callbacks(self):
        """Return the callbacks of skorch that belong to the method."""
        return [CollapseWarning()]

    @property
    def _n_clusters(self):
        """Clusters of ``labels_`` that were asked for."""
        return self.n_clusters

    def _state(self, net) -> dict:
        """Return what prediction needs of a net, trained or still in training."""
        return {
            "net_": net,
            "device_": str(net.device),
            "_n_features_out": net.module_.centers.shape[1],
            "_kept": np.arange(self._n_clusters),
            "temperature_": 1.0,
        }

    def _set_fitted(self, module, images) -> None:
        """Set the fitted attributes that the method has beside the common ones.

        Those are set already. ``labels_`` numbers only the clusters in use; ``_kept``
        has their indices in the module: index by it what the module holds of each
        cluster.
        """

    def _clusterings(self):
        """Name each clustering, its clusters in use, and those asked for."""
        return [("", len(self._kept), self._n_clusters)]

    # -- fitting -----------------------------------------------------------------------

    @unchanged_on_error
    @with_callbacks
    @in_all
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Train the networks and cluster X.

        Parameters
        ----------
        X : array-like of shape (n, C, H, W), (n, H, W, C), (n, H, W) or (n, d), or \
                list of n file paths
            Images as uint8 or float, or vectors; (n, d) with ``image_shape`` holds
            flattened images.
        y : ignored
            Accepted for scikit-learn's sake, whatever its type.

        Returns
        -------
        self : DeepClusterer

        Raises
        ------
        ValueError, TypeError
            If X or a parameter cannot be used; the estimator is unchanged then.
        FloatingPointError
            If a loss becomes NaN or infinite.
        """
        params = self._plain_values()
        seed = same(make_seed(params["random_state"]), patiently=True)
        with pinned(), watched(), sizes_fit(params), seeded(seed):
            return self._fit(X, y)

    def _fit(self, X, y):
        resolve_device(self.device)  # errors, before files are read
        check_pretrained(self)
        images, self.layout_ = as_images(
            self, X, self.image_shape, skip=True, file_shape=file_shape(self)
        )
        self.skipped_ = images.rows.skipped if images.rows else []
        self.image_shape_ = self.layout_.shape
        check_enough(len(images), self._n_clusters)
        features = (1, 1, 1) if self.trainable == "none" else self.image_shape_
        make_augmentation(self.augment, features)  # errors, before they are computed
        with signals() as asked:  # imports of torch must not be broken off
            try:
                images, self.encoder_ = train_on_features(self, images)
                data = self._facts_of(images)
            except Interrupted as stop:
                text = "Training was interrupted before it began: the estimator is as "
                raise ending(stop.number, f"{text}it was.") from None
            self._fit_images(images, data, asked, X, y)
            self._check_empty()
        if asked.noted is not None:
            raise interruption(asked.noted, self)
        return self

    def _facts_of(self, images):
        augmentation = make_augmentation(self.augment, images.shape)
        scaling, neighbors = Scaling(images, self.standardize, self.n_components), None
        if isinstance(augmentation, Neighbors):
            device = resolve_device(self.device)
            neighbors = augmentation.graph(images, scaling, self._n_clusters, device)
        shape = scaling.shape(images.shape)
        return DataFacts(shape, len(images), scaling, augmentation, neighbors)

    def _fit_images(self, images, data, asked, X, y):
        p = self._with_plain_values()
        p._resolve(data)
        max_epochs = p.max_epochs
        checkpoint, state = last_training(self, images, max_epochs)
        if state is not None:
            p.max_epochs = clock_of(state).max_epochs  # the plan; the rest is added
        with sklearn_callbacks(self, max_epochs, X, y, self._state) as bridge:
            net = self._make_net(p, data, bridge, checkpoint)
            if state is not None:
                net.load_training_state(state, max_epochs)
            # loader workers and pinned memory need the data on the host
            loader = ("iterator_train__num_workers", "iterator_train__pin_memory")
            if not any((self.net_params or {}).get(key) for key in loader):
                images = images.to(net.device)
            self._train(net, images, asked)
            asked.hold()
            net.finish(images)
            self._finish(net, images)

    def _train(self, net, images, asked):
        """Train until the end, or until something asks to stop."""
        try:
            net.train(images)
        except Interrupted:
            pass
        except KeyboardInterrupt:
            # the second Ctrl-C wants to end at once; the caller's own handling of
            # signals has the first one come here
            if asked.noted is not None:
                raise
            asked.noted = signal.SIGINT
        if not any("loss" in row for row in net.history):
            if asked.noted is not None:
                text = "Training was interrupted before its first epoch was done: "
                raise ending(asked.noted, f"{text}the estimator is as it was.")
            raise ValueError(
                "A callback ended training before the first epoch was done: nothing "
                "was learnt. Stop at the end of an epoch, or later."
            )

    def _make_net(self, p, data, bridge, checkpoint=None):
        """Build the net of resolved parameters."""
        self._check_net_params()
        with own_draws():
            module = self.module(p, data)
        if getattr(getattr(module, "centers", None), "ndim", 0) != 2:
            raise TypeError(
                f"{type(module).__name__} has no centers of two dimensions: register a "
                "buffer of that name, of shape (n_clusters, d)."
            )
        batches = None
        if data.neighbors is not None:
            batches = NeighborBatches(data.neighbors, p.batch_size, module.n_views)
        own = self._callbacks()
        if p.verbose:
            own.append(TrainingBar(type(self).__name__, lines=p.verbose > 1))
        params = {
            "lr": p.lr,
            "max_epochs": p.max_epochs,
            "batch_size": p.batch_size,
            "callbacks": arrange_callbacks(
                own, p.callbacks, [*bridge, StopWhenConverged()]
            ),
            "device": str(p.device),
            "verbose": 0,
            "checkpoint": checkpoint,
            "batches": batches,
            "bfloat16": resolve_precision(p.precision, p.device, data.image_shape),
            **with_own_rate(module.optimizer(), module, p.lr, p.net_params or {}),
        }
        try:
            net = ClusterNet(module, **params).initialize()
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            if not p.net_params:
                raise
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(
                f"net_params={p.net_params!r} cannot be used: {error}. Its keys are "
                "parameters of skorch.NeuralNet, such as optimizer__weight_decay."
            ) from error
        check_patterns(net)
        return net

    def _finish(self, net, images):
        """Set the fitted attributes; empty clusters are left out of the labels."""
        inner = {"batches", "train_batch_count", "loss_best"}
        self.history_ = [
            {key: row[key] for key in row if key not in inner}
            for row in net.history
            if "loss" in row  # an epoch that was broken off has none
        ]
        self.n_iter_ = len(self.history_)
        self.net_ = net
        self.__dict__.update(self._state(net))
        labels = self._logits(images).argmax(1)
        self._kept, labels = np.unique(labels, return_inverse=True)
        self.labels_ = labels.astype(np.int64)
        self.cluster_sizes_ = np.bincount(self.labels_)
        self.cluster_centers_ = net.module_.centers.cpu().numpy()[self._kept]
        self._set_fitted(net.module_, images)
        if self.calibrate == "agreement":
            self._calibrate(images)
        for name in self._per_sample:
            setattr(self, name, expand(getattr(self, name), images))
        net.checkpoint = net.batches = None  # which know each row
        net.trim_for_prediction()  # nothing in it points back at the estimator

    def _calibrate(self, images):
        """Set the temperature: ``labels_`` and all else is fitted already."""
        function = self.net_.module_.logits
        (self.temperature_,) = temperatures(self.net_, images, function, [self._kept])

    def _check_empty(self):
        for name, in_use, asked in self._clusterings():
            if in_use < asked:
                warn(
                    f"{name}{asked - in_use} of {asked} clusters are empty: labels run "
                    f"from 0 to {in_use - 1}. Lower n_clusters, train longer "
                    "(max_epochs), or pass more samples.",
                    ConvergenceWarning,
                )

    # -- using the fitted networks -----------------------------------------------------

    def _read(self, X, skip=False):
        """Read new images; with ``skip``, :func:`expand` the result by them."""
        check_is_fitted(self)
        images, _ = as_images(self, X, layout=self.layout_, skip=skip)
        return self.net_.module_.scaling.match(read_features(self, images))

    def _embed(self, images):
        return self.net_.evaluate(images, self.net_.module_.encode).cpu().numpy()

    def _logits(self, images):
        logits = self.net_.evaluate(images, self.net_.module_.logits)
        return logits.cpu().numpy()[:, self._kept]

    @guarded
    def transform(self, X):
        """Embed images.

        Parameters
        ----------
        X : array-like or list of paths
            Images of the shape that the estimator was fitted on, in any layout.

        Returns
        -------
        embedding : ndarray of shape (n, d), float32

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X does not hold images of the fitted shape.
        """
        images = self._read(X, skip=True)
        return expand(self._embed(images), images)

    @guarded
    def predict(self, X):
        """Assign images to clusters.

        Parameters
        ----------
        X : array-like or list of paths
            As for :meth:`transform`.

        Returns
        -------
        labels : ndarray of shape (n,), int64
            Equal to ``labels_`` for the training data.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X does not hold images of the fitted shape.
        """
        images = self._read(X, skip=True)
        return expand(self._logits(images).argmax(1), images)

    @guarded
    def predict_proba(self, X):
        """Give the probability of each cluster.

        Parameters
        ----------
        X : array-like or list of paths
            As for :meth:`transform`.

        Returns
        -------
        proba : ndarray of shape (n, n_clusters), float32
            Rows sum to 1; the columns are the clusters of ``labels_``. Empty clusters
            have columns of 0, after the others. ``temperature_`` makes the largest one
            of a row about the chance that something alike is in the same cluster.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X does not hold images of the fitted shape.
        """
        images = self._read(X, skip=True)
        logits, asked = self._logits(images), self.net_.module_.p.n_clusters
        return expand(probabilities(logits, asked, self.temperature_), images)

    @guarded
    def score(self, X, y=None):
        """Simplified silhouette of the embedding: higher is better, in [0, 1].

        With a and b the squared distances of a sample to its nearest and its next
        centre, the mean of ``(b - a) / b``. On unit embeddings, squared distances
        order and compare as cosine ones do.

        Parameters
        ----------
        X : array-like or list of paths
            As for :meth:`transform`.
        y : ignored

        Returns
        -------
        score : float
            -1 for a single cluster, which has none.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X does not hold images of the fitted shape.

        References
        ----------
        Vendramin, Campello and Hruschka, *Relative clustering validity criteria*,
        2010.
        """
        images = self._read(X, skip=True)
        if len(self.cluster_centers_) < 2:
            return -1.0
        module = self.net_.module_
        embedding = self.net_.evaluate(images, module.encode)
        return simplified_silhouette(embedding, module.centers[self._kept])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        tags.input_tags.three_d_array = True
        return tags
