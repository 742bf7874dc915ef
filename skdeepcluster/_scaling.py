"""From raw values to those that augmentations and networks expect."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._images import CHUNK, Images
from ._layouts import is_vector

MAX_SAMPLES = 10_000  # that the moments are taken from


class Scaling(nn.Module):
    """Bring raw values to the range that augmentations and networks expect.

    Images go to [0, 1] for the augmentations (uint8 by 255, other types by the range
    of the training data unless that lies in [0, 1]), then to zero mean and unit
    standard deviation per channel. Vectors are centred per feature and divided by one
    common standard deviation: their features keep their relative scale, as in k-means.

    Parameters
    ----------
    images : Images
        The training data; at most 10 000 evenly spaced ones are read for the moments.
    """

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

    def unit(self, raw: Tensor) -> Tensor:
        """Raw images of any dtype to float32, [0, 1]; vectors to unit scale."""
        if raw.dtype == torch.uint8 and self.reads_uint8:
            return raw.float() / 255
        return (raw.float() - self.low) / self.span

    def standardize(self, unit: Tensor) -> Tensor:
        """Images in [0, 1] to zero mean and unit variance per channel."""
        return (unit - self.mean) / self.std

    def unstandardize(self, x: Tensor) -> Tensor:
        """Undo :meth:`standardize`."""
        return x * self.std + self.mean

    def raw(self, unit: Tensor) -> Tensor:
        """Undo :meth:`unit`, in float32: to the range of the training data."""
        return unit * self.span + self.low

    def forward(self, raw: Tensor) -> Tensor:
        """Both steps: what the networks see of an image that is not augmented."""
        return self.standardize(self.unit(raw))


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
    shift, count, total, squares = None, 0, 0.0, 0.0
    for start in range(0, len(images), CHUNK * step):
        chunk = images[start : start + CHUNK * step : step][0].double()
        if shift is None:  # of about the mean: else the squares would cancel
            shift = chunk.mean(dims, keepdim=True)
        chunk = chunk - shift
        total = total + chunk.sum(dims, keepdim=True)
        squares = squares + chunk.square().sum(dims, keepdim=True)
        count += chunk.numel() // shift.numel()
    mean = total / count
    return shift + mean, (squares / count - mean.square()).clamp_min(0)
