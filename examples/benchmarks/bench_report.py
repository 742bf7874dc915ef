"""What a report costs: seconds, memory and bytes of its page, on generated files.

Each image is a smooth random picture in colour, a JPEG of 96 x 96; of every hundred,
one is a copy of another one, and one is another one saved again at a lower quality. The
embedding has 100 clusters; each report is written by a process of its own.

    python examples/benchmarks/bench_report.py --json records/report.json

Memory is the peak above that before the report; the embedding, and what it takes to
make one up, are in it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import record

FILES = (2_000, 20_000, 50_000)
MAKE = """
import shutil, sys
from pathlib import Path
import numpy as np
from PIL import Image
folder, n, side = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(0)
for i in range(n):
    path = folder / f"{i:06}.jpg"
    if i % 100 == 98:
        shutil.copy(folder / f"{i - 1:06}.jpg", path)
    elif i % 100 == 99:
        Image.open(folder / f"{i - 3:06}.jpg").save(path, quality=40)
    else:
        small = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
        Image.fromarray(small).resize((side, side)).save(path, quality=85)
"""
WRITE = """
import json, re, sys, time
from pathlib import Path
import numpy as np
from skdeepcluster.report import write_report

def peak():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024

folder, n, n_clusters, seed = sys.argv[1], *map(int, sys.argv[2:])
paths = sorted(map(str, Path(folder).glob("*.jpg")))[:n]

def write(paths):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_clusters, len(paths))
    for i, back in ((98, 1), (99, 3)):
        labels[i::100] = labels[i - back :: 100]
    centers = rng.normal(size=(n_clusters, 128))
    embedding = centers[labels] + rng.normal(size=(len(labels), 128))
    embedding = embedding.astype(np.float32)
    embedding[98::100] = embedding[97::100]
    embedding[99::100] = embedding[96::100] + 0.1
    return write_report(
        Path(folder, "report.html"), paths, labels, n_clusters=n_clusters,
        confidence=rng.random(len(paths)), embedding=embedding, random_state=seed,
    )

write(paths[:200])
Path("/proc/self/clear_refs").write_text("5")  # the peak of the imports
base, wall, cpu = peak(), time.perf_counter(), time.process_time()
page = write(paths)
seconds, cpu = time.perf_counter() - wall, time.process_time() - cpu
text = page.read_text()
copies = re.search(r"([\\d,]+) images are exact copies", text)
alike = re.search(r"in ([\\d,]+) groups?, look nearly the same", text)
number = lambda found: int(found[1].replace(",", "")) if found else 0
print(json.dumps({
    "files": n, "seconds": seconds, "cpu_seconds": cpu, "mib": peak() - base,
    "bytes": page.stat().st_size, "pictures": text.count("data:image/"),
    "copies": number(copies), "planted_copies": n // 100,
    "alike": number(alike), "planted_alike": n // 100,
}))
"""


def run(code, *arguments):
    """Run code in a process of its own, with one thread; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, nargs="+", default=FILES)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where the files are written for a while")
    parser.add_argument("--json")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        run(MAKE, folder, max(args.files), args.side)
        for n in args.files:
            row = json.loads(run(WRITE, folder, n, args.clusters, args.seed))
            rows.append(row)
            print(
                f"{n} files: {row['seconds']:.1f} s, {row['cpu_seconds']:.1f} CPU s, "
                f"{row['mib']:.1f} MiB, {row['bytes'] / 1e6:.1f} MB, "
                f"{row['pictures']} pictures, {row['copies']} copies and "
                f"{row['alike']} near-duplicates of {row['planted_alike']} each",
                flush=True,
            )
    hidden = ("json", "folder")  # a record names no path of a machine
    record.write(
        args.json,
        script="examples/benchmarks/bench_report.py",
        arguments={k: v for k, v in vars(args).items() if k not in hidden},
        environment=record.environment(),
        reports=rows,
    )


if __name__ == "__main__":
    main()
