"""Which label-free score would have chosen the right clusters of an embedding?

DigPro learns by contrast alone, and its embedding is clustered by k-means and by
communities of the graph of neighbours, merged by either linkage. Each score that knows
no label chooses one of the three; the record says what that is worth. The packs are as
for ``real_images.py``, and not part of the project.

    python examples/benchmarks/linkages.py --packs FOLDER --json records/linkages.json
"""

import itertools
from functools import partial

import numpy as np
import record
import torch
from long_tail import tail_scores
from methods import CONTRAST_ONLY
from real_images import read
from sklearn.metrics import silhouette_score

from skdeepcluster import DigPro
from skdeepcluster._engine.randomness import seeded
from skdeepcluster.communities import (
    LINKAGES,
    SHARE,
    agreement,
    neighbor_communities,
    some_of,
)
from skdeepcluster.datasets import make_long_tail
from skdeepcluster.kmeans import nearest_centers, spherical_kmeans
from skdeepcluster.neighbors import (
    links_between,
    nearest_neighbors,
    normalized_association,
)

KEY = ("pack", "ratio", "seed")
RUNS = 20  # from which the stability is told
SAMPLES = 2000  # of the silhouette


def clusterings(features, n_clusters, method):
    """Labels by a method, and how far its runs on random rows agree."""
    runs = []
    for _ in range(RUNS):
        if method == "k-means":
            drawn = some_of(features, round(SHARE * len(features)))
            centers, _ = spherical_kmeans(drawn, n_clusters)
            runs.append((nearest_centers(features, centers),))
        else:  # which draws as many rows itself
            found = neighbor_communities(features, n_clusters, linkage=method, n_init=1)
            runs.append((found.labels,))
    agreed = agreement(runs)
    return runs[agreed.argmax()][0], agreed.mean()


def label_free(features, labels, neighbors):
    """Scores of a clustering that need no classes; larger is better."""
    n_clusters = int(labels.max()) + 1
    links = links_between(labels, neighbors, n_clusters)
    shares = links / links.sum()
    within = shares.diagonal().sum()
    silhouette = silhouette_score(
        features.numpy(),
        labels.numpy(),
        metric="cosine",
        sample_size=SAMPLES,
        random_state=0,
    )
    return {
        "silhouette": float(silhouette),
        "association": normalized_association(labels, neighbors),
        "links within": within.item(),
        "modularity": (within - shares.sum(1).square().sum()).item(),
    }


def run(args, pack, ratio, seed):
    """Train once, cluster the embedding in three ways, and score each."""
    X, y = read(args.packs, pack, None, seed)
    if ratio > 1:
        X, y = make_long_tail(
            X,
            y,
            ratio=ratio,
            n_samples=args.n or None,
            order="random",
            random_state=seed,
        )
    X, y = X[: args.n or None], y[: args.n or None]
    k = len(np.unique(y))
    model = DigPro(k, e_step="kmeans", random_state=seed, **CONTRAST_ONLY).fit(X)
    features = torch.from_numpy(model.transform(X))
    neighbors = nearest_neighbors(features, 15)
    found = {}
    for method in ("k-means", *LINKAGES):
        with seeded(seed):
            labels, stability = clusterings(features, k, method)
        found[method] = {
            **tail_scores(y, labels.numpy()),
            **label_free(features, labels, neighbors),
            "stability": float(stability),
        }
    return {"n": len(X), "found": found}


def main():
    parser = record.pack_options(
        __doc__, names=["mnist_train", "fashion_mnist_train"], seeds=(0, 1), n=5000
    )
    parser.add_argument("--ratios", type=float, nargs="+", default=(1, 10, 50))
    args = parser.parse_args()
    keys = itertools.product(args.names, args.ratios, args.seeds)
    record.resume(args, "linkages.py", KEY, keys, partial(run, args))


if __name__ == "__main__":
    main()
