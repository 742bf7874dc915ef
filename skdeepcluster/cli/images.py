"""Which images the folders of a command line hold, and which cannot be read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .._input.decoding import read_header
from .._input.files import check_files
from .._input.formats import use_plugins
from .._input.paths import counted
from .._input.threads import in_threads
from ..datasets import load_image_folder
from ..datasets._folder import by_ending
from .shown import Console
from .tables import as_text

LISTED = 10  # files that a message names
NAMED = 3  # files that a sentence of the page names
Skipped = list[tuple[str, str]]  # path, reason


class Listing(NamedTuple):
    """What the places of a command line hold.

    Attributes
    ----------
    paths : list of str
        Images: absolute, each once, in the order of the places and of their folders.
    skipped : list of tuple (path, reason)
        Images that Pillow does not read here, and folders that cannot be read; of a
        place with such folders, images that cannot be, too.
    others : Counter
        How many other files were left out for their endings, for each of these.
    """

    paths: list[str]
    skipped: Skipped
    others: Counter[str]

    def __str__(self):
        found = counted(len(self.paths), "file")
        if self.skipped:
            found += f", and {len(self.skipped)} that cannot be read"
        if not self.others:
            return found
        return f"{found} (left out for their endings: {by_ending(self.others)})"


def find_images(
    places: Sequence[str], strict: bool = False, any_ending: bool = False
) -> Listing:
    """List the images of folders, and image files.

    Parameters
    ----------
    places : sequence of str
        Folders, with their subfolders, and files.
    strict : bool
        Whether what cannot be read is an error. All images are decoded to find out.
    any_ending : bool
        Whether images are taken whatever their names end in.

    Returns
    -------
    listing : Listing

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        If there is no such place, or no image in it. With ``strict``, if something
        cannot be read.
    """
    use_plugins()
    paths: dict[str, None] = {}  # a set that keeps its order
    skipped: dict[str, str] = {}
    others: Counter[str] = Counter()
    extensions = "any" if any_ending else None
    asked = dict.fromkeys(map(os.path.abspath, places))
    for place in asked:
        try:
            os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(
                f"There is no file or folder {place!r}. Pass folders that hold images, "
                "or image files."
            ) from None
        if not Path(place).is_dir():
            paths[place] = None  # who reads it says what is wrong with a pipe or link
            continue
        try:
            found = load_image_folder(place, extensions=extensions)
        except (FileNotFoundError, ValueError):
            raise
        except OSError:  # it holds folders that cannot be read
            if strict:
                raise
            found = load_image_folder(place, extensions=extensions, on_error="skip")
        paths |= dict.fromkeys(found.paths)
        skipped |= dict(found.skipped)
        if asked.keys().isdisjoint(map(str, Path(place).parents)):  # else counted there
            others.update(found.other_files)
    skipped = {path: reason for path, reason in skipped.items() if path not in paths}
    if strict:
        reasons = check_files(list(paths))
        bad = [(p, r) for p, r in zip(paths, reasons, strict=True) if r is not None]
        bad += skipped.items()
        if bad:
            n = len(paths) + len(skipped)
            what = f"{len(bad)} of {counted(n, 'image file')} cannot"
            raise ValueError(
                f"{none_can(1, 'image file') if n == 1 else what} be read:{lines(bad)}"
                "\nRemove what cannot be read, or leave out --strict."
            )
    return Listing(list(paths), list(skipped.items()), others)


def tell_skipped(
    console: Console, skipped: Skipped, n_read: int, listed_in: str | None
) -> None:
    """Warn of what cannot be read, if there is something.

    Parameters
    ----------
    console : Console
    skipped : list of tuple (path, reason)
    n_read : int
        Images that can be read.
    listed_in : str or None
        The file that lists all of them; None if there is none, so that all are named.
    """
    if skipped:
        of = f"{len(skipped)} of {counted(n_read + len(skipped), 'image file')}"
        verb = "is" if len(skipped) == 1 else "are"
        what = f"{of} cannot be read, and {verb} left out"
        some = ", ".join(path for path, _ in skipped[:NAMED])
        more = len(skipped) - NAMED
        end = f" and {more} more" if more > 0 else ""
        if listed_in is None:
            told = f"{what}:{lines(skipped, len(skipped))}"
        else:
            told = f"{what} ({listed_in} lists all):{lines(skipped)}"
        console.warn(told, as_text(f"{what}: {some}{end}."))


def none_readable(paths: Sequence[str]) -> str | None:
    """Return an error's text if not one of some files can be read."""
    reasons = check_files(paths)
    if None in reasons:
        return None
    bad = list(zip(paths, reasons, strict=True))
    return f"{none_can(len(paths), 'image file')} be read:{lines(bad)}"


def none_can(n: int, noun: str) -> str:
    """Begin a sentence on what can be done with none of some things."""
    return f"The {noun} cannot" if n == 1 else f"Not one of {counted(n, noun)} can"


def lines(named: Skipped, most: int = LISTED) -> str:
    """List files with what is wrong with each, the first ones by name."""
    some = [f"\n  {path!r} {reason}" for path, reason in named[:most]]
    more = len(named) - most
    return "".join(some) + (f"\n  and {more} more" if more > 0 else "")


def all_grey(paths: Sequence[str]) -> bool:
    """Whether no image that can be opened has a colour."""
    heads = in_threads(lambda p: read_header(p, upright=False), paths)
    return all(getattr(head, "grey", True) for head in heads)
