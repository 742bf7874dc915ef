"""The images of one cluster on a sheet, and the text beside them."""

from __future__ import annotations

import numpy as np

from ._chosen import caption
from ._style import inks
from ._tiles import draw_tile


def draw_row(display, ax, row, per_line, lines, tall, below, cmap):
    """Draw the images of one cluster, in lines, and what is said of it."""
    ink = inks(display.figure_)
    for position, image in enumerate(display.images[row]):
        line, left = divmod(position, per_line)
        bottom = (lines - 1 - line) * (tall + below) + below
        draw_tile(ax, image, left, bottom, tall, cmap, display.value_range)
        if display.names is not None:
            ax.text(
                left + 0.5,
                bottom - 0.04,
                caption(display.names[row][position]),
                size=5,
                color=ink.quiet,
                ha="center",
                va="top",
                parse_math=False,
            )
    field = {"xlim": (0, per_line), "ylim": (0, lines * (tall + below))}
    ax.set(**field, aspect="equal", anchor="W")
    ax.set_axis_off()
    size, confidence = display.sizes[row], display.confidences[row]
    images = "image" if size == 1 else "images"
    share = f"{size:,} {images} · {size / display.n_samples:.1%}"
    texts = [(share, {"color": ink.quiet, "size": 8})]
    if size == 0:
        texts.append(("empty", {"color": ink.quiet, "size": 8}))
    elif not np.isnan(confidence):
        certainty = f"confidence {confidence:.2f}"
        texts.append((certainty, {"color": ink.quiet, "size": 8}))
    heading = _heading(display.clusters[row])
    texts.insert(0, (heading, {"color": ink.strong, "weight": "bold", "size": 9}))
    # offsets in points, so that the lines keep apart at any height of a row
    for (text, style), offset in zip(texts, (11, 0, -11), strict=False):
        ax.annotate(
            text,
            (0, 0.5),
            xycoords="axes fraction",
            xytext=(-8, offset),
            textcoords="offset points",
            ha="right",
            va="center",
            parse_math=False,
            **style,
        )


def _heading(cluster):
    if isinstance(cluster, str):
        return "rejected" if cluster == "-1" else caption(cluster)
    return "rejected" if cluster == -1 else f"Cluster {cluster}"
