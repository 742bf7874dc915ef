"""Parameters that every method has: declared and documented here, once."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import nn

from ._parameters import (
    AtLeastTwo,
    Auto,
    Count,
    Declared,
    ImageShape,
    NonNegative,
    Positive,
    RandomState,
    Verbosity,
)

ENGINE_KEYS = {
    "module",
    "criterion",
    "dataset",
    "train_split",
    "batches",
    "bfloat16",
    "rate",
    "iterator_train__batch_size",
    "iterator_train__batch_sampler",
    "iterator_train__drop_last",
    "iterator_train__sampler",
    "iterator_train__shuffle",
}


@dataclass(frozen=True)
class Budget:
    """What ``max_epochs="auto"`` stands for.

    Attributes
    ----------
    epochs : int
        Passes over data of a middle size.
    min_steps, max_steps : int
        Bounds of the optimiser steps, so that small data are not under-trained.
    """

    epochs: int
    min_steps: int
    max_steps: int

    def in_epochs(self, steps_per_epoch: int) -> int:
        """Whole epochs that make at least as many steps as the budget has."""
        steps = self.epochs * steps_per_epoch
        steps = min(self.max_steps, max(self.min_steps, steps))
        return max(1, math.ceil(steps / steps_per_epoch))


class SharedParameters(Declared):
    """What every method can be told.

    Parameters
    ----------
    n_clusters
        Number of clusters.
    image_shape
        Channels, height and width of an image. Pass it if the rows of a 2-D X are
        flattened images, if image files shall be resized, or if it is ambiguous where
        the channels of a 4-D X are.
    on_error
        What to do with image files that cannot be read: ``"raise"`` names all of them
        in one error; ``"skip"`` leaves them out, warns, and gives them the label -1.
        That holds for images of Pillow as well, in a list or a data set, not for data
        sets of arrays or tensors, each of which has to be readable.
    backbone
        Network that turns images into features: ``"conv"``, ``"resnet18"`` (with a stem
        for small images), ``"mlp"``, the name of a torchvision classification model,
        ``"timm:NAME"``, ``"efficientnet_lite0"`` (or 1, 2), or a module that maps
        (b, C, H, W) to (b, width), which is copied. ``"auto"`` is ``"mlp"`` for
        vectors, ``"conv"`` for images up to 32 pixels on a CPU, else ``"resnet18"``.
    weights
        Weights that the backbone starts with: ``"DEFAULT"``, the name of other ones of
        torchvision such as ``"IMAGENET1K_V2"``, or a path: a file of safetensors, or of
        ``torch.save(network.state_dict(), path)``. Images are resized to what they were
        trained at, and normalised as they want; for fewer pixels pass
        ``backbone=skdeepcluster.pretrained.load_network(name, image_size=64)``. None
        starts from random weights, or those of your module.
    trainable
        What of the networks is trained: ``"all"``, a backbone that has pretrained
        weights at a tenth of the learning rate; ``"head"``, all but the backbone, of
        which batch norms and dropout stay as in evaluation; ``"none"`` computes the
        features of the backbone once, in float32, of no views, and clusters them as if
        they were X, by an ``"mlp"``: minutes become seconds. A module of your own that
        is not trained is given images in [0, 1].
    augment
        Random views of the images: ``"simclr"``, ``"digits"``, ``"weak"``; of vectors:
        ``"neighbors"`` (random ones of a row and its 10 nearest) or ``"vector"`` (noise
        and masks); ``"none"``, or a callable that maps (b, C, H, W) in [0, 1] to the
        same shape. ``"auto"`` is ``"neighbors"`` for vectors, ``"digits"`` for one
        channel, else ``"simclr"``, which mirrors and recolours. What you make invariant
        you stop clustering by.
    standardize
        Whether features of vectors that vary more than the average are scaled down to
        it; else they keep their relative scale. In the average, a feature counts as at
        most ten times as wide as most are. Images are not concerned.
    n_components
        Principal components to which vectors of more features are reduced. None keeps
        all features. Images are not concerned.
    max_epochs
        Passes over X. ``"auto"`` is 25, or as many more as make 600 optimiser steps, or
        as few as make 3000.
    batch_size
        Most images in an optimiser step. Fewer samples make smaller batches.
    lr
        Highest learning rate, after a linear warm-up and before a cosine decay.
    device
        Where to compute. ``"auto"`` is CUDA where there is one, else the CPU.
    precision
        Number format of the networks in training; losses and predictions are float32.
        ``"auto"`` is bfloat16 on CUDA, and for images on CPUs with bfloat16
        instructions, else float32.
    calibrate
        What makes the confidences of ``predict_proba`` true without labels.
        ``"agreement"`` divides the logits by one temperature, found at the end of
        ``fit``: the one by which the probabilities best predict the cluster of another
        random view of an image, or for vectors, and without views, the clusters of near
        neighbours in X. ``"none"`` leaves the logits as the method has them. Neither
        changes a label.
    net_params
        Parameters of :class:`skorch.NeuralNet`, such as
        ``{"optimizer__weight_decay": 0.1}``, which ``get_params`` shows as
        ``net__optimizer__weight_decay``. Groups of ``optimizer__param_groups`` come
        after those of the method and of a pretrained backbone.
    callbacks
        Callbacks of skorch, which training calls beside the package's own.
    checkpoint
        Folder in which training is saved while it runs, and from which ``fit`` goes on
        after the process was killed: with the same data and parameters it ends as if
        nothing had happened, on a CPU bit for bit. Callbacks of your own start anew.
        A folder holds one training. None saves nothing.
    checkpoint_every
        Seconds between two writes to ``checkpoint`` at least, each at the end of an
        epoch; with 0 every epoch is saved.
    warm_start
        Whether ``fit`` goes on with the last training of this estimator, on the same
        data, if ``max_epochs`` was raised since: the epochs added have a rise and a
        decay of the learning rate of their own. Networks, optimiser and memories are
        kept for that: set it before the first ``fit``. With a ``checkpoint``, ``fit``
        goes on in any case.
    verbose
        What is shown in training, with the parts of the loss and the time left: nothing
        (0); a bar, or where there is neither terminal nor notebook some lines (1); a
        line an epoch (2). Lines go to the logger ``skdeepcluster`` if that takes INFO,
        else to the standard error.
    random_state
        Seed of all that is random. On one CPU the same seed gives the same labels, bit
        for bit. The global generators are not touched.

    Attributes
    ----------
    labels_ : ndarray of shape (n,), int64
        Cluster of each sample, consecutive from 0; -1 for image files left out.
    cluster_centers_ : ndarray of shape (n_clusters, d), float32
        Centre of each cluster in the embedding. Empty clusters are left out.
    cluster_sizes_ : ndarray of shape (n_clusters,), int64
        Samples of each cluster.
    temperature_ : float
        Number by which the logits are divided before their softmax is
        ``predict_proba``: above 1 the method was too sure of itself, below 1 too
        cautious; 1 without calibration.
    history_ : list of dict
        One row an epoch: ``epoch``, ``loss`` and ``loss_...`` of each weighted part,
        ``lr``, ``seconds``, ``images_per_second``, and what the method reports.
    n_iter_ : int
        Epochs run.
    net_ : ClusterNet
        The trained skorch net; ``net_.module_`` holds the networks.
    encoder_ : Module or None
        With ``trainable="none"`` the frozen network, of which the features are those of
        raw images.
    device_ : str
        Device of the training.
    image_shape_ : tuple (C, H, W)
        Shape of an image; (1, 1, d) for vectors.
    layout_ : Layout
        Order of the values, shape and dtype of a row of X.
    n_features_in_ : int
        Values of an image: C * H * W.
    feature_names_in_ : ndarray of shape (d,)
        Column names, if X was a DataFrame with string names.
    skipped_ : list of tuple (row, path, reason)
        Image files that were left out, with ``on_error="skip"``.
    """

    features_only: ClassVar[bool] = False  # of pretrained networks, which never train

    n_clusters: Count = field(default=8, kw_only=False)
    image_shape: ImageShape | None = None
    on_error: Literal["raise", "skip"] = "raise"
    backbone: str | nn.Module = "auto"
    weights: str | os.PathLike | None = None
    trainable: Literal["all", "head", "none"] = "all"
    augment: str | Callable = "auto"
    standardize: bool = True
    n_components: Count | None = 256
    max_epochs: Count | Auto = "auto"
    batch_size: AtLeastTwo = 256
    lr: Positive = 2e-3
    device: str | torch.device = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    calibrate: Literal["agreement", "none"] = "agreement"
    net_params: dict | None = None
    callbacks: list | None = None
    checkpoint: str | os.PathLike | None = None
    checkpoint_every: NonNegative = 60.0
    warm_start: bool = False
    verbose: Verbosity = 0
    random_state: RandomState = None

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

    def _check_net_params(self):
        """Refuse what the estimator or its engine settles."""
        own = {"lr", "max_epochs", "batch_size", "device", "callbacks", "verbose"}
        own |= {"checkpoint", "optimizer__lr"}
        for key in self.net_params or {}:
            if key in own:
                name = key.removeprefix("optimizer__")
                raise ValueError(
                    f"net_params has the key {key!r}, which is a parameter of "
                    f"{type(self).__name__} itself: pass {name}=... there."
                )
            if key in ENGINE_KEYS or str(key).startswith("module__"):
                raise ValueError(
                    f"net_params has the key {key!r}, which the engine settles. Leave "
                    "it out."
                )
