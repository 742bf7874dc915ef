"""Cluster features of a pretrained network by peers and by ours, as a JSON record.

``--features`` names a folder of ``.npz`` files with ``X`` (n, d) and ``y``, as
``extract_features.py`` makes them; ``--packs`` a folder of packs of images as
``real_images.py`` reads them, of which the pixels are the features. The labels are used
to draw a long tail and to score. It needs ``pip install skdeepcluster[bench]``.

    python examples/benchmarks/features.py --features FOLDER --json features.json

What the record has is not run again, so that a long table is made in pieces; pieces of
several processes, with a record each, are merged:

    python examples/benchmarks/features.py --json all.json --merge one.json two.json
"""

import argparse
import time
from pathlib import Path

import numpy as np
import record
import torch
from heads import generalisation_score
from methods import pixels
from peers import METHODS, OURS, PEERS, umap, warm_up
from real_images import read, scores

from skdeepcluster.datasets import make_long_tail
from skdeepcluster.metrics import balanced_clustering_accuracy

KEY = ("data", "ratio", "method", "seed")


def drawn(args, name, ratio, seed):
    """Rows and classes: all, or a long tail; its order of classes hangs on the seed."""
    if args.packs:
        images, y = read(args.packs, name, None if ratio > 1 else args.n, seed)
        X = pixels(images).astype(np.float32)
    else:
        with np.load(Path(args.features) / f"{name}.npz") as file:
            X, y = file["X"], file["y"]
    if ratio == 1:
        return X, y
    n = args.n if args.packs else None
    return make_long_tail(
        X, y, ratio=ratio, n_samples=n, order="random", random_state=seed
    )


class Clock:
    """Seconds, and seconds of processor time, of a ``with`` block."""

    def __enter__(self):
        self.began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error):
        wall, cpu = self.began
        self.wall = time.perf_counter() - wall
        self.cpu = time.process_time() - cpu


def run(method, X, y, seed, device, shared):
    """Fit and score one method; ``shared`` keeps what several rows begin with."""
    first, make = METHODS[method]
    n_clusters = len(np.unique(y))
    wall = cpu = 0.0
    Z = X
    if first is not None:
        if first not in shared:
            with Clock() as clock:
                shared[first] = first(X, seed)
            shared[first] = shared[first], clock
        Z, clock = shared[first]
        wall, cpu = clock.wall, clock.cpu
    model = make(n_clusters, seed)
    if method in OURS:
        model.set_params(device=device)
    with Clock() as clock:
        labels = model.fit_predict(Z)
        facets = getattr(model, "facet_labels_", np.asarray(labels)[:, None]).T
    all_scores = [every_score(y, facet) for facet in facets]
    best = max(range(len(facets)), key=lambda j: all_scores[j]["nmi"])
    return facets[best], {
        "seconds": wall + clock.wall,
        "cpu_seconds": cpu + clock.cpu,
        **all_scores[best],
        **({"facets": all_scores} if len(facets) > 1 else {}),
    }


def every_score(labels_true, labels_pred):
    """ACC, NMI, ARI, balanced ACC, and the number of clusters."""
    return {
        **scores(labels_true, labels_pred),
        "balanced": balanced_clustering_accuracy(labels_true, labels_pred),
        "n_found": len(np.unique(labels_pred)),
    }


def together(records):
    """Parts and runs of several records; of two runs of the same, the first one."""
    parts = [part for one in records for part in one["parts"]]
    runs = {}
    for row in (row for one in records for row in one["runs"]):
        runs.setdefault(tuple(row[k] for k in KEY), row)
    return {
        "script": "examples/benchmarks/features.py",
        "parts": [part for i, part in enumerate(parts) if part not in parts[:i]],
        "runs": list(runs.values()),
    }


def measure(args):
    """Run what the record at ``args.json`` lacks, and write it after each run."""
    result = together(
        [record.stored(args.json), {"parts": [record.part(args)], "runs": []}]
    )
    have = {tuple(row[k] for k in KEY) for row in result["runs"]}
    if any(METHODS[method][0] is umap for method in args.methods):
        warm_up()
    for name in args.names:
        for seed in args.seeds:
            keys = [(name, args.ratio, method, seed) for method in args.methods]
            missing = [key for key in keys if key not in have]
            if not missing:
                continue
            X, y = drawn(args, name, args.ratio, seed)
            shared = {}
            for key in missing:
                row = dict(zip(KEY, key, strict=True))
                labels, found = run(row["method"], X, y, seed, args.device, shared)
                row |= {"n": len(X), "n_features": X.shape[1], **found}
                if args.generalisation:
                    row["generalisation"] = generalisation_score(X, labels)
                result["runs"].append(row)
                print(row, flush=True)
                record.write(args.json, **result)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--features", help="folder of .npz files with X and y")
    source.add_argument("--packs", help="folder of packs of images")
    source.add_argument("--merge", nargs="+", help="records to put together")
    parser.add_argument("--names", nargs="+", default=["cifar_test", "flowers"])
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(PEERS), metavar="METHOD"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2, 3, 4))
    parser.add_argument("--ratio", type=float, default=1.0, help="of a long tail")
    parser.add_argument("--n", type=int, default=5000, help="images of a pack")
    parser.add_argument("--generalisation", action="store_true", help="TURTLE's score")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--device", default="auto", help="of ours")
    parser.add_argument("--json")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.merge:
        record.write(
            args.json, **together([record.stored(path) for path in args.merge])
        )
    else:
        measure(args)


if __name__ == "__main__":
    main()
