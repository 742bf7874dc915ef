"""Hooks of training: a progress bar, a collapse warning, scikit-learn's callbacks."""

from __future__ import annotations

import contextlib

from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback

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
    """One progress bar over all epochs: loss parts, and the time left.

    Parameters
    ----------
    description : str
        Shown before the bar.
    """

    def __init__(self, description="fit"):
        self.description = description

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        from tqdm.auto import tqdm

        steps = net.max_epochs * len(net.get_iterator(X, training=True))
        self.bar_ = tqdm(total=steps, desc=self.description, unit="step")

    def on_batch_end(self, net, training=False, **kwargs):
        self.bar_.update()

    def on_epoch_end(self, net, **kwargs):
        row = net.history[-1]
        parts = {
            name.removeprefix("loss_"): f"{value:.3f}"
            for name, value in row.items()
            if name.startswith("loss")
        }
        # a dict keeps its order; keywords would be sorted
        self.bar_.set_postfix({"epoch": f"{row['epoch']}/{net.max_epochs}", **parts})

    def on_train_end(self, net, **kwargs):
        bar = getattr(self, "bar_", None)
        if bar is not None:  # an error may come before the first step
            bar.close()


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

    def on_train_begin(self, net, **kwargs):
        self.warned_ = False

    def on_epoch_end(self, net, **kwargs):
        row = net.history[-1]
        spread = row.get("feature_spread", 1.0)
        if self.warned_ or row["epoch"] < self.patience or spread >= self.threshold:
            return
        self.warned_ = True
        warn(
            f"The embedding is collapsing: in epoch {row['epoch']} its spread is "
            f"{spread:.3f} of what is possible. Lower lr={net.lr}, enlarge batch_size="
            f"{net.batch_size}, or choose a stronger augmentation.",
            ConvergenceWarning,
        )


class StopWhenConverged(Callback):
    """End training when the module says that it converged."""

    def on_epoch_end(self, net, **kwargs):
        if net.module_.converged:  # skorch's own way to end early and keep the net
            raise KeyboardInterrupt


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
            raise KeyboardInterrupt


@contextlib.contextmanager
def sklearn_callbacks(estimator, max_epochs, X, y, state):
    """Run scikit-learn's callbacks of an estimator around its training.

    Parameters
    ----------
    estimator : DeepClusterer
    max_epochs : int
    X, y : array-like
        What ``fit`` was given; handed to the callbacks.
    state : callable
        Takes the net and returns the fitted attributes as they are at that moment.

    Yields
    ------
    callbacks : list of (name, skorch callback)
        Empty where scikit-learn is older than 1.9.
    """
    if not SKLEARN_CALLBACKS:
        yield []
        return
    root = estimator._init_callback_context(max_subtasks=max_epochs)
    data = {"X": X, "y": y}
    root.call_on_fit_task_begin(estimator=estimator, **data)
    yield [("sklearn", _SklearnBridge(estimator, root, data, state))]
    root.call_on_fit_task_end(estimator=estimator, **data)
