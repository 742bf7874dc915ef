"""Peak memory of ``transform`` and ``predict`` on images that stay on the disk.

The images are uint8 in a file that is mapped into memory. A DigPro fitted on a few of
them embeds and labels them all. What is reported is the highest resident memory of
the process above that right after the imports; the pages of the file that were
touched are part of it, although the system can take them back at any time.

    python examples/benchmarks/bench_memory.py --json records/memory.json
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import record

from skdeepcluster import DigPro

MIB = 2**20
SHAPE = (32, 32, 3)
BLOCK = 1000  # images


def peak():
    """Return the highest resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # on Linux, ru_maxrss begins with the peak of the process that started this one
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / MIB if sys.platform == "darwin" else used / 1024


BASELINE = peak()


def write_images(path, n, seed):
    """Write n random images, uint8, without holding more than a block of them."""
    rng = np.random.default_rng(seed)
    with open(path, "wb") as file:
        for start in range(0, n, BLOCK):
            block = (min(BLOCK, n - start), *SHAPE)
            file.write(rng.integers(0, 256, block, dtype=np.uint8).tobytes())
    return np.memmap(path, np.uint8, mode="r", shape=(n, *SHAPE))


def measure(folder, n, seed, device="cpu"):
    """Fit on a few images of a file of n; return the peaks above the baseline."""
    X = write_images(Path(folder) / "images.bin", n, seed)
    result = {"baseline_mib": BASELINE, "file_mib": X.nbytes / MIB}

    def run(name, function, *args):
        start = time.perf_counter()
        out = function(*args)
        result[f"{name}_seconds"] = time.perf_counter() - start
        result[f"peak_{name}_mib"] = peak() - BASELINE
        return out

    estimator = DigPro(
        4,
        backbone="conv",
        augment="weak",
        max_epochs=1,
        batch_size=64,
        lr=1e-3,
        feature_dim=32,
        hidden_dim=64,
        device=device,
        random_state=seed,
    )
    run("fit", estimator.fit, X[:256])
    embedding = run("transform", estimator.transform, X)
    labels = run("predict", estimator.predict, X)
    assert len(embedding) == len(labels) == n
    return {**result, "peak_mib": peak() - BASELINE}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", help="where the images are written for a while")
    parser.add_argument("--json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result = measure(folder, args.n, args.seed, args.device)
    for name, value in result.items():
        print(f"{name:20s} {value:9.1f}")
    hidden = ("json", "folder")  # a record names no path of a machine
    record.write(
        args.json,
        script="examples/benchmarks/bench_memory.py",
        arguments={k: v for k, v in vars(args).items() if k not in hidden},
        environment=record.environment(args.device),
        shape=SHAPE,
        dtype="uint8",
        **result,
    )


if __name__ == "__main__":
    main()
