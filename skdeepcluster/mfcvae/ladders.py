"""Ladder networks: facet j leaves the encoder at depth j and joins the decoder there.

Facets are numbered from the shallow to the deep ones. Zhao, Song and Ermon, *Learning
Hierarchical Features from Generative Models*, 2017; the sizes follow the code of
Falck et al., 2021.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

GATE = 0.1  # of a rung that is added to what comes from above
MAX_LOG_VAR = 10.0


class _ELU(torch.autograd.Function):
    """``max(x, exp(x) - 1)``, with the gradient from what it returns."""

    @staticmethod
    def forward(ctx, x):
        out = torch.maximum(x, x.clamp(-30, 0).exp_().sub_(1))
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx, gradient):
        (out,) = ctx.saved_tensors
        return gradient * (out.clamp_max(0) + 1)


class ELU(nn.Module):
    """ELU; on a CPU by ``exp``, since torch's ``expm1`` there is many times slower."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to each value; errors are below 1e-7, absolute."""
        if x.device.type != "cpu":
            return nn.functional.elu(x)
        wide = x if x.dtype == torch.float64 else x.float()
        return _ELU.apply(wide).to(x.dtype)


class LadderEncoder(nn.Module):
    """Means and log-variances of all facets, from one chain of blocks.

    Parameters
    ----------
    blocks, rungs : lists of J modules
        Block j feeds block j + 1 and rung j.
    heads : list of J modules
        On a rung: (b, width) -> (b, 2 d_j).
    """

    def __init__(self, blocks, rungs, heads):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.rungs, self.heads = nn.ModuleList(rungs), nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, C, H, W) to [means | log-variances] of all facets, (b, 2 D)."""
        means, log_vars = [], []
        for block, rung, head in zip(self.blocks, self.rungs, self.heads, strict=True):
            x = block(x)
            mean, log_var = head(rung(x)).chunk(2, dim=1)
            means.append(mean)
            log_vars.append(log_var.clamp(-MAX_LOG_VAR, MAX_LOG_VAR))
        return torch.cat(means + log_vars, dim=1)


class LadderDecoder(nn.Module):
    """Turn latents into an image, from the deepest facet to the shallowest.

    Parameters
    ----------
    latent_dims : tuple of J ints
    blocks, rungs : lists of J modules
        Block j brings level j to level j - 1; rung j brings z_j to level j.
    gate : float or None
        Factor of a rung that is added to what comes from above; None: they are
        concatenated, the rung first.
    """

    def __init__(self, latent_dims, blocks, rungs, gate=None):
        super().__init__()
        self.latent_dims, self.gate = tuple(latent_dims), gate
        self.blocks, self.rungs = nn.ModuleList(blocks), nn.ModuleList(rungs)

    def forward(self, z: Tensor, alpha: list[float]) -> Tensor:
        """Decode.

        Parameters
        ----------
        z : tensor of shape (b, D)
            All facets side by side.
        alpha : list of J floats
            How far each facet is faded in; the image does not depend on z_j where
            alpha_j is 0.

        Returns
        -------
        out : tensor of shape (b, C, H, W)
            Before the output's non-linearity.
        """
        *parts, top = z.split(self.latent_dims, dim=1)
        x = self.blocks[-1](alpha[-1] * self.rungs[-1](top))
        for j in reversed(range(len(parts))):
            rung = alpha[j] * self.rungs[j](parts[j])
            concatenates = self.gate is None
            x = torch.cat([rung, x], dim=1) if concatenates else self.gate * rung + x
            x = self.blocks[j](x)
        return x


class SharedDecoder(nn.Module):
    """Turn all facets into an image at once: the ablation of the ladder.

    Parameters
    ----------
    latent_dims : tuple of J ints
    decoder : Module
        Of one facet, as wide as all of them.
    """

    def __init__(self, latent_dims, decoder):
        super().__init__()
        self.latent_dims, self.decoder = tuple(latent_dims), decoder

    def forward(self, z: Tensor, alpha: list[float]) -> Tensor:
        """Decode as :class:`LadderDecoder` does; alpha fades z itself."""
        parts = z.split(self.latent_dims, dim=1)
        faded = [a * part for a, part in zip(alpha, parts, strict=True)]
        return self.decoder(torch.cat(faded, dim=1), [1.0])


def mlp_ladder(
    image_shape: tuple[int, int, int],
    latent_dims: tuple[int, ...],
    hidden_dims: tuple[int, ...],
    shared: bool = False,
) -> tuple[nn.Module, nn.Module]:
    """Fully connected ladder, for vectors and small images.

    Parameters
    ----------
    image_shape : tuple (C, H, W)
    latent_dims : tuple of J ints
    hidden_dims : tuple of J ints
        Width of each block; (500, 2000) for MNIST in the paper's code.
    shared : bool, default=False
        Whether all facets leave the encoder, and enter the decoder, at its top.

    Returns
    -------
    encoder : Module
        (b, C, H, W) -> (b, 2 D), see :class:`LadderEncoder`.
    decoder : Module
        (b, D), J factors -> (b, C, H, W), see :class:`LadderDecoder`.
    """
    n_features = math.prod(image_shape)
    encode, rungs_up, heads, decode, rungs_down = [], [], [], [], []
    below = n_features
    for j, (dim, width) in enumerate(_levels(latent_dims, hidden_dims, shared)):
        encode.append(nn.Sequential(nn.Linear(below, width), nn.ReLU()))
        rungs_up.append(nn.Identity())
        heads.append(nn.Linear(width, 2 * dim))
        rungs_down.append(nn.Sequential(nn.Linear(dim, width), nn.ReLU()))
        back = width if j == 0 else below
        decode.append(nn.Sequential(nn.Linear(width, back), nn.ReLU()))
        below = width
    encode[0].insert(0, nn.Flatten())
    output = nn.Linear(hidden_dims[0], n_features), nn.Unflatten(1, image_shape)
    decode[0].extend(output)
    if shared:
        return _shared(latent_dims, encode, rungs_up, heads, decode, rungs_down)
    encoder = LadderEncoder(encode, rungs_up, heads)
    return encoder, LadderDecoder(latent_dims, decode, rungs_down, gate=GATE)


def conv_ladder(
    image_shape: tuple[int, int, int],
    latent_dims: tuple[int, ...],
    hidden_dims: tuple[int, ...],
    shared: bool = False,
    normalize_output: bool = False,
) -> tuple[nn.Module, nn.Module]:
    """Convolutional ladder, for images of any size: each block halves them.

    Its layers are those of the paper's code for two facets. For more, the first
    transposed convolution of the deeper blocks has half as many channels as there.

    Parameters
    ----------
    image_shape : tuple (C, H, W)
    latent_dims : tuple of J ints
    hidden_dims : tuple of J ints
        Channels of each block; (64, 128) in the paper's code.
    shared : bool, default=False
        As for :func:`mlp_ladder`.
    normalize_output : bool, default=False
        Whether ELU and batch norm follow the last layer, as in the paper's code.

    Returns
    -------
    encoder, decoder : Modules
        As :func:`mlp_ladder` returns them.
    """
    channels, *size = image_shape
    encode, rungs_up, heads, decode, rungs_down = [], [], [], [], []
    below, wide = channels, channels
    for j, (dim, width) in enumerate(_levels(latent_dims, hidden_dims, shared)):
        handed_down, wide = wide, width if j == 0 else 2 * width
        block, small = _conv(below, width, size)
        encode.append(block)
        first, tiny = _conv(width, width, small)
        second, tiny = _conv(width, wide, tiny, halve=j > 0)
        rungs_up.append(nn.Sequential(first, second, nn.Flatten()))
        heads.append(nn.Linear(wide * math.prod(tiny), 2 * dim))
        n_features = wide * math.prod(small)
        rungs_down.append(
            nn.Sequential(
                nn.Linear(dim, n_features),
                ELU(),
                nn.BatchNorm1d(n_features),
                nn.Unflatten(1, (wide, *small)),
            )
        )
        is_top = shared or j == len(hidden_dims) - 1
        joined = wide if is_top else 2 * wide
        if j > 0:
            up = _normalized(_transposed(joined, width, size), width)
            smooth = nn.ConvTranspose2d(width, handed_down, 3, 1, 1)
            decode.append(nn.Sequential(up, _normalized(smooth, handed_down)))
        else:
            last = _transposed(joined, channels, size)
            decode.append(_normalized(last, channels) if normalize_output else last)
        below, size = width, small
    if shared:
        return _shared(latent_dims, encode, rungs_up, heads, decode, rungs_down)
    encoder = LadderEncoder(encode, rungs_up, heads)
    return encoder, LadderDecoder(latent_dims, decode, rungs_down)


def make_ladder(p, image_shape: tuple[int, int, int]) -> tuple[nn.Module, nn.Module]:
    """Build encoder and decoder by the resolved parameters of an MFCVAE."""
    sizes, shared = (
        (image_shape, p.latent_dims, p.hidden_dims),
        p.architecture == "shared",
    )
    if p.backbone == "mlp":
        return mlp_ladder(*sizes, shared)
    return conv_ladder(*sizes, shared, p.normalize_output)


def _levels(latent_dims, hidden_dims, shared):
    dims = [sum(latent_dims)] * len(hidden_dims) if shared else latent_dims
    return zip(dims, hidden_dims, strict=True)


def _shared(latent_dims, encode, rungs_up, heads, decode, rungs_down):
    """Keep the rungs of the top only; the blocks become one."""
    encoder = LadderEncoder([nn.Sequential(*encode)], rungs_up[-1:], heads[-1:])
    blocks = [nn.Sequential(*reversed(decode))]
    decoder = LadderDecoder([sum(latent_dims)], blocks, rungs_down[-1:])
    return encoder, SharedDecoder(latent_dims, decoder)


def _normalized(layer, width):
    return nn.Sequential(layer, ELU(), nn.BatchNorm2d(width))


def _conv(n_in, n_out, size, halve=True):
    """Convolve, ELU and batch norm; the size that is left. One pixel stays one."""
    kernel, stride = _sides(size, 4, 3), _sides(size, 2 if halve else 1, 1)
    layer = nn.Conv2d(n_in, n_out, kernel, stride, 1)
    left = [(s + 2 - k) // t + 1 for s, k, t in zip(size, kernel, stride, strict=True)]
    return _normalized(layer, n_out), left


def _transposed(n_in, n_out, size):
    """Undo a halving, to the very size that it came from."""
    kernel, stride, odd = _sides(size, 4, 3), _sides(size, 2, 1), _odd(size)
    return nn.ConvTranspose2d(n_in, n_out, kernel, stride, 1, output_padding=odd)


def _sides(size, long, single):
    """Return a number for each side of an image: whether it has more than one pixel."""
    return [long if side > 1 else single for side in size]


def _odd(size):
    """Return what a halving leaves over of each side."""
    return [side % 2 if side > 1 else 0 for side in size]
