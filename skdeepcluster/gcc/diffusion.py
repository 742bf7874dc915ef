"""A class-conditional diffusion model: noise, guidance, drawing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._engine.randomness import generator
from .._engine.shares import in_shares
from .._input.layouts import is_vector
from .._progress import shows_bars
from .._warnings import ignored
from .denoisers import DENOISERS, MLPDenoiser, UNet, import_diffusers

TIMESTEPS = 1000
SAMPLING_BATCH = 256


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
    null : int
        The null class.
    scheduler : diffusers.DDPMScheduler
        1000 timesteps of the squared cosine schedule; the network predicts v.

    References
    ----------
    Ho, Jain and Abbeel, *Denoising Diffusion Probabilistic Models*, 2020. Nichol and
    Dhariwal, *Improved Denoising Diffusion Probabilistic Models*, 2021 (the schedule).
    Salimans and Ho, *Progressive Distillation for Fast Sampling of Diffusion Models*,
    2022 (v-prediction). Ho and Salimans, *Classifier-Free Diffusion Guidance*, 2022.
    """

    def __init__(self, image_shape, n_clusters, denoiser):
        super().__init__()
        self.image_shape, self.null = tuple(image_shape), n_clusters
        self.bounded = not is_vector(image_shape)
        with torch.device("cpu"):  # where the networks are built on no device at all
            self.scheduler = import_diffusers().DDPMScheduler(
                num_train_timesteps=TIMESTEPS,
                beta_schedule="squaredcos_cap_v2",
                prediction_type="v_prediction",
            )
        self.denoiser: nn.Module = (
            MLPDenoiser(image_shape, n_clusters + 1)
            if denoiser == "mlp"
            else UNet(image_shape, n_clusters + 1, DENOISERS[denoiser])
        )

    def from_unit(self, unit: Tensor) -> Tensor:
        """Images in [0, 1] to [-1, 1]; vectors stay at unit scale."""
        return 2 * unit - 1 if self.bounded else unit

    def to_unit(self, x: Tensor) -> Tensor:
        """Undo :meth:`from_unit`; images are cut to [0, 1]."""
        return (0.5 * (x + 1)).clamp(0, 1) if self.bounded else x

    def denoise(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Predict v at timesteps t (b,): float32, under autocast too, shape of x."""
        return in_shares(lambda *rows: self.denoiser(*rows).float(), x, t, labels)

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
        t = torch.randint(
            TIMESTEPS, (len(x0),), device=x0.device, generator=generator(x0.device)
        )
        noise = torch.empty_like(x0).normal_(generator=generator(x0.device))
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
        self, labels: Tensor, guidance_scale: float, n_steps: int, sampler: str
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
        # diffusers hands numpy a tensor, of which numpy 2 warns
        with ignored(DeprecationWarning, "__array__"):
            scheduler.set_timesteps(n_steps, device=labels.device)
        own = generator(labels.device)
        shape = (len(labels), *self.image_shape)
        x = torch.randn(shape, device=labels.device, generator=own)
        x = x.contiguous(memory_format=torch.channels_last)
        for t in scheduler.timesteps:
            v = self.guided(x, t, labels, guidance_scale)
            x = scheduler.step(v, t, x, generator=own).prev_sample
        return self.to_unit(x)

    def sample_all(
        self,
        labels: Tensor,
        guidance_scale: float,
        n_steps: int,
        sampler: str,
        bar: str | None = None,
    ) -> Tensor:
        """Draw any number of images, some hundred at a time.

        Parameters
        ----------
        labels : int64 tensor of shape (n,)
        guidance_scale, n_steps, sampler
            As for :meth:`sample`.
        bar : str, optional
            Title of a progress bar; none without, and none off a terminal.

        Returns
        -------
        unit : tensor of shape (n, C, H, W)
        """
        from tqdm.auto import tqdm

        drawn, hidden = [], not (bar and shows_bars())
        with tqdm(total=len(labels), desc=bar, unit="image", disable=hidden) as shown:
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
