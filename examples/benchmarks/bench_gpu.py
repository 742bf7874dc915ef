"""What a GPU gives: images a second of ``fit``, share of the card's rate, accuracy.

Two backbones train by DigPro, on as many images of digits as a record names, and each
row changes one thing: *fit* has the defaults; others have float32, no channels-last
format, or a compiled backbone. Beside them are the loops of ``bench_engine.py``: *bare*
has the same batched views without the engine, *per image* has views by torchvision from
a ``DataLoader`` with a worker for each core. The first epoch of each is not counted.

    python examples/benchmarks/bench_gpu.py --json examples/benchmarks/records/gpu.json

*rate* is that of a large product of bfloat16 matrices on the same device. What a step
computes is counted by torch's ``FlopCounterMode``; the share of the rate is that of the
steps alone, without what follows an epoch.

With ``--packs``, one method trains on CIFAR-10 instead, and the record has what its
clusters were worth after each epoch. FOLDER has ``cifar10_train.npz``, with ``images``
and ``labels``, which are used to score only.

    python examples/benchmarks/bench_gpu.py --packs FOLDER --checkpoint FOLDER \
        --json examples/benchmarks/records/cifar10.json

Nothing begins after ``--minutes``: call it again to go on, with the same record and the
same checkpoint. What the record has is not measured again.
"""

import argparse
import functools
import itertools
import os
import signal
import time
from contextlib import nullcontext
from unittest import mock

import numpy as np
import record
import torch
from bench_engine import bare, build, digits, per_image
from methods import METHODS
from real_images import Curve, read, scores
from skorch.callbacks import Callback
from torch.utils.flop_counter import FlopCounterMode

from skdeepcluster import DigPro
from skdeepcluster._engine.device import resolve_device
from skdeepcluster._engine.protocol import Batch
from skdeepcluster._engine.randomness import seeded
from skdeepcluster._input.images import Images

CASES = {
    "resnet18": {"side": 32, "n": 50_000, "batch_size": 256},
    "resnet50": {"side": 224, "n": 4096, "batch_size": 128},
}
FITS = {
    "fit": {},
    "fit, float32": {"precision": "float32"},
    "fit, not channels-last": {},
    "fit, compiled": {"net_params": {"compile": True}},
}
ROWS = (*FITS, "bare", "per image")
UNTIMED = 1  # epochs: algorithms are chosen, and backbones compiled, in the first one
KEY = ("backbone", "row")
PACK = "cifar10_train"


def wait(device):
    """Wait until a GPU has done what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@functools.cache
def rate(device, side, repeats=30):
    """Floating-point operations a second of a product of bfloat16 matrices."""
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)
    for count in (3, repeats):  # the first ones choose an algorithm
        wait(device)
        began = time.perf_counter()
        for _ in range(count):
            a @ b
        wait(device)
    return 2 * side**3 * repeats / (time.perf_counter() - began)


@functools.cache
def data(n, side):
    """Images (n, 3, side, side) of digits."""
    return digits(n, (3, side, side))


def flops(images, settings, device):
    """Floating-point operations of a step, by the image."""
    with seeded(0):
        module = build(images, settings, device)[0].train()
        b = settings["batch_size"]
        unit = module.scaling(images[:b][0].to(device))
        views = [module.augmentation(unit) for _ in range(module.n_views)]
        with FlopCounterMode(display=False) as counter:
            batch = Batch(torch.arange(b, device=device), views)
            sum(module.losses(batch).values()).backward()
    return counter.get_total_flops() / b


class StepTimes(Callback):
    """Seconds of the steps of each epoch, without what follows them."""

    def __init__(self, device):
        self.device = device

    def on_train_begin(self, net, **kwargs):
        self.seconds = []

    def on_epoch_begin(self, net, **kwargs):
        wait(self.device)
        self.began = time.perf_counter()

    def on_batch_end(self, net, **kwargs):
        if len(net.history[-1, "batches"]) == net.module_.clock.steps_per_epoch:
            wait(self.device)
            self.seconds.append(time.perf_counter() - self.began)


def fitted(X, settings, device, changed, channels_last):
    """Images a second of the epochs of a fit, and of their steps."""
    times = StepTimes(device)
    other = mock.patch.object(torch, "channels_last", torch.contiguous_format)
    with nullcontext() if channels_last else other:  # which is no option of ours
        model = DigPro(10, device=str(device), callbacks=[times], **settings)
        model.set_params(**changed).fit(X)
    rows = model.history_[UNTIMED:]
    seen = sum(row["seconds"] * row["images_per_second"] for row in rows)
    return {
        "images_per_second": seen / sum(row["seconds"] for row in rows),
        "steps_images_per_second": seen / sum(times.seconds[UNTIMED:]),
        "bfloat16": model.net_.bfloat16,
    }


def measure(args, backbone, row):
    """One row of the table."""
    case = {key: getattr(args, key) or value for key, value in CASES[backbone].items()}
    device, n, side = resolve_device(args.device), case["n"], case["side"]
    X = data(n, side)
    images = Images(X, X.shape[1:])
    settings = {
        "backbone": backbone,
        "batch_size": case["batch_size"],
        "max_epochs": UNTIMED + args.epochs,
        "random_state": 0,
    }
    began = time.perf_counter()
    if row in FITS:
        last = row != "fit, not channels-last"
        found = fitted(X, settings, device, FITS[row], last)
        each = flops(images, settings, device)
        full = rate(device, args.matrix)
        found |= {"flops_of_an_image": each, "rate": full}
        found["share_of_rate"] = found["steps_images_per_second"] * each / full
    elif row == "bare":
        speed, _ = bare(X, images, settings, device, UNTIMED)
        found = {"images_per_second": speed}
    else:
        workers = {"workers": args.workers}
        speed, _ = per_image(X, images, settings, device, UNTIMED, **workers)
        found = {"images_per_second": speed, **workers}
    return {**case, **found, "seconds": time.perf_counter() - began}


def in_time(keys, minutes):
    """Yield keys until the time is over, and one at least."""
    end = time.monotonic() + 60 * minutes
    for key in keys:
        yield key
        if time.monotonic() > end:
            return print("the time is over: call again for the rest", flush=True)


# -- accuracy over minutes -------------------------------------------------------------


class Minutes(Curve):
    """Score and write each epoch, and ask to end when the time is over."""

    def __init__(self, labels_true, minutes, write):
        super().__init__(labels_true)
        self.end, self.write = time.monotonic() + 60 * minutes, write

    def on_epoch_end(self, net, **kwargs):
        super().on_epoch_end(net, **kwargs)
        self.write(self.rows_)
        if time.monotonic() > self.end:
            signal.raise_signal(signal.SIGTERM)  # obeyed after the step that comes


def train(args):
    """Train on CIFAR-10 from where the last call ended, and write the scores."""
    X, y = read(args.packs, PACK, args.n, args.seed)
    before, parts = record.stored(args.json), [record.part(args)]
    key = {"method": args.method, "seed": args.seed, "n": len(X)}
    same = [run for run in before["runs"] if key.items() <= run.items()]
    others = [run for run in before["runs"] if run not in same]
    earlier = [point for run in same for point in run["points"]]

    def write(points, **final):
        # epochs after the last checkpoint are trained again
        known = [p for p in earlier if not points or p["epoch"] < points[0]["epoch"]]
        run = {**key, "epochs_planned": args.max_epochs, "points": known + points}
        record.write(
            args.json,
            script="examples/benchmarks/bench_gpu.py",
            parts=before["parts"] + parts,
            runs=[*others, {**run, **final}],
        )

    cls, changed = METHODS[args.method]
    curve = Minutes(y, args.minutes, write)
    model = cls(
        len(np.unique(y)),
        backbone=args.backbone,
        max_epochs=args.max_epochs,
        device=args.device,
        random_state=args.seed,
        checkpoint=args.checkpoint,
        checkpoint_every=args.checkpoint_every,
        callbacks=[("curve", curve)],
        **changed,
    )
    try:
        model.fit(X)
    except SystemExit as end:
        if not hasattr(end, "estimator"):  # not ours, or not one epoch was done
            raise
        print("the time is over: call again to go on", flush=True)
    final = {"epochs": model.n_iter_, **scores(y, model.labels_)}
    write(curve.rows_, final=final)
    print(args.method, final)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--n", type=int, help="images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json")
    speed = parser.add_argument_group("images a second")
    speed.add_argument("--backbones", nargs="+", choices=CASES, default=list(CASES))
    speed.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    speed.add_argument("--side", type=int, help="of an image")
    speed.add_argument("--batch-size", type=int)
    speed.add_argument("--epochs", type=int, default=2, help="that are counted")
    speed.add_argument("--workers", type=int, default=os.cpu_count())
    speed.add_argument("--matrix", type=int, default=8192, help="its side")
    accuracy = parser.add_argument_group("accuracy on CIFAR-10")
    accuracy.add_argument("--packs", help=f"folder with {PACK}.npz")
    accuracy.add_argument("--checkpoint", help="folder that a later call goes on from")
    accuracy.add_argument("--checkpoint-every", type=float, default=30)
    accuracy.add_argument("--method", choices=METHODS, default="DigPro")
    accuracy.add_argument("--backbone", default="resnet18")
    accuracy.add_argument("--max-epochs", type=int, default=200)
    accuracy.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.packs:
        return train(args)
    keys = in_time(itertools.product(args.backbones, args.rows), args.minutes)
    record.resume(args, "bench_gpu.py", KEY, keys, functools.partial(measure, args))


if __name__ == "__main__":
    main()
