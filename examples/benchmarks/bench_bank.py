"""What SCL's memory of all images costs a step, by the number of images.

Times whole training steps after the warm-up, and in steps of their own the backbone
(forward and backward, both views), the contrast with the memory (forward and
backward), and the update of memory, labels and centres. Each is the median over the
steps; the images are noise, since their content changes no time.

    python examples/benchmarks/bench_bank.py --json records/bank.json
"""

import argparse
import statistics
import time

import numpy as np
import record
import torch
from torch.nn import functional as F

from skdeepcluster import SCL
from skdeepcluster._base import Plan
from skdeepcluster._device import resolve_device, resolve_precision, seeded
from skdeepcluster._images import Images
from skdeepcluster._net import Batch
from skdeepcluster._scaling import Scaling
from skdeepcluster.augment import make_augmentation
from skdeepcluster.backbones import resolve_backbone

SHAPE = (1, 28, 28)


def build(n, batch_size, device):
    """Module and optimiser as ``fit`` would build them for n images."""
    estimator = SCL(10, batch_size=batch_size)
    noise = np.random.default_rng(0).integers(0, 256, (64, *SHAPE), dtype=np.uint8)
    plan = Plan(
        image_shape=SHAPE,
        n_samples=n,
        backbone=resolve_backbone("auto", SHAPE, device),
        scaling=Scaling(Images(noise, SHAPE)),
        augmentation=make_augmentation("auto", SHAPE),
        max_epochs=2,
        steps_per_epoch=max(1, n // batch_size),
    )
    cls, params = estimator._module(plan)
    module = cls(scaling=plan.scaling, augmentation=plan.augmentation, **params)
    module.to(device).to(memory_format=torch.channels_last)
    module.bfloat16 = resolve_precision("auto", device, SHAPE)
    return module, torch.optim.AdamW(module.parameters(), lr=estimator.lr)


def cluster(module):
    """Put the module where training is after the warm-up."""
    module.labels = torch.randint_like(module.labels, module.n_clusters)
    module.gather()
    module.clustered = True


def timed(function, device, repeats):
    """Median of the milliseconds of a call."""
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def measure(n, batch_size, repeats, device):
    """Milliseconds of a step and of its parts, with n images in the memory."""
    module, optimizer = build(n, batch_size, device)
    module.train()
    cluster(module)
    x = torch.randn(2, batch_size, *SHAPE, device=device)
    views = [v.contiguous(memory_format=torch.channels_last) for v in x]
    index = torch.randperm(n, device=device)[:batch_size]
    z = F.normalize(
        torch.randn(2, batch_size, module.memory.shape[1], device=device), 2
    )
    z.requires_grad_()

    def forward_backward():
        sum(module.losses(Batch(index, views)).values()).backward()

    def step():
        optimizer.zero_grad()
        forward_backward()
        optimizer.step()
        module.after_step()

    def backbone():
        module.run(module.backbone, torch.cat(views)).sum().backward()

    def contrast():
        sum(module.contrast(*z, index).values()).backward()

    def update():
        module.after_step()

    step()
    parts = {"step": step, "backbone": backbone, "contrast": contrast}
    row = {name: timed(part, device, repeats) for name, part in parts.items()}
    times = []
    for _ in range(repeats):  # an update needs a forward pass before it
        with torch.no_grad():
            module.losses(Batch(index, views))
        times.append(timed(update, device, 1))
    return {"n": n, **row, "update": statistics.median(times)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=(1_000, 10_000, 60_000))
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    with seeded(0, device):
        rows = [measure(n, args.batch_size, args.repeats, device) for n in args.n]
    for row in rows:
        print({name: round(value, 2) for name, value in row.items()})
    record.write(
        args.json,
        script="examples/benchmarks/bench_bank.py",
        arguments={k: v for k, v in vars(args).items() if k != "json"},
        environment=record.environment(device),
        bfloat16=resolve_precision("auto", device, SHAPE),
        rows=rows,
    )


if __name__ == "__main__":
    main()
