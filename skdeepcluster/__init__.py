"""Deep image clustering as scikit-learn estimators."""

from ._storage import FileError
from ._storage.model import load
from ._version import __version__
from .consensus import ConsensusClusterer
from .digpro import DigPro
from .gcc import GCC
from .mfcvae import MFCVAE
from .pretrained import ImageEncoder
from .scl import SCL
from .selective import SelectiveClusterer
from .statdec import StatDEC

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
