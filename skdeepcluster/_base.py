"""DeepClusterer: scikit-learn's contract, once, for every method."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from skorch.callbacks import LRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from ._cluster_statistics import simplified_silhouette
from ._device import make_seed, resolve_device, resolve_precision, seeded
from ._layouts import as_images
from ._net import ClusterNet, EpochBatches
from ._scaling import Scaling
from .augment import make_augmentation
from .backbones import resolve_backbone
from .callbacks import (
    FIT_STACKLEVEL,
    CallbackSupportMixin,
    CollapseWarning,
    StopWhenConverged,
    TrainingBar,
    sklearn_callbacks,
    with_callbacks,
)

ENGINE_KEYS = {
    "module",
    "criterion",
    "dataset",
    "train_split",
    "bfloat16",
    "iterator_train__batch_size",
    "iterator_train__batch_sampler",
    "iterator_train__drop_last",
    "iterator_train__sampler",
    "iterator_train__shuffle",
}


@dataclass(frozen=True)
class Plan:
    """What is known before training starts.

    Attributes
    ----------
    image_shape : tuple (C, H, W)
    n_samples : int
    backbone : str or Module
        Never ``"auto"``.
    scaling : Scaling
    augmentation : callable or Module
    max_epochs, steps_per_epoch : int
    """

    image_shape: tuple[int, int, int]
    n_samples: int
    backbone: str | nn.Module
    scaling: Scaling
    augmentation: Callable[[Tensor], Tensor]
    max_epochs: int
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.max_epochs * self.steps_per_epoch


def _unchanged_on_error(fit):
    """Leave the estimator as it was if ``fit`` raises."""

    @functools.wraps(fit)
    def wrapper(self, X, y=None):
        before = dict(vars(self))
        try:
            return fit(self, X, y)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return wrapper


class DeepClusterer(
    ClassNamePrefixFeaturesOutMixin,
    CallbackSupportMixin,
    TransformerMixin,
    ClusterMixin,
    BaseEstimator,
):
    """Base class of the methods: everything but networks and objective.

    A method implements ``_module``, and where the defaults do not fit
    ``_resolve_backbone``, ``_auto_budget``, ``_schedule``, ``_optimizer_params``,
    ``_collapse_warning``, ``_n_clusters``, ``_clusterings`` and ``score``.
    """

    _parameter_constraints: dict = {
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "image_shape": [None, tuple, list],
        "backbone": [str, nn.Module],
        "augment": [str, callable],
        "max_epochs": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "device": [str, torch.device],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
        "net_params": [None, dict],
        "callbacks": [None, list],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    # -- what a method says ------------------------------------------------------------

    def _module(self, plan):
        """Return a subclass of ClusterModule and a dict of its parameters."""
        raise NotImplementedError

    @property
    def _n_clusters(self):
        """Clusters of ``labels_`` that were asked for."""
        return self.n_clusters

    # of max_epochs="auto": epochs, and the fewest and the most steps
    _auto_budget = (25, 600, 3000)

    def _resolve_backbone(self, device):
        """Return the backbone, checked, without an ``"auto"``."""
        return resolve_backbone(self.backbone, self.image_shape_, device)

    def _collapse_warning(self):
        """Return the callback that looks out for a collapse."""
        return CollapseWarning()

    def _auto_epochs(self, n_samples, steps_per_epoch):
        """Epochs that ``max_epochs="auto"`` stands for."""
        epochs, least, most = self._auto_budget
        steps = min(most, max(least, epochs * steps_per_epoch))
        return epochs_for(steps, steps_per_epoch)

    def _schedule(self, plan):
        """Return the factor of the learning rate as a function of the step, or None."""
        return None

    def _optimizer_params(self, plan):
        """Return skorch's ``optimizer`` and ``optimizer__...`` parameters."""
        return {"optimizer": torch.optim.AdamW}

    # -- nested parameters of the net: shown as net__..., held in net_params -----------

    def get_params(self, deep=True):
        """Get parameters; with ``deep``, those of the net as ``net__...``.

        Parameters
        ----------
        deep : bool

        Returns
        -------
        params : dict
        """
        params = super().get_params(deep)
        if deep and isinstance(self.net_params, dict):
            params.update({f"net__{key}": v for key, v in self.net_params.items()})
        return params

    def set_params(self, **params):
        """Set parameters; ``net__...`` ones go to ``net_params``.

        Parameters
        ----------
        **params : dict

        Returns
        -------
        self : DeepClusterer
        """
        nested = {
            key.removeprefix("net__"): params.pop(key)
            for key in list(params)
            if key.startswith("net__")
        }
        super().set_params(**params)
        if nested:
            self.net_params = {**(self.net_params or {}), **nested}
        return self

    # -- fitting -----------------------------------------------------------------------

    @_unchanged_on_error
    @with_callbacks
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
        device = resolve_device(self.device)
        images = as_images(self, X, reset=True)
        n_samples = len(images)
        check_enough(n_samples, self._n_clusters)
        batch_size = min(self.batch_size, n_samples)
        steps = EpochBatches.count(n_samples, batch_size)
        epochs = self.max_epochs
        if epochs == "auto":
            epochs = self._auto_epochs(n_samples, steps)
        plan = Plan(
            image_shape=self.image_shape_,
            n_samples=n_samples,
            backbone=self._resolve_backbone(device),
            scaling=Scaling(images),
            augmentation=make_augmentation(self.augment, self.image_shape_),
            max_epochs=epochs,
            steps_per_epoch=steps,
        )
        with (
            seeded(make_seed(self.random_state), device),
            sklearn_callbacks(self, epochs, X, y, self._state) as bridge,
        ):
            net = self._make_net(plan, device, batch_size, bridge)
            # loader workers and pinned memory need the data on the host
            loader = ("iterator_train__num_workers", "iterator_train__pin_memory")
            if not any((self.net_params or {}).get(key) for key in loader):
                images = images.to(device)
            try:
                net.partial_fit(images)
            except BaseException:  # callbacks have things to close, such as a bar
                net.notify("on_train_end", X=images, y=None)
                raise
            self._check_interrupt(net)
            net.module_.finish(net.embedder(images))
            self._finish(net, images)
            self._check_empty()
        return self

    def _check_net_params(self):
        """Refuse what the estimator or its engine settles."""
        own = {"lr", "max_epochs", "batch_size", "device", "callbacks", "verbose"}
        for key in self.net_params or {}:
            if key in own:
                raise ValueError(
                    f"net_params has the key {key!r}, which is a parameter of "
                    f"{type(self).__name__} itself: pass {key}=... there."
                )
            if key in ENGINE_KEYS or str(key).startswith("module__"):
                raise ValueError(
                    f"net_params has the key {key!r}, which the engine settles. Leave "
                    "it out."
                )

    def _make_net(self, plan, device, batch_size, bridge):
        self._check_net_params()
        module, module_params = self._module(plan)
        callbacks = [("collapse", self._collapse_warning())]
        schedule = self._schedule(plan)
        if schedule is not None:
            scheduler = LRScheduler(
                LambdaLR, lr_lambda=schedule, step_every="batch", event_name=None
            )
            callbacks.append(("lr_scheduler", scheduler))
        if self.verbose:
            callbacks.append(("bar", TrainingBar(type(self).__name__)))
        callbacks += [*(self.callbacks or []), *bridge]
        callbacks.append(("converged", StopWhenConverged()))
        params = {
            "lr": self.lr,
            "max_epochs": plan.max_epochs,
            "batch_size": batch_size,
            "callbacks": callbacks,
            "device": str(device),
            "verbose": 0,
            "bfloat16": resolve_precision(self.precision, device, plan.image_shape),
            **self._optimizer_params(plan),
            "module__scaling": plan.scaling,
            "module__augmentation": plan.augmentation,
            **{f"module__{key}": value for key, value in module_params.items()},
            **(self.net_params or {}),
        }
        try:
            return ClusterNet(module, **params).initialize()
        except (TypeError, ValueError) as error:
            if self.net_params:
                error.add_note(
                    f"net_params={self.net_params!r} went to skorch.NeuralNet: its "
                    "keys are parameters of that, such as optimizer__weight_decay."
                )
            raise

    def _check_interrupt(self, net):
        # skorch ends training by KeyboardInterrupt, its callbacks between epochs
        rows = net.history
        if not rows or "loss" in rows[-1]:
            return
        if len(rows) == 1:
            raise KeyboardInterrupt
        warnings.warn(
            f"Training was interrupted in epoch {len(rows)} of {net.max_epochs}; the "
            "estimator holds what was learnt until then.",
            ConvergenceWarning,
            stacklevel=FIT_STACKLEVEL,
        )

    def _state(self, net):
        """Return what prediction needs of a net, trained or still in training."""
        return {
            "net_": net,
            "device_": str(net.device),
            "_n_features_out": net.module_.centers.shape[1],
            "_kept": np.arange(self._n_clusters),
        }

    def _finish(self, net, images):
        """Set the fitted attributes; empty clusters are left out of the labels."""
        inner = {"batches", "train_batch_count"}
        self.history_ = [
            {key: row[key] for key in row if key not in inner}
            for row in net.history
            if "loss" in row  # an epoch that Ctrl-C broke off has none
        ]
        self.n_iter_ = len(self.history_)
        vars(self).update(self._state(net))
        labels = self._logits(images).argmax(1)
        self._kept, labels = np.unique(labels, return_inverse=True)
        self.labels_ = labels.astype(np.int64)
        self.cluster_sizes_ = np.bincount(self.labels_)
        self.cluster_centers_ = net.module_.centers.cpu().numpy()[self._kept]
        net.trim_for_prediction()  # nothing in it points back at the estimator

    def _clusterings(self):
        """What to call each clustering, its clusters in use, and those asked for."""
        return [("", len(self._kept), self._n_clusters)]

    def _check_empty(self):
        for name, in_use, asked in self._clusterings():
            if in_use < asked:
                warnings.warn(
                    f"{name}{asked - in_use} of {asked} clusters are empty: labels run "
                    f"from 0 to {in_use - 1}. Lower n_clusters, train longer "
                    "(max_epochs), or pass more samples.",
                    ConvergenceWarning,
                    stacklevel=FIT_STACKLEVEL,
                )

    # -- using the fitted networks -----------------------------------------------------

    def _read(self, X):
        check_is_fitted(self)
        images = as_images(self, X, reset=False)
        scaling = self.net_.module_.scaling
        if scaling.reads_uint8 and images.data.dtype.kind == "f":
            highest, fitted = float(images.data.max()), int(scaling.span)
            if (highest <= 1) != (fitted == 1):
                warnings.warn(
                    f"X holds values up to {highest:g}, but the estimator was fitted "
                    f"on images of 0 to {fitted}. Pass images of that range, or uint8.",
                    UserWarning,
                    stacklevel=3,
                )
        return images

    def _embed(self, images):
        return self.net_.evaluate(images, self.net_.module_.encode).cpu().numpy()

    def _logits(self, images):
        logits = self.net_.evaluate(images, self.net_.module_.logits)
        return logits.cpu().numpy()[:, self._kept]

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
        return self._embed(self._read(X))

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
        return self._logits(self._read(X)).argmax(1)

    def predict_proba(self, X):
        """Give the probability of each cluster.

        Parameters
        ----------
        X : array-like or list of paths
            As for :meth:`transform`.

        Returns
        -------
        proba : ndarray of shape (n, n_clusters), float32
            Rows sum to 1; the columns are the clusters of ``labels_``.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X does not hold images of the fitted shape.
        """
        logits = self._logits(self._read(X))
        return torch.from_numpy(logits).softmax(1).numpy()

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
        images = self._read(X)
        if len(self.cluster_centers_) < 2:
            return -1.0
        module = self.net_.module_
        return simplified_silhouette(
            self.net_.evaluate(images, module.encode), module.centers[self._kept]
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        tags.input_tags.three_d_array = True
        return tags


def check_enough(n_samples, n_clusters):
    """Refuse more clusters than samples."""
    if n_samples < n_clusters:
        raise ValueError(
            f"n_samples={n_samples} should be >= n_clusters={n_clusters}. Pass more "
            "samples or lower n_clusters."
        )


def epochs_for(steps, steps_per_epoch):
    """Whole epochs that make at least ``steps`` optimiser steps."""
    return max(1, math.ceil(steps / steps_per_epoch))
