"""The report of a run, from what its folder holds."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np

from .tables import Table

# a path in quotes, and its last part
ELSEWHERE = re.compile(r"(?<!\w)(['\"])/(?:(?!\1).)*?([^/'\"\n]+)\1")


def write_run_report(
    path: str | os.PathLike[str],
    table: Table,
    embedding: np.ndarray,
    history: list[dict[str, Any]],
    run: dict[str, Any],
) -> None:
    """Write the page that shows a clustering.

    Parameters
    ----------
    path : str or PathLike
    table : Table
    embedding : ndarray of shape (n, d), float32
    history : list of dict
        Of the estimator.
    run : dict
        What ``run.json`` holds.
    """
    from ..report import write_report

    settings = {**run["settings"], **run["versions"]}
    write_report(
        path,
        table.paths,
        table.clusters,
        n_clusters=run["n_clusters"],
        confidence=table.confidences,
        embedding=embedding,
        positions=table.positions,
        search=run["search"],
        history=history,
        warnings=_sentences(run),
        settings=settings,
        title=run["title"],
    )


def _sentences(run: dict[str, Any]) -> list[str]:
    """Say what comes first on a page that may be sent: no name of a folder above."""
    said = []
    above = [os.path.join(os.path.dirname(folder), "") for folder in run["folders"]]
    for text in run["warnings"]:
        for folder, prefix in zip(run["folders"], above, strict=True):
            text = text.replace(os.path.join(folder, ""), "")
            if prefix != os.path.join(os.sep, ""):
                text = text.replace(prefix, "")
        text = ELSEWHERE.sub(r"\1\2\1", text)
        said.append(" ".join(text.split()))
    return said
