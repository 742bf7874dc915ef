"""From raw values to [0, 1], and from there to those that networks expect."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from .._warnings import warn
from .images import CHUNK, Images
from .layouts import is_vector

MAX_SAMPLES = 10_000  # that the moments are taken from
MAX_VALUES = 2**26  # of the vectors that principal components are taken from
MAX_WIDTH = 4096  # of vectors whose whole covariance is decomposed
CHUNK_VALUES = 2**24  # of the images that are looked through at once
WHITES = (255.0, 65535.0)  # the highest values of 8 and 16 bits
OUTSIDE = 0.1  # share of values out of range that is no matter of outliers
FAINT = 8  # times less than the range are dark images, or images of another range
LOUD = 10  # times the spread of most features: what counts in the average at most
NARROW = 0.5 / 255  # a range within [0, 1] that 8 bits could not resolve


class Scaling(nn.Module):
    """Bring raw values to the range that augmentations and decoders work in.

    Images go to [0, 1]: uint8 by 255, other types by the range of the training data
    unless that lies in [0, 1]. New images of another range are converted or refused.
    Vectors are centred per feature and brought to unit scale: by one common factor, or
    such that no feature varies more than the average does. Then they may be reduced to
    principal components.

    Parameters
    ----------
    images : Images
        The training data; at most 10 000 evenly spaced ones are read for the moments.
    standardize : bool, default=False
        Of vectors, whether features that vary more than the average are scaled down to
        it. The others are not scaled up: they may be noise.
    n_components : int, default=None
        Principal components that wider vectors are reduced to. None keeps all features.

    Attributes
    ----------
    low, span : tensors of shape (), or (1, 1, 1, d)
        Value that becomes 0, and distance to that which becomes 1.
    components : tensor of shape (d, n_components), or (0, 0)
        Orthonormal columns that vectors are projected on, if they are.
    mean, std : tensors of shape (1, C, 1, 1) or (1,)
        Of each channel in [0, 1], for :meth:`standardize`; 0 and 1 for vectors.
    seen : tensor of shape (5,)
        What :meth:`match` compares with: lowest and highest value of the training
        images, lowest of their maxima, highest of their minima, and which value is
        white, 0 if unknown.

    Raises
    ------
    ValueError
        If values, or their squares, do not fit float32.
    """

    low: Tensor
    span: Tensor
    components: Tensor
    mean: Tensor
    std: Tensor
    seen: Tensor

    def __init__(self, images: Images, standardize=False, n_components=None):
        super().__init__()
        seen, components = torch.zeros(5), torch.zeros(0, 0)
        if is_vector(images.shape):
            low, variance, _ = _moments(images, (0,))
            span = variance.mean().sqrt()
            if standardize:
                span = variance.sqrt().clamp_min(_average_spread(variance))
            span = torch.where(span > 0, span, 1.0)
            _check_fits(low, span)
            if n_components is not None and n_components < images.shape[2]:
                components = _principal(images, low, span, n_components)
            if standardize or len(components):
                span = span * _unit(images, low, span, components)
            mean, std = torch.zeros(1), torch.ones(1)
        else:
            values = Values.of(images, look=not images.is_byte)
            low, high, white = values.low, values.high, values.white
            if white == 1 and 0 < high - low < NARROW:
                white = 0.0
            mean, variance, extremes = _moments(images, (0, 2, 3))
            seen = torch.tensor([low, high, *extremes, white])
            if white == 1:
                low, high = 0.0, 1.0
            span = torch.tensor(high - low or 1.0)
            mean, std = (mean - low) / span, variance.sqrt() / span
        _check_fits(low, span, mean, std)
        self.register_buffer("low", torch.as_tensor(low).float())
        self.register_buffer("span", torch.where(span > 0, span, 1.0).float())
        self.register_buffer("components", components)
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", torch.where(std > 1e-6, std, 1.0).float())
        self.register_buffer("seen", seen)

    def forward(self, raw: Tensor) -> Tensor:
        """Raw images of any dtype to float32, [0, 1]; vectors to unit scale."""
        unit = (raw.float() - self.low) / self.span
        return unit @ self.components if len(self.components) else unit

    def shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Shape of what images of ``image_shape`` become."""
        if len(self.components):
            return (1, 1, self.components.shape[1])
        return image_shape

    def inverse(self, unit: Tensor) -> Tensor:
        """Undo :meth:`forward`, in float32: to the range of the training data."""
        if len(self.components):
            unit = unit @ self.components.T
        return unit * self.span + self.low

    def match(self, images: Images) -> Images:
        """Bring new images to the range of the training data.

        Where both have a known white, as in [0, 1], 0 to 255, or 0 to 65535, and not
        the same, values are multiplied. Else they are taken as they are, if they can
        be images of the range of the training data.

        Parameters
        ----------
        images : Images
            Their ``rescale`` is set where values are to be multiplied.

        Returns
        -------
        images : Images

        Raises
        ------
        ValueError
            If values are of another range, and it is not known of which.
        """
        if self.low.ndim or not len(images):  # vectors have no range
            return images
        low, high, faintest, brightest, white = self.seen.tolist()
        if images.is_byte and white == 255:  # nothing to look for
            return images
        values = Values.of(images, look=not (images.is_byte and white))
        if white and values.white:
            highest = values.high * white / values.white
            if len(images) > 1 and 0 < highest < min(white / FAINT, faintest):
                raise ValueError(
                    f"X holds values up to {values.high:g} of {values.white:g}, and "
                    "every image of the training was brighter. Scale X as the training "
                    "data were."
                )
            if white != values.white:
                images.rescale = white, values.white
            return images
        low, high = (0.0, white) if white else (low, high)
        slack = 0.1 * white or high - low or 1.0
        # all of X fainter, or all brighter, than any training image
        below, above = values.high < faintest, brightest < values.low
        least = 0.0 if below and low >= 0 and not white else low - slack
        outside = _share_outside(images, values, least, high + slack)
        faint = low >= 0 and 0 < values.high < high / FAINT and bool(white or below)
        bright = low < 0 <= values.low and above
        if not (outside > OUTSIDE or faint or bright):
            return images
        shift = 0.0 if images.offset is None else float(images.offset)
        said = (
            f"X holds values from {values.low + shift:g} to {values.high + shift:g}, "
            f"but the estimator was fitted on images of {low:g} to {high:g}"
            f"{f', plus {shift:.15g}' if shift else ''}."
        )
        unlike = len(images) > 1 and (bright or (faint and below))
        other = faint and (values.low < 0 or values.white == 1 or images.is_byte)
        if outside > OUTSIDE or unlike or other:
            raise ValueError(f"{said} Scale X as the training data were.")
        warn(f"{said} Unless these images are dark or bright, scale X as those were.")
        return images

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


@dataclass(frozen=True)
class Values:
    """What the values of images tell of their range.

    Attributes
    ----------
    low, high : float
    white : float
        1 in [0, 1]; 255 or 65535 for whole numbers that need as many bits; 0 if it is
        not known.
    """

    low: float
    high: float
    white: float

    @classmethod
    def of(cls, images, look=True):
        """Look through images; uint8 says what white is without that."""
        if not look:
            return cls(0.0, 255.0, 255.0)
        low, high, whole = math.inf, -math.inf, True
        for chunk in images.chunks(_rows_at_once(images)):
            low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
            if whole and chunk.is_floating_point():
                whole = torch.equal(chunk, chunk.round())
        white = 0.0
        if images.is_byte:
            white = 255.0
        elif images.offset is None and low >= 0:
            fits = [white for white in WHITES if whole and white / 2 < high <= white]
            white = 1.0 if high <= 1 else max(fits, default=0.0)
        return cls(low, high, white)


def _rows_at_once(images):
    return max(1, min(CHUNK, CHUNK_VALUES // math.prod(images.shape)))


def _share_outside(images, values, low, high):
    """Share of values out of a range, counted only where there are some."""
    if low <= values.low and values.high <= high:
        return 0.0
    count, total = 0, 0
    for chunk in images.chunks(_rows_at_once(images)):
        count += int(((chunk < low) | (chunk > high)).sum())
        total += chunk.numel()
    return count / total


def _check_fits(*values):
    """Refuse scales that float32 does not hold."""
    if not all(torch.as_tensor(value).float().isfinite().all() for value in values):
        raise ValueError(
            "X holds values that do not fit float32, or whose squares do not. "
            "Scale X, for example by a StandardScaler."
        )


def _average_spread(variance):
    """Root of the mean variance; single features that are far wider count for less."""
    positive = variance[variance > 0]
    if not len(positive):
        return torch.zeros((), dtype=variance.dtype)
    return variance.clamp_max(LOUD**2 * positive.median()).mean().sqrt()


def _principal(images, low, span, n_components):
    """Directions in which scaled vectors vary most, (d, n_components), orthonormal."""
    most = min(MAX_SAMPLES, max(n_components, MAX_VALUES // images.shape[2]))
    step = -(-len(images) // most)
    rows = ((images[::step][0].double() - low) / span).flatten(1).float().numpy()
    if n_components >= len(rows):
        n_components = max(1, len(rows) - 1)
    solver = "covariance_eigh" if rows.shape[1] <= MAX_WIDTH else "randomized"
    with np.errstate(invalid="ignore"):  # constant rows have no variance to share
        pca = PCA(n_components, svd_solver=solver, random_state=0).fit(rows)
    return torch.from_numpy(pca.components_.T.astype("float32"))


def _unit(images, low, span, components):
    """Root of the mean variance of scaled vectors, or of their components."""
    step = -(-len(images) // MAX_SAMPLES)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for start in range(0, len(images), CHUNK * step):
        raw = images[start : start + CHUNK * step : step][0]
        rows = ((raw.double() - low) / span).float()
        rows = rows @ components if len(components) else rows
        total, count = total + rows.double().square().sum(), count + rows.numel()
    unit = (total / count).sqrt()
    return torch.where(unit > 0, unit, 1.0)


def _moments(images, dims):
    """Mean and variance over some dimensions, chunk by chunk, in float64.

    Third, the lowest maximum and the highest minimum of an image.
    """
    step = -(-len(images) // MAX_SAMPLES)
    # a shift of about the mean: else the squares would cancel
    shift = images[: CHUNK * step : step][0].double().mean(dims, keepdim=True)
    count, total, squares = 0, torch.zeros_like(shift), torch.zeros_like(shift)
    faintest, brightest = math.inf, -math.inf
    for start in range(0, len(images), CHUNK * step):
        raw = images[start : start + CHUNK * step : step][0]
        least, most = raw.flatten(1).aminmax(dim=1)
        faintest = min(faintest, float(most.min()))
        brightest = max(brightest, float(least.max()))
        chunk = raw.double() - shift
        total = total + chunk.sum(dims, keepdim=True)
        squares = squares + chunk.square().sum(dims, keepdim=True)
        count += chunk.numel() // shift.numel()
    mean = total / count
    variance = (squares / count - mean.square()).clamp_min(0)
    return shift + mean, variance, (faintest, brightest)
