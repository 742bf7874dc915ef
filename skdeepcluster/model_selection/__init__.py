"""Choose the number of clusters without labels, or merge many clusters step by step."""

from ._merging import MergeTree
from ._search import NClustersSearch, select_n_clusters

__all__ = ["MergeTree", "NClustersSearch", "select_n_clusters"]
