"""Which images the folders of a command line hold, and which cannot be read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .._input.decoding import read_header
from .._input.files import check_files, in_threads
from ..datasets import load_image_folder
from .shown import Console, counted
from .tables import as_text

LISTED = 10  # files that a message names
NAMED = 3  # files that a sentence of the page names
Skipped = list[tuple[str, str]]  # path, reason


def find_images(places: Sequence[str], strict: bool) -> tuple[list[str], Skipped]:
    """List the images of folders, and image files.

    Parameters
    ----------
    places : sequence of str
        Folders, with their subfolders, and files.
    strict : bool
        Whether what cannot be read is an error. All images are decoded to find out.

    Returns
    -------
    paths : list of str
        Absolute, each once, in the order of the places and of their folders.
    skipped : list of tuple (path, reason)
        Folders that cannot be read; of a place with such, images that cannot be, too.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        If there is no such place, or no image in it. With ``strict``, if something
        cannot be read.
    """
    paths: dict[str, None] = {}  # a set that keeps its order
    skipped: Skipped = []
    for place in map(os.path.abspath, places):
        if Path(place).is_file():
            paths[place] = None
            continue
        try:
            found = load_image_folder(place)
        except (FileNotFoundError, ValueError):
            raise
        except OSError:  # it holds folders that cannot be read
            if strict:
                raise
            found = load_image_folder(place, on_error="skip")
            skipped += found.skipped
        paths |= dict.fromkeys(found.paths)
    if strict:
        reasons = check_files(list(paths))
        bad = [(p, r) for p, r in zip(paths, reasons, strict=True) if r is not None]
        if bad:
            raise ValueError(
                f"{len(bad)} of {len(paths)} image files cannot be read:{lines(bad)}\n"
                "Remove them, or leave out --strict."
            )
    return list(paths), skipped


def tell_skipped(console: Console, skipped: Skipped, n_found: int, where: str) -> None:
    """Warn of what cannot be read, if there is something.

    Parameters
    ----------
    console : Console
    skipped : list of tuple (path, reason)
    n_found : int
        Images, those that cannot be read included.
    where : str
        What says where all of them are listed; may be empty.
    """
    if skipped:
        what = (
            f"{len(skipped)} of {n_found} image files cannot be read, and are left out"
        )
        some = ", ".join(path for path, _ in skipped[:NAMED])
        more = len(skipped) - NAMED
        end = f" and {more} more" if more > 0 else ""
        console.warn(
            f"{what}{where}:{lines(skipped)}", as_text(f"{what}: {some}{end}.")
        )


def none_readable(paths: Sequence[str]) -> str | None:
    """Return an error's text if not one of some files can be read."""
    reasons = check_files(paths)
    if None in reasons:
        return None
    bad = list(zip(paths, reasons, strict=True))
    return f"Not one of {counted(len(paths), 'image file')} can be read:{lines(bad)}"


def lines(named: Skipped) -> str:
    """List files with what is wrong with each, the first ones by name."""
    some = [f"\n  {path!r} {reason}" for path, reason in named[:LISTED]]
    more = len(named) - LISTED
    return "".join(some) + (f"\n  and {more} more" if more > 0 else "")


def all_grey(paths: Sequence[str]) -> bool:
    """Whether no image that can be opened has a colour."""
    heads = in_threads(lambda p: read_header(p, upright=False), paths)
    return all(getattr(head, "grey", True) for head in heads)
