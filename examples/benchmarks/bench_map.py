"""How many images t-SNE should take for the map of the command line.

The others are placed among their nearest neighbours. For the embedding of SCL on
features of photographs (see extract_features.py): CPU seconds, and the trustworthiness
of the map, which is 1 if neighbours there are neighbours in the embedding.

    python examples/benchmarks/bench_map.py --features FOLDER --json records/map.json
"""

import argparse
import time
from pathlib import Path

import numpy as np
import record
from sklearn.manifold import trustworthiness

from skdeepcluster import SCL
from skdeepcluster.cli import maps

SETS = ("imagenette", "cifar_train")
MAPPED = (250, 500, 1000, 2000, 5000)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", help="record to write")
    args = parser.parse_args()
    runs = []
    for name in args.sets:
        X = np.load(args.features / f"{name}.npz")["X"]
        embedding = SCL(10, device="cpu", random_state=0).fit(X).transform(X)
        for seed in args.seeds:
            for kind, mapped in [("pca", len(X)), *(("tsne", n) for n in MAPPED)]:
                maps.MAPPED, before = mapped, time.process_time()
                positions = maps.make_map(embedding, kind, seed)
                seconds = time.process_time() - before
                kept = trustworthiness(embedding, positions, n_neighbors=10)
                run = {"set": name, "seed": seed, "map": kind, "mapped": mapped}
                run |= {"images": len(X), "cpu_seconds": round(seconds, 2)}
                runs.append({**run, "trustworthiness": round(float(kept), 4)})
                print(runs[-1], flush=True)
    record.write(
        args.json,
        script="examples/benchmarks/bench_map.py",
        arguments={"sets": list(args.sets), "seeds": args.seeds},
        environment=record.environment(),
        runs=runs,
    )


if __name__ == "__main__":
    main()
