"""Fits beside each other in threads and processes, against the same fits alone.

For every method and seed: labels and embedding of a fit alone; in four threads of
joblib, beside one that draws from torch's own generator all the time; and in two
processes of loky. They have to be equal, bit for bit, and torch's generator has to be
where the drawing thread alone would have brought it.

    python examples/benchmarks/threads.py --json threads.json
"""

import argparse
import hashlib
import threading
import warnings

import joblib
import record
import torch
from kills import METHODS
from sklearn.base import clone

from skdeepcluster.datasets import load_digits_images

X = load_digits_images()[0][:120]


def run(model):
    """Digest of labels and embedding of a fit."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X)
    found = hashlib.sha256(model.labels_.tobytes())
    found.update(model.transform(X).tobytes())
    return found.hexdigest()


def in_threads(models):
    """Digests of fits in threads, and whether another thread's draws were its own."""
    stop, draws = threading.Event(), 0
    torch.manual_seed(5)

    def draw():
        nonlocal draws
        while not stop.is_set():
            torch.rand(16)
            draws += 1

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        found = joblib.Parallel(4, backend="threading")(
            map(joblib.delayed(run), models)
        )
    finally:
        stop.set()
        thread.join()
    after = torch.get_rng_state()
    torch.manual_seed(5)
    for _ in range(draws):
        torch.rand(16)
    return found, torch.equal(after, torch.get_rng_state())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--json")
    args = parser.parse_args()
    rows = []
    for name in args.methods:
        models = [
            clone(METHODS[name]).set_params(random_state=seed, max_epochs=4)
            for seed in range(args.seeds)
        ]
        alone = [run(clone(model)) for model in models]
        threaded, undisturbed = in_threads([clone(model) for model in models])
        tasks = map(joblib.delayed(run), models)
        processes = joblib.Parallel(2, backend="loky")(tasks)
        row = {
            "method": name,
            "fits": len(models),
            "different_in_threads": sum(map(str.__ne__, alone, threaded)),
            "different_in_processes": sum(map(str.__ne__, alone, processes)),
            "generator_of_torch_undisturbed": undisturbed,
        }
        rows.append(row)
        print(row, flush=True)
    record.write(
        args.json,
        script="examples/benchmarks/threads.py",
        arguments={k: v for k, v in vars(args).items() if k != "json"},
        environment=record.environment(torch.device("cpu")),
        rows=rows,
    )


if __name__ == "__main__":
    main()
