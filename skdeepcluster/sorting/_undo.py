"""A sorting undone."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from .._input.paths import counted, named_lines
from ._journal import Entry, Journal
from ._names import JOURNAL
from ._standing import Standing, standing
from ._transfer import Mover, remove_twin, sync_all


def undo_sorting(dest: str | os.PathLike[str]) -> int:
    """Undo what ``sort_into_folders`` did to a folder, after a kill as well.

    Moved files go back to where they were, also if they were edited meanwhile. A copy
    or a hard link is removed if the file that it was made of still has the same bytes,
    and a symbolic link if it still leads there. Then the folders that were made are
    removed, where they are empty, and the journal. Nothing is overwritten, and the last
    copy of a file is never removed.

    Parameters
    ----------
    dest : str or path-like
        The folder that files were sorted into; it may have been moved.

    Returns
    -------
    n_files : int
        How many files were put back, or copies and links removed.

    Raises
    ------
    FileNotFoundError
        If nothing was sorted into ``dest``.
    ValueError
        If the journal is damaged.
    OSError
        If some files could not be put back or removed: all of them are named. The
        others are undone. Once what is in the way was removed, the call may be
        repeated.

    See Also
    --------
    sort_into_folders : What it undoes.

    Examples
    --------
    >>> from skdeepcluster.sorting import undo_sorting
    >>> undo_sorting("sorted")  # doctest: +SKIP
    """
    root = Path(os.path.realpath(Path(os.fsdecode(dest)).expanduser()))
    with Journal(root) as journal:
        if journal.head is None:
            raise FileNotFoundError(
                f"There is no journal {str(journal.path)!r}, which sort_into_folders "
                "writes. Pass the folder that files were sorted into."
            )
        with contextlib.suppress(OSError):  # on a full disk, undoing makes room
            journal.undo()
        undone, left, mover = 0, {}, Mover()
        for entry in reversed(journal.entries):
            if entry.source in left:  # what was there before it has to wait
                continue
            try:
                undone += _undo(journal, entry, journal.head["how"], mover)
            except OSError as error:
                left[entry.source] = (
                    os.path.join(entry.folder, entry.name),
                    error.strerror or str(error),
                )
        mover.settle()
        journal.clear({root / entry.folder for entry in journal.entries})
        journal.clear({os.path.dirname(entry.source) for entry in journal.entries})
        for folder in reversed(journal.folders):
            _remove_empty(root / folder)
        if left:
            raise OSError(
                f"{counted(len(left), 'file')} in {str(root)!r} could not be undone, "
                f"{undone} could:"
                f"{named_lines(list(left.values())[::-1])}\nRemove what is in the way "
                f"and call again, or delete {JOURNAL!r} there to keep them so."
            )
        journal.remove()
        for _ in range(journal.head["levels"]):
            if not _remove_empty(root):
                break
            root = root.parent
    return undone


def _undo(journal: Journal, entry: Entry, how: str, mover: Mover) -> bool:
    """Undo one file; return whether there was anything to undo."""
    source, target = entry.source, journal.place(entry)
    stands = standing(entry, target, how)
    if stands is Standing.OTHER and how == "move" and journal.undoing:
        if os.path.lexists(source) and os.lstat(source).st_size == 0 < entry.size:
            os.unlink(source)  # an undoing that was killed had kept its place so
            stands = Standing.DONE
    if stands is Standing.OPEN:
        return False
    if stands is Standing.GONE:
        if how != "move":  # both were removed, by someone who meant it
            return False
        raise OSError(f"it is gone, and so is {source!r}")
    if stands is Standing.OTHER:
        if not os.path.lexists(source):
            raise OSError(f"{source!r} is gone, and this is the copy of it")
        raise OSError(f"it is not the same as {source!r}")
    if how == "symlink" or stands is Standing.EMPTY:
        os.unlink(target)
    elif stands is Standing.DONE and how == "move":
        parent = os.path.dirname(source)
        os.makedirs(parent, exist_ok=True)
        mover.move(target, source, journal.part(parent))
    else:
        if how == "move":  # an undoing was killed, and the disk may lack what it copied
            sync_all([source])
        remove_twin(target, source)
    return stands is not Standing.EMPTY


def _remove_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:  # it holds files of others, or is gone
        return False
    return True
