"""Numbers of a report as paths of SVG, in boxes of fixed size."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..plots._history import epochs_of, number_of, shown_names, sizes_of

WIDE, HIGH = 300, 90  # units of a curve's box
BINS = 10
POINTS = 300  # of a curve: more than a box has pixels would only cost bytes


@dataclass
class Curve:
    """A panel with a curve, or several.

    Attributes
    ----------
    name : str
    low, high : str
        The values at the lower and upper edge.
    first, last : str
        What is at its sides: epochs, or numbers of clusters.
    end : str
        The last value, or values; or those of what was chosen.
    axis : str
        What is from side to side.
    lines : list of tuple (label, style, path)
    """

    name: str
    low: str
    high: str
    first: str
    last: str
    end: str
    axis: str
    lines: list = field(default_factory=list)


def curves(history) -> list[Curve]:
    """Turn a history into panels: losses, cluster sizes, learning rates.

    Parameters
    ----------
    history : list of dict

    Returns
    -------
    curves : list of Curve
        Empty if nothing can be shown.
    """
    epochs = epochs_of(history) if history else []
    return [_curve(name, history, epochs) for name in shown_names(history)]


def _curve(name, history, epochs):
    if name == "cluster_sizes":
        sizes = [sizes_of(row) for row in history]
        parts = [
            ("largest", "dotted", [np.nan if s is None else s.max() for s in sizes]),
            ("median", "", [np.nan if s is None else np.median(s) for s in sizes]),
            ("smallest", "dashed", [np.nan if s is None else s.min() for s in sizes]),
        ]
        title = "cluster sizes"
    else:
        parts = [("", "", [number_of(row.get(name)) for row in history])]
        title = name
    values = np.array([part[2] for part in parts], float)
    values[~np.isfinite(values)] = np.nan
    low = 0.0 if name == "cluster_sizes" else float(np.nanmin(values))
    high = float(np.nanmax(values))
    lines = [
        (label, style, _path(epochs, one, low, high))
        for (label, style, _), one in zip(parts, values, strict=True)
    ]
    ends = [one[np.isfinite(one)][-1] for one in values]
    named = zip([part[0] for part in parts], ends, strict=True)
    end = ", ".join(f"{label} {value:,.4g}".strip() for label, value in named)
    return _panel(title, epochs, low, high, end, "epoch", lines)


def evidence_curve(
    name, numbers, values, chosen, candidates, low=np.inf, high=-np.inf
) -> Curve:
    """Turn values for several numbers of clusters into a panel.

    Parameters
    ----------
    name : str
    numbers : list of int
    values : list of float
    chosen : int
        The number at which there is a dashed line.
    candidates : list of int
        Numbers at which there are dots.
    low, high : float, default=inf, -inf
        Values that the edges enclose as well.

    Returns
    -------
    curve : Curve
    """
    values = np.asarray(values, float)
    low = float(values.min(initial=low))
    high = float(values.max(initial=high))
    dots = [
        _path(numbers, np.where(np.equal(numbers, one), values, np.nan), low, high)
        for one in candidates
    ]
    at = WIDE * (chosen - numbers[0]) / (numbers[-1] - numbers[0])
    lines = [
        ("chosen", "chosen", f"M{at:.1f} 0V{HIGH}"),
        ("", "", _path(numbers, values, low, high)),
        ("candidates", "dots", "".join(dots)),
    ]
    end = f"{values[numbers.index(chosen)]:.2f} for {chosen} clusters"
    return _panel(name, numbers, low, high, end, "number of clusters", lines)


def _panel(name, across, low, high, end, axis, lines):
    sides = f"{across[0]:g}", f"{across[-1]:g}"
    return Curve(name, f"{low:,.3g}", f"{high:,.3g}", *sides, end, axis, lines)


def _path(x, y, low, high):
    step = max(1, len(x) // POINTS)
    x, y = np.asarray(x, float)[::-step][::-1], y[::-step][::-1]
    span = (x[-1] - x[0]) or 1.0
    path, pen = [], "M"
    for across, up in zip(x, y, strict=True):
        if np.isnan(up):  # a gap
            pen = "M"
            continue
        at = WIDE * (across - x[0]) / span
        down = HIGH * (1 - (up - low) / ((high - low) or 1.0))
        # a point of its own is a line of no length, whose round ends are seen
        path.append(f"{pen}{at:.1f} {down:.1f}" + ("h0" if pen == "M" else ""))
        pen = "L"
    return "".join(path)


def histogram(confidence) -> list[int]:
    """Count confidences in ten equal parts of [0, 1].

    Parameters
    ----------
    confidence : ndarray of shape (m,)
        NaN counts nowhere.

    Returns
    -------
    counts : list of int
    """
    return np.histogram(confidence, BINS, (0, 1))[0].tolist()
