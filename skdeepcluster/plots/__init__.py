"""Pictures of a fitted clustering, as scikit-learn's Display objects.

They need matplotlib: ``pip install skdeepcluster[plot]``.
"""

from ._dendrogram import DendrogramDisplay
from ._facets import FacetsDisplay
from ._generated import GeneratedSheetDisplay
from ._history import HistoryDisplay
from ._n_clusters import NClustersDisplay
from ._reliability import ReliabilityDisplay
from ._sheet import ClusterSheetDisplay

__all__ = [
    "ClusterSheetDisplay",
    "DendrogramDisplay",
    "FacetsDisplay",
    "GeneratedSheetDisplay",
    "HistoryDisplay",
    "NClustersDisplay",
    "ReliabilityDisplay",
]
