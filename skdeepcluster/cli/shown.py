"""What a command shows, and keeps for the record: stages, seconds and warnings."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
import warnings
from collections.abc import Iterator

from .._progress import duration, say, shows_bars
from .words import in_options

OF_LIBRARIES = (
    DeprecationWarning,
    PendingDeprecationWarning,
    FutureWarning,
    ImportWarning,
    ResourceWarning,
)
# the command lists them itself
LISTED = (
    r"\d+ of \d+ image files? cannot be read",
    r".* holds \d+ images? that Pillow does not read here",
)


class Console:
    """One line a stage on the standard error, with its seconds.

    Parameters
    ----------
    quiet : bool
        Whether warnings and errors alone are shown.
    verbose : bool
        Whether there are lines with the time left where no bar can be drawn.

    Attributes
    ----------
    seconds : dict of float
        Of each stage that ended.
    warnings : list of str
        Warned since :meth:`gathering` began.
    verbosity : int
        Of estimators.
    """

    def __init__(self, quiet: bool = False, verbose: bool = False):
        self.quiet = quiet
        self.verbosity = int(not quiet and (verbose or shows_bars()))
        self.seconds: dict[str, float] = {}
        self.warnings: list[str] = []

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[list[str]]:
        """Time a stage; the line is its name, what the block appended, and the time."""
        said: list[str] = []
        began = time.perf_counter()
        yield said
        seconds = time.perf_counter() - began
        self.seconds[name] = round(self.seconds.get(name, 0) + seconds, 3)
        self.say(f"{name}: {', '.join([*said, duration(seconds)])}")

    def say(self, line: str) -> None:
        """Show a line, unless quiet."""
        if not self.quiet:
            say(line)

    def warn(self, line: str, kept: str | None = None) -> None:
        """Show a warning, and keep it, or a shorter one for the record and the page."""
        self.warnings.append(line if kept is None else kept)
        say(f"Warning: {line}")

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """Show and keep the warnings of the block; those for developers are ignored."""
        with warnings.catch_warnings():
            warnings.resetwarnings()
            warnings.simplefilter("default")
            for category in OF_LIBRARIES:
                warnings.simplefilter("ignore", category)
            for listed in LISTED:
                warnings.filterwarnings("ignore", listed)
            warnings.showwarning = self._show
            yield

    def _show(self, message, category, filename, lineno, file=None, line=None):
        self.warn(in_options(str(message)))


def show(text: str) -> None:
    """Write a line to the standard output; what that cannot encode is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def as_command(*words: object) -> str:
    """Write a command of this program so that a shell reads the words as they are."""
    return shlex.join(["skdeepcluster", *map(str, words)])
