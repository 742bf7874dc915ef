"""Cluster packs of real images, and write ACC, NMI and ARI as a JSON record.

Each pack is an ``.npz`` file with ``images`` (n, H, W) or (n, H, W, 3), uint8, and
``labels``; the packs are not part of the project. The labels are used to score only.

    python examples/benchmarks/real_images.py --packs FOLDER --json records/real.json

What the record has is not run again. ``--curve MINUTES`` trains once a pack for about
that long and records ACC after every epoch, instead of the table.
"""

import time
from pathlib import Path

import numpy as np
import record
import torch
from methods import fit, measure, method_options
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from skorch.callbacks import Callback

from skdeepcluster import DigPro
from skdeepcluster.datasets import load_digits_images
from skdeepcluster.metrics import clustering_accuracy

PACKS = ["mnist_train", "fashion_mnist_train", "usps", "coil20_32x32"]
KEY = ("pack", "method", "seed")


def read(folder, name, n, seed):
    """Draw n images of packs joined by ``+``, or all, in an order of the seed."""
    packs = [pack(folder, part) for part in name.split("+")]
    images, labels = map(np.concatenate, zip(*packs, strict=True))
    rows = np.random.default_rng(seed).permutation(len(images))[: n or None]
    return images[rows], labels[rows]


def pack(folder, name):
    """Images and labels of a pack, or scikit-learn's digits, which need no file."""
    if name == "digits":
        return load_digits_images()
    path = Path(folder) / f"{name}.npz"
    if not path.exists():
        known = sorted(each.stem for each in Path(folder).glob("*.npz"))
        packs = ", ".join(known) or "none"
        raise SystemExit(f"There is no pack {str(path)!r}. Its folder has: {packs}.")
    found = np.load(path)
    return found["images"], found["labels"]


def scores(labels_true, labels_pred):
    """ACC, NMI and ARI."""
    return {
        "acc": clustering_accuracy(labels_true, labels_pred),
        "nmi": normalized_mutual_info_score(labels_true, labels_pred),
        "ari": adjusted_rand_score(labels_true, labels_pred),
    }


class Curve(Callback):
    """Score the pseudo-labels of each epoch; the scoring is not timed."""

    def __init__(self, labels_true):
        self.labels_true = labels_true

    def on_train_begin(self, net, **kwargs):
        self.rows_, self.cpu_ = [], time.process_time()

    def on_epoch_end(self, net, **kwargs):
        cpu = time.process_time()
        self.rows_.append(
            {
                "epoch": len(net.history),
                "seconds": sum(net.history[:, "seconds"]),
                "cpu_seconds": cpu - self.cpu_,
                **scores(self.labels_true, net.module_.labels.cpu().numpy()),
            }
        )
        self.cpu_ += time.process_time() - cpu


def run(args, name, method, seed):
    """Fit and score one method on one pack."""
    X, y = read(args.packs, name, args.n, seed)
    wall, cpu = time.perf_counter(), time.process_time()
    model = fit(method, len(np.unique(y)), X, seed, args.device)
    return {
        "n": len(X),
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        **scores(y, model.labels_),
    }


def curves(packs, names, n, seed, minutes, device):
    """Train once a pack for about some minutes, by epochs timed beforehand."""
    out = []
    for name in names:
        X, y = read(packs, name, n, seed)
        k = len(np.unique(y))
        probe = DigPro(k, max_epochs=3, device=device, random_state=seed).fit(X)
        an_epoch = np.median([row["seconds"] for row in probe.history_])
        epochs = max(1, round(60 * minutes / an_epoch))
        curve = Curve(y)
        model = DigPro(
            k,
            max_epochs=epochs,
            device=device,
            callbacks=[("curve", curve)],
            random_state=seed,
        ).fit(X)
        final = scores(y, model.labels_)
        step = max(1, len(curve.rows_) // 60)
        out.append(
            {
                "pack": name,
                "seed": seed,
                "epochs": epochs,
                "final": final,
                "points": curve.rows_[step - 1 :: step],
            }
        )
        print(name, epochs, curve.rows_[-1], final, flush=True)
    return out


def main():
    parser = method_options(
        __doc__,
        methods=["k-means", "UMAP + Gaussian mixture", "DigPro", "SCL", "StatDEC"],
        names=PACKS,
        n=10_000,
    )
    parser.add_argument("--curve", type=float, metavar="MINUTES")
    args = parser.parse_args()
    if args.curve:
        if args.threads:
            torch.set_num_threads(args.threads)
        found = curves(
            args.packs, args.names, args.n, args.seeds[0], args.curve, args.device
        )
        record.write_runs(args, "real_images.py", curves=found)
        return
    measure(args, "real_images.py", KEY, run)


if __name__ == "__main__":
    main()
