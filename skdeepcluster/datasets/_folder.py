"""Image files of a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from sklearn.utils import Bunch

from .._input.decoding import is_image, readable_formats
from .._input.files import check_files
from .._input.formats import RAW, why_not_read
from .._input.paths import counted, named_lines
from .._input.threads import in_threads
from .._warnings import warn

ANY = "any"
NAMED = 5  # endings that a message names
LONGEST = 16  # characters of an ending that it shows


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
        what Pillow and its registered plugins read. ``"any"`` also takes the images
        with other names, such as ``IMG_1234``: each such file is opened to find out.
        Names that begin with a dot are passed over, those of folders too.
    on_error : "raise" or "skip", default="raise"
        What to do if a subfolder cannot be read: ``"raise"`` an error that names all of
        them, or ``"skip"`` them. ``"skip"`` also decodes each image once, and leaves
        out those that cannot be read; else no image is decoded here.

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
            Images that Pillow does not read here, such as HEIC without a plugin, and
            what ``on_error="skip"`` left out.
        other_files : dict
            How many files were left out for their endings, for each of these; those in
            ``skipped`` are not among them.

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

    Warns
    -----
    UserWarning
        If images are left out that Pillow does not read here, or, without
        ``extensions``, images whose names do not end as those of images.

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
    anyhow = isinstance(extensions, str) and extensions == ANY
    asked = None if anyhow or extensions is None else _endings(extensions)
    endings = asked or image_extensions()
    files, skipped = _list_files(folder, recursive)
    if skipped and on_error == "raise":
        raise OSError(
            f"{counted(len(skipped), 'folder')} in {str(folder)!r} cannot be read:"
            f"{named_lines(skipped)}\nPass on_error='skip' to leave them out."
        )
    found = [file for file in files if file.name.lower().endswith(endings)]
    others = sorted(set(files).difference(found))
    unnamed, needy = _images_among(others) if asked is None else ([], [])
    if anyhow:
        taken = {*found, *unnamed}
        found = [file for file in files if file in taken]
        others, unnamed = [file for file in files if file not in taken], []
    if not found and needy:
        raise ValueError(_none_read(folder, needy))
    if not found:
        raise ValueError(_nothing_found(folder, files, asked, recursive, unnamed))
    _warn_of_images(folder, unnamed, needy)
    skipped += needy
    apart = {path for path, _ in needy}
    others = [file for file in others if str(file) not in apart]
    if on_error == "skip":
        reasons = check_files(found)
        bad = [
            (str(f), r) for f, r in zip(found, reasons, strict=True) if r is not None
        ]
        skipped += bad
        found = [f for f, r in zip(found, reasons, strict=True) if r is None]
        if not found:
            raise ValueError(_none_read(folder, sorted(bad + needy)))
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
        other_files=dict(_endings_of(others).most_common()),
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


def _endings(extensions: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(extensions, str):
        extensions = (extensions,)
    endings = tuple("." + e.lower().lstrip("*.") for e in extensions)
    if not set(endings) - {"."}:
        raise ValueError(
            f"extensions={extensions!r} has no endings. Pass some, such as ('.png', "
            "'.jpg'), or None for all that Pillow reads."
        )
    return endings


def _images_among(files: list[Path]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Find images that Pillow reads, and others with what they need."""
    are = in_threads(lambda f: f.suffix.lower() not in RAW and is_image(f), files)
    images = [file for file, yes in zip(files, are, strict=True) if yes]
    rest = [file for file, yes in zip(files, are, strict=True) if not yes]
    needs = [(str(file), why_not_read(file)) for file in rest]
    return images, [(path, reason) for path, reason in needs if reason is not None]


def _endings_of(files: Iterable[str | os.PathLike[str]]) -> Counter[str]:
    return Counter(Path(file).suffix.lower() for file in files)


def by_ending(counts: Counter[str]) -> str:
    """Say how many files have which ending: ``3 x .txt, 1 x no ending``.

    Parameters
    ----------
    counts : Counter
        Of files, by endings.

    Returns
    -------
    text : str
    """
    named = counts.most_common(NAMED)
    said = [f"{n} x {_shown(ending)}" for ending, n in named]
    rest = counts.total() - sum(n for _, n in named)
    return ", ".join([*said, f"{rest} x another"] if rest else said)


def _shown(ending: str) -> str:
    short = ending if len(ending) <= LONGEST else f"{ending[:LONGEST]}..."
    return (short if short.isprintable() else repr(short)) or "no ending"


def _warn_of_images(
    folder: Path, unnamed: list[Path], needy: list[tuple[str, str]]
) -> None:
    if needy:
        of = by_ending(_endings_of(path for path, _ in needy))
        warn(
            f"{str(folder)!r} holds {counted(len(needy), 'image')} that Pillow does "
            f"not read here, left out: {of}. Register a plugin, such as pillow-heif "
            "for .heic, or save them as PNG or JPEG; `skipped` says what to do for "
            "each."
        )
    if unnamed:
        of = by_ending(_endings_of(unnamed))
        warn(
            f"{str(folder)!r} holds {counted(len(unnamed), 'image')} whose names do "
            f"not end as those of images, left out: {of}. Pass extensions='any' to "
            "take such images, too."
        )


def _none_read(folder: Path, bad: list[tuple[str, str]]) -> str:
    where = f"in {str(folder)!r}"
    what = f"Not one of {counted(len(bad), 'image')} {where} can"
    if len(bad) == 1:
        what = f"The only image {where} cannot"
    return f"{what} be read:{named_lines(bad)}\nPass another folder."


def _nothing_found(
    folder: Path,
    files: list[Path],
    extensions: Sequence[str] | None,
    recursive: bool,
    unnamed: list[Path],
) -> str:
    there = by_ending(_endings_of(files))
    expected = (
        "such as .png and .jpg, which Pillow reads"
        if extensions is None
        else ", ".join(extensions)
    )
    deeper = "" if recursive else ", or recursive=True to look into subfolders"
    other = "" if extensions is None else ", or other extensions"
    if unnamed:
        other = f", or extensions='any': {len(unnamed)} of them are images all the same"
    return (
        f"No images in {str(folder)!r}: found {counted(len(files), 'file')}"
        f"{f' ({there})' if there else ''}, expected names that end in {expected}. "
        f"Pass another folder{other}{deeper}."
    )
