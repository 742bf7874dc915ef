"""How many clusters of a facet are in use, and a warning when it is one."""

from __future__ import annotations

from itertools import accumulate

import torch
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback
from torch import Tensor

from .._warnings import warn


def effective_number(sizes: Tensor) -> float:
    """Exponential of the entropy of cluster sizes (K,): K if they are equal."""
    shares = sizes.double() / sizes.sum()
    return torch.special.entr(shares).sum().exp().item()


class FacetCollapseWarning(Callback):
    """Warn once for each facet of which nearly all images share one cluster.

    Reads ``effective_clusters`` of the history: for each facet the
    :func:`effective_number` of its cluster sizes, or 0 while it has no mixture yet.

    Parameters
    ----------
    threshold : float
        Warn where less than this share of the clusters beyond the first is in use.
    patience : int
        Warn after so many epochs of it on end: a mixture that was just fitted may need
        some.
    """

    def __init__(self, threshold=0.1, patience=3):
        self.threshold, self.patience = threshold, patience

    def on_epoch_end(self, net, **kwargs):
        row, n_clusters = net.history[-1], net.module_.p.n_clusters
        for facet, used in enumerate(row["effective_clusters"]):
            # no state of its own: a training that goes on has the history
            collapsed = (self._collapsed(r, facet, n_clusters) for r in net.history)
            *before, now = accumulate(collapsed, lambda n, c: c * (n + 1))  # on end
            if now != self.patience or self.patience in before:
                continue
            warn(
                f"Facet {facet} is collapsing: up to epoch {row['epoch']} nearly all "
                f"images share one of its {n_clusters[facet]} clusters ({used:.2f} in "
                "effect). Start from prior_init='warmup_gmm' with n_refits > 0 and a "
                "longer prior_warmup, keep learn_weights=False, or lower sigma_x or "
                "beta_decay.",
                ConvergenceWarning,
            )

    def _collapsed(self, row, facet, n_clusters):
        least = 1 + self.threshold * (n_clusters[facet] - 1)
        # a facet that is not trained yet cannot collapse
        return row["alpha"][facet] > 0 and 0 < row["effective_clusters"][facet] < least
