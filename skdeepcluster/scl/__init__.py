"""SCL: semantic contrastive learning (after Huang and Gong, 2021), a reconstruction."""

from .estimator import SCL

__all__ = ["SCL"]
