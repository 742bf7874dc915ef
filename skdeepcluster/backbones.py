"""Networks that turn a batch of images into features: a name, a builder, a width."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ._input.layouts import is_vector
from ._warnings import warn
from .pretrained import Pretrained
from .pretrained.sources import is_torchvision, torchvision_network

MAX_CONV_SIZE = 32


def mlp(image_shape: tuple[int, int, int], hidden: int = 512) -> tuple[nn.Module, int]:
    """One hidden layer for vectors, or for flattened images.

    The projector or the head of a method follows with another one.

    Parameters
    ----------
    image_shape : tuple (C, H, W)
    hidden : int
        Width of the layer.

    Returns
    -------
    network : Module
        (b, C, H, W) -> (b, hidden).
    width : int
    """
    n_features = image_shape[0] * image_shape[1] * image_shape[2]
    layers = nn.Linear(n_features, hidden, bias=False), nn.BatchNorm1d(hidden)
    return nn.Sequential(nn.Flatten(), *layers, nn.ReLU()), hidden


def conv(
    image_shape: tuple[int, int, int],
    channels: tuple[int, ...] = (32, 64, 128),
    grid: int = 2,
) -> tuple[nn.Module, int]:
    """Small convolutional encoder: what two CPU cores can train in minutes.

    The features are pooled to a grid, not to a point: where a stroke lies is most of
    what tells small images apart.

    Parameters
    ----------
    image_shape : tuple (C, H, W)
    channels : tuple of int
        Width of the stages; each stage halves the resolution.
    grid : int
        Rows and columns of the pooled features.

    Returns
    -------
    network : Module
        (b, C, H, W) -> (b, channels[-1] * grid ** 2).
    width : int
    """
    layers = []
    for n_in, n_out in zip((image_shape[0], *channels), channels, strict=False):
        layers += [
            nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
        ]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(grid), nn.Flatten())
    return network, channels[-1] * grid**2


def resnet18(image_shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    """ResNet-18 with the small-image stem: 3x3 convolution, stride 1, no max-pooling.

    A stem made for 224 pixels would leave small images with next to no resolution.
    The stem is used at every size, as the deep clustering papers do.

    Parameters
    ----------
    image_shape : tuple (C, H, W)

    Returns
    -------
    network : Module
        (b, C, H, W) -> (b, 512).
    width : int
    """
    from torchvision.models import resnet18 as build

    network = build(weights=None)
    network.conv1 = nn.Conv2d(image_shape[0], 64, 3, padding=1, bias=False)
    network.maxpool, network.fc = nn.Identity(), nn.Identity()
    return network, 512


BACKBONES: dict[str, Callable[..., tuple[nn.Module, int]]] = {
    "mlp": mlp,
    "conv": conv,
    "resnet18": resnet18,
}


class _Torchvision(nn.Module):
    """A torchvision classifier without its last layer; grey images are repeated."""

    def __init__(self, name, image_shape):
        super().__init__()
        if image_shape[0] not in (1, 3):
            raise ValueError(
                f"backbone={name!r} takes images of 1 or 3 channels, got image_shape="
                f"{image_shape}. Use backbone='conv' or 'resnet18', or pass an "
                "nn.Module."
            )
        self.network, _ = torchvision_network(name)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.expand(-1, 3, -1, -1)).flatten(1)


def resolve_backbone(backbone, image_shape, device):
    """Name the backbone that ``"auto"`` stands for, and check every other one.

    Parameters
    ----------
    backbone : str or Module
    image_shape : tuple (C, H, W)
    device : torch.device

    Returns
    -------
    backbone : str or Module

    Raises
    ------
    ValueError
        If the name is unknown: the known ones are listed.
    """
    if isinstance(backbone, nn.Module):
        return backbone
    if backbone == "auto":
        if is_vector(image_shape):
            return "mlp"
        if device.type != "cpu":
            return "resnet18"
        if max(image_shape[1:]) <= MAX_CONV_SIZE:
            return "conv"
        warn(
            f"Images of {image_shape[1]}x{image_shape[2]} pixels train a ResNet-18, "
            "which wants a GPU. Resize them to 32x32 (for files: "
            "image_shape), or pass backbone='conv'."
        )
        return "resnet18"
    if backbone not in BACKBONES:
        if not is_torchvision(backbone):
            known = ", ".join(repr(name) for name in ["auto", *BACKBONES])
            raise ValueError(
                f"backbone={backbone!r} is unknown. Pass {known}, the name of a "
                "torchvision classification model such as 'resnet50', or an nn.Module."
            )
    if is_vector(image_shape) and backbone != "mlp":
        raise ValueError(
            f"backbone={backbone!r} needs images, but X holds vectors. Use "
            "backbone='mlp', or pass image_shape=(C, H, W) if the rows are images."
        )
    return backbone


def make_backbone(backbone, image_shape) -> tuple[nn.Module, int]:
    """Build a backbone.

    Parameters
    ----------
    backbone : str or Module
        As :func:`resolve_backbone` returns it. A module is copied, never trained
        itself.
    image_shape : tuple (C, H, W)

    Returns
    -------
    network : Module
        (b, C, H, W) -> (b, width).
    width : int

    Raises
    ------
    ValueError
        If a module does not map images of that shape to (b, width).
    """
    if isinstance(backbone, str) and backbone in BACKBONES:
        return BACKBONES[backbone](image_shape)
    if isinstance(backbone, str):
        network = _Torchvision(backbone, image_shape)
    else:
        network = copy.deepcopy(backbone)
    parameter = next(network.parameters(), torch.zeros(1))
    with torch.no_grad(), torch.device(parameter.device):
        try:
            out = network.eval()(torch.zeros(2, *image_shape))
        except Exception as error:  # a model of the user's own may raise anything
            raise ValueError(
                f"The backbone cannot read images of shape {image_shape}. Pass "
                f"another one, or resize the images. It said: {error}"
            ) from error
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != 2:
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(
            f"The backbone returned {got} for 2 images; features of shape (2, width) "
            "were expected. End it with nn.Flatten()."
        )
    return network.train(), out.shape[1]


def make_encoder(backbone, data) -> tuple[nn.Sequential, int]:
    """Build what every method begins with: a standardising layer and a backbone.

    Parameters
    ----------
    backbone : str or Module
        As for :func:`make_backbone`.
    data : DataFacts

    Returns
    -------
    encoder : Sequential
        Images (b, C, H, W) in [0, 1] -> (b, width), of the layers ``standardize`` and
        ``backbone``. A pretrained network prepares the images itself.
    width : int

    Raises
    ------
    ValueError
        If a module does not map images of that shape to (b, width).
    """
    network, width = make_backbone(backbone, data.image_shape)
    layers = {"standardize": make_standardize(network, data), "backbone": network}
    return nn.Sequential(OrderedDict(layers)), width


def make_standardize(network, data) -> nn.Module:
    """Build the layer before a backbone: none that changes what it prepares itself.

    Parameters
    ----------
    network : Module
        As :func:`make_backbone` returns it.
    data : DataFacts
    """
    prepares = isinstance(network, Pretrained)
    return nn.Identity() if prepares else data.scaling.standardize()
