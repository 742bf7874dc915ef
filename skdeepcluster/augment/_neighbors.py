"""Views that are other rows: the nearest ones."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral

import torch
from torch import Tensor, nn

from .._input.images import Images
from .._input.scaling import Scaling
from ..neighbors import nearest_neighbors


class Neighbors(nn.Module):
    """Take random ones of a row and its nearest neighbours as its views.

    In a good feature space, neighbours are of the same class far more often than
    not, while noise and masks say little of what may change within a class.

    Parameters
    ----------
    n_neighbors : int, default=10
        Nearest rows of X by cosine, of which one is drawn for each view, or the row
        itself; no more than half of the mean size of a cluster.
    then : callable, default=None
        What is done to the rows drawn: it maps (b, 1, 1, d), centred and at unit scale,
        to the same shape.

    Raises
    ------
    ValueError
        If ``n_neighbors`` is no positive integer.
    TypeError
        If ``then`` is neither a callable nor None.

    References
    ----------
    Van Gansbeke et al., *SCAN: Learning to Classify Images without Labels*, 2020.

    Dwibedi et al., *With a Little Help from My Friends: Nearest-Neighbor Contrastive
    Learning of Visual Representations*, 2021.

    Examples
    --------
    >>> from skdeepcluster import SCL
    >>> from skdeepcluster.augment import Neighbors, vector
    >>> model = SCL(10, augment=Neighbors(20, then=vector()))
    """

    n_neighbors: int
    then: Callable | None

    def __init__(self, n_neighbors: int = 10, then: Callable | None = None):
        super().__init__()
        if not isinstance(n_neighbors, Integral) or n_neighbors < 1:
            raise ValueError(f"n_neighbors={n_neighbors!r} should be an integer >= 1.")
        if (then is not None and not callable(then)) or isinstance(then, type):
            raise TypeError(
                f"then={then!r} should be a callable from batch to batch, or None; "
                "skdeepcluster.augment.vector() adds noise and sets features to 0."
            )
        self.n_neighbors, self.then = n_neighbors, then

    def extra_repr(self):
        """Show the settings in ``repr``."""
        return f"n_neighbors={self.n_neighbors}"

    def graph(self, images: Images, scaling: Scaling, n_clusters, device) -> Tensor:
        """Find the neighbours of all rows.

        Parameters
        ----------
        images : Images
            Vectors.
        scaling : Scaling
            Centres them.
        n_clusters : int
        device : torch.device
            Where to compare them.

        Returns
        -------
        neighbors : int64 tensor of shape (n, k)
        """
        rows = torch.cat([scaling(raw).flatten(1) for raw in images.chunks()])
        k = min(self.n_neighbors, max(1, len(rows) // (2 * n_clusters)))
        return nearest_neighbors(rows.to(device), k)

    def forward(self, x: Tensor) -> Tensor:
        """Return rows that were drawn, with what is done to them."""
        return x if self.then is None else self.then(x)
