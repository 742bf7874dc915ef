"""Deep image clustering as scikit-learn estimators."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from ._storage import FileError
    from ._storage.model import load
    from .consensus import ConsensusClusterer
    from .digpro import DigPro
    from .gcc import GCC
    from .mfcvae import MFCVAE
    from .pretrained import ImageEncoder
    from .scl import SCL
    from .selective import SelectiveClusterer
    from .statdec import StatDEC

# a name is imported when it is asked for: torch takes seconds, which the command line
# does not spend to show its help
_MODULES = {
    "ConsensusClusterer": ".consensus",
    "DigPro": ".digpro",
    "FileError": "._storage",
    "GCC": ".gcc",
    "ImageEncoder": ".pretrained",
    "MFCVAE": ".mfcvae",
    "SCL": ".scl",
    "SelectiveClusterer": ".selective",
    "StatDEC": ".statdec",
    "load": "._storage.model",
}

__all__ = [
    "ConsensusClusterer",
    "GCC",
    "DigPro",
    "FileError",
    "ImageEncoder",
    "MFCVAE",
    "SCL",
    "SelectiveClusterer",
    "StatDEC",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(import_module(_MODULES[name], __name__), name)
        globals()[name] = value
        return value
    if not name.startswith("_"):
        try:
            return import_module(f".{name}", __name__)
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":  # of what the module needs
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
