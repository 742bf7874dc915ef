"""
Speed of the augmentations
==========================

Images a second of each recipe, for a whole batch at once with parameters drawn for
each image, beside torchvision's transforms applied image by image, as the workers of
a data loader apply them. Both take turns, on tensors; the median of the repeats
counts. torchvision runs on the CPU always, where loader workers run.

Run ``python bench_augment.py --help`` for the options.
"""

import argparse
import datetime
import json
import platform
import statistics
import time

import torch
import torchvision
from torchvision.transforms import v2

from skdeepcluster.augment import RECIPES

IMAGES = [(1, 28, 28), (3, 32, 32)]
VECTORS = [(1, 1, 784)]


def mask_features(x):
    """Do what FeatureMask does; torchvision has nothing like it."""
    return x.masked_fill(torch.rand_like(x) < 0.15, 0)


def torchvision_pipeline(name, size):
    """Return the transforms for one image that draw what the recipe draws."""
    if name == "simclr":
        steps = [
            v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=False),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
        ]
    elif name == "digits":
        steps = [
            v2.RandomRotation(12, interpolation=v2.InterpolationMode.BILINEAR),
            v2.RandomResizedCrop(size, scale=(0.5, 1.0), antialias=False),
            v2.ColorJitter(brightness=0.4, contrast=0.4),
        ]
    elif name == "weak":
        steps = [v2.RandomResizedCrop(size, scale=(0.8, 1.0), antialias=False)]
    elif name == "vector":
        steps = [v2.GaussianNoise(sigma=0.1, clip=False), v2.Lambda(mask_features)]
    else:
        raise ValueError(f"No torchvision pipeline for the recipe {name!r}; add one.")
    return v2.Compose(steps)


def seconds(function, device):
    """Time one call, up to the end of what it started on the device."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(name, shape, args, device):
    """Return one row of the table: both speeds and their ratio."""
    draw = torch.randn if name == "vector" else torch.rand
    on_cpu = draw(args.batch_size, *shape)
    on_device = on_cpu.to(device)
    recipe = RECIPES[name]()
    pipeline = torchvision_pipeline(name, shape[1:])

    def ours():
        return recipe(on_device)

    def theirs():
        return torch.stack([pipeline(image) for image in on_cpu])

    seconds(ours, device), seconds(theirs, device)  # first calls allocate
    pairs = [
        (seconds(ours, device), seconds(theirs, device)) for _ in range(args.repeats)
    ]
    ours_s, theirs_s = zip(*pairs, strict=True)
    return {
        "recipe": name,
        "shape": list(shape),
        "ours_images_per_s": args.batch_size / statistics.median(ours_s),
        "torchvision_images_per_s": args.batch_size / statistics.median(theirs_s),
        "ratio": statistics.median(theirs_s) / statistics.median(ours_s),
        "ours_seconds": ours_s,
        "torchvision_seconds": theirs_s,
    }


def main():
    """Measure, print the table and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu", help="of ours: cpu or cuda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="PATH", help="write a record of the run")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    hardware = platform.processor() or platform.machine()
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)

    print(
        f"{'recipe':8} {'shape':>12} {'ours/s':>10} {'torchvision/s':>14} {'ratio':>6}"
    )
    rows = []
    for name in RECIPES:
        for shape in VECTORS if name == "vector" else IMAGES:
            row = measure(name, shape, args, device)
            rows.append(row)
            print(
                f"{name:8} {'x'.join(map(str, shape)):>12} "
                f"{row['ours_images_per_s']:10.0f} "
                f"{row['torchvision_images_per_s']:14.0f} {row['ratio']:6.1f}"
            )
    if args.json:
        record = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "device": str(device),
            "hardware": hardware,
            "threads": args.threads,
            "seed": args.seed,
            "batch_size": args.batch_size,
            "repeats": args.repeats,
            "rows": rows,
        }
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    main()
