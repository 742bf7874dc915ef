"""Random views of a whole batch at once, with parameters drawn for each image.

Images are floating tensors (b, C, H, W) with values in [0, 1]; vectors travel as
(b, 1, 1, d) with centred, unit-scale values. The functions take their parameters as
tensors (b,), one value an image, and equal their torchvision namesakes image by
image. The modules draw the parameters from torch's generator of the batch's device.
The recipes are the views that the estimators know by name.

Nothing writes into its input, waits for the GPU or goes through a matrix product or
a convolution, which autocast and TF32 would round. Where there are four channels the
last is alpha: colour operations leave it alone.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def resized_crop(
    x: Tensor,
    boxes: Tensor,
    size: tuple[int, int] | None = None,
    angle: Tensor | None = None,
    flip: Tensor | None = None,
) -> Tensor:
    """Rotate, crop, resize and mirror each image in one bilinear resampling.

    Without `angle` equal to torchvision's ``resized_crop`` (bilinear, no antialiasing),
    with `angle` and boxes of the whole image to ``rotate`` (bilinear, ``fill=0``).
    Coordinates are rounded to about 1e-7 of the image side.

    Parameters
    ----------
    x : Tensor of shape (b, C, H, W)
        Images.
    boxes : Tensor of shape (b, 4)
        Integers (top, left, height, width) within the image.
    size : (int, int), optional
        Height and width of the output; (H, W) by default.
    angle : Tensor of shape (b,), optional
        Degrees, counter-clockwise, about the centre of the image.
    flip : bool Tensor of shape (b,), optional
        Which images to mirror left to right, after the crop.

    Returns
    -------
    Tensor of shape (b, C, *size)
        0 where a rotation looks outside the image.
    """
    height, width = x.shape[2:]
    out_height, out_width = size or (height, width)
    top, left, box_height, box_width = boxes.to(x.dtype).unbind(1)
    rows = _source_positions(top, box_height, out_height)
    cols = _source_positions(left, box_width, out_width)
    if flip is not None:
        cols = torch.where(flip[:, None], cols.flip(1), cols)
    # From here on in pixels from the centre of the image.
    rows = (rows - (height - 1) / 2)[:, :, None]
    cols = (cols - (width - 1) / 2)[:, None, :]
    if angle is not None:
        angle = torch.deg2rad(angle)[:, None, None]
        cos, sin = torch.cos(angle), torch.sin(angle)
        rows, cols = cos * rows + sin * cols, cos * cols - sin * rows
    grid = torch.broadcast_tensors(cols * (2 / width), rows * (2 / height))
    # Stacked in front and permuted: stacking innermost costs as much as sampling.
    grid = torch.stack(grid, dim=1).permute(0, 2, 3, 1)
    out = F.grid_sample(x, grid, align_corners=False)
    if angle is not None:
        # The bilinear weights fade to 0 over the border already; torchvision's fill
        # multiplies by the same weights once more.
        for position, side in (rows, height), (cols, width):
            out *= position.abs_().neg_().add_((side + 1) / 2).clamp_(0, 1)[:, None]
    return out


def _source_positions(start: Tensor, length: Tensor, n_out: int) -> Tensor:
    """Where in the image each of `n_out` pixels looks, never beyond its crop."""
    centres = torch.arange(n_out, device=start.device, dtype=start.dtype) + 0.5
    offsets = (centres * (length / n_out)[:, None] - 0.5).clamp_(min=0)
    return start[:, None] + torch.minimum(offsets, length[:, None] - 1)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def horizontal_flip(x: Tensor, flip: Tensor) -> Tensor:
    """Mirror left to right the images where `flip`, a bool Tensor (b,), is true."""
    return torch.where(_per_image(flip), x.flip(3), x)


def rgb_to_grayscale(x: Tensor) -> Tensor:
    """Return the luma (b, 1, H, W) of RGB or RGBA images; grey ones as they are."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x[:, :3].unbind(1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)[:, None]


def _sparing_alpha(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(operation)
    def spared(x: Tensor, factor: Tensor) -> Tensor:
        if x.shape[1] != 4:
            return operation(x, factor)
        return torch.cat((operation(x[:, :3], factor), x[:, 3:]), dim=1)

    return spared


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    # A multiply and an add: three times as fast as `lerp` with broadcast weights.
    factor = _per_image(factor)
    return (x * factor).add_((1 - factor) * other).clamp_(0, 1)


@_sparing_alpha
def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply each image by its factor >= 0 and clip to [0, 1]."""
    return (x * _per_image(factor)).clamp_(0, 1)


@_sparing_alpha
def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Scale each image about its mean grey by its factor >= 0 and clip to [0, 1].

    The mean is of the luma of RGB, of all values where there is no RGB.
    """
    grey = rgb_to_grayscale(x) if x.shape[1] == 3 else x
    return _blend(x, grey.mean(dim=(1, 2, 3), keepdim=True), factor)


@_sparing_alpha
def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Move each RGB image from its greys (factor 0) to itself (1) and beyond.

    Clipped to [0, 1]. Images that are not RGB or RGBA are returned as they are.
    """
    return _blend(x, rgb_to_grayscale(x), factor) if x.shape[1] == 3 else x


@_sparing_alpha
def adjust_hue(x: Tensor, factor: Tensor) -> Tensor:
    """Turn the hue of each RGB image, in HSV space, by a share of the full circle.

    The factor is in [-0.5, 0.5]; 0 leaves the image as it is, but for rounding.
    Images that are not RGB or RGBA are returned as they are.
    """
    if x.shape[1] != 3:
        return x
    red, green, blue = x.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    # Which channel leads decides the formula; `lerp` by 0 or 1 chooses it exactly and,
    # on a CPU, in half the time of `where`, which branches at every pixel.
    per_chroma = chroma.clamp(min=1e-12).reciprocal_()
    hue = (red - green).mul_(per_chroma).add_(4)
    hue.lerp_((blue - red).mul_(per_chroma).add_(2), (high == green).to(x.dtype))
    hue.lerp_((green - blue).mul_(per_chroma), (high == red).to(x.dtype))
    hue += 6 * factor[:, None, None]
    hue -= torch.floor(hue / 6) * 6  # `remainder` is slower
    # With value and chroma kept each channel is a clipped triangle of the hue, so
    # that neither the saturation nor the six sectors of HSV are needed.
    channels = (hue - 3).abs_().sub_(1), 2 - (hue - 2).abs_(), 2 - (hue - 4).abs_()
    tone = torch.stack(channels, dim=1).clamp_(0, 1)
    return torch.addcmul(low[:, None], chroma[:, None], tone).clamp_(0, 1)


def gaussian_blur(x: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur each image by its own Gaussian, with reflected borders.

    `sigma` (b,) is in pixels, positive; `kernel_size` is the number of taps in each
    direction: odd, and less than twice the shorter side, or a ValueError is raised.
    """
    side, radius = min(x.shape[2:]), kernel_size // 2
    if kernel_size % 2 == 0 or radius >= side:
        raise ValueError(
            f"kernel_size={kernel_size} does not suit images with a side of {side} "
            f"pixels; expected an odd number below {2 * side}."
        )
    taps = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    weights = torch.softmax(-0.5 * (taps / sigma[:, None]) ** 2, dim=1)
    for dim, padding in (2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0)):
        padded, length = F.pad(x, padding, mode="reflect"), x.shape[dim]
        x = padded.narrow(dim, 0, length) * _per_image(weights[:, 0])
        for tap in range(1, kernel_size):
            x.addcmul_(padded.narrow(dim, tap, length), _per_image(weights[:, tap]))
    return x


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
    area = torch.empty(n, 10, device=device).uniform_(*scale) * (height * width)
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.empty(n, 10, device=device).uniform_(*log_ratio).exp_()
    heights = (area / aspect).sqrt_().round_().long()
    widths = (area * aspect).sqrt_().round_().long()
    fits = (0 < heights) & (heights <= height) & (0 < widths) & (widths <= width)
    first = fits.int().argmax(dim=1, keepdim=True)
    h, w = heights.gather(1, first)[:, 0], widths.gather(1, first)[:, 0]
    top, left = torch.rand(2, n, device=device)
    drawn = (top * (height - h + 1)).long(), (left * (width - w + 1)).long(), h, w

    h = min(height, round(width / ratio[0]))
    w = min(width, round(height * ratio[1]))
    centred = (height - h) // 2, (width - w) // 2, h, w
    fits = fits.any(dim=1)
    pairs = zip(drawn, centred, strict=True)
    return torch.stack([torch.where(fits, *pair) for pair in pairs], dim=1)


def _uniform(x: Tensor, low: float, high: float) -> Tensor:
    return torch.empty(len(x), device=x.device, dtype=x.dtype).uniform_(low, high)


def _chosen(x: Tensor, p: float) -> Tensor:
    return torch.rand(len(x), device=x.device) < p


@dataclass(eq=False, repr=False)
class _Augmentation(nn.Module):
    """A module without weights; its fields are its settings."""

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
        for i in torch.randperm(4).tolist():  # on the CPU: no wait for a GPU
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

    std: float = 0.1

    def forward(self, x: Tensor) -> Tensor:
        """Return the vectors, every value with its own deviation."""
        return torch.randn_like(x).mul_(self.std).add_(x)


@dataclass(eq=False, repr=False)
class FeatureMask(_Augmentation):
    """Set each feature of each vector to 0, its mean, with probability `p`."""

    p: float = 0.15

    def forward(self, x: Tensor) -> Tensor:
        """Return the vectors with some values 0."""
        return x.masked_fill(torch.rand_like(x) < self.p, 0)


def simclr(min_area: float = 0.2, blur: int = 0) -> nn.Module:
    """Make views of colour photographs: crop, mirror, recolour, turn grey.

    From Chen et al. (2020), "A Simple Framework for Contrastive Learning of Visual
    Representations", with colour strength 0.5. They crop from `min_area` 0.08 and,
    except on CIFAR-10, blur with a `blur`, the odd kernel size, of a tenth of the
    image side. The defaults are milder: for small images and short training.
    """
    return nn.Sequential(
        RandomResizedCrop(scale=(min_area, 1.0), flip=0.5),
        ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        RandomGrayscale(p=0.2),
        GaussianBlur(blur) if blur else nn.Identity(),
    )


def digits() -> nn.Module:
    """Make views of grey images whose orientation and stroke matter: no mirror."""
    crop = RandomResizedCrop(scale=(0.5, 1.0), degrees=12.0)
    return nn.Sequential(crop, ColorJitter(brightness=0.4, contrast=0.4))


def weak() -> nn.Module:
    """Make views that keep colour and orientation: crops of 0.8 to all of the area."""
    return RandomResizedCrop(scale=(0.8, 1.0))


def vector() -> nn.Module:
    """Make views of centred, unit-scale vectors: add noise, set some features to 0."""
    return nn.Sequential(GaussianNoise(std=0.1), FeatureMask(p=0.15))


RECIPES: dict[str, Callable[[], nn.Module]] = {
    recipe.__name__: recipe for recipe in (simclr, digits, weak, vector)
}


def make_augmentation(
    augment: str | Callable[[Tensor], Tensor], image_shape: tuple[int, int, int]
) -> Callable[[Tensor], Tensor]:
    """Return the augmentation that an estimator's `augment` stands for.

    What you make invariant you stop clustering by. ``"auto"`` is ``"vector"`` for
    vectors, ``"digits"`` for one-channel images and ``"simclr"`` for all others,
    which **mirrors and recolours**. To cluster by colour or by orientation pass
    ``"weak"``, or a callable that changes only what does not matter to you.

    Parameters
    ----------
    augment : "auto", a name in RECIPES or callable
        A callable maps a batch (b, C, H, W) to one of the same shape, and is
        returned as it is: images in [0, 1], or vectors (b, 1, 1, d).
    image_shape : (int, int, int)
        (C, H, W); (1, 1, d) stands for vectors.

    Raises
    ------
    ValueError
        If the name is unknown, or is one for images and the data are vectors, or
        the other way round.
    TypeError
        If `augment` is neither a string nor callable.
    """
    if not isinstance(augment, str):
        if callable(augment):
            return augment
        raise TypeError(
            f"augment={augment!r} is neither a string nor callable; pass 'auto', one "
            f"of {sorted(RECIPES)} or a callable from batch to batch "
            "(torch.nn.Identity() for no augmentation)."
        )
    if image_shape[0] == image_shape[1] == 1:
        kind, known, auto = "vectors", ["vector"], "vector"
        hint = "; flattened images need image_shape=(C, H, W)"
    else:
        kind, known, hint = "images", sorted(RECIPES.keys() - {"vector"}), ""
        auto = "digits" if image_shape[0] == 1 else "simclr"
    name = auto if augment == "auto" else augment
    if name not in known:
        raise ValueError(
            f"augment={name!r} is no recipe for {kind} of shape {tuple(image_shape)}; "
            f"pass 'auto', one of {known} or a callable from batch to batch{hint}."
        )
    return RECIPES[name]()
