"""The command line: from folders of images to clusters, without a line of Python."""

from .main import main

__all__ = ["main"]
