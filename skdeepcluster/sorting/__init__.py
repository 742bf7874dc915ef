"""Image files sorted into a folder for each cluster, and put back again."""

from ._sort import sort_into_folders
from ._undo import undo_sorting

__all__ = ["sort_into_folders", "undo_sorting"]
