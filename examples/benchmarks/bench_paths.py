"""Seconds and memory of what a fit does with up to a million paths before it trains.

The paths are hard links to a hundred PNG files of 32 x 32 pixels, of which one is cut
off, so that the disk is not what is measured. Each run is a process of its own: the
list is checked, headers are read, every file is decoded, and there the fit ends. A
model of some of the files predicts others. Memory is counted as by ``bench_large.py``.
Linux only.

    python examples/benchmarks/bench_paths.py --n 10000 100000 --json records/paths.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import record
import torch
from bench_large import N_CLUSTERS, Peak, Timed, write_images
from PIL import Image

from skdeepcluster import DigPro
from skdeepcluster._engine.net import ClusterNet
from skdeepcluster._input import decoding, files, layouts

SHAPE = (32, 32, 3)
FILES = 100
IN_FOLDER = 1000
FEW, SOME = 600, 5000  # files of a small fit and of a predict


def write_files(folder, n, seed):
    """Make n names of a hundred files, of which the last one is cut off."""
    write_images(folder / "images.bin", FILES, seed)
    images = np.fromfile(folder / "images.bin", np.uint8).reshape(FILES, *SHAPE)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    damaged = folder / f"{FILES - 1}.png"
    damaged.write_bytes(damaged.read_bytes()[:-500])
    for i in range(n):
        if i % IN_FOLDER == 0:
            (folder / f"of {i}").mkdir()
        os.link(folder / f"{i % FILES}.png", name_of(folder, i))


def name_of(folder, i):
    return f"{folder}/of {i - i % IN_FOLDER}/{i:07d}.png"


class Ended(Exception):
    """The fit has come to its first step."""


def end(*args):
    raise Ended


def measure(folder, n, seed):
    """What a fit of n files takes before it trains; in a process of its own."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of the damaged files, which are counted
    peak = Peak()
    X = [name_of(folder, i) for i in range(n)]
    model = DigPro(
        N_CLUSTERS,
        backbone="conv",
        augment="weak",
        max_epochs=1,
        batch_size=256,
        lr=1e-3,
        feature_dim=64,
        hidden_dim=64,
        device="cpu",
        on_error="skip",
        random_state=seed,
    )
    model.fit(X[:FEW])  # what is imported on first use takes seconds, too
    result = {"imports_mib": peak.start}
    began, cpu = time.perf_counter(), time.process_time()
    labels = model.predict(X[-SOME:])
    result["predict_seconds"] = time.perf_counter() - began
    result["predict_cpu_seconds"] = time.process_time() - cpu
    assert len(labels) == SOME
    timed = Timed()
    timed.watch("list", layouts, "are_pictures")
    timed.watch("headers", files, "open_files")
    timed.watch("decoding", files.ImageFiles, "load")
    timed.watch("open", decoding, "open_image")
    ClusterNet.begin = end
    began, cpu = time.perf_counter(), time.process_time()
    try:
        model.fit(X)
    except Ended:
        pass
    result["before_seconds"] = time.perf_counter() - began
    result["before_cpu_seconds"] = time.process_time() - cpu
    result["before_mib"] = peak.take()
    for name in ("list", "headers", "decoding"):
        result[f"{name}_cpu_seconds"] = timed.seconds[name]
    return {**result, "opened": timed.calls["open"] / n}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where the files are written for a while")
    parser.add_argument("--json")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        folder, n = args.run
        print(json.dumps(measure(Path(folder), int(n), args.seed)))
        return
    torch.set_num_threads(1)
    place = args.folder

    def run(n):
        with tempfile.TemporaryDirectory(dir=place) as folder:
            write_files(Path(folder), n, args.seed)
            command = [sys.executable, __file__, "--seed", str(args.seed)]
            command += ["--run", folder, str(n)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)

    del args.run, args.folder  # a record names no path of a machine
    keys = [(n,) for n in args.n]
    about = {"shape": list(SHAPE), "predicted": SOME}
    record.resume(args, "bench_paths.py", ("n",), keys, run, **about)


if __name__ == "__main__":
    main()
