"""DigPro: dynamic grouping and prototype aggregation (Zhang and Huang, 2024)."""

from .estimator import DigPro

__all__ = ["DigPro"]
