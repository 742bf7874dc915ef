"""Trees of plain values and arrays, as JSON and named tensors, and back."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .container import NAMES, FileError

TAG = "$"  # of an object that stands for something else than a dict
MAX_DEPTH = 64
MAX_INT = 2**63
# what a file may build: no other class is ever looked up
CLASSES = {
    "Clock": "skdeepcluster._engine.protocol",
    "Generated": "skdeepcluster.gcc.generated",
    "Layout": "skdeepcluster._input.layouts",
    "StageLog": "skdeepcluster.gcc.rounds",
}
FIXED = "biufcSUmM"  # kinds of numpy's dtypes whose values are their bytes
# numpy's dtypes that are tensors in the file; arrays of others are bytes there
NATIVE = {"|b1", "|i1", "|u1", "<f2", "<c8"}
NATIVE |= {f"<{kind}{size}" for kind in "iu" for size in (2, 4, 8)} | {"<f4", "<f8"}


def pack(tree: Any, name: str = "state") -> tuple[Any, dict[str, Tensor]]:
    """Take a tree of plain values apart.

    Parameters
    ----------
    tree : object
        None, bool, int, float, str, bytes, list, tuple, dict of any such keys,
        OrderedDict, arrays and scalars of numpy, tensors, dtypes, devices, and a few
        classes of the package, nested in any way.
    name : str, default="state"
        What errors call the tree.

    Returns
    -------
    document : object
        What JSON can hold.
    tensors : dict of tensors
        By where they are in the tree. They share memory with it where they can.

    Raises
    ------
    TypeError
        If the tree holds anything else: it is told where, and of which type.
    """
    packer = _Packer(name)
    return packer.pack(tree, ()), packer.tensors


def unpack(document: Any, tensors: dict[str, Tensor]) -> Any:
    """Put a tree together again.

    Parameters
    ----------
    document : object
    tensors : dict of tensors
        As :func:`pack` gave them. The tree takes them over.

    Returns
    -------
    tree : object

    Raises
    ------
    FileError
        If the document is none of those that :func:`pack` gives.
    """
    try:
        unpacker = _Unpacker(tensors)
        tree = unpacker.unpack(document, 0)
    except Exception as error:  # a forged document may go wrong anywhere
        raise FileError(f"its description holds what it cannot ({error}).") from error
    if unpacker.left:
        raise FileError(f"it has a tensor too many: {min(unpacker.left)[:80]!r}.")
    return tree


def in_memory_order(tensor: Tensor) -> tuple[Tensor, list[int] | None]:
    """Permute a tensor to the order of its memory, where that makes it contiguous.

    Channels come last in the memory of images and of their kernels, and another order
    may be rounded otherwise.

    Parameters
    ----------
    tensor : tensor

    Returns
    -------
    tensor : tensor
        A view.
    order : list of int or None
        Dimensions of the old tensor that are those of the new one, if any changed.
    """
    strides, shape = tensor.stride(), tensor.shape
    order = sorted(range(tensor.ndim), key=lambda d: (-strides[d], shape[d] == 1))
    if order != sorted(order) and tensor.permute(order).is_contiguous():
        return tensor.permute(order), order
    return tensor, None


class _Packer:
    def __init__(self, name):
        self.name = name
        self.tensors: dict[str, Tensor] = {}

    def pack(self, value, path):
        kind = type(value)
        if len(path) > MAX_DEPTH:
            raise TypeError(
                f"{self.where(path[:4])}... is nested too deeply for a file."
            )
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if abs(value) < MAX_INT else {TAG: "int", "hex": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {TAG: "float", "text": str(value)}
        if kind is list:
            return self.items(value, path)
        if kind in (tuple, torch.Size):
            return {TAG: "tuple", "items": self.items(value, path)}
        if kind is dict and all(type(key) is str for key in value) and TAG not in value:
            return {key: self.pack(v, (*path, key)) for key, v in value.items()}
        if kind in (dict, OrderedDict):
            return self.mapping(value, path)
        if isinstance(value, Tensor):
            return self.tensor(value, path)
        if kind is np.ndarray:
            return self.array(value, path)
        if isinstance(value, np.generic) and value.dtype.kind in FIXED:
            data = value.tobytes().hex()
            return {TAG: "scalar", "dtype": value.dtype.str, "hex": data}
        if isinstance(value, np.dtype) and value.kind in FIXED + "O":
            return {TAG: "dtype", "text": value.str}
        if kind in (torch.dtype, torch.device):
            text = str(value).removeprefix("torch.")
            return {TAG: f"torch.{kind.__name__}", "text": text}
        if kind is bytes:
            return {TAG: "bytes", "hex": value.hex()}
        if kind is slice:
            ends = self.items([value.start, value.stop, value.step], path)
            return {TAG: "slice", "items": ends}
        if kind is np.random.RandomState:
            state = self.pack(value.get_state(legacy=False), path)
            return {TAG: "RandomState", "state": state}
        if CLASSES.get(kind.__name__) == kind.__module__:
            return {TAG: kind.__name__, "state": self.pack(value.__getstate__(), path)}
        raise TypeError(
            f"{self.where(path)} is of type {kind.__module__}.{kind.__qualname__}, "
            "which a file cannot hold. Use numbers, strings, lists, dicts, arrays and "
            "tensors."
        )

    def where(self, path):
        return self.name + "".join(f"[{key!r}]" for key in path)

    def items(self, values, path):
        return [self.pack(value, (*path, i)) for i, value in enumerate(values)]

    def mapping(self, value, path):
        items = [
            [self.pack(key, (*path, "keys")), self.pack(v, (*path, key))]
            for key, v in value.items()
        ]
        if type(value) is dict:
            return {TAG: "dict", "items": items}
        # a state_dict of torch tells the versions of its modules there
        metadata = self.pack(getattr(value, "_metadata", None), (*path, "_metadata"))
        return {TAG: "OrderedDict", "items": items, "metadata": metadata}

    def tensor(self, value, path):
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise TypeError(
                f"{self.where(path)} is a tensor without plain values "
                f"(layout={value.layout}, device={value.device}), which a file cannot "
                "hold. Pass a dense one."
            )
        value = value.detach().resolve_conj().resolve_neg()
        packed = {TAG: "tensor"}
        value, order = in_memory_order(value)
        if order is not None:
            packed["order"] = order
        if value.dtype not in NAMES:
            packed["dtype"] = str(value.dtype).removeprefix("torch.")
            value = value.contiguous().unsqueeze(-1).view(torch.uint8)
        packed["name"] = self.add(value, path)
        return packed

    def array(self, value, path):
        if value.dtype.kind == "O":
            texts = value.ravel().tolist()
            if not all(type(text) is str for text in texts):
                raise TypeError(
                    f"{self.where(path)} is an array of objects that are not all "
                    "strings, which a file cannot hold. Pass numbers or strings."
                )
            return {TAG: "texts", "shape": list(value.shape), "items": texts}
        if value.dtype.kind not in FIXED:
            raise TypeError(
                f"{self.where(path)} is an array of dtype {value.dtype}, which a file "
                "cannot hold. Pass numbers or strings."
            )
        packed = {TAG: "array", "dtype": value.dtype.str, "shape": list(value.shape)}
        if value.dtype.str in NATIVE:
            plain = np.require(value, requirements=["C", "W"])
            values = torch.from_numpy(plain.reshape(value.shape).view(value.dtype.str))
        else:
            data = np.frombuffer(value.tobytes(), np.uint8).copy()
            values = torch.from_numpy(data)
        packed["name"] = self.add(values, path)
        return packed

    def add(self, tensor, path):
        name = ".".join(map(str, path)) or "value"
        while name in self.tensors or name == "__metadata__":
            name += "'"
        self.tensors[name] = tensor
        return name


class _Unpacker:
    def __init__(self, tensors):
        self.left = dict(tensors)  # each belongs in one place

    def unpack(self, value, depth):
        if depth > 3 * MAX_DEPTH:
            raise ValueError("nested too deeply")
        if isinstance(value, list):
            return [self.unpack(one, depth + 1) for one in value]
        if not isinstance(value, dict):
            return value
        if TAG not in value:
            return {key: self.unpack(one, depth + 1) for key, one in value.items()}
        fields = {key: one for key, one in value.items() if key != TAG}
        tag = value[TAG]
        if tag in CLASSES:
            return self.instance(tag, self.unpack(fields["state"], depth + 1))
        if tag in NESTED:
            fields = {key: self.unpack(one, depth + 1) for key, one in fields.items()}
            return NESTED[tag](**fields)
        if tag in ("tensor", "array"):
            fields["values"] = self.left.pop(fields.pop("name"))
        return SIMPLE[tag](**fields)

    @staticmethod
    def instance(name, state):
        cls = getattr(importlib.import_module(CLASSES[name]), name)
        if dataclasses.is_dataclass(cls):
            return cls(**state)
        new = cls.__new__(cls)
        new.__setstate__(state)
        return new


def _ordered(items, metadata):
    new = OrderedDict(items)
    if metadata is not None:
        vars(new).update(_metadata=metadata)
    return new


def _random_state(state):
    if state["bit_generator"] != "MT19937" or not 0 <= state["state"]["pos"] <= 624:
        raise ValueError("no state of a RandomState")
    new = np.random.RandomState()
    new.set_state(state)
    return new


def _tensor(values, order=None, dtype=None):
    if dtype is not None:
        values = values.view(_torch_dtype(dtype)).squeeze(-1)
    return values if order is None else values.permute(np.argsort(order).tolist())


def _torch_dtype(name):
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"no dtype: {name[:20]}")
    return dtype


def _dtype(name, kinds=FIXED):
    dtype = np.dtype(name)
    if dtype.kind not in kinds:
        raise ValueError(f"no dtype for a file: {name[:20]}")
    return dtype


def _array(values, dtype, shape):
    return values.numpy().view(_dtype(dtype)).reshape(shape)


def _texts(shape, items):
    if not all(type(text) is str for text in items):
        raise ValueError("no strings")
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(shape)


FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
NESTED = {
    "tuple": lambda items: tuple(items),
    "slice": lambda items: slice(*items),
    "dict": lambda items: dict(items),
    "OrderedDict": _ordered,
    "RandomState": _random_state,
}
SIMPLE = {
    "int": lambda hex: int(hex, 16),
    "float": lambda text: FLOATS[text],
    "bytes": lambda hex: bytes.fromhex(hex),
    "scalar": lambda dtype, hex: np.frombuffer(bytes.fromhex(hex), _dtype(dtype))[0],
    "dtype": lambda text: _dtype(text, FIXED + "O"),
    "torch.dtype": lambda text: _torch_dtype(text),
    "torch.device": lambda text: torch.device(text),
    "tensor": _tensor,
    "array": _array,
    "texts": _texts,
}
