"""What two processes do in the tests of trainings over several: run as a script."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path

import h5py
import numpy as np
import torch
import torch._dynamo  # as the first step of an optimiser does: once for all of them
import torch.distributed as dist
from estimators import SMALL, SMALL_FACETS, SMALL_GCC
from PIL import Image
from sklearn.base import clone
from skorch.callbacks import Callback
from test_documentation import ROOT, snippets
from torch import nn

from skdeepcluster import GCC, MFCVAE, SCL, DigPro, ImageEncoder, StatDEC
from skdeepcluster._engine import distributed, guard, shares, waiting
from skdeepcluster._engine.net import TrainingNet
from skdeepcluster._engine.randomness import seeded
from skdeepcluster.base import Budget

N, BATCH = 130, 13  # ten steps an epoch; two processes cannot have as many rows each
COMMON = {"batch_size": BATCH, "device": "cpu", "precision": "float32", "max_epochs": 2}
CONV = {"backbone": "conv", "warmup": 0.5}
DESCENT = {"net_params": {"optimizer": torch.optim.SGD}, "lr": 3e-3}
FIT = {
    "DigPro": DigPro(**{**SMALL, **COMMON, **CONV}),
    "SCL": SCL(**{**SMALL, **COMMON, **CONV}),
    "StatDEC": StatDEC(**{**SMALL, **COMMON, **CONV}),
    "MFCVAE": MFCVAE(**{**SMALL_FACETS, **COMMON}),
    "GCC": GCC(**{**SMALL_GCC, **COMMON, "backbone": "conv", "pretraining": 0.5}),
}


def make_images():
    """Images (N, 1, 8, 8), uint8, of three kinds of stripes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (N, 1, 8, 8))
    for kind, rows in enumerate((slice(0, 3), slice(3, 5), slice(5, 8))):
        images[kind::3, :, rows] += 150
    return images.astype(np.uint8)


X = make_images()


@contextlib.contextmanager
def float64():
    """Compute all that is float32 in float64: nothing is left of the rounding."""
    single, pinned = torch.Tensor.float, guard._float32
    torch.Tensor.float, guard._float32 = torch.Tensor.double, contextlib.nullcontext
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.Tensor.float, guard._float32 = single, pinned


@contextlib.contextmanager
def recorded():
    """Collect the loss of every step of the trainings inside."""
    values, step = [], TrainingNet.train_step_single

    def recording(self, batch, **params):
        out = step(self, batch, **params)
        values.append(out["loss"].item())
        return out

    TrainingNet.train_step_single = recording
    try:
        yield values
    finally:
        TrainingNet.train_step_single = step


def fitted(model, losses=()):
    """What a fit came to."""
    running = [
        value.flatten()
        for name, value in model.net_.module_.state_dict().items()
        if "running_" in name
    ]
    return {
        "losses": list(losses),
        "labels": model.labels_.tolist(),
        "running": torch.cat(running).tolist() if running else [],
        "seconds": [row["seconds"] for row in model.history_],
    }


def train(name, **params):
    """Fit one of FIT, and tell the loss of every step."""
    with recorded() as losses:
        model = clone(FIT[name]).set_params(**params).fit(X)
    return fitted(model, losses)


# -- the same as in one process --------------------------------------------------------


def alike():
    """Train each method, by plain descent in float32 and as ever in float64."""
    found = {}
    for name in FIT:
        with float64():
            found[f"{name} float64"] = train(name)
    for name in ("DigPro", "SCL", "StatDEC"):
        found[f"{name} float32"] = train(name, **DESCENT)
    return found


def stored(folder):
    """Train on an array of h5py, of which each process reads a part of a batch."""
    file = h5py.File(folder / f"X{os.environ['RANK']}.h5", "w")
    data = file.create_dataset("X", data=X, chunks=(10, 1, 8, 8))
    parts, get = [], shares.PartlyRead.__getitem__

    def counted(self, index):
        raw, index = get(self, index)
        parts.append(len(raw))
        return raw, index

    shares.PartlyRead.__getitem__ = counted
    with recorded() as losses:
        model = clone(FIT["SCL"]).set_params(**DESCENT)
        model.fit(data)
    shares.PartlyRead.__getitem__ = get
    return fitted(model, losses) | {"parts": parts}


def encoded(folder):
    """Encode files, of which one is none, as a pipeline does: with a cache, twice."""
    rank, counts = os.environ.get("RANK", "0"), []
    photos = [folder / f"{rank}-{number}.png" for number in range(10)]
    for path, image in zip(photos, X, strict=False):
        Image.fromarray(image[0]).save(path)
    photos[3].write_text("no image")
    encoder = ImageEncoder(
        nn.Sequential(nn.AvgPool2d(4), nn.Flatten()),
        batch_size=2,
        device="cpu",
        precision="float32",
        on_error="skip",
        cache=folder / "cache",
    )
    found = {"features": [], "own": [], "skipped": []}
    run = ImageEncoder._checked

    def counted(self, features):
        counts.append(len(features))
        return run(self, features)

    ImageEncoder._checked = counted
    for _ in range(2):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            found["features"].append(encoder.fit_transform(photos).tolist())
        found["own"].append(sum(counts))
        found["skipped"].append([row for row, _, _ in encoder.skipped_])
        counts.clear()
    ImageEncoder._checked = run
    if rank == "0":
        with warnings.catch_warnings(action="ignore"):
            found["alone"] = encoder.transform(photos).tolist()
    encoder.set_params(on_error="raise", cache=None)
    refused = outcome(encoder, photos, "fit_transform")["error"]
    return found | {"warnings": len(seen), "refused": refused}


def uneven():
    """Encode where process 1 takes longer than another waits, but not for a block."""
    run = ImageEncoder._checked

    def slow(self, features):
        time.sleep(0.6 * distributed.current().rank)
        return run(self, features)

    ImageEncoder._checked = slow
    network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    encoder = ImageEncoder(network, batch_size=2, device="cpu", precision="float32")
    shape = encoder.fit_transform(X[:20]).shape
    ImageEncoder._checked = run
    return shape


class Doubtful(nn.Module):
    """A backbone that draws in training."""

    def __init__(self):
        super().__init__()
        layers = nn.Flatten(), nn.Linear(64, 12), nn.Dropout(0.5), nn.BatchNorm1d(12)
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


def own_networks():
    """Train a network of the user's, whose weights are others in each process."""
    torch.manual_seed(int(os.environ["RANK"]))
    backbone = Doubtful()
    with recorded() as losses, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model = clone(FIT["SCL"]).set_params(backbone=backbone, max_epochs=1).fit(X)
    return fitted(model, losses) | {"warnings": len(seen)}


def gradients():
    """Outputs and gradients of two networks in turn, and of what is outside of them."""
    torch.manual_seed(0)
    x = torch.randn(7, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    first = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5))
    last = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(45, affine=False, momentum=None))
    weight = nn.Parameter(torch.randn(45, 2))
    both = nn.ModuleList([first, last]).double()
    with distributed.joined(), seeded(0):
        y = shares.in_shares(first, x)
        z = shares.in_shares(last, y)
        ((z @ weight.double()).sin().sum() + (y * x[:, :1]).square().mean()).backward()
        size = 1 if distributed.current() is None else distributed.current().size
        for parameter in [*both.parameters()]:  # as the replicas of an objective do
            if size > 1:
                parameter.grad = distributed.current().sum(parameter.grad) / size
    tensors = [y, z, x.grad, weight.grad, *(p.grad for p in both.parameters())]
    tensors += [b.double() for b in both.buffers()]
    return [tensor.detach().flatten().tolist() for tensor in tensors]


# -- how they end ----------------------------------------------------------------------


class SlowInOne:
    """Images that process 1 reads more slowly than another waits in training."""

    def __len__(self):
        return N

    def __getitem__(self, row):
        time.sleep(0.03 * int(os.environ["RANK"]))
        return Image.fromarray(X[row, 0])


def slow_to_read():
    """Fit where one waits longer than in training, and says so."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = outcome(small(max_epochs=1), SlowInOne())
    return found | {"warnings": [str(w.message) for w in seen]}


def of_another_class():
    """Encode in process 0, and fit a clusterer in process 1."""
    if os.environ["RANK"] == "1":
        return outcome(small())
    network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    return outcome(ImageEncoder(network, device="cpu"), method="fit_transform")


def also_terminated(*args, say_goodbye=waiting.say_goodbye):
    """Get a SIGTERM while the others are waited for at the end."""
    terminated()
    say_goodbye(*args)


class At(Callback):
    """Do something in process 1, before a step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_batch_begin(self, net, **kwargs):
        if net.module_.clock.step == self.step and distributed.current().rank == 1:
            self.act()


def outcome(model, X=X, method="fit"):
    """The error of a fit, and how long it took to come."""
    began = time.monotonic()
    try:
        getattr(model, method)(X)
    except BaseException as error:
        told = f"{type(error).__name__}: {error}"
        fit = getattr(error, "estimator", None)
        found = {} if fit is None else fitted(fit)
        return found | {"error": told, "seconds": time.monotonic() - began}
    return fitted(model)


def fail():
    raise ValueError("no more paper")


def offline():
    raise RuntimeError("connection to the database timed out: socket closed")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def terminated():
    os.kill(os.getpid(), signal.SIGTERM)


def small(**params):
    return clone(FIT["SCL"]).set_params(**{**COMMON, "max_epochs": 4, **params})


def ends(folder):
    """Fit as one process does, and in ways that fail; last, process 1 is killed."""
    rank = int(os.environ["RANK"])
    found = alike() | {"dropout": own_networks(), "gradients": gradients()}
    found["stored"], found["encoded"] = stored(folder), encoded(folder)
    pooled = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    found["frozen"] = outcome(small(backbone=pooled, trainable="none", max_epochs=1))
    found["whole"] = outcome(small())
    found["other"] = outcome(small(n_clusters=3 + rank))
    found["shuffled"] = outcome(small(), np.roll(X, rank, axis=0))
    changed = np.where(np.arange(N)[:, None, None, None] == 16 * rank, 0, X)
    found["one row"] = outcome(small(), changed)
    own = {"lr": (1e-3, np.float64(1e-3))[rank], "max_epochs": 1}
    found["equal"] = outcome(small(**own))
    decay = {"net_params": {"optimizer__weight_decay": np.float64(0.5) * rank}}
    found["other net"] = outcome(small(**decay))
    found["other views"] = outcome(small(augment=("weak", make_images)[rank]))
    found["invalid"] = outcome(small(n_clusters=(3, -1)[rank]))
    found["other class"] = of_another_class()
    found["error"] = outcome(small(callbacks=[At(5, fail)]))
    found["own"] = outcome(small(callbacks=[At(5, offline)]))
    distributed.TIMEOUT, waiting.NOTICE = timedelta(seconds=2), timedelta(seconds=1)
    found["slow to read"] = slow_to_read()
    found["uneven"] = uneven()
    found["slow"] = outcome(small(callbacks=[At(5, lambda: time.sleep(4))]))
    tell(folder, found)
    kept = {"checkpoint": folder / "checkpoint", "checkpoint_every": 0}
    waiting.say_goodbye = also_terminated
    found["killed"] = outcome(small(callbacks=[At(25, killed)], **kept))
    return found


def listed(folder):
    """Run what the guide shows of a list that each process has a part of."""
    os.chdir(folder)
    Budget.in_epochs = lambda self, steps_per_epoch: 1
    page = ROOT / "doc" / "several_processes.rst"
    (snippet,) = (part for part in snippets(page) if "all_gather_object" in part)
    scope = {}
    exec(snippet, scope)
    names = {key: [path.name for path in scope[key]] for key in ("own", "paths")}
    return names | {"labels": scope["model"].labels_.tolist()}


def goes_on(folder):
    """Resume, as two processes that were started again; then end by a signal."""
    found = {"listed": listed(folder)}
    kept = {"checkpoint": folder / "checkpoint", "checkpoint_every": 0}
    with recorded() as losses:
        found["resumed"] = outcome(small(**kept))
    found["resumed"]["losses"] = losses
    found["signal"] = outcome(small(callbacks=[At(15, terminated)]))
    return found


def absent(folder):
    """Fit in process 0 alone; process 1 looks for it where nobody is.

    Then within a group of the caller's: alone, too late, and both of them.
    """
    waiting.MEETING = timedelta(seconds=2)
    rank, found, port = int(os.environ["RANK"]), {}, os.environ["MASTER_PORT"]
    if rank == 0:
        found["alone"] = outcome(small())
    else:
        with socket.socket() as probe:  # a port at which nobody listens
            probe.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(probe.getsockname()[1])
            found["nobody"] = outcome(small())
    os.environ["MASTER_PORT"] = port
    del os.environ["RANK"]  # as the guide says
    found["by itself"] = outcome(small(n_clusters=2 + rank, max_epochs=1))
    os.environ["RANK"] = str(rank)
    dist.init_process_group("gloo", timeout=timedelta(minutes=1))
    for there in (0, 1):
        if rank == there:
            found["one after the other"] = outcome(small())
        dist.barrier()
    found["both"] = outcome(small(max_epochs=1))
    found["size"] = dist.get_world_size()  # the group is still there
    dist.destroy_process_group()
    return found


def tell(folder, found):
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


def forked():
    """Fork two processes for each order that is read, and print how they ended.

    What all of them import is imported once.

    Returns
    -------
    scenario, folder : str, Path
        Those of the order, in each of the processes; then none, where they are from.
    """
    for order in sys.stdin:
        scenario, folder, group = json.loads(order)
        children = []
        for rank in ("0", "1"):
            children.append(os.fork())
            if children[-1] == 0:
                signal.alarm(300)
                os.environ.update(group, RANK=rank, LOCAL_RANK=rank)
                with open(Path(folder, f"{rank}.txt"), "w") as said:
                    for stream in (sys.stdout, sys.stderr):
                        os.dup2(said.fileno(), stream.fileno())
                return scenario, Path(folder)
        ends = [os.waitpid(child, 0)[1] for child in children]
        print(json.dumps([os.waitstatus_to_exitcode(end) for end in ends]), flush=True)
    return None, None


if __name__ == "__main__":
    scenario, where = forked()
    if scenario is not None:
        tell(
            where, {"ends": ends, "goes_on": goes_on, "absent": absent}[scenario](where)
        )
