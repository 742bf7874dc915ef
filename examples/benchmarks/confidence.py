"""Measure whether confidences are true, without and with the temperature of ``fit``.

Each method is fitted to features of images and to packs of images, and the expected
calibration error (ECE) of ``predict_proba`` is compared with that of the logits as they
are. The labels are used to score only. A file of features is an ``.npz`` with ``X``
(n, d) and ``y``; the packs are as for ``real_images.py``, and neither is part of the
project.

    python examples/benchmarks/confidence.py --features FOLDER --packs FOLDER \
        --json records/confidence.json
"""

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import record
import torch
from real_images import read
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import contingency_matrix

from skdeepcluster import GCC, MFCVAE, SCL, DigPro, StatDEC
from skdeepcluster.metrics import clustering_accuracy, expected_calibration_error

METHODS = {
    "SCL": SCL,
    "DigPro": DigPro,
    "StatDEC": StatDEC,
    "GCC": GCC,
    "MFCVAE": lambda k, **params: MFCVAE(k, n_facets=1, **params),
}
SURE = 0.8  # share of the samples that a reject option keeps


def features(folder, name, n, seed):
    """Draw n rows of a file of features, or all."""
    with np.load(Path(folder) / f"{name}.npz") as file:
        X, y = file["X"], file["y"]
    rows = np.random.default_rng(seed).permutation(len(X))[:n]
    return X[rows], y[rows]


def uncalibrated(model):
    """The fitted model, as if it had no temperature."""
    model = copy.copy(model)
    model.temperature_ = 1.0
    if hasattr(model, "facet_temperatures_"):
        model.facet_temperatures_ = [1.0] * len(model.facet_temperatures_)
    return model


def accuracy_of_sure(y, proba):
    """Accuracy of the surest samples, by the matching of all."""
    labels = proba.argmax(axis=1)
    table = contingency_matrix(y, labels)
    classes, clusters = linear_sum_assignment(table, maximize=True)
    matched = np.full(table.shape[1], -1)
    matched[clusters] = np.unique(y)[classes]
    correct = matched[np.unique(labels, return_inverse=True)[1]] == y
    surest = np.argsort(-proba.max(axis=1), kind="stable")[: round(SURE * len(y))]
    return float(correct[surest].mean())


def run(data, method, X, y, seed, device):
    """Fit one method to some data, and score its probabilities."""
    wall, cpu = time.perf_counter(), time.process_time()
    model = METHODS[method](len(np.unique(y)), device=device, random_state=seed).fit(X)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    proba = model.predict_proba(X)
    return {
        "data": data,
        "method": method,
        "seed": seed,
        "n": len(X),
        "seconds": wall,
        "cpu_seconds": cpu,
        "acc": clustering_accuracy(y, model.labels_),
        "temperature": model.temperature_,
        "ece_before": expected_calibration_error(
            y, uncalibrated(model).predict_proba(X)
        ),
        "ece": expected_calibration_error(y, proba),
        "confidence": float(proba.max(axis=1).mean()),
        "acc_of_sure": accuracy_of_sure(y, proba),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", help="folder of .npz files of features")
    parser.add_argument("--packs", help="folder of .npz files of images")
    parser.add_argument("--features-names", nargs="+", default=["cifar_test"])
    parser.add_argument(
        "--names", nargs="+", default=["mnist_train", "fashion_mnist_train", "usps"]
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2, 3, 4))
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json")
    args = parser.parse_args()
    if not args.features and not args.packs:
        parser.error("pass --features FOLDER, --packs FOLDER, or both")
    if args.threads:
        torch.set_num_threads(args.threads)
    sources = []
    if args.features:
        sources += [(features, args.features, name) for name in args.features_names]
    if args.packs:
        sources += [(read, args.packs, name) for name in args.names]
    runs = []
    for source, folder, name in sources:
        for seed in args.seeds:
            X, y = source(folder, name, args.n, seed)
            for method in args.methods:
                runs.append(run(name, method, X, y, seed, args.device))
                print(runs[-1], flush=True)
                record.write_runs(args, "confidence.py", runs=runs)


if __name__ == "__main__":
    main()
