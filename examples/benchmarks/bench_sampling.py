"""Time how long a diffusion model takes to draw images, and write a JSON record.

The weights do not matter for the time: they are those of an untrained model.

    python examples/benchmarks/bench_sampling.py --json records/sampling.json
"""

import argparse
import statistics
import time

import record
import torch

from skdeepcluster._engine.device import resolve_device
from skdeepcluster._engine.randomness import seeded
from skdeepcluster.gcc import Generated
from skdeepcluster.gcc.denoisers import resolve_denoiser
from skdeepcluster.gcc.diffusion import ConditionalDiffusion

DEFAULT = Generated()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1000, help="images")
    parser.add_argument("--shape", type=int, nargs=3, default=(1, 28, 28))
    parser.add_argument("--denoisers", nargs="+", default=["auto"])
    parser.add_argument("--steps", type=int, default=DEFAULT.sampling_steps)
    parser.add_argument("--guidance", type=float, default=DEFAULT.guidance_scale)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device, rows = resolve_device(args.device), []
    for name in args.denoisers:
        denoiser = resolve_denoiser(name, tuple(args.shape), device)
        with seeded(0):
            model = ConditionalDiffusion(tuple(args.shape), 10, denoiser).to(device)
            model = model.eval().to(memory_format=torch.channels_last)
            labels = torch.arange(args.n, device=device) % 10
            settings = args.guidance, args.steps, DEFAULT.sampler
            model.sample_all(labels[:64], *settings)  # warm up
            walls, cpus = [], []
            for _ in range(args.repeats):
                wall, cpu = time.perf_counter(), time.process_time()
                model.sample_all(labels, *settings).cpu()
                walls.append(time.perf_counter() - wall)
                cpus.append(time.process_time() - cpu)
        rows.append(
            {
                "denoiser": denoiser,
                "n": args.n,
                "shape": list(args.shape),
                "steps": args.steps,
                "guidance": args.guidance,
                "seconds": statistics.median(walls),
                "all_seconds": walls,
                "cpu_seconds": statistics.median(cpus),
            }
        )
        print(rows[-1], flush=True)
    record.write(
        args.json,
        script="examples/benchmarks/bench_sampling.py",
        arguments={k: v for k, v in vars(args).items() if k != "json"},
        environment=record.environment(device),
        rows=rows,
    )


if __name__ == "__main__":
    main()
