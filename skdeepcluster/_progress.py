"""What is shown while something runs: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time

LOGGER = logging.getLogger("skdeepcluster")


def _is_first():
    from ._engine.distributed import is_first  # which imports torch

    return is_first()


def shows_bars() -> bool:
    """Whether a bar can be drawn: on a terminal or in a notebook.

    A bar that is written into a file fills it with carriage returns. Of several
    processes of a training only the first one shows anything.
    """
    if not _is_first():
        return False
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
    if not _is_first():
        return
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


class ImageProgress:
    """Show how many images are done: a bar, or where there is none some lines.

    Parameters
    ----------
    description : str
        Shown before the bar or the line.
    total : int
        Images.
    done : int
        Those that were done before.
    verbose : int
        0 shows nothing, 1 a bar or lines, 2 lines in any case.
    """

    interval = 5.0  # seconds between two lines

    def __init__(self, description: str, total: int, done: int, verbose: int):
        self.description, self.total, self.done = description, total, done
        self.shown, self.bar = verbose > 0, None
        self.from_, self.began = done, time.perf_counter()
        self.said = self.began
        if verbose == 1 and shows_bars():
            from tqdm.auto import tqdm

            self.bar = tqdm(total=total, initial=done, desc=description, unit="image")

    def advance(self, n: int) -> None:
        """Show that ``n`` more images are done."""
        self.done += n
        if self.bar is not None:
            self.bar.update(n)
        elif self.shown:
            now = time.perf_counter()
            if self.done == self.total or now - self.said >= self.interval:
                self.said, seconds = now, now - self.began
                left = seconds * (self.total - self.done) / (self.done - self.from_)
                say(
                    f"{self.description}: {self.done}/{self.total} images "
                    f"({duration(seconds)}, {duration(left)} left)"
                )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.bar is not None:
            self.bar.close()
