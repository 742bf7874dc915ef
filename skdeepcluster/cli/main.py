"""Parse, run a command, and end with an exit code and one sentence on what failed."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from .arguments import make_parser
from .words import in_options

# errors that say what came and what to do; others are faults of the program
TOLD = (OSError, ValueError, TypeError, ImportError, FloatingPointError, MemoryError)
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, default=None
        Arguments without the name of the program; None takes those of the process.

    Returns
    -------
    code : int
        Exit code: 0 done; 1 failed; 130 after Ctrl-C, 143 after SIGTERM.

    Raises
    ------
    SystemExit
        With 2 if the arguments cannot be used, and with 0 after help or version.
    """
    parser = make_parser()
    args = parser.parse_args(argv)
    if getattr(args, "range", None) is not None and args.n_clusters != "auto":
        parser.error("--range needs --n-clusters auto")
    try:
        commands = importlib.import_module(".commands", __package__)  # torch: seconds
        code = getattr(commands, args.command)(args)
        sys.stdout.flush()  # here, where an error of it is told
        return code
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as error:
        print(f"skdeepcluster: {str(error) or 'Interrupted.'}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if args.debug:
            raise
        print(f"skdeepcluster: error: {sentence(error)}", file=sys.stderr)
        return 1


def sentence(error: Exception) -> str:
    """Say what an error is, without the code that it came from.

    Parameters
    ----------
    error : Exception

    Returns
    -------
    text : str
    """
    put = str if _is_own(error) else in_options
    if isinstance(error, OSError) and error.strerror:
        where = [repr(n) for n in (error.filename, error.filename2) if n is not None]
        return ": ".join([*where, put(error.strerror)])
    if isinstance(error, MemoryError):
        return "The memory does not suffice. Pass fewer images, or a smaller --size."
    text = str(error) or type(error).__name__
    if isinstance(error, TOLD):
        return put(text)
    return (
        f"The program has a fault ({type(error).__name__}: {text}). Run it again with "
        "--debug, and report what it shows."
    )


def _is_own(error: Exception) -> bool:
    """Whether a module of the command line raised an error, not the library."""
    name = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = frame.f_globals.get("__name__", "")
    return name is not None and name.startswith(f"{__package__}.")
