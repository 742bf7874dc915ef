"""Hooks of training: a progress bar, a collapse warning, scikit-learn's callbacks."""

from __future__ import annotations

import contextlib
import time

from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback, Checkpoint, LoadInitState, ParamMapper

from ._engine.interrupts import StopTraining
from ._progress import duration, say, shows_bars
from ._warnings import warn

try:  # experimental, since scikit-learn 1.9
    from sklearn.callback import CallbackSupportMixin, with_callbacks

    SKLEARN_CALLBACKS = True
except ImportError:
    SKLEARN_CALLBACKS = False

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in where scikit-learn has no callbacks."""

    def with_callbacks(fit):
        """Leave ``fit`` as it is where scikit-learn has no callbacks."""
        return fit


class TrainingBar(Callback):
    """Show training: a bar over all epochs, the parts of the loss and the time left.

    A bar needs a terminal or a notebook. Elsewhere, such as in a file, there are lines:
    one an epoch, of short epochs one in some seconds, and one at the end. Lines go to
    the logger ``skdeepcluster`` if that takes INFO, else to the standard error.

    Parameters
    ----------
    description : str
        Shown before the bar or the line.
    lines : bool
        Whether there is a line for every epoch in place of the bar, on a terminal, too.
    """

    interval = 5.0  # seconds between two lines, where not every epoch has one

    def __init__(self, description="fit", lines=False):
        self.description, self.lines = description, lines

    def on_train_begin(self, net, **kwargs):
        clock = net.module_.clock
        self.bar_, self.row_ = None, None
        self.began_, self.from_ = time.perf_counter(), clock.step
        self.said_ = self.began_
        if not self.lines and shows_bars():
            from tqdm.auto import tqdm

            self.bar_ = tqdm(
                total=clock.ends[-1] * clock.steps_per_epoch,
                initial=clock.step,  # of a training that goes on
                desc=self.description,
                unit="step",
            )

    def on_batch_end(self, net, training=False, **kwargs):
        if self.bar_ is not None:
            self.bar_.update()

    def on_epoch_end(self, net, **kwargs):
        self.row_ = row = net.history[-1]
        if self.bar_ is not None:
            # a dict keeps its order; keywords would be sorted
            shown = {"epoch": f"{row['epoch']}/{net.module_.clock.ends[-1]}"}
            self.bar_.set_postfix({**shown, **_losses(row)})
        elif self.lines or time.perf_counter() - self.said_ >= self.interval:
            self._say(net)

    def on_train_end(self, net, **kwargs):
        # an error may come before the first step
        if getattr(self, "bar_", None) is not None:
            self.bar_.close()
        elif getattr(self, "row_", None) is not None:
            self._say(net)

    def _say(self, net):
        row, clock = self.row_, net.module_.clock
        self.row_, self.said_ = None, time.perf_counter()
        seconds = self.said_ - self.began_
        steps = clock.ends[-1] * clock.steps_per_epoch
        left = seconds * (steps - clock.step) / (clock.step - self.from_)
        parts = ", ".join(f"{name} {value}" for name, value in _losses(row).items())
        say(
            f"{self.description}, epoch {row['epoch']}/{clock.ends[-1]}: {parts} "
            f"({duration(seconds)}, {duration(left)} left)"
        )


def _losses(row):
    """The loss and its parts, as they are shown."""
    return {
        name.removeprefix("loss_"): f"{value:.3f}"
        for name, value in row.items()
        if name.startswith("loss") and name != "loss_best"
    }


class CollapseWarning(Callback):
    """Warn once when the embedding shrinks to a point.

    Reads ``feature_spread`` of the history: the standard deviation of the unit
    embeddings over the samples, as a share of what uniformly spread ones have.

    Parameters
    ----------
    threshold : float
        Warn below this share.
    patience : int
        Look from this epoch on: an untrained network has little spread.
    """

    def __init__(self, threshold=0.05, patience=5):
        self.threshold, self.patience = threshold, patience

    def on_epoch_end(self, net, **kwargs):
        # no state of its own: a training that goes on has the history
        *earlier, row = net.history
        if not self._collapsed(row) or any(map(self._collapsed, earlier)):
            return
        warn(
            f"The embedding is collapsing: in epoch {row['epoch']} its spread is "
            f"{row['feature_spread']:.3f} of what is possible. Lower lr={net.lr}, "
            f"enlarge batch_size={net.batch_size}, or choose a stronger augmentation.",
            ConvergenceWarning,
        )

    def _collapsed(self, row):
        spread = row.get("feature_spread", 1.0)
        return row["epoch"] >= self.patience and spread < self.threshold


class StopWhenConverged(Callback):
    """End training when the module says that it converged."""

    def on_epoch_end(self, net, **kwargs):
        if net.module_.converged:
            raise StopTraining


# -- callbacks of the user -------------------------------------------------------------


def arrange_callbacks(first, of_user, last):
    """Check the callbacks of a user, and put the package's own around them.

    Parameters
    ----------
    first, last : list of Callback
        The package's own; they get names that no callback of a user has.
    of_user : list or None
        What skorch takes: callbacks, classes of callbacks, and (name, callback).

    Returns
    -------
    callbacks : list
        As skorch takes it.

    Raises
    ------
    TypeError
        If one is no callback.
    ValueError
        If one is skorch's ``LoadInitState``, or its ``Checkpoint`` as safetensors.
    """
    for position, item in enumerate(of_user or []):
        name, callback = "", item
        if isinstance(item, (tuple, list)) and len(item) == 2:
            name, callback = item
        known = callback is None or hasattr(callback, "initialize")
        if not known or not isinstance(name, str):
            raise TypeError(
                f"callbacks[{position}]={item!r} is no callback of skorch. Pass an "
                "instance of skorch.callbacks.Callback, or a tuple (name, callback)."
            )
        if isinstance(callback, Checkpoint) and callback.use_safetensors:
            raise ValueError(
                f"callbacks[{position}] is a Checkpoint with use_safetensors, which "
                "cannot hold the state of a method beside its tensors. Pass "
                "checkpoint='folder', or save the fitted estimator."
            )
        if isinstance(callback, LoadInitState) or callback is LoadInitState:
            raise ValueError(
                f"callbacks[{position}] is LoadInitState, which loads weights, but not "
                "memories, stages and the place in the schedule: training would not go "
                "on where it was. Pass checkpoint='folder' instead."
            )
    return [*map(_named, first), *(of_user or []), *map(_named, last)]


def _named(callback):
    if isinstance(callback, tuple):
        return callback
    return f"skdeepcluster.{type(callback).__name__}", callback


def check_patterns(net):
    """Refuse a callback of skorch, such as Freezer, whose pattern fits no parameter.

    Parameters
    ----------
    net : NeuralNet
        Initialized.

    Raises
    ------
    ValueError
        If there is one.
    """
    for _, callback in net.callbacks_:
        patterns = callback.patterns if isinstance(callback, ParamMapper) else ()
        for pattern in patterns:
            named = list(callback.named_parameters(net))
            if not any(callback.filter_parameters([pattern], named)):
                parts = sorted({f"{name.partition('.')[0]}*" for name, _ in named})
                raise ValueError(
                    f"The pattern {pattern!r} of {type(callback).__name__} fits no "
                    f"parameter of the networks. Pass one that fits some of {parts}; "
                    "net_.module_.named_parameters() of a fitted estimator has all."
                )


def explain_monitor(net, callback):
    """Say which keys the history has, where a callback monitors another.

    Parameters
    ----------
    net : NeuralNet
    callback : Callback
        It failed at the end of an epoch.

    Raises
    ------
    ValueError
        If it monitors a key that the history does not have.
    """
    monitor, row = getattr(callback, "monitor", None), net.history[-1]
    if isinstance(monitor, str) and monitor not in row:
        known = [key for key in row if isinstance(row[key], (int, float))]
        raise ValueError(
            f"{type(callback).__name__} monitors {monitor!r}, which the history does "
            f"not have, since no data are held out. Pass monitor= one of {known}."
        )


# -- callbacks of scikit-learn ---------------------------------------------------------


class _SklearnBridge(Callback):
    """Hand skorch's epochs to scikit-learn's callbacks."""

    def __init__(self, estimator, root, data, state):
        self.estimator, self.root = estimator, root
        self.data, self.state = data, state

    def on_epoch_begin(self, net, **kwargs):
        self.context_ = self.root.subcontext(task_name="epoch")
        self.context_.call_on_fit_task_begin(estimator=self.estimator, **self.data)

    def on_epoch_end(self, net, **kwargs):
        stop = self.context_.call_on_fit_task_end(
            estimator=self.estimator,
            reconstruction_attributes=lambda: self.state(net),
            **self.data,
        )
        if stop:
            raise StopTraining


@contextlib.contextmanager
def sklearn_callbacks(estimator, max_subtasks, X, y, state):
    """Run scikit-learn's callbacks of an estimator around its training.

    Within such a block, around several trainings, each of them is a task of that one.

    Parameters
    ----------
    estimator : DeepClusterer
    max_subtasks : int
        Epochs of a training, or trainings.
    X, y : array-like
        What ``fit`` was given; handed to the callbacks.
    state : callable
        Takes the net and returns the fitted attributes as they are at that moment.

    Yields
    ------
    callbacks : list of Callback
        Empty where scikit-learn is older than 1.9.
    """
    if not SKLEARN_CALLBACKS:
        yield []
        return
    whole = getattr(estimator, "_callback_fit_ctx", None)
    if whole is None:
        root = estimator._init_callback_context(max_subtasks=max_subtasks)
    else:
        root = whole.subcontext(task_name="training", max_subtasks=max_subtasks)
    data = {"X": X, "y": y}
    root.call_on_fit_task_begin(estimator=estimator, **data)
    yield [_SklearnBridge(estimator, root, data, state)]
    root.call_on_fit_task_end(estimator=estimator, **data)
