"""A warning in training, where the debiased loss is no longer one."""

from __future__ import annotations

from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback

from .._warnings import warn


class ClampingWarning(Callback):
    """Warn once when most estimates of the debiased loss are clamped.

    Reads ``clamped`` of the history: the share of the images whose estimate was.

    Parameters
    ----------
    threshold : float
        Warn above this share.
    """

    def __init__(self, threshold=0.5):
        self.threshold = threshold

    def on_epoch_end(self, net, **kwargs):
        # no state of its own: a training that goes on has the history
        *earlier, last = (row["clamped"] for row in net.history)
        if last <= self.threshold or any(share > self.threshold for share in earlier):
            return
        p = net.module_.p
        warn(
            f"The debiased estimate was clamped for {last:.0%} of the images of an "
            "epoch: their negatives have no gradient. Lower tau_plus="
            f"{p.tau_plus}, or raise temperature={p.temperature}.",
            ConvergenceWarning,
        )
