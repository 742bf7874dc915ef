"""Image data to cluster: digits, own folders, several factors, imbalanced subsets."""

from ._digits import load_digits_images
from ._facets import make_facet_images
from ._folder import load_image_folder
from ._imbalance import make_long_tail, make_retention
from ._mapped import MappedArray

__all__ = [
    "MappedArray",
    "load_digits_images",
    "load_image_folder",
    "make_facet_images",
    "make_long_tail",
    "make_retention",
]
