"""Find the factors behind generated images, and write the scores as a JSON record.

Images of ``make_facet_images``: shapes on backgrounds, with a third factor where
``--colours`` is given. Each facet is compared with each factor. A run has *found* the
factors if each of them is matched by a facet of its own with purity of at least 0.90,
and no other facet has a normalised mutual information above 0.2 with it.

    python examples/benchmarks/facets.py --seeds 0 1 2 3 4 --json records/facets.json

What the record has is not run again. Runs beside each other need a record each, which
``record.py`` merges.
"""

import argparse
import itertools
import time

import numpy as np
import record
import torch
from methods import pixels
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

from skdeepcluster import MFCVAE
from skdeepcluster.datasets import make_facet_images
from skdeepcluster.metrics import facet_label_scores

FACTORS = {False: ["shape", "background"], True: ["shape", "colour", "background"]}
MEASURES = ("purity", "accuracy", "nmi")
CHANGED = {
    "MFCVAE": {},
    "MFCVAE, one facet": {"n_facets": 1},
    "MFCVAE, closed form": {"elbo_estimator": "analytic"},
    "MFCVAE, diagonal covariances": {"covariance_type": "diag"},
    "MFCVAE, learnt weights": {"learn_weights": True},
    "MFCVAE, fully connected": {"backbone": "mlp"},
    "MFCVAE, shared networks": {"architecture": "shared"},
    "MFCVAE, all facets at once": {"progressive": False},
    "MFCVAE, the paper's start": {"prior_init": "gmm", "n_refits": 0},
    "MFCVAE, best of three": {"n_init": 3},
    "MFCVAE, the bound from the start": {"beta_decay": 1},
    # of three factors
    "MFCVAE, latents 5, 1, 1": {"latent_dims": (5, 1, 1), "beta_decay": 1},
    "MFCVAE, 8, 3 and 6 clusters": {"n_clusters": (8, 3, 6)},
}
ROWS = ["k-means", *CHANGED]


def fit(row, X, n_factors, seed, args):
    """Labels (n, J), and what the fit says of itself."""
    if row == "k-means":
        model = KMeans(args.n_clusters, n_init=10, random_state=seed).fit(pixels(X))
        return model.labels_[:, None], {}
    params = {"n_facets": n_factors, "n_clusters": args.n_clusters, **CHANGED[row]}
    if args.epochs:
        params["max_epochs"] = args.epochs
    model = MFCVAE(**params, device=args.device, random_state=seed).fit(X)
    return model.facet_labels_, {
        "bound": model.score(X),
        "bounds": getattr(model, "init_scores_", None),  # of each training
        "epochs": model.n_iter_,
        "effective_clusters": model.history_[-1]["effective_clusters"],
    }


def matched(scores):
    """Purity of the facet that each factor is matched to, and the largest leak."""
    purity, nmi = scores["purity"], scores["nmi"]
    facets, factors = linear_sum_assignment(purity, maximize=True)
    own = np.full(purity.shape[1], -1)
    own[factors] = facets
    others = [
        np.delete(nmi[:, m], own[m]) if own[m] >= 0 else nmi[:, m]
        for m in range(purity.shape[1])
    ]
    return {
        # a factor without a facet of its own is scored by the best there is
        "matched_purity": [
            purity[own[m] if own[m] >= 0 else purity[:, m].argmax(), m]
            for m in range(purity.shape[1])
        ],
        "leak_nmi": [float(other.max()) if len(other) else 0.0 for other in others],
        "has_own_facet": (own >= 0).tolist(),
    }


def run(row, seed, args):
    """Fit one row on the images of a seed."""
    X, Y = make_facet_images(
        args.n, size=args.size, n_colours=args.colours, random_state=seed
    )
    wall, cpu = time.perf_counter(), time.process_time()
    labels, report = fit(row, X, Y.shape[1], seed, args)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    scores = facet_label_scores(labels, Y)
    match = matched(scores)
    found = (
        all(match["has_own_facet"])
        and min(match["matched_purity"]) >= 0.9
        and max(match["leak_nmi"]) <= 0.2
    )
    return {
        "n": len(X),
        "seconds": wall,
        "cpu_seconds": cpu,
        "found": bool(found),
        **{key: np.asarray(value).tolist() for key, value in match.items()},
        **{name: scores[name].tolist() for name in MEASURES},
        **report,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS[:3])
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2, 3, 4))
    parser.add_argument("--n", type=int, default=5000, help="images")
    parser.add_argument("--size", type=int, default=28, help="pixels")
    parser.add_argument("--colours", type=int, help="of the shapes: a third factor")
    parser.add_argument("--n-clusters", type=int, default=8, help="of each facet")
    parser.add_argument("--epochs", type=int, help="in place of the default")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    record.resume(
        args,
        "facets.py",
        ("row", "seed"),
        itertools.product(args.rows, args.seeds),
        lambda row, seed: run(row, seed, args),
        factors=FACTORS[args.colours is not None],
    )


if __name__ == "__main__":
    main()
