"""Image files of a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import (
    Bunch,
)

IMAGE_EXTENSIONS = (
    ".bmp",
    ".gif",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)


def load_image_folder(
    path: str | os.PathLike[str],
    *,
    recursive: bool = True,
    extensions: str | Sequence[str] = IMAGE_EXTENSIONS,
) -> Bunch:
    """List the images of a folder, for an estimator to read.

    No image is opened: pass ``paths`` to ``fit``. The folder needs no subfolders;
    where it has them, they are given as classes to compare the clusters with.

    Parameters
    ----------
    path : str or path-like
        The folder; ``~`` is the home folder.
    recursive : bool, default=True
        Whether to look into subfolders, at any depth. Links to folders are not
        followed.
    extensions : str or sequence of str, default=the usual image formats
        What names of images end in, in any case, with or without the dot. Names that
        begin with a dot are passed over, those of folders too.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        paths : list of str
            The images, sorted by their place in the folder: the same order on every
            system.
        target : ndarray of shape (n_images,), int64, or None
            The number of the subfolder of ``path`` that each image is in, from 0;
            None if any image lies in ``path`` itself.
        target_names : list of str or None
            The names of these subfolders.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    NotADirectoryError
        If ``path`` is a file.
    ValueError
        If the folder holds no image.

    See Also
    --------
    sklearn.datasets.load_files : For folders of text; it reads the files.

    Examples
    --------
    >>> from skdeepcluster.datasets import load_image_folder
    >>> photos = load_image_folder("~/photos")  # doctest: +SKIP
    >>> model.fit(photos.paths)  # doctest: +SKIP
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        raise FileNotFoundError(
            f"There is no folder {str(folder)!r} (looked for it from {os.getcwd()!r}). "
            "Pass the path of a folder that holds images."
        )
    if not folder.is_dir():
        raise NotADirectoryError(
            f"{str(folder)!r} is a file; a folder is expected. Pass the folder that "
            "holds the image, or a list of paths straight to fit."
        )
    if isinstance(extensions, str):
        extensions = (extensions,)
    endings = tuple("." + e.lower().lstrip(".") for e in extensions)
    files = _list_files(folder, recursive)
    found = [file for file in files if file.name.lower().endswith(endings)]
    if not found:
        raise ValueError(_nothing_found(folder, files, endings, recursive))
    parts = [file.relative_to(folder).parts for file in found]
    target: Any = None
    target_names = None
    if all(len(p) > 1 for p in parts):
        names, target = np.unique([p[0] for p in parts], return_inverse=True)
        target, target_names = target.astype(np.int64), names.tolist()
    return Bunch(
        paths=[str(file) for file in found], target=target, target_names=target_names
    )


def _list_files(folder: Path, recursive: bool) -> list[Path]:
    files = []
    for root, folders, names in os.walk(folder):
        # in place: what is taken out here is not walked into
        folders[:] = [f for f in folders if recursive and not f.startswith(".")]
        files += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(files, key=lambda file: file.relative_to(folder).parts)


def _nothing_found(
    folder: Path, files: list[Path], endings: tuple[str, ...], recursive: bool
) -> str:
    counts = Counter(file.suffix.lower() or "no extension" for file in files)
    there = ", ".join(f"{n} x {ending}" for ending, n in counts.most_common(5))
    deeper = "" if recursive else ", or recursive=True to look into subfolders"
    return (
        f"No images in {str(folder)!r}: found {len(files)} files"
        f"{f' ({there})' if there else ''}, expected names that end in "
        f"{', '.join(endings)}. Pass another folder, or extensions=(...){deeper}."
    )
