"""The journal: what is done to which file, written before it is done."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ._names import JOURNAL
from ._transfer import sync

FORMAT = 1


class Entry(NamedTuple):
    """A file that was sorted, or was about to be.

    Attributes
    ----------
    source : str
        Absolute path.
    folder, name : str
        Place below the folder that files are sorted into.
    size : int
        Bytes of the file.
    """

    source: str
    folder: str
    name: str
    size: int


class Journal:
    """The journal of a folder, locked until it is closed.

    It has a line of JSON for the sorting itself, for each folder made, for each file,
    and for each file that could not have the name of an earlier line. A file is done if
    it is where its line says: the line alone says that it may be.

    Parameters
    ----------
    folder : Path
        That files are sorted into.

    Attributes
    ----------
    head : dict or None
        What the first line says; None if there is no line yet.
    folders : list of str
        Those made here.
    entries : list of Entry
        In the order written.
    undoing : bool
        Whether an undoing began, and nothing was sorted since.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / JOURNAL
        self.head: dict | None = None
        self.folders: list[str] = []
        self.entries: list[Entry] = []
        self.undoing = False
        self._file = None
        if self.path.exists():  # no buffer, which a full disk would keep full
            self._file = open(self.path, "r+b", buffering=0)
        try:
            if self._file:
                self._lock()
                self._read()
        except BaseException:
            self.close()
            raise

    def begin(self, how: str, levels: int) -> None:
        """Write the first line, unless there is one.

        Parameters
        ----------
        how : str
        levels : int
            How many folders were made to have this one: it, its parent, ...
        """
        if self._file is None:
            # exclusive: of two that begin at once, one fails
            self._file = open(self.path, "x+b", buffering=0)
            self._lock()
        if self.head is None:
            self.head = {
                "journal": "skdeepcluster.sorting",
                "format": FORMAT,
                "how": how,
                "levels": levels,
                "token": secrets.token_hex(4),
            }
            self.write([self.head])
            sync(self.folder)

    def write(self, lines: list[dict[str, Any]]) -> None:
        """Append lines, and bring them to the disk."""
        assert self._file is not None
        text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        while text:
            text = text[self._file.write(text) :]
        os.fsync(self._file.fileno())

    def plan(self, folders: list[str], entries: list[Entry]) -> None:
        """Write which folders will be made and which files sorted."""
        self.write(
            [{"folder": folder} for folder in folders]
            + [
                {"from": e.source, "to": [e.folder, e.name], "bytes": e.size}
                for e in entries
            ]
        )

    def drop(self, entries: list[Entry]) -> None:
        """Write that nothing was done for these entries, and that nothing will be."""
        self.write(
            [
                {"from": e.source, "dropped": [e.folder, e.name], "bytes": e.size}
                for e in entries
            ]
        )

    def undo(self) -> None:
        """Write that an undoing begins."""
        self.write([{"undo": True}])

    def part(self, folder: str | Path) -> str:
        """Name the file that a copy is in while it is written."""
        assert self.head is not None
        return os.path.join(folder, f".sorting-{self.head['token']}.part")

    def clear(self, folders: Iterable[str | Path]) -> None:
        """Remove what a process that was killed left half written in folders."""
        if self.head is not None:
            for folder in folders:
                with contextlib.suppress(OSError):
                    os.unlink(self.part(folder))

    def place(self, entry: Entry) -> str:
        """Return the path that a file is sorted to."""
        return os.path.join(self.folder, entry.folder, entry.name)

    def remove(self) -> None:
        """Remove the journal: everything is undone."""
        self.path.unlink()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def _lock(self) -> None:
        """Keep others out; the system forgets it when the process ends."""
        try:
            import fcntl
        except ImportError:  # on Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[arg-type]
        except BlockingIOError:
            raise OSError(
                f"Another process sorts files into {str(self.folder)!r}, or undoes "
                "that. Wait until it has ended, or pass another folder."
            ) from None
        except OSError:  # some network file systems have no locks
            return

    def _read(self) -> None:
        assert self._file is not None
        raw = self._file.read()
        end = raw.rfind(b"\n") + 1
        if end < len(raw):  # the process was killed while it wrote this line
            self._file.truncate(end)
            self._file.seek(end)
        for number, line in enumerate(raw[:end].splitlines(), 1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{str(self.path)!r} is no journal of a sorting, or damaged: line "
                    f"{number} cannot be read ({error}). Pass another folder."
                ) from error

    def _take(self, line: dict) -> None:
        if self.head is None:
            if line["journal"] != "skdeepcluster.sorting" or line["format"] != FORMAT:
                raise ValueError(f"format {FORMAT} was expected")
            if not line["token"].isalnum() or type(line["levels"]) is not int:
                raise ValueError("token or levels are of another kind")
            self.head = {**line, "how": str(line["how"])}
        elif "folder" in line:
            self.folders.append(_plain(line["folder"]))
        elif "undo" in line:
            self.undoing = True
        else:
            folder, name = line["dropped"] if "dropped" in line else line["to"]
            size = int(line["bytes"])
            entry = Entry(line["from"], _plain(folder), _plain(name), size)
            if not os.path.isabs(entry.source):
                raise ValueError("a path is not absolute")
            if "to" in line:
                self.undoing = False
                self.entries.append(entry)
            else:
                with contextlib.suppress(ValueError):
                    self.entries.remove(entry)


def _plain(name: str) -> str:
    """Refuse what leads out of the folder."""
    if name in ("", ".", "..") or os.path.basename(name) != name:
        raise ValueError(f"{name!r} is no plain name")
    return name
