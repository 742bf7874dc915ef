"""What can be told of a bank of generated images."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Annotated, Literal

import torch
from sklearn.utils._param_validation import Interval

from .._parameters import Auto, Count, Declared, NonNegative, Positive, Share
from .denoisers import resolve_denoiser
from .diffusion import TIMESTEPS, check_steps

AUTO_LR = {"mlp": 2e-3, "nano": 2e-3, "micro": 2e-3, "tiny": 2e-3}
LARGE_LR = 2e-4
LATER_STEPS, LATER_LR = 1 / 3, 1 / 4  # shares, after the first round

SamplingSteps = Annotated[int, Interval(Integral, 1, TIMESTEPS, closed="both")]


class Generated(Declared):
    """A bank of generated images: parameters of the diffusion model that makes them.

    Pass it to :class:`GCC` as ``bank``; there ``get_params`` shows the parameters as
    ``bank__steps`` and so on, for a grid search. The model learns the images as they
    are, half of them mirrored if the views are.

    Parameters
    ----------
    denoiser
        Network of the diffusion model: a U-Net ``"nano"``, ``"micro"``, ``"tiny"``,
        ``"small"``, ``"base32"``, ``"mid32"`` or ``"ddpm32"``, or ``"mlp"``.
        ``"auto"`` is ``"mlp"`` for vectors, ``"nano"`` on a CPU, elsewhere ``"small"``
        for one channel and ``"mid32"`` for more. U-Nets cut large images into patches.
    steps
        Optimiser steps of the diffusion model in the first round; a later round takes
        a third of them. ``"auto"`` is 500 on a CPU, 6000 elsewhere.
    batch_size
        Images in an optimiser step of the diffusion model.
    lr
        Highest learning rate of the diffusion model in the first round; a later round
        takes a quarter of it. ``"auto"`` is 2e-3 for ``"mlp"``, ``"nano"``,
        ``"micro"`` and ``"tiny"``, else 2e-4.
    class_dropout
        Share of the images whose cluster the diffusion model is not told in a step.
    guidance_scale
        Strength of the classifier-free guidance with which images are drawn: 0 ignores
        the clusters, 1 is no guidance, above 2 images of a cluster become too much
        alike.
    sampling_steps
        Steps in which an image is drawn, for the bank and by :meth:`GCC.sample`.
    sampler
        Algorithm by which images are drawn. ``"ddim"`` takes a number of sampling steps
        that divides 1000; ``"ddpm"`` is made for all 1000.

    See Also
    --------
    GCC : The method that fills a bank with generated images.

    Examples
    --------
    >>> from skdeepcluster.gcc import GCC, Generated
    >>> model = GCC(10, bank=Generated(steps=2000))
    >>> model.set_params(bank__guidance_scale=2.0).bank
    Generated(guidance_scale=2.0, steps=2000)
    """

    auto_steps = (500, 6000)  # on a CPU, and elsewhere

    denoiser: str = "auto"
    steps: Count | Auto = "auto"
    batch_size: Count = 64
    lr: Positive | Auto = "auto"
    class_dropout: Share = 0.1
    guidance_scale: NonNegative = 1.5
    sampling_steps: SamplingSteps = 15
    sampler: Literal["dpm-solver++", "ddim", "ddpm"] = "dpm-solver++"

    def resolved(
        self, image_shape: tuple[int, int, int], device: torch.device
    ) -> Generated:
        """Return a copy without an ``"auto"``.

        Parameters
        ----------
        image_shape : tuple (C, H, W)
        device : torch.device

        Returns
        -------
        generated : Generated

        Raises
        ------
        ValueError
            If the denoiser is unknown or not one for these data, or if the sampler
            cannot take that number of steps.
        """
        check_steps(self.sampler, self.sampling_steps)
        new = self._with_plain_values()
        new.denoiser = resolve_denoiser(self.denoiser, image_shape, device)
        if new.steps == "auto":
            new.steps = self.auto_steps[device.type != "cpu"]
        if new.lr == "auto":
            new.lr = AUTO_LR.get(new.denoiser, LARGE_LR)
        return new

    def in_round(self, number):
        """Optimiser steps and highest learning rate of a round, counted from 1."""
        if number == 1:
            return self.steps, self.lr
        return math.ceil(LATER_STEPS * self.steps), LATER_LR * self.lr
