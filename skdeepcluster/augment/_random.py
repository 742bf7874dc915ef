"""Modules that draw the parameters of an operation for each image."""

import math
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor, nn

from .._engine.randomness import generator
from ._functional import (
    _per_image,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    gaussian_blur,
    horizontal_flip,
    resized_crop,
)


def random_boxes(
    n: int,
    height: int,
    width: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw int64 boxes (n, 4) as torchvision's ``RandomResizedCrop`` does.

    The area's share and the logarithm of width / height are uniform in `scale` and
    `ratio`; the first of ten attempts that fits is placed uniformly; where none fits
    it is the largest centred crop with a ratio in the range. A row is (top, left,
    height, width).
    """
    own = generator(device or "cpu")
    area = torch.empty(n, 10, device=device).uniform_(*scale, generator=own)
    area *= height * width
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.empty(n, 10, device=device).uniform_(*log_ratio, generator=own)
    aspect.exp_()
    heights = (area / aspect).sqrt_().round_().long()
    widths = (area * aspect).sqrt_().round_().long()
    fits = (0 < heights) & (heights <= height) & (0 < widths) & (widths <= width)
    first = fits.int().argmax(dim=1, keepdim=True)
    h, w = heights.gather(1, first)[:, 0], widths.gather(1, first)[:, 0]
    top, left = torch.rand(2, n, device=device, generator=own)
    drawn = (top * (height - h + 1)).long(), (left * (width - w + 1)).long(), h, w

    tall, wide = (
        min(height, round(width / ratio[0])),
        min(width, round(height * ratio[1])),
    )
    centred = (height - tall) // 2, (width - wide) // 2, tall, wide
    fits = fits.any(dim=1)
    pairs = zip(drawn, centred, strict=True)
    return torch.stack([torch.where(fits, *pair) for pair in pairs], dim=1)


def _uniform(x: Tensor, low: float, high: float) -> Tensor:
    values = torch.empty(len(x), device=x.device, dtype=x.dtype)
    return values.uniform_(low, high, generator=generator(x.device))


def _chosen(x: Tensor, p: float) -> Tensor:
    return torch.rand(len(x), device=x.device, generator=generator(x.device)) < p


@dataclass(eq=False, repr=False)
class _Augmentation(nn.Module):
    """A module without weights; its fields are its settings."""

    of_images: ClassVar[bool] = True  # not of vectors

    def __post_init__(self):
        super().__init__()

    def extra_repr(self) -> str:
        return ", ".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))


@dataclass(eq=False, repr=False)
class RandomResizedCrop(_Augmentation):
    """Crop and resize back; rotate and mirror in the same resampling.

    Parameters
    ----------
    scale, ratio : (float, float)
        Ranges of the crop's area, as a share of the image's, and of width / height.
    degrees : float
        Angles are uniform in [-degrees, degrees]; what comes from outside is 0.
    flip : float
        Probability to mirror left to right.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    degrees: float = 0.0
    flip: float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Return a crop of each image, in the size of the image."""
        n, _, height, width = x.shape
        boxes = random_boxes(n, height, width, self.scale, self.ratio, x.device)
        angle = _uniform(x, -self.degrees, self.degrees) if self.degrees else None
        flip = _chosen(x, self.flip) if self.flip else None
        return resized_crop(x, boxes, angle=angle, flip=flip)


@dataclass(eq=False, repr=False)
class RandomHorizontalFlip(_Augmentation):
    """Mirror each image left to right with probability `p`."""

    p: float = 0.5

    def forward(self, x: Tensor) -> Tensor:
        """Return the images, some mirrored."""
        return horizontal_flip(x, _chosen(x, self.p))


@dataclass(eq=False, repr=False)
class ColorJitter(_Augmentation):
    """Change brightness, contrast, saturation and hue, as torchvision's namesake.

    Factors are drawn for each image, the order of the operations once a batch.

    Parameters
    ----------
    brightness, contrast, saturation : float
        Factors are uniform in [1 - strength, 1 + strength]; at most 1.
    hue : float
        Turns are uniform in [-hue, hue]; at most 0.5.
    p : float
        Probability of an image to be changed.

    Raises
    ------
    ValueError
        If a strength is out of its range.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    p: float = 1.0

    def __post_init__(self):
        """Refuse strengths out of range."""
        super().__post_init__()
        strengths = self.brightness, self.contrast, self.saturation, 2 * self.hue
        if min(strengths) < 0 or max(strengths) > 1:
            raise ValueError(
                f"{self} has a strength out of range; brightness, contrast and "
                "saturation go from 0 to 1 and hue from 0 to 0.5."
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the images with other colours, in [0, 1]."""
        operations = (
            (adjust_brightness, self.brightness, 1),
            (adjust_contrast, self.contrast, 1),
            (adjust_saturation, self.saturation, 1),
            (adjust_hue, self.hue, 0),
        )
        chosen = _chosen(x, self.p)
        order = torch.randperm(
            4, generator=generator()
        )  # on the CPU: no wait for a GPU
        for i in order.tolist():
            operation, strength, neutral = operations[i]
            if strength:
                x = operation(x, neutral + chosen * _uniform(x, -strength, strength))
        return x


@dataclass(eq=False, repr=False)
class RandomGrayscale(_Augmentation):
    """Take the colour out of each RGB or RGBA image with probability `p`."""

    p: float = 0.1

    def forward(self, x: Tensor) -> Tensor:
        """Return the images, some with equal colour channels."""
        return adjust_saturation(x, (~_chosen(x, self.p)).to(x.dtype))


@dataclass(eq=False, repr=False)
class GaussianBlur(_Augmentation):
    """Blur each image with probability `p`, `sigma` uniform in its range of pixels."""

    kernel_size: int
    sigma: tuple[float, float] = (0.1, 2.0)
    p: float = 0.5

    def forward(self, x: Tensor) -> Tensor:
        """Return the images, some blurred."""
        blurred = gaussian_blur(x, _uniform(x, *self.sigma), self.kernel_size)
        return torch.where(_per_image(_chosen(x, self.p)), blurred, x)


@dataclass(eq=False, repr=False)
class GaussianNoise(_Augmentation):
    """Add Gaussian noise of standard deviation `std` to vectors, unclipped."""

    of_images = False
    std: float = 0.1

    def forward(self, x: Tensor) -> Tensor:
        """Return the vectors, every value with its own deviation."""
        noise = torch.empty_like(x).normal_(generator=generator(x.device))
        return noise.mul_(self.std).add_(x)


@dataclass(eq=False, repr=False)
class FeatureMask(_Augmentation):
    """Set each feature of each vector to 0, its mean, with probability `p`."""

    of_images = False
    p: float = 0.15

    def forward(self, x: Tensor) -> Tensor:
        """Return the vectors with some values 0."""
        chance = torch.empty_like(x).uniform_(generator=generator(x.device))
        return x.masked_fill(chance < self.p, 0)
