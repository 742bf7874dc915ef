"""How far a planned file has come, told by the files alone."""

from __future__ import annotations

import os
import stat
from enum import Enum

from ._journal import Entry
from ._transfer import same_content


class Standing(Enum):
    """What there is of a file to sort, and at the place that it is sorted to."""

    OPEN = "nothing is at its place yet"
    DONE = "it is at its place"
    HALF = "it is at its place, and still where it was"
    EMPTY = "an empty file keeps its place"
    OTHER = "something else is at its place"
    GONE = "it is neither there nor where it was"


def standing(
    entry: Entry, target: str, how: str, trust_times: bool = False
) -> Standing:
    """Tell how far a file has come.

    Parameters
    ----------
    entry : Entry
    target : str
        Path of its place.
    how : {"copy", "hardlink", "symlink", "move"}
    trust_times : bool
        Whether a copy of the same size and time of change is one, unread.

    Returns
    -------
    standing : Standing
        ``HALF`` of files that are moved only.
    """
    source = entry.source
    there = os.path.lexists(source)
    if not os.path.lexists(target):
        return Standing.OPEN if there else Standing.GONE
    if how == "symlink":
        mine = os.path.islink(target) and os.readlink(target) == source
        return Standing.DONE if mine else Standing.OTHER
    status = os.lstat(target)
    if not stat.S_ISREG(status.st_mode):
        return Standing.OTHER
    if not os.path.exists(source):  # or it is a link to nothing
        done = how == "move" and not there
        return Standing.DONE if done else Standing.OTHER
    if same_content(source, target, trust_times and how == "copy"):
        return Standing.HALF if how == "move" else Standing.DONE
    return Standing.EMPTY if entry.size > status.st_size == 0 else Standing.OTHER
