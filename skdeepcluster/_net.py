"""The engine: skorch trains any module that follows the protocol of ClusterModule."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from skorch import NeuralNet
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

INFERENCE_BATCH = 512
INFERENCE_PIXELS = 2**19  # of one batch: bounds the activations of large images


class Batch(NamedTuple):
    """What ``losses`` sees of a batch of b images.

    Attributes
    ----------
    index : int64 tensor of shape (b,)
        Rows of the training data.
    views : list of ``n_views`` float32 tensors of shape (b, C, H, W)
        Augmented copies, standardised.
    """

    index: Tensor
    views: list[Tensor]


class ClusterModule(nn.Module):
    """All that the engine knows of a method: networks and objective.

    Subclasses own their networks, memories and assignments as submodules and buffers,
    so that ``state_dict`` holds the whole state of the method. A submodule named
    ``backbone`` is what ``net__compile=True`` compiles.

    Parameters
    ----------
    scaling : Scaling
        Brings raw images to the range that the networks expect.
    augmentation : callable or Module
        Maps images (b, C, H, W) in [0, 1] to augmented ones; run once for each view.

    Attributes
    ----------
    centers : tensor of shape (n_clusters, d)
        A buffer or parameter of the subclass: the clusters in embedding space.
    converged : bool
        Set by ``refresh`` to end training after this epoch.
    """

    n_views = 2
    bfloat16 = False
    converged = False

    def __init__(self, scaling, augmentation):
        super().__init__()
        # copies: moving this module to a device must not move the caller's
        self.scaling = copy.deepcopy(scaling)
        self.augmentation = copy.deepcopy(augmentation)

    def run(self, network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``network(x)`` in the engine's precision; float32 out, for the losses."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bfloat16):
            return network(x).float()

    def encode(self, x: Tensor) -> Tensor:
        """Standardised images (b, C, H, W) to embeddings (b, d)."""
        raise NotImplementedError

    def logits(self, x: Tensor) -> Tensor:
        """Standardised images to logits (b, n_clusters), for ``predict_proba``."""
        raise NotImplementedError

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted parts of the objective by name; their sum is minimised."""
        raise NotImplementedError

    def refresh(self, embed: Embedder) -> dict:
        """Bring assignments up to date: before the first and after every epoch.

        Parameters
        ----------
        embed : Embedder
            ``embed()`` is ``encode`` of all training images, shape (n, d), in order;
            ``embed(function)`` is another function of standardised images, and
            ``embed.images`` are the images themselves.

        Returns
        -------
        report : dict
            What the history shall hold of it, such as ``cluster_sizes``.
        """
        return {}

    def finish(self, embed: Embedder) -> None:
        """Settle the assignment after the last epoch; ``embed`` is float32 here."""

    def after_step(self) -> None:
        """Run after each optimiser step: the place of an EMA teacher."""


class Embedder:
    """Functions of all training images, for the hooks of a module.

    Parameters
    ----------
    net : ClusterNet
    images : Images
    bfloat16 : bool

    Attributes
    ----------
    images : Images
        The training data, raw.
    bfloat16 : bool
        Whether networks run under autocast.
    """

    def __init__(self, net, images, bfloat16):
        self.net, self.images, self.bfloat16 = net, images, bfloat16

    def __call__(self, function: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """``function`` of the standardised images, ``encode`` if it is None: (n, d)."""
        function = function or self.net.module_.encode
        return self.net.evaluate(self.images, function, self.bfloat16)


@torch.no_grad()
def ema_update(
    teacher: nn.Module, student: nn.Module, momentum: float, buffers: bool = False
) -> None:
    """Move the teacher: ``t <- momentum * t + (1 - momentum) * s``.

    Parameters
    ----------
    teacher, student : Module
        Of the same structure.
    momentum : float
    buffers : bool
        Whether the running statistics of batch norms move too. A teacher that runs in
        training mode keeps its own.
    """
    pairs = [*zip(teacher.parameters(), student.parameters(), strict=True)]
    if buffers:
        pairs += [
            pair
            for pair in zip(teacher.buffers(), student.buffers(), strict=True)
            if pair[0].is_floating_point()
        ]
    to, by = zip(*pairs, strict=True)
    torch._foreach_lerp_(list(to), list(by), 1.0 - momentum)


def feature_spread(z: Tensor) -> float:
    """Spread of unit embeddings (n, d): 0 in one point, about 1 all over the sphere."""
    return (z.std(0, correction=0).mean() * z.shape[1] ** 0.5).item()


class WarmupCosine:
    """Factor of the learning rate at step t, counted from 0, for ``LambdaLR``.

    Linear over ``warmup`` steps, then half a cosine that would reach zero ``period``
    steps later.

    Parameters
    ----------
    warmup, period : float
        In optimiser steps.
    """

    def __init__(self, warmup: float, period: float):
        self.warmup, self.period = warmup, period

    def __call__(self, step: int) -> float:
        step = step + 1
        if step < self.warmup:
            return step / self.warmup
        progress = min(1.0, (step - self.warmup) / max(self.period, 1e-9))
        return 0.5 * (1.0 + math.cos(math.pi * progress))


class EpochBatches(BatchSampler):
    """Shuffled batches, none larger than asked for and none too small for batch norm.

    Less than two batches of rows are halved. Of more, the remainder of an epoch is
    dropped, another one each time.
    """

    def __init__(self, n: int, batch_size: int):
        super().__init__(RandomSampler(range(n)), batch_size, drop_last=True)
        self.n = n

    @staticmethod
    def count(n: int, batch_size: int) -> int:
        """Batches of an epoch."""
        if batch_size < n < 2 * batch_size and n >= 4:
            return 2
        return max(1, n // batch_size)

    def __len__(self):
        return self.count(self.n, self.batch_size)

    def __iter__(self):
        order = torch.randperm(self.n)
        if self.n < 2 * self.batch_size:
            halves = order.tensor_split(len(self))
            yield from (half[: self.batch_size] for half in halves)
        else:
            yield from order.split(self.batch_size)[: len(self)]


class ClusterNet(NeuralNet):
    """A skorch net that asks its module for named losses.

    Parameters
    ----------
    module : subclass of ClusterModule
        With its parameters as ``module__...``.
    bfloat16 : bool
        Whether networks train under bfloat16 autocast.
    **kwargs
        As for :class:`skorch.NeuralNet`. ``compile=True`` compiles the backbones only.

    Attributes
    ----------
    rate : str
        What the user knows ``lr`` by.
    """

    rate = "lr"

    def __init__(self, module, *args, bfloat16=False, **kwargs):
        kwargs.setdefault("criterion", nn.Identity)
        kwargs.setdefault("train_split", None)
        super().__init__(module, *args, **kwargs)
        self.bfloat16 = bfloat16

    @property
    def _default_callbacks(self):
        return []  # time and losses are recorded here, whole and once an epoch

    def initialize_module(self):
        super().initialize_module()
        # only 4-D weights have this format: convolutions are faster in it
        self.module_.to(memory_format=torch.channels_last)
        return self

    def torch_compile(self, module, name):
        if self.compile:
            kwargs = self.get_params_for("compile")
            for path, child in module.named_modules():
                if path.rpartition(".")[2] == "backbone":
                    child.compile(**kwargs)
        return module

    def get_iterator(self, dataset, training=False):
        return DataLoader(
            dataset,
            sampler=EpochBatches(len(dataset), self.batch_size),
            batch_size=None,
            **self.get_params_for("iterator_train"),
        )

    def make_batch(self, raw, index):
        """Bring a raw batch to the device and draw its views."""
        module = self.module_
        unit = module.scaling.unit(raw.to(self.device, non_blocking=True))
        views = [self._view(unit) for _ in range(module.n_views)]
        return Batch(index.to(self.device, non_blocking=True), views)

    def _view(self, unit):
        view = self.module_.augmentation(unit)
        if not isinstance(view, Tensor) or view.shape != unit.shape:
            got = tuple(view.shape) if isinstance(view, Tensor) else type(view).__name__
            raise ValueError(
                f"augment returned {got} for a batch of shape {tuple(unit.shape)}. It "
                "should return a tensor of the same shape."
            )
        view = self.module_.scaling.standardize(view.float())
        return view.contiguous(memory_format=torch.channels_last)

    def train_step_single(self, batch, **fit_params):
        module = self.module_
        module.train()
        module.bfloat16 = self.bfloat16
        parts = module.losses(self.make_batch(*batch))
        loss = sum(parts.values())
        loss.backward()
        # one read of the device for all parts, after the gradients were queued
        values = torch.stack([loss, *parts.values()]).detach().tolist()
        for name, value in zip(["loss", *parts], values, strict=True):
            if not math.isfinite(value):
                self._raise_not_finite(dict(zip(parts, values[1:], strict=True)))
            key = name if name == "loss" else f"loss_{name}"
            self._sums[key] = self._sums.get(key, 0.0) + value
        self._n_seen += len(batch[0])
        self._n_steps += 1
        # skorch puts groups of parameters with a rate of their own first
        self._lr = self.optimizer_.param_groups[-1]["lr"]
        return {"loss": torch.tensor(values[0]), "y_pred": None}

    def _raise_not_finite(self, parts):
        bad = [name for name, value in parts.items() if not math.isfinite(value)]
        raise FloatingPointError(
            f"The loss became NaN or infinite in epoch {len(self.history)} (loss part: "
            f"{', '.join(bad) or 'their sum'}). Lower {self.rate}={self.lr}, or train "
            "with precision='float32'."
        )

    def on_batch_end(self, net, batch=None, training=False, **kwargs):
        self.module_.after_step()

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        self.module_.refresh(self.embedder(X, self.bfloat16))

    def on_epoch_begin(self, net, **kwargs):
        super().on_epoch_begin(net, **kwargs)
        self._sums, self._n_seen, self._n_steps = {}, 0, 0
        self._began = time.perf_counter()

    def on_epoch_end(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        report = self.module_.refresh(self.embedder(dataset_train, self.bfloat16))
        seconds = time.perf_counter() - self._began
        record = self.history.record
        for name, value in self._sums.items():
            record(name, value / self._n_steps)
        record("lr", self._lr)
        record("seconds", seconds)
        record("images_per_second", self._n_seen / seconds)
        for name, value in report.items():
            record(name, value)

    def embedder(self, images, bfloat16=False) -> Embedder:
        """Return the ``embed`` that the module's hooks are given."""
        return Embedder(self, images, bfloat16)

    @torch.no_grad()
    def evaluate(self, images, function, bfloat16=False) -> Tensor:
        """``function`` of standardised images in eval mode: (n, d), on the device."""
        module = self.module_.eval()
        module.bfloat16 = bfloat16
        _, height, width = images.shape
        size = max(16, min(INFERENCE_BATCH, INFERENCE_PIXELS // (height * width)))
        out, start = None, 0
        for raw in images.chunks(size):
            x = module.scaling(raw.to(self.device))
            part = function(x.contiguous(memory_format=torch.channels_last))
            if out is None:
                out = part.new_empty(len(images), part.shape[1])
            # at once: many small parts that stay would fragment the heap
            out[start : start + len(part)] = part
            start += len(part)
        if not out.isfinite().all():
            raise FloatingPointError(
                f"The embedding became NaN or infinite after {len(self.history)} "
                f"epoch(s). Lower lr={self.lr}, or train with precision='float32'."
            )
        return out
