"""What the command line takes: seconds of each stage, and memory.

1. A folder of JPEG files of mixed sizes, odd ones among them (broken, cut, animated,
   transparent, turned by EXIF, 16 bits, names that are no ASCII), by one command:
   features of EfficientNet-lite0, SCL, a map, tables and the report. Then again with
   the cache of features, and ``predict`` on a tenth of them.
   With ``--peers``, also tasnif on the same folder, by the same features:
   PCA and k-means, folders of symbolic links, and a grid of each cluster.
2. Many small PNG files: ``cluster`` with the same network at 32 pixels and few epochs,
   then ``report`` and ``sort`` alone.

    python examples/benchmarks/bench_cli.py --json records/cli.json

All images are generated. Each command is a process of its own; its seconds are wall
seconds, from the start of Python on, its memory is the peak of resident memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import record
from PIL import Image

KINDS = 10
TASNIF = """
import sys
from itertools import islice
import numpy as np
from skdeepcluster import ImageEncoder
from tasnif import TasnifClusterer

class Embedder:
    name, dim, device = "efficientnet_lite0", 1280, "cpu"

    def embed(self, images, *, batch_size=32, show_progress=True):
        encoder, images, rows = ImageEncoder(), iter(images), []
        while batch := list(islice(images, batch_size)):
            rows.append((encoder.transform if rows else encoder.fit_transform)(batch))
        return np.vstack(rows)

photos, out, k = sys.argv[1:]
model = TasnifClusterer(int(k), embedder=Embedder(), show_progress=False).fit(photos)
model.export(out, mode="symlink")
print(len(model.labels_), "images,", len(model.skipped_), "skipped")
"""
COLOURS = np.random.default_rng(7).integers(40, 216, (KINDS, 2, 3))


def draw(kind, rng, width, height):
    """Stripes or spots of two colours: the kind tells which, and how wide."""
    small = [max(1, side * 160 // max(width, height)) for side in (width, height)]
    y, x = np.mgrid[: small[1], : small[0]] / max(small)
    turn, period = rng.uniform(0, 0.3) + kind % 5 * 0.6, 0.08 + 0.04 * (kind // 5)
    waves = np.sin(2 * np.pi * (x * np.cos(turn) + y * np.sin(turn)) / period)
    if kind % 2:
        waves = waves * np.sin(2 * np.pi * (y * np.cos(turn) - x * np.sin(turn)))
    mix = (waves[..., None] + 1) / 2
    first, second = COLOURS[kind] + rng.integers(-30, 31, (2, 3))
    pixels = first * mix + second * (1 - mix) + rng.normal(0, 8, (*x.shape, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((width, height))


def make_photos(folder, n, seed):
    """Write ``n`` JPEG files of 240 to 1600 pixels in ten subfolders, and odd ones."""
    rng = np.random.default_rng(seed)
    for part in range(10):
        (folder / f"part {part}").mkdir(parents=True)
    for i in range(n):
        width, height = np.sort(rng.integers(240, 1601, 2))[:: rng.choice([-1, 1])]
        image = draw(i % KINDS, rng, int(width), int(height))
        image.save(folder / f"part {rng.integers(10)}" / f"DSC{i:05}.jpg", quality=85)
    some = [draw(k, rng, 300, 200) for k in range(KINDS)]
    for k, image in enumerate(some):
        image.convert("RGBA").rotate(20).save(folder / f"clear {k}.png")
        exif = Image.Exif()
        exif[0x0112] = 1 + k % 8
        image.save(folder / f"turned {k}.jpg", exif=exif)
        frames = [frame.convert("P") for frame in some[:4]]
        frames[0].save(folder / f"film {k}.gif", save_all=True, append_images=frames)
        deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
        Image.fromarray(deep).save(folder / f"deep {k}.png")
        image.save(folder / f"naïve, “{k}” ☃ <b>.webp")
        (folder / f"broken {k}.jpg").write_bytes(bytes(k * 100))
        whole = folder / f"turned {k}.jpg"
        (folder / f"cut {k}.jpg").write_bytes(whole.read_bytes()[:5000])
    (folder / "notes.txt").write_text("no image")


def make_small(folder, n, seed):
    """Write ``n`` PNG files of 32 x 32 pixels, 1000 in a subfolder."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        part = folder / f"{i // 1000:03}"
        part.mkdir(parents=True, exist_ok=True)
        draw(i % KINDS, rng, 32, 32).save(part / f"{i:06}.png", compress_level=1)


def run(name, *argv, of=("-m", "skdeepcluster")):
    """Run a command of Python; what it took."""
    command = [sys.executable, *of, *map(str, argv)]
    before = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}")
    took = {
        "command": name,
        "seconds": round(time.perf_counter() - before, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
    }
    print(took, flush=True)
    return took


def described(result):
    run = json.loads((result / "run.json").read_text())
    return {
        "stages": run["seconds"],
        "counts": {k: v for k, v in run["counts"].items() if k != "sizes"},
        "report_mb": round((result / "report.html").stat().st_size / 1e6, 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--small", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", action="store_true", help="run tasnif, too")
    parser.add_argument("--json", help="record to write")
    args = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if args.photos:
            photos, result = folder / "photos", folder / "result"
            make_photos(photos, args.photos, args.seed)
            cluster = ["cluster", photos, "-k", KINDS, "--method", "scl"]
            cluster += ["--cache", folder / "cache"]
            took = run("cluster", *cluster, "--out", result)
            runs.append({"images": "photos", **took, **described(result)})
            again = run("cluster, cached", *cluster, "--out", result, "--overwrite")
            runs.append({"images": "photos", **again, **described(result)})
            took = run("predict", "predict", result, photos / "part 0")
            runs.append({"images": "photos", **took})
            if args.peers:
                peer = ["-c", TASNIF]
                took = run("tasnif", photos, folder / "tasnif", KINDS, of=peer)
                runs.append({"images": "photos", **took})
        if args.small:
            small, result = folder / "small", folder / "result of small"
            make_small(small, args.small, args.seed)
            options = ["--method", "scl", "--size", 32, "--epochs", 5, "--out", result]
            took = run("cluster", "cluster", small, "-k", KINDS, *options)
            runs.append({"images": "small", **took, **described(result)})
            runs.append({"images": "small", **run("report", "report", result)})
            for how in ("link", "copy"):
                dest = folder / f"sorted by {how}"
                took = run(f"sort --{how}", "sort", result, f"--{how}", dest)
                runs.append({"images": "small", **took})
            took = run("undo", "undo", dest)
            runs.append({"images": "small", **took})
    record.write(
        args.json,
        script="examples/benchmarks/bench_cli.py",
        arguments={k: v for k, v in vars(args).items() if k != "json"},
        environment=record.environment(),
        runs=runs,
    )


if __name__ == "__main__":
    main()
