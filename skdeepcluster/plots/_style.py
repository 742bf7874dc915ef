"""What the displays share: matplotlib when it is needed, and their colours."""

from __future__ import annotations

from typing import Any, NamedTuple

LINE = "#2b6cb0"
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
# one shape for each, so that colour is never all that tells labels apart
MARKERS = ("o", "s", "^", "D", "P", "<", "*", "d", "v", ">")


class Inks(NamedTuple):
    """Colours that can be seen on a figure, light or dark.

    Attributes
    ----------
    quiet, strong : str
        Of text.
    pale, faint : str
        Of axes, and of lines behind the data.
    paper : tuple of 3 float
        What is behind.
    """

    quiet: str
    strong: str
    pale: str
    faint: str
    paper: tuple[float, float, float]


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


def inks(figure: Any) -> Inks:
    """Colours that can be seen on a figure."""
    paper = background(figure)
    shades = ("0.65", "0.95", "0.45", "0.25")
    if not is_dark(paper):
        shades = ("0.45", "0.1", "0.7", "0.92")
    return Inks(*shades, paper)


def draw_axes(ax: Any, ink: Inks) -> None:
    """Draw the axes of a curve: two spines, and lines across at the ticks."""
    ax.set_facecolor("none")  # the colours are those for the figure
    ax.tick_params(labelsize=8, color=ink.pale, labelcolor=ink.quiet)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(ink.pale)
    ax.grid(axis="y", color=ink.faint)
    ax.set_axisbelow(True)
