"""Repeat the published MNIST run of MFCVAE, and write its purity as a JSON record.

Trained on the 60 000 training images with ``MFCVAE.paper_settings("mnist")``, scored on
the 10 000 test images; the record is written anew every few epochs. The packs are
``mnist_train.npz`` and ``mnist_test.npz`` with ``images`` and ``labels``.

    python examples/benchmarks/facets_mnist.py --packs FOLDER --json records/mnist.json

``--epochs`` shortens the schedule, stages and fade-in with it; ``--changed`` leaves the
paper's settings at some places, such as ``--changed precision=bfloat16``.
"""

import argparse
import ast
import time
from pathlib import Path

import numpy as np
import record
import torch
from skorch.callbacks import Callback

from skdeepcluster import MFCVAE
from skdeepcluster._input.images import Images
from skdeepcluster.metrics import facet_label_scores


def read(packs, name):
    """Images (n, 28, 28) of bytes, and digits."""
    with np.load(Path(packs) / f"{name}.npz") as pack:
        return pack["images"], pack["labels"]


def scores(labels, y):
    """Each measure as a list with an entry for each facet, from shallow to deep."""
    found = facet_label_scores(labels, y[:, None])
    return {name: found[name][:, 0].tolist() for name in ("purity", "accuracy", "nmi")}


class TestScores(Callback):
    """Scores on the test images, every so many epochs."""

    def __init__(self, X, y, every, report):
        self.images, self.y, self.every = Images(X, (1, 28, 28)), y, every
        self.report = report

    def on_epoch_end(self, net, **kwargs):
        epoch = net.history[-1]["epoch"]
        if epoch % self.every:
            return
        logits = net.evaluate(self.images, net.module_.facet_logits)
        parts = logits.split(net.module_.p.n_clusters, dim=1)
        labels = np.stack([part.argmax(1).cpu().numpy() for part in parts], axis=1)
        row = {"epoch": epoch, **scores(labels, self.y)}
        row["effective_clusters"] = net.history[-1]["effective_clusters"]
        self.report(row)


def run(args, seed, report):
    """Fit once; the row of the end."""
    X, _ = read(args.packs, "mnist_train")
    X_test, y_test = read(args.packs, "mnist_test")
    settings = MFCVAE.paper_settings("mnist")
    settings.update(max_epochs=args.epochs or settings["max_epochs"])
    settings.update(device=args.device, **args.changed)
    wall, cpu = time.perf_counter(), time.process_time()
    callback = TestScores(X_test, y_test, args.every, report)
    model = MFCVAE(**settings, callbacks=[callback], random_state=seed).fit(X[: args.n])
    return {
        "seed": seed,
        "changed": args.changed,
        "epochs": model.n_iter_,
        "paper_epochs": MFCVAE.paper_settings("mnist")["max_epochs"],
        "steps": model.n_iter_ * (len(X[: args.n]) // settings["batch_size"]),
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        **scores(model.predict_facets(X_test), y_test),
        "test_bound": model.score(X_test),
        "effective_clusters": model.history_[-1]["effective_clusters"],
    }


def change(text):
    """``name=value`` as a pair."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packs", required=True, help="folder of the .npz files")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,))
    parser.add_argument("--epochs", type=int, help="in place of the paper's 401")
    parser.add_argument("--changed", type=change, nargs="*", default=[])
    parser.add_argument("--n", type=int, default=60_000, help="training images")
    parser.add_argument("--every", type=int, default=10, help="epochs between scores")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json")
    args = parser.parse_args()
    args.changed = dict(args.changed)
    if args.threads:
        torch.set_num_threads(args.threads)
    runs = []
    for seed in args.seeds:
        course = []

        def report(row, seed=seed, course=course):
            course.append(row)
            print(row, flush=True)
            so_far = {"seed": seed, "ended": False, "course": course}
            record.write_runs(args, "facets_mnist.py", runs=[*runs, so_far])

        row = run(args, seed, report)
        print(row, flush=True)
        runs.append({**row, "ended": True, "course": course})
        record.write_runs(args, "facets_mnist.py", runs=runs)


if __name__ == "__main__":
    main()
