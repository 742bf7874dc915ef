"""Image files sorted into a folder for each cluster."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from numpy.typing import ArrayLike

from .._input.paths import counted, named_lines
from .._progress import ImageProgress
from .._storage.folder import make_folder
from ._asked import InFolder, canonical, clusters_of, files_of, one_folder_each
from ._journal import Entry, Journal
from ._names import Names, folder_names
from ._standing import Standing, standing
from ._transfer import BATCH, Mover, copy_new, remove_twin, sync, sync_all

VERBS = {
    "copy": "copied",
    "hardlink": "linked",
    "symlink": "linked",
    "move": "moved",
}


def sort_into_folders(
    paths: Any,
    labels: ArrayLike,
    dest: str | os.PathLike[str],
    how: Literal["copy", "hardlink", "symlink", "move"] = "copy",
    names: Mapping[int, str] | Sequence[str] | None = None,
    *,
    verbose: int = 0,
) -> list[str]:
    """Sort files into a folder for each cluster, without losing one.

    Nothing is ever overwritten. Files of one name from several folders all keep their
    bytes: the first keeps its name, and the others become ``x (2).jpg``, ``x (3).jpg``
    in the order of ``paths``, also where names differ only in capitals or in how an
    accent is encoded. Files that were in ``dest`` before stay as they are.

    A journal in ``dest``, ``sorting.jsonl``, has each file before it is touched. If the
    process is killed or the disk is full, the same call goes on where it ended, and
    :func:`undo_sorting` puts everything back.

    Parameters
    ----------
    paths : list of str or path-like, of length n_files
        The files; also an array, a Series or an iterator of them. If one is named
        twice, with the same label, it is sorted once.
    labels : array-like of shape (n_files,), int
        Cluster of each file; -1 is that of files without one.
    dest : str or path-like
        Folder to sort into, made if it is not there; ``~`` is the home folder. It may
        lie beside the files or within their folder.
    how : {"copy", "hardlink", "symlink", "move"}, default="copy"
        ``"copy"`` keeps times and permissions. ``"hardlink"`` takes no space, and needs
        ``dest`` on the file system of the files: a change to one is a change to both.
        ``"symlink"`` makes links with absolute paths. ``"move"`` works between file
        systems as well: there, a file is removed when its copy is on the disk.
    names : mapping from int to str, or sequence of str, optional
        Names of the folders of the clusters; a mapping may have some, and -1. Others
        are ``00``, ``01``, ... and ``rejected``.
    verbose : int, default=0
        1 shows a bar on a terminal and some lines elsewhere; 0 shows nothing.

    Returns
    -------
    places : list of str, of length n_files
        Where each file of ``paths`` is now, or its copy or link.

    Raises
    ------
    TypeError
        If ``paths`` or ``names`` are of another type.
    ValueError
        If files cannot be sorted, because they are missing, are folders, pipes or (for
        ``"move"``) links, or lie in their folder already: all are named, and nothing is
        done. If labels are not one integer from -1 on for each file, if a file has two
        labels, or ``names`` cannot be names of folders, or name a cluster that no file
        has. If ``dest`` holds an earlier
        sorting of these files into other folders, or in another way.
    OSError
        If a file cannot be copied, linked or moved: it stays as it was, the files
        before it are sorted, and those after it are not touched.

    See Also
    --------
    undo_sorting : Put everything back.

    Notes
    -----
    The same call again does nothing to files that are sorted already, and returns the
    same places. A file that has changed since, or a new one of the same path, is sorted
    beside the earlier one.

    Examples
    --------
    >>> from skdeepcluster.sorting import sort_into_folders
    >>> sort_into_folders(paths, model.labels_, "sorted")  # doctest: +SKIP
    """
    if how not in VERBS:
        raise ValueError(f"how={how!r} should be one of {', '.join(map(repr, VERBS))}.")
    given = files_of(paths)
    clusters = clusters_of(labels, len(given))
    folders = folder_names(clusters, names)
    if not os.fspath(dest):  # which pathlib takes for the current folder
        raise ValueError("dest is empty. Pass a folder; '.' is the current one.")
    dest = Path(os.fsdecode(dest)).expanduser()
    if dest.exists() and not dest.is_dir():
        raise NotADirectoryError(
            f"dest={str(dest)!r} is a file. Pass a folder, or the name of a new one."
        )
    sources = canonical(given)
    wanted = one_folder_each(sources, clusters, folders)
    root = Path(os.path.realpath(dest))
    with Journal(root) as journal:
        sorting = _Sorting(journal, wanted, how)
        with ImageProgress("Sorting", len(wanted), len(sorting.done), verbose) as bar:
            sorting.run(bar)
    place = {s: str(dest / e.folder / e.name) for s, e in sorting.done.items()}
    return [place[source] for source in sources]


class _Sorting:
    """One call: planned when it is made, done by ``run``.

    Attributes
    ----------
    done : dict
        From source to the :class:`Entry` of what is at its place.
    """

    def __init__(self, journal: Journal, wanted: dict[str, str], how: str):
        self.journal, self.how, self.root = journal, how, journal.folder
        if journal.head is not None and journal.head["how"] != how:
            raise ValueError(
                f"{str(self.root)!r} holds a sorting of how={journal.head['how']!r}, "
                f"and this one is of how={how!r}. Undo it by undo_sorting, or pass "
                "another dest."
            )
        self.mover = Mover()
        self.done: dict[str, Entry] = {}
        self.sizes: dict[str, int] = {}
        self.halves: list[Entry] = []
        self.void: list[Entry] = []  # of a process that was killed before it came there
        kept, todo = self._look(wanted)
        self.names = {folder: self._names(folder) for folder in set(todo.values())}
        self.todo = self._name(kept, todo)

    def _look(self, wanted):
        """Tell what is done from what is not, and refuse what cannot be done."""
        earlier = {entry.source: entry for entry in self.journal.entries}
        kept, todo, bad, elsewhere = {}, {}, [], []
        inside = InFolder(self.root, set(wanted.values()))
        for source, folder in wanted.items():
            entry = earlier.get(source)
            stands = None
            if entry is not None:
                place = self.journal.place(entry)
                stands = standing(entry, place, self.how, trust_times=True)
            if entry is not None and stands in (Standing.DONE, Standing.HALF):
                if self.how == "symlink" and not os.path.exists(source):
                    bad.append((source, "does not exist"))
                if entry.folder != folder:
                    elsewhere.append((source, f"in {entry.folder!r}, now {folder!r}"))
                    continue
                self.done[source] = entry
                if stands is Standing.HALF:
                    self.halves.append(entry)
                continue
            if entry is not None and stands in (Standing.OPEN, Standing.EMPTY):
                self.void.append(entry)
                if entry.folder == folder:
                    kept[source] = entry.name
            if reason := self._why_not(source) or inside.why_not(source, folder):
                bad.append((source, reason))
            todo[source] = folder
        if bad:
            raise ValueError(
                f"{len(bad)} of {counted(len(wanted), 'file')} cannot be sorted, and "
                f"none was touched:{named_lines(bad)}\nLeave them out."
            )
        if elsewhere:
            raise ValueError(
                f"{str(self.root)!r} holds an earlier sorting, which has "
                f"{len(elsewhere)} of these files in other folders:"
                f"{named_lines(elsewhere)}\nUndo it by undo_sorting, or pass another "
                "dest."
            )
        return kept, todo

    def _why_not(self, source: str) -> str | None:
        if source == str(self.journal.path):
            return "is the journal of this folder"
        reason, self.sizes[source] = looked_at(source, self.how)
        return reason

    def _names(self, folder: str) -> Names:
        path = self.root / folder
        if path.is_symlink():
            raise ValueError(
                f"{str(path)!r} is a link, and files would be sorted to elsewhere. "
                "Remove it, or pass names= or another dest."
            )
        if not path.exists():
            return Names(())
        if not path.is_dir():
            raise NotADirectoryError(
                f"{str(path)!r} is a file, where a folder is needed. Remove it, or "
                "pass names= or another dest."
            )
        return Names(os.listdir(path))

    def _name(self, kept: dict[str, str], todo: dict[str, str]) -> list[Entry]:
        """Give each file a name; those that can keep theirs come first."""
        named = {}
        for source, name in kept.items():
            if self.names[todo[source]].take(name):
                named[source] = name
        for source, folder in todo.items():
            name = os.path.basename(source)
            if source not in named and self.names[folder].take(name):
                named[source] = name
        for source, folder in todo.items():
            if source not in named:
                name = os.path.basename(source)
                named[source] = self.names[folder].take_like(name)
        return [Entry(s, todo[s], named[s], self.sizes[s]) for s in todo]

    # -- doing it ----------------------------------------------------------------------

    def run(self, bar: ImageProgress) -> None:
        """Do what is to be done.

        Parameters
        ----------
        bar : ImageProgress

        Raises
        ------
        OSError
            That tells what was done.
        """
        self.journal.clear({self.root / e.folder for e in self.done.values()})
        if not (self.todo or self.halves):
            return
        levels = _levels(self.root)
        make_folder(self.root, "dest")
        before = len(self.done)
        entry: Entry | None = None
        try:
            self.journal.begin(self.how, levels)
            sync_all([self.journal.place(half) for half in self.halves])
            for entry in self.halves:
                remove_twin(entry.source, self.journal.place(entry))
            entry = None
            self._clear()
            for start in range(0, len(self.todo), BATCH):
                batch = self.todo[start : start + BATCH]
                self._plan(batch)
                for entry in batch:
                    self.done[entry.source] = self._transfer(entry)
                    bar.advance(1)
                entry = None
                self.mover.settle()
        except OSError as error:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                self.mover.settle()
            n_done = len(self.done) - before - self.mover.n_left
            what = "The sorting cannot go on"
            if entry is not None:
                target = self.journal.place(entry)
                what = f"{entry.source!r} cannot be {VERBS[self.how]} to {target!r}"
            raise OSError(
                error.errno or errno.EIO,
                f"{what} ({_reason(error, entry)}). Before that, "
                f"{n_done} of {counted(len(self.todo), 'file')} "
                f"{'was' if len(self.todo) == 1 else 'were'} {VERBS[self.how]}. Mend "
                "the cause and call again to go on, or call "
                f"undo_sorting({str(self.root)!r}).",
            ) from error

    def _clear(self) -> None:
        """Take back what was planned and not done."""
        for entry in self.void:
            place = self.journal.place(entry)
            if os.path.lexists(place) and not os.lstat(place).st_size:
                os.unlink(place)
        if self.void:
            self.journal.drop(self.void)

    def _plan(self, batch: list[Entry]) -> None:
        used = dict.fromkeys(entry.folder for entry in batch)
        new = [folder for folder in used if not (self.root / folder).exists()]
        self.journal.plan(new, batch)
        for folder in new:
            (self.root / folder).mkdir(exist_ok=True)
        if new:
            sync(self.root)

    def _transfer(self, entry: Entry) -> Entry:
        """Copy, link or move a file; return where it is."""
        part = self.journal.part(self.root / entry.folder)
        while True:
            target = self.journal.place(entry)
            try:
                if self.how == "copy":
                    copy_new(entry.source, target, part)
                elif self.how == "move":
                    self.mover.move(entry.source, target, part)
                elif self.how == "symlink":
                    os.symlink(entry.source, target)
                else:
                    os.link(os.path.realpath(entry.source), target)
                return entry
            except FileExistsError:
                if not os.path.lexists(target):
                    raise
                # another process made a file of this name since the plan
                self.journal.drop([entry])
                name = os.path.basename(entry.source)
                name = self.names[entry.folder].take_like(name)
                entry = entry._replace(name=name)
                self.journal.plan([], [entry])


def looked_at(source: str, how: str) -> tuple[str | None, int]:
    """Tell why a file cannot be sorted, or None, and its size in bytes.

    Parameters
    ----------
    source : str
    how : {"copy", "hardlink", "symlink", "move"}

    Returns
    -------
    reason : str or None
    size : int
        0 if it cannot be sorted.
    """
    try:
        status = os.lstat(source)
        link = stat.S_ISLNK(status.st_mode)
        if link and how == "move":
            return "is a link; move what it leads to, or copy", 0
        if link:
            status = os.stat(source)
    except FileNotFoundError:
        link = os.path.islink(source)
        return "is a link to nothing" if link else "does not exist", 0
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return f"cannot be looked at ({reason})", 0
    if stat.S_ISDIR(status.st_mode):
        return "is a folder", 0
    if not stat.S_ISREG(status.st_mode):
        return "is no regular file", 0
    return None, status.st_size


def _levels(folder: Path) -> int:
    """Count the folders that have to be made to have one."""
    levels = 0
    while not os.path.lexists(folder):
        levels, folder = levels + 1, folder.parent
    return levels


def _reason(error: OSError, entry: Entry | None) -> str:
    if entry is not None and not os.path.lexists(entry.source):
        return "it is no longer there"
    reason = error.strerror or str(error)
    if entry is None and error.filename is not None:
        reason = f"{error.filename!r}: {reason}"
    if error.errno == errno.EXDEV:
        reason += ": hard links stay within a file system; pass how='copy'"
    return reason
