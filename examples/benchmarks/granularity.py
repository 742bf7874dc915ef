"""Cluster images into fewer and more clusters than there are classes: a JSON record.

Whether a part of a method pays may depend on the number of clusters. The packs are as
for ``real_images.py``, and not part of the project; labels are used to score only.

    python examples/benchmarks/granularity.py --packs FOLDER --json records/g.json
"""

import time

import numpy as np
from methods import fit, measure, method_options
from real_images import read
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

KEY = ("pack", "n_clusters", "method", "seed")


def run(args, pack, n_clusters, method, seed):
    """Fit and score one method with one number of clusters."""
    X, y = read(args.packs, pack, args.n, seed)
    cpu = time.process_time()
    model = fit(method, n_clusters, X, seed, args.device)
    return {
        "n": len(X),
        "cpu_seconds": time.process_time() - cpu,
        "found": len(np.unique(model.labels_)),
        "nmi": normalized_mutual_info_score(y, model.labels_),
        "ari": adjusted_rand_score(y, model.labels_),
    }


def main():
    parser = method_options(
        __doc__,
        methods=["DigPro", "DigPro, contrast only"],
        names=["mnist_test", "usps"],
        n=2500,
    )
    parser.add_argument("--clusters", type=int, nargs="+", default=(2, 5, 20, 50))
    args = parser.parse_args()
    measure(args, "granularity.py", KEY, run, args.clusters)


if __name__ == "__main__":
    main()
