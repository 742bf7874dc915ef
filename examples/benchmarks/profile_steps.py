"""Where a step of each method goes: its kinds of operators, on the CPU in float32.

Each method fits grey images with default settings, but for few epochs. Steps of the
last two are measured, which come after its warm-up; of GCC they are of stage I. The
seconds of a step are of the processor and without the profiler, which gives the shares.
What no operator explains is *the rest*: Python, the profiler, and reading the batch.
Beside them stand

- *networks alone*: forward and backward passes of the same networks over views that are
  there already, to a sum in place of the losses;
- *refresh*: what follows an epoch, and the embedding of all images that it begins with;
  the median over the epochs.

    python examples/benchmarks/profile_steps.py --packs FOLDER --json profile.json

What the record has is not run again.
"""

import argparse
import statistics
import time
from collections import defaultdict
from functools import partial

import record
import torch
from real_images import read
from skorch.callbacks import Callback
from torch.profiler import ProfilerActivity, profile, record_function

from skdeepcluster import GCC, MFCVAE, SCL, DigPro, StatDEC
from skdeepcluster.mfcvae.module import MFCVAEModule
from skdeepcluster.statdec.pooling import GridStatistics

SKIPPED = 5  # steps of an epoch, first
METHODS = {
    "DigPro": (DigPro, {"max_epochs": 3, "warmup": 0.34}),
    "SCL": (SCL, {"max_epochs": 3, "warmup": 0.34}),
    "StatDEC": (StatDEC, {"max_epochs": 3, "warmup": 0.34}),
    "MFCVAE": (MFCVAE, {"max_epochs": 6}),
    "GCC, stage I": (GCC, {"max_epochs": 3, "pretraining": 1.0}),
}
NETWORKS = {  # what sends views through the networks of a step
    "DigPro": lambda m, views: [m.run(m.online, view) for view in views],
    "SCL": lambda m, views: heads(m, m.features(torch.cat(views))),
    "StatDEC": lambda m, views: [m.run(m.online, view) for view in views],
    "MFCVAE": lambda m, views: [m.generate(m.posterior(views[0]).chunk(2, 1)[0])],
    "GCC, stage I": lambda m, views: [m.run(m.online, torch.cat(views))],
}
# a kind of operators -> how the names of the events begin that open it
KINDS = {
    "views": ["views"],
    "statistics pooling": ["pooling"],
    "mixture priors": ["priors"],
    "convolutions, forward": ["aten::conv2d", "aten::conv_transpose2d"],
    "convolutions, backward": ["ConvolutionBackward"],
    "batch norm": ["aten::batch_norm", "NativeBatchNormBackward"],
    "matrix products": ["aten::linear", "aten::matmul", "aten::mm", "aten::addmm"]
    + ["MmBackward", "AddmmBackward"],
    "ReLU, ELU and clamps": ["aten::relu", "aten::elu", "aten::clamp", "aten::softplus"]
    + ["ReluBackward", "EluBackward", "ClampBackward", "ClampMinBackward"],
    "averages": ["aten::_foreach_lerp_"],
    "optimiser": ["Optimizer."],
}
LABELLED = "statistics pooling", "mixture priors"
OTHER = "other operators"
ENGINE = "autograd::engine::evaluate_function: "
STEP = "losses and gradients"  # skorch has them inside of the optimiser's step


def heads(module, h):
    """Embeddings and log-probabilities of SCL."""
    return [module.embedding(h), module.log_boundary(h)]


def labelled(owner, name, label):
    """Give a method of an object a label in the profile."""
    method = getattr(owner, name)

    def call(*args, **kwargs):
        with record_function(label):
            return method(*args, **kwargs)

    setattr(owner, name, call)


def kinds_of(events):
    """Microseconds of each kind: operators within others belong to the outer ones."""
    events, gradients = list(events), {}

    def kind_of(event):
        found = None
        while event is not None and event.name != STEP:
            name = event.name.removeprefix(ENGINE)
            named = (k for k, v in KINDS.items() if name.startswith(tuple(v)))
            found = gradients.get(id(event)) or next(named, found)
            event = event.cpu_parent
        return found

    # gradients have the number of their forward pass
    parts = {e.sequence_nr: kind_of(e) for e in events if kind_of(e) in LABELLED}
    parts.pop(-1, None)
    for event in events:
        if event.name.startswith(ENGINE) and event.sequence_nr in parts:
            gradients[id(event)] = parts[event.sequence_nr]
    sums = defaultdict(float)
    for event in events:
        if event.name not in (STEP, "views", "pooling", "priors"):
            sums[kind_of(event) or OTHER] += event.self_cpu_time_total
    return sums


class Steps(Callback):
    """Profile some steps of one epoch, time those of another, and each refresh."""

    def __init__(self, n_steps):
        self.n_steps = n_steps

    def on_train_begin(self, net, **kwargs):
        self.began, self.embeddings, self.refreshes = [], [], []
        labelled(net, "make_batch", "views")
        labelled(net, "train_step_single", STEP)
        for part in net.module_.modules():
            if isinstance(part, GridStatistics):
                labelled(part, "forward", "pooling")
            if isinstance(part, MFCVAEModule):
                labelled(part, "bound", "priors")
        report, evaluate = net.report, net.evaluate

        def timed_evaluate(*args, **kwargs):
            began = time.process_time()
            out = evaluate(*args, **kwargs)
            self.embeddings.append(time.process_time() - began)
            return out

        def timed_report(images):
            self.embeddings, began = [], time.process_time()
            out = report(images)
            refresh = time.process_time() - began
            self.refreshes.append((refresh, list(self.embeddings)))
            return out

        net.report, net.evaluate = timed_report, timed_evaluate

    def on_batch_begin(self, net, batch=None, **kwargs):
        clock, step = net.module_.clock, len(net.history[-1, "batches"]) - 1
        left = clock.max_epochs - clock.epoch
        if left == 1:
            self.began.append(time.process_time())
        if left == 2 and step == SKIPPED:
            self.profile = profile(activities=[ProfilerActivity.CPU])
            self.profile.start()
            self.wall = -time.perf_counter()
        if left == 2 and step == SKIPPED + self.n_steps:
            self.wall += time.perf_counter()
            self.profile.stop()
        self.batch = batch  # the last one is kept, for the networks alone

    def on_train_end(self, net, **kwargs):
        self.views = net.make_batch(*self.batch).views

    def steps(self):
        """Seconds of each step that was timed."""
        pairs = zip(self.began[SKIPPED:], self.began[SKIPPED + 1 :], strict=False)
        return [end - begin for begin, end in pairs]


def alone(name, module, views, n_steps):
    """Median seconds of the networks' forward and backward passes."""
    module.train().requires_grad_()
    times = []
    for _ in range(SKIPPED + n_steps):
        module.zero_grad()
        began = time.process_time()
        sum(out.sum() for out in NETWORKS[name](module, views)).backward()
        times.append(time.process_time() - began)
    return statistics.median(times[SKIPPED:])


def measure(args, name):
    """Fit one method, and return what its steps and refreshes took."""
    cls, changed = METHODS[name]
    X, _ = read(args.packs, args.pack, args.n, args.seed)
    steps = Steps(args.steps)
    model = cls(10, device="cpu", precision="float32", random_state=args.seed)
    model.set_params(callbacks=[("steps", steps)], **changed).fit(X)
    seconds = statistics.median(steps.steps())
    sums, wall = kinds_of(steps.profile.events()), 1e6 * steps.wall
    kinds = {kind: sums[kind] / wall for kind in (*KINDS, OTHER) if sums[kind]}
    kinds["the rest"] = 1 - sum(kinds.values())
    # those at the ends of warm-up and training may do more
    refresh, embeddings = sorted(steps.refreshes)[len(steps.refreshes) // 2]
    module = model.net_.module_
    row = {
        "batch_size": module.p.batch_size,
        "steps_per_epoch": module.clock.steps_per_epoch,
        "step_seconds": seconds,
        "shares": kinds,
        "networks_alone_seconds": alone(name, module, steps.views, args.steps),
        "refresh_seconds": refresh,
        "embedding_seconds": sum(embeddings),
        "embeddings": len(embeddings),
    }
    show(name, row)
    return row


def show(name, row):
    """Print the table of one method."""
    step = row["step_seconds"]
    lines = {kind: step * share for kind, share in row["shares"].items()}
    lines = dict(sorted(lines.items(), key=lambda line: -line[1]))
    lines["networks alone"] = row["networks_alone_seconds"]
    lines["refresh, by steps"] = row["refresh_seconds"] / row["steps_per_epoch"]
    lines["embedding in it"] = row["embedding_seconds"] / row["steps_per_epoch"]
    print(f"\n{name}: {1000 * step:.1f} ms a step")
    for kind, seconds in lines.items():
        print(f"  {kind:26s} {1000 * seconds:7.2f} ms {seconds / step:6.1%}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packs", required=True, help="folder of the .npz files")
    parser.add_argument("--pack", default="mnist_train")
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keys = [(name,) for name in args.methods]
    record.resume(args, "profile_steps.py", ("method",), keys, partial(measure, args))


if __name__ == "__main__":
    main()
