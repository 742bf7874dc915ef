"""What is asked for: files, clusters, and the folder of each file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .._input.paths import PATHS, listed, path_of


def files_of(paths) -> list[str]:
    if isinstance(paths, PATHS):
        raise TypeError(
            f"paths={path_of(paths)!r} is one path; a list is expected. Pass [path], "
            "or load_image_folder(path).paths for the files of a folder."
        )
    items = listed(paths)
    if not isinstance(items, list | tuple):
        raise TypeError(
            f"paths is of type {type(paths).__name__}, not a list of files: "
            "images in an array have no files that could be sorted. Pass the paths of "
            "the files that they were read from."
        )
    for i, item in enumerate(items):
        if not isinstance(item, PATHS):
            raise TypeError(
                f"paths[{i}] is of type {type(item).__name__}; the path of a file is "
                "expected."
            )
    if not items:
        raise ValueError("paths is empty. Pass at least one file.")
    return [path_of(item) for item in items]


def clusters_of(labels, n_files: int) -> np.ndarray:
    found = np.asarray(labels)
    if found.shape != (n_files,):
        raise ValueError(
            f"labels has shape {found.shape}; one label for each file is needed, shape "
            f"({n_files},)."
        )
    try:
        with np.errstate(invalid="ignore"):  # of NaN
            clusters = found.astype(np.int64)
        right = found.dtype.kind in "iufO" and bool(np.all(clusters == found))
        right = right and clusters.min() >= -1
    except (TypeError, ValueError, OverflowError):
        right = False
    if not right:
        raise ValueError(
            f"labels should be integers from -1 on, and hold {_wrong(found)!r}. Number "
            "the clusters, and pass names= for the names of their folders."
        )
    return clusters


def _wrong(labels):
    """Find the first label that is no integer from -1 on."""
    for label in labels.tolist():
        if not isinstance(label, int | float) or label < -1 or label % 1 != 0:
            return label
    return labels[0]


def canonical(paths: list[str]) -> list[str]:
    """Return one absolute path for each file, whatever links lead to its folder."""
    here = os.getcwd()
    real: dict[str, str] = {}
    found = []
    for path in paths:
        # no abspath: it would take "link/.." for the folder of the link
        folder, name = os.path.split(os.path.join(here, path))
        if folder not in real:
            try:
                real[folder] = os.path.realpath(folder)
            except ValueError:  # a null byte, which will be named
                real[folder] = folder
        found.append(os.path.join(real[folder], name))
    return found


def one_folder_each(
    paths: list[str], clusters: np.ndarray, folders: dict
) -> dict[str, str]:
    """Return the folder of each file, once."""
    wanted: dict[str, str] = {}
    for path, cluster in zip(paths, clusters.tolist(), strict=True):
        if wanted.setdefault(path, folders[cluster]) != folders[cluster]:
            raise ValueError(
                f"{path!r} is in paths twice, with different labels: it cannot go to "
                f"{wanted[path]!r} and to {folders[cluster]!r}. Leave one of them out."
            )
    return wanted


class InFolder:
    """Tells files that lie already in the folder that they are to be sorted into."""

    def __init__(self, root: Path, folders: set[str]):
        self.folders = {folder: _identity(root / folder) for folder in folders}
        self.parents: dict[str, tuple | None] = {}

    def why_not(self, source: str, folder: str) -> str | None:
        parent = os.path.dirname(source)
        if parent not in self.parents:
            self.parents[parent] = _identity(parent)
        own = self.parents[parent]
        same = own is not None and own == self.folders[folder]
        return "lies in its folder already" if same else None


def _identity(folder: str | Path) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
