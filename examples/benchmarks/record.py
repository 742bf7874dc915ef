"""The JSON record of a measurement: what ran, where, with what, and when.

A table whose rows were measured by several calls of one script is merged of theirs:

    python examples/benchmarks/record.py records/all.json part_1.json part_2.json
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from joblib import Parallel, delayed

from skdeepcluster._engine.device import resolve_device, resolve_precision

PACKAGES = ("skdeepcluster", "numpy", "scikit-learn", "skorch", "torch", "torchvision")
PEERS = ("umap-learn", "clustpy")  # where they are installed


def processor():
    """Name the processor as the system does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line for line in lines if line.startswith("model name"))
        return name.split(":")[1].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def environment(device="cpu"):
    """Versions, device, threads and date of this process."""
    cuda = torch.device(device).type == "cuda"
    return {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if cuda else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def part(args):
    """Arguments and environment of a call, as a part of a record of several calls."""
    hidden = ("json", "packs", "features", "merge", "checkpoint")  # no path is named
    found = environment(resolve_device(getattr(args, "device", "cpu")))
    for name in PEERS:
        with contextlib.suppress(PackageNotFoundError):
            found["versions"][name] = version(name)
    return {
        "arguments": {k: v for k, v in vars(args).items() if k not in hidden},
        "environment": found,
    }


def stored(path):
    """The record of several calls at a path, or an empty one."""
    if path is None or not Path(path).exists():
        return {"parts": [], "runs": []}
    return json.loads(Path(path).read_text())


def pack_options(doc, **defaults):
    """The options of a script that fits on packs of images, seed by seed.

    Parameters
    ----------
    doc : str
        Of the script.
    **defaults
        Values that differ from one script to the next: ``names``, ``n``, ``seeds``.

    Returns
    -------
    parser : ArgumentParser
        What it parses is the ``args`` of :func:`resume`.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--packs", required=True, help="folder of the .npz files")
    parser.add_argument("--names", nargs="+", help="of packs; digits needs no file")
    parser.add_argument("--seeds", type=int, nargs="+", help="of draws and methods")
    parser.add_argument("--n", type=int, help="images that are drawn; 0: all")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--json", help="record to write, or to go on with")
    parser.set_defaults(**{"seeds": (0, 1, 2, 3, 4), **defaults})
    return parser


def resume(args, script, names, keys, run, **result):
    """Run what the record at ``args.json`` lacks, and write it after each run.

    Parameters
    ----------
    args : Namespace
        With ``json``, and with ``jobs`` and ``threads`` where runs may be side by side.
    script : str
        Its name.
    names : tuple of str
        What tells one run from another.
    keys : iterable of tuple
        The runs, by the values of ``names``; the next one is asked for when it can run.
    run : callable
        Maps such values to a dict of what was measured.
    **result
        What else the record has.
    """
    threads = getattr(args, "threads", None)
    if threads:
        torch.set_num_threads(threads)
    before, script = stored(args.json), f"examples/benchmarks/{script}"
    if before.get("script", script) != script:
        raise SystemExit(f"{args.json} is of {before['script']}. Name another record.")
    parts, runs = [*before["parts"], part(args)], before["runs"]
    have = {tuple(row[name] for name in names) for row in runs}
    missing = (key for key in keys if key not in have)
    side_by_side = Parallel(getattr(args, "jobs", 1), return_as="generator_unordered")
    for row in side_by_side(delayed(_row)(run, names, key, threads) for key in missing):
        runs.append(row)
        print(row, flush=True)
        write(
            args.json,
            script=script,
            **result,
            parts=parts,
            runs=runs,
        )
    if len(runs) == len(have):
        print(f"{args.json} lacks none of these runs.")


def _row(run, names, key, threads):
    if threads:
        torch.set_num_threads(threads)
    return dict(zip(names, key, strict=True)) | run(*key)


def write(path, **record):
    """Write a record, unless ``path`` is None."""
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(record, indent=1) + "\n")


def write_runs(args, script, **result):
    """Write what a script measured on packs of grey images, with its arguments.

    Parameters
    ----------
    args : Namespace
        With ``json`` and ``device``.
    script : str
        Its name.
    **result
        What it measured.
    """
    device = resolve_device(args.device)
    hidden = ("json", "packs", "features")  # a record names no path of a machine
    write(
        args.json,
        script=f"examples/benchmarks/{script}",
        arguments={k: v for k, v in vars(args).items() if k not in hidden},
        environment=environment(device),
        bfloat16=resolve_precision("auto", device, (1, 28, 28)),
        **result,
    )


def merge(paths):
    """Put the runs of several records of one script together, in their order."""
    records = [json.loads(Path(path).read_text()) for path in paths]
    (script,) = {one["script"] for one in records}
    keys = ("arguments", "environment", "bfloat16")
    alike = {k: records[0][k] for k in ("factors",) if k in records[0]}
    return {
        "script": script,
        **alike,
        "parts": [
            call
            for one in records
            for call in one.get("parts", [{k: one[k] for k in keys if k in one}])
        ],
        "runs": [run for one in records for run in one["runs"]],
    }


def main():
    parser = argparse.ArgumentParser(description="Merge records of one script.")
    parser.add_argument("json", help="record to write")
    parser.add_argument("parts", nargs="+", help="records to read")
    args = parser.parse_args()
    write(args.json, **merge(args.parts))


if __name__ == "__main__":
    main()
