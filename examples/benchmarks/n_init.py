"""Does a score without labels tell a good run of a method from a bad one?

Each method runs with several seeds on the same rows. Each run gets scores that need no
labels: at its end, and after the first third of its training, of k-means in the
embedding. The record has the labels of each run, a character for each row, so that
agreement of runs and consensus are worked out without the data:

    python examples/benchmarks/n_init.py --features FOLDER --packs FOLDER \
        --json examples/benchmarks/records/n_init.json
    python examples/benchmarks/n_init.py --show examples/benchmarks/records/n_init.json

``FOLDER`` of features has ``.npz`` files with ``X`` (n, d) and ``y``, as
``extract_features.py`` makes them; that of packs is the one of ``real_images.py``, and
names with ``:images`` are read there. What the record has is not run again.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import record
import torch
from heads import generalisation_score
from real_images import read, scores
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors
from skorch.callbacks import Callback

from skdeepcluster import SCL, DigPro, StatDEC
from skdeepcluster.distances import simplified_silhouette

METHODS = {"SCL": SCL, "DigPro": DigPro, "StatDEC": StatDEC}
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"  # one character a label
KEY = ("data", "method", "seed")
LABEL_FREE = (
    "score",
    "silhouette",
    "confidence",
    "generalisation",
    "neighbours",
    "centrality",
    "early_score",
    "early_centrality",
)


class Early(Callback):
    """k-means in the embedding, once, after a share of the training."""

    def __init__(self, n_clusters, share):
        self.n_clusters, self.share = n_clusters, share

    def on_train_begin(self, net, **kwargs):
        self.labels_ = None

    def on_epoch_end(self, net, dataset_train=None, **kwargs):
        clock = net.module_.clock
        if self.labels_ is not None or clock.epoch < self.share * clock.ends[-1]:
            return
        embedding = net.evaluate(dataset_train, net.module_.encode).cpu()
        kmeans = KMeans(self.n_clusters, n_init=4, random_state=0)
        self.labels_ = kmeans.fit_predict(embedding.numpy())
        centers = torch.from_numpy(kmeans.cluster_centers_)
        self.score_ = simplified_silhouette(embedding, centers)


def as_text(labels):
    """Labels as one string."""
    return "".join(DIGITS[label] for label in labels)


def as_labels(text):
    """Labels of a string."""
    return np.array([DIGITS.index(character) for character in text])


def drawn(args, name):
    """Rows and classes, the same for every seed of a method."""
    pack, _, kind = name.partition(":")
    if kind == "images":
        return read(args.packs, pack, args.n, 0)
    with np.load(Path(args.features) / f"{pack}.npz") as file:
        X, y = file["X"], file["y"]
    rows = np.random.default_rng(0).permutation(len(X))[: args.n]
    return X[rows], y[rows]


def run(args, name, method, seed, X, y, reduced, near):
    """Fit one method, and score it with labels and without."""
    n_clusters = len(np.unique(y))
    early = Early(n_clusters, args.share)
    model = METHODS[method](
        n_clusters, device="cpu", callbacks=[early], random_state=seed
    )
    began = time.process_time()
    labels = model.fit(X).labels_
    seconds = time.process_time() - began
    return {
        "data": name,
        "method": method,
        "seed": seed,
        "n": len(X),
        "cpu_seconds": seconds,
        **scores(y, labels),
        "score": model.score(X),
        "silhouette": float(silhouette_score(reduced, labels)),
        "confidence": float(model.predict_proba(X).max(axis=1).mean()),
        "generalisation": generalisation_score(reduced, labels),
        "neighbours": float((labels[near] == labels[:, None]).mean()),
        "labels": as_text(labels),
        "early_score": early.score_,
        "early_labels": as_text(early.labels_),
    }


def stored(path):
    """The record at a path, or an empty one."""
    if path is None or not Path(path).exists():
        return {"parts": [], "classes": {}, "runs": []}
    return json.loads(Path(path).read_text())


def measure(args):
    """Run what the record at ``args.json`` lacks, and write it after each run."""
    result = stored(args.json)
    hidden = ("json", "packs", "features", "show")  # a record names no path
    part = {
        "arguments": {k: v for k, v in vars(args).items() if k not in hidden},
        "environment": record.environment(),
    }
    if part not in result["parts"]:
        result["parts"].append(part)
    have = {tuple(row[k] for k in KEY) for row in result["runs"]}
    for name in args.names:
        X, y = drawn(args, name)
        result["classes"][name] = as_text(np.unique(y, return_inverse=True)[1])
        flat = X.reshape(len(X), -1).astype(np.float32)
        reduced = PCA(50, random_state=0).fit_transform(flat)
        near = NearestNeighbors(n_neighbors=10).fit(reduced).kneighbors()[1]
        for method in args.methods:
            for seed in args.seeds:
                if (name, method, seed) in have:
                    continue
                row = run(args, name, method, seed, X, y, reduced, near)
                result["runs"].append(row)
                shown = {k: v for k, v in row.items() if "labels" not in k}
                print(shown, flush=True)
                record.write(
                    args.json, script="examples/benchmarks/n_init.py", **result
                )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", help="folder of .npz files with X and y")
    parser.add_argument("--packs", help="folder of packs of images")
    parser.add_argument("--show", help="record of which to print the table")
    parser.add_argument(
        "--names", nargs="+", default=["cifar_train", "imagenette", "mnist_train"]
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2, 3, 4, 5))
    parser.add_argument("--n", type=int, default=2000, help="rows")
    parser.add_argument("--share", type=float, default=1 / 3, help="that is early")
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    measure(args)


if __name__ == "__main__":
    main()
