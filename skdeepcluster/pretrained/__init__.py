"""Networks with weights that others trained."""

from .networks import Pretrained, load_network

__all__ = ["Pretrained", "load_network"]
