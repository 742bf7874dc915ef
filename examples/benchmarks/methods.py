"""The rows of the tables: each method, and what is changed of its defaults."""

from sklearn.cluster import KMeans

from skdeepcluster import SCL, DigPro, StatDEC

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
        "StatDEC, average pooling": {"pooling": "avg"},
        "StatDEC, not debiased": {"tau_plus": 0.0},
        "StatDEC, no clustering loss": {"cluster_weight": 0.0},
        "StatDEC, representation detached": {"detach_representation": True},
        "StatDEC, two trunks": {"share_trunk": False},
        "StatDEC, over-cluster start": {"init": "overcluster"},
        "StatDEC, centres of the joint phase": {"recluster": False},
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
