"""What the displays share: matplotlib when it is needed, and their colours."""

from __future__ import annotations

from typing import Any

QUIET, STRONG, LINE = "0.45", "0.1", "#2b6cb0"


def pyplot(caller: str) -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{caller} needs matplotlib, which is not installed: "
            "pip install skdeepcluster[plot]"
        ) from error
    return plt


def last_step(estimator: Any) -> Any:
    return estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
