"""Cluster long-tailed images, and write how the small classes fare as a JSON record.

Of each pack an exponential long tail is drawn; which classes are large depends on the
seed. The labels are used to draw the tail and to score, never to fit. The packs are as
for ``real_images.py``, and not part of the project.

    python examples/benchmarks/long_tail.py --packs FOLDER --json records/tails.json
"""

import time

import numpy as np
from methods import fit, measure, method_options
from real_images import read, scores

from skdeepcluster.datasets import make_long_tail
from skdeepcluster.metrics import balanced_clustering_accuracy, per_class_recall

KEY = ("pack", "ratio", "method", "seed")
SMALLEST = 3  # classes whose recall is reported


def tail_scores(labels_true, labels_pred):
    """ACC, balanced ACC, NMI, ARI, and the mean recall of the smallest classes."""
    small = np.argsort(np.unique(labels_true, return_counts=True)[1])[:SMALLEST]
    return {
        **scores(labels_true, labels_pred),
        "balanced": balanced_clustering_accuracy(labels_true, labels_pred),
        "smallest": per_class_recall(labels_true, labels_pred)[small].mean(),
    }


def run(args, pack, ratio, method, seed):
    """Fit and score one method on one tail."""
    X, y = make_long_tail(
        *read(args.packs, pack, None, seed),
        ratio=ratio,
        n_samples=args.n or None,
        order="random",
        random_state=seed,
    )
    wall, cpu = time.perf_counter(), time.process_time()
    model = fit(method, len(np.unique(y)), X, seed, args.device)
    return {
        "n": len(X),
        "smallest_class": int(np.bincount(y).min()),
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "sizes": np.sort(np.bincount(model.labels_))[::-1].tolist(),
        **tail_scores(y, model.labels_),
    }


def main():
    parser = method_options(
        __doc__,
        names=["mnist_train", "fashion_mnist_train"],
        seeds=(0, 1, 2),
        n=5000,
    )
    parser.add_argument("--ratios", type=float, nargs="+", default=(1, 10, 50))
    args = parser.parse_args()
    measure(args, "long_tail.py", KEY, run, args.ratios)


if __name__ == "__main__":
    main()
