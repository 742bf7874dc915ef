"""Files of models and checkpoints, and pickles, that can be trusted."""

from .container import FileError, read, write
from .encoding import pack, unpack

__all__ = ["FileError", "pack", "read", "read_tree", "unpack", "write", "write_tree"]


def write_tree(path, kind, tree):
    """Write a tree of plain values and arrays: see :func:`pack` and :func:`write`."""
    document, tensors = pack(tree, kind)
    write(path, kind, document, tensors)


def read_tree(path, kind):
    """Read, checked, the tree that :func:`write_tree` wrote."""
    document, tensors = read(path, kind)
    try:
        return unpack(document, tensors)
    except FileError as error:
        raise FileError(f"{str(path)!r} is damaged: {error}") from error
