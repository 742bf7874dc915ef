"""Files of weights: read without running code, and fitted to a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._input.paths import path_of
from .._storage import FileError

INSIDE = ("state_dict", "model")  # where training scripts put the weights in a file
PREFIX = "module."  # of the names, by torch.nn.DataParallel
REMEDY = (
    "Pass a file of safetensors, or one that torch.save(network.state_dict(), path) "
    "wrote"
)


def read_weights(path) -> dict[str, Tensor]:
    """Read the weights of a network from a file; no code of the file runs.

    Parameters
    ----------
    path : str or PathLike
        A file of safetensors, or a state dict that ``torch.save`` wrote.

    Returns
    -------
    state : dict of tensors
        On the CPU. A dict ``"state_dict"`` or ``"model"`` in the file is taken for the
        whole, and ``"module."`` before all names is dropped.

    Raises
    ------
    FileError
        If the file is damaged, or holds anything but named tensors.
    OSError
        If there is no such file.
    """
    path = path_of(path)
    try:
        with open(path, "rb") as file:
            start = file.read(9)
        if start[8:] == b"{":
            from safetensors.torch import load_file

            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # readers of a damaged file may raise anything
        # torch's text may be how to run the code of the file: it is not passed on
        cause = None if "weights_only" in str(error) else error
        raise FileError(
            f"{path!r} holds no weights that can be read: it is damaged or cut off, "
            f"holds a whole module, or is no file of weights. {REMEDY}; if it was "
            "downloaded, do so again."
        ) from cause
    return _state_in(found, path)


def _state_in(found: Any, path: str) -> dict[str, Tensor]:
    for name in INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    named = isinstance(found, Mapping) and all(isinstance(n, str) for n in found)
    if not named or not any(isinstance(value, Tensor) for value in found.values()):
        inner = [name for name in found if _is_state(found[name])] if named else []
        remedy = (
            f"Pass the inner dict {inner[0][:80]!r}, saved to a file of its own"
            if inner
            else REMEDY
        )
        raise FileError(
            f"{path!r} holds a {type(found).__name__} that is no dict of named "
            f"tensors. {remedy}."
        )
    state = {name: v for name, v in found.items() if isinstance(v, Tensor)}
    if all(name.startswith(PREFIX) for name in state):
        state = {name.removeprefix(PREFIX): value for name, value in state.items()}
    return state


def _is_state(value):
    return isinstance(value, Mapping) and any(
        isinstance(part, Tensor) for part in value.values()
    )


def fit_weights(network: nn.Module, state: dict, heads: tuple, source: str) -> None:
    """Give a network its weights, in place: each one, of the right shape.

    Parameters
    ----------
    network : Module
        Without its head.
    state : dict of tensors
        It may lack counters of batches, which old files do not have.
    heads : tuple of str
        What the names of the layers that were left out begin with.
    source : str
        What errors call the state.

    Raises
    ------
    FileError
        If the two do not fit: the first name is told.
    """
    expected = network.state_dict()
    given = {name: v for name, v in state.items() if not name.startswith(heads)}
    missing = [
        name
        for name in expected.keys() - given.keys()
        if not name.endswith(("num_batches_tracked", "_extra_state"))
    ]
    unexpected = given.keys() - expected.keys()
    misshapen = [
        name
        for name in expected.keys() & given.keys()
        if expected[name].shape != given[name].shape
    ]
    in_order = [*expected, *given]
    faults = []
    for what, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            first = min(names, key=in_order.index)
            faults.append(f"{what} names: {len(names)}, the first is {first!r}")
    if misshapen:
        first = min(misshapen, key=in_order.index)
        faults.append(
            f"{len(misshapen)} have another shape, the first is {first!r} with "
            f"{tuple(given[first].shape)}, where {tuple(expected[first].shape)} was "
            "expected"
        )
    if faults:
        raise FileError(
            f"The weights of {source} do not fit the network: {'; '.join(faults)}. "
            "Pass those of the same model."
        )
    network.load_state_dict(given, strict=False)
