"""The table of a clustering, as CSV and Parquet: a row for each image."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

COLUMNS = ("path", "cluster", "confidence", "x", "y")
# names of files may hold bytes that are no text: what Python reads them by writes them
ERRORS = sys.getfilesystemencodeerrors()


@dataclass
class Table:
    """What was found of each image.

    Attributes
    ----------
    paths : list of str
        Absolute: the files, wherever the table is read; and no path begins with a sign
        that a spreadsheet takes for a formula.
    clusters : ndarray of shape (n,), int64
    confidences : ndarray of shape (n,), float32
        From 0 to 1.
    positions : ndarray of shape (n, 2), float32
        In the map.
    """

    paths: list[str]
    clusters: np.ndarray
    confidences: np.ndarray
    positions: np.ndarray

    def __len__(self):
        return len(self.paths)

    def only(self, keep: np.ndarray) -> Table:
        """Return some rows.

        Parameters
        ----------
        keep : ndarray of shape (n,), bool

        Returns
        -------
        table : Table
        """
        paths = [path for path, kept in zip(self.paths, keep, strict=True) if kept]
        arrays = self.clusters, self.confidences, self.positions
        return Table(paths, *(array[keep] for array in arrays))

    def write_csv(self, file: BinaryIO) -> None:
        """Write a header and rows; decimal numbers are those that float32 tells apart.

        Parameters
        ----------
        file : binary file
        """
        columns = self.paths, self.clusters, self.confidences, *self.positions.T
        write_rows(file, COLUMNS, zip(*columns, strict=True))

    def write_parquet(self, file: BinaryIO) -> None:
        """Write a file of Parquet, whose text is Unicode: see :func:`as_text`.

        Parameters
        ----------
        file : binary file

        Raises
        ------
        ImportError
            Without the package polars.
        """
        polars = import_polars()
        x, y = self.positions.T.copy()
        columns = map(as_text, self.paths), self.clusters, self.confidences, x, y
        table = {n: polars.Series(n, c) for n, c in zip(COLUMNS, columns, strict=True)}
        polars.DataFrame(table).write_parquet(file)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Table:
        """Read what :meth:`write_csv` wrote.

        Parameters
        ----------
        path : str or PathLike

        Returns
        -------
        table : Table

        Raises
        ------
        ValueError
            If the file holds anything else.
        OSError
            If it cannot be opened.
        """
        try:
            with open(path, encoding="utf-8", errors=ERRORS, newline="") as file:
                rows = list(csv.reader(file))
            if tuple(rows[0]) != COLUMNS:
                raise ValueError("other columns")
            paths, clusters, *numbers = zip(*rows[1:], strict=True)
            confidences, x, y = np.array(numbers, np.float32)
            numbered = np.array(clusters, np.int64)
        except (ValueError, IndexError, csv.Error) as error:
            raise ValueError(
                f"{os.fspath(path)!r} is not the table that was written ({error}): its "
                f"columns should be {', '.join(COLUMNS)}. Cluster again."
            ) from error
        return cls(list(paths), numbered, confidences, np.column_stack([x, y]))


def as_text(path: str) -> str:
    r"""Return a path as Unicode: bytes of it that are no text become ``\xe9``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def write_rows(file: BinaryIO, header: Iterable, rows: Iterable[Iterable]) -> None:
    """Write CSV, in UTF-8; names of files byte for byte, whatever bytes they hold.

    Parameters
    ----------
    file : binary file
        It stays open.
    header : iterable of str
    rows : iterable of iterables
    """
    text = io.TextIOWrapper(file, encoding="utf-8", errors=ERRORS, newline="")
    # all text is quoted: csv sees no need to where a name holds a carriage return
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(header)
    writer.writerows(rows)
    text.detach()  # it would close the file


def import_polars():
    """Import the package that writes Parquet.

    Raises
    ------
    ImportError
        If it is not installed: it says what to install.
    """
    try:
        import polars
    except ImportError as error:
        raise ImportError(
            "Parquet needs a package that is not installed. Install it: pip install "
            '"skdeepcluster[cli]"'
        ) from error
    return polars
