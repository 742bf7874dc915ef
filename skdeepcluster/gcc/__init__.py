"""GCC: generative calibration clustering (after Xia, Huang and Ding, 2024)."""

from .estimator import GCC
from .generated import Generated

__all__ = ["GCC", "Generated"]
