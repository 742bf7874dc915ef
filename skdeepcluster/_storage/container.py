"""A file of named tensors and one JSON text: checked before anything of it is used.

It is a plain safetensors file, so that others can look into it. Two entries of its
metadata make it one of this package: the JSON text, and the SHA-256 of that.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import torch
from torch import Tensor

from .._input.paths import path_of
from .._version import __version__

FORMAT = 1
TEXT, HASH = "skdeepcluster", "sha256"  # the entries of the metadata
LIBRARIES = ("torch", "numpy", "sklearn", "skorch")  # whose versions are written
MAX_HEADER = 2**24  # bytes
MAX_PARTS = 2**20  # of a header: small ones would take a hundred times their bytes
MAX_DIMS, MAX_EXTENT = 32, 2**48  # an empty tensor could have any shape
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class FileError(ValueError):
    """A file or pickle cannot be used: damaged, foreign, newer, or of another use."""


class DamagedError(FileError):
    """A file is not what was written."""


# -- writing ---------------------------------------------------------------------------


def write(path, kind: str, document: Any, tensors: dict[str, Tensor]) -> None:
    """Write a file, whole or not at all.

    Parameters
    ----------
    path : str or PathLike
        A file that is there already is replaced when the new one is complete.
    kind : {"model", "checkpoint", "features"}
    document : object
        What JSON can hold, such as :func:`~.encoding.pack` gives.
    tensors : dict of tensors
        Of a dtype that safetensors has, on any device.

    Raises
    ------
    OSError
        If the file cannot be written; what was there before stays.
    ValueError
        If the document is too large for a header.
    """
    path = Path(path_of(path))
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder. Pass the name of a file.")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{str(path)!r} cannot be written: there is no folder "
            f"{str(path.parent)!r}. Make it first."
        )
    if path.exists() and not path.is_file():
        raise OSError(f"{str(path)!r} is no regular file. Pass the name of one.")
    # wide values first, as in safetensors: every tensor is aligned then
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    ready = {name: tensors[name].detach().cpu().contiguous() for name in order}
    table, entries, start = {}, {}, 0
    for name, tensor in ready.items():
        facts = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape)}
        entries[name] = {**facts, "data_offsets": [start, start + tensor.nbytes]}
        digest = hashlib.sha256(_bytes(tensor)).hexdigest()
        table[name] = {**facts, "sha256": digest}
        start += tensor.nbytes
    text = _json(
        {
            "kind": kind,
            "format": FORMAT,
            "versions": _versions(),
            "document": document,
            "tensors": table,
        }
    )
    digest = hashlib.sha256(text.encode()).hexdigest()
    header = _json({"__metadata__": {TEXT: text, HASH: digest}, **entries}).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > MAX_HEADER or _parts(header) > MAX_PARTS:
        raise ValueError(
            f"What is to be written to {str(path)!r} has {_parts(header)} entries and "
            f"{len(header)} bytes beside its arrays; at most {MAX_PARTS} and "
            f"{MAX_HEADER} are read again. Keep long lists of numbers as arrays."
        )
    with replacing(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for tensor in ready.values():
            file.write(_bytes(tensor))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that takes its place in the end.

    Parameters
    ----------
    path : Path

    Yields
    ------
    file : binary file

    Raises
    ------
    OSError
        If it cannot be written; what was there before stays.
    """
    beside = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(beside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name is on the disk, too, when this returns
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _json(value) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _versions() -> dict[str, str]:
    found = {name: importlib.import_module(name).__version__ for name in LIBRARIES}
    return {"skdeepcluster": __version__, **{n: str(v) for n, v in found.items()}}


def _bytes(tensor: Tensor) -> memoryview:
    """Memory of a contiguous tensor, to be read or filled."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _parts(header: bytes) -> int:
    return sum(map(header.count, (b",", b"[", b"{")))


# -- reading ---------------------------------------------------------------------------


def read(path, kind: str) -> tuple[Any, dict[str, Tensor]]:
    """Read what :func:`write` wrote, all of it checked.

    Parameters
    ----------
    path : str or PathLike
    kind : {"model", "checkpoint", "features"}

    Returns
    -------
    document : object
    tensors : dict of tensors
        On the CPU.

    Raises
    ------
    FileError
        If the file is not exactly what was written, of another kind, or of a newer
        format. No more memory than its size is taken to find that out.
    OSError
        If there is no such file, or if it cannot be opened.
    """
    path = Path(path_of(path))
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        header, start = _header(file, path, size)
        metadata = header.pop("__metadata__", None)
        _check_layout(header, path, size - start)
        content = _content(metadata, path, kind)
        _check_table(content["tensors"], header, path)
        tensors = {}
        for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
            entry = header[name]
            tensor = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
            data = _bytes(tensor)
            complete = cast(Any, file).readinto(data) == len(data)
            digest = hashlib.sha256(data).hexdigest()
            if not complete or digest != content["tensors"][name]["sha256"]:
                _damaged(path, f"the values of {name!r} are not those written")
            if tensor.dtype == torch.bool and tensor.view(torch.uint8).gt(1).any():
                _damaged(path, f"{name!r} holds other values than true and false")
            tensors[name] = tensor
        return content["document"], tensors


def _open(path: Path) -> BinaryIO:
    """Open a regular file, and nothing that would block or lead elsewhere."""
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        raise FileError(
            f"{str(path)!r} is a symbolic link. Pass the file that it points to: "
            f"{str(Path(os.path.realpath(path)))!r}."
        )
    if not stat.S_ISREG(mode):
        _not_regular(path, mode)
    flags = (getattr(os, n, 0) for n in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    file = os.fdopen(os.open(path, os.O_RDONLY | sum(flags)), "rb")
    mode = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(mode):  # it was exchanged since
        file.close()
        _not_regular(path, mode)
    return file


def _not_regular(path, mode) -> NoReturn:
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
    raise FileError(f"{str(path)!r} is {kind}. Pass a file that save wrote.")


def _header(file: BinaryIO, path, size: int) -> tuple[dict, int]:
    """Read the header of a safetensors file: its JSON, and where the values begin."""
    length = int.from_bytes(file.read(8), "little")
    if size < 10 or length > size - 8:
        _foreign(path, "is empty, truncated, or no safetensors file")
    if length > MAX_HEADER:
        _foreign(path, f"begins with a header of {length} bytes")
    raw = file.read(length)
    if raw[:1] != b"{":
        _foreign(path, "is no safetensors file")
    header = _parse(raw, path)
    if not isinstance(header, dict):
        _foreign(path, "is no safetensors file")
    return header, 8 + length


def _parse(raw: bytes, path) -> Any:
    if _parts(raw) > MAX_PARTS:
        _damaged(path, "its header has too many entries")
    try:
        return json.loads(
            raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        _damaged(path, f"its header is no JSON of ours ({reason[:80]})")


def _unique(pairs) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found


def _no_constant(name) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _check_layout(header: dict, path, size: int) -> None:
    """Check that the tensors fill ``size`` bytes, without a gap or an overlap."""
    spans = []
    for name, entry in header.items():
        right = isinstance(entry, dict) and entry.keys() == {
            "dtype",
            "shape",
            "data_offsets",
        }
        if not right or not _is_shape(entry["shape"]):
            _damaged(path, f"the header says of {name!r} what it cannot be")
        dtype, offsets = entry["dtype"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            _damaged(path, f"{name!r} is of the unknown type {str(dtype)[:20]!r}")
        if not _is_whole(offsets) or len(offsets) != 2:
            _damaged(path, f"the header says of {name!r} what it cannot be")
        nbytes = math.prod(entry["shape"]) * DTYPES[dtype].itemsize
        if offsets[1] - offsets[0] != nbytes:
            _damaged(path, f"the shape of {name!r} is not that of its values")
        spans.append(offsets)
    end = 0
    for first, last in sorted(spans):
        if first != end:
            _damaged(path, "its tensors overlap or leave a gap")
        end = last
    if end != size:
        what = "truncated" if end > size else "longer than it was written"
        _damaged(path, f"it is {what}: {size} bytes of values, expected {end}")


def _is_whole(values) -> bool:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _is_shape(shape) -> bool:
    return (
        _is_whole(shape)
        and len(shape) <= MAX_DIMS
        and math.prod(max(1, n) for n in shape) <= MAX_EXTENT
    )


def _content(metadata, path, kind: str) -> dict:
    """Parse the text of the metadata, and check that it is one we can use."""
    if not isinstance(metadata, dict) or metadata.keys() != {TEXT, HASH}:
        _foreign(path, "is a safetensors file of another origin")
    text = metadata[TEXT]
    if not isinstance(text, str) or not text.isascii():
        _damaged(path, "its description is not the one written")
    raw = text.encode()
    if hashlib.sha256(raw).hexdigest() != metadata[HASH]:
        _damaged(path, "its description is not the one written")
    content = _parse(raw, path)
    if not isinstance(content, dict) or type(content.get("format")) is not int:
        _damaged(path, "its description lacks the number of the format")
    if content["format"] != FORMAT:
        versions = content.get("versions")
        by = versions.get("skdeepcluster") if isinstance(versions, dict) else None
        raise FileError(
            f"{str(path)!r} has format {content['format']} and was written by "
            f"skdeepcluster {str(by)[:40]}; this is {__version__}, which reads format "
            f"{FORMAT}. Install that version or a later one."
        )
    expected = {"kind", "format", "versions", "document", "tensors"}
    if content.keys() != expected or not isinstance(content["tensors"], dict):
        _damaged(path, "its description lacks a part or has one too many")
    if content["kind"] != kind:
        raise FileError(
            f"{str(path)!r} holds a {str(content['kind'])[:20]}; a {kind} was expected."
        )
    return content


def _check_table(table: dict, header: dict, path) -> None:
    """Compare the tensors that were written with those of the header."""
    if table.keys() != header.keys():
        names = sorted(table.keys() ^ header.keys())
        _damaged(path, f"a tensor is missing or was added: {names[0][:80]!r}")
    for name, entry in table.items():
        facts = {key: header[name][key] for key in ("dtype", "shape")}
        right = isinstance(entry, dict) and entry.keys() == {*facts, "sha256"}
        if not right or any(entry[key] != facts[key] for key in facts):
            _damaged(path, f"{name!r} has another shape or type than was written")


def _foreign(path, what) -> NoReturn:
    raise FileError(f"{str(path)!r} {what}. Pass a file that skdeepcluster wrote.")


def _damaged(path, what) -> NoReturn:
    raise DamagedError(
        f"{str(path)!r} is damaged: {what}. Use another copy of the file, or write it "
        "again."
    )
