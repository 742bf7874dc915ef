"""The rows of the tables: each method, and what is changed of its defaults."""

import peers
import torch

from skdeepcluster import SCL, DigPro, StatDEC

ABLATIONS = {  # of StatDEC with the debiased loss
    "": {},
    ", average pooling": {"pooling": "avg"},
    ", no clustering loss": {"cluster_weight": 0.0},
    ", detached": {"detach_representation": True},
    ", two trunks": {"share_trunk": False},
    ", over-cluster start": {"init": "overcluster"},
    ", centres of the joint phase": {"recluster": False},
}
CHANGED = {
    DigPro: {
        "DigPro": {},
        "DigPro, k-means": {"e_step": "kmeans"},
        "DigPro, no group term": {"group_weight": 0.0},
        "DigPro, no prototype term": {"prototype_weight": 0.0},
        "DigPro, contrast only": {"group_weight": 0.0, "prototype_weight": 0.0},
        "DigPro, contrast only, k-means": {
            "group_weight": 0.0,
            "prototype_weight": 0.0,
            "e_step": "kmeans",
        },
    },
    SCL: {
        "SCL": {},
        "SCL, k-means": {"init": "kmeans"},
        "SCL, k-means, early": {"init": "kmeans", "warmup": 0.3},
        "SCL, no contrast in the batch": {"view_weight": 0.0},
        "SCL, no contrast with the memory": {"memory_weight": 0.0},
        "SCL, no consistency, no balance": {
            "consistency_weight": 0.0,
            "balance_weight": 0.0,
        },
    },
    StatDEC: {
        "StatDEC": {},
        **{
            f"StatDEC, debiased{part}": {"tau_plus": 0.1, **changed}
            for part, changed in ABLATIONS.items()
        },
    },
}
METHODS = {
    name: (cls, changed)
    for cls, rows in CHANGED.items()
    for name, changed in rows.items()
}
NAMES = [*peers.PIXELS, *METHODS]


def fit(name, n_clusters, X, seed, device="auto"):
    """Fit the method of a row."""
    if name in peers.PIXELS:
        first, make = peers.PIXELS[name]
        rows, threads = pixels(X), torch.get_num_threads()
        model = make(n_clusters, seed)
        model.labels_ = model.fit_predict(rows if first is None else first(rows, seed))
        torch.set_num_threads(threads)  # numba, in UMAP, changes it
        return model
    cls, changed = METHODS[name]
    return cls(n_clusters, device=device, random_state=seed, **changed).fit(X)


def pixels(X):
    """Images of bytes as rows, from 0 to 1."""
    return X.reshape(len(X), -1) / 255.0
