"""StatDEC: debiased representation learning joined to deep embedded clustering."""

from .estimator import StatDEC
from .pooling import StatisticsPooling

__all__ = ["StatDEC", "StatisticsPooling"]
