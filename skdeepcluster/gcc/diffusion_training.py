"""Training of the diffusion model, by the engine that trains the clusterers."""

from __future__ import annotations

import copy
import math
from functools import partial

import torch
from skorch.callbacks import GradientNormClipping
from torch import Tensor, nn

from .._engine.average import Average
from .._engine.batches import WeightedBatches
from .._engine.checkpoint import Checkpoint
from .._engine.net import TrainingNet
from .._engine.protocol import Clock, DataFacts, Objective
from .._engine.randomness import generator
from .._engine.schedules import WarmupCosine
from ..augment import RandomHorizontalFlip
from ..callbacks import TrainingBar
from .bank import balanced_weights
from .diffusion import ConditionalDiffusion

WARMUP_STEPS = 50
EPOCH_STEPS = 50  # of a row in the history of the training
NULL_MASS = 2.0  # images without a class are drawn as often as two classes
LONGEST_AVERAGE = 0.999


def average_momentum(step: int) -> float:
    """Share of the average that stays; that of a short training is short, too."""
    return min(LONGEST_AVERAGE, (1 + step) / (10 + step))


class DiffusionObjective(Objective):
    """What trains a diffusion model: noise is taken out of images whose class is told.

    Parameters
    ----------
    data : DataFacts
    model : ConditionalDiffusion
        Where training starts; it is copied.
    labels : int64 tensor of shape (n,)
        Class of each training image, the null class for those without.
    steps : int
        Rounded up to whole epochs of about 50.
    dropout : float
        Share of the images whose class is left out in a step.

    Attributes
    ----------
    trained : ConditionalDiffusion
    average : Average
        Of ``trained``: what images are drawn from.
    """

    n_views = 1

    def __init__(self, data, model, labels, steps, dropout):
        epochs = max(1, round(steps / EPOCH_STEPS))
        super().__init__(data, Clock(epochs, math.ceil(steps / epochs)))
        self.trained = copy.deepcopy(model).requires_grad_(True)
        self.average = Average(self.trained, average_momentum)
        self.register_buffer("labels", labels)
        self.steps, self.dropout = steps, dropout

    def losses(self, batch):
        """The single part ``diffusion``."""
        (view,) = batch.views
        labels = self.labels[batch.index]
        device = labels.device
        chance = torch.rand(len(labels), device=device, generator=generator(device))
        told = labels.masked_fill(chance < self.dropout, self.trained.null)
        loss = partial(self.trained.loss, labels=told)  # which shares its network
        return {"diffusion": self.run_whole(loss, view)}

    def schedule(self):
        """A linear rise and a cosine over all steps."""
        return WarmupCosine(min(WARMUP_STEPS, 0.2 * self.steps), self.clock.total_steps)


def train_diffusion(
    model: ConditionalDiffusion,
    images,
    scaling,
    labels: Tensor,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    dropout: float,
    flip: bool = False,
    bfloat16: bool = False,
    device="cpu",
    bar: str | None = None,
    checkpoint: Checkpoint | None = None,
) -> float:
    """Train a diffusion model from the weights that it has.

    AdamW, a linear warm-up and a cosine decay of the rate, gradients of norm 1 at
    most; the model is left with the average of the weights.

    Parameters
    ----------
    model : ConditionalDiffusion
    images : Images
    scaling : Scaling
    labels : int64 tensor of shape (n,)
        The null class for images without one; every class is drawn equally often.
    steps : int
        Rounded up to whole epochs of about 50.
    batch_size : int
    lr : float
        Highest learning rate.
    dropout : float
        Share of the images whose class is left out in a step.
    flip : bool
        Whether half the images are mirrored.
    bfloat16 : bool
    device : str or torch.device
    bar : str, optional
        Title of a progress bar; none without.
    checkpoint : Checkpoint, optional
        Where the training is saved, and from which it goes on.

    Returns
    -------
    loss : float
        Mean of the last steps.

    Raises
    ------
    FloatingPointError
        If the loss becomes NaN or infinite.
    Interrupted
        If a signal asks to end the process.
    """
    data = DataFacts(
        image_shape=model.image_shape,
        n_samples=len(images),
        scaling=scaling,
        augmentation=RandomHorizontalFlip() if flip else nn.Identity(),
    )
    objective = DiffusionObjective(data, model, labels, steps, dropout)
    clock = objective.clock
    weights = balanced_weights(labels, model.null, NULL_MASS)
    callbacks = [("clip", GradientNormClipping(1.0))]
    if bar:
        callbacks.append(("bar", TrainingBar(bar)))
    net = TrainingNet(
        objective,
        batches=WeightedBatches(weights, batch_size, clock.steps_per_epoch),
        rate="bank__lr",
        lr=lr,
        max_epochs=clock.max_epochs,
        batch_size=batch_size,
        bfloat16=bfloat16,
        device=str(device),
        callbacks=callbacks,
        verbose=0,
        checkpoint=checkpoint,
        **objective.optimizer(),
    ).initialize()
    state = checkpoint.load(strict=False) if checkpoint else None
    if state is not None:
        net.load_training_state(state)
    net.train(images)
    model.load_state_dict(objective.average.network.state_dict())
    return net.history[-1]["loss"]


def mirrors(augmentation) -> bool:
    """Whether views are mirrored at random: then generated images may be, too."""
    own = augmentation.modules() if isinstance(augmentation, nn.Module) else ()
    return any(getattr(module, "flip", 0) for module in own)
