"""What the displays share: matplotlib when it is needed, and their colours."""

from __future__ import annotations

from typing import Any

QUIET, STRONG, LINE = "0.45", "0.1", "#2b6cb0"
# ten colours that people with any colour vision tell apart: M. A. Petroff, "Accessible
# color sequences for data visualization", 2021
PALETTE = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)


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


def background(figure: Any) -> tuple[float, float, float]:
    """Colour behind a figure, or behind the one that a transparent one is part of."""
    from matplotlib.colors import to_rgba

    red, green, blue, alpha = to_rgba(figure.get_facecolor())
    parent = getattr(figure, "figure", figure)
    if alpha == 0:
        return background(parent) if parent is not figure else (1.0, 1.0, 1.0)
    return red, green, blue


def is_dark(rgb: Any) -> bool:
    """Whether white is easier to read on a colour than black."""
    red, green, blue = rgb[:3]
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.5


def inks(figure: Any) -> tuple[str, str]:
    """Colours of quiet and of strong text that can be read on a figure."""
    return ("0.65", "0.95") if is_dark(background(figure)) else (QUIET, STRONG)
