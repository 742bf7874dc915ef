"""Does a score without labels tell a good run of a method from a bad one?

Each method runs with several seeds on the same rows. Each run gets scores that need no
labels: at its end, and after the first third of its training, of k-means in the
embedding. The record has the labels of each run, a character for each row: of these,
the agreement of the runs and their consensus are worked out.

    python examples/benchmarks/n_init.py --features FOLDER --packs FOLDER \
        --json examples/benchmarks/records/n_init.json

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
from scipy.optimize import linear_sum_assignment
from scipy.stats import spearmanr
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.neighbors import NearestNeighbors
from skorch.callbacks import Callback

from skdeepcluster import SCL, DigPro, StatDEC
from skdeepcluster.consensus import (
    matched,
    most_central,
    most_voted,
    overlaps,
    pairwise_ari,
    vote,
)
from skdeepcluster.distances import simplified_silhouette
from skdeepcluster.metrics import cluster_balance, clustering_accuracy

METHODS = {"k-means": None, "SCL": SCL, "DigPro": DigPro, "StatDEC": StatDEC}
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"  # one character a label
KEY = ("data", "method", "seed")
LABEL_FREE = (
    "score",
    "silhouette",
    "confidence",
    "generalisation",
    "neighbours",
    "balance",
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
    began = time.process_time()
    if method == "k-means":
        model = KMeans(n_clusters, n_init=1, random_state=seed)
        X = reduced
    else:
        model = METHODS[method](
            n_clusters, device="cpu", callbacks=[early], random_state=seed
        )
    labels = model.fit(X).labels_
    row = {
        "data": name,
        "method": method,
        "seed": seed,
        "n": len(X),
        "cpu_seconds": time.process_time() - began,
        **scores(y, labels),
        "score": float(model.score(X)),
        "silhouette": float(silhouette_score(reduced, labels)),
        "generalisation": generalisation_score(reduced, labels),
        "neighbours": float((labels[near] == labels[:, None]).mean()),
        "balance": cluster_balance(labels, n_clusters),
        "labels": as_text(labels),
    }
    if method != "k-means":
        row["confidence"] = float(model.predict_proba(X).max(axis=1).mean())
        row["early_score"] = early.score_
        row["early_labels"] = as_text(early.labels_)
    return row


def consensus(labels):
    """Labels by the votes of several runs, and the share of the runs that agree.

    It is :class:`ConsensusClusterer` with one vote a run.
    """
    reference = labels[most_central(pairwise_ari(labels))]
    n_clusters = reference.max() + 1
    votes = [np.eye(one.max() + 1)[one] for one in labels]
    matches = [
        matched(overlaps(one, reference, one.max() + 1, n_clusters)) for one in labels
    ]
    voted = most_voted(vote(votes, matches, n_clusters))
    runs = [match[one] for one, match in zip(labels, matches, strict=True)]
    return voted, np.mean([run == voted for run in runs], axis=0)


def by_linkage(labels, n_clusters):
    """Labels by average linkage of the shares of the runs that part two samples."""
    runs = np.stack(labels, axis=1)
    parted = np.mean(runs[:, None] != runs, axis=2)
    model = AgglomerativeClustering(n_clusters, metric="precomputed", linkage="average")
    return model.fit_predict(parted)


def centrality(labels):
    """Mean ARI of each run with the others."""
    ari = pairwise_ari(labels)
    return (ari.sum(axis=1) - 1) / (len(ari) - 1)


def group(y, runs):
    """What the label-free scores say of the runs of one method on one data set.

    Returns
    -------
    group : dict
        ACC of the runs; for each label-free score ACC of the run that it would keep,
        and its rank correlation with ACC; ACC of the consensus, of its samples on
        which all runs agree, and the share of these. Beside it, the consensus by the
        linkage of co-associations (Fred and Jain, 2005).
    """
    labels = [as_labels(run["labels"]) for run in runs]
    acc = np.array([run["acc"] for run in runs])
    values = {
        name: [run[name] for run in runs] for name in LABEL_FREE if name in runs[0]
    }
    values["centrality"] = centrality(labels)
    if "early_labels" in runs[0]:
        early = [as_labels(run["early_labels"]) for run in runs]
        values["early_centrality"] = centrality(early)
    voted, agreement = consensus(labels)
    table = contingency_matrix(y, voted)
    classes = dict(zip(*linear_sum_assignment(table, maximize=True)[::-1], strict=True))
    right = np.array([classes.get(label, -1) for label in voted]) == y
    all_agree = agreement == 1
    return {
        "seeds": len(runs),
        "mean": acc.mean(),
        "worst": acc.min(),
        "best": acc.max(),
        "kept": {name: acc[np.argmax(v)] for name, v in values.items()},
        "correlation": {
            name: None if np.ptp(v) == 0 else float(spearmanr(v, acc).statistic)
            for name, v in values.items()
        },
        "consensus": right.mean(),
        "by_linkage": clustering_accuracy(y, by_linkage(labels, len(np.unique(y)))),
        "all_agree": all_agree.mean(),
        "consensus_where_all_agree": right[all_agree].mean(),
        "consensus_elsewhere": right[~all_agree].mean()
        if not all_agree.all()
        else None,
    }


def groups(result):
    """The groups of a record, in the order of its runs."""
    found = {}
    for run in result["runs"]:
        found.setdefault((run["data"], run["method"]), []).append(run)
    return [
        {
            "data": data,
            "method": method,
            "n": runs[0]["n"],
            **group(as_labels(result["classes"][data]), runs),
        }
        for (data, method), runs in found.items()
        if len(runs) > 2
    ]


def stored(path):
    """The record at a path, or an empty one."""
    if path is None or not Path(path).exists():
        return {
            "script": "examples/benchmarks/n_init.py",
            "parts": [],
            "classes": {},
            "runs": [],
        }
    return json.loads(Path(path).read_text())


def measure(args):
    """Run what the record at ``args.json`` lacks, and write it after each run."""
    result = stored(args.json)
    hidden = ("json", "packs", "features")  # a record names no path
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
                record.write(args.json, **result)
    result["groups"] = groups(result)
    record.write(args.json, **result)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", help="folder of .npz files with X and y")
    parser.add_argument("--packs", help="folder of packs of images")
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
