"""Measure what generated images bring to GCC, and write the scores as a JSON record.

Images of a pack, balanced or with an exponential long tail, are clustered by rows of
GCC: as it is, with reliable images in the place of generated ones (the control, whose
stage I is the same), and with one part changed. Each fit gives the scores of stage I
and those of the end. The labels are used to draw the tail and to score. The packs are
as for ``real_images.py``, and not part of the project.

    python examples/benchmarks/calibration.py --packs FOLDER --json records/gcc.json
"""

import argparse
import time
import warnings

import numpy as np
import record
import torch
from long_tail import tail_scores
from real_images import read
from sklearn.exceptions import ConvergenceWarning

from skdeepcluster import GCC
from skdeepcluster.datasets import make_long_tail
from skdeepcluster.gcc import Generated

CHANGED = {
    "GCC": {},
    "GCC, real bank": {"bank": "real"},
    "GCC, head": {"assign": "head"},
    "GCC, three rounds": {"n_rounds": 3, "pretraining": 0.7},
    "GCC, augmented bank": {"augment_bank": True},
    "GCC, reliable share 0.7": {"reliable_share": 0.7},
    "GCC, anchor weight 1": {"anchor_weight": 1.0},
    "GCC, guidance 3": {"bank": Generated(guidance_scale=3.0)},
    "GCC, 300 images a cluster": {"samples_per_cluster": 300},
    "GCC, no alignment": {"alignment_weight": 0.0},
    "GCC, alignment only": {
        "discriminability_weight": 0.0,
        "metric_weight": 0.0,
        "anchor_weight": 0.0,
    },
}


def run(args, pack, ratio, seed, row):
    """Fit one row, and score both of its clusterings."""
    X, y = make_long_tail(
        *read(args.packs, pack, None, seed),
        ratio=ratio,
        n_samples=args.n,
        order="random",
        random_state=seed,
    )
    wall, cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model = GCC(
            len(np.unique(y)), device=args.device, random_state=seed, **CHANGED[row]
        ).fit(X)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    reliable = model.reliable_mask_
    return {
        "pack": pack,
        "ratio": ratio,
        "row": row,
        "seed": seed,
        "n": len(X),
        "seconds": wall,
        "cpu_seconds": cpu,
        "epochs": model.n_iter_,
        "stage_1": tail_scores(y, model.pretrain_labels_),
        **tail_scores(y, model.labels_),
        "score": model.score(X),
        "reliable_acc": tail_scores(y[reliable], model.pretrain_labels_[reliable])[
            "acc"
        ],
        "agreement": model.bank_agreement_.tolist(),
        "stages": model.stages_,
        "warnings": [
            str(w.message) for w in caught if w.category is ConvergenceWarning
        ],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packs", required=True, help="folder of the .npz files")
    parser.add_argument("--names", nargs="+", default=["fashion_mnist_train"])
    parser.add_argument("--rows", nargs="+", choices=CHANGED, default=list(CHANGED)[:2])
    parser.add_argument("--ratios", type=float, nargs="+", default=(1, 10))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    runs = []
    for pack in args.names:
        for seed in args.seeds:
            for ratio in args.ratios:
                for row in args.rows:
                    runs.append(run(args, pack, ratio, seed, row))
                    print(runs[-1], flush=True)
                    record.write_runs(args, "calibration.py", runs=runs)


if __name__ == "__main__":
    main()
