"""Names of the folders, and of the files in them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

REJECTED = "rejected"
JOURNAL = "sorting.jsonl"
MAX_BYTES = 255  # of a name, on most file systems
FORBIDDEN = set('<>:"/\\|?*')  # by Windows, and by what it writes
CONTROL = ("Cc", "Cs")  # control characters, and bytes that are no text
DEVICES = {"con", "prn", "aux", "nul"} | {
    f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10)
}


def folded(name: str) -> str:
    """Return a key that names share if some file system takes them for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def folder_names(
    labels: np.ndarray, names: Mapping[int, str] | Sequence[str] | None
) -> dict[int, str]:
    """Name a folder for each cluster that there is.

    Parameters
    ----------
    labels : ndarray of shape (n,), int64
    names : mapping from clusters, or sequence with an entry for each cluster from 0

    Returns
    -------
    folders : dict
        From cluster to name.

    Raises
    ------
    TypeError, ValueError
        If names are no names of folders, or not one for each cluster.
    """
    clusters = np.unique(labels).tolist()
    width = max(2, len(str(clusters[-1])))  # so that they list in order
    given: dict = {}
    unknown: list = []
    if isinstance(names, Mapping):
        given = dict(names)
        unknown = [k for k in given if k not in (*clusters, -1)]
    elif isinstance(names, str):
        raise TypeError(f"names={names!r} is one name; one for each cluster is needed.")
    elif names is not None:
        given = dict(enumerate(names))
        if clusters[-1] >= len(given):
            raise ValueError(
                f"names has {len(given)} entries, but there is a cluster "
                f"{clusters[-1]}. Pass a name for each cluster from 0 on, or a dict "
                "for some of them."
            )
    for cluster, name in given.items():
        _check_name(cluster, name)
    if unknown:
        raise ValueError(
            f"names has a name for the cluster {unknown[0]!r}, which no label has. "
            f"The clusters are {clusters[0]} to {clusters[-1]}."
        )
    folders = {}
    owners: dict[str, int] = {}
    for cluster in clusters:
        default = REJECTED if cluster == -1 else f"{cluster:0{width}}"
        folders[cluster] = str(given.get(cluster, default))
        other = owners.setdefault(folded(folders[cluster]), cluster)
        if other != cluster:
            raise ValueError(
                f"Clusters {other} and {cluster} would both be sorted into the folder "
                f"{folders[other]!r} (on some systems, capitals do not count). Pass "
                "names that differ."
            )
    return folders


def _check_name(cluster: object, name: object) -> None:
    said = f"names[{cluster!r}]={name!r}"
    if isinstance(cluster, bool) or not isinstance(cluster, int | np.integer):
        raise TypeError(f"{said}: each key should be the number of a cluster.")
    if not isinstance(name, str):
        raise TypeError(f"{said} should be a str.")
    bad = sorted(
        c for c in set(name) if c in FORBIDDEN or unicodedata.category(c) in CONTROL
    )
    if not name or name != name.strip() or name[0] == "." or name[-1] == ".":
        reason = "is empty, or begins or ends with a dot or a space"
    elif bad:
        reason = f"holds {', '.join(map(repr, bad))}"
    elif name.partition(".")[0].strip().lower() in DEVICES:
        reason = "is the name of a device on Windows"
    elif folded(name) == JOURNAL:
        reason = "is the name of the journal"
    elif len(os.fsencode(name)) > MAX_BYTES:
        reason = f"is longer than {MAX_BYTES} bytes"
    else:
        return
    raise ValueError(
        f"{said} cannot be the name of a folder on every system: it {reason}. Pass "
        "another."
    )


class Names:
    """Names of the files in one folder, none of which is given away twice.

    Parameters
    ----------
    there : iterable of str
        Those that there are.
    """

    def __init__(self, there: Iterable[str]):
        self.taken = {folded(name) for name in there}
        self.numbers: dict[str, int] = {}

    def take(self, name: str) -> bool:
        """Take a name as it is, if it is free."""
        key = folded(name)
        if key in self.taken:
            return False
        self.taken.add(key)
        return True

    def take_like(self, name: str) -> str:
        """Take ``name``, or else the first of ``stem (2).jpg``, ``stem (3).jpg``..."""
        if self.take(name):
            return name
        stem, ending = os.path.splitext(name)
        number = self.numbers.get(folded(name), 1)
        while True:
            number += 1
            end = f" ({number}){ending}"
            short = stem
            while short and len(os.fsencode(short + end)) > MAX_BYTES:
                short = short[:-1]
            if self.take(short + end):
                self.numbers[folded(name)] = number
                return short + end
