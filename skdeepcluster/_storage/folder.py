"""Folders that a parameter names: made, and tried, before the work begins."""

from __future__ import annotations

import tempfile
from pathlib import Path


def make_folder(folder: Path, parameter: str) -> None:
    """Make a folder, if it is not there, and write something in it.

    Parameters
    ----------
    folder : Path
    parameter : str
        Name of the parameter, for errors.

    Raises
    ------
    OSError, ValueError
        If it cannot be made or written to.
    """
    said = f"{parameter}={str(folder)[:200]!r}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        text = (
            f"{said} is no folder, and none can be made there ({reason}). Pass another "
            "name."
        )
        if isinstance(error, OSError):
            raise OSError(error.errno, text) from error
        raise ValueError(text) from error
    try:  # now, not when there is something to lose
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            error.errno,
            f"Nothing can be written in {said} ({error.strerror}). Pass another "
            "folder.",
        ) from error
