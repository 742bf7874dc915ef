"""Statistics pooling: what a feature map holds, how varied and how much of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
        Second moment about the mean of the set, divided by the number of elements.
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
        sizes = {"active": channels, "count": 1, None: 0}
        return 2 * channels + sizes[self.cardinality]

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
            # places first, in one piece: sums over few of them are several times faster
            x = x.float().permute(*range(2, x.ndim), 0, 1).flatten(0, -3).contiguous()
            if mask is not None:
                m = mask.to(x.dtype).flatten(1).T.unsqueeze(2)
                x = torch.where(m > 0, x, 0.0)  # zero times infinity is not zero
            active = -torch.expm1(-x.relu()) if self.cardinality == "active" else x
            if mask is None:
                size = x.new_full((x.shape[1], 1), len(x))
                mean = x.mean(0)
                # torch.var is many times slower over so few elements
                moment = (x - mean).square().mean(0)
                active = active.sum(0)
            else:
                size = m.sum(0)
                weight = m / size.clamp_min(1)
                mean = (weight * x).sum(0)
                moment = (weight * (x - mean).square()).sum(0)
                active = (m * active).sum(0)
            if self.second == "std":
                moment = (moment + self.eps).sqrt()
            parts = [mean, moment]
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
    cardinality : {"active", "count"} or None
        Size of the set of positions of a cell, as :class:`StatisticsPooling` takes it.
    """

    def __init__(self, grid: int, cardinality: str | None = "active"):
        super().__init__()
        self.grid, self.pool = grid, StatisticsPooling(cardinality)

    def columns(self, channels: int) -> int:
        """Width of the output for maps of so many channels."""
        return self.grid**2 * self.pool.columns(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, channels, H, W) to (b, width)."""
        if x.shape[2] % self.grid == x.shape[3] % self.grid == 0:
            # cells of one size: each is a set of its own in one batch
            cells = x.unflatten(2, (self.grid, -1)).unflatten(4, (self.grid, -1))
            cells = cells.permute(3, 5, 0, 2, 4, 1).flatten(2, 4).flatten(0, 1)
            pooled = self.pool(cells.permute(1, 2, 0))
            return pooled.view(len(x), self.columns(x.shape[1]))
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


def make_pooling(
    pooling: str, cardinality: str | None, grid: int, shape: tuple[int, ...]
) -> tuple[nn.Module, int]:
    """Build what turns feature maps into vectors.

    Parameters
    ----------
    pooling : {"statistics", "avg"}
        Statistics of each cell of a grid, or averages.
    cardinality : {"active", "count"} or None
        Size of a set, for ``"statistics"``.
    grid : int
        Rows and columns of cells; no more than the map has positions.
    shape : tuple (channels, h, w) or (width,)
        Of a map. A vector is a set of one: it is not pooled.

    Returns
    -------
    pool : Module
        (b, *shape) -> (b, width).
    width : int
    """
    channels, *size = shape
    if not size:
        return nn.Identity(), channels
    grid = min(grid, *size)  # more cells than positions would repeat them
    if pooling == "avg":
        layers = nn.AdaptiveAvgPool2d(grid), nn.Flatten()
        return nn.Sequential(*layers), channels * grid**2
    pool = GridStatistics(grid, cardinality)
    return pool, pool.columns(channels)
