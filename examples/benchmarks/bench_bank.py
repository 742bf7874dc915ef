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
from functools import partial

import numpy as np
import record
import torch
from torch.nn import functional as F

from skdeepcluster import SCL
from skdeepcluster._engine.device import resolve_device, resolve_precision
from skdeepcluster._engine.protocol import Batch, DataFacts
from skdeepcluster._engine.randomness import seeded
from skdeepcluster._input.images import Images
from skdeepcluster._input.scaling import Scaling
from skdeepcluster.augment import make_augmentation

SHAPE = (1, 28, 28)


def build(n, batch_size, device):
    """Module and optimiser as ``fit`` would build them for n images."""
    noise = np.random.default_rng(0).integers(0, 256, (64, *SHAPE), dtype=np.uint8)
    data = DataFacts(
        image_shape=SHAPE,
        n_samples=n,
        scaling=Scaling(Images(noise, SHAPE)),
        augmentation=make_augmentation("auto", SHAPE),
    )
    p = SCL(10, batch_size=batch_size, max_epochs=2, device=device)
    p._resolve(data)
    module = p.module(p, data)
    module.to(device).to(memory_format=torch.channels_last)
    module.autocast = resolve_precision("auto", device, SHAPE)
    return module, torch.optim.AdamW(module.parameters(), lr=p.lr)


def cluster(module):
    """Put the module where training is after the warm-up."""
    module.labels = torch.randint_like(module.labels, module.p.n_clusters)
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
    x = torch.rand(2, batch_size, *SHAPE, device=device)
    views = [v.contiguous(memory_format=torch.channels_last) for v in x]
    index = torch.randperm(n, device=device)[:batch_size]
    z = F.normalize(
        torch.randn(2, batch_size, module.memory.shape[1], device=device), 2
    )
    z.requires_grad_()

    def forward_backward():
        batch = Batch(index, views)
        sum(module.losses(batch).values()).backward()
        return batch

    def step():
        optimizer.zero_grad()
        batch = forward_backward()
        optimizer.step()
        module.after_step(batch)

    def backbone():
        module.features(torch.cat(views)).sum().backward()

    def contrast():
        sum(module.contrast(*z, index).values()).backward()

    step()
    parts = {"step": step, "backbone": backbone, "contrast": contrast}
    row = {name: timed(part, device, repeats) for name, part in parts.items()}
    times = []
    for _ in range(repeats):  # an update needs a forward pass before it
        batch = Batch(index, views)
        with torch.no_grad():
            module.losses(batch)
        times.append(timed(partial(module.after_step, batch), device, 1))
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
    with seeded(0):
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
