"""Seconds and memory of a fit, predict and transform of up to a million images.

The images are uint8 in a file that is mapped into memory: smooth patterns of ten
classes under noise. Each run is a process of its own: an epoch of a small network, or
several, ``predict``, and ``transform`` by pieces into a second map. What is reported of
memory is the highest anonymous resident memory (``RssAnon`` of ``/proc``, read twenty
times a second) above that right after the imports: the pages of the maps are none of
it, for the system takes them back when it likes. Linux only.

    python examples/benchmarks/bench_large.py --n 10000 100000 --json records/large.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import record
import torch

from skdeepcluster import GCC, MFCVAE, SCL, DigPro, StatDEC
from skdeepcluster._engine.net import ClusterNet

MIB = 2**20
SHAPE = (32, 32, 3)
N_CLUSTERS = 10
BLOCK = 1000  # images that are drawn at once
PIECE = 100_000  # images that are transformed at once
WIDTHS = {"feature_dim": 64, "hidden_dim": 64, "augment": "weak"}
METHODS = {
    "DigPro": (DigPro, WIDTHS),
    "SCL": (SCL, WIDTHS),
    "StatDEC": (StatDEC, WIDTHS),
    "GCC": (GCC, {**WIDTHS, "bank": "real"}),
    "MFCVAE": (MFCVAE, {"hidden_dims": 16}),
}


def write_images(path, n, seed):
    """Write n images of ten patterns, holding a block of them at a time."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(40, 216, (N_CLUSTERS, 4, 4, 3), dtype=np.uint8)
    patterns = patterns.repeat(8, axis=1).repeat(8, axis=2)
    with open(path, "wb") as file:
        for start in range(0, n, BLOCK):
            size = min(BLOCK, n - start)
            images = patterns[rng.integers(0, N_CLUSTERS, size)]
            noise = rng.integers(0, 80, images.shape, dtype=np.uint8)
            file.write((images - 40 + noise).tobytes())


def opened(path, n):
    return np.memmap(path, np.uint8, mode="r", shape=(n, *SHAPE))


class Peak:
    """The highest anonymous resident memory of this process, above that of the start.

    Attributes
    ----------
    start, highest : float
        MiB.
    """

    def __init__(self):
        self.start = self.highest = self.now()
        threading.Thread(target=self._watch, daemon=True).start()

    @staticmethod
    def now():
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1024
        raise OSError("/proc/self/status has no RssAnon. Run this on Linux.")

    def _watch(self):
        while True:
            self.highest = max(self.highest, self.now())
            time.sleep(0.05)

    def take(self):
        """Highest memory since the last call, in MiB above the start."""
        highest, self.highest = max(self.highest, self.now()), self.now()
        return highest - self.start


class Timed:
    """Adds up the processor's seconds within functions, and counts their calls."""

    def __init__(self):
        self.seconds, self.calls = {}, {}

    def watch(self, name, owner, attribute):
        """Replace a function of a module or class by one that is timed."""
        function = getattr(owner, attribute)
        self.seconds[name], self.calls[name] = 0.0, 0

        def call(*args, **kwargs):
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += time.process_time() - began
                self.calls[name] += 1

        setattr(owner, attribute, call)


def epochs_of(model, X):
    """Fit; return the seconds of an epoch, and what those of the processor went to."""
    timed = Timed()
    for name in ("train_step", "evaluate", "report"):
        timed.watch(name, ClusterNet, name)
    began, spent = {}, {}
    begin, end = ClusterNet.on_epoch_begin, ClusterNet.on_epoch_end

    def now():
        return {**timed.seconds, "cpu": time.process_time()}

    def on_epoch_begin(self, *args, **kwargs):
        began.update(now())  # what is done before the first epoch is none of it
        return begin(self, *args, **kwargs)

    def on_epoch_end(self, *args, **kwargs):
        end(self, *args, **kwargs)
        for name, seconds in now().items():
            spent[name] = spent.get(name, 0.0) + seconds - began[name]

    ClusterNet.on_epoch_begin, ClusterNet.on_epoch_end = on_epoch_begin, on_epoch_end
    start, cpu = time.perf_counter(), time.process_time()
    model.fit(X)
    whole, cpu = time.perf_counter() - start, time.process_time() - cpu
    epochs = len(model.history_)
    spent = {name: seconds / epochs for name, seconds in spent.items()}
    return {
        "fit_seconds": whole,
        "fit_cpu_seconds": cpu,
        "epoch_seconds": sum(row["seconds"] for row in model.history_) / epochs,
        "epoch_cpu_seconds": spent["cpu"],
        "steps_cpu_seconds": spent["train_step"],
        "embedding_cpu_seconds": spent["evaluate"],
        "clustering_cpu_seconds": spent["report"] - spent["evaluate"],
        "rest_cpu_seconds": spent["cpu"] - spent["train_step"] - spent["report"],
    }


def measure(folder, method, n, epochs, seed):
    """Run one method on the images of a folder; in a process of its own."""
    torch.set_num_threads(1)
    peak = Peak()
    X = opened(folder / "images.bin", n)
    cls, params = METHODS[method]
    model = cls(
        n_clusters=N_CLUSTERS,
        backbone="conv",
        max_epochs=epochs,
        batch_size=256,
        lr=1e-3,
        device="cpu",
        random_state=seed,
        **params,
    )
    model.fit(X[:600])  # what is imported on first use takes seconds, too
    width = model.transform(X[:2]).shape[1]
    result = {"imports_mib": peak.start, **epochs_of(model, X)}
    result["fit_mib"] = peak.take()
    began, cpu = time.perf_counter(), time.process_time()
    labels = model.predict(X)
    result["predict_seconds"] = time.perf_counter() - began
    result["predict_cpu_seconds"] = time.process_time() - cpu
    result["predict_mib"] = peak.take()
    began, cpu = time.perf_counter(), time.process_time()
    out = np.lib.format.open_memmap(
        folder / "embedding.npy", "w+", np.float32, (n, width)
    )
    for start in range(0, n, PIECE):
        rows = slice(start, start + PIECE)
        out[rows] = model.transform(X[rows])
    result["transform_seconds"] = time.perf_counter() - began
    result["transform_cpu_seconds"] = time.process_time() - cpu
    result["transform_mib"] = peak.take()
    assert np.array_equal(labels, model.labels_)
    return {**result, "clusters": len(model.cluster_sizes_)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--methods", nargs="+", default=["DigPro", "SCL"])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where the images are written for a while")
    parser.add_argument("--json")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        folder, method, n = args.run
        result = measure(Path(folder), method, int(n), args.epochs, args.seed)
        print(json.dumps(result))
        return
    torch.set_num_threads(1)
    place = args.folder

    def run(n, method, epochs):
        with tempfile.TemporaryDirectory(dir=place) as folder:
            write_images(Path(folder) / "images.bin", n, args.seed)
            command = [sys.executable, __file__, "--seed", str(args.seed)]
            command += ["--epochs", str(epochs), "--run", folder, method, str(n)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)

    del args.run, args.folder  # a record names no path of a machine
    keys = [(n, method, args.epochs) for n in args.n for method in args.methods]
    record.resume(
        args,
        "bench_large.py",
        ("n", "method", "epochs"),
        keys,
        run,
        shape=list(SHAPE),
        n_clusters=N_CLUSTERS,
    )


if __name__ == "__main__":
    main()
