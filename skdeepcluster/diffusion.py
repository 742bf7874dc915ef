"""Class-conditional diffusion models for images and vectors, built of diffusers."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

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

TIMESTEPS = 1000
WARMUP_STEPS = 50
SAMPLING_BATCH = 256
EPOCH_STEPS = 50  # of a row in the history of the training
MLP_WIDTH, MLP_BLOCKS = 256, 3
SAMPLERS = ("dpm-solver++", "ddim", "ddpm")


class UNetSize(NamedTuple):
    """Size of a U-Net.

    Attributes
    ----------
    channels : tuple of int
        Widths of the levels; each but the first halves the resolution.
    layers : int
        Residual blocks of a level.
    attention : bool
        Whether the deepest level and the middle attend.
    groups : int
        Of the group norms.
    side : int
        Largest side of what it reads: larger images are cut into patches, whose pixels
        become channels.
    """

    channels: tuple[int, ...]
    layers: int
    attention: bool
    groups: int
    side: int


DENOISERS = {
    "nano": UNetSize((32, 64), 1, False, 8, 16),
    "micro": UNetSize((48, 96), 1, False, 8, 16),
    "tiny": UNetSize((32, 64, 64), 1, False, 8, 32),
    "small": UNetSize((64, 128, 128), 1, True, 32, 32),
    "base32": UNetSize((64, 128, 128), 2, True, 32, 32),
    "mid32": UNetSize((96, 192, 192), 2, True, 32, 32),
    "ddpm32": UNetSize((128, 256, 256, 256), 2, True, 32, 32),
}


def import_diffusers():
    """Import diffusers, which takes seconds and which only this module needs.

    Returns
    -------
    diffusers : module

    Raises
    ------
    ImportError
        If it is not installed, or cannot be imported: the message says what to do.
    """
    try:
        import diffusers

        # the package imports its parts when they are asked for: now, not in training
        _ = diffusers.UNet2DModel, diffusers.DDPMScheduler
        _ = diffusers.DPMSolverMultistepScheduler, diffusers.DDIMScheduler
    except Exception as error:  # a broken install raises nearly anything
        raise ImportError(
            "GCC draws images by diffusers, which could not be imported: "
            f"{type(error).__name__}: {str(error).strip().splitlines()[-1:]}. Run "
            "pip install --upgrade diffusers; if the message is about torchvision, "
            "install torch and torchvision of one release together."
        ) from error
    return diffusers


def resolve_denoiser(denoiser, image_shape, device) -> str:
    """Name the denoiser that ``"auto"`` stands for, and check every other one.

    Parameters
    ----------
    denoiser : str
    image_shape : tuple (C, H, W)
    device : torch.device

    Returns
    -------
    denoiser : {"mlp", "nano", "micro", "tiny", "small", "base32", "mid32", "ddpm32"}

    Raises
    ------
    ValueError
        If the name is unknown, or is one for images and the data are vectors.
    """
    vectors = is_vector(image_shape)
    if denoiser == "auto":
        if vectors:
            return "mlp"
        if device.type == "cpu":
            return "nano"
        return "small" if image_shape[0] == 1 else "mid32"
    known = ["mlp", *DENOISERS]
    if denoiser not in known:
        names = ", ".join(map(repr, ["auto", *known]))
        raise ValueError(f"denoiser={denoiser!r} is unknown. Pass one of {names}.")
    if vectors and denoiser != "mlp":
        raise ValueError(
            f"denoiser={denoiser!r} needs images, but X holds vectors. Use "
            "denoiser='mlp', or pass image_shape=(C, H, W) if the rows are images."
        )
    return denoiser


class UNet(nn.Module):
    """U-Net of diffusers for images of any size.

    Images are padded by their edge to a size that halves evenly, and large ones are cut
    into patches, without loss, which makes a step some times cheaper.

    Parameters
    ----------
    image_shape : tuple (C, H, W)
    n_classes : int
        Rows of the class embedding.
    size : UNetSize
    """

    def __init__(self, image_shape, n_classes, size):
        super().__init__()
        channels, height, width = image_shape
        largest, levels = max(height, width), len(size.channels)
        self.patch = 2 ** max(0, math.ceil(math.log2(largest / size.side)))
        multiple = self.patch * 2 ** (levels - 1)
        bottom, right = -height % multiple, -width % multiple
        self.padding, self.size = (0, right, 0, bottom), (height, width)
        plain = levels - 1
        last = ("AttnDownBlock2D", "AttnUpBlock2D")
        down, up = last if size.attention else ("DownBlock2D", "UpBlock2D")
        self.network = import_diffusers().UNet2DModel(
            sample_size=(
                (height + bottom) // self.patch,
                (width + right) // self.patch,
            ),
            in_channels=channels * self.patch**2,
            out_channels=channels * self.patch**2,
            block_out_channels=size.channels,
            layers_per_block=size.layers,
            down_block_types=("DownBlock2D",) * plain + (down,),
            up_block_types=(up,) + ("UpBlock2D",) * plain,
            norm_num_groups=size.groups,
            attention_head_dim=32,
            add_attention=size.attention,
            num_class_embeds=n_classes,
        )

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Map images (b, C, H, W), timesteps (b,) and classes (b,) to (b, C, H, W)."""
        height, width = self.size
        x = F.pixel_unshuffle(F.pad(x, self.padding, mode="replicate"), self.patch)
        out = F.pixel_shuffle(self.network(x, t, labels).sample, self.patch)
        return out[:, :, :height, :width]


class MLPDenoiser(nn.Module):
    """Residual network of linear layers, for vectors.

    Parameters
    ----------
    image_shape : tuple (C, H, W)
        (1, 1, d) for vectors; images are flattened.
    n_classes : int
        Rows of the class embedding.
    width : int
        Of the hidden layers.
    blocks : int
        Residual blocks.
    """

    def __init__(self, image_shape, n_classes, width=MLP_WIDTH, blocks=MLP_BLOCKS):
        super().__init__()
        import_diffusers()
        from diffusers.models.embeddings import TimestepEmbedding, Timesteps

        d = math.prod(image_shape)
        self.into, self.out = nn.Linear(d, width), nn.Linear(width, d)
        # v is nearly a multiple of x, which depends on the noise in it
        self.gate = nn.Linear(width, d)
        self.time = nn.Sequential(
            Timesteps(64, flip_sin_to_cos=True, downscale_freq_shift=0),
            TimestepEmbedding(64, width),
        )
        self.class_embedding = nn.Embedding(n_classes, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, width),
                nn.SiLU(),
                nn.Linear(width, width),
            )
            for _ in range(blocks)
        )

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Map (b, C, H, W), timesteps (b,) and classes (b,) to (b, C, H, W)."""
        flat = x.flatten(1)
        condition = self.time(t) + self.class_embedding(labels)
        h = self.into(flat)
        for block in self.blocks:
            h = h + block(h + condition)
        return (self.out(h) + self.gate(condition) * flat).view_as(x)


class ConditionalDiffusion(nn.Module):
    """Denoising diffusion with classes, one of which stands for no class.

    Parameters
    ----------
    image_shape : tuple (C, H, W)
    n_clusters : int
        Classes; class ``n_clusters`` is the null class of classifier-free guidance.
    denoiser : str
        As :func:`resolve_denoiser` returns it.

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
    steps, batch_size : int
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
