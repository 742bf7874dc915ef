"""A step of a training queues work on a GPU: neither of the two waits for the other.

Where there is no GPU, the tensors of a twin of the net are on the device "meta", where
they have no values: what reads one raises, as do indices by a mask. What raises nothing
there but waits on a GPU is refused by a mode of torch: copies to the device that wait,
draws without replacement, and assignments by a mask.

What waits, and may: the first step, which moves the noise schedule of a diffusion model
and makes the state of the optimiser; what is between two epochs; and, of DigPro with
``group_reset``, the k-means of its bank, which asks in each iteration whether a label
changed.
"""

import contextlib
import copy

import numpy as np
import pytest
import torch
from estimators import ESTIMATORS, NAMES, each_estimator, make_stripes
from sklearn.base import clone
from skorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from skdeepcluster import GCC
from skdeepcluster._engine.net import TrainingNet
from skdeepcluster._engine.randomness import Generators
from skdeepcluster._engine.readings import Readings
from skdeepcluster._input.images import Images
from skdeepcluster.augment import Neighbors, simclr, vector

aten = torch.ops.aten
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)
STRIPES = make_stripes()[0]
DATA = {
    "grey": STRIPES,
    "colour": np.stack([STRIPES, STRIPES[:, ::-1], 255 - STRIPES], axis=1),
    "vectors": STRIPES.reshape(len(STRIPES), -1)[:, ::3] / 255.0,
}
SMALL = {name: clone(one) for name, one in zip(NAMES, ESTIMATORS, strict=True)}


class Waiting(Exception):
    """An operation waits on a GPU that does not on the device "meta"."""


class WaitsRefused(TorchDispatchMode):
    """Raise where an operation would wait on a GPU, and needs no values to do so."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self.waits(func.overloadpacket, args, kwargs, out):
            raise Waiting(func)
        return out

    def waits(self, packet, args, kwargs, out):
        if packet is aten._to_copy:
            comes = is_meta(out) and not is_meta(args[0])
            return comes and not kwargs.get("non_blocking")
        if packet is aten.copy_:
            blocks = not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
            return is_meta(args[0]) and not is_meta(args[1]) and blocks
        if packet is aten.multinomial:
            # whether rows have enough weights is asked first, unless they need not
            replaces = args[2] if len(args) > 2 else kwargs.get("replacement", False)
            return is_meta(args[0]) and (args[1] == 1 or not replaces)
        if packet in (
            aten.index,
            aten.index_put,
            aten.index_put_,
            aten._index_put_impl_,
        ):
            indices = [i for i in args[1] if i is not None]
            return is_meta(args[0]) and any(
                i.dtype == torch.bool or not is_meta(i) for i in indices
            )
        return False


def is_meta(x):
    return isinstance(x, torch.Tensor) and x.is_meta


@pytest.fixture
def twins(monkeypatch):
    """Before the first batch of each epoch, run two steps of a twin without values.

    Returns
    -------
    seen : set of str
        Names of the losses and metrics of the steps that ran.
    """
    seen, on_batch_begin = set(), TrainingNet.on_batch_begin
    autocast, on = torch.autocast, Generators.on

    def begin(net, *args, batch=None, **kwargs):
        step = net.module_.clock.step
        if net.device != "meta" and step % net.module_.clock.steps_per_epoch == 0:
            twin = type(net)(
                copy.deepcopy(net.module_),
                bfloat16=net.bfloat16,
                batch_size=net.batch_size,
                device="meta",
                verbose=0,
                callbacks=[one for one in net.callbacks_ if one[0] == "clip"],
                lr=net.lr,
                **net.module_.optimizer(),
            ).initialize()
            twin.notify("on_epoch_begin", dataset_train=None)
            for mode in (contextlib.nullcontext(), WaitsRefused()):
                with mode:
                    twin.run_single_epoch([batch], True, "train", twin.train_step)
        return on_batch_begin(net, *args, batch=batch, **kwargs)

    def none_on_meta(kind, *args, **kwargs):
        if kind == "meta":
            return contextlib.nullcontext()
        return autocast(kind, *args, **kwargs)

    # what is queued, to be read later, is not waited for
    add = Readings.add

    def queue(readings, numbers):
        if not is_meta(numbers["loss"]):
            return add(readings, numbers)
        seen.update(numbers)
        readings.latest = dict.fromkeys(numbers, 0.0)

    monkeypatch.setattr(Readings, "add", queue)
    monkeypatch.setattr(TrainingNet, "on_batch_begin", begin)
    # the device has neither of the two
    monkeypatch.setattr(
        Generators,
        "on",
        lambda self, device: None if str(device) == "meta" else on(self, device),
    )
    monkeypatch.setattr(torch, "autocast", none_on_meta)
    return seen


def losses_of(model):
    return {key for row in model.history_ for key in row if key.startswith("loss")}


@each_estimator
@pytest.mark.parametrize("kind", ["colour", "vectors"])  # of grey ones, see OPTIONS
def test_no_step_waits(twins, estimator, kind):
    model = clone(estimator).set_params(max_epochs=4, device="cpu")
    model.fit(DATA[kind])
    assert losses_of(model) <= twins  # of all phases of the training
    if isinstance(model, GCC):
        assert "loss_diffusion" in twins


OPTIONS = {
    "alignment": ("DigPro", "grey", {"instance": "alignment", "noise_std": 0.1}),
    "blurred views": ("DigPro", "colour", {"augment": simclr(blur=3)}),
    "noise on neighbours": (
        "DigPro",
        "vectors",
        {"augment": Neighbors(5, then=vector())},
    ),
    "member": ("SCL", "grey", {"similarity": "member"}),
    "cross-entropy": ("SCL", "grey", {"consistency": "cross_entropy"}),
    "all negatives": ("SCL", "grey", {"n_negatives": None}),
    "count": ("StatDEC", "grey", {"cardinality": "count", "grid": 3}),
    "two trunks": ("StatDEC", "grey", {"share_trunk": False, "tau_plus": 0.1}),
    "mlp": ("MFCVAE", "grey", {"backbone": "mlp", "architecture": "shared"}),
    "bernoulli": (
        "MFCVAE",
        "grey",
        {"likelihood": "bernoulli", "elbo_estimator": "analytic"},
    ),
    "full covariances": (
        "MFCVAE",
        "vectors",
        {"covariance_type": "full", "learn_weights": True},
    ),
    "real bank": ("GCC", "grey", {"bank": "real", "augment_bank": True}),
    "U-Net": ("GCC", "colour", {"bank__denoiser": "nano"}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_no_step_waits_whatever_the_options(twins, name):
    method, kind, options = OPTIONS[name]
    model = clone(SMALL[method]).set_params(max_epochs=4, device="cpu", **options)
    assert losses_of(model.fit(DATA[kind])) <= twins


def test_rows_of_images_on_the_device_do_not_wait():
    images = Images(torch.zeros(9, 3, 8, 8, device="meta"), (3, 8, 8))
    with WaitsRefused():
        batch, _ = images[torch.arange(4)]
    assert batch.is_meta
    assert batch.shape == (4, 3, 8, 8)


def test_group_resets_wait(twins):
    model = clone(SMALL["DigPro"]).set_params(group_reset=1, device="cpu")
    with pytest.raises((Waiting, NotImplementedError), match="multinomial|equal"):
        model.fit(STRIPES)


class Strict(Callback):
    """From the second step of an epoch on, have torch raise where the host waits."""

    def on_batch_begin(self, net, **kwargs):
        if len(net.history[-1, "batches"]) > 1:
            torch.cuda.set_sync_debug_mode("error")

    def on_batch_end(self, net, **kwargs):
        if len(net.history[-1, "batches"]) == net.module_.clock.steps_per_epoch:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@each_estimator
@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("resident", [True, False])
def test_no_step_waits_for_a_gpu(estimator, kind, resident):
    pinned = None if resident else {"iterator_train__pin_memory": True}
    model = clone(estimator).set_params(max_epochs=4, batch_size=12, device="cuda")
    model.set_params(callbacks=[Strict()], net_params=pinned)
    try:
        model.fit(DATA[kind])  # a wait raises here
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite([row["loss"] for row in model.history_]).all()
