"""What the engine costs: images a second of ``fit``, beside two loops without it.

- *bare*: a plain PyTorch loop with the same module, views, optimiser, schedule and
  k-means after each epoch, but without skorch, history and scikit-learn.
- *per image*: the same loop, its views made by torchvision's v2 transforms image by
  image in a ``DataLoader``, with as many workers as is fastest.

``fit`` also runs with ``precision="float32"``, to see what ``"auto"`` gains. All run
in turn, several times; each ratio is the median over the turns. The
share of the epoch that k-means takes is measured inside the bare loop.

    python examples/benchmarks/bench_engine.py --json records/engine.json
"""

import argparse
import statistics
import sys
import time

import numpy as np
import record
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from skdeepcluster import DigPro
from skdeepcluster._engine.batches import EpochBatches
from skdeepcluster._engine.device import resolve_device, resolve_precision
from skdeepcluster._engine.protocol import Batch, DataFacts
from skdeepcluster._engine.randomness import seeded
from skdeepcluster._input.images import Images
from skdeepcluster._input.scaling import Scaling
from skdeepcluster.augment import make_augmentation
from skdeepcluster.datasets import load_digits_images


def build(images, settings, device):
    """Module, optimiser and scheduler, as ``fit`` builds them."""
    p = DigPro(10, device=device, **settings)
    data = DataFacts(
        image_shape=images.shape,
        n_samples=len(images),
        scaling=Scaling(images),
        augmentation=make_augmentation("auto", images.shape),
    )
    p._resolve(data)
    module = p.module(p, data)
    module.to(device).to(memory_format=torch.channels_last)
    module.autocast = resolve_precision("auto", device, images.shape)
    options = {
        key.removeprefix("optimizer__"): value
        for key, value in module.optimizer().items()
        if key.startswith("optimizer__") and key != "optimizer__param_groups"
    }
    optimizer = torch.optim.AdamW(module.parameters(), lr=p.lr, **options)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, module.schedule())
    return module, optimizer, scheduler


def embed(module, images, device):
    """Embed all images in order."""
    module.eval()
    with torch.no_grad():
        return torch.cat(
            [module.encode(module.scaling(x.to(device))) for x in images.chunks(512)]
        )


def loop(module, optimizer, scheduler, images, batches, epochs, device, untimed=0):
    """Train for some epochs; return images a second and the share of k-means.

    The first ``untimed`` ones are not counted.
    """
    clock = {"kmeans": 0.0}
    method = sys.modules[type(module).__module__]  # where k-means is called
    original = method.spherical_kmeans

    def timed(*args, **kwargs):
        began = time.perf_counter()
        out = original(*args, **kwargs)
        if device.type == "cuda":
            torch.cuda.synchronize()
        clock["kmeans"] += time.perf_counter() - began
        return out

    method.spherical_kmeans = timed
    module.refresh(lambda: embed(module, images, device))
    for epoch in range(epochs):
        if epoch in (0, untimed):
            clock["kmeans"] = 0.0
            began, seen = time.perf_counter(), 0
        for index, view_1, view_2 in batches():
            module.train()
            batch = Batch(index, [view_1, view_2])
            loss = sum(module.losses(batch).values())
            optimizer.zero_grad()
            loss.backward()
            loss.item()
            optimizer.step()
            module.advance(batch)
            scheduler.step()
            seen += len(index)
        module.clock.epoch += 1
        module.refresh(lambda: embed(module, images, device))
    seconds = time.perf_counter() - began
    method.spherical_kmeans = original
    return seen / seconds, clock["kmeans"] / seconds


def engine(X, images, settings, device):
    """Train by ``fit``: epochs by their own clock, which includes k-means."""
    fitted = DigPro(10, device=str(device), **settings).fit(X)
    seconds = sum(row["seconds"] for row in fitted.history_)
    seen = sum(row["seconds"] * row["images_per_second"] for row in fitted.history_)
    return seen / seconds


def bare(X, images, settings, device, untimed=0):
    """Train by a plain loop over the same batched views."""
    with seeded(0):
        parts = build(images, settings, device)
        module = parts[0]
        data = images.to(device)
        order = EpochBatches(len(images), DigPro(**settings).batch_size)

        def batches():
            for index in order:
                raw, _ = data[index]
                unit = module.scaling(raw.to(device))
                views = [module.augmentation(unit) for _ in range(2)]
                yield index.to(device), *views

        return loop(*parts, data, batches, settings["max_epochs"], device, untimed)


class PerImage(Dataset):
    """Two views of one image, made by torchvision."""

    def __init__(self, X, transform):
        self.X, self.transform = torch.from_numpy(X), transform

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        x = self.X[i]
        return i, self.transform(x), self.transform(x)


def torchvision_views(shape):
    """The chain of v2 transforms that is nearest to the recipe of ``"auto"``."""
    size = shape[1:]
    if shape[0] == 1:
        chain = [
            v2.RandomResizedCrop(size, scale=(0.5, 1.0), antialias=True),
            v2.RandomRotation(12),
            v2.ColorJitter(brightness=0.4, contrast=0.4),
        ]
    else:
        chain = [
            v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
        ]
    return v2.Compose([*chain, v2.ToDtype(torch.float32, scale=True)])


def per_image(X, images, settings, device, untimed=0, *, workers):
    """Train by the same loop, fed image by image."""
    with seeded(0):
        parts = build(images, settings, device)
        loader = DataLoader(
            PerImage(X, torchvision_views(images.shape)),
            batch_size=DigPro(**settings).batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )

        def batches():
            for index, *views in loader:
                tensors = (index, *views)
                yield tuple(x.to(device, non_blocking=True) for x in tensors)

        return loop(*parts, images, batches, settings["max_epochs"], device, untimed)


def digits(n, shape):
    """Draw n of scikit-learn's digits, brought to a shape: noise has no clusters."""
    X, _ = load_digits_images(size=max(shape[1:]))
    rows = np.random.default_rng(0).integers(0, len(X), n)
    X = X[rows, None, : shape[1], : shape[2]]
    return np.ascontiguousarray(np.repeat(X, shape[0], axis=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--shape", type=int, nargs=3, default=(1, 28, 28))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=(0, 2))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json")
    args = parser.parse_args()

    device = resolve_device(args.device)
    shape = tuple(args.shape)
    X = digits(args.n, shape)
    images = Images(X, shape)
    settings = {"max_epochs": args.epochs, "random_state": 0}
    bare(X, images, {**settings, "max_epochs": 1}, device)  # warm-up, not counted

    rows = []
    for turn in range(args.repeats):
        row = {
            precision: engine(X, images, {**settings, "precision": precision}, device)
            for precision in ("auto", "float32")
        }
        row["engine"] = row.pop("auto")
        row["bare"], row["kmeans_share"] = bare(X, images, settings, device)
        row["per_image"] = max(
            per_image(X, images, settings, device, workers=workers)[0]
            for workers in args.workers
        )
        rows.append(row)
        print(f"turn {turn}:", {k: round(v, 3) for k, v in row.items()}, flush=True)

    def median(function):
        return statistics.median(function(row) for row in rows)

    summary = {
        "engine_images_per_second": median(lambda r: r["engine"]),
        "engine_over_bare": median(lambda r: r["engine"] / r["bare"]),
        "engine_over_per_image": median(lambda r: r["engine"] / r["per_image"]),
        "auto_over_float32": median(lambda r: r["engine"] / r["float32"]),
        "kmeans_share_of_epoch": median(lambda r: r["kmeans_share"]),
    }
    for name, value in summary.items():
        print(f"{name:28s} {value:10.3f}")
    record.write(
        args.json,
        script="examples/benchmarks/bench_engine.py",
        arguments={k: v for k, v in vars(args).items() if k != "json"},
        environment=record.environment(device),
        bfloat16=resolve_precision("auto", device, shape),
        summary=summary,
        turns=rows,
    )


if __name__ == "__main__":
    main()
