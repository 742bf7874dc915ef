"""Digests of objects: two that would behave alike have the same one."""

from __future__ import annotations

import functools
import hashlib
import sys
import types
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.parameter import is_lazy

BY_REPR = (slice, range, complex, PurePath, torch.dtype, torch.device)
NAMED = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType)
REGISTRIES = ("_parameters", "_buffers", "_modules")
SETTINGS = (bool, int, float, str, tuple)
PROTOCOL = ("__getstate__", "__setstate__", "__reduce__", "__reduce_ex__")


def digest(value: Any, code: bool = True) -> str:
    """SHA-256 of all that an object holds, in hexadecimal digits.

    Numbers, strings, arrays and tensors count by value, functions and classes by name,
    other objects by the name of their class and by their attributes. Functions that no
    name leads to, such as lambdas, count by their code and what they captured, too;
    methods by their object. Objects that say themselves how they are pickled count by
    the name, and networks among them by their weights and the code of their graph, too:
    what else they hold may be another thing after that.

    Parameters
    ----------
    value : object
    code : bool, default=True
        Whether all the code counts; else the instructions of lambdas alone: pickles
        may hold what a function captured in another state, and write a graph anew.

    Returns
    -------
    digest : str
    """
    return _Digest(code).of(value).hex()


class _Digest:
    def __init__(self, code: bool):
        self.code = code
        self.known: dict[int, bytes] = {}
        self.alive: list = []  # an identity may be given again after its object is gone

    def of(self, value) -> bytes:
        if id(value) not in self.known:
            self.alive.append(value)
            self.known[id(value)] = b"a cycle"
            kind, parts = self.parts(value)
            found = hashlib.sha256(kind.encode())
            for part in parts:
                # of a length that is known: no two lists of parts are the same bytes
                found.update(hashlib.sha256(part).digest())
            self.known[id(value)] = found.digest()
        return self.known[id(value)]

    def parts(self, value) -> tuple[str, Iterable]:
        """Name what kind of value this is, and give bytes that tell it from others."""
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if isinstance(value, np.generic):
            return f"scalar {value.dtype.str}", [value.tobytes()]
        if value is None or isinstance(value, (bool, int, float, *BY_REPR)):
            return kind, [repr(value).encode()]
        if isinstance(value, str):
            return kind, [value.encode(errors="surrogatepass")]
        if isinstance(value, (bytes, bytearray)):
            return kind, [bytes(value)]
        if isinstance(value, np.dtype):
            return kind, [repr(value.str).encode()]
        if isinstance(value, np.ndarray):
            return f"array {value.dtype.str} {value.shape}", self.values(value)
        if isinstance(value, Tensor):
            if is_lazy(value) or value.is_meta or value.layout != torch.strided:
                return kind, []  # there are no plain values
            plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            return f"tensor {value.dtype} {tuple(value.shape)}", [plain.numpy().data]
        if isinstance(value, NAMED):
            name = getattr(value, "__qualname__", kind).encode()
            if self.code and type(value) is types.FunctionType and _is_nameless(value):
                return "nameless", [name, *map(self.of, _parts_of_function(value))]
            if self.code and type(value) is types.MethodType:
                return kind, [
                    self.of(part) for part in (value.__func__, value.__self__)
                ]
            code = getattr(value, "__code__", None) if b"<lambda>" in name else None
            return "named", [name, code.co_code] if code else [name]
        if isinstance(value, types.ModuleType):
            return "named", [value.__name__.encode()]
        if isinstance(value, types.CodeType):
            return kind, [
                value.co_code,
                *map(self.of, (value.co_consts, value.co_names)),
            ]
        if isinstance(value, functools.partial):
            state = (value.func, value.args, value.keywords)
            return kind, [self.of(part) for part in state]
        if isinstance(value, (list, tuple)):
            return kind, [self.of(part) for part in value]
        if isinstance(value, (set, frozenset)):
            return kind, sorted(self.of(part) for part in value)
        if isinstance(value, dict):
            return kind, [self.of(part) for item in value.items() for part in item]
        if isinstance(value, np.random.RandomState):
            return kind, [self.of(value.get_state())]
        parts = [self.of(_held(value))]
        if self.code and isinstance(value, GraphModule):
            parts.append(self.of(value.code))
        return kind, parts

    def values(self, array):
        if array.dtype == object:
            return [self.of(part) for part in array.ravel().tolist()]
        return [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data]


def _is_nameless(function) -> bool:
    """Whether a function is not what its name leads to, as lambdas and local ones."""
    found = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is not function


def _parts_of_function(function) -> tuple:
    """What a function does and what it captured."""
    captured = []
    for cell in function.__closure__ or ():
        try:
            captured.append(cell.cell_contents)
        except ValueError:  # nothing was assigned yet
            captured.append(b"empty")
    defaults = (function.__defaults__, function.__kwdefaults__)
    return function.__code__, captured, *defaults


def _held(value) -> dict:
    """Attributes that a pickle of an object gives back as they are."""
    if not hasattr(value, "__dict__"):
        return {}
    cls, held = type(value), vars(value)
    owners = {next((c for c in cls.__mro__ if n in vars(c)), object) for n in PROTOCOL}
    if issubclass(cls, BaseEstimator) or owners <= {object, nn.Module}:
        return {k: v for k, v in held.items() if k != "_compiled_call_impl"}
    if not isinstance(value, nn.Module):
        return {}
    of_torch = all(c is object or c.__module__.startswith("torch.nn.") for c in owners)
    return {
        name: part
        for name, part in held.items()
        if name in REGISTRIES or (of_torch and isinstance(part, SETTINGS))
    }
