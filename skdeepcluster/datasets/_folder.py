"""Image files of a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from sklearn.utils import Bunch

from .._input.decoding import readable_formats
from .._input.files import check_files
from .._input.paths import named_lines
from .._warnings import warn

# images as well, which Pillow reads with a plugin or not at all
OTHER_IMAGES = set(
    ".arw .avif .cr2 .cr3 .dng .heic .heif .jp2 .jpx .jxl .nef .orf .raf .rw2 .svg"
    " .webp".split()
)


def load_image_folder(
    path: str | os.PathLike[str],
    *,
    recursive: bool = True,
    extensions: str | Sequence[str] | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> Bunch:
    """List the images of a folder, for an estimator to read.

    Pass ``paths`` to ``fit``, which opens them. The folder needs no subfolders; where
    it has them, they are given as classes to compare the clusters with.

    Parameters
    ----------
    path : str or path-like
        The folder; ``~`` is the home folder.
    recursive : bool, default=True
        Whether to look into subfolders, at any depth. Links to folders are not
        followed.
    extensions : str or sequence of str, optional
        What names of images end in, in any case, with or without the dot; by default
        what Pillow and its registered plugins read. Names that begin with a dot are
        passed over, those of folders too.
    on_error : "raise" or "skip", default="raise"
        What to do if a subfolder cannot be read: ``"raise"`` an error that names all of
        them, or ``"skip"`` them. ``"skip"`` also decodes each image once, and leaves
        out those that cannot be read; else no image is opened here.

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
        skipped : list of tuple (path, reason)
            What ``on_error="skip"`` left out.
        other_files : dict
            How many files have other endings, for each of these.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    NotADirectoryError
        If ``path`` is a file.
    OSError
        If subfolders cannot be read.
    ValueError
        If the folder holds no image, or none that can be read; if ``extensions`` is
        empty.

    See Also
    --------
    sklearn.datasets.load_files : For folders of text; it reads the files.

    Examples
    --------
    >>> from skdeepcluster.datasets import load_image_folder
    >>> photos = load_image_folder("~/photos")  # doctest: +SKIP
    >>> model.fit(photos.paths)  # doctest: +SKIP
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error={on_error!r} should be 'raise' or 'skip'.")
    if not os.fspath(path):  # which pathlib takes for the current folder
        raise ValueError("path is empty. Pass a folder; '.' is the current one.")
    folder = Path(os.fsdecode(path)).expanduser()
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
    known = image_extensions() if extensions is None else extensions
    endings = tuple("." + e.lower().lstrip("*.") for e in known)
    if not set(endings) - {"."}:
        raise ValueError(
            f"extensions={extensions!r} has no endings. Pass some, such as ('.png', "
            "'.jpg'), or None for all that Pillow reads."
        )
    files, skipped = _list_files(folder, recursive)
    if skipped and on_error == "raise":
        raise OSError(
            f"{len(skipped)} folders in {str(folder)!r} cannot be read:"
            f"{named_lines(skipped)}\nPass on_error='skip' to leave them out."
        )
    found = [file for file in files if file.name.lower().endswith(endings)]
    others = Counter(
        file.suffix.lower() for file in files if not file.name.lower().endswith(endings)
    )
    if not found:
        expected = None if extensions is None else endings
        raise ValueError(_nothing_found(folder, files, expected, recursive))
    if extensions is None:
        _warn_of_images(folder, others)
    if on_error == "skip":
        reasons = check_files(found)
        bad = [
            (str(f), r) for f, r in zip(found, reasons, strict=True) if r is not None
        ]
        skipped += bad
        found = [f for f, r in zip(found, reasons, strict=True) if r is None]
        if not found:
            raise ValueError(
                f"None of the {len(bad)} images in {str(folder)!r} can be read:"
                f"{named_lines(bad)}\nPass another folder."
            )
    parts = [file.relative_to(folder).parts for file in found]
    target: Any = None
    target_names = None
    if all(len(p) > 1 for p in parts):
        names, target = np.unique([p[0] for p in parts], return_inverse=True)
        target, target_names = target.astype(np.int64), names.tolist()
    return Bunch(
        paths=[str(file) for file in found],
        target=target,
        target_names=target_names,
        skipped=skipped,
        other_files=dict(others.most_common()),
    )


def image_extensions() -> tuple[str, ...]:
    """Endings of the files that Pillow and its registered plugins read."""
    formats = set(readable_formats())
    known = Image.registered_extensions()
    return tuple(sorted(end for end, name in known.items() if name in formats))


def _list_files(
    folder: Path, recursive: bool
) -> tuple[list[Path], list[tuple[str, str]]]:
    """List the files of a folder, and the folders that cannot be listed."""
    files: list[Path] = []
    locked: list[tuple[str, str]] = []

    def note(error: OSError) -> None:
        locked.append((str(error.filename), error.strerror or str(error)))

    for root, folders, names in os.walk(folder, onerror=note):
        # in place: what is taken out here is not walked into
        folders[:] = [f for f in folders if recursive and not f.startswith(".")]
        files += [Path(root, name) for name in names if not name.startswith(".")]
    files.sort(key=lambda file: file.relative_to(folder).parts)
    return files, sorted(locked)


def _warn_of_images(folder: Path, others: Counter[str]) -> None:
    images = {end: n for end, n in sorted(others.items()) if end in OTHER_IMAGES}
    if images:
        counts = ", ".join(f"{n} x {end}" for end, n in images.items())
        warn(
            f"{str(folder)!r} holds images that Pillow does not read here, and that "
            f"are left out: {counts}. Register a plugin for them, such as pillow-heif "
            "for .heic, or save them as PNG or JPEG."
        )


def _nothing_found(
    folder: Path,
    files: list[Path],
    extensions: Sequence[str] | None,
    recursive: bool,
) -> str:
    counts = Counter(file.suffix.lower() or "no extension" for file in files)
    there = ", ".join(f"{n} x {ending}" for ending, n in counts.most_common(5))
    expected = (
        "such as .png and .jpg, which Pillow reads"
        if extensions is None
        else ", ".join(extensions)
    )
    deeper = "" if recursive else ", or recursive=True to look into subfolders"
    return (
        f"No images in {str(folder)!r}: found {len(files)} files"
        f"{f' ({there})' if there else ''}, expected names that end in {expected}. "
        f"Pass another folder, or extensions=(...){deeper}."
    )
