"""Cluster images into fewer and more clusters than there are classes: a JSON record.

Whether a part of a method pays may depend on the number of clusters. The packs are as
for ``real_images.py``, and not part of the project; labels are used to score only.

    python examples/benchmarks/granularity.py --packs FOLDER --json records/g.json
"""

import argparse
import itertools
import time
from functools import partial

import record
import torch
from methods import NAMES, fit
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
        "found": len(model.cluster_sizes_),
        "nmi": normalized_mutual_info_score(y, model.labels_),
        "ari": adjusted_rand_score(y, model.labels_),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packs", required=True, help="folder of the .npz files")
    parser.add_argument("--names", nargs="+", default=["mnist_test", "usps"])
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=NAMES,
        default=["DigPro", "DigPro, contrast only"],
    )
    parser.add_argument("--clusters", type=int, nargs="+", default=(2, 5, 20, 50))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2, 3, 4))
    parser.add_argument("--n", type=int, default=2500)
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    keys = itertools.product(args.names, args.clusters, args.methods, args.seeds)
    record.resume(args, "granularity.py", KEY, keys, partial(run, args))


if __name__ == "__main__":
    main()
