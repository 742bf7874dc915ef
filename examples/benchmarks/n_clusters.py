"""Choose the number of clusters where it is known, and write a JSON record.

``--features`` names a folder of ``.npz`` files with ``X`` (n, d) and ``y``, as
``extract_features.py`` makes them; ``--packs`` a folder of packs of images, of which
the pixels are clustered. Neither is part of the project; digits and drawn Gaussians
need no file. Classes are used to draw parts of the data and to score, never to choose.

    python examples/benchmarks/n_clusters.py --features FOLDER --packs FOLDER \
        --json examples/benchmarks/records/n_clusters.json

What the record has is not run again. The rule of the choice and its constants were
found on the sets of ``TUNING``, with other seeds, and on other Gaussians; the other
sets of ``REPORTING`` were not looked at before.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import record
import torch
from features import Clock
from methods import pixels
from real_images import read
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import (
    adjusted_rand_score,
    calinski_harabasz_score,
    silhouette_score,
)
from sklearn.pipeline import make_pipeline

from skdeepcluster import SCL, DigPro
from skdeepcluster.datasets import load_digits_images, make_long_tail
from skdeepcluster.model_selection import MergeTree, NClustersSearch

NUMBERS = [*range(2, 17), 18, 20, 22, 25, 28, 32, 36, 40, 45, 50]
LEAVES = 50  # of the tree
PIXELS = ("mnist_train", "fashion_mnist_train", "usps", "coil20_32x32")
# name, and a number of classes, a ratio of a long tail, or nothing
REPORTING = [
    *(f"cifar_test/{part}" for part in ("2", "3", "5", "7", "10", "tail")),
    *(f"flowers/{part}" for part in ("2", "3", "5", "tail")),
    *(f"usps/{part}" for part in ("2", "5", "10")),
    *(f"digits/{part}" for part in ("3", "5", "10")),
    *(f"gaussians/{part}" for part in ("1", "2", "4", "8", "16", "30", "40", "tail")),
]
TUNING = [
    *(f"imagenette/{part}" for part in ("2", "3", "5", "7", "10", "tail")),
    *(f"cifar_train/{part}" for part in ("2", "5", "10")),
    *(f"mnist_train/{part}" for part in ("3", "10")),
    *(f"fashion_mnist_train/{part}" for part in ("3", "10")),
    "coil20_32x32/20",
]
METHODS = {
    "k-means": 2000,
    "DigPro": 600,
    "SCL": 600,
}  # and the number of samples, at most
KEY = ("data", "method", "seed")


def gaussians(part, seed, d=64, n=3000):
    """Spheres of unequal width around random centres; "tail": sizes from 20 to 1."""
    rng = np.random.default_rng((seed, 7))
    k = 8 if part == "tail" else int(part)
    sizes = np.geomspace(1, 0.05 if part == "tail" else 1, k)
    y = rng.choice(k, n, p=sizes / sizes.sum())
    centers = rng.normal(size=(k, d)) * 0.55
    widths = rng.uniform(0.7, 1.3, k)
    return centers[y] + rng.normal(size=(n, d)) * widths[y][:, None], y


def drawn(args, data, seed, n):
    """Rows and classes of one set: some classes, or a long tail of all of them."""
    name, part = data.split("/")
    rng = np.random.default_rng((seed, 11))
    if name == "gaussians":
        X, y = gaussians(part, seed)
    elif name == "digits":
        images, y = load_digits_images()
        X = pixels(images)
    elif name in PIXELS:
        images, y = read(args.packs, name, None, seed)
        X = pixels(images)
    else:
        with np.load(Path(args.features) / f"{name}.npz") as file:
            X, y = file["X"], file["y"]
    if name != "gaussians" and part == "tail":
        X, y = make_long_tail(X, y, ratio=10, order="random", random_state=seed)
    elif name != "gaussians":
        classes = rng.choice(np.unique(y), int(part), replace=False)
        chosen = np.isin(y, classes)
        X, y = X[chosen], y[chosen]
    rows = rng.permutation(len(X))[:n]
    return np.ascontiguousarray(X[rows], np.float32), y[rows]


def made(method, d, seed):
    """Return the clusterer."""
    if method == "k-means":
        kmeans = KMeans(n_init=3, random_state=seed)
        return make_pipeline(PCA(min(32, d), random_state=seed), kmeans)
    cls = {"DigPro": DigPro, "SCL": SCL}[method]
    return cls(max_epochs=10, random_state=seed, device="cpu")


def alone(X, seed):
    """Numbers that have the highest silhouette, and the highest Calinski-Harabasz."""
    Z = PCA(min(32, X.shape[1]), random_state=seed).fit_transform(X)
    scores = []
    for k in NUMBERS:
        labels = KMeans(k, n_init=3, random_state=seed).fit_predict(Z)
        near = silhouette_score(Z, labels, sample_size=2000, random_state=seed)
        scores.append((near, calinski_harabasz_score(Z, labels)))
    return {
        name: NUMBERS[int(i)]
        for name, i in zip(
            ("silhouette_alone", "calinski_harabasz_alone"),
            np.argmax(scores, axis=0),
            strict=True,
        )
    }


def trees(X, y, seed):
    """Agreement of merged clusters with the classes, at their number."""
    Z = PCA(min(32, X.shape[1]), random_state=seed).fit_transform(X)
    leaves = KMeans(LEAVES, n_init=3, random_state=seed).fit_predict(Z)
    k = len(np.unique(y))
    direct = KMeans(k, n_init=3, random_state=seed).fit_predict(Z)
    found = {"ari_of_k_means": adjusted_rand_score(y, direct)}
    for method in ("ward", "average"):
        labels = MergeTree(Z, leaves, method=method).labels_at(k)
        found[f"ari_of_{method}"] = adjusted_rand_score(y, labels)
    return found


def run(args, data, method, seed):
    """Choose on one set."""
    X, y = drawn(args, data, seed, METHODS[method])
    search = NClustersSearch(made(method, X.shape[1], seed), NUMBERS, random_state=seed)
    with Clock() as clock:
        search.fit(X)
    results = search.results_
    row = {
        "data": data,
        "method": method,
        "seed": seed,
        "n": len(X),
        "n_features": X.shape[1],
        "n_classes": len(np.unique(y)),
        "chosen": search.n_clusters_,
        "candidates": search.candidates_,
        "confidence": search.confidence_,
        "ari": adjusted_rand_score(y, search.labels_),
        "seconds": clock.wall,
        "cpu_seconds": clock.cpu,
    }
    for name in ("silhouette", "stability", "generalization"):
        best = int(np.argmax(results[name]))
        row[f"highest_{name}"] = NUMBERS[best]
    at = NUMBERS.index(search.n_clusters_)
    row |= {n: float(results[n][at]) for n in ("silhouette", "stability", "smallest")}
    if method == "k-means":
        row |= alone(X, seed) | trees(X, y, seed)
    return row


def measure(args):
    """Run what the record lacks, and write it after each run."""
    before, part = record.stored(args.json), record.part(args)
    parts = [*before["parts"], *([part] if part not in before["parts"] else [])]
    runs = before["runs"]
    have = {tuple(row[k] for k in KEY) for row in runs}
    for method in args.methods:
        for seed in args.seeds:
            for data in args.data:
                if (data, method, seed) in have:
                    continue
                began = time.perf_counter()
                runs.append(run(args, data, method, seed))
                told = {k: runs[-1][k] for k in (*KEY, "n_classes", "chosen")}
                told["candidates"] = runs[-1]["candidates"]
                print(told, f"{time.perf_counter() - began:.0f} s", flush=True)
                record.write(
                    args.json,
                    script="examples/benchmarks/n_clusters.py",
                    tuning=TUNING,
                    numbers=NUMBERS,
                    parts=parts,
                    runs=runs,
                )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", help="folder of .npz files with X and y")
    parser.add_argument("--packs", help="folder of packs of images")
    parser.add_argument("--data", nargs="+", default=REPORTING)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["k-means"])
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3, 4, 5))
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--json")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)  # halves with few samples
    measure(args)


if __name__ == "__main__":
    main()
