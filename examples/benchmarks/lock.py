"""Lock of the results: hashes of labels and embeddings of many small fits.

A change of the code that should change no result is checked against the record: on the
machine, and with the versions, that wrote it, every hash must be equal. Elsewhere the
last bits differ, and so do the hashes.

    python examples/benchmarks/lock.py --write   # before the change
    python examples/benchmarks/lock.py           # after it
"""

import argparse
import hashlib
import json
import os
import sys
import warnings
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from record import environment

import skdeepcluster
from skdeepcluster.augment import Neighbors, simclr, vector
from skdeepcluster.gcc import Generated

RECORD = Path(__file__).parent / "records" / "lock.json"
SMALL = {"n_clusters": 3, "max_epochs": 4, "batch_size": 32, "random_state": 0}
SMALL |= {"device": "cpu", "precision": "float32"}
NARROW = {**SMALL, "feature_dim": 8, "hidden_dim": 16}
FACETS = {**SMALL, "latent_dims": (3, 2), "hidden_dims": 16, "lr": 1e-2}
FACETS |= {"max_epochs": 12, "sigma_x": 0.2}


def drawn(**changed):
    """Return a bank of few images, by a small diffusion model."""
    return Generated(**{"denoiser": "mlp", "steps": 60, "sampling_steps": 5, **changed})


DRAWN = {**NARROW, "pretraining": 0.5, "bank": drawn()}
DRAWN |= {"samples_per_cluster": 12, "min_agreement": 0.0}
DRAWN |= {"max_change": 1.0, "tol": 0.0, "calibration_lr": 5e-4, "n_clusters": 4}
BASE = {"DigPro": NARROW, "SCL": NARROW, "StatDEC": NARROW}
BASE |= {"MFCVAE": FACETS, "GCC": DRAWN}

# of each method: name of the case -> data, parameters beside those above
CASES = {
    "DigPro": {
        "alignment": ("grey", {"instance": "alignment"}),
        "alignment, resets": (
            "grey",
            {"instance": "alignment", "group_reset": 3, "noise_std": 0.1},
        ),
        "resets by clusters": ("grey", {"group_reset": "n_clusters"}),
        "small bank": ("vectors", {"group_reset": 2, "bank_size": 40}),
        "no warm-up": ("grey", {"warmup": 0.0}),
        "warm-up to the end": ("grey", {"warmup": 1.0}),
        "no groups": ("grey", {"group_weight": 0.0}),
        "no prototypes": ("grey", {"prototype_weight": 0.0}),
        "auto epochs": ("grey", {"max_epochs": "auto", "batch_size": 4}),
        "resnet18": ("colour", {"backbone": "resnet18", "max_epochs": 1}),
        "weak views": ("colour", {"augment": "weak"}),
        "blurred views": ("colour", {"augment": simclr(blur=3)}),
        "one cluster": ("grey", {"n_clusters": 1}),
        "few images": ("few", {}),
        "channels last": ("last", {}),
        "flat rows": ("flat", {"image_shape": (3, 8, 8)}),
        "bfloat16": ("grey", {"precision": "bfloat16"}),
        "weight decay": ("grey", {"net_params": {"optimizer__weight_decay": 0.3}}),
        "groups of vectors": ("vectors", {"group_weight": 0.3, "warmup": 0.3}),
        "noise on neighbours": ("vectors", {"augment": Neighbors(5, then=vector())}),
        "components": ("wide", {"n_components": 6}),
    },
    "SCL": {
        "member": ("grey", {"similarity": "member"}),
        "cross-entropy": ("grey", {"consistency": "cross_entropy"}),
        "random start": ("grey", {"init": "random"}),
        "few negatives": ("grey", {"n_negatives": 20}),
        "all negatives": ("grey", {"n_negatives": None}),
        "no views": ("grey", {"view_weight": 0.0}),
        "no memory": ("grey", {"memory_weight": 0.0}),
        "boundary": ("colour", {"assign": "boundary"}),
        "similarity": ("colour", {"assign": "similarity"}),
        "no warm-up": ("grey", {"warmup": 0.0, "max_epochs": 8}),
        "warm-up to the end": ("grey", {"warmup": 1.0}),
        "collapse": ("grey", {"balance_weight": 0.0, "max_epochs": 9, "warmup": 0.1}),
        "many clusters": ("grey", {"n_clusters": 20, "max_epochs": 8, "warmup": 0.5}),
        "auto epochs": ("vectors", {"max_epochs": "auto", "batch_size": 4}),
        "bfloat16": ("grey", {"precision": "bfloat16"}),
        "two neighbours": ("vectors", {"augment": Neighbors(2)}),
        "noise alone": ("vectors", {"augment": "vector", "standardize": False}),
        "components": ("wide", {"n_components": 6}),
        "components alone": ("wide", {"n_components": 6, "standardize": False}),
    },
    "StatDEC": {
        "average pooling": ("grey", {"pooling": "avg"}),
        "count": ("colour", {"cardinality": "count"}),
        "no cardinality": ("colour", {"cardinality": None, "grid": 1}),
        "two trunks": ("grey", {"share_trunk": False, "warmup": 0.5}),
        "detached": ("grey", {"detach_representation": True, "warmup": 0.5}),
        "overcluster": ("grey", {"init": "overcluster", "warmup": 0.5}),
        "random start": ("grey", {"init": "random", "warmup": 0.5}),
        "no recluster": ("grey", {"recluster": False, "warmup": 0.5}),
        "debiased": ("grey", {"tau_plus": "auto", "warmup": 0.5}),
        "tau_plus": ("vectors", {"tau_plus": 0.1}),
        "clamped": ("grey", {"tau_plus": 0.9}),
        "contrastive": ("grey", {"representation": "contrastive"}),
        "no power": ("grey", {"cardinality_power": 0.0, "warmup": 0.25}),
        "no warm-up": ("grey", {"warmup": 0.0}),
        "warm-up to the end": ("grey", {"warmup": 1.0}),
        "converges": ("grey", {"tol": 0.5, "max_epochs": 20, "warmup": 0.1}),
        "reseeds": ("grey", {"n_clusters": 30, "max_epochs": 10, "warmup": 0.2}),
        "auto epochs": ("vectors", {"max_epochs": "auto", "batch_size": 4}),
        "bfloat16": ("grey", {"precision": "bfloat16", "warmup": 0.5}),
        "components": ("wide", {"n_components": 6}),
    },
    "MFCVAE": {
        "mlp": ("grey", {"backbone": "mlp"}),
        "shared": ("colour", {"architecture": "shared"}),
        "shared mlp": ("grey", {"architecture": "shared", "backbone": "mlp"}),
        "bernoulli": ("grey", {"likelihood": "bernoulli"}),
        "identity": ("grey", {"output": "identity", "normalize_output": True}),
        "analytic": ("grey", {"elbo_estimator": "analytic"}),
        "samples": ("vectors", {"n_mc_samples": 3}),
        "not progressive": ("grey", {"progressive": False}),
        "gmm": ("grey", {"prior_init": "gmm"}),
        "random prior": ("grey", {"prior_init": "random"}),
        "no refits": ("grey", {"n_refits": 0}),
        "learnt weights": (
            "grey",
            {"learn_weights": True, "covariance_type": "diag"},
        ),
        "one facet": ("grey", {"n_facets": 1, "latent_dims": "auto"}),
        "three facets": (
            "colour",
            {"n_facets": 3, "latent_dims": (2, 2, 1), "n_clusters": (2, 3, 4)},
        ),
        "stage shares": ("grey", {"stage_shares": (1, 3), "primary_facet": 0}),
        "few epochs": ("grey", {"max_epochs": 1}),
        "augmented": ("grey", {"augment": "digits"}),
        "neighbours": ("vectors", {"augment": "neighbors"}),
        "components": ("wide", {"n_components": 6}),
        "auto epochs": ("vectors", {"max_epochs": "auto", "batch_size": 4}),
        "bfloat16": ("grey", {"precision": "bfloat16"}),
    },
    "GCC": {
        "real bank": ("grey", {"bank": "real"}),
        "real bank, augmented": ("grey", {"bank": "real", "augment_bank": True}),
        "augmented bank": ("grey", {"augment_bank": True}),
        "no filter": ("grey", {"bank_filter": "none"}),
        "head": ("grey", {"assign": "head"}),
        "two rounds": ("grey", {"n_rounds": 2, "max_epochs": 6, "pretraining": 0.3}),
        "two rounds, real bank": (
            "vectors",
            {
                "n_rounds": 2,
                "max_epochs": 6,
                "pretraining": 0.3,
                "bank": "real",
                "tol": 0.0,
            },
        ),
        "undone": ("grey", {"calibration_lr": 0.1}),
        "unrecognised": ("grey", {"min_agreement": 1.0}),
        "stage I only": ("grey", {"pretraining": 1.0}),
        "ddim": ("grey", {"bank": drawn(sampler="ddim")}),
        "ddpm": ("grey", {"bank": drawn(sampler="ddpm")}),
        "guidance": ("grey", {"bank": drawn(guidance_scale=1.0)}),
        "nano": ("colour", {"bank": drawn(denoiser="nano", steps=20)}),
        "no dropout": ("vectors", {"bank": drawn(class_dropout=0.0)}),
        "components": ("wide", {"n_components": 6}),
        "few reliable": ("grey", {"reliable_share": 0.5, "class_share": 0.2}),
        "auto": (
            "vectors",
            {"bank": drawn(lr="auto"), "samples_per_cluster": "auto"},
        ),
        "bfloat16": ("grey", {"precision": "bfloat16"}),
    },
}


def images(n=96, channels=1):
    """Images (n, channels, 8, 8), uint8, of three kinds that differ in a corner."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 100, (n, channels, 8, 8))
    X[0::3, :, :4, :4] += 60
    X[1::3, :, :4, 4:] += 60
    X[2::3, -1:, 4:, 4:] += 60
    return X.astype(np.uint8)


def vectors(n=96, d=10):
    """Vectors (n, d), float64, of three kinds."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)) + 2 * np.eye(d)[np.arange(n) % 3]


def data():
    colour = images(channels=3)
    return {
        "vectors": vectors(),
        "wide": vectors(d=40) * np.linspace(0.5, 2, 40),
        "grey": images(),
        "colour": colour,
        "few": images(35),
        "last": np.ascontiguousarray(colour.transpose(0, 2, 3, 1)),
        "flat": colour.reshape(len(colour), -1).astype(np.float32),
    }


def digest(array):
    array = np.ascontiguousarray(array)
    return hashlib.sha256(array.tobytes()).hexdigest()[:12]


def fit(method, params, X):
    model = getattr(skdeepcluster, method)(**params).fit(X)
    row = {
        "labels": digest(model.labels_),
        "embedding": digest(model.transform(X)),
        "proba": digest(model.predict_proba(X)),
        "score": digest(np.float64(model.score(X))),
        "history": sorted({key for row in model.history_ for key in row}),
        "epochs": model.n_iter_,
    }
    if method == "MFCVAE":
        row["facets"] = digest(model.facet_labels_)
        row["images"] = digest(model.sample(5, random_state=0)[0])
    if method == "GCC" and any(s["stage"] == "diffusion" for s in model.stages_):
        row["images"] = digest(model.sample(5, random_state=0)[0])
    if hasattr(model, "score_samples"):
        row["score_samples"] = digest(model.score_samples(X))
    return row


def cases(methods):
    for method in methods:
        for kind in ("vectors", "grey", "colour"):
            yield method, kind, BASE[method], kind
        for name, (kind, params) in CASES[method].items():
            yield method, name, {**BASE[method], **params}, kind


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the record anew")
    parser.add_argument("--methods", nargs="+", default=list(CASES), choices=CASES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    inputs, rows = data(), {}
    for method, name, params, kind in cases(arguments.methods):
        rows[f"{method}: {name}"] = fit(method, params, inputs[kind])
    if arguments.write:
        record = {"environment": environment("cpu"), "rows": rows}
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
        return print(f"{len(rows)} fits")
    known, wrong = json.loads(RECORD.read_text())["rows"], 0
    for name, row in rows.items():
        other = [key for key in known[name] if row.get(key) != known[name][key]]
        wrong += bool(other)
        if other:
            print(f"{name}: differs in {', '.join(other)}")
    print(f"{len(rows) - wrong} of {len(rows)} fits are equal")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
