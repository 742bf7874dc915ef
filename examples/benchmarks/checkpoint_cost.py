"""What ``checkpoint`` costs a training of epochs of some seconds.

Every method trains with ``checkpoint_every=0``, so that each epoch is saved, on as many
images as make an epoch of about ``--seconds``. The cost is the time within the writes,
and that of the digest of the data, as shares of the training.

    python examples/benchmarks/checkpoint_cost.py --json checkpoint_cost.json
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import record

from skdeepcluster import GCC, MFCVAE, SCL, DigPro, StatDEC
from skdeepcluster._engine import checkpoint
from skdeepcluster._engine.device import resolve_device
from skdeepcluster.datasets import load_digits_images

METHODS = {
    "DigPro": DigPro,
    "SCL": SCL,
    "StatDEC": StatDEC,
    "MFCVAE": MFCVAE,
    "GCC": lambda k, **params: GCC(k, bank="real", **params),
}


def timed(function, spent):
    """The function, and the seconds within it in a list."""

    def wrapper(*args, **kwargs):
        began = time.perf_counter()
        result = function(*args, **kwargs)
        spent.append(time.perf_counter() - began)
        return result

    return wrapper


def draw(n):
    """Draw n of scikit-learn's digits, 28 pixels wide."""
    X, _ = load_digits_images(size=28)
    return X[np.random.default_rng(0).integers(0, len(X), n)]


def epoch_seconds(make, X, **params):
    history = make(10, random_state=0, **params).fit(X).history_
    return [row["seconds"] for row in history]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seconds", type=float, default=10.0, help="of an epoch")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--json")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    save, digest = checkpoint.Checkpoint.save, checkpoint.digest_of_images
    rows = []
    for name in args.methods:
        make = METHODS[name]
        trial = min(epoch_seconds(make, draw(3000), max_epochs=2))
        X = draw(int(3000 * args.seconds / trial))
        writes, digests = [], []
        checkpoint.Checkpoint.save = timed(save, writes)
        checkpoint.digest_of_images = timed(digest, digests)
        with tempfile.TemporaryDirectory() as folder:
            params = {"checkpoint": folder, "checkpoint_every": 0}
            params["max_epochs"] = args.epochs
            seconds = epoch_seconds(make, X, **params)
            size = (Path(folder) / "training.safetensors").stat().st_size
        row = {
            "method": name,
            "n": len(X),
            "epoch_seconds": sum(seconds) / len(seconds),
            "write_seconds": sum(writes) / len(writes),
            "digest_seconds": sum(digests),
            "megabytes": size / 1e6,
        }
        # the last state is written twice: at its epoch, and as that of the end
        row["share"] = (sum(writes) + sum(digests)) / sum(seconds)
        rows.append(row)
        print({k: v if isinstance(v, str) else round(v, 4) for k, v in row.items()})
    record.write(
        args.json,
        script="examples/benchmarks/checkpoint_cost.py",
        arguments={k: v for k, v in vars(args).items() if k != "json"},
        environment=record.environment(resolve_device("auto")),
        rows=rows,
    )


if __name__ == "__main__":
    main()
