"""Time the graph of nearest neighbours, exact and by faiss, and what faiss misses.

Rows lie around the centres of clusters of few dimensions each, under noise. How many
of the nearest neighbours faiss finds is counted on 1000 of the rows. Exact graphs of
more than ``--exact`` rows are left out: their time grows with the square.

    python examples/benchmarks/bench_neighbors.py --json records/neighbors.json
"""

import argparse
import time

import faiss
import record
import torch
from torch.nn import functional as F

from skdeepcluster import neighbors

K = 10
N_CLUSTERS, DIMENSIONS, NOISE = 100, 12, 0.3
SAMPLE = 1000


def rows_of(n, d, seed):
    """Unit rows of clusters, each spread along a few directions of its own."""
    own = torch.Generator().manual_seed(seed)
    centers = F.normalize(torch.randn(N_CLUSTERS, d, generator=own), dim=1)
    directions = torch.randn(N_CLUSTERS, DIMENSIONS, d, generator=own) / d**0.5
    rows = NOISE * torch.randn(n, d, generator=own) / d**0.5
    owners = torch.randint(N_CLUSTERS, (n,), generator=own)
    along = 0.5 * torch.randn(n, DIMENSIONS, generator=own)
    for k in range(N_CLUSTERS):
        mine = owners == k
        rows[mine] += centers[k] + along[mine] @ directions[k]
    return F.normalize(rows, dim=1)


def recall(rows, found):
    """Share of the nearest neighbours of some rows that was found."""
    some = torch.arange(0, len(rows), max(1, len(rows) // SAMPLE))[:SAMPLE]
    similarity = rows[some] @ rows.T
    similarity[torch.arange(len(some)), some] = -2.0
    nearest = similarity.topk(K, dim=1).indices
    return (found[some].unsqueeze(2) == nearest.unsqueeze(1)).sum().item() / (
        K * len(some)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    sizes = ["10000x64", "100000x64"]
    parser.add_argument("--sizes", nargs="+", default=sizes, help="rows x width")
    parser.add_argument("--exact", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)

    def run(size, search):
        n, d = map(int, size.split("x"))
        rows = rows_of(n, d, args.seed)
        neighbors.MAX_EXACT = n if search == "exact" else 0
        began, cpu = time.perf_counter(), time.process_time()
        found = neighbors.nearest_neighbors(rows, K)
        return {
            "n": n,
            "width": d,
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu,
            "recall": recall(rows, found),
        }

    keys = [
        (size, search)
        for size in args.sizes
        for search in ("exact", "faiss")
        if search == "faiss" or int(size.split("x")[0]) <= args.exact
    ]
    record.resume(args, "bench_neighbors.py", ("size", "search"), keys, run)


if __name__ == "__main__":
    main()
