"""Pickles and copies of estimators, and their method ``save``."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from .._engine.net import ClusterNet
from .._version import __version__
from .._warnings import warn
from .container import FileError
from .digest import digest
from .encoding import in_memory_order
from .trimming import trimmed

SEAL = "_seal"  # the entry of a pickle's state that vouches for all others
# of a fitted estimator: what no file and no pickle has
LEFT_OUT = ("_training",)


class Weights(NamedTuple):
    """Stands in for a tensor of a module, in a pickle.

    An array can be compressed, mapped into memory and opened without a GPU.
    """

    array: np.ndarray
    order: list | None
    dtype: str | None
    requires_grad: bool | None  # None: a buffer


class Sealed:
    """What every estimator can do about pickles and copies of it."""

    # attributes that may be modules, which pickles hold by arrays: joblib, too, tells
    # these by their values
    _networks: ClassVar[tuple[str, ...]] = ()

    def __getstate__(self):
        state = dict(cast(dict, super().__getstate__()))
        for name in LEFT_OUT:
            state.pop(name, None)
        if "net_" in state:
            state["net_"] = _net_without_tensors(state["net_"])
        for name in self._networks:
            if isinstance(state.get(name), nn.Module):
                state[name] = _without_tensors(state[name])
        return {
            **state,
            SEAL: {"version": __version__, "digest": digest(state, code=False)},
        }

    def __setstate__(self, state):
        state = dict(state)
        seal, name = state.pop(SEAL, None), type(self).__name__
        found = digest(state, code=False)
        if not isinstance(seal, dict) or seal.get("digest") != found:
            raise FileError(
                f"This pickle of {name} is damaged, or was made by a version of "
                f"skdeepcluster before {__version__} that did not seal pickles. Use "
                "another copy, or fit the estimator again."
            )
        if seal["version"] != __version__:
            lasting = "For files that last, use save and skdeepcluster.load."
            warn(
                f"This {name} was pickled by skdeepcluster {seal['version']} and is "
                f"opened by {__version__}: it may predict otherwise. "
                f"{lasting if hasattr(self, 'save') else 'If it does, fit it again.'}"
            )
        for attribute, value in state.items():
            if isinstance(value, np.memmap):  # torch warns of what it cannot write to
                state[attribute] = np.array(value)
        if "net_" in state:
            state["net_"] = _net_with_tensors(state["net_"])
        for attribute in self._networks:
            if isinstance(state.get(attribute), nn.Module):
                _give_tensors(state[attribute])
        super().__setstate__(state)

    # -- copies, in which nothing is left out ------------------------------------------

    def __copy__(self):
        new = type(self).__new__(type(self))
        vars(new).update(vars(self))
        return new

    def __deepcopy__(self, memo):
        new = memo[id(self)] = type(self).__new__(type(self))
        vars(new).update(copy.deepcopy(vars(self), memo))
        return new


class Storable(Sealed):
    """What every clusterer can do about files, pickles and copies of it."""

    # attributes that have an entry for each training sample
    _per_sample: ClassVar[tuple[str, ...]] = ("labels_",)
    _networks: ClassVar[tuple[str, ...]] = ("encoder_",)

    def save(self, path, *, per_sample: bool = False) -> None:
        """Write the fitted estimator to a file that :func:`skdeepcluster.load` reads.

        The file is safetensors and JSON: opening it runs no code. It holds parameters,
        fitted attributes, the networks that prediction needs, and a hash of each part.
        It appears when it is complete; until then a file of that name stays.

        Parameters
        ----------
        path : str or PathLike
            Name of the file, with ``.safetensors`` as the usual suffix.
        per_sample : bool, default=False
            Whether attributes with an entry for each training sample, such as
            ``labels_``, are written, too. Without them a loaded estimator lacks these
            attributes, and the file tells less of the training data.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        TypeError
            If an attribute of a method of your own is nothing that a file can hold.
        OSError
            If the file cannot be written.

        Notes
        -----
        ``callbacks``, ``checkpoint`` and a ``net_params`` with objects in it serve
        training alone and are left out. Of a module or callable that you passed, such
        as ``backbone`` or ``augment``, the file only says that there was one; of a
        backbone it has the weights. ``load`` asks you for the object.

        The file is not encrypted, and a hash tells damage, not forgery: who can write
        the file can write its hashes.
        """
        from .model import write_model

        write_model(self, path, per_sample)


def prediction_net(module: nn.Module, device, **params) -> ClusterNet:
    """Put a trained module into a net that predicts.

    Parameters
    ----------
    module : ClusterModule
    device : str or torch.device
    **params : dict
        ``lr``, ``max_epochs`` and ``batch_size``, for error messages.

    Returns
    -------
    net : ClusterNet
    """
    net = ClusterNet(module, device=str(device), verbose=0, **params).initialize()
    net.trim_for_prediction()
    return net


# -- a module without tensors, which pickles are made of -------------------------------


def _net_without_tensors(net) -> dict[str, Any]:
    params = {name: getattr(net, name) for name in ("lr", "max_epochs", "batch_size")}
    module = _without_tensors(net.module_)
    return {"module": module, "device": str(net.device), "params": params}


def _net_with_tensors(state) -> ClusterNet:
    _give_tensors(state["module"])
    device = available(state["device"])
    return prediction_net(state["module"], device, **state["params"])


def available(name: str) -> torch.device:
    """Return the device of a pickle; the CPU in place of a GPU that is not there."""
    device = torch.device(name)
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        return torch.device("cpu")
    return device


def _without_tensors(module) -> nn.Module:
    module = trimmed(module)
    memo: dict[int, Weights] = {}
    for part in filter(_is_plain, module.modules()):
        for registry in (part._parameters, part._buffers):
            for name, tensor in registry.items():
                if tensor is None or type(tensor) not in (Tensor, nn.Parameter):
                    continue
                if id(tensor) not in memo:
                    memo[id(tensor)] = _stand_in(tensor)
                registry[name] = memo[id(tensor)]
    return module


def _give_tensors(module) -> None:
    memo: dict[int, Tensor] = {}
    for part in module.modules():
        for registry in (part._parameters, part._buffers):
            for name, value in registry.items():
                if isinstance(value, Weights):
                    if id(value) not in memo:
                        memo[id(value)] = _tensor(value)
                    registry[name] = memo[id(value)]


def _is_plain(module) -> bool:
    """Whether a module has its tensors in its registries only, unlike an RNN."""
    others = (value for value in vars(module).values() if isinstance(value, list))
    return not any(isinstance(one, Tensor) for value in others for one in value)


def _stand_in(tensor) -> Weights:
    values, order = in_memory_order(tensor.detach().cpu())
    values, dtype = values.contiguous(), None
    try:
        array = values.numpy()
    except TypeError:  # bfloat16 and others that numpy does not have
        dtype = str(values.dtype).removeprefix("torch.")
        array = values.unsqueeze(-1).view(torch.uint8).numpy()
    grad = tensor.requires_grad if isinstance(tensor, nn.Parameter) else None
    return Weights(array, order, dtype, grad)


def _tensor(weights) -> Tensor:
    array = weights.array
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    if weights.dtype is not None:
        tensor = tensor.view(getattr(torch, weights.dtype)).squeeze(-1)
    if weights.order is not None:
        tensor = tensor.permute(np.argsort(weights.order).tolist())
    if weights.requires_grad is None:
        return tensor
    return nn.Parameter(tensor, weights.requires_grad)
