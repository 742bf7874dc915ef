"""Peak memory of ``fit`` on views of arrays, on small files and on large pictures.

Each case runs in a process of its own: one epoch of DigPro on (3, 32, 32). What is
reported is the highest resident memory above that right after the imports; the data of
an array are made before, and a copy of the case with the array's own layout stands
beside every view.

    python examples/benchmarks/bench_reading.py --json records/reading.json

``--package FOLDER`` measures the package of another version, such as that of
``git worktree add FOLDER COMMIT``.
"""

import argparse
import json
import os
import subprocess
import sys

import record

CASE = """
import json, sys, tempfile, warnings
from pathlib import Path
import numpy as np
from PIL import Image
from skdeepcluster import DigPro

warnings.simplefilter("ignore")

def peak():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024

case, folder = sys.argv[1:]
rng = np.random.default_rng(0)
small = {"max_epochs": 1, "batch_size": 64, "backbone": "conv", "random_state": 0}
small |= {"feature_dim": 32, "hidden_dim": 64, "augment": "weak"}
shape = None
if case.startswith("array"):
    X = rng.integers(0, 256, (20_000, 32, 32, 3), dtype=np.uint8)
    if "flipped" in case:
        X = X[:, :, ::-1]
    if "transposed" in case:
        X = X.transpose(0, 3, 2, 1)
elif case.startswith("files"):
    X, shape = [], (3, 32, 32)
    for i in range(20_000):
        X.append(str(Path(folder, f"{i}.png")))
        if not Path(X[-1]).exists():
            image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(image).save(X[-1], compress_level=1)
else:
    X, shape = [str(Path(folder, f"{case}{i}.png")) for i in range(4)], (3, 32, 32)
    mode = {"large grey picture": "L", "large colour picture": "RGB"}[case]
    for path in X:
        if not Path(path).exists():
            Image.new(mode, (13_000, 13_000)).save(path)
if shape and not (made := Path(folder, f"{case} made")).exists():
    made.touch()
    sys.exit(3)  # again in a fresh process: making the files took memory, too
base = peak()
DigPro(2, image_shape=shape, **small).fit(X)
print(json.dumps(peak() - base))
"""
CASES = (
    "array as it is",
    "array, flipped view",
    "array, transposed view",
    "files, 20 000 small ones",
    "large grey picture",
    "large colour picture",
)


def measure(case, folder, package):
    """Peak of a case in MiB; its files are made by processes of their own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CASE, case, folder]
    code = 3
    while code == 3:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=package
        )
        code = done.returncode
    if code:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", required=True, help="where files are written")
    parser.add_argument("--package", help="folder of another version of the package")
    parser.add_argument("--json")
    args = parser.parse_args()
    peaks = {}
    for case in CASES:
        peaks[case] = measure(case, os.path.abspath(args.folder), args.package)
        print(f"{case:26} {peaks[case]:8.0f} MiB", flush=True)
    record.write(
        args.json,
        script="examples/benchmarks/bench_reading.py",
        environment=record.environment(),
        peaks_mib=peaks,
    )


if __name__ == "__main__":
    main()
