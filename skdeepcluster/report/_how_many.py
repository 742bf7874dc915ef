"""What a search for the number of clusters has found, as a page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .._warnings import warn
from ..model_selection import NClustersSearch
from ._charts import Curve, evidence_curve

KEYS = ("n_clusters", "confidence", "reason", "candidates", "results")
# of each curve its title, and values that its edges enclose
PANELS: dict[str, tuple[str, dict[str, float]]] = {
    "silhouette": ("Silhouette: how compact, how separate?", {}),
    "stability": ("Stability: do two halves agree?", {"low": 0, "high": 1}),
    "generalization": ("Generalization: do neighbours predict?", {"low": 0, "high": 1}),
    "smallest": ("Share of the smallest cluster", {"low": 0}),
}


@dataclass
class HowMany:
    """Which number of clusters was chosen, and why.

    Attributes
    ----------
    n_clusters : int
    confidence : {"high", "medium", "low"}
    reason : str
    candidates : list of int
    results : dict of lists
        The curves, over ``n_clusters``.
    """

    n_clusters: int
    confidence: str
    reason: str
    candidates: list[int]
    results: dict[str, list[float]]

    @classmethod
    def of(cls, search: Any) -> HowMany:
        """Take what a page needs of a search.

        Parameters
        ----------
        search : NClustersSearch or mapping
            Fitted; or its attributes, by their names without the underscore.

        Returns
        -------
        found : HowMany
            Of values that JSON knows.

        Raises
        ------
        NotFittedError
            If the search is not fitted.
        TypeError
            If it is neither, or attributes are missing.
        ValueError
            If the curves are of different lengths.
        """
        if isinstance(search, Mapping):
            known = {key: search[key] for key in KEYS if key in search}
        else:
            if isinstance(search, NClustersSearch):
                check_is_fitted(search)
            names = {key: f"{key}_" for key in KEYS}
            known = {
                k: getattr(search, n) for k, n in names.items() if hasattr(search, n)
            }
        missing = [key for key in KEYS if key not in known]
        if missing:
            raise TypeError(
                f"search is of type {type(search).__name__} and has no "
                f"{', '.join(missing)}. Pass what select_n_clusters returned, or a "
                f"dict with {', '.join(KEYS)}."
            )
        results = known["results"]
        results = {name: np.asarray(results[name]).tolist() for name in results}
        n_tried = {name: len(results.get(name, ())) for name in ("n_clusters", *PANELS)}
        if len(set(n_tried.values())) > 1:
            raise ValueError(
                f"search has curves of different lengths: {n_tried}. Pass results_ of "
                "one NClustersSearch."
            )
        if known["n_clusters"] not in results["n_clusters"]:
            raise ValueError(
                f"search has n_clusters={known['n_clusters']!r}, which is none of the "
                f"numbers that were tried: {results['n_clusters']}."
            )
        return cls(**{**known, "results": results})

    def check(self, n_clusters: int) -> None:
        """Warn if labels have another number of clusters.

        Parameters
        ----------
        n_clusters : int
            That of the labels, empty ones included.
        """
        if n_clusters != self.n_clusters:
            warn(
                f"The labels are of {n_clusters} clusters, and search chose "
                f"{self.n_clusters}: what the page says of their number is not about "
                "these labels. Pass the labels_ of the search, or n_clusters if some "
                "clusters are empty."
            )

    def sentence(self) -> str:
        """Say which number was chosen, how sure that is, and why."""
        return (
            f"Number of clusters: {self.n_clusters}, chosen with {self.confidence} "
            f"confidence. {self.reason}"
        )

    def curves(self) -> list[Curve]:
        """Draw the evidence, if more than one number was tried."""
        numbers = self.results["n_clusters"]
        if len(numbers) < 2:
            return []
        chosen = self.n_clusters, self.candidates
        return [
            evidence_curve(title, numbers, self.results[name], *chosen, **edges)
            for name, (title, edges) in PANELS.items()
        ]
