"""From raw values to [0, 1], and from there to those that networks expect."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .images import CHUNK, Images
from .layouts import is_vector

MAX_SAMPLES = 10_000  # that the moments are taken from


class Scaling(nn.Module):
    """Bring raw values to the range that augmentations and decoders work in.

    Images go to [0, 1]: uint8 by 255, other types by the range of the training data
    unless that lies in [0, 1]. Vectors are centred per feature and divided by one
    common standard deviation: their features keep their relative scale, as in k-means.

    Parameters
    ----------
    images : Images
        The training data; at most 10 000 evenly spaced ones are read for the moments.

    Attributes
    ----------
    mean, std : tensors of shape (1, C, 1, 1) or (1,)
        Of each channel in [0, 1], for :meth:`standardize`; 0 and 1 for vectors.

    Raises
    ------
    ValueError
        If values, or their squares, do not fit float32.
    """

    low: Tensor
    span: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, images: Images):
        super().__init__()
        if is_vector(images.shape):
            low, variance = _moments(images, (0,))
            span = variance.mean().sqrt()
            mean, std = torch.zeros(1), torch.ones(1)
        else:
            low, high = _range(images)
            span = torch.tensor(high - low or 1.0)
            mean, variance = _moments(images, (0, 2, 3))
            mean, std = (mean - low) / span, variance.sqrt() / span
        scales = [torch.as_tensor(value).float() for value in (low, span, mean, std)]
        if not all(value.isfinite().all() for value in scales):
            raise ValueError(
                "X holds values that do not fit float32, or whose squares do not. "
                "Scale X, for example by a StandardScaler."
            )
        self.register_buffer("low", torch.as_tensor(low).float())
        self.register_buffer("span", torch.where(span > 0, span, 1.0).float())
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", torch.where(std > 1e-6, std, 1.0).float())
        # float images in [0, 1] and uint8 ones are the same images
        self.reads_uint8 = not is_vector(images.shape) and (low, high) in (
            (0.0, 1.0),
            (0.0, 255.0),
        )

    def forward(self, raw: Tensor) -> Tensor:
        """Raw images of any dtype to float32, [0, 1]; vectors to unit scale."""
        if raw.dtype == torch.uint8 and self.reads_uint8:
            return raw.float() / 255
        return (raw.float() - self.low) / self.span

    def inverse(self, unit: Tensor) -> Tensor:
        """Undo :meth:`forward`, in float32: to the range of the training data."""
        return unit * self.span + self.low

    def standardize(self) -> Standardize:
        """Return the layer that networks of these images begin with."""
        return Standardize(self.mean, self.std)


class Standardize(nn.Module):
    """First layer of an encoder: zero mean and unit standard deviation per channel.

    Parameters
    ----------
    mean, std : tensors of shape (1, C, 1, 1) or (1,)
        Of images in [0, 1]. Those of vectors are 0 and 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    def forward(self, unit: Tensor) -> Tensor:
        """Standardise images (b, C, H, W)."""
        return (unit - self.mean) / self.std


def _range(images):
    """Values that become 0 and 1."""
    if images[0:1][0].dtype == torch.uint8:
        return 0.0, 255.0
    ranges = [(float(chunk.min()), float(chunk.max())) for chunk in images.chunks()]
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def _moments(images, dims):
    """Mean and variance over some dimensions, chunk by chunk, in float64."""
    step = -(-len(images) // MAX_SAMPLES)
    # a shift of about the mean: else the squares would cancel
    shift = images[: CHUNK * step : step][0].double().mean(dims, keepdim=True)
    count, total, squares = 0, torch.zeros_like(shift), torch.zeros_like(shift)
    for start in range(0, len(images), CHUNK * step):
        chunk = images[start : start + CHUNK * step : step][0].double() - shift
        total = total + chunk.sum(dims, keepdim=True)
        squares = squares + chunk.square().sum(dims, keepdim=True)
        count += chunk.numel() // shift.numel()
    mean = total / count
    return shift + mean, (squares / count - mean.square()).clamp_min(0)
