"""The rows of the tables: each method, and what is changed of its defaults."""

from sklearn.cluster import KMeans

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
        "DigPro, no group term": {"group_weight": 0.0},
        "DigPro, no prototype term": {"prototype_weight": 0.0},
        "DigPro, contrast only": {"group_weight": 0.0, "prototype_weight": 0.0},
    },
    SCL: {
        "SCL": {},
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
NAMES = ["k-means", *METHODS]


def fit(name, n_clusters, X, seed, device="auto"):
    """Fit the method of a row; k-means sees the pixels, from 0 to 1."""
    if name == "k-means":
        model = KMeans(n_clusters, n_init=10, random_state=seed)
        return model.fit(pixels(X))
    cls, changed = METHODS[name]
    return cls(n_clusters, device=device, random_state=seed, **changed).fit(X)


def pixels(X):
    """Images of bytes as rows, from 0 to 1."""
    return X.reshape(len(X), -1) / 255.0
