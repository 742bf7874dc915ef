"""What is shown while something runs: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import sys

LOGGER = logging.getLogger("skdeepcluster")


def shows_bars() -> bool:
    """Whether a bar can be drawn: on a terminal or in a notebook.

    A bar that is written into a file fills it with carriage returns.
    """
    shell = sys.modules.get("IPython")
    if shell is not None and hasattr(shell.get_ipython(), "kernel"):
        return True
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def say(line: str) -> None:
    """Show a line: by the logger ``skdeepcluster`` if it takes INFO, else on stderr.

    Parameters
    ----------
    line : str
    """
    if LOGGER.isEnabledFor(logging.INFO):
        LOGGER.info(line)
    elif sys.stderr is not None:
        from tqdm.auto import tqdm

        tqdm.write(line, file=sys.stderr)  # above the bars that there are


def duration(seconds: float) -> str:
    """Say a time as ``9 s``, ``2:05`` or ``1:02:05``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
