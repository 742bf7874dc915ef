"""The folder that a run leaves: written whole, and never over files of others."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .._input.paths import counted
from .._storage import FileError
from .._storage.folder import make_folder
from .._version import __version__
from .tables import Table

FORMAT = 1
RUN = "run.json"
CSV, PARQUET, SKIPPED = "clusters.csv", "clusters.parquet", "unreadable.csv"
MODEL, EMBEDDING, REPORT = "model.safetensors", "embedding.npy", "report.html"
STAGING = ".writing-skdeepcluster-"  # what the names of unfinished folders begin with
STALE = 3600.0  # seconds after which such a folder was left by a kill
ANOTHER = "Pass the folder that skdeepcluster cluster wrote."


class Result:
    """A folder with the files of a run, which ``run.json`` describes.

    Files are written beside, in a folder of another name, and take their places when
    all of them are there. Meanwhile ``run.json`` says ``"state": "writing"``, so that
    files of two runs are never read as one.

    Attributes
    ----------
    folder : Path
    run : dict
        What ``run.json`` holds; empty if there is none yet.
    is_new : bool
        Whether :meth:`create` made the folder.
    """

    is_new = False

    def __init__(self, folder: Path, run: dict[str, Any]):
        self.folder, self.run = folder, run

    # -- opening -----------------------------------------------------------------------

    @classmethod
    def create(cls, path: str | os.PathLike[str], overwrite: bool) -> Result:
        """Take a folder for a new run; it is made, and tried, before the work begins.

        Parameters
        ----------
        path : str or PathLike
        overwrite : bool
            Whether files of an earlier run may be replaced.

        Returns
        -------
        result : Result

        Raises
        ------
        FileExistsError
            If the folder holds something, or with ``overwrite`` something that no run
            wrote under a name that a run writes.
        OSError, ValueError
            If nothing can be written there.
        """
        folder = Path(path)
        new = not folder.exists()
        make_folder(folder, "--out")
        there = [p.name for p in folder.iterdir() if not p.name.startswith(STAGING)]
        if there and not overwrite:
            raise FileExistsError(
                f"RESULT {str(folder)!r} is not empty: it holds "
                f"{counted(len(there), 'file')}, {min(there)!r} among them. Pass "
                "another folder, or --overwrite to replace the files of an earlier run."
            )
        result = cls(folder, _read_run(folder / RUN) if RUN in there else {})
        result._check_free({CSV, PARQUET, SKIPPED, MODEL, EMBEDDING, REPORT})
        result.is_new = new
        return result

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Result:
        """Open the folder of a run that was written whole.

        Parameters
        ----------
        path : str or PathLike

        Returns
        -------
        result : Result

        Raises
        ------
        FileNotFoundError
            If there is no such folder, or none that a run wrote.
        FileError
            If ``run.json`` is damaged or newer, or other files are not written.
        """
        folder = Path(path)
        if not (folder / RUN).is_file():
            what = f"holds no {RUN}" if folder.is_dir() else "is no folder"
            raise FileNotFoundError(f"RESULT {str(folder)!r} {what}. {ANOTHER}")
        run = _read_run(folder / RUN)
        if run["state"] == "writing":
            raise FileError(
                f"The run that wrote RESULT {str(folder)!r} was killed before its "
                "files were complete. Cluster again, with --overwrite."
            )
        return cls(folder, run)

    # -- reading -----------------------------------------------------------------------

    def table(self) -> Table:
        """Read the table; see :meth:`Table.read`."""
        return Table.read(self.folder / CSV)

    def embedding(self) -> np.ndarray:
        """Read the embedding, (n, d), float32.

        Raises
        ------
        FileError
            If the file does not hold one.
        OSError
            If it cannot be opened.
        """
        path = self.folder / EMBEDDING
        try:
            found = np.load(path, allow_pickle=False)
            right = found.ndim == 2 and found.dtype == np.float32
        except (ValueError, EOFError):
            right = False
        if not right:
            raise FileError(f"{str(path)!r} is damaged. Cluster again.")
        return found

    def model(self, device: str = "auto"):
        """Load the fitted estimator; see :func:`skdeepcluster.load`."""
        from .. import load

        return load(self.folder / MODEL, device=device)

    # -- writing -----------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, run: dict[str, Any]) -> Iterator[Path]:
        """Yield a folder to write files in, which take their places after the block.

        Parameters
        ----------
        run : dict
            What ``run.json`` will hold; the block may add to it. Files of ``run`` that
            the block did not write stay; those of an earlier run go.

        Yields
        ------
        staging : Path

        Raises
        ------
        OSError
            If files cannot be written: those that were there are as they were.
        """
        self._sweep()
        try:
            staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=self.folder))
        except OSError as error:
            raise OSError(
                error.errno,
                f"Nothing can be written in RESULT {str(self.folder)!r} "
                f"({error.strerror}). Let yourself write in that folder, or copy it to "
                "one where you can, and pass that.",
            ) from error
        try:
            yield staging
            names = sorted(p.name for p in staging.iterdir())
            self._check_free(names)
            before = set(self.run.get("files", []))
            kept = before & set(run.get("files", []))
            run |= {"skdeepcluster": __version__, "format": FORMAT}
            run["files"] = sorted(kept | set(names))
            for name in names:
                _sync(staging / name)
            both = sorted(before | set(run["files"]))
            self._write_run(staging, {**run, "state": "writing", "files": both})
            for name in names:
                os.replace(staging / name, self.folder / name)
            for name in before - set(run["files"]):
                (self.folder / name).unlink(missing_ok=True)
            self._write_run(staging, run)
            self.run = run
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def discard(self) -> None:
        """Remove the folder if it was made for a run that failed, and is empty."""
        if self.is_new:
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def _write_run(self, staging: Path, run: dict[str, Any]) -> None:
        path = staging / RUN
        path.write_text(json.dumps(run, indent=1, allow_nan=False) + "\n")
        _sync(path)
        os.replace(path, self.folder / RUN)

    def _check_free(self, names) -> None:
        """Refuse to replace files that no run wrote."""
        ours = set(self.run.get("files", []))
        others = [n for n in sorted(names) if n not in ours]
        taken = [n for n in others if os.path.lexists(self.folder / n)]
        if taken:
            raise FileExistsError(
                f"RESULT {str(self.folder)!r} holds {', '.join(map(repr, taken))}, "
                "which no run wrote there: nothing is replaced. Pass another folder, "
                "or move that away."
            )

    def _sweep(self) -> None:
        """Remove what a run left that was killed while it wrote."""
        for left in self.folder.glob(f"{STAGING}*"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > STALE:
                    shutil.rmtree(left)


def _sync(path: Path) -> None:
    """Have a file on the disk before its name says that it is complete."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _read_run(path: Path) -> dict[str, Any]:
    try:
        run = json.loads(path.read_text())
        right = isinstance(run["state"], str) and run["format"] >= 1
        files = run["files"]
        right &= isinstance(files, list) and all(
            isinstance(name, str) and name == os.path.basename(name) for name in files
        )
    except (ValueError, KeyError, TypeError):
        right = False
    if not right:
        raise FileError(f"{str(path)!r} is no description of a run. {ANOTHER}")
    if run["format"] > FORMAT:
        raise FileError(
            f"{str(path)!r} was written by skdeepcluster {run.get('skdeepcluster')}; "
            f"this is {__version__}, which reads format {FORMAT}. Install that version "
            "or a later one."
        )
    return run
