"""Find foreign images in a data set, and write the AUROC as a JSON record.

Images of another pack are mixed into those that are clustered; each method then ranks
all of them by how far they are from their cluster: ``score_samples`` of StatDEC, else
the distance to the nearest centre. The packs are as for ``real_images.py``.

    python examples/benchmarks/outliers.py --packs FOLDER --json records/outliers.json
"""

import argparse
import time

import numpy as np
import record
import torch
from methods import fit, pixels
from real_images import read
from sklearn.metrics import roc_auc_score

from skdeepcluster.metrics import clustering_accuracy

FOREIGN = {"mnist_train": "fashion_mnist_train", "fashion_mnist_train": "mnist_train"}
METHODS = ["k-means", "DigPro", "SCL", "StatDEC"]


def normality(model, X):
    """How near to its cluster each image is: higher is more normal."""
    if hasattr(model, "score_samples"):
        return model.score_samples(X)
    if hasattr(model, "inertia_"):  # k-means transforms to distances
        return -model.transform(pixels(X)).min(axis=1)
    z, centers = model.transform(X), model.cluster_centers_
    return -((z[:, None] - centers[None]) ** 2).sum(axis=2).min(axis=1)


def run(packs, own, foreign, share, seed, method, n, device):
    """Fit one method on a mixture, and rank the mixture."""
    n_foreign = round(share * n)
    X, y = read(packs, own, n - n_foreign, seed)
    strangers, _ = read(packs, foreign, n_foreign, seed)
    mixed = np.concatenate([X, strangers])
    is_own = np.arange(n) < len(X)
    wall, cpu = time.perf_counter(), time.process_time()
    model = fit(method, len(np.unique(y)), mixed, seed, device)
    return {
        "pack": own,
        "foreign": foreign,
        "method": method,
        "seed": seed,
        "n": n,
        "n_foreign": n_foreign,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "acc": clustering_accuracy(y, model.labels_[is_own]),
        "auroc": roc_auc_score(is_own, normality(model, mixed)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packs", required=True, help="folder of the .npz files")
    parser.add_argument("--own", nargs="+", choices=FOREIGN, default=list(FOREIGN))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--share", type=float, default=0.05, help="of foreign images")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--n", type=int, default=5000, help="images in all")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    runs = []
    for own in args.own:
        for seed in args.seeds:
            for method in args.methods:
                setting = args.share, seed, method, args.n, args.device
                runs.append(run(args.packs, own, FOREIGN[own], *setting))
                print(runs[-1], flush=True)
    record.write_runs(args, "outliers.py", runs=runs)


if __name__ == "__main__":
    main()
