"""Batched image operations, one parameter an image."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
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
    Tensor of shape (b, C, height, width)
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
