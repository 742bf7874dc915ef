"""Kill trainings at random moments, go on, and compare with the run never killed.

Every training runs in a child process with ``checkpoint``; SIGKILL ends it after a
random share of its time, up to three times, until it comes to its end. Labels and
embedding have to be those of the same training without a kill, bit for bit.

    python examples/benchmarks/kills.py --trainings 5 --json kills.json

It needs ``os.fork``. One thread, so that the sums have one order.
"""

import argparse
import hashlib
import os
import random
import signal
import tempfile
import time
import warnings
from pathlib import Path

import record
import torch
from sklearn.base import clone

from skdeepcluster import GCC, MFCVAE, SCL, DigPro, StatDEC
from skdeepcluster.datasets import load_digits_images
from skdeepcluster.gcc import Generated

SHARED = {"n_clusters": 4, "batch_size": 32, "random_state": 0, "precision": "float32"}
METHODS = {
    "DigPro": DigPro(**SHARED, max_epochs=8),
    "SCL": SCL(**SHARED, max_epochs=8),
    "StatDEC": StatDEC(**SHARED, max_epochs=8),
    "MFCVAE": MFCVAE(**SHARED, max_epochs=10),
    "GCC": GCC(
        **SHARED,
        max_epochs=8,
        pretraining=0.5,
        n_rounds=2,
        max_change=1.0,
        min_agreement=0.0,
        tol=0.0,
        bank=Generated(denoiser="mlp", steps=300, sampling_steps=5),
    ),
}
MOST_KILLS = 3


def run(estimator, X, result):
    """Fit and write a digest of labels and embedding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(X)
    found = hashlib.sha256(estimator.labels_.tobytes())
    found.update(estimator.transform(X).tobytes())
    result.write_text(found.hexdigest())


def in_child(estimator, X, result, seconds=None):
    """Run in a child that is killed after some seconds; return what it wrote."""
    child = os.fork()
    if child == 0:
        try:
            run(estimator, X, result)
        finally:
            os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return result.read_text() if result.exists() else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--trainings", type=int, default=5, help="of each method")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(args.seed)
    X = load_digits_images()[0][:200]
    rows = []
    for name in args.methods:
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder, "result")
            began = time.perf_counter()
            whole = in_child(clone(METHODS[name]), X, result)
            takes = time.perf_counter() - began
        for number in range(args.trainings):
            with tempfile.TemporaryDirectory() as folder:
                result = Path(folder, "result")
                model = clone(METHODS[name]).set_params(
                    checkpoint=Path(folder, "training"), checkpoint_every=0
                )
                kills, found = [], None
                while found is None:
                    last = len(kills) == MOST_KILLS
                    seconds = None if last else draw.uniform(0, takes)
                    found = in_child(model, X, result, seconds)
                    if found is None and last:
                        raise SystemExit(f"{name}: training that goes on failed")
                    if found is None:
                        kills.append(round(seconds, 3))
            same = found == whole
            rows.append({"method": name, "killed_after": kills, "same": same})
            print(f"{name} {number}: killed after {kills} s, same: {same}", flush=True)
    n_kills = sum(len(row["killed_after"]) for row in rows)
    n_same = sum(row["same"] for row in rows)
    print(f"{n_kills} kills in {len(rows)} trainings: {n_same} identical")
    record.write(
        args.json,
        script="examples/benchmarks/kills.py",
        arguments={k: v for k, v in vars(args).items() if k != "json"},
        environment=record.environment(torch.device("cpu")),
        kills=n_kills,
        trainings=len(rows),
        identical=n_same,
        rows=rows,
    )


if __name__ == "__main__":
    main()
