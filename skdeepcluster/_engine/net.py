"""The engine: skorch trains any objective that follows the protocol."""

from __future__ import annotations

import contextlib
import copy
import math
import time

import torch
from skorch import NeuralNet
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .._input.images import sent
from ..callbacks import TrainingBar, explain_monitor
from . import shares
from .batches import EpochBatches
from .crowd import look
from .interrupts import StopTraining, check, was_noted
from .protocol import Batch, Embedder
from .randomness import generator, generators, may_draw, own_draws
from .readings import Readings
from .saved import check_fits, check_moments

INFERENCE_BATCH = 512
INFERENCE_PIXELS = 2**19  # of one batch: bounds the activations of large images


class TrainingNet(NeuralNet):
    """A skorch net that asks an objective for named losses.

    Parameters
    ----------
    module : Objective
        Built, not yet on the device.
    bfloat16 : bool, default=False
        Whether networks train under bfloat16 autocast.
    batches : Sampler, default=None
        Rows of each batch; None: shuffled epochs over all rows.
    rate : str, default="lr"
        What the user knows ``lr`` by.
    checkpoint : Checkpoint, default=None
        Where the training is saved; None: nowhere.
    **kwargs
        As for :class:`skorch.NeuralNet`. ``compile=True`` compiles the backbones only.
    """

    def __init__(
        self,
        module,
        *,
        bfloat16=False,
        batches=None,
        rate="lr",
        checkpoint=None,
        **kwargs,
    ):
        kwargs.setdefault("criterion", nn.Identity)
        kwargs.setdefault("train_split", None)
        super().__init__(module, **kwargs)
        self.bfloat16, self.batches, self.rate = bfloat16, batches, rate
        self.checkpoint = checkpoint

    ended = False
    _may_draw = None

    # -- what skorch is told -----------------------------------------------------------

    @property
    def _default_callbacks(self):
        return []  # time and losses are recorded here, whole and once an epoch

    def initialize_module(self):
        super().initialize_module()
        # only 4-D weights have this format: convolutions are faster in it
        self.module_.to(memory_format=torch.channels_last)
        return self

    def torch_compile(self, module, name):
        if self.compile:
            kwargs = self.get_params_for("compile")
            for path, child in module.named_modules():
                if path.rpartition(".")[2] == "backbone":
                    child.compile(**kwargs)
        return module

    def initialize_optimizer(self, *args, **kwargs):
        super().initialize_optimizer(*args, **kwargs)
        for group in self.optimizer_.param_groups:
            group["initial_lr"] = group["lr"]
        return self

    def get_iterator(self, dataset, training=False):
        batches = self.batches
        if batches is None:
            batches = EpochBatches(len(dataset), self.batch_size)
        options = self.get_params_for("iterator_train")
        try:
            return DataLoader(
                shares.partly_read(dataset),
                sampler=batches,
                batch_size=None,
                generator=generator(),
                **options,
            )
        except (TypeError, ValueError) as error:
            given = {f"iterator_train__{name}": v for name, v in options.items()}
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"net_params={given!r} cannot be used: {error}.") from error

    # -- training ----------------------------------------------------------------------

    def train(self, images):
        """Train until the clock's last epoch, from wherever it stands.

        Parameters
        ----------
        images : Images

        Returns
        -------
        self : TrainingNet
            A callback that asks to stop ends training without an error.

        Raises
        ------
        Interrupted
            If a signal asks to end the process: between two steps.
        """
        clock = self.module_.clock
        try:
            self.notify("on_train_begin", X=images, y=None)
            if not self.ended:
                self.fit_loop(images, epochs=max(0, clock.ends[-1] - clock.epoch))
            self.ended = True
        except StopTraining:
            self.ended = True
        except Exception:
            for _, callback in self.callbacks_:  # others may overwrite what is good
                if isinstance(callback, TrainingBar):
                    callback.on_train_end(self)
            raise
        except BaseException:
            self.notify("on_train_end", X=images, y=None)
            raise
        if self.checkpoint is not None and self.module_.clock.epoch > 0:
            self.checkpoint.save(self.training_state())
        with contextlib.suppress(StopTraining):  # there is nothing left to stop
            self.notify("on_train_end", X=images, y=None)
        return self

    def notify(self, method_name, **kwargs):
        """Run a hook of the net, then of its callbacks.

        skorch's callbacks raise ``KeyboardInterrupt`` to end training early. A signal
        is told from that: it is noted, and obeyed between two steps.
        """
        getattr(self, method_name)(self, **kwargs)
        for _, callback in self.callbacks_:
            try:
                getattr(callback, method_name)(self, **kwargs)
            except KeyboardInterrupt:
                if was_noted():
                    raise
                raise StopTraining from None
            except Exception:
                if method_name == "on_epoch_end":
                    explain_monitor(self, callback)
                raise
        saves = method_name == "on_epoch_end" and self.checkpoint is not None
        if saves and self.checkpoint.due():
            self.checkpoint.save(self.training_state())

    def make_batch(self, raw, index) -> Batch:
        """Bring a raw batch to the device and make its views."""
        unit = self.module_.scaling(shares.whole_batch(raw, index, self.device))
        units = [unit] * self.module_.n_views
        if index.ndim == 2:  # of the batch, and of each view
            units, index = unit.chunk(len(index))[1:], index[0]
        views = [self._view(unit) for unit in units]
        return Batch(sent(index, self.device), views)

    def _view(self, unit):
        view = self.module_.augmentation(unit)
        if not isinstance(view, Tensor) or view.shape != unit.shape:
            got = tuple(view.shape) if isinstance(view, Tensor) else type(view).__name__
            raise ValueError(
                f"augment returned {got} for a batch of shape {tuple(unit.shape)}. It "
                "should return a tensor of the same shape."
            )
        if (
            view.device != unit.device
            or view.layout != unit.layout
            or view.is_complex()
        ):
            raise ValueError(
                f"augment returned a tensor on {view.device}, of {view.layout} and "
                f"{view.dtype}, for a batch on {unit.device}, of {unit.layout} and "
                f"{unit.dtype}. It should return one that is alike."
            )
        return view.float().contiguous(memory_format=torch.channels_last)

    def train_step(self, batch, **fit_params):
        try:
            step = super().train_step(batch, **fit_params)
        except RuntimeError as error:
            if "without overflow" not in str(error):
                raise
            raise FloatingPointError(
                f"A step of epoch {len(self.history)} is too large for float32. Lower "
                f"{self.rate}={self.lr}."
            ) from error
        # skorch reads it: that of a GPU may not be there yet
        return {**step, "loss": torch.tensor(self._readings.latest["loss"])}

    def train_step_single(self, batch, **fit_params):
        module = self.module_.train()
        module.autocast = self.bfloat16
        with self.own_draws():
            self._batch = self.make_batch(*batch)
            parts = shares.losses(module, self._batch)
        self._check_scalars("losses", parts)
        if not parts:
            raise TypeError(
                f"losses of {type(module).__name__} gave no part; one at least was "
                "expected."
            )
        self._check_scalars("batch.metrics", self._batch.metrics)
        loss = sum(parts.values())
        loss.backward()
        shown = {"loss": loss, **{f"loss_{name}": part for name, part in parts.items()}}
        self._readings.add(shown | self._batch.metrics)
        self._read_losses()
        self._n_seen += len(self._batch.index)
        # skorch puts groups of parameters with a rate of their own first
        self._lr = self.optimizer_.param_groups[-1]["lr"]
        return {"loss": loss.detach(), "y_pred": None}

    def _read_losses(self, wait=False):
        for numbers in self._readings.read(wait):
            bad = [name for name, value in numbers.items() if not math.isfinite(value)]
            if bad:
                parts = [name.removeprefix("loss_") for name in bad if name != "loss"]
                raise FloatingPointError(
                    f"The loss became NaN or infinite in epoch {len(self.history)} "
                    f"(loss part: {', '.join(parts) or 'their sum'}). Lower "
                    f"{self.rate}={self.lr}, or train with precision='float32'."
                )

    def _check_scalars(self, source, values):
        source = f"{source} of {type(self.module_).__name__}"
        if not isinstance(values, dict):
            raise TypeError(
                f"{source} gave a {type(values).__name__}; a dict of scalar tensors "
                "was expected."
            )
        for name, value in values.items():
            if not isinstance(value, Tensor) or value.ndim:
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value)
                raise TypeError(
                    f"{source} gave {name!r} as {got}; a scalar tensor was expected."
                )

    def own_draws(self):
        """Give others' code, such as dropout, the random numbers of this training."""
        if self._may_draw is None:
            augmentation = self.module_.augmentation
            self._may_draw = may_draw(self.module_) or may_draw(augmentation)
        return own_draws(self._may_draw and not self.compile)

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        super().on_batch_begin(net, batch, training, **kwargs)
        check(together=True)
        factor = self.module_.rate_factor()
        if factor is not None:
            for group in self.optimizer_.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def on_batch_end(self, net, batch=None, training=False, **kwargs):
        with self.own_draws():
            self.module_.advance(self._batch)
        self._batch = None
        look()

    def on_epoch_begin(self, net, dataset_train=None, **kwargs):
        super().on_epoch_begin(net, dataset_train=dataset_train, **kwargs)
        clock = self.module_.clock
        if clock.extension and clock.extension[0] == clock.epoch:
            self.extend(dataset_train)
        shares.replicate(self.module_)
        self._readings, self._n_seen = Readings(), 0
        self._began = time.perf_counter()

    def on_epoch_end(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        self._read_losses(wait=True)
        self.module_.clock.epoch += 1
        report = self.report(dataset_train)
        seconds = time.perf_counter() - self._began
        record = self.history.record
        for name, value in self._readings.sums.items():
            record(name, value / self._readings.n_steps)
        *earlier, row = self.history
        # what skorch's callbacks monitor; history_ leaves it out
        record("loss_best", all(row["loss"] < other["loss"] for other in earlier))
        record("lr", self._lr)
        record("seconds", seconds)
        record("images_per_second", self._n_seen / seconds)
        for name, value in report.items():
            record(name, value)
        shares.align(self.module_, row)

    def report(self, images) -> dict:
        """Return what the history holds of an epoch beside its losses."""
        return {}

    # -- whole state of a training -----------------------------------------------------

    def training_state(self) -> dict:
        """Capture the training between two epochs.

        Returns
        -------
        state : dict
            Networks, averages, memories, assignments, stage and clock (``module``),
            optimiser, history, and the states of the random generators. Tensors are
            those of the net: copy them before training goes on.
        """
        return {
            "module": self.module_.state_dict(),
            "optimizer": self.optimizer_.state_dict(),
            # of an epoch that is over nobody reads the single batches
            "history": [{**row, "batches": []} for row in self.history.to_list()],
            "generators": generators().state(),
            "ended": self.ended,
        }

    def load_training_state(self, state: dict, max_epochs: int | None = None) -> None:
        """Take what :meth:`training_state` captured, in a net of equal parameters.

        :meth:`train` then goes on from there as if nothing had happened.

        Parameters
        ----------
        state : dict
        max_epochs : int, optional
            Train up to this epoch: those beyond the plan are added to it.

        Raises
        ------
        FileError
            If the state is not one of a training of this net.
        """
        with self.checkpoint.read() if self.checkpoint else contextlib.nullcontext():
            check_fits(state, self.training_state())
            self.module_.load_state_dict(state["module"])
            step = self.module_.clock.step
            check_moments(state["optimizer"], self.optimizer_, step)
            # the optimiser would share its moments with the state
            self.optimizer_.load_state_dict(copy.deepcopy(state["optimizer"]))
        wanted = max_epochs or self.module_.clock.ends[-1]
        self.ended = state["ended"] and not self.may_extend(wanted)
        self.module_.clock.extend(wanted)
        self._resumed = state

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        resumed, self._resumed = getattr(self, "_resumed", None), None
        if resumed is None:
            return self.begin(X)
        self.history.extend(resumed["history"])
        generators().load_state(resumed["generators"])

    def may_extend(self, max_epochs: int) -> bool:
        """Whether a training that ended goes on if more epochs are asked for."""
        return max_epochs > self.module_.clock.ends[-1]

    def extend(self, images) -> None:
        """Run before the first one of the epochs that were added to the plan."""

    def begin(self, images) -> None:
        """Run before the first epoch of a training that does not go on from a state."""


class ClusterNet(TrainingNet):
    """Trains a ClusterModule, with its hooks over all images, and evaluates it."""

    def begin(self, images):
        self.report(images)

    @torch.no_grad()
    def report(self, images):
        embed = self.embedder(images, self.bfloat16)
        with self.own_draws():
            return self.module_.eval().refresh(embed) or {}

    def may_extend(self, max_epochs):
        return super().may_extend(max_epochs) and not self.module_.converged

    @torch.no_grad()
    def extend(self, images):
        self.module_.eval().extend(self.embedder(images, self.bfloat16))

    @torch.no_grad()
    def finish(self, images):
        """Let the module settle the assignment of the training images."""
        with self.own_draws():
            self.module_.eval().finish(self.embedder(images))
        shares.align(self.module_)

    def embedder(self, images, bfloat16=False) -> Embedder:
        """Return the ``embed`` that the module's hooks are given."""
        return Embedder(self, images, bfloat16)

    @torch.no_grad()
    def evaluate(self, images, function, bfloat16=False) -> Tensor:
        """``function`` of images in [0, 1], in eval mode: (n, d), on the device."""
        module = self.module_.eval()
        module.autocast = bfloat16
        _, height, width = images.shape
        size = max(16, min(INFERENCE_BATCH, INFERENCE_PIXELS // (height * width)))

        def of_rows(rows):
            out, start = torch.empty(0), 0
            for raw in shares.in_step(images.chunks(size, rows)):
                check()
                look()
                x = module.scaling(sent(raw, self.device))
                part = function(x.contiguous(memory_format=torch.channels_last))
                if start == 0:
                    out = part.new_empty(rows.stop - rows.start, part.shape[1])
                # at once: many small parts that stay would fragment the heap
                out[start : start + len(part)] = part
                start += len(part)
            return out

        out = shares.all_rows(of_rows, len(images))
        if not all(x.isfinite().all() for x in out.split(2**15)):  # in little memory
            if not self.history:
                raise FloatingPointError(
                    "The embedding of X is NaN or infinite. X holds values that are "
                    "far from those of the training data, or the model is damaged."
                )
            raise FloatingPointError(
                f"The embedding became NaN or infinite after {len(self.history)} "
                f"epoch(s). Lower lr={self.lr}, or train with precision='float32'."
            )
        return out
