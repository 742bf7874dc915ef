"""Small networks that follow a backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def projection_head(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    """Linear, batch norm, ReLU, linear: the projector and predictor of BYOL.

    Parameters
    ----------
    n_in, hidden, n_out : int
        Widths. The output is neither normalised nor followed by batch norm.

    Returns
    -------
    head : Sequential
        (b, n_in) -> (b, n_out).

    References
    ----------
    Grill et al., *Bootstrap Your Own Latent*, 2020, section 3.3.
    """
    return nn.Sequential(
        nn.Linear(n_in, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, n_out),
    )


class StatisticsPooling(nn.Module):
    """Pool a set to its mean, its second moment and its soft size.

    What is present, how variable it is, and how much of it there is. A reconstruction:
    the abstracts of the paper name the three statistics, their formulas could not be
    read.

    Parameters
    ----------
    cardinality : {"active", "count"} or None
        ``"active"``: logarithm of one plus the soft number of elements in which a
        channel is positive, one column a channel. ``"count"``: of the number of
        elements, one column; constant where all sets are of one size. None: no column.
    second : {"std", "var"}
        Second moment about the mean of the set, not corrected for its size.
    eps : float
        Added to the variance under the root: the gradient stays finite where all
        elements are alike.

    References
    ----------
    Rezaei et al., *Joint Debiased Representation Learning and Imbalanced Data
    Clustering*, arXiv 2109.05232. Edwards and Storkey, *Towards a Neural Statistician*,
    2017, append the size of a set to its mean.
    """

    def __init__(self, cardinality="active", second="std", eps=1e-5):
        super().__init__()
        self.cardinality, self.second, self.eps = cardinality, second, eps

    def columns(self, channels: int) -> int:
        """Width of the output for sets of so many channels."""
        return (
            2 * channels + {"active": channels, "count": 1, None: 0}[self.cardinality]
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool a batch of sets.

        Parameters
        ----------
        x : tensor of shape (b, C, n) or (b, C, H, W)
            Sets of n elements, or feature maps of as many positions.
        mask : tensor of shape (b, n) or (b, H, W), optional
            Weights in [0, 1] of the elements.

        Returns
        -------
        statistics : float32 tensor of shape (b, 2 C + C), (b, 2 C + 1) or (b, 2 C)
            Also under autocast: a variance in half precision would be noise.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            places = tuple(range(2, x.ndim))  # not flattened: that would be a copy
            if mask is not None:
                m = mask.to(x.dtype).unsqueeze(1)
                x = torch.where(m > 0, x, 0.0)  # zero times infinity is not zero
            active = -torch.expm1(-x.relu()) if self.cardinality == "active" else x
            if mask is None:
                size = x.new_full((len(x), 1), x[0, 0].numel())
                mean = x.mean(places, keepdim=True)
                # torch.var is many times slower over so few elements
                moment = (x - mean).square().mean(places)
                active = active.sum(places)
            else:
                size = m.sum(places)
                weight = m / size.clamp_min(1).view(-1, 1, *(1 for _ in places))
                mean = (weight * x).sum(places, keepdim=True)
                moment = (weight * (x - mean).square()).sum(places)
                active = (m * active).sum(places)
            if self.second == "std":
                moment = (moment + self.eps).sqrt()
            parts = [mean.flatten(1), moment]
            if self.cardinality is not None:
                parts.append((active if self.cardinality == "active" else size).log1p())
            return torch.cat(parts, dim=1)


class GridStatistics(nn.Module):
    """Statistics of each cell of a grid.

    As with the averages of a small convolutional encoder, the cells tell where a stroke
    lies.

    Parameters
    ----------
    grid : int
        Rows and columns of cells, cut as by ``AdaptiveAvgPool2d``.
    cardinality, second
        As in :class:`StatisticsPooling`.
    """

    def __init__(self, grid=1, cardinality="active", second="std"):
        super().__init__()
        self.grid, self.pool = grid, StatisticsPooling(cardinality, second)

    def columns(self, channels: int) -> int:
        """Width of the output for maps of so many channels."""
        return self.grid**2 * self.pool.columns(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, channels, H, W) to (b, width)."""
        cells = [
            self.pool(x[:, :, rows, columns])
            for rows in self._cells(x.shape[2])
            for columns in self._cells(x.shape[3])
        ]
        return torch.cat(cells, dim=1)

    def _cells(self, size):
        return [
            slice(i * size // self.grid, -(-(i + 1) * size // self.grid))
            for i in range(self.grid)
        ]
