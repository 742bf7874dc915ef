"""Digests of objects: two that would behave alike have the same one."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

BY_REPR = (slice, range, complex, PurePath, torch.dtype, torch.device)
NAMED = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType)
REGISTRIES = ("_parameters", "_buffers", "_modules")
SETTINGS = (bool, int, float, str, tuple)
PROTOCOL = ("__getstate__", "__setstate__", "__reduce__", "__reduce_ex__")


def digest(value: Any) -> str:
    """SHA-256 of all that an object holds, in hexadecimal digits.

    Numbers, strings, arrays and tensors count by value, functions and classes by name
    (a lambda by its code), other objects by the name of their class and by their
    attributes. Objects that say themselves how they are pickled count by the name, and
    networks among them by their weights, too: what else they hold may be another
    thing after that.

    Parameters
    ----------
    value : object

    Returns
    -------
    digest : str
    """
    return _Digest().of(value).hex()


class _Digest:
    def __init__(self):
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
            code = getattr(value, "__code__", None) if b"<lambda>" in name else None
            return "named", [name, code.co_code] if code else [name]
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
        return kind, [self.of(_held(value))]

    def values(self, array):
        if array.dtype == object:
            return [self.of(part) for part in array.ravel().tolist()]
        return [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data]


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
