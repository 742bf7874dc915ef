"""Class-conditional diffusion models: noise, guidance, drawing, training."""

from __future__ import annotations

import copy
import math

import torch
from skorch.callbacks import GradientNormClipping, LRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Sampler

from ._bank import balanced_weights
from ._layouts import is_vector
from ._net import ClusterModule, ClusterNet, WarmupCosine, ema_update
from .augment import RandomHorizontalFlip
from .callbacks import TrainingBar
from .denoisers import DENOISERS, MLPDenoiser, UNet, import_diffusers

TIMESTEPS = 1000
WARMUP_STEPS = 50
SAMPLING_BATCH = 256
EPOCH_STEPS = 50  # of a row in the history of the training
SAMPLERS = ("dpm-solver++", "ddim", "ddpm")


class ConditionalDiffusion(nn.Module):
    """Denoising diffusion with classes, one of which stands for no class.

    Parameters
    ----------
    image_shape : tuple (C, H, W)
    n_clusters : int
        Classes; class ``n_clusters`` is the null class of classifier-free guidance.
    denoiser : {"mlp", "nano", "micro", "tiny", "small", "base32", "mid32", "ddpm32"}

    Raises
    ------
    ImportError
        If diffusers cannot be imported.

    Attributes
    ----------
    scheduler : diffusers.DDPMScheduler
        1000 timesteps of the squared cosine schedule; the network predicts v.

    References
    ----------
    Ho, Jain and Abbeel, *Denoising Diffusion Probabilistic Models*, 2020. Nichol and
    Dhariwal, *Improved Denoising Diffusion Probabilistic Models*, 2021 (the schedule).
    Salimans and Ho, *Progressive Distillation for Fast Sampling of Diffusion Models*,
    2022 (v-prediction). Ho and Salimans, *Classifier-Free Diffusion Guidance*, 2022.
    """

    bfloat16 = False

    def __init__(self, image_shape, n_clusters, denoiser):
        super().__init__()
        self.image_shape, self.null = tuple(image_shape), n_clusters
        self.bounded = not is_vector(image_shape)
        self.scheduler = import_diffusers().DDPMScheduler(
            num_train_timesteps=TIMESTEPS,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
        )
        if denoiser == "mlp":
            self.denoiser = MLPDenoiser(image_shape, n_clusters + 1)
        else:
            size = DENOISERS[denoiser]
            self.denoiser = UNet(image_shape, n_clusters + 1, size)

    def from_unit(self, unit: Tensor) -> Tensor:
        """Images in [0, 1] to [-1, 1]; vectors stay at unit scale."""
        return 2 * unit - 1 if self.bounded else unit

    def to_unit(self, x: Tensor) -> Tensor:
        """Undo :meth:`from_unit`; images are cut to [0, 1]."""
        return (0.5 * (x + 1)).clamp(0, 1) if self.bounded else x

    def denoise(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Predict v at timesteps t (b,): float32, shape of x."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.denoiser(x, t, labels).float()

    def loss(self, unit: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error of the predicted v, at random noise and timesteps.

        Parameters
        ----------
        unit : tensor of shape (b, C, H, W)
            Images in [0, 1] or vectors.
        labels : int64 tensor of shape (b,)
            Classes; ``n_clusters`` for none.

        Returns
        -------
        loss : scalar tensor
        """
        x0 = self.from_unit(unit)
        t = torch.randint(TIMESTEPS, (len(x0),), device=x0.device)
        noise = torch.randn_like(x0)
        x = self.scheduler.add_noise(x0, noise, t)
        target = self.scheduler.get_velocity(x0, noise, t)
        return F.mse_loss(self.denoise(x, t, labels), target)

    def guided(self, x: Tensor, t: Tensor, labels: Tensor, scale: float) -> Tensor:
        """Predict v by classifier-free guidance.

        Parameters
        ----------
        x : tensor of shape (b, C, H, W)
        t : scalar or tensor of shape (b,)
        labels : int64 tensor of shape (b,)
        scale : float
            0 ignores the classes, 1 is no guidance, more exaggerates what tells a class
            from the others.

        Returns
        -------
        v : tensor of shape (b, C, H, W)
            ``v_null + scale * (v_class - v_null)``.
        """
        t = t.expand(len(x))
        null = torch.full_like(labels, self.null)
        if scale in (0, 1):
            return self.denoise(x, t, labels if scale else null)
        both = torch.cat([x, x]), torch.cat([t, t]), torch.cat([labels, null])
        v_class, v_null = self.denoise(*both).chunk(2)
        return v_null + scale * (v_class - v_null)

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor,
        guidance_scale: float = 1.5,
        n_steps: int = 15,
        sampler: str = "dpm-solver++",
    ) -> Tensor:
        """Draw an image of each class, by torch's generator.

        Parameters
        ----------
        labels : int64 tensor of shape (b,)
        guidance_scale : float
        n_steps : int
            Calls of the network, each for two images if guided.
        sampler : {"dpm-solver++", "ddim", "ddpm"}
            The second is deterministic given the first noise, too; the last one is the
            ancestral sampler, made for 1000 steps.

        Returns
        -------
        unit : tensor of shape (b, C, H, W)
            Images in [0, 1] or vectors at unit scale.
        """
        scheduler = make_sampler(self.scheduler, sampler)
        scheduler.set_timesteps(n_steps, device=labels.device)
        x = torch.randn(len(labels), *self.image_shape, device=labels.device)
        x = x.contiguous(memory_format=torch.channels_last)
        for t in scheduler.timesteps:
            v = self.guided(x, t, labels, guidance_scale)
            x = scheduler.step(v, t, x).prev_sample
        return self.to_unit(x)

    def sample_all(
        self,
        labels: Tensor,
        guidance_scale: float = 1.5,
        n_steps: int = 15,
        sampler: str = "dpm-solver++",
        bar: str | None = None,
    ) -> Tensor:
        """Draw any number of images, some hundred at a time.

        Parameters
        ----------
        labels : int64 tensor of shape (n,)
        guidance_scale, n_steps, sampler
            As for :meth:`sample`.
        bar : str, optional
            Title of a progress bar; none without.

        Returns
        -------
        unit : tensor of shape (n, C, H, W)
        """
        from tqdm.auto import tqdm

        drawn = []
        with tqdm(total=len(labels), desc=bar, unit="image", disable=not bar) as shown:
            for part in labels.split(SAMPLING_BATCH):
                drawn.append(self.sample(part, guidance_scale, n_steps, sampler))
                shown.update(len(part))
        return torch.cat(drawn)


def check_steps(sampler: str, n_steps: int) -> None:
    """Refuse steps that a sampler cannot take evenly.

    Raises
    ------
    ValueError
        If the sampler is ``"ddim"`` and ``n_steps`` does not divide 1000: noise would
        be left in the images.
    """
    if sampler == "ddim" and TIMESTEPS % n_steps:
        raise ValueError(
            f"sampling_steps={n_steps} does not divide {TIMESTEPS}, as sampler='ddim' "
            "needs it to. Pass 10, 20, 25 or 50, or sampler='dpm-solver++'."
        )


def make_sampler(scheduler, sampler):
    """Return the scheduler of diffusers that samples what ``scheduler`` trains."""
    diffusers = import_diffusers()
    if sampler == "ddpm":
        return diffusers.DDPMScheduler.from_config(
            scheduler.config, timestep_spacing="trailing"
        )
    if sampler == "ddim":
        return diffusers.DDIMScheduler.from_config(
            scheduler.config, timestep_spacing="trailing", clip_sample=False
        )
    return diffusers.DPMSolverMultistepScheduler.from_config(
        scheduler.config, algorithm_type="dpmsolver++", timestep_spacing="trailing"
    )


class DiffusionModule(ClusterModule):
    """What trains a diffusion model: the engine's protocol, and an average of it.

    Parameters
    ----------
    scaling : Scaling
    augmentation : callable or Module
    average : ConditionalDiffusion
        Where training starts, and where the average of the weights goes, in place.
    labels : int64 tensor of shape (n,)
        Class of each training image, the null class for those without.
    dropout : float
        Share of the images whose class is left out in a step.
    """

    n_views = 1

    def __init__(self, scaling, augmentation, average, labels, dropout):
        super().__init__(scaling, augmentation)
        self.average = average
        self.trained = copy.deepcopy(average).requires_grad_(True)
        self.register_buffer("labels", labels)
        self.dropout, self.step = dropout, 0

    def losses(self, batch):
        """The single part ``diffusion``."""
        (view,) = batch.views
        labels, null = self.labels[batch.index], self.average.null
        dropped = torch.rand(len(labels), device=labels.device) < self.dropout
        self.trained.bfloat16 = self.bfloat16
        unit = self.scaling.unstandardize(view)
        loss = self.trained.loss(unit, labels.masked_fill(dropped, null))
        return {"diffusion": loss}

    def after_step(self):
        """Move the average; that of a short training is short, too."""
        self.step += 1
        momentum = min(0.999, (1 + self.step) / (10 + self.step))
        ema_update(self.average, self.trained, momentum)


class WeightedBatches(Sampler):
    """Batches drawn with replacement.

    Parameters
    ----------
    weights : tensor of shape (n,)
        Of each row, not normalised.
    batch_size, n_batches : int
    """

    def __init__(self, weights: Tensor, batch_size: int, n_batches: int):
        self.weights = weights.double().cpu()
        self.batch_size, self.n_batches = batch_size, n_batches

    def __len__(self):
        return self.n_batches

    def __iter__(self):
        for _ in range(self.n_batches):
            yield torch.multinomial(self.weights, self.batch_size, replacement=True)


class DiffusionNet(ClusterNet):
    """The engine, with batches that a sampler draws.

    Parameters
    ----------
    *args, **kwargs
        As for ClusterNet.
    batches : Sampler
    """

    rate = "diffusion_lr"

    def __init__(self, *args, batches=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.batches = batches

    def get_iterator(self, dataset, training=False):
        return DataLoader(dataset, sampler=self.batches, batch_size=None)


def train_diffusion(
    average: ConditionalDiffusion,
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
) -> float:
    """Train a diffusion model in place, from the weights that it has.

    AdamW, a linear warm-up and a cosine decay of the rate, gradients of norm 1 at
    most; the model is left with the average of the weights.

    Parameters
    ----------
    average : ConditionalDiffusion
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

    Returns
    -------
    loss : float
        Mean of the last steps.

    Raises
    ------
    FloatingPointError
        If the loss becomes NaN or infinite.
    KeyboardInterrupt
        If training was interrupted.
    """
    epochs = max(1, round(steps / EPOCH_STEPS))
    an_epoch = math.ceil(steps / epochs)
    schedule = WarmupCosine(min(WARMUP_STEPS, 0.2 * steps), epochs * an_epoch)
    callbacks = [
        ("clip", GradientNormClipping(1.0)),
        (
            "lr",
            LRScheduler(
                LambdaLR, lr_lambda=schedule, step_every="batch", event_name=None
            ),
        ),
    ]
    if bar:
        callbacks.append(("bar", TrainingBar(bar)))
    weights = balanced_weights(labels, average.null)
    net = DiffusionNet(
        DiffusionModule,
        module__scaling=scaling,
        module__augmentation=RandomHorizontalFlip() if flip else nn.Identity(),
        module__average=average,
        module__labels=labels,
        module__dropout=dropout,
        batches=WeightedBatches(weights, batch_size, an_epoch),
        optimizer=torch.optim.AdamW,
        lr=lr,
        max_epochs=epochs,
        batch_size=batch_size,
        bfloat16=bfloat16,
        device=str(device),
        callbacks=callbacks,
        verbose=0,
    ).initialize()
    try:
        net.partial_fit(images)
    except BaseException:
        net.notify("on_train_end", X=images, y=None)
        raise
    if net.module_.step < epochs * an_epoch:  # skorch keeps the interrupt to itself
        raise KeyboardInterrupt
    return net.history[-1]["loss"]
