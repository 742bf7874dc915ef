"""MFCVAE: several clusterings of the same images at once (Falck et al., 2021)."""

from .estimator import MFCVAE
from .view import FacetView

__all__ = ["MFCVAE", "FacetView"]
