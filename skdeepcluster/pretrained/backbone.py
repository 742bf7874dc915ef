"""What backbone, weights and trainable of an estimator stand for together."""

from __future__ import annotations

import fnmatch

from torch import nn

from .networks import Pretrained, load_network
from .sources import is_named

UNTRAINED = ("auto", "mlp", "conv")  # of which nobody has weights
FINE_TUNING_RATE = 0.1  # of the learning rate: what a network is trained further with


def is_pretrained(p) -> bool:
    """Whether the backbone is a network that prepares images as its weights say.

    Parameters
    ----------
    p : DeepClusterer
    """
    asked = p.weights is not None or p.trainable != "all"
    return asked or is_named(p.backbone) or isinstance(p.backbone, Pretrained)


def check_pretrained(p) -> None:
    """Refuse what does not go together, before X is read.

    Parameters
    ----------
    p : DeepClusterer

    Raises
    ------
    ValueError
        If there is nothing that weights could belong to, random ones would be frozen,
        or the method takes nothing but features.
    """
    if not is_pretrained(p):
        return
    module = isinstance(p.backbone, nn.Module)
    if not module and p.backbone in UNTRAINED:
        changed = {
            name: default
            for name, default in (("weights", None), ("trainable", "all"))
            if getattr(p, name) != default
        }
        said = " and ".join(f"{name}={getattr(p, name)!r}" for name in changed)
        raise ValueError(
            f"{said} belong{'s' if len(changed) == 1 else ''} to a pretrained network, "
            f"and backbone={p.backbone!r} is none. Pass backbone='efficientnet_lite0', "
            "the name of a torchvision classification model such as 'resnet50', "
            f"'timm:NAME', or an nn.Module; or leave {' and '.join(changed)} at "
            f"{' and '.join(map(repr, changed.values()))}."
        )
    if not module and p.weights is None and p.trainable != "all":
        raise ValueError(
            f"trainable={p.trainable!r} would freeze backbone={p.backbone!r} with "
            "random weights. Pass weights='DEFAULT', the name of other ones, or the "
            "path of a file."
        )
    if p.features_only and p.trainable != "none":
        raise ValueError(
            f"trainable={p.trainable!r} cannot be used: {type(p).__name__} "
            "reconstructs what it encodes, and so has pretrained networks for features "
            "that were computed before. Pass trainable='none'."
        )


def load_backbone(p) -> Pretrained:
    """Load the network that the backbone of an estimator stands for.

    Parameters
    ----------
    p : DeepClusterer
        That :func:`check_pretrained` let pass.

    Returns
    -------
    network : Pretrained
        Frozen, unless all is trained.
    """
    own = isinstance(p.backbone, nn.Module)
    weights = "DEFAULT" if own and p.weights is None else p.weights
    network = load_network(p.backbone, weights)
    if weights is not None:
        network.rate = FINE_TUNING_RATE
    return network if p.trainable == "all" else network.freeze()


def file_shape(p) -> tuple[int, int, int] | None:
    """Return the shape that a pretrained backbone takes, to decode image files to.

    Parameters
    ----------
    p : DeepClusterer
        That :func:`check_pretrained` let pass.

    Returns
    -------
    shape : tuple (C, H, W) or None
        None if nothing asks for one.
    """
    side = load_backbone(p).size if is_pretrained(p) else None
    return (3, side, side) if side else None


def backbone_in_training(p) -> str | nn.Module:
    """Return what trains in place of the backbone of an estimator.

    Parameters
    ----------
    p : DeepClusterer

    Returns
    -------
    backbone : str or Module
        ``"mlp"`` on features that were computed once; a pretrained network; else what
        the estimator was told.
    """
    if p.trainable == "none":
        return "mlp"
    return load_backbone(p) if is_pretrained(p) else p.backbone


def with_own_rate(params: dict, module: nn.Module, lr: float, given: dict) -> dict:
    """Train pretrained networks further at a lower rate than all else.

    Parameters
    ----------
    params : dict
        Skorch's, of the optimizer of a module.
    module : Objective
    lr : float
        Of all else.
    given : dict
        The user's, which replace those of the module; groups of parameters come after
        the module's: of what is in two groups, the first one counts.

    Returns
    -------
    params : dict

    Raises
    ------
    ValueError
        If a group of the user's has no parameters.
    """
    groups = [
        (f"{path}.*", {"lr": part.rate * lr})
        for path, part in module.named_modules()
        if isinstance(part, Pretrained) and part.rate != 1 and _trains(part)
    ]
    name = "optimizer__param_groups"
    groups = [*params.get(name, []), *groups]
    more = given.get(name, [])
    if isinstance(more, list | tuple):  # of anything else skorch tells
        given = {**given, name: [*groups, *more]}
        _check_groups(groups, more, module)
    return {**params, **given}


def _check_groups(own, more, module):
    """Refuse groups that would change nothing, in silence."""
    left = [name for name, _ in module.named_parameters()]
    for group in (*own, *more):
        try:
            pattern, _ = group
            rest = [name for name in left if not fnmatch.fnmatch(name, pattern)]
        except (TypeError, ValueError):  # skorch tells what a group is
            return
        if group in more and len(rest) == len(left):
            taken = ", ".join(repr(pattern) for pattern, _ in own) or "nothing"
            raise ValueError(
                f"The group {pattern!r} of optimizer__param_groups in net_params has "
                f"no parameters. The names begin with {_beginnings(module)}; the "
                f"method has groups of its own, which come first: {taken}."
            )
        left = rest


def _beginnings(module):
    names = [name for name, _ in module.named_parameters()]
    return ", ".join(sorted({f"{name.partition('.')[0]!r}" for name in names}))


def _trains(part):
    return any(parameter.requires_grad for parameter in part.parameters())
