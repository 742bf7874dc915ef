"""The rows of the tables: each method, and what is changed of its defaults."""

import itertools
from functools import partial

import peers
import record
import torch

from skdeepcluster import GCC, MFCVAE, SCL, DigPro, StatDEC

CONTRAST_ONLY = {"group_weight": 0.0, "prototype_weight": 0.0}
CHANGED = {
    DigPro: {
        "DigPro": {},
        "DigPro, 50 epochs": {"max_epochs": 50},
        "DigPro, k-means": {"e_step": "kmeans"},
        "DigPro, no group term": {"group_weight": 0.0},
        "DigPro, no prototype term": {"prototype_weight": 0.0},
        "DigPro, groups that move faster": {"group_momentum": 0.9},
        "DigPro, groups that move slower": {"group_momentum": 0.999},
        "DigPro, groups anew every K steps": {"group_reset": "n_clusters"},
        "DigPro, prototypes from the start": {"warmup": 0.0},
        "DigPro, prototypes late": {"warmup": 0.6},
        "DigPro, contrast only": CONTRAST_ONLY,
        "DigPro, contrast only, k-means": {**CONTRAST_ONLY, "e_step": "kmeans"},
    },
    SCL: {
        "SCL": {},
        "SCL, 50 epochs": {"max_epochs": 50},
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
        "StatDEC, k-means": {"init": "kmeans"},
        "StatDEC, no clustering loss": {"cluster_weight": 0.0},
        "StatDEC, equal sizes": {"cardinality_power": 1.0},
        "StatDEC, average pooling": {"pooling": "avg"},
        "StatDEC, k-means, debiased": {"init": "kmeans", "tau_plus": 0.1},
        "StatDEC, two trunks": {"share_trunk": False},
    },
    GCC: {
        "GCC": {},
        "GCC, real images": {"bank": "real"},
        "GCC, first stage": {"pretraining": 1.0},
    },
    MFCVAE: {"MFCVAE, one facet": {"n_facets": 1}},
}
METHODS = {
    name: (cls, changed)
    for cls, rows in CHANGED.items()
    for name, changed in rows.items()
}
NAMES = [*peers.PIXELS, *METHODS]


def method_options(doc, methods=NAMES, **defaults):
    """The options of a script that fits rows of the tables on packs of images."""
    parser = record.pack_options(doc, methods=methods, **defaults)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=NAMES,
        metavar="METHOD",
        help=f"of {', '.join(map(repr, NAMES))}",
    )
    parser.add_argument("--device", default="auto", help="of our methods")
    return parser


def measure(args, script, names, run, *values):
    """Run what a record lacks: of each pack, further value, method and seed.

    Parameters
    ----------
    args : Namespace
        Of :func:`method_options`.
    script, names
        As :func:`record.resume` takes them.
    run : callable
        Maps ``args`` and the values of ``names`` to a dict of what was measured.
    *values : sequence
        What else the runs differ in, between pack and method.
    """
    if any("UMAP" in method for method in args.methods):
        peers.warm_up()
    keys = itertools.product(args.names, *values, args.methods, args.seeds)
    record.resume(args, script, names, keys, partial(run, args))


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
