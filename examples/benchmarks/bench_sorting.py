"""Seconds that sorting into folders takes, and that undoing it takes.

    python examples/benchmarks/bench_sorting.py --json records/sorting.json

Files of 1 KB in 20 folders, whose names repeat, are sorted into 10 clusters: copied,
linked and moved within a file system, then moved to that of ``--other``, if that is
another one. A plain loop of ``shutil.copy2`` stands beside it, which loses files of one
name. The record is of ``--files 10000``.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import record

from skdeepcluster.sorting import sort_into_folders, undo_sorting


def make_files(folder, n, rng):
    """Write files whose names repeat in each subfolder."""
    content = rng.bytes(1024)
    paths = []
    for i in range(n):
        part = Path(folder, f"{i % 20:02}")
        if i < 20:
            part.mkdir(parents=True)
        paths.append(str(part / f"image_{i // 20:05}.jpg"))
        Path(paths[-1]).write_bytes(content + i.to_bytes(4, "little"))
    return paths


def seconds(function, *args):
    began = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - began, result


def plain_loop(paths, labels, dest):
    for path, label in zip(paths, labels, strict=True):
        folder = Path(dest, str(label))
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, folder)


def count(folder):
    return sum(len(names) for _, _, names in os.walk(folder))


def measure(paths, labels, dest, how):
    """Sort, sort again, undo; check that nothing is missing."""
    sort, places = seconds(sort_into_folders, paths, labels, dest, how)
    if len(set(places)) != len(paths) or count(dest) != len(paths) + 1:
        raise SystemExit(f"{how}: a file is missing")
    again, places_again = seconds(sort_into_folders, paths, labels, dest, how)
    if places_again != places:
        raise SystemExit(f"{how}: the second call did something else")
    undo, undone = seconds(undo_sorting, dest)
    if (
        undone != len(paths)
        or os.path.exists(dest)
        or not all(map(os.path.exists, paths))
    ):
        raise SystemExit(f"{how}: the undoing left something")
    return {"sort": sort, "again": again, "undo": undo}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--folder", help="where files are written; a temporary one")
    parser.add_argument("--other", help="folder on another file system")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    runs = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        paths = make_files(Path(folder, "photos"), args.files, rng)
        labels = rng.integers(-1, 10, args.files)
        loop, _ = seconds(plain_loop, paths, labels, Path(folder, "plain"))
        lost = args.files - count(Path(folder, "plain"))
        shutil.rmtree(Path(folder, "plain"))
        runs.append({"how": "loop of shutil.copy2", "sort": loop, "lost": lost})
        for how in ("copy", "hardlink", "symlink", "move"):
            dest = Path(folder, "sorted")
            runs.append({"how": how, **measure(paths, labels, dest, how), "lost": 0})
        if args.other:
            with tempfile.TemporaryDirectory(dir=args.other) as other:
                dest = Path(other, "sorted")
                result = measure(paths, labels, dest, "move")
                runs.append({"how": "move, other file system", **result, "lost": 0})
    print(f"{args.files} files, seconds{'':14} sort   again    undo    lost")
    for run in runs:
        cells = [f"{run[k]:8.2f}" if k in run else f"{'':8}" for k in STAGES]
        print(f"{run['how']:32}", *cells, f"{run['lost']:7}")
    record.write(
        args.json,
        script="examples/benchmarks/bench_sorting.py",
        arguments={"files": args.files, "seed": args.seed},
        environment=record.environment(),
        runs=runs,
    )


STAGES = ("sort", "again", "undo")

if __name__ == "__main__":
    main()
