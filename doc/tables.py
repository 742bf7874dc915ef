"""Tables of the benchmark page, out of the records of ``examples/benchmarks``."""

import json
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "examples" / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from fill_readme import TABLES, where  # noqa: E402


def quick(gallery_conf, script_vars):
    """Arguments of the examples while the gallery is built."""
    return ["--quick"]


def write(folder):
    """Write one file to include for each kind of record, if it has records or not."""
    folder.mkdir(exist_ok=True)
    for kind, table in TABLES.items():
        records = sorted((BENCHMARKS / "records").glob(f"{kind}*.json"))
        parts = [as_rst(json.loads(path.read_text()), table) for path in records]
        text = "\n".join(parts) or "*There is no record of this script yet.*\n"
        (folder / f"{kind}.inc").write_text(text)


def as_rst(record, table):
    """Render one record as a list-table and a line on where it was measured."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in table(record):
        # the first cell opens a row: "* - cell", then "  - cell"
        lines += [f"   {' ' if i else '*'} - {cell}" for i, cell in enumerate(row)]
    return "\n".join([*lines, "", where(record), ""])
