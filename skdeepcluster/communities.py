"""Clusters of any shape and size: communities in the graph of nearest neighbours."""

from __future__ import annotations

from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ._engine.protocol import Stateful
from ._input.layouts import is_vector
from .distances import TINY
from .kmeans import (
    MAX_ENTRIES,
    cluster_sums,
    nearest_centers,
    some_of,
    spherical_kmeans,
)
from .neighbors import links_between, nearest_neighbors

PARTS = 10  # of each cluster that is asked for, on average
SMALLEST = 10  # rows of a part, on average
LEAST = 5  # rows of the graph in a cluster: fewer are outliers, not a class
N_NEIGHBORS = 15
MAX_ROWS = 5_000  # in the graph, or 20 a cluster: the time grows with the square
SHARE = 0.7  # of the rows of the graph: those that a run finds its parts in
LINKAGES = ("modularity", "normalized")  # the first one, unless it cuts large clusters
# It then cuts more of the links than the other: in the record of linkages.py by .008 at
# most on balanced classes, and by .025 or more on all long tails of MNIST and half of
# those of Fashion-MNIST, whose classes overlap.
CUT_MORE = 0.017
DECIDING_RUNS = 20  # that the share of the links is the mean of, at least
BELOW_COSINES = -2.0


class Communities(NamedTuple):
    """Clusters of rows, each of several parts.

    Attributes
    ----------
    parts : tensor of shape (n_parts, d)
        Unit centres of the parts.
    owners : int64 tensor of shape (n_parts,)
        Cluster of each part.
    labels : int64 tensor of shape (n,)
        Cluster of the part whose centre is nearest.
    centers : tensor of shape (n_clusters, d)
        Unit means of the clusters. Rows of a cluster need not be nearest to its own.
    linkage : str
        What the parts were merged by, as :func:`merge` takes it.
    """

    parts: Tensor
    owners: Tensor
    labels: Tensor
    centers: Tensor
    linkage: str


class Parts(Stateful):
    """What assigns rows to clusters of several parts.

    Attributes
    ----------
    taken : bool
        Whether there are clusters yet.
    linkage : str or None
        What parts are merged by; None until that is decided.

    Parameters
    ----------
    n_clusters : int
    n_parts : int
        With as many parts as clusters, each cluster is its part.
    dim : int
        Width of the rows.
    """

    saved = ["taken", "decided", "unequal"]

    def __init__(self, n_clusters: int, n_parts: int, dim: int):
        super().__init__()
        self.n_clusters = n_clusters
        self.taken = self.decided = self.unequal = False
        self.register_buffer("centers", torch.zeros(n_parts, dim))
        self.register_buffer("owners", torch.arange(n_parts) % n_clusters)

    @property
    def linkage(self) -> str | None:
        return LINKAGES[self.unequal] if self.decided else None

    def decide(self, found: Communities) -> None:
        """From now on, parts are merged by what these were merged by."""
        self.decided, self.unequal = True, found.linkage == LINKAGES[1]

    def take(self, found: Communities) -> None:
        """Assign rows to these clusters."""
        self.centers, self.owners, self.taken = found.parts, found.owners, True

    def similarity(self, features: Tensor) -> Tensor:
        """Cosine of unit rows (b, d) to the nearest part of each cluster, (b, K)."""
        return similarity_to_nearest(
            features, self.centers, self.owners, self.n_clusters
        )


def similarity_to_nearest(
    features: Tensor, parts: Tensor, owners: Tensor, n_clusters: int
) -> Tensor:
    """Cosine of unit rows to the nearest part of each cluster.

    Parameters
    ----------
    features : tensor of shape (b, d)
        Unit rows, as many as there are images: one block at a time is compared.
    parts : tensor of shape (n_parts, d)
        Unit rows.
    owners : int64 tensor of shape (n_parts,)
        Cluster of each part.
    n_clusters : int

    Returns
    -------
    similarity : tensor of shape (b, n_clusters)
        As :func:`nearest_of_each` gives it.
    """
    blocks = features.split(max(1, MAX_ENTRIES // len(parts)))
    found = [nearest_of_each(rows @ parts.T, owners, n_clusters) for rows in blocks]
    return torch.cat(found)


def nearest_of_each(similarity: Tensor, owners: Tensor, n_clusters: int) -> Tensor:
    """Largest similarity to a part of each cluster.

    Parameters
    ----------
    similarity : tensor of shape (b, n_parts)
        Cosines.
    owners : int64 tensor of shape (n_parts,)
        Cluster of each part.
    n_clusters : int

    Returns
    -------
    nearest : tensor of shape (b, n_clusters)
        -2 of a cluster without parts, which is nearest to nothing.
    """
    nearest = similarity.new_full((len(similarity), n_clusters), BELOW_COSINES)
    owners = owners.expand_as(similarity)
    return nearest.scatter_reduce(1, owners, similarity, "amax", include_self=False)


def resolve_init(init: str, image_shape: tuple[int, int, int]) -> str:
    """Replace ``"auto"``: ``"graph"`` for images, ``"kmeans"`` for vectors.

    Parameters
    ----------
    init : str
    image_shape : tuple (C, H, W)

    Returns
    -------
    init : str
    """
    if init != "auto":
        return init
    return "kmeans" if is_vector(image_shape) else "graph"


def count_parts(n_samples: int, n_clusters: int, init: str = "graph") -> int:
    """Parts that so many rows are clustered by.

    Parameters
    ----------
    n_samples : int
    n_clusters : int
    init : str
        With any but ``"graph"``, each cluster is one part.

    Returns
    -------
    n_parts : int
        Ten a cluster, or fewer, of at least ten rows each on average. If that is less
        than two a cluster, each cluster is one part.
    """
    n_parts = min(PARTS * n_clusters, count_rows(n_samples, n_clusters) // SMALLEST)
    return n_parts if init == "graph" and n_parts >= 2 * n_clusters else n_clusters


def count_rows(n_samples: int, n_clusters: int) -> int:
    """Rows that are drawn for the graph: 5 000, 20 for each cluster, or all."""
    return min(n_samples, max(MAX_ROWS, 2 * SMALLEST * n_clusters))


def neighbor_communities(
    features: Tensor,
    n_clusters: int,
    *,
    linkage: str | None = None,
    last: Parts | None = None,
    n_init: int = 10,
) -> Communities:
    """Cluster unit vectors by what is connected, not by what is near a centre.

    In each run, a spherical k-means with ten times as many centres finds parts in a
    share of the rows, and parts that neighbours join are merged. Of the runs the one
    counts that agrees best with the others, by the adjusted Rand index.

    k-means itself would cut a large or long cluster into several, and give two small
    ones a common centre: instance discrimination spreads the images evenly, so that a
    large class fills a large part of the sphere.

    Parameters
    ----------
    features : tensor of shape (n, d), float32
        Unit rows, on any device.
    n_clusters : int
        At most n.
    linkage : {"modularity", "normalized"}, optional
        What parts are merged by, as :func:`merge` takes it. With None, each run merges
        by both. With classes of very different sizes, ``"modularity"`` cuts the large
        ones: ``"normalized"`` is taken if it cuts fewer of the links between
        neighbours, by 0.017 of all on average.
    last : Parts, optional
        Earlier clusters, which count as one more run.
    n_init : int
        Runs, by torch's generator of the device; 20 at least where ``linkage`` is None.

    Returns
    -------
    found : Communities

    Raises
    ------
    TypeError
        If ``features`` is no tensor of floating-point numbers, or ``n_clusters`` or
        ``n_init`` is no integer.
    ValueError
        If ``features`` has another shape, or entries that are not finite, or if
        ``n_clusters``, ``n_init`` or ``linkage`` cannot be used.

    Notes
    -----
    Of more than 5 000 rows and twenty rows a cluster, as many are drawn for k-means and
    graph. Of less than twenty rows a cluster, k-means alone makes the clusters, of one
    part each.
    """
    _check_rows(features)
    for name, value in (("n_clusters", n_clusters), ("n_init", n_init)):
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"{name}={value!r} should be an integer.")
    if not 1 <= n_clusters <= len(features):
        raise ValueError(
            f"n_clusters={n_clusters} should be from 1 to the {len(features)} rows."
        )
    if n_init < 1:
        raise ValueError(f"n_init={n_init} should be 1 or more.")
    if linkage not in (None, *LINKAGES):
        raise ValueError(f"linkage={linkage!r} should be one of {LINKAGES}, or None.")
    n = count_rows(len(features), n_clusters)
    n_parts = count_parts(n, n_clusters)
    if n_parts == n_clusters:
        init = None if last is None else last.centers
        centers, labels = spherical_kmeans(
            features, n_clusters, init=init, n_init=n_init
        )
        owners = torch.arange(n_clusters, device=features.device)
        return Communities(centers, owners, labels, centers, linkage or LINKAGES[0])
    drawn = some_of(features, n)
    neighbors = nearest_neighbors(drawn, min(N_NEIGHBORS, n // (2 * n_clusters)))
    neighbors = neighbors.to(drawn.device)
    if linkage is None:
        n_init = max(n_init, DECIDING_RUNS)
    runs: dict[str, list] = {name: [] for name in LINKAGES if linkage in (None, name)}
    cuts = dict.fromkeys(runs, 0.0)
    for _ in range(n_init):
        parts, _ = spherical_kmeans(some_of(drawn, round(SHARE * n)), n_parts, n_init=1)
        nearest = nearest_centers(drawn, parts)
        links = links_between(nearest, neighbors, n_parts)
        sizes = nearest.bincount(minlength=n_parts)
        # of equal rows there are fewer than parts: what is empty goes with the nearest
        used = sizes.nonzero()[:, 0]
        place = nearest_centers(parts, parts[used])
        for name, found in runs.items():
            owners = merge(links[used][:, used], sizes[used], n_clusters, name)
            owners = owners.to(drawn.device)[place]
            found.append((parts, owners, owners[nearest]))
            cuts[name] += cut_share(links, owners) / n_init
    if linkage is None:
        unequal = cuts["modularity"] > cuts["normalized"] + CUT_MORE
        linkage = LINKAGES[int(unequal)]
    chosen = runs[linkage]
    if last is not None:
        before = last.owners[nearest_centers(drawn, last.centers)]
        chosen.append((last.centers, last.owners, before))
    parts, owners, _ = chosen[agreement(chosen).argmax()]
    labels = owners[nearest_centers(features, parts)]
    (sums,), _ = cluster_sums(features, labels[None], n_clusters)
    centers = F.normalize(sums, dim=1)
    return Communities(parts, owners, labels, centers, linkage)


def _check_rows(features):
    """Refuse what is no table of numbers: k-means would cluster NaN in silence."""
    if not (isinstance(features, Tensor) and features.is_floating_point()):
        tensor = isinstance(features, Tensor)
        kind = features.dtype if tensor else type(features).__name__
        raise TypeError(
            f"features should be a tensor of floating-point numbers, but is {kind}. "
            "Pass F.normalize(torch.as_tensor(features, dtype=torch.float32), dim=1)."
        )
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(
            "features should have the shape (n, d), a unit vector in each row, but has "
            f"{tuple(features.shape)}."
        )
    if not features.isfinite().all():
        raise ValueError("features has entries that are NaN or infinite.")


def cut_share(links: Tensor, owners: Tensor) -> float:
    """Share of the links that are between parts of different clusters.

    Parameters
    ----------
    links : tensor of shape (n_parts, n_parts)
        Of the parts, as :func:`links_between` counts them.
    owners : int64 tensor of shape (n_parts,)
        Cluster of each part.

    Returns
    -------
    share : float
        From 0 to 1.
    """
    cut = owners.unsqueeze(1) != owners
    return (links[cut].sum() / links.sum()).item()


def agreement(runs: list[tuple]) -> np.ndarray:
    """Mean adjusted Rand index of each run with the others.

    Parameters
    ----------
    runs : list of tuple
        The last of each is the labels of the same rows, a tensor of shape (n,).

    Returns
    -------
    agreement : ndarray of shape (n_runs,), float64
        At most 1; 0 of a single run.

    References
    ----------
    Hubert and Arabie, *Comparing Partitions*, 1985.
    """
    from scipy.sparse import coo_array

    labels = np.stack([run[-1].cpu().numpy() for run in runs])
    (n_runs, n), k = labels.shape, labels.max() + 1
    columns = (labels + k * np.arange(n_runs)[:, None]).ravel()
    rows = np.tile(np.arange(n), n_runs)
    members = coo_array((np.ones(n_runs * n), (rows, columns))).tocsr()
    # the table of each two runs at once: scikit-learn's index takes them one by one
    common = (members.T @ members).tocoo()
    block = common.row // k * n_runs + common.col // k
    squares = np.bincount(block, common.data**2, n_runs**2).reshape(n_runs, n_runs)
    pairs = (squares - n) / 2  # of rows that two runs keep together
    own = pairs.diagonal()
    chance = np.multiply.outer(own, own) / (n * (n - 1) / 2)
    most = np.add.outer(own, own) / 2
    alike = most == chance  # all in one cluster, or each in its own
    index = np.where(alike, 1.0, (pairs - chance) / np.where(alike, 1.0, most - chance))
    np.fill_diagonal(index, 0.0)
    return index.sum(1) / max(1, n_runs - 1)


def merge(links: Tensor, sizes: Tensor, n_clusters: int, linkage: str) -> Tensor:
    """Merge parts: those of less than five rows, then those that are linked best.

    Parameters
    ----------
    links : tensor of shape (n_parts, n_parts), float64
        Of the parts, as :func:`links_between` counts them.
    sizes : int64 tensor of shape (n_parts,)
        Rows of each part.
    n_clusters : int
        How many are left.
    linkage : {"modularity", "normalized"}
        What counts between two parts: what their union adds to the modularity, their
        links less those that chance would give; or their links over the root of the
        product of the links that each of them has. The first one is the larger the
        larger the parts are, the second one is not.

    Returns
    -------
    owners : int64 tensor of shape (n_parts,)
        Cluster of each part, below ``n_clusters``; on the CPU.

    References
    ----------
    Newman, *Fast algorithm for detecting community structure in networks*, 2004.
    """
    shares = (links / links.sum()).cpu().numpy()
    rows_of_parts = sizes.cpu().numpy()
    degrees = shares.sum(1)

    def linked(part=slice(None)):
        chance = np.multiply.outer(degrees[part], degrees)
        if linkage == "modularity":
            return shares[part] - chance
        return shares[part] / np.sqrt(chance.clip(TINY))

    table, owners = linked(), np.arange(len(shares))
    np.fill_diagonal(table, -np.inf)
    for _ in range(len(shares) - n_clusters):  # of fewer parts none
        rows = np.bincount(owners, rows_of_parts, len(shares))
        small = owners[rows[owners] < LEAST]
        if len(small) > 0:
            one = small[rows[small].argmin()]
            pair = one, table[one].argmax()
        else:
            pair = np.unravel_index(table.argmax(), table.shape)
        kept, joined = sorted(pair)
        shares[kept] += shares[joined]
        shares[:, kept] += shares[:, joined]
        degrees[kept] += degrees[joined]
        owners[owners == joined] = kept
        table[joined] = table[:, joined] = -np.inf
        row = np.where(np.isneginf(table[kept]), -np.inf, linked(kept))
        table[kept] = table[:, kept] = row
    return torch.from_numpy(np.unique(owners, return_inverse=True)[1])
