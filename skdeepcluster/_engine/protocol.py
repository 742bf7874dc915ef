"""The protocol between the engine and what it trains."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .._input.images import Part
from .._input.scaling import Scaling
from .average import Average
from .batches import EpochBatches
from .checkpoint import Checkpoint, digest
from .schedules import WarmupCosine
from .shares import in_shares


@dataclass(frozen=True)
class DataFacts:
    """What is known of the training data before training starts.

    Attributes
    ----------
    image_shape : tuple (C, H, W)
        ``(1, 1, d)`` for vectors.
    n_samples : int
    scaling : Scaling
        Brings raw values to [0, 1], or vectors to unit scale.
    augmentation : callable or Module
        Maps images (b, C, H, W) in [0, 1] to augmented ones.
    neighbors : int64 tensor of shape (n_samples, k) or None
        Nearest rows of each row, which are drawn as its views before that.
    """

    image_shape: tuple[int, int, int]
    n_samples: int
    scaling: Scaling
    augmentation: Callable[[Tensor], Tensor]
    neighbors: Tensor | None = None


@dataclass
class Clock:
    """Where training stands: the engine moves it, everyone may read it.

    Attributes
    ----------
    max_epochs, steps_per_epoch : int
        What the training was planned for.
    step, epoch : int
        Optimiser steps and whole epochs that are done.
    ends : list of int
        Epochs at which the plan ends, and each extension of it.
    """

    max_epochs: int
    steps_per_epoch: int
    step: int = 0
    epoch: int = 0
    ends: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.ends = self.ends or [self.max_epochs]

    def extend(self, max_epochs: int) -> None:
        """Add epochs after those of the plan, which stays as it is."""
        if max_epochs > self.ends[-1]:
            self.ends.append(max_epochs)

    @property
    def extension(self) -> tuple[int, int] | None:
        """Epochs between which the extension under way runs; None within the plan."""
        spans = zip(self.ends, self.ends[1:], strict=False)
        return next((span for span in spans if span[0] <= self.epoch < span[1]), None)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.max_epochs * self.steps_per_epoch

    def passed(self, share: float) -> bool:
        """Whether this share of all steps, rounded to a step, is done.

        That may be in the middle of an epoch: ``refresh`` was last called before the
        epoch began. From then on ``losses`` may name more parts.
        """
        return self.step >= round(share * self.total_steps)


@dataclass(slots=True)
class Batch:
    """What a step sees of b images.

    Attributes
    ----------
    index : int64 tensor of shape (b,)
        Rows of the training data.
    views : list of ``n_views`` float32 tensors of shape (b, C, H, W)
        Augmented copies, in [0, 1]; vectors at unit scale.
    carry : object
        What ``losses`` hands to ``after_step``, without gradient.
    metrics : dict of scalar tensors
        What ``losses`` adds for the history beside the parts, without gradient: the
        history has the mean over the steps of an epoch.
    """

    index: Tensor
    views: list[Tensor]
    carry: Any = None
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Stateful(nn.Module):
    """A module of which ``state_dict`` also holds some plain attributes.

    Attributes
    ----------
    saved : list of str
        Names of these attributes, beside those that base classes name.
    training_only : list of str
        Names of submodules, buffers and attributes that a fitted estimator never reads,
        beside those that base classes name: files and pickles are without them.
    """

    saved: ClassVar[list[str]] = []
    training_only: ClassVar[list[str]] = []

    def get_extra_state(self):
        """State beside parameters and buffers, for ``state_dict``."""
        names = [
            name for cls in type(self).__mro__ for name in vars(cls).get("saved", ())
        ]
        return {name: copy.deepcopy(getattr(self, name)) for name in names}

    def set_extra_state(self, state):
        """Take what :meth:`get_extra_state` gave."""
        vars(self).update(copy.deepcopy(state))


class Objective(Stateful):
    """Networks and losses: all that the engine knows of what it trains.

    A subclass owns its networks and memories as submodules and buffers, and names in
    ``saved`` what else changes in training, so that ``state_dict`` holds its whole
    state. A submodule named ``backbone`` is what ``net__compile=True`` compiles; an
    :class:`~skdeepcluster._engine.average.Average` moves after every step.

    Parameters
    ----------
    data : DataFacts
    clock : Clock

    Attributes
    ----------
    n_views : int
        Augmented copies of a batch.
    autocast : bool
        Set by the engine: whether networks run under bfloat16 autocast.
    """

    saved = ["clock"]
    training_only = ["augmentation"]
    n_views = 2
    autocast = False

    def __init__(self, data: DataFacts, clock: Clock):
        super().__init__()
        # copies: moving this module to a device must not move the caller's
        self.scaling = copy.deepcopy(data.scaling)
        self.augmentation = copy.deepcopy(data.augmentation)
        self.clock = clock

    def run(self, network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``network(x)``, one tensor, in the engine's precision; float32 out.

        Of several processes each computes some rows, and all get all of them.
        """
        return in_shares(partial(self.run_whole, network), x)

    def run_whole(self, network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """As :meth:`run`, of all rows in each process."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast):
            out = network(x).float()
        torch.clear_autocast_cache()  # which a caller's autocast would keep
        return out

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted parts of the objective by name; their sum is minimised.

        Networks are in training mode, but for an average without statistics of its
        own. Nothing changes here: what the step leaves behind goes to ``batch.carry``.

        Parameters
        ----------
        batch : Batch

        Returns
        -------
        parts : dict of scalar tensors
        """
        raise NotImplementedError(f"{type(self).__name__} has no losses")

    def after_step(self, batch: Batch) -> None:
        """Update memories after an optimiser step, from ``batch.carry``."""

    @torch.no_grad()
    def advance(self, batch: Batch) -> None:
        """Move clock, averages and memories after an optimiser step."""
        self.clock.step += 1
        for part in self.modules():
            if isinstance(part, Average):
                part.move(self.clock.step)
        self.after_step(batch)

    def schedule(self) -> Callable[[int], float] | None:
        """Return the factor of the learning rate as a function of the step, or None."""
        return None

    def rate_factor(self) -> float | None:
        """Return the factor of the learning rate of the step to come, or None.

        Epochs that are added to the plan have a rise and a decay of their own, from the
        highest rate of the last stage.
        """
        schedule, clock = self.schedule(), self.clock
        if schedule is None:
            return None
        if clock.extension is None:
            return schedule(clock.step)
        begin, end = (epoch * clock.steps_per_epoch for epoch in clock.extension)
        again = WarmupCosine(0.05 * (end - begin), end - begin)
        return getattr(schedule, "last", 1.0) * again(clock.step - begin)

    def optimizer(self) -> dict:
        """Return skorch's ``optimizer`` and ``optimizer__...`` parameters."""
        return {"optimizer": torch.optim.AdamW}


class ClusterModule(Objective):
    """Networks, memories and objective of a method.

    Parameters
    ----------
    p : DeepClusterer
        Its parameters, each ``"auto"`` replaced. They stay readable as ``self.p``,
        except for networks and callables of the user's own.
    data : DataFacts

    Attributes
    ----------
    centers : tensor of shape (n_clusters, d)
        A buffer or parameter of the subclass: the clusters in embedding space, in the
        order of the columns of ``logits``. It is there from the start.
    converged : bool
        Set by ``refresh`` to end training after this epoch.
    """

    saved = ["converged"]
    converged = False

    def __init__(self, p, data: DataFacts):
        steps = EpochBatches.count(data.n_samples, p.batch_size)
        super().__init__(data, Clock(p.max_epochs, steps))
        self.p = copy.copy(p)
        self.p.augment = self.p.callbacks = self.p.net_params = None
        self.p.backbone = p.backbone if isinstance(p.backbone, str) else None
        self.n_samples = data.n_samples

    def encode(self, x: Tensor) -> Tensor:
        """Images (b, C, H, W) in [0, 1] to embeddings (b, d)."""
        raise NotImplementedError(f"{type(self).__name__} has no encode")

    def logits(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits (b, n_clusters).

        Their softmax is ``predict_proba``, and the largest one gives ``labels_`` and
        ``predict``. Clusters that no training image is in are left out of all three.
        """
        raise NotImplementedError(f"{type(self).__name__} has no logits")

    def refresh(self, embed: Embedder) -> dict:
        """Bring assignments up to date: before the first and after every epoch.

        Networks are in evaluation mode, and no gradient is recorded.

        Parameters
        ----------
        embed : Embedder

        Returns
        -------
        report : dict
            Numbers, and lists of them, for the history. The package's methods report
            ``cluster_sizes``, a list of ints, and ``feature_spread``, a float that
            :class:`~skdeepcluster.callbacks.CollapseWarning` reads.
        """
        return {}

    def extend(self, embed: Embedder) -> None:
        """Prepare for the epochs of ``clock.extension``, beyond the plan.

        Networks are in evaluation mode, and no gradient is recorded.

        Parameters
        ----------
        embed : Embedder
        """

    def finish(self, embed: Embedder) -> None:
        """Settle the assignment after the last epoch, or after an interrupt.

        Networks are in evaluation mode, and no gradient is recorded.

        Parameters
        ----------
        embed : Embedder
            In float32, whatever the precision of the training.
        """

    def schedule(self) -> Callable[[int], float] | None:
        """Return a linear rise over a twentieth of the steps, then a cosine decay."""
        steps = self.clock.total_steps
        return WarmupCosine(0.05 * steps, steps)


class Embedder:
    """Functions of all training images, for the hooks of a module.

    ``embed()`` is ``encode`` of all images, shape (n, d), in order; ``embed(function)``
    is another function of images in [0, 1], and ``embed(function, rows)`` one of some.

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

    def __call__(
        self,
        function: Callable[[Tensor], Tensor] | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """``function``, or ``encode``, of all images or some rows: (n, d)."""
        images = self.images if rows is None else Part(self.images, rows.cpu())
        function = function or self.net.module_.encode
        return self.net.evaluate(images, function, self.bfloat16)

    def checkpoint(self, name: str, begun_with: list) -> Checkpoint | None:
        """Where a training within this one is saved, if this one is.

        Parameters
        ----------
        name : str
        begun_with : list
            What tells it from a training of the same name at another time: numbers,
            tensors and modules, in the state in which it begins.
        """
        outer = self.net.checkpoint
        return outer and outer.inner(name, {"beginning": digest(begun_with)})
