"""What prediction does not need of networks, and how they are without it.

A class of modules names such parts in ``training_only``: submodules, buffers and plain
attributes that neither ``encode`` and ``logits`` nor other methods of a fitted
estimator read. They stay after ``fit``, but no file and no pickle has them.
"""

from __future__ import annotations

from torch import nn


def training_only(module: nn.Module) -> list[str]:
    """Names that a module, its class and the base classes declare."""
    owners = [*map(vars, type(module).__mro__), vars(module)]
    return [name for owner in owners for name in owner.get("training_only", ())]


def drop_training_only(module: nn.Module) -> None:
    """Set to None what prediction does not need of a module; not of its submodules."""
    for name in training_only(module):
        for owner in (module._modules, module._buffers, vars(module)):
            if name in owner:
                owner[name] = None


def trimmed(module: nn.Module, memo: dict | None = None) -> nn.Module:
    """Return a module without what prediction does not need.

    Parameters
    ----------
    module : Module
        It stays as it is.
    memo : dict, optional
        Modules that were trimmed already, by identity.

    Returns
    -------
    module : Module
        New modules, which share their tensors and other attributes with the old ones.
    """
    memo = {} if memo is None else memo
    if id(module) not in memo:
        new = memo[id(module)] = type(module).__new__(type(module))
        vars(new).update(vars(module))
        for registry in ("_modules", "_parameters", "_buffers"):
            vars(new)[registry] = dict(vars(module)[registry])
        drop_training_only(new)
        for name, child in new._modules.items():
            if child is not None:
                new._modules[name] = trimmed(child, memo)
    return memo[id(module)]
