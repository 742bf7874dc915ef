"""The page: what is shown where, and its text."""

from __future__ import annotations

import base64
import hashlib
import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import numpy as np

from .._version import __version__
from ..metrics import cluster_balance
from ._album import RUNGS, Album
from ._charts import curves, histogram
from ._chosen import examples
from ._findings import DISSOLVED, STABLE, findings, mean_confidence
from ._map import map_points, pictured

LIBRARIES = ("numpy", "pillow", "scikit-learn", "skorch", "torch", "torchvision")
GROUPS = 24  # of duplicates that are shown
OF_GROUP = 6  # images of each
OUTLIERS = 24
LISTED = 1000  # clusters in the list of sizes
LONG = 500  # characters of a setting
MARGIN = 0.97  # of the room, for an estimate


@dataclass
class Content:
    """All that a page shows, but for its images.

    Attributes
    ----------
    clustering : Clustering
    distance : ndarray of shape (n,) or None
        To the mean of the own cluster.
    far : ndarray of shape (n,) or None
        Least distance to the mean of any cluster, relative to its width.
    groups : list of Group
        Duplicates.
    geometry : Geometry or None
    history : list of dict
    warnings : list of str
    settings : dict
    title : str
    how_many : HowMany or None
    """

    clustering: Any
    distance: np.ndarray | None = None
    far: np.ndarray | None = None
    groups: list = field(default_factory=list)
    geometry: Any = None
    history: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    settings: dict = field(default_factory=dict)
    title: str = "Clusters"
    how_many: Any = None


def build(content, n_examples, max_bytes, random_state, verbose=0) -> bytes:
    """Write the page, with images of a size that it has room for.

    Parameters
    ----------
    content : Content
    n_examples : int
        Images of a row.
    max_bytes : int
        Most bytes of the page.
    random_state : int
        Of the images that are drawn.
    verbose : int
        Whether to show progress.

    Returns
    -------
    page : bytes

    Raises
    ------
    ValueError
        If even the smallest images have no room.
    """
    pictures = content.clustering.pictures
    points = map_points(
        content.clustering, content.geometry, np.random.RandomState(random_state)
    )
    for share, side in RUNGS:
        rng = np.random.RandomState(random_state)
        shown = Shown(content, points, max(1, round(share * n_examples)), share, rng)
        album = Album(pictures)
        room = max_bytes - len(_render(content, shown, album))
        if album.estimate(shown.rows, side, rng) > MARGIN * room:
            continue
        album.fill(shown.rows, side, verbose)
        page = _render(content, shown, album)
        if len(page) <= max_bytes:
            return page
    raise ValueError(
        f"max_bytes={max_bytes} is too little for a page of "
        f"{len(content.clustering)} images in {len(content.clustering.clusters)} "
        "clusters. Pass more; 15_000_000 is the default."
    )


class Shown:
    """The images that a page shows, by where.

    Parameters
    ----------
    content : Content
    points : dict or None
        Of the map.
    n_examples : int
    share : float
        Of the points that show their image.
    rng : RandomState

    Attributes
    ----------
    examples : dict of lists of Row
    outliers : ndarray of int64
    groups : list of tuple (Group, ndarray of int64)
    points : dict or None
    on_map : ndarray of int64
        Indices of the points that show their image.
    rows : dict of bool
        Of all images on the page, whether the map alone shows it.
    """

    def __init__(self, content, points, n_examples, share, rng):
        clustering = content.clustering
        self.examples = examples(clustering, content.distance, n_examples, rng)
        self.groups = [
            (group, group.rows[: 1 if group.identical else OF_GROUP])
            for group in content.groups[:GROUPS]
        ]
        self.outliers = np.empty(0, np.int64)
        if content.far is not None:
            known = np.flatnonzero(np.isfinite(content.far))
            order = known[np.argsort(-content.far[known], kind="stable")]
            self.outliers = order[:OUTLIERS]
        self.points = points
        self.on_map = np.empty(0, np.int64)
        if points is not None:
            self.on_map = pictured(points, share, rng)
            self.rows = dict.fromkeys(points["row"][self.on_map].tolist(), True)
        else:
            self.rows = {}
        parts = [row.rows for rows in self.examples.values() for row in rows]
        parts += [self.outliers, *(rows for _, rows in self.groups)]
        self.rows |= dict.fromkeys(np.concatenate(parts).tolist(), False)


def _render(content, shown, album) -> bytes:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("skdeepcluster.report", "page")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    parts = {name: _own(f"report.{ending}") for name, ending in OWN.items()}
    text = environment.get_template("report.html").render(
        title=content.title,
        **{name: Markup(part) for name, part in parts.items()},
        **{f"{name}_hash": _hash(part) for name, part in parts.items()},
        **_context(content, shown, album),
    )
    return text.encode("utf-8")


OWN = {"style": "css", "script": "js"}


def _own(name):
    return files(__package__).joinpath("page", name).read_text("utf-8")


def _hash(text):
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _context(content, shown, album):
    clustering, n = content.clustering, len(content.clustering)
    sizes = {k: len(clustering.members[k]) for k in clustering.clusters}
    listed = [*list(sizes)[:LISTED], *([-1] if -1 in clustering.members else [])]
    sizes[-1] = len(clustering.members.get(-1, ()))
    largest = max(sizes.values())
    how_many = content.how_many
    said = findings(clustering, content.groups, album.unreadable, how_many)
    points = _points(content, shown, album)
    of_all = clustering.confidence is not None
    n_shown = len(shown.examples.keys() - {-1})
    context = {
        "facts": _facts(content),
        "warnings": [*content.warnings, *said],
        "how_many": how_many,
        "evidence": how_many and how_many.curves(),
        "nothing": "no cluster is empty, and none holds more than half of the images",
        "overview": [
            {
                "cluster": k,
                "name": _name(k),
                "shown": k in shown.examples,
                "size": f"{sizes[k]:,}",
                "share": f"{sizes[k] / n:.1%}",
                "width": 100 * sizes[k] / largest,
            }
            for k in listed
        ],
        "not_listed": _count(len(clustering.clusters) - LISTED),
        "confidences": of_all and histogram(_known(clustering, clustering.labels >= 0)),
        "map": points,
        "map_text": points and _map_text(n, points, content),
        "keys": sorted(set(points["c"]), key=lambda k: (k < 0, k)) if points else [],
        "sections": [
            _section(clustering, k, rows, points, album)
            for k, rows in shown.examples.items()
        ],
        "n_shown": n_shown,
        "not_shown": _count(len(clustering.clusters) - n_shown),
        "agreement_text": _agreement_text(clustering),
        "groups": [_group(clustering, g, rows, album) for g, rows in shown.groups],
        "duplicates_text": _duplicates_text(content),
        "outliers": _figures(clustering, shown.outliers, album, content.far),
        "curves": curves(content.history),
        "settings": list(_flat(content.settings)),
        "versions": _versions(),
    }
    anchors = [
        ("how-many", "How many clusters", how_many),
        ("sizes", "Sizes", True),
        ("map", "Map", context["map"]),
        ("clusters", "Clusters", True),
        ("duplicates", "Copies and near-duplicates", True),
        ("outliers", "Far from every cluster", context["outliers"]),
        ("training", "Training", context["curves"]),
        ("settings", "Settings", True),
    ]
    return context | {"contents": [(a, name) for a, name, there in anchors if there]}


def _count(n):
    return f"{n:,}" if n > 0 else ""


def _name(cluster):
    return "No cluster" if cluster < 0 else f"Cluster {cluster}"


def _facts(content):
    clustering = content.clustering
    found = clustering.labels[clustering.labels >= 0]
    facts = [
        ("Images", f"{len(clustering):,}"),
        ("Clusters", f"{clustering.n_clusters:,}"),
    ]
    if len(found):
        balance = cluster_balance(found, clustering.n_clusters)
        facts.append(("Balance of the sizes, 0 to 1", f"{balance:.2f}"))
    mean = mean_confidence(clustering)
    if mean is not None:
        facts.append(("Mean confidence", f"{mean:.2f}"))
    if clustering.agreement is not None and len(found):
        settled = np.mean(clustering.agreement[clustering.labels >= 0] == 1)
        facts.append(("In one cluster in all runs", f"{settled:.1%}"))
    if len(found) < len(clustering):
        facts.append(("In no cluster", f"{len(clustering) - len(found):,}"))
    return facts


def _known(clustering, rows):
    confidence = clustering.confidence[rows]
    return confidence[np.isfinite(confidence)]


def _section(clustering, cluster, rows, points, album):
    members = clustering.members[cluster]
    text = "1 image" if len(members) == 1 else f"{len(members):,} images"
    text += f", {len(members) / len(clustering):.1%}"
    mean = mean_confidence(clustering, members)
    if mean is not None:
        text += f", mean confidence {mean:.2f}"
    if clustering.cluster_agreement is not None and cluster >= 0:
        agreement = clustering.cluster_agreement[cluster]
        text += f", agreement of the runs {agreement:.2f}"
    return {
        "cluster": cluster,
        "name": _name(cluster),
        "text": text,
        "on_map": bool(points) and cluster in points["c"],
        "counts": mean is not None and histogram(_known(clustering, members)),
        "rows": [
            {"title": row.title, "figures": _figures(clustering, row.rows, album)}
            for row in rows
        ],
    }


def _agreement_text(clustering):
    if clustering.cluster_agreement is None:
        return ""
    return (
        "The agreement of the runs says how much of a cluster is found again with "
        f"other seeds, from 0 to 1. Below {DISSOLVED} a cluster is an accident of the "
        f"seed; above {STABLE} it is stable."
    )


def _figures(clustering, rows, album, far=None):
    return [
        {
            "row": row,
            "src": None if row in album.unreadable else album.sources.get(row, ""),
            "plain": row in album.plain,
            "alt": _caption(clustering, row, far),
        }
        for row in np.asarray(rows).tolist()
    ]


def _caption(clustering, row, far=None):
    label = int(clustering.labels[row])
    parts = [clustering.name(row), _name(label).lower()]
    if clustering.confidence is not None and label >= 0:
        parts.append(f"confidence {clustering.confidence[row]:.2f}")
    if clustering.agreement is not None and label >= 0:
        parts.append(f"agreement {clustering.agreement[row]:.2f}")
    if far is not None:
        parts.append(f"distance {far[row]:.1f}")
    return ", ".join(parts)


def _points(content, shown, album):
    """Return what the script of the map reads."""
    if shown.points is None:
        return None
    clustering, points = content.clustering, shown.points
    elsewhere = {row for row, on_map in shown.rows.items() if not on_map}
    pictures = []
    for i in shown.on_map.tolist():
        row = int(points["row"][i])
        if row not in album.unreadable:
            own = None if row in elsewhere else album.sources.get(row, "")
            pictures.append([i, row, _caption(clustering, row), own])
    plain = all(row in album.plain for _, row, *_ in pictures)
    return {k: points[k] for k in "xyc"} | {"pictures": pictures, "plain": plain}


def _map_text(n, points, content):
    shown, with_picture = len(points["x"]), len(points["pictures"])
    every = "Each image is a point"
    if shown < n:
        every = f"{shown:,} of the {n:,} images, drawn at random, are points"
    how = "" if content.clustering.positions is not None else ", placed by t-SNE"
    which = (
        "a point shows its image"
        if with_picture == shown
        else f"{with_picture:,} of them show their image"
    )
    return (
        f"{every}{how}; on hover or tap {which}. A number stands in the middle of its "
        "cluster. Near points are alike; distances between far ones mean little."
    )


def _group(clustering, group, rows, album):
    n = len(group.rows)
    names = [clustering.name(row) for row in group.rows[:OF_GROUP]]
    more = [f"and {n - OF_GROUP:,} more"] if n > OF_GROUP else []
    return {
        "title": f"{n:,} {'identical' if group.identical else 'nearly the same'}",
        "figures": _figures(clustering, rows, album),
        "names": names + more,
    }


def _duplicates_text(content):
    pixels = (
        ""
        if content.geometry is None
        else " Near-duplicates were looked for among neighbours in the embedding, and "
        "their pixels compared, so that some may have been missed."
    )
    same = "Identical are files, or arrays, that agree byte by byte."
    if not content.groups:
        return f"None were found. {same}{pixels}"
    more = len(content.groups) - GROUPS
    first = (
        f" The {GROUPS} largest groups are shown, {more:,} more are not."
        if more > 0
        else ""
    )
    return f"{same}{pixels}{first}"


def _flat(settings, before=""):
    for key, value in settings.items():
        name = f"{before}{key}"
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else repr(value)
            yield name, text if len(text) <= LONG else f"{text[:LONG]}…"


def _versions():
    found = {"skdeepcluster": __version__, "Python": platform.python_version()}
    return found | {name: version(name) for name in LIBRARIES}
