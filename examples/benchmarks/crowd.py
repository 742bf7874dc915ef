"""Seconds of a fit on a machine that others use, with the cure for spinning or not.

Each fit runs alone, then beside processes that want the cores, in the same order again
and again: with one thread; with two, whose waiting ones spin; and with two as the
package runs them. Wall and CPU seconds; the results of both ways with two threads have
to be equal, bit for bit.

    python examples/benchmarks/crowd.py --json examples/benchmarks/records/crowd.json
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time

import record
import torch

FIT = """
import hashlib, json, sys, time, warnings
import torch
import skdeepcluster
from skdeepcluster._engine import crowd
from skdeepcluster.datasets import load_digits_images

warnings.simplefilter("ignore")
method, threads, cured = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "cured"
torch.set_num_threads(threads)
if not cured:
    crowd.Crowd.look = lambda self: None
X = load_digits_images()[0][:600]
make = getattr(skdeepcluster, method)
shared = {"batch_size": 64, "precision": "float32", "random_state": 0}
make(5, max_epochs=1, **shared).fit(X)
wall, cpu = time.perf_counter(), time.process_time()
model = make(5, max_epochs=16, **shared).fit(X)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
digest = hashlib.sha256(model.transform(X).tobytes()).hexdigest()
print(json.dumps({"wall": wall, "cpu": cpu, "digest": digest}))
"""
WAYS = {
    "one thread": ("1", "plain"),
    "two that spin": ("2", "plain"),
    "two, cured": ("2", "cured"),
}


def burn():
    while True:
        pass


def fit(method, threads, way):
    command = [sys.executable, "-c", FIT, method, threads, way]
    free = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=free)
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", nargs="+", default=["DigPro", "MFCVAE"])
    parser.add_argument("--others", nargs="+", type=int, default=[0, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json")
    args = parser.parse_args()
    rows = []
    for others in args.others:
        burners = [multiprocessing.Process(target=burn) for _ in range(others)]
        for burner in burners:
            burner.start()
        time.sleep(0.5)
        for _ in range(args.repeats):
            for method in args.methods:
                for way, how in WAYS.items():
                    row = {"method": method, "others": others, "way": way}
                    rows.append({**row, **fit(method, *how)})
                    last = rows[-1]
                    print(
                        f"{method:8} beside {others}: {way:14} {last['wall']:6.1f} s, "
                        f"CPU {last['cpu']:6.1f} s",
                        flush=True,
                    )
        for burner in burners:
            burner.terminate()
    for method in args.methods:
        found = {(r["way"], r["digest"]) for r in rows if r["method"] == method}
        same = {digest for way, digest in found if way != "one thread"}
        print(f"{method}: {'equal' if len(same) == 1 else 'DIFFERENT'} results")
    record.write(
        args.json,
        script="examples/benchmarks/crowd.py",
        arguments={k: v for k, v in vars(args).items() if k != "json"},
        environment=record.environment(torch.device("cpu")),
        rows=rows,
    )


if __name__ == "__main__":
    main()
