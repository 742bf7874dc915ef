"""Deep image clustering as scikit-learn estimators."""

from ._version import __version__
from .digpro import DigPro

__all__ = ["DigPro", "__version__"]
