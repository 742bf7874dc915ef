"""What a step costs the processor in one process and in two, and the share of views.

``DigPro`` fits random colour images of 32 x 32 pixels on the CPU, with a small network
and with a ResNet-18. Seconds are of the processor, for an image and in each process, so
that they do not depend on what else runs; they are medians over the steps but for the
first ones. In two processes half of those of one would be ideal. Each makes the views
whole: beside them stands what it would take to gather them if each made a part.

    python examples/benchmarks/bench_processes.py --json records/processes.json

What the record has is not run again.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import record
import torch
import torch.distributed as dist
from bench_large import Timed
from skorch.callbacks import Callback

from skdeepcluster import DigPro
from skdeepcluster._engine.distributed import current, joined

SKIPPED = 2  # steps that allocate
SIZES = (1, 2)
PARTS = ("cpu", "views", "gathering")


class Steps(Callback):
    """Notes the processor's seconds after each step, and those that views took."""

    def on_train_begin(self, net, **kwargs):
        self.timed, self.at = Timed(type(net), "_view"), []

    def on_batch_end(self, net, **kwargs):
        self.at.append((time.process_time(), self.timed.seconds["_view"]))


def fit(backbone, batch_size, steps):
    """Fit one epoch, and return an image's median seconds by part."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (batch_size * steps, 3, 32, 32), dtype=np.uint8)
    callback = Steps()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # noise has no clusters
        DigPro(
            10,
            backbone=backbone,
            batch_size=batch_size,
            max_epochs=1,
            warmup=0.0,  # all parts of the loss
            device="cpu",
            precision="float32",
            random_state=0,
            callbacks=[callback],
        ).fit(X)
    spent = np.diff(callback.at[SKIPPED:], axis=0) / batch_size
    return dict(zip(("cpu", "views"), np.median(spent, axis=0).tolist(), strict=True))


def gathering(batch_size):
    """Seconds of an image of a view to put together what each process has a part of."""
    if dist.get_world_size() == 1:
        return 0.0
    with joined():
        group = current()
        view = torch.rand(batch_size, 3, 32, 32)[group.rows(batch_size)].clone()
        at = [time.process_time()]
        for _ in range(20):
            group.gather(view, batch_size)
            at.append(time.process_time())
    return float(np.median(np.diff(at))) / batch_size


def as_one_of_several(args):
    """Fit as ``torchrun`` starts it, and leave the result in a folder."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = fit(args.backbones[0], args.batch_size, args.steps)
    found["gathering"] = gathering(args.batch_size) * DigPro.module.n_views
    path = Path(args.fit, f"{dist.get_rank()}.json")
    path.write_text(json.dumps(found))
    dist.destroy_process_group()


def in_processes(size, backbone, args):
    """Run ``fit`` in some processes; return the mean of what they measured."""
    with tempfile.TemporaryDirectory() as folder:
        start = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
        given = ["--backbones", backbone, "--batch-size", str(args.batch_size)]
        given += ["--steps", str(args.steps), "--fit", folder]
        subprocess.run([sys.executable, "-m", *start, __file__, *given], check=True)
        found = [json.loads(path.read_text()) for path in Path(folder).iterdir()]
    assert len(found) == size
    return {name: statistics.mean(one[name] for one in found) for name in PARTS}


def measure(backbone, args):
    """Take turns in one process and in several."""
    turns = [
        {size: in_processes(size, backbone, args) for size in SIZES}
        for _ in range(args.repeats)
    ]
    row = {
        f"{name}_seconds_in_{size}": statistics.median(t[size][name] for t in turns)
        for size in SIZES
        for name in PARTS
    }
    one, two = SIZES
    ratio = statistics.median(t[two]["cpu"] / t[one]["cpu"] for t in turns)
    shares = {
        f"views_share_in_{size}": statistics.median(
            t[size]["views"] / t[size]["cpu"] for t in turns
        )
        for size in SIZES
    }
    return {**row, "two_over_one": ratio, **shares, "turns": turns}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbones", nargs="+", default=["conv", "resnet18"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fit", help=argparse.SUPPRESS)
    parser.add_argument("--json")
    args = parser.parse_args()
    if args.fit:
        as_one_of_several(args)
        return
    args.threads = 1
    record.resume(
        args,
        "bench_processes.py",
        ("backbone", "batch_size"),
        [(name, args.batch_size) for name in args.backbones],
        lambda backbone, batch_size: measure(backbone, args),
    )


if __name__ == "__main__":
    main()
