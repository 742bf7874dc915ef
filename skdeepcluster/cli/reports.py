"""The report of a run, from what its folder holds."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .tables import Table


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
    if run["search"] is not None:
        settings["n_clusters"] = f"{run['n_clusters']}. {run['search']['reason']}"
    write_report(
        path,
        table.paths,
        table.clusters,
        n_clusters=run["n_clusters"],
        confidence=table.confidences,
        embedding=embedding,
        positions=table.positions,
        history=history,
        warnings=run["warnings"],
        settings=settings,
        title=run["title"],
    )
