"""Scripts of the benchmarks, run within the tests: a process imports torch again."""

import runpy
import signal
import sys
from pathlib import Path
from unittest import mock

SCRIPTS = Path(__file__).parents[1] / "examples" / "benchmarks"


def run(script, *arguments):
    """Run a script as ``python script arguments`` does, and with a fresh SIGTERM."""
    path = str(SCRIPTS / script)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with (
            mock.patch.object(sys, "argv", [path, *map(str, arguments)]),
            mock.patch.object(sys, "path", [str(SCRIPTS), *sys.path]),
        ):
            runpy.run_path(path, run_name="__main__")
    finally:
        signal.signal(signal.SIGTERM, before)
