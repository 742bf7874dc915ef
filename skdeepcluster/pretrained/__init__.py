"""Networks with weights that others trained."""

from .encoder import ImageEncoder
from .networks import Pretrained, load_network

__all__ = ["ImageEncoder", "Pretrained", "load_network"]
