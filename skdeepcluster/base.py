"""What a method is made of: the names to import for one of your own."""

from ._engine.average import Average, short_at_first
from ._engine.protocol import Batch, Clock, ClusterModule, DataFacts, Embedder
from ._engine.schedules import Staged, WarmupCosine
from ._estimator import DeepClusterer
from ._parameters import AtLeastTwo, Auto, Count, NonNegative, Positive, Share
from ._settings import Budget

__all__ = [
    "AtLeastTwo",
    "Auto",
    "Average",
    "Batch",
    "Budget",
    "Clock",
    "ClusterModule",
    "Count",
    "DataFacts",
    "DeepClusterer",
    "Embedder",
    "NonNegative",
    "Positive",
    "Share",
    "Staged",
    "WarmupCosine",
    "short_at_first",
]
